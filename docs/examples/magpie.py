"""Magpie: an aligned model, shown nothing but the start of its own template, makes up the user.

It needs a model whose prompt can be left open where the user would speak: one that vLLM serves, or
another server with the route `/v1/completions`. Here the chat template is given as text, so nothing
is downloaded; leave `chat_template` out to have the tokenizer loaded from the hub.

    asyncdistil model-server --port 8000    # in another shell: a stand-in that costs nothing
    python magpie.py http://127.0.0.1:8000/v1

For a real service give its URL, put its key into OPENAI_API_KEY and the model into MODEL. Start the
script again after it ended, broke or was stopped: what has been answered is never asked twice.
"""

import os
import sys

from asyncdistil.models import ClientvLLM
from asyncdistil.pipeline import Pipeline
from asyncdistil.steps import FilterRows, KeepColumns
from asyncdistil.steps.tasks import MagpieGenerator

BASE_URL = sys.argv[1] if len(sys.argv) > 1 else os.environ["OPENAI_BASE_URL"]
MODEL = os.environ.get("MODEL", "Qwen/Qwen2.5-7B-Instruct")

# ChatML, as Qwen's and many other models have it.
TEMPLATE = (
    "{% for message in messages %}"
    "<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

llm = ClientvLLM(
    model=MODEL,
    base_url=BASE_URL,
    chat_template=TEMPLATE,
    use_magpie_template=True,
    magpie_pre_query_template="qwen2",
    generation_kwargs={"temperature": 1.0, "max_new_tokens": 256, "stop": ["<|im_end|>"]},
)

with Pipeline("magpie") as pipeline:
    make_up = MagpieGenerator(
        name="make_up",
        llm=llm,
        num_rows=12,
        batch_size=4,
        n_turns=2,
        # What the talk is about, each with its share of the conversations.
        system_prompt={
            "coding": ("You help a programmer with code, step by step.", 0.5),
            "travel": ("You help a traveller who plans a journey by train.", 0.3),
            "maths": ("You help a pupil with homework in mathematics.", 0.2),
        },
    )
    long_enough = FilterRows(
        name="long_enough",
        predicate=lambda row: all(len(turn["content"]) > 10 for turn in row["conversation"]),
        columns=["conversation"],
    )
    keep = KeepColumns(columns=["conversation", "system_prompt_key", "model_name"])
    make_up >> long_enough >> keep

distiset = pipeline.run()

for row in distiset["default"]["train"]:
    print(row["system_prompt_key"])
    for turn in row["conversation"]:
        print(f"    {turn['role']}: {turn['content']}")
