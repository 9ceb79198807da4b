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
from xxhash import xxh3_128_digest

from asyncdistil.batch import FRESH_ORIGINS, Digest, RunId, StepName
from asyncdistil.codec import encode_rows
from asyncdistil.errors import FormatError, StorageError
from asyncdistil.log import LocalFiles, SegmentWriter, Store, saved
from asyncdistil.log.checking import check
from asyncdistil.log.events import Commit, Emit, RunBegin, RunEnd, StepDef
from asyncdistil.log.pack import PackReader, PackWriter
from asyncdistil.log.portable import portable, write_store
from asyncdistil.log.saved import Misnamed, read_saved, take_in_saved, write_saved
from asyncdistil.testing.faults import small_reserve

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


def run_of_one_step(cache: Path) -> Path:
    """The store of a run whose only step made three rows."""
    with small_reserve():
        store = Store.open(cache, "p")
    segment, fd = store.create_segment(LINEAGE)
    refs = SegmentWriter(fd, segment, store.id).append(
        encode_rows([{"n": n} for n in range(3)], step="work")
    )
    key = Digest(b"k" * 16)
    file = f"exports/{RUN}/{'b' * 32}-0.arrow"
    (store.root / file).parent.mkdir(parents=True)
    (store.root / file).write_bytes(b"rows")
    emitted = ((file, Digest(xxh3_128_digest(b"rows"))),)
    store.append([RunBegin(RUN, "sig", "agg", b"", 1.0, False, (LINEAGE,)), *DEFINED])
    store.append([Commit(RUN, LINEAGE, (), (key,), refs, FRESH_ORIGINS)])
    store.append([Emit(RUN, key, StepName("work"), "default", emitted, 3)])
    store.append([RunEnd(RUN, True, key, 0, "", 2.0)])
    store.close(clean=True)
    return store.root


def exported(root: Path, target: Path, *, artifacts: bool = True) -> PackWriter:
    """A pack with everything in it; who called finishes it."""
    made = portable(root, "", FILES)
    pack = PackWriter(target)
    try:
        write_store(pack, made, FILES)
        if artifacts:
            write_saved(pack, made, FILES)
    except BaseException:
        pack.close()
        raise
    return pack


def finished(pack: PackWriter, root: Path, target: Path) -> PackReader:
    store_id = portable(root, "", FILES).history.store_id
    with closing(pack):
        pack.finish(pipeline="p", run=RUN, store_id=store_id)
    return PackReader(target)


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


def test_a_run_without_artifacts_makes_a_pack_without_them(tmp_path: Path) -> None:
    root = run_of_one_step(tmp_path / "cache")
    stray = root / "artifacts" / RUN / "work" / "stray"
    stray.parent.mkdir(parents=True)
    stray.write_text("no step saves a file here")
    path = tmp_path / "pack"
    with closing(finished(exported(root, path), root, path)) as pack:
        assert [name for name in pack.names() if name.startswith("artifacts")] == []
        assert check(pack).saved == {}


def test_a_link_among_the_files_of_an_artifact_is_told_and_nothing_is_packed(
    tmp_path: Path,
) -> None:
    root = run_of_one_step(tmp_path / "cache")
    link = root / "artifacts" / RUN / "work" / "index" / "link"
    link.parent.mkdir(parents=True)
    link.symlink_to("/etc/hostname")
    with pytest.raises(StorageError, match="link, which a step saved, can't be packed"):
        exported(root, tmp_path / "pack")
    assert not (tmp_path / "pack").exists()


def test_a_pack_with_a_list_of_files_that_leads_elsewhere_is_refused_whole(tmp_path: Path) -> None:
    root, path = run_of_one_step(tmp_path / "cache"), tmp_path / "pack"
    pack = exported(root, path, artifacts=False)
    pack.add("artifacts", [hexed([f"{RUN}/work/../../../x"])])
    pack.add("artifacts/0000000000", [b"hostile"])
    with closing(finished(pack, root, path)) as reader:
        with pytest.raises(FormatError, match="has a name that leads elsewhere"):
            check(reader)


def test_a_list_that_would_fill_the_memory_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(saved, "_MOST_INDEX_BYTES", 10)
    with closing(PackReader(packed(tmp_path / "pack", hexed(WHOLE), 2))) as pack:
        with pytest.raises(Misnamed, match="too large"):
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
