"""The file that carries a dataset from one machine to another: a plain tar, checked to the byte.

```text
member, member, ..., MANIFEST.json, SHA256, two empty blocks
```

Every member is a regular file with a header that says nothing but name and size, so equal content
makes equal bytes. The manifest holds the SHA-256 of every member, and the last member that of all
bytes before itself. These find damage; they prove nothing about who made the file, which only a
SHA-256 of the whole that comes by another way can.

A pack comes from anywhere. So its headers are read here, not by a library that knows links, sparse
files and extended headers: a header that is not the very one that we would write is refused.
"""

from __future__ import annotations

import os
import re
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO, NamedTuple

import msgspec

from asyncdistil.errors import CorruptRecord, FormatError, StorageError

FORMAT = "asyncdistil-pack/1"
MANIFEST = "MANIFEST.json"
DIGEST = "SHA256"
MODE = 0o600

_BLOCK = tarfile.BLOCKSIZE
_END = bytes(2 * _BLOCK)
_PIECE_BYTES = 1 << 20
_MOST_MANIFEST_BYTES = 64 << 20
_NAME = re.compile(
    r"(log|memo|MANIFEST\.json|SHA256|rows/\d{10}|artifacts(/\d{10})?"
    r"|datasets/[0-9a-f]{32}-\d{1,10}\.arrow)"
)


class Member(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A member as the manifest has it."""

    name: str
    bytes: int
    sha256: str


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a pack says of itself.

    Attributes:
        format: `FORMAT`.
        pipeline: Name of the pipeline, UTF-8 in hex, since a name may be any text.
        run: Id of the run that made the dataset.
        store: Id of the store that it was taken from, hex; seeds the hashes of its records.
        members: Those before the manifest, in order.
    """

    format: str
    pipeline: str
    run: str
    store: str
    members: tuple[Member, ...]


class PackWriter:
    """Writes a pack under another name and gives it its own when it is whole."""

    def __init__(self, path: Path) -> None:
        """Begin.

        Raises:
            StorageError: It can't be written, or something is there already.
        """
        self._path = path
        self._scratch = path.with_name(f"{path.name}.part")
        self._members: list[Member] = []
        if os.path.lexists(path):
            raise StorageError(f"{path} is there already: name another file")
        with _refused(path), suppress(FileNotFoundError):
            self._scratch.unlink()
        with _refused(path):
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
            self._file: BinaryIO = os.fdopen(os.open(self._scratch, flags, MODE), "w+b")

    def add(self, name: str, pieces: Iterable[bytes]) -> None:
        """Write a member.

        Raises:
            StorageError: The disk refused.
        """
        assert _NAME.fullmatch(name), name
        file, digest, size = self._file, sha256(), 0
        with _refused(self._path):
            start = file.tell()
            file.write(bytes(_BLOCK))
            for piece in pieces:
                file.write(piece)
                digest.update(piece)
                size += len(piece)
            file.write(bytes(-size % _BLOCK))
            file.seek(start)
            file.write(_header(name, size))
            file.seek(0, os.SEEK_END)
        self._members.append(Member(name, size, digest.hexdigest()))

    def finish(self, *, pipeline: str, run: str, store_id: bytes) -> str:
        """Write the manifest and give the file its name.

        Returns:
            SHA-256 of the whole file, to be handed on by another way than the file.

        Raises:
            StorageError: The disk refused.
        """
        file = self._file
        with _refused(self._path):
            manifest = Manifest(
                FORMAT,
                pipeline.encode("utf-8", "surrogatepass").hex(),
                run,
                store_id.hex(),
                tuple(self._members),
            )
            file.write(_member(MANIFEST, msgspec.json.format(msgspec.json.encode(manifest))))
            digest = _sha256_of(file, file.tell())
            file.write(_member(DIGEST, f"{digest}\n".encode()) + _END)
            file.flush()
            os.fsync(file.fileno())
            whole = _sha256_of(file, file.tell())
            os.replace(self._scratch, self._path)
        return whole

    def close(self) -> None:
        """Close the file; one that was not finished is removed."""
        self._file.close()
        with suppress(OSError):
            self._scratch.unlink()


class _Place(NamedTuple):
    """Where the content of a member lies."""

    start: int
    size: int


class PackReader:
    """A pack whose every byte has been verified.

    Attributes:
        path: Of the file.
        manifest: What it says of itself.
        sha256: Of the whole file.
    """

    def __init__(self, path: Path, *, expected_sha256: str = "") -> None:
        """Open a pack and verify all of it.

        Args:
            path: Of the file.
            expected_sha256: Of the whole file, if it is known; hex.

        Raises:
            FormatError: It is no pack, or one of a newer format.
            CorruptRecord: It is damaged, or not the file that was expected.
            StorageError: It can't be read.
        """
        self.path = path
        with _refused(path, act="read"):
            # Small: it seeks from header to header, and reads content in pieces larger than any.
            self._file = path.open("rb", buffering=4096)
        try:
            with _refused(path, act="read"):
                self._verify(expected_sha256.strip().lower())
        except BaseException:
            self.close()
            raise

    def names(self) -> Sequence[str]:
        """Names of the members, in order."""
        return [member.name for member in self.manifest.members]

    def pieces(self, name: str) -> Iterator[bytes]:
        """Content of a member, piece by piece."""
        place = self._places[name]
        done = 0
        while done < place.size:
            self._file.seek(place.start + done)
            piece = self._file.read(min(_PIECE_BYTES, place.size - done))
            if not piece:
                raise self._damaged("it ends too early")
            done += len(piece)
            yield piece

    def size(self, name: str) -> int:
        """Bytes of a member, 0 if there is none of this name."""
        place = self._places.get(name)
        return 0 if place is None else place.size

    def part(self, name: str, start: int, size: int) -> bytes:
        """Bytes of a member; fewer if it ends before."""
        place = self._places[name]
        self._file.seek(place.start + start)
        return self._file.read(max(min(size, place.size - start), 0))

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    # --- verifying ---------------------------------------------------------------------------

    def _verify(self, expected_sha256: str) -> None:
        file = self._file
        total = file.seek(0, os.SEEK_END)
        self.sha256 = _sha256_of(file, total)
        if expected_sha256 and self.sha256 != expected_sha256:
            raise self._damaged(f"its SHA-256 is {self.sha256}, not the one that was asked for")
        self._places = self._walk(total)
        places = list(self._places.items())
        if [name for name, _ in places[-2:]] != [MANIFEST, DIGEST]:
            raise self._foreign("it does not end with a manifest and a SHA-256")
        (_, manifest), (_, digest) = places[-2:]
        before = _sha256_of(file, digest.start - _BLOCK)
        if self.part(DIGEST, 0, digest.size) != f"{before}\n".encode():
            raise self._damaged("its bytes are not those that its SHA-256 was made of")
        self.manifest = self._read_manifest(manifest)
        self._compare(places[:-2])

    def _walk(self, total: int) -> dict[str, _Place]:
        """Members by name; every header is the one that we would have written."""
        found: dict[str, _Place] = {}
        at = 0
        while True:
            self._file.seek(at)
            block = self._file.read(_BLOCK)
            if block == bytes(_BLOCK):
                if at + len(_END) != total or self._file.read(_BLOCK) != bytes(_BLOCK):
                    raise self._foreign(f"bytes stand behind its end at offset {at}")
                return found
            name, size = self._header(block, at)
            place = _Place(at + _BLOCK, size)
            at = place.start + size + (-size % _BLOCK)
            if name in found:
                raise self._foreign(f"two members are called {name!r}")
            if at > total - len(_END):
                raise self._damaged(f"it ends within its member {name!r}")
            self._file.seek(place.start + size)
            if self._file.read(-size % _BLOCK).strip(b"\0"):
                raise self._foreign(f"bytes stand behind its member {name!r}")
            found[name] = place

    def _header(self, block: bytes, at: int) -> tuple[str, int]:
        try:
            info = tarfile.TarInfo.frombuf(block, "ascii", "strict")
            known = _NAME.fullmatch(info.name) is not None and info.size >= 0
            same = known and _header(info.name, info.size) == block
        except (tarfile.HeaderError, UnicodeError, ValueError):
            same = False
        if not same:
            raise self._foreign(f"no header that an export writes stands at offset {at}")
        return info.name, info.size

    def _read_manifest(self, place: _Place) -> Manifest:
        if place.size > _MOST_MANIFEST_BYTES:
            raise self._foreign("its manifest is too large")
        self._file.seek(place.start)
        data = self._file.read(place.size)
        try:
            told = msgspec.json.decode(data, type=_Format)
            if told.format != FORMAT:
                raise self._foreign(
                    f"it is of format {told.format!r}, this asyncdistil reads {FORMAT!r}"
                )
            return msgspec.json.decode(data, type=Manifest)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise self._foreign(f"its manifest can't be understood ({error})") from None

    def _compare(self, places: list[tuple[str, _Place]]) -> None:
        manifest = self.manifest
        told = [(member.name, member.bytes) for member in manifest.members]
        if told != [(name, place.size) for name, place in places]:
            raise self._damaged("its members are not those of its manifest")
        for member in manifest.members:
            digest = sha256()
            for piece in self.pieces(member.name):
                digest.update(piece)
            if digest.hexdigest() != member.sha256:
                raise self._damaged(f"its member {member.name!r} has another SHA-256")

    def _foreign(self, reason: str) -> FormatError:
        return FormatError(
            f"{self.path} is not a pack that can be taken in: {reason}. Nothing was taken in; get "
            "a file that `asyncdistil cache export` wrote, or upgrade asyncdistil"
        )

    def _damaged(self, reason: str) -> CorruptRecord:
        return CorruptRecord(
            f"{self.path} is damaged: {reason}. Nothing was taken in; get the file again",
            path=str(self.path),
        )


class _Format(msgspec.Struct):
    """As much of a manifest as every format has."""

    format: str


def _header(name: str, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size = size
    info.mode = MODE
    return info.tobuf(tarfile.GNU_FORMAT, "ascii", "strict")


def _member(name: str, content: bytes) -> bytes:
    return _header(name, len(content)) + content + bytes(-len(content) % _BLOCK)


def _sha256_of(file: BinaryIO, stop: int) -> str:
    """SHA-256 of a file's first bytes; leaves the file at ``stop``."""
    digest = sha256()
    file.seek(0)
    while (left := stop - file.tell()) > 0 and (piece := file.read(min(_PIECE_BYTES, left))):
        digest.update(piece)
    file.seek(stop)
    return digest.hexdigest()


@contextmanager
def _refused(path: Path, *, act: str = "written") -> Iterator[None]:
    """Turn errors of the disk into ours."""
    try:
        yield
    except OSError as error:
        raise StorageError(f"{path} can't be {act} ({error.strerror})") from error
