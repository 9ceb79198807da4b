from __future__ import annotations

import base64
from io import BytesIO
from typing import Any

import pytest
from PIL import Image

from asyncdistil.errors import DataError, ModelReplyError
from asyncdistil.steps.rows import FailedRow
from asyncdistil.steps.tasks import (
    ChatGeneration,
    StructuredGeneration,
    TextClassification,
    TextGeneration,
    TextGenerationWithImage,
)
from asyncdistil.testing.fake_llm import EchoLLM, FakeLLM

LLM = EchoLLM()


def run(task: Any, *rows: dict[str, Any]) -> list[dict[str, Any]]:
    task.load()
    return next(task.process(list(rows)))


# --- TextGeneration ---------------------------------------------------------------------------


def test_an_instruction_is_sent_as_it_is_whatever_braces_it_holds() -> None:
    (row,) = run(TextGeneration(llm=LLM), {"instruction": "What is {{ this }} {% for %}?"})
    assert row["generation"] == "What is {{ this }} {% for %}?"


def test_a_template_is_filled_with_its_columns_only() -> None:
    task = TextGeneration(
        llm=LLM,
        template="{% for line in lines %}{{ loop.index }}. {{ line }}\n{% endfor %}{{ end }}",
        columns=["lines", "end"],
    )
    assert task.inputs == {"lines": True, "end": True, "system_prompt": False}
    (row,) = run(task, {"lines": ["a", "b"], "end": "!", "secret": "x"})
    assert row["generation"] == "1. a\n2. b\n!"


def test_one_column_may_be_given_as_a_text() -> None:
    task = TextGeneration(llm=LLM, template="About {{ text }}", columns="text")
    assert task.columns == ["text"]


def test_a_column_that_the_template_does_not_use_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match=r"\['b'\]"):
        TextGeneration(llm=LLM, template="{{ a }}", columns=["a", "b"])


def test_a_name_that_no_column_fills_is_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    template = "{{ a }}{{ mispelt }}{% if b is defined %}{{ b }}{% endif %}{{ range(1) }}"
    task = TextGeneration(llm=LLM, template=template, columns=["a"])
    task.num_generations = 2
    (said,) = caplog.messages
    assert "'mispelt', which stays empty" in said


def test_a_template_that_is_none_is_refused_at_once_with_the_line() -> None:
    with pytest.raises(ValueError, match="line 1"):
        TextGeneration(llm=LLM, template="{{ a", columns=["a"])


def test_a_template_cannot_reach_beyond_the_row() -> None:
    task = TextGeneration(
        llm=LLM, template="{{ a.__class__.__mro__[1].__subclasses__() }}", columns=["a"]
    )
    ((entry,),) = list(task.entries([{"a": "x"}]))
    assert isinstance(entry, FailedRow)
    assert "SecurityError" in entry.failure.kind


def test_the_system_prompt_of_the_row_wins_over_that_of_the_task() -> None:
    task = TextGeneration(llm=LLM, system_prompt="task")
    assert task.format_input({"instruction": "x", "system_prompt": "row"})[0]["content"] == "row"
    assert task.format_input({"instruction": "x", "system_prompt": None})[0]["content"] == "task"
    assert task.format_input({"instruction": "x"})[0]["content"] == "task"


def test_without_use_system_prompt_none_is_sent() -> None:
    task = TextGeneration(llm=LLM, system_prompt="task", use_system_prompt=False)
    assert [message["role"] for message in task.format_input({"instruction": "x"})] == ["user"]


def test_a_missing_column_fails_the_row_and_is_named() -> None:
    ((entry,),) = list(TextGeneration(llm=LLM).entries([{"text": "x"}]))
    assert isinstance(entry, FailedRow)
    assert "'instruction'" in entry.failure.message


@pytest.mark.parametrize("instruction", [[{"role": "user", "content": "x"}], 3, None])
def test_an_instruction_that_is_no_text_is_refused(instruction: Any) -> None:
    with pytest.raises(DataError, match="instruction"):
        TextGeneration(llm=LLM).format_input({"instruction": instruction})


# --- images, chats, structures ----------------------------------------------------------------


def test_an_image_goes_along_as_a_url_or_as_data() -> None:
    row = {"instruction": "What?", "system_prompt": "Look."}
    system, user = TextGenerationWithImage(llm=LLM).format_input(
        {**row, "image": "https://example.org/a.png"}
    )
    assert system == {"role": "system", "content": "Look."}
    assert user["content"][0] == {"type": "text", "text": "What?"}
    assert user["content"][1]["image_url"]["url"] == "https://example.org/a.png"
    data = TextGenerationWithImage(llm=LLM, image_type="base64").format_input(
        {**row, "image": "QQ=="}
    )
    assert data[1]["content"][1]["image_url"]["url"] == "data:image/jpeg;base64,QQ=="


def test_a_pil_image_is_sent_as_a_jpeg() -> None:
    task = TextGenerationWithImage(llm=LLM, image_type="PIL")
    image = Image.new("RGBA", (4, 3), "red")
    url = task.format_input({"instruction": "x", "image": image})[0]["content"][1]["image_url"][
        "url"
    ]
    sent = Image.open(BytesIO(base64.b64decode(url.removeprefix("data:image/jpeg;base64,"))))
    assert (sent.format, sent.size) == ("JPEG", (4, 3))


@pytest.mark.parametrize("form", [bytes, lambda file: {"bytes": file, "path": None}])
def test_an_image_that_rows_can_hold_is_sent_as_a_jpeg(form: Any) -> None:
    file = BytesIO()
    Image.new("RGBA", (4, 3), "red").save(file, format="PNG")
    task = TextGenerationWithImage(llm=LLM, image_type="PIL")
    row = {"instruction": "x", "image": form(file.getvalue())}
    url = task.format_input(row)[0]["content"][1]["image_url"]["url"]
    sent = Image.open(BytesIO(base64.b64decode(url.removeprefix("data:image/jpeg;base64,"))))
    assert (sent.format, sent.size) == ("JPEG", (4, 3))


def test_an_image_of_another_form_is_refused_with_the_form_it_must_have() -> None:
    task = TextGenerationWithImage(llm=LLM, image_type="PIL")
    with pytest.raises(DataError, match=r"must hold an image's bytes .* not str"):
        task.format_input({"instruction": "x", "image": "https://example.org/a.png"})


def test_the_image_is_a_required_column() -> None:
    assert TextGenerationWithImage(llm=LLM).inputs["image"] is True  # type: ignore[call-overload]


def test_a_chat_goes_on_from_the_users_last_word() -> None:
    messages = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello"},
        {"role": "user", "content": "Bye"},
    ]
    (row,) = run(ChatGeneration(llm=LLM), {"messages": messages})
    assert row["generation"] == "Bye"


@pytest.mark.parametrize(
    "messages",
    [
        "Hi",
        [],
        [{"content": "Hi"}],
        [{"role": "user"}],
        [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}],
    ],
)
def test_a_chat_that_leaves_nothing_to_answer_is_refused(messages: Any) -> None:
    with pytest.raises(DataError, match="messages"):
        ChatGeneration(llm=LLM).format_input({"messages": messages})


def test_the_structure_of_the_row_is_sent_and_the_metadata_hold_messages_only() -> None:
    llm = FakeLLM(reply="1")
    task = StructuredGeneration(llm=llm, name="s", use_system_prompt=True)
    structure = {"format": "regex", "schema": "[0-9]"}
    row = {"instruction": "x", "system_prompt": "y", "structured_output": structure}
    (made,) = run(task, row)
    messages = [{"role": "system", "content": "y"}, {"role": "user", "content": "x"}]
    assert llm.asked == [(messages, structure)]
    assert made["distilabel_metadata"]["raw_input_s"] == messages


# --- TextClassification -----------------------------------------------------------------------


def classify(reply: str, **fields: Any) -> Any:
    task = TextClassification(llm=FakeLLM(reply=reply), **fields)
    return task.format_output(reply, {"text": "x"})["labels"]


def test_one_label_is_a_text_and_several_are_a_list() -> None:
    assert classify('{"labels": "a"}') == "a"
    assert classify('{"labels": ["a"]}') == "a"
    assert classify('{"labels": ["a", "b", "c"]}', n=2) == ["a", "b"]
    assert classify('{"labels": "a"}', n=2) == ["a"]


def test_given_labels_are_matched_regardless_of_case_and_the_default_is_one_of_them() -> None:
    assert classify('{"labels": "SPAM "}', available_labels=["spam", "ham"]) == "spam"
    assert (
        classify('{"labels": "unclassified"}', available_labels={"spam": "bad"}) == "Unclassified"
    )


@pytest.mark.parametrize(
    "reply", ['{"labels": "eggs"}', '{"labels": []}', '{"labels": null}', "ham"]
)
def test_a_label_that_is_none_of_the_given_ones_is_refused(reply: str) -> None:
    with pytest.raises(ModelReplyError):
        classify(reply, available_labels=["spam", "ham"])


def test_the_prompt_names_labels_meanings_examples_and_the_text() -> None:
    task = TextClassification(
        llm=FakeLLM(),
        n=2,
        available_labels={"spam": "wants money", "ham": "is fine"},
        examples=["Win! -> spam"],
        query_title="Mail",
    )
    system, user = task.format_input({"text": "Hello {{ you }}"})
    assert system["role"] == "system"
    for part in (
        '- "spam": wants money',
        "- Win! -> spam",
        "# Mail\n\nHello {{ you }}",
        "2 labels",
    ):
        assert part in user["content"]


def test_the_model_is_held_to_the_schema_of_the_labels_where_it_can_be() -> None:
    llm = FakeLLM(reply='{"labels": ["a", "b"]}')
    (row,) = run(TextClassification(llm=llm, n=2), {"text": "x"})
    assert row["labels"] == ["a", "b"]
    assert llm.asked[0][1]["schema"]["properties"]["labels"]["type"] == "array"
    assert "enum" not in llm.asked[0][1]["schema"]["properties"]["labels"]["items"]
    llm = FakeLLM(reply='{"labels": "a"}')
    run(TextClassification(llm=llm, available_labels=["a", "b"]), {"text": "x"})
    labels = llm.asked[0][1]["schema"]["properties"]["labels"]
    assert labels == {"type": "string", "enum": ["a", "b", "Unclassified"]}
    (row,) = run(TextClassification(llm=EchoLLM(), query_title="T"), {"text": '{"labels": "a"}'})
    assert row["model_name"] == "echo"  # a model that takes no schema is asked in words
