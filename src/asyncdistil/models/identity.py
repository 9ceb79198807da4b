"""What makes two models the same model, as far as their answers go.

See the page on model identity: provider kind, model id, revision, chat template, sampling
parameters, base URL. Keys, time-outs, retries, concurrency and where the weights run are not part
of it.
"""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from pydantic import BaseModel, SecretStr

OPERATIONAL = frozenset(
    {
        "api_key",
        "token",
        "max_retries",
        "timeout_seconds",
        "max_concurrency",
        "max_concurrent_requests",
        "requests_per_minute",
        "tokens_per_minute",
        "rate_limit_patience_seconds",
        "deadline_seconds",
        "max_reply_bytes",
        "start_seconds",
        "texts_per_request",
        "price",
        "stream",
        "verbose",
        "jobs_ids",
        "use_offline_batch_generation",
        "offline_batch_generation_block_until_done",
        "cuda_devices",
        "disable_cuda_device_placement",
        "device",
        "device_map",
        "n_gpu_layers",
        "n_batch",
        "http_client",
        "default_headers",
        "client_name",
        "follow_redirects",
        "model_identity",
        "model_display_name",
    }
)
"""Fields that can't change what a model answers, or must never be in a key."""


def is_loopback(url: str) -> bool:
    """Whether a URL names this machine."""
    host = urlsplit(url).hostname or ""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def public_url(url: str) -> str:
    """A URL without user info, query and fragment: what may stand in a key or a message."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    if ":" in host:
        host = f"[{host}]"
    if parts.port is not None:
        host = f"{host}:{parts.port}"
    return urlunsplit((parts.scheme, host, parts.path.rstrip("/"), "", ""))


def identity_fields(model: BaseModel) -> dict[str, Any]:
    """Fields of a model that can change its answers, as plain values.

    Secrets are left out by type wherever they stand, URLs are reduced to `public_url`, models
    inside a model contribute their own identity, classes their JSON schema. Keyword arguments are
    sorted, as their order means nothing; deeper dicts keep theirs: a model writes the members of
    a schema in that order.
    """
    fields: dict[str, Any] = {"kind": type(model).__qualname__}
    declared = getattr(model, "model_identity", None)
    if declared is not None:
        # The user vouches that this name alone tells the model apart, wherever it is served.
        fields["model_identity"] = declared
    ignored = OPERATIONAL | set(getattr(model, "signature_ignore", ()))
    for name in type(model).model_fields:
        if name in ignored or (declared is not None and name in {"base_url", "host"}):
            continue
        value = getattr(model, name)
        if isinstance(value, SecretStr):
            continue
        plain = _plain(value, is_url=name in {"base_url", "host", "endpoint"})
        fields[name] = _by_name(plain) if isinstance(plain, dict) else plain
    return _by_name(fields)


def _by_name(fields: dict[str, Any]) -> dict[str, Any]:
    return dict(sorted(fields.items(), key=lambda item: str(item[0])))


def _plain(value: Any, *, is_url: bool = False) -> Any:
    if isinstance(value, str):
        return public_url(value) if is_url else value
    if isinstance(value, SecretStr):
        return None
    if isinstance(value, BaseModel):
        own = getattr(value, "identity_fields", None)
        return own() if callable(own) else identity_fields(value)
    if isinstance(value, type):
        return type_identity(value)
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


def type_identity(kind: type) -> Any:
    """A class used as a schema, as its JSON schema; any other class by its name."""
    if issubclass(kind, BaseModel):
        return kind.model_json_schema()
    if hasattr(kind, "__struct_fields__"):
        import msgspec

        return msgspec.json.schema(kind)
    return f"{kind.__module__}.{kind.__qualname__}"
