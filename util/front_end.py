"""Who sits in front of this process: a person at a notebook, a person at a terminal, or nobody."""

from __future__ import annotations

import os
import sys
from enum import Enum

from rayllm_batch.display import client_answers, in_jupyterlab, ipython_shell


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
    if in_jupyterlab():
        from util.kernel_messages import can_read_messages

        if can_read_messages(kernel):
            return FrontEnd.PANEL
    return FrontEnd.LINE
