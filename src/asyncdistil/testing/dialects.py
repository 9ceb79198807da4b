"""The request and reply shapes of the services that the stand-in can pass for.

A dialect is found by the end of the path. It reads the parts of a request that the stand-in needs
(`Asked`) and writes a reply of the service's own shape.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from asyncdistil.testing import answers

NAME = "asyncdistil-stand-in/1"
"""How the stand-in names itself in ``system_fingerprint`` and the ``server`` header."""


@dataclass(slots=True)
class Asked:
    """What a request asks for.

    Attributes:
        prompt: All text of the prompt.
        model: Model named in the request.
        texts: For completions and embeddings: the inputs, one by one.
        choices: Answers wanted per input.
        max_tokens: Longest answer, 0 for no limit.
        schema: JSON schema that the answer must satisfy.
        stream: Whether to stream.
        fields: The decoded body.
    """

    prompt: str
    model: str
    texts: list[str] = field(default_factory=list)
    choices: int = 1
    max_tokens: int = 0
    schema: Mapping[str, Any] | None = None
    stream: bool = False
    fields: Mapping[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class Said:
    """What the stand-in answers: texts, and why each ended (``stop``, ``length``, …)."""

    texts: list[str | None]
    reasons: list[str]
    input_tokens: int
    output_tokens: int


Reader: TypeAlias = Callable[[Mapping[str, Any], str], Asked]
Writer: TypeAlias = Callable[[Asked, Said, int], dict[str, Any]]


def _openai_schema(body: Mapping[str, Any]) -> Mapping[str, Any] | None:
    wanted = body.get("response_format") or {}
    if wanted.get("type") == "json_schema":
        found = wanted["json_schema"].get("schema")
        return found if isinstance(found, dict) else None
    if wanted.get("type") in {"json_object", "json"}:
        value = wanted.get("value") or wanted.get("schema")
        return value if isinstance(value, dict) else {"type": "object"}
    function = _forced_function(body)
    return None if function is None else function.get("parameters", {"type": "object"})


def _forced_function(body: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The function that the model must call: clients ask for structured answers in this way."""
    choice, tools = body.get("tool_choice"), body.get("tools") or []
    if not tools or not (isinstance(choice, dict) or choice in {"required", "any"}):
        return None
    name = choice["function"]["name"] if isinstance(choice, dict) else None
    functions: list[Mapping[str, Any]] = [tool["function"] for tool in tools]
    return next((one for one in functions if one["name"] == name), functions[0])


def read_chat(body: Mapping[str, Any], path: str) -> Asked:
    """OpenAI's chat completions, and the many services that speak it."""
    return Asked(
        prompt=answers.prompt_text(body["messages"]),
        model=body.get("model", ""),
        choices=body.get("n") or 1,
        max_tokens=body.get("max_completion_tokens") or body.get("max_tokens") or 0,
        schema=_openai_schema(body),
        stream=bool(body.get("stream")),
        fields=body,
    )


def _usage(said: Said) -> dict[str, int]:
    return {
        "prompt_tokens": said.input_tokens,
        "completion_tokens": said.output_tokens,
        "total_tokens": said.input_tokens + said.output_tokens,
    }


def _head(asked: Asked, kind: str, ordinal: int) -> dict[str, Any]:
    return {
        "id": f"{kind}-{ordinal}",
        "object": kind,
        "created": 1_700_000_000,
        "model": asked.model,
        "system_fingerprint": NAME,
    }


def write_chat(asked: Asked, said: Said, ordinal: int) -> dict[str, Any]:
    """OpenAI's chat completion."""
    choices: list[dict[str, Any]] = []
    for index, (text, reason) in enumerate(zip(said.texts, said.reasons, strict=True)):
        choice: dict[str, Any] = {
            "index": index,
            "message": {"role": "assistant", "content": text},
            "finish_reason": reason,
            "logprobs": None,
        }
        if (function := _forced_function(asked.fields)) is not None:
            call = {"name": function["name"], "arguments": text}
            choice["message"] |= {
                "content": None,
                "tool_calls": [{"id": f"call-{index}", "type": "function", "function": call}],
            }
        if asked.fields.get("logprobs") and text:
            choice["logprobs"] = {"content": _logprobs(text, asked.fields.get("top_logprobs") or 0)}
        choices.append(choice)
    return {**_head(asked, "chat.completion", ordinal), "choices": choices, "usage": _usage(said)}


def _logprobs(text: str, top: int) -> list[dict[str, Any]]:
    def candidate(token: str, place: int) -> dict[str, Any]:
        return {"token": token, "logprob": -0.5 - place, "bytes": None}

    return [
        {
            **candidate(token, 0),
            "top_logprobs": [candidate(token if i == 0 else f"{token}{i}", i) for i in range(top)],
        }
        for token in text.split(" ")
    ]


def read_completion(body: Mapping[str, Any], path: str) -> Asked:
    """OpenAI's older text completions."""
    prompt = body["prompt"]
    texts = [prompt] if isinstance(prompt, str) else [str(text) for text in prompt]
    return Asked(
        prompt="\n".join(texts),
        model=body.get("model", ""),
        texts=texts,
        choices=body.get("n") or 1,
        max_tokens=body.get("max_tokens") or 0,
        schema=_openai_schema(body),
        stream=bool(body.get("stream")),
        fields=body,
    )


def write_completion(asked: Asked, said: Said, ordinal: int) -> dict[str, Any]:
    """OpenAI's text completion."""
    choices = [
        {"index": i, "text": text or "", "finish_reason": reason, "logprobs": None}
        for i, (text, reason) in enumerate(zip(said.texts, said.reasons, strict=True))
    ]
    return {**_head(asked, "text_completion", ordinal), "choices": choices, "usage": _usage(said)}


def read_embeddings(body: Mapping[str, Any], path: str) -> Asked:
    """OpenAI's embeddings."""
    given = body["input"]
    texts = [given] if isinstance(given, str) else [str(text) for text in given]
    return Asked(prompt="\n".join(texts), model=body.get("model", ""), texts=texts, fields=body)


def write_embeddings(asked: Asked, said: Said, ordinal: int) -> dict[str, Any]:
    """OpenAI's embeddings, as numbers or base64 of float32."""
    size = asked.fields.get("dimensions") or 32
    data: list[dict[str, Any]] = []
    for index, text in enumerate(asked.texts):
        vector: Any = answers.embedding(text, size)
        if asked.fields.get("encoding_format") == "base64":
            vector = base64.b64encode(struct.pack(f"<{size}f", *vector)).decode()
        data.append({"object": "embedding", "index": index, "embedding": vector})
    return {**_head(asked, "list", ordinal), "data": data, "usage": _usage(said)}


def read_images(body: Mapping[str, Any], path: str) -> Asked:
    """OpenAI's images."""
    return Asked(
        prompt=body["prompt"],
        model=body.get("model", ""),
        choices=body.get("n") or 1,
        fields=body,
    )


def write_images(asked: Asked, said: Said, ordinal: int) -> dict[str, Any]:
    """OpenAI's images, as base64 or as ``data:`` URLs."""
    data: list[dict[str, str]] = []
    for index in range(asked.choices):
        image = base64.b64encode(answers.picture(f"{asked.prompt}/{index}")).decode()
        as_url = asked.fields.get("response_format") == "url"
        data.append({"url": f"data:image/png;base64,{image}"} if as_url else {"b64_json": image})
    return {"created": 1_700_000_000, "data": data, "system_fingerprint": NAME}


def read_ollama(body: Mapping[str, Any], path: str) -> Asked:
    """Ollama's chat and generate."""
    wanted = body.get("format")
    texts = [body["prompt"]] if "prompt" in body else []
    return Asked(
        prompt=texts[0] if texts else answers.prompt_text(body["messages"]),
        model=body.get("model", ""),
        texts=texts,
        max_tokens=(body.get("options") or {}).get("num_predict") or 0,
        schema=wanted if isinstance(wanted, dict) else {"type": "object"} if wanted else None,
        fields=body,
    )


def write_ollama(asked: Asked, said: Said, ordinal: int) -> dict[str, Any]:
    """Ollama's chat and generate."""
    text = said.texts[0] if said.texts else ""
    answer: dict[str, Any] = (
        {"response": text} if asked.texts else {"message": {"role": "assistant", "content": text}}
    )
    return {
        "model": asked.model,
        **answer,
        "done": True,
        "done_reason": (said.reasons or ["stop"])[0],
        "prompt_eval_count": said.input_tokens,
        "eval_count": said.output_tokens,
    }


def read_tgi(body: Mapping[str, Any], path: str) -> Asked:
    """Text Generation Inference's own route."""
    settings = body.get("parameters") or {}
    grammar = settings.get("grammar") or {}
    value = grammar.get("value")
    return Asked(
        prompt=body["inputs"],
        model="",
        texts=[body["inputs"]],
        max_tokens=settings.get("max_new_tokens") or 0,
        schema=value if isinstance(value, dict) else None,
        fields=body,
    )


def write_tgi(asked: Asked, said: Said, ordinal: int) -> list[dict[str, Any]]:
    """Text Generation Inference's own reply."""
    reason = {"stop": "eos_token"}.get(*([(said.reasons or ["stop"])[0]] * 2))
    return [
        {
            "generated_text": said.texts[0] if said.texts else "",
            "details": {
                "finish_reason": reason,
                "generated_tokens": said.output_tokens,
                "prefill": [{}] * said.input_tokens,
            },
        }
    ]


def read_anthropic(body: Mapping[str, Any], path: str) -> Asked:
    """Anthropic's messages."""
    system = body.get("system")
    messages: list[Mapping[str, Any]] = list(body["messages"])
    if system:
        messages.insert(0, {"content": system})
    wanted = ((body.get("output_config") or {}).get("format") or {}).get("schema")
    return Asked(
        prompt=answers.prompt_text(messages),
        model=body.get("model", ""),
        max_tokens=body.get("max_tokens") or 0,
        schema=wanted,
        fields=body,
    )


def write_anthropic(asked: Asked, said: Said, ordinal: int) -> dict[str, Any]:
    """Anthropic's message."""
    reasons = {"stop": "end_turn", "length": "max_tokens", "content_filter": "refusal"}
    content = [{"type": "text", "text": text} for text in said.texts[:1] if text is not None]
    return {
        "id": f"msg_{ordinal}",
        "type": "message",
        "role": "assistant",
        "model": asked.model,
        "content": content,
        "stop_reason": reasons.get((said.reasons or ["stop"])[0], "end_turn"),
        "stop_sequence": None,
        "usage": {"input_tokens": said.input_tokens, "output_tokens": said.output_tokens},
    }


def write_cohere(asked: Asked, said: Said, ordinal: int) -> dict[str, Any]:
    """Cohere's chat, version 2."""
    reasons = {"stop": "COMPLETE", "length": "MAX_TOKENS", "content_filter": "ERROR_TOXIC"}
    content = [{"type": "text", "text": text} for text in said.texts[:1] if text is not None]
    tokens = {"input_tokens": said.input_tokens, "output_tokens": said.output_tokens}
    return {
        "id": f"c-{ordinal}",
        "finish_reason": reasons.get((said.reasons or ["stop"])[0], "COMPLETE"),
        "message": {"role": "assistant", "content": content},
        "usage": {"billed_units": tokens, "tokens": tokens},
    }


def read_gemini(body: Mapping[str, Any], path: str) -> Asked:
    """Google's ``generateContent``."""
    contents: Sequence[Mapping[str, Any]] = body["contents"]
    system = body.get("systemInstruction")
    parts = [part for c in [*([system] if system else []), *contents] for part in c["parts"]]
    settings = body.get("generationConfig") or {}
    return Asked(
        prompt="\n".join(part.get("text", "") for part in parts),
        model=path.rsplit("/", 1)[-1].split(":", 1)[0],
        choices=settings.get("candidateCount") or 1,
        max_tokens=settings.get("maxOutputTokens") or 0,
        schema=settings.get("responseJsonSchema") or settings.get("responseSchema"),
        fields=body,
    )


def write_gemini(asked: Asked, said: Said, ordinal: int) -> dict[str, Any]:
    """Google's ``generateContent``."""
    reasons = {"stop": "STOP", "length": "MAX_TOKENS", "content_filter": "SAFETY"}
    return {
        "candidates": [
            {
                "index": index,
                "content": {"role": "model", "parts": [{"text": text}] if text else []},
                "finishReason": reasons.get(reason, "STOP"),
            }
            for index, (text, reason) in enumerate(zip(said.texts, said.reasons, strict=True))
        ],
        "usageMetadata": {
            "promptTokenCount": said.input_tokens,
            "candidatesTokenCount": said.output_tokens,
            "totalTokenCount": said.input_tokens + said.output_tokens,
        },
        "modelVersion": asked.model,
    }


DIALECTS: tuple[tuple[str, str, Reader, Callable[[Asked, Said, int], Any]], ...] = (
    ("/chat/completions", "chat", read_chat, write_chat),
    ("/completions", "completion", read_completion, write_completion),
    ("/embeddings", "embeddings", read_embeddings, write_embeddings),
    ("/images/generations", "images", read_images, write_images),
    ("/api/chat", "chat", read_ollama, write_ollama),
    ("/api/generate", "chat", read_ollama, write_ollama),
    ("/v1/messages", "chat", read_anthropic, write_anthropic),
    ("/v2/chat", "chat", read_chat, write_cohere),
    (":generateContent", "chat", read_gemini, write_gemini),
    ("/generate", "chat", read_tgi, write_tgi),
    ("/", "chat", read_tgi, write_tgi),
)
"""End of the path, kind of route, reader, writer; the first that fits counts."""
