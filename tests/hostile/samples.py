"""Small files that ask for much, each with the command that reads it and the message that it gets."""

from __future__ import annotations

import io
import json
import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

SAMPLES: dict[str, Sample] = {}


@dataclass(frozen=True)
class Sample:
    """A hostile file and its end."""

    make: Callable[[Path], list[str]]
    """Makes the files in a folder, and gives the arguments of the command."""
    message: str
    """What the output must hold."""
    code: int


def sample(message: str, code: int = 2) -> Callable[[Callable[[Path], list[str]]], Callable[[Path], list[str]]]:
    def register(make: Callable[[Path], list[str]]) -> Callable[[Path], list[str]]:
        SAMPLES[make.__name__] = Sample(make, message, code)
        return make

    return register


def _checkpoint(path: Path, data: bytes) -> list[str]:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", data)
    return ["inspect", str(path)]


def _config(folder: Path, text: str, suffix: str = ".yaml") -> list[str]:
    (folder / f"x{suffix}").write_text(text)
    return ["animate", "--config", str(folder / f"x{suffix}")]


def _put(number: int) -> bytes:
    return b"r" + struct.pack("<L", number)


def _get(number: int) -> bytes:
    return b"j" + struct.pack("<L", number)


# -- weights ----------------------------------------------------------------------------------------------------------


@sample("unknown kind of weights", code=0)
def key_of_nested_tuples(folder: Path) -> list[str]:
    return _checkpoint(folder / "x.ckpt", b"\x80\x02}K\x01\x85" + b"2\x86" * 60 + b"K\x01s.")


@sample("raise --max-pickle-items")
def keys_of_shared_tuples(folder: Path) -> list[str]:
    data = b"\x80\x02K\x01" + _put(0) + b"0"
    for level in range(2):
        data += b"(" + _get(level) * 99 + b"t" + _put(level + 1) + b"0"
    return _checkpoint(folder / "x.ckpt", data + b"}" + (_get(2) + b"K\x01s") * 20_000 + b".")


@sample("raise --max-pickle-items")
def many_items(folder: Path) -> list[str]:
    return _checkpoint(folder / "x.ckpt", b"\x80\x02](" + b"}" * 3_000_000 + b"e.")


@sample("names of unlikely length or number")
def many_names(folder: Path) -> list[str]:
    return _checkpoint(folder / "x.ckpt", b"\x80\x02](" + b"".join(b"ca\nN%d\n" % i for i in range(50_000)) + b"e.")


@sample("raise --max-pickle-items")
def parts_shared_by_many(folder: Path) -> list[str]:
    tensor = pickle.dumps([*range(3000)], 2)[2:-1].replace(b"q\x00", b"")
    data = b"\x80\x02" + tensor + _put(7) + b"0}("
    data += b"".join(b"X\x05\x00\x00\x00%05d" % i + _get(7) for i in range(3000)) + b"u."
    return _checkpoint(folder / "x.ckpt", data)


@sample("a whole number of 8,305 bytes")
def number_of_20000_digits(folder: Path) -> list[str]:
    return _checkpoint(folder / "x.ckpt", pickle.dumps({10**20_000: 1}, 2))


@sample("a tensor's name of")
def names_that_grow(folder: Path) -> list[str]:
    return _checkpoint(folder / "x.ckpt", b"\x80\x02" + b"}U\x09aaaaaaaaa" * 100_000 + b"K\x01" + b"s" * 100_000 + b".")


@sample("an unknown order of bytes")
def member_of_gigabytes(folder: Path) -> list[str]:
    once = zlib.compressobj(9, wbits=-15)
    block = once.compress(bytes(2**24)) + once.flush(zlib.Z_FULL_FLUSH)
    data, size = block * 180 + b"\x03\x00", 180 * 2**24
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a/data.pkl", b"\x80\x02}.")
        archive.writestr("a/byteorder", b"x" * 8)
    content = file.getvalue()
    at, index = content.rfind(b"PK\3\4"), content.find(b"PK\1\2")
    head = struct.pack("<4s5H3L2H", b"PK\3\4", 20, 0, 8, 0, 0, 0, len(data), size, 11, 0) + b"a/byteorder"
    last = content.rfind(b"PK\1\2")
    entry = content[last : last + 10] + struct.pack("<HHHLLL", 8, 0, 0, 0, len(data), size) + content[last + 28 :]
    end = entry.find(b"PK\5\6")
    start = at + len(head) + len(data)
    entry = entry[: end + 16] + struct.pack("<L", start) + entry[end + 20 :]
    (folder / "x.ckpt").write_bytes(content[:at] + head + data + content[index:last] + entry)
    return ["inspect", str(folder / "x.ckpt")]


@sample("the archive's index has")
def archive_of_many(folder: Path) -> list[str]:
    with zipfile.ZipFile(folder / "x.ckpt", "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}.")
        archive.getinfo("archive/data.pkl").comment = b"x" * 60_000
        info = archive.filelist[0]
        archive.filelist += [info] * 150
    return ["inspect", str(folder / "x.ckpt")]


def _safetensors(folder: Path, header: bytes, rest: bytes = b"") -> list[str]:
    (folder / "x.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + rest)
    return ["inspect", str(folder / "x.safetensors")]


@sample("raise --max-header-bytes")
def header_of_many(folder: Path) -> list[str]:
    return _safetensors(folder, b'{"a":[' + b'{"":0},' * 3_000_000 + b"0]}")


@sample("damaged")
def header_of_nothing(folder: Path) -> list[str]:
    return _safetensors(folder, b'{"a":[' + b'{"":0},' * 1_200_000 + b"0]}")


@sample("a tensor's name of 5,0")
def name_of_digits(folder: Path) -> list[str]:
    name = f"down_blocks.{'9' * 5000}.motion_modules.0.temporal_transformer.proj_in.weight"
    return _safetensors(folder, json.dumps({name: {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}}).encode())


@sample(r"\x1b[31mRED\n\nfake: line", code=0)
def escapes_in_names(folder: Path) -> list[str]:
    name = "lora_unet_x.lora_up.weight\x1b]0;PWN\x07\x1b[31mRED\n\nfake: line"
    entries = {"__metadata__": {"ss_network_module": "\x1b[2J"}}
    entries |= {name: {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}}
    return _safetensors(folder, json.dumps(entries).encode(), bytes(16))


@sample("refused, this is a pickle that would run code")
def folder_of_a_pickle_with_code(folder: Path) -> list[str]:
    (folder / "config.json").write_text(json.dumps({"architectures": ["CLIPVisionModelWithProjection"]}))
    _checkpoint(folder / "pytorch_model.bin", b"cposix\nsystem\nU\x02id\x85R.")
    return ["inspect", str(folder)]


@sample("raise --max-depth")
def nested_index(folder: Path) -> list[str]:
    (folder / "config.json").write_text("{}")
    (folder / "diffusion_pytorch_model.safetensors.index.json").write_text('{"weight_map":' * 100_000)
    return ["inspect", str(folder)]


# -- configurations ---------------------------------------------------------------------------------------------------


@sample("raise --max-entries")
def merge_keys(folder: Path) -> list[str]:
    lines = [f"x{i}: &a{i} {{k{i}: 1, <<: [{', '.join([f'*a{i - 1}'] * 9)}]}}" for i in range(1, 10)]
    return _config(folder, "\n".join(["x: &a0 {k: v}", *lines]))


@sample("raise --max-entries")
def aliases(folder: Path) -> list[str]:
    lines = [f"x{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 10)]
    return _config(folder, "\n".join(["x: &a0 [1]", *lines]))


@sample("an alias (*) inside of what it repeats")
def alias_of_itself(folder: Path) -> list[str]:
    return _config(folder, "prompt: &a [a fox, *a]\n")


@sample("raise --max-depth")
def nested_yaml(folder: Path) -> list[str]:
    return _config(folder, "[" * 100_000)


@sample("raise --max-entries")
def many_entries(folder: Path) -> list[str]:
    return _config(folder, "- a\n" * 200_000)


@sample("a number of 400,001 characters")
def sexagesimal(folder: Path) -> list[str]:
    return _config(folder, "prompt: a\nsteps: 1" + ":1" * 200_000)


@sample("raise --max-config-bytes")
def large_configuration(folder: Path) -> list[str]:
    return _config(folder, "prompt: " + "x y " * 1_000_000)


@sample("raise --max-prompt-chars")
def long_prompt(folder: Path) -> list[str]:
    return _config(folder, "prompt: " + "x y " * 100_000)


@sample("raise --max-runs")
def product_of_lists(folder: Path) -> list[str]:
    numbers = ", ".join(map(str, range(1, 1001)))
    return _config(folder, f"prompt: a\nsteps: [{numbers}]\nguidance_scale: [{numbers}]\n")


@sample("a number of 20,000 digits")
def digits_in_json(folder: Path) -> list[str]:
    return _config(folder, '{"prompt": "a", "seed": ' + "9" * 20_000 + "}", ".json")


@sample("is not valid JSON")
def comments_in_json(folder: Path) -> list[str]:
    return _config(folder, '{"prompt": ["a",' + "#" * 100_000 + "x", ".json")


@sample("raise --max-depth")
def nested_json(folder: Path) -> list[str]:
    return _config(folder, '{"a":' * 100_000, ".json")


@sample("holds what is no text")
def half_a_character(folder: Path) -> list[str]:
    (folder / "x.json").write_text(r'{"request": {"prompt": ["a \ud800 fox"]}}')
    return ["animate", "--from", str(folder / "x.json")]


@sample("raise --max-frames")
def frames_of_a_result(folder: Path) -> list[str]:
    (folder / "x.json").write_text('{"request": {"prompt": ["a fox"], "num_frames": 100000000}}')
    return ["animate", "--from", str(folder / "x.json")]


@sample(r"setting '\x1b[31mred'")
def escapes_in_settings(folder: Path) -> list[str]:
    return _config(folder, '"\\e[31mred": 1\nprompt: a\n')


# -- settings, images and videos --------------------------------------------------------------------------------------


@sample("--num-frames=100000000; the limit is 20,000 frames: take fewer, or raise --max-frames")
def frames_of_a_clip(folder: Path) -> list[str]:
    return ["animate", "a fox", "--num-frames", "100000000", "--steps", "1"]


@sample("raise --max-pixels")
def size_of_a_clip(folder: Path) -> list[str]:
    return ["animate", "a fox", "--width", "80000", "--height", "8000", "--steps", "1"]


@sample("h264 holds frames of at most 16384 x 16384, not of 8 x 100000 (--width x --height)")
def size_of_no_video(folder: Path) -> list[str]:
    return ["animate", "a fox", "--width", "8", "--height", "100000", "--steps", "1", "--out", str(folder / "x.mp4")]


def _gif(path: Path, width: int, height: int, num_frames: int) -> str:
    frame = b"!\xf9\x04\0\x01\0\0\0,\0\0\0\0\x01\0\x01\0\0\x02\x02D\x01\0"
    path.write_bytes(
        b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + bytes(6) + frame * num_frames + b";"
    )
    return str(path)


@sample("60000 x 60000 = 3,600,000,000 pixels; the limit is 67,108,864 pixels")
def canvas_of_a_gif(folder: Path) -> list[str]:
    return ["evaluate", _gif(folder / "x.gif", 60_000, 60_000, 2)]


@sample("raise --max-pixels")
def canvas_of_a_video(folder: Path) -> list[str]:
    return ["animate", "a fox", "--video", _gif(folder / "x.gif", 60_000, 60_000, 2), "--steps", "1"]


@sample("raise --max-frames")
def frames_of_a_gif(folder: Path) -> list[str]:
    return ["evaluate", _gif(folder / "x.gif", 64, 64, 30_000)]


@sample("--max-animation-pixels")
def pixels_of_a_gif(folder: Path) -> list[str]:
    return ["evaluate", _gif(folder / "x.gif", 4000, 4000, 2000)]


@sample("raise --max-pixels")
def pixels_of_a_png(folder: Path) -> list[str]:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">L", len(data)) + kind + data + struct.pack(">L", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">LLBBBBB", 30_000, 30_000, 8, 6, 0, 0, 0))
    data = chunk(b"IDAT", zlib.compress(bytes(2**20)))
    (folder / "x.png").write_bytes(b"\x89PNG\r\n\x1a\n" + header + data + chunk(b"IEND", b""))
    return ["animate", "a fox", "--image", str(folder / "x.png"), "--steps", "1"]


@sample("an image of 1 x 20000 is 20,000 times as long as wide; the limit is 16 times")
def thin_image(folder: Path) -> list[str]:
    from PIL import Image

    Image.new("RGB", (1, 20_000)).save(folder / "x.png")
    return ["animate", "a fox", "--image", str(folder / "x.png"), "--steps", "1", "--num-frames", "2"]


def _mp4(path: Path, num_frames: int, aspect: tuple[int, int] = (1, 1)) -> str:
    from fractions import Fraction

    import av
    import numpy as np

    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width = stream.height = 16
        stream.codec_context.sample_aspect_ratio = Fraction(*aspect)
        for _ in range(num_frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8))))
        container.mux(stream.encode())
    return str(path)


@sample("has 20,500 frames; the limit is 20,000 frames")
def long_video(folder: Path) -> list[str]:
    return ["evaluate", _mp4(folder / "x.mp4", 20_500)]


@sample("has 40 frames; the limit is 30 frames: take fewer, or raise --max-frames")
def option_for_a_limit(folder: Path) -> list[str]:
    return ["evaluate", "--max-frames", "30", _mp4(folder / "x.mp4", 40)]


@sample("[red]x[/]", code=0)
def markup_in_a_name(folder: Path) -> list[str]:
    (folder / "[red]x[").mkdir()
    path = folder / "[red]x[" / "].gif"
    return ["evaluate", _gif(path, 64, 64, 3)]


@sample(r"\x1b[31mred.mp4: no such file")
def escapes_in_a_file_name(folder: Path) -> list[str]:
    return ["evaluate", str(folder / "\x1b[31mred.mp4")]


@sample(r"setting '\x1b[2J'")
def escapes_in_a_clip(folder: Path) -> list[str]:
    import numpy as np

    from animatediff.media import write_video

    record = {"request": {"\x1b[2J": 1, "prompt": "a"}}
    path = write_video(np.zeros((2, 64, 64, 3), np.uint8), folder / "x.gif", metadata=record)
    return ["animate", "--from", str(path)]


# -- training data ----------------------------------------------------------------------------------------------------


@sample("raise --max-json-bytes")
def large_object_of_captions(folder: Path) -> list[str]:
    (folder / "x.json").write_text("{" + '"a":{},' * 2_500_000 + '"b":{}}')
    return ["data", str(folder / "x.json")]


@sample("entry 1 has more than 1,048,576 characters")
def large_entry_of_an_array(folder: Path) -> list[str]:
    (folder / "x.json").write_text('[{"a":[' + "{}," * 7_000_000 + "{}]}]")
    return ["data", str(folder / "x.json")]


@sample("line 2 has more than 1,048,576 characters")
def large_line(folder: Path) -> list[str]:
    (folder / "x.jsonl").write_text('{"video":"a.mp4"}\n{"a":[' + "{}," * 7_000_000 + "{}]}\n")
    return ["data", str(folder / "x.jsonl")]


@sample("400001 rows name no file")
def array_of_many(folder: Path) -> list[str]:
    (folder / "x.json").write_text("[" + "{}," * 400_000 + "{}]")
    return ["data", str(folder / "x.json")]


@sample("cannot be read as JSON (entry 1: ")
def nested_array(folder: Path) -> list[str]:
    (folder / "x.json").write_text("[" * 1_000_000)
    return ["data", str(folder / "x.json")]
