"""What distilabel 1.5.3 saves is read here; runs in ``tox -e parity``."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(
    find_spec("distilabel") is None, reason="distilabel is not installed: tox -e parity"
)

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
