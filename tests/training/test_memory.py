"""The estimate of a step's memory, against what a step keeps."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from support.training_clips import SquareClips, settings

from animatediff.training import memory
from animatediff.training.accelerator import close_accelerator, make_accelerator
from animatediff.training.config import TrainConfig
from animatediff.training.loop import Trainer


@pytest.mark.parametrize("stage", ["motion", "scribble"])
def test_the_memory_of_a_step(stage: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: Any) -> None:
    more: dict[str, Any] = {"ema": 0.9} if stage == "motion" else {"condition": "scribble"}
    values = settings("motion" if stage == "motion" else "sparsectrl", tmp_path, batch_size=3, **more)
    config = TrainConfig.model_validate(values)
    accelerator = make_accelerator(config)
    trainer = Trainer(config, accelerator, resume=None, dataset=SquareClips(), quiet=True)
    before = torch.get_rng_state()
    found = memory.estimate_memory(trainer.state, trainer.encoder)
    assert torch.equal(torch.get_rng_state(), before)
    trained = sum(parameter.numel() for parameter in trainer.state.parameters)
    assert (found.optimizer, found.gradients) == (8 * trained, 4 * trained)
    assert found.weights > 4 * trained * (2 if "ema" in more else 1)

    own = {t.untyped_storage().data_ptr() for t in (*trainer.state.model.parameters(), *trainer.state.model.buffers())}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if (place := tensor.untyped_storage().data_ptr()) not in own:
            kept[place] = tensor
        return tensor

    with trainer.attention(), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        trainer.loss(next(iter(trainer.state.loader))).mean().backward()
    measured = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    assert found.activations == pytest.approx(measured, rel=0.05)

    monkeypatch.setattr(memory, "estimate_memory", lambda *_: found)  # once is enough: it takes seconds
    with caplog.at_level(logging.INFO, "animatediff"):
        memory.say_memory(trainer.state, trainer.encoder)
        monkeypatch.setattr(memory, "free_memory", lambda device: 1)
        memory.say_memory(trainer.state, trainer.encoder)
    assert [record.levelname for record in caplog.records if "memory: about" in record.message] == ["INFO", "WARNING"]
    close_accelerator(accelerator)
