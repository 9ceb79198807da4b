"""Does a row cost the same, and the supervisor stay as small, whatever the number of rows?"""

from __future__ import annotations

from benchmarks.harness import Bench, Command
from benchmarks.subjects.workload import sum_of


def answer(bench: Bench) -> None:
    """1,000 to 1,000,000 rows in batches of 50."""
    for count in bench.pick((1_000, 10_000, 100_000, 1_000_000), (200, 1_000)):
        parameters = {"count": count, "batch": 50}
        large = count > 100_000
        bench.compare(
            f"{count:,} rows",
            bench.commands(
                Command("ours", "chain", parameters),
                *(() if large else (Command("datatrove", "chain", parameters),)),
                *(() if large else (Command("datasets", "chain", parameters),)),
                Command("floor", "chain", parameters),
            ),
            figures={"rows_per_second": "rows/s", "supervisor_mb": "MB"},
            expect={"rows": count, "sum": sum_of(count)},
        )
