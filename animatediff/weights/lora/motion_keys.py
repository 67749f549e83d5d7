"""Keys of MotionLoRAs and domain adapters: `original`, `internal` (PEFT's names), `diffusers` (the hub's)."""

from __future__ import annotations

import re

LORA_KEY = re.compile(
    r"^(?:lora_unet_|unet[._]|base_model\.model\.)?(?P<block>(?:down|up)_blocks[._]\d+|mid_block)"
    r"[._](?P<site>motion_modules|attentions)[._](?P<index>\d+)(?:[._]temporal_transformer)?"
    r"[._]transformer_blocks[._](?P<layer>\d+)[._](?P<attention>attention_blocks[._][01]|attn[12])"
    r"(?:[._]processor)?[._]to_(?P<what>[qkv]|out)(?:[._]0)?"
    r"(?:[._]lora[._](?P<side>down|up|A|B)(?:\.[\w-]+)?\.weight|(?:[._]lora)?\.(?P<alpha>alpha))$"
)
"""One grammar for all: the original's `processor.to_q_lora.down`, `to_out.0_lora`, the hub's `unet.`, PEFT's `lora_A`,
the underscores of re-hosts for the WebUI."""
INTERNAL_KEY = re.compile(
    r"^(?P<module>.*)\.(?P<attention>attn[12])\.(?P<what>to_[qkv]|to_out)(?:\.0)?\."
    r"(?P<end>lora_A\.weight|lora_B\.weight|alpha)$"
)
SIDES = {"down": "A", "up": "B", "A": "A", "B": "B"}
ENDS = {"lora_A.weight": "_lora.down.weight", "lora_B.weight": "_lora.up.weight", "alpha": "_lora.alpha"}


def lora_to_internal(key: str) -> str | None:
    """`BLOCK.motion_modules.0.transformer_blocks.0.attn1.to_q.lora_A.weight`, or `.alpha`; None for other keys."""
    found = LORA_KEY.match(key)
    if found is None:
        return None
    attention = found["attention"]
    number = int(attention[-1]) + (1 if attention.startswith("attention_blocks") else 0)
    what = "to_out.0" if found["what"] == "out" else f"to_{found['what']}"
    end = "alpha" if found["alpha"] else f"lora_{SIDES[found['side']]}.weight"
    block = re.sub(r"blocks_(?=\d)", "blocks.", found["block"])
    layer = f"{found['site']}.{found['index']}.transformer_blocks.{found['layer']}"
    return f"{block}.{layer}.attn{number}.{what}.{end}"


def _parts(key: str) -> re.Match[str]:
    found = INTERNAL_KEY.match(key)
    assert found, f"{key} is no internal LoRA key"
    return found


def lora_to_original(key: str) -> str:
    """An internal key in the original's grammar; layers of the image model have diffusers' names there too."""
    found = _parts(key)
    module, attention = found["module"], found["attention"]
    if ".motion_modules." in module:
        module = re.sub(r"(\.motion_modules\.\d+)\.", r"\1.temporal_transformer.", module)
        attention = f"attention_blocks.{int(attention[-1]) - 1}"
    return f"{module}.{attention}.processor.{found['what']}{ENDS[found['end']]}"


def lora_to_diffusers(key: str) -> str:
    """An internal key under the name that hub repositories use and diffusers' `load_lora_weights` takes."""
    found = _parts(key)
    return f"unet.{found['module']}.{found['attention']}.processor.{found['what']}{ENDS[found['end']]}"
