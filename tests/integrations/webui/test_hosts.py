"""AnimateDiff in real hosts, through its API: the same latents as from the pipeline here, and nothing left behind."""

from __future__ import annotations

import base64
import copy
import io
import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import EulerDiscreteScheduler
from PIL import Image
from support.webui_host import WebUI, image_of, images_of
from torch import Tensor

from animatediff.media import write_video
from animatediff.pipelines import AnimateDiffPipeline
from animatediff.prompts import PromptTravel
from animatediff.weights.families import FAMILIES

STEPS = 4
"""With which Euler's time steps of the host are whole numbers, as they are here."""
SIDE = 64
PLAIN: dict[str, Any] = {
    "prompt": "a hill", "negative_prompt": "fog", "seed": 5, "steps": STEPS, "width": SIDE, "height": SIDE,
    "sampler_name": "Euler", "cfg_scale": 7.0, "batch_size": 4,
}  # fmt: skip
CLIP = PLAIN | {"batch_size": 1}


def animated(family: str = "v3", **settings: Any) -> dict[str, Any]:
    """The part of a request that asks for a clip of 4 frames, which come back as they are."""
    given = {"enable": True, "model": f"tiny_{family}.safetensors", "video_length": 4, "format": ["Frame"]}
    return {"alwayson_scripts": {"AnimateDiff": {"args": [given | settings]}}}


@cache
def checkpoint(path: Path) -> dict[str, Any]:
    """Parts of a host's checkpoint, as the pipeline takes them."""
    base = AnimateDiffPipeline.from_single_file(path, torch_dtype=torch.float32).base
    return {name: getattr(base, name) for name in ("unet", "vae", "text_encoder", "tokenizer", "scheduler")}


def ours(host: WebUI, family: str = "v3", prompt: Any = "a hill", **arguments: Any) -> Tensor:
    """Latents (f, c, h, w) of the pipeline here, from the noise that the host has just started from."""
    models = host.data / "models"
    base = checkpoint(models / "Stable-diffusion" / "tiny.safetensors")
    pipe = AnimateDiffPipeline(**base | {"unet": copy.deepcopy(base["unet"])})
    pipe.load_motion_module(models / "animatediff" / f"tiny_{family}.safetensors")
    pipe.set_progress_bar_config(disable=True)
    pipe.base.scheduler = EulerDiscreteScheduler(**FAMILIES[family].betas, timestep_spacing="linspace")
    if lora := arguments.pop("motion_lora", None):
        pipe.load_lora_weights(models / "Lora" / f"{lora[0]}.safetensors", scale=lora[1])
    noise = host.noise().movedim(0, 1)[None]
    out = pipe(
        prompt, negative_prompt="fog", num_frames=noise.shape[2], height=SIDE, width=SIDE, num_inference_steps=STEPS,
        guidance_scale=7.0, latents=noise, output_type="latent", **arguments,
    )  # fmt: skip
    return torch.as_tensor(out.frames)[0].movedim(0, 1)


def difference(host: WebUI, expected: Tensor) -> float:
    """The largest difference from what the host sampled, in units of the largest latent."""
    got = host.latents()
    assert got.shape == expected.shape
    return float((got - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("family", ["v1", "v2", "v3"])
@pytest.mark.parametrize("together", [True, False], ids=["one_batch", "apart"])
def test_latents_are_those_of_the_pipeline(webui: WebUI, family: str, together: bool) -> None:
    """With cond and uncond in one batch or apart; v1 has norms over frames, v2 a module in the mid block."""
    options = {"override_settings": {"batch_cond_uncond": together}}  # of A1111; the others look at memory
    webui.order(apart=not together)
    try:
        plain = webui.generate(PLAIN | options)
        without = webui.latents()
        reply = webui.generate(CLIP | animated(family) | options)
    finally:
        webui.order()
    assert difference(webui, ours(webui, family)) < 1e-4
    assert float((webui.latents() - without).abs().max()) > 0.1
    frames = images_of(reply)
    assert len(frames) == 4
    assert all((frame != image).mean() > 0.5 for frame, image in zip(frames, images_of(plain), strict=True))


def test_more_frames_than_a_window_run_in_windows_of_the_pipeline(webui: WebUI) -> None:
    settings = {"video_length": 8, "batch_size": 4, "overlap": 2}
    webui.generate(CLIP | animated(**settings, closed_loop="N"))
    assert difference(webui, ours(webui, window=4, overlap=2)) < 1e-4
    webui.generate(CLIP | animated(**settings, closed_loop="R-P", stride=2))
    assert difference(webui, ours(webui, window=4, overlap=2, stride=2, closed_loop=True)) < 1e-4


def test_prompts_travel_as_in_the_pipeline(webui: WebUI) -> None:
    webui.generate(CLIP | {"prompt": "a hill\n0: spring\n3: winter\nin oil"} | animated())
    travel = PromptTravel({0: "spring", 3: "winter"}, head="a hill", tail="in oil", hold=0.0)
    assert difference(webui, ours(webui, prompt=travel)) < 1e-4


def test_a_motion_lora_is_written_as_a_lora(webui: WebUI) -> None:
    """It leaves the prompt that the host encodes, and stays in the one that is kept with the image."""
    reply = webui.generate(CLIP | {"prompt": "a hill <lora:tiny_PanLeft:0.02>"} | animated("v2"))
    expected = ours(webui, "v2", motion_lora=("tiny_PanLeft", 0.02))
    assert difference(webui, expected) < 1e-4
    assert float((expected - ours(webui, "v2")).abs().max()) > 0.01
    assert "<lora:tiny_PanLeft:0.02>" in json.loads(reply["info"])["infotexts"][0]


def test_files_come_back_and_lie_where_users_look(webui: WebUI) -> None:
    body = (
        CLIP | {"prompt": "ein Hügel"} | animated(format=["GIF", "MP4", "WEBP", "WEBM", "PNG", "TXT", "Frame"], fps=5)
    )
    reply = webui.generate(body)
    assert len(reply["images"]) == 4 + 4
    gif, webp = image_of(reply["images"][0]), image_of(reply["images"][2])
    assert (gif.format, gif.n_frames, gif.info["duration"]) == ("GIF", 4, 200)  # pyright: ignore
    assert (webp.format, webp.n_frames) == ("WEBP", 4)  # pyright: ignore
    assert base64.b64decode(reply["images"][1])[4:8] == b"ftyp"
    assert base64.b64decode(reply["images"][3])[:4] == b"\x1a\x45\xdf\xa3"
    text = json.loads(reply["info"])["infotexts"][0]
    assert text.startswith("ein Hügel\nNegative prompt: fog\n")
    folder = max((webui.data / "outputs" / "txt2img-images" / "AnimateDiff").iterdir())
    name = max(folder.glob("*.gif")).stem
    assert name.endswith("-5")
    suffixes = sorted(path.suffix for path in folder.glob(f"{name}*"))
    assert suffixes == ["", ".gif", ".mp4", ".txt", ".webm", ".webp"]
    assert sorted(path.name for path in (folder / name).iterdir()) == [f"{n:05}.png" for n in range(4)]
    for image in (gif, webp, Image.open(folder / name / "00000.png")):
        buffer = io.BytesIO((folder / f"{name}.webp").read_bytes()) if image is webp else None
        sent = base64.b64encode(buffer.getvalue() if buffer else _bytes_of(image, reply, folder / name)).decode()
        status, info = webui.post("png-info", {"image": sent})
        assert (status, info["info"]) == (200, text)


def _bytes_of(image: Image.Image, reply: dict[str, Any], folder: Path) -> bytes:
    return base64.b64decode(reply["images"][0]) if image.format == "GIF" else (folder / "00000.png").read_bytes()


@pytest.mark.parametrize("end", ["success", "error", "interrupt"])
def test_nothing_of_it_stays_in_the_model(webui: WebUI, end: str) -> None:
    """The next image without AnimateDiff is the one before, to the bit, whatever came between."""
    before = webui.generate(PLAIN | {"sampler_name": "DPM++ 2M"})
    orders = {"success": {}, "error": {"fail_at": 2}, "interrupt": {"interrupt_at": 2}}[end]
    webui.order(**orders)
    try:
        status, reply = webui.post("txt2img", CLIP | animated("v1"))
    finally:
        webui.order()
    assert status == (500 if end == "error" else 200), reply
    after = webui.generate(PLAIN | {"sampler_name": "DPM++ 2M"})
    assert after["images"] == before["images"]
    again = webui.generate(CLIP | animated("v1"))
    assert len(again["images"]) == 4
    assert difference(webui, ours(webui, "v1")) < 1e-4


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"model": "tiny_sdxl.safetensors"}, "a motion module for SDXL base models, but the base model is SD 1.x"),
        ({"model": "tiny_v4"}, "no motion module 'tiny_v4'; did you mean 'tiny_v"),
        ({"video_length": 1}, "a clip has at least 2 frames"),
        ({"fpss": 8}, "unknown setting 'fpss'; did you mean 'fps'?"),
        ({"fps": "fast", "stride": 0}, "FPS (fps) is a whole number from 1 to 240, got 'fast'; Stride (stride) is"),
        ({"video_length": 40, "batch_size": 32, "overlap": 32}, "Overlap (overlap) is a whole number from -1 to 31"),
        ({"video_length": 8, "batch_size": 4, "overlap": 4}, "Overlap (overlap): 4 frames, but windows have 4"),
        ({"model": "tiny_v1.safetensors", "batch_size": 32, "video_length": 32}, "this motion module knows 24"),
        ({"mask_path": "masks"}, "Mask path (mask_path) is not supported"),
        ({"video_path": "/nowhere"}, "Video path (video_path): a video is the start of img2img"),
        ({"freeinit_enable": True, "freeinit_ds": 0}, "expected a share of the frequencies"),
    ],
)
def test_mistakes_are_answered_with_what_to_do(webui: WebUI, settings: dict[str, Any], said: str) -> None:
    status, reply = webui.post("txt2img", CLIP | animated(**settings))
    assert status == 422
    assert said in reply["detail"]
    assert webui.generate(CLIP)["images"]


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        ("a hill AND a lake", "prompts with AND are not sampled as a clip"),
        ("0: spring\n9: winter", "frame 9 is to show 'winter', but the clip has 4 frames"),
        ("0: spring\n0: winter", "two lines for frame 0"),
        ("0: spring\nnonsense\n2: winter", "'nonsense' stands between lines of frames"),
        ("a hill <lora:tiny_PanLeft:much>", "a MotionLoRA is written <lora:name:strength>"),
    ],
)
def test_mistakes_in_prompts_are_answered_too(webui: WebUI, prompt: str, said: str) -> None:
    status, reply = webui.post("txt2img", CLIP | {"prompt": prompt} | animated("v2"))
    assert status == 422
    assert said in reply["detail"]


def test_a_host_without_motion_modules_says_where_they_go(webui: WebUI) -> None:
    folder = webui.data / "models" / "animatediff"
    folder.rename(folder.with_name("away"))
    try:
        status, reply = webui.post("txt2img", CLIP | animated())
    finally:
        folder.with_name("away").rename(folder)
    assert status == 422
    assert "no motion module found. Read were" in reply["detail"]
    assert f"Put one into {folder}" in reply["detail"]


def encoded(image: np.ndarray) -> str:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def picture(shift: int = 0) -> np.ndarray:
    ramp = np.arange(SIDE, dtype=np.uint8) * 2 + shift
    return np.stack([np.broadcast_to(ramp, (SIDE, SIDE)), np.broadcast_to(ramp[:, None], (SIDE, SIDE))] * 2, -1)[
        ..., :3
    ]


def test_img2img_fades_from_its_image(webui: WebUI) -> None:
    """Frame k starts from 1 - k^power / scale of the image: with a scale of 4 the last of 5 frames from none of it."""
    body = CLIP | {"init_images": [encoded(picture())], "denoising_strength": 0.5}
    webui.generate(body | animated(video_length=5, latent_scale=4.0), "img2img")
    start = torch.load(webui.data / "noise.pt")["x"]
    webui.generate(PLAIN | body | {"batch_size": 5}, "img2img")
    image = torch.load(webui.data / "noise.pt")["x"][0]
    noise = webui.noise()
    for frame, share in enumerate([1, 0.75, 0.5, 0.25, 0]):
        torch.testing.assert_close(start[frame], share * image + (1 - share) * noise[frame], rtol=1e-4, atol=1e-4)
    last = {"last_frame": encoded(picture(90)), "latent_scale_last": 4.0}
    webui.generate(body | animated(video_length=5, latent_scale=4.0, **last), "img2img")
    both = torch.load(webui.data / "noise.pt")["x"]
    torch.testing.assert_close(both[0], image, rtol=1e-4, atol=1e-4)
    assert float((both[-1] - image).abs().max()) > 0.05


def test_img2img_starts_from_the_frames_of_a_video(webui: WebUI, tmp_path: Path) -> None:
    frames = np.stack([picture(30 * index) for index in range(4)])
    folder = write_video(frames, tmp_path / "frames")
    body = CLIP | {"init_images": [encoded(picture())], "denoising_strength": 0.5}
    reply = webui.generate(body | animated(video_path=str(folder), video_length=0), "img2img")
    start = torch.load(webui.data / "noise.pt")["x"]
    assert len(reply["images"]) == len(start) == 4
    webui.generate(PLAIN | {"init_images": list(map(encoded, frames)), "denoising_strength": 0.5}, "img2img")
    torch.testing.assert_close(start, torch.load(webui.data / "noise.pt")["x"], rtol=1e-4, atol=1e-4)


def test_batch_count_and_batch_size_are_clips(webui: WebUI) -> None:
    """One after another, with the seeds that follow; both are said."""
    reply = webui.generate(CLIP | {"batch_size": 2, "n_iter": 1} | animated())
    assert len(reply["images"]) == 8
    second = images_of(reply)[4:]
    alone = images_of(webui.generate(CLIP | {"seed": 5 + 4} | animated()))
    assert all(np.array_equal(one, other) for one, other in zip(second, alone, strict=True))


def test_hires_fix_and_free_init_run(webui: WebUI) -> None:
    small = images_of(webui.generate(CLIP | animated()))
    hires = {"enable_hr": True, "hr_scale": 2, "hr_upscaler": "Latent", "denoising_strength": 0.7}
    hires["hr_additional_modules"] = ["Use same choices"]  # of Forge, which fails without
    large = images_of(webui.generate(CLIP | hires | {"prompt": "0: spring\n3: winter"} | animated()))
    assert [frame.shape for frame in large] == [(2 * SIDE, 2 * SIDE, 3)] * 4
    again = images_of(webui.generate(CLIP | animated(freeinit_enable=True, freeinit_iters=2)))
    assert len(again) == 4
    assert (again[0] != small[0]).mean() > 0.5
    assert webui.generate(PLAIN)["images"] == webui.generate(PLAIN)["images"]
