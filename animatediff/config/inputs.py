"""What a clip starts from or follows: the settings for videos and pictures, a part of every request."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, Field

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

    def _check_video(self) -> None:
        """Raise ValueError for settings that mean nothing together."""
        if self.video is None:
            for name in ("video_fps", "video_start", "video_duration", "audio"):
                if getattr(self, name) != VideoSettings.model_fields[name].default:
                    raise ValueError(f"{name} is a setting of video, but no video is given; add --video FILE")


INPUT_PATHS = {"video": ""}
"""Those of these settings that name a file, as PATH_FIELDS."""
