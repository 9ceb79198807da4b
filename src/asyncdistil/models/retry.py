"""What to do about a request that went wrong: pure decisions, no clock and no I/O.

Every client, ours or a provider's SDK, reports a failure as a `Trouble`. `Tries` then says how long
to wait before the next try, or that there is none. This is the only retry authority: the SDKs' own
retries are switched off.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from enum import Enum

import msgspec

from asyncdistil.errors import (
    ModelAuthError,
    ModelError,
    ModelNotFound,
    ModelRateLimited,
    ModelReplyError,
    ModelRequestError,
    ModelUnavailable,
)

MAX_DETAIL_CHARS = 16 * 1024


class Course(Enum):
    """What a class of trouble calls for."""

    RETRY = "retry"  # may pass: spends a retry
    THROTTLED = "throttled"  # asked to slow down: costs time, never a retry
    ROW = "row"  # this request is at fault: its row fails
    STOP = "stop"  # nobody's request can succeed: the run stops


@dataclass(frozen=True, slots=True)
class Trouble:
    """One request that did not get an answer.

    Attributes:
        course: What it calls for.
        error: Class to raise when it is given up.
        message: What happened, one sentence, secrets removed.
        status: HTTP status, 0 if there was none.
        retry_after_seconds: Wait that the service asked for, ``None`` if it did not.
        detail: Raw reply, secrets removed.
    """

    course: Course
    error: type[ModelError]
    message: str
    status: int = 0
    retry_after_seconds: float | None = None
    detail: str = ""


class RequestFailed(Exception):
    """Carries a `Trouble` from a client to the retry loop; never leaves the models room."""

    def __init__(self, trouble: Trouble) -> None:
        super().__init__(trouble.message)
        self.trouble = trouble


_AUTH = frozenset({401, 403})
_PASSING = frozenset({408, 409, 425, 500, 502, 503, 504})
# A 404 that would be everybody's: texts of OpenAI, Azure, Anthropic, Cohere, OpenRouter, vLLM,
# Ollama and llama.cpp, and of web servers and frameworks that know no such route.
_MISSING = re.compile(
    r"not[ _]?found|no such|(does not|doesn't|do not) exist|unknown|no access|unable to access"
)
_NO_MODEL_MARKS = ("model_not_found", "deploymentnotfound")
_A_MODEL = re.compile(r"\b(models?|deployments?)\b")
_NO_ROUTE = re.compile(
    r"\W*(404\W*)?((page|file|path|route|url|resource|endpoint|the requested \w+)\W+)?"
    r"(was )?not found( on this server)?\W*"
    r"|(invalid|unknown|unrecognized|no such) (request )?(url|path|route|endpoint)\b.*"
    r"|(cannot|can't) post\b.*|no route matched\b.*",
    re.DOTALL,
)
# A 429 that no waiting mends: the account is empty.
_QUOTA_MARKS = ("insufficient_quota", "billing_hard_limit", "credit balance is too low")


def judge_status(
    status: int,
    *,
    service: str,
    headers: Mapping[str, str],
    text: str,
    wall_seconds: float,
) -> Trouble:
    """Classify an HTTP error.

    Args:
        status: 400 or above.
        service: Who answered, for the message: a URL without secrets.
        headers: Of the reply; looked up case-insensitively by the mapping itself.
        text: Body of the reply, secrets removed.
        wall_seconds: Unix time, to read a ``Retry-After`` date by.
    """
    wait = retry_after(headers, wall_seconds=wall_seconds)
    says = f"{service} answered {status}: {_first_words(_message_in(text))}"
    detail = text[:MAX_DETAIL_CHARS]
    if status in _AUTH:
        message = f"{says}; check the API key and what it may be used for"
        return Trouble(Course.STOP, ModelAuthError, message, status, wait, detail)
    if status == 404 and (cause := _nothing_there(text)):
        return Trouble(Course.STOP, ModelNotFound, f"{says}; {cause}", status, wait, detail)
    if status == 402 or (status == 429 and any(mark in text for mark in _QUOTA_MARKS)):
        message = f"{says}; the account has no credit left: top it up and run again"
        return Trouble(Course.STOP, ModelRateLimited, message, status, wait, detail)
    if status == 429:
        return Trouble(Course.THROTTLED, ModelRateLimited, says, status, wait, detail)
    if status in _PASSING or status >= 500:
        return Trouble(Course.RETRY, ModelUnavailable, says, status, wait, detail)
    return Trouble(Course.ROW, ModelRequestError, says, status, wait, detail)


def unavailable(message: str) -> Trouble:
    """Refused, reset, cut off or timed out."""
    return Trouble(Course.RETRY, ModelUnavailable, message)


def unreadable(message: str, *, detail: str = "", again: bool = True) -> Trouble:
    """A reply came and could not be understood; ``again`` if another try may do better."""
    course = Course.RETRY if again else Course.ROW
    return Trouble(course, ModelReplyError, message, detail=detail[:MAX_DETAIL_CHARS])


def _nothing_there(text: str) -> str:
    """What to look at if a 404 is about the model or the URL; empty if it may be about a row."""
    said = _message_in(text).strip().lower()
    if not said or said.startswith("<") or _NO_ROUTE.fullmatch(said):
        return "check the URL of the service"
    whole = text.lower()
    if said.startswith("no endpoints found for") or any(mark in whole for mark in _NO_MODEL_MARKS):
        return "check the name of the model"
    if _A_MODEL.search(said) and _MISSING.search(whole):
        return "check the name of the model"
    return ""


def _message_in(text: str) -> str:
    """The message of an error in one of the usual JSON shapes; all of the text otherwise."""
    try:
        value = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError):
        return text
    for _ in range(3):
        if isinstance(value, str) and value:
            return value
        if not isinstance(value, Mapping):
            break
        value = next((value[k] for k in ("error", "message", "detail") if value.get(k)), None)
    return text


def _first_words(text: str, limit: int = 300) -> str:
    words = " ".join(text.split())
    return words if len(words) <= limit else f"{words[:limit]}…"


def retry_after(headers: Mapping[str, str], *, wall_seconds: float) -> float | None:
    """Seconds that a service asks to wait: ``retry-after-ms``, or ``Retry-After`` of either form.

    Returns:
        At least 0, however large (what is absurd is for the caller's patience to judge); ``None``
        if there is no header, or nothing that can be read as a time.
    """
    for name, scale in (("retry-after-ms", 0.001), ("Retry-After", 1.0)):
        value = headers.get(name)
        if not value:
            continue
        try:
            seconds = float(value) * scale
        except ValueError:
            try:
                seconds = parsedate_to_datetime(value).timestamp() - wall_seconds
            except (ValueError, OverflowError, TypeError, IndexError):
                continue
        if not math.isnan(seconds):
            return max(0.0, seconds)
    return None


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to keep trying.

    Attributes:
        max_retries: Tries after the first, for trouble that may pass.
        deadline_seconds: Time that sending and waiting of one request may take together; time
            spent because the service said 429 does not count.
        rate_limit_seconds: Time for which 429 is borne, from the first one on.
        silence_seconds: Time for which the service may answer nobody before all is given up.
        first_answer_seconds: Likewise, as long as it has never answered.
        first_wait_seconds: Before the first retry; doubles with each.
        longest_wait_seconds: Bound of that doubling.
    """

    max_retries: int = 6
    deadline_seconds: float = 1800.0
    rate_limit_seconds: float = 1800.0
    silence_seconds: float = 1800.0
    first_answer_seconds: float = 60.0
    first_wait_seconds: float = 0.5
    longest_wait_seconds: float = 60.0


@dataclass(slots=True)
class Tries:
    """The tries of one request.

    Attributes:
        made: Tries that ended in trouble.
    """

    patience: Patience
    made: int = 0
    _retries: int = 0
    _throttled: int = 0
    _spent_seconds: float = 0.0
    _throttled_since: float | None = None

    @property
    def left_seconds(self) -> float:
        """How long the next try may take."""
        return max(0.0, self.patience.deadline_seconds - self._spent_seconds)

    def after(
        self, trouble: Trouble, *, sent_at: float, now: float, chance: float
    ) -> float | ModelError:
        """Decide what follows a try that ended in trouble.

        Args:
            trouble: How it ended.
            sent_at: When it was sent, monotonic seconds.
            now: When it ended, likewise.
            chance: Drawn evenly from 0 to 1; spreads the waits of many requests.

        Returns:
            Seconds to wait before the next try, or the error to raise instead.
        """
        self.made += 1
        match trouble.course:
            case Course.THROTTLED:
                return self._slow_down(trouble, now, chance)
            case Course.RETRY:
                return self._try_again(trouble, now - sent_at, chance)
            case _:
                return self._give_up(trouble, trouble.message)

    def _slow_down(self, trouble: Trouble, now: float, chance: float) -> float | ModelError:
        if self._throttled_since is None:
            self._throttled_since = now
        if trouble.retry_after_seconds is not None:
            # Everyone was told the same time: a little later each, or they collide again.
            wait = trouble.retry_after_seconds + chance * min(1.0, trouble.retry_after_seconds)
        else:
            wait = self._backoff(self._throttled, chance)
        self._throttled += 1
        waited = now - self._throttled_since
        asked = trouble.retry_after_seconds or wait
        if waited + wait > self.patience.rate_limit_seconds:
            limit = self.patience.rate_limit_seconds
            return self._give_up(
                trouble,
                f"{trouble.message} (has done so for {waited:.0f} s and asks for {asked:.0f} s"
                f" more, beyond the patience of {limit:.0f} s): run again later, or raise"
                " `rate_limit_patience_seconds`",
            )
        return wait

    def _try_again(self, trouble: Trouble, took: float, chance: float) -> float | ModelError:
        self._throttled_since = None
        wait = self._backoff(self._retries, chance)
        if trouble.retry_after_seconds is not None:
            wait = max(wait, trouble.retry_after_seconds)
        self._retries += 1
        self._spent_seconds += took
        if self._retries > self.patience.max_retries:
            tries = "try" if self.made == 1 else "tries"
            return self._give_up(trouble, f"{trouble.message} (after {self.made} {tries})")
        if self._spent_seconds + wait > self.patience.deadline_seconds:
            return self._give_up(
                trouble,
                f"{trouble.message} (another try would pass the deadline of"
                f" {self.patience.deadline_seconds:g} s)",
            )
        self._spent_seconds += wait
        return wait

    def _backoff(self, earlier: int, chance: float) -> float:
        """Double each time; half of it fixed, so that a server gone for seconds is outlasted."""
        patience = self.patience
        bound = min(
            patience.longest_wait_seconds, patience.first_wait_seconds * 2.0 ** min(earlier, 32)
        )
        return bound * (0.5 + 0.5 * chance)

    def _give_up(self, trouble: Trouble, message: str) -> ModelError:
        return trouble.error(message, attempts=self.made, detail=trouble.detail)
