"""What a checkpoint holds of a live run, gathered and brought back, also where FSDP has divided it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from animatediff.errors import UserError
from animatediff.training.checkpoint import random_state
from animatediff.training.stages.base import Stage, whole

if TYPE_CHECKING:
    from collections.abc import Mapping

    from animatediff.training.loop import Trainer


def is_divided(accelerator: Any) -> bool:
    """Whether parameters are divided among the processes (FSDP)."""
    from accelerate.utils import DistributedType

    return accelerator.distributed_type == DistributedType.FSDP


def save_state(trainer: Trainer) -> dict[str, Any]:
    """Everything that decides the rest of the run. Every process must call this; the tensors are on the CPU."""
    from accelerate.utils import gather_object

    accelerator = trainer.accelerator
    state: dict[str, Any] = {
        "step": trainer.step,
        "seconds": trainer.seconds,
        "config": trainer.config.model_dump_json(),
        "weights": trainer.stage.tensors(),
        "optimiser": _optimiser_state(trainer),
        "data": gather_object([trainer.loader.state_dict()]),
        "random": gather_object([random_state()]),
    }
    if trainer.average is not None:
        average = trainer.average.state_dict()
        state["average"] = {"updates": average["updates"], "mean": {k: whole(v) for k, v in average["mean"].items()}}
    if accelerator.scaler is not None:
        state["scaler"] = accelerator.scaler.state_dict()
    return state


def load_before(stage: Stage, checkpoint: Mapping[str, Any] | None) -> None:
    """The trained weights of a checkpoint, before they are divided or wrapped. Raises UserError if they do not fit."""
    if checkpoint is None:
        return
    weights: Mapping[str, Tensor] = checkpoint["weights"]
    if weights.keys() != stage.parameters.keys():
        raise UserError("the checkpoint holds other layers than this configuration trains; start over with --fresh")
    with torch.no_grad():
        for name, parameter in stage.parameters.items():
            if weights[name].shape != parameter.shape:
                raise UserError(
                    f"the checkpoint's {name} has shape {tuple(weights[name].shape)}, the model's "
                    f"{tuple(parameter.shape)}; start over with --fresh"
                )
            parameter.copy_(weights[name])


def load_optimiser(trainer: Trainer, checkpoint: Mapping[str, Any]) -> None:
    """The optimiser, the average and the loss scale of a checkpoint."""
    if is_divided(trainer.accelerator):
        from torch.distributed.checkpoint.state_dict import StateDictOptions, set_optimizer_state_dict

        set_optimizer_state_dict(
            trainer.model,
            trainer.optimiser.optimizer,
            checkpoint["optimiser"],
            options=StateDictOptions(full_state_dict=True),
        )
    else:
        trainer.optimiser.load_state_dict(checkpoint["optimiser"])
    if trainer.average is not None and "average" in checkpoint:
        mean = {name: divided_like(trainer.average.mean[name], t) for name, t in checkpoint["average"]["mean"].items()}
        trainer.average.load_state_dict({"updates": checkpoint["average"]["updates"], "mean": mean})
    if trainer.accelerator.scaler is not None and "scaler" in checkpoint:
        trainer.accelerator.scaler.load_state_dict(checkpoint["scaler"])


def divided_like(live: Tensor, value: Tensor) -> Tensor:
    """A whole tensor, divided among the processes as `live` is."""
    placements = getattr(live, "placements", None)
    if placements is None:
        return value
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value.to(live.device), live.device_mesh, placements)  # pyright: ignore[reportAttributeAccessIssue]


def _optimiser_state(trainer: Trainer) -> Any:
    if not is_divided(trainer.accelerator):
        return trainer.optimiser.state_dict()
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_optimizer_state_dict

    return get_optimizer_state_dict(
        trainer.model,
        trainer.optimiser.optimizer,
        options=StateDictOptions(full_state_dict=True, cpu_offload=True),
    )
