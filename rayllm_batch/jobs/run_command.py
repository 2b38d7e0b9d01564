"""The `run` command that a job is made of, and what can be known to be wrong with it before it is on a cluster."""

from __future__ import annotations

import argparse
import os
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rayllm_batch.config import EngineConfig, init_engine_from_config
from rayllm_batch.errors import ConfigError, WorkloadError
from rayllm_batch.load_workload import FORMS, pairs
from rayllm_batch.output.fingerprint import SECRET
from rayllm_batch.uri import without_credentials

# Of the Hugging Face Hub, of endpoints; to its end, so that none of it is shown.
A_TOKEN = re.compile(r"\b(hf_|gsk_|nvapi-|xai-|sk-(?:[a-z]+[0-9]*-)*)\w{16}[\w-]*")


@dataclass(frozen=True)
class RunCommand:
    """arguments: as they were given, `run` first. replicas: the most that run at a time."""

    arguments: Sequence[str]
    given: argparse.Namespace
    config: EngineConfig

    @property
    def replicas(self) -> int:
        count = self.given.num_replicas
        return count[1] if isinstance(count, tuple) else count

    @property
    def words(self) -> list[str]:
        # Not the script `rayllm-batch`: where the package is not installed, it is found in the working directory.
        return ["python", "-m", "rayllm_batch", *self.arguments]

    @property
    def lines(self) -> list[str]:
        """Quoted for a shell, an option and its value a line."""
        lines: list[str] = []
        for word in self.words:
            quoted = shlex.quote(word)
            new = not lines or word.startswith("-") and word != "-m"
            lines = [*lines, quoted] if new else [*lines[:-1], f"{lines[-1]} {quoted}"]
        return lines

    def local_paths(self) -> Iterator[tuple[str, str]]:
        """Each option that names a place for answers, and the place, where it is one on a disk."""
        given = self.given
        places = ("--output", given.output), ("--work-folder", given.work_folder), ("--report", given.report)
        for option, path in places:
            if path and not is_uri(path):
                yield option, path


def run_command(arguments: Sequence[str], given: argparse.Namespace) -> RunCommand:
    """arguments: of the command line. given: the same, parsed. Raises RayLLMBatchError before a submission."""
    for word in arguments:
        _check_may_be_written(word)
    for option, texts in (("-w", given.w), ("-s", given.s)):
        for key in pairs(texts, option):
            if SECRET.search(key):
                raise ConfigError(
                    f"{option} {key}=... looks like a secret, and would stand in the job's file. Let the workload read "
                    "it from the environment, which the job has from where it is started."
                )
    file = (given.workload or "").rpartition(":")[0]
    if given.workload and not file:
        raise WorkloadError(f"--workload must be {FORMS}, given {given.workload!r}.")
    if file.endswith(".py") and not os.path.isfile(os.path.expanduser(file)):
        raise WorkloadError(f"--workload {given.workload}: there is no file {file!r} (looked from {os.getcwd()}).")
    return RunCommand(arguments, given, init_engine_from_config(given.config))


def is_uri(path: str) -> bool:
    """Of a storage that all nodes reach."""
    return "://" in path and not path.startswith("file://")


def _check_may_be_written(word: str) -> None:
    if word != without_credentials(word) or A_TOKEN.search(word):
        shown = A_TOKEN.sub(r"\1***", without_credentials(word))
        raise ConfigError(
            f"{shown!r} holds a secret, which would stand in the job's file. Leave it out: tokens and keys (HF_TOKEN, "
            "AWS_ACCESS_KEY_ID, ...) come from the job's environment."
        )
    try:
        word.encode()
    except UnicodeEncodeError:
        raise ConfigError(f"{word!r} is not UTF-8 text, which the job's file is. Rename it.") from None
