from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from asyncdistil.transport import Window

sizes = st.integers(0, 2**30)
moves = st.lists(st.tuples(sizes, st.floats(0, 10), st.booleans()), max_size=80)


@given(moves)
def test_an_idle_worker_is_always_admitted_and_the_bounds_hold(
    steps: list[tuple[int, float, bool]],
) -> None:
    window = Window()
    out: list[int] = []
    for size, seconds, settle in steps:
        if window.admits(size):
            before = len(out)
            window.sent(size)
            out.append(size)
            assert before < window.width
            assert before == 0 or sum(out) <= window.limit_bytes
        elif not out:
            raise AssertionError("an idle worker was refused")
        if settle and out:
            window.settled(out.pop(0), seconds)
        assert window.least <= window.width <= window.most
        assert window.leases == len(out)
        assert window.bytes_in_flight == sum(out)


@given(st.floats(1e-5, 1.0))
def test_steady_work_settles_at_the_target(seconds: float) -> None:
    window = Window()
    for _ in range(60):
        window.sent(10)
        window.settled(10, seconds)
    ready = window.width * seconds
    assert ready <= window.target_seconds + seconds or window.width == window.least
    assert ready >= window.target_seconds * 0.99 or window.width == window.most


def test_one_quick_batch_does_not_open_the_whole_window() -> None:
    window = Window()
    window.sent(10)
    window.settled(10, 1e-6)
    assert window.width == 2 * window.least


def test_a_death_forgets_what_was_in_flight_and_keeps_what_was_learnt() -> None:
    window = Window()
    for _ in range(10):
        window.sent(10)
        window.settled(10, 0.0001)
    width = window.width
    window.sent(10)
    window.reset()
    assert (window.leases, window.bytes_in_flight, window.width) == (0, 0, width)


def test_a_lease_returned_unworked_teaches_nothing() -> None:
    window = Window()
    window.sent(10)
    window.returned(10)
    assert (window.leases, window.seconds_per_lease) == (0, 0.0)
