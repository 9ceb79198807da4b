"""What a process that a step forks may keep of its worker: nothing that the run depends on.

``multiprocessing`` forks by default on Linux, and libraries do so without being asked. Such a child
has the worker's signal handlers and descriptors, and must neither speak for the worker nor hold its
socket open.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterable

_kept = threading.local()


def forget_in_children(fds: Iterable[int]) -> None:
    """Make every child that this process forks from now on a process like any other.

    In the child SIGTERM ends at once, as ``Pool.terminate`` and ``Process.terminate`` expect, and
    the given descriptors lead nowhere. SIGINT stays ignored: a terminal's interrupt is for the
    supervisor. Children that exec, as those of ``subprocess``, have none of it to lose.

    Args:
        fds: Descriptors that only the worker may use.
    """
    private = tuple(fds)

    def strip() -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        _unblock()
        nowhere = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        for fd in private:
            # Replaced, not closed: objects of the worker hold the number, and would close
            # whatever got it next.
            os.dup2(nowhere, fd, inheritable=False)
        os.close(nowhere)

    os.register_at_fork(before=_block, after_in_parent=_unblock, after_in_child=strip)


def _block() -> None:
    # The interpreter forgets signals that it noted between the fork and `strip`; a child that was
    # asked to end in that moment would never end.
    _kept.mask = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM,))


def _unblock() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, _kept.mask)
