"""Calls that are stopped at the n-th call of a model, as a killed process is, and made again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

MODELS = (("unet", "forward"), ("vae", "decode"), ("vae", "encode"))


class Stopped(BaseException):
    """Stands for a kill: nothing catches it."""


class Calls:
    """Counts calls of the models of a pipeline, and stops at one of them."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.count = 0
        self.stop_at = stop_at

    def __call__(self) -> None:
        self.count += 1
        if self.count == self.stop_at:
            raise Stopped


@contextmanager
def counted(pipe: Any, stop_at: int | None = None) -> Iterator[Calls]:
    """Count the calls of UNet and VAE; the `stop_at`-th, from 1, raises Stopped in place of an answer."""
    calls = Calls(stop_at)
    before = [(getattr(pipe, part), name, getattr(getattr(pipe, part), name)) for part, name in MODELS]

    def counting(answer: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            calls()
            return answer(*args, **kwargs)

        return call

    for model, name, answer in before:
        setattr(model, name, counting(answer))
    try:
        yield calls
    finally:
        for model, name, _ in before:
            delattr(model, name)
