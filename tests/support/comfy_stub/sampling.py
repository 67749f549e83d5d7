"""`comfy.model_base`, `comfy.model_sampling`, `comfy.samplers` and `comfy.controlnet`: from noise to latents."""

from __future__ import annotations

import math
from enum import Enum
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from support.comfy_stub.network import UNetModel
from support.comfy_stub.patcher import (
    WrapperExecutor,
    WrappersMP,
    copy_nested_dicts,
    get_all_wrappers,
    load_models_gpu,
)


class EPS:
    def calculate_denoised(self, sigma: Tensor, output: Tensor, x: Tensor) -> Tensor:
        return x - output * sigma.view(-1, 1, 1, 1)


class V_PREDICTION(EPS):  # noqa: N801
    def calculate_denoised(self, sigma: Tensor, output: Tensor, x: Tensor) -> Tensor:
        sigma = sigma.view(-1, 1, 1, 1)
        return x / (sigma**2 + 1) - output * sigma / (sigma**2 + 1) ** 0.5


class ModelSamplingDiscrete(nn.Module):
    def __init__(self, model_config: Any = None, zsnr: bool | None = None) -> None:
        super().__init__()
        settings = getattr(model_config, "sampling_settings", {})
        start, end = settings.get("linear_start", 0.00085), settings.get("linear_end", 0.012)
        steps = {"dtype": torch.float64, "steps": settings.get("timesteps", 1000)}
        if settings.get("beta_schedule", "linear") == "linear":
            betas = torch.linspace(start**0.5, end**0.5, **steps) ** 2
        else:
            assert settings["beta_schedule"] == "sqrt_linear"
            betas = torch.linspace(start, end, **steps)
        self.zsnr = settings.get("zsnr", False) if zsnr is None else zsnr
        alphas = (1 - betas).cumprod(0)
        if self.zsnr:
            root = alphas.sqrt()
            alphas = ((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2
            alphas[-1] = 4.8973451890853435e-08
        self.set_sigmas(((1 - alphas) / alphas) ** 0.5)

    def set_sigmas(self, sigmas: Tensor) -> None:
        self.register_buffer("sigmas", sigmas.float())

    @property
    def sigma_max(self) -> Tensor:
        return self.sigmas[-1]

    def timestep(self, sigma: Tensor) -> Tensor:
        return (sigma.log() - self.sigmas.log()[:, None]).abs().argmin(dim=0).view(sigma.shape)

    def percent_to_sigma(self, percent: float) -> float:
        if percent <= 0 or percent >= 1:
            return 0.0 if percent >= 1 else 999999999.9
        place = (1 - percent) * 999
        low, logs = int(place), self.sigmas.log()
        return math.exp(float(torch.lerp(logs[low], logs[min(low + 1, 999)], place - low)))


class ModelSamplingDiscreteEDM(ModelSamplingDiscrete): ...


class LCM(EPS):
    """As in `comfy_extras.nodes_model_advanced`: the network predicts the end of its way."""


class ModelSamplingDiscreteDistilled(ModelSamplingDiscrete):
    original_timesteps = 50

    def __init__(self, model_config: Any = None, zsnr: bool | None = None) -> None:
        super().__init__(model_config, zsnr)
        self.skip_steps = len(self.sigmas) // self.original_timesteps
        self.set_sigmas(self.sigmas[self.skip_steps - 1 :: self.skip_steps].clone())


class ModelType(Enum):
    EPS = 1
    V_PREDICTION = 2


class LatentFormat:
    scale_factor = 0.18215


class Config:
    unet_config: ClassVar[dict[str, Any]] = {}
    unet_extra_config: ClassVar[dict[str, Any]] = {}
    latent_format: Any = LatentFormat

    def __init__(self, unet_config: dict[str, Any]) -> None:
        self.unet_config = {**unet_config, **self.unet_extra_config}
        self.sampling_settings: dict[str, Any] = {}

    def set_inference_dtype(self, dtype: torch.dtype, manual_cast_dtype: torch.dtype | None) -> None:
        self.dtype, self.manual_cast_dtype = dtype, manual_cast_dtype


class BaseModel(nn.Module):
    def __init__(self, config: Config, model_type: ModelType = ModelType.EPS) -> None:
        super().__init__()
        self.model_config, self.manual_cast_dtype = config, config.manual_cast_dtype
        self.current_patcher: Any = None
        unet = UNetModel(config.unet_config, config.dtype)
        self.diffusion_model = unet.to(config.dtype).eval().requires_grad_(False)
        prediction = EPS if model_type == ModelType.EPS else V_PREDICTION
        self.model_sampling = type("ModelSampling", (ModelSamplingDiscrete, prediction), {})(config)
        self.adm_channels = config.unet_config.get("adm_in_channels") or 0

    def get_dtype_inference(self) -> torch.dtype:
        return self.diffusion_model.dtype if self.manual_cast_dtype is None else self.manual_cast_dtype

    def process_latent_in(self, latent: Tensor) -> Tensor:
        return latent * self.model_config.latent_format.scale_factor

    def process_latent_out(self, latent: Tensor) -> Tensor:
        return latent / self.model_config.latent_format.scale_factor

    def apply_model(self, x: Tensor, t: Tensor, c_concat: Any = None, c_crossattn: Any = None, control: Any = None,
                    transformer_options: Any = None, **kwargs: Any) -> Tensor:  # fmt: skip
        options = transformer_options or {}
        execute = WrapperExecutor(self._apply_model, self, get_all_wrappers(WrappersMP.APPLY_MODEL, options))
        return execute(x, t, c_concat, c_crossattn, control, options, **kwargs)

    def _apply_model(
        self, x: Tensor, sigma: Tensor, _: Any, text: Tensor, control: Any, options: Any, **more: Any
    ) -> Tensor:
        dtype = self.get_dtype_inference()
        scaled = (x / (sigma.view(-1, 1, 1, 1) ** 2 + 1) ** 0.5).to(dtype)
        more = {name: value.to(dtype) for name, value in more.items()}
        steps = self.model_sampling.timestep(sigma).float()
        output = self.diffusion_model(
            scaled, steps, context=text.to(dtype), control=control, transformer_options=options, **more
        )
        return self.model_sampling.calculate_denoised(sigma, output.float(), x)


def common_upscale(samples: Tensor, width: int, height: int, upscale_method: str, crop: str) -> Tensor:
    return nn.functional.interpolate(samples, size=(height, width), mode="bilinear", antialias=True)


class ControlBase:
    def __init__(self) -> None:
        self.cond_hint_original: Any = None
        self.strength, self.timestep_percent_range = 1.0, (0.0, 1.0)
        self.timestep_range: Any = None
        self.vae: Any = None
        self.previous_controlnet: Any = None

    def set_cond_hint(
        self, cond_hint: Any, strength: float = 1.0, timestep_percent_range: Any = (0.0, 1.0), vae: Any = None
    ) -> Any:
        self.cond_hint_original, self.strength = cond_hint, strength
        self.timestep_percent_range = timestep_percent_range
        return self

    def set_previous_controlnet(self, controlnet: Any) -> Any:
        self.previous_controlnet = controlnet
        return self

    def pre_run(self, model: Any, percent_to_timestep_function: Any) -> None:
        self.timestep_range = tuple(map(percent_to_timestep_function, self.timestep_percent_range))
        if self.previous_controlnet is not None:
            self.previous_controlnet.pre_run(model, percent_to_timestep_function)

    def cleanup(self) -> None:
        self.timestep_range = None
        if self.previous_controlnet is not None:
            self.previous_controlnet.cleanup()

    def get_models(self) -> list[Any]:
        return [] if self.previous_controlnet is None else self.previous_controlnet.get_models()

    def copy_to(self, other: Any) -> None:
        other.strength, other.vae = self.strength, self.vae
        other.timestep_percent_range, other.cond_hint_original = self.timestep_percent_range, self.cond_hint_original

    def control_merge(self, control: Any, control_prev: Any, output_dtype: Any) -> Any:
        found = {name: [part * self.strength for part in parts] for name, parts in control.items()}
        for name, parts in (control_prev or {}).items():
            mine = found.get(name) or [0] * len(parts)
            found[name] = [one if other is None else one + other for one, other in zip(mine, parts, strict=True)]
        return found


class Guider:
    """A sampling with guidance: conditionings by name, each a list of dictionaries."""

    def __init__(self, patcher: Any, conds: dict[str, Any], cfg: float) -> None:
        self.model_patcher, self.cfg = patcher, cfg
        self.conds = {
            name: [{**settings, "cross_attn": text} for text, settings in cond] for name, cond in conds.items()
        }
        self.model_options = copy_nested_dicts(patcher.model_options)
        self.model_options["transformer_options"]["wrappers"] = copy_nested_dicts(patcher.wrappers)

    def sample(self, noise: Tensor, *args: Any) -> Tensor:
        wrappers = get_all_wrappers(WrappersMP.OUTER_SAMPLE, self.model_options["transformer_options"])
        return WrapperExecutor(self._outer_sample, self, wrappers)(noise, *args)

    @torch.no_grad()
    def _outer_sample(self, noise: Tensor, latent: Tensor, sigmas: Tensor, callback: Any) -> Tensor:
        patcher = self.model_patcher
        controls = list(dict.fromkeys(c["control"] for cond in self.conds.values() for c in cond if c.get("control")))
        more = [model for control in controls for model in control.get_models()]
        load_models_gpu([patcher, *more, *patcher.get_nested_additional_models()])
        model = patcher.model
        try:
            patcher.pre_run()
            for control in controls:
                control.pre_run(model, model.model_sampling.percent_to_sigma)
            at_most = float(sigmas[0]) * (1 + 1e-5) >= float(model.model_sampling.sigma_max)
            x = noise * ((1 + sigmas[0] ** 2) ** 0.5 if at_most else sigmas[0]) + latent
            for step in range(len(sigmas) - 1):
                denoised = self._denoised(model, x, sigmas[step])
                if callback is not None:
                    callback(step, denoised, x, len(sigmas) - 1)
                x = x + (x - denoised) / sigmas[step] * (sigmas[step + 1] - sigmas[step])
        finally:
            patcher.cleanup()
        for control in controls:
            control.cleanup()
        return model.process_latent_out(x)

    def _denoised(self, model: Any, x: Tensor, sigma: Tensor) -> Tensor:
        conds = [self.conds["positive"], self.conds["negative"]]
        handler, sigmas = self.model_options.get("context_handler"), sigma.expand(len(x))
        if handler is not None and handler.should_use_context(x):
            cond, uncond = handler.execute(calc_cond_batch, model, conds, x, sigmas, self.model_options)
        else:
            cond, uncond = calc_cond_batch(model, conds, x, sigmas, self.model_options)
        return uncond + (cond - uncond) * self.cfg


def calc_cond_batch(model: Any, conds: Any, x: Tensor, sigma: Tensor, model_options: dict[str, Any]) -> list[Tensor]:
    """The mean of each list of conditionings; all in one batch where there is the memory, the last one first."""
    todo = [(cond, index) for index, several in enumerate(conds) for cond in several][::-1]
    total, number = [torch.zeros_like(x) for _ in conds], [len(several) for several in conds]
    together = model.current_patcher.get_free_memory(x.device) > 0
    together = together and len({id(cond.get("control")) for cond, _ in todo}) == 1
    for part in [todo] if together else [[one] for one in todo]:
        texts = [cond["cross_attn"].expand(len(x), -1, -1) for cond, _ in part]
        options = copy_nested_dicts(model_options["transformer_options"])
        options |= {"cond_or_uncond": [index for _, index in part], "sigmas": sigma}
        c: dict[str, Any] = {"c_crossattn": torch.cat(texts), "transformer_options": options}
        if model.adm_channels:
            c["y"] = torch.cat([cond["pooled_output"].expand(len(x), -1) for cond, _ in part])
        whole, sigmas = x.repeat(len(part), 1, 1, 1), sigma.repeat(len(part))
        if (control := part[0][0].get("control")) is not None:
            c["control"] = control.get_control(whole, sigmas, c, len(part), options)
        found = model.apply_model(whole, sigmas, **c).chunk(len(part))
        for (_, index), one in zip(part, found, strict=True):
            total[index] += one / number[index]
    return total


def sampler_object(name: str) -> str:
    assert name in ("euler", "ddim"), "the stub has these samplers alone"
    return name


def sample_custom(model: Any, noise: Tensor, cfg: float, sampler: str, sigmas: Tensor, positive: Any, negative: Any,
                  latent_image: Tensor, callback: Any = None, **_: Any) -> Tensor:  # fmt: skip
    guider = Guider(model, {"positive": positive, "negative": negative}, cfg)
    return guider.sample(noise, latent_image, sigmas, callback)
