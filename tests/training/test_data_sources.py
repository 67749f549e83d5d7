"""Every kind of training data, and what is said about bad ones before training."""

from __future__ import annotations

import json
import os
import pickle
import random
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from pydantic import ValidationError
from support.videos import numbered_video, numbers, write_rows, write_shard

from animatediff.errors import UserError
from animatediff.training.data import DataConfig, check_data, open_dataset
from animatediff.training.data.clip import Draw
from animatediff.training.data.dataset import read_frames
from animatediff.training.data.items import Item, ItemList
from animatediff.training.data.sources import kind_of

SMALL: dict[str, Any] = {"num_frames": 4, "stride": 2, "height": 48, "width": 96}


def config(path: Path, **settings: Any) -> DataConfig:
    return DataConfig(path=str(path), **{**SMALL, **settings})


def noise(size: int = 3000) -> bytes:
    rng = random.Random(size)
    return bytes(rng.randrange(256) for _ in range(size))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Videos a (frames 0-23), b (100-123), and c in a folder below (200-211)."""
    folder = tmp_path_factory.mktemp("videos")
    numbered_video(folder / "a.mp4", 24, "a fox\nruns")
    numbered_video(folder / "b.webm", 24, "\ufeffein Füchslein 🦊", first=100)
    numbered_video(folder / "below" / "c.mp4", 12, first=200)
    return folder


def texts(given: DataConfig) -> dict[str, str]:
    dataset: Any = open_dataset(given)
    items = [dataset[i] for i in range(len(dataset))]
    assert all(item["frames"].shape == (given.num_frames, 3, given.height, given.width) for item in items)
    assert all(item["frames"].min() >= -1 and item["frames"].max() <= 1 for item in items)
    return {item["key"].split("#")[0]: item["text"] for item in items}


def test_folder_of_videos(folder: Path) -> None:
    given = config(folder)
    assert kind_of(given) == "folder"
    assert texts(given) == {"a.mp4": "a fox runs", "b.webm": "ein Füchslein 🦊", "below/c.mp4": ""}
    report = check_data(given)
    assert (report.num_listed, report.num_found, report.num_opened, report.bad_share) == (3, 3, 3, 0)
    assert "1 without a caption" in str(report) and "c.mp4" in str(report)


def test_clips_have_the_stride_and_lie_in_the_video(folder: Path) -> None:
    dataset: Any = open_dataset(config(folder, seed=5))
    starts = set()
    for epoch in range(12):
        shown = numbers(dataset[epoch, 0]["frames"])
        assert shown == list(range(shown[0], shown[0] + 8, 2)) and shown[0] >= 0 and shown[-1] < 24
        starts.add(shown[0])
        assert numbers(dataset[epoch, 1]["frames"])[0] >= 100
    assert len(starts) > 5
    assert numbers(dataset[3, 0]["frames"]) == numbers(dataset[3, 0]["frames"])


def test_short_videos_get_the_largest_stride_that_fits(folder: Path) -> None:
    dataset: Any = open_dataset(config(folder, stride=8))
    assert numbers(dataset[2]["frames"]) in ([200, 203, 206, 209], [201, 204, 207, 210], [202, 205, 208, 211])


def test_single_frames_come_from_the_whole_video(folder: Path) -> None:
    dataset: Any = open_dataset(config(folder, num_frames=1))
    seen = {numbers(dataset[epoch, 0]["frames"])[0] for epoch in range(40)}
    assert min(seen) < 4 and max(seen) > 19 and len(seen) > 12


def test_webvid_csv(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text(
        "videoid,contentUrl,page_dir,name\n"
        'a,http://x/a,,"A fox, running"\nc,http://x/c,below,Turtle\na,,,"A fox, running"\n'
    )
    given = config(tmp_path / "list.csv", video_folder=str(folder))
    assert kind_of(given) == "csv"
    assert texts(given) == {"a": "A fox, running", "c": "Turtle"}
    assert "1 named again with the same caption (left out): a" in str(check_data(given))


def test_csv_with_names_of_files(folder: Path, tmp_path: Path) -> None:
    (folder / "list.csv").write_text("file,caption\na.mp4,fox\nbelow/c.mp4,turtle\n")
    assert texts(config(folder / "list.csv")) == {"a.mp4": "fox", "below/c.mp4": "turtle"}


@pytest.mark.parametrize(("file", "text"), [("video", "text"), ("file", "caption"), ("path", "prompt")])
def test_jsonl(folder: Path, tmp_path: Path, file: str, text: str) -> None:
    rows = [{file: "a.mp4", text: "one"}, {file: str(folder / "below" / "c.mp4"), text: "two", "more": 1}]
    given = config(write_rows(tmp_path / "list.jsonl", rows), video_folder=str(folder))
    assert kind_of(given) == "jsonl"
    assert list(texts(given).values()) == ["one", "two"]


def test_pictures(tmp_path: Path) -> None:
    for name, colour in (("a.png", "red"), ("b.jpg", "blue"), ("c.webp", "green")):
        Image.new("RGB", (120, 90), colour).save(tmp_path / name)
        (tmp_path / name).with_suffix(".txt").write_text(f"all {colour}")
    given = config(tmp_path, num_frames=1)
    assert kind_of(given) == "pictures"
    assert texts(given) == {"a.png": "all red", "b.jpg": "all blue", "c.webp": "all green"}
    assert texts(config(tmp_path, camera="PanRight")) == texts(given)
    with pytest.raises(
        UserError, match=r"single frames, but data.num_frames=4; set data.num_frames: 1, or data.camera"
    ):
        check_data(config(tmp_path))


def test_shards_are_found_by_their_names(tmp_path: Path) -> None:
    for name in ("x-0.tar", "x-1.tar"):
        write_shard(tmp_path / name, [])
    assert kind_of(config(tmp_path / "x-{0..1}.tar")) == "webdataset"
    assert kind_of(config(tmp_path)) == "webdataset"
    assert kind_of(DataConfig(path="https://example.org/{0..9}.tar")) == "webdataset"


def refusal(given: DataConfig) -> str:
    """What the check and opening both say; opening may be content with less."""
    with pytest.raises(UserError) as caught:
        check_data(given)
    return str(caught.value)


COLUMNS = {
    "id,name,page_dir\n1,a fox,x\n": "columns missing: videoid; found 3: id, name, page_dir; expected videoid, name",
    "VideoID,Name\n1,a\n": "Did you mean VideoID -> videoid, Name -> name",
    "1066674784,Merida mexico,007401_007450\n": "is the line with the names of the columns missing?",
    "VideoID;Name\n1;a, b\n": "Did you mean VideoID -> videoid, Name -> name",
    "": "is empty; expected a first line with the columns",
    "videoid,name\n": "holds no rows",
}


@pytest.mark.parametrize("content", COLUMNS)
def test_csv_without_its_columns(tmp_path: Path, content: str) -> None:
    path = tmp_path / "list.csv"
    path.write_text(content)
    for act in (check_data, open_dataset):
        with pytest.raises(UserError) as caught:
            act(config(path))
        assert COLUMNS[content] in str(caught.value) and str(path) in str(caught.value)


def test_jsonl_without_its_keys(tmp_path: Path) -> None:
    message = refusal(config(write_rows(tmp_path / "a.jsonl", [{"clip": "a.mp4", "words": "x"}])))
    assert "no line names a video" in message and "keys found: clip, words" in message


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.json"])
def test_a_video_under_the_name_of_a_table(folder: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes((folder / "a.mp4").read_bytes())
    message = refusal(config(tmp_path / name))
    assert f"{name}: is a video (MP4 or MOV); kind: " in message and "expects a table or JSON as text" in message


def test_empty_folder(tmp_path: Path) -> None:
    assert "holds no videos" in refusal(config(tmp_path)) and "no files at all" in refusal(config(tmp_path))
    (tmp_path / "a.txt").write_text("x")
    (tmp_path / "b.zip").write_text("x")
    assert "found: 1 .zip" in refusal(config(tmp_path))
    Image.new("RGB", (9, 9)).save(tmp_path / "c.png")
    assert "set kind: pictures" in refusal(config(tmp_path, kind="folder"))


def test_no_such_place(folder: Path) -> None:
    assert "no such file or folder" in refusal(config(folder / "nothing"))
    assert "did you mean 'a.mp4'?" in refusal(config(folder / "aa.mp4"))
    assert "expected a .csv or .jsonl file" in refusal(config(folder / "a.mp4"))
    assert "kind: folder takes a folder" in refusal(config(folder, kind="csv"))
    assert "is a file; kind: pictures expects a folder" in refusal(
        config(folder / "a.mp4", kind="pictures", num_frames=1)
    )


def bad_folder(folder: Path) -> Path:
    """Seven good videos and as many bad ones as there are ways."""
    numbered_video(folder / "good0.mp4", 12, "good")
    for i in range(1, 7):
        os.link(folder / "good0.mp4", folder / f"good{i}.mp4")
        (folder / f"good{i}.txt").write_text("good")
    (folder / "text.mp4").write_text("these are words")
    (folder / "noise.mp4").write_bytes(noise())
    (folder / "empty.mp4").touch()
    numbered_video(folder / "short.mp4", 3, "three frames")
    os.link(folder / "good0.mp4", folder / "latin.mp4")
    (folder / "latin.txt").write_bytes("ein Füchslein".encode("latin-1"))
    return folder


def test_bad_videos_are_counted_and_stop_the_run(tmp_path: Path) -> None:
    message = refusal(config(bad_folder(tmp_path)))
    assert "42% of the data cannot be used, at most 10% may be (data.max_bad)" in message
    assert "12 items listed, 11 found; 11 opened, 7 of these good" in message
    assert "1 with a caption that is not UTF-8: latin.mp4" in message
    assert "1 shorter than a clip: short.mp4 (has 3 frames, 4 are needed)" in message
    assert "3 unreadable: empty.mp4 (is empty (0 bytes)), noise.mp4 (cannot be" in message
    assert "text.mp4 (is a text file)" in message
    report = check_data(config(tmp_path, max_bad=0.5))
    assert report.bad_share == pytest.approx(5 / 12)


def test_bad_videos_met_later_are_replaced_and_named(tmp_path: Path) -> None:
    dataset: Any = open_dataset(config(bad_folder(tmp_path)))
    assert len(dataset) == 11  # all but the one whose caption cannot be read
    seen = {}
    for epoch in range(3):
        for index in range(11):
            item = dataset[epoch, index]
            assert item["text"] == "good" and numbers(item["frames"]) == numbers(dataset[epoch, index]["frames"])
            seen.update(item["bad"])
    assert seen.keys() == {"empty.mp4", "noise.mp4", "short.mp4", "text.mp4"}
    assert seen["text.mp4"] == "is a text file"


def test_nothing_usable_is_no_endless_loop(tmp_path: Path) -> None:
    for i in range(3):
        (tmp_path / f"{i}.mp4").write_bytes(noise())
    assert "no usable clips in" in refusal(config(tmp_path, max_bad=1.0))
    dataset: Any = open_dataset(config(tmp_path))
    with pytest.raises(
        UserError, match=r"10 clips drawn one after the other could not be used, the last of them .*mp4: "
    ):
        dataset[0]


def test_files_that_go_away_during_training(folder: Path, tmp_path: Path) -> None:
    numbered_video(tmp_path / "a.mp4", 12, "stays")
    numbered_video(tmp_path / "b.mp4", 12, "goes")
    dataset: Any = open_dataset(config(tmp_path))
    (tmp_path / "b.mp4").unlink()
    item = dataset[1]
    assert item["text"] == "stays" and item["bad"][0] == ("b.mp4", "cannot be opened (No such file or directory)")


def test_bad_rows(folder: Path, tmp_path: Path) -> None:
    lines = [
        json.dumps({"video": "a.mp4", "text": "good"}), "{not json", "[1, 2]", json.dumps({"text": "no file"}),
        json.dumps({"video": "missing.mp4", "text": "x"}), json.dumps({"video": "a.mp4", "text": 5}),
    ]  # fmt: skip
    content = "\n".join(lines).encode() + b'\n{"video": "b.webm", "text": "F\xfcchslein"}\n'
    (tmp_path / "a.jsonl").write_bytes(content)
    message = refusal(config(tmp_path / "a.jsonl", video_folder=str(folder)))
    for part in (
        "7 items listed, 1 found; 1 opened, 1 of these good", "rows unusable: not JSON: line 2",
        "not a JSON object: line 3", "rows name no file: line 4", f"1 missing: {folder / 'missing.mp4'}",
        "caption that is no text: a.mp4 (line 6)", "not UTF-8: b.webm (line 7)",
    ):  # fmt: skip
        assert part in message
    assert list(texts(config(tmp_path / "a.jsonl", video_folder=str(folder))).values()) == ["good"]


def test_files_that_lie_elsewhere(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("videoid,name\na,one\nc,two\n")
    message = refusal(config(tmp_path / "a.csv"))
    assert f"They were looked for in {tmp_path}; data.video_folder says where" in message


def test_bad_csv_rows(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"videoid,name\na,good\nonly-one\na,F\xfcchslein\n,nothing\n")
    message = refusal(config(tmp_path / "a.csv", video_folder=str(folder)))
    for part in ("1 values for 2 columns: line 3", "not UTF-8: a (line 4)", "name no file: line 5"):
        assert part in message


def test_pictures_among_the_rows_of_clips(folder: Path, tmp_path: Path) -> None:
    Image.new("RGB", (32, 32)).save(tmp_path / "p.png")
    rows = [{"file": str(folder / "a.mp4"), "text": "x"}, {"file": "p.png", "text": "y"}]
    path = write_rows(tmp_path / "a.jsonl", rows)
    assert "1 images, not clips: p.png" in refusal(config(path))
    assert list(texts(config(path, num_frames=1)).values()) == ["x", "y"]


def test_only_some_files_are_opened(tmp_path: Path) -> None:
    numbered_video(tmp_path / "0.mp4", 12, "x")
    for i in range(1, 30):
        os.link(tmp_path / "0.mp4", tmp_path / f"{i}.mp4")
    report = check_data(config(tmp_path, max_checked=5))
    assert (report.num_listed, report.num_opened) == (30, 5)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such file names")
def test_file_names_that_are_no_utf8(tmp_path: Path) -> None:
    numbered_video(tmp_path / "a.mp4", 12, "x")
    os.rename(tmp_path / "a.mp4", os.fsencode(tmp_path) + b"/F\xfcchslein.mp4")
    (tmp_path / "\udce4.mp4").write_text("words")
    dataset: Any = open_dataset(config(tmp_path))
    item = dataset[0]
    assert item["key"].split("#")[0] == r"F\udcfcchslein.mp4" and item["key"].encode("utf-8")
    assert r"\udce4.mp4" in str(check_data(config(tmp_path, max_bad=0.6)))


def test_datasets_go_to_processes_that_do_not_share_memory(folder: Path) -> None:
    dataset: Any = open_dataset(config(folder))
    other = pickle.loads(pickle.dumps(dataset))
    assert other[2, 1]["key"] == dataset[2, 1]["key"]


def test_a_link_to_a_folder_above_ends(folder: Path, tmp_path: Path) -> None:
    numbered_video(tmp_path / "a.mp4", 12, "x")
    (tmp_path / "again").symlink_to(tmp_path)
    (tmp_path / ".hidden.mp4").write_text("no video")
    assert check_data(config(tmp_path)).num_listed == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "path is missing"),
        ({"path": "x", "look": "neon"}, "look is for kind: sprites"),
        ({"kind": "sprites", "look": "neom"}, "did you mean 'neon'"),
        ({"kind": "sprites", "motions": ["moving"]}, "unknown motions 'moving'; did you mean 'growing'\\? known are "),
        ({"path": "x", "flip": True, "camera": "PanLeft"}, "would turn PanLeft into its opposite"),
        ({"path": "x", "num_frame": 3}, "Extra inputs are not permitted"),
        ({"path": "x", "stride": 0}, "greater than or equal to 1"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        DataConfig(**settings)


def test_items_are_packed() -> None:
    items = ItemList()
    rows = [Item(f"/videos/{i}.mp4", f"Füchslein {i}", f"{i}") for i in range(1000)]
    rows.append(Item("/videos/\udcfc.mp4", "a name that is not UTF-8", "\udcfc"))
    for row in rows:
        items.append(row)
    assert list(items) == rows and items[500] == rows[500]
    with pytest.raises(IndexError):
        items[1001]


def test_files_of_every_kind_are_read_as_elsewhere(tmp_path: Path) -> None:
    """Training reads what `--video` shows: by content, on white, in time; what is left out or changed is noted."""
    images = [Image.new("RGBA", (32, 32), (200, 0, 0, 0)) for _ in range(4)]
    for number, image in enumerate(images):
        image.paste((0, 0, 40 * number, 255), (8, 8, 24, 24))
    lengths = [100, 300, 100, 100]
    images[0].save(tmp_path / "a.gif", save_all=True, append_images=images[1:], duration=lengths, disposal=2)
    images[0].save(tmp_path / "b.webp", save_all=True, append_images=images[1:], duration=100, lossless=True)
    (tmp_path / "b.webp").rename(tmp_path / "b.mp4")
    (tmp_path / "._b.mp4").write_bytes(b"\0\x05\x16\x07")
    config = DataConfig(path=str(tmp_path), num_frames=4, stride=1, height=32, width=32, resize="stretch")
    report = check_data(config)
    assert "hidden name, as macOS puts beside files (left out): ._b.mp4" in str(report)
    for name, blues in (("a.gif", [0, 40, 40, 40]), ("b.mp4", [0, 40, 80, 120])):
        frames = read_frames(str(tmp_path / name), name, config, Draw(start=0.0, x=0.5, y=0.5, mirrored=False))
        assert frames[:, 2, 2].min() == 255, "white where it is transparent"
        assert frames[:, 16, 16, 2].tolist() == blues, "each as long as it is shown"
