"""Every published file of AnimateDiff and its relatives: what it gives, a command, and what our numbers were held to.

One table for docs/models.md and for `inspect`. Of a file under another name, the row of its kind and family counts.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from animatediff.weights.recognise import Recognised

_BRACES = re.compile(r"\{([^{}]*)\}")
SD15, SDXL = "--model sd15.safetensors", "--model sdxl.safetensors"
_V2, _V3 = "--motion-module mm_sd_v15_v2.ckpt", "--motion-module v3_sd15_mm.ckpt"
_SDXL = "--motion-module mm_sdxl_v10_beta.ckpt"
_V3_ADAPTED = f"{_V3} --domain-adapter v3_sd15_adapter.ckpt"
_AS_V1 = "recognised by shape and name; runs as v1"
_BY_AUTHORS = "its authors' settings; no reference of its own"


@dataclass(frozen=True, kw_only=True)
class Published:
    """Files that are published together."""

    files: str
    """Names, parted by spaces; `{a,b}` stands for either."""
    kind: str
    """In `KINDS`."""
    gives: str
    """What it is, and what it gives."""
    options: str = ""
    """Of `animatediff animate PROMPT`, with the first of the files; empty where no command takes it."""
    checked: str = ""
    """What our numbers were held to."""
    family: str | None = None
    """Of motion modules, in `FAMILIES`."""
    variant: str | None = None
    """Within the kind, where that matters."""
    named: bool = False
    """Whether the row is for these names alone, as others of the kind are something else."""

    @property
    def names(self) -> tuple[str, ...]:
        """Every name."""
        return tuple(name for text in self.files.split() for name in _expanded(text))

    @property
    def command(self) -> str:
        """The command for the first of the files; empty where none takes it."""
        return f'animatediff animate "a fox in the snow" {self.options}' if self.options else ""

    def example(self, path: str) -> str:
        """The command for a file of this row under any name."""
        return self.command.replace(self.names[0], shlex.quote(path))


def _expanded(text: str) -> Iterator[str]:
    """The names that a text with braces stands for.

    >>> list(_expanded("a_{1,2}.ckpt"))
    ['a_1.ckpt', 'a_2.ckpt']
    """
    parts = _BRACES.split(text)
    choices = [part.split(",") if number % 2 else [part] for number, part in enumerate(parts)]
    yield from map("".join, product(*choices))


PUBLISHED: tuple[Published, ...] = (
    Published(
        files="mm_sd_v15.ckpt mm_sd_v14.ckpt mm_sd15_v1.safetensors", kind="motion_module", family="v1",
        gives="motion module of SD 1.5, first generation: 16 frames, 24 at most",
        options=f"{SD15} --motion-module mm_sd_v15.ckpt",
        checked="the original's code: module, UNet, LoRAs, video (`tests/test_golden.py`)",
    ),
    Published(
        files="mm_sd_v15_v2.ckpt mm_sd15_v2.safetensors", kind="motion_module", family="v2",
        gives="second generation, with a module in the mid block: 16 frames, 32 at most; MotionLoRAs were made for it",
        options=f"{SD15} {_V2}",
        checked="the original's code: module, UNet, LoRAs, video (`tests/test_golden.py`)",
    ),
    Published(
        files="v3_sd15_mm.ckpt mm_sd15_v3.safetensors", kind="motion_module", family="v3",
        gives="third generation, with the domain adapter or without: 16 frames, 32 at most",
        options=f"{SD15} {_V3_ADAPTED}",
        checked="the original's code: module, UNet, LoRAs, video (`tests/test_golden.py`)",
    ),
    Published(
        files="v3_sd15_adapter.ckpt", kind="domain_adapter",
        gives="v3's domain adapter: the look of its training videos, 1.0 as trained, less for cleaner images",
        options=f"{SD15} {_V3} --domain-adapter v3_sd15_adapter.ckpt:0.8",
        checked="the original's code: UNet at two strengths (`tests/test_golden.py`)",
    ),
    Published(
        files="v2_lora_{ZoomIn,ZoomOut,PanLeft,PanRight,TiltUp,TiltDown,RollingClockwise,RollingAnticlockwise}.ckpt",
        kind="motion_lora", gives="MotionLoRA: a move of the camera, several at once",
        options=f"{SD15} {_V2} --motion-lora v2_lora_ZoomIn.ckpt:0.8",
        checked="the original's code: UNet at several strengths (`tests/test_golden.py`)",
    ),
    Published(
        files="v3_sd15_sparsectrl_rgb.ckpt", kind="sparsectrl", variant="rgb",
        gives="SparseCtrl for images: the clip shows them at their frames",
        options=f"{SD15} {_V3_ADAPTED} --sparsectrl v3_sd15_sparsectrl_rgb.ckpt --image first.png",
        checked="the original's code: encoder, UNet, video (`tests/models/test_sparsectrl.py`)",
    ),
    Published(
        files="v3_sd15_sparsectrl_scribble.ckpt", kind="sparsectrl", variant="scribble",
        gives="SparseCtrl for sketches: the clip follows their outlines",
        options=f"{SD15} {_V3_ADAPTED} --sparsectrl v3_sd15_sparsectrl_scribble.ckpt --control-image drawing.png "
        "--control-preprocess scribble --control-end 0.4",
        checked="the original's code: encoder, UNet, video (`tests/models/test_sparsectrl.py`)",
    ),
    Published(
        files="mm_sdxl_v10_beta.ckpt", kind="motion_module", family="sdxl",
        gives="motion module of SDXL, beta: 16 frames of 1024 x 1024",
        options=f"{SDXL} --motion-module mm_sdxl_v10_beta.ckpt",
        checked="the original's code (branch `sdxl`): module, UNet (`tests/test_golden.py`)",
    ),
    Published(
        files="hsxl_temporal_layers.safetensors hsxl_temporal_layers.f16.safetensors", kind="motion_module",
        family="hotshot", gives="HotshotXL: 8 frames of 672 x 384, with SDXL or its own fine-tune of it",
        options=f"{SDXL} --motion-module hsxl_temporal_layers.safetensors",
        checked="HotshotXL's code: module, UNet (`tests/test_golden.py`)",
    ),
    Published(
        files="AnimateLCM_sd15_t2v.ckpt sd15_t2v_beta.ckpt", kind="motion_module", family="animatelcm",
        gives="AnimateLCM, text to video: 4 to 8 steps with its LoRA",
        options=f"{SD15} --motion-module AnimateLCM_sd15_t2v.ckpt --lora AnimateLCM_sd15_t2v_lora.safetensors:0.8",
        checked="AnimateLCM's code: steps, UNet, LoRA, videos (`tests/test_golden_lcm.py`)",
    ),
    Published(
        files="AnimateLCM_sd15_t2v_lora.safetensors sd15_lora_beta.safetensors", kind="lora", named=True,
        gives="AnimateLCM's LoRA of the image model: goes with its module, 0.8 to 1.0",
        options=f"{SD15} --motion-module AnimateLCM_sd15_t2v.ckpt --lora AnimateLCM_sd15_t2v_lora.safetensors:0.8",
        checked="AnimateLCM's code: UNet and video with it (`tests/test_golden_lcm.py`)",
    ),
    Published(
        files="AnimateLCM_sd15_i2v.ckpt", kind="motion_module", family="animatelcm_i2v",
        gives="AnimateLCM, image to video: 2 to 4 steps, 768 x 512, with its own LoRA",
        options=f"{SD15} --motion-module AnimateLCM_sd15_i2v.ckpt --lora AnimateLCM_sd15_i2v_lora.safetensors:0.8 "
        "--image first.png",
        checked="AnimateLCM's code: encoder, UNet, videos, colour matching (`tests/test_golden_lcm.py`)",
    ),
    Published(
        files="AnimateLCM_sd15_i2v_lora.safetensors", kind="lora", named=True,
        gives="the LoRA of AnimateLCM's image to video: goes with its module, 0.8",
        options=f"{SD15} --motion-module AnimateLCM_sd15_i2v.ckpt --lora AnimateLCM_sd15_i2v_lora.safetensors:0.8 "
        "--image first.png",
        checked="its names and layout are those of the other",
    ),
    Published(
        files="animatediff_lightning_{4,1,2,8}step_{comfyui,diffusers}.safetensors", kind="motion_module",
        family="lightning", gives="AnimateDiff-Lightning: exactly as many steps as the name says, guidance 1",
        options=f"{SD15} --motion-module animatediff_lightning_4step_comfyui.safetensors",
        checked=f"v2's tensors, whose shape it has; {_BY_AUTHORS}",
    ),
    Published(
        files="lt_long_mm_32_frames.ckpt lt_long_mm_16_64_frames.ckpt lt_long_mm_16_64_frames_v1.1.ckpt",
        kind="motion_module", family="long", gives="LongAnimateDiff: 32 or 64 frames without windows",
        options=f"{SD15} --motion-module lt_long_mm_32_frames.ckpt --motion-scale 1.15",
        checked=f"v2's tensors, whose shape it has; {_BY_AUTHORS}",
    ),
    Published(
        files="pia.ckpt", kind="motion_module", family="pia",
        gives="PIA: animates an image of the same image model, or in another's style",
        options=f"{SD15} --motion-module pia.ckpt --image first.png --motion-amount moderate",
        checked="PIA's code: first layer, UNet, masks, videos (`tests/pipelines/test_pia.py`)",
    ),
    Published(
        files="CameraCtrl.ckpt CameraCtrl_pruned.safetensors", kind="cameractrl",
        gives="CameraCtrl: the camera follows a path, with v3: 16 frames of 384 x 256, guidance 14",
        options=f"{SD15} {_V3_ADAPTED} --camera-control CameraCtrl.ckpt --camera zoom-in:0.5",
        checked="CameraCtrl's code: rays, encoder, UNet, video (`tests/camera/test_cameractrl.py`)",
    ),
    Published(
        files="RealEstate10K_LoRA.ckpt", kind="domain_adapter", named=True,
        gives="LoRA of the image model that CameraCtrl was trained with: the look of RealEstate10K, usually left out",
        options=f"{SD15} {_V3_ADAPTED} --lora RealEstate10K_LoRA.ckpt --camera-control CameraCtrl.ckpt "
        "--camera zoom-in:0.5",
        checked="CameraCtrl's code: UNet with it (`tests/camera/test_cameractrl.py`)",
    ),
    Published(
        files="mm-Stabilized_{mid,high}.pth", kind="motion_module", family="v1", named=True,
        gives="fine-tunes of v1 that move less, of the community", checked=_AS_V1,
        options=f"{SD15} --motion-module mm-Stabilized_mid.pth",
    ),
    Published(
        files="temporaldiff-v1-animatediff.{ckpt,safetensors}", kind="motion_module", family="v1", named=True,
        gives="fine-tune of v1 on 512 x 512, of the community", checked=_AS_V1,
        options=f"{SD15} --motion-module temporaldiff-v1-animatediff.ckpt",
    ),
    Published(
        files="mm-p_{0.5,0.75}.pth", kind="motion_module", family="v2", named=True,
        gives="fine-tunes of v2 that pan, of the community", checked="recognised by shape and name; runs as v2",
        options=f"{SD15} --motion-module mm-p_0.5.pth",
    ),
    Published(
        files="control_v11p_sd15_{openpose,lineart,softedge,canny,scribble,normalbae,seg,mlsd}.pth "
        "control_v11f1p_sd15_depth.pth control_v11f1e_sd15_tile.pth controlnet_checkpoint.ckpt",
        kind="controlnet", gives="ControlNet: the clip follows a video, frame by frame",
        options=f"{SD15} {_V2} --controlnet control_v11p_sd15_openpose.pth --controlnet-video poses.mp4",
        checked="diffusers' own pipeline, each frame (`tests/pipelines/test_controlnet.py`)",
    ),
    Published(
        files="ip-adapter_sd15.{safetensors,bin} ip-adapter_sd15_light.bin", kind="ip_adapter", variant="plain",
        gives="IP-Adapter: content and style of an image",
        options=f"{SD15} {_V2} --ip-adapter ip-adapter_sd15.safetensors --ip-adapter-image style.png",
        checked="diffusers' own pipeline, each frame (`tests/pipelines/test_ip_adapter.py`)",
    ),
    Published(
        files="ip-adapter-{plus-face,plus}_sd15.safetensors", kind="ip_adapter", variant="plus",
        gives="IP-Adapter Plus, also for faces: led by a video, a portrait that moves as it does",
        options=f"{SD15} {_V2} --ip-adapter ip-adapter-plus-face_sd15.safetensors --image face.png --drive me.mp4",
        checked="diffusers' own pipeline, each frame (`tests/pipelines/test_ip_adapter.py`)",
    ),
    Published(
        files="ip-adapter-full-face_sd15.safetensors", kind="ip_adapter", variant="full-face",
        gives="IP-Adapter for faces, all tokens of the image encoder",
        options=f"{SD15} {_V2} --ip-adapter ip-adapter-full-face_sd15.safetensors --ip-adapter-image face.png",
        checked="diffusers' own pipeline, each frame (`tests/pipelines/test_ip_adapter.py`)",
    ),
    Published(
        files="ip-adapter-faceid_sd15.bin ip-adapter-faceid-plusv2_sd15.bin", kind="ip_adapter_faceid",
        gives="IP-Adapter FaceID: reads face embeddings of insightface, which are not computed here; take plus-face",
    ),
)  # fmt: skip
"""In the order of the table. Of the rows of a kind and family the first that is not `named` is for other names too."""


def row_of(found: Recognised) -> Published | None:
    """The row of a file: by its name among those of its kind and family, else by these alone; None if there is none."""
    family = found.family.name if found.family is not None else None
    rows = [
        row
        for row in PUBLISHED
        if row.kind == found.kind and row.family in (None, family) and row.variant in (None, found.variant)
    ]
    name = found.header.path.name.lower()
    own = (row for row in rows if any(name == known.lower() for known in row.names))
    return next(own, next((row for row in rows if not row.named), None))


def example(found: Recognised) -> str | None:
    """A command for a recognised file; None where no command of the table takes it."""
    row = row_of(found)
    if row is None or not row.command:
        return None
    path = found.header.path
    if path.name.startswith("diffusion_pytorch_model") and (path.parent / "config.json").is_file():
        path = path.parent  # in the layout of diffusers its folder is given
    command = row.example(str(path))
    if found.base == "sdxl":  # of add-ons, which the table has for SD 1.5
        command = command.replace(SD15, SDXL).replace(_V2, _SDXL)
    return command


def table() -> str:
    """The table in Markdown, for docs/models.md."""
    rows = ["| file | what it gives | command | checked against |", "|---|---|---|---|"]
    for row in PUBLISHED:
        files = " ".join(f"`{name}`" for name in row.files.split())
        command = f"`{row.command}`" if row.command else "not taken"
        rows.append(f"| {files} | {row.gives} | {command} | {row.checked or 'recognised'} |")
    return "\n".join(rows)


if __name__ == "__main__":
    print(table())
