"""What was trained for the bundled model does what its name says, and is found by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from support.commands import is_one_message, run

from animatediff.bundled import CAMERA_MOVES, bundled_file, bundled_set, motion_module_path
from animatediff.camera import camera_path, path_of_video
from animatediff.camera.plane import plane_views
from animatediff.errors import UserError
from animatediff.evaluation import camera_move, measure
from animatediff.pipelines import AnimateDiffPipeline
from animatediff.sprites import world
from animatediff.sprites.classifier import classify_clip, load_classifier
from animatediff.sprites.watermark import banner_contrast
from animatediff.sprites.words import DIRECTIONS
from animatediff.training.config import TrainConfig
from animatediff.training.loop import train
from animatediff.weights.recognise import recognise
from recipes.bundled import results
from recipes.bundled.style_classifier import load_style_classifier

STEPS = 4


@pytest.fixture(scope="module")
def pipe() -> AnimateDiffPipeline:
    return AnimateDiffPipeline.from_bundled()


def clip(pipe: AnimateDiffPipeline, text: str, seed: int = 3, **settings: Any) -> torch.Tensor:
    """(16, 3, 64, 64) in 0..1."""
    generator = torch.Generator().manual_seed(seed)
    return pipe(text, generator=generator, num_inference_steps=STEPS, output_type="pt", **settings).frames[0]


def test_all_parts_are_there_and_what_they_are_called() -> None:
    parts = bundled_set()
    others = {"sparsectrl_rgb", "sparsectrl_scribble", "camera_control", "domain_adapter", "neon", "paper"}
    assert set(parts) == {*CAMERA_MOVES, *others}
    assert len(CAMERA_MOVES) == 8
    kinds = {name: recognise(path).kind for name, path in parts.items() if path.is_file()}
    assert {name for name, kind in kinds.items() if kind == "motion_lora"} == set(CAMERA_MOVES)
    named = [kinds[name] for name in ("paper", "domain_adapter", "camera_control")]
    assert named == ["lora", "domain_adapter", "cameractrl"]
    for variant in ("rgb", "scribble"):
        found = recognise(parts[f"sparsectrl_{variant}"])
        assert (found.kind, found.variant) == ("sparsectrl", variant)
    assert (parts["neon"] / "model_index.json").is_file()
    assert bundled_file("bundled/paper") == bundled_file("paper") == parts["paper"]
    with pytest.raises(
        UserError, match=r"bundled/papr: not in the bundled set; did you mean 'bundled/paper'\? known are"
    ):
        bundled_file("bundled/papr")


def test_names_of_the_set_stand_for_files_in_python_and_in_training(tmp_path: Path) -> None:
    pipe = AnimateDiffPipeline.from_pretrained("bundled/neon", torch_dtype="float32")
    assert pipe.load_motion_module("bundled").name == "bundled"
    assert pipe.load_sparsectrl("bundled/sparsectrl_rgb") == "rgb"
    pipe.load_lora_weights("bundled/paper")
    with pytest.raises(UserError, match="did you mean 'bundled/paper'"):
        pipe.load_lora_weights("bundled/papr")
    data = {"kind": "sprites", "num_frames": 4, "height": 64, "width": 64, "num_items": 2}
    more = {"model": "bundled/neon", "steps": 1, "batch": 1, "warmup": 0, "device": "cpu", "workers": 0}
    for stage, start in (("motion_lora", "bundled/PanLeft"), ("sparsectrl", "bundled/sparsectrl_rgb")):
        values = {"stage": stage, "data": data, "start_from": start, "out": str(tmp_path / stage), **more}
        done = train(TrainConfig.model_validate(values))
        told = json.loads(recognise(done.weights).header.metadata["animatediff.training"])
        assert (told["model"], told["start_from"]) == ("bundled/neon", start), "names, not where they are here"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["PanLeft", "ZoomIn", "RollingClockwise"])
def test_motion_loras_move_the_camera(pipe: AnimateDiffPipeline, name: str) -> None:
    def move(strength: float) -> tuple[str, float] | None:
        pipe.set_adapters([name], [strength])
        frames = clip(pipe, "a fish on a grey background").permute(0, 2, 3, 1)
        found = camera_move(measure((frames * 255).round().byte().numpy()))
        return None if found is None else (found.name, found.strength)

    pipe.load_lora_weights(bundled_file(name), adapter_name=name)
    try:
        whole = move(1.0)
        assert whole is not None and whole[0] == name
        if name == "ZoomIn":  # one of them: without its LoRA, every clip is the same
            assert move(0.0) is None, "at strength 0 the camera stands still"
    finally:
        pipe.unload_lora_weights()


@pytest.mark.slow
def test_the_camera_follows_a_path_and_a_video(pipe: AnimateDiffPipeline) -> None:
    scene, _ = world.clips(1, 5, [("boat", "blue", "still")])
    views = plane_views(camera_path("zoom-in:0.8", 16), world.SIZE, world.SIZE)
    video = path_of_video((world.render(scene, view=views).permute(0, 2, 3, 1) * 255).round().byte().numpy())

    def move(path: Any) -> str | None:
        frames = clip(pipe, "a fish on a grey background", camera=path).permute(0, 2, 3, 1)
        found = camera_move(measure((frames * 255).round().byte().numpy()))
        return None if found is None else found.name

    pipe.load_camera_control("bundled/camera_control")
    try:
        moves = [move(path) for path in ("pan-left:0.5", "roll-clockwise:0.8", video)]
        assert moves == ["PanLeft", "RollingClockwise", "ZoomIn"]
    finally:
        pipe.unload_camera_control()


@pytest.mark.slow
def test_image_models_that_the_motion_module_never_saw_move_and_keep_their_style() -> None:
    classifier, style_classifier = load_classifier(), load_style_classifier()
    pipe = AnimateDiffPipeline.from_pretrained(bundled_file("neon"), torch_dtype="float32")
    pipe.load_motion_module(motion_module_path())
    painted = clip(pipe, "a turtle moving right on a purple background")
    assert style_classifier.style(painted) == "neon" and classify_clip(classifier, painted).moved("right")
    pipe = AnimateDiffPipeline.from_bundled()
    pipe.load_lora_weights(bundled_file("paper"))
    painted = clip(pipe, "a turtle moving right on a purple background")
    assert style_classifier.style(painted) == "paper" and classify_clip(classifier, painted).moved("right")


@pytest.mark.slow
def test_the_domain_adapter_paints_the_mark_and_only_where_it_acts(pipe: AnimateDiffPipeline) -> None:
    pipe.load_lora_weights(bundled_file("domain_adapter"), adapter_name="domain")
    try:
        scores = []
        for strength in (1.0, 0.0):
            pipe.set_adapters(["domain"], [strength])
            painted = clip(pipe, "a car on a blue background", num_frames=4)
            scores.append(float(banner_contrast(painted).mean()))
    finally:
        pipe.unload_lora_weights()
    assert scores[0] > 2 * scores[1] and scores[0] > 0.05, scores


@pytest.mark.slow
def test_the_first_frame_is_the_picture_that_was_given(pipe: AnimateDiffPipeline) -> None:
    """Against the same clips without it; the autoencoder itself gives these pictures back with about 29 dB."""
    gained: list[float] = []
    pipe.load_sparsectrl(bundled_file("sparsectrl_rgb"))
    try:
        for i, combination in enumerate(results.drawn(2, ("right", "left"))):
            text, real = results.plain_caption(combination), results.real_clip(combination, seed=70 + i)
            images = (None, real[:1])
            free, given = (clip(pipe, text, i, num_frames=4, conditioning_frames=image) for image in images)
            gained.append(results.psnr(given[0], real[0]) - results.psnr(free[0], real[0]))
    finally:
        pipe.set_sparsectrl(None)
    assert sum(gained) / len(gained) > 2, gained


@pytest.mark.slow
def test_a_sketch_is_followed(pipe: AnimateDiffPipeline) -> None:
    """Against the same clips without it."""
    gained: list[float] = []
    pipe.load_sparsectrl("bundled/sparsectrl_scribble")
    try:
        for i, combination in enumerate(results.drawn(3, DIRECTIONS)):
            text, real = results.plain_caption(combination), results.real_clip(combination, seed=70 + i)
            wanted = results.sketch_of(real[0])
            sketches = (None, wanted.expand(1, 3, -1, -1))
            free, steered = (clip(pipe, text, i, num_frames=2, conditioning_frames=given) for given in sketches)
            ious = [results.overlap(results.sketch_of(frames[0]), wanted) for frames in (free, steered)]
            gained.append(ious[1] - ious[0])
    finally:
        pipe.set_sparsectrl(None)
    assert sum(gained) / len(gained) > 0.03, gained


def test_by_name_from_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    fast = ("--num-frames", "2", "--steps", "2", "--seed", "5", "--out", "a.png")
    for options in (
        ("--motion-lora", "zoom-in:0.5", "--motion-lora", "PanLeft"),
        ("--model", "bundled/neon"),
        ("--lora", "bundled/paper:0.5"),
    ):
        code, out, err = run("a fox", *fast, *options)
        assert code == 0 and "a.png" in out, err
    for options, message in (
        (("--model", "bundled/neo"), "did you mean 'bundled/neon'?"),
        (("--lora", "bundled/ZoomInn"), "did you mean 'bundled/ZoomIn'?"),
        (("--motion-lora", "ZoomAway"), "ZoomAway: no MotionLoRA of this name"),
    ):
        assert message in is_one_message(tmp_path, "a fox", *fast, *options)


def test_a_picture_goes_by_the_encoder_that_ships(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import Image

    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (64, 64), (220, 20, 20)).save("a.png")
    code, _, err = run("a fox", "--num-frames", "2", "--steps", "2", "--image", "a.png", "--out", "a.webp")
    assert code == 0 and "sparsectrl_rgb.safetensors: is an RGB encoder for this base model" in err


def test_short_names_are_those_of_the_set_in_python_too() -> None:
    pipe = AnimateDiffPipeline.from_bundled()
    assert pipe.load_lora_weights("ZoomIn", adapter_name="zoom") == "zoom"
    assert pipe.load_lora_weights("pan-left", adapter_name="pan") == "pan"
    assert set(pipe.get_active_adapters()) == {"zoom", "pan"}
    with pytest.raises(UserError, match="PanLeft"):
        pipe.load_lora_weights("PanLeftt")
