from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from asyncdistil.batch import SAME_ORIGINS, BatchRef, Digest, Row, RowSlice, RunId
from asyncdistil.codec import encode_rows
from asyncdistil.log import Files, SegmentWriter, Store, StoreReader
from asyncdistil.log.events import Commit
from asyncdistil.log.failpoint import arm as arm_failpoints

RUN = RunId("0" * 31 + "1")
LINEAGE = Digest(b"lineage of a st1")


class Writer:
    """A store with one worker's segment, driven from one thread."""

    def __init__(self, store: Store, files: Files | None = None) -> None:
        self.store = store
        segment, fd = store.create_segment(LINEAGE)
        self.segment = SegmentWriter(fd, segment, store.id, files)

    def commit(self, number: int, *, lineage: Digest = LINEAGE, rows: int = 2) -> int:
        """Append rows that carry a number, and the commit that names them; its LSN."""
        refs = self.segment.append(encode_rows(Kit.rows(number, rows), step="s"))
        return self.store.append([Kit.commit(refs, lineage, number)])[0]


class Kit:
    """What the tests of this room share."""

    run = RUN
    lineage = LINEAGE
    writer = Writer

    @staticmethod
    def rows(number: int, rows: int = 2) -> list[Row]:
        return [{"number": number, "row": i, "text": "x" * (number % 60)} for i in range(rows)]

    @staticmethod
    def commit(refs: tuple[BatchRef, ...], lineage: Digest = LINEAGE, ordinal: int = 0) -> Commit:
        inputs = tuple(RowSlice(ref, 0, ref.rows) for ref in refs)
        digests = tuple(ref.digest for ref in refs)
        return Commit(RUN, lineage, (inputs,), digests, refs, SAME_ORIGINS, ordinal=ordinal)

    @staticmethod
    def numbers(store: Store | StoreReader, lineage: Digest = LINEAGE) -> list[int]:
        """Numbers of the commits in a store, after reading every row of them."""
        reader = store.reader()
        try:
            found = []
            for _, commit in store.commits(lineage):
                rows = [
                    row for ref in commit.outputs for row in reader.rows(RowSlice(ref, 0, ref.rows))
                ]
                assert rows == Kit.rows(commit.ordinal, len(rows))
                found.append(commit.ordinal)
            return found
        finally:
            reader.close()


@pytest.fixture(scope="session")
def kit() -> type[Kit]:
    return Kit


@pytest.fixture
def arm() -> Iterator[Callable[[str], None]]:
    """Arm failpoints for one test."""
    yield arm_failpoints
    arm_failpoints("")


@pytest.fixture
def cache_dir(tmp_path: Path) -> Path:
    return tmp_path / "cache"
