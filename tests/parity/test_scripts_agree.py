"""Whole scripts give the same on distilabel 1.5.3 and here; runs in ``tox -e parity``.

Each script in ``scripts`` has many cases and writes what they gave to a file. It runs twice, as it
is: with distilabel itself, and with asyncdistil under that name. Where the two differ, the reason
stands in a table below, and a difference that has gone must leave the table.
"""

from __future__ import annotations

import ast
import json
import math
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from asyncdistil.testing.model_server import ModelServer

HERE = Path(__file__).parent
SCRIPTS = sorted(path.stem for path in (HERE / "scripts").glob("*.py"))
DOCUMENTED = (HERE.parent / "compat" / "documented_names.txt").read_text().split()
METADATA = "distilabel_metadata"

LIBRARY = '''
def add(a: int, b: int) -> int:
    """Add two numbers.

    Args:
        a: One.
        b: The other.
    """
    return a + b
'''

EVOLVED = ("EvolInstruct", "EvolComplexity", "EvolQuality")
TALKED = ("Magpie", "Magpie, turns", "Magpie, ends with user", "Magpie, system")

ONLY_METADATA: dict[str, dict[str, str]] = {
    "tasks": {
        **{
            f"{task}{which}": "add_raw_output is heeded by tasks that ask several times, too"
            for task in EVOLVED
            for which in ("", ", all")
        },
        **dict.fromkeys(TALKED, "add_raw_output is heeded by Magpie, too"),
        "Magpie, instruction": "add_raw_output is heeded by Magpie, too",
        "EvolInstruct, answers": "statistics of the instructions are not lost to those of answers",
        "EvolInstructGenerator": "statistics are of the row, not of all rows of a round",
        "EvolComplexityGenerator": "statistics are of the row, not of all rows of a round",
        "EvolInstructGenerator, answers": "statistics are of the row, not of all rows of a round",
        "MathShepherdCompleter": "raw replies are a list, for there are many to a row",
    },
    "steps": {"expand, statistics": "a count of tokens stays a number when it is shared out"},
    "models": {
        "painted": "an image is in its column, and not once more in the metadata",
        "sketched": "an image is in its column, and not once more in the metadata",
    },
}
"""Case to why nothing but its metadata differs."""

DIFFERENT: dict[str, dict[str, str]] = {
    "tasks": {
        "APIGenExecutionChecker": "the wording of what a missing function gives is our own",
        "APIGenGenerator, fenced": "JSON in a code block is read; there it gives null",
        "MagpieGenerator": "num_rows=3 gives three rows; there it is rounded up to whole batches",
        "PrepareExamples": "the examples are a part of a prompt, and prompts are our own",
    },
    "loaders": {
        "directory": "a directory is documented there and fails with an IndexError",
        "streamed": "num_examples is heeded; there the batch after the last one comes, too",
    },
    "models": {
        "azure": "AzureOpenAILLM there fails in load with an AttributeError",
        "own_image_task": "an ImageTask that formats needs no process of its own",
        "several": "tokens are counted for each choice; there each is said to have used all",
    },
    "pipelines": {
        "generator_function": "@step(step_type='generator') there never passes validation",
        "runtime_parameters": "rows of LoadDataFromDicts may be given at run time, too",
    },
}
"""Case to why it differs."""

OTHER_ORDER: dict[str, set[str]] = {
    "tasks": {"APIGenSemanticChecker", "EvolInstructGenerator, answers"}
}
"""Cases whose columns stand in another order, which nothing promises."""

NOT_OFFLINE: dict[str, str] = {
    "InferenceEndpointsImageGeneration": "asks the hub where its model is",
    "InstructionResponsePipeline": "its model is fixed to one on the hub",
    "HiddenState": "a type",
    "LlamaCppLLM": "needs weights",
    "MistralLLM": "the client's newest release is not the one that 1.5.3 imports",
    "StructuredOutputType": "a type",
    "TransformersLLM": "needs weights",
    "VertexAILLM": "needs an account",
    "vLLM": "needs a GPU",
    "DistilabelOfflineBatchGenerationNotFinishedException": "needs a provider's batches",
}
"""Documented names that no script imports by that path, and why."""


def made(script: str, folder: Path, server: ModelServer, *, ours: bool) -> dict[str, Any]:
    """What the cases of a script give, there or here."""
    folder.mkdir()
    library = folder / "library.py"
    library.write_text(LIBRARY)
    command = [sys.executable, *(["-m", "asyncdistil.compat"] if ours else [])]
    done = subprocess.run(
        [*command, HERE / "scripts" / f"{script}.py", folder, library, server.url],
        # The hub's client refuses even the loopback when it is told to be offline.
        env={**os.environ, "COLUMNS": "200", "HF_HUB_OFFLINE": "0"},
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, Any] = json.loads((folder / "made.json").read_text())
    return found


def without_metadata(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: without_metadata(one) for name, one in value.items() if name != METADATA}
    return [without_metadata(one) for one in value] if isinstance(value, list) else value


def same(one: Any, other: Any) -> bool:
    """Whether two values are equal but for the last digits of numbers; 1 is not 1.0."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[name], other[name]) for name in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return math.isclose(one, other, rel_tol=1e-5) if isinstance(one, float) else bool(one == other)


def columns_in_order(value: Any) -> list[list[str]]:
    """Columns of all rows, metadata apart, in their order; a row is a dict in a list."""
    if isinstance(value, dict):
        # Configurations have no order that anybody promised.
        return [columns for name in sorted(value) for columns in columns_in_order(value[name])]
    if not isinstance(value, list):
        return []
    rows = [[[n for n in one if n != METADATA]] for one in value if isinstance(one, dict)]
    inner = [columns_in_order(one) for one in value if not isinstance(one, dict)]
    return [columns for one in (*rows, *inner) for columns in one]


@pytest.mark.skipif(
    find_spec("distilabel") is None, reason="distilabel is not installed: tox -e parity"
)
@pytest.mark.timeout(600)
@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_gives_the_same_there_and_here(script: str, tmp_path: Path) -> None:
    with ModelServer() as server:
        theirs = made(script, tmp_path / "theirs", server, ours=False)
        ours = made(script, tmp_path / "ours", server, ours=True)
    assert list(theirs) == list(ours)
    differ = {case for case in theirs if not same(theirs[case], ours[case])}
    deep = {
        case
        for case in differ
        if not same(without_metadata(theirs[case]), without_metadata(ours[case]))
    }
    listed = DIFFERENT.get(script, {}).keys()
    shallow = ONLY_METADATA.get(script, {}).keys()
    unlisted = {
        case: (theirs[case], ours[case]) for case in (deep - listed) | (differ - deep - shallow)
    }
    assert unlisted == {}
    assert (deep, differ - deep) == (set(listed), set(shallow)), "a difference has gone"
    moved = {
        case
        for case in theirs.keys() - deep
        if columns_in_order(theirs[case]) != columns_in_order(ours[case])
    }
    assert moved == OTHER_ORDER.get(script, set())


def imported(path: Path) -> set[str]:
    """Names that a file imports of distilabel."""
    tree = ast.parse(path.read_text())
    return {
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("distilabel.")
        for alias in node.names
    }


def test_every_documented_name_is_in_a_script_or_says_why_not() -> None:
    used = {name for path in (HERE / "scripts").rglob("*.py") for name in imported(path)}
    missing = {path.rpartition(".")[2] for path in DOCUMENTED} - used
    assert missing - NOT_OFFLINE.keys() == set()
    assert NOT_OFFLINE.keys() - missing == set(), "a script has it now"
