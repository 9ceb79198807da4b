"""``asyncdistil init``: a first pipeline to edit."""

from __future__ import annotations

from pathlib import Path

from asyncdistil.cli.ending import UsageError

_PLAIN = '''\
"""A first pipeline. Run it with `asyncdistil run {file}`, change something, run it again."""

from asyncdistil.pipeline import Pipeline
from asyncdistil.steps import FilterRows, LoadDataFromDicts, StepInput, step
from asyncdistil.typing import StepOutput

ROWS = [
    {{"instruction": "Explain what a hash function is."}},
    {{"instruction": "Write a haiku about rain."}},
    {{"instruction": "Name three uses of a paper clip."}},
    {{"instruction": "hi"}},
]


@step(inputs=["instruction"], outputs=["words"])
def CountWords(inputs: StepInput) -> StepOutput:
    """A step of your own: batches of rows in, rows out."""
    for row in inputs:
        row["words"] = len(row["instruction"].split())
    yield inputs


with Pipeline(name="{name}") as pipeline:
    load = LoadDataFromDicts(name="load", data=ROWS)
    count = CountWords(name="count_words")
    long_enough = FilterRows(
        name="long_enough", predicate=lambda row: row["words"] > 2, columns=["words"]
    )
    load >> count >> long_enough

if __name__ == "__main__":
    distiset = pipeline.run()
    for row in distiset["default"]["train"]:
        print(row)
'''

_MODEL = '''\
"""A first pipeline with a language model.

Rehearse it without spending anything, against the stand-in server:

    asyncdistil model-server --port 8000
    asyncdistil run {file}

Then set BASE_URL and MODEL to a real service and put its key into OPENAI_API_KEY.
"""

import os

from asyncdistil.models import OpenAILLM
from asyncdistil.pipeline import Pipeline
from asyncdistil.steps import LoadDataFromDicts
from asyncdistil.steps.tasks import TextGeneration

BASE_URL = os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8000/v1")
MODEL = "stand-in"

ROWS = [
    {{"topic": "hash functions"}},
    {{"topic": "rain"}},
    {{"topic": "paper clips"}},
]

with Pipeline(name="{name}") as pipeline:
    load = LoadDataFromDicts(name="load", data=ROWS)
    ask = TextGeneration(
        name="ask",
        llm=OpenAILLM(
            model=MODEL,
            base_url=BASE_URL,
            api_key=os.environ.get("OPENAI_API_KEY", "none needed"),
        ),
        template="Write one question that a beginner may ask about {{{{ topic }}}}.",
        columns=["topic"],
    )
    load >> ask

if __name__ == "__main__":
    distiset = pipeline.run()
    for row in distiset["default"]["train"].to_list()[:5]:
        print(row["topic"], "->", row["generation"])
'''


def write_starter(path: Path, *, model: bool) -> None:
    """Write a pipeline that runs as it is.

    Raises:
        UsageError: The file is there already, or can't be written.
    """
    name = path.stem.replace("_", " ").strip() or "first pipeline"
    text = (_MODEL if model else _PLAIN).format(file=path, name=name)
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as error:
        raise UsageError(f"{path} is there already: name another file") from error
    except OSError as error:
        raise UsageError(f"{path} can't be written ({error.strerror})") from error
