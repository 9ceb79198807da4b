from __future__ import annotations

import pickle
from typing import Any

import cloudpickle
import pytest

from asyncdistil.errors import ParameterError
from asyncdistil.steps.rows import FailedRow
from asyncdistil.steps.tasks import Task, task
from asyncdistil.steps.tasks.decorator import read_prompts
from asyncdistil.testing.fake_llm import EchoLLM, FakeLLM


@task(inputs=["noun"], outputs=["poem"])
def WritePoem(output: str | None, input: dict[str, Any] | None = None) -> dict[str, Any]:
    """Writes poems.

    ---
    system_prompt: |
        You are a poet from {noun}land.

    user_message_template: |
        Write a poem on {noun}, as {"form": "haiku"}.
    ---
    """
    if output == "no":
        raise ValueError("the poet refuses")
    return {"poem": output}


def test_the_function_becomes_a_task_class_of_its_name() -> None:
    assert issubclass(WritePoem, Task)
    assert WritePoem.__name__ == "WritePoem"
    poet = WritePoem(llm=EchoLLM())
    assert poet.name == "write_poem_0"
    assert (poet.inputs, poet.outputs) == (["noun"], ["poem"])
    assert poet.kind() == "row"


def test_placeholders_are_filled_and_other_braces_stay() -> None:
    poet = WritePoem(llm=EchoLLM())
    poet.load()
    assert poet.format_input({"noun": "rain"}) == [
        {"role": "system", "content": "You are a poet from rainland."},
        {"role": "user", "content": 'Write a poem on rain, as {"form": "haiku"}.'},
    ]
    (row,) = next(poet.process([{"noun": "rain"}]))
    assert row["poem"] == 'Write a poem on rain, as {"form": "haiku"}.'


def test_what_the_function_raises_fails_the_row() -> None:
    poet = WritePoem(llm=FakeLLM(reply="no"))
    ((entry,),) = list(poet.entries([{"noun": "rain"}]))
    assert isinstance(entry, FailedRow)
    assert entry.row["poem"] is None


def test_the_prompts_are_part_of_the_identity_though_they_stand_in_a_docstring() -> None:
    one = WritePoem(llm=EchoLLM(), name="p")
    other = WritePoem(llm=EchoLLM(), name="p", system_prompt="You are a critic.")
    assert one.identity().digest != other.identity().digest


def test_a_task_made_of_a_function_travels_to_a_worker() -> None:
    poet = pickle.loads(cloudpickle.dumps(WritePoem(llm=EchoLLM())))
    assert next(poet.process([{"noun": "rain"}]))[0]["poem"].startswith("Write a poem on rain")


@pytest.mark.parametrize(
    "docstring",
    [
        "",
        "No YAML here.",
        "---\nsystem_prompt: a\n---",
        "---\n- a\n- b\n---",
        "---\nsystem_prompt: [\n---",
        "---\nsystem_prompt: 1\nuser_message_template: b\n---",
        "---\nsystem_prompt: a\nuser_message_template: b",
    ],
)
def test_a_docstring_without_both_prompts_is_refused_with_the_way_to_write_it(
    docstring: str,
) -> None:
    with pytest.raises(ParameterError, match="user_message_template"):
        read_prompts(docstring, where="f")


def test_dashes_inside_a_prompt_are_part_of_it() -> None:
    text = "Doc.\n---\nsystem_prompt: a --- b\nuser_message_template: c\n---\n"
    assert read_prompts(text, where="f") == ("a --- b", "c")


def test_yaml_can_make_no_objects() -> None:
    text = "---\nsystem_prompt: !!python/object/apply:os.getcwd []\nuser_message_template: c\n---"
    with pytest.raises(ParameterError):
        read_prompts(text, where="f")


def test_a_placeholder_that_is_no_input_is_refused_at_the_decorator() -> None:
    with pytest.raises(ParameterError, match="noun"):

        @task(inputs=["verb"], outputs=["poem"])
        def wrong(output: Any, input: Any = None) -> Any:
            """Doc.

            ---
            system_prompt: a
            user_message_template: Write on {noun}.
            ---
            """
