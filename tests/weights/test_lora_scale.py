"""The scale that a LoRA states beside its weights, against PEFT and diffusers, and through conversions."""

from __future__ import annotations

import json
import logging
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from peft import LoraConfig, PeftModel, get_peft_model
from peft.utils.other import get_pattern_key
from peft.utils.save_and_load import get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from support.close import relative
from support.paths import GOLDEN
from support.unets import run, tiny_unet

from animatediff.errors import UserError
from animatediff.weights.convert import convert
from animatediff.weights.inspect import describe
from animatediff.weights.lora.load import load_lora
from animatediff.weights.lora.pairs import read_pairs, spell
from animatediff.weights.lora.settings import PeftSettings, packed, unpacked
from animatediff.weights.lora.source import lora_header
from animatediff.weights.storage.files import load_tensors

TARGETS = ["to_q", "to_k", "to_v", "to_out.0", "proj", "net.2", "conv1"]
CONFIGS: dict[str, dict[str, Any]] = {
    "alpha": {"r": 4, "lora_alpha": 16},
    "default alpha": {"r": 4},
    "rank-stabilized": {"r": 4, "lora_alpha": 6, "use_rslora": True},
    "by suffix": {"r": 4, "lora_alpha": 2, "alpha_pattern": {"to_k": 16, "attn2.to_q": 3}},
    "by regex": {
        "r": 4,
        "lora_alpha": 8,
        "alpha_pattern": {r".*attn\d\.to_v": 1, r"up_blocks\.1.*to_k": 24, "mid_block.resnets.0.conv1": 5},
        "rank_pattern": {"^down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q": 2, "net.2": 8},
    },
    "both": {"r": 8, "lora_alpha": 4, "use_rslora": True, "rank_pattern": {"to_k": 2}, "alpha_pattern": {"to_k": 9}},
}


def trained(config: dict[str, Any], unet: UNet2DConditionModel) -> PeftModel:
    """A LoRA of PEFT whose `up` is not zero."""
    model = get_peft_model(unet, LoraConfig(target_modules=TARGETS, **config))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    return model.eval()


@pytest.fixture(params=list(CONFIGS))
def peft_folder(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, torch.Tensor]:
    """A folder of PEFT and the output of the UNet with it."""
    torch.manual_seed(1)
    model = trained(CONFIGS[request.param], tiny_unet())
    model.save_pretrained(str(tmp_path / "lora"))
    with torch.inference_mode():
        return tmp_path / "lora", run(model.base_model.model)


@torch.inference_mode()
def with_lora(source: Path) -> torch.Tensor:
    unet = tiny_unet()
    load_lora(source, unet=unet, adapter_name="one")
    return run(unet)


def test_folders_of_peft(peft_folder: tuple[Path, torch.Tensor], tmp_path: Path) -> None:
    folder, wanted = peft_folder
    assert relative(with_lora(folder), wanted) < 5e-6, "float32"
    assert relative(with_lora(folder / "adapter_model.safetensors"), wanted) < 5e-6, "the file in it"
    convert(folder, tmp_path / "same.safetensors")
    convert(folder, tmp_path / "same.ckpt")
    convert(folder, tmp_path / "kohya.safetensors", to="kohya")
    convert(folder, tmp_path / "diffusers", to="diffusers")
    convert(tmp_path / "kohya.safetensors", tmp_path / "again", to="diffusers")
    for name in ("same.safetensors", "same.ckpt", "kohya.safetensors", "diffusers", "again"):
        assert relative(with_lora(tmp_path / name), wanted) < 5e-6, name


@pytest.mark.parametrize("kind", ["use_dora", "lora_bias"])
def test_other_kinds_of_peft_with_their_alpha(tmp_path: Path, kind: str) -> None:
    torch.manual_seed(9)
    model = trained({"r": 4, "lora_alpha": 16, "alpha_pattern": {"to_k": 2}, kind: True}, tiny_unet())
    model.save_pretrained(str(tmp_path / "lora"))
    with torch.inference_mode():
        wanted = run(model.base_model.model)
    assert relative(with_lora(tmp_path / "lora"), wanted) < 5e-6
    convert(tmp_path / "lora", tmp_path / "same.safetensors")
    convert(tmp_path / "lora", tmp_path / "same.ckpt", dtype=torch.float32)
    for name in ("same.safetensors", "same.ckpt"):
        assert relative(with_lora(tmp_path / name), wanted) < 5e-6, name


def test_files_of_diffusers(tmp_path: Path) -> None:
    """Metadata with the names of the models, and without, as a model by itself writes it."""
    torch.manual_seed(2)
    config = CONFIGS["both"]
    model = trained(config, tiny_unet())
    state = get_peft_model_state_dict(model)
    settings = model.peft_config["default"].to_dict()
    settings = {key: sorted(value) if isinstance(value, set) else value for key, value in settings.items()}
    layers = {key.removeprefix("base_model.model."): value.detach().contiguous() for key, value in state.items()}
    StableDiffusionPipeline.save_lora_weights(
        tmp_path / "named", unet_lora_layers=layers, unet_lora_adapter_metadata=dict(settings)
    )
    (tmp_path / "alone").mkdir()
    text = json.dumps(settings)
    save_file(layers, tmp_path / "alone" / "pytorch_lora_weights.safetensors", {"lora_adapter_metadata": text})
    with torch.inference_mode():
        wanted = run(model.base_model.model)
        peer = tiny_unet()
        peer.load_lora_adapter(str(tmp_path / "alone"), prefix=None, weight_name="pytorch_lora_weights.safetensors")
        assert relative(run(peer), wanted) < 5e-6, "the peer itself"
    for folder in ("named", "alone"):
        assert relative(with_lora(tmp_path / folder), wanted) < 5e-6, folder
        file = tmp_path / folder / "pytorch_lora_weights.safetensors"
        convert(file, tmp_path / f"{folder}.safetensors")
        convert(file, tmp_path / f"{folder}.ckpt")
        convert(file, tmp_path / f"{folder}_kohya.safetensors", to="kohya")
        for name in (f"{folder}.safetensors", f"{folder}.ckpt", f"{folder}_kohya.safetensors"):
            assert relative(with_lora(tmp_path / name), wanted) < 5e-6, name


def test_each_model_has_settings_of_its_own(tmp_path: Path) -> None:
    """Those of the text encoder do not scale the UNet; its paths have had `text_model.` before them or not."""
    paths = {
        "unet": "mid_block.attentions.0.transformer_blocks.0.attn2.to_k",
        "text_encoder": "text_model.encoder.layers.0.self_attn.q_proj",
        "text_encoder_2": "text_model.encoder.layers.3.mlp.fc1",
    }
    state = {
        f"{place}.{path}.lora_{side}.weight": torch.ones(shape)
        for place, path in paths.items()
        for side, shape in (("A", (4, 8)), ("B", (8, 4)))
    }
    flat = packed(
        {
            "text_encoder": {"r": 4, "lora_alpha": 2, "alpha_pattern": {"encoder.layers.0.self_attn.q_proj": 3}},
            "text_encoder_2": {"r": 4, "lora_alpha": 12, "use_rslora": True},
        }
    )
    pairs = read_pairs(state, name="LoRA", metadata={"lora_adapter_metadata": flat})
    assert [pair.alpha for pair in pairs] == [4.0, 3.0, 24.0], "the UNet has none: alpha = rank"


@pytest.mark.parametrize(
    "path", ["a.to_k", "to_k", "down_blocks.0.attn1.to_k", "down_blocks.10.attn1.to_k", "x.not_to_k"]
)
@pytest.mark.parametrize(
    "pattern", ["to_k", "^to_k", r".*\.attn1\.to_k", "^down_blocks.1.*", "attn1.to_k", "down_blocks.0"]
)
def test_patterns_match_as_in_peft(path: str, pattern: str) -> None:
    values = {"r": 4, "lora_alpha": 1, "alpha_pattern": {pattern: 7}}
    wanted = values["alpha_pattern"].get(get_pattern_key([pattern], path), 1)
    assert PeftSettings(values=values, label="LoRA").alpha(path, 4) == wanted


def small_folder(folder: Path, config: dict[str, Any], **extra: torch.Tensor) -> Path:
    folder.mkdir()
    stem = "base_model.model.mid_block.attentions.0.transformer_blocks.0.attn1.to_k"
    state = {f"{stem}.lora_A.weight": torch.ones(4, 64), f"{stem}.lora_B.weight": torch.ones(64, 4)}
    save_file(state | extra, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 4, "lora_alpha": 4} | config))
    return folder


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"peft_type": "LOHA"}, "type LOHA, not a LoRA"),
        ({"peft_type": "ADALORA"}, "type ADALORA"),
        ({"init_lora_weights": "pissa_niter_16"}, "init_lora_weights: pissa_niter_16"),
        ({"init_lora_weights": "olora"}, "init_lora_weights: olora"),
        ({"init_lora_weights": "loftq"}, "init_lora_weights: loftq"),
        ({"layer_replication": [[0, 4]]}, "layer_replication"),
        ({"target_parameters": ["w"]}, "target_parameters"),
        ({"use_qalora": True}, "use_qalora"),
        ({"use_of_tomorrow": True}, "use_of_tomorrow"),
        ({"modules_to_save": ["conv_in"]}, "modules_to_save, first base_model.model.conv_in"),
        ({"bias": "all"}, "bias: all, first base_model.model.conv_in.bias"),
        ({"lora_alpha": "four"}, "alpha 'four'"),
        ({"alpha_pattern": {"(": 2}}, "is no pattern"),
    ],
)
def test_settings_that_are_more_than_pairs_refuse(tmp_path: Path, config: dict[str, Any], message: str) -> None:
    extra = {"base_model.model.conv_in.weight": torch.ones(2, 2), "base_model.model.conv_in.bias": torch.ones(2)}
    folder = small_folder(tmp_path / "lora", config, **(extra if {"modules_to_save", "bias"} & config.keys() else {}))
    unet = tiny_unet()
    with pytest.raises(UserError, match=message):
        load_lora(folder, unet=unet)
    assert not hasattr(unet, "peft_config")
    if not {"lora_alpha", "alpha_pattern"} & config.keys():
        facts = describe(folder)
        assert facts["kind"] == "lora_unsupported" and "give_it_to" not in facts
        assert re.search(message, facts["evidence"][0])


@pytest.mark.parametrize(
    "config", [{"init_lora_weights": "gaussian"}, {"modules_to_save": ["conv_in"]}, {"bias": "all"}]
)
def test_settings_without_effect_on_the_file_load(tmp_path: Path, config: dict[str, Any]) -> None:
    assert load_lora(small_folder(tmp_path / "lora", config), unet=tiny_unet(), adapter_name="a").num_layers == 1


def test_what_settings_and_tensors_disagree_on_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = small_folder(tmp_path / "lora", {"r": 16, "lora_alpha": 2})
    (pair,) = read_pairs(load_tensors(lora_header(folder)), name="LoRA", metadata=lora_header(folder).metadata)
    assert pair.alpha / pair.rank == 0.5
    assert "tensors of 1 layers have another rank than its settings state" in caplog.text
    (folder / "adapter_config.json").unlink()
    lora_header(folder, say=True)
    assert "no adapter_config.json beside it" in caplog.text
    assert unpacked({"lora_adapter_metadata": "{"}, label="LoRA") == {}
    assert "cannot be read" in caplog.text


def kohya(alpha: float | None = None, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    stem = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_k"
    generator = torch.Generator().manual_seed(3)
    down, up = (torch.randn(shape, generator=generator).to(dtype) for shape in ((6, 64), (64, 6)))
    state = {f"{stem}.lora_down.weight": down, f"{stem}.lora_up.weight": up}
    return state if alpha is None else state | {f"{stem}.alpha": torch.tensor(alpha)}


def test_alpha_in_the_metadata_of_kohya_alone(caplog: pytest.LogCaptureFixture) -> None:
    """Kohya's own programs and the WebUI take the rank where no tensor states alpha, and so it is said."""
    metadata = {"ss_network_alpha": "1.0", "ss_network_dim": "6"}
    (pair,) = read_pairs(kohya(), name="LoRA", metadata=metadata)
    assert pair.alpha == 6
    assert "its metadata states alpha 1.0" in caplog.text
    caplog.clear()
    (pair,) = read_pairs(kohya(1.0), name="LoRA", metadata=metadata)
    assert pair.alpha == 1
    assert not caplog.text
    other = {key.replace("to_k", "to_v"): value for key, value in kohya().items()}
    assert [pair.alpha for pair in read_pairs(kohya(1.0) | other, name="LoRA", metadata=metadata)] == [1, 6]
    assert "1 of 2 layers have no tensor of it" in caplog.text
    with pytest.raises(UserError, match=r"the alpha of .* is nan"):
        read_pairs(kohya(math.nan), name="LoRA")


@pytest.mark.parametrize("alpha", [1.0, 3.0, 4 * math.sqrt(6)])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_conversion_of_half_precision_does_not_round_the_scale(
    tmp_path: Path, alpha: float, dtype: torch.dtype
) -> None:
    def change(path: Path) -> torch.Tensor:
        (pair,) = read_pairs(load_tensors(lora_header(path)), name="LoRA")
        return pair.alpha / pair.rank * pair.up.double() @ pair.down.double()

    save_file(kohya(alpha, dtype), tmp_path / "a.safetensors")
    convert(tmp_path / "a.safetensors", tmp_path / "b", to="diffusers")
    convert(tmp_path / "b", tmp_path / "c.safetensors", to="kohya")
    convert(tmp_path / "a.safetensors", tmp_path / "d.safetensors", dtype=dtype)
    for name in ("b", "c.safetensors", "d.safetensors"):
        assert relative(change(tmp_path / name), change(tmp_path / "a.safetensors")) < 1e-6, name
    assert any(value.dtype == dtype for value in load_file(tmp_path / "d.safetensors").values())


def test_two_models_of_the_golden_pipeline_against_diffusers(tmp_path: Path) -> None:
    """A folder with unet/ and text_encoder/ moves both as PEFT does."""
    torch.manual_seed(4)
    base = StableDiffusionPipeline.from_pretrained(GOLDEN / "v3" / "sd", safety_checker=None, torch_dtype=torch.float32)
    ids = torch.arange(77)[None] % 500
    unet = trained({"r": 4, "lora_alpha": 16}, base.unet)
    unet.save_pretrained(str(tmp_path / "unet"))
    text = get_peft_model(
        base.text_encoder, LoraConfig(r=2, lora_alpha=5, use_rslora=True, target_modules=["q_proj", "fc1"])
    )
    for name, parameter in text.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    text.save_pretrained(str(tmp_path / "text_encoder"))
    x, prompt = torch.ones(1, 4, 16, 16) * 0.1, torch.ones(1, 8, 32) * 0.3
    with torch.inference_mode():
        wanted = unet.base_model.model(x, 500, prompt).sample, text.eval().base_model.model(ids).last_hidden_state
    fresh = StableDiffusionPipeline.from_pretrained(
        GOLDEN / "v3" / "sd", safety_checker=None, torch_dtype=torch.float32
    )
    load_lora(tmp_path, unet=fresh.unet, text_encoders=[fresh.text_encoder], adapter_name="both")
    with torch.inference_mode():
        found = fresh.unet(x, 500, prompt).sample, fresh.text_encoder(ids).last_hidden_state
    for one, other in zip(found, wanted, strict=True):
        assert relative(one, other) < 5e-6


def test_nothing_is_said_of_a_sound_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        load_lora(small_folder(tmp_path / "lora", {}), unet=tiny_unet(), adapter_name="a")
    assert not caplog.text


def test_names_below_a_pipeline_in_peft_and_those_of_hotshotxl() -> None:
    """PEFT puts `base_model.model.` before the names of whatever it wraps."""
    for key, wanted in (
        ("base_model.model.unet.mid_block.resnets.0.conv1", ("unet", "mid_block_resnets_0_conv1")),
        ("base_model.model.text_encoder.encoder.layers.0.mlp.fc1", ("text_encoder", "encoder_layers_0_mlp_fc1")),
        (
            "unet.down_blocks.0.temporal_attentions.0.transformer_blocks.0.attention_blocks.1.to_q",
            ("unet", "down_blocks_0_motion_modules_0_transformer_blocks_0_attn2_to_q"),
        ),
    ):
        assert spell(key) == wanted


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_a_lora_of_no_numbers_is_named(number: float) -> None:
    state = kohya()
    up = list(state)[1]
    state[up] = torch.full_like(state[up], number)
    unet = tiny_unet()
    with pytest.raises(UserError, match=r"are not finite .*take another LoRA"):
        load_lora(state, unet=unet)
    assert not hasattr(unet, "peft_config")
