"""The demonstration keeps its own promise, and its parts do what they say."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from asyncdistil.demo import library, questions

SOURCE = '''
"""About this module."""
class Box:
    """Holds one thing."""
    def open(self, key, *, slowly=False):
        """Open it with a key."""
        def inner():
            """Nobody's business."""
    def _hidden(self):
        """Not for you."""
if True:
    def shut():
        """Shut it."""
'''


def test_a_killed_run_is_resumed_with_nothing_done_twice(
    invoke: Callable[..., Any], tmp_path: Path
) -> None:
    done = invoke("demo", "--directory", "demo", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    killed, resumed, again = report["runs"]
    assert report["killed"]
    assert [run["computed_twice"] for run in report["runs"]] == [0, 0, 0]
    assert again["rows_computed"] == 0
    assert resumed["rows_replayed"] + resumed["cut_off"] == killed["rows_computed"]
    rows = [json.loads(line) for line in Path(report["dataset"]).read_text().splitlines()]
    assert len(rows) == report["rows"] > 1000
    assert len({row["question"] for row in rows}) > 1000
    assert all(row["question"] and row["answer"] for row in rows)
    model = report["model"]
    assert model["requests"][2] == 0
    assert model["requests"][1] < model["rows"]
    assert sum(model["requests"]) == model["rows"] + model["asked_twice"]
    refused = invoke("demo", "--directory", "demo")
    assert (refused.returncode, "not empty" in refused.stderr) == (5, True)


def test_documentation_is_found_where_it_stands_and_private_names_are_left_out() -> None:
    found = [(d.name, d.kind, d.arguments, d.text) for d in library.documented(SOURCE.encode())]
    assert found == [
        ("", "module", [], "About this module."),
        ("Box", "class", [], "Holds one thing."),
        ("Box.open", "method", ["key", "slowly"], "Open it with a key."),
        ("shut", "function", [], "Shut it."),
    ]


def test_a_text_loses_what_the_question_says_already() -> None:
    text = "join(a, *p) -> str\n\nJoin two or more  path components together. Neat."
    tidy = questions.cleaned(text)
    assert tidy == "Join two or more path components together. Neat."
    assert questions.summary(tidy) == "Join two or more path components together."
    assert questions.cleaned("Deprecated.") is None
    assert questions.cleaned(">>> f('one two three four five six')\n'seven'") is None


def test_an_example_is_told_from_the_answer() -> None:
    text = "Add two numbers and return their sum.\n\n>>> add(1, 2)\n3\n\nNever raises."
    assert questions.example(text) == ">>> add(1, 2)\n3"
    assert questions.answer(text) == "Add two numbers and return their sum.\n\nNever raises."
    assert questions.score(text, ["a"]) < questions.score(text + " Takes a.", ["a"])
