"""Routing: easy questions go to a small model, hard ones to a large one.

The router sees the rows of a batch. Its decision is recorded: a rerun takes the same way, and asks
nobody twice. Batches of one row make it decide for each row.

    asyncdistil model-server --port 8000    # in another shell: a stand-in that costs nothing
    python routing.py http://127.0.0.1:8000/v1

For a real service give its URL, put its key into OPENAI_API_KEY and the model into MODEL. Start the
script again after it ended, broke or was stopped: what has been answered is never asked twice.
"""

import os
import sys

from asyncdistil.models import OpenAILLM
from asyncdistil.pipeline import Pipeline, routing_batch_function
from asyncdistil.steps import GroupColumns, KeepColumns, LoadDataFromDicts, Map
from asyncdistil.steps.tasks import TextGeneration

BASE_URL = sys.argv[1] if len(sys.argv) > 1 else os.environ.get("OPENAI_BASE_URL")
SMALL = os.environ.get("SMALL_MODEL", "gpt-4o-mini")
LARGE = os.environ.get("LARGE_MODEL", "gpt-4o")

QUESTIONS = [
    "What is the capital of Peru?",
    "Prove that there are infinitely many primes.",
    "How many legs has a spider?",
    "Compare the causes of the revolutions of 1789 and 1848, and explain why one spread.",
    "Which gas do plants take up?",
    "Derive the time that a stone needs to fall ten metres, and say what you neglect.",
]
HARD = ("prove", "compare", "derive", "explain")


@routing_batch_function
def by_difficulty(steps: list[str], rows: list[dict]) -> list[str]:
    hard = any(word in rows[0]["instruction"].lower() for word in HARD)
    return ["large"] if hard else ["small"]


def ask(name: str, model: str, max_new_tokens: int) -> TextGeneration:
    llm = OpenAILLM(
        model=model, base_url=BASE_URL, generation_kwargs={"max_new_tokens": max_new_tokens}
    )
    return TextGeneration(name=name, llm=llm, input_batch_size=1)


def flatten(row: dict) -> dict:
    """Take the one answer out of the list of the answers of all models that were asked."""
    return row | {"answer": row["answers"][0], "answered_by": row["models"][0]}


with Pipeline("routing") as pipeline:
    load = LoadDataFromDicts(data=[{"instruction": text} for text in QUESTIONS], batch_size=1)
    small, large = ask("small", SMALL, 100), ask("large", LARGE, 1000)
    together = GroupColumns(
        name="together",
        columns=["generation", "model_name"],
        output_columns=["answers", "models"],
        input_batch_size=1,
    )
    flat = Map(
        name="flat",
        function=flatten,
        columns=["answers", "models"],
        output_columns=["answer", "answered_by"],
    )
    keep = KeepColumns(columns=["instruction", "answer", "answered_by"])
    load >> by_difficulty >> [small, large] >> together >> flat >> keep

distiset = pipeline.run()

for row in distiset["default"]["train"]:
    print(f"{row['answered_by']:<14}{row['instruction']}\n    {row['answer']}")
