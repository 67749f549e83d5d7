"""The surroundings of a run: processes and precision by `accelerate`, and the folder it writes into."""

from __future__ import annotations

import importlib.util
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from animatediff.errors import UserError
from animatediff.files import check_results_folder, write_errors, write_text
from animatediff.training.report import METRICS_FILE

if TYPE_CHECKING:
    from animatediff.training.config import TrainConfig

CONFIG_FILE = "config.yaml"
MAX_WORKERS = 8
OWN_NAMES = ("checkpoints", "weights", "samples", METRICS_FILE, CONFIG_FILE)
"""Files and folders of a run beside its weights; a fresh start removes them."""


def default_workers(device: torch.device) -> int:
    """Number of processes that read data: none where the model needs the same processor itself."""
    return 0 if device.type == "cpu" else max(1, min(MAX_WORKERS, (os.cpu_count() or 1) - 1))


def check_machine(config: TrainConfig) -> None:
    """Raise UserError for settings that this machine or installation cannot serve."""
    for name in config.log:
        if importlib.util.find_spec(name) is None:
            raise UserError(f"`log`: {name} is not installed: pip install {name}")
    on_gpu = config.device != "cpu" and torch.cuda.is_available()
    if config.precision == "fp16" and not on_gpu:
        raise UserError("precision=fp16 needs a GPU; on a CPU take bf16 (where it has the instructions) or no")


def make_accelerator(config: TrainConfig) -> Any:
    """Make the `Accelerator` of a run. Raises UserError for settings that this machine or installation cannot serve."""
    check_machine(config)
    from accelerate import Accelerator
    from accelerate.utils import DistributedDataParallelKwargs

    folder = str(out_folder(config))
    accelerator = Accelerator(
        mixed_precision=config.precision,
        cpu=config.device == "cpu",
        log_with=list(config.log) or None,
        project_dir=folder,
        # Buffers are constants here, so nothing need be sent before each forward pass.
        kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False, gradient_as_bucket_view=True)],
    )
    plugin = getattr(accelerator.state, "fsdp_plugin", None)
    if plugin is not None and getattr(plugin, "fsdp_version", 1) != 2:
        raise UserError(
            "FSDP version 1 wraps layers so that motion modules are no longer called; choose version 2 "
            "(fsdp_version: 2 in the file of `accelerate config`, or FSDP_VERSION=2)"
        )
    if config.log:
        accelerator.init_trackers("animatediff", config={"stage": config.stage, **flat(config.stored())})
    return accelerator


def close_accelerator(accelerator: Any) -> None:
    """Undo `make_accelerator`, so that another run can begin in this process."""
    from accelerate.state import AcceleratorState, GradientState

    accelerator.end_training()
    accelerator.free_memory()
    AcceleratorState._reset_state(True)
    GradientState._reset_state()


def compute_dtype(accelerator: Any) -> torch.dtype:
    """The type that the frozen weights have and that autocast computes in."""
    return {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[accelerator.mixed_precision]


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, int | float | str | bool]:
    """Nested settings as single ones, for trackers that take no others."""
    result: dict[str, int | float | str | bool] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            result |= flat(value, f"{prefix}{key}.")
        else:
            result[prefix + key] = value if isinstance(value, int | float | str | bool) else str(value)
    return result


def out_folder(config: TrainConfig) -> Path:
    """The folder of the run."""
    return Path(config.out or Path("outputs") / config.stage).expanduser()


def prepare_folder(config: TrainConfig, accelerator: Any, resume: bool | None) -> Path:
    """Make the folder, or empty it for a fresh start (`resume=False`)."""
    folder = out_folder(config)
    if accelerator.is_main_process:
        check_results_folder(folder)
        with write_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            if resume is False:
                for name in OWN_NAMES:
                    place = folder / name
                    if place.is_dir():
                        shutil.rmtree(place)
                    else:
                        place.unlink(missing_ok=True)
    accelerator.wait_for_everyone()
    return folder


def write_config(folder: Path, config: TrainConfig) -> None:
    """Write the settings that are not the default, as a configuration that makes the same run."""
    import yaml

    settings = config.model_dump(mode="json", exclude_defaults=True)
    write_text(folder / CONFIG_FILE, yaml.safe_dump(settings, sort_keys=False, allow_unicode=True))


def check_shared(accelerator: Any, step: int, folder: Path) -> None:
    """Raise UserError unless all processes found the same checkpoint."""
    if accelerator.num_processes == 1:
        return
    steps = accelerator.gather(torch.tensor([step], device=accelerator.device)).tolist()
    if len(set(steps)) > 1:
        raise UserError(
            f"{folder}: the processes found checkpoints of different steps there {sorted(set(steps))}; "
            "`out` must be a folder that all machines share"
        )
