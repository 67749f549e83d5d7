"""The state of a live run, and how a checkpoint stores and restores it, also where FSDP has sharded the weights."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from animatediff.errors import UserError
from animatediff.training.checkpoint import START_OVER, random_state
from animatediff.training.ema import EMA
from animatediff.training.optimizer import make_optimizer
from animatediff.training.stages.base import Stage, whole

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextlib import AbstractContextManager

    from animatediff.training.config import TrainConfig
    from animatediff.training.data import ClipLoader
    from animatediff.training.objective import Objective


@dataclass(kw_only=True)
class TrainState:
    """Everything that a step of training changes, and how far the run has come."""

    config: TrainConfig
    accelerator: Any
    stage: Stage
    model: Any
    """The stage's module, wrapped for the processes and the precision of the run."""
    optimizer: Any
    loader: ClipLoader
    ema: EMA | None = None
    step: int = 0
    """Updates of the weights so far."""
    seconds: float = 0.0
    """Time spent on training so far, in all processes that have gone on with the run one after the other."""

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that writes files."""
        return self.accelerator.is_main_process

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The parameters that train."""
        return list(self.stage.parameters.values())

    def ema_applied(self) -> AbstractContextManager[None]:
        """A context in which the model has its averaged weights, where the run keeps any."""
        return nullcontext() if self.ema is None else self.ema.applied()


def make_state(
    config: TrainConfig, accelerator: Any, stage: Stage, objective: Objective, loader: ClipLoader
) -> TrainState:
    """Wrap model and optimizer for the processes of the run, at step 0."""
    module = stage.module(objective)
    paths = {id(parameter): path for path, parameter in module.named_parameters()}
    names = {name: paths[id(parameter)] for name, parameter in stage.parameters.items()}
    model, optimizer = accelerator.prepare(module, make_optimizer(config, stage.parameters.values()))
    # FSDP puts parameters of its own in the place of those that were there.
    wrapped = dict(accelerator.unwrap_model(model).named_parameters())
    stage.parameters = {name: wrapped[path] for name, path in names.items()}
    return TrainState(
        config=config,
        accelerator=accelerator,
        stage=stage,
        model=model,
        optimizer=optimizer,
        loader=loader,
        ema=None if config.ema is None else EMA(stage.parameters, config.ema),
    )


def is_sharded(accelerator: Any) -> bool:
    """Whether the parameters are divided among the processes (FSDP)."""
    from accelerate.utils import DistributedType

    return accelerator.distributed_type == DistributedType.FSDP


def save_state(state: TrainState) -> dict[str, Any]:
    """Collect everything that decides the rest of the run, with tensors on the CPU. Every process must call it."""
    from accelerate.utils import gather_object

    saved: dict[str, Any] = {
        "step": state.step,
        "seconds": state.seconds,
        "config": state.config.model_dump_json(),
        "weights": state.stage.tensors(),
        "optimiser": _optimizer_state(state),
        "data": gather_object([state.loader.state_dict()]),
        "random": gather_object([random_state()]),
    }
    if state.ema is not None:
        ema = state.ema.state_dict()
        saved["average"] = {"updates": ema["updates"], "mean": {k: whole(v) for k, v in ema["mean"].items()}}
    if state.accelerator.scaler is not None:
        saved["scaler"] = state.accelerator.scaler.state_dict()
    return saved


def load_weights(stage: Stage, checkpoint: Mapping[str, Any]) -> None:
    """Restore the trained weights, before they are wrapped or sharded. Raises UserError if they do not fit."""
    weights: Mapping[str, Tensor] = checkpoint["weights"]
    if weights.keys() != stage.parameters.keys():
        raise UserError(f"the checkpoint holds other layers than this configuration trains; {START_OVER}")
    with torch.no_grad():
        for name, parameter in stage.parameters.items():
            if weights[name].shape != parameter.shape:
                raise UserError(
                    f"the checkpoint's {name} has shape {tuple(weights[name].shape)}, the model's "
                    f"{tuple(parameter.shape)}; {START_OVER}"
                )
            parameter.copy_(weights[name])


def load_state(state: TrainState, checkpoint: Mapping[str, Any], *, new_data: bool = False) -> None:
    """Restore everything but the weights and the random states: progress, optimizer, EMA, loss scale, data order.

    new_data: go through the data from its beginning, as it is now, whatever it was.
    """
    state.step, state.seconds = checkpoint["step"], checkpoint["seconds"]
    if is_sharded(state.accelerator):
        from torch.distributed.checkpoint.state_dict import StateDictOptions, set_optimizer_state_dict

        set_optimizer_state_dict(
            state.model,
            state.optimizer.optimizer,
            checkpoint["optimiser"],
            options=StateDictOptions(full_state_dict=True),
        )
    else:
        state.optimizer.load_state_dict(checkpoint["optimiser"])
    if state.ema is not None and "average" in checkpoint:
        saved = checkpoint["average"]
        mean = {name: sharded_like(state.ema.mean[name], tensor) for name, tensor in saved["mean"].items()}
        state.ema.load_state_dict({"updates": saved["updates"], "mean": mean})
    if state.accelerator.scaler is not None and "scaler" in checkpoint:
        state.accelerator.scaler.load_state_dict(checkpoint["scaler"])
    data = checkpoint["data"]
    saved = data[min(state.accelerator.process_index, len(data) - 1)]
    if new_data:
        state.loader.place = saved["place"]  # samples go on being numbered, so that none repeats noise of another
        return
    try:
        state.loader.load_state_dict(saved)
    except UserError as error:
        raise UserError(f"{error}; or go on with the data as it is now by `new_data`") from error


def sharded_like(live: Tensor, value: Tensor) -> Tensor:
    """Divide a whole tensor among the processes as `live` is."""
    placements = getattr(live, "placements", None)
    if placements is None:
        return value
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value.to(live.device), live.device_mesh, placements)  # pyright: ignore[reportAttributeAccessIssue]


def _optimizer_state(state: TrainState) -> Any:
    if not is_sharded(state.accelerator):
        return state.optimizer.state_dict()
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_optimizer_state_dict

    return get_optimizer_state_dict(
        state.model,
        state.optimizer.optimizer,
        options=StateDictOptions(full_state_dict=True, cpu_offload=True),
    )
