"""What does the size of a batch change?"""

from __future__ import annotations

from benchmarks.harness import Bench, Command
from benchmarks.subjects.workload import sum_of


def answer(bench: Bench) -> None:
    """Batches of 1, 50 and 1,000; a rival only where its price per batch allows it."""
    for batch, count in bench.pick(
        ((1, 2_000), (50, 50_000), (1_000, 100_000)), ((1, 20), (50, 500))
    ):
        parameters = {"count": count, "batch": batch}
        bench.compare(
            f"batches of {batch:,}, {count:,} rows",
            bench.commands(
                Command("ours", "chain", parameters),
                Command("datasets", "chain", parameters),
                Command("floor", "chain", parameters),
            ),
            figures={"rows_per_second": "rows/s"},
            expect={"rows": count, "sum": sum_of(count)},
        )
