"""What the progress display foresees and draws, and that a notebook gets it too."""

import logging
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from asyncdistil.batch import StepName, Usage
from asyncdistil.cli.bars import frame
from asyncdistil.graph.plan import EdgePlan, RunPlan, StepKind, StepPlan
from asyncdistil.pipeline import Pipeline
from asyncdistil.pipeline.outlook import Outlook
from asyncdistil.steps import LoadDataFromDicts, RowStep
from asyncdistil.supervisor.progress import Progress, StepProgress


def step(name: str, *above: str, kind: StepKind = "row", routed: bool = False) -> StepPlan:
    edges = tuple(EdgePlan(StepName(up), routed=routed) for up in above)
    return StepPlan(StepName(name), kind, edges, bytes(16), b"", "any", b"")  # type: ignore[arg-type]


def outlook(*steps: StepPlan, **sources: int) -> Outlook:
    plan = RunPlan("p", "", "", b"", steps, (), (), ())
    return Outlook(plan, {StepName(name): rows for name, rows in sources.items()})


CHAIN = (step("load", kind="generator"), step("expand", "load"), step("judge", "expand"))


def counters(computed: int = 0, rows: int | None = None, **more: object) -> StepProgress:
    made = computed if rows is None else rows
    return StepProgress(inputs_computed=computed, rows_computed=made, **more)  # type: ignore[arg-type]


def test_totals_are_known_as_soon_as_the_source_is_known() -> None:
    progress: Progress = {each.name: StepProgress() for each in CHAIN}
    assert outlook(*CHAIN).totals(progress) == {"load": None, "expand": None, "judge": None}
    assert outlook(*CHAIN, load=80).totals(progress) == {"load": 80, "expand": 80, "judge": 80}


def test_a_step_that_expands_rows_is_taken_to_go_on_as_it_began() -> None:
    progress: Progress = {
        StepName("load"): counters(0, 80, done=True),
        StepName("expand"): counters(20, 60),
        StepName("judge"): counters(5),
    }
    assert outlook(*CHAIN).totals(progress) == {"load": 80, "expand": 80, "judge": 240}


def test_behind_a_router_and_below_a_barrier_nothing_is_foreseen() -> None:
    steps = (
        step("load", kind="generator"),
        step("all", "load", kind="global"),
        step("some", "load", routed=True),
        step("after", "all"),
    )
    progress: Progress = {each.name: StepProgress() for each in steps}
    foreseen = outlook(*steps, load=9).totals(progress)
    assert foreseen == {"load": 9, "all": 9, "some": None, "after": None}


def test_what_remains_is_told_by_the_slowest_step() -> None:
    made = outlook(*CHAIN, load=100)
    progress: Progress = {
        StepName("load"): counters(0, 100, done=True),
        StepName("expand"): counters(0),
        StepName("judge"): counters(0),
    }
    assert made.remaining(progress) is None
    made.look(progress, 10.0)
    progress[StepName("expand")] = counters(40)
    progress[StepName("judge")] = counters(20)
    made.look(progress, 20.0)
    assert made.remaining(progress) == (40.0, False)
    assert made.rates()[StepName("expand")].rows == 4.0


@pytest.mark.parametrize("width", [40, 80, 100, 200])
@pytest.mark.parametrize("steps", [1, 4, 1000])
def test_a_frame_fits_its_screen(width: int, steps: int) -> None:
    plans = [step("load", kind="generator")]
    plans += [step(f"step_{n}", plans[-1].name) for n in range(steps)]
    made = outlook(*plans, load=20_000)
    usage = Usage(400, 20, 10_000, 4_000, 123_000)
    progress: Progress = {each.name: counters(12, failed=1, usage=usage) for each in plans}
    made.look(progress, 0.0)
    made.look(progress, 5.0)
    lines = frame(made, progress, seconds=5.0, width=width, height=20).plain.splitlines()
    assert len(lines) <= 20
    if width >= 80:
        assert max(len(line) for line in lines[:-1]) <= width
    assert "computed" in lines[0]
    assert "replayed" in lines[0]
    assert ("not shown" in lines[-1]) == (steps == 1000)


def test_a_bar_tells_replayed_computed_and_failed_rows_apart() -> None:
    made = outlook(*CHAIN[:2], load=100)
    progress: Progress = {
        StepName("load"): counters(0, 100, done=True),
        StepName("expand"): counters(25, failed=10, inputs_replayed=25),
    }
    drawn = frame(made, progress, seconds=1.0, width=120, height=10)
    bars = [
        (str(span.style), span.end - span.start)
        for span in drawn.spans
        if set(drawn.plain[span.start : span.end]) == {"━"}
    ]
    assert bars == [("green", 24), ("cyan", 6), ("green", 4), ("red", 2), ("bright_black", 12)]


NOTEBOOK = """
import asyncdistil
from asyncdistil.pipeline import Pipeline
from asyncdistil.steps import LoadDataFromDicts, RowStep

class Keep(RowStep):
    def transform(self, row):
        return row

with Pipeline("notebook", cache_dir="cache") as pipeline:
    LoadDataFromDicts(name="load", data=[{"n": n} for n in range(30)]) >> Keep(name="keep")
with asyncdistil.show_progress():
    pipeline.run()
"""


def test_a_notebook_shows_the_bars_in_the_output_of_its_cell(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    place = tmp_path_factory.mktemp("notebook")
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(NOTEBOOK)])
    client = NotebookClient(notebook, timeout=60, resources={"metadata": {"path": str(place)}})
    client.execute()
    outputs = notebook.cells[0].outputs
    pages = [out["data"]["text/html"] for out in outputs if "text/html" in out.get("data", {})]
    bars = [page for page in pages if "keep" in page and "replayed" in page]
    assert len(bars) == 1
    assert "done" in bars[0]
    assert any("done in" in str(out) for out in outputs)


class Talk(RowStep):
    def transform(self, row: dict[str, Any]) -> dict[str, Any]:
        logging.getLogger("mine").warning("logged %s", row["n"])
        sys.stdout.write(f"printed {row['n']}\n")
        return row


def test_logging_is_left_as_it_was_and_what_a_worker_says_bears_its_step(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root, own = logging.getLogger(), logging.getLogger("asyncdistil")
    before = [*root.handlers], root.level, [*own.handlers], own.level, own.propagate
    with Pipeline("talk", cache_dir=tmp_path) as pipeline:
        LoadDataFromDicts(name="load", data=[{"n": 7}]) >> Talk(name="talk")
    with caplog.at_level(logging.INFO, "asyncdistil"):
        pipeline.run()
    after = [*root.handlers], root.level, [*own.handlers], own.level, own.propagate
    assert after == before
    said = [record.getMessage() for record in caplog.records if "7" in record.getMessage()]
    assert {"[talk] logged 7", "[talk] printed 7"} <= set(said)
    assert {record.name.partition(".")[0] for record in caplog.records} == {"asyncdistil"}
