from __future__ import annotations

import json
from typing import Any

import pytest

from asyncdistil.errors import ModelReplyError
from asyncdistil.steps.tasks import (
    BitextRetrievalGenerator,
    EmbeddingTaskGenerator,
    GenerateLongTextMatchingData,
    GenerateShortTextMatchingData,
    GenerateTextClassificationData,
    GenerateTextRetrievalData,
    MonolingualTripletGenerator,
)
from asyncdistil.testing.fake_llm import FakeLLM

EXAMPLES = [
    GenerateTextRetrievalData,
    GenerateShortTextMatchingData,
    GenerateLongTextMatchingData,
    GenerateTextClassificationData,
]
TRIPLET = {"S1": "a", "S2": "b", "S3": "c"}


@pytest.mark.parametrize("kind", EXAMPLES)
def test_an_example_is_read_from_json_and_the_prompt_names_its_keys(kind: Any) -> None:
    values = {key: f"<{key}>" for key in kind.keys}
    llm = FakeLLM(reply=f"```json\n{json.dumps({**values, 'note': 'x'})}\n```")
    task = kind(llm=llm, language="Welsh")
    task.load()
    (row,) = next(task.process([{"task": "Match proverbs."}]))
    assert {key: row[key] for key in kind.keys} == values
    assert task.outputs == [*kind.keys, "model_name"]
    text = llm.asked[0][0]["content"]
    assert "Match proverbs." in text
    assert "Welsh" in text
    assert all(f'"{key}"' in text for key in kind.keys)


@pytest.mark.parametrize("kind", EXAMPLES)
def test_what_is_not_set_is_drawn_by_seed_and_task(kind: Any) -> None:
    def prompts(seed: int, **fields: Any) -> list[str]:
        task = kind(llm=FakeLLM(), seed=seed, **fields)
        return [task.format_input({"task": str(n)})[0]["content"] for n in range(20)]

    assert prompts(1) == prompts(1)
    if "difficulty" in kind.model_fields:
        assert prompts(1) != prompts(2)
        assert all("PhD" in text for text in prompts(1, difficulty="PhD"))


@pytest.mark.parametrize("reply", ["", "no", '["a"]', '{"input": "x"}'])
def test_an_example_that_lacks_a_part_is_refused(reply: str) -> None:
    with pytest.raises(ModelReplyError):
        GenerateShortTextMatchingData(llm=FakeLLM()).format_output(reply)


def test_tasks_are_a_list_or_a_row_each() -> None:
    reply = '["Find answers.", "Find laws."]'
    task = EmbeddingTaskGenerator(llm=FakeLLM(reply=reply), category="text-matching-long")
    ((rows, last),) = list(task.process())
    assert (rows[0]["tasks"], last) == (["Find answers.", "Find laws."], True)
    flat = EmbeddingTaskGenerator(
        llm=FakeLLM(reply=reply), name="e", category="text-retrieval", flatten_tasks=True,
        num_generations=2,
    )  # fmt: skip
    ((rows, _),) = list(flat.process())
    assert [row["task"] for row in rows] == ["Find answers.", "Find laws."] * 2
    assert rows[0]["model_name"] == "fake"
    assert rows[0]["distilabel_metadata"]["raw_output_e"] == reply


@pytest.mark.parametrize("category", ["text-retrieval", "text-matching-short", "text-matching-long", "text-classification"])  # noqa: E501  # fmt: skip
def test_every_category_has_a_prompt_of_its_own(category: Any) -> None:
    (message,) = EmbeddingTaskGenerator(llm=FakeLLM(), category=category).prompt
    assert "20 " in message["content"]
    assert category.split("-")[1][:5] in message["content"]


def test_a_generator_whose_answers_are_all_useless_stops_the_run() -> None:
    task = EmbeddingTaskGenerator(llm=FakeLLM(reply="[]"), category="text-retrieval")
    with pytest.raises(ModelReplyError, match="no answer"):
        next(task.process())


def test_a_useless_answer_among_several_is_a_null_row() -> None:
    llm = FakeLLM(reply=[json.dumps(TRIPLET), "no"])
    task = MonolingualTripletGenerator(llm=llm, name="t", num_generations=2)
    ((rows, _),) = list(task.process())
    assert [row["S1"] for row in rows] == ["a", None]
    assert "failure_t" in rows[1]["distilabel_metadata"]


def test_triplets_say_unit_languages_and_closeness() -> None:
    llm = FakeLLM(reply=json.dumps(TRIPLET))
    task = BitextRetrievalGenerator(
        llm=llm, source_language="Welsh", target_language="Breton", unit="phrase",
        high_score="4.5", low_score="2.5", group_generations=True,
    )  # fmt: skip
    ((rows, last),) = list(task.process())
    assert (rows[0]["S2"], rows[0]["model_name"], last) == (["b"], "fake", True)
    text = llm.asked[0][0]["content"]
    for part in ("S1 in Welsh", "Breton", "phrase", "closeness 4.5", "closeness 2.5"):
        assert part in text


def test_a_generator_of_triplets_can_be_reused_because_it_reads_nothing_but_its_fields() -> None:
    make = lambda seed: MonolingualTripletGenerator(llm=FakeLLM(), name="t", seed=seed)  # noqa: E731
    assert make(1).data_identity() == make(1).data_identity() is not None
    assert make(1).data_identity() != make(2).data_identity()
