"""Settings that fields of other kinds decide: width and height by `size`, frames and rates by `seconds`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from animatediff.errors import brief
from animatediff.server.errors import refused
from animatediff.server.schema import VideoRequest
from animatediff.server.sent import Sent

FPS = 8.0
"""Frames a second of a request that says how long its video is, and nothing of its frames."""
_SIZE = re.compile(r"(\d{1,6})[xX](\d{1,6})", re.ASCII)


def size(wire: VideoRequest, values: Mapping[str, Any], sent: Sent) -> dict[str, Any]:
    """Width and height of `size`. Raises ApiError."""
    if wire.size is None:
        return {}
    found = _SIZE.fullmatch(wire.size.strip())
    if found is None:
        raise refused(f"size={wire.size!r}: expected WIDTHxHEIGHT in pixels, such as 512x512", "size")
    sides = {"width": int(found[1]), "height": int(found[2])}
    for name, side in sides.items():
        if str(values.get(name, side)) != str(side):
            raise refused(
                f"size={wire.size} and {sent.name(name)}={brief(values[name])} contradict each other; give one of them",
                "size",
            )
        if side < 8 or side % 8:
            raise refused(f"size={wire.size}: the {name} is {side}, expected a multiple of 8", "size")
    sent.put("size", [name for name in sides if name not in values], f"size={wire.size.strip()}")
    return sides


def length(wire: VideoRequest, values: Mapping[str, Any], sent: Sent) -> dict[str, Any]:
    """Frames and rate by the seconds that are asked for. Raises ApiError."""
    if wire.seconds is None:
        return {}
    of_frames, of_fps = sent.name("num_frames"), sent.name("fps")
    try:
        seconds = float(wire.seconds)
        fps = float(values["fps"]) if "fps" in values else None
        frames = int(values["num_frames"]) if "num_frames" in values else None
    except (ValueError, TypeError, OverflowError):
        raise refused(f"seconds={brief(wire.seconds)}: expected a number of seconds, such as 4", "seconds") from None
    if not 0 < seconds <= 24 * 3600 or (fps is not None and not 0 < fps <= 240):
        raise refused(f"seconds={brief(wire.seconds)}: expected more than 0, and an fps from 0 to 240", "seconds")
    said = f"seconds={seconds:g}"
    if frames is None:
        sent.put("seconds", ["num_frames"], said)
        if fps is None:
            sent.put("seconds", ["fps"], said)
        fps = fps or FPS
        return {"num_frames": max(1, round(seconds * fps)), "fps": fps}
    if fps is None:
        if not 0 < frames / seconds <= 240:
            raise refused(f"{of_frames}={frames} in {seconds:g} seconds: expected up to 240 frames a second", "seconds")
        sent.put("seconds", ["fps"], said)
        return {"fps": frames / seconds}
    if abs(frames / fps - seconds) > 0.5 / fps:
        raise refused(
            f"seconds={seconds:g}, but {of_frames}={frames} at {of_fps}={fps:g} take {frames / fps:g} seconds; give "
            "two of the three",
            "seconds",
        )
    return {}


def interpolation(wire: VideoRequest, values: Mapping[str, Any], sent: Sent, *, has_video: bool) -> dict[str, Any]:
    """The rate of the file where frames in between are asked for as vLLM-Omni does. Raises ApiError."""
    power = "frame_interpolation_exp"
    if not wire.enable_frame_interpolation:
        if wire.frame_interpolation_exp is not None:
            raise refused(f"{power} is given without enable_frame_interpolation", power)
        return {}
    name = "enable_frame_interpolation" if wire.frame_interpolation_exp is None else power
    if "fps_out" in values:
        raise refused(f"enable_frame_interpolation and {sent.name('fps_out')} both say the rate; give one", name)
    if "fps" not in values and has_video:
        raise refused("enable_frame_interpolation multiplies `fps`: give it, as a video has its own", "fps")
    try:
        fps = float(values.get("fps", FPS))
    except (TypeError, ValueError):
        of_fps = sent.name("fps")
        raise refused(f"{of_fps}={brief(values['fps'])}: expected a number", of_fps) from None
    rate = fps * 2 ** (wire.frame_interpolation_exp or 1)
    if not 0 < rate <= 240:
        raise refused(f"{name}: comes to {rate:g} frames a second; expected up to 240", name)
    sent.put(name, ["fps_out"], f"{name}={getattr(wire, name)}")
    return {"fps": fps, "fps_out": rate}
