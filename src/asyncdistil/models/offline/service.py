"""What is asked of a provider's batch service, whoever it is."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, ClassVar, Literal, NamedTuple, Protocol, TypeVar

from asyncdistil.errors import ModelError
from asyncdistil.models.offline.records import BatchRecord, LineId
from asyncdistil.models.reply import Reply

T = TypeVar("T")

MAX_OUTPUT_BYTES = 2 << 30
"""Longest file of answers that is read."""

TRANSFER_SECONDS = 900.0
"""For one try of sending or fetching a file."""


class Line(NamedTuple):
    """One request of a batch.

    Attributes:
        id: Its name; what is sent of it is its text.
        path: Route that the request alone would be sent to.
        body: The request, whole.
    """

    id: LineId
    path: str
    body: dict[str, Any]


class Progress(NamedTuple):
    """How far a batch is.

    Attributes:
        state: ``waiting``; ``ended``: there are answers, perhaps not to all lines; ``failed``:
            it was refused as a whole; ``cancelled``: by its owner; ``unknown``: there is none.
        done: Lines that came to an end.
        total: Lines.
        why: What the provider says about the end.
        files: Ids of the files of answers and of errors.
    """

    state: Literal["waiting", "ended", "failed", "cancelled", "unknown"]
    done: int = 0
    total: int = 0
    why: str = ""
    files: tuple[str, ...] = ()


class Result(NamedTuple):
    """What became of a line.

    Attributes:
        id: The line.
        replies: Its answers, costs not filled in.
        error: Why there are none.
        passing: Whether the line may be answered if it is asked again.
    """

    id: LineId
    replies: list[Reply]
    error: ModelError | None = None
    passing: bool = False


class BatchService(Protocol):
    """One account's batches.

    Attributes:
        max_lines: Lines that a batch may have.
        max_bytes: Bytes that its lines may take.
        several_per_line: Whether a line can ask for several answers.
    """

    max_lines: ClassVar[int]
    max_bytes: ClassVar[int]
    several_per_line: ClassVar[bool]

    def encoded(self, line: Line) -> bytes:
        """A line as it is sent."""
        ...

    async def submit(
        self, record: BatchRecord, lines: Sequence[Line], known: frozenset[str]
    ) -> str:
        """Submit the batch of a record and give the provider's id.

        Args:
            record: Of the batch.
            lines: At least one, of one path.
            known: Ids of batches that others are.

        Raises:
            ModelError: It was given up.
        """
        ...

    async def find(self, record: BatchRecord, known: frozenset[str]) -> str:
        """The provider's id of a batch that was intended, empty if it was not sent.

        Args:
            record: Of the batch.
            known: Ids of batches that others are.

        Raises:
            ModelError: It could not be found out.
        """
        ...

    async def look(self, batch_id: str) -> Progress:
        """See how far a batch is.

        Raises:
            ModelError: It could not be found out.
        """
        ...

    async def results(self, progress: Progress) -> list[Result] | None:
        """Fetch what became of the lines of a batch that ended, as far as it is told.

        Returns:
            ``None`` if the provider has thrown the answers away.

        Raises:
            ModelError: They could not be had.
        """
        ...


class Caller(Protocol):
    """Makes tries of a request until one is answered; `RemoteLLM` has one."""

    def __call__(self, send: Callable[[], Awaitable[tuple[T, int]]]) -> Awaitable[T]:
        """Call ``send``, which gives an answer and tokens, or raises `RequestFailed`."""
        ...
