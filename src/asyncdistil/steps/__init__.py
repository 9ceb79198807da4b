"""Steps: their contract and the built-in ones."""

from __future__ import annotations

from asyncdistil.steps.base import BaseStep
from asyncdistil.steps.columns import ExpandColumns, KeepColumns, MergeColumns
from asyncdistil.steps.decorator import step
from asyncdistil.steps.functions import FilterRows, Map
from asyncdistil.steps.generator import GeneratorStep
from asyncdistil.steps.global_step import GlobalStep
from asyncdistil.steps.joins import CombineOutputs, GroupColumns
from asyncdistil.steps.load_dataset import LoadDataFromDataset, make_generator_step
from asyncdistil.steps.load_dicts import LoadDataFromDicts
from asyncdistil.steps.load_disk import LoadDataFromDisk
from asyncdistil.steps.load_files import LoadDataFromFileSystem
from asyncdistil.steps.load_hub import LoadDataFromHub
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

__all__ = [
    "CURRENT_PIPELINE",
    "BaseStep",
    "CombineOutputs",
    "Entries",
    "Entry",
    "ExpandColumns",
    "FailedRow",
    "FilterRows",
    "GeneratorStep",
    "GeneratorStepOutput",
    "GlobalStep",
    "GroupColumns",
    "KeepColumns",
    "LoadDataFromDataset",
    "LoadDataFromDicts",
    "LoadDataFromDisk",
    "LoadDataFromFileSystem",
    "LoadDataFromHub",
    "Map",
    "MergeColumns",
    "PipelineLike",
    "RoutingBatchFunction",
    "RowStep",
    "Step",
    "StepColumns",
    "StepInput",
    "StepOutput",
    "StepResources",
    "describe_failure",
    "make_generator_step",
    "routing_batch_function",
    "sample_n_steps",
    "step",
]
