"""The stage camera: from clips with paths to a model that the sampler loads, with all else as it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file
from support.paths import ROOT

from animatediff.pipelines import AnimateDiffPipeline
from animatediff.training.config import TrainConfig
from animatediff.training.data import open_dataset
from animatediff.training.loop import train
from animatediff.training.read import load_train_config
from animatediff.weights.recognise import recognise

RECIPE = ROOT / "configs" / "training" / "bundled" / "camera.yaml"


def settings(out: Path, **more: Any) -> TrainConfig:
    recipe = load_train_config(RECIPE).model_dump()
    data = {**recipe["data"], "num_frames": 4, "num_items": 2, "cache": None}
    short = {"steps": 2, "warmup_steps": 0, "batch_size": 1, "ema": None, "save_every": 0, "weights_dtype": "float32"}
    look = {"prompts": ["a fox"], "num_inference_steps": 1, "num_items": 1}
    return TrainConfig.model_validate({**recipe, **short, "data": data, "out": str(out), "validation": look} | more)


def test_from_training_to_the_sampler(tmp_path: Path) -> None:
    done = train(settings(tmp_path / "run", validate_at=[2], gradient_checkpointing=True), quiet=True)
    assert len(list((tmp_path / "run" / "samples").rglob("*.mp4"))) == 1
    assert recognise(done.weights).kind == "cameractrl"
    pipe = AnimateDiffPipeline.from_bundled(torch_dtype="float32")
    control = pipe.load_camera_control(done.weights)
    assert control.config.factor == pipe.base.vae_scale_factor

    def latents(**more: Any) -> torch.Tensor:
        generator = torch.Generator().manual_seed(1)
        size = {"num_frames": 4, "height": 64, "width": 64}
        return pipe("a fox", generator=generator, num_inference_steps=1, output_type="latent", **size, **more).frames

    without = latents()
    assert not torch.equal(latents(camera="zoom-in"), without), "both steps of training moved the merge layers"
    assert torch.equal(latents(), without)
    again = train(settings(tmp_path / "again", steps=1, learning_rate=1e-12, start_from=str(done.weights)), quiet=True)
    first, second = load_file(done.weights), load_file(again.weights)
    assert set(first) == set(second)
    assert all(torch.allclose(first[key], second[key], atol=1e-6) for key in first)


def test_clips_bring_their_paths() -> None:
    data = settings(Path("run")).data
    one, other = (open_dataset(data)[index] for index in (0, 1))  # pyright: ignore
    assert one["poses"].shape == (4, 4, 4) and torch.equal(one["poses"][0], torch.eye(4).double())
    assert not torch.equal(one["poses"], other["poses"]) and one["key"] != other["key"]
    still = open_dataset(data.model_copy(update={"camera_paths": False}))[0]  # pyright: ignore
    assert "poses" not in still and still["key"] != one["key"] and not torch.equal(still["frames"], one["frames"])


def test_settings_that_contradict_each_other() -> None:
    plain = settings(Path("run")).model_dump()
    for changes, said in (
        ({"camera_paths": False}, "set data.camera_paths"),
        ({"camera": "ZoomIn"}, "take one of them"),
        ({"kind": "folder", "path": "clips", "motions": None}, "camera_paths is for kind: sprites"),
    ):
        with pytest.raises(ValidationError, match=said):
            TrainConfig.model_validate({**plain, "data": {**plain["data"], **changes}})
