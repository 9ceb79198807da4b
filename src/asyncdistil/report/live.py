"""The page about a run while it goes on, served on loopback to whoever knows its address.

Stores are read as `StoredRun` reads them: without a lock, from any process. The page is made anew
only when a file of the log has grown, in a thread, and never more often than leaves most of a core
to others: reading a long log takes seconds, and the run it tells of has better uses for them.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import os
import re
import secrets
import time
from collections.abc import Awaitable, Callable
from contextlib import closing, suppress
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from aiohttp import web

from asyncdistil import __version__
from asyncdistil.errors import AsyncDistilError, StorageError
from asyncdistil.log import StoreReader, stores
from asyncdistil.log.events import RunBegin, RunEnd
from asyncdistil.log.holder import lock_holder
from asyncdistil.report.figures import figures_of, seconds_of, time_of
from asyncdistil.report.page import rendered, whole_page
from asyncdistil.supervisor.stored_run import StoredRun

_HOSTS = ("127.0.0.1", "localhost")
_LOOK_SECONDS = 0.5
_REST = 9
"""Rests per reading: at most a tenth of a core goes into making pages."""
_MOST_RUNS = 20
_STORE = re.compile(r"[0-9a-f]{32}")
_RUN = re.compile(r"newest|[0-9a-f]{4,32}")
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'unsafe-inline'; script-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(slots=True)
class _View:
    """A body that several readers may be shown.

    Attributes:
        title: Of the page.
        make: Makes it; called in a thread.
        mark: Tells what it depends on; cheap, and equal as long as nothing changed.
        body: What was made last.
        seen: What `mark` said then.
        rested_seconds: When it may be made again.
    """

    title: str
    make: Callable[[], str]
    mark: Callable[[], object]
    body: str = ""
    seen: object = None
    rested_seconds: float = 0.0
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def refresh(self) -> str:
        """Make it again if something changed and it has rested."""
        async with self.lock:
            if self.body and time.monotonic() < self.rested_seconds:
                return self.body
            mark = await asyncio.to_thread(self.mark)
            if not self.body or mark != self.seen:
                began = time.monotonic()
                self.body = await asyncio.to_thread(self.make)
                took = time.monotonic() - began
                self.seen, self.rested_seconds = mark, time.monotonic() + _REST * took
            return self.body


class LivePages:
    """Pages about the runs of a cache directory.

    Args:
        cache_dir: Where results are kept; need not exist yet.

    Attributes:
        port: Where it listens, once started.
    """

    def __init__(self, cache_dir: Path) -> None:
        self.port = 0
        self._cache_dir = cache_dir
        self._token = secrets.token_urlsafe(18)
        self._views: dict[tuple[str, str], _View] = {}
        self._closing = asyncio.Event()
        self._runner: web.AppRunner | None = None

    async def start(self, port: int = 0) -> None:
        """Listen on the loopback address.

        Args:
            port: 0 for any free one.

        Raises:
            StorageError: The port is taken.
        """
        app = web.Application(middlewares=[self._guarded])
        app.router.add_get("/{token}/", self._page)
        app.router.add_get("/{token}/live.js", self._script)
        app.router.add_get("/{token}/events", self._events)
        app.router.add_get("/{token}/run/{store}/{run}", self._page)
        app.router.add_get("/{token}/run/{store}/{run}/events", self._events)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await self._runner.setup()
        try:
            site = web.TCPSite(self._runner, _HOSTS[0], port)
            await site.start()
        except OSError as error:
            await self._runner.cleanup()
            raise StorageError(
                f"port {port} can't be listened on ({error.strerror}): name another --port, or "
                "none for a free one"
            ) from error
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """Tell the readers, then stop listening."""
        self._closing.set()
        if self._runner is not None:
            await self._runner.cleanup()

    def address(self, store: str = "", run: str = "newest") -> str:
        """URL of the list of runs, or of a run.

        Args:
            store: Name of the store's directory; empty for the list.
            run: Id of the run, or how it begins.
        """
        return f"http://{_HOSTS[0]}:{self.port}{self._path(store, run)}"

    def _path(self, store: str, run: str) -> str:
        return f"/{self._token}/run/{store}/{run}" if store else f"/{self._token}/"

    # --- requests ----------------------------------------------------------------------------

    @web.middleware
    async def _guarded(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
        """Refuse whoever came by another name or doesn't know the token."""
        # A page of elsewhere may have its own name resolve to this address: its Host says so.
        if request.headers.get("Host", "") not in {f"{host}:{self.port}" for host in _HOSTS}:
            raise web.HTTPForbidden(text="this server answers to its loopback address only\n")
        given = request.match_info.get("token", "")
        if not hmac.compare_digest(given.encode(), self._token.encode()):
            raise web.HTTPNotFound
        response = await handler(request)
        if not response.prepared:
            response.headers.update(_HEADERS)
        return response

    async def _page(self, request: web.Request) -> web.StreamResponse:
        view = self._view(request)
        page = whole_page(
            view.title,
            await view.refresh(),
            script=f"/{self._token}/live.js",
            events=f"{request.path.rstrip('/')}/events",
        )
        return web.Response(text=page, content_type="text/html")

    async def _script(self, request: web.Request) -> web.StreamResponse:
        text = resources.files("asyncdistil.report").joinpath("live.js").read_text("utf-8")
        return web.Response(text=text, content_type="text/javascript")

    async def _events(self, request: web.Request) -> web.StreamResponse:
        """Send the body whenever it changed."""
        view = self._view(request)
        response = web.StreamResponse(headers={**_HEADERS, "Content-Type": "text/event-stream"})
        await response.prepare(request)
        sent = ""
        with suppress(ConnectionError):
            while not self._closing.is_set():
                body = await view.refresh()
                if body != sent:
                    sent = body
                    data = json.dumps(body)
                    await response.write(f"event: body\ndata: {data}\n\n".encode())
                else:
                    # Else nobody would learn that the reader has gone.
                    await response.write(b":\n\n")
                with suppress(TimeoutError):
                    async with asyncio.timeout(_LOOK_SECONDS):
                        await self._closing.wait()
            await response.write(b"event: end\ndata: \n\n")
        return response

    def _view(self, request: web.Request) -> _View:
        store = request.match_info.get("store", "")
        run = request.match_info.get("run", "")
        if store and not (_STORE.fullmatch(store) and _RUN.fullmatch(run)):
            raise web.HTTPNotFound
        key = store, run
        if key not in self._views:
            if store:
                name = _name_of(self._cache_dir, store)
                if name is None:
                    raise web.HTTPNotFound(text="nothing is stored under this address\n")
                wanted = "" if run == "newest" else run
                root = self._cache_dir / "pipelines" / store
                self._views[key] = _View(
                    name, lambda: self._run_body(name, wanted), lambda: _log_mark(root)
                )
            else:
                self._views[key] = _View("asyncdistil: runs", self._list_body, self._list_mark)
        return self._views[key]

    # --- bodies ------------------------------------------------------------------------------

    def _run_body(self, name: str, wanted: str) -> str:
        try:
            run = StoredRun.open(self._cache_dir, name, wanted)
            if run is None:
                return rendered("problem.html.j2", text=f"nothing is stored of {name!r} any more")
            with run:
                state = "" if run.end is not None else _state(run.store.root)
                figures = figures_of(name, run, state=state, home=self._path("", ""))
            return rendered("run.html.j2", **figures)
        except AsyncDistilError as error:
            return rendered("problem.html.j2", text=str(error))

    def _list_mark(self) -> object:
        return [(root.name, _log_mark(root)) for root, _ in _stores(self._cache_dir)]

    def _list_body(self) -> str:
        pipelines = [
            self._overview(root, name)
            for root, name in _stores(self._cache_dir)
            if name is not None
        ]
        pipelines.sort(key=lambda found: found["newest_seconds"], reverse=True)
        return rendered(
            "runs.html.j2", folder=str(self._cache_dir), pipelines=pipelines, version=__version__
        )

    def _overview(self, root: Path, name: str) -> dict[str, Any]:
        runs: list[tuple[RunBegin, RunEnd | None]] = []
        problem = ""
        try:
            reader = StoreReader.open(self._cache_dir, name)
            if reader is not None:
                with closing(reader):
                    runs = reader.runs()
        except AsyncDistilError as error:
            problem = str(error)
        latest = {begin.run: (begin, end) for begin, end in runs}
        shown = [*latest.values()][-_MOST_RUNS:][::-1]
        return {
            "name": name,
            "problem": problem,
            "left_out": len(latest) - len(shown),
            "newest_seconds": shown[0][0].wall_seconds if shown else 0.0,
            "runs": [
                {
                    "run": begin.run,
                    "address": self._path(root.name, begin.run),
                    "started": time_of(begin.wall_seconds),
                    "seconds": seconds_of(begin, end) if end else "",
                    "ended": _ending(end) if end else _state(root),
                    "stopped": end is not None and not end.completed,
                }
                for begin, end in shown
            ],
        }


def _ending(end: RunEnd) -> str:
    if not end.completed:
        return f"stopped: {end.reason}"
    return f"complete, {end.failed:,} rows failed" if end.failed else "complete"


def _state(root: Path) -> str:
    """What is known of a run that has not said how it ended."""
    holder = lock_holder(root)
    if holder is None:
        return "stopped without a word; the next run takes it up"
    return f"under way, in process {holder}"


def _stores(cache_dir: Path) -> list[tuple[Path, str | None]]:
    try:
        return stores(cache_dir)
    except StorageError:
        return []


def _name_of(cache_dir: Path, store: str) -> str | None:
    return next((name for root, name in _stores(cache_dir) if root.name == store), None)


def _log_mark(root: Path) -> object:
    """Changes whenever something is appended to a store's log, or its process ends."""
    sizes = []
    with suppress(OSError), os.scandir(root / "commits") as entries:
        for entry in entries:
            with suppress(OSError):
                sizes.append((entry.name, entry.stat().st_size))
    return sorted(sizes), lock_holder(root)
