"""The memory planner's estimate beside the measured peak, for ten settings on the CPU; and what published sizes need.

`python benchmarks/planner.py` renders two steps of each setting with random models of middling size, each in a process
of its own. The measured peak is of tensors: weights, and what torch's allocator handed out at most at once during the
call, by the memory events of its profiler. Resident memory is not taken: it has the allocator's holes and buffers of
kernels in it, which differ from machine to machine. `--quick` takes smaller models.

`python benchmarks/planner.py --paper` prints the least that SD 1.5 and SDXL need in float16 on a GPU, without weights:
the device is the meta device, limits are tried from above until the planner says no.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

ROOT = Path(__file__).resolve().parent.parent
PROMPT = "a fox moving right on a green background"


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A call, and the models that it is made with."""

    call: dict[str, Any] = field(default_factory=dict)
    dtype: str = "float32"
    sdxl: bool = False
    controlnet: bool = False
    sparsectrl: bool = False


SETTINGS: dict[str, Setting] = {
    "8 frames": Setting(call={"num_frames": 8}),
    "no guidance": Setting(call={"num_frames": 16, "guidance_scale": 1.0}),
    "bfloat16": Setting(call={"num_frames": 8}, dtype="bfloat16"),
    "windows": Setting(call={"num_frames": 24, "window": 8, "overlap": 2}),
    "windows in motion": Setting(call={"num_frames": 24, "window": 8, "overlap": 2, "long_mode": "motion"}),
    "ControlNet": Setting(call={"num_frames": 8}, controlnet=True),
    "SparseCtrl": Setting(call={"num_frames": 8}, sparsectrl=True),
    "SDXL": Setting(call={"num_frames": 8}, sdxl=True),
    "large frames": Setting(call={"num_frames": 4, "height": 512, "width": 768, "num_inference_steps": 1}),
    "within a bound": Setting(call={"num_frames": 16, "vram": 0.6}),
}
"""A `vram` below 1 is a share of what the call would take beyond the weights without a bound."""


def models(setting: Setting, *, quick: bool) -> Any:
    """A pipeline with random weights."""
    import torch
    from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    from animatediff.models.sparsectrl import SparseCtrl
    from animatediff.motion import MotionAdapter
    from animatediff.pipelines import AnimateDiffPipeline
    from animatediff.pipelines.parts import base_pipeline
    from animatediff.sampling.schedulers import make_scheduler
    from animatediff.weights.base.single_file import tokenizers

    torch.manual_seed(0)
    width, groups = (32, 32) if quick else (64, 32)
    text: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
    text |= {"num_attention_heads": 2, "vocab_size": 49408, "projection_dim": 64}
    sizes: dict[str, Any] = {
        "block_out_channels": (width, 2 * width, 4 * width, 4 * width), "cross_attention_dim": 64,
        "attention_head_dim": 4, "norm_num_groups": groups, "sample_size": 32,
    }  # fmt: skip
    if setting.sdxl:
        sizes |= {
            "block_out_channels": (width, 2 * width, 4 * width), "cross_attention_dim": 128,
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            "transformer_layers_per_block": (1, 2, 3), "use_linear_projection": True,
            "addition_embed_type": "text_time", "addition_time_embed_dim": 32,
            "projection_class_embeddings_input_dim": 64 + 6 * 32,
        }  # fmt: skip
    unet = UNet2DConditionModel(**sizes)
    of_vae: dict[str, Any] = {
        "block_out_channels": (width // 2, width, 2 * width, 2 * width), "layers_per_block": 2, "latent_channels": 4,
        "norm_num_groups": width // 2, "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
    }  # fmt: skip
    vae = AutoencoderKL(**of_vae)
    parts: dict[str, Any] = {"unet": unet, "vae": vae, "text_encoder": CLIPTextModel(CLIPTextConfig(**text))}
    if setting.sdxl:
        parts["text_encoder_2"] = CLIPTextModelWithProjection(CLIPTextConfig(**text))
    kind: Literal["sd1", "sdxl"] = "sdxl" if setting.sdxl else "sd1"
    with_beta = {"beta_schedule": "scaled_linear", "clip_sample": False, "steps_offset": 1}
    parts |= {**tokenizers(kind), "scheduler": make_scheduler("ddim", with_beta)}
    pipe = AnimateDiffPipeline(base_pipeline(parts))
    adapter = MotionAdapter.from_unet(unet)
    if setting.controlnet:
        pipe._add_controlnets(ControlNetModel.from_unet(unet))
    pipe.set_motion_adapter(adapter)
    if setting.sparsectrl:
        pipe.set_sparsectrl(SparseCtrl.from_unet(unet, adapter, kind="rgb"))
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(dtype=getattr(torch, setting.dtype))


def arguments(setting: Setting, pipe: Any, *, quick: bool) -> dict[str, Any]:
    """Arguments of the call."""
    import torch

    from animatediff.sampling.controlnet import ControlNetInput

    size = 128 if quick else 256
    call = {"prompt": PROMPT, "height": size, "width": size, "num_inference_steps": 2, "output_type": "pt"}
    call |= setting.call
    if quick:
        call["num_inference_steps"] = 1
        call |= {name: call[name] // 2 for name in ("height", "width") if name in setting.call}
    if setting.controlnet:
        images = torch.rand(call["num_frames"], 3, call["height"], call["width"])
        call["controlnet_inputs"] = ControlNetInput(frames=images)
    if setting.sparsectrl:
        call["conditioning_frames"] = torch.rand(1, 3, call["height"], call["width"])
    if isinstance(share := call.get("vram"), float):
        free = pipe.plan(**{**call, "vram": None})
        weights = sum(free.weights.values())
        call["vram"] = weights + int(share * (free.needed - weights))
    return {**call, "generator": torch.Generator().manual_seed(0)}


def peak_of_tensors(run: Any) -> int:
    """Bytes that torch's CPU allocator handed out at most at once during `run`."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    now = peak = 0
    results: Any = profiler.profiler
    found: list[Any] = [event for event in results.kineto_results.events() if event.name() == "[memory]"]
    for event in sorted(found, key=lambda event: event.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return peak


def compared(setting: Setting, *, quick: bool) -> dict[str, Any]:
    """Estimate and measurement of one setting, in bytes."""
    import torch

    torch.set_num_threads(1)
    pipe = models(setting, quick=quick)
    call = arguments(setting, pipe, quick=quick)
    plan = pipe.plan(**call)
    weights = sum(plan.weights.values())
    measured = weights + peak_of_tensors(lambda: pipe(**call))
    return {"weights": weights, "estimate": plan.peak, "measured": measured, "measures": plan.measures.told()}


# -- on paper ----------------------------------------------------------------------------------------------------------


def published(kind: Literal["sd1", "sdxl"]) -> Any:
    """SD 1.5 or SDXL with motion modules, in float16, without weights."""
    import torch
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    from animatediff.motion import MotionAdapter
    from animatediff.pipelines import AnimateDiffPipeline
    from animatediff.pipelines.parts import base_pipeline
    from animatediff.sampling.schedulers import make_scheduler
    from animatediff.weights.base.model_configs import shipped_config
    from animatediff.weights.base.single_file import tokenizers

    with torch.device("meta"):
        parts: dict[str, Any] = {
            "unet": UNet2DConditionModel.from_config(shipped_config(kind, "unet")),
            "vae": AutoencoderKL.from_config(shipped_config(kind, "vae")),
            "text_encoder": CLIPTextModel(CLIPTextConfig(**shipped_config(kind, "text_encoder"))),
        }
        if kind == "sdxl":
            config = CLIPTextConfig(**shipped_config(kind, "text_encoder_2"))
            parts["text_encoder_2"] = CLIPTextModelWithProjection(config)
        adapter = MotionAdapter.from_unet(parts["unet"])
        for part in (*parts.values(), adapter):
            part.to(torch.float16)
    with_beta = {"beta_schedule": "scaled_linear", "clip_sample": False, "steps_offset": 1}
    parts |= {**tokenizers(kind), "scheduler": make_scheduler("ddim", with_beta)}
    pipe = AnimateDiffPipeline(base_pipeline(parts))
    pipe.note_motion_adapter(adapter, None)
    for name, modules in adapter.modules_by_block():
        pipe.unet.get_submodule(name).motion_modules = modules
    return pipe


PAPER: dict[str, tuple[Literal["sd1", "sdxl"], int, int]] = {
    "SD 1.5, 16 frames 512x512": ("sd1", 16, 512),
    "SD 1.5, 128 frames 512x512": ("sd1", 128, 512),
    "SDXL, 16 frames 1024x1024": ("sdxl", 16, 1024),
}


def paper() -> None:
    """Print what published sizes need on a GPU, with each level of the weights."""
    from animatediff.memory.sizes import told
    from animatediff.pipelines.plan import levels_on_paper

    print("| clip in float16 | weights | nothing done | all on the GPU | model offload | group offload |")
    print("|---|---|---|---|---|---|")
    for name, (kind, frames, size) in PAPER.items():
        pipe = published(kind)
        job = pipe.job(PROMPT, num_frames=frames, height=size, width=size, vram="100TB")
        found = levels_on_paper(pipe, job)
        weights = told(sum(found[0].weights.values()))
        print(f"| {name} | {weights} | {' | '.join(told(plan.needed) for plan in found)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("settings", nargs="*", help=", ".join(SETTINGS))
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--paper", action="store_true")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    logging.disable(logging.WARNING)
    if args.paper:
        paper()
        return
    if args.one is not None:
        print(json.dumps(compared(SETTINGS[args.one], quick=args.quick)))
        return
    print("| setting | weights, MB | estimate, MB | measured, MB | estimate / measured |\n|---|---|---|---|---|")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    for name in args.settings or SETTINGS:
        command = [sys.executable, __file__, "--one", name, *(["--quick"] if args.quick else [])]
        done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
        row = json.loads(done.stdout.splitlines()[-1])
        weights, estimate, measured = (row[key] / 1e6 for key in ("weights", "estimate", "measured"))
        print(f"| {name} | {weights:.0f} | {estimate:.0f} | {measured:.0f} | {estimate / measured:.3f} |", flush=True)


if __name__ == "__main__":
    main()
