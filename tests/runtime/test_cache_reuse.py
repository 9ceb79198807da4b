"""What the reuse rule is for: content decides, not position, name of a file or age."""

import json
import os
import random
from pathlib import Path
from typing import Any

import pytest

from asyncdistil.distiset import Distiset
from asyncdistil.pipeline import Pipeline, routing_batch_function
from asyncdistil.steps import GeneratorStep, GlobalStep, LoadDataFromDicts, Step, StepInput
from asyncdistil.typing import GeneratorStepOutput, StepOutput


def note(step: str, rows: list[dict[str, Any]]) -> None:
    with open(os.environ["ASYNCDISTIL_TEST_CALLS"], "a") as file:
        file.write(json.dumps([step, [row.get("n") for row in rows]]) + "\n")


class Plus(Step):
    """Fails on the rows that the environment names."""

    add: int = 1

    @property
    def outputs(self) -> list[str]:
        return [self.name]

    def process(self, inputs: StepInput) -> StepOutput:
        note(self.name, inputs)
        bad = json.loads(os.environ.get("BAD", "{}")).get(self.name, [])
        for row in inputs:
            if row["n"] in bad:
                raise ValueError(f"row {row['n']} is bad")
        yield [row | {self.name: row["n"] + self.add} for row in inputs]


class Fetch(GeneratorStep):
    """Reads something that has no name: it runs every time."""

    def process(self, offset: int = 0) -> GeneratorStepOutput:
        rows = numbers(*TEN)
        note(self.name, rows)
        yield rows, True


_chance = random.Random(7)


class Live(Step):
    """Holds an object that no key can know."""

    def process(self, inputs: StepInput) -> StepOutput:
        note(self.name, inputs)
        yield [row | {"live": isinstance(_chance, random.Random)} for row in inputs]


class Sign(Step):
    """Gives the same rows for every odd, and every even, value of its parameter."""

    seed: int = 1

    def process(self, inputs: StepInput) -> StepOutput:
        note(self.name, inputs)
        yield [row | {"sign": self.seed % 2} for row in inputs]


class Draw(Step):
    """An answer of its own for every call and row, as a model that samples gives it."""

    def process(self, inputs: StepInput) -> StepOutput:
        note(self.name, inputs)
        drawn = [int.from_bytes(os.urandom(6), "big") for _ in inputs]
        yield [row | {self.name: number} for row, number in zip(inputs, drawn, strict=True)]


class Merge(Step):
    def process(self, *inputs: StepInput) -> StepOutput:
        note(self.name, inputs[0])
        yield [{k: v for row in rows for k, v in row.items()} for rows in zip(*inputs, strict=True)]


class Total(GlobalStep):
    def process(self, inputs: StepInput) -> StepOutput:
        note(self.name, inputs)
        yield [{"total": sum(row["n"] for row in inputs), "rows": len(inputs)}]


@routing_batch_function
def odd_or_even(steps: list[str], rows: list[dict[str, Any]]) -> list[str]:
    note("router", rows)
    return [steps[rows[0]["n"] // 2 % 2]]


def numbers(*values: int) -> list[dict[str, Any]]:
    return [{"n": value} for value in values]


TEN = list(range(10))


def column(distiset: Distiset, name: str, config: str = "default") -> list[Any]:
    return [row[name] for row in distiset.table(config).to_pylist()]


def test_an_upstream_that_reran_to_the_same_rows_costs_nothing_below(
    cache: Path, journal: Any
) -> None:
    def chain() -> Pipeline:
        with Pipeline("same", cache_dir=cache) as pipeline:
            chained = Fetch(name="fetch") >> Live(name="live") >> Plus(name="plus")
            chained >> Total(name="total")
        return pipeline

    chain().run()
    assert journal.rows() == {"fetch": TEN, "live": TEN, "plus": TEN, "total": TEN}

    # Nobody can know what the generator would give, nor what the other step is made of.
    again = chain().run()
    assert journal.rows() == {"fetch": TEN, "live": TEN}
    assert again.table("default").to_pylist() == [{"total": 45, "rows": 10}]


def test_equal_pipelines_in_other_places_do_not_share(cache: Path, journal: Any) -> None:
    def chain(name: str, place: Path, *, add: int = 1) -> Pipeline:
        with Pipeline(name, cache_dir=place) as pipeline:
            LoadDataFromDicts(name="load", data=numbers(*TEN)) >> Plus(name="plus", add=add)
        return pipeline

    chain("one", cache).run()
    journal.calls()

    chain("one", cache / "elsewhere").run()
    assert journal.rows() == {"plus": TEN}
    chain("two", cache).run()
    assert journal.rows() == {"plus": TEN}, "the name is part of where results are kept"
    assert column(chain("one", cache / "elsewhere").run(), "plus") == [n + 1 for n in TEN]
    assert journal.calls() == []


@pytest.mark.parametrize("row_wise", [True, False])
def test_equal_rows_keep_an_answer_each(cache: Path, journal: Any, row_wise: bool) -> None:
    def chain(values: list[int]) -> Pipeline:
        with Pipeline("equal", cache_dir=cache) as pipeline:
            load = LoadDataFromDicts(name="load", data=numbers(*values))
            load >> Draw(name="draw", row_wise=row_wise, input_batch_size=2) >> Plus(name="below")
        return pipeline

    first = chain([7, 7, 8, 8, 7, 7]).run()
    assert len(set(column(first, "draw"))) == 6
    journal.calls()

    again = chain([7, 7, 8, 8, 7, 7, 9, 9]).run()
    assert journal.rows()["draw"] == [9, 9]
    assert column(again, "draw")[:6] == column(first, "draw"), "in their order"

    # New answers above never keep what was made of the old ones below.
    redrawn = chain([7, 7, 8, 8, 7, 7, 9, 9]).run(use_cache=False)
    assert journal.rows() == {"draw": [7, 7, 7, 7, 8, 8, 9, 9], "below": [7, 7, 7, 7, 8, 8, 9, 9]}
    assert set(column(redrawn, "draw")).isdisjoint(column(again, "draw"))
    final = chain([7, 7, 8, 8, 7, 7, 9, 9, 5, 5]).run()
    assert journal.rows()["draw"] == [5, 5]
    assert column(final, "draw")[:8] == column(redrawn, "draw")


def test_a_join_below_a_changed_branch_runs_and_the_other_branch_does_not(
    cache: Path, journal: Any
) -> None:
    def joined(*, add: int, seed: int = 1) -> Pipeline:
        with Pipeline("join", cache_dir=cache) as pipeline:
            load = LoadDataFromDicts(name="load", data=numbers(*TEN))
            branches = [
                Plus(name="plus", add=add, input_batch_size=4),
                Sign(name="sign", seed=seed),
            ]
            load >> branches >> Merge(name="merge", input_batch_size=5) >> Plus(name="last")
        return pipeline

    joined(add=1).run()
    journal.calls()

    changed = joined(add=2).run()
    assert journal.rows() == {"plus": TEN, "merge": TEN, "last": TEN}
    assert column(changed, "plus") == [n + 2 for n in TEN]
    assert column(changed, "sign") == [1] * 10


def test_one_of_two_leaves_changed_runs_alone(cache: Path, journal: Any) -> None:
    def leaves(add: int) -> Pipeline:
        with Pipeline("leaves", cache_dir=cache) as pipeline:
            load = LoadDataFromDicts(name="load", data=numbers(*TEN))
            load >> Sign(name="shared") >> [Plus(name="left"), Plus(name="right", add=add)]
        return pipeline

    leaves(1).run()
    journal.calls()

    changed = leaves(5).run()
    assert journal.rows() == {"right": TEN}
    assert column(changed, "left", "left") == [n + 1 for n in TEN]
    assert column(changed, "right", "right") == [n + 5 for n in TEN]


def test_routing_is_decided_once_for_equal_batches(cache: Path, journal: Any) -> None:
    def routed(values: list[int], *, add: int = 1) -> Pipeline:
        with Pipeline("routed", cache_dir=cache) as pipeline:
            load = LoadDataFromDicts(name="load", data=numbers(*values), batch_size=2)
            plus = Plus(name="plus", input_batch_size=2)
            branches = [Sign(name=name, input_batch_size=2) for name in ("even", "odd")]
            load >> plus >> odd_or_even >> branches >> Merge(name="merge", input_batch_size=2)
        pipeline["odd"].seed = add
        return pipeline

    first = routed(TEN).run()
    assert journal.rows() == {
        "plus": TEN,
        "router": TEN,
        "even": [0, 1, 4, 5, 8, 9],
        "odd": [2, 3, 6, 7],
        "merge": TEN,
    }
    assert column(first, "n") == TEN

    changed = routed(TEN, add=2).run()
    assert journal.rows() == {"odd": [2, 3, 6, 7], "merge": TEN}
    assert column(changed, "n") == TEN
    assert column(changed, "sign") == [1, 1, 0, 0, 1, 1, 0, 0, 1, 1]

    grown = routed([*TEN, 10, 11], add=2).run()
    assert journal.rows() == {name: [10, 11] for name in ("plus", "router", "odd", "merge")}
    assert column(grown, "n") == [*TEN, 10, 11]


# --- failures -----------------------------------------------------------------------------------


def failing(cache: Path, *, row_wise: bool, **of_plus: Any) -> Pipeline:
    with Pipeline("failing", cache_dir=cache) as pipeline:
        load = LoadDataFromDicts(name="load", data=numbers(*TEN))
        plus = Plus(name="plus", row_wise=row_wise, input_batch_size=5, **of_plus)
        load >> plus >> Sign(name="below", row_wise=True)
        load >> Sign(name="beside")
    return pipeline


def test_a_failed_row_alone_is_tried_again_and_its_success_stays(
    cache: Path, journal: Any, starts: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BAD", json.dumps({"plus": [3]}))
    first = failing(cache, row_wise=True).run()
    assert column(first, "plus", "below") == [1, 2, 3, None, 5, 6, 7, 8, 9, 10]
    [failure] = first.report["steps"]["plus"]["failures"]
    assert failure == {"row": [3], "kind": "ValueError", "message": "row 3 is bad"}
    assert journal.rows()["below"] == TEN

    starts.take()
    served = failing(cache, row_wise=True).run(retry_failed=False)
    assert (starts.take(), journal.calls()) == (0, []), "served as it is"
    assert column(served, "plus", "below") == column(first, "plus", "below")
    assert served.report["failed_rows"] == 1

    again = failing(cache, row_wise=True).run()
    assert journal.rows() == {"plus": [3]}, "it fails alike: nothing below is called"
    assert again.report["failed_rows"] == 1

    monkeypatch.delenv("BAD")
    mended = failing(cache, row_wise=True).run()
    assert journal.rows() == {"plus": [3], "below": [3]}
    assert column(mended, "plus", "below") == [n + 1 for n in TEN]
    assert mended.report["failed_rows"] == 0

    starts.take()
    failing(cache, row_wise=True).run()
    assert (starts.take(), journal.calls()) == (0, [])


def test_a_failed_row_of_a_batch_step_costs_its_batch_again(
    cache: Path, journal: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BAD", json.dumps({"plus": [3]}))
    first = failing(cache, row_wise=False).run()
    assert column(first, "plus", "below") == [1, 2, 3, None, 5, 6, 7, 8, 9, 10]
    journal.calls()

    monkeypatch.delenv("BAD")
    mended = failing(cache, row_wise=False).run()
    assert journal.rows() == {"plus": [0, 1, 2, 3, 4], "below": [3]}
    assert column(mended, "plus", "below") == [n + 1 for n in TEN]


def test_failed_rows_are_read_as_the_edge_says(
    cache: Path, journal: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BAD", json.dumps({"plus": [3]}))
    failing(cache, row_wise=True).run()
    journal.calls()

    skipping = failing(cache, row_wise=True, on_error="skip").run(retry_failed=False)
    assert column(skipping, "n", "below") == [0, 1, 2, 4, 5, 6, 7, 8, 9]
    assert journal.calls() == [], "another reading policy costs no call"
