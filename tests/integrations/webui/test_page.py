"""The extension on the page of real hosts, in Chromium; what their API gives is tried in `test_hosts.py`."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from support.webui_host import TIMEOUT, WebUI
from support.webui_page import WebUIPage

SETTINGS: dict[str, Any] = {
    "enable": True, "model": "tiny_v2.safetensors", "video_length": 6, "fps": 5, "loop_number": 3, "closed_loop": "N",
    "batch_size": 4, "stride": 2, "overlap": 1, "format": ["GIF", "PNG"],
}  # fmt: skip
CLIP: dict[str, Any] = {
    "prompt": "a hill\n0: spring\n5: winter <lora:tiny_PanLeft:0.5>", "negative_prompt": "fog", "seed": 5, "steps": 2,
    "width": 64, "height": 64, "sampler_name": "Euler", "cfg_scale": 6.0,
    "alwayson_scripts": {"AnimateDiff": {"args": [SETTINGS]}},
}  # fmt: skip


@pytest.fixture
def page(webui: WebUI) -> Iterator[WebUIPage]:
    """The tab txt2img, with the accordion open."""
    with WebUIPage(webui.url, timeout=TIMEOUT) as page:
        yield page


def test_infotext_pasted_back_makes_the_same_clip(webui: WebUI, page: WebUIPage) -> None:
    """Through the page: all settings come back, and with them the clip of the API, to the bit; its file is shown."""
    reply = webui.generate(CLIP)
    expected = webui.latents()
    assert expected.shape == (6, 4, 8, 8)
    page.paste(json.loads(reply["info"])["infotexts"][0])
    shown = {name: page.value(name) for name in SETTINGS if name != "format"}
    assert shown == {name: value for name, value in SETTINGS.items() if name != "format"}
    images = page.generate()
    assert torch.equal(webui.latents(), expected)
    assert [re.search(r"-5\.gif$", image) is not None for image in images] == [True]
    folders = sorted((webui.data / "outputs" / "txt2img-images" / "AnimateDiff").glob("*/*-5.gif"))
    assert folders[-1].read_bytes() == page.download(images[0])


def test_mistakes_are_said_on_the_page_which_stays_usable(webui: WebUI, page: WebUIPage) -> None:
    page.paste(
        "a hill\nNegative prompt: fog\nSteps: 2, Sampler: Euler, CFG scale: 6, Seed: 5, Size: 64x64, "
        'AnimateDiff: "model: tiny_v3.safetensors, video_length: 8, batch_size: 4, overlap: 4"'
    )
    assert "Overlap (overlap): 4 frames, but windows have 4; give less, or -1" in page.refused()
    page.set_number("overlap", 1)
    assert len(page.generate()) == 1
    assert len(webui.latents()) == 8
    page.choose("tiny_sdxl.safetensors")
    assert "a motion module for SDXL base models, but the base model is SD 1.x" in page.refused()
    page.check("enable", on=False)
    assert len(page.generate()) == 1
    assert len(webui.latents()) == 1
