"""A second pass: larger, close to the first, with the same pictures and controls, the VAE in tiles."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from support.close import relative
from support.commands import run
from support.images import RED, through_the_vae
from support.pipelines import pipeline, seeded

from animatediff.bundled import bundled_path
from animatediff.errors import UserError
from animatediff.media import read_video
from animatediff.pipelines.output import Callbacks
from animatediff.pipelines.upscale import enlarged, tiling
from animatediff.pipelines.vae import decode_images, encode_images
from animatediff.sampling.controlnet import ControlNetInput
from animatediff.sprites import world

SMALL: dict[str, Any] = {"num_frames": 3, "height": 16, "width": 24, "num_inference_steps": 4, "output_type": "pt"}


def test_the_result_is_larger_and_the_more_its_own_the_stronger() -> None:
    pipe = pipeline("v3")
    first = pipe("a cat", generator=seeded(1), **SMALL).frames
    phases: list[tuple[str, int, int]] = []

    def note(progress: Any) -> None:
        phases.append((progress.phase, progress.step, progress.total))

    call = {**SMALL, "output_type": "latent", "upscale": 2, "on_progress": note}
    passes = {s: pipe("a cat", generator=seeded(1), upscale_strength=s, **call).frames for s in (0.25, 1.0)}
    assert passes[1.0].shape == (1, 4, 3, 16, 24)
    with torch.no_grad(), tiling(pipe.vae):
        start = enlarged(pipe.vae, first.flatten(0, 1), 3, (32, 48), torch.device("cpu"), Callbacks())
        start = start.unflatten(0, (1, 3)).transpose(1, 2)
    distance = {strength: float((latents - start).pow(2).mean()) for strength, latents in passes.items()}
    assert distance[0.25] < distance[1.0] / 2, "with little strength it is the first pass, enlarged"
    assert not pipe.vae.use_tiling, "as it was"
    once = [phase for phase, step, total in phases if step == total]
    assert once == ["denoise", "decode", "encode", "denoise"] * 2
    assert [total for phase, step, total in phases if phase == "denoise" and step == total] == [4, 1, 4, 4]
    call["on_progress"] = None
    assert torch.equal(pipe("a cat", generator=seeded(1), upscale_strength=0.25, **call).frames, passes[0.25])
    assert pipe("a cat", generator=seeded(1), **{**call, "output_type": "pt"}).frames.shape == (1, 3, 3, 32, 48)


def test_pictures_windows_and_a_video_go_through_both_passes() -> None:
    pipe = pipeline("v3")
    settings = {**SMALL, "height": 16, "width": 16, "num_frames": 5, "window": 3, "overlap": 1}
    out = pipe(["a", "b"], images={0: RED}, generator=seeded(1, 2), upscale=2, upscale_steps=3, **settings).frames
    assert out.shape == (2, 5, 3, 32, 32)
    for clip in out:
        assert relative(clip[0], through_the_vae(pipe, RED)) < 0.02, "the picture at the larger size"
    video = [RED] * 5
    weak = pipe("a", video=video, strength=0.25, generator=seeded(1), upscale=1.5, **settings).frames
    assert weak.shape[-2:] == (24, 24)


def test_the_vae_works_in_tiles_and_is_left_as_it_was() -> None:
    vae = pipeline("v3").vae
    assert not vae.use_tiling
    with tiling(vae):
        assert vae.use_tiling
    with pytest.raises(KeyError), tiling(vae):
        raise KeyError
    assert not vae.use_tiling
    vae.enable_tiling()
    with tiling(vae):
        assert vae.use_tiling
    assert vae.use_tiling
    vae.disable_tiling()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"upscale": 1.0}, "upscale=1: expected more than 1 and at most 8 times"),
        ({"upscale": 20}, "upscale=20"),
        ({"upscale": 2, "output_type": "gif"}, "unknown output_type"),
        ({"upscale": 2, "upscale_strength": 0.0}, "upscale_strength=0: expected more than 0"),
        ({"upscale": 2, "upscale_strength": 0.1}, r"upscale_strength=0\.1 of 4 steps is not one whole step"),
        ({"upscale": 2, "controlnet_inputs": [ControlNetInput(frames=RED)]}, "0 ControlNets are loaded"),
    ],
)
def test_what_is_refused_before_the_first_pass(given: dict[str, Any], message: str) -> None:
    steps: list[Any] = []
    with pytest.raises(UserError, match=message):
        pipeline("v3")("a cat", on_progress=steps.append, **{**SMALL, **given})
    assert not steps


def test_from_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (32, 32), (220, 20, 20)).save("a.png")
    size = ("--num-frames", "2", "--steps", "2", "--width", "32", "--height", "32", "--seed", "5", "--dtype", "float32")
    held = ("--image", "a.png", "--image-mode", "latents")
    code, _, err = run("a fox", *size, *held, "--upscale", "1.5", "--out", "big.png")
    assert code == 0, err
    frames = read_video("big.png")[0]
    assert frames.shape == (2, 48, 48, 3)
    red, green, blue = frames[0].reshape(-1, 3).astype(int).mean(axis=0)
    assert red > 1.5 * max(green, blue), "the first frame is the picture"
    request = json.loads(Path("big.png.json").read_text())["request"]
    assert (request["upscale"], request["width"], request["height"]) == (1.5, 32, 32)
    for arguments, message in (
        (["--upscale", "1"], "upscale=1.0"),
        (["--upscale", "2", "--upscale-strength", "0"], "upscale_strength=0.0"),
        (["--upscale-steps", "9"], "upscale_steps is a setting of the second pass; add --upscale"),
    ):
        code, out, err = run("a fox", *arguments, "--out", "c.png")
        assert (code, out) == (2, "") and message in err and not Path("c.png").exists()


@pytest.fixture(scope="module")
def bundled_vae() -> Any:
    from diffusers import AutoencoderKL

    return AutoencoderKL.from_pretrained(bundled_path() / "vae").eval()


def drawn_large(size: int) -> torch.Tensor:
    """Two pictures of the sprite world (2, 3, size, size), enlarged."""
    pictures = world.render(world.stills(2, 5)[0])
    return torch.nn.functional.interpolate(pictures, (size, size), mode="bicubic", antialias=True).clamp(0, 1)


@torch.no_grad()
def test_what_fits_into_one_tile_is_taken_whole(bundled_vae: Any) -> None:
    pictures, cpu = drawn_large(128), torch.device("cpu")
    latents = encode_images(bundled_vae, pictures, cpu)
    decoded = decode_images(bundled_vae, latents)
    with tiling(bundled_vae):
        assert torch.equal(encode_images(bundled_vae, pictures, cpu), latents)
        assert torch.equal(decode_images(bundled_vae, latents), decoded)


@torch.no_grad()
@pytest.mark.parametrize("size", [(384, 256), (320, 352)])
def test_tiles_leave_no_seams_and_no_stripes(bundled_vae: Any, size: tuple[int, int]) -> None:
    """The fault of narrow rests: diffusers' own tiles are wrong by ten times as much, above all at the edges."""
    pictures, cpu = drawn_large(384)[..., : size[0], : size[1]], torch.device("cpu")
    latents = encode_images(bundled_vae, pictures, cpu)
    decoded = decode_images(bundled_vae, latents)
    with tiling(bundled_vae):
        tiles = encode_images(bundled_vae, pictures, cpu)
        tiled = decode_images(bundled_vae, latents)
        of_diffusers = (bundled_vae.decode(latents / bundled_vae.config["scaling_factor"]).sample / 2 + 0.5).clamp(0, 1)
    assert tiles.shape == latents.shape and tiled.shape == pictures.shape
    for edge in (slice(None), slice(-16, None)):
        ours, theirs = ((x - decoded)[..., edge, edge].pow(2).mean() for x in (tiled, of_diffusers))
        assert ours < 2e-3 and ours < theirs / 5, (edge, ours, theirs)
    assert (tiles - latents).pow(2).mean() < 0.05 * latents.var()
