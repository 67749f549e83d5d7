"""A plan for memory: what a clip needs by phase, what there is, and the cheapest measures by which it fits."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from animatediff.errors import UserError
from animatediff.memory.free import UNKNOWN, free_memory
from animatediff.memory.live import largest_layer
from animatediff.memory.measures import (
    AWAY,
    DENOISING,
    DEVICE,
    GROUP,
    MODEL,
    PLACES,
    Measures,
    decoding_from,
    denoising_from,
)
from animatediff.memory.sizes import MB, parse_size, told
from animatediff.pipelines.estimate import Estimate, weights_of
from animatediff.pipelines.job import Job
from animatediff.pipelines.placement import can_move, chosen_place, device_of, place
from animatediff.pipelines.vae import SMALLEST_TILE

logger = logging.getLogger(__name__)

KERNELS = 0.1
"""What kernels set aside while they run, and what an allocator cannot use, as a share of the tensors of a phase."""
CONTEXT = 450 * MB
"""What CUDA and its libraries take of a device before the first tensor; a bound that a user gives includes it."""
TITLES = {
    "text_encoder": "text encoder", "text_encoder_2": "second text encoder", "image_encoder": "image encoder",
    "unet": "UNet", "vae": "VAE", "motion": "motion modules", "sparsectrl": "SparseCtrl", "controlnet": "ControlNets",
    "motion_image_encoder": "image encoder of the motion modules",
    "camera_control": "CameraCtrl",
}  # fmt: skip
BESIDE = ("sparsectrl", "camera_control", "controlnet", "motion_image_encoder")
"""Networks beside the UNet, which are on the device as a whole while it works."""
ENCODE, DENOISE, DECODE, WRITE = "encode", "denoise", "decode", "write"
AT_WORK = {
    ENCODE: ("text_encoder", "text_encoder_2", "image_encoder"),
    DENOISE: ("unet", "motion", *BESIDE),
    DECODE: ("vae",),
    WRITE: (),
}
"""Phase -> the parts that work in it."""


@dataclass(frozen=True, kw_only=True)
class PhaseNeed:
    """Bytes that one phase takes at its peak."""

    phase: str
    weights: int
    """On the device in this phase."""
    tensors: int
    """Results of layers, latents, embeddings, frames."""

    @property
    def total(self) -> int:
        """Of tensors, with weights."""
        return self.weights + self.tensors

    @property
    def wanted(self) -> int:
        """With what kernels set aside: what must be free."""
        return self.total + int(KERNELS * self.tensors)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a clip needs in memory by the chosen measures."""

    device: str
    dtype: str
    weights: Mapping[str, int]
    """Bytes of each part."""
    phases: Sequence[PhaseNeed]
    measures: Measures
    limit: int
    """Bytes that the clip may take."""
    bounded: bool
    """Whether a user gave the limit; else it is what is free."""
    context: int
    """Bytes of the device's libraries, which a limit that a user gave includes."""
    machine: int | None
    """Bytes of main memory beside a device of its own; None where the device is the machine's CPU."""
    clip: str
    """Length and size."""

    @property
    def peak(self) -> int:
        """Bytes of tensors at the most: weights, results of layers, latents, frames."""
        return max(phase.total for phase in self.phases)

    @property
    def needed(self) -> int:
        """Bytes that must be free: the peak, with what kernels set aside."""
        return max(phase.wanted for phase in self.phases) + self.context

    @property
    def fits(self) -> bool:
        """Whether the clip fits."""
        return self.needed <= self.limit

    @property
    def line(self) -> str:
        """The plan in one line."""
        of = "allowed" if self.bounded else "free"
        done = self.measures.told()
        return f"memory: {told(self.needed)} of {told(self.limit)} {of}" + (f"; {', '.join(done)}" if done else "")

    def as_dict(self) -> dict[str, Any]:
        """The plan as plain JSON values, in bytes."""
        phases = {p.phase: {"weights": p.weights, "tensors": p.tensors, "total": p.total} for p in self.phases}
        return {
            "device": self.device,
            "dtype": self.dtype,
            "clip": self.clip,
            "needed": self.needed,
            "limit": self.limit,
            "limited_by": "vram" if self.bounded else "free",
            "fits": self.fits,
            "measures": self.measures.told(),
            "weights": dict(self.weights),
            "phases": phases,
            "machine": self.machine,
        }

    def __str__(self) -> str:
        rows = [("phase", "weights", "the rest", "together")]
        rows += [(p.phase, told(p.weights), told(p.tensors), told(p.total)) for p in self.phases]
        table = ["  ".join(cell.ljust(8) if not n else cell.rjust(9) for n, cell in enumerate(row)) for row in rows]
        parts = ", ".join(f"{TITLES[name]} {told(size)}" for name, size in self.weights.items())
        of = "allowed (`vram`)" if self.bounded else "free"
        lines = [
            f"{self.clip} in {self.dtype} on {self.device}",
            f"weights: {parts}",
            *table,
            f"needed, with what kernels set aside{' and CUDA itself' if self.context else ''}: "
            f"{told(self.needed)} of {told(self.limit)} {of}",
        ]
        if self.machine is not None:
            lines.append(f"main memory: {told(self.machine)}")
        done = self.measures.told()
        lines.append("measures: " + (", ".join(done) if done else "none are needed"))
        return "\n".join(lines)


def plan_job(pipe: Any, job: Job) -> Plan:
    """The plan of a job: the first measures by which it fits, else the last ones there are."""
    return _Planner(pipe, job).plan()


def levels_on_paper(pipe: Any, job: Job) -> list[Plan]:
    """What a job would take on a GPU: with nothing done, and the least with all weights there, with model offload and
    with group offload. pipe: without weights."""
    planner = _Planner(pipe, job, torch.device("cuda"))
    least = replace(DENOISING[-1], decode=1, tiles=True)
    levels = [Measures(), *(replace(least, weights=level) for level in (DEVICE, MODEL, GROUP))]
    return [planner.by(measures) for measures in levels]


def fit(pipe: Any, job: Job) -> Plan | None:
    """Choose the measures of a job and place the weights by them; None where it fits by far, which takes no time.

    Raises UserError where it does not fit into the `vram` of the call.
    """
    if job.call.vram is None and (line := _fits_by_far(pipe, job)):
        job.saving.line = line
        place(pipe, Measures())
        return None
    plan = plan_job(pipe, job)
    job.saving.line = plan.line
    if not plan.fits:
        message = too_little(plan)
        if plan.bounded:
            raise UserError(message)
        logger.warning("%s", message)
    job.saving.measures = plan.measures
    place(pipe, plan.measures)
    if plan.measures.told():
        logger.info("%s", plan.line)
    return plan


def too_little(plan: Plan) -> str:
    """Why a clip does not fit, and what would make it smaller."""
    given = f"vram={told(plan.limit)}" if plan.bounded else f"{told(plan.limit)} are free"
    halves = ", or weights of half the size (`dtype` bfloat16)" if plan.dtype == "float32" else ""
    return (
        f"{given}, and {plan.clip} take {told(plan.needed)} at least, by all measures there are; a smaller `width` and "
        f"`height`, fewer frames at once (`window`, `num_frames`){halves} make it less"
    )


def next_decoding(pipe: Any, job: Job) -> Measures | None:
    """Go one measure down in decoding; None where there is none left."""
    saving = job.saving
    levels = _decoding(job, saving.measures, fixed=takes_one(device_of(pipe)))
    further = [level for level in levels if level != saving.measures]
    if not further:
        return None
    saving.measures = further[0]
    return saving.measures


def takes_one(device: torch.device) -> bool:
    """Whether the VAE decodes one frame after the other in any case, as on a CPU."""
    return device.type == "cpu"


def _decoding(job: Job, given: Measures, *, fixed: bool) -> list[Measures]:
    """The levels of decoding from `given` on. fixed: whether frames at a time make no difference."""
    clip, fixed = job.clip, fixed or job.call.decode_chunk_size is not None
    tiles = max(clip.latent_size) > SMALLEST_TILE and job.call.upscale is None
    return decoding_from(given, job.decode_chunk_size, fixed=fixed, tiles=tiles)


def _fits_by_far(pipe: Any, job: Job) -> str:
    """A line that says so where twice a generous bound is free, so that a plan would change nothing; else ""."""
    device = device_of(pipe)
    weights = sum(weights_of(pipe).values())
    there = weights if pipe.unet.device.type == device.type else 0
    bound, free = weights + _bound(pipe, job), free_memory(device) + there
    return f"memory: at most {told(bound)} of {told(free)} free" if 2 * bound < free else ""


def _bound(pipe: Any, job: Job) -> int:
    """More than all results of layers take at once."""
    clip, factor = job.clip, job.call.upscale or 1.0
    frames = job.windows.length if job.windows.over_unet or job.windows.streams else clip.num_frames
    images = clip.num_clips * min(frames, clip.num_frames) * (1 + job.guidance + (job.pag is not None))
    height, width = clip.latent_size
    widths: Any = pipe.unet.config["block_out_channels"]
    step = images * height * width * widths[0] * 40 * 4
    decode = job.decode_chunk_size * clip.height * clip.width * pipe.vae.config["block_out_channels"][0] * 12 * 4
    return int(factor**2 * (step + decode + 4 * clip.num_frames * clip.num_clips * clip.height * clip.width * 3))


class _Planner:
    """Goes down the measures, the cheapest first, and takes the first by which every phase fits."""

    def __init__(self, pipe: Any, job: Job, device: torch.device | None = None) -> None:
        """device: another than the pipeline's, which is not asked for what is free."""
        self.pipe, self.job, self.device = pipe, job, device or device_of(pipe)
        larger = job if job.call.upscale is None else _second(pipe, job)
        self.estimate = Estimate(pipe, larger, self.device)
        self.weights = weights_of(pipe)
        self.own_memory = self.device.type not in ("cpu", "mps")
        there = sum(self.weights.values()) if pipe.unet.device.type == self.device.type else 0
        free = UNKNOWN if device is not None else free_memory(self.device) + there
        bound = None if job.call.vram is None else parse_size(job.call.vram)
        self.bounded = bound is not None and bound <= free
        self.limit = free if bound is None else min(bound, free)
        self.context = CONTEXT if self.device.type == "cuda" and bound is not None else 0

    def plan(self) -> Plan:
        plan = None
        for level in self._weights():
            plan = self._of(level)
            if plan.fits:
                return plan
        assert plan is not None
        return plan

    def _weights(self) -> Iterator[Measures]:
        """The levels of the weights that are possible here."""
        chosen = chosen_place(self.pipe)
        given = replace(self.job.saving.measures, weights=chosen or self.job.saving.measures.weights)
        yield given
        if can_move(self.pipe):
            yield from (replace(given, weights=level) for level in PLACES[PLACES.index(given.weights) + 1 :])
        if not getattr(self.pipe.unet, "peft_config", None) and not hasattr(self.pipe.unet, "_orig_mod"):
            yield replace(given, weights=MODEL if can_move(self.pipe) else given.weights, fp8=True)

    def _of(self, level: Measures) -> Plan:
        """The plan by a level of the weights: of each phase the first measures by which it fits, else the last ones."""
        levels = denoising_from(level)
        steps = next((one for one in levels if self._room(self._denoise(one))), levels[-1])
        steps = steps if self._room(self._denoise(steps)) else min(levels, key=lambda one: self._denoise(one).total)
        decodings = _decoding(self.job, steps, fixed=takes_one(self.device))
        measures = next((one for one in decodings if self._room(self._decode(one))), decodings[-1])
        return self.by(measures)

    def by(self, measures: Measures) -> Plan:
        """The plan by these measures."""
        phases = [self._encode(measures), self._denoise(measures), self._decode(measures), self._write(measures)]
        clip, factor = self.job.clip, self.job.call.upscale or 1.0
        size = f"{round(clip.width * factor)}x{round(clip.height * factor)}"
        return Plan(
            device=str(self.device),
            dtype=str(self.pipe.unet.dtype).removeprefix("torch."),
            weights=self.weights,
            phases=phases,
            measures=measures,
            limit=self.limit,
            bounded=self.bounded,
            context=self.context,
            machine=self._machine(measures) if self.own_memory else None,
            clip=f"{clip.num_frames * clip.num_clips} frames of {size}",
        )

    def _room(self, need: PhaseNeed) -> bool:
        return need.wanted + self.context <= self.limit

    # -- phases --------------------------------------------------------------------------------------------------------

    def _encode(self, measures: Measures) -> PhaseNeed:
        return self._need(ENCODE, measures, self.estimate.encoding)

    def _denoise(self, measures: Measures) -> PhaseNeed:
        return self._need(DENOISE, measures, self.estimate.denoising(measures))

    def _decode(self, measures: Measures) -> PhaseNeed:
        return self._need(DECODE, measures, self.estimate.decoding(measures) + self._frames())

    def _write(self, measures: Measures) -> PhaseNeed:
        return self._need(WRITE, measures, 2 * self._frames())  # chunks, and the clip that they are put together to

    def _frames(self) -> int:
        """Bytes of decoded frames on this device: they leave one of its own as they come."""
        wide = 1 if self.job.call.output_type in ("pil", None) else 4
        return 0 if self.own_memory or self.job.call.output_type == "latent" else wide * self.estimate.frames

    def _need(self, phase: str, measures: Measures, tensors: int) -> PhaseNeed:
        return PhaseNeed(phase=phase, weights=self._on_device(phase, measures), tensors=tensors)

    def _on_device(self, phase: str, measures: Measures) -> int:
        """Bytes of weights on the device in a phase."""
        sizes = {name: self._stored(name, size, measures) for name, size in self.weights.items()}
        at_work = {name: sizes[name] for name in AT_WORK[phase] if name in sizes}
        if measures.weights == DEVICE:
            return sum(sizes.values())
        if measures.weights == MODEL:
            return sum(at_work.values()) if phase == DENOISE else max(at_work.values(), default=0)
        if measures.weights == AWAY:
            return sum((at_work | {name: sizes[name] for name in ("unet", "motion") if name in sizes}).values())
        assert measures.weights == GROUP
        beside = sum(size for name, size in at_work.items() if name in BESIDE)
        modules = [getattr(self.pipe.base, name, None) for name in AT_WORK[phase]]
        # the layer at work, and the next one, which comes while it works
        return beside + 2 * max((largest_layer(module) for module in modules if module is not None), default=0)

    def _stored(self, name: str, size: int, measures: Measures) -> int:
        if not measures.fp8 or name not in ("unet", "motion"):
            return size
        width = torch.empty((), dtype=self.pipe.unet.dtype).element_size()
        return size // width + (largest_layer(self.pipe.unet) if name == "unet" else 0)

    def _machine(self, measures: Measures) -> int:
        """Bytes of main memory: weights that are away, and decoded frames."""
        away = 0 if measures.weights == DEVICE else sum(self.weights.values())
        return away + self.estimate.frames


def _second(pipe: Any, job: Job) -> Job:
    """The second pass of a job that is upscaled."""
    from animatediff.pipelines.clip import larger

    height, width = (larger(side, job.call.upscale or 1.0) for side in (job.clip.height, job.clip.width))
    b, c, f, *_ = job.clip.latents
    latents = torch.zeros(b, c, f, height // job.clip.factor, width // job.clip.factor)
    return Job.of(job.second_call(latents, height, width), pipe)
