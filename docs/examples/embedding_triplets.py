"""Triplets for an embedding model: a passage, a query that it answers, and one it seems to answer.

The vectors of an existing model say how hard each triplet is: a negative that lies closer to the
passage than the query does is what the new model has most to learn from.

    asyncdistil model-server --port 8000    # in another shell: a stand-in that costs nothing
    python embedding_triplets.py http://127.0.0.1:8000/v1

For a real service give its URL, put its key into OPENAI_API_KEY and the model into MODEL. Start the
script again after it ended, broke or was stopped: what has been answered is never asked twice.
"""

import math
import os
import sys

from asyncdistil.models import OpenAIEmbeddings, OpenAILLM
from asyncdistil.pipeline import Pipeline
from asyncdistil.steps import EmbeddingGeneration, GroupColumns, KeepColumns, LoadDataFromDicts, Map
from asyncdistil.steps.tasks import GenerateSentencePair

BASE_URL = sys.argv[1] if len(sys.argv) > 1 else os.environ.get("OPENAI_BASE_URL")
MODEL = os.environ.get("MODEL", "gpt-4o-mini")

PASSAGES = [
    "Glaciers move because their ice deforms under its own weight and slides over wet rock.",
    "A contract that was signed under threat can be avoided by the party that was threatened.",
    "The heart of a hummingbird beats more than a thousand times a minute in flight.",
    "To descale a kettle, boil equal parts of water and vinegar in it and rinse it twice.",
    "Unit tests that share state pass or fail depending on the order in which they run.",
    "Bronze is an alloy of copper and tin and is harder than either of them.",
]

llm = OpenAILLM(
    model=MODEL,
    base_url=BASE_URL,
    generation_kwargs={"temperature": 0.8, "max_new_tokens": 256},
)
embeddings = OpenAIEmbeddings(
    model=os.environ.get("EMBEDDING_MODEL", "text-embedding-3-small"), base_url=BASE_URL
)


def cosine(one: list[float], other: list[float]) -> float:
    lengths = math.hypot(*one) * math.hypot(*other)
    return sum(a * b for a, b in zip(one, other, strict=True)) / lengths


def measure(row: dict) -> dict:
    anchor, positive, negative = row.pop("embeddings")
    row["margin"] = round(cosine(anchor, positive) - cosine(anchor, negative), 4)
    return row


with Pipeline("embedding triplets") as pipeline:
    load = LoadDataFromDicts(data=[{"anchor": text} for text in PASSAGES])
    pair = GenerateSentencePair(
        name="pair", llm=llm, action="query", triplet=True, hard_negative=True
    )
    # One step per column, side by side; rows meet again by identity, whichever is faster.
    embed = [
        EmbeddingGeneration(
            name=f"embed_{column}", embeddings=embeddings, input_mappings={"text": column}
        )
        for column in ("anchor", "positive", "negative")
    ]
    group = GroupColumns(name="group", columns=["embedding"], output_columns=["embeddings"])
    margin = Map(name="margin", function=measure, columns=["embeddings"], output_columns=["margin"])
    keep = KeepColumns(columns=["anchor", "positive", "negative", "margin"])
    load >> pair >> embed >> group >> margin >> keep

distiset = pipeline.run()

for row in sorted(distiset["default"]["train"], key=lambda row: row["margin"]):
    print(f"{row['margin']:+.3f}  {row['anchor']}")
    print(f"        + {row['positive']}\n        - {row['negative']}")
