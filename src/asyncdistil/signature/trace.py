"""Follow a callable to everything that its behaviour hangs on.

The result is a graph: one node per user function, class, module, named constant and closure
variable. A node's content is plain data in which other nodes appear as numbered references, so
cycles need no special care. What the content of each kind of object *is* stands in `values` and
`classes`.
"""

from __future__ import annotations

import builtins
import importlib
import importlib.util
import sys
from collections import deque
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from types import CodeType, FunctionType, ModuleType
from typing import Any

from asyncdistil.signature import classes, values
from asyncdistil.signature.bytecode import Import, code_form
from asyncdistil.signature.origin import (
    Origin,
    is_user_module,
    origin_of_import,
    origin_of_module,
    origin_of_name,
    origin_of_namespace,
)
from asyncdistil.signature.text import text_of

# Where a module is and what it is called must change nothing.
_MODULE_NAMES = frozenset(
    {
        "__annotations__",
        "__builtins__",
        "__cached__",
        "__doc__",
        "__file__",
        "__loader__",
        "__name__",
        "__package__",
        "__path__",
        "__spec__",
    }
)
_HEAP_TYPE = 1 << 9  # Py_TPFLAGS_HEAPTYPE: made by Python code, not by C


@dataclass(slots=True)
class Node:
    """One object that counts.

    Attributes:
        label: Name without module and path; not yet unique.
        content: Plain data; ``["ref", n]`` stands for ``nodes[refs[n]]``.
        refs: Numbers of the nodes referred to, in order of appearance.
        code: Code object whose source text explains the node, if it is a function.
        text: Text that explains the node otherwise.
    """

    label: str
    content: Any = None
    refs: list[int] = field(default_factory=list)
    code: CodeType | None = None
    text: str = ""


class Tracer:
    """One walk.

    Attributes:
        nodes: What was found; number 0 is what the walk started from.
        distributions: Versions of the installed distributions met.
        modules: Names of the user modules met that can be looked up.
        uncacheable: One sentence per object without a stable identity.
    """

    def __init__(self, ignore: Collection[str]) -> None:
        self.nodes: list[Node] = []
        self.distributions: dict[str, str] = {}
        self.modules: set[str] = set()
        self.uncacheable: list[str] = []
        self._ignore = frozenset(ignore)
        # The objects are kept alive beside their numbers, or their ids could be used again.
        self._known: dict[Any, tuple[int, Any]] = {}
        self._pending: deque[tuple[Node, Callable[[Scope], Any]]] = deque()

    def walk(self, obj: Any) -> None:
        """Trace everything reachable from ``obj``."""
        where = getattr(obj, "__qualname__", type(obj).__qualname__)
        self.add(("root",), obj, Node("callable"), lambda scope: scope.value(obj, where))
        while self._pending:
            node, describe = self._pending.popleft()
            node.content = describe(Scope(self, node))

    def add(self, key: Any, keep: Any, node: Node, describe: Callable[[Scope], Any]) -> int:
        """Number of the node for ``key``; a new one is described later."""
        known = self._known.get(key)
        if known is not None:
            return known[0]
        number = len(self.nodes)
        self._known[key] = (number, keep)
        self.nodes.append(node)
        self._pending.append((node, describe))
        return number

    def note_module(self, name: Any) -> None:
        """Remember a user module, unless it can't or need not be shipped by name."""
        if isinstance(name, str) and name != "__main__" and name in sys.modules:
            self.modules.add(name)

    def ignored(self, where: str) -> bool:
        """Whether the user left this variable out, by its own name or by its full one."""
        return where in self._ignore or where.rpartition(".")[2] in self._ignore


class Scope:
    """Describes the content of one node."""

    def __init__(self, tracer: Tracer, node: Node) -> None:
        self.tracer = tracer
        self.node = node
        self.active: list[int] = []  # ids of the containers around the value in hand

    def value(self, value: Any, where: str) -> Any:
        """Plain data for any value; ``where`` names it for people."""
        return values.describe(self, value, where)

    def live(self, value: Any, where: str) -> Any:
        """What stands for an object without a stable identity, after noting the reason."""
        kind = type(value)
        name = where.rpartition(".")[2]
        self.tracer.uncacheable.append(
            f"{where} is a {kind.__module__}.{kind.__qualname__} object without a stable "
            f"identity: give its class a __signature__() method that returns plain data, or add "
            f"{name!r} to signature_ignore"
        )
        return ["live", self.type(kind)]

    def reference(self, number: int) -> Any:
        """Refer to a node."""
        refs = self.node.refs
        refs.append(number)
        return ["ref", len(refs) - 1]

    def named(self, origin: Origin, module: str, qualname: str) -> Any:
        """Refer to an object of Python or of an installed distribution."""
        self.tracer.distributions.update(origin.distributions)
        names = [name for name, _ in origin.distributions]
        return ["named", names, module, qualname]

    def variable(self, holder: Any, label: str, where: str, value: Any) -> Any:
        """A named value: a module constant, a class attribute or a closure variable.

        Plain values become nodes of their own, so that `explain` can name the one that changed.

        Args:
            holder: Namespace, class or function that holds the variable; tells equal names apart.
            label: Name without module.
            where: Full name, for people and for ``signature_ignore``.
            value: What the variable holds now.
        """
        label, where = label.replace(".<locals>", ""), where.replace(".<locals>", "")
        if self.tracer.ignored(where):
            return ["ignored"]
        if isinstance(value, (FunctionType, type, ModuleType, *values.WRAPPERS)):
            return self.value(value, where)
        number = self.tracer.add(
            (id(holder), label),
            (holder, value),
            Node(label, text=text_of(label, value)),
            lambda scope: ["variable", values.describe(scope, value, where)],
        )
        return self.reference(number)

    def function(self, function: FunctionType, where: str) -> Any:
        """A Python function, whoever wrote it."""
        if classes.is_generated(function):
            return ["generated", function.__name__]
        origin = origin_of_namespace(function.__globals__)
        # The name in the code: what a decorator returns has borrowed that of what it wraps.
        label = function.__code__.co_qualname.replace(".<locals>", "")
        if origin.kind == "user":
            self.tracer.note_module(function.__globals__.get("__name__"))
            node = Node(label, code=function.__code__)
            describe = _own_function
        elif function.__closure__ is None and _is_importable(function):
            return self.named(origin, function.__module__, function.__qualname__)
        else:
            node = Node(label)
            describe = _foreign_function
        number = self.tracer.add(
            id(function), function, node, lambda scope: describe(scope, function)
        )
        return self.reference(number)

    def type(self, cls: type) -> Any:
        """A class: by content if it is the user's or can't be imported, else by name."""
        origin = origin_of_name(cls.__module__)
        by_name = not cls.__flags__ & _HEAP_TYPE or (origin.kind != "user" and _is_importable(cls))
        if by_name:
            return self.named(origin, cls.__module__, cls.__qualname__)
        if origin.kind == "user":
            self.tracer.note_module(cls.__module__)
        number = self.tracer.add(
            id(cls),
            cls,
            # A class that travelled by value has lost its qualified name.
            Node(cls.__name__, text=classes.heading(cls)),
            lambda scope: classes.describe(scope, cls),
        )
        return self.reference(number)

    def module(self, module: ModuleType) -> Any:
        """A module used as a whole: everything in it, if it is the user's."""
        if not is_user_module(module):
            return self.named(origin_of_module(module), module.__name__, "")
        self.tracer.note_module(module.__name__)
        number = self.tracer.add(
            id(vars(module)), module, Node("module"), lambda scope: _whole(scope, module)
        )
        return self.reference(number)

    def chain(self, module: ModuleType, attributes: tuple[str, ...]) -> Any:
        """What a chain of attributes read from a module leads to."""
        while attributes and is_user_module(module):
            self.tracer.note_module(module.__name__)
            namespace = vars(module)
            name, attributes = attributes[0], attributes[1:]
            if name in _MODULE_NAMES:
                return ["module name"]
            if self.tracer.ignored(f"{module.__name__}.{name}"):
                return ["ignored"]
            if name not in namespace:
                answer = namespace.get("__getattr__")
                if answer is None:
                    return ["missing"]
                # The module answers for names that it does not have.
                where = f"{module.__name__}.__getattr__"
                return ["missing", self.variable(namespace, "__getattr__", where, answer)]
            if not isinstance(namespace[name], ModuleType):
                where = f"{module.__name__}.{name}"
                return self.variable(namespace, name, where, namespace[name])
            module = namespace[name]
        return self.module(module)


def _own_function(scope: Scope, function: FunctionType) -> Any:
    form = code_form(function.__code__)
    namespace = function.__globals__
    links = []
    for chain in form.globals:
        link = _global(scope, function, chain)
        if link is not None:
            links.append([".".join(chain), link])
    links += [["import", _import(scope, namespace, statement)] for statement in form.imports]
    return ["function", function.__name__, form.digest, links, *_bindings(scope, function)]


def _foreign_function(scope: Scope, function: FunctionType) -> Any:
    """An installed function that is not found by its name, such as what a decorator returns."""
    origin = origin_of_namespace(function.__globals__)
    name = scope.named(
        origin, function.__globals__.get("__name__", ""), function.__code__.co_qualname
    )
    return ["foreign", name, *_bindings(scope, function)]


def _bindings(scope: Scope, function: FunctionType) -> list[Any]:
    """Defaults, closure and attributes of a function."""
    where = function.__qualname__
    keywords = function.__kwdefaults__ or {}
    attributes = vars(function)
    return [
        scope.value(function.__defaults__, f"{where}.__defaults__"),
        [[name, scope.value(keywords[name], f"{where}.{name}")] for name in sorted(keywords)],
        [
            _cell(scope, function, name, cell)
            for name, cell in zip(
                function.__code__.co_freevars, function.__closure__ or (), strict=True
            )
        ],
        [[name, scope.value(attributes[name], f"{where}.{name}")] for name in sorted(attributes)],
    ]


def _cell(scope: Scope, function: FunctionType, name: str, cell: Any) -> Any:
    try:
        value = cell.cell_contents
    except ValueError:
        return ["empty"]
    label = f"{function.__code__.co_qualname}.{name}"
    return scope.variable(function, label, f"{function.__module__}.{label}", value)


def _global(scope: Scope, function: FunctionType, chain: tuple[str, ...]) -> Any:
    """What a global name leads to; ``None`` if the name alone says it all."""
    namespace = function.__globals__
    name = chain[0]
    if name in _MODULE_NAMES:
        return None
    owner = str(namespace.get("__name__", ""))
    if name not in namespace:
        return None if hasattr(builtins, name) else ["missing"]
    value = namespace[name]
    if isinstance(value, ModuleType) and not scope.tracer.ignored(f"{owner}.{name}"):
        return scope.chain(value, chain[1:])
    return scope.variable(namespace, name, f"{owner}.{name}", value)


def _import(scope: Scope, namespace: Mapping[str, Any], statement: Import) -> Any:
    """What an import statement inside a function leads to.

    A user module is imported here if it was not before: the call would do it anyway, and the
    answer must not depend on whether it has already happened.
    """
    name, bound = statement.module, statement.bound
    if statement.level:
        package = namespace.get("__package__") or str(namespace.get("__name__")).rpartition(".")[0]
        try:
            name = importlib.util.resolve_name("." * statement.level + name, package)
        except ImportError:
            return ["missing", name]
        bound = name
    if scope.tracer.ignored(name):
        return ["ignored"]
    origin = origin_of_import(name)
    if origin is None:
        return ["missing", name]
    if origin.kind != "user":
        return scope.named(origin, name, "")
    try:
        importlib.import_module(name)
        for submodule in dict.fromkeys(chain[0] for chain in statement.chains if chain):
            _import_submodule(name, submodule)
    except Exception as error:
        scope.tracer.uncacheable.append(
            f"the import of {name} inside a function failed ({type(error).__name__}: {error}): "
            f"make the module importable here, or add {name!r} to signature_ignore"
        )
        return ["unimportable"]
    module = sys.modules[bound]
    return [[list(chain), scope.chain(module, chain)] for chain in statement.chains]


def _import_submodule(package: str, name: str) -> None:
    """Do what ``from package import name`` does when the package has no such name."""
    module = sys.modules[package]
    if hasattr(module, name) or not hasattr(module, "__path__"):
        return
    if importlib.util.find_spec(f"{package}.{name}") is not None:
        importlib.import_module(f"{package}.{name}")


def _whole(scope: Scope, module: ModuleType) -> Any:
    namespace = vars(module)
    return [
        "module",
        [
            [name, scope.variable(namespace, name, f"{module.__name__}.{name}", namespace[name])]
            for name in sorted(namespace)
            if name not in _MODULE_NAMES
        ],
    ]


def _is_importable(obj: FunctionType | type) -> bool:
    """Whether an object is found where it says it is."""
    found: Any = sys.modules.get(obj.__module__)
    for part in obj.__qualname__.split("."):
        found = getattr(found, part, None)
    return found is obj
