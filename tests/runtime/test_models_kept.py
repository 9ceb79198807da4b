"""Answers that were paid for, in whole runs: what a change asks again, and what it leaves alone.

The stand-in service counts what it was asked. Every row asks about a number of its own.
"""

from __future__ import annotations

import os
import random
import re
import sys
import textwrap
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from asyncdistil.models import OpenAIEmbeddings, OpenAILLM
from asyncdistil.pipeline import Pipeline
from asyncdistil.steps import EmbeddingGeneration, LoadDataFromDicts
from asyncdistil.steps.tasks import TextGeneration
from asyncdistil.testing.chaos import always
from asyncdistil.testing.model_server import ModelServer

ROWS = 40
BAD = frozenset({7, 31})  # 5 %

TASK = """
from asyncdistil.steps.tasks import Task

class Ask(Task):
    use_default_structured_output: bool = STRUCTURED

    @property
    def inputs(self):
        return ["number", "mark"]

    @property
    def outputs(self):
        return ["answer"]

    def get_structured_output(self):
        return {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}

    def format_input(self, input):
        BEFORE
        return [{"role": "user", "content": "PROMPT %d %s" % (input["number"], input["mark"])}]

    def format_output(self, output, input=None):
        AFTER
        return {"answer": output}
"""


class Asked:
    """Numbers that a server was asked about."""

    def __init__(self, server: ModelServer) -> None:
        self._server = server
        self._seen = 0

    def take(self) -> Counter[int]:
        """Answers wanted per number since the last look."""
        requests = list(self._server.requests)
        fresh, self._seen = requests[self._seen :], len(requests)
        counted: Counter[int] = Counter()
        for request in fresh:
            found = re.search(r"\d+", request.prompt)
            assert found is not None
            counted[int(found.group())] += request.json.get("n") or 1
        return counted


_listeners: list[list[Any]] = []


def _note_connection(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "socket.connect":
        for heard in _listeners:
            heard.append(arguments[1])


@contextmanager
def connections() -> Iterator[list[Any]]:
    """Addresses that this process tries to connect to meanwhile."""
    if _note_connection not in _hooks:
        _hooks.append(_note_connection)
        sys.addaudithook(_note_connection)  # for the life of the process
    heard: list[Any] = []
    _listeners.append(heard)
    yield heard
    _listeners.remove(heard)


_hooks: list[Any] = []


@pytest.fixture
def server() -> Iterator[ModelServer]:
    with ModelServer() as running:
        yield running


@pytest.fixture
def asked(server: ModelServer) -> Asked:
    return Asked(server)


@pytest.fixture
def task(load_module: Callable[..., ModuleType]) -> Callable[..., Any]:
    """Write the class of a task; what it does before asking and after can be given."""

    def write(
        *,
        before: str = "pass",
        after: str = "pass",
        prompt: str = "about",
        structured: bool = False,
    ) -> Any:
        source = TASK.replace("BEFORE", before).replace("AFTER", after)
        source = source.replace("PROMPT", prompt).replace("STRUCTURED", str(structured))
        return load_module(source).Ask

    return write


def model(server: ModelServer, **options: Any) -> OpenAILLM:
    return OpenAILLM(model="stand-in", base_url=server.url, api_key="any", **options)


def numbered(numbers: Any) -> list[dict[str, Any]]:
    return [{"number": n, "mark": "bad" if n in BAD else "good"} for n in numbers]


def run(
    cache: Path,
    kind: Any,
    llm: OpenAILLM,
    *,
    numbers: Any = range(ROWS),
    pipeline: str = "kept",
    use_cache: bool = True,
    **options: Any,
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Rows of a run, and its report."""
    with Pipeline(name=pipeline, cache_dir=cache) as built:
        load = LoadDataFromDicts(data=numbered(numbers), batch_size=16)
        load >> kind(**{"name": "ask", "llm": llm, "input_batch_size": 8, **options})
    distiset = built.run(use_cache=use_cache)
    rows = list(distiset["default"]["train"])
    return rows, distiset.report


def numbers_of(rows: list[dict[str, Any]]) -> list[int]:
    return [row["number"] for row in rows]


def good(rows: list[dict[str, Any]]) -> list[tuple[int, Any]]:
    """Answers to the rows that no fault befalls."""
    return [(row["number"], row["answer"]) for row in rows if row["number"] not in BAD]


def answers(rows: list[dict[str, Any]]) -> list[tuple[int, Any]]:
    return [(row["number"], row["answer"]) for row in rows]


EVERY = Counter(range(ROWS))


# --- rows that failed -------------------------------------------------------------------------


COLD = {"generation_kwargs": {"temperature": 0}}
FAULTS: dict[str, tuple[str, dict[str, Any], bool]] = {
    "time-out": ("stall", {"timeout_seconds": 2.0, "max_retries": 0}, False),
    "no content": ("null_content", {}, False),
    "bad JSON": ("not_json", {}, True),
    "bad JSON at temperature 0": ("not_json", COLD, True),
    "refusal": ("content_filter", {}, False),
    "refusal at temperature 0": ("content_filter", COLD, False),
    "truncation": ("length", {"accept": ("ok",)}, False),
    "truncated JSON": ("length", {}, True),
    "bad request": ("422", {}, False),
}


@pytest.mark.parametrize(("fault", "options", "structured"), FAULTS.values(), ids=FAULTS.keys())
def test_exactly_the_rows_that_failed_are_asked_again(
    cache: Path,
    task: Callable[..., Any],
    server: ModelServer,
    asked: Asked,
    fault: str,
    options: dict[str, Any],
    structured: bool,
) -> None:
    kind = task(structured=structured)
    llm = model(server, **options)
    server.script = always(fault, containing="bad")
    rows, report = run(cache, kind, llm)
    assert numbers_of(rows) == list(range(ROWS))
    assert {row["number"] for row in rows if row["answer"] is None} == BAD
    assert report["failed_rows"] == len(BAD)
    assert set(asked.take()) == set(EVERY)

    server.script = None
    again, report = run(cache, kind, llm)
    assert asked.take() == Counter(BAD)
    assert report["failed_rows"] == 0
    assert numbers_of(again) == list(range(ROWS))
    assert all(row["answer"] for row in again)
    assert good(again) == good(rows)

    run(cache, kind, llm)
    assert asked.take() == Counter()


@pytest.mark.parametrize("place", ["before", "after"])
def test_rows_that_the_task_failed_are_asked_again(
    cache: Path,
    task: Callable[..., Any],
    server: ModelServer,
    asked: Asked,
    place: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fails = "import os; assert input['mark'] == 'good' or 'ASYNCDISTIL_TEST_MENDED' in os.environ"
    kind = task(**{place: fails})
    rows, report = run(cache, kind, model(server))
    assert report["failed_rows"] == len(BAD)
    assert asked.take() == (EVERY if place == "after" else EVERY - Counter(BAD))

    monkeypatch.setenv("ASYNCDISTIL_TEST_MENDED", "1")
    again, report = run(cache, kind, model(server))
    assert asked.take() == Counter(BAD)
    assert report["failed_rows"] == 0
    assert numbers_of(again) == list(range(ROWS))
    assert good(again) == good(rows)


# --- what changes ask -------------------------------------------------------------------------


def test_a_changed_parser_asks_nothing(
    cache: Path, task: Callable[..., Any], server: ModelServer, asked: Asked
) -> None:
    rows, _ = run(cache, task(), model(server))
    assert asked.take() == EVERY
    shouted, _ = run(cache, task(after="output = output.upper()"), model(server))
    assert asked.take() == Counter()
    assert answers(shouted) == [(number, text.upper()) for number, text in answers(rows)]


def test_new_rows_in_front_another_order_and_another_batch_size_ask_only_about_new_rows(
    cache: Path, task: Callable[..., Any], server: ModelServer, asked: Asked
) -> None:
    kind = task()
    rows, _ = run(cache, kind, model(server), input_batch_size=50)
    known = dict(answers(rows))
    assert asked.take() == EVERY

    new = range(ROWS, ROWS + ROWS // 10)
    longer = [*new, *range(ROWS)]
    rows, _ = run(cache, kind, model(server), numbers=longer, input_batch_size=50)
    assert asked.take() == Counter(new)
    assert numbers_of(rows) == longer
    known |= {number: text for number, text in answers(rows) if number in new}
    assert dict(answers(rows)) == known

    shuffled = random.Random(5).sample(longer, len(longer))
    rows, _ = run(cache, kind, model(server), numbers=shuffled, input_batch_size=50)
    assert asked.take() == Counter()
    assert answers(rows) == [(number, known[number]) for number in shuffled]

    rows, _ = run(cache, kind, model(server), numbers=shuffled, input_batch_size=7)
    assert asked.take() == Counter()
    assert answers(rows) == [(number, known[number]) for number in shuffled]


def test_four_more_generations_are_four_more_answers_and_the_first_eight_stay(
    cache: Path, task: Callable[..., Any], server: ModelServer, asked: Asked
) -> None:
    kind = task()
    options = {"group_generations": True}
    eight, _ = run(cache, kind, model(server), num_generations=8, **options)
    assert asked.take() == Counter(dict.fromkeys(EVERY, 8))
    twelve, _ = run(cache, kind, model(server), num_generations=12, **options)
    assert asked.take() == Counter(dict.fromkeys(EVERY, 4))
    assert [row["answer"][:8] for row in twelve] == [row["answer"] for row in eight]
    assert {len(row["answer"]) for row in twelve} == {12}
    assert all(row["answer"][8:] for row in twelve)


def test_a_renamed_step_and_another_pipeline_of_the_same_cache_ask_nothing(
    cache: Path, task: Callable[..., Any], server: ModelServer, asked: Asked
) -> None:
    kind = task()
    rows, _ = run(cache, kind, model(server))
    assert asked.take() == EVERY
    renamed, _ = run(cache, kind, model(server), name="question")
    other, _ = run(cache, kind, model(server), pipeline="another")
    assert asked.take() == Counter()
    assert answers(renamed) == answers(other) == answers(rows)


def test_another_prompt_template_asks_about_every_row(
    cache: Path, task: Callable[..., Any], server: ModelServer, asked: Asked
) -> None:
    run(cache, task(), model(server))
    assert asked.take() == EVERY
    run(cache, task(prompt="tell of"), model(server))
    assert asked.take() == EVERY

    def generated(template: str) -> None:
        with Pipeline(name="templates", cache_dir=cache) as built:
            load = LoadDataFromDicts(data=numbered(range(5)))
            load >> TextGeneration(llm=model(server), template=template, columns="number")
        built.run()

    generated("about {{ number }}")
    assert asked.take() == Counter(range(5))
    generated("all about {{ number }}")
    assert asked.take() == Counter(range(5))


def test_a_cached_run_opens_no_connection_and_loads_no_model(
    cache: Path, load_module: Callable[..., ModuleType], server: ModelServer, starts: Any
) -> None:
    source = """
        import os
        from asyncdistil.models import OpenAILLM

        class Noted(OpenAILLM):
            def load(self):
                with open(os.environ["ASYNCDISTIL_TEST_CALLS"], "a") as calls:
                    calls.write('["load", []]\\n')
                super().load()
    """
    noted = load_module(textwrap.dedent(source), name="noted_model").Noted
    journal = Path(os.environ["ASYNCDISTIL_TEST_CALLS"])

    def generated() -> list[str]:
        llm = noted(model="stand-in", base_url=server.url, api_key="any")
        with Pipeline(name="cached", cache_dir=cache) as built:
            LoadDataFromDicts(data=[{"instruction": "1"}]) >> TextGeneration(llm=llm)
        return list(built.run()["default"]["train"]["generation"])

    first = generated()
    assert journal.read_text() == '["load", []]\n'
    starts.take()
    # The service is gone: whoever looked for it would find nobody, and a model would be noted.
    server.go_away()
    with connections() as tried:
        assert generated() == first
    server.come_back()
    assert tried == []
    assert starts.take() == 0
    assert journal.read_text() == '["load", []]\n'


def test_a_bad_generation_among_good_ones_is_a_failed_row_and_is_alone_asked_again(
    cache: Path, task: Callable[..., Any]
) -> None:
    kind = task(after="assert 'rubbish' not in output")
    bad = [1]

    def answer(wanted: Any, index: int) -> str:
        return "rubbish" if "bad" in wanted.prompt and index in bad else f"fine {index}"

    with ModelServer(answer=answer) as service:
        counted = Asked(service)
        rows, report = run(cache, kind, model(service), num_generations=3)
        assert counted.take() == Counter(dict.fromkeys(EVERY, 3))
        assert numbers_of(rows) == [n for n in range(ROWS) for _ in range(3)]
        assert [row["number"] for row in rows if row["answer"] is None] == sorted(BAD)
        assert report["failed_rows"] == len(BAD)

        bad[0] = 0
        rows, report = run(cache, kind, model(service), num_generations=3, on_error="skip")
        assert len(rows) == 3 * ROWS - len(BAD)
        assert report["failed_rows"] == len(BAD)
        assert counted.take() == Counter(dict.fromkeys(BAD, 1))

        bad.clear()
        rows, report = run(cache, kind, model(service), num_generations=3)
        assert counted.take() == Counter(dict.fromkeys(BAD, 1))
        assert numbers_of(rows) == [n for n in range(ROWS) for _ in range(3)]
        assert all(row["answer"] for row in rows)
        assert report["failed_rows"] == 0


def test_new_rows_in_front_embed_only_new_texts(cache: Path, server: ModelServer) -> None:
    def embedded(numbers: list[int], *, name: str = "embedded") -> dict[int, list[float]]:
        embeddings = OpenAIEmbeddings(model="m", base_url=server.url, api_key="any")
        with Pipeline(name=name, cache_dir=cache) as built:
            load = LoadDataFromDicts(data=[{"text": f"text {n}", "n": n} for n in numbers])
            load >> EmbeddingGeneration(embeddings=embeddings, input_batch_size=7)
        rows = built.run()["default"]["train"]
        assert rows["n"] == numbers
        return dict(zip(rows["n"], rows["embedding"], strict=True))

    def sent() -> list[str]:
        found = [text for request in server.requests for text in request.json["input"]]
        server.requests.clear()
        return sorted(found)

    first = embedded([*range(ROWS)])
    assert len(sent()) == ROWS
    new = [*range(ROWS, ROWS + ROWS // 10)]
    more = embedded([*new, *reversed(range(ROWS))])
    assert sent() == [f"text {n}" for n in new]
    assert {n: more[n] for n in first} == first
    assert embedded([*new], name="another") == {n: more[n] for n in new}
    assert sent() == []
