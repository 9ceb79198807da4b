"""The stand-in's Message Batches: Anthropic's way of asking for many answers at once."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import msgspec
from aiohttp import web

from asyncdistil.testing import wire
from asyncdistil.testing.batch_service import Answerer

PATH = "/v1/messages/batches"
_ERRORS = {400: "invalid_request_error", 404: "not_found_error"}


@dataclass(slots=True)
class MessageBatch:
    """One batch.

    Attributes:
        id: Its id.
        requests: What was asked: ``custom_id`` and ``params``.
        fate: ``completed``, ``expired`` (every second request was answered) or ``canceled``
            (likewise).
        made_seconds: When it was made, Unix time.
        looks: How often it was looked at.
        results: Once it has ended: by request, what became of it.
    """

    id: str
    requests: list[Mapping[str, Any]]
    fate: str
    made_seconds: float
    looks: int = 0
    results: list[dict[str, Any]] = field(default_factory=list)


class MessageBatches:
    """Keeps the batches of one server.

    Attributes:
        looks_until_done: A batch is done when it is looked at for this time.
        fates: Ends of the next batches, in order; those after them are ``completed``.
        loses_replies: So many of the next batches are made and not confirmed.
        refuses: Says of a request with which status it fails; 0 if it is answered.
        prompts: How often each request was submitted, by its params.
        batches: All batches, oldest first.
    """

    def __init__(self, answer: Answerer) -> None:
        """Plan a service.

        Args:
            answer: Answers a request.
        """
        self.looks_until_done = 1
        self.fates: deque[str] = deque()
        self.loses_replies = 0
        self.refuses: Callable[[Mapping[str, Any]], int] = lambda params: 0
        self.prompts: Counter[bytes] = Counter()
        self.batches: dict[str, MessageBatch] = {}
        self._answer = answer

    def serves(self, path: str) -> bool:
        """Whether a path is one of this service's."""
        return path.startswith(PATH)

    async def serve(self, request: web.BaseRequest) -> web.Response:
        """Answer a request to one of these paths."""
        if not request.headers.get("anthropic-version"):
            return wire.error("400", "anthropic-version is wanted")
        name, _, what = request.path.removeprefix(PATH).strip("/").partition("/")
        if not name and request.method == "POST":
            reply = self._make(msgspec.json.decode(await request.read()))
            if self.loses_replies:
                self.loses_replies -= 1
                wire.cut(request, clean=False)
                raise asyncio.CancelledError
            return reply
        if not name:
            newest_first = [self._shown(batch) for batch in reversed(self.batches.values())]
            return wire.reply({"data": newest_first, "has_more": False})
        batch = self.batches.get(name)
        if batch is None:
            return wire.error("404", "no such batch")
        if what == "results":
            lines = b"\n".join(map(msgspec.json.encode, batch.results[::-1]))
            return web.Response(body=lines, content_type="application/x-jsonl")
        batch.looks += 1
        if not batch.results and batch.looks >= self.looks_until_done:
            batch.results = [self._result(batch, n) for n in range(len(batch.requests))]
        return wire.reply(self._shown(batch))

    def _make(self, order: Mapping[str, Any]) -> web.Response:
        for asked in order["requests"]:
            self.prompts[msgspec.json.encode(asked["params"])] += 1
        fate = self.fates.popleft() if self.fates else "completed"
        name = f"msgbatch_{len(self.batches)}"
        self.batches[name] = MessageBatch(name, order["requests"], fate, time.time())
        return wire.reply(self._shown(self.batches[name]))

    def _result(self, batch: MessageBatch, place: int) -> dict[str, Any]:
        asked = batch.requests[place]
        status = self.refuses(asked["params"])
        result: dict[str, Any]
        if batch.fate != "completed" and place % 2:
            result = {"type": batch.fate}
        elif status:
            error = {"type": _ERRORS.get(status, "api_error"), "message": "the request is refused"}
            result = {"type": "errored", "error": {"type": "error", "error": error}}
        else:
            _, message = self._answer("/v1/messages", asked["params"])
            result = {"type": "succeeded", "message": message}
        return {"custom_id": asked["custom_id"], "result": result}

    def _shown(self, batch: MessageBatch) -> dict[str, Any]:
        counts = Counter(result["result"]["type"] for result in batch.results)
        made = datetime.fromtimestamp(batch.made_seconds, UTC).isoformat()
        return {
            "id": batch.id,
            "type": "message_batch",
            "processing_status": "ended" if batch.results else "in_progress",
            "request_counts": {
                "processing": 0 if batch.results else len(batch.requests),
                **{kind: counts[kind] for kind in ("succeeded", "errored", "canceled", "expired")},
            },
            "created_at": made.replace("+00:00", "Z"),
        }
