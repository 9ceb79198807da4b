"""How a child process makes sure that it does not outlive its supervisor.

Two nets, because each has a hole. The kernel's parent-death signal kills even C code that holds the
interpreter lock, but exists on Linux only and misses a parent that died before it was set. A thread
that waits for the socket to hang up works everywhere, but not while such C code runs.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import threading

_PR_SET_PDEATHSIG = 1


def follow_parent(parent: int, signum: int = signal.SIGKILL) -> None:
    """Ask the kernel to kill this process when its parent dies; die now if it already has.

    The signal follows the *thread* that forked us, so parents fork from a thread that stays.

    Args:
        parent: Pid of the process that should be our parent.
        signum: What the kernel sends; anything but SIGKILL only to code that never holds the
            interpreter lock for long.
    """
    if sys.platform == "linux":  # pragma: no branch - elsewhere the other net must do
        import ctypes

        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signum, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(os.EX_UNAVAILABLE)


class Lifeline:
    """A thread that kills our process group when the other side of a socket is gone."""

    def __init__(self, fd: int) -> None:
        """Start watching the connected stream socket ``fd``; its data is left alone."""
        self._fd = fd
        self._armed = True
        threading.Thread(target=self._watch, name="asyncdistil-lifeline", daemon=True).start()

    def let_go(self) -> None:
        """From now on a hang-up is expected: we said good-bye and are about to exit."""
        self._armed = False

    def _watch(self) -> None:
        poll = select.poll()
        poll.register(self._fd, getattr(select, "POLLRDHUP", select.POLLHUP))
        poll.poll()
        if self._armed:
            kill_own_group()


def kill_own_group() -> None:
    """Kill this process and, if it leads a group, everything that it started there."""
    if os.getpgrp() == os.getpid():
        os.killpg(os.getpid(), signal.SIGKILL)  # pragma: no cover - who does it counts no more
    os._exit(os.EX_UNAVAILABLE)
