"""Settings that a run lays over the base model's schedule are stored with what it makes, and used when rendering."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from safetensors.torch import load_file, save_file
from support.training_clips import MODEL, MOTION, SIZE, run

from animatediff.errors import UserError
from animatediff.pipelines import AnimateDiffPipeline
from animatediff.weights.base.prediction import restated, sampling_facts
from animatediff.weights.storage.files import read_header, save_tensors
from animatediff.weights.trained_with import SAMPLING_KEY, laid_over, stated_settings, trained_metadata

V = {"prediction_type": "v_prediction"}
ZERO = {**V, "rescale_betas_zero_snr": True}


def pipeline(**parts: Any) -> AnimateDiffPipeline:
    return AnimateDiffPipeline.from_pretrained(MODEL, torch_dtype="float32", **parts)


def clip(pipe: AnimateDiffPipeline) -> torch.Tensor:
    size = {"num_frames": 4, "height": SIZE, "width": SIZE, "num_inference_steps": 2}
    return pipe("right", **size, generator=torch.Generator().manual_seed(0), output_type="pt").frames


def stated(path: Path) -> dict[str, Any]:
    return json.loads(read_header(path).metadata.get(SAMPLING_KEY, "{}"))


@pytest.fixture(scope="module")
def velocity(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A motion module of a run that was told to predict the velocity, on a base model that predicts the noise."""
    folder = tmp_path_factory.mktemp("velocity")
    return run("motion", folder, steps=1, prediction="v_prediction", start_from=str(MOTION)).weights


def test_a_motion_module_brings_its_prediction(
    velocity: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert stated(velocity) == V
    pipe = pipeline()
    assert pipe.scheduler.config.prediction_type == "epsilon"
    family = pipe.load_motion_module(velocity)
    assert (family.sampling, pipe.scheduler.config.prediction_type) == (V, "v_prediction")
    frames = clip(pipe)

    bare = tmp_path / "bare.safetensors"
    metadata = {key: value for key, value in read_header(velocity).metadata.items() if key != SAMPLING_KEY}
    save_file(load_file(velocity), bare, metadata)
    told = pipeline(motion_adapter=bare)
    noise = clip(told)
    told.scheduler = type(told.scheduler).from_config(told.scheduler.config, **V)
    assert torch.equal(clip(told), frames) and not torch.equal(noise, frames)

    pipe.set_scheduler("euler")
    assert pipe.scheduler.config.prediction_type == "v_prediction"
    pipe.save_pretrained(tmp_path / "saved")
    again = AnimateDiffPipeline.from_pretrained(tmp_path / "saved", torch_dtype="float32")
    assert again.scheduler.config.prediction_type == "v_prediction"

    caplog.clear()
    pipe.scheduler = diffusers.DDIMScheduler(beta_schedule="linear")
    pipe.scheduler = diffusers.DDIMScheduler(beta_schedule="linear")
    assert pipe.scheduler.config.prediction_type == "epsilon"
    assert caplog.text.count("prediction_type=epsilon is used, as the scheduler that was given says") == 1
    pipe.load_motion_module(MOTION)
    assert pipe.scheduler.config.prediction_type == "epsilon"


def test_stages_on_it_train_and_store_its_prediction(velocity: Path, tmp_path: Path) -> None:
    """A MotionLoRA on such a module learns the velocity too, and a run that goes on from the module as well."""
    first = json.loads((velocity.parent / "curve.jsonl").read_text().splitlines()[0])["loss"]
    assert stated(run("motion_lora", tmp_path / "lora", steps=1, motion_module=str(velocity)).weights) == V
    more = run("motion", tmp_path / "more", steps=1, start_from=str(velocity), learning_rate=1e-9)
    assert stated(more.weights) == V
    loss = json.loads((tmp_path / "more" / "curve.jsonl").read_text().splitlines()[0])["loss"]
    assert abs(loss - first) < 0.1 * first  # of the same target, one step later
    back = run("motion", tmp_path / "back", steps=1, start_from=str(velocity), prediction="epsilon")
    assert stated(back.weights) == {"prediction_type": "epsilon"}
    assert pipeline(motion_adapter=back.weights).scheduler.config.prediction_type == "epsilon"
    assert stated(run("motion", tmp_path / "plain", steps=1, prediction="epsilon").weights) == {}


def test_loras_bring_theirs_while_they_act(tmp_path: Path) -> None:
    more: dict[str, Any] = {
        "prediction": "v_prediction",
        "zero_terminal_snr": True,
        "schedule": "scaled_linear",
        "steps": 1,
    }
    adapter = run("adapter", tmp_path / "adapter", **more).weights
    assert stated(adapter) == {**ZERO, "beta_schedule": "scaled_linear"}
    pipe = pipeline()
    pipe.renew_scheduler()
    before = dict(pipe.scheduler.config)
    pipe.load_lora_weights(adapter, "adapter")
    config = pipe.scheduler.config
    assert {name: config[name] for name in ZERO} == ZERO and config.beta_schedule == "scaled_linear"
    pipe.disable_lora()
    assert pipe.scheduler.config.prediction_type == "epsilon"
    pipe.enable_lora()
    assert pipe.scheduler.config.prediction_type == "v_prediction"
    pipe.unload_lora_weights()
    assert dict(pipe.scheduler.config) == before
    lora = run("motion_lora", tmp_path / "lora", steps=1, schedule="scaled_linear").weights
    assert stated(lora) == {"beta_schedule": "scaled_linear"}
    pipe.load_motion_module(MOTION)
    assert pipe.scheduler.config.beta_schedule == "linear"
    pipe.load_lora_weights(lora)
    assert pipe.scheduler.config.beta_schedule == "scaled_linear"


def test_a_sparsectrl_encoder_and_an_image_model_bring_theirs(tmp_path: Path) -> None:
    encoder = run("sparsectrl", tmp_path / "encoder", steps=1, prediction="v_prediction").weights
    pipe = pipeline(motion_adapter=MOTION)
    pipe.load_sparsectrl(encoder)
    assert pipe.to("cpu").scheduler.config.prediction_type == "v_prediction"
    pipe.set_sparsectrl(None)
    assert pipe.scheduler.config.prediction_type == "epsilon"
    model = run("image", tmp_path / "image", steps=1, prediction="v_prediction", zero_terminal_snr=True).weights
    config = json.loads((model / "scheduler" / "scheduler_config.json").read_text())
    assert {name: config[name] for name in ZERO} == ZERO


def test_zero_terminal_snr_wants_velocity(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="set `prediction` to v_prediction, or leave `zero_terminal_snr` out"):
        run("adapter", tmp_path, steps=1, zero_terminal_snr=True)


def test_a_single_file_states_its_schedule_as_other_programs_read_it(tmp_path: Path) -> None:
    own = {"modelspec.prediction_type": "epsilon", "ss_zero_terminal_snr": "False", "modelspec.title": "x"}
    metadata, tensors = restated(ZERO, own, {"a": torch.zeros(2)})
    assert metadata == {"modelspec.prediction_type": "v", "modelspec.title": "x"}
    assert set(tensors) == {"a", "v_pred", "ztsnr"}
    path = tmp_path / "model.safetensors"
    save_tensors(path, tensors, metadata | trained_metadata({**ZERO, "beta_schedule": "linear"}))
    facts = sampling_facts(read_header(path))
    assert (facts.prediction_type, facts.zero_snr, dict(facts.betas)) == (
        "v_prediction",
        True,
        {"beta_schedule": "linear"},
    )
    assert not facts.contradictions
    metadata, tensors = restated({"prediction_type": "epsilon"}, metadata, tensors)
    assert (metadata["modelspec.prediction_type"], set(tensors)) == ("epsilon", {"a", "ztsnr"})


@pytest.mark.parametrize("text", ["[1]", "{", '{"prediction_type": "sample"}', '{"a": 1}', '{"beta_end": "x"}'])
def test_an_edited_statement_is_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"x\.safetensors: its metadata animatediff\.sampling"):
        stated_settings({SAMPLING_KEY: text}, "x.safetensors")


def test_settings_laid_over_a_configuration_are_stated() -> None:
    config = {
        "prediction_type": "epsilon",
        "steps_offset": 1,
        "_use_default_values": ["prediction_type", "steps_offset"],
    }
    assert laid_over(config, V) == {**V, "steps_offset": 1, "_use_default_values": ["steps_offset"]}


def test_contradicting_weights_are_said_once(velocity: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    back = tmp_path / "noise.safetensors"
    lora = run("motion_lora", tmp_path / "lora", steps=1).weights
    save_file(
        load_file(lora), back, {**dict(read_header(lora).metadata), **trained_metadata({"prediction_type": "epsilon"})}
    )
    pipe = pipeline(motion_adapter=velocity)
    with caplog.at_level(logging.WARNING, "animatediff"):
        pipe.load_lora_weights(back, "noise")
        pipe.set_scheduler("euler")
    assert pipe.scheduler.config.prediction_type == "epsilon"
    assert caplog.text.count("the motion module was trained with prediction_type=v_prediction, other weights with") == 1
