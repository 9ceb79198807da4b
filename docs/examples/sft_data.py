"""Data for supervised fine-tuning: one voice answers many questions, weak answers are left out.

The result has a column `messages`, as chat trainers expect, split for training and for tests.

    asyncdistil model-server --port 8000    # in another shell: a stand-in that costs nothing
    python sft_data.py http://127.0.0.1:8000/v1

For a real service give its URL, put its key into OPENAI_API_KEY and the model into MODEL. Start the
script again after it ended, broke or was stopped: what has been answered is never asked twice.
"""

import os
import sys

from asyncdistil.models import OpenAILLM
from asyncdistil.pipeline import Pipeline
from asyncdistil.steps import (
    FilterRows,
    FormatTextGenerationSFT,
    KeepColumns,
    LoadDataFromDicts,
)
from asyncdistil.steps.tasks import InstructionBacktranslation, TextGeneration

BASE_URL = sys.argv[1] if len(sys.argv) > 1 else os.environ.get("OPENAI_BASE_URL")
MODEL = os.environ.get("MODEL", "gpt-4o-mini")

# The voice that the tuned model is to have, and the questions that it is to answer in it.
VOICE = (
    "You are the help desk of a public library: warm, brief, and never sure of what you don't know."
)
QUESTIONS = [
    ("loans", "How many books can I take home at once?"),
    ("loans", "I lost a book that I borrowed. What happens now?"),
    ("loans", "Can my daughter pick up the books that I reserved?"),
    ("rooms", "Is there a quiet room where I can record a podcast?"),
    ("rooms", "May our reading group meet here on Sundays?"),
    ("research", "How do I find newspaper articles from the 1950s?"),
    ("research", "I need the source of a quotation about maps. Where do I start?"),
    ("digital", "My e-reader does not open the file that I borrowed."),
    ("digital", "Can I print from my phone?"),
    ("other", "I found a kitten in front of the entrance!"),
]

llm = OpenAILLM(
    model=MODEL,
    base_url=BASE_URL,
    generation_kwargs={"temperature": 0.7, "max_new_tokens": 400},
)

with Pipeline("sft data") as pipeline:
    load = LoadDataFromDicts(
        data=[{"topic": topic, "instruction": question} for topic, question in QUESTIONS]
    )
    answer = TextGeneration(name="answer", llm=llm, system_prompt=VOICE, num_generations=2)
    # The same model grades from 1 to 5 whether an assistant should have answered like that.
    grade = InstructionBacktranslation(name="grade", llm=llm)
    good = FilterRows(
        name="good", predicate=lambda row: row["score"] >= 2, columns=["score"], on_error="skip"
    )
    chat = FormatTextGenerationSFT(name="chat")
    keep = KeepColumns(columns=["topic", "prompt", "messages", "score"])
    load >> answer >> grade >> good >> chat >> keep

distiset = pipeline.run()

distiset.train_test_split(train_size=0.8, seed=1)
for split, rows in distiset["default"].items():
    print(split, len(rows), "rows, for example:", rows[0]["messages"])
