"""CameraCtrl in the host: the golden case of the original, whole samplings against our own pipeline, and its fields."""

from __future__ import annotations

import os
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from support import comfy_host
from support.close import relative
from support.golden import expected, motion_file
from support.paths import GOLDEN
from torch import Tensor

from animatediff.camera import CameraPath
from animatediff.pipelines import AnimateDiffPipeline
from integrations.comfyui.attach import MotionRun, apply_motion
from integrations.comfyui.camera import CameraMove, Control, load_control, read_camera
from integrations.comfyui.domain_adapter import with_adapter
from integrations.comfyui.motion import Motion, load_motion, with_condition
from integrations.comfyui.nodes.camera import AnimateDiffCameraCtrl
from integrations.comfyui.sampling_settings import with_family_sampling
from integrations.comfyui.windows import handler_of, with_windows

models = comfy_host.models()
FAMILY = "cameractrl"
CASE = GOLDEN / FAMILY
FILE, POSES = CASE / "CameraCtrl.ckpt", CASE / "camera.txt"
GOLDEN_TOLERANCE = 1e-4
TOLERANCE = 5e-5
"""Of what the host's and our own sums round differently; see `support.close`."""
MOVES = "zoom-in:0.5, pan-left:0.2"


@cache
def loaded() -> Motion:
    return load_motion(motion_file(FAMILY), None)


@cache
def control() -> Control:
    return load_control(FILE)


@pytest.fixture
def inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The host's input folder, with a file of poses, and a file outside of it."""
    import folder_paths

    folder = tmp_path / "input"
    folder.mkdir()
    shutil.copy(POSES, folder / "poses.txt")
    shutil.copy(POSES, tmp_path / "outside.txt")
    monkeypatch.setattr(folder_paths, "get_input_directory", lambda: str(folder))
    return folder


def followed(camera: str, plain: Any = None, **inputs: Any) -> Any:
    """A MODEL whose camera follows a path, by the node."""
    motion = AnimateDiffCameraCtrl.execute(loaded(), control(), camera, **inputs).result[0]
    model = models.golden_model(FAMILY) if plain is None else plain
    return with_family_sampling(apply_motion(model, MotionRun(motion=motion)), motion.family)


def assert_golden(found: Tensor, wanted: Tensor) -> None:
    assert found.shape == wanted.shape
    assert (found - wanted).abs().max() <= GOLDEN_TOLERANCE


def test_the_originals_output_with_and_without_poses() -> None:
    tensors, plain = expected(FAMILY), models.golden_model(FAMILY)
    before, model = models.call(plain, tensors), followed(POSES.read_text(), plain)
    for apart in (False, True):  # both clips in one batch, and one after the other
        assert_golden(models.call(model, tensors, apart=apart), tensors["unet.out"])
    without = apply_motion(plain, MotionRun(motion=loaded()))
    assert_golden(models.call(without, tensors), tensors["unet.out.without_camera"])
    assert torch.equal(models.call(plain, tensors), before)
    assert models.hooked(plain) == 0


def test_the_image_lora_beside_it() -> None:
    tensors = expected(FAMILY)
    plain = with_adapter(models.golden_model(FAMILY), CASE / "RealEstate10K_LoRA.ckpt", 1.0)
    assert_golden(models.call(followed(POSES.read_text(), plain), tensors), tensors["unet.out.image_lora_1.0"])


# -- whole samplings ---------------------------------------------------------------------------------------------------


@cache
def pipeline() -> AnimateDiffPipeline:
    pipe = AnimateDiffPipeline.from_pretrained(CASE / "sd", torch_dtype=torch.float32)
    pipe.load_motion_module(motion_file(FAMILY))
    pipe.load_camera_control(FILE)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def noise(num_frames: int) -> Tensor:
    """At sizes below 16 the norms of the lowest level see so few numbers that rounding grows."""
    return torch.randn(1, 4, num_frames, 16, 16, generator=torch.Generator().manual_seed(3))


def by_host(model: Any, latents: Tensor, timesteps: list[int]) -> Tensor:
    return models.sampled(model, latents, timesteps, *map(models.conditioning, models.texts()))


def test_named_moves_are_those_of_our_pipeline() -> None:
    latents = noise(4)
    wanted, timesteps = models.by_pipeline(pipeline(), latents, 8, camera=MOVES, camera_scale=0.7)
    assert relative(by_host(followed(MOVES, camera_scale=0.7), latents, timesteps), wanted) <= TOLERANCE
    assert relative(by_host(followed(MOVES), latents, timesteps), wanted) > 1e-3


def test_a_file_of_poses_of_the_input_folder(inputs: Path) -> None:
    latents = noise(6)
    wanted, timesteps = models.by_pipeline(pipeline(), latents, 8, camera=str(POSES), camera_aspect=1.5)
    assert relative(by_host(followed("poses.txt", camera_aspect=1.5), latents, timesteps), wanted) <= TOLERANCE
    assert relative(by_host(followed("poses.txt"), latents, timesteps), wanted) > 1e-4


def test_windows_of_a_clip_longer_than_the_encoder_knows() -> None:
    latents = noise(17)
    wanted, timesteps = models.by_pipeline(pipeline(), latents, 8, steps=1, camera=MOVES, window=10, overlap=2)
    model = with_windows(followed(MOVES), handler_of(length=10, overlap=2))
    assert relative(by_host(model, latents, timesteps), wanted) <= TOLERANCE


def test_scale_zero_is_without() -> None:
    assert AnimateDiffCameraCtrl.execute(loaded(), control(), MOVES, camera_scale=0.0).result[0] is loaded()


@pytest.mark.parametrize(("dtype", "compute"), [(torch.bfloat16, None), (torch.float16, torch.float32)], ids=str)
def test_other_types_of_the_host(dtype: torch.dtype, compute: torch.dtype | None) -> None:
    tensors = expected(FAMILY)
    plain = models.golden_model(FAMILY, dtype=dtype, compute=compute)
    assert relative(models.call(followed(POSES.read_text(), plain), tensors), tensors["unet.out"]) < 0.05


@pytest.mark.skipif(not comfy_host.is_real(), reason="the stub keeps all weights loaded")
def test_weights_that_the_host_keeps_offloaded() -> None:
    tensors, model = expected(FAMILY), followed(POSES.read_text())
    assert_golden(models.call(model, tensors, prepare=models.load_offloaded), tensors["unet.out"])


# -- fields and mistakes -----------------------------------------------------------------------------------------------


def test_what_the_field_means(inputs: Path) -> None:
    assert read_camera("zoom-in\npan-left:0.2") == "zoom-in\npan-left:0.2"
    file, lines = read_camera("poses.txt"), read_camera(POSES.read_text())
    assert isinstance(file, CameraPath)
    assert isinstance(lines, CameraPath)
    assert torch.equal(file.to_world, lines.to_world)
    assert torch.equal(file.intrinsics, lines.intrinsics)
    before = AnimateDiffCameraCtrl.fingerprint_inputs("poses.txt")
    os.utime(inputs / "poses.txt", (1, 1))
    assert AnimateDiffCameraCtrl.fingerprint_inputs("poses.txt") != before
    assert AnimateDiffCameraCtrl.fingerprint_inputs(MOVES, camera_scale=1.0) == f"{MOVES} 1.0 None"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("zoom-into:1", "there is no move 'zoom-into'"),
        ("../outside.txt", "there is no file ../outside.txt in the host's input folder"),
        ("other.txt", "there is no file other.txt"),
        ("0 0.5 0.5\n1 0.5 0.5", "camera: line 1 has 3 numbers, expected 19"),
    ],
)
def test_wrong_paths_are_named_before_anything_runs(text: str, message: str, inputs: Path) -> None:
    found = AnimateDiffCameraCtrl.validate_inputs(text)
    assert isinstance(found, str)
    assert message in found
    assert "`" not in found


def test_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match="6 camera poses for a clip of 4 frames"):
        by_host(followed(POSES.read_text()), noise(4), [501, 1])
    other = load_motion(motion_file("hotshot"), None)
    with pytest.raises(ValueError, match=r"CameraCtrl\.ckpt: it merges poses into .* take the motion module"):
        AnimateDiffCameraCtrl.execute(other, control(), MOVES)
    once = with_condition(loaded(), CameraMove(control(), MOVES))
    with pytest.raises(ValueError, match="goes through AnimateDiff CameraCtrl already"):
        AnimateDiffCameraCtrl.execute(once, control(), MOVES)
