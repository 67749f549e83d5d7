"""What is put beside or into an image model: motion modules, SparseCtrl, ControlNets, IP-Adapters, embeddings."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from animatediff.errors import UserError
from animatediff.files import find
from animatediff.models.sparsectrl import SparseCtrl
from animatediff.pipelines.keywords import hub_settings
from animatediff.pipelines.parts import LoadedParts
from animatediff.weights.silence import quiet_loading
from animatediff.weights.storage.files import Header
from animatediff.weights.storage.memory import memory_header
from animatediff.weights.storage.paths import expanded
from animatediff.weights.trained_with import TRAINING_KEY, told, trained_with

if TYPE_CHECKING:
    from diffusers import ControlNetModel

    from animatediff.models.camera import CameraCtrl
    from animatediff.weights.families import Family

logger = logging.getLogger(__name__)

CAMERA_FAMILIES = ("v3", "bundled")
"""Families whose motion modules have a CameraCtrl model of their own."""


class Adapters(LoadedParts):
    """Networks of other files on an image model."""

    def load_motion_module(
        self, path: str | Path | Header, *, family: str | None = None, conv_in_from_file: bool | None = None
    ) -> Family:
        """Plug in motion weights of any family: a file, a diffusers folder, a hub id, "bundled". Returns what they are.

        The file's own keys and shapes say how it was trained; `family` overrides that. The noise schedule and, unless
        one was chosen, the sampler become those of the family. Motion modules that were there before are taken out.
        `conv_in_from_file`: PIA's first layer is wholly that of its file, which suits the image model that it was
        trained with; by default it is the image model's for the noisy latents. Raises UserError if it is another kind
        of file or made for another kind of base model.
        """
        from animatediff.bundled import motion_module_path
        from animatediff.weights.lora.few_steps import few_steps
        from animatediff.weights.motion import load_motion_module

        self._check_in_memory()
        path = motion_module_path() if path == "bundled" else _in_models(path, "Motion_Module")
        adapter, found = load_motion_module(
            path, family=family, unet=self.unet, dtype=self.unet.dtype, conv_in_from_file=conv_in_from_file
        )
        self.set_motion_adapter(adapter, found)
        if found.sampling:
            logger.info(
                "the motion module was trained with %s, which is used unless told otherwise", told(found.sampling)
            )
        if (wanted := few_steps(found.recommended)) is not None:
            logger.info("%s: made for few steps: takes %s, unless told otherwise", found.title, wanted)
        return found

    def load_sparsectrl(self, path: str | Path | Header) -> str:
        """Load a SparseCtrl encoder: a file, a diffusers folder, or a hub id. Returns its kind, `rgb` or `scribble`.

        "bundled/sparsectrl_rgb" is that of the bundled set. One that was there before is let go. Raises UserError for
        another kind of file, or an encoder of another base.
        """
        from animatediff.bundled import named
        from animatediff.weights.motion import find_header
        from animatediff.weights.sparsectrl import load_sparsectrl

        source = path if isinstance(path, Header) else _in_models(named(path), "SparseCtrl")
        header = find_header(source)
        self.set_sparsectrl(load_sparsectrl(header, unet=self.unet, dtype=self.unet.dtype))
        assert self.sparsectrl is not None
        self._trained_with("sparsectrl", trained_with(header))
        return self.sparsectrl.kind

    def load_camera_control(self, path: str | Path | Header) -> CameraCtrl:
        """Load a CameraCtrl model: the original's file, a pruned one, or one of ours. `camera` of a call is its poses.

        "bundled/camera_control" is that of the bundled set. One that was there before is let go. Raises UserError for
        another kind of file, and for one whose merge layers do not stand where the loaded motion modules do.
        """
        from animatediff.bundled import named
        from animatediff.weights.cameractrl import load_cameractrl
        from animatediff.weights.motion import find_header

        self._check_in_memory()
        if self.attachment is None:
            raise UserError("camera poses act on motion modules, and none are loaded; call load_motion_module first")
        layout = self.attachment.adapter.layout
        header = find_header(path if isinstance(path, Header) else _in_models(named(path), "CameraCtrl"))
        control = load_cameractrl(header, layout=layout, dtype=self.unet.dtype)
        self.set_camera_control(control)
        self._trained_with("camera_control", trained_with(header))
        is_published = TRAINING_KEY not in header.metadata
        if is_published and self.family is not None and self.family.name not in CAMERA_FAMILIES:
            logger.info(
                "the published CameraCtrl was trained on the motion modules of v3; with those of %s its moves may be "
                "weaker",
                self.family.title,
            )
        return control

    def unload_camera_control(self) -> None:
        """Let it go; calls take no `camera` then."""
        self.set_camera_control(None)

    def load_controlnet(self, path: str | Path) -> ControlNetModel:
        """Add a ControlNet: a diffusers folder, or a file in diffusers' names or the original's.

        Each call may give each of them frames to follow.
        Raises UserError for anything else, and for one of another base model.
        """
        from animatediff.weights.addons.controlnet import load_controlnet

        controlnet = load_controlnet(_in_models(path, "ControlNet"), unet=self.unet, dtype=self.unet.dtype)
        self.controlnets.append(controlnet.to(self.unet.device))
        return controlnet

    def unload_controlnets(self) -> None:
        """Let all of them go."""
        self.controlnets.clear()

    def load_ip_adapter_file(self, path: str | Path, *, image_encoder: str | Path | None = None) -> None:
        """Load an IP-Adapter file by diffusers' own loader, with the image encoder that lies beside it unless named.

        Its strength is set by `set_ip_adapter_scale`; `unload_ip_adapter` takes it out. Raises UserError for another
        kind of file, another base model's, or a missing image encoder.
        """
        from animatediff.weights.addons.ip_adapter import load_ip_adapter

        self._check_in_memory()
        load_ip_adapter(self.base, _in_models(path, "IP-Adapter"), self.unet, image_encoder)

    def load_ip_adapter(
        self,
        pretrained_model_name_or_path_or_dict: Any,
        subfolder: str | Sequence[str] = "",
        weight_name: str | Sequence[str] | None = None,
        image_encoder_folder: str | None = "image_encoder",
        **settings: Any,
    ) -> None:
        """Load one IP-Adapter or several, as diffusers does; a file alone is checked by `load_ip_adapter_file`.

        Raises UserError where diffusers cannot load it.
        """
        source: Any = pretrained_model_name_or_path_or_dict
        names: Any = weight_name
        folders: Any = subfolder
        base: Any = self.base
        self._check_in_memory()
        if isinstance(source, str | Path) and expanded(source).is_file():
            beside = {} if image_encoder_folder in (None, "image_encoder") else {"image_encoder": image_encoder_folder}
            return self.load_ip_adapter_file(source, **beside)
        if names is None:
            raise UserError("`weight_name` names the file of the IP-Adapter, such as 'ip-adapter_sd15.safetensors'")
        with quiet_loading():
            try:
                base.load_ip_adapter(source, folders, names, image_encoder_folder=image_encoder_folder, **settings)
            except (OSError, ValueError, KeyError, RuntimeError, TypeError, AttributeError) as error:
                reason = " ".join(str(error).split())[:200]
                raise UserError(f"{names}: cannot be loaded as an IP-Adapter of this model ({reason})") from error

    def set_ip_adapter_scale(self, scale: float | Mapping[str, Any] | Sequence[Any]) -> None:
        """Set the strength of the IP-Adapters: one for all, one each, or one for blocks (`{"up": {"block_0": 0.5}}`).

        Raises UserError where there is none, or the strengths do not fit them.
        """
        if getattr(self.unet, "encoder_hid_proj", None) is None:
            raise UserError("no IP-Adapter is loaded whose strength could be set; call `load_ip_adapter` first")
        try:
            self.base.set_ip_adapter_scale(scale)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise UserError(f"the strength of an IP-Adapter cannot be {scale!r}: {error}") from error

    def load_textual_inversion(
        self,
        path: Any,
        token: str | Sequence[str] | None = None,
        tokenizer: Any = None,
        text_encoder: Any = None,
        *,
        name: str | None = None,
        weight_name: str | None = None,
        subfolder: str | None = None,
        **settings: Any,
    ) -> str:
        """Add the word of a textual inversion (A1111 or diffusers); returns it, to be used in prompts.

        `path`: a file, a folder or hub id, where `weight_name` and `subfolder` name the file, or tensors with their
        `name`; or a list of these, with a list of words. The name of a file is accepted as its word too; several words
        are returned with spaces between. `tokenizer` and `text_encoder`: the one pair that learns it, of the two of
        SDXL. Raises UserError for another kind of file, another base model's, or a word that is known already.
        """
        from animatediff.weights.addons.embeddings import load_embedding
        from animatediff.weights.hub import located_file

        if isinstance(path, list | tuple):
            tokens = [token] * len(path) if token is None or isinstance(token, str) else list(token)
            if len(tokens) != len(path) or (isinstance(token, str) and len(path) > 1):
                raise UserError(f"{len(path)} embeddings want {len(path)} words as `token`, got {token!r}")
            pairs = {"tokenizer": tokenizer, "text_encoder": text_encoder, "name": name}
            place = {"weight_name": weight_name, "subfolder": subfolder}
            found = [
                self.load_textual_inversion(*one, **pairs, **place, **settings)
                for one in zip(path, tokens, strict=True)
            ]
            return " ".join(found)
        if not isinstance(token, str | None):
            raise UserError(f"one embedding has one word as `token`, got {token!r}")
        hub = hub_settings(settings, "load_textual_inversion")
        if isinstance(path, torch.Tensor):
            path = {token or name or "": path}
        if not isinstance(path, Mapping):
            path = located_file(path, weight_name=weight_name, subfolder=subfolder, **hub)
        encoders = self.text_encoders if text_encoder is None else [text_encoder]
        tokenizers = self._tokenizers if tokenizer is None else [tokenizer]
        if len(encoders) != len(tokenizers):
            raise UserError("`tokenizer` and `text_encoder` go together; give both, or none")
        loaded = load_embedding(path, tokenizers=tokenizers, text_encoders=encoders, token=token, name=name)
        self.embeddings.extend(loaded.all)
        return " ".join(embedding.token for embedding in loaded.all)

    def _add_controlnets(self, given: Any) -> None:
        """Take ControlNets, or a SparseCtrl encoder, in any form: paths, objects, lists of them."""
        if given is None:
            return
        for one in given if isinstance(given, list | tuple) else getattr(given, "nets", [given]):
            if isinstance(one, SparseCtrl):
                self.set_sparsectrl(one)
            elif isinstance(one, str | Path):
                self.load_controlnet(one)
            elif type(one).__name__ == "SparseControlNetModel":
                config = {**one.config, "_class_name": type(one).__name__}
                name = config.get("_name_or_path") or type(one).__name__
                self.load_sparsectrl(memory_header(one.state_dict(), str(name), config=config))
            elif type(one).__name__ == "ControlNetModel":
                self.controlnets.append(one.to(self.unet.device, self.unet.dtype))
            else:
                raise UserError(
                    f"`controlnet` is a {type(one).__name__}; give a ControlNetModel, a SparseControlNetModel, a file "
                    "or a folder, or a list of these"
                )

    def _load_networks_of(self, folder: Path, index: Mapping[str, Any]) -> None:
        """Load the ControlNets, the SparseCtrl encoder and the CameraCtrl model in the folder of a whole pipeline.

        A CameraCtrl model is left out, and said, where no motion modules are loaded for it.
        """
        stated, ours = index.get("controlnet"), index.get("_animatediff") or {}
        if place := ours.get("camera_control"):
            if self.attachment is None:
                logger.warning("%s: its CameraCtrl model is left out, as it acts on motion modules", folder)
            else:
                self.load_camera_control(folder / place)
        if place := ours.get("sparsectrl"):
            self.load_sparsectrl(folder / place)
        if not isinstance(stated, list) or stated[-1] is None:
            return
        first = folder / "controlnet"
        if stated[-1] == "SparseControlNetModel":
            self.load_sparsectrl(first)
            return
        self.load_controlnet(first)
        number = 1
        while (more := folder / f"controlnet_{number}").is_dir():
            self.load_controlnet(more)
            number += 1


def _in_models(path: Any, kind: str) -> Any:
    """The file of that name in the folder `kind` of models/ where a name alone is given; else `path` itself."""
    return find(path, (), kind) if isinstance(path, str) and not expanded(path).exists() else path
