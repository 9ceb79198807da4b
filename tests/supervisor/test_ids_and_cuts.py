"""Arithmetic on row ids and slices, against plain lists."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncdistil.batch import (
    FRESH_ORIGINS,
    SAME_ORIGINS,
    BatchRef,
    Digest,
    Failure,
    IdRun,
    Origins,
    RowSlice,
    SegmentId,
)
from asyncdistil.supervisor import ids, narrow
from asyncdistil.supervisor.chunk import Chunk, cut, cut_slices
from asyncdistil.supervisor.crew import Job


@st.composite
def streams(draw: st.DrawFn) -> ids.Runs:
    """Runs of ascending ids, some of them children."""
    runs = []
    start = 0
    for _ in range(draw(st.integers(0, 4))):
        start += draw(st.integers(0, 3))
        count = draw(st.integers(1, 5))
        if draw(st.booleans()):
            runs.append(IdRun((), start, count))
            start += count
        else:
            runs.append(IdRun((start,), draw(st.integers(0, 3)), count))
            start += 1
    return tuple(runs)


def listed(runs: ids.Runs) -> list[Any]:
    return list(ids.each(runs))


@given(streams(), st.integers(0, 22), st.integers(0, 22))
def test_cuts_of_runs_are_cuts_of_the_list_of_their_ids(
    runs: ids.Runs, first: int, second: int
) -> None:
    plain = listed(runs)
    assert ids.count(runs) == len(plain)
    head, tail = ids.split(runs, first)
    assert (listed(head), listed(tail)) == (plain[:first], plain[first:])
    assert listed(ids.join([head, tail])) == plain
    start, stop = sorted((min(first, len(plain)), min(second, len(plain))))
    assert listed(ids.between(runs, start, stop)) == plain[start:stop]
    assert ids.first_id(runs) == (plain[0] if plain else ids.END)
    assert ids.last_id(runs) == (plain[-1] if plain else ids.START)
    for one, next_one in pairwise(plain):
        assert ids.START < one < next_one < ids.END
        if len(one) == len(next_one):
            assert ids.successor(one) <= next_one


@given(streams(), st.data())
def test_output_rows_are_named_by_the_rows_that_they_come_from(
    runs: ids.Runs, data: st.DataObject
) -> None:
    plain = listed(runs)
    assert ids.derive(runs, SAME_ORIGINS) == runs
    kept = sorted(data.draw(st.sets(st.sampled_from(range(len(plain))))) if plain else ())
    derived = ids.derive(runs, Origins("subset", tuple(kept), ()))
    assert listed(derived) == [plain[i] for i in kept]
    children = tuple(data.draw(st.sampled_from((-1, 0, 1))) for _ in kept)
    derived = ids.derive(runs, Origins("children", tuple(kept), children))
    assert listed(derived) == [
        plain[i] if child < 0 else (*plain[i], child)
        for i, child in zip(kept, children, strict=True)
    ]


def test_rows_that_come_from_no_row_have_no_ids_of_their_own() -> None:
    with pytest.raises(ValueError, match="fresh"):
        ids.derive((IdRun((), 0, 3),), FRESH_ORIGINS)


def slices(*sizes: int) -> tuple[RowSlice, ...]:
    """One slice per size, each of the middle of a record of its own."""
    return tuple(
        RowSlice(BatchRef(SegmentId(n), 168, 400, size + 2, 0, Digest(bytes(16))), 1, size + 1)
        for n, size in enumerate(sizes, 1)
    )


def rows_of(parts: tuple[RowSlice, ...]) -> list[tuple[int, int]]:
    return [(p.ref.segment, row) for p in parts for row in range(p.start, p.stop)]


@given(st.lists(st.integers(1, 4), max_size=4), st.integers(0, 16), st.integers(0, 16))
def test_cuts_of_slices_are_cuts_of_the_list_of_their_rows(
    sizes: list[int], first: int, second: int
) -> None:
    whole = slices(*sizes)
    start, stop = sorted((first, second))
    assert rows_of(cut_slices(whole, start, stop)) == rows_of(whole)[start:stop]


FAILURE = Failure("WorkerDied", "it was killed")


def job(rows: int) -> Job:
    runs = (IdRun((), 10, rows),)
    return Job(1, Chunk((10,), (slices(rows),), runs, rows, ()))


def test_what_a_job_has_not_covered_goes_on_with_its_try() -> None:
    whole = job(10)
    numbers = iter(range(2, 10))
    assert narrow.open_parts(whole, lambda: next(numbers)) == [whole]
    whole.attempt, whole.bisecting = 3, True
    whole.cover(0, 2)
    whole.cover(5, 8)
    parts = narrow.open_parts(whole, lambda: next(numbers))
    assert [listed(part.chunk.runs) for part in parts] == [[(12,), (13,), (14,)], [(18,), (19,)]]
    assert [(part.attempt, part.bisecting) for part in parts] == [(3, True)] * 2
    assert len({whole.id, *(part.id for part in parts)}) == 3


def test_a_job_of_one_row_that_kills_is_that_row() -> None:
    (alone,) = narrow.by_halves(job(1), FAILURE, lambda: 2)
    assert alone.condemned == ((0, FAILURE),)
    halves = narrow.by_halves(job(5), FAILURE, lambda: 2)
    assert [half.chunk.rows for half in halves] == [3, 2]
    assert cut(halves[0].chunk, 0, 3) is halves[0].chunk


def test_rows_that_kill_only_together_are_all_left_out() -> None:
    probed = narrow.by_probe(job(3), FAILURE)
    while probed.probe is not None:
        probed = narrow.next_probe(probed, FAILURE)  # each half survives its probe
    assert probed.condemned == tuple((row, FAILURE) for row in range(3))
