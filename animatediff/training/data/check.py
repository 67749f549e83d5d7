"""The check of training data before training: usable items, unusable ones, and whether those are too many."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from animatediff.errors import UserError
from animatediff.media.folder import ImageFolder
from animatediff.media.kinds import BadMedia
from animatediff.prompts.vocabulary import StrangeWords, is_bundled_vocabulary
from animatediff.training.data.clip import Draw
from animatediff.training.data.config import DataConfig, Kind
from animatediff.training.data.dataset import chosen_frames, frames_in_time, is_still, opened
from animatediff.training.data.folder import NO_CAPTION, STILLS
from animatediff.training.data.items import Findings
from animatediff.training.data.samples import parts_of
from animatediff.training.data.shards import list_shards
from animatediff.training.data.sources import MISSING, kind_of, list_items
from animatediff.training.data.tar import is_indexed, is_remote, read_samples

CHECKED_SHARDS = 4
"""Number of shards, spread over all of them, whose first samples are read."""
SAMPLES_A_SHARD = 8
FIRST = Draw(start=0.0, x=0.5, y=0.5, mirrored=False)
THREADS = 4

NAMES = {
    "csv": "videos of a CSV file", "jsonl": "videos of a JSONL file", "folder": "folder of videos",
    "pictures": "folder of images", "webdataset": "WebDataset shards", "sprites": "the sprite world",
}  # fmt: skip


@dataclass
class DataReport:
    """Findings of a check. `str()` is for people."""

    config: DataConfig
    kind: Kind
    num_listed: int = 0
    """Rows, files or shards of the listing."""
    num_found: int = 0
    """Listed items that exist and have a readable caption; training draws from these."""
    num_opened: int = 0
    """Items whose first and middle frames were decoded."""
    bad_listed: Findings = field(default_factory=Findings)
    """Faults of the listing: missing files, rows without a name, unreadable captions."""
    bad_opened: Findings = field(default_factory=Findings)
    """Faults of files that were opened."""
    notes: Findings = field(default_factory=Findings)
    strange: StrangeWords | None = None
    """Words of captions, those of the first samples of shards, where the model to train on is the bundled one."""

    @property
    def bad_share(self) -> float:
        """Estimated fraction of unusable items: listed ones, and opened ones, which stand for all that were not."""
        listed = len(self.bad_listed) / max(self.num_listed, 1)
        opened = len(self.bad_opened) / max(self.num_opened, 1)
        return 1 - (1 - listed) * (1 - opened)

    @property
    def is_clean(self) -> bool:
        """Whether there is nothing to be said beside the numbers."""
        return not (len(self.bad_listed) or len(self.bad_opened) or len(self.notes) or self._is_strange)

    @property
    def _is_strange(self) -> bool:
        return self.strange is not None and self.strange.num_strange > 0

    def __str__(self) -> str:
        config = self.config
        unit = "shards" if self.kind == "webdataset" else "clips" if self.kind == "sprites" else "items"
        clip = f"{config.num_frames} frames" if config.num_frames > 1 else "single frames"
        if config.num_frames > 1 and self.kind not in ("sprites", "pictures"):
            clip += f" at {config.fps:g} a second" if config.fps is not None else ""
            clip += f", stride {config.stride}," if config.fps is None or config.stride > 1 else ","
        lines = [
            f"{config.path + ': ' if config.path else ''}{NAMES[self.kind]}; {clip} at {config.width}x{config.height}",
            f"  {self.num_listed} {unit} listed, {self.num_found} found",
        ]
        if self.num_opened:
            good = self.num_opened - len(self.bad_opened)
            what = "samples opened" if self.kind == "webdataset" else "opened"
            lines[-1] += f"; {self.num_opened} {what}, {good} of these good"
        lines += [f"  bad: {line}" for line in (*self.bad_listed.lines(), *self.bad_opened.lines())]
        lines += [f"  note: {line}" for line in self.notes.lines()]
        lines += [f"  note: {self.strange}"] if self._is_strange else []
        return "\n".join(lines)


def check_data(config: DataConfig, tokenizer: Any = None) -> DataReport:
    """Check everything that `config` names, and open up to `config.max_checked` files, spread over all of them.

    tokenizer: that of the model to train on; of the bundled one, words of captions are looked for in it. Raises
    UserError if there is nothing, columns are missing, or more than `config.max_bad` is unusable; the message says what
    was found.
    """
    kind = kind_of(config)
    report = DataReport(config, kind, strange=StrangeWords() if is_bundled_vocabulary(tokenizer) else None)
    check_fits(config, kind)
    if kind == "sprites":
        report.num_listed = report.num_found = config.num_items
    elif kind == "webdataset":
        _check_shards(config, report)
    else:
        _check_files(config, report)
    if not report.num_found or len(report.bad_opened) == report.num_opened > 0:
        raise UserError(f"no usable clips in {report}{_hint(report)}")
    if report.bad_share > config.max_bad:
        raise UserError(
            f"{report.bad_share:.0%} of the data cannot be used, at most {config.max_bad:.0%} may be (data.max_bad): "
            f"mend or remove what is bad, or allow more.\n{report}{_hint(report)}"
        )
    return report


def _hint(report: DataReport) -> str:
    """A hint where most of the files are missing, or single images are among clips."""
    if STILLS in report.bad_listed.counts or STILLS in report.bad_opened.counts:
        return (
            "\nImages are single frames: data.num_frames: 1 (the stages adapter and image set it) takes them together "
            "with videos, data.camera makes clips of them; otherwise keep them elsewhere."
        )
    if report.bad_listed.counts.get(MISSING, 0) <= report.num_listed / 2:
        return ""
    return f"\nAre the videos elsewhere? They were looked for in {report.config.base()}; data.video_folder says where."


def check_fits(config: DataConfig, kind: Kind) -> None:
    """Raise UserError for settings that contradict the kind of data."""
    if kind == "pictures" and config.num_frames > 1 and config.camera is None:
        raise UserError(
            f"{config.path}: holds images, which are single frames, but data.num_frames={config.num_frames}; "
            "set data.num_frames: 1, or data.camera to make clips by moving a camera over the images"
        )
    if config.camera is not None and config.num_frames == 1:
        raise UserError(f"data.camera: {config.camera} needs more than one frame, but data.num_frames=1")


def open_frame(source: str | bytes, name: str, config: DataConfig) -> list[str]:
    """Decode the first and the middle frame of a video, or an image; returns what is to be known of it, such as HDR.

    Raises BadMedia, also where there are too few frames.
    """
    with opened(source, config) as media:
        frames = chosen_frames(media, name, config, FIRST.start)
        first = media.read(frames[:1])
        if is_still(media, name):
            return media.notes
        shown = frames_in_time(media, config)
        middle = media.read([shown[len(shown) // 2]])  # by itself: not everything in between is decoded
        if first.shape != middle.shape:
            raise BadMedia("its frames are of different sizes")
        # What is no frame in a folder of frames is a finding of the listing.
        notes = [] if isinstance(media, ImageFolder) else list(media.notes)
        if config.fps is not None and len(shown) > 1.05 * media.num_frames:
            notes.append("slower than data.fps, so that frames repeat")
        if config.fps is None and 1 < config.num_frames <= len(shown) < (config.num_frames - 1) * config.stride + 1:
            notes.append("too short for data.stride, so that a smaller one is taken")
        return notes


def _spread(total: int, at_most: int) -> list[int]:
    """Spread up to `at_most` numbers evenly below `total`."""
    if total <= at_most:
        return list(range(total))
    return [round(i * (total - 1) / max(at_most - 1, 1)) for i in range(at_most)]


def _check_files(config: DataConfig, report: DataReport) -> None:
    listing = list_items(config, report.kind)
    report.num_listed, report.num_found = listing.num_listed, len(listing.items)
    report.bad_listed, report.notes = listing.bad, listing.notes
    # Leaving out what is named twice is no fault of the data: count it as not listed.
    report.num_listed = len(listing.items) + len(listing.bad)
    if report.strange is not None:
        for item in listing.items:
            report.strange.look(item.text)
    chosen = _spread(len(listing.items), config.max_checked)

    def check(index: int) -> BadMedia | list[str]:
        item = listing.items[index]
        try:
            return open_frame(item.path, item.path, config)
        except BadMedia as error:
            return error

    with ThreadPoolExecutor(THREADS) as pool:  # decoding lets other threads run
        for index, found in zip(chosen, pool.map(check, chosen), strict=True):
            _note(report, listing.items[index].name, found)


def _note(report: DataReport, name: str, found: BadMedia | list[str]) -> None:
    report.num_opened += 1
    if isinstance(found, BadMedia):
        report.bad_opened.add(found.kind, f"{name} ({found})")
        return
    for note in found:
        report.notes.add(f"opened {note}", name)


def _check_shards(config: DataConfig, report: DataReport) -> None:
    shards = list_shards(config)
    report.num_listed = report.num_found = len(shards)
    left = config.max_checked
    for index in _spread(len(shards), CHECKED_SHARDS):
        shard = shards[index]
        if not is_remote(shard) and os.path.getsize(shard) == 0:
            _note(report, shard, BadMedia("is empty (0 bytes)"))
            continue
        try:
            for name, found in _first_samples(shard, min(SAMPLES_A_SHARD, left), config, report):
                _note(report, f"{shard}: {name}", found)
                left -= 1
        except BadMedia as error:
            _note(report, shard, error)


def _first_samples(
    shard: str, count: int, config: DataConfig, report: DataReport
) -> Iterator[tuple[str, BadMedia | list[str]]]:
    found, bare = False, False
    samples = read_samples(shard)
    for sample in islice(samples, count):
        found = True
        try:
            parts = parts_of(sample)
            notes = open_frame(parts.content, parts.name, config)
        except BadMedia as error:
            yield sample.name, error
            continue
        if report.strange is not None:
            report.strange.look(parts.text)
        if not parts.text:
            report.notes.add(NO_CAPTION, f"{shard}: {parts.name}")
            bare = True
        if parts.note:
            report.notes.add(parts.note, f"{shard}: {parts.name}")
        for suffix in parts.unused:
            report.notes.add("files of samples that are not used", suffix)
        yield sample.name, notes
    if not found and count:
        raise BadMedia("holds no samples (files that share a name, such as 0001.mp4 and 0001.txt)")
    if bare and not is_indexed(shard):
        for _ in samples:  # are their captions further behind? Reading raises UserError then
            pass
