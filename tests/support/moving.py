"""Clips whose camera movement is known: a textured picture, warped by a transform that is applied frame after frame."""

from __future__ import annotations

import cv2
import numpy as np


def texture(side: int, seed: int = 0) -> np.ndarray:
    """Soft coloured noise on several scales, as real scenes have: float32 (side, side, 3) in 0..1."""
    rng = np.random.default_rng(seed)
    picture = np.zeros((side, side, 3), np.float32)
    for scale in (2, 4, 8, 16, 32):
        coarse = rng.standard_normal((side // scale, side // scale, 3)).astype(np.float32)
        picture += cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC) * scale**0.5
    return (picture - picture.min()) / (picture.max() - picture.min())


def step_matrix(pan: float = 0.0, tilt: float = 0.0, zoom: float = 0.0, roll: float = 0.0) -> np.ndarray:
    """Movement of the picture's content about the middle, (3, 3), for a camera step in the units of `Camera`."""
    scale, angle = 1 + zoom / 100, np.radians(roll)
    a, c = scale * np.cos(angle), scale * np.sin(angle)  # y points down: this turns clockwise on the screen
    return np.array([[a, -c, -pan], [c, a, tilt], [0, 0, 1]])


def filmed(
    scene: np.ndarray, width: int, height: int, num_frames: int, border: int = cv2.BORDER_REFLECT, **camera: float
) -> np.ndarray:
    """A clip, uint8 (f, h, w, 3), of `scene` (float 0..1, middle on middle), the camera moving equally each step."""
    step = step_matrix(**camera)
    frames = []
    for i in range(num_frames):
        back = np.linalg.matrix_power(np.linalg.inv(step), i - num_frames // 2)  # the middle frame shows the middle
        at_scene, at_frame = np.eye(3), np.eye(3)
        at_scene[:2, 2] = (scene.shape[1] - 1) / 2, (scene.shape[0] - 1) / 2
        at_frame[:2, 2] = -(width - 1) / 2, -(height - 1) / 2
        matrix = (at_scene @ back @ at_frame)[:2]
        frame = cv2.warpAffine(
            scene, matrix, (width, height), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, borderMode=border
        )
        frames.append((frame.clip(0, 1) * 255).round().astype(np.uint8))
    return np.stack(frames)
