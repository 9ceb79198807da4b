"""Samples are given out once, permits come back, and money ends a run in order."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from asyncdistil.batch import Failure, RowFailure, RunId, StepName, Usage
from asyncdistil.errors import BudgetExhausted, FailureBudgetExceeded
from asyncdistil.graph.plan import RunPlan, StepPlan
from asyncdistil.supervisor.claims import Claims
from asyncdistil.supervisor.commands import WorkerId
from asyncdistil.supervisor.governors import Governors
from asyncdistil.supervisor.progress import StepProgress
from asyncdistil.supervisor.state import RunState
from asyncdistil.transport.messages import Claim, PermitRequest

KEY = b"k" * 16
NAME = StepName("ask")


def step(**options: object) -> StepPlan:
    return StepPlan(NAME, "row", (), b"l" * 16, b"", "any", b"", **options)  # type: ignore[arg-type]


def state(**options: object) -> RunState:
    plan = RunPlan("p", "", "", b"", (), (), (), (), **options)  # type: ignore[arg-type]
    made = RunState(plan, RunId("run"))
    made.progress[NAME] = StepProgress()
    return made


@given(st.lists(st.integers(1, 5), max_size=20), st.sets(st.integers(0, 30)))
def test_no_sample_is_given_to_two_uses(counts: list[int], replayed: set[int]) -> None:
    claims = Claims()
    claims.take((KEY, number) for number in replayed)
    given_out = list(replayed)
    for lease, count in enumerate(counts):
        (numbers,) = claims.answer(Claim(lease, lease, (KEY,), (count,))).samples
        assert len(numbers) == count
        given_out += numbers
    assert len(set(given_out)) == len(given_out)
    # The lowest free numbers first: nothing that is stored is passed over.
    assert not counts or max(given_out) < len(given_out) or replayed


def test_samples_of_a_lost_lease_are_given_again_and_those_of_a_settled_one_are_not() -> None:
    claims = Claims()
    assert claims.answer(Claim(1, 1, (KEY,), (2,))).samples == ((0, 1),)
    assert claims.answer(Claim(2, 2, (KEY,), (1,))).samples == ((2,),)
    claims.settle(2)
    claims.release(2)
    claims.release(1)
    assert claims.answer(Claim(3, 3, (KEY,), (3,))).samples == ((0, 1, 3),)


def test_permits_of_a_dead_worker_are_free_again() -> None:
    governors = Governors()
    limits = (2, 0, 0)
    first = governors.answer(WorkerId(1), PermitRequest("g", wanted=2, limits=limits), 0.0)
    assert first.permits == 2
    assert governors.answer(WorkerId(2), PermitRequest("g", wanted=1), 0.1).permits == 0
    governors.forget(WorkerId(1))
    assert governors.answer(WorkerId(2), PermitRequest("g", wanted=1), 10.0).permits == 1


def test_a_closed_governor_grants_nothing_and_says_why() -> None:
    governors = Governors()
    governors.close("enough")
    answer = governors.answer(WorkerId(1), PermitRequest("g", wanted=3), 0.0)
    assert (answer.permits, answer.reason) == (0, "enough")
    assert answer.wait_seconds > 0


def test_a_run_that_ends_waits_for_requests_under_way_and_not_for_a_service_that_fails() -> None:
    governors, worker = Governors(), WorkerId(1)
    assert not governors.waits_in_vain(worker)
    assert governors.answer(worker, PermitRequest("g", wanted=2), 0.0).permits == 2
    governors.wind_down()
    governors.answer(worker, PermitRequest("g", wanted=0, returned=1, failed=1), 0.1)
    assert not governors.waits_in_vain(worker)
    answer = governors.answer(worker, PermitRequest("g", wanted=1, returned=1, failed=1), 0.2)
    assert (answer.permits, answer.reason) == (0, "the run ends, and the service keeps failing")
    assert governors.waits_in_vain(worker)
    # Another worker is answered: rows that are held may be finished.
    governors.answer(WorkerId(2), PermitRequest("g", wanted=0, returned=1, succeeded=1), 0.3)
    assert not governors.waits_in_vain(worker)
    assert governors.answer(worker, PermitRequest("g", wanted=1), 0.4).permits == 1


def test_who_is_granted_nothing_is_waited_for_until_all_answers_must_have_been_told() -> None:
    governors, worker = Governors(), WorkerId(1)
    assert governors.answer(worker, PermitRequest("g", wanted=2), 0.0).permits == 2
    governors.close("enough")
    for moment in (0.1, 0.2):
        answered = PermitRequest("g", wanted=5, returned=1, succeeded=1)
        answer = governors.answer(worker, answered, moment)
        assert not governors.waits_in_vain(worker)
    governors.answer(worker, PermitRequest("g", wanted=5), 0.2 + answer.wait_seconds)
    assert governors.waits_in_vain(worker)


def test_a_spent_budget_stops_the_run_and_says_what_was_spent() -> None:
    run = state(budget_microusd=1_000_000)
    run.spent(NAME, Usage(requests=1, cost_microusd=600_000))
    assert run.stop is None
    run.spent(NAME, Usage(requests=1, cost_microusd=400_000))
    assert isinstance(run.stop, BudgetExhausted)
    assert "$1.0000" in str(run.stop)
    assert run.progress[NAME].usage == Usage(requests=2, cost_microusd=1_000_000)
    answer = run.governors.answer(WorkerId(1), PermitRequest("g", wanted=1), 0.0)
    assert answer.permits == 0


def test_a_token_budget_counts_prompt_and_completion() -> None:
    run = state(budget_tokens=100)
    run.spent(NAME, Usage(input_tokens=60, output_tokens=39))
    assert run.stop is None
    run.spent(NAME, Usage(output_tokens=1))
    assert isinstance(run.stop, BudgetExhausted)


FAILED = (RowFailure(0, 0, Failure("ValueError", "no")),)


def test_three_whole_batches_that_fail_at_the_start_are_a_bug_and_not_bad_rows() -> None:
    run = state()
    for _ in range(2):
        run.failures(step(), FAILED, (0,), whole=True)
    assert run.stop is None
    run.failures(step(), FAILED, (0,), whole=True)
    assert isinstance(run.stop, FailureBudgetExceeded)
    assert "ValueError: no" in str(run.stop)


def test_a_step_that_ever_worked_may_fail_whole_batches_later() -> None:
    run = state()
    run.worked(NAME)
    for _ in range(10):
        run.failures(step(), FAILED, (0,), whole=True)
    assert run.stop is None
    assert run.progress[NAME].failed == 10


def test_more_failed_rows_than_max_failures_stop_the_run() -> None:
    run = state()
    run.worked(NAME)
    run.failures(step(max_failures=1), FAILED, (7,), whole=False)
    assert run.stop is None
    run.failures(step(max_failures=1), FAILED, (8,), whole=False)
    assert isinstance(run.stop, FailureBudgetExceeded)
    assert [row for row, _ in run.progress[NAME].first_failures] == [(7,), (8,)]


def test_raise_stops_at_the_first_failed_row() -> None:
    run = state(raise_on_failure=True)
    run.failures(step(), FAILED, (0,), whole=False)
    assert isinstance(run.stop, FailureBudgetExceeded)


def test_a_step_without_a_single_good_row_stops_the_run() -> None:
    run = state()
    run.progress[NAME].inputs_computed = 2
    run.failures(step(), FAILED * 2, (0,), whole=True)
    assert run.stop is None
    run.nothing_worked(step())
    assert isinstance(run.stop, FailureBudgetExceeded)
    assert "all 2 rows of step 'ask' failed" in str(run.stop)


def test_one_failed_row_alone_is_a_bad_row() -> None:
    run = state()
    run.progress[NAME].inputs_computed = 1
    run.failures(step(), FAILED, (0,), whole=True)
    run.nothing_worked(step())
    assert run.stop is None
