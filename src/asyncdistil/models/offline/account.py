"""What asking for batches takes with every provider: orders given once, lists, states, answers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Generic, Protocol, TypeVar
from urllib.parse import quote

import msgspec

from asyncdistil.models.http import HttpClient
from asyncdistil.models.offline.service import TRANSFER_SECONDS, Caller
from asyncdistil.models.retry import RequestFailed, unreadable

T = TypeVar("T")

_LISTED_AT_ONCE = 100
_MOST_PAGES = 20


class Numbered(Protocol):
    """A batch as a provider tells of it."""

    id: str


B = TypeVar("B", bound=Numbered)


class _Page(msgspec.Struct, Generic[B]):
    data: list[B] = []
    has_more: bool = False


class Account:
    """One account at a provider."""

    def __init__(self, client: HttpClient, call: Caller, *, timeout_seconds: float) -> None:
        """Look at an account.

        Args:
            client: Talks to the service; bounds the answers.
            call: Makes the tries.
            timeout_seconds: For one try of a small request.
        """
        self._client = client
        self._call = call
        self._timeout_seconds = timeout_seconds
        self._transfer_seconds = max(TRANSFER_SECONDS, timeout_seconds)

    async def _order(
        self, order: Callable[[], Awaitable[str]], find: Callable[[], Awaitable[str]]
    ) -> str:
        """Have a batch made, once.

        Args:
            order: One try; gives the batch's id.
            find: Gives the id of the batch if it was made already, else nothing.
        """
        tried = False

        async def send() -> tuple[str, int]:
            nonlocal tried
            # An order whose confirmation got lost was taken all the same: it is not given twice.
            if tried and (found := await find()):
                return found, 0
            tried = True
            return await order(), 0

        return await self._call(send)

    async def _listed(self, path: str, kind: type[B], cursor: str) -> AsyncIterator[B]:
        """Batches of the account, the newest first, as far back as is worth looking.

        Args:
            path: Of the list.
            kind: Of a batch.
            cursor: Name of the parameter that says behind which batch to go on.
        """
        asked = f"{path}{'&' if '?' in path else '?'}limit={_LISTED_AT_ONCE}"
        after = ""
        for _ in range(_MOST_PAGES):
            data = await self._client.fetch(
                f"{asked}{after}", timeout_seconds=self._timeout_seconds
            )
            page: _Page[B] = self._read(data, _Page[kind])  # type: ignore[valid-type]
            for batch in page.data:
                yield batch
            if not page.has_more or not page.data:
                return
            after = f"&{cursor}={quote(page.data[-1].id, safe='')}"

    async def _told_of(self, path: str, kind: type[T]) -> T | None:
        """What the provider says of one batch, ``None`` if it knows none."""

        async def send() -> tuple[T | None, int]:
            try:
                data = await self._client.fetch(path, timeout_seconds=self._timeout_seconds)
            except RequestFailed as failed:
                if failed.trouble.status == 404:
                    return None, 0
                raise
            return self._read(data, kind), 0

        return await self._call(send)

    async def _content(self, path: str) -> bytes | None:
        """Fetch answers, ``None`` if the provider has thrown them away."""

        async def send() -> tuple[bytes | None, int]:
            return await self._try_content(path), 0

        return await self._call(send)

    async def _try_content(self, path: str) -> bytes | None:
        """As `_content`, one try."""
        try:
            return await self._client.fetch(path, timeout_seconds=self._transfer_seconds)
        except RequestFailed as failed:
            if failed.trouble.status in {404, 410}:
                return None
            raise

    def _read(self, data: bytes, kind: type[T]) -> T:
        try:
            return msgspec.json.decode(data, type=kind)
        except msgspec.DecodeError as error:
            text = self._client.hide(data[: 16 * 1024].decode("utf-8", "replace"))
            raise RequestFailed(
                unreadable(f"{self._client.service} sent what is no batch: {error}", detail=text)
            ) from None
