"""What follows a try that ended in trouble."""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncdistil.errors import (
    ModelAuthError,
    ModelError,
    ModelNotFound,
    ModelRateLimited,
    ModelReplyError,
    ModelRequestError,
    ModelUnavailable,
)
from asyncdistil.models.retry import (
    Course,
    Patience,
    Tries,
    judge_status,
    retry_after,
    unavailable,
    unreadable,
)

NOW = 1_700_000_000.0


def judged(status: int, text: str = "{}", headers: dict[str, str] | None = None):  # type: ignore[no-untyped-def]
    return judge_status(
        status, service="http://s", headers=headers or {}, text=text, wall_seconds=NOW
    )


@pytest.mark.parametrize(
    ("status", "course", "error"),
    [
        (400, Course.ROW, ModelRequestError),
        (401, Course.STOP, ModelAuthError),
        (402, Course.STOP, ModelRateLimited),
        (403, Course.STOP, ModelAuthError),
        (404, Course.ROW, ModelRequestError),
        (408, Course.RETRY, ModelUnavailable),
        (422, Course.ROW, ModelRequestError),
        (429, Course.THROTTLED, ModelRateLimited),
        (500, Course.RETRY, ModelUnavailable),
        (502, Course.RETRY, ModelUnavailable),
        (503, Course.RETRY, ModelUnavailable),
        (504, Course.RETRY, ModelUnavailable),
        (529, Course.RETRY, ModelUnavailable),
    ],
)
def test_each_status_has_its_course(status: int, course: Course, error: type[ModelError]) -> None:
    trouble = judged(status)
    assert (trouble.course, trouble.error) == (course, error)


@pytest.mark.parametrize(
    ("text", "look_at"),
    [
        (
            '{"error":{"message":"The model `m` does not exist"}}',
            "name",
        ),
        ('{"error":{"message":"nothing for you","code":"model_not_found"}}', "name"),
        (
            '{"error":{"code":"DeploymentNotFound","message":"The deployment does not exist."}}',
            "name",
        ),
        ('{"type":"error","error":{"type":"not_found_error","message":"model: claude-x"}}', "name"),
        ('{"error":"model \'m\' not found, try pulling it first"}', "name"),
        ('{"message":"model \'m\' not found, make sure the correct model ID was used"}', "name"),
        ('{"error":{"message":"No endpoints found for a/modle.","code":404}}', "name"),
        ("404 page not found", "URL"),
        ("", "URL"),
        ("<html><h1>Not Found</h1></html>", "URL"),
        ('{"detail":"Not Found"}', "URL"),
        ('{"error":{"code":404,"message":"File Not Found","type":"not_found_error"}}', "URL"),
        ('{"error":{"message":"Invalid URL (POST /v1/v1/chat/completions)"}}', "URL"),
        ('{"error":{"code":"404","message":"Resource not found"}}', "URL"),
    ],
)
def test_a_404_of_the_model_or_of_the_route_is_everybodys(text: str, look_at: str) -> None:
    trouble = judged(404, text)
    assert (trouble.course, trouble.error) == (Course.STOP, ModelNotFound)
    assert f"check the {look_at} of the" in trouble.message


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        '{"error":{"message":"image http://x/cat.png not found","type":"not_found_error"}}',
        '{"error":{"message":"No such File object: file-5"}}',
        '{"error":{"message":"No endpoints found that support image input","code":404}}',
        '{"error":{"message":"This model does not support images"}}',
        '{"detail":"document 17 not found"}',
    ],
)
def test_a_404_of_anything_else_may_be_a_rows_own(text: str) -> None:
    trouble = judged(404, text)
    assert (trouble.course, trouble.error) == (Course.ROW, ModelRequestError)


def test_an_empty_account_is_not_waited_for() -> None:
    trouble = judged(429, '{"error": {"message": "no money", "code": "insufficient_quota"}}')
    assert trouble.course is Course.STOP
    assert trouble.error is ModelRateLimited
    assert "top it up" in trouble.message


def test_the_message_of_the_service_is_told_without_its_wrapping() -> None:
    assert judged(400, '{"error": {"message": "too long"}}').message.endswith("too long")
    assert judged(400, '{"detail": "no such field"}').message.endswith("no such field")
    assert judged(400, "plain words").message.endswith("plain words")


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"Retry-After": "7"}, 7.0),
        ({"Retry-After": "0.5"}, 0.5),
        ({"Retry-After": "-3"}, 0.0),
        ({"Retry-After": "999999999999"}, 999999999999.0),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": "nan"}, None),
        ({"Retry-After": format_datetime(datetime.fromtimestamp(NOW + 90, UTC))}, 90.0),
        ({"Retry-After": format_datetime(datetime.fromtimestamp(NOW - 90, UTC))}, 0.0),
        ({"Retry-After": "Mon, 99 Foo 2024 00:00:00 GMT"}, None),
        ({"retry-after-ms": "250", "Retry-After": "1"}, 0.25),
    ],
)
def test_retry_after_is_read_in_every_form(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after(headers, wall_seconds=NOW) == seconds


@given(st.text(max_size=40))
def test_no_retry_after_header_raises_or_asks_for_negative_time(text: str) -> None:
    seconds = retry_after({"Retry-After": text}, wall_seconds=NOW)
    assert seconds is None or seconds >= 0


def test_trouble_that_may_pass_is_retried_as_often_as_allowed() -> None:
    tries = Tries(Patience(max_retries=3))
    outcomes = [
        tries.after(unavailable("gone"), sent_at=0.0, now=0.0, chance=0.5) for _ in range(4)
    ]
    assert [isinstance(o, float) for o in outcomes] == [True, True, True, False]
    assert isinstance(outcomes[3], ModelUnavailable)
    assert outcomes[3].attempts == 4
    assert "after 4 tries" in str(outcomes[3])


@given(st.floats(0, 1))
def test_the_default_waits_outlast_a_service_gone_for_ten_seconds(chance: float) -> None:
    tries = Tries(Patience())
    waited = 0.0
    while isinstance(
        wait := tries.after(unavailable("gone"), sent_at=waited, now=waited, chance=chance), float
    ):
        waited += wait
    assert waited > 10


@given(st.lists(st.floats(0, 1), min_size=2, max_size=60))
def test_429_never_spends_a_retry(chances: list[float]) -> None:
    tries = Tries(Patience(max_retries=0, rate_limit_seconds=1e9))
    for chance in chances:
        assert isinstance(tries.after(judged(429), sent_at=0.0, now=0.0, chance=chance), float)


def test_429_is_borne_for_the_patience_and_no_longer() -> None:
    tries = Tries(Patience(rate_limit_seconds=100))
    now = 0.0
    while isinstance(wait := tries.after(judged(429), sent_at=now, now=now, chance=1.0), float):
        now += wait
        assert now <= 100
    assert isinstance(wait, ModelRateLimited)
    assert "patience of 100 s" in str(wait)


def test_an_absurd_retry_after_ends_at_once_and_is_named() -> None:
    trouble = judged(429, headers={"Retry-After": "31536000"})
    error = Tries(Patience()).after(trouble, sent_at=0.0, now=0.0, chance=0.0)
    assert isinstance(error, ModelRateLimited)
    assert "31536000 s more" in str(error)


def test_retry_after_is_waited_for_in_full() -> None:
    trouble = judged(429, headers={"Retry-After": "7"})
    wait = Tries(Patience()).after(trouble, sent_at=0.0, now=0.0, chance=0.3)
    assert isinstance(wait, float)
    assert 7 <= wait <= 8
    trouble = judged(503, headers={"Retry-After": "7"})
    assert Tries(Patience()).after(trouble, sent_at=0.0, now=0.0, chance=0.3) == 7


def test_patience_begins_anew_after_other_trouble() -> None:
    tries = Tries(Patience(rate_limit_seconds=10))
    assert isinstance(tries.after(judged(429), sent_at=0.0, now=0.0, chance=0), float)
    assert isinstance(tries.after(unavailable("x"), sent_at=9.0, now=9.0, chance=0), float)
    assert isinstance(tries.after(judged(429), sent_at=15.0, now=15.0, chance=0), float)


def test_the_deadline_counts_sending_and_waiting() -> None:
    tries = Tries(Patience(max_retries=100, deadline_seconds=30))
    assert isinstance(tries.after(unavailable("x"), sent_at=0.0, now=20.0, chance=0), float)
    error = tries.after(unavailable("x"), sent_at=20.0, now=35.0, chance=0)
    assert isinstance(error, ModelUnavailable)
    assert "deadline of 30 s" in str(error)


def test_the_time_of_429_is_not_counted_against_the_deadline() -> None:
    tries = Tries(Patience(max_retries=1, deadline_seconds=5, rate_limit_seconds=1e6))
    for now in range(0, 1000, 10):
        assert isinstance(tries.after(judged(429), sent_at=now, now=now, chance=0), float)
    assert isinstance(tries.after(unavailable("x"), sent_at=1000.0, now=1001.0, chance=0), float)


def test_what_is_the_rows_fault_is_not_tried_again() -> None:
    for trouble in (judged(422), unreadable("bomb", again=False)):
        outcome = Tries(Patience()).after(trouble, sent_at=0.0, now=0.0, chance=0)
        assert isinstance(outcome, ModelRequestError | ModelReplyError)
        assert outcome.attempts == 1
