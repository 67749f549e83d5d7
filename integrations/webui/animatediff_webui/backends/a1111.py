"""A1111: the UNet is plain LDM (SDXL: sgm), so motion modules are called by hooks of its layers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from animatediff_webui.backends import Backend
from animatediff_webui.job import Job


class A1111:
    """Motion modules in `p.sd_model.model.diffusion_model`."""

    name = "a1111"

    def base_of(self, p: Any) -> str:
        """See `Backend`."""
        raise NotImplementedError

    @contextmanager
    def attach(self, p: Any, job: Job) -> Iterator[None]:
        """See `Backend`."""
        raise NotImplementedError
        yield

    def before_sampling(self, p: Any, job: Job, **kwargs: Any) -> None:
        """See `Backend`; nothing is left to do."""


def backend() -> Backend:
    """The backend of this module."""
    return A1111()
