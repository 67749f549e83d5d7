"""Pickles of torch.save: harmless ones load whatever stands beside the tensors, nothing is run, nothing runs away."""

from __future__ import annotations

import argparse
import collections
import dataclasses
import datetime
import decimal
import enum
import functools
import io
import logging
import pathlib
import pickle
import re
import struct
import types
import uuid
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from animatediff.errors import UserError
from animatediff.weights.storage.files import load_tensors, read_header

ZIPPED = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])


class Color(enum.Enum):
    RED = 1


class Flags(enum.Flag):
    ON = 1


@dataclasses.dataclass
class Settings:
    """A class that only the program that trained the weights has."""

    rank: int = 4


class Subclass(torch.Tensor):
    pass


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(2, 3)
        self.body = torch.nn.Sequential(torch.nn.Conv2d(1, 1, 1), torch.nn.BatchNorm1d(3))
        self.register_buffer("passing", torch.ones(2), persistent=False)


def save(path: Path, content: object, *, zipped: bool = True, protocol: int = 2) -> Path:
    torch.save(content, path, _use_new_zipfile_serialization=zipped, pickle_protocol=protocol)
    return path


def with_attribute() -> torch.Tensor:
    tensor = torch.tensor([1.0, 2.0])
    tensor.tag = Settings()  # type: ignore[attr-defined]
    return tensor


def parameter_with_state() -> torch.nn.Parameter:
    parameter = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
    parameter.tag = "x"  # type: ignore[attr-defined]
    return parameter


TENSORS = {
    "attribute": with_attribute(),
    "parameter": torch.nn.Parameter(torch.tensor([1.0, 2.0])),
    "parameter with state": parameter_with_state(),
    "buffer": torch.nn.Buffer(torch.tensor([1.0, 2.0])),
    "subclass": torch.tensor([1.0, 2.0]).as_subclass(Subclass),
    "expanded rows": torch.tensor([1.0, 2.0]).expand(3, 2),
    "expanded columns": torch.tensor([[1.0], [2.0]]).expand(2, 4),
    "one number": torch.tensor(3.0).expand(2, 2),
    "overlapping": torch.arange(6.0).as_strided((3, 3), (1, 1)),
    "strided": torch.arange(20.0).view(4, 5)[::2, 1::2],
    "permuted": torch.arange(24.0).view(2, 3, 4).permute(2, 0, 1),
    "end of a storage": torch.arange(10.0)[7:],
    "nothing at the end": torch.arange(10.0)[10:],
    "empty": torch.empty(3, 0, 2)[1:],
    "scalar": torch.tensor(2, dtype=torch.int16),
    "complex": torch.tensor([1 + 2j]),
    "bool": torch.tensor([True, False]),
}


@ZIPPED
@pytest.mark.parametrize("name", TENSORS)
def test_views_and_wrapped_tensors_load_as_torch_loads_them(tmp_path: Path, name: str, zipped: bool) -> None:
    path = save(tmp_path / "a.pt", {"a": TENSORS[name], "after": torch.ones(2)}, zipped=zipped)
    wanted = torch.load(path, weights_only=False)
    found = load_tensors(path)
    assert torch.equal(found["a"], wanted["a"]) and found["a"].dtype == wanted["a"].dtype
    assert found["a"].is_contiguous() and type(found["a"]) is torch.Tensor
    assert torch.equal(found["after"], torch.ones(2))


@pytest.mark.filterwarnings("ignore:ComplexHalf")
@pytest.mark.parametrize(
    "dtype",
    ["float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "uint16", "uint32", "uint64", "complex32"],
)
def test_dtypes_that_torch_has_load(tmp_path: Path, dtype: str) -> None:
    tensor = torch.tensor([1.0, 2.0, 3.0]).to(getattr(torch, dtype))
    path = save(tmp_path / "a.pt", {"a": tensor[1:], "whole": tensor})
    found, wanted = load_tensors(path), torch.load(path)
    assert read_header(path).tensors["a"].dtype == dtype and found["a"].dtype == tensor.dtype
    for key in ("a", "whole"):
        assert torch.equal(found[key].view(torch.uint8), wanted[key].view(torch.uint8))


REFUSED = {
    "sparse": (lambda: torch.eye(3).to_sparse(), (3, 3), "float32", "sparse"),
    "sparse rows": (lambda: torch.eye(3).to_sparse_csr(), (3, 3), "float32", "sparse"),
    "quantized": (
        lambda: torch.quantize_per_tensor(torch.ones(2, 3), 0.1, 0, torch.quint8),
        (2, 3),
        "quint8",
        "quantized",
    ),
    "meta": (lambda: torch.ones(2, 3, device="meta"), (2, 3), "float32", "without numbers"),
    "nested": (lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]), (5,), "float32", "nested"),
    "conjugated": (lambda: torch.ones(2, dtype=torch.complex64).conj(), (2,), "complex64", "resolve_conj"),
    "negated": (lambda: torch._neg_view(torch.ones(2)), (2,), "float32", "resolve_neg"),
    "bits": (lambda: torch.zeros(4, dtype=torch.uint8).view(torch.bits8), (4,), "bits8", "number format bits8"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", REFUSED)
def test_tensors_of_other_kinds_are_listed_and_refused_by_name(tmp_path: Path, name: str) -> None:
    make, shape, dtype, word = REFUSED[name]
    header = read_header(save(tmp_path / "a.pt", {"plain": torch.ones(2), "odd": make()}))
    assert (header.tensors["odd"].shape, header.tensors["odd"].dtype) == (shape, dtype)
    assert load_tensors(header, ["plain"])["plain"].tolist() == [1, 1], "the others are as good as ever"
    with pytest.raises(UserError, match=rf"tensor 'odd' is .*{word}"):
        load_tensors(header)


OBJECTS = {
    "numpy": {"scalar": np.float64(1), "array": np.arange(3), "dtype": np.dtype("f4"), "rng": np.random.default_rng(0)},
    "standard": [
        collections.Counter("aab"), collections.defaultdict(list, {1: [2]}), collections.OrderedDict(a=1),
        collections.deque([1]), datetime.datetime.now(datetime.timezone.utc), datetime.timedelta(1),
        decimal.Decimal("1.5"), uuid.uuid4(), pathlib.PurePosixPath("a"), argparse.Namespace(a=1), re.compile("a"),
        types.SimpleNamespace(a=1), functools.partial(torch.nn.functional.gelu, approximate="tanh"), ValueError("x"),
        logging.getLogger("x"), {1, 2}, frozenset([1]), slice(1), range(3), 1j, b"abc", bytearray(b"abc"), ..., 10**30,
        type(None), {(1, "a"): 2, None: 3, 1.5: 4},
    ],
    "torch": [torch.Size([1]), torch.device("cpu"), torch.float16, torch.float8_e4m3fnuz, torch.qint8, torch.strided],
    "own": [Color.RED, Flags.ON, Settings(), Settings],
    "functions": [torch.nn.functional.gelu, save],
    "modules": [torch.nn.SiLU()],
}  # fmt: skip


@ZIPPED
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("name", OBJECTS)
def test_objects_beside_the_tensors_do_no_harm(tmp_path: Path, name: str, protocol: int, zipped: bool) -> None:
    content = {"a": torch.ones(2), "beside": OBJECTS[name], "b": torch.zeros(3)}
    header = read_header(save(tmp_path / "a.ckpt", content, zipped=zipped, protocol=protocol))
    assert [list(tensor) for tensor in load_tensors(header).values()] == [[1, 1], [0, 0, 0]]
    if name == "own":
        assert re.search(r"data of class .*Settings \(1\)", header.notes[-1]), "which are passed over is said"


def test_classes_of_programs_that_are_not_here_are_passed_over(tmp_path: Path) -> None:
    """pytorch_lightning, omegaconf and classes of the training script: their modules need not exist."""
    pickled = io.BytesIO()
    pickler = pickle.Pickler(pickled, 2)
    pickler.dump({"a": 1})
    code = (
        b"\x80\x02}(X\x05\0\0\0callb"
        b"cpytorch_lightning.callbacks.model_checkpoint\nModelCheckpoint\n)\x81}X\x04\0\0\0bestK\1sb"
        b"X\x05\0\0\0hyperccommon.options\nTrainOptions\n)R"
        b"X\x04\0\0\0confcomegaconf.dictconfig\nDictConfig\n)\x81}X\x08\0\0\0_content}sb"
        b"u."
    )
    save(tmp_path / "a.ckpt", {"a": 1})
    replace(tmp_path / "a.ckpt", "data.pkl", code)
    header = read_header(tmp_path / "a.ckpt")
    assert "common.options.TrainOptions (1)" in header.notes[0] and "ModelCheckpoint (1)" in header.notes[0]


def replace(path: Path, member: str, content: bytes) -> None:
    """Put other content into one member of a torch.save archive, or add it."""
    with zipfile.ZipFile(path) as old:
        members = {name: old.read(name) for name in old.namelist()}
    folder = next(iter(members)).split("/")[0]
    with zipfile.ZipFile(path, "w") as new:
        for name, data in (members | {f"{folder}/{member}": content}).items():
            new.writestr(name, data)


@pytest.mark.parametrize(
    "code",
    [
        b"cos\nsystem\n(S'exit 3'\ntR.",
        b"cposix\nsystem\n(S'exit 3'\ntR.",
        b"(S'exit 3'\nios\nsystem\n.",
        b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x06exit 3\x85R.",
        b"\x80\x04\x8c\x09omegaconf\x8c\x09os.system\x93\x8c\x06exit 3\x85R.",
        b"\x80\x02cbuiltins\nexec\n(X\x04\0\0\0pass\x85R.",
        b"\x80\x02c__builtin__\neval\nX\x01\0\0\x001\x85R.",
        b"\x80\x02csubprocess\nPopen\nX\x02\0\0\0ls\x85R.",
        b"\x80\x02cbuiltins\ngetattr\nctorch\nload\nX\x08\0\0\0__call__\x86RX\x01\0\0\0a\x85R.",
        b"\x80\x02ctorch.hub\nload\nX\x01\0\0\0a\x85R.",
        b"\x80\x02ctrain\nbuild_everything\n)R.",
        b"\x80\x02cfunctools\npartial\nctrain\nbuild\n\x85R)R.",
        b"\x80\x02cnumpy.testing._private.utils\nrunstring\nX\x01\0\0\0a}\x86R.",
    ],
)
@ZIPPED
def test_what_would_run_code_is_refused(tmp_path: Path, code: bytes, zipped: bool) -> None:
    path = tmp_path / "a.ckpt"
    if zipped:
        save(path, {"a": torch.ones(2)})
        replace(path, "data.pkl", code)
    else:
        path.write_bytes(code)
    with pytest.raises(UserError, match=r"would run code.*Nothing of it was run"):
        read_header(path)


def test_a_state_that_a_pickle_gives_to_a_tensor_changes_nothing(tmp_path: Path) -> None:
    """BUILD on a stand-in could move a tensor out of its storage, if it were done."""
    rebuild = (
        b"ctorch._utils\n_rebuild_tensor_v2\n((X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000"
        b"X\x03\0\0\0cpuK\2tQK\0K\2\x85K\1\x85\x89ccollections\nOrderedDict\n)RtR"
    )
    code = b"\x80\x02}X\x01\0\0\0a" + rebuild + b"}X\x06\0\0\0offsetM\x10'sbs."
    save(tmp_path / "a.ckpt", {"a": torch.tensor([5.0, 6.0])})
    replace(tmp_path / "a.ckpt", "data.pkl", code)
    assert load_tensors(tmp_path / "a.ckpt")["a"].tolist() == [5, 6]


def doubling(times: int, last: bytes) -> bytes:
    """Tuples of two that hold the one before twice: small, but without end for those who look at each."""
    steps = b"".join(b"h%ch%c\x86q%c0" % (i, i, i + 1) for i in range(times))
    return b"\x80\x02)q\x000" + steps + last


@pytest.mark.parametrize(
    "code",
    [
        doubling(60, b"}h\x3cK\1s."),  # as a key, whose hash is that of every part
        doubling(60, b"cbuiltins\nstr\nh\x3c\x85R."),
        doubling(60, b"cbuiltins\nset\n]h\x3ca\x85R."),
        doubling(60, b"\x8f(h\x3c\x90."),
        doubling(60, b"}X\x01\0\0\0ah\x3cs."),  # as a value, in which tensors are looked for
        b"\x80\x02](" + b"N" * 100_000 + b"eq\0" + b"cbuiltins\nlist\nh\0\x85R0" * 5000 + b".",
        b"\x80\x02}X\x01\0\0\0aL" + b"9" * 100_000 + b"L\ns.",
        b"\x80\x02}X\x01\0\0\0a\x8b\0\1\0\0" + b"\x7f" * 256 + b"s.",
        b"\x80\x02" + b"]" * 200_000 + b"a" * 199_999 + b".",
        b"\x80\x04\x8e" + (2**62).to_bytes(8, "little") + b".",
        b"\x80\x05\x96" + (2**62).to_bytes(8, "little") + b".",
        b"\x80\x04\x95" + (2**62).to_bytes(8, "little") + b"N.",
        b"\x80\x02r\xff\xff\xff\xff.",
    ],
    ids=[
        "key", "str", "set", "additems", "value", "copies", "decimal", "long", "nested", "bytes", "bytearray", "frame",
        "memo",
    ],
)  # fmt: skip
def test_pickles_that_claim_or_repeat_without_end_cost_little(tmp_path: Path, code: bytes) -> None:
    save(tmp_path / "a.ckpt", {"a": torch.ones(2)})
    replace(tmp_path / "a.ckpt", "data.pkl", code)
    try:
        header = read_header(tmp_path / "a.ckpt")
    except UserError:
        return
    assert header.tensors == {}


def test_a_view_that_claims_to_be_huge_is_not_made(tmp_path: Path) -> None:
    huge = torch.ones(1).expand(2**20, 2**20)
    header = read_header(save(tmp_path / "a.ckpt", {"a": huge, "b": torch.ones(2)}))
    assert load_tensors(header, ["b"])["b"].tolist() == [1, 1]
    with pytest.raises(UserError, match=r"'a' is a view of 4 bytes that claims to be 4,398,046,511,104"):
        load_tensors(header)


def test_numbers_of_a_big_endian_machine_load_as_torch_loads_them(tmp_path: Path) -> None:
    content = {
        "a": torch.arange(6.0).view(2, 3).t(), "half": torch.arange(4).half(), "c": torch.tensor([1 + 2j]),
        "byte": torch.arange(3, dtype=torch.uint8), "long": torch.arange(3),
    }  # fmt: skip
    path = save(tmp_path / "a.ckpt", content)
    with zipfile.ZipFile(path) as archive:
        stored = {name: archive.read(name) for name in archive.namelist() if "/data/" in name}
    swapped = dict(zip(stored, (4, 2, 4, 1, 8), strict=True))
    for name, data in stored.items():
        numbers = np.frombuffer(data, dtype=f"u{swapped[name]}").byteswap()
        replace(path, name.split("/", 1)[1], numbers.tobytes())
    replace(path, "byteorder", b"big")
    found, loaded = load_tensors(path), torch.load(path)
    for key, tensor in content.items():
        assert torch.equal(found[key], tensor) and torch.equal(loaded[key], tensor)


def test_storages_that_are_parts_of_others(tmp_path: Path) -> None:
    """Before torch 0.4 a storage could begin inside of another: (key, first, length) of the part stands in its id."""
    save(tmp_path / "a.ckpt", {"a": torch.arange(6.0)}, zipped=False)
    content = (tmp_path / "a.ckpt").read_bytes()
    part = b"N" + b"t"  # the last of the id's six entries, and the end of the tuple
    at = content.index(part, content.index(b"FloatStorage"))
    content = content[:at] + b"X\x01\0\0\x001K\2K\4\x87t" + content[at + 2 :]
    assert content.count(b"K\6\x85") == 1, "its shape"
    (tmp_path / "a.ckpt").write_bytes(content.replace(b"K\6\x85", b"K\4\x85"))
    assert load_tensors(tmp_path / "a.ckpt")["a"].tolist() == [2, 3, 4, 5]


@ZIPPED
def test_storages_of_objects_that_are_passed_over_keep_their_place(tmp_path: Path, zipped: bool) -> None:
    """In the older layout storages follow each other: those that nobody reads count all the same."""
    hidden = {"x": [Color.RED, (torch.arange(7), {"y": torch.ones(3)})]}
    path = save(tmp_path / "a.ckpt", {"o": hidden, "state_dict": {"a": torch.arange(3.0)}}, zipped=zipped)
    header = read_header(path)
    assert load_tensors(header)["a"].tolist() == [0, 1, 2]
    assert header.notes[0] == "passed over: 2 tensors beside 'state_dict' (in o)"


def test_whole_models_give_the_tensors_of_their_state(tmp_path: Path) -> None:
    net = Net()
    for content, prefix in ((net, ""), ({"model": net, "epoch": 3}, ""), ({"generator": net}, "generator.")):
        header = read_header(save(tmp_path / "a.pt", content))
        wanted = {f"{prefix}{key}": tensor for key, tensor in net.state_dict().items()}
        found = load_tensors(header)
        assert found.keys() == wanted.keys() and all(torch.equal(found[key], wanted[key]) for key in wanted)


@pytest.mark.parametrize(
    ("content", "what"),
    [([1, 2], "list"), ("text", "str"), (3, "int"), (Settings(), r"\w*\.?test_pickles\.Settings"), (None, "NoneType")],
)
def test_pickles_of_something_else_are_called_what_they_are(tmp_path: Path, content: object, what: str) -> None:
    with pytest.raises(UserError, match=rf"a pickle of (?:[\w.]*\.)?{what}, not of named tensors"):
        read_header(save(tmp_path / "a.pt", content))


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    ("content", "what"),
    [
        ({"a": torch.ones(2)}, "a dict with tensors"),
        ({"a": np.ones(2)}, "a dict with NumPy arrays"),
        (Settings(), r"an object of class [\w.]*Settings"),
        ([1], "a list"),
    ],
    ids=["tensors", "numpy", "object", "list"],
)
def test_pickles_that_torch_did_not_write(tmp_path: Path, content: Any, what: str, protocol: int) -> None:
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(content, protocol=protocol))
    with pytest.raises(UserError, match=f"a pickle of {what}, but not one that torch.save wrote"):
        read_header(tmp_path / "a.pkl")


def test_the_inner_part_of_an_unpacked_checkpoint(tmp_path: Path) -> None:
    with zipfile.ZipFile(save(tmp_path / "a.ckpt", {"a": torch.ones(2)})) as archive:
        (tmp_path / "data.pkl").write_bytes(archive.read("a/data.pkl"))
    with pytest.raises(UserError, match="the pickle out of an unpacked checkpoint"):
        read_header(tmp_path / "data.pkl")


def test_a_storage_that_claims_to_be_compressed_beyond_what_is_possible(tmp_path: Path) -> None:
    path = save(tmp_path / "a.ckpt", {"a": torch.ones(2)})
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(tmp_path / "b.ckpt", "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    content = bytearray((tmp_path / "b.ckpt").read_bytes())
    at = content.index(b"a/data/0", content.index(b"PK\1\2")) - 46  # its entry in the index at the end
    content[at + 24 : at + 28] = struct.pack("<I", 2**31)
    (tmp_path / "b.ckpt").write_bytes(content)
    with pytest.raises(UserError, match="compressed to less than is possible"):
        read_header(tmp_path / "b.ckpt")
