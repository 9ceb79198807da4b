"""From the files of a store to what counts. Never truncates, never rewrites.

The log is walked from the checkpoint, or from its beginning. At the first bad record, at LSN k,
let W be the highest durable watermark found anywhere, also behind the bad record: k > W is the
torn tail of a crash and the log ends before it; k <= W was acknowledged, so it is damage.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, NoReturn, TypeAlias

from asyncdistil.batch import Lsn
from asyncdistil.errors import CorruptRecord, FormatError, StorageError
from asyncdistil.log.checkpoint import Checkpoint, checkpoint_path
from asyncdistil.log.commit_log import Tail
from asyncdistil.log.files import Files, remedy
from asyncdistil.log.holes import Hole, Holes, Span
from asyncdistil.log.index import (
    COMMIT_TAG,
    ROUTE_TAG,
    Index,
    decode_event,
    pack_place,
    unpack_place,
)
from asyncdistil.log.log_files import LogFile, LogFiles
from asyncdistil.log.names import commit_path
from asyncdistil.log.record import (
    FILE_HEADER_BYTES,
    HEADER_BYTES,
    FileHeader,
    Header,
    RecordType,
    parse_header,
    payload_fits,
)

_WINDOW_BYTES = 8 << 20


class Remainder(NamedTuple):
    """Bytes of a file that do not count, to be copied to quarantine."""

    path: Path
    start: int
    end: int


class Pending(NamedTuple):
    """A commit above the watermark, whose payload may not have reached the disk."""

    lsn: int
    place: int


NO_TAIL = Tail(0, 0, 0, 0)

OnRecord: TypeAlias = Callable[[Lsn, int, Header, memoryview], None]
"""Told the LSN, place, header and payload of a record; the payload is valid until it returns."""


@dataclass(slots=True)
class Recovered:
    """What the files say.

    Attributes:
        store_id: Of the store, or ``None`` if there is none yet.
        tail: Where the log ends.
        next_number: First commit-log file number never used.
        durable: Highest durable LSN that the files vouch for.
        index: What the log says.
        clean: Whether the last writer closed it.
        checkpoint: Open checkpoint that ``index`` reads from.
        warnings: For the user, one sentence each.
        remainders: Bytes that do not count.
        holes: Damage newly given up.
        pending: Commits above ``durable``.
    """

    store_id: bytes | None = None
    tail: Tail = NO_TAIL
    next_number: int = 1
    durable: int = 0
    index: Index = field(default_factory=Index)
    clean: bool = True
    checkpoint: Checkpoint | None = None
    warnings: list[str] = field(default_factory=list)
    remainders: list[Remainder] = field(default_factory=list)
    holes: list[Hole] = field(default_factory=list)
    pending: deque[Pending] = field(default_factory=deque)

    def close(self) -> None:
        """Close the checkpoint."""
        if self.checkpoint is not None:
            self.checkpoint.close()


def recover(
    root: Path,
    files: Files,
    *,
    exclusive: bool,
    recompute: bool = False,
    stop: Pending | None = None,
    on_record: OnRecord | None = None,
) -> Recovered:
    """Read a store.

    Args:
        root: Store directory.
        files: The disk.
        exclusive: Whether we hold the lock; else nothing is synced and a moving tail is fine.
        recompute: Give up damaged records instead of refusing.
        stop: End the log before this commit, because its payload is torn.
        on_record: Told of every record that counts, from the first one on: the checkpoint is not
            looked at.

    Raises:
        CorruptRecord: Acknowledged records are damaged or missing.
        FormatError: The files are of a newer format.
        StorageError: The disk failed while reading.
    """
    recovery = _Recovery(root, files, exclusive, recompute, stop)
    recovery.on_record = on_record
    try:
        return recovery.run()
    except FormatError:
        recovery.close()
        raise
    except OSError as error:
        recovery.close()
        raise StorageError(
            f"{root} can't be read ({error.strerror}); {remedy(error)}, then run again"
        ) from error


class _Recovery:
    """One recovery; the fields are its state as it walks."""

    def __init__(
        self, root: Path, files: Files, exclusive: bool, recompute: bool, stop: Pending | None
    ) -> None:
        self._root = root
        self._files = files
        self._log = LogFiles(root, files)
        self._exclusive = exclusive
        self._recompute = recompute
        # By place: whoever opened the store meanwhile may have given the LSN to another record.
        self._stop = unpack_place(stop.place) if stop is not None else None
        self._holes = Holes(self._log)
        self._result = Recovered(holes=self._holes.new)
        self._files_by_number: dict[int, LogFile] = {}
        self._sealed = False
        self.on_record: OnRecord | None = None

    def run(self) -> Recovered:
        """Walk everything and return what counts."""
        result = self._result
        self._open_checkpoint()
        base = result.checkpoint.tail if result.checkpoint else NO_TAIL
        names = self._files.listdir(self._root / "commits")
        numbers = sorted(int(n[:-4]) for n in names if n.endswith(".adc") and n[:-4].isdecimal())
        result.next_number = max([base.number, *numbers], default=0) + 1
        chain = self._chain([n for n in numbers if n >= base.number], base.number)
        if not self._adopt_checkpoint(chain):
            # It promised more than the log has left, and that was given up: read everything.
            base = NO_TAIL
            chain = self._chain(numbers, 0)
        if chain:
            self._walk_chain(chain)
        elif result.durable:
            result.tail = Tail(0, 0, result.durable, 0)
        result.index.lossy = result.index.lossy or self._holes.any
        ended_well = self._sealed or result.tail == base
        result.clean = ended_well and not result.remainders
        return result

    def close(self) -> None:
        """Close what a recovery that failed leaves open."""
        self._result.close()

    def _open_checkpoint(self) -> None:
        result = self._result
        if self.on_record is not None:
            return
        try:
            result.checkpoint = Checkpoint(checkpoint_path(self._root), self._files)
        except FileNotFoundError:
            return
        except CorruptRecord as error:
            result.warnings.append(f"{error} (this time it was ignored)")
            return
        result.store_id = self._log.store_id = result.checkpoint.store_id
        result.durable = result.checkpoint.tail.lsn

    def _chain(self, numbers: list[int], oldest: int) -> list[LogFile]:
        """Files that count, oldest first, found by going back from the newest."""
        by_number = self._files_by_number
        for number in numbers:
            # Its header as well: the sync of a new file may have failed, and nothing followed.
            if self._exclusive and number > oldest:
                self._log.read_from_disk(number)
            found = by_number[number] = self._log.file(number)
            if found.header is not None:
                self._result.store_id = found.header.store_id
                self._result.durable = max(self._result.durable, found.header.durable)
        number = 0
        for found in sorted(by_number.values(), reverse=True):
            if found.header is not None:
                number = found.number
                break
            # The header is synced before anything follows it: a torn one stands alone.
            if found.size > FILE_HEADER_BYTES:
                self._damaged(found.number, 0, "its file header is damaged", None)
                self._leave_out(found.number, 0, found.size)
        chain: list[LogFile] = []
        while number and number >= oldest:
            file = by_number.get(number)
            if file is None or file.header is None:
                self._skip(number, file, chain[-1])
                number = max((n for n in by_number if n < number), default=0)
                continue
            chain.append(file)
            number = file.header.previous_number
        return chain[::-1]

    def _skip(self, number: int, file: LogFile | None, follower: LogFile) -> None:
        """Give up a file of the chain as a whole; the one below it may be all right."""
        header = follower.header
        assert header is not None
        if self._hole(number, 0) is None:
            self._damaged(number, 0, "the file is missing or its header is damaged", None)
            hole = Hole(number, 0, 0, header.base - 1, header.previous_digest)
            self._holes.add(hole)
            if file is not None:
                self._leave_out(number, 0, file.size)

    def _adopt_checkpoint(self, chain: list[LogFile]) -> bool:
        """Use the checkpoint if the log really goes on from it."""
        result, checkpoint = self._result, self._result.checkpoint
        if checkpoint is None:
            return True
        tail = checkpoint.tail
        if chain and chain[0].number == tail.number and chain[0].size >= tail.end:
            result.index = checkpoint.index()
            result.tail = tail
            return True
        if self._hole(tail.number, tail.end) is None:
            self._damaged(tail.number, tail.end, "the log ends before its checkpoint", tail.lsn)
            self._holes.add(Hole(tail.number, tail.end, tail.end, tail.lsn, tail.digest))
        checkpoint.close()
        result.checkpoint = None
        return False

    def _walk_chain(self, chain: list[LogFile]) -> None:
        result = self._result
        if result.checkpoint is None:
            header = chain[0].header
            assert header is not None
            # Files before the first of the chain are gone only where damage was given up.
            result.tail = Tail(chain[0].number, 0, header.base - 1, header.previous_digest)
        for position, file in enumerate(chain):
            follower = chain[position + 1].header if position + 1 < len(chain) else None
            entered = self._enter(file)
            if not entered or not self._walk_file(file, follower):
                for later in chain[position + entered :]:
                    self._leave_out(later.number, 0, later.size)
                return

    def _enter(self, file: LogFile) -> bool:
        """Step over a file's header; ``False`` ends the log before it."""
        header, tail = file.header, self._result.tail
        assert header is not None
        if tail.number == file.number and tail.end >= FILE_HEADER_BYTES:
            return True  # the checkpoint lies in this file
        if header.base == tail.lsn + 1 and header.previous_digest == tail.digest:
            self._result.tail = Tail(file.number, FILE_HEADER_BYTES, tail.lsn, file.digest)
            return True
        before = self._files_by_number.get(tail.number, file)
        if not self._judge(before, tail.end, tail.end, None, "records are missing", header):
            return False
        self._result.tail = Tail(file.number, FILE_HEADER_BYTES, header.base - 1, file.digest)
        return True

    def _walk_file(self, file: LogFile, follower: FileHeader | None) -> bool:
        """Walk one file up to where it counts; ``False`` ends the log."""
        # Behind a file that is missing nobody says up to where this one counts.
        known = follower is not None and follower.previous_number == file.number
        limit = follower.previous_end if follower is not None and known else file.size
        if self._exclusive and self._result.tail.end < file.size:
            self._log.read_from_disk(file.number)
        while (reason := self._walk_records(file.number, limit)) is not None:
            header = self._log.header_at(file.number, self._result.tail.end)
            if not self._judge(file, self._result.tail.end, limit, header, reason, follower):
                return False
        if follower is None and self._result.tail.lsn < self._result.durable:
            return self._judge(file, limit, limit, None, "records are missing", None)
        return True

    def _walk_records(self, number: int, limit: int) -> str | None:
        """Take in records up to ``limit``; the reason if one is bad."""
        result = self._result
        _, end, lsn, digest = result.tail
        seed = self._log.seed(number)
        stop_at = self._stop[1] if self._stop is not None and self._stop[0] == number else -1
        fd = self._files.open_read(commit_path(self._root, number))
        window, start = b"", end
        reason = None
        try:
            while end < limit:
                at = end - start
                header = parse_header(window, at, seed)
                if header is None or at + header.size > len(window):
                    size = min(max(_WINDOW_BYTES, header.size if header else 0), limit - end)
                    window, start, at = self._files.pread(fd, size, end), end, 0
                    header = parse_header(window, 0, seed)
                if header is None or header.size > len(window) - at:
                    reason = "its header is damaged, or the file ends within it"
                    break
                if header.position != lsn + 1 or header.previous != digest:
                    reason = f"a record with LSN {header.position} stands there"
                    break
                if end == stop_at:
                    reason = "the rows that it names did not reach the disk"
                    break
                payload = memoryview(window)[at + HEADER_BYTES : at + header.size]
                if not payload_fits(header, payload, seed):
                    reason = "its checksum does not fit"
                    break
                lsn += 1
                self._take(header, lsn, pack_place(number, end), payload)
                end += header.size
                digest = header.digest
        finally:
            self._files.close(fd)
        result.tail = Tail(number, end, lsn, digest)
        return reason

    def _take(self, header: Header, lsn: int, place: int, payload: memoryview) -> None:
        """Take in one intact record."""
        result, tag = self._result, header.type
        result.durable = max(result.durable, header.durable)
        self._sealed = False
        if self.on_record is not None:
            self.on_record(Lsn(lsn), place, header, payload)
        if tag in {COMMIT_TAG, ROUTE_TAG}:
            result.index.locate(tag, bytes(payload[: header.meta_bytes]), lsn, place)
            if tag == COMMIT_TAG:
                pending = result.pending
                while pending and pending[0].lsn <= result.durable:
                    pending.popleft()
                if lsn > result.durable:
                    pending.append(Pending(lsn, place))
        elif tag < RecordType.FILE:
            body = payload[header.meta_bytes : header.meta_bytes + header.body_bytes]
            result.index.apply(lsn, decode_event(body, tag))  # type: ignore[arg-type]
        elif tag == RecordType.SEAL:
            self._sealed = True

    def _judge(
        self,
        file: LogFile,
        offset: int,
        limit: int,
        header: Header | None,
        reason: str,
        follower: FileHeader | None,
    ) -> bool:
        """Decide about a bad record at ``offset``: ``False`` if the log ends before it.

        Raises:
            CorruptRecord: It is damage.
        """
        result = self._result
        bad_lsn = result.tail.lsn + 1
        hole = self._hole(file.number, offset)
        if hole is None:
            later = [f for n, f in self._files_by_number.items() if n > file.number]
            strays = self._log.intact_headers([file, *later], offset)
            result.durable = max([result.durable, *(stray.durable for stray in strays)])
            if bad_lsn > result.durable:
                self._leave_out(file.number, offset, file.size)
                return False
            self._damaged(file.number, offset, reason, bad_lsn, header)
            place = Span(file.number, offset, limit)
            hole = self._holes.measure(place, result.tail.lsn, result.durable, follower)
            self._holes.add(hole)
            self._leave_out(file.number, offset, hole.end)
        result.tail = Tail(file.number, hole.end, hole.lsn, hole.digest)
        return True

    def _hole(self, number: int, offset: int) -> Hole | None:
        """Damage at this place that was given up before."""
        return self._holes.at(number, offset, self._files_by_number.values())

    def _leave_out(self, number: int, start: int, end: int) -> None:
        if end > start:
            path = commit_path(self._root, number)
            self._result.remainders.append(Remainder(path, start, end))

    def _damaged(
        self, number: int, offset: int, reason: str, lsn: int | None, header: Header | None = None
    ) -> None:
        """Refuse, or note that damage is given up."""
        path = str(commit_path(self._root, number))
        place = f"{path}: damage at offset {offset}"
        if lsn is not None:
            place += f", LSN {lsn}"
        if header is not None and header.type == COMMIT_TAG:
            place += self._step_of(number, offset, header)
        message = f"{place}: {reason}. It was acknowledged, so finished work is at stake"
        if self._recompute:
            self._result.warnings.append(f"{message}; what is lost is recomputed")
            return
        self._refuse(message, path, offset, lsn)

    def _refuse(self, message: str, path: str, offset: int, lsn: int | None) -> NoReturn:
        self.close()
        raise CorruptRecord(
            f"{message}. Restore the file from a backup, or recompute what is lost: run "
            '`asyncdistil cache repair`, or pass on_corruption="recompute" to run()',
            path=path,
            offset_bytes=offset,
            lsn=lsn,
        )

    def _step_of(self, number: int, offset: int, header: Header) -> str:
        """Name the step of a damaged commit, as far as its bytes still tell."""
        start = offset + HEADER_BYTES
        lineage = self._log.read(number, start, start + header.meta_bytes)
        with suppress(KeyError):
            return f", a commit of step {self._result.index.step_defs[lineage].step!r}"  # type: ignore[index]
        return ", a commit"
