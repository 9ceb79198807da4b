"""A stand-in for a model service on the loopback: deterministic, scriptable, quick.

It speaks the OpenAI dialect (chat with and without streaming, completions, embeddings, images,
model list) and enough of the others for their clients. It keeps a log of what it was asked, so that
a test can count paid calls, and names itself in every reply, so that a rehearsal against it can
never be mistaken for production.

In a test::

    with ModelServer(latency_seconds=0.05, script=first_attempts(["500"])) as server:
        llm = OpenAILLM(model="stand-in", base_url=server.url, api_key="any")

From a shell::

    python -m asyncdistil.testing.model_server --port 0 --latency 0.25 --fault 429=0.05

The first line printed is JSON with the ``url``; ``GET /stand-in/stats`` shows the counters,
``GET /stand-in/occupancy?full=64`` how full it was between the first and the last time that 64
requests were being answered at once.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from types import TracebackType
from typing import Any, Self

import msgspec
from aiohttp import web
from xxhash import xxh3_64_intdigest

from asyncdistil.testing import answers, chaos, wire
from asyncdistil.testing.batch_service import BatchService
from asyncdistil.testing.chaos import Fault, Script, Seen
from asyncdistil.testing.dialects import DIALECTS, NAME, Asked, Reader, Said
from asyncdistil.testing.message_batches import MessageBatches
from asyncdistil.testing.occupancy import Occupancy

_CLOSE_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Recorded:
    """One request as it was seen.

    Attributes:
        path: Its path.
        headers: Its headers, names in lower case.
        body: Its body, undecoded.
        prompt: All text of its prompt.
        fault: Kind of the fault it met, empty if it was answered.
    """

    path: str
    headers: Mapping[str, str]
    body: bytes
    prompt: str
    fault: str

    @property
    def json(self) -> Any:
        """The decoded body."""
        return msgspec.json.decode(self.body)


@dataclass(slots=True)
class Stats:
    """Counters of one server.

    Attributes:
        requests: Requests to model routes, faults included.
        answered: Requests that got a whole, good answer.
        throttled: Requests refused with 429.
        faults: Faults committed, by kind.
        in_flight: Requests being served now.
        peak_in_flight: Most at one time.
        texts: Inputs answered; a batch of embeddings counts each.
    """

    requests: int = 0
    answered: int = 0
    throttled: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    in_flight: int = 0
    peak_in_flight: int = 0
    texts: int = 0


class ModelServer:
    """A stand-in model service; a context manager that runs it on a thread of its own.

    Attributes:
        url: Base URL of the OpenAI dialect, ending in ``/v1``; set once started.
        stats: Counters.
        occupancy: How many requests were being answered, over time.
        requests: The last ``keep`` requests, oldest first.
        script: Asked for a fault at each request; may be replaced while running.
        batches: Files and batches of the OpenAI dialect.
        message_batches: Batches of Anthropic's.
    """

    def __init__(
        self,
        *,
        latency_seconds: float = 0.0,
        latency_sigma: float = 0.0,
        concurrent_limit: int = 0,
        requests_per_second: float = 0.0,
        retry_after: str | None = None,
        script: Script | None = None,
        answer: Callable[[Asked, int], str] | None = None,
        api_key: str = "",
        model: str = "stand-in",
        seed: int = 0,
        port: int = 0,
        keep: int = 10_000,
    ) -> None:
        """Prepare a server; nothing listens yet.

        Args:
            latency_seconds: Mean time to answer, or to the first byte of a stream.
            latency_sigma: Spread of the lognormal latency; 0 makes it constant.
            concurrent_limit: Requests in flight above which it answers 429; 0 for no limit.
            requests_per_second: Sustained rate above which it answers 429; 0 for no limit.
            retry_after: ``Retry-After`` header of those refusals.
            script: When to commit which fault.
            answer: Replaces the answers: called with the request and the number of the choice.
            api_key: Key that requests must carry; empty accepts any.
            model: Name in the model list.
            seed: Of latencies.
            port: Port on 127.0.0.1; 0 takes a free one.
            keep: Requests to keep in `requests`.
        """
        self.url = ""
        self.stats = Stats()
        self.occupancy = Occupancy()
        self.requests: deque[Recorded] = deque(maxlen=keep)
        self.script = script
        self.batches = BatchService(self._answer_line)
        self.message_batches = MessageBatches(self._answer_line)
        self._latency = (latency_seconds, latency_sigma)
        self._concurrent_limit = concurrent_limit
        self._rate = requests_per_second
        self._tokens = max(1.0, requests_per_second)
        self._refilled = time.monotonic()
        self._retry_after = retry_after
        self._answer = answer
        self._api_key = api_key
        self._model = model
        self._random = Random(seed)
        self._port = port
        self._attempts: Counter[int] = Counter()
        self._served = 0
        self._runner: web.ServerRunner | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    # --- life -------------------------------------------------------------------------------

    async def start(self) -> None:
        """Listen on the running loop."""
        # Without cancellation a stalled request would outlive the client that gave up on it.
        server = web.Server(self._serve, access_log=None, handler_cancellation=True)
        self._runner = web.ServerRunner(server, shutdown_timeout=_CLOSE_SECONDS)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self._port, backlog=1024)
        await site.start()
        self._port = self._runner.addresses[0][1]
        self.url = f"http://127.0.0.1:{self._port}/v1"

    async def stop(self) -> None:
        """Stop listening and cut the connections; `start` may follow, on the same port."""
        if self._runner is not None:
            server = self._runner.server
            if server is not None:
                # A stalled request would otherwise keep the server open for its whole grace; 0
                # means no limit to aiohttp.
                await server.shutdown(timeout=0.01)
            await self._runner.cleanup()
            self._runner = None

    def __enter__(self) -> Self:
        ready = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._run_loop, args=(ready,), name="stand-in", daemon=True
        )
        self._thread.start()
        ready.wait()
        self.come_back()
        return self

    def _run_loop(self, ready: threading.Event) -> None:
        assert self._loop is not None
        asyncio.set_event_loop(self._loop)
        self._loop.call_soon(ready.set)
        self._loop.run_forever()
        left = asyncio.all_tasks(self._loop)
        for task in left:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        self._loop.close()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._loop is not None
        assert self._thread is not None
        self.go_away()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def go_away(self) -> None:
        """From another thread: refuse connections from now on, and cut those that are open."""
        assert self._loop is not None
        asyncio.run_coroutine_threadsafe(self.stop(), self._loop).result()

    def come_back(self) -> None:
        """From another thread: listen again, on the same port."""
        assert self._loop is not None
        asyncio.run_coroutine_threadsafe(self.start(), self._loop).result()

    # --- requests ---------------------------------------------------------------------------

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        for service in (self.batches, self.message_batches):
            if service.serves(request.path):
                return await self._batch(request, service)
        if request.method != "POST":
            return self._get(request.path, request.query)
        for ending, kind, read, write in DIALECTS:
            if request.path.endswith(ending):
                return await self._ask(request, kind, read, write)
        return wire.error("404", "no such route")

    def _get(self, path: str, query: Mapping[str, str]) -> web.Response:
        if path.endswith("/models"):
            models = [{"id": self._model, "object": "model", "owned_by": NAME}]
            return wire.reply({"object": "list", "data": models})
        if path == "/stand-in/stats":
            return wire.reply(self.stats)
        if path == "/stand-in/occupancy":
            return wire.reply(self.occupancy.while_full(int(query.get("full", 1))))
        if path == "/health":
            return wire.reply({"status": "ok"})
        return wire.error("404", "no such route")

    async def _batch(
        self, request: web.BaseRequest, service: BatchService | MessageBatches
    ) -> web.StreamResponse:
        """Serve the batch service, with the faults of the script."""
        asked = f"{request.method} {request.path}".encode()
        fault = self._judge(request, Asked("", ""), asked, self.stats.requests)
        headers = {name.lower(): value for name, value in request.headers.items()}
        kind = fault.kind if fault else ""
        self.requests.append(Recorded(request.path, headers, b"", "", kind))
        if fault is not None:
            self.stats.faults[fault.kind] += 1
            return await wire.commit(request, fault)
        return await service.serve(request)

    def _answer_line(self, path: str, body: Mapping[str, Any]) -> tuple[int, Any]:
        """Answer a line of a batch as the same request would be answered alone."""
        for ending, kind, read, write in DIALECTS:
            if path.endswith(ending):
                asked = read(body, path)
                try:
                    return 200, write(asked, self._say(asked, kind, ""), 0)
                except answers.SchemaError as error:
                    return 400, {"error": {"message": str(error)}}
        return 404, {"error": {"message": "no such route"}}

    async def _ask(
        self, request: web.BaseRequest, kind: str, read: Reader, write: Callable[..., Any]
    ) -> web.StreamResponse:
        body = await request.read()
        stats = self.stats
        ordinal = stats.requests
        stats.requests += 1
        try:
            asked = read(msgspec.json.decode(body), request.path)
        except (msgspec.DecodeError, KeyError, TypeError, AttributeError) as error:
            return wire.error("400", f"the request can't be read: {error!r}")
        fault = self._judge(request, asked, body, ordinal)
        self.requests.append(
            Recorded(
                path=request.path,
                headers={name.lower(): value for name, value in request.headers.items()},
                body=body,
                prompt=asked.prompt,
                fault=fault.kind if fault else "",
            )
        )
        stats.in_flight += 1
        if fault is None:
            self._serving(+1)
        stats.peak_in_flight = max(stats.peak_in_flight, stats.in_flight)
        try:
            streamed = asked.stream and kind in {"chat", "completion"}
            midway = fault is not None and streamed and fault.kind in chaos.MIDWAY_FAULTS
            if fault is not None:
                stats.faults[fault.kind] += 1
                if fault.after_seconds:
                    await asyncio.sleep(fault.after_seconds)
                if fault.kind not in chaos.REPLY_FAULTS and not midway:
                    return await wire.commit(request, fault)
            if (wait := self._draw_latency()) > 0:
                await asyncio.sleep(wait)
            try:
                said = self._say(asked, kind, fault.kind if fault else "")
            except answers.SchemaError as error:
                return wire.error("400", str(error))
            stats.answered += fault is None
            stats.texts += max(1, len(asked.texts)) if fault is None else 0
            if streamed:
                broken = fault.kind if fault is not None and midway else ""
                return await wire.stream(request, asked, said, ordinal, kind, broken)
            return wire.reply(write(asked, said, ordinal))
        finally:
            stats.in_flight -= 1
            if fault is None:
                self._serving(-1)

    def _serving(self, change: int) -> None:
        self._served += change
        self.occupancy.note(time.monotonic(), self._served)

    def _judge(
        self, request: web.BaseRequest, asked: Asked, body: bytes, ordinal: int
    ) -> Fault | None:
        """Decide which fault this request meets: the key first, then limits, then the script."""
        if self._api_key and self._api_key not in _keys(request.headers):
            return Fault("401", message="Incorrect API key provided: {authorization}")
        if self._concurrent_limit and self.stats.in_flight >= self._concurrent_limit:
            self.stats.throttled += 1
            return Fault("429", self._retry_after, "too many requests at once")
        if self._rate:
            now = time.monotonic()
            room = max(1.0, self._rate)
            self._tokens = min(room, self._tokens + (now - self._refilled) * self._rate)
            self._refilled = now
            if self._tokens < 1:
                self.stats.throttled += 1
                return Fault("429", self._retry_after, "too many requests per second")
            self._tokens -= 1
        if self.script is None:
            return None
        digest = xxh3_64_intdigest(body)
        self._attempts[digest] += 1
        return self.script(Seen(ordinal, self._attempts[digest], request.path, asked.prompt))

    def _draw_latency(self) -> float:
        mean, sigma = self._latency
        if not sigma or not mean:
            return mean
        return self._random.lognormvariate(math.log(mean) - sigma * sigma / 2, sigma)

    def _say(self, asked: Asked, kind: str, fault: str) -> Said:
        if kind in {"embeddings", "images"}:
            return Said([], [], sum(map(answers.count_tokens, asked.texts)), 0)
        said = Said([], [], answers.count_tokens(asked.prompt), 0)
        if fault == "empty_choices":
            return said
        for prompt in asked.texts or [asked.prompt]:
            for index in range(asked.choices):
                text, reason = self._one(asked, prompt, index, fault)
                said.texts.append(text)
                said.reasons.append(reason)
                said.output_tokens += answers.count_tokens(text or "")
        return said

    def _one(self, asked: Asked, prompt: str, index: int, fault: str) -> tuple[str | None, str]:
        if fault in {"null_content", "content_filter"}:
            return None, "stop" if fault == "null_content" else fault
        if fault == "not_json":
            return "this is {not JSON", "stop"
        if self._answer is not None:
            text = self._answer(asked, index)
        else:
            text = answers.answer(prompt, index=index, schema=asked.schema)
        if fault == "length":
            return text[: len(text) // 2], "length"
        if asked.max_tokens and answers.count_tokens(text) > asked.max_tokens:
            return text[: asked.max_tokens * 4], "length"
        return text, "stop"


def _keys(headers: Mapping[str, str]) -> str:
    """Everything in which services expect a key."""
    names = ("Authorization", "api-key", "x-api-key", "x-goog-api-key")
    return " ".join(headers.get(name, "") for name in names)


def _arguments(program: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=program,
        description="An OpenAI-compatible stand-in on 127.0.0.1. Prints its URL as JSON, then "
        "serves until it is interrupted.",
    )
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--latency", type=float, default=0.0, help="mean, in seconds")
    parser.add_argument("--sigma", type=float, default=0.0, help="spread of the latency")
    parser.add_argument("--concurrent-limit", type=int, default=0, help="429 above it")
    parser.add_argument("--rate-limit", type=float, default=0.0, help="requests a second")
    parser.add_argument("--retry-after", default=None, help="header of those refusals")
    parser.add_argument("--api-key", default="", help="key that requests must carry")
    parser.add_argument("--model", default="stand-in", help="name in the model list")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--fault", action="append", default=[], metavar="KIND=SHARE", help="may be repeated"
    )
    return parser


async def _run_forever(server: ModelServer) -> None:
    await server.start()
    sys.stdout.write(msgspec.json.encode({"url": server.url}).decode() + "\n")
    sys.stdout.flush()
    try:
        await asyncio.Event().wait()
    finally:
        await server.stop()


def main(
    arguments: Sequence[str] | None = None, *, program: str = "asyncdistil model-server"
) -> None:
    """Run a server in the foreground until it is interrupted.

    Args:
        arguments: Of the command line; those of this process without it.
        program: What the help calls it.
    """
    given = _arguments(program).parse_args(arguments)
    shares: dict[str | Fault, float] = {
        kind: float(share) for kind, _, share in (text.partition("=") for text in given.fault)
    }
    server = ModelServer(
        latency_seconds=given.latency,
        latency_sigma=given.sigma,
        concurrent_limit=given.concurrent_limit,
        requests_per_second=given.rate_limit,
        retry_after=given.retry_after,
        script=chaos.by_chance(shares, seed=given.seed) if shares else None,
        api_key=given.api_key,
        model=given.model,
        seed=given.seed,
        port=given.port,
        keep=0,
    )
    if sys.platform != "win32":
        import uvloop

        runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
    else:
        runner = asyncio.Runner()
    with runner:
        try:
            runner.run(_run_forever(server))
        except KeyboardInterrupt:
            sys.exit(130)


if __name__ == "__main__":
    main(program="python -m asyncdistil.testing.model_server")
