"""``asyncdistil cache gc``, ``pin``, ``unpin`` and ``ls PIPELINE``."""

from __future__ import annotations

import re
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.text import Text

from asyncdistil.batch import RunId
from asyncdistil.cli.ending import UsageError, show_json
from asyncdistil.cli.stored import SHORTEST_ID, folder_of, names_in, refuse_unknown
from asyncdistil.cli.tables import show, size, table
from asyncdistil.errors import StorageError
from asyncdistil.log import LocalFiles, StoreReader, store_root
from asyncdistil.log.collection import Share, Survey
from asyncdistil.log.events import RunEnd
from asyncdistil.log.pins import pins_path, read_pins, write_pins
from asyncdistil.memo.collection import Collection, Limits

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}
_BYTES = {
    "": 1,
    "b": 1,
    **{unit: 1000**power for power, unit in enumerate(("kb", "mb", "gb", "tb"), 1)},
    **{unit: 1024**power for power, unit in enumerate(("kib", "mib", "gib", "tib"), 1)},
}
_AMOUNT = re.compile(r"(\d+(?:\.\d+)?)\s*([a-z]*)")


def gc(
    name: str | None,
    cache_dir: Path | None,
    *,
    older_than: str,
    max_size: str,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Drop runs that are too old or too much, and all that no other run needs.

    Raises:
        UsageError: An age or size can't be understood, or nothing of this name is stored.
        LogError: A run goes on, the store is damaged, or the disk refused.
    """
    limits = Limits(
        _amount(older_than, _SECONDS, "--older-than", "30d, 12h, 90m") if older_than else None,
        int(_amount(max_size, _BYTES, "--max-size", "20GB, 500MB, 1.5GiB")) if max_size else None,
    )
    folder = folder_of(cache_dir)
    if name is not None:
        refuse_unknown(folder, name)
    found = Collection(folder, LocalFiles(), name)
    found.choose(limits)
    freed = found.freed_bytes() if dry_run else found.collect()
    if as_json:
        show_json(
            {
                "cache_dir": str(folder),
                "dry_run": dry_run,
                "dropped": [
                    {
                        "pipeline": one.pipeline,
                        "run": one.part.run,
                        "ended": _when(one.part.seconds),
                        "bytes": one.size_bytes,
                    }
                    for one in found.dropped
                ],
                "answers_dropped": found.answers_dropped,
                "freed_bytes": freed,
                "bytes_before": found.size_bytes,
                "left_alone": [
                    {"pipeline": pipeline, "reason": reason} for pipeline, reason in found.refused
                ],
            }
        )
        return
    _tell(found, freed, dry_run=dry_run)


def _tell(found: Collection, freed: int, *, dry_run: bool) -> None:
    if found.dropped:
        shown = table("pipeline", "run", "ended", "size", right=(3,))
        for one in found.dropped:
            when = _when(one.part.seconds)
            shown.add_row(Text(one.pipeline), one.part.run[:8], when, size(one.size_bytes))
        show(shown)
    would = "would be " if dry_run else ""
    runs, answers = len(found.dropped), found.answers_dropped
    show(
        f"{runs:,} run{'' if runs == 1 else 's'} and {answers:,} answer"
        f"{'' if answers == 1 else 's'} of the memo {would}dropped, {size(freed)} of "
        f"{size(found.size_bytes)} {would}freed"
    )
    for pipeline, reason in found.refused:
        show(f"left alone, and the memo with it: {pipeline}: {reason}")


def pin(wanted: str, cache_dir: Path | None, *, pinned: bool, as_json: bool) -> None:
    """Pin or unpin a pipeline or a run.

    Raises:
        UsageError: There is no such pipeline or run.
        StorageError: The disk refused.
    """
    folder = folder_of(cache_dir)
    name, run = _resolved(folder, wanted)
    root, files = store_root(folder, name), LocalFiles()
    pins = read_pins(root, files)
    runs = dict.fromkeys(pins.runs)
    if run is None:
        pins = type(pins)(pinned, pins.runs if pinned else ())
    elif pinned:
        pins = type(pins)(pins.everything, (*dict.fromkeys((*runs, run)),))
    elif pins.everything:
        raise UsageError(f"all runs of {name!r} are pinned: `asyncdistil cache unpin {name}`")
    else:
        pins = type(pins)(False, tuple(one for one in runs if one != run))
    try:
        write_pins(root, pins, files)
    except OSError as error:
        raise StorageError(
            f"{pins_path(root)} can't be written ({error.strerror}): nothing is changed"
        ) from error
    if as_json:
        show_json(
            {
                "pipeline": name,
                "everything": pins.everything,
                "runs": list(pins.runs),
                "file": str(pins_path(root)),
            }
        )
        return
    what = f"pipeline {name}" if run is None else f"run {run[:8]} of {name}"
    show(f"{what} is {'pinned' if pinned else 'no longer pinned'} ({pins_path(root)})")


def show_runs(name: str, cache_dir: Path | None, *, as_json: bool) -> None:
    """List the runs of a pipeline: what each needs, and what would go with it.

    Raises:
        UsageError: Nothing of this name is stored.
    """
    folder = folder_of(cache_dir)
    refuse_unknown(folder, name)
    survey = Survey(store_root(folder, name), name, LocalFiles())
    rows = [_run_row(survey, share) for share in survey.shares()]
    if as_json:
        show_json({"pipeline": name, "bytes": survey.size_bytes, "runs": rows})
        return
    shown = table(
        "run",
        "ended",
        "how it ended",
        "rows",
        "reused",
        "frees",
        "again",
        "pin",
        right=(3, 4, 5),
    )
    for row in rows:
        shown.add_row(
            row["run"][:8],
            row["ended"][:16].replace("T", " "),
            Text(row["how"]),
            f"{row['rows']:,}",
            f"{row['commits_of_earlier_runs']:,} of {row['commits']:,}",
            size(row["bytes_only_here"]),
            row["again"],
            "pinned" if row["pinned"] else "",
        )
    show(shown)
    show(f"{size(survey.size_bytes)} in all")


def _run_row(survey: Survey, share: Share) -> dict[str, Any]:
    part = share.part
    return {
        "run": part.run,
        "ended": _when(part.seconds),
        "how": _how(part.end),
        "commits": share.commits,
        "commits_of_earlier_runs": share.reused,
        "rows": share.rows,
        "bytes_only_here": share.alone_bytes,
        "dataset_bytes": share.export_bytes,
        "again": _again(survey, share),
        "pinned": share.pinned,
    }


def _again(survey: Survey, share: Share) -> str:
    """What the same pipeline would find of it."""
    end = share.part.end
    if end is None or not end.completed:
        return "finished batches"
    if end.failed:
        return "all but failed rows"
    return "complete hit" if share.export_bytes else "rows, dataset written anew"


def _how(end: RunEnd | None) -> str:
    if end is None:
        return "did not end"
    if end.completed:
        return f"completed, {end.failed:,} rows failed" if end.failed else "completed"
    return "stopped"


def _when(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def _amount(text: str, units: dict[str, int], option: str, such_as: str) -> float:
    found = _AMOUNT.fullmatch(text.strip().lower())
    if found is None or found[2] not in units:
        raise UsageError(f"{option} can't be {text!r}: write a number and a unit, as {such_as}")
    return float(found[1]) * units[found[2]]


def _resolved(folder: Path, wanted: str) -> tuple[str, RunId | None]:
    """The pipeline that is meant, and the run if one is."""
    names = names_in(folder)
    if wanted in names:
        return wanted, None
    name, at, run = wanted.rpartition("@")
    candidates = [name] if at and name in names else names
    begins = run if at and name in names else wanted
    found = {
        (candidate, one)
        for candidate in candidates
        for one in _runs(folder, candidate)
        if len(begins) >= SHORTEST_ID and one.startswith(begins)
    }
    if len(found) > 1:
        raise UsageError(f"{wanted!r} is how {len(found)} runs begin: name more of the id")
    if not found:
        refuse_unknown(folder, wanted)
    return found.pop()


def _runs(folder: Path, name: str) -> set[RunId]:
    reader = StoreReader.open(folder, name)
    if reader is None:
        return set()
    with closing(reader):
        return {begin.run for begin, _ in reader.runs()}
