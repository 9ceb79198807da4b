"""Language models that answer at once, from their input alone: for tests, examples and dry runs."""

from collections.abc import Callable, Sequence
from typing import Any

from pydantic import PrivateAttr

from asyncdistil.models.llms.base import LLM, AsyncLLM
from asyncdistil.models.typing import FormattedInput, GenerateOutput

Reply = str | None | Sequence[str | None] | Callable[[str], str | None]
"""What a fake answers: a text, one text per generation in turn, or a function of the last message.

``None`` is a reply that did not come; a function that raises is a request that failed.
"""


def last_message(formatted: FormattedInput) -> str:
    """Text of the last message of an input; empty for an empty conversation."""
    messages = formatted[0] if isinstance(formatted, tuple) else formatted
    if isinstance(messages, str):
        return messages
    if not messages:
        return ""
    content = messages[-1].get("content") or ""
    if isinstance(content, str):
        return content
    return "\n".join(part["text"] for part in content if part["type"] == "text")


def _answer(reply: Reply, formatted: FormattedInput, num_generations: int) -> GenerateOutput:
    asked = last_message(formatted)
    if callable(reply):
        texts = [reply(asked) for _ in range(num_generations)]
    elif reply is None or isinstance(reply, str):
        texts = [reply] * num_generations
    else:
        texts = [reply[number % len(reply)] for number in range(num_generations)]
    return {
        "generations": texts,
        "statistics": {
            "input_tokens": [len(asked.split())] * num_generations,
            "output_tokens": [len((text or "").split()) for text in texts],
        },
    }


class EchoLLM(AsyncLLM):
    """Answers with the last message that it gets.

    Example:
        >>> llm = EchoLLM()
        >>> llm.load()
        >>> llm.generate_outputs([[{"role": "user", "content": "Hello there!"}]])[0]["generations"]
        ['Hello there!']
    """

    @property
    def model_name(self) -> str:
        """``echo``."""
        return "echo"

    async def agenerate(
        self, input: FormattedInput, num_generations: int = 1, **kwargs: Any
    ) -> GenerateOutput:
        """Repeat the last message, once per generation."""
        return _answer(last_message(input), input, num_generations)


class FakeLLM(AsyncLLM):
    """Answers what it is told to, and remembers what it was asked.

    Attributes:
        reply: What to answer, see `Reply`.
        structured_output: As real models have it; it changes nothing here.

    Example:
        >>> llm = FakeLLM(reply=lambda asked: f"You said {asked!r}.")
        >>> llm.load()
        >>> llm.generate_outputs([[{"role": "user", "content": "no"}]])[0]["generations"]
        ["You said 'no'."]
        >>> llm.asked
        [[{'role': 'user', 'content': 'no'}]]
    """

    reply: Any = ""
    structured_output: Any = None

    _asked: list[FormattedInput] = PrivateAttr(default_factory=list)

    @property
    def model_name(self) -> str:
        """``fake``."""
        return "fake"

    @property
    def asked(self) -> list[FormattedInput]:
        """Every input so far, in the order in which they came."""
        return self._asked

    async def agenerate(
        self, input: FormattedInput, num_generations: int = 1, **kwargs: Any
    ) -> GenerateOutput:
        """Answer as told."""
        self._asked.append(input)
        return _answer(self.reply, input, num_generations)


class FakeBatchLLM(LLM):
    """As `FakeLLM`, but takes whole batches, as models that run in the process do.

    Attributes:
        reply: What to answer, see `Reply`.
    """

    reply: Any = ""

    _batches: list[list[FormattedInput]] = PrivateAttr(default_factory=list)

    @property
    def model_name(self) -> str:
        """``fake-batch``."""
        return "fake-batch"

    @property
    def batches(self) -> list[list[FormattedInput]]:
        """Every call so far: the inputs that it got."""
        return self._batches

    def generate(
        self, inputs: list[FormattedInput], num_generations: int = 1, **kwargs: Any
    ) -> list[GenerateOutput]:
        """Answer as told."""
        self._batches.append(list(inputs))
        return [_answer(self.reply, item, num_generations) for item in inputs]
