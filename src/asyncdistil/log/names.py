"""Where things lie in a cache directory. Names given by users never become paths."""

from __future__ import annotations

from pathlib import Path

from xxhash import xxh3_128_hexdigest


def name_digest(name: str) -> str:
    """Directory name of a pipeline: 32 hex digits of XXH3-128 over its UTF-8."""
    return xxh3_128_hexdigest(name.encode("utf-8", "surrogatepass"))


def store_root(cache_dir: Path, name: str) -> Path:
    """Directory that holds everything of one pipeline name."""
    return cache_dir / "pipelines" / name_digest(name)


def commit_path(root: Path, number: int) -> Path:
    """A commit-log file."""
    return root / "commits" / f"{number:010d}.adc"
