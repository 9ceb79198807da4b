"""Rows that kill every worker that meets them: exactly those fail, however many there are."""

from __future__ import annotations

from typing import Any

import pytest

from asyncdistil.batch import Digest, StepName
from asyncdistil.codec import content_digest
from asyncdistil.graph.plan import EdgePlan, RunPlan, StepPlan
from asyncdistil.testing.simulation import Behaviour, Simulation

ROWS = 48


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


def plan(kind: str, **options: Any) -> RunPlan:
    load = step("load", "generator", data_identity=lineage("data"), resumable=True)
    return RunPlan(
        pipeline="p",
        signature="",
        aggregated_signature="",
        options=b"",
        steps=(load, step("touchy", kind, "load", input_batch_size=6, **options)),
        routers=(),
        leaves=(StepName("touchy"),),
        leaf_policies=("null",),
    )


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize("options", [{}, {"replicas": 3}, {"concurrency": 20}], ids=str)
@pytest.mark.parametrize("deadly", [{0}, {6, 11}, {5, 6}, {3, 20, 21, 40, 47}], ids=str)
def test_exactly_the_deadly_rows_fail(deadly: set[int], options: dict[str, int], seed: int) -> None:
    behaviours = {
        "load": Behaviour(rows=[list(range(at, at + 8)) for at in range(0, ROWS, 8)]),
        "touchy": Behaviour(each=lambda v: v, kills=frozenset(deadly)),
    }
    run = Simulation(plan("row", **options), behaviours, seed=seed)
    assert run.run()
    assert run.results["touchy"] == [v for v in range(ROWS) if v not in deadly]
