"""What does it cost that rows survive a power cut?"""

from __future__ import annotations

from benchmarks.harness import Bench, Command
from benchmarks.subjects.workload import sum_of


def answer(bench: Bench) -> None:
    """The same chain in each sync mode; the floor is the bare loop in that mode."""
    count = bench.pick(100_000, 200)
    commands = []
    for mode in bench.pick(("durable", "relaxed", "process"), ("durable", "process")):
        parameters = {"count": count, "batch": 50, "mode": mode}
        commands += [
            Command("ours", "chain", parameters, label=f"ours, {mode}"),
            Command("floor", "chain", parameters, label=f"floor, {mode}"),
        ]
    bench.compare(
        f"{count:,} rows, batches of 50",
        commands,
        figures={"seconds": "s", "cpu_seconds": "s"},
        expect={"rows": count, "sum": sum_of(count)},
    )
    batches = bench.pick(20_000, 500)
    bench.compare(
        f"one commit of {batches:,}",
        [
            Command("ours", "log_batches", {"count": batches, "mode": mode}, label=f"ours, {mode}")
            for mode in ("durable", "relaxed", "process")
        ],
        figures={"cpu_microseconds": "µs", "wall_microseconds": "µs"},
    )
