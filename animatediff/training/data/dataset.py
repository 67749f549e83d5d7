"""Clips by number: a map-style torch dataset whose every clip is decided by (seed, epoch, index) alone."""

from __future__ import annotations

import os
import random
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, TypedDict

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from animatediff.errors import UserError
from animatediff.media.animation import AnimatedImage
from animatediff.media.kinds import BadMedia, reason
from animatediff.media.open import open_media
from animatediff.media.reader import Reader
from animatediff.signatures import IMAGE_SUFFIXES
from animatediff.training.data.cache import LatentCache
from animatediff.training.data.clip import Draw, choose_frames, clip_key, draw, to_clip
from animatediff.training.data.config import DataConfig
from animatediff.training.data.frames import identity_of
from animatediff.training.data.items import Item, Listing

MAX_TRIES = 10
"""Unusable items in a row that are replaced by others before training stops."""


class ClipIndex(NamedTuple):
    """Epoch and number of an item, which gives another clip in each epoch."""

    epoch: int
    number: int


class _Named(TypedDict):
    text: str
    key: str
    """Name of exactly these frames: the file, and a hash of the cut."""
    bad: list[tuple[str, str]]
    """(name, reason) of items that could not be used, and that this one stands in for."""


class Beside(TypedDict, total=False):
    """Facts beside the frames."""

    poses: Tensor
    """float64 (f, 4, 4), camera to world: the path that the clip was filmed on, where it is known."""


class ClipItem(_Named, Beside, total=False):
    """One training sample, with either `frames` or `latents`."""

    frames: Tensor
    """float32 (f, 3, h, w) in -1..1."""
    latents: Tensor
    """The entry of the cache under `key`."""
    drawing: Any
    """What `draw` of the dataset takes in place of frames, where clips are drawn on the device."""
    position: tuple[int, ...]
    """Of shards: see `shards.Position`."""


class ClipDataset(Dataset[ClipItem], ABC):
    """A dataset of clips by number: `dataset[ClipIndex(epoch, index)]`, or `dataset[index]` for epoch 0.

    An item that cannot be used is replaced by another one, drawn from (seed, epoch, index), and named in `bad`.
    """

    def __init__(self, config: DataConfig) -> None:
        self.config = config
        self.cache: LatentCache | None = None

    def use_cache(self, cache: LatentCache | None) -> None:
        """Give `latents` for `frames` wherever `cache` has an entry under the item's key: nothing is decoded then."""
        self.cache = cache

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def clip(self, index: int, epoch: int) -> tuple[str, str, Any]:
        """Key, caption and the argument of `frames`, without opening a file. Raises BadMedia if the file has gone."""

    @abstractmethod
    def frames(self, what: Any) -> Tensor:
        """Read or draw the frames of a clip: float32 (f, 3, h, w) in -1..1. Raises BadMedia."""

    def beside(self, what: Any) -> Beside:
        """Facts that go with the frames of a clip."""
        return {}

    @abstractmethod
    def name(self, index: int) -> str:
        """Name of item `index` in messages."""

    def __getitem__(self, at: int | tuple[int, int]) -> ClipItem:
        return self.item(at)

    def item(self, at: int | tuple[int, int], *, undrawn: bool = False) -> ClipItem:
        """The sample at a number, or at (epoch, number); with `undrawn`, `drawing` in place of frames."""
        epoch, index = at if isinstance(at, tuple) else (0, at)
        if not 0 <= index < len(self):
            raise IndexError(index)
        others = random.Random(f"{self.config.seed}/{epoch}/{index}/others")
        bad: list[tuple[str, str]] = []
        for _ in range(MAX_TRIES):
            try:
                key, text, what = self.clip(index, epoch)
                latents = self.cache.get(key) if self.cache is not None else None
                item: ClipItem = {"text": text, "key": key, "bad": bad, **self.beside(what)}
                if latents is not None:
                    item["latents"] = latents
                elif undrawn:
                    item["drawing"] = what
                else:
                    item["frames"] = self.frames(what)
                return item
            except BadMedia as error:
                bad.append((self.name(index), str(error)))
                index = others.randrange(len(self))
        listed = "; ".join(f"{name}: {why}" for name, why in bad[-3:])
        raise UserError(
            f"{self.config.path}: {MAX_TRIES} clips drawn one after the other could not be used, the last of them "
            f"{listed}. Is the disk or share still there?"
        )


class DrawnClips(ClipDataset):
    """A dataset whose clips are drawn, not read: several at once, on any device."""

    @abstractmethod
    def draw(self, drawings: Sequence[Any], device: torch.device) -> Tensor:
        """Draw several clips on a device: float32 (n, f, 3, h, w) in -1..1, each as it would be alone.

        drawings: what `clip` says of each.
        """

    def frames(self, what: Any) -> Tensor:
        return self.draw([what], torch.device("cpu"))[0]


class Undrawn(Dataset[ClipItem]):
    """The samples of a dataset that draws, not drawn yet: so that whole batches are, on the device of the model."""

    def __init__(self, dataset: DrawnClips) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, at: int | tuple[int, int]) -> ClipItem:
        return self.dataset.item(at, undrawn=True)


class FileClips(ClipDataset):
    """Clips of the videos, or images, of a listing."""

    def __init__(self, config: DataConfig, listing: Listing) -> None:
        super().__init__(config)
        self.items = listing.items

    def __len__(self) -> int:
        return len(self.items)

    def name(self, index: int) -> str:
        return self.items[index].name

    def clip(self, index: int, epoch: int) -> tuple[str, str, tuple[Item, Draw]]:
        item = self.items[index]
        try:
            identity = identity_of(item.path)
        except OSError as error:
            raise BadMedia(f"cannot be opened ({reason(error)})") from error
        drawn = draw(self.config, epoch, index, item.name)
        key = clip_key(self.config, drawn, item.name, identity)
        return key, item.text, (item, drawn)

    def frames(self, what: tuple[Item, Draw]) -> Tensor:
        item, drawn = what
        return to_clip(read_frames(item.path, item.path, self.config, drawn), self.config, drawn)


def read_frames(source: str | bytes, name: str, config: DataConfig, drawn: Draw) -> np.ndarray:
    """Read the frames of a clip as they are in the file, uint8 (f, h, w, 3); an image gives one.

    source: the file, or its bytes, whose content says what it is; name: of the file. Raises BadMedia.
    """
    with opened(source, config) as media:
        return media.read(chosen_frames(media, name, config, drawn.start))


@contextmanager
def opened(source: str | bytes, config: DataConfig) -> Iterator[Reader]:
    """Open a video, an image or a folder of frames. Raises BadMedia."""
    try:
        with open_media(source, config.fps) as media:
            yield media
    except UserError as error:  # a folder from which the images have gone
        raise BadMedia(str(error)) from error


def is_still(media: Reader, name: str) -> bool:
    """Whether a file is a single image."""
    is_image = isinstance(media, AnimatedImage) or os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES
    return media.num_frames == 1 and is_image


def frames_in_time(media: Reader, config: DataConfig) -> tuple[int, ...]:
    """All frames at a constant rate, that of the configuration if it names one."""
    return media.steady().indices if config.fps is None else media.at_rate(config.fps)


def chosen_frames(media: Reader, name: str, config: DataConfig, start: float) -> list[int]:
    """Numbers of the frames of a clip: of a single image the one, of a video those shown at a constant rate.

    Raises BadMedia where there are too few.
    """
    if is_still(media, name):
        if config.num_frames > 1 and config.camera is None:
            raise BadMedia(f"is an image, one frame; {config.num_frames} are needed", "images, not clips")
        return [0]
    shown = frames_in_time(media, config)
    needed = (config.num_frames - 1) * config.stride + 1
    if config.fps is not None and len(shown) < needed:
        length = f"{len(shown) / config.fps:.3g} s, {needed / config.fps:.3g} s are needed"
        raise BadMedia(f"lasts {length} for {config.num_frames} frames", "shorter than a clip")
    return [shown[number] for number in choose_frames(len(shown), config.num_frames, config.stride, start)]
