"""`asyncdistil cache gc`, pins, and what a run does after them."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from asyncdistil.log import Store
from asyncdistil.memo import Key, Memo
from asyncdistil.pipeline import Pipeline
from asyncdistil.steps import LoadDataFromDicts, StepInput, StepOutput, step

Invoke = Callable[..., "subprocess.CompletedProcess[str]"]


@step(inputs=["n"], outputs=["m"])
def times(inputs: StepInput, factor: int = 2) -> StepOutput:
    for row in inputs:
        row["m"] = row["n"] * factor
    yield inputs


def pipeline(cache: Path, factor: int, rows: int = 120) -> Pipeline:
    with Pipeline("numbers", cache_dir=cache) as made:
        load = LoadDataFromDicts(name="load", data=[{"n": n} for n in range(rows)], batch_size=40)
        load >> times(name="times", factor=factor, input_batch_size=40)
    return made


@pytest.fixture
def cache(environment: dict[str, str]) -> Path:
    return Path(environment["ASYNCDISTIL_CACHE_DIR"])


def asked(invoke: Invoke, *arguments: str) -> dict[str, Any]:
    done = invoke(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_kept_runs_stay_complete_hits_and_collected_ones_are_computed_again(
    invoke_here: Invoke, cache: Path
) -> None:
    rows = {factor: pipeline(cache, factor).run()["default"]["train"]["m"] for factor in (2, 3, 4)}
    listed = asked(invoke_here, "cache", "ls", "numbers")["runs"]
    assert [run["again"] for run in listed] == ["complete hit"] * 3
    assert [run["commits_of_earlier_runs"] for run in listed] == [0, 3, 3]  # the loader's
    first, second, third = (run["run"] for run in listed)
    pinned = asked(invoke_here, "cache", "pin", second)
    assert pinned["runs"] == [second]
    assert Path(pinned["file"]).name == "PINS"

    foreseen = asked(invoke_here, "cache", "gc", "--max-size", "1KB", "--dry-run")
    assert [one["run"] for one in foreseen["dropped"]] == [first, third]
    assert [r["run"] for r in asked(invoke_here, "cache", "ls", "numbers")["runs"]] == [
        first,
        second,
        third,
    ]
    done = asked(invoke_here, "cache", "gc", "--max-size", "1KB")
    assert [one["run"] for one in done["dropped"]] == [first, third]
    assert done["freed_bytes"] > 1000
    assert abs(done["freed_bytes"] - foreseen["freed_bytes"]) < 200
    assert [r["run"] for r in asked(invoke_here, "cache", "ls", "numbers")["runs"]] == [second]
    assert invoke_here("cache", "verify").returncode == 0

    kept = pipeline(cache, 3).run()
    assert kept.report["hit"]
    assert kept["default"]["train"]["m"] == rows[3]
    again = pipeline(cache, 2).run()
    assert not again.report["hit"]
    assert again["default"]["train"]["m"] == rows[2]
    # The loader's rows were the pinned run's too.
    assert again.report["steps"]["load"]["rows_replayed"] == 120

    assert asked(invoke_here, "cache", "unpin", second)["runs"] == []
    gone = asked(invoke_here, "cache", "gc", "numbers", "--older-than", "0s")
    assert len(gone["dropped"]) == 2
    everything = pipeline(cache, 3).run()
    assert everything.report["steps"]["load"]["rows_computed"] == 120
    assert everything["default"]["train"]["m"] == rows[3]


def test_a_run_that_goes_on_refuses_a_collection_with_code_4(invoke: Invoke, cache: Path) -> None:
    Store.open(cache, "other").close(clean=True)
    store = Store.open(cache, "numbers")
    (store.root / "NAME").write_text("numbers")
    done = invoke("cache", "gc", "numbers", "--older-than", "0s")
    assert done.returncode == 4
    assert "is being run by pid" in done.stderr
    found = asked(invoke, "cache", "gc", "--older-than", "0s")
    assert "numbers" in [one["pipeline"] for one in found["left_alone"]]
    store.close(clean=True)


def test_answers_that_no_run_needs_go_by_age_and_the_others_stay(
    invoke_here: Invoke, cache: Path
) -> None:
    pipeline(cache, 2, rows=4).run()
    (run,) = asked(invoke_here, "cache", "ls", "numbers")["runs"]
    for owner, count in ((run["run"], 5), ("f" * 32, 7)):
        memo = Memo.open(cache / "memo", run=owner)
        for number in range(count):
            memo.put(Key.of(f"{owner} {number}".encode(), model="a model"), 0, b"x" * 500)
        memo.close()
    assert asked(invoke_here, "cache", "gc")["answers_dropped"] == 0
    asked(invoke_here, "cache", "pin", "numbers")
    assert asked(invoke_here, "cache", "gc", "--older-than", "0s")["answers_dropped"] == 7
    memo = Memo.open(cache / "memo")
    assert len(memo) == 5
    assert memo.get(Key.of(f"{run['run']} 4".encode(), model="a model")) == b"x" * 500
    memo.close()
    asked(invoke_here, "cache", "unpin", "numbers")
    assert asked(invoke_here, "cache", "gc", "--max-size", "0")["answers_dropped"] == 5


@pytest.mark.parametrize(
    "arguments",
    [
        ("gc", "--older-than", "soon"),
        ("gc", "--max-size", "10 elephants"),
        ("gc", "nobody"),
        ("pin", "nobody"),
        ("ls", "nobody"),
    ],
)
def test_what_cannot_be_meant_ends_with_code_2(
    invoke_here: Invoke, arguments: tuple[str, ...]
) -> None:
    done = invoke_here("cache", *arguments)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
