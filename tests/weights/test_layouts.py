"""Components in folders of every layout: shards, variants, other classes, and weights that do not fit."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AsymmetricAutoencoderKL, AutoencoderKL, AutoencoderTiny, ControlNetModel, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from support.close import relative
from support.paths import GOLDEN

from animatediff.errors import UserError
from animatediff.pipelines.vae import decode_images, encode_images
from animatediff.weights.addons.controlnet import load_controlnet
from animatediff.weights.addons.image_encoder import load_encoder
from animatediff.weights.base.folder import load_base_folder, wanted_weights
from animatediff.weights.base.single_file import load_base, load_vae
from animatediff.weights.motion import find_header, hub_files
from animatediff.weights.storage.files import load_tensors
from animatediff.weights.storage.folders import folder_header, preferred_weights

SD = GOLDEN / "v3" / "sd"
SHARD = "100KB"


def same(found: torch.nn.Module, wanted: dict[str, torch.Tensor]) -> None:
    state = found.state_dict()
    assert state.keys() == wanted.keys()
    assert all(torch.equal(state[key], value) for key, value in wanted.items())


@pytest.fixture
def model(tmp_path: Path) -> Path:
    shutil.copytree(SD, tmp_path / "sd")
    return tmp_path / "sd"


@pytest.fixture(scope="module")
def unet() -> UNet2DConditionModel:
    return UNet2DConditionModel.from_pretrained(SD / "unet")  # pyright: ignore[reportReturnType]


def resave(folder: Path, part: torch.nn.Module, **options: object) -> Path:
    for file in folder.glob("*"):
        if file.name != "config.json":
            file.unlink()
    part.save_pretrained(folder, **options)  # pyright: ignore[reportCallIssue]
    return folder


def as_bins(folder: Path) -> None:
    """Rewrite safetensors shards as the pickles that older programs saved."""
    for file in folder.glob("*.safetensors"):
        torch.save(load_file(file), file.with_name(file.name.replace("diffusion_", "").replace(".safetensors", ".bin")))
        file.unlink()
    for index in folder.glob("*.index.json"):
        text = index.read_text("utf-8").replace("diffusion_", "").replace(".safetensors", ".bin")
        index.with_name(index.name.replace("diffusion_", "").replace("safetensors", "bin")).write_text(text, "utf-8")
        index.unlink()


@pytest.mark.parametrize("kind", ["safetensors", "bin", "no index", "fp16"])
def test_shards_of_a_whole_model_are_read_as_one(model: Path, unet, kind: str) -> None:
    expected = {key: value.clone() for key, value in unet.state_dict().items()}
    options = {"variant": "fp16"} if kind == "fp16" else {}
    resave(model / "unet", unet, max_shard_size=SHARD, **options)
    assert len(list((model / "unet").glob("*-of-*"))) > 2
    if kind == "bin":
        as_bins(model / "unet")
    if kind == "no index":
        next((model / "unet").glob("*.index.json")).unlink()
    same(load_base(model)["unet"], expected)


def test_shards_of_text_encoder_and_vae(model: Path) -> None:
    parts = load_base(model)
    expected = {name: dict(parts[name].state_dict()) for name in ("vae", "text_encoder")}
    for name in expected:
        resave(model / name, parts[name], max_shard_size="20KB")
        assert list((model / name).glob("*.index.json"))
    loaded = load_base(model)
    for name, state in expected.items():
        same(loaded[name], state)


def test_missing_shards_are_named(model: Path, unet) -> None:
    resave(model / "unet", unet, max_shard_size=SHARD)
    gone = sorted((model / "unet").glob("*-of-*"))[1]
    gone.unlink()
    with pytest.raises(UserError, match=rf"1 of \d+ parts \(shards\) .*{gone.name}; download"):
        load_base(model)
    next((model / "unet").glob("*.index.json")).unlink()
    with pytest.raises(UserError, match=gone.name):
        load_base(model)


def test_damaged_indexes_are_told(model: Path, unet) -> None:
    resave(model / "unet", unet, max_shard_size=SHARD)
    index = next((model / "unet").glob("*.index.json"))
    index.write_text("{}", "utf-8")
    with pytest.raises(UserError, match="no weight_map"):
        load_base(model)
    index.write_text(json.dumps({"weight_map": {"conv_in.weight": "../../elsewhere.safetensors"}}), "utf-8")
    with pytest.raises(UserError, match="outside of this folder"):
        load_base(model)


@pytest.mark.parametrize("variant", ["fp16", "bf16", "non_ema", "ema", "int_free"])
def test_the_only_variant_of_a_folder_is_taken(model: Path, unet, variant: str) -> None:
    resave(model / "unet", unet, variant=variant)
    same(load_base(model)["unet"], unet.state_dict())


def test_a_variant_is_taken_where_there_is_one_and_refused_where_there_is_none(
    model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(UserError, match=r"no weights of the variant 'fp16'; there are: the standard one"):
        load_base_folder(model, variant="fp16")
    half: Any = UNet2DConditionModel.from_pretrained(SD / "unet")
    resave(model / "unet", half.float())
    half.half().save_pretrained(tmp_path, variant="fp16")
    shutil.copy(tmp_path / "diffusion_pytorch_model.fp16.safetensors", model / "unet")
    loaded = load_base_folder(model, variant="fp16")
    assert loaded["unet"].dtype == torch.float16
    assert "no variant 'fp16' of vae, text_encoder, taken as they are" in caplog.text
    assert load_base_folder(model)["unet"].dtype == torch.float32
    with pytest.raises(UserError, match=r"variant 'bf16'; there are: the standard one \(no `variant`\), 'fp16'"):
        load_base_folder(model, variant="bf16")


def test_exactly_the_files_that_are_read_are_fetched() -> None:
    unet = [f"unet/diffusion_pytorch_model-0000{n}-of-00002.safetensors" for n in (1, 2)]
    files = [
        *unet, "unet/diffusion_pytorch_model.safetensors.index.json", "unet/config.json",
        "unet/diffusion_pytorch_model.non_ema.safetensors", "unet/model.onnx",
        "vae/diffusion_pytorch_model.fp16.safetensors", "vae/diffusion_pytorch_model.safetensors",
        "text_encoder/pytorch_model.bin", "text_encoder/pytorch_model-00001-of-00002.bin",
    ]  # fmt: skip
    index = "unet/diffusion_pytorch_model.safetensors.index.json"
    assert wanted_weights(files) == [
        index, *unet, "vae/diffusion_pytorch_model.safetensors", "text_encoder/pytorch_model.bin",
    ]  # fmt: skip
    assert wanted_weights(files, variant="fp16") == [
        index, *unet, "vae/diffusion_pytorch_model.fp16.safetensors", "text_encoder/pytorch_model.bin",
    ]  # fmt: skip
    assert hub_files(["unet/config.json", *unet, index]) == ["unet/config.json", index, *unet]
    assert hub_files(["config.json", "diffusion_pytorch_model.bin"]) == ["config.json", "diffusion_pytorch_model.bin"]


def test_a_complete_file_comes_before_shards_with_gaps() -> None:
    names = ["pytorch_model.bin", "diffusion_pytorch_model-00001-of-00002.safetensors"]
    chosen = preferred_weights(names)
    assert chosen is not None
    assert chosen.names == ("pytorch_model.bin",)


def test_weights_of_other_programs_are_named(model: Path) -> None:
    next((model / "unet").glob("*.safetensors")).rename(model / "unet" / "diffusion_flax_model.msgpack")
    with pytest.raises(UserError, match="weights for Flax cannot be read"):
        load_base(model)


def test_motion_module_folders_in_shards(tmp_path: Path) -> None:
    from animatediff.weights.convert import convert
    from animatediff.weights.motion import load_motion_module

    convert(GOLDEN / "v2" / "motion_module.ckpt", tmp_path / "adapter", to="diffusers")
    whole = next((tmp_path / "adapter").glob("*.safetensors"))
    expected, _ = load_motion_module(tmp_path / "adapter")
    state = load_file(whole)
    names = sorted(state)
    for number, part in enumerate((names[::2], names[1::2]), start=1):
        save_file(
            {name: state[name] for name in part},
            whole.with_name(f"{whole.stem}.fp16-0000{number}-of-00002.safetensors"),
        )
    whole.unlink()
    header = find_header(tmp_path / "adapter")
    loaded, _ = load_motion_module(tmp_path / "adapter")
    same(loaded, expected.state_dict())
    assert header.tensors.keys() >= state.keys()


def test_controlnet_folders_in_shards_and_variants(tmp_path: Path, unet) -> None:
    controlnet = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(16, 32))
    controlnet.save_pretrained(tmp_path / "net", variant="fp16", max_shard_size=SHARD)
    same(load_controlnet(tmp_path / "net", unet=unet, dtype=torch.float32), controlnet.state_dict())


def test_image_encoder_folders_in_variants(tmp_path: Path) -> None:
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    config = CLIPVisionConfig(
        hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=32, patch_size=16,
        projection_dim=16,
    )  # fmt: skip
    encoder = CLIPVisionModelWithProjection(config)
    encoder.save_pretrained(tmp_path / "encoder", variant="fp16")
    loaded = load_encoder(tmp_path / "encoder", torch.float32, ("projection_dim", 16))
    same(loaded, encoder.state_dict())


def test_other_classes_are_refused_by_name(model: Path) -> None:
    for name, entry, message in (
        ("text_encoder", {"architectures": ["T5EncoderModel"]}, "a T5EncoderModel, expected a CLIPTextModel"),
        ("vae", {"_class_name": "ConsistencyDecoderVAE"}, "a ConsistencyDecoderVAE, expected a AutoencoderKL"),
        ("unet", {"quantization_config": {"quant_method": "bitsandbytes"}}, r"quantized weights \(bitsandbytes\)"),
        ("unet", {"down_block_types": ["Odd"] * 4}, "no UNet can be made of its configuration"),
        ("unet", {"dual_cross_attention": True}, "dual cross attention"),
    ):
        config = model / name / "config.json"
        before = config.read_text("utf-8")
        config.write_text(json.dumps({**json.loads(before), **entry}), "utf-8")
        with pytest.raises(UserError, match=message):
            load_base(model)
        config.write_text(before, "utf-8")
    index = model / "model_index.json"
    index.write_text(json.dumps({"_class_name": "FluxPipeline", "transformer": ["diffusers", "Flux"]}), "utf-8")
    with pytest.raises(UserError, match="a FluxPipeline, a newer kind of model"):
        load_base(model)


def test_surplus_and_missing_tensors_of_folders(model: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = next((model / "unet").glob("*.safetensors"))
    state = load_file(file)
    save_file(state | {"extra.weight": torch.zeros(1), "position_ids": torch.zeros(1)}, file)
    same(load_base(model)["unet"], state)
    assert "1 tensors that no UNet has are left out: extra.weight" in caplog.text
    save_file({key: value for key, value in state.items() if "mid_block" not in key}, file)
    with pytest.raises(UserError, match=r"unet: \d+ tensors missing, first mid_block"):
        load_base(model)


def test_a_lora_in_the_folder_of_a_text_encoder_is_said(model: Path, caplog: pytest.LogCaptureFixture) -> None:
    save_file({"lora_A.weight": torch.zeros(1)}, model / "text_encoder" / "adapter_model.safetensors")
    load_base(model)
    assert "the LoRA in it (adapter_model.safetensors) is left out" in caplog.text


KL = {
    "block_out_channels": (32, 64), "layers_per_block": 1, "down_block_types": ["DownEncoderBlock2D"] * 2,
    "up_block_types": ["UpDecoderBlock2D"] * 2,
}  # fmt: skip


@pytest.mark.parametrize("single", [False, True])
def test_a_vae_of_other_latents_is_refused_with_both_sizes(tmp_path: Path, single: bool) -> None:
    vae = AutoencoderKL(**KL, latent_channels=16, use_quant_conv=False, use_post_quant_conv=False)
    vae.save_pretrained(tmp_path)
    source = tmp_path / "diffusion_pytorch_model.safetensors" if single else tmp_path
    with pytest.raises(UserError, match=r"latents of 16 channels .*the UNet takes 4.*with `vae`"):
        load_base(SD, vae=source)
    with pytest.raises(UserError, match="latents of 16 channels"):
        load_base(SD, vae=vae)


def test_a_file_of_a_folder_has_the_configuration_beside_it(tmp_path: Path) -> None:
    """Groups of the norms, scaling factor and activation: shapes tell none of them."""
    vae = AutoencoderKL(**KL, norm_num_groups=8, scaling_factor=0.5)
    vae.save_pretrained(tmp_path / "vae")
    shutil.copytree(SD / "text_encoder", tmp_path / "text_encoder")
    file = tmp_path / "text_encoder" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"hidden_act": "gelu"}))
    parts = load_base(
        SD,
        vae=tmp_path / "vae" / "diffusion_pytorch_model.safetensors",
        text_encoder=tmp_path / "text_encoder" / "model.safetensors",
    )
    assert (parts["vae"].config.scaling_factor, parts["vae"].config.norm_num_groups) == (0.5, 8)
    same(parts["vae"], vae.state_dict())
    assert parts["text_encoder"].config.hidden_act == "gelu"
    AutoencoderKL(**KL, scaling_factor=0.5).save_pretrained(tmp_path / "other")
    (tmp_path / "other" / "config.json").write_text('{"_class_name": "UNet2DConditionModel"}')
    assert load_vae(tmp_path / "other" / "diffusion_pytorch_model.safetensors").config.scaling_factor == 0.18215


def test_half_a_vae_is_named(tmp_path: Path) -> None:
    state = AutoencoderKL(**KL).state_dict()
    for half, other in (("decoder", "encoder"), ("encoder", "decoder")):
        part = {key: value for key, value in state.items() if not key.startswith(other)}
        save_file(part, tmp_path / "half.safetensors")
        with pytest.raises(UserError, match=f"only the {half} of a VAE"):
            load_vae(tmp_path / "half.safetensors")


@torch.inference_mode()
@pytest.mark.parametrize("kind", ["tiny", "asymmetric"])
def test_other_autoencoders_of_diffusers_encode_and_decode_as_there(tmp_path: Path, kind: str) -> None:
    torch.manual_seed(0)
    tiny = {"encoder_block_out_channels": (16, 16), "decoder_block_out_channels": (16, 16)}
    vae = (
        AutoencoderTiny(**tiny, num_encoder_blocks=(1, 1), num_decoder_blocks=(1, 1))
        if kind == "tiny"
        else AsymmetricAutoencoderKL(
            down_block_out_channels=(32, 64), up_block_out_channels=(32, 64), layers_per_down_block=1,
            layers_per_up_block=1, down_block_types=["DownEncoderBlock2D"] * 2,
            up_block_types=["UpDecoderBlock2D"] * 2,
        )
    )  # fmt: skip
    vae.eval().save_pretrained(tmp_path)
    loaded = load_base(SD, vae=tmp_path)["vae"]
    same(loaded, vae.state_dict())
    latents, images = torch.randn(2, 4, 8, 8), torch.rand(2, 3, 16, 16)
    wanted = (vae.decode(latents / vae.config["scaling_factor"]).sample / 2 + 0.5).clamp(0, 1)
    assert relative(decode_images(loaded, latents), wanted) < 1e-5
    given = vae.encode(images * 2 - 1)
    mean = given.latents if kind == "tiny" else given.latent_dist.mode()
    found = encode_images(loaded, images, torch.device("cpu"))
    assert relative(found, mean * vae.config["scaling_factor"]) < 1e-5


def test_text_encoders_of_another_width_are_refused(tmp_path: Path) -> None:
    from transformers import CLIPTextConfig, CLIPTextModel

    config = CLIPTextConfig(hidden_size=64, intermediate_size=64, num_hidden_layers=1, num_attention_heads=1)
    CLIPTextModel(config).save_pretrained(tmp_path / "wide")
    with pytest.raises(UserError, match=r"takes prompt embeddings of width 32, and 64 of the text encoder"):
        load_base(SD, text_encoder=tmp_path / "wide")


def test_the_header_of_shards_reads_like_one_file(tmp_path: Path, unet) -> None:
    unet.save_pretrained(tmp_path / "whole")
    unet.save_pretrained(tmp_path / "parts", max_shard_size=SHARD)
    whole, parts = folder_header(tmp_path / "whole"), folder_header(tmp_path / "parts")
    assert parts.shapes == whole.shapes
    found, wanted = load_tensors(parts), load_tensors(whole)
    assert all(torch.equal(found[key], wanted[key]) for key in wanted)
