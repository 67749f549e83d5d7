"""The table of what replaces what, for the documentation (docs/comfyui.md holds it; a test compares)."""

from __future__ import annotations

from .table import TABLE, Old

HEAD = "| node there | nodes here | inputs | told of, unless at their default |\n|---|---|---|---|"


def markdown() -> str:
    """The table, a row for each old node.

    An input that has another name here has it behind the arrow.
    """
    return "\n".join([HEAD, *(_row(old) for old in TABLE)])


def _row(old: Old) -> str:
    carried = []
    for takes in old.takes:
        if takes.follow:
            carried.append(f"`{takes.name}`")
        elif takes.to:
            name = takes.to.partition(".")[2]
            carried.append(f"`{takes.name}`" if name == takes.name else f"`{takes.name}` → `{name}`")
    lost = [f"`{takes.name}`" for takes in old.takes if not takes.to and not takes.follow and takes.why]
    makes = ", ".join(old.makes) or "settings of the node that it is connected to"
    return f"| `{old.node}` | {makes} | {', '.join(carried) or '-'} | {', '.join(lost) or '-'} |"
