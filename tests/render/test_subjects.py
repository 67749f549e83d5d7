"""A setting whose subject is missing is said, whichever it is; with its subject it is not."""

from __future__ import annotations

import logging
from dataclasses import fields
from typing import Any

import pytest
import torch

from animatediff.pipelines import AnimateDiffPipeline
from animatediff.pipelines import subjects as of_calls
from animatediff.pipelines.arguments import NEEDS, Arguments
from animatediff.render import subjects as of_requests
from animatediff.render.declare import Option
from animatediff.render.options import ARGUMENT_FLAGS, OPTIONS
from animatediff.render.request import build_request
from animatediff.subjects import without_effect

REFUSED = {
    "control_images", "image_mode", "ip_adapter_image", "ip_adapter_encoder", "controlnet", "controlnet_video",
    "strength", "video_fps", "video_start", "video_duration", "audio", "sparsectrl", "ip_adapter", "upscale_strength",
    "upscale_steps", "video_by_number", "camera", "camera_control",
}  # fmt: skip
"""Options that a request without their subject refuses (`render.request_checks`)."""
ALWAYS = {
    "model", "motion_module", "vae", "text_encoder", "text_encoder_2", "prediction_type", "use_ema", "loras",
    "conv_in_from_file",
    "motion_loras", "domain_adapter", "embeddings", "download", "prompt", "prompt_travel", "prompt_head", "prompt_tail",
    "plain_prompts", "seed", "num_frames", "width", "height", "steps", "guidance_scale", "scheduler", "clip_skip",
    "window", "motion_scale", "closed_loop", "freeinit", "image", "last_image", "keyframes", "video", "upscale",
    "device", "dtype", "cpu_offload", "compile", "decode_chunk_size", "vram", "inference_config", "out", "fps", "name",
    "upscaler", "fps_out", "codec", "max_size", "drive", "motion_from",
}  # fmt: skip
"""Options that act by themselves, or that their loader judges."""
ANOTHER: dict[str, Any] = {
    "family": "v2", "prompt_interpolation": "slerp", "prompt_hold": 0.2, "prompt_loop": True,
    "control_preprocess": "canny", "normalize_condition_images": True, "sparsectrl_config": "a.yaml",
    "ip_adapter_scale": 0.4, "controlnet_preprocess": ["canny"], "controlnet_scale": [0.5], "controlnet_start": [0.1],
    "controlnet_end": [0.9], "controlnet_spread": [[0.5]], "resize": "pad", "quality": 50, "loop": 3,
    "drive_kind": ["pose"],
}  # fmt: skip
WITH: dict[str, dict[str, Any]] = {
    "motion_module": {"motion_module": "m.ckpt"},
    "prompt_travel": {"prompt_travel": [{4: "winter"}]},
    "control_images": {"control_images": ["a.png"], "sparsectrl": "s.ckpt"},
    "sparsectrl": {"control_images": ["a.png"], "sparsectrl": "s.ckpt"},
    "ip_adapter": {"ip_adapter": "i.bin", "ip_adapter_image": ["a.png"]},
    "controlnet": {"controlnet": ["c"], "controlnet_video": ["v.mp4"]},
    "drive": {"drive": "v.mp4"},
    "images": {"video": "v.mp4"},
}
IN_CALLS = {
    "negative_prompt": "grey", "guidance_rescale": 0.5, "overlap": 1, "stride": 2, "blend": "flat",
    "long_mode": "motion", "noise": "freenoise", "freeinit_filter": "ideal", "freeinit_ds": 0.5, "freeinit_dt": 0.5,
    "controlnet_conditioning_scale": 0.5, "control_start": 0.1, "control_end": 0.5, "controlnet_frame_indices": (3,),
    "eta": 0.5, "freeinit_fast": True, "freeinit_order": 2, "pag_adaptive_scale": 0.1,
}  # fmt: skip
OF_OTHERS: dict[str, Any] = {
    "negative_prompt_embeds": torch.zeros(1, 77, 128), "control_guidance_start": 0.1, "control_guidance_end": 0.5,
    "guess_mode": True, "enforce_inference_steps": True, "callback_on_step_end_tensor_inputs": ["prompt_embeds"],
    "prompt_2": "a dog", "negative_prompt_2": "fog", "pooled_prompt_embeds": torch.zeros(1, 128),
    "negative_pooled_prompt_embeds": torch.zeros(1, 128), "original_size": (8, 8), "crops_coords_top_left": (1, 1),
    "target_size": (8, 8), "negative_original_size": (8, 8), "negative_crops_coords_top_left": (1, 1),
    "negative_target_size": (8, 8), "save_every": 5.0, "motion_amount": "large", "image_affinity": 0.5,
    "image_motion_scale": 0.5, "color_match": True, "camera_scale": 0.5, "camera_aspect": 1.0,
    "motion_from_strength": 0.5, "motion_from_start": 0.1, "motion_from_end": 0.5, "motion_from_blocks": "down",
}  # fmt: skip
"""Those whose subjects a call of text alone lacks (SDXL, a video, ControlNets, a callback, PIA, CameraCtrl)."""
OF_OPTIONS = [item for item in OPTIONS if item.needs in of_requests.SUBJECTS]


def test_every_option_declares_its_subject_or_acts_by_itself() -> None:
    known = {*of_requests.SUBJECTS, *of_requests.OUTPUT_SUBJECTS, *of_calls.SUBJECTS}
    needing = {item.name for item in OPTIONS if item.needs}
    assert {item.needs for item in OPTIONS if item.needs} <= known
    assert {item.name for item in OPTIONS} == needing | REFUSED | ALWAYS
    assert not needing & ALWAYS
    assert {subject for subject in NEEDS.values() if subject} <= set(of_calls.SUBJECTS)


@pytest.mark.parametrize("item", OF_OPTIONS, ids=lambda item: item.name)
def test_an_option_without_its_subject_is_said(item: Option, caplog: pytest.LogCaptureFixture) -> None:
    setting = {"prompt": ["a fox"], item.name: ANOTHER[item.name]}
    with caplog.at_level(logging.WARNING, "animatediff"):
        of_requests.warn_of_idle_options(build_request(setting))
    assert [f"`{item.name}` has no effect: " in line for line in caplog.messages] == [True]
    caplog.clear()
    of_requests.warn_of_idle_options(build_request(setting | WITH[item.needs]))
    assert caplog.messages == []


@pytest.mark.parametrize(("name", "idle", "active"), [("loop", "mp4", "gif"), ("quality", "apng", "webp")])
def test_formats_say_what_they_do_not_hold(name: str, idle: str, active: str, caplog: pytest.LogCaptureFixture) -> None:
    request = build_request({"prompt": ["a fox"], name: ANOTHER[name]})
    of_requests.warn_of_idle_output(request, active)
    assert caplog.messages == []
    of_requests.warn_of_idle_output(request, idle)
    assert [line.startswith(f"`{name}` has no effect") for line in caplog.messages] == [True]


def test_a_call_says_which_of_its_arguments_do_nothing(caplog: pytest.LogCaptureFixture) -> None:
    pipe = AnimateDiffPipeline.from_bundled()
    pipe.set_scheduler("euler")
    for name, value in (IN_CALLS | OF_OTHERS).items():
        caplog.clear()
        pipe.job("a fox", num_frames=8, guidance_scale=1.0, **{name: value})
        assert [line.startswith(f"`{name}` has no effect: ") for line in caplog.messages] == [True], name
    caplog.clear()
    pipe.set_scheduler("ddim")
    acting = {name: value for name, value in IN_CALLS.items() if not name.startswith("control")}
    pipe.job("a fox", num_frames=8, window=4, guidance_scale=3.0, freeinit=2, pag_scale=2.0, **acting)
    assert caplog.messages == []
    needing = {name for name, subject in NEEDS.items() if subject}
    assert needing == {*IN_CALLS, *OF_OTHERS, "upscale_strength", "upscale_steps", "fast"}


def test_upscaling_without_a_factor_is_said(caplog: pytest.LogCaptureFixture) -> None:
    pipe = AnimateDiffPipeline.from_bundled()
    pipe.job("a fox", upscale_steps=3)
    assert [line.startswith("`upscale_steps` has no effect: ") for line in caplog.messages] == [True]


def test_flags_stand_for_arguments_that_have_another_name() -> None:
    assert ARGUMENT_FLAGS["controlnet_conditioning_scale"] == "--control-scale"
    assert {item.name for item in fields(Arguments)} >= set(ARGUMENT_FLAGS)


def test_defaults_and_empty_texts_are_not_given() -> None:
    settings = [("a", "x", 1.0, 1), ("b", "x", ["", None], ()), ("c", "x", (0,), [0]), ("d", "", 5, 1)]
    nowhere = {"x": of_requests.Subject(is_there=lambda given: False, lacking="there is no x")}
    assert without_effect(settings, nowhere, None) == []
    assert without_effect([("a", "x", 2.0, 1)], nowhere, None) == ["`a` has no effect: there is no x"]
