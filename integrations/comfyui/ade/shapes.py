"""Inputs and outputs of the nodes that a translation makes, as the host lists them (a test compares them)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Shape:
    """Sockets and widgets of a node."""

    inputs: tuple[tuple[str, str, Any], ...]
    """(name, type, default), in order; the default of a socket, and of a list of files, is None."""
    outputs: tuple[tuple[str, str], ...]
    """(name, type)."""


SOCKETS = {
    *("MODEL", "CLIP", "VAE", "CONDITIONING", "LATENT", "IMAGE", "VIDEO", "AUDIO"),
    *("ANIMATEDIFF_MOTION_MODULE", "ANIMATEDIFF_SPARSECTRL", "ANIMATEDIFF_CAMERACTRL"),
}
"""Types of inputs that have no widget."""
_MODULE, _SPARSE, _CAMERA = "ANIMATEDIFF_MOTION_MODULE", "ANIMATEDIFF_SPARSECTRL", "ANIMATEDIFF_CAMERACTRL"

SHAPES = {
    "AnimateDiffLoadMotionModule": Shape(
        (("motion_module", "COMBO", None), ("family", "COMBO", "auto"), ("conv_in_from_file", "BOOLEAN", False)),
        (("motion_module", _MODULE),),
    ),
    "AnimateDiffMotionLora": Shape(
        (("motion_module", _MODULE, None), ("lora", "COMBO", None), ("strength", "FLOAT", 1.0)),
        (("motion_module", _MODULE),),
    ),
    "AnimateDiffApply": Shape(
        (
            ("model", "MODEL", None),
            ("motion_module", _MODULE, None),
            ("motion_scale", "FLOAT", 1.0),
            ("sampling_settings", "COMBO", "auto"),
            ("scale_curve", "STRING", ""),
            ("start_percent", "FLOAT", 0.0),
            ("end_percent", "FLOAT", 1.0),
        ),
        (("MODEL", "MODEL"),),
    ),
    "AnimateDiffPIA": Shape(
        (
            ("motion_module", _MODULE, None),
            ("image", "IMAGE", None),
            ("vae", "VAE", None),
            ("motion_amount", "COMBO", "small"),
            ("frame", "INT", 0),
            ("strength", "FLOAT", 1.0),
            ("image_affinity", "STRING", ""),
        ),
        (("motion_module", _MODULE),),
    ),
    "AnimateDiffI2V": Shape(
        (
            ("motion_module", _MODULE, None),
            ("image", "IMAGE", None),
            ("vae", "VAE", None),
            ("image_motion_scale", "FLOAT", 0.8),
        ),
        (("motion_module", _MODULE),),
    ),
    "AnimateDiffLoadCameraCtrl": Shape((("cameractrl", "COMBO", None),), (("cameractrl", _CAMERA),)),
    "AnimateDiffCameraCtrl": Shape(
        (
            ("motion_module", _MODULE, None),
            ("cameractrl", _CAMERA, None),
            ("camera", "STRING", "zoom-in:0.5, pan-left:0.2"),
            ("camera_scale", "FLOAT", 1.0),
            ("camera_aspect", "FLOAT", 0.0),
        ),
        (("motion_module", _MODULE),),
    ),
    "AnimateDiffContextWindows": Shape(
        (
            ("model", "MODEL", None),
            ("context_length", "INT", 16),
            ("context_overlap", "INT", 4),
            ("context_schedule", "COMBO", "standard_static"),
            ("fuse_method", "COMBO", "pyramid"),
            ("closed_loop", "BOOLEAN", False),
            ("context_stride", "INT", 1),
            ("freenoise", "BOOLEAN", False),
        ),
        (("MODEL", "MODEL"),),
    ),
    "AnimateDiffPromptTravel": Shape(
        (
            ("clip", "CLIP", None),
            ("text", "STRING", ""),
            ("num_frames", "INT", 16),
            ("latent", "LATENT", None),
            ("interpolation", "COMBO", "linear"),
            ("hold", "FLOAT", 0.5),
            ("loop", "BOOLEAN", False),
            ("head", "STRING", ""),
            ("tail", "STRING", ""),
        ),
        (("CONDITIONING", "CONDITIONING"),),
    ),
    "AnimateDiffLoadSparseCtrl": Shape((("sparsectrl", "COMBO", None),), (("sparsectrl", _SPARSE),)),
    "AnimateDiffSparseCtrlApply": Shape(
        (
            ("positive", "CONDITIONING", None),
            ("negative", "CONDITIONING", None),
            ("sparsectrl", _SPARSE, None),
            ("images", "IMAGE", None),
            ("frames", "STRING", "0"),
            ("strength", "FLOAT", 1.0),
            ("start_percent", "FLOAT", 0.0),
            ("end_percent", "FLOAT", 1.0),
            ("vae", "VAE", None),
        ),
        (("positive", "CONDITIONING"), ("negative", "CONDITIONING")),
    ),
    "EmptyLatentImage": Shape(
        (("width", "INT", 512), ("height", "INT", 512), ("batch_size", "INT", 1)), (("LATENT", "LATENT"),)
    ),
    "CheckpointLoaderSimple": Shape(
        (("ckpt_name", "COMBO", None),), (("MODEL", "MODEL"), ("CLIP", "CLIP"), ("VAE", "VAE"))
    ),
    "CLIPTextEncode": Shape((("text", "STRING", ""), ("clip", "CLIP", None)), (("CONDITIONING", "CONDITIONING"),)),
    "CreateVideo": Shape(
        (("images", "IMAGE", None), ("fps", "FLOAT", 30.0), ("audio", "AUDIO", None), ("bit_depth", "INT", 8)),
        (("VIDEO", "VIDEO"),),
    ),
    "SaveVideo": Shape(
        (
            ("video", "VIDEO", None),
            ("filename_prefix", "STRING", "video/ComfyUI"),
            ("format", "COMFY_DYNAMICCOMBO_V3", "auto"),
            ("format.codec", "COMFY_DYNAMICCOMBO_V3", "auto"),
        ),
        (("VIDEO", "VIDEO"),),
    ),
    "SaveAnimatedWEBP": Shape(
        (
            ("images", "IMAGE", None),
            ("filename_prefix", "STRING", "ComfyUI"),
            ("fps", "FLOAT", 6.0),
            ("lossless", "BOOLEAN", True),
            ("quality", "INT", 80),
            ("method", "COMBO", "default"),
        ),
        (("images", "IMAGE"),),
    ),
}
