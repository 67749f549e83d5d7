"""Entries of a request: files with a strength or a word, and images and videos, by file name or in memory."""

from __future__ import annotations

import hashlib
import os
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainValidator, WithJsonSchema

NOTE = "in_memory"
"""Key of the note that stands in a record for an image or a video that was in memory."""


def file_name(value: Any) -> Any:
    """Text of a path object; other values as they are."""
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def whole_text(value: Any) -> Any:
    """Texts, also in lists and tables, whose bytes a terminal's locale could not read; other values as they are.

    Python reads such bytes as halves of surrogate pairs. Raises ValueError for those that are no UTF-8 either.
    """
    if isinstance(value, list | tuple):
        return [whole_text(item) for item in value]
    if isinstance(value, dict):
        return {key: whole_text(item) for key, item in value.items()}
    if not isinstance(value, str) or not any("\ud800" <= char <= "\udfff" for char in value):
        return value
    try:
        return value.encode("utf-8", "surrogateescape").decode()
    except UnicodeError:
        raise ValueError(f"{value[:80]!r} holds what is no text (bytes that are no UTF-8)") from None


def _image(value: Any) -> Any:
    """A file name, or an image in memory as it is."""
    value = file_name(value)
    if not (isinstance(value, str) and value) and not is_pixels(value):
        raise ValueError("expected the name of a file, a PIL image, an array or a tensor")
    return value


def _video(value: Any) -> Any:
    """A file name, or frames in memory as they are."""
    if isinstance(value, list | tuple) and value and all(map(is_pixels, value)):
        return list(value)
    return _image(value)


def is_pixels(value: Any) -> bool:
    """Whether a value is a PIL image, an array or a tensor. Imports none of them."""
    kinds = {kind.__module__.partition(".")[0] for kind in type(value).__mro__}
    return bool(kinds & {"PIL", "numpy", "torch"}) and (hasattr(value, "tobytes") or hasattr(value, "numpy"))


Name = Annotated[str | None, BeforeValidator(lambda v: None if isinstance(v, str) and not v.strip() else v)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Size = Annotated[int, Field(ge=8, multiple_of=8)]
Count = Annotated[int, Field(ge=1)]
PathName = Annotated[str, BeforeValidator(file_name), Field(min_length=1)]
ImageInput = Annotated[Any, PlainValidator(_image), WithJsonSchema({"type": "string", "format": "path"})]
"""Name of a file, or an image in memory: PIL, uint8 (h, w, c) or a tensor in 0..1."""
VideoInput = Annotated[Any, PlainValidator(_video), WithJsonSchema({"type": "string", "format": "path"})]
"""Name of a file or a folder, or frames in memory: a list of PIL images, or an array or a tensor of all of them."""


class Entry(BaseModel):
    """Base of the entries of a request: frozen, and without room for unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class WeightRef(Entry):
    """A LoRA file and how strongly it acts."""

    path: PathName
    scale: Finite = 1.0


class EmbeddingRef(Entry):
    """A textual inversion file; `token` overrides the word that it stands for."""

    path: PathName
    token: Name = None


class Keyframe(Entry):
    """An image and the frame that shows it; negatives count from the end."""

    frame: int
    path: ImageInput


def noted(value: Any) -> Any:
    """`value` with a note of kind, size and SHA-256 of the pixels in place of each image and video in memory."""
    if isinstance(value, Keyframe):
        path = noted(value.path)
        return value if path is value.path else value.model_copy(update={"path": path})
    if is_pixels(value):
        shape, content = _content(value)
        kind = "an image" if len(shape) < 4 else "a video"
        return {NOTE: kind, "shape": shape, "sha256": hashlib.sha256(content).hexdigest()}
    if isinstance(value, list) and value and all(map(is_pixels, value)):  # frames of one video
        parts = [_content(frame) for frame in value]
        digest = hashlib.sha256(b"".join(content for _, content in parts)).hexdigest()
        return {NOTE: "a video", "shape": [len(parts), *parts[0][0]], "sha256": digest}
    if isinstance(value, tuple):
        return tuple(noted(item) for item in value)
    return value


def is_note(value: Any) -> bool:
    """Whether a value, or an entry of it, stands in a record for an image or a video that was in memory."""
    if isinstance(value, dict):
        return NOTE in value or is_note(value.get("path"))
    return isinstance(value, list | tuple) and any(map(is_note, value))


def _content(pixels: Any) -> tuple[list[int], bytes]:
    """Shape and bytes of an image or a video, the same for PIL images and their arrays."""
    if hasattr(pixels, "detach"):  # a tensor
        pixels = pixels.detach().cpu()
        pixels = (pixels if pixels.dtype.is_complex or pixels.itemsize != 2 else pixels.float()).numpy()
    if hasattr(pixels, "getbands"):
        bands = len(pixels.getbands())
        return [pixels.height, pixels.width, *([bands] if bands > 1 else [])], pixels.tobytes()
    return list(pixels.shape), pixels.tobytes()
