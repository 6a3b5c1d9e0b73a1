"""What graphs, products and copies ask of a device, said to CuPy. The only file here that knows it."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

import numpy as np
from tinynet_backends.cuda.memory import Room

Array = Any
_ROWS = 128  # calls whose numbers may be on their way to the device at once
_SHORT = 5e-3  # seconds, of which the host may need most to queue what is small
_AGAIN = 8  # times in a graph, at most


class Runtime:
    """One device. Whoever calls has made it the current one."""

    def __init__(self, cp: Any, number: int) -> None:
        self.cp, self.number = cp, number
        device = cp.cuda.Device(number)
        total = int(device.mem_info[1])
        # Bytes that a block may have for fused layers: none where copies to shared memory cannot go on beside other work
        able = int(device.compute_capability) >= 80
        self.shared_memory = int(device.attributes["MaxSharedMemoryPerBlockOptin"]) if able else 0
        self.room = Room(OnDevice(cp.get_default_memory_pool(), device), total)
        self._rings = threading.local()
        self._beside = threading.local()

    # Arrays --------------------------------------------------------------------------------------------------------

    def empty(self, shape: tuple[int, ...], dtype: Any, pool: Any = None) -> Array:
        if pool is None:
            return self.cp.empty(shape, dtype)
        with self.cp.cuda.using_allocator(pool.malloc):
            return self.cp.empty(shape, dtype)

    def owns(self, a: Any) -> bool:
        return isinstance(a, self.cp.ndarray) and a.device.id == self.number

    def address(self, a: Array) -> int:
        return int(a.data.ptr)

    # Streams and graphs --------------------------------------------------------------------------------------------

    def stream(self) -> int:
        return int(self.cp.cuda.get_current_stream().ptr)

    def capturing(self) -> bool:
        stream = self.cp.cuda.get_current_stream()
        return stream.ptr > 2 and bool(stream.is_capturing())  # 0 to 2 are the default streams, which cannot be

    def new_pool(self) -> Any:
        pool = Pool(self.cp.cuda, self.number)
        self.room.add(pool)
        return pool

    @contextmanager
    def capture(self, pool: Any) -> Iterator[list[Any]]:
        """Capture what is queued inside; gives a list that holds the graph afterwards. It is ended in any case."""
        made: list[Any] = []
        stream = self.cp.cuda.Stream(non_blocking=True)
        with self.cp.cuda.using_allocator(pool.malloc), stream:
            stream.begin_capture()
            try:
                yield made
            except BaseException:
                with suppress(RuntimeError):  # the capture is invalid, and ended all the same
                    stream.end_capture()
                raise
            made.append(stream.end_capture())
        self.room.share()

    @contextmanager
    def beside(self) -> Iterator[None]:
        """What is queued inside runs beside what is queued after it, until `join`: on a stream that waits for all that came
        before. Arrays that both have to do with must be kept until then."""
        if not hasattr(self._beside, "stream"):
            self._beside.stream, self._beside.begun, self._beside.ended = self.new_stream(), self.event(), self.event()
        side = self._beside.stream
        self.record(self._beside.begun)
        self.wait(self._beside.begun, side)
        with side:
            yield

    def join(self) -> None:
        """What is queued from now on waits for all that is queued beside it."""
        self.record(self._beside.ended, self._beside.stream)
        self.wait(self._beside.ended)

    def launch(self, graph: Any) -> None:
        graph.launch()

    def copy(self, to: Array, what: Array) -> None:
        if to.dtype == what.dtype and to.flags.c_contiguous and what.flags.c_contiguous:
            runtime = self.cp.cuda.runtime  # CuPy's own copies leave it to the driver to find out what lies where
            runtime.memcpyAsync(
                to.data.ptr,
                what.data.ptr,
                to.nbytes,
                runtime.memcpyDeviceToDevice,
                self.cp.cuda.get_current_stream().ptr,
            )
        else:
            self.cp.copyto(to, what)

    def send(self, to: Array, numbers: Sequence[float]) -> None:
        """Numbers as float64 bits to ``to[0]``, whole ones as words to ``to[1]``; the host does not wait."""
        rings: dict[Any, _Ring] = self._rings.__dict__
        ring = rings.get(len(numbers))
        if ring is None:
            ring = rings[len(numbers)] = _Ring(self, len(numbers))
        row = ring.next()
        self.wait_on_host(row.sent)
        row.reals[:] = numbers
        row.words[:] = [a % 2**64 if type(a) is int else 0 for a in numbers]
        to.data.copy_from_host_async(row.address, row.size)
        self.record(row.sent)

    # Copies from the host --------------------------------------------------------------------------------------------

    def pinned(self, shape: tuple[int, ...], dtype: Any) -> Any:
        import cupyx

        return cupyx.empty_pinned(shape, dtype)

    def event(self) -> Any:
        return self.cp.cuda.Event(disable_timing=True)

    def new_stream(self) -> Any:
        return self.cp.cuda.Stream(non_blocking=True)

    def record(self, event: Any, stream: Any = None) -> None:
        event.record(stream)

    def wait(self, event: Any, stream: Any = None) -> None:
        """What is queued from now on waits for the event."""
        (stream or self.cp.cuda.get_current_stream()).wait_event(event)

    def wait_on_host(self, event: Any) -> None:
        if not event.done:
            event.synchronize()

    def copy_from_pinned(self, to: Array, host: Any, stream: Any = None) -> None:
        to.data.copy_from_host_async(host.ctypes.data, host.nbytes, stream or self.cp.cuda.get_current_stream())

    # Clock and names -------------------------------------------------------------------------------------------------

    def seconds(self, run: Callable[[], None]) -> float:
        """Seconds that the device takes for ``run``: the least of a few times, after one that does not count.

        What is short is launched as a graph, as in a step: by itself it takes as long as the host needs to queue it.
        """
        run()
        once = self._least(run, 1)
        if once > _SHORT:
            return min(once, self._least(run, 2))
        again = 1 + int(min(_AGAIN - 1, _SHORT / max(once, 1e-6)))
        pool = Pool(self.cp.cuda, self.number)
        with self.capture(pool) as made:
            for _ in range(again):
                run()
        return self._least(made[0].launch, 4) / again

    def _least(self, run: Callable[[], None], times: int) -> float:
        cuda = self.cp.cuda
        begin, end, least = cuda.Event(), cuda.Event(), float("inf")
        for _ in range(times):
            begin.record()
            run()
            end.record()
            end.synchronize()
            least = min(least, cuda.get_elapsed_time(begin, end) / 1e3)
        return least

    def machine(self) -> dict[str, Any]:
        """What timings depend on."""
        runtime = self.cp.cuda.runtime
        name = runtime.getDeviceProperties(self.number)["name"].decode()
        return {"gpu": name, "driver": int(runtime.driverGetVersion())}


class OnDevice:
    """What one of CuPy's pools has on a device: CuPy takes any question for one about the current device."""

    def __init__(self, pool: Any, device: Any) -> None:
        self._pool, self._device = pool, device

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def ask(**options: int) -> Any:
            with self._device:
                return getattr(self._pool, name)(**options)

        return ask


class Pool:
    """Memory of a graph's own. It lives as long as anything allocated from it: CuPy's pool alone would not."""

    def __init__(self, cuda: Any, device: int) -> None:
        self._cuda, self._device, self._pool = cuda, device, cuda.MemoryPool()
        there = OnDevice(self._pool, cuda.Device(device))
        self.set_limit, self.total_bytes = there.set_limit, there.total_bytes

    def malloc(self, size: int) -> Any:
        """CuPy's protocol of an allocator."""
        found = self._pool.malloc(size)
        owned = self._cuda.UnownedMemory(found.ptr, size, (found, self), self._device)
        return self._cuda.MemoryPointer(owned, 0)


class _Row(NamedTuple):
    """Page-locked memory that numbers are sent from, and the event after which it is free again."""

    reals: Any
    words: Any
    address: int
    size: int
    sent: Any


class _Ring:
    """Rows for so many numbers, in turns."""

    def __init__(self, runtime: Runtime, count: int) -> None:
        memory = runtime.pinned((_ROWS, 2, count), np.uint64)
        self._rows = [
            _Row(row[0].view(np.float64), row[1], row.ctypes.data, row.nbytes, runtime.event()) for row in memory
        ]
        self._next = 0
        for row in self._rows:  # page-locked memory goes back to a pool that waits for no stream
            weakref.finalize(self, runtime.wait_on_host, row.sent).atexit = False

    def next(self) -> _Row:
        n, self._next = self._next, (self._next + 1) % _ROWS
        return self._rows[n]
