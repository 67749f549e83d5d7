"""What tests of training share: clips made of nothing but numbers, and runs on a model of a few thousand weights.

As a script, `python training_clips.py SETTINGS.json` trains on those clips; several processes can be started of it.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from animatediff.training.config import TrainConfig
from animatediff.training.data.config import DataConfig
from animatediff.training.data.dataset import ClipDataset
from animatediff.training.loop import TrainResult, train
from support.paths import GOLDEN

MODEL = GOLDEN / "v2" / "sd"
"""An image model of 0.6 million weights: here 24x24 pictures, 12x12 latents."""
MOTION = GOLDEN / "v2" / "motion_module.ckpt"
SIZE, NUM_FRAMES = 24, 4
WORDS = ("right", "left", "up", "down")


class SquareClips(ClipDataset):
    """`num` clips of a square that moves as its caption says."""

    def __init__(
        self, num: int = 12, *, num_frames: int = NUM_FRAMES, size: int = SIZE, cache: str | None = None
    ) -> None:
        super().__init__(DataConfig(kind="sprites", num_frames=num_frames, height=size, width=size, cache=cache))
        self.num = num

    def __len__(self) -> int:
        return self.num

    def name(self, index: int) -> str:
        return f"square {index}"

    def clip(self, index: int, epoch: int) -> tuple[str, str, Any]:
        return f"square-{index}", WORDS[index % 4], index

    def frames(self, what: int) -> Tensor:
        config = self.config
        frames = torch.full((config.num_frames, 3, config.height, config.width), -0.5)
        colour = torch.rand(3, 1, 1, generator=torch.Generator().manual_seed(what)) * 2 - 1
        dx, dy = {"right": (1, 0), "left": (-1, 0), "up": (0, -1), "down": (0, 1)}[WORDS[what % 4]]
        for i, frame in enumerate(frames):
            x, y = config.width // 2 - 4 + dx * i, config.height // 2 - 4 + dy * i
            frame[:, y : y + 8, x : x + 8] = colour
        return frames


def settings(stage: str, out: Path, **more: Any) -> dict[str, Any]:
    """Settings of a short run on the small model."""
    values: dict[str, Any] = {
        "stage": stage,
        "model": str(MODEL),
        "data": {"kind": "sprites", "num_frames": NUM_FRAMES, "height": SIZE, "width": SIZE},
        "steps": 4,
        "batch_size": 2,
        "learning_rate": 1e-3,
        "out": str(out),
        "log_every": 1,
        "validation": {"num_items": 2, "num_inference_steps": 2},
    }
    if stage in ("motion_lora", "sparsectrl"):
        values["motion_module"] = str(MOTION)
    if stage in ("adapter", "motion_lora"):
        values["rank"] = 4
    return values | more


def run(stage: str, out: Path, *, num: int = 12, resume: bool | None = None, **more: Any) -> TrainResult:
    """Train for a few steps on the squares."""
    config = TrainConfig.model_validate(settings(stage, out, **more))
    clips = SquareClips(num, num_frames=config.clips().num_frames, cache=config.data.cache)
    return train(config, dataset=clips, resume=resume, quiet=True)


def wait_after_two_steps(curve: Path, go_on: Path) -> None:
    """From the second row of `curve` on, no clip is read before the file `go_on` exists."""
    frames = SquareClips.frames

    def waiting(self: SquareClips, what: int) -> Tensor:
        while curve.exists() and len(curve.read_text().splitlines()) >= 2 and not go_on.exists():
            time.sleep(0.01)
        return frames(self, what)

    SquareClips.frames = waiting


if __name__ == "__main__":
    values = json.loads(Path(sys.argv[1]).read_text())
    if (wait := values.pop("wait", None)) is not None:
        wait_after_two_steps(Path(values["out"]) / "curve.jsonl", Path(wait))
    done = run(values.pop("stage"), Path(values.pop("out")), **values)
    print(json.dumps({"step": done.step, "signal": done.signal}), flush=True)
