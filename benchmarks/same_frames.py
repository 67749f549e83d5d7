"""Whether a refactor keeps the frames, to the bit: ten requests that together use every group of options of `animate`.

`python benchmarks/same_frames.py record FOLDER [--checkout DIR]` renders them with the command line of a checkout (this
one unless said), on one thread of the CPU in float32, and writes `FOLDER/frames.json`: for each request its arguments,
its number of frames, and the sha256 of the pixels of each. The frames lie beside it as PNG. The images, the video and
the weights that requests name are made once, beside FOLDER, and serve all recordings.

`python benchmarks/same_frames.py compare A B` prints a table of two recordings and exits with 1 if a frame differs.
Frames are the same to the bit on one machine with the same libraries only: record both there.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from diffusers import ControlNetModel, UNet2DConditionModel
from PIL import Image, ImageDraw
from safetensors.torch import save_file
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

REQUESTS = {
    "text": """
        "a fox moving right on a green background" "a fish spinning on a blue background"
        --negative-prompt "a fox moving left" --negative-prompt "a boat" --seed 3 --seed 11 --num-frames 8 --steps 8
        --guidance-scale 3 --scheduler dpmpp_2m --model bundled --motion-module inputs/motion_module.safetensors
        --embedding inputs/token.safetensors:mark --prompt-tail mark --fps 12
        """,
    "image": """
        "a car moving right on a blue background" --image inputs/car.png --image-mode latents --resize stretch
        --width 64 --height 48 --num-frames 12 --steps 6 --seed 5 --model bundled/neon
        """,
    "keyframes": """
        "a fox moving right on a green background" --image inputs/left.png --last-image inputs/right.png
        --keyframe 7=inputs/middle.png --image-mode sparsectrl --sparsectrl bundled/sparsectrl_rgb
        --num-frames 16 --steps 6 --seed 7
        """,
    "video": """
        "a duck moving right on a purple background" --video inputs/drive.mp4 --strength 0.7 --video-fps 8
        --video-start 0.25 --video-duration 1.5 --resize pad --width 64 --height 64 --steps 8 --seed 9
        --scheduler euler --domain-adapter bundled/domain_adapter:0.7
        """,
    "controlnet": """
        "a fox moving right on a purple background" --controlnet inputs/follow --controlnet inputs/spread
        --controlnet-video inputs/drive.mp4 --controlnet-video inputs/at_frames --controlnet-spread none
        --controlnet-spread 0.5,0.3 --controlnet-preprocess scribble --controlnet-preprocess none
        --controlnet-scale 1 --controlnet-scale 0.8 --controlnet-start 0 --controlnet-start 0.1
        --controlnet-end 0.8 --controlnet-end 1 --video-fps 8 --video-duration 1 --width 64 --height 64
        --steps 6 --seed 13
        """,
    "ip-adapter": """
        "moving right" --ip-adapter inputs/ip-adapter.safetensors --ip-adapter-encoder inputs/image_encoder
        --ip-adapter-image inputs/car.png --ip-adapter-image inputs/left.png --ip-adapter-scale 0.7
        --num-frames 8 --steps 6 --seed 15
        """,
    "sparsectrl": """
        "a rocket moving up on a green background" --sparsectrl bundled/sparsectrl_scribble
        --control-image inputs/left.png --control-image inputs/right.png --control-index 0 --control-index -1
        --control-scale 1.8 --control-start 0 --control-end 0.9 --control-preprocess scribble
        --normalize-condition-images --num-frames 12 --steps 6 --seed 17 --scheduler euler_a
        """,
    "windows": """
        "a snail spinning on a purple background" --num-frames 20 --window 8 --overlap 2 --stride 2 --blend gauss
        --closed-loop --long-mode motion --motion-scale 0=1.1,10=0.6,-1=1.1 --noise freenoise --steps 4 --seed 19
        """,
    "travel": """
        --prompt-head "a (fox:1.2) moving right" --prompt-at "0=a green background"
        --prompt-at "9=a [blue] background" --prompt-at "18=a (purple background:1.3)" --prompt-tail "(not moving:0.4)"
        --prompt-interpolation slerp --prompt-hold 0.3 --prompt-loop --num-frames 20 --window 12 --overlap 4
        --blend pyramid --motion-lora PanLeft:0.8 --motion-lora RollingClockwise:0.5 --lora bundled/paper:0.6
        --freeinit 2 --freeinit-filter gaussian --freeinit-ds 0.3 --freeinit-dt 0.2 --steps 3 --seed 21
        """,
    "upscale": """
        --config inputs/request.yaml --steps 6 --upscale 2 --upscale-strength 0.4 --upscale-steps 5 --clip-skip 1
        --decode-chunk-size 3 --scheduler ddim --seed 23
        """,
}
"""Arguments of `animate`, as in a shell; `inputs/` is what `make_inputs` makes."""

ALWAYS = ("--device", "cpu", "--dtype", "float32", "--quiet")

CONFIG = """\
- prompt: "a fox moving right on a green background"
  n_prompt: "grey"
  L: 8
  guidance_scale: 4
"""

SIDE = 64
FPS = 24
VIDEO_FRAMES = 48


def draw(
    x: float, y: float, colour: tuple[int, int, int], ground: tuple[int, int, int], width: int = SIDE
) -> Image.Image:
    """A body with a head and an ear before a plain ground, (64, width); x and y are 0..1 of the way."""
    image = Image.new("RGB", (width, SIDE), ground)
    pen = ImageDraw.Draw(image)
    left, top = round(4 + x * (width - 40)), round(8 + y * 24)
    pen.ellipse((left, top + 6, left + 26, top + 24), fill=colour)
    pen.ellipse((left + 18, top, left + 32, top + 14), fill=colour)
    pen.polygon([(left + 20, top + 4), (left + 22, top - 6), (left + 27, top + 2)], fill=(250, 240, 220))
    pen.rectangle((left + 26, top + 5, left + 28, top + 7), fill=(20, 20, 20))
    return image


def write_drive(path: Path) -> None:
    """A video of two seconds, 96x64, in which a body crosses from left to right."""
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=FPS)
        stream.width, stream.height, stream.pix_fmt = 96, SIDE, "yuv420p"
        stream.options = {"crf": "12", "threads": "1"}
        for number in range(VIDEO_FRAMES):
            image = draw(number / (VIDEO_FRAMES - 1), 0.5, (230, 120, 40), (50, 90, 200), width=96)
            container.mux(stream.encode(av.VideoFrame.from_image(image)))
        container.mux(stream.encode())


def save_controlnet(folder: Path, unet: UNet2DConditionModel, seed: int) -> None:
    """A ControlNet that acts as after training: its zero convolutions are random, and small enough for sane frames."""
    torch.manual_seed(seed)
    # those of Stable Diffusion reduce images by 8, as its VAE; the bundled VAE reduces by 4
    net: Any = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(16, 32, 96))
    for layer in (*net.controlnet_down_blocks, net.controlnet_mid_block):
        torch.nn.init.normal_(layer.weight, std=0.12)
    seen = net.controlnet_cond_embedding  # its default weights would let hardly anything of the images through
    for layer in (seen.conv_in, *seen.blocks, seen.conv_out):
        torch.nn.init.kaiming_normal_(layer.weight)
    seen.conv_out.weight.data *= 3
    net.save_pretrained(folder)


def save_ip_adapter(folder: Path, unet: UNet2DConditionModel, width: int = 24, tokens: int = 4) -> None:
    """An IP-Adapter in the grammar of the published files, and its image encoder, both random."""
    torch.manual_seed(3)
    vision = CLIPVisionConfig(
        hidden_size=32, intermediate_size=40, projection_dim=width, num_hidden_layers=2, num_attention_heads=4,
        image_size=32, patch_size=8,
    )  # fmt: skip
    CLIPVisionModelWithProjection(vision).save_pretrained(folder / "image_encoder")
    text = unet.config["cross_attention_dim"]
    state = {
        "image_proj.proj.weight": torch.randn(tokens * text, width),
        "image_proj.proj.bias": torch.randn(tokens * text),
        "image_proj.norm.weight": torch.ones(text),
        "image_proj.norm.bias": torch.zeros(text),
    }
    queries = [key for key in unet.state_dict() if key.endswith("attn2.to_k.weight")]
    for number, key in enumerate(queries):
        for part in ("k", "v"):
            weight = torch.randn_like(unet.state_dict()[key]) * 0.3
            state[f"ip_adapter.{2 * number + 1}.to_{part}_ip.weight"] = weight
    save_file(state, folder / "ip-adapter.safetensors")


def package_file(checkout: Path, pattern: str) -> Path:
    """A file of the bundled model, wherever in the package it lies: the one nearest to the top."""
    found = sorted((checkout / "animatediff").rglob(pattern), key=lambda path: (len(path.parts), str(path)))
    if not found:
        raise SystemExit(f"{checkout}: no {pattern} in its package animatediff")
    return found[0]


def make_inputs(folder: Path, checkout: Path) -> None:
    """Draw the images and the video, and make the random weights that requests name, unless the folder is there."""
    if folder.is_dir():
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        made = Path(scratch) / "inputs"
        (made / "at_frames").mkdir(parents=True)
        fox, green = (235, 125, 40), (60, 160, 70)
        for name, x in (("left", 0.0), ("middle", 0.5), ("right", 1.0)):
            draw(x, 0.5, fox, green).save(made / f"{name}.png")
        draw(0.3, 0.6, (200, 40, 40), (60, 90, 210), width=96).save(made / "car.png")
        for frame, x in ((0, 0.1), (5, 0.9)):
            outline = draw(x, 0.4, (255, 255, 255), (0, 0, 0))
            outline.save(made / "at_frames" / f"{frame:04d}.png")
        write_drive(made / "drive.mp4")
        (made / "request.yaml").write_text(CONFIG, encoding="utf-8")
        shutil.copyfile(package_file(checkout, "motion_module.safetensors"), made / "motion_module.safetensors")
        model = package_file(checkout, "unet/config.json").parent
        unet = UNet2DConditionModel.from_pretrained(model, torch_dtype=torch.float32)
        save_controlnet(made / "follow", unet, seed=1)
        save_controlnet(made / "spread", unet, seed=2)
        save_ip_adapter(made, unet)
        width = unet.config["cross_attention_dim"]
        vectors = torch.randn(2, width, generator=torch.Generator().manual_seed(4))
        save_file({"emb_params": vectors * 0.02}, made / "token.safetensors")
        made.rename(folder)


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def command_line(checkout: Path) -> str:
    """Module of the command line, as the checkout's pyproject.toml names it."""
    text = (checkout / "pyproject.toml").read_text(encoding="utf-8")
    found = re.search(r'^animatediff = "([\w.]+):\w+"$', text, re.MULTILINE)
    return found[1] if found else "animatediff.cli.main"


def pixels(path: Path) -> np.ndarray:
    """A frame, uint8 (h, w, 3)."""
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def frame_files(folder: Path, name: str) -> list[Path]:
    """The frames of a request, clip after clip."""
    return sorted((folder / name).glob("clip*/*.png"))


def environment(checkout: Path) -> dict[str, str]:
    """In which Python imports the checkout's package, computes on one thread and fetches nothing."""
    single = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    return {**os.environ, **single, "PYTHONPATH": str(checkout), "HF_HUB_OFFLINE": "1"}


def check_import(checkout: Path) -> None:
    """Exit unless requests will run the checkout's package: an installed one would be compared with itself."""
    command = [sys.executable, "-c", "import animatediff; print(animatediff.__file__)"]
    with tempfile.TemporaryDirectory() as scratch:
        done = subprocess.run(
            command, cwd=scratch, env=environment(checkout), check=True, stdout=subprocess.PIPE, text=True
        )
    if not Path(done.stdout.strip()).resolve().is_relative_to(checkout):
        raise SystemExit(f"{checkout}: Python imports {done.stdout.strip()} instead")


def run_request(arguments: list[str], out: Path, checkout: Path, inputs: Path) -> None:
    """Render one request in a process of its own. Raises CalledProcessError."""
    with tempfile.TemporaryDirectory() as scratch:
        (Path(scratch) / "inputs").symlink_to(inputs, target_is_directory=True)
        command = [
            sys.executable,
            "-m",
            command_line(checkout),
            "animate",
            *arguments,
            *ALWAYS,
            "--out",
            f"{out}/clip/",
        ]
        subprocess.run(command, cwd=scratch, env=environment(checkout), check=True, capture_output=True, text=True)


def record(folder: Path, checkout: Path, inputs: Path) -> bool:
    """Render all requests into `folder`; whether all of them could be rendered."""
    check_import(checkout)
    make_inputs(inputs, checkout)
    folder.mkdir(parents=True, exist_ok=True)
    used = {str(p.relative_to(inputs)): sha256(p.read_bytes()) for p in sorted(inputs.rglob("*")) if p.is_file()}
    (folder / "inputs.json").write_text(json.dumps(used, indent=1) + "\n", encoding="utf-8")
    recorded: dict[str, dict[str, Any]] = {}
    for name, text in REQUESTS.items():
        shutil.rmtree(folder / name, ignore_errors=True)
        began, arguments = time.perf_counter(), shlex.split(text)
        try:
            run_request(arguments, folder / name, checkout, inputs)
        except subprocess.CalledProcessError as error:
            print(f"{name}: exit code {error.returncode}\n{error.stderr[-3000:]}", file=sys.stderr, flush=True)
            continue
        images = [pixels(path) for path in frame_files(folder, name)]
        hashes = [sha256(str(image.shape).encode() + image.tobytes()) for image in images]
        recorded[name] = {"arguments": arguments, "num_frames": len(images), "sha256": hashes}
        print(f"{name}: {len(images)} frames, {time.perf_counter() - began:.0f} s", flush=True)
    (folder / "frames.json").write_text(json.dumps(recorded, indent=1) + "\n", encoding="utf-8")
    return len(recorded) == len(REQUESTS)


def largest_difference(name: str, a: Path, b: Path) -> str:
    """Of a pixel of all frames, 0..255, where the PNGs of both recordings are there."""
    pairs = list(zip(frame_files(a, name), frame_files(b, name), strict=False))
    images = [(pixels(one).astype(int), pixels(other).astype(int)) for one, other in pairs]
    if not images or any(one.shape != other.shape for one, other in images):
        return "-"
    return str(max(int(np.abs(one - other).max()) for one, other in images))


def compare(a: Path, b: Path) -> bool:
    """Print the table of two recordings; whether all frames are equal."""
    first, second = (json.loads((folder / "frames.json").read_text(encoding="utf-8")) for folder in (a, b))
    inputs = [(folder / "inputs.json").read_text(encoding="utf-8") for folder in (a, b)]
    all_equal = True
    print("| request | options | frames | equal to the bit | largest difference |")
    print("|---|---|---|---|---|")
    for name in dict.fromkeys((*first, *second, *REQUESTS)):
        one, other = first.get(name), second.get(name)
        given = (one or other or {"arguments": []})["arguments"]
        options = " ".join(dict.fromkeys(f"`{word}`" for word in given if word.startswith("--")))
        equal = one is not None and one == other and one["num_frames"] > 0
        all_equal &= equal
        frames = "/".join(str(entry["num_frames"]) if entry else "none" for entry in (one, other))
        if one and other and one["num_frames"] == other["num_frames"]:
            frames = str(one["num_frames"])
        print(f"| {name} | {options} | {frames} | {'yes' if equal else 'no'} | {largest_difference(name, a, b)} |")
    if inputs[0] != inputs[1]:
        print("\nThe inputs of the two recordings differ: record both with the same --inputs.")
    return all_equal


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    recording = commands.add_parser("record", help="render the requests and note their frames")
    recording.add_argument("folder", type=Path)
    recording.add_argument("--checkout", type=Path, default=Path(__file__).parents[1])
    recording.add_argument("--inputs", type=Path, help="folder of the inputs, made if missing (`inputs` beside FOLDER)")
    comparing = commands.add_parser("compare", help="print a table of two recordings")
    comparing.add_argument("a", type=Path)
    comparing.add_argument("b", type=Path)
    args = parser.parse_args()
    if args.command == "record":
        inputs = (args.inputs or args.folder.resolve().parent / "inputs").resolve()
        done = record(args.folder.resolve(), args.checkout.resolve(), inputs)
    else:
        done = compare(args.a, args.b)
    sys.exit(0 if done else 1)


if __name__ == "__main__":
    main()
