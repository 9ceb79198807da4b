"""Deita's scorers: a model compares several texts and gives each a number."""

from abc import abstractmethod
from typing import Any, ClassVar

from pydantic import PrivateAttr

from asyncdistil.errors import ModelReplyError
from asyncdistil.models.typing import ChatType
from asyncdistil.steps.tasks import prompts, replies
from asyncdistil.steps.tasks.base import Task
from asyncdistil.typing import StepColumns


class _Scorer(Task):
    """What both scorers share: a list of texts in, a list of scores out."""

    texts_column: ClassVar[str]

    _can_be_used_with_offline_batch_generation: bool = PrivateAttr(default=True)

    @property
    def outputs(self) -> StepColumns:
        """``scores`` and ``model_name``."""
        return ["scores", "model_name"]

    @abstractmethod
    def format_input(self, input: dict[str, Any]) -> ChatType:
        """The numbered texts."""

    def format_output(
        self, output: str | None, input: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """One score per text, in order; ``None`` where the reply has none.

        Raises:
            ModelReplyError: The reply scores none of the texts.
        """
        count = len((input or {}).get(self.texts_column) or [])
        if output is None:
            return {"scores": [None] * count}
        if not self.structured:
            return {"scores": replies.read_scores(output, count)}
        scores = replies.read_object(output, "scores")["scores"]
        if not isinstance(scores, list) or len(scores) != count:
            raise ModelReplyError(f"the reply has not {count} scores: {replies.shown(output)}")
        return {"scores": scores}

    def get_structured_output(self) -> dict[str, Any]:
        """A list of whole numbers."""
        return {
            "title": "Scores",
            "type": "object",
            "properties": {"scores": {"type": "array", "items": {"type": "integer"}}},
            "required": ["scores"],
        }

    def _sample_input(self) -> ChatType:
        sample: dict[str, Any] = {name: f"<PLACEHOLDER_{name.upper()}>" for name in self.inputs}
        sample[self.texts_column] = [f"<PLACEHOLDER_TEXT_{number}>" for number in range(2)]
        return self.format_input(sample)


class QualityScorer(_Scorer):
    r"""Score responses to one instruction by their quality.

    Inputs: ``instruction``; ``responses``, a list of texts. Outputs: ``scores``, a list with one
    number per response, from 1 to their count, or one more for a response that can't be improved;
    ``model_name``.

    Example:
        >>> from asyncdistil.steps.tasks import QualityScorer
        >>> from asyncdistil.testing.fake_llm import FakeLLM
        >>> task = QualityScorer(llm=FakeLLM(reply="[1] Score: 2\n[2] Score: 1"))
        >>> task.load()
        >>> next(task.process([{"instruction": "2 + 2?", "responses": ["4", "5"]}]))[0]["scores"]
        [2.0, 1.0]

    Source: Liu et al., What Makes Good Data for Alignment? A Comprehensive Study of Automatic Data
    Selection in Instruction Tuning, https://arxiv.org/abs/2312.15685
    """

    version: ClassVar[int | None] = 1
    prompt_files: ClassVar[tuple[str, ...]] = ("quality-scorer.jinja2",)
    texts_column: ClassVar[str] = "responses"

    @property
    def inputs(self) -> StepColumns:
        """``instruction`` and ``responses``."""
        return ["instruction", "responses"]

    def format_input(self, input: dict[str, Any]) -> ChatType:
        """The instruction and the numbered responses."""
        user = prompts.render(
            "quality-scorer.jinja2",
            instruction=input["instruction"],
            responses=input["responses"],
            structured=self.structured,
        )
        return [{"role": "user", "content": user}]


class ComplexityScorer(_Scorer):
    r"""Score instructions by how hard they are to answer.

    Inputs: ``instructions``, a list of texts. Outputs: ``scores``, a list with one number per
    instruction, from 1 to their count, or one more for an instruction that is too hard to answer;
    ``model_name``.

    Example:
        >>> from asyncdistil.steps.tasks import ComplexityScorer
        >>> from asyncdistil.testing.fake_llm import FakeLLM
        >>> task = ComplexityScorer(llm=FakeLLM(reply="[1] Score: 1\n[2] Score: 2"))
        >>> task.load()
        >>> row = {"instructions": ["Say hello.", "Prove it."]}
        >>> next(task.process([row]))[0]["scores"]
        [1.0, 2.0]

    Source: Liu et al., What Makes Good Data for Alignment? A Comprehensive Study of Automatic Data
    Selection in Instruction Tuning, https://arxiv.org/abs/2312.15685
    """

    version: ClassVar[int | None] = 1
    prompt_files: ClassVar[tuple[str, ...]] = ("complexity-scorer.jinja2",)
    texts_column: ClassVar[str] = "instructions"

    @property
    def inputs(self) -> StepColumns:
        """``instructions``."""
        return ["instructions"]

    def format_input(self, input: dict[str, Any]) -> ChatType:
        """The numbered instructions."""
        user = prompts.render(
            "complexity-scorer.jinja2",
            instructions=input["instructions"],
            structured=self.structured,
        )
        return [{"role": "user", "content": user}]
