"""Saved state of a command's clips: a hidden folder beside its results, until they are written."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from animatediff.files import HERE, Roots
from animatediff.render.defaults import with_seeds
from animatediff.render.fingerprint import fingerprint
from animatediff.render.portable import portable
from animatediff.render.request import FIELDS, AnimateRequest
from animatediff.render.resume import Resume

if TYPE_CHECKING:
    from animatediff.pipelines.resume import SavedCall
    from animatediff.render.write import Rendered

logger = logging.getLogger(__name__)

RENDER = "render"
"""Name of the file about the whole command."""
LARGEST = 1 << 26
"""Bytes of it at most."""
NAME_BYTES = 180
"""Of the result's name in that of the folder."""


class Writer(Protocol):
    """What writes the clips of a command."""

    done: list[Rendered]

    @property
    def place(self) -> Path:
        """The result of the command, without the number of a clip."""
        ...

    @property
    def keeps_files(self) -> bool:
        """Whether a clip that is written need not be made again by a later run."""
        ...

    def target(self, index: int, num_clips: int) -> Path | None:
        """The file of a clip, where it is known before."""
        ...


@dataclass
class SavedRender:
    """The saved state of one command: seeds, clips that are done, and the state of the one at work."""

    resume: Resume
    writer: Writer
    roots: Roots
    num_done: int = 0
    """Clips, the first ones, that an earlier run wrote; they are in the writer's list."""
    _requests: list[AnimateRequest] = field(default_factory=list)
    _folder: Any = None
    _timer: Any = None
    _content: dict[str, Any] = field(default_factory=dict)
    _changed: bool = True
    _pending: list[Callable[[], None]] = field(default_factory=list)
    _current: SavedCall | None = None
    _reads: bool = True

    def begin(self, requests: Sequence[AnimateRequest]) -> list[AnimateRequest]:
        """The requests with their seeds, those of an earlier run where it left a state. Each file is known by now."""
        from animatediff.pipelines.identity import digest
        from animatediff.pipelines.resume import Timer
        from animatediff.pipelines.state_files import SUFFIX, StateFolder, others

        stored = [request.stored() for request in requests]
        place = self.writer.place
        name = os.fsdecode(os.fsencode(place.name)[:NAME_BYTES].decode(errors="ignore").encode()) or "clip"
        parent = self.resume.folder or place.parent
        self._folder = StateFolder(parent / f".{name}.{digest(stored)}{SUFFIX}")
        self._folder.__enter__()
        self._timer = Timer(self.resume.save_every)
        if self.resume.anew and self._folder.path.is_dir():
            self._folder.clear()
        for path in others(parent, name, self._folder.path):
            _say_other(path, stored, place)
        found = self._found()
        seeded = [_seeded(request, seeds) for request, seeds in zip(requests, _seeds(found, requests), strict=True)]
        self._requests = [request.clip(index) for request in seeded for index in range(request.num_clips)]
        self._content = {
            "machine": _machine(),
            "requests": stored,
            "seeds": [list(request.seed) for request in seeded],
            "done": [],
        }
        for entry in found.get("done", ()) if self.writer.keeps_files else ():
            if (rendered := self._rendered(entry)) is None:
                break
            self.writer.done.append(rendered)
            self._content["done"].append(entry)
            self.num_done += 1
        if self.num_done:
            logger.info("%s: goes on at clip %d of %d", place, self.num_done + 1, len(self._requests))
        return seeded

    def clip(self, index: int, request: AnimateRequest) -> SavedCall:
        """The state of one clip, for the call that samples it. request: of this clip alone, complete."""
        from animatediff.pipelines.resume import SavedCall

        target = self.writer.target(index, len(self._requests)) or self.writer.place
        self._current = SavedCall(
            self._folder,
            f"clip-{index}",
            timer=self._timer,
            title=str(target) if len(self._requests) == 1 else f"{target} (clip {index + 1})",
            more=lambda: {"files": portable(request.stored(), self.roots)[1]},
            before_write=self._write,
            reads=self._reads,
        )
        return self._current

    def finished(self, index: int) -> None:
        """Note that the writer has written a clip; its state goes, or is kept until all are written."""
        rendered, current = self.writer.done[-1], self._current
        if current is None or index + 1 == len(self._requests):
            return
        if self.writer.keeps_files:
            self._content["done"].append(_entry(rendered, self._requests[index]))
            self._changed = True
            if self._folder.path.is_dir() or self._timer.due():
                self._write()
            current.remove()
        else:
            self._pending.append(current.keep_latents)
            if self._timer.due():
                self._write()

    def clear(self) -> None:
        """Remove everything: the command is done."""
        if self._folder is not None:
            self._folder.clear()

    def close(self) -> None:
        """Let other processes have the state."""
        if self._folder is not None:
            self._folder.__exit__()

    def _write(self) -> None:
        """Write what is about the whole command, and the latents of clips that are done, where either has changed."""
        if self._changed and self._folder.write(RENDER, self._content):
            self._changed = False
        pending, self._pending = self._pending, []
        for write in pending:
            write()

    def _found(self) -> Mapping[str, Any]:
        from animatediff.sampling.state import BadState

        try:
            found = self._folder.read(RENDER, most_bytes=LARGEST, device="cpu")
            if found is None:
                return {}
            if not isinstance(found, Mapping) or not isinstance(found.get("machine"), Mapping):
                raise BadState("it does not tell of what it is")
        except BadState as error:
            logger.warning("%s: its saved state is damaged (%s); the render begins anew", self.writer.place, error)
            self._reads = False
            return {}
        from animatediff.pipelines.identity import differences

        if changed := differences(found, {"machine": _machine()}):
            logger.warning(
                "%s: its saved state is of %s; it is not used, the render begins anew",
                self.writer.place,
                ", ".join(changed),
            )
            self._reads = False
            return {}
        return found

    def _rendered(self, entry: Any) -> Rendered | None:
        """The files of a clip that an earlier run wrote; None where they are not as it left them."""
        from animatediff.render.write import Rendered

        index = self.num_done
        if not isinstance(entry, Mapping) or index >= len(self._requests):
            return None
        name, filled, seam = entry.get("file"), entry.get("filled"), entry.get("seam")
        sheets = kept if isinstance(kept := entry.get("sheets"), list) else [None]
        names = [name, *sheets]
        if not all(isinstance(one, str) and one and Path(one).name == one for one in names):
            return None
        target = self.writer.target(index, len(self._requests))
        file = self.writer.place.with_name(str(name)) if target is None else target
        if (
            file.name != name
            or not isinstance(name, str)
            or not isinstance(filled, Mapping)
            or fingerprint(file) != entry.get("hash")
        ):
            return None
        values = {key: value for key, value in filled.items() if key in FIELDS and isinstance(value, int | float | str)}
        return Rendered(
            file=file,
            request=self._requests[index].model_copy(update=values),
            sheets=tuple(file.with_name(str(sheet)) for sheet in sheets),
            seam=seam if isinstance(seam, float) else None,
        )


@contextmanager
def saved_render(resume: Resume | None, writer: Any, roots: Roots = HERE) -> Iterator[SavedRender | None]:
    """The saved state of a command, removed when it ends well, kept where it is stopped; None without `resume`."""
    if resume is None:
        yield None
        return
    saved = SavedRender(resume, writer, roots)
    try:
        yield saved
        saved.clear()
    finally:
        saved.close()


def _seeds(found: Mapping[str, Any], requests: Sequence[AnimateRequest]) -> list[list[int] | None]:
    """The seeds of an earlier run, for each request one a clip; None where it left none."""
    kept = found.get("seeds")
    if not isinstance(kept, list) or len(kept) != len(requests):
        return [None] * len(requests)
    return [
        seeds
        if isinstance(seeds, list)
        and len(seeds) == request.num_clips
        and all(type(seed) is int and 0 <= seed < 2**64 for seed in seeds)
        else None
        for seeds, request in zip(kept, requests, strict=True)
    ]


def _seeded(request: AnimateRequest, seeds: list[int] | None) -> AnimateRequest:
    return with_seeds(request) if seeds is None else request.model_copy(update={"seed": tuple(seeds)})


def _entry(rendered: Rendered, request: AnimateRequest) -> dict[str, Any]:
    """What a later run must know of a clip that is written. request: as it was before values were filled in."""
    made = rendered.request
    filled = {name: getattr(made, name) for name in FIELDS if getattr(request, name) is None}
    return {
        "file": rendered.file.name,
        "hash": fingerprint(rendered.file),
        "filled": {name: value for name, value in filled.items() if isinstance(value, int | float | str)},
        "sheets": [sheet.name for sheet in rendered.sheets],
        "seam": rendered.seam,
    }


def _say_other(path: Path, stored: Sequence[Mapping[str, Any]], place: Path) -> None:
    """Say that a state of another request for the same result is there."""
    from animatediff.pipelines.state_files import StateFolder
    from animatediff.sampling.state import BadState

    try:
        found = StateFolder(path).read(RENDER, most_bytes=LARGEST, device="cpu")
        theirs = found["requests"] if isinstance(found, Mapping) else None
    except (BadState, KeyError):
        theirs = None
    if not isinstance(theirs, list) or not all(isinstance(one, Mapping) for one in theirs):
        return
    changed = sorted(
        {name for a, b in zip(theirs, stored, strict=False) for name in {*a, *b} if a.get(name) != b.get(name)}
    )
    what = ", ".join(f"`{name}`" for name in changed if name in FIELDS) or "number of runs"
    logger.info("%s: a saved state of another request (another %s) is left alone: %s", place, what, path)


def _machine() -> dict[str, str]:
    from animatediff.pipelines.identity import versions

    return versions()
