"""Faults that users of other pipeline libraries know: here they end, with rows or with an error."""

import functools
import json
import os
import random
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from asyncdistil.distiset import Distiset
from asyncdistil.errors import FailureBudgetExceeded, GraphError, StepError, WorkerLoadFailed
from asyncdistil.pipeline import Pipeline, routing_batch_function
from asyncdistil.steps import (
    GeneratorStep,
    GlobalStep,
    LoadDataFromDicts,
    Step,
    StepInput,
    StepResources,
)
from asyncdistil.typing import GeneratorStepOutput, StepOutput

TEN = list(range(10))


def note(step: str, rows: list[dict[str, Any]]) -> None:
    with open(os.environ["ASYNCDISTIL_TEST_CALLS"], "a") as file:
        file.write(json.dumps([step, [row["n"] for row in rows]]) + "\n")


def load(*values: int, name: str = "load", batch_size: int = 50) -> LoadDataFromDicts:
    data = [{"n": value} for value in values]
    return LoadDataFromDicts(name=name, data=data, batch_size=batch_size)


def rows(distiset: Distiset, config: str = "default") -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = distiset.table(config).to_pylist()
    return found


class Halves(Step):
    """Yields its rows in two lists."""

    def process(self, inputs: StepInput) -> StepOutput:
        yield inputs[:2]
        yield inputs[2:]


class Careful(Step):
    """Refuses the rows it is told to; notes every call."""

    refuses: list[int] = []
    kind_of_error: str = "ValueError"

    @property
    def outputs(self) -> list[str]:
        return ["seen"]

    def process(self, inputs: StepInput) -> StepOutput:
        for row in inputs:
            if row["n"] in self.refuses:
                raise {"ValueError": ValueError, "KeyError": KeyError}[self.kind_of_error](row["n"])
        yield [row | {"seen": True} for row in inputs]


class Count(GeneratorStep):
    """Never says which rows are the last, and raises if it is told to."""

    raises: bool = False

    def process(self, offset: int = 0) -> GeneratorStepOutput:
        for n in range(4):
            yield [{"n": n}], False
        if self.raises:
            raise OSError("the source is gone")


class Everything(GlobalStep):
    raises: bool = False

    def process(self, inputs: StepInput) -> StepOutput:
        if self.raises:
            raise ZeroDivisionError("no rows to divide by")
        yield [{"rows": len(inputs)}]


class NullsFirst(Step):
    """Nulls for as long as an export waits for a schema, then strings; other drift besides."""

    def process(self, inputs: StepInput) -> StepOutput:
        made: list[dict[str, Any]] = []
        for row in inputs:
            late = row["n"] >= 60
            made.append(
                {
                    "n": row["n"],
                    "text": "here" if late else None,
                    "number": 0.5 if late else 1,
                    "nested": {"b": 1} if late else {"a": 1},
                }
                | ({} if late else {"early": 1})
            )
        yield made


class Uneven(Step):
    """The first call takes longest, so that replicas finish out of order."""

    def process(self, inputs: StepInput) -> StepOutput:
        if inputs[0]["n"] == 0:
            path = os.environ["ASYNCDISTIL_TEST_CALLS"]
            deadline = time.monotonic() + 30
            while not os.path.exists(path) and time.monotonic() < deadline:
                os.sched_yield()
        else:
            note(self.name, inputs)
        yield inputs


class LongSecond(Step):
    """Ends its second call when the step below has had the rows of the first."""

    def process(self, inputs: StepInput) -> StepOutput:
        path, deadline = os.environ["ASYNCDISTIL_TEST_CALLS"], time.monotonic() + 30
        while inputs[0]["n"] == 1 and not os.path.exists(path):
            if time.monotonic() > deadline:
                raise TimeoutError("the first row was held back")
            os.sched_yield()
        yield inputs


class Noting(Step):
    def process(self, inputs: StepInput) -> StepOutput:
        note(self.name, inputs)
        yield inputs


class Fewer(Step):
    keeps: int = 3

    def process(self, inputs: StepInput) -> StepOutput:
        yield [row for row in inputs if row["n"] < self.keeps]


class Some(Step):
    """Row-wise: what it drops is known by number."""

    def process(self, inputs: StepInput) -> StepOutput:
        yield [row if row["n"] < 3 else None for row in inputs]


class Pair(Step):
    def process(self, *inputs: StepInput) -> StepOutput:
        yield [{"left": a["n"], "right": b["n"]} for a, b in zip(*inputs, strict=True)]


class Broken(Step):
    def load(self) -> None:
        raise RuntimeError("no such model")

    def unload(self) -> None:
        raise RuntimeError("never loaded")

    def process(self, inputs: StepInput) -> StepOutput:
        yield inputs


class NoSuper(Step):
    """Neither of its hooks calls the class above."""

    _ready: bool = False

    def load(self) -> None:
        self._ready = True

    def process(self, inputs: StepInput) -> StepOutput:
        assert self._ready
        yield inputs


@routing_batch_function
def first_of_them(steps: list[str]) -> list[str]:
    return steps[:1]


def test_every_yield_of_a_batch_counts(cache: Path) -> None:
    with Pipeline("yields", cache_dir=cache) as pipeline:
        load(*TEN) >> Halves(name="halves", input_batch_size=5)
    assert [row["n"] for row in rows(pipeline.run())] == TEN


def test_a_generator_that_never_says_last_ends(cache: Path) -> None:
    with Pipeline("endless", cache_dir=cache) as pipeline:
        Count(name="count") >> NoSuper(name="after")
    assert rows(pipeline.run()) == [{"n": n} for n in range(4)]


def test_a_generator_that_raises_is_an_error_and_what_it_gave_is_kept(cache: Path) -> None:
    with Pipeline("raises", cache_dir=cache) as pipeline:
        Count(name="count", raises=True) >> Careful(name="after")
    with pytest.raises(StepError, match="generator 'count' raised after 4 rows: OSError") as caught:
        pipeline.run()
    assert "the source is gone" in str(caught.value)


def test_a_global_step_that_raises_is_an_error_and_not_an_empty_dataset(
    cache: Path, journal: Any
) -> None:
    with Pipeline("global", cache_dir=cache) as pipeline:
        load(*TEN) >> Everything(name="all", raises=True)
    with pytest.raises(StepError, match="step 'all' failed on 10 rows: ZeroDivisionError"):
        pipeline.run()


@pytest.mark.parametrize("row_wise", [True, False])
def test_one_bad_row_costs_one_row(cache: Path, row_wise: bool) -> None:
    with Pipeline("bad", cache_dir=cache) as pipeline:
        load(*range(60)) >> Careful(name="careful", refuses=[7, 33], row_wise=row_wise)
    distiset = pipeline.run()
    assert [row["n"] for row in rows(distiset)] == list(range(60))
    assert [row["n"] for row in rows(distiset) if row["seen"] is None] == [7, 33]
    report = distiset.report["steps"]["careful"]
    assert report["failed"] == 2
    assert {tuple(f["row"]) for f in report["failures"]} == {(7,), (33,)}


def test_a_step_that_fails_everywhere_stops_the_run_with_its_first_cause(cache: Path) -> None:
    with Pipeline("everywhere", cache_dir=cache) as pipeline:
        load(*TEN) >> Careful(name="careful", refuses=TEN, input_batch_size=2)
    with pytest.raises(
        FailureBudgetExceeded, match=r"first 3 batches of step 'careful'.*ValueError"
    ):
        pipeline.run()


def test_nulls_first_then_strings_and_other_drift_end_in_one_dataset(cache: Path) -> None:
    with Pipeline("drift", cache_dir=cache) as pipeline:
        load(*range(120)) >> NullsFirst(name="drift")
    found = rows(pipeline.run())
    assert [row["text"] for row in found] == [None] * 60 + ["here"] * 60
    assert [row["number"] for row in found] == [1] * 60 + [0.5] * 60
    assert found[0]["nested"] == {"a": 1, "b": None}
    assert found[-1]["nested"] == {"a": None, "b": 1}
    assert [row["early"] for row in found] == [1] * 60 + [None] * 60


def test_a_leaf_with_replicas_keeps_the_order_of_its_source(cache: Path) -> None:
    with Pipeline("replicas", cache_dir=cache) as pipeline:
        uneven = Uneven(name="uneven", input_batch_size=2, resources=StepResources(replicas=2))
        load(*range(40)) >> uneven
    assert [row["n"] for row in rows(pipeline.run())] == list(range(40))


def test_a_finished_batch_goes_on_while_its_worker_is_busy_with_the_next(cache: Path) -> None:
    with Pipeline("eager", cache_dir=cache) as pipeline:
        long = LongSecond(name="long", input_batch_size=1, on_error="raise")
        load(0, 1) >> long >> Noting(name="below", input_batch_size=1)
    assert [row["n"] for row in rows(pipeline.run())] == [0, 1]


def test_a_join_of_rows_that_cannot_be_told_apart_is_an_error_with_a_way_on(cache: Path) -> None:
    with Pipeline("unequal", cache_dir=cache) as pipeline:
        load(*TEN) >> [Careful(name="keep"), Fewer(name="drop")] >> Pair(name="pair")
    with pytest.raises(GraphError, match=r"'pair' joins rows .*'keep'.*'drop'.*align='position'"):
        pipeline.run()


def test_a_join_that_lacks_rows_is_an_error_that_lists_them(cache: Path) -> None:
    with Pipeline("lacking", cache_dir=cache) as pipeline:
        some = Some(name="some", row_wise=True)
        load(*TEN) >> [Careful(name="all"), some] >> Pair(name="pair")
    with pytest.raises(StepError, match=r"'pair'.*row 3 is missing from 'some'.*join='inner'"):
        pipeline.run()


def test_sources_of_unequal_length_are_not_joined_by_position(cache: Path) -> None:
    with Pipeline("lengths", cache_dir=cache) as pipeline:
        pair = Pair(name="pair", align="position")
        [load(*TEN, name="ten"), load(*range(7), name="seven")] >> pair
    with pytest.raises(StepError, match=r"'pair'.*10.*7|'pair'.*7.*10"):
        pipeline.run()


def test_steps_that_drop_everything_are_ordinary(cache: Path) -> None:
    with Pipeline("nothing", cache_dir=cache) as pipeline:
        none = load(*TEN) >> Fewer(name="none", keeps=0)
        none >> Everything(name="count")
        none >> Careful(name="leaf")
    distiset = pipeline.run()
    assert rows(distiset, "count") == [], "it is not called without rows"
    assert rows(distiset, "leaf") == []
    assert distiset.keys() == {"count", "leaf"}


def test_a_router_of_the_module_serves_a_second_run_and_leaves_may_stay_empty(
    cache: Path, starts: Any
) -> None:
    def routed() -> Distiset:
        with Pipeline("router", cache_dir=cache) as pipeline:
            leaves = [Careful(name=name, input_batch_size=5) for name in ("first", "second")]
            load(*TEN, batch_size=5) >> first_of_them >> leaves
        return pipeline.run()

    assert len(rows(routed(), "first")) == 10
    starts.take()
    again = routed()
    assert starts.take() == 0
    assert (len(rows(again, "first")), rows(again, "second")) == (10, [])


def test_a_generator_without_successors_is_a_leaf_like_others(cache: Path) -> None:
    with Pipeline("alone", cache_dir=cache) as pipeline:
        load(1, 2, name="alone")
        load(3, name="read") >> Careful(name="reader")
    distiset = pipeline.run()
    assert rows(distiset, "alone") == [{"n": 1}, {"n": 2}]
    assert rows(distiset, "reader") == [{"n": 3, "seen": True}]


def test_a_load_that_fails_is_an_error_with_its_cause(cache: Path) -> None:
    with Pipeline("broken", cache_dir=cache) as pipeline:
        load(*TEN) >> Broken(name="broken")
    cause = r"step 'broken' could not be loaded.*no such model"
    with pytest.raises(WorkerLoadFailed, match=cause) as caught:
        pipeline.run()
    assert f'File "{Broken.load.__code__.co_filename}"' in str(caught.value), "and says where"


def test_classes_made_inside_a_function_run(cache: Path) -> None:
    offset = random.Random(3).randint(1, 9)

    class Local(Step):
        def process(self, inputs: StepInput) -> StepOutput:
            yield [row | {"n": row["n"] + offset} for row in inputs]

    with Pipeline("local", cache_dir=cache) as pipeline:
        load(*TEN) >> Local(name="local")
    assert [row["n"] for row in rows(pipeline.run())] == [n + offset for n in TEN]


@functools.cache
def fibonacci(n: int) -> int:
    return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)


def test_functions_that_keep_their_results_travel_with_their_step(cache: Path, starts: Any) -> None:
    @functools.lru_cache(maxsize=7)
    def twice(n: int) -> int:
        return 2 * n

    class Remembers(Step):
        def process(self, inputs: StepInput) -> StepOutput:
            size = twice.cache_parameters()["maxsize"]
            yield [{"n": fibonacci(row["n"]) + twice(row["n"]) + size} for row in inputs]

    with Pipeline("remembers", cache_dir=cache) as pipeline:
        load(20, 3) >> Remembers(name="remembers")
    assert rows(pipeline.run()) == [{"n": 6765 + 40 + 7}, {"n": 2 + 6 + 7}]
    fibonacci(30)
    starts.take()
    assert len(rows(pipeline.run())) == 2
    assert starts.take() == 0, "what is in a cache is in no key"


def test_a_step_of_a_function_leaves_the_other_locals_of_it_behind(cache: Path) -> None:
    lock, added = threading.Lock(), 1
    clients = [lock]

    class Local(Step):
        def process(self, inputs: StepInput) -> StepOutput:
            yield [{"n": row["n"] + added} for row in inputs]

    with lock, Pipeline("local", cache_dir=cache) as pipeline:
        load(1, 2) >> Local(name="local")
        assert rows(pipeline.run()) == [{"n": 2}, {"n": 3}]
    assert clients == [lock]


def test_a_run_can_be_repeated_on_one_object(cache: Path) -> None:
    with Pipeline("twice", cache_dir=cache) as pipeline:
        Careful(name="careful")
    for values in (TEN, [3]):
        distiset = pipeline.run(dataset=[{"n": n} for n in values], use_cache=False)
        assert [row["n"] for row in rows(distiset)] == values
