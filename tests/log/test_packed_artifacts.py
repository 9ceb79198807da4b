"""Files that steps saved, in packs: named by nobody but an export, and never written over."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncdistil.batch import Digest, RunId, StepName
from asyncdistil.errors import StorageError
from asyncdistil.log import LocalFiles
from asyncdistil.log.events import StepDef
from asyncdistil.log.pack import PackReader, PackWriter
from asyncdistil.log.saved import Misnamed, read_saved, take_in_saved

RUN, LINEAGE = RunId("1" * 32), Digest(b"s" * 16)
DEFINED = [StepDef(LINEAGE, StepName("work"), b"1")]
FILES = LocalFiles()
WHOLE = [f"{RUN}/work/index/metadata.json", f"{RUN}/work/index/part"]


def packed(target: Path, listed: Any, contents: int) -> Path:
    with closing(PackWriter(target)) as pack:
        pack.add("log", [])
        if listed is not None:
            pack.add("artifacts", [listed])
        for number in range(contents):
            pack.add(f"artifacts/{number:010d}", [b"%d" % number])
        pack.finish(pipeline="p", run=RUN, store_id=bytes(16))
    return target


def hexed(paths: Sequence[str | bytes]) -> bytes:
    raw = [path if isinstance(path, bytes) else path.encode() for path in paths]
    return msgspec.json.encode([path.hex() for path in raw])


def read(pack: PackReader) -> dict[tuple[str, ...], str]:
    return read_saved(pack, iter([(RUN, LINEAGE)]), DEFINED)


HOSTILE: dict[str, tuple[Any, int]] = {
    "a path upwards": (hexed([*WHOLE, f"{RUN}/work/index/../../../../x"]), 3),
    "an absolute path": (hexed(["/etc/passwd/x/y", *WHOLE]), 3),
    "an empty name": (hexed([f"{RUN}/work//metadata.json", *WHOLE]), 3),
    "a name with a zero": (hexed([*WHOLE, f"{RUN}/work/index/q\0"]), 3),
    "a name of this folder": (hexed([f"{RUN}/work/index/.", *WHOLE]), 3),
    "a name that is too long": (hexed([*WHOLE, f"{RUN}/work/index/{'q' * 256}"]), 3),
    "a path without end": (hexed([f"{RUN}/work/index/{'a/' * 70}a", *WHOLE]), 3),
    "too short a path": (hexed([f"{RUN}/work/metadata.json"]), 1),
    "a draft": (hexed([f"{RUN}/work/.index/metadata.json"]), 1),
    "another run": (hexed([f"{'2' * 32}/work/index/metadata.json"]), 1),
    "another step": (hexed([f"{RUN}/other/index/metadata.json"]), 1),
    "an artifact that is not whole": (hexed([f"{RUN}/work/index/part"]), 1),
    "a file that is a folder": (hexed([*WHOLE, f"{RUN}/work/index/part/x"]), 3),
    "a file twice": (hexed([WHOLE[0], *WHOLE]), 3),
    "files out of order": (hexed(WHOLE[::-1]), 2),
    "less than is listed": (hexed(WHOLE), 1),
    "more than is listed": (hexed(WHOLE), 3),
    "files without a list": (None, 2),
    "a list of something else": (b"[1]", 1),
    "no hex": (b'["xy"]', 1),
    "no list": (b"{", 1),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_list_of_files_that_no_export_writes_is_refused(tmp_path: Path, what: str) -> None:
    with closing(PackReader(packed(tmp_path / "pack", *HOSTILE[what]))) as pack:
        with pytest.raises(Misnamed):
            read(pack)


@given(st.lists(st.lists(st.sampled_from(["..", ".", "", "a", "\0", RUN, "work"]), max_size=6)))
def test_no_drawn_path_leads_out_of_the_artifacts(
    tmp_path_factory: pytest.TempPathFactory, paths: list[list[str]]
) -> None:
    folder = tmp_path_factory.mktemp("drawn")
    made = packed(folder / "pack", hexed(["/".join(path) for path in paths]), len(paths))
    with closing(PackReader(made)) as pack:
        try:
            found = read(pack)
        except Misnamed:
            return
    top = str(folder / "artifacts")
    assert all(os.path.normpath(folder.joinpath("artifacts", *p)).startswith(top) for p in found)


def test_an_artifact_that_is_there_is_left_alone_and_half_of_one_is_made_anew(
    tmp_path: Path,
) -> None:
    names = [
        *WHOLE,
        f"{RUN}/work/other/metadata.json",
        f"{RUN}/work/other/\udcff".encode("utf-8", "surrogateescape"),
    ]
    half = tmp_path / "artifacts" / WHOLE[1]
    half.parent.mkdir(parents=True)
    half.write_text("cut sh")
    with closing(PackReader(packed(tmp_path / "pack", hexed(names), 4))) as pack:
        found = read(pack)
        assert take_in_saved(found, pack, tmp_path, FILES) == 2
        assert half.read_text() == "1"
        half.write_text("mine")
        assert take_in_saved(found, pack, tmp_path, FILES) == 0
    assert half.read_text() == "mine"
    assert len([path for path in (tmp_path / "artifacts").rglob("*") if path.is_file()]) == 4


@pytest.mark.parametrize("depth", [0, 1, 2, 3])
def test_a_link_in_the_place_of_a_directory_is_not_followed(tmp_path: Path, depth: int) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    store = tmp_path / "store"
    parts = ("artifacts", RUN, "work", "index")
    place = store.joinpath(*parts[: depth + 1])
    place.parent.mkdir(parents=True)
    place.symlink_to(outside)
    with closing(PackReader(packed(tmp_path / "pack", hexed(WHOLE), 2))) as pack:
        with pytest.raises(StorageError, match="not a directory but a link"):
            take_in_saved(read(pack), pack, store, FILES)
    assert list(outside.iterdir()) == []
