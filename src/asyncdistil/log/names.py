"""Where things lie in a cache directory. Names given by users never become paths."""

from __future__ import annotations

from contextlib import suppress
from functools import lru_cache
from pathlib import Path

from xxhash import xxh3_128_hexdigest

from asyncdistil.errors import StorageError

MEMO_ENDING = ".adm"
"""Of a file of the memo."""


def name_digest(name: str) -> str:
    """Directory name of a pipeline: 32 hex digits of XXH3-128 over its UTF-8."""
    return xxh3_128_hexdigest(name.encode("utf-8", "surrogatepass"))


def store_root(cache_dir: Path, name: str) -> Path:
    """Directory that holds everything of one pipeline name."""
    return cache_dir / "pipelines" / name_digest(name)


def memo_dir(cache_dir: Path) -> Path:
    """Directory of the memo that all pipelines of a cache directory share."""
    return cache_dir / "memo"


def label_store(root: Path, name: str) -> None:
    """Note the pipeline name in its store, for people who list a cache directory.

    Nothing depends on it, so it is not synced, and a disk that refuses it stops nothing.
    """
    text = name.encode("utf-8", "surrogatepass")
    path = root / "NAME"
    with suppress(OSError):
        if not path.exists() or path.read_bytes() != text:
            path.touch(mode=0o600)
            path.write_bytes(text)


def stores(cache_dir: Path) -> list[tuple[Path, str | None]]:
    """Stores of a cache directory, each with its pipeline name, ``None`` if no label tells it.

    Raises:
        StorageError: The directory can't be read.
    """
    folder = cache_dir / "pipelines"
    try:
        roots = sorted(path for path in folder.iterdir() if path.is_dir())
    except FileNotFoundError:
        return []
    except OSError as error:
        raise StorageError(
            f"{folder} can't be read ({error.strerror}); name another cache directory"
        ) from error
    return [(root, _label(root)) for root in roots]


def _label(root: Path) -> str | None:
    try:
        name = (root / "NAME").read_bytes().decode("utf-8", "surrogatepass")
    except (OSError, UnicodeDecodeError):
        return None
    # A label that was cut short, or copied along with a store, would name another one.
    return name if name_digest(name) == root.name else None


@lru_cache(maxsize=256)  # a recovery asks for the same few files again and again
def commit_path(root: Path, number: int) -> Path:
    """A commit-log file."""
    return root / f"commits/{number:010d}.adc"
