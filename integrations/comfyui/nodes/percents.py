"""The part of a sampling in which something acts: two inputs that several nodes have."""

# pyright: reportMissingImports=false

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from animatediff.errors import UserError


def percent_inputs(what: str, then: str = "", **more: Any) -> list[Any]:
    """`start_percent` and `end_percent`. what: that which acts, in tooltips; then: what follows its end."""
    return [
        io.Float.Input(
            "start_percent",
            default=0.0,
            min=0.0,
            max=1.0,
            step=0.001,
            tooltip=f"Share of the sampling from which on {what} acts.",
            **more,
        ),
        io.Float.Input(
            "end_percent",
            default=1.0,
            min=0.0,
            max=1.0,
            step=0.001,
            tooltip=f"Share of the sampling up to which it acts{then}.",
            **more,
        ),
    ]


def check_percents(start_percent: float, end_percent: float) -> None:
    """Raise UserError unless something acts between the two."""
    if not start_percent < end_percent:
        raise UserError(f"start_percent {start_percent} must be less than end_percent {end_percent}")
