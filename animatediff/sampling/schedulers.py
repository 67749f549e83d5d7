"""Samplers by the names that users of other tools know, as diffusers schedulers."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from animatediff.errors import UserError, did_you_mean
from animatediff.sampling.edm import EDM_CLASSES, is_edm, make_edm

if TYPE_CHECKING:
    import torch
    from diffusers import SchedulerMixin

KARRAS = {"use_karras_sigmas": True}
ODE, SDE = {"algorithm_type": "dpmsolver++"}, {"algorithm_type": "sde-dpmsolver++"}
SINGLE = ODE | {"lower_order_final": True}  # as diffusers sets it itself, with a warning
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
    "dpmpp_2m": ("DPMSolverMultistepScheduler", ODE),
    "dpmpp_2m_karras": ("DPMSolverMultistepScheduler", ODE | KARRAS),
    "dpmpp_2m_sde": ("DPMSolverMultistepScheduler", SDE),
    "dpmpp_2m_sde_karras": ("DPMSolverMultistepScheduler", SDE | KARRAS),
    "dpmpp_2s": ("DPMSolverSinglestepScheduler", SINGLE),
    "dpmpp_2s_karras": ("DPMSolverSinglestepScheduler", SINGLE | KARRAS),
}
"""Our name -> diffusers class and settings on top of the model's own configuration."""

STABLE_DIFFUSION = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
"""Noise schedule of SD 1.x, SD 2.x and SDXL."""
NOT_HERE = {
    "DPMSolverSDEScheduler": "it draws its noise from a source of its own, not from the clip's seed",
    "RePaintScheduler": "it fills in parts of an image",
    "UnCLIPScheduler": "it samples the parts of unCLIP",
    "CosineDPMSolverMultistepScheduler": "it samples audio models",
    "CogVideoXDDIMScheduler": "it samples CogVideoX",
    "CogVideoXDPMScheduler": "it samples CogVideoX",
    "DDIMInverseScheduler": "it turns images into noise",
    "DPMSolverMultistepInverseScheduler": "it turns images into noise",
}
"""Classes of diffusers with a table of betas, or a package to install, that sample no clip; why."""
SIGMA_SPACINGS = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas")
"""Settings of which a scheduler takes one at most."""
OF_TRAINING = ("prediction_type", "rescale_betas_zero_snr", "use_flow_sigmas", "num_train_timesteps")
"""Settings that tell how a model was trained: a sampler that lacks one renders something else."""


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
        if not settings.keys() - {"skip_prk_steps", "algorithm_type", "lower_order_final"} and class_name.lower() in (
            wanted,
            f"{wanted}scheduler",
        ):
            return short
    if name.endswith("Scheduler") and _is_diffusion_sampler(name):
        return name
    raise UserError(
        f"unknown scheduler {name!r}; {did_you_mean(wanted, SCHEDULERS)}known are {', '.join(SCHEDULERS)}, and classes "
        "of diffusers that sample Stable Diffusion"
    )


def _is_diffusion_sampler(class_name: str) -> bool:
    """Whether a class of diffusers samples models trained on betas or EDM noise, with noise that a seed decides."""
    import diffusers

    cls = getattr(diffusers, class_name, None)
    if cls is None or class_name in NOT_HERE:
        return False
    return class_name in EDM_CLASSES or bool(getattr(cls, "_backends", None)) or _takes_betas(cls)


def _takes_betas(cls: Any) -> bool:
    return "beta_schedule" in inspect.signature(cls.__init__).parameters


def scheduler_class(name: str) -> tuple[type[Any], dict[str, Any]]:
    """The diffusers class of a sampler and its settings; a class by its own name takes the model's settings alone.

    Raises UserError for an unknown name, and for a class that needs a package which is not installed.
    """
    import diffusers

    known = scheduler_name(name)
    class_name, settings = (name, {}) if hasattr(diffusers, name) else SCHEDULERS.get(known, (name, {}))
    cls = getattr(diffusers, class_name)
    if missing := [package for package in getattr(cls, "_backends", ()) if find_spec(package) is None]:
        raise UserError(f"scheduler {name!r} needs the package {missing[0]}: pip install {missing[0]}, or take another")
    return cls, settings


def stated(config: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that a scheduler's configuration states, without defaults that its class filled in, as in diffusers."""
    filled_in = config.get("_use_default_values", ())
    return {key: value for key, value in config.items() if not key.startswith("_") and key not in filled_in}


def full_config(scheduler: Any) -> dict[str, Any]:
    """The configuration of a scheduler with its class, which one made by hand does not say."""
    return {**scheduler.config, "_class_name": type(scheduler).__name__}


def why_not(config: Mapping[str, Any]) -> str | None:
    """The reason why no sampler of ours follows from a base model's scheduler; None where one does."""
    import diffusers

    class_name = str(config.get("_class_name", "DDIMScheduler"))
    if class_name in NOT_HERE:
        return NOT_HERE[class_name]
    if _is_diffusion_sampler(class_name):
        return None
    if "FlowMatch" in class_name:
        return "it samples models trained by flow matching"
    if not hasattr(diffusers, class_name):
        return "the installed diffusers does not know it"
    return "it samples models trained on no table of betas"


def no_betas(config: Mapping[str, Any]) -> str | None:
    """The reason why a base model with this scheduler has no table of betas; None if it has one."""
    if is_edm(config):
        return f"its {config.get('_class_name', EDM_CLASSES[0])} is of EDM noise levels"
    return None if _has_betas(config) else f"of its {config.get('_class_name')}, {why_not(config)}"


def make_scheduler(name: str, config: Mapping[str, Any], betas: Mapping[str, Any] | None = None) -> SchedulerMixin:
    """A diffusers scheduler by name, with the settings stated in `config` and the noise schedule `betas` laid over.

    Settings survive as in diffusers' `from_config`: each that the class knows. A base model of EDM noise levels keeps
    them, without betas. Raises UserError for a sampler that cannot sample such a model.
    """
    cls, settings = scheduler_class(name)
    if is_edm(config):
        return make_edm(name if name in EDM_CLASSES else scheduler_name(name), config)
    if cls.__name__ in EDM_CLASSES:
        raise UserError(
            f"{cls.__name__} samples models trained on EDM noise levels, and this base model was trained on a table of "
            "betas; leave `scheduler` out, or take another"
        )
    kept = stated(config)
    if not _has_betas(config):
        kept = {"num_train_timesteps": kept.get("num_train_timesteps", 1000), **STABLE_DIFFUSION}
    if kept.get("rescale_betas_zero_snr"):
        # With no signal at the last training step, sampling has to begin at that very step.
        kept.setdefault("timestep_spacing", "trailing")
    # As Stable Diffusion was trained; files from before these settings existed leave them out.
    kept = {"clip_sample": False, "steps_offset": 1} | kept
    if betas:
        kept |= {"trained_betas": None, **betas}
    if settings.keys() & set(SIGMA_SPACINGS):
        kept |= dict.fromkeys(SIGMA_SPACINGS, False)
    known = cls._get_init_keys(cls)
    if of_flow(kept) and not knows_flow(name):
        raise UserError(f"scheduler {name!r} cannot sample a base model trained by flow matching; leave it out")
    try:
        return cls.from_config({key: value for key, value in (kept | settings).items() if key in known})
    except (ValueError, NotImplementedError, TypeError, ImportError) as error:
        raise UserError(f"scheduler {name!r} cannot take the settings of this base model: {error}") from error


def of_flow(config: Mapping[str, Any]) -> bool:
    """Whether a base model with this scheduler was trained by flow matching."""
    return config.get("prediction_type") == "flow_prediction"


def knows_flow(name: str) -> bool:
    """Whether a sampler, by any of its names, has the noise levels of flow matching."""
    cls, _ = scheduler_class(name)
    return "use_flow_sigmas" in cls._get_init_keys(cls)


def _has_betas(config: Mapping[str, Any]) -> bool:
    """Whether a configuration is of a class with a table of betas, or states one."""
    import diffusers

    cls = getattr(diffusers, str(config.get("_class_name")), None)
    return "beta_schedule" in config or cls is None or bool(getattr(cls, "_backends", None)) or _takes_betas(cls)


def scheduler_notes(name: str, config: Mapping[str, Any], betas: Mapping[str, Any] | None = None) -> list[str]:
    """Statements of a base model about sampling that `make_scheduler` of the same arguments does not keep."""
    own = config.get("_class_name")
    if is_edm(config):
        said = f"this base model was trained on EDM noise levels, which its {own} keeps"
        return [f"{said}; the noise schedule that the motion module was trained with is not used"] if betas else []
    if not _has_betas(config):
        return [f"the base model's {own} is not used ({why_not(config)}), but {name} with Stable Diffusion's betas"]
    cls, _ = scheduler_class(name)
    kept, known = stated(config), cls._get_init_keys(cls)
    notes = []
    lost = [key for key in OF_TRAINING if kept.get(key, False) not in (False, None) and key not in known]
    if lost:
        told = ", ".join(f"{key}={kept[key]}" for key in lost)
        notes.append(f"{cls.__name__} knows no {told}, which the base model states; take another `scheduler`")
    if kept.get("rescale_betas_zero_snr") and kept.get("timestep_spacing") in ("leading", "linspace_leading"):
        notes.append(
            f"the base model states zero terminal SNR and timestep_spacing={kept['timestep_spacing']}, which does not "
            "begin at the last noise level; kept as stated"
        )
    if betas:
        odd = [key for key, usual in STABLE_DIFFUSION.items() if kept.get(key, usual) not in (usual, betas.get(key))]
        odd += ["trained_betas"] if kept.get("trained_betas") is not None else []
        if kept.get("use_flow_sigmas"):
            notes.append("the base model states use_flow_sigmas: the motion module's noise schedule has no effect")
        elif odd:
            told = ", ".join(key if key == "trained_betas" else f"{key}={kept[key]}" for key in odd)
            notes.append(f"the base model states {told}; replaced by the noise schedule of the motion module")
    return notes


def last_alpha_cumprod(scheduler: Any) -> float:
    """Share of signal at the last noise level of training, of a latent whose noise and signal add up to variance 1."""
    if is_edm(full_config(scheduler)):
        return 1 / (1 + float(scheduler.config.sigma_max) ** 2)
    return float(scheduler.alphas_cumprod[-1])


def check_scheduler(scheduler: Any, num_inference_steps: int, **steps: Sequence[float] | None) -> None:
    """Raise UserError unless a copy of `scheduler` lays out the steps of a clip and makes the first of them.

    steps: `timesteps` or `sigmas`, as for `set_steps`.
    """
    import torch

    name = type(scheduler).__name__
    lacking = [part for part in ("scale_model_input", "init_noise_sigma", "add_noise") if not hasattr(scheduler, part)]
    if lacking:
        reason = why_not(full_config(scheduler)) or f"it has no {lacking[0]}"
        raise UserError(f"{name} cannot sample Stable Diffusion: {reason}; choose another `scheduler`, such as euler")
    trial = copy.deepcopy(scheduler)
    set_steps(trial, num_inference_steps, "cpu", **steps)
    timestep = trial.timesteps[0]
    latents = torch.ones(1, 4, 1, 1, 1) * trial.init_noise_sigma
    reason = None
    try:
        with torch.random.fork_rng(devices=[]):  # some draw noise
            scaled = trial.scale_model_input(latents, timestep)
            made = trial.step(0.5 * scaled, timestep, latents, return_dict=False)[0]
        if not made.isfinite().all():
            reason = "its first step is not finite"
    except (NotImplementedError, ValueError, TypeError, AttributeError, RuntimeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    if reason is not None:
        told = {key: trial.config.get(key) for key in ("prediction_type", "rescale_betas_zero_snr")}
        settings = ", ".join(f"{key}={value}" for key, value in told.items() if value)
        raise UserError(f"{name} cannot sample this base model ({settings}): {reason}; choose another `scheduler`")


def set_steps(
    scheduler: Any,
    num_inference_steps: int,
    device: torch.device | str,
    *,
    timesteps: Sequence[float] | None = None,
    sigmas: Sequence[float] | None = None,
) -> int:
    """Lay out the steps of a clip, or these timesteps or sigmas; returns how many steps there are.

    Raises UserError for steps that the scheduler cannot make.
    """
    name, given = next(((n, v) for n, v in (("timesteps", timesteps), ("sigmas", sigmas)) if v is not None), ("", None))
    told = f"num_inference_steps={num_inference_steps}"
    reason = None
    try:
        if given is None:
            scheduler.set_timesteps(num_inference_steps, device=device)
        else:
            told = f"`{name}` of {len(given)} steps"
            if name not in inspect.signature(scheduler.set_timesteps).parameters:
                reason = f"it takes no `{name}`; give `num_inference_steps`, or choose another `scheduler`"
            else:
                scheduler.set_timesteps(device=device, **{name: list(given)})
                num_inference_steps = len(scheduler.timesteps) // getattr(scheduler, "order", 1)
    except (ValueError, IndexError, TypeError, AssertionError) as error:
        reason = error
    # diffusers lets some numbers through and then reads beyond the table of noise levels
    if reason is None and float(scheduler.timesteps.max()) >= scheduler.config.num_train_timesteps:
        reason = f"the model was trained on {scheduler.config.num_train_timesteps} noise levels; take fewer steps"
    if reason is not None:
        raise UserError(f"{told}: not with {type(scheduler).__name__} ({reason})")
    return num_inference_steps
