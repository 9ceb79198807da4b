"""What the machine stops for, and says so: rows, routes and joins that can't be gone on with."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from asyncdistil.batch import Digest, Failure, RowFailure, StepName
from asyncdistil.codec import content_digest
from asyncdistil.errors import StepError
from asyncdistil.graph.plan import EdgePlan, RouterPlan, RunPlan, StepPlan
from asyncdistil.supervisor.commands import WorkerId
from asyncdistil.testing.simulation import Behaviour, Simulation
from asyncdistil.transport.messages import (
    Failed,
    FromWorker,
    GeneratorFailed,
    Result,
    Routed,
    Yielded,
)

REASON = Failure("ValueError", "no such topic", detail="Traceback: ...")


def lineage(name: str) -> Digest:
    return content_digest(name.encode())


def step(name: str, kind: str, *above: str, **options: Any) -> StepPlan:
    edges = tuple(EdgePlan(StepName(up)) for up in above)
    return StepPlan(
        name=StepName(name),
        kind=kind,  # type: ignore[arg-type]
        edges=options.pop("edges", edges),
        lineage=lineage(name),
        definition=b"",
        reuse="any",
        payload=b"",
        **options,
    )


def source(name: str = "load") -> StepPlan:
    return step(name, "generator", data_identity=lineage("data of " + name), resumable=True)


def plan(*steps: StepPlan, leaf: str, routers: tuple[RouterPlan, ...] = ()) -> RunPlan:
    return RunPlan(
        pipeline="p",
        signature="",
        aggregated_signature="",
        options=b"",
        steps=steps,
        routers=routers,
        leaves=(StepName(leaf),),
        leaf_policies=("null",),
    )


def numbers(rows: int, size: int = 6) -> Behaviour:
    return Behaviour(rows=[list(range(at, min(at + size, rows))) for at in range(0, rows, size)])


def routed(**options: Any) -> RunPlan:
    router = RouterPlan(
        source=StepName("load"),
        batch_size=6,
        successors=(StepName("a"), StepName("b")),
        lineage=lineage("router"),
        definition=b"",
        payload=b"",
        reuse="any",
    )
    edge = EdgePlan(StepName("load"), routed=True)
    return plan(
        source(),
        *(step(name, "row", edges=(edge,), input_batch_size=4) for name in "ab"),
        step("join", "row", "a", "b", converges=StepName("load"), **options),
        leaf="join",
        routers=(router,),
    )


def both(_values: list[Any]) -> tuple[StepName, ...]:
    return StepName("a"), StepName("b")


ROUTED: dict[str, Behaviour] = {
    "load": numbers(24),
    "load/router": Behaviour(route=both),
    "a": Behaviour(each=lambda v: v),
    "b": Behaviour(each=lambda v: -v),
    "join": Behaviour(each=lambda a, b: (a, b)),
}


class Says(Simulation):
    """A simulation whose workers say something else than they would."""

    def __init__(self, *args: Any, instead: dict[type, Any], **options: Any) -> None:
        super().__init__(*args, **options)
        self._instead = instead

    def _pass_on(self, number: WorkerId, messages: list[FromWorker]) -> None:
        changed = [self._instead.get(type(m), lambda m: m)(m) for m in messages]
        super()._pass_on(number, changed)


@pytest.mark.parametrize("policy", ["null", "skip", "raise"])
def test_a_failed_row_is_read_as_its_reader_asked_for(policy: str) -> None:
    failed: list[int] = []

    def first_row_fails(message: Result) -> Result:
        if failed or not message.outputs:
            return message
        failed.append(message.lease)
        return msgspec.structs.replace(message, failures=(RowFailure(0, 0, REASON),))

    edge = EdgePlan(StepName("touchy"), on_error=policy)  # type: ignore[arg-type]
    chain = plan(
        source(),
        step("touchy", "batch", "load", input_batch_size=6),
        step("tail", "global", edges=(edge,)),
        leaf="tail",
    )
    same = Behaviour(batch=lambda values: values)
    run = Says(
        chain,
        {"load": numbers(24), "touchy": same, "tail": same},
        instead={Result: first_row_fails},
    )
    if policy == "raise":
        with pytest.raises(StepError, match=r"is 'raise'\. The first: ValueError: no such"):
            run.run()
    else:
        assert run.run()
        assert run.results["tail"] == list(range(policy == "skip", 24))


def test_a_join_by_position_of_unequal_counts_names_them() -> None:
    joined = plan(
        source("a"),
        source("b"),
        step("join", "row", "a", "b", by_position=True),
        leaf="join",
    )
    behaviours = {
        "a": numbers(12),
        "b": numbers(13),
        "join": Behaviour(each=lambda a, b: a + b),
    }
    with pytest.raises(StepError, match="12 rows from 'a', 13 rows from 'b'"):
        Simulation(joined, behaviours).run()


def test_branches_that_drop_different_rows_of_a_routed_batch_do_not_converge() -> None:
    behaviours = ROUTED | {"b": Behaviour(each=lambda v: v if v != 7 else None)}
    with pytest.raises(StepError, match="converges 'a', 'b', which returned different rows"):
        Simulation(routed(), behaviours).run()


def test_branches_that_drop_the_same_rows_of_a_routed_batch_converge_in_order() -> None:
    def keep(v: int) -> int | None:
        return v if v not in {7, *range(12, 18)} else None  # one row, and one whole batch

    behaviours = ROUTED | {name: Behaviour(each=keep) for name in "ab"}
    run = Simulation(routed(), behaviours)
    assert run.run()
    assert run.results["join"] == [(v, v) for v in range(24) if keep(v) is not None]


def test_a_routing_function_that_kills_its_worker_stops_the_run() -> None:
    behaviours = ROUTED | {"load/router": Behaviour(route=both, kills=frozenset({7}))}
    with pytest.raises(StepError, match="routing function of step 'load' killed its worker"):
        Simulation(routed(), behaviours).run()


def test_a_routing_function_that_raises_stops_the_run_with_what_it_raised() -> None:
    instead = {Routed: lambda message: Failed(message.lease, REASON)}
    with pytest.raises(StepError, match="'load' raised ValueError: no such topic") as caught:
        Says(routed(), ROUTED, instead=instead).run()
    assert "Traceback" in str(caught.value)


def test_a_worker_that_answers_for_a_router_with_rows_stops_the_run() -> None:
    def rows(message: Routed) -> Result:
        return Result(message.lease, 0, 6, (), None)  # type: ignore[arg-type]

    with pytest.raises(StepError, match="router of 'load' returned rows"):
        Says(routed(), ROUTED, instead={Routed: rows}).run()


def test_a_generator_that_raises_stops_the_run_and_says_how_far_it_came() -> None:
    yields = 0

    def second_fails(message: Yielded) -> FromWorker:
        nonlocal yields
        yields += 1
        return message if yields == 1 else GeneratorFailed(REASON)

    chain = plan(source(), step("tail", "row", "load"), leaf="tail")
    behaviours = {"load": numbers(24), "tail": Behaviour(each=lambda v: v)}
    with pytest.raises(StepError, match="raised after 6 rows: ValueError: no such topic"):
        Says(chain, behaviours, instead={Yielded: second_fails}).run()


def test_a_lease_that_fails_as_a_whole_stops_the_run_with_the_reason() -> None:
    chain = plan(source(), step("tail", "batch", "load", input_batch_size=6), leaf="tail")
    behaviours = {"load": numbers(24), "tail": Behaviour(batch=lambda values: values)}
    instead = {Result: lambda message: Failed(message.lease, REASON)}
    with pytest.raises(StepError, match="'tail' failed on 6 rows: ValueError: no such topic"):
        Says(chain, behaviours, instead=instead).run()
