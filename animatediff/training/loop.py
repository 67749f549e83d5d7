"""The one loop of all stages: batches through the model, gradients into an update, at times a save and a validation.

A run is decided by its configuration alone: everything random depends on the seed and on a sample's place in the run
(`randomness.py`), so that it is the same divided among processes, accumulated, or stopped and resumed.
"""

from __future__ import annotations

import logging
import math
import shutil
import time
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from animatediff.errors import UserError
from animatediff.training.accelerator import (
    check_shared,
    close_accelerator,
    compute_dtype,
    default_workers,
    make_accelerator,
    prepare_folder,
    write_config,
)
from animatediff.training.attention import short_attention
from animatediff.training.checkpoint import check_same, newest_checkpoint, restore_random_state, write_checkpoint
from animatediff.training.encode import Encoder
from animatediff.training.memory import say_memory
from animatediff.training.models import base_pipeline, cast_frozen, load_pipeline, tokenizer_of
from animatediff.training.objective import Objective
from animatediff.training.optimizer import learning_rate
from animatediff.training.randomness import NoiseSampler
from animatediff.training.report import MetricsLog, ProgressReporter, Reporter
from animatediff.training.signals import StopRequest
from animatediff.training.sound import Overflows, check_start, unsound
from animatediff.training.stages import make_stage
from animatediff.training.state import is_sharded, load_state, load_weights, make_state, save_state
from animatediff.training.validate import Validation

if TYPE_CHECKING:
    from collections.abc import Iterator

    from animatediff.training.config import TrainConfig
    from animatediff.training.data import Batch, ClipDataset

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """The end of a run."""

    folder: Path
    weights: Path
    """File for the sampler, or for a full image model possibly a folder."""
    step: int
    steps: int
    signal: int | None = None
    """The signal that ended it before its last step."""


def train(
    config: TrainConfig,
    *,
    resume: bool | None = None,
    new_data: bool = False,
    dataset: ClipDataset | None = None,
    quiet: bool = False,
) -> TrainResult:
    """Train by the configuration, into its folder, or go on with the run in that folder.

    resume: True insists on a checkpoint, False removes an earlier run, None goes on with one if there is one. new_data:
    go on with other data than before, such as with clips added, from its first epoch. dataset: in place of the one that
    `config.data` describes. Raises UserError, before the first step, for data, weights and settings that cannot be
    trained with; later for a full disk and for a loss that is no longer a number.
    """
    accelerator = make_accelerator(config)
    try:
        with StopRequest() as stop:
            trainer = Trainer(config, accelerator, resume=resume, new_data=new_data, dataset=dataset, quiet=quiet)
            try:
                return trainer.run(stop)
            finally:
                trainer.reporter.close()
    finally:
        close_accelerator(accelerator)


class Trainer:
    """One run: its state, and everything that a step of it needs."""

    def __init__(
        self,
        config: TrainConfig,
        accelerator: Any,
        *,
        resume: bool | None,
        dataset: ClipDataset | None,
        quiet: bool,
        new_data: bool = False,
    ) -> None:
        self.config, self.accelerator = config, accelerator
        self.folder = prepare_folder(config, accelerator, resume)
        checkpoint = find_checkpoint(self.folder, config, resume)
        if new_data and checkpoint is None:
            logger.warning("`new_data` has no effect: there is no run in %s to go on with", self.folder)
        check_shared(accelerator, checkpoint["step"] if checkpoint else 0, self.folder)
        if accelerator.is_main_process:
            write_config(self.folder, config)

        data: Any = dataset if dataset is not None else checked_dataset(config, accelerator)
        torch.manual_seed(config.seed)
        self.pipe = load_pipeline(config)
        stage = make_stage(config, self.pipe)
        cast_frozen(self.pipe, stage.parameters.values(), compute_dtype(accelerator))
        if checkpoint is not None:
            load_weights(stage, checkpoint)
        size, cache = (config.data.height, config.data.width), None if stage.needs_frames else config.data.cache
        self.encoder = Encoder(self.pipe, accelerator.device, size=size, cache=cache)
        data.use_cache(self.encoder.latent_cache)
        self.pipe.to(accelerator.device)
        if config.gradient_checkpointing:
            stage.enable_gradient_checkpointing()
        if config.compile:
            self.pipe.unet.compile()

        objective = Objective(stage.noise_schedule, betas=stage.betas, snr_gamma=config.snr_gamma)
        self.state = make_state(config, accelerator, stage, objective, make_loader(config, accelerator, data))
        if checkpoint is not None:
            load_state(self.state, checkpoint, new_data=new_data)
        self.sampler = NoiseSampler(
            seed=config.seed,
            update_size=config.batch_size * config.gradient_accumulation_steps * accelerator.num_processes,
            num_timesteps=objective.num_timesteps,
            timestep_power=config.timestep_power,
            stratified=config.stratified,
            caption_dropout=config.caption_dropout,
            noise_offset=config.noise_offset,
        )
        clips, factor = config.clips(), base_pipeline(self.pipe).vae_scale_factor
        size = (clips.height // factor, clips.width // factor)
        self.attention = partial(short_attention, accelerator.device, clips.num_frames, *size)
        """Makes the context of a step's forward and backward pass."""
        self._rate = learning_rate(config)
        self.reporter = self._make_reporter(quiet)
        self.validation = Validation(
            self.state,
            encoder=self.encoder,
            dataset=data,
            num_timesteps=objective.num_timesteps,
            folder=self.folder,
            reporter=self.reporter,
        )
        self._saved = self.state.step if checkpoint else -1
        self.overflows = Overflows(accelerator.scaler)
        check_start(stage.parameters, str(self.folder if checkpoint else config.start_from or config.model))
        self._check_space()
        if self.state.is_main and not (quiet or config.compile or is_sharded(accelerator)):
            say_memory(self.state, self.encoder)
        # Last of all, so that nothing above draws from the restored random states.
        if checkpoint is not None:
            restore_random_state(checkpoint["random"], accelerator.process_index)

    def _make_reporter(self, quiet: bool) -> Reporter:
        step, is_main = self.state.step, self.state.is_main
        progress = ProgressReporter(self.config.steps, step, quiet=quiet or not is_main)
        return Reporter(progress, MetricsLog(self.folder, step) if is_main else None, self.accelerator)

    # -- one update --------------------------------------------------------------------------------------------------

    def update(self, batches: Iterator[Batch]) -> tuple[Tensor, Tensor | None]:
        """Update the weights once, by as many batches as are accumulated. Returns the mean loss and its gradient norm.

        The norm is None where `max_grad_norm` is off. In fp16 a step whose gradients overflow changes no weights.
        """
        config, state = self.config, self.state
        num_batches = config.gradient_accumulation_steps
        for group in state.optimizer.param_groups:
            group["lr"] = self._rate(state.step)
        total = torch.zeros((), device=self.accelerator.device)
        for number in range(num_batches):
            last = number == num_batches - 1
            with nullcontext() if last else self.accelerator.no_sync(state.model):
                loss = self.loss(next(batches)).mean() / num_batches
                with self.attention():
                    self.accelerator.backward(loss)
            total += loss.detach()
        norm = None
        if config.max_grad_norm is not None:
            norm = self.accelerator.clip_grad_norm_(state.parameters, config.max_grad_norm)
        with self.overflows.watched(state.step + 1):
            state.optimizer.step()
        state.optimizer.zero_grad(set_to_none=True)
        if state.ema is not None and not self.overflows.now:
            state.ema.update()
        state.step += 1
        return total, norm

    def loss(self, batch: Batch) -> Tensor:
        """Loss of each sample (b,)."""
        device, stage = self.accelerator.device, self.state.stage
        latents = self.encoder.clips(batch)
        num_frames, stride = latents.shape[1], self.frame_stride
        shape = (num_frames // stride, *latents.shape[2:])
        places = batch.get("place", [])
        sampled = self.sampler.sample(places, shape, stride)
        if stride > 1:
            kept = sampled.first_frame[:, None] + torch.arange(shape[0]) * stride
            latents = latents[torch.arange(len(latents))[:, None], kept]
        captions = ["" if dropped else text for text, dropped in zip(batch["text"], sampled.dropped, strict=True)]
        text, inputs = self.encoder.text(captions), stage.inputs(batch, latents)
        with self.attention():  # not around the text encoder, whose results validation uses as well
            return self.state.model(latents, sampled.noise.to(device), sampled.timesteps.to(device), *text, **inputs)

    @property
    def frame_stride(self) -> int:
        """The temporal curriculum: one frame in so many is kept at this step."""
        config = self.config
        return config.curriculum_stride if self.state.step < config.curriculum_fraction * config.steps else 1

    # -- the run -----------------------------------------------------------------------------------------------------

    def run(self, stop: StopRequest) -> TrainResult:
        """Train to the last step, or until a signal."""
        config, state = self.config, self.state
        batches = iter(state.loader)
        if state.step:
            self.reporter.message(f"{self.folder}: goes on after step {state.step}")
        elif self.validation.is_due(0):
            self.validation.run()
        began = moment = time.perf_counter()
        before, total, count, updates = state.seconds, torch.zeros((), device=self.accelerator.device), 0, 0
        while state.step < config.steps:
            loss, norm = self.update(batches)
            updates += 1
            if not self.overflows.now:  # the loss of such a step may be infinite, and says nothing
                total, count = total + loss, count + 1
            self.reporter.advance(state.step)
            now = time.perf_counter()
            state.seconds = before + now - began
            ends = state.step == config.steps
            if state.step % config.log_every == 0 or ends:
                self._log(total / count if count else None, norm, updates / (now - moment))
                moment, total, count, updates = now, torch.zeros_like(total), 0, 0
            stopped = self._agree(stop)
            if (config.save_every and state.step % config.save_every == 0) or ends or stopped:
                self.save()
            if not stopped and self.validation.is_due(state.step):
                self.validation.run()
            moment += time.perf_counter() - now  # saving and validation do not count as training
            if stopped:
                break
        if self._saved != state.step:
            self.save()  # a run that had all its steps before: its weights may still be missing
        signal = stop.number if state.step < config.steps else None
        return TrainResult(
            folder=self.folder, weights=self.weights_path, step=state.step, steps=config.steps, signal=signal
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

    def _log(self, loss: Tensor | None, norm: Tensor | None, updates_a_second: float) -> None:
        """Log a moment of the run. loss: the mean of its updates, None where all of them overflowed."""
        state = self.state
        mean = None if loss is None else float(self.accelerator.reduce(loss, "mean"))
        row: dict[str, Any] = {
            "step": state.step,
            **({} if mean is None else {"loss": mean}),
            "learning_rate": self._rate(state.step - 1),
            "samples_per_second": updates_a_second * self.sampler.update_size,
            "minutes": state.seconds / 60,
        }
        if norm is not None and math.isfinite(float(norm)):  # JSON has no infinity
            row["gradient_norm"] = float(norm)
        if self.overflows.count:
            row["skipped_updates"] = self.overflows.count
        if self.frame_stride > 1:
            row["frame_stride"] = self.frame_stride
        if state.loader.bad:
            row["bad_items"] = len(state.loader.bad)
        self.reporter.log(row)
        if mean is not None and not math.isfinite(mean):
            raise UserError(
                f"step {state.step}: the loss is {mean}: a lower `learning_rate`, `warmup_steps` or precision=no "
                f"may help{self._kept()}"
            )

    def _kept(self) -> str:
        return f"; {self.folder} keeps the checkpoint of step {self._saved}" if self._saved >= 0 else ""

    # -- saving ------------------------------------------------------------------------------------------------------

    @property
    def weights_path(self) -> Path:
        """File or folder of the weights for the sampler."""
        return self.folder / self.state.stage.file_name

    def save(self) -> None:
        """Write a checkpoint, then the weights for the sampler (the averaged ones, where there are any).

        Raises UserError, and writes nothing, where a weight is not finite, also in the precision it would be saved in.
        """
        state, stage = self.state, self.state.stage
        saved = save_state(state)
        with state.ema_applied():
            tensors = stage.tensors()
        if (reason := unsound(saved["weights"], tensors, self.config.weights_dtype)) is not None:
            raise UserError(f"step {state.step}: {reason}, so nothing of it is saved{self._kept()}")
        if state.is_main:
            write_checkpoint(self.folder, saved, keep=self.config.keep)
            metadata = stage.metadata(state.step)
            stage.write(self.weights_path, tensors, metadata)
            if self.config.keep_weights:
                kept = self.folder / "weights" / f"{self.weights_path.stem}-{state.step:08d}{self.weights_path.suffix}"
                kept.parent.mkdir(exist_ok=True)
                stage.write(kept, tensors, metadata)
        self._saved = state.step
        self.accelerator.wait_for_everyone()

    def _check_space(self) -> None:
        """Refuse a run whose first checkpoint would not fit on the disk, rather than fail hours later."""
        numbers = sum(parameter.numel() for parameter in self.state.parameters)
        needed = 4 * numbers * (4 if self.state.ema is not None else 3)
        free = shutil.disk_usage(self.folder).free
        if needed > free:
            raise UserError(
                f"{self.folder}: a checkpoint takes {needed / 1e6:,.0f} MB, the disk has {free / 1e6:,.0f} MB free; "
                "make room, or name another folder with `out`"
            )


def find_checkpoint(folder: Path, config: TrainConfig, resume: bool | None) -> dict[str, Any] | None:
    """Load the newest checkpoint of the folder, if any. Raises UserError if it is of a run of other settings.

    resume: True insists on one.
    """
    checkpoint = newest_checkpoint(folder)
    if checkpoint is None and resume:
        raise UserError(f"{folder}: there is no checkpoint to resume from; leave `resume` out to start")
    if checkpoint is not None:
        check_same(checkpoint, config, folder)
    return checkpoint


def checked_dataset(config: TrainConfig, accelerator: Any) -> Any:
    """Check and open the data of the configuration. Raises UserError if too much of it cannot be used."""
    from animatediff.training.data import check_data, open_dataset

    clips = config.clips()
    if accelerator.is_main_process:
        report = check_data(clips, tokenizer_of(config))
        logger.log(logging.INFO if report.is_clean else logging.WARNING, "%s", report)
    accelerator.wait_for_everyone()
    return open_dataset(clips, rank=accelerator.process_index, world_size=accelerator.num_processes)


def make_loader(config: TrainConfig, accelerator: Any, dataset: Any) -> Any:
    """Batches of the dataset for this process."""
    from animatediff.training.data import ClipLoader

    device = accelerator.device
    return ClipLoader(
        dataset,
        config.batch_size,
        num_workers=default_workers(device) if config.workers is None else config.workers,
        rank=accelerator.process_index,
        world_size=accelerator.num_processes,
        pin_memory=device.type == "cuda",
        draw_on=None if device.type == "cpu" else device,
    )
