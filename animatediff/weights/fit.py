"""How the tensors of a file fit a model: one rule for every loader.

A tensor that the model needs and the file lacks, or one of another shape, refuses the file; a tensor that the model has
no place for is left out, and a warning says how many and which.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from animatediff.errors import UserError
from animatediff.weights.storage.files import Header, load_tensors

if TYPE_CHECKING:
    import torch
    from torch import nn

logger = logging.getLogger(__name__)

MAX_NAMED = 3
"""Names that a message spells out."""

Shape = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Fit:
    """The difference between the tensors of a file and those of a model, names sorted."""

    missing: tuple[str, ...]
    """Names that only the model has."""
    surplus: tuple[str, ...]
    """Names that only the file has."""
    misshapen: tuple[str, ...]
    """Names whose shapes differ, each with both shapes, for a message."""

    @classmethod
    def of(cls, found: Mapping[str, Shape], expected: Mapping[str, Shape]) -> Fit:
        """Compare name -> shape of the file with name -> shape of the model (a 1x1 convolution counts as linear).

        Both ways: loaders give a tensor the shape that the model has.
        """
        both = sorted(expected.keys() & found.keys())
        return cls(
            missing=tuple(sorted(expected.keys() - found.keys())),
            surplus=tuple(sorted(found.keys() - expected.keys())),
            misshapen=tuple(
                f"{name} has shape {found[name]}, expected {expected[name]}"
                for name in both
                if found[name] != expected[name]
                and found[name] != (*expected[name], 1, 1)
                and (*found[name], 1, 1) != expected[name]
            ),
        )

    def problems(self) -> list[str]:
        """State what keeps the file from filling the model, one line each; empty where it can."""
        lines = []
        if self.missing:
            lines.append(f"{len(self.missing)} tensors missing, first {some(self.missing)}; is the download complete?")
        if self.misshapen:
            rest = len(self.misshapen) - 1
            lines.append(self.misshapen[0] + (f" (and {rest} more of other shapes)" if rest else ""))
        return lines


def check_fit(found: Mapping[str, Shape], expected: Mapping[str, Shape], *, path: str | Path, model: str) -> Fit:
    """Raise UserError unless the file can fill the model; warn of tensors that are left out.

    `model` names the kind of model in messages, such as "motion module".
    """
    fit = Fit.of(found, expected)
    if problems := fit.problems():
        raise UserError(f"{path}: {'; '.join(problems)}")
    leave_out(fit.surplus, path=path, model=model)
    return fit


def load_into(model: nn.Module, header: Header, names: Mapping[str, str], *, dtype: torch.dtype | None = None) -> None:
    """Give a model on the meta device the tensors of a file. names: key of the model -> key of the file.

    `dtype` None keeps the file's; files of 8 bits compute in float16. Raises UserError as `load_tensors`.
    """
    expected = {key: value.shape for key, value in model.state_dict().items()}
    wanted = [names[key] for key in expected]
    tensors = load_tensors(header, wanted, dtype=dtype or computing_dtype(header, wanted))
    model.load_state_dict({key: tensors[names[key]].view(shape) for key, shape in expected.items()}, assign=True)


def computing_dtype(header: Header, keys: Iterable[str]) -> torch.dtype | None:
    """float16 where any of these tensors is stored in 8 bits, in which nothing is computed; else None, the file's."""
    import torch

    return torch.float16 if any(header.tensors[key].dtype.startswith("float8") for key in keys) else None


def leave_out(names: Collection[str], *, path: str | Path, model: str) -> None:
    """Warn of tensors of a file that are left out, with their number and first names; silent where there are none."""
    if names:
        logger.warning("%s: %d tensors that no %s has are left out: %s", path, len(names), model, some(sorted(names)))


def some(names: Iterable[str]) -> str:
    """The first names of a list, and dots for the others."""
    names = list(names)
    return ", ".join(names[:MAX_NAMED]) + (", ..." if len(names) > MAX_NAMED else "")
