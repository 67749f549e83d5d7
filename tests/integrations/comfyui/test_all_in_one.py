"""The all-in-one node: frames of the renderer, progress, interrupt, every option, no path beyond the host's folders."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import comfy.model_management as management
import numpy as np
import pytest
import torch
from support import comfy_host

from animatediff.errors import UserError
from animatediff.files import Roots
from animatediff.render import Renderer, build_request
from animatediff.render.options import FIELDS
from animatediff.weights.hub import KNOWN_FILES, known_file
from integrations.comfyui import animate, folders
from integrations.comfyui.messages import OF_FIELDS, in_host_words
from integrations.comfyui.nodes.all_in_one import Animate

PROMPT = "a fox moving right on a green background"


@pytest.fixture(autouse=True)
def _folders() -> None:
    folders.register_folders()


def run(**inputs: Any) -> Any:
    fields: dict[str, Any] = {"prompt": PROMPT, "negative_prompt": "", "model": "bundled", "motion_module": "auto",
                              "seed": 5, "num_frames": 4, "width": 0, "height": 0, "steps": 2, "guidance_scale": -1.0,
                              "fps": 0.0, "motion_lora": "none", "motion_lora_strength": 1.0}  # fmt: skip
    return Animate.execute(**(fields | inputs)).result


def test_frames_are_those_of_the_renderer_and_of_the_options() -> None:
    images, video, info = run(options="freeinit: 2\nwindow: 4", motion_lora="ZoomIn", motion_lora_strength=0.5)
    request = build_request(
        {"prompt": PROMPT, "model": "bundled", "seed": 5, "num_frames": 4, "steps": 2, "freeinit": 2, "window": 4,
         "motion_loras": [{"path": "ZoomIn", "scale": 0.5}], "device": "cpu"}
    )  # fmt: skip
    (wanted,) = [clip.array() for clip in Renderer().clips([request])]
    assert images.dtype == torch.float32 and torch.equal(images, torch.from_numpy(wanted).float() / 255)
    components = video.get_components()
    assert components.frame_rate == Fraction(8) and torch.equal(components.images, images)
    assert info.startswith("seed 5, num_frames 4, width 64, height 64, steps 2")
    images, video, info = run(options="fps_out: 16", steps=1)
    assert len(images) == 8 and video.get_components().frame_rate == 16
    assert "fps 8.0, fps_out 16.0" in info


def test_images_that_are_connected_are_the_first_and_the_last() -> None:
    stills = torch.rand(2, 1, 64, 64, 3, generator=torch.Generator().manual_seed(1))
    images, _, _ = run(image=stills[0], last_image=stills[1], steps=1)
    first, last = ((still[0] * 255).round().to(torch.uint8).numpy() for still in stills)
    request = build_request(
        {"prompt": PROMPT, "model": "bundled", "seed": 5, "num_frames": 4, "steps": 1, "device": "cpu", "image": first,
         "last_image": last}
    )  # fmt: skip
    (wanted,) = [clip.array() for clip in Renderer().clips([request])]
    assert torch.equal(images, torch.from_numpy(wanted).float() / 255)
    assert not torch.equal(images, run(steps=1)[0])


def test_an_interrupt_ends_it_in_the_hosts_way_and_the_next_clip_is_the_same() -> None:
    before = run()[0]
    management.interrupt_current_processing(True)
    with pytest.raises(management.InterruptProcessingException):
        run(seed=6)
    assert not management.processing_interrupted()
    assert torch.equal(run()[0], before)


@pytest.mark.skipif(comfy_host.is_real(), reason="the real host shows its progress to a page")
def test_progress_has_previews() -> None:
    from comfy.utils import ProgressBar

    ProgressBar.told.clear()
    run()
    steps = [told for told in ProgressBar.told if told[1] == 2]
    assert [value for value, _, preview in steps if preview] == [1, 2]
    kind, image, _ = steps[-1][2]
    assert kind == "JPEG" and np.asarray(image).std() > 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("freinit: 3", "did you mean 'freeinit'"),
        ("out: x.mp4", "this node gives images and a video"),
        ("steps: 3", "steps is given twice"),
        ("device: cuda", "host's choice"),
        ("freeinit", "one option a line"),
        ("freeinit: 99", "freeinit"),
        ("vae: /etc/passwd", "there is no file /etc/passwd in models/vae"),
        ("control_images: [../secret.png]", "input folder"),
        ("camera: ../poses.txt", "input folder"),
        ("camera: zoom-in:0.5", "camera is given, but no CameraCtrl model"),
        ("upscaler: ../../x.pth", "there is no file"),
        ("motion_loras: [Zom]", "there is no file Zom"),
        ("download: true", "a workflow may not fetch files"),
        ("fast: quick", "fast"),
    ],
)
def test_bad_options_are_said(options: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import folder_paths

    monkeypatch.setattr(folder_paths, "get_input_directory", lambda: str(tmp_path))
    for name in ("upscale_models", "vae"):
        monkeypatch.setitem(folder_paths.folder_names_and_paths, name, ([str(tmp_path)], {".pth"}))
    with pytest.raises(ValueError, match=message):
        run(options=options)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("abc", "prompt_travel: 'abc' has no frame; write it as in 8: abc"),
        ("1.5: abc", "prompt_travel: '1.5' is no frame to put a text at"),
        ("0: a\nb\n2: c", "prompt_travel: line 2, 'b', has no frame"),
        ("9: a", "the clip has 4 frames"),
    ],
)
def test_texts_at_frames_that_cannot_be_read_are_said(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run(prompt_travel=text)


def test_fast_mode_is_an_option_here_and_its_note_is_in_the_info() -> None:
    info = run(options="fast: max", steps=1)[2]
    assert "\nfast has no effect: outputs of so few steps differ too much" in info
    assert "fast" not in run(options="fast: off", steps=1)[2]
    plain = run(steps=16)[0]
    assert not torch.equal(run(options="fast: max", steps=16)[0], plain)


def test_messages_are_in_the_words_of_the_node(tmp_path: Path) -> None:
    """No backquotes, and nothing that the node does not have: it fetches no files."""
    with pytest.raises(ValueError, match="known") as error:
        run(options="scheduler: dim")
    assert "`" not in str(error.value)
    repository = KNOWN_FILES["v2_lora_ZoomIn.ckpt"].repository
    message = f"put it at .*v2_lora_ZoomIn.ckpt, from {repository} on the hub"
    with pytest.raises(ValueError, match=message) as error, in_host_words(OF_FIELDS):
        known_file("v2_lora_ZoomIn.ckpt", download=False, roots=Roots(models=(tmp_path,)))
    assert "download" not in str(error.value)
    with pytest.raises(ValueError, match=r"^add motion_module \(such as v3_sd15_mm"), in_host_words(OF_FIELDS):
        raise UserError("add `motion_module` (with `download`, v3_sd15_mm.ckpt for SD 1.5)")


def test_every_option_is_a_field_or_read_in_options_or_refused() -> None:
    fields = {item.id for item in Animate.GET_SCHEMA().inputs}
    assert {"prompt", "model", "motion_module", "seed", "num_frames", "image", "video"} <= fields
    for name in FIELDS:
        if name in animate.REFUSED:
            with pytest.raises(ValueError, match=f"options: {name} "):
                animate.values_of({}, f"{name}: 1")
    assert animate.values_of({}, "freeinit: 2\nprompt_hold: 0.1") == {"freeinit": 2, "prompt_hold": 0.1}
    assert animate.values_of({}, "# freeinit: 2") == {}


def test_model_files_are_found_in_the_hosts_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import folder_paths

    file = tmp_path / "look.safetensors"
    file.touch()
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "loras", ([str(tmp_path)], {".safetensors"}))
    found = animate.values_of({}, "loras: ['look.safetensors:0.5']")
    assert found == {"loras": [{"path": str(file), "scale": 0.5}]}
