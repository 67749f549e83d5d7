"""Settings of a base model's scheduler under another sampler and the betas of a motion module, against diffusers."""

from __future__ import annotations

from typing import Any

import diffusers
import pytest
from support.pipelines import PUBLISHED

from animatediff.errors import UserError
from animatediff.sampling import SCHEDULERS, make_scheduler
from animatediff.sampling.schedulers import scheduler_class, scheduler_notes
from animatediff.weights.families import LINEAR

BASE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
CONFIGS = {
    "published": {key: value for key, value in PUBLISHED.items() if key != "_class_name"},
    "sigmas": BASE | {
        "use_karras_sigmas": True, "sigma_min": 0.03, "sigma_max": 12.0, "final_sigmas_type": "sigma_min",
        "timestep_type": "continuous", "timestep_spacing": "trailing", "prediction_type": "v_prediction",
    },
    "zero": BASE | {
        "rescale_betas_zero_snr": True, "timestep_spacing": "trailing", "prediction_type": "v_prediction",
        "set_alpha_to_one": False, "clip_sample": False,
    },
    "solver": BASE | {
        "thresholding": True, "dynamic_thresholding_ratio": 0.9, "solver_order": 3, "clip_sample": False,
        "use_exponential_sigmas": False, "original_inference_steps": 40, "lower_order_final": False,
    },
}  # fmt: skip
OF_BASE = {
    "published": "PNDMScheduler", "sigmas": "EulerDiscreteScheduler", "zero": "DDIMScheduler",
    "solver": "DPMSolverMultistepScheduler",
}  # fmt: skip


def loaded(name: str) -> Any:
    """The scheduler of a base model whose file states CONFIGS[name]."""
    return getattr(diffusers, OF_BASE[name]).from_config(CONFIGS[name])


def settings_of(scheduler: Any) -> dict[str, Any]:
    own = scheduler._get_init_keys(type(scheduler))
    return {key: value for key, value in scheduler.config.items() if key in own}


@pytest.mark.parametrize("config", CONFIGS)
def test_settings_survive_a_change_of_sampler_as_in_diffusers(config: str) -> None:
    base = loaded(config)
    for number, name in enumerate(name for name in SCHEDULERS if not name.startswith("lms")):
        cls, own = scheduler_class(name)
        betas = LINEAR if number % 2 else {}
        # Stable Diffusion's own defaults where the file states nothing
        unstated = {"clip_sample": False, "steps_offset": 1}
        known = cls._get_init_keys(cls)
        changes = {**{k: v for k, v in unstated.items() if k not in CONFIGS[config]}, **betas, **own}
        wanted = cls.from_config(base.config, **{k: v for k, v in changes.items() if k in known})
        assert settings_of(make_scheduler(name, base.config, betas or None)) == settings_of(wanted), name


def test_a_base_models_own_scheduler_is_taken_as_it_is() -> None:
    for config in CONFIGS:
        base = loaded(config)
        made = make_scheduler(type(base).__name__, base.config)
        assert {**settings_of(base), "clip_sample": False, "steps_offset": 1} | settings_of(made) == {
            **settings_of(base), "clip_sample": False, "steps_offset": 1
        }  # fmt: skip
    warming_up = diffusers.PNDMScheduler(**BASE, skip_prk_steps=False)
    assert make_scheduler("PNDMScheduler", warming_up.config).config.skip_prk_steps is False
    assert make_scheduler("pndm", warming_up.config).config.skip_prk_steps is True


def test_zero_terminal_snr_begins_at_the_last_step_unless_stated_otherwise() -> None:
    stated = {"_class_name": "EulerDiscreteScheduler", **BASE, "rescale_betas_zero_snr": True,
              "prediction_type": "v_prediction"}  # fmt: skip
    assert make_scheduler("ddim", stated).config.timestep_spacing == "trailing"
    leading = stated | {"timestep_spacing": "leading"}
    assert make_scheduler("ddim", leading).config.timestep_spacing == "leading"
    assert "zero terminal SNR and timestep_spacing=leading" in scheduler_notes("ddim", leading)[0]


def test_statements_that_get_lost_are_told() -> None:
    zero = loaded("zero").config
    assert scheduler_notes("ddim", zero) == []
    assert scheduler_notes("heun", zero) == [
        "HeunDiscreteScheduler knows no rescale_betas_zero_snr=True, which the base model states; "
        "take another `scheduler`"
    ]
    assert scheduler_notes("ddim", loaded("published").config, LINEAR) == []  # every motion module does that
    table = PUBLISHED | {"trained_betas": [0.1] * 1000, "beta_end": 0.03}
    (note,) = scheduler_notes("ddim", table, LINEAR)
    assert "states beta_end=0.03, trained_betas; replaced" in note
    assert make_scheduler("ddim", table, LINEAR).config.trained_betas is None
    assert len(make_scheduler("ddim", table).config.trained_betas) == 1000


def test_combinations_that_diffusers_refuses_are_told() -> None:
    flow = {"_class_name": "UniPCMultistepScheduler", **BASE, "use_flow_sigmas": True,
            "prediction_type": "flow_prediction", "flow_shift": 3.0}  # fmt: skip
    assert make_scheduler("unipc", flow).config.use_flow_sigmas
    with pytest.raises(UserError, match="cannot sample a base model trained by flow matching"):
        make_scheduler("ddim", flow)
    assert "has no effect" in scheduler_notes("unipc", flow, LINEAR)[0]
    spaced = {"_class_name": "EulerDiscreteScheduler", **BASE, "use_exponential_sigmas": True}
    made = make_scheduler("dpmpp_2m_karras", spaced).config
    assert made.use_karras_sigmas and not made.use_exponential_sigmas
    with pytest.raises(UserError, match="cannot take the settings of this base model"):
        make_scheduler("euler", spaced | {"use_beta_sigmas": True})


@pytest.mark.parametrize("name", ["EDMEulerScheduler", "FlowMatchEulerDiscreteScheduler"])
def test_base_models_without_betas_are_not_trained_on(name: str) -> None:
    from animatediff.training.objective import Objective

    with pytest.raises(UserError, match=f"cannot be trained further: (of )?its {name}"):
        Objective({"_class_name": name}, betas=LINEAR)
