"""Evol-instruct: simple instructions grow harder step by step, and get answers that grow better.

Every step of the evolution is kept, with a score for how hard it has become, so that you can choose
where to cut.

    asyncdistil model-server --port 8000    # in another shell: a stand-in that costs nothing
    python evol_instruct.py http://127.0.0.1:8000/v1

For a real service give its URL, put its key into OPENAI_API_KEY and the model into MODEL. Start the
script again after it ended, broke or was stopped: what has been answered is never asked twice.
"""

import os
import sys

from asyncdistil.models import OpenAILLM
from asyncdistil.pipeline import Pipeline
from asyncdistil.steps import ExpandColumns, KeepColumns, LoadDataFromDicts
from asyncdistil.steps.tasks import ComplexityScorer, EvolInstruct, EvolQuality, TextGeneration

BASE_URL = sys.argv[1] if len(sys.argv) > 1 else os.environ.get("OPENAI_BASE_URL")
MODEL = os.environ.get("MODEL", "gpt-4o-mini")

SEEDS = [
    "Write a function that reverses a string.",
    "Explain how a vaccine works.",
    "Plan a birthday party.",
    "What causes the tides?",
    "Translate 'good morning' into five languages.",
]

llm = OpenAILLM(
    model=MODEL,
    base_url=BASE_URL,
    generation_kwargs={"temperature": 0.7, "max_new_tokens": 512},
)

with Pipeline("evol instruct") as pipeline:
    load = LoadDataFromDicts(data=[{"seed": text} for text in SEEDS])
    evolve = EvolInstruct(
        name="evolve",
        llm=llm,
        num_evolutions=3,
        store_evolutions=True,
        include_original_instruction=True,
        input_mappings={"instruction": "seed"},
    )
    score = ComplexityScorer(
        name="score", llm=llm, input_mappings={"instructions": "evolved_instructions"}
    )
    # From here on a row is one instruction with its score.
    one_per_row = ExpandColumns(
        name="one_per_row", columns={"evolved_instructions": "instruction", "scores": "complexity"}
    )
    answer = TextGeneration(
        name="answer", llm=llm, output_mappings={"generation": "first_response"}
    )
    improve = EvolQuality(
        name="improve",
        llm=llm,
        num_evolutions=1,
        input_mappings={"response": "first_response"},
        output_mappings={"evolved_response": "response"},
    )
    keep = KeepColumns(columns=["seed", "instruction", "complexity", "first_response", "response"])
    load >> evolve >> score >> one_per_row >> answer >> improve >> keep

distiset = pipeline.run()

for row in distiset["default"]["train"]:
    print(f"[{row['complexity']}] {row['instruction']}")
