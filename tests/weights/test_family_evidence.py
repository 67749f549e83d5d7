"""The family of motion modules that files leave open: every piece of evidence, and the question where none decides."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Literal

import diffusers
import pytest
import torch
from support.close import relative
from support.golden import motion_file
from support.paths import GOLDEN
from support.weight_files import published, write_hollow
from torch import Tensor
from typer.testing import CliRunner

from animatediff.cli.main import app
from animatediff.errors import UserError
from animatediff.motion import frame_positions
from animatediff.pipelines import AnimateDiffPipeline
from animatediff.render.prepare import check_files
from animatediff.render.request import AnimateRequest
from animatediff.weights.convert import convert
from animatediff.weights.families import FAMILIES, FAMILY_KEY
from animatediff.weights.inspect import describe
from animatediff.weights.keys import POSITIONS, to_internal
from animatediff.weights.motion import load_motion_module, save_motion_module
from animatediff.weights.position_tables import tables_of
from animatediff.weights.recognise import Recognised, recognise
from animatediff.weights.storage.files import load_tensors, read_header, save_tensors

Shapes = dict[str, tuple[int, ...]]
V1, V2, V3, SDXL = "mm_sd_v15", "mm_sd_v15_v2", "v3_sd15_mm", "mm_sdxl_v10_beta"


def golden(family: str, *, positions: bool = True) -> dict[str, Tensor]:
    tensors = load_tensors(motion_file(family))
    return {key: value for key, value in tensors.items() if positions or not POSITIONS.search(key)}


def of_length(shapes: Shapes, length: int | None) -> Shapes:
    """The shapes with position tables of another length, or none."""
    return {
        key: (1, length or 0, shape[2]) if POSITIONS.search(key) else shape
        for key, shape in shapes.items()
        if length is not None or not POSITIONS.search(key)
    }


def family_of(found: Recognised) -> tuple[str | None, str]:
    """(family, or None where it is open, confidence)."""
    assert found.kind == "motion_module" and found.judgement is not None
    assert (found.family is None) == (found.judgement.confidence == "ambiguous")
    return found.family and found.family.name, found.judgement.confidence


def adapter_folder(folder: Path, shapes: Shapes, **config: object) -> Path:
    """A folder in diffusers' layout, without tables."""
    folder.mkdir(parents=True)
    internal = to_internal(of_length(shapes, None))
    write_hollow(folder / "diffusion_pytorch_model.safetensors", internal)
    (folder / "config.json").write_text(json.dumps({"_class_name": "MotionAdapter", **config}))
    return folder / "diffusion_pytorch_model.safetensors"


@pytest.mark.parametrize(
    ("name", "length", "expected"),
    [
        (V1, 24, ("v1", "certain")),
        (V3, 32, ("v3", "certain")),
        (V1, None, (None, "ambiguous")),
        (V1, 16, (None, "ambiguous")),
        (V3, 48, (None, "ambiguous")),
        (V3, 64, (None, "ambiguous")),
        # v2, Lightning, LongAnimateDiff and AnimateLCM have the same numerics: never asked.
        (V2, 32, ("v2", "likely")),
        (V2, 16, ("v2", "likely")),
        (V2, 48, ("v2", "likely")),
        (V2, 64, ("long", "likely")),
        (V2, None, ("animatelcm", "likely")),
        (SDXL, 32, ("sdxl", "certain")),
        (SDXL, None, (None, "ambiguous")),
        (SDXL, 16, (None, "ambiguous")),
        (SDXL, 24, (None, "ambiguous")),
    ],
)
def test_blocks_and_length_of_tables(
    tmp_path: Path, name: str, length: int | None, expected: tuple[str | None, str]
) -> None:
    found = recognise(write_hollow(tmp_path / "a.safetensors", of_length(published(name), length)))
    assert family_of(found) == expected
    assert found.base == ("sdxl" if name == SDXL else "sd1")
    if found.family is not None:
        assert found.family.numerics.max_positions == (length or 64)


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        ("mm_sd_v14_fp16.safetensors", V1, "v1"),
        ("mm_sd15_v1.safetensors", V1, "v1"),
        ("temporaldiff-v1-animatediff.safetensors", V1, "v1"),
        ("mm-Stabilized_mid.pth", V1, "v1"),
        ("mm_sd15_v3.safetensors", V1, "v3"),
        ("v3_sd15_mm_bf16.safetensors", V1, "v3"),
        ("mm_sd_v15_v2_fp16.safetensors", V2, "v2"),
        ("mm-p_0.75.pth", V2, "v2"),
        ("animatediff_lightning_4step_diffusers.safetensors", V2, "lightning"),
        ("lt_long_mm_16_64_frames.safetensors", V2, "long"),
        ("mm_sdxl_v10_beta_fp16.safetensors", SDXL, "sdxl"),
        ("mm_sdxl_hs.safetensors", SDXL, "hotshot"),
        ("hsxl_temporal_layers.f16.safetensors", SDXL, "hotshot"),
    ],
)
def test_published_names_break_a_tie(tmp_path: Path, name: str, shape: str, expected: str) -> None:
    path = write_hollow(tmp_path / name, published(shape, positions=False))
    found = recognise(path)
    assert family_of(found) == (expected, "likely")
    assert found.family is not None
    assert found.family.numerics == FAMILIES[expected].numerics
    assert any("its name says" in line and "overrides" in line for line in found.evidence)
    assert describe(path)["family"].startswith(f"{expected}: ")


@pytest.mark.parametrize("name", ["v1_without_tables", "my_v3", "improvement_v1", "animatediff_motion", "mm_sd_v15_v2"])
def test_other_names_decide_nothing(tmp_path: Path, name: str) -> None:
    """A bare version may number anything; a name of another shape is no evidence for this one."""
    found = recognise(write_hollow(tmp_path / f"{name}.safetensors", published(V1, positions=False)))
    assert family_of(found) == (None, "ambiguous")


def test_a_name_against_the_tables_is_not_believed_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save_tensors(tmp_path / "mm_sd_v14.ckpt", golden("v3"))
    assert load_motion_module(tmp_path / "mm_sd_v14.ckpt")[1].name == "v3"
    assert "its name says v1, but it has tables of 32 frames" in caplog.text


def test_where_the_family_is_open_it_is_asked_for(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The same in Python, before a base model is loaded, on the command line, for inspect and convert."""
    path, sd = tmp_path / "a.safetensors", str(GOLDEN / "v1" / "sd")
    save_tensors(path, golden("v1", positions=False))
    message = r"a\.safetensors: a motion module of family v1 or v3.*no position tables.*give `family` v1 or v3"
    with pytest.raises(UserError, match=message):
        load_motion_module(path)
    with pytest.raises(UserError, match=message):
        convert(path, tmp_path / "b.safetensors")
    request = AnimateRequest(prompt="a", model=sd, motion_module=str(path))
    with pytest.raises(UserError, match=message):
        check_files(request)
    check_files(request.model_copy(update={"family": "v1"}))
    with pytest.raises(UserError, match="did you mean 'v1'"):
        check_files(request.model_copy(update={"family": "v11"}))
    run = CliRunner()
    asked = run.invoke(app, ["animate", "a", "--model", sd, "--motion-module", str(path), "--out", "a.apng"])
    assert asked.exit_code == 2 and "give --family v1 or v3" in asked.stderr
    asked = run.invoke(app, ["convert", str(path), str(tmp_path / "b.ckpt")])
    assert asked.exit_code == 2 and "give --family v1 or v3" in asked.stderr
    shown = run.invoke(app, ["inspect", str(path)])
    assert shown.exit_code == 0
    assert "v1 or v3 (ambiguous: no position tables" in shown.stdout and "give --family v1 or v3" in shown.stdout
    # Given, it runs as the file with its tables does, and a copy that says so needs no more.
    adapter, facts = load_motion_module(path, family="v1")
    assert facts == load_motion_module(motion_file("v1"))[1] == FAMILIES["v1"]
    convert(path, tmp_path / "said.safetensors", family="v1")
    assert load_motion_module(tmp_path / "said.safetensors")[1] == facts
    assert adapter.numerics.image_norm_over_frames
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("name", "path", "config", "expected"),
    [
        (V2, "AnimateLCM", {"motion_max_seq_length": 32}, ("animatelcm", "likely", 32)),
        (V2, "models--wangfuyun--AnimateLCM/snapshots/0123", {}, ("animatelcm", "likely", 64)),
        (V2, "x", {"motion_max_seq_length": 32, "_name_or_path": "wangfuyun/AnimateLCM"}, ("animatelcm", "likely", 32)),
        (V2, "x", {"motion_max_seq_length": 32}, ("v2", "likely", 32)),
        (V2, "animatediff-motion-adapter-v1-5-2", {"motion_max_seq_length": 32}, ("v2", "certain", 32)),
        (V2, "animatediff_lightning_8step_diffusers", {"motion_max_seq_length": 32}, ("lightning", "likely", 32)),
        (V1, "x", {"motion_max_seq_length": 24}, ("v1", "certain", 24)),
        (V1, "x", {"motion_max_seq_length": 16}, (None, "ambiguous", None)),
        (V1, "x", {}, (None, "ambiguous", None)),
        # 32 is the length that diffusers' converter gives unless told otherwise: a hint, no more.
        (V1, "x", {"motion_max_seq_length": 32}, ("v3", "likely", 32)),
        (V1, "animatediff-motion-adapter-v1-5-3", {"motion_max_seq_length": 32}, ("v3", "certain", 32)),
        (V1, "animatediff-motion-adapter-v1-5", {"motion_max_seq_length": 32}, ("v1", "likely", 32)),
        (V1, "TemporalDiff/motion_adapter", {}, ("v1", "likely", 24)),
        (SDXL, "x", {"motion_max_seq_length": 32}, ("sdxl", "likely", 32)),
        (SDXL, "animatediff-motion-adapter-sdxl-beta", {"motion_max_seq_length": 32}, ("sdxl", "certain", 32)),
        (SDXL, "Hotshot-XL", {"motion_max_seq_length": 32}, ("hotshot", "likely", 32)),
    ],
)
def test_folders_in_diffusers_layout(
    tmp_path: Path, name: str, path: str, config: dict, expected: tuple[str | None, str, int | None]
) -> None:
    file = adapter_folder(tmp_path / path, published(name), **config)
    found = recognise(file)
    assert (*family_of(found), found.family and found.family.numerics.max_positions) == expected
    if expected[0] == "lightning":
        assert found.family is not None and found.family.recommended.num_inference_steps == 8
    assert describe(tmp_path / path)["confidence"] == expected[1]


def test_a_configuration_is_not_that_of_a_file_beside_the_folders_own(tmp_path: Path) -> None:
    """As in AnimateLCM's repository."""
    adapter_folder(tmp_path / "x", published(V2), motion_max_seq_length=32)
    found = recognise(write_hollow(tmp_path / "x" / "AnimateLCM_sd15_t2v.ckpt", published(V2, positions=False)))
    assert family_of(found) == ("animatelcm", "certain")
    assert found.family is not None and found.family.numerics.max_positions == 64


@pytest.mark.parametrize("value", ["32", 0, -1, 3.5, True, {}, [], [8, 4, 8, 8]])
def test_a_configuration_that_cannot_be_read(tmp_path: Path, value: object) -> None:
    for key in ("motion_max_seq_length", "motion_num_attention_heads", "motion_norm_num_groups"):
        file = adapter_folder(tmp_path / key, published(V2), **{key: value})
        with pytest.raises(UserError, match=rf"config\.json: {key} (is|differs)"):
            recognise(file)


def test_heads_and_norm_groups_of_a_configuration(tmp_path: Path) -> None:
    """Against diffusers' own modules, and there and back through the original's layout."""
    torch.manual_seed(0)
    theirs = diffusers.MotionAdapter(
        block_out_channels=(32, 64, 32, 32), motion_layers_per_block=1, motion_num_attention_heads=4,
        motion_norm_num_groups=16, motion_max_seq_length=24, use_motion_mid_block=False,
    ).eval()  # fmt: skip
    theirs.save_pretrained(tmp_path / "adapter")
    adapter, facts = load_motion_module(tmp_path / "adapter")
    assert (facts.name, facts.num_heads, facts.norm_groups) == ("v1", 4, 16)
    x, image = torch.randn(6, 5, 64), torch.randn(2, 64, 3, 3)
    ours = adapter.down_blocks[1].motion_modules[0]
    other = theirs.down_blocks[1].motion_modules[0]
    with torch.inference_mode():
        expected = other.transformer_blocks[0](x)
        found = ours.transformer_blocks[0](x[:, :, None], frame_positions(5, 64))[:, :, 0]
        assert relative(found, expected) < 1e-5
        assert relative(ours.norm(image), other.norm(image)) < 1e-6
    convert(tmp_path / "adapter", tmp_path / "a.safetensors")
    assert load_motion_module(tmp_path / "a.safetensors")[1] == facts
    convert(tmp_path / "a.safetensors", tmp_path / "back", to="diffusers", family="v3")
    again = json.loads((tmp_path / "back" / "config.json").read_text())
    assert (again["motion_num_attention_heads"], again["motion_norm_num_groups"]) == (4, 16)
    config = json.loads((tmp_path / "adapter" / "config.json").read_text())
    (tmp_path / "adapter" / "config.json").write_text(json.dumps({**config, "motion_num_attention_heads": 7}))
    with pytest.raises(UserError, match="do not divide into 7 attention heads"):
        load_motion_module(tmp_path / "adapter")


def test_metadata_written_before_heads_were_still_counts() -> None:
    said = FAMILIES["long"].metadata()
    facts = json.loads(said["animatediff.numerics"])
    del facts["num_heads"]
    from animatediff.weights.families import family_of_metadata

    assert family_of_metadata({**said, "animatediff.numerics": json.dumps(facts)}, "a") == FAMILIES["long"]


def test_a_stated_family_that_is_not_known_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save_tensors(tmp_path / "a.safetensors", golden("v1"), {FAMILY_KEY: "v9"})
    assert load_motion_module(tmp_path / "a.safetensors")[1].name == "v1"
    assert "its metadata says family v9, which is not known here" in caplog.text


@pytest.mark.parametrize(
    ("family", "given", "reason"),
    [
        ("v1", "v2", "v2 has a module in the mid block, this one has none"),
        ("v2", "v3", "v3 has no module in the mid block, this one has one"),
        ("sdxl", "v3", "v3 has 4 levels, this module has 3"),
        ("hotshot", "sdxl", "its names are those of HotshotXL"),
        ("v1", "v3", "tables of 24 frames, as v1 has, which points to v1"),
        ("v2", "lightning", None),
        ("v2", "custom", None),
    ],
)
def test_a_given_family_wins_and_contradictions_are_said(
    family: str, given: str, reason: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    adapter, facts = load_motion_module(motion_file(family), family=given)
    assert facts.name == given
    assert adapter.numerics.image_norm_over_frames == FAMILIES[given].numerics.image_norm_over_frames
    assert (reason in caplog.text) if reason else caplog.text == ""


def test_layouts_of_no_published_family_run_with_a_word(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tensors = {**golden("sdxl"), **{key: x for key, x in golden("v2").items() if key.startswith("mid_block")}}
    save_tensors(tmp_path / "a.safetensors", tensors)
    assert load_motion_module(tmp_path / "a.safetensors")[1].name == "custom"
    assert "no published family has these blocks" in caplog.text
    caplog.clear()
    load_motion_module(tmp_path / "a.safetensors", family="custom")
    assert caplog.text == ""


def test_a_table_repeated_to_a_longer_clip_tells_the_family_and_is_used(tmp_path: Path) -> None:
    """A fine-tune to 48 frames began with v1's table twice: the module must be run with that table."""
    tensors = {key: torch.cat([x, x], 1) if POSITIONS.search(key) else x for key, x in golden("v1").items()}
    save_tensors(tmp_path / "long.safetensors", tensors)
    found = recognise(tmp_path / "long.safetensors")
    assert family_of(found) == ("v1", "likely")
    assert found.family is not None and found.family.numerics.max_positions == 48
    adapter, facts = load_motion_module(tmp_path / "long.safetensors", dtype=torch.float32)
    module = adapter.down_blocks[0].motion_modules[0]
    torch.manual_seed(0)
    first, clip = torch.randn(48, 32, 2, 2), torch.randn(24, 32, 2, 2)
    with torch.inference_mode():
        # Frames 24 to 47 have the codes of frames 0 to 23: a clip of twice the same frames moves twice the same.
        moved = module(torch.cat([clip, clip]), 48)
        assert relative(moved[:24], moved[24:]) < 1e-5
        plain = load_motion_module(motion_file("v1"), dtype=torch.float32)[0].down_blocks[0].motion_modules[0]
        assert relative(module(clip, 24), plain(clip, 24)) < 1e-3  # a table of float16
        assert relative(module(first, 48), plain(first, 48)) > 1e-4
    save_motion_module(adapter, tmp_path / "saved.safetensors", family=facts, dtype=torch.float16)
    again = load_tensors(tmp_path / "saved.safetensors")
    assert all(torch.equal(x, again[key]) for key, x in tensors.items())


def test_trained_tables_are_used_by_their_own_attention(tmp_path: Path) -> None:
    torch.manual_seed(0)
    tensors = {key: torch.randn_like(x) if POSITIONS.search(key) else x for key, x in golden("v2").items()}
    save_tensors(tmp_path / "trained.ckpt", tensors)
    kind = tables_of(read_header(tmp_path / "trained.ckpt"))
    assert kind is not None and kind.kind == "other"
    adapter, _ = load_motion_module(tmp_path / "trained.ckpt", dtype=torch.float32)
    block = adapter.mid_block.motion_modules[0].transformer_blocks[0]
    stem = "mid_block.motion_modules.0.temporal_transformer.transformer_blocks.0.attention_blocks"
    one, two = (tensors[f"{stem}.{index}.pos_encoder.pe"][0].float() for index in (0, 1))
    x = torch.randn(3, 7, 2, 32)
    with torch.inference_mode():
        y = x + block.attn1(block.norm1(x) + one[:7, None])
        y = y + block.attn2(block.norm2(y) + two[:7, None])
        y = y + block.ff(block.norm3(y))
        assert relative(block(x, frame_positions(7, 32)), y) < 1e-6
    assert not any("table" in key for key in adapter.state_dict())
    with pytest.raises(UserError, match="one position table for two attentions"):
        convert(tmp_path / "trained.ckpt", tmp_path / "adapter", to="diffusers")
    layouts: tuple[Literal["internal", "original"], ...] = ("internal", "original")
    for layout in layouts:
        convert(tmp_path / "trained.ckpt", tmp_path / f"{layout}.safetensors", to=layout)
        again = load_motion_module(tmp_path / f"{layout}.safetensors", dtype=torch.float32)[0]
        table = again.get_submodule("mid_block.motion_modules.0.transformer_blocks.0.attn2").table
        assert isinstance(table, Tensor) and torch.equal(table, two)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float8_e4m3fn])
def test_rounding_makes_no_other_table(tmp_path: Path, dtype: torch.dtype) -> None:
    save_tensors(tmp_path / "a.safetensors", {key: x.to(dtype) for key, x in golden("v1").items()})
    found = tables_of(read_header(tmp_path / "a.safetensors"))
    assert found is not None and (found.kind, found.length) == ("sinusoid", 24)


@pytest.mark.parametrize("prefix", ["ema.", "unet.", "model.diffusion_model.", "motion_adapter.", "net._orig_mod."])
def test_names_behind_any_prefix(tmp_path: Path, prefix: str) -> None:
    save_tensors(tmp_path / "a.safetensors", {prefix + key: x for key, x in golden("v1").items()})
    adapter, facts = load_motion_module(tmp_path / "a.safetensors")
    expected = load_motion_module(motion_file("v1"))[0].state_dict()
    assert facts.name == "v1"
    assert all(torch.equal(x, expected[key]) for key, x in adapter.state_dict().items())
    lines = recognise(tmp_path / "a.safetensors").evidence
    assert any(
        f"its names begin with {prefix}" in line and ("averaged" in line) == (prefix == "ema.") for line in lines
    )


def test_averaged_weights_alone_and_beside_the_others(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tensors = golden("v1")
    torch.save({"ema_state_dict": tensors, "epoch": 3}, tmp_path / "ema.pt")
    assert load_motion_module(tmp_path / "ema.pt")[1].name == "v1"
    assert caplog.text == ""
    save_tensors(tmp_path / "both.safetensors", {**tensors, **{f"ema.{key}": x + 1 for key, x in tensors.items()}})
    adapter, _ = load_motion_module(tmp_path / "both.safetensors")
    expected = load_motion_module(motion_file("v1"))[0].state_dict()
    assert all(torch.equal(x, expected[key]) for key, x in adapter.state_dict().items())
    assert f"{len(tensors)} tensors that no motion module has are left out: ema." in caplog.text


def test_whole_unets_of_diffusers_give_their_motion_modules(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As a folder or file of UNetMotionModel, and as a pipeline, which keeps the modules apart as well."""
    convert(motion_file("v2"), tmp_path / "adapter", to="diffusers")
    motion = diffusers.MotionAdapter.from_pretrained(tmp_path / "adapter")
    unet = diffusers.UNet2DConditionModel.from_pretrained(GOLDEN / "v2" / "sd" / "unet")
    whole = diffusers.UNetMotionModel.from_unet2d(unet, motion)
    whole.save_pretrained(tmp_path / "pipeline" / "unet")
    expected = load_motion_module(motion_file("v2"), dtype=torch.float32)[0].state_dict()
    image = len(unet.state_dict())
    file = tmp_path / "pipeline" / "unet" / "diffusion_pytorch_model.safetensors"
    for source in (tmp_path / "pipeline", file.parent, file):
        caplog.clear()
        adapter, facts = load_motion_module(source, dtype=torch.float32)
        assert facts.name == "v2"
        assert all(torch.equal(x, expected[key]) for key, x in adapter.state_dict().items())
        assert f"{image} tensors that no motion module has are left out: conv_in.bias" in caplog.text
    motion.save_pretrained(tmp_path / "pipeline" / "motion_adapter")
    caplog.clear()
    load_motion_module(tmp_path / "pipeline")
    assert caplog.text == ""


def test_modules_of_more_than_one_block_are_refused(tmp_path: Path) -> None:
    """diffusers' UNetMotionModel can have them; half of a module is none."""
    diffusers.MotionAdapter(
        block_out_channels=(32, 32, 32, 32), motion_layers_per_block=1, motion_transformer_layers_per_block=2
    ).save_pretrained(tmp_path / "adapter")
    with pytest.raises(UserError, match="more than one transformer block"):
        load_motion_module(tmp_path / "adapter")


def test_the_wrong_family_renders_otherwise(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """v1 without tables, its family given, renders as v1 with tables does: to the bit."""
    save_tensors(tmp_path / "mm_sd_v15.safetensors", golden("v1", positions=False))

    def clip(path: Path, **settings: str) -> torch.Tensor:
        pipe = AnimateDiffPipeline.from_pretrained(GOLDEN / "v1" / "sd", torch_dtype="float32")
        pipe.load_motion_module(path, **settings)
        pipe.set_progress_bar_config(disable=True)
        generator = torch.Generator().manual_seed(0)
        return pipe(
            "a cat", num_frames=3, height=32, width=32, num_inference_steps=2, generator=generator, output_type="pt"
        ).frames[0]

    expected = clip(motion_file("v1"))
    with caplog.at_level(logging.INFO):
        assert torch.equal(clip(tmp_path / "mm_sd_v15.safetensors"), expected)
    assert "taken as v1 because its name (mm_sd_v15.safetensors) says so" in caplog.text
    assert "(likely: by its name, mm_sd_v15.safetensors)" in caplog.text
    assert relative(clip(tmp_path / "mm_sd_v15.safetensors", family="v3"), expected) > 1e-3
