"""The fingerprint of a callable: one digest over everything its behaviour hangs on.

The graph that `trace` finds depends on which objects happen to be shared: a helper that travelled
to a worker by value and was imported there once more is two objects. So nodes of equal content
and equal neighbours are merged before they are named (the coarsest bisimulation), and the digest
is the same wherever the code was rebuilt.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from xxhash import xxh3_128_digest, xxh3_128_hexdigest

from asyncdistil.batch import Digest
from asyncdistil.codec import canonical_bytes
from asyncdistil.signature.text import source_of
from asyncdistil.signature.trace import Node, Tracer


@dataclass(frozen=True)
class CodeFingerprint:
    """What a step's code is.

    Attributes:
        digest: Names it; equal in every process that rebuilds the same code.
        parts: What the digest covers: component to digest or version. No name contains a module.
        modules: User modules to ship by value, sorted. Not part of the digest.
        uncacheable: Reasons why equal digests would not mean equal behaviour, each naming a
            variable and a remedy; empty if there are none.
    """

    digest: Digest
    parts: dict[str, str]
    modules: tuple[str, ...]
    uncacheable: tuple[str, ...]
    _nodes: dict[str, Node] = field(repr=False, compare=False)

    @cached_property
    def sources(self) -> dict[str, str]:
        """Component to source text or value, where there is one; explains, never counts."""
        texts = {
            label: node.text if node.code is None else source_of(node.code)
            for label, node in self._nodes.items()
        }
        return {label: text for label, text in texts.items() if text}


def fingerprint(obj: type | Callable[..., Any], *, ignore: Collection[str] = ()) -> CodeFingerprint:
    """Fingerprint the loaded code of a class or callable.

    Args:
        obj: A class, function, bound method, partial or callable object.
        ignore: Variables that don't count, as ``VARIABLE`` or ``module.VARIABLE``; the class
            attribute ``signature_ignore`` of ``obj`` adds to it.
    """
    declared = getattr(obj, "signature_ignore", ())
    tracer = Tracer({*ignore, *declared})
    tracer.walk(obj)
    local = [_local(node) for node in tracer.nodes]
    labels, representatives = _name(tracer.nodes, _refine(tracer.nodes, local))
    parts = {"python version": f"{sys.version_info[0]}.{sys.version_info[1]}"}
    for name, version in sorted(tracer.distributions.items()):
        parts[f"distribution {name}"] = version
    for label, number in representatives.items():
        targets = [labels[ref] for ref in tracer.nodes[number].refs]
        preimage = [local[number], targets]
        parts[label] = xxh3_128_hexdigest(canonical_bytes("asyncdistil/code-part/1", preimage))
    return CodeFingerprint(
        Digest(xxh3_128_digest(canonical_bytes("asyncdistil/code/1", parts))),
        parts,
        tuple(sorted(tracer.modules)),
        tuple(dict.fromkeys(tracer.uncacheable)),
        {label: tracer.nodes[number] for label, number in representatives.items()},
    )


def _local(node: Node) -> bytes:
    content = [node.label, node.content]
    return xxh3_128_digest(canonical_bytes("asyncdistil/code-node/1", content))


def _refine(nodes: list[Node], local: list[bytes]) -> list[bytes]:
    """Digests that are equal for nodes that nothing tells apart."""
    colors = local
    count = len(set(colors))
    while True:
        finer = [
            xxh3_128_digest(b"".join([colors[number], *(colors[ref] for ref in node.refs)]))
            for number, node in enumerate(nodes)
        ]
        finer_count = len(set(finer))
        if finer_count == count:
            return colors
        colors, count = finer, finer_count


def _name(nodes: list[Node], colors: list[bytes]) -> tuple[list[str], dict[str, int]]:
    """Give every class of equal nodes a unique name, in order of first visit from the start.

    Returns:
        The name of each node, and for each name the number of one node that has it.
    """
    names: dict[bytes, str] = {}
    representatives: dict[str, int] = {}
    taken: dict[str, int] = {}
    stack = [0]
    while stack:
        number = stack.pop()
        if colors[number] in names:
            continue
        label = nodes[number].label
        taken[label] = taken.get(label, 0) + 1
        name = label if taken[label] == 1 else f"{label}#{taken[label]}"
        names[colors[number]] = name
        representatives[name] = number
        stack.extend(reversed(nodes[number].refs))
    return [names[color] for color in colors], representatives
