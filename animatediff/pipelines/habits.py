"""Methods of diffusers' AnimateDiff pipelines that set something once for all calls, or save memory and time."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from animatediff.errors import UserError, unknown
from animatediff.pipelines.arguments import NEEDS, RANGES
from animatediff.pipelines.parts import LoadedParts
from animatediff.pipelines.placement import forget_place
from animatediff.sampling.free_init import BUTTERWORTH_ORDER
from animatediff.weights.lora.load import uncompiled

logger = logging.getLogger(__name__)

_FREE_INIT = ("freeinit", "freeinit_filter", "freeinit_ds", "freeinit_dt", "freeinit_order", "freeinit_fast")
_FREE_NOISE = ("window", "overlap", "blend", "noise", "long_mode")
BLENDS = {"flat": "flat", "pyramid": "pyramid"}
"""`weighting_scheme` of diffusers' FreeNoise -> `blend`."""
NOISES = {"shuffle_context": "freenoise", "random": "default"}
"""`noise_type` of diffusers' FreeNoise -> `noise`."""


class Habits(LoadedParts):
    """Settings for all calls; an argument of a call comes before them."""

    def enable_free_init(
        self,
        num_iters: int = 3,
        use_fast_sampling: bool = False,
        method: str = "butterworth",
        order: int = BUTTERWORTH_ORDER,
        spatial_stop_frequency: float = 0.25,
        temporal_stop_frequency: float = 0.25,
    ) -> None:
        """Sample every clip `num_iters` times by FreeInit (arXiv 2312.07537): the arguments `freeinit` and its kin.

        `order` is that of the Butterworth filter, `use_fast_sampling` makes fewer steps in the first of these times.
        Raises UserError for values out of range.
        """
        settings = (num_iters, method, spatial_stop_frequency, temporal_stop_frequency)
        more = {"freeinit_order": order} if order != BUTTERWORTH_ORDER else {}
        more |= {"freeinit_fast": True} if use_fast_sampling else {}
        self._unset(_FREE_INIT)
        self._set({**dict(zip(_FREE_INIT, settings, strict=False)), **more})

    def disable_free_init(self) -> None:
        """Sample every clip once again."""
        self._unset(_FREE_INIT)

    @property
    def free_init_enabled(self) -> bool:
        """Whether every clip is sampled several times by FreeInit."""
        return "freeinit" in self.call_settings

    def enable_free_noise(
        self,
        context_length: int | None = 16,
        context_stride: int = 4,
        weighting_scheme: str = "pyramid",
        noise_type: str = "shuffle_context",
        prompt_interpolation_callback: Callable[..., Any] | None = None,
    ) -> None:
        """Let long clips attend over frames in windows, from shuffled noise (FreeNoise, arXiv 2310.15169).

        The arguments `window` (None: all that the motion modules know), `overlap`, `blend`, `noise` and
        `long_mode`="motion" of every call. Raises UserError for windows that do not fit, and for what has another
        place: prompts that change are a `PromptTravel`, with its own `interpolation`.
        """
        if prompt_interpolation_callback is not None:
            raise UserError(
                "`prompt_interpolation_callback` is not called here; give a `PromptTravel` with its `interpolation` as "
                "prompt"
            )
        if weighting_scheme not in BLENDS:
            raise unknown("weighting_scheme", weighting_scheme, BLENDS)
        if noise_type not in NOISES:
            raise unknown("noise_type", noise_type, NOISES)
        length = context_length
        if length is None:
            length = 16 if self.attachment is None else self.attachment.adapter.numerics.max_positions
        if not 1 <= context_stride <= length:
            raise UserError(f"`context_stride` is 1 to `context_length` ({length}), got {context_stride}")
        settings = (length, length - context_stride, BLENDS[weighting_scheme], NOISES[noise_type], "motion")
        self._set(dict(zip(_FREE_NOISE, settings, strict=True)))

    def disable_free_noise(self) -> None:
        """Sample long clips as the arguments of the call say."""
        self._unset(_FREE_NOISE)

    @property
    def free_noise_enabled(self) -> bool:
        """Whether long clips are sampled by FreeNoise."""
        return "noise" in self.call_settings

    def enable_free_noise_split_inference(self, spatial_split_size: int = 256, temporal_split_size: int = 16) -> None:
        """Say that this has no effect: frames are the same, and memory is bounded by `long_mode`="unet" instead."""
        logger.warning(
            "enable_free_noise_split_inference has no effect; to bound the memory of long clips call with "
            "`long_mode`='unet', which holds one window at a time"
        )

    def enable_vae_slicing(self) -> None:
        """Let the VAE take one frame at a time; calls decode a few at a time anyway (`decode_chunk_size`)."""
        self.vae.enable_slicing()

    def disable_vae_slicing(self) -> None:
        """Let the VAE take several frames at a time again."""
        self.vae.disable_slicing()

    def enable_vae_tiling(self) -> None:
        """Let the VAE take large frames in tiles, at less memory."""
        self.vae.enable_tiling()

    def disable_vae_tiling(self) -> None:
        """Let the VAE take frames whole again."""
        self.vae.disable_tiling()

    def enable_model_cpu_offload(self, gpu_id: int | None = None, device: Any = None) -> None:
        """Keep each model on the CPU until it is needed. Raises UserError where there is no GPU."""
        self._offload("enable_model_cpu_offload", gpu_id, device)

    def enable_sequential_cpu_offload(self, gpu_id: int | None = None, device: Any = None) -> None:
        """Keep each layer on the CPU until it is needed, at the least memory, slowly. Raises UserError without a GPU.

        Load motion modules and LoRAs before.
        """
        self._offload("enable_sequential_cpu_offload", gpu_id, device)

    def _offload(self, method: str, gpu_id: int | None, device: Any) -> None:
        forget_place(self)
        try:
            getattr(self.base, method)(gpu_id, **({} if device is None else {"device": device}))
        except (RuntimeError, ImportError, ValueError) as error:
            raise UserError(
                f"{method} cannot be used here ({str(error).splitlines()[0][:160]}); on the CPU leave it out"
            ) from error

    def enable_xformers_memory_efficient_attention(self, attention_op: Callable[..., Any] | None = None) -> None:
        """Use the attention of xformers in the image layers. Raises UserError where it is not installed."""
        try:
            self.base.enable_xformers_memory_efficient_attention(attention_op)
        except (ModuleNotFoundError, ImportError, ValueError, NotImplementedError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(
                f"xformers cannot be used here ({reason}); leave the call out: PyTorch's own attention is as fast "
                "and as small"
            ) from error

    def enable_compile(self, **settings: Any) -> None:
        """Compile the blocks that repeat in the UNet, at the next call: minutes once, then faster steps.

        `settings` are those of torch.compile (`mode`, `backend`). Frames differ in the last bits. Raises UserError
        where nothing can be compiled.
        """
        from animatediff.pipelines.compiled import check_compiler

        if settings.get("backend", "inductor") == "inductor":
            check_compiler(self.base._execution_device)
        self.compile_settings = settings

    def disable_compile(self) -> None:
        """Run the blocks of the UNet as they are again."""
        from animatediff.pipelines.compiled import as_they_are

        if self.compile_settings is not None:
            as_they_are(uncompiled(self.unet))
        self.compile_settings = None

    def _set(self, settings: dict[str, Any]) -> None:
        for name, value in settings.items():
            if name not in NEEDS:
                raise UserError(f"`{name}` is not supported; leave it at its default")
            if name in RANGES:
                RANGES[name].check(name, value)
        self.call_settings |= settings

    def _unset(self, names: tuple[str, ...]) -> None:
        for name in names:
            self.call_settings.pop(name, None)
