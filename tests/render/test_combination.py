"""Controls together, from one YAML: a MotionLoRA, SparseCtrl, a prompt that travels, 48 frames."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from diffusers import AutoencoderKL
from PIL import Image
from support.close import relative
from support.commands import run
from support.paths import GOLDEN, ROOT

from animatediff.media import read_video

FILES = {
    "StableDiffusion/realisticVisionV20_v20.safetensors": GOLDEN / "v3" / "sd",
    "Motion_Module/v3_sd15_mm.ckpt": GOLDEN / "v3" / "motion_module.ckpt",
    "Motion_Module/v3_sd15_adapter.ckpt": GOLDEN / "v3" / "domain_adapter.ckpt",
    "MotionLoRA/v2_lora_ZoomIn.ckpt": GOLDEN / "v3" / "motion_lora.ckpt",
    "SparseCtrl/v3_sd15_sparsectrl_rgb.ckpt": GOLDEN / "v3" / "sparsectrl_rgb.ckpt",
}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder where the files of the configuration are: small models under the published names."""
    monkeypatch.chdir(tmp_path)
    for name, source in FILES.items():
        target = tmp_path / "models" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(source)
    (tmp_path / "pictures").mkdir()
    Image.new("RGB", (48, 48), (200, 120, 30)).save("pictures/cottage.png")
    return tmp_path


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """Latents that are decoded from now on: bytes of frames hardly show what acts on these small models."""
    given: list[torch.Tensor] = []
    decode = AutoencoderKL.decode

    def noted(vae: AutoencoderKL, z: torch.Tensor, **settings: Any) -> Any:
        given.append(z)
        return decode(vae, z, **settings)

    monkeypatch.setattr(AutoencoderKL, "decode", noted)
    return given


@pytest.mark.slow
def test_the_combined_configuration_renders_and_each_part_acts(place: Path, decoded: list[torch.Tensor]) -> None:
    (whole,) = yaml.safe_load((ROOT / "configs" / "prompts" / "v3" / "6-combined.yaml").read_text())
    small = {"width": 16, "height": 16, "steps": 1, "dtype": "float32"}
    left_out = {
        "all": (),
        "motion_loras": ("motion_loras",),
        "sparsectrl": ("sparsectrl", "control_images", "control_indices"),
        "prompt_travel": ("prompt_travel",),
    }
    clips = {}
    for name, keys in left_out.items():
        settings = {key: value for key, value in whole.items() if key not in keys} | small
        if name == "prompt_travel":
            settings["prompt"] = whole["prompt_travel"][0]
        Path(f"{name}.yaml").write_text(yaml.safe_dump([settings]))
        code, _, err = run("--config", f"{name}.yaml", "--out", f"{name}.png")
        assert code == 0, err
        assert read_video(f"{name}.png")[0].shape == (48, 16, 16, 3)
        clips[name] = torch.cat(decoded)
        assert len(clips[name]) == 48
        decoded.clear()
    assert (place / "all.keyframes.png").is_file() and (place / "all.prompts.png").is_file()
    for name in ("motion_loras", "sparsectrl", "prompt_travel"):
        assert relative(clips[name], clips["all"]) > 1e-4, name
    # the text is the same until it leaves frame 0, but windows reach over; behind the second text all differs more
    before, behind = (relative(clips["prompt_travel"][part], clips["all"][part]) for part in (slice(8), slice(40, 48)))
    assert behind > 5 * before, (before, behind)
