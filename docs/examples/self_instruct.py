"""Self-instruct: a model thinks up instructions for an application, and answers them.

A few lines that say what the application is about become many instructions with answers. Repeated
instructions are dropped before they are paid for.

    asyncdistil model-server --port 8000    # in another shell: a stand-in that costs nothing
    python self_instruct.py http://127.0.0.1:8000/v1

For a real service give its URL, put its key into OPENAI_API_KEY and the model into MODEL. Start the
script again after it ended, broke or was stopped: what has been answered is never asked twice.
"""

import os
import sys

from asyncdistil.models import OpenAILLM
from asyncdistil.pipeline import Pipeline
from asyncdistil.steps import ExactDedup, ExpandColumns, KeepColumns, LoadDataFromDicts
from asyncdistil.steps.tasks import SelfInstruct, TextGeneration

BASE_URL = sys.argv[1] if len(sys.argv) > 1 else os.environ.get("OPENAI_BASE_URL")
MODEL = os.environ.get("MODEL", "gpt-4o-mini")

CONTEXTS = [
    "Growing vegetables on a balcony: pots, soil, watering, pests, what to sow when.",
    "Repairing a bicycle: punctures, brakes, gears, tools, when to give it to a workshop.",
    "Cooking for one: small quantities, leftovers, quick meals, shopping without waste.",
    "First aid at home: burns, cuts, fevers, poisoning, when to call an ambulance.",
]

llm = OpenAILLM(
    model=MODEL,
    base_url=BASE_URL,
    generation_kwargs={"temperature": 0.9, "max_new_tokens": 600},
)

with Pipeline("self instruct") as pipeline:
    load = LoadDataFromDicts(data=[{"topic": text} for text in CONTEXTS])
    think_up = SelfInstruct(
        name="think_up",
        llm=llm,
        num_instructions=5,
        application_description="An assistant on the phone of somebody with dirty hands.",
        input_mappings={"input": "topic"},
        output_mappings={"model_name": "made_by"},
    )
    one_per_row = ExpandColumns(name="one_per_row", columns={"instructions": "instruction"})
    once = ExactDedup(name="once", columns=["instruction"])
    answer = TextGeneration(name="answer", llm=llm, output_mappings={"model_name": "answered_by"})
    keep = KeepColumns(columns=["topic", "instruction", "generation", "made_by", "answered_by"])
    load >> think_up >> one_per_row >> once >> answer >> keep

distiset = pipeline.run()

for row in distiset["default"]["train"]:
    print(f"{row['instruction']}\n    {row['generation']}")
