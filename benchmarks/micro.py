"""What do the small parts of the hot path cost: append, encode, hash, frame, look-up?

Measured by pyperf, in processes of its own. The floor of each is the least that could do the same:
bare msgspec, bare xxhash, one ``write``, one look-up in a dict.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from typing import Any

from benchmarks.harness import SUBJECTS, Bench


def answer(bench: Bench) -> None:
    """Batches of 50 small rows."""
    import pyperf

    directory = bench.directory()
    try:
        output = directory / "micro.json"
        speed = ("--debug-single-value",) if bench.fast else ("--processes=5", "--values=1")
        run = subprocess.run(
            [sys.executable, str(SUBJECTS / "micro.py"), *speed, "--quiet", "-o", str(output)],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "TMPDIR": str(directory)},
        )
        if run.returncode:
            note = run.stderr.strip()[-600:]
            bench.record("all", "ours", {}, figures={"microseconds": "µs"}, note=note)
            return
        for part in pyperf.BenchmarkSuite.load(str(output)):
            name, _, column = part.get_name().partition("|")
            for value in part.get_values():
                sample: dict[str, Any] = {"microseconds": value * 1e6}
                bench.record(name, column, sample, figures={"microseconds": "µs"})
    finally:
        shutil.rmtree(directory, ignore_errors=True)
