"""Garbage of one store: which runs may go, what goes with them, and the act itself.

Whole runs are dropped, never parts of one: a kept run stays a complete hit, and of a dropped one
nothing stays that a later run could be misled by.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from asyncdistil.batch import RunId
from asyncdistil.errors import StorageError
from asyncdistil.log.failpoint import failpoint
from asyncdistil.log.files import Files
from asyncdistil.log.history import History, Place, RunPart, read_history
from asyncdistil.log.kept import Demand
from asyncdistil.log.names import commit_path
from asyncdistil.log.pins import Pins, read_pins
from asyncdistil.log.rewriting import Segment, copy_live, log_bytes, segments_of, write_log
from asyncdistil.log.store import Store

_SAVED = "artifacts"


class Share(NamedTuple):
    """One run in a store, for a person who decides.

    Attributes:
        part: The run.
        commits: Commits that it needs.
        rows: Rows of those.
        reused: How many of the commits are of earlier runs.
        alone_bytes: What goes if it goes alone.
        export_bytes: Its dataset files.
        pinned: Whether ``gc`` must leave it alone.
    """

    part: RunPart
    commits: int
    rows: int
    reused: int
    alone_bytes: int
    export_bytes: int
    pinned: bool


class Survey:
    """What a store holds and who needs it. Takes no lock; nothing is written.

    Attributes:
        root: Directory of the store.
        name: Of the pipeline, ``None`` if no label tells it.
        history: What its log says.
        demand: Who needs what; runs are dropped from it.
        pins: What must stay.
        size_bytes: Of all that may be collected: log, rows, datasets.
        dropped: Runs that are to go.
    """

    def __init__(self, root: Path, name: str | None, files: Files) -> None:
        """Read a store.

        Raises:
            CorruptRecord: It is damaged.
            StorageError: The disk refused.
        """
        self.root = root
        self.name = name
        self.history: History = read_history(root, files)
        self.demand = Demand(self.history)
        self.pins: Pins = read_pins(root, files)
        self.dropped: list[RunId] = []
        self._files = files
        self._beside = _beside(root, files)
        self._log_bytes = _size_of(files, *_commit_files(root, files))
        segments = self._segments()
        self.size_bytes = (
            self._log_bytes
            + sum(segment.size_bytes for segment in segments)
            + sum(size for sizes in self._beside.values() for size in sizes.values())
        )

    def droppable(self) -> list[RunPart]:
        """Runs that may go, oldest first."""
        return [
            run
            for run in self.demand.kept.values()
            if run.begin is not None and not self.pins.holds(run.run)
        ]

    def drop(self, run: RunId) -> int:
        """Decide that a run goes.

        Returns:
            Bytes that nobody needs any more; the disk may free a little fewer.
        """
        self.dropped.append(run)
        return self.demand.drop(run) + sum(self._beside.get(run, {}).values())

    def freed_bytes(self) -> int:
        """By how much less the disk will hold for what has been decided."""
        beside = sum(self._beside[run][path] for run, path in self.idle_files())
        rows = sum(segment.freed_bytes for segment in self._segments())
        if not self.rewrites():
            return beside + rows
        return beside + rows + max(self._log_bytes - log_bytes(self.demand.log()), 0)

    def idle_files(self) -> list[tuple[RunId, Path]]:
        """Files beside the log that belong to runs of which nothing is kept that needs them."""
        owners = {one.run for one in self.demand.commits}
        kept = self.demand.kept
        return [
            (run, path)
            for run, sizes in self._beside.items()
            for path in sizes
            # What steps saved hangs on the rows that they made, whichever run those serve now.
            if run not in kept
            and not (run in owners and path.parts[len(self.root.parts)] == _SAVED)
        ]

    def rewrites(self) -> bool:
        """Whether the log must be written anew."""
        return not self.demand.whole or any(segment.sparse for segment in self._segments())

    def shares(self) -> list[Share]:
        """The runs of the store, oldest first."""
        return [self._share(run) for run in self.demand.kept.values()]

    def _share(self, run: RunPart) -> Share:
        needed = self.demand.needed_by(run.run)
        mine = set(run.wrote)
        beside = self._beside.get(run.run, {})
        exports = sum(size for path, size in beside.items() if path.suffix == ".arrow")
        return Share(
            part=run,
            commits=len(needed),
            rows=sum(one.rows for one in needed),
            reused=sum(one.lsn not in mine for one in needed),
            alone_bytes=self.demand.alone(run.run) + sum(beside.values()),
            export_bytes=exports,
            pinned=self.pins.holds(run.run),
        )

    def _segments(self) -> list[Segment]:
        return segments_of(self.history, self.demand.records, self._files)


def collect(cache_dir: Path, name: str, runs: Collection[RunId], files: Files) -> int:
    """Drop runs from a store, and all that no other run needs.

    A run that was pinned meanwhile stays. Killed or cut from power at any moment, this loses
    nothing that is kept; doing it again finishes it.

    Returns:
        Bytes by which the disk holds less.

    Raises:
        StoreLocked: A run of that name goes on.
        CorruptRecord: The store is damaged; nothing was collected.
        StorageError: The disk refused; nothing that is kept is lost.
    """
    store = Store.open(cache_dir, name, files=files)
    rewritten = False
    try:
        survey = Survey(store.root, name, files)
        before = survey.size_bytes
        for run in survey.droppable():
            if run.run in runs:
                survey.drop(run.run)
        rewritten = survey.rewrites()
        _collect(survey, files, rewritten=rewritten)
        after = Survey(store.root, name, files).size_bytes
    except OSError as error:
        raise StorageError(
            f"{store.root} can't be collected ({error.strerror}); nothing that is kept is lost: "
            "see to the disk, then collect again"
        ) from error
    finally:
        # A log written anew has its checkpoint already, and ends where that says.
        store.close(clean=not rewritten)
    return max(before - after, 0)


def _collect(survey: Survey, files: Files, *, rewritten: bool) -> None:
    history, demand, root = survey.history, survey.demand, survey.root
    segments = segments_of(history, demand.records, files)
    sparse = [segment for segment in segments if segment.sparse]
    copied: set[Place] = set()
    old_logs = _commit_files(root, files)
    _unlink_all(_unfinished(root, files), files)
    if rewritten:
        moves = copy_live(history, sparse, files)
        copied.update(moves)
        write_log(history, demand.log(), moves, files)
        new_log = commit_path(root, history.next_number)
        _unlink_all([path for path in old_logs if path != new_log], files)
    _unlink_all([one.path for one in segments if copied.issuperset(one.live)], files)
    _unlink_all([path for _, path in survey.idle_files()], files)


def _unlink_all(paths: list[Path], files: Files) -> None:
    """Unlink files and make that durable; directories that are left empty go too."""
    for path in paths:
        files.unlink(path)
        failpoint("gc.after_unlink")
    for folder in dict.fromkeys(path.parent for path in paths):
        with suppress(FileNotFoundError):
            files.fsync_dir(folder)
        while folder.name != "commits" and not files.listdir(folder):
            # One that stays costs nothing.
            try:
                folder.rmdir()
            except OSError:
                break
            folder = folder.parent


def _commit_files(root: Path, files: Files) -> list[Path]:
    folder = root / "commits"
    return [folder / name for name in sorted(files.listdir(folder)) if name.endswith(".adc")]


def _unfinished(root: Path, files: Files) -> list[Path]:
    """Logs that a collection was killed over before they had their name."""
    folder = root / "commits"
    return [folder / name for name in files.listdir(folder) if name.endswith(".tmp")]


def _beside(root: Path, files: Files) -> dict[RunId, dict[Path, int]]:
    """Bytes of every file that lies beside the log for one run: datasets, what steps saved."""
    found: dict[RunId, dict[Path, int]] = {}
    for top in ("exports", _SAVED, "runs"):
        for run in files.listdir(root / top):
            paths = _files_below(root / top / run, files)
            sizes = {path: _size_of(files, path) for path in paths}
            found.setdefault(RunId(run), {}).update(sizes)
    return found


def _files_below(path: Path, files: Files) -> Iterator[Path]:
    """Files in a directory and in all below it; links are not followed."""
    try:
        names = [] if path.is_symlink() else files.listdir(path)
    except NotADirectoryError:
        names = []
    if not names and (path.is_symlink() or not path.is_dir()):
        yield path
    for name in sorted(names):
        yield from _files_below(path / name, files)


def _size_of(files: Files, *paths: Path) -> int:
    total = 0
    for path in paths:
        with suppress(OSError):
            fd = files.open_read(path)
            try:
                total += files.size(fd)
            finally:
                files.close(fd)
    return total
