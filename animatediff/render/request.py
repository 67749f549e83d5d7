"""What a user can ask for: one validated, frozen request, the same for every front end."""

from __future__ import annotations

import reprlib
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from animatediff.errors import UserError, nearest
from animatediff.frames import frame_curve, frame_indices, parse_curve
from animatediff.prompts.travel import DEFAULT_HOLD, PromptTravel, check_frames, joined
from animatediff.render.prompts_form import normal_prompts
from animatediff.render.request_inputs import (
    INPUT_PATHS,
    ControlNetSettings,
    Keyframe,
    PictureSettings,
    SecondPassSettings,
    VideoSettings,
)

MAX_SEED = 2**64 - 1
"""The largest seed that torch takes; the original's files hold seeds above 2**63."""


def _none_if_empty(value: Any) -> Any:
    return None if isinstance(value, str) and not value.strip() else value


def _listed(value: Any) -> Any:
    return value if isinstance(value, (list, tuple)) else [value]


def _listed_or_none(value: Any) -> Any:
    return () if value is None or value == "" else _listed(value)


def _with_path(value: Any) -> Any:
    return {"path": value} if isinstance(value, str) else value


def _listed_refs(value: Any) -> Any:
    return [_with_path(item) for item in _listed(value)] if value is not None else ()


Name = Annotated[str | None, BeforeValidator(_none_if_empty)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Size = Annotated[int, Field(ge=8, multiple_of=8)]
Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=-1, le=MAX_SEED)]
Share = Annotated[float, Field(ge=0, le=1)]
PathName = Annotated[str, Field(min_length=1)]


MotionScale = Annotated[float | dict[int, float], BeforeValidator(parse_curve)]


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class WeightRef(_Frozen):
    """A LoRA file and how strongly it acts."""

    path: Annotated[str, Field(min_length=1)]
    scale: Finite = 1.0


class EmbeddingRef(_Frozen):
    """A textual inversion file; `token` overrides the word that it stands for."""

    path: Annotated[str, Field(min_length=1)]
    token: Name = None


Travels = Annotated[tuple[dict[int, str], ...], BeforeValidator(_listed_or_none)]
Refs = Annotated[tuple[WeightRef, ...], BeforeValidator(_listed_refs)]


class AnimateRequest(VideoSettings, PictureSettings, ControlNetSettings, SecondPassSettings, _Frozen):
    """Everything that decides what is rendered, and where it goes. None means: what the model recommends.

    Lists of prompts, travels, negative prompts and seeds are as long as there are clips, or hold one entry for all.
    """

    model: Name = None
    """Single file, diffusers folder, hub id, or "bundled"; None is the bundled one unless a motion module is named."""
    motion_module: Name = None
    """File, diffusers folder or hub id."""
    family: Name = None
    """Overrides what is recognised from the motion module's file."""
    vae: Name = None
    text_encoder: Name = None
    text_encoder_2: Name = None
    """Files or diffusers folders in place of the image model's own parts, or where it has none."""
    prediction_type: Literal["epsilon", "v_prediction"] | None = None
    """What a single file predicts; None is what it says, or what its UNet does when tried."""
    use_ema: bool = False
    """Take the averaged weights of a single file that has both."""
    loras: Refs = ()
    motion_loras: Refs = ()
    domain_adapter: Annotated[WeightRef | None, BeforeValidator(lambda v: _with_path(_none_if_empty(v)))] = None
    embeddings: Annotated[tuple[EmbeddingRef, ...], BeforeValidator(_listed_refs)] = ()
    sparsectrl: Name = None
    """SparseCtrl encoder, for pictures or for sketches: its file says which."""

    prompt: Annotated[tuple[str, ...], BeforeValidator(_listed), Field(min_length=1)]
    negative_prompt: Annotated[tuple[str, ...], BeforeValidator(_listed), Field(min_length=1)] = ("",)
    seed: Annotated[tuple[Seed, ...], BeforeValidator(_listed), Field(min_length=1)] = (-1,)
    """0 to 2**64 - 1; -1 draws one, which is recorded."""

    prompt_travel: Travels = ()
    """Texts at later frames, {12: "summer", 24: "autumn"}, on the way from one to the next in between.

    A mapping that is given as the prompt itself, or with frame 0 in it, ends here.
    """
    prompt_head: Name = None
    """Put before every prompt and every text of a travel."""
    prompt_tail: Name = None
    """Put after every one."""
    prompt_interpolation: Literal["linear", "slerp"] = "linear"
    prompt_hold: Share = DEFAULT_HOLD
    """Share of each stretch that shows its text before it blends to the next: 0 blends all the way, 1 switches."""
    prompt_loop: bool = False
    """The last text blends back to the first, as it does in a closed loop."""
    plain_prompts: bool = False
    """Brackets are letters and long prompts are cut, as in the original; else `(word:1.2)` weighs, nothing is cut."""

    num_frames: Count | None = None
    width: Size | None = None
    height: Size | None = None
    steps: Annotated[int, Field(ge=1, le=1000)] | None = None
    guidance_scale: Annotated[float, Field(ge=0, le=1000, allow_inf_nan=False)] | None = None
    """At most 1 switches guidance off."""
    scheduler: Name = None
    """A diffusers class name or a short name such as `euler` or `dpmpp_2m_karras`."""
    clip_skip: Annotated[int, Field(ge=0, le=23)] | None = None
    """Layers of the text encoder left out at the end, as diffusers counts: one less than in A1111."""
    window: Count | None = None
    """Frames that the motion module sees at once in clips longer than that."""
    overlap: Annotated[int, Field(ge=0)] | None = None
    """Frames shared by two neighbouring windows."""
    stride: Annotated[int, Field(ge=1, le=16)] = 1
    """1 for windows of neighbouring frames; 2 adds windows of every second frame, 3 also of every fourth, ...."""
    blend: Literal["pyramid", "flat", "overlap-linear", "gauss"] = "pyramid"
    """How windows count where they overlap."""
    closed_loop: bool = False
    """The first frame follows the last."""
    long_mode: Literal["unet", "motion"] = "unet"
    """Windows over the whole UNet, or inside the motion modules alone."""
    motion_scale: MotionScale = 1.0
    """How much of what the motion modules say is added: a number, or numbers at frames with straight lines between."""
    noise: Literal["default", "freenoise"] = "default"
    """Independent for every frame, or FreeNoise: behind the first window that window's noise, shuffled."""
    freeinit: Annotated[int, Field(ge=1, le=20)] = 1
    """Times that the clip is sampled, each time from noise with the slow parts of the time before; 1 is off."""
    freeinit_filter: Literal["butterworth", "gaussian", "ideal", "box"] = "butterworth"
    freeinit_ds: Annotated[float, Field(gt=0, le=1)] = 0.25
    """Share of the frequencies over height and width that pass to the next time."""
    freeinit_dt: Annotated[float, Field(gt=0, le=1)] = 0.25
    """The same over frames."""
    decode_chunk_size: Count | None = None
    """Frames decoded at once."""
    fps: Annotated[float, Field(gt=0, le=240, allow_inf_nan=False)] | None = None

    control_images: Annotated[tuple[PathName, ...], BeforeValidator(_listed_or_none)] = ()
    """Picture files that the clip shows at `control_indices`, one index a picture."""
    control_indices: Annotated[tuple[int, ...], BeforeValidator(_listed)] = (0,)
    """Frames from 0; negatives count from the end."""
    control_scale: Finite = 1.0
    control_start: Share = 0.0
    """Share of the steps from which on the pictures steer."""
    control_end: Share = 1.0
    control_preprocess: Literal["none", "scribble", "canny"] = "none"
    """How sketches are made from pictures."""
    normalize_condition_images: bool = False
    """Turn pictures grey and stretch them from black to white."""
    sparsectrl_config: Name = None
    """A SparseCtrl YAML of the original; its facts are known from the weights, it is only compared with them."""

    device: Name = None
    dtype: Literal["float32", "float16", "bfloat16"] | None = None
    cpu_offload: bool = False
    download: bool = False
    """Whether known files that are missing may be fetched from the hub."""
    inference_config: Name = None
    """An inference YAML of the original; its facts are known from the weights, it is only compared with them."""

    out: Name = None
    """A file (mp4, webm, gif, webp, apng, png) or, without a suffix, a folder of PNG."""
    quality: Annotated[int, Field(ge=0, le=100)] = 80
    loop: Annotated[int, Field(ge=0, le=65535)] = 0
    """Times that gif, webp and apng play; 0 is for ever."""

    @model_validator(mode="before")
    @classmethod
    def _one_form_of_prompts(cls, values: Any) -> Any:
        return normal_prompts(values) if isinstance(values, Mapping) else values

    @model_validator(mode="after")
    def _consistent(self) -> AnimateRequest:
        counts = {name: len(getattr(self, name)) for name in PER_CLIP}
        several = {name: count for name, count in counts.items() if count > 1}
        if len(set(several.values())) > 1:
            found = ", ".join(f"{count} x {name}" for name, count in several.items())
            raise ValueError(f"{found}: expected one for all clips, or as many as there are clips")
        if self.window is not None and self.overlap is not None and self.overlap >= self.window:
            raise ValueError(f"overlap={self.overlap} must be less than window={self.window}")
        if self.freeinit > 1 and self.video is not None and (self.strength is None or self.strength < 1):
            raise ValueError(
                f"freeinit={self.freeinit} samples from noise alone, but a strength below 1 leaves something of the "
                "video; take one of the two"
            )
        if not isinstance(self.motion_scale, dict) or self.num_frames is not None:
            frame_curve(self.motion_scale, self.num_frames or 1, "motion_scale")
        if self.num_frames is not None:
            for texts in self.prompt_travel:
                check_frames(texts, self.num_frames)
        self._check_control()
        self._check_video(followed=bool(self.controlnet_video))
        self._check_nets()
        self._check_second_pass()
        self._check_pictures(self.num_frames)
        return self

    def _check_control(self) -> None:
        if not self.control_images:
            if self.sparsectrl is not None and not self.pictures:
                raise ValueError(
                    "a SparseCtrl encoder is given (sparsectrl, or controlnet_path), but no pictures for it; add "
                    "control_images (controlnet_images, --control-image FILE)"
                )
            return
        if self.sparsectrl is None:
            raise ValueError(
                "control_images are given, but no SparseCtrl encoder to read them; add sparsectrl (controlnet_path, "
                "--sparsectrl FILE)"
            )
        if self.control_start > self.control_end:
            raise ValueError(f"control_start={self.control_start} is after control_end={self.control_end}")
        frame_indices(self.control_indices, len(self.control_images), self.num_frames)

    @property
    def num_clips(self) -> int:
        """How many clips this asks for."""
        return max(len(getattr(self, name)) for name in PER_CLIP)

    def clip(self, index: int) -> AnimateRequest:
        """The request for clip `index` alone."""
        one = {name: (values[index % len(values)],) for name in PER_CLIP if (values := getattr(self, name))}
        return self.model_copy(update=one)

    def shown(self, index: int = 0) -> str | PromptTravel:
        """What clip `index` shows: its prompt, with head and tail, or texts that travel."""
        clip = self.clip(index)
        head, tail = self.prompt_head or "", self.prompt_tail or ""
        if not any(clip.prompt_travel):
            return joined(head, clip.prompt[0], tail)
        return PromptTravel(
            {0: clip.prompt[0], **clip.prompt_travel[0]},
            head=head,
            tail=tail,
            interpolation=self.prompt_interpolation,
            hold=self.prompt_hold,
            loop=self.prompt_loop or self.closed_loop,
        )

    def stored(self) -> dict[str, Any]:
        """What is written down with a result: what decides its frames, as plain JSON values."""
        return self.model_dump(mode="json", exclude={"out", "download"}, exclude_defaults=True)


PER_CLIP = ("prompt", "prompt_travel", "negative_prompt", "seed")
"""Settings of which there is one a clip, or one for all."""

FIELDS = tuple(AnimateRequest.model_fields)
PATH_FIELDS = {
    "model": "StableDiffusion",
    "motion_module": "Motion_Module",
    "vae": "StableDiffusion",
    "text_encoder": "StableDiffusion",
    "text_encoder_2": "StableDiffusion",
    "loras": "DreamBooth_LoRA",
    "motion_loras": "MotionLoRA",
    "domain_adapter": "Motion_Module",
    "embeddings": "DreamBooth_LoRA",
    "sparsectrl": "SparseCtrl",
    "sparsectrl_config": "",
    "control_images": "",
    "inference_config": "",
    **INPUT_PATHS,
}
"""Settings that name a file, and the folder under models/ where such files live."""


def unknown_key(key: Any, known: Iterable[str], where: str) -> UserError:
    """The error for a setting that does not exist, with the nearest one that does."""
    shown = reprlib.repr(key)
    close = nearest(key, known) if isinstance(key, str) else None
    if close is None and isinstance(key, str):
        close = nearest(key, [word.lower() for word in known])
    hint = f"did you mean {close!r}?" if close else f"known settings: {', '.join(sorted(known))}"
    return UserError(f"{where}unknown setting {shown}; {hint}")


def build_request(values: Mapping[str, Any], where: str = "", lines: Mapping[str, int] | None = None) -> AnimateRequest:
    """Validate `values`. Raises UserError that names the place (`where`, line), the setting, and what is expected."""
    lines = lines or {}
    prefix = f"{where}: " if where else ""
    for key in values:
        if key not in FIELDS:
            raise unknown_key(key, FIELDS, prefix)
    try:
        return AnimateRequest.model_validate(dict(values))
    except ValidationError as error:
        raise UserError("\n".join(_sentences(error, where, lines))) from error


def _sentences(error: ValidationError, where: str, lines: Mapping[str, int]) -> list[str]:
    sentences = []
    for item in error.errors(include_url=False)[:5]:
        location = [str(part) for part in item["loc"]]
        name = location[0] if location else ""
        line = f", line {lines[name]}" if name in lines else ""
        place = f"{where}{line}: " if where else ""
        setting = name + "".join(f"[{part}]" if part.isdigit() else f".{part}" for part in location[1:])
        text = item["msg"].removeprefix("Value error, ")
        text = text[:1].lower() + text[1:]
        if item["type"] == "extra_forbidden":
            of_lists = {"embeddings": EmbeddingRef, "keyframes": Keyframe}
            known = of_lists.get(name, WeightRef).model_fields
            sentences.append(str(unknown_key(location[-1], known, f"{place}{name}: ")))
        elif item["type"] == "missing":
            sentences.append(f"{place}{setting} is missing")
        elif name == "prompt" and item["type"] == "too_short":
            sentences.append(f"{place}no prompt: expected at least one")
        elif not name:
            sentences.append(f"{place}{text}")
        else:
            found = f"={reprlib.repr(item['input'])}"
            sentences.append(f"{place}{setting}{found}: {text}{_advice(item)}")
    return sentences


def _advice(item: Any) -> str:
    if item["type"] == "multiple_of" and isinstance(item["input"], int):
        lower = max(8, item["input"] // 8 * 8)
        return f" (nearest: {lower} or {lower + 8})"
    if item["loc"] and item["loc"][0] == "seed" and item["type"] in ("less_than_equal", "greater_than_equal"):
        return " (seeds have 64 bits: 0 to 2**64 - 1, or -1 for a random one)"
    return ""
