"""ControlNets (arXiv 2302.05543): an image for each frame, or for some frames and their neighbours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from animatediff.errors import UserError
from animatediff.pipelines.arguments import Arguments
from animatediff.pipelines.clip import ClipShape
from animatediff.pipelines.conditions.base import Condition, Prepared, Setting
from animatediff.sampling.controlnet import ControlNetControl, ControlNetInput, controlnet_images, frame_weights

if TYPE_CHECKING:
    from diffusers import ControlNetModel
    from typing_extensions import Self


@dataclass(frozen=True, kw_only=True)
class ControlNetCondition(Condition):
    """A loaded ControlNet and its input."""

    controlnet: ControlNetModel
    given: ControlNetInput
    loop: bool
    """Whether the first frame follows the last."""
    guess: bool = False
    by_frames: bool = False
    """Whether its images are the call's `conditioning_frames`."""
    each: int = 1
    """Clips of each prompt."""
    images: Tensor | None = None
    """(1 or b, 3, n, H, W) in 0..1; set when fitted."""
    weights: Tensor | None = None
    """(n, f) where images are at some frames: how strongly each acts on each frame; set when fitted."""

    @classmethod
    def all_of(
        cls, call: Arguments, controlnets: Sequence[Any], *, sparsectrl: bool = False
    ) -> list[ControlNetCondition]:
        """A condition for each loaded ControlNet; none where the call has no inputs for them.

        sparsectrl: an encoder is loaded, which takes the `conditioning_frames`. Raises UserError where there are not
        as many inputs as ControlNets.
        """
        if call.conditioning_frames is not None and not sparsectrl and controlnets:
            if call.controlnet_inputs is not None:
                raise UserError("`conditioning_frames` and `controlnet_inputs` are given; give one of the two")
            given, by_frames = _by_frames(call, len(controlnets)), True
        elif call.controlnet_inputs is None:
            return []
        else:
            given, by_frames = call.controlnet_inputs, False
        given = [given] if isinstance(given, ControlNetInput) else list(given)
        if len(given) != len(controlnets):
            raise UserError(
                f"{len(controlnets)} ControlNets are loaded, and controlnet_inputs has {len(given)} entries; give one "
                "for each, in the order of load_controlnet"
            )
        return [
            cls(
                controlnet=controlnet,
                given=one,
                loop=call.closed_loop,
                guess=call.guess_mode,
                by_frames=by_frames,
                each=call.num_videos_per_prompt or 1,
            )
            for controlnet, one in zip(controlnets, given, strict=True)
        ]

    def fitted(self, clip: ClipShape) -> Self:
        images = controlnet_images(self.controlnet, self.given, clip.latents, self.each)
        return replace(self, images=images, weights=frame_weights(self.given, clip.num_frames, loop=self.loop))

    def networks(self) -> Sequence[nn.Module]:
        return (self.controlnet,)

    def prepare(self, setting: Setting) -> Prepared:
        assert self.images is not None, "fitted before"
        control = ControlNetControl(
            controlnet=self.controlnet,
            images=self.images,
            weights=self.weights,
            scale=float(self.given.scale),
            # as in diffusers: conditions pooled over the image (shuffle) act on prompts alone
            spares_negatives=setting.guidance and bool(self.controlnet.config.get("global_pool_conditions")),
            active=setting.schedule.between(self.given.start, self.given.end),
            guess=self.guess,
        )
        return Prepared(controls=(control,))


def _by_frames(call: Arguments, count: int) -> list[ControlNetInput]:
    """`conditioning_frames` as inputs of so many ControlNets: for several a list with an entry each."""
    frames = call.conditioning_frames
    if count > 1 and not (isinstance(frames, list | tuple) and len(frames) == count):
        raise UserError(
            f"{count} ControlNets are loaded, and `conditioning_frames` is then a list of {count}, the frames of each"
        )
    each = list(frames) if count > 1 else [frames]
    acts = acting(call, count, f"{count} ControlNets" if count > 1 else "one ControlNet")
    return [
        ControlNetInput(frames=one, scale=scale, start=start, end=end)
        for one, (start, end, scale) in zip(each, acts, strict=True)
    ]


def acting(call: Arguments, count: int, what: str) -> list[tuple[float, float, float]]:
    """From where to where `conditioning_frames` act, and how strongly: (start, end, scale) for each of so many.

    Raises UserError for lists of another length, and a start behind the end.
    """

    def each(name: str, otherwise: float = 1.0) -> list[float]:
        value: Any = getattr(call, name)
        value = otherwise if value is None else value
        values = list(value) if isinstance(value, list | tuple) else [value] * count
        if len(values) != count:
            raise UserError(f"`{name}` has {len(values)} values for {what}; give {count}, or one number")
        return [float(one) for one in values]

    found = []
    for name, former, usual in (("start", "control_start", 0.0), ("end", "control_end", 1.0)):
        new = f"control_guidance_{name}"
        if getattr(call, new) is not None and getattr(call, former) != usual:
            raise UserError(f"`{new}` and `{former}` are one setting; give one of the two")
        found.append(each(new, getattr(call, former)))
    for start, end in zip(*found, strict=True):
        if start > end:
            raise UserError(
                f"control_start and control_end are fractions of the steps, 0 <= start <= end <= 1; got {start}, {end}"
            )
    return list(zip(*found, each("controlnet_conditioning_scale"), strict=True))
