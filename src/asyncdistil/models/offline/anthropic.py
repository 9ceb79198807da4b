"""Anthropic's Message Batches.

Requests are sent as one JSON array; the answers are one stream of JSON lines, in any order, joined
by the ``custom_id`` of the request. A batch carries nothing of ours, so that one which may or may
not have been sent is looked for by its time and size; whether it is the right one its answers show.

Source: https://docs.claude.com/en/api/creating-message-batches
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, ClassVar, TypeVar
from urllib.parse import quote

import msgspec

from asyncdistil.models.http import HttpClient
from asyncdistil.models.offline.records import BatchRecord, LineId
from asyncdistil.models.offline.service import TRANSFER_SECONDS, Caller, Line, Progress, Result
from asyncdistil.models.reply import Reply
from asyncdistil.models.retry import RequestFailed, judge_status, unreadable

T = TypeVar("T")

_PATH = "/v1/messages/batches"
_LISTED_AT_ONCE = 100
_MOST_PAGES = 20
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


class _Page(msgspec.Struct):
    data: list[_Batch] = []
    has_more: bool = False


class _Outcome(msgspec.Struct):
    type: str = ""
    message: msgspec.Raw = msgspec.Raw(b"null")
    error: Any = None


class _Line(msgspec.Struct):
    custom_id: str
    result: _Outcome


class AnthropicBatches:
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
        self._client = client
        self._call = call
        self._params = params
        self._reply = reply
        self._timeout_seconds = timeout_seconds

    def encoded(self, line: Line) -> bytes:
        """An element of the array."""
        return msgspec.json.encode({"custom_id": str(line.id), "params": self._params(line.body)})

    async def submit(
        self, record: BatchRecord, lines: Sequence[Line], known: frozenset[str]
    ) -> str:
        """Send the lines as a batch."""
        body = b'{"requests":[' + b",".join(map(self.encoded, lines)) + b"]}"
        tried = False

        async def send() -> tuple[str, int]:
            nonlocal tried
            # An order whose confirmation got lost was taken all the same: it is not given twice.
            if tried and (found := await self._find(record, known)):
                return found, 0
            tried = True
            made = await self._client.post(
                _PATH, body, timeout_seconds=max(TRANSFER_SECONDS, self._timeout_seconds)
            )
            return self._read(made.body, _Batch).id, 0

        return await self._call(send)

    async def find(self, record: BatchRecord, known: frozenset[str]) -> str:
        """A batch of that size that was made since the record was, and is no other's."""

        async def send() -> tuple[str, int]:
            return await self._find(record, known), 0

        return await self._call(send)

    async def _find(self, record: BatchRecord, known: frozenset[str]) -> str:
        since = record.made_seconds - _CLOCK_SLACK_SECONDS
        after = ""
        for _ in range(_MOST_PAGES):
            data = await self._client.fetch(
                f"{_PATH}?limit={_LISTED_AT_ONCE}{after}", timeout_seconds=self._timeout_seconds
            )
            page = self._read(data, _Page)
            for batch in page.data:
                counts = batch.request_counts
                if _seconds(batch.created_at) < since:
                    return ""  # the newest come first
                size = counts.processing + counts.done()
                fits = size == len(record.lines) and batch.id not in known
                if fits and await self._is_of(batch, record):
                    return batch.id
            if not page.has_more or not page.data:
                break
            after = f"&after_id={quote(page.data[-1].id, safe='')}"
        return ""

    async def _is_of(self, batch: _Batch, record: BatchRecord) -> bool:
        """Whether a batch has the record's lines; one that is not done is taken to have them."""
        if batch.processing_status != "ended":
            return True
        content = await self._content(batch.id)
        lines = {str(result.id) for result in self._results(content or b"")}
        return not lines.isdisjoint(record.lines)

    async def look(self, batch_id: str) -> Progress:
        """See how far a batch is."""

        async def send() -> tuple[_Batch | None, int]:
            try:
                data = await self._client.fetch(
                    f"{_PATH}/{quote(batch_id, safe='')}", timeout_seconds=self._timeout_seconds
                )
            except RequestFailed as failed:
                if failed.trouble.status == 404:
                    return None, 0
                raise
            return self._read(data, _Batch), 0

        batch = await self._call(send)
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

            async def send(batch_id: str = batch_id) -> tuple[bytes | None, int]:
                return await self._content(batch_id), 0

            content = await self._call(send)
            if content is None:
                return None
            results += self._results(content)
        return results

    async def _content(self, batch_id: str) -> bytes | None:
        try:
            return await self._client.fetch(
                f"{_PATH}/{quote(batch_id, safe='')}/results",
                timeout_seconds=max(TRANSFER_SECONDS, self._timeout_seconds),
            )
        except RequestFailed as failed:
            if failed.trouble.status in {404, 410}:
                return None
            raise

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

    def _read(self, data: bytes, kind: type[T]) -> T:
        try:
            return msgspec.json.decode(data, type=kind)
        except msgspec.DecodeError as error:
            text = self._client.hide(data[: 16 * 1024].decode("utf-8", "replace"))
            raise RequestFailed(
                unreadable(f"{self._client.service} sent what is no batch: {error}", detail=text)
            ) from None


_decode = msgspec.json.Decoder(_Line).decode


def _seconds(when: str) -> float:
    """A time of the provider's as Unix time; without one, as late as can be."""
    try:
        return datetime.fromisoformat(when).timestamp()
    except ValueError:
        return float("inf")
