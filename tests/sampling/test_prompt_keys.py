"""Keys and values of prompts: one projection a clip and layer, and the frames of one at each step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from support.close import relative
from support.paths import GOLDEN
from support.pipelines import SMALL, pipeline, seeded
from torch.overrides import TorchFunctionMode

from animatediff.sampling.prompt_keys import PromptKeys

TRAVEL = {0: "spring", 3: "summer"}
FEW: dict[str, Any] = {**SMALL, "height": 16, "width": 16, "num_inference_steps": 2, "output_type": "latent"}


class Projections(TorchFunctionMode):
    """Counts the linear layers called with each of some weights, and the texts that they were given at once."""

    def __init__(self, weights: list[torch.Tensor]) -> None:
        super().__init__()
        self.weights = {id(weight) for weight in weights}
        self.calls: Counter[int] = Counter()
        self.texts: set[int] = set()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.nn.functional.linear and id(args[1]) in self.weights:
            self.calls[id(args[1])] += 1
            self.texts.add(len(args[0]))
        return func(*args, **(kwargs or {}))


def text_layers(pipe: Any) -> list[Any]:
    attentions = [m for m in pipe.unet.modules() if getattr(m, "is_cross_attention", False)]
    return [layer for attention in attentions for layer in (attention.to_k, attention.to_v)]


@pytest.mark.parametrize(
    ("prompts", "settings", "calls", "texts"),
    [
        ("a cat", {}, 1, 2),
        (["a cat", "a dog"], {"guidance_scale": 1.0}, 1, 2),
        (["a cat", "a dog"], {"window": 3, "overlap": 1}, 1, 4),  # one row a prompt, whatever the windows
        ("a cat", {"num_inference_steps": 12, "fast": "max"}, 1, 2),  # some steps know the prompt alone
        ("a cat", {"pag_scale": 2.0}, 1, 2),
        (TRAVEL, {}, 2, 8),  # as many as steps and frames
    ],
)
def test_one_projection_a_clip(prompts: Any, settings: dict[str, Any], calls: int, texts: int) -> None:
    pipe = pipeline("v3")
    layers = text_layers(pipe)
    prompts_of = [prompts] if isinstance(prompts, (str, dict)) else prompts
    arguments = {"prompt": prompts, **FEW, **settings}
    with Projections([layer.weight for layer in layers]) as seen:
        found = pipe(**arguments, generator=seeded(*range(len(prompts_of)))).frames
    assert set(seen.calls.values()) == {calls}
    assert len(seen.calls) == len(layers)
    assert seen.texts == {texts}
    assert relative(found, anew(pipe, len(prompts_of), arguments)) < 1e-5
    assert not any("forward" in vars(layer) for layer in layers), "nothing of it stays behind"


def anew(pipe: Any, num_clips: int, arguments: dict[str, Any]) -> torch.Tensor:
    """The frames where every layer projects at every step."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PromptKeys, "during", lambda *given: nullcontext())
        return pipe(**arguments, generator=seeded(*range(num_clips))).frames


def set_strength(pipe: Any, index: int, *given: Any) -> None:
    pipe.set_adapters("domain_adapter", 0.2 + index)


def switch_off(pipe: Any, index: int, *given: Any) -> None:
    (pipe.disable_lora if index == 0 else pipe.enable_lora)()


def write_weights(pipe: Any, index: int, *given: Any) -> None:
    for layer in text_layers(pipe):
        with torch.no_grad():
            layer.base_layer.weight.neg_()  # an odd number of times in a call


def set_prompts(pipe: Any, index: int, timestep: Any, tensors: dict[str, torch.Tensor]) -> None:
    tensors["prompt_embeds"].mul_(0.5)


@pytest.mark.parametrize(
    ("change", "tensors"),
    [(set_strength, []), (switch_off, []), (write_weights, []), (set_prompts, ["prompt_embeds"])],
)
def test_what_changes_between_steps_is_followed(change: Callable[..., None], tensors: list[str]) -> None:
    pipe = pipeline("v3")
    arguments: dict[str, Any] = {"prompt": "a cat", **FEW, "num_inference_steps": 3}
    pipe.load_lora_weights(GOLDEN / "v3" / "domain_adapter.ckpt")
    try:
        pipe.set_adapters("domain_adapter", 1.0)
        unchanged = pipe(**arguments, generator=seeded(0)).frames
        arguments |= {"callback_on_step_end": change, "callback_on_step_end_tensor_inputs": ["latents", *tensors]}
        found = pipe(**arguments, generator=seeded(0)).frames
        if change is write_weights:
            write_weights(pipe, 0)
        pipe.set_adapters("domain_adapter", 1.0)
        wanted = anew(pipe, 1, arguments)
    finally:
        if change is write_weights:
            write_weights(pipe, 0)
        pipe.enable_lora()
        pipe.unload_lora_weights()
    assert relative(found, wanted) < 1e-5
    assert relative(found, unchanged) > 1e-3
