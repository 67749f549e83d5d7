"""Captions with words that the bundled model was not trained on: counted in the check, and nowhere else."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from PIL import Image
from support.training_clips import MODEL
from support.videos import write_shard
from typer.testing import CliRunner

from animatediff.cli.main import app
from animatediff.training.config import TrainConfig
from animatediff.training.data import check_data
from animatediff.training.models import tokenizer_of

CAPTIONS = ("a fox on a green background", "a Dragon over (castle:1.2)", "a dragon", "")


def config(path: Path, **settings: object) -> TrainConfig:
    data = {"path": str(path), "height": 64, "width": 64}
    return TrainConfig.model_validate({"stage": "adapter", "steps": 1, "data": data, **settings})


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    for number, text in enumerate(CAPTIONS):
        Image.new("RGB", (64, 64)).save(folder / f"{number}.png")
        if text:
            (folder / f"{number}.txt").write_text(text)
    return folder


def test_captions_are_counted_and_words_named_the_commonest_first(images: Path) -> None:
    given = config(images)
    report = check_data(given.clips(), tokenizer_of(given))
    assert not report.is_clean
    assert (
        "note: 2 of 4 captions have words that the bundled model was not trained on, and reads as letters: "
        "dragon (2), 1 (1), 2 (1), castle (1), over (1); `animatediff animate --list-words`" in str(report)
    )


def test_of_shards_the_first_samples_are_looked_at(images: Path, tmp_path: Path) -> None:
    samples = [(path.stem, {path.suffix[1:]: path.read_bytes()}) for path in sorted(images.iterdir())]
    write_shard(tmp_path / "0.tar", samples)
    given = config(tmp_path / "0.tar")
    assert "2 of 4 captions have words" in str(check_data(given.clips(), tokenizer_of(given)))


@pytest.mark.parametrize("settings", [{"model": str(MODEL)}, {"model": "nowhere"}, {"model": "bundled/nothing"}])
def test_other_models_know_all_words(images: Path, settings: dict[str, object]) -> None:
    given = config(images, **settings)
    assert "was not trained on" not in str(check_data(given.clips(), tokenizer_of(given)))


def test_known_words_are_no_note(images: Path, tmp_path: Path) -> None:
    for name in ("0.png", "0.txt"):
        (tmp_path / name).write_bytes((images / name).read_bytes())
    given = config(tmp_path, model="bundled/paper")
    assert check_data(given.clips(), tokenizer_of(given)).is_clean


def test_the_command_says_them(images: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(yaml.safe_dump(config(images, out=str(tmp_path / "out")).model_dump(exclude_defaults=True)))
    done = CliRunner().invoke(app, ["train", str(path), "--check"])
    assert done.exit_code == 0, done.output
    assert "dragon (2)" in done.output
