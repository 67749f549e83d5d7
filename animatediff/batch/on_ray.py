"""Jobs spread over a Ray cluster: one actor a device, each with a `RenderRow` that keeps its model."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections import Counter, deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from animatediff.batch.jobs import Job
from animatediff.batch.worker import RESUME, Outcome, RenderRow
from animatediff.errors import UserError
from animatediff.files import Roots
from animatediff.render.events import Cancel
from animatediff.render.portable import bundled_name, with_files
from animatediff.render.resume import Resume

logger = logging.getLogger(__name__)

TRIES = 2
"""Of a row, where workers die over it."""
STORE_BYTES = 80_000_000
"""Of the object store of a Ray that is started here: rows are small, and frames go to files."""
WAIT_S = 1.0
LONG_S = 60.0
"""Seconds without any worker after which that is said."""
ANSWER_S = 10.0
LOCAL = "local"

Ended = tuple[Job, Outcome, int]


@dataclass(frozen=True, kw_only=True)
class OnRay:
    """A Ray cluster to render on. All its machines have this package and see the folder of results by the same path."""

    address: str = LOCAL
    """`local` starts a Ray here for this run alone; else that of a cluster: `auto`, `HOST:PORT`, `ray://HOST:PORT`."""
    workers: int | None = None
    """Actors; None is one a GPU, or one a machine where the cluster has no GPU."""
    init: Mapping[str, Any] = field(default_factory=dict)
    """Further arguments of `ray.init`."""
    worker: type[RenderRow] = RenderRow

    def each(
        self,
        jobs: Sequence[Job],
        folder: Path,
        roots: Roots,
        cancel: Cancel | None = None,
        resume: Resume | None = RESUME,
    ) -> Generator[Ended]:
        """Each job, what became of it, and the tries made, as they end; a dead worker's job goes to another one.

        resume: how the state of clips at work is saved, with which another worker goes on.

        Ends where it is cancelled, or closed. Raises UserError without Ray, or where the cluster cannot be reached.
        """
        if not jobs:
            return
        ray = _ray()
        own = not ray.is_initialized()
        if own:
            self._connect(ray)
        try:
            crew = _Crew(ray, self._actors(ray, folder, roots, len(jobs), resume))
            try:
                yield from crew.each([_absolute(job) for job in jobs], cancel)
            finally:
                crew.end()
        finally:
            if own:
                ray.shutdown()

    def _connect(self, ray: Any) -> None:
        given: dict[str, Any] = {"address": os.environ.get("RAY_ADDRESS") or self.address}
        if given["address"] == LOCAL:
            given |= {"object_store_memory": STORE_BYTES, "include_dashboard": False}
        else:
            _check_answers(given["address"])
        given |= {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": False}
        limits = {name: value for name, value in os.environ.items() if name.startswith("ANIMATEDIFF_")}
        if limits:
            given["runtime_env"] = {"env_vars": limits}
        try:
            ray.init(**given, **self.init)
        except (ConnectionError, ValueError, RuntimeError, OSError) as error:
            raise UserError(
                f"no Ray cluster at {given['address']} ({str(error).splitlines()[0][:200]}); `ray` without an address "
                "starts one here"
            ) from error

    def _actors(self, ray: Any, folder: Path, roots: Roots, num_jobs: int, resume: Resume | None) -> list[Any]:
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        gpus = int(sum(node.get("GPU", 0) for node in nodes))
        count = min(num_jobs, self.workers or gpus or len(nodes))
        if gpus:
            share: dict[str, float] = {"num_gpus": 1}
        else:
            cpus = min(int(node.get("CPU", 1)) for node in nodes)
            share = {"num_cpus": max(1, cpus // -(-count // len(nodes)))}
        if gpus and count > gpus:
            logger.warning("%d workers for %d GPUs: the others wait for one", count, gpus)
        actor = ray.remote(self.worker).options(**share, max_restarts=-1, max_task_retries=0)
        options = {"folder": str(folder.absolute())}
        logger.info(
            "%d workers on Ray, each with %s", count, ", ".join(f"{v:g} {k[4:-1].upper()}" for k, v in share.items())
        )
        return [actor.remote(options, roots=_absolute_roots(roots), resume=resume) for _ in range(count)]


class _Crew:
    """Actors at work on jobs. Only one that has answered gets a job, so that none waits for a machine that is gone."""

    def __init__(self, ray: Any, actors: list[Any]) -> None:
        self._ray = ray
        self._actors = actors
        self._model: dict[Any, Any] = {}
        """Of each actor, the model of its last job."""
        self._pending: dict[Any, tuple[Any, Job | None]] = {}
        """What is awaited -> actor, and its job; None is the answer that it is there."""
        self._queues: dict[Any, deque[Job]] = {}
        """Jobs that are not begun, by model."""
        self._tries: Counter[str] = Counter()

    def each(self, jobs: Sequence[Job], cancel: Cancel | None) -> Iterator[Ended]:
        for job in jobs:
            self._queues.setdefault(job.model, deque()).append(job)
        for actor in self._actors:
            self._pending[actor.ready.remote()] = (actor, None)
        last, said = time.monotonic(), False
        while self._pending:
            if cancel is not None and cancel():
                return
            if not any(self._queues.values()) and all(job is None for _, job in self._pending.values()):
                return  # those that are still on their way are not needed
            ready, _ = self._ray.wait(list(self._pending), timeout=WAIT_S)
            if ready:
                last, said = time.monotonic(), False
            elif not said and time.monotonic() - last > LONG_S and not any(j for _, j in self._pending.values()):
                logger.warning("no worker of the cluster has answered for %d seconds; still waiting", LONG_S)
                said = True
            for awaited in ready:
                yield from self._ended(awaited)
        yield from self._given_up()

    def end(self) -> None:
        for actor in self._actors:
            self._ray.kill(actor)

    def _ended(self, awaited: Any) -> Iterator[Ended]:
        actor, job = self._pending.pop(awaited)
        dead = self._ray.exceptions.RayActorError
        try:
            outcome = self._ray.get(awaited)
        except dead as error:
            if job is not None:
                yield from self._lost(job)
                self._pending[actor.ready.remote()] = (actor, None)  # answers when it is there again
            elif _is_restarting(error):
                time.sleep(WAIT_S)
                self._pending[actor.ready.remote()] = (actor, None)
            else:
                logger.warning("a worker could not be started (%s)", _first_line(error))
            return
        except self._ray.exceptions.RayError as error:  # of the worker's own code, or of what it was sent
            outcome = Outcome(error=_first_line(error))
        if job is not None:
            yield job, outcome, self._tries[job.id]
        self._begin(actor)

    def _begin(self, actor: Any) -> None:
        """Give a job to an actor, of the model that it has if there is one."""
        queues = [self._queues.get(self._model.get(actor), ()), *self._queues.values()]
        queue: Any = next((queue for queue in queues if queue), None)
        if queue is None:
            return
        job = queue.popleft()
        self._model[actor] = job.model
        self._tries[job.id] += 1
        self._pending[actor.render.remote(job)] = (actor, job)

    def _lost(self, job: Job) -> Iterator[Ended]:
        """A worker has died over a job."""
        if self._tries[job.id] < TRIES:
            logger.warning("%s (%s): its worker died; given to another one", job.place, job.id)
            self._queues[job.model].appendleft(job)
            return
        reason = f"workers died over it {TRIES} times; out of memory is the likeliest reason"
        yield job, Outcome(error=reason), self._tries[job.id]

    def _given_up(self) -> Iterator[Ended]:
        """No worker is left."""
        for queue in self._queues.values():
            for job in queue:
                yield job, Outcome(error="no worker of the cluster could be started"), self._tries[job.id]


def _ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise UserError(
            "rows are spread over a cluster by Ray, which is not installed: pip install 'animatediff[ray]'"
        ) from error
    return ray


def _check_answers(address: str) -> None:
    """Raise UserError where nobody listens at `HOST:PORT`, which Ray takes minutes to find out."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not (host and port.isdecimal()):
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER_S).close()
    except (OSError, OverflowError) as error:
        raise UserError(f"no Ray cluster at {address} ({error}); `ray` without an address starts one here") from error


def _is_restarting(error: Exception) -> bool:
    return type(error).__name__ == "ActorUnavailableError" or "restart" in str(error).lower()


def _first_line(error: Exception) -> str:
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:300]


def _absolute(job: Job) -> Job:
    """A job whose files have the same names in another working directory."""

    def full(path: str, setting: str, place: str) -> str:
        return os.path.abspath(path) if bundled_name(path) is None and os.path.exists(path) else path

    from animatediff.render.request import build_request

    request = job.request
    named = with_files(request.model_dump(mode="json", exclude_defaults=True), full)
    return replace(job, request=build_request(named), places={})


def _absolute_roots(roots: Roots) -> Roots:
    folders = {
        name: tuple(folder.absolute() for folder in getattr(roots, name)) for name in ("models", "files", "named")
    }
    return replace(roots, samples=roots.samples.absolute(), **folders)
