"""The same script on distilabel 1.5.3 and here prints the same; runs in ``tox -e parity``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.skipif(
    find_spec("distilabel") is None, reason="distilabel is not installed: tox -e parity"
)

ALONE = """
import json
from distilabel.steps import *

def rows_of(step, rows):
    step.load()
    return next(step.process([dict(row) for row in rows]))

chat = [{"role": "user", "content": "2+2?"}]
texts = ["the cat sat on the mat", "the cat sat on the mat !", "nothing alike", "c"]
said = {"instruction": "2+2?", "generations": ["4", "5", "6"], "ratings": [1, 3, 3]}
vectors = [[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.5, 0.5]]
scored = [
    {"evol_instruction_score": a, "evol_response_score": b, "embedding": v}
    for a, b, v in zip([0.5, 0.9, None, 0.7], [0.5, 0.2, 0.6, None], vectors)
]
near = [{"nn_indices": [1], "nn_scores": [0.95]}, {"nn_indices": [2], "nn_scores": [0.1]}]
near.append({"nn_indices": [0], "nn_scores": [0.3]})
made = {
    "keep": rows_of(KeepColumns(columns=["b"]), [{"a": 1, "b": 2}]),
    "expand": rows_of(ExpandColumns(columns=["a"]), [{"a": [1, 2], "b": 3}]),
    "merge": rows_of(MergeColumns(columns=["a", "b"]), [{"a": 1, "b": [2, 3], "c": 4}]),
    "truncate": rows_of(TruncateTextColumn(max_length=3), [{"text": t} for t in texts]),
    "conversation": rows_of(ConversationTemplate(), [{"instruction": "a", "response": "b"}]),
    "sft": rows_of(FormatTextGenerationSFT(), [
        {"instruction": "a", "generation": "b"},
        {"instruction": "a", "generation": "b", "system_prompt": "s"},
    ]),
    "chat sft": rows_of(FormatChatGenerationSFT(), [{"messages": chat, "generation": "4"}]),
    "dpo": rows_of(FormatTextGenerationDPO(), [said, {**said, "generation_models": ["m"] * 3}]),
    "chat dpo": rows_of(FormatChatGenerationDPO(), [{**said, "messages": chat}]),
    "minhash": rows_of(
        MinHashDedup(tokenizer="ngrams", threshold=0.7), [{"text": t} for t in texts]
    ),
    "neighbours": rows_of(FaissNearestNeighbour(k=2), [{"embedding": v} for v in vectors]),
    "embedding dedup": rows_of(EmbeddingDedup(threshold=0.9), near),
    "deita": rows_of(DeitaFiltering(data_budget=3, diversity_threshold=0.01), scored),
}
# Distances of float32 vectors may differ in the last digits.
print(json.dumps(made, default=float, sort_keys=True))
"""

PIPELINE = """
import json, sys
from typing import Any
from distilabel.mixins.runtime_parameters import RuntimeParameter
from distilabel.models import AsyncLLM
from distilabel.pipeline import Pipeline
from distilabel.steps import (
    CombineOutputs, ExpandColumns, GroupColumns, GlobalStep, KeepColumns, LoadDataFromDicts,
    Step, StepInput, step
)
from distilabel.steps.tasks import TextGeneration


class Echo(AsyncLLM):
    prefix: str = "echo"

    def load(self) -> None:
        super().load()

    @property
    def model_name(self) -> str:
        return self.prefix

    async def agenerate(self, input: Any, num_generations: int = 1, shout: bool = False) -> Any:
        said = f"{self.prefix}: {input[-1]['content']}"
        said = said.upper() if shout else said
        return {
            "generations": [f"{said} {n}" for n in range(num_generations)],
            "statistics": {"input_tokens": [1], "output_tokens": [2]},
        }


class Number(GlobalStep):
    start: RuntimeParameter[int] = 0

    @property
    def inputs(self):
        return ["text"]

    @property
    def outputs(self):
        return ["number"]

    def process(self, inputs: StepInput):
        for number, row in enumerate(inputs, self.start):
            row["number"] = number
        yield inputs


@step(inputs=["number"], outputs=["even"])
def Even(inputs: StepInput):
    for row in inputs:
        row["even"] = row["number"] % 2 == 0
    yield inputs


@step(inputs=["generation"], outputs=["seen"])
def Seen(inputs: StepInput):
    yield [row | {"seen": sorted(row)} for row in inputs]


with Pipeline("parity", cache_dir=sys.argv[1]) as pipeline:
    load = LoadDataFromDicts(data=[{"topic": f"t{n}"} for n in range(7)], batch_size=3)
    one, two = (
        TextGeneration(
            name=name,
            llm=Echo(prefix=name, generation_kwargs={"shout": name == "two"}),
            input_mappings={"instruction": "topic"},
            num_generations=2,
            group_generations=True,
            input_batch_size=4,
            add_raw_input=False,
        )
        for name in ("one", "two")
    )
    group = GroupColumns(columns=["generation", "model_name"])
    expand = ExpandColumns(columns={"grouped_generation": "text"}, input_batch_size=2)
    number, even = Number(), Even()
    keep = KeepColumns(columns=["topic", "text", "number", "even"])
    load >> [one, two] >> group >> expand >> number >> even >> keep
    one >> Seen()

if __name__ == "__main__":
    distiset = pipeline.run(parameters={"number_0": {"start": 10}})
    made = {name: list(distiset[name]["train"]) for name in distiset}
    print(json.dumps(made, sort_keys=True))
"""


def outputs(source: str, tmp_path: Path) -> tuple[Any, Any]:
    """What a script prints as its last line, there and here."""
    script = tmp_path / "script.py"
    script.write_text(source)
    printed = []
    for command in ([], ["-m", "asyncdistil.compat"]):
        done = subprocess.run(
            [sys.executable, *command, script, tmp_path / f"cache{len(command)}"],
            env={**os.environ, "COLUMNS": "200"},
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        printed.append(json.loads(done.stdout.splitlines()[-1]))
    return printed[0], printed[1]


@pytest.mark.parametrize("source", [ALONE, PIPELINE], ids=["steps alone", "pipeline"])
def test_a_script_prints_the_same_here_and_there(source: str, tmp_path: Path) -> None:
    theirs, ours = outputs(source, tmp_path)
    assert theirs.keys() == ours.keys()
    for name, rows in theirs.items():
        assert ours[name] == near(rows), name


def near(value: Any) -> Any:
    """Compare equal to a value with floats that differ in their last digits."""
    if isinstance(value, dict):
        return {key: near(item) for key, item in value.items()}
    if isinstance(value, list):
        return [near(item) for item in value]
    return pytest.approx(value, rel=1e-5, abs=1e-6) if type(value) is float else value


SAVED = """
import os, sys
os.environ["OPENAI_API_KEY"] = "sk-none"
from distilabel.models import InferenceEndpointsLLM, MixtureOfAgentsLLM, OllamaLLM, OpenAILLM
from distilabel.pipeline import Pipeline, sample_n_steps
from distilabel.steps import *
from distilabel.steps.tasks import *

with Pipeline("saved", description="All sorts.", requirements=["pyyaml"]) as pipeline:
    load = LoadDataFromDicts(data=[{"instruction": "x"}])
    llm = OpenAILLM(model="m", api_key="sk-1", generation_kwargs={"temperature": 0.3})
    mixed = MixtureOfAgentsLLM(aggregator_llm=llm, proposers_llms=[llm, OllamaLLM(model="n")])
    one = TextGeneration(name="one", llm=llm, output_mappings={"model_name": "who"})
    two = TextGeneration(name="two", llm=InferenceEndpointsLLM(model_id="a/b", api_key="hf"))
    three = TextGeneration(name="three", llm=mixed)
    group = GroupColumns(columns=["generation"], output_columns=["generations"])
    load >> sample_n_steps(2) >> [one, two, three] >> group
    group >> UltraFeedback(llm=llm) >> FormatTextGenerationDPO() >> KeepColumns(columns=["chosen"])
    group >> PrometheusEval(llm=llm, mode="relative", rubric="factual-validity")
    for step in (
        EvolInstruct(llm=llm, num_evolutions=2), TextClassification(llm=llm),
        GenerateSentencePair(llm=llm, action="paraphrase", triplet=True), SelfInstruct(llm=llm),
        StructuredGeneration(llm=llm), APIGenGenerator(llm=llm), Genstruct(llm=llm),
        MathShepherdGenerator(llm=llm), PushToHub(repo_id="a/b", token="hf_in_clear"),
        MergeColumns(columns=["a", "b"]), RewardModelScore(model="m"), TruncateTextColumn(),
    ):
        one >> step
pipeline.save(sys.argv[1], format="yaml")
"""


def test_a_file_saved_there_is_read_whole_here(tmp_path: Path) -> None:
    from asyncdistil.pipeline import Pipeline

    script = tmp_path / "script.py"
    script.write_text(SAVED)
    path = tmp_path / "pipeline.yaml"
    subprocess.run([sys.executable, script, path], check=True, capture_output=True, timeout=100)
    pipeline = Pipeline.from_yaml(path)
    assert len(pipeline) == 21
    assert pipeline.graph.routed == {"load_data_from_dicts_0": ("one", "two", "three")}
    dump = pipeline.dump()
    assert Pipeline.from_dict(dump).dump() == dump
    assert "hf_in_clear" in path.read_text()
    assert "hf_in_clear" not in str(dump)
