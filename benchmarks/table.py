"""Comparisons as Markdown tables: medians with their spread, and ratios to the peers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from statistics import median
from typing import Any

from benchmarks.comparison import REFERENCES, Comparison

UNITS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"))


def number(value: float) -> str:
    """Three digits, or all that stand before the point."""
    return f"{value:.3g}" if abs(value) < 999.5 else f"{value:.0f}"


def duration(seconds: float) -> str:
    """Three digits with a suitable unit: 2.35 ms."""
    size, unit = next(((size, unit) for size, unit in UNITS if seconds >= size), UNITS[-1])
    return f"{number(seconds / size)} {unit}"


def span(low: float, high: float) -> str:
    return f"{duration(low)} to {duration(high)}"


def _names(comparisons: Iterable[Comparison]) -> list[str]:
    """All contenders, in order of first appearance."""
    return list(dict.fromkeys(name for c in comparisons for name in c.times))


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _cell(c: Comparison, name: str) -> str:
    return f"{duration(c.median(name))} ({span(*c.spread(name))})" if c.times.get(name) else ""


def _ratios(c: Comparison, mine: list[str], peers: list[str]) -> Iterator[str]:
    for name in mine:
        for peer in peers:
            yield f"{c.ratio(peer, name):.2f}" if c.times.get(name) and c.times.get(peer) else ""
        best = c.against_best(name) if c.times.get(name) else None
        if len(peers) > 1:
            yield "" if best is None else f"**{best:.2f}**"


def brief(comparisons: list[Comparison]) -> str:
    """A row per comparison: the medians, and for each of ours the ratio to the best peer of each repeat."""
    names = _names(comparisons)
    # references that only some rows have are left out
    names = [n for n in names if n not in REFERENCES or all(n in c.times for c in comparisons)]
    mine = [n for n in names if any(n in c.ours and c.against_best(n) for c in comparisons)]
    lines = [_line(["", *names, *(f"**best peer / {m}**" for m in mine)])]
    lines += [_line(["---"] * (1 + len(names) + len(mine)))]
    for c in comparisons:
        cells = [duration(c.median(name)) if c.times.get(name) else "" for name in names]
        best = [c.against_best(name) if c.times.get(name) else None for name in mine]
        lines.append(_line([c.label, *cells, *("" if b is None else f"**{b:.2f}**" for b in best)]))
    return "\n".join(lines)


def times(comparisons: list[Comparison]) -> str:
    """A row per comparison: the times, then for each of ours the ratio to each peer and to the best of each repeat."""
    names = _names(comparisons)
    mine = [n for n in names if any(n in c.ours for c in comparisons)]
    peers = [n for n in names if any(n in c.peers for c in comparisons)]
    heads = [f"{p} / {m}" for m in mine for p in (*peers, *(["**best peer**"] if len(peers) > 1 else []))]
    lines = [_line(["", *names, *heads]), _line(["---"] * (1 + len(names) + len(heads)))]
    lines += [_line([c.label, *(_cell(c, name) for name in names), *_ratios(c, mine, peers)]) for c in comparisons]
    return "\n".join(lines)


def notes(comparisons: list[Comparison]) -> str:
    """A row per contender of each comparison: memory, the first step, accuracy, and whatever else it has noted."""
    kinds = list(dict.fromkeys(kind for c in comparisons for note in c.notes.values() for kind in note))
    if not kinds:
        return ""
    lines = [_line(["", "", *kinds]), _line(["---"] * (2 + len(kinds)))]
    for c in comparisons:
        for name, note in c.notes.items():
            lines.append(_line([c.label, name, *(number(note[k]) if k in note else "" for k in kinds)]))
    return "\n".join(lines)


def noted(comparisons: list[Comparison]) -> Iterator[str]:
    """`notes` as a table for each kind: a row per comparison, a column per contender."""
    names = _names(comparisons)
    for kind in dict.fromkeys(kind for c in comparisons for note in c.notes.values() for kind in note):
        lines = [_line([kind, *names]), _line(["---"] * (1 + len(names)))]
        for c in comparisons:
            found = [c.notes.get(name, {}).get(kind) for name in names]
            if any(value is not None for value in found):
                lines.append(_line([c.label, *("" if value is None else number(value) for value in found)]))
        yield "\n".join(lines)


def left_out(comparisons: list[Comparison]) -> str:
    """The contenders that are missing, once for each reason, and where."""
    reasons: dict[tuple[str, str], list[str]] = {}
    for c in comparisons:
        for reason in c.left_out.items():
            reasons.setdefault(reason, []).append(c.label)
    lines = [f"{name} is left out: {why} ({'; '.join(labels)})" for (name, why), labels in reasons.items()]
    return "\n\n".join(lines)


def repeats(saved: dict[str, Any]) -> str:
    """How many times each was measured, "3", or "1 to 3" in a file whose pieces differ."""
    rows = [row for rows in saved["sections"].values() for row in rows]
    counts = {len(times) for row in rows for times in row["times"].values()} or {saved["repeats"]}
    return " to ".join(map(str, sorted({min(counts), max(counts)})))


def control(saved: dict[str, Any]) -> str:
    """The median and extremes of the control's times in all turns of a file, or nothing if there are none."""
    found = [seconds for rows in saved["sections"].values() for row in rows for seconds in row.get("control", [])]
    return f"{duration(median(found))} ({span(min(found), max(found))})" if found else ""


def markdown(saved: dict[str, Any]) -> str:
    """A whole results file."""
    machine = saved["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in saved["versions"].items())
    parts = [
        f"{saved['what']}, {saved['date']}: {machine['cpu']}, {machine['cores']} cores, {machine['os']}; {versions}.",
        f"Threads: {saved['threads'] or 'all cores'}; {repeats(saved)} repeats in turns: median (fastest to slowest).",
    ]
    if "device" in machine:
        parts[0] = f"{parts[0][:-1]}; {machine['device']}."
    if said := control(saved):
        parts.append(f"Control: {said}.")
    for title, rows in saved["sections"].items():
        comparisons = [Comparison.from_json(row) for row in rows]
        parts += [f"**{title}**", times(comparisons), notes(comparisons), left_out(comparisons)]
    return "\n\n".join(part for part in parts if part)
