"""CLAIR: a model revises a solution with as few changes as possible."""

import re
from typing import Any, ClassVar

from pydantic import Field

from asyncdistil.errors import ModelReplyError
from asyncdistil.models.typing import ChatType
from asyncdistil.steps.tasks import prompts, replies
from asyncdistil.steps.tasks.base import Task
from asyncdistil.typing import StepColumns

# Headings of the second part, as asked for and as models that saw the paper's prompt write them.
_REVISION = re.compile(
    r"^[ \t#*{]*(?:corrected|worsened)[ _]student[ _]solution[ \t*}:]*",
    re.IGNORECASE | re.MULTILINE,
)
_REASONING = re.compile(
    r"^[ \t#*{]*teacher(?:['’]?s)?[ _]reasoning[ \t*}:]*", re.IGNORECASE | re.MULTILINE
)


class CLAIR(Task):
    """Revise a solution into a better one that is still the same, for contrastive pairs.

    Inputs: ``task``, ``student_solution``. Outputs: ``revision``; ``rational``, why it was
    changed; ``model_name``.

    Attributes:
        system_prompt: What the model is to be.

    Example:
        >>> from asyncdistil.steps.tasks import CLAIR
        >>> from asyncdistil.testing.fake_llm import FakeLLM
        >>> reply = '''**Teacher's reasoning:**
        ... The sum is off by one.
        ... **Corrected Student Solution:**
        ... 4'''
        >>> task = CLAIR(llm=FakeLLM(reply=reply))
        >>> task.load()
        >>> row = next(task.process([{"task": "2 + 2?", "student_solution": "5"}]))[0]
        >>> row["revision"], row["rational"]
        ('4', 'The sum is off by one.')

    Source: D'Oosterlinck et al., Anchored Preference Optimization and Contrastive Revisions,
    https://arxiv.org/abs/2408.06266
    """

    version: ClassVar[int | None] = 1
    prompt_files: ClassVar[tuple[str, ...]] = ("clair.jinja2",)

    system_prompt: str = Field(
        default_factory=lambda: prompts.source("clair-system.jinja2").strip()
    )

    @property
    def inputs(self) -> StepColumns:
        """``task`` and ``student_solution``."""
        return ["task", "student_solution"]

    @property
    def outputs(self) -> StepColumns:
        """``revision``, ``rational`` and ``model_name``."""
        return ["revision", "rational", "model_name"]

    def format_input(self, input: dict[str, Any]) -> ChatType:
        """The task and the solution."""
        user = prompts.render(
            "clair.jinja2", task=input["task"], student_solution=input["student_solution"]
        )
        return [
            {"role": "system", "content": self.system_prompt},
            {"role": "user", "content": user},
        ]

    def format_output(
        self, output: str | None, input: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """The revision, and what stands before it.

        Raises:
            ModelReplyError: The reply has no revision.
        """
        if output is None:
            return {"revision": None, "rational": None}
        found = _REVISION.search(output)
        revision = output[found.end() :].strip() if found else ""
        if found is None or not revision:
            raise ModelReplyError(f"no corrected solution in the reply: {replies.shown(output)}")
        reasoning = output[: found.start()]
        if heading := _REASONING.search(reasoning):
            reasoning = reasoning[heading.end() :]
        return {"revision": revision, "rational": reasoning.strip()}
