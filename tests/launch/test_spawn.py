from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import anyio
import psutil
import pytest
import uvloop

from asyncdistil.errors import WorkerError
from asyncdistil.launch import WorkerProcess, process, spawn, stop
from asyncdistil.launch.output import OutputReader
from asyncdistil.transport.messages import LogLine

pytestmark = pytest.mark.anyio

HEAD = """
import os, signal, socket, subprocess, sys, threading, time
from asyncdistil.transport.lifeline import Lifeline, follow_parent
sock_fd, segment_fd, parent, *extra = map(int, sys.argv[1:])
sock = socket.socket(fileno=sock_fd)
sock.setblocking(True)
follow_parent(parent)
line = Lifeline(sock_fd)
"""
HOLD_GIL = "print('holding', flush=True); import re; re.match(r'(a+)+$', 'a' * 60 + 'b')"


@pytest.fixture(params=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": request.param == "uvloop"}


@pytest.fixture
def script(tmp_path: Path) -> Callable[[str], dict[str, object]]:
    """Write the body of a worker; gives the arguments for `spawn`."""

    def write(body: str) -> dict[str, object]:
        (tmp_path / "worker_under_test.py").write_text(HEAD + textwrap.dedent(body))
        return {"module": "worker_under_test", "env": {"PYTHONPATH": str(tmp_path)}}

    return write


@pytest.fixture(scope="module")
def both_loops_are_warm() -> None:
    uvloop.run(asyncio.sleep(0))  # libuv opens some descriptors once and keeps them


@pytest.fixture(autouse=True)
def nothing_is_left(both_loops_are_warm: None) -> Iterator[None]:
    descriptors = set(os.listdir("/proc/self/fd"))
    others = psutil.Process().children(recursive=True)
    yield
    assert psutil.Process().children(recursive=True) == others
    assert len(os.listdir("/proc/self/fd")) <= len(descriptors)


async def say(worker: WorkerProcess) -> bytes:
    return await asyncio.get_running_loop().sock_recv(worker.sock, 65536)


async def end(worker: WorkerProcess) -> None:
    await stop(worker, grace_seconds=0)
    worker.sock.close()


async def test_a_worker_gets_its_socket_and_its_descriptors_and_no_others(
    script: Callable[[str], dict[str, object]], tmp_path: Path
) -> None:
    stray = os.open(tmp_path, os.O_RDONLY)
    os.set_inheritable(stray, True)
    segment = os.open(tmp_path / "segment", os.O_CREAT | os.O_APPEND | os.O_RDWR)
    extra = os.open(tmp_path / "extra", os.O_CREAT | os.O_APPEND | os.O_RDWR)
    body = """
        links = ["/proc/self/fd/" + name for name in os.listdir("/proc/self/fd")]
        # A library may hold itself open, as libffi does.
        links = [x for x in links if os.path.exists(x) and ".so." not in os.readlink(x)]
        names = {int(os.path.basename(link)) for link in links}
        assert names == {0, 1, 2, sock_fd, segment_fd, *extra}, names
        os.write(segment_fd, b"rows"); os.write(extra[0], b"more")
        assert sys.stdin.read() == "" and os.getsid(0) == os.getpgrp() == os.getpid()
        assert sys.flags.safe_path
        sock.sendall(b"ok"); sock.recv(1)
    """
    worker = await spawn(**script(body), segment_fd=segment, extra_fds=[extra])  # type: ignore[arg-type]
    other = await spawn(**script(body), segment_fd=segment, extra_fds=[extra])  # type: ignore[arg-type]
    try:
        assert await say(worker) == b"ok"
        assert await say(other) == b"ok"
        assert (tmp_path / "segment").read_bytes() == b"rows" * 2
        assert (tmp_path / "extra").read_bytes().startswith(b"more")
    finally:
        await end(worker)
        await end(other)
        for fd in (stray, segment, extra):
            os.close(fd)


async def test_a_worker_that_ends_by_itself_is_reaped_and_its_status_known(
    script: Callable[[str], dict[str, object]],
) -> None:
    worker = await spawn(**script("line.let_go(); sys.exit(7)"))  # type: ignore[arg-type]
    assert await worker.wait() == 7
    assert await stop(worker, grace_seconds=1) == 7
    worker.sock.close()


async def test_a_worker_that_heeds_term_is_given_its_grace(
    script: Callable[[str], dict[str, object]],
) -> None:
    body = """
        signal.signal(signal.SIGTERM, lambda *_: os._exit(5))
        sock.sendall(b"up"); time.sleep(600)
    """
    worker = await spawn(**script(body))  # type: ignore[arg-type]
    assert await say(worker) == b"up"
    assert await stop(worker, grace_seconds=30) == 5
    worker.sock.close()


async def test_a_worker_deaf_to_term_is_killed_with_its_grandchildren(
    script: Callable[[str], dict[str, object]],
) -> None:
    body = """
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        child = subprocess.Popen([sys.executable, "-c",
            "import signal, time; signal.signal(15, signal.SIG_IGN);"
            "print(1, flush=True); time.sleep(600)"], stdout=subprocess.PIPE)
        child.stdout.readline()
        sock.sendall(str(child.pid).encode()); time.sleep(600)
    """
    worker = await spawn(**script(body))  # type: ignore[arg-type]
    grandchild = int(await say(worker))
    assert await stop(worker, grace_seconds=0.05) == -signal.SIGKILL
    worker.sock.close()
    assert worker.group() == []
    assert not alive(grandchild)


async def test_grandchildren_die_with_a_worker_that_dies_by_itself(
    script: Callable[[str], dict[str, object]],
) -> None:
    body = """
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        sock.sendall(str(child.pid).encode()); os.kill(os.getpid(), signal.SIGSEGV)
    """
    worker = await spawn(**script(body))  # type: ignore[arg-type]
    grandchild = int(await say(worker))
    assert await worker.wait() == -signal.SIGSEGV
    await stop(worker, grace_seconds=0)
    worker.sock.close()
    assert not alive(grandchild)


async def test_stopping_when_cancelled_still_kills_and_reaps(
    script: Callable[[str], dict[str, object]],
) -> None:
    body = "signal.signal(signal.SIGTERM, signal.SIG_IGN); sock.sendall(b'up'); time.sleep(600)"
    worker = await spawn(**script(body))  # type: ignore[arg-type]
    assert await say(worker) == b"up"
    with anyio.CancelScope() as scope:
        scope.cancel()
        await stop(worker, grace_seconds=600)
    assert worker.returncode == -signal.SIGKILL
    worker.sock.close()


async def test_a_stopped_worker_can_be_killed(
    script: Callable[[str], dict[str, object]],
) -> None:
    body = "sock.sendall(b'up'); os.kill(os.getpid(), signal.SIGSTOP)"
    worker = await spawn(**script(body))  # type: ignore[arg-type]
    assert await say(worker) == b"up"
    os.waitid(os.P_PID, worker.pid, os.WSTOPPED | os.WNOWAIT)  # noqa: ASYNC222
    assert await stop(worker, grace_seconds=0.01) == -signal.SIGKILL
    worker.sock.close()


async def test_printed_lines_come_with_any_bytes_and_never_touch_the_socket(
    script: Callable[[str], dict[str, object]],
) -> None:
    lines: list[LogLine] = []
    body = r"""
        print("from python"); sys.stdout.flush()
        os.write(2, b"bad \xff byte\n"); subprocess.run(["echo", "from a child"])
        os.write(1, b"no newline"); line.let_go(); os._exit(0)
    """
    worker = await spawn(**script(body), on_line=lines.append)  # type: ignore[arg-type]
    await worker.wait()
    assert [line.text for line in lines] == [
        "from python",
        "bad \ufffd byte",
        "from a child",
        "no newline",
    ]
    assert await say(worker) == b""
    worker.sock.close()


async def test_a_flood_of_prints_neither_blocks_the_worker_nor_drowns_the_log(
    script: Callable[[str], dict[str, object]],
) -> None:
    lines: list[LogLine] = []
    body = r"""
        os.write(1, b'x' * 300_000)
        for _ in range(50): os.write(1, b'y\n' * 20_000)
        line.let_go()
    """
    worker = await spawn(**script(body), on_line=lines.append)  # type: ignore[arg-type]
    assert await worker.wait() == 0
    worker.sock.close()
    left_out = [line.text for line in lines if "left out" in line.text]
    assert left_out
    assert len(lines) < 100_000
    assert all(len(line.text) <= 8192 for line in lines)


async def test_a_worker_that_closes_every_descriptor_is_seen_to_end(
    script: Callable[[str], dict[str, object]],
) -> None:
    worker = await spawn(**script("line.let_go(); os.closerange(0, 256); os._exit(3)"))  # type: ignore[arg-type]
    assert await worker.wait() == 3
    assert await say(worker) == b""
    worker.sock.close()


async def test_a_grandchild_that_holds_the_output_open_delays_nobody(
    script: Callable[[str], dict[str, object]],
) -> None:
    body = """
        child = subprocess.Popen(["sleep", "600"], start_new_session=True)
        sock.sendall(str(child.pid).encode()); print("bye", flush=True); line.let_go(); os._exit(0)
    """
    lines: list[LogLine] = []
    worker = await spawn(**script(body), on_line=lines.append)  # type: ignore[arg-type]
    stray = int(await say(worker))
    assert await worker.wait() == 0
    assert [line.text for line in lines] == ["bye"]
    os.kill(stray, signal.SIGKILL)
    worker.sock.close()


async def test_the_end_of_a_worker_is_known_also_if_nobody_could_take_its_last_line() -> None:
    def refuse(_line: LogLine) -> None:
        raise BrokenPipeError

    read_end, write_end = os.pipe()
    os.write(write_end, b"last\nwords")
    ours, theirs = socket.socketpair()
    with ours, theirs:
        worker = WorkerProcess(os.getpid(), ours, OutputReader(read_end, refuse))
        with pytest.raises(BrokenPipeError):
            worker.finished(3)
        assert await worker.wait() == 3
    os.close(write_end)


async def test_stacks_can_be_asked_for(script: Callable[[str], dict[str, object]]) -> None:
    lines: list[LogLine] = []
    body = """
        import faulthandler
        faulthandler.register(signal.SIGUSR1)
        def stuck_here():
            sock.sendall(b"up"); sock.recv(1); line.let_go(); os._exit(0)
        stuck_here()
    """
    worker = await spawn(**script(body), on_line=lines.append)  # type: ignore[arg-type]
    assert await say(worker) == b"up"
    worker.dump_stacks()
    worker.sock.send(b"x")
    await worker.wait()
    assert any("stuck_here" in line.text for line in lines)
    worker.sock.close()


async def test_where_there_is_no_pidfd_a_thread_reaps(
    script: Callable[[str], dict[str, object]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(pid: int) -> int:
        raise OSError(38, "not implemented")

    monkeypatch.setattr(process.os, "pidfd_open", refuse)
    worker = await spawn(**script("line.let_go(); sys.exit(4)"))  # type: ignore[arg-type]
    assert await worker.wait() == 4
    worker.sock.close()


async def test_no_descriptors_left_is_a_worker_error_that_leaks_none() -> None:
    import resource

    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = {int(f) for f in os.listdir("/proc/self/fd")}
    third_free = next(n for n in range(1024) if len(set(range(n)) - used) == 3)
    resource.setrlimit(resource.RLIMIT_NOFILE, (third_free, limits[1]))
    try:
        with pytest.raises(WorkerError, match="ulimit -n"):
            await spawn("nothing")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def alive(pid: int) -> bool:
    with suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
    return False


SUPERVISOR = """
import asyncio, sys
from asyncdistil.launch import spawn

async def main():
    workers = [await spawn("worker_under_test", on_line=lambda line: print(line.text, flush=True))
               for _ in range(3)]
    for worker in workers:
        print("worker", worker.pid, flush=True)
    await asyncio.sleep(600)

asyncio.run(main())
"""


@pytest.mark.parametrize(
    "doing",
    [
        "print('up', flush=True); time.sleep(600)",
        HOLD_GIL,
        "print('up', flush=True)\nwhile True: pass",
        "signal.pthread_sigmask(0, signal.valid_signals()); print('up', flush=True); sock.recv(1)",
    ],
    ids=["asleep", "holding the interpreter lock", "looping", "blocking signals"],
)
def test_workers_are_gone_at_once_when_their_supervisor_is_killed(
    script: Callable[[str], dict[str, object]], tmp_path: Path, doing: str
) -> None:
    script(doing)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    supervisor = subprocess.Popen(
        [sys.executable, "-c", SUPERVISOR], env=environment, stdout=subprocess.PIPE, text=True
    )
    assert supervisor.stdout is not None
    pids, up = [], 0
    while len(pids) < 3 or up < 3:
        word, *rest = supervisor.stdout.readline().split()
        if word == "worker":
            pids.append(int(rest[0]))
        else:
            up += 1
    supervisor.kill()
    supervisor.wait()
    supervisor.stdout.close()
    deadline = time.monotonic() + 60
    while any(map(alive, pids)) and time.monotonic() < deadline:
        os.sched_yield()
    assert not any(map(alive, pids))


def test_a_worker_born_an_orphan_leaves_at_once(tmp_path: Path) -> None:
    code = HEAD + "print('still here')"
    left, right = socket.socketpair()
    with left, right:
        orphan = subprocess.run(
            [sys.executable, "-c", code, str(right.fileno()), "-1", "1"],
            pass_fds=[right.fileno()],
            capture_output=True,
            check=False,
        )
    assert orphan.returncode == os.EX_UNAVAILABLE
    assert orphan.stdout == b""
