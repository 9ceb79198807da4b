"""One answer as it is stored: raw, with what is known about it, judged only when it is read."""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

Outcome: TypeAlias = Literal["ok", "truncated", "refused", "empty", "failed"]
"""What became of one sample.

``ok``: a whole answer. ``truncated``: it ran into the length limit. ``refused``: a content filter
or the model itself declined. ``empty``: a reply without text. ``failed``: the service refused the
request, or its reply could not be understood.
"""

ACCEPTED: tuple[Outcome, ...] = ("ok", "truncated")
"""What counts as an answer unless a model says otherwise."""

STAND_IN = "asyncdistil-stand-in"
"""How the stand-in server begins the name that it reports."""


class Reply(msgspec.Struct, frozen=True, array_like=True):
    """One sample.

    Attributes:
        outcome: What became of it.
        body: The service's reply, cut down to this one sample; the error if it failed.
        reported: Model and fingerprint that the reply names.
        input_tokens: Prompt tokens.
        output_tokens: Completion tokens of this sample.
        cost_microusd: Its share of what the request cost, in millionths of a US dollar.
        kind: Qualified error class, if it failed.
        message: Error message, if it failed.
        attempts: Tries made, at least 1.
    """

    outcome: Outcome
    body: bytes
    reported: str = ""
    input_tokens: int = 0
    output_tokens: int = 0
    cost_microusd: int = 0
    kind: str = ""
    message: str = ""
    attempts: int = 1


_MOST_TOKENS = 2**31


def token_count(given: object) -> int:
    """A number of tokens as services write it; 0 if it is none, or too large to be true."""
    try:
        count = int(given)  # type: ignore[call-overload]
    except (TypeError, ValueError, OverflowError):
        return 0
    return count if 0 <= count <= _MOST_TOKENS else 0
