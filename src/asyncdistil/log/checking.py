"""Everything in a pack that concerns a store, believed only after it was checked.

A pack comes over a border. The container has shown that its bytes are those that somebody packed;
here they are held to what a store would hold: every hash of every record, the digests of every row,
every reference, every position. So what is taken in can be read, and can't name anything outside.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

from xxhash import xxh3_128, xxh3_128_digest

from asyncdistil.batch import BatchRef, Digest, Lsn, RowSlice, RunId
from asyncdistil.codec import content_digest, decode_rows
from asyncdistil.errors import CorruptRecord, FormatError
from asyncdistil.log.events import (
    Commit,
    Emit,
    Event,
    Moved,
    Reuse,
    Route,
    RunBegin,
    RunEnd,
    StepDef,
    StepDone,
    Tombstone,
)
from asyncdistil.log.history import Place
from asyncdistil.log.pack import PackReader
from asyncdistil.log.portable import dataset_name, read_frames
from asyncdistil.log.record import (
    FILE_HEADER_BYTES,
    HEADER_BYTES,
    STORE_ID_BYTES,
    FileKind,
    RecordType,
    file_seed,
    parse_file_header,
    parse_header,
    payload_fits,
)
from asyncdistil.log.saved import Misnamed, Parts, read_saved

_TABLE = struct.Struct("<II")
_DIGEST_BYTES = 16
_RUN = re.compile(r"[0-9a-f]{32}")
_MOST_ROW_BYTES = (1 << 30) + (64 << 20)


class Packed(NamedTuple):
    """A record of rows in a pack.

    Attributes:
        member: That holds it.
        at: Where its meta begins there.
        meta_bytes: Of its meta.
        body_bytes: Of its body.
        ref: What a commit must call it.
        digests: Of its rows.
    """

    member: str
    at: int
    meta_bytes: int
    body_bytes: int
    ref: BatchRef
    digests: bytes


@dataclass(slots=True)
class Checked:
    """What a pack holds for a store.

    Attributes:
        pipeline: Name of the pipeline.
        run: Id of the run.
        definitions: Of all steps.
        commits: With the LSNs that they had, ascending.
        routes: Decisions of routers.
        done: Records that a step is complete.
        reused: REUSE records of the run.
        others: Beginnings and ends of runs whose work was used.
        ending: Beginning, datasets and end of the run itself.
        records: Of rows, by the place that they had.
        lineages: Of the segments that held them.
        datasets: Path in a store to member.
        saved: Path below the artifacts of a store, name by name, to member.
    """

    pipeline: str
    run: RunId
    definitions: list[StepDef] = field(default_factory=list)
    commits: list[tuple[Lsn, Commit]] = field(default_factory=list)
    routes: list[Route] = field(default_factory=list)
    done: list[StepDone] = field(default_factory=list)
    reused: list[Reuse] = field(default_factory=list)
    others: list[RunBegin | RunEnd] = field(default_factory=list)
    ending: list[RunBegin | Emit | RunEnd] = field(default_factory=list)
    records: dict[Place, Packed] = field(default_factory=dict)
    lineages: dict[int, Digest] = field(default_factory=dict)
    datasets: dict[str, str] = field(default_factory=dict)
    saved: dict[Parts, str] = field(default_factory=dict)


def check(pack: PackReader) -> Checked:
    """Check everything of a pack that concerns a store.

    Raises:
        FormatError: Something is not what an export writes.
        CorruptRecord: Something does not fit its hash.
    """
    return _Checking(pack).run()


class _Checking:
    """One check; every method refuses what it does not know."""

    def __init__(self, pack: PackReader) -> None:
        self._pack = pack
        manifest = pack.manifest
        try:
            name = bytes.fromhex(manifest.pipeline).decode("utf-8", "surrogatepass")
            self._store_id = bytes.fromhex(manifest.store)
        except (ValueError, UnicodeError):
            raise self._foreign("its manifest names no pipeline and store") from None
        self._need(len(self._store_id) == STORE_ID_BYTES, "its manifest names no store")
        self._need(_RUN.fullmatch(manifest.run) is not None, "its manifest names no run")
        self._found = Checked(name, RunId(manifest.run))

    def run(self) -> Checked:
        found = self._found
        for name in self._pack.names():
            if name.startswith("rows/"):
                self._rows(name)
        for lsn, event in read_frames(self._pack):
            self._event(lsn, event)
        lsns = {lsn for lsn, _ in found.commits}
        self._need(
            all(lsn in lsns for reuse in found.reused for lsn in reuse.commits),
            "it reuses commits that it does not hold",
        )
        defined = {definition.lineage for definition in found.definitions}
        self._need(
            all(commit.lineage in defined for _, commit in found.commits),
            "a commit is of a step that it does not define",
        )
        self._ending()
        try:
            work = ((commit.run, commit.lineage) for _, commit in found.commits)
            found.saved = read_saved(self._pack, work, found.definitions)
        except Misnamed as error:
            raise self._foreign(str(error)) from None
        return found

    # --- rows --------------------------------------------------------------------------------

    def _rows(self, member: str) -> None:
        pack, found = self._pack, self._found
        number = int(member.rpartition("/")[2])
        parsed = parse_file_header(
            pack.part(member, 0, FILE_HEADER_BYTES), FileKind.SEGMENT, number, self._store_id
        )
        if parsed is None:
            raise self._damaged(f"{member} does not begin as a segment does")
        found.lineages[number] = Digest(parsed[0].owner)
        seed = file_seed(self._store_id, FileKind.SEGMENT, number)
        at, size, last = FILE_HEADER_BYTES, pack.size(member), 0
        while at < size:
            header = parse_header(pack.part(member, at, HEADER_BYTES), 0, seed)
            if header is None or header.type != RecordType.ROWS or header.size > _MOST_ROW_BYTES:
                raise self._damaged(f"{member} holds no record of rows at offset {at}")
            payload = pack.part(member, at + HEADER_BYTES, header.size - HEADER_BYTES)
            if not payload_fits(header, payload, seed) or header.position <= last:
                raise self._damaged(f"{member} holds a damaged record at offset {at}")
            last = header.position
            meta, body = payload[: header.meta_bytes], payload[header.meta_bytes :]
            digests = self._table(member, meta, body[: header.body_bytes])
            ref = BatchRef(
                number,  # type: ignore[arg-type]
                header.position,
                header.size,
                len(digests) // _DIGEST_BYTES,
                header.checksum,
                Digest(xxh3_128_digest(digests)),
            )
            start = at + HEADER_BYTES
            found.records[number, header.position] = Packed(
                member, start, header.meta_bytes, header.body_bytes, ref, digests
            )
            at += header.size

    def _table(self, member: str, meta: bytes, body: bytes) -> bytes:
        """Digests of the rows, after comparing each with its row."""
        count = _TABLE.unpack_from(meta)[0] if len(meta) >= _TABLE.size else 0
        self._need(
            count > 0 and len(meta) == _TABLE.size + 4 * (count + 1) + _DIGEST_BYTES * count,
            f"a record of {member} has no table",
        )
        offsets = struct.unpack_from(f"<{count + 1}I", meta, _TABLE.size)
        digests = meta[-_DIGEST_BYTES * count :]
        self._need(
            offsets[0] == 0
            and offsets[-1] == len(body)
            and all(one <= other for one, other in pairwise(offsets)),
            f"a table of {member} points outside",
        )
        view = memoryview(body)
        rows = (xxh3_128_digest(view[one:other]) for one, other in pairwise(offsets))
        if b"".join(rows) != digests:
            raise self._damaged(f"rows of {member} do not fit their digests")
        decode_rows(body, count)
        return digests

    # --- events ------------------------------------------------------------------------------

    def _event(self, lsn: Lsn, event: Event) -> None:
        found = self._found
        match event:
            case Commit():
                self._commit(event)
                self._need(not found.commits or found.commits[-1][0] < lsn, "commits out of order")
                found.commits.append((lsn, event))
            case StepDef(lineage=lineage):
                self._need(len(lineage) == _DIGEST_BYTES, "a step has no lineage")
                found.definitions.append(event)
            case Route():
                self._need(
                    len(event.lineage) == len(event.input_digest) == _DIGEST_BYTES,
                    "a decision of a router has no lineage",
                )
                found.routes.append(event)
            case StepDone():
                self._need(event.rows >= 0, "a step has less than no rows")
                found.done.append(event)
            case Reuse():
                self._need(event.run == found.run, "another run reuses something")
                found.reused.append(event)
            case RunBegin() | RunEnd() | Emit():
                self._of_run(event)
            case Tombstone() | Moved():
                raise self._foreign("it holds what only the log of one store can mean")
            case _:
                pass  # outside effects of another machine are none of this one's

    def _of_run(self, event: RunBegin | RunEnd | Emit) -> None:
        found = self._found
        self._need(_RUN.fullmatch(event.run) is not None, "a run has no id")
        if event.run == found.run:
            found.ending.append(event)
        elif isinstance(event, Emit):
            raise self._foreign("it holds a dataset of another run")
        elif isinstance(event, RunBegin) or not event.completed:
            found.others.append(event)
        else:
            raise self._foreign("it says that another run completed")

    def _commit(self, commit: Commit) -> None:
        self._need(
            len(commit.lineage) == _DIGEST_BYTES and _RUN.fullmatch(commit.run) is not None,
            "a commit has no run or lineage",
        )
        for ref in commit.outputs:
            self._record(ref)
        rows = [sum(part.rows for part in port) for port in commit.inputs]
        self._need(
            all(
                0 <= part.start < part.stop <= part.ref.rows
                for port in commit.inputs
                for part in port
            ),
            "a commit was made of rows that are not there",
        )
        if commit.inputs:
            digests = tuple(map(self._content, commit.inputs))
            if digests != commit.input_digests:
                raise self._damaged("a commit was made of other rows than it says")
        self._origins(commit, max(rows, default=0))

    def _origins(self, commit: Commit, rows_in: int) -> None:
        rows_out = sum(ref.rows for ref in commit.outputs)
        origins = commit.origins
        index, child = origins.index, origins.child
        ascending = all(one <= other for one, other in pairwise(index))
        inside = not index or 0 <= index[0] <= index[-1] < rows_in
        self._need(
            {
                "same": rows_in == rows_out and not index,
                "fresh": not index,
                "subset": len(index) == rows_out and ascending and inside and not child,
                "children": len(index) == len(child) == rows_out and ascending and inside,
            }.get(origins.kind, False),
            "a commit does not say where its rows come from",
        )
        for failed in commit.failures:
            self._need(
                0 <= failed.input_row < max(rows_in, 1) and -1 <= failed.output_row < rows_out,
                "a row failed that is not there",
            )

    def _content(self, port: Iterable[RowSlice]) -> Digest:
        digests = []
        for part in port:
            all_of_it = self._record(part.ref).digests
            digests.append(all_of_it[part.start * _DIGEST_BYTES : part.stop * _DIGEST_BYTES])
        return content_digest(b"".join(digests))

    def _record(self, ref: BatchRef) -> Packed:
        found = self._found.records.get((ref.segment, ref.offset))
        if found is None or found.ref != ref:
            raise self._damaged("a commit names rows that it does not hold")
        return found

    # --- the run -----------------------------------------------------------------------------

    def _ending(self) -> None:
        found, pack = self._found, self._pack
        begins = [event for event in found.ending if isinstance(event, RunBegin)]
        ends = [event for event in found.ending if isinstance(event, RunEnd)]
        emits = [event for event in found.ending if isinstance(event, Emit)]
        self._need(
            bool(begins and ends and emits) and ends[-1].completed, "its run did not complete"
        )
        self._need(all(emit.key == ends[-1].key for emit in emits), "a dataset has another key")
        for emit in emits:
            for path, digest in emit.files:
                name = dataset_name(path, found.run)
                if name is None or name not in pack.names():
                    raise self._foreign(f"it does not hold the dataset file {path!r}")
                whole = xxh3_128()
                for piece in pack.pieces(name):
                    whole.update(piece)
                if whole.digest() != digest:
                    raise self._damaged(f"{name} is not the dataset that the run made")
                found.datasets[path] = name
        extra = {name for name in pack.names() if name.startswith("datasets/")}
        self._need(extra == set(found.datasets.values()), "it holds datasets of no run")
        # One beginning, the last: earlier ones say nothing but that it was taken up again.
        found.ending = [begins[-1], *_newest(emits), ends[-1]]

    def _need(self, good: bool, otherwise: str) -> None:
        if not good:
            raise self._foreign(otherwise)

    def _foreign(self, reason: str) -> FormatError:
        return FormatError(
            f"{self._pack.path} can't be taken in: {reason}. Nothing was taken in; get a file that "
            "`asyncdistil cache export` wrote"
        )

    def _damaged(self, reason: str) -> CorruptRecord:
        return CorruptRecord(
            f"{self._pack.path} is damaged: {reason}. Nothing was taken in; get the file again",
            path=str(self._pack.path),
        )


def _newest(emits: Sequence[Emit]) -> list[Emit]:
    return list({emit.leaf: emit for emit in emits}.values())
