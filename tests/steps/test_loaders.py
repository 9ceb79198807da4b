"""Loaders of what the program holds and of what lies on disk."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncdistil.errors import DataError
from asyncdistil.steps import (
    GeneratorStep,
    LoadDataFromDataset,
    LoadDataFromDicts,
    LoadDataFromDisk,
    LoadDataFromFileSystem,
    make_generator_step,
)
from asyncdistil.steps.batching import recut

ROWS = [{"n": n, "text": f"row {n}"} for n in range(7)]


def all_of(step: GeneratorStep, offset: int = 0) -> list[dict[str, Any]]:
    """Read a loader to its end, checking what it says about the end."""
    made = list(step.generate(offset))
    assert [last for _, last in made] == [False] * (len(made) - 1) + [True]
    assert all(len(rows) == step.batch_size for rows, _ in made[:-1])
    return [row for rows, _ in made for row in rows]


def jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def csv(path: Path) -> Path:
    path.write_text("n,text\n" + "".join(f"{row['n']},{row['text']}\n" for row in ROWS))
    return path


def table(rows: list[dict[str, Any]] = ROWS) -> pa.Table:
    return pa.Table.from_pylist(rows)


@pytest.fixture
def sources(tmp_path: Path) -> dict[str, GeneratorStep]:
    """A loader of the same rows for every kind of source."""
    array = tmp_path / "array.json"
    array.write_text(json.dumps(ROWS, indent=1))
    lines = jsonl(tmp_path / "lines.json", ROWS)
    packed = tmp_path / "packed.jsonl.gz"
    packed.write_bytes(gzip.compress(jsonl(tmp_path / "x.jsonl", ROWS).read_bytes()))
    parquet = tmp_path / "p.parquet"
    pq.write_table(table(), parquet, row_group_size=3)
    halves = [jsonl(tmp_path / f"half{n}.jsonl", ROWS[n * 4 : n * 4 + 4]) for n in range(2)]
    dataset = datasets.Dataset.from_list(ROWS)
    dataset.save_to_disk(tmp_path / "saved")
    files = LoadDataFromFileSystem
    return {
        "dicts": LoadDataFromDicts(data=ROWS),
        "Dataset": make_generator_step(dataset),
        "IterableDataset": make_generator_step(dataset.to_iterable_dataset()),
        "DataFrame": make_generator_step(pd.DataFrame(ROWS)),
        "Table": make_generator_step(table()),
        "json array": files(data_files=str(array)),
        "json lines": files(data_files=lines),
        "gzip": files(data_files=packed),
        "csv": files(data_files=csv(tmp_path / "t.csv")),
        "csv streamed": files(data_files=csv(tmp_path / "t.csv"), streaming=True),
        "parquet": files(data_files=parquet),
        "glob": files(data_files=str(tmp_path / "half*.jsonl")),
        "list": files(data_files=[str(path) for path in halves]),
        "url": files(data_files=f"file://{halves[0]}", num_examples=None),
        "disk": LoadDataFromDisk(dataset_path=str(tmp_path / "saved")),
    }


KINDS = [
    "dicts", "Dataset", "IterableDataset", "DataFrame", "Table", "json array", "json lines", "gzip",
    "csv", "csv streamed", "parquet", "glob", "list", "url", "disk",
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batch_size", [1, 3, 7, 50])
def test_every_loader_gives_all_rows_from_any_offset_and_knows_the_last(
    sources: dict[str, GeneratorStep], kind: str, batch_size: int
) -> None:
    step = sources[kind]
    step.batch_size = batch_size
    step.load()
    rows = ROWS[:4] if kind == "url" else ROWS
    for offset in (0, 1, 3, 4, 6, 7):
        assert all_of(step, offset) == rows[offset:]
    step.unload()
    assert step.resumable
    assert step.outputs == ["n", "text"]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "dicts"])
def test_num_examples_limits_the_rows_whatever_the_offset(
    sources: dict[str, GeneratorStep], kind: str
) -> None:
    step = sources[kind]
    step.batch_size = 2
    step.set_runtime_parameters({"num_examples": 3})
    assert all_of(step) == ROWS[:3]
    assert all_of(step, 2) == ROWS[2:3]
    assert all_of(step, 3) == []


@given(
    chunks=st.lists(st.lists(st.integers(), max_size=5), max_size=6),
    batch_size=st.integers(1, 7),
    limit=st.none() | st.integers(-1, 12),
)
def test_recut_keeps_every_row_in_order_and_ends_once(
    chunks: list[list[int]], batch_size: int, limit: int | None
) -> None:
    rows = [[{"n": n} for n in chunk] for chunk in chunks]
    made = list(recut(rows, batch_size, limit))
    wanted = [row for chunk in rows for row in chunk]
    if limit is not None:
        wanted = wanted[: max(limit, 0)]
    assert [row for batch, _ in made for row in batch] == wanted
    assert [last for _, last in made] == [False] * (len(made) - 1) + [True]
    assert all(0 < len(batch) <= batch_size for batch, _ in made[:-1])


def test_given_rows_are_neither_consumed_nor_changed() -> None:
    data = [{"a": 1}, {"a": 2}]
    step = LoadDataFromDicts(data=data)
    for rows, _ in step.process():
        for row in rows:
            row["a"] = None
    assert all_of(step) == data == [{"a": 1}, {"a": 2}]


def test_a_loader_without_rows_says_so_instead_of_hanging() -> None:
    for step in (LoadDataFromDicts(data=[]), LoadDataFromDicts()):
        with pytest.raises(DataError, match="was given no rows"):
            list(step.process())
        with pytest.raises(DataError, match="was given no rows"):
            step.outputs
    with pytest.raises(ValueError, match="row 1 must be a dict, not a int"):
        LoadDataFromDicts(data=[{}, 1])
    with pytest.raises(ValueError, match="must be a list of dicts"):
        LoadDataFromDicts(data={"a": 1})


def test_an_empty_table_is_an_ordinary_source() -> None:
    assert all_of(make_generator_step(table(ROWS).slice(7))) == []


def test_other_sources_are_refused_with_what_would_do() -> None:
    splits = datasets.DatasetDict({"train": datasets.Dataset.from_list(ROWS)})
    with pytest.raises(DataError, match="choose a split"):
        make_generator_step(splits)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="a list of dicts will do too"):
        make_generator_step(3)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="at least one row"):
        make_generator_step([])


def test_make_generator_step_passes_its_arguments_on() -> None:
    step = make_generator_step(ROWS, batch_size=3, output_mappings={"n": "number"}, name="mine")
    assert (step.name, step.batch_size) == ("mine", 3)
    assert all_of(step)[0] == {"number": 0, "text": "row 0"}


def test_times_come_as_pythons_own_and_nothing_is_rounded() -> None:
    frame = pd.DataFrame({"t": pd.to_datetime(["2024-05-01 10:00:00.000001"]).astype("M8[ns]")})
    (row,) = all_of(make_generator_step(frame))
    assert type(row["t"]).__module__ == "datetime"
    exact = pd.DataFrame({"t": pd.to_datetime([1], unit="ns")})
    with pytest.raises(DataError, match="nanoseconds"):
        all_of(make_generator_step(exact))


def test_images_stay_bytes() -> None:
    features = datasets.Features({"image": datasets.Image()})
    rows = [{"image": {"bytes": b"not decoded", "path": None}}]
    dataset = datasets.Dataset.from_list(rows, features=features)
    assert all_of(make_generator_step(dataset)) == rows
    assert all_of(make_generator_step(dataset.to_iterable_dataset())) == rows


def test_tables_are_named_by_content_however_they_are_chunked() -> None:
    whole = table()
    pieces = pa.concat_tables([whole.slice(0, 2), whole.slice(2)])
    name = LoadDataFromDataset(dataset=whole).data_identity()
    assert name == LoadDataFromDataset(dataset=pieces).data_identity()
    frames = [LoadDataFromDataset(dataset=pd.DataFrame(ROWS)) for _ in range(2)]
    assert frames[0].data_identity() == frames[1].data_identity()
    assert name != LoadDataFromDataset(dataset=whole.slice(1)).data_identity()
    assert name != LoadDataFromDataset(dataset=whole, num_examples=3).data_identity()


def test_datasets_are_named_by_fingerprint_and_streams_not_at_all() -> None:
    one, two = datasets.Dataset.from_list(ROWS), datasets.Dataset.from_list(ROWS[1:])
    assert (
        LoadDataFromDataset(dataset=one).data_identity()
        == LoadDataFromDataset(dataset=datasets.Dataset.from_list(ROWS)).data_identity()
        != LoadDataFromDataset(dataset=two).data_identity()
    )
    assert LoadDataFromDataset(dataset=one.to_iterable_dataset()).data_identity() is None


# --- files ----------------------------------------------------------------------------------


def test_files_are_named_by_content_not_by_place_or_time(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", ROWS)
    name = LoadDataFromFileSystem(data_files=path).data_identity()
    moved = path.rename(tmp_path / "b.jsonl")
    os.utime(moved, (1, 1))
    assert LoadDataFromFileSystem(data_files=moved).data_identity() == name
    assert LoadDataFromFileSystem(data_files=moved, num_examples=2).data_identity() != name
    jsonl(moved, ROWS[::-1])
    assert LoadDataFromFileSystem(data_files=moved).data_identity() != name


def test_a_directory_stands_for_its_data_files_in_order(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / ".hidden").mkdir()
    jsonl(tmp_path / "sub" / "c.jsonl", ROWS[2:3])
    jsonl(tmp_path / "b.jsonl", ROWS[1:2])
    jsonl(tmp_path / "a.jsonl", ROWS[:1])
    jsonl(tmp_path / ".hidden" / "d.jsonl", ROWS[3:])
    (tmp_path / "README.md").write_text("not data")
    assert all_of(LoadDataFromFileSystem(data_files=tmp_path)) == ROWS[:3]


def test_splits_choose_among_files(tmp_path: Path) -> None:
    files = {"train": jsonl(tmp_path / "a.jsonl", ROWS[:2]), "test": [tmp_path / "b.jsonl"]}
    jsonl(tmp_path / "b.jsonl", ROWS[2:])
    assert all_of(LoadDataFromFileSystem(data_files=files)) == ROWS[:2]
    assert all_of(LoadDataFromFileSystem(data_files=files, split="test")) == ROWS[2:]
    with pytest.raises(DataError, match="has no split 'dev'"):
        all_of(LoadDataFromFileSystem(data_files=files, split="dev"))


def test_text_files_give_a_row_per_line(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("one\n\nthrée\r\nfour", encoding="utf-8", newline="")
    step = LoadDataFromFileSystem(data_files=path)
    assert [row["text"] for row in all_of(step)] == ["one", "", "thrée", "four"]
    assert all_of(step, 3) == [{"text": "four"}]
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match="can't be read as text"):
        all_of(step)


def test_csv_keeps_dates_as_text_and_settles_types_over_the_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    many = "".join(f"{n},2024-01-02,x\n" for n in range(100_000))
    path.write_text(f'n,day,text\n{many}2.5,2024-01-03,"two\nlines"\n')
    *_, last = all_of(LoadDataFromFileSystem(data_files=path, batch_size=1000))
    assert last == {"n": 2.5, "day": "2024-01-03", "text": "two\nlines"}


def test_tsv_and_a_given_filetype(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text("a\tb\n1\tx,y\n")
    assert all_of(LoadDataFromFileSystem(data_files=tmp_path / "a.tsv")) == [{"a": 1, "b": "x,y"}]
    (tmp_path / "odd.data").write_text('{"a": 1}\n')
    with pytest.raises(DataError, match="set filetype"):
        all_of(LoadDataFromFileSystem(data_files=tmp_path / "odd.data"))
    odd = LoadDataFromFileSystem(data_files=tmp_path / "odd.data", filetype="jsonl")
    assert all_of(odd) == [{"a": 1}]


def test_json_takes_blank_lines_nan_big_numbers_and_one_spread_object(tmp_path: Path) -> None:
    lines = tmp_path / "a.jsonl"
    lines.write_text('\n{"a": NaN}\n\n{"a": 123456789012345678901234567890}\n')
    nan, big = all_of(LoadDataFromFileSystem(data_files=lines))
    assert nan["a"] != nan["a"]
    assert big["a"] == 123456789012345678901234567890
    spread = tmp_path / "b.json"
    spread.write_text('{\n "a": 1\n}\n')
    assert all_of(LoadDataFromFileSystem(data_files=spread)) == [{"a": 1}]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", '{"a": 1}\n{"a": \n', "line 2 of .* is not JSON"),
        ("a.jsonl", '{"a": 1}\n[1]\n', "line 2 of .* holds a list"),
        ("a.json", "[1, 2]", "must hold an array of objects"),
        ("a.json", "[{", "can't be read as json"),
        ("a.parquet", "no parquet", "can't be read as parquet"),
        ("a.csv", "a,b\n1\n", "can't be read as csv"),
    ],
)
def test_a_damaged_file_is_named_with_the_place(
    tmp_path: Path, name: str, content: str, message: str
) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=message):
        all_of(LoadDataFromFileSystem(data_files=tmp_path / name))


def test_files_that_are_missing_or_mixed_are_refused(tmp_path: Path) -> None:
    jsonl(tmp_path / "a.jsonl", ROWS)
    csv(tmp_path / "b.csv")
    with pytest.raises(DataError, match="stands for no data file"):
        all_of(LoadDataFromFileSystem(data_files=str(tmp_path / "*.parquet")))
    with pytest.raises(DataError, match="several types"):
        all_of(LoadDataFromFileSystem(data_files=tmp_path))
    with pytest.raises(DataError, match="has no files to read"):
        LoadDataFromFileSystem().outputs


@pytest.fixture
def memory_files() -> Iterator[str]:
    from fsspec.implementations.memory import MemoryFileSystem

    system = MemoryFileSystem()
    with system.open("/steps-loader/a.jsonl", "wb") as handle:
        handle.write(json.dumps(ROWS[0]).encode())
    yield "memory://steps-loader/a.jsonl"
    system.rm("/steps-loader", recursive=True)


def test_other_file_systems_are_read_by_url(memory_files: str) -> None:
    step = LoadDataFromFileSystem(data_files=memory_files)
    assert all_of(step) == ROWS[:1]
    assert step.data_identity() == step.data_identity()


# --- saved datasets -------------------------------------------------------------------------


def test_a_saved_distiset_is_read_by_config_and_split(tmp_path: Path) -> None:
    for config, rows in (("one", ROWS[:3]), ("two", ROWS[3:])):
        splits = {"train": datasets.Dataset.from_list(rows)}
        datasets.DatasetDict(splits).save_to_disk(tmp_path / "d" / config)
    (tmp_path / "d" / "distiset_configs").mkdir()
    (tmp_path / "d" / "artifacts").mkdir()
    where = {"dataset_path": tmp_path / "d", "is_distiset": True}
    assert all_of(LoadDataFromDisk(**where, config="two")) == ROWS[3:]
    with pytest.raises(DataError, match=r"one of the configurations at .*\['one', 'two'\]"):
        all_of(LoadDataFromDisk(**where))
    with pytest.raises(DataError, match="has no split 'test'"):
        all_of(LoadDataFromDisk(**where, config="one", split="test"))
    with pytest.raises(DataError, match="no saved dataset at"):
        all_of(LoadDataFromDisk(dataset_path=tmp_path / "nothing"))


def test_a_saved_dataset_is_named_by_content(tmp_path: Path) -> None:
    datasets.Dataset.from_list(ROWS).save_to_disk(tmp_path / "a")
    datasets.Dataset.from_list(ROWS).save_to_disk(tmp_path / "b")
    datasets.Dataset.from_list(ROWS[1:]).save_to_disk(tmp_path / "c")
    names = [LoadDataFromDisk(dataset_path=tmp_path / n).data_identity() for n in "abc"]
    assert names[0] == names[1] != names[2]
    in_memory = LoadDataFromDisk(dataset_path=tmp_path / "a", keep_in_memory=True)
    in_memory.load()
    assert all_of(in_memory) == ROWS
    assert in_memory.data_identity() == names[0]
