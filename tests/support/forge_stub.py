"""What of Forge Neo and reForge a backend of the extension touches, in their names and with their order of calls.

Written from their code (reForge 3b56b268: `ldm_patched/`, `modules_forge/unet_patcher.py`; Neo: `backend/nn/unet.py`,
`backend/patcher/unet.py`, `backend/modules/k_prediction.py`), for tests where no such host runs.
"""

from __future__ import annotations

import copy
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

WIDTH, TIME, CONTEXT = 32, 16, 8


class ResBlock(nn.Module):
    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.channels, self.out_channels, self.updown = width, out, False
        self.in_layers = nn.Sequential(nn.GroupNorm(32, width), nn.SiLU(), nn.Conv2d(width, out, 3, padding=1))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(TIME, out))
        self.out_layers = nn.Sequential(nn.GroupNorm(32, out), nn.SiLU(), nn.Conv2d(out, out, 3, padding=1))
        self.skip_connection = nn.Identity() if width == out else nn.Conv2d(width, out, 1)

    def forward(self, x: Tensor, emb: Tensor, options: dict[str, Any]) -> Tensor:
        wrapper = options.get("group_norm_wrapper", lambda norm, h, options: norm(h))
        h = self.in_layers[1:](wrapper(self.in_layers[0], x, options)) + self.emb_layers(emb)[:, :, None, None]
        return self.skip_connection(x) + self.out_layers[1:](wrapper(self.out_layers[0], h, options))


class SpatialTransformer(nn.Module):
    """Of its attention to the text nothing is left but that each image has its own."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.in_channels = width
        self.norm = nn.GroupNorm(32, width, eps=1e-6)
        self.transformer_blocks = nn.ModuleList([nn.Linear(CONTEXT, width)])

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        text = self.transformer_blocks[0](context.mean(1))
        return x + self.norm(x) * text[:, :, None, None]


class Downsample(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.op = nn.Conv2d(width, width, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.op(x)


class Upsample(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0))


class Block(nn.Sequential):
    """`TimestepEmbedSequential`: each layer gets what it takes."""

    def forward(self, x: Tensor, emb: Tensor, context: Tensor, options: dict[str, Any]) -> Tensor:  # type: ignore[override]
        for layer in self:
            if isinstance(layer, ResBlock):
                x = layer(x, emb, options)
            else:
                x = layer(x, context) if isinstance(layer, SpatialTransformer) else layer(x)
        return x


class UNet(nn.Module):
    """Two levels of one ResNet, transformers on the first."""

    def __init__(self) -> None:
        super().__init__()
        width = WIDTH
        self.dtype = torch.float32
        self.input_blocks = nn.ModuleList(
            [
                Block(nn.Conv2d(4, width, 3, padding=1)),
                Block(ResBlock(width, width), SpatialTransformer(width)),
                Block(Downsample(width)),
                Block(ResBlock(width, 2 * width)),
            ]
        )
        self.middle_block = Block(ResBlock(2 * width, 2 * width), SpatialTransformer(2 * width),
                                  ResBlock(2 * width, 2 * width))  # fmt: skip
        self.output_blocks = nn.ModuleList(
            [
                Block(ResBlock(4 * width, 2 * width)),
                Block(ResBlock(3 * width, 2 * width), Upsample(2 * width)),
                Block(ResBlock(3 * width, width), SpatialTransformer(width)),
                Block(ResBlock(2 * width, width), SpatialTransformer(width)),
            ]
        )
        self.out = nn.Sequential(nn.GroupNorm(32, width), nn.SiLU(), nn.Conv2d(width, 4, 3, padding=1))
        self.seen: list[dict[str, Any]] = []

    def forward(self, x: Tensor, timesteps: Tensor, context: Tensor, control: dict[str, list[Any]] | None = None,
                transformer_options: dict[str, Any] | None = None, **kwargs: Any) -> Tensor:  # fmt: skip
        options = transformer_options or {}
        self.seen.append({"rows": len(x), **options})
        emb = (timesteps[:, None] / 1000) * torch.arange(1, TIME + 1)
        skips, h = [], x
        for block in self.input_blocks:
            h = block(h, emb, context, options)
            if control and control.get("input"):
                h = h + control["input"].pop()  # hosts empty the lists that they are given
            skips.append(h)
        h = self.middle_block(h, emb, context, options)
        for block in self.output_blocks:
            h = block(torch.cat([h, skips.pop()], dim=1), emb, context, options)
        return self.out(h)


class Predictor(nn.Module):
    """`ModelSamplingDiscrete` of reForge, `Prediction` of Neo."""

    sigmas: Tensor
    log_sigmas: Tensor

    def __init__(self) -> None:
        super().__init__()
        betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
        alphas_cumprod = torch.cumprod(1 - betas, dim=0)
        self.set_sigmas(((1 - alphas_cumprod) / alphas_cumprod) ** 0.5)

    def set_sigmas(self, sigmas: Tensor) -> None:
        self.register_buffer("sigmas", sigmas.float())
        self.register_buffer("log_sigmas", sigmas.log().float())


class Model(nn.Module):
    """`BaseModel` of reForge and `KModel` of Neo in one: `model_sampling` and `predictor` are the same object."""

    def __init__(self, diffusion_model: nn.Module) -> None:
        super().__init__()
        self.diffusion_model = diffusion_model
        self.model_sampling = self.predictor = Predictor()
        self.manual_cast_dtype: torch.dtype | None = None
        self.storage_dtype = self.computation_dtype = torch.float32

    def get_dtype(self) -> torch.dtype:
        return self.storage_dtype


class Patcher:
    """`UnetPatcher`: a clone shares the model and has options of its own."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.model_options: dict[str, Any] = {"transformer_options": {}}
        self.extra_model_patchers_during_sampling: list[Patcher] = []
        self.unloaded = False

    def clone(self) -> Patcher:
        new = type(self)(self.model)
        new.model_options = copy.deepcopy(self.model_options)
        new.extra_model_patchers_during_sampling = self.extra_model_patchers_during_sampling.copy()
        return new

    def add_extra_torch_module_during_sampling(self, m: nn.Module, cast_to_unet_dtype: bool = True) -> Patcher:
        if cast_to_unet_dtype:
            m.to(self.model.diffusion_model.dtype)  # type: ignore[union-attr]
        vars(m)["device"] = torch.device("cpu")  # a host writes several such attributes
        self.extra_model_patchers_during_sampling.append(Patcher(m))
        return self.extra_model_patchers_during_sampling[-1]

    def memory_required(self, shape: list[int]) -> int:
        return shape[0]


class ReforgePatcher(Patcher):
    """With what reForge alone has."""

    def set_memory_peak_estimation_modifier(self, modifier: Any) -> None:
        self.model_options["memory_peak_estimation_modifier"] = modifier


class LoadedModel:
    def __init__(self, model: Patcher) -> None:
        self.model = model

    def model_unload(self) -> None:
        self.model.unloaded = True


class ForgeObjects:
    def __init__(self, unet: Patcher) -> None:
        self.unet = unet

    def shallow_copy(self) -> ForgeObjects:
        return ForgeObjects(self.unet)


class InterruptedException(BaseException):
    """Samplers end with it, and give what they have."""


class Host:
    """A host with a model loaded, and one generation `p` of it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
        torch.manual_seed(3)
        self.unet = UNet().eval()
        self.state = SimpleNamespace(interrupted=False, skipped=False)
        self.memory = ModuleType("memory")
        self.memory.current_loaded_models = []  # type: ignore[attr-defined]
        patcher = (ReforgePatcher if kind == "forge" else Patcher)(Model(self.unet))
        objects = ForgeObjects(patcher)
        self.sd_model = SimpleNamespace(forge_objects=objects, forge_objects_after_applying_lora=objects, is_sd1=True)
        if kind == "forge":
            self.sd_model.alphas_cumprod = 1 / (patcher.model.model_sampling.sigmas**2 + 1)  # type: ignore[union-attr]
        self.p = SimpleNamespace(sd_model=self.sd_model, sampler_name="Euler", sampler=None)
        names = {
            "modules.shared": {"state": self.state, "opts": SimpleNamespace()},
            "modules.sd_samplers_common": {"InterruptedException": InterruptedException},
            "modules.sd_samplers": {"create_sampler": lambda name, model: (name, model.forge_objects)},
        }
        for name in ("modules", "ldm_patched", "ldm_patched.modules", "backend"):
            monkeypatch.setitem(sys.modules, name, ModuleType(name))
        for name, members in names.items():
            module = ModuleType(name)
            vars(module).update(members)
            monkeypatch.setitem(sys.modules, name, module)
        for name in ("ldm_patched.modules.model_management", "backend.memory_management"):
            monkeypatch.setitem(sys.modules, name, self.memory)

    @property
    def model(self) -> Model:
        """What all patchers share."""
        return self.sd_model.forge_objects.unet.model

    def prepare(self) -> None:
        """Before a pass a host begins anew from its own patcher, and loads what that names after the callbacks."""
        self.sd_model.forge_objects = self.sd_model.forge_objects_after_applying_lora.shallow_copy()

    def load(self) -> None:
        """`sampling_prepare`: load the models that the patcher names."""
        for patcher in self.sd_model.forge_objects.unet.extra_model_patchers_during_sampling:
            self.memory.current_loaded_models.append(LoadedModel(patcher))  # type: ignore[attr-defined]
