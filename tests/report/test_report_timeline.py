"""The time line of workers: what it draws is what the log says, and long runs stay small."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncdistil.batch import SAME_ORIGINS, Digest, Origins, RowSlice, RunId
from asyncdistil.codec import encode_rows
from asyncdistil.log import SegmentWriter, Store
from asyncdistil.log.events import Commit, RunBegin, RunEnd, StepDef
from asyncdistil.pipeline import Pipeline
from asyncdistil.pipeline.options import RunOptions
from asyncdistil.pipeline.planning import build_plan
from asyncdistil.report import page_of
from asyncdistil.report.timeline import busy_shares, ticks, timeline_of
from asyncdistil.steps import LoadDataFromDicts, RowStep, StepResources
from asyncdistil.supervisor.stored_run import StoredRun

STEPS = 1_000
ROW = {"text": "<script>alert('&')</script>" * 60}


class Echo(RowStep):
    inputs = property(lambda self: ["text"])
    outputs = property(lambda self: ["text"])

    def transform(self, row: dict[str, object]) -> dict[str, object]:
        if row["text"] == "bad":
            raise ValueError("bad text")
        return row


works = st.lists(
    st.tuples(st.floats(0, 10), st.floats(0, 10)).map(lambda pair: (min(pair), max(pair)))
)


@given(works, st.integers(1, 50))
def test_a_slot_is_as_busy_as_the_work_in_it(works: list[tuple[float, float]], slots: int) -> None:
    shares = busy_shares(works, 10.0, slots)
    size = 10.0 / slots
    for number, share in enumerate(shares):
        low, high = number * size, (number + 1) * size
        inside = sum(max(0.0, min(end, high) - max(begin, low)) for begin, end in works)
        assert share == pytest.approx(min(inside / size, 1.0), abs=1e-6)


UNITS = {"s": 1.0, "min": 60.0, "h": 3600.0}


@given(st.floats(1e-4, 1e7))
def test_ticks_are_round_numbers_and_say_where_they_stand(seconds: float) -> None:
    found = ticks(seconds)
    assert 2 <= len(found) - 1 <= 6
    for at, label in found:
        number, unit = label.split()
        assert float(number) * UNITS[unit] == pytest.approx(at, rel=1e-9)
        assert at <= seconds * (1 + 1e-6)
    step = found[1][1].split()[0]
    assert re.fullmatch(r"0?\.?0*[125]0*", step), step
    assert found[-1][0] + found[1][0] > seconds * (1 - 1e-6)


@pytest.mark.parametrize(
    ("seconds", "labels"),
    [
        (0.0, ["0 s"]),
        (0.31, ["0.0 s", "0.1 s", "0.2 s", "0.3 s"]),
        (60.0, ["0 s", "10 s", "20 s", "30 s", "40 s", "50 s", "60 s"]),
        (119.0, ["0 s", "20 s", "40 s", "60 s", "80 s", "100 s"]),
        (125.0, ["0.0 min", "0.5 min", "1.0 min", "1.5 min", "2.0 min"]),
        (36_000.0, ["0 h", "2 h", "4 h", "6 h", "8 h", "10 h"]),
    ],
)
def test_the_unit_of_ticks_fits_the_length(seconds: float, labels: list[str]) -> None:
    assert [label for _, label in ticks(seconds)] == labels


def test_every_worker_has_a_lane_with_its_work_and_its_failures(tmp_path: Path) -> None:
    with Pipeline("lanes", cache_dir=tmp_path) as pipeline:
        rows = [{"text": "bad" if n == 7 else str(n)} for n in range(40)]
        load = LoadDataFromDicts(name="load", data=rows, batch_size=2)
        load >> Echo(name="echo", input_batch_size=2, resources=StepResources(replicas=2))
    pipeline.run()
    run = StoredRun.open(tmp_path, "lanes")
    assert run is not None
    with run:
        timeline = timeline_of(run)
        page = page_of("lanes", run)
        commits = [c for step in run.steps.values() for _, c in step.commits]
    workers = {(lane.step, lane.place) for lane in timeline.lanes}
    assert ("load", 1) in workers
    assert {place for step, place in workers if step == "echo"} <= {1, 2}
    assert sum(len(lane.works) for lane in timeline.lanes) == len(commits)
    assert sum(len(lane.failures) for lane in timeline.lanes) == 1
    assert timeline.seconds == max(commit.at_seconds for commit in commits) > 0
    assert timeline.untimed == 0
    lanes = re.search(r'aria-label="time line of (\d+) workers"', page)
    assert lanes is not None
    assert int(lanes.group(1)) == len(workers)


@pytest.fixture(scope="module")
def thousand(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store as a run of a thousand steps leaves it, without the thousand processes."""
    folder = tmp_path_factory.mktemp("thousand")
    with Pipeline("thousand", cache_dir=folder) as pipeline:
        last = LoadDataFromDicts(name="load", data=[ROW])
        for number in range(1, STEPS):
            last = last >> Echo(name=f"step-{number}")
    plan = build_plan(pipeline, RunOptions()).outline
    run = RunId("f" * 32)
    lineages = tuple(step.lineage for step in plan.steps)
    store = Store.open(folder, "thousand", mode="process")
    begin = RunBegin(run, plan.signature, plan.aggregated_signature, b"", 0.0, False, lineages)
    segment, fd = store.create_segment(lineages[0])
    (ref,) = SegmentWriter(fd, segment, store.id).append(encode_rows([ROW], step="load"))

    def commits() -> Iterator[Commit]:
        for number, step in enumerate(plan.steps):
            first = step.data_identity is not None
            yield Commit(
                run,
                step.lineage,
                () if first else ((RowSlice(ref, 0, 1),),),
                (step.data_identity or Digest(ref.digest),),
                (ref,),
                Origins("fresh") if first else SAME_ORIGINS,
                seconds=0.5,
                worker=number + 1,
                at_seconds=number + 1.0,
            )

    store.append([begin, *(StepDef(s.lineage, s.name, s.definition) for s in plan.steps)])
    store.append([*commits()])
    store.append([RunEnd(run, True, Digest(bytes(16)), 0, "", 1000.0)])
    store.close(clean=True)
    return folder


def test_the_page_of_a_thousand_steps_stays_below_two_megabytes(thousand: Path) -> None:
    run = StoredRun.open(thousand, "thousand")
    assert run is not None
    with run:
        assert len(run.steps) == STEPS
        page = page_of("thousand", run)
    assert len(page.encode()) < 2_000_000
    assert page.count("<title>step-999") >= 1
