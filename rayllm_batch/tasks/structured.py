"""Answers of a form that was asked for."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Optional

from rayllm_batch.engine.sampling import CONSTRAINTS


def cut_short(asked: Optional[Mapping[str, Any]], text: str) -> Optional[str]:
    """What is said of an answer that reached its token limit before it had the form; None where it has, or none was asked for.

    asked: the request's structured_outputs. The engine keeps to the form as far as it gets; where the form ends, it cannot know.
    """
    if not asked:
        return None
    kind = next((name for name in CONSTRAINTS if asked.get(name)), None)
    if kind is None or _is_whole(kind, asked[kind], text):
        return None
    return f"the answer reached its token limit before it was whole, and structured_outputs asks for {kind}: raise max_tokens"


def _is_whole(kind: str, form: Any, text: str) -> bool:
    if kind in ("json", "json_object"):
        try:
            json.loads(text)
        except ValueError:
            return False
        return True
    if kind == "choice":
        return text in form
    if kind == "regex":
        try:
            return re.fullmatch(form, text) is not None
        except re.error:  # of another dialect
            return False
    return False  # a grammar: only its parser knows
