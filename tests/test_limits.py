"""Limits: defaults that real work stays below, options, variables, messages; escapes in the log and on the terminal."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from animatediff.cli.main import app
from animatediff.errors import UserError, brief, printable
from animatediff.limits import LIMITS, MAX_FRAMES, limits
from animatediff.media.images import size_like
from animatediff.media.kinds import BadMedia
from animatediff.media.numbered import NumberedFrames
from animatediff.media.stills import check_size, open_image
from animatediff.parse import load_json, parse_json, parse_yaml
from animatediff.pipelines.arguments import Arguments
from animatediff.render import build_request

ROOT = Path(__file__).parents[1]
COMMANDS = {
    "animate": {"media", "config", "weights"},
    "evaluate": {"media"},
    "inspect": {"weights", "config"},
    "convert": {"weights", "config"},
    "data": {"media", "config", "data"},
    "train": {"media", "config", "weights", "data"},
}


def test_real_work_is_below_the_defaults() -> None:
    for size in ((3840, 2160), (7680, 4320), (8192, 8192), (9504, 6336)):
        check_size(*size)
    for wide in ((1920, 1080), (728, 90), (1000, 8000)):
        size_like(wide, 512 * 512)
    build_request({"prompt": "a fox", "num_frames": 10_000, "width": 3840, "height": 2160})
    travel = {str(frame): f"a fox at {frame}" for frame in range(1, 10_000)}
    build_request(parse_json(json.dumps({"prompt": "a fox", "num_frames": 10_000, "prompt_travel": travel}), "x"))
    assert len(parse_yaml("".join(f"- a prompt of number {i}\n" for i in range(10_000)), "x")[0]) == 10_000


@pytest.mark.parametrize("command", COMMANDS)
def test_every_limit_is_an_option(command: str) -> None:
    said = CliRunner().invoke(app, [command, "--help-all"], env={"COLUMNS": "200"}).stdout
    for limit in LIMITS.values():
        assert (f" {limit.flag} " in said) == (limit.room in COMMANDS[command]), limit.name
        if limit.room in COMMANDS[command]:
            assert f"{limit.default:,}" in said


MISTAKES = {
    "animate": ["--config", "none.yaml"],
    "batch": ["none.csv"],
    "convert": ["none.ckpt", "none.safetensors"],
    "serve": ["--models", "none"],
    "train": ["none.yaml"],
    "upscale": ["none.mp4", "--fps-out", "24"],
}


@pytest.mark.parametrize("command", COMMANDS)
def test_help_folds_the_limits(command: str) -> None:
    """One line says where they are; they work all the same, and the next help is folded again."""
    for _ in range(2):
        said = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "200"}).stdout
        assert not [limit.flag for limit in LIMITS.values() if f" {limit.flag} " in said] and " Limits " not in said
        assert "--help-all" in said
        whole = CliRunner().invoke(app, [command, "--help-all"], env={"COLUMNS": "200"})
        assert whole.exit_code == 0 and " Limits " in whole.stdout
        mistake = CliRunner().invoke(app, [command, *MISTAKES.get(command, ["none.x"])])
        assert mistake.exit_code == 2 and mistake.stderr.startswith("animatediff: "), "and the command works"
        shared = set(said.splitlines()) - set(whole.stdout.splitlines())
        assert len(shared) < 3, "and all the rest"


def test_a_limit_by_variable_and_by_context(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANIMATEDIFF_MAX_FRAMES", "10")
    with pytest.raises(UserError, match=r"`num_frames`=11; the limit is 10 frames: take fewer, or raise `max_frames`"):
        build_request({"prompt": "a fox", "num_frames": 11})
    with limits(max_frames=11):
        assert build_request({"prompt": "a fox", "num_frames": 11}).num_frames == 11
    assert MAX_FRAMES.value == 10
    for wrong in ("0", "-3", "many", ""):
        monkeypatch.setenv("ANIMATEDIFF_MAX_FRAMES", wrong)
        with pytest.raises(UserError, match="expected a whole number, at least 1"):
            MAX_FRAMES.check(1, "1 frame")
    with pytest.raises(UserError, match="did you mean 'max_frames'"), limits(max_frame=3):
        pass


def test_a_file_changes_no_limit() -> None:
    with pytest.raises(UserError, match="unknown setting"):
        build_request({"prompt": "a fox", "max_frames": 10**9})


def test_images_at_the_limit(tmp_path: Path) -> None:
    Image.new("L", (40, 30)).save(tmp_path / "x.png")
    with limits(max_pixels=1200):
        assert open_image(tmp_path / "x.png").size == (40, 30)
    before = Image.MAX_IMAGE_PIXELS
    with limits(max_pixels=1199), pytest.raises(UserError, match=r"40 x 30 = 1,200 pixels; the limit is 1,199"):
        open_image(tmp_path / "x.png")
    assert before == Image.MAX_IMAGE_PIXELS
    with pytest.raises(BadMedia):
        check_size(10_000, 10_000)


def test_frame_numbers_beyond_any_clip(tmp_path: Path) -> None:
    for name in ("00000.png", "99999999999999999.png"):
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / name)
    assert len(NumberedFrames.of(tmp_path).indices) == MAX_FRAMES.default


@pytest.mark.parametrize("value", [10**20_000, -(10**20_000), [10**20_000], "9" * 20_000], ids=range(4))
def test_numbers_that_python_does_not_write(value: Any) -> None:
    assert len(brief(value)) < 80
    with pytest.raises(UserError, match="num_frames"):
        build_request({"prompt": "a fox", "num_frames": value})
    with pytest.raises(UserError, match="num_frames"):
        Arguments(prompt="a fox", num_frames=value)


def test_yaml_and_json_are_read_as_before() -> None:
    text = "a: &x {b: 1, c: [1, 0x10, 1_0]}\nd: {<<: *x, b: 2.5}\nf: [*x, ~, 2020-01-01]\n"
    values, lines = parse_yaml(text, "x")
    assert values["a"] == {"b": 1, "c": [1, 16, 10]} and values["d"] == {"b": 2.5, "c": [1, 16, 10]}
    assert values["f"][:2] == [values["a"], None]
    assert lines["a",] == 1 and lines["d", "b"] == 2
    text = '{"a": [1, 2, /* x, ] */ ], // hi\n "b": "x,]//#\\"", # t }\n "c": {"d": -1.5e3,},}'
    assert parse_json(text, "x") == {"a": [1, 2], "b": 'x,]//#"', "c": {"d": -1500.0}}
    with pytest.raises(ValueError, match="delimiter"):
        load_json('{"a" 1}')


@pytest.mark.parametrize(
    ("text", "shown"),
    [("\x1b[31m", "\\x1b[31m"), ("\udc80", "\\udc80"), ("\u202e", "\\u202e"), ("ü\n👩\u200d🚀", "ü\n👩\u200d🚀")],
)
def test_escapes(text: str, shown: str) -> None:
    assert printable(text) == shown
    assert str(UserError(f"a{text}")) == f"a{shown}"


@pytest.mark.parametrize(
    "handler", ["", "logging.basicConfig()", "logging.getLogger().addHandler(logging.NullHandler())"]
)
def test_the_log_is_escaped_and_shown_as_python_shows_it(handler: str) -> None:
    code = f"import logging, animatediff; {handler or None}; log = logging.getLogger('animatediff.media.read'); " + (
        "log.warning('%s: red', '\\x1b[31m'); log.info('\\x1b[32m')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    expected = {"": "\\x1b[31m: red\n", "logging.basicConfig()": "WARNING:animatediff.media.read:\\x1b[31m: red\n"}
    assert done.stderr == expected.get(handler, "")


def test_one_door_to_the_terminal() -> None:
    for path in (ROOT / "animatediff" / "cli").glob("*.py"):
        calls = [node.func for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Call)]
        printing = [func for func in calls if isinstance(func, ast.Name) and func.id == "print"]
        assert not printing or path.name == "show.py", f"{path.name} prints; `show` escapes what files hold"
