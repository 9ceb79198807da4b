"""Stored work is found by content, handed out once, and never stands for anything else."""

from __future__ import annotations

from typing import Any

import pytest

from asyncdistil.batch import (
    Digest,
    Failure,
    IdRun,
    Lsn,
    Origins,
    RowFailure,
    RowSlice,
    RunId,
)
from asyncdistil.log.events import Commit
from asyncdistil.supervisor.chunk import Chunk, read_by
from asyncdistil.supervisor.reuse import BatchMemory, RowMemory, generator_chain, replay
from asyncdistil.testing.simulation import Segments

LINEAGE = Digest(b"l" * 16)
SAME = Origins("same")


class Scene:
    """Commits of a step that adds ten, over rows written to a pretend segment."""

    def __init__(self) -> None:
        self.segments = Segments()
        self.commits: list[tuple[Lsn, Commit]] = []

    def chunk(self, *values: Any, first: int = 0) -> Chunk:
        (ref,) = self.segments.write(1, values)
        return Chunk(
            key=(first,),
            ports=((RowSlice(ref, 0, ref.rows),),),
            runs=(IdRun((), first, len(values)),),
            rows=len(values),
        )

    def commit(self, *values: int, run: str = "one", failed: tuple[int, ...] = ()) -> None:
        chunk = self.chunk(*values)
        outputs = self.segments.write(2, [value + 10 for value in values])
        commit = Commit(
            run=RunId(run),
            lineage=LINEAGE,
            inputs=chunk.ports,
            input_digests=(self.segments.digest(chunk.ports[0]),),
            outputs=outputs,
            origins=SAME,
            failures=tuple(RowFailure(at, at, Failure("E", "x")) for at in failed),
        )
        self.commits.append((Lsn(len(self.commits) + 1), commit))

    def rows(self, *, share: bool = False, retry: bool = True) -> RowMemory:
        return RowMemory(self.commits, self.segments, share=share, retry_failed=retry)

    def found(self, memory: RowMemory | BatchMemory, chunk: Chunk) -> list[Any]:
        """Output values, or ``None`` for each row that must run."""
        out: list[Any] = []
        for match in memory.match(chunk):
            if match.hit is None:
                out += [None] * (match.stop - match.start)
                continue
            part = Chunk(
                key=chunk.key,
                ports=chunk.ports,
                runs=(IdRun((), match.start, match.stop - match.start),),
                rows=match.stop - match.start,
            )
            output, _ = replay(part, match.hit)
            out += self.segments.values(output.ports[0]) if output else []
        return out


@pytest.fixture
def scene() -> Scene:
    return Scene()


def test_rows_are_found_whatever_batch_they_stood_in(scene: Scene) -> None:
    scene.commit(1, 2, 3, 4)
    scene.commit(5, 6)
    assert scene.found(scene.rows(), scene.chunk(6, 1, 9, 4, 5)) == [16, 11, None, 14, 15]


def test_a_whole_batch_is_found_without_reading_a_table(scene: Scene) -> None:
    scene.commit(1, 2, 3)
    memory = RowMemory(scene.commits, None, share=False, retry_failed=True)  # type: ignore[arg-type]
    assert scene.found(memory, scene.chunk(1, 2, 3)) == [11, 12, 13]


def test_equal_rows_get_as_many_answers_as_are_stored_and_no_more(scene: Scene) -> None:
    scene.commit(1, 1, 2)
    memory = scene.rows()
    assert scene.found(memory, scene.chunk(1, 1, 1, 2)) == [11, 11, None, 12]
    assert scene.found(memory, scene.chunk(2)) == [None]


def test_a_step_that_does_not_sample_shares_its_answers(scene: Scene) -> None:
    scene.commit(1)
    assert scene.found(scene.rows(share=True), scene.chunk(1, 1, 1)) == [11, 11, 11]


def test_the_newest_run_answers_first(scene: Scene) -> None:
    scene.commit(1, 2, run="old")
    scene.commit(2, run="new")
    memory = scene.rows()
    (match,) = memory.match(scene.chunk(2))
    assert match.hit is not None
    assert match.hit.commit.run == "new"
    (again,) = memory.match(scene.chunk(2))
    assert again.hit is not None
    assert again.hit.commit.run == "old"


def test_a_failed_row_is_a_miss_and_its_neighbours_are_not(scene: Scene) -> None:
    scene.commit(1, 2, 3, failed=(1,))
    assert scene.found(scene.rows(), scene.chunk(1, 2, 3)) == [11, None, 13]
    assert scene.found(scene.rows(), scene.chunk(2, 3)) == [None, 13]
    assert scene.found(scene.rows(retry=False), scene.chunk(1, 2, 3)) == [11, 12, 13]


def test_a_row_that_failed_several_times_over_is_one_miss(scene: Scene) -> None:
    scene.commit(1, 2, 3, failed=(1, 1))
    assert scene.found(scene.rows(), scene.chunk(1, 2, 3)) == [11, None, 13]


def test_a_later_success_stands_for_a_row_that_failed_before(scene: Scene) -> None:
    scene.commit(1, 2, 3, failed=(1,))
    scene.commit(2)
    assert scene.found(scene.rows(), scene.chunk(1, 2, 3)) == [11, 12, 13]


def test_a_batch_is_found_only_as_a_whole(scene: Scene) -> None:
    scene.commit(1, 2)
    scene.commit(1, 2)
    memory = BatchMemory(scene.commits, scene.segments, retry_failed=True)
    assert scene.found(memory, scene.chunk(1)) == [None]
    assert scene.found(memory, scene.chunk(2, 1)) == [None, None]
    assert scene.found(memory, scene.chunk(1, 2)) == [11, 12]
    assert scene.found(memory, scene.chunk(1, 2)) == [11, 12]
    assert scene.found(memory, scene.chunk(1, 2)) == [None, None]


def test_a_batch_with_a_failure_runs_again(scene: Scene) -> None:
    scene.commit(1, 2, failed=(0,))
    retried = BatchMemory(scene.commits, scene.segments, retry_failed=True)
    served = BatchMemory(scene.commits, scene.segments, retry_failed=False)
    assert scene.found(retried, scene.chunk(1, 2)) == [None, None]
    assert scene.found(served, scene.chunk(1, 2)) == [11, 12]


def test_filtered_and_expanded_rows_come_back_from_the_middle_of_a_commit(scene: Scene) -> None:
    chunk = scene.chunk(1, 2, 3, 4)
    outputs = scene.segments.write(2, ["2a", "2b", "4"])
    origins = Origins("children", (1, 1, 3), (0, 1, -1))
    digests = (scene.segments.digest(chunk.ports[0]),)
    commit = Commit(RunId("one"), LINEAGE, chunk.ports, digests, outputs, origins)
    scene.commits.append((Lsn(1), commit))
    assert scene.found(scene.rows(), scene.chunk(2, 3)) == ["2a", "2b"]
    assert scene.found(scene.rows(), scene.chunk(4, 1)) == ["4"]
    (match,) = scene.rows().match(scene.chunk(2, first=7))
    assert match.hit is not None
    output, _ = replay(scene.chunk(2, first=7), match.hit)
    assert output is not None
    assert output.runs == (IdRun((7,), 0, 2),)


def test_a_generator_is_replayed_without_a_gap_and_only_for_its_own_data(scene: Scene) -> None:
    data, other = Digest(b"d" * 16), Digest(b"e" * 16)

    def commit(ordinal: int, rows: int, identity: Digest = data) -> Commit:
        outputs = scene.segments.write(1, list(range(rows)))
        origins = Origins("fresh")
        return Commit(RunId("r"), LINEAGE, (), (identity,), outputs, origins, ordinal=ordinal)

    stored = [(Lsn(at), c) for at, c in enumerate([commit(0, 5), commit(5, 5), commit(15, 5)], 1)]
    assert [lsn for lsn, _ in generator_chain(stored, data)] == [1, 2]
    assert generator_chain(stored, other) == []
    newer = [*stored, (Lsn(4), commit(5, 10))]
    assert [lsn for lsn, _ in generator_chain(newer, data)] == [1, 4, 3]


def test_a_reader_that_skips_failed_rows_sees_the_others_in_order(scene: Scene) -> None:
    (ref,) = scene.segments.write(1, list("abcdef"))
    chunk = Chunk(
        key=(0,),
        ports=((RowSlice(ref, 0, 6),),),
        runs=(IdRun((), 0, 6),),
        rows=6,
        failed=(0, 3, 4),
    )
    parts = read_by(chunk, "skip")
    assert [scene.segments.values(part.ports[0]) for part in parts] == [["b", "c"], ["f"]]
    assert [part.runs for part in parts] == [(IdRun((), 1, 2),), (IdRun((), 5, 1),)]
    assert read_by(chunk, "null") == [chunk]
