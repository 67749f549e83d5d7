"""Inputs of nodes of other packs and where their values go: what the tables are written in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

LOAD, LORA, APPLY = "AnimateDiffLoadMotionModule", "AnimateDiffMotionLora", "AnimateDiffApply"
WINDOWS, TRAVEL = "AnimateDiffContextWindows", "AnimateDiffPromptTravel"
PIA, I2V = "AnimateDiffPIA", "AnimateDiffI2V"
LOAD_CAMERA, CAMERA = "AnimateDiffLoadCameraCtrl", "AnimateDiffCameraCtrl"
LOAD_SPARSE, APPLY_SPARSE = "AnimateDiffLoadSparseCtrl", "AnimateDiffSparseCtrlApply"
CREATE_VIDEO, SAVE_VIDEO, SAVE_WEBP = "CreateVideo", "SaveVideo", "SaveAnimatedWEBP"

ABSENT: Any = object()


@dataclass(frozen=True, kw_only=True)
class Takes:
    """One input of an old node."""

    name: str
    to: str = ""
    """`NODE.input` that takes the value; "" where none does."""
    words: Mapping[Any, Any] = field(default_factory=dict)
    """Values there -> values here; where given, others are not carried."""
    neutral: tuple[Any, ...] = ()
    """Values with which nothing is lost, where no input takes them."""
    default: Any = ABSENT
    """What counts there where a workflow does not say."""
    why: str = ""
    """What to use instead, or how what is taken differs."""
    note: bool = False
    """Whether `why` is told although the value is carried, where it is not `neutral`."""
    link: bool = False
    """Whether it is a socket, without a widget."""
    forced: bool = False
    """Whether newer versions of the node have a socket without a widget."""
    follow: bool = False
    """Whether the node behind the socket only holds settings, which count here."""
    renamed: Mapping[str, str] = field(default_factory=dict)
    """Settings of that node -> what they are here."""


@dataclass(frozen=True, kw_only=True)
class Old:
    """One node of another pack."""

    node: str
    takes: tuple[Takes, ...] = ()
    """Inputs in the order of the node; those with widgets are in the order of a workflow's `widgets_values`."""
    sets: Mapping[str, Any] = field(default_factory=dict)
    """`NODE.input` -> value that the node means by itself."""
    makes: tuple[str, ...] = ()
    """Nodes that stand in its place."""


def link(name: str, why: str = "has no counterpart") -> Takes:
    """A socket that nothing takes."""
    return Takes(name=name, link=True, why=why)


def follow(name: str, renamed: Mapping[str, str] | None = None) -> Takes:
    """A socket with settings behind it."""
    return Takes(name=name, link=True, follow=True, renamed=renamed or {})


def same(name: str, to: str, **more: Any) -> Takes:
    """A value that an input here takes as it is."""
    return Takes(name=name, to=to, **more)


def only(name: str, *neutral: Any, why: str = "has no counterpart", **more: Any) -> Takes:
    """A value that nothing takes, with those at which nothing is lost."""
    return Takes(name=name, neutral=neutral, why=why, **more)


SCHEDULE_WORDS = (
    *("sqrt_linear (AnimateDiff)", "linear (AnimateDiff-SDXL)", "linear (HotshotXL/default)"),
    *("avg(sqrt_linear,linear)", "lcm avg(sqrt_linear,linear)", "lcm", "lcm[100_ots]", "lcm >> sqrt_linear"),
    *("sqrt", "cosine", "squaredcos_cap_v2"),
)
BETAS = Takes(
    name="beta_schedule",
    to=f"{APPLY}.sampling_settings",
    words={"autoselect": "auto", "use existing": "use the model's", **dict.fromkeys(SCHEDULE_WORDS, "auto")},
    neutral=("autoselect", "use existing"),
    default="autoselect",
    why="is taken as auto, the schedule that the motion module was trained with; for another one choose `use the "
    "model's` and put ComfyUI's ModelSamplingDiscrete in front",
    note=True,
)
SCALE_WHY = (
    "scales inside of the attention there, what the module adds here: close to 1 they look alike, they are not the same"
)
SCALE = Takes(name="scale_multival", link=True, follow=True, why=SCALE_WHY, note=True)
MODULE = Takes(name="model_name", to=f"{LOAD}.motion_module")
KEYFRAMES = link("ad_keyframes", "changes values along the steps; start_percent and end_percent are what there is")
MODEL_INPUTS = (
    follow("context_options"),
    follow("motion_lora"),
    follow("ad_settings"),
    KEYFRAMES,
    follow("sample_settings"),
    SCALE,
    follow("effect_multival"),
    link("per_block", "changes single blocks, which these nodes do not"),
)
MODULE_INPUTS = (
    same("start_percent", f"{APPLY}.start_percent", default=0.0),
    same("end_percent", f"{APPLY}.end_percent", default=1.0),
    follow("motion_lora"),
    SCALE,
    follow("effect_multival"),
    KEYFRAMES,
    link("prev_m_models", "is a second motion module; one acts in a MODEL"),
    link("per_block", "changes single blocks, which these nodes do not"),
)
