"""SIGTERM, in processes that get it: whose handler it reaches, and how they end."""

from __future__ import annotations

import subprocess
import sys

import pytest

from rayllm_batch import termination

HEAD = """
import os, signal, sys, time
from rayllm_batch import termination
from rayllm_batch.termination import heeded, kept

def rays(number, frame):
    os._exit(1)
rays.__module__ = "ray._private.node"

def ray_init():
    with kept():
        signal.signal(signal.SIGTERM, rays)

def told():
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(0.1)
"""


def ends(code: str) -> tuple[int, str, str]:
    ran = subprocess.run([sys.executable, "-c", HEAD + code], capture_output=True, text=True, timeout=30, check=False)
    return ran.returncode, ran.stdout, ran.stderr


@pytest.mark.parametrize("before", ["", "ray_init()\n"])
def test_what_is_going_on_unwinds(before: str) -> None:
    code = (
        before
        + """
with heeded(lambda: "said"):
    ray_init()
    try:
        told()
    finally:
        told()  # does not break it off
        print("written")
"""
    )
    assert ends(code) == (termination.TERMINATED, "written\n", "said\n")


SWALLOWED = {
    "a destructor": """
class Last:
    def __del__(self):
        told()
Last()
""",
    "a callback of a weak reference": """
import weakref
last = lambda: None
seen = weakref.ref(last, lambda _: told())
del last
""",
    "a library": """
try:
    told()
except:
    pass
""",
}


@pytest.mark.parametrize("code", SWALLOWED.values(), ids=list(SWALLOWED))
def test_what_is_swallowed_is_raised_again(code: str) -> None:
    whole = f"""
with heeded(lambda: "said"):
    exec({code!r})
    try:
        for _ in range(100):
            time.sleep(0.1)
        print("not heard")
    finally:
        time.sleep(0.5)  # nor does it break this off
        print("written")
"""
    code, out, err = ends(whole)
    assert (code, out) == (termination.TERMINATED, "written\n") and err.endswith("said\n")


def test_a_handler_of_the_users_own_stays() -> None:
    code = """
def mine(number, frame):
    print("mine")
signal.signal(signal.SIGTERM, mine)
with heeded(lambda: "said"):
    ray_init()
    told()
told()
"""
    assert ends(code) == (0, "mine\nmine\n", "")


def test_rays_is_put_back() -> None:
    code = """
with heeded(lambda: "said"):
    ray_init()
assert signal.getsignal(signal.SIGTERM) is rays
signal.signal(signal.SIGTERM, signal.SIG_DFL)
with heeded(lambda: "said"):
    pass
assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
"""
    assert ends(code) == (0, "", "")


def test_while_ray_starts() -> None:
    code = """
with heeded(lambda: "said"), kept():
    sys.exit(15)
"""
    assert ends(code) == (termination.TERMINATED, "", "said\n")


def test_what_hangs_is_ended() -> None:
    code = """
termination.LEFT_S = 0.5
with heeded(lambda: "said"):
    try:
        told()
    finally:
        time.sleep(25)
"""
    assert ends(code) == (termination.TERMINATED, "", "said\n")


def test_in_another_thread_nothing_is_set() -> None:
    code = """
import threading
def work():
    with heeded(lambda: "said"), kept():
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
thread = threading.Thread(target=work)
thread.start()
thread.join()
"""
    assert ends(code) == (0, "", "")
