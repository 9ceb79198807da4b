"""A process that has imported what workers need and forks them: they are ready in milliseconds.

It runs no user code and has one thread, so no lock can be held in the moment of a fork; if an
import started a thread, the supervisor is told and forks nothing. The parent-death signal of its
workers follows this process, and this process ends when the supervisor is gone: by the end of its
control socket, and by a signal from the kernel in case somebody else holds that socket open. Before
that it kills the groups of its workers, so that their children go with them.

A worker that exited is reaped only after `Reap`, so that its pid stays reserved until the
supervisor knows.
"""

from __future__ import annotations

import fcntl
import gc
import importlib
import os
import runpy
import select
import signal
import socket
import sys
from contextlib import suppress
from types import FrameType
from typing import NoReturn, TypeAlias

from asyncdistil.launch.packets import (
    MOST_DESCRIPTORS,
    PACKET_BYTES,
    TO_ZYGOTE,
    Exited,
    Fork,
    Forked,
    Ready,
    Reap,
    encode,
)
from asyncdistil.transport.lifeline import follow_parent

# An event loop is not among them: only steps that work on many rows at once need one.
PRELOADED = (
    "pydantic",
    "cloudpickle",
    "asyncdistil.worker.main",
    "asyncdistil.worker.serving",
    "asyncdistil.worker.batches",
    "asyncdistil.worker.generating",
    "asyncdistil.steps",
    "asyncdistil.steps.identity",
)

Job: TypeAlias = list[str]
"""``argv`` of a worker, the module to run first."""


class _SupervisorGone(Exception):
    """Time to go."""


class _Zygote:
    """The serving loop."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._pidfds: dict[int, int] = {}
        self._poll = select.poll()
        self._poll.register(control, select.POLLIN)

    def serve(self) -> Job | None:
        """Serve until the supervisor is gone.

        Returns:
            In a forked child what it is to run; in the zygote itself ``None``, at the end.
        """
        try:
            while True:
                for fd, _event in self._poll.poll():
                    if fd != self._control.fileno():
                        self._tell_exit(fd)
                        continue
                    job = self._receive()
                    if job is not None:
                        return job
        except (_SupervisorGone, OSError):
            for pid in self._pidfds.values():
                with suppress(ProcessLookupError):
                    os.killpg(pid, signal.SIGKILL)
            return None

    def _receive(self) -> Job | None:
        data, fds, _flags, _address = socket.recv_fds(
            self._control, PACKET_BYTES, MOST_DESCRIPTORS, socket.MSG_CMSG_CLOEXEC
        )
        if not data:
            raise _SupervisorGone
        message = TO_ZYGOTE.decode(data)
        if isinstance(message, Reap):
            with suppress(ChildProcessError):
                os.waitpid(message.pid, 0)
            return None
        try:
            return self._fork(message, fds)
        except OSError as error:
            reason = error.strerror or str(error)
            self._control.send(encode(Forked(message.number, 0, reason)))
        finally:
            for fd in fds:
                os.close(fd)
        return None

    def _fork(self, order: Fork, fds: list[int]) -> Job | None:
        parent = os.getpid()
        settled, settling = os.pipe()
        # Our handler must not run in the child: it would kill the child's siblings.
        signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM,))
        try:
            pid = os.fork()
            if pid == 0:
                return self._become(order, fds, parent, (settled, settling))
            os.close(settling)
            settling = -1
            # Until the child leads its own group, a signal to that group would be lost.
            os.read(settled, 1)
        finally:
            if os.getpid() == parent:
                os.close(settled)
                if settling >= 0:
                    os.close(settling)
                signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTERM,))
        try:
            pidfd = os.pidfd_open(pid)
        except OSError:
            # Nobody would hear of its end, so nobody may get it.
            with suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise
        self._pidfds[pidfd] = pid
        self._poll.register(pidfd, select.POLLIN)
        self._control.send(encode(Forked(order.number, pid)))
        return None

    def _tell_exit(self, pidfd: int) -> None:
        pid = self._pidfds.pop(pidfd)
        self._poll.unregister(pidfd)
        os.close(pidfd)
        with suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
        found = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        assert found is not None
        status = found.si_status if found.si_code == os.CLD_EXITED else -found.si_status
        self._control.send(encode(Exited(pid, status)))

    def _become(self, order: Fork, fds: list[int], parent: int, pipe: tuple[int, int]) -> Job:
        """In the child: leave everything of the zygote behind."""
        try:
            for signum in (signal.SIGINT, signal.SIGTERM):
                signal.signal(signum, signal.SIG_DFL)
            os.setsid()
            signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTERM,))
            self._control.close()
            for fd in (*pipe, *self._pidfds):
                os.close(fd)
            # Copies, because the caller closes the originals, as it does in the zygote.
            sock, output, *rest = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3) for fd in fds]
            for fd in (1, 2):
                os.dup2(output, fd)
            os.close(output)
            os.environb.clear()
            os.environb.update(order.env)
            for fd in (sock, *rest):
                os.set_inheritable(fd, True)
            segment = rest.pop(0) if order.segment else -1
            return [order.module, *map(str, (sock, segment, parent, *rest))]
        except BaseException:
            # Above us is the zygote's loop, which is none of ours any more.
            os._exit(os.EX_OSERR)


def main() -> None:
    """Serve; ``argv`` holds the control socket, -1, the supervisor's pid, and what to import."""
    # Imports make hardly any garbage: looking for it takes a tenth of their time.
    gc.disable()
    control_fd, _, supervisor = map(int, sys.argv[1:4])
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _leave)
    follow_parent(supervisor, signal.SIGTERM)
    control = socket.socket(fileno=control_fd)
    control.set_inheritable(False)
    for name in (*PRELOADED, *sys.argv[4:]):
        with suppress(ImportError):
            importlib.import_module(name)
    # Shared pages stay shared: the collector of a child does not touch what is here now.
    gc.freeze()
    control.send(encode(Ready(len(os.listdir("/proc/self/task")))))
    job = _Zygote(control).serve()
    if job is None:
        os._exit(0)
    gc.enable()
    sys.argv = job
    runpy.run_module(job[0], run_name="__main__", alter_sys=True)


def _leave(_signal: int, _frame: FrameType | None) -> NoReturn:
    raise _SupervisorGone


if __name__ == "__main__":
    main()
