"""Which sampling parameters exist: vLLM's `SamplingParams`, read without importing vLLM. See engine_args.py."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import NamedTuple, Optional

from rayllm_batch.engine.engine_args import vllm_source
from rayllm_batch.engine.vllm_fields import REPETITION_FIELDS, SAMPLING_FIELDS, STRUCTURED_FIELDS
from rayllm_batch.engine.vllm_newest_fields import MORE_REPETITION_FIELDS, MORE_SAMPLING_FIELDS, MORE_STRUCTURED_FIELDS


class Fields(NamedTuple):
    """Names and types, as text: of SamplingParams, of its `repetition_detection` and its `structured_outputs`."""

    sampling: dict[str, str]
    repetition: dict[str, str]
    structured: dict[str, str]


class Here:
    """What this process has read. Sent to a worker it is empty: that one's node may have another vLLM, or none."""

    fields: Optional[Fields] = None

    def __reduce__(self) -> tuple:
        return Here, ()


CLASSES = ("SamplingParams", "RepetitionDetectionParams", "StructuredOutputsParams")
SHIPPED = Fields(
    {**SAMPLING_FIELDS, **MORE_SAMPLING_FIELDS},
    {**REPETITION_FIELDS, **MORE_REPETITION_FIELDS},
    {**STRUCTURED_FIELDS, **MORE_STRUCTURED_FIELDS},
)
here = Here()


def installed_fields() -> Optional[Fields]:
    """Those of the installed vLLM; None where it is not installed."""
    source = vllm_source("sampling_params.py")
    return None if source is None else fields_in(source)


def known_fields() -> Fields:
    """The installed vLLM's, else all of the versions that were tried: an engine's own node may have any of them."""
    if here.fields is None:
        here.fields = installed_fields() or SHIPPED
    return here.fields


def fields_in(source: Path) -> Optional[Fields]:
    """Of the classes in vLLM's `sampling_params.py`; None if it has changed shape."""
    if not source.is_file():
        return None
    tree = ast.parse(source.read_text(encoding="utf-8"))
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    found = Fields(*(_fields(classes[name]) if name in classes else {} for name in CLASSES))
    return found if found.sampling and found.structured else None


def _fields(of: ast.ClassDef) -> dict[str, str]:
    fields = {
        statement.target.id: ast.unparse(statement.annotation)
        for statement in of.body
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name)
    }
    return {name: kind for name, kind in fields.items() if not name.startswith("_")}
