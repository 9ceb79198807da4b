"""Generators that make up instructions from a few words and evolve them."""

from collections.abc import Iterator
from functools import cache
from typing import Annotated, Any, ClassVar, Self

from pydantic import Field, NonNegativeInt, model_validator

from asyncdistil.batch import Row
from asyncdistil.errors import ParameterError, StepError
from asyncdistil.mixins import RUNTIME_PARAMETER
from asyncdistil.models.typing import ChatType
from asyncdistil.steps.tasks import prompts
from asyncdistil.steps.tasks.base import GeneratorTask
from asyncdistil.steps.tasks.conversation import Conversing, Talk
from asyncdistil.steps.tasks.dialogue import Dialogue
from asyncdistil.steps.tasks.draws import Draw
from asyncdistil.steps.tasks.evol import (
    breadth_template,
    check_templates,
    depth_templates,
    evolved,
    user_says,
)
from asyncdistil.typing import GeneratorStepOutput, StepColumns

_FRESH = "FRESH_START"
_MOST_ROUNDS = 20


@cache
def _nouns() -> tuple[str, ...]:
    return tuple(prompts.source("evol/nouns.txt").split())


def fresh_template() -> dict[str, str]:
    """The prompt that begins an instruction; ``<PROMPT>`` stands for the words it is about."""
    return {_FRESH: prompts.render("evol/fresh-start.jinja2")}


class EvolInstructGenerator(Conversing, GeneratorTask):
    """Make up instructions from one to four drawn words and evolve them to a wanted length.

    An instruction depends only on the seed and its place, so a generator that is taken up again
    goes on where it stopped.

    Inputs: none. Outputs: ``instruction``; ``answer`` with ``generate_answers``; ``model_name``.

    Attributes:
        num_instructions: Rows to make.
        generate_answers: Whether the model answers them, too.
        mutation_templates: Prompts to draw from, by name; ``<PROMPT>`` stands for the
            instruction. ``FRESH_START`` is needed: it gets the words and begins an instruction.
        min_length: Characters that an instruction must have; a shorter one is evolved further.
        max_length: Characters that it may have; after a longer one another is begun.
        seed: Seed of all choices.

    Example:
        >>> from asyncdistil.steps.tasks import EvolInstructGenerator
        >>> from asyncdistil.testing.fake_llm import FakeLLM
        >>> task = EvolInstructGenerator(
        ...     llm=FakeLLM(reply="Why does it rain?"), num_instructions=2, min_length=5
        ... )
        >>> task.load()
        >>> rows, last = next(task.process())
        >>> [row["instruction"] for row in rows], last
        (['Why does it rain?', 'Why does it rain?'], True)

    Source: Xu et al., WizardLM: Empowering Large Language Models to Follow Complex Instructions,
    https://arxiv.org/abs/2304.12244
    """

    version: ClassVar[int | None] = 1
    prompt_files: ClassVar[tuple[str, ...]] = ("evol/nouns.txt",)
    resumable: ClassVar[bool] = True
    reads_only_fields: ClassVar[bool] = True

    num_instructions: NonNegativeInt
    generate_answers: bool = False
    mutation_templates: dict[str, str] = Field(
        default_factory=lambda: fresh_template() | depth_templates() | breadth_template()
    )
    min_length: Annotated[NonNegativeInt, RUNTIME_PARAMETER] = Field(
        default=512, description="Characters that an instruction must have."
    )
    max_length: Annotated[NonNegativeInt, RUNTIME_PARAMETER] = Field(
        default=1024, description="Characters that an instruction may have."
    )
    seed: Annotated[int, RUNTIME_PARAMETER] = Field(
        default=42, description="Seed of words and mutations."
    )

    @model_validator(mode="after")
    def _check_mutations(self) -> Self:
        check_templates(self.mutation_templates, "<PROMPT>", where=type(self).__name__)
        if _FRESH not in self.mutation_templates:
            raise ParameterError(
                f"mutation_templates of {type(self).__name__} lacks {_FRESH!r}: it makes the first "
                f"instruction from words"
            )
        return self

    @property
    def mutation_templates_names(self) -> list[str]:
        """Names of the mutations."""
        return list(self.mutation_templates)

    @property
    def outputs(self) -> StepColumns:
        """``instruction``, perhaps ``answer``, and ``model_name``."""
        columns = ["instruction", "model_name"]
        return [*columns, "answer"] if self.generate_answers else columns

    def process(self, offset: int = 0) -> GeneratorStepOutput:
        """Make instructions, ``batch_size`` at a time."""
        yield from batches(self, offset, self.num_instructions)

    def conversation(self, row: Row, talk: Talk, number: int) -> Dialogue[Row]:
        """Make the instruction of one place.

        Raises:
            StepError: It never gets a wanted length.
        """
        draw = Draw(self.seed, number)
        instruction = yield from self._instruction(talk, draw)
        if not self.generate_answers:
            return {"instruction": instruction}
        answer = yield from talk.say(user_says(instruction), "answer")
        return {"instruction": instruction, "answer": answer}

    def _instruction(self, talk: Talk, draw: Draw) -> Dialogue[str]:
        asked = self._begin(draw)
        for _ in range(_MOST_ROUNDS):
            text = evolved((yield from talk.say(user_says(asked), "instruction")))
            if self.min_length <= len(text) <= self.max_length:
                return text
            mutation = draw.choice(self.mutation_templates_names)
            # Evolving makes texts longer: one that is too long already is given up.
            if mutation == _FRESH or len(text) > self.max_length:
                asked = self._begin(draw)
            else:
                asked = self.mutation_templates[mutation].replace("<PROMPT>", text)
        raise StepError(
            f"no instruction of {self.min_length} to {self.max_length} characters in "
            f"{_MOST_ROUNDS} rounds: widen min_length and max_length"
        )

    def _begin(self, draw: Draw) -> str:
        words = [draw.choice(_nouns()) for _ in range(draw.choice([1, 2, 3, 4]))]
        return self.mutation_templates[_FRESH].replace("<PROMPT>", ", ".join(dict.fromkeys(words)))

    def format_output(self, output: Any, input: dict[str, Any] | None = None) -> dict[str, Any]:
        """The new text in one reply of the model."""
        return {"instruction": None if output is None else evolved(output)}

    def _sample_input(self) -> ChatType:
        return user_says(self._begin(Draw(self.seed, 0)))


class EvolComplexityGenerator(EvolInstructGenerator):
    """`EvolInstructGenerator` with those mutations only that make an instruction harder.

    Inputs: none. Outputs and attributes: as `EvolInstructGenerator`.

    Example:
        >>> from asyncdistil.steps.tasks import EvolComplexityGenerator
        >>> from asyncdistil.testing.fake_llm import FakeLLM
        >>> task = EvolComplexityGenerator(llm=FakeLLM(reply="Why?"), num_instructions=1)
        >>> "BREADTH" in task.mutation_templates
        False

    Source: Liu et al., What Makes Good Data for Alignment? A Comprehensive Study of Automatic Data
    Selection in Instruction Tuning, https://arxiv.org/abs/2312.15685; Xu et al., WizardLM,
    https://arxiv.org/abs/2304.12244
    """

    version: ClassVar[int | None] = 1

    mutation_templates: dict[str, str] = Field(
        default_factory=lambda: fresh_template() | depth_templates()
    )


def batches(task: Any, offset: int, rows: int) -> Iterator[tuple[list[Row], bool]]:
    """Rows ``offset`` to ``rows`` of a generator that makes each row by its ordinal.

    Args:
        task: A `Conversing` generator.
        offset: Ordinal of the first row.
        rows: Rows in all, those before ``offset`` included.

    Yields:
        ``batch_size`` rows, the last time perhaps fewer, and whether they are the last.
    """
    if offset >= rows:
        yield [], True
    for start in range(offset, rows, task.batch_size):
        stop = min(start + task.batch_size, rows)
        yield task.made_rows(range(start, stop)), stop == rows
