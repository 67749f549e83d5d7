"""Types of the arguments of a call, by their annotations: one walk over all. torch is imported by its caller at most.

Diffusers checks few of them; the rest end in errors deep inside a model, or in frames that nobody asked for.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields
from difflib import get_close_matches
from inspect import Signature
from pathlib import Path
from typing import Any

from animatediff.errors import UserError, brief

FORMER: dict[str, str] = {
    "callback": "give `callback_on_step_end`, a function of (pipe, step, timestep, tensors)",
    "callback_steps": "`callback_on_step_end` is called after each step and may leave some out",
    "num_images_per_prompt": "give `num_videos_per_prompt`",
    "video_length": "give `num_frames`",
    "image": "give `images`, such as {0: image}, or `video`, or `conditioning_frames`",
    "controlnet_images": "give `conditioning_frames`",
    "pag_applied_layers": "call `pipe.set_pag_applied_layers(...)` before",
    "motion_adapter": "call `pipe.load_motion_module(...)` before",
    "lora_scale": 'give `cross_attention_kwargs={"scale": ...}`',
    "context_length": "give `window`",
    "context_overlap": "give `overlap`",
    "fps": "a call has no speed; give `fps` where the file is written",
    "seed": "give `generator`, such as torch.Generator().manual_seed(1)",
    "sampler": "call `pipe.set_scheduler(...)` before",
    "scheduler": "call `pipe.set_scheduler(...)` or set `pipe.scheduler` before",
}
"""Arguments of other pipelines, and of diffusers' former versions -> what to do here."""


def bound(signature: Signature, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of a call by name. Raises UserError for more arguments than there are, and for unknown names."""
    for name in kwargs:
        if name in signature.parameters:
            continue
        if name in FORMER:
            raise UserError(f"a call has no argument `{name}`; {FORMER[name]}")
        near = get_close_matches(name, signature.parameters, n=1)
        raise UserError(f"a call has no argument `{name}`" + (f"; did you mean `{near[0]}`?" if near else ""))
    try:
        return signature.bind(*args, **kwargs).arguments
    except TypeError as error:
        raise UserError(f"{error}; give arguments by name") from None


def check_order(pipe: Any, args: Sequence[Any]) -> None:
    """Raise UserError for arguments without names where diffusers' pipelines have other orders."""
    first = args[0] if args else None
    if isinstance(first, list | tuple) and first and not isinstance(first[0], str | Mapping) and _is_image(first[0]):
        raise UserError("the first argument is `prompt`; give the video by name, `video=...`")
    if len(args) < 2:
        return
    if isinstance(args[1], str | list):
        raise UserError(
            "the second argument is `num_frames`; give others by name, such as `prompt_2` or `negative_prompt`"
        )
    if pipe.sparsectrl is not None:
        raise UserError(
            "arguments behind `prompt` stand in another order in diffusers' pipeline of SparseCtrl; give them by name, "
            "such as `num_frames=16`"
        )


def _is_image(given: Any) -> bool:
    return hasattr(given, "convert") or hasattr(given, "shape") or (isinstance(given, list) and bool(given))


def check_types(call: Any) -> None:
    """Raise UserError for the first argument whose value is not of its type. call: `Arguments`."""
    for item in fields(call):
        value, annotation = getattr(call, item.name), str(item.type)
        if value is None and "None" in annotation:
            continue
        wanted = [kind for pattern, kind in _KINDS if re.search(pattern, annotation)]
        if not wanted:
            continue
        if not any(fits(value) for _, fits in wanted):
            names = " or ".join(dict.fromkeys(name for name, _ in wanted))
            hint = "; leave it out for the default" if value is None else ""
            if item.name == "generator" and _whole(value):
                hint = f"; a seed is `generator`=torch.Generator().manual_seed({value})"
            raise UserError(f"`{item.name}` is {names}, got {told(value)}{hint}")
        if isinstance(value, Sequence) and not isinstance(value, str) and not len(value):
            raise UserError(f"`{item.name}` is empty; give at least one value, or leave it out")


def told(value: Any) -> str:
    """A value and its type, short, in one line."""
    kind, text = type(value).__name__, "" if _is("Tensor", value) else " ".join(_written(value).split())
    if _is("Tensor", value):
        return f"a tensor of {str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}" + (
            "" if _finite(value) else " with values that are not finite"
        )
    return "None" if value is None else f"{text[:60]}{'...' if len(text) > 60 else ''} ({kind})"


def _written(value: Any) -> str:
    try:
        return repr(value)
    except ValueError:  # numbers that Python does not write
        return brief(value)


def _is(name: str, value: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, getattr(torch, name))


def _finite(value: Any) -> bool:
    return not value.is_floating_point() or bool(value.isfinite().all())


def _number(value: Any) -> bool:
    if isinstance(value, bool | str | bytes | Mapping) or getattr(value, "ndim", 0):
        return False
    try:
        return math.isfinite(float(value))
    except (TypeError, ValueError, OverflowError):
        return False


def _whole(value: Any) -> bool:
    return _number(value) and not isinstance(value, float) and hasattr(value, "__index__")


def _some(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    def check(value: Any) -> bool:
        listed = isinstance(value, Iterable) and not isinstance(value, str | bytes | Mapping)
        return listed and not _is("Generator", value) and getattr(value, "ndim", 1) == 1 and all(map(fits, value))

    return check


def _tensor(value: Any) -> bool:
    return _is("Tensor", value) and value.is_floating_point() and _finite(value)


def _pair(value: Any) -> bool:
    return isinstance(value, tuple | list) and len(value) == 2 and all(map(_whole, value))


def _curve(value: Any) -> bool:
    return isinstance(value, str | float | Mapping | list | tuple) or _number(value)  # frame_curve names what is wrong


def _input(value: Any) -> bool:
    return type(value).__name__ == "ControlNetInput"


_Kind = tuple[str, Callable[[Any], bool]]
_KINDS: tuple[tuple[str, _Kind], ...] = (
    (r"^int\b", ("a whole number", _whole)),
    (r"^float\b", ("a number", _number)),
    (r"^bool\b", ("True or False", lambda value: isinstance(value, bool))),
    (r"^str\b", ("a text", lambda value: isinstance(value, str))),
    (r"^Path\b", ("the name of a folder", lambda value: isinstance(value, str | Path) and str(value).strip() != "")),
    (r"^Tensor\b", ("a tensor of finite numbers", _tensor)),
    (r"^tuple\[int, int\]", ("a pair of whole numbers (height, width)", _pair)),
    (r"\bSequence\[float\]", ("a list of numbers", _some(_number))),
    (r"\bSequence\[int\]", ("a list of whole numbers", _some(_whole))),
    (r"\bSequence\[str\]", ("a list of texts", _some(lambda value: isinstance(value, str)))),
    (r"^Sequence\[Tensor\]", ("a list of tensors of finite numbers", _some(_tensor))),
    (r"^torch.Generator", ("a torch.Generator", lambda value: _is("Generator", value))),
    (r"Sequence\[torch.Generator\]", ("a list of them", _some(lambda value: _is("Generator", value)))),
    (r"^Mapping\[str, Any\]", ("a dictionary", lambda value: isinstance(value, Mapping))),
    (r"^Callable", ("a function", callable)),
    (r"^Curve", ("a number, numbers at frames, or one a frame", _curve)),
    (r"^ControlNetInput", ("a ControlNetInput", _input)),
    (r"\bSequence\[ControlNetInput\]", ("a list of them", _some(_input))),
)
"""Pattern of an annotation -> a type that it takes. Others are checked where they are used."""
