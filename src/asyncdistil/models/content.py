"""Messages in the vocabulary of services that don't speak OpenAI's."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from asyncdistil.errors import ParameterError

_DATA_URL = re.compile(r"data:([^;,]+);base64,(.*)", re.DOTALL)


def without_system(messages: Sequence[Any]) -> tuple[str, list[Any]]:
    """Part the system prompts from the rest; several are joined by an empty line."""
    system = [text_of(m.get("content")) for m in messages if m.get("role") == "system"]
    return "\n\n".join(system), [m for m in messages if m.get("role") != "system"]


def text_of(content: Any) -> str:
    """All text of a message; images are left out."""
    if isinstance(content, str):
        return content
    return "\n".join(part["text"] for part in content or () if part.get("type") == "text")


def data_url(url: str) -> tuple[str, str] | None:
    """Media type and base64 text of a ``data:`` URL; ``None`` if it is another URL."""
    match = _DATA_URL.fullmatch(url)
    return (match[1], match[2]) if match else None


def anthropic_content(content: Any) -> Any:
    """The content of a message, images in Anthropic's form."""
    if not isinstance(content, list):
        return content
    return [_anthropic_part(part) for part in content]


def _anthropic_part(part: Any) -> Any:
    if part.get("type") != "image_url":
        return part
    url = part["image_url"]["url"]
    held = data_url(url)
    if held is None:
        return {"type": "image", "source": {"type": "url", "url": url}}
    media, data = held
    return {"type": "image", "source": {"type": "base64", "media_type": media, "data": data}}


def gemini_contents(messages: Sequence[Any]) -> list[dict[str, Any]]:
    """Conversation turns in Google's form."""
    return [
        {
            "role": "model" if message["role"] in {"assistant", "model"} else "user",
            "parts": _gemini_parts(message.get("content")),
        }
        for message in messages
    ]


def _gemini_parts(content: Any) -> list[dict[str, Any]]:
    if isinstance(content, str):
        return [{"text": content}]
    parts: list[dict[str, Any]] = []
    for part in content or ():
        if part.get("type") != "image_url":
            parts.append({"text": part["text"]})
            continue
        url = part["image_url"]["url"]
        held = data_url(url)
        if held is None:
            if not url.startswith("gs://"):
                raise ParameterError(
                    "Google's models take images as data: URLs or from gs://, not from other URLs"
                )
            parts.append({"file_data": {"file_uri": url}})
        else:
            parts.append({"inline_data": {"mime_type": held[0], "data": held[1]}})
    return parts
