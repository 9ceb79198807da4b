"""Batches of a provider: many requests at once, at half the price, within a day.

What was submitted is known by a record that outlives any crash, so that a later run fetches the
answers instead of paying for them again.
"""

from asyncdistil.models.offline.anthropic import AnthropicBatches
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

__all__ = [
    "MAX_OUTPUT_BYTES",
    "AnthropicBatches",
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
