"""A model written for distilabel works unchanged, and one failed request costs no other."""

from __future__ import annotations

import asyncio
import contextvars
import pickle
import traceback
from typing import Any

import cloudpickle
import pytest
from pydantic import PrivateAttr, SecretStr, ValidationError

from asyncdistil.errors import ModelAuthError, ParameterError
from asyncdistil.models import LLM, AsyncLLM, Embeddings, OpenAILLM
from asyncdistil.models.output import merge_outputs


class Batch(LLM):
    asked: int = 0

    @property
    def model_name(self) -> str:
        return "batch"

    def generate(self, inputs, num_generations=1, suffix: str = "!", times: int = 1):  # type: ignore[no-untyped-def]
        self.asked += 1
        if any(i == "bad" for i in inputs):
            raise ValueError("a bad input")
        return [
            {"generations": [f"{i}{suffix * times}"] * num_generations, "statistics": {}}
            for i in inputs
        ]


class Single(AsyncLLM):
    @property
    def model_name(self) -> str:
        return "single"

    async def agenerate(self, input, num_generations: int = 1, **kwargs):  # type: ignore[no-untyped-def]
        if input == "bad":
            raise ValueError("a bad input")
        if input == "locked":
            raise ModelAuthError("wrong key")
        return {"generations": [str(input)] * num_generations, "statistics": {"output_tokens": [3]}}


class OneEach(AsyncLLM):
    _num_generations_param_supported = PrivateAttr(default=False)
    _calls: int = PrivateAttr(default=0)

    @property
    def model_name(self) -> str:
        return "one each"

    async def agenerate(self, input, temperature: float = 1.0):  # type: ignore[no-untyped-def]
        self._calls += 1
        number = self._calls
        if number == 2:
            raise ValueError("the second call fails")
        return {
            "generations": [f"{input}{number}"],
            "statistics": {"input_tokens": [7]},
            "x": [number],
        }


def test_a_batch_model_answers_in_order() -> None:
    model = Batch()
    model.load()
    outputs = model.generate_outputs(["a", "b"], num_generations=2)
    assert [o["generations"] for o in outputs] == [["a!", "a!"], ["b!", "b!"]]


def test_a_bad_input_of_a_batch_model_fails_alone() -> None:
    outputs = Batch().generate_outputs(["a", "bad", "b"])
    assert [o["generations"] for o in outputs] == [["a!"], [None], ["b!"]]
    (failure,) = outputs[1]["failures"]
    assert failure is not None
    assert failure.kind == "builtins.ValueError"
    assert "bad input" in failure.message
    assert "failures" not in outputs[0]


def test_an_output_too_few_is_noticed() -> None:
    class Short(Batch):
        def generate(self, inputs, num_generations=1):  # type: ignore[no-untyped-def]
            return [{"generations": ["x"], "statistics": {}}] if len(inputs) == 1 else []

    assert [o["generations"] for o in Short().generate_outputs(["a", "b"])] == [["x"], ["x"]]


def test_an_asynchronous_model_answers_from_synchronous_and_asynchronous_code() -> None:
    model = Single()
    assert [o["generations"] for o in model.generate_outputs(["a", "bad"], 2)] == [
        ["a", "a"],
        [None, None],
    ]

    async def inside() -> list[Any]:
        assert model.generate_outputs(["b"])[0]["generations"] == ["b"]  # a loop is running
        return await model.agenerate_outputs(["c"])

    assert asyncio.run(inside())[0]["generations"] == ["c"]


def test_a_refused_key_is_no_row_failure() -> None:
    with pytest.raises(ModelAuthError):
        Single().generate_outputs(["a", "locked", "b"])


def test_separate_calls_are_merged_and_keep_the_place_of_a_failed_one() -> None:
    (output,) = OneEach().generate_outputs(["q"], num_generations=3)
    assert output["generations"] == ["q1", None, "q3"]
    assert output["statistics"]["input_tokens"] == [7, None, 7]
    assert output["x"] == [1, None, 3]  # type: ignore[typeddict-item]
    assert [f is None for f in output["failures"]] == [True, False, True]


def test_a_single_value_of_a_merged_output_stands_for_all_its_generations() -> None:
    one = {"generations": ["a", "b"], "statistics": {"input_tokens": [5]}}
    two = {"generations": ["c"], "statistics": {"input_tokens": [6]}}
    assert merge_outputs([one, two])["statistics"] == {"input_tokens": [5, 5, 6]}  # type: ignore[list-item]


def test_a_list_of_texts_is_taken_for_generations() -> None:
    class Older(Single):
        async def agenerate(self, input, num_generations: int = 1):  # type: ignore[no-untyped-def]
            return [input]

    assert Older().generate_outputs(["a"]) == [{"generations": ["a"], "statistics": {}}]


def test_nonsense_from_a_model_is_a_failure_that_says_what_to_return() -> None:
    class Odd(Single):
        async def agenerate(self, input, num_generations: int = 1):  # type: ignore[no-untyped-def]
            return "text"

    (output,) = Odd().generate_outputs(["a"])
    (failure,) = output["failures"]
    assert failure is not None
    assert "return a dict with 'generations'" in failure.message


def test_generation_kwargs_are_converted_by_their_annotations() -> None:
    assert Batch(generation_kwargs={"times": "3"}).generation_kwargs == {"times": 3}


def test_an_unknown_generation_parameter_is_refused_with_the_nearest_one() -> None:
    with pytest.raises(ValueError, match="did you mean 'suffix'"):
        Batch(generation_kwargs={"sufix": "?"})


def test_a_wrong_generation_parameter_is_refused_when_set_later() -> None:
    model = Batch()
    with pytest.raises(ParameterError, match="times"):
        model.set_runtime_parameters({"generation_kwargs": {"times": "many"}})
    model.set_runtime_parameters({"generation_kwargs": {"times": "2"}})
    assert model.get_generation_kwargs() == {"times": 2}


def test_generation_parameters_are_listed() -> None:
    names = Batch().runtime_parameters_names
    assert names["generation_kwargs"] == {"suffix": True, "times": True}
    info = {entry["name"]: entry for entry in Batch().get_runtime_parameters_info()}
    assert {"name": "times", "optional": True} in info["generation_kwargs"]["keys"]


def test_what_a_model_can_not_be_made_of_is_told_without_its_value() -> None:
    said = "a model OpenAILLM can't be made: it has no parameter 'apikey': did you mean 'api_key'?"
    given: dict[str, Any] = {"apikey": "canary"}
    with pytest.raises(ParameterError) as refused:
        OpenAILLM(model="m", **given)
    assert str(refused.value) == said
    assert "canary" not in "".join(traceback.format_exception(refused.value))
    assert isinstance(refused.value, ValidationError)


def test_offline_batches_are_refused_by_a_class_that_has_none() -> None:
    with pytest.raises(ParameterError, match="no offline batch generation"):
        Batch(use_offline_batch_generation=True).generate_outputs(["a"])


def test_a_class_with_offline_batches_is_asked_for_them() -> None:
    class Offline(Batch):
        def offline_batch_generate(self, inputs=None, num_generations=1, jobs_ids=None, **kwargs):  # type: ignore[no-untyped-def]
            return [{"generations": [f"{i}/{jobs_ids}"], "statistics": {}} for i in inputs]

    model = Offline(use_offline_batch_generation=True, jobs_ids=("j1",))
    assert model.generate_outputs(["a"])[0]["generations"] == ["a/('j1',)"]


def test_context_variables_of_the_caller_are_seen_inside() -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("v", default="unset")

    class Reads(Single):
        async def agenerate(self, input, num_generations: int = 1):  # type: ignore[no-untyped-def]
            return {"generations": [variable.get()], "statistics": {}}

    variable.set("mine")
    assert Reads().generate_outputs(["a"])[0]["generations"] == ["mine"]


def test_a_synchronous_call_inside_an_asynchronous_one_is_refused_instead_of_hanging() -> None:
    class Nested(Single):
        async def agenerate(self, input, num_generations: int = 1):  # type: ignore[no-untyped-def]
            return Single().generate_outputs([input])[0]

    (output,) = Nested().generate_outputs(["a"])
    (failure,) = output["failures"]
    assert failure is not None
    assert "await" in failure.message


def test_a_loaded_model_travels_without_its_connections() -> None:
    model = OpenAILLM(model="m", base_url="http://127.0.0.1:1/v1", api_key=SecretStr("k"))
    model.load()
    copy = pickle.loads(cloudpickle.dumps(model))
    assert copy._client is None
    assert copy._endpoint is None
    assert copy.identity_fields() == model.identity_fields()
    model.unload()


def test_embeddings_need_only_encode() -> None:
    class Ones(Embeddings):
        @property
        def model_name(self) -> str:
            return "ones"

        def encode(self, inputs: list[str]) -> list[list[float]]:
            return [[1.0] for _ in inputs]

    model = Ones()
    model.load()
    assert model.encode(["a", "b"]) == [[1.0], [1.0]]
    model.unload()
