"""Code and values as text that is the same whenever they are: in a notebook, a script or a module, in any process."""

from __future__ import annotations

import ast
import dataclasses
import dis
import enum
import functools
import hashlib
import inspect
import json
import os
import re
import sys
import types
from typing import Any, Optional

from rayllm_batch.installed import is_installed

OWN_METHODS = ("__init__", "__post_init__", "__call__", "__getattr__")  # of a class; others with __ Python makes, or calls


def code_of_class(cls: type, seen: set[int]) -> str:
    if id(cls) in seen:
        return ""
    seen.add(id(cls))
    fields = vars(cls).get("__dataclass_fields__", {})
    parts = []
    for name, value in sorted(vars(cls).items()):
        if name in fields or name.startswith("__") and name not in OWN_METHODS or name.startswith("_abc_"):
            continue  # fields are listed by their values
        if name == "__init__" and fields and inspect.unwrap(value).__code__.co_filename == "<string>":
            continue  # dataclass made it from the fields
        functions = _functions(value)
        for function in functions:
            parts.append(f"{name}: {_code(function, seen)}")
        if not functions:
            parts.append(f"{name} = {as_text(value, seen)}")
    return "\n".join(parts)


def _functions(value: Any) -> list[types.FunctionType]:
    """The functions behind a method, a property or a decorated function."""
    found: list[Any]
    if isinstance(value, property):
        found = [value.fget, value.fset]
    elif isinstance(value, functools.cached_property):
        found = [value.func]
    else:
        found = [value.__func__ if isinstance(value, (staticmethod, classmethod)) else value]
    unwrapped = [inspect.unwrap(f) if hasattr(f, "__wrapped__") else f for f in found]
    wrappers = [f for f, inner in zip(found, unwrapped, strict=True) if f is not inner]
    return [f for f in (*unwrapped, *wrappers) if isinstance(f, types.FunctionType)]


def _code(function: types.FunctionType, seen: set[int]) -> str:
    """The function without comments and layout, with the user's constants, helpers and classes that it names."""
    if id(function) in seen:
        return ""
    seen.add(id(function))
    parts = [_source(function)]
    for name, value in sorted(_used(function).items()):
        functions = _functions(value)
        if functions or isinstance(value, type):
            if any(_is_users(f, function.__module__) for f in functions or [value]):
                codes = [_code(f, seen) for f in functions] or [code_of_class(value, seen)]
                parts.append(f"{name}: {' '.join(codes)}")
        elif value is not None and not isinstance(value, types.ModuleType):
            parts.append(f"{name} = {as_text(value, seen)}")
    return "\n".join(parts)


def _source(function: types.FunctionType) -> str:
    if function.__name__ != "<lambda>":  # a lambda's lines hold more than itself
        try:
            source = inspect.getsource(function.__code__)  # of a function, it would be that of what it wraps
            if not source[0].isspace():
                return ast.unparse(ast.parse(source))
            # Not dedented: a prompt in triple quotes may start at the left edge.
            indented: Any = ast.parse("if 1:\n" + source).body[0]
            return ast.unparse(indented.body)
        except (OSError, TypeError, SyntaxError):
            pass
    return _bytecode(function.__code__)


def _used(function: types.FunctionType) -> dict[str, Any]:
    """What the function sees from outside: globals that it names, variables of a function around it, default values."""
    used = {name: function.__globals__[name] for name in _global_names(function.__code__) if name in function.__globals__}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            used[name] = cell.cell_contents
        except ValueError:  # not set yet
            pass
    if defaults := [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]:
        used["defaults"] = defaults
    return used


def _is_users(thing: Any, module_name: str) -> bool:
    """Code beside the workload, not that of an installed package."""
    if thing.__module__ == module_name:
        return True
    file = getattr(sys.modules.get(thing.__module__), "__file__", None) or ""
    return bool(file) and not is_installed(file) and not re.search(r"(site|dist)-packages|/rayllm_batch/", file)


def _bytecode(code: types.CodeType) -> str:
    consts = [_bytecode(c) if isinstance(c, types.CodeType) else as_text(c) for c in code.co_consts]
    return f"{code.co_code.hex()} {code.co_names} {consts}"


def _global_names(code: types.CodeType) -> set[str]:
    # Not co_names, which has attributes too: a notebook may have a variable named `split` or `text`.
    names = {i.argval for i in dis.get_instructions(code) if i.opname in ("LOAD_GLOBAL", "LOAD_NAME")}
    return names.union(*(_global_names(const) for const in code.co_consts if isinstance(const, types.CodeType)))


def canonical(value: Any, seen: set[int]) -> Any:  # noqa: PLR0911, PLR0912 (a line a kind)
    """What JSON can write; the same in every process for values that are equal."""
    if isinstance(value, enum.Enum):
        return f"{type(value).__name__}.{value.name}"
    if isinstance(value, float) and value.is_integer():  # 64 in a notebook is 64.0 from a command line
        return int(value)
    if value is None or isinstance(value, (str, int, float)):
        return value
    if isinstance(value, (list, tuple)):
        return [canonical(item, seen) for item in value]
    if isinstance(value, dict):
        return {key if isinstance(key, str) else as_text(key, seen): canonical(item, seen) for key, item in value.items()}
    if isinstance(value, (set, frozenset)):
        return sorted(as_text(item, seen) for item in value)
    if isinstance(value, functools.partial):
        return canonical([value.func, value.args, value.keywords], seen)
    if functions := _functions(value):
        return [f"code {digest(_code(f, seen))}" for f in functions]
    if isinstance(value, type):
        return value.__qualname__
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, re.Pattern):
        return [value.pattern, value.flags]
    if dataclasses.is_dataclass(value):
        return {field.name: canonical(getattr(value, field.name, None), seen) for field in dataclasses.fields(value)}
    if type(value).__module__ == "numpy":
        return canonical(value.tolist(), seen)
    if isinstance(value, (bytes, complex)) or type(value).__module__ in ("datetime", "decimal", "uuid"):
        return str(value)
    return opaque(value)


def opaque(value: Any) -> str:
    return f"a {type(value).__name__}"


def as_text(value: Any, seen: Optional[set[int]] = None) -> str:
    return json.dumps(canonical(value, set() if seen is None else seen), sort_keys=True, ensure_ascii=False)


def digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
