"""The stand-in service itself: deterministic, countable, and a name in every reply."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import urllib.error
import urllib.request
from typing import Any

import aiohttp
import msgspec
import pytest

from asyncdistil.testing import chaos
from asyncdistil.testing.chaos import Fault, Seen, always, by_chance, first_of, in_order
from asyncdistil.testing.model_server import ModelServer


def ask(url: str, body: Any) -> Any:
    request = urllib.request.Request(
        f"{url}/chat/completions", data=msgspec.json.encode(body), method="POST"
    )
    with urllib.request.urlopen(request) as reply:
        return msgspec.json.decode(reply.read())


def body(text: str, **fields: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": text}], **fields}


def text_of(reply: Any) -> str:
    return str(reply["choices"][0]["message"]["content"])


def test_a_function_that_must_be_called_is_called_with_arguments_of_its_schema() -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    tool = {"type": "function", "function": {"name": "count", "parameters": schema}}
    choice = {"type": "function", "function": {"name": "count"}}
    with ModelServer() as server:
        asked = ask(server.url, body("how many?", tools=[tool], tool_choice=choice))
        free = ask(server.url, body("how many?", tools=[tool]))
    (call,) = asked["choices"][0]["message"]["tool_calls"]
    assert call["function"]["name"] == "count"
    assert isinstance(msgspec.json.decode(call["function"]["arguments"])["n"], int)
    assert "tool_calls" not in free["choices"][0]["message"]


def test_equal_prompts_get_equal_answers_and_others_get_others() -> None:
    with ModelServer(seed=1) as one, ModelServer(seed=2) as two:
        assert text_of(ask(one.url, body("a b"))) == text_of(ask(two.url, body("a b")))
        assert text_of(ask(one.url, body("a b"))) != text_of(ask(one.url, body("a c")))


def test_it_names_itself_in_every_reply(server: ModelServer) -> None:
    assert ask(server.url, body("a"))["system_fingerprint"].startswith("asyncdistil-stand-in/")
    with urllib.request.urlopen(f"{server.url}/models") as reply:
        assert reply.headers["Server"].startswith("asyncdistil-stand-in/")


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("<text 1>a</text 1> <text 2>b</text 2> give each a Rating", "#### Output for Text 2"),
        ("answer as [1] Score: and [2] Score:", "[2] Score: "),
        ("then write [RESULT] and a number", "[RESULT] "),
        ("end with Score: and a number", "\nScore: "),
    ],
)
def test_a_prompt_that_asks_for_scores_gets_them(
    server: ModelServer, prompt: str, expected: str
) -> None:
    assert expected in text_of(ask(server.url, body(prompt)))


def test_a_limit_on_length_is_kept(server: ModelServer) -> None:
    reply = ask(server.url, body("some words that are too many to be said", max_tokens=3))
    assert reply["choices"][0]["finish_reason"] == "length"
    assert len(text_of(reply)) == 12


def test_a_key_may_be_required(server: ModelServer) -> None:
    with ModelServer(api_key="right") as locked, pytest.raises(urllib.error.HTTPError) as caught:
        ask(locked.url, body("a"))
    assert caught.value.code == 401


def test_a_rate_above_the_limit_is_refused() -> None:
    with ModelServer(requests_per_second=2, retry_after="1") as server:
        seen: list[int] = []
        waits: list[str] = []
        for _ in range(6):
            try:
                ask(server.url, body("a"))
                seen.append(200)
            except urllib.error.HTTPError as error:
                seen.append(error.code)
                waits.append(error.headers["Retry-After"])
        assert seen[:2] == [200, 200]
        assert 429 in seen
        assert set(waits) == {"1"}
        assert server.stats.throttled == seen.count(429)


def test_an_answer_of_your_own_takes_its_place() -> None:
    with ModelServer(answer=lambda asked, index: f"{asked.prompt}!{index}") as server:
        assert text_of(ask(server.url, body("hi"))) == "hi!0"


def test_what_it_was_asked_is_kept(server: ModelServer) -> None:
    ask(server.url, body("hello"))
    (request,) = server.requests
    assert (request.path, request.prompt, request.fault) == ("/v1/chat/completions", "hello", "")
    assert request.json == body("hello")
    assert (server.stats.requests, server.stats.answered) == (1, 1)


def test_it_goes_away_and_comes_back_on_the_same_port(server: ModelServer) -> None:
    url = server.url
    server.go_away()
    with pytest.raises(OSError):
        ask(url, body("a"))
    server.come_back()
    assert server.url == url
    ask(url, body("a"))


def test_what_cannot_be_read_is_refused(server: ModelServer) -> None:
    for wrong in ({}, [], {"messages": 3}, "x"):
        with pytest.raises(urllib.error.HTTPError) as caught:
            ask(server.url, wrong)
        assert caught.value.code == 400


async def _cut(url: str, fault: str) -> str:
    async with aiohttp.ClientSession() as session:
        try:
            async with session.post(
                f"{url}/chat/completions",
                json=body("one two three four five six", stream=fault.startswith("s:")),
            ) as reply:
                return (await reply.read()).decode()
        except aiohttp.ClientError as error:
            return type(error).__name__


@pytest.mark.parametrize("streamed", ["", "s:"])
@pytest.mark.parametrize("fault", ["reset", "reset_midway", "truncated"])
def test_a_broken_reply_is_broken_on_the_wire(
    server: ModelServer, fault: str, streamed: str
) -> None:
    server.script = always(fault)
    seen = asyncio.run(_cut(server.url, streamed + fault))
    assert "[DONE]" not in seen
    if fault != "truncated" or not streamed:
        assert seen in {"ServerDisconnectedError", "ClientOSError", "ClientPayloadError"}


def test_chance_hits_the_same_requests_for_the_same_seed() -> None:
    def hits(seed: int) -> list[bool]:
        script = by_chance({"500": 0.2, "429": 0.1}, seed=seed)
        return [script(Seen(n, 1, "/", "")) is not None for n in range(500)]

    assert hits(1) == hits(1)
    assert hits(1) != hits(2)
    assert 100 < sum(hits(1)) < 200


def test_scripts_combine() -> None:
    script = first_of(in_order([None, "500"]), always("400", containing="bad"))
    kinds = [
        fault.kind if (fault := script(Seen(n, 1, "/", text))) else ""
        for n, text in enumerate(["good", "good", "bad"])
    ]
    assert kinds == ["", "500", "400"]


def test_an_unknown_fault_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="gzip_bomb"):
        Fault("explode")
    assert chaos.STATUSES.keys().isdisjoint(chaos.WIRE_FAULTS | chaos.REPLY_FAULTS)


def test_it_runs_from_a_shell() -> None:
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "asyncdistil.testing.model_server"),
            *("--port", "0", "--fault", "500=1.0"),
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    url = msgspec.json.decode(process.stdout.readline())["url"]
    with pytest.raises(urllib.error.HTTPError):
        ask(url, body("a"))
    with urllib.request.urlopen(f"{url.removesuffix('/v1')}/stand-in/stats") as reply:
        assert msgspec.json.decode(reply.read())["faults"] == {"500": 1}
    process.terminate()
    process.communicate()


@pytest.mark.parametrize(
    "reference", ["#/$defs/Lost", "#/$defs/Kept/anyOf/7", "#/$defs/Kept/anyOf/x"]
)
def test_a_schema_that_refers_to_nothing_is_refused(server: ModelServer, reference: str) -> None:
    schema = {"$defs": {"Kept": {"anyOf": [{"type": "null"}]}}, "$ref": reference}
    wanted = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
    with pytest.raises(urllib.error.HTTPError) as refused:
        ask(server.url, body("hi", response_format=wanted))
    assert refused.value.code == 400
    assert reference in refused.value.read().decode()


def test_a_reference_into_a_list_is_followed(server: ModelServer) -> None:
    schema = {"$defs": {"Kept": {"anyOf": [{"const": 5}]}}, "$ref": "#/$defs/Kept/anyOf/0"}
    wanted = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
    assert text_of(ask(server.url, body("hi", response_format=wanted))) == "5"
