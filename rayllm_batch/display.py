"""Shows something to the person in front: as HTML in a notebook, as plain text in a terminal or a log."""

from __future__ import annotations

import html
import io
import os
import sys
import threading
from importlib.util import find_spec
from typing import Any

# Light or dark as the notebook is, which need not be as the browser is. Its text is seen where no frame may be.
FRAME = (
    "<style>body[data-jp-theme-light=true] .rayllm-frame, body.vscode-light .rayllm-frame {{ color-scheme: light }}"
    "body[data-jp-theme-light=false] .rayllm-frame, body.vscode-dark .rayllm-frame {{ color-scheme: dark }}</style>"
    "<iframe class='rayllm-frame' srcdoc='{source}' sandbox='{allowed}' title='{title}' "
    "style='width:100%;height:720px;resize:vertical;border:1px solid #8884;border-radius:6px'>"
    "{title}: run the cell, or trust the notebook, to see it.</iframe>"
)


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


def in_jupyterlab() -> bool:
    """Whether a page of JupyterLab shows this process's widgets."""
    # Jupyter Server puts the notebook's path here; VS Code, connected to one, a name of its own kind.
    notebook = os.environ.get("JPY_SESSION_NAME", "")
    in_vs_code = "__vsc_ipynb_file__" in getattr(ipython_shell(), "user_ns", {}) or "-jvsc-" in notebook
    in_main_thread = threading.current_thread() is threading.main_thread()
    return bool(notebook and not in_vs_code and in_main_thread and find_spec("ipywidgets"))


class _Pipe(io.FileIO):
    """Where its reader has gone (`| head -1`), what is written goes nowhere: no run ends because nobody reads on."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())  # also for what is printed past Python
            os.close(nowhere)
            return super().write(data)


def let_all_print() -> None:
    """What the output's encoding lacks is printed as an escape (\\u4f60): no run ends because a row has such."""
    for number, name in ((1, "stdout"), (2, "stderr")):
        stream = getattr(sys, name)
        if stream is None:  # closed by a scheduler: then there is nothing to ask whether it is a terminal
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 (as long as the process lives)
        elif stream is getattr(sys, f"__{name}__") and not stream.isatty():
            stream.flush()
            raw = io.BufferedWriter(_Pipe(number, "w", closefd=False))
            how = {"encoding": stream.encoding, "errors": stream.errors, "line_buffering": stream.line_buffering}
            setattr(sys, name, io.TextIOWrapper(raw, **how))
    if getattr(sys.stdout, "errors", None) == "strict" and hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")


def framed(page: str, title: str, scripts: bool = False) -> str:
    """A frame with the page, which keeps its style, texts and scripts from the notebook, and the notebook's from it."""
    source = html.escape(page, quote=False).replace("'", "&#39;")
    return FRAME.format(source=source, allowed="allow-scripts" if scripts else "", title=html.escape(title))


def show(shown: str, text: str) -> None:
    """`shown` (HTML) as output of a notebook's cell, with `text` for front ends without HTML; else `text`, printed."""
    if in_notebook():
        sys.modules["IPython"].display.display({"text/html": shown, "text/plain": text}, raw=True)
    else:
        print(text, flush=True)
