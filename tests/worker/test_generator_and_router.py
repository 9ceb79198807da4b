import itertools
import os
from collections.abc import Iterator
from typing import Any

import pytest

from asyncdistil.batch import Digest, Row
from asyncdistil.steps import GeneratorStep, RoutingBatchFunction
from asyncdistil.transport.messages import (
    Diverged,
    Exhausted,
    Failed,
    Generate,
    GeneratorFailed,
    LoadFailed,
    Produce,
    Routed,
    Yielded,
)


class Numbers(GeneratorStep):
    """Yields 0, 1, 2, … in yields of ``size`` rows; ``odd`` says what goes wrong at the end."""

    total: int = 10
    size: int = 3
    first: int = 0
    odd: str = ""

    @property
    def outputs(self) -> list[str]:
        return ["n"]

    def process(self, offset: int = 0) -> Iterator[tuple[list[Row], bool]]:  # type: ignore[override]
        numbers = iter(range(offset, self.total))
        while rows := [{"n": n + self.first} for n in itertools.islice(numbers, self.size)]:
            last = rows[-1]["n"] == self.total - 1 + self.first
            yield rows, last and not self.odd
            if self.odd == "empties":
                yield [], False
        match self.odd:
            case "raise":
                raise RuntimeError("out of ideas")
            case "shape":
                yield {"n": 1}, False  # type: ignore[misc]
            case "value":
                yield [{"n": object()}], True
            case "last on an empty yield":
                yield [], True


def drain(rig: Any, credits: int = 1000) -> tuple[list[Row], Any]:
    rig.send(Produce(credits))
    rows: list[Row] = []
    while isinstance(message := rig.next(), Yielded):
        rows += rig.rows(message.outputs)
    return rows, message


def test_a_generator_yields_by_credit(rig: Any) -> None:
    rig.start(Numbers())
    rig.send(Generate(), Produce(2))
    assert [row["n"] for row in rig.rows(rig.expect(Yielded).outputs)] == [0, 1, 2]
    assert [row["n"] for row in rig.rows(rig.expect(Yielded).outputs)] == [3, 4, 5]
    assert not rig.inbox
    rows, end = drain(rig)
    assert [row["n"] for row in rows] == [6, 7, 8, 9]
    assert isinstance(end, Exhausted)
    assert rig.finish() == 0


@pytest.mark.parametrize("odd", ["", "never last", "empties", "last on an empty yield"])
def test_every_way_to_end_is_an_end(rig: Any, odd: str) -> None:
    rig.start(Numbers(odd=odd))
    rig.send(Generate())
    rows, end = drain(rig)
    assert [row["n"] for row in rows] == list(range(10))
    assert isinstance(end, Exhausted)


@pytest.mark.parametrize(
    ("odd", "says"), [("raise", "out of ideas"), ("shape", "last"), ("value", "'n'")]
)
def test_what_a_generator_raises_is_told_after_its_good_rows(rig: Any, odd: str, says: str) -> None:
    rig.start(Numbers(odd=odd))
    rig.send(Generate())
    rows, end = drain(rig)
    assert len(rows) == 10
    assert isinstance(end, GeneratorFailed)
    assert says in end.failure.message


def test_an_offset_goes_to_the_step_and_a_limit_ends_it(rig: Any) -> None:
    rig.start(Numbers(total=1000))
    rig.send(Generate(offset=5, limit=7))
    rows, end = drain(rig)
    assert [row["n"] for row in rows] == list(range(5, 12))
    assert isinstance(end, Exhausted)


@pytest.mark.parametrize("committed", [1, 3, 4, 10])
def test_committed_rows_are_compared_and_dropped(rig: Any, committed: int) -> None:
    rig.start(Numbers())
    skip = rig.store_rows([{"n": n} for n in range(committed)])
    rig.send(Generate(skip=skip))
    rows, end = drain(rig)
    assert [row["n"] for row in rows] == list(range(committed, 10))
    assert isinstance(end, Exhausted)


@pytest.mark.parametrize(
    ("committed", "row"),
    [([0, 1, 2, 3, 99], 4), ([5], 0), ([*range(12)], 10), ([0, 1.0], 1), ([False], 0)],
)
def test_the_first_row_that_differs_from_what_was_committed_is_named(
    rig: Any, committed: list[Any], row: int
) -> None:
    rig.start(Numbers())
    rig.send(Generate(skip=rig.store_rows([{"n": n} for n in committed])))
    rows, end = drain(rig)
    assert rows == []
    assert end == Diverged(row)
    # The supervisor may start it again from the beginning.
    rig.send(Generate())
    rows, end = drain(rig)
    assert len(rows) == 10
    assert isinstance(end, Exhausted)


def test_a_large_yield_is_cut_into_records(rig: Any) -> None:
    rig.start(Big())
    rig.send(Generate(), Produce(1))
    message = rig.expect(Yielded)
    assert len(message.outputs) > 1
    assert sum(ref.rows for ref in message.outputs) == 40


class Big(GeneratorStep):
    def process(self, offset: int = 0) -> Iterator[tuple[list[Row], bool]]:  # type: ignore[override]
        yield [{"text": "x" * 2**20} for _ in range(40)], True


def test_a_generator_is_finished_while_it_waits_for_credit(rig: Any) -> None:
    rig.start(Numbers())
    rig.send(Generate(), Produce(1))
    rig.expect(Yielded)
    assert rig.finish() == 0


class Endless(GeneratorStep):
    def process(self, offset: int = 0) -> Iterator[tuple[list[Row], bool]]:  # type: ignore[override]
        while True:
            yield [{"n": 1}], False


def test_an_endless_generator_stops_when_told_and_closes(rig: Any) -> None:
    rig.start(Endless())
    rig.send(Generate(), Produce(100_000))
    rig.expect(Yielded)
    from asyncdistil.transport.messages import Done, Finish

    rig.send(Finish())
    while not isinstance(rig.next(), Done):
        pass
    assert rig.wait() == 0


def route(function: Any) -> tuple[RoutingBatchFunction, tuple[str, ...]]:
    return RoutingBatchFunction(function), ("a", "b", "c")


def by_rows(steps: list[str], rows: list[Row]) -> list[str]:
    return ["c", "a"] if rows[0]["n"] else ["b"]


def by_names(steps: list[str]) -> list[str]:
    return steps[:1]


def by_digest(steps: list[str], rows: list[Row], digest: bytes) -> list[str]:
    assert len(digest) == 16
    return [steps[digest[0] % 3]]


def wrong(steps: list[str]) -> list[str]:
    return ["elsewhere"]


def test_a_router_answers_with_names_in_the_order_of_the_graph(rig: Any) -> None:
    rig.start(route(by_rows), role="router", segment=0)
    lease = rig.lease(1, [{"n": 1}, {"n": 0}])
    assert rig.expect(Routed) == Routed(1, ("a", "c"), lease.ports[0][0].ref.digest)
    rig.lease(2, [{"n": 0}])
    assert rig.expect(Routed).chosen == ("b",)
    assert rig.finish() == 0


def test_a_router_need_not_look_at_rows(rig: Any) -> None:
    rig.start(route(by_names), role="router", segment=0)
    rig.lease(1, [{"n": 1}])
    assert rig.expect(Routed).chosen == ("a",)


def test_a_router_may_go_by_the_digest(rig: Any) -> None:
    rig.start(route(by_digest), role="router", segment=0)
    lease = rig.lease(1, [{"n": 1}])
    digest = lease.ports[0][0].ref.digest
    assert rig.expect(Routed) == Routed(1, ("abc"[digest[0] % 3],), digest)


def test_a_router_that_names_a_stranger_fails_its_lease(rig: Any) -> None:
    rig.start(route(wrong), role="router", segment=0)
    rig.lease(1, [{"n": 1}])
    assert "elsewhere" in rig.expect(Failed).failure.message


def test_the_code_of_a_router_is_checked_like_that_of_a_step(rig: Any) -> None:
    pair = route(by_names)
    code = pair[0].code()
    assert code is not None
    assert rig.start(pair, role="router", segment=0, code=code.digest).code == code.digest


def test_other_code_of_a_router_is_refused(rig: Any) -> None:
    rig.load(route(by_names), role="router", segment=0, code=Digest(os.urandom(16)))
    assert "SignatureMismatch" in rig.expect(LoadFailed).failure.kind


def test_the_export_role_is_handed_to_the_exporter(rig: Any) -> None:
    from asyncdistil.transport.messages import Done, Export, Exported, Finish

    rig.load(None, role="export", segment=0, payload=b"")
    rig.send(Export(rig.store_rows([{"n": 1}, {"n": 2}])), Finish())
    assert rig.expect(Exported).rows == 2
    rig.expect(Done)
    assert rig.wait() == 0
