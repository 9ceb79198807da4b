"""Replies of the OpenAI dialect: whole, streamed, split into samples, read.

Many services speak it, each with small liberties: content as a list of parts, an error inside a
200, usage left out or written as text, half of a surrogate pair, NaN. They are taken as they come,
for an answer that is thrown away is paid for again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import msgspec

from asyncdistil.errors import ModelReplyError
from asyncdistil.models.reply import Outcome, Reply, token_count
from asyncdistil.models.retry import RequestFailed, judge_status, unavailable, unreadable
from asyncdistil.models.typing import Logprob


class _Message(msgspec.Struct):
    content: str | list[Any] | None = None
    refusal: Any = None
    tool_calls: Any = None


class _Choice(msgspec.Struct):
    message: _Message | None = None
    text: str | None = None
    finish_reason: Any = None
    logprobs: Any = None


class ChatReply(msgspec.Struct):
    """What is read of a chat completion or a text completion; ``Any`` is looked at where used."""

    choices: list[_Choice] | None = None
    usage: Any = None
    model: Any = None
    system_fingerprint: Any = None
    error: Any = None


_decoder = msgspec.json.Decoder(ChatReply)


def decode(body: bytes) -> ChatReply:
    """Decode a reply.

    Raises:
        ModelReplyError: It is not JSON, or not of this shape.
    """
    try:
        return _decoder.decode(body)
    except msgspec.ValidationError as error:
        raise ModelReplyError(f"the reply can't be read: {error}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass
    try:
        return msgspec.convert(lenient_json(body), ChatReply)
    except (msgspec.ValidationError, ValueError, RecursionError) as error:
        raise ModelReplyError(f"the reply can't be read: {_why(error, body)}") from None


def _why(error: Exception, body: bytes) -> str:
    if isinstance(error, UnicodeDecodeError):
        return f"it is not UTF-8 (byte {error.start})"
    if isinstance(error, RecursionError):
        return "it is nested too deep"
    if body.lstrip()[:1] == b"<":
        return "it is a web page and no JSON; see whether the service's URL is right"
    return str(error)


def lenient_json(body: bytes) -> Any:
    """Decode JSON as its careless writers mean it.

    NaN and infinities are numbers, a byte order mark is skipped, half of a surrogate pair that
    stands alone becomes U+FFFD.

    Raises:
        ValueError: It is not JSON, or not UTF-8.
        RecursionError: It is nested too deep.
    """
    return _mended(_any_json(body))


def _any_json(body: bytes) -> Any:
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return json.loads(body.decode("utf-8-sig"))


def _mended(value: Any) -> Any:
    match value:
        case str():
            return whole_text(value)
        case list():
            return [_mended(item) for item in value]
        case dict():
            return {whole_text(name): _mended(item) for name, item in value.items()}
    return value


def whole_text(text: str) -> str:
    """``text`` with halves of surrogate pairs joined, and U+FFFD for one that stands alone."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def samples(body: bytes, *, service: str) -> list[Reply]:
    """Cut a reply into samples, one per choice.

    Args:
        body: The whole reply.
        service: Who sent it, for messages.

    Raises:
        RequestFailed: It can't be understood, holds an error or no choice.
    """
    try:
        reply = decode(body)
    except ModelReplyError as error:
        text = body[: 16 * 1024].decode("utf-8", "replace")
        raise RequestFailed(unreadable(f"{service}: {error}", detail=text)) from None
    if reply.error and not reply.choices:
        raise RequestFailed(_error_inside(reply.error, service))
    if not reply.choices:
        text = body[: 16 * 1024].decode("utf-8", "replace")
        raise RequestFailed(unreadable(f"{service} sent a reply without choices", detail=text))
    usage = reply.usage if isinstance(reply.usage, dict) else {}
    prompt = token_count(usage.get("prompt_tokens"))
    completion = token_count(usage.get("completion_tokens"))
    reported = _text_or_nothing(reply.system_fingerprint) or _text_or_nothing(reply.model)
    bodies = [body] if len(reply.choices) == 1 else _split(body)
    shares = _shares(completion, [len(_text_of(choice) or "") for choice in reply.choices])
    return [
        Reply(_outcome(choice), part, reported, prompt, share)
        for choice, part, share in zip(reply.choices, bodies, shares, strict=True)
    ]


def _error_inside(error: Any, service: str) -> Any:
    """An error sent with status 200, as gateways do."""
    code = error.get("code") if isinstance(error, Mapping) else None
    text = msgspec.json.encode(error).decode()
    status = code if isinstance(code, int) and 400 <= code < 600 else 502
    return judge_status(status, service=service, headers={}, text=text, wall_seconds=0.0)


def _split(body: bytes) -> list[bytes]:
    whole = lenient_json(body)
    return [msgspec.json.encode({**whole, "choices": [choice]}) for choice in whole["choices"]]


def _shares(total: int, weights: list[int]) -> list[int]:
    """Part a count by weights so that the parts add up."""
    if len(weights) == 1:
        return [total]
    whole = sum(weights)
    shares = [total * weight // whole if whole else total // len(weights) for weight in weights]
    shares[0] += total - sum(shares)
    return shares


def _text_of(choice: _Choice) -> str | None:
    if choice.message is None:
        return choice.text
    content = choice.message.content
    if isinstance(content, list):
        return "".join(map(_text_of_part, content)) or None
    if not content and choice.message.tool_calls:
        return msgspec.json.encode(choice.message.tool_calls).decode()
    return content


def _text_of_part(part: Any) -> str:
    return _text_or_nothing(part.get("text") if isinstance(part, dict) else part)


def _text_or_nothing(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _outcome(choice: _Choice) -> Outcome:
    if choice.finish_reason == "content_filter":
        return "refused"
    if choice.message is not None and choice.message.refusal:
        return "refused"
    if choice.finish_reason == "length":
        return "truncated"
    return "ok" if _text_of(choice) is not None else "empty"


def text_of(body: bytes) -> str | None:
    """The text of a reply that was cut down to one sample.

    Raises:
        ModelReplyError: It can't be read.
    """
    reply = decode(body)
    if not reply.choices:
        raise ModelReplyError("the stored reply holds no choice")
    choice = reply.choices[0]
    text = _text_of(choice)
    if text is None and choice.message is not None:
        return _text_or_nothing(choice.message.refusal) or None
    return text


def logprobs_of(body: bytes) -> list[list[Logprob]] | None:
    """Log probabilities of a reply that was cut down to one sample: candidates per position."""
    reply = decode(body)
    given = reply.choices[0].logprobs if reply.choices else None
    try:
        return _logprobs(given) if isinstance(given, dict) else None
    except (KeyError, TypeError, AttributeError):
        return None  # of a shape that nobody knows: the answer itself is worth keeping


def _logprobs(given: dict[str, Any]) -> list[list[Logprob]] | None:
    positions = given.get("content")
    if positions:
        return [
            [
                {"token": candidate["token"], "logprob": candidate["logprob"]}
                for candidate in (position.get("top_logprobs") or [position])
            ]
            for position in positions
        ]
    tops = given.get("top_logprobs")
    if tops:  # text completions: one mapping per position
        return [[{"token": t, "logprob": p} for t, p in (top or {}).items()] for top in tops]
    return None


class StreamedReply:
    """Puts the events of a stream together into the reply that would have come whole."""

    def __init__(self, *, service: str) -> None:
        self._service = service
        self._head: dict[str, Any] = {}
        self._choices: dict[int, dict[str, Any]] = {}
        self._usage: Any = None
        self._done = False

    def on_event(self, data: bytes) -> None:
        """Take one event.

        Raises:
            RequestFailed: It is not JSON, or an error.
        """
        if data == b"[DONE]":
            self._done = True
        if data in {b"", b"[DONE]"}:
            return
        try:
            self._take(_any_json(data))
        except RecursionError:
            raise RequestFailed(
                unreadable(f"{self._service} sent an event that is nested too deep")
            ) from None
        except ValueError:
            raise RequestFailed(
                unreadable(f"{self._service} sent an event that is not JSON")
            ) from None
        except (TypeError, AttributeError):
            text = data[: 16 * 1024].decode("utf-8", "replace")
            raise RequestFailed(
                unreadable(f"{self._service} sent an event of an unknown shape", detail=text)
            ) from None

    def _take(self, event: Any) -> None:
        if event.get("error"):
            raise RequestFailed(_error_inside(event["error"], self._service))
        self._usage = event.get("usage") or self._usage
        for name in ("id", "model", "system_fingerprint"):
            if event.get(name):
                self._head[name] = event[name]
        for part in event.get("choices") or ():
            self._add(part)

    def _add(self, part: Mapping[str, Any]) -> None:
        choice = self._choices.setdefault(
            int(part.get("index") or 0),
            {"texts": [], "refusals": [], "finish_reason": None, "logprobs": [], "calls": {}},
        )
        delta = part.get("delta") or {}
        piece = delta.get("content") if "delta" in part else part.get("text")
        if isinstance(piece, list):
            piece = "".join(map(_text_of_part, piece))
        if piece:
            choice["texts"].append("" + piece)
        if delta.get("refusal"):
            choice["refusals"].append("" + delta["refusal"])
        for call in delta.get("tool_calls") or ():
            _continue_call(choice["calls"], call)
        logprobs = part.get("logprobs")
        if isinstance(logprobs, dict):
            choice["logprobs"] += logprobs.get("content") or ()
        choice["finish_reason"] = part.get("finish_reason") or choice["finish_reason"]

    def whole(self) -> bytes:
        """The reply, as JSON.

        Raises:
            RequestFailed: The stream broke off: a choice has no end.
        """
        unfinished = any(c["finish_reason"] is None for c in self._choices.values())
        if not self._choices or (unfinished and not self._done):
            raise RequestFailed(unavailable(f"{self._service} broke off its stream"))
        choices = [
            {
                "index": index,
                "message": {
                    "role": "assistant",
                    "content": "".join(choice["texts"]) if choice["texts"] else None,
                    "refusal": "".join(choice["refusals"]) or None,
                    **({"tool_calls": list(choice["calls"].values())} if choice["calls"] else {}),
                },
                "finish_reason": choice["finish_reason"],
                "logprobs": {"content": choice["logprobs"]} if choice["logprobs"] else None,
            }
            for index, choice in sorted(self._choices.items())
        ]
        whole = _mended({**self._head, "choices": choices, "usage": self._usage})
        return msgspec.json.encode(whole)


def _continue_call(calls: dict[int, dict[str, Any]], part: Mapping[str, Any]) -> None:
    """Add a piece of a call of a tool: its arguments come bit by bit, the rest once."""
    call = calls.setdefault(int(part.get("index") or 0), {"function": {"arguments": ""}})
    call.update({name: part[name] for name in ("id", "type") if part.get(name)})
    function = part.get("function") or {}
    if function.get("name"):
        call["function"]["name"] = function["name"]
    call["function"]["arguments"] += function.get("arguments") or ""
