"""ComfyUI for tests: the real one in its own Python, else the stub of what the node pack uses of it.

`COMFYUI_ROOT` is the folder of ComfyUI, `COMFYUI_PYTHON` a Python that has its requirements and AnimateDiff's (this one
by default). `tests/integrations/comfyui/test_real_host.py` runs all tests beside it there.
"""

from __future__ import annotations

import os
import sys
from functools import cache
from typing import Any

INSIDE = "ANIMATEDIFF_TESTS_IN_COMFYUI"
"""Variable that tells a test process to import the real host."""


def is_real() -> bool:
    """Whether tests of this process run in the real host."""
    return bool(os.environ.get(INSIDE))


@cache
def install() -> None:
    """Make `comfy`, `comfy_api`, `folder_paths` and the like importable, once in a process."""
    if not is_real():
        from support import comfy_stub

        comfy_stub.install()
        return
    sys.path.insert(0, os.environ["COMFYUI_ROOT"])
    from comfy.cli_args import args

    args.cpu = True


def models() -> Any:
    """The module `support.comfy_models`, which imports the host."""
    install()
    from support import comfy_models

    return comfy_models
