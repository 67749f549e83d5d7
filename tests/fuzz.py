"""Fuzz everything that reads files of others: `python tests/fuzz.py --count 100000 [--seed 1] [--only pickle]`.

Each input is a sound file, changed by a generator that the seed and its number decide. It must be read, or refused by
UserError, within limits of time and memory. Inputs that are not are printed with the command that repeats them; the
exit code is then 1.
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import random
import signal
import struct
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

SECONDS, MEMORY_BYTES = 5, 10**9
"""CPU time of one input, and memory that it may take."""


class TookTooLong(BaseException):
    """Not an Exception, so that no reader takes it for a damaged file."""


def limit_memory(nbytes: int = MEMORY_BYTES) -> None:
    """Let this process take so much more memory than it has."""
    import resource

    has = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (has + nbytes, has + nbytes))


def _stop(*_: Any) -> None:
    raise TookTooLong


def _batch(name: str, numbers: range, seed: int, place: mmap.mmap, report: int) -> None:
    """In a process of its own: read the inputs of these numbers; failures are written to `report`."""
    import logging
    import warnings

    from hostile.targets import TARGETS, changed

    from animatediff.errors import UserError

    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    target = TARGETS[name]
    with tempfile.TemporaryDirectory(prefix="fuzz") as folder:
        sounds = target.sound(Path(folder))
        for suffix, sound in sounds:  # what is imported on first use does not count
            path = Path(folder) / f"first{suffix}"
            path.write_bytes(sound)
            with suppress(UserError):
                target.read(path)
        limit_memory()
        signal.signal(signal.SIGPROF, _stop)
        for number in numbers:
            place[:8] = struct.pack("<q", number)
            chance = random.Random(f"{seed} {name} {number}")
            suffix, sound = chance.choice(sounds)
            path = Path(folder) / f"{number}{suffix}"
            path.write_bytes(changed(target, sound, chance))
            began = time.process_time()
            signal.setitimer(signal.ITIMER_PROF, SECONDS)
            failure = ""
            try:
                target.read(path)
            except UserError as error:
                if not str(error).strip() or "\x1b" in str(error):
                    failure = f"message {str(error)!r}"
            except TookTooLong:
                failure = f"took more than {SECONDS} s"
            except BaseException as error:
                failure = f"{type(error).__name__}: {str(error)[:200]}"
            finally:
                signal.setitimer(signal.ITIMER_PROF, 0)
            path.unlink()
            if failure:
                entry = {"target": name, "number": number, "failure": failure, "s": time.process_time() - began}
                os.write(report, (json.dumps(entry) + "\n").encode())


def fuzz(name: str, count: int, seed: int, first: int = 0, batch: int = 500) -> list[dict[str, Any]]:
    """Failures among `count` inputs. A crash of the process counts as one, and the next input goes on after it."""
    failures: list[dict[str, Any]] = []
    place = mmap.mmap(-1, 8)
    at, end = first, first + count
    with tempfile.TemporaryFile() as report:
        while at < end:
            numbers = range(at, min(end, at + batch))
            pid = os.fork()
            if pid == 0:
                code = 3
                try:
                    devnull = os.open(os.devnull, os.O_WRONLY)
                    os.dup2(devnull, 1)
                    os.dup2(devnull, 2)
                    place[:8] = struct.pack("<q", at)
                    _batch(name, numbers, seed, place, report.fileno())
                    code = 0
                finally:
                    os._exit(code)
            _, status = os.waitpid(pid, 0)
            at = numbers.stop
            if status:
                number = struct.unpack("<q", place[:8])[0]
                failures.append({"target": name, "number": number, "failure": f"the process ended by status {status}"})
                at = number + 1
        report.seek(0)
        failures += [json.loads(line) for line in report]
    return failures


def main() -> int:
    """Run the command; returns its exit code."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    from hostile.targets import TARGETS

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=2000, help="inputs of each target")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first input")
    parser.add_argument("--only", choices=tuple(TARGETS), action="append")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    import torch  # once, before the processes part

    torch.set_num_threads(1)
    import animatediff.media
    import animatediff.render
    import animatediff.weights.inspect  # noqa: F401

    found = []
    for name in given.only or TARGETS:
        began = time.monotonic()
        failures = fuzz(name, given.count, given.seed, given.first)
        found += failures
        if not given.json:
            seconds = time.monotonic() - began
            print(f"{name}: {given.count} inputs, {len(failures)} failures, {seconds:.1f} s", flush=True)
            for one in failures[:20]:
                print(f"  --only {name} --seed {given.seed} --first {one['number']} --count 1: {one['failure']}")
    if given.json:
        print(json.dumps(found))
    return 1 if found else 0


if __name__ == "__main__":
    raise SystemExit(main())
