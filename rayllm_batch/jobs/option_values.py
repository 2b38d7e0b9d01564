"""What the options of `job` may be: each a type of argparse, whose error names what was expected and what was given."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable

_TIME = re.compile(r"(?:(\d+)-)?(\d{1,2}):(\d\d):(\d\d)")
LEAST_TIME_S = 600  # engines take minutes to start, and a run's end is begun some minutes before the limit


def matching(pattern: str, expected: str) -> Callable[[str], str]:
    def check(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise argparse.ArgumentTypeError(f"it must be {expected}, given {text!r}")
        return text

    return check


def whole(text: str) -> int:
    if not re.fullmatch("[1-9][0-9]{0,5}", text):
        raise argparse.ArgumentTypeError(f"it must be a whole number of at least 1, given {text!r}")
    return int(text)


def duration(text: str) -> str:
    """[DAYS-]HOURS:MINUTES:SECONDS, as Slurm has it."""
    if not _TIME.fullmatch(text):
        raise argparse.ArgumentTypeError(f"it must be [DAYS-]HOURS:MINUTES:SECONDS such as 12:00:00, given {text!r}")
    if seconds_of(text) < LEAST_TIME_S:
        raise argparse.ArgumentTypeError(f"it must be at least {LEAST_TIME_S} seconds (00:10:00), given {text!r}")
    return text


def seconds_of(text: str) -> int:
    found = _TIME.fullmatch(text)
    assert found is not None  # duration() has checked it
    days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return ((24 * days + hours) * 60 + minutes) * 60 + seconds


memory = matching("[1-9][0-9]*[MGT]", "a size such as 64G (M, G, T: MiB, GiB, TiB)")
# Of the schedulers, the strictest; a file that a name stands in needs no quotes then.
name = matching("[a-z]([-a-z0-9]{0,45}[a-z0-9])?", "at most 47 of a-z, 0-9 and -, with a letter first")
word = matching(r"[\w.,:@/+-]+", "a name without spaces and quotes")
