"""Fields for images and videos, which are dropped onto the page."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from animatediff.camera.moves import is_file
from animatediff.errors import UserError
from animatediff.frames import frame_number
from animatediff.ui.fields import Field, Sources
from animatediff.ui.labels import label
from animatediff.ui.library import gr, image_file, image_files

MOVING = ["video", "image", ".gif", ".webp", ".apng", ".mkv"]


class Image(Field):
    """One image."""

    def make(self, sources: Sources) -> None:
        self.parts = [
            image_file(
                sources=["upload", "clipboard"],
                height=190,
                label=label(self.name),
                elem_id=self.anchor,
                buttons=[],
                placeholder="Drop an image, or click",
            )
        ]

    def read(self, values: Sequence[Any], sources: Sources) -> Any:
        return sources.uploads.keep(values[0]) if values[0] else None


class Images(Field):
    """Several images."""

    wide = True

    def make(self, sources: Sources) -> None:
        self.parts = [_gallery(label(self.name), self.anchor)]

    def read(self, values: Sequence[Any], sources: Sources) -> Any:
        return [sources.uploads.keep(path) for path in values[0] or ()] or None

    def show(self, setting: Any, sources: Sources) -> list[Any]:
        return [list(setting or ())]


class ImagesAtFrames(Images):
    """Images, and the frames that they stand at."""

    def make(self, sources: Sources) -> None:
        images = _gallery(label(self.name), self.anchor)
        frames = gr.Textbox(
            "",
            label=f"{label(self.name)} at frames",
            info="One frame for each image, in their order; -1 is the last. Filled in evenly when images are dropped.",
            placeholder="0, 8, -1",
        )
        self.parts = [images, frames]

    def read(self, values: Sequence[Any], sources: Sources) -> Any:
        images, text = values[0] or (), str(values[1] or "")
        frames = [part.strip() for part in text.split(",") if part.strip()]
        if not images:
            return None
        if len(frames) != len(images):
            raise UserError(f"`{self.name}`: {len(images)} images and {len(frames)} frames; give one frame for each")
        try:
            numbers = [frame_number(frame) for frame in frames]
        except UserError as error:
            raise UserError(f"`{self.name}`: {error}") from error
        kept = [sources.uploads.keep(path) for path in images]
        return [{"frame": frame, "path": path} for frame, path in zip(numbers, kept, strict=True)]

    def show(self, setting: Any, sources: Sources) -> list[Any]:
        entries = list(setting or ())
        return [[entry["path"] for entry in entries], ", ".join(str(entry["frame"]) for entry in entries)]


class Files(Field):
    """A video, or several images that go as a folder."""

    wide = True

    def make(self, sources: Sources) -> None:
        self.parts = [
            gr.File(file_count="multiple", file_types=MOVING, height=140, label=self._title, elem_id=self.anchor)
        ]

    @property
    def _title(self) -> str:
        return f"{label(self.name)} (animated ones too)"

    def read(self, values: Sequence[Any], sources: Sources) -> Any:
        return sources.uploads.keep_all(values[0]) if values[0] else None

    def show(self, setting: Any, sources: Sources) -> list[Any]:
        if not setting:
            return [None]
        if os.path.isdir(setting):
            return [sorted(entry.path for entry in os.scandir(setting) if entry.is_file())]
        return [[setting]]


class TextFile(Field):
    """A configuration file."""

    def make(self, sources: Sources) -> None:
        self.parts = [
            gr.File(
                file_types=[".yaml", ".yml"],
                height=130,
                label=f"{label(self.name)} (only compared)",
                elem_id=self.anchor,
            )
        ]

    def read(self, values: Sequence[Any], sources: Sources) -> Any:
        return sources.uploads.keep(values[0]) if values[0] else None


class PosesOrMoves(Field):
    """Moves of a camera as a text, a file of poses, or a video whose camera is followed."""

    wide = True

    def make(self, sources: Sources) -> None:
        self.parts = [
            gr.Textbox("", placeholder="zoom-in:0.5, pan-left:0.2@ease-in-out", max_lines=1, **self.described),
            gr.File(
                file_types=[".txt", ".csv", *MOVING],
                height=130,
                label=f"{label(self.name)}: or a file of poses or video",
                elem_id=f"{self.anchor}-file",
            ),
        ]

    def read(self, values: Sequence[Any], sources: Sources) -> Any:
        text, file = str(values[0] or "").strip(), values[1]
        if is_file(text):
            raise UserError(f"`{self.name}`: {text}: not uploaded here; drop the file into the field below it")
        if text and file:
            raise UserError(f"`{self.name}`: moves and a file are given; empty one of the two")
        return text or (sources.uploads.keep(file) if file else None)

    def show(self, setting: Any, sources: Sources) -> list[Any]:
        return [None, setting] if setting and is_file(setting) else [setting or "", None]


def _gallery(title: str, anchor: str) -> Any:
    return image_files(
        label=f"{title}: drop images here",
        elem_id=anchor,
        file_types=["image"],
        sources=["upload", "clipboard"],
        interactive=True,
        columns=4,
        height=190,
        object_fit="contain",
        buttons=[],
    )


def spread(images: Sequence[Any] | None, frames: str | None, num_frames: str | None) -> Any:
    """Frames for images that have none yet: the first, the last, and evenly between; other numbers of frames stay."""
    count = len(images or ())
    given = [part for part in str(frames or "").split(",") if part.strip()]
    if len(given) == count or not count:
        return gr.skip()
    length = int(num_frames) if num_frames and num_frames.strip().isdecimal() else 16
    places = [round(index * (length - 1) / max(1, count - 1)) for index in range(count)]
    return ", ".join(str(-1 if index and index == count - 1 else place) for index, place in enumerate(places))
