"""The nodes as the host and its users meet them: lists of files, schemas, messages, noise schedules."""

from __future__ import annotations

import asyncio
import inspect
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from diffusers import DDIMScheduler
from safetensors.torch import save_file
from support import comfy_host
from support.golden import motion_file
from support.paths import GOLDEN

import integrations.comfyui as pack
from animatediff.weights.families import FAMILIES
from animatediff.weights.recognise import recognise
from integrations.comfyui import folders, motion
from integrations.comfyui.nodes.apply import AnimateDiffApply, AnimateDiffDomainAdapter
from integrations.comfyui.nodes.camera import AnimateDiffLoadCameraCtrl
from integrations.comfyui.nodes.context import AnimateDiffContextWindows
from integrations.comfyui.nodes.loaders import AnimateDiffLoadMotionModule, AnimateDiffMotionLora
from integrations.comfyui.nodes.sparsectrl import AnimateDiffLoadSparseCtrl, AnimateDiffSparseCtrlApply
from integrations.comfyui.sampling_settings import with_family_sampling

models = comfy_host.models()


@pytest.fixture
def user_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folders of the host with files of each kind, under the names of AnimateDiff-Evolved and of the original."""
    import folder_paths

    found = {name: (list(paths), suffixes) for name, (paths, suffixes) in folder_paths.folder_names_and_paths.items()}
    monkeypatch.setattr(folder_paths, "folder_names_and_paths", found)
    monkeypatch.setattr(folder_paths, "models_dir", str(tmp_path))
    for source, target in (
        (motion_file("v2"), "animatediff_models/mm_v2.ckpt"),
        (motion_file("v3"), "Motion_Module/sub/mm_v3.ckpt"),
        (motion_file("sdxl"), "Motion_Module/mm_sdxl.ckpt"),
        (GOLDEN / "v2" / "motion_lora.ckpt", "animatediff_motion_lora/zoom.ckpt"),
        (GOLDEN / "v3" / "motion_lora.ckpt", "MotionLoRA/pan.ckpt"),
        (GOLDEN / "v3" / "domain_adapter.ckpt", "MotionLoRA/adapter.ckpt"),
        (GOLDEN / "v3" / "sparsectrl_rgb.ckpt", "SparseCtrl/rgb.ckpt"),
        (GOLDEN / "cameractrl" / "CameraCtrl.ckpt", "CameraCtrl/camera.ckpt"),
    ):
        (tmp_path / target).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, tmp_path / target)
    folders.register_folders()
    return tmp_path


def options(node: Any, name: str) -> list[str]:
    return next(item.options for item in node.GET_SCHEMA().inputs if item.id == name)


def loaded(name: str) -> Any:
    return AnimateDiffLoadMotionModule.execute(name).result[0]


def test_the_host_gets_all_nodes_and_each_input_explains_itself(user_files: Path) -> None:
    extension = asyncio.run(pack.comfy_entrypoint())
    nodes = asyncio.run(extension.get_node_list())
    schemas = {node.GET_SCHEMA().node_id: node.GET_SCHEMA() for node in nodes}
    ours = [
        *("AnimateDiffLoadMotionModule", "AnimateDiffMotionLora", "AnimateDiffDomainAdapter", "AnimateDiffApply"),
        *("AnimateDiffContextWindows", "AnimateDiffLoadSparseCtrl", "AnimateDiffSparseCtrlApply"),
        *("AnimateDiffPIA", "AnimateDiffI2V", "AnimateDiffLoadCameraCtrl", "AnimateDiffCameraCtrl"),
    ]
    assert schemas.keys() >= set(ours)
    assert not hasattr(pack, "NODE_CLASS_MAPPINGS"), "ComfyUI would not look at the entry point"
    for name in ours:
        assert schemas[name].description
        for item in schemas[name].inputs:
            assert item.tooltip or item.id in ("positive", "negative"), f"{name}.{item.id}"


def test_folders_of_the_original_and_of_evolved_are_listed(user_files: Path) -> None:
    listed = options(AnimateDiffLoadMotionModule, "motion_module")
    assert {"mm_v2.ckpt", "mm_sdxl.ckpt", str(Path("sub", "mm_v3.ckpt"))} <= set(listed)
    assert {"zoom.ckpt", "pan.ckpt"} <= set(options(AnimateDiffMotionLora, "lora"))
    assert "adapter.ckpt" in options(AnimateDiffDomainAdapter, "adapter")
    assert "rgb.ckpt" in options(AnimateDiffLoadSparseCtrl, "sparsectrl")
    assert {"camera.ckpt", "mm_v2.ckpt"} <= set(options(AnimateDiffLoadCameraCtrl, "cameractrl"))
    assert AnimateDiffLoadCameraCtrl.validate_inputs("camera.ckpt") is True
    assert AnimateDiffLoadMotionModule.validate_inputs("mm_v2.ckpt") is True
    assert loaded("mm_v2.ckpt").family.name == "v2"
    assert loaded(str(Path("sub", "mm_v3.ckpt"))).family.name == "v3"
    assert AnimateDiffLoadMotionModule.execute("mm_v2.ckpt", "lightning").result[0].family.name == "lightning"


def test_a_changed_file_is_loaded_again(user_files: Path) -> None:
    before = AnimateDiffLoadMotionModule.fingerprint_inputs("mm_v2.ckpt")
    assert AnimateDiffLoadMotionModule.fingerprint_inputs("mm_v2.ckpt") == before
    shutil.copy(motion_file("v3"), user_files / "animatediff_models" / "mm_v2.ckpt")
    assert AnimateDiffLoadMotionModule.fingerprint_inputs("mm_v2.ckpt") != before


@pytest.mark.parametrize(
    ("check", "message"),
    [
        (lambda: AnimateDiffLoadMotionModule.validate_inputs("mm_v5.ckpt"), "there is no file mm_v5.ckpt in models/"),
        (lambda: AnimateDiffMotionLora.validate_inputs("mm_v2.ckpt"), "there is no file mm_v2.ckpt"),
        (lambda: AnimateDiffMotionLora.validate_inputs("adapter.ckpt"), "a domain adapter"),
        (lambda: AnimateDiffDomainAdapter.validate_inputs("zoom.ckpt"), "a MotionLoRA, not a domain adapter"),
        (lambda: AnimateDiffDomainAdapter.validate_inputs("mm_v2.ckpt"), "a motion module, not a domain adapter"),
        (lambda: AnimateDiffLoadSparseCtrl.validate_inputs("none"), "there is no file none"),
        (lambda: AnimateDiffLoadCameraCtrl.validate_inputs("none"), "there is no file none in models/CameraCtrl"),
        (lambda: AnimateDiffLoadCameraCtrl.validate_inputs("mm_v2.ckpt"), "a motion module, not a CameraCtrl model"),
        (lambda: AnimateDiffApply.validate_inputs("0=1,3=1e40"), "scale_curve: 1e+40 is out of range"),
        (lambda: AnimateDiffApply.validate_inputs("11"), "scale_curve: 11 is out of range; factors are 0 to 10"),
        (lambda: AnimateDiffApply.validate_inputs("0=much"), "'much' is no finite number"),
    ],
)
def test_wrong_values_are_named_before_anything_runs(check: Any, message: str, user_files: Path) -> None:
    found = check()
    assert isinstance(found, str)
    assert message in found
    assert "`" not in found, "settings of the library have other names here"


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (lambda: AnimateDiffContextWindows.execute(None, 16, 16, "standard_static"), "less than context_length"),
        (lambda: AnimateDiffContextWindows.execute(None, 16, 4, closed_loop=True), "needs context_schedule"),
        (
            lambda: AnimateDiffContextWindows.execute(None, 16, 4, "batched", context_stride=2),
            "context_stride 2 needs",
        ),
        (
            lambda: AnimateDiffApply.execute(None, None, start_percent=0.5, end_percent=0.2),
            "start_percent 0.5 must be less than end_percent",
        ),
        (
            lambda: AnimateDiffSparseCtrlApply.execute(None, None, None, None, start_percent=0.5, end_percent=0.5),
            "start_percent 0.5 must be less than end_percent",
        ),
    ],
)
def test_values_that_do_not_go_together_are_named_when_the_node_runs(run: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        run()
    assert "`" not in str(error.value)


def test_a_message_stands_at_one_input_and_the_host_checks_the_ranges_of_the_others() -> None:
    """The host says what `validate_inputs` returns at each input that it takes, whose ranges it leaves alone."""
    for node in pack.node_classes():
        taken = inspect.signature(node.validate_inputs).parameters if "validate_inputs" in vars(node) else {}
        assert len(taken) <= 1, node


def test_a_file_of_several_possible_families_is_checked_with_the_one_that_is_given(user_files: Path) -> None:
    path = user_files / "animatediff_models" / "mm_v2.ckpt"
    assert AnimateDiffLoadMotionModule.validate_inputs("mm_v2.ckpt") is True
    nobody = replace(recognise(path), family=None)
    with mock.patch.object(motion, "recognise_header", return_value=nobody):
        assert AnimateDiffLoadMotionModule.validate_inputs("mm_v2.ckpt") is True
    with pytest.raises(ValueError, match="unknown family of motion modules 'v7'"):
        AnimateDiffLoadMotionModule.execute("mm_v2.ckpt", "v7")


def test_a_motion_lora_with_a_bias_for_a_layer_that_has_none_is_said(user_files: Path) -> None:
    module = loaded("mm_v2.ckpt")
    name = next(name for name, _ in module.adapter.named_modules() if name.endswith("attn1.to_q"))
    rows, columns = module.adapter.get_submodule(name).weight.shape
    key = f"lora_unet_{name.replace('.', '_')}"
    parts = {
        "lora_down.weight": torch.ones(2, columns),
        "lora_up.weight": torch.ones(rows, 2),
        "diff_b": torch.ones(rows),
    }
    file = user_files / "animatediff_motion_lora" / "odd.safetensors"
    save_file({f"{key}.{part}": value for part, value in parts.items()}, file)
    with pytest.raises(
        ValueError, match=r"odd.safetensors: changes .*to_q.bias, which these motion modules do not have"
    ):
        AnimateDiffMotionLora.execute(module, "odd.safetensors", 1.0)


def test_messages_name_no_methods_of_python(user_files: Path) -> None:
    found = AnimateDiffDomainAdapter.validate_inputs("zoom.ckpt")
    assert str(found).endswith("; give it to AnimateDiff MotionLoRA")


def test_a_lora_is_no_motion_module(user_files: Path) -> None:
    shutil.copy(GOLDEN / "v2" / "motion_lora.ckpt", user_files / "animatediff_models" / "zoom.ckpt")
    found = AnimateDiffLoadMotionModule.validate_inputs("zoom.ckpt")
    assert "a MotionLoRA, not a motion module" in str(found)
    with pytest.raises(ValueError, match="AnimateDiff MotionLoRA"):
        loaded("zoom.ckpt")


def test_a_module_of_another_base_model_is_refused(user_files: Path) -> None:
    model = models.golden_model("v3")
    with pytest.raises(ValueError, match="a motion module for SDXL base models, but the base model is SD 1"):
        AnimateDiffApply.execute(model, loaded("mm_sdxl.ckpt"))
    sdxl = models.golden_model("sdxl")
    with pytest.raises(ValueError, match="but the base model is SDXL"):
        AnimateDiffApply.execute(sdxl, loaded("mm_v2.ckpt"))
    assert models.hooked(model) == models.hooked(sdxl) == 0


def test_motion_modules_are_applied_once(user_files: Path) -> None:
    motion = loaded("mm_v2.ckpt")
    (once,) = AnimateDiffApply.execute(models.golden_model("v2"), motion).result
    with pytest.raises(ValueError, match=r"has motion modules already \(mm_v2.ckpt\)"):
        AnimateDiffApply.execute(once.clone(), motion)


def test_a_domain_adapter_of_another_base_model_is_refused(user_files: Path) -> None:
    with pytest.raises(ValueError, match=r"the layer it is for has|has no place in this model"):
        AnimateDiffDomainAdapter.execute(models.golden_model("sdxl"), "adapter.ckpt", 1.0)


def test_a_motion_lora_of_other_sizes_is_refused(user_files: Path) -> None:
    with pytest.raises(ValueError, match=r"pan\.ckpt"):
        AnimateDiffMotionLora.execute(loaded("mm_sdxl.ckpt"), "pan.ckpt", 1.0)


def sample(model: Any, num_frames: int, *shape: int) -> Any:
    text = torch.randn(1, 9, 32)
    latents = torch.randn(1, 4, num_frames, *(shape or (8, 8)))
    return models.sampled(model, latents, [900], models.conditioning(text), models.conditioning(text))


def test_windows_longer_than_the_module_knows_are_refused(user_files: Path) -> None:
    (model,) = AnimateDiffApply.execute(models.golden_model("v2"), loaded("mm_v2.ckpt")).result
    (windows,) = AnimateDiffContextWindows.execute(model, 40, 4).result
    for num_frames in (36, 44):
        with pytest.raises(ValueError, match=r"mm_v2\.ckpt knows 32 positions: set context_length to 32 or less"):
            sample(windows, num_frames)
    assert sample(windows, 4).shape == (1, 4, 4, 8, 8)


def test_latents_of_a_video_model_are_no_clip(user_files: Path) -> None:
    import comfy.sample
    import comfy.samplers

    (model,) = AnimateDiffApply.execute(models.golden_model("v2"), loaded("mm_v2.ckpt")).result
    text, video = models.conditioning(torch.randn(1, 9, 32)), torch.zeros(1, 4, 2, 8, 8)
    sampler, sigmas = comfy.samplers.sampler_object("euler"), torch.tensor([1.0, 0.0])
    with pytest.raises(ValueError, match=r"\[1, 4, 2, 8, 8\] are no clip of images: make them with Empty Latent Image"):
        comfy.sample.sample_custom(model, video, 1.0, sampler, sigmas, text, text, video)


def test_a_curve_beyond_the_clip_is_refused(user_files: Path) -> None:
    (model,) = AnimateDiffApply.execute(models.golden_model("v2"), loaded("mm_v2.ckpt"), scale_curve="0=1,9=0").result
    with pytest.raises(ValueError, match="motion_scale: there is no frame 9 in a clip of 4"):
        sample(model, 4)


@pytest.mark.parametrize("name", ["v1", "v2", "v3", "sdxl", "long", "lightning"])
def test_the_noise_schedule_of_the_family(name: str) -> None:
    family = FAMILIES[name]
    plain = models.golden_model("v3")
    found = with_family_sampling(plain, family).get_model_object("model_sampling").sigmas
    alphas = DDIMScheduler(**family.betas).alphas_cumprod
    assert torch.allclose(found, ((1 - alphas) / alphas) ** 0.5, rtol=1e-3)
    assert not torch.allclose(found, plain.get_model_object("model_sampling").sigmas, rtol=1e-2)


def test_families_that_keep_the_schedule_of_the_model(user_files: Path) -> None:
    plain = models.golden_model("v2")
    assert with_family_sampling(plain, FAMILIES["hotshot"]) is plain
    (left,) = AnimateDiffApply.execute(plain, loaded("mm_v2.ckpt"), sampling_settings="use the model's").result
    assert left.get_model_object("model_sampling") is plain.get_model_object("model_sampling")


def test_animatelcm_samples_as_a_consistency_model() -> None:
    from comfy_extras.nodes_model_advanced import LCM

    found = with_family_sampling(models.golden_model("v3"), FAMILIES["animatelcm"]).get_model_object("model_sampling")
    assert isinstance(found, LCM)
    assert len(found.sigmas) == 100


def test_what_a_file_says_of_its_training_is_followed() -> None:
    import comfy.model_sampling

    stated = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}
    plain = models.golden_model("v3")
    found = with_family_sampling(plain, replace(FAMILIES["custom"], sampling=stated))
    sampling, before = found.get_model_object("model_sampling"), plain.get_model_object("model_sampling")
    assert isinstance(sampling, comfy.model_sampling.V_PREDICTION)
    assert not isinstance(before, comfy.model_sampling.V_PREDICTION)
    assert sampling.sigmas[-1] > 1000
    assert torch.allclose(sampling.sigmas[:1], before.sigmas[:1], rtol=1e-3)
    (again,) = (with_family_sampling(found, FAMILIES["v3"]),)
    assert isinstance(again.get_model_object("model_sampling"), comfy.model_sampling.V_PREDICTION)


def test_a_model_sampled_otherwise_keeps_its_schedule(caplog: pytest.LogCaptureFixture) -> None:
    import comfy.model_sampling

    plain = models.golden_model("v3").clone()
    plain.add_object_patch("model_sampling", comfy.model_sampling.ModelSamplingDiscreteEDM())
    with caplog.at_level("WARNING"):
        assert with_family_sampling(plain, FAMILIES["v3"]) is plain
    assert "has no place for: the model's is used" in caplog.text
