"""LLM as a judge, twice: a score by a rubric for each answer, and which of two answers is better.

The pipeline has two leaves, so the dataset has two configurations, `scores` and `duels`. Both hang
on the same answers, which are asked for once.

    asyncdistil model-server --port 8000    # in another shell: a stand-in that costs nothing
    python llm_judge.py http://127.0.0.1:8000/v1

For a real service give its URL, put its key into OPENAI_API_KEY and the model into MODEL. Start the
script again after it ended, broke or was stopped: what has been answered is never asked twice.
"""

import os
import sys
from collections import Counter

from asyncdistil.models import OpenAILLM
from asyncdistil.pipeline import Pipeline
from asyncdistil.steps import ExpandColumns, KeepColumns, LoadDataFromDicts
from asyncdistil.steps.tasks import PrometheusEval, TextGeneration

BASE_URL = sys.argv[1] if len(sys.argv) > 1 else os.environ.get("OPENAI_BASE_URL")
MODEL = os.environ.get("MODEL", "gpt-4o-mini")

# Rows with an answer that deserves full marks make a judge stricter and steadier.
TASKS = [
    {
        "instruction": "What does the law of diminishing returns say?",
        "reference": "If one input grows and the others stay, each further unit adds less output.",
    },
    {
        "instruction": "Why do aeroplane windows have round corners?",
        "reference": "Stress gathers at sharp corners and tears the skin; round ones spread it.",
    },
    {
        "instruction": "What is a palindrome?",
        "reference": "A word or sentence that reads the same backwards, such as 'level'.",
    },
    {
        "instruction": "How does a refrigerator cool?",
        "reference": "A liquid evaporates inside and takes up heat, which it gives off outside.",
    },
]
RUBRICS = {
    "brevity": (
        "[Is the answer right, and as short as it can be?]\n"
        "Score 1: It is wrong.\n"
        "Score 2: It is right in part, or buried in other things.\n"
        "Score 3: It is right, and twice as long as it needs to be.\n"
        "Score 4: It is right and short, with a word too many.\n"
        "Score 5: It is right, and no word could be left out."
    )
}

answerer = OpenAILLM(
    model=MODEL,
    base_url=BASE_URL,
    generation_kwargs={"temperature": 1.0, "max_new_tokens": 200},
)
judge = OpenAILLM(
    model=os.environ.get("JUDGE_MODEL", MODEL),
    base_url=BASE_URL,
    generation_kwargs={"temperature": 0.0, "max_new_tokens": 300},
)

with Pipeline("llm judge") as pipeline:
    load = LoadDataFromDicts(data=TASKS)
    answer = TextGeneration(
        name="answer",
        llm=answerer,
        num_generations=2,
        group_generations=True,
        output_mappings={"generation": "generations"},
    )
    duel = PrometheusEval(
        name="duel", llm=judge, mode="relative", rubric="brevity", rubrics=RUBRICS, reference=True
    )
    duels = KeepColumns(name="duels", columns=["instruction", "generations", "result", "feedback"])
    each = ExpandColumns(name="each", columns={"generations": "generation"})
    score = PrometheusEval(
        name="score", llm=judge, mode="absolute", rubric="brevity", rubrics=RUBRICS, reference=True
    )
    scores = KeepColumns(name="scores", columns=["instruction", "generation", "result", "feedback"])
    load >> answer >> duel >> duels
    answer >> each >> score >> scores

distiset = pipeline.run()

print("wins by place:", dict(Counter(distiset["duels"]["train"]["result"])))
for row in distiset["scores"]["train"]:
    print(row["result"], row["instruction"], "->", row["generation"])
