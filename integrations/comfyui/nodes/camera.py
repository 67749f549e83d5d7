"""CameraCtrl: the path that the camera takes."""

# pyright: reportMissingImports=false

from __future__ import annotations

from comfy_api.latest import io

from ..camera import CameraMove, Control, camera_stamp, check_control, load_control, read_camera
from ..custom_types import CameraCtrlLink, MotionModuleLink
from ..folders import CAMERAS, file_path, files, stamp
from ..messages import in_host_words, verdict
from ..motion import Motion, with_condition

EXAMPLE = "zoom-in:0.5, pan-left:0.2"


class AnimateDiffLoadCameraCtrl(io.ComfyNode):
    """Load a CameraCtrl model."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="AnimateDiffLoadCameraCtrl",
            display_name="AnimateDiff Load CameraCtrl",
            category="AnimateDiff",
            description=(
                "Loads a CameraCtrl model (CameraCtrl.ckpt, or the pruned file), which goes with the v3 motion module. "
                "Files are looked for in models/CameraCtrl and models/animatediff_models."
            ),
            search_aliases=["cameractrl loader", "camera_ctrl", "ADE_LoadAnimateDiffModelWithCameraCtrl"],
            inputs=[io.Combo.Input("cameractrl", options=files(CAMERAS), tooltip="File of the CameraCtrl model.")],
            outputs=[CameraCtrlLink.Output(display_name="cameractrl", tooltip="For AnimateDiff CameraCtrl.")],
        )

    @classmethod
    def validate_inputs(cls, cameractrl: str) -> bool | str:
        return verdict(lambda: check_control(file_path(CAMERAS, cameractrl)), cameractrl)

    @classmethod
    def fingerprint_inputs(cls, cameractrl: str) -> str:
        return stamp(CAMERAS, cameractrl)

    @classmethod
    def execute(cls, cameractrl: str) -> io.NodeOutput:
        with in_host_words():
            return io.NodeOutput(load_control(file_path(CAMERAS, cameractrl)))


class AnimateDiffCameraCtrl(io.ComfyNode):
    """Let the camera follow a path."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="AnimateDiffCameraCtrl",
            display_name="AnimateDiff CameraCtrl",
            category="AnimateDiff",
            description=(
                "The camera of a clip follows a path. Stands between AnimateDiff Load Motion Module (the v3 module) "
                "and AnimateDiff Apply. Best at 384 x 256 and 16 frames, with sides that 64 divides."
            ),
            search_aliases=["camera", "poses", "zoom", "pan", "orbit", "ADE_ApplyAnimateDiffModelWithCameraCtrl"],
            inputs=[
                MotionModuleLink.Input("motion_module", tooltip="From AnimateDiff Load Motion Module: the v3 module."),
                CameraCtrlLink.Input("cameractrl", tooltip="From AnimateDiff Load CameraCtrl."),
                io.String.Input(
                    "camera",
                    default=EXAMPLE,
                    multiline=True,
                    tooltip=(
                        "Moves that are done at the same time, NAME:STRENGTH@EASING each: pan, tilt, roll, zoom, "
                        "truck, pedestal, orbit, such as zoom-in:0.5, pan-left:0.2@ease-in-out. Or a file of poses in "
                        "ComfyUI's input folder (poses.txt), or its lines: timestamp, fx, fy, cx, cy, two zeros and a "
                        "3x4 matrix from world to camera, one line a frame, as in RealEstate10K."
                    ),
                ),
                io.Float.Input(
                    "camera_scale",
                    default=1.0,
                    min=0.0,
                    max=10.0,
                    step=0.01,
                    optional=True,
                    tooltip="How strongly the path acts: 1 as trained, 0 off.",
                ),
                io.Float.Input(
                    "camera_aspect",
                    default=0.0,
                    min=0.0,
                    max=100.0,
                    step=0.001,
                    optional=True,
                    advanced=True,
                    tooltip="Width by height of the video that poses are of; 0 is 16:9, as in RealEstate10K.",
                ),
            ],
            outputs=[MotionModuleLink.Output(display_name="motion_module", tooltip="The module with the path.")],
        )

    @classmethod
    def validate_inputs(cls, camera: str) -> bool | str:
        return verdict(lambda: read_camera(camera), camera)

    @classmethod
    def fingerprint_inputs(cls, camera: str = EXAMPLE, **inputs: object) -> str:
        return f"{camera_stamp(camera)} {inputs.get('camera_scale')} {inputs.get('camera_aspect')}"

    @classmethod
    def execute(
        cls,
        motion_module: Motion,
        cameractrl: Control,
        camera: str = EXAMPLE,
        camera_scale: float = 1.0,
        camera_aspect: float = 0.0,
    ) -> io.NodeOutput:
        if camera_scale == 0:
            return io.NodeOutput(motion_module)
        with in_host_words():
            aspect = camera_aspect or None
            move = CameraMove(cameractrl, read_camera(camera, aspect), scale=camera_scale)
            return io.NodeOutput(with_condition(motion_module, move))


NODES = [AnimateDiffLoadCameraCtrl, AnimateDiffCameraCtrl]
