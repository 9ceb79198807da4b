"""What do branches beside each other and their join cost?"""

from __future__ import annotations

from benchmarks.harness import Bench, Command
from benchmarks.subjects.workload import sum_of


def answer(bench: Bench) -> None:
    """A loader, two or four branches, a step that joins them by row."""
    count = bench.pick(10_000, 200)
    for branches in bench.pick((2, 4), (2,)):
        parameters = {"count": count, "batch": 50, "branches": branches}
        bench.compare(
            f"{branches} branches, {count:,} rows",
            bench.commands(
                Command("ours", "fan", parameters),
                *((Command("distilabel", "fan", parameters),) if branches == 2 else ()),
                Command("floor", "fan", parameters),
            ),
            expect={"rows": count, "sum": sum_of(count)},
        )
