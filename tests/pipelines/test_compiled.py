"""Regional compilation: blocks share graphs, frames stay, and what changes between calls compiles little."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support import tiny_models
from support.close import relative
from support.paths import GOLDEN
from support.pipelines import TINY, seeded
from support.unets import one_level_unet

from animatediff.errors import UserError
from animatediff.pipelines import AnimateDiffPipeline, compiled
from animatediff.sampling.chunks import layers_in_chunks

SETTINGS: dict[str, Any] = {**TINY, "num_inference_steps": 2, "guidance_scale": 3.0}


@pytest.fixture
def pipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AnimateDiffPipeline:
    """On a UNet of one level, all of whose repeated blocks are compiled, as on a GPU."""
    monkeypatch.setattr(compiled, "ON_CPU", compiled.ON_GPU)
    own = AnimateDiffPipeline.from_pretrained(GOLDEN / "v2" / "sd", torch_dtype=torch.float32)
    own.unet = one_level_unet(cross_attention_dim=32).requires_grad_(False)
    own.set_progress_bar_config(disable=True)
    lora = tiny_models.save_motion(tmp_path / "motion_module.safetensors", own.unet, "v2")
    tiny_models.save_motion_lora(tmp_path / "motion_lora.safetensors", lora)
    own.load_motion_module(tmp_path / "motion_module.safetensors")
    return own


@pytest.mark.exact  # the disturbance is not to be traced
@pytest.mark.slow
@pytest.mark.timeout(1800)  # tracing waits for a busy machine
def test_few_graphs_and_the_same_frames(pipe: AnimateDiffPipeline, tmp_path: Path) -> None:
    """A graph for each kind of block: self-attention and cross-attention of the images, and the motion modules."""
    from torch._dynamo.testing import CompileCounterWithBackend

    pipe.load_lora_weights(tmp_path / "motion_lora.safetensors")

    def render(strength: float, **settings: Any) -> torch.Tensor:
        pipe.set_adapters("motion_lora", strength)
        return pipe("a cat", generator=seeded(1), **SETTINGS, **settings).frames

    calls: list[Callable[[], torch.Tensor]] = [
        lambda: render(1.0),
        lambda: render(0.5),  # from here on the strength is a number in the graphs
        lambda: render(0.7),
        lambda: render(0.0),
        lambda: render(0.7, motion_scale={0: 1.0, 3: 0.2}),
    ]
    wanted = [call() for call in calls]
    counter = CompileCounterWithBackend("eager")
    pipe.enable_compile(backend=counter)
    graphs = []
    for call, expected in zip(calls, wanted, strict=True):
        assert relative(call(), expected) < 1e-5
        graphs.append(counter.frame_count)
    blocks = [layer for layer in pipe.unet.modules() if layer._compiled_call_impl is not None]
    assert {type(block).__name__ for block in blocks} == set(compiled.ON_GPU)
    assert graphs[0] < len(blocks), "blocks of one kind share a graph"
    assert graphs[1] <= 2 * graphs[0]
    assert graphs[2:] == [graphs[1]] * 3, "strengths and motion scales change without compiling"
    assert relative(wanted[1], wanted[0]) > 1e-3
    made = graphs[-1]
    call_again = pipe("a cat", generator=seeded(1), **SETTINGS).frames
    assert counter.frame_count == made
    pipe.disable_compile()
    assert all(layer._compiled_call_impl is None for layer in pipe.unet.modules())
    assert relative(pipe("a cat", generator=seeded(1), **SETTINGS).frames, call_again) < 1e-5


def test_what_is_plugged_in_later_is_compiled_too(pipe: AnimateDiffPipeline, tmp_path: Path) -> None:
    def tell(unet: Any, given: torch.device, settings: dict[str, Any]) -> int:
        seen.append((given.type, settings))
        return 0

    seen: list[tuple[str, dict[str, Any]]] = []
    pipe.enable_compile(backend="eager", dynamic=False)
    assert not any(layer._compiled_call_impl is not None for layer in pipe.unet.modules()), "not before it is used"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiled, "compile_blocks", tell)
        pipe("a cat", generator=seeded(1), **SETTINGS)
        pipe.load_motion_module(tmp_path / "motion_module.safetensors")
        pipe("a cat", generator=seeded(1), **SETTINGS)
    assert seen == [("cpu", {"backend": "eager", "dynamic": False})] * 2


def test_a_cpu_compiles_what_is_faster_there() -> None:
    unet = one_level_unet()
    assert compiled.compile_blocks(unet, torch.device("cpu"), {"backend": "eager"}) == 3
    on = {type(layer).__name__ for layer in unet.modules() if layer._compiled_call_impl is not None}
    assert on == {"BasicTransformerBlock"}
    copied = copy.deepcopy(unet)
    assert all(layer._compiled_call_impl is None for layer in copied.modules()), "a copy runs its own layers"
    with layers_in_chunks(unet, size=2):
        pass
    compiled.as_they_are(unet)
    assert all(layer._compiled_call_impl is None for layer in unet.modules())


def test_a_compiler_that_does_not_work_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(model: Any, **settings: Any) -> Any:
        raise RuntimeError("No working C++ compiler found in cxx: g++\n  long traceback")

    monkeypatch.setattr(torch, "compile", broken)
    pipe = AnimateDiffPipeline.from_bundled()
    with pytest.raises(UserError, match=r"`compile` needs a compiler that works \(No working C\+\+ compiler found"):
        pipe.enable_compile()
    assert pipe.compile_settings is None
