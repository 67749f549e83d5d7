"""Sound weights: fp16 goes on after a step that overflowed, and nothing that is not finite is saved."""

from __future__ import annotations

import json
import logging
from itertools import pairwise
from pathlib import Path
from typing import Any

import accelerate
import pytest
import torch
from safetensors.torch import load_file, save_file
from support.training_clips import run

from animatediff.errors import UserError
from animatediff.training import accelerator as surroundings
from animatediff.training import loop, sound
from animatediff.training.checkpoint import newest_checkpoint
from animatediff.training.sound import unsound


def overflowing(monkeypatch: pytest.MonkeyPatch, steps: Any) -> None:
    """Give runs the loss scaler of fp16, and a loss at `steps` that overflows; the arithmetic stays that of float32."""

    def make(config: Any) -> Any:
        made = surroundings.make_accelerator(config)
        made.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16)  # type: ignore[attr-defined]
        return made

    loss = loop.Trainer.loss

    def large(self: Any, batch: Any) -> torch.Tensor:
        return loss(self, batch) * (float("inf") if self.state.step + 1 in steps else 1)

    monkeypatch.setattr(loop, "make_accelerator", make)
    monkeypatch.setattr(loop.Trainer, "loss", large)


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "curve.jsonl").read_text().splitlines()]


def test_an_overflow_in_a_step_that_saves_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Steps 2 and 4 overflow: they change no weight, are no part of the mean loss, and are counted."""
    overflowing(monkeypatch, {2, 4})
    with caplog.at_level(logging.WARNING, "animatediff"):
        done = run("motion_lora", tmp_path, steps=6, save_every=1, keep=20)
    assert done.step == 6
    assert [row.get("skipped_updates", 0) for row in rows(tmp_path)] == [0, 1, 1, 2, 2, 2]
    assert ["loss" in row for row in rows(tmp_path)] == [True, False, True, False, True, True]
    assert caplog.text.count("overflowed in fp16") == 1
    made = [stored(tmp_path, step)["weights"] for step in range(1, 7)]
    changed = [any(not torch.equal(a[name], b[name]) for name in a) for a, b in pairwise(made)]
    assert changed == [False, True, False, True, True]
    assert all(tensor.isfinite().all() for weights in made for tensor in weights.values())
    assert all(tensor.isfinite().all() for tensor in load_file(done.weights).values())


def stored(folder: Path, step: int) -> dict[str, Any]:
    return torch.load(folder / "checkpoints" / f"step-{step:08d}.pt", weights_only=True)


def test_an_infinite_norm_alone_ends_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clip, calls = accelerate.Accelerator.clip_grad_norm_, []

    def overflow(self: Any, parameters: Any, *args: Any) -> Any:
        parameters, norm = list(parameters), clip(self, list(parameters), *args)
        calls.append(norm)
        if len(calls) != 2:
            return norm
        for parameter in parameters:
            parameter.grad = torch.zeros_like(parameter)
        return torch.tensor(float("inf"))

    monkeypatch.setattr(accelerate.Accelerator, "clip_grad_norm_", overflow)
    assert run("motion_lora", tmp_path, steps=4, save_every=2).step == 4
    assert ["gradient_norm" in row for row in rows(tmp_path)] == [True, False, True, True]


def test_overflows_without_end_stop_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    overflowing(monkeypatch, range(1000))
    monkeypatch.setattr(sound, "MOST_OVERFLOWS", 3)
    with pytest.raises(UserError, match=r"step 3: the last 3 updates.*precision=bf16"):
        run("motion_lora", tmp_path, steps=10, save_every=0, log_every=100)
    assert newest_checkpoint(tmp_path) is None


def test_weights_that_are_not_finite_are_not_saved(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"step 1: the (weights are not finite|loss is (nan|inf))"):
        run("motion", tmp_path / "far", steps=4, learning_rate=1e38, max_grad_norm=None, save_every=1, log_every=50)
    for path in (tmp_path / "far").rglob("*.safetensors"):
        assert all(tensor.isfinite().all() for tensor in load_file(path).values())
    start = run("motion", tmp_path / "start", steps=1).weights
    tensors = load_file(start)
    large = {name: tensor.clone() for name, tensor in tensors.items()}
    next(value for name, value in large.items() if name.endswith("ff.net.2.weight")).view(-1)[0] = 1e5
    save_file(large, tmp_path / "large.safetensors", _metadata(start))
    fine = run("motion", tmp_path / "wide", steps=1, start_from=str(tmp_path / "large.safetensors"))
    assert fine.step == 1
    with pytest.raises(UserError, match=r"step 1: the weights do not fit into weights_dtype=float16"):
        run("motion", tmp_path / "narrow", steps=1, start_from=str(fine.weights), weights_dtype="float16")
    assert not (tmp_path / "narrow" / "motion_module.safetensors").exists()
    next(value for name, value in large.items() if name.endswith("ff.net.2.weight")).view(-1)[0] = float("nan")
    save_file(large, tmp_path / "nan.safetensors", _metadata(start))
    with pytest.raises(UserError, match=r"nan\.safetensors: the weights to begin with are not finite"):
        run("motion", tmp_path / "never", steps=1, start_from=str(tmp_path / "nan.safetensors"))


def _metadata(path: Path) -> dict[str, str]:
    from animatediff.weights.storage.files import read_header

    return dict(read_header(path).metadata)


def test_reasons() -> None:
    good, wide, bad = torch.ones(3), torch.tensor([1.0, 7e4]), torch.tensor([1.0, float("inf")])
    assert unsound({"a": good}, {"a": good}, "float16") is None
    assert unsound({"a": wide}, {"a": wide}, "bfloat16") is None
    assert "weights_dtype=float16" in str(unsound({"a": wide}, {"a": wide}, "float16"))
    assert "averaged" in str(unsound({"a": good}, {"a": bad}, "float32"))
    assert "(first b)" in str(unsound({"a": good, "b": bad}, {}, "float32"))
