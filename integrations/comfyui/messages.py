"""Messages of the library in the words of the nodes."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from animatediff.errors import UserError, renamed

NAMES = {
    "motion_module": "AnimateDiff Load Motion Module",
    "motion_loras": "AnimateDiff MotionLoRA",
    "domain_adapter": "AnimateDiff Domain Adapter",
    "sparsectrl": "AnimateDiff Load SparseCtrl",
    "camera_control": "AnimateDiff Load CameraCtrl",
    "loras": "Load LoRA",
    "controlnet": "Load ControlNet Model",
    "model": "Load Checkpoint",
    "vae": "Load VAE",
    "text_encoder": "Load CLIP",
    "text_encoder_2": "Load CLIP",
    "embeddings": "a prompt, as embedding:NAME",
    "upscaler": "Load Upscale Model",
    "ip_adapter": "a node of an IP-Adapter pack",
    "ip_adapter_encoder": "Load CLIP Vision",
    "num_frames": "the batch size of the latents",
}
"""Setting of the library -> node or input that takes it here; others have the same name."""
OF_FIELDS: dict[str, str] = {}
"""The same for nodes whose inputs have the library's names."""
OTHERWISE = (
    (re.compile(r", or load_\w+"), ""),
    (re.compile(", or add `download` to fetch it from"), ", from"),
    (re.compile(r"\(with `download`, "), "(such as "),
)
"""What nodes cannot do, call a method or fetch a file, and what is said in its place."""


@contextmanager
def in_host_words(names: Mapping[str, str] = NAMES) -> Iterator[None]:
    """Raise mistakes of users as ValueErrors in the words of the nodes; the host shows their text at the node.

    names: setting of the library -> its name here.
    """
    try:
        yield
    except UserError as error:
        raise ValueError(in_words(str(error), names)) from None


def in_words(text: str, names: Mapping[str, str]) -> str:
    """A text of the library with names of this host, and without what nodes cannot do."""
    for pattern, other in OTHERWISE:
        text = pattern.sub(other, text)
    return renamed(text, names).replace("`", "")


def verdict(check: Callable[[], Any], *given: Any) -> bool | str:
    """What a node's `validate_inputs` returns: True, or what is wrong with its inputs.

    given: inputs that `check` needs. One that comes by a link is None before anything runs, and is checked when it is
    there.
    """
    if any(value is None for value in given):
        return True
    try:
        with in_host_words():
            check()
    except (ValueError, OSError) as error:
        return str(error)
    return True
