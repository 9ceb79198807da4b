"""Checking against a schema, and the stand-in's answers that must pass."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from asyncdistil.errors import ParameterError
from asyncdistil.models.json_schema import violation
from asyncdistil.models.structured import structure_of
from asyncdistil.testing.answers import answer


class Leaf(BaseModel):
    kind: str = Field(min_length=2, max_length=30)
    score: int = Field(ge=1, le=5)


class Tree(BaseModel):
    leaves: list[Leaf] = Field(min_length=1, max_length=3)
    next: Tree | None = None
    pair: tuple[int, str] = (1, "a")
    mode: str | None = None


@pytest.mark.parametrize(
    ("value", "schema", "complaint"),
    [
        ({}, {"type": "object"}, ""),
        ([], {"type": "object"}, "must be object, not array"),
        (True, {"type": "integer"}, "must be integer, not boolean"),
        (1.0, {"type": "integer"}, ""),
        (1.5, {"type": "integer"}, "must be integer, not number"),
        (None, {"type": ["string", "null"]}, ""),
        ({}, {"required": ["a"]}, "'a' is missing"),
        ({"b": 1}, {"properties": {"a": {}}, "additionalProperties": False}, "'b' is not allowed"),
        ({"b": "x"}, {"additionalProperties": {"type": "integer"}}, "$.b: must be integer"),
        ({"x1": 1}, {"patternProperties": {"^x": {"type": "string"}}}, "$.x1: must be string"),
        ([1, "a"], {"items": {"type": "integer"}}, "$[1]: must be integer"),
        ([1, 1], {"uniqueItems": True}, "comes twice"),
        ([1, True], {"uniqueItems": True}, ""),
        ([], {"minItems": 1}, "at least 1 items"),
        ([1, 2], {"maxItems": 1}, "1 items at most"),
        (["a"], {"prefixItems": [{"type": "integer"}]}, "$[0]: must be integer"),
        ("abc", {"pattern": "^x"}, "must match"),
        ("abc", {"maxLength": 2}, "2 characters at most"),
        (3, {"minimum": 4}, "at least 4"),
        (3, {"exclusiveMaximum": 3}, "below 3"),
        (0.3, {"multipleOf": 0.1}, ""),
        (0.35, {"multipleOf": 0.1}, "multiple of"),
        ("b", {"enum": ["a", 1]}, "must be one of"),
        (True, {"enum": [1]}, "must be one of"),
        (2, {"const": 1}, "must be 1"),
        ("x", {"anyOf": [{"type": "integer"}, {"type": "null"}]}, "none of the alternatives"),
        (1, {"oneOf": [{"type": "integer"}, {"minimum": 0}]}, "exactly one"),
        (1, {"not": {"type": "integer"}}, "excluded"),
        (1, {"allOf": [{"type": "integer"}, {"minimum": 2}]}, "at least 2"),
        (1, {"$ref": "#/$defs/s", "$defs": {"s": {"type": "string"}}}, "must be string"),
        (1, {"$ref": "#/$defs/gone"}, "nothing is allowed"),
        (1, {"$ref": "#"}, "nested too deep"),
        (1, False, "nothing is allowed"),
        (1, True, ""),
    ],
)
def test_each_keyword_is_checked(value: Any, schema: Any, complaint: str) -> None:
    found = violation(value, schema)
    assert bool(found) == bool(complaint)
    assert complaint in found


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(JSON)
def test_everything_fits_the_empty_schema(value: Any) -> None:
    assert violation(value, {}) == ""


@given(JSON, JSON)
def test_const_is_equality_of_json(value: Any, other: Any) -> None:
    assert violation(value, {"const": value}) == ""
    if violation(other, {"const": value}) == "":
        assert other == value


@given(st.text(), st.integers(0, 3))
def test_the_stand_in_obeys_the_schema_of_a_pydantic_class(prompt: str, index: int) -> None:
    schema = Tree.model_json_schema()
    text = answer(prompt, index=index, schema=schema)
    Tree.model_validate_json(text)
    assert violation(msgspec.json.decode(text), schema) == ""


def test_the_stand_in_stops_where_a_schema_comes_back_to_itself() -> None:
    class Node(BaseModel):
        name: str
        children: list[Node] = []
        parent: Node | None = None

    for prompt in map(str, range(20)):
        text = answer(prompt, schema=Node.model_json_schema())
        Node.model_validate_json(text)
        assert len(text) < 200


@given(st.text())
def test_the_complaint_about_what_is_no_json_is_a_sentence(text: str) -> None:
    structure = structure_of({"schema": Leaf})
    assert structure is not None
    try:
        Leaf.model_validate_json(text)
    except ValueError:
        assert structure.complaint(text)


def test_a_class_says_which_field_is_wrong() -> None:
    structure = structure_of({"schema": Leaf})
    assert structure is not None
    assert structure.complaint('{"kind": "ok", "score": 9}').startswith("score:")
    assert structure.complaint('{"kind": "ok", "score": 3}') == ""


def test_a_closed_schema_with_everything_required_is_strict() -> None:
    closed = {
        "type": "object",
        "properties": {"a": {"type": "string"}},
        "required": ["a"],
        "additionalProperties": False,
    }
    strict = structure_of({"schema": closed})
    loose = structure_of({"schema": {**closed, "required": []}})
    assert strict is not None
    assert loose is not None
    assert (strict.strict, loose.strict) == (True, False)


def test_a_regular_expression_must_match_all_of_the_answer() -> None:
    structure = structure_of({"format": "regex", "schema": r"\d+"})
    assert structure is not None
    assert structure.complaint("42") == ""
    assert structure.complaint("42!")


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ({"$ref": "#/$defs/Lost"}, r"#/\$ref is '#/\$defs/Lost', and there is nothing"),
        ({"properties": {"a": {"$ref": 5}}}, r"#/properties/a/\$ref must be text"),
        ({"items": {"type": "strang"}}, "#/items/type is 'strang'"),
        ({"anyOf": [{"pattern": r"\p{L}"}]}, "#/anyOf/0: .* no pattern that Python knows"),
        ({"patternProperties": {"[": {}}}, "no pattern that Python knows"),
        ({"required": 5}, "#/required must be a list"),
        ({"enum": 5}, "#/enum must be a list"),
        ({"minimum": "5"}, "#/minimum must be a number"),
        ({"properties": ["a"]}, "#/properties must be an object"),
        ({"allOf": {}}, "#/allOf must be a list"),
        ({"additionalProperties": "no"}, "#/additionalProperties must be an object"),
    ],
)
def test_a_schema_that_no_answer_can_be_checked_by_is_refused_before_one_is_paid_for(
    schema: Any, reason: str
) -> None:
    with pytest.raises(ParameterError, match=reason):
        structure_of({"schema": schema})


def test_a_pattern_that_is_none_is_refused_before_an_answer_is_paid_for() -> None:
    with pytest.raises(ParameterError, match="none that Python knows"):
        structure_of({"format": "regex", "schema": "[a"})


@pytest.mark.parametrize(
    "schema",
    [
        Tree.model_json_schema(),
        msgspec.json.schema(list[int] | None),
        {"$ref": "#"},
        {"items": [{"type": "string"}], "type": ["array", "null"]},
        {"properties": {"type": {"type": "string"}, "enum": True, "$ref": False}},
        {"const": {"$ref": 5}, "default": {"type": 7}, "$ref": "https://elsewhere/schema"},
    ],
)
def test_a_schema_that_can_be_checked_by_is_taken(schema: Any) -> None:
    assert structure_of({"schema": schema}) is not None


def test_an_answer_that_is_nested_too_deep_is_told_in_words() -> None:
    structure = structure_of({"schema": {"type": "array"}})
    assert structure is not None
    assert structure.complaint("[" * 50_000 + "]" * 50_000) == "the answer is nested too deep"
