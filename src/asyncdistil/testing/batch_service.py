"""The batch service of the stand-in: files, batches made of them, files of answers.

A batch is worked on when it is looked at, not by the clock, so that a test says after how many
looks it is done, and how it ends.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import msgspec
from aiohttp import web

from asyncdistil.testing import wire
from asyncdistil.testing.dialects import NAME

Answerer: TypeAlias = Callable[[str, Mapping[str, Any]], tuple[int, Any]]
"""Given a path and a request: status and body of the reply."""

_FILES, _BATCHES = "/v1/files", "/v1/batches"
_AZURE = "/openai/"


@dataclass(slots=True)
class Batch:
    """One batch.

    Attributes:
        id: Its id.
        order: The request that made it.
        looks: How often it was looked at.
        fate: How it ends: ``completed``, ``expired`` (every second line was answered),
            ``failed`` (refused whole) or ``cancelled``.
        done: Whether it has come to its end.
        files: Ids of its files of answers and errors.
    """

    id: str
    order: Mapping[str, Any]
    fate: str
    looks: int = 0
    done: bool = False
    files: dict[str, str] = field(default_factory=dict)


class BatchService:
    """Keeps files and batches of one server.

    Attributes:
        looks_until_done: A batch is done when it is looked at for this time.
        fates: Ends of the next batches, in order; those after them are ``completed``.
        loses_replies: So many of the next batches are made and not confirmed: the connection is
            cut instead.
        refuses: Says of a request with which status its line fails; 0 if it is answered.
        lines: How often each line was submitted, by ``custom_id``.
        prompts: How often each request body was submitted.
        batches: All batches, oldest first.
        looks_until_usable: On Azure's paths, a file can be used when it is looked at for this time.
        file_status: What becomes of files there, once they were looked at so often.
    """

    def __init__(self, answer: Answerer) -> None:
        """Plan a service.

        Args:
            answer: Answers a line.
        """
        self.looks_until_done = 1
        self.fates: deque[str] = deque()
        self.loses_replies = 0
        self.refuses: Callable[[Mapping[str, Any]], int] = lambda body: 0
        self.lines: Counter[str] = Counter()
        self.prompts: Counter[bytes] = Counter()
        self.batches: dict[str, Batch] = {}
        self.looks_until_usable = 1
        self.file_status = "processed"
        self._file_looks: Counter[str] = Counter()
        self._answer = answer
        self._files: dict[str, bytes] = {}

    def serves(self, path: str) -> bool:
        """Whether a path is one of this service's."""
        return _plain(path).startswith((_FILES, _BATCHES))

    async def serve(self, request: web.BaseRequest) -> web.Response:
        """Answer a request to one of these paths."""
        path, azure = _plain(request.path), request.path.startswith(_AZURE)
        if azure and not request.query.get("api-version"):
            return wire.error("404", "an api-version is wanted")
        parts = path.removeprefix("/v1/").split("/")
        if path == _FILES and request.method == "POST":
            return await self._upload(request, azure=azure)
        if path == _BATCHES:
            if request.method == "POST":
                reply = self._make(msgspec.json.decode(await request.read()), azure=azure)
                if self.loses_replies:
                    self.loses_replies -= 1
                    wire.cut(request, clean=False)
                    raise asyncio.CancelledError
                return reply
            return self._list(request.query)
        if parts[0] == "files" and parts[-1] == "content" and parts[1] in self._files:
            return web.Response(body=self._files[parts[1]], content_type="application/jsonl")
        if azure and parts[0] == "files" and parts[1] in self._files:
            return wire.reply(self._looked_through(parts[1]))
        batch = self.batches.get(parts[1]) if parts[0] == "batches" else None
        if batch is None:
            return wire.error("404", "no such file or batch")
        if parts[-1] == "cancel":
            batch.fate = "cancelled"
        return self._look(batch)

    async def _upload(self, request: web.BaseRequest, *, azure: bool) -> web.Response:
        form = await request.post()
        given = form.get("file")
        if form.get("purpose") != "batch" or not isinstance(given, web.FileField):
            return wire.error("400", "a file and the purpose 'batch' are wanted")
        name = f"file-{len(self._files)}"
        self._files[name] = given.file.read()
        shown = {"id": name, "object": "file", "purpose": "batch"}
        return wire.reply({**shown, "status": "pending"} if azure else shown)

    def _looked_through(self, name: str) -> dict[str, Any]:
        self._file_looks[name] += 1
        usable = self._file_looks[name] >= self.looks_until_usable
        return {"id": name, "status": self.file_status if usable else "pending"}

    def _make(self, order: Mapping[str, Any], *, azure: bool) -> web.Response:
        if azure and self._file_looks[order.get("input_file_id", "")] < self.looks_until_usable:
            return wire.error("400", "the file is not processed yet")
        if azure != (order.get("endpoint") == "/chat/completions"):
            return wire.error("400", "there is no such endpoint")
        content = self._files.get(order.get("input_file_id", ""))
        if content is None or order.get("completion_window") != "24h":
            return wire.error("400", "an uploaded file and the window '24h' are wanted")
        for line in content.splitlines():
            asked = msgspec.json.decode(line)
            if asked["url"] != order["endpoint"]:
                return wire.error("400", "a line is not for the endpoint of the batch")
            self.lines[asked["custom_id"]] += 1
            self.prompts[msgspec.json.encode(asked["body"])] += 1
        fate = self.fates.popleft() if self.fates else "completed"
        batch = Batch(f"batch_{len(self.batches)}", order, fate)
        self.batches[batch.id] = batch
        return wire.reply(self._shown(batch))

    def _list(self, query: Mapping[str, str]) -> web.Response:
        newest_first = list(reversed(self.batches.values()))
        ids = [batch.id for batch in newest_first]
        start = ids.index(query["after"]) + 1 if query.get("after") in ids else 0
        stop = start + int(query.get("limit", 20))
        page = [self._shown(batch) for batch in newest_first[start:stop]]
        return wire.reply({"object": "list", "data": page, "has_more": stop < len(ids)})

    def _look(self, batch: Batch) -> web.Response:
        batch.looks += 1
        if not batch.done and batch.looks >= self.looks_until_done:
            batch.done = True
            self._work(batch)
        return wire.reply(self._shown(batch))

    def _work(self, batch: Batch) -> None:
        content = self._files[batch.order["input_file_id"]]
        answered: list[Any] = []
        failed: list[Any] = []
        for place, line in enumerate(content.splitlines()):
            asked = msgspec.json.decode(line)
            if batch.fate == "expired" and place % 2:
                error = {"code": "batch_expired", "message": "the window of the batch has closed"}
                failed.append({"custom_id": asked["custom_id"], "response": None, "error": error})
                continue
            status = self.refuses(asked["body"])
            body: Any = {"error": {"message": "the line is refused", "code": status}}
            if not status:
                status, body = self._answer(batch.order["endpoint"], asked["body"])
            response = {"status_code": status, "request_id": f"req_{place}", "body": body}
            told = {"custom_id": asked["custom_id"], "response": response, "error": None}
            (answered if status == 200 else failed).append(told)
        if batch.fate in {"completed", "expired"}:
            # Newest first: nobody may rely on the order of the lines.
            self._keep(batch, "output_file_id", answered[::-1])
            self._keep(batch, "error_file_id", failed)

    def _keep(self, batch: Batch, which: str, lines: list[Any]) -> None:
        if lines:
            name = f"file-{len(self._files)}"
            self._files[name] = b"\n".join(map(msgspec.json.encode, lines))
            batch.files[which] = name

    def _shown(self, batch: Batch) -> dict[str, Any]:
        total = len(self._files[batch.order["input_file_id"]].splitlines())
        why = [{"code": "invalid_request", "message": "the file of the batch is not accepted"}]
        failed = batch.done and batch.fate == "failed"
        counts: dict[str, int | None]
        counts = {"total": total, "completed": total * batch.done, "failed": 0}
        waiting = "in_progress"
        if not batch.done and not batch.order["endpoint"].startswith("/v1/"):
            # Azure knows no counts as long as it looks through the file.
            counts, waiting = dict.fromkeys(counts), "Validating"
        return {
            "id": batch.id,
            "object": "batch",
            "status": batch.fate if batch.done else waiting,
            "endpoint": batch.order["endpoint"],
            "input_file_id": batch.order["input_file_id"],
            "metadata": batch.order.get("metadata"),
            "errors": {"object": "list", "data": why} if failed else None,
            "request_counts": counts,
            "system_fingerprint": NAME,
            **batch.files,
        }


def _plain(path: str) -> str:
    """A path of Azure as OpenAI has it."""
    return f"/v1/{path.removeprefix(_AZURE)}" if path.startswith(_AZURE) else path
