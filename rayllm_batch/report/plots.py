"""The report's plots, as SVG that stands in the page and takes its colours from it."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, Optional

from rayllm_batch.measures.history import History, Point
from rayllm_batch.measures.row_stats import bin_range

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Drawn in colours that nothing else has, which become the page's own: light or dark is the browser's to choose.
COLOURS = {f"--{name}": f"#0{n}0{n}0{n}" for n, name in enumerate(("fg", "muted", "grid", "one", "two", "three"), 1)}
FG, MUTED, GRID, ONE, TWO, THREE = COLOURS.values()
WIDTH_IN, HEIGHT_IN = 4.8, 2.3  # of one plot
MOST_SAMPLES = 240  # a line of more cannot be told from it at this width
BARS = 32
AXES = {"edgecolor": MUTED, "labelcolor": FG, "grid": True, "axisbelow": True}
TITLES = {"titlesize": 10.5, "titlelocation": "left", "titleweight": "bold", "titlecolor": FG}


def timeline(history: History, at_once: str = "max_num_seqs") -> str:
    """Plots of tokens a second, requests, KV cache and GPU use over the time of the run; "" where nothing is drawn.

    at_once: the setting that bounds an engine's requests.
    """
    step = -(-len(history.points) // MOST_SAMPLES)
    points = history.points[::-1][::step][::-1]  # the last one included
    if len(points) < 3:
        return ""
    first = ("output_tokens", "Output tokens/s") if points[-1].output_tokens else ("rows", "Rows/s")
    kinds: list[Callable[[Axes], None]] = [
        lambda axis: _draw_rates(axis, points, *first, TWO),
        lambda axis: _draw_rates(axis, points, "input_tokens", "Input tokens/s (of rows that are done)", ONE),
        lambda axis: _draw_requests(axis, points, at_once),
    ]
    if any(p.kv_cache_usage is not None or p.gpu_utilization is not None for p in points):
        kinds.append(lambda axis: _draw_use(axis, points))
    end_s = max(points[-1].time_s, 1.0)

    def drawn(number: int, kind: Callable[[Axes], None]) -> str:
        def draw(axis: Any) -> None:
            kind(axis)
            axis.set_ylim(bottom=0)
            axis.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}" if value == int(value) else f"{value:,.4g}")
            axis.set_xlabel("seconds since the run started")
            axis.set_xlim(0, end_s)
            _mark_phases(axis, history.phases, end_s, with_names=number == 1)

        return _drawn(f"timeline-{number}", draw)

    return _beside(drawn(number, kind) for number, kind in enumerate(kinds, start=1))


def lengths(input_lengths: dict[int, int], output_lengths: Optional[dict[int, int]]) -> str:
    """How long prompts and answers were, as histograms; "" without rows. output_lengths: None where none are."""
    if not input_lengths and not output_lengths:
        return ""
    given = [("prompt", input_lengths, "Prompt length", ONE)]
    if output_lengths is not None:
        given.append(("answer", output_lengths, "Answer length", TWO))
    return _beside(
        _drawn(f"lengths-{name}", partial(_draw_lengths, counts=counts, title=title, colour=colour))
        for name, counts, title, colour in given
    )


def _beside(plots: Iterable[str]) -> str:
    """As many in a row as the page has room for."""
    return f"<div class='plots'>{''.join(plots)}</div>"


def _draw_rates(axis: Axes, points: list[Point], name: str, title: str, colour: str) -> None:
    between = [(a, b) for a, b in zip(points, points[1:], strict=False) if b.time_s > a.time_s]
    rates = [(getattr(b, name) - getattr(a, name)) / (b.time_s - a.time_s) for a, b in between]
    axis.plot([(a.time_s + b.time_s) / 2 for a, b in between], rates, color=colour)
    axis.set_title(title)


def _draw_requests(axis: Any, points: list[Point], at_once: str) -> None:
    times = [point.time_s for point in points]
    axis.plot(times, [point.running for point in points], label="running")
    axis.plot(times, [point.waiting for point in points], label="waiting")
    if any(point.slots for point in points):
        slots = [point.slots or None for point in points]
        axis.plot(times, slots, label=at_once, color=MUTED, linestyle="--", linewidth=1)
    axis.set_title("Requests")
    _legend(axis)


def _draw_use(axis: Any, points: list[Point]) -> None:
    for name, label, colour in (("kv_cache_usage", "KV cache", ONE), ("gpu_utilization", "GPU", THREE)):
        told = [(point.time_s, getattr(point, name)) for point in points]
        if any(share is not None for _, share in told):
            percent = [None if share is None else 100 * share for _, share in told]
            axis.plot([at for at, _ in told], percent, label=label, color=colour)
    axis.set_ylim(0, 105)
    axis.set_title("In use, %")
    _legend(axis)


def _mark_phases(axis: Any, phases: dict[str, float], end_s: float, with_names: bool) -> None:
    """A line at each, with its name beside it above the plot, on a level where no other name is."""
    if phases.get("all engines ready") == phases.get("first engine ready"):
        named = {"first engine ready": "engine ready"}
        phases = {named.get(phase, phase): at for phase, at in phases.items() if phase != "all engines ready"}
    taken: list[list[tuple[float, float]]] = []  # of each level, from and to
    for phase, at in sorted(phases.items(), key=lambda item: item[1]):
        axis.axvline(at, color=MUTED, linestyle=":", linewidth=1)
        on_left, width = at > 0.7 * end_s, 0.019 * len(phase) * end_s
        start, end = (at - width, at) if on_left else (at, at + width)
        level = next((i for i, spans in enumerate(taken) if all(end < a or b < start for a, b in spans)), len(taken))
        taken[level:] = [[*(taken[level] if level < len(taken) else []), (start, end)], *taken[level + 1 :]]
        if with_names:
            place = {"xytext": (-3 if on_left else 3, 3 + 10 * level), "textcoords": "offset points", "va": "bottom"}
            style = {"ha": "right" if on_left else "left", "color": MUTED, "fontsize": 8.5}
            axis.annotate(phase, (at, 1), xycoords=("data", "axes fraction"), **place, **style)
    if with_names:
        axis.set_title(axis.get_title("left"), pad=8 + 10 * len(taken))


def _legend(axis: Axes) -> None:
    axis.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=3, borderaxespad=0.1, handlelength=1.2, columnspacing=1)


def _draw_lengths(axis: Axes, counts: dict[int, int], title: str, colour: str) -> None:
    axis.set_title(title)
    axis.set_xlabel("tokens")
    axis.set_ylabel("rows")
    if not counts:
        axis.text(0.5, 0.5, "none", ha="center", va="center", transform=axis.transAxes, color=MUTED)
        return
    edges, heights = bars(counts)
    widths = [b - a for a, b in zip(edges, edges[1:], strict=False)]
    axis.bar(edges[:-1], heights, width=widths, align="edge", color=colour)
    if _spans_octaves(edges[0], edges[-1]):
        axis.set_xscale("log")
        axis.minorticks_off()
        ticks = [10**e * m for e in range(7) for m in (1, 2, 5) if edges[0] <= 10**e * m <= edges[-1]]
        axis.set_xticks(ticks if len(ticks) <= 8 else [tick for tick in ticks if str(tick)[0] == "1"])
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axis.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axis.locator_params(axis="y", integer=True)


def bars(counts: dict[int, int]) -> tuple[list[float], list[float]]:
    """Edges and heights of a histogram's bars. The bins' rows are shared out among the bars that they overlap.

    The bars are equally wide; on a logarithmic axis where the longest is many times the shortest.
    """
    import numpy as np

    first, last = bin_range(min(counts))[0], bin_range(max(counts))[1]
    width = -(-(last - first) // BARS)  # whole tokens, or bars would hold unequally many lengths
    edges = np.arange(first, last + width, width, float)
    if _spans_octaves(first, last):
        edges = np.geomspace(max(first, 1), last, BARS + 1)
    numbers = sorted(counts)
    ends, rows = np.array([bin_range(number) for number in numbers]), np.array([counts[number] for number in numbers])
    after = np.cumsum(rows)
    below = np.interp(edges, ends.ravel(), np.column_stack([after - rows, after]).ravel())  # rows below each edge
    below[0] = 0  # answers of no tokens, which a logarithmic axis has no place for, are in its first bar
    return edges.tolist(), np.diff(below).tolist()


def _spans_octaves(first: float, last: float) -> bool:
    return last > 24 * max(first, 1) and last > 100


def _drawn(name: str, draw: Callable[[Axes], None]) -> str:
    import matplotlib
    from matplotlib.figure import Figure  # not pyplot, whose state is the notebook's

    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # a user's own style would bring colours that the page does not know
        matplotlib.rc("svg", fonttype="none", hashsalt=name)
        matplotlib.rc("font", family="sans-serif", size=9.5)
        matplotlib.rc("text", color=FG, parse_math=False)
        matplotlib.rc("xtick", color=MUTED, labelcolor=FG)
        matplotlib.rc("ytick", color=MUTED, labelcolor=FG)
        matplotlib.rc("axes", **AXES, **TITLES, prop_cycle=f"cycler('color', ['{ONE}', '{TWO}', '{THREE}'])")
        matplotlib.rc("axes.spines", top=False, right=False)
        matplotlib.rc("axes.grid", axis="y")
        matplotlib.rc("grid", color=GRID)
        matplotlib.rc("legend", frameon=False)
        matplotlib.rc("lines", linewidth=1.6)
        figure = Figure(figsize=(WIDTH_IN, HEIGHT_IN), layout="constrained")
        draw(figure.subplots())
        content = io.StringIO()
        figure.savefig(content, format="svg", transparent=True)
    return _for_the_page(content.getvalue(), name)


def _for_the_page(svg: str, name: str) -> str:
    """Without what only a file of its own needs, scaling with the page, with the page's colours and font."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    head = rf'<svg viewBox="\1" role="img" aria-label="{name}">'
    svg = re.sub(r'<svg [^>]*?viewBox="([^"]*)"[^>]*>', head, svg, count=1, flags=re.DOTALL)
    svg = re.sub(r'\bid="', f'id="{name}-', svg)  # two plots in one page must not share ids
    svg = svg.replace("url(#", f"url(#{name}-").replace('xlink:href="#', f'href="#{name}-')
    svg = re.sub(r"(font(?:-family)?: [^;\"']*)'[^;\"]*sans-serif", r"\1system-ui, sans-serif", svg)
    for variable, colour in COLOURS.items():
        svg = svg.replace(colour, f"var({variable})")
    return svg
