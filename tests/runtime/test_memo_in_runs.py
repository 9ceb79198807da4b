"""What was paid for in one run is not paid for in another, and is synced in time."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from asyncdistil.memo import Memo
from asyncdistil.models import OpenAILLM
from asyncdistil.pipeline import Pipeline
from asyncdistil.steps import LoadDataFromDicts
from asyncdistil.steps.tasks import TextGeneration
from asyncdistil.testing.model_server import ModelServer

ROWS = [{"instruction": f"say {number % 8}", "id": number} for number in range(10)]


def generations(
    cache: Path, server: ModelServer, *, name: str, use_cache: bool = True, **model: Any
) -> list[tuple[int, str]]:
    """Run a pipeline that asks the server about every row."""
    with Pipeline(name=name, cache_dir=cache) as pipeline:
        llm = OpenAILLM(model="stand-in", base_url=server.url, api_key="any", **model)
        load = LoadDataFromDicts(data=ROWS)
        load >> TextGeneration(llm=llm, input_batch_size=3)
    rows = pipeline.run(use_cache=use_cache)["default"]["train"]
    return sorted((row["id"], row["generation"]) for row in rows)


def chats(server: ModelServer) -> int:
    return sum(recorded.path.endswith("/chat/completions") for recorded in server.requests)


_opened_here: list[str] = []


def _note_opened(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open" and str(arguments[0]).endswith(".adm"):
        _opened_here.append(Path(arguments[0]).name)


@pytest.fixture
def opened_here() -> list[str]:
    """Memo segments that this process, the supervisor's, opens: it does so only to sync them."""
    if _note_opened not in _hooks:
        _hooks.append(_note_opened)
        sys.addaudithook(_note_opened)  # for the life of the process
    _opened_here.clear()
    return _opened_here


_hooks: list[Any] = []


def test_the_supervisor_syncs_every_segment_that_workers_write(
    cache: Path, opened_here: list[str]
) -> None:
    with ModelServer() as server:
        generations(cache, server, name="one")
        assert opened_here == ["0000000001.adm"]
        generations(cache, server, name="two")
        assert opened_here == ["0000000001.adm"]
        generations(cache, server, name="two", use_cache=False)
        assert opened_here == ["0000000001.adm", "0000000002.adm"]


def test_another_pipeline_pays_for_nothing_that_one_of_this_cache_has_asked(cache: Path) -> None:
    with ModelServer() as server:
        first = generations(cache, server, name="one")
        assert chats(server) == len(ROWS)
        assert generations(cache, server, name="two") == first
        assert chats(server) == len(ROWS)
        assert len(first) == len(ROWS)


def test_a_run_without_cache_asks_anew_and_a_later_one_finds_the_new_answers(cache: Path) -> None:
    with ModelServer() as server:
        generations(cache, server, name="one")
        fresh = generations(cache, server, name="one", use_cache=False)
        assert chats(server) == 2 * len(ROWS)
        assert generations(cache, server, name="two") == fresh
        assert chats(server) == 2 * len(ROWS)


def test_equal_requests_draw_different_samples_unless_they_may_be_shared(cache: Path) -> None:
    with ModelServer() as server:
        generations(cache, server, name="one", share_duplicates=True)
        assert chats(server) == len({row["instruction"] for row in ROWS})


def test_the_memo_names_the_model(cache: Path) -> None:
    with ModelServer() as server:
        generations(cache, server, name="one")
    memo = Memo.open(cache / "memo")
    found = memo.statistics()
    memo.close()
    assert found.entries == len(ROWS)
    assert all("stand-in" in model for model in found.models)


STEP = """
import json, os
from asyncdistil.steps import Step, StepInput

class Slow(Step):
    row_wise: bool = True
    memoize: bool = True
    suffix: str = "!"

    @property
    def inputs(self):
        return ["text"]

    @property
    def outputs(self):
        return ["loud"]

    def process(self, inputs: StepInput):
        with open(os.environ["ASYNCDISTIL_TEST_CALLS"], "a") as calls:
            calls.write(json.dumps(["slow", [row["text"] for row in inputs]]) + "\\n")
        assert all(row.keys() == {"text"} for row in inputs)
        yield [{**row, "loud": row["text"].upper() + self.suffix} for row in inputs]
"""


@pytest.fixture
def slow(load_module: Callable[..., ModuleType]) -> Any:
    return load_module(STEP).Slow


def louder(cache: Path, slow: Any, texts: str, *, name: str, **options: Any) -> list[Any]:
    with Pipeline(name=name, cache_dir=cache) as pipeline:
        data = [{"text": text, "id": number} for number, text in enumerate(texts)]
        LoadDataFromDicts(data=data) >> slow(input_batch_size=2, **options)
    rows = pipeline.run()["default"]["train"]
    assert all(row["text"] == texts[row["id"]] for row in rows)
    return sorted((row["id"], row["loud"]) for row in rows)


def test_a_memoized_step_runs_once_for_equal_input_whatever_else_the_row_holds(
    cache: Path, slow: Any, journal: Any
) -> None:
    assert louder(cache, slow, "abcab", name="one") == [*enumerate(["A!", "B!", "C!", "A!", "B!"])]
    called = journal.rows()["slow"]
    assert sorted(set(called)) == ["a", "b", "c"]
    assert louder(cache, slow, "dcba", name="two") == [*enumerate(["D!", "C!", "B!", "A!"])]
    assert journal.rows() == {"slow": ["d"]}
    louder(cache, slow, "dc", name="three", suffix="?")
    assert journal.rows() == {"slow": ["c", "d"]}
    louder(cache, slow, "dc", name="four", use_cache=False)
    assert journal.rows() == {"slow": ["c", "d"]}
