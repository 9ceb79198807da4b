"""Self-Instruct: a model makes up instructions for an application."""

from typing import Any, ClassVar, Final

from pydantic import PrivateAttr

from asyncdistil.errors import ModelReplyError
from asyncdistil.models.typing import ChatType
from asyncdistil.steps.tasks import prompts, replies
from asyncdistil.steps.tasks.base import Task
from asyncdistil.typing import StepColumns

_CRITERIA: Final = (
    "- Use many different verbs.\n"
    "- Keep to what a language model can do with text, in one or two sentences.\n"
    "- Make each query stand on its own.\n"
    '- Mix questions ("What does ...?") and requests ("Write ...").'
)


class SelfInstruct(Task):
    r"""Make up instructions that an application could be given.

    Inputs: ``input``, the context they should be about. Outputs: ``instructions``, a list of
    texts; ``model_name``.

    Attributes:
        num_instructions: Instructions to ask for, per row; the model may give others.
        criteria_for_query_generation: What makes a good instruction.
        application_description: The application that they are for.

    Example:
        >>> from asyncdistil.steps.tasks import SelfInstruct
        >>> from asyncdistil.testing.fake_llm import FakeLLM
        >>> task = SelfInstruct(llm=FakeLLM(reply="What is rain?\n\nDescribe a storm."))
        >>> task.load()
        >>> next(task.process([{"input": "the weather"}]))[0]["instructions"]
        ['What is rain?', 'Describe a storm.']

    Source: Wang et al., Self-Instruct: Aligning Language Models with Self-Generated Instructions,
    https://arxiv.org/abs/2212.10560
    """

    version: ClassVar[int | None] = 1
    prompt_files: ClassVar[tuple[str, ...]] = ("self-instruct.jinja2",)

    num_instructions: int = 5
    criteria_for_query_generation: str = _CRITERIA
    application_description: str = "AI assistant"

    _can_be_used_with_offline_batch_generation: bool = PrivateAttr(default=True)

    @property
    def inputs(self) -> StepColumns:
        """``input``."""
        return ["input"]

    @property
    def outputs(self) -> StepColumns:
        """``instructions`` and ``model_name``."""
        return ["instructions", "model_name"]

    def format_input(self, input: dict[str, Any]) -> ChatType:
        """The application, the criteria and the context."""
        user = prompts.render(
            "self-instruct.jinja2",
            context=input["input"],
            application=self.application_description,
            criteria=self.criteria_for_query_generation,
            num_instructions=self.num_instructions,
        )
        return [{"role": "user", "content": user}]

    def format_output(
        self, output: str | None, input: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """One instruction per line.

        Raises:
            ModelReplyError: The reply is empty.
        """
        if output is None:
            return {"instructions": []}
        instructions = replies.lines(replies.without_fences(output))
        if not instructions:
            raise ModelReplyError("the reply holds no instruction")
        return {"instructions": instructions}
