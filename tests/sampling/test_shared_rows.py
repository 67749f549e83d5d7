"""What nothing tells apart is computed once for negative prompts and prompts, and comes out the same."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
from support.close import relative
from support.golden import load_unet
from support.pipelines import SMALL, pipeline, seeded

from animatediff.sampling import predict
from animatediff.sampling.shared_rows import first_layers_once

FEW: dict[str, Any] = {**SMALL, "height": 16, "width": 16, "num_inference_steps": 2, "output_type": "latent"}


@contextmanager
def rows_seen(*layers: torch.nn.Module) -> Iterator[list[set[int]]]:
    """How many images each of the layers gets at once."""
    seen: list[set[int]] = [set() for _ in layers]
    hooks = [
        layer.register_forward_hook(lambda layer, args, output, index=index: seen[index].add(len(output)))
        for index, layer in enumerate(layers)
    ]
    yield seen
    for hook in hooks:
        hook.remove()


@pytest.mark.parametrize(
    ("family", "settings", "attention"),
    [
        ("v3", {}, 4),
        ("v1", {}, 4),  # with norms over frames
        ("v3", {"guidance_scale": 1.0}, 4),
        ("v3", {"prompt": ["a cat", "a dog"]}, 8),
        ("v3", {"num_frames": 5, "window": 3, "overlap": 1, "prompt": {0: "spring", 3: "summer"}}, 3),
        ("v3", {"pag_scale": 2.0}, 4),
        ("v3", {"pag_scale": 2.0, "layers": "down_blocks.0"}, 8),  # its third part sees something else
    ],
)
def test_one_of_all_copies(family: str, settings: dict[str, Any], attention: int) -> None:
    pipe = pipeline(family)
    first = pipe.unet.down_blocks[0]
    layers = first.resnets[0].conv1, first.attentions[0].transformer_blocks[0].attn1.to_q
    given = {"prompt": "a cat", "guidance_scale": 7.5, **FEW, **settings}
    pipe.set_pag_applied_layers(given.pop("layers", "mid"))
    given.setdefault("pag_scale", 0.0)
    seeds = range(len(given["prompt"]) if isinstance(given["prompt"], list) else 1)

    def render() -> torch.Tensor:
        return pipe(**given, generator=seeded(*seeds)).frames

    try:
        with rows_seen(*layers) as seen:
            found = render()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(predict, "first_layers_once", lambda *args, **kwargs: nullcontext())
            assert relative(found, render()) < 1e-4
    finally:
        pipe.set_pag_applied_layers(None)
    images = given.get("window", given["num_frames"]) * len(seeds)
    assert seen == [{images}, {attention}]
    assert not any("forward" in vars(layer) for layer in pipe.unet.modules()), "nothing of it stays behind"


def test_not_where_something_tells_copies_apart() -> None:
    """SDXL's time embeddings, a graph that is made already, and arguments of attention that are not known."""
    sd1, sdxl = pipeline("v3").unet, load_unet("sdxl")
    for unet, copies, attention in ((sdxl, 2, None), (sd1, 1, None), (sd1, 2, {"gligen": {}})):
        with first_layers_once(unet, copies, attention=attention):
            assert not any("forward" in vars(layer) for layer in unet.modules())
