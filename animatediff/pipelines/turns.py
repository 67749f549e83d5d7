"""Turns of threads: models that pipelines share do one call at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch

from animatediff.errors import Cancelled
from animatediff.weights.lora.load import uncompiled

_MODELS = ("unet", "vae", "text_encoder", "text_encoder_2", "sparsectrl", "camera_control")
"""Parts of a pipeline that a call changes for its time: frames of a clip, strengths of LoRAs, precision, tiles."""
_locks: WeakKeyDictionary[torch.nn.Module, threading.RLock] = WeakKeyDictionary()
_one_at_a_time = threading.Lock()


@contextmanager
def turn(pipe: Any, cancel: Callable[[], bool] | None = None) -> Iterator[None]:
    """Wait until no other thread uses a model of `pipe`, then keep others waiting; in one thread turns may be nested.

    The scheduler and the state of a call are the pipeline's own, which is the UNet's. Raises Cancelled if `cancel` says
    so while it waits.
    """
    found = [uncompiled(part) for name in _MODELS if isinstance(part := getattr(pipe, name, None), torch.nn.Module)]
    with ExitStack() as stack:
        for model in sorted(found, key=id):  # in one order, so that no two threads wait for each other
            lock = _lock_of(model)
            while not lock.acquire(timeout=0.1):
                if cancel is not None and cancel():
                    raise Cancelled("cancelled while another thread used the model")
            stack.callback(lock.release)
        yield


def _lock_of(model: torch.nn.Module) -> threading.RLock:
    with _one_at_a_time:
        return _locks.setdefault(model, threading.RLock())
