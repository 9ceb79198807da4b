from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import pytest

from asyncdistil.errors import ModelReplyError, ParameterError
from asyncdistil.steps.tasks import (
    APIGenExecutionChecker,
    APIGenGenerator,
    APIGenSemanticChecker,
    PrepareExamples,
)
from asyncdistil.testing.fake_llm import FakeLLM

ROW = {"examples": "some", "func_name": "add", "func_desc": "Adds.", "tools": "{tool}"}

LIBRARY = """
import os
import time

limit = 7

def add(a: int, b: int = 0) -> int:
    print("noise on standard output")
    return a + b

def divide(a, b):
    return a / b

def sleep():
    time.sleep(60)

def crash():
    os._exit(3)

def leave():
    raise SystemExit(1)

def shell():
    return os.system("true")

class Shape:
    pass
"""


@pytest.fixture
def library(tmp_path: Path) -> str:
    path = tmp_path / "functions.py"
    path.write_text(LIBRARY)
    return str(path)


def check(libpath: str, *calls: Any, **fields: Any) -> dict[str, Any]:
    step = APIGenExecutionChecker(libpath=libpath, **fields)
    step.load()
    answers = json.dumps([{"name": n, "arguments": a} for n, a in calls])
    row = asyncio.run(step.aprocess({"answers": answers}))
    assert isinstance(row, dict)
    return row


# --- making pairs -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "reply",
    [
        '[{"query": "q", "answers": [{"name": "add", "arguments": {"a": 1}}]}]',
        '{"pairs": [{"query": "q", "answers": [{"name": "add", "arguments": {"a": 1}}]}]}',
        '```json\n{"query": "q", "answers": {"name": "add", "arguments": {"a": 1}}}\n```',
    ],
)
def test_the_first_pair_is_kept_with_its_calls_as_json(reply: str) -> None:
    made = APIGenGenerator(llm=FakeLLM()).format_output(reply, ROW)
    assert made["query"] == "q"
    assert json.loads(made["answers"]) == [{"name": "add", "arguments": {"a": 1}}]


@pytest.mark.parametrize("reply", ["", "[]", '[{"query": "q"}]', '{"pairs": []}', "[1]"])
def test_a_reply_without_a_pair_is_refused(reply: str) -> None:
    with pytest.raises(ModelReplyError):
        APIGenGenerator(llm=FakeLLM()).format_output(reply, ROW)


def test_numbers_are_drawn_by_the_row() -> None:
    def numbers(number: Any) -> list[int]:
        task = APIGenGenerator(llm=FakeLLM(), number=number)
        rows = [{**ROW, "func_name": f"f{n}"} for n in range(60)]
        return [task._number(row) for row in rows]

    assert set(numbers(3)) == {3}
    assert set(numbers([1, 2])) == {1, 2}
    assert numbers([1, 2]) == numbers([1, 2])
    weighted = numbers({1: 0.95, 4: 0.05})
    assert weighted.count(1) > weighted.count(4)


def test_tools_are_shown_unless_they_are_not_wanted() -> None:
    shown = lambda task: task.format_input(ROW)[1]["content"]  # noqa: E731
    assert "{tool}" in shown(APIGenGenerator(llm=FakeLLM()))
    assert "{tool}" not in shown(APIGenGenerator(llm=FakeLLM(), use_tools=False))
    assert "different pairs" in shown(APIGenGenerator(llm=FakeLLM(), number=3))
    assert '{"pairs"' in shown(APIGenGenerator(llm=FakeLLM(), use_default_structured_output=True))


def test_examples_are_joined_whatever_braces_they_hold() -> None:
    step = PrepareExamples()
    rows = [{"query": ["{x}", "b"], "answers": ['[{"a": 1}]', "[]"], "other": 1}]
    ((made,),) = list(step.process(rows))
    assert made == {"examples": 'Query:\n{x}\nAnswers:\n[{"a": 1}]\n\nQuery:\nb\nAnswers:\n[]'}


# --- executing calls --------------------------------------------------------------------------


def test_calls_are_executed_and_their_results_are_texts(library: str) -> None:
    row = check(library, ("add", {"a": 1, "b": "2"}), ("add", {"x": 3, "y": 4}))
    assert row["execution_result"] == ["3", "7"]
    assert row["keep_row_after_execution_check"] is True


@pytest.mark.parametrize(
    ("name", "arguments", "reason"),
    [
        ("divide", {"a": 1, "b": 0}, "ZeroDivisionError"),
        ("nothing", {}, "no such function"),
        ("limit", {}, "no such function"),
        ("leave", {}, "SystemExit"),
        ("crash", {}, "ended its process"),
        ("shell", {}, "os.system"),
        ("add", {}, "missing"),
    ],
)
def test_a_call_that_fails_says_why_and_costs_the_row_only(
    library: str, name: str, arguments: Any, reason: str
) -> None:
    row = check(library, (name, arguments), ("add", {"a": 1}))
    assert row["keep_row_after_execution_check"] is False
    assert reason in row["execution_result"][0]
    assert row["execution_result"][1] == "1"


def test_a_call_that_hangs_is_given_up(library: str) -> None:
    row = check(library, ("sleep", {}), seconds_per_call=1)
    assert "more than 1.0 seconds" in row["execution_result"][0]


def test_cancelling_a_row_kills_the_call_and_what_it_started(tmp_path: Path) -> None:
    fifo = tmp_path / "alive"
    os.mkfifo(fifo)
    path = tmp_path / "functions.py"
    path.write_text(
        "import subprocess\n"
        "def start():\n"
        f"    held = open({str(fifo)!r}, 'w')\n"
        "    subprocess.run(['sleep', '600'], pass_fds=[held.fileno()])\n"
    )
    step = APIGenExecutionChecker(libpath=str(path), check_is_dangerous=False, seconds_per_call=99)

    async def cancelled() -> None:
        row = asyncio.ensure_future(step.aprocess({"answers": '[{"name": "start"}]'}))
        reader = await asyncio.to_thread(open, fifo)  # returns once the function runs
        row.cancel()
        (outcome,) = await asyncio.gather(row, return_exceptions=True)
        assert isinstance(outcome, asyncio.CancelledError)
        # End of file: nobody holds the other end any more.
        assert await asyncio.to_thread(reader.read) == ""
        reader.close()

    asyncio.run(cancelled())


def test_the_look_at_the_source_can_be_left_out(library: str) -> None:
    assert check(library, ("shell", {}), check_is_dangerous=False)["execution_result"] == ["0"]


def test_functions_may_each_have_a_file_in_a_folder(tmp_path: Path) -> None:
    (tmp_path / "add.py").write_text("def add(a, b):\n    return a + b\n")
    row = check(str(tmp_path), ("add", {"a": 1, "b": 2}), ("../add", {}))
    assert row["execution_result"][0] == "3"
    assert "no such function" in row["execution_result"][1]


@pytest.mark.parametrize("answers", [None, "[]", ""])
def test_a_row_without_calls_is_not_kept(library: str, answers: Any) -> None:
    step = APIGenExecutionChecker(libpath=library)
    row = asyncio.run(step.aprocess({"answers": answers}))
    assert isinstance(row, dict)
    assert row["keep_row_after_execution_check"] is False


def test_things_that_are_no_calls_are_named(library: str) -> None:
    step = APIGenExecutionChecker(libpath=library)
    ((row,),) = list(step.process([{"answers": '[null, {"name": 3}]'}]))
    assert row["execution_result"] == ["this is no call"] * 2


def test_the_source_of_the_functions_is_part_of_the_identity(library: str) -> None:
    step = APIGenExecutionChecker(libpath=library, name="c")
    before = step.identity().digest
    Path(library).write_text(LIBRARY + "\n\ndef more():\n    pass\n")
    assert step.identity().digest != before


def test_functions_that_are_not_there_are_missed_when_loading(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="does not exist"):
        APIGenExecutionChecker(libpath=str(tmp_path / "none.py")).load()


# --- judging calls ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reply", "keep"),
    [
        ('{"thought": "t", "passes": "yes"}', True),
        ('```\n{"thought": "t", "passes": "No"}\n```', False),
        ('{"thought": "t", "passes": true}', True),
    ],
)
def test_a_judgement_is_a_truth_value_with_a_thought(reply: str, keep: bool) -> None:
    made = APIGenSemanticChecker(llm=FakeLLM()).format_output(reply)
    assert made == {"keep_row_after_semantic_check": keep, "thought": "t"}


@pytest.mark.parametrize("reply", ["yes", '{"thought": "t"}', '{"passes": "perhaps"}'])
def test_a_judgement_that_is_neither_is_refused(reply: str) -> None:
    with pytest.raises(ModelReplyError):
        APIGenSemanticChecker(llm=FakeLLM()).format_output(reply)


def test_the_judge_sees_request_calls_and_results() -> None:
    row = {"func_desc": "Adds.", "query": "2+2", "answers": None, "execution_result": ["four"]}
    text = APIGenSemanticChecker(llm=FakeLLM()).format_input(row)[1]["content"]
    for part in ("Adds.", "2+2", "four"):
        assert part in text
