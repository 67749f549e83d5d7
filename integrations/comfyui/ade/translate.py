"""Turn a workflow of other packs into one of these nodes; whatever is not carried over is named."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .checked import check_graph, check_workflow, shown
from .graph import BYPASSED, MUTED, Graph, Link, Node, is_page_format, read_api, read_page, write_api, write_page
from .old import CONTROLS, is_old, old_subgraphs
from .poses import ASPECT, NoPosesError, poses_of
from .poses import KINDS as POSES
from .result import Note, Translated
from .shapes import SHAPES, SOCKETS
from .sparse import frames_of
from .table import BY_NODE, NOT_CARRIED
from .takes import (
    ABSENT,
    APPLY,
    APPLY_SPARSE,
    CAMERA,
    CREATE_VIDEO,
    I2V,
    LOAD,
    LOAD_CAMERA,
    LOAD_SPARSE,
    LORA,
    PIA,
    SAVE_VIDEO,
    SAVE_WEBP,
    TRAVEL,
    WINDOWS,
    Takes,
)
from .travel import negative_text, schedule

MODELS = (
    *("ADE_AnimateDiffLoaderGen1", "ADE_AnimateDiffLoaderWithContext", "AnimateDiffLoaderV1"),
    *("ADE_AnimateDiffLoaderV1Advanced", "ADE_UseEvolvedSampling"),
)
"""Nodes that give a MODEL in which a motion module acts."""
SPARSE_LOADER, SPARSE_IMAGE = "ACN_SparseCtrlLoaderAdvanced", "ACN_SparseCtrlRGBPreprocessor"
TRAVELS = ("BatchPromptSchedule", "BatchPromptScheduleLatentInput")
VIDEOS = ("VHS_VideoCombine", "ADE_AnimateDiffCombine")
I2V_LOADER = "ADE_LoadAnimateLCMI2VModel"
LARGEST = {"image_affinity": 1.0, "image_motion_scale": 1.5, "camera_scale": 10.0}
"""Input here -> its largest value, of those that go further there."""
LORA_NODE = "ADE_AnimateDiffLoRALoader"
UNTOLD = ("deprecation_warning", "autosize", "videopreview", "unique_id", "prompt", "extra_pnginfo")
"""Inputs that only show something."""
LORAS = "loras"
MAX_LATENTS = 4096
"""Batch of the host's EmptyLatentImage at most."""


def translate(workflow: Mapping[str, Any]) -> Translated:
    """Translate a workflow in the API format or in that of the host's page. It is not changed itself.

    Nodes of no pack in the table stay as they are. Raises ValueError, which names the place, for what is no workflow.
    """
    check_workflow(workflow)
    page = is_page_format(workflow)
    graph = read_page(workflow) if page else read_api(workflow)
    check_graph(graph)
    work = _Work(graph)
    work.run()
    if page and (inner := old_subgraphs(workflow)):
        work.notes.append(Note("-", "subgraph", f"nodes inside of subgraphs stay as they are: {', '.join(inner)}"))
    written = write_page(graph, workflow) if page else write_api(graph, workflow)
    return Translated(written, work.notes, work.gone)


class _Work:
    """One translation, in place."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.notes: list[Note] = []
        self.gone: dict[str, str] = {}
        self.settled: set[str] = set()
        """Old nodes whose settings were read, or told of."""

    def run(self) -> None:
        """Replace every old node that the table knows."""
        for name, node in list(self.graph.nodes.items()):
            if node.kind in CONTROLS and self._kind(node.inputs.get("control_net")) == SPARSE_LOADER:
                self._sparsectrl(name)
            elif node.kind in MODELS:
                self._model(name)
            elif node.kind in TRAVELS:
                self._travel(name)
            elif node.kind in VIDEOS:
                self._video(name)
            elif node.kind in ("ADE_EmptyLatentImageLarge", "CheckpointLoaderSimpleWithNoiseSelect"):
                self._single(name)
        self._sweep()

    # -- settings ------------------------------------------------------------------------------------------------------

    def note(self, name: str, text: str) -> None:
        """Tell something once."""
        note = Note(name, self.gone.get(name, self.graph.nodes[name].kind), text)
        if note not in self.notes:
            self.notes.append(note)

    def settings(self, name: str) -> dict[str, Any]:
        """What an old node and the nodes of settings behind it say, by `NODE.input`."""
        node = self.graph.nodes[name]
        old = BY_NODE[node.kind]
        self.settled.add(name)
        found = dict(old.sets)
        for takes in old.takes:
            value = node.inputs.get(takes.name)
            if isinstance(value, list | dict):
                self.note(name, f"{takes.name} {shown(value)} is left out: it is no value of that input")
                value = None
            value = takes.default if value is None else value
            if value is not ABSENT and value is not None:
                found |= self._taken(name, takes, value)
        known = {takes.name for takes in old.takes}
        for other in node.inputs.keys() - known - set(UNTOLD):
            self.note(name, f"{other} is an input that is not known here; it is left out")
        return found

    def _taken(self, name: str, takes: Takes, value: Any) -> dict[str, Any]:
        """The settings of one input."""
        linked = isinstance(value, Link)
        if takes.follow:
            return self._followed(name, takes, value) if linked else {}
        if not takes.to:
            if takes.why and (linked or value not in takes.neutral):
                shown = "" if linked else f" {value!r}"
                self.note(name, f"{takes.name}{shown} is not carried over: it {takes.why}")
            return {}
        if takes.words and not linked:
            if value not in takes.words:
                self.note(name, f"{takes.name} {value!r} is not carried over: it {takes.why}")
                return {}
            if takes.note and value not in takes.neutral:
                self.note(name, f"{takes.name} {value!r} {takes.why}")
            return {takes.to: takes.words[value]}
        if takes.note and (linked or value not in takes.neutral):
            self.note(name, f"{takes.name} {'' if linked else value} {takes.why}")
        return {takes.to: value}

    def _followed(self, name: str, takes: Takes, link: Link) -> dict[str, Any]:
        """Settings of the node behind a socket."""
        source = self._source(link)
        if source is None or source.node not in self.graph.nodes:
            return {}
        behind = self.graph.nodes[source.node]
        if behind.mode == MUTED:
            return {}
        if behind.mode == BYPASSED:
            passed = [value for key, value in behind.inputs.items() if key.startswith("prev_")]
            return self._followed(name, takes, passed[0]) if passed and isinstance(passed[0], Link) else {}
        if behind.kind in POSES:
            return self._poses(source.node)
        if takes.name == "ref_latent" and behind.kind == "VAEEncode":
            return {f"{I2V}.image": behind.inputs.get("pixels"), f"{I2V}.vae": behind.inputs.get("vae")}
        if behind.kind == I2V_LOADER and source.slot == 1:
            self.note(name, "encoder_only is not carried over: an image encoder acts with the module of its own file")
            return {}
        if behind.kind not in BY_NODE:
            self._refuse(source.node)
            return {}
        found = {takes.renamed.get(key, key): value for key, value in self.settings(source.node).items()}
        scale = f"{APPLY}.motion_scale"
        if takes.name == "scale_multival" and scale in found:
            if isinstance(self.graph.nodes[name].inputs.get("effect_multival"), Link):
                self.note(name, f"scale_multival is not carried over: effect_multival is; it {takes.why}")
                return {}
            if found[scale] != 1:
                self.note(name, f"scale_multival is taken as motion_scale: it {takes.why}")
        if behind.kind == LORA_NODE:
            own = (found.pop(f"{LORA}.lora", None), found.pop(f"{LORA}.strength", 1.0))
            found[LORAS] = [*found.pop(LORAS, []), own]
        return found

    def _poses(self, name: str) -> dict[str, Any]:
        """A path of the camera that the nodes of poses make."""

        def behind(link: Any) -> Node | None:
            source = self._source(link)
            if source is None or source.node not in self.graph.nodes:
                return None
            self.settled.add(source.node)
            return self.graph.nodes[source.node]

        self.settled.add(name)
        try:
            found = poses_of(self.graph.nodes[name], behind)
        except NoPosesError as error:
            self.note(name, f"is not carried over: it {error}; write poses, or moves, into `camera`")
            return {}
        aspect = 0.0 if found.aspect == ASPECT else round(found.aspect, 6)
        return {f"{CAMERA}.camera": found.lines(), f"{CAMERA}.camera_aspect": aspect}

    def _refuse(self, name: str) -> None:
        """Tell of a node without counterpart, and of those behind it."""
        node = self.graph.nodes[name]
        self.settled.add(name)
        self.note(name, f"is not carried over: {_reason(node.kind)}")
        for value in node.inputs.values():
            source = self._source(value)
            if source and source.node in self.graph.nodes and self.graph.nodes[source.node].kind.startswith("ADE_"):
                self._refuse(source.node)

    def _source(self, value: Any) -> Link | None:
        """The output that a value comes from, through reroutes."""
        while isinstance(value, Link) and value.node in self.graph.nodes:
            node = self.graph.nodes[value.node]
            if node.kind != "Reroute":
                return value
            value = next(iter(node.inputs.values()), None)
        return None

    def _kind(self, value: Any) -> str:
        source = self._source(value)
        return self.graph.nodes[source.node].kind if source is not None else ""

    # -- nodes ---------------------------------------------------------------------------------------------------------

    def make(self, kind: str, given: Mapping[str, Any], place: str, *, name: str | None = None) -> Link:
        """A new node in place of an old one, with defaults where nothing is given; `name` None: a new id."""
        old = self.graph.nodes[place]
        inputs = {
            key: given.get(key, default)
            for key, type_, default in SHAPES[kind].inputs
            if key in given or (type_ not in SOCKETS and default is not None)
        }
        name = self.graph.new_id() if name is None else name
        self.gone.setdefault(place, old.kind)
        self.graph.nodes[name] = Node(
            kind,
            inputs,
            {**old.raw, "id": old.raw.get("id")}
            if name == place
            else {key: value for key, value in old.raw.items() if key in ("pos", "order", "mode")},
            made_for=place,
        )
        return Link(name, 0)

    def _model(self, name: str) -> None:
        found = self.settings(name)
        model = found.pop(f"{APPLY}.model", None)
        module, loras = found.get(f"{LOAD}.motion_module"), found.pop(LORAS, [])
        windows = _of(WINDOWS, found)
        if windows.get("context_length") == 0 or "context_schedule" not in windows:
            if windows.get("freenoise"):
                self.note(name, "FreeNoise is not carried over: it is a setting of AnimateDiff Context Windows")
            windows = {}
        if module is None and isinstance(latents := self.graph.nodes[name].inputs.get("m_models"), Link):
            self.note(name, f"the motion module behind m_models ({self._kind(latents)}) is not carried over")
        if latents := self.graph.nodes[name].inputs.get("latents"):
            self.graph.rewire(Link(name, 1), latents)
        steps: list[tuple[str, dict[str, Any]]] = []
        if module is not None:
            link = self.make(LOAD, {"motion_module": module}, name)
            for file, strength in loras:
                link = self.make(LORA, {"motion_module": link, "lora": file, "strength": strength}, name)
            for kind in (PIA, I2V, CAMERA):
                link = self._sees(kind, found, link, name)
            steps.append((APPLY, {**_of(APPLY, found), "motion_module": link}))
        if windows:
            steps.append((WINDOWS, windows))
        if not steps:
            self.gone[name] = self.graph.nodes[name].kind
            self.graph.rewire(Link(name, 0), model)
            del self.graph.nodes[name]
        for index, (kind, given) in enumerate(steps):
            given |= {} if model is None else {"model": model}
            model = self.make(kind, given, name, name=name if index == len(steps) - 1 else None)

    def _sees(self, kind: str, found: Mapping[str, Any], link: Link, name: str) -> Link:
        """A node by which the motion module behind `link` sees something, where the settings have it."""
        given, needed = _of(kind, found), "camera" if kind == CAMERA else "image"
        if not given:
            return link
        if given.get(needed) is None:
            self.note(name, f"what gives `{needed}` is not carried over: connect it to a node {kind}")
            return link
        if kind == CAMERA:
            if not (file := found.get(f"{LOAD_CAMERA}.cameractrl")):
                self.note(name, "poses are not carried over: no CameraCtrl model is loaded for them")
                return link
            given["cameractrl"] = self.make(LOAD_CAMERA, {"cameractrl": file}, name)
        for key, most in LARGEST.items():
            value = given.get(key)
            if isinstance(value, int | float) and value > most:
                self.note(name, f"{value:g} is taken as {most:g}, the largest {key} here")
                given[key] = most
        if "image_affinity" in given:
            given["image_affinity"] = _as_text(given["image_affinity"])
        return self.make(kind, given | {"motion_module": link}, name)

    def _sparsectrl(self, name: str) -> None:
        found = self.settings(name)
        image = self._source(found.get(f"{APPLY_SPARSE}.images"))
        if image is not None and self.graph.nodes[image.node].kind == SPARSE_IMAGE:
            found |= self.settings(image.node)
        given = _of(APPLY_SPARSE, found)
        given["frames"], why = frames_of(self.graph, given.get("frames", "uniform"), given.get("images"))
        if why:
            self.note(name, why)
        loader = self.make(LOAD_SPARSE, _of(LOAD_SPARSE, found), name)
        self.make(APPLY_SPARSE, given | {"sparsectrl": loader}, name, name=name)

    def _travel(self, name: str) -> None:
        given = _of(TRAVEL, self.settings(name))
        text, head, tail = (given.pop(key, "") for key in ("text", "head", "tail"))
        frames = None if "latent" in given else given.get("num_frames")
        written = schedule(text, head, tail, frames)
        for line in written.notes:
            self.note(name, line)
        if list(self.graph.users(name, 1)):
            negative = negative_text(text, head, tail, frames)
            kind = TRAVEL if isinstance(negative, dict) else "CLIPTextEncode"
            more = (
                {**given, **negative} if isinstance(negative, dict) else {"clip": given.get("clip"), "text": negative}
            )
            self.graph.rewire(Link(name, 1), self.make(kind, more, name))
        if "latent" in given:
            self.graph.rewire(Link(name, 2), given["latent"])
        self.make(TRAVEL, given | written.inputs, name, name=name)

    def _video(self, name: str) -> None:
        found = self.settings(name)
        video, save = _of(CREATE_VIDEO, found), _of(SAVE_VIDEO, found)
        if list(self.graph.users(name)):
            self.note(name, "its output Filenames has no counterpart")
            for slot in range(4):
                self.graph.rewire(Link(name, slot), None)
        if save.get("format") == "webp":
            if "audio" in video:
                self.note(name, "audio is not carried over: an animated webp has none")
            given = {"images": video.get("images"), "fps": video["fps"], "filename_prefix": save["filename_prefix"]}
            self.make(SAVE_WEBP, given, name, name=name)
            return
        link = self.make(CREATE_VIDEO, video, name)
        self.make(SAVE_VIDEO, save | {"video": link}, name, name=name)

    def _single(self, name: str) -> None:
        found = self.settings(name)
        (kind,) = BY_NODE[self.graph.nodes[name].kind].makes
        given = _of(kind, found)
        if isinstance(batch := given.get("batch_size"), int) and batch > MAX_LATENTS:
            self.note(name, f"batch_size {batch} is more than the {MAX_LATENTS} that Empty Latent Image takes")
            given["batch_size"] = MAX_LATENTS
        self.make(kind, given, name, name=name)

    def _sweep(self) -> None:
        """Remove nodes of settings that nothing takes any more, and name the old ones that stay or are lost."""
        changed = True
        while changed:
            changed = False
            for name, node in list(self.graph.nodes.items()):
                if not node.made_for and is_old(node.kind) and not list(self.graph.users(name)):
                    if name not in self.settled:
                        self.note(name, f"is not carried over: {_reason(node.kind)}")
                    self.gone[name] = node.kind
                    del self.graph.nodes[name]
                    changed = True
        for name, node in self.graph.nodes.items():
            if not node.made_for and is_old(node.kind):
                self.note(name, f"stays as it is: {_reason(node.kind)}")


def _of(kind: str, found: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of one of the new nodes."""
    return {key.removeprefix(f"{kind}."): value for key, value in found.items() if key.startswith(f"{kind}.")}


def _as_text(value: Any) -> Any:
    """A number as an input of text has it."""
    return value if isinstance(value, str | Link) else str(float(value))


def _reason(kind: str) -> str:
    return next((text for start, text in NOT_CARRIED.items() if kind.startswith(start)), "nothing takes it here")
