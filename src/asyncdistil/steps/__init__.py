"""Steps: their contract and the built-in ones."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from asyncdistil.steps.base import BaseStep
from asyncdistil.steps.decorator import step
from asyncdistil.steps.generator import GeneratorStep
from asyncdistil.steps.global_step import GlobalStep
from asyncdistil.steps.registration import CURRENT_PIPELINE, PipelineLike
from asyncdistil.steps.resources import StepResources
from asyncdistil.steps.routing import (
    RoutingBatchFunction,
    routing_batch_function,
    sample_n_steps,
)
from asyncdistil.steps.row_step import RowStep
from asyncdistil.steps.rows import Entries, Entry, FailedRow, describe_failure
from asyncdistil.steps.step import Step
from asyncdistil.typing import GeneratorStepOutput, StepColumns, StepInput, StepOutput

if TYPE_CHECKING:
    from asyncdistil.steps.argilla import PreferenceToArgilla, TextGenerationToArgilla
    from asyncdistil.steps.arrange import JoinColumns, Sample, Sort
    from asyncdistil.steps.clustering import DBSCAN, UMAP
    from asyncdistil.steps.columns import ExpandColumns, KeepColumns, MergeColumns
    from asyncdistil.steps.data_sampler import DataSampler
    from asyncdistil.steps.deduplication import EmbeddingDedup, ExactDedup, MinHashDedup
    from asyncdistil.steps.deita import DeitaFiltering
    from asyncdistil.steps.functions import FilterRows, Map
    from asyncdistil.steps.joins import CombineOutputs, GroupColumns
    from asyncdistil.steps.load_dataset import LoadDataFromDataset, make_generator_step
    from asyncdistil.steps.load_dicts import LoadDataFromDicts
    from asyncdistil.steps.load_disk import LoadDataFromDisk
    from asyncdistil.steps.load_files import LoadDataFromFileSystem
    from asyncdistil.steps.load_hub import LoadDataFromHub
    from asyncdistil.steps.push_to_hub import PushToHub
    from asyncdistil.steps.reward_model import RewardModelScore
    from asyncdistil.steps.tasks.text_clustering import TextClustering
    from asyncdistil.steps.training_formats import (
        ConversationTemplate,
        FormatChatGenerationDPO,
        FormatChatGenerationSFT,
        FormatTextGenerationDPO,
        FormatTextGenerationSFT,
    )
    from asyncdistil.steps.truncate import TruncateTextColumn
    from asyncdistil.steps.vectors import EmbeddingGeneration, FaissNearestNeighbour

_BASIC = {
    "CombineOutputs": "joins",
    "ExpandColumns": "columns",
    "FilterRows": "functions",
    "GroupColumns": "joins",
    "KeepColumns": "columns",
    "LoadDataFromDataset": "load_dataset",
    "LoadDataFromDicts": "load_dicts",
    "LoadDataFromDisk": "load_disk",
    "LoadDataFromFileSystem": "load_files",
    "LoadDataFromHub": "load_hub",
    "Map": "functions",
    "MergeColumns": "columns",
    "make_generator_step": "load_dataset",
}
_GALLERY = {
    "ConversationTemplate": "training_formats",
    "DBSCAN": "clustering",
    "DataSampler": "data_sampler",
    "DeitaFiltering": "deita",
    "EmbeddingDedup": "deduplication",
    "EmbeddingGeneration": "vectors",
    "ExactDedup": "deduplication",
    "FaissNearestNeighbour": "vectors",
    "FormatChatGenerationDPO": "training_formats",
    "FormatChatGenerationSFT": "training_formats",
    "FormatTextGenerationDPO": "training_formats",
    "FormatTextGenerationSFT": "training_formats",
    "JoinColumns": "arrange",
    "MinHashDedup": "deduplication",
    "PreferenceToArgilla": "argilla",
    "PushToHub": "push_to_hub",
    "RewardModelScore": "reward_model",
    "Sample": "arrange",
    "Sort": "arrange",
    "TextClustering": "tasks.text_clustering",
    "TextGenerationToArgilla": "argilla",
    "TruncateTextColumn": "truncate",
    "UMAP": "clustering",
}
_WHERE = _BASIC | _GALLERY
"""Imported on first use: a worker has one step, and making all these classes takes it 20 ms."""

__all__ = [
    "CURRENT_PIPELINE",
    "DBSCAN",
    "UMAP",
    "BaseStep",
    "CombineOutputs",
    "ConversationTemplate",
    "DataSampler",
    "DeitaFiltering",
    "EmbeddingDedup",
    "EmbeddingGeneration",
    "Entries",
    "Entry",
    "ExactDedup",
    "ExpandColumns",
    "FailedRow",
    "FaissNearestNeighbour",
    "FilterRows",
    "FormatChatGenerationDPO",
    "FormatChatGenerationSFT",
    "FormatTextGenerationDPO",
    "FormatTextGenerationSFT",
    "GeneratorStep",
    "GeneratorStepOutput",
    "GlobalStep",
    "GroupColumns",
    "JoinColumns",
    "KeepColumns",
    "LoadDataFromDataset",
    "LoadDataFromDicts",
    "LoadDataFromDisk",
    "LoadDataFromFileSystem",
    "LoadDataFromHub",
    "Map",
    "MergeColumns",
    "MinHashDedup",
    "PipelineLike",
    "PreferenceToArgilla",
    "PushToHub",
    "RewardModelScore",
    "RoutingBatchFunction",
    "RowStep",
    "Sample",
    "Sort",
    "Step",
    "StepColumns",
    "StepInput",
    "StepOutput",
    "StepResources",
    "TextClustering",
    "TextGenerationToArgilla",
    "TruncateTextColumn",
    "describe_failure",
    "make_generator_step",
    "routing_batch_function",
    "sample_n_steps",
    "step",
]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        from asyncdistil.compat.aliases import old_names

        return old_names(__name__)(name)
    return getattr(import_module(f"{__name__}.{_WHERE[name]}"), name)


def __dir__() -> list[str]:
    return __all__
