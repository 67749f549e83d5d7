"""From the command line to files: names, seeds, repeats, and one message for each mistake."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from support.commands import run, watched
from support.fake_pipeline import FakePipeline, loading
from support.paths import ROOT
from support.weight_files import published, write_hollow
from typer.testing import CliRunner

from animatediff.cli.main import app
from animatediff.cli.original import main as original
from animatediff.cli.original import parse
from animatediff.errors import UserError
from animatediff.media import read_metadata, read_video
from animatediff.render import build_request, load_config, load_result
from animatediff.render import render as render_module


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    loading(monkeypatch, lambda *_: FakePipeline())
    return tmp_path


def test_prompt_alone(place: Path) -> None:
    for name in ("a-fox-moving-right.mp4", "a-fox-moving-right-2.mp4"):
        code, out, err = run("a fox, moving right")
        assert (code, err) == (0, "")
        assert f"samples/{name}" in out
        assert (place / "samples" / name).exists() and (place / "samples" / f"{name}.json").exists()
    stored = json.loads((place / "samples" / f"{name}.json").read_text())
    assert read_metadata(place / "samples" / name) == stored
    assert stored["request"]["seed"][0] >= 0 and stored["request"]["num_frames"] == 4


@pytest.mark.parametrize("target", ["a.mp4", "a.webm", "a.gif", "a.webp", "a.apng", "frames"])
def test_from_repeats_the_frames(place: Path, target: str) -> None:
    assert run("a fox", "--out", target)[0] == 0
    assert run("--from", target, "--out", "again.apng")[0] == 0
    assert run("--from", f"{target}.json", "--out", "third.apng")[0] == 0
    assert np.array_equal(read_video("again.apng")[0], read_video("third.apng")[0])
    if target in ("a.apng", "frames"):
        assert np.array_equal(read_video("again.apng")[0], read_video(target)[0])
    assert load_result("again.apng") == load_result(target)


def test_a_clip_does_not_depend_on_the_others(place: Path) -> None:
    assert run("one", "two", "--seed", "1", "--seed", str(2**64 - 1), "--out", "both.png")[0] == 0
    assert run("two", "--seed", str(2**64 - 1), "--out", "two.png")[0] == 0
    assert np.array_equal(read_video("both-1.png")[0], read_video("two.png")[0])


def test_renders_at_the_same_moment_into_one_folder(place: Path) -> None:
    """Every result keeps a name of its own, whole, with its own request beside it."""
    together = threading.Barrier(6)

    class Meeting(FakePipeline):
        def sample(self, job, callbacks):
            together.wait(60)  # so that all write at once
            return super().sample(job, callbacks)

    def work(seed: int) -> list[Path]:
        files = render_module.render(build_request({"prompt": "a fox", "seed": seed}), pipe=Meeting()).files
        runs = [build_request({"prompt": "a fox", "seed": seed})]
        return [*files, *render_module.render_runs(runs, "run", pipe=Meeting()).files]

    with ThreadPoolExecutor(6) as pool:
        done = list(pool.map(work, range(6)))
    files = [file for own in done for file in own]
    assert len(set(files)) == 12
    for seed, own in enumerate(done):
        for file in own:
            assert len(read_video(file)[0]) == 4
            assert load_result(file).seed == load_result(f"{file}.json").seed == (seed,)
    assert not [path for path in place.rglob("*") if path.name.startswith(".")]


def test_original_layout(place: Path) -> None:
    (place / "run.yaml").write_text("- {prompt: [a b, c d, e f, g h, i j], n_prompt: [x], seed: -1, L: 3}\n")
    assert run("--config", "run.yaml")[0] == 0
    assert run("--config", "run.yaml")[0] == 0
    folders = sorted((place / "samples").iterdir())
    assert len(folders) == 2
    names = {p.name for p in (folders[0] / "sample").glob("*.gif")}
    assert names == {"0-a-b.gif", "1-c-d.gif", "2-e-f.gif", "3-g-h.gif", "4-i-j.gif"}
    grid, fps = read_video(folders[0] / "sample.gif")
    assert fps == 8 and grid.shape == (3, 2 * 34 + 2, 4 * 42 + 2, 3)
    (again,) = load_config(folders[0] / "config.yaml")
    clips = [load_result(folders[0] / "sample" / name) for name in sorted(names)]
    assert again.seed == tuple(clip.seed[0] for clip in clips) and min(again.seed) >= 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["x", "--num-frames", "0"], "num_frames=0"),
        (["x", "--num-frames", "-3"], "num_frames=-3"),
        (["x", "--width", "100"], "multiple of 8"),
        ([], "nothing to render"),
        (["x", "--scheduler", "eulr"], "did you mean 'euler'"),
        (["x", "--seed", str(2**64)], "64 bits"),
        (["--config", "missing.yaml"], "missing.yaml: no such file"),
        (["--from", "missing.mp4"], "missing.mp4: no such file"),
        (["x", "--model", "missing.safetensors", "--motion-module", "also.ckpt"], "missing.safetensors"),
        (["x", "--model", "file.txt"], "no motion module"),
        (["x", "--out", "file.txt/deep/a.mp4"], "cannot be written"),
        (["x", "--out", "a.avi"], "cannot write '.avi'"),
        (["x", "--out", "."], "holds other files"),
        (["x", "y", "--out", "."], "has no name to number 2 clips by"),
        (["x", "--model", "file.txt", "--motion-module", "file.txt"], "file.txt: text that begins"),
        (["x", "--use-ema"], "--use-ema is a setting of single files, but the model is bundled"),
        (["x", "--device", "gpu"], "no device"),
        (["--config", "typo.yaml"], "did you mean 'guidance_scale'"),
    ],
)
def test_mistakes_are_one_message(place: Path, arguments: list[str], message: str) -> None:
    (place / "file.txt").write_text("x")
    (place / "typo.yaml").write_text("- prompt: a\n  guidance_scal: 3\n")
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert message in err and len(err.strip().splitlines()) == 1 and "Traceback" not in err
    assert sorted(p.name for p in place.iterdir()) == ["file.txt", "typo.yaml"]


@pytest.mark.parametrize(
    ("error", "code"), [(OSError(errno.ENOSPC, "No space left on device"), 2), (KeyboardInterrupt(), 130)]
)
def test_nothing_half_written_stays(
    place: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int
) -> None:
    from animatediff.media.encode import CodecEncoder

    def fail(self: object) -> None:
        raise error

    monkeypatch.setattr(CodecEncoder, "finish", fail)
    result = run("x")
    assert result[0] == code and len(result[2].strip().splitlines()) == 1
    assert list(place.iterdir()) == []


def test_a_disk_that_is_full_after_the_clip(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The clip stays, and the message says so."""

    def fail(path: Path, text: str) -> None:
        raise UserError(f"{path}: the disk is full")

    monkeypatch.setattr("animatediff.render.record.write_text", fail)
    code, _, err = run("a fox", "--steps", "1", "--num-frames", "2", "--out", "x.gif")
    assert code == 2
    assert err == "animatediff: x.gif is written, but not all that belongs beside it: x.gif.json: the disk is full\n"
    assert [path.name for path in place.iterdir()] == ["x.gif"]


def test_a_mistyped_bundled_model_is_named(place: Path) -> None:
    code, _, err = run("a fox", "--model", "bundel")
    assert code == 2 and "bundel: no such file or folder" in err and "did you mean 'bundled'?" in err


def test_out_of_memory_says_what_to_try(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    def fail(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    loading(monkeypatch, fail)
    code, _, err = run("x")
    assert code == 2 and "--cpu-offload" in err


COMMANDS = [
    "--config configs/prompts/v2/5-RealisticVision.yaml"
    " --pretrained_model_path models/StableDiffusion/realisticVisionV20_v20.safetensors --L 16 --W 512 --H 512",
    "--config configs/prompts/v2/5-RealisticVision.yaml"
    " --pretrained_model_path models/StableDiffusion/realisticVisionV20_v20.safetensors"
    " --motion_lora_path models/MotionLoRA/v2_lora_ZoomIn.ckpt --motion_lora_scale 1.0 --L 16 --W 512 --H 512",
    "--config configs/prompts/v3/sdxl.yaml --pretrained_model_path models/StableDiffusion/sdxl_base_1.0.safetensors"
    " --motion_module_path models/Motion_Module/mm_sdxl_v10_beta.ckpt --L 16 --W 1024 --H 1024",
]


PUBLISHED = {
    "realisticVisionV20_v20.safetensors": "sd15_single_file",
    "sdxl_base_1.0.safetensors": "sdxl_single_file",
    "mm_sd_v15_v2.ckpt": "mm_sd_v15_v2",
    "mm_sdxl_v10_beta.ckpt": "mm_sdxl_v10_beta",
    "v2_lora_ZoomIn.ckpt": "v2_lora",
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("dashes", [False, True])
def test_commands_of_the_original(place: Path, monkeypatch: pytest.MonkeyPatch, command: str, dashes: bool) -> None:
    seen = []
    called = watched(monkeypatch)
    load = render_module.Renderer()._load
    loading(monkeypatch, lambda spec, after_part: seen.append(spec.settings) or load(spec, after_part))
    (place / "configs").symlink_to(ROOT / "configs")
    words = command.split()
    for name in (*[word for word in words if word.startswith("models/")], "models/Motion_Module/mm_sd_v15_v2.ckpt"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        write_hollow(Path(name), published(PUBLISHED[Path(name).name]))
    words = [w.replace("_", "-") if dashes and w.startswith("--") else w for w in words]
    small = [w if w not in ("512", "1024") else "64" for w in words]
    assert original([*small, "--without-xformers"]) == 0
    (request,) = seen
    assert request.model == words[words.index(next(w for w in words if "pretrained" in w)) + 1]
    assert request.motion_module.endswith(".ckpt")
    assert (called["num_frames"], called["width"], called["height"]) == (16, 64, 64)
    assert len(request.motion_loras) == command.count("motion_lora_path")


def test_unknown_flag_of_the_original(capsys: pytest.CaptureFixture[str]) -> None:
    assert original(["--config", "a", "--motion_modul_path", "x"]) == 2
    assert "did you mean '--motion-module-path'" in capsys.readouterr().err
    assert parse(["--config=a_b.yaml"]).config == "a_b.yaml"


def test_words_are_printed_as_they_are_typed() -> None:
    said = CliRunner().invoke(app, ["animate", "--list-words"]).stdout
    assert "rocket" in said and "runs" in said and "{" not in said


@pytest.mark.parametrize(
    ("words", "heavy"),
    [
        (["--help"], ("pydantic", "animatediff.render.options")),
        (["animate", "--help"], ("animatediff.render.request",)),  # typer itself imports pydantic from 0.29 on
    ],
)
def test_help_is_quick_and_imports_no_torch(words: list[str], heavy: tuple[str, ...]) -> None:
    code = (
        "import sys\nfrom animatediff.cli.main import app\n"
        f"try: app({words})\nexcept SystemExit: pass\n"
        f"bad = {{'torch', 'diffusers', 'transformers', 'numpy', *{heavy}}} & set(sys.modules); assert not bad, bad"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "animate" in done.stdout


@pytest.mark.parametrize(
    "command", [["-m", "scripts.animate"], ["scripts/animate.py"], ["-m", "animatediff", "animate"]]
)
def test_other_ways_to_start_it(command: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, *command, "--config", "no.yaml"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (2, "animatediff: no.yaml: no such file\n")


@pytest.mark.parametrize(
    ("prompts", "hinted"),
    [
        (("a", "fox", "moving", "right"), True),
        (("a", "fox"), True),
        (("a fox", "on", "green"), True),
        (("foxes", "boats", "cars"), True),
        (("fox", "boat"), False),
        (("fox",), False),
        (("a fox moving right", "a boat moving left"), False),
        (("a fox moving right", "boat"), False),
    ],
)
def test_a_prompt_without_quotes_gets_a_hint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prompts: tuple[str, ...], hinted: bool
) -> None:
    watched(monkeypatch)
    code, _, err = run(*prompts, "--quiet", "--out", str(tmp_path / "a.gif"))
    assert code == 0 and (f'put it in quotes: animatediff animate "{" ".join(prompts)}"' in err) == hinted


def test_a_prompt_in_place_of_a_command_is_told_where_it_goes() -> None:
    for given, said in (("a fox", "animatediff animate"), ("evaluat", "did you mean 'evaluate'?")):
        done = CliRunner().invoke(app, [given])
        assert done.exit_code == 2 and said in " ".join(done.stderr.replace("│", " ").split())
