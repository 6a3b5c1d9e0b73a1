"""What graphs, products and copies need of a device, by CuPy: the only file here that knows it."""

from __future__ import annotations

import ctypes as C
import sys
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

import numpy as np
from tinynet_backends.backend import Array
from tinynet_backends.cuda.memory import DeviceMemory

_ROWS = 128  # calls whose numbers may be in flight to the device at once
_SHORT = 5e-3  # seconds up to which the time to queue work on the host may dominate
_AGAIN = 8  # repetitions in a graph, at most
_LOAD = 8e-3  # seconds of a load that lasts
_memories: dict[tuple[int, int], DeviceMemory] = {}
_making = threading.Lock()


class Runtime:
    """One device, which callers have made the current one."""

    def __init__(self, cp: Any, number: int) -> None:
        self.cp, self.number = cp, number
        device = cp.cuda.Device(number)
        # bytes that a block may have if its kernel opts in
        self.shared_memory = int(device.attributes["MaxSharedMemoryPerBlockOptin"])
        main = cp.get_default_memory_pool()
        with _making:  # one for all backends of a device, whatever their precision
            self.device_memory = _memories.get((id(main), number)) or DeviceMemory(OnDevice(main, device), device)
            _memories[id(main), number] = self.device_memory  # which keeps the pool, so that no other has its id
        self._rings = threading.local()
        self._beside = threading.local()

    # Arrays --------------------------------------------------------------------------------------------------------

    def empty(self, shape: tuple[int, ...], dtype: Any, pool: Any = None) -> Array:
        if pool is None:
            return self.cp.empty(shape, dtype)
        with self.cp.cuda.using_allocator(pool.malloc):
            return self.cp.empty(shape, dtype)

    def array(self, a: Any, pool: Any) -> Array:
        """A copy of an array of the host."""
        with self.cp.cuda.using_allocator(pool.malloc):
            return self.cp.asarray(a)

    def owns(self, a: Any) -> bool:
        return isinstance(a, self.cp.ndarray) and a.device.id == self.number

    def address(self, a: Array) -> int:
        return int(a.data.ptr)

    # Streams and graphs --------------------------------------------------------------------------------------------

    def stream(self) -> int:
        return int(self.cp.cuda.get_current_stream().ptr)

    def capturing(self) -> bool:
        stream = self.cp.cuda.get_current_stream()
        return stream.ptr > 2 and bool(stream.is_capturing())  # 0 to 2 are the default streams, which cannot capture

    def new_pool(self) -> Any:
        pool = Pool(self.cp.cuda, self.number)
        self.device_memory.add(pool)
        return pool

    @contextmanager
    def capture(self, pool: Any) -> Iterator[list[Any]]:
        """Capture what is queued inside; yields a list that holds the graph afterwards. The capture always ends."""
        graphs: list[Any] = []
        stream = self.cp.cuda.Stream(non_blocking=True)
        with self.cp.cuda.using_allocator(pool.malloc), stream:
            stream.begin_capture()
            try:
                yield graphs
            except BaseException:
                with suppress(RuntimeError):  # the capture is invalid, but does end
                    stream.end_capture()
                raise
            graphs.append(stream.end_capture())
        self.device_memory.share()

    @contextmanager
    def beside(self) -> Iterator[None]:
        """Queue on a side stream, which waits for all work before, and runs concurrently with later work until `join`.

        Arrays that both streams use must be kept alive until then.
        """
        if not hasattr(self._beside, "stream"):
            self._beside.stream, self._beside.begun, self._beside.ended = self.new_stream(), self.event(), self.event()
        side = self._beside.stream
        self.record(self._beside.begun)
        self.wait(self._beside.begun, side)
        with side:
            yield

    def join(self) -> None:
        """Make later work wait for the side stream."""
        self.record(self._beside.ended, self._beside.stream)
        self.wait(self._beside.ended)

    def launch(self, graph: Any) -> None:
        graph.launch()

    def nodes(self, graph: Any) -> int:
        """How many launches and copies a graph consists of; -1 if the driver does not say."""
        count = C.c_size_t()
        try:
            driver = C.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
            failed = driver.cuGraphGetNodes(C.c_void_p(graph.graph), None, C.byref(count))
        except (OSError, AttributeError):
            return -1
        return -1 if failed else count.value

    def copy(self, to: Array, what: Array) -> None:
        if not to.size:
            return
        if to.dtype == what.dtype and to.flags.c_contiguous and what.flags.c_contiguous:
            runtime = self.cp.cuda.runtime  # CuPy's own copies make the driver find out which memory is where
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
        """Numbers as float64 bits to ``to[0]``, ints as words to ``to[1]``; the host does not wait."""
        rings: dict[Any, _Ring] = self._rings.__dict__
        ring = rings.get(len(numbers))
        if ring is None:
            ring = rings[len(numbers)] = _Ring(self, len(numbers))
        row = ring.next()
        self.wait_on_host(row.sent)
        row.reals[:] = numbers
        row.words[:] = [a % 2**64 if type(a) is int else 0 for a in numbers]
        runtime, stream = self.cp.cuda.runtime, self.cp.cuda.get_current_stream()
        # CuPy's own copies ask the driver first whether a graph is being captured
        runtime.memcpyAsync(to.data.ptr, row.address, row.size, runtime.memcpyHostToDevice, stream.ptr)
        self.record(row.sent, stream)

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
        """Make later work wait for the event."""
        (stream or self.cp.cuda.get_current_stream()).wait_event(event)

    def wait_on_host(self, event: Any) -> None:
        if not event.done:
            event.synchronize()

    def copy_from_pinned(self, to: Array, host: Any, stream: Any) -> None:
        to.data.copy_from_host_async(host.ctypes.data, host.nbytes, stream)

    # Clock and names -------------------------------------------------------------------------------------------------

    def seconds(self, run: Callable[[], None]) -> float:
        """Seconds that the device takes for ``run``: the minimum of a few runs after a warm-up.

        Short work is launched as a graph, as in a step: otherwise the host's time to queue it is measured. It is, if the main
        pool has left no memory for a graph.
        """
        run()
        once = self._least(run, 1)
        if once > _SHORT:
            return min(once, self._least(run, 2))
        again = 1 + int(min(_AGAIN - 1, _SHORT / max(once, 1e-6)))
        pool = Pool(self.cp.cuda, self.number)
        self.device_memory.bound(pool)
        try:
            with self.capture(pool) as graphs:
                for _ in range(again):
                    run()
        except MemoryError:
            return min(once, self._least(run, 4))
        return self._least(graphs[0].launch, 4) / again

    def seconds_under_load(self, run: Callable[[], None]) -> float:
        """The mean over many runs after as many others, for long work: its power, not only the clock, is what limits it."""
        run()
        again = 1 + int(_LOAD / max(self._least(run, 1), 1e-6))

        def series() -> None:
            for _ in range(again):
                run()

        series()
        return self._least(series, 1) / again

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
    """One of CuPy's pools, on one device: CuPy itself answers for the current device."""

    def __init__(self, pool: Any, device: Any) -> None:
        self._pool, self._device = pool, device

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def ask(**options: int) -> Any:
            with self._device:
                return getattr(self._pool, name)(**options)

        return ask


class _Blocks:
    """The blocks of a pool, all of which stay until the pool goes.

    A captured step has freed some of them, which its graph still uses; and CuPy's pool returns what is free to the device when
    memory runs out.
    """

    def __init__(self, cuda: Any) -> None:
        self._cuda, self._held = cuda, list[Any]()
        self.limit = self.total = 0

    def take(self, size: int) -> Any:
        """CuPy's allocator protocol."""
        if self.limit and size > self.limit - self.total:
            raise MemoryError(f"{size} bytes are over the limit of {self.limit}, of which {self.total} are taken")
        memory = self._cuda.Memory(size)
        self._held.append(memory)
        self.total += size
        return self._cuda.MemoryPointer(memory, 0)


class Pool:
    """The memory of a graph. It lives as long as anything allocated from it, which CuPy's pool alone would not."""

    def __init__(self, cuda: Any, device: int) -> None:
        self._cuda, self._device, self._blocks = cuda, device, _Blocks(cuda)
        self._pool = cuda.MemoryPool(self._blocks.take)
        OnDevice(self._pool, cuda.Device(device)).set_limit(size=0)  # none of its own

    def set_limit(self, size: int) -> None:
        self._blocks.limit = size

    def total_bytes(self) -> int:
        return self._blocks.total

    def malloc(self, size: int) -> Any:
        """CuPy's allocator protocol."""
        memory = self._pool.malloc(size)
        owned = self._cuda.UnownedMemory(memory.ptr, size, (memory, self), self._device)
        return self._cuda.MemoryPointer(owned, 0)


class _Row(NamedTuple):
    """Page-locked memory from which numbers are sent, and the event after which it is free again."""

    reals: Any
    words: Any
    address: int
    size: int
    sent: Any


class _Ring:
    """Rows of ``count`` numbers, used in turn."""

    def __init__(self, runtime: Runtime, count: int) -> None:
        memory = runtime.pinned((_ROWS, 2, count), np.uint64)
        self._rows = [
            _Row(row[0].view(np.float64), row[1], row.ctypes.data, row.nbytes, runtime.event()) for row in memory
        ]
        self._next = 0
        for row in self._rows:  # page-locked memory is returned to a pool that waits for no stream
            weakref.finalize(self, runtime.wait_on_host, row.sent).atexit = False

    def next(self) -> _Row:
        n, self._next = self._next, (self._next + 1) % _ROWS
        return self._rows[n]
