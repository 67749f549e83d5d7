"""Where shape is lost: the parts of the bundled model measured alone, and settings of the sampler, by templates.

`python -m recipes.bundled.shape_parts`: drawn frames once through the autoencoder, then stills of the image model alone
(no motion module), at the prompts of `recipes.bundled.measure`. `--try "guidance_scale=3 scheduler=unipc"` adds a row
with other settings, each as the pipeline takes it; `--clips N` makes N clips of each row, too. `--try "strength=0.5"`
begins with drawn frames that have as much noise as half of the steps remove, which says at what noise shape is lost.
"""

from __future__ import annotations

from typing import Any

import torch
import yaml
from torch import Tensor

from animatediff.bundled import bundled_path
from animatediff.sprites.words import Combination
from recipes.bundled.fit import arguments
from recipes.bundled.measure import SEED, prompts
from recipes.bundled.rendering import new_pipeline, write_rows
from recipes.bundled.shape import Shape, real_frames, shape_table, shapes_of
from recipes.bundled.vae import load_vae

AT_ONCE = 16
"""Stills made together."""


def settings_of(text: str) -> dict[str, Any]:
    """Read `name=value name=value`, values as in YAML."""
    pairs = [pair.partition("=") for pair in text.split()]
    return {name: yaml.safe_load(value) for name, _, value in pairs}


def pipeline_for(settings: dict[str, Any]) -> Any:
    """The bundled model with the settings that are no argument of a call, which are taken out of `settings`."""
    pipe = new_pipeline()
    if name := settings.pop("scheduler", None):
        pipe.set_scheduler(name)
    if freeu := settings.pop("freeu", None):
        pipe.enable_freeu(**dict(zip(("s1", "s2", "b1", "b2"), freeu, strict=True)))
    if layers := settings.pop("pag_applied_layers", None):
        pipe.set_pag_applied_layers(layers)
    return pipe


def rendered(pipe: Any, texts: list[str], first: int, num_frames: int, **settings: Any) -> Tensor:
    """Frames (clips, f, 3, 64, 64) in 0..1 of these prompts; the i-th begins from the noise of seed `first` + i."""
    generators = [torch.Generator().manual_seed(SEED + first + i) for i in range(len(texts))]
    return pipe(texts, num_frames=num_frames, generator=generators, output_type="pt", **settings).frames


def stills(
    pipe: Any, wanted: list[tuple[Combination, str]], real: Tensor, **settings: Any
) -> tuple[list[Shape], Tensor]:
    """One still of the image model alone a prompt: what templates say of each, and the stills (n, 3, 64, 64).

    real: (n, 3, 64, 64) in 0..1, where stills with a `strength` begin.
    """
    shapes: list[Shape] = []
    images: list[Tensor] = []
    for start in range(0, len(wanted), AT_ONCE):
        part = wanted[start : start + AT_ONCE]
        texts = [text for _, text in part]
        if "strength" in settings:  # from one video a call
            frames = torch.cat([
                rendered(pipe, [text], start + i, 1, motion_scale=0.0, video=real[start + i][None], **settings)[:, 0]
                for i, text in enumerate(texts)
            ])  # fmt: skip
        else:
            frames = rendered(pipe, texts, start, 1, motion_scale=0.0, **settings)[:, 0]
        images.append(frames)
        shapes += [
            shapes_of(frame[None], combination[0])[0] for frame, (combination, _) in zip(frames, part, strict=True)
        ]
    return shapes, torch.cat(images)


def clips(pipe: Any, wanted: list[tuple[Combination, str]], **settings: Any) -> list[Shape]:
    """What templates say of every fourth frame of a clip a prompt."""
    shapes: list[Shape] = []
    for i, (combination, text) in enumerate(wanted):
        (clip,) = rendered(pipe, [text], i, 16, **settings)
        shapes += shapes_of(clip[::4], combination[0])
    return shapes


def main(argv: list[str] | None = None) -> None:
    parser = arguments(__doc__)
    parser.add_argument("--stills", type=int, default=128, help="stills a row")
    parser.add_argument("--clips", type=int, default=0, help="clips a row, of the first prompts")
    parser.add_argument("--try", dest="tries", action="append", default=[], help="settings of one more row")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    args.run.mkdir(parents=True, exist_ok=True)
    vae, wanted = load_vae(bundled_path()), prompts(max(args.stills, args.clips))
    drawn = torch.stack([real_frames(vae, c, SEED + i)[i % 4] for i, (c, _) in enumerate(wanted[: args.stills])])
    real = [shapes_of(frame[None], c[0])[0] for frame, (c, _) in zip(drawn, wanted, strict=False)]
    parts = {"drawn, once through the autoencoder": (real, real)}
    print(shape_table(parts), flush=True)
    for number, text in enumerate(["", *args.tries]):
        settings, name = settings_of(text), text or "as recommended"
        pipe = pipeline_for(settings)
        shapes, images = stills(pipe, wanted[: args.stills], drawn, **settings)
        write_rows([list(row) for row in images[:64].split(8)], args.run / f"stills_{number}.png")
        added = {f"stills, {name}": (shapes, real)}
        print(shape_table(added).splitlines()[-1], flush=True)
        if args.clips and "strength" not in settings:
            added = {f"clips, {name}": (clips(pipe, wanted[: args.clips], **settings), real)}
            print(shape_table(added).splitlines()[-1], flush=True)


if __name__ == "__main__":
    main()
