"""A fake CUDA device for tests: memory is an array, a stream a list of queued work, cublasLt the interpreter.

As on a device, work that is queued during a capture is recorded, and executed at each launch.
"""

import ctypes
import threading
import weakref
from contextlib import contextmanager
from typing import ClassVar

import cublaslt
import numpy as np
from tinynet_backends.cuda.lt import Algorithm
from tinynet_backends.cuda.memory import DeviceMemory
from tinynet_backends.cuda.plan import ALIGNED, SIZES, STORED

GUARD = 256  # bytes between two allocations, which nothing may write to
CODE = b"algorithm".ljust(64, b".")


class Pool:
    """A pool of allocations."""

    def __init__(self, runtime):
        self.runtime, self.bytes = runtime, 0


class Graph:
    def __init__(self, work):
        self.work, self.launches = work, 0


class Device:
    """CuPy's device, as far as a `DeviceMemory` uses it."""

    def __init__(self, total, free=None):
        self.mem_info = total if free is None else free, total


class MemoryPool:
    """CuPy's pool, as far as a `DeviceMemory` uses it."""

    def __init__(self, limit=0, used=0, total=0):
        self.limit, self.used, self.total, self.freed = limit, used, total, 0

    def get_limit(self):
        return self.limit

    def set_limit(self, size):
        assert size > 0, "0 means no limit"
        self.limit = size

    def used_bytes(self):
        return self.used

    def total_bytes(self):
        return self.total

    def free_all_blocks(self):
        self.freed += 1
        self.total = self.used


class Event:
    def __init__(self):
        self.count = self.reached = 0  # records queued, and reached


class Stream:
    """A queue of work, executed step by step on request, but not before the events that it waits for."""

    others: ClassVar[list] = []

    def __init__(self):
        self.queue = []
        Stream.others.append(self)

    def step(self):
        if not self.queue:
            return False
        what, *rest = self.queue[0]
        if what == "wait" and rest[0].reached < rest[1]:
            return False
        self.queue.pop(0)
        if what == "record":
            rest[0].reached = rest[1]
        elif what == "do":
            rest[0]()
        return True


class Runtime:
    """`cuda.runtime` on the host."""

    shared_memory = 227 << 10

    def __init__(self, size=1 << 23):
        memory = np.full(size + 256, 0xFF, "uint8")  # as floats NaN: what nothing wrote is noticed
        self.memory = memory[-memory.ctypes.data % 256 :][:size]
        self.next, self.lock = GUARD, threading.Lock()
        self.running = threading.local()
        self.clock = {}
        self.timed = self.under_load = 0
        self.graphs = weakref.WeakSet()
        self.pools = weakref.WeakSet()
        self.refuses = ""  # the error with which a capture ends
        self.launched = 0
        self.main = Stream()
        self.device_memory = DeviceMemory(MemoryPool(), Device(1 << 33))
        Stream.others.clear()
        self.copied = []
        # whether work of the side stream is delayed until `join`: its arrays must be of this memory
        self.puts_off = False
        self.late, self.aside = [], None  # delayed work of the side stream, and what is being queued there

    # Arrays

    def empty(self, shape, dtype, pool=None):
        dtype = np.dtype(dtype)
        size = int(np.prod(shape)) * dtype.itemsize
        with self.lock:
            start = self.next
            self.next = -(-(start + size + GUARD) // 256) * 256
        if self.next > self.memory.size:
            raise MemoryError("the fake device is full")
        return self.memory[start : start + size].view(dtype).reshape(shape)

    def array(self, x, pool=None):
        array = self.empty(x.shape, x.dtype)
        array[...] = x
        return array

    def owns(self, x):
        return isinstance(x, np.ndarray)

    def address(self, a):
        return a.ctypes.data

    # Streams and graphs

    @property
    def work(self):
        return getattr(self.running, "work", None)

    def capturing(self):
        return self.work is not None

    def do(self, f):
        """Execute a kernel: immediately, or whenever the graph is launched."""
        if self.aside is not None:
            self.aside.append(f)
        elif self.work is None:
            f()
        else:
            self.work.append(f)

    def stream(self):
        return 7

    def new_pool(self):
        pool = Pool(self)
        self.pools.add(pool)
        return pool

    @contextmanager
    def capture(self, pool):
        """Record what is queued inside; yields a list that holds the graph afterwards."""
        assert self.work is None
        self.running.work = []
        graphs = []
        try:
            yield graphs
            if self.refuses:
                raise RuntimeError(self.refuses)
            graph = Graph(self.work)
            self.graphs.add(graph)
            graphs.append(graph)
        finally:
            self.running.work = None

    @contextmanager
    def beside(self):
        self.aside = [] if self.puts_off else None
        yield
        self.late, self.aside = [*self.late, *(self.aside or [])], None

    def join(self):
        late, self.late = self.late, []
        for f in late:
            self.do(f)

    def nodes(self, graph):
        return len(graph.work)

    def launch(self, graph):
        self.launched += 1
        for f in graph.work:
            f()

    def copy(self, to, what):
        self.do(lambda: np.copyto(to, what))

    def send(self, to, numbers):
        """Copy numbers of the host to an array on the device."""
        assert self.work is None
        self.copied.append(list(numbers))
        to[0].view("float64")[...] = numbers
        to[1] = [a % 2**64 if type(a) is int else 0 for a in numbers]

    # Copies from the host: two streams that wait for one another's events, and can each be held up

    def pinned(self, shape, dtype):
        return np.zeros(shape, dtype)

    def event(self):
        return Event()

    def new_stream(self):
        return Stream()

    def record(self, event, stream=None):
        event.count += 1
        (stream or self.main).queue.append(("record", event, event.count))

    def wait(self, event, stream=None):
        (stream or self.main).queue.append(("wait", event, event.count))

    def wait_on_host(self, event):
        while event.reached < event.count:
            assert self.step_of_some_stream(), "the host waits for an event that is never reached"

    def copy_from_pinned(self, to, host, stream):
        stream.queue.append(("do", lambda: np.copyto(to, host)))

    def step_of_some_stream(self, order=(0, 1)):
        """One step of the first stream that can proceed."""
        streams = [self.main, *Stream.others]
        return any(n < len(streams) and streams[n].step() for n in order)

    # Clock

    def seconds(self, run):
        assert self.work is None, "nothing can be timed in a capture"
        run()
        self.timed += 1
        return self.clock.get(self.timed, self.timed)

    def seconds_under_load(self, run):
        self.under_load += 1
        return self.seconds(run)


class Choices:
    """Choices that are not kept."""

    def find(self, plan):
        return None

    def keep(self, plan, choice):
        pass


class Problem:
    """The descriptors of a plan, executed by the interpreter."""

    refused = frozenset()  # epilogues without an algorithm

    def __init__(self, runtime, plan):
        self.runtime, self.plan = runtime, plan

    def candidates(self, handle):
        if int(self.plan.epilogue) in self.refused:
            return []
        return [Algorithm(bytes([n]) + CODE[1:], 1024 * n) for n in range(3)]

    def checked(self, handle, code):
        return Algorithm(code, 0) if code[1:] == CODE[1:] else None

    def run(self, handle, algorithm, a, b, d, bias, workspace, stream):
        assert (workspace != 0) == (algorithm.workspace != 0)
        plan = self.plan
        assert not any(
            (address | layout.stride * SIZES[layout.dtype]) % alignment
            for address, layout, alignment in zip((a, b, d), (plan.a, plan.b, plan.d), plan.alignments, strict=True)
        )
        matrices = [
            at(address, (plan.batch - 1) * layout.stride + cublaslt.extent(layout), stored(layout.dtype))
            for address, layout in ((a, plan.a), (b, plan.b), (d, plan.d))
        ]
        rows = (
            range(bias, bias + plan.batch * plan.m * SIZES[plan.d.dtype], plan.m * SIZES[plan.d.dtype]) if bias else ()
        )
        assert not any(address % ALIGNED for address in rows), "kernels read biases in words of 16 bytes"
        vectors = at(bias, plan.batch * plan.m, stored(plan.d.dtype)) if bias else None
        self.runtime.do(lambda: cublaslt.matmul(plan, *matrices, vectors))


def stored(dtype):
    return np.dtype(STORED.get(dtype, dtype))


def rounded(x, out):
    """float32 as bfloat16, in 16-bit words."""
    out[...] = 0
    out[tuple(map(slice, x.shape))] = cublaslt.words(x)


def split(arrays, out, lo):
    """float32 matrices as (lo, hi, hi) or (hi, lo, hi), in 16-bit words."""
    for x, y, place in zip(arrays, out, lo, strict=True):
        hi = cublaslt.rounded(x, "bf16")
        over = np.isfinite(x) & ~np.isfinite(hi)
        hi[over] = (x[over].view("uint32") >> 16 << 16).view("float32")  # truncated
        rest = np.subtract(x, hi, out=np.zeros_like(hi), where=np.isfinite(x))
        y[...] = 0
        for n, part in zip((place, 1 - place, 2), (rest, np.where(np.isfinite(x), hi, 0), hi), strict=True):
            y[n, : len(x), : x.shape[1]] = cublaslt.words(part)


def at(address, size, dtype):
    """The array at an address."""
    return np.frombuffer((ctypes.c_char * (size * dtype.itemsize)).from_address(address), dtype)
