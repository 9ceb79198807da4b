"""How long from the start of a process to the first row in hand?"""

from __future__ import annotations

from benchmarks.harness import Bench, Command


def answer(bench: Bench) -> None:
    """One row through a loader and one step, imports included."""
    subjects = ("ours", "distilabel", "datatrove", "datasets", "ray", "floor")
    bench.compare(
        "one row",
        bench.commands(*(Command(subject, "first_row", {}) for subject in subjects)),
        expect={"rows": 1, "sum": 1},
    )
