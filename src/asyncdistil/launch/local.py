"""Start a worker on this machine, as a fresh interpreter."""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Self

from asyncdistil.errors import WorkerError
from asyncdistil.launch.output import OutputReader
from asyncdistil.launch.process import WorkerProcess, watch_child
from asyncdistil.transport.messages import LogLine

_log = logging.getLogger("asyncdistil.worker")
_SOCKET_BUFFER_BYTES = 1024 * 1024


def log_lines(name: str) -> Callable[[LogLine], None]:
    """A receiver of `LogLine` that logs each line with the step's name before it."""

    def log(line: LogLine) -> None:
        _log.log(line.level, "[%s] %s", name, line.text)

    return log


async def spawn(
    module: str = "asyncdistil.worker",
    *,
    name: str = "worker",
    segment_fd: int | None = None,
    extra_fds: Sequence[int] = (),
    env: Mapping[str, str] | None = None,
    on_line: Callable[[LogLine], None] | None = None,
) -> WorkerProcess:
    """Start a worker process that dies with us.

    Call it on the main thread, or on one that lives as long as the worker: the kernel's
    parent-death signal follows the thread. It returns once the interpreter is exec'd, after a few
    milliseconds, without waiting for the worker to be ready.

    The worker gets ``argv`` = socket descriptor, segment descriptor (-1 if none), our pid, then the
    extra descriptors; a session and process group of its own; ``/dev/null`` as input; and a pipe
    for both outputs. No other descriptor of ours is passed on.

    Args:
        module: What ``python -P -m`` runs.
        name: Step name for the default log lines.
        segment_fd: Segment file that it will write; stays open here.
        extra_fds: More descriptors to pass on; stay open here.
        env: Variables added to our own environment.
        on_line: Receives what it prints, line by line; default logs to ``asyncdistil.worker``.

    Raises:
        WorkerError: The process could not be started.
    """
    return start(module, name, socket.SOCK_STREAM, segment_fd, extra_fds, env, on_line)


def start(
    module: str,
    name: str,
    kind: socket.SocketKind,
    segment_fd: int | None,
    extra_fds: Sequence[int],
    env: Mapping[str, str] | None,
    on_line: Callable[[LogLine], None] | None,
    arguments: Sequence[str] = (),
) -> WorkerProcess:
    """As `spawn`, for any kind of socket; ``argv`` ends with ``arguments``.

    Must run on a loop's thread.
    """
    with ExitStack() as cleanup, described(name):
        ends = cleanup.enter_context(Ends(kind))
        child = _exec(
            (module, arguments),
            ends.theirs.fileno(),
            segment_fd,
            extra_fds,
            ends.output_write,
            env,
        )
        ours, read_end = ends.keep()
    process = WorkerProcess(child.pid, ours, OutputReader(read_end, on_line or log_lines(name)))
    watch_child(process, child.poll)
    return process


class Ends:
    """A socket pair and an output pipe; whatever is not kept is closed on leaving the context."""

    def __init__(self, kind: socket.SocketKind) -> None:
        """Open them.

        Raises:
            OSError: No descriptors are left.
        """
        self._open = ExitStack()
        with ExitStack() as cleanup:
            self._ours, self.theirs = socket.socketpair(socket.AF_UNIX, kind)
            cleanup.callback(self._ours.close)
            cleanup.callback(self.theirs.close)
            for end in (self._ours, self.theirs):
                _widen(end)
            self._output_read, self.output_write = os.pipe()
            self._open = cleanup.pop_all()
        self._open.callback(os.close, self.output_write)
        self._kept = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        if self._kept:
            os.close(self.output_write)
            self.theirs.close()
        else:
            os.close(self._output_read)
            self._open.close()

    def keep(self) -> tuple[socket.socket, int]:
        """Take over our end of the socket, non-blocking, and the reading end of the pipe."""
        self._kept = True
        self._ours.setblocking(False)
        return self._ours, self._output_read


@contextmanager
def described(name: str) -> Iterator[None]:
    """Turn a refusal of the system into an error that says what to do.

    Raises:
        WorkerError: In place of any `OSError` inside.
    """
    try:
        yield
    except OSError as error:
        raise WorkerError(
            f"could not start a process for step {name!r}: {error.strerror or error}. If "
            "descriptors or processes have run out, raise `ulimit -n` or `ulimit -u`, or use "
            "fewer replicas"
        ) from error


def _exec(
    program: tuple[str, Sequence[str]],
    sock_fd: int,
    segment_fd: int | None,
    extra_fds: Sequence[int],
    output_fd: int,
    env: Mapping[str, str] | None,
) -> subprocess.Popen[bytes]:
    module, arguments = program
    passed = [sock_fd, *([] if segment_fd is None else [segment_fd]), *extra_fds]
    numbers = [sock_fd, -1 if segment_fd is None else segment_fd, os.getpid(), *extra_fds]
    return subprocess.Popen(
        [sys.executable, "-P", "-m", module, *map(str, numbers), *arguments],
        stdin=subprocess.DEVNULL,
        stdout=output_fd,
        stderr=output_fd,
        close_fds=True,
        pass_fds=passed,
        start_new_session=True,
        env={**os.environ, **env} if env else None,
    )


def _widen(sock: socket.socket) -> None:
    """Ask for room for some thousand messages, so that neither side waits for the other's turn."""
    for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
        sock.setsockopt(socket.SOL_SOCKET, option, _SOCKET_BUFFER_BYTES)
