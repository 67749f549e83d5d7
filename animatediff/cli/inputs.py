"""The options of `animatediff animate` for what a clip starts from or follows."""

from __future__ import annotations

from typing import Annotated, Any, Optional

import typer

# typer reads these annotations at run time, where `str | None` works from Python 3.10 on.
Text = Optional[str]  # noqa: UP045
Real = Optional[float]  # noqa: UP045


def _of_video(text: str, name: str, metavar: str | None = None) -> Any:
    return typer.Option(name, help=text, rich_help_panel="Video to start from", metavar=metavar, show_default=False)


Video = Annotated[
    Text, _of_video("Video, animated picture, or folder of pictures to start from.", "--video", metavar="FILE")
]
Strength = Annotated[Real, _of_video("How much of it is changed: above 0 (hardly) to 1 (all) (0.6).", "--strength")]
VideoFps = Annotated[Real, _of_video("Frames to take a second (all).", "--video-fps")]
VideoStart = Annotated[Real, _of_video("Where to begin in it.", "--video-start", metavar="SECONDS")]
VideoDuration = Annotated[Real, _of_video("How much of it to take.", "--video-duration", metavar="SECONDS")]
Resize = Annotated[
    Text, _of_video("Bring videos and pictures to size: crop, pad or stretch.", "--resize", metavar="HOW")
]
Audio = Annotated[bool, _of_video("Put its sound beside the result (mp4, webm).", "--audio")]
