"""The table of jobs: each claimed by one worker, each ended once, whoever dies in between."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from animatediff.server.queue import COMPLETED, FAILED, QUEUED, RUNNING, Job, Queue, QueueFull
from animatediff.server.store import new_id


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def queue(tmp_path: Path, clock: Clock) -> Queue:
    return Queue(tmp_path / "queue.sqlite3", clock=clock)


Add = Callable[..., Job]


@pytest.fixture
def add(queue: Queue) -> Add:
    def added(max_queued: int = 100) -> Job:
        return queue.add(new_id(), {"model": "bundled"}, {"prompt": "a fox"}, max_queued=max_queued)

    return added


def claimed(queue: Queue, worker: str = "w") -> Job:
    job = queue.claim(worker)
    assert job is not None
    return job


def test_jobs_are_claimed_in_order_each_by_one_of_many(tmp_path: Path, queue: Queue, add: Add) -> None:
    wanted = [add().id for _ in range(40)]
    found: list[str] = []

    def work(name: str) -> None:
        own = Queue(tmp_path / "queue.sqlite3")  # as another process has it
        while (job := own.claim(name)) is not None:
            found.append(job.id)
            assert own.complete(job, {"file": name}, {}, 60)

    threads = [threading.Thread(target=work, args=(f"w{number}",)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == sorted(wanted)
    assert queue.counts() == {QUEUED: 0, RUNNING: 0, COMPLETED: 40, FAILED: 0}


def test_a_claim_that_is_gone_changes_nothing(queue: Queue, add: Add) -> None:
    """A worker that was taken for dead comes back: its result is not taken beside that of the second try."""
    job = add()
    first = claimed(queue, "one")
    assert queue.lost(first, "gone", 60) == QUEUED
    second = claimed(queue, "two")
    assert second.id == job.id and second.tries == 2
    assert not queue.beat(first, {"percent": 50})
    assert not queue.complete(first, {"file": "of one"}, {}, 60)
    assert not queue.fail(first, "internal_error", "of one", 60)
    assert queue.complete(second, {"file": "of two"}, {}, 60)
    assert not queue.complete(second, {"file": "again"}, {}, 60)
    ended = queue.get(job.id)
    assert ended is not None and ended.result == {"file": "of two"} and ended.status == COMPLETED


def test_the_second_loss_is_the_end(queue: Queue, add: Add) -> None:
    job = add()
    assert queue.lost(claimed(queue), "the worker process was ended by SIGKILL", 60) == QUEUED
    assert queue.lost(claimed(queue), "the worker process was ended by SIGKILL", 60) == FAILED
    assert queue.claim("w") is None
    ended = queue.get(job.id)
    assert ended is not None and ended.error == {
        "code": "worker_died",
        "message": "the worker process was ended by SIGKILL (tried 2 times)",
        "param": None,
    }


def test_a_job_put_back_keeps_its_place_and_its_tries(queue: Queue, add: Add) -> None:
    first, second = add(), add()
    assert queue.put_back(claimed(queue))
    again = claimed(queue)
    assert (again.id, again.tries) == (first.id, 1)
    assert claimed(queue).id == second.id


def test_a_deleted_job_is_lost_to_its_worker(queue: Queue, add: Add) -> None:
    add()
    job = claimed(queue)
    assert queue.beat(job, {"percent": 5})
    assert queue.delete(job.id) is not None
    assert not queue.beat(job, {"percent": 6})
    assert not queue.complete(job, {}, {}, 60)
    assert queue.get(job.id) is None and queue.delete(job.id) is None


def test_no_more_wait_than_may(queue: Queue, add: Add) -> None:
    for _ in range(3):
        add(max_queued=3)
    with pytest.raises(QueueFull):
        add(max_queued=3)
    claimed(queue)
    add(max_queued=3)
    assert queue.counts()[QUEUED] == 3


def test_each_end_is_told_once_also_after_a_restart(tmp_path: Path, queue: Queue, add: Add) -> None:
    add(), add()
    queue.complete(claimed(queue), {"file": "a"}, {}, 60)
    assert len(queue.newly_ended()) == 1
    queue.fail(claimed(queue), "bug", "text", 60)
    queue.close()
    again = Queue(tmp_path / "queue.sqlite3")
    assert [job.status for job in again.newly_ended()] == [FAILED]
    assert again.newly_ended() == []


def test_results_expire(queue: Queue, add: Add, clock: Clock) -> None:
    add()
    job = claimed(queue)
    queue.complete(job, {}, {}, keep_s=100)
    clock.now += 99
    assert queue.expired() == []
    clock.now += 2
    assert [found.id for found in queue.expired()] == [job.id]


def test_the_table_is_safe_against_a_loss_of_power(queue: Queue) -> None:
    assert queue._connection.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
    assert queue._connection.execute("PRAGMA synchronous").fetchone()[0] == 2  # FULL


def test_pages_follow_each_other(queue: Queue, add: Add) -> None:
    ids = [add().id for _ in range(5)]
    newest = queue.list(after=None, limit=2, newest_first=True)
    assert [job.id for job in newest] == ids[:2:-1]
    assert [job.id for job in queue.list(after=newest[-1].seq, limit=9, newest_first=True)] == ids[2::-1]
    assert [job.id for job in queue.list(after=None, limit=9, newest_first=False)] == ids
