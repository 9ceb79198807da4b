"""The rows and the work that all columns share, and how a subject reports. Standard library only.

Every subject is a script that imports this as its neighbour: rivals run in environments that know
nothing of asyncdistil.
"""

from __future__ import annotations

import json
import os
import random
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

Row = dict[str, Any]
SEED = 20_240_607
_BLOCK_CHARS = 1 << 20
_block: list[str] = []


def row(number: int, text_chars: int = 0) -> Row:
    """The input row of this number; the same in every process and every run."""
    if not text_chars:
        return {"x": number, "text": f"row number {number}"}
    if not _block:
        alphabet = "abcdefghijklmnopqrstuvwxyz      "
        _block.append("".join(random.Random(SEED).choices(alphabet, k=_BLOCK_CHARS)))
    start = number * 7919 % (_BLOCK_CHARS - text_chars)
    return {"x": number, "text": _block[0][start : start + text_chars]}


def rows(start: int, stop: int, text_chars: int = 0) -> list[Row]:
    """Input rows by number."""
    return [row(number, text_chars) for number in range(start, stop)]


def spin(seconds: float) -> None:
    """Use this much CPU time of the calling thread."""
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


def note_calls(path: str, count: int) -> None:
    """Write down that rows were given to the step: one byte each, safe across processes."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        os.write(fd, b"." * count)
    finally:
        os.close(fd)


def sum_of(count: int) -> int:
    """Sum of a column that holds x + 1 for ``count`` rows."""
    return count * (count + 1) // 2


def high_water_mb() -> float | None:
    """Most memory that this process had resident; unlike getrusage not its parent's too."""
    try:
        with open("/proc/self/status", encoding="ascii") as status:
            for line in status:
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024 / 1e6
    except OSError:
        return None
    return None


def since_start() -> float:
    """Seconds since the harness started this process."""
    return time.monotonic() - float(os.environ["BENCHMARK_STARTED"])


def cpu_seconds() -> float:
    """CPU of this process and of its children that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def question(number: int) -> str:
    """A prompt like no other."""
    return f"Write one sentence about number {number} and what the weather is like in spring."


def main(*workloads: Callable[..., dict[str, Any]]) -> None:
    """Run the workload that the command line names and report what it returns."""
    known = {workload.__name__: workload for workload in workloads}
    result = known[sys.argv[1]](**json.loads(sys.argv[2]))
    result["cpu_seconds"] = cpu_seconds()
    sys.stdout.flush()
    print("\nRESULT " + json.dumps(result), flush=True)
