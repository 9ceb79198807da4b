"""Anthropic's Message Batches.

Requests are sent as one JSON array; the answers are one stream of JSON lines, in any order, joined
by the ``custom_id`` of the request. A batch carries nothing of ours, so that one which may or may
not have been sent is looked for by its time and size; whether it is the right one its answers show.

Source: https://docs.claude.com/en/api/creating-message-batches
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, ClassVar
from urllib.parse import quote

import msgspec

from asyncdistil.models.http import HttpClient, as_json
from asyncdistil.models.offline.account import Account
from asyncdistil.models.offline.records import BatchRecord, LineId
from asyncdistil.models.offline.service import Caller, Line, Progress, Result
from asyncdistil.models.reply import Reply
from asyncdistil.models.retry import judge_status, unreadable

_PATH = "/v1/messages/batches"
_CLOCK_SLACK_SECONDS = 600.0
"""How far the provider's clock may be from ours."""

_STATUSES = {"invalid_request_error": 400, "not_found_error": 404, "request_too_large": 413}
"""Errors that a line will meet again."""


class _Counts(msgspec.Struct):
    processing: int = 0
    succeeded: int = 0
    errored: int = 0
    canceled: int = 0
    expired: int = 0

    def done(self) -> int:
        return self.succeeded + self.errored + self.canceled + self.expired


class _Batch(msgspec.Struct):
    id: str
    processing_status: str = ""
    request_counts: _Counts = msgspec.field(default_factory=_Counts)
    created_at: str = ""
    results_url: str | None = None


class _Outcome(msgspec.Struct):
    type: str = ""
    message: msgspec.Raw = msgspec.Raw(b"null")
    error: Any = None


class _Line(msgspec.Struct):
    custom_id: str
    result: _Outcome


class AnthropicBatches(Account):
    """Batches of one account; see `BatchService`."""

    max_lines: ClassVar[int] = 100_000
    max_bytes: ClassVar[int] = 250_000_000
    several_per_line: ClassVar[bool] = False

    def __init__(
        self,
        client: HttpClient,
        call: Caller,
        *,
        params: Callable[[Mapping[str, Any]], dict[str, Any]],
        reply: Callable[[bytes, str], Reply],
        timeout_seconds: float,
    ) -> None:
        """Look at an account.

        Args:
            client: Talks to the service; bounds the answers.
            call: Makes the tries.
            params: Makes what is sent of the body of a request.
            reply: Makes a reply of a message and of who sent it, if that is known.
            timeout_seconds: For one try of a small request.
        """
        super().__init__(client, call, timeout_seconds=timeout_seconds)
        self._params = params
        self._reply = reply

    def encoded(self, line: Line) -> bytes:
        """An element of the array."""
        return as_json({"custom_id": str(line.id), "params": self._params(line.body)})

    async def submit(
        self, record: BatchRecord, lines: Sequence[Line], known: frozenset[str]
    ) -> str:
        """Send the lines as a batch."""
        body = b'{"requests":[' + b",".join(map(self.encoded, lines)) + b"]}"

        async def make() -> str:
            made = await self._client.post(_PATH, body, timeout_seconds=self._transfer_seconds)
            return self._read(made.body, _Batch).id

        return await self._order(make, lambda: self._find(record, known))

    async def find(self, record: BatchRecord, known: frozenset[str]) -> str:
        """A batch of that size that was made since the record was, and is no other's."""

        async def send() -> tuple[str, int]:
            return await self._find(record, known), 0

        return await self._call(send)

    async def _find(self, record: BatchRecord, known: frozenset[str]) -> str:
        since = record.made_seconds - _CLOCK_SLACK_SECONDS
        async for batch in self._listed(_PATH, _Batch, "after_id"):
            if _seconds(batch.created_at) < since:
                return ""  # the newest come first
            counts = batch.request_counts
            fits = counts.processing + counts.done() == len(record.lines)
            if fits and batch.id not in known and await self._is_of(batch, record):
                return batch.id
        return ""

    async def _is_of(self, batch: _Batch, record: BatchRecord) -> bool:
        """Whether a batch has the record's lines; one that is not done is taken to have them."""
        if batch.processing_status != "ended":
            return True
        content = await self._try_content(_results_of(batch.id))
        lines = {str(result.id) for result in self._results(content or b"")}
        return not lines.isdisjoint(record.lines)

    async def look(self, batch_id: str) -> Progress:
        """See how far a batch is."""
        batch = await self._told_of(f"{_PATH}/{quote(batch_id, safe='')}", _Batch)
        if batch is None:
            return Progress("unknown")
        counts = batch.request_counts
        total = counts.processing + counts.done()
        if batch.processing_status != "ended":
            return Progress("waiting", counts.done(), total, batch.processing_status)
        why = "expired" if counts.expired else "ended"
        if counts.canceled:
            return Progress("cancelled", counts.done(), total, why, (batch.id,))
        return Progress("ended", counts.done(), total, why, (batch.id,))

    async def results(self, progress: Progress) -> list[Result] | None:
        """Fetch the answers."""
        results: list[Result] = []
        for batch_id in progress.files:
            content = await self._content(_results_of(batch_id))
            if content is None:
                return None
            results += self._results(content)
        return results

    def _results(self, content: bytes) -> Iterator[Result]:
        for raw in content.splitlines():
            try:
                line = _decode(raw)
            except msgspec.DecodeError:
                continue  # a line that can't be read can't be joined: it counts as not answered
            line_id = LineId.parse(line.custom_id)
            # What was cancelled is not told of: it came to nothing, and nobody is to blame.
            if line_id is not None and line.result.type != "canceled":
                yield self._result(line_id, line.result)

    def _result(self, line_id: LineId, outcome: _Outcome) -> Result:
        service = self._client.service
        if outcome.type == "succeeded":
            return Result(line_id, [self._reply(bytes(outcome.message), "")])
        text = self._client.hide(msgspec.json.encode(outcome.error).decode())
        error = outcome.error if isinstance(outcome.error, Mapping) else {}
        inner = error.get("error")
        kind = inner.get("type") if isinstance(inner, Mapping) else error.get("type")
        status = _STATUSES.get(str(kind))
        if status is None:
            trouble = unreadable(
                f"{service} did not answer a line of a batch: {kind or outcome.type}", detail=text
            )
        else:
            trouble = judge_status(status, service=service, headers={}, text=text, wall_seconds=0.0)
        failed = trouble.error(trouble.message, detail=trouble.detail)
        return Result(line_id, [], failed, passing=status is None)


_decode = msgspec.json.Decoder(_Line).decode


def _results_of(batch_id: str) -> str:
    return f"{_PATH}/{quote(batch_id, safe='')}/results"


def _seconds(when: str) -> float:
    """A time of the provider's as Unix time; without one, as late as can be."""
    try:
        return datetime.fromisoformat(when).timestamp()
    except ValueError:
        return float("inf")
