"""Find out whether a model predicts the noise ("epsilon") or the velocity ("v_prediction"), which no shape tells."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from animatediff.weights.storage.files import Header

logger = logging.getLogger(__name__)

PREDICTION_TYPES = ("epsilon", "v_prediction")
SD2_BASE_SIZE = 64
"""Latent size that the noise-predicting SD 2.x models were trained at; the velocity-predicting ones: 96."""
METADATA_KEY = "modelspec.prediction_type"
PROBE_SIZE = 16
"""Latent height and width of the trial."""


def declared_prediction(header: Header) -> str | None:
    """The prediction type that a file states, by marker tensors (`v_pred`) or modelspec metadata; None without."""
    if "v_pred" in header.tensors:
        return "v_prediction"
    words = header.metadata.get(METADATA_KEY, "").lower()
    if words.startswith("v"):
        return "v_prediction"
    return "epsilon" if words.startswith("eps") else None


def probe_prediction(unet: Any, path: Path) -> str:
    """Try a UNet on pure noise at the last training step, where a noise predictor gives back what it is given.

    There the input is noise but for 7 % of its amplitude, so a noise predictor's output is its input (correlation
    near 1), while the velocity is minus the unknown image, which the noise does not determine (near 0).
    """
    import torch

    parameter = next(unet.parameters())
    noise = torch.randn(1, unet.config.in_channels, PROBE_SIZE, PROBE_SIZE, generator=torch.Generator().manual_seed(0))
    text = torch.zeros(1, 77, unet.config.cross_attention_dim)
    with torch.inference_mode():
        step = torch.tensor([999], device=parameter.device)
        output = unet(noise.to(parameter), step, encoder_hidden_states=text.to(parameter)).sample
    correlation = torch.corrcoef(torch.stack([noise.flatten(), output.float().cpu().flatten()]))[0, 1].item()
    found = "epsilon" if correlation > 0.5 else "v_prediction"
    logger.info("%s: predicts %s (tried on noise: correlation %.2f)", path, found, correlation)
    return found
