"""Listings of folders: videos, animated images, folders of frames and single images, each with its caption.

A caption lies beside its clip under one of several names, in another folder under the clip's name, or in a table
(`metadata.jsonl`, `captions.csv`, `prompts.txt` with `videos.txt`). Whatever is not used is among the findings.
"""

from __future__ import annotations

import math
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

from animatediff.errors import UserError
from animatediff.media.kinds import BadMedia, is_litter
from animatediff.signatures import IMAGE_SUFFIXES, VIDEO_SUFFIXES
from animatediff.training.data.captions import (
    CAPTION_BYTES,
    CAPTION_SUFFIXES,
    DIFFERING,
    NO_TEXT,
    NO_UTF8,
    TEXT_SUFFIXES,
    UNREADABLE,
    Caption,
    choose_caption,
    decoded,
    may_be_caption,
    read_caption,
)  # fmt: skip
from animatediff.training.data.config import DataConfig, Kind
from animatediff.training.data.csv_rows import Row
from animatediff.training.data.frames import frame_numbers, frames_of, is_animated, suffix_of, walk
from animatediff.training.data.items import Item, Listing, printable

NO_CAPTION = "without a caption (an empty one is used)"
HIDDEN = "with a hidden name, as macOS puts beside files (left out)"
LONELY = "without a caption, while there are captions that belong to no clip"
BESIDE = "without a caption, while a text of another suffix lies beside (call it .txt, or take it away)"
ORPHANS = "texts that belong to no clip (not used; that of `a.mp4` is `a.txt`)"
STILLS = "images, not clips"
GAPS = "folders of frames with gaps in their numbers"
POSTERS = "images that bear the name of a video (left out)"
ELSEWHERE = "with a caption of the same name in another folder"
STRAY = "rows of a table beside the clips that name no clip of this folder"

TABLES = {".csv": "csv", ".tsv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl"}
LINES_OF_FILES = ("videos.txt", "video.txt", "images.txt", "files.txt", "paths.txt")
LINES_OF_TEXT = ("prompts.txt", "prompt.txt", "captions.txt", "caption.txt", "texts.txt", "text.txt", "labels.txt")
ABOUT = ("readme", "license", "licence", "notice", "changelog", "requirements", "copying")
"""Names of texts that are about a folder."""

MEDIA = VIDEO_SUFFIXES | IMAGE_SUFFIXES
NAMES_OF_TABLES = {"metadata", "captions", "prompts", "dataset", "annotations", "labels"}
MOST_WORDS = 200
"""Letters of a fault of a table that are shown."""
MOST_BYTES = 1 << 20
"""Size of a JSON file that may be one caption."""

ListRows = Callable[..., Listing]


def bases(name: str) -> list[str]:
    """What the caption files of a clip are called before their suffix: `a` and `a.mp4` of `a.mp4`."""
    stem, suffix = os.path.splitext(name)
    return [stem, name] if suffix.lower() in MEDIA else [name]


def sidecars(path: Path) -> Iterator[tuple[str, bytes]]:
    """Name and content of the caption files beside a clip. Raises OSError."""
    for suffix in (*CAPTION_SUFFIXES, *(suffix.upper() for suffix in CAPTION_SUFFIXES)):
        for base in bases(path.name):
            file = path.with_name(base + suffix)
            if os.path.isfile(file):
                yield file.name, file.read_bytes()


class _Texts:
    """The caption files of one folder, each of which may belong to a clip."""

    def __init__(self, root: str, files: list[str], media: list[str]) -> None:
        self.root = root
        self.files = [name for name in files if suffix_of(name) in CAPTION_SUFFIXES]
        self.free = set(self.files)
        """Those that belong to no clip so far."""
        self._bases = {base for name in media for base in bases(name)}
        self._lower: dict[str, list[str]] = defaultdict(list)
        for name in self.files:
            self._lower[name.lower()].append(name)

    def of(self, name: str) -> list[str]:
        """The files of a clip, the usual name first: `a.txt`, `a.mp4.txt`, `a.TXT`, `a.caption`, `a.json`."""
        found = []
        for suffix in CAPTION_SUFFIXES:
            for base in bases(name):
                alike = self._lower.get(f"{base}{suffix}".lower(), [])
                own = [file for file in alike if os.path.splitext(file)[0] == base]
                # Of a name in other letters only where no other clip has exactly it.
                found += own or [file for file in alike if os.path.splitext(file)[0] not in self._bases][:1]
        return found

    def further(self, names: list[str]) -> dict[str, list[str]]:
        """Files such as `a.output.txt` of these clips, which have none: {clip: files}."""
        stems = {base: name for name in names for base in reversed(bases(name))}
        found: dict[str, list[str]] = defaultdict(list)
        for file in sorted(self.free):
            base = file
            while "." in base:
                base = base.rpartition(".")[0]
                if base in stems:
                    found[stems[base]].append(file)
                    break
        return found

    def read(self, files: list[str]) -> Caption:
        """The one caption of these files, which belong to a clip from now on. Raises BadMedia and OSError."""
        self.free -= set(files)
        return choose_caption((file, Path(self.root, file).read_bytes()) for file in files)


def list_folder(config: DataConfig, kind: Kind, list_rows: ListRows) -> Listing:
    """List the clips, or images, of a folder and those below.

    list_rows: `sources.list_rows`, for tables of captions in the folder. Raises UserError for a folder without clips.
    """
    lister = _Lister(config, kind)
    for root, _, files in walk(lister.folder):
        lister.add_folder(root, files, list_rows)
    return lister.finish()


class _Lister:
    """Goes through one folder."""

    def __init__(self, config: DataConfig, kind: Kind) -> None:
        self.folder = Path(config.path)
        self.kind: Kind = kind
        self.with_stills = kind == "pictures" or config.num_frames == 1 or config.camera is not None
        self.listing = Listing()
        self.found: dict[str, str | None] = {}
        """Clips so far with their captions; None where there is no file of one."""
        self.stills: set[str] = set()
        """Single images that are no clips and have no caption of their own."""
        self.orphans: list[str] = []
        """Caption files that belong to no clip."""
        self.others = Counter[str]()
        self.beside: dict[str, list[str]] = defaultdict(list)
        """Files of other suffixes, by what they are called before it."""
        self.tables: list[Listing] = []
        self.names_of_tables: list[str] = []
        self.failed: dict[str, str] = {}
        """Files of rows that are no tables of captions, and why."""

    def name(self, path: str) -> str:
        name = os.path.relpath(path, self.folder)
        return self.folder.resolve().name if name == os.curdir else name

    def add_folder(self, root: str, files: list[str], list_rows: ListRows) -> None:
        for name in files:
            suffix = suffix_of(name)
            if is_litter(name) and suffix in MEDIA:
                self.listing.notes.add(HIDDEN, self.name(os.path.join(root, name)))
            elif not is_litter(name) and suffix not in (*MEDIA, *CAPTION_SUFFIXES, *TABLES):
                self._leave_out(root, name)
                self.beside[os.path.join(root, os.path.splitext(name)[0])].append(name)
        files = [name for name in files if not is_litter(name)]
        media = [name for name in files if suffix_of(name) in MEDIA]
        texts = _Texts(root, files, media)
        frames = frames_of(files) if self.kind != "pictures" else []
        if frames and len(frames) == len(media):
            self._add_frames(root, frames, texts)
        else:
            self._add_files(root, media, texts)
        self._find_tables(root, files, texts, list_rows)
        self.orphans += [os.path.join(root, name) for name in sorted(texts.free)]

    def _leave_out(self, root: str, name: str) -> None:
        suffix = suffix_of(name) or "no suffix"
        self.others[suffix] += 1
        self.listing.notes.add(f"{suffix} files beside them are not used", self.name(os.path.join(root, name)))

    def _add_frames(self, root: str, frames: list[str], texts: _Texts) -> None:
        """Add a folder of frames; its caption lies beside it, or in it."""
        parent, name = os.path.split(os.path.abspath(root))
        if len({later - earlier for earlier, later in pairwise(frame_numbers(frames))}) > 1:
            self.listing.notes.add(GAPS, self.name(root))
        with suppress(OSError):
            outer = _Texts(parent, sorted(os.listdir(parent)), [])
            if own := outer.of(name):
                used = {os.path.join(os.path.dirname(root), file) for file in own}
                self.orphans = [path for path in self.orphans if path not in used]
                return self._add(root, outer, own)
        self._add(root, texts, [file for file in texts.files if suffix_of(file) in TEXT_SUFFIXES])

    def _add_files(self, root: str, media: list[str], texts: _Texts) -> None:
        videos = {bases(name)[0] for name in media if suffix_of(name) in VIDEO_SUFFIXES}
        plan: dict[str, list[str]] = {}
        for name in media:
            files = texts.of(name)
            if suffix_of(name) in (IMAGE_SUFFIXES if self.kind == "pictures" else VIDEO_SUFFIXES):
                plan[name] = files
            elif self.kind == "pictures":
                self._leave_out(root, name)
            else:
                self._add_image(root, name, files, bases(name)[0] in videos, plan, texts)
        texts.free -= {file for files in plan.values() for file in files}
        plan |= texts.further([name for name, files in plan.items() if not files])
        for name, files in plan.items():
            self._add(os.path.join(root, name), texts, files)

    def _add_image(
        self, root: str, name: str, files: list[str], is_poster: bool, plan: dict[str, list[str]], texts: _Texts
    ) -> None:
        """Plan for an image among videos: a clip where single frames will do, or where it is animated."""
        own = [file for file in files if not is_poster or file.startswith(f"{name}.")]
        path = os.path.join(root, name)
        if (self.with_stills and (own or not is_poster)) or is_animated(path):
            plan[name] = own
        elif own:
            texts.free -= set(own)
            self.listing.num_listed += 1
            self.listing.bad.add(STILLS, self.name(path))
        elif is_poster:
            self.listing.notes.add(POSTERS, self.name(path))
        else:
            self.stills.add(path)

    def _add(self, path: str, texts: _Texts, files: list[str]) -> None:
        self.listing.num_listed += 1
        if (text := self._read(path, texts, files)) is not None:
            self.found[path] = text if files else None

    def _read(self, path: str, texts: _Texts, files: list[str]) -> str | None:
        """The text of a clip's caption files; None, with the reason among the findings, where it cannot be told."""
        name = self.name(path)
        try:
            caption = texts.read(files)
        except BadMedia as error:
            plain = error.kind in (NO_UTF8, NO_TEXT)
            self.listing.bad.add(error.kind, name if plain else f"{name} ({error})")
            return None
        except OSError as error:
            self.listing.bad.add(UNREADABLE, f"{name} ({error.strerror})")
            return None
        if caption.note:
            self.listing.notes.add(caption.note, name)
        return caption.text

    def _find_tables(self, root: str, files: list[str], texts: _Texts, list_rows: ListRows) -> None:
        """Read the tables of captions in a folder; a file of rows that is none is left out."""
        lower = {name.lower(): name for name in sorted(texts.free)}
        paths = next((lower[name] for name in LINES_OF_FILES if name in lower), None)
        words = next((lower[name] for name in LINES_OF_TEXT if name in lower), None)
        if paths and words:
            texts.free -= {paths, words}
            rows = _line_rows(os.path.join(root, paths), os.path.join(root, words))
            self.tables.append(list_rows(Path(root, paths), Path(root), "jsonl", rows))
        for name in files:
            kind = TABLES.get(suffix_of(name))
            if kind is None or (suffix_of(name) == ".json" and name not in texts.free):
                continue
            try:
                table = list_rows(Path(root, name), Path(root), kind)
                if not len(table.items) and os.path.splitext(name)[0].lower() not in NAMES_OF_TABLES:
                    raise UserError("names no file that is there")
            except UserError as error:
                if suffix_of(name) != ".json":
                    self.failed[os.path.join(root, name)] = str(error)
                continue
            texts.free.discard(name)
            self.tables.append(table)
            self.names_of_tables.append(os.path.join(root, name))

    def finish(self) -> Listing:
        """Everything found. Raises UserError where that is nothing."""
        if not self.listing.num_listed:
            others = self.others + Counter(suffix_of(path) for path in (*self.stills, *self.failed))
            named = self.names_of_tables[:1]
            hint = f"; {named[0]} names clips elsewhere: is that the path you mean?" if named else ""
            raise UserError(_empty(self.folder, self.kind, others) + hint)
        tabled = self._tabled() if self.tables else {}
        bare = [path for path, text in self.found.items() if text is None and path not in tabled]
        lonely = self._match(bare)
        for path, text in self.found.items():
            texts = tabled.get(path, [])
            if text and texts and text not in texts:
                self.listing.bad.add(DIFFERING, f"{self.name(path)} (its own file and a table)")
            elif path in lonely:
                self.listing.bad.add(LONELY, self.name(path))
            elif text is None and not texts and (beside := self._text_beside(path)):
                self.listing.bad.add(BESIDE, f"{self.name(path)} ({beside})")
            else:
                for each in texts or [text or ""]:
                    if not each:
                        self.listing.notes.add(NO_CAPTION, self.name(path))
                    self.listing.items.append(Item(path, each, printable(self.name(path))))
        for path in sorted(self.stills):
            self._leave_out(*os.path.split(path))
        return self.listing

    def _text_beside(self, path: str) -> str | None:
        """The name of a text of another suffix that has the name of a clip."""
        root, name = os.path.split(path)
        files = [file for base in bases(name) for file in self.beside.get(os.path.join(root, base), [])]
        return next((file for file in files if may_be_caption(file, _head(os.path.join(root, file)))), None)

    def _tabled(self) -> dict[str, list[str]]:
        """Captions in tables by clip."""
        places = {os.path.normpath(path): path for path in (*self.found, *self.stills)}
        tabled: dict[str, list[str]] = defaultdict(list)
        for table in self.tables:
            self.listing.num_listed += len(table.bad)
            self.listing.bad.update(table.bad)
            table.notes.counts.pop(NO_CAPTION, None)
            self.listing.notes.update(table.notes)
            for item in table.items:
                path = places.get(os.path.normpath(item.path))
                if path in self.stills:
                    self.stills.discard(path)
                    self.listing.num_listed += 1
                    self.listing.bad.add(STILLS, item.name)
                elif path is None:
                    self.listing.notes.add(STRAY, item.name)
                elif item.text and item.text not in tabled[path]:
                    tabled[path].append(item.text)
        return {path: texts for path, texts in tabled.items() if texts}

    def _match(self, bare: list[str]) -> set[str]:
        """Find captions of bare clips in other folders, by name. Returns the clips that may have lost theirs."""
        orphans = [path for path in self.orphans if self._is_caption(path)]
        by_name: dict[str, list[str]] = defaultdict(list)
        for path in orphans:
            by_name[os.path.splitext(os.path.basename(path))[0]].append(path)
        names = Counter(bases(os.path.basename(path))[0] for path in bare)
        lonely = set(bare)
        for path in bare:
            name = bases(os.path.basename(path))[0]
            if names[name] == 1 and len(files := by_name[name]) == 1:
                orphans.remove(files[0])
                lonely.discard(path)
                text = self._read(path, _Texts(*_split_path(files[0]), []), [os.path.basename(files[0])])
                if text is None:
                    del self.found[path]
                    continue
                self.found[path] = text
                self.listing.notes.add(ELSEWHERE, self.name(path))
        lost = sum(_num_captions(path) for path in orphans)
        for path in orphans:
            self.listing.notes.add(ORPHANS, self.name(path))
        for path, why in self.failed.items():
            if lonely:
                self.listing.notes.add("tables that cannot be read", f"{self.name(path)} ({why[:MOST_WORDS]})")
            else:
                self._leave_out(*os.path.split(path))
        return lonely if self.failed or lost >= len(lonely) else set()

    def _is_caption(self, path: str) -> bool:
        """Whether a file that belongs to no clip holds a caption, as far as one can tell; others are left out."""
        root, name = os.path.split(path)
        if not name.lower().startswith(ABOUT):
            if suffix_of(name) in TEXT_SUFFIXES:
                return True
            with suppress(OSError, BadMedia):
                if os.path.getsize(path) < MOST_BYTES and read_caption(name, Path(path).read_bytes()).text:
                    return True
        self._leave_out(root, name)
        return False


def _head(path: str) -> bytes:
    """The beginning of a file, more of it than a caption has; nothing where it cannot be read."""
    with suppress(OSError), open(path, "rb") as file:
        return file.read(CAPTION_BYTES + 1)
    return b""


def _num_captions(path: str) -> float:
    """How many captions a text that belongs to no clip may hold: one a line, any number in `prompts.txt`."""
    if os.path.basename(path).lower() in LINES_OF_TEXT:
        return math.inf
    with suppress(OSError):
        return max(1, len(Path(path).read_bytes().strip().splitlines()))
    return 1


def _split_path(path: str) -> tuple[str, list[str]]:
    return os.path.dirname(path), [os.path.basename(path)]


def _line_rows(files: str, texts: str) -> Iterator[Row]:
    """Rows of two files with a name, and a caption, a line. Raises UserError where they differ in length."""
    lines = []
    for path in (files, texts):
        try:
            lines.append(decoded(Path(path).read_bytes()).rstrip().splitlines())
        except BadMedia as error:
            raise UserError(f"{path}: is not UTF-8; save it as UTF-8") from error
    if len(lines[0]) != len(lines[1]):
        raise UserError(
            f"{files}: has {len(lines[0])} lines, {os.path.basename(texts)} beside it {len(lines[1])}; "
            "each line of the one belongs to that of the other"
        )
    return (
        (f"line {number}", {"file": name, "text": text})
        for number, (name, text) in enumerate(zip(*lines, strict=True), 1)
    )


def _empty(folder: Path, kind: Kind, others: Counter[str]) -> str:
    suffixes, other = (IMAGE_SUFFIXES, VIDEO_SUFFIXES) if kind == "pictures" else (VIDEO_SUFFIXES, IMAGE_SUFFIXES)
    counts = ", ".join(f"{count} {suffix}" for suffix, count in others.most_common(4)) or "no files at all"
    what = "images" if kind == "pictures" else "videos"
    hint = f"; for these set kind: {'folder' if kind == 'pictures' else 'pictures'}" if others.keys() & other else ""
    return f"{folder}: holds no {what} ({', '.join(sorted(suffixes))}); found: {counts}{hint}"
