from __future__ import annotations

from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncdistil.errors import DataError, ModelReplyError
from asyncdistil.steps.rows import FailedRow
from asyncdistil.steps.tasks import (
    ComplexityScorer,
    InstructionBacktranslation,
    PrometheusEval,
    QualityScorer,
    UltraFeedback,
)
from asyncdistil.steps.tasks.ultrafeedback import Aspect, read_judgements
from asyncdistil.testing.fake_llm import FakeLLM

ASPECTS = get_args(Aspect)
ROW = {"instruction": "2 + 2?", "generations": ["4", "5"]}


def ultra(aspect: Any = "overall-rating", **fields: Any) -> UltraFeedback:
    return UltraFeedback(llm=FakeLLM(), aspect=aspect, **fields)


# --- UltraFeedback ----------------------------------------------------------------------------


@pytest.mark.parametrize("aspect", ASPECTS)
def test_every_aspect_shows_instruction_texts_and_the_form_of_the_answer(aspect: Any) -> None:
    system, user = ultra(aspect).format_input(ROW)
    assert "2 texts" in system["content"]
    for part in ("2 + 2?", "### Text 1\n\n4", "### Text 2\n\n5", "Rating: <a whole number"):
        assert part in user["content"]
    assert ("Type: <" in user["content"]) == (aspect in {"helpfulness", "truthfulness"})


def test_columns_follow_the_aspect() -> None:
    assert ultra("honesty").outputs == ["ratings", "rationales", "model_name"]
    assert ultra("truthfulness").outputs == [
        "types", "rationales", "ratings", "rationales-for-ratings", "model_name",
    ]  # fmt: skip


@given(
    st.lists(st.integers(1, 5), min_size=1, max_size=6),
    st.randoms(use_true_random=False),
    st.sampled_from(["### Text {}", "#### Output for Text {}", "**Text {}:**", "Text {}"]),
)
def test_ratings_are_placed_by_the_number_of_the_text(
    ratings: list[int], random: Any, heading: str
) -> None:
    parts = [
        f"{heading.format(number)}\nRating: {rating}\nRationale: because\nof {number}"
        for number, rating in enumerate(ratings, 1)
    ]
    random.shuffle(parts)
    row = {"instruction": "x", "generations": [""] * len(ratings)}
    made = ultra().format_output("\n\n".join(parts), row)
    assert made["ratings"] == ratings
    assert made["rationales"] == [f"because\nof {n}" for n in range(1, len(ratings) + 1)]


def test_replies_without_headings_are_read_in_order() -> None:
    reply = "Rating: 4\nRationale: good\n\nRating: N/A\nRationale: who knows"
    made = ultra().format_output(reply, ROW)
    assert made == {"ratings": [4, None], "rationales": ["good", "who knows"]}


def test_a_text_that_the_reply_skips_keeps_its_place() -> None:
    made = ultra().format_output("### Text 2\nRating: 2\nRationale: r", ROW)
    assert made == {"ratings": [None, 2], "rationales": [None, "r"]}


def test_typed_judgements_have_two_rationales() -> None:
    reply = """### Text 1
Type: 2
Rationale: a
Rating: 3/5
Rationale: b

### Text 2
Type: N/A
Rationale: c
Rating: 5
Rationale: d"""
    assert ultra("truthfulness").format_output(reply, ROW) == {
        "types": [2, None],
        "rationales": ["a", "c"],
        "ratings": [3, 5],
        "rationales-for-ratings": ["b", "d"],
    }
    untitled = "\n".join(line for line in reply.splitlines() if not line.startswith("#"))
    judged = read_judgements(untitled, 2, typed=True)
    assert [one["rationales-for-ratings"] for one in judged] == ["b", "d"]


@pytest.mark.parametrize("reply", ["", "I won't.", "### Text 1\nnice\n### Text 2\nnot nice"])
def test_a_reply_that_rates_nothing_is_refused(reply: str) -> None:
    with pytest.raises(ModelReplyError, match="no rating"):
        ultra().format_output(reply, ROW)


def test_an_unreadable_judgement_fails_its_row_and_keeps_the_reply() -> None:
    task = UltraFeedback(llm=FakeLLM(reply="I won't."), name="u")
    task.load()
    ((entry,),) = list(task.entries([ROW]))
    assert isinstance(entry, FailedRow)
    assert entry.row["ratings"] is None
    assert entry.row["distilabel_metadata"]["raw_output_u"] == "I won't."
    assert entry.failure.detail == "I won't."
    assert entry.failure.kind == "asyncdistil.errors.ModelReplyError"


def test_structured_judgements_get_the_columns_of_the_aspect() -> None:
    task = ultra("helpfulness", use_default_structured_output=True)
    reply = '{"types": [1, null], "rationales": ["a", "b"], "ratings": [5, 1], "rationales_for_ratings": ["c", "d"]}'  # noqa: E501
    assert task.format_output(reply, ROW) == {
        "types": [1, None],
        "rationales": ["a", "b"],
        "ratings": [5, 1],
        "rationales-for-ratings": ["c", "d"],
    }
    assert '"rationales_for_ratings": [...]' in task.format_input(ROW)[1]["content"]


@pytest.mark.parametrize("reply", ['{"ratings": [5]}', '{"ratings": 5, "rationales": "x"}', "no"])
def test_structured_judgements_of_another_length_are_refused(reply: str) -> None:
    with pytest.raises(ModelReplyError):
        ultra(use_default_structured_output=True).format_output(reply, ROW)


# --- PrometheusEval ---------------------------------------------------------------------------


def prometheus(mode: Any = "absolute", **fields: Any) -> PrometheusEval:
    return PrometheusEval(llm=FakeLLM(), mode=mode, rubric="helpfulness", **fields)


@pytest.mark.parametrize(
    ("reply", "result"),
    [
        ("Feedback: Fine. [RESULT] 4", ("Fine.", 4)),
        ("Fine.\n[RESULT]: 4", ("Fine.", 4)),
        ("**Feedback:** Fine. [result] (4)", ("Fine.", 4)),
        ("Feedback: Fine. [RESULT] 4\n\nAnything else?", ("Fine.", 4)),
    ],
)
def test_absolute_results_are_whole_numbers(reply: str, result: tuple[str, int]) -> None:
    made = prometheus().format_output(reply)
    assert (made["feedback"], made["result"]) == result


def test_relative_results_are_letters() -> None:
    assert prometheus("relative").format_output("Feedback: Both. [RESULT] b")["result"] == "B"


@pytest.mark.parametrize(
    ("mode", "reply"),
    [("absolute", "4"), ("absolute", "x [RESULT] 6"), ("absolute", "x [RESULT] A"),
     ("relative", "x [RESULT] 1"), ("relative", "x [RESULT]"), ("absolute", "")],
)  # fmt: skip
def test_a_result_that_is_none_of_the_allowed_ones_is_refused(mode: Any, reply: str) -> None:
    with pytest.raises(ModelReplyError):
        prometheus(mode).format_output(reply)


def test_inputs_follow_mode_and_reference() -> None:
    assert prometheus().inputs == ["instruction", "generation"]
    assert prometheus("relative", reference=True).inputs == [
        "instruction", "generations", "reference",
    ]  # fmt: skip


def test_the_prompt_shows_responses_reference_and_rubric() -> None:
    row = {"instruction": "i", "generations": ["one", "two"], "reference": "ref"}
    task = prometheus("relative", reference=True)
    text = task.format_input(row)[1]["content"]
    for part in ("# Response A\n\none", "# Response B\n\ntwo", "ref", task.rubrics["helpfulness"]):
        assert part in text
    assert "# Reference answer" not in prometheus("relative").format_input(row)[1]["content"]


@pytest.mark.parametrize("generations", ["one", ["one"], ["one", "two", "three"], ["one", 2]])
def test_anything_but_two_texts_cannot_be_compared(generations: Any) -> None:
    with pytest.raises(DataError, match="two texts"):
        prometheus("relative").format_input({"instruction": "i", "generations": generations})


def test_a_response_that_is_no_text_cannot_be_scored() -> None:
    with pytest.raises(DataError, match="generation"):
        prometheus().format_input({"instruction": "i", "generation": ["x"]})


def test_rubrics_of_your_own_take_the_place_of_ours() -> None:
    mine = "[Is it short?]\n" + "\n".join(f"Score {n}: {n}" for n in range(1, 6))
    task = PrometheusEval(llm=FakeLLM(), mode="absolute", rubric="short", rubrics={"short": mine})
    assert mine in task.format_input({"instruction": "i", "generation": "g"})[1]["content"]


@pytest.mark.parametrize(
    "rubrics", [{}, {"short": "Is it short?"}, {"short": "[Is it?]\nScore 1: no\nScore 5: yes"}]
)
def test_rubrics_that_are_missing_or_malformed_are_refused_at_once(rubrics: Any) -> None:
    with pytest.raises(ValueError, match="rubric"):
        PrometheusEval(llm=FakeLLM(), mode="absolute", rubric="short", rubrics=rubrics)


# --- scorers ----------------------------------------------------------------------------------


def test_scores_are_numbers_in_the_order_of_the_texts() -> None:
    row = {"instruction": "i", "responses": ["a", "b", "c"]}
    task = QualityScorer(llm=FakeLLM())
    made = task.format_output("[2] Score: 3\n[1] Score: 1", row)
    assert made == {"scores": [1.0, 3.0, None]}
    assert task.format_output(None, row) == {"scores": [None] * 3}
    with pytest.raises(ModelReplyError):
        task.format_output("they are all nice", row)


@pytest.mark.parametrize(
    ("task", "row"),
    [
        (QualityScorer(llm=FakeLLM()), {"instruction": "i", "responses": ["a", "b"]}),
        (ComplexityScorer(llm=FakeLLM()), {"instructions": ["a", "b"]}),
    ],
)
def test_the_scale_goes_from_one_to_the_number_of_texts_and_one_beyond(task: Any, row: Any) -> None:
    text = task.format_input(row)[0]["content"]
    for part in ("from 1 ", "to 2 ", "Keep 3 ", "[1] a", "[2] b"):
        assert part in text


def test_structured_scores_must_be_one_per_text() -> None:
    task = ComplexityScorer(llm=FakeLLM(), use_default_structured_output=True)
    row = {"instructions": ["a", "b"]}
    assert task.format_output('{"scores": [2, 1]}', row) == {"scores": [2, 1]}
    with pytest.raises(ModelReplyError):
        task.format_output('{"scores": [2]}', row)


# --- InstructionBacktranslation ---------------------------------------------------------------


def test_the_last_score_counts_and_the_reason_stands_before_it() -> None:
    task = InstructionBacktranslation(llm=FakeLLM())
    reply = "A score of 2 would be harsh.\n\n**Score: 4**"
    assert task.format_output(reply) == {"score": 4, "reason": "A score of 2 would be harsh."}
    assert task.format_output(None) == {"score": None, "reason": None}


@pytest.mark.parametrize("reply", ["", "Good.", "Score: 9", "Score: high"])
def test_a_reply_without_a_score_in_range_is_refused(reply: str) -> None:
    with pytest.raises(ModelReplyError):
        InstructionBacktranslation(llm=FakeLLM()).format_output(reply)
