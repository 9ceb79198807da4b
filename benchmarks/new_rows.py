"""How long does it take when one tenth more rows come in?

The floor is the bare loop over the new rows alone.
"""

from __future__ import annotations

from benchmarks.harness import Bench, Command
from benchmarks.subjects.workload import sum_of


def answer(bench: Bench) -> None:
    """100,000 rows, then 110,000."""
    count = bench.pick(100_000, 500)
    more = count // 10
    parameters = {"count": count + more, "batch": 50}
    before = ({"count": count},)
    bench.compare(
        f"{count:,} rows and {more:,} more",
        bench.commands(
            Command("ours", "chain", parameters, prepare=before, prepare_each=True),
            Command("datasets", "chain", parameters, prepare=before, prepare_each=True),
        ),
        expect={"rows": count + more, "sum": sum_of(count + more)},
    )
    bench.compare(
        f"{more:,} rows alone",
        [
            Command("ours", "chain", {**parameters, "count": more}),
            Command("floor", "chain", {**parameters, "count": more}),
        ],
        expect={"rows": more, "sum": sum_of(more)},
    )
