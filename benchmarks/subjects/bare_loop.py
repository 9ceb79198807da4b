"""The bare aiohttp loop: prompts, requests in flight, answers, and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import aiohttp


async def ask_all(url: str, prompts: Iterable[str], in_flight: int) -> list[str]:
    """Ask a chat service every prompt; the answers come in the order in which they arrived."""
    pending = iter(prompts)
    answers: list[str] = []
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=in_flight)) as session:

        async def work() -> None:
            for prompt in pending:
                messages = [{"role": "user", "content": prompt}]
                body = {"model": "m", "messages": messages, "max_tokens": 128}
                async with session.post(f"{url}/chat/completions", json=body) as reply:
                    answers.append((await reply.json())["choices"][0]["message"]["content"])

        await asyncio.gather(*(work() for _ in range(in_flight)))
    return answers
