"""What workers import is imported before they are forked, and is never a user's."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from asyncdistil.models import MixtureOfAgentsLLM, OllamaLLM, OpenAILLM
from asyncdistil.pipeline import Pipeline, RunOptions, build_plan
from asyncdistil.steps import LoadDataFromDicts, StepInput, step
from asyncdistil.steps.tasks import TextGeneration

LOADED = """
import importlib, sys
from asyncdistil.launch.zygote import PRELOADED
for name in (*PRELOADED, *sys.argv[1:]):
    importlib.import_module(name)
print(*sys.modules)
"""


class MyLLM(OpenAILLM):
    """A user's model."""


@step(inputs=["n"], outputs=["n"])
def mine(rows: StepInput):  # type: ignore[no-untyped-def]
    """A user's step."""
    yield rows


def test_a_run_preloads_the_modules_of_its_steps_and_of_the_models_in_them(tmp_path: Path) -> None:
    with Pipeline(name="p", cache_dir=tmp_path) as pipeline:
        load = LoadDataFromDicts(data=[{"instruction": "a", "n": 1}])
        agents = MixtureOfAgentsLLM(
            aggregator_llm=MyLLM(model="m", api_key="k"),
            proposers_llms=[OllamaLLM(model="m")],
        )
        load >> [TextGeneration(llm=agents), mine()]
    names = build_plan(pipeline, RunOptions()).preloaded
    for wanted in (
        "asyncdistil.steps.load_dicts",
        "asyncdistil.steps.tasks.text_generation",
        "asyncdistil.models.llms.openai",
        OllamaLLM.__module__,
        "aiohttp",
    ):
        assert wanted in names
    assert len(set(names)) == len(names)
    assert {name for name in names if not name.startswith("asyncdistil.")} == {"aiohttp", "uvloop"}


def test_an_event_loop_is_imported_only_for_steps_that_work_on_many_rows_at_once(
    tmp_path: Path,
) -> None:
    with Pipeline(name="p", cache_dir=tmp_path) as pipeline:
        LoadDataFromDicts(data=[{"n": 1}]) >> mine()
    names = build_plan(pipeline, RunOptions()).preloaded
    assert not {"uvloop", "asyncdistil.worker.rows"} & set(names)
    loaded = subprocess.run(
        [sys.executable, "-c", LOADED, *names], check=True, capture_output=True, text=True
    ).stdout.split()
    assert "pydantic" in loaded
    assert not {"asyncio", "uvloop", "anyio", "aiohttp", "pyarrow"} & set(loaded)
