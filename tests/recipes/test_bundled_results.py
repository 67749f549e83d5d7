"""The classifiers and scores behind the tables of the bundled set, tried on clips whose truth is known."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml
from support.paths import ROOT

from animatediff.bundled import bundled_path
from animatediff.sprites import world
from animatediff.sprites.words import DIRECTIONS, is_held_out
from animatediff.training.read import load_train_config
from recipes.bundled import results
from recipes.bundled.shape_parts import settings_of
from recipes.bundled.style_classifier import check, load_style_classifier
from recipes.bundled.vae import load_vae

RECIPES = ROOT / "configs" / "training" / "bundled"


def test_styles_are_told_apart() -> None:
    assert all(check(load_style_classifier(), load_vae(bundled_path()), num=6))


def test_prompts_of_results_were_kept_from_training() -> None:
    assert all(is_held_out(*combination) for combination in results.drawn(32, DIRECTIONS))


def test_turning_back_is_seen() -> None:
    (combination,) = results.drawn(1, ("right",))
    clip = results.real_clip(combination, seed=3)
    assert results.is_monotonic(clip)
    back = torch.cat([clip[:8], clip[:8].flip(0)])
    assert not results.is_monotonic(back)
    assert not results.is_monotonic(torch.cat([clip[:1].expand(15, -1, -1, -1), clip[-1:]]))  # one jump at the end


def test_outlines_are_compared() -> None:
    (combination,) = results.drawn(1, ("right",))
    image = results.real_clip(combination, seed=3)[0]
    drawing = results.sketch_of(image)
    assert drawing.shape == (1, world.SIZE, world.SIZE)
    assert results.overlap(drawing, drawing) == 1
    assert results.overlap(drawing, drawing.roll(1, 2)) > 0.5 > results.overlap(drawing, drawing.roll(20, 2))


def test_settings_are_read_as_the_pipeline_takes_them() -> None:
    read = settings_of("guidance_scale=3 scheduler=unipc freeu=[0.9,0.9,1.1,1.2]")
    assert read == {"guidance_scale": 3, "scheduler": "unipc", "freeu": [0.9, 0.9, 1.1, 1.2]}


@pytest.mark.parametrize("recipe", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_recipes_of_the_bundled_set_are_valid(recipe: Path) -> None:
    config = load_train_config(recipe, ["model=bundled"])
    own = recipe.stem == "my-clips"  # the recipe for clips that a user brings
    assert config.data.kind == ("folder" if own else "sprites") and config.data.height == world.SIZE
    assert own or yaml.safe_load(recipe.read_text())["seed"] == config.seed  # a fixed one
