"""What code inside a worker may ask of the supervisor, without knowing that there is one.

Models and memo need numbers for samples, permits to send requests, and a place to report what they
used. Inside a worker these come over its socket; elsewhere (a step used alone, a test) nobody has
installed anything, `current` is ``None`` and the caller falls back to something local.

The `Ledger` of the work in hand travels in a context variable, so that rows of many leases can be
in flight on one event loop and each books on its own account.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol, TypeAlias

from asyncdistil.batch import Usage

if TYPE_CHECKING:
    from asyncdistil.memo import Memo

RequestOutcome: TypeAlias = Literal["ok", "throttled", "failed", "cancelled"]


class RateLimits(NamedTuple):
    """What a service allows; 0 stands for no limit."""

    concurrent: int = 0
    requests_per_minute: int = 0
    tokens_per_minute: int = 0


UNLIMITED = RateLimits()


class Observation(NamedTuple):
    """How one permitted request went.

    Attributes:
        outcome: ``ok``; ``throttled`` (429 or the like); ``failed`` (refused connection, 5xx,
            time-out: says something about the service); ``cancelled`` (says nothing).
        latency_seconds: From sending to the whole reply; only read for ``ok``.
        retry_after_seconds: Wait that the service asked for, 0 if none.
        tokens: Prompt and completion tokens that the service counted.
    """

    outcome: RequestOutcome
    latency_seconds: float = 0.0
    retry_after_seconds: float = 0.0
    tokens: int = 0


class ClaimBroker(Protocol):
    """Hands out sample numbers, each at most once in a run."""

    def claim(
        self, keys: Sequence[bytes], counts: Sequence[int], *, lease: int
    ) -> tuple[tuple[int, ...], ...]:
        """Numbers not yet taken in this run: ``counts[i]`` of ``keys[i]``. Blocks the thread."""
        ...

    async def aclaim(
        self, keys: Sequence[bytes], counts: Sequence[int], *, lease: int
    ) -> tuple[tuple[int, ...], ...]:
        """As `claim`, on the running loop."""
        ...


class PermitBroker(Protocol):
    """Says when a request may be sent to a rate-limited service.

    Every acquired permit is given back exactly once, with what was seen.
    """

    async def acquire(self, governor: str, limits: RateLimits = UNLIMITED) -> None:
        """Wait for the right to send one request.

        Args:
            governor: Key of the pool: provider, endpoint and a digest of the key.
            limits: What the user declared; the first caller of a governor decides.
        """
        ...

    def acquire_blocking(self, governor: str, limits: RateLimits = UNLIMITED) -> None:
        """As `acquire`, for code on a thread without a loop."""
        ...

    def release(self, governor: str, observation: Observation) -> None:
        """Give a permit back; never waits, callable from any thread."""
        ...


@dataclass(slots=True)
class Ledger:
    """What the work in hand took, to be recorded in its commit.

    Attributes:
        lease: Lease that the work belongs to; 0 outside a worker.
        usage: Model calls so far.
        samples: Memo keys and the sample numbers taken from their pools.
        wrote_memo: Whether memo files must be synced before the commit.
        spare: Input row and position in ``samples`` of those that the row may take again when it is
            tried again: good answers beside a bad one.
    """

    lease: int = 0
    usage: Usage | None = None
    samples: list[tuple[bytes, int]] = field(default_factory=list)
    wrote_memo: bool = False
    spare: list[tuple[int, int]] = field(default_factory=list)

    def add_usage(self, usage: Usage) -> None:
        """Add the figures of one or more calls."""
        self.usage = usage if self.usage is None else add_usage(self.usage, usage)

    def take(self, key: bytes, numbers: Sequence[int]) -> None:
        """Record that these samples of ``key`` went into the result."""
        self.samples.extend((key, number) for number in numbers)

    def give_back(self, samples: Iterable[tuple[bytes, int]]) -> None:
        """Record that the row failed in spite of these samples of it."""
        self.spare.extend((0, self.samples.index(each)) for each in samples if each in self.samples)

    def merge(self, other: Ledger, *, row: int = 0) -> None:
        """Add everything that ``other`` recorded, of input row ``row`` of this work."""
        if other.usage is not None:
            self.add_usage(other.usage)
        before = len(self.samples)
        self.spare.extend((row + its, before + position) for its, position in other.spare)
        self.samples.extend(other.samples)
        self.wrote_memo = self.wrote_memo or other.wrote_memo


def add_usage(left: Usage, right: Usage) -> Usage:
    """Sum of two records of usage."""
    return Usage(
        left.requests + right.requests,
        left.cached + right.cached,
        left.input_tokens + right.input_tokens,
        left.output_tokens + right.output_tokens,
        left.cost_microusd + right.cost_microusd,
        left.cached_cost_microusd + right.cached_cost_microusd,
    )


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a worker offers to the code that it runs.

    Attributes:
        claims: Sample numbers.
        permits: Rate limits.
        memo: Absolute path of the memo directory, empty if the step has none.
        run: Run id.
        step: Name of the step.
        replica: Which replica of it this process is.
        memo_own_run: Whether only what this run stored may be read from the memo, because the step
            runs without cache.
        open_memo: Opens the memo once and gives it, wired so that the supervisor syncs what was
            written before the commits that rely on it.
    """

    claims: ClaimBroker
    permits: PermitBroker
    memo: str
    run: str
    step: str
    replica: int
    memo_own_run: bool = False
    open_memo: Callable[[], Memo] | None = None


_current: Surroundings | None = None
LEDGER: ContextVar[Ledger | None] = ContextVar("asyncdistil_ledger", default=None)
"""Account of the work in hand; ``None`` outside a worker."""


def install(surroundings: Surroundings | None) -> None:
    """Offer these surroundings to the whole process; ``None`` takes them away."""
    global _current
    _current = surroundings


def current() -> Surroundings | None:
    """What the worker offers, or ``None`` outside a worker."""
    return _current
