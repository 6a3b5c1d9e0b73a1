"""A CUDA device for tests without one: memory is one array, a stream a list of what was queued, cublasLt the interpreter.

Work that is queued while a graph is captured is noted and not done, as on a device, and done at each launch.
"""

import threading
import weakref
from contextlib import contextmanager
from typing import ClassVar

import cublaslt
import numpy as np
from tinynet_backends.cuda.lt import Algorithm

BASE = 1 << 40  # addresses begin here
GUARD = 256  # bytes between two allocations, which nobody may touch
CODE = b"algorithm".ljust(64, b".")


class Pool:
    """Allocations of one pool, and whether they were given back."""

    def __init__(self, runtime):
        self.runtime, self.bytes = runtime, 0


class Graph:
    def __init__(self, work):
        self.work, self.launches = work, 0


class Event:
    def __init__(self):
        self.count = self.reached = 0  # records queued, and done


class Stream:
    """Work that is queued, and done when it is asked to: not before what it waits for."""

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
    """What `cuda.runtime` is, on the host."""

    def __init__(self, room=1 << 23):
        self.memory = np.full(room, 0xFF, "uint8")  # float NaN: what nobody wrote shows
        self.next, self.lock = GUARD, threading.Lock()
        self.running = threading.local()
        self.clock = {}
        self.timed = 0
        self.graphs = weakref.WeakSet()
        self.pools = weakref.WeakSet()
        self.refuses = ""  # why a capture ends badly
        self.launched = 0
        self.main = Stream()
        Stream.others.clear()
        self.copied = []

    # Arrays

    def empty(self, shape, dtype, pool=None):
        dtype = np.dtype("float32" if str(dtype) == "bfloat16" else dtype)
        size = int(np.prod(shape)) * dtype.itemsize
        with self.lock:
            start = self.next
            self.next = -(-(start + size + GUARD) // 256) * 256
        if self.next > self.memory.size:
            raise MemoryError("the fake device is full")
        return self.memory[start : start + size].view(dtype).reshape(shape)

    def array(self, x):
        made = self.empty(x.shape, x.dtype)
        made[...] = x
        return made

    def owns(self, x):
        return isinstance(x, np.ndarray)

    def address(self, a):
        return BASE + a.ctypes.data - self.memory.ctypes.data if a.size else BASE

    # Streams and graphs

    @property
    def work(self):
        return getattr(self.running, "work", None)

    def capturing(self):
        return self.work is not None

    def do(self, f):
        """A kernel: now, or whenever the graph is launched."""
        if self.work is None:
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
        """Note what is queued inside; gives a list that holds the graph afterwards."""
        assert self.work is None
        self.running.work = []
        made = []
        try:
            yield made
            if self.refuses:
                raise RuntimeError(self.refuses)
            graph = Graph(self.work)
            self.graphs.add(graph)
            made.append(graph)
        finally:
            self.running.work = None

    def launch(self, graph):
        self.launched += 1
        for f in graph.work:
            f()

    def copy(self, to, what):
        self.do(lambda: np.copyto(to, what))

    def send(self, to, numbers):
        """A few numbers of the host to an array of the device."""
        assert self.work is None
        self.copied.append(list(numbers))
        to[0].view("float64")[...] = numbers
        to[1] = [a % 2**64 if type(a) is int else 0 for a in numbers]

    # Copies from the host: two streams, that wait for one another's events, and where each can be held up

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
            assert self.step_of_some_stream(), "the host waits for what never comes"

    def copy_from_pinned(self, to, host, stream=None):
        (stream or self.main).queue.append(("do", lambda: np.copyto(to, host)))

    def step_of_some_stream(self, order=(0, 1)):
        """Let the first stream that can do something do it."""
        streams = [self.main, *Stream.others]
        return any(n < len(streams) and streams[n].step() for n in order)

    # Clock

    def seconds(self, run):
        assert self.work is None, "there is no clock in a capture"
        run()
        self.timed += 1
        return self.clock.get(self.timed, self.timed)


class Problem:
    """Descriptors, and the interpreter that carries them out."""

    refused = frozenset()  # epilogues without an algorithm

    def __init__(self, runtime, plan):
        self.runtime, self.plan = runtime, plan

    def candidates(self, handle):
        if int(self.plan.epilogue) in self.refused:
            return []
        return [Algorithm(bytes([n]) + CODE[1:], 1024 * n) for n in range(3)]

    def checked(self, handle, code):
        return Algorithm(code, 0) if code[1:] == CODE[1:] else None

    def run(self, handle, algorithm, a, b, d, bias, aux, workspace, stream):
        assert (workspace != 0) == (algorithm.workspace != 0)
        plan, rt = self.plan, self.runtime
        assert not any(
            (address - BASE) % alignment for address, alignment in zip((a, b, d), plan.alignments, strict=True)
        )
        real = np.dtype(plan.d.dtype)
        whole = rt.memory.view(real)
        at = [(address - BASE) // real.itemsize for address in (a, b, d, bias)]
        rows = whole[at[3] : at[3] + plan.batch * plan.m] if bias else None
        mask = rt.memory[aux - BASE : aux - BASE + plan.aux_bytes] if aux else None
        rt.do(lambda: cublaslt.matmul(plan, whole, whole, whole, rows, mask, at[:3]))
