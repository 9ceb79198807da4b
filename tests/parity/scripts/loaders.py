"""Where rows come from: files, saved datasets, rows in memory."""

import json
import sys
from pathlib import Path
from typing import Any

import pandas as pd
from datasets import Dataset, DatasetDict
from distilabel.errors import DistilabelUserError
from distilabel.pipeline import Pipeline
from distilabel.steps import (
    DataSampler,
    LoadDataFromDicts,
    LoadDataFromDisk,
    LoadDataFromFileSystem,
    LoadDataFromHub,
    make_generator_step,
)

HOME = Path(sys.argv[1])
ROWS = [{"n": n, "text": f"t{n}"} for n in range(5)]
FILES = HOME / "files"


def write() -> None:
    (FILES / "many").mkdir(parents=True)
    lines = [json.dumps(row) for row in ROWS]
    (FILES / "rows.jsonl").write_text("\n".join(lines))
    for part in range(2):
        (FILES / "many" / f"{part}.jsonl").write_text("\n".join(lines[part * 3 : part * 3 + 3]))
    pd.DataFrame(ROWS).to_csv(FILES / "rows.csv", index=False)
    Dataset.from_list(ROWS).to_parquet(FILES / "rows.parquet")
    Dataset.from_list(ROWS).save_to_disk(FILES / "dataset")
    DatasetDict({"train": Dataset.from_list(ROWS)}).save_to_disk(FILES / "dict")


def batches(step: Any, offset: int = 0) -> Any:
    step.load()
    columns = sorted(step.outputs)
    return [
        columns,
        [[[dict(row) for row in rows], last] for rows, last in step.process(offset=offset)],
    ]


def dicts() -> Any:
    return batches(LoadDataFromDicts(data=[dict(row) for row in ROWS], batch_size=2))


def dicts_from_an_offset() -> Any:
    return batches(LoadDataFromDicts(data=[dict(row) for row in ROWS], batch_size=2), offset=2)


def renamed() -> Any:
    with Pipeline("renamed", cache_dir=HOME) as it:
        LoadDataFromDicts(data=[dict(row) for row in ROWS], output_mappings={"text": "body"})
    return [dict(row) for row in it.run()["default"]["train"]]


def json_lines() -> Any:
    return batches(LoadDataFromFileSystem(data_files=str(FILES / "rows.jsonl"), batch_size=3))


def pattern() -> Any:
    return batches(LoadDataFromFileSystem(data_files=str(FILES / "many" / "*.jsonl")))


def directory() -> Any:
    return batches(LoadDataFromFileSystem(data_files=str(FILES / "many")))


def comma_separated() -> Any:
    return batches(LoadDataFromFileSystem(data_files=str(FILES / "rows.csv"), filetype="csv"))


def parquet() -> Any:
    return batches(LoadDataFromFileSystem(data_files=str(FILES / "rows.parquet")))


def some_examples() -> Any:
    return batches(
        LoadDataFromFileSystem(data_files=str(FILES / "rows.jsonl"), num_examples=2, batch_size=1)
    )


def streamed() -> Any:
    return batches(
        LoadDataFromFileSystem(
            data_files=str(FILES / "rows.jsonl"), streaming=True, num_examples=4, batch_size=2
        )
    )


def saved_dataset() -> Any:
    return batches(LoadDataFromDisk(dataset_path=str(FILES / "dataset"), batch_size=2))


def saved_dict() -> Any:
    return batches(LoadDataFromDisk(dataset_path=str(FILES / "dict"), split="train"))


def saved_distiset() -> Any:
    with Pipeline("kept", cache_dir=HOME) as it:
        LoadDataFromDicts(data=[dict(row) for row in ROWS])
    it.run().save_to_disk(str(FILES / "distiset"))
    return batches(
        LoadDataFromDisk(
            dataset_path=str(FILES / "distiset"), is_distiset=True, config="default", split="train"
        )
    )


def local_repository() -> Any:
    """A folder with data files passes for a repository of the hub."""
    return batches(LoadDataFromHub(repo_id=str(FILES / "many"), split="train", num_examples=3))


def of_rows() -> Any:
    return batches(make_generator_step([dict(row) for row in ROWS], batch_size=2))


def of_a_frame() -> Any:
    return batches(make_generator_step(pd.DataFrame(ROWS), batch_size=3))


def of_a_dataset() -> Any:
    return batches(
        make_generator_step(Dataset.from_list(ROWS), batch_size=3, output_mappings={"n": "m"})
    )


def of_nothing_known() -> Any:
    try:
        make_generator_step(42)
    except DistilabelUserError:
        return "refused"
    return "accepted"


def drawn() -> Any:
    columns, made = batches(DataSampler(data=ROWS, size=2, samples=3, batch_size=2))
    shape = [[[sorted(row), [len(v) for v in row.values()]] for row in rows] for rows, _ in made]
    return [columns, shape, [last for _, last in made]]


CASES = [
    dicts,
    dicts_from_an_offset,
    renamed,
    json_lines,
    pattern,
    directory,
    comma_separated,
    parquet,
    some_examples,
    streamed,
    saved_dataset,
    saved_dict,
    saved_distiset,
    local_repository,
    of_rows,
    of_a_frame,
    of_a_dataset,
    of_nothing_known,
    drawn,
]

if __name__ == "__main__":
    write()
    made: dict[str, Any] = {}
    for one in CASES:
        try:
            made[one.__name__] = one()
        except Exception as error:
            made[one.__name__] = f"{type(error).__name__}: {error}"[:300]
    (HOME / "made.json").write_text(json.dumps(made, default=str))
