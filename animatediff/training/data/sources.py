"""Listings of the videos or images, with captions, of a CSV file, a JSONL file or a folder."""

from __future__ import annotations

import csv
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from animatediff.errors import UserError, did_you_mean, nearest
from animatediff.media.kinds import IMAGE_SUFFIXES, VIDEO_SUFFIXES, BadMedia, is_litter
from animatediff.training.data.config import DataConfig, Kind
from animatediff.training.data.items import Findings, Item, Listing, printable

FILE_KEYS = ("video", "file", "path", "file_name", "image")
TEXT_KEYS = ("text", "caption", "prompt")
WEBVID = ("videoid", "name")

MISSING = "missing"
NO_UTF8 = "with a caption that is not UTF-8"
NO_CAPTION = "without a caption (an empty one is used)"
HIDDEN = "with a hidden name, as macOS puts beside files (left out)"
TWICE = "named again with the same caption (left out)"


def kind_of(config: DataConfig) -> Kind:
    """Tell the kind of data; "auto" looks at the name, then into the folder. Raises UserError for anything unknown."""
    if config.kind != "auto":
        return config.kind
    name = config.path.lower().split("?")[0]
    if name.endswith((".tar", ".tar.gz", ".tgz")) or config.is_remote():
        return "webdataset"
    path = Path(config.path)
    if not path.is_dir():
        if name.endswith(".csv"):
            return "csv"
        if name.endswith((".jsonl", ".ndjson")):
            return "jsonl"
        _must_exist(path)
        raise UserError(
            f"{path}: expected a .csv or .jsonl file, a folder, or .tar shards; "
            "if it is one of these under another name, set kind: csv, jsonl, folder, pictures or webdataset"
        )
    found = Counter(suffix for _, suffix in _walk(path))
    if any(suffix in VIDEO_SUFFIXES for suffix in found):
        return "folder"
    if any(suffix in IMAGE_SUFFIXES for suffix in found):
        return "pictures"
    return "webdataset" if found[".tar"] else "folder"


def list_items(config: DataConfig, kind: Kind) -> Listing:
    """List all items that `config` names, in a fixed order. Raises UserError where it finds none."""
    path = Path(config.path)
    _must_exist(path)
    if kind in ("folder", "pictures"):
        if not path.is_dir():
            raise UserError(f"{path}: is a file; kind: {kind} expects a folder")
        listing = _list_folder(path, IMAGE_SUFFIXES if kind == "pictures" else VIDEO_SUFFIXES)
    else:
        if path.is_dir():
            raise UserError(f"{path}: is a folder; kind: {kind} expects a file; kind: folder takes a folder of videos")
        rows = _csv_rows(path) if kind == "csv" else _jsonl_rows(path)
        listing = _list_rows(rows, config, path)
    return listing


def _must_exist(path: Path) -> None:
    if path.exists():
        return
    try:
        hint = did_you_mean(path.name, [entry.name for entry in path.parent.iterdir()]).rstrip()
    except OSError:
        hint = ""
    raise UserError(f"{path}: no such file or folder{f'; {hint}' if hint else ''}")


def caption_of(content: bytes) -> str:
    """Read a caption from the bytes of a text file, on one line. Raises BadMedia if it is not UTF-8."""
    try:
        return " ".join(content.decode("utf-8-sig").split())
    except UnicodeDecodeError as error:
        raise BadMedia("caption is not UTF-8") from error


def _walk(folder: Path, left_out: Findings | None = None) -> Iterator[tuple[str, str]]:
    """Walk all files below, sorted: (file, suffix in lower case). Hidden ones with names of media go to `left_out`."""
    seen = set()
    for root, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(root)
        folders[:] = sorted(f for f in folders if not is_litter(f)) if real not in seen else []
        if real in seen:  # a link back to a folder above
            continue
        seen.add(real)
        for name in sorted(files):
            suffix = os.path.splitext(name)[1].lower()
            if not is_litter(name):
                yield os.path.join(root, name), suffix
            elif left_out is not None and suffix in VIDEO_SUFFIXES | IMAGE_SUFFIXES:
                left_out.add(HIDDEN, os.path.relpath(os.path.join(root, name), folder))


def _list_folder(folder: Path, suffixes: set[str]) -> Listing:
    listing, others = Listing(), Counter[str]()
    for path, suffix in _walk(folder, listing.notes):
        if suffix not in suffixes:
            others[suffix or "no suffix"] += 1
            continue
        listing.num_listed += 1
        name = os.path.relpath(path, folder)
        try:
            text = caption_of(Path(path).with_suffix(".txt").read_bytes())
        except FileNotFoundError:
            text = ""
        except BadMedia:
            listing.bad.add(NO_UTF8, name)
            continue
        except OSError as error:
            listing.bad.add("with a caption that cannot be read", f"{name} ({error.strerror})")
            continue
        if not text:
            listing.notes.add(NO_CAPTION, name)
        listing.items.append(Item(path, text, printable(name)))
    others.pop(".txt", None)
    if not listing.num_listed:
        raise UserError(_empty(folder, suffixes, others))
    for suffix in sorted(others.keys() & (VIDEO_SUFFIXES | IMAGE_SUFFIXES)):
        listing.notes.counts[f"{suffix} files beside them are not used"] = others[suffix]
        listing.notes.examples[f"{suffix} files beside them are not used"] = []
    return listing


def _empty(folder: Path, suffixes: set[str], others: Counter[str]) -> str:
    kind = "images" if suffixes is IMAGE_SUFFIXES else "videos"
    counts = ", ".join(f"{count} {suffix}" for suffix, count in others.most_common(4)) or "no files at all"
    other = IMAGE_SUFFIXES if kind == "videos" else VIDEO_SUFFIXES
    hint = f"; for these set kind: {'pictures' if kind == 'videos' else 'folder'}" if others.keys() & other else ""
    return f"{folder}: holds no {kind} ({', '.join(sorted(suffixes))}); found: {counts}{hint}"


Row = tuple[str, Mapping[str, Any] | str]
"""Place of a row ("line 7"), and its values, or its fault."""


def _csv_rows(path: Path) -> Iterator[Row]:
    """Read the rows of a CSV file by the names of its columns. Raises UserError without videos or captions."""
    # Bytes that are not UTF-8 come through as surrogates: the row they are in is found out later.
    with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        reader = csv.reader(file)
        try:
            header = [name.strip() for name in next(reader, [])]
            _check_columns(path, header)
            for values in reader:
                where = f"line {reader.line_num}"
                if not values:
                    continue
                if len(values) < len(header):
                    yield where, f"{len(values)} values for {len(header)} columns"
                else:
                    yield where, dict(zip(header, values, strict=False))
        except csv.Error as error:
            raise UserError(f"{path}, line {reader.line_num}: is not valid CSV ({error})") from error


def _check_columns(path: Path, header: Sequence[str]) -> None:
    if set(WEBVID) <= set(header) or (set(FILE_KEYS) & set(header) and set(TEXT_KEYS) & set(header)):
        return
    expected = f"videoid, name and, where videos lie in folders, page_dir; or one of {', '.join(FILE_KEYS)}" + (
        f" with one of {', '.join(TEXT_KEYS)}"
    )
    if not header:
        raise UserError(f"{path}: is empty; expected a first line with the columns {expected}")
    shown = ", ".join(name[:30] for name in header[:8])
    missing = [name for name in WEBVID if name not in header]
    hint = ""
    if len(header) == 1 and (mark := next((m for m in (";", "\t", "|") if m in header[0]), None)):
        hint = f". Columns must be separated by commas, these are by {mark!r}"
    elif close := [f"{h} -> {n}" for h in header if (n := nearest(h, missing)) and h != n]:
        hint = f". Did you mean {', '.join(close)}?"
    elif any(name[:1].isdigit() or " " in name for name in header):
        hint = ". This looks like a row: is the line with the names of the columns missing?"
    raise UserError(
        f"{path}: columns missing: {', '.join(missing)}; found {len(header)}: {shown}; expected {expected}{hint}"
    )


def _jsonl_rows(path: Path) -> Iterator[Row]:
    with open(path, encoding="utf-8-sig", errors="surrogateescape") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                values = json.loads(line)
            except (ValueError, RecursionError):
                yield f"line {number}", "not JSON"
                continue
            yield f"line {number}", values if isinstance(values, dict) else "not a JSON object"


def _list_rows(rows: Iterator[Row], config: DataConfig, path: Path) -> Listing:
    listing, seen, keys = Listing(), set[int](), Counter[str]()
    for where, values in rows:
        listing.num_listed += 1
        if isinstance(values, str):
            listing.bad.add(f"rows unusable: {values}", where)
            continue
        keys.update(values.keys())
        found = _row(values, config, where, listing.bad)
        if found is None:
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
    if not keys.keys() & {*FILE_KEYS, *WEBVID}:
        shown = ", ".join(name for name, _ in keys.most_common(6)) or "none"
        raise UserError(
            f"{path}: no line names a video; expected JSON objects such as "
            f'{{"video": "a.mp4", "text": "a fox runs"}}, with one of {", ".join(FILE_KEYS)} '
            f"and one of {', '.join(TEXT_KEYS)}; keys found: {shown}"
        )
    return listing


def _row(values: Mapping[str, Any], config: DataConfig, where: str, bad: Findings) -> Item | None:
    """The item of one row, or None, with the reason added to `bad`."""
    name = next((values[key] for key in FILE_KEYS if values.get(key)), None)
    candidates: list[Path]
    if name is None and values.get("videoid"):
        name, text = str(values["videoid"]).strip(), values.get("name")
        file = name if os.path.splitext(name)[1].lower() in VIDEO_SUFFIXES else f"{name}.mp4"
        folder = str(values.get("page_dir") or "").strip()
        candidates = [config.base() / folder / file, config.base() / file]
    else:
        text = next((values[key] for key in TEXT_KEYS if values.get(key) is not None), None)
        candidates = [config.base() / str(name or "").strip()]
    if not name or not isinstance(name, str):
        bad.add("rows name no file", where)
        return None
    if text is not None and not isinstance(text, str):
        bad.add("with a caption that is no text", f"{name} ({where})")
        return None
    if any("\udc80" <= letter <= "\udcff" for letter in text or ""):
        bad.add(NO_UTF8, f"{name} ({where})")
        return None
    path = next((str(path) for path in candidates if path.is_file()), None)
    if path is None:
        bad.add(MISSING, str(candidates[0]))
        return None
    return Item(path, " ".join((text or "").split()), printable(name))
