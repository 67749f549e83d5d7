"""A driving video and a portrait, put into the options that do it: a ControlNet on the video, an IP-Adapter's image.

Nothing else of the program knows of it: the request that is rendered, and that results record, has `controlnet`,
`controlnet_video`, `ip_adapter` and the like, with the weights that were found, and no `drive`.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from animatediff.bundled import bundled_path, is_bundled
from animatediff.errors import UserError
from animatediff.files import HERE, Roots
from animatediff.media import shown
from animatediff.media.preprocess import NO_DETECTOR, Preprocessor, pose_weights
from animatediff.render.options import BY_NAME
from animatediff.render.request import AnimateRequest
from animatediff.weights.addons import at_hand
from animatediff.weights.addons.at_hand import FOLLOWED, LINES, BaseFacts

if TYPE_CHECKING:
    from animatediff.media.source import Source

logger = logging.getLogger(__name__)

RATE = 8.0
"""Frames a second that are taken of a driving video where nobody says: motion modules were trained on about as many."""
SAMPLED = 5
"""Frames that are looked at to see what a video shows."""
LARGEST = 1024
"""Pixels along the longer side of such a frame at most."""
DEFAULT_PREPROCESS = ("none",)
OF_ADAPTER = (None, "auto", "ip-adapter")
"""Values of `image_mode` by which the IP-Adapter sees the image."""


@dataclass(frozen=True, kw_only=True)
class DrivePlan:
    """What a driving video and a portrait come to, in options."""

    request: AnimateRequest
    """Without `drive`."""
    lines: list[str] = field(default_factory=list)
    """What will be done, a sentence each."""
    missing: list[str] = field(default_factory=list)
    """What has to be got first."""

    def __str__(self) -> str:
        return "\n".join([*self.lines, *(f"missing: {text}" for text in self.missing)])

    def checked(self) -> AnimateRequest:
        """The request that is to be rendered. Raises UserError where weights are missing, with what to get."""
        if self.missing:
            raise UserError("; ".join(self.missing))
        return self.request


def driven(request: AnimateRequest, *, roots: Roots = HERE, look: bool = True) -> AnimateRequest:
    """A request with its driving video put into other options; what is done is logged. Raises UserError."""
    if request.drive is None:
        return request
    plan = plan_drive(request, roots=roots, look=look)
    for line in plan.lines:
        logger.info("%s", line)
    return plan.checked()


def plan_drive(request: AnimateRequest, *, roots: Roots = HERE, look: bool = True) -> DrivePlan:
    """What the driving video of a request comes to. look: whether weights that are not named are looked for in models/.

    Raises UserError for a video that cannot be read, and for one that the ControlNet cannot follow.
    """
    return _Planner(request, roots, look).plan()


class _Planner:
    def __init__(self, request: AnimateRequest, roots: Roots, look: bool) -> None:
        from animatediff.media.source import open_source

        self.request, self.roots, self.look = request, roots, look
        part = {"start": request.video_start, "duration": request.video_duration}
        assert request.drive is not None
        self.source: Source = open_source(request.drive, setting="drive", fps=request.video_fps, **part)
        self.name = str(self.source.path)
        self.shows = shown.shown(sample(self.source))
        self.lines: list[str] = []
        self.missing: list[str] = []
        self._base: BaseFacts | None = None

    def plan(self) -> DrivePlan:
        request = self.request
        changes: dict[str, Any] = {"drive": None, "drive_kind": ("auto",), "controlnet_video": (request.drive,)}
        changes |= self._rate()
        changes |= self._controlnets()
        changes |= self._portrait()
        return DrivePlan(request=request.model_copy(update=changes), lines=self.lines, missing=self.missing)

    # -- the video -----------------------------------------------------------------------------------------------------

    def _rate(self) -> dict[str, Any]:
        """The rate at which frames are taken: the clip's, or one at which there are as many as the clip wants."""
        request, source = self.request, self.source
        count, rate = len(source.indices), source.fps
        is_file = source.frames is None and source.path.is_file()
        if request.video is None and request.video_fps is None and is_file:
            length, rate = count / source.fps, min(request.fps or RATE, source.fps)
            if request.fps is None and (wanted := request.num_frames) and wanted > length * rate + 1e-3:
                rate = min(wanted / length, source.fps)
            count = int(length * rate + 1e-3)
        changed = abs(rate - source.fps) > 1e-3
        many = f"{count} frames" if request.num_frames is None else f"{request.num_frames} of {count} frames"
        width, height = source.size
        told = f" (of {source.fps:g})" if changed else ""
        self.lines.append(f"{self.name}: {width} x {height}, {many} at {rate:g} a second{told} lead the clip")
        return {"video_fps": rate} if changed else {}

    # -- ControlNets ---------------------------------------------------------------------------------------------------

    def _controlnets(self) -> dict[str, Any]:
        request = self.request
        count = max(len(request.controlnet), len(request.drive_kind))
        nets: list[str] = []
        methods: list[Preprocessor] = []
        for index in range(count):
            kind = request.drive_kind[index % len(request.drive_kind)]
            given = request.controlnet[index % len(request.controlnet)] if request.controlnet else None
            net, method = self._given(given, kind) if given is not None else self._found(kind)
            nets.append(net or "")
            methods.append(method)
        if request.controlnet_preprocess != DEFAULT_PREPROCESS:
            return {"controlnet": tuple(nets)}
        return {"controlnet": tuple(nets), "controlnet_preprocess": tuple(methods)}

    def _given(self, net: str, kind: str) -> tuple[str, Preprocessor]:
        """A ControlNet that the request names, and the preprocessor of its frames."""
        by_name = at_hand.followed_by(net)
        if kind == "auto":
            kind = by_name or self._ready()
        if kind == "" and self.request.controlnet_preprocess == DEFAULT_PREPROCESS:
            raise UserError(
                f"{net}: its name does not say what it follows, and {self.name} shows no ready-made poses, lines or "
                f"depth; say it with `drive_kind`: {', '.join(FOLLOWED)}"
            )
        method = self._method(kind) if kind else "none"
        self._say(net, kind, method)
        return net, method

    def _found(self, kind: str) -> tuple[str | None, Preprocessor]:
        """A ControlNet that lies in models/ and follows what the video shows, or is asked for."""
        kinds = (kind,) if kind != "auto" else self._likely()
        for candidate in kinds:
            folders = self._folders("ControlNet")
            if self.look and (net := at_hand.find_controlnet(candidate, folders, self.base)) is not None:
                method = self._method(candidate)
                self._say(str(net), candidate, method)
                return str(net), method
        self._miss_controlnet(kinds)
        return None, "none"

    def _likely(self) -> tuple[str, ...]:
        """The kinds that a ControlNet for this video may be of, the best one first."""
        if self.shows in (shown.LINES, shown.DRAWING):
            return LINES
        if self.shows != shown.SCENE:
            return (self.shows,)
        return ("pose", *LINES) if pose_weights(self.roots) is not None else LINES

    def _ready(self) -> str:
        """The kind of the condition that the video shows as it is; empty for a scene."""
        return {shown.SCENE: "", shown.LINES: "lineart", shown.DRAWING: "lineart"}.get(self.shows, self.shows)

    def _method(self, kind: str) -> Preprocessor:
        """The preprocessor of the frames for a kind. Raises UserError where the video shows something else."""
        if kind in LINES:
            if self.shows == shown.LINES:
                return "none"
            return "scribble" if self.shows == shown.DRAWING or FOLLOWED[kind].drawn == "scribble" else "canny"
        if self.shows == kind:
            return "none"
        if kind == "pose" and self.shows == shown.SCENE:
            if pose_weights(self.roots) is not None:
                return "openpose"
            raise UserError(
                f"{self.name} shows no poses (skeletons in colours on black), and {NO_DETECTOR}. Give a video of "
                "ready-made poses, or let the clip follow lines: `drive_kind` lineart"
            )
        if self.shows != shown.SCENE:
            raise UserError(
                f"{self.name} shows {_titles(self.shows)}, and `drive_kind` is {kind}; leave `drive_kind` out, or give "
                f"a video of {FOLLOWED[kind].title}"
            )
        raise UserError(
            f"{self.name} shows no {FOLLOWED[kind].title}, and nothing here makes them of a scene; give a video of "
            "ready-made ones, or let the clip follow lines: `drive_kind` lineart. What is one in spite of that goes "
            "as it is under `controlnet_video`, with `controlnet`"
        )

    def _say(self, net: str, kind: str, method: str) -> None:
        what = FOLLOWED[kind].title if kind else "its frames"
        how = {
            "none": f"which {self.name} shows, taken as they are" if kind else "as they are",
            "canny": "drawn from its frames (canny)",
            "scribble": "inverted to white on black"
            if self.shows == shown.DRAWING
            else "drawn from its frames (scribble)",
            "openpose": "found in its frames by controlnet_aux",
        }[method]
        if self.request.controlnet_preprocess != DEFAULT_PREPROCESS:
            how = f"`controlnet_preprocess` {', '.join(self.request.controlnet_preprocess)}"
        self.lines.append(f"movement: {what}, {how}; ControlNet {net}")

    def _miss_controlnet(self, kinds: Sequence[str]) -> None:
        if not self.look:
            self.missing.append(f"{self.name}: the model in use is given whole; name its ControlNet with `controlnet`")
            return
        if self.is_bundled:
            self.missing.append(
                "for the bundled model no ControlNet is published: name an image model with `model`, or train one "
                "(`python docs/control_nets.py controlnet FOLDER`) and name it with `controlnet`"
            )
            return
        first = FOLLOWED[kinds[0]]
        *others, last = (FOLLOWED[kind].title for kind in kinds)
        titles = f"{', '.join(others)} or {last}" if others else last
        published = first.published.get(self.base.kind)
        get = f"put {published} there, or " if published else ""
        self.missing.append(
            f"a ControlNet for {titles} that fits the base model is not in models/ControlNet; {get}name one with "
            "`controlnet`"
        )

    # -- the portrait --------------------------------------------------------------------------------------------------

    def _portrait(self) -> dict[str, Any]:
        """Settings of the IP-Adapter, and of the image that it sees in place of the first frame."""
        request = self.request
        sees = list(request.ip_adapter_image)
        changes: dict[str, Any] = {}
        if request.image is not None and not sees and request.image_mode in OF_ADAPTER:
            sees = [request.image]
            others = request.last_image is not None or request.keyframes
            changes = {"image": None, "ip_adapter_image": (request.image,)}
            changes |= {} if others else {"image_mode": BY_NAME["image_mode"].default}
        wanted = bool(sees) or request.ip_adapter is not None
        if not wanted:
            self.lines.append("looks: as the prompt says; an image (`image`) gives its own by an IP-Adapter")
            return changes
        adapter = request.ip_adapter
        if adapter is None and self.look:
            found = at_hand.find_ip_adapter(self._folders("IP-Adapter"), self.base, request.ip_adapter_encoder)
            adapter = None if found is None else str(found)
        images = ", ".join(given if isinstance(given, str) else "an image in memory" for given in sees) or "its image"
        if adapter is not None:
            self.lines.append(f"looks: {images}, at strength {request.ip_adapter_scale:g}; IP-Adapter {adapter}")
            return {**changes, "ip_adapter": adapter}
        self._miss_adapter(images)
        return changes

    def _miss_adapter(self, images: str) -> None:
        if not self.look:
            self.missing.append(f"{images}: the model in use is given whole; name its IP-Adapter with `ip_adapter`")
            return
        if self.is_bundled:
            self.missing.append(
                f"for the bundled model no IP-Adapter is published, and {images} needs one: name an image model with "
                "`model`, or train one (`python docs/control_nets.py ip-adapter FOLDER`) and name it with `ip_adapter`"
            )
            return
        file = at_hand.ADAPTER_FILES.get(self.base.kind)
        get = f"put {file} and its folder image_encoder (hub: {at_hand.ADAPTER_REPOSITORY}) there, or " if file else ""
        self.missing.append(
            f"{images} needs an IP-Adapter that fits the base model, and none is in models/IP-Adapter; {get}name one "
            "with `ip_adapter`, or begin with the image instead: `image_mode` latents"
        )

    # -- what is at hand -----------------------------------------------------------------------------------------------

    @property
    def base(self) -> BaseFacts:
        """The base model, as far as its files tell."""
        if self._base is None:
            self._base = _base_facts(self.request, self.roots)
        return self._base

    @property
    def is_bundled(self) -> bool:
        from animatediff.render.prepare import base_of

        return is_bundled(base_of(self.request, self.roots))

    def _folders(self, name: str) -> list[Path]:
        return [models / name for models in self.roots.models]


def _titles(shows: str) -> str:
    return "lines" if shows in (shown.LINES, shown.DRAWING) else FOLLOWED[shows].title


def _base_facts(request: AnimateRequest, roots: Roots) -> BaseFacts:
    from animatediff.render.prepare import base_kinds, base_of
    from animatediff.weights.base.text_width import base_cross_attentions
    from animatediff.weights.hub import cached_folder, is_hub_id

    model = base_of(request, roots)
    if model == "bundled":
        path = bundled_path()
    elif is_hub_id(model) and not Path(model).exists():
        path = cached_folder(model) or Path(model)
    else:
        path = Path(model)
    return BaseFacts(kinds=base_kinds(str(path)), cross_attentions=base_cross_attentions(path))


def sample(source: Source) -> Any:
    """A few frames from all over a video, uint8 (n, h, w, 3), at its own size up to LARGEST."""
    count = min(SAMPLED, len(source.indices))
    places = [source.indices[(2 * n + 1) * len(source.indices) // (2 * count)] for n in range(count)]
    scale = min(1.0, LARGEST / max(source.size))
    width, height = (max(8, round(side * scale)) for side in source.size)
    return replace(source, indices=tuple(sorted(set(places)))).read(len(set(places)), width, height)
