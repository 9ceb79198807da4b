"""A language model that runs in this process: stored answers first, weights only at a miss."""

import threading
from abc import abstractmethod
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
from pydantic import Field, PrivateAttr, field_validator

from asyncdistil.batch import Failure, Usage
from asyncdistil.errors import ModelReplyError
from asyncdistil.memo import Key
from asyncdistil.models import memoized
from asyncdistil.models.llms.base import LLM
from asyncdistil.models.memoized import request_key
from asyncdistil.models.model import fresh_attributes
from asyncdistil.models.output import prepare_output
from asyncdistil.models.parameters import Setting
from asyncdistil.models.reply import ACCEPTED, Outcome, Reply
from asyncdistil.models.structured import Structure, split_input, structure_of
from asyncdistil.models.typing import (
    FormattedInput,
    GenerateOutput,
    StandardInput,
    StructuredOutputType,
)


class Completed(NamedTuple):
    """One answer of a local engine.

    Attributes:
        text: What it wrote.
        input_tokens: Tokens of the prompt.
        output_tokens: Tokens it wrote.
        truncated: Whether it ran into the length limit.
    """

    text: str
    input_tokens: int
    output_tokens: int
    truncated: bool


class _Stored(msgspec.Struct):
    text: str


class _Question(NamedTuple):
    messages: StandardInput | str
    structure: Structure | None
    key: Key
    numbers: tuple[int, ...]


class LocalLLM(LLM):
    """A model that runs in this process.

    `load` reads only what is cheap; the weights follow when an answer is not stored.

    Attributes:
        structured_output: What every answer must look like; an input may bring its own.
        accept: Outcomes that count as an answer, when it comes and when a stored one is found.
        share_duplicates: Whether equal requests may get the same answer; always so if the engine
            does not sample.
        model_identity: Name that stands for the model instead of where its weights lie.
    """

    structured_output: Setting[StructuredOutputType | dict[str, Any]] | None = Field(
        default=None, description="What every answer must look like."
    )
    accept: tuple[Outcome, ...] = ACCEPTED
    share_duplicates: bool = False
    model_identity: str | None = None

    _weights: threading.Lock = PrivateAttr(default_factory=threading.Lock)
    _weights_loaded: bool = PrivateAttr(False)

    @field_validator("structured_output")
    @classmethod
    def _check_structure(cls, value: Any) -> Any:
        structure_of(value)
        return value

    def __getstate__(self) -> dict[Any, Any]:
        """State without weights: a copy in another process loads its own."""
        state = super().__getstate__()
        return {**state, "__pydantic_private__": None}

    def __setstate__(self, state: dict[Any, Any]) -> None:
        """Start afresh: a lock can't be copied, and weights shouldn't be."""
        super().__setstate__(state)
        object.__setattr__(self, "__pydantic_private__", fresh_attributes(type(self)))

    # --- what a subclass writes -----------------------------------------------------------------

    @abstractmethod
    def _load_weights(self) -> None:
        """Load what is expensive."""

    @abstractmethod
    def _complete(
        self,
        prompts: Sequence[StandardInput | str],
        count: int,
        settings: Mapping[str, Any],
        structure: Structure | None,
    ) -> list[list[Completed]]:
        """Write ``count`` answers to each prompt; called with the weights loaded."""

    @abstractmethod
    def _weights_identity(self) -> dict[str, Any]:
        """What tells these weights, and how they are prompted, from others."""

    # --- what it gets ---------------------------------------------------------------------------

    def ensure_weights(self) -> None:
        """Load the weights unless they are."""
        with self._weights:
            if not self._weights_loaded:
                self._load_weights()
                self._weights_loaded = True

    def unload(self) -> None:
        """Forget the weights."""
        self._weights_loaded = False
        super().unload()

    def _answer(
        self,
        inputs: Sequence[FormattedInput],
        count: int,
        settings: Mapping[str, Any],
        *,
        deterministic: bool,
    ) -> list[GenerateOutput]:
        """Answer a batch, from the memo as far as it has the answers."""
        deterministic = deterministic or self.share_duplicates
        store = memoized.current_store()
        questions = self._questions(inputs, count, settings, deterministic, store is not None)
        found: list[dict[int, Reply]] = [{} for _ in questions]
        if store is not None:
            for position, question in enumerate(questions):
                for number in question.numbers:
                    reply = store.get(question.key, number)
                    # What would fail its row is no answer: it is asked for again.
                    if reply is not None and not self._judged(reply, question.structure):
                        found[position][number] = reply
            memoized.book_cached([reply for replies in found for reply in replies.values()])
        self._complete_missing(questions, found, settings)
        return [self._output(q, replies) for q, replies in zip(questions, found, strict=True)]

    def _questions(
        self,
        inputs: Sequence[FormattedInput],
        count: int,
        settings: Mapping[str, Any],
        deterministic: bool,
        stored: bool,
    ) -> list[_Question]:
        wanted: Any = self.structured_output
        parted = [split_input(given, wanted) for given in inputs]
        structures = [structure_of(asked) for _, asked in parted]
        keys = [Key(b"", b"", "")] * len(parted)
        numbers = (tuple(range(count)),) * len(parted)
        if stored:
            identity = self._request_identity()
            keys = [
                request_key(
                    identity,
                    {
                        "messages": messages,
                        "settings": dict(sorted(settings.items())),
                        "structure": None if s is None else [s.format, dict(s.schema), s.pattern],
                    },
                    model=self.model_name,
                )
                for (messages, _), s in zip(parted, structures, strict=True)
            ]
            if not deterministic:
                numbers = memoized.claim_blocking(keys, [count] * len(keys))
        messages = [messages for messages, _ in parted]
        return [
            _Question(*fields) for fields in zip(messages, structures, keys, numbers, strict=True)
        ]

    def _request_identity(self) -> dict[str, Any]:
        if self.model_identity is not None:
            return {"kind": "local", "model_identity": self.model_identity}
        return {"kind": type(self).__name__, **self._weights_identity()}

    def _complete_missing(
        self,
        questions: Sequence[_Question],
        found: Sequence[dict[int, Reply]],
        settings: Mapping[str, Any],
    ) -> None:
        """Ask the engine for what is not stored, as many inputs at a time as are alike."""
        alike: defaultdict[tuple[int, int], list[int]] = defaultdict(list)
        for position, question in enumerate(questions):
            missing = len(question.numbers) - len(found[position])
            if missing:
                alike[missing, id(question.structure)].append(position)
        if not alike:
            return
        self.ensure_weights()
        store = memoized.current_store()
        for (missing, _), positions in alike.items():
            prompts = [questions[position].messages for position in positions]
            structure = questions[positions[0]].structure
            answers = self._complete(prompts, missing, settings, structure)
            for position, completed in zip(positions, answers, strict=True):
                question = questions[position]
                open_numbers = [n for n in question.numbers if n not in found[position]]
                for number, answer in zip(open_numbers, completed, strict=True):
                    reply = _as_reply(answer)
                    found[position][number] = reply
                    if store is not None:
                        store.put(question.key, number, reply)
                memoized.book(
                    Usage(
                        requests=1,
                        input_tokens=completed[0].input_tokens,
                        output_tokens=sum(answer.output_tokens for answer in completed),
                    ),
                    wrote_memo=store is not None,
                )

    def _output(self, question: _Question, found: Mapping[int, Reply]) -> GenerateOutput:
        replies = [found[number] for number in question.numbers]
        texts: list[str | None] = []
        failures: list[Failure | None] = []
        for reply in replies:
            failure = self._judged(reply, question.structure)
            texts.append(None if failure else _text(reply))
            failures.append(failure)
        return prepare_output(
            texts,
            [reply.input_tokens for reply in replies],
            [reply.output_tokens for reply in replies],
            None,
            failures,
        )

    def _judged(self, reply: Reply, structure: Structure | None) -> Failure | None:
        text = _text(reply)
        if reply.outcome not in self.accept:
            message = "the answer was cut off at the length limit: raise it, or accept 'truncated'"
            return Failure(reply.outcome, message, detail=text[: 16 * 1024])
        complaint = structure.complaint(text) if structure is not None else ""
        if not complaint:
            return None
        kind = f"{ModelReplyError.__module__}.{ModelReplyError.__qualname__}"
        return Failure(kind, complaint, detail=text[: 16 * 1024])


def _text(reply: Reply) -> str:
    return msgspec.json.decode(reply.body, type=_Stored).text


def _as_reply(answer: Completed) -> Reply:
    return Reply(
        "truncated" if answer.truncated else "ok",
        msgspec.json.encode(_Stored(answer.text)),
        "",
        answer.input_tokens,
        answer.output_tokens,
    )
