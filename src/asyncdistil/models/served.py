"""A model server that this process starts and that never outlives it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future

from asyncdistil.errors import ModelOutage, ParameterError

_POLL_SECONDS = 0.1
_GRACE_SECONDS = 10.0
_LAST_LINES = 30

# Runs in the child before the server: the kernel kills it when the thread that started it is gone.
# A server that the death of its parent left behind would keep the GPU.
_FOLLOW = (
    "import ctypes, os, runpy, signal, sys\n"
    "parent = int(sys.argv.pop(1))\n"
    "if sys.platform == 'linux':\n"
    "    ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)\n"
    "if os.getppid() != parent:\n"
    "    os._exit(69)\n"
    "del sys.argv[0]\n"
    "sys.argv.pop(0)\n"
    "runpy.run_module(sys.argv[0], run_name='__main__', alter_sys=True)\n"
)


class ModelServerProcess:
    """Starts a server at the first call of `ready`; all callers wait for the same one.

    Attributes:
        url: Base URL of its OpenAI dialect; a place holder until it was started.
    """

    def __init__(self, command: Callable[[int], list[str]], *, start_seconds: float) -> None:
        """Plan a server.

        Args:
            command: Given a free port, the arguments of the Python interpreter: ``-m``, a module,
                its flags.
            start_seconds: Longest time in which it must answer ``/health``.
        """
        self._command = command
        self._start_seconds = start_seconds
        self._process: subprocess.Popen[str] | None = None
        self._started: Future[None] | None = None
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._lines: deque[str] = deque(maxlen=_LAST_LINES)
        self._port = _free_port()
        self.url = f"http://127.0.0.1:{self._port}/v1"

    @property
    def pid(self) -> int | None:
        """Its process id, ``None`` before it was started."""
        return self._process.pid if self._process is not None else None

    async def ready(self) -> None:
        """Wait until the server answers; start it first if nobody has.

        Raises:
            ParameterError: It ended or did not get ready; the message shows its last lines.
            ModelOutage: It was ready and has died since.
        """
        with self._lock:
            if self._started is None:
                self._started = Future()
                # A thread that lives as long as the server: the death signal follows the thread.
                threading.Thread(
                    target=self._run, args=(self._started,), name="model-server", daemon=True
                ).start()
            started = self._started
        if not started.done():
            await asyncio.shield(asyncio.wrap_future(started))
        started.result()
        if self._process is not None and self._process.poll() is not None:
            raise ModelOutage(self._obituary("has died"))

    def stop(self) -> None:
        """Ask it to end, then kill it; returns once it and what it started are gone."""
        self._stopping.set()
        process = self._process
        if process is None:
            return
        self._signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE_SECONDS)
        self._signal(signal.SIGKILL)
        process.wait()

    def _signal(self, signum: int) -> None:
        # Its whole group: engines run in processes of their own.
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signum)

    def _run(self, started: Future[None]) -> None:
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", _FOLLOW, str(os.getpid()), *self._command(self._port)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                start_new_session=True,
            )
            threading.Thread(target=self._read_lines, name="model-server-log", daemon=True).start()
            self._wait_until_healthy()
        except BaseException as error:
            started.set_exception(error)
            self._signal(signal.SIGKILL)
        else:
            started.set_result(None)
        if self._process is not None:
            self._process.wait()

    def _read_lines(self) -> None:
        process = self._process
        if process is not None and process.stdout is not None:
            for line in process.stdout:
                self._lines.append(line.rstrip())

    def _wait_until_healthy(self) -> None:
        deadline = time.monotonic() + self._start_seconds
        process = self._process
        assert process is not None
        while time.monotonic() < deadline and not self._stopping.is_set():
            if process.poll() is not None:
                raise ParameterError(self._obituary("ended before it was ready"))
            if _healthy(self._port):
                return
            self._stopping.wait(_POLL_SECONDS)
        raise ParameterError(self._obituary(f"was not ready within {self._start_seconds:.0f} s"))

    def _obituary(self, fate: str) -> str:
        code = self._process.poll() if self._process is not None else None
        status = "" if code is None else f" (exit code {code})"
        lines = "\n".join(self._lines) or "(nothing)"
        return f"the model server {fate}{status}; it said last:\n{lines}"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _healthy(port: int) -> bool:
    import http.client

    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
