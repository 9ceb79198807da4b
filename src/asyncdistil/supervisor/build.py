"""From a plan to the operators that run it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Protocol

from asyncdistil.batch import Digest, Lsn, RunId, StepName
from asyncdistil.errors import GraphError
from asyncdistil.graph.plan import Layer, RouterPlan, StepPlan
from asyncdistil.log.events import Commit, StepDef
from asyncdistil.supervisor.effects import EffectOperator
from asyncdistil.supervisor.front import Aligned, Barrier, Converging, Direct, Front, Ordered
from asyncdistil.supervisor.layers import Chosen, layered
from asyncdistil.supervisor.leaf import LeafOperator
from asyncdistil.supervisor.operator import Memory, Operator, StepOperator
from asyncdistil.supervisor.progress import StepProgress
from asyncdistil.supervisor.reuse import (
    BatchMemory,
    DigestReader,
    RowMemory,
    generator_chain,
    taken,
)
from asyncdistil.supervisor.router import RouterOperator
from asyncdistil.supervisor.source import SourceOperator
from asyncdistil.supervisor.state import RunState


class Stored(Protocol):
    """What the log remembers, as far as the machine asks."""

    def commits(self, lineage: Digest) -> Sequence[tuple[Lsn, Commit]]:
        """Commits of a lineage, ascending by LSN."""
        ...

    def routes(self, lineage: Digest) -> dict[Digest, tuple[StepName, ...]]:
        """Routing decisions of a lineage by batch content."""
        ...

    def step_def(self, lineage: Digest) -> bytes | None:
        """Stored preimage of a lineage."""
        ...

    def step_done(self, lineage: Digest, data_identity: Digest) -> tuple[Lsn, RunId] | None:
        """Newest record that a step completed."""
        ...


class Builder:
    """Makes operators in topological order and wires them.

    Args:
        state: Of the run.
        stored: What the log remembers.
        reader: Content digests of stored rows.
        discard: Generators whose stored rows must not be used.

    Attributes:
        order: Every operator, in topological order.
        named: The same by name.
        leaves: The exports among them.
    """

    def __init__(
        self, state: RunState, stored: Stored, reader: DigestReader, discard: frozenset[StepName]
    ) -> None:
        self.order: list[Operator] = []
        self.named: dict[StepName, Operator] = {}
        self.leaves: list[LeafOperator] = []
        self._state = state
        self._stored = stored
        self._reader = reader
        self._discard = discard
        self._routers: dict[StepName, RouterOperator] = {}

    def build(self, key: Digest, *, publish: bool) -> None:
        """Make everything the plan names.

        Raises:
            GraphError: Joined ports have no common row identity.
        """
        plan = self._state.plan
        routers = {router.source: router for router in plan.routers}
        for step in plan.steps:
            self._define(step.computes, step.name, step.definition)
            operator = self._operator(step)
            self._add(operator)
            if step.name in routers:
                self._add_router(routers[step.name], step, operator)
        for leaf, policy in zip(plan.leaves, plan.leaf_policies, strict=True):
            config = "default" if len(plan.leaves) == 1 else leaf
            export = LeafOperator(leaf, config, key, self._state, publish=publish)
            self.named[leaf].outlet.connect(export, 0, policy)
            self.leaves.append(export)
            self._add(export)

    def _define(self, lineage: Digest, name: StepName, definition: bytes) -> None:
        if self._stored.step_def(lineage) is None:
            self._state.append(StepDef(lineage, name, definition))

    def _add(self, operator: Operator) -> None:
        self._state.progress[operator.name] = StepProgress()
        self.named[operator.name] = operator
        self.order.append(operator)

    def _add_router(self, router: RouterPlan, step: StepPlan, operator: Operator) -> None:
        self._define(router.lineage, step.name, router.definition)
        # Decisions of an earlier run are kept with its rows, or given up with them.
        routes = self._stored.routes(router.lineage) if router.reuse == "any" else {}
        node = RouterOperator(router, step, self._state, routes, self._reader, operator)
        operator.outlet.connect(node, 0, "null")
        self._routers[step.name] = node
        self._add(node)

    def _operator(self, step: StepPlan) -> Operator:
        commits = self._commits(step)
        if step.kind == "generator":
            return self._source(step, commits)
        upstreams = tuple(self.named[edge.upstream] for edge in step.edges)
        front = self._front(step, upstreams)
        if step.layers:
            memory: Memory | None = layered(step.layers, lambda layer: self._layer(step, layer))
        else:
            memory = self._memory(step, commits)
        if step.effects:
            operator: StepOperator = EffectOperator(
                step, self._state, front, memory, upstreams, self._reader
            )
        else:
            operator = StepOperator(step, self._state, front, memory, upstreams)
        for port, edge in enumerate(step.edges):
            if edge.routed:
                router = self._routers[edge.upstream]
                router.branches.connect_branch(step.name, operator, port, edge.on_error)
            else:
                self.named[edge.upstream].outlet.connect(operator, port, edge.on_error)
        if isinstance(front, Converging) and step.converges is not None:
            self._routers[step.converges].converge(operator, front)
        return operator

    def _commits(self, step: StepPlan) -> Sequence[tuple[Lsn, Commit]]:
        if step.layers:
            (first, *_) = step.layers
            return self._of_runs(first) if step.kind == "generator" else ()
        if step.reuse == "never":
            return ()
        commits = self._stored.commits(step.lineage)
        if step.reuse == "own_run":
            commits = [(lsn, commit) for lsn, commit in commits if commit.run == self._state.run]
        if step.concurrency:
            judged = self._judged
            for _, commit in commits:
                retried = self._state.plan.retry_failed and commit.run != judged
                self._state.claims.take(taken(commit) if retried else commit.samples)
        return commits

    def _of_runs(self, layer: Layer) -> Sequence[tuple[Lsn, Commit]]:
        commits = self._stored.commits(layer.lineage)
        return [(lsn, commit) for lsn, commit in commits if commit.run in layer.runs]

    def _layer(self, step: StepPlan, layer: Layer) -> Memory | None:
        commits = self._of_runs(layer)
        if step.concurrency:
            chosen = Chosen([each for one in step.layers for each in one.rows])
            for lsn, commit in commits:
                # A step that takes nothing from other runs would store its own in their place.
                again = partial(chosen.holds, lsn)
                free = step.reuse == "any"
                self._state.claims.take(taken(commit, again) if free else commit.samples)
        return self._memory_of(
            step, commits, retry=layer.retry_failed, judged=RunId(layer.judged) or None
        )

    def _source(self, step: StepPlan, commits: Sequence[tuple[Lsn, Commit]]) -> SourceOperator:
        if step.data_identity is None or step.name in self._discard:
            return SourceOperator(step, self._state, (), complete=False)
        chain = generator_chain(commits, step.data_identity)
        done = self._stored.step_done(step.lineage, step.data_identity)
        complete = done is not None and (step.reuse == "any" or done[1] == self._state.run)
        return SourceOperator(step, self._state, chain, complete=complete)

    def _memory(self, step: StepPlan, commits: Sequence[tuple[Lsn, Commit]]) -> Memory | None:
        retry = self._state.plan.retry_failed
        return self._memory_of(step, commits, retry=retry, judged=self._judged)

    @property
    def _judged(self) -> RunId | None:
        """The run itself, where failures of its own are not tried again."""
        return self._state.run if self._state.plan.failures_stand else None

    def _memory_of(
        self,
        step: StepPlan,
        commits: Sequence[tuple[Lsn, Commit]],
        *,
        retry: bool,
        judged: RunId | None,
    ) -> Memory | None:
        if not commits:
            return None
        if step.kind == "row":
            share = step.concurrency == 0
            return RowMemory(commits, self._reader, share=share, retry_failed=retry, judged=judged)
        return BatchMemory(commits, self._reader, retry_failed=retry, judged=judged)

    def _front(self, step: StepPlan, upstreams: tuple[Operator, ...]) -> Front:
        names = tuple(edge.upstream for edge in step.edges)
        if step.kind == "global":
            return Barrier(len(names))
        if step.converges is not None:
            return Converging(step.name, names, step.input_batch_size)
        if len(names) == 1:
            return Direct() if step.kind == "row" else Ordered(step.input_batch_size)

        def spaces() -> tuple[str, ...]:
            return tuple(upstream.space for upstream in upstreams)

        if len(set(spaces())) > 1 and not step.by_position:
            pairs = ", ".join(
                f"{name!r} (rows numbered by {space!r})"
                for name, space in zip(names, spaces(), strict=True)
            )
            raise GraphError(
                f"step {step.name!r} joins rows that have no common identity: {pairs}. Set "
                f"align='position' on {step.name!r} if row i of each belongs together."
            )
        return Aligned(
            step.name,
            names,
            step.input_batch_size,
            spaces,
            inner=step.inner_join,
            by_position=step.by_position,
        )
