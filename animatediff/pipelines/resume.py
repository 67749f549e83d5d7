"""Saved state of a call: written every so many seconds, found by the same call in another process.

Phases, each with the state of what is inside: `denoise`; with a second pass `first`, `enlarge` and `second`; `decode`.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from animatediff.pipelines.identity import arguments_of, differences, digest, lora_strengths_of, machine_of, models_of
from animatediff.pipelines.saves import Saves
from animatediff.pipelines.state_files import SUFFIX, StateFolder, others
from animatediff.sampling.state import BadState, Unsavable, generator_states

if TYPE_CHECKING:
    from torch import Tensor

    from animatediff.pipelines.job import Job

logger = logging.getLogger(__name__)

LATENTS_IN_STATE = 48
"""Tensors of the clip's latents, in float32, that a state holds at most: samplers keep up to five, and their noise."""
TABLES_BYTES = 1 << 24
"""Everything else in a state."""


class Timer:
    """Says when the next save is due."""

    def __init__(self, every_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._every_s, self._clock = every_s, clock
        self._last: float | None = None

    def due(self) -> bool:
        """Whether so many seconds have gone by since the last save, or since this was first asked."""
        now = self._clock()
        if self._last is None:
            self._last = now
        return now - self._last >= self._every_s

    def restart(self) -> None:
        """A save was made or tried."""
        self._last = self._clock()

    def stop(self) -> None:
        """Let no further save be due."""
        self._every_s = math.inf


class SavedCall:
    """The state of one call in a folder, and when it is written."""

    def __init__(
        self,
        folder: StateFolder,
        name: str = "call",
        *,
        timer: Timer,
        title: str,
        more: Callable[[], Mapping[str, Mapping[str, str]]] = dict,
        before_write: Callable[[], None] = lambda: None,
        reads: bool = True,
    ) -> None:
        """name: of its files; title: of the clip, for messages; more: further entries of its identity.

        before_write: called before its state is written; reads: whether a state that is there is gone on with.
        """
        self.folder, self.name, self._timer, self._title = folder, name, timer, title
        self._more, self._before_write, self._reads = more, before_write, reads
        self._save: Callable[[Mapping[str, Any]], None] | None = None
        self._latents: Tensor | None = None

    def opened(self, pipe: Any, job: Job) -> Saves | None:
        """What is saved of this call; None, which is said, where its state cannot be. Nothing is computed yet."""
        if job.call.callback_on_step_end is not None:
            logger.warning(
                "`resume` has no effect beside `callback_on_step_end`: a state does not hold what the function changes"
            )
            return None
        identity = _Identity(pipe, job, self._more)
        self._save = lambda state: self._write(identity, state)
        clip, factor = job.clip, job.call.upscale or 1.0
        pixels = int(clip.num_clips * clip.num_frames * clip.height * clip.width * factor**2)
        numbers = pixels * clip.channels // clip.factor**2
        return Saves(
            found=self._found(identity, 4 * numbers * LATENTS_IN_STATE + TABLES_BYTES),
            due=self._timer.due,
            save=self._save,
            say=lambda text: logger.info("%s: %s", self._title, text),
            damaged=self._damaged,
            folder=self.folder,
            name=self.name,
            most_bytes=24 * pixels + TABLES_BYTES,  # with a share of it for sizes that are no multiple of 8
            as_bytes=(job.call.output_type or "pil") == "pil",
        )

    def sampled(self, latents: Tensor) -> None:
        """Note the latents (b, c, f, h, w) of the call, for `keep_latents`."""
        self._latents = latents

    def keep_latents(self) -> None:
        """Write that all is sampled and nothing decoded, for a call that is done but may be asked for once more."""
        if self._save is not None and self._latents is not None:
            self._before_write = lambda: None
            self._save({"phase": "decode", "latents": self._latents, "files": []})

    def remove(self) -> None:
        """Remove the files."""
        self.folder.remove(self.name)

    def _found(self, identity: _Identity, most_bytes: int) -> Mapping[str, Any] | None:
        """The state that is there. One of another call, and one that is damaged, is said."""
        if not self._reads:
            return None
        try:
            kept = self.folder.read(self.name, most_bytes=most_bytes, device=identity.device)
            if kept is None:
                return None
            theirs, state = (kept.get(key) if isinstance(kept, Mapping) else None for key in ("identity", "state"))
            if not isinstance(theirs, Mapping) or not isinstance(state, Mapping):
                raise BadState("it does not tell of what it is")
            if found := differences(theirs, identity.all):
                logger.warning(
                    "%s: its saved state is of %s; it is not used, the render begins anew",
                    self._title,
                    ", ".join(found),
                )
                return None
            return state
        except BadState as error:
            self._damaged(str(error))
        except Unsavable as error:
            logger.warning("`resume` has no effect: %s, which cannot be compared", error)
        return None

    def _damaged(self, reason: str) -> None:
        logger.warning("%s: its saved state is damaged (%s); the render begins anew", self._title, reason)

    def _write(self, identity: _Identity, state: Mapping[str, Any]) -> None:
        try:
            self._before_write()
            self.folder.write(self.name, {"identity": identity.all, "state": state})
            self._timer.restart()
        except Unsavable as error:
            logger.warning("the state of this render cannot be saved: it holds an object of type %s", error)
            self._timer.stop()


class _Identity:
    """Identity of a call, made when it is first needed."""

    def __init__(self, pipe: Any, job: Job, more: Callable[[], Mapping[str, Mapping[str, str]]]) -> None:
        self._pipe, self._job, self._more = pipe, job, more
        self.device = pipe.base._execution_device
        # these change while the call is at work
        self._generators, self._strengths = generator_states(job.generators), lora_strengths_of(pipe)

    @cached_property
    def all(self) -> dict[str, Mapping[str, str]]:
        """Short hashes and versions. Raises Unsavable."""
        return {
            **self._more(),
            "machine": machine_of(self.device),
            "models": {**models_of(self._pipe), "loras": self._strengths},
            "arguments": {**arguments_of(self._job), "generator": digest(self._generators)},
        }


@contextmanager
def saving(job: Job, pipe: Any) -> Iterator[Saves | None]:
    """The saves of a call with `resume`: removed when it is done, kept where it is stopped. None without.

    The folder holds a state for each call that was stopped, by its arguments.
    """
    if job.call.resume is None:
        yield None
        return
    place = Path(job.call.resume).expanduser()
    try:
        name = digest([arguments_of(job), generator_states(job.generators)])
    except Unsavable as error:
        logger.warning("`resume` has no effect: %s, which cannot be compared", error)
        yield None
        return
    with StateFolder(place / f".call.{name}{SUFFIX}") as own:
        if not own.path.is_dir() and (there := list(others(place, "call", own.path))):
            logger.info("%s: holds states of %d other calls, and none of this one", place, len(there))
        yield SavedCall(own, timer=Timer(job.call.save_every), title=str(place)).opened(pipe, job)
        own.clear()
