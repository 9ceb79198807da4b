from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncdistil.errors import ModelReplyError
from asyncdistil.steps.tasks import replies

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), json_values, max_size=4))
def test_an_object_is_read_past_remarks_and_fences(value: dict[str, object]) -> None:
    text = json.dumps(value)
    assert replies.read_json(text) == value
    assert replies.read_json(f"Sure! Here you go:\n\n{text}\nAnything else?", kind=dict) == value


def test_an_object_is_read_out_of_a_fence_of_any_language() -> None:
    for language in ("", "json", "JSON", "python"):
        assert replies.read_json(f'Look:\n```{language}\n{{"a": [1]}}\n```\nDone.') == {"a": [1]}


def test_python_literals_count_as_json() -> None:
    assert replies.read_json("{'a': None, 'b': ['x']}") == {"a": None, "b": ["x"]}


def test_raw_line_breaks_inside_strings_are_accepted() -> None:
    assert replies.read_json('{"a": "one\ntwo"}') == {"a": "one\ntwo"}


@pytest.mark.parametrize("reply", ["", "no", "{", "[1, 2", "{a: 1}", "__import__('os').getcwd()"])
def test_a_reply_without_json_is_refused_and_quoted(reply: str) -> None:
    with pytest.raises(ModelReplyError, match="no JSON") as raised:
        replies.read_json(reply)
    assert repr(reply) in str(raised.value)


def test_a_missing_key_is_named() -> None:
    with pytest.raises(ModelReplyError, match="'b'"):
        replies.read_object('{"a": 1}', "a", "b")


@given(st.lists(st.integers(0, 99), min_size=1, max_size=12), st.randoms())
def test_scores_are_placed_by_their_number_whatever_the_order_of_lines(
    scores: list[int], random: object
) -> None:
    lines = [f"[{number}] Score: {score}" for number, score in enumerate(scores, 1)]
    random.shuffle(lines)  # type: ignore[attr-defined]
    assert replies.read_scores("\n".join(lines), len(scores)) == [float(score) for score in scores]


def test_score_lines_survive_remarks_bullets_and_bold() -> None:
    reply = "Scores:\n- **[1] Score: 3**\n[2] score - 4/5\n\n3. Score: 2.5"
    assert replies.read_scores(reply, 3) == [3.0, 4.0, 2.5]


def test_a_missing_score_leaves_its_place_empty() -> None:
    assert replies.read_scores("[1] Score: 3\n[3] Score: 1", 3) == [3.0, None, 1.0]


def test_scores_without_numbers_are_read_only_if_all_are_there() -> None:
    assert replies.read_scores("Score: 1\nScore: 2", 2) == [1.0, 2.0]
    with pytest.raises(ModelReplyError):
        replies.read_scores("Score: 1\nScore: 2", 3)


@pytest.mark.parametrize(
    ("text", "rating"),
    [("4", 4), ("4/5", 4), (" **3**", 3), ("N/A", None), ("None", None), ("9", None), ("", None)],
)
def test_a_rating_is_the_first_whole_number_in_range(text: str, rating: int | None) -> None:
    assert replies.first_integer(text, 1, 5) == rating


def test_sections_are_placed_by_number_and_strange_numbers_ignored() -> None:
    reply = "Intro\n### Text 2\ntwo\n#### Output for Text 1:\none\n**Text 7**\nseven"
    assert replies.sections(reply, "text", 3) == ["one", "two", None]


def test_labelled_values_run_to_the_next_label() -> None:
    text = "**Rating**: 4\nRationale: it is\nfine: really.\nrating: 2"
    found = list(replies.labelled(text, ["Rating", "Rationale"]))
    assert found == [("Rating", "4"), ("Rationale", "it is\nfine: really."), ("Rating", "2")]


def test_lines_lose_bullets_and_numbers_but_not_their_text() -> None:
    reply = "1. What is 2 + 2?\n\n- Write a poem\n(3) -5 or 5?\n2024 was what?"
    assert replies.lines(reply) == ["What is 2 + 2?", "Write a poem", "-5 or 5?", "2024 was what?"]
