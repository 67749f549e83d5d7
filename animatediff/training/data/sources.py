"""Listings of the videos or images, with captions, of a CSV file, a JSON file or a folder."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from animatediff.errors import UserError, did_you_mean
from animatediff.media.folder import images_in
from animatediff.media.kinds import BadMedia
from animatediff.signatures import IMAGE_SUFFIXES, VIDEO_SUFFIXES, no_text
from animatediff.training.data.captions import (
    FILE_KEYS,
    NO_TEXT,
    NO_UTF8,
    TEXT_KEYS,
    TEXT_SUFFIXES,
    UNREADABLE,
    Caption,
    caption_in,
    choose_caption,
)  # fmt: skip
from animatediff.training.data.config import DataConfig, Kind
from animatediff.training.data.csv_rows import WEBVID, Row, csv_rows
from animatediff.training.data.folder import NO_CAPTION, list_folder, sidecars
from animatediff.training.data.frames import has_clips, walk
from animatediff.training.data.items import Item, Listing, printable
from animatediff.training.data.json_rows import json_rows
from animatediff.training.data.tar import SHARD_SUFFIXES

MISSING = "missing"
TWICE = "named again with the same caption (left out)"
NOT_USED = "keys or columns that are not used"
MEDIA = VIDEO_SUFFIXES | IMAGE_SUFFIXES
COLUMNS = {*FILE_KEYS, *TEXT_KEYS, *WEBVID, "page_dir"}


def kind_of(config: DataConfig) -> Kind:
    """Tell the kind of data; "auto" looks at the name, then into the folder. Raises UserError for anything unknown."""
    if config.kind != "auto":
        return config.kind
    name = config.path.lower().split("?")[0]
    if name.endswith(SHARD_SUFFIXES) or config.is_remote():
        return "webdataset"
    path = Path(config.path)
    if not path.is_dir():
        if name.endswith((".csv", ".tsv")):
            return "csv"
        if name.endswith((".jsonl", ".ndjson", ".json")):
            return "jsonl"
        _must_exist(path)
        raise UserError(
            f"{path}: expected a .csv or .jsonl file, a folder, or .tar shards; "
            "if it is one of these under another name, set kind: csv, jsonl, folder, pictures or webdataset"
        )
    found = Counter(os.path.splitext(name)[1].lower() for _, _, names in walk(path) for name in names)
    if found.keys() & VIDEO_SUFFIXES:
        return "folder"
    if found.keys() & IMAGE_SUFFIXES:
        single = config.num_frames == 1 or config.camera is not None
        return "pictures" if single or not has_clips(path) else "folder"
    return "webdataset" if any(suffix in found for suffix in (".tar", ".tgz")) else "folder"


def list_items(config: DataConfig, kind: Kind) -> Listing:
    """List all items that `config` names, in a fixed order. Raises UserError where it finds none."""
    path = Path(config.path)
    _must_exist(path)
    if kind in ("folder", "pictures"):
        if not path.is_dir():
            raise UserError(f"{path}: is a file; kind: {kind} expects a folder")
        listing = list_folder(config, kind, list_rows)
    else:
        if path.is_dir():
            raise UserError(f"{path}: is a folder; kind: {kind} expects a file; kind: folder takes a folder of videos")
        with path.open("rb") as file:
            if what := no_text(file.read(512)):
                raise UserError(f"{path}: is {what}; kind: {kind} expects a table or JSON as text")
        listing = list_rows(path, config.base(), kind)
    return listing


def _must_exist(path: Path) -> None:
    if path.exists():
        return
    try:
        hint = did_you_mean(path.name, [entry.name for entry in path.parent.iterdir()]).rstrip()
    except OSError:
        hint = ""
    raise UserError(f"{path}: no such file or folder{f'; {hint}' if hint else ''}")


def list_rows(path: Path, base: Path, kind: Kind, rows: Iterable[Row] | None = None) -> Listing:
    """List the items that the rows of a CSV or JSON file name, from the folder `base` on.

    rows: those of the file where they are known. Raises UserError for a file without rows that name videos.
    """
    folders = _Folders()
    if rows is None and kind == "csv":
        rows = csv_rows(path, lambda values: _resolved(values, base, folders) is not None)
    listing, seen, keys = Listing(), set[int](), Counter[str]()
    for where, values in json_rows(path) if rows is None else rows:
        listing.num_listed += 1
        if isinstance(values, str):
            listing.bad.add(f"rows unusable: {values}", where)
            continue
        keys.update(key for key, value in values.items() if value not in (None, ""))
        if (found := _row(values, base, where, listing, folders)) is None:
            continue
        same = hash((found.path, found.text))
        if same in seen:
            listing.notes.add(TWICE, found.name)
            continue
        seen.add(same)
        if not found.text:
            listing.notes.add(NO_CAPTION, found.name)
        listing.items.append(found)
    if not listing.num_listed:
        raise UserError(f"{path}: holds no rows")
    if not keys and len(listing.bad):
        raise UserError(f"{path}: no row can be read: {'; '.join(listing.bad.lines())}")
    if not keys.keys() & {*FILE_KEYS, *WEBVID}:
        shown = ", ".join(name[:30] for name, _ in keys.most_common(6)) or "none"
        raise UserError(
            f"{path}: no line names a video; expected JSON objects such as "
            f'{{"video": "a.mp4", "text": "a fox runs"}}, with one of {", ".join(FILE_KEYS[:6])} '
            f"and one of {', '.join(TEXT_KEYS[:3])}; keys found: {shown}"
        )
    for key in sorted(keys.keys() - COLUMNS):
        listing.notes.add(NOT_USED, key[:40] or "(one without a name)")
    return listing


def _candidates(values: Mapping[str, Any], base: Path) -> list[tuple[str, Path]]:
    """The names in a row, each with a place where its file may be."""
    names = [value.strip() for key in FILE_KEYS if isinstance(value := values.get(key), str) and value.strip()]
    if names or not values.get("videoid"):
        places = [(name, base / name) for name in names]
        return places + [(name, base / name.replace("\\", "/")) for name in names if "\\" in name]  # of Windows
    name = str(values["videoid"]).strip()
    file = name if os.path.splitext(name)[1].lower() in VIDEO_SUFFIXES else f"{name}.mp4"
    folder = str(values.get("page_dir") or "").strip()
    return [(name, base / folder / file), (name, base / file)]


def _resolved(values: Mapping[str, Any], base: Path, folders: _Folders) -> tuple[str, Path] | None:
    """The first name in a row whose file, or folder of frames, is there; else the one file of a name without suffix."""
    for name, path in _candidates(values, base):
        if os.path.isfile(path) or (os.path.isdir(path) and images_in(path)[0]):
            return name, path
    bare = {path: name for name, place in _candidates(values, base) for path in folders.with_suffix(name, place)}
    return next((name, path) for path, name in bare.items()) if len(bare) == 1 else None


class _Folders:
    """Videos and images by their names without suffix, of the folders that rows name; each is listed once."""

    def __init__(self) -> None:
        self._stems: dict[str, dict[str, list[str]]] = {}

    def with_suffix(self, name: str, place: Path) -> list[Path]:
        """Files of a name that is written without its suffix."""
        if os.path.splitext(name)[1].lower() in MEDIA:
            return []
        folder, stem = os.path.split(os.fspath(place).removesuffix(".mp4"))  # put to a videoid
        if folder not in self._stems:
            stems: dict[str, list[str]] = defaultdict(list)
            with suppress(OSError, ValueError):
                for file in os.listdir(folder):
                    if os.path.splitext(file)[1].lower() in MEDIA:
                        stems[os.path.splitext(file)[0]].append(file)
            self._stems[folder] = stems
        return [Path(folder, file) for file in self._stems[folder].get(stem, [])]


def _is_file(base: Path, name: str) -> bool:
    """Whether a text is the name of a file; of one that is too long it is not."""
    return os.path.isfile(base / name)


def _is_torn(folder: str, base: Path) -> bool:
    """Whether the name of a folder is rather the end of a caption."""
    odd = len(folder.split()) > 1 or folder != folder.strip()
    return odd and not os.path.isdir(base / folder.strip())  # these two take names of any length


def _row(values: Mapping[str, Any], base: Path, where: str, listing: Listing, folders: _Folders) -> Item | None:
    """The item of one row, or None, with the reason among the findings."""
    candidates = _candidates(values, base)
    if not candidates:
        listing.bad.add("rows name no file", where)
        return None
    if (found := _resolved(values, base, folders)) is None:
        listing.bad.add(MISSING, str(candidates[0][1]))
        return None
    name, path = found
    try:
        if (folder := values.get("page_dir")) and _is_torn(str(folder), base):
            listing.bad.add("rows unusable: page_dir is no folder (a comma in a caption without quotes?)", where)
            return None
        caption = Caption("")
        if not any(values.get(key) for key in FILE_KEYS):
            caption = caption_in({"text": values.get("name")})
        if not caption.text:
            caption = caption_in(values)
        if not caption.text:
            caption = choose_caption(sidecars(path))
    except BadMedia as error:
        detail = "" if error.kind in (NO_UTF8, NO_TEXT) else f": {error}"
        listing.bad.add(error.kind, f"{name} ({where}{detail})")
        return None
    except OSError as error:
        listing.bad.add(UNREADABLE, f"{name} ({where}: {error.strerror})")
        return None
    if caption.text.lower().endswith(TEXT_SUFFIXES) and _is_file(base, caption.text):
        listing.bad.add(UNREADABLE, f"{name} ({where}: {caption.text} is the name of a file; put its text there)")
        return None
    if caption.note:
        listing.notes.add(caption.note, name)
    if any(other != name and os.path.isfile(place) for other, place in candidates):
        listing.notes.add("that name several files (the first is used)", f"{name} ({where})")
    return Item(str(path), caption.text, printable(name))
