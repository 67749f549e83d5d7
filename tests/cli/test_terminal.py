"""Commands on terminals of every encoding, with names of every kind, ended by signals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from support.paths import ROOT

from animatediff.errors import UserError
from animatediff.render import build_request
from animatediff.render.names import slug
from animatediff.render.read.result import load_result
from animatediff.render.record import write_sidecar
from animatediff.render.request_inputs import whole_text

COMMANDS = """
import sys
from animatediff.cli.main import main
out, prompt = sys.argv[1:]
small = ["--steps", "1", "--num-frames", "2", "--width", "32", "--height", "32"]
for arguments in (
    ["animate", "a fox \\u72d0", *small, "--out", out],
    ["animate", prompt, *small],
    ["animate", "--from", out, "--out", "again: [bold]:fox:.gif"],
    ["evaluate", out, "again: [bold]:fox:.gif"],
    ["inspect", out],
    ["animate", "--help"],
):
    sys.argv = ["animatediff", *arguments]
    try:
        main()
    except SystemExit as end:
        print("code", end.code or 0, flush=True)
"""


def started(code: str, *arguments: str | bytes, folder: Path, **environment: str) -> subprocess.CompletedProcess[bytes]:
    plain = {key: value for key, value in os.environ.items() if not key.startswith(("LC_", "LANG", "PYTHONUTF8"))}
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=folder,
        env={**plain, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        timeout=300,
    )


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="names of files are bytes")
@pytest.mark.parametrize(
    "environment",
    [
        {"PYTHONIOENCODING": "ascii"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    ],
)
def test_a_terminal_without_utf8_gets_every_line(tmp_path: Path, environment: dict[str, str]) -> None:
    done = started(COMMANDS, "ü: 狐.gif".encode(), "a fox ü 狐".encode(), folder=tmp_path, **environment)
    output = done.stdout.decode("ascii")
    assert done.returncode == 0 and b"Traceback" not in done.stderr, done.stderr
    assert [line for line in output.splitlines() if line.startswith("code")] == [
        "code 0", "code 0", "code 0", "code 0", "code 2", "code 0"
    ]  # fmt: skip
    expected = (b"animatediff: ", b"the bundled model was not trained on th", b" asks for:", b"  --", b"  PROMPT ")
    said = [line for line in done.stderr.splitlines() if not any(text in line for text in expected)]
    assert not said, "nothing but the message of inspect, words that are not known, and what --from takes"
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {name for file in ("ü: 狐.gif", "again: [bold]:fox:.gif") for name in (file, f"{file}.json")} | {
        "samples"
    }
    assert "again: [bold]:fox:.gif" in output and "deg" in output
    (request,) = (load_result(str(path)) for path in (tmp_path / "samples").glob("*.json"))
    assert request.prompt == ("a fox ü 狐",)


@pytest.mark.slow
def test_python_says_nothing_that_nobody_asked_for(tmp_path: Path) -> None:
    code = """
from animatediff.pipelines import AnimateDiffPipeline
pipe = AnimateDiffPipeline.from_bundled()
pipe.save_pretrained("model")
AnimateDiffPipeline.from_pretrained("model")("a fox", num_frames=2, num_inference_steps=1, width=32, height=32)
"""
    done = started(code, folder=tmp_path)
    bars = [line for line in done.stderr.splitlines() if line.strip() and b"it/s]" not in line and b"?it" not in line]
    assert done.returncode == 0 and not bars and not done.stdout, done.stderr


@pytest.mark.skipif(os.name != "posix", reason="terminals and signals of POSIX")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_brings_the_cursor_back_and_leaves_nothing_half_written(tmp_path: Path, number: int) -> None:
    import pty

    code = """
import os, signal, time
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # whatever started the tests may have them ignored, as nohup does
from animatediff.cli.progress import progress_bar
from animatediff.cli.terminal import ending
from animatediff.files import AtomicFile
with ending(), AtomicFile("clip.mp4") as file, progress_bar(False):
    os.write(1, b"begun\\n")
    time.sleep(600)
"""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=theirs,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm"},
    )
    os.close(theirs)
    shown: list[bytes] = []
    reader = threading.Thread(target=_read_all, args=(ours, shown))
    reader.start()
    assert process.stdout is not None and process.stdout.readline() == b"begun\n"
    process.send_signal(number)
    assert process.wait(120) == 128 + number
    reader.join(120)
    process.stdout.close()
    text = b"".join(shown)
    assert text.rindex(b"\x1b[?25h") > text.rindex(b"\x1b[?25l"), "the cursor is shown again"
    assert f"stopped by {signal.Signals(number).name}".encode() in text
    assert not list(tmp_path.iterdir())


def _read_all(descriptor: int, into: list[bytes]) -> None:
    try:
        while part := os.read(descriptor, 4096):
            into.append(part)
    except OSError:  # the other end is closed
        pass
    os.close(descriptor)


def test_texts_whose_bytes_a_locale_could_not_read_are_read_as_utf8() -> None:
    unread = "a fox ü".encode().decode("ascii", "surrogateescape")
    assert whole_text([unread, {8: unread}, 1]) == ["a fox ü", {8: "a fox ü"}, 1]
    assert build_request({"prompt": unread, "prompt_travel": {8: unread}}).prompt == ("a fox ü",)
    with pytest.raises(UserError, match=r"prompt.*no UTF-8"):
        build_request({"prompt": "a fox \udcff"})


def test_records_keep_names_that_are_no_utf8(tmp_path: Path) -> None:
    """As archives of other systems leave them."""
    sidecar = write_sidecar(tmp_path / "a.gif", {"request": {"video": "caf\udce9.mp4"}})
    assert json.loads(sidecar.read_text("utf-8")) == {"request": {"video": "caf\udce9.mp4"}}


def test_default_names_have_letters_that_files_can_have(monkeypatch: pytest.MonkeyPatch) -> None:
    assert slug("a fox ü 狐") == "a-fox-ü-狐"
    monkeypatch.setattr(sys, "getfilesystemencoding", lambda: "ascii")
    assert slug("a fox ü 狐") == "a-fox"
    assert slug("狐") == "clip"
