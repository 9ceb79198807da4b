"""Answers that were paid for once: looked up before asking, stored before reading.

A key names a request; under it lies a pool of samples. A use takes a sample that nobody took in
this run, so that two equal rows get two answers; a request declared deterministic shares one, and
equal ones in flight are then sent once.
"""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol

from asyncdistil.batch import Usage
from asyncdistil.codec import canonical_bytes, encode_value
from asyncdistil.errors import ModelError
from asyncdistil.memo import Key, Memo, Replies
from asyncdistil.models.output import FATAL, failure_of
from asyncdistil.models.reply import STAND_IN, Outcome, Reply
from asyncdistil.models.typing import GenerateOutput
from asyncdistil.transport import brokers


class ReplyStore(Protocol):
    """Where replies are kept: `asyncdistil.memo.Replies` of the memo of a cache directory."""

    def get(self, key: Key, sample: int) -> Reply | None:
        """The newest reply stored as this sample, or ``None``."""
        ...

    def put(self, key: Key, sample: int, reply: Reply) -> None:
        """Store a reply; it replaces an earlier one of the same sample."""
        ...


_store: ReplyStore | None = None
_opened: tuple[str, str, ReplyStore] | None = None
_opening = threading.Lock()


def use_store(store: ReplyStore | None) -> None:
    """Keep replies here from now on, in the whole process; ``None`` goes back to the worker's."""
    global _store
    _store = store


def current_store() -> ReplyStore | None:
    """Where replies are kept: what `use_store` named, else the memo that the worker offers."""
    if _store is not None:
        return _store
    around = brokers.current()
    if around is None or not around.memo:
        return None
    global _opened
    with _opening:
        if _opened is None or _opened[:2] != (around.memo, around.run):
            opening = around.open_memo or (lambda: Memo.open(Path(around.memo), run=around.run))
            replies = Replies(opening(), Reply, own_run=around.memo_own_run)
            _opened = (around.memo, around.run, replies)
        return _opened[2]


def request_key(identity: Mapping[str, Any], request: Mapping[str, Any], *, model: str) -> Key:
    """Name a request by the model's identity and all that shapes the answer.

    The order of either's own members means nothing. That of deeper dicts counts: a schema whose
    ``reason`` comes before its ``score`` asks for other answers than the reverse.

    Args:
        identity: What tells this model from others; no secrets.
        request: Messages, tools, schema, sampling parameters, as they are sent.
        model: Readable name, for reports; not part of the key.
    """
    parts = [dict(sorted(identity.items())), dict(sorted(request.items()))]
    preimage = encode_value(["asyncdistil/request/2", *parts])
    return Key.of(preimage, model=model)


class LocalClaims:
    """Sample numbers for code that runs outside a worker: counted in this process."""

    def __init__(self) -> None:
        self._next: Counter[bytes] = Counter()
        self._lock = threading.Lock()

    def claim(self, keys: Sequence[bytes], counts: Sequence[int]) -> tuple[tuple[int, ...], ...]:
        """Numbers not yet taken in this process: ``counts[i]`` of ``keys[i]``."""
        with self._lock:
            taken: list[tuple[int, ...]] = []
            for key, count in zip(keys, counts, strict=True):
                first = self._next[key]
                self._next[key] = first + count
                taken.append(tuple(range(first, first + count)))
            return tuple(taken)


_local_claims = LocalClaims()


async def claim(key: Key, count: int) -> tuple[int, ...]:
    """Take samples nobody took in this run, and book them for the commit in hand."""
    ledger = brokers.LEDGER.get()
    around = brokers.current()
    if around is None:
        (numbers,) = _local_claims.claim([key.digest], [count])
    else:
        lease = ledger.lease if ledger is not None else 0
        (numbers,) = await around.claims.aclaim([key.digest], [count], lease=lease)
    if ledger is not None:
        ledger.take(key.digest, numbers)
    return numbers


def claim_blocking(keys: Sequence[Key], counts: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    """As `claim`, for several keys, on a thread without a loop."""
    digests = [key.digest for key in keys]
    ledger = brokers.LEDGER.get()
    around = brokers.current()
    if around is None:
        numbers = _local_claims.claim(digests, counts)
    else:
        lease = ledger.lease if ledger is not None else 0
        numbers = around.claims.claim(digests, counts, lease=lease)
    if ledger is not None:
        for digest, taken in zip(digests, numbers, strict=True):
            ledger.take(digest, taken)
    return numbers


def give_back(output: GenerateOutput, good: Sequence[bool]) -> None:
    """Let a row that failed have its good answers again when it is tried again.

    Args:
        output: What the model said; says which samples it took, if it took any.
        good: Per generation whether it can be used.
    """
    ledger = brokers.LEDGER.get()
    samples = output.get("samples") or []
    if ledger is not None and len(samples) == len(good):
        for taken, is_good in zip(samples, good, strict=True):
            if is_good:
                ledger.give_back(taken)


def book(usage: Usage, *, wrote_memo: bool = False) -> None:
    """Put usage on the account of the work in hand, if there is one."""
    ledger = brokers.LEDGER.get()
    if ledger is not None:
        ledger.add_usage(usage)
        ledger.wrote_memo = ledger.wrote_memo or wrote_memo


def _note_served(key: Key, samples: Collection[int]) -> None:
    """Have the commit in hand name answers that no `claim` of this run names.

    What a run was served is kept as long as the run, and goes with it to another machine.
    """
    ledger = brokers.LEDGER.get()
    if ledger is not None and samples:
        ledger.take(key.digest, sorted(samples))


def book_cached(replies: Sequence[Reply]) -> None:
    """Account for answers that cost nothing now."""
    if replies:
        cost = sum(reply.cost_microusd for reply in replies)
        book(Usage(cached=len(replies), cached_cost_microusd=cost))


Fetch = Callable[[int], Awaitable[list[Reply]]]
"""Asks the service for so many samples; raises `ModelError` if it gets none."""


@dataclass
class _Flight:
    """A request in flight that several wait for."""

    task: asyncio.Task[dict[int, Reply]]
    waiting: int = 0


@dataclass
class Memoized:
    """Puts the store in front of one model.

    Attributes:
        reported: Name of the stand-in that answered in place of the service, empty if none did.
            Its answers are kept apart, so that a rehearsal can't poison production.
    """

    reported: str = ""
    _flights: dict[tuple[asyncio.AbstractEventLoop, Key, tuple[int, ...]], _Flight] = field(
        default_factory=dict
    )
    _probe: asyncio.Task[None] | None = None

    needs_key: ClassVar[bool] = False
    """Whether every request must be named, also where nothing is kept or shared."""

    async def probe(self, ask: Callable[[], Awaitable[str]]) -> None:
        """Find out once whether a stand-in answers, so that its earlier answers are found again.

        Args:
            ask: Asks the server for its name.
        """
        if self._probe is None:
            self._probe = asyncio.ensure_future(self._learn_name(ask))
        if not self._probe.done() and self._probe.get_loop() is asyncio.get_running_loop():
            # Who stops waiting must not end it for the others.
            await asyncio.wait([self._probe])

    async def _learn_name(self, ask: Callable[[], Awaitable[str]]) -> None:
        self.hear(await ask())

    def hear(self, name: str) -> None:
        """Note how a server calls itself."""
        if name.startswith(STAND_IN):
            self.reported = name

    def worth_keeping(self, reply: Reply) -> bool:
        """Whether to store a reply: a request that got none leaves nothing to keep."""
        return bool(reply.body)

    def home(self, key: Key) -> Key:
        """Where answers to a request lie: under its key, or under one of the stand-in's own."""
        return self._place(key, self.reported)

    async def samples(
        self,
        key: Key,
        count: int,
        fetch: Fetch,
        *,
        deterministic: bool,
        accept: Collection[Outcome],
        request: Any = None,
        fits: Callable[[Reply], bool] = lambda reply: True,
        several: bool = True,
    ) -> dict[int, Reply]:
        """Get samples of a request, from the store as far as it has them.

        Args:
            key: See `request_key`.
            count: Samples wanted.
            fetch: Called for what is missing.
            deterministic: Whether equal requests share one answer.
            request: What ``fetch`` would send, for a subclass that sends it another way.
            accept: Stored outcomes that count as an answer; others are asked for again.
            fits: Says of a stored reply of these outcomes whether it can be used; if it can't, it
                is asked for again.
            several: Whether one request can ask for several samples; if it can't, as many requests
                are made at once, and one that fails costs no other.

        Returns:
            At most ``count`` replies under their numbers, ascending: fewer if the service gives
            none at all.

        Raises:
            ModelError: Of the classes that stop a run.
        """
        store = current_store()
        if store is None:
            wanted = tuple(range(count))
            asking = self._shared if deterministic else self._asked
            replies = await asking(key, wanted, fetch, None, several)
            return {number: replies[number] for number in wanted if number in replies}
        numbers = tuple(range(count)) if deterministic else await claim(key, count)
        found = self._look_up(store, key, numbers, accept, fits)
        if deterministic or self.home(key) != key:
            _note_served(self.home(key), found)
        missing = tuple(number for number in numbers if number not in found)
        if missing:
            asking = self._shared if deterministic else self._asked
            found.update(await asking(key, missing, fetch, store, several))
        return {number: found[number] for number in numbers if number in found}

    def _look_up(
        self,
        store: ReplyStore,
        key: Key,
        numbers: Sequence[int],
        accept: Collection[Outcome],
        fits: Callable[[Reply], bool],
    ) -> dict[int, Reply]:
        where = self.home(key)
        found: dict[int, Reply] = {}
        for number in numbers:
            reply = store.get(where, number)
            if reply is not None and reply.outcome in accept and fits(reply):
                found[number] = reply
        book_cached(list(found.values()))
        return found

    @staticmethod
    def _place(key: Key, reported: str) -> Key:
        """Where samples lie: under the request's key, or under one of the stand-in's own."""
        if not reported.startswith(STAND_IN):
            return key
        preimage = canonical_bytes("asyncdistil/stand-in/1", [key.preimage, reported])
        return Key.of(preimage, model=reported)

    async def _ask(self, fetch: Fetch, count: int) -> list[Reply]:
        try:
            return await fetch(count)
        except FATAL:
            raise
        except ModelError as error:
            return [failed_reply(error)] * count

    async def _asked(
        self,
        key: Key,
        numbers: tuple[int, ...],
        fetch: Fetch,
        store: ReplyStore | None,
        several: bool,
    ) -> dict[int, Reply]:
        """Ask for samples, and keep each as soon as it is there: what comes later may fail."""
        if len(numbers) > 1 and not several:
            parts = await asyncio.gather(
                *(self._asked(key, (number,), fetch, store, True) for number in numbers)
            )
            return {number: reply for part in parts for number, reply in part.items()}
        replies: dict[int, Reply] = {}
        while left := numbers[len(replies) :]:
            # Some services give one answer, however many are asked for.
            fresh = dict(zip(left, await self._ask(fetch, len(left)), strict=False))
            for number, reply in fresh.items():
                if store is None:
                    break
                self.hear(reply.reported)
                if self.worth_keeping(reply):
                    store.put(self.home(key), number, reply)
            replies.update(fresh)
            if not fresh:
                break
        if store is not None:
            book(Usage(), wrote_memo=True)
        return replies

    async def _shared(
        self,
        key: Key,
        numbers: tuple[int, ...],
        fetch: Fetch,
        store: ReplyStore | None,
        several: bool,
    ) -> dict[int, Reply]:
        """Join an equal request in flight, or start it; it ends when nobody waits any more."""
        name = (asyncio.get_running_loop(), key, numbers)
        flight = self._flights.get(name)
        joined = flight is not None
        if flight is None:
            asking = self._asked(key, numbers, fetch, store, several)
            flight = _Flight(asyncio.ensure_future(asking))
            self._flights[name] = flight
            flight.task.add_done_callback(lambda _: self._flights.pop(name, None))
        flight.waiting += 1
        try:
            replies = await asyncio.shield(flight.task)
        finally:
            flight.waiting -= 1
            if not flight.waiting and not flight.task.done():
                self._flights.pop(name, None)
                flight.task.cancel()
        if joined:
            book_cached(list(replies.values()))
            if store is not None:
                book(Usage(), wrote_memo=True)
        return replies


class NotStored(Exception):
    """The store has no answer, and nobody is asked."""


class StoredOnly(Memoized):
    """Answers from the store alone: to find out what would have to be asked."""

    async def probe(self, ask: Callable[[], Awaitable[str]]) -> None:
        """Ask nobody: answers of a stand-in stay unknown."""

    async def _ask(self, fetch: Fetch, count: int) -> list[Reply]:
        raise NotStored


def failed_reply(error: ModelError) -> Reply:
    """Keep an error as a reply; its body is what the service said, empty if it said nothing."""
    failure = failure_of(error, detail=error.detail or " ")
    return Reply(
        outcome="failed",
        body=error.detail.encode("utf-8", "replace"),
        kind=failure.kind,
        message=failure.message,
        attempts=error.attempts,
    )
