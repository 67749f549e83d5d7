"""Commands of README and of the first steps run as they stand, in their order, on files that ship or that a command
before has made."""

from __future__ import annotations

import re
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.paths import ROOT
from typer.testing import CliRunner

from animatediff.cli.main import app
from animatediff.media import read_video
from animatediff.pipelines.parts import LoadedParts
from animatediff.training import loop

ELSEWHERE = {
    "models/StableDiffusion/realisticVisionV20_v20.safetensors": "a checkpoint of others",
    "toonyou.safetensors": "another",
    "realisticVision.safetensors": "another",
    "configs/training/2-motion.yaml": "Stable Diffusion 1.5 and a data set",
}
"""Files that do not ship, by which commands are told that are not run here."""


DOCUMENTS = ("README.md", "docs/first_clip.md")


def commands() -> list[list[str]]:
    """Every indented line that begins with `animatediff`, as the shell cuts it; one that both have is run once."""
    texts = [(ROOT / name).read_text("utf-8").replace("\\\n", " ") for name in DOCUMENTS]
    lines = dict.fromkeys(line for text in texts for line in re.findall(r"^    (animatediff .*)$", text, re.MULTILINE))
    return [shlex.split(line, comments=True)[1:] for line in lines]


def test_commands_that_are_not_run_here_are_known() -> None:
    words = {word for command in commands() for word in command}
    assert set(ELSEWHERE) <= words
    assert len([command for command in commands() if not ELSEWHERE.keys() & set(command)]) >= 10


@pytest.mark.slow
def test_commands_run_as_they_stand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With fewer steps than the model recommends, and than the recipe trains: what the commands say is not changed."""
    recommended: Any = LoadedParts.recommended
    few = property(lambda pipe: replace(recommended.fget(pipe), num_inference_steps=1))
    monkeypatch.setattr(LoadedParts, "recommended", few)
    train = loop.train
    short = {"steps": 1, "warmup_steps": 0, "validate_every": 0, "validate_at": (), "batch_size": 1}
    monkeypatch.setattr(loop, "train", lambda config, **more: train(config.model_copy(update=short), **more))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(ROOT / "configs", target_is_directory=True)
    for command in commands():
        if ELSEWHERE.keys() & set(command):
            continue
        done = CliRunner().invoke(app, command)
        shown = f"animatediff {shlex.join(command)}: {done.stderr}"
        assert done.exit_code == 0 and done.exception is None, shown
        told = done.stderr.replace("--fast has no effect: outputs of so few steps", "")
        assert "has no effect" not in told and "was not trained on" not in told, shown
        if command[0] == "animate" and not {"--list-words", "--plan"} & set(command):
            file = tmp_path / done.stdout.split("  (seed")[0].splitlines()[0]
            assert len(read_video(file)[0]) == (1 if "car.png" in file.name else 40 if "40" in command else 16), shown
        elif command[0] == "train":
            assert (tmp_path / done.stdout.splitlines()[-1]).is_file(), shown
    assert (tmp_path / "car.png").is_file() and (tmp_path / "car.mp4").is_file()
