"""Whole runs with fewer open files than they need, from the start or from some moment on."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from asyncdistil.testing.crash import Scene

ROWS, SIZE = 200, 20
LIMITS = (3, 5, 9, 11, 16, 22, 28)
"""Each is too low for another part of a run; what it is that fails first may change."""

SCRIPT = """
import json
import os
import resource
import signal
from pathlib import Path

from asyncdistil.pipeline import Pipeline
from asyncdistil.steps import LoadDataFromDicts, Step, StepInput
from asyncdistil.testing.crash import visit

HARD = resource.getrlimit(resource.RLIMIT_NOFILE)[1]


def limited():
    # Asked for at run time: a constant would be part of what the steps are.
    return os.environ["LIMITED"]


def limit(pid, files):
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (int(files), HARD))


class Add(Step):
    row_wise: bool = True

    @property
    def outputs(self) -> list[str]:
        return [self.name]

    def load(self) -> None:
        super().load()
        if (self.name, limited()) == ("b", "worker"):
            limit(os.getpid(), 3)  # what is open stays so

    def process(self, inputs: StepInput):
        numbers = [row["x"] for row in inputs]
        visit(self.name, numbers)
        if (self.name, limited()) == ("b", "supervisor later") and ROWS // 2 in numbers:
            # It needs a segment and a socket for the worker that takes the place of this one.
            limit(int(os.environ["SUPERVISOR"]), 3)
            os.kill(os.getpid(), signal.SIGKILL)
        for row in inputs:
            row[self.name] = row["x"] + 1
        yield inputs


if __name__ == "__main__":
    os.environ["SUPERVISOR"] = str(os.getpid())
    if limited().isdecimal():
        limit(os.getpid(), limited())
    with Pipeline(name="scene", cache_dir="cache") as pipeline:
        step = LoadDataFromDicts(data=[{"x": x} for x in range(ROWS)], batch_size=SIZE)
        for name in "abc":
            add = Add(name=name, input_batch_size=SIZE)
            step >> add
            step = add
    distiset = pipeline.run()
    Path("result.json").write_text(json.dumps(distiset.table("default").to_pylist()))
"""


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path / "scene", f"ROWS, SIZE = {ROWS}, {SIZE}\n" + SCRIPT)


def stopped(scene: Scene, limited: str) -> None:
    """Run until an error of ours that names the limit; nothing is left over but the store."""
    ended = scene.run(environment={"LIMITED": limited})
    assert ended.returncode == 1, ended.errors[-2000:]
    *_, last = ended.errors.splitlines()
    assert last.startswith("asyncdistil.errors."), ended.errors[-2000:]
    assert "Too many open files" in last
    assert "raise `ulimit -n`" in last
    assert scene.processes() == []
    assert scene.locks() == scene.leftovers() == []


def completed(scene: Scene) -> None:
    ended = scene.run(environment={"LIMITED": "nobody"})
    assert ended.returncode == 0, ended.errors[-2000:]
    rows = json.loads((scene.folder / "result.json").read_text())
    assert rows == [{"x": x, "a": x + 1, "b": x + 1, "c": x + 1} for x in range(ROWS)]
    assert scene.processes() == []
    assert scene.locks() == scene.leftovers() == []


def test_a_run_that_may_open_too_few_files_says_so_and_is_completed_without_the_limit(
    scene: Scene,
) -> None:
    for files in LIMITS:
        stopped(scene, str(files))
    completed(scene)


def test_a_run_that_can_open_no_more_files_keeps_what_it_has_computed(scene: Scene) -> None:
    stopped(scene, "supervisor later")
    before = Counter(scene.visits("a"))
    assert len(before) > ROWS // 2
    completed(scene)
    # The rows that the killed worker of the next step had were committed by this one.
    again = Counter(scene.visits("a")) - before
    assert not set(again) & set(range(ROWS // 2 + SIZE))


def test_a_worker_that_can_open_no_more_files_stops_the_run_and_fails_no_row(scene: Scene) -> None:
    stopped(scene, "worker")
    completed(scene)
    assert set(Counter(scene.visits("b")).values()) == {1}
