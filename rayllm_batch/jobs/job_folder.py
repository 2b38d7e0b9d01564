"""The folder that `init` writes: workload, config, rows to try, a test, a notebook, requirements."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any, Optional

from rayllm_batch._version import __version__
from rayllm_batch.errors import ConfigError
from rayllm_batch.jobs.template import filled

# By task: the workload's class, what it is for, the output's column that people read first, the rows, the demo's model.
TASKS = {
    "generate": ("Summaries", "A text for each row: a summary.", "generated_text", "tickets", "demo-model"),
    "typed": ("Tickets", "A form for each row, filled in: fields with types.", "parsed", "tickets", "demo-model"),
    "embed": ("Passages", "A vector for each row.", "embedding", "news", "demo-model"),
    "classify": ("Topics", "A label for each row.", "label", "news", "demo-classifier"),
    "score": ("Pairs", "How well each row's text answers a query.", "score", "news", "demo-model"),
    "endpoint": ("Replies", "A text for each row, by a server.", "generated_text", "tickets", "demo-model"),
}
FILES = ("workload.py", "config.yaml", "test_workload.py", "requirements.txt", "README.md")


def write(folder: str, task: str, model: Optional[str] = None) -> None:
    """model: a Hub id, a model's folder, or of `endpoint` the name at the server; None: the demo's, of a checkout.

    Raises ConfigError; then nothing was written.
    """
    path = Path(folder).expanduser()
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise ConfigError(f"{folder!r} is there already, and not an empty folder. Give the name of a new one.")
    name, about, column, rows, demo_model = TASKS[task]
    demo = Path(__file__).parents[2] / "assets" / demo_model
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
        "name": name,
        "about": about,
        "column": column,
        "title": path.resolve().name,
        "demo": str(demo) if is_demo else "",
        "model": model or ("demo" if task == "endpoint" else str(demo)),
        "tokenizer": json.dumps(str(demo) if demo.is_dir() else model),
        "version": __version__,
    }
    contents = {file: filled(f"folder_{file}.jinja", values) for file in FILES}
    contents["rows.jsonl"] = filled(f"folder_{rows}.jsonl.jinja", {})
    contents["job.ipynb"] = _notebook(values)
    try:
        path.mkdir(parents=True, exist_ok=True)
        for file, text in contents.items():
            (path / file).write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{folder!r} cannot be written: {error.strerror or error}.") from None
    print(f"{folder} has {', '.join(contents)}. README.md there says what next.")


def _notebook(values: dict[str, Any]) -> str:
    name, column = values["name"], values["column"]
    cells = [
        f"# {values['title']}\n\n{values['about']} The two edits that make it yours are in `workload.py`.",
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
    what = "what comes out for a row (default generate); typed: a form; endpoint: of a server with the OpenAI API"
    parser.add_argument("--task", choices=list(TASKS), default="generate", help=what)
    parser.add_argument("--model", metavar="ID", help="a Hub id or a folder (default: the repository's demo, on a CPU)")
