"""What replaces what: each input of the common nodes of other packs, and where its value goes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

LOAD, LORA, APPLY = "AnimateDiffLoadMotionModule", "AnimateDiffMotionLora", "AnimateDiffApply"
WINDOWS, TRAVEL = "AnimateDiffContextWindows", "AnimateDiffPromptTravel"
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


def _link(name: str, why: str = "has no counterpart") -> Takes:
    return Takes(name=name, link=True, why=why)


def _follow(name: str) -> Takes:
    return Takes(name=name, link=True, follow=True)


def _same(name: str, to: str, **more: Any) -> Takes:
    return Takes(name=name, to=to, **more)


def _only(name: str, *neutral: Any, why: str = "has no counterpart", **more: Any) -> Takes:
    return Takes(name=name, neutral=neutral, why=why, **more)


SCHEDULE_WORDS = (
    *("sqrt_linear (AnimateDiff)", "linear (AnimateDiff-SDXL)", "linear (HotshotXL/default)"),
    *("avg(sqrt_linear,linear)", "lcm avg(sqrt_linear,linear)", "lcm", "lcm[100_ots]", "lcm >> sqrt_linear"),
    *("sqrt", "cosine", "squaredcos_cap_v2"),
)
_BETAS = Takes(
    name="beta_schedule",
    to=f"{APPLY}.sampling_settings",
    words={"autoselect": "auto", "use existing": "use the model's", **dict.fromkeys(SCHEDULE_WORDS, "auto")},
    neutral=("autoselect", "use existing"),
    default="autoselect",
    why="is taken as auto, the schedule that the motion module was trained with; for another one choose `use the "
    "model's` and put ComfyUI's ModelSamplingDiscrete in front",
    note=True,
)
_SCALE_WHY = (
    "scales inside of the attention there, what the module adds here: close to 1 they look alike, they are not the same"
)
_SCALE = Takes(name="scale_multival", link=True, follow=True, why=_SCALE_WHY, note=True)
_MODULE = Takes(name="model_name", to=f"{LOAD}.motion_module")
_KEYFRAMES = _link("ad_keyframes", "changes values along the steps; start_percent and end_percent are what there is")
_MODEL_INPUTS = (
    _follow("context_options"),
    _follow("motion_lora"),
    _follow("ad_settings"),
    _KEYFRAMES,
    _follow("sample_settings"),
    _SCALE,
    _follow("effect_multival"),
    _link("per_block", "changes single blocks, which these nodes do not"),
)
_FUSE = {name: name for name in ("pyramid", "flat", "relative", "overlap-linear")}


def _context(
    node: str,
    schedule: str,
    *,
    fuse: str = "",
    stride: bool = True,
    overlap: bool = True,
    loop: bool = False,
    old: bool = False,
) -> Old:
    """A node of context options; `fuse`: how it blends where nobody says, `old`: a schedule is chosen in it."""
    takes = [_same("context_length", f"{WINDOWS}.context_length", default=16)]
    if stride:
        takes.append(_same("context_stride", f"{WINDOWS}.context_stride", default=1))
    if overlap:
        takes.append(_same("context_overlap", f"{WINDOWS}.context_overlap", default=4))
    if old:
        takes.append(_only("context_schedule", "uniform"))
    if loop:
        takes.append(_same("closed_loop", f"{WINDOWS}.closed_loop", default=False))
    if fuse:
        takes.append(
            Takes(
                name="fuse_method",
                to=f"{WINDOWS}.fuse_method",
                words=_FUSE,
                default=fuse,
                why="is none of ComfyUI's ways to blend windows; pyramid is used",
            )
        )
        takes.append(_only("use_on_equal_length", False))
    takes += [
        _only("start_percent", 0.0, why="windows act at all steps"),
        _only("guarantee_steps", 1, 0),
        _link("prev_context", "is a second set of windows; one counts"),
    ]
    if fuse:
        takes.append(_link("view_opts", "has no counterpart; `long_mode: motion` of AnimateDiff Animate is near"))
    sets = {f"{WINDOWS}.context_schedule": schedule} | ({} if overlap else {f"{WINDOWS}.context_overlap": 0})
    return Old(node=node, takes=tuple(takes), sets=sets, makes=(WINDOWS,))


_SPARSE_LOADER = (
    _same("sparsectrl_name", f"{LOAD_SPARSE}.sparsectrl"),
    _only("use_motion", True, why="is always on"),
    _only("motion_strength", 1, 1.0),
    _only("motion_scale", 1, 1.0),
    _follow("sparse_method"),
    _link("tk_optional"),
    _only("context_aware", "nearest_hint", "off", why="frames of a window without images are left free"),
    _only("sparse_hint_mult", 1, 1.0),
    _only("sparse_nonhint_mult", 1, 1.0),
    _only("sparse_mask_mult", 1, 1.0),
)
_SPARSE_APPLY = (
    Takes(name="positive", to=f"{APPLY_SPARSE}.positive", link=True),
    Takes(name="negative", to=f"{APPLY_SPARSE}.negative", link=True),
    Takes(name="control_net", link=True, follow=True),
    Takes(name="image", to=f"{APPLY_SPARSE}.images", link=True),
    _same("strength", f"{APPLY_SPARSE}.strength", default=1.0),
    _same("start_percent", f"{APPLY_SPARSE}.start_percent", default=0.0),
    _same("end_percent", f"{APPLY_SPARSE}.end_percent", default=1.0),
)
_COMBINE = (
    Takes(name="images", to=f"{CREATE_VIDEO}.images", link=True),
    _same("frame_rate", f"{CREATE_VIDEO}.fps", default=8),
    _only("loop_count", 0, why="players decide how often a video repeats"),
    _same("filename_prefix", f"{SAVE_VIDEO}.filename_prefix", default="AnimateDiff"),
    Takes(
        name="format",
        to=f"{SAVE_VIDEO}.format",
        words={"image/gif": "webp", "image/webp": "webp", "video/h264-mp4": "mp4"},
        neutral=("image/webp", "video/h264-mp4"),
        default="image/gif",
        note=True,
        why="is no format of ComfyUI's own nodes: a gif becomes an animated webp, a video what SaveVideo chooses",
    ),
    _only("pingpong", False, why="reverse the frames and join them before the video"),
)
_TRAVEL = (
    _same("text", f"{TRAVEL}.text"),
    Takes(name="clip", to=f"{TRAVEL}.clip", link=True),
)
_TRAVEL_REST = (
    _only("print_output", False, True, "", None),
    Takes(name="pre_text", to=f"{TRAVEL}.head", default="", forced=True),
    Takes(name="app_text", to=f"{TRAVEL}.tail", default="", forced=True),
    _only("start_frame", *range(10000)),
    _only("end_frame", *range(10000)),
    *(_link(f"pw_{letter}", "is for expressions, which are not read") for letter in "abcd"),
)

TABLE: tuple[Old, ...] = (
    Old(
        node="ADE_AnimateDiffLoaderGen1",
        takes=(Takes(name="model", to=f"{APPLY}.model", link=True), _MODULE, _BETAS, *_MODEL_INPUTS),
        makes=(LOAD, APPLY),
    ),
    Old(
        node="ADE_AnimateDiffLoaderWithContext",
        takes=(
            Takes(name="model", to=f"{APPLY}.model", link=True),
            _MODULE,
            _BETAS,
            _follow("context_options"),
            _follow("motion_lora"),
            _follow("ad_settings"),
            _follow("sample_settings"),
            Takes(name="motion_scale", to=f"{APPLY}.motion_scale", neutral=(1, 1.0), note=True, why=_SCALE_WHY),
            _only("apply_v2_models_properly", True, why="v2 is always run with its middle block"),
            _KEYFRAMES,
        ),
        makes=(LOAD, APPLY),
    ),
    Old(
        node="AnimateDiffLoaderV1",
        takes=(
            Takes(name="model", to=f"{APPLY}.model", link=True),
            Takes(name="latents", link=True, why=""),
            _MODULE,
            _only("unlimited_area_hack", False, True, why=""),
            _BETAS,
        ),
        makes=(LOAD, APPLY),
    ),
    Old(
        node="ADE_AnimateDiffLoaderV1Advanced",
        takes=(
            Takes(name="model", to=f"{APPLY}.model", link=True),
            Takes(name="latents", link=True, why=""),
            _MODULE,
            _only("unlimited_area_hack", False, True, why=""),
            *_context("", "looped_uniform", loop=True, old=True).takes[:5],
            _BETAS,
        ),
        sets={f"{WINDOWS}.context_schedule": "looped_uniform", f"{WINDOWS}.fuse_method": "flat"},
        makes=(LOAD, APPLY, WINDOWS),
    ),
    Old(node="ADE_LoadAnimateDiffModel", takes=(_MODULE, _follow("ad_settings")), makes=(LOAD,)),
    Old(
        node="ADE_ApplyAnimateDiffModelSimple",
        takes=(
            _follow("motion_model"),
            _follow("motion_lora"),
            _SCALE,
            _follow("effect_multival"),
            _KEYFRAMES,
            _link("per_block", "changes single blocks, which these nodes do not"),
        ),
        makes=(APPLY,),
    ),
    Old(
        node="ADE_ApplyAnimateDiffModel",
        takes=(
            _follow("motion_model"),
            _same("start_percent", f"{APPLY}.start_percent", default=0.0),
            _same("end_percent", f"{APPLY}.end_percent", default=1.0),
            _follow("motion_lora"),
            _SCALE,
            _follow("effect_multival"),
            _KEYFRAMES,
            _link("prev_m_models", "is a second motion module; one acts in a MODEL"),
            _link("per_block", "changes single blocks, which these nodes do not"),
        ),
        makes=(APPLY,),
    ),
    Old(
        node="ADE_UseEvolvedSampling",
        takes=(
            Takes(name="model", to=f"{APPLY}.model", link=True),
            _BETAS,
            _follow("m_models"),
            _follow("context_options"),
            _follow("sample_settings"),
        ),
        makes=(APPLY,),
    ),
    Old(
        node="ADE_AnimateDiffLoRALoader",
        takes=(
            Takes(name="name", to=f"{LORA}.lora"),
            _same("strength", f"{LORA}.strength", default=1.0),
            _follow("prev_motion_lora"),
        ),
        makes=(LORA,),
    ),
    _context("ADE_StandardStaticContextOptions", "standard_static", fuse="pyramid", stride=False),
    _context("ADE_StandardUniformContextOptions", "standard_uniform", fuse="pyramid"),
    _context("ADE_LoopedUniformContextOptions", "looped_uniform", fuse="flat", loop=True),
    _context("ADE_AnimateDiffUniformContextOptions", "looped_uniform", fuse="flat", loop=True, old=True),
    _context("ADE_BatchedContextOptions", "batched", stride=False, overlap=False),
    Old(
        node="ADE_MultivalDynamic",
        takes=(_same("float_val", f"{APPLY}.motion_scale", default=1.0), _link("mask_optional", "scales by a mask")),
        makes=(APPLY,),
    ),
    Old(
        node="ADE_AnimateDiffSamplingSettings",
        takes=(
            _only("batch_offset", 0),
            Takes(
                name="noise_type",
                to=f"{WINDOWS}.freenoise",
                words={"default": False, "FreeNoise": True},
                default="default",
                why="noise is one tensor for the whole clip",
            ),
            _only("seed_gen", "comfy", why="noise is the host's"),
            _only("seed_offset", 0),
            _link("noise_layers"),
            _link("iteration_opts", "is FreeInit; AnimateDiff Animate has it (`freeinit: 3` in its field options)"),
            _link("seed_override", "the seed of the sampler counts"),
            _only("adapt_denoise_steps", False),
            _link("custom_cfg", "use ComfyUI's own guidance nodes"),
            _link("sigma_schedule", "use ComfyUI's own sampling nodes"),
            _link("image_inject"),
            _link("ancestral_opts"),
        ),
    ),
    Old(
        node="ADE_EmptyLatentImageLarge",
        takes=tuple(_same(name, f"EmptyLatentImage.{name}") for name in ("width", "height", "batch_size")),
        makes=("EmptyLatentImage",),
    ),
    Old(
        node="CheckpointLoaderSimpleWithNoiseSelect",
        takes=(
            _same("ckpt_name", "CheckpointLoaderSimple.ckpt_name"),
            _only("beta_schedule", "use existing", why="choose sampling_settings in AnimateDiff Apply"),
            _only("use_custom_scale_factor", False),
            _only("scale_factor", 0.18215),
        ),
        makes=("CheckpointLoaderSimple",),
    ),
    Old(node="ACN_SparseCtrlLoaderAdvanced", takes=_SPARSE_LOADER, makes=(LOAD_SPARSE,)),
    Old(node="ACN_SparseCtrlIndexMethodNode", takes=(_same("indexes", f"{APPLY_SPARSE}.frames", default="0"),)),
    Old(node="ACN_SparseCtrlSpreadMethodNode", takes=(_same("spread", f"{APPLY_SPARSE}.frames", default="uniform"),)),
    Old(
        node="ACN_SparseCtrlRGBPreprocessor",
        takes=(
            Takes(name="image", to=f"{APPLY_SPARSE}.images", link=True),
            Takes(name="vae", to=f"{APPLY_SPARSE}.vae", link=True),
            Takes(name="latent_size", link=True, why=""),
        ),
    ),
    Old(
        node="ControlNetApplyAdvanced",
        takes=(*_SPARSE_APPLY, Takes(name="vae", to=f"{APPLY_SPARSE}.vae", link=True)),
        makes=(APPLY_SPARSE,),
    ),
    Old(
        node="ACN_AdvancedControlNetApply_v2",
        takes=(
            *_SPARSE_APPLY,
            _link("mask_optional"),
            _link("timestep_kf"),
            _link("latent_kf_override"),
            _link("weights_override"),
            Takes(name="vae_optional", to=f"{APPLY_SPARSE}.vae", link=True),
        ),
        makes=(APPLY_SPARSE,),
    ),
    Old(
        node="BatchPromptSchedule",
        takes=(*_TRAVEL, _same("max_frames", f"{TRAVEL}.num_frames", default=120), *_TRAVEL_REST),
        sets={f"{TRAVEL}.hold": 0.0},
        makes=(TRAVEL,),
    ),
    Old(
        node="BatchPromptScheduleLatentInput",
        takes=(*_TRAVEL, Takes(name="num_latents", to=f"{TRAVEL}.latent", link=True), *_TRAVEL_REST),
        sets={f"{TRAVEL}.hold": 0.0},
        makes=(TRAVEL,),
    ),
    Old(
        node="VHS_VideoCombine",
        takes=(
            *_COMBINE,
            _only("save_output", True, why="results are saved"),
            Takes(name="audio", to=f"{CREATE_VIDEO}.audio", link=True),
            _link("meta_batch"),
            _link("vae"),
            _only("crf", 19),
            _only("pix_fmt", "yuv420p"),
            _only("save_metadata", True),
            _only("trim_to_audio", False),
            _only("lossless", True),
        ),
        makes=(CREATE_VIDEO, SAVE_VIDEO),
    ),
    Old(
        node="ADE_AnimateDiffCombine",
        takes=(*_COMBINE, _only("save_image", True, why="results are saved")),
        makes=(CREATE_VIDEO, SAVE_VIDEO),
    ),
)
BY_NODE = {old.node: old for old in TABLE}

ONE_TO_ONE = ("ADE_EmptyLatentImageLarge",)
"""Nodes that the host's node replacement exchanges by itself without a loss: one for one, every input required."""

NOT_CARRIED: Mapping[str, str] = {
    "ADE_AnimateDiffSettings": "PE and weights of the module are used as they are",
    "ADE_AdjustPE": "position embeddings are used as they are; a clip beyond them is sampled in windows",
    "ADE_AdjustWeight": "weights of the module are used as they are",
    "ADE_AnimateDiffModelSettings": "weights of the module are used as they are",
    "ADE_AnimateDiffKeyframe": "start_percent and end_percent of AnimateDiff Apply are what there is",
    "ADE_IterationOpts": "FreeInit: `freeinit: 3` in the field options of AnimateDiff Animate",
    "ADE_NoiseLayer": "noise is one tensor for the whole clip",
    "ADE_MultivalScaledMask": "scaling by a mask has no counterpart; scale_curve of AnimateDiff Apply scales by frame",
    "ADE_MultivalDynamicFloat": "scale_curve of AnimateDiff Apply scales by frame",
    "ADE_CustomCFG": "use ComfyUI's own guidance nodes",
    "ADE_CFGExtras": "use ComfyUI's own guidance nodes",
    "ADE_SigmaSchedule": "use ComfyUI's own sampling nodes",
    "ADE_RawSigmaSchedule": "use ComfyUI's own sampling nodes",
    "ADE_ContextExtras": "has no counterpart",
    "ADE_ViewsOnlyContextOptions": "`long_mode: motion` in the field options of AnimateDiff Animate",
    "ADE_RegisterLoraHook": "use ComfyUI's own hooks",
    "ADE_AnimateDiffUnload": "connect the MODEL from before AnimateDiff Apply",
    "ADE_": "has no counterpart",
    "ACN_": "use ComfyUI's own ControlNet nodes",
    "PromptSchedule": "a prompt of one frame; AnimateDiff Prompt Travel gives all",
}
"""Beginning of a node's name, the first that fits -> what is told of a node that stays as it is."""
