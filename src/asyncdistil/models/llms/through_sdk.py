"""A language model that is asked through its provider's own SDK.

The SDK is imported when the model loads, its retries are off, and its clients are kept one per
event loop. Everything else (memo, permits, tries, accounts) is as for every other service.
"""

from abc import abstractmethod
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from types import ModuleType
from typing import Any, ClassVar

import msgspec
from pydantic import PrivateAttr

from asyncdistil.errors import ModelReplyError, ParameterError
from asyncdistil.models import sdk
from asyncdistil.models.identity import public_url
from asyncdistil.models.llms.remote import RemoteLLM
from asyncdistil.models.loop import PerLoop
from asyncdistil.models.structured import Structure
from asyncdistil.models.typing import FormattedInput
from asyncdistil.redaction import Redaction


class SdkLLM(RemoteLLM):
    """A service that is asked through an SDK.

    Attributes:
        model: Model id, as the service knows it.
    """

    model: str

    # Package to import, and the extra of asyncdistil that installs it.
    package: ClassVar[str] = ""
    extra: ClassVar[str] = ""

    # Not preloaded: nobody knows what an SDK starts when it is imported.
    libraries: ClassVar[tuple[str, ...]] = ()

    _clients: PerLoop[Any] | None = PrivateAttr(None)
    _secret: str = PrivateAttr("")

    @property
    def model_name(self) -> str:
        """The model id."""
        return self.model

    def _conversation(self, given: FormattedInput) -> tuple[list[Any], Structure | None]:
        """Part an input into messages and structure; raw text is what the user says."""
        messages, structure = self._split(given)
        if isinstance(messages, str):
            return [{"role": "user", "content": messages}], structure
        return list(messages), structure

    @abstractmethod
    def _make_client(self, package: ModuleType, key: str) -> Any:
        """Make a client for the running loop, with the SDK's retries off."""

    def _connect(self) -> None:
        key = self._checked_key()
        package = sdk.require(self.package, extra=self.extra, needed_by=type(self).__name__)
        self._secret = key
        self._clients = PerLoop(lambda: self._make_client(package, key))
        self._open_endpoint(self._service_url(), key)

    def _disconnect(self) -> None:
        # The SDKs' clients close their connections when they are collected.
        self._clients = None
        super()._disconnect()

    def __getstate__(self) -> dict[Any, Any]:
        """State without clients and without the key that they were given."""
        state = super().__getstate__()
        private = {**state["__pydantic_private__"], "_clients": None, "_secret": ""}
        return {**state, "__pydantic_private__": private}

    def _hide(self, text: str) -> str:
        return Redaction([self._secret])(text)

    @property
    def _service_name(self) -> str:
        return public_url(self._service_url())

    @asynccontextmanager
    async def _calling(self) -> AsyncIterator[Any]:
        """The client of the running loop; what it raises becomes a `RequestFailed`."""
        if self._clients is None:
            raise ParameterError(f"{type(self).__name__} is not loaded: call `load()` first")
        async with sdk.translated(
            self._service_name, timeout_seconds=self.timeout_seconds, hide=self._hide
        ):
            yield self._clients.get()


def without_none(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Fields that have a value; the others are left to the service."""
    return {name: value for name, value in fields.items() if value is not None}


def decoded(body: bytes) -> Any:
    """A stored reply as plain data.

    Raises:
        ModelReplyError: It is not JSON.
    """
    try:
        return msgspec.json.decode(body)
    except msgspec.DecodeError as error:
        raise ModelReplyError(f"the reply can't be read: {error}") from None
