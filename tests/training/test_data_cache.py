"""Latents and text embeddings on disk: found by what made them, remade when damaged, harmless when the disk is full."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from support.videos import numbered_video
from torch import Tensor, nn

from animatediff.training.data import ClipLoader, DataConfig, LatentCache, fingerprint, open_dataset


class Maker:
    """Makes values that tell their key, and remembers what it was asked for."""

    def __init__(self, keys: Sequence[str], dtype: torch.dtype = torch.float32) -> None:
        self.keys, self.dtype, self.asked = keys, dtype, list[str]()

    def __call__(self, missing: list[int]) -> Tensor:
        self.asked += [self.keys[i] for i in missing]
        return torch.stack([torch.full((2, 3), float(len(self.keys[i])), dtype=self.dtype) for i in missing])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_made_once(tmp_path: Path, dtype: torch.dtype) -> None:
    cache = LatentCache(tmp_path, "vae")
    keys = ["a", "bb", "ein Füchslein 🦊", "\udcfc.mp4"]
    make = Maker(keys, dtype)
    first = cache.get_or_make(keys[:2], make)
    both = cache.get_or_make(keys, make)
    assert make.asked == keys
    assert both.dtype == dtype and torch.equal(first, both[:2])
    assert both[:, 0, 0].tolist() == [1, 2, 15, 5]
    assert torch.equal(LatentCache(tmp_path, "vae").get_or_make(keys, make), both) and make.asked == keys
    LatentCache(tmp_path, "another vae").get_or_make(["a"], make)
    assert make.asked == [*keys, "a"]


def entries(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "other", "noise"])
def test_a_damaged_entry_is_made_again(tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    cache = LatentCache(tmp_path, "vae")
    value = cache.get_or_make(["a"], Maker(["a"]))
    (path,) = entries(tmp_path)
    content = path.read_bytes()
    damaged = {
        "cut": content[:-3], "flip": content[:-1] + bytes([content[-1] ^ 1]), "empty": b"",
        "other": content.replace(b"value", b"other"), "noise": os.urandom(50),
    }  # fmt: skip
    path.write_bytes(damaged[damage])
    make = Maker(["a"])
    with caplog.at_level(logging.WARNING):
        assert torch.equal(cache.get_or_make(["a"], make), value)
    assert make.asked == ["a"] and "is damaged, and made again" in caplog.text
    assert path.read_bytes() == content and entries(tmp_path) == [path]


@pytest.mark.parametrize(
    ("number", "message"), [(errno.ENOSPC, "the disk is full"), (errno.EACCES, "cannot be written (Permission denied)")]
)
def test_a_full_disk_is_one_message(
    tmp_path: Path, number: int, message: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    cache = LatentCache(tmp_path, "vae")
    cache.get_or_make(["kept"], Maker(["kept"]))

    def refuse(self: Path, content: bytes) -> int:
        self.touch()
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "write_bytes", refuse)
    make = Maker(["a", "bb"])
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert cache.get_or_make(["a", "bb"], make)[:, 0, 0].tolist() == [1, 2]
    assert len(make.asked) == 6 and caplog.text.count("nothing more is put into this cache") == 1
    assert message in caplog.text and "training goes on" in caplog.text
    assert len(entries(tmp_path)) == 1 and cache.get("kept") is not None


def test_wrong_number_of_values(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="asked for 2 values and gave 1"):
        LatentCache(tmp_path, "x").get_or_make(["a", "b"], lambda missing: torch.zeros(1, 2))


def test_fingerprint_tells_weights_types_and_settings() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))
    first = fingerprint(module)
    assert fingerprint(module) == first != fingerprint(module, "another size")
    assert fingerprint(module.bfloat16()) != first
    with torch.no_grad():
        module.float()[0].weight[0, 0] += 1e-6
    assert fingerprint(module) != first


def encode(frames: Tensor) -> Tensor:
    """Stands for a VAE: (b, f, 3, h, w) to (b, f, 3, h / 8, w / 8)."""
    return nn.functional.avg_pool2d(frames.flatten(0, 1), 8).unflatten(0, frames.shape[:2])


def test_cached_clips_are_not_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for i in range(2):
        numbered_video(tmp_path / "videos" / f"{i}.mp4", 20, f"video {i}", first=30 * i)
    config = DataConfig(
        path=str(tmp_path / "videos"), num_frames=4, stride=1, height=32, width=32,
        cache=str(tmp_path / "cache"), cache_variants=2,
    )  # fmt: skip
    cache = LatentCache(tmp_path / "cache", "vae")

    def run(cached: bool) -> tuple[dict[str, Tensor], int]:
        """All latents of 16 batches by key, and how many clips were decoded for them."""
        dataset: Any = open_dataset(config)
        if cached:
            dataset.use_cache(cache)
        loader = ClipLoader(dataset, 3)
        found, decoded = {}, 0
        for _, batch in zip(range(16), loader, strict=False):
            latents = torch.empty(3, 4, 3, 4, 4)
            missing = batch["missing"]
            decoded += len(missing)
            if missing:
                keys = [batch["key"][i] for i in missing]
                frames = batch["frames"]
                latents[missing] = cache.get_or_make(keys, lambda positions, frames=frames: encode(frames[positions]))
            if len(missing) < 3:
                latents[[i for i in range(3) if i not in missing]] = batch["latents"]
            found.update(zip(batch["key"], latents, strict=True))
        return found, decoded

    plain, decoded = run(cached=False)
    assert decoded == 48 and len(plain) == 4  # two variants of two videos
    first, decoded = run(cached=True)
    assert decoded == 0 and first.keys() == plain.keys()  # the run before has filled the cache
    assert all(torch.equal(first[key], plain[key]) for key in plain)
    os.utime(tmp_path / "videos" / "0.mp4", (1, 1))  # another file under the name, for all we know
    changed, decoded = run(cached=True)
    assert len(changed.keys() - plain.keys()) == 2 and decoded == 2
