"""Answers of a form that was asked for."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Optional

from rayllm_batch.engine.sampling import CONSTRAINTS


def cut_short(asked: Optional[Mapping[str, Any]], text: str) -> Optional[str]:
    """What is said of an answer that reached its token limit before it had the form that was asked for; None of others.

    asked: the request's structured_outputs. The engine keeps to the form as far as it gets; where the form ends, it
    cannot know.
    """
    asked = asked or {}
    kind = next((name for name in CONSTRAINTS if asked.get(name)), None)
    if kind is None or _is_whole(kind, asked[kind], text):
        return None
    what = "the answer reached its token limit before it was whole, and structured_outputs asks for"
    return f"{what} {kind}: raise max_tokens"


def _is_whole(kind: str, form: Any, text: str) -> bool:
    try:
        if kind in ("json", "json_object"):
            json.loads(text)
            return True
        if kind == "regex":
            return re.fullmatch(form, text) is not None
    except (ValueError, RecursionError, re.error):  # no JSON, or brackets without end; a regex of another dialect
        return False
    return kind == "choice" and text in form  # a grammar: only its parser knows
