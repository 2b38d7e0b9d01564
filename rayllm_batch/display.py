"""Shows something to the person in front: as HTML in a notebook, as plain text in a terminal or a log."""

from __future__ import annotations

import os
import sys
from typing import Any


def ipython_shell() -> Any:
    """IPython's shell if this process runs one. Does not import IPython: where it is absent, it is not running."""
    ipython = sys.modules.get("IPython")
    return ipython.get_ipython() if ipython else None


def in_notebook() -> bool:
    """Whether a Jupyter kernel runs this process: JupyterLab, VS Code, nbval."""
    return getattr(ipython_shell(), "kernel", None) is not None


def client_answers(kernel: Any) -> bool:
    """Whether the client that sent this cell answers questions; nbclient, papermill and nbval, unwatched, do not."""
    request = kernel.get_parent("shell") or {}
    return bool(request.get("content", {}).get("allow_stdin", False))


def let_all_print() -> None:
    """What the output's encoding lacks is printed as an escape (\\u4f60): no run ends because a row has such."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by a scheduler: then there is nothing to ask whether it is a terminal
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 (as long as the process lives)
    if getattr(sys.stdout, "errors", None) == "strict" and hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")


def show(html: str, text: str) -> None:
    """`html` as the output of a notebook's cell, with `text` for front ends that show no HTML; else `text`, printed."""
    if in_notebook():
        sys.modules["IPython"].display.display({"text/html": html, "text/plain": text}, raw=True)
    else:
        print(text, flush=True)
