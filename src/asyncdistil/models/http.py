"""One small HTTP client for every service that speaks JSON; built on aiohttp.

It bounds what a reply may unpack to, counts time from sending, keeps connections open, and says
what went wrong as a `Trouble` in which no secret stands. It does not retry.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
import weakref
import zlib
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import msgspec

from asyncdistil.errors import ModelRequestError, UnencodableValue
from asyncdistil.models.address import Address
from asyncdistil.models.identity import is_loopback, public_url
from asyncdistil.models.retry import (
    Course,
    RequestFailed,
    Trouble,
    judge_status,
    unavailable,
    unreadable,
)
from asyncdistil.redaction import Redaction, secret_values

if TYPE_CHECKING:
    import aiohttp
    from yarl import URL

MAX_REPLY_BYTES = 64 * 1024 * 1024
_MAX_ERROR_CHARS = 64 * 1024
_CONNECT_SECONDS = 30.0
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_MOST_REDIRECTS = 5


def as_json(body: Mapping[str, Any]) -> bytes:
    """A request as JSON.

    Raises:
        UnencodableValue: A text holds half of a surrogate pair.
    """
    try:
        return msgspec.json.encode(body)
    except UnicodeEncodeError as error:
        around = ascii(error.object[max(0, error.start - 20) : error.end + 20])
        raise UnencodableValue(
            f"the prompt can't be sent: {around} holds half of a surrogate pair, which is no"
            " character; write text.encode('utf-16', 'surrogatepass').decode('utf-16', 'replace')"
            " in a step before"
        ) from None


class HttpReply(NamedTuple):
    """A whole reply.

    Attributes:
        body: Unpacked bytes.
        headers: Case-insensitive.
    """

    body: bytes
    headers: Mapping[str, str]


class HttpClient:
    """Talks to one service.

    Attributes:
        service: Where the service is, without user info and query, for messages.
    """

    def __init__(
        self,
        base_url: str,
        *,
        headers: Mapping[str, str],
        secrets: Collection[str] = (),
        max_reply_bytes: int = MAX_REPLY_BYTES,
    ) -> None:
        """Prepare a client; connections are made on first use.

        Args:
            base_url: Where the service is.
            headers: Sent with every request; may hold secrets.
            secrets: Texts to cut out of every message.
            max_reply_bytes: Longest reply that is read, unpacked.

        Raises:
            ParameterError: The URL or a header can't be used.
        """
        self._address = Address.of(base_url)
        self.service = self._address.root
        self._headers = {
            "Content-Type": "application/json",
            "Accept-Encoding": "gzip, deflate",
            **self._address.headers(headers),
        }
        self._redaction = Redaction([*secrets, *self._address.secrets, *secret_values(headers)])
        self._max_reply_bytes = max_reply_bytes
        self._proxy = _proxy_for(self.service)
        # A session belongs to the loop that it was made on.
        self._sessions: weakref.WeakKeyDictionary[
            asyncio.AbstractEventLoop, aiohttp.ClientSession
        ] = weakref.WeakKeyDictionary()

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError("a client holds connections and a key: unload the model before pickling it")

    def hide(self, text: str) -> str:
        """``text`` without secrets, those that a service echoes included."""
        return self._redaction(text)

    async def post(
        self, path: str, body: bytes, *, timeout_seconds: float, content_type: str = ""
    ) -> HttpReply:
        """Send a request and read the whole reply.

        Args:
            path: Appended to the base URL.
            body: JSON, unless ``content_type`` says otherwise.
            timeout_seconds: From now to the last byte.
            content_type: What the body is, if it is not JSON.

        Raises:
            RequestFailed: With what went wrong.
        """
        async with self._exchange(path, body, timeout_seconds, content_type) as (response, _):
            data = await self._read(response)
            if response.status >= 400:
                raise RequestFailed(self._refusal(response, data))
            return HttpReply(data, response.headers)

    async def stream(
        self,
        path: str,
        body: bytes,
        on_event: Callable[[bytes], None],
        *,
        timeout_seconds: float,
    ) -> HttpReply:
        """Send a request and hand over the ``data`` of each server-sent event as it comes.

        Args:
            path: Appended to the base URL.
            body: JSON.
            on_event: Called on the loop; must not block.
            timeout_seconds: Longest silence, before the first byte and between two.

        Returns:
            What was not an event (a service that ignores the wish to stream sends plain JSON), and
            the headers.

        Raises:
            RequestFailed: With what went wrong; a stream that breaks off is the caller's to notice
                if the connection ended in order.
        """
        async with self._exchange(path, body, timeout_seconds) as (response, limit):
            if response.status >= 400:
                raise RequestFailed(self._refusal(response, await self._read(response)))
            unpack = self._unpacker(response)
            now = asyncio.get_running_loop().time
            pending = b""
            other: list[bytes] = []
            total = 0

            def take(line: bytes) -> None:
                if line.startswith(b"data:"):
                    on_event(line[5:].strip())
                else:
                    other.append(line)

            while chunk := await response.content.readany():
                limit.reschedule(now() + timeout_seconds)
                chunk = unpack(chunk)
                total += len(chunk)
                if total > self._max_reply_bytes:
                    raise RequestFailed(self._too_long())
                *lines, pending = (pending + chunk).split(b"\n")
                for line in lines:
                    take(line)
            take(pending)  # the last line may lack its end
            return HttpReply(b"\n".join(other).strip(), response.headers)

    async def fetch(self, path: str, *, timeout_seconds: float) -> bytes:
        """Fetch what lies at a path.

        Raises:
            RequestFailed: With what went wrong.
        """
        async with self._exchange(path, None, timeout_seconds) as (response, _):
            data = await self._read(response)
            if response.status >= 400:
                raise RequestFailed(self._refusal(response, data))
            return data

    async def get(self, path: str, *, timeout_seconds: float) -> bytes:
        """Fetch something small.

        Raises:
            ModelError: It could not be had; there is no second try.
        """
        try:
            return await self.fetch(path, timeout_seconds=timeout_seconds)
        except RequestFailed as failed:
            raise failed.trouble.error(failed.trouble.message) from None

    async def server_name(self, path: str, *, timeout_seconds: float) -> str:
        """What the server calls itself in its ``Server`` header; empty if it can't be asked."""
        import aiohttp

        try:
            async with asyncio.timeout(timeout_seconds):
                async with self._session().get(
                    self._address.url(path), proxy=self._proxy, allow_redirects=False
                ) as reply:
                    return reply.headers.get("Server", "")
        except (TimeoutError, aiohttp.ClientError, OSError):
            return ""

    def close(self) -> None:
        """Close the connections of every loop, from any thread and without waiting."""
        try:
            here = asyncio.get_running_loop()
        except RuntimeError:
            here = None
        for loop, session in list(self._sessions.items()):
            del self._sessions[loop]
            if loop is here:
                _close_at_once(session)
            elif loop.is_running():
                loop.call_soon_threadsafe(_close_at_once, session)
            else:
                with contextlib.suppress(RuntimeError):  # "Event loop is closed"
                    _close_at_once(session)

    def _session(self) -> aiohttp.ClientSession:
        loop = asyncio.get_running_loop()
        session = self._sessions.get(loop)
        if session is None or session.closed:
            import aiohttp

            session = aiohttp.ClientSession(
                # Permits bound how many connections there are; a second bound would only queue
                # requests whose time already runs.
                connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=30.0),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS),
                headers=self._headers,
                # aiohttp unpacks a whole chunk at once, however much that is.
                auto_decompress=False,
            )
            self._sessions[loop] = session
        return session

    @asynccontextmanager
    async def _exchange(
        self, path: str, body: bytes | None, timeout_seconds: float, content_type: str = ""
    ) -> AsyncIterator[tuple[aiohttp.ClientResponse, asyncio.Timeout]]:
        import aiohttp

        try:
            async with asyncio.timeout(timeout_seconds) as limit:
                own = {"Content-Type": content_type} if content_type else None
                async with self._asked(self._address.url(path), body, own) as response:
                    yield response, limit
        except TimeoutError:
            raise RequestFailed(
                unavailable(
                    f"{self.service} was silent for {timeout_seconds:g} s after being asked"
                )
            ) from None
        except aiohttp.ClientPayloadError:
            raise RequestFailed(unavailable(f"{self.service} broke off its reply")) from None
        except aiohttp.ClientConnectorError as error:
            reason = error.strerror or type(error).__name__
            raise RequestFailed(
                unavailable(f"{self.service} can't be reached: {self.hide(str(reason))}")
            ) from None
        except (aiohttp.InvalidURL, aiohttp.NonHttpUrlClientError):
            raise RequestFailed(
                unreadable(f"{self.service!r} is no URL that can be asked", again=False)
            ) from None
        except (aiohttp.ClientError, OSError) as error:
            # The texts of these errors can hold the URL with its user info: only the class is told.
            raise RequestFailed(
                unavailable(f"the connection to {self.service} failed ({type(error).__name__})")
            ) from None

    @asynccontextmanager
    async def _asked(
        self, url: str, body: bytes | None, headers: Mapping[str, str] | None
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Ask, and ask again where a redirect says, as long as that is the same service."""
        session = self._session()
        verb = session.get if body is None else session.post
        target: URL | str = url
        for _ in range(_MOST_REDIRECTS + 1):
            async with verb(
                target, data=body, proxy=self._proxy, headers=headers, allow_redirects=False
            ) as response:
                onwards = _redirected(response, body is not None, self.service, self.hide)
                if onwards is None:
                    yield response
                    return
                target = onwards
        raise RequestFailed(
            unreadable(f"{self.service} redirects more than {_MOST_REDIRECTS} times", again=False)
        )

    async def _read(self, response: aiohttp.ClientResponse) -> bytes:
        """Read and unpack, never holding more than the bound."""
        bound = self._max_reply_bytes
        unpack = self._unpacker(response)
        pieces: list[bytes] = []
        total = 0
        while chunk := await response.content.readany():
            piece = unpack(chunk)
            total += len(piece)
            if total > bound:
                raise RequestFailed(self._too_long())
            pieces.append(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _unpacker(self, response: aiohttp.ClientResponse) -> Any:
        encoding = response.headers.get("Content-Encoding", "identity").lower()
        if encoding == "identity":
            return bytes
        if encoding not in {"gzip", "deflate", "x-gzip"}:
            raise RequestFailed(
                unreadable(f"{self.service} sent a reply packed as {encoding!r}", again=False)
            )
        bound = self._max_reply_bytes
        # 47: gzip or zlib, told apart by the header.
        packed = zlib.decompressobj(47)

        def unpack(chunk: bytes) -> bytes:
            try:
                return packed.decompress(chunk, bound + 1)
            except zlib.error:
                raise RequestFailed(
                    unreadable(f"{self.service} sent a reply that can't be unpacked")
                ) from None

        return unpack

    def _too_long(self) -> Trouble:
        return unreadable(
            f"{self.service} sent a reply of more than {self._max_reply_bytes} bytes", again=False
        )

    def _refusal(self, response: aiohttp.ClientResponse, data: bytes) -> Trouble:
        text = self.hide(data[:_MAX_ERROR_CHARS].decode("utf-8", "replace"))
        return judge_status(
            response.status,
            service=self.service,
            headers=response.headers,
            text=text,
            wall_seconds=time.time(),
        )


def _redirected(
    response: aiohttp.ClientResponse, asks: bool, service: str, hide: Callable[[str], str]
) -> URL | None:
    """Where to ask again, if the service says so.

    Raises:
        RequestFailed: It sends us to somebody else, who must get neither key nor question; or
            it would have us come back without the question.
    """
    place = response.headers.get("Location")
    if response.status not in _REDIRECTS or not place:
        return None
    try:
        target = response.url.join(type(response.url)(place))
        told = public_url(str(target))
        same = target.origin() == response.url.origin()
    except ValueError:
        told, same = "what is no URL", False
    if same and (response.status in {307, 308} or not asks):
        return target
    raise RequestFailed(
        Trouble(
            Course.ROW,
            ModelRequestError,
            f"{service} answered {response.status}, a redirect to {hide(told)}: key"
            " and prompt are not sent there; if that is the service, give its URL instead",
            response.status,
        )
    )


def _close_at_once(session: aiohttp.ClientSession) -> None:
    """Close a session's sockets now.

    A task would not do: the loop may be in its last turn. The first step of the coroutine closes;
    what it would wait for after that is only the transports' own farewell.
    """
    closing = session.close()
    try:
        closing.send(None)
    except StopIteration:
        return
    finally:
        closing.close()


def _proxy_for(url: str) -> str | None:
    """The proxy that the environment names for a URL; asked once, since the asking is slow."""
    parts = urlsplit(url)
    # A proxy elsewhere would look for our loopback on its own machine.
    if parts.hostname is None or is_loopback(url) or proxy_bypass(parts.netloc):
        return None
    proxy = getproxies().get(parts.scheme)
    return f"http://{proxy}" if proxy and "://" not in proxy else proxy
