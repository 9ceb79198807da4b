"""Processes that a step puts into a session of their own, which outlive what they came from."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from asyncdistil.testing.crash import Scene, Strike

ROWS = 200

SCRIPT = '''
import json
import os
import time
from pathlib import Path

from asyncdistil.pipeline import Pipeline
from asyncdistil.steps import LoadDataFromDicts, Step, StepInput
from asyncdistil.testing.crash import visit


class Parent(Step):
    """Has a daemon that inherits every descriptor, as one forked by hand does."""

    row_wise: bool = True
    memoize: bool = True

    @property
    def inputs(self):
        return ["x"]

    @property
    def outputs(self):
        return ["y"]

    def process(self, inputs: StepInput):
        if inputs[0]["x"] == ROWS // 4:
            read, write = os.pipe()
            if os.fork() == 0:
                os.setsid()
                with Path("daemons").open("a") as file:
                    file.write(f"{os.getpid()}\\n")
                os.write(write, b".")
                time.sleep(3600)
                os._exit(0)
            os.read(read, 1)
        visit("parent", [row["x"] for row in inputs])
        yield [row | {"y": row["x"] + 1} for row in inputs]


if __name__ == "__main__":
    with Pipeline(name="scene", cache_dir="cache") as pipeline:
        load = LoadDataFromDicts(data=[{"x": x} for x in range(ROWS)], batch_size=10)
        load >> Parent(name="parent", input_batch_size=10)
    rows = pipeline.run().table("default").to_pylist()
    Path("result.json").write_text(json.dumps(rows))
'''


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    made = Scene(tmp_path / "scene", f"ROWS = {ROWS}\n" + SCRIPT)
    yield made
    for pid in made.processes(seconds=0):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    assert made.processes() == []


def daemons(scene: Scene) -> list[int]:
    """The daemons, all alive, once all else has ended."""
    noted = sorted(map(int, (scene.folder / "daemons").read_text().split()))
    while (left := sorted(scene.processes(seconds=0))) != noted:
        assert set(noted) <= set(left), "a daemon is gone"
    return noted


def rows_of(scene: Scene) -> list[dict[str, int]]:
    found: list[dict[str, int]] = json.loads((scene.folder / "result.json").read_text())
    return found


@pytest.mark.parametrize("target", ["supervisor", "worker"])
def test_a_daemon_of_a_step_lives_on_and_is_in_nobodys_way(scene: Scene, target: str) -> None:
    """It holds no lock, and the sockets and segments that it inherited hold nothing up."""
    ended = scene.run(strike=Strike("parent", ROWS // 2, target=target))  # type: ignore[arg-type]
    if target == "supervisor":
        assert ended.returncode == -9, ended.errors[-2000:]
        assert len(daemons(scene)) == 1
        assert scene.locks() == []
        ended = scene.run()
    assert ended.returncode == 0, ended.errors[-2000:]
    assert rows_of(scene) == [{"x": x, "y": x + 1} for x in range(ROWS)]
    assert 1 <= len(daemons(scene)) <= 2
    assert scene.locks() == scene.leftovers() == []
