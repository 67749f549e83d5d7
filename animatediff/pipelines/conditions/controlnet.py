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
from animatediff.sampling import active_timesteps
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
    images: Tensor | None = None
    """(1 or b, 3, n, H, W) in 0..1; set when fitted."""
    weights: Tensor | None = None
    """(n, f) where images are at some frames: how strongly each acts on each frame; set when fitted."""

    @classmethod
    def all_of(cls, call: Arguments, controlnets: Sequence[Any]) -> list[ControlNetCondition]:
        """A condition for each loaded ControlNet; none where the call has no inputs for them.

        Raises UserError where there are not as many inputs as ControlNets.
        """
        if call.controlnet_inputs is None:
            return []
        given = call.controlnet_inputs
        given = [given] if isinstance(given, ControlNetInput) else list(given)
        if len(given) != len(controlnets):
            raise UserError(
                f"{len(controlnets)} ControlNets are loaded, and controlnet_inputs has {len(given)} entries; give one "
                "for each, in the order of load_controlnet"
            )
        return [
            cls(controlnet=controlnet, given=one, loop=call.closed_loop)
            for controlnet, one in zip(controlnets, given, strict=True)
        ]

    def fitted(self, clip: ClipShape) -> Self:
        images = controlnet_images(self.controlnet, self.given, clip.latents)
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
            active=active_timesteps(setting.timesteps, self.given.start, self.given.end),
        )
        return Prepared(controls=(control,))
