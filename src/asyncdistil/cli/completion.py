"""What a shell offers behind Tab: names of stored pipelines."""

from __future__ import annotations

from collections.abc import Iterator


def stored_names(incomplete: str) -> Iterator[str]:
    """Pipelines of the usual cache directory whose names begin so; silent if it can't be read.

    Args:
        incomplete: What was typed.
    """
    from asyncdistil.cli.stored import folder_of
    from asyncdistil.errors import AsyncDistilError
    from asyncdistil.log import stores

    try:
        found = stores(folder_of(None))
    except AsyncDistilError:
        return
    for _, name in found:
        # A name that a terminal would obey is for typing by hand.
        if name is not None and name.startswith(incomplete) and name.isprintable():
            yield name
