"""Services that answer on the wire as they please: byte by byte from here, no HTTP library."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from asyncdistil.errors import ModelAuthError, ModelNotFound, ParameterError
from asyncdistil.memo import Memo, Replies
from asyncdistil.models import OllamaLLM, OpenAILLM, memoized
from asyncdistil.models.http import HttpClient
from asyncdistil.models.memoized import LocalClaims
from asyncdistil.models.reply import Reply
from asyncdistil.models.typing import GenerateOutput
from asyncdistil.pipeline import Pipeline
from asyncdistil.steps import LoadDataFromDicts
from asyncdistil.steps.tasks import TextGeneration

CANARY = "sk-canary-52c0ffee9d1e"


class Asked(NamedTuple):
    line: str
    headers: dict[str, str]
    body: bytes


Say = Callable[[Asked], bytes | Iterable[bytes]]

_BETWEEN_PARTS_SECONDS = 0.01


class Wire:
    """Writes whatever ``say`` returns, at once or bit by bit; keeps what it was asked."""

    def __init__(self, say: Say, host: str = "127.0.0.1") -> None:
        self.asked: list[Asked] = []
        self._say = say
        self._host = host
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> Wire:
        self._thread.start()
        starting = asyncio.start_server(self._serve, self._host, 0)
        self._server = asyncio.run_coroutine_threadsafe(starting, self._loop).result()
        port = self._server.sockets[0].getsockname()[1]
        host = f"[{self._host}]" if ":" in self._host else self._host
        self.url = f"http://{host}:{port}/v1"
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _close(self) -> None:
        self._server.close()
        here = asyncio.current_task()
        serving = [task for task in asyncio.all_tasks() if task is not here]
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)

    @property
    def prompts(self) -> list[Asked]:
        """What it was asked besides its name."""
        return [asked for asked in self.asked if asked.line.startswith("POST")]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                line, *rest = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
                pairs = (text.partition(":")[::2] for text in rest if text)
                headers = {name.lower(): value.strip() for name, value in pairs}
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                self.asked.append(Asked(line, headers, body))
                said = self._say(self.asked[-1])
                if not isinstance(said, bytes):
                    await self._drip(said, writer)
                    return
                writer.write(said)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _drip(self, parts: Iterable[bytes], writer: asyncio.StreamWriter) -> None:
        for part in parts:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(_BETWEEN_PARTS_SECONDS)


def sent(body: bytes | str | dict[str, Any], status: int = 200, **headers: str) -> bytes:
    data = json.dumps(body) if isinstance(body, dict) else body
    raw = data.encode() if isinstance(data, str) else data
    lines = [f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items()]
    head = f"HTTP/1.1 {status} X\r\nContent-Length: {len(raw)}\r\n{''.join(lines)}\r\n"
    return head.encode() + raw


def answer(text: Any = "fine", **fields: Any) -> dict[str, Any]:
    choice = {"index": 0, "message": {"content": text}, "finish_reason": "stop"}
    return {"choices": [choice], "usage": {"prompt_tokens": 3, "completion_tokens": 2}, **fields}


def events(*parts: Any, end: bytes = b"data: [DONE]\n\n") -> bytes:
    lines = [part if isinstance(part, bytes) else json.dumps(part).encode() for part in parts]
    return sent(b"".join(b"data: %s\n\n" % line for line in lines) + end)


def piece(reason: str | None = None, **delta: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": reason}]}


def model(url: str, **kwargs: Any) -> OpenAILLM:
    kwargs = {"api_key": CANARY, "max_retries": 0, **kwargs}
    return OpenAILLM(model="m", base_url=url, **kwargs)


def asked(llm: Any, prompt: str = "hi", count: int = 1, **kwargs: Any) -> GenerateOutput:
    [output] = llm.generate_outputs([[{"role": "user", "content": prompt}]], count, **kwargs)
    return output


def told(output: GenerateOutput) -> str:
    [failure] = output["failures"]
    assert failure is not None
    assert "Traceback" not in failure.detail
    return failure.message


@pytest.fixture
def memo(tmp_path: Path) -> Iterator[None]:
    opened = Memo.open(tmp_path / "memo")
    memoized.use_store(Replies(opened, Reply))
    yield
    opened.close()


# --- who gets the key and the prompt ------------------------------------------------------------


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_to_another_host_gets_neither_key_nor_prompt(status: int, loaded: Any) -> None:
    with Wire(lambda _: sent(answer("stolen"))) as thief:
        place = thief.url.replace("127.0.0.1", "localhost") + "/chat/completions?secret=1"
        with Wire(lambda _: sent("", status, Location=place)) as wire:
            llm = loaded(model(wire.url, default_headers={"x-api-key": CANARY}))
            output = asked(llm)
            assert output["generations"] == [None]
            assert f"answered {status}, a redirect to http://localhost" in told(output)
            assert "give its URL instead" in told(output)
        assert thief.asked == []


@pytest.mark.parametrize("status", [307, 308])
def test_a_redirect_within_the_service_is_followed_with_the_prompt(
    status: int, loaded: Any
) -> None:
    def say(asked: Asked) -> bytes:
        moved = "/moved" in asked.line
        return sent(answer("there")) if moved else sent("", status, Location="/moved")

    with Wire(say) as wire:
        assert asked(loaded(model(wire.url)), "where")["generations"] == ["there"]
        assert b"where" in wire.asked[-1].body
        assert wire.asked[-1].headers["authorization"] == f"Bearer {CANARY}"


def test_a_redirect_that_would_drop_the_prompt_is_no_answer(loaded: Any) -> None:
    with Wire(lambda _: sent("", 302, Location="/login")) as wire:
        assert "a redirect to" in told(asked(loaded(model(wire.url))))
        assert len(wire.asked) == 1


def test_redirects_in_a_circle_end(loaded: Any) -> None:
    with Wire(lambda _: sent("", 307, Location="/again")) as wire:
        assert "redirects more than 5 times" in told(asked(loaded(model(wire.url))))


@pytest.mark.parametrize("stream", [False, True])
def test_a_key_that_is_echoed_in_an_error_sent_as_an_answer_is_struck_out(
    stream: bool, loaded: Any
) -> None:
    error = {"error": {"message": f"no such key: {CANARY}", "code": 503}}
    with Wire(lambda _: events(error) if stream else sent(error)) as wire:
        output = asked(loaded(model(wire.url, stream=stream)))
    assert "no such key" in told(output)
    assert CANARY not in repr(output)


def test_no_key_in_a_header_or_in_the_query_of_a_url_is_in_any_file(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    header, query = "hdr-" + CANARY, "qry-" + CANARY

    def say(asked: Asked) -> bytes:
        return sent({"error": {"message": f"not these: {header} {query}"}}, 400)

    with Wire(say) as wire:
        with Pipeline("leaky", cache_dir=tmp_path) as pipeline:
            llm = model(f"{wire.url}?version=1&key={query}", default_headers={"X-Team-Key": header})
            LoadDataFromDicts(data=[{"instruction": "a"}]) >> TextGeneration(llm=llm)
        pipeline.run()
        assert "not these" in caplog.text
        assert wire.prompts[0].headers["x-team-key"] == header
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert [path for path in files if CANARY.encode() in path.read_bytes()] == []
    assert CANARY not in caplog.text


# --- where it is --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ending", "line"),
    [
        ("", "POST /v1/chat/completions "),
        ("//", "POST /v1/chat/completions "),
        ("?api-version=1", "POST /v1/chat/completions?api-version=1 "),
        ("/?a=b#part", "POST /v1/chat/completions?a=b "),
    ],
)
def test_the_path_of_a_request_goes_before_the_query_of_the_url(
    ending: str, line: str, loaded: Any
) -> None:
    with Wire(lambda _: sent(answer())) as wire:
        assert asked(loaded(model(wire.url + ending)))["generations"] == ["fine"]
        assert wire.asked[0].line.startswith(line)


def test_an_ipv6_address_is_an_address(loaded: Any) -> None:
    try:
        with Wire(lambda _: sent(answer()), host="::1") as wire:
            assert asked(loaded(model(wire.url)))["generations"] == ["fine"]
    except OSError as error:
        pytest.skip(f"this machine has no IPv6 loopback: {error}")


def test_a_user_in_the_url_is_sent_as_basic_authorization(loaded: Any) -> None:
    with Wire(lambda _: sent(answer())) as wire:
        url = wire.url.replace("://", "://me:a%40b@")
        asked(loaded(model(url, api_key="")))
        assert wire.asked[0].headers["authorization"] == "Basic bWU6YUBi"


@pytest.mark.parametrize(
    ("url", "fields", "message"),
    [
        ("http://me:pw@127.0.0.1:9/v1", {}, "leave one of them out"),
        ("http://127.0.0.1:99999/v1", {}, "Port out of range"),
        ("http://127.0.0.1:9/v1", {"api_key": CANARY + "\n"}, "strip it"),
        ("http://127.0.0.1:9/v1", {"api_key": CANARY + "\ud800"}, "strip it"),
        ("http://127.0.0.1:9/v1", {"default_headers": {"x": "a\r\nb"}}, "header 'x'"),
    ],
)
def test_what_can_never_be_sent_is_refused_when_the_model_loads(
    url: str, fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(ParameterError, match=message) as raised:
        model(url, **fields).load()
    assert CANARY not in str(raised.value)


def test_this_machine_is_asked_without_a_proxy_and_others_with_it(
    loaded: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("NO_PROXY", "no_proxy", "http_proxy"):
        monkeypatch.delenv(name, raising=False)
    with Wire(lambda _: sent(answer("by proxy"))) as proxy, Wire(lambda _: sent(answer())) as wire:
        monkeypatch.setenv("http_proxy", proxy.url.removesuffix("/v1").removeprefix("http://"))
        assert asked(loaded(model(wire.url)))["generations"] == ["fine"]
        assert asked(loaded(model("http://far.invalid/v1")))["generations"] == ["by proxy"]
        assert proxy.asked[0].line.startswith("POST http://far.invalid/v1/chat/completions")
        monkeypatch.setenv("no_proxy", "far.invalid:8080")
        assert HttpClient("http://far.invalid:8080/v1", headers={})._proxy is None


# --- what is not there --------------------------------------------------------------------------

NO_MODEL = {"error": {"message": "The model `m` does not exist", "code": "model_not_found"}}
NO_PICTURE = {"error": {"message": "image http://somewhere/cat.png not found", "code": 404}}


@pytest.mark.parametrize("body", [NO_MODEL, "404 page not found"])
def test_a_model_or_route_that_is_not_there_is_told_once(body: Any, loaded: Any) -> None:
    with Wire(lambda _: sent(body, 404)) as wire:
        llm = loaded(model(wire.url, max_concurrency=4))
        chats = [[{"role": "user", "content": str(number)}] for number in range(100)]
        for _ in range(2):
            with pytest.raises(ModelNotFound, match="answered 404"):
                llm.generate_outputs(chats)
        assert len(wire.asked) <= 4


def test_a_404_about_one_row_costs_no_other(loaded: Any) -> None:
    def say(asked: Asked) -> bytes:
        return sent(NO_PICTURE, 404) if b"cat" in asked.body else sent(answer())

    with Wire(say) as wire:
        llm = loaded(model(wire.url))
        assert "cat.png not found" in told(asked(llm, "a cat"))
        assert asked(llm, "a dog")["generations"] == ["fine"]


def test_a_404_after_an_answer_is_about_its_row_whatever_it_says(loaded: Any) -> None:
    with Wire(lambda _: sent(answer()) if len(wire.asked) == 1 else sent(NO_MODEL, 404)) as wire:
        llm = loaded(model(wire.url))
        assert asked(llm)["generations"] == ["fine"]
        assert "does not exist" in told(asked(llm))


# --- answers that were paid for -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("usage", "counts"),
    [
        (None, (0, 0)),
        ("none", (0, 0)),
        ({"prompt_tokens": "3", "completion_tokens": 2.0}, (3, 2)),
        ({"prompt_tokens": -5, "completion_tokens": "many"}, (0, 0)),
        ({"prompt_tokens": 10**30, "completion_tokens": 1}, (0, 1)),
    ],
)
def test_an_answer_counts_whatever_is_said_of_its_tokens(
    usage: Any, counts: tuple[int, int], loaded: Any
) -> None:
    with Wire(lambda _: sent(answer(usage=usage))) as wire:
        output = asked(loaded(model(wire.url, price=(1.0, 1.0))))
        assert len(wire.asked) == 1
    assert output["generations"] == ["fine"]
    statistics = output["statistics"]
    assert (statistics["input_tokens"], statistics["output_tokens"]) == ([counts[0]], [counts[1]])


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (json.dumps(answer("x\ud800y")), "x\ufffdy"),
        (json.dumps(answer("\ud83d\ude00")), "\U0001f600"),
        (json.dumps(answer(score=float("nan"))), "fine"),
        ("\ufeff" + json.dumps(answer()), "fine"),
        (json.dumps(answer(model=5, system_fingerprint={})), "fine"),
        (json.dumps(answer(["a", {"type": "text", "text": "b"}, {"text": 5}])), "ab"),
    ],
)
def test_careless_json_is_an_answer_all_the_same(body: str, text: str, loaded: Any) -> None:
    with Wire(lambda _: sent(body)) as wire:
        assert asked(loaded(model(wire.url)))["generations"] == [text]


def test_log_probabilities_of_an_unknown_shape_cost_no_answer(loaded: Any) -> None:
    reply = answer()
    reply["choices"][0]["logprobs"] = {"content": [{"word": "fine"}]}
    with Wire(lambda _: sent(reply)) as wire:
        assert asked(loaded(model(wire.url)))["generations"] == ["fine"]


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (sent("<html>Sign in</html>"), "a web page and no JSON; see whether the service's URL"),
        (sent(b'{"x":' + b"[" * 1_000_000 + b"]" * 1_000_000 + b"}"), "nested too deep"),
        (sent(b'{"error":' + b"[" * 50_000, 400), "answered 400"),
        (sent(json.dumps(answer("ZZ")).encode().replace(b"ZZ", b"caf\xe9")), "not UTF-8"),
    ],
)
def test_a_reply_that_is_none_is_told_in_words(reply: bytes, message: str, loaded: Any) -> None:
    with Wire(lambda _: reply) as wire:
        assert message in told(asked(loaded(model(wire.url))))


@pytest.mark.parametrize("deterministic", [False, True])
def test_a_service_that_gives_one_answer_at_a_time_is_asked_until_there_are_enough(
    deterministic: bool, loaded: Any, memo: None
) -> None:
    with Wire(lambda asked: sent(answer(str(len(wire.prompts))))) as wire:
        llm = loaded(model(wire.url))
        options = {"temperature": 0.0} if deterministic else {}
        first = asked(llm, "a", 3, **options)
        assert first["generations"] == ["1", "2", "3"]
        memoized._local_claims = LocalClaims()
        assert asked(llm, "a", 3, **options)["generations"] == ["1", "2", "3"]
        assert len(wire.prompts) == 3


def test_more_answers_than_were_asked_for_are_cut(loaded: Any) -> None:
    reply = answer()
    reply["choices"] = [{"index": n, "message": {"content": str(n)}} for n in range(3)]
    with Wire(lambda _: sent(reply)) as wire:
        assert asked(loaded(model(wire.url)), count=2)["generations"] == ["0", "1"]


def test_answers_that_came_before_a_refusal_are_kept(loaded: Any, memo: None) -> None:
    mended = False

    def say(asked: Asked) -> bytes:
        if asked.line.startswith("GET"):
            return sent({})
        number = len(wire.prompts)
        if number == 3 and not mended:
            return sent({"error": "no such key"}, 401)
        return sent({"message": {"content": str(number)}, "done_reason": "stop"})

    with Wire(say) as wire:
        llm = loaded(OllamaLLM(model="m", host=wire.url, max_concurrency=1))
        with pytest.raises(ModelAuthError):
            asked(llm, "a", 4)
        mended = True
        memoized._local_claims = LocalClaims()
        again = loaded(OllamaLLM(model="m", host=wire.url, max_concurrency=1))
        assert asked(again, "a", 4)["generations"] == ["1", "2", "4", "5"]


# --- streams ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reply", "text"),
    [
        (events(piece(content="a"), b"", piece("stop", content="b")), "ab"),
        (events(piece(content=[{"text": "a"}]), piece("stop", content="b")), "ab"),
        (events(b'{"choices":[{"index":null,"delta":{"content":"a"}}]}', piece("stop")), "a"),
        (events(end=b"data: " + json.dumps(piece("stop", content="z")).encode()), "z"),
        (
            events(
                b'{"choices":[{"index":0,"delta":{"content":"\\ud83d"}}]}',
                b'{"choices":[{"index":0,"delta":{"content":"\\ude00"},"finish_reason":"stop"}]}',
            ),
            "\U0001f600",
        ),
        (events({**piece("stop", content="a"), "usage": "x", "model": 5}), "a"),
    ],
)
def test_a_careless_stream_is_an_answer_all_the_same(reply: bytes, text: str, loaded: Any) -> None:
    with Wire(lambda _: reply) as wire:
        assert asked(loaded(model(wire.url, stream=True)))["generations"] == [text]


def test_a_streamed_call_of_a_tool_is_the_same_answer_as_a_whole_one(loaded: Any) -> None:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}
    whole = answer("")
    whole["choices"][0]["message"]["tool_calls"] = [call]
    first = {"index": 0, **call, "function": {"name": "f", "arguments": '{"a"'}}
    rest = {"index": 0, "function": {"arguments": ":1}"}}
    parts = events(piece(tool_calls=[first]), piece(tool_calls=[rest]), piece("tool_calls"))
    for stream, reply in ((False, sent(whole)), (True, parts)):
        with Wire(lambda _, reply=reply: reply) as wire:  # type: ignore[misc]
            [text] = asked(loaded(model(wire.url, stream=stream)))["generations"]
        assert text is not None
        assert json.loads(text) == [call]


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (5, "of an unknown shape"),
        (None, "of an unknown shape"),
        ({"choices": "x"}, "of an unknown shape"),
        ({"choices": [{"index": [1], "delta": {}}]}, "of an unknown shape"),
        (piece(content=5), "of an unknown shape"),
        (b"[" * 1_000_000 + b"]" * 1_000_000, "nested too deep"),
        (b"{", "not JSON"),
        (b'{"choices":"caf\xe9"}', "not JSON"),
    ],
)
def test_an_event_that_is_none_is_told_in_words(part: Any, message: str, loaded: Any) -> None:
    with Wire(lambda _: events(part, piece("stop", content="b"))) as wire:
        assert message in told(asked(loaded(model(wire.url, stream=True))))


def test_a_web_page_in_place_of_a_stream_is_named(loaded: Any) -> None:
    with Wire(lambda _: sent("<html>\nSign in</html>")) as wire:
        assert "a web page" in told(asked(loaded(model(wire.url, stream=True))))


def test_a_stream_that_only_keeps_the_line_open_ends_with_the_deadline(loaded: Any) -> None:
    def pings() -> Iterator[bytes]:
        yield b"HTTP/1.1 200 X\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
        yield from [b": ping\n\n"] * 300
        yield b"data: %s\n\ndata: [DONE]\n\n" % json.dumps(piece("stop", content="late")).encode()

    with Wire(lambda _: pings()) as wire:
        llm = loaded(model(wire.url, stream=True, deadline_seconds=0.3, max_retries=5))
        message = told(asked(llm))
        assert "not done answering" in message
        assert "the deadline of 0.3 s" in message
        assert len(wire.asked) == 1


# --- prompts ------------------------------------------------------------------------------------


def test_half_a_surrogate_pair_in_a_prompt_fails_its_row_alone_and_is_shown(loaded: Any) -> None:
    with Wire(lambda _: sent(answer())) as wire:
        llm = loaded(model(wire.url))
        chats = [[{"role": "user", "content": text}] for text in ("before \ud800 after", "whole")]
        bad, good = llm.generate_outputs(chats)
        assert "'before \\ud800 after' holds half of a surrogate pair" in told_kind(bad)
        assert good["generations"] == ["fine"]
        assert len(wire.asked) == 1


def told_kind(output: GenerateOutput) -> str:
    [failure] = output["failures"]
    assert failure is not None
    assert failure.kind == "asyncdistil.errors.UnencodableValue"
    return failure.message
