"""A provider's batches: nothing is submitted twice, every answer finds its row."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from asyncdistil.errors import BatchesPending, ModelAuthError, ParameterError, RunStopped
from asyncdistil.memo import Memo, Replies
from asyncdistil.models import AzureOpenAILLM, OpenAILLM, TogetherLLM, memoized
from asyncdistil.models.offline import azure
from asyncdistil.models.reply import Reply
from asyncdistil.steps import tasks
from asyncdistil.testing.chaos import Fault, Seen
from asyncdistil.testing.model_server import ModelServer
from asyncdistil.transport import brokers

CANARY = "sk-canary-5c1f0a9e"


def chat(text: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": text}]


CHATS = [chat(f"say {number}") for number in range(6)]


def model(server: ModelServer, **fields: Any) -> OpenAILLM:
    fields = {"offline_batch_generation_block_until_done": 0, "api_key": "any"} | fields
    return OpenAILLM(
        model="gpt-4o-mini", base_url=server.url, use_offline_batch_generation=True, **fields
    )


def texts(outputs: list[Any]) -> list[str | None]:
    return [text for output in outputs for text in output["generations"]]


@pytest.fixture
def answers() -> list[str | None]:
    """What the same questions are answered with one by one."""
    with ModelServer() as server:
        llm = OpenAILLM(model="gpt-4o-mini", base_url=server.url)
        llm.load()
        said = texts(llm.generate_outputs(CHATS))
        llm.unload()
    return said


@pytest.fixture
def memo(tmp_path: Path) -> Iterator[Memo]:
    with_run = Memo.open(tmp_path / "memo", run="one")
    memoized.use_store(Replies(with_run, Reply))
    yield with_run
    with_run.close()


def new_run() -> None:
    memoized._local_claims = memoized.LocalClaims()


def test_a_batch_is_answered_as_the_same_questions_are_one_by_one(
    server: ModelServer, loaded: Any, answers: list[str | None]
) -> None:
    assert texts(loaded(model(server)).generate_outputs(CHATS)) == answers
    assert len(server.batches.batches) == 1
    assert set(server.batches.lines.values()) == {1}


def test_without_waiting_it_stops_and_the_next_call_fetches(
    server: ModelServer, loaded: Any, answers: list[str | None]
) -> None:
    server.batches.looks_until_done = 3
    llm = loaded(model(server, offline_batch_generation_block_until_done=None))
    for _ in range(2):
        with pytest.raises(BatchesPending, match=r"1 batch of 6 requests .*\(batch_0\)") as stopped:
            llm.generate_outputs(CHATS)
        assert stopped.value.jobs_ids == ("batch_0",)
    assert texts(llm.generate_outputs(CHATS)) == answers
    assert set(server.batches.lines.values()) == {1}


def test_another_model_fetches_by_the_ids_that_the_first_one_named(
    server: ModelServer, loaded: Any, answers: list[str | None]
) -> None:
    server.batches.looks_until_done = 2
    with pytest.raises(BatchesPending) as stopped:
        loaded(model(server, offline_batch_generation_block_until_done=None)).generate_outputs(
            CHATS
        )
    other = loaded(model(server, jobs_ids=stopped.value.jobs_ids))
    assert texts(other.generate_outputs(CHATS)) == answers
    assert set(server.batches.lines.values()) == {1}


def test_a_line_that_is_refused_fails_its_row_alone(server: ModelServer, loaded: Any) -> None:
    server.batches.refuses = lambda body: 400 * ("say 3" in str(body["messages"]))
    outputs = loaded(model(server)).generate_outputs(CHATS)
    assert [text is None for text in texts(outputs)] == [n == 3 for n in range(6)]
    (failure,) = outputs[3]["failures"]
    assert failure.kind == "asyncdistil.errors.ModelRequestError"
    assert "the line is refused" in failure.message
    assert len(server.batches.batches) == 1


def test_a_line_that_met_a_busy_server_is_submitted_again_and_no_other(
    server: ModelServer, loaded: Any, answers: list[str | None]
) -> None:
    busy = ["say 2", "say 5"]

    def refuses(body: Any) -> int:
        text = body["messages"][0]["content"]
        return 503 if text in busy and not busy.remove(text) else 0

    server.batches.refuses = refuses
    assert texts(loaded(model(server)).generate_outputs(CHATS)) == answers
    assert sorted(server.batches.lines.values()) == [1, 1, 1, 1, 2, 2]


def test_an_expired_batch_is_submitted_again_for_the_missing_rows_only(
    server: ModelServer, loaded: Any, answers: list[str | None], memo: Memo
) -> None:
    server.batches.fates.append("expired")
    assert texts(loaded(model(server)).generate_outputs(CHATS)) == answers
    assert sorted(server.batches.lines.values()) == [1, 1, 1, 2, 2, 2]


def test_a_batch_that_expires_again_and_again_fails_what_it_never_came_to(
    server: ModelServer, loaded: Any
) -> None:
    server.batches.fates.extend(["expired"] * 9)
    outputs = loaded(model(server)).generate_outputs(CHATS[:2])
    assert texts(outputs)[0] is not None
    server.batches.fates.clear()
    # The only line left is the first of its batch, and is therefore answered at last.
    assert texts(outputs)[1] is not None
    assert sorted(server.batches.lines.values()) == [1, 2]


def test_a_batch_refused_whole_stops_the_run_with_the_reason(
    server: ModelServer, loaded: Any
) -> None:
    server.batches.fates.extend(["failed"] * 3)
    llm = loaded(model(server))
    with pytest.raises(RunStopped, match="the file of the batch is not accepted"):
        llm.generate_outputs(CHATS)
    assert texts(llm.generate_outputs(CHATS)).count(None) == 0


def test_a_cancelled_batch_is_not_submitted_again_behind_its_owners_back(
    server: ModelServer, loaded: Any
) -> None:
    server.batches.fates.append("cancelled")
    llm = loaded(model(server))
    outputs = llm.generate_outputs(CHATS)
    assert texts(outputs) == [None] * 6
    assert "was cancelled" in outputs[0]["failures"][0].message
    assert texts(llm.generate_outputs(CHATS)).count(None) == 0


def test_an_order_whose_confirmation_is_lost_is_not_given_twice(
    server: ModelServer, loaded: Any, answers: list[str | None]
) -> None:
    server.batches.loses_replies = 1
    assert texts(loaded(model(server)).generate_outputs(CHATS)) == answers
    assert len(server.batches.batches) == 1


def test_every_route_bears_a_busy_server_and_a_cut_connection(
    server: ModelServer, loaded: Any, answers: list[str | None]
) -> None:
    kinds = {1: Fault("429", "0"), 2: Fault("reset"), 3: Fault("503")}

    def script(seen: Seen) -> Fault | None:
        return kinds.get(seen.attempt)

    server.script = script
    assert texts(loaded(model(server)).generate_outputs(CHATS)) == answers
    assert set(server.batches.lines.values()) == {1}
    assert server.stats.faults["429"] >= 4  # upload, order, look, download


def test_a_service_that_has_no_batches_stops_the_run_and_fails_no_row(
    server: ModelServer, loaded: Any
) -> None:
    server.script = lambda seen: Fault("404")
    with pytest.raises(RunStopped, match="404"):
        loaded(model(server)).generate_outputs(CHATS)


def test_a_wrong_key_is_told_as_such(server: ModelServer, loaded: Any) -> None:
    server.script = lambda seen: Fault("401")
    with pytest.raises(ModelAuthError):
        loaded(model(server)).generate_outputs(CHATS)


def test_what_the_memo_has_is_not_submitted_and_what_a_batch_gave_is_in_the_memo(
    server: ModelServer, loaded: Any, memo: Memo, answers: list[str | None]
) -> None:
    alone = OpenAILLM(model="gpt-4o-mini", base_url=server.url)
    loaded(alone).generate_outputs(CHATS[:2])
    new_run()
    assert texts(loaded(model(server)).generate_outputs(CHATS)) == answers
    assert sum(server.batches.lines.values()) == 4
    asked = len(server.requests)
    for llm in (alone, loaded(model(server))):
        new_run()
        assert texts(llm.generate_outputs(CHATS)) == answers
    assert len(server.requests) == asked


def test_several_generations_of_a_row_are_one_line_and_more_of_them_ask_for_the_rest(
    server: ModelServer, loaded: Any, memo: Memo
) -> None:
    llm = loaded(model(server))
    first = texts(llm.generate_outputs(CHATS[:2], num_generations=2))
    assert sorted(server.batches.lines) == sorted(set(server.batches.lines))
    assert len(server.batches.lines) == 2
    new_run()
    more = llm.generate_outputs(CHATS[:2], num_generations=3)
    assert [text for output in more for text in output["generations"][:2]] == first
    assert len(server.batches.lines) == 4
    bodies = [json.loads(body) for body in server.batches.prompts]
    assert sorted(body.get("n", 1) for body in bodies) == [1, 1, 2, 2]


def test_equal_rows_get_an_answer_each_unless_they_share_one(
    server: ModelServer, loaded: Any, memo: Memo
) -> None:
    twice = [CHATS[0], CHATS[0]]
    loaded(model(server)).generate_outputs(twice)
    assert sum(json.loads(body).get("n", 1) for body in server.batches.prompts) == 2
    server.batches.prompts.clear()
    new_run()
    cold = {"generation_kwargs": {"temperature": 0.0}}
    llm = loaded(model(server, **cold))
    one, other = texts(llm.generate_outputs(twice, **llm.get_generation_kwargs()))
    assert one == other
    assert sum(json.loads(body).get("n", 1) for body in server.batches.prompts) == 1


def test_a_batch_costs_half_of_the_list_price(
    server: ModelServer, loaded: Any, ledger: brokers.Ledger
) -> None:
    loaded(model(server)).generate_outputs(CHATS)
    assert ledger.usage is not None
    offline = ledger.usage
    ledger.usage = None
    loaded(OpenAILLM(model="gpt-4o-mini", base_url=server.url)).generate_outputs(CHATS)
    assert offline.cost_microusd > 0
    assert offline.requests == ledger.usage.requests == 6
    assert offline.output_tokens == ledger.usage.output_tokens
    assert abs(offline.cost_microusd - ledger.usage.cost_microusd / 2) <= 6  # rounded six times


def test_an_answer_of_the_wrong_structure_is_sent_back_with_the_next_batch(loaded: Any) -> None:
    shape = {"schema": {"type": "object", "required": ["x"]}, "max_retries": 1}
    sent: list[int] = []

    def answer(asked: Any, index: int) -> str:
        sent.append(index)
        return '{"x": 1}' if len(sent) > 2 else "{}"

    with ModelServer(answer=answer) as wrong_first:
        outputs = loaded(model(wrong_first, structured_output=shape)).generate_outputs(CHATS[:2])
        assert texts(outputs) == ['{"x": 1}'] * 2
        assert len(wrong_first.batches.batches) == 2


def test_a_batch_that_nobody_knows_is_not_paid_for_again_without_a_word(
    server: ModelServer, loaded: Any
) -> None:
    server.batches.looks_until_done = 9
    llm = loaded(model(server, offline_batch_generation_block_until_done=None))
    with pytest.raises(BatchesPending):
        llm.generate_outputs(CHATS)
    server.batches.batches.clear()
    with pytest.raises(RunStopped, match=r"batch_0 is not known .* use the key that submitted it"):
        llm.generate_outputs(CHATS)
    assert set(server.batches.lines.values()) == {1}


ALLOWED = (
    "TextGeneration ChatGeneration TextGenerationWithImage SelfInstruct InstructionBacktranslation "
    "UltraFeedback PrometheusEval ComplexityScorer QualityScorer TextClassification TextClustering "
    "GenerateSentencePair StructuredGeneration EmbeddingTaskGenerator GenerateTextRetrievalData "
    "GenerateShortTextMatchingData GenerateLongTextMatchingData GenerateTextClassificationData "
    "MonolingualTripletGenerator BitextRetrievalGenerator"
)
NEEDED = {
    "PrometheusEval": {"mode": "absolute", "rubric": "factual-validity"},
    "GenerateSentencePair": {"action": "paraphrase"},
    "EmbeddingTaskGenerator": {"category": "text-retrieval"},
    "BitextRetrievalGenerator": {"source_language": "English", "target_language": "German"},
}


@pytest.mark.parametrize("name", ALLOWED.split())
def test_every_task_that_asks_once_may_be_asked_through_batches(name: str) -> None:
    llm = OpenAILLM(model="x", api_key="any", use_offline_batch_generation=True)
    task = getattr(tasks, name)(llm=llm, **NEEDED.get(name, {}))
    assert task.kind() in {"global", "generator"}


def test_a_task_that_asks_more_than_once_refuses() -> None:
    llm = OpenAILLM(model="x", api_key="any", use_offline_batch_generation=True)
    with pytest.raises(ValidationError, match="EvolInstruct can't use offline batch generation"):
        tasks.EvolInstruct(llm=llm, num_evolutions=2)


def test_a_service_without_batches_says_so() -> None:
    llm = TogetherLLM(
        model="x",
        base_url="http://127.0.0.1:9",
        api_key="any",
        use_offline_batch_generation=True,
    )
    llm.load()
    with pytest.raises(ParameterError, match="has no offline batch generation"):
        llm.generate_outputs(CHATS)


def on_azure(server: ModelServer, **fields: Any) -> AzureOpenAILLM:
    given: dict[str, Any] = {
        "use_offline_batch_generation": True,
        "offline_batch_generation_block_until_done": 0,
    }
    return AzureOpenAILLM(
        model="a deployment",
        base_url=server.url.removesuffix("/v1"),
        api_key="any",
        api_version="2024-10-21",
        **given | fields,
    )


def test_azure_is_asked_by_its_own_paths_once_it_has_looked_through_the_file(
    server: ModelServer, loaded: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(azure, "_BETWEEN_LOOKS_SECONDS", 0)
    server.batches.looks_until_usable = 3
    server.batches.looks_until_done = 3
    llm = loaded(on_azure(server, offline_batch_generation_block_until_done=None))
    for _ in range(2):
        with pytest.raises(BatchesPending, match="1 batch of 6 requests"):
            llm.generate_outputs(CHATS)
    batched = texts(llm.generate_outputs(CHATS))
    assert set(server.batches.lines.values()) == {1}
    assert {order["model"] for order in map(json.loads, server.batches.prompts)} == {"a deployment"}
    asked = {request.path.rpartition("/")[0] for request in server.requests}
    assert asked == {"/openai", "/openai/files", "/openai/files/file-1", "/openai/batches"}
    assert {request.headers["api-key"] for request in server.requests} == {"any"}
    alone = loaded(on_azure(server, use_offline_batch_generation=False))
    assert texts(alone.generate_outputs(CHATS)) == batched


def test_an_order_to_azure_whose_confirmation_is_lost_is_not_given_twice(
    server: ModelServer, loaded: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(azure, "_BETWEEN_LOOKS_SECONDS", 0)
    server.batches.loses_replies = 1
    assert all(texts(loaded(on_azure(server)).generate_outputs(CHATS)))
    assert set(server.batches.lines.values()) == {1}


def test_a_file_that_azure_refuses_stops_the_run_with_its_status(
    server: ModelServer, loaded: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(azure, "_BETWEEN_LOOKS_SECONDS", 0)
    server.batches.file_status = "error"
    with pytest.raises(RunStopped, match=r"makes no batch of the file file-0, .* 'error'"):
        loaded(on_azure(server)).generate_outputs(CHATS)
    assert not server.batches.batches


def test_no_record_and_no_message_holds_the_key(
    server: ModelServer, loaded: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server.script = lambda seen: Fault("400", message="{authorization} is not liked")
    llm = loaded(model(server, api_key=CANARY))
    with pytest.raises(RunStopped) as stopped:
        llm.generate_outputs(CHATS)
    assert CANARY not in str(stopped.value) + caplog.text
