"""Import paths of distilabel, below our own name."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

from asyncdistil.compat.aliases import resolve
from asyncdistil.compat.table import ABSENT, HOME, MODULES

NAMES = [(module, name) for module, names in MODULES.items() for name in names]
CARRIED = [(module, name) for module, name in NAMES if name in HOME]

DOCUMENTED = (Path(__file__).parent / "documented_names.txt").read_text().split()
"""What documentation and examples of distilabel import."""


@pytest.mark.parametrize(("module", "name"), CARRIED, ids=lambda value: value)
def test_every_name_is_found_at_its_old_path(module: str, name: str) -> None:
    assert getattr(import_module(f"asyncdistil.{module}"), name) is resolve(name)


@pytest.mark.parametrize("path", DOCUMENTED)
def test_what_documentation_imports_is_in_the_table(path: str) -> None:
    module, _, name = path.rpartition(".")
    assert name in MODULES[module]
    assert name in HOME


def test_every_name_is_either_carried_over_or_says_what_is_nearest() -> None:
    assert [name for _, name in NAMES if (name in HOME) == (name in ABSENT)] == []


def test_a_module_that_nobody_has_is_not_found() -> None:
    assert find_spec("asyncdistil.no_such_module") is None
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        import_module("asyncdistil.no_such_module")


def test_an_old_module_says_what_to_write_instead_of_a_lost_name() -> None:
    with pytest.raises(ImportError, match=r"'MlxLLM'.*start mlx_lm.server"):
        from asyncdistil.models.llms.mlx import MlxLLM  # noqa: F401
    with pytest.raises(ImportError, match="nearest name is 'OpenAILLM'"):
        from asyncdistil.llms import OpenAILM  # noqa: F401


def test_importing_the_package_reads_no_table() -> None:
    program = "import sys, asyncdistil; print('asyncdistil.compat.table' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert said.stdout.split() == [b"False"]


def test_the_ready_pipeline_is_one_magpie() -> None:
    from asyncdistil.pipeline import InstructionResponsePipeline

    made = InstructionResponsePipeline(hf_token="hf_x", num_rows=3, n_turns=2)
    (name,) = made.pipeline
    step = made.pipeline[name]
    assert (type(step).__name__, step.num_rows, step.n_turns) == ("MagpieGenerator", 3, 2)  # type: ignore[attr-defined]
    assert step.secrets() == ["hf_x"]


def test_the_page_for_distilabels_users_lists_what_is_missing() -> None:
    page = (Path(__file__).parents[2] / "docs" / "from-distilabel.md").read_text()
    assert [name for name in ABSENT if f"`{name}`" not in page] == []
    assert [name for name in HOME if f"| `{name}`" in page.partition("## What is not")[2]] == []
