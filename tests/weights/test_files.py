"""Reading and writing weight files: every mistake has its message, nothing runs, nothing is left half written."""

from __future__ import annotations

import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from animatediff.errors import UserError
from animatediff.weights.motion import load_motion_module
from animatediff.weights.storage.files import load_tensors, read_header, save_tensors

HAS_RUN: list[str] = []


def tensors() -> dict[str, torch.Tensor]:
    base = torch.arange(24.0).reshape(4, 6)
    return {
        "plain": base.clone(),
        "transposed": base.t(),
        "view": base[1:3],
        "bfloat16": base.bfloat16(),
        "scalar": torch.tensor(3),
        "empty": torch.empty(0, 3),
        "flags": base > 3,
    }


def assert_same(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> None:
    assert found.keys() == wanted.keys()
    for key, tensor in wanted.items():
        assert found[key].dtype == tensor.dtype
        assert torch.equal(found[key], tensor), key


def run_me(note: str) -> str:
    HAS_RUN.append(note)
    return note


class Payload:
    """Unpickled carelessly, it calls `function(*args)`."""

    def __init__(self, function: Any, *args: Any) -> None:
        self.call = function, args

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.call


@pytest.mark.parametrize("name", ["a.safetensors", "a.ckpt", "a.pt"])
def test_saved_tensors_come_back_bit_for_bit(tmp_path: Path, name: str) -> None:
    save_tensors(tmp_path / name, tensors(), {"said": "so"})
    assert_same(load_tensors(tmp_path / name), tensors())
    header = read_header(tmp_path / name)
    assert header.metadata["said"] == "so"
    assert {key: info.shape for key, info in header.tensors.items()} == {
        k: tuple(t.shape) for k, t in tensors().items()
    }
    assert [path.name for path in tmp_path.iterdir()] == [name], "no temporary file stays"


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_files_of_torch_save_are_read_as_torch_reads_them(tmp_path: Path, zipped: bool) -> None:
    path = tmp_path / "a.ckpt"
    torch.save(tensors() | {"p": torch.nn.Parameter(torch.ones(2))}, path, _use_new_zipfile_serialization=zipped)
    assert_same(load_tensors(path), torch.load(path, weights_only=True))


def test_archive_that_somebody_compressed_again(tmp_path: Path) -> None:
    torch.save(tensors(), tmp_path / "a.ckpt")
    with (
        zipfile.ZipFile(tmp_path / "a.ckpt") as old,
        zipfile.ZipFile(tmp_path / "b.ckpt", "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for name in old.namelist():
            new.writestr(name, old.read(name))
    assert_same(load_tensors(tmp_path / "b.ckpt"), tensors())


def test_wrappers_prefixes_and_other_objects(tmp_path: Path) -> None:
    torch.save(
        {"epoch": 3, "state_dict": {"state_dict": {"module.a.b": torch.ones(2), "note": [1, {2}]}}, "optimizer": {}},
        tmp_path / "a.ckpt",
    )
    header = read_header(tmp_path / "a.ckpt")
    assert list(header.tensors) == ["a.b"]
    assert header.metadata["epoch"] == "3"


def test_only_the_keys_asked_for_and_one_dtype(tmp_path: Path) -> None:
    save_tensors(tmp_path / "a.safetensors", tensors())
    found = load_tensors(tmp_path / "a.safetensors", ["plain", "scalar"], dtype=torch.float16)
    assert {key: tensor.dtype for key, tensor in found.items()} == {"plain": torch.float16, "scalar": torch.int64}
    with pytest.raises(UserError, match="did you mean 'plain'"):
        load_tensors(tmp_path / "a.safetensors", ["plian"])


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize(
    "payload",
    [
        Payload(run_me, "own function"),
        Payload(os.system, "exit 3"),
        Payload(eval, "1 + 1"),
        Payload(getattr, "", "join"),
    ],
    ids=["function", "system", "eval", "getattr"],
)
def test_pickle_with_code_is_refused_and_not_run(tmp_path: Path, payload: Payload, zipped: bool) -> None:
    HAS_RUN.clear()
    path = tmp_path / "evil.ckpt"
    torch.save({"a": torch.ones(2), "b": payload}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(UserError, match="would run code"):
        read_header(path)
    assert HAS_RUN == []


def test_bare_pickle_with_code_is_refused(tmp_path: Path) -> None:
    HAS_RUN.clear()
    (tmp_path / "evil.ckpt").write_bytes(pickle.dumps(Payload(run_me, "bare")))
    with pytest.raises(UserError, match="would run code"):
        read_header(tmp_path / "evil.ckpt")
    assert HAS_RUN == []


def test_inert_objects_cannot_be_called_into_action(tmp_path: Path) -> None:
    """A module of the short list (omegaconf) gives no way to its functions either."""
    code = b"\x80\x02comegaconf\nOmegaConf.load\n(S'x'\ntR."
    (tmp_path / "a.ckpt").write_bytes(code)
    with pytest.raises(UserError):
        read_header(tmp_path / "a.ckpt")


BAD = {
    "html": (b"<!DOCTYPE html><html><body>Sign in</body></html>", "HTML page"),
    "html after space": (b"\n\n  <html>", "HTML page"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1673262583\n", "Git LFS pointer"),
    "json": (b'{"error": "Repository not found"}', "JSON text"),
    "empty": (b"", "0 bytes"),
    "zeros": (b"\0" * 5000, "zero bytes"),
    "picture": (b"\x89PNG\r\n\x1a\n" + b"x" * 50, "PNG image"),
    "gguf": (b"GGUF" + b"x" * 50, "GGUF"),
    "noise": (b"\x93\x01\x07 no weights at all", "damaged or truncated"),
    "text": (b"hello there, this is text\n", "damaged or truncated"),
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("suffix", [".ckpt", ".safetensors"])
def test_what_is_no_weight_file_is_called_what_it_is(tmp_path: Path, name: str, suffix: str) -> None:
    content, message = BAD[name]
    path = tmp_path / f"mm{suffix}"
    path.write_bytes(content)
    with pytest.raises(UserError) as raised:
        read_header(path)
    assert str(path) in str(raised.value)
    if name not in ("json", "noise", "text"):  # these depend on the name as well
        assert message in str(raised.value)


@pytest.mark.parametrize("name", ["a.safetensors", "a.ckpt", "legacy.ckpt"])
def test_truncated_files_are_said_to_be(tmp_path: Path, name: str) -> None:
    whole = tmp_path / name
    big = {"a": torch.ones(400, 10), "b": torch.ones(300)}
    if name == "legacy.ckpt":
        torch.save(big, whole, _use_new_zipfile_serialization=False)
    else:
        save_tensors(whole, big)
    content = whole.read_bytes()
    for length in (len(content) - 1, len(content) // 2, 60):
        whole.write_bytes(content[:length])
        with pytest.raises(UserError, match=r"truncated|damaged"):
            read_header(whole)


def test_missing_file_names_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "mm_sd_v15_v2.ckpt").touch()
    with pytest.raises(UserError, match=r"did you mean .*mm_sd_v15_v2\.ckpt"):
        read_header(tmp_path / "mm_sd_v15v2.ckpt")
    with pytest.raises(UserError, match="no folder"):
        read_header(tmp_path / "nowhere" / "a.ckpt")


def test_folder_and_unreadable_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="a folder, but a file is expected"):
        read_header(tmp_path)
    locked = tmp_path / "a.ckpt"
    locked.write_bytes(b"x")
    locked.chmod(0)
    if not os.access(locked, os.R_OK):  # root reads everything
        with pytest.raises(UserError, match="permission denied"):
            read_header(locked)


@pytest.mark.parametrize("name", ["a.safetensors", "a.SafeTensors"])
def test_pickle_named_safetensors_loads_with_a_note(tmp_path: Path, name: str) -> None:
    torch.save(tensors(), tmp_path / name)
    header = read_header(tmp_path / name)
    assert header.format == "pickle" and "pickled checkpoint" in header.notes[0]
    assert_same(load_tensors(header), tensors())


@pytest.mark.parametrize("name", ["a.ckpt", "a.bin", "a.SAFETENSORS", "a"])
def test_safetensors_of_any_name_load(tmp_path: Path, name: str) -> None:
    save_tensors(tmp_path / "a.safetensors", tensors())
    (tmp_path / "a.safetensors").rename(tmp_path / name)
    header = read_header(tmp_path / name)
    assert header.format == "safetensors"
    assert bool(header.notes) == (name in ("a.ckpt", "a.bin")), "a name of another format is noted"
    assert_same(load_tensors(header), tensors())


@pytest.mark.parametrize("name", ["a.SAFETENSORS", "a.CKPT"])
def test_names_in_capitals_are_written_as_what_they_say(tmp_path: Path, name: str) -> None:
    save_tensors(tmp_path / name, tensors())
    assert read_header(tmp_path / name).format == ("safetensors" if "SAFE" in name else "pickle")
    assert_same(load_tensors(tmp_path / name), tensors())


def test_headers_that_claim_too_much_cost_nothing(tmp_path: Path) -> None:
    """Lengths in a file are claims: none is allocated before it is checked."""
    (tmp_path / "a.ckpt").write_bytes(
        b"\x80\x04\x96" + (2**40).to_bytes(8, "little") + b"x."
    )  # BYTEARRAY8 of a terabyte
    (tmp_path / "b.ckpt").write_bytes(b"\x80\x04Nr\xff\xff\xff\xff.")  # LONG_BINPUT into memo slot 2**32
    for name in ("a.ckpt", "b.ckpt"):
        with pytest.raises(UserError):
            read_header(tmp_path / name)


@pytest.mark.parametrize("name", ["a.safetensors", "a.ckpt"])
def test_failed_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_tensors(tmp_path / name, {"a": torch.ones(2)})
    before = (tmp_path / name).read_bytes()

    def full(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(UserError, match="No space left"):
        save_tensors(tmp_path / name, {"a": torch.zeros(2)})
    assert (tmp_path / name).read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", ["a.safetensors", "a.ckpt"])
def test_full_disk(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import animatediff.weights.storage.files as files

    def half(path: Path, *args: Any) -> None:
        path.write_bytes(b"half a file")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "_write", half)
    with pytest.raises(UserError, match=r"could not be written .*No space left"):
        save_tensors(tmp_path / name, {"a": torch.ones(100_000)})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such permissions")
@pytest.mark.parametrize("name", ["a.safetensors", "a.ckpt"])
def test_others_may_read_what_the_umask_lets_them(tmp_path: Path, name: str) -> None:
    before = os.umask(0o022)
    try:
        save_tensors(tmp_path / name, {"a": torch.ones(2)})
    finally:
        os.umask(before)
    assert (tmp_path / name).stat().st_mode & 0o777 == 0o644


def test_targets_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="must end in"):
        save_tensors(tmp_path / "a.txt", tensors())
    with pytest.raises(UserError, match="no folder"):
        save_tensors(tmp_path / "x" / "a.ckpt", tensors())


def test_long_names_are_written_as_far_as_the_file_system_has_room(tmp_path: Path) -> None:
    path = tmp_path / ("a" * 240 + ".ckpt")
    save_tensors(path, tensors())
    assert_same(load_tensors(path), tensors())
    with pytest.raises(UserError, match="could not be written"):
        save_tensors(tmp_path / ("a" * 400 + ".ckpt"), tensors())
    assert list(tmp_path.iterdir()) == [path]


def test_loading_holds_one_copy(tmp_path: Path) -> None:
    """Tensors are filled in place: none of them shares memory with a mapped file that could change underneath."""
    path = tmp_path / "a.safetensors"
    save_tensors(path, {"a": torch.ones(1000)})
    loaded = load_tensors(path)["a"]
    path.write_bytes(b"\0" * path.stat().st_size)
    assert torch.equal(loaded, torch.ones(1000))


def test_a_missing_motion_module_is_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        load_motion_module(tmp_path / "mm.ckpt")
