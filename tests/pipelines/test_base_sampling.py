"""What a base model says about sampling: frames equal to those of diffusers' own pipeline, or refused by name."""

from __future__ import annotations

import copy
import json
import logging
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import save_file
from support import ldm_files, tiny_models
from support.close import relative
from support.paths import GOLDEN
from support.pipelines import seeded

from animatediff.errors import UserError
from animatediff.motion import MotionAdapter
from animatediff.pipelines import AnimateDiffPipeline
from animatediff.pipelines.vae import decode_images, encode_images
from animatediff.weights.base.folder import load_base_folder
from animatediff.weights.families import FAMILIES

COSXL = {"edm_vpred.sigma_max": torch.tensor(120.0), "edm_vpred.sigma_min": torch.tensor(0.002)}
MEAN, STD = [-1.6574, 0.886, -1.383, 2.5155], [8.4927, 5.9022, 6.5498, 5.2299]
PLAYGROUND = {"edm_mean": torch.tensor(MEAN), "edm_std": torch.tensor(STD)}
CALL: dict[str, Any] = {"height": 32, "width": 32, "num_inference_steps": 3, "guidance_scale": 3.0, "output_type": "pt"}


@pytest.fixture(scope="module")
def sdxl_state() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    parts = ldm_files.models("sdxl") | {"unet": UNet2DConditionModel(**tiny_models.UNETS["sdxl"])}
    return ldm_files.single_file("sdxl", parts)


@pytest.fixture
def sdxl(sdxl_state: dict[str, torch.Tensor], tmp_path: Path) -> Any:
    def load(extra: dict[str, torch.Tensor], **settings: Any) -> AnimateDiffPipeline:
        path = tmp_path / "model.safetensors"
        save_file(sdxl_state | extra, path)
        pipe = AnimateDiffPipeline.from_single_file(path, torch_dtype="float32", **settings)
        pipe.set_progress_bar_config(disable=True)
        return pipe

    return load


@pytest.fixture
def sd1() -> AnimateDiffPipeline:
    pipe = AnimateDiffPipeline.from_pretrained(GOLDEN / "v3" / "sd", torch_dtype="float32")
    pipe.set_progress_bar_config(disable=True)
    return pipe


def still(pipe: AnimateDiffPipeline, family: str | None = None) -> AnimateDiffPipeline:
    """Motion modules that change nothing."""
    pipe.set_motion_adapter(MotionAdapter.from_unet(pipe.unet), FAMILIES.get(family or ""))
    return pipe


def same_as_diffusers(pipe: AnimateDiffPipeline, **changes: Any) -> None:
    """A clip of two frames is two images of diffusers' own pipeline on the same parts."""
    latents = torch.randn(1, 4, 2, 16, 16, generator=torch.Generator().manual_seed(1))
    call = CALL | {"negative_prompt": ""} | changes
    frames = pipe("a cat", latents=latents, num_frames=2, **call).frames[0]
    assert frames.isfinite().all() and frames.std() > 0.01
    pipe.attachment.frames.num_frames = 1
    for index in (0, 1):
        image = pipe.base("a cat", latents=latents[:, :, index], **call).images[0]
        assert relative(frames[index], image) < 1e-5


# -- EDM noise levels ------------------------------------------------------------------------------------------------


def test_cosxl_and_playground_are_known_and_keep_their_scheduler(sdxl: Any) -> None:
    cosxl = sdxl(COSXL).scheduler
    wanted = diffusers.EDMEulerScheduler(
        sigma_min=0.002, sigma_max=120.0, sigma_data=1.0, prediction_type="v_prediction", sigma_schedule="exponential"
    )
    assert type(cosxl) is type(wanted)
    assert all(cosxl.config[key] == value for key, value in wanted.config.items() if not key.startswith("_"))
    pipe = sdxl(PLAYGROUND)
    wanted = diffusers.EDMDPMSolverMultistepScheduler()  # as it is published: the defaults
    assert type(pipe.scheduler) is type(wanted)
    assert all(pipe.scheduler.config[key] == value for key, value in wanted.config.items() if not key.startswith("_"))
    config = pipe.vae.config
    assert config.scaling_factor == 0.5
    assert config.latents_mean == pytest.approx(MEAN) and config.latents_std == pytest.approx(STD)


@pytest.mark.parametrize("extra", [COSXL, PLAYGROUND], ids=["cosxl", "playground"])
def test_frames_of_edm_models_are_those_of_diffusers(
    extra: dict[str, torch.Tensor], sdxl: Any, caplog: pytest.LogCaptureFixture
) -> None:
    pipe = still(sdxl(extra), "sdxl")
    for _ in range(2):
        pipe.renew_scheduler()
    assert caplog.text.count("was trained on EDM noise levels, which its EDM") == 1  # no betas laid over in silence
    assert caplog.text.count("scheduler ddim, recommended for the loaded weights, does not fit") == 1
    same_as_diffusers(pipe)
    for name in ("euler", "dpmpp_2m_karras"):
        pipe.set_scheduler(name)
        assert pipe.scheduler.config.sigma_max == (120.0 if extra is COSXL else 80.0)
        same_as_diffusers(pipe)


def test_edm_with_a_video_kept_frames_freeinit_and_a_sampler_that_draws(sdxl: Any) -> None:
    pipe = still(sdxl(COSXL))
    pipe.set_scheduler("dpmpp_2m_sde")
    call = CALL | {"num_frames": 3, "generator": seeded(1)}
    video = torch.rand(3, 3, 32, 32)
    for own in ({"video": video, "strength": 0.7}, {"images": {0: (video[0] * 255).byte().permute(1, 2, 0).numpy()}},
                {"freeinit": 2}):  # fmt: skip
        frames = pipe("a cat", **call | own).frames
        assert frames.isfinite().all() and frames.shape[1] == 3


def test_samplers_for_betas_are_refused_on_edm_and_the_other_way_round(sdxl: Any, sd1: AnimateDiffPipeline) -> None:
    pipe = sdxl(COSXL)
    with pytest.raises(UserError, match=r"'ddim' samples models trained on a table of betas.*take one of euler"):
        pipe.set_scheduler("ddim")
    assert type(still(pipe).scheduler).__name__ == "EDMEulerScheduler"
    with pytest.raises(UserError, match="EDMEulerScheduler samples models trained on EDM noise levels"):
        sd1.set_scheduler("EDMEulerScheduler")


def test_latent_statistics_go_with_the_file_whatever_its_vae(sdxl: Any, tmp_path: Path) -> None:
    vae = ldm_files.models("sdxl")["vae"]
    save_file(vae.state_dict(), tmp_path / "vae.safetensors")
    assert sdxl(PLAYGROUND, vae=tmp_path / "vae.safetensors").vae.config.latents_mean == pytest.approx(MEAN)
    with pytest.raises(UserError, match="neither latents_mean nor latents_std"):
        sdxl(PLAYGROUND, vae=vae)
    with pytest.raises(UserError, match="edm_std has to be 4 numbers"):
        sdxl(PLAYGROUND | {"edm_std": torch.ones(3)})


# -- latent statistics of the VAE ------------------------------------------------------------------------------------


def test_latent_statistics_both_ways(sdxl: Any) -> None:
    pipe = still(sdxl({}))
    pipe.vae.register_to_config(latents_mean=MEAN, latents_std=STD, scaling_factor=0.5)
    same_as_diffusers(pipe)
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    found = encode_images(pipe.vae, images, torch.device("cpu"))
    with torch.inference_mode():
        plain = pipe.vae.encode(images * 2 - 1).latent_dist.mode()
        mean, std = (torch.tensor(values).view(1, 4, 1, 1) for values in (MEAN, STD))
        # as StableDiffusionXLImg2ImgPipeline.prepare_latents
        assert relative(found, (plain - mean) * 0.5 / std) < 1e-5
        assert relative(decode_images(pipe.vae, found), (pipe.vae.decode(plain).sample / 2 + 0.5).clamp(0, 1)) < 1e-5


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"shift_factor": 0.0609}, "shift_factor=0.0609"),
        ({"latents_mean": MEAN}, "latents_mean alone"),
        ({"latents_mean": MEAN, "latents_std": STD}, "belong to SDXL's kind of model"),
    ],
)
def test_statistics_that_diffusers_leaves_out_are_refused(
    settings: dict[str, Any], message: str, sd1: AnimateDiffPipeline
) -> None:
    sd1.vae.register_to_config(**settings)
    with pytest.raises(UserError, match=message):
        still(sd1)("a cat", **CALL)


# -- models distilled by LCM -----------------------------------------------------------------------------------------


def distilled(unet: UNet2DConditionModel) -> UNet2DConditionModel:
    config = {key: value for key, value in dict(unet.config).items() if not key.startswith("_")}
    # with a norm for each channel, what is added to a channel is taken out again
    made: Any = UNet2DConditionModel.from_config(config | {"time_cond_proj_dim": 256, "norm_num_groups": 8})
    state = made.state_dict() | unet.state_dict()
    torch.manual_seed(0)
    state["time_embedding.cond_proj.weight"] = torch.randn_like(state["time_embedding.cond_proj.weight"]) * 0.3
    made.load_state_dict(state)
    return made.eval()


def test_guidance_embedding_of_lcm_models(sd1: AnimateDiffPipeline, caplog: pytest.LogCaptureFixture) -> None:
    sd1.unet = distilled(sd1.unet)
    still(sd1, "v3")
    assert type(sd1.scheduler).__name__ == "LCMScheduler" and sd1.scheduler.config.beta_schedule == "linear"
    assert (sd1.defaults.num_inference_steps, sd1.defaults.guidance_scale) == (4, 8.0)
    sizes: list[int] = []
    handle = sd1.unet.register_forward_pre_hook(lambda module, args: sizes.append(len(args[0])))
    sd1.set_scheduler("ddim")
    same_as_diffusers(sd1)
    handle.remove()
    assert set(sizes) == {2, 1}  # frames, images of diffusers: no second half for negative prompts
    latents = torch.randn(1, 4, 2, 16, 16)
    call = CALL | {"latents": latents, "num_frames": 2}
    low, high = (sd1("a cat", **call | {"guidance_scale": scale}).frames for scale in (1.5, 8.0))
    assert relative(low, high) > 1e-3
    assert "has no effect" not in caplog.text
    sd1("a cat", negative_prompt="dog", **call)
    assert "`negative_prompt` has no effect: this base model (distilled by LCM)" in caplog.text


def test_guidance_embedding_in_windows_and_single_files(sdxl: Any, sdxl_state: dict[str, torch.Tensor]) -> None:
    width = sdxl_state["model.diffusion_model.time_embed.0.weight"].shape[1]
    weight = {"model.diffusion_model.time_embed.cond_proj.weight": torch.randn(width, 64) * 0.3}
    pipe = still(sdxl(weight))
    assert pipe.unet.config.time_cond_proj_dim == 64
    pipe.set_scheduler("euler")
    same_as_diffusers(pipe)
    frames = pipe(["a cat", "a dog"], generator=seeded(1, 2), num_frames=6, window=4, overlap=2, **CALL).frames
    assert frames.shape[:2] == (2, 6)


# -- kinds of models and schedulers that are refused ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"in_channels": 9}, "inpainting model"),
        ({"in_channels": 8}, "image-editing model"),
        ({"in_channels": 7, "num_class_embeds": 1000}, "upscaler"),
        ({"class_embed_type": "timestep"}, r"class embeddings \(class_embed_type=timestep"),
        ({"num_class_embeds": 10}, "class embeddings"),
        ({"addition_embed_type": "text_image"}, "image embeddings .*addition_embed_type=text_image"),
        ({"addition_embed_type": "text_time"}, "there is no second text encoder"),
        ({"encoder_hid_dim": 768, "encoder_hid_dim_type": "image_proj"}, "encoder_hid_dim_type=image_proj"),
        ({"out_channels": 8}, "8 output channels"),
        ({"_class_name": "UNet3DConditionModel"}, "a UNet3DConditionModel; expected"),
    ],
)
def test_unets_of_other_kinds(config: dict[str, Any], message: str, sd1: AnimateDiffPipeline) -> None:
    still(sd1)
    sd1.unet._internal_dict = diffusers.configuration_utils.FrozenDict(dict(sd1.unet.config) | config)
    with pytest.raises(UserError, match=message):
        sd1("a cat", **CALL)


@pytest.fixture
def folder(tmp_path: Path) -> Any:
    def make(part: str, **changes: Any) -> Path:
        """A copy of a small model whose `part` (a JSON file) has other settings."""
        root = tmp_path / "sd"
        for file in (GOLDEN / "v3" / "sd").rglob("*"):
            if file.is_file():
                place = root / file.relative_to(GOLDEN / "v3" / "sd")
                place.parent.mkdir(parents=True, exist_ok=True)
                place.symlink_to(file)
        place = root / part
        settings = json.loads(place.read_text("utf-8")) | changes
        place.unlink()
        place.write_text(json.dumps(settings), "utf-8")
        return root

    return make


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("FlowMatchEulerDiscreteScheduler", "it samples models trained by flow matching"),
        ("CMStochasticIterativeScheduler", "trained on no table of betas"),
        ("KarrasVeScheduler", "trained on no table of betas"),
        ("IPNDMScheduler", "trained on no table of betas"),
        ("DPMSolverSDEScheduler", "a source of its own"),
        ("UnCLIPScheduler", "unCLIP"),
    ],
)
def test_schedulers_that_sample_no_clip(kind: str, reason: str, folder: Any, caplog: Any) -> None:
    path = folder("scheduler/scheduler_config.json")
    (path / "scheduler" / "scheduler_config.json").write_text(json.dumps({"_class_name": kind}), "utf-8")
    if kind in ("DPMSolverSDEScheduler",):  # needs a package that may be missing
        sampler = AnimateDiffPipeline.from_pretrained(GOLDEN / "v3" / "sd", torch_dtype="float32").sampler
        sampler.base = type(kind, (), {"config": {}})()
        assert sampler.refusal is not None and reason in sampler.refusal
        return
    pipe = still(AnimateDiffPipeline.from_pretrained(path, torch_dtype="float32"), "v3")
    with pytest.raises(
        UserError, match=rf"scheduler is a {kind} .*{reason}.*choose another `scheduler`, such as euler"
    ):
        pipe("a cat", **CALL)
    pipe.set_scheduler("euler")
    assert pipe.scheduler.config.beta_schedule == "linear"
    if kind != "UnCLIPScheduler":
        assert f"the base model's {kind} is not used" in caplog.text
    pipe.set_progress_bar_config(disable=True)
    same_as_diffusers(pipe)


def test_flow_matching_keeps_its_own_sampler(folder: Any, caplog: Any) -> None:
    path = folder("scheduler/scheduler_config.json")
    config = {"_class_name": "UniPCMultistepScheduler", "prediction_type": "flow_prediction", "use_flow_sigmas": True}
    (path / "scheduler" / "scheduler_config.json").write_text(json.dumps(config), "utf-8")
    pipe = AnimateDiffPipeline.from_pretrained(path, torch_dtype="float32")
    pipe.load_motion_module(GOLDEN / "v3" / "motion_module.ckpt")
    assert type(pipe.scheduler).__name__ == "UniPCMultistepScheduler" and pipe.scheduler.config.use_flow_sigmas
    assert "scheduler ddim, recommended for the loaded weights, does not fit the base model" in caplog.text
    with pytest.raises(UserError, match="'euler' cannot sample a base model trained by flow matching"):
        pipe.set_scheduler("euler")


def test_edm_folder_and_extras_of_sdxl_folders(sdxl: Any, tmp_path: Path) -> None:
    pipe = sdxl({})
    pipe.base.register_to_config(force_zeros_for_empty_prompt=False)
    pipe.scheduler = diffusers.EDMDPMSolverMultistepScheduler()
    pipe.base.save_pretrained(tmp_path / "edm")
    loaded = AnimateDiffPipeline.from_pretrained(tmp_path / "edm", torch_dtype="float32")
    assert type(loaded.scheduler).__name__ == "EDMDPMSolverMultistepScheduler"
    assert loaded.base.config["force_zeros_for_empty_prompt"] is False
    loaded.set_progress_bar_config(disable=True)
    same_as_diffusers(still(loaded, "sdxl"), negative_prompt=None)
    config = tmp_path / "edm" / "unet" / "config.json"
    settings = json.loads(config.read_text("utf-8"))
    config.write_text(json.dumps(settings | {"encoder_hid_dim_type": "ip_image_proj"}), "utf-8")
    with pytest.raises(UserError, match="saved with an IP-Adapter"):
        load_base_folder(tmp_path / "edm")


def test_a_scheduler_whose_package_is_missing_is_replaced_and_said(folder: Any, caplog: Any) -> None:
    if find_spec("scipy") is not None:
        pytest.skip("scipy is installed")
    path = folder("scheduler/scheduler_config.json", _class_name="LMSDiscreteScheduler", beta_end=0.013)
    made = load_base_folder(path)["scheduler"]
    assert type(made).__name__ == "EulerDiscreteScheduler" and made.config.beta_end == 0.013
    assert "LMSDiscreteScheduler needs the package scipy" in caplog.text
    broken = folder_settings(path, {"_class_name": "DDIMScheduler", "beta_schedule": "cubic"})
    with pytest.raises(UserError, match="a DDIMScheduler cannot be made with these settings"):
        load_base_folder(broken)


def folder_settings(path: Path, settings: dict[str, Any]) -> Path:
    (path / "scheduler" / "scheduler_config.json").write_text(json.dumps(settings), "utf-8")
    return path


def test_sizes_of_the_refiner_are_refused(sdxl: Any) -> None:
    pipe = still(sdxl({}))
    pipe.unet.register_to_config(projection_class_embeddings_input_dim=32 + 5 * 8)
    with pytest.raises(UserError, match=r"takes 5 numbers .*the SDXL refiner"):
        pipe("a cat", **CALL)


def test_a_scheduler_given_by_hand_is_tried_before_anything_is_computed(sd1: AnimateDiffPipeline) -> None:
    still(sd1)
    settings = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    for scheduler, message in (
        (diffusers.PNDMScheduler(**settings, prediction_type="epsilon", skip_prk_steps=True), None),
        (diffusers.KDPM2DiscreteScheduler(**settings, prediction_type="sample"), "not implemented yet: sample"),
        (diffusers.FlowMatchEulerDiscreteScheduler(), "flow matching"),
        (
            diffusers.DDIMScheduler(
                **settings, rescale_betas_zero_snr=True, timestep_spacing="trailing", clip_sample=False
            ),
            "prediction_type=epsilon, rescale_betas_zero_snr=True.*not finite",
        ),
    ):
        sd1.scheduler = scheduler
        state = copy.deepcopy(torch.get_rng_state())
        if message is None:
            sd1.job("a cat", generator=seeded(1), **CALL)
            assert torch.equal(state, torch.get_rng_state())
            continue
        with pytest.raises(UserError, match=message):
            sd1.job("a cat", **CALL)


def test_rendering_refuses_before_other_weights_are_loaded(folder: Any, caplog: Any) -> None:
    from animatediff.render import build_request
    from animatediff.render.models import ModelSpec, load_model

    caplog.set_level(logging.INFO)
    path = folder("scheduler/scheduler_config.json", _class_name="FlowMatchEulerDiscreteScheduler")
    settings = {"prompt": "a cat", "model": str(path), "motion_module": str(path / "missing.ckpt"), "device": "cpu"}
    with pytest.raises(UserError, match="FlowMatchEulerDiscreteScheduler"):
        load_model(ModelSpec.of(build_request(settings)))
