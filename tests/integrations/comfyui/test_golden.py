"""The golden cases of the original implementations, through the host's UNet and its patchers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support import comfy_host
from support.golden import FAMILIES, expected, motion_file
from support.paths import GOLDEN
from torch import Tensor

from integrations.comfyui.attach import MotionRun, apply_motion
from integrations.comfyui.domain_adapter import with_adapter
from integrations.comfyui.motion import load_motion, with_lora

models = comfy_host.models()
TOLERANCE = 1e-4


def assert_close(found: Tensor, wanted: Tensor) -> None:
    assert found.shape == wanted.shape
    assert (found - wanted).abs().max() <= TOLERANCE


def moved(family: str, *loras: tuple[str, float], **run: Any) -> Any:
    """A MODEL of a golden case with its motion module, and LoRAs beside it on that, applied."""
    motion = load_motion(motion_file(family), None)
    assert motion.family.name == family
    for name, strength in loras:
        motion = with_lora(motion, GOLDEN / family / name, strength)
    return apply_motion(models.golden_model(family), MotionRun(motion=motion, **run))


def sizes_and_text(tensors: dict[str, Tensor]) -> Tensor | None:
    """SDXL's vector of pooled text and embedded sizes, as the host makes it of them."""
    if "unet.text_embeds" not in tensors:
        return None
    return models.sizes_and_text(tensors["unet.text_embeds"], tensors["unet.time_ids"])


@pytest.mark.parametrize("family", FAMILIES)
def test_motion_modules_compute_what_the_original_does(family: str) -> None:
    tensors, model = expected(family), moved(family)
    y = sizes_and_text(tensors)
    for apart in (False, True):  # both clips in one batch, and one after the other
        assert_close(models.call(model, tensors, apart=apart, y=y), tensors["unet.out"])


@pytest.mark.parametrize("family", ["v1", "v2", "v3"])
def test_motion_loras_at_a_strength(family: str) -> None:
    tensors = expected(family)
    found = models.call(moved(family, ("motion_lora.ckpt", 1.0)), tensors)
    assert_close(found, tensors["unet.out.motion_lora_1.0"])


def test_several_motion_loras_add_up_and_leave_the_module_as_it_was() -> None:
    family = "v2"
    tensors, file = expected(family), GOLDEN / family / "motion_lora.ckpt"
    motion = load_motion(motion_file(family), None)
    both = with_lora(with_lora(motion, file, 0.3), file, 0.2)
    model = models.golden_model(family)
    assert_close(models.call(apply_motion(model, MotionRun(motion=both)), tensors), tensors["unet.out.motion_lora_0.5"])
    alone = models.call(apply_motion(model, MotionRun(motion=motion)), tensors)
    fresh = models.call(moved(family), tensors)
    assert torch.equal(alone, fresh)


def test_domain_adapter_and_motion_lora_together() -> None:
    family = "v1"
    tensors, folder = expected(family), GOLDEN / family
    model = with_adapter(models.golden_model(family), folder / "domain_adapter.ckpt", 0.6)
    motion = with_lora(load_motion(motion_file(family), None), folder / "motion_lora.ckpt", 0.8)
    found = models.call(apply_motion(model, MotionRun(motion=motion)), tensors)
    assert_close(found, tensors["unet.out.adapter_0.6_and_motion_lora_0.8"])


def test_domain_adapter_alone() -> None:
    tensors = expected("v3")
    model = apply_motion(
        with_adapter(models.golden_model("v3"), Path(GOLDEN, "v3", "domain_adapter.ckpt"), 1.0),
        MotionRun(motion=load_motion(motion_file("v3"), None)),
    )
    assert_close(models.call(model, tensors), tensors["unet.out.domain_adapter_1.0"])


@pytest.mark.parametrize("family", ["v1", "sdxl"])
def test_the_model_is_as_it_was_when_another_one_is_loaded(family: str) -> None:
    tensors = expected(family)
    y = sizes_and_text(tensors)
    plain = models.golden_model(family)
    before = models.call(plain, tensors, y=y)
    patched = apply_motion(plain, MotionRun(motion=load_motion(motion_file(family), None)))
    assert not torch.equal(models.call(patched, tensors, y=y), before)
    assert models.hooked(plain)
    assert torch.equal(models.call(plain, tensors, y=y), before)
    assert not models.hooked(plain)


@pytest.mark.skipif(not comfy_host.is_real(), reason="the stub keeps all weights loaded")
def test_weights_that_the_host_keeps_offloaded_get_their_loras_where_they_act() -> None:
    tensors = expected("v2")
    model = moved("v2", ("motion_lora.ckpt", 1.0))
    found = models.call(model, tensors, prepare=models.load_offloaded)
    (motion,) = model.get_additional_models_with_key("animatediff")
    assert any(getattr(layer, "weight_function", None) for layer in motion.model.modules())
    assert_close(found, tensors["unet.out.motion_lora_1.0"])
