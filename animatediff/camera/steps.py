"""What the camera does from frame to frame, in the words and signs of the published MotionLoRAs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from animatediff.media.flow import AnalysedImage, Matrix, lands_inside, opencv, transform_flow

FOLLOWS_PX = 1.0
"""Misfit within which a pixel goes with the camera, in analysed pixels; a tenth of its way is allowed besides."""
CELLS = 16
"""Rows and columns of the cells along the frame's edge that are asked whether they show the movement."""
STAYS = 0.25
"""Share of a cell that must stay in the frame for the cell to be asked."""
SHOWS = 0.3
"""Share of a cell that must be texture going with the camera for the cell to show the movement."""
UNSURE = 0.5
"""Confidence below which a movement may be another than the camera's."""
CUT = 0.5
"""A step whose agreement is below this share of the clip's median is taken for a cut."""


@dataclass(frozen=True, kw_only=True)
class Camera:
    """Movement of the camera per frame: of one step, or the mean of a clip."""

    pan: float
    """Pixels to the right: the image moves left."""
    tilt: float
    """Pixels up: the image moves down."""
    zoom: float
    """Percent by which the image grows."""
    roll: float
    """Degrees by which the image turns clockwise on the screen, as RollingClockwise does."""
    agreement: float
    """Share of the texture that moves with the camera, 0 to 1. After a cut it is near 0."""
    confidence: float
    """Share of the frame's edge, all round, that shows this movement, 0 to 1.

    The camera moves everything; an object that moves before a plain background hardly moves the edge.
    """

    @property
    def is_unsure(self) -> bool:
        """Whether the movement may be one of things before a camera at rest."""
        return self.confidence < UNSURE


def read_camera(matrix: Matrix, first: AnalysedImage, flow: np.ndarray, valid: np.ndarray) -> Camera:
    """The camera's step, from what `similarity.track` found."""
    stays = lands_inside(transform_flow(matrix, *valid.shape))
    going = first.tracked * (valid & follows(flow, matrix) & stays)
    total = float((first.tracked * stays).sum())
    return Camera(
        pan=0.0 - float(matrix[0, 2]) / first.scale,
        tilt=float(matrix[1, 2]) / first.scale,
        zoom=100 * (float(np.hypot(matrix[0, 0], matrix[1, 0])) - 1),
        roll=float(np.degrees(np.arctan2(matrix[1, 0], matrix[0, 0]))),
        agreement=float(going.sum()) / total if total > 0 else 0.0,
        confidence=edge_share(going, stays),
    )


def follows(flow: np.ndarray, matrix: Matrix) -> np.ndarray:
    """Whether each pixel's flow (h, w, 2) is that of the transform: bool (h, w)."""
    expected = transform_flow(matrix, *flow.shape[:2])
    return np.linalg.norm(flow - expected, axis=-1) < FOLLOWS_PX + 0.1 * np.linalg.norm(expected, axis=-1)


def edge_share(going: np.ndarray, stays: np.ndarray) -> float:
    """Share of the cells along the edge that show the movement.

    `going` (h, w): texture that goes with the camera, 0 to 1; `stays` bool (h, w): what remains in the frame.
    """
    inside = edge_cells(stays)
    asked = inside > STAYS
    return float(np.mean(edge_cells(going)[asked] > SHOWS * inside[asked])) if asked.any() else 0.0


def edge_cells(values: np.ndarray) -> np.ndarray:
    """Means of `values` (h, w) over the cells along the frame's edge, one row or column deep."""
    cv2 = opencv()
    cells = cv2.resize(values.astype(np.float32), (CELLS, CELLS), interpolation=cv2.INTER_AREA)
    edge = np.ones((CELLS, CELLS), bool)
    edge[1:-1, 1:-1] = False
    return cells[edge]


def mean_camera(steps: tuple[Camera, ...]) -> Camera:
    """The mean of the steps; movement is weighed by agreement, and cuts do not count."""
    weights = np.array([step.agreement for step in steps])
    weights *= weights >= CUT * np.median(weights)
    if weights.sum() == 0:
        weights = np.ones(len(steps))

    def mean(name: str, weights: np.ndarray | None = weights) -> float:
        return float(np.average([getattr(step, name) for step in steps], weights=weights))

    return Camera(
        pan=mean("pan"),
        tilt=mean("tilt"),
        zoom=mean("zoom"),
        roll=mean("roll"),
        agreement=mean("agreement", None),
        confidence=mean("confidence", None),
    )
