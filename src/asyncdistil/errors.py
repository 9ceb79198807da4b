"""Every exception asyncdistil raises on purpose.

AsyncDistilError
  UserError                  you must change the pipeline, its parameters or its data (a ValueError)
    GraphError               the wiring is wrong: a cycle, an unknown step, a missing column
    ParameterError           a parameter is unknown, missing or of the wrong type
      ConditionError         a condition on rows can't be read; says where
    MissingRequirement       a package it asks for is not here (a ModuleNotFoundError too)
    DataError                the data given to a loader can't be used
    StepError                the code of a step broke its contract or raised
    UnencodableValue         a row holds a value that no codec type covers (a TypeError too)
    UncacheableValue         a value has no stable identity to put into a key
    SignatureMismatch        a worker rebuilt a step whose code differs from what was signed
  LogError                   the write-ahead log can't keep its promise
    CorruptRecord            acknowledged bytes changed after they were made durable
    FormatError              a file is not ours, or was written by a newer format
    StorageError             the disk refused: full, read-only, failed to sync
    StoreLocked              another run holds this pipeline name
  TransportError             a peer broke the frame protocol
    PeerClosed               a peer closed its end, or died
  WorkerError                a worker process failed as a whole
    WorkerLoadFailed         the step's ``load`` raised, or its code could not be rebuilt
    WorkerDied               killed, crashed or exited while it held work
  RunStopped                 the run ended early; what is done is kept and a rerun goes on from it
    Interrupted              a signal or a cancellation asked it to stop
    BatchesPending           a provider still works on batches that were submitted
    FailureBudgetExceeded    too many rows failed to be an accident
    BudgetExhausted          the money or token budget of the run is spent
    MemoryRefused            a global step would not fit into memory
  ModelError                 a language model, embedding or image service refused or failed
    ModelAuthError           wrong or missing key: nobody but you can mend it
    ModelRequestError        the service understood and refused this request (400, 404, 422)
      ModelNotFound          the service knows no such model, or the URL leads to no service
    ModelRateLimited         the service asked us to slow down, for longer than we may wait
    ModelUnavailable         refused, reset, timed out, 5xx
      ModelOutage            the service answers nobody, for longer than we may wait
    ModelReplyError          the reply could not be understood

Which branch an error stands on says who must act: ``UserError`` you, ``LogError`` the owner of the
machine, ``ModelError`` the owner of the service, ``RunStopped`` nobody: run it again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any


class AsyncDistilError(Exception):
    """Root of the tree."""


class UserError(AsyncDistilError, ValueError):
    """Something you wrote must change before this can work."""


class GraphError(UserError):
    """The steps are wired in a way that cannot run."""


class ParameterError(UserError):
    """A parameter is unknown, missing or of the wrong type."""


class ConditionError(ParameterError):
    """A condition on rows can't be read, or has something that no condition may have.

    Attributes:
        position: Place in the condition, in characters from 0.
    """

    def __init__(self, condition: str, position: int, reason: str) -> None:
        super().__init__(
            f"the condition {condition!r} can't be used, at character {position + 1}: {reason}. "
            "Write one on columns, such as 'score > 3 and \"cat\" in text'"
        )
        self.position = position


class MissingRequirement(UserError, ModuleNotFoundError):
    """A package that the pipeline asks for is missing, or has another version."""


class DataError(UserError):
    """The data given to a loader cannot be used."""


class StepError(UserError):
    """The code of a step broke its contract or raised."""


class UnencodableValue(UserError, TypeError):
    """A row holds a value that no codec type covers."""


class UncacheableValue(UserError):
    """A value has no stable identity to put into a key."""


class SignatureMismatch(UserError):
    """A worker rebuilt a step whose code differs from the code that was signed."""


class LogError(AsyncDistilError):
    """The write-ahead log cannot keep its promise."""


class CorruptRecord(LogError):
    """Acknowledged bytes changed after they were made durable.

    Attributes:
        path: File that holds the bytes.
        offset_bytes: Where the damaged record starts in that file.
        lsn: LSN of the damaged record, or ``None`` outside the commit log.
    """

    def __init__(
        self, message: str, *, path: str = "", offset_bytes: int = 0, lsn: int | None = None
    ) -> None:
        super().__init__(message)
        self.path = path
        self.offset_bytes = offset_bytes
        self.lsn = lsn


class FormatError(LogError):
    """A file is not ours, or was written by a format newer than this code."""


class StorageError(LogError):
    """The disk refused a write, a sync or a rename; the run stays resumable."""


class StoreLocked(LogError):
    """Another run holds this pipeline name."""


class TransportError(AsyncDistilError):
    """A peer broke the frame protocol."""


class PeerClosed(TransportError):
    """A peer closed its end of the socket, or died."""


class WorkerError(AsyncDistilError):
    """A worker process failed as a whole."""


class WorkerLoadFailed(WorkerError):
    """The ``load`` of a step raised, or its code could not be rebuilt in the worker."""


class WorkerDied(WorkerError):
    """A worker was killed, crashed or exited while it held work."""


class RunStopped(AsyncDistilError):
    """The run ended early; what is done is kept and a rerun goes on from it."""


class Interrupted(RunStopped):
    """A signal or a cancellation asked the run to stop."""


class BatchesPending(RunStopped):
    """A provider still works on batches that were submitted; a later run fetches their answers.

    Attributes:
        jobs_ids: The provider's ids of the batches; empty if a worker process reported it.
    """

    def __init__(self, message: str = "", *, jobs_ids: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.jobs_ids = jobs_ids


class FailureBudgetExceeded(RunStopped):
    """More rows failed than could be an accident."""


class BudgetExhausted(RunStopped):
    """The money or token budget of the run is spent."""


class MemoryRefused(RunStopped):
    """A global step would not fit into the memory it may use."""


class ModelError(AsyncDistilError):
    """A language model, embedding or image service refused or failed.

    Attributes:
        attempts: Tries made, at least 1.
        detail: Raw reply, secrets removed, cut at 16 KiB; empty if none came.
    """

    def __init__(self, message: str = "", *, attempts: int = 1, detail: str = "") -> None:
        super().__init__(message)
        self.attempts = attempts
        self.detail = detail


class ModelAuthError(ModelError):
    """The key is wrong or missing."""


class ModelRequestError(ModelError):
    """The service understood the request and refused it."""


class ModelNotFound(ModelRequestError):
    """The service knows no such model, or there is none under this URL; the run is resumable."""


class ModelRateLimited(ModelError):
    """The service asked to slow down for longer than we may wait."""


class ModelUnavailable(ModelError):
    """The service refused the connection, reset it, timed out or answered 5xx."""


class ModelOutage(ModelUnavailable):
    """The service has answered no request for longer than we may wait; the run is resumable."""


class ModelReplyError(ModelError):
    """A reply arrived and could not be understood."""


def said_by(error: BaseException) -> str:
    """Return the text of any exception, also of one whose own ``__str__`` raises."""
    try:
        return str(error)
    except Exception as broken:
        return f"(its text can't be had: __str__ raised {type(broken).__name__})"


if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        """Names that distilabel has in this module; type checkers are not to see them."""
        from asyncdistil.compat.aliases import old_names

        return old_names(__name__)(name)
