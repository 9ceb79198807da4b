"""The batch service of OpenAI, and of whoever speaks its dialect.

Requests are uploaded as a file of JSON lines, a batch is made of the file, and its answers are two
more files: of lines that were answered and of lines that were not, in any order, joined by the
``custom_id`` of the line.

Source: https://platform.openai.com/docs/api-reference/batch
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Literal, TypeVar
from urllib.parse import quote

import msgspec

from asyncdistil.models import openai_replies
from asyncdistil.models.http import as_json
from asyncdistil.models.offline.account import Account
from asyncdistil.models.offline.records import BatchRecord, LineId
from asyncdistil.models.offline.service import Line, Progress, Result
from asyncdistil.models.retry import Course, RequestFailed, judge_status, unreadable

T = TypeVar("T")

NAME_FIELD = "asyncdistil_batch"
"""Metadata field in which a batch carries the name that we gave it."""


class _Counts(msgspec.Struct):
    total: int | None = None
    completed: int | None = None
    failed: int | None = None


class _BatchError(msgspec.Struct):
    code: str | None = None
    message: str | None = None


class _BatchErrors(msgspec.Struct):
    data: list[_BatchError] | None = None


class _Batch(msgspec.Struct):
    id: str
    status: str = ""
    output_file_id: str | None = None
    error_file_id: str | None = None
    errors: _BatchErrors | None = None
    request_counts: _Counts | None = None
    metadata: dict[str, Any] | None = None


class File(msgspec.Struct):
    """A file that was uploaded.

    Attributes:
        id: Its id.
        status: How far the service is with it, in the service's own words.
    """

    id: str
    status: str | None = None


class _Response(msgspec.Struct):
    status_code: int = 200
    body: msgspec.Raw = msgspec.Raw(b"null")


class _Answered(msgspec.Struct):
    custom_id: str
    response: _Response | None = None
    error: _BatchError | None = None


_STATES: dict[str, Literal["waiting", "ended", "failed", "cancelled"]] = {
    "completed": "ended",
    "expired": "ended",
    "failed": "failed",
    "cancelled": "cancelled",
}


class OpenAIBatches(Account):
    """Batches of one account; see `BatchService`. Each carries its name as metadata."""

    max_lines: ClassVar[int] = 50_000
    max_bytes: ClassVar[int] = 100_000_000
    several_per_line: ClassVar[bool] = True

    def _route(self, path: str) -> str:
        """Where a route of the service is, below its URL."""
        return path

    def _endpoint(self, line: Line) -> str:
        """What a line is answered by, as the service calls it."""
        return f"/v1{line.path}"

    async def _until_usable(self, file: File) -> None:
        """Wait until a batch can be made of a file: here at once."""

    def encoded(self, line: Line) -> bytes:
        """A line of the file, its end included."""
        asked = {
            "custom_id": str(line.id),
            "method": "POST",
            "url": self._endpoint(line),
            "body": line.body,
        }
        return as_json(asked) + b"\n"

    async def submit(
        self, record: BatchRecord, lines: Sequence[Line], known: frozenset[str]
    ) -> str:
        """Upload the lines and make a batch of them."""
        name = record.name
        content = b"".join(map(self.encoded, lines))
        uploaded = await self._post(
            self._route("/files"),
            *_form({"purpose": "batch"}, f"asyncdistil-{name}.jsonl", content),
            kind=File,
            timeout_seconds=self._transfer_seconds,
        )
        await self._until_usable(uploaded)
        order = {
            "input_file_id": uploaded.id,
            "endpoint": self._endpoint(lines[0]),
            "completion_window": "24h",
            "metadata": {NAME_FIELD: name},
        }
        body = msgspec.json.encode(order)

        async def make() -> str:
            reply = await self._client.post(
                self._route("/batches"), body, timeout_seconds=self._timeout_seconds
            )
            return self._read(reply.body, _Batch).id

        return await self._order(make, lambda: self._find(name))

    async def find(self, record: BatchRecord, known: frozenset[str]) -> str:
        """The batch that carries the record's name."""

        async def send() -> tuple[str, int]:
            return await self._find(record.name), 0

        return await self._call(send)

    async def _find(self, name: str) -> str:
        async for batch in self._listed(self._route("/batches"), _Batch, "after"):
            if (batch.metadata or {}).get(NAME_FIELD) == name:
                return batch.id
        return ""

    async def look(self, batch_id: str) -> Progress:
        """See how far a batch is."""
        batch = await self._told_of(self._route(f"/batches/{quote(batch_id, safe='')}"), _Batch)
        if batch is None:
            return Progress("unknown")
        counts = batch.request_counts or _Counts()
        errors = (batch.errors and batch.errors.data) or []
        why = "; ".join(filter(None, (error.message or error.code for error in errors)))
        return Progress(
            _STATES.get(batch.status.lower(), "waiting"),
            (counts.completed or 0) + (counts.failed or 0),
            counts.total or 0,
            self._client.hide(why or batch.status),
            tuple(filter(None, (batch.output_file_id, batch.error_file_id))),
        )

    async def results(self, progress: Progress) -> list[Result] | None:
        """Fetch the file of answers and the file of errors."""
        results: list[Result] = []
        for file in progress.files:
            content = await self._content(self._route(f"/files/{quote(file, safe='')}/content"))
            if content is None:
                return None
            results += self._results(content)
        return results

    def _results(self, content: bytes) -> Iterator[Result]:
        for raw in content.splitlines():
            if not raw.strip():
                continue
            try:
                line = _decode_answered(raw)
            except msgspec.DecodeError:
                continue  # a line that can't be read can't be joined: it counts as not answered
            line_id = LineId.parse(line.custom_id)
            if line_id is not None:
                yield self._result(line_id, line)

    def _result(self, line_id: LineId, line: _Answered) -> Result:
        service = self._client.service
        if line.response is None or line.error is not None:
            said = line.error or _BatchError("no_response")
            text = self._client.hide(said.message or said.code or "no answer")
            trouble = unreadable(f"{service} did not answer a line of a batch: {text}", detail=text)
            return Result(line_id, [], trouble.error(trouble.message, detail=text), passing=True)
        body = bytes(line.response.body)
        try:
            if line.response.status_code >= 400:
                raise RequestFailed(
                    judge_status(
                        line.response.status_code,
                        service=service,
                        headers={},
                        text=self._client.hide(body.decode("utf-8", "replace")),
                        wall_seconds=0.0,
                    )
                )
            return Result(line_id, openai_replies.samples(body, service=service))
        except RequestFailed as failed:
            trouble = failed.trouble
            passing = trouble.course in {Course.RETRY, Course.THROTTLED}
            error = trouble.error(trouble.message, detail=trouble.detail)
            return Result(line_id, [], error, passing=passing)

    async def _post(
        self, path: str, content_type: str, body: bytes, *, kind: type[T], timeout_seconds: float
    ) -> T:
        async def send() -> tuple[T, int]:
            reply = await self._client.post(
                path, body, timeout_seconds=timeout_seconds, content_type=content_type
            )
            return self._read(reply.body, kind), 0

        return await self._call(send)


_decode_answered = msgspec.json.Decoder(_Answered).decode


def _form(fields: dict[str, str], filename: str, content: bytes) -> tuple[str, bytes]:
    """A form with one file, as the content type and the bytes to send."""
    boundary = os.urandom(16).hex()
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
        for name, value in fields.items()
    ]
    parts.append(
        f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{filename}"\r\n'
        "Content-Type: application/jsonl\r\n\r\n"
    )
    whole = "".join(parts).encode() + content + f"\r\n--{boundary}--\r\n".encode()
    return f"multipart/form-data; boundary={boundary}", whole
