"""Like `training_clips.py` as a script, with weights divided among the processes (FSDP 2).

`accelerate` offers FSDP on GPUs alone, though PyTorch divides on CPUs as well; so what `accelerate` decides from the
hardware is decided here.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch

from animatediff.training import loop
from support.training_clips import run


def dividing(config: Any) -> Any:
    """An accelerator that divides every ResNet and transformer of the model."""
    from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin

    from animatediff.training.accelerator import make_accelerator

    accelerator = make_accelerator(config)
    plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2,
        auto_wrap_policy="transformer_based_wrap",
        transformer_cls_names_to_wrap=["ResnetBlock2D", "BasicTransformerBlock"],
        state_dict_type="FULL_STATE_DICT",
    )
    os.environ["ACCELERATE_USE_FSDP"] = "true"
    accelerator.state.distributed_type = DistributedType.FSDP
    accelerator.state.fsdp_plugin = plugin
    return accelerator


if __name__ == "__main__":
    torch.set_num_threads(1)
    loop.make_accelerator = dividing
    values = json.loads(Path(sys.argv[1]).read_text())
    done = run(values.pop("stage"), Path(values.pop("out")), **values)
    print(json.dumps({"step": done.step}), flush=True)
