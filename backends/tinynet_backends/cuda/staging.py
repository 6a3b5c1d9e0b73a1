"""Transfer of host arrays to a device through page-locked memory, on a stream of its own, while steps run.

There are two places for each array of a batch. While a step reads one, the next batch is copied to the other.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

from tinynet_backends.backend import Array

PLACES = 2


class _Place:
    """Page-locked and device memory for one array, and the events after which each is free again."""

    def __init__(self, runtime: Any, shape: tuple[int, ...], dtype: Any) -> None:
        self.host, self.device = runtime.pinned(shape, dtype), runtime.empty(shape, dtype)
        self.copied, self.used = runtime.event(), runtime.event()
        # page-locked memory is returned to a pool that waits for no stream
        weakref.finalize(self, runtime.wait_on_host, self.copied).atexit = False


class Staging:
    """Batches of host arrays on a device. All that reads the arrays of one ``put`` must be queued before the next.

    ``runtime`` has pinned memory, events and streams (`cuda.runtime`); batches are used on the caller's stream.
    """

    def __init__(self, runtime: Any) -> None:
        self.runtime = runtime
        self.stream = runtime.new_stream()
        self._places: list[dict[int, _Place]] = [{} for _ in range(PLACES)]
        self._turn = 0

    def put(self, arrays: Sequence[Array | None]) -> list[Array | None]:
        """These arrays (NumPy's, or None) on the device, ready for work on the caller's stream."""
        rt = self.runtime
        for last in self._places[self._turn].values():
            rt.record(last.used)  # all that reads the last batch is queued by now
        self._turn = (self._turn + 1) % PLACES
        places = self._places[self._turn]
        result: list[Array | None] = []
        for n, a in enumerate(arrays):
            if a is None:
                result.append(None)
                continue
            place = places.get(n)
            if place is None or place.host.shape != a.shape or place.host.dtype != a.dtype:
                place = places[n] = _Place(rt, a.shape, a.dtype)
                rt.record(place.used)  # earlier work may still use this memory
            rt.wait_on_host(place.copied)  # the copy before last may still read this memory
            place.host[...] = a
            rt.wait(place.used, self.stream)
            rt.copy_from_pinned(place.device, place.host, self.stream)
            rt.record(place.copied, self.stream)
            rt.wait(place.copied)
            result.append(place.device)
        return result
