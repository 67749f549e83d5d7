"""The form without a browser: every option has a field, a change of it arrives in the request, and comes back."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import MISSING
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.options import Files, settings_with, with_marked

pytest.importorskip("gradio", reason="the extra `ui` is not installed")

from animatediff.errors import UserError
from animatediff.render import OPTIONS, build_request
from animatediff.render.options import BY_NAME, PATH_FIELDS, PER_CLIP
from animatediff.ui.form import Form
from animatediff.ui.labels import GROUPS, IN_SIGHT, LABELS, NOT_ON_THE_PAGE, concerned, groups, worded
from animatediff.ui.launch import roots_of
from animatediff.ui.library import uploads_folder
from animatediff.ui.page import Page

SENT = "of-the-test"
"""Folder of what the browser has sent."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A working directory with a model and, as a browser would have sent them, an image and a video."""
    place = tmp_path_factory.mktemp("page")
    (place / "models" / "Motion_Module").mkdir(parents=True)
    (place / "models" / "Motion_Module" / "mine.safetensors").write_bytes(b"")
    sent = Path(uploads_folder()) / SENT
    sent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((16, 16, 3), 90, np.uint8)).save(sent / "image.png")
    (sent / "video.mp4").write_bytes(b"not looked into here")
    (sent / "plan.yaml").write_text("a: 1\n")
    before = os.getcwd()
    os.chdir(place)
    yield place
    os.chdir(before)
    shutil.rmtree(sent)


@pytest.fixture(scope="module")
def page(place: Path) -> Page:
    output = Path("samples")
    return Page(None, roots=roots_of(output), output=output)


@pytest.fixture
def form(page: Page) -> Form:
    return page.form


def files_of(keep: Callable[[str], str] = str) -> Files:
    """The files of the marks, as a browser has sent them; keep: their place -> the name that they go by."""
    names = {"IMAGE": "image.png", "VIDEO": "video.mp4", "NUMBERED": "video.mp4", "YAML": "plan.yaml"}
    model = "models/Motion_Module/mine.safetensors"
    sent = Path(uploads_folder()) / SENT
    return lambda mark, option: keep(str(sent / names[mark])) if mark in names else model


def listed(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings as a form has them: lists where several values may stand."""
    return {
        name: [value] if BY_NAME[name].many and not isinstance(value, list) else value
        for name, value in settings.items()
    }


def typed(form: Form, settings: dict[str, Any]) -> list[Any]:
    """The values of the components when a user has made these settings, with marks for files."""
    settings = {name: with_marked(value, name, files_of()) for name, value in settings.items()}
    values = {name: field.show(settings.get(name), form.sources) for name, field in form.fields.items()}
    values |= form.units.show(settings, form.sources)
    return [value for name in form.names for value in values[name]]


def test_every_option_is_on_the_page(form: Form) -> None:
    """But for those of the person who starts it; each with components, a place for its error, and a group."""
    assert set(form.names) == {option.name for option in OPTIONS} - set(NOT_ON_THE_PAGE)
    assert set(NOT_ON_THE_PAGE) == {"out", "download"}
    assert all(form.parts(name) for name in form.names)
    assert set(form.errors) == set(form.names)
    placed = [name for names in groups().values() for name in names]
    assert sorted([*placed, *IN_SIGHT]) == sorted(form.names), "each once"
    assert set(LABELS) <= set(BY_NAME) and {name for names in GROUPS.values() for name in names} <= set(BY_NAME)


def test_the_button_sends_every_field(page: Page) -> None:
    """Also those that are folded away."""
    ids = {part._id for part in page.form.components}
    sent = [set(event["inputs"]) for event in page.blocks.config["dependencies"]]
    assert any(ids <= inputs for inputs in sent)


@pytest.mark.parametrize("name", [option.name for option in OPTIONS if option.name not in NOT_ON_THE_PAGE])
def test_a_change_arrives_and_comes_back(name: str, form: Form) -> None:
    settings = listed(settings_with(name, files_of()))
    values = typed(form, settings)
    if name == "video_by_number":  # which takes a folder: several images
        values = typed(form, {**settings, "video": None})
        (at,) = (number for number, part in enumerate(form.components) if part is form.parts("video")[0])
        sent = Path(uploads_folder()) / SENT
        shutil.copy(sent / "image.png", sent / "0001.png")
        values[at] = [str(sent / "image.png"), str(sent / "0001.png")]
        request = form.request(values)
        assert request.video_by_number and Path(request.video).is_dir()
        assert sorted(path.name for path in Path(request.video).iterdir()) == ["0001.png", "image.png"]
        return
    request = form.request(values)
    default = BY_NAME[name].default
    assert default is MISSING or getattr(request, name) != default
    kept = settings_with(name, files_of(form.sources.uploads.keep))  # in the output folder; models are those of models/
    assert request == build_request(kept)
    # and the form that is filled from the request makes the same
    as_sent = [_sent(value) for value in form.shown(request)]
    assert form.request(as_sent) == request.model_copy(update={"name": None}), "results do not store their title"


def _sent(value: Any) -> Any:
    """The value as the browser sends it back: files lie in the folder of uploads."""
    if isinstance(value, list):
        return [_sent(item) for item in value]
    if isinstance(value, str) and "/inputs/" in f"/{value}" and Path(value).is_file():
        target = Path(uploads_folder()) / SENT / Path(value).name
        shutil.copy(value, target)
        return str(target)
    return value


def test_upscalers_of_the_package_are_listed(form: Form) -> None:
    listed = [value for _, value in form.sources.choices.of("upscaler")]
    assert "realesr-animevideov3-x2" in listed
    values = typed(form, {"prompt": ["a fox"], "upscaler": "realesr-animevideov3-x2"})
    assert form.request(values).upscaler == "realesr-animevideov3-x2"


def test_what_nobody_changed_is_left_to_the_model(form: Form) -> None:
    """A fresh form and a prompt are the same request as on the command line."""
    assert form.request(typed(form, {"prompt": ["a fox"]})) == build_request({"prompt": "a fox"})


def test_clips_have_the_seeds_after_the_first(form: Form) -> None:
    values = typed(form, {"prompt": ["a fox"], "seed": [7]})
    assert form.request(values, 3).seed == (7, 8, 9)
    assert form.request(typed(form, {"prompt": ["a fox"]}), 2).seed == (-1, -1)
    with pytest.raises(UserError, match="1 to 64"):
        form.request(values, 1000)


def test_moves_are_sliders(form: Form) -> None:
    """Of bundled and of published files; a move given twice, or beyond the slider, is a row."""
    entries = [{"path": "bundled/ZoomIn", "scale": 0.8}, {"path": "models/MotionLoRA/v2_lora_PanLeft.ckpt"}]
    values = form.fields["motion_loras"].show([*entries, {"path": "bundled/ZoomIn", "scale": 3.0}], form.sources)
    assert values[:3] == [0.8, 0.0, 1.0] and values[8:10] == ["bundled/ZoomIn", 3.0]


@pytest.mark.parametrize("name", [name for name in PATH_FIELDS if name not in NOT_ON_THE_PAGE])
@pytest.mark.parametrize("path", ["/etc/hostname", "models/../../../../../../etc/hostname", "secret.png"])
def test_a_browser_cannot_name_other_files(name: str, path: str, form: Form, place: Path) -> None:
    """Neither as a model nor as an upload: not of the machine, nor of the working directory."""
    (place / "secret.png").write_bytes(b"x")
    values = typed(form, {"prompt": ["a fox"]})
    start = next(number for number, part in enumerate(form.components) if part is form.parts(name)[0])
    offset = 8 if name == "motion_loras" else 0  # behind the sliders
    several = isinstance(values[start + offset], list) or name in ("video", "drive", "controlnet_video")
    values[start + offset] = [path] if several else path
    if name == "keyframes":
        values[start + 1] = "0"
    with pytest.raises(UserError, match=r"none of the models here|not uploaded here"):
        form.request(values)


@pytest.mark.parametrize(
    ("settings", "name", "words"),
    [
        ({"steps": 0}, "steps", "0: expected 1 to 1000"),
        ({"width": 100}, "width", "nearest: 96 or 104"),
        ({"window": 4, "overlap": 4}, "overlap", "less than"),
        ({"control_images": ["IMAGE"]}, "control_images", "“SparseCtrl encoder”"),
        ({"strength": 0.5}, "strength", "add “Video or images”"),
        ({"seed": [-5]}, "seed", "a seed of 64 bits"),
        ({"scheduler": "ddimm"}, "scheduler", "ddim"),
        ({"ip_adapter": "MODEL"}, "ip_adapter_image", "no image for it"),
    ],
)
def test_an_error_stands_beside_its_field(settings: dict[str, Any], name: str, words: str, form: Form) -> None:
    from animatediff.sampling.schedulers import scheduler_name

    def ask() -> None:
        asked = form.request(typed(form, {"prompt": ["a fox"], **settings}))
        scheduler_name(asked.scheduler or "")  # what the renderer asks first

    with pytest.raises(UserError) as caught:
        ask()
    message = str(caught.value)
    updates, line, names = form.failure(message)
    assert names[0] == name and form.errors[name] in updates
    shown = updates[form.errors[name]].value
    assert words in shown or words in line


def test_a_message_about_a_file_stands_beside_its_field(form: Form) -> None:
    request = form.request(typed(form, {"prompt": ["a fox"], "image": "IMAGE"}))
    _, _, names = form.failure(f"{request.image}: is no image", request)
    assert names == ["image"]


def test_messages_use_the_words_of_the_page() -> None:
    assert worded("take fewer `num_frames`") == "take fewer “Frames”"
    assert worded("controlnet_scale[1]=x: no number") == "“Control weight”[1] x: no number"
    assert concerned("guidance_scale must be a number; see `steps`", BY_NAME) == ["guidance_scale", "steps"]
    assert concerned("no space left", BY_NAME) == []


def test_what_the_form_has_no_room_for_is_said(form: Form) -> None:
    many = build_request({"prompt": "a", "loras": [f"{number}.safetensors" for number in range(9)]})
    with pytest.raises(UserError, match="9 entries, and the form has room for 6"):
        form.shown(many)
    assert "prompt" in PER_CLIP
    with pytest.raises(UserError, match="2 texts"):
        form.shown(build_request({"prompt": ["a", "b"]}))


class Failing:
    """A renderer that fails as it is told."""

    error: Exception

    def render(self, *args: Any, **kwargs: Any) -> Any:
        raise self.error


@pytest.fixture(scope="module")
def failing(place: Path) -> Iterator[tuple[Page, Failing]]:
    """A page of such a renderer."""
    renderer, output = Failing(), Path("samples")
    page = Page(renderer, roots=roots_of(output), output=output)
    yield page, renderer
    page.close()


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "samples/a.mp4"), "samples/a.mp4: the disk is full"),
        (OSError(errno.EACCES, "Permission denied", "samples/a.mp4"), "samples/a.mp4: Permission denied"),
        (MemoryError(), "out of memory: try fewer frames (“Frames”)"),
        (UserError("`vae` is for another model"), "“VAE” is for another model"),
        (RuntimeError("odd"), "an error that nobody expected, RuntimeError: odd"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_a_render_that_fails_is_one_message_and_the_page_goes_on(
    error: Exception, words: str, failing: tuple[Page, Failing]
) -> None:
    page, renderer = failing
    renderer.error = error
    browser: Any = SimpleNamespace(session_hash="one")
    for _ in range(2):  # the second time as the first
        last: dict[Any, Any] = {}
        for update in page.runs.generate(browser, ".gif", 1, [], *typed(page.form, {"prompt": ["a fox"]})):
            last |= update
        assert words in last[page.result.line].value and last[page.result.line].visible
        assert last[page.result.generate].visible and not last[page.result.cancel].visible
        assert page.result.files not in last and not page.runs.jobs.busy("one")
