"""Structured extraction: from letters of customers to a table.

The model fills in a pydantic class; nested fields become columns of their own, checked by the class
once more, so that no half-read letter reaches the table.

    asyncdistil model-server --port 8000    # in another shell: a stand-in that costs nothing
    python structured_extraction.py http://127.0.0.1:8000/v1

For a real service give its URL, put its key into OPENAI_API_KEY and the model into MODEL. Start the
script again after it ended, broke or was stopped: what has been answered is never asked twice.
"""

import os
import sys
from typing import Literal

from pydantic import BaseModel, Field

from asyncdistil.models import OpenAILLM
from asyncdistil.pipeline import Pipeline
from asyncdistil.steps import KeepColumns, LoadDataFromDicts, Map
from asyncdistil.steps.tasks import TextGeneration

BASE_URL = sys.argv[1] if len(sys.argv) > 1 else os.environ.get("OPENAI_BASE_URL")
MODEL = os.environ.get("MODEL", "gpt-4o-mini")

LETTERS = [
    "Dear all, order 8841: two of the six glasses came broken. Please send new ones. Ida Berg",
    "I ordered the blue lamp (no. 9022) three weeks ago. Where is it? Regards, T. Okafor, Lagos",
    "Hello! The kettle from order 7710 is lovely, thank you. Could you send an invoice? M. Sato",
    "Cancel order 9105 at once, I found it cheaper elsewhere. - R. Novak, Brno",
]


class Letter(BaseModel):
    order_number: int = Field(ge=1, description="As the customer gives it")
    customer: str
    concern: Literal["damage", "delay", "invoice", "cancellation", "other"]
    items: list[str] = Field(min_length=1, description="Goods that the letter names")
    urgent: bool = Field(description="Whether the customer waits for something")
    summary: str = Field(description="One sentence for the clerk who answers")


llm = OpenAILLM(
    model=MODEL,
    base_url=BASE_URL,
    structured_output={"schema": Letter},
    generation_kwargs={"temperature": 0.0, "max_new_tokens": 400},
)


def columns_of(row: dict) -> dict:
    return {"letter": row["letter"], **Letter.model_validate_json(row["generation"]).model_dump()}


FIELDS = list(Letter.model_fields)

with Pipeline("structured extraction") as pipeline:
    load = LoadDataFromDicts(data=[{"letter": text} for text in LETTERS])
    read = TextGeneration(
        name="read",
        llm=llm,
        system_prompt="You read letters to a shop and fill in a form. You add nothing of your own.",
        template="{{ letter }}",
        columns=["letter"],
    )
    table = Map(
        name="table",
        function=columns_of,
        columns=["letter", "generation"],
        output_columns=["letter", *FIELDS],
    )
    load >> read >> table >> KeepColumns(columns=["letter", *FIELDS])

distiset = pipeline.run()

for row in distiset["default"]["train"]:
    print({field: row[field] for field in FIELDS})
