"""SIGTERM, with which schedulers end a job: a run unwinds as after Ctrl-C: answers are written, engines end."""

from __future__ import annotations

import functools
import os
import signal
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Optional

TERMINATED = 128 + signal.SIGTERM  # the exit code of a process that a shell saw end by it
AGAIN_S = 0.1  # between looks at whether it was heard
LEFT_S = 20.0  # to write answers and end engines in; schedulers mostly kill after 30
SAID = "Terminated; the same command continues it."


class Terminated(SystemExit):
    """Raised in the main thread when SIGTERM arrives: a script that does not catch it ends with TERMINATED."""

    def __init__(self) -> None:
        super().__init__(TERMINATED)


class _Handler:
    """before: the handler to be put back. say: what to print, once."""

    def __init__(self, before: Any, say: Callable[[], str]) -> None:
        self.before, self.told, self._say, self._said = before, False, say, False
        self._raised: Callable[[], Optional[Terminated]] = lambda: None  # gone once somebody has caught it

    def tell(self) -> None:
        if not self._said:
            self._said = True
            print(self._say(), file=sys.stderr, flush=True)

    def __call__(self, _number: int, _frame: Optional[FrameType]) -> None:
        if self._raised() is not None:  # a second one must not break off the ending that the first began
            return
        if not self.told:
            self.told = True
            threading.Thread(target=self._end_at_last, name="rayllm-termination", daemon=True).start()
        raise self._next()

    def _next(self) -> Terminated:
        raised = Terminated()
        self._raised = weakref.ref(raised)
        return raised

    def _end_at_last(self) -> None:
        """Python drops what is raised in a destructor or a callback of C code, and so does a bare except: again, then.

        A scheduler may tell Ray's processes too: without them, Ray waits a minute, and then ends this one with 1.
        """
        end = time.monotonic() + LEFT_S
        while time.monotonic() < end:
            time.sleep(AGAIN_S)
            if self._raised() is None:
                os.kill(os.getpid(), signal.SIGTERM)  # ignored where all has unwound
        self.tell()
        os._exit(TERMINATED)


@contextmanager
def heeded(say: Callable[[], str]) -> Iterator[None]:
    """While this is open, SIGTERM raises Terminated, unless the user has a handler of their own. say: what to print."""
    before = signal.getsignal(signal.SIGTERM)
    if not _in_main_thread() or not (before is signal.SIG_DFL or _is_rays(before)):
        yield
        return
    handler = _Handler(before, say)
    signal.signal(signal.SIGTERM, handler)
    try:
        yield
    except Terminated:
        handler.tell()
        raise
    finally:
        # A process that was told is ending; while Python finalizes, a handler would be gone already.
        signal.signal(signal.SIGTERM, signal.SIG_IGN if handler.told else handler.before)


@contextmanager
def kept() -> Iterator[None]:
    """Around ray.init, which puts a handler of its own in the place of whoever's is there."""
    if not _in_main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    except SystemExit:  # Ray's handler
        raise Terminated from None
    finally:
        if isinstance(before, _Handler):
            before.before = signal.getsignal(signal.SIGTERM)
        if before not in (signal.SIG_DFL, None):
            signal.signal(signal.SIGTERM, before)


def heeding(method: Callable[..., Any]) -> Callable[..., Any]:
    """A decorator of RayLLMBatch.run and its like. Its first argument says whether there is a folder to continue in."""

    @functools.wraps(method)
    def wrapper(batch: Any, *args: Any, **kwargs: Any) -> Any:
        continues = method.__name__ == "run" and (args[:1] or (kwargs.get("output_path"),))[0] is not None
        with heeded(lambda: SAID if continues else "Terminated."):
            return method(batch, *args, **kwargs)

    return wrapper


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def _is_rays(handler: Any) -> bool:
    return str(getattr(handler, "__module__", "")).partition(".")[0] == "ray"
