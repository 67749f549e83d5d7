"""Results of the bundled set; each command prints the rows of a table of `docs/bundled.md`.

`python -m recipes.bundled.results styles|cameras|adapter|keyframes|paths`: personalised models move as prompted and
keep their style; MotionLoRAs move the camera; the domain adapter keeps a watermark out of the motion module; SparseCtrl
gives back the images that it is given; CameraCtrl (`--camera-control`) follows paths. The set that ships is measured,
but for the adapter's two motion modules, which are in `--run`; `--model`, `--motion` and `--set-folder` name others.
Seeds and combinations are those that training never used, and each classifier is first tried on clips that were drawn.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from animatediff.bundled import CAMERA_MOVES, bundled_file, bundled_path, set_path
from animatediff.camera import EASINGS, Move
from animatediff.camera.path import path_of_moves
from animatediff.camera.plane import LARGEST, plane_views
from animatediff.pipelines.vae import to_bytes
from animatediff.sprites import world
from animatediff.sprites.classifier import classify_clip, load_classifier
from animatediff.sprites.watermark import add_watermark, banner_contrast, watermark_score
from animatediff.sprites.words import DIRECTIONS, Combination, combinations, plain_caption
from recipes.bundled.rendering import clip_of, new_pipeline, percent, write_rows, write_sheet
from recipes.bundled.shape import shapes_of
from recipes.bundled.style_classifier import NAMES, check, load_style_classifier
from recipes.bundled.vae import load_vae

SEED = 3_000_000
PAIR = {"ZoomIn": 0.8, "RollingClockwise": 1.0}
"""Two MotionLoRAs that act at once, and their strengths: a stronger zoom hides the roll."""


def drawn(num: int, motions: tuple[str, ...]) -> list[Combination]:
    """Held-out combinations, each of the motions equally often."""
    rng = random.Random(SEED)
    held_out = combinations(held_out=True)
    return [rng.choice([c for c in held_out if c[2] == motions[i % len(motions)]]) for i in range(num)]


def clips_of(
    pipe: Any,
    captions: list[str],
    args: argparse.Namespace,
    images: list[Tensor] | None = None,
    frames: tuple[int, ...] = (0,),
) -> Iterator[Tensor]:
    """One clip (f, 3, 64, 64) in 0..1 a caption; the i-th always begins from the same noise.

    images: for each clip those that SparseCtrl is given at `frames`, (n, 3, 64, 64).
    """
    for i, text in enumerate(captions):
        more: dict[str, Any] = {}
        if images is not None:
            more = {"conditioning_frames": images[i], "controlnet_frame_indices": frames}
        yield clip_of(pipe, text, SEED + i, args.sampling_steps, **more)


def real_clip(combination: Combination, seed: int) -> Tensor:
    """A drawn clip (16, 3, 64, 64)."""
    scene, _ = world.clips(1, seed, [combination])
    return world.render(scene)


# -- styles ----------------------------------------------------------------------------------------------------------


def styles(args: argparse.Namespace) -> list[tuple[str, str]]:
    """The motion module moves image models that it was not trained in."""
    classifier, style_classifier = load_classifier(), load_style_classifier()
    tried = check(style_classifier, load_vae(args.model or bundled_path()))
    rows = [("classifier of styles, on drawn clips", percent(tried))]
    wanted = drawn(args.clips, DIRECTIONS)
    sheet: list[Tensor] = []
    for name in NAMES:
        pipe = new_pipeline(bundled_file("neon", args.set_folder) if name == "neon" else args.model, args.motion)
        if name == "paper":
            pipe.load_lora_weights(bundled_file("paper", args.set_folder))
        moved, kept, named = [], [], []
        for i, clip in enumerate(clips_of(pipe, [plain_caption(c) for c in wanted], args)):
            found = classify_clip(classifier, clip)
            moved.append(found.moved(wanted[i][2]))
            named.append(found.obj == wanted[i][0])
            kept.append(style_classifier.style(clip) == name)
            sheet += [clip] if i < 3 else []
        rows += [(f"{name}: moves as prompted", percent(moved)), (f"{name}: its own style", percent(kept))]
        rows += [(f"{name}: object right, by the classifier", percent(named))]
    write_sheet(sheet, args.out / "styles.png")
    return rows


# -- cameras ---------------------------------------------------------------------------------------------------------


def cameras(args: argparse.Namespace) -> list[tuple[str, str]]:
    """Each MotionLoRA moves the camera as its name says; half of it less, none of it not at all, two give both."""
    from animatediff.evaluation import camera_moves, measure

    def seen(clip: Tensor) -> list[Any]:
        return camera_moves(measure(to_bytes(clip).numpy()))

    def strength(clip: Tensor, name: str) -> float:
        return next((move.strength for move in seen(clip) if move.name == name), 0.0)

    wanted = drawn(args.clips, ("still",))
    captions = [plain_caption(c) for c in wanted]
    few = captions[: max(1, args.clips // 4)]
    rows, sheet = [], []
    pipe = new_pipeline(args.model, args.motion)
    for name in CAMERA_MOVES:
        pipe.load_lora_weights(bundled_file(name, args.set_folder), adapter_name=name)
    for name in CAMERA_MOVES:
        pipe.set_adapters([name], [1.0])
        whole = list(clips_of(pipe, captions, args))
        right = [bool(moves) and moves[0].name == name for moves in map(seen, whole)]
        pipe.set_adapters([name], [0.5])
        half = [strength(clip, name) for clip in clips_of(pipe, few, args)]
        full = [strength(clip, name) for clip in whole[: len(few)]]
        shapes = [shape for clip, (obj, *_) in zip(whole, wanted, strict=True) for shape in shapes_of(clip[::4], obj)]
        rows.append((f"{name}: kind and sign", percent(right)))
        rows.append((f"{name}: frames named right by templates", percent([shape.right for shape in shapes])))
        rows.append(
            (f"{name}: strength 1.0 / 0.5, % of the side a frame", f"{np.mean(full):.2f} / {np.mean(half):.2f}")
        )
        sheet.append(whole[0])
    pipe.set_adapters([CAMERA_MOVES[0]], [0.0])
    rest = [not seen(clip) for clip in clips_of(pipe, few, args)]
    rows.append(("strength 0: the camera stands still", percent(rest)))
    pipe.set_adapters(list(PAIR), list(PAIR.values()))
    together = list(clips_of(pipe, captions, args))
    both = [{move.name for move in seen(clip)} >= set(PAIR) for clip in together]
    rows.append((" + ".join(f"{name}:{value}" for name, value in PAIR.items()) + ": both are seen", percent(both)))
    sheet.append(together[0])
    write_sheet(sheet, args.out / "cameras.png")
    return rows


# -- paths -----------------------------------------------------------------------------------------------------------

KINDS = {
    "PanLeft": ("pan-left", "truck-left"), "PanRight": ("pan-right", "truck-right"),
    "TiltUp": ("tilt-up", "pedestal-up"), "TiltDown": ("tilt-down", "pedestal-down"),
    "ZoomIn": ("zoom-in",), "ZoomOut": ("zoom-out",),
    "RollingClockwise": ("roll-clockwise",), "RollingAnticlockwise": ("roll-anticlockwise",),
}  # fmt: skip
"""What is measured -> the moves that look so."""


def unseen_moves(num: int) -> list[tuple[str, Move]]:
    """Moves with strengths and easings that training never drew, each kind and sign equally often."""
    rng = random.Random(SEED)
    names = list(KINDS)
    found = []
    for index in range(num):
        name = names[index % len(names)]
        move = rng.choice(KINDS[name])
        found.append((name, Move(move, LARGEST[move] * rng.uniform(0.5, 1), rng.choice(tuple(EASINGS)))))
    return found


def paths(args: argparse.Namespace) -> list[tuple[str, str]]:
    """CameraCtrl follows unseen paths of the camera: kind and sign of each, and how far as against the drawn scene."""
    from animatediff.evaluation import camera_moves, measure

    def seen(clip: Tensor) -> list[Any]:
        return camera_moves(measure(to_bytes(clip).numpy()))

    def strength(moves: list[Any], name: str) -> float:
        return next((move.strength for move in moves if move.name == name), 0.0)

    wanted, held_out = unseen_moves(args.clips), drawn(args.clips, ("still",))
    pipe = new_pipeline(args.model, args.motion)
    pipe.load_camera_control(args.camera_control or bundled_file("camera_control", args.set_folder))
    right: dict[str, list[bool]] = {}
    still: list[bool] = []
    ratios: list[float] = []
    drawn_right: list[bool] = []
    sheet: list[Tensor] = []
    for i, ((name, move), combination) in enumerate(zip(wanted, held_out, strict=True)):
        text, settings = plain_caption(combination), {"steps": args.sampling_steps}
        clip = clip_of(pipe, text, SEED + i, **settings, camera=[move])
        scene, _ = world.clips(1, SEED + i, [combination])
        real = seen(world.render(scene, view=plane_views(path_of_moves([move], 16), world.SIZE, world.SIZE)))
        moves = seen(clip)
        right.setdefault(name, []).append(bool(moves) and moves[0].name == name)
        drawn_right.append(bool(real) and real[0].name == name)
        if (own := strength(real, name)) > 0:
            ratios.append(strength(moves, name) / own)
        if i % 4 == 0:
            still.append(not seen(clip_of(pipe, text, SEED + i, **settings, camera="still")))
        sheet.append(clip)
    rows = [("drawn scenes: kind and sign", percent(drawn_right))]
    rows += [(f"{name}: kind and sign", percent(found)) for name, found in right.items()]
    rows.append(("all: kind and sign", percent([one for found in right.values() for one in found])))
    rows.append(("way against the drawn scene, median", f"{np.median(ratios):.2f}"))
    rows.append(("path `still`: the camera stands still", percent(still)))
    write_sheet(sheet[:16], args.out / "paths.png")
    return rows


# -- adapter ---------------------------------------------------------------------------------------------------------


def adapter(args: argparse.Namespace) -> list[tuple[str, str]]:
    """Of two motion modules trained on clips with a watermark, the one with the adapter leaves it out."""
    wanted = drawn(args.clips, DIRECTIONS)
    captions = [plain_caption(c) for c in wanted]
    clean = [real_clip(c, SEED - 1 - i) for i, c in enumerate(wanted)]
    marked = [add_watermark(clip, i) for i, clip in enumerate(clean)]
    classifier, rows, sheet = load_classifier(), [], []

    def score(clips: list[Tensor]) -> str:
        both = [torch.cat([of(clip) for clip in clips]).mean() for of in (watermark_score, banner_contrast)]
        return f"{both[0]:.2f} / {both[1]:.2f}"

    rows += [("drawn clips", score(clean)), ("drawn clips with the watermark", score(marked))]
    pipe = new_pipeline(args.model, args.motion)
    pipe.load_lora_weights(bundled_file("domain_adapter", args.set_folder))
    clips = list(clips_of(pipe, captions, args))
    rows.append(("the adapter switched on", score(clips)))
    sheet += clips[:3]
    for name in ("with_adapter", "without_adapter"):
        pipe = new_pipeline(args.model, args.run / name / "motion_module.safetensors")
        clips = list(clips_of(pipe, captions, args))
        moved = [classify_clip(classifier, clip).moved(c[2]) for clip, c in zip(clips, wanted, strict=True)]
        title = f"motion module trained {name.replace('_', ' the ')}"
        rows += [(title, score(clips)), (f"{title}: moves as prompted", percent(moved))]
        sheet += clips[:3]
    write_sheet(sheet, args.out / "adapter.png")
    return rows


# -- keyframes -------------------------------------------------------------------------------------------------------


def psnr(a: Tensor, b: Tensor) -> float:
    return float(-10 * torch.log10(((a - b) ** 2).mean().clamp(min=1e-10)))


def overlap(a: Tensor, b: Tensor) -> float:
    """Intersection over union of two sketches (1, h, w) in 0..1, whose lines may be a pixel apart."""
    thick = [torch.nn.functional.max_pool2d(x[None], 3, 1, 1)[0] > 0.5 for x in (a, b)]
    return float((thick[0] & thick[1]).sum() / (thick[0] | thick[1]).sum().clamp(min=1))


def sketch_of(image: Tensor) -> Tensor:
    """(3, 64, 64) -> (1, 64, 64), as the pipeline's own preprocessor draws it."""
    from PIL import Image

    from animatediff.media.sketch import sketch

    pixels = to_bytes(image[None])[0].numpy()
    lines = np.array(sketch(Image.fromarray(pixels), "scribble").convert("L"))
    return torch.from_numpy(lines).float()[None] / 255


def keyframes(args: argparse.Namespace) -> list[tuple[str, str]]:
    """The RGB encoder gives the image back at its frame; the scribble encoder follows the outline."""
    wanted = drawn(args.clips, ("right", "left", "up", "down", "growing", "shrinking"))
    captions = [plain_caption(c) for c in wanted]
    real = [real_clip(c, SEED - 1 - i) for i, c in enumerate(wanted)]
    sheet: list[Tensor] = []
    pipe = new_pipeline(args.model, args.motion)
    free = list(clips_of(pipe, captions, args))
    pipe.load_sparsectrl(bundled_file("sparsectrl_rgb", args.set_folder))
    first = list(clips_of(pipe, captions, args, [clip[:1] for clip in real]))
    ends = list(clips_of(pipe, captions, args, [clip[[0, -1]] for clip in real], (0, -1)))
    pipe.load_sparsectrl(bundled_file("sparsectrl_scribble", args.set_folder))
    drawings = [sketch_of(clip[0]) for clip in real]
    followed = list(clips_of(pipe, captions, args, [drawing.expand(1, 3, -1, -1) for drawing in drawings]))

    def mean(score: Callable[[Tensor, Tensor], float], clips: list[Tensor], targets: list[Tensor]) -> str:
        return f"{np.mean([score(clip, target) for clip, target in zip(clips, targets, strict=True)]):.2f}"

    def first_psnr(clip: Tensor, target: Tensor) -> float:
        return psnr(clip[0], target[0])

    def last_psnr(clip: Tensor, target: Tensor) -> float:
        return psnr(clip[-1], target[-1])

    def outline(clip: Tensor, drawing: Tensor) -> float:
        return overlap(sketch_of(clip[0]), drawing)

    rows = [
        ("first frame given: its PSNR, dB", mean(first_psnr, first, real)),
        ("- without control", mean(first_psnr, free, real)),
        ("first and last frame given: PSNR of the last, dB", mean(last_psnr, ends, real)),
        ("- without control", mean(last_psnr, free, real)),
        ("between first and last: moves on at every step", percent([is_monotonic(clip) for clip in ends])),
        ("sketch given: IoU of the first frame's outline", mean(outline, followed, drawings)),
        ("- without control", mean(outline, free, drawings)),
    ]
    for clips in (real, free, first, ends):
        sheet += clips[:2]
    write_sheet(sheet, args.out / "keyframes.png")
    write_rows(
        [
            [clip[0], drawing.expand(3, -1, -1), unled[0], *led[[0, 8, -1]]]
            for clip, drawing, unled, led in zip(real[:6], drawings, free, followed, strict=False)
        ],
        args.out / "sketch.png",
    )
    return rows


def is_monotonic(clip: Tensor) -> bool:
    """Whether a clip goes from its first frame to its last without turning back.

    A frame's place is how much nearer it is to the last frame than to the first; it may fall behind by a tenth of the
    way, since sprites are drawn anew in each frame.
    """
    a, b = ((clip - end).pow(2).mean((1, 2, 3)).sqrt() for end in (clip[0], clip[-1]))
    place = a / (a + b).clamp(min=1e-6)
    return bool((place.diff() > -0.1).all() and place[len(place) // 2] > 0.2 and place[len(place) // 2] < 0.8)


RESULTS: dict[str, Callable[[argparse.Namespace], list[tuple[str, str]]]] = {
    "styles": styles, "cameras": cameras, "adapter": adapter, "keyframes": keyframes, "paths": paths,
}  # fmt: skip


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("result", choices=RESULTS)
    parser.add_argument("--run", type=Path, default=Path("outputs/bundled"), help="folder of the trained stages")
    parser.add_argument("--out", type=Path, default=Path("outputs"), help="folder for the table and a sheet of frames")
    parser.add_argument("--model", type=Path, help="another image model than the bundled one")
    parser.add_argument("--motion", type=Path, help="its motion module")
    parser.add_argument("--set-folder", type=Path, default=set_path(), help="folder of the bundled set")
    parser.add_argument("--camera-control", type=Path, help="of `paths`: the trained CameraCtrl model")
    parser.add_argument("--clips", type=int, default=32, help="clips for each figure")
    parser.add_argument("--sampling-steps", type=int, help="steps of the sampler; default as recommended")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    rows = RESULTS[args.result](args)
    (args.out / f"{args.result}.json").write_text(json.dumps(rows, indent=1))
    print("| figure | measured |\n|---|---|\n" + "\n".join(f"| {name} | {value} |" for name, value in rows))


if __name__ == "__main__":
    main()
