"""Results of memoized steps fit every row that agrees in the columns that the step reads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncdistil.batch import Digest
from asyncdistil.memo import UNKNOWN, Memo, RowMemo

SIGNATURE = Digest(bytes(16))


def rows_of(memo: Memo, columns: tuple[str, ...] = ("a", "b"), **options: Any) -> RowMemo:
    options = {"step": "Step", "signature": SIGNATURE} | options
    return RowMemo(memo, columns=columns, **options)


def remembered(rows: RowMemo, row: dict[str, Any]) -> Any:
    key = rows.key(rows.read_part(row))
    assert key is not None
    made = rows.get(key)
    return made if made is UNKNOWN else rows.complete(row, made)


def keep(rows: RowMemo, row: dict[str, Any], made: Any) -> None:
    key = rows.key(rows.read_part(row))
    assert key is not None
    assert rows.put(key, made)


def test_a_result_is_put_onto_the_row_at_hand(open_memo: Callable[..., Memo]) -> None:
    rows = rows_of(open_memo())
    assert remembered(rows, {"a": 1, "b": 2, "id": 1}) is UNKNOWN
    keep(rows, {"a": 1, "b": 2, "id": 1}, {"a": 1, "b": 20, "made": (3,)})
    assert list(remembered(rows, {"id": 7, "b": 2, "a": 1, "x": None}).items()) == [
        ("id", 7),
        ("b", 20),
        ("a", 1),
        ("x", None),
        ("made", (3,)),
    ]


def test_a_column_that_the_step_read_and_dropped_is_gone(open_memo: Callable[..., Memo]) -> None:
    rows = rows_of(open_memo())
    keep(rows, {"a": 1, "b": 2}, {"b": 2, "c": 3})
    assert remembered(rows, {"a": 1, "b": 2, "id": 9}) == {"id": 9, "b": 2, "c": 3}


@pytest.mark.parametrize(
    ("made", "wanted"),
    [
        (None, None),
        ([], []),
        ([{"a": 1}, {"b": 5}], [{"id": 9, "a": 1}, {"id": 9, "b": 5}]),
    ],
)
def test_filtered_and_expanded_rows_are_remembered(
    open_memo: Callable[..., Memo], made: Any, wanted: Any
) -> None:
    rows = rows_of(open_memo())
    keep(rows, {"a": 1, "b": 2}, made)
    assert remembered(rows, {"a": 1, "b": 2, "id": 9}) == wanted


def test_a_projection_keeps_nothing_of_the_row(open_memo: Callable[..., Memo]) -> None:
    rows = rows_of(open_memo(), keeps_rest=False)
    keep(rows, {"a": 1, "b": 2}, {"b": 2})
    assert remembered(rows, {"a": 1, "b": 2, "id": 9}) == {"b": 2}


def test_what_can_not_be_named_or_stored_is_not_memoized(open_memo: Callable[..., Memo]) -> None:
    rows = rows_of(open_memo())
    assert rows.key({"a": object()}) is None
    key = rows.key({"a": 1})
    assert key is not None
    assert not rows.put(key, {"made": object()})


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(0, 2),
    st.sampled_from(["", "1", "True"]),
    st.just(1.0),
    st.lists(st.integers(0, 1), max_size=1),
    st.just(()),
    # A step may print it, so its order counts.
    st.sampled_from([{"p": 1, "q": 1}, {"q": 1, "p": 1}]),
)


def same(left: Any, right: Any) -> bool:
    """Equal, and of equal types all the way down."""
    if type(left) is not type(right):
        return False
    if isinstance(left, dict):
        return list(left.items()) == list(right.items())
    if isinstance(left, list):
        return len(left) == len(right) and all(map(same, left, right))
    return bool(left == right)


@given(*[st.dictionaries(st.sampled_from("abx"), VALUES)] * 2)
def test_rows_share_a_result_exactly_if_the_columns_read_are_the_same(
    first: dict[str, Any], second: dict[str, Any]
) -> None:
    rows = RowMemo(None, step="s", signature=SIGNATURE, columns=["a", "b"])  # type: ignore[arg-type]
    parts = [rows.read_part(row) for row in (first, second)]
    alike = parts[0].keys() == parts[1].keys() and all(
        same(value, parts[1][column]) for column, value in parts[0].items()
    )
    keys = [rows.key(part) for part in parts]
    assert (keys[0] == keys[1]) == alike


def test_another_signature_shares_nothing(open_memo: Callable[..., Memo]) -> None:
    memo = open_memo()
    keep(rows_of(memo), {"a": 1}, {"made": 1})
    assert remembered(rows_of(memo, signature=Digest(b"1" * 16)), {"a": 1}) is UNKNOWN
    assert remembered(rows_of(memo), {"a": 1}) == {"made": 1}
