"""IP-Adapter files of every kind: as diffusers runs them, or refused by name before a model is loaded."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image
from safetensors.torch import load_file, save_file
from support.close import relative
from support.ip_files import WIDTH, save_ip_adapter
from support.paths import GOLDEN
from support.weight_files import write_hollow
from transformers import CLIPVisionModelWithProjection

from animatediff.errors import UserError
from animatediff.motion import MotionAdapter
from animatediff.pipelines import AnimateDiffPipeline
from animatediff.weights.addons.ip_adapter import check_ip_adapter
from animatediff.weights.base.text_width import base_cross_attentions

SD = GOLDEN / "v3" / "sd"


@pytest.fixture(scope="module")
def unet() -> Any:
    return AnimateDiffPipeline.from_pretrained(SD, torch_dtype=torch.float32).unet


@pytest.fixture(scope="module")
def folder(unet: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ip")
    for kind, name in (("plain", "plain.safetensors"), ("plus", "plus.bin"), ("full-face", "full.safetensors")):
        save_ip_adapter(folder, unet, name, kind)
    return folder / "models"


@pytest.mark.parametrize("name", ["plain.safetensors", "plus.bin", "full.safetensors"])
def test_every_kind_is_what_diffusers_makes_of_it(folder: Path, name: str) -> None:
    image = Image.effect_noise((32, 32), 90).convert("RGB")
    settings: dict[str, Any] = {"num_inference_steps": 2, "height": 32, "width": 32, "output_type": "pt"}
    settings |= {"guidance_scale": 3.0, "negative_prompt": "", "ip_adapter_image": image}
    latents = torch.randn(1, 4, 1, 16, 16, generator=torch.Generator().manual_seed(1))
    pipe = AnimateDiffPipeline.from_pretrained(SD, torch_dtype=torch.float32)
    pipe.set_motion_adapter(MotionAdapter.from_unet(pipe.unet))
    pipe.set_scheduler("ddim")
    pipe.set_progress_bar_config(disable=True)
    pipe.load_ip_adapter_file(folder / name)
    found = pipe("a cat", num_frames=1, latents=latents, **settings).frames[0, 0]
    own: Any = StableDiffusionPipeline.from_pretrained(SD, safety_checker=None, torch_dtype=torch.float32)
    own.scheduler = pipe.scheduler
    own.set_progress_bar_config(disable=True)
    own.load_ip_adapter(str(folder), subfolder="", weight_name=name, image_encoder_folder="image_encoder")
    assert relative(found, own("a cat", latents=latents[:, :, 0], **settings).images[0]) < 1e-5


FACES = {
    "faceid": {"proj.0.weight": (1024, 512), "proj.2.weight": (3072, 1024), "norm.weight": (768,)},
    "faceid plus": {"proj.0.weight": (1024, 512), "perceiver_resampler.proj_in.weight": (768, 1280), "norm.bias": (2,)},
    "portrait, unnormed": {"proj.0.weight": (1024, 512), "proj.2.weight": (12288, 1024)},
    "instantid": {"latents": (1, 16, 1280), "proj_in.weight": (1280, 512), "proj_out.weight": (2048, 1280)},
}


@pytest.mark.parametrize("kind", FACES)
def test_face_embeddings_are_asked_for_by_name(kind: str, tmp_path: Path) -> None:
    layers = {f"ip_adapter.{number}.to_{part}_ip.weight": (320, 768) for number in (1, 3) for part in "kv"}
    shapes = layers | {f"image_proj.{name}": shape for name, shape in FACES[kind].items()}
    write_hollow(tmp_path / "x.safetensors", shapes | {"ip_adapter.0.to_q_lora.down.weight": (128, 320)})
    with pytest.raises(UserError, match=r"face embeddings of insightface.*plus-face"):  # no encoder is asked for
        check_ip_adapter(tmp_path / "x.safetensors")


def altered(folder: Path, to: Path, **changes: torch.Tensor | None) -> Path:
    """An adapter with tensors added, replaced, or (None) taken out."""
    state = load_file(folder / "plain.safetensors") | changes
    save_file({key: value for key, value in state.items() if value is not None}, to)
    return to


def test_layers_and_widths_are_those_of_the_base_model(folder: Path, tmp_path: Path, unet: Any) -> None:
    base = base_cross_attentions(SD)
    assert len(base) == 10 and check_ip_adapter(folder / "plain.safetensors", base=base) == 32
    last = {f"ip_adapter.19.to_{part}_ip.weight": None for part in "kv"}
    inside = {f"ip_adapter.9.to_{part}_ip.weight": None for part in "kv"}
    wide = [(320, 768)] * 16
    encoder = folder / "image_encoder"
    for path, given, message in (
        (altered(folder, tmp_path / "a.safetensors", **last), base, "with 9 cross attentions, this one has 10"),
        (altered(folder, tmp_path / "b.safetensors", **inside), base, "without its ip_adapter.9.to_k_ip.weight"),
        (folder / "plain.safetensors", wide, r"width 32, this one has 768 \(SD 1.x\) and with 10 cross .* has 16"),
    ):
        with pytest.raises(UserError, match=message):
            check_ip_adapter(path, encoder, base=given)
    pipe = AnimateDiffPipeline.from_pretrained(SD, torch_dtype=torch.float32)
    with pytest.raises(UserError, match="with 9 cross attentions"):
        pipe.load_ip_adapter_file(tmp_path / "a.safetensors", image_encoder=encoder)
    broken = altered(folder, tmp_path / "c.safetensors", **{"image_proj.norm.bias": None})
    with pytest.raises(UserError, match="image projection is not whole"):
        pipe.load_ip_adapter_file(broken, image_encoder=encoder)
    assert pipe.unet.encoder_hid_proj is None, "nothing was changed"


def test_surplus_is_said_and_training_checkpoints_load(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    state = load_file(folder / "plain.safetensors") | {"image_proj.odd": torch.zeros(1), "unet.x": torch.zeros(1)}
    names = {"image_proj.": "image_proj_model.", "ip_adapter.": "adapter_modules."}
    save_file(
        {next((new + key[len(old) :] for old, new in names.items() if key.startswith(old)), key): value
         for key, value in state.items()},
        tmp_path / "x.safetensors",
    )  # fmt: skip
    pipe = AnimateDiffPipeline.from_pretrained(SD, torch_dtype=torch.float32)
    with caplog.at_level(logging.WARNING):
        pipe.load_ip_adapter_file(tmp_path / "x.safetensors", image_encoder=folder / "image_encoder")
    assert "2 tensors that no IP-Adapter has are left out: image_proj_model.odd, unet.x" in caplog.text
    layers: Any = pipe.unet.attn_processors["down_blocks.0.attentions.0.transformer_blocks.0.attn2.processor"]
    assert torch.equal(layers.to_k_ip[0].weight, state["ip_adapter.1.to_k_ip.weight"])


def test_folders_and_encoders_of_the_hub(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"several IP-Adapters; name one of them: .*full.safetensors, .*plus.bin"):
        check_ip_adapter(folder)
    for place in ("models", "sdxl_models"):
        (tmp_path / place).mkdir()
    (tmp_path / "sdxl_models" / "vit-h.safetensors").write_bytes((folder / "plain.safetensors").read_bytes())
    clip = CLIPVisionModelWithProjection.from_pretrained(folder / "image_encoder")
    clip.half().save_pretrained(tmp_path / "models" / "image_encoder", variant="fp16")
    clip.config.projection_dim = 7
    other = CLIPVisionModelWithProjection(clip.config)
    other.save_pretrained(tmp_path / "sdxl_models" / "image_encoder")
    assert check_ip_adapter(tmp_path) == 32, "beside it is an encoder of another width; that of models/ fits"
    pipe = AnimateDiffPipeline.from_pretrained(SD, torch_dtype=torch.float32)
    pipe.load_ip_adapter_file(tmp_path)
    assert pipe.base.image_encoder.config.projection_dim == WIDTH
    for key, value in clip.state_dict().items():
        assert relative(pipe.base.image_encoder.state_dict()[key], value) < 1e-6, key
    with pytest.raises(UserError, match=r"projection_dim 7, but vit-h.safetensors reads 24"):
        check_ip_adapter(tmp_path, tmp_path / "sdxl_models" / "image_encoder")
    (tmp_path / "models" / "image_encoder" / "model.fp16.safetensors").unlink()
    with pytest.raises(UserError, match="no weights found"):
        check_ip_adapter(tmp_path)


def test_image_encoders_are_whole_or_refused(folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = folder / "image_encoder"
    state, config = load_file(source / "model.safetensors"), json.loads((source / "config.json").read_text())

    def saved(name: str, config: dict[str, Any], **changes: torch.Tensor | None) -> Path:
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(config))
        tensors = {key: value for key, value in (state | changes).items() if value is not None}
        save_file(tensors, tmp_path / name / "model.safetensors")
        return tmp_path / name

    pipe = AnimateDiffPipeline.from_pretrained(SD, torch_dtype=torch.float32)
    key = "vision_model.encoder.layers.1.mlp.fc1.weight"
    for encoder, message in (
        (saved("missing", config, **{key: None}), f"1 tensors missing, first {key}"),
        (saved("shape", config, **{key: torch.zeros(2, 2)}), r"has shape \(2, 2\)"),
    ):
        with pytest.raises(UserError, match=message):
            pipe.load_ip_adapter_file(folder / "plain.safetensors", image_encoder=encoder)
    assert pipe.unet.encoder_hid_proj is None
    # a whole CLIP, its text half left aside; of what is odd, a word is said
    whole = {"text_model.x": torch.zeros(1), "logit_scale": torch.zeros(1), "odd": torch.zeros(1)}
    whole["vision_model.embeddings.position_ids"] = torch.arange(17)[None]
    clip = saved("clip", {"model_type": "clip", "vision_config": config, "projection_dim": 3}, **whole)
    with caplog.at_level(logging.WARNING):
        pipe.load_ip_adapter_file(folder / "plain.safetensors", image_encoder=clip)
    assert "1 tensors that no CLIP image encoder has are left out: odd" in caplog.text
    # nothing reads the projection where an adapter takes hidden states
    pipe.load_ip_adapter_file(
        folder / "full.safetensors", image_encoder=saved("half", config, **{"visual_projection.weight": None})
    )
