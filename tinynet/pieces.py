"""Work in pieces, so that it takes little memory, or what it takes stays in a cache."""

from __future__ import annotations

from collections.abc import Iterator


def split_range(whole: range, size: int) -> Iterator[range]:
    """Ranges of ``size`` numbers, of which the last may have fewer."""
    return (whole[start : start + size] for start in range(0, len(whole), size))
