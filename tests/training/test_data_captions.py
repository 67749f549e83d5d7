"""No caption and no clip is lost without a word: listings as people have them, right or with a fault in them."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import tarfile
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.videos import numbered_frame, numbered_video, numbers, write_shard

from animatediff.errors import UserError
from animatediff.media import write_video
from animatediff.training.data import DataConfig, check_data, json_rows, open_dataset
from animatediff.training.data.captions import encoding_of
from animatediff.training.data.sources import list_rows
from animatediff.training.data.tar import read_samples

SMALL: dict[str, Any] = {"num_frames": 4, "stride": 1, "height": 48, "width": 96}


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A video of six frames."""
    return numbered_video(tmp_path_factory.mktemp("clip") / "clip.mp4", 6).read_bytes()


@pytest.fixture
def make(tmp_path: Path, clip: bytes) -> Callable[..., Path]:
    """Make a folder of files by name; of content None, the video."""

    def made(**files: str | bytes | None) -> Path:
        for name, content in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(clip if content is None else content.encode() if isinstance(content, str) else content)
        return tmp_path

    return made


def config(path: Path | str, **settings: Any) -> DataConfig:
    return DataConfig(path=str(path), **{**SMALL, **settings})


def captions(given: DataConfig) -> dict[str, str]:
    """The captions of a listing by name."""
    dataset: Any = open_dataset(given)
    return {item.name: item.text for item in dataset.items}


def said(given: DataConfig) -> str:
    """What the check says, be it a refusal."""
    try:
        return str(check_data(given))
    except UserError as error:
        return str(error)


LONG = "x" * 200_000
CSV: dict[str, tuple[str | bytes, dict[str, str], str]] = {
    "commas in the last column": ("videoid,name\na,a ball, red, on grass\nb,ball\n",
        {"a": "a ball, red, on grass", "b": "ball"}, ""),
    "commas elsewhere": ("videoid,name,page_dir\na,a ball, red, on grass,x,\nb,ball,\n",
        {"b": "ball"}, "1 rows unusable: 5 values for 3 columns (a comma in a caption without quotes?): line 2"),
    "commas before an empty column": ("videoid,name,page_dir\na,a ball, red,\na,a ball, red\nb,ball,\n",
        {"b": "ball"}, "2 rows unusable: page_dir is no folder (a comma in a caption without quotes?): line 2, line 3"),
    "open quote": ('videoid,name\na,"a ball\nb,ball\n', {"b": "ball"}, "a quote that is never closed: line 2"),
    "open quote, closed by the next": ('videoid,name\na,"a ball\nb,"a box"\n',
        {"b": "a box"}, "a quote that is never closed: line 2"),
    "open quote, closed at an end": ('videoid,name\na,"a ball\nb,a box"\n',
        {"b": 'a box"'}, "1 rows unusable: a quote that is never closed, with other rows inside it: line 2"),
    "two open quotes": ('videoid,name\na,"a ball\nb,"a box\nc,cube\n',
        {"c": "cube"}, "2 rows unusable: a quote that is never closed: line 2, line 3"),
    "caption of two lines": ('videoid,name\na,"a ball\nthat rolls"\nb,box\n',
        {"a": "a ball that rolls", "b": "box"}, ""),
    "backslash": ('videoid,name\na,"a \\"red, round\\" ball"\nb,"a ""blue"" box"\nc,"an inch \\""\n',
        {"a": 'a "red, round" ball', "b": 'a "blue" box', "c": 'an inch "'}, ""),
    "backslash before commas": ("videoid,name\na,a ball\\, red\\, big\nb,a \\ box\n",
        {"a": "a ball, red, big", "b": "a \\ box"}, ""),
    "backslash before a comma inside": ("file,text,n\na.mp4,a ball\\, red,3\nb.mp4,box\\,4\n",
        {"a.mp4": "a ball, red", "b.mp4": "box\\"}, "not used: n"),
    "spaces before quotes": ('file, text, n\na.mp4, "a ball, red", 3\nb.mp4, "red" box, 4\n',
        {"a.mp4": "a ball, red", "b.mp4": '"red" box'}, "not used: n"),
    "space before the last quote": ('videoid, name\na, "a ball"\nb, "a box, ""blue"""\n',
        {"a": "a ball", "b": 'a box, "blue"'}, ""),
    "paths of Windows": ("file,text\nsub\\d.mp4,ball\n", {"sub\\d.mp4": "ball"}, ""),
    "no name": (",file,text\n7,a.mp4,ball\n", {"a.mp4": "ball"}, "not used: (one without a name)"),
    "quotes inside": ('videoid,name\na,"red" ball, big\nb,a 24" box\n',
        {"a": '"red" ball, big', "b": 'a 24" box'}, ""),
    "utf-16": ("videoid,name\na,ein Füchslein\n".encode("utf-16"), {"a": "ein Füchslein"}, ""),
    "Excel": ("videoid\tname\r\na\tein Füchslein, rot\r\n".encode("utf-16"), {"a": "ein Füchslein, rot"}, ""),
    "semicolons": ("videoid;name\na;a ball, red, on grass\nb;\"box; blue\"\nc;cube; green\n",
        {"a": "a ball, red, on grass", "b": "box; blue", "c": "cube; green"}, ""),
    "semicolons elsewhere": ("videoid;name;page_dir\na;ball; red;x;\nb;ball;\n",
        {"b": "ball"}, "1 rows unusable: 4 values for 3 columns (a semicolon in a caption without quotes?): line 2"),
    "open quote and semicolons": ('videoid;name\na;"a ball\nb;ball\n', {"b": "ball"}, "never closed: line 2"),
    "bars": ("file|text\na.mp4|a ball, red; on grass\n", {"a.mp4": "a ball, red; on grass"}, ""),
    "stated": ("sep=;\r\nvideoid;name\r\na;a ball, red\r\nb;\r\n",
        {"a": "a ball, red", "b": ""}, "1 without a caption (an empty one is used): b"),
    "no mark": ("videoid,name\na,ein Füchslein\n".encode("utf-16-be"), {"a": "ein Füchslein"}, ""),
    "other names": ("file_path,description,fps\na.mp4,ball,8\n", {"a.mp4": "ball"},
        "keys or columns that are not used: fps"),
    "first one empty": ("file_name,text,prompt\na.mp4,,ball\n", {"a.mp4": "ball"}, ""),
    "two captions": ("file_name,text,prompt\na.mp4,box,ball\n",
        {"a.mp4": "box"}, "1 with several captions (`text` is used, not `prompt`): a.mp4"),
    "two files": ("video,image,text\na.mp4,b.mp4,ball\n", {"a.mp4": "ball"}, "name several files (the first is used)"),
    "a caption for a name": ("videoid,name\n" + "word " * 100 + ",x\na,ball\n", {"a": "ball"}, "1 missing: "),
    "very long": (f'videoid,name\na,"{LONG}\nb,ball\n', {"b": "ball"}, "a quote that is never closed: line 2"),
}  # fmt: skip


@pytest.mark.parametrize("case", CSV)
def test_csv(case: str, make: Callable[..., Path]) -> None:
    """Expected: what is read, and what is said about the rest, which stops the run where it is more than 10 %."""
    content, expected, word = CSV[case]
    folder = make(**{"a.mp4": None, "b.mp4": None, "c.mp4": None, "sub/d.mp4": None, "list.csv": content})
    given = config(folder / "list.csv")
    assert captions(given) == expected
    report = said(given)
    assert (
        word in report
        and ("bad:" in report) == ("unusable" in report or "missing" in report)
        and ("cannot be used" in report) == ("bad:" in report)
    )
    assert word or "note:" not in report


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xff\xfev\0i\0d\0e\0o\0i\0d\0,\0n\0a\0m\0e\0\n\0a\0,\0\x00\xd8", "is not valid UTF-16"),
        (b"videoid,name,name\na,b,c\n", "has two columns name"),
        (b"File,Caption\na.mp4,b\n", "Did you mean File -> file, Caption -> caption"),
    ],
)
def test_csv_that_is_refused(content: bytes, message: str, make: Callable[..., Path]) -> None:
    folder = make(**{"a.mp4": None, "list.csv": content})
    assert message in said(config(folder / "list.csv"))


ROW = {"file_path": "a.mp4", "text": "ball", "type": "video"}
JSON: dict[str, tuple[str, dict[str, str], str]] = {
    "array": (json.dumps([ROW]), {"a.mp4": "ball"}, "keys or columns that are not used: type"),
    "array on lines": (json.dumps([ROW], indent=1), {"a.mp4": "ball"}, ""),
    "array inside": (json.dumps({"videos": [ROW], "version": 1}, indent=1), {"a.mp4": "ball"}, ""),
    "by name": (json.dumps({"a.mp4": "ball", "b.mp4": "box"}), {"a.mp4": "ball", "b.mp4": "box"}, ""),
    "records by name": (json.dumps({"a.mp4": {"caption": "ball"}}), {"a.mp4": "ball"}, ""),
    "list of one": ('{"path": "a.mp4", "cap": ["ball"]}', {"a.mp4": "ball"}, ""),
    "list of two": ('{"path": "a.mp4", "cap": ["ball", "box"]}\n{"path": "b.mp4", "cap": "x"}',
        {"b.mp4": "x"}, "1 with captions that differ: a.mp4 (line 1: 2 captions in a list under cap"),
    "unknown key": ('{"video": "a.mp4", "short_caption": "ball"}\n{"video": "b.mp4", "text": "x"}',
        {"b.mp4": "x"}, "is it `short_caption`? Rename that key"),
    "key twice": ('{"video": "a.mp4", "text": "ball", "text": "box"}\n{"video": "b.mp4", "text": "x"}',
        {"b.mp4": "x"}, "rows unusable: two values for the key text: line 1"),
    "list as text": (json.dumps([{"path": "a.mp4", "text": "['ball']"}]), {"a.mp4": "ball"}, ""),
    "list of two as text": (json.dumps([{"path": "a.mp4", "text": '["ball", "box"]'}, {"path": "b.mp4", "text": "x"}]),
        {"b.mp4": "x"}, "1 with captions that differ: a.mp4 ("),
    "brackets": (json.dumps([{"path": "a.mp4", "text": "[ball]"}]), {"a.mp4": "[ball]"}, ""),
    "talk": ('{"video": "a.mp4", "conversations": [{"value": "ball"}]}\n{"video": "b.mp4", "text": "x"}',
        {"b.mp4": "x"}, "is it `conversations`? Rename that key"),
    "other key filled in": ('{"video": "a.mp4", "text": "", "long_caption": "ball"}\n{"video": "b.mp4", "text": "x"}',
        {"b.mp4": "x"}, "is it `long_caption`? Rename that key"),
    "name of a file": ('{"video": "a.mp4", "text": "c.TXT"}\n{"video": "b.mp4", "text": "x.txt"}',
        {"b.mp4": "x.txt"}, "1 with a caption that cannot be read: a.mp4 (line 1: c.TXT is the name of a file;"),
    "no suffixes": ('{"video": "a", "text": "ball"}', {"a": "ball"}, ""),
    "file beside": ('{"video": "c.mp4"}', {"c.mp4": "lies beside"}, ""),
}  # fmt: skip


class _Slow(io.StringIO):
    """A text that is read a few characters at a time, so that every entry is cut somewhere."""

    def __init__(self, text: str, most: int) -> None:
        super().__init__(text)
        self.most = most

    def read(self, size: int | None = -1, /) -> str:
        return super().read(self.most)


ARRAYS = {
    "[]": "holds no rows",
    '[{"video": "a"},]': "a comma behind entry 1, the last one",
    '[{"video": "a"} {"video": "b"}]': "no comma behind entry 1",
    '[{"video": "a"}, ': "entry 2: Expecting value",
    '[{"video": "a"}': "it ends behind entry 1",
    '[{"video": "a"}] x': "something stands behind the array of 1 entries",
    '[{"video": "a", "video": "b"}]': "entry 1: ",
    '[{"video": "a"}, nonsense, {"video": "b"}]': "entry 2: Expecting value",
}


@pytest.mark.parametrize("text", ARRAYS)
def test_an_array_that_is_none_is_refused_with_the_place(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(UserError, match=ARRAYS[text]):
        list_rows(tmp_path / "a.json", tmp_path, "jsonl")


@pytest.mark.parametrize("chunk", [1, 7, 1000])
def test_an_array_is_read_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    monkeypatch.setattr(json_rows, "CHUNK", 1000)
    rows = [
        {"video": f"{number}.mp4", "text": 'a "ball", {red}, ]\\ \u2028', "n": number * 1.5} for number in range(50)
    ]
    path = tmp_path / "a.json"
    path.write_text(json.dumps([*rows, 12345, True, None], indent=chunk % 3) + "\n")
    monkeypatch.setattr(json_rows, "open_text", lambda _: nullcontext(_Slow(path.read_text(), chunk)))
    found = list(json_rows.json_rows(path))
    assert [row for _, row in found] == [*rows, *["not a JSON object"] * 3]
    assert found[-1][0] == "entry 53"


@pytest.mark.parametrize("suffix", ["json", "jsonl"])
@pytest.mark.parametrize("case", JSON)
def test_json(case: str, suffix: str, make: Callable[..., Path]) -> None:
    content, expected, word = JSON[case]
    folder = make(**{"a.mp4": None, "b.mp4": None, "c.mp4": None, "c.TXT": "lies beside", f"l/list.{suffix}": content})
    given = config(folder / "l" / f"list.{suffix}", video_folder=str(folder), kind="auto")
    assert captions(given) == expected and word in said(given)


FOLDERS: dict[str, tuple[dict[str, str | None], dict[str, str], str]] = {
    "names": (
        {"a.mp4": None, "a.caption": "A", "b.mp4": None, "b.TXT": "B", "c.mp4": None, "c.mp4.txt": "C", "d.mp4": None,
         "d.json": '{"caption": "D"}', "e.mp4": None, "e.output.txt": "E", "F.mp4": None, "f.txt": "F"},
        {name: name[0].upper() for name in ("F.mp4", "a.mp4", "b.mp4", "c.mp4", "d.mp4", "e.mp4")}, ""),
    "empty beside full": ({"a.mp4": None, "a.txt": "", "a.json": '{"text": "A"}'}, {"a.mp4": "A"}, ""),
    "same twice": ({"a.mp4": None, "a.txt": "A", "a.caption": "A"}, {"a.mp4": "A"}, ""),
    "differing": ({"a.mp4": None, "a.txt": "A", "a.caption": "B", "b.mp4": None, "b.txt": "B"}, {"b.mp4": "B"},
        "1 with captions that differ: a.mp4 (a.caption, a.txt differ; keep one of them)"),
    "record differs": ({"a.mp4": None, "a.txt": "A", "a.json": '{"text": "B"}'}, {"a.mp4": "A"},
        "1 with another caption in .json (the text file is used): a.mp4"),
    "metadata.jsonl": ({"a.mp4": None, "metadata.jsonl": '{"file_name": "a.mp4", "text": "A"}'}, {"a.mp4": "A"}, ""),
    "metadata.csv": ({"a.mp4": None, "metadata.csv": "file_name,text\na.mp4,a, A\n"}, {"a.mp4": "a, A"}, ""),
    "table and file": ({"a.mp4": None, "a.txt": "B", "m.csv": "file_name,text\na.mp4,A\n", "b.mp4": None, "b.txt": "B"},
        {"b.mp4": "B"}, "1 with captions that differ: a.mp4 (its own file and a table)"),
    "missing in a table": ({"a.mp4": None, "captions.csv": "file,text\na.mp4,A\nz.mp4,Z\n"}, {"a.mp4": "A"},
        "1 missing: "),
    "lines": ({"v/a.mp4": None, "v/b.mp4": None, "videos.txt": "v/b.mp4\nv/a.mp4\n", "prompts.txt": "B\nA\n"},
        {"v/a.mp4": "A", "v/b.mp4": "B"}, ""),
    "other folder": ({"videos/1.mp4": None, "labels/1.txt": "A"}, {"videos/1.mp4": "A"},
        "1 with a caption of the same name in another folder: videos/1.mp4"),
    "prompts alone": ({"a.mp4": None, "b.mp4": None, "c.mp4": None, "c.txt": "C", "prompts.txt": "A\nB\n"},
        {"c.mp4": "C"}, "2 without a caption, while there are captions that belong to no clip: a.mp4, b.mp4"),
    "other names": ({"a.mp4": None, "a_text.txt": "A", "b.mp4": None, "b.txt": "B"},
        {"b.mp4": "B"}, "texts that belong to no clip (not used; that of `a.mp4` is `a.txt`): a_text.txt"),
    "broken table": ({"a.mp4": None, "metadata.csv": "name_of_it,words\na.mp4,A\n", "b.mp4": None, "b.txt": "B"},
        {"b.mp4": "B"}, "1 tables that cannot be read: metadata.csv"),
    "unknown key": ({"a.mp4": None, "a.json": '{"long_caption": "A"}', "b.mp4": None, "b.txt": "B"},
        {"b.mp4": "B"}, "is it `long_caption`? Rename that key"),
    "no suffixes": ({"v/a.webm": None, "v/captions.json": '{"a": "A"}'}, {"v/a.webm": "A"}, ""),
    "no suffixes, two files": ({"a.mp4": None, "a.webm": None, "captions.json": '{"a": "A"}'},
        {"a.mp4": "", "a.webm": ""}, "1 missing: "),
    "text of another suffix": ({"a.mp4": None, "a.lab": "A", "b.mp4": None, "b.txt": "B", "b.lab": "x"}, {"b.mp4": "B"},
        "while a text of another suffix lies beside (call it .txt, or take it away): a.mp4 (a.lab)"),
    "subtitles": ({"a.mp4": None, "a.srt": "1"}, {"a.mp4": ""}, "1 without a caption (an empty one is used): a.mp4"),
    "about the folder": ({"a.mp4": None, "README.txt": "A", "x.bin": "x"}, {"a.mp4": ""},
        "1 without a caption (an empty one is used): a.mp4"),
}  # fmt: skip


@pytest.mark.parametrize("case", FOLDERS)
def test_folders(case: str, make: Callable[..., Path]) -> None:
    files, expected, word = FOLDERS[case]
    given = config(make(**files))
    assert captions(given) == expected
    report = said(given)
    assert word in report and ("cannot be used" in report) == ("bad:" in report)
    assert word or "note:" not in report


def test_lines_that_do_not_fit(make: Callable[..., Path]) -> None:
    folder = make(**{"a.mp4": None, "videos.txt": "a.mp4\n", "prompts.txt": "A\nB\n"})
    assert "videos.txt: has 1 lines, prompts.txt beside it 2" in said(config(folder))


def test_utf16_captions(make: Callable[..., Path]) -> None:
    folder = make(**{"a.mp4": None, "a.txt": "ein Füchslein".encode("utf-16"), "b.mp4": None, "b.txt": b"F\xfcchse"})
    assert captions(config(folder)) == {"a.mp4": "ein Füchslein"}
    assert "1 with a caption that is not UTF-8: b.mp4" in said(config(folder))
    assert encoding_of("für".encode("utf-32")) == "utf-32" and encoding_of(b"a") == "utf-8-sig"


def frames(folder: Path, count: int, first: int = 0, name: str = "{:04d}.png") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        Image.fromarray(numbered_frame(first + number)).save(folder / name.format(number))


def test_folders_of_frames(make: Callable[..., Path]) -> None:
    folder = make(**{"c.mp4": None, "c.txt": "C", "A.txt": "a walk", "B/caption.txt": "a run"})
    frames(folder / "A", 6, 20)
    frames(folder / "B", 12, 40, "run_{}.png")
    given = config(folder)
    assert captions(given) == {"c.mp4": "C", "A": "a walk", "B": "a run"} and "note:" not in said(given)
    dataset: Any = open_dataset(given)
    shown = numbers(dataset[2]["frames"])
    assert shown == list(range(shown[0], shown[0] + 4)) and 40 <= shown[0] <= 48, "10 comes behind 9"
    key = dataset[2]["key"]
    os.utime(folder / "B" / "run_3.png", (1, 1))
    assert dataset[2]["key"] != key
    shutil.rmtree(folder / "B")
    assert dataset[2]["bad"][0][0] == "B"
    (folder / "A" / "0003.png").unlink()
    assert "1 folders of frames with gaps in their numbers: A" in said(given)
    Image.new("RGB", (8, 8)).save(folder / "A" / "0003.png")
    assert "its frames are of different sizes" in said(given)
    assert dataset[1]["bad"] == [("A", "its frames are of different sizes (8x8 and 96x48)")]


def test_only_folders_of_frames_and_one_alone(tmp_path: Path) -> None:
    frames(tmp_path / "x" / "A", 6, 20)
    assert captions(config(tmp_path / "x")) == {"A": ""}
    (tmp_path / "x" / "A.txt").write_text("a walk")
    assert captions(config(tmp_path / "x" / "A")) == {"A": "a walk"}
    assert len(captions(config(tmp_path / "x", num_frames=1))) == 6, "single images where these are asked for"
    (tmp_path / "l.jsonl").write_text('{"video": "x/A", "text": "A"}')
    assert captions(config(tmp_path / "l.jsonl")) == {"x/A": "A"}


def test_animated_images(tmp_path: Path) -> None:
    images = [Image.fromarray(numbered_frame(number)) for number in range(6)]
    for name in ("a.gif", "b.webp", "c.png", "d.apng"):
        options: dict[str, Any] = {"format": "PNG"} if name.endswith("png") else {}
        images[0].save(tmp_path / name, save_all=True, append_images=images[1:], duration=100, **options)
        (tmp_path / name).with_suffix(".txt").write_text(name)
    Image.new("RGB", (9, 9)).save(tmp_path / "still.png")
    given = config(tmp_path)
    assert captions(given) == {name: name for name in ("a.gif", "b.webp", "c.png", "d.apng")}
    assert "1 .png files beside them are not used: still.png" in said(given)
    dataset: Any = open_dataset(given)
    assert all(np.diff(numbers(dataset[index]["frames"])).tolist() == [1, 1, 1] for index in range(4))
    (tmp_path / "a.gif").unlink()
    (tmp_path / "d.apng").unlink()
    assert len(captions(given)) == 2, "without a suffix of a video as well"


def test_images_among_videos(make: Callable[..., Path]) -> None:
    """One-frame clips where single frames will do; elsewhere those that have a caption stop the run."""
    folder = make(**{"a.mp4": None, "a.txt": "A", "b.txt": "B"})
    for name in ("a.png", "b.png", "c.png"):
        Image.new("RGB", (96, 48), "red").save(folder / name)
    report = said(config(folder))
    assert "1 images, not clips: b.png" in report and "data.num_frames: 1" in report
    assert "1 images that bear the name of a video (left out): a.png" in report
    assert "1 .png files beside them are not used: c.png" in report
    expected = {"a.mp4": "A", "b.png": "B", "c.png": ""}
    assert captions(config(folder, num_frames=1)) == captions(config(folder, camera="ZoomIn")) == expected
    assert "3 opened, 3 of these good" in said(config(folder, num_frames=1))


def samples(path: Path) -> dict[str, str]:
    """The captions of a shard by clip, or the fault of a sample."""
    from animatediff.media.kinds import BadMedia
    from animatediff.training.data.samples import parts_of

    found = {}
    for sample in read_samples(str(path)):
        try:
            parts = parts_of(sample)
            found[parts.name] = parts.text
        except BadMedia as error:
            found[sample.name] = f"bad: {error}"
    return found


def pack(path: Path, *names: str, mode: Any = "w") -> Path:
    """A shard of files in this order; captions hold their names, `=x` behind a name is another content."""
    with tarfile.open(path, mode) as tar:
        for entry in names:
            name, _, content = entry.partition("=")
            member = tarfile.TarInfo(name)
            data = (content or name).encode()
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


SHARDS: dict[str, tuple[tuple[str, ...], dict[str, str]]] = {
    "dots": (("T 2.0.mp4", "T 2.0.txt", "T 2.1.mp4", "T 2.1.txt", "T 2.10.mp4", "T 2.10.txt"),
        {f"T 2.{n}.mp4": f"T 2.{n}.txt" for n in (0, 1, 10)}),
    "suffixes": (("0.mp4", "0.caption", "1.mp4", "1.output.txt", "2.mp4", "2.mp4.txt", "3.mp4", "3.TXT"),
        {"0.mp4": "0.caption", "1.mp4": "1.output.txt", "2.mp4": "2.mp4.txt", "3.mp4": "3.TXT"}),
    "empty text": (("0.mp4", "0.txt= ", '0.json={"caption": "full"}'), {"0.mp4": "full"}),
    "records": (("0.mp4", "0.txt=A", '0.json={"caption": "A"}', "0.info.json=[]", "1.mp4", '1.json={"key": 1}'),
        {"0.mp4": "A", "1.mp4": ""}),
    "further videos": (("0.depth.mp4", "0.mp4", "0.poster.jpg", "0.txt"), {"0.mp4": "0.txt"}),
    "differing": (("0.mp4", "0.txt", "0.caption"), {"0": "bad: caption, txt differ; keep one of them"}),
    "one for two": (("0.left.mp4", "0.right.mp4", "0.txt"),
        {"0": "bad: 0.txt is the caption of several files (0.left.mp4, 0.right.mp4); give each its own"}),
    "other suffixes": (("0.mp4", "0.lab=A fox", "1.mp4", "1.cls=3", "2.mp4", "2.lab=A", "2.txt= "),
        {"0": "bad: no caption, while .lab is a text", "1.mp4": "", "2.mp4": ""}),
    "unknown key": (("0.mp4", '0.json={"long_caption": "A"}'), {"0": "bad: no caption under text, caption"}),
}  # fmt: skip
APART: dict[str, tuple[tuple[str, ...], dict[str, str]]] = {
    "unsorted": (("0.mp4", "1.mp4", "1.txt", "2.mp4", "0.txt"), {"0.mp4": "0.txt", "1.mp4": "1.txt", "2.mp4": ""}),
    "texts first": (("0.txt", "1.txt", "0.mp4", "1.mp4"), {"0.mp4": "0.txt", "1.mp4": "1.txt"}),
    "dots unsorted": (("a.0.mp4", "a.1.mp4", "b.mp4", "a.0.txt", "a.1.txt"),
        {"a.0.mp4": "a.0.txt", "a.1.mp4": "a.1.txt", "b.mp4": ""}),
}  # fmt: skip


@pytest.mark.parametrize("case", [*SHARDS, *APART])
def test_shards(case: str, tmp_path: Path) -> None:
    names, expected = (SHARDS | APART)[case]
    path = pack(tmp_path / "x.tar", *names)
    found = samples(path)
    assert found.keys() == expected.keys() and all(found[name].startswith(expected[name]) for name in found)
    whole = list(read_samples(str(path)))
    for sample in whole:
        rest = list(read_samples(str(path), sample.begin))
        assert rest == whole[len(whole) - len(rest) :] and rest[0] == sample
    packed = pack(tmp_path / "x.tar.gz", *names, mode="w:gz")
    if case in SHARDS:
        assert samples(packed) == found
    else:
        with pytest.raises(UserError, match=r"lies apart from it.*pack it anew with `tar --sort=name`"):
            samples(packed)


def test_clips_of_one_name_in_a_shard_stay_apart(tmp_path: Path) -> None:
    path = pack(tmp_path / "x.tar", "0.mp4=one", "0.txt=A", "0.mp4=two", "0.txt=B")
    assert [sample.files for sample in read_samples(str(path))] == [
        {"mp4": b"one", "txt": b"A"}, {"mp4": b"two", "txt": b"B"}
    ]  # fmt: skip


def test_many_clips_with_dots_come_as_a_stream(tmp_path: Path) -> None:
    names = [f"a.{n:03d}.{suffix}" for n in range(200) for suffix in ("mp4", "txt")]
    packed = pack(tmp_path / "x.tar.gz", *names, mode="w:gz")
    assert samples(packed) == {f"a.{n:03d}.mp4": f"a.{n:03d}.txt" for n in range(200)}


def test_shards_one_behind_the_other_links_and_damage(tmp_path: Path) -> None:
    first = pack(tmp_path / "a.tar", "0.mp4", "0.txt").read_bytes()
    second = pack(tmp_path / "b.tar", "1.mp4", "1.txt").read_bytes()
    (tmp_path / "x.tar").write_bytes(first + second)
    assert samples(tmp_path / "x.tar") == {"0.mp4": "0.txt", "1.mp4": "1.txt"}
    damaged = bytearray(pack(tmp_path / "c.tar", "0.mp4", "0.txt", "1.mp4", "1.txt").read_bytes())
    damaged[2 * 1024 : 2 * 1024 + 512] = b"x" * 512
    (tmp_path / "c.tar").write_bytes(damaged)
    with pytest.raises(Exception, match="damaged at byte 2048"):
        samples(tmp_path / "c.tar")
    with tarfile.open(tmp_path / "l.tar", "a") as tar:
        for name, to in (("0.mp4", ""), ("1.mp4", "0.mp4"), ("2.mp4", "gone.mp4")):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = (tarfile.LNKTYPE, to) if to else (tarfile.REGTYPE, "")
            tar.addfile(member, io.BytesIO())
    found = samples(tmp_path / "l.tar")
    assert found == {"0.mp4": "", "1.mp4": "", "2": "bad: 2.mp4 is a link to gone.mp4, which is not in the shard"}


def test_the_check_of_shards_says_what_is_not_used(tmp_path: Path, clip: bytes) -> None:
    write_shard(tmp_path / "x.tar", [("0", {"mp4": clip, "txt": b"A", "cls": b"1", "depth.mp4": clip})])
    assert "2 files of samples that are not used: cls, depth.mp4" in said(config(tmp_path / "x.tar"))
    names = [(f"{n}", {"mp4": clip}) for n in range(9)] + [(f"{n}", {"txt": b"A"}) for n in range(9)]
    write_shard(tmp_path / "y.tar.gz", names, "w:gz")
    assert "the caption of 0 lies apart from it" in said(config(tmp_path / "y.tar.gz"))
    (tmp_path / "below").mkdir()
    shutil.move(tmp_path / "x.tar", tmp_path / "below" / "x.tar")
    (tmp_path / "y.tar.gz").unlink()
    assert "1 shards listed" in said(config(tmp_path, kind="webdataset")), "in folders below as well"


def test_fps_takes_clips_by_time(tmp_path: Path) -> None:
    """The same second at 8, 24 and 60 frames a second gives the same moments, whatever the format rounds."""
    for fps, name in ((8, "8.mp4"), (24, "24.webm"), (60, "60.mp4"), (24, "24.gif")):
        moments = [numbered_frame(round(240 * number / fps) & 255) for number in range(fps)]
        write_video(np.stack(moments), tmp_path / name, fps=fps)
    for fps, expected in ((8, [0, 30, 60, 90, 120, 150, 180, 210]), (4, [0, 60, 120, 180])):
        dataset: Any = open_dataset(config(tmp_path, fps=fps, num_frames=len(expected)))
        for index, step in enumerate((10, 10, 4, 30)):  # frames of 24.gif, 24.webm, 60.mp4, 8.mp4
            shown = [value // step * step for value in expected]
            assert numbers(dataset[index]["frames"]) == shown
    dataset = open_dataset(config(tmp_path, fps=8, stride=2, num_frames=4))
    for index in range(4):
        assert np.diff(numbers(dataset[index]["frames"])).tolist() == [60, 60, 60]
    report = said(config(tmp_path, fps=24, num_frames=9, stride=1))
    assert "9 frames at 24 a second, at 96x48" in report
    assert re.search(r"1 opened slower than data\.fps, so that frames repeat: 8\.mp4", report)
    report = said(config(tmp_path, fps=8, num_frames=9, stride=1))
    assert "4 shorter than a clip" in report and "lasts 1 s, 1.12 s are needed for 9 frames" in report
    assert DataConfig(path="x", fps=8).stride == 1 and DataConfig(path="x", fps=8, stride=4).stride == 4
    assert "2 opened too short for data.stride" not in said(config(tmp_path, num_frames=8, stride=1))
    assert "1 opened too short for data.stride, so that a smaller one is taken" in said(config(tmp_path, stride=4))


def test_folders_of_frames_play_at_fps(tmp_path: Path) -> None:
    frames(tmp_path / "A", 8)
    dataset: Any = open_dataset(config(tmp_path, fps=5))
    assert np.diff(numbers(dataset[0]["frames"])).tolist() == [1, 1, 1]


def test_the_middle_of_a_video_is_decoded(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 255, (60, 48, 96, 3)).astype(np.uint8)
    content = bytearray(write_video(noise, tmp_path / "a.mp4", fps=24).read_bytes())
    size = len(content)
    content[size * 2 // 5 : size * 3 // 5] = bytes(size * 3 // 5 - size * 2 // 5)
    (tmp_path / "a.mp4").write_bytes(content)
    assert "1 unreadable: a.mp4 (cannot be decoded" in said(config(tmp_path))
