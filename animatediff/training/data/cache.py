"""VAE latents and prompt embeddings on disk: made once, found again by a hash of the weights that made them."""

from __future__ import annotations

import hashlib
import logging
import os
import zlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from animatediff.errors import is_disk_full
from animatediff.unfinished import Unfinished

logger = logging.getLogger(__name__)

CHECKSUM = "crc32"


def fingerprint(module: nn.Module, *settings: Any) -> str:
    """Hash a module's weights, their types and names, and `settings`: everything that decides its output."""
    digest = hashlib.sha256(repr(settings).encode())
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


class LatentCache:
    """Tensors on disk under names, for everything that frozen weights compute from clips or captions.

    made_by: whatever decides the values beside their keys, such as `fingerprint(vae)`; other weights find other
    entries. Entries appear whole or not at all, so processes may share a folder. A damaged entry is made again. On a
    full disk, or one that cannot be written, one warning is given, and missing entries are made anew each time.
    """

    def __init__(self, folder: str | Path, made_by: str) -> None:
        self._made_by = made_by
        self.folder = Path(folder) / hashlib.sha256(made_by.encode()).hexdigest()[:16]
        self._writes = True

    def _path(self, key: str) -> Path:
        name = hashlib.sha256(f"{self._made_by}\0{key}".encode("utf-8", "surrogateescape")).hexdigest()[:40]
        return self.folder / name[:2] / f"{name}.safetensors"

    def get(self, key: str) -> Tensor | None:
        """Read the value under `key`; None if there is none or it is damaged."""
        path = self._path(key)
        try:
            with safe_open(path, "pt") as file:
                value = file.get_tensor("value")
                if int((file.metadata() or {})[CHECKSUM]) == _checksum(value):
                    return value
        except FileNotFoundError:
            return None
        except (OSError, SafetensorError, KeyError, ValueError):
            pass
        logger.warning("%s: is damaged, and made again", path)
        return None

    def put(self, key: str, value: Tensor) -> None:
        """Write a value under `key`."""
        if not self._writes:
            return
        path = self._path(key)
        unfinished = Unfinished(path)
        value = value.detach().cpu().contiguous()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                unfinished.create()
                unfinished.path.write_bytes(save({"value": value}, {CHECKSUM: str(_checksum(value))}))
                os.replace(unfinished.path, path)
            finally:
                with suppress(OSError):
                    unfinished.remove()
        except OSError as error:
            self._writes = False
            logger.warning(
                "%s: %s, so nothing more is put into this cache; training goes on, slower. "
                "Free some space or choose another folder with data.cache",
                self.folder,
                "the disk is full" if is_disk_full(error) else f"cannot be written ({error.strerror or error})",
            )

    def get_or_make(self, keys: Sequence[str], make: Callable[[list[int]], Tensor]) -> Tensor:
        """Read or make the values under `keys`, stacked: (len(keys), ...), on the CPU.

        make: given the positions in `keys` of those that are missing, computes them, stacked in that order.
        """
        values = [self.get(key) for key in keys]
        missing = [i for i, value in enumerate(values) if value is None]
        if missing:
            made = make(missing).detach().cpu()
            if len(made) != len(missing):
                raise ValueError(f"make() was asked for {len(missing)} values and gave {len(made)}")
            for i, value in zip(missing, made, strict=True):
                self.put(keys[i], value)
                values[i] = value
        return torch.stack([value for value in values if value is not None])


def _checksum(value: Tensor) -> int:
    return zlib.crc32(value.contiguous().flatten().view(torch.uint8).numpy().tobytes())
