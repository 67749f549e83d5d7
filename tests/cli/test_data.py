"""`animatediff data`: a report, a preview, one message for what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image
from support.videos import number_of, numbered_video

from animatediff.cli.main import main
from animatediff.media import read_video
from animatediff.training.data.config import DataConfig, build_data_config
from animatediff.training.data.preview import preview


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr("sys.argv", ["animatediff", "data", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    return int(end.value.code or 0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for i in range(3):
        numbered_video(tmp_path / "clips" / f"{i}.mp4", 12, f"video {i}", first=40 * i)
    return tmp_path / "clips"


def test_report_and_preview(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "look.png"
    settings = ("num_frames=4", "data.stride=2", "height=48", "width=96")
    options = [word for setting in settings for word in ("--set", setting)]
    assert run(monkeypatch, str(folder), *options, "--preview", str(out)) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{folder}: folder of videos; 4 frames, stride 2, at 96x48"
    assert lines[1] == "  3 items listed, 3 found; 3 opened, 3 of these good"
    assert sorted(line.split("  ")[-1] for line in lines[2:5]) == ["video 0", "video 1", "video 2"]
    assert lines[5:] == [str(out)]
    frames, _ = read_video(out)
    assert frames.shape == (4, 2 + 50, 2 + 3 * 98, 3)
    for column, line in enumerate(lines[2:5]):
        shown = [number_of(frame[2:50, 2 + 98 * column : 98 + 98 * column]) for frame in frames]
        assert shown[0] // 40 == int(line[-1]) and shown == list(range(shown[0], shown[0] + 8, 2))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "path is missing"),
        (("clips", "--set", "num_frame=4"), "unknown setting 'num_frame'; did you mean 'num_frames'?"),
        (("clips", "--set", "num_frames=many"), "num_frames='many': input should be a valid integer"),
        (("clips", "--set", "num_frames"), "--set num_frames: expected KEY=VALUE"),
        (("clips", "--set", "num_frames=["), "the value is not valid YAML"),
        (("clips", "--kind", "folders"), "kind='folders': input should be 'auto', 'csv'"),
        (("clip",), "no such file or folder; did you mean 'clips'?"),
        (("clips", "--preview", "a.avi"), "cannot write '.avi'"),
        (("clips", "--set", "num_frames=50"), "no usable clips in clips: folder of videos; 50 frames"),
    ],
)
def test_mistakes_are_one_message(
    folder: Path,
    arguments: tuple[str, ...],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    monkeypatch.chdir(folder.parent)
    assert run(monkeypatch, *arguments) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("animatediff: ") and message in captured.err and "Traceback" not in captured.err
    assert sorted(path.name for path in folder.parent.iterdir()) == ["clips"]


def test_preview_of_pictures_and_of_few_items(tmp_path: Path) -> None:
    Image.new("RGB", (90, 60), "teal").save(tmp_path / "a.png")
    made = preview(DataConfig(path=str(tmp_path), num_frames=1, height=32, width=32), 16)
    assert made.frames.shape == (1, 36, 36, 3) and made.texts == [""] and not made.bad


def test_every_mistake_is_named() -> None:
    with pytest.raises(ValueError, match=r"stride=0: .*\nheight='tall': ") as caught:
        build_data_config({"path": "x", "stride": 0, "height": "tall"})
    assert len(str(caught.value).splitlines()) == 2
