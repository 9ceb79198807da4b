"""Tasks: steps that ask a model. Each class is imported when it is first used."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from asyncdistil.models.typing import ChatItem, ChatType
    from asyncdistil.steps.tasks.apigen import (
        APIGenExecutionChecker,
        APIGenGenerator,
        APIGenSemanticChecker,
        PrepareExamples,
    )
    from asyncdistil.steps.tasks.argilla_labeller import ArgillaLabeller
    from asyncdistil.steps.tasks.base import GeneratorTask, GlobalTask, Task
    from asyncdistil.steps.tasks.clair import CLAIR
    from asyncdistil.steps.tasks.decorator import task
    from asyncdistil.steps.tasks.embeddings import (
        BitextRetrievalGenerator,
        EmbeddingTaskGenerator,
        GenerateLongTextMatchingData,
        GenerateShortTextMatchingData,
        GenerateTextClassificationData,
        GenerateTextRetrievalData,
        MonolingualTripletGenerator,
    )
    from asyncdistil.steps.tasks.evol import EvolComplexity, EvolInstruct, EvolQuality
    from asyncdistil.steps.tasks.evol_generators import (
        EvolComplexityGenerator,
        EvolInstructGenerator,
    )
    from asyncdistil.steps.tasks.generate_embeddings import GenerateEmbeddings
    from asyncdistil.steps.tasks.genstruct import Genstruct
    from asyncdistil.steps.tasks.images import ImageGeneration, ImageTask
    from asyncdistil.steps.tasks.instruction_backtranslation import InstructionBacktranslation
    from asyncdistil.steps.tasks.magpie import Magpie, MagpieGenerator
    from asyncdistil.steps.tasks.math_shepherd import (
        FormatPRM,
        MathShepherdCompleter,
        MathShepherdGenerator,
    )
    from asyncdistil.steps.tasks.pair_rm import PairRM
    from asyncdistil.steps.tasks.prometheus_eval import PrometheusEval
    from asyncdistil.steps.tasks.scorers import ComplexityScorer, QualityScorer
    from asyncdistil.steps.tasks.self_instruct import SelfInstruct
    from asyncdistil.steps.tasks.sentence_pair import GenerateSentencePair
    from asyncdistil.steps.tasks.text_classification import TextClassification
    from asyncdistil.steps.tasks.text_clustering import TextClustering
    from asyncdistil.steps.tasks.text_generation import (
        ChatGeneration,
        StructuredGeneration,
        TextGeneration,
        TextGenerationWithImage,
    )
    from asyncdistil.steps.tasks.ultrafeedback import UltraFeedback
    from asyncdistil.steps.tasks.urial import URIAL

_HERE = "asyncdistil.steps.tasks"
_HOMES = {
    "asyncdistil.models.typing": ("ChatItem", "ChatType"),
    f"{_HERE}.apigen": (
        "APIGenExecutionChecker",
        "APIGenGenerator",
        "APIGenSemanticChecker",
        "PrepareExamples",
    ),
    f"{_HERE}.argilla_labeller": ("ArgillaLabeller",),
    f"{_HERE}.base": ("GeneratorTask", "GlobalTask", "Task"),
    f"{_HERE}.clair": ("CLAIR",),
    f"{_HERE}.decorator": ("task",),
    f"{_HERE}.embeddings": (
        "BitextRetrievalGenerator",
        "EmbeddingTaskGenerator",
        "GenerateLongTextMatchingData",
        "GenerateShortTextMatchingData",
        "GenerateTextClassificationData",
        "GenerateTextRetrievalData",
        "MonolingualTripletGenerator",
    ),
    f"{_HERE}.evol": ("EvolComplexity", "EvolInstruct", "EvolQuality"),
    f"{_HERE}.evol_generators": ("EvolComplexityGenerator", "EvolInstructGenerator"),
    f"{_HERE}.generate_embeddings": ("GenerateEmbeddings",),
    f"{_HERE}.genstruct": ("Genstruct",),
    f"{_HERE}.images": ("ImageGeneration", "ImageTask"),
    f"{_HERE}.instruction_backtranslation": ("InstructionBacktranslation",),
    f"{_HERE}.magpie": ("Magpie", "MagpieGenerator"),
    f"{_HERE}.math_shepherd": ("FormatPRM", "MathShepherdCompleter", "MathShepherdGenerator"),
    f"{_HERE}.pair_rm": ("PairRM",),
    f"{_HERE}.prometheus_eval": ("PrometheusEval",),
    f"{_HERE}.scorers": ("ComplexityScorer", "QualityScorer"),
    f"{_HERE}.self_instruct": ("SelfInstruct",),
    f"{_HERE}.sentence_pair": ("GenerateSentencePair",),
    f"{_HERE}.text_classification": ("TextClassification",),
    f"{_HERE}.text_clustering": ("TextClustering",),
    f"{_HERE}.text_generation": (
        "ChatGeneration",
        "StructuredGeneration",
        "TextGeneration",
        "TextGenerationWithImage",
    ),
    f"{_HERE}.ultrafeedback": ("UltraFeedback",),
    f"{_HERE}.urial": ("URIAL",),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "CLAIR",
    "URIAL",
    "APIGenExecutionChecker",
    "APIGenGenerator",
    "APIGenSemanticChecker",
    "ArgillaLabeller",
    "BitextRetrievalGenerator",
    "ChatGeneration",
    "ChatItem",
    "ChatType",
    "ComplexityScorer",
    "EmbeddingTaskGenerator",
    "EvolComplexity",
    "EvolComplexityGenerator",
    "EvolInstruct",
    "EvolInstructGenerator",
    "EvolQuality",
    "FormatPRM",
    "GenerateEmbeddings",
    "GenerateLongTextMatchingData",
    "GenerateSentencePair",
    "GenerateShortTextMatchingData",
    "GenerateTextClassificationData",
    "GenerateTextRetrievalData",
    "GeneratorTask",
    "Genstruct",
    "GlobalTask",
    "ImageGeneration",
    "ImageTask",
    "InstructionBacktranslation",
    "Magpie",
    "MagpieGenerator",
    "MathShepherdCompleter",
    "MathShepherdGenerator",
    "MonolingualTripletGenerator",
    "PairRM",
    "PrepareExamples",
    "PrometheusEval",
    "QualityScorer",
    "SelfInstruct",
    "StructuredGeneration",
    "Task",
    "TextClassification",
    "TextClustering",
    "TextGeneration",
    "TextGenerationWithImage",
    "UltraFeedback",
    "task",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
