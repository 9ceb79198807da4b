"""How the stand-in puts replies on the wire, whole, streamed, or broken on purpose."""

from __future__ import annotations

import asyncio
import functools
import zlib
from typing import Any

import msgspec
from aiohttp import web

from asyncdistil.testing import chaos
from asyncdistil.testing.chaos import Fault
from asyncdistil.testing.dialects import NAME, Asked, Said

_BOMB_BYTES = 256 * 1024 * 1024  # what a gzip bomb unpacks to
_WORDS_PER_CHUNK = 4  # of a streamed answer
_encoder = msgspec.json.Encoder()


def reply(value: Any, *, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    """A JSON reply; a header names the stand-in."""
    return web.Response(
        body=_encoder.encode(value),
        status=status,
        content_type="application/json",
        headers={"server": NAME, **(headers or {})},
    )


def error(kind: str, message: str, retry_after: str | None = None) -> web.Response:
    """An error of `chaos.STATUSES` in OpenAI's shape."""
    code = chaos.STATUSES[kind]
    return reply(
        {"error": {"message": message, "type": code, "code": code, "param": None}},
        status=429 if kind == "quota" else int(kind),
        headers={} if retry_after is None else {"Retry-After": retry_after},
    )


async def commit(request: web.BaseRequest, fault: Fault) -> web.StreamResponse:
    """Commit a fault that is no well-formed answer."""
    if fault.kind in chaos.STATUSES:
        keys = request.headers.get("Authorization", "")
        return error(fault.kind, fault.message.replace("{authorization}", keys), fault.retry_after)
    if fault.kind == "garbage":
        return web.Response(text="<html>not what you wanted", content_type="application/json")
    if fault.kind == "gzip_bomb":
        return web.Response(
            body=_bomb(), headers={"Content-Encoding": "gzip", "Content-Type": "application/json"}
        )
    if fault.kind == "stall":
        await asyncio.Event().wait()
    if fault.kind != "reset":
        half = b'{"id": "half", "object": "chat.completion", "choices": [{"index": 0, "mess'
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        if fault.kind == "truncated":
            response.content_length = len(half) * 2
        await response.prepare(request)
        await response.write(half)
        if fault.kind == "stall_midway":
            await asyncio.Event().wait()
    cut(request, clean=fault.kind == "truncated")
    raise asyncio.CancelledError


def cut(request: web.BaseRequest, *, clean: bool) -> None:
    """End the connection: with a regular close, or with a reset."""
    transport = request.transport
    if transport is None:
        return
    if clean:
        transport.close()
    else:
        transport.abort()


@functools.cache
def _bomb() -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    zeros = bytes(1024 * 1024)
    packed = [packer.compress(zeros) for _ in range(_BOMB_BYTES // len(zeros))]
    return b"".join([*packed, packer.flush()])


async def stream(
    request: web.BaseRequest, asked: Asked, said: Said, ordinal: int, kind: str, fault: str = ""
) -> web.StreamResponse:
    """Send an answer in pieces, as server-sent events.

    With the fault ``reset_midway``, ``truncated`` or ``stall_midway`` it breaks off after the first
    piece: by a reset, by a regular end, or by silence.
    """
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "server": NAME})
    await response.prepare(request)
    head = {
        "id": f"chunk-{ordinal}",
        "object": "chat.completion.chunk",
        "model": asked.model,
        "system_fingerprint": NAME,
    }

    async def send(choices: list[dict[str, Any]], **more: Any) -> None:
        event = _encoder.encode({**head, "choices": choices, **more})
        await response.write(b"data: " + event + b"\n\n")

    for index, (text, reason) in enumerate(zip(said.texts, said.reasons, strict=True)):
        words = (text or "").split(" ")
        for start in range(0, len(words), _WORDS_PER_CHUNK):
            space = " " if start else ""
            piece = space + " ".join(words[start : start + _WORDS_PER_CHUNK])
            part: dict[str, Any] = (
                {"delta": {"content": piece}} if kind == "chat" else {"text": piece}
            )
            await send([{"index": index, **part, "finish_reason": None}])
            if fault == "stall_midway":
                await asyncio.Event().wait()
            elif fault == "truncated":
                await response.write_eof()
                return response
            elif fault == "reset_midway":
                cut(request, clean=False)
                raise asyncio.CancelledError
        end: dict[str, Any] = {"delta": {}} if kind == "chat" else {"text": ""}
        await send([{"index": index, **end, "finish_reason": reason}])
    if (asked.fields.get("stream_options") or {}).get("include_usage"):
        total = said.input_tokens + said.output_tokens
        usage = {"prompt_tokens": said.input_tokens, "completion_tokens": said.output_tokens}
        await send([], usage={**usage, "total_tokens": total})
    await response.write(b"data: [DONE]\n\n")
    await response.write_eof()
    return response
