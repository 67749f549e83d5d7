"""Which files of a shard are one sample: by their names, as WebDataset has it, where these tell.

There files that share a name up to the first dot are one sample. Names of clips have dots of their own, though
("Track 2.0.mp4"), and captions longer suffixes ("000017.output.txt").
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from animatediff.media.kinds import BadMedia
from animatediff.signatures import IMAGE_SUFFIXES, VIDEO_SUFFIXES
from animatediff.training.data.captions import (
    CAPTION_SUFFIXES,
    TEXT_SUFFIXES,
    Caption,
    choose_caption,
    is_caption_file,
    may_be_caption,
)  # fmt: skip

MOST_FILES = 64
"""Files of one name up to the first dot that may be one sample; more of them are clips with dots in their names."""


@dataclass
class Sample:
    """The files of one sample, by the part of their names behind its own."""

    name: str
    begin: int
    """Its beginning in the shard, in bytes of the tar file."""
    end: int = 0
    """Beginning of the next sample."""
    files: dict[str, bytes] = field(default_factory=dict)
    fault: str = ""
    """Why it cannot be used, if its names or its place in the shard say so."""


@dataclass
class Member:
    """A file in a shard."""

    name: str
    begin: int
    read: Callable[[], bytes]
    """Gives its content; raises BadMedia."""
    end: int = 0
    """End of its content."""

    def __post_init__(self) -> None:
        self.folder, _, self.file = self.name.rpartition("/")
        self.key, self.dot, _ = self.file.partition(".")

    @property
    def suffix(self) -> str:
        return "." + self.file.rpartition(".")[2].lower()

    @property
    def is_media(self) -> bool:
        return self.suffix in VIDEO_SUFFIXES | IMAGE_SUFFIXES

    @property
    def is_caption(self) -> bool:
        return is_caption_file(self.file)

    def stems(self) -> Iterator[str]:
        """What is left of the file's name without its last suffix, its last two, ..."""
        stem = self.file
        while "." in stem:
            stem = stem.rpartition(".")[0]
            yield stem


@dataclass
class Draft:
    """The files that will be one sample."""

    name: str
    """Without the folder."""
    members: list[Member]
    fault: str = ""

    @property
    def folder(self) -> str:
        return self.members[0].folder

    @property
    def begin(self) -> int:
        return min((m.begin for m in self.members if m.is_media), default=self.members[0].begin)

    @property
    def has_media(self) -> bool:
        return any(member.is_media for member in self.members)

    @property
    def is_bare(self) -> bool:
        """Whether it has a clip and no caption file."""
        return self.has_media and not any(member.is_caption for member in self.members)

    def sample(self, end: int) -> Sample:
        """Read the files."""
        full = f"{self.folder}/{self.name}" if self.folder else self.name
        sample = Sample(full, self.begin, end, fault=self.fault)
        for member in self.members if not self.fault else ():
            suffix = member.file[len(self.name) + 1 :] if member.file.startswith(f"{self.name}.") else member.file
            try:
                sample.files[suffix.lower()] = member.read()
            except BadMedia as error:
                sample.fault = str(error)
        return sample


def belongs(member: Member, run: list[Member]) -> bool:
    """Whether a file may go on a run of files with one name up to the first dot; a repeated one begins another."""
    same = (member.folder, member.key) == (run[0].folder, run[0].key)
    return same and all(member.name != other.name for other in run)


def drafts(run: list[Member]) -> list[Draft]:
    """Part a run of files with one name up to the first dot into samples, in the order of their beginnings."""
    stems = [next(member.stems()) for member in run if member.is_media]
    whole = [stem for stem in dict.fromkeys(stems) if not any(stem.startswith(f"{other}.") for other in stems)]
    own: dict[str, list[Member]] = {stem: [] for stem in whole}
    shared: list[Member] = []
    for member in run:
        own.get(next((stem for stem in member.stems() if stem in own), ""), shared).append(member)
    key = run[0].key
    if len(whole) < 2:
        return [Draft(key if shared or not whole else whole[0], run)]
    if any(member.is_caption for member in shared):
        videos = [stem for stem in whole if any(m.suffix in VIDEO_SUFFIXES for m in own[stem] if m.is_media)]
        if len(videos) == 1:  # images beside a video are its posters
            return [Draft(key, run)]
        text = next(member.file for member in shared if member.is_caption)
        names = ", ".join(member.file for member in run if member.is_media)
        return [Draft(key, run, f"{text} is the caption of several files ({names}); give each its own")]
    parted = [Draft(stem, members) for stem, members in own.items()] + ([Draft(key, shared)] if shared else [])
    return sorted(parted, key=lambda draft: draft.begin)


def reunited(parted: list[Draft]) -> list[Draft]:
    """Put captions to clips of their names that lie elsewhere in the shard, each where only one fits."""
    bare = [draft for draft in parted if draft.is_bare]
    by_place: dict[tuple[str, str], list[Draft]] = defaultdict(list)
    by_name: dict[str, list[Draft]] = defaultdict(list)
    for draft in bare:
        by_place[draft.folder, draft.name].append(draft)
        by_name[draft.name].append(draft)
    alone = [draft for draft in parted if not draft.has_media and any(m.is_caption for m in draft.members)]
    texts: dict[str, int] = defaultdict(int)
    for draft in alone:
        texts[draft.name] += 1
    for draft in alone:
        for member in [m for m in draft.members if m.is_caption]:
            for stem in member.stems():
                found = by_place[member.folder, stem] or (by_name[stem] if texts[draft.name] == 1 else [])
                if len(found) == 1:
                    found[0].members.append(member)
                    draft.members.remove(member)
                    break
    return [draft for draft in parted if draft.members]


def split_runs(members: Iterable[Member]) -> Iterator[list[Member]]:
    """Neighbouring files with one name up to the first dot."""
    run: list[Member] = []
    for member in members:
        if run and not belongs(member, run):
            yield run
            run = []
        run.append(member)
    if run:
        yield run


class Parts(NamedTuple):
    """What of a sample is used."""

    name: str
    """Of the video or image."""
    content: bytes
    text: str
    note: str | None
    """What is to be known of the caption."""
    unused: list[str]
    """Suffixes of the other files."""


def parts_of(sample: Sample) -> Parts:
    """Choose the video or image of a sample and its caption. Raises BadMedia."""
    if sample.fault:
        raise BadMedia(sample.fault)
    kinds = {suffix: "." + suffix.rsplit(".", 1)[-1] for suffix in sample.files}
    media = [suffix for suffix, kind in kinds.items() if kind in VIDEO_SUFFIXES | IMAGE_SUFFIXES]
    if not media:
        raise BadMedia(f"holds no video or image, only {', '.join(sorted(sample.files))}")
    # An image beside a video is its poster; a longer suffix ("depth.mp4") says what else a file shows.
    media.sort(key=lambda suffix: (kinds[suffix] in IMAGE_SUFFIXES, suffix.count("."), suffix))
    chosen = media[0]
    stem = chosen.rpartition(".")[0]
    plain = [f"{base}{suffix}".lstrip(".") for suffix in CAPTION_SUFFIXES for base in (stem, chosen)]
    usual = [suffix for suffix in plain if suffix in sample.files]
    others = [suffix for suffix in sorted(sample.files) if is_caption_file(suffix) and suffix not in usual]
    try:
        caption = choose_caption((suffix, sample.files[suffix]) for suffix in usual)
        if not caption.text:
            caption = _other_caption(sample, others)
            usual += [suffix for suffix in others if caption.text]
    except BadMedia as error:
        raise BadMedia(str(error)) from error
    unused = sorted(suffix for suffix in sample.files if suffix != chosen and suffix not in usual)
    if not caption.text and not any(is_caption_file(suffix) for suffix in sample.files):
        for suffix in unused:
            if may_be_caption(suffix, sample.files[suffix]):
                raise BadMedia(f"no caption, while .{suffix} is a text; call it .txt, or give an empty .txt as well")
    return Parts(f"{sample.name}.{chosen}", sample.files[chosen], caption.text, caption.note, unused)


def _other_caption(sample: Sample, others: list[str]) -> Caption:
    texts = [suffix for suffix in others if suffix.endswith(TEXT_SUFFIXES) or f".{suffix}" in TEXT_SUFFIXES]
    caption = choose_caption((suffix, sample.files[suffix]) for suffix in texts)
    for suffix in others:
        if caption.text or suffix in texts:
            continue
        try:  # records of other programs are often JSON
            caption = choose_caption([(suffix, sample.files[suffix])])
        except BadMedia:
            continue
    return caption
