"""LoRAs: the golden strengths, every grammar, exact removal, and files that do not fit."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, save_file
from support.close import relative
from support.paths import GOLDEN

from animatediff.errors import UserError
from animatediff.motion import MotionAdapter, MotionLayout, MotionNumerics, attach
from animatediff.weights.base.components import empty_model
from animatediff.weights.base.folder import load_base_folder
from animatediff.weights.lora.load import load_lora, remove_lora, set_lora_scales
from animatediff.weights.storage.files import load_tensors


def internal(key: str) -> str:
    key = key.replace(".temporal_transformer.", ".").replace(".ff_norm.", ".norm3.")
    key = re.sub(r"\.attention_blocks\.([01])\.", lambda m: f".attn{int(m[1]) + 1}.", key)
    return re.sub(r"\.norms\.([01])\.", lambda m: f".norm{int(m[1]) + 1}.", key)


def golden_model(family: str):
    folder = GOLDEN / family
    parts = load_base_folder(folder / "sd", dtype=torch.float32)
    state = load_tensors(folder / "motion_module.ckpt")
    mid = any(key.startswith("mid_block") for key in state)
    layout = MotionLayout.from_unet(parts["unet"], mid_block=mid)
    adapter = MotionAdapter(layout, MotionNumerics(image_norm_over_frames=family == "v1", max_positions=32))
    adapter.load_state_dict({internal(k): v for k, v in state.items() if not k.endswith("pos_encoder.pe")})
    attachment = attach(parts["unet"], adapter)
    return parts, attachment, load_file(folder / "expected.safetensors"), folder


@torch.inference_mode()
def run(unet, attachment, expected) -> torch.Tensor:
    sample = expected["unet.sample"]
    b, _, f = sample.shape[:3]
    attachment.frames.num_frames = f
    text = expected["unet.encoder_hidden_states"].repeat_interleave(f, 0)
    flat = sample.transpose(1, 2).flatten(0, 1)
    out = unet(flat, expected["unet.timestep"], encoder_hidden_states=text).sample
    return out.unflatten(0, (b, f)).transpose(1, 2)


def close(found: torch.Tensor, wanted: torch.Tensor) -> None:
    assert (found - wanted).abs().max().item() < 1e-5


@pytest.mark.exact  # the disturbance is larger than the golden tolerance
@pytest.mark.parametrize("family", ["v1", "v2", "v3"])
def test_golden_strengths_and_exact_removal(family: str) -> None:
    parts, attachment, expected, folder = golden_model(family)
    unet = parts["unet"]
    before, keys = run(unet, attachment, expected), list(unet.state_dict())
    modules = dict(unet.named_modules())
    close(before, expected["unet.out"])

    loaded = load_lora(folder / "motion_lora.ckpt", unet=unet)
    assert (loaded.name, loaded.kind, loaded.skipped) == ("motion_lora", "motion_lora", ())
    close(run(unet, attachment, expected), expected["unet.out.motion_lora_1.0"])
    set_lora_scales([unet], {"motion_lora": 0.5})
    close(run(unet, attachment, expected), expected["unet.out.motion_lora_0.5"])

    assert load_lora(folder / "domain_adapter.ckpt", unet=unet).name == "domain_adapter"
    set_lora_scales([unet], {"domain_adapter": 0.6, "motion_lora": 0.8})
    close(run(unet, attachment, expected), expected["unet.out.adapter_0.6_and_motion_lora_0.8"])
    remove_lora([unet], "motion_lora")
    set_lora_scales([unet], {"domain_adapter": 1.0})
    close(run(unet, attachment, expected), expected["unet.out.domain_adapter_1.0"])

    remove_lora([unet], "domain_adapter")
    assert torch.equal(run(unet, attachment, expected), before)
    assert list(unet.state_dict()) == keys
    assert all(dict(unet.named_modules())[name] is module for name, module in modules.items())
    assert all(parameter.requires_grad for parameter in unet.parameters())
    with pytest.raises(UserError, match="no LoRA named 'motion_lora'"):
        set_lora_scales([unet], {"motion_lora": 1.0})


def hub_grammar(key: str) -> str:
    """As in the MotionLoRA repositories on the hub: `unet.`, internal names, `processor.to_q_lora.down`."""
    return "unet." + internal(key)


def peft_grammar(key: str) -> str:
    key = internal(key).replace(".processor.", ".").replace("_lora.down.", ".lora_A.").replace("_lora.up.", ".lora_B.")
    return "unet." + key.replace("to_out.lora", "to_out.0.lora")


def underscore_grammar(key: str) -> str:
    stem, tail = re.fullmatch(r"(.+)_lora\.(down|up)\.weight", key).groups()  # type: ignore[union-attr]
    return stem.replace(".", "_") + f".lora_{tail}.weight"


def indexed_grammar(key: str) -> str:
    return key.replace("to_out_lora", "to_out.0_lora")


@pytest.mark.exact  # the disturbance is larger than the golden tolerance
@pytest.mark.parametrize("grammar", [hub_grammar, peft_grammar, underscore_grammar, indexed_grammar])
def test_motion_lora_in_every_grammar(grammar, tmp_path: Path) -> None:
    parts, attachment, expected, folder = golden_model("v3")
    state = {grammar(key): value for key, value in load_tensors(folder / "motion_lora.ckpt").items()}
    save_file(state, tmp_path / "lora.safetensors")
    loaded = load_lora(tmp_path / "lora.safetensors", unet=parts["unet"], adapter_name="pan")
    assert (loaded.name, loaded.kind) == ("pan", "motion_lora")
    close(run(parts["unet"], attachment, expected), expected["unet.out.motion_lora_1.0"])


@pytest.mark.exact  # the disturbance is larger than the golden tolerance
def test_mid_block_of_a_motion_lora_is_skipped_and_said(caplog: pytest.LogCaptureFixture) -> None:
    parts, attachment, expected, folder = golden_model("v3")
    state = load_tensors(folder / "motion_lora.ckpt")
    mid = {
        re.sub(r"^up_blocks\.3\.", "mid_block.", k): v for k, v in state.items() if "up_blocks.3.motion_modules.0" in k
    }
    with caplog.at_level("INFO"):
        loaded = load_lora({**state, **mid}, unet=parts["unet"])
    assert len(loaded.skipped) == len(mid) // 2 > 0
    assert "skipped" in caplog.text
    close(run(parts["unet"], attachment, expected), expected["unet.out.motion_lora_1.0"])


def test_style_lora_of_kohya_reaches_unet_and_text_encoder() -> None:
    parts, _, _, folder = golden_model("v2")
    unet, text = parts["unet"], parts["text_encoder"]
    ids = torch.arange(77)[None] % 500

    @torch.inference_mode()
    def encode() -> torch.Tensor:
        return text(ids).last_hidden_state

    before = encode()
    loaded = load_lora(folder / "style_lora_kohya.safetensors", unet=unet, text_encoders=[text])
    assert (loaded.name, loaded.kind, loaded.num_layers) == ("style_lora_kohya", "lora", 14)
    assert relative(encode(), before) > 1e-2
    set_lora_scales([unet, text], {"style_lora_kohya": 0.0})
    assert torch.equal(encode(), before)
    remove_lora([unet, text], "style_lora_kohya")
    assert torch.equal(encode(), before)


def tiny_unet() -> UNet2DConditionModel:
    torch.manual_seed(0)
    config = {
        "block_out_channels": [32, 64], "layers_per_block": 1, "cross_attention_dim": 32, "norm_num_groups": 8,
        "attention_head_dim": 4, "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
    }  # fmt: skip
    return UNet2DConditionModel.from_config(config).eval()


@torch.inference_mode()
def forward(unet) -> torch.Tensor:
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    return unet(noise, 10, encoder_hidden_states=torch.ones(1, 5, 32)).sample


def merged(unet, changes: dict[str, torch.Tensor]):
    """The oracle: the same model with the change added to its weights."""
    other = tiny_unet()
    other.load_state_dict(unet.state_dict())
    for path, delta in changes.items():
        weight = other.get_submodule(path).weight.data
        weight += delta.reshape(weight.shape)
    return other


def pair(out: int, rank: int, inner: int, *kernel: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(rank, inner, *kernel) * 0.1, torch.randn(out, rank, *[1 for _ in kernel]) * 0.3


def delta(down: torch.Tensor, up: torch.Tensor, scale: float) -> torch.Tensor:
    return scale * torch.tensordot(up.flatten(1), down.flatten(1), 1)


@pytest.mark.parametrize("names", ["diffusers", "ldm"])
def test_kohya_alpha_and_convolutions(names: str) -> None:
    torch.manual_seed(3)
    unet = tiny_unet()
    spelled = {
        "diffusers": ("down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q", "down_blocks_0_resnets_0_conv1",
                      "down_blocks_0_attentions_0_proj_in", "mid_block_resnets_1_time_emb_proj"),
        "ldm": ("input_blocks_1_1_transformer_blocks_0_attn1_to_q", "input_blocks_1_0_in_layers_2",
                "input_blocks_1_1_proj_in", "middle_block_2_emb_layers_1"),
    }[names]  # fmt: skip
    paths = (
        "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q", "down_blocks.0.resnets.0.conv1",
        "down_blocks.0.attentions.0.proj_in", "mid_block.resnets.1.time_emb_proj",
    )  # fmt: skip
    pairs = (pair(32, 8, 32), pair(32, 4, 32, 3, 3), pair(32, 8, 32, 1, 1), pair(64, 2, 128))
    alphas = (2.0, 1.0, 4.0, None)
    state, changes = {}, {}
    for name, path, (down, up), alpha in zip(spelled, paths, pairs, alphas, strict=True):
        state[f"lora_unet_{name}.lora_down.weight"], state[f"lora_unet_{name}.lora_up.weight"] = down, up
        if alpha is not None:
            state[f"lora_unet_{name}.alpha"] = torch.tensor(alpha)
        changes[path] = delta(down, up, 0.7 * (1.0 if alpha is None else alpha / down.shape[0]))
    before = forward(unet)
    wanted = forward(merged(unet, changes))
    assert relative(wanted, before) > 1e-2
    assert load_lora(state, unet=unet, adapter_name="style", scale=0.7).num_layers == 4
    assert relative(forward(unet), wanted) < 5e-5
    remove_lora([unet], "style")
    assert torch.equal(forward(unet), before)


def test_peft_file_of_diffusers_with_its_metadata(tmp_path: Path) -> None:
    unet = tiny_unet()
    path = "mid_block.attentions.0.transformer_blocks.0.attn2.to_k"
    down, up = pair(64, 4, 32)
    state = {f"unet.{path}.lora_A.weight": down, f"unet.{path}.lora_B.weight": up}
    metadata = {"lora_adapter_metadata": json.dumps({"unet.r": 4, "unet.lora_alpha": 8})}
    save_file(state, tmp_path / "pytorch_lora_weights.safetensors", metadata=metadata)
    wanted = forward(merged(unet, {path: delta(down, up, 2.0)}))
    load_lora(tmp_path, unet=unet)
    assert relative(forward(unet), wanted) < 5e-5


def text_encoder(name: str):
    config = {
        "architectures": ["CLIPTextModelWithProjection" if name == "text_encoder_2" else "CLIPTextModel"],
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 50,
        "bos_token_id": 48, "eos_token_id": 49, "projection_dim": 32,
    }  # fmt: skip
    model = empty_model(name, config).to_empty(device="cpu")
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    return model


def test_kohya_reaches_both_text_encoders_of_sdxl() -> None:
    first, second, unet = text_encoder("text_encoder"), text_encoder("text_encoder_2"), tiny_unet()
    down, up = pair(32, 4, 32)
    state = {}
    for prefix in ("lora_te1", "lora_te2"):
        for name in ("self_attn_out_proj", "self_attn_k_proj"):
            state[f"{prefix}_text_model_encoder_layers_1_{name}.lora_down.weight"] = down
            state[f"{prefix}_text_model_encoder_layers_1_{name}.lora_up.weight"] = up
    state["text_encoder_2.text_model.encoder.layers.0.self_attn.to_q_lora.down.weight"] = down
    state["text_encoder_2.text_model.encoder.layers.0.self_attn.to_q_lora.up.weight"] = up
    assert load_lora(state, unet=unet, text_encoders=[first, second], adapter_name="s").num_layers == 5
    with pytest.raises(UserError, match="for a model with text_encoder_2"):
        load_lora(state, unet=unet, text_encoders=[first], adapter_name="t")
    with pytest.raises(UserError, match="loaded already"):
        load_lora(state, unet=unet, text_encoders=[first, second], adapter_name="s")
    remove_lora([unet, first, second], "s")
    assert not any("lora" in name for model in (unet, first, second) for name, _ in model.named_modules())


MOTION_KEY = (
    "down_blocks.0.motion_modules.0.temporal_transformer.transformer_blocks.0.attention_blocks.0.processor.to_q_lora"
)
KEY = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({f"{KEY}.lora_down.weight": (4, 64), f"{KEY}.lora_up.weight": (32, 4)}, "another base model"),
        ({f"{KEY}.lora_down.weight": (4, 32)}, "incomplete"),
        ({"lora_te_text_model_embeddings_position_ids": (1,)}, "no LoRA layers"),
        ({f"{KEY}x.lora_down.weight": (4, 32), f"{KEY}x.lora_up.weight": (32, 4)}, "no place in this model"),
        ({f"{KEY}.lora_mid.weight": (4, 4, 3, 3)}, "lora_mid"),
        ({f"{KEY}.hada_w1_a": (4, 4)}, "LoHa"),
        ({"down_blocks.0.motion_modules.0.temporal_transformer.norm.weight": (32,)}, "give it as motion module"),
        ({"model.diffusion_model.out.2.bias": (4,)}, "whole image model"),
        ({f"{MOTION_KEY}.down.weight": (4, 32),
          f"{MOTION_KEY}.up.weight": (32, 4)},
         "no motion modules yet"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named_and_nothing_changes(state: dict, message: str, tmp_path: Path) -> None:
    unet = tiny_unet()
    file = tmp_path / "some.safetensors"
    save_file({key: torch.zeros(shape) for key, shape in state.items()}, file)
    keys = list(unet.state_dict())
    with pytest.raises(UserError, match=message) as caught:
        load_lora(file, unet=unet)
    assert str(file) in str(caught.value)
    assert list(unet.state_dict()) == keys
    assert not hasattr(unet, "peft_config")
