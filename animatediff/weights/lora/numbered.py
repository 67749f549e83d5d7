"""LoRAs of 2022 (cloneofsimo/lora), whose tensors have numbers for names: in the order of the layers of the model.

A .safetensors file has `unet:0:up`, with the embeddings of words beside them; a .pt file is a list, `up` and `down` by
turns. The order is that of `model.modules()`: down path, up path, mid block; in a block attentions, then ResNet blocks;
in a transformer block the feed-forward layer between the attentions (diffusers until 0.10) or after both. The shapes
tell which it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from animatediff.errors import UserError
from animatediff.weights.storage.files import Header, TensorInfo

NUMBERED = re.compile(r"^(?P<place>unet|text_encoder|text_encoder_2):(?P<index>\d+):(?P<side>up|down)$")
EMBEDDING = "<embed>"
"""Metadata of a tensor that is the embedding of the word that is its name."""
_LEVELS = (4, 3, 2, 5)
"""Resolutions of a UNet: four in all Stable Diffusion 1.x and 2.x; others for small models."""


class _Layer(NamedTuple):
    path: str
    kind: str
    """Kind of layer: `q`, `k`, `v`, `out`, `ff`, or `conv`, `shortcut`, `time` in a ResNet block."""


def is_numbered(keys: Mapping[str, object] | Sequence[str]) -> bool:
    """Whether a file with these keys is a LoRA of this kind."""
    keys = list(keys)
    numbers = len(keys) >= 2 and len(keys) % 2 == 0 and keys == [str(index) for index in range(len(keys))]
    return numbers or any(NUMBERED.match(key) for key in keys)


def with_names(header: Header) -> Header:
    """The header of such a LoRA with the names of its layers; any other as it is.

    Raises UserError where the shapes are those of no Stable Diffusion 1.x or 2.x.
    """
    if not is_numbered(header.tensors):
        return header
    if not any(NUMBERED.match(key) for key in header.tensors):
        infos = list(header.tensors.values())
        return _of_pairs(header, {"": list(zip(infos[::2], infos[1::2], strict=True))}, {})
    halves: dict[str, dict[int, dict[str, TensorInfo]]] = {}
    rest = {}
    for key, info in header.tensors.items():
        if found := NUMBERED.match(key):
            halves.setdefault(found["place"], {}).setdefault(int(found["index"]), {})[found["side"]] = info
        elif header.metadata.get(key) == EMBEDDING and len(info.shape) in (1, 2):
            rows = info.shape if len(info.shape) == 2 else (1, *info.shape)
            rest[f"bundle_emb.{key}.string_to_param.*"] = replace(info, shape=rows)
        else:
            rest[key] = info
    pairs = {}
    for place, found in halves.items():
        if sorted(found) != list(range(len(found))) or any(len(sides) != 2 for sides in found.values()):
            raise UserError(f"{header.path}: the pairs of {place} are not numbered from 0 without a gap; is it whole?")
        pairs[place] = [(found[index]["up"], found[index]["down"]) for index in range(len(found))]
    return _of_pairs(header, pairs, rest)


def _of_pairs(
    header: Header, pairs: Mapping[str, list[tuple[TensorInfo, TensorInfo]]], rest: dict[str, TensorInfo]
) -> Header:
    tensors = {}
    for place, halves in pairs.items():
        shapes = [(up.shape, down.shape) for up, down in halves]
        if any(len(up) not in (2, 4) or len(down) != len(up) or up[1] != down[0] for up, down in shapes):
            raise UserError(f"{header.path}: a list of tensors that are no pairs of `up` and `down`; no LoRA")
        found = None
        if place != "unet":
            found = text_layers(shapes)
        if found is None and place in ("unet", ""):
            found = unet_layers(shapes)
            place = "unet"
        if found is None:
            raise UserError(
                f"{header.path}: a LoRA without names (cloneofsimo), whose {len(shapes)} pairs fit the order of layers "
                "of no Stable Diffusion 1.x or 2.x; convert it with the program that made it"
            )
        for path, (up, down) in zip(found, halves, strict=True):
            stem = f"{place or 'text_encoder'}.{path}"
            tensors |= {f"{stem}.lora_A.weight": down, f"{stem}.lora_B.weight": up}
    return replace(header, tensors={**tensors, **rest})


Shapes = Sequence[tuple[tuple[int, ...], tuple[int, ...]]]
"""Shapes of `up` and `down`, layer by layer."""


def text_layers(shapes: Shapes) -> list[str] | None:
    """Paths of the layers of a CLIP text encoder: all attentions, in its order k, v, q, out; None for other shapes."""
    width = shapes[0][0][0]
    if len(shapes) % 4 or any((up[0], *down[1:]) != (width, width) for up, down in shapes):
        return None
    return [
        f"text_model.encoder.layers.{index}.self_attn.{name}_proj"
        for index in range(len(shapes) // 4)
        for name in ("k", "v", "q", "out")
    ]


def unet_layers(shapes: Shapes) -> list[str] | None:
    """Paths of the layers of a Stable Diffusion 1.x or 2.x UNet, in the order of the pairs; None if they fit none."""
    for resnets in (False, True):
        for levels in _LEVELS:
            for depth in (2, 1, 3):
                for feed_forward_last in (False, True):
                    layers = _unet_order(levels, depth, resnets=resnets, feed_forward_last=feed_forward_last)
                    if (paths := _fitted(layers, shapes)) is not None:
                        return paths
    return None


def _unet_order(levels: int, depth: int, *, resnets: bool, feed_forward_last: bool) -> Iterator[_Layer]:
    blocks = [(f"down_blocks.{level}", depth, depth, level < levels - 1) for level in range(levels)]
    blocks += [(f"up_blocks.{level}", depth + 1, depth + 1, level > 0) for level in range(levels)]
    blocks.append(("mid_block", 1, 2, True))
    for block, num_attentions, num_resnets, has_attentions in blocks:
        for index in range(num_attentions if has_attentions else 0):
            stem = f"{block}.attentions.{index}.transformer_blocks.0"
            first, second = (
                [_Layer(f"{stem}.attn{number}.{name}", name.removeprefix("to_").removesuffix(".0"))
                 for name in ("to_q", "to_k", "to_v", "to_out.0")]
                for number in (1, 2)
            )  # fmt: skip
            feed_forward = [_Layer(f"{stem}.ff.net.0.proj", "ff")]
            yield from (first + second + feed_forward) if feed_forward_last else (first + feed_forward + second)
        for index in range(num_resnets if resnets else 0):
            stem = f"{block}.resnets.{index}"
            yield from (_Layer(f"{stem}.conv1", "conv"), _Layer(f"{stem}.time_emb_proj", "time"))
            yield from (_Layer(f"{stem}.conv2", "conv"), _Layer(f"{stem}.conv_shortcut", "shortcut"))


def _fitted(layers: Iterator[_Layer], shapes: Shapes) -> list[str] | None:
    """The paths of these layers if the shapes are theirs; a ResNet block has a shortcut where its width changes."""
    paths: list[str] = []
    width = 0
    for path, kind in layers:
        if len(paths) == len(shapes):
            if kind != "shortcut":
                return None
            continue
        up, down = shapes[len(paths)]
        outputs, inputs, kernel = up[0], down[1], down[2:]
        if kind == "shortcut" and kernel != (1, 1):
            continue
        if kind == "q":
            width = outputs
        fits = {
            "q": inputs == width and not kernel,
            "k": outputs == width and not kernel,
            "v": outputs == width and not kernel,
            "out": (outputs, inputs) == (width, width) and not kernel,
            "ff": (outputs, inputs) == (8 * width, width) and not kernel,
            "conv": kernel == (3, 3),
            "time": not kernel and outputs != inputs,
            "shortcut": True,
        }[kind]
        if not fits or (kind in ("k", "v") and ".attn1." in path and inputs != width):
            return None
        paths.append(path)
    return paths if len(paths) == len(shapes) else None
