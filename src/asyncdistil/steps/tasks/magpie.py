"""Magpie: an aligned model, given nothing but the start of its chat template, makes up the user."""

import math
from typing import Annotated, Any, ClassVar, Self, TypeAlias

from pydantic import Field, PositiveInt, model_validator

from asyncdistil.batch import Row
from asyncdistil.errors import ParameterError
from asyncdistil.mixins import RUNTIME_PARAMETER, RuntimeParameter
from asyncdistil.models.typing import ChatType
from asyncdistil.steps.metadata import METADATA_COLUMN
from asyncdistil.steps.tasks import prompts
from asyncdistil.steps.tasks.base import GeneratorTask, Task
from asyncdistil.steps.tasks.conversation import Conversing, Talk
from asyncdistil.steps.tasks.dialogue import Dialogue
from asyncdistil.steps.tasks.draws import Draw
from asyncdistil.steps.tasks.evol_generators import batches
from asyncdistil.typing import GeneratorStepOutput, StepColumns

# A package in distilabel: its modules are found below this one by name only.
__path__: list[str] = []

SystemPrompts: TypeAlias = str | list[str] | dict[str, str] | dict[str, tuple[str, float]]
"""One system prompt, or several to draw from: a list, by name, or by name with a weight."""


class _Magpie(Conversing):
    """What both Magpie tasks share."""

    prompt_files: ClassVar[tuple[str, ...]] = ("magpie-system.jinja2",)

    n_turns: Annotated[PositiveInt, RUNTIME_PARAMETER] = Field(
        default=1, description="Exchanges of user and assistant in a conversation."
    )
    end_with_user: Annotated[bool, RUNTIME_PARAMETER] = Field(
        default=False, description="Whether the conversation ends with the user."
    )
    include_system_prompt: Annotated[bool, RUNTIME_PARAMETER] = Field(
        default=False, description="Whether the conversation holds the system prompt."
    )
    only_instruction: Annotated[bool, RUNTIME_PARAMETER] = Field(
        default=False, description="Whether to make the user's first message only."
    )
    system_prompt: Annotated[SystemPrompts, RUNTIME_PARAMETER] | None = Field(
        default=None, description="System prompt, or several to draw from."
    )
    seed: Annotated[int, RUNTIME_PARAMETER] = Field(
        default=42, description="Seed of the choice of system prompts."
    )

    @model_validator(mode="after")
    def _use_template(self) -> Self:
        if "use_magpie_template" not in type(self.llm).model_fields:
            raise ParameterError(
                f"{type(self).__name__} needs a model that can leave its chat template open for "
                f"the user, and {type(self.llm).__name__} can't: use one with `use_magpie_template`"
            )
        # A field of the models that have it, as was checked; the contract of all does not name it.
        if not getattr(self.llm, "use_magpie_template"):  # noqa: B009
            setattr(self.llm, "use_magpie_template", True)  # noqa: B010
        return self

    @model_validator(mode="after")
    def _check_weights(self) -> Self:
        if isinstance(self.system_prompt, dict):
            weights = [item[1] for item in self.system_prompt.values() if isinstance(item, tuple)]
            if weights and not math.isclose(sum(weights), 1.0):
                raise ParameterError(
                    f"the weights of the system prompts add up to {sum(weights)}: make it 1"
                )
        return self

    @property
    def outputs(self) -> StepColumns:
        """The instruction, the exchange or the conversation; perhaps a key; ``model_name``."""
        columns = self._columns
        if isinstance(self.system_prompt, dict):
            columns = [*columns, "system_prompt_key"]
        return [*columns, "model_name"]

    @property
    def _columns(self) -> list[str]:
        if self.only_instruction:
            return ["instruction"]
        if self.n_turns == 1 and not self.end_with_user and not self.include_system_prompt:
            return ["instruction", "response"]
        return ["conversation"]

    def conversation(self, row: Row, talk: Talk, number: int) -> Dialogue[Row]:
        """Have the model speak as the user, as itself, and so on."""
        system, key = self._system(row, number)
        messages: ChatType = [] if system is None else [{"role": "system", "content": system}]
        for turn in range(self.n_turns):
            yield from _add(messages, talk, "user")
            last = turn == self.n_turns - 1 and self.end_with_user
            if self.only_instruction or last:
                break
            yield from _add(messages, talk, "assistant")
        spoken = [message for message in messages if message["role"] != "system"]
        values: list[Any] = [message["content"] for message in spoken]
        if self._columns == ["conversation"]:
            values = [messages if self.include_system_prompt else spoken]
        columns = dict(zip(self._columns, values, strict=True))
        return columns if key is None else columns | {"system_prompt_key": key}

    def _system(self, row: Row, number: int) -> tuple[str | None, str | None]:
        """System prompt of a conversation, and its key if it was drawn by name."""
        if row.get("system_prompt"):
            return row["system_prompt"], None
        given = self.system_prompt
        if isinstance(given, str):
            return given, None
        if not given:
            several = self.n_turns > 1 and not self.only_instruction
            return prompts.render("magpie-system.jinja2") if several else None, None
        # The whole row counts, not only the declared column: rows that differ in anything may
        # draw differently.
        known = {name: value for name, value in row.items() if name != METADATA_COLUMN}
        draw = Draw(self.seed, (number, known))
        if isinstance(given, list):
            return draw.choice(given), None
        keys = list(given)
        items = [item if isinstance(item, tuple) else (item, 1.0) for item in given.values()]
        key = draw.weighted(keys, [weight for _, weight in items])
        return items[keys.index(key)][0], key

    def format_input(self, input: Any) -> ChatType:
        """An empty conversation, or the system prompt: there is nothing to ask."""
        system, _ = self._system(input, 0)
        return [] if system is None else [{"role": "system", "content": system}]

    def format_output(self, output: Any, input: dict[str, Any] | None = None) -> dict[str, Any]:
        """The user's message in one reply of the model."""
        return {"instruction": output}

    def _sample_input(self) -> ChatType:
        return self.format_input({})


class Magpie(_Magpie, Task):
    """Have an aligned model make up what users ask, and answer it.

    The model gets its chat template up to where the user would speak, and goes on as the user. It
    takes a model with ``use_magpie_template``.

    Inputs: ``system_prompt``, optional; it wins over the attribute. Outputs: ``instruction`` and
    ``response``; with ``only_instruction`` just ``instruction``; ``conversation``, a list of
    messages, with ``n_turns`` above 1, ``end_with_user`` or ``include_system_prompt``;
    ``system_prompt_key`` if prompts are drawn by name; ``model_name``.

    Attributes:
        n_turns: Exchanges of user and assistant.
        end_with_user: Whether the last word is the user's.
        include_system_prompt: Whether the conversation holds the system prompt.
        only_instruction: Whether to make the user's first message only.
        system_prompt: System prompt, or several to draw from, as a list or by name, perhaps with
            weights that add up to 1. Without one, several turns get one that asks for a coherent
            conversation. Rows of equal content draw the same.
        seed: Seed of the draw.

    Example:
        >>> from asyncdistil.models.magpie import MagpieChatTemplate
        >>> from asyncdistil.steps.tasks import Magpie
        >>> from asyncdistil.testing.fake_llm import FakeLLM
        >>> class Local(FakeLLM, MagpieChatTemplate):
        ...     pass
        >>> llm = Local(reply="Why does it rain?", magpie_pre_query_template="qwen2")
        >>> task = Magpie(llm=llm, only_instruction=True)
        >>> task.load()
        >>> next(task.process([{"system_prompt": "You know about weather."}]))[0]["instruction"]
        'Why does it rain?'

    Source: Xu et al., Magpie: Alignment Data Synthesis from Scratch by Prompting Aligned LLMs with
    Nothing, https://arxiv.org/abs/2406.08464
    """

    version: ClassVar[int | None] = 1

    @property
    def inputs(self) -> StepColumns:
        """``system_prompt``, optional."""
        return {"system_prompt": False}


class MagpieGenerator(_Magpie, GeneratorTask):
    """`Magpie` as a generator: rows out of nothing.

    A row depends only on the model, the seed and its place, so a generator that is taken up again
    goes on where it stopped.

    Inputs: none. Outputs and attributes: as `Magpie`.

    Attributes:
        num_rows: Rows to make.

    Example:
        >>> from asyncdistil.models.magpie import MagpieChatTemplate
        >>> from asyncdistil.steps.tasks import MagpieGenerator
        >>> from asyncdistil.testing.fake_llm import FakeLLM
        >>> class Local(FakeLLM, MagpieChatTemplate):
        ...     pass
        >>> llm = Local(reply="Why does it rain?", magpie_pre_query_template="qwen2")
        >>> task = MagpieGenerator(llm=llm, num_rows=2, only_instruction=True)
        >>> task.load()
        >>> rows, last = next(task.process())
        >>> [row["instruction"] for row in rows], last
        (['Why does it rain?', 'Why does it rain?'], True)

    Source: Xu et al., Magpie: Alignment Data Synthesis from Scratch by Prompting Aligned LLMs with
    Nothing, https://arxiv.org/abs/2406.08464
    """

    version: ClassVar[int | None] = 1
    resumable: ClassVar[bool] = True
    reads_only_fields: ClassVar[bool] = True

    num_rows: RuntimeParameter[int] = Field(default=None, description="Rows to make.")

    def process(self, offset: int = 0) -> GeneratorStepOutput:
        """Make conversations, ``batch_size`` at a time.

        Raises:
            ParameterError: ``num_rows`` has no value.
        """
        if self.num_rows is None:
            raise ParameterError(f"generator {self.name!r} needs a value for num_rows")
        yield from batches(self, offset, self.num_rows)


def _add(messages: ChatType, talk: Talk, role: str) -> Dialogue[None]:
    text = yield from talk.say(list(messages))
    messages.append({"role": role, "content": text})
