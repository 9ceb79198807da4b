"""A worker process as its supervisor sees it: signal it, await it, leave nothing of it behind."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import anyio

from asyncdistil.errors import WorkerError
from asyncdistil.launch.output import OutputReader

_KILL_SECONDS = 10.0
_GROUP_SECONDS = 1.0


class WorkerProcess:
    """One worker, leader of a session and process group of its own.

    The pid stays reserved until `returncode` is set: whoever collects the exit status first kills
    what is left of the group, so that a signal to the group can never reach a stranger.

    Attributes:
        pid: Process id, and id of its session and group.
        sock: Our end of its socket, non-blocking; whoever makes a channel of it closes it.
        returncode: Exit status, negative for a signal as in `subprocess`; ``None`` while it runs.
    """

    def __init__(self, pid: int, sock: socket.socket, output: OutputReader) -> None:
        self.pid = pid
        self.sock = sock
        self.returncode: int | None = None
        self._output = output
        self._exited = asyncio.Event()

    async def wait(self) -> int:
        """Wait until the process is gone and reaped; return its exit status."""
        await self._exited.wait()
        assert self.returncode is not None
        return self.returncode

    def terminate(self) -> None:
        """Ask the whole group to end; nothing happens if the process is gone."""
        self._signal_group(signal.SIGTERM)

    def kill(self) -> None:
        """Kill the whole group; nothing happens if the process is gone."""
        self._signal_group(signal.SIGKILL)

    def dump_stacks(self) -> None:
        """Ask the worker to print the stack of each thread; it comes as log lines."""
        if self.returncode is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGUSR1)

    def finished(self, returncode: int) -> None:
        """Record the exit status; called once, by whoever reaped the process."""
        self.returncode = returncode
        try:
            self._output.finish()
        finally:
            # Also if whoever takes the lines raises: nobody may wait for the dead.
            self._exited.set()

    def group(self) -> list[int]:
        """Living members of the process group, zombies left out."""
        try:
            os.killpg(self.pid, 0)
        except ProcessLookupError:
            return []
        except PermissionError:
            # A stranger's group has taken the number over, so ours is gone.
            return []
        return list(_living_members(self.pid))

    def _signal_group(self, number: signal.Signals) -> None:
        if self.returncode is None:
            # PermissionError is how macOS says that only a zombie is left.
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, number)


async def stop(process: WorkerProcess, grace_seconds: float) -> int:
    """Ask a worker to end, then kill it. Returns only when it is reaped and its group is empty.

    Args:
        process: May be gone already.
        grace_seconds: Time between TERM and KILL; 0 kills at once.

    Returns:
        Its exit status.

    Raises:
        WorkerError: It survived KILL, which only a process stuck in the kernel does.
    """
    try:
        if grace_seconds > 0:
            process.terminate()
            with anyio.move_on_after(grace_seconds):
                await process.wait()
    finally:
        # Also reached when we are cancelled: a child that outlives us keeps its segment open.
        process.kill()
        with anyio.CancelScope(shield=True):
            await _wait_for_the_end(process)
    assert process.returncode is not None
    return process.returncode


async def _wait_for_the_end(process: WorkerProcess) -> None:
    with anyio.move_on_after(_KILL_SECONDS) as patience:
        await process.wait()
    if patience.cancelled_caught:
        raise WorkerError(
            f"worker process {process.pid} survives SIGKILL: it waits in the kernel, probably for "
            "a device or a network file system that does not answer; see its state in `ps`"
        )
    deadline = anyio.current_time() + _GROUP_SECONDS
    while members := process.group():
        if anyio.current_time() > deadline:
            raise WorkerError(
                f"processes {members} in the group of worker {process.pid} survive SIGKILL: end "
                "them by hand before you run again"
            )
        await anyio.sleep(0.002)


def watch_child(process: WorkerProcess, collect: Callable[[], int | None]) -> None:
    """Reap a child of ours as soon as it exits, on the running loop.

    Args:
        process: Told by `WorkerProcess.finished`.
        collect: Takes the exit status without waiting, as `subprocess.Popen.poll`.
    """
    loop = asyncio.get_running_loop()

    def reap() -> None:
        process.kill()
        status = collect()
        process.finished(-signal.SIGKILL if status is None else status)

    if sys.platform == "linux":
        with suppress(OSError):
            pidfd = os.pidfd_open(process.pid)

            def exited() -> None:
                loop.remove_reader(pidfd)
                os.close(pidfd)
                reap()

            loop.add_reader(pidfd, exited)
            return
    _watch_from_thread(process.pid, lambda: loop.call_soon_threadsafe(reap))


def _watch_from_thread(pid: int, exited: Callable[[], object]) -> None:
    import threading

    def wait() -> None:
        with suppress(ProcessLookupError, ChildProcessError):
            _wait_without_reaping(pid)
        with suppress(RuntimeError):  # the loop is closed: nobody is left who wants to know
            exited()

    threading.Thread(target=wait, name=f"asyncdistil-reap-{pid}", daemon=True).start()


def _wait_without_reaping(pid: int) -> None:
    if sys.platform == "darwin":
        import select

        exit_event = select.kevent(
            pid,
            filter=select.KQ_FILTER_PROC,
            flags=select.KQ_EV_ADD | select.KQ_EV_ONESHOT,
            fflags=select.KQ_NOTE_EXIT,
        )
        with select.kqueue() as queue:
            queue.control([exit_event], 1, None)
    else:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)


def _living_members(group: int) -> Iterator[int]:
    """Pids in a process group that are no zombies; the group itself where /proc can't be read."""
    try:
        for entry in os.scandir("/proc"):
            if not entry.name.isdigit():
                continue
            with suppress(FileNotFoundError, ProcessLookupError, PermissionError):
                stat = Path(entry.path, "stat").read_bytes()
                # The command name, in parentheses, may hold anything; fields are counted after it.
                state, _parent, pgrp = stat[stat.rindex(b")") + 2 :].split(None, 3)[:3]
                if int(pgrp) == group and state not in b"ZX":
                    yield int(entry.name)
    except OSError:
        # There is none, or no descriptor is left to read it with: somebody may be there.
        yield group
