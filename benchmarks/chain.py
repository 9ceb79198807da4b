"""How long do rows take through a loader and three trivial steps, in batches of 50?

Trivial steps, so that nothing but the machinery is measured.
"""

from __future__ import annotations

from benchmarks.harness import Bench, Command
from benchmarks.subjects.workload import sum_of


def answer(bench: Bench) -> None:
    """20,000 and 200,000 rows."""
    for count in bench.pick((20_000, 200_000), (500,)):
        parameters = {"count": count, "batch": 50}
        slow = () if count > 20_000 else (Command("distilabel", "chain", parameters),)
        bench.compare(
            f"{count:,} rows",
            bench.commands(
                Command("ours", "chain", parameters),
                *slow,
                Command("datatrove", "chain", parameters),
                Command("datasets", "chain", parameters),
                Command("ray", "chain", parameters),
                Command("floor", "chain", parameters),
            ),
            figures={"seconds": "s", "process_seconds": "s"},
            expect={"rows": count, "sum": sum_of(count)},
        )
