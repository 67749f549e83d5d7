"""What is stored with trained weights tells no folders of the machine that trained them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from animatediff.render.portable import bundled_hash
from animatediff.training.config import TrainConfig
from animatediff.training.portable import without_folders


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder, whose folder `work` is the working directory."""
    (tmp_path / "work" / "models" / "StableDiffusion").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path


def test_names_are_relative_to_the_folders_and_weights_are_hashed(home: Path) -> None:
    (home / "work" / "models" / "StableDiffusion" / "x.safetensors").write_bytes(b"weights")
    (home / "secret").mkdir()
    (home / "secret" / "adapter.ckpt").write_bytes(b"adapter")
    config = TrainConfig.model_validate(
        {
            "stage": "motion",
            "model": str(home / "work" / "models" / "StableDiffusion" / "x.safetensors"),
            "start_from": "bundled",
            "domain_adapter": {"path": str(home / "secret" / "adapter.ckpt"), "scale": 0.5},
            "data": {"path": str(home / "secret" / "clips.csv"), "video_folder": str(home / "work" / "videos")},
            "validation": {"data": {"path": str(home / "work" / "held_out")}, "prompts": [f"in {home}"]},
            "steps": 1,
        }
    )
    stored = config.stored()
    assert stored["model"] == "models/StableDiffusion/x.safetensors"
    assert stored["start_from"] == "bundled"
    assert stored["domain_adapter"] == {"path": "adapter.ckpt", "scale": 0.5}
    assert (stored["data"]["path"], stored["data"]["video_folder"]) == ("clips.csv", "videos")
    assert stored["validation"]["data"]["path"] == "held_out"
    assert str(home) not in json.dumps({**stored, "validation": stored["validation"]["data"]})
    hashes = {
        place: f"sha256:{hashlib.sha256(content).hexdigest()[:16]}"
        for place, content in (("model", b"weights"), ("domain_adapter", b"adapter"))
    }
    assert config.hashes() == {**hashes, "start_from": bundled_hash("bundled")}
    TrainConfig.model_validate(stored)


def test_addresses_of_shards_are_stored_without_what_opens_them() -> None:
    settings, hashes = without_folders({"data": {"path": "https://me:key@host.org/data-{00..09}.tar?sig=abc"}})
    assert settings == {"data": {"path": "https://host.org/data-{00..09}.tar"}} and hashes == {}
