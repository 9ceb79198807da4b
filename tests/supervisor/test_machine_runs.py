"""The machine, driven by a seeded scheduler without processes."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from asyncdistil.batch import Digest, StepName
from asyncdistil.codec import content_digest
from asyncdistil.errors import GraphError, StepError, WorkerDied
from asyncdistil.graph.plan import EdgePlan, RouterPlan, RunPlan, StepPlan
from asyncdistil.log.events import Intent, Outcome
from asyncdistil.supervisor.commands import WorkerId
from asyncdistil.supervisor.operator import StepOperator
from asyncdistil.testing.simulation import Behaviour, Memory, Segments, Simulation

# A failing schedule does not get simpler by shrinking, only slower to find: the seed repeats it.
PHASES = (Phase.explicit, Phase.reuse, Phase.generate)


def lineage(name: str) -> Digest:
    return content_digest(name.encode())


def step(name: str, kind: str, *above: str, **options: Any) -> StepPlan:
    edges = tuple(EdgePlan(StepName(up)) for up in above)
    edges = options.pop("edges", edges)
    return StepPlan(
        name=StepName(name),
        kind=kind,  # type: ignore[arg-type]
        edges=edges,
        lineage=lineage(name + options.pop("version", "")),
        definition=b"",
        reuse="any",
        payload=b"",
        **options,
    )


def source(name: str = "load") -> StepPlan:
    return step(name, "generator", data_identity=lineage("data of " + name), resumable=True)


def plan(
    *steps: StepPlan, leaves: tuple[str, ...], routers: tuple[RouterPlan, ...] = ()
) -> RunPlan:
    return RunPlan(
        pipeline="p",
        signature="",
        aggregated_signature="",
        options=b"",
        steps=steps,
        routers=routers,
        leaves=tuple(StepName(leaf) for leaf in leaves),
        leaf_policies=("null",) * len(leaves),
    )


def batches(rows: int, size: int) -> list[list[int]]:
    return [list(range(at, min(at + size, rows))) for at in range(0, rows, size)]


CHAIN = plan(
    source(),
    step("double", "row", "load", input_batch_size=7, replicas=2),
    step("keep_even", "row", "double", input_batch_size=100),
    step("tail", "batch", "keep_even", input_batch_size=9, replicas=2),
    leaves=("tail",),
)


def chain_behaviours(rows: int = 200, size: int = 20) -> dict[str, Behaviour]:
    return {
        "load": Behaviour(rows=batches(rows, size)),
        "double": Behaviour(each=lambda v: v * 2),
        "keep_even": Behaviour(each=lambda v: v if v % 4 == 0 else None),
        "tail": Behaviour(batch=lambda rows: rows),
    }


@pytest.mark.parametrize("seed", range(20))
def test_a_chain_keeps_every_row_in_source_order(seed: int) -> None:
    run = Simulation(CHAIN, chain_behaviours(), seed=seed)
    assert run.run()
    assert run.results["tail"] == [v * 2 for v in range(200) if v % 2 == 0]


@pytest.mark.parametrize("seed", range(20))
def test_dying_workers_lose_and_duplicate_nothing(seed: int) -> None:
    run = Simulation(CHAIN, chain_behaviours(), seed=seed, kill_rate=0.002)
    assert run.run()
    assert run.results["tail"] == [v * 2 for v in range(200) if v % 2 == 0]


@pytest.mark.parametrize("seed", range(20))
def test_an_abandoned_run_goes_on_without_repeating_committed_work(seed: int) -> None:
    memory, segments = Memory(), Segments()
    total: dict[str, int] = {}
    done = False
    for attempt in range(50):
        run = Simulation(
            CHAIN,
            chain_behaviours(),
            seed=seed * 100 + attempt,
            memory=memory,
            segments=segments,
            stop_after=60,
        )
        done = run.run()
        for name, rows in run.calls.items():
            total[name] = total.get(name, 0) + rows
        if done:
            break
    assert done
    assert run.results["tail"] == [v * 2 for v in range(200) if v % 2 == 0]


def test_an_unchanged_run_calls_no_step() -> None:
    memory, segments = Memory(), Segments()
    Simulation(CHAIN, chain_behaviours(), memory=memory, segments=segments).run()
    again = Simulation(CHAIN, chain_behaviours(), memory=memory, segments=segments, run="two")
    assert again.run()
    assert again.calls == {}
    assert again.results["tail"] == [v * 2 for v in range(200) if v % 2 == 0]


def test_another_batch_size_of_a_row_wise_step_calls_nothing() -> None:
    memory, segments = Memory(), Segments()
    Simulation(CHAIN, chain_behaviours(), memory=memory, segments=segments).run()
    other = plan(
        source(),
        step("double", "row", "load", input_batch_size=33),
        step("keep_even", "row", "double", input_batch_size=3),
        step("tail", "batch", "keep_even", input_batch_size=9),
        leaves=("tail",),
    )
    again = Simulation(other, chain_behaviours(), memory=memory, segments=segments, run="two")
    assert again.run()
    assert again.calls == {}


def test_a_row_added_at_the_front_costs_one_row_of_a_row_wise_step() -> None:
    memory, segments = Memory(), Segments()
    Simulation(CHAIN, chain_behaviours(), memory=memory, segments=segments).run()
    changed = plan(
        step("load", "generator", data_identity=lineage("other"), resumable=True),
        *CHAIN.steps[1:],
        leaves=("tail",),
    )
    behaviours = chain_behaviours()
    behaviours["load"] = Behaviour(rows=[[-2], *batches(200, 20)])
    again = Simulation(changed, behaviours, memory=memory, segments=segments, run="two")
    assert again.run()
    assert again.calls["load"] == 201
    assert again.calls["double"] == 1
    assert again.calls["keep_even"] == 1
    assert again.results["tail"] == [-4, *(v * 2 for v in range(200) if v % 2 == 0)]


def test_a_changed_step_runs_and_an_equal_result_costs_nothing_below() -> None:
    memory, segments = Memory(), Segments()
    Simulation(CHAIN, chain_behaviours(), memory=memory, segments=segments).run()
    changed = plan(
        CHAIN.steps[0],
        step("double", "row", "load", input_batch_size=7, version="2"),
        *CHAIN.steps[2:],
        leaves=("tail",),
    )
    again = Simulation(changed, chain_behaviours(), memory=memory, segments=segments, run="two")
    assert again.run()
    assert again.calls == {"double": 200}


DIAMOND = plan(
    source(),
    step("left", "row", "load", input_batch_size=3),
    step("right", "row", "load", input_batch_size=11, replicas=3),
    step("join", "row", "left", "right", input_batch_size=5),
    leaves=("join",),
)


@pytest.mark.parametrize("seed", range(20))
def test_a_join_pairs_the_rows_of_one_source_row(seed: int) -> None:
    run = Simulation(
        DIAMOND,
        {
            "load": Behaviour(rows=batches(100, 8)),
            "left": Behaviour(each=lambda v: v + 1),
            "right": Behaviour(each=lambda v: -v),
            "join": Behaviour(each=lambda a, b: a + b),
        },
        seed=seed,
        kill_rate=0.001,
    )
    assert run.run()
    assert run.results["join"] == [1] * 100


def test_a_join_over_a_filtered_branch_names_the_missing_rows() -> None:
    run = Simulation(
        DIAMOND,
        {
            "load": Behaviour(rows=batches(100, 8)),
            "left": Behaviour(each=lambda v: v if v != 41 else None),
            "right": Behaviour(each=lambda v: v),
            "join": Behaviour(each=lambda a, b: a + b),
        },
    )
    with pytest.raises(StepError, match=r"row 41 is missing from 'left'"):
        run.run()


def test_an_inner_join_keeps_the_common_rows() -> None:
    inner = plan(
        *DIAMOND.steps[:3],
        step("join", "row", "left", "right", inner_join=True),
        leaves=("join",),
    )
    run = Simulation(
        inner,
        {
            "load": Behaviour(rows=batches(100, 8)),
            "left": Behaviour(each=lambda v: v if v % 3 else None),
            "right": Behaviour(each=lambda v: v if v % 5 else None),
            "join": Behaviour(each=lambda a, b: a),
        },
    )
    assert run.run()
    assert run.results["join"] == [v for v in range(100) if v % 3 and v % 5]


def test_two_sources_join_only_by_position() -> None:
    steps = (source("a"), source("b"))
    with pytest.raises(GraphError, match="align='position'"):
        Simulation(plan(*steps, step("join", "row", "a", "b"), leaves=("join",)), {})
    aligned = plan(*steps, step("join", "row", "a", "b", by_position=True), leaves=("join",))
    run = Simulation(
        aligned,
        {
            "a": Behaviour(rows=batches(30, 7)),
            "b": Behaviour(rows=batches(30, 4)),
            "join": Behaviour(each=lambda a, b: (a == b) * 1),
        },
    )
    assert run.run()
    assert run.results["join"] == [1] * 30


@pytest.mark.parametrize("seed", range(10))
def test_a_barrier_under_a_join_does_not_block(seed: int) -> None:
    barrier = plan(
        source(),
        step("all", "global", "load"),
        step("join", "row", "load", "all", by_position=True),
        leaves=("join",),
    )
    run = Simulation(
        barrier,
        {
            "load": Behaviour(rows=batches(300, 2)),
            "all": Behaviour(batch=lambda rows: [v - rows[-1] for v in rows]),
            "join": Behaviour(each=lambda a, b: a - b),
        },
        seed=seed,
    )
    assert run.run()
    assert run.results["join"] == [299] * 300


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("kind", ["row", "batch"])
def test_the_row_that_kills_its_worker_is_found_and_left_out(seed: int, kind: str) -> None:
    deadly = plan(source(), step("deadly", kind, "load", input_batch_size=16), leaves=("deadly",))
    run = Simulation(
        deadly,
        {
            "load": Behaviour(rows=batches(64, 8)),
            "deadly": Behaviour(
                each=lambda v: v,
                batch=lambda rows: [v for v in rows if v != 21],
                kills=frozenset({21}),
            ),
        },
        seed=seed,
    )
    assert run.run()
    assert run.results["deadly"] == [v for v in range(64) if v != 21]


def test_a_global_step_that_kills_its_worker_stops_the_run() -> None:
    deadly = plan(source(), step("all", "global", "load"), leaves=("all",))
    run = Simulation(
        deadly,
        {"load": Behaviour(rows=batches(8, 8)), "all": Behaviour(kills=frozenset({3}))},
    )
    with pytest.raises(WorkerDied, match="'all'"):
        run.run()


def routed_plan(size: int = 6) -> RunPlan:
    router = RouterPlan(
        source=StepName("load"),
        batch_size=size,
        successors=(StepName("a"), StepName("b"), StepName("c")),
        lineage=lineage("router"),
        definition=b"",
        payload=b"",
        reuse="any",
    )
    return plan(
        source(),
        *(
            step(name, "row", edges=(EdgePlan(StepName("load"), routed=True),), input_batch_size=4)
            for name in "abc"
        ),
        step("join", "row", "a", "b", "c", converges=StepName("load"), input_batch_size=5),
        leaves=("join",),
        routers=(router,),
    )


def routed_behaviours() -> dict[str, Behaviour]:
    def route(values: list[int]) -> tuple[StepName, ...]:
        chosen = [("a", "b"), ("b", "c"), ("c",)][values[0] % 3]
        return tuple(StepName(name) for name in chosen)

    return {
        "load": Behaviour(rows=batches(100, 8)),
        "load/router": Behaviour(route=route),
        **{name: Behaviour(each=lambda v, n=name: f"{n}{v}") for name in "abc"},
        "join": Behaviour(each=lambda *values: "+".join(values)),
    }


def routed_rows(size: int = 6) -> list[str]:
    rows = []
    for at in range(0, 100, size):
        chosen = ["ab", "bc", "c"][at % 3]
        rows += ["+".join(f"{n}{v}" for n in chosen) for v in range(at, min(at + size, 100))]
    return rows


@pytest.mark.parametrize("seed", range(20))
def test_a_router_sends_batches_and_its_branches_converge_in_order(seed: int) -> None:
    run = Simulation(routed_plan(7), routed_behaviours(), seed=seed, kill_rate=0.001)
    assert run.run()
    assert run.results["join"] == routed_rows(7)


def test_stored_routes_stay_in_force() -> None:
    memory, segments = Memory(), Segments()
    first = Simulation(routed_plan(), routed_behaviours(), memory=memory, segments=segments)
    first.run()
    again = Simulation(
        routed_plan(), routed_behaviours(), memory=memory, segments=segments, run="two"
    )
    assert again.run()
    assert again.calls == {}
    assert again.results == first.results


def test_rows_that_arrive_late_are_not_joined_across_rows_that_went_ahead() -> None:
    late = plan(
        source(),
        step("first", "batch", "load", input_batch_size=9, replicas=2),
        step("then", "row", "first", input_batch_size=2, replicas=2),
        leaves=("then",),
    )
    for seed in range(300):
        run = Simulation(
            late,
            {
                "load": Behaviour(rows=batches(30, 4)),
                "first": Behaviour(batch=list),
                "then": Behaviour(each=lambda v: v),
            },
            seed=seed,
        )
        assert run.run()
        assert run.results["then"] == list(range(30)), seed


def test_a_step_that_expands_rows_keeps_their_order() -> None:
    expand = plan(
        source(),
        step("expand", "row", "load", input_batch_size=3),
        step("next", "row", "expand", input_batch_size=2, replicas=2),
        leaves=("next",),
    )
    run = Simulation(
        expand,
        {
            "load": Behaviour(rows=batches(20, 5)),
            "expand": Behaviour(each=lambda v: [v] * (v % 4)),
            "next": Behaviour(each=lambda v: v),
        },
        seed=3,
    )
    assert run.run()
    assert run.results["next"] == [v for v in range(20) for _ in range(v % 4)]


@pytest.mark.parametrize("rows", [0, 1])
def test_tiny_and_empty_inputs_end(rows: int) -> None:
    steps = plan(
        source(),
        step("none", "row", "load"),
        step("all", "global", "none"),
        step("tail", "batch", "all"),
        leaves=("tail",),
    )
    run = Simulation(
        steps,
        {
            "load": Behaviour(rows=batches(rows, 5)),
            "none": Behaviour(each=lambda v: None),
            "all": Behaviour(batch=lambda rows: rows),
            "tail": Behaviour(batch=lambda rows: rows),
        },
    )
    assert run.run()
    assert run.results["tail"] == []


@st.composite
def random_dags(draw: st.DrawFn) -> tuple[RunPlan, dict[str, Behaviour]]:
    rows = draw(st.integers(0, 60))
    size = draw(st.integers(1, 20))
    steps = [source()]
    behaviours = {"load": Behaviour(rows=batches(rows, size))}
    read: set[str] = set()
    # Spaces tell which steps may be joined by id: kept in step with what the kinds do.
    filtered: dict[str, tuple[str, ...]] = {"load": ("load",)}
    for number in range(draw(st.integers(1, 6))):
        name = f"s{number}"
        kind = draw(st.sampled_from(["row", "batch", "drop", "expand", "global", "join"]))
        above = draw(st.sampled_from(sorted(filtered)))
        options = {
            "input_batch_size": draw(st.integers(1, 12)),
            "replicas": draw(st.integers(1, 3)),
        }
        if kind == "join":
            mates = [other for other in filtered if filtered[other] == filtered[above]]
            other = draw(st.sampled_from(mates))
            if other == above:
                kind = "row"
            else:
                steps.append(step(name, "row", above, other, **options))
                behaviours[name] = Behaviour(each=lambda a, b: a)
                read |= {above, other}
                filtered[name] = filtered[above]
                continue
        read.add(above)
        filtered[name] = filtered[above]
        match kind:
            case "row":
                behaviours[name] = Behaviour(each=lambda v: v)
            case "batch":
                behaviours[name] = Behaviour(batch=list)
            case "drop":
                behaviours[name] = Behaviour(each=lambda v: v if v % 3 else None)
                filtered[name] = (*filtered[above], name)
                kind = "row"
            case "expand":
                behaviours[name] = Behaviour(each=lambda v: [v] * (v % 3))
                filtered[name] = (*filtered[above], name)
                kind = "row"
            case "global":
                behaviours[name] = Behaviour(batch=lambda rows: rows[::2])
                filtered[name] = (name,)
        steps.append(step(name, kind, above, **options))
    leaves = tuple(s.name for s in steps if s.name not in read)
    return plan(*steps, leaves=leaves), behaviours


def expected(run_plan: RunPlan, behaviours: dict[str, Behaviour]) -> dict[str, list[Any]]:
    """The same DAG, run one step after another without any of the machinery."""
    out: dict[str, list[Any]] = {}
    for node in run_plan.steps:
        behaviour = behaviours[node.name]
        ports = [out[edge.upstream] for edge in node.edges]
        if node.kind == "generator":
            out[node.name] = [v for batch in behaviour.rows for v in batch]
        elif node.kind == "row":
            assert behaviour.each is not None
            entries = [behaviour.each(*values) for values in zip(*ports, strict=True)]
            out[node.name] = [
                v
                for entry in entries
                if entry is not None
                for v in (entry if isinstance(entry, list) else [entry])
            ]
        elif node.kind == "batch":
            out[node.name] = list(ports[0])
        else:
            assert behaviour.batch is not None
            out[node.name] = behaviour.batch(ports[0])
    return {leaf: out[leaf] for leaf in run_plan.leaves}


@settings(max_examples=300, deadline=None, phases=PHASES)
@given(random_dags(), st.integers(0, 2**32), st.booleans())
def test_any_dag_ends_with_the_rows_of_a_plain_loop(
    dag: tuple[RunPlan, dict[str, Behaviour]], seed: int, deaths: bool
) -> None:
    run_plan, behaviours = dag
    run = Simulation(run_plan, behaviours, seed=seed, kill_rate=0.0005 if deaths else 0.0)
    assert run.run()
    assert run.results == expected(run_plan, behaviours)


@settings(max_examples=150, deadline=None, phases=PHASES)
@given(random_dags(), st.integers(0, 2**32))
def test_any_dag_that_is_cut_short_is_taken_up_and_ends_the_same(
    dag: tuple[RunPlan, dict[str, Behaviour]], seed: int
) -> None:
    run_plan, behaviours = dag
    source_of_chance = random.Random(seed)
    memory, segments = Memory(), Segments()
    for attempt in range(4):
        Simulation(
            run_plan,
            behaviours,
            seed=seed + attempt,
            memory=memory,
            segments=segments,
            stop_after=source_of_chance.randint(1, 60),
        ).run()
    last = Simulation(run_plan, behaviours, seed=seed, memory=memory, segments=segments)
    assert last.run()
    assert last.results == expected(run_plan, behaviours)
    again = Simulation(run_plan, behaviours, memory=memory, segments=segments, run="again")
    assert again.run()
    assert again.calls == {}
    assert again.results == last.results


def test_an_outside_act_is_announced_durably_before_and_recorded_after() -> None:
    push = step("push", "row", "load", effects=True, input_batch_size=10)
    acting = plan(source(), push, leaves=("push",))
    run = Simulation(
        acting,
        {"load": Behaviour(rows=batches(30, 10)), "push": Behaviour(each=lambda v: v)},
        kill_rate=0.01,
        seed=5,
    )
    assert run.run()
    assert run.results["push"] == list(range(30))
    events = run.memory.events
    intents = {e.key: at for at, e in enumerate(events) if isinstance(e, Intent)}
    outcomes = {e.key: at for at, e in enumerate(events) if isinstance(e, Outcome)}
    assert len(intents) == 3
    assert set(outcomes) == set(intents)
    assert all(intents[key] < outcomes[key] for key in intents)


def test_a_generator_waits_for_a_slow_step_however_hungry_the_steps_below_it() -> None:
    slow = plan(
        source(),
        step("slow", "row", "load", input_batch_size=1),
        step("fast", "row", "slow"),
        leaves=("fast",),
    )
    run = Simulation(
        slow,
        {
            "load": Behaviour(rows=batches(2_000, 1)),
            "slow": Behaviour(each=lambda v: v),
            "fast": Behaviour(each=lambda v: v),
        },
        backlog_chunks=200,
    )
    most = 0
    work = run._work

    def generous(number: WorkerId) -> None:
        """Let the generator do a hundred yields where the slow step does one batch."""
        nonlocal most
        worker = run._workers[number]
        for _ in range(100 if worker.generating and not worker.inbox else 1):
            if worker.inbox or (worker.generating and worker.credits > 0):
                work(number)
        operator = run.machine.operators[1]
        assert isinstance(operator, StepOperator)
        most = max(most, len(operator.backlog))

    run._work = generous  # type: ignore[method-assign]
    assert run.run()
    assert run.results["fast"] == list(range(2_000))
    assert 200 <= most < 400
