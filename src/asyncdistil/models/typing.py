"""The shapes that go into a model and come out of it. Names follow distilabel."""

from __future__ import annotations

from typing import Any, Literal, NotRequired, TypeAlias

from typing_extensions import TypedDict

from asyncdistil.batch import Failure


class ImageUrl(TypedDict):
    """Where an image is: an http(s) URL, or a ``data:`` URL that holds it."""

    url: str


class ImageContent(TypedDict):
    """The image part of a message."""

    type: Literal["image_url"]
    image_url: ImageUrl


class TextContent(TypedDict):
    """The text part of a message."""

    type: Literal["text"]
    text: str


class ChatItem(TypedDict, total=False):
    """One message of a conversation."""

    role: str
    content: str | list[TextContent | ImageContent] | None
    name: str
    tool_calls: list[dict[str, Any]]
    tool_call_id: str


ChatType: TypeAlias = list[ChatItem]
"""A conversation, oldest message first."""


class StructuredOutputType(TypedDict, total=False):
    """What an answer must look like.

    Attributes:
        format: ``json`` (the default where a schema is given) or ``regex``.
        schema: A pydantic class, a msgspec struct, a JSON schema as dict or text; for ``regex``
            the pattern.
        whitespace_pattern: For local engines: what may stand between JSON tokens.
        mode: Accepted from instructor's vocabulary and ignored: providers are asked natively.
        max_retries: Turns in which the model is shown what is wrong and asked again.
    """

    format: Literal["json", "regex"] | None
    schema: Any
    whitespace_pattern: str | list[str] | None
    mode: str | None
    max_retries: int


OutlinesStructuredOutputType: TypeAlias = StructuredOutputType
InstructorStructuredOutputType: TypeAlias = StructuredOutputType

StandardInput: TypeAlias = ChatType
StructuredInput: TypeAlias = tuple[StandardInput, StructuredOutputType | None]
"""A conversation and the structure asked for in *this* row; it wins over the model's own."""
FormattedInput: TypeAlias = StandardInput | StructuredInput | str
"""What a task hands to a model; a string is a prompt for a model that completes text."""

LLMOutput: TypeAlias = list[str | None]
"""One text per generation, ``None`` where it failed."""


Sample: TypeAlias = tuple[bytes, int]
"""Digest of the key of a request, and number of an answer in its pool."""


class Logprob(TypedDict):
    """How likely one token was."""

    token: str
    logprob: float


LLMLogprobs: TypeAlias = list[list[list[Logprob]]]
"""Per generation, per position, the candidates."""

LLMStatistics: TypeAlias = dict[str, list[Any]]
"""``input_tokens``, ``output_tokens`` and more; one value per generation."""


class GenerateOutput(TypedDict):
    """The answer of a model to one input.

    Attributes:
        generations: One text per generation, ``None`` where it failed.
        statistics: Lists with one value per generation; may be empty.
        logprobs: Present if they were asked for.
        failures: Present if anything failed: per generation why, or ``None`` for a good one.
        samples: Present if it took any from the memo's pools: which, per generation.
    """

    generations: LLMOutput
    statistics: LLMStatistics
    logprobs: NotRequired[LLMLogprobs]
    failures: NotRequired[list[Failure | None]]
    samples: NotRequired[list[tuple[Sample, ...]]]


HiddenState: TypeAlias = Any
"""A numpy array of the last hidden states of one input."""
