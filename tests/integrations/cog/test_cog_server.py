"""Cog's real HTTP server with our model: videos, refusals, failures, cancellation, one load of the models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.cog_server import CogServer, Webhook, content_of, data_url, eventually

from animatediff.media.read import read_video
from animatediff.render.read.result import load_result

QUICK: dict[str, Any] = {"prompt": "a fox moving right on a green background", "steps": 1, "num_frames": 4, "seed": 7}


def frames_of(prediction: dict[str, Any], tmp_path: Path) -> tuple[np.ndarray, float, Path]:
    """Frames and rate of a prediction's video, and its file."""
    kind, content = content_of(prediction["output"])
    file = tmp_path / f"clip.{kind.rpartition('/')[2]}"
    file.write_bytes(content)
    frames, fps = read_video(file)
    return frames, fps, file


def test_a_prediction_gives_a_video(cog: CogServer, tmp_path: Path) -> None:
    done = cog.done(**QUICK, width=72, height=64, fps=12)
    frames, fps, file = frames_of(done, tmp_path)
    assert file.suffix == ".mp4" and frames.shape == (4, 64, 72, 3) and fps == 12
    assert load_result(file).seed == (7,)
    assert {name: done["metrics"][name] for name in ("seed", "num_frames", "width", "height", "fps")} == {
        "seed": 7,
        "num_frames": 4,
        "width": 72,
        "height": 64,
        "fps": 12.0,
    }
    assert "step 1 of 1" in done["logs"]


def test_the_models_are_loaded_once(cog: CogServer) -> None:
    """Before the first prediction, in fact."""
    assert [cog.done(**QUICK)["metrics"]["models_loaded"] for _ in range(2)] == [0, 0]
    moved = {**QUICK, "zoom_in_motion_strength": 0.5}
    assert [cog.done(**moved)["metrics"]["models_loaded"] for _ in range(2)] == [1, 0]


def test_former_names_give_the_same_file(cog: CogServer) -> None:
    ours = {
        "num_frames": 3,
        "width": 64,
        "height": 72,
        "steps": 2,
        "negative_prompt": "a boat",
        "model": "bundled/neon",
    }
    theirs = {
        "video_length": 3,
        "W": 64,
        "H": 72,
        "num_inference_steps": 2,
        "n_prompt": "a boat",
        "path": "bundled/neon",
    }
    shared = {"prompt": "a fox", "seed": 5, "guidance_scale": 3}
    first = cog.done(**shared, **ours, output_format="gif")
    assert cog.done(**shared, **theirs, mp4=False)["output"] == first["output"]
    assert content_of(first["output"])[0] == "image/gif"


def test_a_camera_move_is_its_motion_lora(cog: CogServer) -> None:
    by_slider = cog.done(**QUICK, pan_up_motion_strength=0.75)
    assert cog.done(**QUICK, motion_loras=["TiltUp:0.75"])["output"] == by_slider["output"]
    assert cog.done(**QUICK)["output"] != by_slider["output"]


def test_images_and_videos_are_sent_as_data(cog: CogServer, tmp_path: Path) -> None:
    red = tmp_path / "red.png"
    Image.new("RGB", (64, 64), "red").save(red)
    image = data_url(red, "image/png")
    frames, *_ = frames_of(cog.done(**QUICK, image=image, image_mode="latents", output_format="apng"), tmp_path)
    assert frames[0, ..., 0].mean() > frames[0, ..., 1].mean() + 50
    both = cog.done(**QUICK, keyframes=[image], keyframe_indices=[0], image_mode="latents", output_format="apng")
    np.testing.assert_array_equal(frames_of(both, tmp_path)[0], frames)
    video = data_url(frames_of(both, tmp_path)[2], "image/apng")
    changed = cog.done(**QUICK | {"steps": 16}, video=video, strength=0.0625, output_format="apng")
    assert 0 < np.abs(frames_of(changed, tmp_path)[0].astype(int) - frames).mean() < 45  # the last of 16 steps alone


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"steps": 500}, "500 is greater than the maximum of 100"),
        ({"frames": 129}, "129 is greater than the maximum of 128"),
        ({"blend": "wavy"}, '"wavy" is not one of ["pyramid","flat","overlap-linear","gauss"]'),
        ({"model": "mine"}, '"mine" is not one of ["bundled","bundled/neon"]'),
        ({"closed_loop": "yes"}, '"yes" is not of type "boolean"'),
        ({"fps": 0}, "0 is less than the minimum of 0.001"),
        ({"seed": 2**70}, "1.1805916207174113e+21 is greater than the maximum of 18446744073709551615"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_wrong_value_is_refused(cog: CogServer, wrong: dict[str, Any], message: str) -> None:
    reply = cog.predict(**QUICK | wrong)
    assert reply.status_code == 422
    (name,) = wrong
    assert reply.json()["detail"] == [{"loc": ["body", "input", name], "msg": message, "type": "value_error"}]


def test_a_missing_prompt_is_refused(cog: CogServer) -> None:
    reply = cog.predict(steps=1)
    assert reply.status_code == 422
    assert [(item["loc"][-1], item["msg"]) for item in reply.json()["detail"]] == [("prompt", "Field required")]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"width": 63}, "width=63: expected a positive multiple of 8 pixels"),
        ({"negative_prompt": "a", "n_prompt": "b"}, "contradict each other; give negative_prompt alone"),
        ({"mp4": True, "output_format": "gif"}, "mp4 and output_format='gif' contradict each other"),
        ({"motion_module": "mm_sd_v15_v2.ckpt"}, "motion_module: no model 'mm_sd_v15_v2.ckpt' here"),
        ({"image": "/etc/passwd"}, "image: expected the address of a file"),
        ({"image": "data:image/png;base64,aGVsbG8="}, "image: cannot be read as an image"),
        ({"custom_base_model_url": "https://civitai.com/1"}, "custom_base_model_url is not taken"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_mistake_is_one_message_and_the_server_goes_on(cog: CogServer, wrong: dict[str, Any], message: str) -> None:
    failed = cog.predict(**QUICK | wrong).json()
    assert failed["status"] == "failed"
    assert message in failed["error"] and "Traceback" not in failed["error"] and "\n" not in failed["error"]
    assert "/tmp" not in failed["error"] and "`" not in failed["error"]
    eventually(cog.health, lambda state: state.get("status") == "READY")


def test_a_running_prediction_is_cancelled(cog: CogServer) -> None:
    before = cog.done(**QUICK)
    long = {"prompt": "a fox", "steps": 100, "num_frames": 32, "seed": 1}
    with Webhook() as webhook:
        started = cog.client.put(
            "/predictions/long",
            json={"input": long, "webhook": webhook.url, "webhook_events_filter": ["start", "logs", "completed"]},
            headers={"Prefer": "respond-async"},
        )
        assert started.status_code == 202 and started.json()["status"] in ("starting", "processing")
        webhook.until(lambda state: "step 1 of 100" in (state.get("logs") or ""))
        assert cog.client.post("/predictions/long/cancel").status_code == 200
        ended = webhook.until(lambda state: state["status"] not in ("starting", "processing"))
    assert ended["status"] == "canceled" and ended.get("output") is None
    eventually(cog.health, lambda state: state.get("status") == "READY")
    after = cog.done(**QUICK)
    assert after["output"] == before["output"] and after["metrics"]["models_loaded"] == 0


def test_the_schema_is_served(cog: CogServer) -> None:
    schema = cog.client.get("/openapi.json").json()
    inputs = schema["components"]["schemas"]["Input"]["properties"]
    assert inputs["steps"]["maximum"] == 100 and inputs["frames"]["deprecated"] is True
    assert schema["components"]["schemas"]["Output"] == {"title": "Output", "type": "string", "format": "uri"}
