"""How much memory does the whole tree of processes take for rows of 2 KB?

Proportional set size, so that pages which several processes map count once.
"""

from __future__ import annotations

from benchmarks.harness import Bench, Command
from benchmarks.subjects.workload import sum_of


def answer(bench: Bench) -> None:
    """200,000 rows of 2 KB in batches of 50 through three steps."""
    count = bench.pick(200_000, 500)
    parameters = {"count": count, "batch": 50, "text_chars": 2_000}
    slow = {**parameters, "batch": 1_000}
    bench.compare(
        f"{count:,} rows of 2 KB",
        bench.commands(
            Command("ours", "chain", parameters, memory=True),
            Command("distilabel", "chain", slow, memory=True, limit_seconds=400),
            Command("datatrove", "chain", parameters, memory=True),
            Command("datasets", "chain", parameters, memory=True),
            Command("floor", "chain", parameters, memory=True),
        ),
        figures={"peak_pss_mb": "MB", "seconds": "s"},
        expect={"rows": count, "sum": sum_of(count)},
    )
