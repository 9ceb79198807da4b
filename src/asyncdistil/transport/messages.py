"""Every message that crosses a worker's socket.

Frames are length-prefixed MessagePack arrays, tagged by a small integer. Row data never travels
here: a message speaks of rows by `RowSlice`, the bytes lie in segment files.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from asyncdistil.batch import (
    BatchRef,
    Digest,
    Failure,
    Origins,
    RowFailure,
    RowSlice,
    StepName,
    Usage,
)

# --- supervisor → worker --------------------------------------------------------------------


class Load(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """First message: which step to become.

    Attributes:
        role: ``step`` (payload is a step), ``router`` (payload is a routing function) or
            ``export`` (no payload).
        step: Its name, for log lines and errors.
        payload: cloudpickle bytes.
        code: Fingerprint the worker must find when it recomputes it; ``None`` skips the check.
        store: Absolute path of the store directory.
        store_id: 16 bytes that seed every hash of this store.
        segment: Segment that this worker alone writes; 0 if it writes none.
        memo: Absolute path of the memo directory, empty for steps without a model.
        run: Run id.
        sys_path: ``sys.path`` of the parent.
        cwd: Working directory of the parent.
        replica: 0 to replicas - 1.
    """

    role: str
    step: StepName
    payload: bytes
    code: Digest | None
    store: str
    store_id: bytes
    segment: int
    memo: str
    run: str
    sys_path: tuple[str, ...]
    cwd: str
    replica: int


class LoadPart(msgspec.Struct, frozen=True, array_like=True, tag=9):
    """Part of a payload too large for one frame; `Load` follows with the last part."""

    payload: bytes


class Lease(msgspec.Struct, frozen=True, array_like=True, tag=2, gc=False):
    """Work for one call of ``process``.

    Attributes:
        id: Unique in the run.
        ports: Per input port the slices that make up its rows, in order.
        attempt: 1 for the first try.
        probe: Run it and report whether the worker survives; append nothing.
        condemned: Rows known to kill or fail, with the reason: not to be processed, to be
            written in their null form.
    """

    id: int
    ports: tuple[tuple[RowSlice, ...], ...]
    attempt: int = 1
    probe: bool = False
    condemned: tuple[tuple[int, Failure], ...] = ()


class Generate(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """Start a generator.

    Attributes:
        offset: Rows to skip through ``process(offset=…)``; 0 unless the class is resumable.
        skip: Committed rows that the generator will produce again: they are compared by digest
            and dropped.
        limit: Rows after which to stop as if exhausted; 0 for no limit (dry runs).
    """

    offset: int = 0
    skip: tuple[RowSlice, ...] = ()
    limit: int = 0


class Produce(msgspec.Struct, frozen=True, array_like=True, tag=4):
    """More yields that a generator may send."""

    credits: int


class Claimed(msgspec.Struct, frozen=True, array_like=True, tag=5):
    """Answer to `Claim`: sample numbers per key, in the order asked."""

    claim: int
    samples: tuple[tuple[int, ...], ...]


class Granted(msgspec.Struct, frozen=True, array_like=True, tag=6):
    """Answer to `PermitRequest`: how many requests may start, and when to ask again."""

    governor: str
    permits: int
    wait_seconds: float
    reason: str = ""


class Finish(msgspec.Struct, frozen=True, array_like=True, tag=7):
    """No more work will come: unload and exit. Leases in hand are finished first."""


class Export(msgspec.Struct, frozen=True, array_like=True, tag=8):
    """Durable slices of a leaf, in source order, for an exporter."""

    slices: tuple[RowSlice, ...]


# --- worker → supervisor --------------------------------------------------------------------


class Loaded(msgspec.Struct, frozen=True, array_like=True, tag=32):
    """The step is ready to work."""

    code: Digest | None
    seconds: float


class LoadFailed(msgspec.Struct, frozen=True, array_like=True, tag=33):
    """The step could not be made ready; the worker exits after this."""

    failure: Failure


class Result(msgspec.Struct, frozen=True, array_like=True, tag=34, gc=False):
    """Input rows ``start`` to ``stop`` of a lease are done and their output is appended.

    A row-wise worker may report a lease in several contiguous parts, in any order; all other
    workers report it whole. A lease settles when every row is covered.

    Attributes:
        lease: `Lease.id`.
        start: First input row covered (port 0), included.
        stop: Last input row covered, excluded.
        outputs: Records appended, in row order; empty if no row came out.
        origins: Where the output rows come from, relative to ``start``.
        failures: Failed rows; positions relative to ``start`` and to this part's output.
        filtered: Input rows that a row-wise step dropped on purpose.
        input_digests: Content digest per port, of exactly the rows covered.
        seconds: Time in the step's code.
        usage: Model calls, if any.
        samples: Memo keys and sample numbers taken from pools.
        wrote_memo: Whether memo files must be synced before the commit.
        spare: As in `Commit`, relative to ``start``.
    """

    lease: int
    start: int
    stop: int
    outputs: tuple[BatchRef, ...]
    origins: Origins
    failures: tuple[RowFailure, ...] = ()
    filtered: int = 0
    input_digests: tuple[Digest, ...] = ()
    seconds: float = 0.0
    usage: Usage | None = None
    samples: tuple[tuple[bytes, int], ...] = ()
    wrote_memo: bool = False
    spare: tuple[tuple[int, int], ...] = ()


class Failed(msgspec.Struct, frozen=True, array_like=True, tag=35):
    """A lease failed as a whole and nothing was appended."""

    lease: int
    failure: Failure


class Yielded(msgspec.Struct, frozen=True, array_like=True, tag=36, gc=False):
    """A generator yielded rows; they are appended."""

    outputs: tuple[BatchRef, ...]
    seconds: float = 0.0


class Exhausted(msgspec.Struct, frozen=True, array_like=True, tag=37):
    """A generator ended."""


class Diverged(msgspec.Struct, frozen=True, array_like=True, tag=38):
    """A restarted generator did not repeat its committed rows; ``row`` is the first difference."""

    row: int


class GeneratorFailed(msgspec.Struct, frozen=True, array_like=True, tag=39):
    """A generator raised."""

    failure: Failure


class Survived(msgspec.Struct, frozen=True, array_like=True, tag=40):
    """A probe lease came to an end; ``failure`` if the step raised."""

    lease: int
    failure: Failure | None = None


class Routed(msgspec.Struct, frozen=True, array_like=True, tag=41):
    """A router's decision for one routing batch."""

    lease: int
    chosen: tuple[StepName, ...]
    input_digest: Digest


class Claim(msgspec.Struct, frozen=True, array_like=True, tag=42):
    """Ask for sample numbers not yet taken in this run: ``counts[i]`` of ``keys[i]``."""

    claim: int
    lease: int
    keys: tuple[bytes, ...]
    counts: tuple[int, ...]


class PermitRequest(msgspec.Struct, frozen=True, array_like=True, tag=43):
    """Ask a governor for permits and tell it what was seen since the last time.

    Attributes:
        governor: Key of the pool: provider, endpoint and a digest of the key.
        wanted: Requests that wait for a permit.
        returned: Permits given back.
        succeeded: Requests that succeeded since the last report.
        throttled: Requests refused with 429 since then.
        failed: Requests that failed otherwise.
        retry_after_seconds: Longest wait that the service asked for, 0 if none.
        latency_seconds: Mean latency of the successes, 0 if none.
        limits: What the user declared: requests at once, requests per minute, tokens per minute;
            0 for no limit.
        tokens: Tokens that the service counted since the last report.
    """

    governor: str
    wanted: int
    returned: int = 0
    succeeded: int = 0
    throttled: int = 0
    failed: int = 0
    retry_after_seconds: float = 0.0
    latency_seconds: float = 0.0
    limits: tuple[int, int, int] = (0, 0, 0)
    tokens: int = 0


class LogLine(msgspec.Struct, frozen=True, array_like=True, tag=44):
    """One log record of the worker: `logging` level number and text."""

    level: int
    text: str


class Exported(msgspec.Struct, frozen=True, array_like=True, tag=45):
    """An exporter finished a leaf.

    Attributes:
        files: Paths relative to the store, with their XXH3-128.
        rows: Rows exported.
        notes: Columns that had to be unified, and how; one sentence each.
    """

    files: tuple[tuple[str, Digest], ...]
    rows: int
    notes: tuple[str, ...] = ()


class Fatal(msgspec.Struct, frozen=True, array_like=True, tag=46):
    """The worker cannot go on: disk full, memory refused, key rejected. The run must stop."""

    kind: str
    message: str


class MemoUsed(msgspec.Struct, frozen=True, array_like=True, tag=48):
    """Results that follow rely on this memo segment: sync it before their commits."""

    segment: int


class Done(msgspec.Struct, frozen=True, array_like=True, tag=47):
    """Answer to `Finish`: unloaded, about to exit."""


ToWorker: TypeAlias = (
    Load | LoadPart | Lease | Generate | Produce | Claimed | Granted | Finish | Export
)
FromWorker: TypeAlias = (
    Loaded
    | LoadFailed
    | Result
    | Failed
    | Yielded
    | Exhausted
    | Diverged
    | GeneratorFailed
    | Survived
    | Routed
    | Claim
    | PermitRequest
    | LogLine
    | Exported
    | Fatal
    | MemoUsed
    | Done
)
