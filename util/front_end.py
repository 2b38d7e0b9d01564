"""Who sits in front of this process: a person at a notebook, a person at a terminal, or nobody."""

from __future__ import annotations

import os
import sys
import threading
from enum import Enum
from importlib.util import find_spec

from rayllm_batch.display import client_answers, ipython_shell


class FrontEnd(Enum):
    PANEL = "a notebook that shows widgets"
    LINE = "a terminal, or a notebook that asks by its own input box"
    NOBODY = "a job, a test, or another run that nobody watches"


def front_end() -> FrontEnd:
    """Which way of asking reaches a person."""
    shell = ipython_shell()
    kernel = getattr(shell, "kernel", None)
    if kernel is None:
        watched = sys.stdin is not None and sys.stdin.isatty() and not os.environ.get("CI")
        return FrontEnd.LINE if watched else FrontEnd.NOBODY
    if not client_answers(kernel):
        return FrontEnd.NOBODY
    # Jupyter Server puts the notebook's path here; VS Code, connected to one, a name of its own kind.
    notebook = os.environ.get("JPY_SESSION_NAME", "")
    in_vs_code = "__vsc_ipynb_file__" in shell.user_ns or "-jvsc-" in notebook
    in_main_thread = threading.current_thread() is threading.main_thread()
    if notebook and not in_vs_code and in_main_thread and find_spec("ipywidgets"):
        from util.kernel_messages import can_read_messages

        if can_read_messages(kernel):
            return FrontEnd.PANEL
    return FrontEnd.LINE
