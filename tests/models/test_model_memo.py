"""What was paid for once is not asked for again, and samples are never handed out twice."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from asyncdistil.memo import Memo, Replies
from asyncdistil.models import OpenAILLM, memoized
from asyncdistil.models.memoized import LocalClaims, request_key
from asyncdistil.models.reply import Reply
from asyncdistil.testing.chaos import always, first_attempts, in_order
from asyncdistil.testing.model_server import ModelServer
from asyncdistil.transport.brokers import Ledger


def chat(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


@pytest.fixture
def memo(tmp_path: Path) -> Iterator[Memo]:
    opened = Memo.open(tmp_path / "memo")
    memoized.use_store(Replies(opened, Reply))
    yield opened
    opened.close()


def new_run() -> None:
    """In a new run nobody has taken a sample yet."""
    memoized._local_claims = LocalClaims()


def model(server: ModelServer, **kwargs: Any) -> OpenAILLM:
    kwargs.setdefault("model", "gpt-4o-mini")
    return OpenAILLM(base_url=server.url, **kwargs)


def test_the_next_run_asks_nothing(
    server: ModelServer, loaded: Any, memo: Memo, ledger: Ledger
) -> None:
    first = loaded(model(server)).generate_outputs([chat("a"), chat("b")], 2)
    paid = ledger.usage
    assert server.stats.requests == 2
    new_run()
    ledger.usage = None
    second = loaded(model(server)).generate_outputs([chat("a"), chat("b")], 2)
    assert server.stats.requests == 2
    assert second == first
    assert paid is not None
    assert ledger.usage is not None
    assert (ledger.usage.requests, ledger.usage.cached) == (0, 4)
    assert ledger.usage.cached_cost_microusd == paid.cost_microusd > 0


def test_equal_rows_of_a_run_get_samples_of_their_own(
    server: ModelServer, loaded: Any, memo: Memo, ledger: Ledger
) -> None:
    llm = loaded(model(server))
    llm.generate_outputs([chat("a"), chat("a")])
    assert server.stats.requests == 2
    keys = {key for key, _ in ledger.samples}
    assert len(keys) == 1
    assert sorted(number for _, number in ledger.samples) == [0, 1]
    assert ledger.wrote_memo


def test_more_generations_than_stored_ask_for_the_rest_only(
    server: ModelServer, loaded: Any, memo: Memo
) -> None:
    llm = loaded(model(server))
    llm.generate_outputs([chat("a")], 2)
    new_run()
    (output,) = llm.generate_outputs([chat("a")], 5)
    assert len(output["generations"]) == 5
    assert [r.json.get("n", 1) for r in server.requests] == [2, 3]


def test_equal_requests_at_temperature_0_in_flight_are_sent_once(loaded: Any, memo: Memo) -> None:
    with ModelServer(latency_seconds=0.05) as server:
        llm = loaded(model(server))
        outputs = llm.generate_outputs([chat("a")] * 20 + [chat("b")] * 20, temperature=0)
        assert server.stats.requests == 2
        assert len({o["generations"][0] for o in outputs}) == 2
        llm.generate_outputs([chat("a")], temperature=0)
        assert server.stats.requests == 2


def test_equal_requests_in_flight_are_sent_once_without_a_memo_too(loaded: Any) -> None:
    with ModelServer(latency_seconds=0.05) as server:
        llm = loaded(model(server, share_duplicates=True))
        llm.generate_outputs([chat("a")] * 20)
        assert server.stats.requests == 1


def test_one_of_many_waiting_may_give_up(loaded: Any, memo: Memo) -> None:
    with ModelServer(latency_seconds=0.1) as server:
        llm = loaded(model(server, share_duplicates=True))

        async def impatient() -> list[Any]:
            tasks = [asyncio.ensure_future(llm.agenerate_outputs([chat("a")])) for _ in range(3)]
            while not server.stats.in_flight:  # noqa: ASYNC110 - the server is on another thread
                await asyncio.sleep(0)
            tasks[0].cancel()  # the one that started it
            return await asyncio.gather(*tasks, return_exceptions=True)

        first, *others = asyncio.run(impatient())
        assert isinstance(first, asyncio.CancelledError)
        assert all(o[0]["generations"][0] for o in others)
        assert server.stats.requests == 1


def test_what_can_change_an_answer_is_in_the_key(
    server: ModelServer, loaded: Any, memo: Memo
) -> None:
    questions: list[tuple[dict[str, Any], dict[str, Any]]] = [
        ({}, {}),
        ({}, {"temperature": 0.5}),
        ({}, {"max_new_tokens": 7}),
        ({}, {"seed": 1}),
        ({"model": "other"}, {}),
        ({"structured_output": {"schema": {"type": "object"}}}, {}),
        (
            {"structured_output": {"schema": {"type": "object", "properties": {"a": {}, "b": {}}}}},
            {},
        ),
        (
            {"structured_output": {"schema": {"type": "object", "properties": {"b": {}, "a": {}}}}},
            {},
        ),
    ]
    for fields, kwargs in questions:
        new_run()
        loaded(model(server, **fields)).generate_outputs([chat("a")], **kwargs)
    assert server.stats.requests == len(questions)


def test_what_cannot_change_an_answer_is_not(server: ModelServer, loaded: Any, memo: Memo) -> None:
    for fields in (
        {},
        {"api_key": "other"},
        {"timeout": 5},
        {"max_retries": 1},
        {"max_concurrency": 3},
        {"stream": True},
        {"accept": ("ok", "truncated", "refused")},
    ):
        new_run()
        loaded(model(server, **fields)).generate_outputs([chat("a")])
    assert server.stats.requests == 1


def test_1_and_true_and_text_are_different_requests() -> None:
    values: list[Any] = [1, 1.0, True, "1", None, [], ""]
    keys = {request_key({}, {"seed": value}, model="m").digest for value in values}
    assert len(keys) == len(values)


def test_the_order_of_arguments_is_no_other_request() -> None:
    one = request_key({"a": 1, "b": 2}, {"seed": 1, "top_p": 0.5}, model="m")
    assert one == request_key({"b": 2, "a": 1}, {"top_p": 0.5, "seed": 1}, model="m")


def test_a_failed_row_is_asked_again_and_a_good_one_is_not(
    server: ModelServer, loaded: Any, memo: Memo
) -> None:
    server.script = first_attempts(["400"], containing="bad")
    llm = loaded(model(server))
    outputs = llm.generate_outputs([chat("good"), chat("bad")])
    assert outputs[1]["generations"] == [None]
    new_run()
    outputs = llm.generate_outputs([chat("good"), chat("bad")])
    assert outputs[1]["generations"][0]
    assert server.stats.requests == 3
    new_run()
    llm.generate_outputs([chat("bad")])
    assert server.stats.requests == 3  # the good answer took the place of the failed one


@pytest.mark.parametrize(
    ("fault", "outcome"),
    [("content_filter", "refused"), ("null_content", "empty"), ("422", "failed")],
)
def test_what_a_model_accepts_is_served_as_it_was_stored(
    server: ModelServer, loaded: Any, memo: Memo, fault: str, outcome: Any
) -> None:
    server.script = always(fault)
    loaded(model(server)).generate_outputs([chat("a")])
    new_run()
    accepting = loaded(model(server, accept=("ok", "truncated", outcome)))
    (output,) = accepting.generate_outputs([chat("a")])
    assert output["generations"] == [None]
    assert server.stats.requests == 1


def test_a_truncated_answer_is_served_unless_it_may_not(
    server: ModelServer, loaded: Any, memo: Memo
) -> None:
    server.script = in_order(["length"])
    loaded(model(server)).generate_outputs([chat("some words")])
    new_run()
    loaded(model(server)).generate_outputs([chat("some words")])
    assert server.stats.requests == 1
    new_run()
    (output,) = loaded(model(server, accept=("ok",))).generate_outputs([chat("some words")])
    assert server.stats.requests == 2
    assert "failures" not in output


SCHEMA = {"type": "object", "properties": {"x": {"type": "string"}}, "required": ["x"]}


@pytest.mark.parametrize("temperature", [0, 1.0])
def test_a_stored_reply_of_the_wrong_structure_is_kept_and_asked_for_again(
    server: ModelServer, loaded: Any, memo: Memo, temperature: float
) -> None:
    server.script = in_order(["not_json"])
    strict = {
        "structured_output": {"schema": SCHEMA},
        "generation_kwargs": {"temperature": temperature},
    }
    llm = model(server, **strict)
    (output,) = loaded(llm).generate_outputs([chat("a")], **llm.get_generation_kwargs())
    assert output["generations"] == [None]
    assert len(memo) == 1
    new_run()
    (again,) = loaded(llm).generate_outputs([chat("a")], **llm.get_generation_kwargs())
    assert again["generations"][0]
    new_run()
    loaded(llm).generate_outputs([chat("a")], **llm.get_generation_kwargs())
    assert server.stats.requests == 2


def test_a_reply_that_was_repaired_is_repaired_again_from_the_memo(
    server: ModelServer, loaded: Any, memo: Memo
) -> None:
    server.script = in_order(["not_json", "not_json"])
    wanted = {"schema": SCHEMA, "max_retries": 2}
    for _ in range(2):
        new_run()
        llm = loaded(model(server, structured_output=wanted))
        (output,) = llm.generate_outputs([chat("a")])
        assert output["generations"][0]
    assert server.stats.requests == 3


def test_a_repair_that_failed_is_tried_again_without_what_led_to_it(
    server: ModelServer, loaded: Any, memo: Memo
) -> None:
    server.script = in_order(["not_json", "not_json"])
    wanted = {"schema": SCHEMA, "max_retries": 1}
    llm = loaded(model(server, structured_output=wanted))
    (output,) = llm.generate_outputs([chat("a")])
    assert output["generations"] == [None]
    new_run()
    (output,) = llm.generate_outputs([chat("a")])
    assert output["generations"][0]
    assert server.stats.requests == 3


def test_a_rehearsal_leaves_nothing_under_the_keys_of_production(
    server: ModelServer, loaded: Any, memo: Memo
) -> None:
    llm = loaded(model(server, model_identity="production"))
    llm.generate_outputs([chat("a")])
    key = request_key(
        {"provider": "openai", "model_identity": "production"},
        {"path": "/chat/completions", **server.requests[0].json},
        model="",
    )
    assert memo.samples(key) == 0
    assert len(memo) == 1


def test_a_rehearsal_taken_up_again_finds_its_answers(
    server: ModelServer, loaded: Any, memo: Memo
) -> None:
    for _ in range(2):
        new_run()
        loaded(model(server)).generate_outputs([chat(f"{n}") for n in range(10)])
    assert server.stats.requests == 10


def test_who_stops_waiting_for_the_servers_name_ends_it_for_nobody(loaded: Any, memo: Memo) -> None:
    with ModelServer() as server:
        llm = loaded(model(server))

        async def impatient() -> list[Any]:
            tasks = [asyncio.ensure_future(llm.agenerate_outputs([chat(f"{n}")])) for n in range(3)]
            await asyncio.sleep(0)
            tasks[0].cancel()
            return await asyncio.gather(*tasks, return_exceptions=True)

        _, *others = asyncio.run(impatient())
        assert all(o[0]["generations"][0] for o in others)
        assert llm._memoized.reported


def test_no_key_of_a_service_is_in_the_memo(
    server: ModelServer, loaded: Any, memo: Memo, tmp_path: Path
) -> None:
    canary = "sk-canary-51c2"
    llm = loaded(model(server, api_key=canary))
    server.script = in_order([None, "400"])
    llm.generate_outputs([chat("a"), chat("b")])
    files = [path for path in (tmp_path / "memo").rglob("*") if path.is_file()]
    assert files
    assert not any(canary.encode() in path.read_bytes() for path in files)


def test_each_generation_is_a_request_of_its_own_where_a_service_gives_one_at_a_time(
    server: ModelServer, loaded: Any, memo: Memo
) -> None:
    from asyncdistil.models import GroqLLM

    server.script = in_order([None, "400", None])
    llm = loaded(GroqLLM(model="m", base_url=server.url, api_key="k"))
    (output,) = llm.generate_outputs([chat("a")], 3)
    assert sum(text is None for text in output["generations"]) == 1
    assert server.stats.requests == 3
    new_run()
    (output,) = llm.generate_outputs([chat("a")], 3)
    assert all(output["generations"])
    assert server.stats.requests == 4
