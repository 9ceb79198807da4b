"""One service as one model talks to it: permits, tries, and the refusal that ends it all."""

from __future__ import annotations

import asyncio
import logging
import math
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import TypeVar

from asyncdistil.clock import Clock, SystemClock
from asyncdistil.errors import ModelError, ModelOutage, ModelRequestError, ModelUnavailable
from asyncdistil.models.admission import permits
from asyncdistil.models.retry import (
    Course,
    Patience,
    RequestFailed,
    Tries,
    Trouble,
    unavailable,
)
from asyncdistil.transport.brokers import Observation, PermitBroker, RateLimits

T = TypeVar("T")

_log = logging.getLogger("asyncdistil.models")


@dataclass
class Endpoint:
    """Sends requests to one service, each as often as it takes.

    Attributes:
        governor: Name of the pool of permits: provider, URL and a digest of the key.
        limits: What the user declared about the service.
        patience: How long to keep trying.
        hide: Cuts secrets out of what is told of a failure, whoever tells it: a service may echo
            the key in an error that it sends as an answer.
        longest_try_seconds: What bounds a single try already.
        clock: Time.
    """

    governor: str
    limits: RateLimits
    patience: Patience
    hide: Callable[[str], str] = str
    longest_try_seconds: float = math.inf
    clock: Clock = field(default_factory=SystemClock)
    _refusal: ModelError | None = None
    _answered: bool = False
    _silent_since: float | None = None
    _told: bool = False

    async def call(self, send: Callable[[], Awaitable[tuple[T, int]]]) -> T:
        """Send a request until it is answered or given up.

        Args:
            send: Makes one try; returns the answer and the tokens it took, or raises
                `RequestFailed`.

        Raises:
            ModelError: The request was given up; of the class that says whose turn it is. After a
                refusal that concerns everyone (a wrong key, no credit, an outage), every later
                call raises it at once, without sending.
        """
        tries = Tries(self.patience)
        while True:
            self._check()
            broker = permits()
            await self._admitted(broker)
            sent_at = self.clock.monotonic()
            seen = Observation("cancelled")
            try:
                self._check()
                answer, tokens = await self._in_time(send, tries.left_seconds)
                seen = Observation("ok", self.clock.monotonic() - sent_at, tokens=tokens)
                self._answered = True
                self._silent_since = None
                self._told = False
                return answer
            except RequestFailed as failed:
                trouble = self._reconsidered(failed.trouble)
                if trouble.error is not ModelUnavailable:
                    self._silent_since = None  # it may refuse, but it is there
                elif self._silent_since is None:
                    self._silent_since = sent_at
                seen = _observation(trouble)
            finally:
                broker.release(self.governor, seen)
            then = tries.after(
                trouble,
                sent_at=sent_at,
                now=self.clock.monotonic(),
                chance=random.random(),
            )
            if isinstance(then, ModelError):
                if trouble.course in {Course.STOP, Course.THROTTLED}:
                    self._refusal = then
                raise then
            _log.debug("try %d failed: %s; next in %.1f s", tries.made, trouble.message, then)
            # One failure may be a hiccup; a request that failed twice is worth a word.
            if tries.made == 2 and self._silent_since is not None and not self._told:
                self._told = True
                self._tell_of_silence(trouble)
            await asyncio.sleep(then)

    async def _in_time(
        self, send: Callable[[], Awaitable[tuple[T, int]]], left_seconds: float
    ) -> tuple[T, int]:
        """Make one try, which ends with the deadline also if a stream never falls silent."""
        if self.longest_try_seconds <= left_seconds:
            return await send()
        try:
            async with asyncio.timeout(left_seconds):
                return await send()
        except TimeoutError:
            raise RequestFailed(
                unavailable(
                    f"{self._url} was not done answering when the time of the request was up"
                )
            ) from None

    def _check(self) -> None:
        """Raise what would be the answer anyway."""
        if self._refusal is not None:
            refusal = self._refusal
            raise type(refusal)(str(refusal), attempts=refusal.attempts, detail=refusal.detail)

    @property
    def _url(self) -> str:
        return self.governor.split()[1]

    @property
    def _longest_silence_seconds(self) -> float:
        """A service that never answered is more likely to be a wrong address than an outage."""
        patience = self.patience
        return patience.silence_seconds if self._answered else patience.first_answer_seconds

    def _tell_of_silence(self, trouble: Trouble) -> None:
        _log.warning(
            "%s does not answer (%s): it is tried again for %.0f s%s",
            self._url,
            trouble.message,
            self._longest_silence_seconds,
            "" if self._answered else "; if it should be there, look at its address",
        )

    async def _admitted(self, broker: PermitBroker) -> None:
        """Wait for a permit; give everything up if the service has answered nobody for too long."""
        if self._silent_since is None:
            await broker.acquire(self.governor, self.limits)
            return
        longest = self._longest_silence_seconds
        left = self._silent_since + longest - self.clock.monotonic()
        try:
            async with asyncio.timeout(max(left, 0.0)):
                await broker.acquire(self.governor, self.limits)
        except TimeoutError:
            self._refusal = ModelOutage(
                f"{self._url} has answered no request for {longest:.0f} s: see"
                " whether it runs and is reachable, and run again; what is done is kept"
            )
            raise self._refusal from None

    def _reconsidered(self, trouble: Trouble) -> Trouble:
        """After an answer, 403 and 404 are about this request: key, model and URL are right.

        It may be a moderated prompt, or a picture that is not there.
        """
        hide = self.hide
        trouble = replace(trouble, message=hide(trouble.message), detail=hide(trouble.detail))
        if trouble.status in {403, 404} and self._answered:
            return replace(trouble, course=Course.ROW, error=ModelRequestError)
        return trouble


def _observation(trouble: Trouble) -> Observation:
    match trouble.course:
        case Course.THROTTLED:
            return Observation("throttled", retry_after_seconds=trouble.retry_after_seconds or 0.0)
        case Course.RETRY:
            return Observation("failed", retry_after_seconds=trouble.retry_after_seconds or 0.0)
        case _:
            return Observation("cancelled")
