"""Jobs a minute and the latency of /health, with many clients at once: python benchmarks/http_load.py [--clients 20].

Starts `animatediff serve` with the bundled model, or asks the service of --url.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen


def ask(url: str, body: dict[str, object] | None = None) -> dict[str, object]:
    """The JSON of a reply; waits where the queue is full."""
    data = None if body is None else json.dumps(body).encode()
    while True:
        try:
            with urlopen(Request(url, data, {"Content-Type": "application/json"}), timeout=60) as reply:
                return json.load(reply)
        except HTTPError as error:
            if error.code != 429:
                raise
            time.sleep(min(2.0, float(error.headers["Retry-After"])))


def load(url: str, clients: int, jobs: int, frames: int, steps: int) -> None:
    """Let clients ask for videos, each one after the other, and print what it took."""
    done, latencies, end = list[str](), list[float](), threading.Event()

    def client() -> None:
        for _ in range(jobs):
            body = {"prompt": "a fox moving right", "num_frames": frames, "num_inference_steps": steps}
            job = ask(f"{url}/v1/videos", body)["id"]
            while (state := ask(f"{url}/v1/videos/{job}")["status"]) in ("queued", "in_progress"):
                time.sleep(0.5)
            done.append(str(state))

    def health() -> None:
        while not end.wait(0.05):
            start = time.perf_counter()
            ask(f"{url}/health")
            latencies.append((time.perf_counter() - start) * 1000)

    ask(f"{url}/v1/videos", {"prompt": "warm up", "num_frames": frames, "num_inference_steps": 1})
    while any(video["status"] != "completed" for video in ask(f"{url}/v1/videos")["data"]):  # type: ignore[union-attr, index]
        time.sleep(0.2)
    watch = threading.Thread(target=health)
    watch.start()
    start = time.perf_counter()
    threads = [threading.Thread(target=client) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took = time.perf_counter() - start
    end.set()
    watch.join()
    latencies.sort()
    print(f"{clients} clients, {len(done)} jobs of {frames} frames and {steps} steps in {took:.1f} s")
    print(
        f"completed {done.count('completed')}, failed {done.count('failed')}; {60 * len(done) / took:.0f} jobs a minute"
    )
    at = {share: latencies[min(len(latencies) - 1, int(len(latencies) * share))] for share in (0.5, 0.95, 0.99)}
    print("/health: " + ", ".join(f"{share:.0%} within {ms:.1f} ms" for share, ms in at.items()))


def main() -> None:
    """Read the arguments, start the service if none is named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url")
    parser.add_argument("--clients", type=int, default=20)
    parser.add_argument("--jobs", type=int, default=3, help="of each client")
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--steps", type=int, default=2)
    given = parser.parse_args()
    if given.url:
        load(given.url.rstrip("/"), given.clients, given.jobs, given.frames, given.steps)
        return
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable,
            "-m",
            "animatediff.cli.main",
            "serve",
            "--port",
            "0",
            "--data",
            str(Path(folder) / "d"),
        ]
        server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert server.stdout is not None
        try:
            url = server.stdout.readline().split()[2].removesuffix("/v1/videos;")
            load(url, given.clients, given.jobs, given.frames, given.steps)
        finally:
            server.terminate()
            server.wait()


if __name__ == "__main__":
    main()
