"""Each code block of README.md and docs/ is run, parsed, or says why not."""

from __future__ import annotations

import asyncio
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from doc_blocks import FENCE, FIRST_SCREEN, PAGES, ROOT, Block, blocks, make_place, run_python

from rayllm_batch import ChatWorkloadBase, cli, init_engine_from_config
from rayllm_batch.arguments import DONE, REPORT, ROWS_FAILED
from rayllm_batch.tasks import TASKS
from rayllm_batch.tasks.rollout import Generated, Rollout
from rayllm_batch.workload import check_workload

RUN = {page.name: [block for block in blocks(page) if block.kind in ("python", "bash")] for page in PAGES}
RUN = {name: found for name, found in RUN.items() if found}
STARTS = ("RayLLMBatch(", "rayllm_batch run", "rayllm_batch openai-batch")  # a block with one of these needs Ray
TASK_OF = {"Passages": "embed", "Search": "score"}


def needs_ray(name: str) -> bool:
    return any(word in block.text for block in RUN[name] if not block.why_not for word in STARTS)


def run_page(name: str) -> dict[str, Any]:
    """Its blocks in their order. Returns the names that they have made."""
    names: dict[str, Any] = {"__name__": "__main__"}
    for block in RUN[name]:
        if block.why_not:
            continue
        if block.kind == "python":
            run_python(block, names)
        else:
            for arguments in block.commands():
                # A line of requests.jsonl asks for what a batch has not, and becomes an error.
                expected = ROWS_FAILED if arguments[0] == "openai-batch" else DONE
                assert command(arguments) == expected, f"{block}: {arguments}"
    for workload in [value for value in names.values() if isinstance(value, type)]:
        if issubclass(workload, ChatWorkloadBase) and workload.__module__ == "__main__":
            try_workload(workload)
    return names


def command(arguments: list[str]) -> int:
    """Its exit code. Those that run rows do it here, where Ray runs already; a report is read in a fresh process, since
    what Ray's workers sent has been put on the classes of this one."""
    if arguments[0] != REPORT:
        return cli.main(arguments)
    words = [sys.executable, "-m", "rayllm_batch", *arguments]
    return subprocess.run(words, env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=100, check=False).returncode


def try_workload(of: type[ChatWorkloadBase]) -> None:
    """What the class makes of a row, checked as a run checks it; and of answers."""
    workload, row = of(), a_row()
    check_workload(workload)
    settings = {name for name, value in vars(of).items() if not name.startswith("_") and not callable(value)}
    assert settings <= set(vars(workload)), f"{of.__name__} sets what nothing reads"
    task = TASKS.get(TASK_OF.get(of.__name__, "generate")).of(workload, {})
    if isinstance(task, Rollout):
        assert asyncio.run(workload.rollout(row, Answers())), of
        return
    assert task.parse(workload.parse_row, row), of
    if hasattr(workload, "parse_answer"):
        assert workload.parse_answer(row, {"generated_text": f"Dear {row['customer']}"}), of


def a_row() -> dict[str, Any]:
    from PIL import Image

    Image.new("RGB", (8, 8)).save(file := io.BytesIO(), "PNG")
    ticket = json.loads((ROOT / "assets" / "support_tickets.jsonl").read_text(encoding="utf-8").splitlines()[0])
    return {**ticket, "article": "It rained. It stopped.", "question": "Did it rain?", "image": file.getvalue()}


class Answers:
    """A `generate` that answers, and first calls a tool that it was given."""

    async def __call__(self, messages: list[dict[str, Any]], *, n: int = 1, tools: Any = None, **how: Any) -> Generated:
        assert messages and all(message["role"] and message["content"] is not None for message in messages)
        texts, calls = ["3"] * n, []
        if tools and messages[-1]["role"] != "tool":
            calls = [{"id": "1", "name": tools[0]["function"]["name"], "arguments": '{"text": "a b"}'}]
        parsed = "3" if "output_schema" in how else None
        return Generated("3", "stop", 1, 1, texts=texts, parsed=parsed, tool_calls=calls)


@pytest.mark.parametrize("name", [name for name in RUN if not needs_ray(name)])
def test_blocks_that_need_no_engine(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(make_place(tmp_path, echo=True))
    assert run_page(name)


@pytest.mark.ray
@pytest.mark.parametrize("name", [name for name in RUN if needs_ray(name) and name != "README.md"])
def test_blocks_that_ask_an_engine(
    name: str, ray_cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(make_place(tmp_path, echo=True))
    names = run_page(name)
    if name == "embeddings.md":
        assert {"id", "customer", "text", "embedding"} <= set(names["vectors"]) and len(names["vectors"]) == 16
    if name == "resume.md":
        assert names["summaries"].count() == 12 and (tmp_path / "later.html").is_file()
        assert (tmp_path / "my-job" / "workload.py").is_file()
    if name == "cost.md":
        assert names["said"].rows == 64 and names["said"].cost_usd is not None
    if name == "openai-batch.md":
        assert len((tmp_path / "results.jsonl").read_text().splitlines()) == 3
        assert "stream" in (tmp_path / "errors.jsonl").read_text()


@pytest.mark.ray
@pytest.mark.vllm
def test_the_first_screen_joins_answers_to_a_table(
    ray_cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its Python and its line of shell, as they stand, with the demo in vLLM; one start of it."""
    import pandas as pd

    monkeypatch.chdir(make_place(tmp_path, echo=False))
    table = run_page("README.md")["table"]
    for answered in (table, pd.read_parquet(tmp_path / "answers")):
        assert len(answered) == 16 and answered["error"].isna().all()
        assert (answered["generated_text"].str.len() > 9).all() and {"id", "customer", "text"} <= set(answered)
    said = capsys.readouterr().out
    assert "of 16 answered rows 16 are asked the same as before" in said and "there was nothing to run." in said


def test_the_first_screen_has_both() -> None:
    first = (ROOT / "README.md").read_text(encoding="utf-8").partition(FIRST_SCREEN)
    assert first[1] and "table = " in first[0] and "rayllm_batch run" in first[0]
    assert [block.kind for block in RUN["README.md"] if not block.why_not] == ["python", "bash", "bash"]


def test_every_block_is_of_a_kind_that_is_looked_at() -> None:
    known = {"python", "bash", "yaml", "json"}
    for block in [block for page in PAGES for block in blocks(page)]:
        assert block.kind in known or block.kind.startswith("{"), f"{block}: what is {block.kind!r}? {sorted(known)}"
        assert block.why_not is None or len(block.why_not) > 10, f"{block} is not run: say why"
    for page in PAGES:  # one that is set in, or between tildes, would not be seen
        text = FENCE.sub("", page.read_text(encoding="utf-8"))
        assert not re.search(r"^\s*(```|~~~|    \S+.*\()", text, re.MULTILINE), (
            f"{page.name} has code that is not looked at"
        )


@pytest.mark.parametrize("block", [b for page in PAGES for b in blocks(page) if b.kind in ("yaml", "json")], ids=str)
def test_yaml_is_a_config_and_json_is_json(block: Block, monkeypatch: pytest.MonkeyPatch) -> None:
    if block.kind == "json":
        assert [json.loads(line) for line in block.text.splitlines()]
    else:
        monkeypatch.setenv("MY_KEY", "none")
        assert init_engine_from_config(yaml.safe_load(block.text))


def test_a_block_that_fails_fails_its_test() -> None:
    bad = Block("page.md", 3, "python", "rows = 1\nrows += missing\n", None)
    with pytest.raises(NameError, match="missing"):
        run_python(bad, {})
    with pytest.raises(AssertionError, match="only"):
        Block("page.md", 3, "bash", "rm -rf .\n", None).commands()

    class Typo(ChatWorkloadBase):
        def parse_row(self, row: dict[str, Any]) -> dict[str, Any]:
            return {"mesages": []}

    with pytest.raises(Exception, match="mesages"):
        try_workload(Typo)
