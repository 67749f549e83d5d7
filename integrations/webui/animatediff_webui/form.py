"""The accordion on the pages txt2img and img2img, made from the table of settings; for gradio 3.41 and 4.40 alike."""

from __future__ import annotations

from typing import Any

from animatediff.errors import UserError
from animatediff_webui import host
from animatediff_webui.settings import DEFAULTS, FACTS, FORMATS, INFOTEXT_NAME, Settings, page_names

ROWS: tuple[tuple[str, ...], ...] = (
    ("enable",),
    ("model",),
    ("format",),
    ("video_length", "fps", "loop_number"),
    ("closed_loop",),
    ("batch_size", "stride", "overlap"),
    ("interp", "interp_x"),
    ("freeinit_enable", "freeinit_filter"),
    ("freeinit_ds", "freeinit_dt", "freeinit_iters"),
    ("video_source",),
    ("video_path",),
    ("latent_power", "latent_scale"),
    ("last_frame",),
    ("latent_power_last", "latent_scale_last"),
)
"""Settings side by side; those of img2img alone are left out on the other page."""


def build(*, img2img: bool) -> tuple[list[Any], list[tuple[Any, Any]]]:
    """The components in the order of `page_names`, and those that infotext fills, each with the function that reads it.

    Called inside of a page of the host.
    """
    import gradio as gr  # pyright: ignore[reportMissingImports]

    tab = "img2img" if img2img else "txt2img"
    names = page_names(img2img=img2img)
    assert {name for row in ROWS for name in row} >= set(names), "each setting has its place"
    made: dict[str, Any] = {}
    with gr.Accordion("AnimateDiff", open=False, elem_id=f"{tab}_animatediff"):
        for row in ROWS:
            with gr.Row():
                for name in row:
                    if name in names:
                        made[name] = _component(gr, name, f"{tab}_animatediff_{name}")
                if row == ("model",):
                    _refresh_button(gr, made["model"], f"{tab}_animatediff_refresh")
    fields = [(made[name], _reader(name)) for name in names if FACTS[name].infotext or name == "enable"]
    return [made[name] for name in names], fields


def _component(gr: Any, name: str, elem_id: str) -> Any:
    facts, default = FACTS[name], DEFAULTS[name]
    common = {"label": facts.label, "elem_id": elem_id}
    info = {"info": facts.info} if facts.info else {}
    if name == "model":
        folders = host.folders()
        return gr.Dropdown(choices=folders.names(), value=folders.default(), **common)
    if name == "format":
        return gr.CheckboxGroup(choices=list(FORMATS), value=list(default), **common)
    if name == "video_source":
        return gr.Video(**common)
    if name == "last_frame":
        return gr.Image(type="pil", **common)
    if facts.kind is bool:
        return gr.Checkbox(value=default, **common, **info)
    if facts.choices:
        return gr.Radio(choices=list(facts.choices), value=default, **common, **info)
    if facts.kind is str:
        return gr.Textbox(value=default, **common, **info)
    if facts.maximum is not None and facts.maximum <= 128:
        limits = {"minimum": facts.minimum, "maximum": facts.maximum, "step": facts.step}
        return gr.Slider(value=default, **limits, **common, **info)
    return gr.Number(value=default, precision=0, **common, **info)


def _refresh_button(gr: Any, dropdown: Any, elem_id: str) -> None:
    def refreshed() -> Any:
        folders = host.folders()
        names = folders.names()
        if not names:
            gr.Warning(folders.nothing())
        return gr.update(choices=names, value=folders.default())

    button = gr.Button("Refresh", elem_id=elem_id, size="sm", scale=0, min_width=110)
    button.click(fn=refreshed, inputs=[], outputs=[dropdown])


def _reader(name: str) -> Any:
    """The function by which a host reads a setting from infotext; None leaves it as it is."""

    def read(params: Any) -> Any:
        text = params.get(INFOTEXT_NAME)
        if not text:
            return None
        try:
            found, strange = Settings.from_infotext(text)
        except UserError as error:
            _warn(name, str(error))
            return None
        if strange:
            _warn(name, f"{INFOTEXT_NAME}: unknown settings in the text: {', '.join(strange)}")
        return True if name == "enable" else found.get(name)

    return read


def _warn(name: str, message: str) -> None:
    if name == "enable":  # once, not for each setting
        import gradio as gr  # pyright: ignore[reportMissingImports]

        gr.Warning(message)
