"""The two pipelines of the demonstration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from asyncdistil.demo.steps import (
    AskAndAnswer,
    CleanText,
    DropDuplicates,
    ExtractDocumentation,
    ListModules,
    RankInModule,
    ScoreText,
)
from asyncdistil.pipeline import Pipeline
from asyncdistil.steps import CombineOutputs, KeepColumns, LoadDataFromDicts, StepResources

DATASET_COLUMNS = [
    "question",
    "answer",
    "summary",
    "example",
    "module",
    "name",
    "kind",
    "score",
    "rank_in_module",
    "copies",
]


def library_pipeline(cache_dir: Path) -> Pipeline:
    """Questions and answers of the standard library: nine steps, two of them global."""
    with Pipeline("questions about the standard library", cache_dir=cache_dir) as pipeline:
        modules = ListModules(name="list_modules", batch_size=10)
        extract = ExtractDocumentation(
            name="extract", input_batch_size=5, resources=StepResources(replicas=2)
        )
        clean = CleanText(name="clean", input_batch_size=50)
        unique = DropDuplicates(name="drop_duplicates")
        ask = AskAndAnswer(name="ask_and_answer")
        score = ScoreText(name="score")
        combine = CombineOutputs(name="combine")
        rank = RankInModule(name="rank_in_module")
        keep = KeepColumns(name="keep_columns", columns=DATASET_COLUMNS)
        modules >> extract >> clean >> unique >> [ask, score] >> combine >> rank >> keep
    return pipeline


def model_pipeline(cache_dir: Path, rows: list[dict[str, Any]], base_url: str) -> Pipeline:
    """Have a model rewrite questions: one request for each row."""
    from asyncdistil.models import OpenAILLM
    from asyncdistil.steps.tasks import TextGeneration

    with Pipeline("questions in other words", cache_dir=cache_dir) as pipeline:
        load = LoadDataFromDicts(name="load", data=rows)
        rewrite = TextGeneration(
            name="rewrite",
            llm=OpenAILLM(model="stand-in", base_url=base_url, api_key="none needed"),
            template="Ask this in other words, for a beginner: {{ question }}",
            columns=["question"],
        )
        load >> rewrite
    return pipeline
