"""Statements of single files about their sampling, by markers, metadata and a configuration beside them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from support import ldm_files

from animatediff.errors import UserError
from animatediff.weights.base.prediction import SamplingFacts, sampling_facts
from animatediff.weights.base.single_file import load_base_single_file
from animatediff.weights.storage.files import read_header

EMPTY = torch.tensor([])


def facts(
    folder: Path, tensors: dict[str, Any] | None = None, metadata: dict[str, str] | None = None, beside: str = ""
) -> SamplingFacts:
    save_file({"w": torch.zeros(1), **(tensors or {})}, folder / "m.safetensors", metadata)
    if beside:
        (folder / "m.yaml").write_text(beside, "utf-8")
    return sampling_facts(read_header(folder / "m.safetensors"))


@pytest.mark.parametrize(
    ("tensors", "metadata", "prediction", "zero_snr"),
    [
        ({}, {}, None, False),
        ({"v_pred": EMPTY}, {}, "v_prediction", False),
        ({"v_pred": EMPTY, "ztsnr": EMPTY}, {}, "v_prediction", True),
        ({}, {"modelspec.prediction_type": "v"}, "v_prediction", False),
        ({}, {"modelspec.prediction_type": "epsilon"}, "epsilon", False),
        ({}, {"modelspec.predict_key": "v"}, "v_prediction", False),
        ({}, {"modelspec.architecture": "stable-diffusion-v2-768-v"}, "v_prediction", False),
        ({}, {"modelspec.architecture": "stable-diffusion-v2-512"}, "epsilon", False),
        ({}, {"modelspec.architecture": "stable-diffusion-xl-v1-base"}, None, False),
        ({}, {"ss_v_parameterization": "True", "ss_zero_terminal_snr": "True"}, "v_prediction", True),
        ({}, {"ss_v_parameterization": "false", "ss_zero_terminal_snr": "False"}, "epsilon", False),
        ({}, {"ss_v_pred_like_loss": "0.5"}, None, False),  # a weight of the loss of noise predictors
        ({}, {"ot_config": json.dumps({"force_v_prediction": True})}, "v_prediction", False),
        ({}, {"ot_config": json.dumps({"rescale_noise_scheduler_to_zero_terminal_snr": True})}, "v_prediction", True),
        ({}, {"ot_config": "{not JSON"}, None, False),
    ],
)
def test_markers_and_metadata(
    tensors: dict[str, Any], metadata: dict[str, str], prediction: str | None, zero_snr: bool, tmp_path: Path
) -> None:
    found = facts(tmp_path, tensors, metadata)
    assert (found.prediction_type, found.zero_snr, found.edm) == (prediction, zero_snr, None)
    assert bool(found.evidence) == (prediction is not None) and not found.contradictions


def test_edm_markers(tmp_path: Path) -> None:
    cosxl = facts(tmp_path, {"edm_vpred.sigma_max": torch.tensor(80.0), "edm_vpred.sigma_min": torch.tensor(0.002)})
    assert cosxl.prediction_type == "v_prediction" and cosxl.edm is not None
    assert (cosxl.edm["sigma_max"], cosxl.edm["sigma_min"], cosxl.edm["sigma_data"]) == (80.0, 0.002, 1.0)
    assert cosxl.summary == "predicts v_prediction, EDM noise levels, sigma 0.002 to 80"
    playground = facts(tmp_path, {"edm_mean": torch.arange(4.0).view(1, 4, 1, 1), "edm_std": torch.ones(4)})
    assert playground.prediction_type == "epsilon" and playground.edm is not None
    assert playground.edm["sigma_data"] == 0.5
    assert playground.vae == {"latents_mean": [0, 1, 2, 3], "latents_std": [1, 1, 1, 1], "scaling_factor": 0.5}


SGM = """
model:
  params:
    denoiser_config:
      params:
        scaling_config:
          target: sgm.modules.diffusionmodules.denoiser_scaling.{}
"""


@pytest.mark.parametrize(
    ("beside", "prediction", "edm"),
    [
        ("model:\n  params:\n    parameterization: v\n", "v_prediction", None),
        ("model:\n  params:\n    parameterization: eps\n", "epsilon", None),
        (SGM.format("VScaling"), "v_prediction", None),
        (SGM.format("EpsScaling"), "epsilon", None),
        (SGM.format("VScalingWithEDMcNoise"), "v_prediction", "EDMEulerScheduler"),
        (SGM.format("EDMScaling"), "epsilon", "EDMDPMSolverMultistepScheduler"),
        ("prompt: a cat\n", None, None),
        ("model: [", None, None),
    ],
)
def test_a_configuration_beside_the_file(beside: str, prediction: str | None, edm: str | None, tmp_path: Path) -> None:
    found = facts(tmp_path, beside=beside)
    assert found.prediction_type == prediction
    assert (found.edm or {}).get("_class_name") == edm


def test_contradictions_and_unknown_words(tmp_path: Path) -> None:
    found = facts(tmp_path, {"v_pred": EMPTY}, {"modelspec.prediction_type": "epsilon"})
    assert found.prediction_type == "v_prediction"
    assert found.contradictions == (
        "metadata modelspec.prediction_type says prediction_type=epsilon, tensor v_pred says "
        "prediction_type=v_prediction, which is taken",
    )
    assert facts(tmp_path, metadata={"modelspec.prediction_type": "flow"}).unknown_prediction == "flow"


@pytest.fixture(scope="module")
def sd1() -> dict[str, torch.Tensor]:
    return ldm_files.single_file("sd1", ldm_files.models("sd1"))


def test_files_load_as_they_say(sd1: dict[str, torch.Tensor], tmp_path: Path, caplog: Any) -> None:
    path = tmp_path / "m.safetensors"

    def scheduler(extra: dict[str, Any], metadata: dict[str, str] | None = None, **settings: Any) -> Any:
        save_file(sd1 | extra, path, metadata)
        return load_base_single_file(path, **settings)["scheduler"].config

    config = scheduler({"v_pred": EMPTY, "ztsnr": EMPTY})
    assert config.prediction_type == "v_prediction"
    assert config.rescale_betas_zero_snr and config.timestep_spacing == "trailing"
    assert not caplog.records
    config = scheduler({"ztsnr": EMPTY})
    assert config.prediction_type == "epsilon" and not config.rescale_betas_zero_snr
    assert "says zero terminal SNR, but predicts the noise" in caplog.text
    assert scheduler({"ztsnr": EMPTY}, prediction_type="v_prediction").rescale_betas_zero_snr
    assert scheduler({"v_pred": EMPTY}, prediction_type="epsilon").prediction_type == "epsilon"
    assert "says that it predicts v_prediction; taken as epsilon" in caplog.text
    with pytest.raises(UserError, match=r"says that it predicts 'flow'.*give `prediction_type`"):
        scheduler({}, {"modelspec.prediction_type": "flow"})


def test_numbers_of_a_configuration_beside_the_file(sd1: dict[str, torch.Tensor], tmp_path: Path) -> None:
    save_file(sd1, tmp_path / "m.safetensors")
    (tmp_path / "m.yaml").write_text(
        "model:\n  params: {parameterization: v, linear_start: 0.001, linear_end: 0.02, scale_factor: 0.2}\n", "utf-8"
    )
    loaded = load_base_single_file(tmp_path / "m.safetensors")
    config = loaded["scheduler"].config
    assert (config.prediction_type, config.beta_start, config.beta_end) == ("v_prediction", 0.001, 0.02)
    assert loaded["vae"].config.scaling_factor == 0.2
