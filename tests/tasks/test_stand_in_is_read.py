"""The stand-in model answers every task in a shape that the task can read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from asyncdistil.models import OpenAILLM
from asyncdistil.steps import tasks
from asyncdistil.testing import forms
from asyncdistil.testing.model_server import ModelServer

PROBLEM = "Ann has 2 apples and buys 3. How many?"
PAIR = {"instruction": "What is rain?", "generations": ["water", "fire"]}
ANSWERED = {"instruction": "What is rain?", "generation": "Water from the sky"}
TASK = {"task": "Given a question on cooking, find forum answers."}
SHORT = {"num_instructions": 2, "min_length": 5, "max_length": 300}

ASKED: list[tuple[str, dict[str, Any], dict[str, Any] | None]] = [
    ("TextGeneration", {}, {"instruction": "What is rain?"}),
    ("ChatGeneration", {}, {"messages": [{"role": "user", "content": "What is rain?"}]}),
    ("UltraFeedback", {}, PAIR),
    ("UltraFeedback", {"aspect": "helpfulness"}, PAIR),
    ("PrometheusEval", {"mode": "absolute", "rubric": "factual-validity"}, ANSWERED),
    ("PrometheusEval", {"mode": "relative", "rubric": "factual-validity"}, PAIR),
    ("QualityScorer", {}, {"instruction": "What is rain?", "responses": ["water", "fire"]}),
    ("ComplexityScorer", {}, {"instructions": ["What is rain?", "Why?"]}),
    ("InstructionBacktranslation", {}, ANSWERED),
    ("CLAIR", {}, {"task": "What is rain?", "student_solution": "Fire"}),
    ("SelfInstruct", {"num_instructions": 3}, {"input": "the weather"}),
    ("EvolInstruct", {"num_evolutions": 2}, {"instruction": "What is rain?"}),
    ("EvolComplexity", {"num_evolutions": 1}, {"instruction": "What is rain?"}),
    ("EvolQuality", {"num_evolutions": 1}, {"instruction": "Rain?", "response": "Water"}),
    ("Genstruct", {}, {"title": "Rain", "content": "Rain is water."}),
    ("URIAL", {}, {"instruction": "What is rain?"}),
    ("TextClassification", {"available_labels": ["good", "bad"]}, {"text": "I love it"}),
    ("TextClassification", {"n": 2}, {"text": "I love it"}),
    ("GenerateSentencePair", {"action": "paraphrase"}, {"anchor": "Rain falls"}),
    ("GenerateSentencePair", {"action": "query", "triplet": True}, {"anchor": "Rain falls"}),
    (
        "StructuredGeneration",
        {},
        {"instruction": "q", "structured_output": {"schema": {"type": "object"}}},
    ),
    ("EmbeddingTaskGenerator", {"category": "text-retrieval"}, None),
    ("GenerateTextRetrievalData", {}, TASK),
    ("GenerateShortTextMatchingData", {}, TASK),
    ("GenerateLongTextMatchingData", {}, TASK),
    ("GenerateTextClassificationData", {}, TASK),
    ("MonolingualTripletGenerator", {}, None),
    ("BitextRetrievalGenerator", {"source_language": "English", "target_language": "German"}, None),
    ("EvolInstructGenerator", SHORT, None),
    ("EvolComplexityGenerator", SHORT, None),
    ("MathShepherdGenerator", {"M": 2}, {"instruction": PROBLEM}),
    (
        "MathShepherdCompleter",
        {"N": 2},
        {
            "instruction": PROBLEM,
            "solutions": [["Step 1: 2 + 3", "Step 2: It is 5", "The answer is: 5"]],
            "golden_solution": ["Step 1: 2 + 3 = 5", "The answer is: 5"],
        },
    ),
    (
        "APIGenGenerator",
        {},
        {"examples": "none", "func_name": "f", "func_desc": "Adds two numbers."},
    ),
    (
        "APIGenSemanticChecker",
        {},
        {"func_desc": "Adds.", "query": "1 + 1?", "answers": "[]", "execution_result": "2"},
    ),
]


@pytest.fixture(scope="module")
def server() -> Iterator[ModelServer]:
    with ModelServer() as one:
        yield one


@pytest.mark.parametrize(
    ("kind", "options", "row"), ASKED, ids=lambda value: value if isinstance(value, str) else ""
)
def test_a_task_reads_what_the_stand_in_says(
    kind: str, options: dict[str, Any], row: dict[str, Any] | None, server: ModelServer
) -> None:
    llm = OpenAILLM(
        model="m", base_url=server.url, api_key="k", generation_kwargs={"max_new_tokens": 2048}
    )
    task = getattr(tasks, kind)(name="task", llm=llm, **options)
    task.load()
    made = next(task.process([row])) if row is not None else next(task.process())[0]
    task.unload()
    for column in task.outputs:
        value = made[0][column]
        assert value not in (None, []), (column, made[0])
        assert not isinstance(value, list) or None not in value


def test_labels_are_taken_from_those_that_are_listed() -> None:
    form = '{"labels": ["<label 1>", "<label 2>"]}'
    prompt = f'- "a \\"b\\"": said\n- "c"\n\nAnswer in this form:\n{form}\n'
    filled = forms.fill(prompt, lambda subject, part: part, lambda what, count: 0)
    assert filled == '{"labels": ["a \\"b\\"", "c"]}'


def test_a_form_ends_where_the_users_text_begins() -> None:
    prompt = "Answer in this form:\n\n## Positive\n\n<the positive>\n\n## Anchor\n\nRain <b> falls"
    filled = forms.fill(prompt, lambda subject, part: part, lambda what, count: 0)
    assert filled == "## Positive\n\nthe positive 1"


def test_a_plain_question_describes_no_form() -> None:
    assert forms.fill("What is <b>rain</b>?", lambda *_: "", lambda *_: 0) is None
