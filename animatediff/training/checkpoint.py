"""Checkpoints: everything that a run needs in order to go on as if it had never stopped.

A checkpoint is one file, `checkpoints/step-00001000.pt`. It is written beside its place, brought to the disk, and
renamed, so a crash or a full disk leaves the one before it whole; a file that was damaged later is passed over.
"""

from __future__ import annotations

import json
import logging
import math
import os
import random
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from animatediff.errors import UserError, is_disk_full
from animatediff.files import AtomicFile
from animatediff.training.config import SAME_ON_RESUME, TrainConfig, current_names

logger = logging.getLogger(__name__)

_NAME = re.compile(r"step-(\d{8})\.pt")
FORMAT = 1
RATE = {"steps", "learning_rate", "lr_schedule", "warmup_steps", "lr_floor"}
"""Settings that the learning rate of each step follows from."""
SMALL_JUMP = 0.1
"""Change of the learning rate, as a fraction, that nobody need know of."""
START_OVER = "start over with `resume=False`"
"""Ends messages about a checkpoint that a run cannot go on from."""


def checkpoint_path(folder: Path, step: int) -> Path:
    """Path of the checkpoint of a step in the folder of a run."""
    return folder / "checkpoints" / f"step-{step:08d}.pt"


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints of a run, oldest first."""
    place = folder / "checkpoints"
    return sorted(path for path in place.iterdir() if _NAME.fullmatch(path.name)) if place.is_dir() else []


def write_checkpoint(folder: Path, state: Mapping[str, Any], *, keep: int) -> Path:
    """Write the state of a step (`state["step"]`), then remove all but the `keep` newest checkpoints.

    Raises UserError where the disk is full or not writable; the checkpoints of earlier steps stay.
    """
    path = checkpoint_path(folder, state["step"])
    try:
        with AtomicFile(path) as file, file.temporary.open("wb") as stream:
            torch.save({"format": FORMAT, **state}, stream)
            stream.flush()
            os.fsync(stream.fileno())
        for old in checkpoints(folder)[:-keep]:
            old.unlink(missing_ok=True)
    except (OSError, RuntimeError, UserError) as error:
        whole = checkpoints(folder)
        left = f"the checkpoint {whole[-1].name} is whole" if whole else "there is no earlier checkpoint"
        reason = "the disk is full" if is_disk_full(error) else str(error).splitlines()[0]
        raise UserError(
            f"{path}: could not be written ({reason}); {left}. Make room, or lower `keep`, and run the same command "
            "to go on from there"
        ) from error
    return path


def newest_checkpoint(folder: Path) -> dict[str, Any] | None:
    """Load the newest checkpoint of a run that can be read, on the CPU; None if there is none.

    Damaged ones are passed over with a warning. Raises UserError if there are only damaged ones.
    """
    found = checkpoints(folder)
    for path in reversed(found):
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # torch raises whatever the damage leads to
            logger.warning("%s: damaged (%s); trying the one before it", path, str(error).splitlines()[0][:120])
            continue
        if not isinstance(state, dict) or state.get("format") != FORMAT:
            raise UserError(f"{path}: no checkpoint of this version; {START_OVER}, or take another `out`")
        return state
    if found:
        raise UserError(f"{folder}: none of its {len(found)} checkpoints can be read; {START_OVER}")
    return None


def check_same(state: Mapping[str, Any], config: TrainConfig, folder: Path) -> None:
    """Raise UserError if the checkpoint belongs to a run that this configuration cannot go on with.

    Other settings that differ are logged.
    """
    before, _ = current_names(json.loads(state["config"]))
    now = config.model_dump(mode="json")
    changed = [name for name in now if before.get(name) != now[name] and name != "out"]
    if fixed := [name for name in changed if name in SAME_ON_RESUME]:
        name = fixed[0]
        raise UserError(
            f"{folder}: its checkpoint was made with {name}={before.get(name)!r}, but the configuration says "
            f"{name}={now[name]!r}; a run cannot change that halfway: take another `out`, or {START_OVER}"
        )
    for name in changed:
        logger.info("%s: goes on with %s=%s (was %s)", folder, name, now[name], before.get(name))
    if RATE & set(changed):
        _say_jump(state["step"], before, config, folder)


def _say_jump(step: int, before: Mapping[str, Any], config: TrainConfig, folder: Path) -> None:
    """Warn where the learning rate of the next step is far from the one that the run would have gone on with."""
    from animatediff.training.optimizer import learning_rate

    try:
        old = TrainConfig.model_validate(before)
    except ValueError:  # of a version with other settings
        return
    # The rate that the run would have gone on with, or that of its last step where it was at its end.
    last, rate = learning_rate(old)(min(step, old.steps - 1)), learning_rate(config)(step)
    if math.isclose(rate, last, rel_tol=SMALL_JUMP):
        return
    changed = ", ".join(name for name in sorted(RATE) if getattr(old, name) != getattr(config, name))
    logger.warning(
        "%s: the learning rate jumps from %.3g to %.3g after step %d, since the schedule follows from %s; to go on "
        "evenly, set `learning_rate` and `lr_schedule` so, such as learning_rate=%.3g, lr_schedule=constant",
        folder, last, rate, step, changed, last or rate,
    )  # fmt: skip


def random_state() -> dict[str, Any]:
    """States of all global random generators of this process, as plain values and tensors."""
    kind, keys, *rest = np.random.get_state()
    state: dict[str, Any] = {
        "python": random.getstate(),
        "numpy": [str(kind), torch.from_numpy(np.asarray(keys, dtype=np.int64)), *rest],
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def restore_random_state(states: Iterable[Mapping[str, Any]], rank: int) -> None:
    """Restore the random generators of process `rank`; a process that is new keeps its own."""
    listed = list(states)
    if rank >= len(listed):
        return
    state = listed[rank]
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))  # pyright: ignore[reportArgumentType]
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
