"""`animatediff train` and `train.py` as a user calls them: from videos to weights to a clip, and every mistake told."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from support.paths import ROOT
from support.training_clips import MODEL, SIZE
from typer.testing import CliRunner

from animatediff.cli import original_train
from animatediff.cli.main import app
from animatediff.media.write import write_video

CSV = "videoid,name,page_dir\n0,right,a\n1,left,a\n2,up,b\n"


def videos(folder: Path, num: int = 3, *, captions: bool = True) -> Path:
    """Short videos of noise that brightens."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for index in range(num):
        start = rng.integers(0, 128, (1, SIZE, SIZE, 3))
        frames = (start + 8 * np.arange(8)[:, None, None, None]).astype(np.uint8)
        write_video(frames, folder / f"{index}.mp4", quality=100)
        if captions:
            (folder / f"{index}.txt").write_text("up\n")
    return folder


def recipe(folder: Path, data: dict[str, Any], **more: Any) -> Path:
    values = {
        "stage": "motion", "model": str(MODEL), "steps": 2, "batch_size": 1, "out": str(folder / "out"),
        "data": {"num_frames": 4, "stride": 2, "height": SIZE, "width": SIZE, **data}, **more,
    }  # fmt: skip
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def call(*words: str) -> tuple[int, str]:
    """Exit code, and what was printed (stderr as well)."""
    result = CliRunner().invoke(app, list(words))
    return result.exit_code, result.output


def test_train_then_animate_are_two_commands(tmp_path: Path) -> None:
    path = recipe(tmp_path, {"kind": "folder", "path": str(videos(tmp_path / "clips"))})
    code, said = call("train", str(path), "--set", "save_every=1")
    assert code == 0, said
    weights = tmp_path / "out" / "motion_module.safetensors"
    assert str(weights) in said and "3 of these good" in said
    again, told = call("train", str(path), "--set", "steps=3")
    assert again == 0 and "goes on after step 2" in told
    other, told = call("train", str(path), "--set", "seed=7")
    assert other == 2 and "or start over with --fresh" in told
    clip = tmp_path / "clip.gif"
    code, said = call(
        "animate", "up", "--model", str(MODEL), "--motion-module", str(weights), "--num-frames", "4", "--width", "24",
        "--height", "24", "--steps", "2", "--out", str(clip),
    )  # fmt: skip
    assert code == 0 and clip.stat().st_size > 0, said


def test_the_originals_script_and_yaml(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = videos(tmp_path / "clips", captions=False)
    (tmp_path / "list.csv").write_text(CSV)
    values = {
        "image_finetune": False, "output_dir": str(tmp_path / "outputs"), "pretrained_model_path": str(MODEL),
        "unet_additional_kwargs": {"use_inflated_groupnorm": True, "motion_module_mid_block": True},
        "noise_scheduler_kwargs": {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "linear"},
        "train_data": {"csv_path": str(tmp_path / "list.csv"), "video_folder": str(folder), "sample_size": SIZE,
                       "sample_stride": 1, "sample_n_frames": 4},
        "validation_data": {"prompts": ["up"], "num_inference_steps": 1, "guidance_scale": 1.0},
        "trainable_modules": ["motion_modules."], "max_train_steps": 2, "train_batch_size": 1, "scale_lr": False,
        "validation_steps_tuple": [2], "num_workers": 0, "is_debug": False, "checkpointing_steps": 2,
    }  # fmt: skip
    path = tmp_path / "training.yaml"
    path.write_text(yaml.safe_dump(values))
    assert original_train.main(["--config", str(path), "--launcher", "pytorch"]) == 0
    out = capsys.readouterr()
    run = tmp_path / "outputs" / "training"
    assert str(run / "motion_module.safetensors") in out.out
    assert "--launcher is not needed" in out.err and "scale_lr has no effect" in out.err
    assert (run / "samples" / "step-00000002" / "0.mp4").is_file()
    assert original_train.main(["--config", str(path), "--check"]) == 0
    assert original_train.main(["--config", str(path), "--check", "--set", "model=nowhere"]) == 1
    assert "animatediff: pretrained_model_path=nowhere: no such file" in capsys.readouterr().err
    assert original_train.main(["--confg", "x"]) == 2
    assert "did you mean '--config'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("make", "data", "message"),
    [
        ("csv", {"kind": "csv", "path": "list.csv"}, "videoid"),
        ("empty", {"kind": "folder", "path": "clips"}, "no "),
        ("corrupt", {"kind": "folder", "path": "clips"}, "0.mp4"),
        ("", {"kind": "folder", "path": "nowhere"}, "nowhere"),
        ("clips", {"kind": "folder", "path": "clips", "num_framse": 4}, "did you mean 'num_frames'"),
    ],
)
def test_bad_data_is_told_before_training(tmp_path: Path, make: str, data: dict[str, Any], message: str) -> None:
    clips = tmp_path / "clips"
    if make == "csv":
        (tmp_path / "list.csv").write_text("id,caption\n0,right\n")
    elif make == "empty":
        clips.mkdir()
    elif make == "corrupt":
        for path in videos(clips).glob("*.mp4"):
            path.write_bytes(b"not a video" * 100)
    elif make == "clips":
        videos(clips)
    data = data | ({"path": str(tmp_path / data["path"])} if "path" in data else {})
    code, said = call("train", str(recipe(tmp_path, data)))
    assert code == 2, said
    assert message in said and "Traceback" not in said
    assert not list((tmp_path / "out").rglob("*.pt"))


def test_other_mistakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("wandb", "bitsandbytes"):
        monkeypatch.setitem(sys.modules, name, None)  # as if it were not installed
    path = recipe(tmp_path, {"kind": "folder", "path": str(videos(tmp_path / "clips"))})
    for words, message in (
        (["--set", "lerning_rate=1"], "did you mean 'learning_rate'"),
        (["--set", "model=nowhere.safetensors"], "no such file"),
        (["--set", "log=[wandb]"], "pip install wandb"),
        (["--set", "optimizer=adamw8bit"], "pip install bitsandbytes"),
        (["--resume"], "no checkpoint to resume from; leave --resume out to start"),
        (["--set", "steps"], "--set 'steps': expected KEY=VALUE"),
        (["--set", f"out={path}"], "recipe.yaml"),
    ):
        code, said = call("train", str(path), *words)
        assert code == 2 and message in said, said
        assert "Traceback" not in said
    for words in ([str(path)], ["--config", str(path)]):
        code, said = call("train", *words, "--check")
        assert code == 0 and "3 of these good" in said
    for words, message in (([], "no configuration"), ([str(path), "--config", "x.yaml"], "two configurations")):
        code, said = call("train", *words)
        assert code == 2 and f"animatediff: {message}" in said
    assert not (tmp_path / "out" / "checkpoints").exists()


def test_a_check_looks_at_models_too(tmp_path: Path) -> None:
    """Everything that a run would be refused for, one message each, and exit code 1."""
    path = recipe(tmp_path, {"kind": "folder", "path": str(videos(tmp_path / "clips"))}, stage="motion_lora", rank=4)
    golden = MODEL.parents[1]
    fine = ["--set", f"motion_module={golden / 'v2' / 'motion_module.ckpt'}"]
    assert call("train", str(path), "--check", *fine)[0] == 0
    for settings, messages in (
        ([], ["animatediff: motion_module is missing"]),
        (["model=some-one/no-model", *fine[1:]], ["model=some-one/no-model: not here, and not in the hub's cache"]),
        (
            ["motion_module=nowhere.ckpt", "model=nothere"],
            ["model=nothere: no such file or folder", "motion_module=nowhere.ckpt: no such file"],
        ),
        (
            [
                f"motion_module={golden / 'sdxl' / 'motion_module.ckpt'}", "data.height=33", "precision=fp16",
                f"domain_adapter={golden / 'v3' / 'motion_lora.ckpt'}", "device=cpu",
                f"start_from={golden / 'v3' / 'domain_adapter.ckpt'}", f"unet={golden / 'v3' / 'motion_lora.ckpt'}",
            ],
            [
                "precision=fp16 needs a GPU", "data.height=33: must be a multiple", "but the base model is SD 1.x",
                "a MotionLoRA", "not a MotionLoRA", "a MotionLoRA",
            ],
        ),
    ):  # fmt: skip
        words = [word for setting in settings for word in ("--set", setting)]
        code, said = call("train", str(path), "--check", *words)
        lines = [line for line in said.splitlines() if line.startswith("animatediff: ")]
        assert code == 1 and len(lines) == len(messages), said
        assert all(any(message in line for line in lines) for message in messages), said
        assert "3 of these good" in said and "Traceback" not in said
    assert not (tmp_path / "out").exists()


def test_the_recipe_for_clips_of_ones_own(tmp_path: Path) -> None:
    """It trains on videos with captions, in a few steps here, and what comes out renders by the next command."""
    folder = tmp_path / "my_clips"
    folder.mkdir()
    for index in range(2):
        frames = np.full((16, 64, 64, 3), 60, np.uint8)
        for time, frame in enumerate(frames):
            frame[20:40, 10 + 2 * time : 30 + 2 * time, index] = 220
        write_video(frames, folder / f"{index}.mp4", quality=100)
        (folder / f"{index}.txt").write_text("a ball on a grey background\n")
    path = str(ROOT / "configs" / "training" / "bundled" / "my-clips.yaml")
    values = {"data.path": folder, "data.cache": tmp_path / "cache", "out": tmp_path / "out"}
    own = [word for name, value in values.items() for word in ("--set", f"{name}={value}")]
    assert call("train", path, "--check", *own)[0] == 0
    few = ["steps=2", "warmup_steps=0", "batch_size=1", "data.height=32", "data.width=32", "validate_at=[0]"]
    few += ["validate_every=0", "validation.num_inference_steps=1", "validation.num_items=1"]
    code, said = call("train", path, *own, *(word for one in few for word in ("--set", one)))
    assert code == 0 and "memory: about" in said, said
    assert (tmp_path / "out" / "samples" / "step-00000000" / "0.mp4").is_file()
    weights, clip = tmp_path / "out" / "motion_lora.safetensors", tmp_path / "clip.gif"
    code, said = call(
        "animate", "a fox on a green background", "--motion-lora", str(weights), "--steps", "2", "--num-frames", "4",
        "--out", str(clip),
    )  # fmt: skip
    assert code == 0 and clip.stat().st_size > 0, said
