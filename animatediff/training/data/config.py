"""The configuration of training data: its place, and the clips that are cut from it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from animatediff.errors import UserError, brief, unknown
from animatediff.render.request import unknown_key
from animatediff.sprites.words import MOTIONS

Kind = Literal["auto", "csv", "folder", "jsonl", "pictures", "webdataset", "sprites"]
Count = Annotated[int, Field(ge=1)]
Name = Annotated[str | None, BeforeValidator(lambda v: None if isinstance(v, str) and not v.strip() else v)]
Share = Annotated[float, Field(ge=0, le=1)]

Move = Literal[
    "ZoomIn", "ZoomOut", "PanLeft", "PanRight", "TiltUp", "TiltDown", "RollingClockwise", "RollingAnticlockwise"
]
"""Camera moves, by the names of the published MotionLoRAs."""


class DataConfig(BaseModel):
    """Training data. Relative paths count from the working directory."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Kind = "auto"
    """Kind of the data at `path`; "auto" looks."""
    path: str = ""
    """A CSV or JSONL file, a folder, or shards: "data-{0000..0009}.tar", local or http(s). Not used by "sprites"."""
    video_folder: Name = None
    """Folder of the files named in a CSV or JSONL file; without it, that of the CSV or JSONL file."""

    num_frames: Count = 16
    """Frames of a clip; 1 gives single frames, each drawn from its whole video."""
    stride: Count = 4
    """One frame of the video in so many is one of the clip; videos too short for it get the largest that fits. 1 where
    `fps` is given."""
    fps: Annotated[float, Field(gt=0, le=240)] | None = None
    """Take clips at so many frames a second of the video's time, whatever its own rate; None: frame by frame. Folders
    of frames that do not say how fast they play are taken to play so."""
    height: Annotated[int, Field(ge=8)] = 256
    width: Annotated[int, Field(ge=8)] = 256
    resize: Literal["crop", "pad", "stretch"] = "crop"
    """Way to fit an image of another shape: cut (at a random place), with black borders, or distorted."""
    flip: bool = False
    """Mirror half of the clips. Off, since a mirrored clip contradicts "left" and "right" in its caption."""
    max_bad: Share = 0.1
    """Fraction of unusable items above which training is not begun."""
    max_checked: Count = 2000
    """Files that the check before training opens, spread over all of them; it looks whether each is there."""
    cache: Name = None
    """Folder for VAE latents and text embeddings."""
    cache_variants: Count = 4
    """With `cache`: number of different clips (start, crop, flip) cut from one video, over all epochs."""
    seed: Annotated[int, Field(ge=0)] = 0

    camera: Move | None = None
    """Make the clips by moving a camera over stills or clips, as the move of this MotionLoRA."""
    camera_paths: bool = False
    """Sprites: move the camera along a random path in each clip, whose poses go with it (stage camera)."""
    camera_strength: Annotated[float, Field(ge=0, le=3)] = 1.0
    """Extent of the camera move: 1 is a zoom by 1.5, a third of an image, or a roll by 40 degrees."""
    shuffle_block: Count = 16
    """Shards: neighbouring samples that are shuffled among themselves; each worker holds as many in memory."""

    num_items: Count = 10_000
    """Sprites: number of clips."""
    motions: tuple[str, ...] | None = None
    """Sprites: the motions shown ("still", "right", ...); None: all."""
    watermark: bool = False
    """Sprites: put a stock footage mark and noise on every clip."""
    look: Name = None
    """Sprites: paint them in another look, "neon" or "paper"."""

    @model_validator(mode="before")
    @classmethod
    def _stride_of_fps(cls, values: Any) -> Any:
        """Frames that are chosen by time are neighbours, unless a stride is asked for as well."""
        if isinstance(values, Mapping) and values.get("fps") is not None and "stride" not in values:
            return {**values, "stride": 1}
        return values

    @model_validator(mode="after")
    def _check(self) -> DataConfig:
        if self.kind != "sprites":
            if not self.path.strip():
                raise ValueError("path is missing: name a CSV or JSONL file, a folder, or shards (x-{000..009}.tar)")
            ignored = [n for n in ("motions", "watermark", "look", "camera_paths") if getattr(self, n)]
            if ignored:
                raise ValueError(f"{ignored[0]} is for kind: sprites, this is kind: {self.kind}")
        if self.flip and self.camera is not None and self.camera.startswith(("Pan", "Rolling")):
            raise ValueError(f"flip: true would turn {self.camera} into its opposite; set flip: false")
        if self.camera is not None and self.camera_paths:
            raise ValueError(
                "camera is one move for all clips, and camera_paths one of its own for each; take one of them"
            )
        if self.kind == "sprites" and self.fps is not None:
            raise ValueError("fps means nothing for kind: sprites, whose motions take the whole clip")
        self._check_sprites()
        return self

    def _check_sprites(self) -> None:
        given: list[tuple[str, str, Any]] = [("motions", motion, MOTIONS) for motion in self.motions or ()]
        if self.look is not None:
            from animatediff.sprites.styles import STYLES

            given.append(("look", self.look, STYLES))
        for setting, word, known in given:
            if word not in known:
                raise unknown(setting, word, known)

    def is_remote(self) -> bool:
        """Whether the data comes over the network."""
        return self.path.startswith(("http://", "https://"))

    def base(self) -> Path:
        """Folder that relative names in a CSV or JSONL file count from."""
        return Path(self.video_folder) if self.video_folder else Path(self.path).parent


def build_data_config(values: Mapping[str, Any]) -> DataConfig:
    """Validate settings. Raises UserError that names every mistake, and the nearest setting to an unknown one."""
    for key in values:
        if key not in DataConfig.model_fields:
            raise unknown_key(key, DataConfig.model_fields, "")
    try:
        return DataConfig.model_validate(dict(values))
    except ValidationError as error:
        sentences = []
        for item in error.errors(include_url=False):
            name, text = ".".join(map(str, item["loc"])), item["msg"].removeprefix("Value error, ")
            sentences.append(f"{name}={brief(item['input'])}: {text[:1].lower()}{text[1:]}" if name else text)
        raise UserError("\n".join(sentences)) from error
