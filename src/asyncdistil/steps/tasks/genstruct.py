"""Genstruct: an exchange between user and assistant out of a document."""

import re
from typing import Any, ClassVar

from asyncdistil.errors import ModelReplyError
from asyncdistil.models.typing import ChatType
from asyncdistil.steps.tasks import prompts, replies
from asyncdistil.steps.tasks.base import Task
from asyncdistil.typing import StepColumns

_EXCHANGE = re.compile(
    r"\s*(?:\[\[\[User\]\]\])?(.+?)\[\[\[Assistant\]\]\](.+)", re.DOTALL | re.IGNORECASE
)


class Genstruct(Task):
    """Make a question and its answer out of a document, with a model trained for it.

    The prompt is the input format of the Genstruct models (``NousResearch/Genstruct-7B``), so
    other models may not know what to do with it.

    Inputs: ``title``, ``content``. Outputs: ``user``, ``assistant``, ``model_name``.

    Example:
        >>> from asyncdistil.steps.tasks import Genstruct
        >>> from asyncdistil.testing.fake_llm import FakeLLM
        >>> task = Genstruct(llm=FakeLLM(reply="What falls? [[[Assistant]]] Rain."))
        >>> task.load()
        >>> row = next(task.process([{"title": "Rain", "content": "Rain falls."}]))[0]
        >>> row["user"], row["assistant"]
        ('What falls?', 'Rain.')

    Source: Cui and Wang, Ada-Instruct: Adapting Instruction Generators for Complex Reasoning,
    https://arxiv.org/abs/2310.04484; format, the card of the model.
    """

    version: ClassVar[int | None] = 1
    prompt_files: ClassVar[tuple[str, ...]] = ("genstruct.jinja2",)

    @property
    def inputs(self) -> StepColumns:
        """``title`` and ``content``."""
        return ["title", "content"]

    @property
    def outputs(self) -> StepColumns:
        """``user``, ``assistant`` and ``model_name``."""
        return ["user", "assistant", "model_name"]

    def format_input(self, input: dict[str, Any]) -> ChatType:
        """The document in the format of the model."""
        user = prompts.render("genstruct.jinja2", title=input["title"], content=input["content"])
        # The model was trained with a space after the last mark.
        return [{"role": "user", "content": user + " "}]

    def format_output(
        self, output: str | None, input: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """What stands before and after the mark of the assistant.

        Raises:
            ModelReplyError: The reply lacks the mark, or one of the two.
        """
        if output is None:
            return {"user": None, "assistant": None}
        found = _EXCHANGE.match(output)
        parts = [part.strip() for part in found.groups()] if found else []
        if not all(parts) or not parts:
            raise ModelReplyError(f"no [[[Assistant]]] part in the reply: {replies.shown(output)}")
        return {"user": parts[0], "assistant": parts[1]}
