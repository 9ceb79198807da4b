"""Directs the demonstration: starts runs, kills one, counts."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import msgspec

from asyncdistil.demo import library
from asyncdistil.demo.committed import committed_keys
from asyncdistil.demo.journal import JOURNAL_VARIABLE, calls
from asyncdistil.demo.pipelines import library_pipeline
from asyncdistil.demo.report import ModelFigures, Report, RunFigures
from asyncdistil.demo.task import Done, Task
from asyncdistil.errors import UserError, WorkerError

_MODEL_ROWS = 300
_LATENCY_SECONDS = 0.2
_LATENCY_SIGMA = 0.5
_SAMPLES = 3
_SAMPLE_ANSWER_CHARS = 220
_LOOK_SECONDS = 0.05
_RUNS = ("killed", "resumed", "again")


_Killer: TypeAlias = "Callable[[subprocess.Popen[bytes]], None]"


class _Ended(NamedTuple):
    seconds: float
    killed: bool
    done: Done | None


def demonstrate(
    directory: Path, *, say: Callable[[str], None] = lambda _: None, models: bool = True
) -> Report:
    """Show that a killed run loses nothing and repeats nothing.

    Args:
        directory: For everything that is written; must be empty or missing.
        say: Told what happens, a sentence at a time.
        models: Whether to show the second act.

    Raises:
        UserError: The directory holds something.
        WorkerError: A run ended otherwise than it should; its output is in ``runs.log``.
    """
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise UserError(f"{directory} is not empty: name a new or an empty directory")
    directory.mkdir(parents=True, exist_ok=True)
    modules = sum(1 for _ in library.modules())
    cache_dir, dataset = directory / "cache", directory / "questions.jsonl"
    say(f"Reading the documentation of {modules} modules of Python's standard library.")
    task = Task(os.fspath(cache_dir), halfway_inputs=modules // 2)
    first = _run(task, directory, _RUNS[0], kill=_at_its_word)
    say(
        "Half-way: the run was killed with SIGKILL. Running it again."
        if first.killed
        else "The run was done before it could be killed. Running it again."
    )
    committed = committed_keys(cache_dir, library_pipeline(cache_dir).name)
    second = _run(Task(task.cache_dir), directory, _RUNS[1])
    say("Resumed and done. Running it once more, with nothing changed.")
    third = _run(Task(task.cache_dir, write_to=os.fspath(dataset)), directory, _RUNS[2])
    assert third.done is not None
    rows = [msgspec.json.decode(line) for line in dataset.read_bytes().splitlines()]
    return Report(
        directory=os.fspath(directory),
        dataset=os.fspath(dataset),
        rows=third.done.rows,
        modules=modules,
        killed=first.killed,
        runs=_figures(directory, (first, second, third), committed),
        model=_second_act(directory, rows, say) if models else None,
        samples=_samples(rows),
    )


def _run(task: Task, directory: Path, name: str, *, kill: _Killer | None = None) -> _Ended:
    """Run a task in a process of its own.

    Args:
        task: What to run.
        directory: For journal and output.
        name: Of the run.
        kill: Waits until the process is half-way, and kills it.
    """
    environment = {**os.environ, JOURNAL_VARIABLE: os.fspath(_journal(directory, name))}
    command = [
        sys.executable,
        "-P",
        "-m",
        "asyncdistil.demo.act",
        msgspec.json.encode(task).decode(),
    ]
    started = time.monotonic()
    with (directory / "runs.log").open("ab") as log:
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log
        )
    with process:
        assert process.stdout is not None
        try:
            if kill is not None:
                kill(process)
            last = process.stdout.readlines()[-1:]
        except BaseException:
            process.terminate()
            raise
        process.wait()
    seconds = time.monotonic() - started
    if process.returncode == 0:
        return _Ended(seconds, False, msgspec.json.decode(last[0], type=Done))
    if process.returncode == -signal.SIGKILL and kill is not None:
        return _Ended(seconds, True, None)
    raise WorkerError(
        f"the {name} run of the demonstration ended with status {process.returncode}: its output "
        f"is in {directory / 'runs.log'}"
    )


def _at_its_word(process: subprocess.Popen[bytes]) -> None:
    assert process.stdout is not None
    if b"halfway" in process.stdout.readline():
        process.kill()


def _journal(directory: Path, name: str) -> Path:
    return directory / f"calls-{name}.jsonl"


def _figures(
    directory: Path, ends: tuple[_Ended, ...], committed: dict[str, set[str]]
) -> list[RunFigures]:
    figures: list[RunFigures] = []
    earlier: dict[str, Counter[str]] = {}
    for name, end in zip(_RUNS, ends, strict=True):
        made = calls(_journal(directory, name))
        again = {
            step: [key for key in keys.elements() if key in earlier.get(step, ())]
            for step, keys in made.items()
        }
        twice = {
            step: sum(key in committed.get(step, ()) for key in keys)
            for step, keys in again.items()
        }
        figures.append(
            RunFigures(
                run=name,
                seconds=round(end.seconds, 2),
                rows_computed=sum(keys.total() for keys in made.values()),
                rows_replayed=_replayed(end.done, earlier),
                computed_twice=sum(twice.values()),
                cut_off=sum(map(len, again.values())) - sum(twice.values()),
            )
        )
        for step, keys in made.items():
            earlier.setdefault(step, Counter()).update(keys)
        if name == "resumed":
            # It ended well: all that it did, and all before it, is committed.
            committed = {step: set(keys) for step, keys in earlier.items()}
    return figures


def _replayed(done: Done | None, noted: dict[str, Counter[str]]) -> int:
    """Rows that the noting steps were spared, by the run's own report."""
    if done is None:
        return 0
    if done.report["hit"]:
        return done.rows
    total = 0
    for step, counters in done.report["steps"].items():
        if step in noted:
            total += counters["inputs_replayed"] or (
                counters["rows_replayed"] if not counters["inputs_computed"] else 0
            )
    return total


def _samples(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The best short row of each third of the dataset."""
    short = [
        {name: row[name] for name in ("question", "answer", "module", "score")}
        for row in rows
        if row["kind"] != "module" and len(row["answer"]) <= _SAMPLE_ANSWER_CHARS
    ]
    share = -(-len(short) // _SAMPLES)
    parts = [short[start : start + share] for start in range(0, len(short), share or 1)]
    return [max(part, key=lambda row: row["score"]) for part in parts]


def _second_act(
    directory: Path, rows: list[dict[str, Any]], say: Callable[[str], None]
) -> ModelFigures:
    from asyncdistil.testing.model_server import ModelServer

    asked = [{"question": row["question"]} for row in rows[:: max(1, len(rows) // _MODEL_ROWS)]]
    asked = asked[:_MODEL_ROWS]
    say(f"Now {len(asked)} questions to a stand-in model server on this machine, killed half-way.")
    halfway = threading.Event()

    def note_halfway(seen: Any) -> None:
        if seen.ordinal >= len(asked) // 2:
            halfway.set()

    with ModelServer(
        latency_seconds=_LATENCY_SECONDS, latency_sigma=_LATENCY_SIGMA, script=note_halfway
    ) as server:
        task = Task(os.fspath(directory / "cache"), base_url=server.url, rows=asked)
        totals, seconds = [], []
        peak_in_flight = 0

        def kill(process: subprocess.Popen[bytes]) -> None:
            while process.poll() is None:
                if halfway.wait(_LOOK_SECONDS):
                    process.kill()
                    return

        for name in _RUNS:
            end = _run(task, directory, f"model-{name}", kill=kill if name == "killed" else None)
            peak_in_flight = peak_in_flight or server.stats.peak_in_flight
            totals.append(server.stats.requests)
            seconds.append(round(end.seconds, 2))
        prompts = Counter(request.prompt for request in server.requests)
    return ModelFigures(
        rows=len(asked),
        requests=[totals[0], totals[1] - totals[0], totals[2] - totals[1]],
        asked_twice=sum(count - 1 for count in prompts.values()),
        peak_in_flight=peak_in_flight,
        seconds=seconds,
    )
