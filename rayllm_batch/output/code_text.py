"""Code and values as text that is the same whenever they are: in a notebook, a script or a module, in any process.

Where text differs although nothing that counts does, finished rows are compared once more, which costs minutes of CPU.
Where a change does not show, answers to other prompts stay and nobody is told. So what is not known is taken for what
pickle keeps.
"""

from __future__ import annotations

import ast
import dis
import functools
import hashlib
import importlib.util
import inspect
import json
import os
import pickle
import re
import sys
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Optional

from rayllm_batch.installed import is_installed

Seen = dict[Any, Any]  # by their ids, what is in the text already; kept, or another could get its id
OTHERS = re.compile(r"(site|dist)-packages")
OWN = "rayllm_batch"  # this library's, also where it runs from a clone, whose folder may have that name too
HOME = "home"  # in it, the module or the package of the workload's class: the user's, also where it is installed


def home_of(workload: Any) -> Seen:
    module = type(workload).__module__
    package = module.partition(".")[0]
    return {HOME: module if package == OWN else package}


def code_of_class(cls: type, seen: Seen) -> str:
    """Without its bases, or its metaclass."""
    if id(cls) in seen:
        return ""
    seen[id(cls)] = cls
    fields = vars(cls).get("__dataclass_fields__", {})
    parts = []
    for name, value in sorted(vars(cls).items()):
        if name in fields or name.startswith("_abc_"):
            continue  # fields are listed by their values
        functions = _functions(value)
        if name.startswith("__") and not any(f.__code__.co_filename != "<string>" for f in functions):
            continue  # Python or dataclass made it
        parts += [f"{name}: {_code(f, seen)}" for f in functions] or [f"{name} = {as_text(value, seen)}"]
    return "\n".join(parts)


def _code_of_users_class(cls: type, seen: Seen) -> str:
    return "".join(
        code_of_class(base, seen) for base in (*cls.__mro__, *inspect.getmro(type(cls))) if _is_users(base, seen)
    )


def _functions(value: Any) -> list[types.FunctionType]:
    """The functions behind a method, a property or a decorated function."""
    found: list[Any]
    if isinstance(value, property):
        found = [value.fget, value.fset]
    elif isinstance(value, functools.cached_property):
        found = [value.func]
    else:
        found = [value.__func__ if isinstance(value, (staticmethod, classmethod)) else value]
    unwrapped = [inspect.unwrap(f) for f in found]
    wrappers = [f for f, inner in zip(found, unwrapped, strict=True) if f is not inner]
    return [f for f in (*unwrapped, *wrappers) if isinstance(f, types.FunctionType)]


def _code(function: types.FunctionType, seen: Seen) -> str:
    """Without comments and layout, and with what of the user's it names: constants, functions, classes, modules."""
    if id(function) in seen:
        return ""
    seen[id(function)] = function
    parts = [_source(function)]
    names = _names(function.__code__)
    for name, value in sorted(_used(function, names, seen).items()):
        parts += _named(name, value, names["attributes"], seen)
    parts += [_source_of(name) for name in sorted(names["imports"])]
    return "\n".join(parts)


def _named(name: str, value: Any, attributes: set[str], seen: Seen) -> list[str]:
    """attributes: of a module of the user's, those that count."""
    if isinstance(value, types.ModuleType):
        parts: list[str] = []
        own = sorted(attributes & vars(value).keys()) if _is_users(value, seen) else []
        for attribute in [name for name in own if seen.setdefault((id(value), name), value) is value]:
            parts += _named(f"{name}.{attribute}", vars(value)[attribute], attributes - {attribute}, seen)
        return parts
    if functions := _functions(value):
        return [f"{name}: {_code(f, seen)}" for f in functions if _is_users(f, seen) or f.__closure__]
    if isinstance(value, type):
        return [f"{name}: {_code_of_users_class(value, seen)}"] if _is_users(value, seen) else []
    return [] if value is None else [f"{name} = {as_text(value, seen)}"]


def _source(function: types.FunctionType) -> str:
    if function.__name__ != "<lambda>":  # a lambda's lines hold more than itself
        try:
            source = inspect.getsource(function.__code__)  # of a function, it would be that of what it wraps
            if not source[0].isspace():
                return ast.unparse(ast.parse(source))
            # Not dedented: a prompt in triple quotes may start at the left edge.
            return ast.unparse(ast.parse("if 1:\n" + source).body[0].body)  # type: ignore[attr-defined]
        except (OSError, TypeError, SyntaxError):
            pass
    return _bytecode(function.__code__)


def _used(function: types.FunctionType, names: dict[str, set[str]], seen: Seen) -> dict[str, Any]:
    """What the function sees from outside: globals that it names, variables of a function around it, default values."""
    space = function.__globals__ if _is_users(function, seen) else {}
    used = {name: space[name] for name in names["globals"] if name in space}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            used[name] = cell.cell_contents
        except ValueError:  # not set yet
            pass
    if defaults := [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]:
        used["defaults"] = defaults
    return used


def _is_users(thing: Any, seen: Seen) -> bool:
    """Code beside the workload, not that of an installed package. thing: a function, a class or a module."""
    name = thing.__name__ if isinstance(thing, types.ModuleType) else getattr(thing, "__module__", None) or "builtins"
    if f"{name}.".startswith(f"{seen.get(HOME, '__main__')}."):
        return True
    if name == "__main__" or name not in sys.modules:
        return name.partition(".")[0] not in sys.stdlib_module_names
    file = getattr(sys.modules[name], "__file__", None)
    return name.partition(".")[0] != OWN and file is not None and not is_installed(file) and not OTHERS.search(file)


def _source_of(name: str) -> str:
    """Of a module that a function imports when called, and which may not be here yet; "" where it is not the user's."""
    try:
        package = name.partition(".")[0]
        spec = importlib.util.find_spec(package)
        if spec is None or package == OWN or not spec.origin or is_installed(spec.origin) or OTHERS.search(spec.origin):
            return ""
        if not spec.origin.endswith(".py"):
            return ""
        file = Path(spec.origin)
        files = sorted(file.parent.rglob("*.py")) if spec.submodule_search_locations else [file]
        return "\n".join(ast.unparse(ast.parse(file.read_bytes())) for file in files)
    except (ImportError, ValueError, OSError, SyntaxError):
        return ""


def _bytecode(code: types.CodeType) -> str:
    consts = [_bytecode(c) if isinstance(c, types.CodeType) else as_text(c) for c in code.co_consts]
    return f"{code.co_code.hex()} {code.co_names} {consts}"


def _names(code: types.CodeType) -> dict[str, set[str]]:
    """Not co_names for globals, which has attributes too: a notebook may have a variable named `split` or `text`."""
    kinds = {"LOAD_GLOBAL": "globals", "LOAD_NAME": "globals", "IMPORT_NAME": "imports"}
    names: dict[str, set[str]] = {"globals": set(), "imports": set(), "attributes": set(code.co_names)}
    for instruction in dis.get_instructions(code):
        if kind := kinds.get(instruction.opname):
            names[kind].add(instruction.argval)
    for const in code.co_consts:
        if isinstance(const, types.CodeType):
            for kind, found in _names(const).items():
                names[kind] |= found
    return names


def canonical(value: Any, seen: Seen) -> Any:  # noqa: PLR0911, PLR0912 (a line a kind)
    """What JSON can write; the same in every process for values that are equal."""
    if functions := _functions(value):
        return [f"code {digest(_code(f, seen))}" for f in functions]
    if isinstance(value, type):
        name = value.__qualname__
        return [name, digest(_code_of_users_class(value, seen))] if _is_users(value, seen) else name
    if _is_users(type(value), seen):
        return _kept(value, seen)
    if isinstance(value, float) and value.is_integer():  # 64 in a notebook is 64.0 from a command line
        return int(value)
    if value is None or isinstance(value, (str, int, float)):
        return value
    if isinstance(value, (list, tuple)):
        return [canonical(item, seen) for item in value]
    if isinstance(value, Mapping) and type(value) is not type(os.environ):
        return {
            key if isinstance(key, str) else as_text(key, seen): canonical(item, seen) for key, item in value.items()
        }
    if isinstance(value, (set, frozenset)):
        return sorted(as_text(item, seen) for item in value)
    if isinstance(value, functools.partial):
        return canonical([value.func, value.args, value.keywords], seen)
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, re.Pattern):
        return [value.pattern, value.flags]
    if type(value).__module__ == "numpy":
        return canonical(value.tolist(), seen)
    if isinstance(value, (bytes, complex)) or type(value).__module__ in ("datetime", "decimal", "uuid"):
        return str(value)
    if isinstance(value, (types.ModuleType, type(os.environ))):
        return opaque(value)
    return _kept(value, seen)


def _kept(value: Any, seen: Seen) -> str:
    """Of any other object, a digest, for it may hold a secret: of what pickle keeps, and the code of a user's class."""
    if id(value) in seen:
        return opaque(value)
    seen[id(value)] = value
    its_code = _code_of_users_class(type(value), seen) if _is_users(type(value), seen) else ""
    try:
        if is_of_a_package(value, seen):
            return f"{opaque(value)} {hashlib.sha256(pickle.dumps(value, protocol=4)).hexdigest()[:12]}"
        reduced = value.__reduce_ex__(4)
    except Exception:  # it cannot be pickled
        own = getattr(value, "__dict__", {})
        reduced = (None, (), own if its_code else {name: item for name, item in own.items() if _functions(item)})
    if isinstance(reduced, str):  # a name in its module
        return f"{opaque(value)} {reduced}"
    made_with = [part for part in reduced[1] if part is not type(value)]
    parts = [made_with, *(list(part) if hasattr(part, "__next__") else part for part in reduced[2:])]
    has_state = its_code or any(parts)
    return f"{opaque(value)} {digest(its_code + as_text(parts, seen))[:12]}" if has_state else opaque(value)


def is_of_a_package(value: Any, seen: Seen) -> bool:
    name = type(value).__module__
    is_known = name == "numpy" or name.partition(".")[0] in sys.stdlib_module_names
    return not is_known and not _is_users(type(value), seen)


def opaque(value: Any) -> str:
    return f"a {type(value).__name__}"


def as_text(value: Any, seen: Optional[Seen] = None) -> str:
    try:
        return json.dumps(canonical(value, {} if seen is None else seen), sort_keys=True, ensure_ascii=False)
    except Exception:  # it holds itself, or is of a class of the user's that raises
        return json.dumps(opaque(value))


def digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
