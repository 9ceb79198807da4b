"""From embeddings to named clusters, with the real libraries."""

from __future__ import annotations

import doctest
import json
from pathlib import Path
from typing import Any

import pytest

from asyncdistil.errors import DataError, ModelReplyError
from asyncdistil.steps import DBSCAN, UMAP, clustering
from asyncdistil.steps.tasks import TextClustering
from asyncdistil.testing.fake_llm import FakeLLM

PLACES = [[0.0, 0.0], [0.1, 0.0], [5.0, 5.0], None, [9.0, 9.0], [9.0, 9.1]]


def only(step: Any, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    step.load()
    (made,) = step.process(rows)
    step.unload()
    return made


def test_rows_near_each_other_are_a_cluster_and_a_row_without_a_place_is_in_none(
    tmp_path: Path,
) -> None:
    pytest.importorskip("sklearn", reason="the extra 'text-clustering' is not installed")
    step = DBSCAN(min_samples=2)
    step.set_artifacts_path(tmp_path)
    rows = only(step, [{"projection": place, "id": n} for n, place in enumerate(PLACES)])
    assert [row["cluster_label"] for row in rows] == [0, 0, -1, -1, 1, 1]
    assert [row["id"] for row in rows] == list(range(6))
    assert list(tmp_path.rglob("DBSCAN.joblib"))


def test_projections_of_different_lengths_are_refused() -> None:
    pytest.importorskip("sklearn", reason="the extra 'text-clustering' is not installed")
    with pytest.raises(DataError, match=r"lengths \[1, 2\]"):
        only(DBSCAN(), [{"projection": [1.0]}, {"projection": [1.0, 2.0]}])


def test_a_seed_gives_the_same_projection_again_and_the_examples_are_true(tmp_path: Path) -> None:
    pytest.importorskip("umap", reason="the extra 'text-clustering' is not installed")
    assert doctest.testmod(clustering).failed == 0
    embeddings = [[n // 10 * 50.0 + n % 10, n % 3, 1.0, n % 7] for n in range(20)]
    rows = [{"embedding": one, "id": n} for n, one in enumerate(embeddings)]
    rows.append({"embedding": None, "id": 20})
    step = UMAP(random_state=3)
    step.set_artifacts_path(tmp_path)
    made = only(step, rows)
    assert made[20]["projection"] is None
    places = [row["projection"] for row in made[:20]]
    assert all(len(place) == 2 and type(place[0]) is float for place in places)
    again = only(UMAP(random_state=3), rows)
    assert [row["projection"] for row in again[:20]] == places
    assert list(tmp_path.rglob("UMAP.joblib"))
    with pytest.raises(DataError, match="at least 3"):
        only(UMAP(), rows[:2])


def clusters(**task: Any) -> TextClustering:
    return TextClustering(llm=FakeLLM(reply=task.pop("reply", '{"labels": "x"}')), **task)


def texts(*labels: int) -> list[dict[str, Any]]:
    return [
        {"text": f"text {n}", "projection": [float(label), float(n)], "cluster_label": label}
        for n, label in enumerate(labels)
    ]


def test_every_row_gets_the_labels_of_its_cluster(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="the extra 'text-clustering' is not installed")
    task = clusters(
        reply=lambda asked: json.dumps({"labels": "seven" if "text 1" in asked else "two $x$"})
    )
    task.set_artifacts_path(tmp_path)
    rows = only(task, texts(2, 7, -1, 2, 7))
    labels = [json.loads(row["summary_label"]) for row in rows]
    assert labels == ["two $x$", "seven", "Unclassified", "two $x$", "seven"]
    assert {row["model_name"] for row in rows} == {task.llm.model_name}
    (figure,) = tmp_path.rglob("figure_clustering.png")
    assert figure.read_bytes().startswith(b"\x89PNG")


def test_the_model_sees_some_texts_of_a_cluster_and_the_same_ones_again() -> None:
    seen: list[str] = []

    def reply(asked: str) -> str:
        seen.append(asked)
        return '{"labels": "x"}'

    for _ in range(2):
        only(clusters(reply=reply, savefig=False, samples_per_cluster=3), texts(*[0] * 30))
    assert len(seen) == 2
    assert seen[0] == seen[1]
    assert seen[0].count("Example ") == 3


def test_rows_without_any_cluster_ask_nobody() -> None:
    def reply(asked: str) -> str:
        raise AssertionError(asked)

    rows = only(clusters(reply=reply, savefig=False, default_label=None), texts(-1, -1))
    assert [row["summary_label"] for row in rows] == ["null", "null"]
    assert only(clusters(savefig=False), []) == []


def test_a_cluster_without_labels_costs_no_other_and_all_of_them_fail_the_step(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def reply(asked: str) -> str:
        return "no" if "text 1" in asked else '{"labels": "x"}'

    rows = only(clusters(reply=reply, savefig=False), texts(0, 1))
    assert [row["summary_label"] for row in rows] == ['"x"', "null"]
    assert "no labels for cluster 1" in caplog.text
    with pytest.raises(ModelReplyError, match="any of 2 clusters"):
        only(clusters(reply="no", savefig=False), texts(0, 1))
