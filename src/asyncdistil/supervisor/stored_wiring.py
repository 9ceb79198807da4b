"""The wiring of a stored run, read from the definitions of its steps."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

from asyncdistil.batch import Digest, Lsn, RowSlice, RunId, StepName, Usage
from asyncdistil.graph.plan import EdgePlan, OnError, RouterPlan, RunPlan, StepPlan
from asyncdistil.log import StoreReader
from asyncdistil.log.events import Commit, RunBegin
from asyncdistil.signature import read_definition
from asyncdistil.supervisor.chunk import Chunk, cut_slices
from asyncdistil.supervisor.layers import chain_of, layers_of
from asyncdistil.supervisor.operator import NO_DIGEST


@dataclass(slots=True)
class StoredStep:
    """One step of a stored run.

    Attributes:
        name: Of the step.
        lineage: Which version of it.
        key: Components of its key by name.
        upstreams: Steps behind its ports.
        rows: Rows that came out.
        inputs_computed: Input rows that were computed in this run.
        inputs_replayed: Input rows that work of earlier runs stood for.
        rows_computed: Rows that came out of this run's own work.
        failed: Failed input rows among those that the run used.
        filtered: Input rows that were dropped on purpose, in this run's own work.
        seconds: In the step's code, in this run.
        usage: Model calls of this run.
        commits: Those of the lineage, ascending by LSN.
        chunks: What came out, in source order.
    """

    name: StepName
    lineage: Digest
    key: dict[str, Any]
    upstreams: tuple[StepName, ...]
    rows: int = 0
    inputs_computed: int = 0
    inputs_replayed: int = 0
    rows_computed: int = 0
    failed: int = 0
    filtered: int = 0
    seconds: float = 0.0
    usage: Usage = field(default_factory=Usage)
    commits: Sequence[tuple[Lsn, Commit]] = field(default=(), repr=False)
    chunks: list[Chunk] = field(default_factory=list, repr=False)

    @property
    def kind(self) -> str:
        """``generator``, ``row``, ``batch`` or ``global``."""
        return str(self.key.get("kind", "batch"))


class Wiring:
    """Steps and routers of a stored run.

    Args:
        store: Where it is stored.
        begin: The run.
        runs: All that began up to it, oldest first; work of any of them may stand for its own.

    Attributes:
        steps: By name, in topological order.
    """

    def __init__(self, store: StoreReader, begin: RunBegin, runs: Sequence[RunBegin]) -> None:
        self.steps: dict[StepName, StoredStep] = {}
        self._store = store
        self._begin = begin
        self._chain = chain_of(begin, runs)
        self._layers = layers_of(self._chain, runs, live=False) if begin.retry else {}
        self._routers: list[RouterPlan] = []
        self._ordered = self._lineages({each.run for each in runs})

    def _lineages(self, upto: Collection[RunId]) -> dict[Digest, dict[str, Any]]:
        """Definitions of the lineages of this run, those above before those below."""
        store = self._store
        defined = {
            lineage: read_definition(found.definition)[0]
            for lineage, found in store.step_defs().items()
        }
        # Older logs do not say which steps a run has; those that did something can be told.
        worked = self._begin.lineages or [known for known in defined if self._worked(known)]
        ordered: dict[Digest, dict[str, Any]] = {}

        def visit(lineage: Digest) -> None:
            key = defined.get(lineage)
            if key is None or lineage in ordered:
                return
            for parent in key.get("parents", ()):
                visit(Digest(bytes(parent)))
            ordered[lineage] = key

        for lineage in worked:
            visit(lineage)
        for lineage, key in ordered.items():
            if _is_router(key):
                self._routers.append(_router_plan(lineage, key))
                continue
            upstreams = tuple(StepName(edge["upstream"]) for edge in key["edges"])
            step = StoredStep(StepName(key["name"]), lineage, key["step"], upstreams)
            # A retry that changed a parameter stored its rows under a lineage of their own.
            layers = self._layers.get(step.name, ())
            lineages = {lineage, *(layer.lineage for layer in layers)}
            step.commits = sorted(
                (
                    (lsn, c)
                    for known in lineages
                    for lsn, c in store.commits(known)
                    if c.run in upto
                ),
                key=lambda entry: entry[0],
            )
            self.steps[step.name] = step
        return ordered

    def _worked(self, lineage: Digest) -> bool:
        done = self._store.step_done(lineage, NO_DIGEST)
        if done is not None and done[1] == self._begin.run:
            return True
        return any(commit.run == self._begin.run for _, commit in self._store.commits(lineage))

    def plan(self, *, retried: bool) -> RunPlan:
        """What the machine needs to put the rows in order.

        Args:
            retried: Whether the run tried rows again that had failed before it.
        """
        steps = [
            self._step_plan(self.steps[StepName(key["name"])], key)
            for key in self._ordered.values()
            if not _is_router(key)
        ]
        known = {step.name for step in steps}
        return RunPlan(
            pipeline="",
            signature=self._begin.signature,
            aggregated_signature=self._begin.aggregated_signature,
            options=b"",
            steps=tuple(steps),
            routers=tuple(r for r in self._routers if r.source in known),
            leaves=(),
            leaf_policies=(),
            retry_failed=retried,
            failures_stand=True,
        )

    def _step_plan(self, step: StoredStep, key: dict[str, Any]) -> StepPlan:
        identity = None
        if step.kind == "generator":
            # A retry never runs a generator: its rows are those of the run that is mended.
            run = self._chain[0].run
            own = [c for _, c in step.commits if c.run == run] or [c for _, c in step.commits]
            identity = own[-1].input_digests[0] if own else None
            # A run may be served rows that are older than the newest ones.
            data = dict(zip(self._generators(), self._chain[0].data, strict=False))
            identity = data.get(step.name, identity)
            if identity == NO_DIGEST:
                # What such a generator yielded in other runs is another matter.
                wrote = run if data or not own else own[-1].run
                step.commits = [(lsn, c) for lsn, c in step.commits if c.run == wrote]
        fields = key["step"]
        converging = any(edge.get("converges") for edge in key["edges"])
        return StepPlan(
            name=step.name,
            kind=fields["kind"],
            edges=tuple(
                EdgePlan(
                    StepName(edge["upstream"]),
                    self._policy(StepName(edge["upstream"]), step),
                    bool(edge.get("routed")),
                )
                for edge in key["edges"]
            ),
            lineage=step.lineage,
            definition=b"",
            reuse="any",
            payload=b"",
            input_batch_size=int(fields.get("field.input_batch_size", 50)),
            data_identity=identity,
            inner_join=fields.get("field.join") == "inner",
            by_position=fields.get("field.align") == "position",
            converges=self._converged(step) if converging else None,
            layers=self._layers.get(step.name, ()),
        )

    def _generators(self) -> list[StepName]:
        return [step.name for step in self.steps.values() if step.kind == "generator"]

    def _converged(self, step: StoredStep) -> StepName | None:
        for router in self._routers:
            if set(step.upstreams) <= set(router.successors):
                return router.source
        return None

    def _policy(self, upstream: StepName, step: StoredStep) -> OnError:
        """Whether failed rows reached a step; how it was told to read them is stored nowhere."""
        above = self.steps.get(upstream)
        if above is None:
            return "null"
        failed = {
            (part.ref.segment, part.ref.offset, part.start)
            for _, commit in above.commits
            for bad in commit.failures
            if bad.output_row >= 0
            for part in cut_slices(
                tuple(RowSlice(ref, 0, ref.rows) for ref in commit.outputs),
                bad.output_row,
                bad.output_row + 1,
            )
        }
        if not failed:
            return "null"
        for _, commit in step.commits:
            for port in commit.inputs:
                for part in port:
                    place = part.ref.segment, part.ref.offset
                    if any((*place, at) in failed for at in range(part.start, part.stop)):
                        return "null"
        return "skip"


def _is_router(key: dict[str, Any]) -> bool:
    return any("successors" in edge for edge in key.get("edges", ()))


def _router_plan(lineage: Digest, key: dict[str, Any]) -> RouterPlan:
    edge = key["edges"][0]
    return RouterPlan(
        source=StepName(edge["upstream"]),
        batch_size=int(edge["batch_size"]),
        successors=tuple(StepName(name) for name in edge["successors"]),
        lineage=lineage,
        definition=b"",
        payload=b"",
        reuse="any",
    )
