"""The machine while it stops: what dies meanwhile must stay open for the next run."""

from __future__ import annotations

from typing import Any

import pytest

from asyncdistil.batch import Digest, StepName
from asyncdistil.codec import content_digest
from asyncdistil.graph.plan import EdgePlan, RunPlan, StepPlan
from asyncdistil.log.events import Emit, StepDone
from asyncdistil.testing.simulation import Behaviour, Memory, Segments, Simulation


def lineage(name: str) -> Digest:
    return content_digest(name.encode())


def step(name: str, kind: str, *above: str, **options: Any) -> StepPlan:
    return StepPlan(
        name=StepName(name),
        kind=kind,  # type: ignore[arg-type]
        edges=tuple(EdgePlan(StepName(up)) for up in above),
        lineage=lineage(name),
        definition=b"",
        reuse="any",
        payload=b"",
        **options,
    )


LOAD = step("load", "generator", data_identity=lineage("data"), resumable=True)
DOUBLE = step("double", "row", "load", input_batch_size=4, replicas=3)
PLAN = RunPlan(
    pipeline="p",
    signature="",
    aggregated_signature="",
    options=b"",
    steps=(LOAD, DOUBLE),
    routers=(),
    leaves=(StepName("double"),),
    leaf_policies=("null",),
)
BEHAVIOURS = {
    "load": Behaviour(rows=[list(range(at, at + 6)) for at in range(0, 36, 6)]),
    "double": Behaviour(each=lambda v: v * 2),
}


@pytest.mark.parametrize("seed", range(300))
def test_rows_lost_while_the_run_stops_are_done_by_the_next_run(seed: int) -> None:
    memory, segments = Memory(), Segments()
    stopping = Simulation(
        PLAN,
        BEHAVIOURS,
        seed=seed,
        memory=memory,
        segments=segments,
        kill_rate=0.05,
        interrupt_after=5 + seed % 60,
    )
    if not stopping.run():
        ended = {event.lineage for event in memory.events if isinstance(event, StepDone)}
        rows = sum(
            event.rows
            for event in memory.events
            if isinstance(event, StepDone) and event.lineage == DOUBLE.lineage
        )
        assert DOUBLE.lineage not in ended or rows == 36
        assert not any(isinstance(event, Emit) for event in memory.events)

    again = Simulation(PLAN, BEHAVIOURS, seed=seed, memory=memory, segments=segments)
    assert again.run()
    assert again.results["double"] == [v * 2 for v in range(36)]
