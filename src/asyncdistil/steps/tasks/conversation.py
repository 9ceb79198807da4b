"""Tasks that talk with the model: they ask several times for one answer.

A task writes ``conversation``, which says things through a `Talk` and returns the columns of one
answer. `Talk` remembers the replies, so that what was paid for is in the metadata even if a later
reply fails.
"""

from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from asyncdistil.batch import Failure, Row
from asyncdistil.errors import ModelReplyError
from asyncdistil.models.output import FATAL
from asyncdistil.models.typing import ChatType, FormattedInput, GenerateOutput
from asyncdistil.steps.metadata import METADATA_COLUMN
from asyncdistil.steps.rows import Entry
from asyncdistil.steps.tasks.base import Answer, BaseTask
from asyncdistil.steps.tasks.dialogue import Ask, Dialogue, together
from asyncdistil.steps.tasks.metadata import merged, summed


class ReplyFailed(ModelReplyError):
    """A model call of a conversation failed, for a reason that is recorded already.

    Attributes:
        failure: The record.
    """

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


class Talk:
    """What was said for one answer.

    Args:
        prepare: Makes what is sent out of messages: a schema may go along.

    Attributes:
        replies: Phase and reply of every call, in order.
    """

    def __init__(self, prepare: Callable[[FormattedInput], FormattedInput]) -> None:
        self._prepare = prepare
        self.replies: list[tuple[str, GenerateOutput]] = []

    def say(self, messages: ChatType, phase: str = "") -> Dialogue[str]:
        """Send messages and return the text of the reply; write ``yield from`` before the call.

        Args:
            messages: The whole conversation so far.
            phase: Part of the work that the call belongs to, for the statistics.

        Raises:
            ReplyFailed: The call failed, or the reply is empty.
        """
        [text] = yield from self.say_all([messages], phase)
        return text

    def say_all(self, conversations: Sequence[ChatType], phase: str = "") -> Dialogue[list[str]]:
        """Send several conversations at the same time and return the texts of the replies.

        Raises:
            ReplyFailed: One of them failed.
        """
        found: list[GenerateOutput] = yield Ask(tuple(map(self._prepare, conversations)))
        self.replies += [(phase, reply) for reply in found]
        return [_text_of(reply) for reply in found]

    @property
    def raw(self) -> list[str | None]:
        """Texts of all replies, in order."""
        return [reply["generations"][0] for _, reply in self.replies if reply["generations"]]

    def statistics(self, name: str) -> dict[str, Any]:
        """Statistics by phase, as ``statistics_<phase>_<task>``: a list with one item per call."""
        phases = dict.fromkeys(phase for phase, _ in self.replies)
        keys = {phase: "_".join(filter(None, ("statistics", phase, name))) for phase in phases}
        found = {
            keys[phase]: summed([reply for other, reply in self.replies if other == phase])
            for phase in phases
        }
        return {key: statistics for key, statistics in found.items() if statistics}


class Conversing(BaseTask):
    """What tasks share that ask more than once per answer."""

    @abstractmethod
    def conversation(self, row: Row, talk: Talk, number: int) -> Dialogue[Row]:
        """Ask as often as it takes for one answer.

        Args:
            row: Input row in the task's column names; empty in a generator.
            talk: What to ask through.
            number: Which answer to the row this is, or which row of a generator; from 0.

        Returns:
            The columns of the answer. What is raised fails this answer only.
        """

    def answer(self, row: Row, number: int) -> Dialogue[Answer]:
        """Hold the conversation for one answer; a failed one has null columns."""
        talk = Talk(self.asked)
        failure: Failure | None = None
        try:
            columns = yield from self.conversation(row, talk, number)
        except FATAL:
            raise
        except ReplyFailed as error:
            columns, failure = self.null_columns(), error.failure
        except Exception as error:
            last = next((text for text in reversed(talk.raw) if text), None)
            columns, failure = self.null_columns(), self.describe(error, last)
        metadata = merged(row.get(METADATA_COLUMN)) | talk.statistics(self.name)
        if self.add_raw_output:
            metadata[f"raw_output_{self.name}"] = talk.raw
        return Answer(columns | ({METADATA_COLUMN: metadata} if metadata else {}), failure)

    def dialogue(self, row: Row) -> Dialogue[Entry]:
        """Hold a conversation per answer wanted, side by side."""
        numbers = range(self.num_generations)
        answers = yield from together([self.answer(row, number) for number in numbers])
        return self.entry(row, answers)

    def made_rows(self, numbers: Iterable[int]) -> list[Row]:
        """Rows of a generator, by their ordinals.

        A row that fails is null and says why in its metadata.

        Raises:
            ModelReplyError: All of them failed: going on would only cost more.
        """
        answers = self.hold([self.answer({}, number) for number in numbers])
        failures = [answer.failure for answer in answers if answer.failure is not None]
        if failures and len(failures) == len(answers):
            raise ModelReplyError(
                f"generator {self.name!r} made none of {len(answers)} rows; the first failed with "
                f"{failures[0].kind}: {failures[0].message}"
            )
        return [self.noted(answer) | {"model_name": self.llm.model_name} for answer in answers]


def _text_of(reply: GenerateOutput) -> str:
    text = reply["generations"][0] if reply["generations"] else None
    failures = reply.get("failures") or []
    if failures and failures[0] is not None:
        raise ReplyFailed(failures[0])
    if text is None or not text.strip():
        raise ReplyFailed(Failure("no_reply", "the model gave no text"))
    return text
