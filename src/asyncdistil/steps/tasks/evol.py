"""Evol: a model rewrites instructions, or responses, step by step into harder or better ones."""

import re
from typing import Annotated, Any, ClassVar, Final, Self

from pydantic import Field, PositiveInt, model_validator

from asyncdistil.batch import Row
from asyncdistil.errors import ModelReplyError, ParameterError
from asyncdistil.mixins import RUNTIME_PARAMETER
from asyncdistil.models.typing import ChatType
from asyncdistil.steps.tasks import prompts
from asyncdistil.steps.tasks.base import Task
from asyncdistil.steps.tasks.conversation import Conversing, Talk
from asyncdistil.steps.tasks.dialogue import Dialogue
from asyncdistil.steps.tasks.draws import Draw
from asyncdistil.typing import StepColumns

_DEPTH: Final = {
    "CONSTRAINTS": "add one more constraint or requirement.",
    "DEEPENING": "if it asks about something, make it ask for more depth and more breadth on it.",
    "CONCRETIZING": "put specific things in the place of general ones.",
    "INCREASED_REASONING_STEPS": (
        "if a few simple thoughts answer it, make it call for several steps of reasoning."
    ),
}
_QUALITY: Final = {
    "HELPFULNESS": "make it more helpful to the person who asked.",
    "RELEVANCE": "make it keep more closely to what was asked.",
    "DEEPENING": "go deeper into the matter.",
    "CREATIVITY": "make it more inventive.",
    "DETAILS": "add more detail.",
}

# Models trained on the papers' prompts put such a line before their answer.
_HEADING = re.compile(
    r"^[\s#*]*(?:rewritten|created|new|evolved|given)\s+(?:prompt|instruction|response)[#*]*\s*"
    r"(?::[\s*]*|\n)",
    re.IGNORECASE,
)


def depth_templates() -> dict[str, str]:
    """Mutations that make an instruction harder; ``<PROMPT>`` stands for it."""
    return {
        name: prompts.render("evol/rewrite.jinja2", method=method)
        for name, method in _DEPTH.items()
    }


def breadth_template() -> dict[str, str]:
    """The mutation that makes another instruction on the model of one."""
    return {"BREADTH": prompts.render("evol/breadth.jinja2")}


def quality_templates() -> dict[str, str]:
    """Mutations that make a response better; ``<PROMPT>`` and ``<RESPONSE>`` stand for the pair."""
    return {
        name: prompts.render("evol/quality.jinja2", method=method)
        for name, method in _QUALITY.items()
    }


def evolved(reply: str) -> str:
    """The new text in a reply, without a heading before it.

    Raises:
        ModelReplyError: Nothing is left.
    """
    text = _HEADING.sub("", reply.rsplit("Prompt#:", maxsplit=1)[-1], count=1).strip()
    if not text:
        raise ModelReplyError("the model evolved the text into nothing")
    return text


def user_says(text: str) -> ChatType:
    """A conversation of one message."""
    return [{"role": "user", "content": text}]


def check_templates(templates: dict[str, str], placeholder: str, *, where: str) -> None:
    """Check mutation templates.

    Raises:
        ParameterError: There are none, or one lacks its placeholder.
    """
    if not templates:
        raise ParameterError(f"mutation_templates of {where} is empty: give at least one")
    for name, template in templates.items():
        if placeholder not in template:
            raise ParameterError(
                f"mutation template {name!r} of {where} has no {placeholder}: write it where the "
                f"text is to stand"
            )


class _Evol(Conversing, Task):
    """What the evolving tasks share."""

    num_evolutions: PositiveInt
    store_evolutions: bool = False
    seed: Annotated[int, RUNTIME_PARAMETER] = Field(
        default=42, description="Seed of the choice of mutations."
    )

    def format_input(self, input: Any) -> ChatType:
        """A conversation of one message, which is given as text."""
        return user_says(input if isinstance(input, str) else str(input))

    def draw(self, row: Row, number: int) -> Draw:
        """Choices for one answer to a row, by the columns that the task reads."""
        return Draw(self.seed, (number, {name: row.get(name) for name in self.inputs}))


class EvolInstruct(_Evol):
    """Rewrite an instruction several times, each time into a harder or a different one.

    The mutation of each step is drawn by the seed and the row, so it does not depend on other rows.

    Inputs: ``instruction``. Outputs: ``evolved_instruction``, or ``evolved_instructions`` with
    ``store_evolutions``; ``answer`` or ``answers`` with ``generate_answers``; ``model_name``.

    Attributes:
        num_evolutions: Steps, at least 1.
        store_evolutions: Whether all steps are kept, as a list, rather than the last one.
        generate_answers: Whether the model answers what it made, too.
        include_original_instruction: Whether the list begins with the instruction itself.
        mutation_templates: Prompts to draw from, by name; ``<PROMPT>`` stands for the instruction.
        seed: Seed of the draw.

    Example:
        >>> from asyncdistil.steps.tasks import EvolInstruct
        >>> from asyncdistil.testing.fake_llm import FakeLLM
        >>> harder = lambda asked: asked.splitlines()[-1] + " Prove it."
        >>> task = EvolInstruct(llm=FakeLLM(reply=harder), num_evolutions=2)
        >>> task.load()
        >>> next(task.process([{"instruction": "What is 2 + 2?"}]))[0]["evolved_instruction"]
        'What is 2 + 2? Prove it. Prove it.'

    Source: Xu et al., WizardLM: Empowering Large Language Models to Follow Complex Instructions,
    https://arxiv.org/abs/2304.12244
    """

    version: ClassVar[int | None] = 1

    generate_answers: bool = False
    include_original_instruction: bool = False
    mutation_templates: dict[str, str] = Field(
        default_factory=lambda: depth_templates() | breadth_template()
    )

    @model_validator(mode="after")
    def _check_mutations(self) -> Self:
        check_templates(self.mutation_templates, "<PROMPT>", where=type(self).__name__)
        return self

    @property
    def mutation_templates_names(self) -> list[str]:
        """Names of the mutations."""
        return list(self.mutation_templates)

    @property
    def inputs(self) -> StepColumns:
        """``instruction``."""
        return ["instruction"]

    @property
    def outputs(self) -> StepColumns:
        """What it evolved into, perhaps answers, and ``model_name``."""
        columns = [self._evolved_column, "model_name"]
        return [*columns, self._answer_column] if self.generate_answers else columns

    @property
    def _evolved_column(self) -> str:
        return "evolved_instructions" if self.store_evolutions else "evolved_instruction"

    @property
    def _answer_column(self) -> str:
        return "answers" if self.store_evolutions else "answer"

    def conversation(self, row: Row, talk: Talk, number: int) -> Dialogue[Row]:
        """Evolve the instruction and, if wanted, answer what it became."""
        draw = self.draw(row, number)
        instructions = [row["instruction"]]
        for _ in range(self.num_evolutions):
            mutation = self.mutation_templates[draw.choice(self.mutation_templates_names)]
            asked = mutation.replace("<PROMPT>", instructions[-1])
            reply = yield from talk.say(self.format_input(asked), "instruction")
            instructions.append(evolved(reply))
        kept = self._kept(instructions, keep_first=self.include_original_instruction)
        columns: Row = {self._evolved_column: kept if self.store_evolutions else kept[-1]}
        if self.generate_answers:
            asked_all = [self.format_input(instruction) for instruction in kept]
            answers = yield from talk.say_all(asked_all, "answer")
            columns[self._answer_column] = answers if self.store_evolutions else answers[-1]
        return columns

    def _kept(self, texts: list[str], *, keep_first: bool) -> list[str]:
        if not self.store_evolutions:
            return texts[-1:]
        return texts if keep_first else texts[1:]

    def format_output(self, output: Any, input: dict[str, Any] | None = None) -> dict[str, Any]:
        """The new text in one reply of the model."""
        return {"evolved_instruction": None if output is None else evolved(output)}

    def _sample_input(self) -> ChatType:
        mutation = next(iter(self.mutation_templates.values()))
        return self.format_input(mutation.replace("<PROMPT>", "<PLACEHOLDER_INSTRUCTION>"))


class EvolComplexity(EvolInstruct):
    """`EvolInstruct` with those mutations only that make an instruction harder.

    Inputs: ``instruction``. Outputs and attributes: as `EvolInstruct`.

    Example:
        >>> from asyncdistil.steps.tasks import EvolComplexity
        >>> from asyncdistil.testing.fake_llm import FakeLLM
        >>> task = EvolComplexity(llm=FakeLLM(reply="Why?"), num_evolutions=1)
        >>> task.mutation_templates_names
        ['CONSTRAINTS', 'DEEPENING', 'CONCRETIZING', 'INCREASED_REASONING_STEPS']

    Source: Liu et al., What Makes Good Data for Alignment? A Comprehensive Study of Automatic Data
    Selection in Instruction Tuning, https://arxiv.org/abs/2312.15685; Xu et al., WizardLM,
    https://arxiv.org/abs/2304.12244
    """

    version: ClassVar[int | None] = 1

    mutation_templates: dict[str, str] = Field(default_factory=depth_templates)


class EvolQuality(_Evol):
    """Rewrite a response several times, each time into a better one.

    Inputs: ``instruction``, ``response``. Outputs: ``evolved_response``, or
    ``evolved_responses`` with ``store_evolutions``; ``model_name``.

    Attributes:
        num_evolutions: Steps, at least 1.
        store_evolutions: Whether all steps are kept, as a list, rather than the last one.
        include_original_response: Whether the list begins with the response itself.
        mutation_templates: Prompts to draw from, by name; ``<PROMPT>`` stands for the
            instruction, ``<RESPONSE>`` for the response.
        seed: Seed of the draw.

    Example:
        >>> from asyncdistil.steps.tasks import EvolQuality
        >>> from asyncdistil.testing.fake_llm import FakeLLM
        >>> better = lambda asked: asked.splitlines()[-1] + "!"
        >>> task = EvolQuality(llm=FakeLLM(reply=better), num_evolutions=2, store_evolutions=True)
        >>> task.load()
        >>> row = {"instruction": "2 + 2?", "response": "4"}
        >>> next(task.process([row]))[0]["evolved_responses"]
        ['4!', '4!!']

    Source: Liu et al., What Makes Good Data for Alignment? A Comprehensive Study of Automatic Data
    Selection in Instruction Tuning, https://arxiv.org/abs/2312.15685
    """

    version: ClassVar[int | None] = 1

    include_original_response: bool = False
    mutation_templates: dict[str, str] = Field(default_factory=quality_templates)

    @model_validator(mode="after")
    def _check_mutations(self) -> Self:
        check_templates(self.mutation_templates, "<RESPONSE>", where=type(self).__name__)
        return self

    @property
    def mutation_templates_names(self) -> list[str]:
        """Names of the mutations."""
        return list(self.mutation_templates)

    @property
    def inputs(self) -> StepColumns:
        """``instruction`` and ``response``."""
        return ["instruction", "response"]

    @property
    def outputs(self) -> StepColumns:
        """What the response evolved into, and ``model_name``."""
        return [self._evolved_column, "model_name"]

    @property
    def _evolved_column(self) -> str:
        return "evolved_responses" if self.store_evolutions else "evolved_response"

    def conversation(self, row: Row, talk: Talk, number: int) -> Dialogue[Row]:
        """Evolve the response."""
        draw = self.draw(row, number)
        responses = [row["response"]]
        for _ in range(self.num_evolutions):
            mutation = self.mutation_templates[draw.choice(self.mutation_templates_names)]
            asked = _filled(mutation, row["instruction"], responses[-1])
            responses.append(evolved((yield from talk.say(self.format_input(asked)))))
        if not self.store_evolutions:
            return {self._evolved_column: responses[-1]}
        return {self._evolved_column: responses[0 if self.include_original_response else 1 :]}

    def format_output(self, output: Any, input: dict[str, Any] | None = None) -> dict[str, Any]:
        """The new text in one reply of the model."""
        return {"evolved_response": None if output is None else evolved(output)}

    def _sample_input(self) -> ChatType:
        mutation = next(iter(self.mutation_templates.values()))
        return self.format_input(
            _filled(mutation, "<PLACEHOLDER_INSTRUCTION>", "<PLACEHOLDER_RESPONSE>")
        )


def _filled(template: str, instruction: str, response: str) -> str:
    # In one go: an instruction that speaks of <RESPONSE> must not be filled in turn.
    texts = {"<PROMPT>": instruction, "<RESPONSE>": response}
    return re.sub("<PROMPT>|<RESPONSE>", lambda found: texts[found.group()], template)
