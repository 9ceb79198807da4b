"""What every model behind a network service has in common: fields, key, client, permits."""

import hashlib
import logging
import os
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, ClassVar, TypeVar

from pydantic import AliasChoices, Field, PrivateAttr, SecretStr

from asyncdistil.errors import ParameterError
from asyncdistil.models import memoized
from asyncdistil.models.endpoint import Endpoint
from asyncdistil.models.http import MAX_REPLY_BYTES, HttpClient
from asyncdistil.models.identity import is_loopback, public_url
from asyncdistil.models.memoized import Memoized
from asyncdistil.models.model import Model, fresh_attributes
from asyncdistil.models.parameters import Setting
from asyncdistil.models.pricing import FREE, Price, price_of
from asyncdistil.models.retry import Patience
from asyncdistil.redaction import Redaction
from asyncdistil.transport.brokers import RateLimits

T = TypeVar("T")

_PROBE_SECONDS = 2.0

_log = logging.getLogger("asyncdistil.models")
_unpriced: set[tuple[str, str]] = set()  # models that this was said of


class Service(Model):
    """A model that is asked over the network.

    Attributes:
        api_key: Key of the service; without it the class's environment variable is read when the
            model loads.
        max_retries: Tries after the first, for errors that may pass. 429 never counts.
        timeout_seconds: For one try, from sending to the last byte; for a stream, longest silence.
            distilabel's ``timeout`` is accepted.
        deadline_seconds: For all tries of one request together, waiting for permits and 429 left
            out.
        rate_limit_patience_seconds: Time for which a service may say 429, or answer nobody,
            before the run stops, resumably.
        max_concurrency: Most requests in flight; how many there are adapts below it.
        requests_per_minute: Limit of your account; 0 for none.
        tokens_per_minute: Limit of your account; 0 for none.
        max_reply_bytes: Longest reply that is read, unpacked.
        price: US dollars per million prompt and completion tokens; not set: the list price.
        model_identity: Name that stands for the model wherever it is served, instead of its URL.
    """

    api_key: Setting[SecretStr] | None = Field(default=None, description="Key of the service.")
    max_retries: Setting[int] = Field(
        default=6, ge=0, description="Tries after the first, for errors that may pass."
    )
    timeout_seconds: Setting[float] = Field(
        default=120.0,
        gt=0,
        validation_alias=AliasChoices("timeout_seconds", "timeout"),
        description="Seconds for one try, counted from sending.",
    )
    deadline_seconds: Setting[float] = Field(
        default=1800.0, gt=0, description="Seconds for all tries of one request."
    )
    rate_limit_patience_seconds: Setting[float] = Field(
        default=1800.0, ge=0, description="Seconds for which 429 is borne before the run stops."
    )
    max_concurrency: Setting[int] = Field(
        default=64,
        ge=1,
        validation_alias=AliasChoices("max_concurrency", "max_concurrent_requests"),
        description="Most requests in flight.",
    )
    requests_per_minute: Setting[int] = Field(
        default=0, ge=0, description="Requests a minute that your account may send; 0: no limit."
    )
    tokens_per_minute: Setting[int] = Field(
        default=0, ge=0, description="Tokens a minute that your account may use; 0: no limit."
    )
    max_reply_bytes: int = Field(default=MAX_REPLY_BYTES, ge=1)
    price: tuple[float, float] | None = None
    model_identity: str | None = None

    # Name of the provider in price table and permit pool; kind of the model in its identity.
    provider: ClassVar[str] = ""
    key_variable: ClassVar[str] = ""

    libraries: ClassVar[tuple[str, ...]] = ("aiohttp",)

    _client: HttpClient | None = PrivateAttr(None)
    _endpoint: Endpoint | None = PrivateAttr(None)
    _memoized: Memoized = PrivateAttr(default_factory=Memoized)

    @property
    def concurrency(self) -> int:
        """Inputs worth having in flight at once."""
        return self.max_concurrency

    def load(self) -> None:
        """Make ready to send; nothing is sent yet."""
        super().load()
        self._connect()

    def unload(self) -> None:
        """Close the connections."""
        self._disconnect()
        super().unload()

    def _service_url(self) -> str:
        """Where the service is; overridden by classes that have a field for it."""
        raise NotImplementedError

    def _key(self) -> str:
        """The key: the field's, or the environment variable's; empty if there is none."""
        if self.api_key is not None:
            return self.api_key.get_secret_value()
        return os.environ.get(self.key_variable, "") if self.key_variable else ""

    def _needs_key(self) -> bool:
        """Whether the service is known to refuse requests without a key."""
        return True

    def _headers(self, key: str) -> Mapping[str, str]:
        """Headers of every request; may hold secrets."""
        return {"Authorization": f"Bearer {key}"} if key else {}

    def _connect(self) -> None:
        """Make ready to send; called by ``load``. Nothing is sent yet.

        Raises:
            ParameterError: There is no key, and the service needs one.
        """
        url = self._service_url()
        key = self._checked_key()
        self._disconnect()  # of an earlier load
        self._client = HttpClient(
            url,
            headers=self._headers(key),
            secrets=[key],
            max_reply_bytes=self.max_reply_bytes,
        )
        self._open_endpoint(url, key)

    def _checked_key(self) -> str:
        key = self._key()
        if not key and self._needs_key():
            raise ParameterError(
                f"{type(self).__name__} needs a key: set the environment variable"
                f" {self.key_variable}, or pass `api_key`"
            )
        return key

    def _open_endpoint(self, url: str, key: str) -> None:
        # A digest, because the name of a pool is logged: two accounts have two pools.
        account = hashlib.blake2b(key.encode(), digest_size=6).hexdigest() if key else "-"
        self._endpoint = Endpoint(
            governor=f"{self.provider} {public_url(url)} {account}",
            limits=RateLimits(
                self.max_concurrency, self.requests_per_minute, self.tokens_per_minute
            ),
            patience=Patience(
                max_retries=self.max_retries,
                deadline_seconds=self.deadline_seconds,
                rate_limit_seconds=self.rate_limit_patience_seconds,
                silence_seconds=self.rate_limit_patience_seconds,
                first_answer_seconds=max(60.0, 1.5 * self.timeout_seconds),
            ),
            hide=self._client.hide if self._client is not None else Redaction([key]),
            longest_try_seconds=self._longest_try_seconds(),
        )

    def _longest_try_seconds(self) -> float:
        """How long one try can take; overridden where ``timeout_seconds`` is for a silence."""
        return self.timeout_seconds

    def _disconnect(self) -> None:
        """Close what `_connect` opened; called by ``unload``, on any thread."""
        client, self._client, self._endpoint = self._client, None, None
        if client is not None:
            client.close()

    async def _call(self, send: Callable[[], Awaitable[tuple[T, int]]]) -> T:
        """Send through the endpoint: permits, tries, refusals."""
        if self._endpoint is None:
            raise ParameterError(f"{type(self).__name__} is not loaded: call `load()` first")
        return await self._endpoint.call(send)

    def _request_identity(self) -> dict[str, Any]:
        """What tells this model from another, besides the request itself."""
        if self.model_identity is not None:
            return {"provider": self.provider, "model_identity": self.model_identity}
        return {"provider": self.provider, "url": public_url(self._service_url())}

    async def _learn_who_answers(self) -> None:
        """Ask a server of this machine for its name, once, if there is a store.

        Answers of a stand-in lie apart, so its name must be known to find them again.
        """
        if memoized.current_store() is not None and is_loopback(self._service_url()):
            await self._memoized.probe(self._server_name)

    async def _server_name(self) -> str:
        client = HttpClient(self._service_url(), headers={})
        try:
            return await client.server_name("/models", timeout_seconds=_PROBE_SECONDS)
        finally:
            client.close()

    def _price(self, model: str) -> Price:
        if self.price is not None:
            return Price(*self.price)
        found = price_of(self._price_list(), model)
        if found is None and (self.provider, model) not in _unpriced:
            _unpriced.add((self.provider, model))
            _log.info(
                "no price is known for %s %r: its calls count as free; pass `price` to change that",
                self.provider,
                model,
            )
        return found or FREE

    def _price_list(self) -> str:
        """Whose list prices hold."""
        return self.provider

    def __getstate__(self) -> dict[Any, Any]:
        """State without connections and requests in flight: a copy opens its own."""
        state = super().__getstate__()
        private = dict(state["__pydantic_private__"] or {})
        fresh = fresh_attributes(type(self))["_memoized"]
        private.update(_client=None, _endpoint=None, _memoized=fresh)
        return {**state, "__pydantic_private__": private}
