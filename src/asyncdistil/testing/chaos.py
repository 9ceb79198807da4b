"""Faults that the stand-in model server can be told to commit, and scripts that say when.

A script is any callable from `Seen` to a `Fault` or ``None``. It runs on the server's loop, so it
must not block. Everything drawn is drawn from a seed: the same requests in the same order meet the
same faults.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from random import Random
from typing import TypeAlias

STATUSES = {
    "400": "invalid_request_error",
    "401": "invalid_api_key",
    "403": "permission_denied",
    "404": "model_not_found",
    "408": "request_timeout",
    "422": "unprocessable_entity",
    "429": "rate_limit_exceeded",
    "quota": "insufficient_quota",
    "500": "server_error",
    "502": "bad_gateway",
    "503": "overloaded",
    "504": "gateway_timeout",
    "529": "overloaded_error",
}
"""Faults that are an HTTP status, with the error code in the body; ``quota`` is sent as 429."""

WIRE_FAULTS = frozenset(
    {"reset", "reset_midway", "truncated", "garbage", "stall", "stall_midway", "gzip_bomb"}
)
"""Faults below the level of a well-formed reply."""

MIDWAY_FAULTS = frozenset({"reset_midway", "truncated", "stall_midway"})
"""Those of them that break a stream off after its first piece."""

REPLY_FAULTS = frozenset({"empty_choices", "null_content", "content_filter", "length", "not_json"})
"""Well-formed replies that a caller may not take for an answer."""


@dataclass(frozen=True, slots=True)
class Fault:
    """What to do to one request.

    Attributes:
        kind: A key of `STATUSES`, or one of `WIRE_FAULTS` or `REPLY_FAULTS`.
        retry_after: Value of the ``Retry-After`` header, sent as it stands; ``None`` for none.
        message: Text of the error; ``{authorization}`` is replaced by the header that the client
            sent, as careless services do.
        after_seconds: Wait before committing it.
    """

    kind: str
    retry_after: str | None = None
    message: str = "the stand-in was told to fail"
    after_seconds: float = 0.0

    def __post_init__(self) -> None:
        if self.kind not in STATUSES and self.kind not in WIRE_FAULTS | REPLY_FAULTS:
            known = ", ".join(sorted({*STATUSES, *WIRE_FAULTS, *REPLY_FAULTS}))
            raise ValueError(f"no fault is called {self.kind!r}: known are {known}")


@dataclass(frozen=True, slots=True)
class Seen:
    """What a script may look at.

    Attributes:
        ordinal: 0 for the first request to a model route since the server started.
        attempt: 1 the first time a body is seen, 2 when the same body comes again.
        path: Path of the request.
        prompt: All text of the prompt.
    """

    ordinal: int
    attempt: int
    path: str
    prompt: str


Script: TypeAlias = Callable[[Seen], Fault | None]


def in_order(faults: Iterable[str | Fault | None]) -> Script:
    """The n-th request meets the n-th fault; later ones are answered."""
    planned = [Fault(f) if isinstance(f, str) else f for f in faults]

    def script(seen: Seen) -> Fault | None:
        return planned[seen.ordinal] if seen.ordinal < len(planned) else None

    return script


def first_attempts(faults: Iterable[str | Fault | None], *, containing: str = "") -> Script:
    """The n-th time that a body is sent it meets the n-th fault; later ones are answered.

    Args:
        faults: What befalls attempts 1, 2, …
        containing: Only prompts with this text are touched.
    """
    planned = [Fault(f) if isinstance(f, str) else f for f in faults]

    def script(seen: Seen) -> Fault | None:
        if containing not in seen.prompt or seen.attempt > len(planned):
            return None
        return planned[seen.attempt - 1]

    return script


def always(fault: str | Fault, *, containing: str = "") -> Script:
    """Every request whose prompt has this text meets the same fault."""
    planned = Fault(fault) if isinstance(fault, str) else fault
    return lambda seen: planned if containing in seen.prompt else None


def by_chance(shares: Mapping[str | Fault, float], *, seed: int = 0) -> Script:
    """Each request meets a fault with the given share, decided by seed and ordinal.

    Args:
        shares: Fault to share of requests, 0 to 1; together at most 1.
        seed: Other seeds hit other requests.
    """
    planned = [(Fault(f) if isinstance(f, str) else f, share) for f, share in shares.items()]

    def script(seen: Seen) -> Fault | None:
        point = Random(f"{seed}/{seen.ordinal}").random()
        for fault, share in planned:
            if point < share:
                return fault
            point -= share
        return None

    return script


def first_of(*scripts: Script) -> Script:
    """Ask several scripts in turn; the first fault counts."""

    def script(seen: Seen) -> Fault | None:
        for ask in scripts:
            if (fault := ask(seen)) is not None:
                return fault
        return None

    return script
