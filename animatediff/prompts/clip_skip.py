"""Encode prompts without the text encoder's last layers (CLIP skip), for Stable Diffusion 1.x and 2.x.

diffusers does this for the prompt alone, and reads a submodule that newer versions of transformers do not have.
Models that were trained so were given all their texts so, the empty one too: negative prompts come from the same layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from animatediff.prompts.encode import layer_states


def skipped_states(image: Any, texts: Sequence[str], clip_skip: int, device: torch.device) -> Tensor:
    """Prompt embeddings (b, n, d) without the last `clip_skip` layers, normalised as the last layer's are.

    image: a `StableDiffusionPipeline`.
    """
    tokenizer, encoder = image.tokenizer, image.text_encoder
    tokens = tokenizer(
        image.maybe_convert_prompt(list(texts), tokenizer),  # spells out words of several vectors
        padding="max_length",
        max_length=tokenizer.model_max_length,
        truncation=True,
        return_tensors="pt",
    )
    return layer_states(encoder, tokens.input_ids.to(device), clip_skip)
