"""CameraCtrl: parity with the original, files both ways, and its place in a call."""

from __future__ import annotations

import json
import logging
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from einops import rearrange
from safetensors.torch import load_file
from support.paths import GOLDEN

from animatediff.camera import camera_path, read_poses
from animatediff.errors import UserError
from animatediff.models.camera import CameraConfig, CameraCtrl
from animatediff.motion import CameraMerge, MotionLayout, plan_windows
from animatediff.pipelines import AnimateDiffPipeline
from animatediff.sampling.chunks import motion_in_chunks
from animatediff.weights.cameractrl import ENCODER, MERGES, load_cameractrl, save_cameractrl
from animatediff.weights.convert import convert
from animatediff.weights.inspect import describe
from animatediff.weights.motion import load_motion_module

CASE = GOLDEN / "cameractrl"
FILE, POSES, MOTION = CASE / "CameraCtrl.ckpt", CASE / "camera.txt", CASE / "v3_sd15_mm.ckpt"


@cache
def expected() -> dict[str, torch.Tensor]:
    return load_file(CASE / "expected.safetensors")


@cache
def facts() -> dict[str, Any]:
    return json.loads((CASE / "case.json").read_text())


@pytest.fixture(scope="module")
def pipe() -> AnimateDiffPipeline:
    pipe = AnimateDiffPipeline.from_pretrained(CASE / "sd", torch_dtype=torch.float32)
    pipe.load_motion_module(MOTION)
    pipe.load_camera_control(FILE)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def assert_close(found: torch.Tensor, wanted: torch.Tensor, tolerance: float = 1e-5) -> None:
    assert found.shape == wanted.shape
    assert (difference := (found - wanted).abs().max().item()) <= tolerance, f"differs by {difference:.2e}"


@torch.no_grad()
def run_unet(pipe: AnimateDiffPipeline, *, camera: bool = True) -> torch.Tensor:
    tensors, control, motion = expected(), pipe.camera_control, pipe.attachment
    assert control is not None and motion is not None
    sample = tensors["unet.sample"]
    num_frames = sample.shape[2]
    poses = control.at_modules(motion.adapter, control.tokens(read_poses(POSES).rays(64, 192))) if camera else None
    with motion.frames.during(num_frames, camera=poses):
        out = pipe.unet(
            rearrange(sample, "b c f h w -> (b f) c h w"),
            tensors["unet.timestep"],
            tensors["unet.encoder_hidden_states"].repeat_interleave(num_frames, 0),
        ).sample
    return rearrange(out, "(b f) c h w -> b c f h w", f=num_frames)


@pytest.mark.exact
def test_features_and_merge_of_the_original(pipe: AnimateDiffPipeline) -> None:
    tensors, control, motion = expected(), pipe.camera_control, pipe.attachment
    assert control is not None and motion is not None
    with torch.no_grad():
        features = control.encoder(read_poses(POSES).rays(64, 192))
    for level, (found, tolerance) in enumerate(zip(features, (2e-5, 1e-5, 1e-5, 1e-5), strict=True)):
        wanted = tensors[f"pose_encoder.features.{level}"]
        assert_close(rearrange(found, "b f h w c -> b c f h w"), wanted, tolerance)
    module = motion.adapter.get_submodule("down_blocks.1.motion_modules.0")
    layer: Any = control.get_submodule("down_blocks.1.0")
    pose = rearrange(tensors["motion_module.pose_feature"], "b c f h w -> b f (h w) c")
    x = rearrange(tensors["motion_module.in"], "b c f h w -> (b f) c h w")
    with torch.no_grad(), motion.frames.during(6, camera={module: CameraMerge(pose, layer)}):  # pyright: ignore
        y = module(x, 6)
    assert_close(rearrange(y, "(b f) c h w -> b c f h w", f=6), tensors["motion_module.out"])


@pytest.mark.exact
def test_unet_and_video_of_the_original(pipe: AnimateDiffPipeline) -> None:
    tensors = expected()
    assert_close(run_unet(pipe), tensors["unet.out"])
    assert_close(run_unet(pipe, camera=False), tensors["unet.out.without_camera"])
    out = render(pipe, camera=str(POSES), steps=facts()["steps"])
    assert_close(out, tensors["pipeline.video"], 2e-5)
    pipe.load_lora_weights(CASE / "RealEstate10K_LoRA.ckpt")  # its rank differs from layer to layer
    try:
        assert_close(run_unet(pipe), tensors["unet.out.image_lora_1.0"])
    finally:
        pipe.unload_lora_weights()


def render(pipe: AnimateDiffPipeline, steps: int = 1, **more: Any) -> torch.Tensor:
    given: dict[str, Any] = {
        "negative_prompt": facts()["negative_prompt"], "height": 64, "width": 192, "num_inference_steps": steps,
        "guidance_scale": facts()["guidance_scale"], "output_type": "pt",
    }  # fmt: skip
    if "num_frames" not in more:
        given["latents"] = expected()["pipeline.latents"]
    elif "generator" not in more:
        given["generator"] = torch.Generator().manual_seed(1)
    return rearrange(pipe(facts()["prompt"], **{**given, **more}).frames, "b f c h w -> b c f h w")


# -- files -------------------------------------------------------------------------------------------------------------


def test_layouts_both_ways(tmp_path: Path) -> None:
    pruned, back, saved = (tmp_path / name for name in ("pruned.safetensors", "back.ckpt", "saved.ckpt"))
    convert(FILE, pruned)
    convert(pruned, back)
    save_cameractrl(load_cameractrl(pruned), saved)
    wanted = torch.load(FILE)
    assert set(load_file(pruned)) == {*wanted[ENCODER], *wanted[MERGES]}, "the same keys without prefix"
    for file in (back, saved):
        found = torch.load(file)
        for group in (ENCODER, MERGES):
            assert set(found[group]) == set(wanted[group])
            assert all(torch.equal(found[group][key], value) for key, value in wanted[group].items()), file.name
    for file in (FILE, pruned, back, saved):
        facts = describe(file)
        assert facts["kind"] == "cameractrl" and "load_camera_control" in facts["give_it_to"]


def test_files_that_are_none(tmp_path: Path) -> None:
    state = torch.load(FILE)
    half = tmp_path / "half.ckpt"
    torch.save({MERGES: state[MERGES]}, half)
    with pytest.raises(UserError, match=r"half\.ckpt: the pose encoder .* is missing or not whole"):
        load_cameractrl(half)
    del state[ENCODER]["encoder_down_conv_blocks.0.0.block2.bias"]
    torch.save(state, half)
    with pytest.raises(UserError, match=r"1 tensors missing"):
        load_cameractrl(half)
    with pytest.raises(UserError, match="a motion module, not a CameraCtrl model"):
        load_cameractrl(MOTION)
    with pytest.raises(UserError, match=r"a CameraCtrl model, not a motion module .* `camera_control`"):
        load_motion_module(FILE)


def test_published_sizes() -> None:
    """150 and 40 tensors, of 199,262,400 and 18,961,600 numbers, tables left out."""
    layout = MotionLayout(
        down=((320,) * 2, (640,) * 2, (1280,) * 2, (1280,) * 2),
        mid=1280,  # v2's, which takes no poses
        up=((1280,) * 3, (1280,) * 3, (640,) * 3, (320,) * 3),
    )
    with torch.device("meta"):
        control = CameraCtrl(CameraConfig.of(layout))
    control.check_fits(layout)
    encoder = [value for key, value in control.state_dict().items() if key.startswith("encoder.")]
    merges = [value for key, value in control.state_dict().items() if not key.startswith("encoder.")]
    assert (len(encoder) + 8, sum(value.numel() for value in encoder)) == (150, 199_262_400)
    assert (len(merges), sum(value.numel() for value in merges)) == (40, 18_961_600)
    tokens = control.tokens(torch.empty(1, 6, 20, 72, 200, device="meta"))
    sizes = [(9, 25), (5, 13), (3, 7), (2, 4)]  # the UNet rounds up where a side is odd
    assert [tuple(part.shape) for part in tokens] == [
        (1, 20, h * w, width) for (h, w), width in zip(sizes, (320, 640, 1280, 1280), strict=True)
    ]


def test_saved_with_the_pipeline(pipe: AnimateDiffPipeline, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pipe.save_pretrained(tmp_path)
    found = AnimateDiffPipeline.from_pretrained(tmp_path, torch_dtype=torch.float32)
    assert torch.equal(render(found, camera=str(POSES)), render(pipe, camera=str(POSES)))
    images = AnimateDiffPipeline.from_pretrained(tmp_path, torch_dtype=torch.float32, motion_adapter=None)
    assert images.camera_control is None and "CameraCtrl model is left out" in caplog.text


def test_motion_modules_of_another_base_are_refused(pipe: AnimateDiffPipeline) -> None:
    layout = MotionLayout(down=((32,) * 2,) * 3, up=((32,) * 3,) * 3)
    with pytest.raises(UserError, match=r"merges poses into motion modules of .* and those loaded are"):
        load_cameractrl(FILE, layout=layout)


# -- calls -------------------------------------------------------------------------------------------------------------


def test_strength_and_no_path(pipe: AnimateDiffPipeline) -> None:
    small: dict[str, Any] = {"num_frames": 2, "height": 64, "width": 64, "output_type": "latent"}
    calls = [{}, {"camera": "zoom-in", "camera_scale": 0.0}, {"camera": "zoom-in", "camera_scale": 0.5}]
    calls += [{"camera": "zoom-in"}, {}]
    without, none, half, whole, again = (
        pipe(
            facts()["prompt"], num_inference_steps=1, generator=torch.Generator().manual_seed(1), **small, **call
        ).frames
        for call in calls
    )
    assert torch.equal(none, without)
    assert all((one - other).abs().max() > 1e-3 for one, other in ((whole, without), (half, without), (whole, half)))
    assert torch.equal(again, without), "nothing of it stays"


def test_a_path_for_each_clip_and_halves_apart(pipe: AnimateDiffPipeline) -> None:
    generators = [torch.Generator().manual_seed(seed) for seed in (1, 2, 1, 2)]
    common = {"num_frames": 2, "guidance_scale": 2.0}
    alone = [render(pipe, camera=camera, generator=generators[place], **common)
             for place, camera in enumerate(("zoom-in", "pan-left"))]  # fmt: skip
    texts = {"prompt": [facts()["prompt"]] * 2, "negative_prompt": facts()["negative_prompt"], "output_type": "pt"}
    together = pipe(
        **texts, camera=["zoom-in", "pan-left"], generator=generators[2:], height=64, width=192,
        num_inference_steps=1, **common,
    ).frames  # fmt: skip
    for one, other in zip(alone, together, strict=True):
        assert_close(rearrange(other, "f c h w -> c f h w")[None], one, 2e-5)


def test_long_clips_are_encoded_as_their_windows(pipe: AnimateDiffPipeline) -> None:
    """The original's list of windows: each is encoded by itself, predictions are averaged."""
    control, path = pipe.camera_control, camera_path("pan-left, zoom-in", 20)
    assert control is not None and control.config.max_positions == 16
    windows = plan_windows(20, 16, 12, blend="flat")
    assert [window.frames[0] for window in windows] == [0, 4]
    with torch.no_grad():
        parts = [control.tokens(path.rays(64, 64, window.frames)) for window in windows]
        whole = control.tokens(path.rays(64, 64))
    for level, found in enumerate(whole):
        first, second = parts[0][level], parts[1][level]
        assert torch.allclose(found[:, :4], first[:, :4], atol=1e-5)
        assert torch.allclose(found[:, 4:16], (first[:, 4:] + second[:, :12]) / 2, atol=1e-5)
    seen: list[int] = []
    encode = control.encoder.forward
    control.encoder.forward = lambda rays: (seen.append(rays.shape[2]), encode(rays))[1]
    try:
        more = {"window": 16, "overlap": 12, "blend": "flat", "guidance_scale": 1.0, "output_type": "latent"}
        pipe(facts()["prompt"], camera=path, num_frames=20, height=64, width=64, num_inference_steps=2, **more)
    finally:
        del control.encoder.forward
    assert seen == [16, 16], "once a window, whatever the number of steps"


def test_windows_inside_the_motion_modules_take_their_own_poses(pipe: AnimateDiffPipeline) -> None:
    """Windows that are the whole clip, twice, give what one call without windows gives."""
    from animatediff.motion import Window

    control, motion = pipe.camera_control, pipe.attachment
    assert control is not None and motion is not None
    module = motion.adapter.get_submodule("down_blocks.0.motion_modules.0")
    tokens = control.tokens(camera_path("zoom-in", 6).rays(16, 16))
    poses = control.at_modules(motion.adapter, tokens)
    x = torch.randn(12, 32, 2, 2, generator=torch.Generator().manual_seed(0))
    parts = [Window(tuple(frames), torch.ones(len(frames))) for frames in ([0, 1, 2], [3, 4, 5])]
    with torch.no_grad():
        with motion.frames.during(6, camera=poses):
            windowed = module(x, 6, windows=parts)
        for frames in ([0, 1, 2], [3, 4, 5]):
            alone = {key: merge.of(frames) for key, merge in poses.items()}
            rows = torch.tensor([clip * 6 + frame for clip in range(2) for frame in frames])
            with motion.frames.during(3, camera=alone):
                assert torch.allclose(windowed[rows], module(x[rows], 3), atol=1e-6)


def test_motion_modules_in_parts_take_the_poses_of_their_pixels(pipe: AnimateDiffPipeline) -> None:
    """A measure against too little memory: a few pixels at a time, the same result."""
    control, motion = pipe.camera_control, pipe.attachment
    assert control is not None and motion is not None
    module = motion.adapter.get_submodule("down_blocks.0.motion_modules.0")
    block, sizes = module.get_submodule("transformer_blocks.0"), list[int]()
    poses = control.at_modules(motion.adapter, control.tokens(camera_path("zoom-in", 3).rays(40, 24)))
    x = torch.randn(6, 32, 5, 3, generator=torch.Generator().manual_seed(0))
    hook = block.register_forward_hook(lambda layer, args, out: sizes.append(out.shape[2]))
    with torch.no_grad(), motion.frames.during(3, camera=poses):
        whole = module(x, 3)
        forward = block.attn1.forward
        block.attn1.forward = lambda y: (sizes.append(y.shape[2]), forward(y))[1]
        try:
            with motion_in_chunks(pipe.unet, 4):
                parts = module(x, 3)
        finally:
            del block.attn1.forward
            hook.remove()
    assert torch.allclose(parts, whole, atol=1e-6)
    assert sizes == [15, 4, 4, 4, 3, 15]


def test_works_with_the_rest(pipe: AnimateDiffPipeline) -> None:
    """Fast mode, PAG, odd sizes, a second pass: each takes poses; less memory gives the same."""
    small: dict[str, Any] = {"num_frames": 3, "height": 40, "width": 24, "output_type": "latent"}
    path = "orbit-left:0.5, tilt-up:0.2@ease-in-out"

    def latents(camera: str | None, steps: int = 1, **more: Any) -> torch.Tensor:
        generator = torch.Generator().manual_seed(1)
        call = {**small, **more, "camera": camera, "generator": generator, "num_inference_steps": steps}
        return pipe(facts()["prompt"], **call).frames

    plain = latents(path)
    assert (plain - latents(None)).abs().max() > 1e-2
    assert_close(latents(path, vram="30MB"), plain, 1e-4)
    others: list[dict[str, Any]] = [{"fast": "max", "steps": 12}, {"pag_scale": 2.0}, {"upscale": 1.5, "steps": 2}]
    for more in others:
        found = latents(path, **more)
        assert found.isfinite().all() and (found - latents(None, **more)).abs().max() > 1e-2, more


def test_mistakes_are_one_sentence(pipe: AnimateDiffPipeline, tmp_path: Path) -> None:
    for camera, more, said in (
        (str(POSES), {"num_frames": 8}, "6 camera poses for a clip of 8 frames"),
        ("zoom-in", {"num_frames": 1}, "2 frames or more"),
        ("zoom-inn", {"num_frames": 4}, "did you mean"),
        (["zoom-in"] * 3, {"num_frames": 4}, "one `camera` or one each, got 3"),
        (torch.zeros(3, 3), {"num_frames": 4}, "matrices"),
        ([str(POSES), camera_path("zoom-in", 4)], {}, f"{POSES} has 6, camera[1] has 4 poses"),
    ):
        with pytest.raises(UserError) as error:
            render(pipe, camera=camera, **more)
        assert said in str(error.value) and "\n" not in str(error.value)
    assert len(pipe(facts()["prompt"], camera=str(POSES), num_inference_steps=1, height=64, width=64).frames[0]) == 6


def test_without_a_model_that_follows_it(caplog: pytest.LogCaptureFixture) -> None:
    bundled = AnimateDiffPipeline.from_bundled()
    with pytest.raises(UserError, match=r"add `camera_control` .* MotionLoRAs .*ZoomIn, ZoomOut"):
        bundled("a fox", camera="zoom-in")
    with pytest.raises(UserError, match="merges poses into motion modules of"):
        bundled.load_camera_control(FILE)
    with caplog.at_level(logging.WARNING):
        bundled.job("a fox", camera_scale=0.5)
    assert "`camera_scale` has no effect" in caplog.text
