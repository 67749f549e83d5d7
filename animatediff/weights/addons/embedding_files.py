"""Textual inversion files: the words in them, and a tensor of vectors for each word and text encoder."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from animatediff.errors import UserError
from animatediff.weights.fit import leave_out
from animatediff.weights.recognise import check_setting, recognise_header
from animatediff.weights.storage.files import WEIGHT_SUFFIXES, Header, load_tensors, read_header
from animatediff.weights.storage.unwrap import BARE

if TYPE_CHECKING:
    from torch import Tensor

Shape = tuple[int, ...]

FOLDER_FILES = ("learned_embeds.safetensors", "learned_embeds.bin")
"""Files in folders of the hub, as diffusers names them."""
IMAGES = (".png", ".webp", ".jxl", ".avif", ".jpg", ".jpeg")
A1111 = re.compile(r"string_to_param\.(.+)")
TOKEN_NUMBER = re.compile(r"string_to_token\.")
"""Numbers that the words had in the vocabulary of the training; they get others here."""
SDXL = (("clip_l", "clip_g"), ("text_encoders_0", "text_encoders_1"))
"""Keys for the two text encoders of SDXL."""
PLAIN = ("emb_params", "emb", "<concept>", "clip_l", "clip_h", "text_encoders_0")
"""Keys that stand for the embedding of one text encoder without naming its word."""


@dataclass(frozen=True, kw_only=True)
class Word:
    """A word in a file."""

    name: str | None
    """The name that the file gives it."""
    keys: tuple[str, ...]
    """Tensor of its vectors, one for each text encoder."""


@dataclass(frozen=True, kw_only=True)
class EmbeddingFile:
    """The words of a textual inversion."""

    label: str
    """Path, for messages."""
    title: str | None
    """Name of the file or folder, which stands for a single word as well."""
    words: tuple[Word, ...]
    header: Header | None
    tensors: Mapping[str, Tensor]
    """Tensors that are in memory already; of a file, none."""

    def vectors(self, key: str) -> Tensor:
        """Vectors (n, d) of a tensor."""
        found = self.tensors[key] if self.header is None else load_tensors(self.header, [key])[key]
        return found[None] if found.ndim == 1 else found


def embedding_file(path: str | Path) -> Path:
    """The weight file that is meant: `path`, or the textual inversion in the folder `path`. Raises UserError."""
    path = Path(path).expanduser()
    if path.suffix.lower() in IMAGES:
        raise UserError(
            f"{path}: an image; A1111 hides embeddings in images, which are not read here: take its .pt or .safetensors"
        )
    if not path.is_dir():
        return path
    files = [path / name for name in FOLDER_FILES if (path / name).is_file()]
    files = files or sorted(file for file in path.iterdir() if file.suffix.lower() in WEIGHT_SUFFIXES)
    if not files:
        raise UserError(f"{path}: no textual inversion in this folder, expected {' or '.join(FOLDER_FILES)}")
    if len(files) > 1 and files[0].name not in FOLDER_FILES:
        raise UserError(f"{path}: several files, name one of them: {', '.join(file.name for file in files)}")
    return files[0]


def read_embedding(source: str | Path | Mapping[str, Tensor], *, name: str | None = None) -> EmbeddingFile:
    """Read the words of a textual inversion from its header; of tensors in memory, `name` stands for their file.

    Layouts: A1111 (`string_to_param`, `emb_params`), diffusers and cloneofsimo (word -> vectors, also several words),
    SDXL (`clip_l` and `clip_g`). Raises UserError for anything else.
    """
    if isinstance(source, Mapping):
        shapes = {key: tuple(value.shape) for key, value in source.items()}
        label = f"embedding {name}" if name else "embedding"
        words = _words(shapes, None, label)
        return EmbeddingFile(label=label, title=name, words=words, header=None, tensors=source)
    file = embedding_file(source)
    header = read_header(file)
    check_setting(recognise_header(header), "embeddings")
    words = _words(header.shapes, header.metadata.get("name"), str(file))
    title = name or (file.stem if file.name not in FOLDER_FILES else None)
    if title is None and Path(source).expanduser().is_dir():
        title = Path(source).expanduser().resolve().name
    return EmbeddingFile(label=str(file), title=title, words=words, header=header, tensors={})


def _words(shapes: Mapping[str, Shape], named: str | None, label: str) -> tuple[Word, ...]:
    """The words among tensors of these shapes."""
    words = _found(shapes, named)
    keys = [key for word in words for key in word.keys]
    widths = {shapes[key][-1] if shapes[key] else 0 for key in keys if len(words) > 1}
    if not words or len(widths) > 1 or not all(len(shapes[key]) in (1, 2) and all(shapes[key]) for key in keys):
        some = ", ".join(f"{key} {list(shape)}" for key, shape in list(shapes.items())[:3])
        raise UserError(
            f"{label}: not a textual inversion: expected vectors for one word or several, or clip_l and clip_g; found "
            f"{len(shapes)} tensors{', first ' + some if some else ''}"
        )
    rest = [key for key in shapes if key not in keys and not TOKEN_NUMBER.match(key)]
    leave_out(rest, path=label, model="textual inversion for this model")
    return words


def _found(shapes: Mapping[str, Shape], named: str | None) -> tuple[Word, ...]:
    for pair in SDXL:
        if shapes.keys() >= set(pair):
            return (Word(name=named, keys=pair),)
    a1111 = {found[1]: key for key in shapes if (found := A1111.fullmatch(key))}
    if a1111:  # one word is named beside it, and `*` here
        return tuple(
            Word(name=named if len(a1111) == 1 else None if word == "*" else word, keys=(key,))
            for word, key in a1111.items()
        )
    plain = [key for key in PLAIN if key in shapes]
    if plain:
        return (Word(name=named, keys=(plain[0],)),) if len(plain) == 1 else ()
    if len(shapes) > 1 and any("." in key for key in shapes):  # layers of some network
        return ()
    # a bare tensor of a pickle is called so here, and has no word
    return tuple(Word(name=None if key == BARE else key, keys=(key,)) for key in shapes)
