"""How near do two replicas of a step that needs CPU come to a bare pool of two processes?"""

from __future__ import annotations

from benchmarks.harness import Bench, Command
from benchmarks.subjects.workload import sum_of


def answer(bench: Bench) -> None:
    """10,000 rows of 1 ms CPU each."""
    count = bench.pick(10_000, 200)
    parameters = {"count": count, "batch": 50, "milliseconds": 1, "replicas": 2}
    subjects = ("ours", "distilabel", "datatrove", "datasets", "ray", "floor")
    bench.compare(
        f"{count:,} rows of 1 ms",
        bench.commands(*(Command(subject, "processor", parameters) for subject in subjects)),
        figures={"seconds": "s", "process_seconds": "s"},
        expect={"rows": count, "sum": sum_of(count)},
    )
