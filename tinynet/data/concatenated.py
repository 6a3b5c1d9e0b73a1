"""Data sets joined end to end."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any

from tinynet_backends import Backend, get_backend

from tinynet.data.dataset import Batch, Dataset, Index


class Concatenated(Dataset):
    """Data sets joined end to end, such as the shards of a table.

    ValueError unless all have the same shape of samples, the same kind of target and the same columns and classes.
    """

    def __init__(self, parts: Sequence[Dataset]) -> None:
        if not parts:
            raise ValueError("no shards: give at least one")
        first = parts[0]
        for part in parts[1:]:
            if different := _difference(first, part):
                raise ValueError(f"{part!r} does not continue {first!r}: {different} differ")
        self.parts = list(parts)
        self.shape, self.outputs, self.columns = first.shape, first.outputs, first.columns
        self.classes = max(part.classes or 0 for part in parts) or None
        self.ordered = len(parts) > 1 or first.ordered  # of virtual sets, too: the samples of one are neighbours
        self.stored = any(p.stored for p in parts)
        self.on_host, self.depth = all(p.on_host for p in parts), max(p.depth for p in parts)
        ends = list(accumulate(part.n for part in parts))
        if ends[-1] > 2**62:
            raise ValueError(f"{ends[-1]} samples are too many: give at most 2**62 in all")
        self.ends, self.n = get_backend("numpy").asarray(ends, "int64"), ends[-1]

    def __repr__(self) -> str:
        return f"Concatenated({self.parts!r})"

    def fingerprint(self) -> str:
        return f"Concatenated({', '.join(part.fingerprint() for part in self.parts)})"

    def rows(self, index: Index, ops: Backend, dtype: str) -> Batch:
        if len(index) == 0:
            return self.parts[0].rows(index, ops, dtype)
        if isinstance(index, range):
            return _join([part.rows(rows, ops, dtype) for part, rows in self._overlaps(index)], ops)
        host = get_backend("numpy").xp
        which = host.searchsorted(self.ends, index, side="right")
        pieces = []
        for number in sorted(set(which.tolist())):
            part, end = self.parts[number], int(self.ends[number])
            pieces.append(part.rows(index[which == number] - (end - part.n), ops, dtype))
        by_part = host.argsort(which, stable=True)
        back = ops.asarray(host.argsort(by_part, stable=True))  # to the order that was asked for
        return _join(pieces, ops).map(lambda a: ops.xp.take(a, back, axis=0))

    def _overlaps(self, index: range) -> Iterator[tuple[Dataset, range]]:
        """The parts that ``index`` touches, each with its own indices of those samples."""
        for part, end in zip(self.parts, self.ends.tolist(), strict=True):
            first = end - part.n
            start, stop = max(index.start, first), min(index.stop, end)
            if start < stop:
                yield part, range(start - first, stop - first)

    def check(self, check: Any, ops: Backend, dtype: str) -> None:
        for part in self.parts:
            part.check(check, ops, dtype)

    def check_dtype(self, dtype: str) -> None:
        for part in self.parts:
            part.check_dtype(dtype)


def _difference(a: Dataset, b: Dataset) -> str:
    """What keeps two data sets from being joined; empty if nothing does."""
    if a.shape != b.shape or (a.classes is None) != (b.classes is None):
        return "shapes or kinds of target"
    if a.columns and b.columns:
        if a.columns.features != b.columns.features:
            return "the columns of their features"
        if (b.outputs or 1) > 1 and a.columns.target != b.columns.target:
            return "the columns of their targets"
    if class_names(a) != class_names(b):
        return "the classes that their targets name"
    return "numbers of outputs" if a.outputs != b.outputs else ""


def class_names(data: Dataset) -> tuple[str, ...] | None:
    """The names of the classes of a table's target, in the order of their labels; None if they have none."""
    return data.columns.classes if data.columns else None


def _join(pieces: Sequence[Batch], ops: Backend) -> Batch:
    """Batches as one. Samples without a weight count as 1 beside others that have one."""
    if len(pieces) == 1:
        return pieces[0]
    xp = ops.xp
    x, y = (xp.concat(arrays, axis=0) for arrays in ([p.x for p in pieces], [p.y for p in pieces]))
    if all(p.weight is None for p in pieces):
        return Batch(x, y, None)
    weights = [
        xp.ones((p.x.shape[0],), dtype=p.x.dtype, device=ops.device) if p.weight is None else p.weight for p in pieces
    ]
    return Batch(x, y, xp.concat(weights, axis=0))
