"""Rows whose columns change on the way still become one dataset, and nothing is lost."""

from __future__ import annotations

import enum
import json
import uuid
from collections.abc import Sequence
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from asyncdistil.distiset import Distiset
from asyncdistil.distiset.tables import StoredTable
from asyncdistil.distiset.writer import ExportFiles, LeafWriter

LEAF = "5a" * 16
BIG = 2**53 + 1


class Colour(enum.Enum):
    RED = "red"


def export(
    store: Path, rows: Sequence[dict[str, Any]], *, chunk_rows: int = 1, **options: Any
) -> tuple[pa.Table, ExportFiles]:
    """Write rows, by default one to a chunk, so that every change of a type is one of chunks."""
    writer = LeafWriter(store, "exports/run", LEAF, chunk_rows=chunk_rows, **options)
    for row in rows:
        writer.add([row], 100)
    exported = writer.finish()
    table = StoredTable(store, exported.files, rows=exported.rows).table()
    table.validate(full=True)
    return table, exported


def values(table: pa.Table, column: str) -> list[Any]:
    return table.column(column).to_pylist()


@pytest.mark.parametrize("chunk_rows", [1, 2, 100])
@pytest.mark.parametrize(
    ("given", "stored", "kind"),
    [
        ([None, None, "a"], [None, None, "a"], pa.string()),
        (["a", None], ["a", None], pa.string()),
        ([1, 2.5, 3], [1.0, 2.5, 3.0], pa.float64()),
        ([2.5, 1], [2.5, 1.0], pa.float64()),
        ([2**63, 1], [2**63, 1], pa.uint64()),
        ([1, 2**63], [1, 2**63], pa.uint64()),
        ([[], [1], None], [[], [1], None], pa.list_(pa.int64())),
        ([(1, 2), [3]], [[1, 2], [3]], pa.list_(pa.int64())),
        ([{3, 1, 2}, frozenset("ba")], [["1", "2", "3"], ['"a"', '"b"']], None),
        ([{3, 1, 2}], [[1, 2, 3]], pa.list_(pa.int64())),
        ([[None], [{"a": 1}]], [[None], [{"a": 1}]], None),
        ([{"a": 1}, {"b": "x"}], [{"a": 1, "b": None}, {"a": None, "b": "x"}], None),
        ([{"a": {"b": None}}, {"a": {"b": [1]}}], [{"a": {"b": None}}, {"a": {"b": [1]}}], None),
        ([{}, None, {"a": 1}], [{"a": None}, None, {"a": 1}], None),
        ([{}, None], ["{}", None], pa.string()),
        ([b"\xff", None], [b"\xff", None], pa.binary()),
        ([Decimal("1.5"), Decimal("10.25")], [Decimal("1.5"), Decimal("10.25")], None),
        ([Colour.RED, "blue"], ["red", "blue"], pa.string()),
        ([np.float32(0.5), np.int64(2)], [0.5, 2.0], pa.float64()),
        ([np.array([1, 2]), [3]], [[1, 2], [3]], pa.list_(pa.int64())),
        ([date(2024, 2, 29)], [date(2024, 2, 29)], pa.date32()),
        ([time(1, 2, 3, 4)], [time(1, 2, 3, 4)], pa.time64("us")),
        ([timedelta(days=-1, microseconds=1)], [timedelta(days=-1, microseconds=1)], None),
        ([datetime(1, 1, 1), datetime.max], [datetime(1, 1, 1), datetime.max], pa.timestamp("us")),
        (
            [datetime(2024, 1, 1, 2, tzinfo=timezone(timedelta(hours=2)))],
            [datetime(2024, 1, 1, tzinfo=UTC)],
            pa.timestamp("us", tz="UTC"),
        ),
        ([uuid.UUID(int=1), None], ["00000000-0000-0000-0000-000000000001", None], pa.string()),
        ([float("inf")], [float("inf")], pa.float64()),
        (["\ud800!", "plain", None], ["\ufffd!", "plain", None], pa.string()),
        (["\ud83d\ude00"], ["\U0001f600"], pa.string()),
    ],
)  # fmt: skip
def test_values_that_fit_one_type_keep_it(
    tmp_path: Path, given: list[Any], stored: list[Any], kind: pa.DataType | None, chunk_rows: int
) -> None:
    table, _ = export(tmp_path, [{"x": value} for value in given], chunk_rows=chunk_rows)
    assert values(table, "x") == stored
    if kind is not None:
        assert table.schema.field("x").type == kind


@pytest.mark.parametrize("chunk_rows", [1, 2, 100])
@pytest.mark.parametrize(
    "given",
    [
        [1, "a", None],
        ["a", 1],
        [BIG, 0.5],
        [0.5, BIG],
        [True, 1],
        [-1, 2**63],
        [2**64, 1],
        [2**200],
        [[1], {"a": 1}, "x"],
        [{"a": 1}, [1]],
        ["ünïcode", 1],
        [{"a": [{"b": "2"}]}, 5],
        [{"\udfff": 1}],
    ],
)
def test_values_with_nothing_in_common_become_json_text_and_are_reported(
    tmp_path: Path, given: list[Any], chunk_rows: int
) -> None:
    table, exported = export(tmp_path, [{"x": value} for value in given], chunk_rows=chunk_rows)
    stored = values(table, "x")
    assert [None if text is None else json.loads(text) for text in stored] == given
    (note,) = exported.notes
    assert "'x'" in note
    assert "JSON text" in note


@pytest.mark.parametrize("chunk_rows", [1, 2, 100])
def test_half_a_character_is_replaced_and_reported_and_leaves_other_texts_as_they_are(
    tmp_path: Path, chunk_rows: int
) -> None:
    given = [{"x": {"said": text, "n": 1}} for text in ["plain", "half \udfff", "plain"]]
    table, exported = export(tmp_path, given, chunk_rows=chunk_rows)
    assert [each["said"] for each in values(table, "x")] == ["plain", "half \ufffd", "plain"]
    (note,) = exported.notes
    assert "'x.said'" in note
    assert "lone surrogates" in note


def test_only_the_nested_part_that_differs_becomes_json_text(tmp_path: Path) -> None:
    rows = [{"x": [{"a": 1, "b": 1}]}, {"x": [{"a": 2, "b": "two"}]}]
    table, exported = export(tmp_path, rows)
    assert values(table, "x") == [[{"a": 1, "b": "1"}], [{"a": 2, "b": '"two"'}]]
    assert exported.notes == ("Column 'x[].b' held integers and text: it is written as JSON text.",)


def test_json_text_inside_a_column_that_becomes_json_text_is_not_quoted_twice(
    tmp_path: Path,
) -> None:
    given = [{"a": 1, "e": {}}, {"a": "one", "e": {}}, "neither"]
    table, _ = export(tmp_path, [{"x": value} for value in given])
    assert [json.loads(text) for text in values(table, "x")] == given


def test_integers_that_met_floats_are_reported(tmp_path: Path) -> None:
    _, exported = export(tmp_path, [{"x": 1}, {"x": 0.5}])
    assert exported.notes == ("Column 'x' held floats and integers: it is written as float64.",)


def test_dictionaries_with_other_keys_become_pairs(tmp_path: Path) -> None:
    table, _ = export(tmp_path, [{"x": {1: "a", (2, 3): "b"}}])
    assert json.loads(values(table, "x")[0]) == [[1, "a"], [[2, 3], "b"]]


def test_a_column_missing_in_some_rows_is_null_there(tmp_path: Path) -> None:
    table, exported = export(tmp_path, [{"a": 1}, {"b": 2}, {"a": 3, "c": 4}], chunk_rows=2)
    assert table.to_pylist() == [
        {"a": 1, "b": None, "c": None},
        {"a": None, "b": 2, "c": None},
        {"a": 3, "b": None, "c": 4},
    ]
    assert exported.notes == ()


def test_no_rows_still_make_a_table_with_the_known_columns(tmp_path: Path) -> None:
    table, exported = export(tmp_path, [], columns=["instruction", "generation"])
    assert exported.rows == table.num_rows == 0
    assert table.column_names == ["instruction", "generation"]
    assert len(StoredTable(tmp_path, exported.files, rows=0).dataset()) == 0


@pytest.mark.parametrize("chunk_rows", [1, 10])
def test_empty_rows_are_counted(tmp_path: Path, chunk_rows: int) -> None:
    table, _ = export(tmp_path, [{}, {}, {}], chunk_rows=chunk_rows)
    assert table.num_rows == 3
    table, _ = export(tmp_path, [{}, {}, {"a": 1}], chunk_rows=chunk_rows)
    assert values(table, "a") == [None, None, 1]


def test_unusual_column_names_are_kept(tmp_path: Path) -> None:
    row = {"": 1, "..": 2, "a/b": 3, "a\nb": 4, "ü": 5, "x" * 10_000: 6}
    table, _ = export(tmp_path, [row, row])
    assert table.to_pylist() == [row, row]


def test_column_names_that_unicode_forbids_are_escaped_and_stay_apart(tmp_path: Path) -> None:
    table, _ = export(tmp_path, [{"\ud800": 1, "\\ud800": 2}])
    assert table.to_pylist() == [{"\\ud800": 1, "\\ud800_": 2}]


def test_ten_thousand_columns_are_just_columns(tmp_path: Path) -> None:
    row = {f"column {number}": number for number in range(10_000)}
    table, _ = export(tmp_path, [row, row | {"one more": 1}])
    assert table.num_columns == 10_001
    assert table.slice(0, 1).to_pylist()[0]["column 9999"] == 9_999


def test_an_object_with_ever_new_keys_becomes_json_text(tmp_path: Path) -> None:
    rows = [{"x": {f"key {number}": number}} for number in range(1_500)]
    table, exported = export(tmp_path, rows, chunk_rows=100)
    found = [json.loads(text) for text in values(table, "x")]
    assert [{k: v for k, v in each.items() if v is not None} for each in found] == [
        row["x"] for row in rows
    ]
    assert "more than 1,000 different keys" in exported.notes[0]


def test_deep_nesting_becomes_json_text_where_it_is_too_deep(tmp_path: Path) -> None:
    deep: Any = 1
    for _ in range(100):
        deep = [deep]
    table, _ = export(tmp_path, [{"x": deep}])
    (found,) = values(table, "x")
    while isinstance(found, list):
        (found,) = found
        deep = deep[0]
    assert json.loads(found) == deep


def test_a_column_that_settles_early_costs_only_its_first_rows_a_second_writing(
    tmp_path: Path,
) -> None:
    rows = [{"x": None}] + [{"x": "a"}] * 50
    table, exported = export(tmp_path, rows)
    assert values(table, "x") == [None] + ["a"] * 50
    assert len(exported.files) == 2


def test_files_are_cut_at_the_shard_size_and_keep_the_order(tmp_path: Path) -> None:
    rows = [{"x": number, "text": "t" * 1_000} for number in range(200)]
    table, exported = export(tmp_path, rows, chunk_rows=10, shard_bytes=50_000)
    assert len(exported.files) >= 3
    assert values(table, "x") == list(range(200))
    names = [path for path, _ in exported.files]
    assert names == [f"exports/run/{LEAF}-{number}.arrow" for number in range(len(names))]
    assert sorted(each.name for each in (tmp_path / "exports/run").iterdir()) == sorted(
        name.rpartition("/")[2] for name in names
    )


def test_rows_in_memory_become_what_an_export_makes_of_them() -> None:
    distiset = Distiset.from_rows({"default": [{"a": 1}, {"a": "x"}]})
    assert distiset.table().to_pylist() == [{"a": "1"}, {"a": '"x"'}]
    assert distiset.notes["default"]
