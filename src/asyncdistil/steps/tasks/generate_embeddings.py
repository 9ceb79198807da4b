"""Embeddings out of the last hidden state of a language model."""

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

from asyncdistil.batch import Row
from asyncdistil.errors import DataError
from asyncdistil.models.llms.base import LLM
from asyncdistil.models.output import FATAL
from asyncdistil.models.typing import ChatType
from asyncdistil.steps.rows import Entries
from asyncdistil.steps.step import Step, flat
from asyncdistil.steps.tasks.text_generation import is_conversation
from asyncdistil.typing import StepColumns, StepInput, StepOutput


class GenerateEmbeddings(Step):
    """Embed texts with a language model that runs in this process.

    The embedding is the last hidden state of the last token. For models made for embeddings use
    ``EmbeddingGeneration``.

    Inputs: ``text``, a text or a list of messages. Outputs: ``embedding``, a list of floats;
    ``model_name``.

    Attributes:
        llm: A model that shows its hidden states, such as ``TransformersLLM``.

    Source: Liu et al., What Makes Good Data for Alignment? A Comprehensive Study of Automatic Data
    Selection in Instruction Tuning, https://arxiv.org/abs/2312.15685
    """

    version: ClassVar[int | None] = 1

    row_wise: bool = True
    llm: LLM

    def load(self) -> None:
        """Load the model."""
        super().load()
        self.llm.load()

    def unload(self) -> None:
        """Unload the model."""
        self.llm.unload()
        super().unload()

    @property
    def inputs(self) -> StepColumns:
        """``text``."""
        return ["text"]

    @property
    def outputs(self) -> StepColumns:
        """``embedding`` and ``model_name``."""
        return ["embedding", "model_name"]

    def format_input(self, input: dict[str, Any]) -> ChatType:
        """The text as a message, or the messages as they are.

        Raises:
            DataError: It is neither.
        """
        text = input["text"]
        if isinstance(text, str):
            return [{"role": "user", "content": text}]
        if is_conversation(text):
            messages: ChatType = text
            return messages
        raise DataError(
            f"column 'text' of step {self.name!r} must be a text or a list of messages, not "
            f"{type(text).__name__}"
        )

    def process(self, inputs: StepInput) -> StepOutput:
        """Embed rows.

        Yields:
            The rows, once.
        """
        yield flat(self._embedded(inputs))

    def entries(self, *ports: list[Row]) -> Iterator[Entries]:
        """One entry per row."""
        (rows,) = ports
        yield self._embedded(rows)

    def _embedded(self, rows: Sequence[Row]) -> Entries:
        try:
            states = self.llm.get_last_hidden_states([self.format_input(row) for row in rows])
        except FATAL:
            raise
        except Exception as error:
            if len(rows) == 1:
                return [self.failed_row(rows[0], error)]
            # Alone, so that the row at fault fails alone.
            return [self._embedded([row])[0] for row in rows]
        return [
            {**row, "embedding": state[-1].tolist(), "model_name": self.llm.model_name}
            for row, state in zip(rows, states, strict=True)
        ]
