"""What the machine tells the shell to do. Plain data: the machine decides, the shell acts."""

from __future__ import annotations

from typing import Literal, NamedTuple, NewType, TypeAlias

from asyncdistil.batch import RowSlice, StepName
from asyncdistil.transport.messages import ToWorker

WorkerId = NewType("WorkerId", int)
"""Number of one worker *spawn*; a restarted worker gets a new one. It is the epoch."""

Role: TypeAlias = Literal["step", "router", "export"]


class Spawn(NamedTuple):
    """Start a worker process, after ``delay_seconds``."""

    worker: WorkerId
    step: StepName
    role: Role
    replica: int
    delay_seconds: float = 0.0


class Send(NamedTuple):
    """Send a message to a worker; after the appends of the same turn."""

    worker: WorkerId
    message: ToWorker


class Kill(NamedTuple):
    """Kill a worker at once."""

    worker: WorkerId


class Publish(NamedTuple):
    """Durable rows of a leaf, in source order, for whoever listens."""

    leaf: StepName
    slices: tuple[RowSlice, ...]


Command: TypeAlias = Spawn | Send | Kill | Publish
