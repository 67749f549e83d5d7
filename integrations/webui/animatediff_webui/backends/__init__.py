"""Backends: one for each kind of host, which differ in how a UNet is patched. `choose` finds that of this one."""

from __future__ import annotations

import importlib
import importlib.util
from contextlib import AbstractContextManager
from typing import Any, Protocol

from animatediff_webui.job import Job

MODULES = {"neo": "animatediff_webui.backends.neo", "forge": "animatediff_webui.backends.forge"}
"""Of hosts with a patcher of their own; each module has a function `backend()`."""


class Backend(Protocol):
    """How motion modules come into the UNet of one kind of host, and out again."""

    name: str
    """"a1111", "forge" (reForge) or "neo"."""

    def base_of(self, p: Any) -> str:
        """Kind of the base model that is loaded: "sd1", "sd2", "sdxl", or its own name if it is another."""
        ...

    def attach(self, p: Any, job: Job) -> AbstractContextManager[None]:
        """Everything that `job` needs while `p.sample` runs, both passes of hires. fix; undone at exit in any case.

        Entered with `p.prompts`, `p.c` and `p.uc` as the host made them, one prompt a frame: prompt travel is done
        (`conds.py`). An exception in here reaches the user as the host shows errors.
        """
        ...

    def before_sampling(self, p: Any, job: Job, **kwargs: Any) -> None:
        """The host is about to sample (`process_before_every_sampling`), inside of `attach`; once a pass."""
        ...


def host_name() -> str:
    """The kind of this host, by the modules it has: "neo", "forge" or "a1111"."""
    if importlib.util.find_spec("backend") is not None and importlib.util.find_spec("modules_forge") is not None:
        return "neo"
    return "forge" if importlib.util.find_spec("ldm_patched") is not None else "a1111"


def choose() -> Backend:
    """The backend of the host that this runs in."""
    name = host_name()
    module = importlib.import_module(MODULES.get(name, "animatediff_webui.backends.a1111"))
    return module.backend()
