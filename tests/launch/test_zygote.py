from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from pathlib import Path

import anyio
import psutil
import pytest
import uvloop

from asyncdistil.launch import WorkerProcess, Zygote, stop
from asyncdistil.transport.messages import LogLine

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(sys.platform != "linux", reason="a zygote needs Linux"),
]

HEAD = """
import os, signal, socket, subprocess, sys, time
from asyncdistil.transport.lifeline import Lifeline, follow_parent
sock_fd, segment_fd, parent, *extra = map(int, sys.argv[1:])
sock = socket.socket(fileno=sock_fd)
sock.setblocking(True)
follow_parent(parent)
line = Lifeline(sock_fd)
"""


@pytest.fixture(params=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": request.param == "uvloop"}


@pytest.fixture(scope="module")
def both_loops_are_warm() -> None:
    uvloop.run(asyncio.sleep(0))


@pytest.fixture(autouse=True)
def nothing_is_left(both_loops_are_warm: None) -> Iterator[None]:
    before = os.listdir("/proc/self/fd")
    others = psutil.Process().children(recursive=True)
    yield
    assert psutil.Process().children(recursive=True) == others
    assert len(os.listdir("/proc/self/fd")) <= len(before)


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Write a worker module that the zygote of this test can import; gives its name."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)

    def write(body: str) -> str:
        (tmp_path / "forked_under_test.py").write_text(HEAD + textwrap.dedent(body))
        return "forked_under_test"

    return write


@pytest.fixture
async def zygote(write: Callable[[str], str]) -> AsyncIterator[Zygote]:
    zygote = await Zygote.start()
    yield zygote
    await zygote.close()


async def say(worker: WorkerProcess) -> bytes:
    return await asyncio.get_running_loop().sock_recv(worker.sock, 65536)


def parent_of(pid: int) -> int:
    return psutil.Process(pid).ppid()


def alive(pid: int) -> bool:
    with suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
    return False


def all_gone(pids: list[int]) -> bool:
    deadline = time.monotonic() + 60
    while any(map(alive, pids)) and time.monotonic() < deadline:
        os.sched_yield()
    return not any(map(alive, pids))


async def test_a_forked_worker_gets_its_own_descriptors_session_and_environment(
    zygote: Zygote, write: Callable[[str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = """
        links = ["/proc/self/fd/" + name for name in os.listdir("/proc/self/fd")]
        # A library may hold itself open, as libffi does.
        links = [x for x in links if os.path.exists(x) and ".so." not in os.readlink(x)]
        names = {int(os.path.basename(link)) for link in links}
        assert names == {0, 1, 2, sock_fd, segment_fd, *extra}, names
        os.write(segment_fd, b"rows"); os.write(extra[0], b"more")
        assert os.getsid(0) == os.getpgrp() == os.getpid()
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
        assert not signal.pthread_sigmask(signal.SIG_BLOCK, ())
        sock.sendall(os.environ["LATE_KEY"].encode() + os.environ["GIVEN"].encode()); sock.recv(1)
    """
    monkeypatch.setenv("LATE_KEY", "set after the zygote began ")
    segment = os.open(tmp_path / "segment", os.O_CREAT | os.O_APPEND | os.O_RDWR)
    extra = os.open(tmp_path / "extra", os.O_CREAT | os.O_APPEND | os.O_RDWR)
    workers = []
    lines: list[LogLine] = []
    for _ in range(2):
        workers.append(
            await zygote.spawn(
                write(body),
                segment_fd=segment,
                extra_fds=[extra],
                env={"GIVEN": "and given"},
                on_line=lines.append,
            )
        )
        assert await say(workers[-1]) == b"set after the zygote began and given", lines
        assert parent_of(workers[-1].pid) == zygote.pid
    for worker in workers:
        await stop(worker, grace_seconds=0)
        worker.sock.close()
    assert (tmp_path / "segment").read_bytes() == b"rows" * 2
    os.close(segment)
    os.close(extra)


@pytest.mark.parametrize(
    ("doing", "status"),
    [
        ("line.let_go(); sys.exit(7)", 7),
        ("line.let_go()", 0),
        ("os._exit(3)", 3),
        ("os.kill(os.getpid(), signal.SIGSEGV)", -signal.SIGSEGV),
        ("raise ValueError", 1),
    ],
)
async def test_the_status_of_a_forked_worker_is_known_and_no_zombie_stays(
    zygote: Zygote, write: Callable[[str], str], doing: str, status: int
) -> None:
    worker = await zygote.spawn(write(doing), on_line=lambda _line: None)
    assert await worker.wait() == status
    assert await stop(worker, grace_seconds=1) == status
    worker.sock.close()
    with anyio.fail_after(60):
        while psutil.pid_exists(worker.pid):  # noqa: ASYNC110
            await anyio.sleep(0.001)


async def test_a_deaf_forked_worker_is_killed_with_its_grandchildren(
    zygote: Zygote, write: Callable[[str], str]
) -> None:
    body = """
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        child = subprocess.Popen(["sleep", "600"])
        sock.sendall(str(child.pid).encode()); time.sleep(600)
    """
    worker = await zygote.spawn(write(body))
    grandchild = int(await say(worker))
    assert await stop(worker, grace_seconds=0.05) == -signal.SIGKILL
    worker.sock.close()
    assert worker.group() == []
    assert not alive(grandchild)


async def test_a_worker_can_be_killed_in_the_moment_it_is_born(
    zygote: Zygote, write: Callable[[str], str]
) -> None:
    name = write("time.sleep(600)")
    for _ in range(20):
        worker = await zygote.spawn(name)
        worker.kill()
        assert await worker.wait() == -signal.SIGKILL
        worker.sock.close()


async def test_printed_lines_of_forked_workers_come_apart(
    zygote: Zygote, write: Callable[[str], str]
) -> None:
    name = write("print(sock.recv(9).decode()); line.let_go()")
    lines: list[list[str]] = [[], []]
    workers = [
        await zygote.spawn(name, on_line=lambda line, n=n: lines[n].append(line.text))
        for n in range(2)
    ]
    for number, worker in enumerate(workers):
        worker.sock.send(str(number).encode())
    for worker in workers:
        assert await worker.wait() == 0
        worker.sock.close()
    assert lines == [["0"], ["1"]]


async def test_a_forked_worker_gets_a_variable_that_is_no_utf_8(
    zygote: Zygote, write: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = b"caf\xe9"
    monkeypatch.setenv("PLACE", os.fsdecode(odd))
    name = write("sock.sendall(os.environb[b'PLACE']); sock.recv(1)")
    worker = await zygote.spawn(name)
    assert await say(worker) == odd
    await stop(worker, grace_seconds=0)
    worker.sock.close()


async def test_a_variable_that_is_read_at_start_means_a_fresh_interpreter(
    zygote: Zygote, write: Callable[[str], str]
) -> None:
    name = write("sock.sendall(str(parent).encode()); sock.recv(1)")
    worker = await zygote.spawn(name, env={"PYTHONHASHSEED": "7"})
    assert int(await say(worker)) == os.getpid()
    await stop(worker, grace_seconds=0)
    worker.sock.close()


async def test_workers_of_a_killed_zygote_are_gone_and_the_next_is_a_fresh_interpreter(
    zygote: Zygote, write: Callable[[str], str]
) -> None:
    name = write("sock.sendall(str(parent).encode()); sock.recv(1)")
    worker = await zygote.spawn(name)
    assert int(await say(worker)) == zygote.pid
    os.kill(zygote.pid, signal.SIGKILL)
    assert await worker.wait() == -signal.SIGKILL
    worker.sock.close()
    assert all_gone([worker.pid])
    worker = await zygote.spawn(name)
    assert int(await say(worker)) == os.getpid()
    await stop(worker, grace_seconds=0)
    worker.sock.close()


async def test_a_caller_that_is_cancelled_while_it_waits_leaves_no_worker(
    write: Callable[[str], str],
) -> None:
    zygote = await Zygote.start()
    name = write("time.sleep(600)")
    with anyio.move_on_after(0):
        await zygote.spawn(name)
    worker = await zygote.spawn(name)
    with anyio.CancelScope() as scope:
        asyncio.get_running_loop().call_soon(scope.cancel)
        other = await zygote.spawn(name)
        await stop(other, grace_seconds=0)
        other.sock.close()
    with anyio.fail_after(60):
        while len(psutil.Process(zygote.pid).children()) > 1:  # noqa: ASYNC110
            await anyio.sleep(0.001)
    await stop(worker, grace_seconds=0)
    worker.sock.close()
    await zygote.close()


async def test_a_caller_that_is_cancelled_as_its_answer_comes_leaves_no_zombie(
    write: Callable[[str], str],
) -> None:
    zygote = await Zygote.start()
    name = write("time.sleep(600)")
    first = await zygote.spawn(name)
    for _ in range(20):
        asked = asyncio.ensure_future(zygote.spawn(name))
        while not zygote._orders:  # noqa: ASYNC110
            await asyncio.sleep(0)
        (answer,) = zygote._orders.values()
        while not answer.done():  # noqa: ASYNC110
            await asyncio.sleep(0)
        if asked.cancel():
            with suppress(asyncio.CancelledError):
                other = await asked
                await stop(other, grace_seconds=0)
                other.sock.close()
    with anyio.fail_after(20):
        while len(psutil.Process(zygote.pid).children()) > 1:  # noqa: ASYNC110
            await anyio.sleep(0.001)
    await stop(first, grace_seconds=0)
    first.sock.close()
    await zygote.close()


async def test_a_forked_worker_that_can_not_be_watched_is_killed_and_another_is_started(
    write: Callable[[str], str], tmp_path: Path
) -> None:
    name = write("sock.sendall(str(parent).encode()); sock.recv(1)")
    # The kernel refuses one only where the whole machine has no room for another open file.
    (tmp_path / "blind.py").write_text(
        "import errno, os\n"
        "def refused(*_): raise OSError(errno.ENFILE, os.strerror(errno.ENFILE))\n"
        "os.pidfd_open = refused\n"
    )
    zygote = await Zygote.start(["blind"])
    worker = await zygote.spawn(name)
    parent, forked = int(await say(worker)), psutil.Process(zygote.pid).children()
    await stop(worker, grace_seconds=0)
    worker.sock.close()
    await zygote.close()
    assert parent == os.getpid()
    assert forked == []


SUPERVISOR = """
import asyncio
from asyncdistil.launch import Zygote

async def main():
    zygote = await Zygote.start()
    print("pid", zygote.pid, flush=True)
    for _ in range(3):
        worker = await zygote.spawn("forked_under_test", on_line=lambda l: print(l.text))
        print("pid", worker.pid)
    await asyncio.sleep(600)

asyncio.run(main())
"""


@pytest.mark.parametrize(
    "doing",
    [
        "time.sleep(600)",
        "import re; re.match(r'(a+)+$', 'a' * 60 + 'b')",
        "signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals()); time.sleep(600)",
    ],
    ids=["asleep", "holding the interpreter lock", "blocking signals"],
)
def test_forked_workers_and_their_children_are_gone_when_the_supervisor_is_killed(
    write: Callable[[str], str], doing: str
) -> None:
    write(f"print('pid', subprocess.Popen(['sleep', '600']).pid, 'child', flush=True)\n{doing}")
    supervisor = subprocess.Popen(
        [sys.executable, "-u", "-c", SUPERVISOR], stdout=subprocess.PIPE, text=True
    )
    assert supervisor.stdout is not None
    pids = []
    try:
        while len(pids) < 7:
            word, pid, *_ = supervisor.stdout.readline().split()
            assert word == "pid"
            pids.append(int(pid))
    finally:
        supervisor.kill()
        supervisor.wait()
        supervisor.stdout.close()
    assert all_gone(pids)
