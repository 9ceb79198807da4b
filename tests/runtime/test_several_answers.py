"""Runs of tasks that make several rows of one, some of which cannot be read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from asyncdistil.errors import FailureBudgetExceeded
from asyncdistil.pipeline import Pipeline
from asyncdistil.steps import LoadDataFromDicts
from asyncdistil.steps.tasks import Task
from asyncdistil.testing.fake_llm import FakeLLM


class Read(Task):
    """Reads what has no "bad" in it."""

    @property
    def inputs(self) -> list[str]:
        return ["a"]

    @property
    def outputs(self) -> list[str]:
        return ["b", "model_name"]

    def format_input(self, input: dict[str, Any]) -> Any:
        return [{"role": "user", "content": input["a"]}]

    def format_output(self, output: Any, input: dict[str, Any] | None = None) -> dict[str, Any]:
        if "bad" in output:
            raise ValueError(output)
        return {"b": output}


def made(folder: Path, reply: Any) -> list[Any]:
    with Pipeline("several", cache_dir=folder) as pipeline:
        rows = LoadDataFromDicts(data=[{"a": "1"}, {"a": "2"}])
        rows >> Read(llm=FakeLLM(reply=reply), num_generations=3)
    return [row["b"] for row in pipeline.run()["default"]["train"]]


def test_more_failures_than_inputs_do_not_stop_a_run_with_good_rows(tmp_path: Path) -> None:
    assert made(tmp_path, ["good", "bad", "bad"]) == ["good", None, None] * 2


def test_an_input_none_of_whose_answers_is_good_keeps_all_its_rows(tmp_path: Path) -> None:
    def reply(asked: str) -> str:
        return "bad" if asked == "2" else "good"

    assert made(tmp_path, reply) == ["good"] * 3 + [None] * 3


def test_a_run_without_a_single_good_row_stops(tmp_path: Path) -> None:
    with pytest.raises(FailureBudgetExceeded, match="looks like a bug"):
        made(tmp_path, "bad")
