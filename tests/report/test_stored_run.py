"""Runs read back from their store alone: rows in order, failures, ancestors."""

import asyncio
import os
import threading
from pathlib import Path
from typing import Any, ClassVar

import pytest

from asyncdistil.distiset import Distiset
from asyncdistil.errors import FailureBudgetExceeded
from asyncdistil.pipeline import Pipeline, routing_batch_function
from asyncdistil.pipeline.explain import why
from asyncdistil.steps import GlobalStep, LoadDataFromDicts, Step, StepInput
from asyncdistil.supervisor.stored_run import StoredRun, UnknownRun
from asyncdistil.typing import StepOutput

ROWS = 20


class Check(Step):
    """Fails rows whose number ends in 3, drops those that end in 5."""

    row_wise: bool = True
    also: int = -1

    @property
    def inputs(self) -> list[str]:
        return ["n"]

    @property
    def outputs(self) -> list[str]:
        return ["checked"]

    def process(self, inputs: StepInput) -> StepOutput:
        made: list[Any] = []
        for row in inputs:
            if row["n"] % 10 == 3 or row["n"] == self.also:
                raise ValueError(f"{row['n']} is <not> allowed")
            made.append(None if row["n"] % 10 == 5 else row | {"checked": True})
        yield made


class Twice(Step):
    row_wise: bool = True
    inputs: ClassVar[list[str]] = ["n"]  # type: ignore[misc]
    outputs: ClassVar[list[str]] = ["copy"]  # type: ignore[misc]

    def process(self, inputs: StepInput) -> StepOutput:
        made: list[Any] = [[row | {"copy": copy} for copy in (0, 1)] for row in inputs]
        yield made


class Label(Step):
    text: str = "a"

    @property
    def inputs(self) -> list[str]:
        return ["n"]

    @property
    def outputs(self) -> list[str]:
        return [self.name]

    def process(self, inputs: StepInput) -> StepOutput:
        yield [row | {self.name: f"{self.text}{row['n']}"} for row in inputs]


class Merge(Step):
    def process(self, *inputs: StepInput) -> StepOutput:
        yield [row for port in zip(*inputs, strict=True) for row in [port[0] | port[-1]]]


class Gather(GlobalStep):
    inputs: ClassVar[list[str]] = ["n"]  # type: ignore[misc]

    def process(self, inputs: StepInput) -> StepOutput:
        yield [{"n": row["n"]} for row in reversed(inputs)]


def build(cache: Path, *, rows: int = ROWS, text: str = "a", **check: Any) -> Pipeline:
    with Pipeline("stored", cache_dir=cache) as pipeline:
        load = LoadDataFromDicts(name="load", data=[{"n": n} for n in range(rows)], batch_size=7)
        check_step = Check(name="check", **check)
        twice = Twice(name="twice")
        left = Label(name="left", input_batch_size=6)
        right = Label(name="right", input_batch_size=4, text=text)
        merge = Merge(name="merge", input_batch_size=5)
        gather = Gather(name="gather")
        load >> check_step >> twice >> [left, right] >> merge
        merge >> gather
    return pipeline


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Distiset]]:
    """Two runs: the second one differs in one branch."""
    cache = tmp_path_factory.mktemp("stored") / "cache"
    return cache, [build(cache).run(), build(cache, text="b").run()]


def opened(cache: Path, run: str = "") -> StoredRun:
    found = StoredRun.open(cache, "stored", run)
    assert found is not None
    return found


def rows_of(distiset: Distiset) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = distiset.table("default").to_pylist()
    return found


def test_rows_come_in_the_order_of_the_dataset(runs: tuple[Path, list[Distiset]]) -> None:
    cache, made = runs
    for distiset in made:
        assert distiset.report is not None
        with opened(cache, str(distiset.report["run"])[:8]) as run:
            assert list(run.rows("gather")) == rows_of(distiset)
            assert run.leaves == ["gather"]
            assert run.completed


def test_rows_of_every_step_can_be_cut_out(runs: tuple[Path, list[Distiset]]) -> None:
    cache, _ = runs
    with opened(cache) as run:
        for name in run.steps:
            whole = list(run.rows(name))
            assert len(whole) == run.steps[run.step(name).name].rows
            assert list(run.rows(name, 3, 11)) == whole[3:11]
        assert [row["n"] for row in run.rows("load")] == list(range(ROWS))
        numbers = [n for n in range(ROWS) if n % 10 != 5]
        assert [row["n"] for row in run.rows("check")] == numbers
        assert [(row["n"], row["copy"]) for row in run.rows("twice")] == [
            (n, copy) for n in numbers for copy in (0, 1)
        ]


def test_counts_are_those_that_the_run_reported(runs: tuple[Path, list[Distiset]]) -> None:
    cache, made = runs
    for distiset in made:
        assert distiset.report is not None
        reported: Any = distiset.report["steps"]
        with opened(cache, str(distiset.report["run"])) as run:
            for name, step in run.steps.items():
                assert step.rows_computed == reported[name]["rows_computed"], name
                assert step.failed == reported[name]["failed"], name
                if step.kind != "generator":
                    assert step.inputs_computed == reported[name]["inputs_computed"], name
                    assert step.inputs_replayed == reported[name]["inputs_replayed"], name


def test_failures_name_row_and_cause(runs: tuple[Path, list[Distiset]]) -> None:
    cache, _ = runs
    with opened(cache) as run:
        found = list(run.failures())
        assert [(f.step, f.row) for f in found] == [("check", (3,)), ("check", (13,))]
        assert found[0].failure.message == "3 is <not> allowed"
        assert [row for part in found[1].source for row in run.read(part)] == [{"n": 13}]


def test_a_row_is_traced_to_its_generator(runs: tuple[Path, list[Distiset]]) -> None:
    cache, _ = runs
    made = why(cache, "stored", "right", -1)
    line = made.line()
    assert [each.step for each in line] == ["right", "twice", "check", "load"]
    assert [each.row["n"] for each in line] == [19, 19, 19, 19]
    assert [each.row_id for each in line] == [(19, 1), (19, 1), (19,), (19,)]
    assert [each.replayed for each in line] == [False, True, True, True]
    assert not made.to_dict()["inputs"][0]["inputs"][0]["inputs"][0]["inputs"]


def test_a_row_of_a_global_step_hangs_on_all(runs: tuple[Path, list[Distiset]]) -> None:
    cache, _ = runs
    made = why(cache, "stored", "gather", 0)
    assert made.inputs_count == 2 * (ROWS - 2)
    assert len(made.inputs) == 20
    assert "rows more" in str(made)


def test_a_failed_row_says_why(runs: tuple[Path, list[Distiset]]) -> None:
    cache, _ = runs
    made = why(cache, "stored", "check", 3)
    assert made.failure is not None
    assert "FAILED: ValueError: 3 is <not> allowed" in str(made)


def test_what_is_not_there_is_named(runs: tuple[Path, list[Distiset]], tmp_path: Path) -> None:
    cache, _ = runs
    assert StoredRun.open(tmp_path, "stored") is None
    with pytest.raises(UnknownRun, match="no one run 'zz'"):
        StoredRun.open(cache, "stored", "zz")
    with opened(cache) as run, pytest.raises(UnknownRun, match="no step 'lod'"):
        run.step("lod")
    with pytest.raises(UnknownRun, match="no row 99"):
        why(cache, "stored", "load", 99)


class Moody(Label):
    def process(self, inputs: StepInput) -> StepOutput:
        if os.environ["ASYNCDISTIL_TEST_MOOD"] == "bad" and any(row["n"] == 3 for row in inputs):
            raise ValueError("not today")
        yield from super().process(inputs)


def moody(cache: Path) -> Pipeline:
    with Pipeline("stored", cache_dir=cache) as pipeline:
        load = LoadDataFromDicts(name="load", data=[{"n": n} for n in range(10)])
        load >> Moody(name="moody", row_wise=True) >> Label(name="label", input_batch_size=3)
    return pipeline


def test_a_row_mended_later_takes_the_place_of_its_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ASYNCDISTIL_TEST_MOOD", "bad")
    first = moody(tmp_path).run()
    monkeypatch.setenv("ASYNCDISTIL_TEST_MOOD", "good")
    foreseen = moody(tmp_path).plan()
    assert (foreseen["moody"].compute, foreseen["moody"].replayed) == (1, 9)
    assert foreseen["moody"].why == "rows that failed are tried again"
    assert moody(tmp_path).plan(retry_failed=False).hit
    second = moody(tmp_path).run()
    assert first.report is not None
    with opened(tmp_path, str(first.report["run"])) as run:
        assert [f.row for f in run.failures()] == [(3,)]
        assert list(run.rows("label")) == rows_of(first)
    with opened(tmp_path) as run:
        assert list(run.failures()) == []
        assert list(run.rows("label")) == rows_of(second)


def test_a_run_that_stopped_shows_what_it_has(tmp_path: Path) -> None:
    with pytest.raises(FailureBudgetExceeded):
        build(tmp_path).run(on_error="raise")
    with opened(tmp_path) as run:
        assert not run.completed
        # How far the generator came before the stop is the scheduler's business.
        numbers = [row["n"] for row in run.rows("load")]
        assert numbers
        assert numbers == list(range(len(numbers)))
        assert {f.step for f in run.failures()} == {"check"}
    foreseen = build(tmp_path).plan()
    assert foreseen.resumes
    assert foreseen["load"].replayed == len(numbers)


def test_failed_rows_that_are_skipped_are_read_back_so(tmp_path: Path) -> None:
    distiset = build(tmp_path, on_error="skip").run()
    with opened(tmp_path) as run:
        assert list(run.rows("gather")) == rows_of(distiset)
        assert run.step("check").rows == ROWS - 2
        assert run.step("twice").rows == 2 * (ROWS - 4)


class Gate(Label):
    """Goes on when somebody opens the other end of a pipe."""

    path: str

    def process(self, inputs: StepInput) -> StepOutput:
        with open(self.path) as pipe:
            pipe.read()
        yield from super().process(inputs)


def test_a_run_is_read_while_it_goes_on(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    with Pipeline("stored", cache_dir=tmp_path) as pipeline:
        load = LoadDataFromDicts(name="load", data=[{"n": n} for n in range(8)])
        load >> [Label(name="free"), Gate(name="gate", path=str(gate))]

    async def watched() -> None:
        stream = pipeline.astream()
        first = await anext(stream)
        assert first.step == "free"
        with opened(tmp_path) as run:
            assert not run.completed
            assert [row["n"] for row in run.rows("load")] == list(range(8))
            assert list(run.rows("free")) == first
            assert run.step("gate").rows == 0
        foreseen = pipeline.plan()
        assert foreseen.resumes
        assert (foreseen["free"].replayed, foreseen["gate"].compute) == (8, 8)
        gate.write_text("")
        assert [batch.step async for batch in stream] == ["gate"]
        with opened(tmp_path) as run:
            assert run.completed
            assert run.step("gate").rows == 8

    asyncio.run(watched())


@routing_batch_function
def to_both(steps: list[str]) -> list[str]:
    return steps


def test_routed_rows_are_read_back(tmp_path: Path) -> None:
    with Pipeline("stored", cache_dir=tmp_path) as pipeline:
        load = LoadDataFromDicts(name="load", data=[{"n": n} for n in range(10)])
        left, right = Label(name="left"), Label(name="right")
        merge = Merge(name="merge", input_batch_size=5)
        load >> to_both >> [left, right] >> merge
    distiset = pipeline.run()
    with opened(tmp_path) as run:
        assert list(run.rows("merge")) == rows_of(distiset)
    assert pipeline.plan().hit


def test_a_store_is_read_while_others_read_it(runs: tuple[Path, list[Distiset]]) -> None:
    cache, made = runs
    seen: list[int] = []

    def read() -> None:
        with opened(cache) as run:
            seen.append(sum(1 for _ in run.rows("gather")))

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [len(rows_of(made[1]))] * 4
