"""Finding the row that kills workers.

A row-wise job is halved until the culprit stands alone: survivors keep their results. The rows of
a batch-wise job belong together, so halves are only *probed*, and the batch is called once more
without the culprits.
"""

from __future__ import annotations

from collections.abc import Callable

from asyncdistil.batch import Failure
from asyncdistil.supervisor.chunk import cut
from asyncdistil.supervisor.crew import Job

NewJob = Callable[[], int]


def open_parts(job: Job, number: NewJob) -> list[Job]:
    """What of a job is still to be done: itself, or a job for each range not covered."""
    if job.uncovered == [(0, job.chunk.rows)]:
        return [job]
    parts: list[Job] = []
    for start, stop in job.uncovered:
        part = Job(number(), cut(job.chunk, start, stop))
        part.attempt, part.bisecting = job.attempt, job.bisecting
        parts.append(part)
    return parts


def by_halves(job: Job, failure: Failure, number: NewJob) -> list[Job]:
    """Two jobs for the halves of one, or one that condemns its only row."""
    if job.chunk.rows == 1:
        alone = Job(number(), job.chunk)
        alone.condemned = ((0, failure),)
        return [alone]
    halves: list[Job] = []
    for start, stop in _halves(0, job.chunk.rows):
        half = Job(number(), cut(job.chunk, start, stop))
        half.bisecting = True
        halves.append(half)
    return halves


def by_probe(job: Job, failure: Failure) -> Job:
    """The same job with the next range to probe, after a death under it."""
    if job.probe is None:
        job.bisecting = True
        job.suspects = _halves(0, job.chunk.rows)
    else:
        start, stop = job.probe
        if stop - start == 1:
            job.culprits.append((start, failure))
        else:
            job.suspects = _halves(start, stop) + job.suspects
    return next_probe(job, failure)


def next_probe(job: Job, failure: Failure) -> Job:
    """The same job with the next range to probe; without one, ready for its last call."""
    job.attempt = 1
    if job.suspects:
        job.probe = job.suspects.pop(0)
        return job
    job.probe = None
    job.bisecting = False
    # Rows that kill only together are all left out: no single one can be blamed.
    culprits = job.culprits or [(row, failure) for row in range(job.chunk.rows)]
    job.condemned = tuple(sorted(culprits, key=lambda culprit: culprit[0]))
    return job


def _halves(start: int, stop: int) -> list[tuple[int, int]]:
    half = start + (stop - start + 1) // 2
    return [part for part in ((start, half), (half, stop)) if part[0] < part[1]]
