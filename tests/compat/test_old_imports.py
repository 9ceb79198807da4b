"""Import paths of distilabel, below our own name."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec

import pytest

from asyncdistil.compat.aliases import resolve
from asyncdistil.compat.table import ABSENT, HOME, MODULES

NAMES = [(module, name) for module, names in MODULES.items() for name in names]
CARRIED = [(module, name) for module, name in NAMES if name in HOME]

DOCUMENTED = """
pipeline.Pipeline steps.tasks.TextGeneration models.InferenceEndpointsLLM models.OpenAILLM
steps.LoadDataFromDicts steps.LoadDataFromHub steps.GroupColumns steps.StepInput
models.MistralLLM typing.StepOutput models.VertexAILLM steps.KeepColumns typing.StepColumns
steps.tasks.UltraFeedback models.vLLM steps.GlobalStep steps.step typing.ChatType
steps.CombineOutputs steps.ExpandColumns steps.StepOutput steps.tasks.ImageGeneration
models.image_generation.InferenceEndpointsImageGeneration steps.Step steps.StepResources
steps.make_generator_step steps.tasks.FormatPRM steps.tasks.MathShepherdCompleter
steps.tasks.MathShepherdGenerator typing.GeneratorStepOutput
steps.tasks.text_generation_with_image.TextGenerationWithImage llms.InferenceEndpointsLLM
models.LLM models.LlamaCppLLM models.image_generation.utils.image_from_str
models.llms.InferenceEndpointsLLM pipeline.routing_batch_function steps.GeneratorStep
steps.base.StepInput steps.tasks.PrometheusEval steps.tasks.apigen.utils.load_module_from_path
steps.tasks.base.GeneratorTask steps.tasks.base.Task typing.GenerateOutput typing.HiddenState
steps.tasks.typing.ChatType steps.typing.StepOutput distiset.Distiset llms.vLLM
mixins.runtime_parameters.RuntimeParameter models.AsyncLLM models.TransformersLLM
models.image_generation.OpenAIImageGeneration models.image_generation.utils.image_to_str
pipeline.InstructionResponsePipeline
models.llms.OpenAILLM models.mixins.MagpieChatTemplateMixin pipeline.sample_n_steps
steps.tasks.APIGenExecutionChecker steps.tasks.APIGenGenerator
steps.tasks.APIGenSemanticChecker steps.tasks.CLAIR steps.tasks.ComplexityScorer
steps.tasks.EvolInstruct steps.tasks.EvolQuality steps.tasks.GenerateEmbeddings
steps.tasks.GenerateSentencePair steps.tasks.GenerateTextClassificationData
steps.tasks.InstructionBacktranslation steps.tasks.QualityScorer steps.tasks.Task
steps.tasks.task steps.tasks.apigen.utils.PrepareExamples steps.tasks.base.ImageTask
steps.tasks.structured_outputs.outlines.StructuredOutputType utils.requirements.requirements
steps.base.Step pipeline.local.Pipeline errors.DistilabelUserError
exceptions.DistilabelOfflineBatchGenerationNotFinishedException
""".split()  # noqa: SIM905
"""What documentation and examples of distilabel import."""


@pytest.mark.parametrize(("module", "name"), CARRIED, ids=lambda value: value)
def test_every_name_is_found_at_its_old_path(module: str, name: str) -> None:
    assert getattr(import_module(f"asyncdistil.{module}"), name) is resolve(name)


@pytest.mark.parametrize("path", DOCUMENTED)
def test_what_documentation_imports_is_in_the_table(path: str) -> None:
    module, _, name = path.rpartition(".")
    assert name in MODULES[module]
    assert name in HOME


def test_every_name_is_either_carried_over_or_says_what_is_nearest() -> None:
    assert [name for _, name in NAMES if (name in HOME) == (name in ABSENT)] == []


def test_a_module_that_nobody_has_is_not_found() -> None:
    assert find_spec("asyncdistil.no_such_module") is None
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        import_module("asyncdistil.no_such_module")


def test_an_old_module_says_what_to_write_instead_of_a_lost_name() -> None:
    with pytest.raises(ImportError, match=r"'MlxLLM'.*start mlx_lm.server"):
        from asyncdistil.models.llms.mlx import MlxLLM  # noqa: F401
    with pytest.raises(ImportError, match="nearest name is 'OpenAILLM'"):
        from asyncdistil.llms import OpenAILM  # noqa: F401


def test_importing_the_package_reads_no_table() -> None:
    program = "import sys, asyncdistil; print('asyncdistil.compat.table' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert said.stdout.split() == [b"False"]


def test_the_ready_pipeline_is_one_magpie() -> None:
    from asyncdistil.pipeline import InstructionResponsePipeline

    made = InstructionResponsePipeline(hf_token="hf_x", num_rows=3, n_turns=2)
    (name,) = made.pipeline
    step = made.pipeline[name]
    assert (type(step).__name__, step.num_rows, step.n_turns) == ("MagpieGenerator", 3, 2)  # type: ignore[attr-defined]
    assert step.secrets() == ["hf_x"]
