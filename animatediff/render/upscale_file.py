"""Files made before, finished as clips are: enlarged, brought to another rate, or written in another format alone."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from animatediff.errors import UserError
from animatediff.files import HERE, Roots, check_folder, check_writable
from animatediff.media.audio import CODECS as SOUND_CODECS
from animatediff.media.audio import Sound
from animatediff.media.formats import FOLDER, FORMATS, format_of, frame_rate
from animatediff.media.read import open_clip, read_metadata
from animatediff.media.seam import LoopSeam
from animatediff.media.upscale import Upscaler
from animatediff.media.write import VideoWriter, check_output
from animatediff.parse import parse_json
from animatediff.render.events import Cancel, OnEvent, Reporter, noted
from animatediff.render.fingerprint import fingerprint
from animatediff.render.finish import Finish, check_finished, finished, upscaler_file
from animatediff.render.names import numbered
from animatediff.render.portable import portable
from animatediff.render.read.place import free_name
from animatediff.render.read.result import sidecar_of
from animatediff.render.record import write_sidecar
from animatediff.render.subjects import warn_of_idle_output

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Target:
    """Where finished files go, and how they are encoded; as the options of these names."""

    out: str | None = None
    """None is beside each file, under a free name that says what was done."""
    codec: str | None = None
    quality: int | None = None
    """None is 80."""
    max_size: float | None = None
    loop: int | None = None
    """None is for ever."""

    def of(self, index: int, count: int) -> Path | None:
        """The file that is made of one of `count`; None where a free name is taken."""
        return None if self.out is None else Path(numbered(self.out, index, count))


@dataclass(frozen=True, kw_only=True)
class Finished:
    """A file that was made from another."""

    file: Path
    source: Path
    num_frames: int
    fps: float
    size: tuple[int, int]
    """(width, height)."""
    seam: float | None = None
    """Of a closed loop: the step from the last frame to the first over that of neighbours, 1 is seamless."""
    notes: tuple[str, ...] = field(default=())


def upscale_files(
    sources: Iterable[str | Path],
    finish: Finish,
    target: Target | None = None,
    *,
    closed_loop: bool = False,
    on_event: OnEvent | None = None,
    cancel: Cancel | None = None,
    roots: Roots = HERE,
) -> list[Finished]:
    """Finish videos, animated images, or folders of images, one after another; sound and transparency are kept.

    finish: what is done with the frames, nothing in particular to change the format alone; closed_loop: the first frame
    follows the last one, as it does in results that say so themselves.
    Raises UserError for a file that cannot be read or written, and as `Finish.check`; Cancelled.
    """
    files, reporter, target = [Path(source) for source in sources], Reporter(on_event, cancel), target or Target()
    if not finish and target == Target():
        raise UserError("nothing to do: give `upscaler`, `fps_out`, `quality`, or `out` in another format")
    finish.check(roots)
    for file in files:
        if not file.exists():
            raise UserError(f"{file}: no such file")
    places = [str(target.of(index, len(files)) or _free_place(file, finish)) for index, file in enumerate(files)]
    for file, place in zip(files, places, strict=True):
        check_output(place, target.codec, target.max_size)
        given = {name: value for name, value in vars(target).items() if value is not None}
        warn_of_idle_output(given, format_of(place))
        if format_of(place) == FOLDER:
            check_folder(place)
        check_writable(place)
        if Path(place).resolve() == file.resolve():
            raise UserError(f"{place}: is the file itself; give another name with `out`")
    reporter.num_clips = len(files)
    upscaler = finish.load(roots)
    done = []
    for file, place in zip(files, places, strict=True):
        with noted(reporter):
            done.append(_finish(file, place, finish, upscaler, target, closed_loop, reporter, roots))
        reporter.next_clip()
    return done


def _free_place(file: Path, finish: Finish) -> str:
    """A free name beside a file, which says what was done."""
    done = ["upscaled"] if finish.upscaler is not None else []
    done += [f"{finish.fps_out:g}fps"] if finish.fps_out is not None else []
    suffix = "" if file.is_dir() else file.suffix.lower() if file.suffix.lower() in FORMATS else ".mp4"
    stem = file.name if file.is_dir() else file.stem
    return free_name(str(file.with_name("-".join([stem, *(done or ["copy"])]) + suffix)), 1)


def _finish(
    file: Path,
    place: str,
    finish: Finish,
    upscaler: Upscaler | None,
    target: Target,
    closed_loop: bool,
    reporter: Reporter,
    roots: Roots,
) -> Finished:
    before = _record_of(file)
    closed_loop = closed_loop or _says_loop(before)
    with open_clip(file, alpha=True) as clip:
        first = next(clip.frames, None)
        if first is None:
            raise UserError(f"{file}: holds no frames")
        fps = frame_rate(min(clip.fps, 240))
        if clip.fps > 240:
            logger.warning("%s: states %g frames a second; taken as 240", file, clip.fps)
        size = (first.shape[1], first.shape[0])
        check_finished(clip.num_frames, size, fps, finish, 1 if upscaler is None else upscaler.scale)
        seam = LoopSeam() if closed_loop else None
        count, shape = 0, first.shape
        writer = VideoWriter(
            place,
            fps=finish.rate(fps),
            quality=80 if target.quality is None else target.quality,
            metadata=(content := _record(before, file, finish, closed_loop, roots)),
            loop=target.loop or 0,
            sound=_sound(file, clip.has_audio, place),
            after_frame=reporter.on("write"),
            codec=target.codec,
            max_size=target.max_size,
        )
        with writer:
            for frame in finished(
                chain((first,), clip.frames),
                finish,
                upscaler,
                num_frames=clip.num_frames,
                fps=fps,
                closed_loop=closed_loop,
                on_frame=reporter.on("finish"),
            ):
                writer.write(frame)
                if seam is not None:
                    seam.add(frame[None, ..., :3])
                count, shape = count + 1, frame.shape
                reporter.check()
    reporter.tell("write", count, count)
    write_sidecar(writer.path, content)
    return Finished(
        file=writer.path,
        source=file,
        num_frames=count,
        fps=float(finish.rate(fps)),
        size=(shape[1], shape[0]),
        seam=None if seam is None else seam.value(),
        notes=tuple(reporter.notes),
    )


def _sound(file: Path, has_audio: bool, place: str) -> Sound | None:
    if not has_audio:
        return None
    if format_of(place) in SOUND_CODECS:
        return Sound(file, 0.0)
    logger.warning("%s: its sound is left out, %s holds none; .mp4, .webm, .mov and .mkv do", file, place)
    return None


# -- records -----------------------------------------------------------------------------------------------------------


def _record_of(file: Path) -> dict[str, Any]:
    """The record inside a file or beside it; empty where there is none."""
    content = read_metadata(file)
    if not content and (sidecar := sidecar_of(file)).is_file():
        try:
            found = parse_json(sidecar.read_text("utf-8"), str(sidecar))
        except (UserError, OSError, UnicodeDecodeError):  # of another program
            return {}
        content = found if isinstance(found, dict) else {}
    return content


def _says_loop(record: dict[str, Any]) -> bool:
    parts = (record.get("request"), record.get("finish"))
    return any(isinstance(part, dict) and part.get("closed_loop") is True for part in parts)


def _record(before: dict[str, Any], file: Path, finish: Finish, closed_loop: bool, roots: Roots) -> dict[str, Any]:
    """The record of a finished file: its source and what was done.

    The request inside the source stays where it can say all of it, so that `--from` renders and finishes again.
    """
    from animatediff import __version__

    named = {name: value for name, value in (("upscaler", finish.upscaler), ("fps_out", finish.fps_out)) if value}
    if "upscaler" in named and Path(str(named["upscaler"])).suffix:
        named["upscaler"] = str(upscaler_file(str(named["upscaler"]), roots))
    stored, hashes = portable(named, roots)
    made: dict[str, Any] = {"file": file.name, "hash": fingerprint(file)}
    content: dict[str, Any] = {"animatediff": __version__, "made_from": made}
    if stored or closed_loop:
        content["finish"] = {**stored, **({"closed_loop": True} if closed_loop else {})}
    request = before.get("request")
    once = isinstance(request, dict) and not {"upscaler", "fps_out"} & set(request) and "finish" not in before
    if isinstance(request, dict) and (not stored or once) and request.get("closed_loop", False) == closed_loop:
        content["request"] = {**request, **stored}
        content |= {name: before[name] for name in ("files", "versions") if name in before}
    elif before:
        made["record"] = before
    if hashes:
        content["files"] = {**content.get("files", {}), **hashes}
    return content
