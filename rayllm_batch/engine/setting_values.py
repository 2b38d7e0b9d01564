"""What a value of vLLM's engine settings may be: its kind, and the words that there are, as vLLM's own source has them.

vLLM looks at them itself when the engine starts: after the model's download, on the GPU that was waited for.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator, Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from rayllm_batch.engine.vllm_versions import source_of
from rayllm_batch.errors import ConfigError, did_you_mean
from rayllm_batch.shape import kind_of

# Where vLLM has lists of words, each a Literal with a name.
_LISTS = ("config/*.py", "model_executor/layers/quantization/__init__.py", "model_executor/model_loader/__init__.py")
_BACKENDS = "AttentionBackendEnum"  # which has its words as members
_BACKENDS_FILE = "v1/attention/backends/registry.py"
_ANY_CASE = ("quantization", "tokenizer_mode", "load_format", "attention_backend")  # as vLLM reads them
_KINDS: dict[str, tuple[str, tuple[type, ...]]] = {
    "bool": ("true or false", (bool,)),
    "int": ("a whole number", (int,)),
    "float": ("a number", (int, float)),
    "str": ("text", (str,)),
    "list": ("a list", (list, tuple)),
    "set": ("a list", (list, tuple, set)),
    "dict": ("a mapping of names to values", (dict,)),
    "type": ("a class", (type,)),
}


def check(name: str, value: Any, annotation: str, source: str) -> None:
    """Raise ConfigError for a value that vLLM would refuse. annotation: the setting's type in vLLM's source."""
    if value is None or type(value).__module__ not in ("builtins", "datetime"):  # an object of torch's or vLLM's
        return
    kinds, words = list[str](), list[Any]()
    for one in _alternatives(ast.parse(annotation, mode="eval").body):
        kind = ast.unparse(one.value if isinstance(one, ast.Subscript) else one)
        if kind in _KINDS or kind.endswith("Config"):  # which vLLM makes of a mapping
            kinds.append(kind if kind in _KINDS else "dict")
        elif some := list(_words(one)):
            words += some
        elif kind != "None":
            return
    is_word = any(value == word and type(value) is type(word) for word in words)
    if name in _ANY_CASE and isinstance(value, str):
        is_word = value.lower() in [str(word).lower() for word in words]
    if is_word or any(_is(value, kind) for kind in kinds) and not (words and _must_be_known(value)):
        return
    wanted = f"one of {', '.join(map(str, words))}" if words else " or ".join(_KINDS[kind][0] for kind in kinds)
    raise ConfigError(
        f"{name!r} under engine_kwargs in {source} must be {wanted}, given {value!r:.100} ({kind_of(value)})."
        f"{did_you_mean(value, map(str, words))}"
    )


def _is(value: Any, kind: str) -> bool:
    if isinstance(value, bool) or kind == "bool":
        return kind == "bool" and type(value) in (bool, int) and value in (0, 1)
    return isinstance(value, _KINDS[kind][1])


def _must_be_known(value: Any) -> bool:
    """Of a text where vLLM has words, and takes others: whether it can be none, as no class's path and no plugin's."""
    plugins = (one for kind in ("general", "platform") for one in entry_points(group=f"vllm.{kind}_plugins"))
    return isinstance(value, str) and "." not in value and all(one.value.startswith("vllm.") for one in plugins)


def _alternatives(annotation: ast.expr) -> Iterator[ast.expr]:
    """What stands between the bars of a type."""
    if isinstance(annotation, ast.BinOp):
        yield from _alternatives(annotation.left)
        yield from _alternatives(annotation.right)
    else:
        yield annotation


def _words(annotation: ast.expr) -> Iterator[Any]:
    """Of a Literal, or of the name of one, also inside another; of other types none."""
    if isinstance(annotation, ast.Name) and annotation.id in _lists():
        annotation = _lists()[annotation.id]
    if isinstance(annotation, ast.Subscript) and ast.unparse(annotation.value) == "Literal":
        inside = annotation.slice
        for one in inside.elts if isinstance(inside, ast.Tuple) else [inside]:
            if isinstance(one, ast.Constant):
                yield one.value
            else:
                yield from _words(one)


def _lists() -> Mapping[str, ast.expr]:
    """The Literals of the installed vLLM, by their names; none without one."""
    folder = source_of("")
    return _lists_in(folder) if folder else {}


@functools.lru_cache(maxsize=1)
def _lists_in(folder: Path) -> dict[str, ast.expr]:
    found = dict[str, ast.expr]()
    for path in (path for form in _LISTS for path in folder.glob(form)):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, (ast.Assign, ast.AnnAssign)) and isinstance(node.value, ast.Subscript):
                target = node.targets[0] if isinstance(node, ast.Assign) else node.target
                if ast.unparse(node.value.value) == "Literal":
                    found[ast.unparse(target)] = node.value
    members = _members(folder / _BACKENDS_FILE, _BACKENDS)
    if members:
        found[_BACKENDS] = ast.parse(f"Literal{['auto', *members]}", mode="eval").body
    return found


def _members(path: Path, name: str) -> list[str]:
    """Of an Enum in a file; none where it is not there."""
    tree = ast.parse(path.read_text(encoding="utf-8") if path.is_file() else "")
    bodies = [node.body for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name]
    return [ast.unparse(one.targets[0]) for body in bodies for one in body if isinstance(one, ast.Assign)]
