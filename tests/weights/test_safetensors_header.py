"""Headers of safetensors files: ours and the library's verdict are the same, dtypes of later versions excepted."""

from __future__ import annotations

import json
import random
import struct
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError, safe_open

from animatediff.errors import UserError
from animatediff.weights.storage.files import load_tensors, read_header

ENTRY = '{"dtype":"F32","shape":[2],"data_offsets":[0,8]}'
WHOLE = '{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F16","shape":[2,1],"data_offsets":[4,8]}}'


def write(path: Path, text: str | bytes, data: bytes = b"\0" * 8, length: int | None = None) -> Path:
    text = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return path


def library_takes(path: Path) -> bool:
    try:
        with safe_open(path, "pt"):
            return True
    except SafetensorError:
        return False


def ours_takes(path: Path) -> bool:
    try:
        return read_header(path).format == "safetensors"
    except UserError:
        return False


def entry(**changes: str) -> str:
    fields = {"dtype": '"F32"', "shape": "[2]", "data_offsets": "[0,8]"} | changes
    return '{"a":{' + ",".join(f'"{name}":{value}' for name, value in fields.items()) + "}}"


HEADERS = {
    "plain": f'{{"a":{ENTRY}}}',
    "metadata is null": f'{{"__metadata__":null,"a":{ENTRY}}}',
    "metadata is text": f'{{"__metadata__":"x","a":{ENTRY}}}',
    "metadata is a list": f'{{"__metadata__":[],"a":{ENTRY}}}',
    "metadata with a number": f'{{"__metadata__":{{"a":1}},"a":{ENTRY}}}',
    "metadata with null": f'{{"__metadata__":{{"a":null}},"a":{ENTRY}}}',
    "metadata nested": f'{{"__metadata__":{{"a":{{"b":"c"}}}},"a":{ENTRY}}}',
    "metadata twice": f'{{"__metadata__":{{}},"__metadata__":{{}},"a":{ENTRY}}}',
    "metadata with a name twice": f'{{"__metadata__":{{"a":"1","a":"2"}},"a":{ENTRY}}}',
    "metadata is a tensor": f'{{"__metadata__":{ENTRY}}}',
    "tensor twice": f'{{"a":{ENTRY},"a":{ENTRY}}}',
    "tensor twice, first wrong": f'{{"a":{{"dtype":"F32","shape":[1],"data_offsets":[0,8]}},"a":{ENTRY}}}',
    "tensor twice, first none": f'{{"a":3,"a":{ENTRY}}}',
    "field twice": '{"a":{"dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8]}}',
    "field more": entry(x="[1,{}]"),
    "fields as a list": '{"a":["F32",[2],[0,8]]}',
    "fields as a longer list": '{"a":["F32",[2],[0,8],3]}',
    "field missing": '{"a":{"dtype":"F32","data_offsets":[0,8]}}',
    "three offsets": entry(data_offsets="[0,8,8]"),
    "one offset": entry(data_offsets="[8]"),
    "offsets in an object": entry(data_offsets='{"0":0,"1":8}'),
    "offsets as text": entry(data_offsets='["0","8"]'),
    "offset beyond": entry(data_offsets="[0,18446744073709551615]"),
    "offsets backwards": entry(data_offsets="[8,0]"),
    "offset negative": entry(data_offsets="[-8,0]"),
    "float": entry(shape="[2.0]"),
    "exponent": entry(shape="[2e0]"),
    "bool": entry(shape="[true]", data_offsets="[0,4]"),
    "negative": entry(shape="[-2]"),
    "minus zero": entry(shape="[-0]", data_offsets="[0,0]"),
    "text in shape": entry(shape='["2"]'),
    "shape is a number": entry(shape="2"),
    "shape is null": entry(shape="null"),
    "rank wrong": entry(shape="[2,2]"),
    "rank large": entry(shape="[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,2]"),
    "huge": entry(shape="[18446744073709551615,18446744073709551615]"),
    "more than 64 bits": entry(shape="[18446744073709551616]"),
    "bytes overflow to 0": entry(shape="[4611686018427387904]", data_offsets="[0,0]"),
    "bits overflow": entry(shape="[2305843009213693952]"),
    "huge, then 0": entry(shape="[18446744073709551615,4,0]", data_offsets="[0,0]"),
    "NaN": entry(shape="[NaN]"),
    "NaN in a field more": entry(x="NaN"),
    "number out of range": entry(x="1e999"),
    "digits": entry(x="9" * 300),
    "too many digits": entry(x="9" * 400),
    "nested": entry(x="[" * 125 + "]" * 125),
    "nested too deep": entry(x="[" * 126 + "]" * 126),
    "nested objects": entry(x='{"a":' * 125 + "1" + "}" * 125),
    "nested objects too deep": entry(x='{"a":' * 126 + "1" + "}" * 126),
    "nested without end": entry(x="[" * 50_000),
    "space before": f' \n{{"a":{ENTRY}}}',
    "space after": f'{{"a":{ENTRY}}} \t\r\n ',
    "zero bytes after": f'{{"a":{ENTRY}}}\0\0',
    "form feed after": f'{{"a":{ENTRY}}}\f',
    "text after": f'{{"a":{ENTRY}}}x',
    "byte order mark": f'\ufeff{{"a":{ENTRY}}}',
    "UTF-16": f'{{"a":{ENTRY}}}'.encode("utf-16-le"),
    "no UTF-8": b'{"a\xff":' + ENTRY.encode() + b"}",
    "surrogate": f'{{"a\ud800":{ENTRY}}}',
    "escape of half a pair": f'{{"a\\ud800":{ENTRY}}}',
    "half a pair in metadata": f'{{"__metadata__":{{"a":"\\udc00"}},"a":{ENTRY}}}',
    "half a pair in a field more": entry(x='["\\udc00"]'),
    "escape of a pair": f'{{"a\\ud83d\\ude00":{ENTRY}}}',
    "zero in a name": f'{{"a\\u0000":{ENTRY}}}',
    "control character": f'{{"a\x01":{ENTRY}}}',
    "no name": f'{{"":{ENTRY}}}',
    "leading zero": entry(shape="[02]"),
    "comma at the end": f'{{"a":{ENTRY},}}',
    "comment": f'{{"a":{ENTRY} /*x*/}}',
    "list": f"[{ENTRY}]",
    "null": "null",
    "number": "3",
    "text": '"x"',
    "nothing": "",
    "no tensors": "{}",
    "entry null": f'{{"a":null,"b":{ENTRY}}}',
    "entry text": f'{{"a":"x","b":{ENTRY}}}',
    "dtype number": entry(dtype="3"),
    "dtype object": entry(dtype='{"F32":null}'),
    "dtype list": entry(dtype='["F32"]'),
    "overlap": (
        '{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'
    ),
    "hole": '{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}',
    "unordered": (
        '{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]},"b":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    ),
    "shared": f'{{"a":{ENTRY},"b":{ENTRY}}}',
    "empty tensors at both ends": (
        f'{{"a":{ENTRY},"b":{{"dtype":"F32","shape":[0],"data_offsets":[8,8]}},'
        '"c":{"dtype":"F32","shape":[0,3],"data_offsets":[0,0]}}'
    ),
    "empty tensor inside": f'{{"a":{ENTRY},"b":{{"dtype":"F32","shape":[0],"data_offsets":[4,4]}}}}',
    "empty tensor beyond": f'{{"a":{ENTRY},"b":{{"dtype":"F32","shape":[0],"data_offsets":[12,12]}}}}',
    "scalar": entry(dtype='"F64"', shape="[]"),
    "not aligned": (
        '{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"b":{"dtype":"F32","shape":[1],"data_offsets":[1,5]},'
        '"c":{"dtype":"U8","shape":[3],"data_offsets":[5,8]}}'
    ),
    "4 bits": entry(dtype='"F4"', shape="[16]"),
    "4 bits, odd": entry(dtype='"F4"', shape="[15]"),
    "6 bits": entry(dtype='"F6_E2M3"', shape="[4]", data_offsets="[0,3]"),
    "6 bits, not whole": entry(dtype='"F6_E3M2"', shape="[10]"),
    "8 bits": entry(dtype='"F8_E8M0"', shape="[8]"),
}  # fmt: skip


@pytest.mark.parametrize("name", HEADERS)
def test_the_verdict_is_that_of_the_library(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / "a.safetensors", HEADERS[name], b"\0" * (0 if name == "no tensors" else 8))
    assert ours_takes(path) == library_takes(path)


@pytest.mark.parametrize(("data", "length"), [(7, None), (9, None), (8, 10**9), (8, 2**63), (8, 3), (8, 0), (0, 200)])
def test_lengths_that_do_not_fit_are_refused_as_by_the_library(tmp_path: Path, data: int, length: int | None) -> None:
    path = write(tmp_path / "a.safetensors", HEADERS["plain"], b"\0" * data, length)
    assert not library_takes(path) and not ours_takes(path)


@pytest.mark.parametrize("size", range(11))
def test_files_of_a_few_bytes(tmp_path: Path, size: int) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes((b"\2" + b"\0" * 7 + b"{}")[:size])
    assert ours_takes(path) == library_takes(path) == (size == 10)


def test_mutated_headers_have_the_verdict_of_the_library(tmp_path: Path) -> None:
    """One or two bytes of a good header changed, put in or taken out, by those that JSON is made of."""
    randomly = random.Random(0)
    taken = 0
    path = tmp_path / "a.safetensors"
    for _ in range(700):
        text = bytearray(randomly.choice((WHOLE, HEADERS["metadata with a name twice"], HEADERS["unordered"])).encode())
        for _ in range(randomly.randint(1, 2)):
            at, byte = (
                randomly.randrange(len(text)),
                randomly.choice(b'0123456789-.eE+"{}[]:, \tnulltrefas\\uF\x80\xc3'),
            )
            match randomly.randrange(3):
                case 0:
                    text[at] = byte
                case 1:
                    text.insert(at, byte)
                case _:
                    del text[at]
        write(path, bytes(text))
        ours, library = ours_takes(path), library_takes(path)
        if ours and not library:  # laxer in one point: a dtype that no version of the library has yet
            unknown = {info.dtype for info in read_header(path).tensors.values()} - {"float32", "float16"}
            assert unknown, bytes(text)
            continue
        assert ours == library, bytes(text)
        taken += ours
    assert taken > 10, "some of the mutations do no harm"


DTYPES = {
    "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "F8_E4M3FNUZ": "float8_e4m3fnuz", "C64": "complex64",
    "F8_E5M2FNUZ": "float8_e5m2fnuz", "U16": "uint16", "U32": "uint32", "U64": "uint64", "BF16": "bfloat16",
}  # fmt: skip


@pytest.mark.parametrize("name", DTYPES)
def test_every_dtype_that_torch_has_is_read_as_the_library_reads_it(tmp_path: Path, name: str) -> None:
    dtype = getattr(torch, DTYPES[name])
    size = torch.empty(0, dtype=dtype).element_size()
    data = bytes(range(60, 76))
    path = write(
        tmp_path / "a.safetensors", entry(dtype=f'"{name}"', shape=f"[{16 // size}]", data_offsets="[0,16]"), data
    )
    header = read_header(path)
    assert header.tensors["a"].dtype == DTYPES[name]
    with safe_open(path, "pt") as file:
        wanted = file.get_tensor("a")
    found = load_tensors(header)["a"]
    assert found.dtype == wanted.dtype == dtype and torch.equal(found.view(torch.uint8), wanted.view(torch.uint8))


@pytest.mark.parametrize(
    ("name", "count"),
    [("F4", 16), ("F6_E2M3", 8), ("F6_E3M2", 8), ("F8_E3M4", 8), ("I4", 16), ("C128", 1), ("FUTURE_7", 3)],
)
def test_a_dtype_without_tensors_is_listed_and_refused_by_name(tmp_path: Path, name: str, count: int) -> None:
    nbytes = {"F6_E2M3": 6, "F6_E3M2": 6}.get(name, 8)
    text = json.dumps(
        {
            "odd": {"dtype": name, "shape": [count], "data_offsets": [0, nbytes]},
            "plain": {"dtype": "F32", "shape": [1], "data_offsets": [nbytes, nbytes + 4]},
        }
    )
    header = read_header(write(tmp_path / "a.safetensors", text, b"\0" * nbytes + struct.pack("<f", 2.5)))
    assert (header.tensors["odd"].dtype, header.tensors["odd"].shape) == (name, (count,))
    assert load_tensors(header, ["plain"])["plain"].tolist() == [2.5], "the others are as good as ever"
    with pytest.raises(UserError, match=f"tensor 'odd' is of number format {name}.*float16"):
        load_tensors(header)
