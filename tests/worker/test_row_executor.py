import asyncio
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from asyncdistil.batch import SAME_ORIGINS, Failure, Origins, Row, Usage
from asyncdistil.errors import ModelAuthError
from asyncdistil.steps import Step
from asyncdistil.transport import brokers
from asyncdistil.transport.messages import Fatal, Finish, Lease, Result, Survived

ROWS: list[Row] = [{"n": n} for n in range(10)]


class Row1(Step):
    """Works on one row at a time in the worker's loop; behaviour by the row's ``do`` column."""

    row_wise: bool = True
    gate: str = ""
    limit: int = 10

    @property
    def outputs(self) -> list[str]:
        return ["out"]

    @property
    def concurrency(self) -> int:
        return self.limit

    async def aprocess(self, row: Row) -> Any:  # type: ignore[override]
        row["out"] = row["n"]
        await asyncio.sleep(0)
        return await self.act(row)

    async def act(self, row: Row) -> Any:
        match row.get("do"):
            case "wait":
                while not os.path.exists(self.gate):  # noqa: ASYNC110, ASYNC240
                    await asyncio.sleep(0.005)
            case "raise":
                raise ValueError("bad row")
            case "cancel":
                raise asyncio.CancelledError
            case "interrupt":
                raise KeyboardInterrupt
            case "exit":
                sys.exit(9)
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "drop":
                return None
            case "expand":
                return [dict(row), dict(row)]
            case "lack":
                del row["out"]
            case "odd":
                row["out"] = object()
            case "key":
                raise ModelAuthError("rejected")
            case "loop":
                row["out"] = type(asyncio.get_running_loop()).__module__
        return row


class Threads(Row1):
    """The same on threads."""

    @property
    def asynchronous(self) -> bool:
        return False

    def process(self, inputs: list[Row]) -> Iterator[list[Any]]:  # type: ignore[override]
        assert len(inputs) == 1
        yield [asyncio.run(self.aprocess(row)) for row in inputs]


BOTH = pytest.mark.parametrize("kind", [Row1, Threads])


@BOTH
def test_rows_come_back_in_order_in_one_result(rig: Any, kind: type[Row1]) -> None:
    rig.start(kind())
    lease = rig.lease(3, ROWS)
    result = rig.expect(Result)
    assert (result.lease, result.start, result.stop) == (3, 0, 10)
    assert rig.rows(result.outputs) == [{"n": n, "out": n} for n in range(10)]
    assert result.origins == SAME_ORIGINS
    assert result.input_digests == (lease.ports[0][0].ref.digest,)
    assert rig.finish() == 0


def test_the_loop_is_uvloop_where_there_is_one(rig: Any) -> None:
    rig.start(Row1())
    rig.lease(1, [{"n": 1, "do": "loop"}])
    assert rig.rows(rig.expect(Result).outputs)[0]["out"].startswith("uvloop")


@BOTH
def test_a_slow_row_delays_no_other(rig: Any, kind: type[Row1], tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    rig.start(kind(gate=str(gate), limit=4))
    rows = [{**row, "do": "wait" if row["n"] == 3 else ""} for row in ROWS]
    lease = rig.lease(1, rows)
    done: list[tuple[int, int]] = []
    while sum(stop - start for start, stop in done) < 9:
        result = rig.expect(Result)
        done.append((result.start, result.stop))
        part = slice(result.start, result.stop)
        assert [row["n"] for row in rig.rows(result.outputs)] == [r["n"] for r in rows[part]]
        (piece,) = lease.ports[0]
        cut = type(piece)(piece.ref, result.start, result.stop)
        assert result.input_digests == (rig.reader.digest([cut]),)
    # Another lease passes the straggler by.
    rig.lease(2, ROWS)
    while (result := rig.expect(Result)).stop < 10:
        assert result.lease == 2
    gate.touch()
    last = rig.expect(Result)
    assert (last.lease, last.start, last.stop) == (1, 3, 4)
    assert rig.finish() == 0


def test_no_more_rows_are_in_flight_than_the_step_wants(rig: Any) -> None:
    rig.start(Counting(limit=3))
    rig.send(*(Lease(n, (rig.store_rows(ROWS),)) for n in range(5)))
    most = [max(row["out"] for row in rig.rows(rig.expect(Result).outputs)) for _ in range(5)]
    assert max(most) == 3


class Counting(Row1):
    _now: int = 0

    async def act(self, row: Row) -> Any:
        self._now += 1
        row["out"] = self._now
        await asyncio.sleep(0.001)
        self._now -= 1
        return row


@BOTH
def test_each_row_fails_alone_and_in_its_own_way(rig: Any, kind: type[Row1]) -> None:
    rig.start(kind())
    doing = ["raise", "", "interrupt", "drop", "expand", "lack", "odd", ""]
    rig.lease(1, [{"n": n, "do": do} for n, do in enumerate(doing)])
    result = rig.expect(Result)
    outs = [(row["n"], row["out"]) for row in rig.rows(result.outputs)]
    assert outs == [(0, None), (1, 1), (2, None), (4, 4), (4, 4), (5, None), (6, None), (7, 7)]
    assert result.origins == Origins(
        "children", (0, 1, 2, 4, 4, 5, 6, 7), (-1, -1, -1, 0, 1, -1, -1, -1)
    )
    assert [f.input_row for f in result.failures] == [0, 2, 5, 6]
    assert result.filtered == 1
    assert rig.finish() == 0


def test_a_row_that_cancels_itself_fails_alone(rig: Any) -> None:
    rig.start(Row1())
    rig.lease(1, [{"n": 0, "do": "cancel"}, {"n": 1}])
    result = rig.expect(Result)
    assert [f.input_row for f in result.failures] == [0]


@BOTH
@pytest.mark.parametrize(("do", "status"), [("exit", 9), ("kill", -signal.SIGKILL)])
def test_a_row_that_ends_the_process_ends_it(
    rig: Any, kind: type[Row1], do: str, status: int
) -> None:
    rig.start(kind())
    rig.lease(1, [{"n": 0}, {"n": 1, "do": do}])
    with pytest.raises((EOFError, ConnectionResetError)):
        while True:
            rig.next()
    assert rig.wait() == status


@BOTH
def test_a_rejected_key_stops_the_run_at_the_first_row(rig: Any, kind: type[Row1]) -> None:
    rig.start(kind())
    rig.lease(1, [{"n": n, "do": "key"} for n in range(10)])
    assert rig.expect(Fatal) == Fatal("ModelAuthError", "rejected")
    assert rig.finish() == 0


@BOTH
def test_condemned_rows_and_probes(rig: Any, kind: type[Row1]) -> None:
    rig.start(kind())
    reason = Failure("WorkerDied", "killed its worker", 3)
    rig.lease(1, [{"n": 0, "do": "kill"}, {"n": 1}], condemned=((0, reason),))
    result = rig.expect(Result)
    assert [row["out"] for row in rig.rows(result.outputs)] == [None, 1]
    assert result.failures[0].failure == reason
    rig.lease(2, [{"n": 0, "do": "kill"}], condemned=((0, reason),))
    assert len(rig.expect(Result).failures) == 1
    rig.lease(3, [{"n": 0}], probe=True)
    assert rig.expect(Survived) == Survived(3)
    rig.lease(4, [{"n": 0, "do": "raise"}], probe=True)
    assert rig.expect(Survived).failure is not None
    rig.lease(5, [])
    assert rig.expect(Result).stop == 0


class Booking(Row1):
    async def act(self, row: Row) -> Any:
        ledger = brokers.LEDGER.get()
        assert ledger is not None
        row["out"] = ledger.lease
        ledger.add_usage(Usage(requests=1, input_tokens=row["n"]))
        ledger.take(b"key", [row["n"]])
        ledger.wrote_memo = row["n"] == 2
        return row


def test_what_rows_took_is_booked_on_their_lease(rig: Any) -> None:
    rig.start(Booking())
    rig.lease(5, ROWS[:3])
    rig.lease(6, ROWS[3:5])
    results = {result.lease: result for result in (rig.expect(Result), rig.expect(Result))}
    assert results[5].usage == Usage(requests=3, input_tokens=3)
    assert results[5].samples == ((b"key", 0), (b"key", 1), (b"key", 2))
    assert results[5].wrote_memo
    assert results[6].usage == Usage(requests=2, input_tokens=7)
    assert not results[6].wrote_memo
    assert {row["out"] for row in rig.rows(results[6].outputs)} == {6}


class Client(Row1):
    path: str

    async def aprocess(self, row: Row) -> Any:  # type: ignore[override]
        self._loop = asyncio.get_running_loop()
        return {**row, "out": 1}

    _loop: Any = None

    async def unload(self) -> None:  # type: ignore[override]
        assert asyncio.get_running_loop() is self._loop
        with open(self.path, "w") as file:  # noqa: ASYNC230
            file.write("closed on its own loop")


def test_an_asynchronous_unload_runs_on_the_loop_that_the_rows_ran_on(
    rig: Any, tmp_path: Path
) -> None:
    rig.start(Client(path=str(tmp_path / "flag")))
    rig.lease(1, ROWS)
    rig.expect(Result)
    assert rig.finish() == 0
    assert (tmp_path / "flag").read_text() == "closed on its own loop"


@BOTH
def test_leases_in_hand_are_finished_before_the_worker_goes(
    rig: Any, kind: type[Row1], tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    rig.start(kind(gate=str(gate)))
    rig.lease(1, [{"n": 0, "do": "wait"}])
    rig.send(Finish())
    gate.touch()
    assert rig.expect(Result).stop == 1
    rig.next()
    assert rig.wait() == 0


@BOTH
def test_term_ends_a_worker_with_rows_in_flight(rig: Any, kind: type[Row1], tmp_path: Path) -> None:
    rig.start(kind(gate=str(tmp_path / "never"), limit=2))
    rig.lease(1, [{"n": 0}, {"n": 1, "do": "wait"}])
    assert rig.expect(Result).stop == 1
    rig.process.terminate()
    assert rig.wait() == 128 + signal.SIGTERM


def test_a_join_is_refused_for_an_asynchronous_step_and_taken_by_threads(rig: Any) -> None:
    rig.start(Joined())
    rig.lease(1, ROWS, [{"m": n} for n in range(10)])
    result = rig.expect(Result)
    assert [row["out"] for row in rig.rows(result.outputs)] == [2 * n for n in range(10)]


class Joined(Threads):
    def process(self, *inputs: list[Row]) -> Iterator[list[Any]]:  # type: ignore[override]
        ((left,), (right,)) = inputs
        time.sleep(0)
        yield [{**left, **right, "out": left["n"] + right["m"]}]
