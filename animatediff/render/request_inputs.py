"""What a clip starts from or follows: the settings for videos and pictures, a part of every request."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from animatediff.frames import frame_indices

PathName = Annotated[str, Field(min_length=1)]
OptionalPath = Annotated[str | None, BeforeValidator(lambda v: None if isinstance(v, str) and not v.strip() else v)]
Strength = Annotated[float, Field(gt=0, le=1)]


class VideoSettings(BaseModel):
    """A video that the clip starts from."""

    video: OptionalPath = None
    """A video, an animated picture, or a folder of pictures; the clip takes its length, its rate and its shape."""
    strength: Strength | None = None
    """How much of it is changed, as a share of the steps: more than 0, and at 1 nothing of it is left."""
    video_fps: Annotated[float, Field(gt=0, le=240, allow_inf_nan=False)] | None = None
    """Frames to take a second; None is all of them."""
    video_start: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    """Seconds."""
    video_duration: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """Seconds."""
    resize: Literal["crop", "pad", "stretch"] = "crop"
    """How videos and pictures of another shape than the clip's are brought to it."""
    audio: bool = False
    """Whether the result is heard as the video is."""

    def _check_video(self, followed: bool) -> None:
        """Raise ValueError for settings that mean nothing alone; `followed`: whether a ControlNet has a video."""
        if self.video is None:
            of_parts = () if followed else ("video_fps", "video_start", "video_duration")
            for name in ("strength", "audio", *of_parts):
                if getattr(self, name) != VideoSettings.model_fields[name].default:
                    raise ValueError(f"{name} is a setting of video, but no video is given; add --video FILE")


class Keyframe(BaseModel):
    """A picture file and the frame that shows it; negatives count from the end."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    frame: int
    path: PathName


def _keyframes(value: Any) -> Any:
    """`{0: a.png}`, or a list of `0=a.png`, as entries of frame and path."""
    if value is None or value == "":
        return ()
    if isinstance(value, Mapping) and not {"frame", "path"} & set(value):
        return [{"frame": frame, "path": path} for frame, path in value.items()]
    listed = value if isinstance(value, (list, tuple)) else [value]
    return [keyframe_of(item) if isinstance(item, str) else item for item in listed]


def keyframe_of(text: str) -> dict[str, Any]:
    """`8=c.png` as a frame and its picture. Raises ValueError for anything else.

    >>> keyframe_of("-1=end.png")
    {'frame': -1, 'path': 'end.png'}
    """
    number, equals, path = text.partition("=")
    try:
        return {"frame": int(number), "path": path.strip()} if equals and path.strip() else {"frame": int("")}
    except ValueError:
        raise ValueError(f"keyframes: expected FRAME=FILE, such as 8=c.png, got {text!r}") from None


def _paths(value: Any) -> Any:
    return () if value is None or value == "" else value if isinstance(value, (list, tuple)) else [value]


class PictureSettings(BaseModel):
    """Pictures that the clip shows, and what an IP-Adapter sees."""

    image: OptionalPath = None
    """Picture of the first frame."""
    last_image: OptionalPath = None
    """Picture of the last frame."""
    keyframes: Annotated[tuple[Keyframe, ...], BeforeValidator(_keyframes)] = ()
    image_mode: Literal["sparsectrl", "ip-adapter", "latents"] | None = None
    """By which route they are shown; None is the best that the files at hand allow."""
    ip_adapter: OptionalPath = None
    """IP-Adapter file."""
    ip_adapter_encoder: OptionalPath = None
    """Folder of its CLIP image encoder; None is `image_encoder` beside it or one folder up."""
    ip_adapter_image: Annotated[tuple[PathName, ...], BeforeValidator(_paths)] = ()
    """What it sees; none are the pictures that the clip shows."""
    ip_adapter_scale: Annotated[float, Field(allow_inf_nan=False)] = 1.0

    @property
    def pictures(self) -> list[tuple[int, str]]:
        """(frame, file) of all pictures that the clip shows."""
        ends = [(frame, path) for frame, path in ((0, self.image), (-1, self.last_image)) if path is not None]
        return [*ends, *((keyframe.frame, keyframe.path) for keyframe in self.keyframes)]

    def _check_pictures(self, num_frames: int | None) -> None:
        """Raise ValueError for settings that mean nothing together."""
        frames = [frame for frame, _ in self.pictures]
        if frames:
            frame_indices(frames, len(frames), num_frames)
        elif self.image_mode is not None:
            raise ValueError(f"image_mode={self.image_mode} is given, but no picture; add --image FILE")
        if self.ip_adapter is None:
            for name in ("ip_adapter_image", "ip_adapter_encoder"):
                if getattr(self, name):
                    raise ValueError(f"{name} is given, but no IP-Adapter; add ip_adapter (--ip-adapter FILE)")
            if self.image_mode == "ip-adapter":
                raise ValueError("image_mode=ip-adapter takes an IP-Adapter; add ip_adapter (--ip-adapter FILE)")
        elif not self.ip_adapter_image and not frames:
            raise ValueError(
                "an IP-Adapter is given, but no picture for it; add ip_adapter_image (--ip-adapter-image FILE), or "
                "image (--image FILE)"
            )


Scales = Annotated[
    tuple[Annotated[float, Field(allow_inf_nan=False)], ...], BeforeValidator(_paths), Field(min_length=1)
]
Shares = Annotated[tuple[Annotated[float, Field(ge=0, le=1)], ...], BeforeValidator(_paths), Field(min_length=1)]
Sketches = Annotated[tuple[Literal["none", "scribble", "canny"], ...], BeforeValidator(_paths), Field(min_length=1)]


def _spreads(value: Any) -> Any:
    """One spread for all ControlNets, or a list of them; each a list of numbers, or a text such as "0.5,0.3"."""
    if value is None or value == "":
        return (None,)
    if not isinstance(value, (list, tuple)) or all(isinstance(item, (int, float)) for item in value):
        value = [value]
    return [_spread(item) for item in value]


def _spread(value: Any) -> Any:
    if isinstance(value, str):
        return None if value.strip() in ("", "none") else [part.strip() for part in value.split(",")]
    return [value] if isinstance(value, (int, float)) else value


Spread = tuple[Annotated[float, Field(allow_inf_nan=False)], ...]
Spreads = Annotated[tuple[Spread | None, ...], BeforeValidator(_spreads), Field(min_length=1)]


class ControlNetSettings(BaseModel):
    """ControlNets and what they follow. Lists have one entry a ControlNet, or one for all."""

    controlnet: Annotated[tuple[PathName, ...], BeforeValidator(_paths)] = ()
    """Files or diffusers folders."""
    controlnet_video: Annotated[tuple[PathName, ...], BeforeValidator(_paths)] = ()
    """Videos or folders of pictures; `video_fps`, `video_start`, `video_duration` and `resize` hold for them too."""
    controlnet_preprocess: Sketches = ("none",)
    """How sketches are made of their frames."""
    controlnet_scale: Scales = (1.0,)
    controlnet_start: Shares = (0.0,)
    """Share of the steps from which on they steer."""
    controlnet_end: Shares = (1.0,)
    controlnet_spread: Spreads = (None,)
    """For a folder of pictures whose names are frames of the clip: how strongly each steers the frames beside its own,
    the nearest first; None for pictures of all frames."""

    def of_net(self, name: str, index: int) -> Any:
        """The entry of a setting for one of the ControlNets."""
        values = getattr(self, name)
        return values[index % len(values)]

    def _check_nets(self) -> None:
        """Raise ValueError for lists that do not go together."""
        count = len(self.controlnet)
        if bool(count) != bool(self.controlnet_video):
            given, missing = ("controlnet", "controlnet_video") if count else ("controlnet_video", "controlnet")
            raise ValueError(f"{given} is given without {missing}; add --{missing.replace('_', '-')}")
        for name in ControlNetSettings.model_fields:
            values = getattr(self, name)
            if len(values) not in (1, count) and (count or values):
                raise ValueError(f"{len(values)} x {name} for {count} x controlnet; give one for each, or one for all")
        for index in range(count):
            start, end = self.of_net("controlnet_start", index), self.of_net("controlnet_end", index)
            if start > end:
                raise ValueError(f"controlnet_start={start} is after controlnet_end={end}")


class SecondPassSettings(BaseModel):
    """The clip again, at a larger size, begun with what the first pass made of it."""

    upscale: Annotated[float, Field(gt=1, le=8)] | None = None
    """How many times as wide and high the result is."""
    upscale_strength: Strength = 0.5
    """Share of the steps that the second pass makes."""
    upscale_steps: Annotated[int, Field(ge=1, le=1000)] | None = None
    """Of the whole schedule; None are as many as in the first pass."""

    def larger_size(self, width: int, height: int) -> tuple[int, int]:
        """The size of the result, for a first pass of this size in pixels; multiples of 8."""
        factor = self.upscale or 1.0
        return max(8, round(width * factor / 8) * 8), max(8, round(height * factor / 8) * 8)

    def _check_second_pass(self) -> None:
        """Raise ValueError for settings of a second pass without one."""
        if self.upscale is None:
            for name in ("upscale_strength", "upscale_steps"):
                if getattr(self, name) != SecondPassSettings.model_fields[name].default:
                    raise ValueError(f"{name} is a setting of the second pass; add upscale (--upscale 2)")


INPUT_PATHS = {
    "controlnet": "ControlNet",
    "controlnet_video": "",
    "video": "",
    "image": "",
    "last_image": "",
    "keyframes": "",
    "ip_adapter": "IP-Adapter",
    "ip_adapter_encoder": "",
    "ip_adapter_image": "",
}
"""Those of these settings that name a file, as PATH_FIELDS."""
