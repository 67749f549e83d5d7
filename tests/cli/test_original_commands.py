"""The commands that users of the original type, through real (tiny) models under the published names."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from support import tiny_models
from support.close import relative
from support.paths import ROOT

from animatediff.cli.original import main
from animatediff.media import read_video
from animatediff.render import load_config

CONFIGS = ROOT / "configs" / "prompts"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with the configurations (one step each, for time) and the files they name."""
    monkeypatch.chdir(tmp_path)
    for name in ("v2/5-RealisticVision.yaml", "v3/sdxl.yaml"):
        target = Path("configs/prompts", name)
        target.parent.mkdir(parents=True)
        target.write_text(re.sub(r"steps: \d+", "steps: 1", (CONFIGS / name).read_text()))
    for name in ("StableDiffusion", "Motion_Module", "MotionLoRA"):
        Path("models", name).mkdir(parents=True)
    return tmp_path


def render(command: str) -> tuple[Path, list[np.ndarray]]:
    """Run the command; returns the folder it made and the frames of its clips."""
    before = set(Path("samples").glob("*"))
    assert main(command.split()) == 0
    (folder,) = set(Path("samples").glob("*")) - before
    return folder, [read_video(path)[0] for path in sorted((folder / "sample").glob("*.gif"))]


def check_layout(folder: Path, stem: str, config: str) -> None:
    assert re.fullmatch(rf"{stem}-\d{{4}}-\d\d-\d\dT\d\d-\d\d-\d\d(-\d+)?", folder.name)
    (request,) = load_config(config)
    names = ["-".join(re.findall(r"\w+", prompt)[:10]) for prompt in request.prompt]
    clips = {f"{index}-{name}.gif" for index, name in enumerate(names)}
    assert {p.name for p in (folder / "sample").iterdir()} == clips | {f"{name}.json" for name in clips}
    assert {p.name for p in folder.iterdir()} == {"sample", "sample.gif", "config.yaml"}
    assert read_video(folder / "sample.gif")[0].shape == (4, 32 + 4, 4 * 34 + 2, 3)
    (again,) = load_config(folder / "config.yaml")
    assert again.seed == request.seed and again.prompt == request.prompt


def test_sd15_with_and_without_motion_lora(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    unet = tiny_models.save_base(Path("models/StableDiffusion/realisticVisionV20_v20.safetensors"), "sd1")
    adapter = tiny_models.save_motion(Path("models/Motion_Module/mm_sd_v15_v2.ckpt"), unet, "v2")
    tiny_models.save_motion_lora(Path("models/MotionLoRA/v2_lora_ZoomIn.ckpt"), adapter)
    (whole,) = yaml.safe_load(Path("configs/prompts/v2/5-RealisticVision.yaml").read_text())
    first = whole | {"prompt": whole["prompt"][:1], "seed": whole["seed"][:1]}
    Path("configs/prompts/v2/first.yaml").write_text(yaml.safe_dump([first]))
    command = (
        "--config configs/prompts/v2/{}.yaml"
        " --pretrained_model_path models/StableDiffusion/realisticVisionV20_v20.safetensors{} --L 4 --W 32 --H 32"
    )
    folder, clips = render(command.format("5-RealisticVision", ""))
    check_layout(folder, "5-RealisticVision", "configs/prompts/v2/5-RealisticVision.yaml")
    assert [clip.shape for clip in clips] == [(4, 32, 32, 3)] * 4
    assert "sample.gif" in capsys.readouterr().out
    lora = " --motion_lora_path models/MotionLoRA/v2_lora_ZoomIn.ckpt --motion_lora_scale 1.0"
    _, with_lora = render(command.format("first", lora))
    assert relative(with_lora[0], clips[0]) > 0.05
    _, switched_off = render(command.format("first", lora.replace("1.0", "0.0") + " --without-xformers"))
    assert np.array_equal(clips[0], switched_off[0])
    assert "--without-xformers is not needed" in capsys.readouterr().err
    _, again = render(f"--config {folder}/config.yaml")
    assert all(np.array_equal(a, b) for a, b in zip(clips, again, strict=True)), "config.yaml repeats the run"


def test_sdxl(place: Path) -> None:
    unet = tiny_models.save_base(Path("models/StableDiffusion/sdxl_base_1.0.safetensors"), "sdxl")
    tiny_models.save_motion(Path("models/Motion_Module/mm_sdxl_v10_beta.ckpt"), unet, "sdxl")
    folder, clips = render(
        "--config configs/prompts/v3/sdxl.yaml"
        " --pretrained_model_path models/StableDiffusion/sdxl_base_1.0.safetensors"
        " --motion_module_path models/Motion_Module/mm_sdxl_v10_beta.ckpt --L 4 --W 32 --H 32"
    )
    check_layout(folder, "sdxl", "configs/prompts/v3/sdxl.yaml")
    assert [clip.shape for clip in clips] == [(4, 32, 32, 3)] * 4
    assert relative(clips[1], clips[0]) > 0.05
