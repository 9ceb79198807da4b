"""How many requests may be on their way to one service at once. Pure: time is an argument.

A permit is the right to have one request in flight. Workers ask for a block of them, use each for
one request, and give them back with what they saw. From that the pool learns what the service
bears:

- *throttled* (429): down to what was out and not refused; once these have come back, by no more
  than half in a burst; ``Retry-After`` closes the pool;
- *succeeded*: doubling until the first trouble and, after one, up to half of where it came; from
  there one more request per round, and close to where it came one more per hundreds of answers;
- *nothing bad yet*: a large number that the user declared is approached within a fraction of a
  second rather than at once, so that a service that bears less can say so before it has refused
  most of them;
- *slower and slower*: services that never say 429 only grow queues, so the limit follows the
  gradient between the usual and the present latency;
- *failing again and again*: a breaker opens, and a single probe asks whether the service is back.

Source: additive increase and multiplicative decrease, Chiu and Jain 1989; latency gradient, Netflix
concurrency-limits, ``Gradient2Limit``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from asyncdistil.transport.brokers import UNLIMITED, RateLimits
from asyncdistil.transport.messages import Granted, PermitRequest

START = 16
"""Requests in flight that a service is trusted with before anything is known of it."""
MOST = 4096
"""Limit of the limit, where the user declared none."""
TRUSTED = 64
"""Requests in flight that a service is sent at once because the user says that it bears them."""
_APPROACH_PER_SECOND = 1000.0  # by which what was declared is approached from there
_APPROACH_STEP_SECONDS = 0.01  # at most, however long nobody asked
_DECREASE = 0.5
_FORGETTING = 0.7  # how fast the level of a refusal is forgotten while the service refuses more
_CLOSE = 0.9  # of that level: from here on the limit is raised carefully
_LEAST_ANSWERS = 200  # there, for one request more
_BURST_SECONDS = 1.0  # throttled replies of one burst lower the limit once
_TOLERANCE = 2.0  # answers of models differ in length: only a doubled latency counts
_LEAST_SAMPLES = 8  # answers whose mean counts as one sample of latency
_FASTER, _SLOWER = 0.3, 1 / 6000  # how readily the usual latency follows a sample down, and up
_SMOOTHING = 0.5
_TROUBLES_TO_OPEN = 5
_OPEN_SECONDS = 1.0
_LONGEST_OPEN_SECONDS = 60.0
_LONGEST_PAUSE_SECONDS = 300.0
_GIVE_UP_SECONDS = 3600.0
_SHORTEST_WAIT_SECONDS = 0.005
_LONGEST_WAIT_SECONDS = 0.5
_WISH_SECONDS = 2.0  # a worker that has not asked again for so long wants nothing any more


@dataclass(slots=True)
class Bucket:
    """Tokens that come back at a steady rate; the level may fall below zero and is then a debt."""

    per_minute: int
    level: float = 0.0
    at: float = -math.inf

    def __post_init__(self) -> None:
        self.level = self.capacity

    @property
    def capacity(self) -> float:
        """Tokens for six seconds: a burst at the start, but none that would empty the minute."""
        return max(1.0, self.per_minute / 10)

    def refill(self, now: float) -> None:
        """Add what has come back by ``now``."""
        if self.at > -math.inf:
            come_back = max(0.0, now - self.at) * self.per_minute / 60
            self.level = min(self.capacity, self.level + come_back)
        self.at = max(self.at, now)

    def seconds_until(self, level: float) -> float:
        """Seconds until the level is reached."""
        return max(0.0, (level - self.level) * 60 / self.per_minute)


@dataclass(slots=True)
class _Wish:
    wanted: int
    since: float
    expires: float


@dataclass(slots=True)
class _Refusals:
    """What 429s say about how much a service bears.

    Attributes:
        sent_before: Requests still out that were sent before the burst was noticed.
        served: Whether the service has served anything since.
    """

    sent_before: int = 0
    served: bool = False
    _calm_until: float = -math.inf
    _least: float = 1.0
    _limit_before: float = 1.0
    _refused_at: float = 0.0

    def lowered(
        self, limit: float, report: PermitRequest, outstanding: int, now: float, seen_by: float
    ) -> float:
        """The limit after a report with refusals: what the service bore.

        Args:
            limit: Until now.
            report: With at least one refusal.
            outstanding: Permits out, those of the report left out.
            now: Monotonic seconds.
            seen_by: When the answers to what is sent now are due.
        """
        if now >= self._calm_until:
            self._calm_until = max(now + _BURST_SECONDS, seen_by)
            self._refused_at = max(limit, self._refused_at * _FORGETTING)
            self.sent_before = outstanding + max(0, report.returned)
            self.served = False
            self._limit_before = limit
            self._least = 1.0
            limit = min(limit, float(self.sent_before))
        self.served |= report.succeeded > 0
        if self.sent_before > 0:
            # Of what was sent under the old limit, each that is refused is one too many.
            self.sent_before -= max(report.returned, report.throttled)
            self._least = max(1.0, (limit - report.throttled) * _DECREASE)
        limit = max(self._least, limit - report.throttled)
        if not outstanding and not self.served:
            # It refused everything: that says when it bears something, not how much.
            limit = max(limit, self._limit_before * _FORGETTING)
        return limit

    def growth(self, limit: float, succeeded: float) -> float:
        """By how much to raise the limit for so many answers."""
        if limit < self._refused_at / 2:
            return succeeded
        from_here = min(self._refused_at * _CLOSE, self._refused_at - 1)
        close = from_here <= limit <= self._refused_at / _CLOSE
        return succeeded / (max(4 * limit, _LEAST_ANSWERS) if close else limit)


@dataclass(slots=True)
class Pool:
    """Permits of one governor.

    Attributes:
        limits: What the user declared.
        limit: Requests in flight that the service is believed to bear; a fraction is kept.
        held: Permits out, per holder.
    """

    limits: RateLimits = UNLIMITED
    limit: float = START
    held: dict[int, int] = field(default_factory=dict)
    _wishes: dict[int, _Wish] = field(default_factory=dict)
    _requests: Bucket | None = None
    _tokens: Bucket | None = None
    _doubling: bool = True
    _goal: float = 0.0
    _approached: float = -math.inf
    _refusals: _Refusals = field(default_factory=_Refusals)
    _paused_until: float = -math.inf
    _usual_seconds: float = 0.0
    _answers: int = 0
    _answer_seconds: float = 0.0
    _squeezed_from: tuple[float, float] | None = None
    _since_halved: int = 0
    _troubles: int = 0
    _openings: int = 0
    _open_until: float | None = None
    _prober: int | None = None
    _troubled_since: float | None = None

    def __post_init__(self) -> None:
        self._goal = min(self.limit, self.ceiling)
        self.limit = min(self._goal, TRUSTED)
        if self.limits.requests_per_minute > 0:
            self._requests = Bucket(self.limits.requests_per_minute)
        if self.limits.tokens_per_minute > 0:
            self._tokens = Bucket(self.limits.tokens_per_minute)

    @property
    def ceiling(self) -> float:
        """Never more in flight than this."""
        return float(self.limits.concurrent) if self.limits.concurrent > 0 else float(MOST)

    @property
    def outstanding(self) -> int:
        """Permits out."""
        return sum(self.held.values())

    @property
    def failing(self) -> bool:
        """Whether all that came back since the last success was trouble."""
        return self._troubled_since is not None

    def on(self, request: PermitRequest, now: float, holder: int = 0) -> Granted:
        """Learn from a report and answer the question in it.

        Args:
            request: From a worker; each gets exactly one answer.
            now: Monotonic seconds.
            holder: Which worker asks.

        Returns:
            Permits granted now, and after how many seconds to ask for the rest.
        """
        for bucket in (self._requests, self._tokens):
            if bucket is not None:
                bucket.refill(now)
        self._observe(request, now, holder)
        return self._grant(request, now, holder)

    def forget(self, holder: int) -> None:
        """Take back everything a dead worker held."""
        self.held.pop(holder, None)
        self._wishes.pop(holder, None)
        if self._prober == holder:
            self._prober = None

    # --- learning -----------------------------------------------------------------------------

    def _observe(self, report: PermitRequest, now: float, holder: int) -> None:
        busy = self.outstanding * 2 >= self.limit
        left = self.held.get(holder, 0) - max(0, report.returned)
        if left > 0:
            self.held[holder] = left
        else:
            self.held.pop(holder, None)
        if self._tokens is not None:
            self._tokens.level -= max(0, report.tokens)
        if not report.throttled:
            self._refusals.sent_before -= max(0, report.returned)
        if report.succeeded > 0:
            self._refusals.served = True
            self._recover()
            if report.latency_seconds > 0:
                self._follow_latency(report, busy)
            if busy and not report.throttled:
                self._grow(report.succeeded)
        troubles = max(0, report.throttled) + max(0, report.failed)
        if troubles:
            self._suffer(report, troubles, now)
        if self._prober == holder and report.returned > 0:
            self._prober = None

    def _recover(self) -> None:
        self._troubles = self._openings = 0
        self._open_until = self._troubled_since = None

    @property
    def _approaching(self) -> bool:
        return self._doubling and self.limit < self._goal

    def _grow(self, succeeded: int) -> None:
        if self._approaching:
            return
        more = float(succeeded)
        if not self._doubling:
            more = self._refusals.growth(self.limit, more)
        self.limit = min(self.ceiling, self.limit + more)

    def _approach(self, now: float) -> None:
        """Trust the service with more of what was declared, as long as it has not objected."""
        if self._approaching:
            since = self._approached if self._approached > -math.inf else now
            passed = min(max(0.0, now - since), _APPROACH_STEP_SECONDS)
            self.limit = min(self._goal, self.limit + passed * _APPROACH_PER_SECOND)
        self._approached = now

    def _follow_latency(self, report: PermitRequest, busy: bool) -> None:
        """Collect answers; once they make a sample, lower the limit if they took too long."""
        self._answers += report.succeeded
        self._answer_seconds += report.succeeded * report.latency_seconds
        if self._answers < max(_LEAST_SAMPLES, self.limit / 2):
            return
        answers = self._answers
        sample = self._answer_seconds / answers
        self._answers, self._answer_seconds = 0, 0.0
        usual = self._usual_seconds or sample
        pull = _SLOWER if sample > usual else 1.0 if self._doubling else _FASTER
        self._usual_seconds = usual + (sample - usual) * pull
        gradient = _TOLERANCE * self._usual_seconds / sample
        if gradient >= 1:
            self._squeezed_from = None
            self._since_halved = 0
        elif busy:
            self._squeeze(gradient, sample, answers)

    def _squeeze(self, gradient: float, sample: float, answers: int) -> None:
        self._doubling = False
        if self._squeezed_from is None:
            self._squeezed_from = self.limit, sample
        limit_then, sample_then = self._squeezed_from
        # What is in flight came from an older limit, so the worst is seen a little later.
        sample_then = max(sample_then, sample)
        self._squeezed_from = limit_then, sample_then
        if self.limit <= limit_then / 2:
            # Judge only by answers to requests that were sent under the lower limit.
            self._since_halved += answers
            if self._since_halved < 2 * limit_then:
                return
            self._since_halved = 0
            if sample >= 0.8 * sample_then:
                # Half the load made nothing faster, so it is not the load: answers are longer
                # now, or others use the service too.
                self._usual_seconds = sample
                self._squeezed_from = None
                return
            self._squeezed_from = self.limit, sample
        target = self.limit * max(0.5, gradient)
        self.limit = max(1.0, self.limit + _SMOOTHING * (target - self.limit))

    def _suffer(self, report: PermitRequest, troubles: int, now: float) -> None:
        if report.throttled > 0:
            self._doubling = False
            self.limit = self._refusals.lowered(
                self.limit, report, self.outstanding, now, now + self._usual_seconds
            )
            wait = report.retry_after_seconds
            if wait > 0:  # also false for NaN
                self._paused_until = max(
                    self._paused_until, now + min(wait, _LONGEST_PAUSE_SECONDS)
                )
        if report.succeeded > 0:
            return
        if self._troubled_since is None:
            self._troubled_since = now
        self._troubles += troubles
        # A service that throttles is alive: only when a single request is still one too many
        # is it left alone.
        hopeless = report.failed > 0 or (self.limit <= 1.0 and not self.outstanding)
        half_open = self._open_until is not None and now >= self._open_until
        if half_open or (
            self._open_until is None and hopeless and self._troubles >= _TROUBLES_TO_OPEN
        ):
            self._openings += 1
            wait = _OPEN_SECONDS * 2.0 ** min(self._openings - 1, 10)
            self._open_until = now + min(wait, _LONGEST_OPEN_SECONDS)
            self._prober = None

    # --- granting -----------------------------------------------------------------------------

    def _grant(self, request: PermitRequest, now: float, holder: int) -> Granted:
        wanted = max(0, request.wanted)
        if not wanted:
            self._wishes.pop(holder, None)
            return Granted(request.governor, 0, 0.0)
        if self._troubled_since is not None and now - self._troubled_since > _GIVE_UP_SECONDS:
            minutes = (now - self._troubled_since) / 60
            return Granted(
                request.governor,
                0,
                _LONGEST_OPEN_SECONDS,
                f"give-up: the service has answered no request for {minutes:.0f} minutes",
            )
        self._approach(now)
        closed_for, reason = self._closed(now, holder)
        granted = 0
        if not closed_for:
            granted, closed_for, reason = self._share(wanted, now, holder)
        self._remember(holder, wanted - granted, granted, now, closed_for)
        if granted:
            self.held[holder] = self.held.get(holder, 0) + granted
            if self._requests is not None:
                self._requests.level -= granted
            if self._open_until is not None:
                self._prober = holder
        return Granted(
            request.governor,
            granted,
            closed_for if granted < wanted else 0.0,
            reason if granted < wanted else "",
        )

    def _closed(self, now: float, holder: int) -> tuple[float, str]:
        """Seconds for which nobody gets anything, and why."""
        if now < self._paused_until:
            return self._paused_until - now, "the service asked to wait"
        if self._open_until is not None:
            if now < self._open_until:
                return self._open_until - now, "the service keeps failing"
            if self._prober is not None:
                return _LONGEST_WAIT_SECONDS, "a probe asks whether the service is back"
        if self._tokens is not None and self._tokens.level <= 0:
            wait = self._tokens.seconds_until(min(1.0, self._tokens.capacity))
            return max(wait, _SHORTEST_WAIT_SECONDS), "tokens per minute"
        if self._requests is not None and self._requests.level < 1:
            return max(
                self._requests.seconds_until(1.0), _SHORTEST_WAIT_SECONDS
            ), "requests per minute"
        return 0.0, ""

    def _share(self, wanted: int, now: float, holder: int) -> tuple[int, float, str]:
        """How many of the free permits this holder gets: its fair share, more if nobody waits."""
        if self._open_until is not None:
            return 1, _LONGEST_WAIT_SECONDS, "a probe asks whether the service is back"
        outstanding = self.outstanding
        free = max(0, int(self.limit) - outstanding)
        if self._requests is not None:
            free = min(free, int(self._requests.level))
        others = {
            other: wish
            for other, wish in self._wishes.items()
            if other != holder and wish.expires > now
        }
        claimants = len({holder, *others, *self.held})
        share = max(1, int(self.limit) // claimants)
        own = self._wishes.get(holder)
        since = own.since if own is not None and own.expires > now else now
        due = {
            other: min(wish.wanted, max(0, share - self.held.get(other, 0)))
            for other, wish in others.items()
        }
        earlier = sum(due[other] for other, wish in others.items() if wish.since < since)
        own_due = max(0, share - self.held.get(holder, 0))
        granted = max(min(own_due, free - earlier), free - sum(due.values()))
        granted = max(0, min(wanted, free, granted))
        # Permits come back evenly spread over a latency.
        wait = (self._usual_seconds or _LONGEST_WAIT_SECONDS) / max(1, outstanding + granted)
        if self._approaching:
            wait = _SHORTEST_WAIT_SECONDS
        wait = min(_LONGEST_WAIT_SECONDS, max(_SHORTEST_WAIT_SECONDS, wait))
        return granted, wait, "all permits are out"

    def _remember(self, holder: int, unmet: int, granted: int, now: float, wait: float) -> None:
        if not unmet:
            self._wishes.pop(holder, None)
            return
        old = self._wishes.get(holder)
        since = now if granted or old is None or old.expires <= now else old.since
        self._wishes[holder] = _Wish(unmet, since, now + wait + _WISH_SECONDS)
