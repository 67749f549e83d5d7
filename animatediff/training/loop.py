"""The one loop of all stages: batches through the model, gradients into an update, and now and then a save and a look.

A run is decided by its configuration alone: what chance decides hangs on the seed and on a sample's place in the run
(`draws.py`), so that it is the same divided among processes, accumulated, or stopped and resumed.
"""

from __future__ import annotations

import logging
import math
import shutil
import time
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from animatediff.errors import UserError
from animatediff.training.checkpoint import check_same, newest_checkpoint, restore_random_state, write_checkpoint
from animatediff.training.draws import Dice
from animatediff.training.ema import Average
from animatediff.training.encode import Encoder
from animatediff.training.models import load_pipeline, narrow_frozen
from animatediff.training.objective import Objective
from animatediff.training.optimise import learning_rate, make_optimiser
from animatediff.training.report import Curve, Terminal
from animatediff.training.run import (
    check_shared,
    close_accelerator,
    default_workers,
    make_accelerator,
    prepare_folder,
    write_config,
)
from animatediff.training.signals import StopRequest
from animatediff.training.stages import make_stage
from animatediff.training.state import load_before, load_optimiser, save_state
from animatediff.training.validate import Validation

if TYPE_CHECKING:
    from collections.abc import Iterator

    from animatediff.training.config import TrainConfig
    from animatediff.training.data import Batch, ClipDataset

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """How a run ended."""

    folder: Path
    weights: Path
    """What the sampler loads: a file, or for a full image model possibly a folder."""
    step: int
    steps: int
    signal: int | None = None
    """The signal that ended it before its last step."""


def train(
    config: TrainConfig, *, resume: bool | None = None, dataset: ClipDataset | None = None, quiet: bool = False
) -> TrainResult:
    """Train what the configuration says, into its folder, or go on with the run that is there.

    resume: True wants a checkpoint to be there, False removes what is there, None takes what there is. dataset: in
    place of the one that `config.data` describes. Raises UserError, before the first step, for data, weights and
    settings that cannot be trained with; later for a full disk and for a loss that is no longer a number.
    """
    accelerator = make_accelerator(config)
    try:
        with StopRequest() as stop:
            trainer = Trainer(config, accelerator, resume=resume, dataset=dataset, quiet=quiet)
            try:
                return trainer.run(stop)
            finally:
                trainer.terminal.close()
    finally:
        close_accelerator(accelerator)


class Trainer:
    """One run: everything it needs, made in `__init__`, and what it has reached."""

    def __init__(
        self, config: TrainConfig, accelerator: Any, *, resume: bool | None, dataset: ClipDataset | None, quiet: bool
    ) -> None:
        from animatediff.training.data import ClipLoader

        self.config, self.accelerator = config, accelerator
        self.folder = prepare_folder(config, accelerator, resume)
        checkpoint = newest_checkpoint(self.folder)
        if checkpoint is None and resume:
            raise UserError(f"{self.folder}: there is no checkpoint to resume from; leave --resume out to start")
        if checkpoint is not None:
            check_same(checkpoint, config, self.folder)
        self.step: int = checkpoint["step"] if checkpoint else 0
        check_shared(accelerator, self.step, self.folder)
        self.is_main: bool = accelerator.is_main_process
        if self.is_main:
            write_config(self.folder, config)
        self.seconds: float = checkpoint["seconds"] if checkpoint else 0.0

        self.dataset: Any = dataset if dataset is not None else opened(config, accelerator)
        torch.manual_seed(config.seed)
        self.pipe = load_pipeline(config)
        self.stage = make_stage(config, self.pipe)
        device = accelerator.device
        dtype = {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[accelerator.mixed_precision]
        narrow_frozen(self.pipe, self.stage.parameters.values(), dtype)
        load_before(self.stage, checkpoint)
        self.encoder = Encoder(self.pipe, device, None if self.stage.needs_frames else config.data.cache)
        self.dataset.use_cache(self.encoder.latent_cache)
        self.pipe.to(device)
        if config.gradient_checkpointing:
            self.stage.enable_gradient_checkpointing()
        if config.compile:
            self.pipe.unet.compile()

        schedule = self.pipe.sampler.base.config
        self.objective = Objective(schedule, betas=self.stage.betas, min_snr=config.min_snr)
        self._prepare(checkpoint)
        self._rate = learning_rate(config)
        self.loader = ClipLoader(
            self.dataset,
            config.batch,
            num_workers=default_workers(device) if config.workers is None else config.workers,
            rank=accelerator.process_index,
            world_size=accelerator.num_processes,
            pin_memory=device.type == "cuda",
        )
        if checkpoint is not None:
            states = checkpoint["data"]
            self.loader.load_state_dict(states[min(accelerator.process_index, len(states) - 1)])
        self.dice = Dice(
            seed=config.seed,
            group=config.batch * config.accumulation * accelerator.num_processes,
            num_timesteps=self.objective.num_timesteps,
            timestep_power=config.timestep_power,
            stratified=config.stratified,
            caption_dropout=config.caption_dropout,
            noise_offset=config.noise_offset,
        )
        self.validation = Validation(self)
        self.terminal = Terminal(config.steps, self.step, quiet=quiet or not self.is_main)
        self.curve = Curve(self.folder, self.step) if self.is_main else None
        self._saved = self.step if checkpoint else -1
        self._check_space()
        # Last of all, so that nothing above draws from the restored random states.
        if checkpoint is not None:
            restore_random_state(checkpoint["random"], accelerator.process_index)

    def _prepare(self, checkpoint: dict[str, Any] | None) -> None:
        """Wrap model and optimiser for this kind of run, and bring the optimiser where the checkpoint was."""
        module = self.stage.module(self.objective)
        places = {id(parameter): name for name, parameter in module.named_parameters()}
        names = {name: places[id(parameter)] for name, parameter in self.stage.parameters.items()}
        optimiser = make_optimiser(self.config, self.stage.parameters.values())
        self.model, self.optimiser = self.accelerator.prepare(module, optimiser)
        # FSDP puts parameters of its own in the place of those that were there.
        now = dict(self.accelerator.unwrap_model(self.model).named_parameters())
        self.stage.parameters = {name: now[place] for name, place in names.items()}
        self.trained: list[nn.Parameter] = list(self.stage.parameters.values())
        self.average = None if self.config.ema is None else Average(self.stage.parameters, self.config.ema)
        if checkpoint is not None:
            load_optimiser(self, checkpoint)

    # -- one update --------------------------------------------------------------------------------------------------

    def update(self, batches: Iterator[Batch]) -> tuple[Tensor, Tensor | None]:
        """One update of the weights from `accumulation` batches. Returns the mean loss and the norm of its gradient."""
        config = self.config
        for group in self.optimiser.param_groups:
            group["lr"] = self._rate(self.step)
        total = torch.zeros((), device=self.accelerator.device)
        for number in range(config.accumulation):
            last = number == config.accumulation - 1
            with nullcontext() if last else self.accelerator.no_sync(self.model):
                loss = self.loss(next(batches)).mean() / config.accumulation
                self.accelerator.backward(loss)
            total += loss.detach()
        norm = None
        if config.clip_norm is not None:
            norm = self.accelerator.clip_grad_norm_(self.trained, config.clip_norm)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        if self.average is not None and not self.accelerator.optimizer_step_was_skipped:
            self.average.update()
        self.step += 1
        return total, norm

    def loss(self, batch: Batch) -> Tensor:
        """The loss of each sample (b,)."""
        device = self.accelerator.device
        latents = self.encoder.clips(batch)
        num_frames, stride = latents.shape[1], self.stride
        shape = (num_frames // stride, *latents.shape[2:])
        draws = self.dice.roll(batch.get("place", []), shape, stride)
        if stride > 1:
            chosen = draws.first[:, None] + torch.arange(shape[0]) * stride
            latents = latents[torch.arange(len(latents))[:, None], chosen]
        captions = ["" if dropped else text for text, dropped in zip(batch["text"], draws.dropped, strict=True)]
        states, pooled = self.encoder.text(captions)
        more = self.stage.inputs(batch, latents, draws)
        if (added := self.encoder.added(pooled, self._size)) is not None:
            more["added"] = added
        return self.model(latents, draws.noise.to(device), draws.t.to(device), states, **more)

    @property
    def stride(self) -> int:
        """Every how many-th frame is seen at this step."""
        config = self.config
        return config.coarse_stride if self.step < config.coarse_share * config.steps else 1

    @property
    def _size(self) -> tuple[int, int]:
        return self.config.data.height, self.config.data.width

    # -- the run -----------------------------------------------------------------------------------------------------

    def run(self, stop: StopRequest) -> TrainResult:
        """Train to the last step, or until a signal."""
        config = self.config
        batches = iter(self.loader)
        if self.step:
            self.terminal.say(f"{self.folder}: goes on after step {self.step}")
        began = moment = time.perf_counter()
        before, total, count = self.seconds, torch.zeros((), device=self.accelerator.device), 0
        while self.step < config.steps:
            loss, norm = self.update(batches)
            total, count = total + loss, count + 1
            self.terminal.advance(self.step)
            now = time.perf_counter()
            self.seconds = before + now - began
            ends = self.step == config.steps
            if self.step % config.log_every == 0 or ends:
                self._log(total / count, norm, count / (now - moment))
                moment, total, count = now, torch.zeros_like(total), 0
            stopped = self._agree(stop)
            if (config.save_every and self.step % config.save_every == 0) or ends or stopped:
                self.save(loss, norm)
            if not stopped and self.validation.due(self.step):
                self.validation.run()
            moment += time.perf_counter() - now  # saving and looking do not count as training
            if stopped:
                break
        if self._saved != self.step:
            self.save()  # a run that had all its steps before: its weights may still be missing
        signal = stop.number if self.step < config.steps else None
        return TrainResult(
            folder=self.folder, weights=self.weights_path, step=self.step, steps=config.steps, signal=signal
        )

    def _agree(self, stop: StopRequest) -> bool:
        """Whether any process was asked to stop: all must leave after the same step."""
        if self.accelerator.num_processes == 1:
            return stop.number is not None
        wanted = torch.tensor(float(stop.number or 0), device=self.accelerator.device)
        number = int(self.accelerator.gather(wanted[None]).max())
        if number and stop.number is None:
            stop.number = number
        return bool(number)

    def _log(self, loss: Tensor, norm: Tensor | None, updates_a_second: float) -> None:
        mean = float(self.accelerator.reduce(loss, "mean"))
        row: dict[str, Any] = {
            "step": self.step,
            "loss": mean,
            "learning_rate": self._rate(self.step - 1),
            "samples_per_second": updates_a_second * self.dice.group,
            "minutes": self.seconds / 60,
        }
        if norm is not None:
            row["gradient_norm"] = float(norm)
        if self.stride > 1:
            row["frame_stride"] = self.stride
        if self.loader.bad:
            row["bad_items"] = len(self.loader.bad)
        self.tell(row)
        if not math.isfinite(mean):
            kept = f"; {self.folder} keeps the checkpoint of step {self._saved}" if self._saved >= 0 else ""
            raise UserError(
                f"step {self.step}: the loss is {mean}: a lower learning_rate, a warmup or precision=no may help{kept}"
            )

    def tell(self, row: dict[str, Any]) -> None:
        """Figures of this step to the terminal, the curve and the loggers."""
        if self.curve is not None:
            self.curve.add(row)
        self.terminal.figures(row)
        figures = {name: value for name, value in row.items() if name != "step"}
        self.accelerator.log(figures, step=self.step)

    # -- saving ------------------------------------------------------------------------------------------------------

    @property
    def weights_path(self) -> Path:
        """Where the weights for the sampler are."""
        return self.folder / self.stage.file_name

    def save(self, *figures: Tensor | None) -> None:
        """Write a checkpoint, then the weights for the sampler (the averaged ones, where there are any).

        figures: loss and gradient norm of the step; if they are no numbers the weights are none either.
        """
        if any(figure is not None and not math.isfinite(float(figure)) for figure in figures):
            raise UserError(f"step {self.step}: the loss or its gradient is not finite, so nothing of it is saved")
        state = save_state(self)
        with self.average.applied() if self.average is not None else nullcontext():
            tensors = self.stage.tensors()
        if self.is_main:
            write_checkpoint(self.folder, state, keep=self.config.keep)
            metadata = self.stage.metadata(self.step)
            self.stage.write(self.weights_path, tensors, metadata)
            if self.config.keep_weights:
                kept = self.folder / "weights" / f"{self.weights_path.stem}-{self.step:08d}{self.weights_path.suffix}"
                kept.parent.mkdir(exist_ok=True)
                self.stage.write(kept, tensors, metadata)
        self._saved = self.step
        self.accelerator.wait_for_everyone()

    def _check_space(self) -> None:
        """Refuse a run whose first checkpoint would not fit on the disk, rather than fail hours later."""
        numbers = sum(parameter.numel() for parameter in self.trained)
        needed = 4 * numbers * (4 if self.average is not None else 3)
        free = shutil.disk_usage(self.folder).free
        if needed > free:
            raise UserError(
                f"{self.folder}: a checkpoint takes {needed / 1e9:.1f} GB, the disk has {free / 1e9:.1f} GB free; "
                "make room, or name another folder with `out`"
            )


def opened(config: TrainConfig, accelerator: Any) -> Any:
    """The data of the configuration, looked through first. Raises UserError if too much of it cannot be used."""
    from animatediff.training.data import check_data, open_dataset

    clips = config.clips()
    if accelerator.is_main_process:
        report = check_data(clips)
        logger.info("%s", report)
    accelerator.wait_for_everyone()
    return open_dataset(clips, rank=accelerator.process_index, world_size=accelerator.num_processes)
