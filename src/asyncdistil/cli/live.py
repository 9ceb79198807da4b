"""``asyncdistil ui``: the page about a run, served on loopback while the run goes on."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import webbrowser
from pathlib import Path

from asyncdistil.cli.ending import show_json
from asyncdistil.cli.stored import folder_of, opened_run
from asyncdistil.report.live import LivePages

_NICER = 5


def serve(
    wanted: str | None, cache_dir: Path | None, *, port: int, browse: bool, as_json: bool
) -> None:
    """Serve until Ctrl-C.

    Args:
        wanted: A run as `opened_run` takes it, or a cache directory; ``None`` for all runs.
        cache_dir: Where to look.
        port: 0 for any free one.
        browse: Whether to open the page in a browser.
        as_json: Whether the address is printed as JSON.

    Raises:
        UsageError: Nothing of the name is stored.
        StorageError: The port is taken.
    """
    if sys.platform != "win32":
        # Whoever looks on gives way to the run.
        os.nice(_NICER)
    store, run = "", "newest"
    if wanted is not None and Path(wanted).is_dir():
        cache_dir = Path(wanted)
    elif wanted is not None:
        _, found = opened_run(wanted, cache_dir)
        with found:
            store = found.store.root.name
            # Of a pipeline, what runs next is of interest too; of a run, only that one.
            newest = found.begin.run == found.store.runs()[-1][0].run
            run = "newest" if newest else found.begin.run
    asyncio.run(_serve(folder_of(cache_dir), store, run, port, browse=browse, as_json=as_json))


async def _serve(
    folder: Path, store: str, run: str, port: int, *, browse: bool, as_json: bool
) -> None:
    pages = LivePages(folder)
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    if sys.platform != "win32":
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stopped.set)
    await pages.start(port)
    try:
        url = pages.address(store, run)
        if as_json:
            show_json({"url": url, "cache_dir": str(folder)})
        else:
            note = "Only this machine can open it, and only by this address. Ctrl-C ends it."
            print(f"{url}\n{note}", flush=True)
        if browse:
            webbrowser.open(url)
        await stopped.wait()
    finally:
        await pages.stop()
