"""AnimateDiff, as the WebUIs load it: a thin script over the package `animatediff_webui` beside it."""

from __future__ import annotations

from typing import Any

from animatediff_webui import form, generation, host
from modules import script_callbacks, scripts, shared  # pyright: ignore[reportMissingImports]


class AnimateDiff(scripts.Script):
    """An accordion on txt2img and img2img, and the steps of a generation."""

    def title(self) -> str:
        return "AnimateDiff"

    def show(self, is_img2img: bool) -> Any:
        return scripts.AlwaysVisible

    def ui(self, is_img2img: bool) -> list[Any]:
        components, fields = form.build(img2img=is_img2img)
        self.infotext_fields = fields
        self.paste_field_names = ["AnimateDiff"]
        return components

    def before_process(self, p: Any, *args: Any) -> None:
        generation.start(p, args, img2img=self.is_img2img)

    def process_before_every_sampling(self, p: Any, *args: Any, **kwargs: Any) -> None:
        if (running := generation.of(p)) is not None:
            running.before_sampling(**kwargs)

    def postprocess_image_after_composite(self, p: Any, pp: Any, *args: Any) -> None:
        if (running := generation.of(p)) is not None:
            running.add_frame(pp.image)

    def postprocess(self, p: Any, processed: Any, *args: Any) -> None:
        if (running := generation.of(p)) is not None:
            running.finish(processed)


def add_settings() -> None:
    """Put the extension's own settings on the page of the host's."""
    section = ("animatediff", "AnimateDiff")
    for name, default, label in (
        (host.MODEL_PATH, "", "Folder of motion modules, beside models/animatediff and others"),
        (host.LORA_PATH, "", "Folder of MotionLoRAs, beside those of LoRAs"),
    ):
        shared.opts.add_option(name, shared.OptionInfo(default, label, section=section))
    import gradio as gr  # pyright: ignore[reportMissingImports]

    limits = {"minimum": 0, "maximum": 100, "step": 1}
    quality = shared.OptionInfo(80, "Quality of MP4, WEBM and WEBP", gr.Slider, limits, section=section)
    shared.opts.add_option(host.QUALITY, quality)


script_callbacks.on_ui_settings(add_settings)
