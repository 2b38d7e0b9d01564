"""The report: what it says about a run, what stands in the page, and what must not."""

from __future__ import annotations

import html
import os
import re
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from matplotlib.figure import Figure
from run_samples import NASTY, SampleRun

from rayllm_batch import ChatWorkloadBase, RayLLMBatch, init_engine_from_config
from rayllm_batch.errors import RayLLMBatchError
from rayllm_batch.measures import failures
from rayllm_batch.measures.history import History
from rayllm_batch.measures.metrics import RunMetrics
from rayllm_batch.measures.row_stats import RowStats, bin_of
from rayllm_batch.measures.snapshot import ReplicaState
from rayllm_batch.report import plots
from rayllm_batch.report.page import SHOWN_CHARACTERS, page, shown
from rayllm_batch.report.verdict import Verdict, verdict

TOKEN = "hf_" + "s3cr3t" * 5


class Page(HTMLParser):
    """A page's tags with their attributes, and its text by the heading that it stands under."""

    VOID = ("meta", "br", "img", "path", "use", "rect")

    def __init__(self, content: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.sections: dict[str, str] = {"": ""}
        self.at = ""
        self.feed(content)
        assert not self.open, f"not closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)
            if tag == "h2":
                self.at = ""

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag
            if tag == "h2":
                self.sections[self.at] = ""

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if "style" in self.open:
            return
        if "h2" in self.open:
            self.at += data
        else:
            self.sections[self.at] += data + " "

    def under(self, heading: str) -> str:
        return " ".join(self.sections[heading].split())


def told(run: SampleRun) -> Verdict:
    return verdict(run.metrics, run.history, "GPUs")


def test_full() -> None:
    found = told(SampleRun())
    assert found.sentence.startswith(
        "The GPUs were full: they had all the work they could take for 97% of the generating time"
    ), found
    assert re.search(r"All [\d,]+ rows were answered\.$", found.sentence)
    assert any(
        "max_num_seqs (251 requests of the 256 that max_num_seqs allows ran on average), with 60% of the KV cache"
        in note
        for note in found.notes
    )
    assert any("GPU use averaged 8" in note or "GPU use averaged 9" in note for note in found.notes)
    assert any("KV cache (" in note for note in told(SampleRun(kv=0.97)).notes)


def test_starved() -> None:
    found = told(SampleRun(feed=0.1, waiting=0))
    assert (
        "The GPUs were not full: they had all the work they could take for only 0% of the generating time, and waited "
        "for rows for " in found.sentence
    )
    assert any(
        "parse_row" in note and "of the 256 that max_num_seqs allows ran on average" in note for note in found.notes
    )


def test_engines_that_died_are_not_called_starved() -> None:
    run = SampleRun(feed=0.1, waiting=0)
    run.replicas["b"] = ReplicaState(actor_id="actor")
    found = told(run)
    assert "were starting again or had few rows for " in found.sentence and "parse_row" not in " ".join(found.notes)
    assert any("started again 1 time" in note for note in found.notes)


def test_a_small_job_and_a_long_tail() -> None:
    assert (
        "too small to fill the GPUs: they had all its rows at once and ran up to"
        in told(SampleRun(tail_s=295, feed=0.5, waiting=0)).sentence
    )
    at_first = told(SampleRun(tail_s=280)).sentence
    assert at_first.startswith(
        "The GPUs were full only at first: for 65% of the generating time just the last rows were left"
    ), at_first
    all_at_once = told(SampleRun(tail_s=295, waiting=2000)).sentence
    shares = r"could take for (\d+)% of the generating time, and only the last rows were left for (\d+)%\."
    full, last = map(int, re.search(f"full as long as rows were waiting: .* {shares}", all_at_once).groups())
    assert full > 50 and full + last in (99, 100, 101), "more rows than can run, all there at once"
    run = SampleRun(tail_s=150)
    tail = told(run)
    full, last = map(int, re.search(shares, tail.sentence).groups())
    assert full == round(100 * run.metrics.full_share) and full + last in (99, 100, 101)
    assert f"{run.metrics.mean_running:,.0f} requests of the 256" in " ".join(tail.notes), "as the page's own figure"
    notes = told(SampleRun(tail_s=150)).notes
    assert any("only the last rows were left" in note for note in notes)


def test_too_short_to_tell() -> None:
    run = SampleRun()
    found = verdict(RunMetrics.of(run.replicas, 3.0), History(), "engines")
    assert found.sentence.startswith("The run was too short to tell how full the engines were. All ")


def test_failures_and_their_main_kind() -> None:
    run = SampleRun()
    rows = run.metrics.rows + 4
    run.fail(*["parse_row: KeyError: 'text'"] * 3, "engine: ValueError: x")
    assert told(run).sentence.endswith(f"4 of {rows:,} rows failed (under 1%), 3 of them in parse_row.")
    assert told(SampleRun().fail("engine: x")).sentence.endswith("all in engine.")
    assert told(SampleRun().fail("Line 14 of '/tmp/a.csv' has 8 cells")).sentence.endswith("rows failed (under 1%).")


def test_a_failure_is_shown_by_the_text_of_one_row_and_not_by_what_its_kind_has_in_common() -> None:
    one = "Line 14 of '/data/2024/broken.csv' has 8 cell(s)"
    run = SampleRun(seconds=30).fail(
        *[f"dataset_file: {one}: 'a'", f"dataset_file: {one.replace('14', '27')}: 'b'"], one
    )
    said = Page(page(**run.report())).under("Failures")
    assert said == f"dataset_file: 2 rows dataset_file: {one}: 'a' other: 1 row {one}"


def test_runs_that_did_not_end_well() -> None:
    run = SampleRun()
    run.history.end(KeyboardInterrupt())
    assert told(run).sentence.startswith("The run did not finish (it was interrupted). The GPUs were full")
    assert told(run).sentence.endswith(f"None of the {run.metrics.rows:,} rows that came through until then failed.")
    empty = History()
    assert verdict(RunMetrics(), empty).sentence.startswith("Nothing was computed")
    empty.end(ValueError("no GPU"))
    assert verdict(RunMetrics(), empty).sentence == "The run did not finish (ValueError: no GPU)."


def test_a_slow_start_a_late_first_row_and_restarts_are_noted() -> None:
    run = SampleRun(seconds=60)
    run.elapsed_s = 1000.0
    run.replicas["a"].busy_s = 60.0
    run.replicas["b"] = ReplicaState(actor_id="actor")
    notes = " ".join(told(run).notes)
    assert "work for 60 of the 1,000 s that the call took, 6%" in notes and "38 s to start" in notes
    assert "started again 1 time" in notes
    late = History(began=0.0)
    late._points, late._latest = list(run.history._points), run.history._latest
    late.phases = {"first engine ready": 5.0, "first row": 60.0}
    assert any("ready 36 s before the first row" in note for note in verdict(SampleRun(seconds=60).metrics, late).notes)


def test_the_figures_are_in_the_page() -> None:
    too_long = [f"tokenize: the prompt has {n} tokens" for n in (9000, 9001)]
    run = SampleRun().fail("parse_row: KeyError: 'text'", *too_long, "tokenize: x")
    metrics, shown_page = run.metrics, Page(page(**run.report()))
    top = shown_page.under("")
    assert "meta-llama/Llama-3.1-8B-Instruct" in top and html.unescape(told(run).sentence) in top
    for value in (metrics.rows, metrics.num_input_tokens, metrics.num_generated_tokens):
        assert f" {value:,} " in top
    assert (
        f"{metrics.num_generated_tokens / 300:,.0f} a second" in top
        and "38.5 s" in top
        and "1 parse_row, 3 tokenize" in top
    )
    timeline = shown_page.under("Over time")
    for words in ("Output tokens/s", "Input tokens/s", "Requests", "KV cache", "GPU", "engine ready", "last row"):
        assert words in timeline
    assert "Prompt length" in shown_page.under("Lengths") and "Answer length" in shown_page.under("Lengths")
    reasons = shown_page.under("Finish reasons")
    assert (
        f"stop {metrics.finish_reasons['stop']:,}" in reasons
        and "error 4" in reasons
        and "cut off at max_tokens" in reasons
    )
    assert shown_page.under("Failures") == (
        "tokenize: 3 rows tokenize: the prompt has 9000 tokens (2 rows) tokenize: x (1 row) "
        "parse_row: 1 row parse_row: KeyError: 'text'"
    )
    assert "took tokens in out finish reason the answer begins 30.0 s" in shown_page.under("Slowest rows")
    assert "10.0.0.1 38.5 s" in shown_page.under("Replicas") and "max_tokens 150" in shown_page.under(
        "Sampling parameters"
    )


def test_invalid_answers_have_a_section_where_there_are_any() -> None:
    run = SampleRun(seconds=30)
    assert "Invalid answers" not in Page(page(**run.report())).sections
    stats = run.replicas["a"].delivered
    for reason in ("field 'title': too long", f"field 'tone': {NASTY}", "field 'title': too long"):
        failures.count(stats.invalid, reason)
    assert "None was asked for again" in (said := Page(page(**run.report())).under("Invalid answers"))
    assert f"2 field 'title': too long 1 field 'tone': {NASTY}" in said and said.startswith("3 answers did not have")
    stats.reasks, stats.mended = 3, 2
    assert "3 of them were asked for again, which mended 2 row(s)." in Page(page(**run.report())).under(
        "Invalid answers"
    )
    assert run.metrics.invalid_answers == stats.invalid and (run.metrics.reasks, run.metrics.mended) == (3, 2)


def test_everything_foreign_is_escaped_and_shown_as_it_is() -> None:
    run = SampleRun(seconds=30).fail(f"engine: {NASTY}", f"{NASTY[:20]}: x")
    run.history.end(ValueError(NASTY))
    report = run.report(title=NASTY, settings={NASTY: [(NASTY, NASTY)]})
    report["stats"].finish_reasons[NASTY] = 3
    shown_page = Page(page(**report))
    assert not {"script", "img"} & {tag for tag, _ in shown_page.tags}
    assert sum(tag == "style" for tag, _ in shown_page.tags) == 1 + 6, "the page's, and one a plot"
    for heading in ("", "Failures", "Finish reasons", " ".join(NASTY.split())):
        assert NASTY in shown_page.under(heading)
    assert NASTY[:40] in shown_page.under("Slowest rows")


def test_the_page_needs_nothing_else() -> None:
    content = page(**SampleRun(seconds=30).report())
    for tag, attributes in Page(content).tags:
        assert tag not in ("script", "link", "iframe", "object", "embed", "base")
        for name, value in attributes.items():
            if name in ("src", "href", "xlink:href", "srcset", "action", "data"):
                assert value.startswith("#"), (tag, name, value)
    assert "url(" not in re.sub(r"url\(#[\w-]+\)", "", content) and "@import" not in content


def test_plots_take_the_pages_colours_and_keep_their_ids_apart() -> None:
    run = SampleRun(seconds=30)
    stats = run.report()["stats"]
    timeline, lengths = plots.timeline(run.history), plots.lengths(stats.input_lengths, stats.output_lengths)
    for svg in (timeline, lengths):
        assert not re.search(r"#[0-9a-f]{6}|rgb\(|black|white", svg) and "var(--fg)" in svg and "var(--grid)" in svg
        ids = set(re.findall(r'id="([^"]+)"', svg))
        assert {*re.findall(r"url\(#([^)]+)\)", svg), *re.findall(r'href="#([^"]+)"', svg)} <= ids
    assert not set(re.findall(r'id="([^"]+)"', timeline)) & set(re.findall(r'id="([^"]+)"', lengths))
    assert len(timeline) < 150_000, "it is kept in notebooks"


def test_the_page_of_a_large_run_is_below_a_megabyte() -> None:
    run = SampleRun(seconds=2500).fail(*(f"engine: ValueError: {n} {'x' * 500}" for n in range(300)))
    one = run.replicas["a"]
    run.replicas |= {f"r{n}": replace(one, actor_id=f"actor {n}", node=f"10.0.{n}.1") for n in range(512)}
    settings = {"Engine settings": [(f"setting {n}", "v" * SHOWN_CHARACTERS) for n in range(300)]}
    assert len(page(**run.report(settings=settings)).encode()) < 1_000_000


def test_a_long_runs_plot_is_not_longer() -> None:
    assert len(plots.timeline(SampleRun(seconds=2500, feed=0.02, waiting=0).history)) < 150_000


@pytest.mark.parametrize("end_s", [4.0, 40.0])
def test_each_phase_is_named_beside_its_own_line(end_s: float) -> None:
    axis = Figure().subplots()
    phases = {"first engine ready": 1.0, "all engines ready": 1.0, "first row": 2.0, "last row": 2.5}
    plots._mark_phases(axis, phases, end_s, with_names=True)
    assert {name.get_text(): name.xy[0] for name in axis.texts} == {
        "engine ready": 1.0,
        "first row": 2.0,
        "last row": 2.5,
    }
    assert len({name.xyann[1] for name in axis.texts}) > 1, "those that would be on each other stand above each other"


def test_plots_of_nothing() -> None:
    assert plots.timeline(History()) == "" and plots.lengths({}, {}) == ""
    assert ">none<" in plots.lengths({5: 1}, {}).replace("\n", "")


@pytest.mark.parametrize(
    "lengths",
    [
        [800] * 5 + [1200],
        [1, 2, 3],
        [0],
        [0] * 3 + [5000],
        [150] * 9,
        list(range(20, 3000, 7)),
        [1, 1_000_000],
        [130_000, 131_000],
    ],
)
def test_no_row_is_lost_on_the_way_into_bars(lengths: list[int]) -> None:
    counts: dict[int, int] = {}
    for length in lengths:
        counts[bin_of(length)] = counts.get(bin_of(length), 0) + 1
    edges, heights = plots.bars(counts)
    assert sum(heights) == pytest.approx(len(lengths)) and len(heights) == len(edges) - 1 <= plots.BARS
    assert edges == sorted(edges) and edges[0] <= max(min(lengths), 1) and edges[-1] > max(lengths)


def test_bars_are_where_the_rows_are() -> None:
    edges, heights = plots.bars({bin_of(10): 4, bin_of(20): 6})
    assert [(edges[i], height) for i, height in enumerate(heights) if height] == [(10.0, 4), (20.0, 6)]


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("max_tokens", 150, "150"),
        ("temperature", 0.0, "0.0"),
        ("stop", ["a", "b"], '["a", "b"]'),
        ("dataset_file", Path("a/b"), "a/b"),
        ("ds", object(), "a object"),
        ("system_prompt", "x" * 1000, "x" * 296 + " ..."),
    ],
)
def test_settings(name: str, value: Any, text: str) -> None:
    assert shown(name, value) == text


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("hf_token", "abc"),
        ("headers", {"Authorization": "Bearer abc"}),
        ("dataset_file", "s3://user:abc@bucket/x"),
        ("x", TOKEN),
        ("api_key", "abc"),
        ("nested", {"deep": [{"password": "abc"}]}),
    ],
)
def test_settings_that_may_be_secret(name: str, value: Any) -> None:
    assert shown(name, value) == "(not shown: it may hold a secret)"


class Told(ChatWorkloadBase):
    """A workload with a secret of its own."""

    sampling_params: dict = {"max_tokens": 77, "temperature": 0.0}
    api_key: str = TOKEN
    note: str = NASTY

    def parse_row(self, row: dict[str, Any]) -> dict[str, Any]:
        return {"messages": [{"role": "user", "content": row["article"]}]}


def finished() -> RayLLMBatch:
    config = init_engine_from_config(
        "configs/demo-cpu.yaml",
        override={"llm_engine": "echo", "runtime_env": {"env_vars": {"HF_TOKEN": TOKEN, "MY_FLAG": "private-value"}}},
    )
    batch, run = RayLLMBatch(config, Told(dataset_file="articles.jsonl")), SampleRun(seconds=30)
    of = batch._execution
    of.replicas, of.history, of.metrics = run.replicas, run.history, run.metrics
    return batch


def test_before_any_run(tmp_path: Path) -> None:
    batch = RayLLMBatch(init_engine_from_config("configs/demo-cpu.yaml"), Told())
    with pytest.raises(RayLLMBatchError, match="call run"):
        batch.report(tmp_path / "report.html")
    assert not list(tmp_path.iterdir())


def test_report_in_a_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = finished()
    monkeypatch.chdir(tmp_path)
    path = batch.report("new/report.html")
    assert path == os.path.join(os.getcwd(), "new", "report.html")
    assert capsys.readouterr().out == f"The report is in {path}\n"
    content = Path(path).read_text(encoding="utf-8")
    assert TOKEN not in content and "private-value" not in content and TOKEN not in html.unescape(content)
    shown_page = Page(content)
    assert "env_vars.HF_TOKEN (not shown)" in shown_page.under(
        "Config"
    ) and "env_vars.MY_FLAG (not shown)" in shown_page.under("Config")
    assert "llm_engine echo" in shown_page.under("Config") and "max_tokens 77" in shown_page.under(
        "Sampling parameters"
    )
    assert f"note {NASTY}" in shown_page.under("Workload") and "api_key (not shown" in shown_page.under("Workload")
    assert f"Python {sys.version.split()[0]}" in shown_page.under("Versions") and "ray 2" in shown_page.under(
        "Versions"
    )


def test_report_in_a_notebook(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    displayed: list[dict[str, str]] = []
    shell = SimpleNamespace(kernel=object())
    ipython = SimpleNamespace(
        get_ipython=lambda: shell, display=SimpleNamespace(display=lambda data, raw: displayed.append(data))
    )
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    path = finished().report(tmp_path / "report.html")
    (data,) = displayed
    _, (tag, attributes) = Page(data["text/html"]).tags  # after the frame's style
    assert (
        tag == "iframe"
        and attributes["srcdoc"] == Path(path).read_text(encoding="utf-8")
        and attributes["sandbox"] == ""
    )
    assert data["text/plain"] == f"The report is in {path}" and capsys.readouterr().out == ""


def test_a_place_where_it_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RayLLMBatchError, match="cannot be written to .*file/report.html.*another path"):
        finished().report(tmp_path / "file" / "report.html")


def test_a_run_of_nothing_has_a_page_too() -> None:
    run = SampleRun(seconds=30)
    content = page(**run.report(metrics=RunMetrics(), history=History(), stats=RowStats(), settings={}))
    assert "Nothing was computed" in content and "The run was too short to draw" in content and "<svg" not in content
