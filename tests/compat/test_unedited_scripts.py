"""Scripts that import distilabel, run as they are."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import json, sys
from typing import TYPE_CHECKING

import distilabel.steps as steps
from distilabel.errors import DistilabelUserError
from distilabel.mixins.runtime_parameters import RuntimeParameter
from distilabel.pipeline import Pipeline
from distilabel.steps import GlobalStep, LoadDataFromDicts, Step, StepInput, step

if TYPE_CHECKING:
    from distilabel.typing import StepColumns, StepOutput


class Shout(Step):
    mark: RuntimeParameter[str] = "!"

    @property
    def inputs(self) -> "StepColumns":
        return ["text"]

    @property
    def outputs(self) -> "StepColumns":
        return ["loud"]

    def process(self, inputs: StepInput) -> "StepOutput":
        from distilabel.steps import KeepColumns

        assert issubclass(KeepColumns, steps.Step)
        for row in inputs:
            row["loud"] = row["text"].upper() + self.mark
        yield inputs


@step(inputs=["loud"], outputs=["length"])
def Measure(inputs: StepInput) -> "StepOutput":
    for row in inputs:
        row["length"] = len(row["loud"])
    yield inputs


with Pipeline("shouting", cache_dir=sys.argv[1]) as pipeline:
    load = LoadDataFromDicts(data=[{"text": "a"}, {"text": "bc"}])
    load >> Shout() >> Measure()

if __name__ == "__main__":
    pipeline.draw(sys.argv[1] + "-graph.png", show_edge_labels=False)
    distiset = pipeline.run(parameters={"shout_0": {"mark": "?"}})
    print(json.dumps([dict(row) for row in distiset["default"]["train"]]))
"""

JOIN = """
import sys
from distilabel.pipeline import Pipeline
from distilabel.steps import CombineOutputs, DataSampler, LoadDataFromDicts

with Pipeline("two sources", cache_dir=sys.argv[1]) as pipeline:
    rows = LoadDataFromDicts(data=[{"n": n} for n in range(5)])
    shots = DataSampler(data=[{"shot": "a"}], size=2, samples=5, batch_size=2)
    [rows, shots] >> CombineOutputs()
print([(row["n"], len(row["shot"])) for row in pipeline.run()["default"]["train"]])
"""


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        env={name: value for name, value in os.environ.items() if name != "COLUMNS"},
    )


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "script.py"
    path.write_text(SCRIPT)
    return path


@pytest.mark.parametrize("command", [["asyncdistil.compat"], ["asyncdistil.cli"]])
def test_a_script_runs_unedited(command: list[str], script: Path, tmp_path: Path) -> None:
    if command == ["asyncdistil.cli"]:
        start = ["-c", "from asyncdistil.cli import main; main()", "run", "--distilabel"]
        done = run(*start, script, "--", tmp_path / "cache")
    else:
        done = run("-m", *command, script, tmp_path / "cache")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == [
        {"text": "a", "loud": "A?", "length": 2},
        {"text": "bc", "loud": "BC?", "length": 3},
    ]


def test_one_import_does_it_too(tmp_path: Path) -> None:
    program = (
        "import asyncdistil.compat.distilabel\n"
        "import distilabel\n"
        "from distilabel.llms import OpenAILLM\n"
        "from distilabel.llms.openai import OpenAILLM as Older\n"
        "import distilabel.steps.tasks.apigen.utils as utils\n"
        "from asyncdistil.models import OpenAILLM as Ours\n"
        "assert OpenAILLM is Older is Ours\n"
        "from distilabel import pipeline, steps\n"
        "print(distilabel.__version__, steps.Step.__module__, utils.PrepareExamples.__name__)\n"
    )
    done = run("-c", program)
    assert done.stdout.split() == ["1.5.3", "asyncdistil.steps.step", "PrepareExamples"], done


@pytest.mark.parametrize("library", ["distilabel", "asyncdistil"])
def test_a_module_does_not_take_the_name_of_what_it_holds(library: str) -> None:
    program = (
        "import asyncdistil.compat.distilabel\n"
        f"import {library}.pipeline.routing_batch_function\n"
        f"from {library}.pipeline.routing_batch_function import RoutingBatchFunction\n"
        f"from {library}.pipeline import routing_batch_function\n"
        "print(type(routing_batch_function()(lambda steps: steps)) is RoutingBatchFunction)\n"
    )
    assert run("-c", program).stdout == "True\n", run("-c", program).stderr


def test_a_missing_name_says_what_is_nearest() -> None:
    done = run(
        "-c", "import asyncdistil.compat.distilabel\nfrom distilabel.pipeline import RayPipeline"
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        "ImportError: asyncdistil has no 'RayPipeline' for distilabel.pipeline: "
        "use Pipeline, which runs on one machine"
    )


def test_the_real_one_is_left_alone_outside_of_such_a_run(tmp_path: Path) -> None:
    real = tmp_path / "site" / "distilabel"
    real.mkdir(parents=True)
    (real / "__init__.py").write_text("who = 'the real one'")
    path = f"import sys; sys.path.insert(0, {str(tmp_path / 'site')!r})\n"
    alone = run("-c", path + "import asyncdistil, distilabel; print(distilabel.who)")
    assert alone.stdout == "the real one\n", alone.stderr
    late = run("-c", path + "import distilabel, asyncdistil.compat.distilabel")
    assert "distilabel itself is imported already" in late.stderr
    ours = run(
        "-c", path + "import asyncdistil.compat.distilabel, distilabel; print(distilabel.__name__)"
    )
    assert ours.stdout == "asyncdistil.compat.distilabel\n", ours.stderr


def test_rows_of_two_sources_are_joined_by_their_place(script: Path, tmp_path: Path) -> None:
    script.write_text(JOIN)
    done = run("-m", "asyncdistil.compat", script, tmp_path / "cache")
    assert done.stdout == f"{[(n, 2) for n in range(5)]}\n", done.stderr


WALK = """
import asyncdistil.compat.distilabel
from importlib import import_module
from asyncdistil.compat.aliases import resolve
from asyncdistil.compat.table import HOME, MODULES

wrong = [
    (module, name)
    for module, names in MODULES.items()
    for name in names
    if name in HOME and getattr(import_module(f"distilabel.{module}"), name) is not resolve(name)
]
print(len(MODULES) > 100, wrong)
"""


def test_every_name_is_found_below_the_other_name_too() -> None:
    done = run("-c", WALK)
    assert done.stdout == "True []\n", done.stderr


SETTINGS = """
import logging
from distilabel.pipeline import Pipeline
from distilabel.steps import LoadDataFromDicts, Step, StepInput

logging.basicConfig(level=logging.DEBUG)


class Tell(Step):
    @property
    def inputs(self):
        return ["n"]

    def process(self, inputs: StepInput):
        self._logger.debug(f"told of {len(inputs)}")
        yield inputs


with Pipeline("settings") as pipeline:
    LoadDataFromDicts(data=[{"n": 1}]) >> Tell()
pipeline.run()
"""


@pytest.mark.parametrize("ours", [False, True])
def test_distilabels_variables_count_where_ours_are_not_set(
    ours: bool, script: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script.write_text(SETTINGS)
    for name in ("ASYNCDISTIL_CACHE_DIR", "ASYNCDISTIL_LOG_LEVEL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DISTILABEL_CACHE_DIR", str(tmp_path / "theirs"))
    monkeypatch.setenv("DISTILABEL_LOG_LEVEL", "debug")
    if ours:
        monkeypatch.setenv("ASYNCDISTIL_CACHE_DIR", str(tmp_path / "ours"))
        monkeypatch.setenv("ASYNCDISTIL_LOG_LEVEL", "INFO")
    done = run("-m", "asyncdistil.compat", script)
    assert done.returncode == 0, done.stderr
    assert ("told of 1" in done.stderr) is not ours
    kept = {path.name for path in tmp_path.iterdir() if path.is_dir()}
    assert kept == {"ours" if ours else "theirs"}
