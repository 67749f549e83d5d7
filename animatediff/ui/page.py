"""The page: where the fields of the form stand, and what its buttons do."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from animatediff.errors import UserError
from animatediff.files import Roots
from animatediff.prompts import PromptTravel
from animatediff.render.events import Reporter, noted
from animatediff.ui import stage
from animatediff.ui.choices import Choices
from animatediff.ui.fields import Model, Sources
from animatediff.ui.form import COLUMN, UNITS, Form, paired
from animatediff.ui.gallery import Gallery
from animatediff.ui.gallery_tab import make_gallery
from animatediff.ui.jobs import Jobs
from animatediff.ui.labels import groups
from animatediff.ui.library import gr
from animatediff.ui.media_fields import spread
from animatediff.ui.rows import Weights
from animatediff.ui.run import Result, Runs, formats
from animatediff.ui.uploads import Uploads

if TYPE_CHECKING:
    from animatediff.camera import CameraPath

QUIET: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
"""Of events that are done at once."""
BUNDLED = "The small bundled model: simple animals and shapes, in seconds on any machine."
TRAVEL = (
    *("prompt", "prompt_travel", "prompt_head", "prompt_tail", "prompt_interpolation", "prompt_hold"),
    *("prompt_loop", "closed_loop", "num_frames"),
)
"""Options that the timeline shows."""
CAMERA = ("camera", "num_frames", "camera_aspect", "video_fps", "video_start", "video_duration")
"""Options that the image of the camera's path shows."""


class Page:
    """The whole page; `blocks` is Gradio's."""

    def __init__(self, renderer: Any, *, roots: Roots, output: Path, download: bool = False) -> None:
        """`roots`: where models and the files of results are; `output`: where results go; `download`: from the hub."""
        self.choices = Choices(roots, output=output)
        self.form = Form(Sources(self.choices, Uploads(output)))
        self.jobs = Jobs(renderer)
        self.gallery = Gallery(output, roots)
        with gr.Blocks(
            title="AnimateDiff", analytics_enabled=False, fill_width=True, delete_cache=(3600, 86400)
        ) as self.blocks:
            gr.HTML('<div class="ad-title"><h1>AnimateDiff</h1><span>text and images to moving clips</span></div>')
            with gr.Tabs() as self.tabs:
                with gr.Tab("Create", id="create"), gr.Row(elem_classes="ad-main"):
                    self._make_basics()
                    self._make_result()
                    self._make_more()
                with gr.Tab("Gallery", id="gallery") as gallery_tab:
                    gallery = make_gallery(self.gallery, self.form, self.tabs)
                with gr.Tab("Models", id="models"):
                    with gr.Row():
                        self.folder = gr.HTML(f"<p>Files in {escape(str(roots.models[0]))}/, and the bundled set:</p>")
                        again = gr.Button("Refresh", size="sm", scale=0, min_width=120)
                    self.table = gr.HTML(self._models())
            self.runs = Runs(self.form, self.jobs, self.result, download=download)
            self._wire(again)
            gallery_tab.select(gallery.refresh, None, gallery.outputs, **QUIET)

    def close(self) -> None:
        """End the render at work, and the server."""
        self.jobs.close()
        self.blocks.close(verbose=False)

    # -- layout --------------------------------------------------------------------------------------------------------

    def _make_basics(self) -> None:
        make = self.form.make
        with gr.Column(elem_classes="ad-basics"):
            make("prompt")
            make("negative_prompt")
            with gr.Row(elem_classes="ad-models-row"):
                self._cells("model", "motion_module")
                self.refresh = gr.Button("↻", elem_classes="ad-square", elem_id="refresh")
            self.about = gr.HTML(self._about("", ""), elem_classes="ad-about")
            with gr.Row(elem_classes="ad-numbers"):
                self._cells("width", "height", "num_frames", "fps")
            with gr.Row(elem_classes="ad-three"):
                self._cells("steps", "guidance_scale", "scheduler")
            with gr.Row(elem_classes="ad-seed"):
                self._cells("seed")
                self.dice = gr.Button("⚄", elem_classes="ad-square", elem_id="dice")
                with gr.Column(min_width=60):
                    self.clips = gr.Number(1, label="Clips", info="with the next seeds", step=1, elem_id="clips")
                with gr.Column(min_width=60):
                    self.format = gr.Dropdown(formats(), value=".mp4", label="Format", info="of the file")

    def _cells(self, *names: str) -> None:
        for name in names:
            with gr.Column(min_width=60):
                self.form.make(name)

    def _make_result(self) -> None:
        with gr.Column(elem_classes="ad-side"):
            with gr.Row(elem_classes="ad-go"):
                generate = gr.Button("Generate", variant="primary", size="lg", elem_id="generate")
                cancel = gr.Button("Cancel", variant="stop", size="lg", visible=False, elem_id="cancel")
            line = gr.HTML("", visible=False, elem_id="line")
            shown = gr.HTML(stage.empty(), elem_id="stage")
            clips = gr.Radio([], label="Clips of this run", visible=False)
            facts = gr.HTML("", elem_id="facts")
            with gr.Row():
                use_seed = gr.Button("Use this seed", size="sm", visible=False, elem_id="use-seed")
                download = gr.DownloadButton("Download", size="sm", visible=False, elem_id="download")
            notes = gr.HTML("")
        self.result = Result(
            generate=generate,
            cancel=cancel,
            stage=shown,
            line=line,
            facts=facts,
            seed=gr.State(""),
            use_seed=use_seed,
            download=download,
            notes=notes,
            clips=clips,
            files=gr.State([]),
            marked=gr.State([]),
        )

    def _make_more(self) -> None:
        with gr.Column(elem_classes="ad-more"):
            for title, names in groups().items():
                with gr.Accordion(title, open=False, elem_classes="ad-fold") as fold:
                    self.form.folds[title] = fold
                    if title == "ControlNet":
                        self._make_units()
                        names = [name for name in names if name in self.form.fields]
                    self._make_fields(names)
                    if title == "Prompt travel":
                        self.timeline = gr.HTML("", elem_classes="ad-timeline", elem_id="timeline")
                    if title == "Camera and motion":
                        self.camera = gr.HTML("", elem_classes="ad-timeline", elem_id="camera-path")

    def _make_fields(self, names: list[str]) -> None:
        for pair in paired([self.form.fields[name] for name in names]):
            with gr.Row(equal_height=False):
                for field in pair:
                    with gr.Column(min_width=COLUMN):
                        self.form.make(field.name)

    def _make_units(self) -> None:
        with gr.Tabs():
            for number in range(UNITS):
                with gr.Tab(f"ControlNet {number + 1}"):
                    self.form.make_unit(number)

    # -- events --------------------------------------------------------------------------------------------------------

    def _wire(self, again: Any) -> None:
        runs, r, form = self.runs, self.result, self.form
        gr.on(
            [r.generate.click, *(part.submit for part in form.parts("prompt"))],
            runs.generate,
            [self.format, self.clips, r.marked, *form.components],
            [*r.all, *form.errors.values(), *form.folds.values()],
            concurrency_limit=None,
            show_progress="hidden",
            trigger_mode="multiple",
            api_visibility="private",
        )
        r.cancel.click(runs.cancel, None, [r.cancel], **QUIET)
        r.clips.input(runs.choose, [r.files, r.clips], r.all, **QUIET)
        (seed,) = form.parts("seed")
        r.use_seed.click(lambda used: used, r.seed, seed, **QUIET)
        self.dice.click(lambda: "-1", None, seed, **QUIET)
        self._wire_models(again)
        self._wire_frames()
        watched = [part for name in TRAVEL for part in form.parts(name)]
        for name, part in zip(TRAVEL, watched, strict=True):
            event = part.blur if name in ("prompt", "prompt_head", "prompt_tail") else part.change
            event(self._timeline, watched, self.timeline, trigger_mode="always_last", **QUIET)

        moves, *others = watched = [part for name in CAMERA for part in form.parts(name)]
        for event in (moves.blur, *(part.change for part in others)):
            event(self._camera, watched, self.camera, trigger_mode="always_last", **QUIET)

    def _wire_models(self, again: Any) -> None:
        fields = [field for field in self.form.fields.values() if isinstance(field, Model | Weights)]
        fields += [field for unit in self.form.units.units for field in unit if isinstance(field, Model)]
        lists = [(part, field) for field in fields for part in field.parts if isinstance(part, gr.Dropdown)]

        def refreshed() -> list[Any]:
            self.choices.refresh()
            sources = self.form.sources
            return [*(gr.Dropdown(choices=field.choices(sources)) for _, field in lists), self._models()]

        outputs = [*(part for part, _ in lists), self.table]
        for event in (self.refresh.click, again.click, self.blocks.load):
            event(refreshed, None, outputs, **QUIET)
        both = [*self.form.parts("model"), *self.form.parts("motion_module")]
        for part in both:
            part.change(self._about, both, self.about, **QUIET)

    def _wire_frames(self) -> None:
        """Frames of images that are dropped, from the length of the clip."""
        (length,) = self.form.parts("num_frames")
        keyframes, at = self.form.parts("keyframes")
        (images,), (indices,) = self.form.parts("control_images"), self.form.parts("control_indices")
        for gallery, text in ((keyframes, at), (images, indices)):
            gallery.change(spread, [gallery, text, length], text, **QUIET)

    def _about(self, model: str, motion_module: str) -> str:
        lines = [self.choices.about(value) for value in (model, motion_module) if value]
        if not model:
            lines.insert(0, "Stable Diffusion 1.5 from models/" if motion_module else BUNDLED)
        return "".join(f"<p>{escape(line)}</p>" for line in lines if line)

    def _models(self) -> str:
        """A table of what lies in models/."""
        rows = []
        for entry in self.choices.entries:
            about = self.choices.about(entry.value).removeprefix(f"{entry.words}, ")
            advice = entry.facts.get("error") or entry.facts.get("what_to_do") or about
            cells = (entry.value.removeprefix("models/"), entry.words, advice)
            rows.append("<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in cells) + "</tr>")
        head = "<tr><th>Name</th><th>What it is</th><th>Details</th></tr>"
        return f'<table class="ad-models">{head}{"".join(rows)}</table>'

    def _camera(self, moves: Any, file: Any, *values: Any) -> str:
        """The image of the camera's path, or why there is none."""
        from animatediff.render.camera_image import camera_image

        fields, sources = self.form.fields, self.form.sources
        try:
            given = fields["camera"].read([moves, file], sources)
            if not given:
                return ""
            settings = {
                name: fields[name].read([value], sources) for name, value in zip(CAMERA[1:], values, strict=True)
            }
            with noted(reporter := Reporter()):
                path = _path_of(given, settings)
            shown = stage.image(camera_image(path), f"Path of the camera: {path}")
            return shown + "".join(stage.message(note, "note") for note in reporter.notes)
        except (UserError, ValueError) as error:
            return stage.message(str(error), "error")

    def _timeline(self, *values: Any) -> str:
        """The image of the texts over the frames, or why there is none."""
        from animatediff.render.timeline import timeline_image

        given = dict(zip(TRAVEL, values, strict=True))
        try:
            texts = self.form.fields["prompt_travel"].read([given["prompt_travel"]], self.form.sources)
            if not texts:
                return ""
            travel = PromptTravel(
                {0: given["prompt"] or "(the prompt above)", **texts[0]},
                head=given["prompt_head"] or "",
                tail=given["prompt_tail"] or "",
                interpolation=given["prompt_interpolation"],
                hold=given["prompt_hold"],
                loop=given["prompt_loop"] or given["closed_loop"],
            )
            number = self.form.fields["num_frames"].read([given["num_frames"]], self.form.sources)
            length = int(number or max(16, max(travel.texts) + 1))
            travel.check(length)
            return stage.image(timeline_image(travel, length), "Texts over the frames of the clip")
        except (UserError, ValueError) as error:
            return stage.message(str(error), "error")


def _path_of(given: str, settings: Mapping[str, Any]) -> CameraPath:
    """The path that the camera takes: of moves as long as the clip, of a file of poses whole, of a video a part."""
    from animatediff.camera import camera_path, is_file, is_video, path_of_video
    from animatediff.media.source import open_source
    from animatediff.render.inputs import MAX_FRAMES

    length, aspect = settings["num_frames"], settings["camera_aspect"]
    if not is_video(given):
        return camera_path(given, None if is_file(given) else int(length or 16), aspect=aspect)
    start = settings["video_start"] or 0.0
    source = open_source(given, fps=settings["video_fps"], start=start, duration=settings["video_duration"])
    return path_of_video(source, int(length or min(MAX_FRAMES, len(source.indices))), aspect=aspect)
