"""Embeddings out of the last hidden state of a language model."""

from collections.abc import Sequence
from typing import Any, ClassVar

from asyncdistil.batch import Row
from asyncdistil.errors import DataError
from asyncdistil.models.llms.base import LLM
from asyncdistil.models.typing import ChatType
from asyncdistil.steps.embedding import EmbeddingStep
from asyncdistil.steps.tasks.text_generation import is_conversation


class GenerateEmbeddings(EmbeddingStep):
    """Embed texts with a language model that runs in this process.

    The embedding is the last hidden state of the last token. For models made for embeddings use
    ``EmbeddingGeneration``.

    Inputs: ``text``, a text or a list of messages. Outputs: ``embedding``, a list of floats;
    ``model_name``.

    Attributes:
        llm: A model that shows its hidden states, such as ``TransformersLLM``.

    Example:
        >>> import numpy as np
        >>> from asyncdistil.steps.tasks import GenerateEmbeddings
        >>> from asyncdistil.testing.fake_llm import FakeLLM
        >>> class Small(FakeLLM):
        ...     def get_last_hidden_states(self, inputs):
        ...         return [np.array([[0, 0], [1, len(one[-1]["content"])]]) for one in inputs]
        >>> task = GenerateEmbeddings(llm=Small(reply=""))
        >>> task.load()
        >>> next(task.process([{"text": "abc"}]))[0]["embedding"]
        [1, 3]

    Source: Liu et al., What Makes Good Data for Alignment? A Comprehensive Study of Automatic Data
    Selection in Instruction Tuning, https://arxiv.org/abs/2312.15685
    """

    version: ClassVar[int | None] = 1

    llm: LLM

    @property
    def embedder(self) -> LLM:
        """The model."""
        return self.llm

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

    def vectors(self, rows: Sequence[Row]) -> Sequence[list[float] | None]:
        """The last hidden state of the last token of every text.

        Raises:
            DataError: One is neither a text nor a list of messages.
        """
        states = self.llm.get_last_hidden_states([self.format_input(row) for row in rows])
        return [state[-1].tolist() for state in states]
