import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from asyncdistil.batch import Row
from asyncdistil.steps import Step
from asyncdistil.transport import brokers
from asyncdistil.transport.brokers import Observation, RateLimits
from asyncdistil.transport.messages import (
    Claim,
    Claimed,
    Fatal,
    Granted,
    Lease,
    PermitRequest,
    Result,
)
from asyncdistil.transport.permits import Pool

ROWS: list[Row] = [{"n": n} for n in range(6)]
LIMITS = RateLimits(2, 0, 0)


def surroundings() -> brokers.Surroundings:
    found = brokers.current()
    assert found is not None
    return found


class Claims(Step):
    """Asks for samples from wherever its code happens to run."""

    row_wise: bool = True
    where: str = "here"

    @property
    def outputs(self) -> list[str]:
        return ["samples"]

    def process(self, inputs: list[Row]) -> Iterator[list[Row]]:  # type: ignore[override]
        ledger = brokers.LEDGER.get()
        assert ledger is not None
        ask = surroundings().claims
        keys = [str(row["n"]).encode() for row in inputs]
        if self.where == "here":
            samples = ask.claim(keys, [2] * len(keys), lease=ledger.lease)
        else:
            got: list[Any] = []

            def elsewhere() -> None:
                got.append(
                    asyncio.run(ask.aclaim(keys, [2] * len(keys), lease=ledger.lease))  # type: ignore[arg-type]
                )

            thread = threading.Thread(target=elsewhere)
            thread.start()
            thread.join()
            (samples,) = got
        yield [{**row, "samples": list(s)} for row, s in zip(inputs, samples, strict=True)]


class AsyncClaims(Claims):
    async def aprocess(self, row: Row) -> Any:  # type: ignore[override]
        ledger = brokers.LEDGER.get()
        assert ledger is not None
        (samples,) = await surroundings().claims.aclaim([b"k"], [1], lease=ledger.lease)
        return {**row, "samples": list(samples)}


@pytest.mark.parametrize("where", ["here", "on another thread's loop"])
def test_a_batch_asks_while_its_own_thread_waits_and_leases_keep_coming(
    rig: Any, where: str
) -> None:
    rig.start(Claims(where=where))
    for number in (1, 2, 3):
        rig.lease(number, ROWS)
    results: list[Result] = []
    claimed: list[int] = []
    while len(results) < 3:
        message = rig.next()
        if isinstance(message, Claim):
            assert message.counts == (2,) * 6
            claimed.append(message.lease)
            rig.send(Claimed(message.claim, tuple((10 * n, 10 * n + 1) for n in range(6))))
        else:
            assert isinstance(message, Result)
            results.append(message)
    assert claimed == [result.lease for result in results] == [1, 2, 3]
    assert rig.rows(results[2].outputs)[3]["samples"] == [30, 31]
    assert rig.finish() == 0


class ClaimsTwice(Claims):
    def process(self, inputs: list[Row]) -> Iterator[list[Row]]:
        if inputs[0]["n"] == 1:
            surroundings().claims.claim([b"never answered"], [1], lease=0)
        yield [{**row, "samples": []} for row in inputs]


def test_a_result_does_not_wait_for_a_slow_batch_behind_it(rig: Any) -> None:
    rig.start(ClaimsTwice())
    slices = [rig.store_rows([{"n": n}]) for n in (0, 0, 0, 1)]
    rig.send(*(Lease(number, (piece,)) for number, piece in enumerate(slices)))
    results = set()
    while results != {0, 1, 2}:
        message = rig.next()
        if isinstance(message, Result):
            results.add(message.lease)


def test_rows_on_the_loop_ask_together_for_a_lease_and_get_each_its_own(rig: Any) -> None:
    rig.start(AsyncClaims())
    pieces = [rig.store_rows(ROWS[:4]), rig.store_rows(ROWS[4:])]
    rig.send(*(Lease(number, (piece,)) for number, piece in enumerate(pieces, start=1)))
    claims = [rig.expect(Claim), rig.expect(Claim)]
    assert [(claim.lease, claim.counts) for claim in claims] == [(1, (1,) * 4), (2, (1,) * 2)]
    for claim in reversed(claims):
        first = 4 * (claim.lease - 1)
        rig.send(Claimed(claim.claim, tuple((first + n,) for n in range(len(claim.keys)))))
    results = sorted((rig.expect(Result), rig.expect(Result)), key=lambda result: result.lease)
    samples = [row["samples"] for result in results for row in rig.rows(result.outputs)]
    assert samples == [[n] for n in range(6)]


class Requests(Step):
    """One request per row under a permit."""

    row_wise: bool = True
    outcome: str = "ok"

    @property
    def outputs(self) -> list[str]:
        return ["most"]

    _now: int = 0

    async def aprocess(self, row: Row) -> Any:  # type: ignore[override]
        permits = surroundings().permits
        await permits.acquire("g", LIMITS)
        self._now += 1
        row["most"] = self._now
        await asyncio.sleep(0.001)
        self._now -= 1
        permits.release("g", Observation(self.outcome, 0.001, 0.05, 7))  # type: ignore[arg-type]
        return row


class BlockingRequests(Requests):
    @property
    def asynchronous(self) -> bool:
        return False

    @property
    def concurrency(self) -> int:
        return 4

    def process(self, inputs: list[Row]) -> Iterator[list[Row]]:  # type: ignore[override]
        permits = surroundings().permits
        for row in inputs:
            permits.acquire_blocking("g", LIMITS)
            self._now += 1
            row["most"] = self._now
            self._now -= 1
            permits.release("g", Observation("ok", 0.001, 0.0, 7))
        yield inputs


class BlockingBatch(BlockingRequests):
    @property
    def concurrency(self) -> int:
        return 0


@pytest.mark.parametrize("kind", [Requests, BlockingRequests, BlockingBatch])
def test_no_request_goes_without_a_permit_and_every_permit_comes_back(
    rig: Any, kind: type[Requests]
) -> None:
    pool = Pool(LIMITS)
    rig.start(kind())
    rig.lease(1, ROWS)
    tokens = succeeded = 0
    result = None
    clock = 0.0
    while result is None or pool.outstanding:
        message = rig.next()
        if isinstance(message, Result):
            result = message
            continue
        assert isinstance(message, PermitRequest)
        assert message.limits == (2, 0, 0)
        tokens += message.tokens
        succeeded += message.succeeded
        clock += 0.01
        granted = pool.on(message, clock, 1)
        assert pool.outstanding <= 2
        rig.send(granted)
    assert not result.failures
    assert max(row["most"] for row in rig.rows(result.outputs)) <= 2
    assert succeeded == 6
    assert tokens == 42
    assert rig.finish() == 0


def test_a_pause_is_waited_out_with_one_timer_and_surplus_permits_go_back(rig: Any) -> None:
    rig.start(Requests())
    rig.lease(1, ROWS[:1])
    assert rig.expect(PermitRequest).wanted == 1
    rig.send(Granted("g", 0, 0.05, "the service asked to wait"))
    assert rig.expect(PermitRequest).wanted == 1
    rig.send(Granted("g", 3, 0.0))
    news = rig.expect(PermitRequest)
    returned = news.returned
    while returned < 3:
        rig.send(Granted("g", 0, 0.0))
        message = rig.next()
        if isinstance(message, PermitRequest):
            returned += message.returned
    assert returned == 3


def test_when_waiting_is_pointless_the_run_stops_and_says_why(rig: Any) -> None:
    rig.start(Requests())
    rig.lease(1, ROWS[:2])
    rig.expect(PermitRequest)
    rig.send(Granted("g", 0, 60.0, "give-up: the service has answered no request for 61 minutes"))
    message = rig.next()
    while isinstance(message, PermitRequest):
        rig.send(Granted("g", 0, 60.0, "give-up: the service has answered nothing"))
        message = rig.next()
    # No row is to blame, so none fails: the run can be taken up when the service is back.
    assert isinstance(message, Fatal)
    assert message.kind == "ModelRateLimited"
    assert "answered no" in message.message


class Cancels(Requests):
    async def aprocess(self, row: Row) -> Any:  # type: ignore[override]
        permits = surroundings().permits
        if row["n"] == 0:
            try:
                await asyncio.wait_for(permits.acquire("g", LIMITS), 0.01)
            except TimeoutError:
                return {**row, "most": -1}
        return await super().aprocess(row)


def test_a_request_that_stops_waiting_takes_no_permit(rig: Any) -> None:
    rig.start(Cancels())
    rig.lease(1, ROWS[:1])
    rig.expect(PermitRequest)
    result = rig.expect(Result)
    assert rig.rows(result.outputs)[0]["most"] == -1
    rig.send(Granted("g", 1, 0.0))
    assert rig.expect(PermitRequest).returned == 1


def test_outside_of_a_worker_nothing_is_offered() -> None:
    assert brokers.current() is None
    assert brokers.LEDGER.get() is None
