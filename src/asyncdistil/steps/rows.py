"""What a step makes of a row: entries, and the null form of a row that failed."""

from __future__ import annotations

import traceback
from collections.abc import Iterable
from typing import NamedTuple, TypeAlias

from asyncdistil.batch import Failure, Row
from asyncdistil.errors import UserError, said_by
from asyncdistil.redaction import Redaction

_DETAIL_BYTES = 16 * 1024
_MESSAGE_CHARS = 2000


class FailedRow(NamedTuple):
    """A row that failed, in place of its result.

    Attributes:
        row: Its null form: the input row, the step's declared outputs ``None``. In the step's
            own column names when ``entries`` or ``aprocess`` give it; `Step.apply` renames.
        failure: Why.
    """

    row: Row
    failure: Failure


Entry: TypeAlias = Row | list[Row] | list[Row | FailedRow] | FailedRow | None
"""What one input row became: a row, nothing (filtered), several rows, or a failure.

Of several rows each may have failed for itself: it is counted, readers deal with it by their
``on_error``, and the input row is worked on again in the next run.
"""

Entries: TypeAlias = list[Entry]


def has_failed(entry: Entry) -> bool:
    """Whether a row failed, or any of those that it became."""
    if isinstance(entry, list):
        return any(isinstance(each, FailedRow) for each in entry)
    return isinstance(entry, FailedRow)


def describe_failure(
    error: BaseException, *, attempts: int = 1, secrets: Iterable[str] = (), detail: str = ""
) -> Failure:
    """Turn an exception into a record.

    Args:
        error: What was raised.
        attempts: Tries made, at least 1.
        secrets: Texts to strike out of message and detail, see `Redaction`.
        detail: What to keep instead of the traceback, such as the raw reply of a model.
    """
    kind = type(error)
    name = kind.__qualname__
    if kind.__module__ != "builtins":
        name = f"{kind.__module__}.{name}"
    text = said_by(error) or name
    if not detail and not _is_told_in_full(error):
        # Without source context of local variables: they may hold secrets.
        detail = "".join(traceback.format_exception(error))
    redact = Redaction(secrets)
    text, detail = redact(text), redact(detail)
    tail = detail.encode("utf-8", "replace")[-_DETAIL_BYTES:].decode("utf-8", "ignore")
    # The record is encoded as UTF-8, which has no lone surrogates.
    text = text[:_MESSAGE_CHARS].encode("utf-8", "replace").decode("utf-8")
    return Failure(kind=name, message=text, attempts=attempts, detail=tail)


def _is_told_in_full(error: BaseException) -> bool:
    """Whether only our own frames led to an error that says what to change: they tell nothing."""
    frames = traceback.walk_tb(error.__traceback__)
    modules = [frame.f_globals.get("__name__", "") for frame, _ in frames]
    ours = all(module.startswith("asyncdistil.") for module in modules)
    return isinstance(error, UserError) and error.__cause__ is None and ours
