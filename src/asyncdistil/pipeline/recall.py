"""How many requests of a step the memo would answer: the step asks a model that sends nothing.

Prompts and texts are made here, by the step itself, and looked up as a worker would look them up,
of language models behind a network and of embedding models that keep their vectors. Others keep
no memo, and must not be loaded for a forecast.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from asyncdistil.batch import Row, RowSlice
from asyncdistil.errors import LogError
from asyncdistil.memo import Key, Memo, Replies
from asyncdistil.models import memoized
from asyncdistil.models.reply import Reply
from asyncdistil.steps.base import BaseStep
from asyncdistil.steps.rows import Entry, has_failed
from asyncdistil.steps.step import Step
from asyncdistil.supervisor.chunk import Chunk
from asyncdistil.supervisor.claims import Claims
from asyncdistil.transport import brokers
from asyncdistil.transport.messages import Claim

MOST_ROWS = 20_000
"""Rows that are looked up, about 0.1 ms each; what lies beyond counts as not in the memo."""


class Recalled(NamedTuple):
    """What the memo knows.

    Attributes:
        rows: Rows that it answers wholly.
        answers: Requests that it answers for them.
    """

    rows: int
    answers: int


NOTHING = Recalled(0, 0)


def recall(
    step: BaseStep,
    missing: Sequence[Chunk],
    memo_dir: Path,
    rows_of: Callable[[RowSlice], list[Row]],
    claims: Claims,
) -> Recalled:
    """Ask the memo about rows that a task would be given.

    Args:
        step: The run's own copy.
        missing: What waits for the step.
        memo_dir: Where answers are kept.
        rows_of: Reads rows.
        claims: Samples that replayed work has taken; more are taken.

    Raises:
        LogError: Rows or memo can't be read.
    """
    if not missing or not isinstance(step, Step):
        return NOTHING
    field, model = "llm", stored_only_model(step, "llm") if step.asynchronous else None
    if model is None:
        field, model = "embeddings", stored_only_model(step, "embeddings")
    memo = Memo.peek(memo_dir) if model is not None else None
    if memo is None:
        return NOTHING
    twin = step.model_copy(update={field: model})
    store = _Counting(Replies(memo, Reply))
    with closing(memo), _offered(store, claims), ThreadPoolExecutor(1) as thread:
        # In a thread of its own, because the caller may have a loop, as notebooks do.
        return thread.submit(asyncio.run, _asked(twin, _rows(missing, rows_of), store)).result()


def stored_only_model(step: BaseStep, field: str) -> Any:
    """A model that answers from the memo alone, in place of the one in a field of a step.

    Returns:
        ``None`` if there is no model, or it can't do without being asked.
    """
    stored_only = getattr(getattr(step, field, None), "stored_only", None)
    return None if stored_only is None else stored_only()


def _rows(missing: Sequence[Chunk], rows_of: Callable[[RowSlice], list[Row]]) -> Iterator[Row]:
    left = MOST_ROWS
    for chunk in missing:
        for part in chunk.ports[0]:
            for row in rows_of(part):
                if not left:
                    return
                left -= 1
                yield row


async def _asked(task: Step, rows: Iterator[Row], store: _Counting) -> Recalled:
    whole, answers = 0, 0
    for row in rows:
        store.hits = 0
        store.misses = 0
        try:
            entry = await _entry(task, row)
        except LogError:
            raise
        except Exception:
            # The task was not loaded and may need it; the run will say what is wrong, if anything.
            continue
        # A row that failed of itself was not answered either, as far as anybody can tell.
        if store.hits and not store.misses and not has_failed(entry):
            whole += 1
            answers += store.hits
    return Recalled(whole, answers)


async def _entry(task: Step, row: Row) -> Entry:
    if task.asynchronous:
        return await task.aapply(row)
    # Here an event loop waits for code that does not: it waits for nobody, for nobody is asked.
    [entry] = [entry for entries in task.apply([row]) for entry in entries]
    return entry


class _Counting:
    """A store that counts what it has and takes nothing in."""

    def __init__(self, replies: Replies[Reply]) -> None:
        self.hits = 0
        self.misses = 0
        self._replies = replies

    def get(self, key: Key, sample: int) -> Reply | None:
        found = self._replies.get(key, sample)
        self.hits += found is not None
        self.misses += found is None
        return found

    def put(self, key: Key, sample: int, reply: Reply) -> None:
        """Nothing was asked, so there is nothing to keep."""


class _Numbers:
    """Sample numbers as the run would hand them out."""

    def __init__(self, claims: Claims) -> None:
        self._claims = claims

    def claim(
        self, keys: Sequence[bytes], counts: Sequence[int], *, lease: int
    ) -> tuple[tuple[int, ...], ...]:
        return self._claims.answer(Claim(0, lease, tuple(keys), tuple(counts))).samples

    async def aclaim(
        self, keys: Sequence[bytes], counts: Sequence[int], *, lease: int
    ) -> tuple[tuple[int, ...], ...]:
        return self.claim(keys, counts, lease=lease)


class _NoPermits:
    """Lets nothing be sent."""

    async def acquire(self, *_: object) -> NoReturn:
        raise memoized.NotStored

    def acquire_blocking(self, *_: object) -> NoReturn:
        raise memoized.NotStored

    def release(self, *_: object) -> None:
        """Nothing was acquired."""


@contextmanager
def _offered(store: _Counting, claims: Claims) -> Iterator[None]:
    """Offer store and claims to the models of this process for a while."""
    before = brokers.current()
    brokers.install(
        brokers.Surroundings(
            claims=_Numbers(claims), permits=_NoPermits(), memo="", run="", step="", replica=0
        )
    )
    memoized.use_store(store)
    try:
        yield
    finally:
        memoized.use_store(None)
        brokers.install(before)
