"""Samples chosen by index, and the stratified split."""

from __future__ import annotations

from typing import Any

from tinynet_backends import get_backend

from tinynet import checks, streams
from tinynet.data.dataset import Dataset, Index, Selection, label_pieces
from tinynet.data.digest import digest
from tinynet.data.sampling import SPLIT, permutation_keys


class Subset(Selection):
    """The samples ``index`` of another data set, in that order: whole numbers in a list or an array; they may repeat.

    IndexError for a number that is out of range, ValueError if there are none.
    """

    def __init__(self, whole: Dataset, index: Any) -> None:
        self._describe_like(whole)
        self.whole, self.index = whole, whole._indices(index)
        self.n = int(self.index.shape[0])
        if not self.n:
            raise ValueError("a subset of no samples: give the number of at least one")

    def __repr__(self) -> str:
        return f"{self.n} samples of {self.whole!r}"

    def _in_whole(self, index: Index) -> Index:
        return self.index[index.start : index.stop] if isinstance(index, range) else self.index[index]

    def fingerprint(self) -> str:
        return f"{self.whole.fingerprint()}[{digest([self.index])}]"


def stratified(data: Dataset, held_out: float, seed: int) -> tuple[Subset, Subset]:
    """A random split of ``data`` into a training set and a test set, with the same proportions of classes in both.

    A fraction ``held_out`` in (0, 1) of each class goes to the test set, to the nearest sample; at least one sample of each
    class stays in the training set. Data without classes are split at random. ``seed`` decides which samples; their order is
    kept. Memory takes 16 bytes per sample. ValueError if no sample would be held out.
    """
    part = checks.as_float(held_out)
    if part is None or not 0 < part < 1:
        raise ValueError(f"held_out {checks.short_repr(held_out)} is out of range: give a fraction in (0, 1)")
    host = get_backend("numpy")
    xp = host.xp
    strata = {0: host.arange(0, data.n)}
    if data.classes:
        y = xp.concat(list(label_pieces(data)))
        strata = {label: xp.nonzero(y == label)[0] for label in xp.unique_values(y).tolist()}
    out = xp.zeros(data.n, dtype=xp.bool)
    seed = streams.check_seed(seed)
    for number, members in strata.items():
        n = int(members.shape[0])
        count = min(int(n * part + 0.5), n - 1)
        if count > 0:
            keys = permutation_keys(seed, 0, SPLIT, number)
            out[members[host.permute(range(count), n, keys)]] = True
    if not bool(xp.any(out)):
        of = f" in {len(strata)} classes" * (len(strata) > 1)
        regression = " or, if the classes are numbers, say that the task is regression" * (len(strata) > 1)
        raise ValueError(f"held_out {held_out!r} is none of {data.n} samples{of}: give a larger fraction{regression}")
    return Subset(data, xp.nonzero(~out)[0]), Subset(data, xp.nonzero(out)[0])
