"""From the first line of a worker process to its last."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import sys
from contextlib import suppress
from importlib import import_module
from types import FrameType
from typing import NoReturn

import msgspec

from asyncdistil.errors import TransportError
from asyncdistil.transport import Channel
from asyncdistil.transport.lifeline import Lifeline, follow_parent
from asyncdistil.transport.messages import Done, Load, LoadPart
from asyncdistil.worker.ending import Terminated, exit_status, leave
from asyncdistil.worker.forks import forget_in_children
from asyncdistil.worker.mailbox import Mailbox, await_finish

_DESCRIPTORS = 1024
_EXPORTER = "asyncdistil.distiset.exporter"


def main() -> None:
    """Run one worker: ``argv`` holds socket, segment (or -1) and parent pid, as `spawn` says."""
    sock_fd, segment_fd, parent = map(int, sys.argv[1:4])
    follow_parent(parent)
    run(sock_fd, segment_fd)


def run(sock_fd: int, segment_fd: int) -> NoReturn:
    """Serve the socket, then end the process."""
    _take_signals()
    private = [fd for fd in (sock_fd, segment_fd) if fd >= 0]
    for fd in private:
        os.set_inheritable(fd, False)
    forget_in_children(private)
    _make_room(sock_fd)
    lifeline = Lifeline(sock_fd)
    channel = Channel(socket.socket(fileno=sock_fd))
    try:
        code = _serve(channel, segment_fd, lifeline)
    except TransportError as error:
        # Its text names no user data, and nobody reads the socket any more.
        sys.stderr.write(f"worker ends: {error}\n")
        code = os.EX_UNAVAILABLE
    except SystemExit as error:
        code = exit_status(error)
    except BaseException:
        import traceback

        from asyncdistil.worker.scrub import Scrubber

        # Not the step's doing: whatever its code raises is caught where it is called.
        sys.stderr.write(Scrubber(os.environ).text(traceback.format_exc()))
        code = os.EX_SOFTWARE
    leave(code)


def _serve(channel: Channel, segment_fd: int, lifeline: Lifeline) -> int:
    first = _receive_load(channel)
    if first.role == "export":
        import_module(_EXPORTER).serve(channel, first)
        await_finish(Mailbox(channel))
        lifeline.let_go()
        channel.send(Done())
        return os.EX_OK
    # Imported only now, because an exporter needs none of it.
    from asyncdistil.worker.serving import serve

    return serve(channel, first, segment_fd, lifeline)


def _receive_load(channel: Channel) -> Load:
    """The first message, its payload put together; what came after it stays in the channel."""
    parts: list[bytes] = []
    while True:
        received = channel.receive()
        for position, message in enumerate(received):
            if isinstance(message, Load):
                channel.put_back(received[position + 1 :])
                parts.append(message.payload)
                return msgspec.structs.replace(message, payload=b"".join(parts))
            if not isinstance(message, LoadPart):
                kind = type(message).__name__
                raise TransportError(f"a worker's first message must be Load, not {kind}")
            parts.append(message.payload)


def _make_room(fd: int) -> None:
    """Have the kernel's table of our descriptors grow while we have one thread.

    Later it waits for all cores first, 10 ms at 64 and again at 256 descriptors (``fs/file.c`` of
    Linux, ``expand_fdtable``), in the midst of opening connections to a model.
    """
    with suppress(OSError):  # where fewer are allowed
        os.close(fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _DESCRIPTORS - 1))


def _take_signals() -> None:
    import faulthandler

    # A terminal's interrupt is the supervisor's business; workers hear of it over the socket.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _asked_to_end)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    faulthandler.enable(all_threads=True)
    faulthandler.register(signal.SIGUSR1, all_threads=True)


def _asked_to_end(_signal: int, _frame: FrameType | None) -> NoReturn:
    # Raised wherever the main thread is, so that `unload` has the grace to run.
    raise Terminated
