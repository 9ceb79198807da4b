"""Where a service is, taken apart: what is asked, what is a secret, what may be told."""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit, urlunsplit

from asyncdistil.errors import ParameterError
from asyncdistil.models.identity import public_url
from asyncdistil.redaction import secret_values

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


class Address(NamedTuple):
    """A base URL.

    Attributes:
        root: Scheme, host and path, without a slash at the end.
        query: Sent with every request; may hold a key.
        user: User info, decoded, ``None`` if there is none.
    """

    root: str
    query: str
    user: tuple[str, str] | None

    @classmethod
    def of(cls, url: str) -> Address:
        """Take a URL apart; a fragment is dropped.

        Raises:
            ParameterError: Its port is no port.
        """
        parts = urlsplit(url.strip())
        try:
            root = public_url(url.strip())
        except ValueError as error:
            # The URL itself may hold a password.
            raise ParameterError(
                f"the URL of the service at {parts.hostname!r} can't be used: {error}"
            ) from None
        user = None
        if parts.username is not None:
            user = unquote(parts.username), unquote(parts.password or "")
        return cls(root.rstrip("/"), parts.query, user)

    def url(self, path: str) -> str:
        """The URL of a route: the path goes before the query, one of its own is kept."""
        parts = urlsplit(self.root + path)
        query = "&".join(filter(None, (parts.query, self.query)))
        return urlunsplit(parts._replace(query=query))

    def headers(self, given: Mapping[str, str]) -> dict[str, str]:
        """Headers of every request: those given, and one for the user info.

        Raises:
            ParameterError: One holds what no header can, or two would be needed in one place.
        """
        headers = dict(given)
        for name, value in headers.items():
            if _CONTROL.search(value) or _has_half_a_pair(value):
                raise ParameterError(
                    f"the header {name!r} can't be sent: its value, perhaps a key read from a file,"
                    " holds a line break or another character that no header may have; strip it"
                )
        if self.user is None:
            return headers
        if any(name.lower() == "authorization" for name in headers):
            raise ParameterError(
                f"the URL of {self.root} holds a user, and there is a key as well: both go into the"
                " Authorization header, so leave one of them out"
            )
        return {**headers, "Authorization": f"Basic {self._basic}"}

    @property
    def secrets(self) -> list[str]:
        """Texts in the URL that may be told to nobody but the service."""
        found = secret_values(dict(parse_qsl(self.query)))
        if self.user is not None:
            found += [self.user[1], self._basic]
        return [text for text in found if text]

    @property
    def _basic(self) -> str:
        return b64encode(":".join(self.user or ()).encode()).decode()


def _has_half_a_pair(text: str) -> bool:
    return any("\ud800" <= char <= "\udfff" for char in text)
