"""A picture of a results file: times of the contenders, and how many times faster we are than each."""

from __future__ import annotations

from pathlib import Path
from textwrap import fill
from typing import Any

from benchmarks.comparison import REFERENCES, Comparison, is_ours

# Okabe, Ito 2008: told apart by colour-blind eyes too
OURS = ("#0072B2", "#56B4E9")
THEIRS = ("#E69F00", "#D55E00", "#009E73", "#CC79A7", "#F0E442")
GREY = "#999999"


def colours(names: list[str]) -> dict[str, str]:
    """Blues are ours, grey is what we stand on, the rest are peers; among ourselves we have all colours."""
    alone = all(map(is_ours, names))
    mine, theirs = iter(((*OURS, *THEIRS) if alone else OURS) * 9), iter(THEIRS * 9)
    return {n: next(mine) if is_ours(n) else GREY if n in REFERENCES else next(theirs) for n in names}


def _bars(axes: Any, comparisons: list[Comparison], palette: dict[str, str]) -> None:
    """Groups of bars, each with the whisker of its spread; a contender that is not there takes no room."""
    from matplotlib.ticker import EngFormatter

    for place, c in enumerate(comparisons):
        names = [name for name in palette if c.times.get(name)]
        width = 0.84 / max(len(names), 1)
        for number, name in enumerate(names):
            middle, (low, high) = c.median(name), c.spread(name)
            x = place + (number - (len(names) - 1) / 2) * width
            axes.bar(x, middle, 0.92 * width, color=palette[name], label=name)
            axes.errorbar(x, middle, [[middle - low], [high - middle]], color="#333333", linewidth=0.8, capsize=1.5)
    axes.set(yscale="log", title="Time (lower is better)")
    _ticks(axes, EngFormatter("s"))


def _ratios(axes: Any, comparisons: list[Comparison], palette: dict[str, str]) -> None:
    """For each of ours a bar to the best peer, upwards where we are faster."""
    mine = [name for name in palette if is_ours(name)]
    width = 0.84 / max(len(mine), 1)
    for place, c in enumerate(comparisons):
        for number, name in enumerate(mine):
            ratio = c.against_best(name) if c.times.get(name) else None
            if ratio is None:
                continue
            x = place + (number - (len(mine) - 1) / 2) * width
            axes.bar(x, ratio - 1, 0.92 * min(width, 0.42), bottom=1, color=palette[name])
            side, gap = ("bottom", 3) if ratio >= 1 else ("top", -3)
            axes.annotate(
                f"{ratio:.2f}", (x, ratio), (0, gap), textcoords="offset points", ha="center", va=side, fontsize=9
            )
    axes.axhline(1, color="#333333", linewidth=0.8)
    axes.set(yscale="log", ylabel="best peer's time / ours", title="Ratio (above 1 we are faster)")
    axes.margins(y=0.2)
    _ticks(axes, "{x:g}")


def _ticks(axes: Any, formatter: Any) -> None:
    """A logarithmic axis with ticks at 1, 2, 5, 10, …"""
    from matplotlib.ticker import LogLocator, NullLocator

    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(formatter)
    axes.yaxis.set_minor_locator(NullLocator())


def draw(saved: dict[str, Any], path: str | Path) -> None:
    """A picture of the first section: times and, if there are peers, ratios. ImportError without matplotlib."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    title, rows = next(iter(saved["sections"].items()))
    comparisons = [Comparison.from_json(row) for row in rows]
    palette = colours(list(dict.fromkeys(name for c in comparisons for name in c.times)))
    width = max(7.0, 2.1 * len(comparisons))  # inches; of text at most about ten letters fit into one
    panels = (_bars,) if all(map(is_ours, palette)) else (_bars, _ratios)
    figure = Figure(figsize=(width, 2.5 + 2.5 * len(panels)), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    found = figure.subplots(len(panels), 1, sharex=True, height_ratios=(3, 2)[: len(panels)], squeeze=False)[:, 0]
    for axes, panel in zip(found, panels, strict=True):
        panel(axes, comparisons, palette)
        axes.grid(axis="y", alpha=0.3)
        axes.set_axisbelow(True)
    upper, lower = found[0], found[-1]
    labels = [c.label.replace(" × ", "\n× ").replace(", ", ",\n") for c in comparisons]
    lower.set_xticks(range(len(comparisons)), labels, fontsize=9)
    handles = dict(zip(*reversed(upper.get_legend_handles_labels()), strict=True))
    ordered = [name for name in palette if name in handles]
    columns = max(1, min(4, len(ordered), int(10 * width / (8 + max(map(len, ordered), default=1)))))
    figure.legend([handles[n] for n in ordered], ordered, loc="outside lower center", ncols=columns, frameon=False)
    machine = saved["machine"]
    where = machine.get("device") or f"{machine['cpu']}, {machine['cores']} cores"
    setting = f"{where} · {saved['date']}"
    one_line = len(title) + len(setting) < 10 * width
    figure.suptitle(f"{title} · {setting}" if one_line else f"{fill(title, int(10 * width))}\n{setting}", fontsize=11)
    figure.savefig(path)
