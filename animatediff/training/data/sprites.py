"""Clips of the bundled sprite world, drawn when they are asked for."""

from __future__ import annotations

import hashlib
import random
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from animatediff.camera.plane import plane_views, random_moves, random_path
from animatediff.sprites import world
from animatediff.sprites.styles import STYLES
from animatediff.sprites.watermark import add_watermark
from animatediff.training.data.camera import camera_path
from animatediff.training.data.config import DataConfig
from animatediff.training.data.dataset import Beside, ClipDataset

APPEARANCE = ("num_frames", "height", "width", "motions", "watermark", "look", "camera", "camera_strength")
"""Settings that decide the frames of a clip, beside its number and the seed."""


class SpriteClips(ClipDataset):
    """`num_items` clips, or stills, of combinations that training may see; item i is the same in all epochs.

    A motion takes the whole clip, whatever `num_frames`; `stride` and `flip` mean nothing here. With a camera the scene
    is drawn as it sees it, so that nothing is cut or blurred, and the sprite goes on with its own motion.
    """

    def __init__(self, config: DataConfig) -> None:
        super().__init__(config)
        motions = config.motions
        self.pool = [c for c in world.TRAIN if motions is None or c[2] in motions]

    def __len__(self) -> int:
        return self.config.num_items

    def name(self, index: int) -> str:
        return f"sprites/{self.config.seed}/{index}"

    def clip(self, index: int, epoch: int) -> tuple[str, str, Any]:
        config = self.config
        # What is shown, and everything drawn on top, hang on numbers of their own: a look changes no scene.
        digest = hashlib.sha256(f"{config.seed}/{index}".encode()).digest()
        seed, extra = (int.from_bytes(digest[i : i + 6], "little") for i in (0, 8))
        if config.num_frames == 1:
            scene, texts = world.stills(1, seed, self.pool)
        else:
            scene, texts = world.clips(1, seed, self.pool, config.num_frames)
        # What is drawn names what is cached: the world may be another one by now than when the cache was written.
        made_by = hashlib.sha256(repr([world.VERSION, *(getattr(config, name) for name in APPEARANCE)]).encode())
        if config.camera_paths:
            made_by.update(repr(random_moves(random.Random(extra))).encode())
        made_by.update(scene.numbers())
        key = f"{self.name(index)}#{made_by.hexdigest()[:16]}"
        return key, texts[0], (scene, extra)

    def beside(self, what: tuple[world.Scene, int]) -> Beside:
        return {"poses": random_path(what[1], self.config.num_frames).to_world} if self.config.camera_paths else {}

    def frames(self, what: tuple[world.Scene, int]) -> Tensor:
        config, (scene, extra) = self.config, what
        view = camera_path(config.camera, config.num_frames, config.camera_strength) if config.camera else None
        if config.camera_paths:
            view = plane_views(random_path(extra, config.num_frames), world.SIZE, world.SIZE)
        images = world.render(scene, view=view)
        if config.look is not None:
            images = STYLES[config.look](images)
        if config.watermark:
            images = add_watermark(images, extra)
        size = (config.height, config.width)
        if size != (world.SIZE, world.SIZE):
            images = functional.interpolate(images, size, mode="bicubic", antialias=True, align_corners=False)
        return torch.clamp(images * 2 - 1, -1, 1)
