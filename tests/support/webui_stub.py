"""What of A1111 the extension touches, in its names and with its order of calls, for tests where no host runs.

Written from its code (f8fb74b9: `modules/processing.py`, `modules/prompt_parser.py`, `modules/sd_models.py`).
"""

from __future__ import annotations

import sys
from collections import namedtuple
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from support.forge_stub import CONTEXT, UNet

Scheduled = namedtuple("Scheduled", ["end_at_step", "cond"])
TOKENS = 4
SIDE = 8
"""Of latents and of images."""


class Conditioning(list):  # type: ignore[type-arg]
    def __init__(self, prompts: Any, width: int = 0, height: int = 0, is_negative_prompt: bool = False) -> None:
        super().__init__(prompts)


class Part:
    def __init__(self, schedules: list[Any], weight: float = 1.0) -> None:
        self.schedules, self.weight = schedules, weight


class Multicond:
    def __init__(self, shape: tuple[int, ...], batch: list[list[Part]]) -> None:
        self.shape, self.batch = shape, batch


def encoded(text: str) -> Tensor:
    """An embedding that says which text it is of."""
    generator = torch.Generator().manual_seed(sum(map(ord, text)) + len(text))
    return torch.randn(TOKENS, CONTEXT, generator=generator)


def learned(model: Any, prompts: Any, steps: int, hires: int | None = None, old: bool = False) -> list[list[Any]]:
    return [[Scheduled(steps, encoded(text))] for text in prompts]


def multicond(model: Any, prompts: Any, steps: int, hires: int | None = None, old: bool = False) -> Multicond:
    batch = [[Part(learned(model, [part], steps)[0]) for part in text.split(" AND ")] for text in prompts]
    return Multicond((len(prompts),), batch)


class Processing:
    """`StableDiffusionProcessingTxt2Img`, with one step that is the mean of what the UNet says."""

    def __init__(self, host: StubHost, prompt: str = "a hill", **given: Any) -> None:
        self.host, self.sd_model = host, host.sd_model
        self.prompt, self.negative_prompt = prompt, given.pop("negative_prompt", "fog")
        self.batch_size = self.n_iter = 1
        self.steps = self.firstpass_steps = 4
        self.width = self.height = SIDE
        self.seed, self.iteration, self.is_api, self.script_args = 5, 0, False, (0,)
        self.sampler_name, self.sampler, self.enable_hr = "Euler", None, False
        self.do_not_save_samples = self.do_not_save_grid = False
        self.outpath_samples = str(host.outputs)
        self.extra_generation_params: dict[str, Any] = {}
        self.extra_network_data: dict[str, Any] = {}
        self.comments: list[str] = []
        vars(self).update(given)

    def comment(self, text: str) -> None:
        self.comments.append(text)

    def setup_prompts(self) -> None:
        count = self.batch_size * self.n_iter
        self.all_prompts, self.all_negative_prompts = [self.prompt] * count, [self.negative_prompt] * count
        self.all_subseeds = None
        self.all_seeds = list(range(self.seed, self.seed + count))

    def init(self, all_prompts: Any, all_seeds: Any, all_subseeds: Any) -> None: ...

    def parse_extra_network_prompts(self) -> None:
        self.prompts = [prompt.replace("<lora:look:1>", "") for prompt in self.prompts]

    def get_conds_with_caching(self, function: Any, prompts: Any, steps: int, caches: Any, *rest: Any) -> Any:
        return function(self.sd_model, prompts, steps)

    def setup_conds(self) -> None:
        self.c = multicond(self.sd_model, self.prompts, self.steps)
        self.uc = learned(self.sd_model, self.negative_prompts, self.steps)

    def sample(self, **kwargs: Any) -> Tensor:
        if self.host.fault is not None:
            raise self.host.fault
        rows = 2 * self.batch_size
        noise = torch.randn(self.batch_size, 4, SIDE, SIDE, generator=torch.Generator().manual_seed(self.seed))
        conds = [parts[0].schedules[0].cond for parts in self.c.batch] + [entry[0].cond for entry in self.uc]
        self.host.seen.append(torch.stack(conds))
        alphas = self.sd_model.alphas_cumprod[500]
        with torch.no_grad():
            out = self.sd_model.model.diffusion_model(
                torch.cat([noise, noise]), torch.full((rows,), 500.0), context=torch.stack(conds)
            )
        return alphas * (out[: self.batch_size] - out[self.batch_size :])

    def process(self, script: Any) -> SimpleNamespace:
        """`process_images`: the script is what the host calls back."""
        script.before(self)
        self.setup_prompts()
        self.init(self.all_prompts, self.all_seeds, None)
        self.latents = []
        for iteration in range(self.n_iter):
            self.iteration = iteration
            place = slice(self.iteration * self.batch_size, (self.iteration + 1) * self.batch_size)
            self.prompts, self.negative_prompts = self.all_prompts[place], self.all_negative_prompts[place]
            self.parse_extra_network_prompts()
            self.setup_conds()
            self.latents.append(self.sample())
            for latents in self.latents[-1]:
                pixels = (latents[:3].movedim(0, -1).sigmoid() * 255).byte().numpy()
                script.frame(self, Image.fromarray(pixels))
        done = SimpleNamespace(images=["the host's own"], infotexts=["its text"], index_of_first_image=0, comments="")
        script.after(self, done)
        return done


class StubHost:
    """A host with a model loaded, folders of its own, and what was asked of its text encoder."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        torch.manual_seed(3)
        self.models, self.outputs = folder / "models", folder / "outputs"
        self.seen: list[Tensor] = []
        self.fault: Exception | None = None
        self.state = SimpleNamespace(interrupted=False, skipped=False)
        betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
        alphas = torch.cumprod(1 - betas, dim=0)
        self.sd_model = SimpleNamespace(
            model=SimpleNamespace(diffusion_model=UNet().eval()), is_sd1=True, alphas_cumprod=alphas,
            alphas_cumprod_original=alphas, cond_stage_model_empty_prompt=encoded("")[None],
        )  # fmt: skip
        self.opts = SimpleNamespace()
        names: dict[str, dict[str, Any]] = {
            "shared": {"opts": self.opts, "cmd_opts": SimpleNamespace(lora_dir=str(self.models / "Lora")),
                       "state": self.state, "sd_model": self.sd_model},
            "paths": {"models_path": str(self.models), "data_path": str(folder)},
            "prompt_parser": {"SdConditioning": Conditioning, "get_multicond_learned_conditioning": multicond,
                              "get_learned_conditioning": learned},
            "extra_networks": {"parse_prompts": lambda prompts: (list(prompts), {})},
            "processing": {"create_infotext": infotext},
            "sd_models": {"apply_alpha_schedule_override": lambda model, p: None},
            "sd_samplers": {"create_sampler": lambda name, model: (name, model.alphas_cumprod)},
        }  # fmt: skip
        monkeypatch.setitem(sys.modules, "modules", ModuleType("modules"))
        for name, members in names.items():
            module = ModuleType(f"modules.{name}")
            vars(module).update(members)
            monkeypatch.setitem(sys.modules, f"modules.{name}", module)

    @property
    def unet(self) -> UNet:
        return self.sd_model.model.diffusion_model


def infotext(p: Any, prompts: list[str], seeds: list[int], subseeds: Any, *, index: int, **kwargs: Any) -> str:
    entries = ", ".join(f'{name}: "{value}"' for name, value in p.extra_generation_params.items())
    return f"{prompts[index]}\nSeed: {seeds[index]}, {entries}"
