"""Batches of a provider: many requests at once, at half the price, within a day.

What was submitted is known by a record that outlives any crash, so that a later run fetches the
answers instead of paying for them again.

Its names are loaded when they are first asked for: few models are ever asked through batches, and
every worker of a model would import them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from asyncdistil.models.offline.anthropic import AnthropicBatches
    from asyncdistil.models.offline.azure import AzureBatches
    from asyncdistil.models.offline.desk import Desk, Habits
    from asyncdistil.models.offline.gathering import Gathering
    from asyncdistil.models.offline.openai import OpenAIBatches
    from asyncdistil.models.offline.records import (
        BatchRecord,
        FileJournal,
        Journal,
        ModelJournal,
        journal_around,
    )
    from asyncdistil.models.offline.service import MAX_OUTPUT_BYTES, BatchService

_HOMES = {
    "MAX_OUTPUT_BYTES": "service",
    "AnthropicBatches": "anthropic",
    "AzureBatches": "azure",
    "BatchRecord": "records",
    "BatchService": "service",
    "Desk": "desk",
    "FileJournal": "records",
    "Gathering": "gathering",
    "Habits": "desk",
    "Journal": "records",
    "ModelJournal": "records",
    "OpenAIBatches": "openai",
    "journal_around": "records",
}

__all__ = [
    "MAX_OUTPUT_BYTES",
    "AnthropicBatches",
    "AzureBatches",
    "BatchRecord",
    "BatchService",
    "Desk",
    "FileJournal",
    "Gathering",
    "Habits",
    "Journal",
    "ModelJournal",
    "OpenAIBatches",
    "journal_around",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
