"""Hooks of the documentation site: pages made from the code, and the check that nothing is loaded from another host.

`mkdocs.yml` names this file. `python -m scripts.docs_site options|commands|replicate_inputs` prints a page.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import fields
from html import escape
from html.parser import HTMLParser
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from animatediff.render.declare import Option
    from integrations.cog.animatediff_cog.inputs import CogInput

TYPES = {bool: "switch", int: "whole number", float: "number", str: "text"}

CHOSEN = {
    "device": "the best there is",
    "dtype": "half where the device has it",
    "decode_chunk_size": "a few",
    "out": "a new name in <code>samples/</code>",
    "name": "the prompt",
}
"""Defaults in words that the declaration does not hold."""

# -- every option ------------------------------------------------------------------------------------------------------


def options_page() -> str:
    """Every option of a request, in a table made from `animatediff.render.options`."""
    from animatediff.render.options import OPTIONS
    from animatediff.sampling.schedulers import SCHEDULERS

    lines = [OPTIONS_INTRODUCTION.format(count=len(OPTIONS))]
    for panel, options in groupby(OPTIONS, key=lambda option: option.panel):
        rows = [_option_row(option) for option in options]
        lines += [f"## {panel}\n", *_table("options", ("Option", "Value", "Default", "What it does"), rows)]
    rows = [
        (name, (f"<code>{name}</code>", f"<code>{cls}</code>", escape(", ".join(f"{k}={v}" for k, v in more.items()))))
        for name, (cls, more) in SCHEDULERS.items()
    ]
    lines += ["## Samplers\n", SAMPLERS_INTRODUCTION, *_table("samplers", ("Name", "Class", "Settings"), rows)]
    return "\n".join(lines)


OPTIONS_INTRODUCTION = """\
---
title: Every option
---

# Every option

{count} options decide what is rendered and where it goes. This table is made from the one that the program itself uses
(`animatediff/render/options.py`). The first column has the name on the command line and, below it, the one in YAML and
JSON files, in Python's `build_request` and `AnimateRequest`, and in `extra_params` of the HTTP service; where
`pipe(...)` calls it something else, a third line says so. "The model's" is what the motion module or a few-step LoRA
recommends; `animatediff inspect FILE` shows it. Without `--model` and `--motion-module` the bundled model renders.

Names of other programs stand for ours in files: see [who comes from elsewhere](for/index.md). Bounds that no file can
change are [limits](command_line.md#limits). Flags that are not part of a request (`--from`, `--config`, ...) are with
the [commands](commands.md).
"""

SAMPLERS_INTRODUCTION = """\
Names for `--scheduler`. A class of diffusers that samples Stable Diffusion may be named as well. The noise schedule
(betas) is the motion module's in each of them.
"""


def _option_row(option: Option) -> tuple[str, tuple[str, ...]]:
    from animatediff.render.options import FLAGS

    flags = [option.flag] + [option.short] * bool(option.short)
    names = [" ".join(f"<code>{flag}</code>" for flag in flags), f"<code>{option.name}</code>"]
    if option.as_it_is and option.argument not in (None, option.name):
        names.append(f"pipe: <code>{option.argument}</code>")
    value = [kind_of(option), *([f"<small>{range_of(option)}</small>"] if range_of(option) else [])]
    what = _prose(_with_flags(option.help, FLAGS))
    if option.in_memory:
        what += f" In Python also {'an image' if option.in_memory == 'image' else 'frames'} in memory."
    if needed := _needed(option):
        what += f"<br><small>Without effect where {_prose(_with_flags(needed, FLAGS))}.</small>"
    return option.name, ("<br>".join(names), "<br>".join(value), default_of(option), what)


def kind_of(option: Option) -> str:
    """Type of the value in words.

    >>> from animatediff.render.options import BY_NAME
    >>> [kind_of(BY_NAME[name]) for name in ("num_frames", "loras", "closed_loop", "motion_scale", "blend")]
    ['whole number', 'files', 'switch', 'number, or numbers at frames', 'word']
    """
    if "Keyframe" in option.annotation:
        return "images at frames"
    if "dict[int, str]" in option.annotation:
        return "texts at frames"
    if "dict[int, float]" in option.annotation:
        return "number, or numbers at frames"
    if option.choices is not None:
        kind = "word"
    elif option.in_memory:
        kind = option.in_memory
    elif option.folder is not None or option.name == "out":
        kind = "file"
    else:
        kind = TYPES[option.entry]
    return {"switch": kind}.get(kind, kind + "s" * option.many)


def range_of(option: Option) -> str:
    """Values that the option takes, in words; "" where any will do."""
    if option.choices is not None:
        return ", ".join(f"<code>{escape(word)}</code>" for word in option.choices)
    if option.range is None:
        return ""
    text = option.expected or str(option.range)
    return "" if text == "a finite number" else escape(text)


def default_of(option: Option) -> str:
    """The default in words."""
    from animatediff.pipelines.output import Defaults

    recommended = {item.name for item in fields(Defaults)} | {"scheduler", "overlap"}
    if option.unset:
        return escape(option.unset)
    if option.required:
        return "must be given"
    value = option.default
    if option.name in CHOSEN:
        return CHOSEN[option.name]
    if value is None:
        return "the model's" if {option.name, option.argument} & recommended else "none"
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, tuple):
        value = value[0] if len(value) == 1 else None
    return "none" if value in (None, "") else f"<code>{value:g}</code>" if isinstance(value, float) else _code(value)


def _needed(option: Option) -> str:
    from animatediff.pipelines.subjects import SUBJECTS as CALL
    from animatediff.render.subjects import OUTPUT_SUBJECTS, SUBJECTS

    subject: Any = ({**CALL, **SUBJECTS, **OUTPUT_SUBJECTS}).get(option.needs)
    return subject.lacking if subject is not None else ""


# -- every command -----------------------------------------------------------------------------------------------------


def commands_page() -> str:
    """Every command with its help and its options, in tables made from the command line itself."""
    import typer

    from animatediff.cli.main import MADE, app
    from animatediff.limits import LIMITS
    from animatediff.render.options import BY_NAME

    group: Any = typer.main.get_command(app)
    lines = [COMMANDS_INTRODUCTION]
    for name, found in group.commands.items():
        command: Any = MADE[name]() if name in MADE else found
        shown = [each for each in command.params if each.name not in {*LIMITS, "help", "help_all"}]
        limits = [LIMITS[each.name].flag for each in command.params if each.name in LIMITS]
        words = [each.metavar or each.name.upper() for each in shown if not each.opts[0].startswith("-")]
        lines += [f"## animatediff {name}\n", f"    animatediff {' '.join([name, *words, '[OPTIONS]'])}\n"]
        lines += [_prose(_clean(command.help or "")) + "\n"]
        if name in MADE:  # with a parameter for every option
            own = [each for each in shown if each.name not in BY_NAME]
            lines += [f"Takes {len(shown) - len(own)} options of a request ([every option](options.md)), and:\n"]
            shown = own
        lines += _table("commands", ("Option", "Default", "What it does"), [_parameter_row(name, p) for p in shown])
        if limits:
            listed = ", ".join(f"`{flag}`" for flag in limits)
            lines += [f"[Limits](command_line.md#limits): {listed}.\n"]
    return "\n".join(lines)


COMMANDS_INTRODUCTION = """\
# Commands

Made from the command line itself; `animatediff --help` and `animatediff COMMAND --help` print the same,
`animatediff COMMAND --help-all` the limits too. What each is for and how they go together:
[On the command line](command_line.md).
"""


def _parameter_row(command: str, parameter: Any) -> tuple[str, tuple[str, ...]]:
    flags = [*parameter.opts, *parameter.secondary_opts]
    metavar = getattr(parameter, "metavar", None) or ""
    if not flags[0].startswith("-"):
        shown = _code(metavar or flags[0].upper())
    else:
        shown = " ".join(_code(flag) for flag in flags) + (f" <small>{escape(metavar)}</small>" if metavar else "")
    default = parameter.default
    plain = default in (None, False, True, "", ()) or default == [] or callable(default)
    text = ("must be given" if parameter.required else "") if plain else _code(default)
    return f"{command}-{parameter.name}".replace("_", "-"), (shown, text, _prose(parameter.help or ""))


def _clean(text: str) -> str:
    """Help without the marks that keep its line ends on a terminal."""
    return "\n\n".join(" ".join(block.replace("\b", "").split()) for block in text.strip().split("\n\n"))


# -- tables ------------------------------------------------------------------------------------------------------------


INPUTS_INTRODUCTION = """\
---
title: Inputs on Replicate
---

# Inputs on Replicate

Every input of the [Cog model](replicate.md), in a table made from the one that it uses, with the limits of the
`settings.yaml` that ships. What they do is told at length with [every option](options.md). Files are addresses or data
URLs; models are named as they lie in `models/`. Those marked as former come from published models, and still work.

Not taken, and why:

{without}
"""


def inputs_page() -> str:
    """Every input of the Cog model, in a table made from `integrations/cog`."""
    from integrations.cog.animatediff_cog.inputs import NOT_HERE
    from integrations.cog.animatediff_cog.schema import inputs_of

    without = "\n".join(f"- `{name}`: {reason}." for name, reason in NOT_HERE.items())
    rows = [(item.name, _input_row(item)) for item in inputs_of()]
    table = _table("options inputs", ("Input", "Value", "Default", "What it does"), rows)
    return "\n".join([INPUTS_INTRODUCTION.format(without=without), *table])


def _input_row(item: CogInput) -> tuple[str, ...]:
    words = {"Path": "file", "str": "word" if item.choices else "text", "int": TYPES[int], "float": TYPES[float]}
    kind = words.get(item.kind, TYPES[bool]) + "s" * item.many
    bounds = [f"{name} {bound:g}" for name, bound in (("from", item.ge), ("to", item.le)) if bound is not None]
    allowed = ", ".join(f"<code>{escape(word)}</code>" for word in item.choices or ()) or " ".join(bounds)
    default = f"<code>{item.default}</code>" if item.default not in (None, "") else "must be given" * item.required
    if isinstance(item.default, bool):
        default = "on" if item.default else "off"
    return (
        f"<code>{item.name}</code>" + "<br><small>Former.</small>" * item.deprecated,
        kind + (f"<br><small>{allowed}</small>" if allowed else ""),
        default,
        _prose(item.description),
    )


def _table(name: str, heads: tuple[str, ...], rows: list[tuple[str, tuple[str, ...]]]) -> list[str]:
    """An HTML table whose rows have anchors; site.css makes cards of the rows on a narrow screen."""
    head = "".join(f"<th>{text}</th>" for text in heads)
    body = (f'<tr id="{key}">{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>' for key, cells in rows)
    return [
        f'<div class="rows {name}"><table>',
        f"<thead><tr>{head}</tr></thead>",
        "<tbody>",
        *body,
        "</tbody>",
        "</table></div>\n",
    ]


def _code(value: object) -> str:
    return f"<code>{escape(str(value))}</code>"


def _prose(text: str) -> str:
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text, quote=False))


def _with_flags(text: str, flags: Mapping[str, str]) -> str:
    """Names of settings in backquotes, as the command line calls them."""
    return re.sub(r"`([a-z_0-9]+)`", lambda found: f"`{flags.get(found[1], found[1])}`", text)


# -- nothing from another host -----------------------------------------------------------------------------------------

LOADING = {"src", "srcset", "poster", "data", "background"}
"""Attributes whose address a browser loads."""
LOADING_LINKS = {"stylesheet", "icon", "preload", "prefetch", "preconnect", "dns-prefetch", "modulepreload", "manifest"}
_AWAY = re.compile(r"\s*(?:https?:)?//", re.IGNORECASE)
_CSS = re.compile(r"""(?:url\(\s*['"]?|@import\s+['"])((?:https?:)?//[^'")\s]+)""", re.IGNORECASE)


class _Loaded(HTMLParser):
    """Addresses on other hosts that a browser would load for a page."""

    def __init__(self) -> None:
        super().__init__()
        self.away: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        found = [given[name] for name in LOADING & given.keys()]
        if tag == "link" and LOADING_LINKS & set(given.get("rel", "").lower().split()):
            found.append(given.get("href", ""))
        self.away += [address for address in found if any(_AWAY.match(one) for one in address.split(","))]
        self.away += _CSS.findall(given.get("style", ""))


def loaded_from_elsewhere(folder: Path) -> Iterator[str]:
    """What pages and style sheets of a built site would load from another host, as `FILE: ADDRESS`."""
    for path in sorted(folder.rglob("*")):
        found: list[str] = []
        if path.suffix == ".html":
            reader = _Loaded()
            text = path.read_text("utf-8")
            reader.feed(text)
            styles = re.findall(r"<style.*?</style>", text, re.DOTALL)
            found = [*reader.away, *(address for style in styles for address in _CSS.findall(style))]
        elif path.suffix in (".css", ".svg"):
            found = _CSS.findall(path.read_text("utf-8"))
        yield from (f"{path.relative_to(folder)}: {address}" for address in found)


# -- hooks of MkDocs ---------------------------------------------------------------------------------------------------

PAGES = {"options.md": options_page, "commands.md": commands_page, "replicate_inputs.md": inputs_page}


def on_files(files: Any, config: Any) -> Any:
    """Add the pages made from the code."""
    from mkdocs.structure.files import File

    for name, page in PAGES.items():
        files.append(File.generated(config, name, content=page()))
    return files


def on_page_content(html: str, **_: Any) -> str:
    """Mark flags, which browsers would break after their dashes."""
    return re.sub(r"<code>(-[\w\-]+(?: [\w/.:]+)?)</code>", r'<code class="flag">\1</code>', html)


def on_post_build(config: Any) -> None:
    """Stop a build whose pages load anything from another host."""
    from mkdocs.exceptions import PluginError

    if found := list(loaded_from_elsewhere(Path(config.site_dir))):
        raise PluginError("the site loads from other hosts:\n" + "\n".join(found))


if __name__ == "__main__":
    print({name.removesuffix(".md"): page for name, page in PAGES.items()}[sys.argv[1]]())
