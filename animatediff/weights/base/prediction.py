"""How a base model wants to be sampled, as its single file says: prediction type, noise levels, latent statistics.

No shape tells these. A file may: by marker tensors that loaders of other programs look for, by metadata of trainers, or
by a configuration of the same name beside it. Sources of the markers: ComfyUI (`v_pred`, `ztsnr`, `edm_vpred.*`,
`edm_mean`), Stability's model spec (`modelspec.*`), sd-scripts (`ss_*`), OneTrainer (`ot_config`), and the original's
configurations (`parameterization`, `denoiser_config`).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from animatediff.errors import UserError
from animatediff.files import parse_yaml, read_text
from animatediff.parse import load_json
from animatediff.weights.storage.files import Header, load_tensors
from animatediff.weights.trained_with import BETAS, PREDICTION_TYPES, SAMPLING_KEY, stated_settings

logger = logging.getLogger(__name__)

SD2_BASE_SIZE = 64
"""Latent size that the noise-predicting SD 2.x models were trained at; the velocity-predicting ones: 96."""
METADATA_KEYS = ("modelspec.prediction_type", "modelspec.predict_key")
"""Of Stability's model spec, and ComfyUI's own name for it."""
PROBE_SIZE = 16
"""Latent height and width of the trial."""

COSXL = {
    "_class_name": "EDMEulerScheduler", "sigma_min": 0.002, "sigma_max": 120.0, "sigma_data": 1.0,
    "sigma_schedule": "exponential", "prediction_type": "v_prediction",
}  # fmt: skip
"""Scheduler that diffusers documents for CosXL; a file states its own range of sigmas."""
PLAYGROUND = {
    "_class_name": "EDMDPMSolverMultistepScheduler", "sigma_min": 0.002, "sigma_max": 80.0, "sigma_data": 0.5,
    "sigma_schedule": "karras", "rho": 7.0, "prediction_type": "epsilon", "solver_order": 2,
    "algorithm_type": "dpmsolver++", "solver_type": "midpoint", "final_sigmas_type": "zero",
    "num_train_timesteps": 1000,
}  # fmt: skip
"""Scheduler that Playground v2.5 is published with."""
PLAYGROUND_SCALING_FACTOR = 0.5
_MARKERS = ("v_pred", "ztsnr", "edm_vpred.sigma_max", "edm_vpred.sigma_min", "edm_mean", "edm_std")


@dataclass(frozen=True, kw_only=True)
class SamplingFacts:
    """Statements of a single file about how its model is sampled."""

    prediction_type: str | None = None
    """Either "epsilon" or "v_prediction"; None where the file says nothing."""
    unknown_prediction: str | None = None
    """A prediction type that is stated and cannot be sampled here, such as "flow"."""
    zero_snr: bool = False
    """Whether the last noise level of training has no signal left (arXiv 2305.08891)."""
    edm: Mapping[str, Any] | None = None
    """Configuration of the EDM scheduler (arXiv 2206.00364) of a model that was trained on no table of betas."""
    betas: Mapping[str, Any] = field(default_factory=dict)
    """Betas of a configuration beside the file, in diffusers' names."""
    vae: Mapping[str, Any] = field(default_factory=dict)
    """Settings of the VAE: latents_mean, latents_std, scaling_factor."""
    evidence: Sequence[str] = ()
    """Where each fact is from, for people."""
    contradictions: Sequence[str] = ()
    """Statements that others overrule, for people."""

    @property
    def summary(self) -> str:
        """The facts in one line; empty where the file says nothing."""
        prediction = self.prediction_type or self.unknown_prediction
        told = [f"predicts {prediction}"] if prediction else []
        if self.edm is not None:
            told.append(f"EDM noise levels, sigma {self.edm['sigma_min']:g} to {self.edm['sigma_max']:g}")
        elif self.zero_snr:
            told.append("zero terminal SNR")
        told += [f"{name}={value if isinstance(value, str) else f'{value:g}'}" for name, value in self.betas.items()]
        told += ["latents of a mean and deviation of their own"] if "latents_mean" in self.vae else []
        return ", ".join(told)


@dataclass(frozen=True)
class _Statement:
    """One statement: fact, value, source."""

    fact: str
    value: Any
    source: str


def sampling_facts(header: Header) -> SamplingFacts:
    """Statements of a single file, and of a configuration (.yaml) of its name beside it; a few numbers are read.

    Marker tensors overrule metadata, and metadata overrules the configuration beside the file; statements that lose are
    in `contradictions`.
    """
    stated = [*_of_tensors(header), *_of_metadata(header.metadata), *_of_config(header.path)]
    found: dict[str, _Statement] = {}
    contradictions = []
    for statement in stated:
        first = found.setdefault(statement.fact, statement)
        if first.value != statement.value:
            contradictions.append(
                f"{statement.source} says {_told(statement)}, {first.source} says {_told(first)}, which is taken"
            )
    values = {fact: statement.value for fact, statement in found.items()}
    evidence = {statement.source: None for statement in found.values()}  # each once, in order
    prediction = values.get("prediction_type")
    edm = values.get("edm")
    if edm is not None:
        if prediction not in (None, edm["prediction_type"]):
            contradictions.append(
                f"{found['prediction_type'].source} says {prediction}, {found['edm'].source} says "
                f"{edm['prediction_type']}, which is taken"
            )
        prediction = edm["prediction_type"]
    known = prediction in (*PREDICTION_TYPES, None)
    return SamplingFacts(
        prediction_type=prediction if known else None,
        unknown_prediction=None if known else str(prediction),
        zero_snr=bool(values.get("zero_snr")),
        edm=edm,
        betas={name: values[name] for name in BETAS if name in values},
        vae={name: values[name] for name in ("latents_mean", "latents_std", "scaling_factor") if name in values},
        evidence=tuple(evidence),
        contradictions=tuple(contradictions),
    )


def _told(statement: _Statement) -> str:
    names = {"edm": "EDM noise levels", "zero_snr": "zero terminal SNR"}
    value = statement.value
    if statement.fact == "edm":
        return f"EDM noise levels up to sigma {value['sigma_max']:g}"
    return f"{names.get(statement.fact, statement.fact)}={value}"


def _of_tensors(header: Header) -> Iterator[_Statement]:
    tensors = header.tensors
    small = [name for name in _MARKERS if name in tensors and 0 < _size(tensors[name].shape) <= 64]
    values = {key: tensor.flatten().tolist() for key, tensor in load_tensors(header, small).items()} if small else {}
    if "edm_mean" in tensors and "edm_std" in tensors:
        source = "tensors edm_mean, edm_std (Playground v2.5)"
        yield _Statement("edm", dict(PLAYGROUND), source)
        yield _Statement("latents_mean", values.get("edm_mean", []), source)
        yield _Statement("latents_std", values.get("edm_std", []), source)
        yield _Statement("scaling_factor", PLAYGROUND_SCALING_FACTOR, source)
    if "edm_vpred.sigma_max" in tensors:
        own = {
            name: values[f"edm_vpred.{name}"] for name in ("sigma_max", "sigma_min") if f"edm_vpred.{name}" in values
        }
        sigmas = {name: round(value[0], 9) for name, value in own.items()}  # float32 writes 0.002 as 0.00200000009
        yield _Statement("edm", COSXL | sigmas, "tensor edm_vpred.sigma_max (CosXL)")
    elif "v_pred" in tensors:
        yield _Statement("prediction_type", "v_prediction", "tensor v_pred")
    if "ztsnr" in tensors:
        yield _Statement("zero_snr", True, "tensor ztsnr")


def _size(shape: Sequence[int]) -> int:
    size = 1
    for length in shape:
        size *= length
    return size


def restated(
    schedule: Mapping[str, Any], metadata: Mapping[str, str], tensors: Mapping[str, Any]
) -> tuple[dict[str, str], dict[str, Any]]:
    """Metadata and tensors of a single file that state `schedule` (diffusers' names) in place of what they stated."""
    import torch

    stated, marked = dict(metadata), dict(tensors)
    of_prediction = (*METADATA_KEYS, "modelspec.architecture", "ss_v_parameterization")
    for setting, keys, mark, value in (
        ("prediction_type", of_prediction, "v_pred", "v_prediction"),
        ("rescale_betas_zero_snr", ("ss_zero_terminal_snr",), "ztsnr", True),
    ):
        if setting in schedule:
            for key in (*keys, "ot_config"):
                stated.pop(key, None)
            marked.pop(mark, None)
            if schedule[setting] == value:
                marked[mark] = torch.zeros(1)
    if "prediction_type" in schedule:
        stated[METADATA_KEYS[0]] = "v" if schedule["prediction_type"] == "v_prediction" else "epsilon"
    return stated, marked


def _of_metadata(metadata: Mapping[str, str]) -> Iterator[_Statement]:
    for name, value in stated_settings(metadata, "this file").items():
        yield _Statement("zero_snr" if name == "rescale_betas_zero_snr" else name, value, f"metadata {SAMPLING_KEY}")
    for key in METADATA_KEYS:
        if word := metadata.get(key, "").strip():
            yield _Statement("prediction_type", _prediction(word), f"metadata {key}")
    architecture = metadata.get("modelspec.architecture", "").strip().lower()
    if architecture in ("stable-diffusion-v2-768-v", "stable-diffusion-v2-512"):
        of_it = "v_prediction" if architecture.endswith("-v") else "epsilon"
        yield _Statement("prediction_type", of_it, "metadata modelspec.architecture")
    if (given := _truth(metadata.get("ss_v_parameterization"))) is not None:
        yield _Statement("prediction_type", PREDICTION_TYPES[given], "metadata ss_v_parameterization")
    if _truth(metadata.get("ss_zero_terminal_snr")):
        yield _Statement("zero_snr", True, "metadata ss_zero_terminal_snr")
    yield from _of_one_trainer(metadata.get("ot_config", ""))


def _of_one_trainer(text: str) -> Iterator[_Statement]:
    try:
        config = load_json(text) if text else {}
    except ValueError:
        return
    if not isinstance(config, dict):
        return
    if config.get("rescale_noise_scheduler_to_zero_terminal_snr") is True:  # which predicts v in any case
        yield _Statement("prediction_type", "v_prediction", "metadata ot_config (OneTrainer)")
        yield _Statement("zero_snr", True, "metadata ot_config (OneTrainer)")
    elif config.get("force_v_prediction") is True:
        yield _Statement("prediction_type", "v_prediction", "metadata ot_config (OneTrainer)")
    elif config.get("force_epsilon_prediction") is True:
        yield _Statement("prediction_type", "epsilon", "metadata ot_config (OneTrainer)")


def _of_config(path: Path) -> Iterator[_Statement]:
    """Statements of the original's configuration (.yaml) that lies beside a file under its name."""
    place = path.with_suffix(".yaml")
    if not place.is_file():
        return
    try:
        data, _ = parse_yaml(read_text(place), str(place))
    except UserError as error:
        logger.warning("%s; it lies beside %s and is not used", error, path.name)
        return
    params = _at(data, "model", "params")
    if not isinstance(params, Mapping):
        logger.info("%s: no configuration of a model (model: params: ...), not used", place)
        return
    source = place.name
    if isinstance(word := params.get("parameterization"), str):
        yield _Statement("prediction_type", _prediction(word), source)
    if any(params.get(name) is True for name in ("zero_terminal_snr", "rescale_betas_zero_snr", "ztsnr")):
        yield _Statement("zero_snr", True, source)
    for name, ours in (("linear_start", "beta_start"), ("linear_end", "beta_end"), ("scale_factor", "scaling_factor")):
        if isinstance(value := params.get(name), int | float) and not isinstance(value, bool):
            yield _Statement(ours, float(value), source)
    scaling = _at(params, "denoiser_config", "params", "scaling_config")
    kind = str(_at(scaling, "target") or "").rpartition(".")[2]
    if kind in ("EpsScaling", "VScaling"):
        yield _Statement("prediction_type", PREDICTION_TYPES[kind == "VScaling"], source)
    elif kind == "VScalingWithEDMcNoise":
        yield _Statement("edm", dict(COSXL), source)
    elif kind == "EDMScaling":
        data_sigma = _at(scaling, "params", "sigma_data")
        yield _Statement("edm", PLAYGROUND | ({} if data_sigma is None else {"sigma_data": float(data_sigma)}), source)


def _at(data: Any, *names: str) -> Any:
    for name in names:
        data = data.get(name) if isinstance(data, Mapping) else None
    return data


def _truth(word: str | None) -> bool | None:
    return {"true": True, "1": True, "false": False, "0": False}.get((word or "").strip().lower())


def _prediction(word: str) -> str:
    """A prediction type in diffusers' name: of "v", "velocity", "eps", "epsilon"; any other word as it is."""
    short = word.strip().lower().replace("-", "_")
    if short in ("v", "v_pred", "v_prediction", "velocity", "vpred"):
        return "v_prediction"
    return "epsilon" if short in ("eps", "epsilon", "noise") else word.strip()


def probe_prediction(unet: Any, path: Path) -> str:
    """Try a UNet on pure noise at the last training step, where a noise predictor gives back what it is given.

    There the input is noise but for 7 % of its amplitude, so a noise predictor's output is its input (correlation
    near 1), while the velocity is minus the unknown image, which the noise does not determine (near 0).
    """
    import torch

    parameter = next(unet.parameters())
    noise = torch.randn(1, unet.config.in_channels, PROBE_SIZE, PROBE_SIZE, generator=torch.Generator().manual_seed(0))
    text = torch.zeros(1, 77, unet.config.cross_attention_dim)
    with torch.inference_mode():
        step = torch.tensor([999], device=parameter.device)
        output = unet(noise.to(parameter), step, encoder_hidden_states=text.to(parameter)).sample
    correlation = torch.corrcoef(torch.stack([noise.flatten(), output.float().cpu().flatten()]))[0, 1].item()
    found = "epsilon" if correlation > 0.5 else "v_prediction"
    logger.info("%s: predicts %s (tried on noise: correlation %.2f)", path, found, correlation)
    return found
