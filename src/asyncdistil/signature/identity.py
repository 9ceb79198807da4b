"""Signatures and lineages: keys made of named components.

A *definition* is what is stored for a lineage. It is one encoded value with two halves: ``key``,
which the digest covers, and ``beside``, text that explains the key to people. Only the key half
says whether two definitions are the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from xxhash import xxh3_128_digest, xxh3_128_hexdigest

from asyncdistil.batch import Digest, StepName
from asyncdistil.codec import canonical_bytes, decode_value, encode_value
from asyncdistil.errors import FormatError, UnencodableValue
from asyncdistil.signature.code import CodeFingerprint, fingerprint

_STEP_DOMAIN = "asyncdistil/step/1"
_LINEAGE_DOMAIN = "asyncdistil/lineage/1"


@dataclass(frozen=True)
class Identity:
    """The signature of one step: everything of its own that can change its output.

    Attributes:
        digest: XXH3-128 over ``components``. The name of the step is not part of it.
        components: Name to stored value: ``kind``, ``qualname``, ``version``, ``field.…``,
            ``code.…`` and ``extra.…``.
        name: Step name.
        beside: Component to text that explains it.
        uncacheable: Reasons why the step can't be cached, each with a remedy; empty if it can.
    """

    digest: Digest
    components: dict[str, Any]
    name: str = ""
    beside: dict[str, str] = field(default_factory=dict, repr=False, compare=False)
    uncacheable: tuple[str, ...] = ()


def step_identity(
    *,
    name: str,
    kind: str,
    qualname: str,
    version: int | None,
    fields: Mapping[str, Any],
    code: CodeFingerprint | None,
    extra: Mapping[str, Any] | None = None,
) -> Identity:
    """Sign a step.

    What is passed counts, all of it; operational fields and secrets must be left out before.

    Args:
        name: Step name, for messages.
        kind: ``generator``, ``row``, ``batch`` or ``global``.
        qualname: Qualified name of the class, without its module.
        version: Explicit version of a library step, else ``None``.
        fields: Semantic field values. Classes and functions in them count by their code.
        code: Fingerprint of the class, or ``None`` for library steps.
        extra: Anything else that can change an output, such as a model's identity.
    """
    components: dict[str, Any] = {"kind": kind, "qualname": qualname}
    beside: dict[str, str] = {}
    reasons: list[str] = []
    if version is not None:
        components["version"] = version
    for prefix, values in (("field", fields), ("extra", extra or {})):
        for key, value in values.items():
            component = f"{prefix}.{key}"
            components[component] = _stored(value, component, name, beside, reasons)
    if code is not None:
        components |= {f"code.{part}": value for part, value in code.parts.items()}
        beside |= {f"code.{part}": text for part, text in code.sources.items()}
        reasons += code.uncacheable
    digest = Digest(xxh3_128_digest(canonical_bytes(_STEP_DOMAIN, components)))
    return Identity(digest, components, name, beside, tuple(dict.fromkeys(reasons)))


def _stored(
    value: Any, component: str, step: str, beside: dict[str, str], reasons: list[str]
) -> Any:
    """A field value as data that the codec covers."""
    kind = type(value)
    if kind is dict:
        return {
            key: _stored(item, f"{component}.{key}", step, beside, reasons)
            for key, item in value.items()
        }
    if kind in (list, tuple):
        return kind(
            _stored(item, f"{component}.{position}", step, beside, reasons)
            for position, item in enumerate(value)
        )
    if isinstance(value, Enum):
        # As plain data: an Enum would be decoded differently once its module has moved.
        plain = _stored(value.value, component, step, beside, reasons)
        return ["enum", kind.__qualname__, value.name, plain]
    if callable(value):
        code = fingerprint(value)
        beside |= {f"{component}.{part}": text for part, text in code.sources.items()}
        reasons += code.uncacheable
        return dict(code.parts)
    try:
        canonical_bytes("", value)
    except UnencodableValue:
        reasons.append(
            f"{component} of step {step!r} holds a {kind.__module__}.{kind.__qualname__}, which "
            "has no stable identity: pass plain data, or add the field to signature_ignore"
        )
        return ["live", kind.__qualname__]
    return value


def lineage(
    step: Identity,
    *,
    name: StepName,
    edges: Sequence[Mapping[str, Any]],
    parents: Sequence[Digest],
) -> tuple[Digest, bytes]:
    """Name a step together with everything above it.

    Args:
        step: Signature of the step.
        name: Name of the step in its pipeline.
        edges: Wiring of each input port in order, such as ``{"upstream": "load", "routed": …}``.
        parents: Lineages that the ports read from, as long as ``edges``.

    Returns:
        The digest, and the definition to store under it.
    """
    key = {
        "name": name,
        "step": step.components,
        "edges": [dict(edge) for edge in edges],
        "parents": [bytes(parent) for parent in parents],
    }
    digest = Digest(xxh3_128_digest(canonical_bytes(_LINEAGE_DOMAIN, key)))
    return digest, encode_value({"key": key, "beside": step.beside})


def read_definition(definition: bytes) -> tuple[dict[str, Any], dict[str, str]]:
    """Split a definition into its key and the text beside it.

    Raises:
        FormatError: The bytes are not a definition.
    """
    value = decode_value(definition)
    if not isinstance(value, dict) or not isinstance(value.get("key"), dict):
        raise FormatError(
            "a stored step definition can't be read; it was written by another version: upgrade "
            "asyncdistil, or recompute with use_cache=False"
        )
    beside = value.get("beside")
    return value["key"], beside if isinstance(beside, dict) else {}


def same_key(old: bytes, new: bytes) -> bool:
    """Whether two definitions have the same key; the text beside it doesn't matter.

    Raises:
        FormatError: One of them is not a definition.
    """
    if old == new:
        return True
    keys = [read_definition(definition)[0] for definition in (old, new)]
    return canonical_bytes(_LINEAGE_DOMAIN, keys[0]) == canonical_bytes(_LINEAGE_DOMAIN, keys[1])


def pipeline_signature(
    names: Iterable[str],
    edges: Iterable[tuple[str, str]],
    routers: Mapping[str, Any] | None = None,
) -> str:
    """Name a pipeline by its step names and connections; 32 hex digits.

    Args:
        names: Step names; their order doesn't count.
        edges: Upstream and downstream name of each connection. For one downstream step the order
            counts, because it is the order of its input ports.
        routers: Step that is routed, to what is stored about its router.
    """
    # Sorting is stable, so the ports of each step stay in order.
    ports = sorted(([up, down] for up, down in edges), key=lambda edge: edge[1])
    shape = [sorted(names), ports, dict(routers or {})]
    return xxh3_128_hexdigest(canonical_bytes("asyncdistil/pipeline/1", shape))


def aggregated_signature(identities: Iterable[Identity]) -> str:
    """Name the steps of a pipeline with all their parameters; 32 hex digits, order-free."""
    signed = sorted([identity.name, bytes(identity.digest)] for identity in identities)
    return xxh3_128_hexdigest(canonical_bytes("asyncdistil/steps/1", signed))
