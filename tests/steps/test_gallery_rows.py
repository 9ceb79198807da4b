"""The gallery's steps that look at one row at a time, and those that draw rows."""

from __future__ import annotations

import doctest
from importlib import import_module
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncdistil import steps
from asyncdistil.errors import DataError
from asyncdistil.models import Embeddings
from asyncdistil.steps import (
    DataSampler,
    EmbeddingGeneration,
    FailedRow,
    FormatChatGenerationDPO,
    FormatTextGenerationDPO,
    FormatTextGenerationSFT,
    JoinColumns,
    Sample,
    Sort,
    TruncateTextColumn,
)

EXTRAS = {"deduplication": "datasketch", "vectors": "faiss"}
# The examples of clustering cost seconds to compile: they run where that is done anyway.
MODULES = sorted({"functions", *steps._GALLERY.values()} - {"clustering"})


@pytest.mark.parametrize("module", MODULES)
def test_examples_in_docstrings_hold(module: str) -> None:
    if module in EXTRAS:
        pytest.importorskip(EXTRAS[module])
    found = doctest.testmod(import_module(f"asyncdistil.steps.{module}"))
    assert found.failed == 0
    assert found.attempted > 0


@pytest.mark.parametrize("name", sorted(steps._GALLERY))
def test_every_step_says_what_goes_in_and_out_and_has_a_version(name: str) -> None:
    kind = getattr(steps, name)
    assert isinstance(kind.version, int)
    for part in ("Inputs:", "Outputs", "Example:"):
        assert part in kind.__doc__


def entries(step: Any, rows: list[dict[str, Any]]) -> list[Any]:
    return [entry for made in step.apply(rows) for entry in made]


@given(
    st.integers(1, 9), st.integers(1, 20), st.integers(1, 8), st.integers(0, 25), st.integers(0, 3)
)
def test_a_sampler_goes_on_where_it_stopped(
    size: int, samples: int, batch_size: int, offset: int, seed: int
) -> None:
    data = [{"n": n, "text": f"t{n}"} for n in range(5)]
    sampler = DataSampler(
        data=data, size=size, samples=samples, batch_size=batch_size, seed=seed, name="s"
    )
    whole = [row for rows, _ in sampler.process() for row in rows]
    made = list(sampler.process(offset=offset))
    assert [row for rows, _ in made for row in rows] == whole[offset:]
    assert [last for _, last in made] == [False] * (len(made) - 1) + [True]
    assert len(whole) == samples
    for row in whole:
        assert [f"t{n}" for n in row["n"]] == row["text"]
        assert len(row["n"]) == size


def test_a_sampler_without_data_is_refused() -> None:
    with pytest.raises(DataError, match="nothing to draw from"):
        next(DataSampler().process())


def test_data_of_a_sampler_is_in_its_identity() -> None:
    one, other = (DataSampler(data=[{"a": n}], name="s") for n in (1, 2))
    assert one.data_identity() != other.data_identity()
    assert one.identity().digest == other.identity().digest


def test_no_text_stays_no_text_when_texts_are_cut() -> None:
    cut = TruncateTextColumn(max_length=2)
    assert entries(cut, [{"text": None}, {"text": "abc"}]) == [{"text": None}, {"text": "ab"}]


def test_a_system_prompt_comes_first() -> None:
    row = {"instruction": "i", "generation": "g", "system_prompt": "s"}
    (made,) = entries(
        FormatTextGenerationSFT(),
        [
            row,
        ],
    )
    assert [turn["role"] for turn in made["messages"]] == ["system", "user", "assistant"]
    (made,) = entries(FormatTextGenerationSFT(), [{**row, "system_prompt": None}])
    assert [turn["role"] for turn in made["messages"]] == ["user", "assistant"]


def test_of_equal_ratings_the_first_is_taken() -> None:
    row = {"instruction": "i", "generations": ["a", "b", "c"], "ratings": [2, 2, 2]}
    (made,) = entries(FormatTextGenerationDPO(), [row])
    assert made["chosen"] == made["rejected"]
    assert "chosen_model" not in made


@pytest.mark.parametrize("ratings", [[1, None], [1], []])
def test_a_row_without_all_ratings_fails_alone(ratings: list[Any]) -> None:
    good = {"messages": [{"role": "user", "content": "u"}], "generations": ["a", "b"]}
    bad = {**good, "ratings": ratings}
    first, second = entries(FormatChatGenerationDPO(), [bad, {**good, "ratings": [1, 2]}])
    assert isinstance(first, FailedRow)
    assert second["chosen"][-1]["content"] == "b"


def test_rows_are_sorted_by_several_columns_and_none_comes_last() -> None:
    rows = [{"a": a, "b": b} for a, b in [(1, 2), (None, 0), (1, 1), (0, None), (0, 5)]]
    (made,) = Sort(columns=["a", "b"]).process(rows)
    assert [(r["a"], r["b"]) for r in made] == [(0, 5), (0, None), (1, 1), (1, 2), (None, 0)]


def test_a_sample_is_the_same_each_time_and_in_order() -> None:
    rows = [{"n": n} for n in range(50)]
    (one,) = Sample(size=7).process(rows)
    (again,) = Sample(size=7).process(rows)
    (other,) = Sample(size=7, seed=1).process(rows)
    assert one == again != other
    assert [r["n"] for r in one] == sorted(r["n"] for r in one)
    assert next(Sample(size=99).process(rows)) == rows
    with pytest.raises(ValueError, match="either size or fraction"):
        Sample()


def test_none_is_left_out_of_a_joined_text() -> None:
    rows = entries(JoinColumns(columns=["a", "b"], separator="-"), [{"a": 1, "b": None}])
    assert rows == [{"a": 1, "b": None, "text": "1"}]


class Picky(Embeddings):
    """Refuses a whole batch for one text, as services do."""

    @property
    def model_name(self) -> str:
        return "picky"

    def encode(self, inputs: list[str]) -> list[list[float]]:
        if "bad" in inputs:
            raise ValueError("bad text")
        return [[float(len(text))] for text in inputs]


def test_a_text_that_cannot_be_embedded_fails_alone() -> None:
    step = EmbeddingGeneration(embeddings=Picky())
    step.load()
    one, bad, none, two = entries(step, [{"text": t} for t in ("a", "bad", None, "bb")])
    assert (one["embedding"], two["embedding"]) == ([1.0], [2.0])
    assert isinstance(bad, FailedRow)
    assert isinstance(none, FailedRow)
    assert bad.row["embedding"] is None
