"""``@step``: classes out of functions."""

from __future__ import annotations

from typing import Any

import pytest

from asyncdistil.errors import ParameterError
from asyncdistil.mixins.runtime_parameters import RuntimeParameter
from asyncdistil.steps import (
    GeneratorStep,
    GeneratorStepOutput,
    GlobalStep,
    Step,
    StepInput,
    StepOutput,
    step,
)


@step(inputs=["a"], outputs=["b"])
def Ask(inputs: StepInput, verb: RuntimeParameter[str] = "say", times: int = 1) -> StepOutput:
    """Ask something."""
    yield [{**row, "b": (verb or "") * times} for row in inputs]


@step(outputs=["n"], step_type="generator", resumable=True, reads_only_fields=True)
def Count(offset: int = 0, upto: int = 3) -> GeneratorStepOutput:
    for n in range(offset, upto):
        yield [{"n": n}], n == upto - 1


@step(inputs=["n"], step_type="global")
def Total(inputs: StepInput, need: RuntimeParameter[int]) -> StepOutput:
    yield [{"total": sum(row["n"] for row in inputs) + need}]


@step(row_wise=True)
def Odd(rows):  # type: ignore[no-untyped-def]
    yield [row if row["n"] % 2 else None for row in rows]


@step()
def Zip(*inputs: StepInput) -> StepOutput:
    yield [left | right for left, right in zip(*inputs, strict=True)]


def test_the_class_is_named_after_the_function_and_of_its_kind() -> None:
    assert (Ask.__name__, Ask.__doc__, Ask().name) == ("Ask", "Ask something.", "ask_0")
    assert issubclass(Ask, Step)
    assert issubclass(Count, GeneratorStep)
    assert issubclass(Total, GlobalStep)
    assert Ask().inputs == ["a"]
    assert Ask().outputs == ["b"]


def test_values_given_to_the_constructor_are_honoured() -> None:
    assert next(Ask(verb="ask", times=2).process([{"a": 1}])) == [{"a": 1, "b": "askask"}]
    assert next(Ask().process([{}])) == [{"b": "say"}]


def test_values_set_by_the_run_reach_the_function_and_nothing_else_does() -> None:
    ask = Ask()
    ask.set_runtime_parameters({"verb": "x", "input_batch_size": 3})
    assert next(ask.process([{}])) == [{"b": "x"}]
    assert ask.input_batch_size == 3
    assert "times" not in ask.runtime_parameters_names


def test_fields_are_checked_like_those_of_any_step() -> None:
    with pytest.raises(ValueError, match="valid integer"):
        Ask(times="many")
    with pytest.raises(ValueError, match="no parameter 'bogus'"):
        Ask(bogus=1)


def test_a_runtime_parameter_without_default_waits_for_the_run() -> None:
    total = Total()
    assert total.missing_runtime_parameters() == ["need"]
    total.set_runtime_parameters({"need": 10})
    assert next(total.process([{"n": 1}, {"n": 2}])) == [{"total": 13}]


def test_generators_row_wise_steps_and_joins_come_out_of_functions_too() -> None:
    assert [rows for rows, _ in Count(upto=3).generate(1)] == [[{"n": 1}], [{"n": 2}]]
    assert Count.resumable
    assert Odd().kind() == "row"
    assert list(Odd().apply([{"n": 1}, {"n": 2}])) == [[{"n": 1}, None]]
    assert Zip().takes_many_ports
    assert not Ask().takes_many_ports
    assert list(Zip().apply([{"a": 1}], [{"b": 2}])) == [[{"a": 1, "b": 2}]]


def test_functions_that_cannot_be_steps_are_refused() -> None:
    with pytest.raises(ParameterError, match="needs a parameter `offset`"):
        step(step_type="generator")(lambda: None)
    with pytest.raises(ParameterError, match="exactly one parameter for its rows"):
        step()(lambda: None)
    with pytest.raises(ParameterError, match="every step has already"):
        step()(lambda rows, name: None)
    with pytest.raises(ParameterError, match="name every parameter"):
        step()(lambda rows, **more: None)
    unknown: Any = "sometimes"
    with pytest.raises(ParameterError, match="step_type must be one of"):
        step(step_type=unknown)
