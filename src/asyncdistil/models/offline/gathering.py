"""Questions of many rows gathered until every one of them waits, then answered as batches.

The code that makes requests and reads replies is the one that asks them one by one; here only the
asking itself is put off.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Collection, Coroutine, Sequence
from typing import Any, ClassVar, TypeVar

from asyncdistil.memo import Key
from asyncdistil.models import memoized
from asyncdistil.models.memoized import Fetch, Memoized
from asyncdistil.models.offline.desk import Desk, Sample
from asyncdistil.models.offline.records import LineId
from asyncdistil.models.reply import Outcome, Reply

T = TypeVar("T")


class Gathering(Memoized):
    """Stands in the place of a model's memo for the length of one call.

    Rounds end when every question that is not answered waits: what they wait for then goes to the
    desk. A question that asks again about what it was told joins the next round.
    """

    needs_key: ClassVar[bool] = True

    def __init__(self, reported: str = "") -> None:
        """Stand in for a memo.

        Args:
            reported: Name of the stand-in that answered the model before, if one did.
        """
        super().__init__(reported)
        self._wanted: dict[LineId, Sample] = {}
        self._futures: dict[LineId, asyncio.Future[Reply | None]] = {}
        self._waiting = 0
        self._open = 0
        self._still = asyncio.Event()
        self._numbers: Counter[bytes] = Counter()

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
        """Get samples of a request: from the store, else by a batch.

        Args:
            key: See `Memoized.samples`, as for the others.
            count: Samples wanted.
            fetch: Not called: there is a batch.
            deterministic: Whether equal requests share one answer.
            accept: Stored outcomes that count as an answer.
            request: What to ask.
            fits: Says of a stored reply whether it can be used.
            several: Of no matter here: a line of a batch asks for one sample.
        """
        numbers = tuple(range(count)) if deterministic else await self._claim(key, count)
        store = memoized.current_store()
        found = self._look_up(store, key, numbers, accept, fits) if store is not None else {}
        futures = {n: self._want(key, n, request) for n in numbers if n not in found}
        if futures:
            self._waiting += 1
            self._look_around()
            replies = await asyncio.gather(*futures.values())
            found.update((n, r) for n, r in zip(futures, replies, strict=True) if r is not None)
        return {number: found[number] for number in numbers if number in found}

    async def hold(self, desk: Desk, questions: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
        """Put questions and give their answers, in order.

        Args:
            desk: Has them answered.
            questions: They ask a model that has this in the place of its memo.

        Raises:
            RunStopped: There are no answers yet, see `Desk.answer`.
        """
        tasks = [asyncio.ensure_future(question) for question in questions]
        self._open = len(tasks)
        for task in tasks:
            task.add_done_callback(self._settled)
        try:
            while self._open:
                await self._still.wait()
                self._still.clear()
                for task in tasks:
                    if task.done():
                        task.result()  # what stops a run is raised here
                if self._open:
                    await self._round(desk)
            return [task.result() for task in tasks]
        finally:
            for task in tasks:
                task.cancel()

    def place(self, key: Key, replies: Sequence[Reply]) -> Key:
        """Where replies to a request lie in the store; a stand-in's have a place of their own."""
        for reply in replies:
            self.hear(reply.reported)
        return self.home(key)

    async def _claim(self, key: Key, count: int) -> tuple[int, ...]:
        if memoized.current_store() is not None:
            return await memoized.claim(key, count)
        # Counted within this call, so that the same call made later means the same samples.
        first = self._numbers[key.digest]
        self._numbers[key.digest] += count
        return tuple(range(first, first + count))

    def _want(self, key: Key, number: int, request: Any) -> asyncio.Future[Reply | None]:
        name = LineId.of(key, number)
        future = self._futures.get(name)
        if future is None:
            future = self._futures[name] = asyncio.get_running_loop().create_future()
            self._wanted[name] = Sample(key, number, request)
        return future

    def _settled(self, task: asyncio.Task[Any]) -> None:
        self._open -= 1
        self._look_around()

    def _look_around(self) -> None:
        if self._waiting >= self._open:
            self._still.set()

    async def _round(self, desk: Desk) -> None:
        wanted, self._wanted = self._wanted, {}
        futures, self._futures = self._futures, {}
        self._waiting = 0
        answers = await desk.answer(wanted)
        for name, future in futures.items():
            if not future.done():
                future.set_result(answers.get(name))
