"""The loop: exact resume, the same update however it is divided, signals, full disks."""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from support.paths import ROOT
from support.training_clips import SquareClips, run, settings

from animatediff.errors import UserError
from animatediff.training import checkpoint as checkpoints
from animatediff.training.checkpoint import newest_checkpoint
from animatediff.training.config import OLD_NAMES, TrainConfig
from animatediff.training.loop import train

SCRIPT = ROOT / "tests" / "support" / "training_clips.py"


def weights(folder: Path, name: str = "motion_module.safetensors") -> dict[str, torch.Tensor]:
    return load_file(folder / name)


def assert_same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """Weights that every run begins with."""
    return load_file(run("motion", tmp_path_factory.mktemp("before"), steps=1, learning_rate=1e-12).weights)


def assert_same_update(before: dict[str, torch.Tensor], tmp_path: Path, first: str, second: str) -> None:
    """Two runs moved the weights alike: they differ by at most 1e-4 of how far they went.

    Measured over all weights together, since rounding in a sum is as large as its largest parts, not as its result: two
    right ways differ by 4e-5, one that accumulates three in place of four by 0.8.
    """
    a, b = (weights(tmp_path / name) for name in (first, second))
    assert before.keys() == a.keys() == b.keys()

    def distance(x: dict[str, torch.Tensor], y: dict[str, torch.Tensor]) -> float:
        return float(torch.stack([(x[name] - y[name]).double().norm() for name in x]).norm())

    assert distance(a, before) > 1e-2
    assert distance(a, b) < 1e-4 * distance(a, before)


def free_port() -> int:
    """A port that processes can agree on: with 0 each would wait for another."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def start(folder: Path, *launcher: str, **values: Any) -> subprocess.Popen[str]:
    """A run in a process of its own."""
    file = folder.with_suffix(".json")
    file.write_text(json.dumps(settings("motion", folder, **values)))
    environment = os.environ | {
        "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}",
        "ACCELERATE_USE_CPU": "true",
    }
    command = [sys.executable, *launcher, str(SCRIPT), str(file)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_resume_is_exact(tmp_path: Path) -> None:
    """4 steps at once, and 2 + 2 with everything that has a state, give the same bits."""
    more: dict[str, Any] = {
        "ema": 0.9, "lr_schedule": "cosine", "warmup_steps": 1, "stratified": True, "noise_offset": 0.1,
        "gradient_accumulation_steps": 2, "curriculum_fraction": 0.34, "caption_dropout": 0.5, "steps": 4,
    }  # fmt: skip
    run("motion", tmp_path / "straight", num=5, **more)
    run("motion", tmp_path / "parts", num=5, save_every=2, **more)
    for path in (tmp_path / "parts" / "checkpoints").glob("*4.pt"):  # as if it had been killed after step 2
        path.unlink()
    done = run("motion", tmp_path / "parts", num=5, resume=True, **more)
    assert (done.step, done.signal) == (4, None)
    assert_same(weights(tmp_path / "straight"), weights(tmp_path / "parts"))
    a, b = (newest_checkpoint(tmp_path / name) for name in ("straight", "parts"))
    assert a is not None and b is not None
    assert_same(a["weights"], b["weights"])
    assert_same(a["average"]["mean"], b["average"]["mean"])
    assert a["data"] == b["data"]
    curves = [(tmp_path / name / "curve.jsonl").read_text().splitlines() for name in ("straight", "parts")]
    losses = [[json.loads(line)["loss"] for line in curve] for curve in curves]
    assert losses[0] == losses[1]


def test_a_checkpoint_with_the_old_names_of_settings_goes_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Exactly, and nothing is reported as changed, whichever names the configuration of the second part has."""
    more: dict[str, Any] = {
        "gradient_accumulation_steps": 2, "warmup_steps": 1, "max_grad_norm": 0.5, "snr_gamma": 5.0,
        "optimizer": "adamw", "curriculum_fraction": 0.5, "curriculum_stride": 2,
    }  # fmt: skip
    run("motion", tmp_path / "straight", **more)
    run("motion", tmp_path / "parts", save_every=2, **more)
    (tmp_path / "parts" / "checkpoints" / "step-00000004.pt").unlink()
    path = tmp_path / "parts" / "checkpoints" / "step-00000002.pt"
    state = torch.load(path, weights_only=True)
    stored = json.loads(state["config"])
    renamed = {old: stored.pop(new) for old, new in OLD_NAMES.items()}
    assert len(renamed) == len(OLD_NAMES)
    torch.save({**state, "config": json.dumps(stored | renamed)}, path)
    values = settings("motion", tmp_path / "parts", save_every=2, **more)
    values = {{new: old for old, new in OLD_NAMES.items()}.get(name, name): value for name, value in values.items()}
    caplog.clear()
    with caplog.at_level(logging.INFO, "animatediff"):
        train(TrainConfig.model_validate(values), dataset=SquareClips(), resume=True, quiet=True)
    assert_same(weights(tmp_path / "straight"), weights(tmp_path / "parts"))
    told = [record.getMessage() for record in caplog.records]
    assert not [text for text in told if "goes on with" in text]
    assert sum("the old name still works" in text for text in told) == len(OLD_NAMES)


class Interrupted(SquareClips):
    """Sends this process a signal once the curve has two rows."""

    def __init__(self, curve: Path, number: signal.Signals) -> None:
        super().__init__()
        self.curve, self.number, self.sent = curve, number, False

    def frames(self, what: int) -> torch.Tensor:
        if not self.sent and self.curve.exists() and len(self.curve.read_text().splitlines()) >= 2:
            self.sent = True
            os.kill(os.getpid(), self.number)
        return super().frames(what)


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """Weights of a run of 6 steps that nothing ended."""
    return load_file(run("motion", tmp_path_factory.mktemp("straight"), steps=6).weights)


def assert_it_was_saved_and_goes_on(folder: Path, step: int, straight: dict[str, torch.Tensor]) -> None:
    """A run of 6 steps that was ended early leaves its weights, and the same command gives those of a straight one."""
    assert 2 <= step < 6
    assert newest_checkpoint(folder)["step"] == step  # type: ignore[index]
    assert (folder / "motion_module.safetensors").is_file()
    assert run("motion", folder, steps=6).step == 6
    assert_same(straight, weights(folder))


@pytest.mark.exact  # the numbers of the disturbance are drawn anew in the second part
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_the_same_run_goes_on(
    tmp_path: Path, number: signal.Signals, straight: dict[str, torch.Tensor]
) -> None:
    config = TrainConfig.model_validate(settings("motion", tmp_path / "ended", steps=6))
    ended = train(config, dataset=Interrupted(tmp_path / "ended" / "curve.jsonl", number), quiet=True)
    assert ended.signal == number
    assert_it_was_saved_and_goes_on(tmp_path / "ended", ended.step, straight)


@pytest.mark.exact  # the other process is not disturbed
def test_a_process_that_gets_a_signal_saves_and_the_same_command_goes_on(
    tmp_path: Path, straight: dict[str, torch.Tensor]
) -> None:
    """It waits with its next clips for the signal, so that it cannot have ended before."""
    folder, go_on = tmp_path / "ended", tmp_path / "go on"
    process = start(folder, steps=6, wait=str(go_on))
    curve = folder / "curve.jsonl"
    while not (curve.exists() and len(curve.read_text().splitlines()) >= 2):
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    go_on.touch()
    out, err = process.communicate(timeout=300)
    ended = json.loads(out.splitlines()[-1])
    assert ended["signal"] == signal.SIGTERM, err
    assert_it_was_saved_and_goes_on(folder, ended["step"], straight)


def test_four_accumulated_are_a_batch_of_four(tmp_path: Path, before: dict[str, torch.Tensor]) -> None:
    # Adam divides by the size of a gradient: where that is rounding alone, its sign decides the update. The epsilon
    # keeps such updates small.
    common: dict[str, Any] = {"steps": 2, "stratified": True, "snr_gamma": 5.0, "caption_dropout": 0.3, "epsilon": 1e-3}
    run("motion", tmp_path / "batch", batch_size=4, **common)
    run("motion", tmp_path / "accumulated", batch_size=1, gradient_accumulation_steps=4, **common)
    assert_same_update(before, tmp_path, "batch", "accumulated")


@pytest.mark.exact  # the other processes are not disturbed
def test_two_processes_of_half_the_batch_are_one(tmp_path: Path, before: dict[str, torch.Tensor]) -> None:
    common: dict[str, Any] = {"steps": 2, "stratified": True, "ema": 0.9, "validate_at": [2], "epsilon": 1e-3}
    run("motion", tmp_path / "one", batch_size=4, **common)
    launcher = (
        "-m",
        "torch.distributed.run",
        "--nproc_per_node=2",
        "--master_addr=127.0.0.1",
        f"--master_port={free_port()}",
    )
    process = start(tmp_path / "two", *launcher, batch_size=2, **common)
    _, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    assert_same_update(before, tmp_path, "one", "two")
    rows = [[json.loads(line) for line in (tmp_path / name / "curve.jsonl").read_text().splitlines()]
            for name in ("one", "two")]  # fmt: skip
    measured = set()
    for one, two in zip(*rows, strict=True):
        assert one.keys() == two.keys()
        for figure in one.keys() & {"loss", "validation_loss", "gradient_norm"}:
            assert one[figure] == pytest.approx(two[figure], rel=1e-4)
            measured.add(figure)
    assert measured == {"loss", "validation_loss", "gradient_norm"}


def test_a_full_disk_leaves_the_last_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "run"
    run("motion", folder, steps=2)
    before = weights(folder)
    save = torch.save

    def full(state: Any, stream: Any) -> None:
        save({"step": 0}, stream)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints.torch, "save", full)
    with pytest.raises(UserError, match=r"the disk is full.*step-00000002.pt is whole.*same command"):
        run("motion", folder, steps=4)
    monkeypatch.undo()
    assert [path.name for path in (folder / "checkpoints").iterdir()] == ["step-00000002.pt"]
    assert_same(weights(folder), before)
    run("motion", folder, steps=4)
    run("motion", tmp_path / "straight", steps=4)
    assert_same(weights(folder), weights(tmp_path / "straight"))


def test_a_damaged_checkpoint_is_passed_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "run"
    run("motion", folder, steps=4, save_every=2)
    newest = folder / "checkpoints" / "step-00000004.pt"
    newest.write_bytes(newest.read_bytes()[:5000])
    assert run("motion", folder, steps=4).step == 4
    assert "damaged" in caplog.text
    for path in (folder / "checkpoints").iterdir():
        path.write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"none of its \d checkpoints can be read.*`resume=False`"):
        run("motion", folder, steps=4)
    assert run("motion", folder, steps=2, resume=False).step == 2


def test_only_the_newest_checkpoints_are_kept(tmp_path: Path) -> None:
    run("motion", tmp_path, steps=4, save_every=1, keep=2, keep_weights=True)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == [
        "step-00000003.pt",
        "step-00000004.pt",
    ]
    assert len(list((tmp_path / "weights").iterdir())) == 4


def test_another_run_is_not_gone_on_with(tmp_path: Path) -> None:
    run("motion", tmp_path, steps=2)
    with pytest.raises(UserError, match=r"stage='motion'.*stage='adapter'.*`resume=False`"):
        run("adapter", tmp_path, steps=2)
    with pytest.raises(UserError, match="seed"):
        run("motion", tmp_path, steps=4, seed=7)
    with pytest.raises(UserError, match="clips in the data"):
        run("motion", tmp_path, steps=4, num=9)
    assert run("motion", tmp_path, steps=3, learning_rate=1e-4).step == 3
    with pytest.raises(UserError, match="no checkpoint to resume from"):
        run("motion", tmp_path / "new", resume=True)


def losses(folder: Path) -> list[float]:
    rows = [json.loads(line) for line in (folder / "curve.jsonl").read_text().splitlines()]
    return [row["loss"] for row in rows if "loss" in row]


def test_clips_can_be_added_to_a_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Weights, optimizer and noise go on; the data is gone through anew."""
    run("motion", tmp_path / "run", steps=2, num=5)
    with pytest.raises(UserError, match=r"5 as the usable clips in the data, now it is 9.*go on.*by `new_data`"):
        run("motion", tmp_path / "run", steps=4, num=9)
    config = TrainConfig.model_validate(settings("motion", tmp_path / "run", steps=4))
    done = train(config, dataset=SquareClips(9), new_data=True, quiet=True)
    assert done.step == 4 and len(losses(tmp_path / "run")) == 4
    checkpoint = newest_checkpoint(tmp_path / "run")
    assert checkpoint is not None
    (data,) = checkpoint["data"]
    assert (data["place"], data["source"]["num_items"], data["source"]["index"]) == (8, 9, 4)
    assert "new_data" not in caplog.text
    assert run("motion", tmp_path / "run", steps=5, num=9).step == 5
    train(TrainConfig.model_validate(settings("motion", tmp_path / "new", steps=1)), dataset=SquareClips(2),
          new_data=True, quiet=True)  # fmt: skip
    assert "`new_data` has no effect" in caplog.text


def test_a_rate_that_jumps_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Half a cosine after its end, where more steps are asked for; no word where the rate stays."""
    common: dict[str, Any] = {"lr_schedule": "cosine", "learning_rate": 1e-3}
    run("motion", tmp_path, steps=3, **common)
    run("motion", tmp_path, steps=6, **common)
    (said,) = [text for text in caplog.messages if "jumps" in text]
    assert "the learning rate jumps from 0.00025 to 0.0005 after step 3" in said
    assert "follows from steps;" in said and "lr_schedule=constant" in said
    caplog.clear()
    run("motion", tmp_path, steps=7, learning_rate=6.7e-5)  # constant: what the cosine ended with
    assert "jumps" not in caplog.text
    run("motion", tmp_path, steps=9, learning_rate=6.7e-5)
    assert "jumps" not in caplog.text
    run("motion", tmp_path, steps=10, learning_rate=1e-3)
    assert (
        "jumps from 6.7e-05 to 0.001 after step 9, since the schedule follows from learning_rate, steps" in caplog.text
    )


def test_a_sample_before_the_first_step(tmp_path: Path) -> None:
    """Of the model as it was; it changes no loss, and is not made again where a run goes on."""
    look: dict[str, Any] = {"prompts": ["up"], "num_inference_steps": 1, "num_items": 1}
    run("motion", tmp_path / "plain", steps=2)
    run("motion", tmp_path / "sampled", steps=2, validation=look, validate_every=3)
    assert losses(tmp_path / "sampled") == losses(tmp_path / "plain")
    assert (tmp_path / "sampled" / "samples" / "step-00000000" / "0.mp4").is_file()
    assert_same(weights(tmp_path / "sampled"), weights(tmp_path / "plain"))
    run("motion", tmp_path / "sampled", steps=3, validation={"num_items": 1}, validate_at=[0])
    curve = (tmp_path / "sampled" / "curve.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in curve] == [0, 1, 2, 3]


def test_a_loss_that_is_no_number_stops_the_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"step \d: the loss is (nan|inf).*learning_rate"):
        run("motion", tmp_path, steps=50, learning_rate=1e30, max_grad_norm=None)
    assert not list(tmp_path.rglob("*.pt"))


def test_gradient_checkpointing_and_bfloat16_train(tmp_path: Path, before: dict[str, torch.Tensor]) -> None:
    run("motion", tmp_path / "plain", steps=2)
    run("motion", tmp_path / "checkpointed", steps=2, gradient_checkpointing=True)
    assert_same_update(before, tmp_path, "plain", "checkpointed")
    look = {"prompts": ["up"], "num_inference_steps": 1, "num_items": 1}
    run("motion", tmp_path / "narrow", steps=2, precision="bf16", validation=look, validate_at=[2])
    rows = [json.loads(line) for line in (tmp_path / "narrow" / "curve.jsonl").read_text().splitlines()]
    plain = [json.loads(line) for line in (tmp_path / "plain" / "curve.jsonl").read_text().splitlines()]
    assert rows[0]["loss"] == pytest.approx(plain[0]["loss"], rel=0.02)
    with pytest.raises(UserError, match="precision=fp16 needs a GPU"):
        run("motion", tmp_path / "half", precision="fp16", device="cpu")


def test_latents_and_captions_are_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a cache on disk, a second run decodes nothing and gives the bits of the first."""
    data = settings("motion", tmp_path)["data"] | {"cache": str(tmp_path / "cache")}
    run("motion", tmp_path / "first", num=4, data=data, caption_dropout=0.0)
    entries = list((tmp_path / "cache").rglob("*.safetensors"))
    assert len(entries) == 4 + 4  # clips and captions
    monkeypatch.setattr(SquareClips, "frames", None)
    run("motion", tmp_path / "second", num=4, data=data, caption_dropout=0.0)
    assert_same(weights(tmp_path / "first"), weights(tmp_path / "second"))
