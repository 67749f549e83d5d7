"""What a file is that holds no weights which can be read here: by its first bytes, or by the names in its archive."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Collection
from typing import Any

from animatediff.errors import printable
from animatediff.files import WEIGHT_SUFFIXES

UNPACK = "unpack it, and give the weight file inside"
WEIGHT_NAMES = ".safetensors, .ckpt, .pt, .pth or .bin"
NO_WEIGHTS = f"not weights; weights are in {WEIGHT_NAMES}"
NOT_HERE = "not supported; look for the same weights as .safetensors, .ckpt or .pth"
EXPORTED = "an exported network, which cannot be taken apart; look for its weights as .safetensors, .ckpt or .pth"
POINTER = "not the weights: run `{}` there, or download the file itself"

MAGIC: tuple[tuple[int, bytes, str, str], ...] = (
    # offset, bytes, kind, remedy
    (0, b"version https://git-lfs", "a Git LFS pointer", POINTER.format("git lfs pull")),
    (0, b"version https://hawser", "a Git LFS pointer", POINTER.format("git lfs pull")),
    (0, b"# xet version", "a Xet pointer", POINTER.format("git xet checkout")),
    (0, b"/annex/objects/", "a git-annex pointer", POINTER.format("git annex get")),
    (0, b"../.git/annex/", "a git-annex pointer", POINTER.format("git annex get")),
    (0, b"GGUF", "a GGUF file", NOT_HERE),
    *((0, magic, "a GGML file", NOT_HERE) for magic in (b"lmgg", b"fmgg", b"tjgg", b"algg")),
    (0, b"\x89HDF\r\n\x1a\n", "an HDF5 file, as Keras writes it (.h5)", NOT_HERE),
    (0, b"\x93NUMPY", "a NumPy array (.npy)", NOT_HERE),
    (4, b"TFL3", "a TensorFlow Lite model", EXPORTED),
    *((0, magic, "a TensorRT engine", EXPORTED) for magic in (b"ftrt", b"ptrt")),
    (0, b"PAR1", "a Parquet table", NO_WEIGHTS),
    (0, b"ARROW1", "an Arrow table", NO_WEIGHTS),
    (0, b"FEA1", "a Feather table", NO_WEIGHTS),
    (0, b"SQLite format 3\0", "an SQLite database", NO_WEIGHTS),
    (0, b"\x89PNG", "a PNG image", NO_WEIGHTS),
    (0, b"\xff\xd8\xff", "a JPEG image", NO_WEIGHTS),
    (0, b"GIF8", "a GIF image", NO_WEIGHTS),
    (0, b"8BPS", "a Photoshop image", NO_WEIGHTS),
    (0, b"II*\0", "a TIFF image", NO_WEIGHTS),
    (0, b"MM\0*", "a TIFF image", NO_WEIGHTS),
    (0, b"II+\0", "a TIFF image", NO_WEIGHTS),
    (0, b"v/1\x01", "an OpenEXR image", NO_WEIGHTS),
    (0, b"\xff\x0a", "a JPEG XL image", NO_WEIGHTS),
    (4, b"JXL ", "a JPEG XL image", NO_WEIGHTS),
    (4, b"jP  ", "a JPEG 2000 image", NO_WEIGHTS),
    (0, b"\0\0\x01\0", "an icon", NO_WEIGHTS),
    (8, b"WEBP", "a WebP image", NO_WEIGHTS),
    (8, b"AVI ", "an AVI video", NO_WEIGHTS),
    (8, b"WAVE", "a WAV sound", NO_WEIGHTS),
    *((4, b"ftyp" + brand, "an AVIF image", NO_WEIGHTS) for brand in (b"avif", b"avis")),
    *(
        (4, b"ftyp" + brand, "a HEIC image", NO_WEIGHTS)
        for brand in (b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1")
    ),
    (4, b"ftyp", "an MP4 or QuickTime video", NO_WEIGHTS),
    (4, b"moov", "a QuickTime video", NO_WEIGHTS),
    (0, b"\x1aE\xdf\xa3", "a Matroska or WebM video", NO_WEIGHTS),
    (0, b"FLV\x01", "a Flash video", NO_WEIGHTS),
    (0, b"\0\0\x01\xba", "an MPEG video", NO_WEIGHTS),
    (0, b"OggS", "an Ogg file", NO_WEIGHTS),
    (0, b"fLaC", "a FLAC sound", NO_WEIGHTS),
    (0, b"ID3", "an MP3 sound", NO_WEIGHTS),
    (257, b"ustar", "a tar archive", UNPACK),
    (0, b"\x1f\x8b", "a gzip archive", UNPACK),
    (0, b"BZh", "a bzip2 archive", UNPACK),
    (0, b"\xfd7zXZ\0", "an xz archive", UNPACK),
    (0, b"\x28\xb5\x2f\xfd", "a Zstandard archive", UNPACK),
    (0, b"\x04\x22\x4d\x18", "an LZ4 archive", UNPACK),
    (0, b"LZIP", "an lzip archive", UNPACK),
    (0, b"7z\xbc\xaf", "a 7-Zip archive", UNPACK),
    (0, b"Rar!", "a RAR archive", UNPACK),
    (0, b"MSCF", "a CAB archive", UNPACK),
    (0, b"PK\x05\x06", "a ZIP archive with nothing in it", NO_WEIGHTS),
    (0, b"PK\x07\x08", "the first part of a ZIP archive in several parts", UNPACK),
    (0, b"%PDF", "a PDF document", NO_WEIGHTS),
    (0, b"%!PS", "a PostScript document", NO_WEIGHTS),
    (0, b"{\\rtf", "an RTF document", NO_WEIGHTS),
    (0, b"\xd0\xcf\x11\xe0", "an Office document", NO_WEIGHTS),
    (0, b"\x7fELF", "a program or library of Linux", NO_WEIGHTS),
    *((0, magic, "a program of macOS", NO_WEIGHTS) for magic in (b"\xcf\xfa\xed\xfe", b"\xca\xfe\xba\xbe")),
    (0, b"\0asm", "a WebAssembly program", NO_WEIGHTS),
    (0, b"d8:announce", "a torrent file", "not the weights: open it with a torrent program"),
)
SIGNS = (
    # pattern of the first bytes, where one fixed string does not say enough
    (re.compile(rb"BM.{4}\0\0\0\0", re.DOTALL), "a BMP image", NO_WEIGHTS),
    (re.compile(rb"MZ.{56,}", re.DOTALL), "a program of Windows", NO_WEIGHTS),
    (re.compile(rb"G.{187}G", re.DOTALL), "an MPEG video", NO_WEIGHTS),
    (re.compile(rb"\x08[\x01-\x20](?:\x12|\x1a|\x22|\x3a|\x42)", re.DOTALL), "an ONNX or Core ML model", EXPORTED),
    (
        re.compile(rb"(?:[\x81-\x8f]|\xde..|\xdf....)(?:[\xa1-\xbf]|\xd9.)[\w./ -]", re.DOTALL),
        "a MessagePack file, as Flax writes it (.msgpack)",
        NOT_HERE,
    ),
)
_OFFICE = {"word/": "a Word document", "xl/": "an Excel table", "ppt/": "a PowerPoint document"}
_SERVER = re.compile(
    r"not found|unauthori[sz]ed|forbidden|denied|invalid (?:username|credentials|token)|error|too many requests|"
    r"rate limit|gateway|unavailable|restricted|authenticated|gated|expired|moved|must be logged in|sign in",
    re.IGNORECASE,
)
ANSWER = "check the address, sign in if it asks for that, and download the file itself"


def what_it_is(start: bytes, size: int) -> str | None:
    """Kind of a file that begins with `start` and what to do about it, or None if it may be a weight file.

    >>> what_it_is(b"GIF89a", 6)
    'a GIF image, not weights; weights are in .safetensors, .ckpt, .pt, .pth or .bin'
    """
    for offset, magic, kind, remedy in MAGIC:
        if start.startswith(magic, offset):
            return f"{kind}, {remedy}"
    for pattern, kind, remedy in SIGNS:
        if pattern.match(start):
            return f"{kind}, {remedy}"
    if not start.strip(b"\0"):
        return "begins with nothing but zero bytes: the download was never filled; download it again"
    text = _text(start, whole=len(start) >= size)
    return None if text is None else _kind_of_text(text, whole=len(start) >= size)


def _text(start: bytes, whole: bool) -> str | None:
    """The text that a file begins with, without the space before it, or None if it is no text."""
    encoding = "utf-16" if start[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        text = codecs.getincrementaldecoder(encoding)().decode(start, final=whole)
    except UnicodeDecodeError:
        return None
    return text.strip() if all(c.isprintable() or c.isspace() for c in text) else None


def _kind_of_text(text: str, whole: bool) -> str:
    line = printable(text.splitlines()[0][:80]) if text else ""
    lower = text[:200].lower()
    if text.startswith(("<?xml", "<Error", "<net", "<svg")) and "<html" not in lower:
        if found := re.search(r"<(?:Code|Message)>([^<]*)<", text):
            return f"the error message of a server ({printable(found[1][:80])}), not weights: {ANSWER}"
        return "an XML file, " + (EXPORTED if "<net" in lower else NO_WEIGHTS)
    if text.startswith("<"):
        return f"an HTML page, not weights: the download met a login or error page; {ANSWER}"
    if text[:1] in ("{", "["):
        return _kind_of_json(text, whole)
    if text.startswith("#!"):
        return f"a script, {NO_WEIGHTS}"
    if whole and len(text.splitlines()) <= 3 and _SERVER.search(text):
        return f"the answer of a server, {line!r}, not weights: {ANSWER}"
    if not text:
        return f"nothing but space, {NO_WEIGHTS}"
    return f"text that begins with {line!r}, {NO_WEIGHTS}"


def _kind_of_json(text: str, whole: bool) -> str:
    try:
        content: Any = json.loads(text) if whole else {}
    except (ValueError, RecursionError):
        content = {}
    said = content if isinstance(content, dict) else {}
    answer = next((said[key] for key in ("error", "message", "detail") if key in said), None)
    if answer is not None:
        return f"JSON text, the error message of a server ({printable(str(answer)[:80])}), not weights: {ANSWER}"
    if '"weight_map"' in text:
        return "JSON text, the index of weights in several files; give the folder that they are in"
    if any(f'"{key}"' in text for key in ("_class_name", "architectures", "model_type")):
        return "JSON text, a configuration; give the weights beside it, or the folder"
    return f"JSON text, not weights: an error message of a server, or a configuration; weights are in {WEIGHT_NAMES}"


def what_archive_is(names: Collection[str]) -> str:
    """Kind of a ZIP archive that is no checkpoint, by the names in it, and what to do about it."""
    last = {name.rsplit("/", 1)[-1] for name in names}
    weights = sorted(name for name in names if name.lower().endswith(WEIGHT_SUFFIXES))
    office = next((kind for folder, kind in _OFFICE.items() if any(n.startswith(folder) for n in names)), None)
    if "archive_format" in last or "serialized_exported_program.json" in last:
        return f"a program of torch.export (.pt2), {EXPORTED}"
    if any("/code/" in name or name.startswith("code/") for name in names) or "constants.pkl" in last:
        return "a TorchScript archive, which holds code, not only weights; look for the .ckpt or .safetensors file"
    if names and all(name.endswith(".npy") for name in names):
        return f"NumPy arrays (.npz), {NOT_HERE}"
    if any(name.endswith(".weights.h5") for name in last):
        return f"a Keras model (.keras), {NOT_HERE}"
    if any(name.endswith(".mlmodel") for name in last):
        return f"a Core ML model, {EXPORTED}"
    if "[Content_Types].xml" in names and office:
        return f"{office}, {NO_WEIGHTS}"
    if "mimetype" in names or "MANIFEST.MF" in last or "AndroidManifest.xml" in names:
        return f"a document or program in a ZIP archive, {NO_WEIGHTS}"
    if "model_index.json" in last:
        return "a ZIP archive of a diffusers folder; unpack it, and give the folder"
    if weights:
        more = f" and {len(weights) - 1} more" if len(weights) > 1 else ""
        return f"a ZIP archive of {printable(weights[0])}{more}; {UNPACK}"
    return f"a ZIP archive without weights, {NO_WEIGHTS}"
