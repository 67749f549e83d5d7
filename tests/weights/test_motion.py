"""Motion modules from files: the published layouts exactly, and one sentence for every file that is something else."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from support.golden import motion_file
from support.paths import GOLDEN
from support.unets import SD15, SDXL
from support.weight_files import published, write_hollow

from animatediff.errors import UserError
from animatediff.motion import MotionAdapter, MotionLayout
from animatediff.weights.convert import convert
from animatediff.weights.families import FAMILIES
from animatediff.weights.keys import to_internal, to_original
from animatediff.weights.lora.key_formats import lora_to_diffusers, lora_to_internal, lora_to_original
from animatediff.weights.motion import load_motion_module, original_tensors, save_motion_module
from animatediff.weights.storage.files import load_tensors, save_tensors

PUBLISHED = [
    ("mm_sd_v15", SD15, "v1", 417_137_600),
    ("mm_sd_v15_v2", SD15, "v2", 453_209_280),
    ("v3_sd15_mm", SD15, "v3", 417_137_600),
    ("mm_sdxl_v10_beta", SDXL, "sdxl", 236_779_200),
]


def golden_unet(family: str) -> UNet2DConditionModel:
    folder = GOLDEN / family / ("unet" if family in ("sdxl", "hotshot") else "sd/unet")
    with torch.device("meta"):
        return UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(folder))


@pytest.mark.parametrize(("name", "config", "family", "count"), PUBLISHED)
def test_published_keys_and_shapes_at_full_size(name: str, config: dict, family: str, count: int) -> None:
    with torch.device("meta"):
        unet = UNet2DConditionModel(**config)
        adapter = MotionAdapter.from_unet(unet, mid_block=family == "v2", numerics=FAMILIES[family].numerics)
    state = adapter.state_dict()
    tensors = original_tensors(state, FAMILIES[family].numerics.max_positions)
    assert {key: tuple(value.shape) for key, value in tensors.items()} == published(name)
    assert sum(value.numel() for value in state.values()) == count
    assert to_internal(published(name)).keys() == state.keys()
    assert to_original(to_internal(published(name))) == published(name, positions=False)


@pytest.mark.parametrize(("name", "count"), [("v2_lora", 21), ("v3_sd15_adapter", 16)])
def test_published_lora_keys_there_and_back(name: str, count: int) -> None:
    keys = list(published(name))
    internal = [lora_to_internal(key) for key in keys]
    assert None not in internal
    assert len(set(internal)) == len(keys)
    assert [lora_to_original(key) for key in internal if key] == keys
    hub = [lora_to_diffusers(key) for key in internal if key]
    assert all(key.startswith("unet.") and "temporal_transformer" not in key for key in hub)
    assert [lora_to_internal(key) for key in hub] == internal
    assert len({key.split(".transformer_blocks")[0] for key in internal if key}) == count


@pytest.mark.parametrize(
    "key",
    [
        "down_blocks.0.motion_modules.1.temporal_transformer.transformer_blocks.0.attention_blocks.1.processor."
        "to_out_lora.up.weight",
        "down_blocks.0.motion_modules.1.temporal_transformer.transformer_blocks.0.attention_blocks.1.processor."
        "to_out.0_lora.up.weight",
        "unet.down_blocks.0.motion_modules.1.transformer_blocks.0.attn2.to_out.0.lora_B.default.weight",
        "unet.down_blocks.0.motion_modules.1.transformer_blocks.0.attn2.to_out.0.lora.up.weight",
        "unet.down_blocks.0.motion_modules.1.transformer_blocks.0.attn2.to_out_lora.up.weight",
        "lora_unet_down_blocks_0_motion_modules_1_temporal_transformer_transformer_blocks_0_attention_blocks_1_"
        "processor_to_out_lora.up.weight",
        "down_blocks_0_motion_modules_1_transformer_blocks_0_attn2_to_out_0.lora_up.weight",
    ],
)
def test_every_grammar_of_motion_loras_has_one_internal_name(key: str) -> None:
    assert lora_to_internal(key) == "down_blocks.0.motion_modules.1.transformer_blocks.0.attn2.to_out.0.lora_B.weight"


@pytest.mark.parametrize("family", ["v1", "v2", "v3", "sdxl", "hotshot"])
def test_saving_and_loading_returns_every_bit(tmp_path: Path, family: str) -> None:
    adapter, facts = load_motion_module(motion_file(family))
    for name in ("a.safetensors", "a.ckpt"):
        save_motion_module(adapter, tmp_path / name, family=facts)
        again, found = load_motion_module(tmp_path / name, unet=golden_unet(family))
        assert found == facts
        state = adapter.state_dict()
        assert all(torch.equal(value, state[key]) for key, value in again.state_dict().items())


def test_half_of_a_file_is_never_loaded(tmp_path: Path) -> None:
    tensors = load_tensors(motion_file("v1"))
    norm = next(key for key in tensors if key.endswith("ff_norm.bias"))
    changes = {
        "missing": {key: value for key, value in tensors.items() if key != norm},
        "has shape": tensors | {norm: torch.ones(3)},
        "unknown kind|numbered": {key: value for key, value in tensors.items() if not key.startswith("down_blocks.1")},
    }
    for message, state in changes.items():
        save_tensors(tmp_path / "a.safetensors", state)
        with pytest.raises(UserError, match=message):
            load_motion_module(tmp_path / "a.safetensors")


def test_surplus_tensors_are_left_out_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tensors = load_tensors(motion_file("v1"))
    norm = next(key for key in tensors if key.endswith("ff_norm.bias"))
    save_tensors(tmp_path / "a.safetensors", tensors | {norm.replace("ff_norm", "fg_norm"): tensors[norm]})
    adapter, _ = load_motion_module(tmp_path / "a.safetensors")
    expected = load_motion_module(motion_file("v1"))[0].state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in adapter.state_dict().items())
    assert "1 tensors that no motion module has are left out: " in caplog.text
    assert "fg_norm.bias" in caplog.text


def test_wrong_base_model_is_one_sentence() -> None:
    with pytest.raises(UserError, match=r"a motion module for SDXL base models, but the base model is SD 1\.x"):
        load_motion_module(motion_file("sdxl"), unet=golden_unet("v1"))
    with pytest.raises(UserError, match=r"a motion module for SD 1\.x base models, but the base model is SDXL"):
        load_motion_module(motion_file("v3"), unet=golden_unet("hotshot"))


def test_module_of_other_widths_is_refused() -> None:
    with torch.device("meta"):
        unet = UNet2DConditionModel(**SD15)
    with pytest.raises(UserError, match="does not fit the base model"):
        load_motion_module(motion_file("v1"), unet=unet)


@pytest.mark.parametrize(
    ("file", "what", "option"),
    [
        ("v2/motion_lora.ckpt", "MotionLoRA, not a motion module", "`motion_loras`"),
        ("v3/domain_adapter.ckpt", "domain adapter", "`domain_adapter`"),
        ("v1/style_lora_kohya.safetensors", "LoRA of an image model", "`loras`"),
        ("v1/sd/vae/diffusion_pytorch_model.safetensors", "VAE, not a motion module", "`vae`"),
    ],
)
def test_other_files_are_named_with_their_option(file: str, what: str, option: str) -> None:
    with pytest.raises(UserError) as raised:
        load_motion_module(GOLDEN / file)
    assert what in str(raised.value)
    assert option in str(raised.value)


def test_relatives_of_motion_modules_are_refused(tmp_path: Path) -> None:
    path = write_hollow(tmp_path / "rgb.safetensors", published("v3_sd15_sparsectrl_rgb"))
    with pytest.raises(UserError, match="SparseCtrl encoder, not a motion module"):
        load_motion_module(path)


def test_family_overrides_what_was_recognised() -> None:
    adapter, facts = load_motion_module(motion_file("v2"), family="lightning")
    assert (facts.name, facts.recommended.scheduler) == ("lightning", "euler_trailing")
    assert adapter.numerics.max_positions == 32
    with pytest.raises(UserError, match="did you mean 'hotshot'"):
        load_motion_module(motion_file("v2"), family="hotshit")


def test_hotshot_repository_with_a_whole_unet(tmp_path: Path) -> None:
    """Published as `unet/` of a whole model: image layers and temporal attentions in one file."""
    tensors = load_tensors(motion_file("hotshot"))
    image = load_tensors(GOLDEN / "hotshot" / "unet" / "diffusion_pytorch_model.safetensors")
    (tmp_path / "unet").mkdir()
    save_tensors(tmp_path / "unet" / "diffusion_pytorch_model.safetensors", {**image, **tensors})
    (tmp_path / "unet" / "config.json").write_text(json.dumps({"_class_name": "UNet3DConditionModel"}))
    adapter, facts = load_motion_module(tmp_path)
    assert facts.name == "hotshot"
    alone = load_motion_module(motion_file("hotshot"))[0].state_dict()
    assert all(torch.equal(value, alone[key]) for key, value in adapter.state_dict().items())


def test_position_length_of_a_diffusers_folder_is_in_its_configuration(tmp_path: Path) -> None:
    """v1 and v3 have the same shapes there; older folders have no tables, only `motion_max_seq_length`."""
    convert(motion_file("v1"), tmp_path / "adapter", to="diffusers")
    file = tmp_path / "adapter" / "diffusion_pytorch_model.safetensors"
    save_tensors(file, {key: value for key, value in load_tensors(file).items() if "pos_embed" not in key})
    _, facts = load_motion_module(tmp_path / "adapter")
    assert (facts.name, facts.numerics.max_positions) == ("v1", 24)


def test_modules_are_built_without_memory_and_keep_the_files_precision(tmp_path: Path) -> None:
    layout = MotionLayout(down=((320, 320),), up=((320, 320, 320),))
    with torch.device("meta"):
        adapter = MotionAdapter(layout)
    shapes = {key: tuple(value.shape) for key, value in adapter.state_dict().items()}
    loaded, facts = load_motion_module(write_hollow(tmp_path / "a.safetensors", shapes, FAMILIES["custom"].metadata()))
    assert facts.name == "custom"
    parameters = list(loaded.parameters())
    assert all(not parameter.is_meta and not parameter.requires_grad for parameter in parameters)
    assert {parameter.dtype for parameter in parameters} == {torch.float16}


PEAK = """
import resource, sys
import torch
from animatediff.weights.motion import load_motion_module
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
adapter, _ = load_motion_module(sys.argv[1], dtype=getattr(torch, sys.argv[2]))
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss counts in other units elsewhere")
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_loading_at_full_size_holds_one_copy(tmp_path: Path, dtype: str) -> None:
    path = write_hollow(tmp_path / "mm.safetensors", published("mm_sdxl_v10_beta"))
    command = [sys.executable, "-c", PEAK, str(path), dtype]
    peak = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert peak < 1.15 * path.stat().st_size, "the second copy, or the one before conversion, is held as well"
