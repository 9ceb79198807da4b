"""``asyncdistil cache export`` and ``import``."""

from __future__ import annotations

import re
import sys
from contextlib import closing
from pathlib import Path

from asyncdistil.cli.ending import UsageError, show_json
from asyncdistil.cli.stored import folder_of, refuse_unknown
from asyncdistil.cli.tables import show, size
from asyncdistil.log import LocalFiles, store_root
from asyncdistil.log.checking import check
from asyncdistil.log.pack import PackReader, PackWriter
from asyncdistil.log.portable import portable, write_store
from asyncdistil.log.saved import write_saved
from asyncdistil.log.taking_in import take_in
from asyncdistil.memo.portable import check_answers, take_in_answers, write_answers

SUFFIX = ".adpack"


def export_run(
    name: str, run: str, to: Path | None, cache_dir: Path | None, *, as_json: bool
) -> None:
    """Pack the dataset of a run with all that it was made of.

    Raises:
        UsageError: Nothing of this name is stored, or the file is there already.
        NotPackable: The run has no dataset.
        LogError: The store is damaged, or the disk refused.
    """
    folder, files = folder_of(cache_dir), LocalFiles()
    refuse_unknown(folder, name)
    target = to if to is not None else Path(_file_name(name) + SUFFIX)
    if target.exists():
        raise UsageError(f"{target} is there already: name another file with --to")
    made = portable(store_root(folder, name), run, files)
    with closing(PackWriter(target)) as pack:
        write_store(pack, made, files)
        artifacts = write_saved(pack, made, files)
        answers = write_answers(pack, made, folder, files)
        digest = pack.finish(pipeline=name, run=made.run, store_id=made.history.store_id)
    rows = sum(emit.rows for emit in made.emits)
    if made.left_out:
        sys.stderr.write(
            f"warning: {made.left_out} commits were left out, because rows that they were made of "
            "are damaged; the dataset is whole\n"
        )
    size_bytes = target.stat().st_size
    if as_json:
        show_json(
            {
                "pipeline": name,
                "run": made.run,
                "file": str(target),
                "bytes": size_bytes,
                "sha256": digest,
                "dataset_rows": rows,
                "commits": len(made.demand.commits),
                "commits_left_out": made.left_out,
                "artifacts": artifacts,
                "answers": answers,
            }
        )
        return
    show(
        f"run {made.run[:8]} of {name}: {rows:,} rows, {len(made.demand.commits):,} commits, "
        f"{artifacts:,} artifacts and {answers:,} answers are in {target} ({size(size_bytes)})"
    )
    show(f"sha256 {digest}")


def import_pack(path: Path, cache_dir: Path | None, *, sha256: str, as_json: bool) -> None:
    """Take in what `export_run` wrote, once all of it has been verified.

    Raises:
        UsageError: There is no such file.
        LogError: It is damaged, not a pack, or the disk refused.
    """
    if not path.is_file():
        raise UsageError(f"there is no file {path}")
    folder, files = folder_of(cache_dir), LocalFiles()
    with closing(PackReader(path, expected_sha256=sha256)) as pack:
        checked = check(pack)
        check_answers(pack)
        # Answers first: what relies on them counts only when they are durable.
        answers = take_in_answers(pack, folder, files)
        taken = take_in(checked, pack, folder, files)
        digest = pack.sha256
    if as_json:
        show_json(
            {
                "pipeline": checked.pipeline,
                "run": checked.run,
                "sha256": digest,
                "known": taken.known,
                "commits_written": taken.commits,
                "rows_written": taken.rows,
                "datasets_written": taken.datasets,
                "artifacts_written": taken.artifacts,
                "answers_written": answers.new,
                "answers_known": answers.known,
                "no_longer_taken_up": taken.unfinished or None,
                "store": str(taken.root),
            }
        )
        return
    if taken.known and not (taken.datasets or taken.artifacts or answers.new):
        show(f"run {checked.run[:8]} of {checked.pipeline} is here already, whole")
    else:
        show(
            f"run {checked.run[:8]} of {checked.pipeline} is here: {taken.commits:,} commits with "
            f"{taken.rows:,} rows, {taken.datasets:,} dataset files, {taken.artifacts:,} artifacts "
            f"and {answers.new:,} answers were written"
        )
    show(f"sha256 {digest}")
    if taken.unfinished:
        show(
            f"run {taken.unfinished[:8]}, which did not end, will not be taken up under its id any "
            "more; its finished batches are used all the same"
        )


def _file_name(name: str) -> str:
    """A name of a file in the working directory, whatever the pipeline is called."""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-") or "pipeline"
