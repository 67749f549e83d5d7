"""Guidance rescale (arXiv 2305.08891, section 3.4): the numbers of diffusers, and an option at every door."""

from __future__ import annotations

from typing import Any

import torch
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import rescale_noise_cfg
from support.close import relative
from support.commands import run, watched
from support.pipelines import SMALL, pipeline, seeded

from animatediff.render import build_request, parse_config
from animatediff.sampling import GuidedClips
from animatediff.sampling.conditions import Conditioning


def test_numbers_are_those_of_diffusers_and_each_clip_has_its_own() -> None:
    batch = torch.randn(4, 4, 3, 8, 8, generator=seeded(0)[0])
    batch[0] *= 3  # clips of unlike contrast
    negative, positive = batch.chunk(2)

    predictor: Any = lambda latents, timestep, frames, given, perturbed: batch  # noqa: E731
    both = Conditioning(clips=[0, 1, 0, 1], num_negative=2, embeddings=torch.zeros(4, 1, 1))
    for rescale in (0.0, 0.3, 0.7, 1.0):
        guided = GuidedClips(predictor=predictor, groups=[both], scale=lambda: 9.0, rescale=rescale)
        found = guided(negative, torch.tensor(1), range(3))
        plain = negative + 9.0 * (positive - negative)
        expected = rescale_noise_cfg(plain, positive, guidance_rescale=rescale) if rescale else plain
        assert relative(found, expected) < 1e-6
    assert torch.allclose(found.std((1, 2, 3, 4)), positive.std((1, 2, 3, 4))), "at 1 the contrast is the unguided one"


def test_it_changes_clips_and_zero_changes_nothing() -> None:
    pipe = pipeline()
    settings = {**SMALL, "guidance_scale": 9.0}
    plain = pipe("a cat", generator=seeded(1), **settings).frames
    assert torch.equal(pipe("a cat", generator=seeded(1), guidance_rescale=0.0, **settings).frames, plain)
    assert relative(pipe("a cat", generator=seeded(1), guidance_rescale=0.7, **settings).frames, plain) > 5e-4


def test_it_is_reached_from_command_line_yaml_and_python(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    given = watched(monkeypatch)
    assert run("a fox", "--guidance-rescale", "0.7", "--out", "a.png")[0] == 0
    assert given["guidance_rescale"] == 0.7
    (from_yaml,) = parse_config("prompt: a fox\nguidance_rescale: 0.7")
    assert from_yaml == build_request({"prompt": "a fox", "guidance_rescale": 0.7})
    code, _, err = run("a fox", "--guidance-rescale", "1.5")
    assert code == 2 and "guidance_rescale=1.5: expected 0 to 1" in err
