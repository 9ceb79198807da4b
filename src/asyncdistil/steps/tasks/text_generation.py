"""Tasks that hand a model's text on as it is: the most used ones."""

import base64
from io import BytesIO
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, PrivateAttr, field_validator, model_validator

from asyncdistil.errors import DataError
from asyncdistil.models.sdk import require
from asyncdistil.models.typing import ChatType, FormattedInput
from asyncdistil.steps.tasks import prompts
from asyncdistil.steps.tasks.base import Task
from asyncdistil.typing import StepColumns

_ROLES = frozenset({"system", "user", "assistant", "tool", "developer"})


def is_conversation(value: Any) -> bool:
    """Whether a value is a list of messages with a role and content."""
    return (
        isinstance(value, list)
        and bool(value)
        and all(
            isinstance(message, dict)
            and message.get("role") in _ROLES
            and ("content" in message or "tool_calls" in message)
            for message in value
        )
    )


class TextGeneration(Task):
    """Fill a template with columns of the row and keep the model's text.

    Inputs: the columns named in ``columns`` (``instruction`` by default); ``system_prompt``,
    optional, which wins over the attribute. Outputs: ``generation``, ``model_name``.

    Attributes:
        template: Jinja2 template of the user message.
        columns: Column or columns that the template uses.
        system_prompt: System message; ``None`` for none.
        use_system_prompt: Whether a system message is sent at all.

    Example:
        >>> from asyncdistil.steps.tasks import TextGeneration
        >>> from asyncdistil.testing.fake_llm import EchoLLM
        >>> task = TextGeneration(
        ...     llm=EchoLLM(), template="Translate to {{ language }}: {{ text }}",
        ...     columns=["language", "text"],
        ... )
        >>> task.load()
        >>> next(task.process([{"language": "French", "text": "Good day"}]))[0]["generation"]
        'Translate to French: Good day'
    """

    version: ClassVar[int | None] = 1

    template: str = Field(
        default="{{ instruction }}", description="Jinja2 template of the user message."
    )
    columns: list[str] = Field(
        default=["instruction"], description="Column or columns that the template uses."
    )
    system_prompt: str | None = None
    use_system_prompt: bool = True

    _can_be_used_with_offline_batch_generation: bool = PrivateAttr(default=True)

    @field_validator("columns", mode="before")
    @classmethod
    def _one_or_more(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @model_validator(mode="after")
    def _check_template(self) -> Self:
        if self.template != "{{ instruction }}" or self.columns != ["instruction"]:
            prompts.check_columns(self.template, self.columns, where=type(self).__name__)
        return self

    @property
    def inputs(self) -> StepColumns:
        """Columns of the template, required, and ``system_prompt``, optional."""
        return {**dict.fromkeys(self.columns, True), "system_prompt": False}

    @property
    def outputs(self) -> StepColumns:
        """``generation`` and ``model_name``."""
        return ["generation", "model_name"]

    def format_input(self, input: dict[str, Any]) -> ChatType:
        """The filled template, after the system message if there is one.

        Raises:
            DataError: A column is missing, or ``instruction`` is not text.
        """
        if missing := [column for column in self.columns if column not in input]:
            raise DataError(
                f"the row lacks {missing}, which the template of task {self.name!r} uses: its "
                f"columns are {list(input)}"
            )
        if self.columns == ["instruction"]:
            self._check_instruction(input["instruction"])
        messages: ChatType = [{"role": "user", "content": self._content(input)}]
        system = input.get("system_prompt") or self.system_prompt
        if system and self.use_system_prompt:
            messages.insert(0, {"role": "system", "content": system})
        return messages

    def format_output(
        self, output: str | None, input: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """The text as it is."""
        return {"generation": output}

    def _content(self, row: dict[str, Any]) -> Any:
        return self._text(row)

    def _text(self, row: dict[str, Any]) -> str:
        if self.template == "{{ instruction }}":  # the common case needs no template engine
            return str(row["instruction"])
        return prompts.compiled(self.template).render({name: row[name] for name in self.columns})

    def _check_instruction(self, instruction: Any) -> None:
        if is_conversation(instruction):
            raise DataError(
                f"column 'instruction' of task {self.name!r} holds a conversation: use "
                f"ChatGeneration with a column 'messages'"
            )
        if not isinstance(instruction, str):
            raise DataError(
                f"column 'instruction' of task {self.name!r} must be text, not "
                f"{type(instruction).__name__}"
            )


class TextGenerationWithImage(TextGeneration):
    """`TextGeneration` with an image in the user message.

    Inputs: as `TextGeneration`, and ``image``. Outputs: ``generation``, ``model_name``.

    Attributes:
        image_type: What ``image`` holds: a ``url``, ``base64`` text of a JPEG, or a ``PIL`` image.
            Rows keep no objects of Pillow, so in a pipeline that is the image's file: its bytes, or
            ``{"bytes": ..., "path": ...}``, as rows of a dataset with a column of images have it.

    Example:
        >>> from asyncdistil.steps.tasks import TextGenerationWithImage
        >>> from asyncdistil.testing.fake_llm import FakeLLM
        >>> task = TextGenerationWithImage(llm=FakeLLM(reply="A cat."))
        >>> task.load()
        >>> row = {"instruction": "What is it?", "image": "https://example.org/cat.jpg"}
        >>> next(task.process([row]))[0]["generation"]
        'A cat.'
        >>> task.llm.asked[0][0]["content"][1]["image_url"]["url"]
        'https://example.org/cat.jpg'
    """

    version: ClassVar[int | None] = 1

    image_type: Literal["url", "base64", "PIL"] = Field(
        default="url", description="What the column `image` holds."
    )

    @property
    def inputs(self) -> StepColumns:
        """As for `TextGeneration`, and ``image``."""
        return {**dict(super().inputs), "image": True}  # type: ignore[arg-type]

    def _content(self, row: dict[str, Any]) -> Any:
        return [
            {"type": "text", "text": self._text(row)},
            {"type": "image_url", "image_url": {"url": self._image_url(row["image"])}},
        ]

    def _image_url(self, image: Any) -> str:
        if self.image_type == "url":
            return str(image)
        if self.image_type == "PIL":
            held = BytesIO()
            self._opened(image).convert("RGB").save(held, format="JPEG")
            image = base64.b64encode(held.getvalue()).decode("ascii")
        return f"data:image/jpeg;base64,{image}"

    def _opened(self, image: Any) -> Any:
        if hasattr(image, "convert"):
            return image
        pillow = require("PIL.Image", extra="image", needed_by=type(self).__name__)
        if isinstance(image, dict):
            file = image.get("bytes") or image.get("path")
        else:
            file = image if isinstance(image, bytes | bytearray) else None
        if not file:
            raise DataError(
                f"column 'image' of task {self.name!r} must hold an image's bytes with "
                f"image_type='PIL', not {type(image).__name__}; say image_type='url' or 'base64' "
                "for text"
            )
        return pillow.open(file if isinstance(file, str) else BytesIO(file))


class ChatGeneration(Task):
    """Go on with a conversation.

    Inputs: ``messages``, a list of ``{"role", "content"}`` whose last one is the user's.
    Outputs: ``generation``, ``model_name``.

    Example:
        >>> from asyncdistil.steps.tasks import ChatGeneration
        >>> from asyncdistil.testing.fake_llm import EchoLLM
        >>> task = ChatGeneration(llm=EchoLLM())
        >>> task.load()
        >>> messages = [{"role": "user", "content": "Hi!"}]
        >>> next(task.process([{"messages": messages}]))[0]["generation"]
        'Hi!'
    """

    version: ClassVar[int | None] = 1

    _can_be_used_with_offline_batch_generation: bool = PrivateAttr(default=True)

    @property
    def inputs(self) -> StepColumns:
        """``messages``."""
        return ["messages"]

    @property
    def outputs(self) -> StepColumns:
        """``generation`` and ``model_name``."""
        return ["generation", "model_name"]

    def format_input(self, input: dict[str, Any]) -> ChatType:
        """The conversation as it is.

        Raises:
            DataError: It is no conversation, or its last message is not the user's.
        """
        messages: ChatType = input["messages"]
        if not is_conversation(messages):
            raise DataError(
                f"column 'messages' of task {self.name!r} must be a list of messages with 'role' "
                f"and 'content'"
            )
        if messages[-1]["role"] not in {"user", "tool"}:
            raise DataError(
                f"the last message in column 'messages' of task {self.name!r} is by "
                f"{messages[-1]['role']!r}: there is nothing to answer, it must be the user's"
            )
        return messages

    def format_output(
        self, output: str | None, input: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """The text as it is."""
        return {"generation": output}

    def _sample_input(self) -> ChatType:
        return [{"role": "user", "content": "<PLACEHOLDER_MESSAGE>"}]


class StructuredGeneration(Task):
    """Ask for an answer of the structure that each row says.

    Inputs: ``instruction``; ``structured_output``, a dict such as ``{"format": "json", "schema":
    {...}}`` or ``{"format": "regex", "schema": "..."}``; ``system_prompt`` with
    ``use_system_prompt``. Outputs: ``generation``, ``model_name``.

    Attributes:
        use_system_prompt: Whether the column ``system_prompt`` is sent.

    Example:
        >>> from asyncdistil.steps.tasks import StructuredGeneration
        >>> from asyncdistil.testing.fake_llm import FakeLLM
        >>> task = StructuredGeneration(llm=FakeLLM(reply="42"))
        >>> task.load()
        >>> structure = {"format": "regex", "schema": "[0-9]+"}
        >>> row = {"instruction": "A number?", "structured_output": structure}
        >>> next(task.process([row]))[0]["generation"]
        '42'
        >>> task.llm.asked[0][1]
        {'format': 'regex', 'schema': '[0-9]+'}
    """

    version: ClassVar[int | None] = 1

    use_system_prompt: bool = False

    _can_be_used_with_offline_batch_generation: bool = PrivateAttr(default=True)

    @property
    def inputs(self) -> StepColumns:
        """``instruction``, ``structured_output`` and, if used, ``system_prompt``."""
        columns = ["instruction", "structured_output"]
        return ["system_prompt", *columns] if self.use_system_prompt else columns

    @property
    def outputs(self) -> StepColumns:
        """``generation`` and ``model_name``."""
        return ["generation", "model_name"]

    def format_input(self, input: dict[str, Any]) -> FormattedInput:
        """The messages, and the structure that the row asks for.

        Raises:
            DataError: ``instruction`` is not text.
        """
        if not isinstance(input["instruction"], str):
            raise DataError(
                f"column 'instruction' of task {self.name!r} must be text, not "
                f"{type(input['instruction']).__name__}"
            )
        messages: ChatType = [{"role": "user", "content": input["instruction"]}]
        if self.use_system_prompt and input.get("system_prompt"):
            messages.insert(0, {"role": "system", "content": input["system_prompt"]})
        return messages, input.get("structured_output")

    def format_output(
        self, output: str | None, input: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """The text as it is; it is JSON or whatever the structure says."""
        return {"generation": output}
