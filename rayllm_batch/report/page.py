"""The report as one HTML page: no script, nothing from the network, light or dark as the browser is."""

from __future__ import annotations

import time
from pathlib import Path

from rayllm_batch.measures.failures import stage_of
from rayllm_batch.measures.history import History
from rayllm_batch.measures.metrics import RunMetrics
from rayllm_batch.measures.row_stats import RowStats
from rayllm_batch.report import plots
from rayllm_batch.report.verdict import percent, verdict
from rayllm_batch.show.status import duration

Table = list[tuple[str, str]]


def page(
    title: str, *, metrics: RunMetrics, history: History, stats: RowStats, settings: dict[str, Table], engines: str
) -> str:
    """From the template beside this file. settings: tables by their headings. engines: what they are called, "GPUs"."""
    import jinja2

    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(n="{:,.0f}".format, seconds="{:,.1f} s".format, percent=percent, duration=_duration)
    return environment.from_string(Path(__file__).with_suffix(".html").read_text(encoding="utf-8")).render(
        title=title,
        metrics=metrics,
        stats=stats,
        settings=settings,
        stage_of=stage_of,
        began=time.strftime("%Y-%m-%d %H:%M:%S %Z", time.localtime(history.began)),
        verdict=verdict(metrics, history, engines),
        failed=", ".join(f"{rows:,} {stage}" for stage, rows in metrics.failed_by_kind.items()),
        timeline=plots.timeline(history),
        lengths=plots.lengths(stats.input_lengths, stats.output_lengths),
    )


def _duration(seconds: float) -> str:
    return f"{seconds:,.1f} s" if seconds < 120 else duration(seconds)
