"""Files that a result or a configuration names: looked for in the folders that the user named, and nowhere else.

Whoever made the file does not decide what is read here: it may be a stranger. The user's folders are that of the file
itself, the working directory, models/, and those of `Roots.named`.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from animatediff.errors import UserError
from animatediff.files import HERE, Roots, is_within
from animatediff.render.fingerprint import fingerprint
from animatediff.render.options import BY_NAME, IN_MEMORY, PATH_FIELDS
from animatediff.render.portable import REVISION, bundled_hash, bundled_name, revision_of, with_files
from animatediff.render.request_inputs import is_note
from animatediff.weights.hub import cached_file, cached_folder, is_hub_id
from animatediff.weights.storage.paths import shown

logger = logging.getLogger(__name__)

ONLY_COMPARED = ("inference_config", "sparsectrl_config")
"""Settings whose files are not needed."""
_DRIVE = re.compile(r"[A-Za-z]:/")


@dataclass(frozen=True)
class Lookup:
    """Where the files that one result or configuration names are looked for."""

    where: str
    """Name of the result or configuration in messages."""
    folders: Sequence[Path] = ()
    """Its own folders, which relative names are tried in first."""
    roots: Roots = HERE
    hashes: Mapping[str, str] = field(default_factory=dict)
    """Short hashes that a result recorded, by place (`render.portable`)."""

    def resolve(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """`values` with every file name replaced by the file found.

        Raises UserError for a name that leads out of the folders. Names of which there is no file here stay, as they
        may be hub ids or published files; whoever opens them says so otherwise.
        """
        found = with_files({name: _in_full(name, value) for name, value in values.items()}, self.find)
        return {name: value for name, value in found.items() if value is not None or values[name] is None}

    def find(self, name: str, setting: str = "", place: str = "") -> str | None:
        """The file that a name means, or the name itself; None for one that is not needed."""
        recorded = self.hashes.get(place, "")
        if (part := bundled_name(name)) is not None:
            if recorded and bundled_hash(part) != recorded:
                logger.warning(
                    "%s: %s ships in another version than the one it was made with; frames differ",
                    shown(self.where),
                    part,
                )
            return part
        is_media, kind = setting in IN_MEMORY or not setting, PATH_FIELDS.get(setting, "")
        here = list(dict.fromkeys(self._found(name, kind, is_media=is_media, is_recorded=bool(recorded))))
        if here and recorded.partition(":")[0] in ("sha256", "pieces", "folder"):
            same = next((path for path in here if fingerprint(path) == recorded), None)
            if same is None:
                logger.warning(
                    "%s: %s is another file than the one it was made with (hash %s, recorded %s); frames may differ",
                    shown(self.where),
                    shown(here[0]),
                    fingerprint(here[0]),
                    shown(recorded[:40]),
                )
            return same or here[0]
        if here:
            return here[0]
        if setting in ONLY_COMPARED and self._leads_out(name):
            logger.info("%s: %s is not needed, what it would say is known from the weights", self.where, shown(name))
            return None
        if self._leads_out(name):
            raise UserError(
                f"{shown(self.where)}: {setting or 'it'} names {shown(name)}, which is in none of the folders where a "
                f"file may name others (its own, the working directory, models/); name it yourself{_flag(setting)}, or "
                "its folder with `folder`"
            )
        self._compare_revision(name, recorded)
        return name

    def _compare_revision(self, name: str, recorded: str) -> None:
        """Warn where a model of the hub is, or may come to be, of another commit than the one that was recorded."""
        kind, _, commit = recorded.partition(":")
        if kind != REVISION:
            return
        place = cached_folder(name) if is_hub_id(name) else cached_file(name)
        if place is None:
            logger.warning(
                "%s: was made with %s as of commit %s; what the hub has now may be another",
                shown(self.where), shown(name), shown(commit[:40]),
            )  # fmt: skip
        elif (here := revision_of(place)) != commit:
            logger.warning(
                "%s: %s is here as of commit %s, and it was made with commit %s; frames may differ",
                shown(self.where), shown(name), here, shown(commit[:40]),
            )  # fmt: skip

    def _found(self, name: str, kind: str, *, is_media: bool, is_recorded: bool) -> Iterator[str]:
        """Existing files that a name can mean, inside the folders, the likeliest first."""
        for spelling in dict.fromkeys((name, name.replace("\\", "/"))):
            try:
                for path in self._candidates(spelling, kind, is_media=is_media, is_recorded=is_recorded):
                    if path.exists() and self._is_allowed(path, is_media):
                        yield str(path)
            except (OSError, ValueError, RuntimeError):  # too long, a null byte, an unknown home: no such file, then
                continue

    def _candidates(self, name: str, kind: str, *, is_media: bool, is_recorded: bool) -> Iterator[Path]:
        path = Path(name).expanduser()
        relative = not (path.is_absolute() or _DRIVE.match(name))
        if not relative:
            yield path
        else:
            for folder in (*self.folders, *self.roots.files, *self.roots.named):
                yield Path(os.path.normpath(folder / path)) if ".." in path.parts else folder / path
        if (is_recorded or not relative) and "models" in path.parts[:-1]:  # those of another place
            rest = path.parts[len(path.parts) - path.parts[::-1].index("models") :]
            yield from (models.joinpath(*rest) for models in self.roots.models)
        if kind and path.suffix:
            yield from (models / kind / path.name for models in self.roots.models)
        if path.name:  # in folders that were named for this; for images and videos of elsewhere in its own too
            own = (*self.folders, *self.roots.files[:1]) if is_media and not relative else ()
            yield from (folder / path.name for folder in (*self.roots.named, *own))

    def _is_allowed(self, path: Path, is_media: bool) -> bool:
        """Whether a path lies in one of the folders.

        Links in there may lead out, as users put models on other disks, but for images and videos beside the file:
        these would be seen in the result.
        """
        trusted, own = (*self.roots.models, *self.roots.named), self.folders
        full, real = os.path.abspath(path), os.path.realpath(path)
        if any(is_within(full, os.path.abspath(folder)) for folder in trusted):
            return True
        if any(is_within(full, os.path.abspath(folder)) for folder in own):
            is_inside = any(is_within(real, os.path.realpath(f)) for f in (*own, *self.roots.files, *trusted))
            return is_inside or not is_media
        return any(is_within(full, os.path.abspath(folder)) for folder in self.roots.files)

    def _leads_out(self, name: str) -> bool:
        """Whether a name of which nothing was found is one of a place outside of the folders."""
        path = Path(name.replace("\\", "/"))
        if path.is_absolute() or name.startswith("~") or _DRIVE.match(str(path)):
            return True
        if "\0" in name:
            return False
        places = [os.path.normpath(folder / path) for folder in (*self.folders, *self.roots.files)]
        own = [os.path.abspath(folder) for folder in (*self.folders, *self.roots.files)]
        return any(os.path.lexists(place) for place in places) or not any(
            is_within(os.path.abspath(place), folder) for place in places for folder in own
        )


def _in_full(setting: str, value: Any) -> Any:
    """A value without its short forms, in which a name of a file may stand among other things (`8=c.png`)."""
    option = BY_NAME.get(setting)
    if option is None or option.folder is None or option.convert is None or is_note(value):
        return value
    try:
        return option.convert(value)
    except (UserError, ValueError, TypeError):  # which the request says too
        return value


def _flag(setting: str) -> str:
    return f" with `{setting}`" if setting else ""
