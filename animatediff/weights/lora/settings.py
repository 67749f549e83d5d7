"""PEFT's settings of a LoRA: alpha of each layer, rank-stabilized or not, and what would change the base model itself.

They stand in `adapter_config.json` beside PEFT's weights, and in the metadata that diffusers writes into its own files,
there with the name of the model before each (`unet.lora_alpha`). `source.py` brings the former into the place of the
latter, so that both are read here.
"""

from __future__ import annotations

import json
import logging
import math
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from animatediff.errors import UserError
from animatediff.parse import load_json

logger = logging.getLogger(__name__)

ADAPTER_METADATA = "lora_adapter_metadata"
"""Entry of safetensors metadata in which diffusers keeps PEFT's settings, as JSON."""
DEFAULT_RANK = DEFAULT_ALPHA = 8
"""PEFT's, for settings that are there but state none."""
PLACES = ("unet", "text_encoder", "text_encoder_2")

_CHANGES_BASE = re.compile(r"^(pissa|olora|loftq|corda|lora_ga|kasa)", re.IGNORECASE)
_REFUSED = {
    "layer_replication": "repeats layers of the base model",
    "target_parameters": "changes parameters outside of layers",
    "trainable_token_indices": "replaces single tokens' embeddings",
    "alora_invocation_tokens": "acts behind invocation tokens alone (aLoRA)",
    "arrow_config": "routes between several LoRAs (Arrow)",
    "kasa_config": "replaces weights of the base model (KaSA)",
}
"""Settings that make a LoRA more than low-rank pairs -> what they do."""
_KNOWN_USES = {"use_rslora", "use_dora"}


@dataclass(frozen=True, kw_only=True)
class PeftSettings:
    """Settings of the LoRA of one model, under PEFT's names."""

    values: Mapping[str, Any]
    label: str
    """Name of the file, for messages."""
    other_ranks: list[str] = field(default_factory=list)
    """Layers met so far whose tensors have another rank than is stated."""

    def alpha(self, path: str, rank: int) -> float:
        """The alpha with which alpha / rank is PEFT's scale of the layer `path`: alpha / sqrt(rank) if `use_rslora`.

        Raises UserError for an alpha that is no number or a pattern that is no regular expression.
        """
        if self._by_pattern("rank_pattern", path, self.values.get("r", DEFAULT_RANK)) != rank:
            self.other_ranks.append(path)
        stated = self._by_pattern("alpha_pattern", path, self.values.get("lora_alpha", DEFAULT_ALPHA))
        if isinstance(stated, bool) or not isinstance(stated, int | float) or not math.isfinite(stated):
            raise UserError(f"{self.label}: its settings state alpha {stated!r} for {path}; expected a number")
        return stated * math.sqrt(rank) if self.values.get("use_rslora") else float(stated)

    def _by_pattern(self, name: str, path: str, otherwise: object) -> Any:
        """The value of the first pattern that ends the path, as in PEFT's `get_pattern_key`."""
        patterns = self.values.get(name) or {}
        if not isinstance(patterns, Mapping):
            raise UserError(f"{self.label}: `{name}` of its settings is no table of patterns: {patterns!r}")
        # transformers took `text_model.` out of its paths; files and their patterns may have been written before
        for spelled in dict.fromkeys((path, path.removeprefix("text_model."), f"text_model.{path}")):
            for pattern, value in patterns.items():
                try:
                    matched = re.match(rf"(.*\.)?({pattern})$", spelled)
                except re.error as error:
                    raise UserError(f"{self.label}: {pattern!r} in `{name}` is no pattern ({error})") from error
                if matched:
                    return value
        return otherwise

    def say_other_ranks(self) -> None:
        """Warn of layers whose tensors have another rank than the settings state."""
        if self.other_ranks:
            logger.warning(
                "%s: the tensors of %d layers have another rank than its settings state, first %s; alpha is divided by "
                "the tensors' own",
                self.label,
                len(self.other_ranks),
                self.other_ranks[0],
            )


def packed(settings: Mapping[str, Mapping[str, Any]]) -> str:
    """Settings by model as the metadata entry that diffusers reads."""
    flat = {f"{place}.{key}": value for place, values in settings.items() for key, value in values.items()}
    return json.dumps(flat, indent=2, sort_keys=True)


def unpacked(metadata: Mapping[str, str], *, label: str) -> dict[str, PeftSettings]:
    """Settings by model from the metadata of a file; without a model's name before them they are the UNet's."""
    if ADAPTER_METADATA not in metadata:
        return {}
    try:
        flat = load_json(metadata[ADAPTER_METADATA])
        if not isinstance(flat, dict):
            raise ValueError("no object")
    except ValueError as error:
        logger.warning("%s: its %s cannot be read (%s); alpha counts as the rank", label, ADAPTER_METADATA, error)
        return {}
    if not any(key.startswith(tuple(f"{place}." for place in PLACES)) for key in flat):
        return {"unet": PeftSettings(values=flat, label=label)} if flat.keys() & {"r", "lora_alpha"} else {}
    found = {}
    for place in PLACES:
        own = {key.removeprefix(f"{place}."): value for key, value in flat.items() if key.startswith(f"{place}.")}
        if own:
            found[place] = PeftSettings(values=own, label=label)
    return found


def refusal_of_settings(metadata: Mapping[str, str], keys: Collection[str], *, label: str) -> str | None:
    """The reason why a LoRA with these settings cannot be loaded as pairs on the plain base model; None if it can."""
    for settings in unpacked(metadata, label=label).values():
        if reason := _refusal(settings.values, keys):
            return reason
    return None


def _refusal(values: Mapping[str, Any], keys: Iterable[str]) -> str | None:
    kind = str(values.get("peft_type") or "LORA").rpartition(".")[2].upper()
    if kind != "LORA":
        return f"an adapter of PEFT's type {kind}, not a LoRA, which is not supported; give a LoRA"
    start = values.get("init_lora_weights")
    if isinstance(start, str) and _CHANGES_BASE.match(start):
        return (
            f"was trained on a base model from which parts were taken (init_lora_weights: {start}), so it is no change "
            "of the plain one; save it with PEFT's path_initial_model_for_weight_conversion"
        )
    for name, what in _REFUSED.items():
        if values.get(name):
            return f"{what} ({name} in its settings), which is not supported; give a plain LoRA"
    uses = [key for key, value in values.items() if key.startswith("use_") and value and key not in _KNOWN_USES]
    if uses:
        return f"is of a kind of LoRA that is not supported ({uses[0]} in its settings)"
    saved = values.get("modules_to_save")
    if isinstance(saved, list | tuple) and saved:
        wanted = tuple(f".{name}." for name in saved)
        if first := next(
            (key for key in keys if "lora_" not in key and any(name in f".{key}" for name in wanted)), None
        ):
            return f"replaces whole layers too (modules_to_save, first {first}), which is not supported"
    if values.get("bias") not in (None, "none") and (
        first := next((key for key in keys if key.endswith(".bias") and "lora_" not in key), None)
    ):
        return f"replaces biases of the base model too (bias: {values['bias']}, first {first}), which is not supported"
    return None
