"""A payload larger than a frame reaches its worker in parts."""

from __future__ import annotations

from pathlib import Path

from asyncdistil.pipeline import Pipeline
from asyncdistil.steps import KeepColumns, LoadDataFromDicts


def test_a_loader_holding_more_than_a_frame_runs(tmp_path: Path) -> None:
    blob = "x" * (1 << 20)
    with Pipeline(name="large", cache_dir=tmp_path) as pipeline:
        rows = [{"n": number, "blob": f"{number}{blob}"} for number in range(80)]
        load = LoadDataFromDicts(data=rows, batch_size=10)
        load >> KeepColumns(columns=["n"])
    table = pipeline.run().table("default")
    assert table.column("n").to_pylist() == list(range(80))
