"""Settings of the noise schedule that weights were trained with in place of their base model's, in files of ours.

Motion modules and LoRAs can be trained to another prediction than that of the base model, or with zero terminal SNR.
No tensor tells that, so it is in the metadata, and the sampler follows it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from animatediff.errors import UserError
from animatediff.parse import load_json

if TYPE_CHECKING:
    from animatediff.weights.storage.files import Header

PREDICTION_TYPES = ("epsilon", "v_prediction")
SAMPLING_KEY = "animatediff.sampling"
"""Key of the metadata: a JSON object of the settings, in diffusers' names."""
TRAINING_KEY = "animatediff.training"
"""Key of the metadata: the configuration that made the weights. Published files have none."""
BETAS = ("beta_start", "beta_end", "beta_schedule")
PLAIN = {"prediction_type": "epsilon", "rescale_betas_zero_snr": False}
"""Setting -> its value where a scheduler states none."""


def trained_metadata(settings: Mapping[str, Any]) -> dict[str, str]:
    """Metadata that states the settings; none where there are none."""
    return {SAMPLING_KEY: json.dumps(dict(settings))} if settings else {}


def trained_with(header: Header) -> dict[str, Any]:
    """The settings that a file states. Raises UserError for a statement that cannot be read."""
    return stated_settings(header.metadata, str(header.path))


def stated_settings(metadata: Mapping[str, Any], label: str) -> dict[str, Any]:
    """The settings that the metadata of a file states; `label` is its name in messages. Raises as `trained_with`."""
    stated = metadata.get(SAMPLING_KEY)
    if not isinstance(stated, str):
        return {}
    try:
        settings = load_json(stated)
    except ValueError:
        settings = None
    if not isinstance(settings, dict):
        raise UserError(f"{label}: its metadata {SAMPLING_KEY} is not a JSON object; was it edited?")
    for name, value in settings.items():
        if not _sound(name, value):
            raise UserError(f"{label}: its metadata {SAMPLING_KEY} states {name}={value!r}, which is not known")
    return settings


def _sound(name: str, value: Any) -> bool:
    if name == "prediction_type":
        return value in PREDICTION_TYPES
    if name == "rescale_betas_zero_snr":
        return isinstance(value, bool)
    if name == "beta_schedule":
        return value in ("linear", "scaled_linear", "squaredcos_cap_v2")
    return name in BETAS and isinstance(value, float) and 0 < value < 1


def laid_over(config: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """A scheduler's configuration with settings laid over it, as statements of its own."""
    filled_in = [name for name in config.get("_use_default_values", ()) if name not in settings]
    return {**config, **settings, "_use_default_values": filled_in}


def differing(settings: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that a scheduler's configuration does not have already."""
    return {name: value for name, value in settings.items() if config.get(name, PLAIN.get(name)) != value}


def only(names: Iterable[str], settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of these names."""
    return {name: settings[name] for name in names if name in settings}


def told(settings: Mapping[str, Any]) -> str:
    """Settings in one line, for people."""
    return ", ".join(f"{name}={value}" for name, value in settings.items())
