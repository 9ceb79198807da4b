"""One script in many places: as a file, from the command line, in a notebook."""

import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

SCRIPT = """
import os

from asyncdistil.pipeline import Pipeline
from asyncdistil.steps import LoadDataFromDicts, Step, StepInput

OFFSET = 5


class Plus(Step):
    def process(self, inputs: StepInput):
        yield [row | {"sum": row["n"] + OFFSET, "where": os.getcwd()} for row in inputs]


print("this runs once")
with Pipeline("places", cache_dir="cache") as pipeline:
    LoadDataFromDicts(name="load", data=[{"n": n} for n in range(4)]) >> Plus(name="plus")
distiset = pipeline.run()
print(distiset.table("default")["sum"].to_pylist(), distiset.report["hit"])
assert distiset.table("default")["where"][0].as_py() == os.getcwd()
"""
FIRST = "this runs once\n[5, 6, 7, 8] False\n"
AGAIN = "this runs once\n[5, 6, 7, 8] True\n"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "work").mkdir()
    return tmp_path / "work"


def run(place: Path, *arguments: str, stdin: str | None = None) -> str:
    command = [sys.executable, *arguments]
    ended = subprocess.run(
        command, cwd=place, input=stdin, capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    return ended.stdout


def test_a_file_without_a_main_guard_the_command_line_and_a_pipe_share_one_cache(
    place: Path,
) -> None:
    (place / "script.py").write_text(SCRIPT)
    assert run(place, "script.py") == FIRST
    assert run(place, "-c", SCRIPT) == AGAIN
    assert run(place, "-", stdin=SCRIPT) == AGAIN
    (place / "moved").mkdir()
    (place / "moved" / "renamed.py").write_text(SCRIPT)
    assert run(place, "-m", "moved.renamed") == AGAIN


def test_the_command_line_can_be_first(place: Path) -> None:
    assert run(place, "-c", SCRIPT) == FIRST


def test_a_step_of_a_module_beside_the_script_travels(place: Path) -> None:
    """Neither `sys.path` nor the file of a module need be the same where the worker runs."""
    (place / "library").mkdir()
    (place / "library" / "steps_here.py").write_text(
        SCRIPT.partition("print(")[0] + "\n\ndef helper():\n    return OFFSET\n"
    )
    (place / "script.py").write_text(
        "import os, sys\nsys.path.insert(0, 'library')\nimport steps_here\n"
        "from steps_here import *\n"
        "os.remove(steps_here.__file__)\n" + "print(" + SCRIPT.partition("print(")[2]
    )
    assert run(place, "script.py") == FIRST


def test_a_notebook_runs_it_in_a_cell_and_awaits_it_in_another(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYDEVD_DISABLE_FILE_VALIDATION", "1")
    monkeypatch.setenv("IPYTHONDIR", str(place / "ipython"))
    awaited = """
with Pipeline("awaited", cache_dir="cache") as other:
    LoadDataFromDicts(name="load", data=[{"n": n} for n in range(4)]) >> Plus(name="plus")
print((await other.arun()).table("default")["sum"].to_pylist())
"""
    redefined = """
class Plus(Step):
    def process(self, inputs: StepInput):
        yield [row | {"sum": row["n"] * OFFSET} for row in inputs]

with Pipeline("awaited", cache_dir="cache") as other:
    LoadDataFromDicts(name="load", data=[{"n": n} for n in range(4)]) >> Plus(name="plus")
print(other.run().table("default")["sum"].to_pylist())
"""
    notebook = nbformat.v4.new_notebook()
    notebook.cells = [nbformat.v4.new_code_cell(cell) for cell in (SCRIPT, awaited, redefined)]
    NotebookClient(notebook, timeout=100, resources={"metadata": {"path": str(place)}}).execute()
    said = [
        "".join(output["text"] for output in cell.outputs if output.get("name") == "stdout")
        for cell in notebook.cells
    ]
    assert said == [FIRST, "[5, 6, 7, 8]\n", "[0, 5, 10, 15]\n"]


WARNING = """
from asyncdistil.pipeline import Pipeline
from asyncdistil.steps import LoadDataFromDicts, RowStep


class Telling(RowStep):
    def transform(self, row):
        self._logger.warning("beware of %s", row["n"])
        return row


def told(name):
    with Pipeline(name, cache_dir="cache") as pipeline:
        LoadDataFromDicts(name="load", data=[{"n": name}]) >> Telling(name="tell")
    pipeline.run()


"""


def complaints(place: Path, code: str) -> list[str]:
    command = [sys.executable, "-c", WARNING + code]
    ended = subprocess.run(command, cwd=place, capture_output=True, text=True, check=True)
    return sorted(line for line in ended.stderr.splitlines() if "beware" in line)


def test_a_script_that_set_up_no_logging_shows_warnings_once(place: Path) -> None:
    assert complaints(place, "told('a')") == ["[tell] beware of a"]
    assert [*(place / "cache").rglob("pipeline.log")]
    beside = (
        "from concurrent.futures import ThreadPoolExecutor\n"
        "with ThreadPoolExecutor(2) as threads:\n"
        "    list(threads.map(told, ['b', 'c']))\n"
    )
    assert complaints(place, beside) == ["[tell] beware of b", "[tell] beware of c"]


@pytest.mark.parametrize(
    ("setting", "shown"),
    [
        ("logging.basicConfig()", ["WARNING:asyncdistil.worker:[tell] beware of a"]),
        ("logging.getLogger('asyncdistil').addHandler(logging.NullHandler())", []),
        ("logging.getLogger('asyncdistil').setLevel(logging.ERROR)", []),
        ("logging.lastResort = None", []),
    ],
)
def test_a_script_that_set_up_logging_shows_warnings_as_it_says(
    place: Path, setting: str, shown: list[str]
) -> None:
    assert complaints(place, f"import logging\n{setting}\ntold('a')") == shown
