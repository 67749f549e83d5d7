"""Samplers by the names that users of other tools know, as diffusers schedulers."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from animatediff.errors import UserError, did_you_mean

if TYPE_CHECKING:
    import torch
    from diffusers import SchedulerMixin

KARRAS = {"use_karras_sigmas": True}
SDE = {"algorithm_type": "sde-dpmsolver++"}
# Lightning and other few-step models were distilled at the ends of equal parts of the schedule.
TRAILING = {"timestep_spacing": "trailing"}

SCHEDULERS: dict[str, tuple[str, dict[str, Any]]] = {
    "ddim": ("DDIMScheduler", {}),
    "ddim_trailing": ("DDIMScheduler", TRAILING),
    "ddpm": ("DDPMScheduler", {}),
    "pndm": ("PNDMScheduler", {"skip_prk_steps": True}),
    "lcm": ("LCMScheduler", {}),
    "tcd": ("TCDScheduler", {}),
    "heun": ("HeunDiscreteScheduler", {}),
    "unipc": ("UniPCMultistepScheduler", {}),
    "deis": ("DEISMultistepScheduler", {}),
    "euler": ("EulerDiscreteScheduler", {}),
    "euler_karras": ("EulerDiscreteScheduler", KARRAS),
    "euler_trailing": ("EulerDiscreteScheduler", TRAILING),
    "euler_a": ("EulerAncestralDiscreteScheduler", {}),
    "lms": ("LMSDiscreteScheduler", {}),
    "lms_karras": ("LMSDiscreteScheduler", KARRAS),
    "dpm_2": ("KDPM2DiscreteScheduler", {}),
    "dpm_2_karras": ("KDPM2DiscreteScheduler", KARRAS),
    "dpm_2_a": ("KDPM2AncestralDiscreteScheduler", {}),
    "dpm_2_a_karras": ("KDPM2AncestralDiscreteScheduler", KARRAS),
    "dpmpp_2m": ("DPMSolverMultistepScheduler", {}),
    "dpmpp_2m_karras": ("DPMSolverMultistepScheduler", KARRAS),
    "dpmpp_2m_sde": ("DPMSolverMultistepScheduler", SDE),
    "dpmpp_2m_sde_karras": ("DPMSolverMultistepScheduler", SDE | KARRAS),
    "dpmpp_2s": ("DPMSolverSinglestepScheduler", {}),
    "dpmpp_2s_karras": ("DPMSolverSinglestepScheduler", KARRAS),
}
"""Our name -> diffusers class and settings on top of the model's own configuration."""

# What only the original class understands must not travel into another class and be refused or warned about there.
_OWN_KEYS = (
    "algorithm_type",
    "set_alpha_to_one",
    "skip_prk_steps",
    "solver_order",
    "timestep_spacing",
    "use_karras_sigmas",
)


def scheduler_name(name: str) -> str:
    """Our name for a sampler that is given as ours, as `k_NAME` (Karras), or as a diffusers class of that kind.

    A class that has no short name here keeps its own. Raises UserError, with the nearest known name, for any other.
    """
    wanted = name.strip().lower().replace("-", "_").replace("+", "p").replace(" ", "_")
    if wanted.startswith("k_"):
        wanted = f"{wanted[2:]}_karras"
    if wanted in SCHEDULERS:
        return wanted
    for short, (class_name, settings) in SCHEDULERS.items():
        if not settings.keys() - {"skip_prk_steps"} and class_name.lower() in (wanted, f"{wanted}scheduler"):
            return short
    if name.endswith("Scheduler") and _is_diffusion_sampler(name):
        return name
    raise UserError(
        f"unknown scheduler {name!r}; {did_you_mean(wanted, SCHEDULERS)}known are {', '.join(SCHEDULERS)}, and classes "
        "of diffusers that sample Stable Diffusion"
    )


def _is_diffusion_sampler(class_name: str) -> bool:
    """Whether a class of diffusers samples models trained on a table of betas, with noise that a seed decides."""
    import diffusers

    cls = getattr(diffusers, class_name, None)
    if cls is None or class_name == "DPMSolverSDEScheduler":  # draws from a noise source of its own
        return False
    return bool(getattr(cls, "_backends", None)) or "beta_schedule" in inspect.signature(cls.__init__).parameters


def scheduler_class(name: str) -> tuple[type[Any], dict[str, Any]]:
    """The diffusers class of a sampler and its settings.

    Raises UserError for an unknown name, and for a class that needs a package which is not installed.
    """
    import diffusers

    class_name, settings = SCHEDULERS.get(scheduler_name(name), (name, {}))
    cls = getattr(diffusers, class_name)
    if missing := [package for package in getattr(cls, "_backends", ()) if find_spec(package) is None]:
        raise UserError(f"scheduler {name!r} needs the package {missing[0]}: pip install {missing[0]}, or take another")
    return cls, settings


def make_scheduler(name: str, config: Mapping[str, Any], betas: Mapping[str, Any] | None = None) -> SchedulerMixin:
    """A diffusers scheduler by name, with the training schedule in `config` and `betas` laid over it."""
    cls, settings = scheduler_class(name)
    kept = {key: value for key, value in config.items() if not key.startswith("_")}
    if config.get("_class_name", cls.__name__) != cls.__name__:
        kept = {key: value for key, value in kept.items() if key not in _OWN_KEYS}
    if config.get("rescale_betas_zero_snr"):
        # With no signal at the last training step, sampling has to begin at that very step.
        kept["timestep_spacing"] = "trailing"
    # As Stable Diffusion was trained; files from before these settings existed leave them out.
    kept = {"clip_sample": False, "steps_offset": 1} | kept
    known = cls._get_init_keys(cls)
    return cls.from_config({key: value for key, value in (kept | dict(betas or {}) | settings).items() if key in known})


def set_steps(scheduler: Any, num_inference_steps: int, device: torch.device | str) -> None:
    """Lay out the steps of a clip. Raises UserError for a number of steps that the scheduler cannot make."""
    reason = None
    try:
        scheduler.set_timesteps(num_inference_steps, device=device)
    except (ValueError, IndexError) as error:
        reason = error
    # diffusers lets some numbers through and then reads beyond the table of noise levels
    if reason is None and float(scheduler.timesteps.max()) >= scheduler.config.num_train_timesteps:
        reason = f"the model was trained on {scheduler.config.num_train_timesteps} noise levels; take fewer steps"
    if reason is not None:
        raise UserError(f"num_inference_steps={num_inference_steps}: not with {type(scheduler).__name__} ({reason})")
