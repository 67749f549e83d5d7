"""The options of `animatediff animate` for what a clip starts from or follows."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any, Optional

import typer

# typer reads these annotations at run time, where `str | None` works from Python 3.10 on.
Text = Optional[str]  # noqa: UP045
Texts = Optional[list[str]]  # noqa: UP045
Number = Optional[int]  # noqa: UP045
Real = Optional[float]  # noqa: UP045
Reals = Optional[list[float]]  # noqa: UP045


def _option(panel: str, text: str, name: str, metavar: str | None = None) -> Any:
    return typer.Option(name, help=text, rich_help_panel=panel, metavar=metavar, show_default=False)


_of_video = partial(_option, "Video to start from")
_of_pictures = partial(_option, "Animate a picture")
_of_nets = partial(_option, "ControlNet")
_of_second_pass = partial(_option, "Second pass")

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

Image = Annotated[Text, _of_pictures("Picture of the first frame.", "--image", metavar="FILE")]
LastImage = Annotated[Text, _of_pictures("Picture of the last frame.", "--last-image", metavar="FILE")]
Keyframe = Annotated[Texts, _of_pictures("Picture of any frame; may be repeated.", "--keyframe", metavar="FRAME=FILE")]
ImageMode = Annotated[
    Text,
    _of_pictures("How: sparsectrl, ip-adapter or latents (the best there is).", "--image-mode", metavar="HOW"),
]
IpAdapter = Annotated[Text, _of_pictures("IP-Adapter: content and style of pictures.", "--ip-adapter", metavar="FILE")]
IpAdapterImage = Annotated[
    Texts, _of_pictures("What it sees (--image); may be repeated.", "--ip-adapter-image", metavar="FILE")
]
IpAdapterScale = Annotated[Real, _of_pictures("How strongly it acts (1.0).", "--ip-adapter-scale")]
IpAdapterEncoder = Annotated[
    Text, _of_pictures("Its CLIP image encoder (beside it).", "--ip-adapter-encoder", metavar="FOLDER")
]

ControlNet = Annotated[
    Texts, _of_nets("ControlNet, a file or a diffusers folder; may be repeated.", "--controlnet", metavar="FILE")
]
ControlNetVideo = Annotated[
    Texts,
    _of_nets("What it follows: a video, or a folder of pictures; once, or once each.", "--controlnet-video", "FILE"),
]
ControlNetPreprocess = Annotated[
    Texts, _of_nets("Make sketches of its frames: scribble, canny or none.", "--controlnet-preprocess", "HOW")
]
ControlNetScale = Annotated[Reals, _of_nets("How strongly it steers (1.0).", "--controlnet-scale")]
ControlNetStart = Annotated[Reals, _of_nets("Share of the steps from which on it does (0).", "--controlnet-start")]
ControlNetEnd = Annotated[Reals, _of_nets("Share of the steps up to which it does (1).", "--controlnet-end")]
ControlNetSpread = Annotated[
    Texts,
    _of_nets(
        "Pictures stand at the frames that their names say, and steer their neighbours so strongly.",
        "--controlnet-spread",
        "0.5,0.3",
    ),
]

Upscale = Annotated[Real, _of_second_pass("Render again, so many times as large.", "--upscale")]
UpscaleStrength = Annotated[
    Real, _of_second_pass("How much of it is made anew: above 0 to 1 (0.5).", "--upscale-strength")
]
UpscaleSteps = Annotated[Number, _of_second_pass("Steps of its whole schedule (as before).", "--upscale-steps")]


def keyframes(texts: list[str] | None) -> list[dict[str, Any]] | None:
    """`8=c.png` and the like as the request takes them. Raises UserError for anything else."""
    from animatediff.errors import UserError
    from animatediff.render.request_inputs import keyframe_of

    try:
        return [keyframe_of(text) for text in texts or []] or None
    except ValueError as error:
        raise UserError(str(error)) from error
