"""How many of a task's requests the memo would answer: the task asks a model that sends nothing.

The prompts are made here, by the task itself, and looked up as a worker would look them up. Models
behind a network only: others keep no memo, and must not be loaded for a forecast.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple, NoReturn

from asyncdistil.batch import Row, RowSlice
from asyncdistil.errors import LogError
from asyncdistil.memo import Key, Memo, Replies
from asyncdistil.models import memoized
from asyncdistil.models.reply import Reply
from asyncdistil.steps.base import BaseStep
from asyncdistil.steps.rows import has_failed
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
    # Only models behind a network can do without being asked, and only tasks have models.
    stored_only = getattr(getattr(step, "llm", None), "stored_only", None)
    if not missing or stored_only is None or not (isinstance(step, Step) and step.asynchronous):
        return NOTHING
    memo = Memo.peek(memo_dir)
    if memo is None:
        return NOTHING
    twin = step.model_copy()
    twin.__dict__["llm"] = stored_only()
    store = _Counting(Replies(memo, Reply))
    with closing(memo), _offered(store, claims), ThreadPoolExecutor(1) as thread:
        # In a thread of its own, because the caller may have a loop, as notebooks do.
        return thread.submit(asyncio.run, _asked(twin, _rows(missing, rows_of), store)).result()


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
            entry = await task.aapply(row)
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

    def paused_for(self, governor: str) -> float:
        return 0.0


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
