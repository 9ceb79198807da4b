"""Deduplication: rewrite questions in several ways, then drop what says nearly the same.

Exact copies go first, for that is cheap; near copies are found by MinHash over words. It needs the
extra `dedup`: `pip install "asyncdistil[dedup]"`.

    asyncdistil model-server --port 8000    # in another shell: a stand-in that costs nothing
    python deduplication.py http://127.0.0.1:8000/v1

For a real service give its URL, put its key into OPENAI_API_KEY and the model into MODEL. Start the
script again after it ended, broke or was stopped: what has been answered is never asked twice.
"""

import os
import sys

from asyncdistil.models import OpenAILLM
from asyncdistil.pipeline import Pipeline
from asyncdistil.steps import (
    ExactDedup,
    FilterRows,
    KeepColumns,
    LoadDataFromDicts,
    MinHashDedup,
)
from asyncdistil.steps.tasks import TextGeneration

BASE_URL = sys.argv[1] if len(sys.argv) > 1 else os.environ.get("OPENAI_BASE_URL")
MODEL = os.environ.get("MODEL", "gpt-4o-mini")

QUESTIONS = [
    "How do I get a red wine stain out of a wool carpet?",
    "How do I get a red wine stain out of a wool carpet?",
    "How do I get a red wine stain out of a woollen carpet?",
    "Why does bread go stale faster in the fridge?",
    "Why does bread go stale faster in a fridge?",
    "What should I look for in my first telescope?",
    "Can two people share one train ticket if they travel at different times?",
]

llm = OpenAILLM(
    model=MODEL,
    base_url=BASE_URL,
    generation_kwargs={"temperature": 1.0, "max_new_tokens": 100},
)

with Pipeline("deduplication") as pipeline:
    load = LoadDataFromDicts(data=[{"question": text} for text in QUESTIONS])
    copies = ExactDedup(name="copies", columns=["question"])
    rewrite = TextGeneration(
        name="rewrite",
        llm=llm,
        template="Ask this in other words: {{ question }}",
        columns=["question"],
        num_generations=4,
        output_mappings={"generation": "text"},
    )
    near_copies = MinHashDedup(name="near_copies", tokenizer="words", threshold=0.7)
    drop = FilterRows(
        name="drop",
        predicate=lambda row: row["keep_row_after_minhash_filtering"],
        columns=["keep_row_after_minhash_filtering"],
    )
    keep = KeepColumns(columns=["question", "text"])
    load >> copies >> rewrite >> near_copies >> drop >> keep

distiset = pipeline.run()

rows = distiset["default"]["train"]
print(f"{len(rows)} of {4 * len(set(QUESTIONS))} ways to ask are left:")
for row in rows:
    print("   ", row["text"])
