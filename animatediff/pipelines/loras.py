"""LoRAs of a pipeline: loaded, weighed, switched, merged and removed, by the calls that users of diffusers know."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from animatediff.errors import UserError, unknown
from animatediff.pipelines.keywords import hub_settings
from animatediff.pipelines.parts import LoadedParts
from animatediff.weights.storage.files import Header
from animatediff.weights.storage.memory import memory_header
from animatediff.weights.storage.paths import expanded
from animatediff.weights.trained_with import trained_with

if TYPE_CHECKING:
    from torch import Tensor

    from animatediff.weights.lora.strengths import Strength

logger = logging.getLogger(__name__)


class Loras(LoadedParts):
    """LoRAs on the UNet, its motion modules, and the text encoders."""

    _fuse_scale: float = 1.0
    _in_weights: frozenset[str] = frozenset()
    """Names of LoRAs that were fused and then unloaded, so that they act for good."""

    def load_lora_weights(
        self,
        path: str | Path | Mapping[str, Tensor],
        adapter_name: str | None = None,
        *,
        scale: float = 1.0,
        weight_name: str | None = None,
        subfolder: str | None = None,
        **settings: Any,
    ) -> str:
        """Add a MotionLoRA, a domain adapter, or a LoRA of the image model (kohya, diffusers); returns its name.

        `path`: a file, a folder or hub id, where `weight_name` and `subfolder` name the file; tensors by name; or the
        short name of a MotionLoRA in models/MotionLoRA (before that, for the bundled motion module, of its set), such
        as "ZoomIn", or of the bundled set, such as "bundled/paper". Several can be loaded; all act at their own
        strength until `set_adapters` says otherwise.
        An LCM-LoRA brings its sampler, steps and guidance while it acts, unless others are chosen
        (`weights.few_steps` says how it is known); embeddings that come in the file become words of the prompt, and
        stay. `settings` are the hub's. Raises UserError for a file that is no LoRA or fits nothing in this model.
        """
        from animatediff.weights.lora.bundled_words import load_bundled_words
        from animatediff.weights.lora.few_steps import few_step_lora, few_steps
        from animatediff.weights.lora.load import load_lora
        from animatediff.weights.lora.source import lora_header

        self._check_in_memory()
        encoders = self.text_encoders
        own = self.family is not None and self.family.name == "bundled"
        source = lora_header(_source(path, weight_name, subfolder, settings, of_bundled=own))
        loaded = load_lora(source, unet=self.unet, text_encoders=encoders, adapter_name=adapter_name, scale=scale)
        name = loaded.name
        if loaded.embeddings:
            self.embeddings += load_bundled_words(source, tokenizers=self._tokenizers, text_encoders=encoders)
        self._trained_with(name, trained_with(source))
        if scale == 0 and name in self.sampler.trained_with:
            self._disable(self.sampler.disabled | {name})
        if (few := few_step_lora(source)) is not None:
            self.sampler.few_steps[name] = few.recommended
            self._disable(self.sampler.disabled | ({name} if scale == 0 else set()))
            logger.info(
                "%s: an %s (%s): takes %s, unless told otherwise",
                source.path,
                few.title,
                few.evidence,
                few_steps(few.recommended),
            )
        return name

    def set_adapters(
        self,
        adapter_names: Sequence[str] | str,
        adapter_weights: Sequence[Strength | None] | Strength | None = None,
    ) -> None:
        """Set the strengths of loaded LoRAs, 1 by default; those that are not named are switched off, as in diffusers.

        A strength is a number, or differs between models and blocks: `{"unet": {"down": 0.5}, "text_encoder": 0.3}`.
        Raises UserError for an unknown name, and for a strength that cannot be read.
        """
        from animatediff.weights.lora.load import lora_names, set_lora_scales

        names = [adapter_names] if isinstance(adapter_names, str) else list(adapter_names)
        several = isinstance(adapter_weights, Sequence) and not isinstance(adapter_weights, str)
        weights = list(adapter_weights) if several else [adapter_weights] * len(names)  # type: ignore[arg-type]
        if len(names) != len(weights):
            raise UserError(f"{len(names)} adapters ({', '.join(names)}) want {len(names)} weights, got {len(weights)}")
        given: dict[str, Any] = {
            name: 1.0 if weight is None else weight for name, weight in zip(names, weights, strict=True)
        }
        off = dict.fromkeys(lora_names(self._lora_models), 0.0)
        fused = set(off) & self.base.fused_loras
        scales = {name: scale for name, scale in (off | given).items() if name not in fused}
        set_lora_scales(self._lora_models, scales)
        if fused:  # PEFT takes a LoRA out of the weights at the strength that it has then
            logger.warning("%s: fused into the weights at its strength; call `unfuse_lora` first", min(fused))
        self._follow_few_steps()

    def unload_lora_weights(
        self, adapter_name: str | None = None, *, reset_to_overwritten_params: bool = False
    ) -> None:
        """Remove one LoRA, or all; the models are exactly as they were before.

        LoRAs that were fused stay in the weights. `reset_to_overwritten_params` is diffusers' and makes no difference.
        """
        from animatediff.weights.lora.load import lora_names, remove_lora

        known = lora_names(self._lora_models)
        fused = self.base.fused_loras & set(known)
        if adapter_name in fused and len(known) > 1:
            raise UserError(f"{adapter_name}: fused into the weights beside others; call `unfuse_lora`, or unload all")
        for name in known if adapter_name is None else [adapter_name]:
            remove_lora(self._lora_models, name)
            if name in fused:
                self._in_weights = self._in_weights | {name}
            else:
                self._trained_with(name, {})
                if self.sampler.few_steps.pop(name, None) is not None or name in self.sampler.disabled:
                    self._disable(self.sampler.disabled - {name})
        self.base._merged_adapters = self.base.fused_loras & set(lora_names(self._lora_models))

    def delete_adapters(self, adapter_names: Sequence[str] | str) -> None:
        """Remove LoRAs by name. Raises UserError, with none removed, for a name that is not loaded."""
        from animatediff.weights.lora.load import lora_names

        names = [adapter_names] if isinstance(adapter_names, str) else list(adapter_names)
        known = lora_names(self._lora_models)
        for name in names:
            if name not in known:
                raise unknown("LoRA", name, known)
        for name in names:
            self.unload_lora_weights(name)

    def get_active_adapters(self) -> list[str]:
        """The names of the LoRAs that act: switched on, and of a strength that is not 0."""
        from animatediff.weights.lora.load import active_loras

        return active_loras(self._lora_models)

    def get_list_adapters(self) -> dict[str, list[str]]:
        """Model -> the names of the LoRAs on it."""
        from animatediff.weights.lora.load import lora_names

        names = ("unet", "text_encoder", "text_encoder_2")
        found = {name: lora_names([model]) for name in names if (model := getattr(self.base, name, None)) is not None}
        return {name: loras for name, loras in found.items() if loras}

    def disable_lora(self) -> None:
        """Switch all LoRAs off until `enable_lora`; their strengths are kept."""
        self._switch(False)

    def enable_lora(self) -> None:
        """Switch all LoRAs on again."""
        self._switch(True)

    def fuse_lora(
        self,
        components: Sequence[str] | None = None,
        lora_scale: float = 1.0,
        safe_fusing: bool = False,
        adapter_names: Sequence[str] | None = None,
        **settings: Any,
    ) -> None:
        """Merge LoRAs, at their strengths times `lora_scale`, into the weights, which saves time at each step.

        `unload_lora_weights` then frees their memory, and `unfuse_lora` takes them out again, to rounding. Raises
        UserError for LoRAs that are more than low-rank pairs.
        """
        from animatediff.weights.lora.layers import more_than_pairs, rescale
        from animatediff.weights.lora.load import lora_names, uncompiled

        known = lora_names(self._lora_models)
        names = known if adapter_names is None else list(adapter_names)
        if not lora_scale > 0:
            raise UserError(f"`lora_scale` is above 0, got {lora_scale}; `disable_lora` switches LoRAs off")
        if self.base.fused_loras & set(known):
            raise UserError(
                "LoRAs are fused already; call `unfuse_lora` first, or `unload_lora_weights` to keep them so"
            )
        if not names:
            raise UserError("there is no LoRA to fuse; load one with `load_lora_weights`")
        for name in names:
            if name not in known:
                raise unknown("LoRA", name, known)
        for model in self._lora_models:
            if odd := more_than_pairs(uncompiled(model), names):
                raise UserError(
                    f"the LoRA {odd[0]!r} is more than low-rank pairs (LyCORIS, DoRA, biases or normalisations), which "
                    "are not fused; it acts as it is, leave `fuse_lora` out"
                )
        places = [place for place in self.get_list_adapters() if components is None or place in components]
        for model in self._lora_models:
            rescale(uncompiled(model), names, lora_scale)
        self._fuse_scale = lora_scale
        self.base.fuse_lora(
            components=places,
            lora_scale=1.0,
            safe_fusing=safe_fusing,
            adapter_names=None if adapter_names is None else names,
            **settings,
        )

    def unfuse_lora(self, components: Sequence[str] | None = None, **settings: Any) -> None:
        """Take fused LoRAs out of the weights again; they go on acting at run time."""
        from animatediff.weights.lora.layers import rescale
        from animatediff.weights.lora.load import uncompiled

        if self._in_weights:
            gone = min(self._in_weights)
            logger.warning("%s: was fused and then unloaded, so it stays in the weights; load the model again", gone)
        fused = frozenset(self.base.fused_loras)
        places = [place for place in self.get_list_adapters() if components is None or place in components]
        if not places or not fused:
            return
        self.base.unfuse_lora(components=places, **settings)
        for model in self._lora_models:
            rescale(uncompiled(model), fused - self.base.fused_loras, 1 / self._fuse_scale)

    def _switch(self, on: bool) -> None:
        from animatediff.weights.lora.load import switch_loras

        switch_loras(self._lora_models, on)
        self._follow_few_steps()

    def _follow_few_steps(self) -> None:
        """Let the sampler be that of the few-step LoRAs that act."""
        acting = {*self.get_active_adapters(), *self.base.fused_loras, *self._in_weights}
        self._disable({*self.sampler.few_steps, *self.sampler.trained_with} - acting - {"sparsectrl"})


def _source(
    path: Any, weight_name: str | None, subfolder: str | None, settings: Mapping[str, Any], *, of_bundled: bool
) -> str | Path | Header:
    """Where a LoRA is, or its tensors as a header; short names are looked for in the bundled set first if `of_bundled`.

    Raises UserError for settings that cannot be followed.
    """
    import torch

    from animatediff.bundled import named, set_path
    from animatediff.weights.hub import KNOWN_FILES, fetch, located_file, motion_lora_file

    hub = hub_settings(settings, "load_lora_weights")
    if isinstance(path, Mapping):
        for key, value in path.items():
            if not isinstance(value, torch.Tensor):
                raise UserError(
                    f"a LoRA given as tensors has a {type(value).__name__} as {key!r}; give its tensors alone"
                )
        return memory_header(path, "LoRA")
    path = named(path)
    if weight_name is not None or subfolder is not None or expanded(path).exists():
        return located_file(path, weight_name=weight_name, subfolder=subfolder, **hub)
    path = motion_lora_file(path, *((set_path(),) if of_bundled else ()))
    return fetch(path, download=False) if path in KNOWN_FILES else located_file(path, **hub)
