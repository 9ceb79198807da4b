"""Preference data: two models answer, a third rates the answers, the better one is chosen.

The result has what trainers of DPO, ORPO and the like expect: `prompt`, `chosen`, `rejected`.

    asyncdistil model-server --port 8000    # in another shell: a stand-in that costs nothing
    python preference_data.py http://127.0.0.1:8000/v1

For a real service give its URL, put its key into OPENAI_API_KEY and the model into MODEL. Start the
script again after it ended, broke or was stopped: what has been answered is never asked twice.
"""

import os
import sys

from asyncdistil.models import OpenAILLM
from asyncdistil.pipeline import Pipeline
from asyncdistil.steps import (
    FilterRows,
    FormatTextGenerationDPO,
    GroupColumns,
    KeepColumns,
    LoadDataFromDicts,
)
from asyncdistil.steps.tasks import TextGeneration, UltraFeedback

BASE_URL = sys.argv[1] if len(sys.argv) > 1 else os.environ.get("OPENAI_BASE_URL")
MODEL = os.environ.get("MODEL", "gpt-4o-mini")

INSTRUCTIONS = [
    "Explain to a ten-year-old why the sky is blue.",
    "My sourdough does not rise in winter. What can I do?",
    "Write a polite reminder for an invoice that is two weeks overdue.",
    "What is the difference between a list and a tuple in Python?",
    "Suggest three walks for a rainy weekend with a small child.",
    "How do I tell a good second-hand bicycle from a bad one?",
    "Summarise the plot of Romeo and Juliet in two sentences.",
    "Is it safe to store potatoes next to onions?",
]


def model(name: str, temperature: float) -> OpenAILLM:
    return OpenAILLM(
        model=name,
        base_url=BASE_URL,
        generation_kwargs={"temperature": temperature, "max_new_tokens": 512},
    )


def differ(row: dict) -> bool:
    """Whether the judge preferred one answer; a tie teaches a model nothing."""
    return len({rating for rating in row["ratings"] if rating is not None}) > 1


with Pipeline("preference data") as pipeline:
    load = LoadDataFromDicts(data=[{"instruction": text} for text in INSTRUCTIONS])
    # Two models that differ give better pairs than one model asked twice.
    careful = TextGeneration(name="careful", llm=model(MODEL, 0.3))
    free = TextGeneration(
        name="free",
        llm=model(os.environ.get("OTHER_MODEL", MODEL), 1.0),
        system_prompt="You answer in a few words and like to guess.",
    )
    group = GroupColumns(
        columns=["generation", "model_name"], output_columns=["generations", "generation_models"]
    )
    judge = UltraFeedback(name="judge", llm=model(MODEL, 0.0), aspect="overall-rating")
    decided = FilterRows(name="decided", predicate=differ, columns=["ratings"])
    pairs = FormatTextGenerationDPO(name="pairs")
    keep = KeepColumns(columns=["prompt", "chosen", "rejected", "chosen_rating", "rejected_rating"])
    load >> [careful, free] >> group >> judge >> decided >> pairs >> keep

distiset = pipeline.run()

for row in distiset["default"]["train"]:
    print(f"{row['prompt']}\n  + {row['chosen'][-1]['content']}")
    print(f"  - {row['rejected'][-1]['content']}")
# distiset.push_to_hub("you/preferences")
