"""What replaces the nodes for an image or a path of the camera: PIA, AnimateLCM-I2V and CameraCtrl."""

from __future__ import annotations

from .takes import (
    APPLY,
    CAMERA,
    I2V,
    LOAD,
    LOAD_CAMERA,
    MODULE,
    MODULE_INPUTS,
    PIA,
    Old,
    Takes,
    follow,
    link,
    only,
    same,
)

_AMOUNTS = {"Small": "small", "Medium": "moderate", "Large": "large"}
_KINDS = {"Animation": "", "Loop": "loop-", "Style Transfer": "style-"}
PRESETS = {
    f"{kind} ({amount} Motion)": f"{prefix}{name}"
    for kind, prefix in _KINDS.items()
    for amount, name in _AMOUNTS.items()
}
"""Preset there -> its name here."""

PIA_NODES = (
    Old(
        node="ADE_ApplyAnimateDiffModelWithPIA",
        takes=(
            follow("motion_model"),
            Takes(name="image", to=f"{PIA}.image", link=True),
            Takes(name="vae", to=f"{PIA}.vae", link=True),
            follow("pia_input"),
            *MODULE_INPUTS,
        ),
        sets={f"{PIA}.image_affinity": "1.0"},
        makes=(PIA, APPLY),
    ),
    Old(
        node="ADE_InputPIA_PaperPresets",
        takes=(
            Takes(
                name="preset",
                to=f"{PIA}.motion_amount",
                words=PRESETS,
                neutral=tuple(preset for preset in PRESETS if not preset.startswith("Loop")),
                default="Animation (Small Motion)",
                note=True,
                why="is the table of PIA's own program here, for 16 frames; there it is half of it, mirrored",
            ),
            same("batch_index", f"{PIA}.frame", default=0),
            link("mult_multival", "multiplies the preset; image_affinity is a mask of your own"),
            only("print_values", False, True, why=""),
        ),
        sets={f"{PIA}.image_affinity": ""},
    ),
    Old(
        node="ADE_InputPIA_Multival",
        takes=(follow("multival", {f"{APPLY}.motion_scale": f"{PIA}.image_affinity"}),),
    ),
)

I2V_NODES = (
    Old(
        node="ADE_LoadAnimateLCMI2VModel",
        takes=(MODULE, follow("ad_settings")),
        makes=(LOAD,),
    ),
    Old(
        node="ADE_ApplyAnimateLCMI2VModel",
        takes=(
            follow("motion_model"),
            follow("ref_latent"),
            same("ref_drift", f"{I2V}.image_motion_scale", default=0.0),
            only("apply_ref_when_disabled", False, why="acts where the motion module does"),
            *MODULE_INPUTS,
        ),
        makes=(I2V, APPLY),
    ),
    Old(
        node="ADE_UpscaleAndVAEEncode",
        takes=(
            Takes(name="image", to=f"{I2V}.image", link=True),
            Takes(name="vae", to=f"{I2V}.vae", link=True),
            Takes(name="latent_size", link=True, why=""),
            only("scale_method", "lanczos", why="is always lanczos"),
            only("crop", "center", why="is always center"),
        ),
    ),
)

INTRINSICS = (0.474812461, 0.844111024, 0.5, 0.5)
"""fx, fy, cx, cy of poses where nobody says otherwise."""
_MOVES = tuple(f"motion_type{number}" for number in range(1, 7))


def _pose(name: str, **more: object) -> Takes:
    """An input that the lines of poses are computed from."""
    return Takes(name=name, to=f"{CAMERA}.camera", **more)  # pyright: ignore[reportArgumentType]


_LENGTH = (_pose("speed", default=1.0), _pose("frame_length", default=16), _pose("prev_poses", link=True))
POSE_NODES = (
    Old(node="ADE_CameraPoseBasic", takes=(_pose("motion_type", default="Static"), *_LENGTH)),
    Old(node="ADE_CameraPoseCombo", takes=(*(_pose(name, default="Static") for name in _MOVES), *_LENGTH)),
    Old(
        node="ADE_CameraPoseAdvanced",
        takes=(
            *(
                takes
                for number, name in enumerate(_MOVES, 1)
                for takes in (_pose(name, default="Static"), _pose(f"strength{number}", default=1.0))
            ),
            *_LENGTH,
        ),
    ),
    Old(
        node="ADE_CameraManualPoseAppend",
        takes=(_pose("poses_first", link=True), _pose("poses_last", link=True)),
    ),
    Old(
        node="ADE_ReplaceCameraParameters",
        takes=(
            _pose("poses", link=True),
            *(_pose(name, default=value) for name, value in zip(("fx", "fy", "cx", "cy"), INTRINSICS, strict=True)),
        ),
    ),
    Old(
        node="ADE_ReplaceOriginalPoseAspectRatio",
        takes=(
            _pose("poses", link=True),
            Takes(name="orig_pose_width", to=f"{CAMERA}.camera_aspect", default=1280),
            Takes(name="orig_pose_height", to=f"{CAMERA}.camera_aspect", default=720),
        ),
    ),
)
"""Nodes of poses, which `poses.py` turns into lines of a file in RealEstate10K's format."""
CAMERA_NODES = (
    Old(
        node="ADE_LoadAnimateDiffModelWithCameraCtrl",
        takes=(MODULE, same("camera_ctrl", f"{LOAD_CAMERA}.cameractrl"), follow("ad_settings")),
        makes=(LOAD, LOAD_CAMERA),
    ),
    Old(
        node="ADE_ApplyAnimateDiffModelWithCameraCtrl",
        takes=(
            follow("motion_model"),
            follow("cameractrl_poses"),
            *MODULE_INPUTS[:5],
            follow("cameractrl_multival", {f"{APPLY}.motion_scale": f"{CAMERA}.camera_scale"}),
            *MODULE_INPUTS[5:],
        ),
        makes=(CAMERA, APPLY),
    ),
    Old(node="ADE_LoadCameraPoses", takes=(same("pose_filename", f"{CAMERA}.camera"),)),
    Old(
        node="ADE_LoadCameraPosesFromPath",
        takes=(
            same(
                "file_path",
                f"{CAMERA}.camera",
                note=True,
                why="is a file anywhere; here it is one of ComfyUI's input folder: put it there and give its name",
            ),
        ),
    ),
    *POSE_NODES,
)
