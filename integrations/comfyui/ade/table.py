"""What replaces what: each input of the common nodes of other packs, and where its value goes."""

from __future__ import annotations

from collections.abc import Mapping

from .table_seen import CAMERA_NODES, I2V_NODES, PIA_NODES
from .takes import (
    APPLY,
    APPLY_SPARSE,
    BETAS,
    CREATE_VIDEO,
    KEYFRAMES,
    LOAD,
    LOAD_SPARSE,
    LORA,
    MODEL_INPUTS,
    MODULE,
    MODULE_INPUTS,
    SAVE_VIDEO,
    SCALE,
    SCALE_WHY,
    TRAVEL,
    WINDOWS,
    Old,
    Takes,
    follow,
    link,
    only,
    same,
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
    takes = [same("context_length", f"{WINDOWS}.context_length", default=16)]
    if stride:
        takes.append(same("context_stride", f"{WINDOWS}.context_stride", default=1))
    if overlap:
        takes.append(same("context_overlap", f"{WINDOWS}.context_overlap", default=4))
    if old:
        takes.append(only("context_schedule", "uniform"))
    if loop:
        takes.append(same("closed_loop", f"{WINDOWS}.closed_loop", default=False))
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
        takes.append(only("use_on_equal_length", False))
    takes += [
        only("start_percent", 0.0, why="windows act at all steps"),
        only("guarantee_steps", 1, 0),
        link("prev_context", "is a second set of windows; one counts"),
    ]
    if fuse:
        takes.append(link("view_opts", "has no counterpart; `long_mode: motion` of AnimateDiff Animate is near"))
    sets = {f"{WINDOWS}.context_schedule": schedule} | ({} if overlap else {f"{WINDOWS}.context_overlap": 0})
    return Old(node=node, takes=tuple(takes), sets=sets, makes=(WINDOWS,))


_SPARSE_LOADER = (
    same("sparsectrl_name", f"{LOAD_SPARSE}.sparsectrl"),
    only("use_motion", True, why="is always on"),
    only("motion_strength", 1, 1.0),
    only("motion_scale", 1, 1.0),
    follow("sparse_method"),
    link("tk_optional"),
    only("context_aware", "nearest_hint", "off", why="frames of a window without images are left free"),
    only("sparse_hint_mult", 1, 1.0),
    only("sparse_nonhint_mult", 1, 1.0),
    only("sparse_mask_mult", 1, 1.0),
)
_SPARSE_APPLY = (
    Takes(name="positive", to=f"{APPLY_SPARSE}.positive", link=True),
    Takes(name="negative", to=f"{APPLY_SPARSE}.negative", link=True),
    Takes(name="control_net", link=True, follow=True),
    Takes(name="image", to=f"{APPLY_SPARSE}.images", link=True),
    same("strength", f"{APPLY_SPARSE}.strength", default=1.0),
    same("start_percent", f"{APPLY_SPARSE}.start_percent", default=0.0),
    same("end_percent", f"{APPLY_SPARSE}.end_percent", default=1.0),
)
_COMBINE = (
    Takes(name="images", to=f"{CREATE_VIDEO}.images", link=True),
    same("frame_rate", f"{CREATE_VIDEO}.fps", default=8),
    only("loop_count", 0, why="players decide how often a video repeats"),
    same("filename_prefix", f"{SAVE_VIDEO}.filename_prefix", default="AnimateDiff"),
    Takes(
        name="format",
        to=f"{SAVE_VIDEO}.format",
        words={"image/gif": "webp", "image/webp": "webp", "video/h264-mp4": "mp4"},
        neutral=("image/webp", "video/h264-mp4"),
        default="image/gif",
        note=True,
        why="is no format of ComfyUI's own nodes: a gif becomes an animated webp, a video what SaveVideo chooses",
    ),
    only("pingpong", False, why="reverse the frames and join them before the video"),
)
_TRAVEL = (
    same("text", f"{TRAVEL}.text"),
    Takes(name="clip", to=f"{TRAVEL}.clip", link=True),
)
_TRAVEL_REST = (
    only("print_output", False, True, "", None),
    Takes(name="pre_text", to=f"{TRAVEL}.head", default="", forced=True),
    Takes(name="app_text", to=f"{TRAVEL}.tail", default="", forced=True),
    only("start_frame", *range(10000)),
    only("end_frame", *range(10000)),
    *(link(f"pw_{letter}", "is for expressions, which are not read") for letter in "abcd"),
)

TABLE: tuple[Old, ...] = (
    Old(
        node="ADE_AnimateDiffLoaderGen1",
        takes=(Takes(name="model", to=f"{APPLY}.model", link=True), MODULE, BETAS, *MODEL_INPUTS),
        makes=(LOAD, APPLY),
    ),
    Old(
        node="ADE_AnimateDiffLoaderWithContext",
        takes=(
            Takes(name="model", to=f"{APPLY}.model", link=True),
            MODULE,
            BETAS,
            follow("context_options"),
            follow("motion_lora"),
            follow("ad_settings"),
            follow("sample_settings"),
            Takes(name="motion_scale", to=f"{APPLY}.motion_scale", neutral=(1, 1.0), note=True, why=SCALE_WHY),
            only("apply_v2_models_properly", True, why="v2 is always run with its middle block"),
            KEYFRAMES,
        ),
        makes=(LOAD, APPLY),
    ),
    Old(
        node="AnimateDiffLoaderV1",
        takes=(
            Takes(name="model", to=f"{APPLY}.model", link=True),
            Takes(name="latents", link=True, why=""),
            MODULE,
            only("unlimited_area_hack", False, True, why=""),
            BETAS,
        ),
        makes=(LOAD, APPLY),
    ),
    Old(
        node="ADE_AnimateDiffLoaderV1Advanced",
        takes=(
            Takes(name="model", to=f"{APPLY}.model", link=True),
            Takes(name="latents", link=True, why=""),
            MODULE,
            only("unlimited_area_hack", False, True, why=""),
            *_context("", "looped_uniform", loop=True, old=True).takes[:5],
            BETAS,
        ),
        sets={f"{WINDOWS}.context_schedule": "looped_uniform", f"{WINDOWS}.fuse_method": "flat"},
        makes=(LOAD, APPLY, WINDOWS),
    ),
    Old(node="ADE_LoadAnimateDiffModel", takes=(MODULE, follow("ad_settings")), makes=(LOAD,)),
    Old(
        node="ADE_ApplyAnimateDiffModelSimple",
        takes=(
            follow("motion_model"),
            follow("motion_lora"),
            SCALE,
            follow("effect_multival"),
            KEYFRAMES,
            link("per_block", "changes single blocks, which these nodes do not"),
        ),
        makes=(APPLY,),
    ),
    Old(
        node="ADE_ApplyAnimateDiffModel",
        takes=(
            follow("motion_model"),
            *MODULE_INPUTS,
        ),
        makes=(APPLY,),
    ),
    *PIA_NODES,
    *I2V_NODES,
    *CAMERA_NODES,
    Old(
        node="ADE_UseEvolvedSampling",
        takes=(
            Takes(name="model", to=f"{APPLY}.model", link=True),
            BETAS,
            follow("m_models"),
            follow("context_options"),
            follow("sample_settings"),
        ),
        makes=(APPLY,),
    ),
    Old(
        node="ADE_AnimateDiffLoRALoader",
        takes=(
            Takes(name="name", to=f"{LORA}.lora"),
            same("strength", f"{LORA}.strength", default=1.0),
            follow("prev_motion_lora"),
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
        takes=(same("float_val", f"{APPLY}.motion_scale", default=1.0), link("mask_optional", "scales by a mask")),
        makes=(APPLY,),
    ),
    Old(
        node="ADE_AnimateDiffSamplingSettings",
        takes=(
            only("batch_offset", 0),
            Takes(
                name="noise_type",
                to=f"{WINDOWS}.freenoise",
                words={"default": False, "FreeNoise": True},
                default="default",
                why="noise is one tensor for the whole clip",
            ),
            only("seed_gen", "comfy", why="noise is the host's"),
            only("seed_offset", 0),
            link("noise_layers"),
            link("iteration_opts", "is FreeInit; AnimateDiff Animate has it (`freeinit: 3` in its field options)"),
            link("seed_override", "the seed of the sampler counts"),
            only("adapt_denoise_steps", False),
            link("custom_cfg", "use ComfyUI's own guidance nodes"),
            link("sigma_schedule", "use ComfyUI's own sampling nodes"),
            link("image_inject"),
            link("ancestral_opts"),
        ),
    ),
    Old(
        node="ADE_EmptyLatentImageLarge",
        takes=tuple(same(name, f"EmptyLatentImage.{name}") for name in ("width", "height", "batch_size")),
        makes=("EmptyLatentImage",),
    ),
    Old(
        node="CheckpointLoaderSimpleWithNoiseSelect",
        takes=(
            same("ckpt_name", "CheckpointLoaderSimple.ckpt_name"),
            only("beta_schedule", "use existing", why="choose sampling_settings in AnimateDiff Apply"),
            only("use_custom_scale_factor", False),
            only("scale_factor", 0.18215),
        ),
        makes=("CheckpointLoaderSimple",),
    ),
    Old(node="ACN_SparseCtrlLoaderAdvanced", takes=_SPARSE_LOADER, makes=(LOAD_SPARSE,)),
    Old(node="ACN_SparseCtrlIndexMethodNode", takes=(same("indexes", f"{APPLY_SPARSE}.frames", default="0"),)),
    Old(node="ACN_SparseCtrlSpreadMethodNode", takes=(same("spread", f"{APPLY_SPARSE}.frames", default="uniform"),)),
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
            link("mask_optional"),
            link("timestep_kf"),
            link("latent_kf_override"),
            link("weights_override"),
            Takes(name="vae_optional", to=f"{APPLY_SPARSE}.vae", link=True),
        ),
        makes=(APPLY_SPARSE,),
    ),
    Old(
        node="BatchPromptSchedule",
        takes=(*_TRAVEL, same("max_frames", f"{TRAVEL}.num_frames", default=120), *_TRAVEL_REST),
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
            only("save_output", True, why="results are saved"),
            Takes(name="audio", to=f"{CREATE_VIDEO}.audio", link=True),
            link("meta_batch"),
            link("vae"),
            only("crf", 19),
            only("pix_fmt", "yuv420p"),
            only("save_metadata", True),
            only("trim_to_audio", False),
            only("lossless", True),
        ),
        makes=(CREATE_VIDEO, SAVE_VIDEO),
    ),
    Old(
        node="ADE_AnimateDiffCombine",
        takes=(*_COMBINE, only("save_image", True, why="results are saved")),
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
    "ADE_PIA_AnimateDiffKeyframe": "the image acts alike at all steps; image_affinity changes it by frame",
    "ADE_CameraCtrlAnimateDiffKeyframe": "the path acts alike at all steps",
    "ADE_InjectPIAIntoAnimateDiffModel": "a first layer acts with the motion module of its own file (pia.ckpt)",
    "ADE_InjectI2VIntoAnimateDiffModel": "an image encoder acts with the motion module of its own file",
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
