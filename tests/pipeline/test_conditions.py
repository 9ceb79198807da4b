"""Conditions on rows: what they mean, and that they can't do anything else."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncdistil.batch import Failure
from asyncdistil.errors import ConditionError
from asyncdistil.pipeline.condition import LONGEST, Condition

ROW: dict[str, Any] = {
    "score": 4.5,
    "text": "A cat sat",
    "tags": ["a", "b"],
    "meta": {"model": "x", "tokens": {"out": 7}},
    "none": None,
    "failed": "a column",
}
FAILURE = Failure("ModelReplyError", "no JSON", 3, "raw reply")


@pytest.mark.parametrize(
    "text",
    [
        "score > 4 and 'cat' in text",
        "1 < score <= 4.5",
        "not (score < 4 or text.startswith('B'))",
        "text.lower().contains('a c') and text.endswith('sat')",
        "len(text) == 9 and len(tags) > 1",
        "meta.tokens.out == 7 and meta['model'] in ('x', 'y')",
        "tags[0] == 'a' and tags[-1] == 'b'",
        "none is None and none == None",
        "score * 2 - 1 == 8 and score // 2 == 2 and abs(-score) == 4.5",
        "str(score) == '4.5'",
        "failure.kind == 'ModelReplyError' and failure.attempts >= 3",
        "failure.detail.contains('raw') and 'JSON' in failure.message",
        "failed and row['failed'] == 'a column'",
        "missing is None or score > 100",
        "failed or missing > 3",
        "text not in ['x']",
    ],
)
def test_a_row_that_meets_a_condition(text: str) -> None:
    assert Condition(text)(ROW, FAILURE)


@pytest.mark.parametrize(
    "text",
    [
        "none > 3",
        "not none > 3",  # nobody knows
        "missing > 3 and score > 1",
        "not (missing > 3)",
        "text > 3",
        "meta.nothing > 1",
        "tags[7] == 'a'",
        "score / 0 == 1",
        "text * 3 == text",
        "score.lower() == 'x'",
        "len(score) == 1",
    ],
)
def test_what_makes_no_sense_of_a_row_is_not_met(text: str) -> None:
    assert not Condition(text)(ROW, FAILURE)


def test_a_row_that_did_not_fail_has_no_failure() -> None:
    assert not Condition("failed")(ROW)
    assert not Condition("failure.kind == 'ModelReplyError'")(ROW)
    assert Condition("failure is None")(ROW)


@pytest.mark.parametrize(
    ("text", "position"),
    [
        ("score > ", 7),
        ("score > 3 and __import__('os').system('x')", 14),
        ("text.__class__.__mro__() == 1", 0),
        ("(lambda: 1)()", 0),
        ("[x for x in tags]", 0),
        ("score > 3 if failed else 1", 0),
        ("score ** 999999999 > 1", 0),
        ("f'{score}' == '4.5'", 0),
        ("text.format(1) == ''", 0),
        ("open('x')", 0),
        ("len(text, 1) > 1", 0),
        ("len(x=text) > 1", 0),
        ("tags[0:1] == []", 0),
        ("failed and failure.reason == 'x'", 11),
        ("'é' in text or x := 1", 17),
        ("text == b'x'", 8),
        ("score; score", 5),
        ("", 0),
        ("(" * 900 + "score" + ")" * 900, 0),
        ("score > " + "1" * LONGEST, 0),
        ("-" * 1900 + "1 < score", 0),
    ],
)
def test_a_condition_that_may_not_be_is_refused_with_its_place(text: str, position: int) -> None:
    with pytest.raises(ConditionError) as refused:
        Condition(text)
    if position:
        assert refused.value.position == position
        assert f"at character {position + 1}" in str(refused.value)


def test_attributes_are_keys_and_never_reach_into_objects() -> None:
    class Trap:
        @property
        def secret(self) -> str:
            raise AssertionError("it was reached")

    assert not Condition("trap.secret == 'x' or text.__class__ == 1")({"trap": Trap(), "text": ""})


def test_a_column_that_no_row_has_is_a_mistake() -> None:
    condition = Condition("scor > 3")
    assert not condition(ROW)
    with pytest.raises(ConditionError, match="did you mean 'score'"):
        condition.check_columns(ROW)
    known = Condition("score > 3")
    known(ROW)
    known.check_columns(ROW)


@given(st.text(max_size=60))
def test_any_text_is_a_condition_or_refused(text: str) -> None:
    try:
        condition = Condition(text)
    except ConditionError:
        return
    assert condition(ROW, FAILURE) in (True, False)
