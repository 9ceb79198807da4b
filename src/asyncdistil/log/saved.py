"""What steps saved beside their rows, in a pack.

| member | content |
|---|---|
| ``artifacts`` | JSON list of paths below ``artifacts/`` of the store, UTF-8 in hex, ascending |
| ``artifacts/<number>`` | content of the file of that number in the list, from 0 |

A path is run, step, artifact and then what the step called its file. Whoever takes files in holds
every part of it to be a name, and the first two to a commit that the pack holds. An artifact is
whole if it has its ``metadata.json``, which is put in place last.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby, pairwise
from pathlib import Path
from typing import TypeAlias

import msgspec

from asyncdistil.batch import Digest, RunId, StepName
from asyncdistil.errors import StorageError
from asyncdistil.log.events import StepDef
from asyncdistil.log.failpoint import failpoint
from asyncdistil.log.files import Files, make_durable_dir, write_anew
from asyncdistil.log.pack import PackReader, PackWriter
from asyncdistil.log.portable import Portable

INDEX = "artifacts"

_FOLDER = "artifacts"
_LAST = "metadata.json"
_PIECE_BYTES = 1 << 20
_MOST_INDEX_BYTES = 64 << 20
_MOST_PARTS = 64
_MOST_NAME_BYTES = 255
_ARTIFACT_PARTS = 3

Parts: TypeAlias = tuple[str, ...]


class Misnamed(ValueError):
    """A list of files that no export writes; the text says why."""


def write_saved(pack: PackWriter, made: Portable, files: Files) -> int:
    """Put the artifacts of the steps and runs that a dataset hangs on into a pack.

    Returns:
        How many artifacts there are.

    Raises:
        StorageError: The disk refused, or a link lies among the files.
    """
    root = made.history.root / _FOLDER
    names = {event.lineage: event.step for event in made.demand.log() if isinstance(event, StepDef)}
    paths = sorted(
        path
        for run, step in _workers(((one.run, one.lineage) for one in made.demand.commits), names)
        for artifact in files.listdir(root / run / step)
        if not artifact.startswith(".")
        for path in _below(root, (run, step, artifact), files)
    )
    if paths:
        listed = ["/".join(path).encode("utf-8", "surrogateescape").hex() for path in paths]
        pack.add(INDEX, [msgspec.json.encode(listed)])
    for number, path in enumerate(paths):
        pack.add(_member(number), _content(root.joinpath(*path), files))
    return len({path[:_ARTIFACT_PARTS] for path in paths})


def _workers(
    work: Iterator[tuple[RunId, Digest]], names: Mapping[Digest, StepName]
) -> set[tuple[str, str]]:
    """Runs that worked on a step, with the name of the step."""
    return {(run, names[lineage]) for run, lineage in set(work) if lineage in names}


def _below(root: Path, path: Parts, files: Files) -> Iterator[Parts]:
    """Files of an artifact; a link counts as one, and is refused when it is read."""
    place = root.joinpath(*path)
    if place.is_dir() and not place.is_symlink():
        for name in files.listdir(place):
            yield from _below(root, (*path, name), files)
    elif len(path) > _ARTIFACT_PARTS:
        yield path


def _content(path: Path, files: Files) -> Iterator[bytes]:
    try:
        fd, at = files.open_read(path), 0
        try:
            while piece := files.pread(fd, _PIECE_BYTES, at):
                at += len(piece)
                yield piece
        finally:
            files.close(fd)
    except OSError as error:
        raise StorageError(
            f"{path}, which a step saved, can't be packed ({error.strerror}): see to it, or put a"
            " file in the place of a link, then export again"
        ) from error


def _member(number: int) -> str:
    return f"{INDEX}/{number:010d}"


# --- taking in ------------------------------------------------------------------------------------


def read_saved(
    pack: PackReader,
    work: Iterator[tuple[RunId, Digest]],
    definitions: Sequence[StepDef],
) -> dict[Parts, str]:
    """Read and check the list of files of a pack.

    Args:
        pack: Its bytes are verified.
        work: Run and lineage of every commit in it.
        definitions: Of its steps.

    Returns:
        Path below ``artifacts/`` to member.

    Raises:
        Misnamed: The list is not what an export writes.
    """
    paths = [_parts(text) for text in _listed(pack)]
    members = [name for name in pack.names() if name.startswith(f"{INDEX}/")]
    if members != [_member(number) for number in range(len(paths))]:
        raise Misnamed("it does not hold the files of artifacts that it lists")
    if any(one >= other for one, other in pairwise(paths)):
        raise Misnamed("its files of artifacts are not in order")
    found = dict(zip(paths, members, strict=True))
    if any(path[:length] in found for path in paths for length in range(1, len(path))):
        raise Misnamed("a file of an artifact is a folder too")
    known = _workers(work, {each.lineage: each.step for each in definitions})
    for path in {path[:_ARTIFACT_PARTS] for path in paths}:
        if path[:2] not in known:
            raise Misnamed("an artifact is of a step that did not work")
        if (*path, _LAST) not in found:
            raise Misnamed("an artifact is not whole")
    return found


def _listed(pack: PackReader) -> list[str]:
    size = pack.size(INDEX)
    if size > _MOST_INDEX_BYTES:
        raise Misnamed("its list of artifacts is too large")
    try:
        data = pack.part(INDEX, 0, size) if size else b"[]"
        return msgspec.json.decode(data, type=list[str])
    except msgspec.MsgspecError as error:
        raise Misnamed(f"its list of artifacts can't be read ({error})") from None


def _parts(text: str) -> Parts:
    """A path as names, none of which leads anywhere else."""
    try:
        names = bytes.fromhex(text).split(b"/")
    except ValueError:
        raise Misnamed("a file of an artifact has no name") from None
    good = _ARTIFACT_PARTS < len(names) <= _MOST_PARTS and all(
        0 < len(name) <= _MOST_NAME_BYTES and name not in {b".", b".."} and b"\0" not in name
        for name in names
    )
    if not good or names[_ARTIFACT_PARTS - 1].startswith(b"."):
        raise Misnamed("a file of an artifact has a name that leads elsewhere")
    return tuple(name.decode("utf-8", "surrogateescape") for name in names)


def take_in_saved(saved: Mapping[Parts, str], pack: PackReader, root: Path, files: Files) -> int:
    """Put artifacts into a store, before anything there relies on them.

    One that is there already is left alone.

    Args:
        saved: As `read_saved` gave it.
        pack: Holds the contents.
        root: Directory of the store.
        files: The disk.

    Returns:
        How many artifacts were written.

    Raises:
        OSError: The disk refused.
        StorageError: A link or a file is in the place of a directory.
    """
    written = 0
    for artifact, paths in groupby(sorted(saved), key=lambda path: path[:_ARTIFACT_PARTS]):
        folder = root.joinpath(_FOLDER, *artifact)
        _make(files, root, (_FOLDER, *artifact))
        if files.exists(folder / _LAST):
            continue
        written += 1
        last = (*artifact, _LAST)
        for path in paths:
            if path != last:
                place = root.joinpath(_FOLDER, *path)
                _make(files, root, (_FOLDER, *path[:-1]))
                write_anew(files, place, pack.pieces(saved[path]))
                files.fsync_dir(place.parent)
        draft = folder / f".{_LAST}.part"
        write_anew(files, draft, pack.pieces(saved[last]))
        files.replace(draft, folder / _LAST)
        files.fsync_dir(folder)
        failpoint("import.after_artifact")
    return written


def _make(files: Files, root: Path, names: Parts) -> None:
    """Make directories one in the other; none of them may be a link."""
    place = root
    for name in names:
        place /= name
        make_durable_dir(files, place)
