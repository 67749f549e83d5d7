"""Contracts of attach and detach on tiny UNets: nothing changes that should not."""

from __future__ import annotations

import copy
import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from support.close import relative
from support.unets import one_level_unet, run, tiny_unet

from animatediff import motion, weights
from animatediff.motion import MotionAdapter, MotionLayout, MotionNumerics, attach, detach, frames_of


def moving(unet: UNet2DConditionModel, *, mid_block: bool = True, **numerics: bool) -> MotionAdapter:
    adapter = MotionAdapter.from_unet(unet, mid_block=mid_block, numerics=MotionNumerics(**numerics))
    for name, value in adapter.named_parameters():
        if "proj_out" in name:
            torch.nn.init.normal_(value, std=0.1)
    return adapter


@torch.no_grad()
def test_new_modules_change_nothing_bit_for_bit() -> None:
    unet = tiny_unet()
    before = run(unet)
    attach(unet, MotionAdapter.from_unet(unet, mid_block=True)).frames.num_frames = 4
    assert torch.equal(run(unet), before)


@torch.no_grad()
@pytest.mark.parametrize("over_frames", [False, True])
def test_detach_restores_keys_hooks_and_output(over_frames: bool) -> None:
    unet = tiny_unet()
    keys, before = list(unet.state_dict()), run(unet)
    motion = attach(unet, moving(unet, image_norm_over_frames=over_frames))
    motion.frames.num_frames = 4
    assert relative(run(unet), before) > 0.1
    motion.detach()
    assert list(unet.state_dict()) == keys
    assert not any(layer._forward_hooks or layer._forward_pre_hooks for layer in unet.modules())
    assert torch.equal(run(unet), before)


def test_a_second_attach_and_a_misfit_change_nothing() -> None:
    unet = tiny_unet()
    keys = list(unet.state_dict())
    other = UNet2DConditionModel(
        sample_size=8, block_out_channels=(32, 32), layers_per_block=1, cross_attention_dim=16, attention_head_dim=4,
        down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2,
    )  # fmt: skip
    with pytest.raises(ValueError, match="do not fit"):
        attach(unet, MotionAdapter.from_unet(other))
    assert list(unet.state_dict()) == keys
    attach(unet, MotionAdapter.from_unet(unet))
    with pytest.raises(ValueError, match="already has motion modules"):
        attach(unet, MotionAdapter.from_unet(unet))


@torch.no_grad()
def test_a_deep_copy_has_modules_of_its_own() -> None:
    unet = tiny_unet()
    attach(unet, moving(unet)).frames.num_frames = 4
    twin = copy.deepcopy(unet)
    expected = run(unet)
    frames_of(unet).num_frames = 2
    assert frames_of(twin).num_frames == 4
    assert torch.equal(run(twin), expected)
    detach(twin)
    assert torch.equal(run(twin), run(tiny_unet()))


def test_gradient_checkpointing_gives_the_same_gradients() -> None:
    gradients = []
    for checkpointing in (False, True):
        unet = tiny_unet().requires_grad_(False).train()
        torch.manual_seed(2)
        adapter = moving(unet)
        attach(unet, adapter).frames.num_frames = 4
        if checkpointing:
            unet.enable_gradient_checkpointing()
        run(unet).square().mean().backward()
        gradients.append([p.grad for p in adapter.parameters()])
    for a, b in zip(*gradients, strict=True):
        assert a is not None and b is not None
        assert relative(a, b) < 1e-5


@pytest.mark.exact  # the disturbance would break the graph
@pytest.mark.slow
@pytest.mark.timeout(1800)  # tracing waits for a busy machine
@torch.no_grad()
def test_compiled_unet_gives_the_same_in_one_graph() -> None:
    """Whatever is attached or taken out after compiling is seen; nothing of it breaks the graph.

    With all hooks that there are: norms over frames have two more each. Every graph takes seconds to trace,
    even of a UNet of one level.
    """
    from torch._dynamo.testing import CompileCounterWithBackend

    unet = one_level_unet()
    before = run(unet)
    motion = attach(unet, moving(unet, image_norm_over_frames=True, motion_norm_over_frames=True))
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(unet, backend=counter, fullgraph=True)
    motion.frames.num_frames = 4
    assert relative(run(compiled), run(unet)) < 1e-5
    assert counter.frame_count == 1
    counter.backend = "eager"  # what is traced anew below differs in its hooks, not in what becomes of the graph
    motion.detach()
    assert relative(run(compiled), before) < 1e-5
    attach(unet, moving(unet)).frames.num_frames = 4
    after = run(unet)
    assert relative(after, before) > 0.1
    assert relative(run(compiled), after) < 1e-5, "hooks that came after compiling are not left out"


def test_modules_move_with_an_offloaded_unet() -> None:
    """What `enable_model_cpu_offload` does: one hook moves the whole UNet in, another takes it out again."""
    from accelerate import cpu_offload_with_hook

    unet = tiny_unet()
    adapter = moving(unet)
    attach(unet, adapter).frames.num_frames = 4
    with torch.no_grad():
        expected = run(unet)
        _, hook = cpu_offload_with_hook(unet, torch.device("cpu"))
        assert torch.equal(run(unet), expected)
        hook.remove()
    cpu_offload_with_hook(unet, torch.device("meta"))  # a device that any machine has
    unet._hf_hook.pre_forward(unet)
    assert {parameter.device.type for parameter in adapter.parameters()} == {"meta"}


@torch.no_grad()
def test_modules_whose_layers_are_offloaded_one_by_one() -> None:
    """What `enable_sequential_cpu_offload` does: every layer gets its weights when it is called."""
    from accelerate import cpu_offload

    unet = tiny_unet()
    attach(unet, moving(unet)).frames.num_frames = 4
    expected = run(unet)
    cpu_offload(unet, torch.device("cpu"))
    assert all(parameter.is_meta for parameter in unet.parameters())
    assert torch.equal(run(unet), expected)


@pytest.mark.parametrize(("base", "counts"), [("sd1", (8, 12)), ("sd2", (8, 12)), ("sdxl", (6, 9))])
def test_as_many_modules_as_the_table_of_attach_says(base: str, counts: tuple[int, int]) -> None:
    config = json.loads((Path(weights.__file__).parent / "base" / "configs" / base / "unet.json").read_text())
    with torch.device("meta"):
        unet: Any = UNet2DConditionModel.from_config(config)
    layout = MotionLayout.from_unet(unet)
    assert (sum(map(len, layout.down)), sum(map(len, layout.up))) == counts and len(layout) == sum(counts)
    assert len(MotionLayout.from_unet(unet, mid_block=True)) == sum(counts) + 1


def test_names_of_earlier_versions_warn_once() -> None:
    with pytest.warns(FutureWarning, match="FrameContext"):
        old = motion.FrameCount
    assert old is motion.FrameContext
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert motion.FrameCount is old
    with pytest.raises(AttributeError):
        _ = motion.FrameCounts


LAYOUTS: dict[str, dict[str, Any]] = {
    "SD 2.x": {"use_linear_projection": True, "attention_head_dim": (2, 4)},
    "SDXL": {
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"), "transformer_layers_per_block": (1, 3),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"), "layers_per_block": 2,
    },
    "no mid block": {"mid_block_type": None},
    "mid block of ResNets": {"mid_block_type": "UNetMidBlock2D"},
    "no attention at all": {
        "down_block_types": ("DownBlock2D", "DownBlock2D"), "up_block_types": ("UpBlock2D", "UpBlock2D")
    },
    "attention without text": {
        "down_block_types": ("AttnDownBlock2D", "DownBlock2D"), "up_block_types": ("UpBlock2D", "AttnUpBlock2D")
    },
    "simple cross attention": {
        "down_block_types": ("SimpleCrossAttnDownBlock2D", "ResnetDownsampleBlock2D"),
        "up_block_types": ("ResnetUpsampleBlock2D", "SimpleCrossAttnUpBlock2D"),
        "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
    },
    "three levels of different depth": {
        "block_out_channels": (32, 64, 64), "layers_per_block": (1, 2, 1),
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D", "CrossAttnUpBlock2D"),
    },
}  # fmt: skip


@torch.no_grad()
@pytest.mark.parametrize("name", LAYOUTS)
def test_any_layout_of_blocks(name: str) -> None:
    """Every block takes modules, new ones change nothing, trained ones act, and all come out again."""
    settings: dict[str, Any] = {
        "sample_size": 8, "block_out_channels": (32, 64), "layers_per_block": 1, "cross_attention_dim": 16,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"), "attention_head_dim": 4,
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    }  # fmt: skip
    torch.manual_seed(0)
    unet = UNet2DConditionModel(**settings | LAYOUTS[name]).eval()
    keys, before = list(unet.state_dict()), run(unet)
    mid_block = unet.mid_block is not None
    motion = attach(unet, MotionAdapter.from_unet(unet, mid_block=mid_block))
    motion.frames.num_frames = 4
    layers = [len(block.resnets) for block in (*unet.down_blocks, *unet.up_blocks)]
    assert motion.num_points == sum(layers) + mid_block
    assert torch.equal(run(unet), before)
    motion.detach()
    attach(unet, moving(unet, mid_block=mid_block)).frames.num_frames = 4
    assert relative(run(unet), before) > 0.1
    detach(unet)
    assert list(unet.state_dict()) == keys
    assert torch.equal(run(unet), before)
