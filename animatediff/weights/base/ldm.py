"""Rename keys of Stable Diffusion single files (the LDM layout) to diffusers' names.

Only names are handled here: every function maps the keys of a file to those of a diffusers model, so that all of a file
is checked from its header before one tensor is read. The tests hold these tables against diffusers' own converters.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum

UNET_PREFIX = "model.diffusion_model."
UNET_PREFIXES = (UNET_PREFIX, "diffusion_model.", "unet.", "model.", "")
"""Prefixes of the UNet's keys, of whole models first; files of a UNet alone have the others, or none."""
EMA_PREFIX = "model_ema."
CONTROL_PREFIX = "control_model."
VAE_PREFIX = "first_stage_model."
TEXT_PREFIXES = {  # where each text encoder lives; the first that a file has is taken
    "sd1": {"text_encoder": ("cond_stage_model.transformer.",)},
    "sd2": {"text_encoder": ("cond_stage_model.model.", "cond_stage_model.transformer.")},
    "sdxl": {
        "text_encoder": ("conditioner.embedders.0.transformer.",),
        "text_encoder_2": ("conditioner.embedders.1.model.", "conditioner.embedders.1.transformer."),
    },
}
IGNORED_TOP = re.compile(  # what trainers leave beside the three models: noise tables, EMA, losses, counters
    r"(model_ema\.|betas$|alphas_cumprod|sqrt_|log_one_minus|posterior_|logvar$|lvlb_weights$|denoiser\.|scale_factor$"
    r"|global_step$|epoch$|v_pred$|ztsnr$|model_t$|embedding_manager\.|safety_checker\.|loss\.|edm_|optimizer|scaled_fp8$"
    r"|first_stage_model\.(loss|quantize|model_ema)\.|latents_mean$|latents_std$|bad_words)"
)


NOISE_CHANNELS = 4
"""Channels of the noisy latents in a first layer."""


class Part(Enum):
    """Part of a file's tensor that becomes the model's tensor."""

    WHOLE = "whole"
    CONV_TO_LINEAR = "a 1x1 convolution (or a trailing axis of one) as a matrix"
    TRANSPOSED = "transposed"
    FIRST = "first third of the rows"
    SECOND = "second third of the rows"
    THIRD = "last third of the rows"
    NOISE = "first four columns: those of the noisy latents, in a first layer that takes an image too (PIA)"


@dataclass(frozen=True, kw_only=True)
class Source:
    """Source of a model's tensor: a key of the file and the part that is taken."""

    key: str
    """Key in the file."""
    part: Part = Part.WHOLE

    def shape(self, found: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of the part, for a tensor of shape `found` in the file."""
        if self.part is Part.CONV_TO_LINEAR:
            return found[:2] if all(size == 1 for size in found[2:]) else found
        if self.part is Part.TRANSPOSED:
            return found[::-1]
        if self.part in (Part.FIRST, Part.SECOND, Part.THIRD):
            return (found[0] // 3, *found[1:])
        if self.part is Part.NOISE:
            return (found[0], NOISE_CHANNELS, *found[2:])
        return found


Plan = dict[str, Source]

_RESNET = {  # LDM -> diffusers, inside one UNet ResNet block
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
_UNET_FIXED = {
    "input_blocks.0.0": "conv_in",
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "time_embed.cond_proj": "time_embedding.cond_proj",  # guidance, of LCM-distilled models
    "label_emb.0.0": "add_embedding.linear_1",
    "label_emb.0.2": "add_embedding.linear_2",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
}
_UNET_LAYER = re.compile(
    r"(?P<side>input|output)_blocks[._](?P<block>\d+)[._](?P<child>[012])[._](?P<rest>.+)"
    r"|middle_block[._](?P<middle>[012])[._](?P<inside>.+)"
)


def unet_layer(name: str, per_level: int, *, dot: str = ".") -> str | None:
    """Rename a layer of an LDM UNet; None for a name that is not understood.

    per_level: blocks of the down path that make one diffusers block. dot: what stands between the parts of a name, in
    the result too; LoRAs for the original's web pages have underscores.

    >>> unet_layer("input_blocks.4.0.in_layers.2", 3), unet_layer("output_blocks_5_2_conv", 3, dot="_")
    ('down_blocks.1.resnets.0.conv1', 'up_blocks_1_upsamplers_0_conv')
    """
    resnet = {old.replace(".", dot): new for old, new in _RESNET.items()}
    fixed = {old.replace(".", dot): new for old, new in _UNET_FIXED.items()}
    if name in fixed:
        return fixed[name].replace(".", dot)
    if not (found := _UNET_LAYER.fullmatch(name)):
        return None
    if found["middle"] is not None:
        block, rest = "mid_block", found["inside"]
        kind, layer = ("attentions", 0) if found["middle"] == "1" else ("resnets", int(found["middle"]) // 2)
    else:
        number, rest = int(found["block"]), found["rest"]
        level, layer = divmod(number - 1 if found["side"] == "input" else number, per_level)
        block = f"{'down' if found['side'] == 'input' else 'up'}_blocks{dot}{level}"
        if found["child"] == "0" and rest == "op":
            return dot.join((block, "downsamplers", "0", "conv"))
        if found["child"] in ("1", "2") and rest == "conv":
            return dot.join((block, "upsamplers", "0", "conv"))
        kind = {"0": "resnets", "1": "attentions", "2": None}[found["child"]]
    inside = resnet.get(rest) if kind == "resnets" else rest
    return None if kind is None or inside is None else dot.join((block, kind, str(layer), inside))


def unet_prefix(keys: Collection[str]) -> str | None:
    """Prefix of a UNet's keys, in the names of LDM or diffusers, in a file that may hold other parts; None without.

    ControlNets have the same names and zero convolutions besides, but no last layer.

    >>> unet_prefix(["unet.conv_in.weight", "unet.conv_out.weight"]), unet_prefix(["conv_in.weight"])
    ('unet.', None)
    """
    if any(key.startswith(UNET_PREFIX) for key in keys):
        return UNET_PREFIX
    ends = (("input_blocks.0.0.weight", "out.2.weight"), ("conv_in.weight", "conv_out.weight"))
    return next(
        (
            prefix
            for prefix in UNET_PREFIXES
            for first, last in ends
            if prefix + first in keys and prefix + last in keys
        ),
        None,
    )


def in_diffusers_names(names: Iterable[str]) -> bool:
    """Whether the names of a UNet (without prefix) are those of diffusers."""
    return any(name.startswith(("down_blocks.", "up_blocks.", "conv_in.")) for name in names)


def unet_plan(names: Iterable[str]) -> tuple[Plan, list[str]]:
    """Rename the keys of a UNet (without prefix), of LDM or diffusers. Returns the plan and what is not understood."""
    names = list(names)
    if in_diffusers_names(names):
        return {name: Source(key=name) for name in names}, []
    downs = [int(found[1]) for name in names if (found := re.match(r"input_blocks\.(\d+)\.0\.op\.", name))]
    inputs = [int(found[1]) for name in names if (found := re.match(r"input_blocks\.(\d+)\.", name))]
    per_level = min(downs, default=max(inputs, default=0) + 1)
    plan: Plan = {}
    unknown = []
    for name in names:
        layer, dot, parameter = name.rpartition(".")
        if (target := unet_layer(layer, per_level)) is None:
            unknown.append(name)
        else:
            plan[target + dot + parameter] = Source(key=name)
    return plan, unknown


def unet_plan_of(keys: Iterable[str]) -> tuple[Plan, list[str]]:
    """Rename the UNet's keys of a file, found by their prefix. Returns the plan and the keys not understood, in full.

    Where the UNet has no prefix, keys of other parts are passed over.
    """
    keys = list(keys)
    prefix = unet_prefix(keys) or ""
    names = [name for name in strip(keys, prefix) if prefix or not _OF_OTHERS.match(name)]
    plan, unknown = unet_plan(names)
    return with_prefix(plan, prefix), [prefix + name for name in unknown]


_OF_OTHERS = re.compile(
    rf"({re.escape(VAE_PREFIX)}|{re.escape(EMA_PREFIX)}|cond_stage_model\.|conditioner\.)|{IGNORED_TOP.pattern}"
)
_CONDITIONING = re.compile(r"input_hint_block\.(\d+)\.(weight|bias)")
_ZERO_CONV = re.compile(r"zero_convs\.(\d+)\.0\.(weight|bias)")


def controlnet_plan(names: Iterable[str]) -> tuple[Plan, list[str]]:
    """Rename the keys of a ControlNet in its original names (without prefix). Returns the plan and what is unknown.

    Original file: `cldm/cldm.py` of lllyasviel/ControlNet. Its down path is a UNet's; before it comes the conditioning
    embedding, and behind each of its outputs a zero convolution.
    """
    names = list(names)
    last_layer = max((int(found[1]) for name in names if (found := _CONDITIONING.fullmatch(name))), default=0)
    plan: Plan = {}
    trunk = []
    for name in names:
        if found := _CONDITIONING.fullmatch(name):
            layer = int(found[1]) // 2
            place = {0: "conv_in", last_layer // 2: "conv_out"}.get(layer, f"blocks.{layer - 1}")
            plan[f"controlnet_cond_embedding.{place}.{found[2]}"] = Source(key=name)
        elif found := _ZERO_CONV.fullmatch(name):
            plan[f"controlnet_down_blocks.{found[1]}.{found[2]}"] = Source(key=name)
        elif name.startswith("middle_block_out.0."):
            plan[f"controlnet_mid_block.{name.removeprefix('middle_block_out.0.')}"] = Source(key=name)
        else:
            trunk.append(name)
    of_unet, unknown = unet_plan(trunk)
    return {**of_unet, **plan}, unknown


def ema_key(name: str) -> str:
    """Key of the averaged twin of a UNet tensor: LDM's EMA drops `model.` and all further dots."""
    return EMA_PREFIX + (UNET_PREFIX + name).removeprefix("model.").replace(".", "")


_VAE_ATTENTION = {  # LDM, early diffusers, diffusers
    **{name: name for name in ("group_norm", "to_q", "to_k", "to_v", "to_out.0")},
    **{"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"},
    **{"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"},
    # once renamed too often, by converters of 2023
    **{"to_to_q": "to_q", "to_to_k": "to_k", "to_to_v": "to_v", "to_to_out.0": "to_out.0", "to_out": "to_out.0"},
}
_VAE_MID_ATTENTION = re.compile(r"(encoder|decoder)\.(?:mid\.attn_1|mid_block\.attentions\.0)\.(.+)\.(weight|bias)")
_VAE_RULES = (
    (re.compile(r"\.nin_shortcut\."), ".conv_shortcut."),
    (re.compile(r"\.norm_out\."), ".conv_norm_out."),
    (re.compile(r"\.mid\.block_1\."), ".mid_block.resnets.0."),
    (re.compile(r"\.mid\.block_2\."), ".mid_block.resnets.1."),
    (re.compile(r"^encoder\.down\.(\d+)\.block\.(\d+)\."), r"encoder.down_blocks.\1.resnets.\2."),
    (re.compile(r"^encoder\.down\.(\d+)\.downsample\."), r"encoder.down_blocks.\1.downsamplers.0."),
    (re.compile(r"^decoder\.up\.(\d+)\.block\.(\d+)\."), r"decoder.up_blocks.\1.resnets.\2."),
    (re.compile(r"^decoder\.up\.(\d+)\.upsample\."), r"decoder.up_blocks.\1.upsamplers.0."),
)
_VAE_KNOWN = re.compile(
    r"(quant_conv|post_quant_conv|(encoder|decoder)\.(conv_in|conv_out|conv_norm_out|mid_block|down_blocks|up_blocks))\."
)
_UP = re.compile(r"decoder\.up_blocks\.(\d+)\.")


def vae_plan(names: Iterable[str]) -> tuple[Plan, list[str]]:
    """Rename the keys of a VAE, LDM or diffusers, old or new attention names. Returns the plan and what is unknown."""
    names = list(names)
    num_up = 1 + max(
        (int(found[1]) for name in names if (found := re.match(r"decoder\.up\.(\d+)\.", name))), default=-1
    )
    plan: Plan = {}
    unknown = []
    for name in names:
        if found := _VAE_MID_ATTENTION.fullmatch(name):
            if (child := _VAE_ATTENTION.get(found[2])) is None:
                unknown.append(name)
                continue
            part = Part.CONV_TO_LINEAR if found[3] == "weight" and child != "group_norm" else Part.WHOLE
            plan[f"{found[1]}.mid_block.attentions.0.{child}.{found[3]}"] = Source(key=name, part=part)
            continue
        target = name
        for pattern, replacement in _VAE_RULES:
            target = pattern.sub(replacement, target, count=1)
        if num_up:  # LDM counts the decoder's levels from the finest, diffusers from the coarsest
            target = _UP.sub(lambda found: f"decoder.up_blocks.{num_up - 1 - int(found[1])}.", target)
        if _VAE_KNOWN.match(target):
            plan[target] = Source(key=name)
        else:
            unknown.append(name)
    return plan, unknown


_OPENCLIP_FIXED = {
    "token_embedding.weight": "embeddings.token_embedding.weight",
    "positional_embedding": "embeddings.position_embedding.weight",
    "ln_final.weight": "final_layer_norm.weight",
    "ln_final.bias": "final_layer_norm.bias",
}
_OPENCLIP_LAYER = re.compile(r"transformer\.resblocks\.(\d+)\.(.+)")
_OPENCLIP_CHILD = (
    ("ln_1.", "layer_norm1."),
    ("ln_2.", "layer_norm2."),
    ("mlp.c_fc.", "mlp.fc1."),
    ("mlp.c_proj.", "mlp.fc2."),
    ("attn.out_proj.", "self_attn.out_proj."),
)
_CLIP_KNOWN = re.compile(r"(embeddings|encoder|final_layer_norm)\.")
_CLIP_IGNORED = re.compile(  # buffers of older libraries, and the image half of CLIP
    r"embeddings\.position_ids$|logit_scale$|(vision_model|visual|visual_projection)\.|attn_mask$|text_projection(\.weight)?$"
)


def _replace_start(name: str, table: Iterable[tuple[str, str]]) -> str | None:
    return next((new + name[len(old) :] for old, new in table if name.startswith(old)), None)


def text_plan(names: Iterable[str], *, projection: bool, num_layers: int | None = None) -> tuple[Plan, list[str]]:
    """Rename the keys of a CLIP text encoder, transformers' or OpenCLIP's names.

    Targets carry no `text_model.`; the projection matrix is `text_projection.weight`, kept if `projection`.
    OpenCLIP layers from `num_layers` on are left out: SD 2.x reads the last layer but one.
    """
    plan: Plan = {}
    unknown = []
    for full in names:
        name = full.removeprefix("text_model.")
        if projection and name in ("text_projection.weight", "text_projection"):
            # OpenCLIP multiplies from the right, transformers' Linear from the left
            part = Part.WHOLE if name.endswith(".weight") else Part.TRANSPOSED
            plan["text_projection.weight"] = Source(key=full, part=part)
        elif _CLIP_IGNORED.match(name):
            continue
        elif name in _OPENCLIP_FIXED:
            plan[_OPENCLIP_FIXED[name]] = Source(key=full)
        elif found := _OPENCLIP_LAYER.fullmatch(name):
            if num_layers is not None and int(found[1]) >= num_layers:
                continue
            layer = f"encoder.layers.{found[1]}."
            if fused := re.fullmatch(r"attn\.in_proj_(weight|bias)", found[2]):
                for letter, part in zip("qkv", (Part.FIRST, Part.SECOND, Part.THIRD), strict=True):
                    plan[f"{layer}self_attn.{letter}_proj.{fused[1]}"] = Source(key=full, part=part)
            elif (child := _replace_start(found[2], _OPENCLIP_CHILD)) is not None:
                plan[layer + child] = Source(key=full)
            else:
                unknown.append(full)
        elif _CLIP_KNOWN.match(name):
            plan[name] = Source(key=full)
        else:
            unknown.append(full)
    return plan, unknown


def strip(keys: Iterable[str], prefix: str) -> list[str]:
    """The keys that start with `prefix`, without it."""
    return [key[len(prefix) :] for key in keys if key.startswith(prefix)]


def with_prefix(plan: Mapping[str, Source], prefix: str) -> Plan:
    """The plan with its sources named as they are in the file."""
    return {target: Source(key=prefix + source.key, part=source.part) for target, source in plan.items()}
