"""The report as one HTML page: no script, nothing from the network, light or dark as the browser is."""

from __future__ import annotations

import html
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Optional

from rayllm_batch import plots
from rayllm_batch.failures import by_stage
from rayllm_batch.history import History
from rayllm_batch.metrics import RunMetrics
from rayllm_batch.row_stats import RowStats
from rayllm_batch.verdict import verdict

Table = list[tuple[str, str]]


@dataclass(frozen=True)
class Report:
    """All that the page shows. settings: tables by their headings; engines: "GPUs", or "engines" where there is none."""

    title: str
    metrics: RunMetrics
    history: History
    stats: RowStats
    settings: dict[str, Table]
    engines: str = "engines"


def page(report: Report) -> str:
    """Everything that models, datasets and configs hold is escaped."""
    told = verdict(report.metrics, report.history, report.engines)
    began = time.strftime("%Y-%m-%d %H:%M:%S %Z", time.localtime(report.history.began))
    notes = "".join(f"<li>{html.escape(note)}</li>" for note in told.notes)
    body = [
        f"<header><h1>{html.escape(report.title)}</h1><p class='muted'>Batch inference, started {html.escape(began)}</p></header>",
        f"<p class='verdict'>{html.escape(told.sentence)}</p>",
        f"<ul>{notes}</ul>" if notes else "",
        _figures(report.metrics),
        _section("Over time", plots.timeline(report.history) or "<p class='muted'>The run was too short to draw.</p>"),
        _section("Lengths", plots.lengths(report.stats.input_lengths, report.stats.output_lengths)),
        _section("Finish reasons", _finish_reasons(report.stats.finish_reasons)),
        _section("Failures", _failures(report.stats)),
        _section("Slowest rows", _slowest(report.stats)),
        _section("Replicas", _replicas(report.metrics)),
        *(_section(heading, _names_and_values(table)) for heading, table in report.settings.items()),
        "<footer class='muted'>Of this run alone: rows that an earlier run had finished in the output folder are not in these "
        "figures. A row that was computed again after an engine died counts once.</footer>",
    ]
    return (
        "<!doctype html>\n<html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'><meta name='color-scheme' content='light dark'>"
        f"<title>{html.escape(report.title)}</title><style>{CSS}</style></head>\n<body><main>\n"
        + "\n".join(part for part in body if part)
        + "\n</main></body></html>\n"
    )


def _figures(metrics: RunMetrics) -> str:
    figures = [
        ("rows", f"{metrics.rows:,}", f"{metrics.rows_per_s:,.{0 if metrics.rows_per_s >= 100 else 1}f} a second"),
        ("failed", f"{metrics.failed:,}", ", ".join(f"{rows:,} {kind}" for kind, rows in metrics.failed_by_kind.items())),
        ("input tokens", f"{metrics.num_input_tokens:,}", f"{metrics.input_tokens_per_s:,.0f} a second"),
        ("output tokens", f"{metrics.num_generated_tokens:,}", f"{metrics.output_tokens_per_s:,.0f} a second"),
        ("start-up", _duration(metrics.start_s), "of the slowest engine"),
        ("generating", _duration(metrics.engine_s), "an engine with work, on average"),
        ("whole call", _duration(metrics.elapsed_s), f"{100 * metrics.busy_share:.0f}% of it generating"),
    ]
    if metrics.mean_running is not None:
        most = f"of {metrics.max_running:,} at most" if metrics.max_running else "on average"
        figures.append(("requests running", f"{metrics.mean_running:,.0f}", f"{most}; {_seconds(metrics.mean_latency_s)} a row"))
    for name, share in (("KV cache in use", metrics.mean_kv_cache_usage), ("GPU use", metrics.mean_gpu_utilization)):
        if share is not None:
            figures.append((name, f"{100 * share:.0f}%", "on average while generating"))
    cells = "".join(
        f"<div><dt>{name}</dt><dd>{html.escape(value)}</dd><small>{html.escape(note)}</small></div>" for name, value, note in figures
    )
    return f"<dl class='figures'>{cells}</dl>"


def _finish_reasons(counts: dict[str, int]) -> str:
    if not counts:
        return ""
    meaning = {
        "stop": "the model ended the answer", "length": "cut off at max_tokens or max_model_len", "abort": "the engine gave it up",
        "error": "the row failed",
    }  # fmt: skip
    most, rows = max(counts.values()), sum(counts.values())
    lines = "".join(
        f"<tr><td>{html.escape(reason)}</td><td class='number'>{count:,}</td><td class='number'>{100 * count / rows:.1f}%</td>"
        f"<td class='bar'><i style='width:{max(100 * count / most, 0.5):.1f}%'></i></td>"
        f"<td class='muted'>{meaning.get(reason, '')}</td></tr>"
        for reason, count in sorted(counts.items(), key=lambda item: -item[1])
    )
    return f"<table>{lines}</table>"


def _failures(stats: RowStats) -> str:
    if not stats.errors:
        return "<p>No row failed.</p>"
    parts = []
    for stage, rows in sorted(by_stage(stats.errors).items(), key=lambda item: -item[1]):
        shown = ""
        for example in stats.examples.get(stage, ()):
            tokens = f" <small>({example.input_tokens:,} tokens)</small>" if example.input_tokens else ""
            shown += f"<li><code>{html.escape(example.error)}</code>{tokens}</li>"
        parts.append(f"<h3>{html.escape(stage)}: {rows:,} row{'' if rows == 1 else 's'}</h3><ul>{shown}</ul>")
    return "".join(parts)


def _slowest(stats: RowStats) -> str:
    if not stats.slowest:
        return ""
    lines = [
        (_seconds(row.seconds), f"{row.input_tokens:,}", f"{row.output_tokens:,}", row.finish_reason, row.answer)
        for row in stats.slowest
    ]
    return (
        "<p class='muted'>Seconds from when a row reached the engine until its answer was there, the wait in the engine's queue "
        f"included. The mean of all is {_seconds(stats.mean_latency_s)}.</p>"
        + _table(("#took", "#tokens in", "#out", "finish reason", "the answer begins"), lines)
    )


def _replicas(metrics: RunMetrics) -> str:
    lines = [
        (
            replica.node, _duration(replica.start_s), _duration(replica.engine_s), f"{replica.rows:,}", f"{replica.failed:,}",
            f"{replica.num_input_tokens:,}", f"{replica.num_generated_tokens:,}", f"{replica.restarts:,}",
        )
        for replica in metrics.replicas
    ]  # fmt: skip
    head = ("node", "#start-up", "#generating", "#rows", "#failed", "#tokens in", "#out", "#restarts")
    return _table(head, lines) if lines else ""


def _table(head: tuple[str, ...], lines: Sequence[tuple[str, ...]]) -> str:
    """head: the columns' names; those of numbers begin with "#"."""
    kinds = ["number" if name.startswith("#") else "text" for name in head]
    names = "".join(f"<th class='{kind}'>{name.removeprefix('#')}</th>" for kind, name in zip(kinds, head, strict=True))
    body = "".join(
        "<tr>" + "".join(f"<td class='{kind}'>{html.escape(cell)}</td>" for kind, cell in zip(kinds, line, strict=True)) + "</tr>"
        for line in lines
    )
    return f"<div class='wide'><table><tr>{names}</tr>{body}</table></div>"


def _names_and_values(table: Table) -> str:
    lines = "".join(f"<tr><td>{html.escape(name)}</td><td class='text'>{html.escape(value)}</td></tr>" for name, value in table)
    return f"<div class='wide'><table class='settings'>{lines}</table></div>" if lines else ""


def _section(heading: str, content: str) -> str:
    return f"<section><h2>{html.escape(heading)}</h2>{content}</section>" if content else ""


def _duration(seconds: float) -> str:
    if seconds < 120:
        return _seconds(seconds)
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


def _seconds(seconds: Optional[float]) -> str:
    return f"{seconds or 0.0:,.1f} s"


CSS = """
:root { --bg: #ffffff; --fg: #1f2328; --muted: #59636e; --grid: #d8dee4; --card: #f6f8fa; --one: #0969da; --two: #bc4c00; --three: #1a7f37 }
@media (prefers-color-scheme: dark) {
  :root { --bg: #0d1117; --fg: #e6edf3; --muted: #9198a1; --grid: #30363d; --card: #161b22; --one: #58a6ff; --two: #f0883e; --three: #3fb950 }
}
* { box-sizing: border-box }
body { margin: 0; background: var(--bg); color: var(--fg); font: 15px/1.5 system-ui, sans-serif }
main { max-width: 60rem; margin: 0 auto; padding: 1.5rem 1rem 3rem }
h1 { font-size: 1.4rem; margin: 0; overflow-wrap: anywhere }
h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; border-bottom: 1px solid var(--grid); padding-bottom: .25rem }
h3 { font-size: 1rem; margin: 1rem 0 .25rem }
header p { margin: .1rem 0 0 }
ul { margin: .5rem 0; padding-left: 1.2rem }
.muted, small { color: var(--muted) }
.verdict { font-size: 1.15rem; border-left: 4px solid var(--one); background: var(--card); margin: 1rem 0; padding: .7rem 1rem }
.figures { display: grid; grid-template-columns: repeat(auto-fill, minmax(10.5rem, 1fr)); gap: .6rem; margin: 1rem 0 }
.figures div { background: var(--card); border-radius: 6px; padding: .6rem .8rem; display: flex; flex-direction: column }
dt { color: var(--muted); font-size: .85rem }
dd { margin: 0; font-size: 1.35rem; font-variant-numeric: tabular-nums }
small { line-height: 1.3 }
table { border-collapse: collapse; width: 100% }
th, td { text-align: left; vertical-align: top; padding: .25rem .75rem .25rem 0; border-bottom: 1px solid var(--grid) }
th { font-weight: 600; white-space: nowrap }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap }
.text { overflow-wrap: anywhere; white-space: pre-wrap }
.bar { width: 40% } .bar i { display: block; height: .9rem; margin-top: .3rem; background: var(--one); border-radius: 2px }
.settings td:first-child { width: 40%; min-width: 10rem; overflow-wrap: anywhere }
.wide { overflow-x: auto }
code { font: .9em/1.4 ui-monospace, monospace; overflow-wrap: anywhere; white-space: pre-wrap }
svg { width: 100%; height: auto; display: block }
footer { margin-top: 2rem; font-size: .85rem }
"""
