"""The file of a job, written."""

from __future__ import annotations

import argparse
import sys

from rayllm_batch.errors import ConfigError
from rayllm_batch.jobs.job_options import KINDS
from rayllm_batch.jobs.run_command import run_command


def write(given: argparse.Namespace) -> None:
    """given: the options of `job`, parsed. Raises RayLLMBatchError; then nothing was written."""
    run = run_command(given.arguments, given.run)
    text, notes = KINDS[given.kind].text(given.name, run, given)
    for note in notes:
        print(f"Note: {note}", file=sys.stderr)
    if given.o is None:
        sys.stdout.write(text)
        return
    try:
        with open(given.o, "w", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise ConfigError(f"-o {given.o}: the file cannot be written: {error.strerror or error}.") from None
