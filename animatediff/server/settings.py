"""Settings of a service: folders, devices, bounds, who may ask. No request changes them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from animatediff.errors import UserError
from animatediff.files import HERE, Roots

LOOPBACK = ("127.0.0.1", "::1", "localhost")
BOUNDS = {"max_frames": 512, "max_clip_pixels": 2**28, "max_pixels": 2**25, "max_prompt_chars": 8000}
"""Limits of the library that are lower in a service, unless its command line or the environment sets them."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a service is started with."""

    data: Path
    """Folder of the queue, the uploads and the results."""
    models: tuple[Path, ...] = HERE.models
    """Folders like the original's models/, in which everything lies that a client can name."""
    model: str | None = None
    """Base model of requests that name none; None is the bundled one."""
    motion_module: str | None = None
    """Motion module of requests that name none."""
    devices: tuple[str | None, ...] = (None,)
    """One worker process each; None is the best there is."""
    host: str = "127.0.0.1"
    port: int = 8000
    tokens: tuple[str, ...] = field(default=(), repr=False)
    """Bearer tokens, each of which opens everything; none: whoever reaches the port may ask."""
    allowed_hosts: tuple[str, ...] = ()
    """Names in `Host` and `Origin` that are taken besides those of the listening address, where there is no token."""
    max_queue: int = 32
    """Jobs that wait at once."""
    keep_hours: float = 24.0
    """Time after which results and failures are removed."""
    job_minutes: float = 60.0
    """Time after which a job at work is given up."""
    max_steps: int = 150
    max_side: int = 4096
    """Pixels of a result's width and of its height."""
    max_upload_mb: int = 64
    """Megabytes of a request's body."""
    min_free_mb: int = 256
    """No job is taken while the disk of `data` has less free."""
    max_streams: int = 100
    """Connections that wait for events or for a video at once."""
    lease_s: float = 30.0
    """Seconds without a sign of life after which a worker counts as lost."""
    sweep_s: float = 20.0
    """Seconds between two searches for results whose time is over."""
    body_s: float = 60.0
    """Seconds in which a part of a request's body has to come."""
    renderer: str = "animatediff.render.renderer:Renderer"
    """Class of the worker's renderer, `module:name`."""

    @property
    def database(self) -> Path:
        """File of the queue."""
        return self.data / "queue.sqlite3"

    @property
    def roots(self) -> Roots:
        """Folders of a worker: those of models, and none in which files are found by name."""
        return Roots(models=tuple(path.absolute() for path in self.models), samples=self.data / "samples", files=())


def check_access(settings: Settings, *, no_auth: bool) -> None:
    """Raise UserError for a service that the network could use without a token."""
    if settings.tokens or no_auth or settings.host in LOOPBACK:
        return
    raise UserError(
        f"host {settings.host} can be reached from other machines, and no token is set: put one into a file and give "
        "--token-file (or the variable ANIMATEDIFF_TOKEN), or say --no-auth if everybody who reaches it may use it"
    )
