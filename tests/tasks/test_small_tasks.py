from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from asyncdistil.errors import DataError, MissingRequirement, ModelReplyError, ParameterError
from asyncdistil.steps.rows import FailedRow
from asyncdistil.steps.tasks import (
    CLAIR,
    URIAL,
    GenerateEmbeddings,
    GenerateSentencePair,
    Genstruct,
    PairRM,
)
from asyncdistil.testing.fake_llm import FakeLLM

# --- CLAIR ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reply", "revision", "rational"),
    [
        ("**Teacher's reasoning:**\nOff.\n\n**Corrected Student Solution:**\n4", "4", "Off."),
        ("{teacher_reasoning}: Off.\n\n{corrected_student_solution}: 4", "4", "Off."),
        ("Off.\n**Worsened Student Solution:**\n5", "5", "Off."),
        ("# Corrected student solution\n\n4\n\nand more", "4\n\nand more", ""),
    ],
)  # fmt: skip
def test_a_revision_and_its_reason_are_told_apart(reply: str, revision: str, rational: str) -> None:
    made = CLAIR(llm=FakeLLM()).format_output(reply)
    assert made == {"revision": revision, "rational": rational}


@pytest.mark.parametrize("reply", ["", "4", "**Corrected Student Solution:**\n"])
def test_a_reply_without_a_revision_is_refused(reply: str) -> None:
    with pytest.raises(ModelReplyError):
        CLAIR(llm=FakeLLM()).format_output(reply)


def test_task_and_solution_are_shown() -> None:
    system, user = CLAIR(llm=FakeLLM()).format_input({"task": "2+2", "student_solution": "five"})
    assert system["content"].startswith("You are a teacher")
    assert "2+2" in user["content"]
    assert "five" in user["content"]


# --- Genstruct --------------------------------------------------------------------------------


def test_the_prompt_is_the_input_format_of_the_model() -> None:
    (message,) = Genstruct(llm=FakeLLM()).format_input(
        {"title": " Rain ", "content": "It falls.\n"}
    )
    assert message["content"].startswith("[[[Title]]] Rain\n[[[Content]]] It falls.\n\n")
    assert message["content"].endswith("\n\n[[[User]]] ")


@pytest.mark.parametrize("reply", ["", "Q?", "[[[Assistant]]] A", "Q? [[[Assistant]]]"])
def test_half_an_exchange_is_refused(reply: str) -> None:
    with pytest.raises(ModelReplyError):
        Genstruct(llm=FakeLLM()).format_output(reply)


def test_an_exchange_is_cut_at_the_assistants_mark() -> None:
    made = Genstruct(llm=FakeLLM()).format_output("[[[User]]] Q?\n[[[Assistant]]] A\nB")
    assert made == {"user": "Q?", "assistant": "A\nB"}


# --- URIAL ------------------------------------------------------------------------------------


def test_a_conversation_is_written_out_up_to_where_the_assistant_speaks() -> None:
    conversation = [
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "two"},
        {"role": "user", "content": "three"},
    ]
    (message,) = URIAL(llm=FakeLLM()).format_input({"conversation": conversation})
    assert message["content"].endswith(
        "# User:\n\none\n\n# Assistant:\n\ntwo\n\n# User:\n\nthree\n\n# Assistant:"
    )


@pytest.mark.parametrize(
    "row", [{}, {"conversation": []}, {"conversation": [{"role": "assistant", "content": "x"}]}]
)
def test_without_a_users_last_word_there_is_nothing_to_answer(row: Any) -> None:
    with pytest.raises(DataError):
        URIAL(llm=FakeLLM()).format_input(row)


def test_the_answer_ends_where_the_model_goes_on_as_the_user() -> None:
    task = URIAL(llm=FakeLLM())
    assert task.format_output("\n\nHi #User!\n\n# User:\n\nMore")["generation"] == "Hi #User!"
    with pytest.raises(ModelReplyError):
        task.format_output("# User: hello")


# --- GenerateSentencePair ---------------------------------------------------------------------


def pair(**fields: Any) -> GenerateSentencePair:
    return GenerateSentencePair(llm=FakeLLM(), **{"action": "paraphrase", **fields})


@pytest.mark.parametrize("action", ["paraphrase", "semantically-similar", "query", "answer"])
@pytest.mark.parametrize("triplet", [False, True])
@pytest.mark.parametrize("context", ["", "weather"])
def test_the_prompt_follows_action_triplet_and_context(
    action: Any, triplet: bool, context: str
) -> None:
    task = pair(action=action, triplet=triplet, context=context, hard_negative=triplet)
    system, user = task.format_input({"anchor": "It rains."})
    assert ("## Negative" in system["content"]) == triplet
    assert ("easily taken" in system["content"]) == triplet
    assert user["content"].endswith("## Anchor\n\nIt rains.")
    assert ("weather" in user["content"]) == bool(context)
    assert task.outputs == (["positive", "negative"] if triplet else ["positive"]) + ["model_name"]


def test_texts_are_read_below_their_headings() -> None:
    reply = "Sure.\n\n## Positive\n\nIt pours.\nHeavily.\n\n**Negative:**\nIt reigns."
    assert pair(triplet=True).format_output(reply) == {
        "positive": "It pours.\nHeavily.",
        "negative": "It reigns.",
    }
    assert pair().format_output(reply) == {"positive": "It pours.\nHeavily."}


@pytest.mark.parametrize(
    "reply", ["", "It pours.", "## Positive\n\nIt pours.", "## Positive\n## Negative\nx"]
)
def test_a_missing_text_is_refused(reply: str) -> None:
    with pytest.raises(ModelReplyError):
        pair(triplet=True).format_output(reply)


def test_structured_texts_are_read_from_json() -> None:
    task = pair(triplet=True, use_default_structured_output=True)
    reply = '{"positive": "a", "negative": "b", "note": "c"}'
    assert task.format_output(reply) == {"positive": "a", "negative": "b"}


# --- PairRM -----------------------------------------------------------------------------------


class Ranker:
    """Stands in for the package: ranks by length, longest first, and refuses the word bad."""

    def __init__(self) -> None:
        self.calls: list[int] = []

    def loadranker(self, model: str) -> None:
        self.model = model

    def rank(self, inputs: Any, candidates: Any, *, instructions: Any, **options: Any) -> Any:
        self.calls.append(len(inputs))
        if any("bad" in texts for texts in candidates):
            raise RuntimeError("can't rank this")
        return np.array(
            [
                [1 + sum(len(other) > len(text) for other in texts) for text in texts]
                for texts in candidates
            ]
        )


@pytest.fixture
def ranker(monkeypatch: pytest.MonkeyPatch) -> Ranker:
    module = ModuleType("llm_blender")
    made = Ranker()
    module.Blender = lambda: made  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "llm_blender", module)
    return made


def test_candidates_are_ranked_best_first_and_counts_may_differ(ranker: Ranker) -> None:
    step = PairRM()
    step.load()
    rows = next(
        step.process(
            [
                {"input": "x", "candidates": ["a", "ccc", "bb"]},
                {"input": "y", "candidates": ["a", "bb"]},
                {"input": "z", "candidates": ["aaa", "b", "cc"]},
            ]
        )
    )
    assert [row["ranks"] for row in rows] == [[3, 1, 2], [2, 1], [1, 3, 2]]
    assert rows[0]["ranked_candidates"] == ["ccc", "bb", "a"]
    assert rows[0]["model_name"] == "llm-blender/PairRM"
    assert ranker.calls == [2, 1]


def test_a_row_that_cannot_be_ranked_fails_alone(ranker: Ranker) -> None:
    step = PairRM()
    step.load()
    rows: list[dict[str, Any]] = [
        {"input": "x", "candidates": ["a", "bb"]},
        {"input": "y", "candidates": ["bad", "bb"]},
        {"input": "z", "candidates": ["only one"]},
    ]
    ((good, bad, lonely),) = list(step.entries(rows))
    assert good["ranks"] == [2, 1]
    assert isinstance(bad, FailedRow)
    assert isinstance(lonely, FailedRow)
    assert "two or more" in lonely.failure.message


def test_the_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llm_blender", None)
    with pytest.raises(MissingRequirement, match="pip install llm-blender"):
        PairRM().load()


# --- GenerateEmbeddings -----------------------------------------------------------------------


class Hidden(FakeLLM):
    """Shows states of one number per letter."""

    def get_last_hidden_states(self, inputs: Any) -> Any:
        texts = [messages[-1]["content"] for messages in inputs]
        if "bad" in texts:
            raise RuntimeError("no state")
        return [np.array([[float(n)] for n in range(len(text))]) for text in texts]


def test_an_embedding_is_the_state_of_the_last_token() -> None:
    step = GenerateEmbeddings(llm=Hidden())
    step.load()
    chat = [{"role": "user", "content": "hello"}]
    rows = next(step.process([{"text": "abc"}, {"text": chat}]))
    assert [row["embedding"] for row in rows] == [[2.0], [4.0]]
    assert rows[0]["model_name"] == "fake"


def test_a_text_that_cannot_be_embedded_fails_alone() -> None:
    step = GenerateEmbeddings(llm=Hidden())
    ((good, bad, odd),) = list(step.entries([{"text": "abc"}, {"text": "bad"}, {"text": 3}]))
    assert good["embedding"] == [2.0]
    assert bad.failure.message == "no state"
    assert "'text'" in odd.failure.message


def test_a_model_without_hidden_states_says_so() -> None:
    ((bad,),) = list(GenerateEmbeddings(llm=FakeLLM()).entries([{"text": "abc"}]))
    assert bad.failure.kind.endswith(ParameterError.__name__)
