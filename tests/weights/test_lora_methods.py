"""LoRAs beside low-rank pairs: each method against the same change added to the weights, and exact removal."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from support.close import relative
from support.lora_methods import METHODS, Method, State, loha, noise, pair
from support.paths import GOLDEN
from support.unets import run, tiny_unet
from torch import Tensor

from animatediff.errors import UserError
from animatediff.pipelines import AnimateDiffPipeline
from animatediff.render.prepare import complete
from animatediff.render.request import AnimateRequest
from animatediff.training.stages.lora_weights import check_kind
from animatediff.weights.lora.load import check_lora, check_lora_fits, load_lora, remove_lora, set_lora_scales
from animatediff.weights.lora.methods import is_lora, method_names, refusal
from animatediff.weights.lora.source import lora_header

BLOCK = "down_blocks.0.attentions.0.transformer_blocks.0"
LINEAR, CROSS, WIDE = f"{BLOCK}.attn1.to_q", f"{BLOCK}.attn2.to_k", f"{BLOCK}.ff.net.0.proj"
CONV, POINT = "down_blocks.0.resnets.0.conv1", "down_blocks.0.attentions.0.proj_in"
GROUP_NORM, LAYER_NORM = "down_blocks.0.resnets.0.norm1", f"{BLOCK}.norm2"
LAYERS = (LINEAR, CROSS, WIDE, CONV, POINT)


def made(method: Method, unet: torch.nn.Module, *, prefix: str = "lora_unet_") -> tuple[State, dict[str, Tensor]]:
    """A file in kohya's names with the method on all kinds of layers, and the changes of their weights."""
    torch.manual_seed(1)
    state: State = {}
    changes = {}
    for path in LAYERS:
        parts, changes[path] = method(unet.get_submodule(path).weight.detach())
        state |= {f"{prefix}{path.replace('.', '_')}.{name}": value for name, value in parts.items()}
    return state, changes


def merged(unet: torch.nn.Module, changes: dict[str, Tensor], scale: float = 1.0) -> torch.nn.Module:
    """The oracle: the same model with the changes added to its weights, `path` or `path.bias`."""
    other = copy.deepcopy(unet)
    for path, change in changes.items():
        name = path if path.endswith(".bias") else f"{path}.weight"
        parameter = other.get_parameter(name)
        parameter.data = (parameter.data.double() + scale * change.double()).float()
    return other


@torch.inference_mode()
def out(unet: torch.nn.Module) -> Tensor:
    return run(unet)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", METHODS)
def test_every_method_equals_the_merged_weights(name: str, caplog: pytest.LogCaptureFixture) -> None:
    unet = tiny_unet()
    keys, modules, before = list(unet.state_dict()), dict(unet.named_modules()), out(unet)
    state, changes = made(METHODS[name], unet)
    wanted = out(merged(unet, changes))
    assert relative(wanted, before) > 1e-2
    weights = {key: value.clone() for key, value in unet.state_dict().items()}

    assert load_lora(state, unet=unet, adapter_name="one").num_layers == len(LAYERS)
    assert relative(out(unet), wanted) <= 5e-6
    if not name.startswith("dora"):  # PEFT's DoRA is no multiple of its strength
        set_lora_scales([unet], {"one": 0.3})
        assert relative(out(unet), out(merged_of(weights, changes, 0.3))) <= 5e-6
    set_lora_scales([unet], {"one": 0.0})
    assert relative(out(unet), before) <= 5e-7
    remove_lora([unet], "one")
    assert torch.equal(out(unet), before)
    assert list(unet.state_dict()) == keys
    assert all(torch.equal(value, weights[key]) for key, value in unet.state_dict().items())
    assert all(dict(unet.named_modules())[path] is module for path, module in modules.items())
    assert not caplog.records


@pytest.mark.parametrize("name", METHODS)
def test_a_header_alone_tells_whether_a_lora_fits(name: str, tmp_path: Path) -> None:
    unet = tiny_unet()
    state, _ = made(METHODS[name], unet)
    path = tmp_path / "lora.safetensors"
    save_file({key: value.contiguous() for key, value in state.items()}, path)
    check_lora_fits(path, unet=unet.to("meta"))
    empty = torch.nn.Module()
    empty.linear = torch.nn.Linear(3, 3, device="meta")
    with pytest.raises(UserError, match="5 of 5 layers have no place in this model"):
        check_lora_fits(path, unet=empty)


def test_a_header_alone_tells_sizes_that_do_not_fit(tmp_path: Path) -> None:
    unet, path = tiny_unet(), tmp_path / "lora.safetensors"
    state, _ = made(pair, unet)
    save_file({key: value.contiguous() for key, value in state.items()}, path)
    unet.to("meta").get_submodule(CROSS).weight = torch.nn.Parameter(torch.empty(7, 5, device="meta"))
    with pytest.raises(UserError, match=r"the layer it is for has \(7, 5\)"):
        check_lora_fits(path, unet=unet)


def merged_of(weights: State, changes: dict[str, Tensor], scale: float) -> torch.nn.Module:
    unet = tiny_unet()
    unet.load_state_dict(weights)
    return merged(unet, changes, scale)


def test_several_methods_at_once_act_each_on_the_base_model() -> None:
    unet = tiny_unet()
    names = ("loha", "oft", "dora", "glora", "diff")
    total: dict[str, Tensor] = {}
    files = []
    for name in names:
        state, changes = made(METHODS[name], unet)
        files.append(state)
        for path, change in changes.items():
            total[path] = total.get(path, 0) + change
    wanted, before = out(merged(unet, total)), out(unet)
    for name, state in zip(names, files, strict=True):
        load_lora(state, unet=unet, adapter_name=name)
    assert relative(out(unet), wanted) <= 5e-6
    for name in names:
        remove_lora([unet], name)
    assert torch.equal(out(unet), before)


def test_dora_equals_pefts_at_any_strength() -> None:
    from peft import LoraConfig, inject_adapter_in_model

    unet, other = tiny_unet(), tiny_unet()
    state, _ = made(METHODS["dora"], unet)
    load_lora(state, unet=unet, adapter_name="dora")
    config = LoraConfig(r=4, lora_alpha=2, target_modules=list(LAYERS), use_dora=True)
    inject_adapter_in_model(config, other, adapter_name="dora")
    for path in LAYERS:
        layer, stem = other.get_submodule(path), f"lora_unet_{path.replace('.', '_')}"
        layer.lora_A["dora"].weight.data = state[f"{stem}.lora_down.weight"]
        layer.lora_B["dora"].weight.data = state[f"{stem}.lora_up.weight"]
        magnitude = layer.lora_magnitude_vector["dora"].weight
        magnitude.data = state[f"{stem}.dora_scale"].reshape(magnitude.shape)
    for strength in (1.0, 0.4):
        set_lora_scales([unet], {"dora": strength})
        for path in LAYERS:
            other.get_submodule(path).set_scale("dora", strength)
        assert relative(out(unet), out(other)) <= 5e-6


@pytest.mark.parametrize("suffix", ["", ".weight", ".default.weight"])
def test_magnitudes_in_pefts_names(suffix: str) -> None:
    unet = tiny_unet()
    state, changes = made(METHODS["dora"], unet)
    renamed = {}
    for path in LAYERS:
        stem, target = f"lora_unet_{path.replace('.', '_')}", f"base_model.model.{path}"
        renamed[f"{target}.lora_A.weight"] = state[f"{stem}.lora_down.weight"]
        renamed[f"{target}.lora_B.weight"] = state[f"{stem}.lora_up.weight"]
        renamed[f"{target}.alpha"] = torch.tensor(2.0)
        magnitude = state[f"{stem}.dora_scale"]
        renamed[f"{target}.lora_magnitude_vector{suffix}"] = (
            magnitude.flatten() if magnitude.ndim == 2 else magnitude.transpose(0, 1)
        )
    wanted = out(merged(unet, changes))
    load_lora(renamed, unet=unet, adapter_name="dora")
    assert relative(out(unet), wanted) <= 5e-6


def test_biases_of_up_as_in_peft() -> None:
    from peft import LoraConfig, inject_adapter_in_model

    unet, other = tiny_unet(), tiny_unet()
    paths = (f"{BLOCK}.attn1.to_out.0", CONV)
    config = LoraConfig(r=4, lora_alpha=8, target_modules=list(paths), lora_bias=True)
    inject_adapter_in_model(config, other, adapter_name="b")
    state = {}
    for path in paths:
        layer = other.get_submodule(path)
        for side in ("lora_A", "lora_B"):
            for name, parameter in getattr(layer, side)["b"].named_parameters():
                parameter.data = noise(*parameter.shape)
                state[f"unet.{path}.{side}.{name}"] = parameter.data
        state[f"unet.{path}.alpha"] = torch.tensor(8.0)
    load_lora(state, unet=unet, adapter_name="b")
    for strength in (1.0, 0.4):
        set_lora_scales([unet], {"b": strength})
        for path in paths:
            other.get_submodule(path).set_scale("b", strength)
        assert relative(out(unet), out(other)) <= 5e-6


@pytest.mark.parametrize("names", ["kohya", "comfyui"])
def test_differences_of_biases_and_normalisations(names: str) -> None:
    unet = tiny_unet()
    before, keys = out(unet), list(unet.state_dict())
    modules = {path: type(module) for path, module in unet.named_modules()}
    changes: dict[str, Tensor] = {}
    state: State = {}
    weight, bias = ("w_norm", "b_norm") if names == "kohya" else ("diff", "diff_b")
    for path in (GROUP_NORM, LAYER_NORM, "conv_norm_out"):
        size = unet.get_submodule(path).weight.numel()
        changes[path], changes[f"{path}.bias"] = noise(size), noise(size)
        stem = f"lora_unet_{path.replace('.', '_')}" if names == "kohya" else f"diffusion_model.{path}"
        state |= {f"{stem}.{weight}": changes[path], f"{stem}.{bias}": changes[f"{path}.bias"]}
    changes[f"{CONV}.bias"] = noise(32)
    pair_parts, changes[POINT] = pair(unet.get_submodule(POINT).weight)
    changes[f"{POINT}.bias"] = noise(32)  # not multiplied by alpha / rank
    state[f"lora_unet_{CONV.replace('.', '_')}.diff_b"] = changes[f"{CONV}.bias"]
    parts = pair_parts | {"diff_b": changes[f"{POINT}.bias"]}
    state |= {f"lora_unet_{POINT.replace('.', '_')}.{name}": value for name, value in parts.items()}
    assert load_lora(state, unet=unet, adapter_name="n").num_layers == 5
    for strength in (1.0, 0.4):
        set_lora_scales([unet], {"n": strength})
        assert relative(out(unet), out(merged(tiny_unet(), changes, strength))) <= 5e-6
    assert relative(out(copy.deepcopy(unet)), out(unet)) <= 1e-6
    remove_lora([unet], "n")
    assert torch.equal(out(unet), before)
    assert list(unet.state_dict()) == keys
    assert {path: type(module) for path, module in unet.named_modules()} == modules


def test_a_file_of_normalisations_alone_has_a_name_and_is_removed() -> None:
    unet = tiny_unet()
    state = {f"lora_unet_{GROUP_NORM.replace('.', '_')}.w_norm": noise(32)}
    before = out(unet)
    load_lora(state, unet=unet, adapter_name="a")
    load_lora(state, unet=unet, adapter_name="b", scale=2.0)
    wanted = out(merged(tiny_unet(), {GROUP_NORM: next(iter(state.values()))}, 3.0))
    assert relative(out(unet), wanted) <= 5e-6
    remove_lora([unet], "b")
    remove_lora([unet], "a")
    assert torch.equal(out(unet), before)
    assert not hasattr(unet, "peft_config")


def test_offloaded_and_copied_models_run_as_before() -> None:
    from accelerate import cpu_offload

    unet = tiny_unet()
    state, changes = made(METHODS["dora"], unet)
    other, more = made(METHODS["loha"], unet)
    norms = {f"lora_unet_{GROUP_NORM.replace('.', '_')}.w_norm": noise(32)}
    total = {path: changes[path] + more[path] for path in changes} | {GROUP_NORM: next(iter(norms.values()))}
    wanted = out(merged(unet, total))
    for name, file in (("loha", other), ("dora", state), ("norms", norms)):
        load_lora(file, unet=unet, adapter_name=name)
    copied = copy.deepcopy(unet)
    assert relative(out(copied), wanted) <= 5e-6
    cpu_offload(copied, torch.device("cpu"), offload_buffers=True)
    assert relative(out(copied), wanted) <= 5e-6


def test_names_of_sd_scripts_and_of_the_lycoris_wrapper() -> None:
    for method, prefix in (("oft", "oft_unet_"), ("lokr", "lycoris_")):
        unet = tiny_unet()
        state, changes = made(METHODS[method], unet, prefix=prefix)
        load_lora(state, unet=unet, adapter_name="x")
        assert relative(out(unet), out(merged(tiny_unet(), changes))) <= 5e-6


def test_half_precision_stays_what_it_is() -> None:
    unet = tiny_unet().to(torch.bfloat16)
    state, _ = made(METHODS["loha"], tiny_unet())
    load_lora(state, unet=unet, adapter_name="x")
    assert {parameter.dtype for parameter in unet.parameters()} == {torch.bfloat16}


STEM = f"lora_unet_{LINEAR.replace('.', '_')}"
WHOLE = {f"{STEM}.lora_down.weight": (4, 32), f"{STEM}.lora_up.weight": (32, 4)}


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({f"{STEM}.hada_w1_a": (32, 4), f"{STEM}.hada_w1_b": (4, 32), f"{STEM}.hada_w2_a": (32, 4)},
         "hada_w2_b.*incomplete"),
        ({f"{STEM}.lokr_w1": (4, 4), f"{STEM}.lokr_w2_a": (8, 2)}, "lokr_w2_b.*incomplete"),
        ({f"{STEM}.on_input": (1,)}, "IA3.*`weight`"),
        ({**WHOLE, "lora_unet_mid_block_attentions_0_proj_in.lora_up.weight": (64, 4)}, "no `down` beside it"),
        ({f"{STEM}.lora_mid.weight": (4, 4, 3, 3)}, "lora_mid.*incomplete"),
        ({f"{STEM}.hada_w1_a": (64, 4), f"{STEM}.hada_w1_b": (4, 16), f"{STEM}.hada_w2_a": (64, 4),
          f"{STEM}.hada_w2_b": (4, 16)}, "another base model"),
        ({f"{STEM}.diff": (32, 16)}, "another base model"),
        ({f"{STEM}.oft_blocks": (5, 8, 8)}, "another base model"),
        ({**WHOLE, f"{STEM}.dora_scale": (64, 1)}, "another base model"),
        ({**WHOLE, f"{STEM}.diff_b": (64,)}, "another base model"),
        ({f"{STEM}.oft_diag": (4, 8, 8)}, "OFT in the early form"),
        ({f"base_model.model.{LINEAR}.oft_R.weight": (4, 28)}, "OFT in PEFT's form"),
        ({f"base_model.model.{LINEAR}.ia3_l": (32, 1)}, "IA3 in PEFT's form"),
        ({f"base_model.model.{LINEAR}.vera_lambda_b": (32,)}, "VeRA"),
        ({**WHOLE, f"{STEM}.reshape_weight": (2,)}, "sizes of layers"),
        ({f"{STEM}.lambda_layer": (1, 4), f"{STEM}.q_layer.weight": (4, 32)}, "T-LoRA"),
        ({f"{STEM}.scalar": ()}, "no LoRA layers"),
        ({f"{STEM}.lora_down.weight": (0, 32), f"{STEM}.lora_up.weight": (32, 0)}, "no LoRA layers"),
    ],
)  # fmt: skip
def test_refused_by_name_and_nothing_changes(shapes: dict[str, tuple[int, ...]], message: str, tmp_path: Path) -> None:
    unet = tiny_unet()
    file = tmp_path / "some.safetensors"
    save_file({key: torch.ones(shape) for key, shape in shapes.items()}, file)
    keys = list(unet.state_dict())
    with pytest.raises(UserError, match=message) as caught:
        load_lora(file, unet=unet)
    assert str(file) in str(caught.value)
    assert list(unet.state_dict()) == keys
    if refusal(list(shapes)) is not None:  # whatever the model: said before one is loaded
        with pytest.raises(UserError, match=message):
            check_lora(lora_header(file))


def test_keys_of_no_layer_are_left_out_and_said(caplog: pytest.LogCaptureFixture) -> None:
    unet = tiny_unet()
    parts, change = pair(unet.get_submodule(LINEAR).weight)
    odd = {"step": torch.tensor(5), f"{STEM}.lora_down.bias": torch.ones(4), "lora_te_position_ids": torch.arange(3),
           f"{STEM}_other.scalar": torch.tensor(1.0)}  # fmt: skip
    load_lora({f"{STEM}.{name}": value for name, value in parts.items()} | odd, unet=unet, adapter_name="x")
    assert relative(out(unet), out(merged(tiny_unet(), {LINEAR: change}))) <= 5e-6
    (said,) = caplog.messages
    assert "4 tensors that no LoRA has are left out" in said


def test_few_layers_of_another_model_are_left_out_most_refuse(caplog: pytest.LogCaptureFixture) -> None:
    unet = tiny_unet()
    state, changes = made(pair, unet)
    wanted = out(merged(unet, changes))
    strange = {f"lora_unet_mid_block_attentions_7_{side}": value for side, value in pair(torch.zeros(8, 8))[0].items()}
    extra = {key.replace("_7_", "_7_proj_in."): value for key, value in strange.items()}
    load_lora(state | extra, unet=unet, adapter_name="x")
    assert relative(out(unet), wanted) <= 5e-6
    assert "1 of 6 layers are not in this model and are left out: lora_unet_mid_block_attentions_7" in caplog.text
    one = {key: value for key, value in state.items() if key.startswith(STEM + ".")}
    two = extra | {key.replace("_7_", "_8_"): value for key, value in extra.items()}
    with pytest.raises(UserError, match="2 of 3 layers have no place"):
        load_lora(one | two, unet=unet, adapter_name="y")


def test_what_changes_nothing_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    unet = tiny_unet()
    state, _ = made(pair, unet)
    save_file(state, tmp_path / "b.safetensors")
    untrained = {key: torch.zeros_like(value) if "lora_up" in key else value for key, value in state.items()}
    save_file(untrained, tmp_path / "a.safetensors")
    load_lora(tmp_path / "a.safetensors", unet=unet)
    assert "a.safetensors: changes nothing: all its changes are zero" in caplog.text
    caplog.clear()
    load_lora(tmp_path / "b.safetensors", unet=unet, scale=0)
    assert "b.safetensors: has strength 0" in caplog.text
    caplog.clear()
    load_lora(tmp_path / "b.safetensors", unet=unet, adapter_name="c")
    assert not caplog.records


def test_training_goes_on_from_low_rank_pairs_alone(tmp_path: Path) -> None:
    state, _ = made(loha, tiny_unet())
    save_file(state, tmp_path / "loha.safetensors")
    with pytest.raises(UserError, match="LoHa"):
        check_kind(tmp_path / "loha.safetensors", ("lora",))


def test_methods_are_named_for_inspect() -> None:
    state, _ = made(METHODS["dora_of_loha"], tiny_unet())
    assert method_names(state) == ("LoHa (LyCORIS)", "DoRA")
    assert is_lora([f"diffusion_model.{LINEAR}.diff"])
    assert not is_lora(["model.diffusion_model.out.2.bias", "down_blocks.0.resnets.0.norm1.weight"])


def test_embeddings_that_come_with_a_lora_become_words(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pipe = AnimateDiffPipeline.from_pretrained(GOLDEN / "v3" / "sd", torch_dtype=torch.float32)
    parts, _ = pair(pipe.unet.get_submodule(LINEAR).weight)
    vectors = noise(2, 32)
    state = {f"{STEM}.{name}": value for name, value in parts.items()} | {
        "bundle_emb.my_face.string_to_param.*": vectors,
        "bundle_emb.my_face.clip_l": vectors + 1,
        "bundle_emb.sdxl.clip_g": vectors + 2,
    }
    save_file(state, tmp_path / "face.safetensors")
    with caplog.at_level("INFO"):
        pipe.load_lora_weights(tmp_path / "face.safetensors")
    assert "brings the word 'my_face'" in caplog.text
    assert "'sdxl', which is left out: is for other text encoders" in caplog.text
    ids = pipe.base.tokenizer.convert_tokens_to_ids(["my_face", "my_face_1"])
    assert torch.equal(pipe.base.text_encoder.get_input_embeddings().weight[ids], vectors)
    assert pipe.base.maybe_convert_prompt("a my_face", pipe.base.tokenizer) == "a my_face my_face_1"


def test_refused_before_the_base_model_is_loaded(tmp_path: Path) -> None:
    file = tmp_path / "old.safetensors"
    save_file({f"{STEM}.oft_diag": torch.ones(4, 8, 8)}, file)
    request = AnimateRequest(prompt="a cat", loras=[str(file)])
    with pytest.raises(UserError, match="OFT in the early form"):
        complete(request)
