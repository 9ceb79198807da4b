"""`Pipeline.partial`: the dataset as far as it is there, while a run goes on or after it stopped.

The store is read beside the run, without its lock. A row is in it once the commit of its batch is,
by the rule by which the next run would take it: nothing that a worker only holds is ever seen.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from asyncdistil.batch import Row, StepName
from asyncdistil.distiset import Distiset
from asyncdistil.graph import columns_out
from asyncdistil.pipeline.describe import describe
from asyncdistil.steps.metadata import METADATA_COLUMN
from asyncdistil.supervisor.stored_run import StoredRun, UnknownRun

if TYPE_CHECKING:
    from asyncdistil.pipeline.pipeline import Pipeline


def partial(pipeline: Pipeline, run: str = "") -> Distiset:
    """Read what a run has made of the last steps so far.

    Args:
        pipeline: Whose run; it says which columns and rows belong into the dataset.
        run: Id of the run, or how it begins; the newest one without it.

    Raises:
        UnknownRun: Nothing is stored, or there is no such run.
        LogError: What is stored can't be read.
    """
    opened = StoredRun.open(pipeline.cache_dir, pipeline.name, run)
    if opened is None:
        raise UnknownRun(
            f"nothing is stored under the name {pipeline.name!r} in {pipeline.cache_dir}: run the "
            "pipeline first"
        )
    leaves = pipeline.graph.leaves
    configs = {"default" if len(leaves) == 1 else leaf: leaf for leaf in leaves}
    declared = columns_out(pipeline.graph, {n: describe(s) for n, s in pipeline.steps.items()})
    with opened as stored:
        made = Distiset.from_rows(
            {config: list(_rows(pipeline, stored, leaf)) for config, leaf in configs.items()},
            columns={config: tuple(declared[leaf].present) for config, leaf in configs.items()},
        )
        made.partial = not stored.completed
        made.failures = {name: s.failed for name, s in stored.steps.items() if s.failed}
        made.report = {
            "run": stored.begin.run,
            "partial": made.partial,
            "failed_rows": sum(step.failed for step in stored.steps.values()),
            "steps": {
                name: {
                    "rows": step.rows,
                    "inputs_computed": step.inputs_computed,
                    "inputs_replayed": step.inputs_replayed,
                    "failed": step.failed,
                }
                for name, step in stored.steps.items()
            },
        }
    return made


def _rows(pipeline: Pipeline, stored: StoredRun, leaf: StepName) -> Iterator[Row]:
    """Rows of a leaf as the export would take them."""
    if leaf not in stored.steps:
        return
    skipped = pipeline[leaf].on_error != "null"
    for part, _, commit, first in stored.parts(leaf):
        failed = {each.output_row for each in commit.failures} if skipped else set()
        for output, row in enumerate(stored.read(part), first):
            if output not in failed:
                if not pipeline.enable_metadata:
                    row.pop(METADATA_COLUMN, None)
                yield row
