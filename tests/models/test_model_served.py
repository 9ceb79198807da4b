"""A commit names the stored answers that it was served: they are kept and carried with it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from asyncdistil.memo import Memo, Replies
from asyncdistil.models.memoized import Memoized, request_key, use_store
from asyncdistil.models.reply import Reply
from asyncdistil.transport import brokers


@pytest.fixture(autouse=True)
def _stored(tmp_path: Path) -> Iterator[None]:
    memo = Memo.open(tmp_path / "memo")
    use_store(Replies(memo, Reply))
    yield
    use_store(None)
    memo.close()


async def fetch(count: int) -> list[Reply]:
    return [Reply(outcome="ok", body=b"an answer")] * count


def test_answers_that_no_claim_names_are_named_when_they_are_served() -> None:
    key = request_key({"model": "m"}, {"prompt": "p"}, model="m")

    async def ask() -> list[tuple[bytes, int]]:
        ledger = brokers.Ledger()
        token = brokers.LEDGER.set(ledger)
        try:
            await Memoized().samples(key, 2, fetch, deterministic=True, accept={"ok"})
        finally:
            brokers.LEDGER.reset(token)
        return ledger.samples

    # What a run writes is found by its name; what it was served, by its commits.
    assert asyncio.run(ask()) == []
    assert asyncio.run(ask()) == [(key.digest, 0), (key.digest, 1)]
