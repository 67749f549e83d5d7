"""Frames of a call that were decoded before it was stopped: a file for those of each save."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from animatediff.pipelines.saves import Saves
from animatediff.sampling.state import BadState

logger = logging.getLogger(__name__)


@dataclass(kw_only=True)
class SavedFrames:
    """Decoded chunks of frames, (n, 3, H, W) in 0..1; those that become bytes anyway are kept as bytes."""

    saves: Saves
    latents: Tensor
    """(b, c, f, h, w) of the whole call, from which the others are decoded."""
    _files: list[int] = field(default_factory=list)
    """Chunks in each file that is there."""
    _read: tuple[int, Sequence[Tensor]] | None = None
    """The file that was read last, and its chunks."""
    _new: list[Tensor] = field(default_factory=list)

    @classmethod
    def of(cls, saves: Saves, latents: Tensor) -> SavedFrames:
        """Those of a call; said where there are some."""
        found = cls(saves=saves, latents=latents)
        state = saves.at("decode")
        files = None if state is None else state.get("files")
        if isinstance(files, list) and all(type(count) is int and count > 0 for count in files):
            found._files = files
        if state is not None:
            saves.say(f"goes on with decoding, at chunk {sum(found._files) + 1}")
        elif saves.due():
            found._save()
        return found

    def get(self, index: int, shape: tuple[int, ...]) -> Tensor | None:
        """Chunk `index`, of this shape; None where it is to be decoded."""
        if index >= sum(self._files):
            return None
        number = 0
        while index >= self._files[number]:
            index -= self._files[number]
            number += 1
        try:
            chunks = self._chunks(number)
            if len(chunks) != self._files[number] or tuple(chunks[index].shape) != shape:
                raise BadState("other frames than those of this call")
        except BadState as error:
            logger.warning("saved frames are damaged (%s); they are decoded again", error)
            self._files = self._files[:number]
            return None
        chunk = chunks[index].to(self.latents.device)
        return chunk.float() / 255 if chunk.dtype == torch.uint8 else chunk

    def add(self, images: Tensor) -> None:
        """Note a chunk that was decoded behind the others, and save the call if that is due."""
        images = (images.float() * 255).round().to(torch.uint8) if self.saves.as_bytes else images
        self._new.append(images.cpu())
        if not self.saves.due():
            return
        if self.saves.folder.write(self._name(len(self._files)), self._new):
            self._files.append(len(self._new))
            self._new = []
        self._save()

    def _save(self) -> None:
        self.saves.save({"phase": "decode", "latents": self.latents, "files": self._files})

    def _chunks(self, number: int) -> Sequence[Tensor]:
        if self._read is None or self._read[0] != number:
            found = self.saves.folder.read(self._name(number), most_bytes=self.saves.most_bytes, device="cpu")
            if not isinstance(found, list) or not all(_is_frames(one) for one in found):
                raise BadState("no frames")
            self._read = number, found
        return self._read[1]

    def _name(self, number: int) -> str:
        return f"{self.saves.name}.frames-{number}"


def _is_frames(value: Any) -> bool:
    return isinstance(value, Tensor) and (value.dtype == torch.uint8 or value.is_floating_point())
