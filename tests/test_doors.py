"""All doors side by side: the same request gives the same frames, and every option arrives, or is refused by name."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from animatediff.media.write import write_video
from animatediff.render.options import BY_NAME, FIELDS, PATH_FIELDS
from animatediff.render.portable import with_files
from animatediff.render.request import AnimateRequest, build_request
from scripts.doors import DOORS, Door, Place, a_place, table

THERE = [door for door in DOORS if not door.needs or find_spec(door.needs)]

EXAMPLES: dict[str, Any] = {
    "prompt": "a cat",
    "negative_prompt": "blurry",
    "prompt_travel": {8: "a dog", 12: "a fox"},
    "seed": 2**63 + 5,
    "num_frames": 24,
    "width": 72,
    "height": 80,
    "guidance_scale": 3.5,
    "scheduler": "euler_a",
    "family": "v2",
    "motion_scale": {0: 1.0, 15: 0.3},
    "window": 12,
    "overlap": 3,
    "controlnet_spread": [[0.5, 0.3]],
    "control_indices": [3],
    "keyframes": [{"frame": 2, "path": "image.png"}, {"frame": -1, "path": "image.png"}],
    "name": "my clip",
    "out": "sub/clip.gif",
    "fps": 12.5,
    "fps_out": 24.0,
    "upscale": 2.0,
    "device": "cpu",
    "dtype": "float32",
}
"""A value of each option whose type does not tell one."""
ENCODER = {"sparsectrl": "models/SparseCtrl/SparseCtrl.safetensors", "control_images": ["image.png"]}
NET = {"controlnet": ["models/ControlNet/ControlNet.safetensors"], "controlnet_video": ["video.mp4"]}
ADAPTER = {"ip_adapter": "models/IP-Adapter/IP-Adapter.safetensors", "ip_adapter_image": ["image.png"]}
NEEDED: dict[str, dict[str, Any]] = {
    **{name: ENCODER for name in FIELDS if name.startswith("control_")},
    **dict.fromkeys(("sparsectrl", "sparsectrl_config", "normalize_condition_images"), ENCODER),
    **{name: NET for name in FIELDS if name.startswith("controlnet")},
    **{name: ADAPTER for name in FIELDS if name.startswith("ip_adapter")},
    **{name: {"video": "video.mp4"} for name in ("strength", "video_fps", "video_start", "video_duration", "audio")},
    "video_by_number": {"video": "numbered"},
    "image_mode": {"image": "image.png"},
    **{name: {"upscale": 2.0} for name in ("upscale_strength", "upscale_steps")},
}
"""Other settings without which a request with an option is refused."""


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    """A place with an image, a video, and a file for each folder of models."""
    with a_place() as place:
        Image.fromarray(np.full((16, 16, 3), 90, np.uint8)).save("image.png")
        Path("numbered").mkdir()
        for name in ("0000.png", "0008.png"):
            Image.fromarray(np.full((16, 16, 3), 90, np.uint8)).save(f"numbered/{name}")
        write_video(np.zeros((4, 16, 16, 3), np.uint8), "video.mp4")
        Path("plan.yaml").write_text("a: 1\n")
        for folder in filter(None, PATH_FIELDS.values()):
            (Path("models") / folder / f"{folder}.safetensors").write_bytes(folder.encode())
        Path("models/upscale_models").mkdir(exist_ok=True)
        yield place


def example(name: str) -> Any:
    """A value of an option that is not its default, as a file of rows has it."""
    if name in EXAMPLES:
        return EXAMPLES[name]
    option = BY_NAME[name]
    kind = option.annotation.removeprefix("tuple[").removesuffix(", ...]").removesuffix(" | None")
    default = option.default[0] if isinstance(option.default, tuple) and option.default else option.default
    model = f"models/{option.folder}/{option.folder}.safetensors"
    if kind == "WeightRef":
        value: Any = {"path": model, "scale": 0.7}
    elif kind == "EmbeddingRef":
        value = {"path": model, "token": "ugly"}
    elif option.in_memory:
        value = "image.png" if option.in_memory == "image" else "video.mp4"
    elif name == "ip_adapter_encoder":
        value = "models/IP-Adapter/IP-Adapter.safetensors"
    elif option.folder is not None:
        value = model if option.folder else "plan.yaml"
    elif option.entry is bool:
        value = not default
    elif option.choices is not None:
        value = next(word for word in option.choices if word != default)
    elif option.entry is int:
        value = (default or 1) + 2
    elif option.entry is float:
        value = 0.25 if default != 0.25 else 0.5
    else:
        value = "some words"
    return [value] if option.many else value


def said(request: AnimateRequest) -> dict[str, Any]:
    """All that a request says, with the content of each file in place of its name."""

    def content(path: str, setting: str, _: str) -> str:
        file = Path(path)
        files = sorted(file.iterdir()) if file.is_dir() else [file] if file.is_file() else []
        found = b"".join((one.name.encode() if len(files) > 1 else b"") + one.read_bytes() for one in files)
        return hashlib.sha256(found).hexdigest() if files else path

    return with_files(request.model_dump(mode="json", exclude_defaults=True), content)


@pytest.mark.parametrize("door", [door for door in THERE if door.request], ids=lambda door: door.name)
def test_every_option_arrives(door: Door, place: Place) -> None:
    assert door.request is not None
    plain = said(door.request({"prompt": "a fox"}, place))
    without, wrong = door.without(), {}
    for name in FIELDS:
        settings = {"prompt": "a fox", **NEEDED.get(name, {}), name: example(name)}
        if name in without:
            continue
        try:
            request = door.request(settings, place)
        except Exception as error:
            wrong[name] = repr(error)
            continue
        if said(request) == plain or said(request) != said(build_request(settings)):
            wrong[name] = said(request)
    assert wrong == {}


@pytest.mark.parametrize(("name", "kind"), [("animatediff serve", "ApiError"), ("Cog", "UserError")])
def test_what_a_service_does_not_take_is_refused_by_name(name: str, kind: str, place: Place) -> None:
    """Nothing that a door has no room for is dropped without a word."""
    door = next(door for door in DOORS if door.name == name)
    if door not in THERE or door.request is None:
        pytest.skip("the extra `serve` is not installed")
    for option in door.without():
        value = example(option) if option != "controlnet_spread" else [[0.5]]
        with pytest.raises(Exception, match=option) as error:
            door.request({"prompt": "a fox", option: value}, place)
        assert type(error.value).__name__ == kind


def test_a_mistake_is_said_by_every_door(place: Place) -> None:
    for door in THERE:
        if door.request is not None:
            with pytest.raises(Exception, match=r"steps=.*expected 1 to 1000") as error:
                door.request({"prompt": "a fox", "steps": 100_000}, place)
            assert type(error.value).__name__ in ("UserError", "ApiError", "BadRowsError")


def test_the_same_request_gives_the_same_frames() -> None:
    """The table that `python -m scripts.doors` prints."""
    if len(THERE) < len(DOORS):
        pytest.skip("not all extras are installed")
    rows = table()
    assert [name for name, _, _ in rows] == [door.name for door in DOORS]
    assert len({digest for _, _, digest in rows}) == 1, rows
    assert {size for _, size, _ in rows} == {"4x64x64"}
