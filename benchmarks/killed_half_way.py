"""What does kill -9 in the middle of a run cost?

A step waits 1 ms for each of its rows, as for a model, and writes down each row that it is given.
Once it was given about half of them, the process is killed and the script is started again. Calls
beyond the total are work that was paid for twice. Seconds too many: what the second run took beyond
the rows that were still missing, at the pace of a bare loop.
"""

from __future__ import annotations

import shutil
import time
from pathlib import Path

from benchmarks.harness import Bench, Command, SampleFailed
from benchmarks.processes import kill_tree
from benchmarks.rivals import RIVALS, NotInstalled
from benchmarks.subjects.workload import sum_of

# Around the half, so that no rival's unit of work happens to end there each time.
_PARTS = (0.42, 0.5, 0.54, 0.46, 0.58)
_FIGURES = {"calls_beyond_total": "", "seconds_too_many": "s", "seconds": "s"}


def answer(bench: Bench) -> None:
    """3,000 rows in batches of 50."""
    count = bench.pick(3_000, 400)
    parameters = {"count": count, "batch": 50, "milliseconds": 1}
    name = f"{count:,} rows of 1 ms"
    pace = _pace(bench, parameters)
    subjects = ("ours", "distilabel", "datatrove", "datasets", "floor")
    commands = [Command(subject, "calls", parameters, limit_seconds=30) for subject in subjects]
    failed: set[str] = set()
    spent = dict.fromkeys(subjects, 0.0)
    for turn in range(bench.repeats):
        kill_at = int(count * _PARTS[turn % len(_PARTS)])
        for command in bench.commands(*commands):
            over = command.subject in RIVALS and spent[command.subject] > bench.budget_seconds
            if command.subject in failed or over:
                continue
            directory = bench.directory()
            started = time.monotonic()
            try:
                sample = _killed(bench, command, directory, count, kill_at, pace)
            except (SampleFailed, NotInstalled) as error:
                failed.add(command.subject)
                bench.record(name, command.subject, {}, figures=_FIGURES, note=str(error))
            else:
                bench.record(name, command.subject, sample, figures=_FIGURES)
            finally:
                spent[command.subject] += time.monotonic() - started
                shutil.rmtree(directory, ignore_errors=True)


def _pace(bench: Bench, parameters: dict[str, int]) -> float:
    """Seconds that a bare loop needs for a row."""
    directory = bench.directory()
    try:
        whole = bench.run(Command("floor", "calls", parameters), directory, parameters)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    return float(whole["seconds"]) / parameters["count"]


def _killed(
    bench: Bench, command: Command, directory: Path, count: int, kill_at: int, pace: float
) -> dict[str, float]:
    """Kill a run after ``kill_at`` calls and run it again to its end."""
    log = directory / "calls"
    process = bench.start(command, directory, command.parameters)
    end = time.monotonic() + command.limit_seconds
    while _calls(log) < kill_at and process.poll() is None:
        if time.monotonic() > end:
            kill_tree(process)
            raise SampleFailed("the first run did not get so far")
        time.sleep(0.002)
    ended = process.poll() is not None
    kill_tree(process)
    if ended:
        raise SampleFailed("the first run ended before it could be killed")
    before = _calls(log)
    second = bench.run(command, directory, {**command.parameters, "turn": 1})
    if (second["rows"], second["sum"]) != (count, sum_of(count)):
        raise SampleFailed(f"not complete after the second run: {second['rows']} rows")
    return {
        **second,
        "calls_before_kill": before,
        "calls_beyond_total": _calls(log) - count,
        "seconds_too_many": second["seconds"] - (count - before) * pace,
    }


def _calls(log: Path) -> int:
    return log.stat().st_size if log.exists() else 0
