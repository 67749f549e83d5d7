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
from support.options import example, settings_with, with_marked

from animatediff.media.write import write_video
from animatediff.render.options import BY_NAME, FIELDS, PATH_FIELDS
from animatediff.render.portable import with_files
from animatediff.render.request import AnimateRequest, build_request
from scripts.doors import DOORS, Door, Place, a_place, table

THERE = [door for door in DOORS if not door.needs or find_spec(door.needs)]


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


def file_of(mark: str, option: str) -> str:
    """The file of a mark, in the working directory of `place`."""
    folder = BY_NAME[option].folder or "IP-Adapter"
    files = {"IMAGE": "image.png", "VIDEO": "video.mp4", "NUMBERED": "numbered", "YAML": "plan.yaml"}
    return files.get(mark) or f"models/{folder}/{folder}.safetensors"


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
        if name in without:
            continue
        settings = settings_with(name, file_of)
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
        value = with_marked(example(option), option, file_of) if option != "controlnet_spread" else [[0.5]]
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
