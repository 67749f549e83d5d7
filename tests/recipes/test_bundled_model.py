"""The bundled model: it loads without a network, moves as told, and its world is what it says it is."""

from __future__ import annotations

import random

import pytest
import torch
from support.close import relative
from typer.testing import CliRunner

from animatediff.bundled import bundled_path, motion_module_path
from animatediff.cli.main import app
from animatediff.pipelines import AnimateDiffPipeline
from animatediff.sprites import world
from animatediff.sprites.words import BACKGROUNDS, MOTIONS, OBJECTS, caption, combinations, corpus_words
from recipes.bundled.tokenizer import vocabulary


@pytest.fixture(scope="module")
def pipe() -> AnimateDiffPipeline:
    return AnimateDiffPipeline.from_bundled()


def centres(clip: torch.Tensor) -> torch.Tensor:
    """Centre (x, y) in pixels of what is orange, frame by frame; clip (f, 3, h, w) in 0..1."""
    red, green, blue = clip.unbind(1)
    orange = (red - blue - 0.25).clamp(min=0) * (red > green)
    grid = torch.arange(clip.shape[-1], dtype=torch.float32)
    weight = orange.sum((1, 2)).clamp(min=1e-6)
    return torch.stack([(orange.sum(1) * grid).sum(1) / weight, (orange.sum(2) * grid).sum(1) / weight], 1)


def travel(pipe: AnimateDiffPipeline, words: str) -> torch.Tensor:
    """Pixels (right, down) from the first frames of a fox clip to its last."""
    generator = torch.Generator().manual_seed(3)
    out = pipe(f"a fox {words} on a blue background", generator=generator, num_inference_steps=4, output_type="pt")
    places = centres(out.frames[0])
    return places[-2:].mean(0) - places[:2].mean(0)


@pytest.mark.slow
def test_it_moves_as_told(pipe: AnimateDiffPipeline) -> None:
    assert travel(pipe, "moving right")[0] > 4
    assert travel(pipe, "moving left")[0] < -4
    assert travel(pipe, "moving up")[1] < -4
    assert travel(pipe, "moving down")[1] > 4


@pytest.mark.parametrize("steps", [4, 16])
def test_every_step_may_draw_all_its_noise_anew(pipe: AnimateDiffPipeline, steps: int) -> None:
    """`eta` of 1, on a noise schedule that ends without signal."""
    few = {"num_frames": 1, "num_inference_steps": steps, "output_type": "latent", "height": 32, "width": 32}
    noise = torch.Generator().manual_seed(0)
    assert pipe("a fox", eta=1.0, generator=noise, **few).frames.isfinite().all()


def test_background_has_the_colour_named(pipe: AnimateDiffPipeline) -> None:
    for name in ("green", "purple"):
        out = pipe(
            f"a boat on a {name} background",
            generator=torch.Generator().manual_seed(5),
            num_frames=2,
            num_inference_steps=8,
            output_type="pt",
        )
        corner = out.frames[0, :, :, :4, :4].mean((0, 2, 3)) * 255
        colours = {b: torch.tensor(world.COLOURS[b], dtype=torch.float32) for b in BACKGROUNDS}
        assert min(colours, key=lambda b: float((colours[b] - corner).norm())) == name


def test_more_frames_than_it_was_trained_for(pipe: AnimateDiffPipeline) -> None:
    out = pipe("a fox spinning on a red background", num_frames=20, num_inference_steps=2, output_type="pt")
    assert out.frames.shape == (1, 20, 3, 64, 64)


def test_a_clip_does_not_depend_on_its_neighbours_in_the_batch(pipe: AnimateDiffPipeline) -> None:
    texts = ["a car moving left on a grey background", "a duck growing on a red background"]
    seeds = (11, 12)

    def render(index: list[int]) -> torch.Tensor:
        generators = [torch.Generator().manual_seed(seeds[i]) for i in index]
        few = {"num_frames": 4, "num_inference_steps": 3, "output_type": "pt"}
        return pipe([texts[i] for i in index], generator=generators, **few).frames

    together = render([0, 1])
    for i in (0, 1):
        assert relative(together[i], render([i])[0]) < 1e-5


def test_the_files_are_small_and_in_standard_layouts() -> None:
    files = [path for path in [*bundled_path().rglob("*"), motion_module_path()] if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 15e6
    assert {path.name for path in bundled_path().iterdir()} >= {"unet", "vae", "text_encoder", "tokenizer", "scheduler"}


def test_every_word_of_the_world_is_one_token() -> None:
    tokens, _ = vocabulary()
    assert [word for word in corpus_words() if f"{word}</w>" not in tokens] == []


def test_captions_are_made_of_known_words_only() -> None:
    rng = random.Random(0)
    known = set(corpus_words())
    for combination in combinations(held_out=False):
        words = caption(combination, rng).replace(",", " ,").split()
        assert set(words) <= known, words


def test_held_out_combinations_are_kept_from_training() -> None:
    held_out, trained = combinations(held_out=True), combinations(held_out=False)
    assert not set(held_out) & set(trained)
    assert len(held_out) + len(trained) == len(OBJECTS) * len(BACKGROUNDS) * len(MOTIONS)
    assert {c[2] for c in held_out} == set(MOTIONS)
    scene, _ = world.clips(40, seed=1)
    shown = zip(scene.obj.tolist(), scene.background.tolist(), scene.motion.tolist(), strict=True)
    assert not {(OBJECTS[o], BACKGROUNDS[b], MOTIONS[m]) for o, b, m in shown} & set(held_out)


def test_rendering_is_repeatable_and_moves_as_the_word_says() -> None:
    scene, _ = world.clips(12, seed=7)
    assert torch.equal(world.render(scene), world.render(world.clips(12, seed=7)[0]))
    for clip in range(12):
        first, last = clip * world.NUM_FRAMES, (clip + 1) * world.NUM_FRAMES - 1
        dx, dy = (float(p[last] - p[first]) for p in (scene.x, scene.y))
        step = world.STEP.get(MOTIONS[int(scene.motion[first])], (0, 0))
        assert (dx > 4, dx < -4, dy > 4, dy < -4) == (step[0] > 0, step[0] < 0, step[1] > 0, step[1] < 0)


def test_light_and_shadow_tell_how_a_resting_sprite_is_held() -> None:
    """Above it is brighter than below it, as its own angle has it: a camera that rolls shows no more than that."""
    scene, _ = world.stills(64, 5, [c for c in world.TRAIN if c[2] == "still"])
    assert 0.3 < float((scene.angle != 0).float().mean()) < 0.9 and scene.angle.abs().max() <= world.TILT
    grey = world.render(scene).mean(1) / world.backgrounds(scene).mean(1)
    reach = 0.66 * scene.size
    up = torch.deg2rad(scene.angle - 90)
    for i in range(64):
        above, below = (
            grey[i, round(float(scene.y[i] + side * dy)), round(float(scene.x[i] + side * dx))]
            for side, dx, dy in ((s, reach[i] * up[i].cos(), reach[i] * up[i].sin()) for s in (1, -1))
        )
        assert above > below + 0.2, i
    moving = world.clips(8, 3, [c for c in world.TRAIN if c[2] == "still"])[0]
    assert not moving.angle.any(), "in clips the camera is held upright"


def test_list_words() -> None:
    result = CliRunner().invoke(app, ["animate", "--list-words"])
    assert result.exit_code == 0
    assert all(word in result.output for word in (*OBJECTS, *BACKGROUNDS, *MOTIONS))
