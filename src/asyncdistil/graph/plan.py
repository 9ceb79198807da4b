"""What the supervisor is told to run: plain data, no step objects.

The pipeline room turns steps into a `RunPlan`; the supervisor turns a `RunPlan` into processes.
Step objects cross over only as opaque payload bytes that workers unpack.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

from asyncdistil.batch import Digest, StepName

StepKind: TypeAlias = Literal["generator", "row", "batch", "global"]
OnError: TypeAlias = Literal["raise", "skip", "null"]
Reuse: TypeAlias = Literal["any", "own_run", "never"]


class EdgePlan(msgspec.Struct, frozen=True):
    """One input port of a step.

    Attributes:
        upstream: Step whose output is read.
        on_error: What the reader does with rows that failed in ``upstream``: ``null`` reads
            their null form, ``skip`` leaves them out, ``raise`` stops the run.
        routed: Whether the upstream step's router decides, batch by batch, if rows come here.
    """

    upstream: StepName
    on_error: OnError = "null"
    routed: bool = False


class Layer(msgspec.Struct, frozen=True):
    """Stored work that a retry may take for a step, and what is not to be taken from it.

    Attributes:
        lineage: What the work was stored under.
        runs: Whose work it is.
        judged: Run whose failures stand; empty if all failures are tried again.
        retry_failed: Whether failures of other runs are tried again.
        rows: What this layer is asked for in place of the layers before it: input rows of their
            commits, as (LSN, first row, row behind the last). Empty for the first layer.
    """

    lineage: Digest
    runs: frozenset[str]
    judged: str = ""
    retry_failed: bool = True
    rows: tuple[tuple[int, int, int], ...] = ()


class StepPlan(msgspec.Struct, frozen=True):
    """One step of a run.

    Attributes:
        name: Unique in the pipeline.
        kind: ``generator``, ``row`` (row-wise), ``batch`` (batch-wise) or ``global``.
        edges: Input ports, in the order in which the edges were added; empty for generators.
        lineage: Step name + signature + wiring + lineages above.
        definition: Encoded preimage of ``lineage``, stored as STEP_DEF.
        reuse: ``any`` commit of this lineage, only those of the run's ``own_run`` id, or ``never``:
            a step whose results can't be told apart runs anew even when a run is taken up again.
        payload: cloudpickle of the step object; only a worker unpacks it.
        code: Code fingerprint that the worker must recompute, or ``None`` for library steps.
        input_batch_size: Rows of a call; semantic for ``batch``, a hint for ``row``.
        replicas: Worker processes of this step, at least 1.
        concurrency: Rows that one worker keeps in flight at once; 0 runs a batch at a time.
        data_identity: What a generator's data is; ``None`` runs it every time.
        resumable: Whether a generator honours ``offset``.
        effects: Whether the step acts on the outside world: it waits for durability.
        inner_join: Whether a missing row id in one port drops the row instead of failing.
        by_position: Whether ports of different id spaces are aligned by position.
        converges: Source step whose router this step converges, or ``None``.
        outputs: Columns the step declares; they are null in the null form of a failed row.
        memory_bytes: Limit for the decoded input of a global step; ``None`` asks the machine.
        max_failures: Failed rows after which the run stops; ``None`` for no limit.
        batch_deadline_seconds: A worker silent for longer on one batch is killed; ``None`` never.
        stage: Load group; a stage is loaded when every earlier one is done.
        layers: In a retry, the stored work that it takes, that of the run to be mended first; the
            last one also says under which lineage rows are computed. Empty in any other run.
    """

    name: StepName
    kind: StepKind
    edges: tuple[EdgePlan, ...]
    lineage: Digest
    definition: bytes
    reuse: Reuse
    payload: bytes
    code: Digest | None = None
    input_batch_size: int = 50
    replicas: int = 1
    concurrency: int = 0
    data_identity: Digest | None = None
    resumable: bool = False
    effects: bool = False
    inner_join: bool = False
    by_position: bool = False
    converges: StepName | None = None
    outputs: tuple[str, ...] = ()
    memory_bytes: int | None = None
    max_failures: int | None = None
    batch_deadline_seconds: float | None = None
    stage: int = 0
    layers: tuple[Layer, ...] = ()

    @property
    def computes(self) -> Digest:
        """Lineage that computed rows are stored under."""
        return self.layers[-1].lineage if self.layers else self.lineage


class RouterPlan(msgspec.Struct, frozen=True):
    """A routing function between one step and its successors.

    Attributes:
        source: Step whose output is routed.
        batch_size: Rows of a routing batch, cut in source order.
        successors: The steps it may choose from, in the order in which they were connected.
        lineage: Identity of the routing function and of everything above it.
        definition: Encoded preimage of ``lineage``.
        payload: cloudpickle of the function.
        reuse: As for a step.
    """

    source: StepName
    batch_size: int
    successors: tuple[StepName, ...]
    lineage: Digest
    definition: bytes
    payload: bytes
    reuse: Reuse


class RunPlan(msgspec.Struct, frozen=True):
    """Everything the supervisor needs for one run.

    Attributes:
        pipeline: Pipeline name.
        signature: 32 hex digits over names and wiring.
        aggregated_signature: 32 hex digits over everything that can change an output.
        options: Canonical bytes of the options that must be equal for a run to be taken up again.
        steps: In topological order.
        routers: One per routed source step.
        leaves: Steps whose output becomes a dataset, in declaration order.
        leaf_policies: ``on_error`` of the edge from each leaf into the dataset.
        retry_failed: Whether rows that failed in an earlier run are tried again.
        failures_stand: Whether failures that the run itself recorded are not tried again; to read
            a run back, not to run it.
        raise_on_failure: Whether the first failed row stops the run.
        dry_rows: Rows taken from each generator in a dry run; 0 in a real run.
        budget_microusd: Paid millionths of a US dollar after which no request is sent any more.
        budget_tokens: Paid tokens after which no request is sent any more.
    """

    pipeline: str
    signature: str
    aggregated_signature: str
    options: bytes
    steps: tuple[StepPlan, ...]
    routers: tuple[RouterPlan, ...]
    leaves: tuple[StepName, ...]
    leaf_policies: tuple[OnError, ...]
    retry_failed: bool = True
    failures_stand: bool = False
    raise_on_failure: bool = False
    dry_rows: int = 0
    budget_microusd: int | None = None
    budget_tokens: int | None = None
