"""What a run keeps beside its rows: the pipeline as a file, a log, and what steps saved."""

import json
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from asyncdistil.cli.packed import export_run, import_pack
from asyncdistil.distiset import Distiset
from asyncdistil.log.collection import collect
from asyncdistil.log.files import LocalFiles
from asyncdistil.pipeline import Pipeline
from asyncdistil.steps import (
    GlobalStep,
    KeepColumns,
    LoadDataFromDicts,
    Map,
    RowStep,
    StepInput,
)
from asyncdistil.supervisor.stored_run import StoredRun
from asyncdistil.typing import StepOutput


class Index(GlobalStep):
    """A step with a paper.

    Source: Somebody et al., A Paper, https://arxiv.org/abs/2401.00001

    Citations:
        ```
        @article{index2024,
            title={An {Index} of All}
        }
        ```
    """

    word: str = "index"

    def process(self, inputs: StepInput) -> StepOutput:
        text = f"{self.word} of {[row['n'] for row in inputs]}"
        self.save_artifact("index", lambda path: (path / "x").write_text(text), {"rows": 2})
        yield inputs


class Drawn(RowStep):
    """Leaves a file for each row."""

    def transform(self, row: dict[str, Any]) -> dict[str, Any]:
        self.save_artifact(f"n{row['n']}", lambda path: (path / "n").write_text(str(row["n"])))
        return row


def pipeline(cache: Path, *numbers: int, word: str = "index", beside: bool = False) -> Pipeline:
    with Pipeline("saving", cache_dir=cache) as made:
        load = LoadDataFromDicts(name="load", data=[{"n": n} for n in numbers])
        index = load >> Drawn(name="drawn") >> Index(name="index", word=word)
        if beside:
            index >> KeepColumns(name="keep", columns=["n"])
    return made


def saved(distiset: Distiset) -> dict[str, str]:
    root = distiset.artifacts_path
    assert root is not None
    files = [p for p in root.rglob("*") if p.is_file() and p.name != "metadata.json"]
    return {p.relative_to(root).as_posix(): p.read_text() for p in files}


def test_artifacts_of_replayed_steps_are_those_of_their_rows(cache: Path, tmp_path: Path) -> None:
    first = saved(pipeline(cache, 1, 2).run())
    both = {"drawn/n1/n": "1", "drawn/n2/n": "2", "index/index/x": "index of [1, 2]"}
    assert first == both
    assert saved(pipeline(cache, 1, 2).run()) == both
    assert saved(pipeline(cache, 1, 2, 3).run())["index/index/x"] == "index of [1, 2, 3]"
    # Not the newest, but that of the rows that are served again.
    again = pipeline(cache, 1, 2, beside=True).run()
    assert saved(again)["index/index/x"] == "index of [1, 2]"
    assert saved(again)["drawn/n1/n"] == "1"
    assert saved(pipeline(cache, 1, 2, word="list").run())["index/index/x"] == "list of [1, 2]"

    again.save_to_disk(tmp_path / "saved")
    kept = tmp_path / "saved" / "artifacts" / "index" / "index"
    assert sorted(path.name for path in kept.iterdir()) == ["metadata.json", "x"]
    assert json.loads((kept / "metadata.json").read_text()) == {"rows": 2}
    assert saved(Distiset.load_from_disk(tmp_path / "saved")) == saved(again)


def test_a_pack_carries_what_the_rows_of_a_dataset_hang_on(cache: Path, tmp_path: Path) -> None:
    pipeline(cache, 1, 2).run()
    pipeline(cache, 1, 2, 3).run()
    made = pipeline(cache, 1, 2, beside=True).run()
    pack, there = tmp_path / "pack", tmp_path / "there"
    export_run("saving", "", pack, cache, as_json=True)
    for _ in range(2):
        import_pack(pack, there, sha256="", as_json=True)
        taken = pipeline(there, 1, 2, beside=True).run()
        assert taken.report["hit"]
        assert saved(taken) == saved(made)
    # That of the run with three rows is no part of this dataset.
    assert len([*there.glob("pipelines/*/artifacts/*/index/index")]) == 1


def test_the_pipeline_and_the_log_of_a_run_go_with_its_dataset(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET", "canary")
    with Pipeline("plain", cache_dir=cache) as made:
        load = LoadDataFromDicts(name="load", data=[{"n": 1, "m": 2}])
        load >> KeepColumns(name="keep", columns=["n"])
    for distiset in (made.run(), made.run()):
        path, log = distiset.pipeline_path, distiset.log_filename_path
        assert path is not None
        assert log is not None
        assert list(Pipeline.from_yaml(path)) == ["load", "keep"]
        assert "[keep] 1 rows computed, 0 replayed, 0 failed" in log.read_text()
        assert log.read_text().endswith("the run is complete\n")
        modes = [stat.S_IMODE(each.stat().st_mode) for each in (path, log, path.parent)]
        assert modes == [0o600, 0o600, 0o700]
    distiset.save_to_disk(tmp_path / "saved")
    back = Distiset.load_from_disk(tmp_path / "saved")
    assert back.pipeline_path is not None
    assert back.log_filename_path is not None
    assert "asyncdistil run" in (tmp_path / "saved/distiset_configs/README.md").read_text()

    with Pipeline("code", cache_dir=cache) as coded:
        LoadDataFromDicts(name="load", data=[{"n": 1}]) >> Map(name="map", function=lambda row: row)
    assert coded.run().pipeline_path is None


def test_papers_of_steps_are_cited_without_the_network(cache: Path, tmp_path: Path) -> None:
    distiset = pipeline(cache, 1).run()
    assert distiset.citations[0].startswith("@article{index2024,")
    assert "title={An {Index} of All}" in distiset.citations[0]
    assert "title = {Somebody et al., A Paper}" in distiset.citations[1]
    assert "eprint = {2401.00001}" in distiset.citations[1]
    distiset.save_to_disk(tmp_path / "saved")
    card = (tmp_path / "saved" / "distiset_configs" / "README.md").read_text()
    assert "@article{index2024" in card
    assert os.fspath(cache) not in card


def test_artifacts_go_with_the_last_run_that_has_their_rows(cache: Path) -> None:
    pipeline(cache, 1).run()
    again = saved(pipeline(cache, 1, beside=True).run())
    pipeline(cache, 2).run()
    stored = StoredRun.open(cache, "saving")
    assert stored is not None
    with stored:
        root, runs = stored.store.root, [begin.run for begin, _ in stored.store.runs()]
    assert sorted(p.name for p in (root / "artifacts").iterdir()) == sorted([runs[0], runs[2]])
    collect(cache, "saving", [runs[0], runs[2]], LocalFiles())
    assert [p.name for p in (root / "artifacts").iterdir()] == [runs[0]]
    assert [p.name for p in (root / "runs").iterdir()] == [runs[1]]
    assert saved(pipeline(cache, 1, beside=True).run()) == again


class Telling(RowStep):
    word: str

    def transform(self, row: dict[str, Any]) -> dict[str, Any]:
        self._logger.warning("here is %s", self.word)
        return row


def test_runs_beside_one_another_have_logs_of_their_own(cache: Path) -> None:
    def told(word: str) -> str:
        with Pipeline(word, cache_dir=cache) as made:
            load = LoadDataFromDicts(name="load", data=[{"n": 1}])
            load >> Telling(name="tell", word=word)
        path = made.run().log_filename_path
        assert path is not None
        return path.read_text()

    with ThreadPoolExecutor(2) as threads:
        one, other = threads.map(told, ("one", "other"))
    assert "here is one" in one
    assert "here is other" in other
    assert "other" not in one
    assert "here is one" not in other
