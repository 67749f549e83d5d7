"""What is looked at while a run goes on: a loss on fixed clips with fixed noise, and videos of fixed prompts.

The training loss jumps with each step's timesteps; this one does not, and it is told for parts of the schedule apart.
"""

from __future__ import annotations

import logging
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from animatediff.training.data import ClipDataset, collate, open_dataset
from animatediff.training.draws import generator_for
from animatediff.training.state import is_divided

if TYPE_CHECKING:
    from animatediff.training.data import Batch
    from animatediff.training.loop import Trainer

logger = logging.getLogger(__name__)


class Validation:
    """The looks of one run; they see the averaged weights where there are any."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer
        self.config = trainer.config.validation
        self._clips: list[tuple[Tensor, Batch]] | None = None
        self._divided = divided = is_divided(trainer.accelerator)
        # With FSDP every forward pass is made by all processes together; otherwise they share the work.
        self._rank = 0 if divided else trainer.accelerator.process_index
        self._num_shares = 1 if divided else trainer.accelerator.num_processes

    def due(self, step: int) -> bool:
        """Whether to look after this step."""
        config = self.trainer.config
        return bool(config.validate_every and step % config.validate_every == 0) or step in config.validate_at

    def run(self) -> None:
        """Measure, render, and tell."""
        trainer = self.trainer
        average = trainer.average
        with average.applied() if average is not None else nullcontext(), torch.no_grad():
            if self.config.num_items:
                trainer.tell({"step": trainer.step, **self.losses()})
            if self._divided and self.config.prompts:
                logger.warning(
                    "validation videos are not rendered while FSDP divides the model; animate the saved weights"
                )
            else:
                with trainer.accelerator.autocast():
                    self.render()
        trainer.accelerator.wait_for_everyone()

    # -- loss --------------------------------------------------------------------------------------------------------

    def losses(self) -> dict[str, float]:
        """`validation_loss`, and one figure for each part of the schedule, named by its middle timestep."""
        trainer = self.trainer
        steps = trainer.objective.num_timesteps
        middles = [int((i + 0.5) * steps / self.config.buckets) for i in range(self.config.buckets)]
        clips = self._held_out()
        sums = torch.zeros(len(middles) + 1, device=trainer.accelerator.device)
        for index in range(self._rank, len(clips), self._num_shares):
            for number, t in enumerate(middles):
                sums[number] += self._loss(clips[index], index, t)
            sums[-1] += 1
        sums = trainer.accelerator.reduce(sums, "sum")
        means = (sums[:-1] / sums[-1]).tolist()
        figures = {"validation_loss": sum(means) / len(means)}
        return figures | {f"validation_loss_{t}": mean for t, mean in zip(middles, means, strict=True)}

    def _loss(self, clip: tuple[Tensor, Batch], index: int, t: int) -> Tensor:
        trainer = self.trainer
        device = trainer.accelerator.device
        latents, batch = clip[0].to(device), clip[1]
        generator = generator_for(self.config.seed, "validation", index, t)
        noise = torch.randn(latents.shape, generator=generator).to(device)
        states, pooled = trainer.encoder.text(batch["text"])
        more = trainer.stage.held_out_inputs(batch, latents, index)
        if (added := trainer.encoder.added(pooled, trainer._size)) is not None:
            more["added"] = added
        return trainer.model(latents, noise, torch.tensor([t], device=device), states, **more)[0]

    def _held_out(self) -> list[tuple[Tensor, Batch]]:
        """Latents (1, f, c, h, w) on the CPU, and the samples that the loss is measured on; made once."""
        if self._clips is None:
            trainer, data = self.trainer, self.config.data
            dataset: Any = trainer.dataset
            if data is not None or not isinstance(dataset, ClipDataset):
                frames = trainer.config.clips().num_frames
                dataset = open_dataset((data or trainer.config.data).model_copy(update={"num_frames": frames}))
            numbered = isinstance(dataset, ClipDataset)
            clips = (dataset[i] for i in range(len(dataset))) if numbered else iter(dataset)
            batches = [collate([item]) for item in islice(clips, self.config.num_items)]
            self._clips = [(trainer.encoder.clips(batch).cpu(), batch) for batch in batches]
        return self._clips

    # -- videos ------------------------------------------------------------------------------------------------------

    def render(self) -> list[Path]:
        """One video, or picture, for each prompt of this process's share, in samples/step-.../."""
        trainer = self.trainer
        folder = trainer.folder / "samples" / f"step-{trainer.step:08d}"
        files = []
        for index in range(self._rank, len(self.config.prompts), self._num_shares):
            prompt = self.config.prompts[index]
            trainer.terminal.say(f"step {trainer.step}: rendering {prompt!r}")
            frames = self._frames(prompt, index)
            files.append(_write(folder, index, frames, self.config.fps))
        return files

    def _frames(self, prompt: str, index: int) -> Any:
        """uint8 (f, h, w, 3)."""
        trainer, config = self.trainer, self.config
        data = trainer.config.clips()
        settings: dict[str, Any] = {
            "negative_prompt": config.negative_prompt,
            "height": config.height or data.height,
            "width": config.width or data.width,
            "num_inference_steps": config.num_inference_steps,
            "guidance_scale": config.guidance_scale,
            "generator": torch.Generator().manual_seed(config.seed + index),
            "output_type": "np",
        }
        if held_out := self._held_out():
            latents, batch = held_out[index % len(held_out)]
            settings |= trainer.stage.render_inputs(batch, latents)
        if trainer.pipe.attachment is not None:
            out = trainer.pipe(prompt, num_frames=config.num_frames or data.num_frames, **settings).frames[0]
        else:
            image: Any = trainer.pipe.base
            image.scheduler = trainer.stage.picture_scheduler()
            out = image(prompt, **settings).images
        return (out * 255).round().astype("uint8")


def _write(folder: Path, index: int, frames: Any, fps: float) -> Path:
    from animatediff.media.write import write_video

    return write_video(frames, folder / f"{index}.{'mp4' if len(frames) > 1 else 'png'}", fps=fps)
