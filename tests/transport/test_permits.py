from __future__ import annotations

import heapq
import math
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncdistil.transport.brokers import RateLimits
from asyncdistil.transport.messages import Granted, PermitRequest
from asyncdistil.transport.permits import Pool

counts = st.integers(0, 30)
reports = st.builds(
    PermitRequest,
    governor=st.just("g"),
    wanted=counts,
    returned=counts,
    succeeded=counts,
    throttled=st.integers(0, 3),
    failed=st.integers(0, 3),
    retry_after_seconds=st.sampled_from([0.0, 0.5, 30.0, 1e12, math.inf, math.nan, -1.0]),
    latency_seconds=st.sampled_from([0.0, 0.1, 1.0, 100.0]),
    tokens=st.integers(0, 10_000),
)
limits = st.builds(
    RateLimits, st.sampled_from([0, 1, 5]), st.sampled_from([0, 60]), st.sampled_from([0, 6000])
)
moves = st.lists(st.tuples(reports, st.floats(0, 20), st.integers(1, 4)), max_size=60)


@given(limits, moves)
def test_whatever_workers_report_the_bounds_hold(
    declared: RateLimits, steps: list[tuple[PermitRequest, float, int]]
) -> None:
    pool = Pool(declared)
    now = 100.0
    held: dict[int, int] = {}
    paused_until = -math.inf
    for request, elapsed, holder in steps:
        now += elapsed
        # A worker can't give back what it does not have.
        returned = min(request.returned, held.get(holder, 0))
        request = PermitRequest(
            request.governor,
            request.wanted,
            returned,
            request.succeeded,
            request.throttled,
            request.failed,
            request.retry_after_seconds,
            request.latency_seconds,
            tokens=request.tokens,
        )
        granted = pool.on(request, now, holder)
        held[holder] = held.get(holder, 0) - returned + granted.permits
        assert 0 <= granted.permits <= request.wanted
        assert 0 <= granted.wait_seconds < (1e6 if declared.tokens_per_minute else 300.001)
        assert granted.permits == request.wanted or granted.wait_seconds > 0
        assert 1 <= pool.limit <= pool.ceiling
        assert pool.outstanding == sum(held.values())
        if granted.permits and pool._open_until is None:
            assert pool.outstanding <= pool.limit
        if request.throttled and request.retry_after_seconds > 0:
            paused_until = max(paused_until, now + min(request.retry_after_seconds, 300))
        assert not (granted.permits and now < paused_until)


@given(st.integers(0, 40), st.integers(1, 40))
def test_a_dead_worker_takes_no_permit_with_it(first: int, second: int) -> None:
    pool = Pool(RateLimits(concurrent=10))
    pool.on(PermitRequest("g", first), 0.0, 1)
    pool.forget(1)
    assert pool.outstanding == 0
    assert pool.on(PermitRequest("g", second), 0.0, 2).permits == min(second, 10)


def test_a_report_without_a_wish_is_answered_with_nothing() -> None:
    assert Pool().on(PermitRequest("g", 0, returned=3), 0.0) == Granted("g", 0, 0.0)


def test_throttled_replies_lower_the_limit_to_what_was_borne_and_then_by_half_at_most() -> None:
    pool = Pool(limit=40.0)
    assert pool.on(PermitRequest("g", 100), 10.0).permits == 40
    for _ in range(20):
        pool.on(PermitRequest("g", 0, returned=1, throttled=1), 10.0)
    assert pool.limit == 20.0
    pool.on(PermitRequest("g", 0, returned=20, succeeded=20), 10.2)
    before = pool.limit
    # Sent under the new limit, in the same burst.
    for _ in range(40):
        pool.on(PermitRequest("g", 1), 10.3)
        pool.on(PermitRequest("g", 0, returned=1, throttled=1), 10.3)
    assert pool.limit >= before / 2 - 1
    # Everything that was out has come back refused: that says nothing about how much it bears.
    assert pool.outstanding == 0


def test_a_large_declared_number_is_approached_and_no_further_once_the_service_objects() -> None:
    pool = Pool(RateLimits(concurrent=256), limit=256.0)
    assert pool.on(PermitRequest("g", 1000), 0.0).permits == 64
    more = [pool.on(PermitRequest("g", 1000), 0.005 * n).permits for n in range(1, 200)]
    assert max(more) <= 5
    assert 64 + sum(more) == 256

    pool = Pool(RateLimits(concurrent=256), limit=256.0)
    pool.on(PermitRequest("g", 1000), 0.0)
    pool.on(PermitRequest("g", 1000), 0.005)
    pool.on(PermitRequest("g", 1000, returned=4, throttled=4), 0.010)
    assert pool.limit <= 66
    assert sum(pool.on(PermitRequest("g", 1000), 0.005 * n).permits for n in range(3, 100)) == 0


def test_answers_that_come_at_once_do_not_hasten_the_approach() -> None:
    pool = Pool(RateLimits(concurrent=256), limit=256.0)
    for _ in range(3):
        assert pool.on(PermitRequest("g", 1000), 0.0).permits == 64
        pool.on(PermitRequest("g", 0, returned=64, succeeded=64), 0.0)
    assert pool.limit == 64


@pytest.mark.parametrize("capacity", [64, 100, 200])
@pytest.mark.parametrize("loads", [[4000], [1000] * 4])
def test_a_service_that_bears_less_than_was_declared_refuses_few_and_is_used_to_the_full(
    loads: list[int], capacity: int
) -> None:
    pool = Pool(RateLimits(concurrent=256), limit=256.0)
    _, seen = simulate(pool, loads, capacity=capacity, throttles=True)
    refused = len(seen) - 4000
    assert refused < 0.02 * len(seen)
    assert sum(seen[2000:3000]) / 1000 >= 0.95 * capacity


@pytest.mark.parametrize("capacity", [1, 3, 20])
def test_however_little_a_service_bears_it_is_not_pestered(capacity: int) -> None:
    pool = Pool(RateLimits(concurrent=64), limit=64.0)
    _, seen = simulate(pool, [4000], capacity=capacity, throttles=True)
    assert len(seen) - 4000 < 0.1 * len(seen)
    assert sum(seen[2000:3800]) / 1800 >= 0.9 * capacity


def test_a_service_that_refuses_everything_for_a_while_is_soon_used_as_before() -> None:
    pool = Pool(limit=64.0)
    now = 0.0
    for _ in range(30):  # for three seconds, ten times a second
        granted = pool.on(PermitRequest("g", 64), now).permits
        for _ in range(granted):
            pool.on(PermitRequest("g", 0, returned=1, throttled=1), now + 0.01)
        now += 0.1
    assert pool.limit >= 8
    for _ in range(5):
        granted = pool.on(PermitRequest("g", 1000), now).permits
        pool.on(PermitRequest("g", 0, returned=granted, succeeded=granted), now + 0.2)
        now += 0.2
    assert pool.limit >= 24


def test_retry_after_closes_the_pool_until_then_and_an_absurd_one_for_five_minutes() -> None:
    pool = Pool()
    answer = pool.on(PermitRequest("g", 1, throttled=1, retry_after_seconds=7), 0.0)
    assert (answer.permits, answer.wait_seconds) == (0, 7.0)
    assert pool.on(PermitRequest("g", 1), 6.9).permits == 0
    assert pool.on(PermitRequest("g", 1), 7.0).permits == 1
    answer = pool.on(PermitRequest("g", 1, throttled=1, retry_after_seconds=1e300), 10.0)
    assert answer.wait_seconds == 300.0


def test_the_breaker_lets_one_probe_through_and_closes_when_it_succeeds() -> None:
    pool = Pool()
    pool.on(PermitRequest("g", 5), 0.0, 1)
    answer = pool.on(PermitRequest("g", 5, returned=5, failed=5), 1.0, 1)
    assert (answer.permits, answer.wait_seconds) == (0, 1.0)
    assert pool.on(PermitRequest("g", 5), 2.0, 1).permits == 1
    assert pool.on(PermitRequest("g", 5), 2.0, 2).permits == 0
    # The probe fails: closed for twice as long.
    answer = pool.on(PermitRequest("g", 5, returned=1, failed=1), 3.0, 1)
    assert (answer.permits, answer.wait_seconds) == (0, 2.0)
    assert pool.on(PermitRequest("g", 5), 5.0, 2).permits == 1
    assert pool.on(PermitRequest("g", 5, returned=1, succeeded=1), 6.0, 2).permits == 5


def test_a_probe_whose_worker_dies_or_gives_up_is_replaced() -> None:
    pool = Pool()
    pool.on(PermitRequest("g", 1, failed=9), 0.0, 1)
    assert pool.on(PermitRequest("g", 1), 1.0, 1).permits == 1
    pool.forget(1)
    assert pool.on(PermitRequest("g", 1), 1.0, 2).permits == 1
    assert pool.on(PermitRequest("g", 1), 1.0, 3).permits == 0
    pool.on(PermitRequest("g", 0, returned=1), 1.0, 2)
    assert pool.on(PermitRequest("g", 1), 1.0, 3).permits == 1


def test_a_service_that_never_answers_is_given_up_after_an_hour() -> None:
    pool = Pool()
    pool.on(PermitRequest("g", 1, failed=9), 0.0)
    answer = pool.on(PermitRequest("g", 1, failed=1), 3601.0)
    assert answer.permits == 0
    assert answer.reason.startswith("give-up:")


@given(st.lists(st.floats(0, 3), min_size=1, max_size=200))
def test_requests_per_minute_are_kept_over_any_span(gaps: list[float]) -> None:
    pool = Pool(RateLimits(requests_per_minute=60))
    now, times = 0.0, []
    for gap in gaps:
        now += gap
        granted = pool.on(PermitRequest("g", 3), now, 1).permits
        pool.on(PermitRequest("g", 0, returned=granted, succeeded=granted), now, 1)
        times += [now] * granted
    for first in range(len(times)):
        for last in range(first, len(times)):
            # A bucket of 6 that fills at 1 a second.
            assert last - first + 1 <= 6 + (times[last] - times[first]) + 1e-6


def test_tokens_per_minute_make_a_debt_that_is_waited_for() -> None:
    pool = Pool(RateLimits(tokens_per_minute=600))
    assert pool.on(PermitRequest("g", 1), 0.0).permits == 1
    answer = pool.on(PermitRequest("g", 1, returned=1, succeeded=1, tokens=160), 0.0)
    assert answer.permits == 0
    assert answer.wait_seconds == pytest.approx(10.1)
    assert pool.on(PermitRequest("g", 1), 10.1).permits == 1


@dataclass
class Worker:
    """Sends ``todo`` requests as permits come, on a virtual clock."""

    number: int
    todo: int
    busy: int = 0
    done_at: float = 0.0
    returned: int = 0
    succeeded: int = 0
    throttled: int = 0
    asks_at: float = math.inf
    latencies: list[float] = field(default_factory=list)

    def request(self) -> PermitRequest:
        mean = sum(self.latencies) / len(self.latencies) if self.latencies else 0.0
        request = PermitRequest(
            "g",
            self.todo,
            self.returned,
            self.succeeded,
            self.throttled,
            latency_seconds=mean,
        )
        self.returned = self.succeeded = self.throttled = 0
        self.latencies.clear()
        return request


def simulate(
    pool: Pool, loads: list[int], *, capacity: int, throttles: bool, seconds: float = 0.2
) -> tuple[list[Worker], list[int]]:
    """Let workers share a service that bears ``capacity`` requests at once."""
    workers = [Worker(number, load) for number, load in enumerate(loads)]
    events: list[tuple[float, int, str, float]] = [(0.0, w.number, "ask", 0.0) for w in workers]
    in_flight, served, seen = 0, 0, []
    now = 0.0
    while events and now < 10_000:
        now, number, what, latency = heapq.heappop(events)
        worker = workers[number]
        if what == "reply":
            in_flight -= 1
            worker.busy -= 1
            worker.returned += 1
            if latency < 0:
                worker.throttled += 1
                worker.todo += 1
            else:
                served -= 1
                worker.succeeded += 1
                worker.latencies.append(latency)
                worker.done_at = now
        else:
            worker.asks_at = math.inf
            if not worker.todo:
                continue
        granted = pool.on(worker.request(), now, number)
        worker.todo -= granted.permits
        worker.busy += granted.permits
        for _ in range(granted.permits):
            in_flight += 1
            seen.append(in_flight)
            if throttles and served >= capacity:
                # Refused before anything is done for it: it takes nobody's place.
                heapq.heappush(events, (now + 0.01, number, "reply", -1.0))
            else:
                served += 1
                took = seconds * max(1.0, served / capacity)
                heapq.heappush(events, (now + took, number, "reply", took))
        if worker.todo and granted.wait_seconds and worker.asks_at == math.inf:
            worker.asks_at = now + granted.wait_seconds
            heapq.heappush(events, (worker.asks_at, number, "ask", 0.0))
    return workers, seen


@pytest.mark.parametrize("capacity", [1, 7, 60])
@pytest.mark.parametrize("loads", [[600], [300] * 4, [5, 700, 5, 200]])
def test_a_service_that_throttles_is_used_well_and_everyone_finishes(
    capacity: int, loads: list[int]
) -> None:
    workers, seen = simulate(Pool(), loads, capacity=capacity, throttles=True)
    assert all(worker.todo == 0 and worker.busy == 0 for worker in workers)
    settled = seen[len(seen) // 3 : -len(seen) // 10]
    assert max(settled) <= capacity * 2 + 2
    assert sum(settled) / len(settled) >= capacity * 0.4


def test_a_service_that_only_slows_down_is_not_flooded() -> None:
    workers, seen = simulate(Pool(), [20_000], capacity=20, throttles=False)
    assert workers[0].todo == 0
    settled = seen[len(seen) // 2 : -len(seen) // 10]
    assert max(settled) <= 20 * 3
    assert sum(settled) / len(settled) >= 15


def test_answers_that_are_long_for_another_reason_do_not_starve_the_worker() -> None:
    pool = Pool()
    simulate(pool, [3000], capacity=10_000, throttles=False, seconds=0.2)
    before = pool.limit
    simulate(pool, [30_000], capacity=10_000, throttles=False, seconds=2.0)
    assert pool.limit >= before / 2


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 60), min_size=1, max_size=8), st.integers(1, 6))
def test_nobody_starves(loads: list[int], limit: int) -> None:
    pool = Pool(RateLimits(concurrent=limit))
    workers, _ = simulate(pool, loads, capacity=1000, throttles=False)
    assert all(worker.todo == 0 and worker.busy == 0 for worker in workers)
    assert pool.outstanding == 0


def test_equal_workers_finish_at_about_the_same_time() -> None:
    workers, _ = simulate(Pool(RateLimits(concurrent=3)), [50] * 6, capacity=1000, throttles=False)
    ends = [worker.done_at for worker in workers]
    assert min(ends) >= 0.6 * max(ends)
