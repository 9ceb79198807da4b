"""OpenAI's dialect against a scripted service: requests, replies, faults, streams, secrets."""

from __future__ import annotations

import logging
import threading
import traceback
from typing import Any

import msgspec
import pytest
from pydantic import BaseModel

from asyncdistil.errors import ModelAuthError, ModelRateLimited, ParameterError
from asyncdistil.models import OpenAILLM
from asyncdistil.testing.chaos import Fault, always, first_attempts, in_order
from asyncdistil.testing.model_server import ModelServer
from asyncdistil.transport.brokers import Ledger

CANARY = "sk-canary-0d9f2b7c41"


def chat(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


class Person(BaseModel):
    name: str
    age: int


class Thing(msgspec.Struct):
    name: str
    size: int


def model(server: ModelServer, **kwargs: Any) -> OpenAILLM:
    kwargs.setdefault("model", "stand-in")
    return OpenAILLM(base_url=server.url, api_key=CANARY, **kwargs)


def test_a_request_holds_what_was_asked_and_nothing_else(server: ModelServer, loaded: Any) -> None:
    llm = loaded(model(server, default_headers={"X-Team": "a"}))
    llm.generate_outputs([chat("hi")], max_new_tokens=50, temperature=0.3, stop=["."], seed=7)
    (request,) = server.requests
    assert request.path == "/v1/chat/completions"
    assert request.json == {
        "model": "stand-in",
        "messages": chat("hi"),
        "max_tokens": 50,
        "temperature": 0.3,
        "top_p": 1.0,
        "stop": ["."],
        "seed": 7,
    }
    assert request.headers["authorization"] == f"Bearer {CANARY}"
    assert request.headers["x-team"] == "a"


@pytest.mark.parametrize("stream", [False, True])
def test_several_generations_come_from_one_request(
    server: ModelServer, loaded: Any, ledger: Ledger, stream: bool
) -> None:
    llm = loaded(model(server, stream=stream, price=(1.0, 2.0)))
    (output,) = llm.generate_outputs([chat("tell me about the spring")], 3)
    assert len(set(output["generations"])) == 3
    assert len(server.requests) == 1
    assert server.requests[0].json["n"] == 3
    counts = output["statistics"]
    assert counts["input_tokens"] == [6, 6, 6]
    assert ledger.usage is not None
    assert ledger.usage.requests == 1
    assert ledger.usage.input_tokens == 6
    assert ledger.usage.output_tokens == sum(counts["output_tokens"])
    assert ledger.usage.cost_microusd == 6 + 2 * sum(counts["output_tokens"])


def test_log_probabilities_are_given_per_position(server: ModelServer, loaded: Any) -> None:
    (output,) = loaded(model(server)).generate_outputs([chat("a b")], logprobs=True, top_logprobs=2)
    (positions,) = output["logprobs"]
    assert [len(candidates) for candidates in positions] == [2] * len(positions)
    assert set(positions[0][0]) == {"token", "logprob"}


@pytest.mark.parametrize("schema", [Person, Thing, Person.model_json_schema()])
def test_structure_is_asked_for_natively_and_checked(
    server: ModelServer, loaded: Any, schema: Any
) -> None:
    llm = loaded(model(server, structured_output={"format": "json", "schema": schema}))
    (output,) = llm.generate_outputs([chat("someone")])
    assert isinstance(msgspec.json.decode(output["generations"][0]), dict)
    wanted = server.requests[0].json["response_format"]
    assert wanted["type"] == "json_schema"
    assert wanted["json_schema"]["strict"] is False  # the schema leaves objects open


def test_a_row_may_bring_its_own_structure(server: ModelServer, loaded: Any) -> None:
    llm = loaded(model(server))
    outputs = llm.generate_outputs([chat("a"), (chat("b"), {"schema": Person})])
    assert "response_format" not in server.requests[0].json or "a (" in str(outputs[0])
    Person.model_validate_json(outputs[1]["generations"][0])


def test_an_answer_of_the_wrong_structure_is_shown_what_is_wrong(
    server: ModelServer, loaded: Any
) -> None:
    server.script = first_attempts(["not_json"])
    wanted = {"schema": Person, "max_retries": 1}
    (output,) = loaded(model(server, structured_output=wanted)).generate_outputs([chat("x")])
    # The repair turn is another body, so the script strikes again: two complaints in all.
    assert output["generations"] == [None]
    server.script = in_order([None, None, "not_json", None])
    (output,) = loaded(model(server, structured_output=wanted)).generate_outputs([chat("y")])
    Person.model_validate_json(output["generations"][0])
    repair = server.requests[-1].json["messages"]
    assert [m["role"] for m in repair] == ["user", "assistant", "user"]
    assert "not JSON" in repair[-1]["content"]


def test_without_repair_the_wrong_structure_fails_the_row(server: ModelServer, loaded: Any) -> None:
    server.script = always("not_json")
    llm = loaded(model(server, structured_output={"schema": Person}))
    (output,) = llm.generate_outputs([chat("x")])
    (failure,) = output["failures"]
    assert "not JSON" in failure.message
    assert failure.detail == "this is {not JSON"


def test_a_structure_that_makes_no_sense_is_refused_when_set() -> None:
    with pytest.raises(ValueError, match="schema"):
        OpenAILLM(model="m", structured_output={"format": "json"})


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "fault",
    [
        "500",
        "502",
        "503",
        "504",
        "408",
        "529",
        "reset",
        "reset_midway",
        "truncated",
        "garbage",
        "empty_choices",
    ],
)
def test_what_may_pass_is_tried_again(
    server: ModelServer, loaded: Any, fault: str, stream: bool
) -> None:
    server.script = first_attempts([fault, fault])
    (output,) = loaded(model(server, stream=stream)).generate_outputs([chat("hello you")])
    assert output["generations"][0] is not None
    assert "failures" not in output
    assert server.stats.requests == 3


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("fault", ["stall", "stall_midway"])
def test_silence_is_given_up_and_tried_again(
    server: ModelServer, loaded: Any, fault: str, stream: bool
) -> None:
    server.script = first_attempts([fault])
    llm = loaded(model(server, stream=stream, timeout=0.3))
    (output,) = llm.generate_outputs([chat("hello you")])
    assert output["generations"][0] is not None


def test_trouble_that_does_not_pass_fails_its_row_alone(server: ModelServer, loaded: Any) -> None:
    server.script = always("500", containing="poison")
    llm = loaded(model(server, max_retries=2))
    outputs = llm.generate_outputs([chat("fine"), chat("poison"), chat("fine too")])
    assert [o["generations"][0] is None for o in outputs] == [False, True, False]
    (failure,) = outputs[1]["failures"]
    assert failure.kind == "asyncdistil.errors.ModelUnavailable"
    assert failure.attempts == 3
    assert "answered 500" in failure.message


@pytest.mark.parametrize("status", ["400", "422"])
def test_a_refused_request_fails_its_row_after_one_try(
    server: ModelServer, loaded: Any, status: str
) -> None:
    server.script = always(Fault(status, message="too long for me"), containing="long")
    outputs = loaded(model(server)).generate_outputs([chat("long"), chat("short")])
    (failure,) = outputs[0]["failures"]
    assert failure.kind == "asyncdistil.errors.ModelRequestError"
    assert "too long for me" in failure.message
    assert outputs[1]["generations"][0] is not None
    assert server.stats.requests == 2


@pytest.mark.parametrize("status", ["401", "403"])
def test_a_refused_key_stops_everything_at_once(
    server: ModelServer, loaded: Any, status: str
) -> None:
    server.script = always(status)
    llm = loaded(model(server, max_concurrency=4))
    with pytest.raises(ModelAuthError, match="check the API key"):
        llm.generate_outputs([chat(f"row {n}") for n in range(100)])
    assert server.stats.requests <= 4
    with pytest.raises(ModelAuthError):
        llm.generate_outputs([chat("one more")])
    assert server.stats.requests <= 4


def test_403_after_an_answer_is_about_the_request(server: ModelServer, loaded: Any) -> None:
    server.script = always("403", containing="rude")
    llm = loaded(model(server))
    llm.generate_outputs([chat("polite")])
    (output,) = llm.generate_outputs([chat("rude")])
    assert output["failures"][0].kind == "asyncdistil.errors.ModelRequestError"


def test_an_empty_account_stops_everything(server: ModelServer, loaded: Any) -> None:
    server.script = always("quota")
    with pytest.raises(ModelRateLimited, match="top it up"):
        loaded(model(server)).generate_outputs([chat("a")])


def test_429_costs_time_and_never_rows(server: ModelServer, loaded: Any) -> None:
    server.script = first_attempts([Fault("429", "0"), Fault("429", "0.01"), Fault("429")] * 3)
    llm = loaded(model(server, max_retries=0))
    outputs = llm.generate_outputs([chat(f"row {n}") for n in range(5)])
    assert all(o["generations"][0] for o in outputs)
    assert server.stats.requests == 50


def test_an_absurd_retry_after_stops_the_run_and_is_named(server: ModelServer, loaded: Any) -> None:
    server.script = always(Fault("429", "999999999"))
    with pytest.raises(ModelRateLimited, match="999999999 s more"):
        loaded(model(server)).generate_outputs([chat("a"), chat("b")])


def test_a_gzip_bomb_is_not_unpacked(server: ModelServer, loaded: Any) -> None:
    server.script = always("gzip_bomb")
    llm = loaded(model(server, max_reply_bytes=1 << 20))
    (output,) = llm.generate_outputs([chat("a")])
    assert "more than 1048576 bytes" in output["failures"][0].message
    assert server.stats.requests == 1


@pytest.mark.parametrize(
    ("fault", "kind"), [("content_filter", "refused"), ("null_content", "empty")]
)
def test_a_reply_that_is_no_answer_is_a_failure_of_its_kind(
    server: ModelServer, loaded: Any, fault: str, kind: str
) -> None:
    server.script = always(fault)
    (output,) = loaded(model(server)).generate_outputs([chat("a")])
    assert output["generations"] == [None]
    assert output["failures"][0].kind == kind
    assert server.stats.requests == 1


def test_a_truncated_answer_counts_unless_it_may_not(server: ModelServer, loaded: Any) -> None:
    server.script = always("length")
    (output,) = loaded(model(server)).generate_outputs([chat("a few words to cut")])
    assert output["generations"][0]
    (output,) = loaded(model(server, accept=("ok",))).generate_outputs([chat("a few words")])
    assert output["failures"][0].kind == "truncated"


def test_a_service_that_is_not_there_is_named_without_its_secrets(loaded: Any) -> None:
    llm = loaded(
        OpenAILLM(model="m", base_url="http://user:pw-canary@127.0.0.1:9/v1", max_retries=0)
    )
    (output,) = llm.generate_outputs([chat("a")])
    (failure,) = output["failures"]
    assert "http://127.0.0.1:9/v1 can't be reached" in failure.message
    assert "pw-canary" not in repr(output)


def test_an_address_that_is_none_fails_with_that_reason(loaded: Any) -> None:
    llm = loaded(OpenAILLM(model="m", base_url="nonsense", max_retries=0))
    (output,) = llm.generate_outputs([chat("a")])
    assert "no URL" in output["failures"][0].message


def test_the_key_is_nowhere(
    server: ModelServer, loaded: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    echo = Fault("400", message="bad key {authorization}")
    server.script = in_order([None, echo, "500", "garbage", "reset"])
    llm = loaded(model(server))
    seen = [repr(llm), repr(llm.identity_fields()), llm.model_dump_json()]
    seen += [repr(llm.generate_outputs([chat(f"{n}")])) for n in range(3)]
    server.script = always(Fault("401", message="Incorrect API key provided: {authorization}"))
    try:
        llm.generate_outputs([chat("last")])
    except ModelAuthError as error:
        seen += ["".join(traceback.format_exception(error)), repr(error.__dict__)]
    seen.append(caplog.text)
    assert server.stats.requests >= 6
    assert not any(CANARY in text for text in seen)


def test_openai_itself_needs_a_key_and_says_where_to_put_it() -> None:
    with pytest.raises(ParameterError, match="OPENAI_API_KEY"):
        OpenAILLM(model="gpt-4o-mini").load()


def test_the_key_is_read_from_the_environment_when_loading(
    server: ModelServer, loaded: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", CANARY)
    loaded(OpenAILLM(model="m", base_url=server.url)).generate_outputs([chat("a")])
    assert server.requests[0].headers["authorization"] == f"Bearer {CANARY}"


def test_a_model_that_is_not_loaded_says_so(server: ModelServer) -> None:
    (output,) = model(server).generate_outputs([chat("a")])
    assert "call `load()` first" in output["failures"][0].message


def test_a_server_gone_for_a_while_costs_no_row(server: ModelServer, loaded: Any) -> None:
    llm = loaded(model(server))
    server.go_away()
    timer = threading.Timer(0.05, server.come_back)
    timer.start()
    outputs = llm.generate_outputs([chat(f"row {n}") for n in range(10)])
    timer.join()
    assert all(o["generations"][0] for o in outputs)


def test_messages_with_images_travel_as_they_are(server: ModelServer, loaded: Any) -> None:
    content = [
        {"type": "text", "text": "what is this"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
    ]
    loaded(model(server)).generate_outputs([[{"role": "user", "content": content}]])
    assert server.requests[0].json["messages"][0]["content"] == content
