"""How long does it take when only the last of three steps has changed?

The floor logs the loader and one step, since it has nothing to replay from.
"""

from __future__ import annotations

from benchmarks.harness import Bench, Command
from benchmarks.subjects.workload import sum_of


def answer(bench: Bench) -> None:
    """200,000 rows; each sample changes the last step to another one."""
    count = bench.pick(200_000, 300)
    parameters = {"count": count, "batch": 50, "change_last": True}
    before = ({},)
    bench.compare(
        f"{count:,} rows",
        bench.commands(
            Command("ours", "chain", parameters, prepare=before),
            Command("distilabel", "chain", {**parameters, "batch": 1_000}, prepare=before),
            Command("datatrove", "chain", parameters),
            Command("datasets", "chain", parameters, prepare=before),
            Command("floor", "chain", {"count": count, "batch": 50, "steps": 1}),
        ),
        figures={"seconds": "s", "process_seconds": "s"},
        expect={"rows": count, "sum": sum_of(count)},
    )
