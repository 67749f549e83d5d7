"""The life of one generation with AnimateDiff: from the settings to the files.

A host calls the methods of its `p` one after another, and swallows what its callbacks raise. So each step stands in
front of a method of this one `p`: what is wrong reaches the user, and nothing of it outlives the generation.

| method of `p`                 | step                                                                        |
|-------------------------------|-----------------------------------------------------------------------------|
| `init`                        | the checkpoint is loaded: does the motion module fit it?                    |
| `parse_extra_network_prompts` | a clip begins: its MotionLoRAs, the text of each frame                      |
| `setup_conds`                 | prompt embeddings are there: blend those of two texts                       |
| `sample`                      | motion modules in the UNet, and out again                                   |
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from animatediff.errors import UserError, renamed
from animatediff.prompts import PromptTravel
from animatediff_webui import conds, host
from animatediff_webui.backends import Backend, choose
from animatediff_webui.free_init import sample_again
from animatediff_webui.img2img import fade_latents, source_frames
from animatediff_webui.job import Job, Loaded, clip_length, windows_of
from animatediff_webui.models import check_base, recognised, short_hash
from animatediff_webui.output import check_formats, reply, write_clip
from animatediff_webui.prompts import first_texts, read_prompt, take_motion_loras
from animatediff_webui.settings import DEFAULT_MODEL, INFOTEXT_NAME, Settings, said

NAMES = {"num_frames": said("video_length"), "family": "the file's published name", "motion_module": said("model")}
"""Settings in the messages of the library -> their names here."""
STEPS = ("init", "parse_extra_network_prompts", "setup_conds", "calculate_hr_conds", "sample")
"""Methods of `p` that a step of the generation stands in front of."""
_PLAIN_CHECKPOINTS = (None, "", "None", "none", "Use same checkpoint")

CHANGED = ("n_iter", "batch_size", "do_not_save_samples", "do_not_save_grid")
"""What a generation changes of its `p`, beside the methods."""

loaded = Loaded()


def start(p: Any, values: Any, *, img2img: bool) -> None:
    """Begin a generation (`before_process`), if it is one with AnimateDiff."""
    if (before := of(p)) is not None:  # img2img's batch gives one `p` several times
        before.undo()
    p.animatediff = None
    try:
        settings = Settings.from_ui(values, img2img=img2img)
        if settings.enable:
            p.animatediff = Generation(p, settings, choose(), img2img=img2img)
            p.animatediff.prepare()
    except UserError as error:
        _refuse(p, error)


def of(p: Any) -> Generation | None:
    """The generation of AnimateDiff that `p` is, or None."""
    return getattr(p, "animatediff", None)


class Generation:
    """Settings of one `p`, and what has become of them."""

    def __init__(self, p: Any, settings: Settings, backend: Backend, *, img2img: bool) -> None:
        self.p, self.settings, self.backend, self.img2img = p, settings, backend, img2img
        self.job: Job | None = None
        self.frames: dict[int, list[Any]] = {}
        self.num_clips = self.num_frames = 0
        self.model_path = Path()
        self._source: list[Any] | None = None
        self._travels: tuple[str | PromptTravel, str | PromptTravel] = ("", "")
        self._hires: tuple[str | PromptTravel, str | PromptTravel] = ("", "")
        self._own = {name: getattr(p, name) for name in CHANGED}

    def prepare(self) -> None:
        """Check what can be checked before the host loads a checkpoint; the batch becomes the clip."""
        p, settings = self.p, self.settings
        self._refuse_unsupported()
        check_formats(settings)
        folders = host.folders()
        if not folders.stands_for_another(settings.model):
            self.model_path = folders.find(settings.model)
        if settings.video_source or settings.video_path:
            self._source = source_frames(settings)
        self.num_frames = clip_length(settings, None if self._source is None else len(self._source))
        if p.batch_size > 1:
            host.say(p, f"batch size {p.batch_size} makes as many clips, one after another")
        self.num_clips = p.n_iter * p.batch_size
        p.n_iter, p.batch_size = self.num_clips, self.num_frames
        p.do_not_save_samples = p.do_not_save_grid = True  # the frames are written here
        for name in STEPS:
            if hasattr(p, name):  # img2img has no hires. fix
                _before(p, name, getattr(self, f"_{name}"))

    def undo(self) -> None:
        """Leave `p` as it was given, for hosts that use it again."""
        for name, value in self._own.items():
            setattr(self.p, name, value)
        for name in STEPS:
            vars(self.p).pop(name, None)

    def _refuse_unsupported(self) -> None:
        p, settings = self.p, self.settings
        if getattr(p, "firstpass_image", None) is not None:
            raise UserError("one image cannot be upscaled as a clip; switch AnimateDiff off for that")
        for name, title in (
            ("refiner_checkpoint", "the refiner"),
            ("hr_checkpoint_name", "a checkpoint of hires. fix"),
        ):
            if getattr(p, name, None) not in _PLAIN_CHECKPOINTS:
                raise UserError(f"{title} changes the model in the middle; choose none with AnimateDiff")
        if settings.mask_path:
            raise UserError(f"{said('mask_path')} is not supported; img2img's own mask counts for all frames")
        if not self.img2img and (settings.video_source or settings.video_path):
            raise UserError(
                f"{said('video_path')}: a video is the start of img2img; that it steers txt2img by ControlNet is not "
                "supported"
            )
        if settings.freeinit_enable and (self.img2img or getattr(p, "enable_hr", False)):
            raise UserError(f"{said('freeinit_enable')} is for txt2img without hires. fix: it samples from noise again")

    def _init(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        self._choose_module(self.backend.base_of(self.p))
        if self._source is not None:
            self.p.init_images = self._source[: self.num_frames]
        elif self.img2img and any(image is None for image in self.p.init_images or [None]):
            raise UserError(f"img2img starts from an image, or from a video: give one, or {said('video_path')}")
        elif self.img2img and len(self.p.init_images or ()) not in (0, 1, self.num_frames):
            raise UserError(
                f"{said('video_length')}: {self.num_frames} frames from {len(self.p.init_images)} images; give one "
                "image, or as many as frames"
            )
        return original(*args, **kwargs)

    def _choose_module(self, base: str) -> None:
        """Check that the motion module fits; the usual name, where it is not here, stands for the first that does."""
        p, folders, name = self.p, host.folders(), self.settings.model
        if folders.stands_for_another(name):
            name = folders.fitting(base)
            self.model_path = folders.find(name)
            host.say(p, f"there is no {DEFAULT_MODEL}, so {name} is used")
        check_base(recognised(self.model_path), base)
        used = replace(self.settings, model=name)
        p.extra_generation_params[INFOTEXT_NAME] = used.to_infotext(mm_hash=short_hash(self.model_path))

    def _parse_extra_network_prompts(self, original: Callable[..., Any]) -> Any:
        p, folders = self.p, host.folders()
        loop = self.settings.closed_loop in ("R+P", "A")
        loras: dict[Path, float] = {}

        def read(texts: list[str], what: str) -> str | PromptTravel:
            if len(set(texts)) > 1:
                host.say(p, f"the {what}s of the frames differ; that of the first counts for the clip")
            rest, found = take_motion_loras(texts[0], folders.motion_lora)
            loras.update(found)
            return read_prompt(rest, loop=loop)

        self._travels = read(p.prompts, "prompt"), read(p.negative_prompts, "negative prompt")
        p.prompts = self._firsts(self._travels[0])
        p.negative_prompts = self._firsts(self._travels[1])
        with _hires_texts(p, self.num_frames) as hires:
            if hires is not None:
                self._hires = read(hires.prompts, "hires prompt"), read(hires.negatives, "negative hires prompt")
                hires.set(*map(self._firsts, self._hires))
            result = original()
        adapter, family = loaded.load(self.model_path, loras)
        self.job = Job(
            settings=self.settings,
            base=self.backend.base_of(p),
            num_frames=self.num_frames,
            windows=windows_of(self.settings, self.num_frames, family.numerics.max_positions),
            model_path=self.model_path,
            adapter=adapter,
            family=family,
            loras=loras,
        )
        return result

    def _firsts(self, prompt: str | PromptTravel) -> list[str]:
        if isinstance(prompt, str):
            return [prompt] * self.num_frames
        return first_texts(prompt, self.num_frames)[0]

    def _setup_conds(self, original: Callable[..., Any]) -> Any:
        result = original()
        p = self.p
        conds.one_part(p.c)
        p.c, p.uc = self._travelling(p.c, p.uc, self._travels, p.extra_network_data, p.firstpass_steps, None)
        return result

    def _calculate_hr_conds(self, original: Callable[..., Any]) -> Any:
        p = self.p
        if p.hr_c is not None:
            return original()
        result = original()
        steps, hires = p.firstpass_steps, (p.hr_second_pass_steps or p.steps) * getattr(p, "step_multiplier", 1)
        p.hr_c, p.hr_uc = self._travelling(p.hr_c, p.hr_uc, self._hires, p.hr_extra_network_data, steps, hires)
        return result

    def _travelling(
        self, c: Any, uc: Any, travels: tuple[Any, Any], networks: Any, steps: int, hires: int | None
    ) -> tuple[Any, Any]:
        """Prompt embeddings of both prompts, blended frame by frame where they travel."""
        if all(isinstance(prompt, str) for prompt in travels):
            return c, uc
        parser, empty = host.module("prompt_parser"), host.empty_prompt()

        def second(prompt: PromptTravel, function: Any, **facts: Any) -> tuple[Any, list[float]]:
            _, texts, shares = first_texts(prompt, self.num_frames)
            texts, _ = host.module("extra_networks").parse_prompts(texts)
            texts = parser.SdConditioning(texts, width=self.p.width, height=self.p.height, **facts)
            return self.p.get_conds_with_caching(function, texts, steps, [[None, None]], networks, hires), shares

        if isinstance(travels[0], PromptTravel):
            later, shares = second(travels[0], parser.get_multicond_learned_conditioning)
            c = conds.blend_prompts(c, later, shares, empty)
        if isinstance(travels[1], PromptTravel) and uc is not None:  # none at a CFG scale of 1, in some hosts
            later, shares = second(travels[1], parser.get_learned_conditioning, is_negative_prompt=True)
            uc = conds.blend_negative(uc, later, shares, empty)
        return c, uc

    def _sample(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        assert self.job is not None, "a clip begins with its prompts"
        start = getattr(self.p, "init_latent", None)  # the next clip begins with it too
        try:
            with self.backend.attach(self.p, self.job):
                if self.img2img and self._source is None:
                    fade_latents(self.p, self.settings)
                if self.settings.freeinit_enable:
                    return sample_again(self.p, self.job, lambda: original(*args, **kwargs))
                return original(*args, **kwargs)
        finally:
            if start is not None:
                self.p.init_latent = start

    def before_sampling(self, **kwargs: Any) -> None:
        """The host is about to sample, inside of `_sample`; a backend that patches copies of the UNet does it now."""
        if self.job is not None:
            self.backend.before_sampling(self.p, self.job, **kwargs)

    def add_frame(self, image: Any) -> None:
        """Take one finished image of the clip (`postprocess_image_after_composite`)."""
        self.frames.setdefault(self.p.iteration, []).append(image)

    def finish(self, processed: Any) -> None:
        """Write the clips, and show them in the place of the host's images (`postprocess`)."""
        p = self.p
        self.undo()
        if not self.frames or (host.interrupted() and not host.keeps_incomplete()):
            return
        if self.settings.interp != "Off":
            host.say(p, f"frames in between are made by optical flow, not by {self.settings.interp}")
        images, texts = [], []
        prompts, negatives = list(p.all_prompts), list(p.all_negative_prompts)
        for clip, frames in self.frames.items():
            index = clip * self.num_frames
            text = host.infotext(p, prompts, negatives, index)
            try:
                files = write_clip(
                    frames,
                    self.settings,
                    samples=Path(p.outpath_samples),
                    seed=int(p.all_seeds[index]),
                    text=text,
                    quality=int(host.option(host.QUALITY, 80)),
                )
            except UserError as error:
                host.say(p, renamed(str(error), NAMES))
                files = []
            shown = self._shown(frames, files)
            images += shown
            texts += [text] * len(shown)
            if files:
                host.say(p, f"written: {', '.join(map(str, _outer(files)))}")
        processed.images, processed.infotexts = images, texts
        processed.index_of_first_image = 0
        processed.comments = "".join(f"{comment}\n" for comment in p.comments)

    def _shown(self, frames: list[Any], files: list[Path]) -> list[Any]:
        if (getattr(self.p, "script_args", None) or (0,))[0]:  # a script such as X/Y/Z plot, which wants images
            return list(frames)
        if getattr(self.p, "is_api", False):
            return reply(frames, files, self.settings)
        moving = [str(path) for path in files if path.suffix in (".gif", ".webp")]
        return moving or list(frames)


def _outer(files: list[Path]) -> list[Path]:
    """Files, and folders in the place of frames."""
    return list(dict.fromkeys(path.parent if path.suffix == ".png" else path for path in files))


class _hires_texts:  # noqa: N801 - a context, used as a function
    """While it lasts, `p` has other prompts for hires. fix; none where that is off. They stay in its infotext."""

    def __init__(self, p: Any, num_frames: int) -> None:
        self.p = p
        self.used = bool(getattr(p, "enable_hr", False) and hasattr(p, "all_hr_prompts"))
        self.place = slice(p.iteration * num_frames, (p.iteration + 1) * num_frames)

    def __enter__(self) -> _hires_texts | None:
        if not self.used:
            return None
        self._kept = self.p.all_hr_prompts, self.p.all_hr_negative_prompts
        self.prompts, self.negatives = (list(texts[self.place]) for texts in self._kept)
        return self

    def set(self, prompts: list[str], negatives: list[str]) -> None:
        self.p.all_hr_prompts, self.p.all_hr_negative_prompts = map(list, self._kept)
        self.p.all_hr_prompts[self.place], self.p.all_hr_negative_prompts[self.place] = prompts, negatives

    def __exit__(self, *error: object) -> None:
        if self.used:
            self.p.all_hr_prompts, self.p.all_hr_negative_prompts = self._kept


def _before(p: Any, name: str, step: Callable[..., Any]) -> None:
    """Let `step(original, ...)` run in the place of a method of this `p`; its mistakes become the host's errors."""
    original = getattr(p, name)

    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return step(original, *args, **kwargs)
        except UserError as error:
            raise _shown_error(p, error) from None

    setattr(p, name, call)


def _refuse(p: Any, error: UserError) -> None:
    """End the generation with a message: what callbacks raise, hosts print and forget."""

    def fail(*args: Any, **kwargs: Any) -> Any:
        raise _shown_error(p, error) from None

    p.setup_prompts = fail


def _shown_error(p: Any, error: UserError) -> Exception:
    return host.error(p, renamed(str(error), NAMES))
