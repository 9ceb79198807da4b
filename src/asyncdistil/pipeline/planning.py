"""From a declared pipeline to the plan of one run.

`build_plan` checks everything that can be checked, names every step by all that can change its
output, and decides what may be reused. It starts nothing and writes nothing. Pickling the steps
waits until `PreparedRun.plan` is asked for, because a complete hit needs no worker.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel as PydanticModel
from xxhash import xxh3_128_digest

from asyncdistil.batch import Digest, StepName
from asyncdistil.codec import canonical_bytes
from asyncdistil.graph import (
    EdgePlan,
    Graph,
    OnError,
    Reuse,
    RouterPlan,
    RunPlan,
    StepPlan,
    columns_out,
)
from asyncdistil.log.events import Retry
from asyncdistil.pipeline.copies import without_cache
from asyncdistil.pipeline.draft import Draft, draft
from asyncdistil.pipeline.options import Budget, RunOptions
from asyncdistil.pipeline.payload import packed
from asyncdistil.pipeline.pipeline import DRY_RUN_SUFFIX
from asyncdistil.pipeline.preload import preloaded
from asyncdistil.signature import (
    CodeFingerprint,
    Identity,
    aggregated_signature,
    lineage,
    pipeline_signature,
)
from asyncdistil.steps.base import BaseStep
from asyncdistil.steps.generator import GeneratorStep
from asyncdistil.steps.metadata import METADATA_COLUMN
from asyncdistil.steps.routing import RoutingBatchFunction
from asyncdistil.steps.step import Step

if TYPE_CHECKING:
    from asyncdistil.pipeline.pipeline import Pipeline

_DIGEST_BYTES = 16
_UNREPEATABLE = Digest(xxh3_128_digest(b"a step whose results cannot be told apart"))


@dataclass(frozen=True, slots=True)
class Named:
    """What names a step or router, and what of its code travels.

    Attributes:
        identity: Everything of its own that can change its output.
        code: Fingerprint of the user's code in it, or ``None``.
        lineage: Identity, wiring and lineages above.
        definition: Encoded preimage of ``lineage``.
        reuse: Which commits of this lineage the run may take.
    """

    identity: Identity
    code: CodeFingerprint | None
    lineage: Digest
    definition: bytes
    reuse: Reuse


@dataclass
class PreparedRun:
    """A run that may start.

    Attributes:
        name: Name that the run is logged under; a dry run's is not the pipeline's.
        cache_dir: Where results are kept.
        options: What the run was told.
        signature: As `RunPlan.signature`.
        aggregated_signature: As `RunPlan.aggregated_signature`.
        data_identities: What the data of each generator is; ``None`` if that can't be known.
        complete_key: Digest of signatures, lineages, data identities and reading policies: a
            stored dataset with this key is this run's dataset.
        hit_allowed: Whether a dataset stored under ``complete_key`` may be served.
        drop_columns: Columns that the dataset leaves out.
        warnings: Sentences for people, each with a cause and what to do.
        retry: What it asks anew of which run, if it is a retry.
        description: Makes the pipeline into plain data, for its file.
    """

    name: str
    cache_dir: Path
    options: RunOptions
    signature: str
    aggregated_signature: str
    data_identities: Mapping[StepName, Digest | None]
    complete_key: Digest
    hit_allowed: bool
    drop_columns: tuple[str, ...]
    warnings: tuple[str, ...]
    _draft: Draft = field(repr=False)
    _steps: Mapping[StepName, Named] = field(repr=False)
    _routers: Mapping[StepName, Named] = field(repr=False)
    retry: Retry | None = field(default=None, kw_only=True)
    description: Callable[[], Mapping[str, Any]] = field(default=dict, kw_only=True, repr=False)

    def columns_of(self, leaf: StepName) -> tuple[str, ...]:
        """Columns that the dataset of a leaf is known to have, before any row is there."""
        present = columns_out(self._draft.graph, self._draft.nodes)[leaf].present
        return tuple(name for name in present if name not in self.drop_columns)

    @cached_property
    def plan(self) -> RunPlan:
        """What the supervisor needs; pickles the steps when first asked for.

        Raises:
            StepError: A step or router cannot be pickled.
        """
        return self._plan(payloads=True)

    @cached_property
    def outline(self) -> RunPlan:
        """The plan without the pickled steps, for whoever starts no worker."""
        return self._plan(payloads=False)

    def _plan(self, *, payloads: bool) -> RunPlan:
        made = self._draft
        leaves = made.graph.leaves
        return RunPlan(
            pipeline=self.name,
            signature=self.signature,
            aggregated_signature=self.aggregated_signature,
            options=_options_bytes(self.options),
            steps=tuple(self._step_plan(name, payloads) for name in made.graph.order()),
            routers=tuple(self._router_plan(source, payloads) for source in made.routers),
            leaves=leaves,
            leaf_policies=tuple(made.steps[leaf].on_error for leaf in leaves),
            retry_failed=self.options.retry_failed,
            raise_on_failure=self.options.on_error == "raise",
            dry_rows=self.options.dry_rows,
            budget_microusd=_microusd(self.options.budget),
            budget_tokens=self.options.budget.tokens if self.options.budget else None,
        )

    def named(self, name: StepName) -> Named:
        """What names a step."""
        return self._steps[name]

    def ask_anew(self, name: StepName) -> None:
        """Have a step take nothing that other runs stored; for a plan that is not made yet."""
        self._draft.steps[name] = without_cache(self._draft.steps[name])

    @property
    def docstrings(self) -> Iterable[str | None]:
        """What the classes of the steps, and of the models in them, say of themselves."""
        for step in self._draft.steps.values():
            yield type(step).__doc__
            for name in type(step).model_fields:
                value = getattr(step, name)
                if isinstance(value, PydanticModel):
                    yield type(value).__doc__

    @property
    def preloaded(self) -> tuple[str, ...]:
        """Names of modules that the workers will import."""
        return preloaded(self._draft.steps.values())

    def step(self, name: StepName) -> BaseStep:
        """The copy of a step that belongs to this run."""
        return self._draft.steps[name]

    def may_be_broken_off(self, name: StepName) -> bool:
        """Whether a stop need not wait for the calls of a step."""
        step = self.step(name)
        return isinstance(step, Step) and step.may_be_broken_off

    @property
    def leaves(self) -> tuple[StepName, ...]:
        """Steps whose rows become the dataset, in the order of declaration."""
        return self._draft.graph.leaves

    def _step_plan(self, name: StepName, payloads: bool) -> StepPlan:
        made, step, named = self._draft, self._draft.steps[name], self._steps[name]
        node = made.nodes[name]
        limit = step.max_failures
        return StepPlan(
            name=name,
            kind=node.kind,
            edges=tuple(_edges(made, name)),
            lineage=named.lineage,
            definition=named.definition,
            reuse=named.reuse,
            payload=packed(step, _modules(named), owner=f"step {name!r}") if payloads else b"",
            code=named.code.digest if named.code is not None else None,
            input_batch_size=node.input_batch_size,
            replicas=replicas_of(step),
            concurrency=step.concurrency if isinstance(step, Step) else 0,
            data_identity=self.data_identities.get(name),
            resumable=isinstance(step, GeneratorStep) and step.resumable,
            effects=step.effects,
            inner_join=node.inner_join,
            by_position=isinstance(step, Step) and step.align == "position",
            converges=made.converging[name],
            outputs=node.writes,
            memory_bytes=step.resources.memory,
            max_failures=limit if limit is not None else self.options.max_failures,
            batch_deadline_seconds=step.batch_deadline_seconds,
            stage=made.stages[name],
        )

    def _router_plan(self, source: StepName, payloads: bool) -> RouterPlan:
        made, named = self._draft, self._routers[source]
        successors = made.graph.routed[source]
        return RouterPlan(
            source=source,
            batch_size=made.nodes[source].input_batch_size,
            successors=successors,
            lineage=named.lineage,
            definition=named.definition,
            payload=packed(
                (made.routers[source], successors),
                _modules(named),
                owner=f"the router after step {source!r}",
            )
            if payloads
            else b"",
            reuse=named.reuse,
        )


def build_plan(pipeline: Pipeline, options: RunOptions) -> PreparedRun:
    """Check a pipeline and prepare one run of it.

    Raises:
        UserError: The pipeline, its parameters or its data must change first. Nothing has been
            started or written.
    """
    made = draft(pipeline, options)
    warnings = _option_warnings(made, options)
    naming = _Naming(made, options, warnings)
    naming.name_all()
    steps, routers = naming.steps, naming.routers
    data = _data_identities(made, naming.restarting)
    signature = wiring_signature(made.graph, made.routers)
    aggregated = aggregated_signature([n.identity for n in (*steps.values(), *routers.values())])
    drop_columns = () if pipeline.enable_metadata else (METADATA_COLUMN,)
    dry = options.dry_rows > 0
    return PreparedRun(
        name=pipeline.name + DRY_RUN_SUFFIX if dry else pipeline.name,
        cache_dir=pipeline.cache_dir,
        options=options,
        signature=signature,
        aggregated_signature=aggregated,
        data_identities=data,
        complete_key=_complete_key(made, naming, (signature, aggregated), data, drop_columns),
        hit_allowed=options.use_cache
        and not dry
        and not naming.restarting
        and None not in data.values()
        and all(step.use_cache for step in made.steps.values()),
        drop_columns=drop_columns,
        warnings=tuple(dict.fromkeys(warnings)),
        _draft=made,
        _steps=steps,
        _routers=routers,
        description=pipeline.dump,
    )


def _microusd(budget: Budget | None) -> int | None:
    if budget is None or budget.dollars is None:
        return None
    return round(budget.dollars * 1_000_000)


def wiring_signature(graph: Graph, routers: Mapping[StepName, RoutingBatchFunction]) -> str:
    """Name step names and connections; parameters, code and data are not in it."""
    return pipeline_signature(graph.names, graph.edges, _router_wiring(graph, routers))


def content_signature(
    steps: Mapping[StepName, BaseStep], routers: Mapping[StepName, RoutingBatchFunction]
) -> str:
    """Name everything in steps and routers that can change an output."""
    return aggregated_signature(
        [*(step.identity() for step in steps.values()), *(r.identity() for r in routers.values())]
    )


def replicas_of(step: BaseStep) -> int:
    """Worker processes of a step: what makes or needs all rows has one."""
    return step.resources.replicas if step.kind() in ("row", "batch") else 1


class _Naming:
    """Names the steps of one run from the top down: each name holds those above it."""

    def __init__(self, made: Draft, options: RunOptions, warnings: list[str]) -> None:
        self._made = made
        self._warnings = warnings
        self._all_anew = not options.use_cache
        self._own_run = self._all_anew or options.dry_rows > 0
        self._tainted: set[StepName] = set()
        self.restarting: set[StepName] = set()
        self.steps: dict[StepName, Named] = {}
        self.routers: dict[StepName, Named] = {}

    def name_all(self) -> None:
        """Name every step and router, in topological order."""
        for name in self._made.graph.order():
            self._name_step(name)
            if name in self._made.routers:
                self._name_router(name)

    def _name_step(self, name: StepName) -> None:
        made = self._made
        step, above = made.steps[name], made.graph.predecessors(name)
        if not step.use_cache or not self._tainted.isdisjoint(above):
            self._tainted.add(name)
        identity = step.identity()
        parents = [self.steps[port].lineage for port in above]
        if identity.uncacheable:
            self.restarting.add(name)
            parents.append(self._unrepeatable(f"step {name!r}", identity.uncacheable))
        edges = [
            {
                "upstream": port,
                "routed": made.graph.is_routed(port, name),
                "converges": made.converging[name] is not None,
            }
            for port in above
        ]
        digest, definition = lineage(identity, name=name, edges=edges, parents=parents)
        if self._all_anew or name in self._tainted:
            made.steps[name] = without_cache(step)
        self.steps[name] = Named(identity, step.code(), digest, definition, self._reuse(name))

    def _name_router(self, source: StepName) -> None:
        made, router = self._made, self._made.routers[source]
        parents = [self.steps[source].lineage]
        identity = router.identity()
        if identity.uncacheable:
            self.restarting.add(source)
            owner = f"the router after step {source!r}"
            parents.append(self._unrepeatable(owner, identity.uncacheable))
        edge = {
            "upstream": source,
            "batch_size": made.nodes[source].input_batch_size,
            "successors": list(made.graph.routed[source]),
        }
        name = StepName(f"{source} (router)")
        digest, definition = lineage(identity, name=name, edges=[edge], parents=parents)
        reuse = self._reuse(source)
        self.routers[source] = Named(identity, router.code(), digest, definition, reuse)

    def _reuse(self, name: StepName) -> Reuse:
        if name in self.restarting:
            return "never"
        return "own_run" if self._own_run or name in self._tainted else "any"

    def _unrepeatable(self, owner: str, reasons: Iterable[str]) -> Digest:
        """Warn, and give the parent that marks the lineage.

        It is the same in every run: steps below compare content, so rows that come out equal
        cost nothing there. The step itself never reuses anything.
        """
        self._warnings.append(
            f"{owner} runs anew every time, and starts over when a run is taken up again, because"
            f" its results cannot be told apart: {'; '.join(reasons)}"
        )
        return _UNREPEATABLE


def _edges(made: Draft, name: StepName) -> Iterable[EdgePlan]:
    for port in made.graph.predecessors(name):
        policy: OnError = made.steps[port].on_error
        yield EdgePlan(upstream=port, on_error=policy, routed=made.graph.is_routed(port, name))


def _modules(named: Named) -> tuple[str, ...]:
    return named.code.modules if named.code is not None else ()


def _router_wiring(
    graph: Graph, routers: Mapping[StepName, RoutingBatchFunction]
) -> dict[str, Any]:
    routed = graph.routed
    return {source: (router.name, routed[source]) for source, router in routers.items()}


def _data_identities(made: Draft, restarting: set[StepName]) -> dict[StepName, Digest | None]:
    found: dict[StepName, Digest | None] = {}
    for name, step in made.steps.items():
        if step.kind() == "generator":
            own = None if name in restarting else step.data_identity()
            found[name] = None if own is None else _as_digest(own)
    return found


def _as_digest(identity: bytes) -> Digest:
    # A user's class may name its data by bytes of any length.
    return Digest(identity if len(identity) == _DIGEST_BYTES else xxh3_128_digest(identity))


def _complete_key(
    made: Draft,
    naming: _Naming,
    signatures: tuple[str, str],
    data: Mapping[StepName, Digest | None],
    drop_columns: tuple[str, ...],
) -> Digest:
    preimage = {
        "signatures": signatures,
        "lineages": {name: named.lineage for name, named in naming.steps.items()},
        "routers": {name: named.lineage for name, named in naming.routers.items()},
        "data": dict(data),
        "policies": {name: step.on_error for name, step in made.steps.items()},
        "leaves": made.graph.leaves,
        "drop_columns": drop_columns,
    }
    return Digest(xxh3_128_digest(canonical_bytes("asyncdistil/complete/1", preimage)))


def _options_bytes(options: RunOptions) -> bytes:
    return canonical_bytes(
        "asyncdistil/options/1",
        {
            "use_cache": options.use_cache,
            "retry_failed": options.retry_failed,
            "dry_rows": options.dry_rows,
        },
    )


def _option_warnings(made: Draft, options: RunOptions) -> list[str]:
    warnings = []
    if options.logging_handlers:
        warnings.append(
            "logging_handlers is not used: add your handlers to the logger 'asyncdistil'"
        )
    for name, step in made.steps.items():
        if step.resources.replicas > replicas_of(step):
            warnings.append(
                f"step {name!r} asks for {step.resources.replicas} replicas and gets one:"
                f" a {step.kind()} step cannot be divided"
            )
    return warnings
