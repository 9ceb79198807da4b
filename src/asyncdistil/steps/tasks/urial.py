"""URIAL: a base model made to answer by examples in its prompt."""

import re
from typing import Any, ClassVar

from asyncdistil.errors import DataError, ModelReplyError
from asyncdistil.models.typing import ChatType
from asyncdistil.steps.tasks import prompts, replies
from asyncdistil.steps.tasks.base import Task
from asyncdistil.typing import StepColumns

_NEXT_TURN = re.compile(r"^#\s*User\b", re.MULTILINE)


class URIAL(Task):
    r"""Answer with a base model, which goes on with a text of conversations.

    Inputs: ``instruction``, or ``conversation``, a list of messages whose last one is the user's.
    Outputs: ``generation``, ``model_name``.

    Example:
        >>> from asyncdistil.steps.tasks import URIAL
        >>> from asyncdistil.testing.fake_llm import FakeLLM
        >>> task = URIAL(llm=FakeLLM(reply=" Hello.\n\n# User:\n\nMore?"))
        >>> task.load()
        >>> next(task.process([{"instruction": "Say hello."}]))[0]["generation"]
        'Hello.'

    Source: Lin et al., The Unlocking Spell on Base LLMs: Rethinking Alignment via In-Context
    Learning, https://arxiv.org/abs/2312.01552
    """

    version: ClassVar[int | None] = 1
    prompt_files: ClassVar[tuple[str, ...]] = ("urial.jinja2",)

    @property
    def inputs(self) -> StepColumns:
        """``instruction`` or ``conversation``."""
        return {"instruction": False, "conversation": False}

    @property
    def outputs(self) -> StepColumns:
        """``generation`` and ``model_name``."""
        return ["generation", "model_name"]

    def format_input(self, input: dict[str, Any]) -> ChatType:
        """A text of conversations that ends where the assistant is to speak.

        Raises:
            DataError: The row has neither column, or its conversation does not end with the user.
        """
        if input.get("instruction") is not None:
            messages: ChatType = [{"role": "user", "content": input["instruction"]}]
        else:
            messages = input.get("conversation") or []
        if not messages or messages[-1]["role"] != "user":
            raise DataError(
                f"task {self.name!r} needs a column 'instruction', or a column 'conversation' "
                f"whose last message is the user's"
            )
        return [{"role": "user", "content": prompts.render("urial.jinja2", messages=messages)}]

    def format_output(
        self, output: str | None, input: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """The text up to where the model goes on as the user.

        Raises:
            ModelReplyError: Nothing is left.
        """
        if output is None:
            return {"generation": None}
        generation = _NEXT_TURN.split(output, maxsplit=1)[0].strip()
        if not generation:
            raise ModelReplyError(f"the assistant says nothing: {replies.shown(output)}")
        return {"generation": generation}

    def _sample_input(self) -> ChatType:
        return self.format_input({"instruction": "<PLACEHOLDER_INSTRUCTION>"})
