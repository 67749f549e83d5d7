"""Files of a render: the video with its request inside and beside it, sheets, the original's folder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from animatediff.errors import UserError
from animatediff.files import HERE, Roots, check_folder, check_writable, write_errors, write_text
from animatediff.media.formats import FOLDER, check_sides, codec_of, format_of, frame_rate, num_frames_at
from animatediff.media.grid import grid_frames
from animatediff.media.image_file import write_image
from animatediff.media.seam import LoopSeam
from animatediff.media.sheet import keyframe_sheet
from animatediff.media.spool import Spool
from animatediff.media.write import VideoWriter, check_output, check_takes_sound
from animatediff.prompts import PromptTravel
from animatediff.render.camera_image import camera_image
from animatediff.render.clip import Clip
from animatediff.render.events import Reporter
from animatediff.render.finish import finish_of
from animatediff.render.inputs import sound_of
from animatediff.render.names import default_name, file_stem, new_folder, numbered, slug
from animatediff.render.read.place import free_name
from animatediff.render.record import config_text, record, write_sidecar
from animatediff.render.request import AnimateRequest
from animatediff.render.resume import Resume
from animatediff.render.subjects import warn_of_idle_output
from animatediff.render.timeline import timeline_image

GRID_FPS = 8


@dataclass(frozen=True, kw_only=True)
class Rendered:
    """Files of one clip."""

    file: Path
    """A video, an image, or a folder of frames."""
    request: AnimateRequest
    """With the real seed and every recommended value filled in."""
    sheets: tuple[Path, ...] = ()
    """Of a clip with images: those given, above the frames rendered; of a prompt that travels: its timeline; of one
    whose camera follows a path: that path."""
    seam: float | None = None
    """Of a closed loop: the step from the last frame to the first over that of neighbours, 1 is seamless."""
    notes: tuple[str, ...] = ()
    """Choices made for the user, and warnings."""
    folder: Path | None = None
    """Of a `RunFolder`: the folder made, the grid of all clips, and the configuration that repeats them."""
    grid: Path | None = None
    config: Path | None = None


@dataclass(frozen=True)
class OneFile:
    """Clips as `path`, numbered where there are several; None is `samples/{prompt}{suffix}` under a free name.

    Beside each goes `FILE.json`, from which `load_result` repeats it, and, where images condition the clip, a sheet of
    them, `{name}.keyframes.png`, where the prompt travels, its timeline, `{name}.prompts.png`, and where the camera
    follows a path, that path, `{name}.camera.png`.
    """

    path: str | None = None
    suffix: str = ".mp4"
    """Of the free name; empty for a folder of frames."""
    note: Mapping[str, Any] = field(default_factory=dict)
    """Further entries of the record inside and beside each clip, as plain JSON values."""
    resume: Resume | None = None
    """How the state of long renders is saved, so that the same requests go on; None saves none."""

    @contextmanager
    def opened(self, requests: Sequence[AnimateRequest], roots: Roots, reporter: Reporter) -> Iterator[_OneFile]:
        """The writer of these requests. Raises UserError where it could not write."""
        num_clips = sum(request.num_clips for request in requests)
        first = self.path or str(roots.samples / default_name(requests[0], self.suffix))
        for request in requests:
            warn_of_idle_output(request, format_of(first))
            check_output(first, request.codec, request.max_size)
            _check_size(first, request)
            if request.audio:
                check_takes_sound(first)
        if self.path is not None:
            for index in range(num_clips):
                if format_of(target := numbered(self.path, index, num_clips)) == FOLDER:
                    check_folder(target)
        check_writable(first)
        yield _OneFile(self.path, Path(first), num_clips, roots, reporter, self.suffix, self.note)


@dataclass(frozen=True)
class RunFolder:
    """Clips in a new folder of the original's layout, `{root}/{stem}-{time}/`; None is the folder of samples.

    Where the requests have one `name`, it stands in place of `stem`.

    It gets `sample/{index}-{first ten words}.gif`, the grid `sample.gif`, `config.yaml` with the seeds used, and the
    conditioning images as `control_images/{number}.png`.
    """

    stem: str
    root: Path | None = None
    resume: Resume | None = None
    """As of `OneFile`."""

    @contextmanager
    def opened(self, requests: Sequence[AnimateRequest], roots: Roots, reporter: Reporter) -> Iterator[_RunFolder]:
        """The writer of these requests. Raises UserError where it could not write."""
        root = self.root or roots.samples
        for request in requests:
            warn_of_idle_output(request, "gif")
            check_output("sample.gif", request.codec, request.max_size)
            _check_size("sample.gif", request)
            if request.audio:
                check_takes_sound("sample.gif")
        titles = {request.name for request in requests}
        stem = file_stem(requests[0].name or self.stem) if len(titles) == 1 else self.stem
        check_writable(root / stem / "config.yaml")
        writer = _RunFolder(root, stem, requests, roots, reporter)
        try:
            yield writer
        except BaseException:
            if writer.folder is not None:
                with suppress(OSError):  # what is finished stays; an empty folder does not
                    writer.folder.rmdir()
            raise
        finally:
            writer.close()


@dataclass
class _OneFile:
    path: str | None
    place: Path
    num_clips: int
    roots: Roots
    reporter: Reporter
    suffix: str
    note: Mapping[str, Any]
    done: list[Rendered] = field(default_factory=list)
    keeps_files = True

    def target(self, index: int, num_clips: int) -> Path | None:
        return None if self.path is None else Path(numbered(self.path, index, num_clips))

    def add(self, clip: Clip) -> None:
        if self.path is None:
            target = free_name(str(self.roots.samples / default_name(clip.request, self.suffix)), 1)
        else:
            target = numbered(self.path, len(self.done), self.num_clips)
        overwrite = self.path is not None
        rendered = write_clip(clip, target, self.reporter, overwrite=overwrite, roots=self.roots, note=self.note)
        self.done.append(rendered)

    def finish(self) -> list[Rendered]:
        return self.done


@dataclass
class _RunFolder:
    root: Path
    stem: str
    requests: Sequence[AnimateRequest]
    roots: Roots
    reporter: Reporter
    folder: Path | None = None
    done: list[Rendered] = field(default_factory=list)
    _frames: list[Spool] = field(default_factory=list)
    """Of each clip, on disk, for the grid: GIF files hold no exact colours."""
    _images: list[bytes] = field(default_factory=list)
    keeps_files = False  # the grid wants the frames of all

    @property
    def place(self) -> Path:
        return self.root / self.stem

    def target(self, index: int, num_clips: int) -> Path | None:
        return None

    def add(self, clip: Clip) -> None:
        if self.folder is None:
            with write_errors(self.root):
                self.folder = new_folder(self.root, self.stem)
        target = self.folder / "sample" / f"{len(self.done)}-{slug(clip.request.prompt[0])}.gif"
        rendered = write_clip(clip, target, self.reporter, overwrite=True, spools=self._frames, roots=self.roots)
        self.done.append(replace(rendered, folder=self.folder))
        for image in clip.keyframes.images:  # under the next numbers, unless another clip of this folder had the same
            if (content := image.tobytes()) not in self._images:
                write_image(image, self.folder / "control_images" / f"{len(self._images)}.png")
                self._images.append(content)

    def finish(self) -> list[Rendered]:
        assert self.folder is not None
        fps = finish_of(self.requests[0]).rate(GRID_FPS)
        with VideoWriter(self.folder / "sample.gif", fps=fps, after_frame=self.reporter.on("write")) as grid:
            for frame in grid_frames(self._frames):
                grid.write(frame)
                self.reporter.check()
        config = self.folder / "config.yaml"
        write_text(config, config_text(self.requests, [rendered.request for rendered in self.done], self.roots))
        return [replace(rendered, grid=grid.path, config=config) for rendered in self.done]

    def close(self) -> None:
        for frames in self._frames:
            frames.close()


def _check_size(path: str, request: AnimateRequest) -> None:
    """Raise UserError for a size, where one is given, that the file does not hold."""
    if request.width and request.height:
        check_sides(path, codec_of(format_of(path), request.codec), *request.larger_size(request.width, request.height))


def shown_from(index: int, request: AnimateRequest) -> int:
    """The frame of the file at which frame `index` of the clip is shown first, or, at a lower rate, the nearest one."""
    fps = frame_rate(request.fps or GRID_FPS)
    rate = finish_of(request).rate(fps) / fps
    return min(round(index * rate), num_frames_at(request.num_frames or 1, rate) - 1)


def write_clip(
    clip: Clip,
    target: str | Path,
    reporter: Reporter,
    *,
    overwrite: bool,
    spools: list[Spool] | None = None,
    roots: Roots = HERE,
    note: Mapping[str, Any] | None = None,
) -> Rendered:
    """Write a clip's frames as they are decoded, then the files beside it; nothing half written stays.

    spools: gets the frames once more, on disk; roots: folders that names in the record are relative to; note: further
    entries of the record.
    """
    request, content = clip.request, record(clip.request, roots) | dict(note or {})
    seam = LoopSeam() if request.closed_loop else None
    num_frames = request.num_frames or 1
    fps = finish_of(request).rate(request.fps or GRID_FPS)
    indices = [index % num_frames for index in clip.keyframes.indices]
    shown = {shown_from(index, request): index for index in indices}
    kept: dict[int, np.ndarray] = {}
    writer = VideoWriter(
        target,
        fps=fps,
        quality=request.quality,
        metadata=content,
        loop=request.loop,
        codec=request.codec,
        max_size=request.max_size,
        overwrite=overwrite,
        sound=sound_of(request),
        after_frame=reporter.on("write"),
    )
    first = 0
    with writer:
        for frames in clip.frames:
            writer.write(frames)
            if seam is not None:
                seam.add(frames)
            kept |= {shown[at]: frames[at - first].copy() for at in shown if first <= at < first + len(frames)}
            if spools is not None:
                if first == 0:
                    spools.append(Spool((frames.shape[1], frames.shape[2])))
                for frame in frames:
                    spools[-1].add(frame)
            first += len(frames)
        reporter.check()
    reporter.tell("write", first, first)
    path = writer.path
    sheets = []
    with _beside(path):
        write_sidecar(path, content)
        if clip.keyframes.images:
            sheet = keyframe_sheet(clip.keyframes.images, kept, indices)
            sheets.append(write_image(sheet, path.with_name(f"{path.stem}.keyframes.png")))
        if isinstance(prompt := request.prompt_of(), PromptTravel):
            sheets.append(write_image(timeline_image(prompt, num_frames), path.with_name(f"{path.stem}.prompts.png")))
        if clip.camera is not None:
            sheets.append(write_image(camera_image(clip.camera), path.with_name(f"{path.stem}.camera.png")))
    return Rendered(
        file=path,
        request=request,
        sheets=tuple(sheets),
        seam=None if seam is None else seam.value(),
        notes=tuple(clip.notes),
    )


@contextmanager
def _beside(path: Path) -> Iterator[None]:
    """Say in errors of the files beside a result that the result itself is there."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{path} is written, but not all that belongs beside it: {error}") from error
