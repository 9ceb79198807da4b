"""What a run returns behaves like a dictionary of datasets, and costs nothing until touched."""

from __future__ import annotations

import base64
import copy
import os
import pickle
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from msgspec.structs import astuple

from asyncdistil.batch import Digest, RunId, StepName
from asyncdistil.distiset import Distiset, exports_in_place
from asyncdistil.distiset.disk import folder_name
from asyncdistil.distiset.writer import LeafWriter
from asyncdistil.errors import CorruptRecord, DataError, ParameterError
from asyncdistil.log.events import Emit

ROWS = [{"instruction": f"question {n}", "score": n / 2, "tags": ["a", str(n)]} for n in range(100)]
PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNk+A8AAQUBAScY42YAAAAASUVORK5CYII="


def emit(store: Path, config: str, rows: Sequence[dict[str, Any]], **options: Any) -> Emit:
    writer = LeafWriter(store, "exports/run", f"leaf-{config}", **options)
    writer.add(rows, 100 * len(rows))
    files, count, notes = writer.finish()
    key = Digest(bytes(16))
    return Emit(RunId("run"), key, StepName(f"step_{config}"), config, files, count, 0, notes)


@pytest.fixture
def stored(tmp_path: Path) -> Distiset:
    emits = [emit(tmp_path, "default", ROWS, chunk_rows=30), emit(tmp_path, "other", ROWS[:7])]
    return Distiset.from_emits(tmp_path, emits)


def test_a_distiset_says_what_it_holds_without_reading_it(tmp_path: Path) -> None:
    one = emit(tmp_path, "default", ROWS)
    (tmp_path / one.files[0][0]).unlink()
    distiset = Distiset.from_emits(tmp_path, [one])
    assert repr(distiset) == "Distiset({default: DatasetDict(train: 100 rows)})"
    assert distiset.num_rows == {"default": 100}
    assert list(distiset) == ["default"]
    assert len(distiset) == 1


def test_arrow_and_datasets_are_imported_only_when_rows_are_touched(tmp_path: Path) -> None:
    one = emit(tmp_path, "default", ROWS)
    program = f"""
import sys
from asyncdistil.batch import *
from asyncdistil.distiset import Distiset
from asyncdistil.log.events import Emit
distiset = Distiset.from_emits({str(tmp_path)!r}, [Emit(*{astuple(one)!r})])
repr(distiset), distiset.num_rows
assert not {{"pyarrow", "datasets", "pandas"}} & sys.modules.keys()
assert distiset.table().num_rows == 100
assert "datasets" not in sys.modules
assert len(distiset["default"]["train"]) == 100
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_each_configuration_is_a_dataset_dict_with_the_split_train(stored: Distiset) -> None:
    assert isinstance(stored["default"], datasets.DatasetDict)
    assert stored["default"]["train"][3] == ROWS[3]
    assert stored["default"]["train"].split == "train"
    assert [list(each["train"]) for each in stored.values()] == [ROWS, ROWS[:7]]
    assert stored["default"] is stored["default"] is stored.get("default")
    assert stored.get("missing") is None


def test_every_way_to_copy_the_dictionary_gives_datasets(stored: Distiset) -> None:
    for each in (
        dict(stored),
        {**stored},
        {} | stored.copy(),
        stored | {"more": 1},
        copy.copy(stored),
        pickle.loads(pickle.dumps(stored)),
        dict(stored.items()),
    ):
        assert each["other"]["train"][0] == ROWS[0]
    assert stored.pop("other")["train"][0] == ROWS[0]
    assert stored.popitem()[0] == "default"
    assert stored == {}


def test_an_unknown_configuration_is_refused_with_those_that_exist(stored: Distiset) -> None:
    with pytest.raises(KeyError, match="no configuration 'train'; there are: 'default', 'other'"):
        stored["train"]


def test_datasets_are_mapped_from_the_files_and_can_be_sent_to_other_processes(
    stored: Distiset,
) -> None:
    before = pa.total_allocated_bytes()
    train = stored["default"]["train"]
    assert train.cache_files[0]["filename"].endswith(".arrow")
    assert pa.total_allocated_bytes() - before < 1_000
    sent = pickle.loads(pickle.dumps(train.select(range(10, 20))))
    assert list(sent) == ROWS[10:20]
    lengths = train.map(lambda row: {"n": len(row["tags"])}, num_proc=2)
    assert lengths["n"][:] == [2] * 100


def test_several_files_are_one_dataset(tmp_path: Path) -> None:
    one = emit(tmp_path, "default", ROWS, chunk_rows=10, shard_bytes=1)
    assert len(one.files) == 10
    distiset = Distiset.from_emits(tmp_path, [one])
    assert distiset.table().to_pylist() == ROWS
    assert list(pickle.loads(pickle.dumps(distiset["default"]["train"]))) == ROWS


def test_equal_means_equal_rows(tmp_path: Path, stored: Distiset) -> None:
    other = tmp_path / "other"
    other.mkdir()
    again = Distiset.from_emits(
        other, [emit(other, "default", ROWS, chunk_rows=7), emit(other, "other", ROWS[:7])]
    )
    assert stored == again
    again["default"]
    assert stored == again
    assert stored != Distiset.from_rows({"default": ROWS, "other": ROWS[:6]})
    assert stored != Distiset.from_rows({"default": ROWS})


@pytest.mark.parametrize("touch", [lambda d: d.table("default"), lambda d: d["default"]])
def test_a_changed_file_is_refused_and_put_aside_so_that_a_rerun_builds_it_again(
    tmp_path: Path, touch: Any
) -> None:
    one = emit(tmp_path, "default", ROWS)
    path = tmp_path / one.files[0][0]
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert exports_in_place(tmp_path, one.files)
    with pytest.raises(CorruptRecord, match="run the pipeline again") as caught:
        touch(Distiset.from_emits(tmp_path, [one]))
    assert caught.value.path == str(path)
    assert not exports_in_place(tmp_path, one.files)
    assert path.with_name(path.name + ".damaged").read_bytes() == content


@pytest.mark.parametrize("verified", [True, False])
def test_a_missing_file_is_refused_with_the_remedy(tmp_path: Path, verified: bool) -> None:
    one = emit(tmp_path, "default", ROWS)
    (tmp_path / one.files[0][0]).unlink()
    with pytest.raises(CorruptRecord, match=r"is gone: run the pipeline again"):
        Distiset.from_emits(tmp_path, [one], verified=verified).table()


def test_failures_and_notes_come_with_the_emits(tmp_path: Path) -> None:
    one = emit(tmp_path, "default", [{"x": 1}, {"x": "a"}])
    failed = Emit(one.run, one.key, one.leaf, one.config, one.files, one.rows, 3, one.notes)
    distiset = Distiset.from_emits(tmp_path, [failed])
    assert distiset.failures == {"step_default": 3}
    assert "JSON text" in distiset.notes["default"][0]


@pytest.mark.parametrize("shuffle", [True, False])
def test_every_configuration_is_split_in_place(stored: Distiset, shuffle: bool) -> None:
    assert stored.train_test_split(0.8, shuffle=shuffle, seed=7) is stored
    assert {name: len(split) for name, split in stored["default"].items()} == {
        "train": 80,
        "test": 20,
    }
    assert stored.num_rows == {"default": 100, "other": 7}
    rows = stored.table("default").to_pylist()
    assert sorted(rows, key=lambda row: row["score"]) == ROWS
    assert (rows == ROWS) is not shuffle
    with pytest.raises(DataError, match="has been split already: train, test"):
        stored.train_test_split(0.5)
    with pytest.raises(ParameterError):
        stored.train_test_split(1.0)


def test_the_split_is_the_one_that_datasets_makes(stored: Distiset) -> None:
    expected = datasets.Dataset.from_list(ROWS).train_test_split(train_size=0.3, seed=11)
    other = stored.copy()
    del other["other"]
    found = other.train_test_split(0.3, seed=11)["default"]
    assert list(found["train"]) == list(expected["train"])
    assert list(found["test"]) == list(expected["test"])


def test_splitting_writes_nothing_beside_the_stored_rows(tmp_path: Path) -> None:
    distiset = Distiset.from_emits(tmp_path, [emit(tmp_path, "default", ROWS)])
    distiset.train_test_split(0.8, seed=1)
    assert len(list((tmp_path / "exports/run").iterdir())) == 1


def test_rows_go_to_pandas_and_parquet(tmp_path: Path, stored: Distiset) -> None:
    assert stored.to_pandas("other")["score"].sum() == sum(row["score"] for row in ROWS[:7])
    stored.to_parquet(tmp_path / "rows.parquet", "default")
    assert pq.read_table(tmp_path / "rows.parquet").to_pylist() == ROWS
    with pytest.raises(ParameterError, match="say which configuration: there are default, other"):
        stored.table()


def test_tables_in_memory_make_a_distiset() -> None:
    distiset = Distiset.from_tables({"default": pa.table({"a": [1, 2]})})
    assert list(distiset["default"]["train"]) == [{"a": 1}, {"a": 2}]
    assert distiset.table().num_rows == 2


def test_a_distiset_of_plain_datasets_works_too() -> None:
    distiset = Distiset({"default": datasets.Dataset.from_list(ROWS)})
    assert distiset.table().to_pylist() == ROWS
    assert distiset.train_test_split(0.5)["default"].keys() == {"train", "test"}


def test_base64_text_becomes_an_image() -> None:
    image = pytest.importorskip("PIL.Image")
    distiset = Distiset.from_rows({"default": [{"x": PNG, "y": 1}, {"x": None, "y": 2}]})
    train = distiset.transform_columns_to_image("x")["default"]["train"]
    assert isinstance(train.features["x"], datasets.Image)
    assert isinstance(train[0]["x"], image.Image)
    assert (train[1]["x"], train["y"][:]) == (None, [1, 2])
    stored = train.cast_column("x", datasets.Image(decode=False))[0]["x"]["bytes"]
    assert stored == base64.b64decode(PNG)


# --- disk -----------------------------------------------------------------------------------------


def test_what_is_saved_can_be_loaded_by_us_and_by_datasets(
    tmp_path: Path, stored: Distiset
) -> None:
    (tmp_path / "pipeline.yaml").write_text("pipeline: {}\n")
    (tmp_path / "run.log").write_text("all went well\n")
    (tmp_path / "made/step/plot").mkdir(parents=True)
    (tmp_path / "made/step/plot/metadata.json").write_text("{}")
    stored.pipeline_path = tmp_path / "pipeline.yaml"
    stored.log_filename_path = tmp_path / "run.log"
    stored.artifacts_path = tmp_path / "made"
    saved = tmp_path / "saved"
    stored.save_to_disk(saved, num_shards=2)

    assert {each.name for each in saved.iterdir()} == {
        "default", "other", "distiset_configs", "artifacts",
    }  # fmt: skip
    assert list(datasets.load_from_disk(str(saved / "default"))["train"]) == ROWS
    assert len(list((saved / "default/train").glob("*.arrow"))) == 2

    loaded = Distiset.load_from_disk(saved)
    assert loaded == stored
    assert list(loaded) == list(stored)
    assert loaded.pipeline_path is not None
    assert loaded.pipeline_path.read_text() == "pipeline: {}\n"
    assert loaded.log_filename_path == saved / "distiset_configs/pipeline.log"
    assert loaded.artifacts_path is not None
    assert (loaded.artifacts_path / "step/plot/metadata.json").read_text() == "{}"


def test_what_distilabel_saved_can_be_loaded(tmp_path: Path) -> None:
    """Folder per configuration, nothing else is certain to be there."""
    for config in ("leaf_1", "leaf_2"):
        train = datasets.Dataset.from_list(ROWS)
        datasets.DatasetDict({"train": train}).save_to_disk(str(tmp_path / config))
    (tmp_path / "distiset_configs").mkdir()
    (tmp_path / "distiset_configs/pipeline.yaml").write_text("x")
    loaded = Distiset.load_from_disk(tmp_path)
    assert loaded == Distiset.from_rows({"leaf_1": ROWS, "leaf_2": ROWS})
    assert loaded.pipeline_path == tmp_path / "distiset_configs/pipeline.yaml"


def test_what_is_not_wanted_is_not_saved(tmp_path: Path) -> None:
    distiset = Distiset.from_rows({"default": ROWS})
    (tmp_path / "pipeline.yaml").write_text("x")
    distiset.pipeline_path = tmp_path / "pipeline.yaml"
    distiset.save_to_disk(tmp_path / "saved", save_card=False, save_pipeline_config=False)
    configs = tmp_path / "saved/distiset_configs"
    assert [each.name for each in configs.iterdir()] == ["asyncdistil.json"]


def test_names_of_configurations_never_become_paths(tmp_path: Path) -> None:
    names = ["..", "a/b", "", "distiset_configs", "artifacts", "ü %", ".hidden", "x" * 50]
    distiset = Distiset.from_rows({name: [{"name": name}] for name in names})
    distiset.save_to_disk(tmp_path / "outer/saved")
    assert [each.name for each in (tmp_path / "outer").iterdir()] == ["saved"]
    loaded = Distiset.load_from_disk(tmp_path / "outer/saved")
    assert list(loaded) == names
    assert loaded == distiset
    assert len({folder_name(name) for name in [*names, "%2E%2E"]}) == len(names) + 1


def test_split_and_empty_datasets_survive_the_disk(tmp_path: Path) -> None:
    distiset = Distiset.from_rows({"default": ROWS}).train_test_split(0.9)
    distiset["empty"] = datasets.DatasetDict({"train": datasets.Dataset.from_dict({"a": []})})
    distiset.save_to_disk(tmp_path / "saved")
    loaded = Distiset.load_from_disk(tmp_path / "saved", keep_in_memory=True)
    assert loaded["default"].num_rows == {"train": 90, "test": 10}
    assert loaded.num_rows == {"default": 100, "empty": 0}


def test_a_url_of_another_file_system_is_downloaded(tmp_path: Path) -> None:
    distiset = Distiset.from_rows({"default": ROWS})
    distiset.save_to_disk("memory://bucket/saved")
    loaded = Distiset.load_from_disk("memory://bucket/saved", download_dir=tmp_path / "local")
    assert loaded == distiset
    assert (tmp_path / "local/default/train").is_dir()
    assert Distiset.load_from_disk("memory://bucket/saved") == distiset


def test_a_directory_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not a directory"):
        Distiset.load_from_disk(tmp_path / "nowhere")


def test_the_stored_files_are_private(tmp_path: Path) -> None:
    one = emit(tmp_path, "default", ROWS)
    path = tmp_path / one.files[0][0]
    assert os.stat(path).st_mode & 0o777 == 0o600
    assert os.stat(path.parent).st_mode & 0o777 == 0o700
