"""What a file is, seen from its header: published layouts, mutated ones, and noise."""

from __future__ import annotations

import io
import json
import os
import shutil
import struct
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.paths import GOLDEN
from support.weight_files import header_bytes, published, write_hollow

from animatediff.errors import UserError
from animatediff.motion.image_encoder import EncoderLayout, ImageEncoder
from animatediff.weights.families import FAMILIES
from animatediff.weights.inspect import describe
from animatediff.weights.keys import POSITIONS
from animatediff.weights.kinds import KINDS
from animatediff.weights.recognise import Recognised, recognise


def seen(tmp_path: Path, shapes: dict[str, tuple[int, ...]], metadata: dict[str, str] | None = None) -> Recognised:
    return recognise(write_hollow(tmp_path / "file.safetensors", shapes, metadata))


def with_positions(shapes: dict[str, tuple[int, ...]], length: int) -> dict[str, tuple[int, ...]]:
    return {key: (1, length, shape[2]) if POSITIONS.search(key) else shape for key, shape in shapes.items()}


@pytest.mark.parametrize(
    ("name", "kind", "family", "base"),
    [
        ("mm_sd_v15", "motion_module", "v1", "sd1"),
        ("mm_sd_v15_v2", "motion_module", "v2", "sd1"),
        ("v3_sd15_mm", "motion_module", "v3", "sd1"),
        ("mm_sdxl_v10_beta", "motion_module", "sdxl", "sdxl"),
        ("v2_lora", "motion_lora", None, "sd1"),
        ("v3_sd15_adapter", "domain_adapter", None, "sd1"),
        ("v3_sd15_sparsectrl_rgb", "sparsectrl", None, "sd1"),
        ("v3_sd15_sparsectrl_scribble", "sparsectrl", None, "sd1"),
        ("sd15_single_file", "base_model", None, "sd1"),
        ("sdxl_single_file", "base_model", None, "sdxl"),
    ],
)
def test_published_files_at_full_size(
    tmp_path: Path, name: str, kind: str, family: str | None, base: str | None
) -> None:
    found = seen(tmp_path, published(name))
    assert (found.kind, found.family and found.family.name, found.base) == (kind, family, base)
    assert found.evidence
    facts = describe(tmp_path / "file.safetensors")
    assert facts["kind"] == kind
    assert json.dumps(facts)


def test_sparsectrl_kinds_differ(tmp_path: Path) -> None:
    assert seen(tmp_path, published("v3_sd15_sparsectrl_rgb")).variant == "rgb"
    assert seen(tmp_path, published("v3_sd15_sparsectrl_scribble")).variant == "scribble"


def test_relatives_of_v2_by_their_position_tables(tmp_path: Path) -> None:
    v2 = published("mm_sd_v15_v2")
    for length in (64, 128):
        found = seen(tmp_path, with_positions(v2, length))
        assert found.family is not None
        assert (found.family.name, found.family.numerics.max_positions) == ("long", length)
        assert found.family.recommended.num_frames == length // 2
    found = seen(tmp_path, published("mm_sd_v15_v2", positions=False))
    assert found.family is not None
    assert (found.family.name, found.family.numerics.max_positions) == ("animatelcm", 64)


def test_animatelcm_i2v_by_its_image_encoder(tmp_path: Path) -> None:
    v2 = published("mm_sd_v15_v2", positions=False)
    encoder = ImageEncoder(EncoderLayout(latents=4, first=320, levels=(320, 640, 1280, 1280)))
    whole = {f"img_encoder.{key}": tuple(value.shape) for key, value in encoder.state_dict().items()}
    assert len(whole) == 38, "as published"
    assert sum(value.numel() for value in encoder.state_dict().values()) == 76_827_840
    found = seen(tmp_path, v2 | whole)
    assert found.family is not None and found.judgement is not None
    assert (found.kind, found.family.name, found.judgement.confidence) == ("motion_module", "animatelcm_i2v", "certain")
    facts = describe(tmp_path / "file.safetensors")
    assert facts["settings"]["scheduler"] == "lcm" and facts["settings"]["num_inference_steps"] == 4
    assert facts["give_it_to"].startswith("`motion_module`")
    seen(tmp_path, v2 | {"img_encoder.conv_in.weight": (16, 4, 3, 3)})
    assert "lacks layers" in describe(tmp_path / "file.safetensors")["what_to_do"]
    seen(tmp_path, v2 | {key: shape for key, shape in whole.items() if "body.6" not in key and "body.7" not in key})
    assert "features of (320, 640, 1280) channels" in describe(tmp_path / "file.safetensors")["what_to_do"]


def test_tables_named_as_in_animatelcms_code(tmp_path: Path) -> None:
    """Published files have none; should a copy carry them, they are no trained ones, and tell the family."""
    v2 = published("mm_sd_v15_v2", positions=False)
    tables = {
        key.replace("to_q.weight", "pos_encoder.pos_encoding"): (1, 64, shape[0])
        for key, shape in v2.items()
        if key.endswith("to_q.weight")
    }
    found = seen(tmp_path, v2 | tables)
    assert found.family is not None
    assert (found.family.name, found.family.numerics.max_positions) == ("animatelcm", 64)


def test_relatives_that_cannot_be_run_are_known(tmp_path: Path) -> None:
    camera = {
        "encoder.conv.weight": (8, 8, 3, 3),
        "down_blocks.0.motion_modules.0.temporal_transformer.transformer_blocks.0.attention_blocks.0."
        "processor.qkv_merge.weight": (320, 320),
    }
    assert seen(tmp_path, camera).kind == "cameractrl"


@pytest.mark.parametrize("prefix", ["module.", "unet.", "module.unet."])
def test_prefixes_do_not_hide_a_motion_module(tmp_path: Path, prefix: str) -> None:
    found = seen(tmp_path, {prefix + key: shape for key, shape in published("mm_sd_v15").items()})
    assert found.family is not None
    assert found.family.name == "v1"


def test_checkpoint_of_the_originals_training(tmp_path: Path) -> None:
    """It holds the image layers as well; the motion modules are what it is for."""
    found = seen(tmp_path, published("v3_sd15_mm") | {"down_blocks.0.resnets.0.conv1.weight": (320, 320, 3, 3)})
    assert found.kind == "motion_module"


def test_metadata_of_our_own_wins_over_shape(tmp_path: Path) -> None:
    found = seen(tmp_path, published("mm_sd_v15_v2"), FAMILIES["lightning"].metadata())
    assert found.family is not None
    assert found.family.name == "lightning"


@pytest.mark.parametrize("said", ["{", "[]", '{"betas": 3}', "null", '{"max_positions": "x"}'])
def test_damaged_metadata_of_our_own_is_a_message(tmp_path: Path, said: str) -> None:
    with pytest.raises(UserError, match="metadata"):
        seen(tmp_path, published("mm_sd_v15"), {"animatediff.family": "v1", "animatediff.numerics": said})


def test_golden_files_and_folders_are_described() -> None:
    for family in ("v1", "v2", "v3", "sdxl"):
        assert describe(GOLDEN / family / "motion_module.ckpt")["family"].startswith(f"{family}:")
    assert describe(GOLDEN / "hotshot" / "motion_module.safetensors")["settings"]["num_frames"] == 8
    assert describe(GOLDEN / "v1" / "motion_lora.ckpt")["settings"]["rank"] == 4
    assert describe(GOLDEN / "v1" / "sd")["components"]["vae"] == "AutoencoderKL"
    assert describe(GOLDEN / "v1" / "sd" / "vae" / "diffusion_pytorch_model.safetensors")["kind"] == "vae"
    with pytest.raises(UserError, match="no such file"):
        describe("guoyww/animatediff-motion-adapter-v1-5-2")


def test_files_that_no_setting_takes_though_their_kind_is_known_are_not_recommended(tmp_path: Path) -> None:
    shapes = published("v3_sd15_mm")
    query = next(key for key in shapes if key.endswith("to_q.weight"))
    for changed, reason in (
        ({key: shape for key, shape in shapes.items() if key != query}, "1 tensors missing"),
        (shapes | {query: (7, 7)}, "has shape"),
        (shapes | {query.replace("transformer_blocks.0", "transformer_blocks.1"): (320, 320)}, "more than one"),
    ):
        facts = describe(write_hollow(tmp_path / "file.safetensors", changed))
        assert facts["kind"] == "motion_module" and "give_it_to" not in facts
        assert facts["what_to_do"].startswith("it cannot be loaded: ") and reason in facts["what_to_do"]
    folder = tmp_path / "sd"
    shutil.copytree(GOLDEN / "v3" / "sd", folder)
    assert describe(folder)["give_it_to"] == KINDS["base_model"].taken_by
    (folder / "unet" / "diffusion_pytorch_model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n")
    facts = describe(folder)
    assert "give_it_to" not in facts and "unet/diffusion_pytorch_model.safetensors: a Git LFS" in facts["what_to_do"]


# Fuzzing. An audit hook cannot be removed, so one stands for the whole run and listens only while `WATCH` is set.
WATCH = [False]
FORBIDDEN = ("os.system", "os.exec", "os.posix_spawn", "subprocess.Popen", "pickle.find_class", "socket.connect")
CAUGHT: list[str] = []


def _audit(event: str, args: Any) -> None:
    if WATCH[0] and event in FORBIDDEN:
        CAUGHT.append(event)


@pytest.fixture
def watched() -> Iterator[None]:
    if not hasattr(sys, "_animatediff_test_hook"):
        sys.addaudithook(_audit)
        sys._animatediff_test_hook = True  # type: ignore[attr-defined]
    CAUGHT.clear()
    WATCH[0] = True
    yield
    WATCH[0] = False
    assert CAUGHT == []


def survives(path: Path, content: bytes, *, hole: int = 0) -> None:
    """recognise ends in a kind or in a UserError, whatever the file holds; `hole` zeros that take no disk follow."""
    path.write_bytes(content)
    os.truncate(path, len(content) + hole)
    try:
        found = recognise(path)
    except UserError as error:
        message = str(error)
    else:
        message = f"{path}: {found.evidence[0]}"
        assert found.kind in KINDS
    assert str(path) in message


FUZZ = settings(
    max_examples=700,
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.filter_too_much],
)
STARTS = [b"", b"PK\x03\x04", b"\x80\x02", b"\x80\x04\x95", b"\x10\0\0\0\0\0\0\0{", b"{", b"<", b"\0\0"]
PIECES = [
    "down_blocks", "up_blocks", "mid_block", "0", "1", "2", "7", "motion_modules", "temporal_attentions",
    "attentions", "temporal_transformer", "transformer_blocks", "attention_blocks", "attn1", "to_q",
    "to_q_lora", "to_out", "pos_encoder", "pe", "positional_encoding", "pos_embed", "proj_in", "norm", "weight",
    "bias", "alpha", "lora_A", "lora_down", "down", "processor", "qkv_merge", "img_encoder", "encoder",
    "conv_in", "controlnet_cond_embedding", "lora_unet_up", "lora_te", "model", "diffusion_model",
    "input_blocks", "first_stage_model", "decoder", "module", "unet", "state_dict", "resnets",
    "cond_stage_model", "conditioner", "embedders", "emb_params", "clip_g", "clip_l", "label_emb", "attn2",
    "to_k", "",
]  # fmt: skip
NAMES = st.lists(st.sampled_from(PIECES), min_size=1, max_size=9).map(".".join)
SHAPES = st.lists(st.sampled_from([0, 1, 2, 3, 4, 9, 24, 32]), max_size=4).map(tuple)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)


@FUZZ
@given(
    start=st.sampled_from(STARTS), rest=st.binary(max_size=300), suffix=st.sampled_from([".ckpt", ".safetensors", ""])
)
def test_noise(tmp_path: Path, watched: None, start: bytes, rest: bytes, suffix: str) -> None:
    survives(tmp_path / f"file{suffix}", start + rest)


@FUZZ
@given(shapes=st.dictionaries(NAMES, SHAPES, max_size=8))
def test_headers_of_any_names_and_shapes(tmp_path: Path, watched: None, shapes: dict[str, tuple[int, ...]]) -> None:
    start, size = header_bytes(shapes)
    survives(tmp_path / "file.safetensors", start + b"\0" * min(size, 10_000))


@FUZZ
@given(content=st.dictionaries(NAMES | st.just("__metadata__"), JSON, max_size=5) | JSON)
def test_headers_of_any_json(tmp_path: Path, watched: None, content: Any) -> None:
    text = json.dumps(content).encode()
    survives(tmp_path / "file.safetensors", struct.pack("<Q", len(text)) + text + b"\0" * 64)


SMALL_HEADER = header_bytes(
    {
        "down_blocks.0.motion_modules.0.temporal_transformer.proj_in.weight": (2, 2),
        "down_blocks.0.motion_modules.0.temporal_transformer.transformer_blocks.0.attention_blocks.0.pos_encoder.pe": (
            1, 24, 2
        ),
        "up_blocks.0.motion_modules.0.temporal_transformer.proj_in.weight": (2, 2),
    },
    FAMILIES["v1"].metadata(),
)  # fmt: skip


@FUZZ
@given(edits=st.lists(st.tuples(st.integers(0, 2000), st.binary(max_size=6), st.integers(0, 6)), max_size=4))
def test_mutated_safetensors(tmp_path: Path, watched: None, edits: list[tuple[int, bytes, int]]) -> None:
    start, size = SMALL_HEADER
    survives(tmp_path / "file.safetensors", edited(start, edits) + b"\0" * size)


REAL = [published(name) for name in ("mm_sd_v15_v2", "v2_lora", "v3_sd15_sparsectrl_rgb", "sdxl_single_file")]


@settings(FUZZ, max_examples=300)
@given(
    shapes=st.sampled_from(REAL),
    keep=st.integers(1, 60),
    first=st.integers(0, 2000),
    changes=st.lists(st.tuples(st.integers(0, 59), NAMES, SHAPES), max_size=6),
)
def test_published_headers_with_pieces_missing_renamed_and_reshaped(
    tmp_path: Path,
    watched: None,
    shapes: dict[str, tuple[int, ...]],
    keep: int,
    first: int,
    changes: list[tuple[int, str, tuple[int, ...]]],
) -> None:
    """A stretch of a real file's keys, some of them with another ending or shape."""
    keys = list(shapes)
    part = {key: shapes[key] for key in keys[first % len(keys) :][:keep]}
    for place, name, shape in changes:
        key = list(part)[place % len(part)]
        part[key if place % 2 else f"{key.rpartition('.')[0]}.{name}"] = shape
    start, size = header_bytes(part)
    survives(tmp_path / "file.safetensors", start, hole=size)


def small_pickle(*, zipped: bool) -> bytes:
    buffer = io.BytesIO()
    state = {
        "down_blocks.0.motion_modules.0.temporal_transformer.proj_in.weight": torch.ones(2, 2),
        "up_blocks.0.motion_modules.0.temporal_transformer.proj_in.weight": torch.ones(2, 2, dtype=torch.float16),
    }
    torch.save({"state_dict": state, "epoch": 1}, buffer, _use_new_zipfile_serialization=zipped)
    return buffer.getvalue()


LEGACY, ZIPPED = small_pickle(zipped=False), small_pickle(zipped=True)
with zipfile.ZipFile(io.BytesIO(ZIPPED)) as _archive:
    MEMBERS = {name: _archive.read(name) for name in _archive.namelist()}
DATA = next(name for name in MEMBERS if name.endswith("data.pkl"))
EDITS = st.lists(
    st.tuples(st.integers(0, 2000), st.binary(min_size=0, max_size=6), st.integers(0, 6)), min_size=1, max_size=4
)


def edited(content: bytes, edits: list[tuple[int, bytes, int]]) -> bytes:
    for position, inserted, removed in edits:
        position %= len(content) + 1
        content = content[:position] + inserted + content[position + removed :]
    return content


@FUZZ
@given(edits=EDITS)
def test_mutated_legacy_pickles(tmp_path: Path, watched: None, edits: list[tuple[int, bytes, int]]) -> None:
    survives(tmp_path / "file.ckpt", edited(LEGACY, edits))


@FUZZ
@given(edits=EDITS, inside=st.booleans())
def test_mutated_archives(tmp_path: Path, watched: None, edits: list[tuple[int, bytes, int]], inside: bool) -> None:
    if not inside:
        survives(tmp_path / "file.ckpt", edited(ZIPPED, edits))
        return
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in MEMBERS.items():
            archive.writestr(name, edited(content, edits) if name == DATA else content)
    survives(tmp_path / "file.ckpt", buffer.getvalue())


def test_the_watch_sees_what_runs(watched: None) -> None:
    os.system("true")
    assert CAUGHT == ["os.system"]
    CAUGHT.clear()
