"""How long does it take to be told that nothing has changed?

No rival but distilabel and `datasets.map` notices: the others run again.
"""

from __future__ import annotations

from benchmarks.harness import Bench, Command
from benchmarks.subjects.workload import sum_of


def answer(bench: Bench) -> None:
    """200,000 and 1,000,000 rows, made once; each sample is a process of its own."""
    for count in bench.pick((200_000, 1_000_000), (300,)):
        # Batches of 1,000 only for what is made beforehand by distilabel: 50 would take minutes.
        parameters = {"count": count, "batch": 50}
        before = ({},)
        small = count <= 200_000
        bench.compare(
            f"{count:,} rows",
            bench.commands(
                Command("ours", "chain", parameters, prepare=before),
                *(
                    (
                        Command(
                            "distilabel", "chain", {**parameters, "batch": 1_000}, prepare=before
                        ),
                        Command("datasets", "chain", parameters, prepare=before),
                    )
                    if small
                    else ()
                ),
                Command("floor", "mapped", {"count": count}, prepare=before),
            ),
            figures={"seconds": "s", "process_seconds": "s"},
            expect={"rows": count, "sum": sum_of(count)},
        )
