"""Answers of a given structure: how to ask for them, how to check them, how to ask again.

The schema may be a pydantic class, a msgspec struct, a JSON schema (dict or text) or a regular
expression. The provider is asked natively; whatever comes back is checked here all the same.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
from pydantic import BaseModel, ValidationError

from asyncdistil.errors import ParameterError
from asyncdistil.models.json_schema import fault, violation
from asyncdistil.models.typing import ChatItem, FormattedInput, StandardInput, StructuredOutputType


@dataclass(frozen=True)
class Structure:
    """What an answer must look like.

    Attributes:
        format: ``json`` or ``regex``.
        schema: JSON schema, if ``json``.
        pattern: Regular expression, if ``regex``.
        kind: Class that parses an answer, if one was given.
        name: For providers that want one.
        repairs: Turns in which the model is shown what is wrong and asked again.
    """

    format: str
    schema: Mapping[str, Any]
    pattern: str
    kind: type | None
    name: str
    repairs: int

    def complaint(self, text: str) -> str:
        """Say what is wrong with an answer; empty if nothing is."""
        if self.format == "regex":
            fits = re.fullmatch(self.pattern, text) is not None
            return "" if fits else f"the answer must match {self.pattern!r}"
        try:
            value = msgspec.json.decode(text)
        except (msgspec.DecodeError, UnicodeEncodeError) as error:
            return f"the answer is not JSON: {error}"
        except RecursionError:
            return "the answer is nested too deep"
        if self.kind is not None:
            return self._refused_by_class(text)
        return violation(value, self.schema)

    def _refused_by_class(self, text: str) -> str:
        kind = self.kind
        try:
            if kind is not None and issubclass(kind, BaseModel):
                kind.model_validate_json(text)
            else:
                msgspec.json.decode(text, type=kind)
        except ValidationError as error:
            problems = error.errors(include_url=False, include_input=False, include_context=False)
            return "; ".join(
                f"{'.'.join(map(str, problem['loc'])) or '$'}: {problem['msg']}"
                for problem in problems[:5]
            )
        except msgspec.ValidationError as error:
            return str(error)
        return ""

    @property
    def strict(self) -> bool:
        """Whether OpenAI's strict mode takes the schema: closed objects, everything required."""
        return _is_strict(self.schema)

    def repair(self, messages: StandardInput, answer: str, complaint: str) -> StandardInput:
        """The conversation that asks once more."""
        again: list[ChatItem] = [
            {"role": "assistant", "content": answer},
            {
                "role": "user",
                "content": (
                    f"That answer can't be used: {complaint}. Answer again, with nothing but"
                    " text of the requested structure."
                ),
            },
        ]
        return [*messages, *again]


def structure_of(wanted: StructuredOutputType | None) -> Structure | None:
    """Read what a user or a task asked for.

    Raises:
        ParameterError: It can't be understood; the message names what it must look like.
    """
    if not wanted:
        return None
    if "schema" not in wanted:
        raise ParameterError(
            f"structured_output has no 'schema' but {sorted(wanted)}: give it a pydantic class, a"
            " msgspec struct, a JSON schema or, with format='regex', a pattern"
        )
    schema = wanted["schema"]
    repairs = int(wanted.get("max_retries") or 0)
    if wanted.get("format") == "regex":
        if not isinstance(schema, str):
            raise ParameterError("structured_output with format='regex' needs a pattern as schema")
        try:
            re.compile(schema)
        except re.error as error:
            raise ParameterError(
                f"the pattern of structured_output is none that Python knows: {error}"
            ) from None
        return Structure("regex", {}, schema, None, "answer", repairs)
    kind: type | None = None
    name = "answer"
    if isinstance(schema, type):
        kind, name = schema, re.sub(r"\W", "_", schema.__name__)
        schema = _schema_of_class(schema)
    elif isinstance(schema, str):
        try:
            schema = msgspec.json.decode(schema)
        except msgspec.DecodeError as error:
            raise ParameterError(
                f"the schema of structured_output is text but no JSON: {error}"
            ) from None
    if not isinstance(schema, Mapping):
        raise ParameterError(
            f"the schema of structured_output is a {type(schema).__name__}: give it a pydantic"
            " class, a msgspec struct or a JSON schema"
        )
    if kind is None and (found := fault(schema)):
        raise ParameterError(f"the schema of structured_output can't be used: {found}")
    if kind is None and isinstance(schema.get("title"), str):
        name = re.sub(r"\W", "_", schema["title"])[:64] or name
    return Structure("json", schema, "", kind, name, repairs)


def _schema_of_class(kind: type) -> Mapping[str, Any]:
    if issubclass(kind, BaseModel):
        return kind.model_json_schema()
    try:
        return msgspec.json.schema(kind)
    except TypeError as error:
        raise ParameterError(
            f"{kind.__name__} can't be the schema of structured_output: {error}"
        ) from None


def split_input(
    given: FormattedInput, default: StructuredOutputType | None
) -> tuple[StandardInput | str, StructuredOutputType | None]:
    """Part an input into the conversation and the structure that holds for it."""
    if isinstance(given, tuple):
        messages, wanted = given
        return messages, wanted or default
    return given, default


def _is_strict(schema: Any) -> bool:
    if isinstance(schema, list):
        return all(map(_is_strict, schema))
    if not isinstance(schema, Mapping):
        return True
    if schema.get("type") == "object" or "properties" in schema:
        properties = schema.get("properties", {})
        closed = schema.get("additionalProperties") is False
        if not closed or set(schema.get("required", ())) != set(properties):
            return False
    return all(_is_strict(part) for part in schema.values())
