"""Host arrays on their way to a device: through page-locked memory, on a stream of their own, while steps run.

There are two places for each array of a batch. While a step reads one, the next batch is copied to the other.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

Array = Any
PLACES = 2


class _Place:
    """Page-locked memory and device memory for one array, and when each is free again."""

    def __init__(self, runtime: Any, shape: tuple[int, ...], dtype: Any) -> None:
        self.host, self.device = runtime.pinned(shape, dtype), runtime.empty(shape, dtype)
        self.copied, self.used = runtime.event(), runtime.event()
        # page-locked memory goes back to a pool that waits for no stream
        weakref.finalize(self, runtime.wait_on_host, self.copied).atexit = False


class Staging:
    """Batches of host arrays to a device. What reads the arrays that ``put`` gives is queued before its next call.

    ``runtime`` has pinned memory, events and streams (`cuda.runtime`); the stream of the caller is where batches are
    used.
    """

    def __init__(self, runtime: Any) -> None:
        self.runtime = runtime
        self.stream = runtime.new_stream()
        self._places: list[dict[int, _Place]] = [{} for _ in range(PLACES)]
        self._turn = 0

    def put(self, arrays: Sequence[Array | None]) -> list[Array | None]:
        """The arrays (NumPy's, or None) on the device, in order on the caller's stream."""
        rt = self.runtime
        for last in self._places[self._turn].values():
            rt.record(last.used)  # all that reads the last batch has been queued by now
        self._turn = (self._turn + 1) % PLACES
        places = self._places[self._turn]
        result: list[Array | None] = []
        for n, a in enumerate(arrays):
            if a is None:
                result.append(None)
                continue
            found = places.get(n)
            if found is None or found.host.shape != a.shape or found.host.dtype != a.dtype:
                found = places[n] = _Place(rt, a.shape, a.dtype)
                rt.record(found.used)  # the memory may come from something that was queued before
            rt.wait_on_host(found.copied)  # the copy before last still reads this memory
            found.host[...] = a
            rt.wait(found.used, self.stream)
            rt.copy_from_pinned(found.device, found.host, self.stream)
            rt.record(found.copied, self.stream)
            rt.wait(found.copied)
            result.append(found.device)
        return result
