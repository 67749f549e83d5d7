"""Prompt travel as the host's CONDITIONING: one row for each frame, which its samplers and context windows slice."""

# pyright: reportMissingImports=false

from __future__ import annotations

from typing import Any

import torch
from comfy_api.latest import io

from animatediff.errors import UserError
from animatediff.limits import MAX_FRAMES
from animatediff.prompts.lines import read_travel
from animatediff.prompts.travel import DEFAULT_HOLD, INTERPOLATIONS, Blend, PromptTravel, joined
from animatediff.prompts.travel_states import FrameStates

from ..messages import OF_FIELDS, in_host_words
from ..windows import TRAVEL_FRAMES

EXAMPLE = "0: a meadow in spring, flowers\n8: a meadow in summer, high grass\n"


class PromptTravelNode(io.ComfyNode):
    """Texts at frames -> CONDITIONING with a row for each frame."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node to the host."""
        return io.Schema(
            node_id="AnimateDiffPromptTravel",
            display_name="AnimateDiff Prompt Travel",
            category="AnimateDiff",
            description="Prompts that change along the clip: a text at a frame holds, then blends to the next one.",
            search_aliases=["prompt schedule", "batch prompt schedule", "prompt travel", "FizzNodes"],
            inputs=[
                io.Clip.Input("clip"),
                io.String.Input(
                    "text",
                    multiline=True,
                    default=EXAMPLE,
                    tooltip='Lines `FRAME: text`, or "FRAME": "text" as JSON. Lines above the first frame stand before '
                    "every text, lines below the last one behind it. Frames count from 0.",
                ),
                io.Int.Input(
                    "num_frames", default=16, min=1, max=MAX_FRAMES.value, tooltip="Frames of the clip: the batch size."
                ),
                io.Latent.Input("latent", optional=True, tooltip="Counts the frames in place of num_frames."),
                io.Combo.Input(
                    "interpolation",
                    options=list(INTERPOLATIONS),
                    default=INTERPOLATIONS[0],
                    optional=True,
                    advanced=True,
                    tooltip="linear, or slerp: along the arc.",
                ),
                io.Float.Input(
                    "hold",
                    default=DEFAULT_HOLD,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    optional=True,
                    advanced=True,
                    tooltip="Share of each stretch that holds its text before it blends to the next one.",
                ),
                io.Boolean.Input(
                    "loop",
                    default=False,
                    optional=True,
                    advanced=True,
                    tooltip="Blend the last text back to the first.",
                ),
                io.String.Input("head", default="", optional=True, advanced=True, tooltip="Stands before every text."),
                io.String.Input("tail", default="", optional=True, advanced=True, tooltip="Stands behind every text."),
            ],
            outputs=[io.Conditioning.Output()],
        )

    @classmethod
    def execute(cls, clip: Any, text: str, num_frames: int, latent: Any = None, **how: Any) -> io.NodeOutput:
        """Encode each distinct text once and blend them frame by frame."""
        frames = num_frames if latent is None else latent["samples"].shape[0]
        with in_host_words(OF_FIELDS):
            return io.NodeOutput(travel_conditioning(clip, travel_of(text, **how), frames))


def travel_of(
    text: str,
    interpolation: str = INTERPOLATIONS[0],
    hold: float = DEFAULT_HOLD,
    loop: bool = False,
    head: str = "",
    tail: str = "",
) -> PromptTravel:
    """The travel that the fields of the node say. Raises UserError for what cannot be read."""
    found = read_travel(text)
    return PromptTravel(
        found.texts,
        head=joined(head, found.head, "") if head.strip() else found.head,
        tail=joined("", found.tail, tail) if tail.strip() else found.tail,
        interpolation=interpolation,
        hold=hold,
        loop=loop,
    )


def travel_conditioning(clip: Any, travel: PromptTravel, num_frames: int) -> list[list[Any]]:
    """The host's conditioning of a travel: prompt embeddings (f, n, d), and pooled ones (f, d) beside them.

    clip: the host's CLIP. Each distinct text is encoded once, all at the length of the longest. Where LoRAs of the text
    encoder change along the steps, the host gives several entries for a text, which are blended one by one.
    """
    blends = travel.blends(num_frames)
    texts = list(dict.fromkeys(text for blend in blends for text in (blend.first, blend.second)))
    encoded = [clip.encode_from_tokens_scheduled(tokens) for tokens in _tokens(clip, texts)]
    arc = travel.interpolation == "slerp"
    return [_blended(entries, blends, texts, arc) for entries in zip(*encoded, strict=True)]


def _tokens(clip: Any, texts: list[str]) -> list[dict[str, Any]]:
    """Tokens of each text, filled up with chunks of no words to the length of the longest."""
    found = [clip.tokenize(text) for text in texts]
    empty = clip.tokenize("")
    for name, (nothing, *_) in empty.items():
        length = max(len(tokens[name]) for tokens in found)
        for tokens in found:
            tokens[name] = [*tokens[name], *[nothing] * (length - len(tokens[name]))]
    return found


def _blended(entries: tuple[Any, ...], blends: list[Blend], texts: list[str], arc: bool) -> list[Any]:
    """One entry of a conditioning from those of all texts; what is no tensor is that of the first text."""
    states, others = entries[0][0], {**entries[0][1], TRAVEL_FRAMES: len(blends)}
    if any(entry[0].shape != states.shape for entry in entries):
        raise UserError("this text encoder gives embeddings whose length depends on the text; they do not travel")
    first = torch.tensor([[texts.index(blend.first) for blend in blends]])
    second = torch.tensor([[texts.index(blend.second) for blend in blends]])
    share = torch.tensor([[blend.share for blend in blends]])

    def by_frame(values: list[torch.Tensor]) -> torch.Tensor:
        return FrameStates(torch.cat(values), first, second, share, [arc])(range(len(blends)))

    if others.get("pooled_output") is not None:
        others["pooled_output"] = by_frame([entry[1]["pooled_output"] for entry in entries])
    return [by_frame([entry[0] for entry in entries]), others]


NODES = [PromptTravelNode]
