"""A language model behind a network service: memo, permits, retries, accounts, structure.

A subclass says how a request is sent (`_send`) and how one stored reply is read (`_read`).
"""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from msgspec import structs
from pydantic import Field, PrivateAttr, field_validator

from asyncdistil.batch import Failure, Usage
from asyncdistil.errors import ModelReplyError
from asyncdistil.memo import Key
from asyncdistil.models import memoized
from asyncdistil.models.llms.base import AsyncLLM
from asyncdistil.models.memoized import StoredOnly, request_key
from asyncdistil.models.output import prepare_output
from asyncdistil.models.parameters import Setting
from asyncdistil.models.pricing import Price
from asyncdistil.models.reply import ACCEPTED, Outcome, Reply, token_count
from asyncdistil.models.retry import RequestFailed, unreadable
from asyncdistil.models.service import Service
from asyncdistil.models.structured import Structure, split_input, structure_of
from asyncdistil.models.typing import (
    FormattedInput,
    GenerateOutput,
    Logprob,
    Sample,
    StandardInput,
    StructuredOutputType,
)

_NO_KEY = Key(b"", b"", "")


@dataclass(frozen=True)
class Request:
    """One question to a service.

    Attributes:
        path: Route below the service's URL; empty where an SDK knows it.
        body: Everything that shapes the answer, as the service wants it; not how many answers,
            nor how they travel.
        structure: What the answer must look like.
        unkeyed: Further fields to send that can't change the answer.
    """

    path: str
    body: Mapping[str, Any]
    structure: Structure | None = None
    unkeyed: Mapping[str, Any] = field(default_factory=dict)


class Reading(NamedTuple):
    """What stands in a reply: the text, ``None`` if there is none, and log probabilities."""

    text: str | None
    logprobs: list[list[Logprob]] | None = None


class _Drawn(NamedTuple):
    """A reply, and the samples that were claimed for it."""

    reply: Reply
    samples: tuple[Sample, ...]


class RemoteLLM(Service, AsyncLLM):
    """A language model behind a network service.

    Attributes:
        structured_output: What every answer must look like; an input may bring its own.
        accept: Outcomes that count as an answer, when it comes and when a stored one is found.
        share_duplicates: Whether equal requests may get the same answer; always so at
            temperature 0.
    """

    structured_output: Setting[StructuredOutputType | dict[str, Any]] | None = Field(
        default=None, description="What every answer must look like."
    )
    accept: tuple[Outcome, ...] = ACCEPTED
    share_duplicates: bool = False

    # Whether one request can ask for several answers.
    _several_per_request: bool = PrivateAttr(default=False)

    @field_validator("structured_output")
    @classmethod
    def _check_structure(cls, value: Any) -> Any:
        structure_of(value)
        return value

    def stored_only(self) -> "RemoteLLM":
        """A copy that answers from the memo alone; what is not there raises `NotStored`."""
        twin = self.model_copy()
        # Not connected either, so that whatever goes another way can't be sent.
        twin._client = twin._endpoint = None
        twin._memoized = StoredOnly()
        return twin

    # --- what a subclass writes -----------------------------------------------------------------

    @abstractmethod
    async def _send(self, request: Request, count: int) -> list[Reply]:
        """Make one try.

        Args:
            request: What to ask.
            count: Answers wanted; 1 unless ``_several_per_request``.

        Returns:
            One reply per answer that came, tokens filled in, cost not.

        Raises:
            RequestFailed: With what went wrong.
        """

    @abstractmethod
    def _read(self, reply: Reply) -> Reading:
        """Read one reply, fresh or stored.

        Raises:
            ModelReplyError: It can't be understood.
        """

    # --- what it gets ---------------------------------------------------------------------------

    def _split(self, given: FormattedInput) -> tuple[StandardInput | str, Structure | None]:
        """Part an input into conversation and structure."""
        wanted: Any = self.structured_output
        messages, asked = split_input(given, wanted)
        return messages, structure_of(asked)

    async def _answer(
        self, request: Request, num_generations: int, *, temperature: float | None = None
    ) -> GenerateOutput:
        """Get answers to a request, from the memo as far as it has them, and read them."""
        structure = request.structure
        left = structure.repairs if structure else 0
        drawn = await self._replies(request, num_generations, temperature, turns_left=left)
        texts: list[str | None] = []
        failures: list[Failure | None] = []
        logprobs: list[Any] = []
        samples: list[tuple[Sample, ...]] = []
        for one in drawn:
            reading, failure, taken = await self._settle(request, one, temperature)
            texts.append(None if failure else reading.text)
            failures.append(failure)
            logprobs.append(reading.logprobs)
            samples.append(taken)
        output = prepare_output(
            texts,
            [one.reply.input_tokens for one in drawn],
            [one.reply.output_tokens for one in drawn],
            logprobs if any(logprobs) else None,
            failures,
        )
        if any(samples):
            output["samples"] = samples
        return output

    async def _replies(
        self, request: Request, count: int, temperature: float | None, *, turns_left: int
    ) -> list[_Drawn]:
        """Get samples of a request; a stored one that would fail its row is asked for again.

        Args:
            request: What to ask.
            count: Samples wanted.
            temperature: 0 lets equal requests share one answer.
            turns_left: How often a reply of the wrong structure may still be sent back.
        """

        def fits(reply: Reply) -> bool:
            repairable = turns_left and reply.outcome == "ok"
            return bool(repairable) or not self._complaint(request.structure, reply)

        shared = self.share_duplicates or temperature == 0
        stored = memoized.current_store() is not None
        await self._learn_who_answers()
        needs_key = shared or stored or self._memoized.needs_key
        key = _NO_KEY
        if needs_key:
            key = request_key(
                self._request_identity(),
                {"path": request.path, **request.body},
                model=f"{self.provider}:{self.model_name}",
            )

        async def fetch(wanted: int) -> list[Reply]:
            return await self._fetch(request, wanted)

        replies = await self._memoized.samples(
            key,
            count,
            fetch,
            deterministic=shared,
            accept=self.accept,
            request=request,
            fits=fits,
            several=self._several_per_request,
        )
        claimed = stored and not shared
        return [
            _Drawn(reply, ((key.digest, number),) if claimed else ())
            for number, reply in replies.items()
        ]

    def _complaint(self, structure: Structure | None, reply: Reply) -> str:
        """What is wrong with the structure of a reply; empty if nothing is."""
        if structure is None:
            return ""
        try:
            return structure.complaint(self._read(reply).text or "")
        except ModelReplyError as error:
            return str(error)

    async def _fetch(self, request: Request, count: int) -> list[Reply]:
        """Send, and put what it cost on the account."""

        async def send() -> tuple[list[Reply], int]:
            try:
                replies = [_counted(reply) for reply in await self._send(request, count)]
            except ModelReplyError as error:
                raise RequestFailed(unreadable(str(error), detail=error.detail)) from None
            except RecursionError:
                raise RequestFailed(
                    unreadable(f"{self.model_name!r} sent a reply that is nested too deep")
                ) from None
            prompt = replies[0].input_tokens if replies else 0
            return replies, prompt + sum(reply.output_tokens for reply in replies)

        replies = self._priced(await self._call(send), request)
        memoized.book(
            Usage(
                requests=1,
                input_tokens=replies[0].input_tokens if replies else 0,
                output_tokens=sum(reply.output_tokens for reply in replies),
                cost_microusd=sum(reply.cost_microusd for reply in replies),
            )
        )
        return replies

    def _priced(
        self, replies: Sequence[Reply], request: Request, *, share: float = 1.0
    ) -> list[Reply]:
        """Add costs; several answers to one request share one prompt, the first one pays it.

        Args:
            replies: Of one request.
            request: What was asked.
            share: Of the list price that is paid; a price of the user's own is paid whole.
        """
        price = self._price(str(request.body.get("model", "")))
        if self.price is None:
            price = Price(price.prompt * share, price.completion * share)
        return [
            _with_cost(
                reply,
                price.cost_microusd(0 if position else reply.input_tokens, reply.output_tokens),
            )
            for position, reply in enumerate(replies)
        ]

    async def _settle(
        self, request: Request, drawn: _Drawn, temperature: float | None
    ) -> tuple[Reading, Failure | None, tuple[Sample, ...]]:
        """Read a reply; if its structure is wrong and turns are left, ask again.

        Returns:
            What stands in it, why it is no answer, and the samples that it took in all turns.
        """
        reply, taken = drawn
        structure = request.structure
        repairs = structure.repairs if structure else 0
        for turn in range(repairs + 1):
            if (failure := self._judged(reply)) is not None:
                return Reading(None), failure, taken
            reading = self._read(reply)
            complaint = structure.complaint(reading.text or "") if structure else ""
            if structure is None or not complaint:
                return reading, None, taken
            if turn == repairs or reply.outcome != "ok":
                break  # an answer cut off at the limit would be cut off again
            if "messages" not in request.body:
                break  # raw text is no conversation that could go on
            request = self._repaired(request, structure, reading.text or "", complaint)
            left = repairs - turn - 1
            again = await self._replies(request, 1, temperature, turns_left=left)
            if not again:
                break
            reply, more = again[0]
            taken += more
        cut = "the answer was cut off at the length limit, and " if reply.outcome != "ok" else ""
        failure = Failure(
            kind="asyncdistil.errors.ModelReplyError",
            message=f"{cut}{complaint}",
            attempts=turn + 1,
            detail=reading.text or "",
        )
        return reading, failure, taken

    def _repaired(
        self, request: Request, structure: Structure, answer: str, complaint: str
    ) -> Request:
        """The request that shows the model what is wrong; for services with ``messages``."""
        messages = structure.repair(list(request.body["messages"]), answer, complaint)
        return replace(request, body={**request.body, "messages": messages})

    def _judged(self, reply: Reply) -> Failure | None:
        """Say why a reply is no answer, by `accept`."""
        detail = reply.body.decode("utf-8", "replace")[: 16 * 1024]
        if reply.outcome == "failed":
            return Failure(reply.kind, reply.message, reply.attempts, detail)
        if reply.outcome in self.accept:
            return None
        return Failure(reply.outcome, _MESSAGES[reply.outcome], reply.attempts, detail)


_MESSAGES: dict[str, str] = {
    "ok": "a whole answer came, and `accept` does not list 'ok'",
    "truncated": "the answer was cut off at the length limit: raise it, or accept 'truncated'",
    "refused": "the service or the model declined to answer; `accept` does not list 'refused'",
    "empty": "the reply holds no text",
}


def _counted(reply: Reply) -> Reply:
    """A reply whose counts of tokens can be counted with, whatever the service wrote."""
    counts = token_count(reply.input_tokens), token_count(reply.output_tokens)
    if counts == (reply.input_tokens, reply.output_tokens):
        return reply
    return structs.replace(reply, input_tokens=counts[0], output_tokens=counts[1])


def _with_cost(reply: Reply, cost_microusd: int) -> Reply:
    if not cost_microusd:
        return reply
    return Reply(
        reply.outcome,
        reply.body,
        reply.reported,
        reply.input_tokens,
        reply.output_tokens,
        cost_microusd,
    )
