"""Limits of what files and settings may ask for, in one table, each checked before work begins.

A limit has a default that real work stays below, an environment variable (`ANIMATEDIFF_MAX_FRAMES`) and an option of
the command line (`--max-frames`). It belongs to the process: no request, configuration or result can change it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from animatediff.errors import UserError, unknown

MEDIA, CONFIG, WEIGHTS, DATA, BATCH = "media", "config", "weights", "data", "batch"
"""Rooms of limits; a command offers those of the rooms that it reads from."""


@dataclass(frozen=True, kw_only=True)
class Limit:
    """The largest number of something."""

    name: str
    default: int
    unit: str
    help: str
    """A line for users."""
    room: str
    remedy: str = ""
    """What to do other than to raise the limit."""

    @property
    def flag(self) -> str:
        """Option of the command line."""
        return "--" + self.name.replace("_", "-")

    @property
    def variable(self) -> str:
        """Environment variable; DataLoader workers and other child processes inherit it."""
        return f"ANIMATEDIFF_{self.name.upper()}"

    @property
    def value(self) -> int:
        """The limit in force. Raises UserError for a variable that holds no whole number above 0."""
        text = os.environ.get(self.variable)
        if text is None:
            return self.default
        try:
            number = int(text)
        except ValueError:
            number = 0
        if number < 1:
            raise UserError(f"{self.variable}={text[:40]!r}: expected a whole number, at least 1")
        return number

    def check(self, number: float, what: str, error: type[Exception] = UserError) -> None:
        """Raise `error` where `number` is beyond the limit. what: the finding, such as "has 7 frames"."""
        if number > (limit := self.value):
            raise error(
                f"{what}; the limit is {limit:,} {self.unit}: {self.remedy}raise `{self.name}` if that is meant"
            )


MAX_FRAMES = Limit(
    name="max_frames",
    default=20_000,
    unit="frames",
    room=MEDIA,
    remedy="take fewer, or ",
    help="Frames of a clip that is rendered, of an animated image, or of a video that is evaluated.",
)
MAX_VIDEO_FRAMES = Limit(
    name="max_video_frames",
    default=1_000_000,
    unit="frames",
    room=MEDIA,
    remedy="cut it into parts, or ",
    help="Frames of a video, or files of a folder, that frames are taken from.",
)
MAX_PIXELS = Limit(
    name="max_pixels",
    default=2**26,
    unit="pixels",
    room=MEDIA,
    remedy="make it smaller, or ",
    help="Pixels of an image, or of a frame.",
)
MAX_CLIP_PIXELS = Limit(
    name="max_clip_pixels",
    default=2**37,
    unit="pixels",
    room=MEDIA,
    remedy="take fewer or smaller frames, or ",
    help="Pixels of all frames of a clip that is rendered.",
)
MAX_ANIMATION_PIXELS = Limit(
    name="max_animation_pixels",
    default=2**32,
    unit="pixels",
    room=MEDIA,
    remedy="save it as mp4, or ",
    help="Pixels of all frames of an animated image, such as a GIF.",
)
MAX_ASPECT = Limit(
    name="max_aspect", default=16, unit="times", room=MEDIA, remedy="cut it to shape, give width and height, or ",
    help="Longer side of an image by its shorter one, where a clip takes its shape.",
)  # fmt: skip
MAX_CONFIG_BYTES = Limit(
    name="max_config_bytes",
    default=2**21,
    unit="bytes",
    room=CONFIG,
    help="Bytes of a YAML or JSON file.",
)
MAX_ENTRIES = Limit(
    name="max_entries",
    default=50_000,
    unit="entries",
    room=CONFIG,
    help="Entries of a YAML or JSON text, those that aliases and merge keys repeat counted each time.",
)
MAX_DEPTH = Limit(
    name="max_depth",
    default=100,
    unit="levels",
    room=CONFIG,
    help="Levels of brackets or indentation in a YAML or JSON text.",
)
MAX_RUNS = Limit(
    name="max_runs",
    default=10_000,
    unit="runs",
    room=CONFIG,
    remedy="split the file, or ",
    help="Runs of a configuration.",
)
MAX_PROMPT_CHARS = Limit(
    name="max_prompt_chars",
    default=50_000,
    unit="characters",
    room=CONFIG,
    remedy="shorten it, or ",
    help="Characters of a prompt.",
)
MAX_HEADER_BYTES = Limit(
    name="max_header_bytes",
    default=2**24,
    unit="bytes",
    room=WEIGHTS,
    help="Bytes of the header of a safetensors file.",
)
MAX_PICKLE_BYTES = Limit(
    name="max_pickle_bytes",
    default=2**26,
    unit="bytes",
    room=WEIGHTS,
    help="Bytes of the pickle in a checkpoint, its tensors not counted.",
)
MAX_PICKLE_ITEMS = Limit(
    name="max_pickle_items",
    default=2_000_000,
    unit="items",
    room=WEIGHTS,
    help="Steps in which the pickle of a checkpoint is read: values, names, tensors.",
)
MAX_EXPANDED_BYTES = Limit(
    name="max_expanded_bytes",
    default=2**31,
    unit="bytes",
    room=WEIGHTS,
    help="Bytes that tensors of a checkpoint may take beyond four times those of its file.",
)
MAX_ROWS = Limit(
    name="max_rows", default=20_000_000, unit="rows", room=DATA, remedy="split it, or ",
    help="Rows, files or samples of a set of training data.",
)  # fmt: skip
MAX_JOBS = Limit(
    name="max_jobs", default=100_000, unit="clips", room=BATCH, remedy="split the file, or ",
    help="Clips that a file of rows asks for.",
)  # fmt: skip
MAX_JSON_BYTES = Limit(
    name="max_json_bytes", default=2**24, unit="bytes", room=DATA,
    remedy="write one JSON object a line (.jsonl), or an array of them, or ",
    help="Bytes of a JSON file of training data that is one object, such as of captions by name.",
)  # fmt: skip

LIMITS = {limit.name: limit for limit in list(globals().values()) if isinstance(limit, Limit)}
"""All limits by their name."""
FLAGS = {limit.name: limit.flag for limit in LIMITS.values()}


@contextmanager
def limits(**values: int) -> Iterator[None]:
    """A context with other limits, for the whole process: `with limits(max_frames=50_000): ...`.

    Raises UserError for an unknown name, and for a number below 1.
    """
    before = {}
    try:
        for name, value in values.items():
            if name not in LIMITS:
                raise unknown("limit", name, LIMITS)
            if value < 1:
                raise UserError(f"`{name}`={value}: expected a whole number, at least 1")
            variable = LIMITS[name].variable
            before[variable] = os.environ.get(variable)
            os.environ[variable] = str(value)
        yield
    finally:
        for variable, text in before.items():
            if text is None:
                os.environ.pop(variable, None)
            else:
                os.environ[variable] = text
