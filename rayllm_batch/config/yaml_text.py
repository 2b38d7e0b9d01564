"""A config's YAML, as it stands there: nothing of it is dropped, or becomes another value, without a word."""

from __future__ import annotations

import re
from typing import Any

import yaml

from rayllm_batch.secret import Secret

_TEXT, _INT = "tag:yaml.org,2002:str", "tag:yaml.org,2002:int"
_NUMBERS = (_INT, "tag:yaml.org,2002:float")
_DATE = "tag:yaml.org,2002:timestamp"


class _Loader(yaml.SafeLoader):
    """YAML 1.1 without what surprises in it: 0123456 (42,798 there), 12:30 (750) and 2024-03-01 (a date) are text, as
    keys are (`no`, `on`); and no key comes twice.
    """

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node, seen = super().compose_mapping_node(anchor), set[str]()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag.endswith(":merge"):
                continue
            if key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"the key {key.value!r} comes twice", problem_mark=key.start_mark)
            seen.add(key.value)
            key.tag = _TEXT
        return node


_Loader.yaml_implicit_resolvers = {
    first: [(tag, form) for tag, form in known if tag not in (_INT, _DATE)]
    for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(_INT, re.compile(r"^[-+]?(0|[1-9][0-9_]*)$"), list("-+0123456789"))


def read(text: str) -> Any:
    """What the text holds, the values of env_vars that are numbers as they are written. Raises YAMLError and others."""
    if text.lstrip().startswith("{"):  # JSON, which may be indented with tabs
        text = Secret(text.replace("\t", " "))
    loader = _Loader(text)
    try:
        root = loader.get_single_node()
        for section in _under(root, "runtime_env"):
            for variables in _under(section, "env_vars"):
                for number, (name, value) in enumerate(getattr(variables, "value", ())):
                    if value.tag in _NUMBERS:  # 1.10
                        variables.value[number] = name, yaml.ScalarNode(_TEXT, value.value)
        return None if root is None else loader.construct_document(root)
    finally:
        loader.dispose()


def _under(node: Any, name: str) -> list[Any]:
    pairs = node.value if isinstance(node, yaml.MappingNode) else ()
    return [value for key, value in pairs if key.value == name and isinstance(value, yaml.MappingNode)]
