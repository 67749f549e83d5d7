"""The doors of this project side by side: the request that each makes of the same settings, and the frames.

`python -m scripts.doors` renders one request through all of them and prints a table. A new door is a line in `DOORS`.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np

from animatediff.media.read import read_video
from animatediff.render.options import BY_NAME, CALL_OPTIONS, FLAGS, IN_MEMORY, PATH_FIELDS
from animatediff.render.portable import with_files
from animatediff.render.request import AnimateRequest, build_request

Settings = Mapping[str, Any]
"""Values by option, as a file of rows has them; files by their paths."""

CURVES = {name for name, option in BY_NAME.items() if "dict[int, float]" in option.annotation}
"""Options that take one number, or numbers at frames."""
EXAMPLE: Settings = {
    "prompt": "a fox moving right on a green background",
    "negative_prompt": "a boat",
    "seed": 7,
    "num_frames": 4,
    "steps": 2,
    "guidance_scale": 3.0,
    "motion_scale": 1.1,
    "scheduler": "euler_a",
}
"""The request that is rendered through all doors."""


@dataclass
class Place:
    """A working directory with folders of models, and what doors keep open."""

    folder: Path
    stack: ExitStack = field(default_factory=ExitStack)

    @cached_property
    def renderer(self) -> Any:
        """One renderer for the doors that take one."""
        from animatediff.render.renderer import Renderer

        return Renderer()

    @cached_property
    def page(self) -> Any:
        """The web page, without a browser."""
        from animatediff.ui.launch import roots_of
        from animatediff.ui.page import Page

        output = self.folder / "page"
        page = Page(self.renderer, roots=roots_of(output), output=output)
        self.stack.callback(page.close)
        return page

    @cached_property
    def prediction(self) -> Any:
        """The Cog model, without its server."""
        from integrations.cog.animatediff_cog.render import Rendering
        from integrations.cog.animatediff_cog.settings import Settings as CogSettings

        return Rendering(CogSettings(models=self.folder / "models"))

    @cached_property
    def service(self) -> Any:
        """The parts of the HTTP service, without a socket."""
        from animatediff.server.service import Service
        from animatediff.server.settings import Settings as ServiceSettings

        return Service.of(
            ServiceSettings(data=self.folder / "service", models=(self.folder / "models",), min_free_mb=0)
        )


@contextmanager
def a_place() -> Iterator[Place]:
    """A new working directory, which goes at the end."""
    before = os.getcwd()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        os.chdir(folder)
        stack.callback(os.chdir, before)
        for models in filter(None, PATH_FIELDS.values()):
            (Path("models") / models).mkdir(parents=True, exist_ok=True)
        yield Place(Path(folder), stack)


# -- settings as texts -------------------------------------------------------------------------------------------------


def texts_of(name: str, value: Any) -> list[str]:
    """A value as flags and cells have it: one text for each entry."""
    if isinstance(value, Mapping) and name in CURVES:
        return [",".join(f"{frame}={number}" for frame, number in value.items())]
    if isinstance(value, Mapping) and "path" in value:
        if "frame" in value:
            return [f"{value['frame']}={value['path']}"]
        rest = value.get("scale", value.get("token"))
        return [value["path"] if rest is None else f"{value['path']}:{rest}"]
    if isinstance(value, Mapping):
        return [f"{frame}={text}" for frame, text in value.items()]
    if isinstance(value, list) and name == "controlnet_spread":
        return [",".join(map(str, entry)) for entry in value]
    if isinstance(value, list):
        return [text for item in value for text in texts_of(name, item)]
    return ["true" if value is True else str(value)]


# -- the request that a door makes -------------------------------------------------------------------------------------


def of_python(settings: Settings, place: Place) -> AnimateRequest:
    return build_request(settings)


def _arguments(settings: Settings) -> list[str]:
    given = []
    for name, value in settings.items():
        if name == "prompt":
            continue
        for text in texts_of(name, value):
            given += [FLAGS[name]] if value is True else [FLAGS[name], text]
    return given + texts_of("prompt", settings["prompt"])


def of_command(settings: Settings, place: Place) -> AnimateRequest:
    from animatediff.cli import animate

    with mock.patch.object(animate, "run") as run:  # which takes the settings that the flags give
        animate.command().main(_arguments(settings), standalone_mode=False)
    return build_request(run.call_args.args[0])


def _components(settings: Settings, place: Place) -> list[Any]:
    """The values of the form's components, files as a browser has sent them."""
    from animatediff.ui.library import uploads_folder

    sent = Path(uploads_folder()) / f"of-the-doors-{os.getpid()}"
    sent.mkdir(parents=True, exist_ok=True)
    place.stack.callback(shutil.rmtree, sent, ignore_errors=True)

    def upload(path: str, setting: str, _: str) -> str:
        is_model = bool(PATH_FIELDS[setting]) or setting == "ip_adapter_encoder"
        return path if is_model or not Path(path).is_file() else str(shutil.copy(path, sent))

    form = place.page.form
    long = build_request(settings).model_dump(mode="json", exclude_unset=True)
    uploaded = with_files(long, upload)
    if (video := uploaded.get("video")) and Path(video).is_dir():  # a browser sends the files of a folder
        copied = sent / "folder"
        shutil.copytree(video, copied, dirs_exist_ok=True)
        uploaded["video"] = str(copied)
    shown = {name: field.show(uploaded.get(name), form.sources) for name, field in form.fields.items()}
    shown |= form.units.show(uploaded, form.sources)
    return [value for name in form.names for value in shown[name]]


def of_page(settings: Settings, place: Place) -> AnimateRequest:
    return place.page.form.request(_components(settings, place))


def _body(settings: Settings, **others: Any) -> dict[str, Any]:
    """The JSON of a client; images and videos as data URLs."""
    from animatediff.server.schema import TOP

    def sent(path: str, setting: str, _: str) -> str:
        if setting not in IN_MEMORY:
            return Path(path).name if Path(path).is_file() else path
        kind = "image/png" if path.endswith(".png") else "video/mp4"
        return f"data:{kind};base64,{base64.b64encode(Path(path).read_bytes()).decode()}"

    plain = {
        name: value[0] if name in ("prompt", "negative_prompt", "seed") and isinstance(value, list) else value
        for name, value in with_files(settings, sent).items()
    }
    fields = {name: plain.pop(option) for name, option in TOP.items() if option in plain}
    return {**fields, **others, "extra_params": plain}


def of_http(settings: Settings, place: Place) -> AnimateRequest:
    from animatediff.server.form import Body
    from animatediff.server.uploads import Uploads

    uploads = Uploads(Path(tempfile.mkdtemp(dir=place.folder)))
    format = "gif" if "max_size" in settings else "mp4"
    asked = place.service.reader.read(Body(_body(settings, output_format=format)), uploads)
    uploads.write()
    return build_request(asked.options)


def of_batch(settings: Settings, place: Place) -> AnimateRequest:
    from animatediff.batch import BadRowsError, read_jobs

    row = dict(settings)
    shared = {"download": row.pop("download")} if "download" in row else {}  # which no file decides
    table = place.folder / "row.csv"
    with table.open("w", newline="") as file:
        csv.writer(file).writerows([list(row), ["|".join(texts_of(name, value)) for name, value in row.items()]])
    jobs = read_jobs(table, shared)
    if jobs.faults:
        raise BadRowsError(str(table), jobs.faults, may_be_more=False)
    (job,) = jobs.jobs
    return job.request.model_copy(update={"out": job.target} if "out" in row else {})


def _cog_inputs(settings: Settings) -> dict[str, Any]:
    """The inputs of a prediction: models by name, texts in their short forms, files as Cog has fetched them."""

    def named(path: str, setting: str, _: str) -> str:
        return path if setting in IN_MEMORY or not Path(path).is_file() else Path(path).name

    given: dict[str, Any] = {}
    for name, value in with_files(settings, named).items():
        option = BY_NAME[name]
        if name == "keyframes":
            given["keyframes"] = [Path(entry["path"]) for entry in value]
            given["keyframe_indices"] = [entry["frame"] for entry in value]
        elif option.in_memory:
            given[name] = list(map(Path, value)) if isinstance(value, list) else Path(value)
        elif option.parse is not None or name in CURVES:
            texts = texts_of(name, value)
            given[name] = texts if option.many else texts[0]
        else:
            given[name] = value[0] if option.per_clip and isinstance(value, list) else value
    return given


def of_cog(settings: Settings, place: Place) -> AnimateRequest:
    format = "gif" if "max_size" in settings else "mp4"
    return place.prediction.reader.read({**_cog_inputs(settings), "output_format": format}).request


# -- the frames that come out of it ------------------------------------------------------------------------------------


def pipeline_frames(settings: Settings, place: Place) -> np.ndarray:
    import torch

    from animatediff.pipelines import AnimateDiffPipeline

    pipe = AnimateDiffPipeline.from_bundled()
    pipe.set_progress_bar_config(disable=True)
    if scheduler := settings.get("scheduler"):
        pipe.set_scheduler(scheduler)
    arguments = {CALL_OPTIONS[name]: value for name, value in settings.items() if name in CALL_OPTIONS}
    texts = {name: settings[name] for name in ("prompt", "negative_prompt") if name in settings}
    generator = torch.Generator().manual_seed(settings["seed"])
    return np.stack([np.asarray(image) for image in pipe(**arguments, **texts, generator=generator).frames[0]])


def renderer_frames(settings: Settings, place: Place) -> np.ndarray:
    (clip,) = (clip.array() for clip in place.renderer.clips([build_request(settings)]))
    return clip


def command_frames(settings: Settings, place: Place) -> np.ndarray:
    from typer.testing import CliRunner

    from animatediff.cli.main import app

    file = place.folder / "command.apng"
    result = CliRunner().invoke(app, ["animate", "--quiet", "--out", str(file), *_arguments(settings)])
    if result.exit_code:
        raise RuntimeError(result.output)
    return read_video(file)[0]


def page_frames(settings: Settings, place: Place) -> np.ndarray:
    page = place.page
    browser: Any = SimpleNamespace(session_hash="doors")
    updates: dict[Any, Any] = {}
    for update in page.runs.generate(browser, ".apng", 1, [], *_components(settings, place)):
        updates |= update
    if page.result.files not in updates:
        raise RuntimeError(str(updates.get(page.result.line)))
    return read_video(updates[page.result.files][0][0])[0]


def http_frames(settings: Settings, place: Place) -> np.ndarray:
    from starlette.testclient import TestClient

    from animatediff.server.app import create_app

    body = _body(settings, output_format="apng")
    data = place.service.settings
    with TestClient(create_app(data), base_url=f"http://{data.host}:{data.port}") as client:
        reply = client.post("/v1/videos/sync", json=body)
    if reply.status_code != 200:
        raise RuntimeError(reply.text)
    file = place.folder / "http.apng"
    file.write_bytes(reply.content)
    return read_video(file)[0]


def batch_frames(settings: Settings, place: Place) -> np.ndarray:
    from typer.testing import CliRunner

    from animatediff.cli.main import app

    table = place.folder / "rows.csv"
    with table.open("w", newline="") as file:
        csv.writer(file).writerows([list(settings), ["|".join(texts_of(*item)) for item in settings.items()]])
    result = CliRunner().invoke(app, ["batch", str(table), "--quiet", "--format", "apng", "--out", "batch"])
    if result.exit_code:
        raise RuntimeError(result.output)
    return read_video(result.stdout.strip())[0]


def cog_frames(settings: Settings, place: Place) -> np.ndarray:
    return read_video(place.prediction.render({**_cog_inputs(settings), "output_format": "apng"}))[0]


@dataclass(frozen=True)
class Door:
    """One way to a clip."""

    name: str
    frames: Callable[[Settings, Place], np.ndarray]
    """Rendered with the bundled model: uint8 (f, h, w, 3)."""
    request: Callable[[Settings, Place], AnimateRequest] | None = None
    """The request that it makes; None where it makes none."""
    without: Callable[[], Mapping[str, str]] = dict
    """Options that it does not take, and why."""
    needs: str = ""
    """Package without which it is not there."""


def _without_on_page() -> Mapping[str, str]:
    from animatediff.ui.labels import NOT_ON_THE_PAGE

    return dict.fromkeys(NOT_ON_THE_PAGE, "whoever starts the page decides it")


def _without_over_http() -> Mapping[str, str]:
    from animatediff.server.schema import REFUSED, TOP

    return {name: reason for name, reason in REFUSED.items() if name not in TOP}


def _without_in_cog() -> Mapping[str, str]:
    from integrations.cog.animatediff_cog.inputs import NOT_HERE

    return NOT_HERE


DOORS = (
    Door("AnimateDiffPipeline", pipeline_frames),
    Door("Renderer", renderer_frames, of_python),
    Door("animatediff animate", command_frames, of_command),
    Door("animatediff ui", page_frames, of_page, _without_on_page, needs="gradio"),
    Door("animatediff serve", http_frames, of_http, _without_over_http, needs="fastapi"),
    Door("animatediff batch", batch_frames, of_batch),
    Door("Cog", cog_frames, of_cog, _without_in_cog),
)


def digest(frames: np.ndarray) -> str:
    """Of frames and their size."""
    return hashlib.sha256(str(frames.shape).encode() + frames.tobytes()).hexdigest()[:16]


def table(settings: Settings = EXAMPLE) -> list[tuple[str, str, str]]:
    """(door, size of its frames, their digest) of the same settings through all doors."""
    with a_place() as place:
        found = []
        for door in DOORS:
            frames = door.frames(settings, place)
            found.append((door.name, "x".join(map(str, frames.shape[:3])), digest(frames)))
        return found


def main() -> None:
    """Print the table; exit code 1 where frames differ."""
    rows = table()
    print(", ".join(f"{name}={value}" for name, value in EXAMPLE.items()))
    print("| door | frames, height, width | sha256 of the frames |\n|---|---|---|")
    for row in rows:
        print("| {} | {} | {} |".format(*row))
    sys.exit(len({row[2] for row in rows}) > 1)


if __name__ == "__main__":
    main()
