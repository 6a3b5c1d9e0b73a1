"""Copies of weights in bfloat16 that stay: an update of weights writes their copies, too.

Otherwise each step would read all weights once more, only to round them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from tinynet_backends.backend import Array
from tinynet_backends.cuda.plan import padded


class Copies:
    """The copies of ``vectors``, (p,) float32 each: none until a product asks for a matrix in it, then of the whole vector.

    ``make(vector)`` is that copy, (p,), of the vector as it is before the step. It remains true because every update writes what
    `changed` gives; of a vector that is updated before a product asks, there is no copy.
    """

    def __init__(
        self, vectors: Iterable[Array], address: Callable[[Array], int], make: Callable[[Array], Array]
    ) -> None:
        self._address, self._make = address, make
        self._vectors = [*vectors]
        self._made: dict[int, Array | None] = {}  # by the index of the vector

    def operand(self, w: Array) -> Array | None:
        """The copy of ``w`` (i, o) or (o,), as an operand of products; None if that would have to be aligned or padded."""
        number, start = self._place(w)
        if number < 0 or any(size != padded(size) for size in (start, *w.shape)):
            return None
        if number not in self._made and w.ndim == 2:  # a bias alone is not worth it
            self._made[number] = self._make(self._vectors[number])
        copy = self._made.get(number)
        return None if copy is None else copy[start : start + w.size].reshape(w.shape)

    def changed(self, a: Array) -> Array | None:
        """The copy of ``a``, which is about to be updated, if there is one."""
        number, start = self._place(a)
        copy = self._made.setdefault(number, None)
        return None if copy is None else copy[start : start + a.size].reshape(a.shape)

    def _place(self, a: Array) -> tuple[int, int]:
        """The index of the vector in which ``a`` lies, -1 for none, and where it begins there."""
        for number, vector in enumerate(self._vectors):
            start = (self._address(a) - self._address(vector)) // vector.itemsize
            if a.dtype == vector.dtype and 0 <= start <= vector.size - a.size:
                return number, start
        return -1, 0
