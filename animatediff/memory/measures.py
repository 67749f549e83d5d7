"""Measures against too little memory, from the cheapest to the dearest, and how far down each phase of a render is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

DEVICE, AWAY, MODEL, GROUP = "device", "away", "model", "group"
"""Where weights are: all on the device; text encoders and VAE there while they work; every model only while it works;
the UNet layer by layer."""


@dataclass(frozen=True, kw_only=True)
class Measures:
    """What is done so that a clip fits. None of them changes what is computed, but for tiles, and `fp8`, which
    rounds."""

    apart: bool = False
    """Whether prompts and negative prompts go through the UNet one after the other."""
    images: int | None = None
    """Images that the image layers of the UNet see at once; None is all of a call."""
    sequences: int | None = None
    """Sequences (latent pixels) that a motion module's transformer sees at once; None is all."""
    decode: int | None = None
    """Frames that the VAE decodes at once; None is as the call says."""
    tiles: bool = False
    """Whether the VAE takes frames in tiles."""
    weights: str = DEVICE
    fp8: bool = False
    """Whether the UNet's weights are stored in 8 bits, and computed with in the precision that they had."""

    def told(self) -> list[str]:
        """Each measure in words."""
        found = []
        if self.decode is not None:
            found.append(
                "the VAE takes one frame at a time" if self.decode == 1 else f"the VAE takes {self.decode} frames"
            )
        if self.tiles:
            found.append("the VAE takes frames in tiles")
        if self.apart:
            found.append("prompt and negative prompt one after the other")
        if self.images is not None:
            found.append(f"image layers take {self.images} images at a time")
        if self.sequences is not None:
            found.append(f"motion modules take {self.sequences:,} pixels at a time")
        words = {
            AWAY: "text encoder and VAE leave the device while others work",
            MODEL: "each model is on the device only while it works (model offload)",
            GROUP: "layers come to the device one by one (group offload)",
        }
        found += [words[self.weights]] if self.weights in words else []
        return [*found, *(["UNet weights stored in 8 bits (fp8)"] if self.fp8 else [])]

    @property
    def of_denoising(self) -> tuple[bool, int | None, int | None]:
        """Those that decide what a step takes."""
        return self.apart, self.images, self.sequences


DENOISING: tuple[Measures, ...] = (
    Measures(),
    Measures(apart=True),
    Measures(apart=True, images=8, sequences=2048),
    Measures(apart=True, images=2, sequences=1024),
    Measures(apart=True, images=1, sequences=256),
)
"""Levels of a step; each takes less memory than the one before, and about as much time."""
PLACES = (DEVICE, AWAY, MODEL, GROUP)
"""Levels of the weights."""


def denoising_from(given: Measures) -> list[Measures]:
    """The levels of a step from `given` on, which keep its other measures."""
    own = [
        replace(given, apart=one.apart, images=one.images, sequences=one.sequences)
        for one in DENOISING
        if _at_least(one, given)
    ]
    return own or [given]


def _at_least(one: Measures, other: Measures) -> bool:
    """Whether a level saves in every way as much as another."""

    def small(mine: int | None, theirs: int | None) -> bool:
        return theirs is None or (mine is not None and mine <= theirs)

    return (one.apart or not other.apart) and small(one.images, other.images) and small(one.sequences, other.sequences)


def decoding_from(given: Measures, chunk: int, *, fixed: bool = False, tiles: bool = True) -> list[Measures]:
    """The levels of decoding from `given` on: fewer frames at a time, and at last tiles.

    chunk: frames at a time as the call says; `fixed` where a user said so. tiles: whether they make a difference.
    """
    sizes: Sequence[int | None] = [None] if fixed else [None, *(size for size in (2, 1) if size < chunk)]
    found = [replace(given, decode=size) for size in sizes if given.decode is None or (size or chunk) <= given.decode]
    if tiles and not given.tiles:
        found.append(replace(found[-1] if found else given, tiles=True))
    return found or [given]


@dataclass
class InUse:
    """The measures in force while a clip is rendered; a step that runs out of memory goes one down."""

    measures: Measures = field(default_factory=Measures)
    line: str = ""
    """What the clip needs of what there is, in words; "" where nobody has looked."""

    def next_step(self) -> Measures | None:
        """Go one level down in denoising; None where there is none."""
        levels = denoising_from(self.measures)
        further = [level for level in levels if level.of_denoising != self.measures.of_denoising]
        if not further:
            return None
        self.measures = further[0]
        return self.measures
