"""State of the call that is under way, by the names that callbacks of diffusers read and set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from animatediff.errors import UserError
from animatediff.pipelines.parts import is_sdxl
from animatediff.sampling.perturbed import perturbed_layers

if TYPE_CHECKING:
    from animatediff.pipelines.job import Job

CALLBACK_TENSORS = ("latents", "prompt_embeds", "negative_prompt_embeds")
SDXL_TENSORS = ("add_text_embeds", "add_time_ids", "negative_pooled_prompt_embeds", "negative_add_time_ids")


class CallState:
    """Guidance scale, steps and interruption of a call; what a callback sets holds from the next step on."""

    base: Any
    unet: Any
    pag_applied_layers: list[str] | None = None
    _guidance_scale: float = 1.0
    _guidance_rescale: float = 0.0
    _num_timesteps: int = 0
    _interrupt: bool = False
    _clip_skip: int | None = None
    _cross_attention_kwargs: Mapping[str, Any] | None = None

    def _begin(self, job: Job, num_timesteps: int) -> None:
        self._guidance_scale, self._guidance_rescale = job.guidance_scale, job.call.guidance_rescale
        self._clip_skip, self._cross_attention_kwargs = job.call.clip_skip, job.call.cross_attention_kwargs
        self._num_timesteps, self._interrupt = num_timesteps, False

    @property
    def guidance_scale(self) -> float:
        """Guidance scale of the next step; a callback sets `_guidance_scale`."""
        return self._guidance_scale

    @property
    def guidance_rescale(self) -> float:
        """`guidance_rescale` of the call."""
        return self._guidance_rescale

    @property
    def do_classifier_free_guidance(self) -> bool:
        """Whether the next step has negative prompts."""
        return self._guidance_scale > 1

    @property
    def num_timesteps(self) -> int:
        """Steps of the call."""
        return self._num_timesteps

    @property
    def interrupt(self) -> bool:
        """Whether the call ends before its next step, with the frames as they are."""
        return self._interrupt

    @interrupt.setter
    def interrupt(self, value: bool) -> None:
        self._interrupt = value

    @property
    def clip_skip(self) -> int | None:
        """`clip_skip` of the call."""
        return self._clip_skip

    @property
    def cross_attention_kwargs(self) -> Mapping[str, Any] | None:
        """`cross_attention_kwargs` of the call."""
        return self._cross_attention_kwargs

    @property
    def _callback_tensor_inputs(self) -> list[str]:
        """Tensors that a callback may ask for."""
        return [*CALLBACK_TENSORS, *(SDXL_TENSORS if is_sdxl(self.base) else ())]

    def set_pag_applied_layers(self, pag_applied_layers: str | Sequence[str] | None) -> None:
        """Name the layers of perturbed-attention guidance: `mid`, `down_blocks.1`, a pattern; None switches it off.

        Calls then use it with `pag_scale` 3 unless they say otherwise. Raises UserError for layers that are not there.
        """
        if pag_applied_layers is None:
            self.pag_applied_layers = None
            return
        names = [pag_applied_layers] if isinstance(pag_applied_layers, str) else list(pag_applied_layers)
        if not names or not all(isinstance(name, str) for name in names):
            raise UserError(f"`pag_applied_layers` are names of layers, such as ['mid'], got {pag_applied_layers!r}")
        if self.unet is not None:
            perturbed_layers(self.unet, names)
        self.pag_applied_layers = names
