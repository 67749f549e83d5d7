"""The jobs: one table of SQLite that server and workers share. Each job is claimed by one worker, and ends once.

A claim is a lease, held by heartbeats. Whatever a worker writes names its claim (worker and number of the try): after
the job was deleted, or given to another worker, it changes nothing.
"""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

QUEUED, RUNNING, COMPLETED, FAILED = "queued", "in_progress", "completed", "failed"
ENDED = (COMPLETED, FAILED)
MAX_TRIES = 2
_SCHEMA = """
CREATE TABLE IF NOT EXISTS jobs (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT UNIQUE NOT NULL,
    status TEXT NOT NULL,
    created_at REAL NOT NULL,
    started_at REAL,
    completed_at REAL,
    expires_at REAL,
    worker TEXT,
    lease_until REAL,
    tries INTEGER NOT NULL DEFAULT 0,
    asked TEXT NOT NULL,
    options TEXT NOT NULL,
    state TEXT NOT NULL DEFAULT '{}',
    result TEXT,
    error TEXT,
    told INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX IF NOT EXISTS jobs_by_status ON jobs (status, seq);
"""


class QueueFull(Exception):  # noqa: N818 - an answer, not a failure
    """As many jobs wait as may."""

    def __init__(self, waiting: int) -> None:
        super().__init__(f"{waiting} jobs are waiting")
        self.waiting = waiting


@dataclass(frozen=True, kw_only=True)
class Job:
    """A row of the table."""

    seq: int
    id: str
    status: str
    created_at: float
    started_at: float | None
    completed_at: float | None
    expires_at: float | None
    worker: str | None
    lease_until: float | None
    tries: int
    asked: dict[str, Any]
    """What a client is told of its request: model, prompt, seconds, size."""
    options: dict[str, Any]
    """Values for `build_request`, with the files found."""
    state: dict[str, Any] = field(default_factory=dict)
    """Progress: phase, step, total, time_left, percent, notes, and the number of the newest preview."""
    result: dict[str, Any] | None = None
    error: dict[str, Any] | None = None

    @property
    def ended(self) -> bool:
        """Whether the job is done or has failed."""
        return self.status in ENDED


class Queue:
    """The table. Threads and processes may use it at once."""

    def __init__(
        self, path: Path, *, lease_s: float = 30.0, clock: Callable[[], float] = time.time, wait_s: float = 10.0
    ) -> None:
        self._lease_s, self._clock = lease_s, clock
        self._lock = threading.Lock()
        self._connection = sqlite3.connect(path, timeout=wait_s, isolation_level=None, check_same_thread=False)
        self._connection.row_factory = sqlite3.Row
        self._connection.execute("PRAGMA journal_mode=WAL")
        self._connection.execute("PRAGMA synchronous=FULL")
        self._connection.executescript(_SCHEMA)

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._connection.close()

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """A transaction that holds the write lock from its beginning, so that what it reads stays true."""
        with self._lock:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    def _read(self, query: str, values: tuple[Any, ...] = ()) -> list[sqlite3.Row]:
        with self._lock:
            return self._connection.execute(query, values).fetchall()

    # -- for clients ---------------------------------------------------------------------------------------------------

    def add(self, job: str, asked: Mapping[str, Any], options: Mapping[str, Any], *, max_queued: int) -> Job:
        """Append a job. Raises QueueFull."""
        with self._writing() as db:
            waiting = db.execute("SELECT count(*) FROM jobs WHERE status = ?", (QUEUED,)).fetchone()[0]
            if waiting >= max_queued:
                raise QueueFull(waiting)
            db.execute(
                "INSERT INTO jobs (id, status, created_at, asked, options) VALUES (?, ?, ?, ?, ?)",
                (job, QUEUED, self._clock(), json.dumps(asked), json.dumps(options)),
            )
            return _job(db.execute("SELECT * FROM jobs WHERE id = ?", (job,)).fetchone())

    def get(self, job: str) -> Job | None:
        """The job of this id."""
        rows = self._read("SELECT * FROM jobs WHERE id = ?", (job,))
        return _job(rows[0]) if rows else None

    def list(self, *, after: int | None, limit: int, newest_first: bool) -> list[Job]:
        """Up to `limit` jobs in order, from the one behind `after` (its `seq`) on."""
        beyond, order = ("<", "DESC") if newest_first else (">", "ASC")
        where = "" if after is None else f"WHERE seq {beyond} ?"
        values = (limit,) if after is None else (after, limit)
        return [_job(row) for row in self._read(f"SELECT * FROM jobs {where} ORDER BY seq {order} LIMIT ?", values)]

    def position(self, job: Job) -> int:
        """Jobs that wait before this one."""
        return self._read("SELECT count(*) FROM jobs WHERE status = ? AND seq < ?", (QUEUED, job.seq))[0][0]

    def counts(self) -> dict[str, int]:
        """Number of jobs of each status."""
        found = dict.fromkeys((QUEUED, RUNNING, COMPLETED, FAILED), 0)
        return found | {row[0]: row[1] for row in self._read("SELECT status, count(*) FROM jobs GROUP BY status")}

    def mean_seconds(self) -> float | None:
        """Seconds that the last jobs took."""
        query = "SELECT completed_at - started_at FROM jobs WHERE status = ? ORDER BY seq DESC LIMIT 20"
        times = [row[0] for row in self._read(query, (COMPLETED,)) if row[0] is not None]
        return sum(times) / len(times) if times else None

    def delete(self, job: str) -> Job | None:
        """Remove a job; a worker that is at it finds its claim gone, and stops."""
        with self._writing() as db:
            row = db.execute("SELECT * FROM jobs WHERE id = ?", (job,)).fetchone()
            db.execute("DELETE FROM jobs WHERE id = ?", (job,))
            return None if row is None else _job(row)

    # -- for workers ---------------------------------------------------------------------------------------------------

    def claim(self, worker: str) -> Job | None:
        """The next job, for this worker alone; None if none waits."""
        if not self._read("SELECT 1 FROM jobs WHERE status = ? LIMIT 1", (QUEUED,)):
            return None  # without the write lock
        with self._writing() as db:
            row = db.execute("SELECT id FROM jobs WHERE status = ? ORDER BY seq LIMIT 1", (QUEUED,)).fetchone()
            if row is None:
                return None
            now = self._clock()
            db.execute(
                "UPDATE jobs SET status = ?, worker = ?, started_at = ?, lease_until = ?, tries = tries + 1, "
                "state = '{}' WHERE id = ?",
                (RUNNING, worker, now, now + self._lease_s, row["id"]),
            )
            return _job(db.execute("SELECT * FROM jobs WHERE id = ?", (row["id"],)).fetchone())

    def beat(self, claim: Job, state: Mapping[str, Any]) -> bool:
        """Hold the claim, and tell the progress. False: the job was deleted or is another worker's."""
        return self._update(claim, "state = ?, lease_until = ?", (json.dumps(state), self._clock() + self._lease_s))

    def complete(self, claim: Job, result: Mapping[str, Any], state: Mapping[str, Any], keep_s: float) -> bool:
        """The job is done. False where the claim is gone."""
        now = self._clock()
        return self._update(
            claim,
            "status = ?, completed_at = ?, expires_at = ?, result = ?, state = ?, lease_until = NULL",
            (COMPLETED, now, now + keep_s, json.dumps(result), json.dumps(state)),
        )

    def fail(self, claim: Job, code: str, message: str, keep_s: float, param: str | None = None) -> bool:
        """The job has failed. False where the claim is gone."""
        now, error = self._clock(), json.dumps({"code": code, "message": message, "param": param})
        return self._update(
            claim,
            "status = ?, completed_at = ?, expires_at = ?, error = ?, lease_until = NULL",
            (FAILED, now, now + keep_s, error),
        )

    def _update(self, claim: Job, changes: str, values: tuple[Any, ...]) -> bool:
        with self._writing() as db:
            done = db.execute(
                f"UPDATE jobs SET {changes} WHERE id = ? AND status = ? AND worker = ? AND tries = ?",
                (*values, claim.id, RUNNING, claim.worker, claim.tries),
            )
            return done.rowcount == 1

    # -- for the supervisor --------------------------------------------------------------------------------------------

    def running(self, worker: str | None = None) -> list[Job]:
        """Jobs at work, of one worker or of all."""
        found = [_job(row) for row in self._read("SELECT * FROM jobs WHERE status = ?", (RUNNING,))]
        return [job for job in found if worker in (None, job.worker)]

    def lost(self, claim: Job, reason: str, keep_s: float) -> str | None:
        """A job whose worker is gone: back into its place in the queue, or failed after its last try; its new status.

        None where the claim is gone.
        """
        if claim.tries >= MAX_TRIES:
            times = "once" if claim.tries == 1 else f"{claim.tries} times"
            return FAILED if self.fail(claim, "worker_died", f"{reason} (tried {times})", keep_s) else None
        changes = "status = ?, worker = NULL, lease_until = NULL, started_at = NULL, state = '{}'"
        return QUEUED if self._update(claim, changes, (QUEUED,)) else None

    def put_back(self, claim: Job) -> bool:
        """Return a job that its worker was told to leave; the try does not count."""
        return self._update(
            claim,
            "status = ?, worker = NULL, lease_until = NULL, started_at = NULL, state = '{}', tries = tries - 1",
            (QUEUED,),
        )

    def newly_ended(self) -> list[Job]:
        """Jobs that have ended and were not in an earlier answer; each is in one, whoever asks."""
        marks = (COMPLETED, FAILED)
        if not self._read("SELECT 1 FROM jobs WHERE status IN (?, ?) AND told = 0 LIMIT 1", marks):
            return []
        with self._writing() as db:
            rows = db.execute("SELECT * FROM jobs WHERE status IN (?, ?) AND told = 0", marks).fetchall()
            db.executemany("UPDATE jobs SET told = 1 WHERE seq = ?", [(row["seq"],) for row in rows])
            return [_job(row) for row in rows]

    def expired(self) -> list[Job]:
        """Jobs whose results have been kept long enough."""
        return [_job(row) for row in self._read("SELECT * FROM jobs WHERE expires_at < ?", (self._clock(),))]

    def ids(self) -> set[str]:
        """All ids."""
        return {row[0] for row in self._read("SELECT id FROM jobs")}


def _job(row: sqlite3.Row) -> Job:
    values = {key: row[key] for key in row.keys() if key != "told"}  # noqa: SIM118 - a Row iterates over its values
    for name in ("asked", "options", "state", "result", "error"):
        values[name] = None if values[name] is None else json.loads(values[name])
    return Job(**values)
