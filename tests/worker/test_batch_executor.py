import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from pydantic import SecretStr

from asyncdistil.batch import FRESH_ORIGINS, SAME_ORIGINS, Failure, Origins, Row
from asyncdistil.errors import ModelAuthError
from asyncdistil.steps import GlobalStep, Step
from asyncdistil.transport.messages import (
    Failed,
    Fatal,
    Finish,
    Loaded,
    LoadFailed,
    Result,
    Survived,
)

ROWS: list[Row] = [{"n": n} for n in range(10)]


class Double(Step):
    row_wise: bool = True

    @property
    def inputs(self) -> list[str]:
        return ["n"]

    @property
    def outputs(self) -> list[str]:
        return ["twice"]

    def process(self, inputs: list[Row]) -> Iterator[list[Row]]:  # type: ignore[override]
        for row in inputs:
            row["twice"] = self.twice(row["n"])
        yield inputs

    def twice(self, n: int) -> Any:
        return n * 2


class Picky(Double):
    """Fails on some rows, after it has changed the ones before."""

    bad: list[int]

    def twice(self, n: int) -> Any:
        if n in self.bad:
            raise ValueError(f"can't double {n}")
        return n * 2


class BatchPicky(Picky):
    row_wise: bool = False


class Odd(Double):
    """Drops, expands and keeps rows."""

    def process(self, inputs: list[Row]) -> Iterator[list[Any]]:  # type: ignore[override]
        for row in inputs:
            n = row["n"]
            row["twice"] = 2 * n
            yield [None if n % 3 == 0 else [dict(row), dict(row)] if n % 3 == 1 else row]


class Total(GlobalStep):
    @property
    def outputs(self) -> list[str]:
        return ["total"]

    def process(self, *inputs: list[Row]) -> Iterator[list[Row]]:  # type: ignore[override]
        if any(row.get("n") == -1 for rows in inputs for row in rows):
            raise RuntimeError("a negative number")
        yield [{"total": sum(row["n"] for rows in inputs for row in rows)}]
        yield [{"total": len(inputs)}]


def test_rows_come_back_with_their_origins_and_the_digest_of_what_was_read(rig: Any) -> None:
    rig.start(Double())
    lease = rig.lease(7, ROWS)
    result = rig.expect(Result)
    assert (result.lease, result.start, result.stop) == (7, 0, 10)
    assert rig.rows(result.outputs) == [{"n": n, "twice": 2 * n} for n in range(10)]
    assert result.origins == SAME_ORIGINS
    assert result.input_digests == (lease.ports[0][0].ref.digest,)
    assert result.failures == ()
    assert rig.finish() == 0


def test_rows_read_across_slices_carry_the_digest_of_exactly_those_rows(rig: Any) -> None:
    from asyncdistil.batch import RowSlice
    from asyncdistil.transport.messages import Lease

    rig.start(Double())
    (first,), (second,) = rig.store_rows(ROWS), rig.store_rows(ROWS)
    slices = (RowSlice(first.ref, 8, 10), RowSlice(second.ref, 0, 1))
    rig.send(Lease(1, (slices,)))
    result = rig.expect(Result)
    assert [row["n"] for row in rig.rows(result.outputs)] == [8, 9, 0]
    assert result.input_digests == (rig.reader.digest(slices),)
    (joined,) = rig.store_rows([{"n": 8}, {"n": 9}, {"n": 0}])
    assert result.input_digests == (joined.ref.digest,)


def test_dropped_and_expanded_rows_are_counted_and_traced(rig: Any) -> None:
    rig.start(Odd())
    rig.lease(1, ROWS[:4])
    result = rig.expect(Result)
    assert [row["n"] for row in rig.rows(result.outputs)] == [1, 1, 2]
    assert result.origins == Origins("children", (1, 1, 2), (0, 1, -1))
    assert result.filtered == 2


def test_an_empty_batch_is_ordinary(rig: Any) -> None:
    rig.start(Double())
    rig.lease(1, [])
    result = rig.expect(Result)
    assert (result.start, result.stop, result.outputs) == (0, 0, ())


def test_many_leases_come_back_in_order_and_in_few_writes(rig: Any) -> None:
    rig.start(Double())
    slices = rig.store_rows(ROWS)
    from asyncdistil.transport.messages import Lease

    rig.send(*(Lease(number, (slices,)) for number in range(500)))
    assert [rig.expect(Result).lease for _ in range(500)] == list(range(500))


@pytest.mark.parametrize("bad", [[0], [9], [3, 4], [0, 9], list(range(10))])
def test_only_the_rows_that_make_a_row_wise_step_raise_fail(rig: Any, bad: list[int]) -> None:
    rig.start(Picky(bad=bad))
    rig.lease(1, ROWS)
    result = rig.expect(Result)
    expected = [{"n": n, "twice": None if n in bad else 2 * n} for n in range(10)]
    assert rig.rows(result.outputs) == expected
    assert result.origins == SAME_ORIGINS
    assert [(f.input_row, f.output_row) for f in result.failures] == [(n, n) for n in bad]
    for failed in result.failures:
        assert failed.failure.kind == "ValueError"
        assert failed.failure.message == f"can't double {failed.input_row}"
        assert "in twice" in failed.failure.detail


@pytest.mark.parametrize("bad", [[0], [9], [3, 4], list(range(10))])
def test_a_batch_wise_step_is_called_once_more_without_the_culprits(
    rig: Any, bad: list[int]
) -> None:
    rig.start(BatchPicky(bad=bad))
    rig.lease(1, ROWS)
    result = rig.expect(Result)
    expected = [{"n": n, "twice": None if n in bad else 2 * n} for n in range(10)]
    assert rig.rows(result.outputs) == expected
    assert result.origins == SAME_ORIGINS
    assert [(f.input_row, f.output_row) for f in result.failures] == [(n, n) for n in bad]


class Pairs(BatchPicky):
    """One row for two, so outputs belong to no single input."""

    def process(self, inputs: list[Row]) -> Iterator[list[Row]]:
        numbers = [self.twice(row["n"]) for row in inputs]
        yield [{"n": n, "twice": n} for n in numbers[::2]]


def test_null_forms_follow_at_the_end_where_outputs_belong_to_no_row(rig: Any) -> None:
    rig.start(Pairs(bad=[2]))
    rig.lease(1, ROWS[:5])
    result = rig.expect(Result)
    assert [row["n"] for row in rig.rows(result.outputs)] == [0, 6, 2]
    assert result.origins == FRESH_ORIGINS
    assert [(f.input_row, f.output_row) for f in result.failures] == [(2, 2)]


class TooMany(BatchPicky):
    def process(self, inputs: list[Row]) -> Iterator[list[Row]]:
        if len(inputs) > 3:
            raise ValueError("too many at once")
        yield [{**row, "twice": 0} for row in inputs]


def test_rows_that_fail_only_in_company_fail_together(rig: Any) -> None:
    rig.start(TooMany(bad=[]))
    rig.lease(1, ROWS)
    result = rig.expect(Result)
    assert len(result.failures) == 10
    assert {f.failure.message for f in result.failures} == {"too many at once"}
    assert rig.rows(result.outputs) == [{"n": n, "twice": None} for n in range(10)]


def test_a_global_step_gets_all_rows_and_fails_whole(rig: Any) -> None:
    rig.start(Total())
    rig.lease(1, ROWS, ROWS[:3])
    result = rig.expect(Result)
    assert rig.rows(result.outputs) == [{"total": 48}, {"total": 2}]
    assert result.origins == FRESH_ORIGINS
    assert len(result.input_digests) == 2
    rig.lease(2, [{"n": 1}, {"n": -1}])
    assert rig.expect(Failed).failure.message == "a negative number"


def test_a_global_step_that_would_not_fit_stops_the_run_before_it_decodes(rig: Any) -> None:
    from asyncdistil.steps import StepResources

    rig.start(Total(resources=StepResources(memory=100)))
    rig.lease(1, ROWS)
    fatal = rig.expect(Fatal)
    assert fatal.kind == "MemoryRefused"
    assert "10 rows" in fatal.message
    assert rig.finish() == 0


class Zip(Picky):
    def process(self, *inputs: list[Row]) -> Iterator[list[Row]]:  # type: ignore[override]
        yield [
            {**left, **right, "twice": self.twice(left["n"])}
            for left, right in zip(*inputs, strict=True)
        ]


def test_rows_of_a_join_fail_together_and_keep_the_columns_of_every_port(rig: Any) -> None:
    rig.start(Zip(bad=[2]))
    rig.lease(1, ROWS[:3], [{"n": -1, "text": t} for t in "abc"])
    result = rig.expect(Result)
    assert rig.rows(result.outputs) == [
        {"n": -1, "text": "a", "twice": 0},
        {"n": -1, "text": "b", "twice": 2},
        {"n": 2, "text": "c", "twice": None},
    ]
    assert [f.input_row for f in result.failures] == [2]


@pytest.mark.parametrize("made", [Double(), BatchPicky(bad=[1])])
def test_condemned_rows_are_not_processed_and_keep_their_reason(rig: Any, made: Step) -> None:
    rig.start(made)
    reason = Failure("WorkerDied", "killed its worker", 3)
    rig.lease(1, ROWS[:3], condemned=((1, reason),))
    result = rig.expect(Result)
    twice = [row["twice"] for row in rig.rows(result.outputs)]
    assert twice == [0, None, 4]
    assert [(f.input_row, f.failure) for f in result.failures] == [(1, reason)]
    rig.lease(2, ROWS[:1], condemned=((0, reason),))
    assert rig.rows(rig.expect(Result).outputs) == [{"n": 0, "twice": None}]


def test_a_probe_writes_nothing_and_says_what_it_saw(rig: Any) -> None:
    before = os.fstat(rig.fd).st_size
    rig.start(Picky(bad=[1]))
    rig.lease(1, ROWS[:1], probe=True)
    assert rig.expect(Survived) == Survived(1)
    rig.lease(2, ROWS[1:2], probe=True)
    survived = rig.expect(Survived)
    assert survived.failure is not None
    assert survived.failure.message == "can't double 1"
    assert os.fstat(rig.fd).st_size == before


class Careless(Double):
    def twice(self, n: int) -> Any:
        return {1: object(), 2: "x\ud800"}.get(n, n)

    def process(self, inputs: list[Row]) -> Iterator[list[Row]]:
        made = next(super().process(inputs))
        for row in made:
            if row["n"] == 3:
                del row["twice"]
        yield made


def test_a_row_that_breaks_the_contract_fails_alone(rig: Any) -> None:
    rig.start(Careless())
    rig.lease(1, ROWS[:5])
    result = rig.expect(Result)
    assert [row["twice"] for row in rig.rows(result.outputs)] == [0, None, "x\ud800", None, 4]
    messages = {f.input_row: f.failure.message for f in result.failures}
    assert "'twice'" in messages[1]
    assert "under_test" in messages[1]
    assert "without it" in messages[3]
    assert set(messages) == {1, 3}


class BatchCareless(Careless):
    row_wise: bool = False


def test_a_batch_with_a_row_that_breaks_the_contract_loses_only_that_row(rig: Any) -> None:
    rig.start(BatchCareless())
    rig.lease(1, ROWS[:5])
    result = rig.expect(Result)
    assert [row["twice"] for row in rig.rows(result.outputs)] == [0, None, "x\ud800", None, 4]
    assert sorted(f.input_row for f in result.failures) == [1, 3]


class Leaky(Double):
    key: SecretStr

    def load(self) -> None:
        self._logger.info("loading with %s", os.environ["SERVICE_TOKEN"])

    def twice(self, n: int) -> Any:
        self._logger.warning("using %s", self.key.get_secret_value())
        raise ValueError(f"{self.key.get_secret_value()} and {os.environ['SERVICE_TOKEN']}")


def test_secrets_are_struck_out_of_failures_and_logs(make_rig: Callable[..., Any]) -> None:
    rig = make_rig(SERVICE_TOKEN="canary-in-the-environment")
    rig.start(Leaky(key=SecretStr("canary-in-a-field")))
    rig.lease(1, ROWS[:1])
    result = rig.expect(Result)
    said = repr(result) + repr(rig.logs) + "".join(line.text for line in rig.logs)
    assert "canary" not in said
    assert "using **********" in said
    raw = b"".join(p.read_bytes() for p in rig.store.root.rglob("*") if p.is_file())
    assert b"canary" not in raw


class Exits(Double):
    how: str

    def twice(self, n: int) -> Any:
        match self.how:
            case "sys.exit":
                sys.exit(9)
            case "os._exit":
                os._exit(9)
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "segfault":
                os.kill(os.getpid(), signal.SIGSEGV)
            case "interrupt":
                raise KeyboardInterrupt
            case "generator exit":
                raise GeneratorExit
        return n


@pytest.mark.parametrize(
    ("how", "status"),
    [
        ("sys.exit", 9),
        ("os._exit", 9),
        ("kill", -signal.SIGKILL),
        ("segfault", -signal.SIGSEGV),
    ],
)
def test_a_step_that_ends_the_process_ends_it(rig: Any, how: str, status: int) -> None:
    rig.start(Exits(how=how))
    rig.lease(1, ROWS[:2])
    with pytest.raises((EOFError, ConnectionResetError)):
        rig.next()
    assert rig.wait() == status


@pytest.mark.parametrize("how", ["interrupt", "generator exit"])
def test_an_interrupt_raised_by_the_step_itself_is_a_failure(rig: Any, how: str) -> None:
    rig.start(Exits(how=how))
    rig.lease(1, ROWS[:2])
    assert len(rig.expect(Result).failures) == 2
    assert rig.finish() == 0


def test_an_interrupt_from_the_terminal_is_ignored(rig: Any) -> None:
    rig.start(Double())
    rig.process.send_signal(signal.SIGINT)
    rig.lease(1, ROWS)
    rig.expect(Result)


class KeyRejected(Double):
    def twice(self, n: int) -> Any:
        raise ModelAuthError("the key was rejected: set API_KEY")


def test_an_error_that_no_row_would_be_spared_stops_the_run_and_not_the_worker(rig: Any) -> None:
    rig.start(KeyRejected())
    rig.lease(1, ROWS)
    assert rig.expect(Fatal) == Fatal("ModelAuthError", "the key was rejected: set API_KEY")
    assert rig.finish() == 0


def test_damaged_input_is_fatal_and_named(rig: Any) -> None:
    rig.start(Double())
    slices = rig.store_rows(ROWS)
    path = rig.reader.path(slices[0].ref.segment)
    data = bytearray(path.read_bytes())
    data[-20] ^= 1
    path.write_bytes(data)
    from asyncdistil.transport.messages import Lease

    rig.send(Lease(1, (slices,)))
    assert rig.expect(Fatal).kind == "CorruptRecord"


def test_a_full_disk_is_fatal(make_rig: Callable[..., Any]) -> None:
    rig = make_rig(ASYNCDISTIL_FAILPOINTS="segment.append=raise:ENOSPC")
    rig.start(Double())
    rig.lease(1, ROWS)
    assert rig.expect(Fatal).kind == "StorageError"


class Noisy(Double):
    def process(self, inputs: list[Row]) -> Iterator[list[Row]]:
        sys.stdout.write("from process\n")
        os.write(1, b"raw\n")
        os.chdir("/")
        self._logger.info("logged")
        yield from super().process(inputs)


def test_prints_and_a_changed_directory_disturb_no_frame(rig: Any) -> None:
    rig.start(Noisy())
    for number in range(3):
        rig.lease(number, ROWS)
        assert rig.expect(Result).lease == number
    assert [line.text for line in rig.logs] == ["logged"] * 3
    assert rig.finish() == 0
    assert rig.process.stdout.read() == b"from process\nraw\n" * 3


class Closes(Double):
    def process(self, inputs: list[Row]) -> Iterator[list[Row]]:
        os.closerange(0, 256)
        yield from super().process(inputs)


def test_a_step_that_closes_every_descriptor_ends_its_worker_and_nothing_else(rig: Any) -> None:
    rig.start(Closes())
    rig.lease(1, ROWS)
    with pytest.raises((EOFError, ConnectionResetError)):
        rig.next()
    assert rig.wait() != 0


class Parent(Double):
    def process(self, inputs: list[Row]) -> Iterator[list[Row]]:
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        names = os.listdir(f"/proc/{child.pid}/fd")
        yield [{**row, "twice": child.pid, "fds": names} for row in inputs]


def test_grandchildren_inherit_neither_socket_nor_segment(rig: Any) -> None:
    rig.start(Parent())
    rig.lease(1, ROWS[:1])
    (row,) = rig.rows(rig.expect(Result).outputs)
    links = [
        os.readlink(f"/proc/{row['twice']}/fd/{fd}")
        for fd in os.listdir(f"/proc/{row['twice']}/fd")
    ]
    assert not any(link.startswith("socket:") or link.endswith(".ads") for link in links)
    os.killpg(rig.process.pid, signal.SIGKILL)


class LoadsBadly(Double):
    how: str

    def load(self) -> None:
        if self.how == "exit":
            sys.exit("no weights")
        raise ImportError("no module named weights")


@pytest.mark.parametrize(("how", "says"), [("raise", "weights"), ("exit", "sys.exit")])
def test_a_load_that_fails_is_told_and_the_worker_exits(rig: Any, how: str, says: str) -> None:
    rig.load(LoadsBadly(how=how))
    assert says in rig.expect(LoadFailed).failure.message
    assert rig.wait() == os.EX_CONFIG


class LoadsDeaf(Double):
    """As pydantic does while it builds a validator, it makes another error of whatever comes."""

    path: str

    def load(self) -> None:
        super().load()
        try:
            with open(self.path, "w"):  # a FIFO: says that it is here
                pass
            time.sleep(600)
        except BaseException as error:
            raise ValueError("could not be built") from error


def test_term_while_a_step_is_loaded_is_no_failure_of_the_step(rig: Any, tmp_path: Any) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    rig.load(LoadsDeaf(path=str(gate)))
    gate.read_bytes()
    rig.process.terminate()
    assert rig.wait() == 128 + signal.SIGTERM
    with pytest.raises(EOFError):
        rig.next()


def test_a_step_that_cannot_be_rebuilt_is_a_load_failure(rig: Any) -> None:
    rig.load(Double(), payload=b"\x80\x04cno_such_module\nThing\n.")
    assert "no_such_module" in rig.expect(LoadFailed).failure.message


def test_the_code_that_was_signed_is_the_code_that_runs(rig: Any) -> None:
    step = Double()
    assert rig.start(step, check=True).code == step.code().digest


def test_other_code_than_what_was_signed_is_refused(rig: Any) -> None:
    rig.load(Double(), code=bytes(16))
    failure = rig.expect(LoadFailed).failure
    assert failure.kind.endswith("SignatureMismatch")
    assert rig.wait() == os.EX_CONFIG


class Unloads(Double):
    path: str

    def unload(self) -> None:
        with open(self.path, "w") as file:
            file.write("unloaded")


@pytest.mark.parametrize("how", ["finish", "term"])
def test_the_step_is_unloaded_when_asked_to_finish_and_on_term(
    rig: Any, tmp_path: Any, how: str
) -> None:
    rig.start(Unloads(path=str(tmp_path / "flag")))
    if how == "finish":
        assert rig.finish() == 0
    else:
        rig.process.terminate()
        assert rig.wait() == 128 + signal.SIGTERM
    assert (tmp_path / "flag").read_text() == "unloaded"


class UnloadsBadly(Double):
    def unload(self) -> None:
        raise OSError("already gone")


def test_an_unload_that_raises_is_logged_and_costs_nothing(rig: Any) -> None:
    rig.start(UnloadsBadly())
    rig.lease(1, ROWS)
    rig.expect(Result)
    assert rig.finish() == 0
    assert any("already gone" in line.text for line in rig.logs)


class Sleeps(Double):
    def twice(self, n: int) -> Any:
        time.sleep(600)


def test_term_interrupts_a_step_at_work(rig: Any) -> None:
    rig.start(Sleeps())
    rig.lease(1, ROWS)
    rig.process.terminate()
    assert rig.wait() == 128 + signal.SIGTERM


def test_a_worker_whose_supervisor_closes_the_socket_is_gone(rig: Any) -> None:
    rig.start(Sleeps())
    rig.lease(1, ROWS)
    rig.sock.close()
    assert rig.wait() == -signal.SIGKILL


def test_a_first_message_that_is_no_load_ends_the_worker(rig: Any) -> None:
    rig.send(Finish())
    assert rig.wait() == os.EX_UNAVAILABLE


@pytest.mark.parametrize("junk", [b"\xff\xff\xff\x7f", b"\x03\0\0\0abc"])
def test_garbage_from_the_supervisor_ends_the_worker(rig: Any, junk: bytes) -> None:
    rig.start(Double())
    rig.sock.sendall(junk)
    assert rig.wait() == os.EX_UNAVAILABLE


class AllWrong(Double):
    def twice(self, n: int) -> Any:
        raise ValueError("x" * 20_000)


def test_more_failures_than_a_frame_could_hold_in_full_still_fit_into_one(rig: Any) -> None:
    rig.start(AllWrong())
    rig.lease(1, [{"n": n} for n in range(5_000)])
    result = rig.expect(Result)
    assert len(result.failures) == 5_000
    assert len(result.failures[0].failure.detail) <= 16 * 1024


class Floats(Double):
    def twice(self, n: int) -> Any:
        return [math.nan, math.inf, None, b"\0", 2**70][n]


def test_odd_values_travel_as_they_are(rig: Any) -> None:
    rig.start(Floats())
    rig.lease(1, ROWS[:5])
    values = [row["twice"] for row in rig.rows(rig.expect(Result).outputs)]
    assert math.isnan(values[0])
    assert values[1:] == [math.inf, None, b"\0", 2**70]


def test_a_lost_working_directory_is_a_warning(rig: Any) -> None:
    rig.load(Double(), cwd="/no/such/place")
    rig.expect(Loaded)
    rig.lease(1, ROWS)
    rig.expect(Result)
    assert any("/no/such/place" in line.text for line in rig.logs)
