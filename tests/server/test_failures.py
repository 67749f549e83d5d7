"""Killed workers and servers, full queues and disks: each accepted job ends once, in its result or a clear failure."""

from __future__ import annotations

import base64
import errno
import io
import json
import os
import signal
import sqlite3
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from starlette.testclient import TestClient
from support.http_server import Server, eventually
from support.http_stub import renders

from animatediff.server.app import create_app
from animatediff.server.settings import Settings


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


def test_a_killed_worker(data: Path) -> None:
    """SIGKILL from outside: the job is tried once more; one that kills its workers fails after two tries."""
    with Server(data) as server:
        job = server.create("slow=1")["id"]
        server.until(job, lambda video: video["status"] == "in_progress" and video["progress"] > 0)
        (pid,) = server.workers()
        os.kill(pid, signal.SIGKILL)
        ended = server.ended(job)
        assert (ended["status"], ended["details"]["tries"]) == ("completed", 2)
        assert renders(data) == ["slow=1", "slow=1"]

        deadly = server.ended(server.create("die")["id"])
        assert (deadly["status"], deadly["error"]["code"], deadly["details"]["tries"]) == ("failed", "worker_died", 2)
        assert "SIGKILL" in deadly["error"]["message"] and "num_frames" in deadly["error"]["message"]
        assert renders(data)[2:] == ["die", "die"]
        assert server.ended(server.create("a fox")["id"])["status"] == "completed"
        metrics = server.client.get("/metrics").text
        assert 'animatediff_jobs_total{outcome="worker_died"} 1.0' in metrics
        assert "animatediff_worker_deaths_total 3.0" in metrics


def test_a_worker_that_stands_still(data: Path) -> None:
    """Without heartbeats its lease ends: it is killed, and the job fails after the second try."""
    with Server(data, lease_s=1.0) as server:
        ended = server.ended(server.create("hang")["id"])
        assert ended["error"]["code"] == "worker_died" and ended["details"]["tries"] == 2
        assert server.ended(server.create("a fox")["id"])["status"] == "completed"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_restart_in_the_middle(data: Path, number: int) -> None:
    """Running jobs are tried again, waiting ones are done; a server that is told to stop costs a job no try."""
    server = Server(data)
    running = server.create("slow=1.0")["id"]
    waiting = [server.create(f"a fox {index}")["id"] for index in range(3)]
    server.until(running, lambda video: video["status"] == "in_progress")
    eventually(lambda: list(renders(data)), bool)  # the worker may not have begun yet
    server.stop(number)
    log = Path(server.log.name).read_text()
    assert "cancelled" not in log
    assert ("the server stops; the job goes back into the queue" in log) == (number == signal.SIGTERM)
    server.start()
    with server:
        assert [server.ended(job)["status"] for job in (running, *waiting)] == ["completed"] * 4
        assert server.video(running)["details"]["tries"] == (2 if number == signal.SIGKILL else 1)
        assert Counter(renders(data)) == {"slow=1.0": 2, "a fox 0": 1, "a fox 1": 1, "a fox 2": 1}
        assert sorted(path.name for path in (data / "jobs").iterdir()) == sorted([running, *waiting])


def test_a_full_queue(data: Path) -> None:
    with Server(data, max_queue=2) as server:
        first = server.create("slow=30")["id"]
        server.until(first, lambda video: video["status"] == "in_progress")
        waiting = [server.create("a fox")["id"] for _ in range(2)]
        reply = server.client.post("/v1/videos", json={"prompt": "one more"})
        assert reply.status_code == 429 and int(reply.headers["retry-after"]) >= 1
        assert reply.json()["error"]["type"] == "rate_limit_error" and reply.json()["error"]["code"] == "queue_full"
        assert server.client.post("/v1/videos/sync", json={"prompt": "one more"}).status_code == 429
        assert server.video(waiting[1])["details"]["queue_position"] == 1
        # a job at work is cancelled by its deletion, and makes room
        assert server.client.delete(f"/v1/videos/{first}").json()["deleted"]
        eventually(lambda: f"{first}: deleted, and cancelled" in Path(server.log.name).read_text(), bool)
        assert [server.ended(job)["status"] for job in waiting] == ["completed"] * 2
        assert server.client.get(f"/v1/videos/{first}").status_code == 404
        eventually((data / "jobs" / first).exists, lambda there: not there)
        assert len(list((data / "jobs").iterdir())) == 2  # refused ones leave nothing


def test_a_full_disk_in_the_worker(server: Server) -> None:
    job = server.create("full")["id"]
    ended = server.ended(job)
    assert (ended["status"], ended["error"]["code"]) == ("failed", "disk_full")
    assert "disk of the server is full" in ended["error"]["message"] and str(server.data) not in json.dumps(ended)
    assert [path for path in (server.data / "jobs" / job).rglob("*") if path.is_file()] == []
    reply = server.client.post("/v1/videos/sync", json={"prompt": "full"})
    assert reply.status_code == 507 and reply.json()["error"]["code"] == "disk_full"
    memory = server.ended(server.create("memory")["id"])["error"]
    assert memory["code"] == "out_of_memory" and "(num_frames), a smaller width and height" in memory["message"]
    memory = server.ended(server.create("memory", seconds="1", size="64x64")["id"])["error"]
    assert "fewer frames (seconds), a smaller size, " in memory["message"]
    assert server.ended(server.create("a fox")["id"])["status"] == "completed"


def test_a_full_disk_in_the_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No job is taken that cannot be stored; what can be read is read on."""
    app = create_app(Settings(data=tmp_path / "data", devices=(), min_free_mb=0))
    service: Any = app.state.service
    with TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False) as client:
        first = client.post("/v1/videos", json={"prompt": "a fox"}).json()["id"]
        pages = service.queue._connection.execute("PRAGMA page_count").fetchone()[0]
        service.queue._connection.execute(f"PRAGMA max_page_count = {pages}")
        reply = client.post("/v1/videos", json={"prompt": "a fox " * 1200})
        assert (reply.status_code, reply.json()["error"]["code"]) == (507, "disk_full")
        service.queue._connection.execute("PRAGMA max_page_count = 100000")

        def full(path: Path, content: bytes) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

        red = "data:image/png;base64," + _red()
        with monkeypatch.context() as patch:
            patch.setattr(Path, "write_bytes", full)
            reply = client.post("/v1/videos", json={"prompt": "a fox", "input_reference": red})
        assert (reply.status_code, reply.json()["error"]["code"]) == (507, "disk_full")
        with monkeypatch.context() as patch:
            patch.setattr(type(service.store), "free_bytes", lambda self: 0)
            patch.setattr(service, "settings", Settings(data=tmp_path / "data", min_free_mb=1))
            reply = client.post("/v1/videos", json={"prompt": "a fox"})
        assert (reply.status_code, reply.json()["error"]["code"]) == (507, "disk_full")
        assert [video["id"] for video in client.get("/v1/videos").json()["data"]] == [first]
        assert list((tmp_path / "data" / "jobs").iterdir()) == []
        assert client.post("/v1/videos", json={"prompt": "a fox", "input_reference": red}).status_code == 200
        with monkeypatch.context() as patch:
            patch.setattr(service.queue, "get", _broken)
            assert client.get(f"/v1/videos/{first}").status_code == 503


def _broken(job: str) -> None:
    raise sqlite3.OperationalError("disk I/O error")


def _red() -> str:
    file = io.BytesIO()
    Image.new("RGB", (16, 16), "red").save(file, format="PNG")
    return base64.b64encode(file.getvalue()).decode()


def test_twenty_clients_at_once(data: Path) -> None:
    """A small queue and two workers, of which one dies: what is accepted ends once, what is not is told to wait."""
    ends: list[tuple[str, str]] = []
    turned_away = Counter[str]()

    def client(number: int) -> None:
        for index in range(2):
            prompt = "die-once" if (number, index) == (3, 0) else f"a fox {number} {index} slow=0.05"
            while True:
                reply = server.client.post("/v1/videos", json={"prompt": prompt, "num_frames": 1})
                if reply.status_code != 429:
                    break
                turned_away[reply.json()["error"]["code"]] += 1
                assert int(reply.headers["retry-after"]) >= 1
                threading.Event().wait(0.05)
            assert reply.status_code == 200, reply.text
            video = server.ended(reply.json()["id"])
            ends.append((prompt, video["status"]))
            assert server.client.get(f"/v1/videos/{video['id']}/content").status_code == 200

    with Server(data, max_queue=5, devices=[None, None]) as server:
        threads = [threading.Thread(target=client, args=(number,)) for number in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(ends) == len(dict(ends)) == 40 and {status for _, status in ends} == {"completed"}
        assert turned_away["queue_full"] > 0
        begun = Counter(renders(data))
        assert begun.pop("die-once") == 2 and set(begun.values()) == {1} and len(begun) == 39
        text = server.client.get("/metrics").text
        assert "animatediff_jobs_accepted_total 40.0" in text
        assert eventually(lambda: server.client.get("/metrics").text, lambda text: 'outcome="completed"} 40.0' in text)


def test_a_job_that_takes_too_long(data: Path) -> None:
    with Server(data, job_minutes=0.01) as server:
        ended = server.ended(server.create("slow=60")["id"])
        assert ended["error"]["code"] == "timed_out" and "0.01 minutes" in ended["error"]["message"]


def test_results_are_removed_after_their_time(data: Path) -> None:
    with Server(data, keep_hours=0.0001, sweep_s=0.1) as server:
        job = server.create("a fox")["id"]
        eventually(lambda: server.client.get(f"/v1/videos/{job}").status_code, lambda status: status == 404)
        eventually((data / "jobs" / job).exists, lambda there: not there)
        assert renders(data) == ["a fox"]
