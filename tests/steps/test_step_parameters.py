"""Runtime parameters: what a run may set."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Callable
from typing import Any, Optional

import pytest
from pydantic import Field, SecretStr, ValidationError

from asyncdistil.errors import ParameterError
from asyncdistil.mixins.runtime_parameters import HasRuntimeParameters, RuntimeParameter
from asyncdistil.steps import KeepColumns, LoadDataFromDicts, LoadDataFromHub, Step, StepResources
from asyncdistil.steps.tasks import TextGeneration


class Model(HasRuntimeParameters):
    model_config = {"validate_assignment": True}

    generation_kwargs: Optional[RuntimeParameter[dict[str, Any]]] = Field(  # noqa: UP045
        default_factory=dict, description="Passed on."
    )
    temperature: RuntimeParameter[float]
    key: RuntimeParameter[SecretStr] = Field(default=SecretStr("old"))


class Ask(Step):
    llm: Model = Field(default_factory=Model)
    judges: list[Model] = Field(default_factory=lambda: [Model(), Model()])
    retries: RuntimeParameter[int] = Field(default=3, description="Tries.")
    topic: RuntimeParameter[str]
    plain: int = 0


def test_names_say_what_is_optional_and_nest() -> None:
    names = Ask().runtime_parameters_names
    assert names["retries"] is True
    assert names["topic"] is False
    assert names["input_batch_size"] is True
    assert names["resources"]["replicas"] is True
    model = {"generation_kwargs": True, "temperature": False, "key": True}
    assert names["llm"] == model
    assert names["judges"] == {"0": model, "1": model}
    assert "plain" not in names


def test_parameters_are_set_converted_and_nested() -> None:
    step = Ask()
    step.set_runtime_parameters(
        {
            "retries": "5",
            "llm": {"temperature": 0.5, "generation_kwargs": {"top_p": 1}, "key": "new"},
            "judges": {"1": {"temperature": 1}},
            "resources": {"replicas": 2},
        }
    )
    assert (step.retries, step.resources.replicas) == (5, 2)
    assert step.llm.generation_kwargs == {"top_p": 1}
    assert [judge.temperature for judge in step.judges] == [None, 1.0]
    assert step.llm.key is not None
    assert step.llm.key.get_secret_value() == "new"


@pytest.mark.parametrize(
    ("parameters", "says"),
    [
        ({"retrys": 1}, "has no runtime parameter 'retrys': did you mean 'retries'?"),
        ({"llm": {"temprature": 1}}, "llm has no runtime parameter 'temprature': did you mean"),
        ({"plain": 1}, "'plain': it is a field, set where the object is made"),
        ({"judges": {"7": {}}}, "judges has no runtime parameter '7'"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest(parameters: dict[str, Any], says: str) -> None:
    step = Ask(name="ask")
    with pytest.raises(ParameterError) as refused:
        step.set_runtime_parameters({"retries": 9, **parameters})
    assert says in str(refused.value)


def test_a_script_for_distilabel_is_warned_of_unknown_names_as_it_expects(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ASYNCDISTIL_STANDS_IN", "1")
    step = Ask(name="ask")
    with caplog.at_level(logging.WARNING):
        step.set_runtime_parameters({"retrys": 1, "llm": {"temprature": 1}, "judges": {"7": {}}})
    assert "did you mean 'retries'?" in caplog.text
    assert "llm has no runtime parameter 'temprature'" in caplog.text
    assert "did you mean 'temperature'?" in caplog.text
    assert "judges has no runtime parameter '7'" in caplog.text
    assert step.retries == 3


def test_a_value_of_the_wrong_type_is_refused_by_its_path_and_secrets_are_not_shown() -> None:
    step = Ask()
    with pytest.raises(ParameterError, match=r"'llm\.temperature' \(given 'hot'\)"):
        step.set_runtime_parameters({"llm": {"temperature": "hot"}})
    with pytest.raises(ParameterError, match="give it a dict"):
        step.set_runtime_parameters({"llm": 3})
    with pytest.raises(ParameterError) as caught:
        step.set_runtime_parameters({"llm": {"key": ["sekrit"]}})
    assert "sekrit" not in str(caught.value)


def test_missing_values_are_named_with_the_call_to_write() -> None:
    step = Ask(name="ask")
    assert step.missing_runtime_parameters() == [
        "llm.temperature",
        "judges.0.temperature",
        "judges.1.temperature",
        "topic",
    ]
    lone = LoadDataFromHub(name="load")
    with pytest.raises(ParameterError) as caught:
        lone.check_runtime_parameters()
    assert "pipeline.run(parameters={'load': {'repo_id': ...}})" in str(caught.value)


def test_a_nested_call_to_write_is_nested() -> None:
    with pytest.raises(ParameterError) as caught:
        Ask(name="ask", judges=[], topic="t").check_runtime_parameters()
    assert "{'ask': {'llm': {'temperature': ...}}}" in str(caught.value)


def test_info_describes_every_parameter() -> None:
    info = {entry["name"]: entry for entry in Ask().get_runtime_parameters_info()}
    assert info["retries"] == {"name": "retries", "optional": True, "description": "Tries."}
    below = {entry["name"] for entry in info["llm"]["runtime_parameters_info"]}
    assert below == {"generation_kwargs", "temperature", "key"}
    assert set(info["judges"]["runtime_parameters_info"]) == {"0", "1"}


REFUSED: list[tuple[Callable[[], Any], str]] = [
    (
        lambda: KeepColumns(column=["a"]),
        "a step KeepColumns can't be made: it has no parameter 'column': did you mean 'columns'?",
    ),
    (
        lambda: TextGeneration(name="ask", llm=5),
        "step 'ask', a TextGeneration, can't be made: parameter 'llm' (given 5) can't be used: "
        "give an instance of LLM",
    ),
    (
        lambda: TextGeneration(name="ask"),
        "step 'ask', a TextGeneration, can't be made: it needs a value for 'llm'",
    ),
    (
        lambda: Ask(topic="t", resources={"replica": 2}),
        "a step Ask can't be made: it has no parameter 'resources.replica': did you mean "
        "'replicas'?",
    ),
    (
        lambda: LoadDataFromDicts(data=[1], nothing_like_it=2),
        "parameter 'data' (given one of type list) can't be used: row 0 must be a dict, not a int; "
        "it has no parameter 'nothing_like_it': known: data, batch_size, ",
    ),
]


@pytest.mark.parametrize(("make", "says"), REFUSED)
def test_what_a_step_can_not_be_made_with_is_named_with_what_to_write(
    make: Callable[[], Any], says: str
) -> None:
    with pytest.raises(ParameterError) as refused:
        make()
    assert says in str(refused.value)
    assert str(pickle.loads(pickle.dumps(refused.value))) == str(refused.value)


def test_resources_that_can_not_be_given_are_told_of_in_words() -> None:
    with pytest.raises(ParameterError, match=r"^StepResources can't be made: .* mean 'replicas'"):
        StepResources(replica=2)
    named = r"step 'k', a KeepColumns, .* parameter 'resources.gpus' .* mean 'replicas'"
    with pytest.raises(ParameterError, match=named):
        KeepColumns(name="k", columns=["a"], resources={"gpus": "x", "replica": 2})


def test_what_refuses_a_step_is_pydantics_error_too_with_its_details() -> None:
    with pytest.raises(ValidationError) as refused:
        KeepColumns(column=["a"], name="keep")
    problems = {(*problem["loc"], problem["type"]) for problem in refused.value.errors()}
    assert problems == {("columns", "missing"), ("column", "extra_forbidden")}
    assert refused.value.title == "KeepColumns"


class Keyed(Step):
    key: SecretStr = SecretStr("")
    model: Model = Field(default_factory=Model)


@pytest.mark.parametrize(
    "given", [{"key": 71077345}, {"model": {"key": ["sekrit"]}}, {"kye": "sekrit"}]
)
def test_no_secret_is_shown_by_what_refuses_it(given: dict[str, Any]) -> None:
    with pytest.raises(ParameterError, match="key") as refused:
        Keyed(**given)
    assert "71077345" not in str(refused.value)
    assert "sekrit" not in f"{refused.value} {refused.value!r}"


def test_rows_can_be_given_by_the_run() -> None:
    step = LoadDataFromDicts()
    step.set_runtime_parameters({"data": [{"a": 1}], "batch_size": 7})
    assert list(step.process()) == [([{"a": 1}], True)]
    assert step.batch_size == 7
