"""Has samples answered through batches: fetches what is under way, submits what is not.

The order of acts is what keeps a line from being paid for twice. A record is durable as
``intended`` before the batch is sent; after a death in between, the batch is looked for at the
provider by its name before another one is sent. Answers go into the memo before the record says
that they were fetched; after a death in between, they are fetched again, which is free.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from asyncdistil.batch import Usage
from asyncdistil.errors import (
    BatchesPending,
    ModelError,
    ModelNotFound,
    ModelUnavailable,
    RunStopped,
)
from asyncdistil.log.failpoint import failpoint
from asyncdistil.memo import Key
from asyncdistil.models import memoized
from asyncdistil.models.memoized import ReplyStore, failed_reply
from asyncdistil.models.offline.records import BatchRecord, Journal, LineId, batch_name
from asyncdistil.models.offline.service import BatchService, Line, Progress, Result
from asyncdistil.models.output import FATAL
from asyncdistil.models.reply import Reply
from asyncdistil.transport import brokers

if TYPE_CHECKING:
    from asyncdistil.models.llms.remote import Request

_log = logging.getLogger("asyncdistil.models")

MOST_TRIES = 3
"""How often a line is submitted in one go before it, or the run, is given up."""


class Sample(NamedTuple):
    """One answer that is wanted.

    Attributes:
        key: Of its request.
        number: In the pool of that request.
        request: What to ask.
    """

    key: Key
    number: int
    request: Request


Wanted = Mapping[LineId, Sample]
Answers = dict[LineId, Reply | None]
"""By sample; ``None`` where the service gave fewer answers than it was asked for."""


@dataclass(frozen=True)
class Habits:
    """How a desk goes about it.

    Attributes:
        service: Provider and URL, as it stands in records.
        run: Id of the run, empty outside of one.
        own_run: Leave alone what other runs submitted.
        poll_seconds: Between two looks; ``None``: don't wait, stop.
        priced: Fills in what replies to a request cost.
        place: Where in the store a reply to a request lies.
    """

    service: str
    run: str
    own_run: bool
    poll_seconds: float | None
    priced: Callable[[Sequence[Reply], Request], list[Reply]]
    place: Callable[[Key, Sequence[Reply]], Key]

    @classmethod
    def around(
        cls,
        *,
        service: str,
        poll_seconds: float | None,
        priced: Callable[[Sequence[Reply], Request], list[Reply]],
        place: Callable[[Key, Sequence[Reply]], Key],
    ) -> Habits:
        """Those of the run that a worker works for, if there is one; see the attributes."""
        around = brokers.current()
        run, own_run = (around.run, around.memo_own_run) if around is not None else ("", False)
        return cls(service, run, own_run, poll_seconds, priced, place)


@dataclass
class Desk:
    """Answers the samples of one model."""

    batches: BatchService
    journal: Journal
    store: ReplyStore | None
    habits: Habits
    _tries: Counter[LineId] = field(default_factory=Counter)
    _told: dict[str, Progress] = field(default_factory=dict)

    async def answer(self, wanted: Wanted) -> Answers:
        """Have samples answered, and wait for it or stop.

        Raises:
            BatchesPending: The provider is not done, and waiting is not wanted.
            RunStopped: The provider refuses what it is sent, or does not know what it was sent.
            ModelError: Of the classes that stop a run.
        """
        answers: Answers = {}
        try:
            while left := {name: one for name, one in wanted.items() if name not in answers}:
                waiting = await self._turn(left, answers)
                if not waiting:
                    continue
                if self.habits.poll_seconds is None:
                    raise self._pending(waiting)
                await asyncio.sleep(self.habits.poll_seconds)
        except ModelError as error:
            if isinstance(error, FATAL) and not isinstance(error, ModelNotFound):
                raise
            # No row is at fault when the batch service fails, so none is to be failed by it.
            raise RunStopped(
                f"batches could not be dealt with: {error}. Run again to go on; nothing that was"
                " submitted is submitted again"
            ) from error
        return answers

    async def adopt(self, jobs_ids: Iterable[str]) -> None:
        """Take batches that were submitted elsewhere for our own.

        Raises:
            BatchesPending: One of them is not done: what it answers is not known yet.
        """
        known = {record.batch_id for record in self.journal.read()}
        for batch_id in jobs_ids:
            if batch_id in known:
                continue
            progress = await self.batches.look(batch_id)
            record = BatchRecord(
                name=batch_name(self.habits.service, [batch_id], tries=1, run=""),
                service=self.habits.service,
                state="waiting",
                run=self.habits.run,
                batch_id=batch_id,
                made_seconds=time.time(),
            )
            if progress.state == "waiting":
                raise self._pending([record])
            results = await self.batches.results(progress) or []
            record.lines = [str(result.id) for result in results if not result.error]
            async with self.journal.locked():
                self.journal.write(record)

    async def _turn(self, left: Wanted, answers: Answers) -> list[BatchRecord]:
        """Submit what nobody works on, look at what somebody does; give back what is not done."""
        async with self.journal.locked():
            under_way = await self._under_way(left)
        waiting: list[BatchRecord] = []
        ended = False
        for record in under_way:
            progress = await self.batches.look(record.batch_id)
            if progress.state == "waiting":
                waiting.append(record)
                self._tell(record, progress)
            else:
                ended = True
                await self._take(record, progress, left, answers)
        # What ended may have left lines over: they are submitted before anybody waits.
        return [] if ended else waiting

    async def _under_way(self, left: Wanted) -> list[BatchRecord]:
        """Batches that answer what is left, each known to the provider; all of it is covered."""
        found: list[BatchRecord] = []
        uncovered = set(left)
        tries: Counter[LineId] = Counter()
        records = self.journal.read()
        known = frozenset(record.batch_id for record in records)
        for record in records:
            if record.service != self.habits.service:
                continue
            if self.habits.own_run and record.run != self.habits.run:
                continue
            for line in filter(None, map(LineId.parse, record.lines)):
                for sample in line.samples():
                    tries[sample] = max(tries[sample], record.tries)
            covered = record.covers() & uncovered
            if not covered:
                continue
            if not record.batch_id and not await self._found(record, known):
                continue
            uncovered -= covered
            found.append(record)
        if uncovered:
            open_ones = {n: left[n] for n in left if n in uncovered}
            found += await self._submit(open_ones, tries, known)
        return found

    async def _found(self, record: BatchRecord, known: frozenset[str]) -> bool:
        """Find out whether a batch that was intended has been sent."""
        batch_id = await self.batches.find(record, known)
        if batch_id:
            self.journal.write(_with_id(record, batch_id))
        else:
            # Its lines are submitted now, under a name of their own.
            record.lost = list(record.lines)
            record.state = "fetched"
            self.journal.write(record)
        return bool(batch_id)

    async def _submit(
        self, left: Wanted, tries: Counter[LineId], known: frozenset[str]
    ) -> list[BatchRecord]:
        submitted: list[BatchRecord] = []
        for lines in _portions(_lines(left, self.batches.several_per_line), self.batches):
            ids = [str(line.id) for line in lines]
            samples = [sample for line in lines for sample in line.id.samples()]
            self._tries.update(samples)
            number = 1 + max(tries[sample] for sample in samples)
            run = self.habits.run if self.habits.own_run else ""
            record = BatchRecord(
                name=batch_name(self.habits.service, ids, tries=number, run=run),
                service=self.habits.service,
                run=self.habits.run,
                lines=ids,
                tries=number,
                made_seconds=time.time(),
            )
            self.journal.write(record)
            failpoint("offline.intended")
            record = _with_id(record, await self.batches.submit(record, lines, known))
            failpoint("offline.sent")
            self.journal.write(record)
            failpoint("offline.waiting")
            _log.info("submitted %d requests as batch %s", len(lines), record.batch_id)
            submitted.append(record)
            known |= {record.batch_id}
        return submitted

    async def _take(
        self, record: BatchRecord, progress: Progress, left: Wanted, answers: Answers
    ) -> None:
        """Take the answers of a batch that ended; lines without one are open again."""
        if progress.state == "unknown" and record.state == "waiting":
            raise RunStopped(
                f"batch {record.batch_id} is not known to {self.habits.service} under this key:"
                " use the key that submitted it; to have its rows submitted, and paid for, anew,"
                f" remove {self.journal.place(record)}"
            )
        gone = progress.state == "unknown"
        results = None if gone else await self.batches.results(progress)
        failpoint("offline.downloaded")
        if results is None:
            _log.warning("answers of batch %s are gone: asked again", record.batch_id)
        answered: set[str] = set()
        usage: list[Reply] = []
        requests = 0
        for result in results or ():
            if result.error is None:
                answered.add(str(result.id))
            taken = self._join(result, left, answers)
            requests += bool(taken)
            usage += taken
        _book(requests, usage)
        failpoint("offline.kept")
        record.lost = [line for line in record.lines if line not in answered]
        record.state = "fetched"
        async with self.journal.locked():
            self.journal.write(record)
        failpoint("offline.fetched")
        self._give_up(record, progress, left, answers)

    def _join(self, result: Result, left: Wanted, answers: Answers) -> list[Reply]:
        """Put what became of a line to the samples that want it; the replies that were taken."""
        names = result.id.samples()
        wanted = [name for name in names if name in left and name not in answers]
        if not wanted:
            return []
        sample = left[wanted[0]]
        if result.error is not None:
            if result.passing and self._tries[wanted[0]] < MOST_TRIES:
                return []
            replies = [failed_reply(result.error)] * len(names)
        else:
            replies = self.habits.priced(result.replies, sample.request)
        place = self.habits.place(sample.key, replies)
        by_name = dict(zip(names, replies, strict=False))
        for name in wanted:
            reply = answers[name] = by_name.get(name)
            if reply is not None and reply.body and self.store is not None:
                self.store.put(place, name.first, reply)
        return [by_name[name] for name in wanted if name in by_name and result.error is None]

    def _give_up(
        self, record: BatchRecord, progress: Progress, left: Wanted, answers: Answers
    ) -> None:
        """Decide about lines that came to nothing because their whole batch did."""
        lost = [line for line in map(LineId.parse, record.lost) if line is not None]
        samples = [s for line in lost for s in line.samples() if s in left and s not in answers]
        if not samples:
            return
        if progress.state == "cancelled":
            error = ModelUnavailable(
                f"batch {record.batch_id} was cancelled before it came to this row"
            )
            answers.update(dict.fromkeys(samples, failed_reply(error)))
            return
        spent = [sample for sample in samples if self._tries[sample] >= MOST_TRIES]
        if spent and progress.state == "failed":
            raise RunStopped(
                f"{self.habits.service} refused a batch {MOST_TRIES} times, the last one"
                f" ({record.batch_id}) with: {progress.why}. Mend it and run again"
            )
        error = ModelUnavailable(
            f"a batch did not come to this row in {MOST_TRIES} tries, the last one"
            f" ({record.batch_id}): {progress.why}"
        )
        answers.update(dict.fromkeys(spent, failed_reply(error)))
        if len(spent) < len(samples):
            _log.warning(
                "batch %s left %d of %d requests unanswered (%s): submitted again",
                record.batch_id,
                len(lost),
                len(record.lines),
                progress.why,
            )

    def _tell(self, record: BatchRecord, progress: Progress) -> None:
        if self._told.get(record.batch_id) != progress:
            self._told[record.batch_id] = progress
            total = progress.total or len(record.lines)
            _log.info("batch %s: %d of %d requests", record.batch_id, progress.done, total)

    def _pending(self, waiting: Sequence[BatchRecord]) -> BatchesPending:
        ids = tuple(record.batch_id for record in waiting)
        shown = ", ".join(ids[:5]) + (f" and {len(ids) - 5} more" if len(ids) > 5 else "")
        requests = sum(len(record.lines) for record in waiting)
        batches = "1 batch" if len(ids) == 1 else f"{len(ids)} batches"
        noun = "request" if requests == 1 else "requests"
        of_requests = f" of {requests} {noun}" if requests else ""
        return BatchesPending(
            f"{batches}{of_requests} not done at {self.habits.service} yet ({shown}): run again"
            " later to fetch the answers; nothing is submitted twice. To wait instead, set"
            " offline_batch_generation_block_until_done to the seconds between two looks",
            jobs_ids=ids,
        )


def _with_id(record: BatchRecord, batch_id: str) -> BatchRecord:
    record.batch_id = batch_id
    record.state = "waiting"
    return record


def _book(requests: int, replies: Sequence[Reply]) -> None:
    """Put what was taken on the account of the work in hand."""
    if requests:
        memoized.book(
            Usage(
                requests=requests,
                input_tokens=sum(reply.input_tokens for reply in replies),
                output_tokens=sum(reply.output_tokens for reply in replies),
                cost_microusd=sum(reply.cost_microusd for reply in replies),
            ),
            wrote_memo=True,
        )


def _lines(left: Wanted, several: bool) -> list[Line]:
    """Make the lines that ask for samples.

    Args:
        left: What is wanted.
        several: One line for each run of consecutive samples of a request, whose prompt is paid
            for once then; else one for each sample.
    """
    runs: list[tuple[LineId, Sample]] = []
    for name, sample in sorted(left.items(), key=lambda item: (item[0].request, item[0].first)):
        last = runs[-1][0] if runs else None
        follows = last and last.request == name.request and last.first + last.count == name.first
        if several and last and follows:
            runs[-1] = LineId(last.request, last.first, last.count + 1), runs[-1][1]
        else:
            runs.append((name, sample))
    order = {name.request: place for place, name in reversed(list(enumerate(left)))}
    runs.sort(key=lambda run: (order[run[0].request], run[0].first))
    return [_line(name, sample.request) for name, sample in runs]


def _line(name: LineId, request: Request) -> Line:
    body = {**request.body, **request.unkeyed}
    if name.count > 1:
        body["n"] = name.count
    return Line(name, request.path, body)


def _portions(lines: Sequence[Line], service: BatchService) -> list[list[Line]]:
    """Cut lines into batches that the service takes: of one path, not too many, not too long."""
    portions: list[list[Line]] = []
    room = 0
    for line in sorted(lines, key=lambda line: line.path):
        size = len(service.encoded(line))
        last = portions[-1] if portions else None
        if not last or last[0].path != line.path or len(last) == service.max_lines or room < size:
            portions.append([])
            room = service.max_bytes
        portions[-1].append(line)
        room -= size
    return portions
