"""HTML of the stage: what waits, how far a render is with its preview, and the result, which plays in a loop."""

from __future__ import annotations

import base64
import io
import os
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

from animatediff.render.events import Event

PHASES = {
    "load": "Loading the model",
    "download": "Fetching files",
    "encode": "Encoding the video",
    "denoise": "Sampling",
    "decode": "Decoding frames",
    "write": "Writing the file",
}
PLAYED, SHOWN = (".mp4", ".webm"), (".gif", ".webp", ".apng", ".png")
"""Suffixes that browsers play as videos, and that they show as images."""


def empty() -> str:
    """The stage before the first render."""
    return _stage('<div class="ad-hint"><b>Your clip appears here.</b><br>Write a prompt and press Generate.</div>')


def waiting(place: int) -> str:
    """A job in the queue with `place` jobs before it."""
    before = "1 render is" if place == 1 else f"{place} renders are"
    words = f"{before} before yours" if place else "Starting"
    return _stage(f'<div class="ad-hint">{words}</div>', _bar(words, None, ""))


def progress(event: Event | None, preview: Any, *, cancelled: bool = False) -> str:
    """A job at work. preview: uint8 (h, w, 3) or None."""
    image = "" if preview is None else f'<img class="ad-preview" alt="Preview" src="{_data_uri(preview)}">'
    if event is None:
        return _stage(image or '<div class="ad-hint">Starting</div>', _bar("Starting", None, ""))
    phase = PHASES.get(event.phase, event.phase)
    words = f"{phase}: {event.step} of {event.total}" if event.total > 1 and event.phase != "download" else phase
    if event.num_clips > 1:
        words = f"Clip {event.clip + 1} of {event.num_clips}. {words}"
    if cancelled:
        words = "Cancelling"
    left = "" if event.time_left is None or cancelled else f"{duration(event.time_left)} left"
    left = ", ".join(part for part in (left, event.memory) if part)
    share = event.step / event.total if event.total else None
    return _stage(image or f'<div class="ad-hint">{escape(phase)}</div>', _bar(words, share, left))


def player(path: Path, *, sound: bool = False) -> str:
    """A result. sound: whether it has any; without, it begins to play by itself."""
    url = f"gradio_api/file={quote(str(path.absolute()))}"
    suffix = path.suffix.lower()
    if suffix in PLAYED:
        muted = "" if sound else " muted"
        return _stage(f'<video class="ad-result" src="{url}" controls autoplay loop playsinline{muted}></video>')
    if suffix in SHOWN:
        return _stage(f'<img class="ad-result" alt="Rendered clip" src="{url}">')
    return _stage('<div class="ad-hint">Browsers do not play this format; download it.</div>')


def message(text: str, kind: str) -> str:
    """One line. kind: `error` or `note`."""
    role = "alert" if kind == "error" else "status"
    return f'<p class="ad-{kind}" role="{role}">{escape(text)}</p>'


def notes(texts: list[str]) -> str:
    """Choices made for the user, and warnings."""
    if not texts:
        return ""
    items = "".join(f"<li>{escape(text)}</li>" for text in texts)
    count = "1 note" if len(texts) == 1 else f"{len(texts)} notes"
    return f'<details class="ad-notes" open><summary>{count}</summary><ul>{items}</ul></details>'


def duration(seconds: float) -> str:
    """Seconds as people say them.

    >>> duration(7.3), duration(95), duration(7300)
    ('7 s', '1 min 35 s', '2 h 1 min')
    """
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def size_of(path: Path) -> str:
    """Bytes of a file, or of the files of a folder, as people say them."""
    files = [path] if path.is_file() else [entry for entry in path.iterdir() if entry.is_file()]
    total = sum(os.path.getsize(file) for file in files)
    return f"{total / 1e6:.1f} MB" if total >= 1e6 else f"{max(1, round(total / 1e3))} kB"


def _stage(inside: str, below: str = "") -> str:
    return f'<div class="ad-frame">{inside}</div>{below}'


def _bar(words: str, share: float | None, left: str) -> str:
    percent = 0 if share is None else round(100 * min(1.0, share))
    value = "" if share is None else f' aria-valuenow="{percent}"'
    return (
        f'<div class="ad-bar" role="progressbar" aria-label="{escape(words)}" aria-valuemin="0" aria-valuemax="100"'
        f'{value}><div style="width: {percent}%"></div></div>'
        f'<div class="ad-words"><span>{escape(words)}</span><span>{escape(left)}</span></div>'
    )


def _data_uri(pixels: Any) -> str:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def image(pixels: Any, alt: str) -> str:
    """An image in the page. pixels: uint8 (h, w, 3)."""
    return f'<img alt="{escape(alt)}" src="{_data_uri(pixels)}">'
