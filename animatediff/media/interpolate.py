"""Frames in between, by optical flow: clips at another rate in the same time.

Both neighbours are brought to the moment between them by the flow there (forward and backward flow, projected to it as
in Niklaus and Liu 2020, arXiv 2003.05534) and blended by nearness in time and by which of them shows each pixel.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sized
from fractions import Fraction
from itertools import chain, islice

import numpy as np

from animatediff.limits import MAX_FRAMES
from animatediff.media.flow import AnalysedImage, Tracker, opencv, resize_flow, sample, targets
from animatediff.media.formats import frame_rate, num_frames_at

SIDE, ENLARGED = 512, 2.0
"""The flow is searched in frames of the area of a square of this side; small ones are enlarged by this at most."""
TRUST = 20.0
"""Mean brightness levels by which a pixel may miss its match before it hardly counts."""
APART_PX = 1.0
"""Analysed pixels by which there and back again may miss the start before a pixel counts as covered."""
CUT_DIFFERENCE, CUT_MISS = 0.06, 0.55
"""A scene is cut where coarse colours change by the first share of full brightness, and the best match of the whole
frame leaves the second share of that."""
EXPLAINED, UNEXPLAINED = 0.45, 0.75
"""Shares of their difference that two frames may keep once they are brought together: up to the first the flow is
followed, from the second on they are blended."""
TORN, WHOLE = 0.35, 0.65
"""The same for the share of pixels in which forward and backward flow agree."""
AROUND = 1 / 20
"""Width of the surroundings in which that is judged, of the frame's side: wider than what movement uncovers."""
COARSE = 16
"""Side of the coarse frames that cuts are looked for in."""


def interpolated(
    frames: Iterable[np.ndarray],
    fps: float | Fraction,
    fps_out: float | Fraction,
    *,
    num_frames: int | None = None,
    closed_loop: bool = False,
) -> Iterator[np.ndarray]:
    """Bring frames, uint8 (h, w, 3) or (h, w, 4) of one size, from a rate to another; as long in time as before.

    Frames of the clip that stand at a moment of the new rate are among the new ones bit for bit. After the last one
    it stays, as it did; in a `closed_loop` the first one follows it. Scenes that are cut are not blended. Two frames
    and their flow are in memory, and the first one of a loop.

    num_frames: of `frames`, where these do not tell; of a loop it is needed, whose steps are made equal by less than
    half a new frame. Raises UserError for a rate out of range, without OpenCV, and beyond `max_frames`.
    """
    step = frame_rate(fps) / frame_rate(fps_out, "fps_out")  # frames of the clip a new one
    opencv("interpolation", "media")
    if num_frames is None and isinstance(frames, Sized):
        num_frames = len(frames)
    if num_frames is None:
        if closed_loop:
            raise ValueError("num_frames is needed for a closed loop of frames that come one after another")
        return _at(iter(frames), step, closed_loop)
    count = num_frames_at(num_frames, 1 / step)
    MAX_FRAMES.check(count, f"has {count:,} frames at the new rate")
    return islice(_at(iter(frames), Fraction(num_frames, count) if closed_loop else step, closed_loop), count)


def _at(frames: Iterator[np.ndarray], step: Fraction, closed_loop: bool) -> Iterator[np.ndarray]:
    """The frames at every `step`, in frames of the clip."""
    first = next(frames, None)
    if first is None:
        return
    after: Iterator[np.ndarray | None] = chain(frames, (first if closed_loop else None,))
    made, here = 0, first
    for index, there in enumerate(after):
        between: Between | None = None
        while (moment := made * step - index) < 1:
            if there is None and made >= num_frames_at(index + 1, 1 / step):
                return
            MAX_FRAMES.check(made + 1, f"has {made + 1:,} frames or more at the new rate")
            if moment == 0 or there is None:
                yield here
            else:
                between = between or Between(here, there)
                yield between.at(float(moment))
            made += 1
        if there is not None:
            here = there


class Between:
    """The time between two frames, uint8 (h, w, 3) or (h, w, 4)."""

    def __init__(self, first: np.ndarray, second: np.ndarray) -> None:
        self._frames = first, second
        tracker = Tracker()
        grounds = [_opaque(frame) for frame in self._frames]
        self._images = [AnalysedImage.of(ground, SIDE, ENLARGED) for ground in grounds]
        self._cut = False
        if not np.array_equal(first, second):
            one, other = self._images
            self._flows = [tracker.flow(one, other), tracker.flow(other, one)]
            self._trusts = [self._trust(0), self._trust(1)]
            self._cut = self._is_cut(grounds)

    @property
    def is_cut(self) -> bool:
        """Whether the two frames are of different scenes."""
        return self._cut

    def at(self, moment: float) -> np.ndarray:
        """The frame at a moment from 0 (first) to 1 (second)."""
        first, second = self._frames
        if self._cut or np.array_equal(first, second):
            return first if moment < 0.5 else second
        cv2 = opencv()
        height, width = first.shape[:2]
        movement = self._movement(moment)
        layers, weights, seen_in = [], [], []
        for index, share in ((0, -moment), (1, 1 - moment)):
            flow = movement * np.float32(share)
            seen = sample(self._trusts[index], flow)
            seen_in.append(seen)
            weights.append((1 - abs(share)) * cv2.resize(seen, (width, height), interpolation=cv2.INTER_LINEAR))
            flow = resize_flow(flow, width, height)
            layers.append(_warped(_premultiplied(self._frames[index]), flow))
        total = weights[0] + weights[1]
        near = np.where(total > 1e-4, weights[1] / np.maximum(total, 1e-4), moment)[..., None]
        moved = layers[0] * (1 - near) + layers[1] * near
        blended = _premultiplied(first) * np.float32(1 - moment) + _premultiplied(second) * np.float32(moment)
        found = self._found(layers, seen_in)[..., None]
        return _straight(moved * found + blended * (1 - found))

    def _found(self, layers: list[np.ndarray], seen: list[np.ndarray]) -> np.ndarray:
        """How far movement explains the change around each pixel, 0 to 1: float32 (h, w).

        There both frames, brought to the moment, agree better than they did before, and forward and backward flow
        agree; where they do not, the flow would tear shapes apart. seen: trust at the moment, of each frame.
        """
        cv2 = opencv()
        height, width = layers[0].shape[:2]
        size = (max(1, width // 4), max(1, height // 4))
        spread = max(1.0, (size[0] * size[1]) ** 0.5 * AROUND)
        left, before = (
            cv2.GaussianBlur(cv2.resize(np.abs(a - b).mean(-1), size, interpolation=cv2.INTER_AREA), (0, 0), spread)
            for a, b in (layers, [_premultiplied(frame) for frame in self._frames])
        )
        share = (left / (before + 1)).clip(EXPLAINED, UNEXPLAINED)
        found = (UNEXPLAINED - share) / (UNEXPLAINED - EXPLAINED)
        agree = cv2.resize(np.maximum(*seen), size, interpolation=cv2.INTER_AREA)
        agree = cv2.GaussianBlur(agree, (0, 0), spread)
        found *= ((agree - TORN) / (WHOLE - TORN)).clip(0, 1)
        return cv2.resize(found.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)

    def _trust(self, index: int) -> np.ndarray:
        """How far each analysed pixel of a frame is seen in the other one too, 0 to 1: float32 (h, w)."""
        there, back = self._flows[index], self._flows[1 - index]
        miss = np.linalg.norm(there + sample(back, there), axis=-1)
        apart = miss / (APART_PX + 0.1 * np.linalg.norm(there, axis=-1))
        return np.exp(-(apart**2)).astype(np.float32) + 1e-3

    def _movement(self, moment: float) -> np.ndarray:
        """The flow from first to second frame of what is seen at a moment between them: float32 (h, w, 2)."""
        total = np.zeros((*self._images[0].grey.shape, 3), np.float32)
        for index, share in ((0, moment), (1, 1 - moment)):
            flow = self._flows[index]
            other = sample(self._images[1 - index].grey, flow).astype(np.float32)
            miss = np.abs(self._images[index].grey - other)
            weight = np.exp(-miss / TRUST) * self._trusts[index] * (1 - share)
            ahead = flow if index == 0 else -flow
            _splat(total, np.dstack([ahead * weight[..., None], weight]), flow * np.float32(share))
        return _filled(total[..., :2], total[..., 2])

    def _is_cut(self, grounds: list[np.ndarray]) -> bool:
        cv2 = opencv()
        size = (COARSE, COARSE)
        coarse = [cv2.resize(ground, size, interpolation=cv2.INTER_AREA).astype(np.float32) for ground in grounds]
        if np.abs(coarse[0] - coarse[1]).mean() < CUT_DIFFERENCE * 255:
            return False
        height, width = self._images[0].grey.shape
        small = [cv2.resize(ground, (width, height), interpolation=cv2.INTER_AREA) for ground in grounds]
        raw = np.abs(small[0].astype(np.float32) - small[1]).mean()
        left = np.abs(small[0].astype(np.float32) - sample(small[1], self._flows[0])).mean()
        return bool(left > CUT_MISS * raw)


def _splat(total: np.ndarray, values: np.ndarray, flow: np.ndarray) -> None:
    """Add values (h, w, n) to the four pixels around the place where the flow takes each, by their nearness."""
    height, width, num = values.shape
    column, row = targets(flow)
    left, top = np.floor(column), np.floor(row)
    for x, y in ((0, 0), (1, 0), (0, 1), (1, 1)):
        at_x, at_y = left + x, top + y
        share = (1 - np.abs(column - at_x)) * (1 - np.abs(row - at_y))
        inside = (at_x >= 0) & (at_x < width) & (at_y >= 0) & (at_y < height)
        place = (at_y[inside] * width + at_x[inside]).astype(np.intp)
        for channel in range(num):
            added = np.bincount(place, (share * values[..., channel])[inside], minlength=height * width)
            total[..., channel] += added.reshape(height, width).astype(np.float32)


def _filled(weighted: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Weighted sums (h, w, n) divided by their weight (h, w), and holes filled from around them, coarse to fine."""
    cv2 = opencv()
    height, width = weight.shape
    known = (weight / (weight + 0.02))[..., None]
    values = weighted / np.maximum(weight, 1e-6)[..., None]
    if min(height, width) <= 2:
        return np.where(weight[..., None] > 0, values, 0)
    half = (max(1, width // 2), max(1, height // 2))
    smaller = cv2.resize(np.dstack([weighted, weight]), half, interpolation=cv2.INTER_AREA)
    around = _filled(smaller[..., :-1], smaller[..., -1])
    around = cv2.resize(around, (width, height), interpolation=cv2.INTER_LINEAR).reshape(values.shape)
    return values * known + around * (1 - known)


def _warped(image: np.ndarray, flow: np.ndarray) -> np.ndarray:
    """Cubic: linear interpolation would soften every frame in between."""
    cv2 = opencv()
    return cv2.remap(image, *targets(flow), cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)


# -- transparency ------------------------------------------------------------------------------------------------------


def _opaque(frame: np.ndarray) -> np.ndarray:
    """A frame as its movement is looked for: (h, w, 4) on middle grey."""
    if frame.shape[-1] == 3:
        return frame
    alpha = frame[..., 3:].astype(np.float32) / 255
    return (frame[..., :3] * alpha + 128 * (1 - alpha)).round().astype(np.uint8)


def _premultiplied(frame: np.ndarray) -> np.ndarray:
    frame = frame.astype(np.float32)
    if frame.shape[-1] == 4:
        frame[..., :3] *= frame[..., 3:] / 255
    return frame


def _straight(frame: np.ndarray) -> np.ndarray:
    if frame.shape[-1] == 4:
        frame[..., :3] *= 255 / np.maximum(frame[..., 3:], 1)
    return frame.round().clip(0, 255).astype(np.uint8)
