"""Does a further step cost the same whatever stands before it?"""

from __future__ import annotations

from benchmarks.harness import Bench, Command
from benchmarks.subjects.workload import sum_of


def answer(bench: Bench) -> None:
    """Chains of 1 to 16 steps; the figure is microseconds per row and step."""
    count = bench.pick(30_000, 200)
    for steps in bench.pick((1, 2, 4, 8, 16), (1, 4)):
        parameters = {"count": count, "batch": 50, "steps": steps}
        case = bench.compare(
            f"{count:,} rows, steps: {steps}",
            bench.commands(
                Command("ours", "chain", parameters),
                Command("datatrove", "chain", parameters),
                Command("floor", "chain", parameters),
            ),
            figures={"microseconds_per_row_and_step": "µs", "seconds": "s"},
            expect={"rows": count, "sum": sum_of(count)},
        )
        for column in case.columns.values():
            for sample in column.samples:
                sample["microseconds_per_row_and_step"] = sample["seconds"] * 1e6 / count / steps
