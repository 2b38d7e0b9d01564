"""What the command line takes: its options and help, and the nearest name where one is mistyped.

Python's argparse and not click or typer: what is here beside options (the nearest name, a command that comes too late,
options that exclude each other) would be as long on either of them.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable, Sequence
from typing import Any, Optional

from rayllm_batch.batch import CHANGED
from rayllm_batch.errors import did_you_mean
from rayllm_batch.termination import TERMINATED

DONE, FAILED, WRONG_INPUT, ROWS_FAILED, INTERRUPTED = 0, 1, 2, 3, 130
COMMANDS = ("run", "check", "preview", "estimate")
HOW_TO = """exit codes:
  {done}    every row has an answer
  {failed}    the run failed (an engine that does not start or keeps dying, a full disk): the same command continues it
  {wrong}    what was given cannot run: the message says what to change, nothing was started
  {rows}    every row is done, and some have an error (--retry-failed runs those again)
  {interrupted}  interrupted with Ctrl-C: the same command continues it
  {terminated}  terminated (SIGTERM, as schedulers send it): the same command continues it

examples:
  {prog} preview --config configs/demo-cpu.yaml --input articles.jsonl \\
      --prompt 'Summarise: {{article}}' -s max_tokens=100
  {prog} run --config configs/llama-3.1-8b-a10g.yaml --workload jobs/tickets.py:Triage \\
      --input tickets.parquet -w dataset_fraction=0.5 -s temperature=0 --output answers/
"""


class Parser(argparse.ArgumentParser):
    """No option can be cut short: a script that did would break with the next option that begins alike."""

    def __init__(self, **given: Any) -> None:
        super().__init__(allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **given)

    def parse_known_args(self, args: Optional[Iterable[str]] = None, namespace: Any = None) -> Any:
        args = list(sys.argv[1:] if args is None else args)
        self._look_for_typos(args)  # before what is missing is complained about: it may be what was mistyped
        return super().parse_known_args(args, namespace)

    def _look_for_typos(self, args: Sequence[str]) -> None:
        known = list(self._option_string_actions)
        commands = next(
            (list(action.choices) for action in self._actions if isinstance(action, argparse._SubParsersAction)), None
        )
        for arg in args[: 1 if commands else None]:
            name = arg.partition("=")[0]
            if arg == "--":
                return
            if commands and not arg.startswith("-") and arg not in commands:
                self.error(
                    f"there is no command {arg!r}.{did_you_mean(arg, commands)} The commands: {', '.join(commands)}."
                )
            if (
                " " in name
                or not arg.startswith("-")
                or name in known
                or name[:2] in known
                and not _like_long(name, known)
            ):
                continue
            if commands and any(word in commands for word in args):
                self.error(
                    f"the command comes first: {self.prog} {next(word for word in args if word in commands)} {name} ..."
                )
            near = [option for option in known if name.startswith("--") and option.startswith(name)] or _like_long(
                name, known
            )
            if near or name.startswith("--"):
                self.error(f"there is no option {name}.{f' Did you mean {near[0]!r}?' if near else ''} --help has all.")


class _Command(Parser):
    """Of one command, whose rows and prompts are given in one of two ways."""

    def parse_known_args(self, args: Optional[Iterable[str]] = None, namespace: Any = None) -> Any:
        found, rest = super().parse_known_args(args, namespace)
        if (found.workload is None) == (found.prompt is None):
            self.error(
                "one of --workload FILE.py:CLASS and --prompt 'Summarise: {column}' must be given"
                + (", not both" if found.prompt is not None else "")
            )
        if (
            found.prompt is not None
            and found.input is None
            and not any(text.startswith("dataset_file=") for text in found.w)
        ):
            self.error("--prompt needs --input, the table whose columns it names, such as --input rows.jsonl")
        if found.prompt is not None and any(text.startswith("prompt=") for text in found.w):
            self.error("--prompt and -w prompt=... are two names of one thing: give one of them")
        if found.input is not None and any(text.startswith("dataset_file=") for text in found.w):
            self.error("--input and -w dataset_file=... are two names of one thing: give one of them")
        return found, rest


def _like_long(name: str, known: Sequence[str]) -> list[str]:
    """The long option that it was to be: --reprot, --num_replicas, and -report, which would be read as -r eport."""
    words = name.lstrip("-").replace("_", "-")
    if len(words) < 2 or (not name.startswith("--") and not words.isalpha()):
        return []
    near = did_you_mean("--" + words.lower(), [option for option in known if option.startswith("--")])
    return [near.split("'")[1]] if near else []


def program() -> str:
    return "rayllm-batch" if os.path.basename(sys.argv[0]) == "rayllm-batch" else "python -m rayllm_batch"


def parser() -> argparse.ArgumentParser:
    help_end = HOW_TO.format(
        done=DONE,
        failed=FAILED,
        wrong=WRONG_INPUT,
        rows=ROWS_FAILED,
        interrupted=INTERRUPTED,
        terminated=TERMINATED,
        prog=program(),
    )
    top = Parser(prog=program(), description="Offline LLM inference over a table of prompts.", epilog=help_end)
    commands = top.add_subparsers(dest="command", required=True, metavar="|".join(COMMANDS), parser_class=_Command)
    run = commands.add_parser(
        "run", help="answer every row, into a folder; the same command continues it", epilog=help_end
    )
    check = commands.add_parser(
        "check", help="look for all that can be known to be wrong, and start no engine", epilog=help_end
    )
    preview = commands.add_parser(
        "preview", help="answer the first rows, and show prompts and answers", epilog=help_end
    )
    estimate = commands.add_parser(
        "estimate", help="answer a sample, and say how long all rows take and what they cost", epilog=help_end
    )
    for command in (run, check, preview, estimate):
        _add_common(command)
    for command in (run, check):
        command.add_argument("--output", required=command is run, help="folder or URI (s3://, gs://) for the answers")
        command.add_argument("--output-format", default="parquet", choices=["parquet", "jsonl"])
        command.add_argument(
            "--id-column", help="a column with unique values, to tell rows apart (default: all their content)"
        )
    run.add_argument(
        "--changed",
        default="refuse",
        choices=CHANGED,
        help="what becomes of answered rows of which a workload that was changed asks something else (default: refuse)",
    )
    run.add_argument("--retry-failed", action="store_true", help="run the rows again that have an error")
    run.add_argument(
        "--report", metavar="FILE", help="write a report of the run, also of one that fails: one HTML file"
    )
    preview.add_argument("-n", type=int, default=8, help="how many rows (default 8)")
    estimate.add_argument("--sample-rows", type=int, default=64, help="rows of the sample (default 64)")
    estimate.add_argument(
        "--gpu-hour-usd", type=float, help="price of one GPU for an hour, in US dollars, for the cost"
    )
    return top


def _add_common(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--config", required=True, help="the engine's YAML file, such as configs/llama-3.1-8b-a10g.yaml"
    )
    command.add_argument(
        "--workload",
        metavar="FILE.py:CLASS",
        help="which rows, and how each becomes a chat: a class of a file, or MODULE:CLASS",
    )
    command.add_argument(
        "--prompt",
        metavar="TEXT",
        help="in place of a workload: 'Summarise: {body}' with the names of columns; {{ and }} are braces",
    )
    command.add_argument(
        "--input",
        metavar="TABLE",
        help="the rows, over the workload's own: parquet, jsonl, json, csv; a folder, a glob, s3://, gs://, hf://",
    )
    command.add_argument(
        "-w", action="append", default=[], metavar="KEY=VALUE", help="a field of the workload, as YAML; repeat it"
    )
    command.add_argument(
        "-s",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="one of its sampling_params, such as max_tokens=100; repeat it",
    )
    command.add_argument(
        "--num-replicas", default="1", metavar="N|MIN-MAX", help="copies of the model side by side (default 1)"
    )
    command.add_argument("--batch-size", type=int, help="rows a block (default: chosen)")
    command.add_argument(
        "--verbose",
        action="store_true",
        help="show what Ray Data and the engines log (default: it is in files), and tracebacks",
    )
