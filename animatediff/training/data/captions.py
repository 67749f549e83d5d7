"""Captions: the names they go by in listings and files, and their text out of bytes and JSON values."""

from __future__ import annotations

import ast
import codecs
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from animatediff.errors import UserError, holds_surrogates
from animatediff.media.kinds import BadMedia

FILE_KEYS = (
    *("video", "file", "path", "file_name", "image", "file_path", "filepath", "filename", "video_path", "video_file"),
    *("video_name", "image_path", "image_file", "media_path", "media"),
)
"""Keys and columns that name a video or an image, the first of those that are filled in counts."""
TEXT_KEYS = ("text", "caption", "prompt", "cap", "captions", "texts", "description")
"""Keys and columns that hold a caption, likewise."""
LIKE_TEXT = (
    *("text", "capt", "prompt", "descri", "sentence", "title", "convers", "narrat", "annot", "summar", "label", "tags"),
)
"""Parts of the names of other keys that look as if they held a caption."""
TEXT_SUFFIXES = (".txt", ".caption", ".text", ".cap")
"""Suffixes of files that are a caption as a whole."""
NO_CAPTIONS = ("srt", "vtt", "ass", "ssa", "sub", "lrc", "md5", "sha1", "sha256", "url")
"""Ends of names of texts that are never a caption: subtitles, sums, links."""
CAPTION_BYTES = 1 << 16
"""Size of a text of another suffix that may be a caption."""
CAPTION_SUFFIXES = (*TEXT_SUFFIXES, ".json")

NO_UTF8 = "with a caption that is not UTF-8"
NO_TEXT = "with a caption that is no text"
DIFFERING = "with captions that differ"
UNKNOWN_KEY = "with a caption under a key that is not known"
UNREADABLE = "with a caption that cannot be read"

BOMS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
LIST_AS_TEXT = re.compile(r"""\s*\[\s*(['"]).{0,20000}\1\s*\]\s*""", re.DOTALL)
"""A list of texts as code, as tables of other programs have it."""
HEAD = 32
"""Bytes from which an encoding is told."""


class Caption(NamedTuple):
    """A caption of one item."""

    text: str
    """On one line."""
    note: str | None = None
    """What is to be known of it."""


def encoding_of(head: bytes) -> str:
    """Tell the encoding of a text by its first bytes: UTF-16 and UTF-32 as spreadsheets write them, else UTF-8."""
    for mark, encoding in BOMS:
        if head.startswith(mark):
            return encoding
    for odd, even, encoding in ((1, 0, "utf-16-le"), (0, 1, "utf-16-be")):
        zeros, letters = head[odd:HEAD:2], head[even:HEAD:2]
        if zeros and not any(zeros) and all(letters):
            return encoding
    return "utf-8-sig"


@contextmanager
def open_text(path: Path, newline: str | None = None) -> Iterator[TextIO]:
    """Open a text of rows in its encoding. Raises UserError for one that is not valid in it.

    Bytes that are not UTF-8 come through as surrogates: the row they are in is found out later.
    """
    with open(path, "rb") as raw:
        encoding = encoding_of(raw.read(HEAD))
    errors = "surrogateescape" if encoding.startswith("utf-8") else "strict"
    try:
        with open(path, encoding=encoding, errors=errors, newline=newline) as file:
            yield file
    except UnicodeError as error:
        raise UserError(f"{path}: is not valid {encoding.upper()}; save it as UTF-8") from error


def one_line(text: str) -> str:
    """The text with every run of spaces, line ends among them, as one space."""
    return " ".join(text.split())


def decoded(content: bytes) -> str:
    """Decode a text. Raises BadMedia if it is neither UTF-8 nor marked as UTF-16 or UTF-32."""
    try:
        return content.decode(encoding_of(content))
    except UnicodeDecodeError as error:
        raise BadMedia("caption is not UTF-8", NO_UTF8) from error


def caption_of(content: bytes) -> str:
    """Read a caption from the bytes of a text file, on one line. Raises BadMedia if it is not UTF-8."""
    return one_line(decoded(content))


def caption_of_json(content: bytes) -> Caption:
    """Read a caption from the bytes of a JSON file: an object with one of TEXT_KEYS, or a text. Raises BadMedia."""
    try:
        values = json.loads(decoded(content), object_pairs_hook=unique_keys)
    except (ValueError, RecursionError) as error:
        raise BadMedia(f"holds .json that is not JSON{_why(error)}", UNREADABLE) from error
    if isinstance(values, Mapping):
        return caption_in(values)
    return Caption(_text(values, "its .json"))


def _why(error: Exception) -> str:
    return f" ({error})" if isinstance(error, RepeatedKeyError) else ""


class RepeatedKeyError(ValueError):
    """An object in JSON that gives a key two values."""


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make an object of JSON. Raises RepeatedKeyError where one value would take the place of another."""
    result: dict[str, Any] = {}
    for key, value in pairs:
        if key in result and result[key] != value:
            raise RepeatedKeyError(f"two values for the key {key[:40]}")
        result[key] = value
    return result


def caption_in(values: Mapping[str, Any]) -> Caption:
    """Find the caption among the values of a row or of a JSON object; empty where there is none.

    Raises BadMedia for what is no text, for several captions in a list, and for one under an unknown key.
    """
    found = {key: text for key in TEXT_KEYS if (text := _text(values.get(key), key))}
    if found:
        key, text = next(iter(found.items()))
        others = [other for other, that in found.items() if that != text]
        return Caption(text, f"with several captions (`{key}` is used, not `{', '.join(others)}`)" if others else None)
    unknown = [
        key
        for key, value in values.items()
        if key not in TEXT_KEYS
        and (value.strip() if isinstance(value, str) else isinstance(value, list | dict) and value)
        and any(part in key.lower() for part in LIKE_TEXT)
    ]
    if unknown:
        raise BadMedia(
            f"no caption under {', '.join(TEXT_KEYS)}; is it `{unknown[0][:40]}`? Rename that key", UNKNOWN_KEY
        )
    return Caption("")


def _listed(text: str) -> Any:
    """The list of texts that a cell holds as code, `['a fox', 'a bear']`; any other text as it is."""
    if LIST_AS_TEXT.fullmatch(text):
        with suppress(ValueError, SyntaxError, RecursionError, MemoryError):
            return ast.literal_eval(text.strip())
    return text


def _text(value: Any, key: str) -> str:
    if isinstance(value, str):
        value = _listed(value)
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, list) and value and all(isinstance(part, str) for part in value):
        if len({one_line(part) for part in value}) > 1:
            raise BadMedia(f"{len(value)} captions in a list under {key}; give one, or a row for each", DIFFERING)
        value = value[0]
    if value is None or value == []:
        return ""
    if not isinstance(value, str):
        raise BadMedia(f"{key} is no text", NO_TEXT)
    if holds_surrogates(value):
        raise BadMedia("caption is not UTF-8", NO_UTF8)
    return one_line(value)


def is_caption_file(name: str) -> bool:
    """Whether a file of this name (`txt`, `a.caption`, `output.txt`) may hold a caption."""
    return ("." + name.lower().rsplit(".", 1)[-1]) in CAPTION_SUFFIXES


def may_be_caption(name: str, content: bytes) -> bool:
    """Whether a file of an unknown suffix holds words, few enough for a caption; subtitles are none."""
    if name.lower().endswith(NO_CAPTIONS) or len(content) > CAPTION_BYTES:
        return False
    with suppress(BadMedia):
        text = decoded(content)
        return "\0" not in text and any(letter.isalpha() for letter in text)
    return False


def read_caption(name: str, content: bytes) -> Caption:
    """Read a caption file by its name. Raises BadMedia."""
    if name.lower().rsplit(".", 1)[-1] == "json":
        return caption_of_json(content)
    return Caption(caption_of(content))


def choose_caption(files: Iterable[tuple[str, bytes]]) -> Caption:
    """The one caption that the files of an item hold; empty where they hold none.

    files: name and content, the usual place first. A `.json` beside a text is a record of many things: the text
    counts. Raises BadMedia where two texts differ, or one cannot be read.
    """
    texts: dict[str, Caption] = {}
    records: list[tuple[str, bytes]] = []
    for name, content in files:
        if name.lower().endswith("json"):
            records.append((name, content))
        elif (caption := read_caption(name, content)).text:
            texts[name] = caption
    _must_agree(texts)
    if texts:
        chosen = next(iter(texts.values()))
        for name, content in records:
            with suppress(BadMedia):
                if read_caption(name, content).text not in ("", chosen.text):
                    return Caption(chosen.text, "with another caption in .json (the text file is used)")
        return chosen
    found = {name: caption for name, content in records if (caption := read_caption(name, content)).text}
    _must_agree(found)
    return next(iter(found.values()), Caption(""))


def _must_agree(captions: Mapping[str, Caption]) -> None:
    if len({caption.text for caption in captions.values()}) > 1:
        raise BadMedia(f"{', '.join(sorted(captions))} differ; keep one of them", DIFFERING)
