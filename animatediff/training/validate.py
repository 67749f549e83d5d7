"""Validation during a run: a loss on fixed clips with fixed noise, and videos of fixed prompts.

The training loss jumps with each step's timesteps; this one does not, and each part of the schedule has its own.
"""

from __future__ import annotations

import logging
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from animatediff.training.data import ClipDataset, collate, open_dataset
from animatediff.training.models import base_pipeline
from animatediff.training.randomness import generator_for
from animatediff.training.state import TrainState, is_sharded

if TYPE_CHECKING:
    from animatediff.training.data import Batch
    from animatediff.training.encode import Encoder
    from animatediff.training.report import Reporter

logger = logging.getLogger(__name__)


class Validation:
    """Validation of one run, with the averaged weights where there are any."""

    def __init__(
        self,
        state: TrainState,
        *,
        encoder: Encoder,
        dataset: Any,
        num_timesteps: int,
        folder: Path,
        reporter: Reporter,
    ) -> None:
        """dataset: the training data, for clips where `validation.data` names none; folder: that of the run."""
        self.state, self.encoder, self.dataset = state, encoder, dataset
        self.num_timesteps, self.folder, self.reporter = num_timesteps, folder, reporter
        self.config = state.config.validation
        self._clips: list[tuple[Tensor, Batch]] | None = None
        self._sharded = sharded = is_sharded(state.accelerator)
        # With FSDP every forward pass is made by all processes together; otherwise they share the work.
        self._rank = 0 if sharded else state.accelerator.process_index
        self._num_processes = 1 if sharded else state.accelerator.num_processes

    def is_due(self, step: int) -> bool:
        """Whether validation follows this step; 0 is before the first one.

        That one is made where videos are rendered now and then, so that there is one of the model as it was.
        """
        config = self.state.config
        if step == 0:
            return 0 in config.validate_at or bool(config.validate_every and self.config.prompts)
        return bool(config.validate_every and step % config.validate_every == 0) or step in config.validate_at

    def run(self) -> None:
        """Log the validation losses and render the videos."""
        state = self.state
        with state.ema_applied(), torch.no_grad():
            if self.config.num_items:
                self.reporter.log({"step": state.step, **self.losses()})
            if self._sharded and self.config.prompts:
                logger.warning(
                    "validation videos are not rendered while FSDP divides the model; animate the saved weights"
                )
            else:
                with state.accelerator.autocast():
                    self.render()
        state.accelerator.wait_for_everyone()

    # -- loss --------------------------------------------------------------------------------------------------------

    def losses(self) -> dict[str, float]:
        """Measure `validation_loss`, and the loss of each part of the schedule, named by its middle timestep."""
        state, buckets = self.state, self.config.buckets
        middles = [int((i + 0.5) * self.num_timesteps / buckets) for i in range(buckets)]
        clips = self._held_out()
        sums = torch.zeros(len(middles) + 1, device=state.accelerator.device)
        for index in range(self._rank, len(clips), self._num_processes):
            for number, t in enumerate(middles):
                sums[number] += self._loss(clips[index], index, t)
            sums[-1] += 1
        sums = state.accelerator.reduce(sums, "sum")
        means = (sums[:-1] / sums[-1]).tolist()
        metrics = {"validation_loss": sum(means) / len(means)}
        return metrics | {f"validation_loss_{t}": mean for t, mean in zip(middles, means, strict=True)}

    def _loss(self, clip: tuple[Tensor, Batch], index: int, t: int) -> Tensor:
        state = self.state
        device = state.accelerator.device
        latents, batch = clip[0].to(device), clip[1]
        generator = generator_for(self.config.seed, "validation", index, t)
        noise = torch.randn(latents.shape, generator=generator).to(device)
        text = self.encoder.text(batch["text"])
        inputs = state.stage.validation_inputs(batch, latents)
        return state.model(latents, noise, torch.tensor([t], device=device), *text, **inputs)[0]

    def _held_out(self) -> list[tuple[Tensor, Batch]]:
        """Latents (1, f, c, h, w) on the CPU, and the samples that the loss is measured on; made once."""
        if self._clips is None:
            config, dataset = self.state.config, self.dataset
            if self.config.data is not None or not isinstance(dataset, ClipDataset):
                frames = config.clips().num_frames
                dataset = open_dataset((self.config.data or config.data).model_copy(update={"num_frames": frames}))
            numbered = isinstance(dataset, ClipDataset)
            clips = (dataset[i] for i in range(len(dataset))) if numbered else iter(dataset)
            batches = [collate([item]) for item in islice(clips, self.config.num_items)]
            self._clips = [(self.encoder.clips(batch).cpu(), batch) for batch in batches]
        return self._clips

    # -- videos ------------------------------------------------------------------------------------------------------

    def render(self) -> list[Path]:
        """Write one video, or image, for each prompt of this process's share, in samples/step-.../."""
        step = self.state.step
        folder = self.folder / "samples" / f"step-{step:08d}"
        files = []
        for index in range(self._rank, len(self.config.prompts), self._num_processes):
            prompt = self.config.prompts[index]
            self.reporter.message(f"step {step}: rendering {prompt!r}")
            frames = self._frames(prompt, index)
            files.append(_write(folder, index, frames, self.config.fps))
        return files

    def _frames(self, prompt: str, index: int) -> Any:
        """Sample uint8 frames (f, h, w, 3)."""
        stage, config = self.state.stage, self.config
        data = self.state.config.clips()
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
            settings |= stage.render_inputs(batch, latents)
        if stage.pipe.attachment is not None:
            out = stage.pipe(prompt, num_frames=config.num_frames or data.num_frames, **settings).frames[0]
        else:
            base = base_pipeline(stage.pipe)
            base.scheduler = stage.image_scheduler()
            out = base(prompt, **settings).images
        return (out * 255).round().astype("uint8")


def _write(folder: Path, index: int, frames: Any, fps: float) -> Path:
    from animatediff.media.write import write_video

    return write_video(frames, folder / f"{index}.{'mp4' if len(frames) > 1 else 'png'}", fps=fps)
