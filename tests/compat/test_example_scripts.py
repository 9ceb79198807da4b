"""The example scripts of the documentation run as they stand, and a second run asks nothing."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from asyncdistil.testing.model_server import ModelServer

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
NEEDS = {"deduplication": "datasketch"}

COLUMNS: dict[str, dict[str, list[str]]] = {
    "deduplication": {"default": ["question", "text"]},
    "embedding_triplets": {"default": ["anchor", "positive", "negative", "margin"]},
    "evol_instruct": {
        "default": ["seed", "instruction", "complexity", "first_response", "response"]
    },
    "exam_questions": {"default": ["title", "question", "choices", "answer"]},
    "llm_judge": {
        "duels": ["instruction", "generations", "result", "feedback"],
        "scores": ["instruction", "generation", "result", "feedback"],
    },
    "magpie": {"default": ["conversation", "system_prompt_key", "model_name"]},
    "preference_data": {
        "default": ["prompt", "chosen", "rejected", "chosen_rating", "rejected_rating"]
    },
    "routing": {"default": ["instruction", "answer", "answered_by"]},
    "self_instruct": {"default": ["topic", "instruction", "generation", "made_by", "answered_by"]},
    "sft_data": {"default": ["topic", "prompt", "messages", "score"]},
    "structured_extraction": {
        "default": [
            "letter",
            "order_number",
            "customer",
            "concern",
            "items",
            "urgent",
            "summary",
        ]
    },
    "text_classification": {"default": ["text", "mood", "topics", "model_name"]},
}
LEAST_ROWS = {
    "deduplication": 5,
    "embedding_triplets": 6,
    "evol_instruct": 20,
    "exam_questions": 6,
    "llm_judge": 4,
    "magpie": 12,
    "preference_data": 3,
    "routing": 6,
    "self_instruct": 15,
    "sft_data": 5,
    "structured_extraction": 4,
    "text_classification": 8,
}


@pytest.fixture(scope="module")
def server() -> Iterator[ModelServer]:
    with ModelServer() as one:
        yield one


def run(name: str, server: ModelServer, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What a script leaves in its variables, run as the main program."""
    monkeypatch.setattr(sys, "argv", [f"{name}.py", server.url])
    return runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")


def all_rows(distiset: Any) -> dict[str, list[dict[str, Any]]]:
    return {
        config: [row for split in distiset[config].values() for row in split] for config in distiset
    }


@pytest.mark.parametrize("name", sorted(COLUMNS))
def test_an_example_makes_its_dataset_and_a_rerun_asks_nothing(
    name: str,
    server: ModelServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if name in NEEDS:
        pytest.importorskip(NEEDS[name])
    monkeypatch.setenv("ASYNCDISTIL_CACHE_DIR", str(tmp_path))
    for variable in ("MODEL", "OPENAI_BASE_URL", "OPENAI_API_KEY"):
        monkeypatch.delenv(variable, raising=False)
    made = all_rows(run(name, server, monkeypatch)["distiset"])
    assert {config: list(rows[0]) for config, rows in made.items()} == COLUMNS[name]
    for rows in made.values():
        assert len(rows) >= LEAST_ROWS[name]
        for row in rows:
            assert [column for column, value in row.items() if value in (None, "", [])] == []
    shown = capsys.readouterr().out
    assert shown
    asked = server.stats.requests
    again = all_rows(run(name, server, monkeypatch)["distiset"])
    assert server.stats.requests == asked
    assert again == made
    assert capsys.readouterr().out == shown


def test_every_example_is_run_here() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.py")} == set(COLUMNS)
