"""What a step is: its code, its signature, its lineage, and what changed since last time."""

from asyncdistil.signature.classes import member_attributes, own_annotations
from asyncdistil.signature.code import CodeFingerprint, fingerprint
from asyncdistil.signature.explain import ABSENT, Difference, differences, nearest
from asyncdistil.signature.identity import (
    Identity,
    aggregated_signature,
    lineage,
    pipeline_signature,
    read_definition,
    same_key,
    step_identity,
)
from asyncdistil.signature.origin import is_user_module, origin_of_name
from asyncdistil.signature.values import own_attributes

__all__ = [
    "ABSENT",
    "CodeFingerprint",
    "Difference",
    "Identity",
    "aggregated_signature",
    "differences",
    "fingerprint",
    "is_user_module",
    "lineage",
    "member_attributes",
    "nearest",
    "origin_of_name",
    "own_annotations",
    "own_attributes",
    "pipeline_signature",
    "read_definition",
    "same_key",
    "step_identity",
]
