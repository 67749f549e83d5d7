"""Every file of the table of published files is recognised under its name, and its command is one."""

from __future__ import annotations

import gzip
import json
import re
import shlex
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from support.paths import ROOT
from support.weight_files import published, write_hollow
from typer.testing import CliRunner

from animatediff.cli import animate
from animatediff.cli.main import app
from animatediff.render import build_request
from animatediff.weights.families import FAMILIES
from animatediff.weights.inspect import describe
from animatediff.weights.keys import POSITIONS, TO_INTERNAL, rename
from animatediff.weights.kinds import KINDS
from animatediff.weights.published import PUBLISHED, SDXL, Published, table

Shapes = dict[str, tuple[int, ...]]


@cache
def lists(name: str) -> dict[str, Any]:
    """One of the lists of keys and shapes in tests/data."""
    return json.loads(gzip.decompress((ROOT / "tests" / "data" / f"{name}.json.gz").read_bytes()))


def more(name: str) -> Shapes:
    """A list from the code of PIA, AnimateLCM and CameraCtrl."""
    return {key: tuple(shape) for key, shape in lists("key_shapes_more")[name].items()}


def public(name: str) -> Shapes:
    """A list of names from public code."""
    return {key: tuple(shape) for key, shape in lists("public_keys")[name]["keys"].items()}


def with_positions(shapes: Shapes, length: int) -> Shapes:
    return {key: (1, length, shape[2]) if POSITIONS.search(key) else shape for key, shape in shapes.items()}


def hotshot() -> Shapes:
    """HotshotXL's: the same blocks as the SDXL beta's under other names, tables of 24 frames."""
    beta = with_positions(published("mm_sdxl_v10_beta"), 24)
    return {
        key.replace(".motion_modules.", ".temporal_attentions.")
        .replace(".temporal_transformer.", ".")
        .replace("pos_encoder.pe", "pos_encoder.positional_encoding"): shape
        for key, shape in beta.items()
    }


def lightning(name: str) -> Shapes:
    """v2's, in the original's names, or in diffusers' without position tables."""
    v2 = published("mm_sd_v15_v2", positions="diffusers" not in name)
    return {rename(key, TO_INTERNAL): shape for key, shape in v2.items()} if "diffusers" in name else v2


def camera_control(name: str) -> Shapes:
    """Two dictionaries in one file, or their entries in one."""
    found: Shapes = {}
    for part in ("pose_encoder_state_dict", "attention_processor_state_dict"):
        prefix = "" if "pruned" in name else f"{part}."
        found |= {prefix + key: shape for key, shape in more(f"cameractrl.{part}").items()}
    return found


LAYOUTS: tuple[tuple[str, Callable[[str], Shapes]], ...] = (
    (r"mm_sd_v1[45]\.|mm_sd15_v1|Stabilized|temporaldiff", lambda _: published("mm_sd_v15")),
    (r"mm_sd_v15_v2|mm_sd15_v2|mm-p_", lambda _: published("mm_sd_v15_v2")),
    (r"v3_sd15_mm|mm_sd15_v3", lambda _: published("v3_sd15_mm")),
    (r"v3_sd15_adapter", lambda _: published("v3_sd15_adapter")),
    (r"v2_lora_", lambda _: published("v2_lora")),
    (r"sparsectrl_rgb", lambda _: published("v3_sd15_sparsectrl_rgb")),
    (r"sparsectrl_scribble", lambda _: published("v3_sd15_sparsectrl_scribble")),
    (r"mm_sdxl", lambda _: published("mm_sdxl_v10_beta")),
    (r"hsxl", lambda _: hotshot()),
    (r"_lora\.safetensors|sd15_lora_beta", lambda _: public("kohya LoRA sd1")),
    (r"t2v", lambda _: more("animatelcm_t2v")),
    (r"i2v", lambda _: more("animatelcm_i2v")),
    (r"lightning", lightning),
    (r"lt_long_mm_32", lambda _: with_positions(published("mm_sd_v15_v2"), 64)),
    (r"lt_long_mm_16_64", lambda _: with_positions(published("mm_sd_v15_v2"), 128)),
    (r"pia", lambda _: more("pia")),
    (r"CameraCtrl", camera_control),
    (r"RealEstate10K", lambda _: more("realestate10k_lora.lora_state_dict")),
    (r"control", lambda _: public("control_v11p_sd15.pth")),
    (r"faceid-plusv2", lambda _: public("ip-adapter-faceid-plusv2_sd15")),
    (r"faceid", lambda _: public("ip-adapter-faceid_sd15")),
    (r"full-face", lambda _: public("ip-adapter-full-face_sd15")),
    (r"plus", lambda _: public("ip-adapter-plus_sd15")),
    (r"ip-adapter", lambda _: public("ip-adapter_sd15")),
)
"""Pattern of a file's name -> keys and shapes of the file at full size, the first that fits."""
FILES = [(name, row) for row in PUBLISHED for name in row.names]


@pytest.mark.parametrize(("name", "row"), FILES, ids=[name for name, _ in FILES])
def test_every_file_is_recognised_and_given_a_command(name: str, row: Published, tmp_path: Path) -> None:
    shapes = next(layout for pattern, layout in LAYOUTS if re.search(pattern, name))(name)
    facts = describe(write_hollow(tmp_path / name, shapes))
    assert facts["kind"] == row.kind
    assert row.variant in (None, facts.get("variant"))
    assert row.family is None or facts["family"].startswith(f"{row.family}: ")
    assert facts["gives"] == row.gives
    if not row.options:
        assert "example" not in facts and KINDS[row.kind].instead in facts["what_to_do"]
        return
    assert "what_to_do" not in facts, facts
    assert str(tmp_path / name) in shlex.split(facts["example"]) or f"{tmp_path / name}:0.8" in facts["example"]
    assert facts["give_it_to"].startswith(f"`{KINDS[row.kind].settings[0]}`")


@pytest.mark.parametrize("row", [row for row in PUBLISHED if row.options], ids=lambda row: row.names[0])
def test_every_command_is_one(row: Published, monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}
    monkeypatch.setattr(animate, "run", lambda values, **_: given.update(values))
    program, *words = shlex.split(row.command)
    result = CliRunner().invoke(app, words)
    assert program == "animatediff" and result.exit_code == 0, result.output
    request = build_request(given)
    assert request.motion_module is not None
    assert row.names[0] in str(request.stored()), "the command is of this file"
    wants_xl = row.family in ("sdxl", "hotshot")
    assert (SDXL in row.options) == wants_xl


def test_the_table_of_the_docs_is_made_from_it() -> None:
    text = (ROOT / "docs" / "models.md").read_text("utf-8")
    assert table() in text, "python -m animatediff.weights.published prints it"


def test_names_are_in_one_row_and_every_family_has_one() -> None:
    names = [name for name, _ in FILES]
    assert len(names) == len(set(names))
    assert {row.family for row in PUBLISHED if row.family} >= FAMILIES.keys() - {"custom"}
    assert {row.kind for row in PUBLISHED} <= KINDS.keys()


def test_files_under_other_names_have_the_row_of_their_kind_and_family(tmp_path: Path) -> None:
    (tmp_path / "my files").mkdir()
    facts = describe(write_hollow(tmp_path / "my files" / "tuned.safetensors", published("mm_sd_v15")))
    assert facts["gives"].startswith("motion module of SD 1.5, first generation")
    assert f"--motion-module '{tmp_path / 'my files' / 'tuned.safetensors'}'" in facts["example"]
    assert "gives" not in describe(write_hollow(tmp_path / "style.safetensors", public("kohya LoRA sd1")))
    facts = describe(write_hollow(tmp_path / "xl.safetensors", public("ip-adapter_sdxl")))
    assert "--model sdxl.safetensors --motion-module mm_sdxl_v10_beta.ckpt --ip-adapter " in facts["example"]
    (tmp_path / "net").mkdir()
    (tmp_path / "net" / "config.json").write_text("{}")
    write_hollow(tmp_path / "net" / "diffusion_pytorch_model.safetensors", public("ControlNetModel sd1"))
    assert f"--controlnet {tmp_path / 'net'} " in describe(tmp_path / "net")["example"], "the folder, as it is given"
    del (broken := published("mm_sd_v15_v2"))["mid_block.motion_modules.0.temporal_transformer.proj_in.bias"]
    facts = describe(write_hollow(tmp_path / "broken.safetensors", broken))
    assert "it cannot be loaded" in facts["what_to_do"] and "example" not in facts
