"""IP-Adapters with the animation: what diffusers computes for one picture, for every frame; pictures along the clip."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from support.close import relative
from support.ip_files import save_ip_adapter
from support.paths import GOLDEN
from support.pipelines import SMALL, seeded

from animatediff.errors import UserError
from animatediff.motion import MotionAdapter
from animatediff.pipelines import AnimateDiffPipeline

ONE: dict[str, Any] = {"height": 32, "width": 32, "num_inference_steps": 3, "guidance_scale": 3.0}


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pipe = AnimateDiffPipeline.from_pretrained(GOLDEN / "v3" / "sd", torch_dtype=torch.float32)
    folder = tmp_path_factory.mktemp("ip")
    save_ip_adapter(folder, pipe.unet, "ip-adapter.bin")
    return save_ip_adapter(folder, pipe.unet)


@pytest.fixture(scope="module")
def still(adapter: Path) -> AnimateDiffPipeline:
    """Motion modules that change nothing yet, and an IP-Adapter."""
    pipe = AnimateDiffPipeline.from_pretrained(GOLDEN / "v3" / "sd", torch_dtype=torch.float32)
    pipe.set_motion_adapter(MotionAdapter.from_unet(pipe.unet))
    pipe.set_scheduler("ddim")
    pipe.load_ip_adapter_file(adapter)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def colour(*rgb: int) -> Image.Image:
    picture = Image.new("RGB", (40, 32), rgb)
    picture.paste((250, 250, 250), (10, 8, 24, 20))
    return picture


RED, BLUE = colour(220, 20, 20), colour(20, 20, 220)


def reference(pipe: AnimateDiffPipeline, latents: torch.Tensor, picture: Any) -> torch.Tensor:
    """The picture that diffusers' own pipeline makes, (3, h, w) in 0..1."""
    assert pipe.attachment is not None
    pipe.attachment.frames.num_frames = 1
    arguments = {**ONE, "latents": latents, "ip_adapter_image": picture, "output_type": "pt"}
    return pipe.base("a cat", negative_prompt="", **arguments).images[0]


@pytest.mark.parametrize("scale", [1.0, 0.4])
def test_without_motion_every_frame_is_the_image_pipelines_picture(still: AnimateDiffPipeline, scale: float) -> None:
    still.set_ip_adapter_scale(scale)
    latents = torch.randn(1, 4, 2, 16, 16, generator=torch.Generator().manual_seed(1))
    two: dict[str, Any] = {**ONE, "negative_prompt": "", "num_frames": 2, "latents": latents, "output_type": "pt"}
    clip = still("a cat", ip_adapter_image=RED, **two).frames
    for frame in range(2):
        assert relative(clip[0, frame], reference(still, latents[:, :, frame], RED)) < 1e-5
    blue = still("a cat", ip_adapter_image=BLUE, **two).frames
    assert relative(blue, clip) > 1e-2
    still.set_ip_adapter_scale(1.0)


def test_pictures_at_frames_are_gone_through_with_the_clip(still: AnimateDiffPipeline) -> None:
    arguments = {**ONE, "num_inference_steps": 2, "output_type": "pt", "num_frames": 5, "image_mode": "ip-adapter"}
    latents = torch.randn(2, 4, 1, 16, 16, generator=torch.Generator().manual_seed(1)).expand(-1, -1, 5, -1, -1)
    travel = still(["a cat", "a dog"], latents=latents, images={0: RED, -2: BLUE}, **arguments).frames
    for picture, frames in ((RED, (0,)), (BLUE, (3, 4))):
        alone = still(["a cat", "a dog"], latents=latents, images=picture, **arguments).frames
        for frame in frames:
            assert relative(travel[:, frame], alone[:, frame]) < 1e-5
    steps = [relative(travel[:, i + 1], travel[:, i]) for i in range(4)]
    assert min(steps[:3]) > 1e-2 and steps[3] < 1e-5, "it changes up to frame 3, and stays"
    # also in windows, each of which gets what belongs to its frames
    windows = still(["a cat", "a dog"], latents=latents, images={0: RED, -2: BLUE}, window=2, overlap=1, **arguments)
    assert relative(windows.frames, travel) < 1e-5


def test_it_goes_with_motion_and_comes_out_again(adapter: Path) -> None:
    pipe = AnimateDiffPipeline.from_pretrained(GOLDEN / "v3" / "sd", torch_dtype=torch.float32)
    pipe.load_motion_module(GOLDEN / "v3" / "motion_module.ckpt")
    plain = pipe("a cat", generator=seeded(1), **SMALL).frames
    for file in (adapter, adapter.with_suffix(".bin")):
        pipe.load_ip_adapter_file(file)
        seen = pipe("a cat", generator=seeded(1), ip_adapter_image=RED, **SMALL).frames
        assert relative(seen, plain) > 1e-2
        with pytest.raises(UserError, match="a call needs ip_adapter_image"):
            pipe("a cat", **SMALL)
    again = pipe("a cat", generator=seeded(1), ip_adapter_image=[RED, BLUE], **SMALL).frames
    assert relative(again, seen) > 1e-2, "two pictures for one adapter"
    pipe.unload_ip_adapter()
    assert relative(pipe("a cat", generator=seeded(1), **SMALL).frames, plain) < 1e-5
    with pytest.raises(UserError, match="no IP-Adapter that reads it"):
        pipe("a cat", ip_adapter_image=RED, **SMALL)
    with pytest.raises(UserError, match="image_mode=ip-adapter takes an IP-Adapter"):
        pipe("a cat", images=RED, image_mode="ip-adapter", **SMALL)


def test_loading_says_nothing_that_no_user_can_act_on(adapter: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from transformers.utils import logging as bars

    pipe = AnimateDiffPipeline.from_pretrained(GOLDEN / "v3" / "sd", torch_dtype=torch.float32)
    capfd.readouterr()
    pipe.load_ip_adapter_file(adapter)
    pipe.to("cpu")
    assert capfd.readouterr().err == "" and bars.is_progress_bar_enabled()


def test_files_that_are_no_ip_adapter_or_of_another_model(adapter: Path, tmp_path: Path) -> None:
    pipe = AnimateDiffPipeline.from_pretrained(GOLDEN / "v3" / "sd", torch_dtype=torch.float32)
    with pytest.raises(UserError, match="not an IP-Adapter"):
        pipe.load_ip_adapter_file(GOLDEN / "v3" / "motion_module.ckpt")
    with pytest.raises(UserError, match="no such file"):
        pipe.load_ip_adapter_file(tmp_path / "none.safetensors")
    (tmp_path / "alone.safetensors").write_bytes(adapter.read_bytes())
    with pytest.raises(UserError, match="no image encoder here"):
        pipe.load_ip_adapter_file(tmp_path / "alone.safetensors")
    pipe.load_ip_adapter_file(tmp_path / "alone.safetensors", image_encoder=adapter.parent / "image_encoder")
    with pytest.raises(UserError, match=r"prompt embeddings of width \d+, this one has 128"):
        AnimateDiffPipeline.from_bundled().load_ip_adapter_file(adapter)
