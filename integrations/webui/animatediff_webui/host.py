"""The few things that are asked of the host by name, so that no other file imports its modules.

`modules` is the package of all hosts that come from A1111's WebUI.
"""

from __future__ import annotations

import html
import importlib
import sys
from pathlib import Path
from typing import Any

from animatediff_webui.models import Folders

MODEL_PATH, LORA_PATH, QUALITY = "animatediff_model_path", "animatediff_motion_lora_path", "animatediff_quality"
"""Names of the host's settings."""
EXTENSION = Path(__file__).resolve().parents[1]


class AnimateDiffError(RuntimeError):
    """A mistake, as hosts show it: name of the class, and message."""


def module(name: str) -> Any:
    """A module of the host."""
    return importlib.import_module(f"modules.{name}")


def option(name: str, default: Any) -> Any:
    """A setting of the host; `default` where it has none of that name, or an empty one."""
    value = getattr(module("shared").opts, name, None)
    return default if value in (None, "") else value


def folders() -> Folders:
    """The folders that motion modules and MotionLoRAs are looked for in."""
    shared, paths = module("shared"), module("paths")
    models, extensions = Path(paths.models_path), Path(paths.data_path) / "extensions"
    named = [Path(given).expanduser()] if (given := option(MODEL_PATH, "")) else []
    modules = [
        *named,
        models / "animatediff",
        models / "Motion_Module",
        models / "animatediff_models",
        EXTENSION / "model",
        extensions / "sd-webui-animatediff" / "model",
    ]
    lora = [Path(given).expanduser()] if (given := option(LORA_PATH, "")) else []
    loras = [
        *lora,
        Path(getattr(shared.cmd_opts, "lora_dir", None) or models / "Lora"),
        models / "animatediff_motion_lora",
        models / "MotionLoRA",
    ]
    return Folders(tuple(dict.fromkeys(modules)), tuple(dict.fromkeys(loras)))


def interrupted() -> bool:
    """Whether the user asked the host to stop."""
    state = module("shared").state
    return bool(state.interrupted or state.skipped)


def stop_if_interrupted() -> None:
    """Raise what the host's samplers end with when the user asked to stop; long clips take long for one step."""
    if interrupted():
        raise module("sd_samplers_common").InterruptedException


def keeps_incomplete() -> bool:
    """Whether images are written though their sampling was stopped."""
    return bool(option("save_incomplete_images", False))


def empty_prompt() -> Any:
    """The host's prompt embeddings (1, 77, d) of an empty prompt; Forge and Forge Neo keep none, so they are made."""
    sd_model = module("shared").sd_model
    kept = getattr(sd_model, "cond_stage_model_empty_prompt", None)
    if kept is not None:
        return kept
    made = sd_model.get_learned_conditioning(module("prompt_parser").SdConditioning([""]))
    return made["crossattn"] if isinstance(made, dict) else made


def last_alpha_cumprod() -> float:
    """Share of signal at the noisiest step of the schedule that the host samples with now."""
    sd_model = module("shared").sd_model
    if (forge := getattr(sd_model, "forge_objects", None)) is None:
        return float(sd_model.alphas_cumprod[-1])
    model = forge.unet.model
    levels = model.predictor if hasattr(model, "predictor") else model.model_sampling
    return 1 / (float(levels.sigmas[-1]) ** 2 + 1)


def infotext(p: Any, prompts: list[str], negatives: list[str], index: int) -> str:
    """The host's text of the image with that index among all of `p`, settings of all extensions included."""
    return module("processing").create_infotext(
        p, prompts, p.all_seeds, p.all_subseeds, index=index, all_negative_prompts=negatives
    )


def error(p: Any, message: str) -> Exception:
    """The exception by which the host shows a mistake: at the page as it stands, to the API with status 422."""
    if getattr(p, "is_api", False):
        from fastapi import HTTPException  # pyright: ignore[reportMissingImports]

        return HTTPException(status_code=422, detail=message)
    _answer_the_page(message)
    return AnimateDiffError(message)


def _answer_the_page(message: str) -> None:
    """Leave the message where reForge looks for images: what is raised while it draws for its page, it forgets.

    The task that it runs this in, of `modules_forge.main_thread`, is on the stack; those of Forge and of Forge Neo keep
    exceptions themselves.
    """
    main_thread = sys.modules.get("modules_forge.main_thread")
    frame = None if main_thread is None else sys._getframe()
    while frame is not None:
        task: Any = frame.f_locals.get("self")
        if main_thread is not None and isinstance(task, main_thread.Task) and not hasattr(task, "exception"):
            text = html.escape(f"{AnimateDiffError.__name__}: {message}")
            task.result = ([], "", "", f"<div class='error'>{text}</div>")  # images, their facts and text, what is said
            return
        frame = frame.f_back


def say(p: Any, message: str) -> None:
    """Tell the user something beside the result."""
    p.comment(f"AnimateDiff: {message}")
