"""A stand-in service per test, and models that wait hardly at all between tries."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, TypeVar

import pytest

from asyncdistil.models import memoized
from asyncdistil.testing.model_server import ModelServer
from asyncdistil.transport import brokers

M = TypeVar("M")


@pytest.fixture
def server() -> Iterator[ModelServer]:
    with ModelServer() as running:
        yield running


@pytest.fixture
def loaded() -> Iterator[Any]:
    """Load a model, make its waits short, unload it at the end."""
    models: list[Any] = []

    def load(model: M) -> M:
        model.load()  # type: ignore[attr-defined]
        models.append(model)
        endpoint = getattr(model, "_endpoint", None)
        if endpoint is not None:
            endpoint.patience = dataclasses.replace(endpoint.patience, first_wait_seconds=0.001)
        return model

    yield load
    for model in models:
        model.unload()


@pytest.fixture
def ledger() -> Iterator[brokers.Ledger]:
    """The account that a worker would keep for the work in hand."""
    book = brokers.Ledger()
    token = brokers.LEDGER.set(book)
    yield book
    brokers.LEDGER.reset(token)


@pytest.fixture(autouse=True)
def _nobody_offers_anything(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "HF_TOKEN", "ASYNCDISTIL_PRICES"):
        monkeypatch.delenv(name, raising=False)
    memoized._local_claims = memoized.LocalClaims()
    yield
    memoized.use_store(None)
    brokers.install(None)
