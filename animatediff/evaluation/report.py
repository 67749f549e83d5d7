"""The report on one file: its measurement, its camera moves and, for the sprite world, its classification."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from animatediff.errors import UserError
from animatediff.evaluation.measure import Measurement, OnStep, measure_each
from animatediff.evaluation.moves import Move, camera_moves
from animatediff.media.read import open_clip

if TYPE_CHECKING:
    from animatediff.evaluation.sprites import SpriteWorld
    from animatediff.sprites.classifier import Classification


@dataclass(frozen=True, kw_only=True)
class Report:
    """Everything that is known of one file."""

    path: str
    fps: float
    measurement: Measurement
    moves: tuple[Move, ...]
    """Camera moves, strongest first."""
    classification: Classification | None
    """Object, background and motion of a clip of the sprite world, if asked for."""

    def as_dict(self) -> dict[str, Any]:
        """Everything under its name, for JSON."""
        facts = {"path": self.path, "fps": self.fps, "moves": [{"name": m.name, **asdict(m)} for m in self.moves]}
        facts |= self.measurement.as_dict()
        if self.classification is not None:
            facts["sprites"] = {**asdict(self.classification), "motion": self.classification.motion}
        return facts


def evaluate_file(path: str | Path, sprites: SpriteWorld | None = None, on_step: OnStep | None = None) -> Report:
    """Evaluate a video file, an animated image or a folder of frames.

    With `sprites` it is classified as a clip of the sprite world too. Raises UserError, naming the file.
    """
    try:
        with open_clip(path) as clip:
            view = None if sprites is None else sprites.view()
            frames = clip.frames if view is None else map(view.seen, clip.frames)
            measurement = measure_each(frames, clip.num_frames, on_step)
            classification = None if view is None else view.classify()
    except MemoryError as error:
        raise UserError(
            f"{path}: too large for the memory at hand; shorten it, or scale it down, and try again"
        ) from error
    except UserError as error:
        text = str(error)
        raise error if text.startswith(str(Path(path))) else UserError(f"{path}: {text}") from error
    return Report(
        path=str(path),
        fps=clip.fps,
        measurement=measurement,
        moves=tuple(camera_moves(measurement)),
        classification=classification,
    )
