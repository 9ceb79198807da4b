"""The dataset card says what is in a dataset, and no row can break it."""

from __future__ import annotations

from pathlib import Path

import pytest
from huggingface_hub import DatasetCard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from asyncdistil.distiset import Distiset
from asyncdistil.distiset.card import card_text, size_category


def test_the_card_shows_rows_columns_and_how_to_make_them_again(tmp_path: Path) -> None:
    distiset = Distiset.from_rows({"first": [{"question": "why?"}], "second": [{"b": 1}, {"b": 2}]})
    distiset.pipeline_path = tmp_path / "pipeline.yaml"
    distiset.failures = {"generate": 4}
    distiset.notes = {"first": ("Column 'x' held more.",)}
    distiset.citations = ["@article{someone2024}"]
    (tmp_path / "made/step/plot").mkdir(parents=True)
    distiset.artifacts_path = tmp_path / "made"
    text = card_text(distiset, "me/data", hub=True, script="run.py")
    for expected in (
        "| first | train | 1 | question |",
        "| second | train | 2 | b |",
        '"question": "why?"',
        "load_dataset('me/data', 'second')",
        "https://huggingface.co/datasets/me/data/raw/main/pipeline.yaml",
        "`run.py`",
        "4 rows of step `generate` failed",
        "Column 'x' held more.",
        "`step/plot`",
        "@article{someone2024}",
    ):
        assert expected in text
    assert DatasetCard(text).data.size_categories == ["n<1K"]


def test_the_head_of_an_existing_card_is_kept() -> None:
    head = {"configs": [{"config_name": "default"}], "license": "mit", "tags": ["mine"]}
    text = card_text(Distiset.from_rows({"default": [{"a": 1}]}), "me/data", metadata=head)
    data = DatasetCard(text).data.to_dict()
    assert (data["license"], data["configs"]) == ("mit", head["configs"])
    assert data["tags"] == ["mine", "synthetic", "asyncdistil"]


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.text(st.characters(codec="utf-8"), max_size=20), st.text("`|<-\n {%", max_size=10))
def test_text_of_rows_and_columns_cannot_end_its_block(cell: str, name: str) -> None:
    distiset = Distiset.from_rows({"default": [{name: f"````\n---\n{{{{ 1 }}}} {cell}"}]})
    text = card_text(distiset, "data")
    assert DatasetCard(text).data.tags == ["synthetic", "asyncdistil"]
    assert "{{ 1 }}" in text
    assert "`````\n{" in text


def test_large_values_are_cut() -> None:
    distiset = Distiset.from_rows({"default": [{"a": "x" * 10**6, "b": list(range(10_000))}]})
    assert len(card_text(distiset, "data")) < 5_000


@pytest.mark.parametrize(
    ("rows", "name"),
    [
        (0, "n<1K"),
        (999, "n<1K"),
        (1_000, "1K<n<10K"),
        (99_999, "10K<n<100K"),
        (10**6, "1M<n<10M"),
        (10**12 - 1, "100B<n<1T"),
        (10**12, "n>1T"),
    ],
)
def test_size_categories_are_those_of_the_hub(rows: int, name: str) -> None:
    assert size_category(rows) == name
