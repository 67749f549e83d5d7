"""Samplers of models that were trained on EDM noise levels (arXiv 2206.00364), such as CosXL and Playground v2.5.

Such a model knows noise by sigma, not by a step of a table of betas, and predicts under EDM's preconditioning: no
sampler for betas fits it, and no betas of a motion module can be laid over it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from animatediff.errors import UserError

EDM_CLASSES = ("EDMEulerScheduler", "EDMDPMSolverMultistepScheduler")
"""Schedulers of diffusers for them."""
_EULER, _DPM = EDM_CLASSES
_KARRAS = {"sigma_schedule": "karras"}
_ODE, _SDE = {"algorithm_type": "dpmsolver++"}, {"algorithm_type": "sde-dpmsolver++"}

EDM_SAMPLERS: dict[str, tuple[str, dict[str, Any]]] = {
    "euler": (_EULER, {}),
    "euler_karras": (_EULER, _KARRAS),
    "dpmpp_2m": (_DPM, _ODE),
    "dpmpp_2m_karras": (_DPM, _ODE | _KARRAS),
    "dpmpp_2m_sde": (_DPM, _SDE),
    "dpmpp_2m_sde_karras": (_DPM, _SDE | _KARRAS),
    _EULER: (_EULER, {}),
    _DPM: (_DPM, {}),
}
"""Our name -> the class that does the same on EDM noise levels, and settings on top of the model's own."""


def is_edm(config: Mapping[str, Any]) -> bool:
    """Whether the configuration of a scheduler is of EDM noise levels."""
    return config.get("_class_name") in EDM_CLASSES


def make_edm(name: str, config: Mapping[str, Any]) -> Any:
    """The sampler `name` on the EDM noise levels of `config`. Raises UserError for one that has no such form."""
    import diffusers

    if name not in EDM_SAMPLERS:
        raise UserError(
            f"scheduler {name!r} samples models trained on a table of betas, and this base model was trained on EDM "
            f"noise levels ({config.get('_class_name', _EULER)}); leave `scheduler` out, or take one of "
            f"{', '.join(sampler for sampler in EDM_SAMPLERS if sampler not in EDM_CLASSES)}"
        )
    class_name, settings = EDM_SAMPLERS[name]
    cls: Any = getattr(diffusers, class_name)
    known = cls._get_init_keys(cls)
    # sigmas, sigma_data and prediction are the model's, the solver is the sampler's
    own_defaults = config.get("_use_default_values", ())
    kept = {key: value for key, value in config.items() if key in known and key not in own_defaults}
    return cls.from_config(kept | settings)
