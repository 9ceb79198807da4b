"""What people write again and again: map, filter, route by content, sort, sample, join, dedup."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from asyncdistil.pipeline import Pipeline, routing_batch_function
from asyncdistil.steps import (
    ExactDedup,
    FilterRows,
    GroupColumns,
    JoinColumns,
    LoadDataFromDicts,
    Map,
    RowStep,
    Sample,
    Sort,
    Step,
)

ROWS = [{"n": n % 12, "text": f"text {n % 12}"} for n in range(20)]


@routing_batch_function()
def by_size(steps: list[str], rows: list[dict[str, Any]]) -> list[str]:
    """Large numbers go one way, small ones the other."""
    large = sum(row["n"] for row in rows) / len(rows) >= 6
    return [name for name in steps if name.startswith("large") == large]


def rows_of(pipeline: Pipeline) -> list[dict[str, Any]]:
    return list(pipeline.run()["default"]["train"])


def test_the_small_steps_work_together_and_a_batch_is_routed_by_its_rows(cache: Path) -> None:
    def run() -> Any:
        with Pipeline(name="small", cache_dir=cache) as pipeline:
            load = LoadDataFromDicts(data=ROWS, batch_size=4)
            dedup = ExactDedup(columns=["n"], input_batch_size=3)
            odd_ones = FilterRows(predicate=lambda row: row["n"] != 5, input_batch_size=3)
            large = Map(name="large", function=lambda row: {**row, "way": "large"})
            small = Map(name="small", function=lambda row: {**row, "way": "small"})
            both = GroupColumns(columns=["n", "text", "way"], output_columns=["n", "text", "way"])
            one = Map(function=lambda row: {name: values[0] for name, values in row.items()})
            order = Sort(columns=["n"], descending=True)
            joined = JoinColumns(columns=["way", "text"], separator=": ", output_column="line")
            load >> dedup >> odd_ones >> by_size >> [large, small] >> both >> one >> order >> joined
        return pipeline.run()

    first = run()
    lines = [row["line"] for row in first["default"]["train"]]
    numbers = [n for n in range(11, -1, -1) if n != 5]
    assert [int(line.rpartition(" ")[2]) for line in lines] == numbers
    assert lines[0] == "large: text 11"
    assert lines[-1] == "small: text 0"
    assert {line.partition(":")[0] for line in lines} == {"large", "small"}
    assert first.report["steps"]["filter_rows_0"]["filtered"] == 1
    assert list(run()["default"]["train"]) == list(first["default"]["train"])


def test_a_changed_function_makes_its_step_run_again_and_a_raise_fails_one_row(
    cache: Path, load_module: Callable[..., ModuleType]
) -> None:
    def run(expression: str) -> Any:
        module = load_module(f"def change(row):\n    return {{**row, 'm': {expression}}}\n")
        with Pipeline(name="changing", cache_dir=cache) as pipeline:
            change = Map(name="change", function=module.change, output_columns=["m"])
            LoadDataFromDicts(data=ROWS[:4]) >> change
        return pipeline.run()

    assert [row["m"] for row in run("row['n'] + 1")["default"]["train"]] == [1, 2, 3, 4]
    halved = run("6 // row['n']")
    assert [row["m"] for row in halved["default"]["train"]] == [None, 6, 3, 2]
    assert halved.report["steps"]["change"]["failed"] == 1


def test_a_sample_of_the_same_rows_is_the_same_and_is_not_drawn_again(cache: Path) -> None:
    def run(seed: int) -> list[dict[str, Any]]:
        with Pipeline(name="drawn", cache_dir=cache) as pipeline:
            LoadDataFromDicts(data=ROWS) >> Sample(size=5, seed=seed)
        return rows_of(pipeline)

    first = run(1)
    assert len(first) == 5
    assert run(1) == first
    assert run(2) != first


def forgets(row: dict[str, Any]) -> dict[str, Any] | None:
    row["text"] = "lost"
    return None


class Forgets(RowStep):
    def transform(self, *rows: dict[str, Any]) -> dict[str, Any] | None:
        return forgets(rows[0])


class ForgetsAlone(Step):
    async def aprocess(self, row: dict[str, Any]) -> dict[str, Any] | None:
        return forgets(row)


class ForgetsSome(RowStep):
    def transform(self, *rows: dict[str, Any]) -> dict[str, Any] | None:
        return rows[0] if rows[0]["n"] == 11 else None


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: Map(name="step", function=forgets), True),
        (lambda: Forgets(name="step"), True),
        (lambda: ForgetsAlone(name="step"), True),
        (lambda: ForgetsSome(name="step"), False),
        (lambda: FilterRows(name="step", predicate=lambda row: row["n"] > 99), False),
    ],
)
def test_a_step_that_kept_no_row_is_told_of_once_unless_it_is_there_to_drop_them(
    cache: Path, caplog: pytest.LogCaptureFixture, make: Callable[[], Step], told: bool
) -> None:
    with Pipeline("forgetful", cache_dir=cache) as pipeline:
        load = LoadDataFromDicts(name="load", data=ROWS, batch_size=4)
        load >> make() >> Map(name="below", function=lambda row: row)
    distiset = pipeline.run()
    words = [r.getMessage() for r in caplog.records if "kept none" in r.getMessage()]
    assert [word.partition(":")[0] for word in words] == ["[step] kept none of its 20 rows"] * told
    assert distiset.log_filename_path is not None
    assert distiset.log_filename_path.read_text().count("kept none of its 20 rows") == told
    caplog.clear()
    pipeline.run()
    assert "kept none" not in caplog.text
