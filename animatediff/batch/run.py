"""Many jobs into one folder: what is done is passed over, all are checked first, what fails is listed."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from animatediff.batch.jobs import Fault, Job, Jobs, by_models, located
from animatediff.batch.results import FAILED, ResultsFolder
from animatediff.batch.worker import RESUME, Outcome, RenderRow, foreign
from animatediff.errors import Cancelled, UserError
from animatediff.files import Roots
from animatediff.render.events import Cancel, OnEvent, Reporter, TimeLeft
from animatediff.render.resume import Resume
from animatediff.render.write import OneFile

if TYPE_CHECKING:
    from animatediff.batch.on_ray import OnRay

logger = logging.getLogger(__name__)

CHUNK = 128
"""Jobs that are checked at once: their images and videos are open meanwhile."""
SHOWN = 20
"""Bad rows after which no more are looked for, unless the others are to be rendered."""


class BadRowsError(UserError):
    """Rows that cannot be rendered; nothing was."""

    def __init__(self, source: str, faults: Sequence[Fault], *, may_be_more: bool) -> None:
        self.faults = list(faults)
        count = f"{len(faults)}{' or more' if may_be_more else ''} bad row{'s' * (len(faults) > 1)}"
        lines = [f"{source}, {fault}" for fault in faults]
        super().__init__(f"{source}: {count}, nothing is rendered\n" + "\n".join(lines))


@dataclass(frozen=True, kw_only=True)
class Progress:
    """A job has come to its end."""

    job: Job
    outcome: Outcome
    step: int
    """Jobs at their end in this run, this one among them, of `total`."""
    total: int
    time_left: float | None
    """Seconds, at the speed so far; None after the first, for which the model was loaded."""


@dataclass(kw_only=True)
class Report:
    """What became of the jobs."""

    folder: Path
    rendered: list[tuple[Job, Outcome]] = field(default_factory=list)
    num_done: int = 0
    """Of earlier runs, not rendered again."""
    failed: list[Fault] = field(default_factory=list)
    num_left: int = 0
    """Not begun, or not ended, because the run was stopped."""


OnProgress = Callable[[Progress], None]


def render_jobs(
    jobs: Jobs,
    folder: str | Path,
    *,
    renderer: Any = None,
    keep_going: bool = False,
    check: bool = False,
    on_ray: OnRay | None = None,
    on_progress: OnProgress | None = None,
    on_event: OnEvent | None = None,
    cancel: Cancel | None = None,
    resume: Resume | None = RESUME,
) -> Report:
    """Render the jobs that are not done yet into a folder, those of one model together.

    renderer: a `Renderer`, or None for one made when it is needed; keep_going: render the other rows where some are
    bad; check: check all, render none; on_ray: spread the jobs over a cluster; on_event: events of the clip at work,
    here alone; cancel: asked at each step, ends the run where it says so: the report then has jobs left; resume: how
    the state of the clip at work is saved, for a later run to go on with.
    Raises BadRowsError, with what is wrong with each, before anything is rendered; UserError where the folder belongs
    to another run or cannot be written. What fails while it is rendered is in the report and in `failed.jsonl`.
    """
    folder = Path(folder)
    if renderer is None:
        renderer = _Late(jobs)
    with ResultsFolder(folder) as results:
        report = Report(folder=folder)
        faults = list(jobs.faults)
        again: dict[str, str] = {}
        todo = list(_not_done(jobs, results, report, faults, again))
        todo = list(_writable(todo, folder, jobs.roots, faults))
        try:
            todo, most = _judged(todo, faults, renderer, cancel, on_ray is not None, None if keep_going else SHOWN)
        except Cancelled:
            report.num_left = len(todo)
            return report
        faults.sort(key=_row_number)
        failed = [(fault, 0) for fault in faults]
        results.set_failed(failed)
        if faults and not keep_going:
            raise BadRowsError(jobs.source, faults, may_be_more=most)
        _say_again(todo, again, check)
        ordered = [] if check else list(by_models(todo))
        if on_ray is None:
            worker = RenderRow({"folder": folder}, roots=jobs.roots, renderer=renderer, resume=resume)
            ended = _here(worker, ordered, on_event, cancel)
        else:
            ended = on_ray.each(ordered, folder, jobs.roots, cancel, resume)
        left = TimeLeft()
        left.after("rows", 0, len(ordered))
        count, full = 0, False
        with closing(ended):
            for job, outcome, tries in ended:
                count += 1
                outcome = replace(outcome, file=None if outcome.error else str(folder / job.target))
                _note(results, report, failed, job, outcome, tries)
                if on_progress is not None:
                    seconds = left.after("rows", count, len(ordered))
                    seconds = None if count == 1 else seconds
                    on_progress(Progress(job=job, outcome=outcome, step=count, total=len(ordered), time_left=seconds))
                if full := outcome.ends_all:
                    break
        report.num_left = len(todo) - count
        failed.sort(key=lambda entry: _row_number(entry[0]))
        report.failed = [fault for fault, _ in failed]
        with _known_if(full):
            results.set_failed(failed)
    return report


class _Late:
    """A renderer that is made when it is first asked for something: it is seconds, and all may be done."""

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs
        self._renderer: Any = None

    def __getattr__(self, name: str) -> Any:
        if self._renderer is None:
            from animatediff.render.renderer import Renderer

            self._renderer = Renderer(roots=self._jobs.roots)
        return getattr(self._renderer, name)


def _not_done(
    jobs: Jobs, results: ResultsFolder, report: Report, faults: list[Fault], again: dict[str, str]
) -> Generator[Job]:
    """The jobs to be rendered; `again` gets the reason of those that have a result, by their ids."""
    for job in jobs.jobs:
        state = results.state_of(job)
        if state == "done":
            report.num_done += 1
            continue
        if state == "foreign":
            faults.append(_fault(job, foreign(results.path / job.target)))
            continue
        if state == "changed":
            again[job.id] = f"its settings are others than those of {job.target}"
        elif state == "damaged":
            again[job.id] = f"{job.target} is not whole"
        yield job


def _writable(jobs: Sequence[Job], folder: Path, roots: Roots, faults: list[Fault]) -> Generator[Job]:
    """The jobs whose results can be written in their formats; adds to `faults`."""
    for job in jobs:
        try:
            with OneFile(str(folder / job.target)).opened([job.request], roots, Reporter()):
                yield job
        except UserError as error:
            faults.append(_fault(job, located(str(error), job.places)))


def _say_again(jobs: Sequence[Job], again: Mapping[str, str], check: bool) -> None:
    """Say which results are replaced, and why."""
    found = [job for job in jobs if job.id in again]
    for job in found[:SHOWN]:
        what = "would be rendered again" if check else "rendered again"
        logger.info("%s (%s): %s; %s", job.place, job.id, again[job.id], what)
    if len(found) > SHOWN:
        logger.info("and %d more", len(found) - SHOWN)


def _judged(
    jobs: list[Job], faults: list[Fault], renderer: Any, cancel: Cancel | None, elsewhere: bool, most: int | None
) -> tuple[list[Job], bool]:
    """The jobs that can be rendered, and whether more than `most` were found bad; adds to `faults`."""
    good: list[Job] = []
    ordered = list(by_models(jobs))

    def judge(part: list[Job]) -> None:
        if most is not None and len(faults) >= most:
            return
        requests = [job.request for job in part]
        if elsewhere:  # the device is another machine's
            requests = [request.model_copy(update={"device": None}) for request in requests]
        try:
            renderer.prepare(requests, cancel=cancel, fetch=False)
        except UserError as error:
            if len(part) == 1:
                faults.append(_fault(part[0], located(str(error), part[0].places)))
                return
            middle = len(part) // 2
            judge(part[:middle])
            judge(part[middle:])
        else:
            good.extend(part)

    for start in range(0, len(ordered), CHUNK):
        judge(ordered[start : start + CHUNK])
    return good, most is not None and len(faults) >= most


def _here(
    worker: RenderRow, jobs: Sequence[Job], on_event: OnEvent | None, cancel: Cancel | None
) -> Generator[tuple[Job, Outcome, int]]:
    """Each job, what became of it, and the tries made; ends where it is cancelled."""
    for job in jobs:
        if cancel is not None and cancel():
            return
        try:
            outcome = worker.render(job, on_event, cancel)
        except Cancelled:
            return
        yield job, outcome, 1


def _note(
    results: ResultsFolder, report: Report, failed: list[tuple[Fault, int]], job: Job, outcome: Outcome, tries: int
) -> None:
    """Put what became of a job into the report and the lists."""
    if outcome.error is None:
        report.rendered.append((job, outcome))
        results.add(job, -1 if outcome.seed is None else outcome.seed, seconds=outcome.seconds)
        return
    fault = _fault(job, located(outcome.error, job.places))
    failed.append((fault, tries))
    with _known_if(outcome.ends_all):
        results.fail(fault, tries)


@contextmanager
def _known_if(full: bool) -> Iterator[None]:
    """A context in which a failure to write a list is left out where the reason, a full disk, has been told."""
    try:
        yield
    except UserError:
        if not full:
            raise
        logger.info("%s is not written either", FAILED)


def _fault(job: Job, reason: str) -> Fault:
    return Fault(place=job.place, id=job.id, reason=reason)


def _row_number(fault: Fault) -> int:
    found = re.search(r"\d+", fault.place)
    return int(found[0]) if found else 0
