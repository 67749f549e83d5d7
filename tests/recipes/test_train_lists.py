"""The lists of `make bundled` and of `train_gpu.sh`: what they would run is valid, and a few steps of it run here."""

from __future__ import annotations

import os
import shutil
import subprocess
from importlib import import_module
from pathlib import Path

import pytest
import torch

from animatediff.pipelines import AnimateDiffPipeline
from animatediff.sprites import world
from animatediff.training import loop
from animatediff.training.config import TrainConfig
from animatediff.training.read import load_train_config

HOUSE = Path(__file__).parents[2]
FAKE = '#!/bin/sh\necho "$@" >> "$LOG"\n'
"""Stands for Python: writes down what it was asked to run."""


def commands(script: str, folder: Path, **environment: str) -> list[list[str]]:
    """What a list runs in `folder`, word by word, without running it."""
    (fake := folder / "python").write_text(FAKE)
    fake.chmod(0o755)
    run = folder / "run"
    subprocess.run(
        ["sh", HOUSE / "recipes/bundled" / script, fake, run], cwd=HOUSE, check=True, capture_output=True,
        env={**os.environ, "LOG": str(folder / "log"), **environment},
    )  # fmt: skip
    return [line.split() for line in (folder / "log").read_text().splitlines()]


def config_of(command: list[str]) -> TrainConfig | None:
    """The configuration of a run of `animatediff train`; None for other commands."""
    if command[:3] != ["-m", "animatediff", "train"]:
        return None
    assert command[4::2] == ["--set"] * len(command[5::2])
    return load_train_config(HOUSE / command[3], command[5::2])


@pytest.mark.parametrize("script", ["train.sh", "train_gpu.sh"])
def test_every_run_of_the_list_is_valid(script: str, tmp_path: Path) -> None:
    listed = commands(script, tmp_path)
    configs = [config for command in listed if (config := config_of(command)) is not None]
    assert len({config.out for config in configs}) == len(configs) == 20
    others = {command[1].rpartition(".")[2] for command in listed if config_of(command) is None}
    assert others == {
        "vae", "text", "base", "decoder", "export", "sanity", "classifiers", "measure", "style_classifier", "results",
    }  # fmt: skip
    if script == "train_gpu.sh":
        assert all(config.precision == "bf16" and config.data.cache is None for config in configs)
        assert all(config.compile for config in configs if Path(str(config.out)).name in ("image_start", "image"))
        # What is trained for the new model is trained on the new model, and lies beside it.
        own = [config for config in configs if Path(str(config.out)).name not in ("image_start", "image", "motion")]
        assert {config.model for config in own} == {str(tmp_path / "run/export/model")}


@pytest.mark.slow
def test_a_few_steps_of_the_list_make_a_model_that_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the autoencoder to a MotionLoRA, each step by the command of the list, drawn where the model is."""
    monkeypatch.chdir(HOUSE)
    made_with = loop.make_loader

    def loader(config: TrainConfig, accelerator: object, dataset: object) -> object:
        made = made_with(config, accelerator, dataset)
        made._draw_on = torch.device("cpu")  # as a GPU is drawn on
        return made

    monkeypatch.setattr(loop, "make_loader", loader)
    stills = world.stills
    # Of the images that the autoencoder is measured on, a few.
    monkeypatch.setattr(world, "stills", lambda num, *given, **more: stills(min(num, 24), *given, **more))
    run = tmp_path / "run"
    for command in commands("train_gpu.sh", tmp_path, QUICK="1"):
        config = config_of(command)
        if config is not None and Path(str(config.out)).name in ("image_start", "image", "motion", "ZoomIn"):
            loop.train(config, quiet=True)
            if config.stage == "motion_lora":
                break
        elif config is None and command[1].endswith((".vae", ".text", ".base", ".decoder", ".export")):
            import_module(command[1]).main(command[2:])
    made = run / "export"
    assert not (run / "cache").exists()
    pipe = AnimateDiffPipeline.from_pretrained(made / "model", torch_dtype="float32")
    pipe.load_motion_module(made / "motion_module.safetensors")
    pipe.load_lora_weights(run / "motion_lora/ZoomIn/motion_lora.safetensors")
    frames = pipe("a fox", num_frames=4, num_inference_steps=2, output_type="pt").frames
    assert frames.shape == (1, 4, 3, 64, 64) and frames.isfinite().all()
    shutil.rmtree(run)
