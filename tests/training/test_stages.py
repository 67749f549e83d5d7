"""The stages: what trains, what stays as it was to the bit, and that sampler and peers load what comes out."""

from __future__ import annotations

import copy
import json
from functools import cache
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from safetensors.torch import load_file
from support.close import relative
from support.training_clips import MODEL, MOTION, SIZE, SquareClips, run, settings
from support.weight_files import published

from animatediff.errors import UserError
from animatediff.models.sparsectrl import SparseCtrl
from animatediff.motion import MotionAdapter, MotionNumerics, attach
from animatediff.pipelines import AnimateDiffPipeline
from animatediff.training.accelerator import close_accelerator, make_accelerator
from animatediff.training.config import TrainConfig
from animatediff.training.loop import Trainer
from animatediff.training.models import load_pipeline
from animatediff.training.signals import StopRequest
from animatediff.training.stages import make_stage
from animatediff.training.stages.lora_weights import SPATIAL, TEMPORAL, LoRA
from animatediff.training.stages.sparsectrl import SparseCtrlStage
from animatediff.weights.base.components import empty_model
from animatediff.weights.base.model_configs import shipped_config
from animatediff.weights.convert import convert
from animatediff.weights.lora.key_formats import lora_to_internal
from animatediff.weights.motion import expected_shapes, original_tensors
from animatediff.weights.recognise import recognise
from animatediff.weights.sparsectrl import original_entries
from animatediff.weights.storage.files import read_header

STAGES: dict[str, dict[str, Any]] = {
    "motion": {"stage": "motion", "learning_rate": 1e-2, "steps": 6},
    "adapter": {"stage": "adapter", "learning_rate": 4e-2, "steps": 10},
    "motion_lora": {"stage": "motion_lora", "learning_rate": 6e-2, "steps": 10},
    "sparsectrl": {"stage": "sparsectrl", "learning_rate": 1e-2, "steps": 15},
    "scribble": {"stage": "sparsectrl", "condition": "scribble", "learning_rate": 1e-2, "steps": 15},
    "image": {"stage": "image", "learning_rate": 4e-3, "steps": 6},
    "image_lora": {"stage": "image", "image_layers": "lora", "rank": 4, "learning_rate": 4e-2, "steps": 6},
}
"""Settings that overfit one clip within a few steps."""


def pipeline() -> AnimateDiffPipeline:
    return AnimateDiffPipeline.from_pretrained(MODEL, torch_dtype="float32")


def clip(pipe: AnimateDiffPipeline, **more: Any) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    size = {"num_frames": 4, "height": SIZE, "width": SIZE}
    return pipe("right", **size, num_inference_steps=2, generator=generator, output_type="pt", **more).frames


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_learns_one_clip_and_touches_nothing_else(tmp_path: Path, name: str) -> None:
    """The loss on a clip with fixed noise falls by overfitting it; only what is to train has changed, all of it."""
    values = dict(STAGES[name])
    more = values | {"validate_at": [1, values["steps"]], "caption_dropout": 0.0, "batch_size": 2, "stratified": True}
    config = TrainConfig.model_validate(settings(more.pop("stage"), tmp_path, **more))
    accelerator = make_accelerator(config)
    clips = SquareClips(1, num_frames=config.clips().num_frames)
    trainer = Trainer(config, accelerator, resume=None, dataset=clips, quiet=True)
    parts = {"unet": trainer.pipe.unet, "vae": trainer.pipe.vae, "text": trainer.pipe.text_encoder}
    if trainer.pipe.sparsectrl is not None:
        parts["sparsectrl"] = trainer.pipe.sparsectrl
    before = {f"{n}.{k}": v.clone() for n, part in parts.items() for k, v in part.state_dict().items()}
    trained = {id(parameter) for parameter in trainer.state.stage.parameters.values()}
    wanted = {f"{n}.{k}" for n, part in parts.items() for k, p in part.named_parameters() if id(p) in trained}
    with StopRequest() as stop:
        trainer.run(stop)
    after = {f"{n}.{k}": v for n, part in parts.items() for k, v in part.state_dict().items()}
    close_accelerator(accelerator)
    assert {key for key, value in after.items() if not torch.equal(value, before[key])} == wanted
    assert all(parameter.dtype == torch.float32 for parameter in trainer.state.stage.parameters.values())
    rows = [json.loads(line) for line in (tmp_path / "curve.jsonl").read_text().splitlines()]
    losses = [row["validation_loss"] for row in rows if "validation_loss" in row]
    assert losses[-1] < 0.9 * losses[0], losses


@pytest.mark.parametrize("name", STAGES)
def test_in_bfloat16_what_trains_stays_float32(tmp_path: Path, name: str) -> None:
    """Weights in bfloat16 would not take in small updates; the frozen ones beside them are in it."""
    more = STAGES[name] | {"precision": "bf16", "ema": 0.9}
    config = TrainConfig.model_validate(settings(more.pop("stage"), tmp_path, **more))
    accelerator = make_accelerator(config)
    clips = SquareClips(1, num_frames=config.clips().num_frames)
    trainer = Trainer(config, accelerator, resume=None, dataset=clips, quiet=True)
    close_accelerator(accelerator)
    assert {parameter.dtype for parameter in trainer.state.stage.parameters.values()} == {torch.float32}
    assert trainer.pipe.vae.dtype == torch.bfloat16


def test_motion_goes_from_training_to_the_sampler(tmp_path: Path) -> None:
    done = run("motion", tmp_path / "run", validation={"num_inference_steps": 7, "guidance_scale": 3.0})
    found = recognise(done.weights)
    assert (found.kind, found.dialect) == ("motion_module", "original")
    pipe = pipeline()
    family = pipe.load_motion_module(done.weights)
    assert pipe.defaults.num_inference_steps == 7
    assert family.numerics == MotionNumerics(max_positions=32)
    trained = clip(pipe)
    assert trained.isfinite().all()
    pipe.set_motion_adapter(MotionAdapter.from_unet(pipe.unet), family)
    assert relative(clip(pipe), trained) > 2e-3
    metadata = read_header(done.weights).metadata
    assert json.loads(metadata["animatediff.training"])["stage"] == "motion"
    assert metadata["animatediff.step"] == "4"


def test_motion_goes_on_from_weights(tmp_path: Path) -> None:
    done = run("motion", tmp_path / "run", steps=1, learning_rate=1e-9, start_from=str(MOTION), schedule="linear")
    start, found = load_file_any(MOTION), load_file(done.weights)
    assert start.keys() == found.keys()
    learned = [key for key in start if not key.endswith(".pe")]  # position tables are computed, not copied
    assert all(torch.allclose(start[key].float(), found[key], atol=1e-6) for key in learned)
    with pytest.raises(UserError, match="give it to `motion_loras`"):
        run("motion", tmp_path / "other", start_from=str(MOTION.with_name("motion_lora.ckpt")))
    data = settings("motion", tmp_path)["data"] | {"num_frames": 40}
    with pytest.raises(UserError, match="knows 32 frame positions"):
        run("motion", tmp_path / "long", start_from=str(MOTION), data=data)


def load_file_any(path: Path) -> dict[str, torch.Tensor]:
    from animatediff.weights.storage.files import load_tensors

    return load_tensors(path)


@pytest.mark.parametrize("stage", ["adapter", "motion_lora"])
def test_loras_go_from_training_to_the_sampler(tmp_path: Path, stage: str) -> None:
    done = run(stage, tmp_path / "run", alpha=2.0)
    assert recognise(done.weights).kind == {"adapter": "domain_adapter"}.get(stage, stage)
    pipe = pipeline()
    pipe.load_motion_module(MOTION)
    without = clip(pipe)
    name = pipe.load_lora_weights(done.weights)
    assert relative(clip(pipe), without) > 5e-4
    pipe.set_adapters([name], 0.0)
    assert torch.equal(clip(pipe), without)
    # Going on from it starts where it stopped, whatever alpha was.
    again = run(stage, tmp_path / "again", steps=1, learning_rate=1e-9, start_from=str(done.weights), rank=None)
    first, second = load_file(done.weights), load_file(again.weights)
    assert all(torch.allclose(first[key], second[key], atol=1e-6) for key in first)


@pytest.mark.parametrize("kind", ["rgb", "scribble"])
def test_sparsectrl_goes_from_training_to_the_sampler_and_to_diffusers(tmp_path: Path, kind: str) -> None:
    look = {"prompts": ["right"], "num_inference_steps": 1, "num_items": 1}
    done = run("sparsectrl", tmp_path / "run", condition=kind, validation=look, validate_at=[4])
    assert len(list((tmp_path / "run" / "samples").rglob("*.mp4"))) == 1
    found = recognise(done.weights)
    assert (found.kind, found.variant) == ("sparsectrl", kind)
    pipe = pipeline()
    pipe.load_motion_module(MOTION)
    without = clip(pipe)
    pipe.load_sparsectrl(done.weights)
    assert torch.equal(clip(pipe), without)
    assert relative(clip(pipe, conditioning_frames=torch.rand(3, SIZE, SIZE)), without) > 2e-3
    convert(done.weights, tmp_path / "peer", to="diffusers")
    _, info = diffusers.SparseControlNetModel.from_pretrained(tmp_path / "peer", output_loading_info=True)
    assert not any(info.values())
    again = run(
        "sparsectrl", tmp_path / "again", steps=1, learning_rate=1e-9, condition=kind, start_from=str(done.weights)
    )
    first, second = load_file(done.weights), load_file(again.weights)
    assert all(torch.allclose(first[key], second[key], atol=1e-6) for key in first)
    other = "scribble" if kind == "rgb" else "rgb"
    more: dict[str, Any] = {"steps": 1, "learning_rate": 1e-9, "start_from": str(done.weights)}
    eyes = run("sparsectrl", tmp_path / "other", condition=other, **more)
    assert recognise(eyes.weights).variant == other
    other_state = load_file(eyes.weights)
    body = {key for key in first if "cond_embedding" not in key}
    assert body == {key for key in other_state if "cond_embedding" not in key}
    assert all(torch.allclose(first[key], other_state[key], atol=1e-6) for key in body)


def test_frames_that_are_given_are_drawn_for_each_clip(tmp_path: Path) -> None:
    config = TrainConfig.model_validate(settings("sparsectrl", tmp_path, max_conditions=3))
    stage = make_stage(config, load_pipeline(config))
    assert isinstance(stage, SparseCtrlStage)
    drawn = [tuple(stage.choose(16, place)) for place in range(400)]
    assert drawn == [tuple(stage.choose(16, place)) for place in range(400)]
    assert {len(given) for given in drawn} == {1, 2, 3}
    assert {frame for given in drawn for frame in given} == set(range(16))
    assert 0.5 < sum(0 in given for given in drawn) / len(drawn) < 0.7


def test_a_checkpoint_of_another_stage_or_model_is_called_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"domain adapter.*not a MotionLoRA.*`domain_adapter`"):
        run("motion_lora", tmp_path / "a", start_from=str(MOTION.with_name("domain_adapter.ckpt")))
    with pytest.raises(UserError, match="MotionLoRA, not a domain adapter"):
        run("adapter", tmp_path / "b", start_from=str(MOTION.with_name("motion_lora.ckpt")))
    with pytest.raises(UserError, match="rank=8; leave rank out"):
        run("adapter", tmp_path / "c", start_from=str(MOTION.with_name("domain_adapter.ckpt")), rank=8)
    with pytest.raises(UserError, match="for SDXL base models"):
        run("motion", tmp_path / "d", start_from=str(MOTION.parents[1] / "sdxl" / "motion_module.ckpt"))
    with pytest.raises(UserError, match="motion_module is missing"):
        run("motion_lora", tmp_path / "e", motion_module=None)
    with pytest.raises(UserError, match=r"not the UNet of this image model|not a image UNet|not an? "):
        run("image", tmp_path / "f", unet=str(MOTION.with_name("motion_lora.ckpt")))
    with pytest.raises(UserError, match="multiple of 2"):
        run("motion", tmp_path / "g", data=settings("motion", tmp_path)["data"] | {"height": 17})


def test_a_full_image_model_comes_out_as_a_folder(tmp_path: Path) -> None:
    done = run("image", tmp_path / "run", schedule="scaled_linear")
    assert done.weights.is_dir()
    pipe = AnimateDiffPipeline.from_pretrained(done.weights, torch_dtype="float32")
    assert pipe.scheduler.config["beta_schedule"] == "scaled_linear"
    before, after = pipeline().unet.state_dict(), pipe.unet.state_dict()
    assert before.keys() == after.keys()
    assert not any(torch.equal(before[key], after[key]) for key in before)
    assert torch.equal(pipeline().vae.encoder.conv_in.weight, pipe.vae.encoder.conv_in.weight)
    loaded, info = diffusers.UNet2DConditionModel.from_pretrained(done.weights / "unet", output_loading_info=True)
    assert not any(info.values()) and torch.equal(loaded.conv_in.weight, after["conv_in.weight"])


@pytest.mark.parametrize(("layout", "convolutions"), [("kohya", False), ("kohya", True), ("diffusers", True)])
def test_an_image_lora_loads_in_the_sampler_and_in_diffusers(tmp_path: Path, layout: str, convolutions: bool) -> None:
    pipe = pipeline()
    pipe.load_motion_module(MOTION)
    without = clip(pipe)
    more = {"lora_format": layout, "lora_convolutions": convolutions}
    done = run("image", tmp_path, image_layers="lora", rank=4, alpha=2.0, steps=2, **more)
    pipe.load_lora_weights(done.weights, adapter_name="look")
    ours = clip(pipe)
    assert relative(ours, without) > 5e-4
    peer = diffusers.StableDiffusionPipeline.from_pretrained(MODEL, safety_checker=None)
    peer.load_lora_weights(str(done.weights), adapter_name="look")
    layers = {name: layer for name, layer in peer.unet.named_modules() if hasattr(layer, "lora_A")}
    mine = {name: layer for name, layer in pipe.unet.named_modules() if hasattr(layer, "lora_A")}
    assert layers.keys() == mine.keys() and len(layers) > 50
    assert any("resnets" in name for name in layers) == convolutions
    for name, layer in layers.items():
        for part in ("lora_A", "lora_B"):
            scale = layer.scaling["look"] if part == "lora_B" else 1
            own = mine[name].scaling["look"] if part == "lora_B" else 1
            found, expected = getattr(layer, part)["look"].weight, getattr(mine[name], part)["look"].weight
            torch.testing.assert_close(found * scale, expected * own)


def test_motion_and_its_lora_load_in_diffusers(tmp_path: Path) -> None:
    """Through `convert`, without a missing or an unexpected key."""
    motion = run("motion", tmp_path / "motion", mid_block=True, steps=1)
    lora = run("motion_lora", tmp_path / "lora", motion_module=str(motion.weights), steps=1)
    adapter = run("adapter", tmp_path / "adapter", steps=1)
    convert(motion.weights, tmp_path / "MotionAdapter", to="diffusers")
    model, info = diffusers.MotionAdapter.from_pretrained(tmp_path / "MotionAdapter", output_loading_info=True)
    assert not any(info.values())
    unet = diffusers.UNet2DConditionModel.from_pretrained(MODEL / "unet")
    peer = diffusers.UNetMotionModel.from_unet2d(unet, model)
    for name, done in (("lora", lora), ("adapter", adapter)):
        convert(done.weights, tmp_path / f"{name}-diffusers", to="diffusers")
        pipe = diffusers.AnimateDiffPipeline
        state, alphas = pipe.lora_state_dict(tmp_path / f"{name}-diffusers")[:2]
        pipe.load_lora_into_unet(state, network_alphas=alphas, unet=peer, adapter_name=name)
        loaded = {key for key in peer.state_dict() if f".{name}." in key}
        assert {key.replace(f".{name}.", ".") for key in loaded} == set(map(lora_to_internal, load_file(done.weights)))


@cache
def meta_unet() -> Any:
    """Stable Diffusion 1.5's UNet without memory; whoever changes it takes a copy."""
    with torch.device("meta"):
        return empty_model("unet", shipped_config("sd1", "unet"))


def shapes(tensors: dict[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
    return {key: tuple(tensor.shape) for key, tensor in tensors.items()}


@pytest.mark.parametrize(("name", "mid"), [("v3_sd15_mm", False), ("mm_sd_v15_v2", True)])
def test_motion_modules_have_the_published_layout(name: str, mid: bool) -> None:
    with torch.device("meta"):
        adapter = MotionAdapter.from_unet(meta_unet(), mid_block=mid)
    assert expected_shapes(adapter.layout) == shapes(adapter.state_dict())
    assert shapes(original_tensors(adapter.state_dict(), 32)) == published(name)


@pytest.mark.parametrize("kind", ["rgb", "scribble"])
def test_sparsectrl_has_the_published_layout(kind: Any) -> None:
    unet = meta_unet()
    with torch.device("meta"):
        encoder = SparseCtrl.from_unet(unet, MotionAdapter.from_unet(unet), kind=kind)
    assert shapes(original_entries(encoder.state_dict(), 32)) == published(f"v3_sd15_sparsectrl_{kind}")


@pytest.mark.parametrize(
    ("name", "stage", "pattern", "kind"),
    [("v3_sd15_adapter", "adapter", SPATIAL, "domain_adapter"), ("v2_lora", "motion_lora", TEMPORAL, "motion_lora")],
)
def test_loras_have_the_published_layout(name: str, stage: Any, pattern: Any, kind: str) -> None:
    unet = copy.deepcopy(meta_unet())
    with torch.device("meta"):
        attach(unet, MotionAdapter.from_unet(unet, mid_block=True))
    config = TrainConfig.model_validate({"stage": stage, "data": {"kind": "sprites"}, "steps": 1})
    lora = LoRA(unet, pattern, config=config, kinds=(kind,))
    assert shapes(lora.original(dict(lora.parameters))) == published(name)
