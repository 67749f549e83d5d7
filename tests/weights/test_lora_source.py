"""Where LoRAs are found, and by whose names their layers go: folders, ComfyUI, OneTrainer, LoRAs without names."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from support.close import relative
from support.commands import is_one_message
from support.paths import GOLDEN
from support.unets import run, tiny_unet
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel

from animatediff.errors import UserError
from animatediff.motion import MotionAdapter
from animatediff.pipelines import AnimateDiffPipeline
from animatediff.weights.convert import convert
from animatediff.weights.inspect import describe
from animatediff.weights.lora.load import load_lora
from animatediff.weights.lora.numbered import with_names
from animatediff.weights.lora.pairs import read_pairs, spell
from animatediff.weights.lora.source import check_settings, lora_files, lora_header
from animatediff.weights.storage.files import load_tensors, read_header

UNET = "mid_block.attentions.0.transformer_blocks.0.attn1.to_out.0"
TEXT = "text_model.encoder.layers.1.self_attn.q_proj"


def pairs_at(*stems: str, sides: tuple[str, str] = ("lora_A", "lora_B"), width: int = 64) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    return {
        f"{stem}.{side}.weight": torch.randn(shape, generator=generator) * 0.1
        for stem in stems
        for side, shape in zip(sides, ((4, width), (width, 4)), strict=True)
    }


def saved(path: Path, state: dict[str, torch.Tensor], config: dict[str, Any] | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(state, path)
    if config is not None:
        (path.parent / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 4} | config))
    return path


def found(source: Path) -> dict[tuple[str, str], float]:
    """(model, layer) -> scale, of all pairs."""
    header = lora_header(source)
    pairs = read_pairs(load_tensors(header), name="LoRA", metadata=header.metadata)
    return {(pair.place, pair.module): pair.alpha / pair.rank for pair in pairs}


UNDERSCORED = UNET.replace(".", "_")
IN_TEXT = TEXT.replace(".", "_").removeprefix("text_model_")


@pytest.mark.parametrize(
    ("stem", "place"),
    [
        (f"unet.{UNET}", "unet"),
        (f"base_model.model.{UNET}", "unet"),
        (f"unet.base_model.model.{UNET}", "unet"),
        (f"diffusion_model.{UNET}", "unet"),  # ComfyUI: of diffusers' names, of its own, of a whole model's
        ("diffusion_model.middle_block.1.transformer_blocks.0.attn1.to_out.0", "unet"),
        ("model.diffusion_model.middle_block.1.transformer_blocks.0.attn1.to_out.0", "unet"),
        (f"lora_unet.{UNET}", "unet"),  # OneTrainer: diffusers' names, OMI's
        ("unet.middle_block.1.transformer_blocks.0.attn1.to_out.0", "unet"),
        (f"lora_unet_{UNDERSCORED}", "unet"),
        ("lora_unet_middle_block_1_transformer_blocks_0_attn1_to_out_0", "unet"),
        (f"lycoris_{UNDERSCORED}", "unet"),
        (f"text_encoder.{TEXT}", "text_encoder"),
        (f"text_encoder.base_model.model.{TEXT}", "text_encoder"),
        (f"base_model.model.{TEXT}", "text_encoder"),
        (f"base_model.model.{TEXT.removeprefix('text_model.')}", "text_encoder"),
        (f"text_encoders.clip_l.transformer.{TEXT}", "text_encoder"),
        (f"text_encoders.clip_h.transformer.{TEXT}", "text_encoder"),
        (f"clip_l.transformer.{TEXT}", "text_encoder"),
        (f"clip_l.{TEXT}", "text_encoder"),
        (f"lora_te1.{TEXT}", "text_encoder"),
        (f"lora_te.{TEXT}", "text_encoder"),
        (f"lora_te_text_model_{IN_TEXT}", "text_encoder"),
        (f"lycoris_text_model_{IN_TEXT}", "text_encoder"),
        (f"cond_stage_model.transformer.{TEXT}", "text_encoder"),
        (f"text_encoder_2.{TEXT}", "text_encoder_2"),
        (f"text_encoders.clip_g.transformer.{TEXT}", "text_encoder_2"),
        (f"clip_g.{TEXT}", "text_encoder_2"),
        (f"lora_te2.{TEXT}", "text_encoder_2"),
        (f"lora_te2_text_model_{IN_TEXT}", "text_encoder_2"),
    ],
)
def test_names_of_every_program(stem: str, place: str) -> None:
    assert spell(stem) == (place, UNDERSCORED if place == "unet" else IN_TEXT)


def test_text_projection_of_the_second_encoder() -> None:
    for stem in (
        "lora_te2_text_projection",
        "clip_g.text_projection",
        "text_encoders.clip_g.transformer.text_projection",
    ):
        assert spell(stem) == ("text_encoder_2", "text_projection")


@torch.inference_mode()
def moved(source: Path | dict[str, torch.Tensor]) -> torch.Tensor:
    unet = tiny_unet()
    load_lora(source, unet=unet, text_encoders=[text_encoder()], adapter_name="one")
    return run(unet)


def text_encoder() -> CLIPTextModel:
    torch.manual_seed(6)
    return CLIPTextModel(
        CLIPTextConfig(hidden_size=64, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, vocab_size=50)
    ).eval()


def test_a_lora_as_comfyui_saves_it_is_that_of_kohya() -> None:
    halves = ("lora_down", "lora_up")
    comfy = pairs_at(f"diffusion_model.{UNET}", f"text_encoders.clip_l.transformer.{TEXT}", sides=halves)
    kohya = pairs_at(f"lora_unet_{UNDERSCORED}", f"lora_te_text_model_{IN_TEXT}", sides=halves)
    assert torch.equal(moved(comfy), moved(kohya))


def test_folder_with_one_file_for_each_model(tmp_path: Path) -> None:
    for name, stem, alpha in (("unet", UNET, 16), ("text_encoder", TEXT, 2), ("text_encoder_2", TEXT, 8)):
        state = pairs_at(f"base_model.model.{stem}")
        saved(tmp_path / name / "adapter_model.safetensors", state, {"lora_alpha": alpha})
    assert found(tmp_path) == {
        ("unet", UNDERSCORED): 4.0,
        ("text_encoder", IN_TEXT): 0.5,
        ("text_encoder_2", IN_TEXT): 2.0,
    }
    facts = describe(tmp_path)
    assert (facts["file"], facts["kind"], facts["tensors"]) == (str(tmp_path), "lora", 6)
    kohya = tmp_path / "kohya.safetensors"
    convert(tmp_path, kohya, to="kohya")
    assert found(kohya) == found(tmp_path)
    assert any(key.startswith("lora_te1_") for key in read_header(kohya).tensors), "as kohya names SDXL's first"
    with pytest.raises(UserError, match="source itself"):
        convert(tmp_path, tmp_path / "unet" / "adapter_model.safetensors")


def test_one_text_encoder_by_itself(tmp_path: Path) -> None:
    """The class, the width or the folder tells the second text encoder of SDXL from the first."""
    state = pairs_at(f"base_model.model.{TEXT}")
    saved(tmp_path / "a" / "adapter_model.safetensors", state, {"lora_alpha": 8})
    second = {"lora_alpha": 8, "auto_mapping": {"base_model_class": "CLIPTextModelWithProjection"}}
    saved(tmp_path / "b" / "adapter_model.safetensors", state, second)
    saved(tmp_path / "text_encoder_2" / "adapter_model.safetensors", state, {"lora_alpha": 8})
    wide = pairs_at(f"base_model.model.{TEXT}", width=1280)
    saved(tmp_path / "c" / "adapter_model.safetensors", wide, {"lora_alpha": 8})
    places = {"a": "text_encoder", "b": "text_encoder_2", "text_encoder_2": "text_encoder_2", "c": "text_encoder_2"}
    for name, place in places.items():
        assert found(tmp_path / name) == {(place, IN_TEXT): 2.0}, name


@pytest.mark.parametrize(
    "name",
    [
        "pytorch_lora_weights.safetensors",
        "diffusion_pytorch_model.safetensors",
        "model.safetensors",
        "style.safetensors",
        "unet_lora/pytorch_lora_weights.safetensors",
        "default/pytorch_lora_weights.safetensors",
    ],
)
def test_folders_with_one_lora(tmp_path: Path, name: str) -> None:
    file = saved(tmp_path / "lora" / name, pairs_at(f"unet.{UNET}"))
    if name.startswith("default"):
        (file.parent / "adapter_config.json").write_text('{"lora_alpha": 4}')
    assert [one.path for one in lora_files(tmp_path / "lora")] == [file]
    assert torch.equal(moved(tmp_path / "lora"), moved(file))
    assert describe(tmp_path / "lora")["kind"] == "lora"


def test_a_model_with_its_lora_beside_it_is_the_model(tmp_path: Path) -> None:
    """AnimateLCM's repository; given as LoRA, the folder is that."""
    convert(GOLDEN / "v2" / "motion_module.ckpt", tmp_path / "lcm", to="diffusers")
    lora = saved(tmp_path / "lcm" / "AnimateLCM_sd15_t2v_lora.safetensors", pairs_at(f"unet.{UNET}"))
    assert describe(tmp_path / "lcm")["kind"] == "motion_module"
    assert lora_header(tmp_path / "lcm").path == lora


def test_same_lora_in_several_formats_is_one(tmp_path: Path) -> None:
    state = pairs_at(f"unet.{UNET}")
    wanted = saved(tmp_path / "style.safetensors", state)
    saved(tmp_path / "style.fp16.safetensors", {key: value.half() for key, value in state.items()})
    torch.save(state, tmp_path / "style.bin")
    assert [one.path for one in lora_files(tmp_path)] == [wanted]


def test_folders_that_are_not_one_lora_say_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    state = pairs_at(f"unet.{UNET}")
    for name in ("one", "two"):
        saved(tmp_path / "several" / f"{name}.safetensors", state)
    with pytest.raises(UserError, match=r"2 LoRAs \(one.safetensors, two.safetensors\); give one of these files"):
        lora_header(tmp_path / "several")
    for name in ("first", "second"):
        saved(tmp_path / "named" / name / "adapter_model.safetensors", state, {})
    with pytest.raises(UserError, match=r"2 LoRAs \(first, second\); give one folder"):
        lora_header(tmp_path / "named")
    for name in ("unet", "unet_lora"):
        saved(tmp_path / "twice" / name / "adapter_model.safetensors", state, {})
    with pytest.raises(UserError, match="two LoRAs of the same model"):
        lora_header(tmp_path / "twice")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no weights in this folder"):
        lora_header(tmp_path / "empty")
    with pytest.raises(UserError, match="a whole image model, not a LoRA"):
        lora_header(GOLDEN / "v3" / "sd")
    saved(tmp_path / "module" / "mm.safetensors", {"down_blocks.0.motion_modules.0.norm.weight": torch.ones(4)})
    with pytest.raises(UserError, match="a motion module, not a LoRA"):
        load_lora(tmp_path / "module", unet=tiny_unet())
    saved(tmp_path / "known" / "pytorch_lora_weights.safetensors", state)
    saved(tmp_path / "known" / "adapter_model.safetensors", state, {})
    lora_header(tmp_path / "known")
    assert not caplog.text, "to be said once, by the loader"
    lora_header(tmp_path / "known", say=True)
    assert "give adapter_model.safetensors itself to load that" in caplog.text


def test_published_layout_of_motion_loras(tmp_path: Path) -> None:
    """guoyww/animatediff-motion-lora-*: diffusers' names in a file named as a model's."""
    source = GOLDEN / "v2" / "motion_lora.ckpt"
    convert(source, tmp_path / "lora", to="diffusers")
    (tmp_path / "lora" / "pytorch_lora_weights.safetensors").rename(
        tmp_path / "lora/diffusion_pytorch_model.safetensors"
    )
    pipe = AnimateDiffPipeline.from_pretrained(GOLDEN / "v2" / "sd", torch_dtype="float32")
    pipe.load_motion_module(GOLDEN / "v2" / "motion_module.ckpt")
    assert pipe.load_lora_weights(tmp_path / "lora") == "motion_lora"
    assert describe(tmp_path / "lora")["kind"] == "motion_lora"


def targets(model: nn.Module, classes: set[str]) -> Iterator[tuple[str, nn.Module]]:
    """The layers of a model in the order in which cloneofsimo's trainer walks them."""
    for path, module in model.named_modules():
        if type(module).__name__ in classes:
            for name, layer in module.named_modules():
                if isinstance(layer, nn.Linear | nn.Conv2d):
                    yield f"{path}.{name}", layer


def numbered(layers: list[nn.Module], rank: int = 2) -> list[torch.Tensor]:
    """`up` and `down` by turns, random."""
    tensors = []
    generator = torch.Generator().manual_seed(7)
    for layer in layers:
        weight: Any = layer.weight
        tensors.append(torch.randn(weight.shape[0], rank, *(1 for _ in weight.shape[2:]), generator=generator) * 0.05)
        tensors.append(torch.randn(rank, *weight.shape[1:], generator=generator) * 0.05)
    return tensors


def old_order(layers: list[tuple[str, nn.Module]]) -> list[tuple[str, nn.Module]]:
    """The feed-forward layer between the attentions, as in diffusers until 0.10."""
    for index, (path, _) in enumerate(layers):
        if path.endswith("ff.net.0.proj") and ".attn2." in layers[index - 1][0]:
            layers.insert(index - 4, layers.pop(index))
    return layers


@torch.inference_mode()
def merged(layers: list[tuple[str, nn.Module]], tensors: list[torch.Tensor], model: nn.Module) -> None:
    for (path, _), up, down in zip(layers, tensors[::2], tensors[1::2], strict=True):
        weight: Any = model.get_submodule(path).weight
        weight += (up.flatten(1) @ down.flatten(1)).view(weight.shape)


ATTENTIONS = {"Attention", "GEGLU"}


@pytest.mark.parametrize("classes", [ATTENTIONS, {*ATTENTIONS, "ResnetBlock2D"}])
@pytest.mark.parametrize("order", [list, old_order])
def test_loras_without_names(tmp_path: Path, classes: set[str], order: Any) -> None:
    """cloneofsimo/lora: a list of tensors, or numbers for names; in the order of the layers of a live model."""
    unet, wanted, text = golden_unet(), golden_unet(), text_encoder()
    layers = order(list(targets(unet, classes)))
    tensors = numbered([layer for _, layer in layers])
    merged(layers, tensors, wanted)
    with torch.inference_mode():
        assert relative(sample(wanted), sample(unet)) > 1e-2, "else order would not be seen"
    torch.save(tensors, tmp_path / "lora.pt")
    of_text = numbered([layer for _, layer in targets(text, {"CLIPAttention"})])
    torch.save(of_text, tmp_path / "lora.text_encoder.pt")
    state = {f"unet:{i // 2}:{('up', 'down')[i % 2]}": value for i, value in enumerate(tensors)}
    state |= {f"text_encoder:{i // 2}:{('up', 'down')[i % 2]}": value for i, value in enumerate(of_text)}
    state["<s1>"] = torch.ones(64)
    metadata = {"unet": json.dumps(sorted(classes)), "text_encoder": '["CLIPAttention"]', "<s1>": "<embed>"}
    save_file(state, tmp_path / "lora.safetensors", metadata)
    for name in ("lora.pt", "lora.safetensors"):
        model, encoder = golden_unet(), text_encoder()
        loaded = load_lora(tmp_path / name, unet=model, text_encoders=[encoder], adapter_name="one")
        with torch.inference_mode():
            assert relative(sample(model), sample(wanted)) < 5e-6, name
        assert loaded.embeddings == (() if name.endswith("pt") else ("<s1>",))
    expected = text_encoder()
    merged(list(targets(expected, {"CLIPAttention"})), of_text, expected)
    ids = torch.arange(20)[None]
    encoder = text_encoder()
    load_lora(tmp_path / "lora.text_encoder.pt", unet=golden_unet(), text_encoders=[encoder], adapter_name="one")
    with torch.inference_mode():
        assert relative(encoder(ids).last_hidden_state, expected(ids).last_hidden_state) < 5e-6
    convert(tmp_path / "lora.pt", tmp_path / "kohya.safetensors", to="kohya")
    model = golden_unet()
    load_lora(tmp_path / "kohya.safetensors", unet=model, adapter_name="one")
    with torch.inference_mode():
        assert relative(sample(model), sample(wanted)) < 5e-6


def golden_unet() -> Any:
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel.from_pretrained(GOLDEN / "v3" / "sd" / "unet", torch_dtype=torch.float32).eval()


def sample(unet: Any) -> torch.Tensor:
    return unet(torch.ones(1, 4, 16, 16) * 0.1, 500, torch.ones(1, 8, 32) * 0.3).sample


def test_lora_without_names_of_full_size() -> None:
    """The 144 layers of Stable Diffusion 1.5 in the order of its modules; another number is no LoRA of it."""
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        unet = UNet2DConditionModel(cross_attention_dim=768)
    layers = list(targets(unet, ATTENTIONS))
    assert len(layers) == 144
    shapes: list[Any] = [((w.shape[0], 4), (4, w.shape[1])) for _, layer in layers for w in [layer.weight]]
    from animatediff.weights.lora.numbered import unet_layers

    assert unet_layers(shapes) == [path for path, _ in layers]
    assert unet_layers(shapes[:-1]) is None


def test_lists_that_are_no_lora_say_so(tmp_path: Path) -> None:
    torch.save([torch.ones(3), torch.ones(3)], tmp_path / "a.pt")
    with pytest.raises(UserError, match="no pairs of `up` and `down`"):
        lora_header(tmp_path / "a.pt")
    torch.save([torch.ones(8, 2), torch.ones(2, 4)] * 3, tmp_path / "b.pt")
    with pytest.raises(UserError, match="3 pairs fit the order of layers of no Stable Diffusion"):
        lora_header(tmp_path / "b.pt")
    save_file({"unet:1:up": torch.ones(8, 2), "unet:1:down": torch.ones(2, 8)}, tmp_path / "c.safetensors")
    with pytest.raises(UserError, match="not numbered from 0 without a gap"):
        with_names(read_header(tmp_path / "c.safetensors"))


def motion_director(adapter: MotionAdapter) -> dict[str, torch.Tensor]:
    """A temporal LoRA as MotionDirector for AnimateDiff writes it: all linear layers of the transformer blocks."""
    generator = torch.Generator().manual_seed(8)
    state = {}
    for path, layer in adapter.named_modules():
        if isinstance(layer, nn.Linear) and ".transformer_blocks." in path:
            stem, leaf = path.replace("transformer_blocks", "temporal_transformer.transformer_blocks").rsplit(".", 1)
            stem = stem.replace("attn1", "attention_blocks.0").replace("attn2", "attention_blocks.1")
            for side, shape in (("down", (4, layer.in_features)), ("up", (layer.out_features, 4))):
                state[f"{stem}.processor.{leaf}_lora.{side}.weight"] = torch.randn(shape, generator=generator) * 0.1
    return state


@pytest.mark.parametrize("to", ["original", "diffusers", "internal"])
def test_temporal_loras_of_motiondirector_convert(tmp_path: Path, to: Any) -> None:
    """Feed-forward layers too; diffusers itself reaches every layer of its layout."""
    from diffusers import AnimateDiffPipeline as Peer
    from diffusers import MotionAdapter as PeerAdapter
    from diffusers import UNetMotionModel

    source = tmp_path / "temporal.safetensors"
    state = motion_director(MotionAdapter.from_unet(golden_unet()))
    assert any("ff.net.0.processor.proj_lora" in key for key in state)
    assert any("to_out.processor.0_lora" in key for key in state)
    save_file(state, source, {"model_type": "motion_director", "rank": "4"})
    convert(source, tmp_path / "lora.safetensors", to=to)
    both = [
        {(pair.place, pair.module): (pair.down, pair.up) for pair in read_pairs(load_tensors(path), name="LoRA")}
        for path in (source, tmp_path / "lora.safetensors")
    ]
    assert both[0].keys() == both[1].keys()
    assert all(torch.equal(a, b) for key in both[0] for a, b in zip(both[0][key], both[1][key], strict=True))
    if to == "diffusers":
        convert(GOLDEN / "v3" / "motion_module.ckpt", tmp_path / "adapter", to="diffusers")
        model = UNetMotionModel.from_unet2d(golden_unet(), PeerAdapter.from_pretrained(tmp_path / "adapter"))
        lora, alphas = Peer.lora_state_dict(tmp_path / "lora.safetensors")[:2]
        Peer.load_lora_into_unet(lora, network_alphas=alphas, unet=model, adapter_name="x")
        assert sum(hasattr(layer, "lora_A") for layer in model.modules()) == len(state) // 2


def test_spatial_lora_of_motiondirector(tmp_path: Path) -> None:
    """`proj_in` and the feed-forward layers end in `_lora` as well, and `to_out` has no number."""
    block = "mid_block.attentions.0"
    halves = ("down", "up")
    names = {
        f"{block}.proj_in_lora": f"{block}.proj_in",
        f"{block}.transformer_blocks.0.ff.net.2_lora": None,
        f"{block}.transformer_blocks.0.attn1.processor.to_out_lora": f"{block}.transformer_blocks.0.attn1.to_out.0",
    }
    spelled = [spell(name.removesuffix("_lora"))[1] for name in names]
    assert spelled[1] == f"{block}.transformer_blocks.0.ff.net.2".replace(".", "_")
    state = pairs_at(*(name for name, path in names.items() if path), sides=halves)
    save_file(state, tmp_path / "spatial.safetensors", {"model_type": "motion_director", "rank": "4"})
    wanted = pairs_at(*(f"unet.{path}" for path in names.values() if path))
    assert torch.equal(moved(tmp_path / "spatial.safetensors"), moved(wanted))
    convert(tmp_path / "spatial.safetensors", tmp_path / "kohya.safetensors", to="kohya")
    assert torch.equal(moved(tmp_path / "kohya.safetensors"), moved(wanted))


def test_old_diffusers_loras_go_to_kohya(tmp_path: Path) -> None:
    """LoRAs of the UNet in the format of 2023, of SDXL among them, whose text encoders have other names in kohya's."""
    stem = "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn2.processor.to_k_lora"
    state = {f"{stem}.down.weight": torch.ones(4, 2048), f"{stem}.up.weight": torch.ones(640, 4)}
    stem = "text_encoder.text_model.encoder.layers.0.self_attn.to_q_lora"
    state |= {f"{stem}.down.weight": torch.ones(4, 768), f"{stem}.up.weight": torch.ones(768, 4)}
    save_file(state, tmp_path / "pytorch_lora_weights.safetensors")
    convert(tmp_path, tmp_path / "kohya.safetensors", to="kohya")
    names = {key.split(".")[0] for key in read_header(tmp_path / "kohya.safetensors").tensors}
    assert names == {
        "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k",
        "lora_te1_text_model_encoder_layers_0_self_attn_q_proj",
    }


def test_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    """The check of a request asks for what the loader would refuse, by the same header."""
    saved(tmp_path / "adapter_model.safetensors", pairs_at(f"base_model.model.{UNET}"), {"init_lora_weights": "pissa"})
    with pytest.raises(UserError, match="init_lora_weights: pissa"):
        check_settings(lora_header(tmp_path))
    v3 = GOLDEN / "v3"
    request = ("a cat", "--model", str(v3 / "sd"), "--motion-module", str(v3 / "motion_module.ckpt"))
    assert "init_lora_weights: pissa" in is_one_message(tmp_path, *request, "--lora", str(tmp_path))
