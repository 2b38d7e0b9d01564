"""The folder that `init` writes: workload, config, rows to try, a test, a notebook, requirements."""

from __future__ import annotations

import argparse
import json
import os
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

from rayllm_batch._version import __version__
from rayllm_batch.errors import ConfigError, did_you_mean
from rayllm_batch.jobs.environment import Environment
from rayllm_batch.jobs.template import filled


@dataclass(frozen=True)
class Kind:
    """What `init` writes for a task.

    name:   of the workload's class; it and `about` stay true when the edits are made.
    about:  what it is for, in a line; `versus`: what tells it from tasks that are alike.
    column: of the output, which people read first.
    rows:   the template of rows to try. demo: the model of the checkout for them.
    edits:  in the order in which they stand in the workload's file.
    """

    name: str
    about: str
    column: str
    rows: str
    edits: tuple[str, ...]
    versus: str = ""
    demo: str = "demo-model"

    @property
    def line(self) -> str:
        return f"{self.about} {self.versus}".rstrip()


TASKS = {
    "generate": Kind(
        "Texts", "A text of the model's for each row.", "generated_text", "tickets", ("table", "column", "question")
    ),
    "label": Kind(
        "Labels",
        "One of your own labels for each row.",
        "parsed",
        "reviews",
        ("table", "labels", "column"),
        "A model that writes is held to them.",
    ),
    "typed": Kind(
        "Forms",
        "A form for each row, filled in: fields with types.",
        "parsed",
        "tickets",
        ("form", "table", "column"),
        "A model that writes is held to it.",
    ),
    "classify": Kind(
        "Classes",
        "A label for each row, of those that a classifier was trained on.",
        "label",
        "news",
        ("table", "column"),
        "Its labels are fixed; for your own: label.",
        "demo-classifier",
    ),
    "embed": Kind("Vectors", "A vector for each row.", "embedding", "news", ("table", "column")),
    "score": Kind("Scores", "How well each row's text answers a query.", "score", "news", ("table", "column", "query")),
    "endpoint": Kind(
        "Replies",
        "A text for each row, by a server with the OpenAI API.",
        "generated_text",
        "tickets",
        ("table", "column", "question"),
    ),
}
EDITS = {
    "table": "your table: parquet, jsonl, json or csv; a file, a folder, a glob, s3://, gs://, hf://datasets/...",
    "column": "your column, in place of text; of several columns, what the model is to read",
    "question": "what is asked of it",
    "labels": "your labels, of which each answer is one",
    "form": "the fields of your form; each answer has them, with their types, in the column `parsed`",
    "query": "your query",
}
FILES = ("workload.py", "config.yaml", "test_workload.py", "requirements.txt", "README.md")


def write(folder: str, task: str, model: Optional[str] = None) -> None:
    """model: a Hub id, a model's folder, or of `endpoint` the name at the server; None: the demo's, of a checkout.

    Raises ConfigError; then nothing was written.
    """
    path = Path(folder).expanduser()
    if os.path.exists(path) and not (path.is_dir() and not any(path.iterdir())):
        raise ConfigError(f"{folder!r} is there already, and not an empty folder. Give the name of a new one.")
    kind, environment = TASKS[task], Environment.of_this_process()
    # resolved: an environment has a link to the package
    demo = Path(__file__).resolve().parents[2] / "assets" / kind.demo
    if model is None and not demo.is_dir():
        raise ConfigError(
            "The demo's model is in the repository, and not in what pip installs. Name one with --model, such as "
            "--model Qwen/Qwen2.5-7B-Instruct."
        )
    is_demo = model is None
    if model and os.path.isdir(model):  # the config's own folder is where a relative path would begin
        model = os.path.abspath(model)
    values: dict[str, Any] = {
        "task": task,
        "pooling": task in ("embed", "classify", "score"),
        "has_form": task in ("label", "typed"),
        "name": kind.name,
        "about": kind.about,
        "column": kind.column,
        "edits": [EDITS[edit] for edit in kind.edits],
        "marked": {edit: f"Edit {number}: {EDITS[edit]}" for number, edit in enumerate(kind.edits, start=1)},
        "setup": environment.setup,
        "command": environment.command,
        "title": path.resolve().name,
        "demo": str(demo) if is_demo else "",
        "model": model or ("demo" if task == "endpoint" else str(demo)),
        "tokenizer": json.dumps(str(demo) if demo.is_dir() else model),
        "version": __version__,
    }
    contents = {file: filled(f"folder_{file}.jinja", values) for file in FILES}
    contents["rows.jsonl"] = filled(f"folder_{kind.rows}.jsonl.jinja", {})
    contents["job.ipynb"] = _notebook(values)
    try:
        path.mkdir(parents=True, exist_ok=True)
        for file, text in contents.items():
            (path / file).write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{folder!r} cannot be written: {error.strerror or error}.") from None
    print(f"{folder} has {', '.join(contents)}. README.md there says what next.")
    if task != "endpoint":  # which needs its server first
        preview = f"{environment.command} preview --config config.yaml --workload workload.py:{kind.name}"
        print("To try it:", " && ".join([f"cd {shlex.quote(str(path))}", *environment.setup, preview]))


def _notebook(values: dict[str, Any]) -> str:
    name, column = values["name"], values["column"]
    cells = [
        f"# {values['title']}\n\n{values['about']} The edits that make it yours are marked in `workload.py`.",
        f"from workload import {name}\n\nfrom rayllm_batch import RayLLMBatch, init_engine_from_config\n\n"
        f'batch = RayLLMBatch(init_engine_from_config("config.yaml"), {name}())\nbatch.preview(2)',
        'answers = batch.run("answers/")  # the same call continues it',
        "table = answers.to_pandas()  # your columns, and beside them the answers\ntable.head()",
        f'table[table["error"].notna()][["{column}", "error"]]  # rows that failed, and why',
        'batch.report("report.html")',
    ]
    made = []
    for number, text in enumerate(cells):
        cell: dict[str, Any] = {"cell_type": "code" if number else "markdown", "id": f"cell-{number}", "metadata": {}}
        source = [line + "\n" for line in text.split("\n")]
        source[-1] = source[-1].rstrip("\n")
        made.append({**cell, "source": source, **({"execution_count": None, "outputs": []} if number else {})})
    kernel = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    content = {"cells": made, "metadata": {**kernel, "language_info": {"name": "python"}}}
    return json.dumps({**content, "nbformat": 4, "nbformat_minor": 5}, indent=1, ensure_ascii=False) + "\n"


def options(parser: argparse.ArgumentParser) -> None:
    """Of the command `init`."""
    parser.add_argument("folder", metavar="FOLDER", help="a new one")
    parser.epilog = f"tasks:\n{_tasks()}"
    parser.add_argument("--task", type=_task, default="generate", help="what comes out for a row (default generate)")
    parser.add_argument("--model", metavar="ID", help="a Hub id or a folder (default: the repository's demo, on a CPU)")


def _tasks() -> str:
    """A line each."""
    return "\n".join(f"  {task:<10}{kind.line}" for task, kind in TASKS.items())


def _task(text: str) -> str:
    if text in TASKS:
        return text
    raise argparse.ArgumentTypeError(f"there is no task {text!r}.{did_you_mean(text, TASKS)} The tasks:\n{_tasks()}")
