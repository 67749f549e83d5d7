"""Files that a header tells to be of another kind, or for another base model, are refused before a model is loaded."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from support.commands import run
from support.paths import GOLDEN
from support.weight_files import published, write_hollow

from animatediff.errors import UserError
from animatediff.render.prepare import _present, check_files, complete
from animatediff.render.request import AnimateRequest
from animatediff.render.values import scaled_file
from animatediff.weights.inspect import describe

V1 = GOLDEN / "v1"
CROSS = "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k"
SDXL_LORA = {f"{CROSS}.lora_A.weight": (4, 2048), f"{CROSS}.lora_B.weight": (640, 4)}
FACE = {"image_proj.proj.0.weight": (1024, 512), "ip_adapter.1.to_k_ip.weight": (320, 768)}
T2I = {"conv_in.weight": (320, 192, 3, 3), "body.0.block1.weight": (320, 320, 3, 3)}
FLUX = {"double_blocks.0.img_attn.qkv.weight": (8, 8), "single_blocks.0.linear1.weight": (8, 8)}


@pytest.mark.parametrize(
    ("setting", "shapes", "message"),
    [
        ("loras", SDXL_LORA, "a LoRA of an image model for SDXL, but the base model is Stable Diffusion 1.x or"),
        ("loras", T2I, "a T2I-Adapter, not a LoRA .*`controlnet`"),
        ("motion_loras", published("mm_sd_v15"), "a motion module, not a MotionLoRA.*give it to `motion_module`"),
        ("embeddings", SDXL_LORA, "LoRA of an image model, not a textual inversion.*give it to `loras`"),
        ("embeddings", {"clip_l": (2, 768), "clip_g": (2, 1280)}, "for SDXL"),
        ("vae", FLUX, "another kind than Stable Diffusion.*not a VAE"),
        ("text_encoder", {"encoder.block.0.layer.0.SelfAttention.q.weight": (8, 8)}, "not a CLIP text encoder"),
        ("controlnet", T2I, "a T2I-Adapter, not a ControlNet"),
        ("sparsectrl", T2I, "a T2I-Adapter, not a SparseCtrl encoder"),
        ("ip_adapter", FACE, r"FaceID \(reads face embeddings.*ip-adapter-plus-face"),
        ("model", FLUX, "Flux"),
    ],
)
def test_other_kinds_and_other_bases(tmp_path: Path, setting: str, shapes: Any, message: str) -> None:
    file = str(write_hollow(tmp_path / "file.safetensors", shapes))
    with pytest.raises(UserError, match=message):
        check_files(asked(setting, file, tmp_path))


def asked(setting: str, file: str, tmp_path: Path) -> AnimateRequest:
    image = str(tmp_path / "a.png")
    Image.new("RGB", (8, 8)).save(image)
    values: dict[str, Any] = {"model": str(V1 / "sd"), "motion_module": str(V1 / "motion_module.ckpt")}
    values[setting] = [{"path": file}] if setting in ("loras", "motion_loras", "embeddings") else file
    if setting == "controlnet":
        values |= {"controlnet": [file], "controlnet_video": [image]}
    elif setting == "ip_adapter":
        values["image"] = image
    elif setting == "sparsectrl":
        values["control_images"] = [image]
    return AnimateRequest(prompt=("a",), **values)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such links")
@pytest.mark.parametrize(
    "setting", ["loras", "motion_loras", "embeddings", "vae", "controlnet", "sparsectrl", "ip_adapter", "motion_module"]
)
def test_a_link_to_nothing_is_called_one(tmp_path: Path, setting: str) -> None:
    link = tmp_path / "file.safetensors"
    link.symlink_to("../blobs/0123")
    with pytest.raises(UserError, match=r"a link to \.\./blobs/0123, which does not exist"):
        complete(asked(setting, str(link), tmp_path))


def test_unknown_number_formats_are_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    file = tmp_path / "file.safetensors"
    stem = "lora_unet_mid_block_attentions_0_proj_in.lora_"
    tensors = {
        f"{stem}down.weight": {"dtype": "F6_E2M3", "shape": [4, 8], "data_offsets": [0, 24]},
        f"{stem}up.weight": {"dtype": "F6_E2M3", "shape": [8, 4], "data_offsets": [24, 48]},
    }
    header = json.dumps(tensors).encode()
    file.write_bytes(struct.pack("<Q", len(header)) + header + bytes(48))
    with pytest.raises(UserError, match="number format F6_E2M3"):
        check_files(asked("loras", str(file), tmp_path))
    facts = describe(file)
    assert "give_it_to" not in facts and "number format F6_E2M3" in facts["what_to_do"]


@pytest.mark.parametrize(
    ("name", "there"),
    [("owner/model", True), ("my folder/model", False), ("../model", False), ("owner/model/x", False)],
)
def test_names_that_may_be_on_the_hub(name: str, there: bool) -> None:
    if there:
        assert _present(name, "model", roots=None, fetched=str) == name  # pyright: ignore[reportArgumentType]
        return
    with pytest.raises(UserError, match="no such file or folder"):
        _present(name, "model", roots=None, fetched=str)  # pyright: ignore[reportArgumentType]


def test_a_file_whose_name_looks_like_a_strength(tmp_path: Path) -> None:
    file = tmp_path / "style:0.5"
    file.write_bytes(b"")
    assert scaled_file(str(file)) == {"path": str(file)}
    assert scaled_file(f"{file}:0.7") == {"path": str(file), "scale": 0.7}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("ZoomIn:abc", "the strength behind the colon 'abc' is no number; expected one such as ZoomIn:0.8"),
        ("ZoomIn:0,8", "'0,8' is no number"),
        ("ZoomIn:", "the strength behind the colon is missing"),
        ("a.safetensors:50%", "expected one such as a.safetensors:0.8"),
    ],
)
@pytest.mark.parametrize("flag", ["--lora", "--motion-lora", "--domain-adapter"])
def test_a_strength_that_is_no_number(flag: str, text: str, said: str) -> None:
    code, out, err = run("a fox", flag, text)
    assert (code, out) == (2, "") and err.startswith(f"animatediff: {flag}: {text}: ") and said in err


def test_colons_that_belong_to_a_name() -> None:
    for name in (
        "C:/a.safetensors",
        "C:\\a",
        "C:a.safetensors",
        "https://x/a",
        "a.safetensors",
        ":0.5",
        "my: LoRA.ckpt",
    ):
        assert scaled_file(name) == {"path": name}
    assert scaled_file("C:/a.safetensors:-1.5") == {"path": "C:/a.safetensors", "scale": -1.5}
