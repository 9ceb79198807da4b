"""Exam questions: from each page of a text, questions with one right and several wrong answers.

The model answers in JSON of a pydantic class; every question becomes a row, its answers in an order
that does not give the right one away.

    asyncdistil model-server --port 8000    # in another shell: a stand-in that costs nothing
    python exam_questions.py http://127.0.0.1:8000/v1

For a real service give its URL, put its key into OPENAI_API_KEY and the model into MODEL. Start the
script again after it ended, broke or was stopped: what has been answered is never asked twice.
"""

import json
import os
import random
import sys

from pydantic import BaseModel, Field

from asyncdistil.models import OpenAILLM
from asyncdistil.pipeline import Pipeline
from asyncdistil.steps import KeepColumns, LoadDataFromDicts, Map
from asyncdistil.steps.tasks import TextGeneration

BASE_URL = sys.argv[1] if len(sys.argv) > 1 else os.environ.get("OPENAI_BASE_URL")
MODEL = os.environ.get("MODEL", "gpt-4o-mini")

PAGES = [
    {
        "title": "Photosynthesis",
        "page": "Plants make sugar from carbon dioxide and water with the energy of light. The "
        "green pigment chlorophyll takes the light up, mostly red and blue; what is left is green. "
        "The oxygen that is set free comes from the water, not from the carbon dioxide.",
    },
    {
        "title": "The printing press",
        "page": "Around 1450 Johannes Gutenberg printed with movable metal type in Mainz. Type was "
        "cast in a hand mould, ink was based on oil, and the press was modelled on those for wine. "
        "Within fifty years there were presses in more than two hundred towns of Europe.",
    },
    {
        "title": "Plate tectonics",
        "page": "The outer shell of the Earth is broken into plates that move some centimetres a "
        "year. Where they part, new sea floor forms; where they collide, one dives below the other "
        "or mountains rise. Most earthquakes and volcanoes lie along their edges.",
    },
]


class Question(BaseModel):
    question: str = Field(description="Can be answered from the page alone")
    right_answer: str
    wrong_answers: list[str] = Field(
        description="Plausible to somebody who did not read the page", min_length=3, max_length=3
    )


class Exam(BaseModel):
    questions: list[Question] = Field(min_length=2, max_length=4)


llm = OpenAILLM(
    model=MODEL,
    base_url=BASE_URL,
    structured_output={"schema": Exam},
    generation_kwargs={"temperature": 0.6, "max_new_tokens": 2048},
)


def one_per_question(row: dict) -> list[dict]:
    rows = []
    for asked in json.loads(row["generation"])["questions"]:
        choices = [asked["right_answer"], *asked["wrong_answers"]]
        # Seeded by the question: a rerun must not shuffle anew.
        random.Random(asked["question"]).shuffle(choices)
        rows.append(
            {
                "title": row["title"],
                "question": asked["question"],
                "choices": choices,
                "answer": choices.index(asked["right_answer"]),
            }
        )
    return rows


with Pipeline("exam questions") as pipeline:
    load = LoadDataFromDicts(data=PAGES)
    examine = TextGeneration(
        name="examine",
        llm=llm,
        system_prompt="You are a teacher who sets fair exams.",
        template="Set an exam on this page.\n\n# {{ title }}\n\n{{ page }}",
        columns=["title", "page"],
    )
    questions = Map(
        name="questions",
        function=one_per_question,
        columns=["title", "generation"],
        output_columns=["title", "question", "choices", "answer"],
    )
    keep = KeepColumns(columns=["title", "question", "choices", "answer"])
    load >> examine >> questions >> keep

distiset = pipeline.run()

for row in distiset["default"]["train"]:
    print(f"{row['title']}: {row['question']}")
    for number, choice in enumerate(row["choices"]):
        print("    x" if number == row["answer"] else "    o", choice)
