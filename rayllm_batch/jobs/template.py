"""The files' templates, which lie beside this module, filled in; each value is quoted for the language it stands in."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from typing import Any

import yaml


def filled(template: str, values: Mapping[str, Any]) -> str:
    """template: its file. Its filters: `shell` quotes a word, `yaml(n)` a scalar whose lines stand n deep."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(os.path.dirname(__file__)),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # neither language is HTML
    )
    environment.filters.update(shell=shlex.quote, yaml=_yaml)
    return environment.get_template(template).render(values)


def _yaml(value: str, depth: int = 0) -> str:
    """Text of many lines as they are, where YAML can hold them so, and else in double quotes."""
    style = "|" if "\n" in value else '"'
    text = yaml.safe_dump(value, default_style=style, allow_unicode=True, width=1_000_000)
    return text.rstrip("\n").replace("\n", "\n" + " " * depth)
