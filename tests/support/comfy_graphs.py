"""Workflows in ComfyUI's API format: those of AnimateDiff-Evolved and its companions, and the same with our nodes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from support.comfy_files import CAMERA, CHECKPOINT, MOTION_LORA

Graph = dict[str, dict[str, Any]]
MODULE, LCM = "mm_sd_v15_v2.ckpt", "v3_sd15_mm.ckpt"
PIA, I2V = "pia.ckpt", "AnimateLCM_sd15_i2v.ckpt"
SPARSE = "v3_sd15_sparsectrl_rgb.ckpt"
SAMPLER = "9"


def node(class_type: str, **inputs: Any) -> dict[str, Any]:
    """One node of a workflow."""
    return {"class_type": class_type, "inputs": inputs}


def sampled(model: list[Any], *, frames: int = 4, positive: Any = None, negative: Any = None, steps: int = 2) -> Graph:
    """Checkpoint, prompts, latents of a size that takes no time, and the sampler (`SAMPLER`) for a MODEL."""
    return {
        "1": node("CheckpointLoaderSimple", ckpt_name=CHECKPOINT),
        "2": node("CLIPTextEncode", clip=["1", 1], text="a fox in the snow"),
        "3": node("CLIPTextEncode", clip=["1", 1], text="blurred"),
        "4": node("EmptyLatentImage", width=64, height=64, batch_size=frames),
        SAMPLER: node(
            "KSampler", model=model, seed=3, steps=steps, cfg=5.0, sampler_name="euler", scheduler="normal",
            positive=positive or ["2", 0], negative=negative or ["3", 0], latent_image=["4", 0], denoise=1.0,
        ),
    }  # fmt: skip


def applied(**inputs: Any) -> Graph:
    """Our nodes for one motion module: the MODEL is `6`."""
    return {
        "5": node("AnimateDiffLoadMotionModule", motion_module=MODULE, family="auto", conv_in_from_file=False),
        "6": node("AnimateDiffApply", **{
            "model": ["1", 0], "motion_module": ["5", 0], "motion_scale": 1.0, "sampling_settings": "auto",
            "scale_curve": "", "start_percent": 0.0, "end_percent": 1.0, **inputs,
        }),
    }  # fmt: skip


def evolved(**nodes: Any) -> Graph:
    """A sampling by Gen2 nodes of AnimateDiff-Evolved: the module is `5`, what applies it `6`, the MODEL `8`."""
    use = node("ADE_UseEvolvedSampling", model=["1", 0], beta_schedule="autoselect", m_models=["6", 0])
    return {**sampled(["8", 0]), "8": use, "30": IMAGE, **nodes}


def seen(module: str, **nodes: Any) -> Graph:
    """The same by ours: what lies between the module and Apply is `7`."""
    found = {**sampled(["6", 0]), **applied(motion_module=["7", 0]), "30": IMAGE, **nodes}
    found["5"] = node("AnimateDiffLoadMotionModule", motion_module=module, family="auto", conv_in_from_file=False)
    return found


IMAGE = node("EmptyImage", width=64, height=64, batch_size=1, color=8421631)
POSES = """0 0.474812461 0.844111024 0.5 0.5 0 0 1 0 0 0 0 1 0 0 0 0 1 0
0 0.474812461 0.844111024 0.5 0.5 0 0 1 0 0 0 0 1 0 0 0 0 1 -0.28125
0 0.474812461 0.844111024 0.5 0.5 0 0 1 0 0 0 0 1 0 0 0 0 1 -0.28125
0 0.474812461 0.844111024 0.5 0.5 0 0 0.997858923 -0.0654031292 0 0 0.0654031292 0.997858923 0 0 0 0 1 -0.28125"""
"""Two frames into the scene by 1.5 of 1.5 * 2 / 16, then two of a turn of 60 degrees in 16 frames."""


def windows(model: list[Any], **inputs: Any) -> dict[str, Any]:
    """Our node of context windows."""
    defaults = {
        "context_length": 16, "context_overlap": 4, "context_schedule": "standard_static", "fuse_method": "pyramid",
        "closed_loop": False, "context_stride": 1, "freenoise": False,
    }  # fmt: skip
    return node("AnimateDiffContextWindows", model=model, **(defaults | inputs))


@dataclass(frozen=True)
class Case:
    """An old workflow, the same with our nodes, and words of what is told."""

    old: Graph
    ours: Graph
    told: tuple[str, ...] = ()
    at: str = SAMPLER
    """The node to compare."""


def gen1(**inputs: Any) -> dict[str, Any]:
    return node("ADE_AnimateDiffLoaderGen1", model=["1", 0], model_name=MODULE, beta_schedule="autoselect", **inputs)


CASES = {
    "gen1": Case({**sampled(["6", 0]), "6": gen1()}, {**sampled(["6", 0]), **applied()}),
    "gen1_schedule": Case(
        {**sampled(["6", 0]), "6": {**gen1(), "inputs": {**gen1()["inputs"], "beta_schedule": "lcm"}}},
        {**sampled(["6", 0]), **applied()},
        ("beta_schedule 'lcm' is taken as auto",),
    ),
    "gen2": Case(
        {
            **sampled(["8", 0]),
            "5": node("ADE_LoadAnimateDiffModel", model_name=MODULE),
            "6": node("ADE_ApplyAnimateDiffModelSimple", motion_model=["5", 0], effect_multival=["7", 0]),
            "7": node("ADE_MultivalDynamic", float_val=0.5),
            "8": node("ADE_UseEvolvedSampling", model=["1", 0], beta_schedule="use existing", m_models=["6", 0]),
        },
        {**sampled(["6", 0]), **applied(motion_scale=0.5, sampling_settings="use the model's")},
    ),
    "gen2_advanced": Case(
        {
            **sampled(["8", 0], frames=10),
            "5": node("ADE_LoadAnimateDiffModel", model_name=MODULE, ad_settings=["12", 0]),
            "6": node("ADE_ApplyAnimateDiffModel", motion_model=["5", 0], start_percent=0.0, end_percent=0.6,
                      motion_lora=["7", 0], scale_multival=["10", 0]),
            "7": node("ADE_AnimateDiffLoRALoader", name=MOTION_LORA, strength=0.7, prev_motion_lora=["11", 0]),
            "11": node("ADE_AnimateDiffLoRALoader", name=MOTION_LORA, strength=0.2),
            "10": node("ADE_MultivalDynamic", float_val=1.2),
            "12": node("ADE_AnimateDiffSettings", pe_adjust=["13", 0]),
            "13": node("ADE_AdjustPEFullStretch", pe_stretch=16, print_adjustment=False),
            "8": node("ADE_UseEvolvedSampling", model=["1", 0], beta_schedule="autoselect", m_models=["6", 0],
                      context_options=["14", 0], sample_settings=["15", 0]),
            "14": node("ADE_StandardUniformContextOptions", context_length=8, context_stride=1, context_overlap=2,
                       fuse_method="flat", use_on_equal_length=False, start_percent=0.0, guarantee_steps=1),
            "15": node("ADE_AnimateDiffSamplingSettings", batch_offset=0, noise_type="FreeNoise", seed_gen="comfy",
                       seed_offset=0, adapt_denoise_steps=False, iteration_opts=["16", 0]),
            "16": node("ADE_IterationOptsFreeInit", iterations=2, filter="gaussian", d_s=0.25, d_t=0.25,
                       n_butterworth=4, sigma_step=999, apply_to_1st_iter=False, init_type="FreeInit [sampler sigma]"),
        },
        {
            **sampled(["8", 0], frames=10),
            **applied(motion_module=["7", 0], motion_scale=1.2, end_percent=0.6),
            "11": node("AnimateDiffMotionLora", motion_module=["5", 0], lora=MOTION_LORA, strength=0.2),
            "7": node("AnimateDiffMotionLora", motion_module=["11", 0], lora=MOTION_LORA, strength=0.7),
            "8": windows(["6", 0], context_length=8, context_overlap=2, context_schedule="standard_uniform",
                         fuse_method="flat", freenoise=True),
        },
        ("ADE_AdjustPEFullStretch: is not carried over", "ADE_AnimateDiffSettings", "FreeInit", "scale_multival"),
    ),
    "windows_alone": Case(
        {
            **sampled(["6", 0], frames=10),
            "6": node("ADE_UseEvolvedSampling", model=["1", 0], beta_schedule="autoselect", context_options=["7", 0]),
            "7": node("ADE_BatchedContextOptions", context_length=5),
        },
        {
            **sampled(["6", 0], frames=10),
            "6": windows(["1", 0], context_length=5, context_overlap=0, context_schedule="batched"),
        },
    ),
    "legacy_context": Case(
        {
            **sampled(["6", 0], frames=10),
            "6": node("ADE_AnimateDiffLoaderWithContext", model=["1", 0], model_name=MODULE,
                      beta_schedule="sqrt_linear (AnimateDiff)", context_options=["7", 0], motion_scale=1.0,
                      apply_v2_models_properly=True),
            "7": node("ADE_AnimateDiffUniformContextOptions", context_length=8, context_stride=1, context_overlap=3,
                      context_schedule="uniform", closed_loop=True),
        },
        {
            **sampled(["7", 0], frames=10),
            **applied(),
            "7": windows(["6", 0], context_length=8, context_overlap=3, context_schedule="looped_uniform",
                         fuse_method="flat", closed_loop=True),
        },
        ("sqrt_linear (AnimateDiff)",),
    ),
    "static_looped": Case(
        {
            **sampled(["6", 0], frames=10),
            "6": gen1(context_options=["7", 0]),
            "7": node("ADE_StandardStaticContextOptions", context_length=8, context_overlap=4, fuse_method="relative",
                      start_percent=0.0, guarantee_steps=1, prev_context=["8", 0]),
            "8": node("ADE_LoopedUniformContextOptions", context_length=8, context_stride=1, context_overlap=4,
                      closed_loop=False),
        },
        {
            **sampled(["7", 0], frames=10),
            **applied(),
            "7": windows(["6", 0], context_length=8, fuse_method="relative"),
        },
        ("prev_context is not carried over", "ADE_LoopedUniformContextOptions: is not carried over"),
    ),
    "loader_v1": Case(
        {
            **sampled(["6", 0]),
            "6": node("AnimateDiffLoaderV1", model=["1", 0], latents=["4", 0], model_name=MODULE,
                      unlimited_area_hack=False, beta_schedule="autoselect"),
            SAMPLER: node("KSampler", **{**sampled(["6", 0])[SAMPLER]["inputs"], "latent_image": ["6", 1]}),
        },
        {**sampled(["6", 0]), **applied()},
    ),
    "pia_preset": Case(
        evolved(**{
            "5": node("ADE_LoadAnimateDiffModel", model_name=PIA),
            "6": node("ADE_ApplyAnimateDiffModelWithPIA", motion_model=["5", 0], image=["30", 0], vae=["1", 2],
                      start_percent=0.0, end_percent=0.9, pia_input=["20", 0], effect_multival=["21", 0]),
            "20": node("ADE_InputPIA_PaperPresets", preset="Loop (Medium Motion)", batch_index=-1, print_values=False),
            "21": node("ADE_MultivalDynamic", float_val=0.8),
        }),
        seen(PIA, **{
            "7": node("AnimateDiffPIA", motion_module=["5", 0], image=["30", 0], vae=["1", 2], frame=-1, strength=1.0,
                      motion_amount="loop-moderate", image_affinity=""),
            "6": applied(motion_module=["7", 0], motion_scale=0.8, end_percent=0.9)["6"],
        }),
        ("preset 'Loop (Medium Motion)' is the table of PIA's own program",),
    ),
    "pia_value": Case(
        evolved(**{
            "5": node("ADE_LoadAnimateDiffModel", model_name=PIA),
            "6": node("ADE_ApplyAnimateDiffModelWithPIA", motion_model=["5", 0], image=["30", 0], vae=["1", 2],
                      start_percent=0.0, end_percent=1.0, pia_input=["20", 0]),
            "20": node("ADE_InputPIA_Multival", multival=["21", 0]),
            "21": node("ADE_MultivalDynamic", float_val=0.75),
        }),
        seen(PIA, **{
            "7": node("AnimateDiffPIA", motion_module=["5", 0], image=["30", 0], vae=["1", 2], frame=0, strength=1.0,
                      motion_amount="small", image_affinity="0.75"),
        }),
    ),
    "i2v": Case(
        evolved(**{
            "5": node("ADE_LoadAnimateLCMI2VModel", model_name=I2V),
            "6": node("ADE_ApplyAnimateLCMI2VModel", motion_model=["5", 0], ref_latent=["20", 0], ref_drift=0.3,
                      apply_ref_when_disabled=False, start_percent=0.0, end_percent=1.0),
            "20": node("ADE_UpscaleAndVAEEncode", image=["30", 0], vae=["1", 2], latent_size=["4", 0],
                       scale_method="lanczos", crop="center"),
        }),
        seen(I2V, **{
            "7": node("AnimateDiffI2V", motion_module=["5", 0], image=["30", 0], vae=["1", 2], image_motion_scale=0.3),
        }),
    ),
    "i2v_encoded": Case(
        evolved(**{
            "5": node("ADE_LoadAnimateLCMI2VModel", model_name=I2V),
            "6": node("ADE_ApplyAnimateLCMI2VModel", motion_model=["5", 0], ref_latent=["20", 0], ref_drift=2.0,
                      apply_ref_when_disabled=False, start_percent=0.0, end_percent=1.0),
            "20": node("VAEEncode", pixels=["30", 0], vae=["1", 2]),
        }),
        seen(I2V, **{
            "7": node("AnimateDiffI2V", motion_module=["5", 0], image=["30", 0], vae=["1", 2], image_motion_scale=1.5),
        }),
        ("2 is taken as 1.5, the largest image_motion_scale here",),
    ),
    "camera": Case(
        evolved(**{
            "5": node("ADE_LoadAnimateDiffModelWithCameraCtrl", model_name=LCM, camera_ctrl=CAMERA),
            "6": node("ADE_ApplyAnimateDiffModelWithCameraCtrl", motion_model=["5", 0], cameractrl_poses=["20", 0],
                      start_percent=0.0, end_percent=1.0, cameractrl_multival=["22", 0]),
            "20": node("ADE_CameraPoseBasic", motion_type="Roll Anticlockwise", speed=1.0, frame_length=2,
                       prev_poses=["21", 0]),
            "21": node("ADE_CameraPoseCombo", motion_type1="Zoom In", motion_type2="Static", motion_type3="Static",
                       motion_type4="Static", motion_type5="Static", motion_type6="Static", speed=1.5, frame_length=2),
            "22": node("ADE_MultivalDynamic", float_val=0.7),
        }),
        seen(LCM, **{
            "20": node("AnimateDiffLoadCameraCtrl", cameractrl=CAMERA),
            "7": node("AnimateDiffCameraCtrl", motion_module=["5", 0], cameractrl=["20", 0], camera=POSES,
                      camera_scale=0.7, camera_aspect=0.0),
        }),
    ),
    "latents": Case(
        {
            **sampled(["6", 0]), **applied(),
            "4": node("ADE_EmptyLatentImageLarge", width=64, height=64, batch_size=4),
            "1": node("CheckpointLoaderSimpleWithNoiseSelect", ckpt_name=CHECKPOINT, beta_schedule="use existing",
                      use_custom_scale_factor=False, scale_factor=0.18215),
        },
        {**sampled(["6", 0]), **applied()},
    ),
    "schedule": Case(
        {
            **sampled(["6", 0], positive=["7", 0], negative=["7", 1]), **applied(),
            "7": node("BatchPromptSchedule",
                      text='"0" :"a fox --neg blurred",\n"3" :"a \\"red\\" hare --neg blurred"\n',
                      clip=["1", 1], max_frames=4, print_output=False, pre_text="photo of", app_text="",
                      start_frame=0, end_frame=0),
        },
        {
            **sampled(["6", 0], positive=["7", 0]), **applied(),
            "7": node("AnimateDiffPromptTravel", clip=["1", 1], num_frames=4, interpolation="linear", hold=0.0,
                      loop=False, head="", tail="",
                      text='"0": "photo of a fox",\n"3": "photo of a \\"red\\" hare"'),
        },
    ),
    "sparsectrl": Case(
        {
            **sampled(["6", 0], positive=["20", 0], negative=["20", 1]), **applied(),
            "20": node("ControlNetApplyAdvanced", positive=["2", 0], negative=["3", 0], control_net=["21", 0],
                       image=["22", 0], strength=0.8, start_percent=0.0, end_percent=0.9),
            "21": node("ACN_SparseCtrlLoaderAdvanced", sparsectrl_name=SPARSE, use_motion=True, motion_strength=1.0,
                       motion_scale=1.0, sparse_method=["23", 0], context_aware="nearest_hint"),
            "22": node("ACN_SparseCtrlRGBPreprocessor", image=["24", 0], vae=["1", 2], latent_size=["4", 0]),
            "23": node("ACN_SparseCtrlIndexMethodNode", indexes="0,-1"),
            "24": node("EmptyImage", width=64, height=64, batch_size=2, color=8421631),
        },
        {
            **sampled(["6", 0], positive=["20", 0], negative=["20", 1]), **applied(),
            "21": node("AnimateDiffLoadSparseCtrl", sparsectrl=SPARSE),
            "20": node("AnimateDiffSparseCtrlApply", positive=["2", 0], negative=["3", 0], sparsectrl=["21", 0],
                       images=["24", 0], frames="0,-1", strength=0.8, start_percent=0.0, end_percent=0.9,
                       vae=["1", 2]),
            "24": node("EmptyImage", width=64, height=64, batch_size=2, color=8421631),
        },
    ),
    "video": Case(
        {
            **sampled(["6", 0]), **applied(),
            "30": node("VAEDecode", samples=[SAMPLER, 0], vae=["1", 2]),
            "31": node("VHS_VideoCombine", images=["30", 0], frame_rate=8, loop_count=0, filename_prefix="AnimateDiff",
                       format="video/h264-mp4", pix_fmt="yuv420p", crf=19, save_metadata=True, pingpong=True,
                       save_output=True),
        },
        {
            **sampled(["6", 0]), **applied(),
            "30": node("VAEDecode", samples=[SAMPLER, 0], vae=["1", 2]),
            "32": node("CreateVideo", images=["30", 0], fps=8, bit_depth=8),
            "31": node("SaveVideo", video=["32", 0], filename_prefix="AnimateDiff",
                       **{"format": "mp4", "format.codec": "auto"}),
        },
        ("pingpong True is not carried over",),
        at="31",
    ),
}  # fmt: skip


def tree(graph: Graph, at: str) -> Any:
    """A node with everything that leads to it, without ids: equal for graphs that compute the same."""
    inputs = {
        name: [tree(graph, value[0]), value[1]] if isinstance(value, list) else value
        for name, value in graph[at]["inputs"].items()
    }
    return {"class_type": graph[at]["class_type"], "inputs": inputs}
