"""Text classification: a model labels reviews, by a fixed list of labels and by topics of its own.

The model is held to the labels by a JSON schema where the service can do that; what is none of them
is recorded as a failure and never reaches the dataset as a label.

    asyncdistil model-server --port 8000    # in another shell: a stand-in that costs nothing
    python text_classification.py http://127.0.0.1:8000/v1

For a real service give its URL, put its key into OPENAI_API_KEY and the model into MODEL. Start the
script again after it ended, broke or was stopped: what has been answered is never asked twice.
"""

import os
import sys

from asyncdistil.models import OpenAILLM
from asyncdistil.pipeline import Pipeline
from asyncdistil.steps import CombineOutputs, KeepColumns, LoadDataFromDicts
from asyncdistil.steps.tasks import TextClassification

BASE_URL = sys.argv[1] if len(sys.argv) > 1 else os.environ.get("OPENAI_BASE_URL")
MODEL = os.environ.get("MODEL", "gpt-4o-mini")

REVIEWS = [
    "The tent kept us dry through two days of rain, and it weighs next to nothing.",
    "Arrived with a broken zip. The shop answered within an hour and sent a new one.",
    "Does what it says. Nothing more to report.",
    "After a week the handle came off, and I still wait for an answer to my letter.",
    "My grandmother has used the same pan for forty years. I hope for as much of mine.",
    "Too small for three people, perfect for two.",
    "Bought it in blue, got it in green, kept it all the same.",
    "Never again.",
]

llm = OpenAILLM(
    model=MODEL,
    base_url=BASE_URL,
    # At temperature 0 equal reviews are asked once.
    generation_kwargs={"temperature": 0.0, "max_new_tokens": 100},
)

with Pipeline("text classification") as pipeline:
    load = LoadDataFromDicts(data=[{"text": text} for text in REVIEWS])
    mood = TextClassification(
        name="mood",
        llm=llm,
        context="Say what the customer feels about the product.",
        available_labels={
            "content": "praises the product or the shop",
            "discontent": "complains about the product or the shop",
            "mixed": "does both",
            "neutral": "does neither",
        },
        examples=["'Good, but late': mixed"],
        default_label="neutral",
        query_title="Review",
        output_mappings={"labels": "mood"},
    )
    topics = TextClassification(
        name="topics",
        llm=llm,
        n=3,
        context="Name what the review talks about, in one or two words each.",
        query_title="Review",
        output_mappings={"labels": "topics"},
    )
    both = CombineOutputs(name="both")
    keep = KeepColumns(columns=["text", "mood", "topics", "model_name"])
    load >> [mood, topics] >> both >> keep

distiset = pipeline.run()

for row in distiset["default"]["train"]:
    print(f"{row['mood']:<12}{', '.join(row['topics'])}\n    {row['text']}")
