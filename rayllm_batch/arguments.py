"""What the command line takes: its options and help, and the nearest name where one is mistyped.

Python's argparse and not click or typer: what is here beside options (the nearest name, a command that comes too late,
options that exclude each other) would be as long on either of them.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from itertools import takewhile
from typing import Any, Optional

from rayllm_batch._version import __version__
from rayllm_batch.batch import CHANGED, SAMPLE_ROWS
from rayllm_batch.errors import did_you_mean
from rayllm_batch.jobs import job_folder, job_options
from rayllm_batch.termination import TERMINATED

DONE, FAILED, WRONG_INPUT, ROWS_FAILED, INTERRUPTED = 0, 1, 2, 3, 130
PROGRAM = "rayllm-batch" if os.path.basename(sys.argv[0]) == "rayllm-batch" else "python -m rayllm_batch"
COMMANDS = {
    "run": "answer every row, into a folder; the same command continues it",
    "check": "look for all that can be known to be wrong, and start no engine",
    "preview": "answer the first rows, and show prompts and answers",
    "estimate": "answer a sample, and say how long all rows take and what they cost",
    "openai-batch": "answer a file of OpenAI batch requests into a file of results, as `vllm run-batch` does",
}
CONTINUED = ("run", "openai-batch")  # by the same command
JOB, REPORT, INIT = "job", "report", "init"
ABOUT_REPORT = "make the report of an output folder, from what is in it"
ABOUT_JOB = "write the file that runs a command on a cluster: of KubeRay, Ray Jobs or Slurm"
ABOUT_INIT = "write a folder to begin with: workload, config, rows to try, notebook, test"
OTHERS = {INIT: ABOUT_INIT, JOB: ABOUT_JOB, REPORT: ABOUT_REPORT}  # which run nothing, and are read apart
HOW_TO = f"""exit codes:
  {DONE}    every row has an answer
  {FAILED}    the run failed (an engine that does not start or keeps dying, a full disk): the same command continues it
  {WRONG_INPUT}    what was given cannot run: the message says what to change, nothing was started
  {ROWS_FAILED}    every row is done, and some have an error (--retry-failed runs those again)
  {INTERRUPTED}  interrupted with Ctrl-C: the same command continues it
  {TERMINATED}  terminated (SIGTERM, as schedulers send it): the same command continues it

examples:
  {PROGRAM} preview --config configs/demo-cpu.yaml --input articles.jsonl \\
      --prompt 'Summarise: {{article}}' -s max_tokens=100
  {PROGRAM} run --config configs/llama-3.1-8b-a10g.yaml --workload jobs/tickets.py:Triage \\
      --input tickets.parquet -w dataset_fraction=0.5 -s temperature=0 --output answers/
  {PROGRAM} openai-batch --config configs/llama-3.1-8b-a10g.yaml -i requests.jsonl \\
      -o results.jsonl --errors errors.jsonl
  {PROGRAM} job slurm --partition gpu --time 12:00:00 -o job.sh -- run --num-replicas 16 --config ...
  {PROGRAM} report answers/ -o report.html
  {PROGRAM} init my-job --task typed
"""
ABOUT_REQUESTS = """Each line of the input is a request: {"custom_id": "1", "method": "POST", "url":
"/v1/chat/completions", "body": {"model": ..., "messages": [...], ...}}; or /v1/completions. Each line of the output
is {"id", "custom_id", "response": {"status_code", "request_id", "body"}, "error"}, in no promised order. No line ends
a run: one that cannot be answered, whatever it is, gets an error line, with null for the body and OpenAI's error
object in "error". Answers are kept in a folder until the output is written, all at once; the same command continues a
run, also with another input: lines that are answered are not asked again."""


def parse(given: Optional[Sequence[str]] = None) -> argparse.Namespace:
    """Ends the process with WRONG_INPUT, and words, where they are no command of ours."""
    args = list(sys.argv[1:] if given is None else given)
    if args[:1] == [JOB]:
        return _parse_job(args[1:])
    if args[:1] in ([REPORT], [INIT]):
        return _parse_other(args[0], args[1:])
    top, commands = _parsers()
    # Typos first: what is said to be missing may be what was mistyped.
    if args and args[0] in commands:
        _look_at_options(commands[args[0]], args)
    elif args:
        _look_at_the_command(top, args)
    found, beside = top.parse_known_args(args)
    if beside:
        _refuse(commands[found.command], beside)
    if found.command != "openai-batch":
        _look_at_pairs(commands[found.command], found)
    return found


def _parse_job(args: Sequence[str]) -> argparse.Namespace:
    """Of `job KIND ... -- run ...`; `run` has the second part, as parse() has it, `arguments` as it was given."""
    top = argparse.ArgumentParser(
        f"{PROGRAM} {JOB}", description=f"Will {ABOUT_JOB}.", epilog=job_options.HOW_TO, **_form()
    )
    kinds = job_options.add_to(top, _form())
    own = list(takewhile("--".__ne__, args))
    if own and own[0] in kinds:
        _look_at_options(kinds[own[0]], own)
    elif own and not own[0].startswith("-"):
        top.error(f"there is no kind {own[0]!r}.{did_you_mean(own[0], kinds)} The kinds: {', '.join(kinds)}.")
    found = top.parse_args(own)
    found.command, found.arguments = JOB, list(args[len(own) + 1 :])
    if found.arguments[:1] != ["run"]:
        said = f"given {found.arguments[0]!r}" if found.arguments else "nothing is given"
        top.error(f"after -- comes the command that the job runs, `run --config ...`, {said}")
    found.run = parse(found.arguments)
    return found


def _parse_other(command: str, args: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(f"{PROGRAM} {command}", description=f"Will {OTHERS[command]}.", **_form())
    parser.set_defaults(command=command)
    if command == INIT:
        job_folder.options(parser)
    else:
        parser.add_argument("folder", metavar="FOLDER", help="what --output named: a folder or URI (s3://, gs://)")
        what = "the file (default: report.html); one HTML file, which needs no network"
        parser.add_argument("-o", "--output", metavar="FILE", default="report.html", help=what)
    _look_at_options(parser, args)
    return parser.parse_args(args)


def _look_at_the_command(top: argparse.ArgumentParser, args: Sequence[str]) -> None:
    first, late = args[0].partition("=")[0], next((word for word in args if word in COMMANDS), None)
    if not first.startswith("-"):
        known = [*COMMANDS, *OTHERS]
        top.error(f"there is no command {first!r}.{did_you_mean(first, known)} The commands: {', '.join(known)}.")
    if late and first not in top._option_string_actions:
        top.error(f"the command comes first: {PROGRAM} {late} {first} ...")
    _look_at_an_option(top, first)


def _look_at_options(parser: argparse.ArgumentParser, args: Sequence[str]) -> None:
    """That each is there, comes once and has a value: argparse would take the last, and an empty one for none."""
    words, seen = list(takewhile("--".__ne__, args)), set[str]()
    for word, following in zip(words, [*words[1:], None], strict=True):
        name, equals, value = word.partition("=")
        _look_at_an_option(parser, name)
        action = parser._option_string_actions.get(name)
        if action is None or action.nargs == 0:
            continue
        if (value if equals else following) == "":
            parser.error(f"{name} has no value (a variable of the shell that is empty, perhaps)")
        if action.dest in seen and not isinstance(action, argparse._AppendAction):
            parser.error(f"{name} is given twice. Give it once.")
        seen.add(action.dest)


def _refuse(parser: argparse.ArgumentParser, words: Sequence[str]) -> None:
    """Words that belong to no option."""
    if words[0].startswith("-") and words[0] != "--":
        parser.error(f"there is no option {words[0]}. --help has all.")
    stray = ", ".join(repr(word) for word in words if word != "--") or "'--'"
    parser.error(
        f"an option has one value, and beside them are {stray[:200]}. A glob such as '*.jsonl', and text with spaces, "
        "stands in quotes; -s and -w come before each KEY=VALUE."
    )


def _look_at_an_option(parser: argparse.ArgumentParser, name: str) -> None:
    """Also --num_replicas, and -report, which would be read as -r eport."""
    known = list(parser._option_string_actions)
    if not name.startswith("-") or " " in name or name in known:
        return
    is_long, words = name.startswith("--"), name.lstrip("-").replace("_", "-").lower()
    options = [option for option in known if option.startswith("--")]
    hint = ""
    if is_long:
        hint = next((f" Did you mean {option!r}?" for option in options if option.startswith(name)), "")
    if not hint and len(words) > 1 and (is_long or words.isalpha()):
        hint = did_you_mean(f"--{words}", options)
    if hint or is_long:
        parser.error(f"there is no option {name}.{hint} --help has all.")


def _look_at_pairs(parser: argparse.ArgumentParser, found: argparse.Namespace) -> None:
    """Of options of which one excludes another, or needs it."""
    fields = {text.partition("=")[0] for text in found.w}
    if (found.workload is None) == (found.prompt is None):
        both = "" if found.prompt is None else ", not both"
        parser.error(f"one of --workload FILE.py:CLASS and --prompt 'Summarise: {{column}}' must be given{both}")
    if found.prompt is not None and found.input is None and "dataset_file" not in fields:
        parser.error("--prompt needs --input, the table whose columns it names, such as --input rows.jsonl")
    for option, value, field in (("--prompt", found.prompt, "prompt"), ("--input", found.input, "dataset_file")):
        if value is not None and field in fields:
            parser.error(f"{option} and -w {field}=... are two names of one thing: give one of them")


def replicas(text: str) -> int | tuple[int, int]:
    """`4`, or `2-8`: at least two, at most eight."""
    least, dash, most = text.partition("-")
    try:
        return (int(least), int(most)) if dash else int(least)
    except ValueError:
        text = f"it must be a number such as 4, or a range such as 2-8, given {text!r}."
        raise argparse.ArgumentTypeError(text) from None


def _parsers() -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    """The whole command's, and each command's."""
    form = {**_form(), "epilog": HOW_TO}
    top = argparse.ArgumentParser(PROGRAM, description="Offline LLM inference over a table of prompts.", **form)
    top.add_argument("--version", action="version", version=f"rayllm-batch {__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="|".join([*COMMANDS, *OTHERS]))
    for name, about in COMMANDS.items():
        parser = commands.add_parser(name, help=about, **form)
        add = parser.add_argument
        add("--config", required=True, help="the engine's YAML file, such as configs/llama-3.1-8b-a10g.yaml")
        if name == "openai-batch":
            _of_requests(parser)
            continue
        add("--workload", metavar="FILE.py:CLASS", help="rows, and how each becomes a chat: a class; or MODULE:CLASS")
        what = "in place of a workload: 'Summarise: {body}' with the names of columns; {{ and }} are braces"
        add("--prompt", metavar="TEXT", help=what)
        add("--input", metavar="TABLE", help="the rows: parquet, jsonl, json, csv; a folder, glob, s3://, gs://, hf://")
        add("-w", action="append", default=[], metavar="KEY=VALUE", help="a field of the workload, as YAML; repeat it")
        what = (
            "one of its sampling_params, such as max_tokens=100 (where nothing is generated, pooling_params); repeat it"
        )
        _of_engines(parser, what)
        if name in ("run", "check"):
            add("--output", required=name == "run", help="folder or URI (s3://, gs://, hf://) for the answers")
            what = "of an --output on the Hub: the folder that has the rows meanwhile (default: one in HF_HOME)"
            add("--work-folder", metavar="FOLDER", help=what)
            add("--output-format", default="parquet", choices=["parquet", "jsonl"])
            add("--id-column", help="a column with unique values, to tell rows apart (default: all their content)")
        if name == "run":
            _of_runs(parser)
        if name == "preview":
            add("-n", type=int, default=8, help="how many rows (default 8)")
        if name == "estimate":
            add("--sample-rows", type=int, default=SAMPLE_ROWS, help=f"rows of the sample (default {SAMPLE_ROWS})")
            add("--gpu-hour-usd", type=float, help="price of one GPU for an hour, in US dollars, for the cost")
    for name, about in OTHERS.items():
        commands.add_parser(name, help=about)
    return top, {name: commands.choices[name] for name in COMMANDS}


def _of_engines(parser: argparse.ArgumentParser, settings: str) -> None:
    """settings: what -s sets."""
    add = parser.add_argument
    add("-s", action="append", default=[], metavar="KEY=VALUE", help=settings)
    what = "copies of the model side by side (default 1)"
    add("--num-replicas", type=replicas, default=1, metavar="N|MIN-MAX", help=what)
    add("--batch-size", type=int, help="rows a block (default: chosen)")
    add("--verbose", action="store_true", help="show what Ray Data and the engines log, and tracebacks")


def _of_runs(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    what = "what becomes of answered rows of which a changed workload asks something else (default: refuse)"
    add("--changed", default="refuse", choices=CHANGED, help=what)
    add("--retry-failed", action="store_true", help="run the rows again that have an error")
    add("--report", metavar="FILE", help="write a report of the run, also of one that fails: one HTML file")


def _of_requests(parser: argparse.ArgumentParser) -> None:
    add, parser.description = parser.add_argument, ABOUT_REQUESTS
    what = "the requests, JSON lines: a file, folder or glob, or s3://, gs://, hf://; also compressed"
    add("-i", "--input", required=True, metavar="FILE", help=what)
    add(
        "-o",
        "--output",
        required=True,
        metavar="FILE",
        help="the results: a path, or s3://, gs://, hf://; replaced if it is there",
    )
    add("--errors", metavar="FILE", help="the error lines, apart (default: in the output too)")
    what = "where answers are kept until all are there (default: the output's name with .parts behind it; of one on "
    what += "the Hub, in HF_HOME)"
    add("--work-folder", metavar="FOLDER", help=what)
    what = "what requests call the model; repeat it (default: the config's served_model_name, or its model_id)"
    add("--served-model-name", action="append", metavar="NAME", help=what)
    add("--any-model", action="store_true", help="answer requests for whatever model; else others are errors, 404")
    _of_engines(parser, "a sampling parameter of requests that do not set it, such as max_tokens=100; repeat it")
    _of_runs(parser)
    parser.set_defaults(output_format="parquet", id_column=None)


def _form() -> dict[str, Any]:
    # No option can be cut short: a script that did would break with the next option that begins alike.
    return {"allow_abbrev": False, "formatter_class": argparse.RawDescriptionHelpFormatter}
