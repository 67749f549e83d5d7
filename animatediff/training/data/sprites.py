"""Clips of the bundled sprite world, drawn when they are asked for."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from animatediff.camera.plane import plane_views, random_moves, random_path
from animatediff.sprites import world
from animatediff.sprites.styles import STYLES
from animatediff.sprites.watermark import add_watermark
from animatediff.training.data.camera import camera_path
from animatediff.training.data.config import DataConfig
from animatediff.training.data.dataset import Beside, DrawnClips

APPEARANCE = ("num_frames", "height", "width", "motions", "watermark", "look", "camera", "camera_strength")
"""Settings that decide the frames of a clip, beside its number and the seed."""


class Drawing(NamedTuple):
    """What a clip shows, in plain numbers, so that it is drawn with others and where the model is."""

    poses: list[world.Pose]
    """Of each frame."""
    extra: int
    """Seed of what is drawn on top."""


class SpriteClips(DrawnClips):
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

    def clip(self, index: int, epoch: int) -> tuple[str, str, Drawing]:
        config = self.config
        # What is shown, and everything drawn on top, hang on numbers of their own: a look changes no scene.
        digest = hashlib.sha256(f"{config.seed}/{index}".encode()).digest()
        seed, extra = (int.from_bytes(digest[i : i + 6], "little") for i in (0, 8))
        if config.num_frames == 1:
            poses, texts = world.still_poses(1, seed, self.pool)
        else:
            poses, texts = world.clip_poses(1, seed, self.pool, config.num_frames)
        drawing = Drawing(poses, extra)
        return self._key(index, drawing), texts[0], drawing

    def _key(self, index: int, drawing: Drawing) -> str:
        """A name of exactly these frames: the world may be another one by now than when the cache was written."""
        config = self.config
        made_by = hashlib.sha256(repr([world.VERSION, *(getattr(config, name) for name in APPEARANCE)]).encode())
        if config.camera_paths:
            made_by.update(repr(random_moves(random.Random(drawing.extra))).encode())
        made_by.update(world.scene_of(drawing.poses).numbers())
        return f"{self.name(index)}#{made_by.hexdigest()[:16]}"

    def beside(self, what: Drawing) -> Beside:
        return {"poses": random_path(what.extra, self.config.num_frames).to_world} if self.config.camera_paths else {}

    def draw(self, drawings: Sequence[Drawing], device: torch.device) -> Tensor:
        config = self.config
        scene = world.scene_of([pose for drawing in drawings for pose in drawing.poses]).to(device)
        images = world.render(scene, view=self._views(drawings))
        if config.look is not None:
            images = STYLES[config.look](images)
        clips = images.unflatten(0, (len(drawings), config.num_frames))
        if config.watermark:
            clips = torch.stack([add_watermark(c, d.extra) for c, d in zip(clips, drawings, strict=True)])
        size = (config.height, config.width)
        if size != (world.SIZE, world.SIZE):
            images = clips.flatten(0, 1)
            images = functional.interpolate(images, size, mode="bicubic", antialias=True, align_corners=False)
            clips = images.unflatten(0, clips.shape[:2])
        return torch.clamp(clips * 2 - 1, -1, 1)

    def _views(self, drawings: Sequence[Drawing]) -> Tensor | None:
        """Where the camera looks in each frame of each clip, (n*f, 2, 3), or None where it stands still."""
        config = self.config
        if config.camera_paths:
            paths = [random_path(drawing.extra, config.num_frames) for drawing in drawings]
            return torch.cat([plane_views(path, world.SIZE, world.SIZE) for path in paths])
        if config.camera is None:
            return None
        return camera_path(config.camera, config.num_frames, config.camera_strength).repeat(len(drawings), 1, 1)
