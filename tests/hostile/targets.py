"""What is fuzzed: sound files of each kind, and what reads them."""

from __future__ import annotations

import io
import json
import pickle
import random
import struct
import zipfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hostile.mutate import mutated


@dataclass(frozen=True)
class Target:
    """Readers of one kind of file."""

    sound: Callable[[Path], list[tuple[str, bytes]]]
    """Suffix and content of sound files; takes a folder to make them in."""
    read: Callable[[Path], Any]
    inside: bool = False
    """Whether the pickle in an archive is changed, and not the archive around it."""


def _frames(size: int = 16) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (6, size, size, 3), np.uint8)


def _media(folder: Path) -> list[tuple[str, bytes]]:
    from animatediff.media import write_video

    record = {"request": {"prompt": ["a fox"], "seed": [1], "num_frames": 6}, "version": "0"}
    made = []
    for suffix in (".mp4", ".webm", ".gif", ".webp", ".apng"):
        path = write_video(_frames(), folder / f"sound{suffix}", metadata=record)
        made.append((suffix, path.read_bytes()))
    return made


def _images(folder: Path) -> list[tuple[str, bytes]]:
    from PIL import Image

    image, made = Image.fromarray(_frames(24)[0]), []
    for suffix, form, options in (
        (".png", "PNG", {}), (".jpg", "JPEG", {}), (".tif", "TIFF", {"compression": "tiff_lzw"}), (".bmp", "BMP", {}),
        (".tga", "TGA", {"compression": "tga_rle"}), (".webp", "WEBP", {}), (".gif", "GIF", {}),
    ):  # fmt: skip
        buffer = io.BytesIO()
        image.save(buffer, form, **options)
        made.append((suffix, buffer.getvalue()))
    return made


def _state() -> dict[str, Any]:
    import torch

    names = [
        f"down_blocks.{i}.motion_modules.0.temporal_transformer.proj_in.{part}"
        for i in range(2)
        for part in ("weight", "bias")
    ]
    return {name: torch.zeros(4, 4) if name.endswith("weight") else torch.zeros(4) for name in names}


def _pickles(folder: Path) -> list[tuple[str, bytes]]:
    import torch

    made = []
    for index, (content, legacy) in enumerate(
        [
            ({"state_dict": _state(), "epoch": 3, "name": "x", "rng": 2**500}, False),
            ({"model": torch.nn.Sequential(torch.nn.Linear(2, 2)), "args": {"lr": 1e-4}}, False),
            (_state(), True),
            ({"optimizer": {"state": {i: {"exp_avg": torch.zeros(2)} for i in range(3)}}, **_state()}, False),
        ]
    ):
        path = folder / f"sound{index}.ckpt"
        torch.save(content, path, _use_new_zipfile_serialization=not legacy)
        made.append((".ckpt", path.read_bytes()))
    return made


def _opcodes(folder: Path) -> list[tuple[str, bytes]]:
    return [
        (".ckpt", pickle.dumps({"a": [1, 2.5, (3, "x"), {4}, b"y"], "b": {"c": None}}, protocol=p)) for p in range(5)
    ]


def _safetensors(folder: Path) -> list[tuple[str, bytes]]:
    from safetensors.torch import save

    facts = {
        "image_norm_over_frames": False, "motion_norm_over_frames": False, "max_positions": 32, "betas": None,
        "norm_groups": 32, "recommended": {},
    }  # fmt: skip
    return [
        (
            ".safetensors",
            save(_state(), metadata={"animatediff.family": "v3", "animatediff.numerics": json.dumps(facts)}),
        ),
        (".safetensors", save({"lora_unet_x.lora_up.weight": _state().popitem()[1]}, metadata={"ss_network_dim": "4"})),
    ]


YAML = """
- motion_module: &m v3_sd15_mm.ckpt
  dreambooth_path: ""
  seed: [1, 2]
  steps: 25
  guidance_scale: 7.5
  prompt: &p ["a fox", "a bear"]
  n_prompt: [""]
- {motion_module: *m, steps: 0x10, prompt: *p, L: 16, W: 512, H: 512, controlnet_image_indexs: [0, -1]}
"""
TRAVEL = {
    "name": "x", "path": "m.safetensors", "motion_module": "mm.ckpt", "seed": [1], "scheduler": "ddim", "steps": 20,
    "guidance_scale": 7, "prompt_map": {"0": "a fox", "8": "a bear"}, "n_prompt": ["bad"], "head_prompt": "x",
    "output": {"format": "gif", "fps": 8}, "lora_map": {"a.safetensors": {"region": ["0"], "scale": {"0": 1.0}}},
    "controlnet_map": {"input_image_dir": "", "controlnet_canny": {"enable": False}},
}  # fmt: skip
RECORD = {
    "version": "0.1.0",
    "request": {
        "prompt": ["a fox"], "seed": [7], "num_frames": 16, "width": 64, "height": 64, "motion_scale": {"0": 1.0},
        "prompt_travel": [{"8": "a bear"}], "loras": [{"path": "a.safetensors", "scale": 1.0}],
    },
}  # fmt: skip


def _inspected(path: Path) -> Any:
    from animatediff.weights.inspect import describe

    return json.dumps(describe(path), default=str)


def _config(path: Path) -> Any:
    from animatediff.render import load_config

    return [request.stored() for request in load_config(path)]


def _result(path: Path) -> Any:
    from animatediff.render import load_result

    return load_result(path).stored()


def _clip(path: Path) -> Any:
    from animatediff.errors import UserError
    from animatediff.limits import limits
    from animatediff.media import read_metadata
    from animatediff.media.read import open_clip
    from animatediff.media.source import open_source

    with limits(max_pixels=2**22, max_animation_pixels=2**24, max_video_frames=10_000):
        for read in (read_metadata, lambda given: open_source(given, fps=8.0)):
            with suppress(UserError):
                read(path)
        with open_clip(path) as clip:
            for _ in clip.frames:
                pass


def _image(path: Path) -> Any:
    from animatediff.media.stills import open_image

    return open_image(path).size


TARGETS = {
    "pickle": Target(_pickles, _inspected, inside=True),
    "archive": Target(_pickles, _inspected),
    "opcodes": Target(_opcodes, _inspected),
    "safetensors": Target(_safetensors, _inspected),
    "yaml": Target(lambda _: [(".yaml", YAML.encode())], _config),
    "json": Target(lambda _: [(".json", json.dumps(TRAVEL).encode())], _config),
    "sidecar": Target(lambda _: [(".json", json.dumps(RECORD).encode())], _result),
    "media": Target(_media, _clip),
    "image": Target(_images, _image),
}


def changed(target: Target, sound: bytes, chance: random.Random) -> bytes:
    """One changed file."""
    if target.inside and sound[:2] == b"PK":
        with zipfile.ZipFile(io.BytesIO(sound)) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        name = next(name for name in members if name.endswith("data.pkl"))
        members[name] = mutated(members[name], chance)
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            for key, content in members.items():
                archive.writestr(key, content)
        return buffer.getvalue()
    if sound[8:9] == b"{":  # safetensors: the header, with its true length before it in most cases
        length = struct.unpack("<Q", sound[:8])[0]
        header = mutated(sound[8 : 8 + length], chance)
        stated = len(header) if chance.random() < 0.9 else chance.choice((0, 1, 2**31, 2**63, length))
        return struct.pack("<Q", stated) + header + sound[8 + length :]
    return mutated(sound, chance)
