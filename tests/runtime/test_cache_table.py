"""What a run takes from earlier ones: the cache table of the documentation, row by row."""

import json
import logging
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from asyncdistil.distiset import Distiset
from asyncdistil.errors import StepError
from asyncdistil.pipeline import Pipeline
from asyncdistil.steps import (
    GeneratorStep,
    GlobalStep,
    LoadDataFromDicts,
    Step,
    StepInput,
    StepResources,
)
from asyncdistil.typing import GeneratorStepOutput, StepOutput


def note(step: str, rows: list[dict[str, Any]]) -> None:
    with open(os.environ["ASYNCDISTIL_TEST_CALLS"], "a") as file:
        file.write(json.dumps([step, [row["n"] for row in rows]]) + "\n")


class Plus(Step):
    add: int = 1

    @property
    def inputs(self) -> list[str]:
        return ["n"]

    @property
    def outputs(self) -> list[str]:
        return [self.name]

    def process(self, inputs: StepInput) -> StepOutput:
        note(self.name, inputs)
        yield [row | {self.name: row["n"] + self.add} for row in inputs]


class Salted(Plus):
    """Other rows under another environment, which no key knows."""

    def process(self, inputs: StepInput) -> StepOutput:
        note(self.name, inputs)
        yield [row | {self.name: os.environ["SALT"]} for row in inputs]


class Count(GeneratorStep):
    """Raises before the row that the environment names."""

    reads_only_fields = True
    rows: int = 100

    @property
    def outputs(self) -> list[str]:
        return ["n"]

    def process(self, offset: int = 0) -> GeneratorStepOutput:
        for start in range(0, self.rows, self.batch_size):
            if os.environ.get("STOP_AT") == str(start):
                # Not before a step below works on what came first.
                path, deadline = os.environ["ASYNCDISTIL_TEST_CALLS"], time.monotonic() + 30
                while not os.path.getsize(path) and time.monotonic() < deadline:
                    os.sched_yield()
                raise RuntimeError("asked to")
            stop = min(start + self.batch_size, self.rows)
            yield [{"n": n} for n in range(start, stop)], stop == self.rows


class Merge(Step):
    def process(self, *inputs: StepInput) -> StepOutput:
        note(self.name, inputs[0])
        yield [{k: v for row in rows for k, v in row.items()} for rows in zip(*inputs, strict=True)]


class Total(GlobalStep):
    def process(self, inputs: StepInput) -> StepOutput:
        note(self.name, inputs)
        yield [{"total": sum(row["n"] for row in inputs)}]


_chance = random.Random(7)


class Live(Plus):
    def process(self, inputs: StepInput) -> StepOutput:
        note(self.name, inputs)
        yield [row | {self.name: _chance.random()} for row in inputs]


def numbers(*values: int) -> list[dict[str, Any]]:
    return [{"n": value} for value in values]


TEN = numbers(*range(10))
ALL = list(range(10))


def table(distiset: Distiset, config: str = "default") -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = distiset.table(config).to_pylist()
    return rows


def column(distiset: Distiset, name: str, config: str = "default") -> list[Any]:
    return [row[name] for row in table(distiset, config)]


def diamond(cache: Path, *, extra: bool = False, data: Any = TEN, **of_b: Any) -> Pipeline:
    """``load >> a >> b >> c`` with ``d`` beside ``b``; ``extra`` adds a step and a branch."""
    with Pipeline("diamond", cache_dir=cache) as pipeline:
        load = LoadDataFromDicts(name="load", data=data)
        a, b, c, d = (
            Plus(name="a"),
            Plus(name="b", **of_b),
            Plus(name="c", row_wise=True),
            Plus(name="d"),
        )
        load >> a >> [b, d]
        b >> c
        if extra:
            c >> Total(name="total")
            load >> Plus(name="branch")
    return pipeline


def test_an_unchanged_pipeline_starts_no_process_at_all(
    cache: Path, journal: Any, starts: Any
) -> None:
    first = diamond(cache).run()
    assert starts.take() > 0
    assert journal.rows() == dict.fromkeys("abcd", ALL)
    assert not first.report["hit"]

    again = diamond(cache).run()
    assert (starts.take(), journal.calls()) == (0, [])
    assert again.report["hit"]
    assert again.keys() == first.keys() == {"c", "d"}
    assert [table(again, leaf) for leaf in "cd"] == [table(first, leaf) for leaf in "cd"]

    pipeline = diamond(cache, resources=StepResources(replicas=2), max_failures=3)
    pipeline["c"].input_batch_size = 7
    pipeline.run(sync_mode="process")
    assert (starts.take(), journal.calls()) == (0, []), "operational settings are in no key"

    pipeline = diamond(cache, on_error="skip")
    read_otherwise = pipeline.run()
    assert starts.take() > 0, "another reading policy may give another dataset"
    assert journal.calls() == [], "but it costs no call"
    assert table(read_otherwise, "c") == table(first, "c")


def test_a_parameter_reruns_its_step_and_what_is_below(cache: Path, journal: Any) -> None:
    diamond(cache).run()
    journal.calls()

    changed = diamond(cache, add=100).run()
    assert journal.rows() == {"b": ALL, "c": ALL}
    assert column(changed, "b", "c") == [n + 100 for n in ALL]
    assert changed.report["steps"]["a"]["rows_replayed"] == 10

    back = diamond(cache).run()
    assert journal.calls() == [], "the older result is still there"
    assert column(back, "b", "c") == [n + 1 for n in ALL]


STEPS = """
import json, os
from asyncdistil.steps import Step, StepInput

FACTOR = 2

def note(step, rows):
    with open(os.environ["ASYNCDISTIL_TEST_CALLS"], "a") as file:
        file.write(json.dumps([step, [row["n"] for row in rows]]) + "\\n")

def work(n):
    return n * FACTOR

class Times(Step):
    def process(self, inputs: StepInput):
        note(self.name, inputs)
        yield [row | {self.name: work(row["n"])} for row in inputs]

class Same(Step):
    def process(self, inputs: StepInput):
        note(self.name, inputs)
        yield inputs
"""


def of_module(cache: Path, module: ModuleType) -> Pipeline:
    with Pipeline("code", cache_dir=cache) as pipeline:
        load = LoadDataFromDicts(name="load", data=TEN)
        load >> module.Same(name="same") >> module.Times(name="times") >> Plus(name="below")
        load >> Plus(name="beside")
    return pipeline


def test_changed_code_reruns_its_step_and_what_is_below(
    cache: Path, journal: Any, load_module: Callable[..., ModuleType]
) -> None:
    of_module(cache, load_module(STEPS)).run()
    journal.calls()

    changed = of_module(cache, load_module(STEPS.replace("n * FACTOR", "n * FACTOR + 1"))).run()
    assert journal.rows() == {"times": ALL, "below": ALL}
    assert column(changed, "times", "below") == [2 * n + 1 for n in ALL]

    changed = of_module(cache, load_module(STEPS.replace("FACTOR = 2", "FACTOR = 3"))).run()
    assert journal.rows() == {"times": ALL, "below": ALL}, "a constant that the code reads is code"
    assert column(changed, "times", "below") == [3 * n for n in ALL]


def test_comments_moved_files_and_renamed_modules_change_nothing(
    cache: Path, journal: Any, starts: Any, load_module: Callable[..., ModuleType]
) -> None:
    of_module(cache, load_module(STEPS)).run()
    journal.calls()
    starts.take()

    commented = STEPS.replace("def work(n):", '# why\n\n\ndef work(n):\n    """Say it."""')
    of_module(cache, load_module(commented)).run()
    of_module(cache, load_module(STEPS, folder="elsewhere")).run()
    of_module(cache, load_module(STEPS, name="renamed")).run()
    assert (starts.take(), journal.calls()) == (0, [])


def test_an_appended_step_and_an_added_branch_run_alone(cache: Path, journal: Any) -> None:
    diamond(cache).run()
    journal.calls()

    grown = diamond(cache, extra=True).run()
    assert journal.rows() == {"total": ALL, "branch": ALL}
    assert grown.keys() == {"d", "total", "branch"}
    assert table(grown, "total") == [{"total": 45}]


@pytest.mark.parametrize(
    ("place", "new"), [("front", [-2, -1]), ("middle", [100, 101]), ("end", [10, 11])]
)
def test_added_rows_cost_only_batches_with_new_content(
    cache: Path, journal: Any, place: str, new: list[int]
) -> None:
    def chain(values: list[int]) -> Pipeline:
        with Pipeline("rows", cache_dir=cache) as pipeline:
            load = LoadDataFromDicts(name="load", data=numbers(*values))
            batch = Plus(name="batch", input_batch_size=2)
            load >> batch >> Plus(name="row", row_wise=True, input_batch_size=4)
        return pipeline

    chain(ALL).run()
    journal.calls()

    at = {"front": 0, "middle": 4, "end": 10}[place]
    grown = chain(ALL[:at] + new + ALL[at:]).run()
    assert journal.rows() == {"batch": new, "row": new}
    assert column(grown, "n") == ALL[:at] + new + ALL[at:]
    assert column(grown, "row") == [n + 1 for n in column(grown, "n")]

    fewer = chain([0, 1, 6, 7]).run()
    assert journal.calls() == []
    assert column(fewer, "n") == [0, 1, 6, 7]


def salted(cache: Path, *, extra: bool = False) -> Pipeline:
    with Pipeline("salted", cache_dir=cache) as pipeline:
        load = LoadDataFromDicts(name="load", data=TEN)
        salt = load >> Salted(name="salt") >> Plus(name="row", row_wise=True)
        if extra:
            salt >> Plus(name="last")
    return pipeline


def test_the_run_after_one_without_cache_sees_the_new_results(
    cache: Path, journal: Any, starts: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for salt in ("old", "new"):
        monkeypatch.setenv("SALT", salt)
        fresh = salted(cache).run(use_cache=False)
        assert journal.rows() == {"salt": ALL, "row": ALL}
        assert column(fresh, "salt") == [salt] * 10

    starts.take()
    cached = salted(cache).run()
    assert (starts.take(), journal.calls()) == (0, [])
    assert column(cached, "salt") == ["new"] * 10

    grown = salted(cache, extra=True).run()
    assert journal.rows() == {"last": ALL}
    assert column(grown, "salt") == ["new"] * 10


def test_a_step_without_cache_runs_every_time_with_all_below_it(cache: Path, journal: Any) -> None:
    def joined() -> Pipeline:
        with Pipeline("uncached", cache_dir=cache) as pipeline:
            load = LoadDataFromDicts(name="load", data=TEN)
            above = load >> Plus(name="above")
            kept, anew = Plus(name="kept"), Plus(name="anew", use_cache=False, row_wise=True)
            above >> [kept, anew] >> Merge(name="merge") >> Total(name="total")
        return pipeline

    joined().run()
    journal.calls()

    again = joined().run()
    assert journal.rows() == {"anew": ALL, "merge": ALL, "total": ALL}
    assert table(again) == [{"total": 45}]


@pytest.mark.parametrize("use_cache", [True, False])
def test_a_run_that_stopped_half_way_is_taken_up(
    cache: Path, journal: Any, monkeypatch: pytest.MonkeyPatch, use_cache: bool
) -> None:
    def chain(add: int) -> Pipeline:
        with Pipeline("half", cache_dir=cache) as pipeline:
            count = Count(name="count", batch_size=1)
            batch = Plus(name="batch", input_batch_size=3, add=add)
            count >> batch >> Salted(name="row", row_wise=True)
        return pipeline

    monkeypatch.setenv("SALT", "before")
    chain(1).run()
    journal.calls()
    journal.clear()

    # With the cache, the generator is replayed whole and only what is below can stop half way.
    pipeline = chain(2 if use_cache else 1)
    if use_cache:
        pipeline["count"].rows = 101
    monkeypatch.setenv("SALT", "during")
    # A generator may run 64 yields ahead: here it has sent its first ones.
    monkeypatch.setenv("STOP_AT", "80")
    with pytest.raises(StepError, match=r"generator 'count' raised after 80 rows.*asked to"):
        pipeline.run(use_cache=use_cache)
    first = journal.rows()
    assert 0 < len(first["batch"]) <= 80

    monkeypatch.delenv("STOP_AT")
    resumed = pipeline.run(use_cache=use_cache)
    second = journal.rows()
    rows = list(range(101 if use_cache else 100))
    assert resumed.report["resumed"]
    assert column(resumed, "n") == rows
    assert column(resumed, "row") == ["during"] * len(rows), "nothing is left of the older run"
    for name in ("batch", "row"):
        done = first.get(name, [])
        assert sorted(done + second.get(name, [])) == rows, "no row is called twice"


SCRIPT = """
import json, os, signal, sys
from asyncdistil.pipeline import Pipeline
from asyncdistil.steps import GeneratorStep, Step, StepInput

class Count(GeneratorStep):
    reads_only_fields = True

    def process(self, offset=0):
        for n in range(100):
            if n == 80 and os.environ.get("KILL"):
                # Only once the step has noted a row, so its rows so far are in the log.
                noted = os.environ["ASYNCDISTIL_TEST_CALLS"]
                while not os.path.exists(noted) or not os.path.getsize(noted):
                    os.sched_yield()
                os.kill(int(os.environ["SUPERVISOR"]), signal.SIGKILL)
            yield [{"n": n}], n == 99

class Slow(Step):
    def process(self, inputs: StepInput):
        with open(os.environ["ASYNCDISTIL_TEST_CALLS"], "a") as file:
            file.write(json.dumps([self.name, [row["n"] for row in inputs]]) + "\\n")
        yield inputs

os.environ["SUPERVISOR"] = str(os.getpid())
with Pipeline("killed", cache_dir=sys.argv[1]) as pipeline:
    Count(name="count") >> Slow(name="slow", input_batch_size=1)
distiset = pipeline.run(use_cache=False)
print(json.dumps([distiset.report["resumed"], distiset.table("default").to_pylist()]))
"""


def test_a_killed_run_without_cache_is_taken_up_by_its_own_run_id(
    cache: Path, journal: Any, tmp_path: Path
) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    command = [sys.executable, str(script), str(cache)]
    killed = subprocess.run(command, env={**os.environ, "KILL": "1"}, check=False)
    assert killed.returncode == -9
    first = journal.rows()["slow"]
    assert 0 in first
    assert len(first) < 100

    resumed = subprocess.run(command, capture_output=True, text=True, check=True)
    taken_up, rows = json.loads(resumed.stdout)
    assert taken_up
    assert rows == numbers(*range(100))
    second = journal.rows()["slow"]
    assert set(second) | set(first) == set(range(100))

    anew = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(anew.stdout) == [False, numbers(*range(100))]
    assert journal.rows()["slow"] == list(range(100)), "that run has ended: the next one is new"


def test_an_uncacheable_step_runs_and_its_warning_names_the_cause(
    cache: Path, journal: Any, caplog: pytest.LogCaptureFixture
) -> None:
    def chain() -> Pipeline:
        with Pipeline("live", cache_dir=cache) as pipeline:
            load = LoadDataFromDicts(name="load", data=TEN)
            load >> Plus(name="above") >> Live(name="live") >> Plus(name="below")
        return pipeline

    with caplog.at_level(logging.WARNING):
        chain().run()
    assert journal.rows() == {"above": ALL, "live": ALL, "below": ALL}
    [warning] = [r.getMessage() for r in caplog.records if "'live'" in r.getMessage()]
    assert "_chance" in warning
    assert "signature_ignore" in warning

    chain().run()
    assert journal.rows()["live"] == ALL


def test_a_dry_run_leaves_the_real_one_alone(cache: Path, journal: Any, starts: Any) -> None:
    pipeline = diamond(cache)
    tried = pipeline.dry_run(batch_size=2)
    assert column(tried, "n", "c") == [0, 1]
    assert journal.rows() == {name: [0, 1] for name in "abcd"}
    assert pipeline["load"].batch_size == 50

    real = pipeline.run()
    assert journal.rows() == dict.fromkeys("abcd", ALL), "it does not build on the dry run"
    assert column(real, "n", "c") == ALL

    pipeline.dry_run(parameters={"b": {"input_batch_size": 1}})
    journal.calls()
    starts.take()
    assert column(pipeline.run(), "n", "c") == ALL
    assert (starts.take(), journal.calls()) == (0, [])
