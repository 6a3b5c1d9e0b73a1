"""The step arena: steps are alike, so the n-th request of a step gets the n-th buffer of the last one.

It spares the operating system mapping and clearing the same pages at every step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate
from math import prod
from typing import Any

import numpy as np

Array = Any
_LINE, PAGE = 64, 4096  # bytes


def aligned(shape: tuple[int, ...], dtype: Any) -> Array:
    """A host array with arbitrary values; one of a page or more starts at a cache line.

    `numpy.empty` promises 16 bytes, and then a wide vector often spans two lines, and two threads of BLAS, each with
    rows of its own, write to the line between them. For a small array it would not pay.
    """
    size, dtype = prod(shape), np.dtype(dtype)
    if size * dtype.itemsize < PAGE:
        return np.empty(shape, dtype)
    buffer = np.empty(size * dtype.itemsize + _LINE, np.uint8)
    offset = -buffer.__array_interface__["data"][0] % _LINE
    return np.frombuffer(buffer.data, dtype, size, offset).reshape(shape)  # of the buffer, this part alone is its base


class Arena:
    """Buffers in the order in which a step asks for them. ``allocate(shape, dtype)`` makes a new one.

    No buffer is handed out twice between two calls of `rewind`. A request for another shape than last time (the last,
    smaller batch of an epoch) gets a view of the same bytes where they suffice, so that memory stays bounded by the
    largest step.
    """

    def __init__(self, allocate: Callable[[tuple[int, ...], Any], Array]) -> None:
        self.allocate = allocate
        self.slots: list[tuple[Array, Array]] = []  # what was handed out, and the array that has all its bytes
        self.next = 0
        self.gradients: list[Array] = []
        self.next_gradient = 0
        self._packed: dict[tuple[Any, ...], tuple[Array, list[Array]]] = {}

    def rewind(self) -> Arena:
        """Start over: every buffer may be handed out again."""
        self.next = self.next_gradient = 0
        return self

    def take(self, shape: tuple[int, ...], dtype: Any) -> Array:
        """A buffer of ``shape`` and ``dtype`` whose values are not set."""
        n, self.next = self.next, self.next + 1
        if n == len(self.slots):
            owner = self.allocate(shape, dtype)
            self.slots.append((owner, owner))
        view, owner = self.slots[n]
        if view.shape == shape and view.dtype == dtype:
            return view
        if owner.dtype == dtype and owner.size >= prod(shape):
            view = owner.reshape(-1)[: prod(shape)].reshape(shape)
        else:
            view = owner = self.allocate(shape, dtype)
        self.slots[n] = view, owner
        return view

    def taken(self) -> list[Array]:
        """All that `take` has handed out since `rewind`."""
        return [view for view, _ in self.slots[: self.next]]

    def take_gradient(self, shape: tuple[int, ...], dtype: Any) -> Array:
        """A buffer from a sequence of its own, for a gradient that `move` may give another place."""
        n, self.next_gradient = self.next_gradient, self.next_gradient + 1
        if n == len(self.gradients):
            self.gradients.append(self.allocate(shape, dtype))
        elif self.gradients[n].shape != shape or self.gradients[n].dtype != dtype:
            self.gradients[n] = self.allocate(shape, dtype)
        return self.gradients[n]

    def move(self, buffer: Array, place: Array) -> None:
        """Hand out ``place`` instead of ``buffer`` from now on, so that nothing has to be copied there."""
        for n, gradient in enumerate(self.gradients):
            if gradient is buffer:
                self.gradients[n] = place

    def places(self, vector: Array, shapes: Sequence[tuple[int, ...]]) -> list[Array]:
        """`cuts`, the same views at every step."""
        key = id(vector), *shapes
        if key not in self._packed:
            # the vector is kept too: no other array has its id as long as it lives
            self._packed[key] = vector, cuts(vector, shapes)
        return self._packed[key][1]


def cuts(vector: Array, shapes: Sequence[tuple[int, ...]]) -> list[Array]:
    """Views of a vector (..., p) as arrays of these shapes, one behind the other; they share its leading axes."""
    sizes = [prod(shape[vector.ndim - 1 :]) for shape in shapes]
    starts = accumulate(sizes, initial=0)
    return [vector[..., n : n + size].reshape(shape) for n, size, shape in zip(starts, sizes, shapes, strict=False)]
