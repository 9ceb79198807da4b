from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from asyncdistil.batch import (
    FRESH_ORIGINS,
    SAME_ORIGINS,
    BatchRef,
    Digest,
    Failure,
    Origins,
    Row,
    RowFailure,
    RowSlice,
    SegmentId,
)
from asyncdistil.steps import FailedRow
from asyncdistil.worker.isolate import Trouble, attempt, culprits, divide
from asyncdistil.worker.outcome import (
    cut,
    missing_column,
    of_batch,
    of_entries,
    spans_of,
    with_short_details,
)
from asyncdistil.worker.scrub import Scrubber

FAILURE = Failure("ValueError", "no")
rows = st.builds(dict, n=st.integers())
entries = st.lists(
    st.one_of(
        rows, st.none(), st.lists(rows, max_size=3), st.builds(FailedRow, rows, st.just(FAILURE))
    )
)


@given(entries)
def test_every_entry_is_traced_and_counted(made: list[object]) -> None:
    outcome = of_entries(made)  # type: ignore[arg-type]
    traced: dict[int, list[Row]] = {}
    for place, row in enumerate(outcome.rows):
        source = place if outcome.origins == SAME_ORIGINS else outcome.origins.index[place]
        traced.setdefault(source, []).append(row)
    for position, entry in enumerate(made):
        expected: list[Row] = []
        if isinstance(entry, list):
            expected = entry
        elif isinstance(entry, FailedRow):
            expected = [entry.row]
        elif entry is not None:
            expected = [entry]  # type: ignore[list-item]
        assert traced.get(position, []) == expected
    assert outcome.filtered == sum(1 for entry in made if entry is None or entry == [])
    failed = [n for n, entry in enumerate(made) if isinstance(entry, FailedRow)]
    assert [f.input_row for f in outcome.failures] == failed
    for failure in outcome.failures:
        assert outcome.rows[failure.output_row] == made[failure.input_row].row  # type: ignore[attr-defined]


@given(st.integers(0, 12), st.sets(st.integers(0, 11)), st.integers(-2, 2))
def test_null_forms_of_a_batch_stand_where_the_failures_say(
    count: int, chosen: set[int], more: int
) -> None:
    failed = {n: FailedRow({"null": n}, FAILURE) for n in chosen if n < count}
    made: list[Row] = [{"made": n} for n in range(max(0, count - len(failed) + more))]
    outcome = of_batch(made, count, failed)
    one_to_one = len(made) == count - len(failed)
    assert outcome.origins == (SAME_ORIGINS if one_to_one else FRESH_ORIGINS)
    assert [f.input_row for f in outcome.failures] == sorted(failed)
    for failure in outcome.failures:
        assert outcome.rows[failure.output_row] == {"null": failure.input_row}
        assert not one_to_one or failure.output_row == failure.input_row
    assert [row for row in outcome.rows if "made" in row] == made


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 9)), max_size=6), st.data())
def test_a_cut_holds_exactly_the_rows_asked_for(
    sizes: list[tuple[int, int]], data: st.DataObject
) -> None:
    slices = [
        RowSlice(
            BatchRef(SegmentId(k), 0, 1, first + size, 0, Digest(bytes(16))), first, first + size
        )
        for k, (size, first) in enumerate(sizes)
    ]
    every = [(s.ref.segment, n) for s in slices for n in range(s.start, s.stop)]
    start = data.draw(st.integers(0, len(every)))
    stop = data.draw(st.integers(start, len(every)))
    got = [(s.ref.segment, n) for s in cut(slices, start, stop) for n in range(s.start, s.stop)]
    assert got == every[start:stop]


@given(st.sets(st.integers(0, 40)))
def test_spans_hold_exactly_the_positions_and_are_as_few_as_can_be(positions: set[int]) -> None:
    spans = spans_of(sorted(positions))
    assert [n for start, stop in spans for n in range(start, stop)] == sorted(positions)
    assert all(stop < start for (_, stop), (start, _) in itertools.pairwise(spans))


@given(st.integers(1, 40), st.sets(st.integers(0, 39)))
def test_dividing_finds_exactly_the_rows_that_fail(count: int, bad: set[int]) -> None:
    calls = 0

    def call(positions: object) -> list[int]:
        nonlocal calls
        calls += 1
        if bad.intersection(positions):  # type: ignore[arg-type]
            raise ValueError
        return list(positions)  # type: ignore[call-overload, no-any-return]

    bad = {n for n in bad if n < count}
    made = attempt(call, range(count))
    if not bad:
        assert made == list(range(count))
        return
    assert isinstance(made, Trouble)
    parts = list(divide(call, range(count), made))
    assert [n for part, _ in parts for n in part] == list(range(count))
    assert {part[0] for part, result in parts if isinstance(result, Trouble)} == bad
    assert set(culprits(call, range(count), made)) == bad
    assert calls <= 1 + 4 * len(bad) * (count.bit_length() + 1)


def test_a_missing_column_is_named() -> None:
    assert missing_column([{"a": 1}, {"a": 1, "b": 2}], ["a", "b"]) == "b"
    assert missing_column([], ["a"]) is None


def test_details_are_dropped_once_they_come_to_too_much() -> None:
    long = RowFailure(0, 0, Failure("E", "m", 1, "d" * 100))
    kept = with_short_details([long] * 5, 250)
    assert [bool(f.failure.detail) for f in kept] == [True, True, False, False, False]


def test_secrets_of_the_environment_are_known_by_the_names_of_their_variables() -> None:
    scrubber = Scrubber(
        {"MY_API_KEY": "longer-secret-2", "DB_PASSWORD": "longer-secret", "TOKENIZERS": "false"},
        ["field"],
    )
    text = scrubber.text("longer-secret-2 longer-secret field false \ud800")
    assert text == "********** ********** ********** false ?"


def test_of_several_rows_that_one_became_each_may_have_failed() -> None:
    why = Failure("k", "m")
    outcome = of_entries([{"a": 1}, [{"b": 1}, FailedRow({"b": None}, why), {"b": 3}], None])
    assert outcome.rows == [{"a": 1}, {"b": 1}, {"b": None}, {"b": 3}]
    assert outcome.failures == (RowFailure(1, 2, why),)
    assert outcome.origins == Origins("children", (0, 1, 1, 1), (-1, 0, 1, 2))
    assert outcome.filtered == 1
