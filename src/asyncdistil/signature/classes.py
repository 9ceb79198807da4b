"""What a class contributes to a code fingerprint, as plain data.

Its name, bases and metaclass, and every attribute that someone wrote. What a library generated
from them does not count: the methods that ``dataclass``, ``attrs``, ``NamedTuple`` and ``Enum``
make, the internals that pydantic keeps. In their place stand the declarations they were made
from: fields with types, defaults and options, validators, members.
"""

from __future__ import annotations

import sys
import types
from enum import EnumMeta
from typing import TYPE_CHECKING, Any

from asyncdistil.signature.origin import OWN_PACKAGE, origin_of_namespace

if TYPE_CHECKING:
    from asyncdistil.signature.trace import Scope

_SKIPPED = frozenset(
    {
        "__abstractmethods__",
        "__annotate__",
        "__annotate_func__",
        "__annotations__",
        "__annotations_cache__",
        "__callable_proto_members_only__",
        "__classdictcell__",
        "__conditional_annotations__",
        "__dict__",
        "__doc__",
        "__firstlineno__",
        "__match_args__",
        "__module__",
        "__non_callable_proto_members__",
        "__orig_bases__",
        "__parameters__",
        "__protocol_attrs__",
        "__qualname__",
        "__slotnames__",  # kept by ``copyreg`` after the first pickle
        "__static_attributes__",
        "__type_params__",
        "__weakref__",
        "_abc_impl",
        "signature_ignore",
    }
)
_SLOTS = (types.MemberDescriptorType, types.GetSetDescriptorType)
_PYDANTIC = frozenset(
    {
        "__class_vars__",
        "__fields__",
        "__private_attributes__",
        "__signature__",
        "model_computed_fields",
        "model_fields",
    }
)
_NAMED_TUPLE = frozenset(
    {
        "__getnewargs__",
        "__new__",
        "__replace__",
        "__repr__",
        "__slots__",
        "_asdict",
        "_field_defaults",
        "_fields",
        "_make",
        "_replace",
    }
)
# What ``enum`` keeps in a class, and in a member; the members themselves are listed.
_ENUM = frozenset(
    {
        "__new__",
        "_boundary_",
        "_flag_mask_",
        "_all_bits_",
        "_singles_mask_",
        "_inverted_",
        "_generate_next_value_",
        "_hashable_values_",
        "_member_map_",
        "_member_names_",
        "_member_type_",
        "_new_member_",
        "_unhashable_values_",
        "_unhashable_values_map_",
        "_use_args_",
        "_value2member_map_",
        "_value_repr_",
    }
)
_MEMBER = frozenset(
    {"_value_", "_name_", "_sort_order_", "_inverted_", "__objclass__", "_hash_", "_pseudo_"}
)
_FIELD_OPTIONS = (
    "alias",
    "alias_priority",
    "default",
    "default_factory",
    "discriminator",
    "exclude",
    "frozen",
    "init",
    "init_var",
    "json_schema_extra",
    "kw_only",
    "metadata",
    "serialization_alias",
    "union_mode",
    "validate_default",
    "validation_alias",
)
_ATTRS_OPTIONS = ("eq", "eq_key", "order", "order_key", "hash", "repr", "on_setattr", "metadata")
_COMPARISONS = frozenset({"__eq__", "__lt__", "__hash__", "__repr__", "__setattr__"})
_STRUCT_OPTIONS = (
    "array_like",
    "eq",
    "forbid_unknown_fields",
    "frozen",
    "omit_defaults",
    "order",
    "tag",
    "tag_field",
)
# A model's JSON schema, these texts included, is what a language model is shown.
_FIELD_TEXTS = ("title", "description", "examples")


def heading(cls: type) -> str:
    """One line that explains a class, and a line per attribute of its own."""
    bases = ", ".join(base.__name__ for base in cls.__bases__ if base is not object)
    names = [f"    {name}" for name in sorted(vars(cls)) if not name.startswith("__")]
    return "\n".join([f"class {cls.__name__}({bases}):", *names])


def describe(scope: Scope, cls: type) -> Any:
    """Plain data for a class whose content counts."""
    metaclass = type(cls)
    parts: list[Any] = [
        "class",
        cls.__name__,
        [scope.type(base) for base in cls.__bases__],
        None if metaclass is type else scope.type(metaclass),
    ]
    own = vars(cls)
    declared, generated = _declared(scope, cls, own)
    parts.append(declared)
    attributes = []
    for name in sorted(own):
        value = own[name]
        if name in _SKIPPED or name in generated or isinstance(value, _SLOTS):
            continue
        if _is_inherited(cls, name, value):
            continue
        attributes.append([name, _attribute(scope, cls, name, value)])
    parts.append(attributes)
    return parts


def _attribute(scope: Scope, cls: type, name: str, value: Any) -> Any:
    label = f"{cls.__name__}.{name}"
    return scope.variable(cls, label, f"{cls.__module__}.{label}", value)


def _is_inherited(cls: type, name: str, value: Any) -> bool:
    """Whether the attribute repeats what the class inherits; copies of a class drop those."""
    for base in cls.__mro__[1:]:
        if name in vars(base):
            inherited = vars(base)[name]
            if inherited is value:
                return True
            plain = type(value) in (str, int, bool, float, bytes)
            # By their text: 0.0 equals -0.0.
            return plain and type(inherited) is type(value) and repr(inherited) == repr(value)
    return False


def is_generated(function: types.FunctionType) -> bool:
    """Whether ``dataclass`` made a function from the fields."""
    return function.__code__.co_qualname.startswith("__create_fn__.")


def _declared(scope: Scope, cls: type, own: Any) -> tuple[list[Any], frozenset[str]]:
    """Declarations of a data class, and the names of attributes that follow from them."""
    declared: list[Any] = []
    generated: set[str] = set()
    for kind in (_pydantic, _dataclass, _attrs, _struct, _named_tuple, _enum, _typed_dict):
        found = kind(scope, cls, own)
        if found is not None:
            declared.append([kind.__name__, found[0]])
            generated |= found[1]
    return declared, frozenset(generated)


def _where(cls: type, name: str) -> str:
    return f"{cls.__module__}.{cls.__name__}.{name}"


def _is_users(value: Any) -> bool:
    # By type: what pydantic puts in the place of a schema not yet made makes it when it is asked.
    function = value.__func__ if isinstance(value, (classmethod, staticmethod)) else value
    return (
        isinstance(function, types.FunctionType)
        and origin_of_namespace(function.__globals__).kind == "user"
    )


def _made_by(packages: tuple[str, ...], own: Any) -> set[str]:
    """Attributes that are functions of the packages that make data classes."""
    return {
        name
        for name, value in own.items()
        if isinstance(value, types.FunctionType)
        and str(value.__globals__.get("__name__")).partition(".")[0] in packages
    }


def own_annotations(cls: type) -> dict[str, Any]:
    """What a class itself is annotated with; names that are not defined yet as such."""
    if sys.version_info >= (3, 14):  # pragma: no cover
        # They are made when they are asked for (PEP 649), and stand nowhere until then.
        from annotationlib import Format, get_annotations

        return get_annotations(cls, format=Format.FORWARDREF)
    return vars(cls).get("__annotations__") or {}


def _annotated(scope: Scope, cls: type) -> list[Any]:
    return [
        [name, scope.value(annotation, _where(cls, f"{name} annotation"))]
        for name, annotation in own_annotations(cls).items()
    ]


def _pydantic(scope: Scope, cls: type, own: Any) -> tuple[Any, set[str]] | None:
    fields = own.get("__pydantic_fields__", own.get("model_fields"))
    if not isinstance(fields, dict) or "__pydantic_decorators__" not in own:
        return None
    if not getattr(cls, "__pydantic_fields_complete__", True):
        # A type named before it was defined. The first use would look it up, and what it is made
        # of must not count only from then on.
        model: Any = cls
        model.model_rebuild(raise_errors=False, _types_namespace={})
        fields = own["__pydantic_fields__"]
    # A step's field descriptions are help texts, so they don't count.
    is_step = any(base.__module__.partition(".")[0] == OWN_PACKAGE for base in cls.__mro__)
    options = _FIELD_OPTIONS if is_step else _FIELD_OPTIONS + _FIELD_TEXTS
    annotations = own_annotations(cls)
    generic = own.get("__pydantic_generic_metadata__") or {}
    written = [n for n in fields if n in annotations or generic.get("origin") is not None]
    declared = [
        [[name, _field(scope, cls, name, fields[name], options)] for name in written],
        [
            [name, _private(scope, cls, name, attribute)]
            for name, attribute in sorted((own.get("__private_attributes__") or {}).items())
        ],
        _decorators(scope, cls, own["__pydantic_decorators__"]),
        [scope.value(generic.get(key), _where(cls, key)) for key in ("origin", "args")],
    ]
    generated = {
        name
        for name, value in own.items()
        if name.startswith("__pydantic_") and not _is_users(value)
    }
    generated |= _PYDANTIC
    return declared, generated


def _field(scope: Scope, cls: type, name: str, field: Any, options: tuple[str, ...]) -> Any:
    where = _where(cls, name)
    if scope.tracer.ignored(where):
        return ["ignored"]
    shown: list[Any] = [["annotation", scope.value(field.annotation, f"{where} annotation")]]
    for option in options:
        value = getattr(field, option, None)
        # A required field has pydantic's "undefined" marker for its default.
        if type(value).__name__ == "PydanticUndefinedType":
            continue
        if option != "default" and (value is None or value == []):
            continue
        label = where if option == "default" else f"{where}.{option}"
        shown.append([option, scope.value(value, label)])
    return shown


def _private(scope: Scope, cls: type, name: str, attribute: Any) -> Any:
    where = _where(cls, name)
    if scope.tracer.ignored(where):
        return ["ignored"]
    return [scope.value(attribute.default, where), scope.value(attribute.default_factory, where)]


def _decorators(scope: Scope, cls: type, infos: Any) -> list[Any]:
    """What is validated or serialised when; the functions themselves are attributes."""
    shown = []
    for kind in sorted(vars(type(infos)).get("__dataclass_fields__", ())):
        for name, decorator in sorted(getattr(infos, kind).items()):
            # Inherited ones are counted where they were written.
            if name not in vars(cls):
                continue
            info = decorator.info
            options = []
            for option in sorted(getattr(type(info), "__dataclass_fields__", ())):
                if option in ("fields", "mode", "check_fields", "when_used", "alias"):
                    value = getattr(info, option)
                    options.append([option, scope.value(value, _where(cls, name))])
            shown.append([kind, name, options])
    return shown


def _dataclass(scope: Scope, cls: type, own: Any) -> tuple[Any, set[str]] | None:
    fields = own.get("__dataclass_fields__")
    if fields is None:
        return None
    parameters = own.get("__dataclass_params__")
    declared = []
    for field in fields.values():
        where = _where(cls, field.name)
        options: list[Any] = [
            [option, bool(getattr(field, option))]
            for option in ("init", "repr", "compare", "kw_only")
        ]
        for option in ("default", "default_factory"):
            value = getattr(field, option)
            if type(value).__name__ != "_MISSING_TYPE":
                options.append([option, scope.value(value, where)])
        options.append(["metadata", scope.value(field.metadata, f"{where}.metadata")])
        declared.append(
            [field.name, scope.value(field.type, f"{where} annotation"), field.hash, options]
        )
    names = {"__dataclass_fields__", "__dataclass_params__", "__slots__"}
    return [repr(parameters), declared], names | _made_by(("dataclasses", "reprlib"), own)


def _attrs(scope: Scope, cls: type, own: Any) -> tuple[Any, set[str]] | None:
    fields = own.get("__attrs_attrs__")
    if fields is None:
        return None
    declared = []
    for field in fields:
        where = _where(cls, field.name)
        default = field.default
        if type(default).__name__ == "Factory":
            default = ("factory", default.factory, default.takes_self)
        declared.append(
            [
                field.name,
                scope.value(field.type, f"{where} annotation"),
                str(default) == "NOTHING" or scope.value(default, where),
                scope.value(field.validator, f"{where}.validator"),
                scope.value(field.converter, f"{where}.converter"),
                [bool(field.init), bool(field.kw_only), field.alias],
                [
                    scope.value(getattr(field, option), f"{where}.{option}")
                    for option in _ATTRS_OPTIONS
                ],
            ]
        )
    names = {name for name in own if name.startswith("__attrs_")} | {"__slots__"}
    # attrs compiles its methods outside of any class, so nothing qualifies their names.
    names |= {
        name
        for name, value in own.items()
        if name.startswith("__")
        and isinstance(value, types.FunctionType)
        and value.__code__.co_qualname == name
    }
    names |= _made_by(("attr", "attrs"), own)
    # Which methods were made says what the class was told: ``order=True``, ``eq=False``.
    return [declared, sorted(names & _COMPARISONS)], names


def _struct(scope: Scope, cls: type, own: Any) -> tuple[Any, set[str]] | None:
    if type(cls).__module__.partition(".")[0] != "msgspec":
        return None
    struct: Any = cls
    declared = [
        [list(struct.__struct_fields__), list(struct.__struct_encode_fields__)],
        scope.value(
            [
                ("factory", default.factory) if type(default).__name__ == "Factory" else default
                for default in struct.__struct_defaults__
                if type(default).__name__ != "NoDefaultType"
            ],
            _where(cls, "defaults"),
        ),
        [
            [option, scope.value(getattr(struct.__struct_config__, option), _where(cls, option))]
            for option in _STRUCT_OPTIONS
        ],
        _annotated(scope, cls),
    ]
    return declared, {"__slots__", "__struct_config__"}


def _named_tuple(scope: Scope, cls: type, own: Any) -> tuple[Any, set[str]] | None:
    if tuple not in cls.__bases__ or "_fields" not in own or "_field_defaults" not in own:
        return None
    declared = [
        list(own["_fields"]),
        scope.value(own["_field_defaults"], _where(cls, "defaults")),
        _annotated(scope, cls),
    ]
    names = set(own["_fields"])
    names |= {
        name
        for name in _NAMED_TUPLE
        if not isinstance(own.get(name), types.FunctionType)
        or own[name].__globals__.get("__name__") in ("collections", f"namedtuple_{cls.__name__}")
    }
    return declared, names


def _enum(scope: Scope, cls: type, own: Any) -> tuple[Any, set[str]] | None:
    if not isinstance(cls, EnumMeta):
        return None
    listed: dict[str, Any] = dict(cls.__members__)
    members = []
    for name, member in listed.items():
        where = _where(cls, name)
        beside = scope.value(member_attributes(member), where)
        members.append([name, scope.value(member.value, where), beside])
    names = {
        name
        for name, value in own.items()
        if name in listed or name in _ENUM or _is_machinery(value)
    }
    return members, names


def member_attributes(member: Any) -> dict[str, Any]:
    """What ``__new__`` or ``__init__`` of an Enum gave a member beside its value."""
    return {name: value for name, value in sorted(vars(member).items()) if name not in _MEMBER}


def _is_machinery(value: Any) -> bool:
    """Whether a method is one that ``enum`` puts into every class."""
    function = value.__func__ if isinstance(value, (classmethod, staticmethod)) else value
    return getattr(function, "__module__", None) == "enum" and not isinstance(value, type)


def _typed_dict(scope: Scope, cls: type, own: Any) -> tuple[Any, set[str]] | None:
    if "__required_keys__" not in own or "__total__" not in own:
        return None
    keys = [sorted(own[name]) for name in ("__required_keys__", "__optional_keys__")]
    names = {name for name in own if name.startswith("__")}
    return [keys, _annotated(scope, cls)], names
