"""Mistakes on the command line with real files: one clear message, exit code 2, and nothing written."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from support.fake_pipeline import loading, noise_pipeline
from support.paths import GOLDEN, ROOT
from typer.testing import CliRunner

from animatediff.cli.main import app
from animatediff.cli.original import main as original

MODEL = ["--model", str(GOLDEN / "v1" / "sd")]
MODULE = ["--motion-module", str(GOLDEN / "v1" / "motion_module.ckpt")]
RAN: list[str] = []


class Payload:
    """Unpickled carelessly, it notes that it ran."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return RAN.append, ("code of the file",)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with one bad file of each kind."""
    monkeypatch.chdir(tmp_path)
    RAN.clear()
    Path("page.ckpt").write_text("<!DOCTYPE html><html><body>Sign in</body></html>")
    Path("pointer.ckpt").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1673262583\n")
    whole = (GOLDEN / "hotshot" / "motion_module.safetensors").read_bytes()
    Path("half.safetensors").write_bytes(whole[: len(whole) // 2])
    torch.save({"state_dict": {"a": torch.ones(2)}, "x": Payload()}, "evil.ckpt")
    Path("none.yaml").write_text("- prompt: []\n")
    Path("typo.yaml").write_text("- prompt: a\n  guidance_scal: 3\n")
    Path("file.txt").write_text("x")
    return tmp_path


CASES: dict[str, tuple[list[str], str]] = {
    "missing file": ([*MODEL, "--motion-module", "mm.ckpt"], "mm.ckpt: no such file"),
    "missing known file": ([*MODEL, "--motion-module", "mm_sd_v15_v2.ckpt"], "add --download"),
    "missing model": (["--model", "sd.safetensors", *MODULE], "sd.safetensors: no such file"),
    "html": ([*MODEL, "--motion-module", "page.ckpt"], "page.ckpt: an HTML page"),
    "html model": (["--model", "page.ckpt", *MODULE], "page.ckpt: an HTML page"),
    "lfs pointer": ([*MODEL, "--motion-module", "pointer.ckpt"], "a Git LFS pointer"),
    "truncated": ([*MODEL, "--motion-module", "half.safetensors"], "half.safetensors: truncated"),
    "code in a pickle": ([*MODEL, "--motion-module", "evil.ckpt"], "would run code"),
    "code in a model": (["--model", "evil.ckpt", *MODULE], "would run code"),
    "code in a lora": ([*MODEL, *MODULE, "--lora", "evil.ckpt:0.5"], "would run code"),
    "motion lora as motion module": (
        [*MODEL, "--motion-module", str(GOLDEN / "v1" / "motion_lora.ckpt")],
        "MotionLoRA, not a motion module",
    ),
    "motion module as lora": ([*MODEL, *MODULE, "--lora", MODULE[1]], "motion module, not a LoRA"),
    "motion module as motion lora": ([*MODEL, *MODULE, "--motion-lora", MODULE[1]], "not a MotionLoRA"),
    "sdxl module on sd 1.5": (
        [*MODEL, "--motion-module", str(GOLDEN / "sdxl" / "motion_module.ckpt")],
        "for SDXL base models, but the base model is SD 1.x",
    ),
    "no frames": ([*MODEL, *MODULE, "--num-frames", "0"], "num_frames=0"),
    "negative frames": ([*MODEL, *MODULE, "--num-frames", "-3"], "num_frames=-3"),
    "size 100": ([*MODEL, *MODULE, "--width", "100"], "width=100: expected a positive multiple of 8 pixels"),
    "empty prompt list": (["--config", "none.yaml"], "no prompt"),
    "unknown scheduler": ([*MODEL, *MODULE, "--scheduler", "eulr"], "did you mean 'euler'?"),
    "seed beyond 64 bits": ([*MODEL, *MODULE, "--seed", str(2**64)], "64 bits"),
    "typo in yaml": (["--config", "typo.yaml"], "typo.yaml, run 1, line 2: unknown setting 'guidance_scal'"),
    "folder that is a file": ([*MODEL, *MODULE, "--out", "file.txt/a.mp4"], "cannot be written"),
    "clip skip": (["--clip-skip", "12"], "clip_skip must be 0 to 1"),
    "too many steps": (["--steps", "60", "--scheduler", "lcm"], "num_inference_steps=60: not with LCMScheduler"),
}


@pytest.mark.parametrize("case", CASES)
def test_one_message_and_nothing_written(place: Path, case: str) -> None:
    arguments, message = CASES[case]
    before = sorted(place.iterdir())
    prompt = [] if "--config" in arguments else ["a fox"]
    result = CliRunner().invoke(app, ["animate", *prompt, *arguments])
    assert result.exit_code == 2, result.stderr
    assert result.stdout == ""
    said = result.stderr.strip().splitlines()
    assert said[-1].startswith("animatediff: ") and message in said[-1]
    assert len(said) == 1 or all(":" in line and "rror" not in line for line in said[:-1])
    assert "Traceback" not in result.stderr
    assert sorted(place.iterdir()) == before
    assert RAN == []


@pytest.mark.parametrize("command", ["inspect", "convert"])
@pytest.mark.parametrize("file", ["page.ckpt", "pointer.ckpt", "half.safetensors", "evil.ckpt", "gone.ckpt"])
def test_inspect_and_convert_refuse_bad_files(place: Path, command: str, file: str) -> None:
    before = sorted(place.iterdir())
    result = CliRunner().invoke(app, [command, file, *(["out.safetensors"] if command == "convert" else [])])
    assert result.exit_code == 2
    assert file in result.stderr and len(result.stderr.strip().splitlines()) == 1
    assert sorted(place.iterdir()) == before
    assert RAN == []


def test_the_original_command_says_the_same(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("run.yaml").write_text("- {prompt: a, motion_module: evil.ckpt}\n")
    assert original(["--config", "run.yaml", "--pretrained_model_path", MODEL[1]]) == 2
    said = capsys.readouterr()
    assert "would run code" in said.err and said.out == ""
    assert not Path("samples").exists() and RAN == []


FULL = """
import json, resource, signal, sys
from pathlib import Path
from typer.testing import CliRunner
from animatediff.cli.main import app
sys.path.insert(0, sys.argv[1])
import pytest
from support.fake_pipeline import loading, noise_pipeline
loading(pytest.MonkeyPatch(), lambda *_: noise_pipeline())
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # writing more than the limit is an error then, as on a full disk
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
results = []
for target in sys.argv[2:]:
    done = CliRunner().invoke(app, ["animate", "noise", "--num-frames", "4", "--quality", "100", "--out", target])
    results.append((target, done.exit_code, done.stdout, done.stderr, [p.name for p in Path().iterdir()]))
print(json.dumps(results))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="the limit on file sizes is POSIX's")
def test_disk_that_fills_up_while_writing(tmp_path: Path) -> None:
    """The operating system really refuses to write on, in the middle of each format."""
    targets = ["a.mp4", "b.webm", "c.gif", "d.webp", "e.apng", "frames"]
    command = [sys.executable, "-c", FULL, str(ROOT / "tests"), *targets]
    work = tmp_path / "work"
    work.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)}
    done = subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True, check=True)
    results = json.loads(done.stdout)
    assert [target for target, *_ in results] == targets
    for target, code, printed, said, left in results:
        assert (code, printed, left) == (2, "", []), (target, said)
        assert f"{target}: cannot be written (File too large)" in said


@pytest.mark.parametrize("moment", ["render", "write"])
def test_ctrl_c_leaves_nothing(place: Path, monkeypatch: pytest.MonkeyPatch, moment: str) -> None:
    """A real SIGINT, while a clip is rendered and while its file is written."""
    from animatediff.media.encode import CodecEncoder

    def interrupt(*_: Any) -> None:
        signal.raise_signal(signal.SIGINT)

    loading(monkeypatch, lambda *_: noise_pipeline(interrupt if moment == "render" else None))
    if moment == "write":
        monkeypatch.setattr(CodecEncoder, "add", interrupt)
    before = sorted(place.iterdir())
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)  # shells ignore it in the background
    try:
        result = CliRunner().invoke(app, ["animate", "noise"])
    finally:
        signal.signal(signal.SIGINT, handler)
    assert (result.exit_code, result.stdout) == (130, "")
    assert result.stderr.strip() == "animatediff: interrupted"
    assert sorted(place.iterdir()) == before
