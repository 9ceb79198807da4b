"""Instruction backtranslation: a model scores how good an example an answer is."""

import re
from typing import Any, ClassVar

from pydantic import PrivateAttr

from asyncdistil.errors import ModelReplyError
from asyncdistil.models.typing import ChatType
from asyncdistil.steps.tasks import prompts, replies
from asyncdistil.steps.tasks.base import Task
from asyncdistil.typing import StepColumns

_SCORE = re.compile(r"\bscore\b\W*?([1-5])\b", re.IGNORECASE)


class InstructionBacktranslation(Task):
    r"""Score an answer from 1 to 5, as an example of how an assistant should reply.

    Inputs: ``instruction``, ``generation``. Outputs: ``score``, 1 to 5; ``reason``;
    ``model_name``.

    Example:
        >>> from asyncdistil.steps.tasks import InstructionBacktranslation
        >>> from asyncdistil.testing.fake_llm import FakeLLM
        >>> task = InstructionBacktranslation(llm=FakeLLM(reply="It is right.\nScore: 4"))
        >>> task.load()
        >>> row = next(task.process([{"instruction": "2 + 2?", "generation": "4"}]))[0]
        >>> row["score"], row["reason"]
        (4, 'It is right.')

    Source: Li et al., Self-Alignment with Instruction Backtranslation,
    https://arxiv.org/abs/2308.06259
    """

    version: ClassVar[int | None] = 1
    prompt_files: ClassVar[tuple[str, ...]] = ("instruction-backtranslation.jinja2",)

    _can_be_used_with_offline_batch_generation: bool = PrivateAttr(default=True)

    @property
    def inputs(self) -> StepColumns:
        """``instruction`` and ``generation``."""
        return ["instruction", "generation"]

    @property
    def outputs(self) -> StepColumns:
        """``score``, ``reason`` and ``model_name``."""
        return ["score", "reason", "model_name"]

    def format_input(self, input: dict[str, Any]) -> ChatType:
        """The scale, the instruction and the answer."""
        user = prompts.render(
            "instruction-backtranslation.jinja2",
            instruction=input["instruction"],
            generation=input["generation"],
        )
        return [{"role": "user", "content": user}]

    def format_output(
        self, output: str | None, input: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """The last score in the reply, and what stands before it.

        Raises:
            ModelReplyError: There is no score from 1 to 5 in the reply.
        """
        if output is None:
            return {"score": None, "reason": None}
        found = list(_SCORE.finditer(output))
        if not found:
            raise ModelReplyError(f'no "Score: 1" to 5 in the reply: {replies.shown(output)}')
        reason = output[: found[-1].start()].strip().strip("*#").strip()
        return {"score": int(found[-1].group(1)), "reason": reason}
