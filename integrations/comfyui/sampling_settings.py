"""The noise schedule that a family of motion modules was trained with, as a patch of the host's `model_sampling`."""

# pyright: reportMissingImports=false

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import comfy.model_sampling
from comfy.model_patcher import ModelPatcher
from comfy_extras.nodes_model_advanced import LCM, ModelSamplingDiscreteDistilled

from animatediff.weights.families import Family
from animatediff.weights.trained_with import BETAS, only

logger = logging.getLogger(__name__)

AUTO, OF_MODEL = "auto", "use the model's"
CHOICES = (AUTO, OF_MODEL)
PATCHED = "model_sampling"
SCHEDULES = {"linear": "sqrt_linear", "scaled_linear": "linear", "squaredcos_cap_v2": "squaredcos_cap_v2"}
"""Schedule of betas by diffusers' name -> the host's name, which is that of the first Stable Diffusion code."""
PREDICTIONS: dict[str, type] = {
    "epsilon": comfy.model_sampling.EPS,
    "v_prediction": comfy.model_sampling.V_PREDICTION,
}


def with_family_sampling(model: ModelPatcher, family: Family) -> ModelPatcher:
    """A clone of a MODEL with the schedule of the family; what the family leaves open stays the model's.

    The kind of sampling that the model has, such as "lcm" of the host's ModelSamplingDiscrete in front, stays.
    """
    now = model.get_model_object(PATCHED)
    wanted = settings_of(family)
    if not wanted:
        return model
    kind = _kind(now, family)
    if kind is None:
        logger.warning(
            "%s was trained with a schedule of its own (%s), which %s has no place for: the model's is used",
            *(family.title, ", ".join(wanted), type(now).__name__),
        )
        return model
    config = getattr(model.model.model_config, "sampling_settings", None) or {}
    zsnr = wanted.pop("zsnr", bool(getattr(now, "zsnr", False)))
    patched = model.clone()
    patched.add_object_patch(PATCHED, kind(SimpleNamespace(sampling_settings={**config, **wanted}), zsnr=zsnr))
    return patched


def settings_of(family: Family) -> dict[str, Any]:
    """What a family says of the schedule, in the host's names; empty where it keeps the model's."""
    stated = {**(family.betas or {}), **family.sampling}
    betas = only(BETAS, stated)
    found: dict[str, Any] = {}
    if "beta_schedule" in betas:
        found["beta_schedule"] = SCHEDULES[betas["beta_schedule"]]
    found |= {
        host: betas[ours]
        for ours, host in (("beta_start", "linear_start"), ("beta_end", "linear_end"))
        if ours in betas
    }
    if "rescale_betas_zero_snr" in stated:
        found["zsnr"] = stated["rescale_betas_zero_snr"]
    if "prediction_type" in stated or "original_inference_steps" in stated:
        found.setdefault("timesteps", 1000)
    return found


def _kind(now: Any, family: Family) -> type | None:
    """The class of a schedule to make: the model's own, or one for what the family says of the prediction."""
    discrete = comfy.model_sampling.ModelSamplingDiscrete
    if not isinstance(now, discrete) or isinstance(now, comfy.model_sampling.ModelSamplingDiscreteEDM):
        return None
    stated = {**(family.betas or {}), **family.sampling}
    if (steps := stated.get("original_inference_steps")) is not None:
        return type("ModelSamplingLCM", (ModelSamplingDiscreteDistilled, LCM), {"original_timesteps": int(steps)})
    if (prediction := stated.get("prediction_type")) is not None:
        return type("ModelSamplingStated", (discrete, PREDICTIONS[prediction]), {})
    return type(now)
