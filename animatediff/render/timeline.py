"""Timeline of the texts of a clip: as lines to read before rendering, and as an image to keep beside the clip."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Any

from animatediff.prompts.travel import Blend, PromptTravel

if TYPE_CHECKING:
    import numpy as np

WIDTH, STRIP, LINE, PADDING = 640, 72, 16, 8
PAPER, INK = (24, 24, 24), (235, 235, 235)
COLOURS = (
    *((86, 180, 233), (230, 159, 0), (0, 158, 115), (240, 228, 66)),
    *((204, 121, 167), (213, 94, 0), (0, 114, 178), (160, 160, 160)),
)
"""Of texts in order, told apart by readers with any kind of colour vision (Okabe and Ito)."""


def timeline(travel: PromptTravel, num_frames: int) -> str:
    """Lines with the text of each stretch of frames.

    >>> print(timeline(PromptTravel({0: "a", 4: "b"}, hold=0.5), 6))
    prompt travel over 6 frames (linear, hold 0.5):
      0-2  a
      3    a -> b (50 %)
      4-5  b
    """
    names = {travel.whole(text): text for text in travel.texts.values()}
    blends = [Blend(names[first], names[second], share) for first, second, share in travel.blends(num_frames)]
    rows = []
    for (first, second), group in groupby(range(num_frames), key=lambda frame: blends[frame][:2]):
        rows.append(_row(list(group), first, second, blends))
    width = max(len(frames) for frames, _ in rows)
    how = f"{travel.interpolation}, hold {travel.hold:g}" + (", loop" if travel.loop else "")
    lines = [f"prompt travel over {num_frames} frames ({how}):"]
    lines += [f"  {where} each: {text}" for where, text in (("before", travel.head), ("after", travel.tail)) if text]
    return "\n".join([*lines, *(f"  {frames:<{width}}  {text}" for frames, text in rows)])


def _row(frames: list[int], first: str, second: str, blends: list[Blend]) -> tuple[str, str]:
    span = f"{frames[0]}" if len(frames) == 1 else f"{frames[0]}-{frames[-1]}"
    if first == second:
        return span, first
    shares = [round(100 * blends[frame].share) for frame in (frames[0], frames[-1])]
    share = f"{shares[0]} %" if len(frames) == 1 else f"{shares[0]} to {shares[1]} %"
    return span, f"{first} -> {second} ({share})"


def timeline_image(travel: PromptTravel, num_frames: int) -> np.ndarray:
    """The same as an image, uint8 (h, w, 3): a column a frame, filled by the texts by their share, and their words."""
    import numpy as np
    from PIL import Image, ImageDraw, ImageFont

    blends = travel.blends(num_frames)
    texts = list(dict.fromkeys(travel.texts.values()))
    colour = {travel.whole(text): COLOURS[index % len(COLOURS)] for index, text in enumerate(texts)}
    height = PADDING + STRIP + LINE + len(texts) * LINE + PADDING
    sheet = Image.new("RGB", (WIDTH + 2 * PADDING, height), PAPER)
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default()
    for frame, blend in enumerate(blends):
        left, right = (PADDING + place * WIDTH // num_frames for place in (frame, frame + 1))
        split = PADDING + round(STRIP * blend.share)  # the text to come grows from above
        gap = int(right - left > 4)
        draw.rectangle((left, PADDING, max(left, right - 1 - gap), PADDING + STRIP - 1), fill=colour[blend.first])
        if split > PADDING:
            draw.rectangle((left, PADDING, max(left, right - 1 - gap), split - 1), fill=colour[blend.second])
    last = -2 * LINE
    for frame in sorted({*travel.texts, 0, num_frames - 1}):
        left = PADDING + frame * WIDTH // num_frames
        if left - last >= 2 * LINE:
            draw.text((left, PADDING + STRIP + 1), str(frame), fill=INK, font=font)
            last = left
    for index, text in enumerate(texts):
        top = PADDING + STRIP + LINE + index * LINE
        draw.rectangle((PADDING, top + 3, PADDING + LINE - 6, top + LINE - 3), fill=colour[travel.whole(text)])
        draw.text((PADDING + LINE, top + 1), _fitting(text, font, WIDTH - LINE), fill=INK, font=font)
    return np.asarray(sheet)


def _fitting(text: str, font: Any, width: int) -> str:
    """Cut a text to `width` pixels."""
    text = " ".join(text.split())
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "...") > width:
        text = text[:-1]
    return text + "..."
