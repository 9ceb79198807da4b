"""What work in hand took is booked once and wholly; what a worker offers is found by its code."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncdistil.batch import Usage
from asyncdistil.transport.brokers import LEDGER, Ledger, Surroundings, add_usage, current, install

usages = st.builds(Usage, *[st.integers(0, 2**40)] * 6)


def figures(usage: Usage | None) -> tuple[int, ...]:
    return (0,) * 6 if usage is None else msgspec.structs.astuple(usage)


@given(st.lists(st.lists(usages, max_size=3), max_size=4))
def test_ledgers_merged_say_what_one_ledger_would_have_said(parts: list[list[Usage]]) -> None:
    whole, merged = Ledger(), Ledger()
    for number, part in enumerate(parts):
        own = Ledger()
        for ledger in (whole, own):
            for usage in part:
                ledger.add_usage(usage)
            ledger.take(b"key %d" % number, range(number))
            ledger.wrote_memo = ledger.wrote_memo or number == 2
        merged.merge(own)
    assert merged == whole
    everything = [usage for part in parts for usage in part]
    assert figures(whole.usage) == tuple(
        map(sum, zip((0,) * 6, *map(figures, everything), strict=True))
    )
    assert (whole.usage is None) is (not everything)
    assert len(whole.samples) == len({*whole.samples})


def test_usage_adds_up_field_by_field() -> None:
    names = Usage.__struct_fields__
    ones = Usage(*range(1, len(names) + 1))
    assert figures(add_usage(ones, ones)) == tuple(2 * n for n in range(1, len(names) + 1))


def test_code_in_a_worker_finds_what_it_offers_until_it_is_taken_away() -> None:
    assert current() is None
    offered = Surroundings(None, None, "", "run", "step", 3)  # type: ignore[arg-type]
    install(offered)
    try:
        assert current() is offered
    finally:
        install(None)
    assert current() is None
    with pytest.raises(AttributeError):
        offered.step = "another"  # type: ignore[misc]
    assert LEDGER.get() is None


def test_good_answers_of_a_failed_row_are_named_by_their_place_in_the_whole() -> None:
    whole = Ledger()
    for row in range(3):
        own = Ledger()
        own.take(b"a", [2 * row, 2 * row + 1])
        if row == 1:
            own.give_back([(b"a", 3), (b"b", 9)])  # the second is none of its own
        whole.merge(own, row=row)
    (spare,) = whole.spare
    assert spare == (1, 3)
    assert whole.samples[spare[1]] == (b"a", 3)
