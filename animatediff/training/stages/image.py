"""Stage `image`: the image model itself, all of its UNet or a LoRA of it, which makes personalised models."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from animatediff.training.models import model_source
from animatediff.training.stages.base import Stage
from animatediff.training.stages.lora_weights import CONVOLUTIONS, IMAGE, LoRA
from animatediff.weights.base.unet import load_unet, save_image_model
from animatediff.weights.storage.files import save_tensors


class ImageStage(Stage):
    """All weights of the UNet, written in the layout of the base model: a single file, or a folder."""

    def build(self) -> dict[str, nn.Parameter]:
        self.source = model_source(self.config.model)
        self.file_name = "model.safetensors" if self.source.is_file() else "model"
        if self.config.start_from is not None:
            load_unet(self.pipe.unet, self.config.start_from)
        return dict(self.pipe.unet.float().named_parameters())

    def write(self, path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
        save_image_model(path, self.out_dtype(tensors), self.source, metadata=metadata, schedule=self.trained_with)


class ImageLoraStage(Stage):
    """A LoRA on the transformers of the UNet, and on its convolutions with `lora_convolutions`.

    Written in kohya's names or in diffusers'.
    """

    file_name = "lora.safetensors"

    def build(self) -> dict[str, nn.Parameter]:
        patterns = (IMAGE, CONVOLUTIONS) if self.config.lora_convolutions else (IMAGE,)
        self.lora = LoRA(self.pipe.unet, *patterns, config=self.config, kinds=("lora",))
        self.loaded = self.lora.trained_with
        return self.lora.parameters

    def write(self, path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
        if self.config.lora_format == "diffusers":
            save_tensors(path, self.out_dtype(self.lora.diffusers(tensors)), metadata)
            return
        state = self.lora.kohya(tensors)
        ranks = {tensor.shape[0] for key, tensor in state.items() if key.endswith(".lora_down.weight")}
        alphas = {float(tensor) for key, tensor in state.items() if key.endswith(".alpha")}
        # Metadata that kohya's own tools look for.
        words = {"ss_network_module": "networks.lora", "ss_network_dim": str(max(ranks))}
        words["ss_network_alpha"] = str(max(alphas))
        save_tensors(path, self.out_dtype(state), {**words, **metadata})
