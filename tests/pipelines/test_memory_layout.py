"""How convolutions lie in memory: by device and number format, with the same values and frames."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from support.close import relative
from support.pipelines import SMALL, seeded
from support.unets import run, tiny_unet
from torch import nn

from animatediff.pipelines import AnimateDiffPipeline
from animatediff.pipelines.memory_layout import lay_out, memory_format
from animatediff.pipelines.vae import decode_images, encode_images
from animatediff.sampling.chunks import layers_in_chunks


def layouts(model: Any) -> set[bool]:
    """Of the 3x3 convolutions: whether they lie in channels_last."""
    weights = [layer.weight for layer in model.modules() if isinstance(layer, nn.Conv2d) and layer.kernel_size[0] > 1]
    return {weight.is_contiguous(memory_format=torch.channels_last) for weight in weights}


@pytest.mark.parametrize(
    ("device", "dtype", "last"),
    [
        ("cpu", torch.bfloat16, True),
        ("cpu", torch.float16, True),
        ("cpu", torch.float32, False),
        ("cuda", torch.float16, False),
        ("meta", torch.bfloat16, False),  # of what is offloaded layer by layer
    ],
)
def test_layout_by_device_and_format(device: str, dtype: torch.dtype, last: bool) -> None:
    assert (memory_format(torch.device(device), dtype) == torch.channels_last) == last


@torch.no_grad()
def test_values_stay_and_feature_maps_follow(tmp_path: Path) -> None:
    unet: Any = tiny_unet()
    unet.to(torch.bfloat16)
    before = {name: value.clone() for name, value in unet.state_dict().items()}
    x, text = torch.randn(4, 4, 8, 8).bfloat16(), torch.randn(4, 5, 16).bfloat16()
    plain = unet(x, 500, text).sample
    lay_out(unet)
    assert layouts(unet) == {True}
    assert all(torch.equal(value, before[name]) for name, value in unet.state_dict().items())
    assert relative(unet(x, 500, text).sample.float(), plain.float()) < 2e-2
    seen: list[bool] = []
    for resnet in (unet.down_blocks[0].resnets[0], unet.up_blocks[-1].resnets[0]):
        resnet.register_forward_hook(
            lambda layer, args, out: seen.append(out.is_contiguous(memory_format=torch.channels_last))
        )
    with layers_in_chunks(unet, size=3):  # whose parts are put together again
        assert relative(unet(x, 500, text).sample.float(), plain.float()) < 2e-2
    assert seen == [True, True]
    unet.save_pretrained(tmp_path)
    read: Any = UNet2DConditionModel.from_pretrained(tmp_path, torch_dtype=torch.bfloat16)
    assert all(torch.equal(value, before[name]) for name, value in read.state_dict().items())


@torch.no_grad()
def test_unets_of_float32_stay_as_they_are() -> None:
    unet = tiny_unet()
    before = run(unet)
    lay_out(unet)
    assert layouts(unet) == {False}
    assert torch.equal(run(unet), before)


def test_calls_lay_out_what_they_use() -> None:
    pipe = AnimateDiffPipeline.from_bundled(torch_dtype="bfloat16")
    pipe.set_progress_bar_config(disable=True)
    settings = {**SMALL, "height": 32, "width": 32, "num_inference_steps": 1, "num_frames": 2}
    wanted = AnimateDiffPipeline.from_bundled()("a fox", generator=seeded(1), **settings).frames
    assert layouts(pipe.unet) == layouts(pipe.vae) == {False}
    found = pipe("a fox", generator=seeded(1), **settings).frames
    assert layouts(pipe.unet) == {True}
    assert layouts(pipe.vae) == {False}, "others use it too"
    assert relative(found, wanted) < 5e-2


@torch.no_grad()
def test_feature_maps_of_vaes_lie_in_the_fastest_layout() -> None:
    """Also in tiles; weights stay as files have them."""
    vae: Any = AnimateDiffPipeline.from_bundled().vae
    latents, images = torch.randn(1, 4, 8, 8), torch.rand(1, 3, 32, 32)
    wanted = (vae.decode(latents).sample / 2 + 0.5).clamp(0, 1), vae.encode(images * 2 - 1).latent_dist.mean
    seen: list[bool] = []
    for resnet in (vae.decoder.up_blocks[0].resnets[0], vae.encoder.down_blocks[0].resnets[0]):
        resnet.register_forward_hook(
            lambda layer, args, out: seen.append(out.is_contiguous(memory_format=torch.channels_last))
        )
    assert relative(decode_images(vae, latents), wanted[0]) < 1e-5
    assert relative(encode_images(vae, images, torch.device("cpu")), wanted[1]) < 1e-5
    assert seen == [True, True] and layouts(vae) == {False}
