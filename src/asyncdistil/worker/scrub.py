"""Keep secrets out of everything that leaves the worker as text."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from asyncdistil.batch import Failure
from asyncdistil.redaction import Redaction

_NAMES_OF_SECRETS = re.compile(r"KEY|TOKEN|SECRET|PASSW|CREDENTIAL", re.IGNORECASE)
_LEAST_CHARS = 8
"""Shorter values, such as ``1`` or ``false``, are settings and occur in any text."""
_DETAIL_CHARS = 16 * 1024


class Scrubber:
    """Replaces known secrets in text, see `Redaction`."""

    def __init__(self, environment: Mapping[str, str], secrets: Iterable[str] = ()) -> None:
        """Learn the values of variables whose names speak of secrets, and those of ``secrets``."""
        found = {
            value
            for name, value in environment.items()
            if len(value) >= _LEAST_CHARS and _NAMES_OF_SECRETS.search(name)
        }
        self._redaction = Redaction([*found, *secrets])

    def learn(self, secrets: Iterable[str]) -> None:
        """Add secrets; empty ones are ignored."""
        self._redaction = Redaction([*self._redaction.secrets, *secrets])

    def text(self, text: str) -> str:
        """Return the text without secrets, and fit for UTF-8."""
        return self._redaction(text).encode("utf-8", "replace").decode("utf-8")

    def failure(self, failure: Failure) -> Failure:
        """Return the record without secrets, its detail cut to the last 16 Ki characters."""
        return Failure(
            str(failure.kind),
            self.text(str(failure.message)),
            int(failure.attempts),
            self.text(str(failure.detail)[-_DETAIL_CHARS:]),
        )

    def describe(self, error: BaseException, *, attempts: int = 1) -> Failure:
        """Turn an exception into a record without secrets."""
        from asyncdistil.steps.rows import describe_failure

        secrets = self._redaction.secrets
        return self.failure(describe_failure(error, attempts=max(1, attempts), secrets=secrets))
