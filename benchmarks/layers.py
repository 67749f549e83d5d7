"""Single layers of SD 1.5's size: which memory layout is fastest, and which blocks are worth compiling.

`python benchmarks/layers.py [layout] [compile] [--dtypes float32,bfloat16,float16]`, on one thread of the CPU, by the
time of the processor; what is compared takes turns, and the least time of each counts. In front of it
`ONEDNN_MAX_CPU_ISA=AVX512_CORE_BF16` shows what a CPU without AMX does.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parent.parent)]

import torch  # noqa: E402  # behind the path of the checkout

from animatediff.motion.module import TemporalTransformerBlock, frame_positions  # noqa: E402

CONVOLUTIONS = (  # images, channels, side: of a UNet and of a VAE at 256x256
    (8, 320, 32), (8, 640, 16), (8, 1280, 8), (1, 512, 64), (1, 256, 128), (1, 128, 256),
)  # fmt: skip
ROUNDS = 4


def times(works: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Milliseconds that each takes, at least."""
    least = dict.fromkeys(works, float("inf"))
    for turn in range(ROUNDS + 1):
        for name, work in works.items():
            start = time.process_time()
            work()
            if turn:
                least[name] = min(least[name], (time.process_time() - start) * 1000)
    return least


def layout(dtype: torch.dtype) -> None:
    """Print 3x3 convolutions in both memory layouts."""
    for images, channels, side in CONVOLUTIONS:
        x, weight = torch.randn(images, channels, side, side), torch.randn(channels, channels, 3, 3) / channels
        plain = x.to(dtype), weight.to(dtype)
        last = [tensor.to(memory_format=torch.channels_last) for tensor in plain]
        found = times({
            "contiguous": lambda plain=plain: torch.nn.functional.conv2d(*plain, padding=1),
            "channels_last": lambda last=last: torch.nn.functional.conv2d(*last, padding=1),
        })  # fmt: skip
        name = f"{images} x {channels} x {side} x {side}"
        row(dtype, name, *found.values())


def compiled(dtype: torch.dtype) -> None:
    """Print blocks as they are and compiled."""
    from diffusers.models.attention import BasicTransformerBlock
    from diffusers.models.resnet import ResnetBlock2D

    tokens, text = torch.randn(8, 1024, 320).to(dtype), torch.randn(8, 77, 768).to(dtype)
    image, time_embedding = torch.randn(8, 320, 32, 32).to(dtype), torch.randn(8, 1280).to(dtype)
    positions = frame_positions(4, 320).to(dtype)
    transformer: Any = BasicTransformerBlock(320, 8, 40, cross_attention_dim=768)
    motion: Any = TemporalTransformerBlock(320, 8, 2)
    resnet: Any = ResnetBlock2D(in_channels=320, out_channels=320, temb_channels=1280)
    calls: dict[Any, Callable[[], object]] = {
        transformer: lambda: transformer(tokens, encoder_hidden_states=text),
        motion: lambda: motion(tokens.view(2, 4, 1024, 320), positions),
        resnet: lambda: resnet(image, time_embedding),
    }
    for block, call in calls.items():
        block.to(dtype).eval().requires_grad_(False)

        def plain(block: Any = block, call: Callable[[], object] = call) -> None:
            graph, block._compiled_call_impl = block._compiled_call_impl, None
            call()
            block._compiled_call_impl = graph

        block.compile()
        row(dtype, type(block).__name__, *times({"plain": plain, "compiled": call}).values())


def row(dtype: torch.dtype, name: str, before: float, after: float) -> None:
    print(f"| {str(dtype)[6:]} | {name} | {before:.1f} | {after:.1f} | {after / before:.2f} |", flush=True)


def main() -> None:
    parts = {"layout": (layout, "contiguous", "channels_last"), "compile": (compiled, "as it is", "compiled")}
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("parts", nargs="*", default=list(parts), help=", ".join(parts))
    parser.add_argument("--dtypes", default="float32,bfloat16,float16", help="number formats, with commas")
    args = parser.parse_args()
    torch.set_num_threads(1)
    for name in args.parts:
        if name not in parts:
            parser.error(f"{name!r} is none of the parts {', '.join(parts)}")
        part, before, after = parts[name]
        print(f"\n| type | milliseconds of | {before} | {after} | ratio |\n|---|---|---|---|---|")
        with torch.inference_mode():
            for dtype in args.dtypes.split(","):
                part(getattr(torch, dtype))


if __name__ == "__main__":
    main()
