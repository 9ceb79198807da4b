"""Anthropic's Message Batches: the same promises, from a service that keeps no name of ours."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from asyncdistil.errors import BatchesPending, ModelAuthError
from asyncdistil.memo import Memo, Replies
from asyncdistil.models import AnthropicLLM, memoized
from asyncdistil.models.admission import LocalPermits
from asyncdistil.models.offline import BatchRecord, FileJournal
from asyncdistil.models.reply import Reply
from asyncdistil.testing.chaos import Fault, Seen
from asyncdistil.testing.model_server import ModelServer
from asyncdistil.transport import brokers

pytest.importorskip("anthropic", reason="the extra 'anthropic' is not installed")

CANARY = "sk-ant-canary-81"
CHATS = [
    [{"role": "system", "content": "Be brief."}, {"role": "user", "content": f"say {number}"}]
    for number in range(5)
]


def model(server: ModelServer, *, offline: bool = True, **fields: Any) -> AnthropicLLM:
    fields = {"offline_batch_generation_block_until_done": 0} | fields
    return AnthropicLLM(
        model="claude-haiku",
        base_url=server.url.removesuffix("/v1"),
        api_key=CANARY,
        use_offline_batch_generation=offline,
        **fields,
    )


def texts(outputs: list[Any]) -> list[str | None]:
    return [text for output in outputs for text in output["generations"]]


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[Path]:
    """A cache directory, as a worker has one."""
    memo = Memo.open(tmp_path / "memo", run="one")
    memoized.use_store(Replies(memo, Reply))
    brokers.install(
        brokers.Surroundings(Claims(), LocalPermits(), str(tmp_path / "memo"), "one", "ask", 0)
    )
    yield tmp_path
    memo.close()


class Claims:
    """Sample numbers as the supervisor hands them out, counted from the last `new_run` on."""

    def claim(self, keys: Any, counts: Any, *, lease: int) -> Any:
        return memoized._local_claims.claim(keys, counts)

    async def aclaim(self, keys: Any, counts: Any, *, lease: int) -> Any:
        return self.claim(keys, counts, lease=lease)


def new_run() -> None:
    memoized._local_claims = memoized.LocalClaims()


def test_a_batch_is_answered_as_the_same_questions_are_one_by_one(
    server: ModelServer, loaded: Any
) -> None:
    alone = texts(loaded(model(server, offline=False)).generate_outputs(CHATS))
    assert texts(loaded(model(server)).generate_outputs(CHATS)) == alone
    assert set(server.message_batches.prompts.values()) == {1}


def test_what_a_batch_gave_is_in_the_memo_and_what_is_there_is_not_submitted(
    server: ModelServer, loaded: Any, cache: Path
) -> None:
    first = texts(loaded(model(server, offline=False)).generate_outputs(CHATS[:2]))
    new_run()
    both = texts(loaded(model(server)).generate_outputs(CHATS))
    assert both[:2] == first
    assert sum(server.message_batches.prompts.values()) == 3
    asked = server.stats.requests
    new_run()
    assert texts(loaded(model(server, offline=False)).generate_outputs(CHATS)) == both
    assert server.stats.requests == asked


def test_a_refused_request_fails_its_row_and_a_busy_one_is_submitted_again(
    server: ModelServer, loaded: Any
) -> None:
    busy = ["say 3"]

    def refuses(params: Any) -> int:
        text = str(params["messages"])
        if "say 1" in text:
            return 400
        return 529 if any(one in text for one in busy) and busy.pop() else 0

    server.message_batches.refuses = refuses
    outputs = loaded(model(server)).generate_outputs(CHATS)
    assert [text is None for text in texts(outputs)] == [n == 1 for n in range(5)]
    assert outputs[1]["failures"][0].kind == "asyncdistil.errors.ModelRequestError"
    assert sorted(server.message_batches.prompts.values()) == [1, 1, 1, 1, 2]


def test_what_expired_is_submitted_again_and_what_you_cancelled_is_not(
    server: ModelServer, loaded: Any
) -> None:
    server.message_batches.fates.extend(["expired"])
    assert None not in texts(loaded(model(server)).generate_outputs(CHATS))
    assert sorted(server.message_batches.prompts.values()) == [1, 1, 1, 2, 2]
    server.message_batches.fates.append("canceled")
    outputs = loaded(model(server)).generate_outputs(CHATS)
    assert [text is None for text in texts(outputs)] == [n % 2 == 1 for n in range(5)]
    assert "was cancelled" in outputs[1]["failures"][0].message


def test_an_order_whose_confirmation_is_lost_is_not_given_twice(
    server: ModelServer, loaded: Any
) -> None:
    server.message_batches.loses_replies = 1
    assert None not in texts(loaded(model(server)).generate_outputs(CHATS))
    assert set(server.message_batches.prompts.values()) == {1}


@pytest.mark.parametrize("others_first", [False, True])
def test_a_batch_that_may_have_been_sent_is_found_by_what_it_answers(
    server: ModelServer, loaded: Any, cache: Path, others_first: bool
) -> None:
    """The process died after it sent the batch and before it wrote down the id."""
    if others_first:
        stranger = [[{"role": "user", "content": f"other {number}"}] for number in range(5)]
        loaded(model(server)).generate_outputs(stranger)
    server.message_batches.looks_until_done = 2
    waits = {"offline_batch_generation_block_until_done": None}
    with pytest.raises(BatchesPending):
        loaded(model(server, **waits)).generate_outputs(CHATS)
    journal = FileJournal(cache / "offline")
    forgotten = journal.read()[-1]
    assert isinstance(forgotten, BatchRecord)
    forgotten.batch_id, forgotten.state = "", "intended"
    journal.write(forgotten)
    new_run()
    assert None not in texts(loaded(model(server)).generate_outputs(CHATS))
    assert set(server.message_batches.prompts.values()) == {1}


def test_every_route_bears_a_busy_server_and_a_wrong_key_is_told_as_such(
    server: ModelServer, loaded: Any, caplog: pytest.LogCaptureFixture
) -> None:
    kinds = {1: Fault("429", "0"), 2: Fault("reset")}

    def script(seen: Seen) -> Fault | None:
        return kinds.get(seen.attempt)

    server.script = script
    assert None not in texts(loaded(model(server)).generate_outputs(CHATS))
    server.script = lambda seen: Fault("401", message=f"{CANARY} is not known")
    with pytest.raises(ModelAuthError) as refused:
        loaded(model(server)).generate_outputs(CHATS)
    assert CANARY not in str(refused.value) + refused.value.detail + caplog.text
