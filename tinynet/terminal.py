"""Curves in a terminal: each character is two columns of four dots (Unicode's Braille patterns)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from math import isfinite, log10

Points = Sequence[tuple[float, float]]

_DOTS = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))  # column, row from above: the bit after U+2800
_MARGIN = 10  # characters of a number with four digits


def curve(points: Points, width: int, height: int, right: float | None = None) -> list[str]:
    """A plot of (x, y) ``points``, x rising, as ``height`` lines of ``width`` characters, the last of which is the axis.

    The axis goes from the first x to the last, or to ``right``. A column of dots shows the mean of the points in it; the
    largest and the least of these means are written at the left. The scale is logarithmic if they are positive and more
    than a factor of 100 apart. Points that are not finite are left out. No lines if none remains, or in less than 20 × 3
    characters.
    """
    points = [(x, y) for x, y in points if isfinite(x) and isfinite(y)]
    if not points or width < 20 or height < 3:
        return []
    begin, end = points[0][0], points[-1][0] if right is None else right
    columns, rows = 2 * (width - _MARGIN - 2), 4 * (height - 1)
    by_column: dict[int, list[float]] = {}
    for x, y in points:
        share = min(max((x - begin) / (end - begin), 0.0), 1.0) if end > begin else 0.0
        by_column.setdefault(round(share * (columns - 1)), []).append(y)
    means = {column: sum(ys) / len(ys) for column, ys in by_column.items()}
    low, high = min(means.values()), max(means.values())
    scale = log10 if low > 0 and high > 100 * low else float
    span = scale(high) - scale(low)
    dots = {
        column: round((rows - 1) * (scale(high) - scale(y)) / span) if span else rows - 1 for column, y in means.items()
    }
    cells = [[0x2800] * (columns // 2) for _ in range(height - 1)]
    for column, row in _joined(dots):
        cells[row // 4][column // 2] |= _DOTS[column % 2][row % 4]
    labels = [f"{high:#.4g}", *[""] * (height - 3), f"{low:#.4g}"]
    lines = [
        f"{label:>{_MARGIN}} {'┤' if label else '│'}{''.join(map(chr, line))}"
        for label, line in zip(labels, cells, strict=True)
    ]
    first, last = f"{begin:,.0f}", f"{end:,.0f}"
    rule = "─" * max(columns // 2 - len(first) - len(last) - 2, 0)
    return [*lines, f"{'':>{_MARGIN}} └{first} {rule} {last}"[:width]]


def _joined(dots: dict[int, int]) -> Iterator[tuple[int, int]]:
    """Column and row of the dots and of those in between, so that they form a line."""
    placed = sorted(dots.items())
    yield placed[0]
    for (left, above), (column, row) in pairwise(placed):
        slope = (row - above) / (column - left)
        for c in range(left + 1, column + 1):
            before, now = round(above + slope * (c - 1 - left)), round(above + slope * (c - left))
            step = 1 if now >= before else -1
            yield c, now
            yield from ((c, r) for r in range(before + step, now, step))
