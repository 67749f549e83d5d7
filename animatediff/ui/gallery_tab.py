"""The tab of results: choose one, see it and its settings, put these back into the form."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import Any

from animatediff.errors import UserError
from animatediff.render.portable import portable
from animatediff.ui import stage
from animatediff.ui.form import Form
from animatediff.ui.gallery import Gallery, table
from animatediff.ui.labels import worded
from animatediff.ui.library import gr
from animatediff.ui.run import played
from animatediff.ui.views import downloadable

PAGE = 60
"""Clips shown at first, and more with each press of the button."""


@dataclass
class GalleryTab:
    """The components of the tab, and what refreshes them."""

    gallery: Gallery
    form: Form
    tabs: Any
    count: Any
    grid: Any
    names: Any
    """State: names of the clips shown, in order."""
    more: Any
    stage: Any
    buttons: list[Any]
    download: Any
    chosen: Any
    """State: name of the clip chosen."""
    settings: Any
    line: Any

    @property
    def outputs(self) -> list[Any]:
        """What `refresh` changes."""
        return [self.count, self.grid, self.names, self.more]

    def refresh(self) -> list[Any]:
        """The newest clips."""
        return self._first(PAGE)

    def extend(self, names: list[str]) -> list[Any]:
        """More of them."""
        return self._first(len(names) + PAGE)

    def _first(self, count: int) -> list[Any]:
        results = self.gallery.results()
        shown = results[:count]
        clips = "1 clip" if len(results) == 1 else f"{len(results)} clips"
        line = f"{clips} in {self.gallery.output}" if results else "No clips yet: press Generate"
        return [
            f"<p>{escape(line)}</p>",
            gr.Gallery([self.gallery.thumbnail(one) for one in shown], selected_index=None),
            [self.gallery.name(one) for one in shown],
            gr.Button(visible=len(shown) < len(results)),
        ]

    def choose(self, names: list[str], event: gr.SelectData) -> dict[Any, Any]:
        """Show a clip and its settings."""
        name = names[event.index] if isinstance(event.index, int) and 0 <= event.index < len(names) else ""
        try:
            path = self.gallery.named(name)
        except UserError as error:
            return {self.line: gr.HTML(stage.message(str(error), "error"), visible=True)}
        updates = {
            self.chosen: name,
            self.download: gr.DownloadButton(value=str(downloadable(path)), visible=True),
        }
        try:
            request = self.gallery.request(path)
        except UserError as error:
            return {
                **updates,
                self.stage: played(path, sound=False),
                self.settings: "",
                self.line: gr.HTML(stage.message(worded(str(error)), "error"), visible=True),
                **{button: gr.Button(visible=False) for button in self.buttons},
            }
        stored, _ = portable(request.stored(), self.form.sources.choices.roots)
        return {
            **updates,
            self.stage: played(path, sound=request.audio),
            self.settings: table(stored),
            self.line: gr.HTML("", visible=False),
            **{button: gr.Button(visible=True) for button in self.buttons},
        }

    def put_back(self, name: str) -> dict[Any, Any]:
        """The settings of the clip chosen, in the form."""
        try:
            values = self.form.shown(self.gallery.request(self.gallery.named(name)))
        except UserError as error:
            return {self.line: gr.HTML(stage.message(worded(str(error)), "error"), visible=True)}
        filled = dict(zip(self.form.components, values, strict=True))
        return {**filled, self.tabs: gr.Tabs(selected="create")}


def make_gallery(gallery: Gallery, form: Form, tabs: Any) -> GalleryTab:
    """Make the tab in the current place of the page."""
    with gr.Row(elem_classes="ad-gallery"):
        with gr.Column():
            count = gr.HTML("")
            grid = gr.Gallery(
                [],
                label="Results",
                show_label=False,
                columns=5,
                height="auto",
                allow_preview=False,
                object_fit="cover",
                buttons=[],
                elem_id="gallery",
                interactive=False,
            )
            more = gr.Button("Show more", size="sm", visible=False)
        with gr.Column():
            shown = gr.HTML('<div class="ad-frame"><div class="ad-hint">Choose a clip.</div></div>', elem_id="chosen")
            line = gr.HTML("", visible=False)
            with gr.Row():
                back = gr.Button("Use these settings", variant="primary", size="sm", visible=False, elem_id="put-back")
                download = gr.DownloadButton("Download", size="sm", visible=False)
            settings = gr.HTML("")
    names, chosen = gr.State([]), gr.State("")
    tab = GalleryTab(
        gallery, form, tabs, count, grid, names, more, shown, [back], download, chosen, settings, line
    )  # fmt: skip
    quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    grid.select(tab.choose, names, [shown, back, download, chosen, settings, line], **quiet)
    more.click(tab.extend, names, tab.outputs, **quiet)
    back.click(tab.put_back, chosen, [*form.components, tabs, line], **quiet)
    return tab
