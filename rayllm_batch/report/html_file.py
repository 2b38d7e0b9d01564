"""HTML pages from the templates beside this file: one file each, without scripts, and nothing of the network."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Union

from rayllm_batch import display
from rayllm_batch.errors import RayLLMBatchError
from rayllm_batch.report.verdict import percent
from rayllm_batch.show.status import duration


def rendered(template: str, **values: Any) -> str:
    """A page from a template beside this file."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(n="{:,.0f}".format, seconds="{:,.1f} s".format, percent=percent, duration=_duration)
    return environment.get_template(template).render(**values)


def save(content: str, path: Union[str, os.PathLike], what: str) -> str:
    """Write the page's file and show it, in a notebook in a frame; returns the file's whole path.

    what: it is called. Raises RayLLMBatchError when the file cannot be written.
    """
    whole_path = os.path.abspath(os.path.expanduser(os.fspath(path)))
    try:
        os.makedirs(os.path.dirname(whole_path), exist_ok=True)
        with open(whole_path, "w", encoding="utf-8", errors="replace") as file:  # an answer cut between surrogates
            file.write(content)
    except OSError as error:
        why = f"The {what} cannot be written to {whole_path!r}: {error}."
        raise RayLLMBatchError(f"{why} Give another path=.") from None
    display.show(display.framed(content, what.capitalize()), f"The {what} is in {whole_path}")
    return whole_path


def _duration(seconds: float) -> str:
    return f"{seconds:,.1f} s" if seconds < 120 else duration(seconds)
