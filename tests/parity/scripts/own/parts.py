"""Models, steps and tasks as users write them, for the pipelines beside."""

from pathlib import Path
from typing import Any

from distilabel.mixins.runtime_parameters import RuntimeParameter
from distilabel.models import LLM, AsyncLLM
from distilabel.steps import (
    GeneratorStep,
    GlobalStep,
    Step,
    StepInput,
    step,
)
from distilabel.steps.tasks import Task, task
from distilabel.typing import (
    ChatType,
    GenerateOutput,
    GeneratorStepOutput,
    StepColumns,
    StepOutput,
)
from distilabel.utils.requirements import requirements


class Echo(AsyncLLM):
    prefix: RuntimeParameter[str] = "echo"

    @property
    def model_name(self) -> str:
        return self.prefix

    async def agenerate(
        self, input: Any, num_generations: int = 1, shout: bool = False, stop: str = ""
    ) -> GenerateOutput:
        said = f"{self.prefix}: {input[-1]['content']}{stop}"
        return {
            "generations": [
                f"{said.upper() if shout else said} {n}" for n in range(num_generations)
            ],
            "statistics": {
                "input_tokens": [len(input)] * num_generations,
                "output_tokens": [2] * num_generations,
            },
        }


class Slow(LLM):
    """The older of the two contracts."""

    def load(self) -> None:
        super().load()

    @property
    def model_name(self) -> str:
        return "slow"

    def generate(self, inputs: Any, num_generations: int = 1) -> Any:
        return [
            {
                "generations": [messages[-1]["content"][::-1]] * num_generations,
                "statistics": {},
                "logprobs": [[[{"token": "a", "logprob": -0.5}]]] * num_generations,
            }
            for messages in inputs
        ]


class Shout(Step):
    mark: RuntimeParameter[str] = "!"

    @property
    def inputs(self) -> StepColumns:
        return ["text"]

    @property
    def outputs(self) -> StepColumns:
        return ["loud"]

    def process(self, inputs: StepInput) -> StepOutput:
        for row in inputs:
            row["loud"] = row["text"].upper() + self.mark
        yield inputs


class Optional(Step):
    @property
    def inputs(self) -> StepColumns:
        return {"text": True, "hint": False}

    @property
    def outputs(self) -> StepColumns:
        return ["seen"]

    def process(self, inputs: StepInput) -> StepOutput:
        yield [row | {"seen": sorted(row)} for row in inputs]


class Count(GlobalStep):
    @property
    def inputs(self) -> StepColumns:
        return ["text"]

    @property
    def outputs(self) -> StepColumns:
        return ["place", "of"]

    def process(self, inputs: StepInput) -> StepOutput:
        for place, row in enumerate(inputs):
            row.update(place=place, of=len(inputs))
        yield inputs


class Numbers(GeneratorStep):
    up_to: RuntimeParameter[int] = 5

    @property
    def outputs(self) -> StepColumns:
        return ["text"]

    def process(self, offset: int = 0) -> GeneratorStepOutput:
        numbers = [{"text": f"n{n}"} for n in range(offset, self.up_to)]
        while numbers:
            batch, numbers = numbers[: self.batch_size], numbers[self.batch_size :]
            yield batch, not numbers


class Ask(Task):
    refused: str = "nothing"

    @property
    def inputs(self) -> StepColumns:
        return ["topic"]

    @property
    def outputs(self) -> StepColumns:
        return ["question", "model_name"]

    def format_input(self, input: dict[str, Any]) -> ChatType:
        return [
            {"role": "system", "content": "Ask."},
            {"role": "user", "content": f"about {input['topic']}"},
        ]

    def format_output(self, output: str | None, input: dict[str, Any] | None = None) -> Any:
        if output is None or self.refused in output:
            raise ValueError("nobody asks about this")
        return {"question": output + "?"}


@step(inputs=["text"], outputs=["length"])
def Measure(inputs: StepInput, factor: RuntimeParameter[int] = 1) -> StepOutput:
    """Lengths, times a factor."""
    for row in inputs:
        row["length"] = len(row["text"]) * factor
    yield inputs


@step(outputs=["text"], step_type="generator")
def Letters(offset: int = 0) -> GeneratorStepOutput:
    yield [{"text": letter} for letter in "abc"], True


@step(inputs=["text"], outputs=["all"], step_type="global")
def Together(inputs: StepInput) -> StepOutput:
    yield [{"all": [row["text"] for row in inputs]}]


@task(inputs=["topic"], outputs=["poem", "title"])
def Poem(output: str | None, input: dict[str, Any] | None = None) -> Any:
    """
    ---
    system_prompt: |
        You are a poet.
    user_message_template: |
        Write about {topic}
    ---
    """
    return {"poem": output, "title": (input or {})["topic"].title()}


@step(inputs=["generation"], outputs=["answers"])
def Both(*inputs: StepInput) -> StepOutput:
    yield [
        one | {"answers": [one["generation"], other["generation"]]}
        for one, other in zip(*inputs, strict=True)
    ]


@requirements(["pydantic"])
class Keeps(Step):
    """Keeps something beside its rows."""

    @property
    def inputs(self) -> StepColumns:
        return ["text"]

    def process(self, inputs: StepInput) -> StepOutput:
        def write(path: Path) -> None:
            (Path(path) / "texts.txt").write_text(" ".join(row["text"] for row in inputs))

        self.save_artifact("texts", write_function=write, metadata={"rows": len(inputs)})
        yield inputs


@step(inputs=["text"], outputs=["text"])
def Uneven(inputs: StepInput) -> StepOutput:
    """Drops one row, doubles another."""
    yield [row for row in inputs if row["text"] != "n1" for _ in range(1 + (row["text"] == "n2"))]
