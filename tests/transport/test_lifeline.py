"""No child outlives its parent, whichever of the two nets catches it."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Callable

import pytest

from asyncdistil.transport.lifeline import Lifeline, follow_parent


def forked(work: Callable[[], None]) -> int:
    """A child that works and then ends with status 0."""
    child = os.fork()
    if not child:
        status = 70
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    return child


def status_of(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def watcher() -> threading.Thread:
    (found,) = (t for t in threading.enumerate() if t.name == "asyncdistil-lifeline")
    return found


@pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="needs POSIX signals")
def test_a_child_dies_with_a_parent_that_is_killed() -> None:
    read, write = os.pipe()
    line_read, line_write = os.pipe()

    def parent() -> None:
        def grandchild() -> None:
            follow_parent(middle)
            os.write(write, b"follows")
            signal.pause()

        middle = os.getpid()
        forked(grandchild)
        os.close(write)
        os.read(line_read, 1)  # nothing comes: it is killed while it waits

    middle = forked(parent)
    os.close(write)
    assert os.read(read, 100) == b"follows"
    os.kill(middle, signal.SIGKILL)
    assert status_of(middle) == -signal.SIGKILL
    assert os.read(read, 100) == b""  # the grandchild held the other end of it
    for fd in (read, line_read, line_write):
        os.close(fd)


def test_a_child_whose_parent_is_already_gone_ends_at_once() -> None:
    def orphan() -> None:
        follow_parent(os.getpid())  # surely not its parent

    assert status_of(forked(orphan)) == os.EX_UNAVAILABLE


def test_a_child_of_a_living_parent_goes_on() -> None:
    parent = os.getpid()
    assert status_of(forked(lambda: follow_parent(parent, signal.SIGTERM))) == 0


@pytest.mark.parametrize("leads", [True, False])
def test_a_hang_up_takes_the_child_and_its_group_along(leads: bool) -> None:
    ours, theirs = socket.socketpair()
    read, write = os.pipe()

    def child() -> None:
        ours.close()
        if leads:
            os.setsid()
            forked(signal.pause)  # type: ignore[arg-type]
        Lifeline(theirs.fileno())
        os.write(write, b"watches")
        os.close(write)
        watcher().join()
        signal.pause()

    worker = forked(child)
    os.close(write)
    theirs.close()
    assert os.read(read, 100) == b"watches"
    ours.sendall(b"data is left alone")
    ours.close()
    assert status_of(worker) == (-signal.SIGKILL if leads else os.EX_UNAVAILABLE)
    assert os.read(read, 100) == b""  # whatever the child had started is gone as well
    os.close(read)


def test_a_hang_up_after_the_good_bye_is_expected() -> None:
    ours, theirs = socket.socketpair()

    def child() -> None:
        ours.close()
        line = Lifeline(theirs.fileno())
        line.let_go()
        thread = watcher()
        theirs.sendall(b"bye")
        thread.join()

    worker = forked(child)
    theirs.close()
    assert ours.recv(3) == b"bye"
    ours.close()
    assert status_of(worker) == 0
