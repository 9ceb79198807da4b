from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncdistil.steps.tasks.dialogue import Ask, Dialogue, aconverse_all, ask, converse, together
from asyncdistil.testing.fake_llm import FakeBatchLLM, FakeLLM


def message(text: str) -> Any:
    return [{"role": "user", "content": text}]


def counting(name: str, rounds: list[int]) -> Dialogue[list[str]]:
    """Asks ``rounds[i]`` questions in round i and returns all answers."""
    heard: list[str] = []
    for number, questions in enumerate(rounds):
        inputs = tuple(message(f"{name}.{number}.{q}") for q in range(questions))
        replies = yield Ask(inputs)
        heard += [reply["generations"][0] for reply in replies]
    return heard


scripts = st.lists(st.lists(st.integers(1, 3), max_size=4), max_size=5)


@given(scripts)
def test_every_way_of_holding_dialogues_gives_each_its_own_replies(script: list[list[int]]) -> None:
    expected = [
        [f"<{n}.{r}.{q}>" for r, count in enumerate(rounds) for q in range(count)]
        for n, rounds in enumerate(script)
    ]

    def dialogues() -> list[Dialogue[list[str]]]:
        return [counting(str(n), rounds) for n, rounds in enumerate(script)]

    answer = "<{}>".format
    batch, single = FakeBatchLLM(reply=answer), FakeLLM(reply=answer)
    assert converse(batch, together(dialogues()), {}) == expected
    assert asyncio.run(aconverse_all(single, dialogues(), {})) == expected
    # One call per round, however many dialogues take part in it.
    assert len(batch.batches) == max((len(rounds) for rounds in script), default=0)


def test_different_numbers_of_generations_are_sent_apart() -> None:
    def wants(number: int) -> Dialogue[int]:
        reply = yield from ask(message("x"), number)
        return len(reply["generations"])

    llm = FakeBatchLLM(reply="y")
    assert converse(llm, together([wants(1), wants(3), wants(1)]), {}) == [1, 3, 1]
    assert [len(batch) for batch in llm.batches] == [2, 1]


def test_an_exception_of_a_dialogue_reaches_who_holds_it() -> None:
    def fails() -> Dialogue[None]:
        yield from ask(message("x"))
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        converse(FakeBatchLLM(reply="y"), together([fails(), counting("a", [1, 1])]), {})


def test_generation_parameters_reach_the_model() -> None:
    class Noting(FakeBatchLLM):
        def generate(self, inputs: Any, num_generations: int = 1, *, heat: float = 0.0) -> Any:
            assert heat == 0.5
            return super().generate(inputs, num_generations)

    reply = converse(Noting(reply="y"), ask(message("x")), {"heat": 0.5})
    assert reply["generations"] == ["y"]
