"""The gallery's steps that look at all rows: duplicates, neighbours, filters, pushes, scores."""

from __future__ import annotations

import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncdistil.errors import DataError, ParameterError
from asyncdistil.models import Embeddings
from asyncdistil.pipeline import Pipeline
from asyncdistil.steps import (
    DeitaFiltering,
    EmbeddingDedup,
    EmbeddingGeneration,
    ExactDedup,
    FailedRow,
    FaissNearestNeighbour,
    FilterRows,
    LoadDataFromDicts,
    MinHashDedup,
    PushToHub,
    RewardModelScore,
)


def only(made: Any) -> list[dict[str, Any]]:
    (rows,) = made
    return list(rows)


@given(st.lists(st.sampled_from([1, 1.0, True, "1", None])))
def test_exactly_the_first_of_equal_rows_stay(values: list[Any]) -> None:
    rows = [{"v": value, "n": n} for n, value in enumerate(values)]
    kept = only(ExactDedup(columns=["v"]).process(rows))
    kinds = [(type(value), value) for value in values]
    assert [row["n"] for row in kept] == sorted({kinds.index(kind) for kind in kinds})
    marked = only(ExactDedup(columns=["v"], output_column="first").process(rows))
    assert [row["n"] for row in marked if row["first"]] == [row["n"] for row in kept]


def test_all_columns_count_if_none_are_named() -> None:
    assert len(only(ExactDedup().process([{"a": 1}, {"a": 1}, {"a": 1, "b": None}]))) == 2


@pytest.mark.parametrize("tokenizer", ["words", "ngrams"])
def test_near_duplicates_are_marked_however_rows_are_cut_into_batches(tokenizer: Any) -> None:
    pytest.importorskip("datasketch")
    step = MinHashDedup(tokenizer=tokenizer, threshold=0.8)
    step.load()
    long = "the quick brown fox jumps over the lazy dog and runs away from all the others " * 3
    texts = [long, "something else altogether", long + "!", None, long.upper()]
    rows = only(step.process([{"text": text} for text in texts]))
    marks = [row["keep_row_after_minhash_filtering"] for row in rows]
    assert marks == [True, True, False, True, True]


def test_a_missing_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasketch", None)
    with pytest.raises(ParameterError, match=r"asyncdistil\[dedup\]"):
        MinHashDedup().load()


@given(st.integers(1, 30), st.integers(1, 4), st.integers(1, 9), st.randoms())
def test_neighbours_are_the_nearest_other_rows(n: int, k: int, portion: int, chance: Any) -> None:
    pytest.importorskip("faiss")
    # Few values, so that equal vectors are common.
    rows = [{"embedding": [float(chance.randrange(4)) for _ in range(2)]} for _ in range(n)]
    step = FaissNearestNeighbour(k=k, search_batch_size=portion)
    step.load()
    for number, row in enumerate(only(step.process(rows))):
        assert number not in row["nn_indices"]
        assert len(set(row["nn_indices"])) == len(row["nn_indices"]) == min(k, n - 1)
        own = row["embedding"]
        apart = [
            sum((a - b) ** 2 for a, b in zip(own, other["embedding"], strict=True))
            for place, other in enumerate(rows)
            if place != number
        ]
        assert row["nn_scores"] == sorted(apart)[:k]


def test_the_index_is_kept_as_an_artifact(tmp_path: Path) -> None:
    faiss = pytest.importorskip("faiss")
    step = FaissNearestNeighbour(name="near")
    step.load()
    step.set_artifacts_path(tmp_path)
    only(step.process([{"embedding": [1.0, 2.0]}, {"embedding": [2.0, 1.0]}]))
    assert faiss.read_index(str(tmp_path / "near" / "faiss_index" / "index.faiss")).ntotal == 2


def test_rows_without_embedding_have_no_neighbours() -> None:
    pytest.importorskip("faiss")
    step = FaissNearestNeighbour()
    step.load()
    rows = only(step.process([{"embedding": e} for e in (None, [1.0], [2.0])]))
    assert [row["nn_indices"] for row in rows] == [[], [2], [1]]
    assert only(step.process([{"embedding": None}]))[0]["nn_scores"] == []
    with pytest.raises(DataError, match="lengths"):
        next(step.process([{"embedding": [1.0]}, {"embedding": [1.0, 2.0]}]))


def test_of_mutual_duplicates_one_stays() -> None:
    rows = [
        {"nn_indices": [1], "nn_scores": [0.99]},
        {"nn_indices": [0], "nn_scores": [0.99]},
        {"nn_indices": [1], "nn_scores": [0.95]},
        {"nn_indices": [], "nn_scores": []},
    ]
    marked = only(EmbeddingDedup(threshold=0.9).process(rows))
    # The third one is like the second, which is gone itself: nothing that stays is like it.
    kept = [row["keep_row_after_embedding_filtering"] for row in marked]
    assert kept == [True, False, True, True]


@pytest.mark.parametrize("metric", ["cosine", "manhattan"])
def test_deita_keeps_the_best_that_are_far_apart(metric: Any) -> None:
    vectors = [[1.0, 0.0], [1.0, 0.001], [0.0, 1.0], [-1.0, 0.0], [0.0, 0.0]]
    scores = [(1.0, 1.0), (0.9, 1.0), (0.5, None), (0.5, 0.8), (None, None)]
    rows = [
        {"evol_instruction_score": one, "evol_response_score": two, "embedding": vector, "n": n}
        for n, ((one, two), vector) in enumerate(zip(scores, vectors, strict=True))
    ]
    step = DeitaFiltering(data_budget=3, diversity_threshold=0.5, distance_metric=metric)
    kept = only(step.process(rows))
    assert [row["n"] for row in kept] == [2, 3, 4]
    assert [row["deita_score"] for row in kept] == [0.5, 0.4, 0]
    assert kept[0]["deita_score_computed_with"] == ["evol_instruction_score"]
    assert all(a["deita_score"] >= b["deita_score"] for a, b in pairwise(kept))
    assert only(step.process([])) == []


def test_a_push_has_all_columns_and_passes_the_rows_on(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    pushed: list[Any] = []
    monkeypatch.setattr(
        datasets.Dataset, "push_to_hub", lambda data, *a, **k: pushed.append((data.to_list(), a, k))
    )
    step = PushToHub(repo_id="me/data", token="hf_secret", private=True)
    rows = [{"a": 1}, {"a": 2, "b": "x"}]
    assert only(step.process(rows)) == rows
    ((data, where, how),) = pushed
    assert data == [{"a": 1, "b": None}, {"a": 2, "b": "x"}]
    assert where == ("me/data",)
    assert how == {"split": "train", "private": True, "token": "hf_secret"}
    assert step.effects
    assert "hf_secret" not in repr(step)
    assert step.secrets() == ["hf_secret"]


TORCH = """
class no_grad:
    def __enter__(self): pass
    def __exit__(self, *_): pass
"""
TRANSFORMERS = """
import numpy
class Batch(dict):
    def to(self, device):
        return self
class Numbers:
    def __init__(self, values): self.values = numpy.array(values); self.shape = self.values.shape
    def squeeze(self, axis): return Numbers(self.values.squeeze(axis))
    def float(self): return self
    def tolist(self): return self.values.tolist()
class Model:
    device = "cpu"
    def __call__(self, input_ids):
        class Output: logits = Numbers([[float(len(text))] for text in input_ids])
        return Output
class Tokenizer:
    def apply_chat_template(self, conversations, **_):
        if any(turn["content"] == "bad" for turns in conversations for turn in turns):
            raise ValueError("bad turn")
        return Batch(input_ids=["".join(t["content"] for t in turns) for turns in conversations])
class AutoModelForSequenceClassification:
    from_pretrained = staticmethod(lambda *a, **k: Model())
class AutoTokenizer:
    from_pretrained = staticmethod(lambda *a, **k: Tokenizer())
"""


def test_a_reward_model_scores_a_batch_and_a_bad_row_fails_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, source in ("torch", TORCH), ("transformers", TRANSFORMERS):
        (tmp_path / f"{name}.py").write_text(source)
        if name in sys.modules:
            pytest.skip(f"the real {name} is loaded")
    monkeypatch.syspath_prepend(str(tmp_path))
    step = RewardModelScore(model="m")
    step.load()
    rows = [
        {"instruction": "ab", "response": "c"},
        {"conversation": [{"role": "user", "content": "abcd"}]},
        {"conversation": [{"role": "user", "content": "bad"}]},
        {"other": 1},
    ]
    (entries,) = step.entries(rows)
    one, two, bad, empty = entries
    assert (one["score"], two["score"]) == (3.0, 4.0)
    assert isinstance(bad, FailedRow)
    assert "bad turn" in bad.failure.message
    assert isinstance(empty, FailedRow)
    for name in ("torch", "transformers"):
        sys.modules.pop(name)


class Letters(Embeddings):
    """Counts of three letters."""

    @property
    def model_name(self) -> str:
        return "letters"

    def encode(self, inputs: list[str]) -> list[list[float]]:
        return [[float(text.count(letter)) for letter in "abc"] for text in inputs]


def test_a_pipeline_of_the_gallery_runs(tmp_path: Path) -> None:
    faiss = pytest.importorskip("faiss")
    pytest.importorskip("datasketch")
    texts = ["a a b", "a a b", "b b b c", "b b c b", "c c"]
    with Pipeline("gallery", cache_dir=tmp_path) as pipeline:
        (
            LoadDataFromDicts(data=[{"text": text} for text in texts], batch_size=2)
            >> ExactDedup(columns=["text"])
            >> EmbeddingGeneration(embeddings=Letters(), input_batch_size=2)
            >> FaissNearestNeighbour(metric_type=faiss.METRIC_INNER_PRODUCT, string_factory="Flat")
            >> EmbeddingDedup(threshold=9.5)
            >> FilterRows(predicate=lambda row: row["keep_row_after_embedding_filtering"])
        )
    distiset = pipeline.run()
    assert list(distiset["default"]["train"]["text"]) == ["a a b", "b b b c", "c c"]
