"""The executor of generators: rows by credit, committed rows compared and dropped."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from time import perf_counter
from typing import Any

from asyncdistil.batch import Row
from asyncdistil.codec import EncodedRows, encode_rows
from asyncdistil.transport.brokers import LEDGER, Ledger
from asyncdistil.transport.messages import (
    Diverged,
    Exhausted,
    Finish,
    Generate,
    GeneratorFailed,
    Produce,
    Yielded,
)
from asyncdistil.worker.bench import Bench
from asyncdistil.worker.isolate import FATAL

_DIGEST_BYTES = 16


class _Diverged(Exception):
    """The rows are not those that were committed."""

    def __init__(self, row: int) -> None:
        self.row = row


class GeneratorExecutor:
    """Runs a generator once, or again from the start when it is asked to."""

    def __init__(self, bench: Bench, rebuild: Callable[[], Any]) -> None:
        """Set up.

        Args:
            bench: Holds the loaded generator.
            rebuild: Makes and loads a fresh copy of it, because one that ran may be used up.
        """
        self._bench = bench
        self._rebuild = rebuild
        self._credits = 0
        self._finished = False
        self._used = False

    def serve(self) -> None:
        """Work until `Finish`."""
        while not self._finished:
            message = self._bench.mailbox.next(self._bench.outbox.flush)
            if isinstance(message, Generate):
                self._credits = 0
                self._generate(message)
            elif isinstance(message, Finish):
                self._finished = True
        self._bench.outbox.flush()

    def _generate(self, order: Generate) -> None:
        bench = self._bench
        outbox = bench.outbox
        LEDGER.set(Ledger())
        try:
            if self._used:
                bench.step = self._rebuild()
            self._used = True
            self._run(order)
        except (SystemExit, *FATAL):
            raise
        except _Diverged as difference:
            outbox.add(Diverged(difference.row))
        except BaseException as error:
            outbox.add(GeneratorFailed(bench.scrubber.describe(error)))
        outbox.flush()

    def _run(self, order: Generate) -> None:
        bench = self._bench
        committed = b"".join(map(bench.reader.row_digests, order.skip))
        seen = 0
        rows_left = order.limit or None
        iterator: Iterator[tuple[list[Row], bool]] = bench.step.generate(order.offset)  # type: ignore[attr-defined]
        try:
            while self._may_produce():
                started = perf_counter()
                step = next(iterator, None)
                seconds = perf_counter() - started
                if step is None:
                    break
                rows, last = step
                if rows_left is not None:
                    rows = rows[:rows_left]
                    rows_left -= len(rows)
                    last = last or not rows_left
                seen += len(rows)
                self._pass_on(self._new_of(rows, committed, seen - len(rows)), seconds)
                if last:
                    break
            else:
                return
        finally:
            close = getattr(iterator, "close", None)
            if close is not None:
                close()
        if seen * _DIGEST_BYTES < len(committed):
            raise _Diverged(seen)
        bench.outbox.add(Exhausted())

    def _new_of(self, rows: list[Row], committed: bytes, before: int) -> EncodedRows:
        """Encode rows; drop those that are committed already, after comparing them."""
        encoded = encode_rows(rows, step=self._bench.name)
        start = before * _DIGEST_BYTES
        known = committed[start : start + len(encoded.digests)]
        if not known:
            return encoded
        repeated = len(known) // _DIGEST_BYTES
        for row in range(repeated):
            span = slice(row * _DIGEST_BYTES, (row + 1) * _DIGEST_BYTES)
            if encoded.digests[span] != known[span]:
                raise _Diverged(before + row)
        return encode_rows(rows[repeated:], step=self._bench.name)

    def _pass_on(self, encoded: EncodedRows, seconds: float) -> None:
        bench = self._bench
        assert bench.writer is not None
        refs = bench.writer.append(encoded)
        if refs:
            self._credits -= 1
            bench.outbox.add(Yielded(refs, seconds))

    def _may_produce(self) -> bool:
        """Wait for a credit; ``False`` if no more rows are wanted."""
        mailbox, outbox = self._bench.mailbox, self._bench.outbox
        while True:
            for message in mailbox.waiting(block=self._credits <= 0, before_waiting=outbox.flush):
                if isinstance(message, Produce):
                    self._credits += message.credits
                elif isinstance(message, Generate):
                    # A new order takes the place of this one.
                    mailbox.put_back([message])
                    return False
                elif isinstance(message, Finish):
                    self._finished = True
                    return False
            if self._credits > 0:
                return True
