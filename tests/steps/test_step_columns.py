"""The steps that rearrange columns, join branches, and call one function of a row."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncdistil.errors import StepError
from asyncdistil.steps import (
    CombineOutputs,
    ExpandColumns,
    FailedRow,
    FilterRows,
    GroupColumns,
    KeepColumns,
    Map,
    MergeColumns,
)
from asyncdistil.steps.metadata import merge_metadata, split_statistics


def entries(step: Any, *ports: list[dict[str, Any]]) -> list[Any]:
    return [entry for made in step.apply(*ports) for entry in made]


def test_keep_columns_projects_in_the_order_given() -> None:
    (row,) = entries(KeepColumns(columns=["b", "a"]), [{"a": 1, "b": 2, "c": 3}])
    assert list(row.items()) == [("b", 2), ("a", 1)]


def test_a_row_without_a_kept_column_fails_alone() -> None:
    good, bad = entries(KeepColumns(columns=["a"]), [{"a": 1}, {"b": 2}])
    assert good == {"a": 1}
    assert isinstance(bad, FailedRow)
    assert bad.row == {"b": 2, "a": None}


def test_expand_gives_one_entry_per_row_and_one_row_per_item() -> None:
    step = ExpandColumns(columns=["n"])
    rows = [{"id": 1, "n": [1, 2]}, {"id": 2, "n": []}, {"id": 3, "n": None}, {"id": 4, "n": "x"}]
    two, none, null, failed = entries(step, rows)
    assert two == [{"id": 1, "n": 1}, {"id": 1, "n": 2}]
    assert none is None
    assert null == [{"id": 3, "n": None}]
    assert "not a list" in failed.failure.message


def test_expand_alone_gives_flat_rows() -> None:
    step = ExpandColumns(columns={"n": "m"})
    assert next(step.process([{"n": [1, 2]}])) == [{"n": [1, 2], "m": 1}, {"n": [1, 2], "m": 2}]
    assert step.outputs == ["m"]


def test_columns_are_expanded_side_by_side_and_shorter_ones_end_in_none() -> None:
    (rows,) = entries(ExpandColumns(columns=["a", "b"]), [{"a": [1, 2, 3], "b": ["x"]}])
    assert rows == [{"a": 1, "b": "x"}, {"a": 2, "b": None}, {"a": 3, "b": None}]


def test_encoded_lists_are_read_from_json() -> None:
    row = {"a": json.dumps([1, 2]), "b": [3, 4]}
    (rows,) = entries(ExpandColumns(columns=["a", "b"], encoded=["a"]), [row])
    assert rows == [{"a": 1, "b": 3}, {"a": 2, "b": 4}]
    (rows,) = entries(ExpandColumns(columns=["a"], encoded=True), [{"a": "[1]"}])
    assert rows == [{"a": 1}]
    (failed,) = entries(ExpandColumns(columns=["a"], encoded=True), [{"a": "[1"}])
    assert isinstance(failed, FailedRow)


def test_split_statistics_go_with_the_rows() -> None:
    metadata = {"raw_x": "r", "statistics_x": {"input_tokens": 7, "output_tokens": [4, 6]}}
    step = ExpandColumns(columns=["n"], split_statistics=True)
    (rows,) = entries(step, [{"n": [1, 2], "distilabel_metadata": metadata}])
    assert [row["distilabel_metadata"] for row in rows] == [
        {"raw_x": "r", "statistics_x": {"input_tokens": 4, "output_tokens": 4}},
        {"raw_x": "r", "statistics_x": {"input_tokens": 3, "output_tokens": 6}},
    ]


@given(tokens=st.integers(0, 10_000), parts=st.integers(1, 20))
def test_split_tokens_add_up_to_what_they_were(tokens: int, parts: int) -> None:
    split = split_statistics({"statistics_t": {"n": tokens}}, parts)
    shares = [part["statistics_t"]["n"] for part in split]
    assert sum(shares) == tokens
    assert max(shares) - min(shares) <= 1


def test_merge_columns_puts_values_and_items_into_one_list() -> None:
    step = MergeColumns(columns=["q", "more"], output_column="all")
    assert entries(step, [{"q": "a", "more": ["b", "c"], "id": 1}]) == [
        {"id": 1, "all": ["a", "b", "c"]}
    ]
    assert step.dropped_columns == ("q", "more")
    assert MergeColumns(columns=["q"]).outputs == ["merged_column"]


def test_group_columns_lists_the_branches_in_order() -> None:
    one = [{"i": 1, "g": "a", "distilabel_metadata": {"raw": "a", "x": 1}}]
    two = [{"i": 1, "g": "b", "distilabel_metadata": {"raw": "b"}}]
    step = GroupColumns(columns=["g"])
    assert step.takes_many_ports
    assert entries(step, one, two) == [
        {"i": 1, "distilabel_metadata": {"raw": ["a", "b"], "x": 1}, "grouped_g": ["a", "b"]}
    ]
    named = GroupColumns(columns=["g"], output_columns=["g"])
    assert entries(named, [{"g": 1}], [{"g": 2}], [{"g": 3}]) == [{"g": [1, 2, 3]}]
    with pytest.raises(ValueError, match="one name per column"):
        GroupColumns(columns=["a", "b"], output_columns=["c"])


def test_joins_give_one_entry_per_aligned_row() -> None:
    ports = [[{"g": n * k} for n in range(5)] for k in range(3)]
    assert len(entries(GroupColumns(columns=["g"]), *ports)) == 5
    with pytest.raises(StepError, match="equally many"):
        entries(GroupColumns(columns=["g"]), [{"g": 1}], [])


def test_combine_outputs_puts_all_columns_into_one_row() -> None:
    one = [{"i": 1, "a": 1, "distilabel_metadata": {"raw_a": "x"}}]
    two = [{"i": 1, "b": 2, "distilabel_metadata": {"raw_b": "y"}}]
    assert entries(CombineOutputs(), one, two) == [
        {"i": 1, "a": 1, "distilabel_metadata": {"raw_a": "x", "raw_b": "y"}, "b": 2}
    ]
    assert entries(CombineOutputs(), [{"a": 1}], [{"b": 1}]) == [{"a": 1, "b": 1}]


def test_grouped_metadata_is_strung_together() -> None:
    rows = [{"distilabel_metadata": [{"a": 1}]}, {"distilabel_metadata": [{"a": 2}, {"a": 3}]}]
    assert merge_metadata(rows) == [{"a": 1}, {"a": 2}, {"a": 3}]
    assert merge_metadata([{"distilabel_metadata": None}, {}]) is None


def test_map_takes_rows_lists_and_none() -> None:
    step = Map(function=lambda row: [None, {"n": 1}, [{"n": 2}, {"n": 3}]][row["n"]])
    assert entries(step, [{"n": 0}, {"n": 1}, {"n": 2}]) == [None, {"n": 1}, [{"n": 2}, {"n": 3}]]
    assert next(step.process([{"n": 2}])) == [{"n": 2}, {"n": 3}]
    assert step.open_columns
    assert not Map(function=dict, output_columns=["x"]).open_columns


def test_filter_rows_keeps_what_holds() -> None:
    step = FilterRows(predicate=lambda row: row["n"] > 1)
    kept, dropped, failed = entries(step, [{"n": 2}, {"n": 1}, {"n": "x"}])
    assert (kept, dropped) == ({"n": 2}, None)
    assert failed.failure.kind == "TypeError"
