"""The contract of a task: a step that asks a model something about each row.

A task says what to ask (``format_input``) and what to make of the answer (``format_output``); this
module does the rest. Tasks that ask more than once write ``dialogue`` instead.
"""

import inspect
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, NamedTuple, Self, TypeVar

from pydantic import Field, PositiveInt, PrivateAttr, model_validator

from asyncdistil.batch import Failure, Row
from asyncdistil.errors import ModelReplyError, ParameterError, StepError
from asyncdistil.graph.plan import StepKind
from asyncdistil.mixins import RUNTIME_PARAMETER
from asyncdistil.models import loop
from asyncdistil.models.llms.base import LLM, AsyncLLM
from asyncdistil.models.memoized import give_back
from asyncdistil.models.output import FATAL
from asyncdistil.models.typing import ChatType, FormattedInput, GenerateOutput
from asyncdistil.steps.base import BaseStep
from asyncdistil.steps.generator import GeneratorStep
from asyncdistil.steps.global_step import GlobalStep
from asyncdistil.steps.metadata import METADATA_COLUMN
from asyncdistil.steps.rows import Entries, Entry, FailedRow, has_failed
from asyncdistil.steps.step import Step, flat
from asyncdistil.steps.tasks import prompts
from asyncdistil.steps.tasks.dialogue import (
    Dialogue,
    aconverse,
    aconverse_all,
    ask,
    converse,
    together,
)
from asyncdistil.steps.tasks.metadata import extras_of, merged, statistics_of
from asyncdistil.typing import StepInput, StepOutput

T = TypeVar("T")


class Answer(NamedTuple):
    """What one generation became.

    Attributes:
        columns: Columns to add to the row; the outputs are ``None`` where it failed.
        failure: Why it failed, or ``None``.
    """

    columns: Row
    failure: Failure | None = None


class BaseTask(BaseStep):
    """What all tasks share.

    Attributes:
        llm: The model to ask.
        num_generations: Answers wanted per input row, at least 1.
        group_generations: Whether the answers to a row become lists in one row; without it
            every answer is a row of its own, next to each other.
        add_raw_output: Whether ``distilabel_metadata`` keeps ``raw_output_<task>``.
        add_raw_input: Whether it keeps the messages, as ``raw_input_<task>``.
        use_default_structured_output: Whether the model must answer with JSON of the schema of
            `get_structured_output`. A structure set on the model itself wins.
        prompt_files: Prompt files that the class uses; their text is part of its identity.
    """

    prompt_files: ClassVar[tuple[str, ...]] = ()

    llm: LLM
    num_generations: Annotated[PositiveInt, RUNTIME_PARAMETER] = Field(
        default=1, description="Answers wanted per input row."
    )
    group_generations: bool = False
    add_raw_output: Annotated[bool, RUNTIME_PARAMETER] = Field(
        default=True,
        description="Whether `distilabel_metadata` keeps the reply as `raw_output_<task>`.",
    )
    add_raw_input: Annotated[bool, RUNTIME_PARAMETER] = Field(
        default=True,
        description="Whether `distilabel_metadata` keeps the messages as `raw_input_<task>`.",
    )
    use_default_structured_output: bool = False

    _can_be_used_with_offline_batch_generation: bool = PrivateAttr(default=False)

    @model_validator(mode="after")
    def _check_model(self) -> Self:
        model: object = self.llm
        if model is None:  # an image task, which fills it in later
            return self
        offline = getattr(model, "use_offline_batch_generation", False)
        if offline and not self._can_be_used_with_offline_batch_generation:
            raise ParameterError(
                f"{type(self).__name__} can't use offline batch generation, because it asks the "
                f"model more than once per row or was not written for it: set "
                f"use_offline_batch_generation=False on its model"
            )
        asked = "use_default_structured_output" in self.model_fields_set
        if asked and self.use_default_structured_output and not self._takes_structure():
            raise ParameterError(
                f"{type(self.llm).__name__} has no `structured_output`, so it can't be held to the "
                f"schema of {type(self).__name__}: leave use_default_structured_output off"
            )
        return self

    def load(self) -> None:
        """Load the model."""
        super().load()
        self.llm.load()

    def unload(self) -> None:
        """Unload the model."""
        self.llm.unload()
        super().unload()

    def identity_extra(self) -> Mapping[str, Any]:
        """The text of the prompt files."""
        extra = dict(super().identity_extra())
        if self.prompt_files:
            extra["prompts"] = prompts.digest(*self.prompt_files)
        return extra

    def get_structured_output(self) -> dict[str, Any] | None:
        """JSON schema of the answers, for models that can be held to one, or ``None``."""
        return None

    @property
    def structured(self) -> bool:
        """Whether replies should be JSON of `get_structured_output`."""
        return self.use_default_structured_output and self.get_structured_output() is not None

    def _takes_structure(self) -> bool:
        return "structured_output" in type(self.llm).model_fields

    def asked(self, formatted: FormattedInput) -> FormattedInput:
        """What is sent for a formatted input: the schema goes along where the model takes one.

        It travels with the input rather than being set on the model, which other tasks may share.
        """
        if isinstance(formatted, tuple) or not self.structured or not self._takes_structure():
            return formatted
        if getattr(self.llm, "structured_output", None) is not None:
            return formatted
        return formatted, {"format": "json", "schema": self.get_structured_output()}  # type: ignore[return-value]

    def format_input(self, input: dict[str, Any]) -> Any:
        """Make what the model is asked for a row."""
        raise StepError(f"{type(self).__name__} does not say what to ask: define format_input")

    def format_output(self, output: Any, input: dict[str, Any] | None = None) -> dict[str, Any]:
        """Make the output columns of one generation."""
        raise StepError(f"{type(self).__name__} makes no columns: define format_output")

    # --- from reply to row --------------------------------------------------------------------

    def answers(
        self, reply: GenerateOutput, row: Row | None, formatted: FormattedInput | None
    ) -> list[Answer]:
        """Format every generation of a reply; what raises is a failed answer."""
        numbers = range(len(reply["generations"]))
        return [self._answer(reply, number, row, formatted) for number in numbers]

    def _answer(
        self, reply: GenerateOutput, number: int, row: Row | None, formatted: FormattedInput | None
    ) -> Answer:
        raw = reply["generations"][number]
        failures = reply.get("failures") or []
        failure = failures[number] if number < len(failures) else None
        if raw is None and failure is None:
            failure = Failure("no_reply", "the model gave no text for this generation")
        try:
            # A copy: formatting functions are known to write into the row they are given.
            columns = self.format_output(raw, None if row is None else dict(row))
            if not isinstance(columns, dict):
                raise StepError(
                    f"format_output of {type(self).__name__} returned a {type(columns).__name__}: "
                    f"return a dict of columns"
                )
        except FATAL:
            raise
        except Exception as error:
            columns = self.null_columns()
            failure = failure or self.describe(error, raw)
        columns = dict(columns)
        earlier = merged((row or {}).get(METADATA_COLUMN))
        own = merged(columns.pop(METADATA_COLUMN, None))
        metadata = earlier | own | self.metadata_of(raw, formatted, statistics_of(reply, number))
        if metadata:
            columns[METADATA_COLUMN] = metadata
        return Answer(columns | extras_of(reply, number, task=self.name), failure)

    def describe(self, error: BaseException, raw: str | None) -> Failure:
        """Record why an answer failed, with the raw reply as its detail."""
        return self.failed_row({}, error, detail=raw or "").failure

    def null_columns(self) -> Row:
        """The outputs of an answer that failed."""
        return dict.fromkeys(name for name in self.outputs if name != "model_name")

    def metadata_of(
        self, raw: Any, formatted: FormattedInput | None, statistics: Mapping[str, Any]
    ) -> dict[str, Any]:
        """What the task adds to ``distilabel_metadata`` for one answer."""
        metadata: dict[str, Any] = {}
        if self.add_raw_output:
            metadata[f"raw_output_{self.name}"] = raw
        if self.add_raw_input:
            messages = formatted[0] if isinstance(formatted, tuple) else formatted
            metadata[f"raw_input_{self.name}"] = messages
        if statistics:
            metadata[f"statistics_{self.name}"] = dict(statistics)
        return metadata

    def entry(self, row: Row, answers: Sequence[Answer]) -> Entry:
        """Put the answers to a row together: rows next to each other, or lists in one row.

        A row failed if an answer in it is bad. Among several rows of their own a bad answer is a
        failed row beside the others; the reason is in its metadata too, as ``failure_<task>``.
        """
        if not answers:
            return self.failed_row(row, ModelReplyError("the model gave no generation"))
        failure = next((answer.failure for answer in answers if answer.failure), None)
        name = {"model_name": self.llm.model_name}
        if self.group_generations:
            columns = dict.fromkeys(key for answer in answers for key in answer.columns)
            lists = {key: [answer.columns.get(key) for answer in answers] for key in columns}
            grouped = {**row, **lists, **name}
            return grouped if failure is None else FailedRow(grouped, failure)
        if len(answers) == 1 and failure is not None:
            return FailedRow({**row, **answers[0].columns, **name}, failure)
        rows: list[Row | FailedRow] = []
        for answer in answers:
            made = {**row, **self.noted(answer), **name}
            rows.append(made if answer.failure is None else FailedRow(made, answer.failure))
        return rows[0] if len(rows) == 1 else rows

    def noted(self, answer: Answer) -> Row:
        """Columns of an answer among several; if it failed, the metadata say why."""
        if answer.failure is None:
            return answer.columns
        note = {f"failure_{self.name}": f"{answer.failure.kind}: {answer.failure.message}"}
        return answer.columns | {
            METADATA_COLUMN: merged(answer.columns.get(METADATA_COLUMN)) | note
        }

    # --- asking -------------------------------------------------------------------------------

    def dialogue(self, row: Row) -> Dialogue[Entry]:
        """Ask about one row, once; override it to ask more often.

        Args:
            row: Input row, in the task's column names.

        Yields:
            What to ask.

        Returns:
            What the row became.
        """
        formatted = self.format_input(row)
        reply = yield from ask(self.asked(formatted), self.num_generations)
        answers = self.answers(reply, row, formatted)
        entry = self.entry(row, answers)
        if has_failed(entry):
            give_back(reply, [answer.failure is None for answer in answers])
        return entry

    def guarded(self, row: Row) -> Dialogue[Entry]:
        """`dialogue`, with whatever it raises made a failed row."""
        try:
            return (yield from self.dialogue(row))
        except FATAL:
            raise
        except Exception as error:
            failed = self.failed_row(row, error)
            return failed._replace(row={**failed.row, "model_name": self.llm.model_name})

    def converse_all(self, rows: Sequence[Row]) -> Entries:
        """Ask about rows from synchronous code; one entry per row, in order."""
        return self.hold([self.guarded(row) for row in rows])

    def hold(self, dialogues: Sequence[Dialogue[T]]) -> list[T]:
        """Hold dialogues with the model from synchronous code: side by side, or round by round."""
        kwargs = self.llm.get_generation_kwargs()
        if self._many_at_once():
            return loop.run(aconverse_all(self.llm, dialogues, kwargs))
        return converse(self.llm, together(dialogues), kwargs)

    def _many_at_once(self) -> bool:
        return isinstance(self.llm, AsyncLLM) and not self.llm.use_offline_batch_generation

    # --- showing ------------------------------------------------------------------------------

    def _sample_input(self) -> ChatType:
        sample = {column: f"<PLACEHOLDER_{column.upper()}>" for column in self.inputs}
        formatted = self.format_input(sample)
        messages: ChatType = formatted[0] if isinstance(formatted, tuple) else formatted
        return messages

    def print(self, sample_input: ChatType | None = None) -> None:
        """Show the prompt in the terminal, with placeholders for the columns.

        Args:
            sample_input: Messages to show instead, such as those that ``format_input`` gives for
                a row of yours.
        """
        from rich.console import Console, Group
        from rich.panel import Panel
        from rich.text import Text

        panels = [
            Panel(
                Text(_text_of(message.get("content"))),
                title=f"{str(message.get('role', '')).capitalize()} message",
            )
            for message in sample_input or self._sample_input()
        ]
        Console().print(
            Panel(Group(*panels), title=f"Prompt of {type(self).__name__}", expand=False)
        )


class Task(BaseTask, Step):
    """A step that asks a model about each row: the base of most tasks.

    Write ``inputs``, ``outputs``, ``format_input`` and ``format_output``. It is row-wise: any
    number of rows is in flight at once and a row that fails costs no other. A subclass that
    overrides ``process`` is batch-wise, unless it says ``row_wise=True``.

    Inputs and outputs: as ``inputs`` and ``outputs`` say.

    Example:
        >>> from asyncdistil.steps.tasks import Task
        >>> from asyncdistil.testing.fake_llm import EchoLLM
        >>> class Shout(Task):
        ...     @property
        ...     def inputs(self):
        ...         return ["text"]
        ...     @property
        ...     def outputs(self):
        ...         return ["shout"]
        ...     def format_input(self, input):
        ...         return [{"role": "user", "content": input["text"].upper()}]
        ...     def format_output(self, output, input=None):
        ...         return {"shout": output and output + "!"}
        >>> shout = Shout(llm=EchoLLM())
        >>> shout.load()
        >>> rows = next(shout.process([{"text": "hello"}]))
        >>> rows[0]["shout"], rows[0]["model_name"]
        ('HELLO!', 'echo')
    """

    row_wise: bool = True

    @model_validator(mode="after")
    def _settle_granularity(self) -> Self:
        if "row_wise" not in self.model_fields_set and not _row_wise_by_class(type(self)):
            # Not an ordinary assignment: that would validate again, without end.
            self.__dict__["row_wise"] = False
        return self

    def kind(self) -> StepKind:
        """``row``, or ``batch`` if ``process`` is overridden; ``global`` for offline batches."""
        if getattr(self.llm, "use_offline_batch_generation", False):
            return "global"
        return super().kind()

    @property
    def may_be_broken_off(self) -> bool:
        """While it waits for a provider's batch, whose records say how far it is."""
        # One that does not wait ends by itself, and what it submits meanwhile is wanted tomorrow.
        waits = getattr(self.llm, "offline_batch_generation_block_until_done", None) is not None
        return waits and bool(getattr(self.llm, "use_offline_batch_generation", False))

    @property
    def asynchronous(self) -> bool:
        """Whether rows are asked about by `aprocess`: the model takes many inputs at once."""
        if not self._own_process():
            return False
        return self._many_at_once() or type(self).aprocess is not Task.aprocess

    @property
    def concurrency(self) -> int:
        """Rows that one worker keeps in flight; 0 asks a batch at a time."""
        return self.llm.concurrency if self.asynchronous else 0

    def _own_process(self) -> bool:
        return type(self).process is Task.process

    @abstractmethod
    def format_input(self, input: dict[str, Any]) -> FormattedInput:
        """Make the messages for a row.

        Args:
            input: The row, in the task's column names.

        Returns:
            Messages, or messages with the structure that the answer must have.
        """

    @abstractmethod
    def format_output(
        self, output: str | None, input: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Make the output columns of one generation.

        Args:
            output: The raw reply; ``None`` if the model gave none, which fails the row whatever
                is returned.
            input: The row, in the task's column names.

        Returns:
            Columns to add to the row. What is raised fails this answer only: its outputs are
            ``None`` and the raw reply is kept in the metadata and in the failure.
        """

    def process(self, inputs: StepInput) -> StepOutput:
        """Ask about rows; a failed one comes in its null form.

        Yields:
            The rows, once.
        """
        yield flat(self.converse_all(inputs))

    def entries(self, *ports: list[Row]) -> Iterator[Entries]:
        """One entry per row; what `process` yields if a subclass overrides it."""
        if self._own_process():
            (rows,) = ports
            yield self.converse_all(rows)
        else:
            yield from super().entries(*ports)

    async def aprocess(self, row: Row) -> Entry:
        """Ask about one row on the running loop."""
        return await aconverse(self.llm, self.guarded(row), self.llm.get_generation_kwargs())


class GeneratorTask(BaseTask, GeneratorStep):
    """A generator whose rows a model makes up. Write ``process(offset)`` and ``format_output``.

    Inputs: none. Outputs: as ``outputs`` says.

    Example:
        >>> from asyncdistil.steps.tasks import GeneratorTask
        >>> from asyncdistil.testing.fake_llm import FakeLLM
        >>> class Sayings(GeneratorTask):
        ...     @property
        ...     def outputs(self):
        ...         return ["saying", "model_name"]
        ...
        ...     def format_output(self, output, input=None):
        ...         return {"saying": output}
        ...
        ...     def process(self, offset=0):
        ...         asked = [{"role": "user", "content": "A saying?"}]
        ...         (reply,) = self.llm.generate_outputs([asked])
        ...         rows = [self.format_output(text) for text in reply["generations"]]
        ...         yield [row | {"model_name": self.llm.model_name} for row in rows], True
        >>> task = Sayings(llm=FakeLLM(reply="Haste makes waste."))
        >>> task.load()
        >>> next(task.process())[0][0]["saying"]
        'Haste makes waste.'
    """


class GlobalTask(BaseTask, GlobalStep):
    """A task that sees all rows at once; it asks about each, unless ``process`` is overridden.

    Inputs and outputs: as ``inputs`` and ``outputs`` say.

    Example:
        >>> from asyncdistil.steps.tasks import GlobalTask
        >>> from asyncdistil.testing.fake_llm import FakeLLM
        >>> class Title(GlobalTask):
        ...     @property
        ...     def inputs(self):
        ...         return ["text"]
        ...
        ...     @property
        ...     def outputs(self):
        ...         return ["title", "model_name"]
        ...
        ...     def process(self, inputs):
        ...         asked = " ".join(row["text"] for row in inputs)
        ...         (reply,) = self.llm.generate_outputs([[{"role": "user", "content": asked}]])
        ...         made = {"title": reply["generations"][0], "model_name": self.llm.model_name}
        ...         yield [row | made for row in inputs]
        >>> task = Title(llm=FakeLLM(reply="On rain"))
        >>> task.load()
        >>> next(task.process([{"text": "It rains."}, {"text": "Again."}]))[1]["title"]
        'On rain'
    """

    def process(self, inputs: StepInput) -> StepOutput:
        """Ask about all rows.

        Yields:
            The rows, once.
        """
        yield flat(self.converse_all(inputs))


def _row_wise_by_class(kind: type[Task]) -> bool:
    """Whether ``row_wise`` was said closer to the class than ``process`` was overridden."""
    for base in kind.__mro__:
        if "row_wise" in inspect.get_annotations(base):
            return bool(kind.model_fields["row_wise"].default)
        if "process" in vars(base):
            return False
    return False


def _text_of(content: Any) -> str:
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    return "\n".join(part.get("text", f"[{part.get('type')}]") for part in parts)


if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        """Names that distilabel has in this module; type checkers are not to see them."""
        from asyncdistil.compat.aliases import old_names

        return old_names(__name__)(name)
