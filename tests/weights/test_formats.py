"""Files that hold no weights which can be read here: each is called what it is, with what to do about it."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import re
import socket
import sqlite3
import struct
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from animatediff.cli.main import app
from animatediff.errors import UserError
from animatediff.weights.inspect import describe
from animatediff.weights.storage.files import load_tensors, read_header, save_tensors

POSIX = pytest.mark.skipif(os.name == "nt", reason="Windows has no such files")


def image(format: str) -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(content, format)
    return content.getvalue()


def tar() -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("storages"))
    return content.getvalue()


def archive(*names: str) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as made:
        for name in names:
            made.writestr(name, "x" * 100)
    return content.getvalue()


def npz() -> bytes:
    content = io.BytesIO()
    np.savez(content, a=np.ones(3))
    return content.getvalue()


def npy() -> bytes:
    content = io.BytesIO()
    np.save(content, np.ones(3))
    return content.getvalue()


def script_module() -> bytes:
    content = io.BytesIO()
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), content)
    return content.getvalue()


def ftyp(brand: bytes) -> bytes:
    return struct.pack(">I", 24) + b"ftyp" + brand + b"\0\0\0\0" + b"x" * 40


KINDS = {
    "png": (lambda: image("PNG"), "a PNG image"),
    "jpeg": (lambda: image("JPEG"), "a JPEG image"),
    "webp": (lambda: image("WEBP"), "a WebP image"),
    "gif": (lambda: image("GIF"), "a GIF image"),
    "bmp": (lambda: image("BMP"), "a BMP image"),
    "tiff": (lambda: image("TIFF"), "a TIFF image"),
    "icon": (lambda: image("ICO"), "an icon"),
    "jpeg 2000": (lambda: b"\0\0\0\x0cjP  \r\n\x87\n" + b"x" * 50, "a JPEG 2000 image"),
    "psd": (lambda: b"8BPS\0\1" + b"\0" * 40, "a Photoshop image"),
    "avif": (lambda: ftyp(b"avif"), "an AVIF image"),
    "heic": (lambda: ftyp(b"heic"), "a HEIC image"),
    "mp4": (lambda: ftyp(b"isom"), "an MP4 or QuickTime video"),
    "webm": (lambda: b"\x1aE\xdf\xa3" + b"x" * 40, "a Matroska or WebM video"),
    "avi": (lambda: b"RIFF\x24\0\0\0AVI LIST" + b"x" * 40, "an AVI video"),
    "wav": (lambda: b"RIFF\x24\0\0\0WAVEfmt " + b"x" * 40, "a WAV sound"),
    "gguf": (lambda: b"GGUF\3\0\0\0" + b"\0" * 40, "a GGUF file"),
    "ggml": (lambda: b"tjgg\3\0\0\0" + b"\0" * 40, "a GGML file"),
    "hdf5": (lambda: b"\x89HDF\r\n\x1a\n" + b"\0" * 40, "an HDF5 file"),
    "npy": (npy, "a NumPy array"),
    "npz": (npz, "NumPy arrays"),
    "onnx": (lambda: b"\x08\x08\x12\x07pytorch\x1a\x052.1.0" + b"x" * 40, "an ONNX or Core ML model"),
    "tflite": (lambda: b"\x1c\0\0\0TFL3" + b"\0" * 40, "a TensorFlow Lite model"),
    "tensorrt": (lambda: b"ftrt\0\0\0\0" + b"\0" * 40, "a TensorRT engine"),
    "msgpack": (lambda: b"\x81\xa6params\x82\xa5dense\x81" + b"\xc7" * 40, "a MessagePack file"),
    "torchscript": (script_module, "a TorchScript archive"),
    "pt2": (lambda: archive("m/archive_format", "m/models/model.json", "m/data/weights/0"), "torch.export"),
    "keras": (lambda: archive("metadata.json", "config.json", "model.weights.h5"), "a Keras model"),
    "core ml": (lambda: archive("Manifest.json", "Data/com.apple.CoreML/model.mlmodel"), "a Core ML model"),
    "zip of weights": (lambda: archive("readme.txt", "mm/mm.safetensors"), "ZIP archive of mm/mm.safetensors; unpack"),
    "zip of a folder": (lambda: archive("sd/model_index.json", "sd/unet/a.bin"), "a diffusers folder; unpack it"),
    "zip of two checkpoints": (lambda: archive("a/data.pkl", "b/data.pkl"), "several checkpoints; unpack"),
    "zip of nothing": (lambda: archive("readme.txt"), "a ZIP archive without weights"),
    "empty zip": (archive, "a ZIP archive with nothing in it"),
    "docx": (lambda: archive("[Content_Types].xml", "word/document.xml"), "a Word document"),
    "xlsx": (lambda: archive("[Content_Types].xml", "xl/workbook.xml"), "an Excel table"),
    "epub": (lambda: archive("mimetype", "META-INF/container.xml"), "a document or program"),
    "tar": (tar, "a tar archive, unpack it"),
    "gzip": (lambda: gzip.compress(b"x" * 50), "a gzip archive, unpack it"),
    "bzip2": (lambda: bz2.compress(b"x" * 50), "a bzip2 archive"),
    "xz": (lambda: lzma.compress(b"x" * 50), "an xz archive"),
    "zstd": (lambda: b"\x28\xb5\x2f\xfd" + b"x" * 50, "a Zstandard archive"),
    "7z": (lambda: b"7z\xbc\xaf\x27\x1c" + b"x" * 50, "a 7-Zip archive"),
    "rar": (lambda: b"Rar!\x1a\x07\x01\0" + b"x" * 50, "a RAR archive"),
    "pdf": (lambda: b"%PDF-1.7\n%\xe2\xe3" + b"x" * 50, "a PDF document"),
    "office": (lambda: b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\0" * 50, "an Office document"),
    "elf": (lambda: b"\x7fELF\2\1\1" + b"\0" * 50, "a program or library of Linux"),
    "exe": (lambda: b"MZ\x90\0" + b"\0" * 60, "a program of Windows"),
    "parquet": (lambda: b"PAR1\x15\x04" + b"x" * 50, "a Parquet table"),
    "arrow": (lambda: b"ARROW1\0\0" + b"x" * 50, "an Arrow table"),
    "torrent": (lambda: b"d8:announce30:udp://x" + b"x" * 50, "a torrent file"),
    "html": (lambda: b"\n <!DOCTYPE html><html><head><title>Sign in</title>", "an HTML page, .*sign in"),
    "xhtml": (lambda: b'<?xml version="1.0"?><!DOCTYPE html><html></html>', "an HTML page"),
    "xml error": (
        lambda: b'<?xml version="1.0"?>\n<Error><Code>AccessDenied</Code><Message>no</Message></Error>',
        r"the error message of a server \(AccessDenied\)",
    ),
    "bare xml error": (lambda: b"<Error><Code>NoSuchKey</Code></Error>", r"a server \(NoSuchKey\)"),
    "openvino": (lambda: b'<?xml version="1.0"?><net name="unet" version="11">', "an XML file, an exported network"),
    "json error": (lambda: b'{"error": "Repository not found"}', r"JSON text, .*a server \(Repository not found\)"),
    "json list": (lambda: b'[{"a": 1}]', "JSON text, not weights"),
    "config": (lambda: b'{"_class_name": "UNet2DConditionModel"}', "JSON text, a configuration; give the weights"),
    "index": (lambda: b'{"metadata": {}, "weight_map": {"a": "b"}}', "index of weights in several files"),
    "entry not found": (lambda: b"Entry not found", "the answer of a server, 'Entry not found'"),
    "401": (lambda: b"Invalid username or password.", "the answer of a server, 'Invalid username"),
    "gated": (lambda: b"Access to model x/y is restricted. You must be authenticated.", "the answer of a server"),
    "rate limit": (lambda: b"error code: 1015\n", "the answer of a server"),
    "404": (lambda: b"404: Not Found", "the answer of a server"),
    "lfs": (lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "Git LFS .*`git lfs pull`"),
    "xet": (lambda: b"# xet version 0\nfilesize = 12\nhash = 'a'\n", "a Xet pointer"),
    "annex": (lambda: b"/annex/objects/SHA256E-s12--a.ckpt\n", "a git-annex pointer"),
    "yaml": (lambda: b"model:\n  target: ldm\n  params:\n    a: 1\n", "text that begins with 'model:'"),
    "german": (lambda: "Größe: 3\nZeile\nZeile\nZeile\n".encode(), "text that begins with 'Größe: 3'"),
    "utf-16": (lambda: "model: a\n".encode("utf-16"), "text that begins with 'model: a'"),
    "cut text": (lambda: ("a" * 1023 + "ö" * 400).encode(), "text that begins with 'aaa"),
    "escapes": (lambda: b"\x1b[31mred", r"begins with the bytes 1b 5b"),
    "script": (lambda: b"#!/bin/sh\necho\n", "a script"),
    "space": (lambda: b" \n\n ", "nothing but space"),
    "empty": (lambda: b"", r"empty \(0 bytes\)"),
    "zeros": (lambda: b"\0" * 3000, "nothing but zero bytes"),
    "noise": (lambda: bytes(range(147, 256)), "begins with the bytes 93 94 95"),
}  # fmt: skip


@pytest.mark.parametrize("suffix", [".ckpt", ".safetensors"])
@pytest.mark.parametrize("name", KINDS)
def test_each_format_is_called_what_it_is(tmp_path: Path, name: str, suffix: str) -> None:
    make, message = KINDS[name]
    path = tmp_path / f"mm{suffix}"
    path.write_bytes(make())
    with pytest.raises(UserError, match=rf"^{re.escape(str(path))}: .*{message}") as raised:
        read_header(path)
    assert "would run code" not in str(raised.value) and "\n" not in str(raised.value)
    assert ("damaged" in str(raised.value)) == (name in ("noise", "escapes") and suffix == ".safetensors")


def test_a_database(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "a.bin") as connection:
        connection.execute("create table a (b)")
    connection.close()
    with pytest.raises(UserError, match="an SQLite database"):
        read_header(tmp_path / "a.bin")


# Names that lead to no file


@POSIX
def test_pipes_sockets_and_devices_are_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "p.safetensors")
    with socket.socket(socket.AF_UNIX) as bound:
        monkeypatch.chdir(tmp_path)  # names of sockets are short
        bound.bind("s.safetensors")
        for path, kind in (("p.safetensors", "pipe"), ("s.safetensors", "socket"), ("/dev/null", "device")):
            for look in (read_header, describe, load_tensors):
                with pytest.raises(UserError, match=f"{path}: a {kind}, not a file"):
                    look(path)


@POSIX
def test_pipes_in_folders_are_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "diffusion_pytorch_model.safetensors")
    with pytest.raises(UserError, match="a pipe, not a file"):
        describe(tmp_path)
    (tmp_path / "diffusion_pytorch_model.safetensors").unlink()
    save_tensors(tmp_path / "diffusion_pytorch_model.safetensors", {"a": torch.ones(2)})
    os.mkfifo(tmp_path / "config.json")
    assert describe(tmp_path)["tensors"] == 1


@POSIX
def test_links_that_lead_nowhere(tmp_path: Path) -> None:
    dangling, loop, good = tmp_path / "a.safetensors", tmp_path / "b.safetensors", tmp_path / "c.safetensors"
    dangling.symlink_to("../blobs/0123")
    loop.symlink_to(loop)
    for look in (read_header, describe):
        with pytest.raises(UserError, match=r"a link to \.\./blobs/0123, which does not exist") as raised:
            look(dangling)
        assert "did you mean" not in str(raised.value)
        with pytest.raises(UserError, match="a link that leads back to itself"):
            look(loop)
    save_tensors(tmp_path / "d.safetensors", {"a": torch.ones(2)})
    good.symlink_to("d.safetensors")
    assert load_tensors(good)["a"].tolist() == [1, 1]


@pytest.mark.parametrize("look", [read_header, describe])
def test_names_that_are_none(tmp_path: Path, look: object) -> None:
    assert callable(look)
    (tmp_path / "a.ckpt").write_bytes(b"x")
    for name, message in (
        (tmp_path / "a.ckpt" / "b.ckpt", r"a\.ckpt is a file, not a folder"),
        (tmp_path / "a.ckpt" / "b" / "c.ckpt", r"a\.ckpt is a file, not a folder"),
        (tmp_path / ("a" * 400), "too long"),
        ("", "an empty name"),
        ("  ", "an empty name"),
        ("~nobody-of-this-name/a.ckpt", "no user ~nobody-of-this-name"),
        ("a\0b", "cannot be read: embedded null"),
    ):
        with pytest.raises(UserError, match=message):
            look(name)


def test_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    save_tensors(tmp_path / "a.safetensors", {"a": torch.ones(2)})
    assert read_header("~/a.safetensors").path == tmp_path / "a.safetensors"


@POSIX
def test_names_that_would_change_the_terminal_are_shown_as_escapes(tmp_path: Path) -> None:
    for name, shown in (("a\x1b[31m.ckpt", r"a\x1b[31m.ckpt"), ("a\nb.ckpt", r"a\nb.ckpt"), ("a\udcff", r"a\udcff")):
        (tmp_path / name).write_bytes(b"GGUF")
        with pytest.raises(UserError) as raised:
            read_header(tmp_path / name)
        assert str(raised.value).startswith(f"{tmp_path}/{shown}: a GGUF file")


def test_escape_sequences_of_a_file_do_not_reach_the_terminal(tmp_path: Path) -> None:
    save_tensors(tmp_path / "a.safetensors", {"a\x1b[31m": torch.ones(2)}, {"note": "\x1b]0;title\x07"})
    done = CliRunner().invoke(app, ["inspect", str(tmp_path / "a.safetensors")])
    assert done.exit_code == 0 and "\x1b" not in done.output and r"a\x1b[31m [2]" in done.output
    done = CliRunner().invoke(app, ["inspect", str(tmp_path / "b\x1b[31m.safetensors")])
    assert done.exit_code == 2 and "\x1b" not in done.output and r"b\x1b[31m.safetensors: no such file" in done.output


@pytest.mark.parametrize("name", ["~nobody-of-this-name/a.ckpt", "a" * 400, "", "nothing.ckpt"])
def test_one_message_on_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    commands = [["inspect", name], ["convert", name, "o.safetensors"]]
    for command in [*commands, ["animate", "a cat", "--motion-module", name]] if name else commands:
        done = CliRunner().invoke(app, command)
        assert done.exit_code == 2, (command, done.output, done.exception)
        assert "Traceback" not in done.output and done.output.strip()


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads everything")
def test_files_and_folders_without_permission(tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir()
    (tmp_path / "locked" / "a.ckpt").write_bytes(b"x")
    (tmp_path / "locked").chmod(0)
    try:
        with pytest.raises(UserError, match="permission denied"):
            read_header(tmp_path / "locked" / "a.ckpt")
        with pytest.raises(UserError, match="permission denied; make the folder readable"):
            describe(tmp_path / "locked")
    finally:
        (tmp_path / "locked").chmod(0o700)


# Downloads that are not whole, files that change


def test_a_download_that_aria2_has_not_finished(tmp_path: Path) -> None:
    """Its size may be right already, with zeros where nothing has come yet."""
    save_tensors(tmp_path / "a.safetensors", {"a": torch.ones(2)})
    (tmp_path / "a.safetensors.aria2").touch()
    with pytest.raises(UserError, match=r"aria2 has not finished it, as a\.safetensors\.aria2 beside it says"):
        read_header(tmp_path / "a.safetensors")


@pytest.mark.parametrize("suffix", [".crdownload", ".part", ".incomplete"])
def test_names_of_unfinished_downloads(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.safetensors{suffix}"
    save_tensors(tmp_path / "a.safetensors", {"a": torch.ones(200)})
    content = (tmp_path / "a.safetensors").read_bytes()
    path.write_bytes(content)
    assert load_tensors(path)["a"].shape == (200,), "a name says less than a whole content"
    path.write_bytes(content[:-50])
    with pytest.raises(UserError, match=rf"truncated: .*name ends in \{suffix}, .*unfinished download"):
        read_header(path)


def test_a_file_that_changes_after_a_look_is_not_loaded(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_tensors(path, {"a": torch.ones(2)})
    header = read_header(path)
    save_tensors(path, {"b": torch.zeros(2)})
    os.utime(path, ns=(1, 1))
    with pytest.raises(UserError, match="has changed since it was looked at"):
        load_tensors(header)
    path.unlink()
    with pytest.raises(UserError, match="cannot be read to the end"):
        load_tensors(header)
