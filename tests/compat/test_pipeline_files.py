"""Pipelines as files: written without secrets, read without running anybody's code."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, ClassVar

import pytest
import yaml
from pydantic import BaseModel, SecretStr

from asyncdistil.compat.table import HOME
from asyncdistil.errors import DataError, ParameterError
from asyncdistil.models import OpenAILLM
from asyncdistil.pipeline import Pipeline, routing_batch_function, sample_n_steps
from asyncdistil.steps import GroupColumns, KeepColumns, LoadDataFromDicts, Map, Step, StepInput
from asyncdistil.steps.tasks import TextGeneration, UltraFeedback

SECRET = "sk-very-secret-0123456789"


class Sized(Step):
    version: ClassVar[int] = 1
    key: str = "size"
    by: float = 1.5
    password: str = ""

    def process(self, inputs: StepInput) -> Any:
        yield inputs


class Answer(BaseModel):
    text: str


def judged() -> Pipeline:
    with Pipeline("judged", "Two models and a judge.", requirements=["pyyaml>=5"]) as pipeline:
        load = LoadDataFromDicts(data=[{"instruction": SECRET}], batch_size=7)
        one = TextGeneration(
            name="one",
            llm=OpenAILLM(
                model="m",
                base_url="http://user:hunter2@localhost:1/v1",
                api_key=SecretStr(SECRET),
                generation_kwargs={"temperature": 0.5, "max_new_tokens": 9},
                structured_output={"schema": Answer},
            ),
            system_prompt=f"Never say {SECRET}.",
        )
        two = TextGeneration(name="two", llm=OpenAILLM(model="n"), input_batch_size=3)
        group = GroupColumns(columns=["generation"], output_columns=["generations"])
        judge = UltraFeedback(llm=OpenAILLM(model="j"), aspect="honesty")
        load >> sample_n_steps(1, seed=4) >> [one, two]
        # The second branch is the first port.
        [two, one] >> group >> judge
    return pipeline


def same(one: Pipeline, other: Pipeline) -> bool:
    return one.dump() == other.dump() and one.signature == other.signature


@pytest.mark.parametrize("form", ["json", "yaml"])
def test_a_pipeline_comes_back_from_its_file(form: Any, tmp_path: Path) -> None:
    pipeline = judged()
    path = pipeline.save(tmp_path / "deep" / f"it.{form}")
    again = Pipeline.from_file(path)
    assert same(pipeline, again)
    assert same(pipeline, getattr(Pipeline, f"from_{form}")(path))
    assert again.graph.predecessors("group_columns_0") == ("two", "one")
    assert again.graph.routed == pipeline.graph.routed
    assert list(path.parent.iterdir()) == [path]
    for name in ("two", "group_columns_0", "ultra_feedback_0"):
        assert again[name].identity().digest == pipeline[name].identity().digest


def test_the_form_is_the_argument_or_else_the_suffix(tmp_path: Path) -> None:
    pipeline = judged()
    assert json.loads(pipeline.save(tmp_path / "no-suffix").read_text())["pipeline"]
    in_directory = pipeline.save(tmp_path, format="yaml")
    assert in_directory == tmp_path / "pipeline.yaml"
    assert yaml.safe_load(in_directory.read_text()) == pipeline.dump()


def test_no_secret_and_no_row_is_in_a_file() -> None:
    text = json.dumps(judged().dump())
    assert SECRET not in text
    assert "hunter2" not in text
    assert "api_key" not in text
    with Pipeline("own") as pipeline:
        LoadDataFromDicts(data=[{"a": 1}]) >> Sized(password="hunter3", name="sized")
    (_, sized) = pipeline.dump()["pipeline"]["steps"]
    assert "hunter3" not in str(sized)
    # Named like a part of "api_key", yet no secret.
    assert sized["step"]["key"] == "size"


def test_classes_from_outside_need_consent() -> None:
    with Pipeline("own") as pipeline:
        LoadDataFromDicts(data=[{"a": 1}]) >> Sized(by=2.5)
    data = pipeline.dump()
    with pytest.raises(DataError, match=r"Sized would run code from outside.*trust=\["):
        Pipeline.from_dict(data)
    again = Pipeline.from_dict(data, trust=[Sized])
    assert same(pipeline, again)
    assert again["sized_0"].by == 2.5  # type: ignore[attr-defined]


def test_modules_are_imported_only_with_consent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a_module_of_steps.py").write_text(
        "from asyncdistil.steps import KeepColumns\nclass Mine(KeepColumns):\n    pass\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    data = declared([step("mine", "a_module_of_steps", "Mine", columns=["a"])])
    with pytest.raises(DataError, match="a_module_of_steps"):
        Pipeline.from_dict(data)
    assert "a_module_of_steps" not in sys.modules
    pipeline = Pipeline.from_dict(data, trust=["a_module_of_steps"])
    assert type(pipeline["mine"]).__name__ == "Mine"
    monkeypatch.delitem(sys.modules, "a_module_of_steps")


def test_what_a_file_cannot_hold_is_named_at_once() -> None:
    with Pipeline("functions") as pipeline:
        load = LoadDataFromDicts(data=[{"a": 1}])
        route = routing_batch_function()(lambda steps: steps[:1])
        load >> route >> [Map(function=lambda row: row), KeepColumns(columns=["a"])]
    with pytest.raises(DataError, match=r"map_0\.function is a function.*routing function after"):
        pipeline.dump()


def step(name: str, module: str, kind: str, **fields: Any) -> dict[str, Any]:
    return {"name": name, "step": {**fields, "type_info": {"module": module, "name": kind}}}


def declared(steps: list[dict[str, Any]], *connections: tuple[str, str]) -> dict[str, Any]:
    return {
        "distilabel": {"version": "1.5.3"},
        "pipeline": {
            "name": "theirs",
            "description": None,
            "steps": steps,
            "connections": [{"from": one, "to": [other]} for one, other in connections],
            "routing_batch_functions": [],
            "type_info": {"module": "distilabel.pipeline.local", "name": "Pipeline"},
        },
        "requirements": ["distilabel>=1.0.0"],
    }


THEIRS = """
distilabel:
  version: 1.4.1
pipeline:
  name: theirs
  description: null
  steps:
  - step:
      name: load
      resources: {replicas: 1, cpus: null, gpus: null, memory: null, resources: null}
      input_mappings: {}
      output_mappings: {prompt: instruction}
      use_cache: true
      batch_size: 50
      repo_id: a/b
      split: train
      runtime_parameters_info:
      - {name: repo_id, optional: false, description: The id.}
      type_info:
        module: distilabel.steps.generators.huggingface
        name: LoadDataFromHub
    name: load
  - step:
      name: evolve
      input_batch_size: 10
      llm:
        cuda_devices: auto
        disable_cuda_device_placement: false
        jobs_ids: null
        generation_kwargs: {temperature: 0.7, stop_sequences: !!python/tuple [a, b]}
        use_magpie_template: false
        magpie_pre_query_template: null
        model_id: org/model
        base_url: null
        type_info:
          module: distilabel.llms.huggingface.inference_endpoints
          name: InferenceEndpointsLLM
      num_evolutions: 2
      mutation_templates:
        _type: enum
        _enum_type: str
        _name: MutationTemplates
        _values: {HARDER: "Make it harder: <PROMPT>"}
      no_such_option: 3
      type_info:
        module: distilabel.steps.tasks.evol_instruct.base
        name: EvolInstruct
    name: evolve
  - step:
      name: keep
      columns: [evolved_instruction]
      type_info: {module: distilabel.steps.columns.keep, name: KeepColumns}
    name: keep
  connections:
  - {from: load, to: [evolve]}
  - {from: evolve, to: [keep]}
  - {from: keep, to: []}
  routing_batch_functions: []
  type_info: {module: distilabel.pipeline.local, name: Pipeline}
requirements: [distilabel>=1.0.0]
"""


def test_a_file_of_distilabel_is_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "pipeline.yaml"
    path.write_text(THEIRS)
    pipeline: Any = Pipeline.from_yaml(path)
    assert list(pipeline) == ["load", "evolve", "keep"]
    assert pipeline["evolve"].mutation_templates == {"HARDER": "Make it harder: <PROMPT>"}
    assert pipeline["evolve"].llm.generation_kwargs["stop_sequences"] == ["a", "b"]
    assert pipeline.requirements == ()
    assert pipeline["keep"].align == "position"
    assert [record.message for record in caplog.records if "no_such_option" in record.message]
    assert "cuda_devices" not in caplog.text
    assert same(pipeline, Pipeline.from_dict(pipeline.dump()))


def test_a_list_of_models_is_read_as_distilabel_writes_it() -> None:
    model = {"model": "m", "type_info": {"module": "distilabel.models", "name": "OpenAILLM"}}
    mixture = {
        "aggregator_llm": model,
        "proposers_llms": {"0": model, "1": model},
        "type_info": {"module": "distilabel.models.llms.moa", "name": "MixtureOfAgentsLLM"},
    }
    data = declared(
        [step("ask", "distilabel.steps.tasks.text_generation", "TextGeneration", llm=mixture)]
    )
    pipeline: Any = Pipeline.from_dict(data)
    assert [one.model for one in pipeline["ask"].llm.proposers_llms] == ["m", "m"]


def test_all_unknown_classes_are_in_one_error() -> None:
    data = declared(
        [
            step("a", "distilabel.pipeline.ray", "RayPipeline"),
            step("b", "distilabel.steps", "KeepColumn", columns=["x"]),
            step("c", "elsewhere.steps", "Theirs"),
            step("d", "os", "system"),
        ]
    )
    with pytest.raises(DataError) as refused:
        Pipeline.from_dict(data)
    for part in ("RayPipeline", "'KeepColumns'", "elsewhere.steps.Theirs", "os.system"):
        assert part in str(refused.value)


@pytest.mark.parametrize("name", [name for name in HOME if name.islower()])
def test_a_function_of_the_library_is_no_class(name: str) -> None:
    data = declared([step("a", "distilabel.steps", name)])
    with pytest.raises((DataError, ParameterError)):
        Pipeline.from_dict(data)


def test_yaml_that_builds_objects_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "evil.yaml"
    path.write_text("pipeline: !!python/object/apply:os.system ['touch x']")
    with pytest.raises(DataError, match=r"evil\.yaml is no YAML"):
        Pipeline.from_file(path)


def test_a_wrong_field_is_refused_without_its_value() -> None:
    data = declared([step("k", "asyncdistil.steps", "KeepColumns", columns=[SECRET], extra=SECRET)])
    with pytest.raises(ParameterError, match=r"step 'k' in the dict.*extra") as refused:
        Pipeline.from_dict(data)
    assert SECRET not in str(refused.value)


def test_what_distilabel_leaves_open_gets_our_default() -> None:
    model = {
        "model": "m",
        "timeout": 33,
        "type_info": {"module": "distilabel.models.llms.openai", "name": "OpenAILLM"},
    }
    merge = step("merge", "distilabel.steps", "MergeColumns", columns=["a"], output_column=None)
    # None is a value there: no system message.
    solve = step(
        "solve", "distilabel.steps.tasks", "MathShepherdGenerator", llm=model, system_prompt=None
    )
    pipeline: Any = Pipeline.from_dict(declared([merge, solve]))
    assert pipeline["merge"].output_column == "merged_column"
    assert pipeline["solve"].system_prompt is None
    assert pipeline["solve"].llm.timeout_seconds == 33
    assert same(pipeline, Pipeline.from_dict(pipeline.dump()))


def test_a_task_for_images_has_its_model_once() -> None:
    model = {
        "model": "d",
        "type_info": {"module": "distilabel.models", "name": "OpenAIImageGeneration"},
    }
    fields = {"llm": model, "image_generation_model": model}
    draw = step("draw", "distilabel.steps.tasks.image_generation", "ImageGeneration", **fields)
    pipeline: Any = Pipeline.from_dict(declared([draw]))
    assert pipeline["draw"].llm is pipeline["draw"].image_generation_model
    assert same(pipeline, Pipeline.from_dict(pipeline.dump()))


@pytest.mark.parametrize("module", ["asyncdistil.compat.__main__", "distilabel.__main__", "os"])
def test_a_file_starts_no_program(module: str) -> None:
    with pytest.raises(DataError, match="NoSuchStep"):
        Pipeline.from_dict(declared([step("a", module, "NoSuchStep")]))
    assert "asyncdistil.compat.__main__" not in sys.modules
