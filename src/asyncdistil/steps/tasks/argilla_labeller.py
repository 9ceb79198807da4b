"""A model that answers the questions of an Argilla dataset, for people to check."""

import json
from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field, field_validator

from asyncdistil.batch import Row
from asyncdistil.errors import DataError, ModelReplyError
from asyncdistil.mixins import RuntimeParameter
from asyncdistil.models.typing import ChatType
from asyncdistil.steps.rows import Entry
from asyncdistil.steps.tasks import prompts, replies
from asyncdistil.steps.tasks.base import Task
from asyncdistil.steps.tasks.dialogue import Dialogue, ask
from asyncdistil.typing import StepColumns

_SYSTEM = (
    "You annotate data as an expert of its field would. You are shown a record and a question "
    "about it, and answer with a JSON object and nothing else."
)
_INSTRUCTIONS = {
    "label_selection": "Choose the one option that fits the record best.",
    "multi_label_selection": "Choose every option that fits the record; there may be none.",
    "text": "Write an answer that follows from the record.",
    "rating": "Choose the one number among the options that rates the record best.",
}
_KEYS = {
    "label_selection": "label",
    "multi_label_selection": "labels",
    "text": "text",
    "rating": "rating",
}
"""Types of questions that can be answered, with the key of the answer."""


def plain(value: Any) -> Any:
    """An object of the argilla package as the dict that it stands for; anything else as it is."""
    for name in ("to_dict", "serialize", "model_dump"):
        made = getattr(value, name, None)
        if callable(made) and not isinstance(value, Mapping):
            return made()
    return value


class ArgillaLabeller(Task):
    """Answer a question about records of an Argilla dataset, as a suggestion for people.

    Fields, question and records are those of the package argilla, or the dicts that their
    ``to_dict()`` and ``serialize()`` give; in a pipeline rows hold dicts. What a row brings along
    wins over what the task was given. An answer that the question does not allow fails its row.

    Inputs: ``record``; ``fields``, ``question``, ``example_records`` and ``guidelines``, optional.
    Outputs: ``suggestion``, a dict that ``argilla.Suggestion(**suggestion)`` takes; ``model_name``.

    Attributes:
        system_prompt: System message; empty for none.
        question_to_label_instruction: By type of question, what the model is told to do.
        example_records: Records with responses to go by.
        fields: Fields of the record that the model sees.
        question: Question to answer: a label, several labels, a rating or a text.
        guidelines: Guidelines of the dataset.

    Example:
        >>> from asyncdistil.steps.tasks import ArgillaLabeller
        >>> from asyncdistil.testing.fake_llm import FakeLLM
        >>> options = [{"value": "good"}, {"value": "bad"}]
        >>> task = ArgillaLabeller(
        ...     llm=FakeLLM(reply='{"label": "good"}'),
        ...     fields=[{"name": "text"}],
        ...     question={
        ...         "name": "quality", "settings": {"type": "label_selection", "options": options}
        ...     },
        ... )
        >>> task.load()
        >>> [row] = next(task.process([{"record": {"fields": {"text": "ok"}}}]))
        >>> suggestion = row["suggestion"]
        >>> suggestion["value"], suggestion["question_name"], suggestion["type"]
        ('good', 'quality', 'model')

    Source: https://github.com/argilla-io/argilla
    """

    version: ClassVar[int | None] = 1
    prompt_files: ClassVar[tuple[str, ...]] = ("argilla-labeller.jinja2",)

    system_prompt: str = _SYSTEM
    question_to_label_instruction: dict[str, str] = Field(
        default=_INSTRUCTIONS, description="By type of question, what the model is told to do."
    )
    example_records: RuntimeParameter[list[Any]] | None = Field(
        default=None, description="Records with responses to go by."
    )
    fields: RuntimeParameter[list[Any]] | None = Field(
        default=None, description="Fields of the record that the model sees."
    )
    question: RuntimeParameter[dict[str, Any]] | None = Field(
        default=None, description="Question to answer."
    )
    guidelines: RuntimeParameter[str] | None = Field(
        default=None, description="Guidelines of the dataset."
    )

    @field_validator("example_records", "fields", mode="before")
    @classmethod
    def _plain_items(cls, value: Any) -> Any:
        return [plain(item) for item in value] if isinstance(value, list | tuple) else value

    @field_validator("question", mode="before")
    @classmethod
    def _plain_question(cls, value: Any) -> Any:
        return plain(value)

    @property
    def inputs(self) -> StepColumns:
        """``record``; the others if the task was not given them."""
        return {
            "record": True,
            "fields": False,
            "question": False,
            "example_records": False,
            "guidelines": False,
        }

    @property
    def outputs(self) -> StepColumns:
        """``suggestion`` and ``model_name``."""
        return ["suggestion", "model_name"]

    def format_input(self, input: dict[str, Any]) -> ChatType:
        """Guidelines, answered records, the question and the record.

        Raises:
            DataError: There is no question, or of a type that is not known, or there are no fields.
        """
        question = self._question(input)
        fields = self._given(input, "fields")
        if not fields:
            raise DataError(f"task {self.name!r} needs `fields`: give them to it or to the row")
        names = [plain(field)["name"] for field in fields]
        settings = question["settings"]
        examples = [plain(record) for record in self._given(input, "example_records") or ()]
        user = prompts.render(
            "argilla-labeller.jinja2",
            guidelines=self._given(input, "guidelines"),
            examples=[
                {"fields": _shown(record, names), "answer": answer}
                for record in examples
                if (answer := _answer_of(record, question)) is not None
            ],
            title=question.get("title") or question["name"],
            description=question.get("description"),
            instruction=self.question_to_label_instruction.get(settings["type"], ""),
            options=json.dumps(_options(question), ensure_ascii=False),
            fields=_shown(plain(input["record"]), names),
            key=_KEYS[settings["type"]],
        )
        messages: ChatType = [{"role": "user", "content": user}]
        if self.system_prompt:
            messages.insert(0, {"role": "system", "content": self.system_prompt})
        return messages

    def dialogue(self, row: Row) -> Dialogue[Entry]:
        """Ask once; a model that can be held to a schema is held to the question's."""
        formatted = self.format_input(row)
        asked: Any = formatted
        if self._takes_structure() and getattr(self.llm, "structured_output", None) is None:
            asked = formatted, {"format": "json", "schema": _schema(self._question(row))}
        reply = yield from ask(asked, self.num_generations)
        return self.entry(row, self.answers(reply, row, formatted))

    def format_output(
        self, output: str | None, input: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """The suggestion.

        Raises:
            ModelReplyError: There is no answer, or one that the question does not allow.
        """
        if output is None:
            return {"suggestion": None}
        question = self._question(input or {})
        key = _KEYS[question["settings"]["type"]]
        value = replies.read_object(output, key)[key]
        if not _allows(question, value):
            raise ModelReplyError(
                f"question {question['name']!r} does not allow this answer: {replies.shown(output)}"
            )
        suggestion = {
            "value": value,
            "question_name": question["name"],
            "type": "model",
            "agent": self.llm.model_name,
        }
        return {"suggestion": suggestion}

    def _given(self, row: Mapping[str, Any], column: str) -> Any:
        found = row.get(column)
        return getattr(self, column) if found is None else found

    def _question(self, row: Mapping[str, Any]) -> dict[str, Any]:
        question: dict[str, Any] | None = plain(self._given(row, "question"))
        if question is None:
            raise DataError(f"task {self.name!r} needs a `question`: give it to it or to the row")
        kind = question["settings"]["type"]
        if kind not in _KEYS:
            raise DataError(
                f"question {question['name']!r} is of type {kind!r}; a model can answer those of "
                f"type {', '.join(_KEYS)}"
            )
        return question


def _options(question: Mapping[str, Any]) -> list[Any]:
    return [option["value"] for option in question["settings"].get("options") or ()]


def _shown(record: Mapping[str, Any], names: list[str]) -> list[dict[str, Any]]:
    values = record.get("fields") or {}
    return [{"name": name, "text": values.get(name) or ""} for name in names]


def _answer_of(record: Mapping[str, Any], question: Mapping[str, Any]) -> str | None:
    """What people answered, in the form that is wanted of the model; ``None`` if nobody did."""
    responses = (record.get("responses") or {}).get(question["name"])
    if not responses:
        return None
    return json.dumps(
        {_KEYS[question["settings"]["type"]]: responses[0]["value"]}, ensure_ascii=False
    )


def _allows(question: Mapping[str, Any], value: Any) -> bool:
    options = _options(question)
    match question["settings"]["type"]:
        case "text":
            return isinstance(value, str)
        case "multi_label_selection":
            return isinstance(value, list) and all(one in options for one in value)
        case "rating":
            return type(value) is int and value in options
        case _:
            return isinstance(value, str) and value in options


def _schema(question: Mapping[str, Any]) -> dict[str, Any]:
    """JSON schema of an answer."""
    kind, options = question["settings"]["type"], _options(question)
    one: dict[str, Any] = {"type": "integer" if kind == "rating" else "string"}
    if options and kind != "text":
        one["enum"] = options
    answer = {"type": "array", "items": one} if kind == "multi_label_selection" else one
    return {
        "title": "Answer",
        "type": "object",
        "properties": {_KEYS[kind]: answer},
        "required": [_KEYS[kind]],
    }
