"""Secrets are struck out of texts, in one way wherever texts leave us."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

HIDDEN = "**********"

_SHORT_CHARS = 8
"""Below, a secret is a part of too many words, and the part of a word reveals nothing."""

_SPEAKS_OF_SECRETS = re.compile(
    r"key|token|secret|passw|credential|auth|cookie|session|signature|\bsig\b", re.IGNORECASE
)


def secret_values(named: Mapping[str, str]) -> list[str]:
    """Values of those headers or parameters whose names speak of secrets.

    Each whole, and without the scheme before it, as in ``Bearer``.
    """
    values = [value for name, value in named.items() if _SPEAKS_OF_SECRETS.search(name)]
    return [*values, *(value.rpartition(" ")[2] for value in values)]


class Redaction:
    """Strikes secrets out of texts.

    A secret of eight or more characters is struck out wherever it stands. A shorter one, such as
    the ``k`` or ``EMPTY`` that is given as the key of a server without keys, only where it stands
    as a word of its own: a letter that is hidden in every word leaves nothing to be read.

    Args:
        secrets: Texts to hide; empty ones are ignored.

    Attributes:
        secrets: Those that are hidden, the longest first.
    """

    def __init__(self, secrets: Iterable[str]) -> None:
        # Longest first, because one secret may be the beginning of another.
        self.secrets = sorted({*filter(None, secrets)}, key=len, reverse=True)
        self._long = [secret for secret in self.secrets if len(secret) >= _SHORT_CHARS]
        words = [_as_word(secret) for secret in self.secrets if len(secret) < _SHORT_CHARS]
        self._short = re.compile("|".join(words)) if words else None

    def __call__(self, text: str) -> str:
        """Return the text without secrets."""
        for secret in self._long:
            text = text.replace(secret, HIDDEN)
        return self._short.sub(HIDDEN, text) if self._short else text


def _as_word(secret: str) -> str:
    """The pattern of a secret with no letter, digit or underscore right beside its own."""
    before = r"(?<!\w)" if re.match(r"\w", secret) else ""
    after = r"(?!\w)" if re.search(r"\w\Z", secret) else ""
    return before + re.escape(secret) + after
