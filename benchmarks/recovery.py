"""How long does it take to open a log, by its size and by how it was left?

After a crash the whole log is read, its chain checked and its index made anew; after a clean end a
checkpoint is opened. The floor reads and hashes the same files.
"""

from __future__ import annotations

from benchmarks.harness import Bench, Command


def answer(bench: Bench) -> None:
    """1,000 to 100,000 commits: with batches of 50 that many times 50 rows of one step."""
    for commits in bench.pick((1_000, 10_000, 100_000), (100,)):
        for clean in (False, True):
            parameters = {"commits": commits, "clean": clean}
            bench.compare(
                f"{commits:,} commits, {'clean end' if clean else 'crash'}",
                [
                    Command("ours", "recovery", parameters, prepare=({},)),
                    Command("floor", "recovery", parameters, prepare=({},)),
                ],
            )
