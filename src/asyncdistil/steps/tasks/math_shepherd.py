"""Math-Shepherd: solutions in steps, and labels for steps by whether they lead to the answer."""

import re
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from pydantic import Field, PositiveInt

from asyncdistil.batch import Row
from asyncdistil.errors import DataError, ModelReplyError
from asyncdistil.models.typing import ChatType
from asyncdistil.steps.row_step import RowStep
from asyncdistil.steps.rows import Entry
from asyncdistil.steps.tasks import prompts, replies
from asyncdistil.steps.tasks.base import BaseTask, Task
from asyncdistil.steps.tasks.conversation import Conversing, Talk
from asyncdistil.steps.tasks.dialogue import Dialogue
from asyncdistil.typing import StepColumns

# A package in distilabel: its modules are found below this one by name only.
__path__: list[str] = []

_STEP = re.compile(r"(?=\bStep \d+:|\bThe answer is:)")
_BETWEEN = re.compile(r"^\s*-{3,}\s*$", re.MULTILINE)
_SYSTEM_FILES = {
    "generator": "math_shepherd/generator-system.jinja2",
    "completer": "math_shepherd/completer-system.jinja2",
}


def split_steps(text: str) -> list[str]:
    """Cut a solution into its steps, ``"Step 1: ..."`` and so on, and the line with the answer.

    What stands before the first step is dropped.
    """
    parts = (part.strip() for part in _STEP.split(text))
    return [part for part in parts if part.startswith(("Step ", "The answer is:"))]


def same_answer(one: str, other: str) -> bool:
    """Whether two lines with answers agree, white space and a final point apart."""
    return " ".join(one.split()).rstrip(".") == " ".join(other.split()).rstrip(".")


class _Shepherd(BaseTask):
    """What both tasks share: how solutions are asked for and read."""

    extra_rules: str | None = Field(
        default_factory=lambda: prompts.render("math_shepherd/rules-gsm8k.jinja2")
    )

    def system_messages(self, system_prompt: str | None, few_shots: str | None) -> ChatType:
        """The system message, filled; none if there is none."""
        if not system_prompt:
            return []
        filled = prompts.compiled(system_prompt, trim=True).render(
            extra_rules=self.extra_rules, few_shots=few_shots, structured=self.structured
        )
        return [{"role": "system", "content": filled.strip()}]

    def solutions_in(self, output: str) -> list[list[str]]:
        """Solutions in a reply, each as a list of steps; those without a step are left out."""
        if self.structured:
            held = replies.read_object(output, "solutions")["solutions"]
            texts = [one.get("solution", "") if isinstance(one, dict) else str(one) for one in held]
        else:
            texts = _BETWEEN.split(output)
        return [steps for steps in map(split_steps, texts) if steps]

    def get_structured_output(self) -> dict[str, Any]:
        """A list of solutions."""
        solution = {
            "type": "object",
            "properties": {"solution": {"type": "string"}},
            "required": ["solution"],
        }
        return {
            "title": "Solutions",
            "type": "object",
            "properties": {"solutions": {"type": "array", "items": solution}},
            "required": ["solutions"],
        }


class MathShepherdGenerator(_Shepherd, Task):
    """Solve a problem in numbered steps: once, for the golden solution, or several times.

    Inputs: ``instruction``. Outputs: ``golden_solution``, a list of steps whose last item is the
    answer, or with ``M`` ``solutions``, a list of such lists; ``model_name``.

    Attributes:
        M: Solutions to ask for in one reply; ``None`` for a golden solution.
        system_prompt: Jinja2 template of the system message; it may use ``extra_rules``,
            ``few_shots`` and ``structured``. ``None`` for no message.
        extra_rules: Rules for the steps; by default those of GSM8K, with calculations between
            angle brackets.
        few_shots: Examples.

    Example:
        >>> from asyncdistil.steps.tasks import MathShepherdGenerator
        >>> from asyncdistil.testing.fake_llm import FakeLLM
        >>> reply = '''Step 1: 2 + 2 = <<2+2=4>>4
        ... The answer is: 4'''
        >>> task = MathShepherdGenerator(llm=FakeLLM(reply=reply))
        >>> task.load()
        >>> next(task.process([{"instruction": "2 + 2?"}]))[0]["golden_solution"]
        ['Step 1: 2 + 2 = <<2+2=4>>4', 'The answer is: 4']

    Source: Wang et al., Math-Shepherd: Verify and Reinforce LLMs Step-by-step without Human
    Annotations, https://arxiv.org/abs/2312.08935
    """

    version: ClassVar[int | None] = 1
    prompt_files: ClassVar[tuple[str, ...]] = ("math_shepherd/generator.jinja2",)

    system_prompt: str | None = Field(
        default_factory=lambda: prompts.source(_SYSTEM_FILES["generator"])
    )
    few_shots: str | None = Field(
        default_factory=lambda: prompts.render("math_shepherd/shots-generator-gsm8k.jinja2")
    )
    M: PositiveInt | None = None

    @property
    def inputs(self) -> StepColumns:
        """``instruction``."""
        return ["instruction"]

    @property
    def outputs(self) -> StepColumns:
        """The solution or solutions, and ``model_name``."""
        return [self._column, "model_name"]

    @property
    def _column(self) -> str:
        return "solutions" if self.M else "golden_solution"

    def format_input(self, input: dict[str, Any]) -> ChatType:
        """The rules and the problem."""
        user = prompts.render(
            "math_shepherd/generator.jinja2",
            instruction=input["instruction"],
            count=self.M,
            structured=self.structured,
        )
        messages = self.system_messages(self.system_prompt, self.few_shots)
        return [*messages, {"role": "user", "content": user}]

    def format_output(
        self, output: str | None, input: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """The steps.

        Raises:
            ModelReplyError: There is no step in the reply.
        """
        if output is None:
            return {self._column: None}
        solutions = self.solutions_in(output)
        if not solutions:
            raise ModelReplyError(f'no "Step 1:" in the reply: {replies.shown(output)}')
        return {self._column: solutions[: self.M] if self.M else solutions[0]}


class MathShepherdCompleter(_Shepherd, Conversing, Task):
    """Label the steps of solutions by whether the answer can be reached from them.

    From each step but the last one a model completes the solution ``N`` times. A step is good if
    one of the completions ends with the golden answer; the last step is good if its own answer
    does. A tag at the end of a step says so, and the answer is joined to the last step.

    Inputs: ``instruction``; ``solutions``, a list of lists of steps; ``golden_solution``, a list of
    steps, the answer last. Outputs: ``solutions``, with tags; ``model_name``.

    Attributes:
        N: Completions of each step, asked for in one reply.
        tags: Tags of a good and of a bad step.
        system_prompt: Jinja2 template of the system message; it may use ``extra_rules``,
            ``few_shots`` and ``structured``. ``None`` for no message.
        extra_rules: Rules for the steps; by default those of GSM8K.
        few_shots: Examples.

    Example:
        >>> from asyncdistil.steps.tasks import MathShepherdCompleter
        >>> from asyncdistil.testing.fake_llm import FakeLLM
        >>> task = MathShepherdCompleter(llm=FakeLLM(reply="The answer is: 6"))
        >>> task.load()
        >>> row = {
        ...     "instruction": "1 + 2 + 3?", "golden_solution": ["The answer is: 6"],
        ...     "solutions": [["Step 1: 1 + 2 = 3", "Step 2: 3 + 3 = 7", "The answer is: 7"]],
        ... }
        >>> next(task.process([row]))[0]["solutions"]
        [['Step 1: 1 + 2 = 3 +', 'Step 2: 3 + 3 = 7 The answer is: 7 -']]

    Source: Wang et al., Math-Shepherd: Verify and Reinforce LLMs Step-by-step without Human
    Annotations, https://arxiv.org/abs/2312.08935
    """

    version: ClassVar[int | None] = 1
    prompt_files: ClassVar[tuple[str, ...]] = ("math_shepherd/completer.jinja2",)

    system_prompt: str | None = Field(
        default_factory=lambda: prompts.source(_SYSTEM_FILES["completer"])
    )
    few_shots: str | None = Field(
        default_factory=lambda: prompts.render("math_shepherd/shots-completer-gsm8k.jinja2")
    )
    N: PositiveInt = 1
    tags: list[str] = Field(default=["+", "-"], min_length=2, max_length=2)

    @property
    def inputs(self) -> StepColumns:
        """The problem, the solutions and the golden one."""
        return ["instruction", "solutions", "golden_solution"]

    @property
    def outputs(self) -> StepColumns:
        """``solutions`` and ``model_name``."""
        return ["solutions", "model_name"]

    def format_input(self, input: dict[str, Any]) -> ChatType:
        """The rules, and the problem with the first steps of a solution."""
        user = prompts.render(
            "math_shepherd/completer.jinja2",
            instruction=input["instruction"],
            count=self.N,
            structured=self.structured,
        )
        messages = self.system_messages(self.system_prompt, self.few_shots)
        return [*messages, {"role": "user", "content": user}]

    def conversation(self, row: Row, talk: Talk, number: int) -> Dialogue[Row]:
        """Complete every step that needs it, all at the same time."""
        golden = row["golden_solution"][-1]
        places = [
            (which, place)
            for which, steps in enumerate(row["solutions"])
            for place in range(len(steps) - 2)
        ]
        asked = [self._from_step(row, which, place) for which, place in places]
        texts = (yield from talk.say_all(asked)) if asked else []
        good = {
            where: self._reaches(text, golden) for where, text in zip(places, texts, strict=True)
        }
        tagged = [
            self._tagged(steps, [good[which, place] for place in range(len(steps) - 2)], golden)
            for which, steps in enumerate(row["solutions"])
        ]
        return {"solutions": tagged}

    def _from_step(self, row: Row, which: int, place: int) -> ChatType:
        steps = "\n".join(row["solutions"][which][: place + 1])
        return self.format_input({"instruction": f"{row['instruction']}\n{steps}"})

    def _reaches(self, text: str, golden: str) -> bool:
        completions = self.solutions_in(text)[: self.N]
        if not completions:
            raise ModelReplyError(f"no completion in the reply: {replies.shown(text)}")
        return any(same_answer(steps[-1], golden) for steps in completions)

    def _tagged(self, steps: Sequence[str], good: Sequence[bool], golden: str) -> list[str]:
        if len(steps) < 2:
            return list(steps)
        *inner, last, answer = steps
        judged = [*zip(inner, good, strict=True), (f"{last} {answer}", same_answer(answer, golden))]
        return [f"{step} {self.tags[0] if right else self.tags[1]}" for step, right in judged]

    def format_output(self, output: Any, input: dict[str, Any] | None = None) -> dict[str, Any]:
        """The completions in one reply of the model."""
        return {"solutions": None if output is None else self.solutions_in(output)}

    def _sample_input(self) -> ChatType:
        return self.format_input({"instruction": "<PLACEHOLDER_INSTRUCTION>"})


class FormatPRM(RowStep):
    """Put tagged solutions into a form that process reward models are trained on.

    Inputs: ``instruction``; ``solutions``, one solution as a list of tagged steps (a row of
    `MathShepherdCompleter` holds several: expand them first). Outputs: ``input`` and ``label`` in
    format ``math-shepherd``; ``prompt``, ``completions`` and ``labels`` in format ``trl``.

    Attributes:
        format: ``math-shepherd`` or ``trl``.
        step_token: What stands in the place of the tags in ``input``.
        tags: Tags of a good and of a bad step.

    Example:
        >>> from asyncdistil.steps.tasks import FormatPRM
        >>> step = FormatPRM(format="trl")
        >>> row = {"instruction": "2 + 2?", "solutions": ["Step 1: 2 + 2 = 5 -"]}
        >>> made = next(step.process([row]))[0]
        >>> made["completions"], made["labels"]
        (['Step 1: 2 + 2 = 5'], [False])

    Source: Wang et al., Math-Shepherd, https://arxiv.org/abs/2312.08935; the format ``trl``, the
    documentation of its ``PRMTrainer``.
    """

    version: ClassVar[int | None] = 1

    format: Literal["math-shepherd", "trl"] = "math-shepherd"
    step_token: str = "ки"
    tags: list[str] = Field(default=["+", "-"], min_length=2, max_length=2)

    @property
    def inputs(self) -> StepColumns:
        """``instruction`` and ``solutions``."""
        return ["instruction", "solutions"]

    @property
    def outputs(self) -> StepColumns:
        """The columns of the format."""
        if self.format == "math-shepherd":
            return ["input", "label"]
        return ["prompt", "completions", "labels"]

    def transform(self, *rows: Row) -> Entry:
        """The solution in the format.

        Raises:
            DataError: A step has no tag.
        """
        row = rows[0]
        steps = [self._parted(step) for step in row["solutions"]]
        if self.format == "trl":
            return {
                **row,
                "prompt": row["instruction"],
                "completions": [text.strip() for text, _ in steps],
                "labels": [tag == self.tags[0] for _, tag in steps],
            }
        hidden = "\n".join(f"{text}{self.step_token}" for text, _ in steps)
        return {
            **row,
            "input": f"{row['instruction']} {hidden}",
            "label": f"{row['instruction']} " + "\n".join(row["solutions"]),
        }

    def _parted(self, step: str) -> tuple[str, str]:
        for tag in self.tags:
            if step.endswith(tag):
                return step.removesuffix(tag), tag
        raise DataError(
            f"a step in column 'solutions' of step {self.name!r} ends with none of the tags "
            f"{self.tags}: {replies.shown(step)}"
        )
