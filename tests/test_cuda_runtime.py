"""The calls of CuPy, on its stand-in."""

import ctypes
import threading
from types import SimpleNamespace

import numpy as np
import pytest
from rehearsal import memory, modules, state, streams
from tinynet_backends.cuda import runtime

K = memory.BLOCK


@pytest.fixture
def cp(monkeypatch):
    """With nothing allocated, on devices of 1000 blocks, and limits of 1000 and 2000."""
    monkeypatch.delenv("TINYNET_GPU_MEMORY", raising=False)
    monkeypatch.setattr(memory, "TOTAL", 1000 * K)
    monkeypatch.setattr(memory, "taken", [0, 0])
    monkeypatch.setattr(memory, "main", memory.MemoryPool())
    monkeypatch.setattr(state.clock, "now", 0.0)
    for number in range(2):
        with memory.Device(number):
            memory.main.set_limit(size=1000 * K * (number + 1))
    return modules.cupy


def work(seconds):
    streams.do(lambda: None, seconds=seconds - state.KERNEL)


def test_the_memory_of_a_device_is_not_taken_for_the_current_one_s(cp):
    cp.empty(1)  # and freed: the first device's pool keeps the block
    rt = runtime.Runtime(cp, 1)
    pool = rt.new_pool()
    with memory.Device(1):
        held = cp.empty(300 * K, "uint8")
    rt.device_memory.admit(1, "a step")
    del pool  # as the garbage collector does, with any current device
    assert rt.device_memory.limit == 2000 * K
    assert rt.device_memory.used == held.nbytes
    assert (memory.main.get_limit(), memory.main.total_bytes()) == (1000 * K, K)
    with memory.Device(1):
        assert memory.main.get_limit() == 2000 * K


def test_all_backends_of_a_device_share_its_memory(cp, monkeypatch):
    first, second, other = runtime.Runtime(cp, 0), runtime.Runtime(cp, 0), runtime.Runtime(cp, 1)
    pool = first.new_pool()
    pool.malloc(300 * K)
    first.device_memory.share()
    third = runtime.Runtime(cp, 0)  # of another precision
    assert first.device_memory is second.device_memory is third.device_memory is not other.device_memory
    assert third.device_memory.limit == 1000 * K
    assert third.device_memory.used == 300 * K
    monkeypatch.setattr(memory, "main", memory.MemoryPool())
    assert runtime.Runtime(cp, 0).device_memory is not first.device_memory


def test_a_graph_s_memory_stays_when_the_device_has_no_more(cp):
    """What a step frees while it is captured, its graph uses at each launch."""
    pool = runtime.Pool(cp.cuda, 0)
    pool.malloc(400 * K)  # and freed
    first = pool.malloc(400 * K)
    assert pool.total_bytes() == memory.taken[0] == 400 * K
    del first
    with pytest.raises(MemoryError, match="Out of memory"):
        pool.malloc(700 * K)
    assert memory.taken[0] == 400 * K
    pool.set_limit(900 * K)
    with pytest.raises(
        MemoryError, match=f"{501 * K} bytes are over the limit of {900 * K}, of which {400 * K} are taken"
    ):
        pool.malloc(501 * K)
    last = pool.malloc(500 * K)
    assert pool.total_bytes() == 900 * K
    del pool
    assert memory.taken[0] == 900 * K
    del last
    assert memory.taken[0] == 0


def test_a_graph_s_memory_is_used_again_once_it_is_free(cp):
    pool = runtime.Pool(cp.cuda, 0)
    first, second = pool.malloc(K), pool.malloc(K)
    assert first.ptr != (place := second.ptr)
    del second
    assert pool.malloc(K).ptr == place


def test_what_a_graph_has_taken_nothing_else_can_have(cp):
    rt = runtime.Runtime(cp, 0)
    pool = rt.new_pool()
    with rt.capture(pool):
        cp.empty(300 * K, "uint8")
    assert memory.main.get_limit() == 700 * K


@pytest.mark.parametrize(
    ("parts", "eager", "captured"),
    [([2e-6], 2, 8), ([4e-6, 5e-6], 2, 8), ([2e-3], 2, 3), ([1e-3] * 7, 4, 0), ([3e-2], 4, 0)],
)
def test_seconds_are_those_of_the_device(parts, eager, captured, cp):
    """And not what the host needs to queue it, 100 µs per kernel here."""
    calls = []

    def run():
        calls.append(not streams.capturing())
        for seconds in parts:
            work(seconds)

    measured = runtime.Runtime(cp, 0).seconds(run)
    assert measured == pytest.approx(sum(parts) + (state.LAUNCH / captured if captured else 0))
    assert calls == [True] * eager + [False] * captured


def test_under_load_a_run_is_timed_among_many_and_after_as_many(cp):
    begun = []

    def run():
        begun.append(state.clock.now)
        work(1e-3 if state.clock.now < 7e-3 else 2e-3)  # slower when it is warm

    assert runtime.Runtime(cp, 0).seconds_under_load(run) == pytest.approx(2e-3)
    assert begun[-1] > 1.6e-2


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_copies_are_of_any_layout(dtype, cp):
    what = cp.arange(6, dtype="float32")
    for source in (what.reshape((2, 3)), what.reshape((3, 2)).T):
        for to in (cp.zeros((2, 3), dtype), cp.zeros((3, 2), dtype).T):
            runtime.Runtime(cp, 0).copy(to, source)
            assert to.get().tolist() == source.get().tolist()


def test_work_beside_other_work(cp):
    """It waits for what was queued before, and a capture contains it only if it is joined."""
    rt = runtime.Runtime(cp, 0)
    pool, done = rt.new_pool(), []
    with rt.capture(pool) as graphs:
        streams.do(lambda: done.append("before"))
        with rt.beside():
            streams.do(lambda: done.append("beside"))
        streams.do(lambda: done.append("after"))
        rt.join()
    assert done == []
    rt.launch(graphs[0])
    assert done == ["before", "beside", "after"]
    with pytest.raises(RuntimeError, match="cudaErrorStreamCaptureUnjoined"), rt.capture(pool), rt.beside():
        streams.do(lambda: None)


def test_the_driver_counts_the_nodes_of_a_graph(cp, monkeypatch):
    class Driver:
        def cuGraphGetNodes(self, graph, nodes, count):
            assert (graph.value, nodes) == (0x7F0000001000, None)
            count._obj.value = 5
            return status

    rt, graph = runtime.Runtime(cp, 0), SimpleNamespace(graph=0x7F0000001000)
    monkeypatch.setattr(runtime.C, "CDLL", lambda name: Driver())
    status = 0
    assert rt.nodes(graph) == 5
    status = 1  # CUDA_ERROR_INVALID_VALUE
    assert rt.nodes(graph) == -1

    def missing(name):
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(runtime.C, "CDLL", missing)
    assert rt.nodes(graph) == -1


def test_numbers_are_sent_from_memory_that_is_free_again(cp, monkeypatch):
    """On the current stream; the place of a call's numbers is used again by the 128th after it, once they have been sent."""
    copies, waited = [], []

    class Sent:
        done = True

        def record(self, stream):
            self.done, self.stream = False, stream

        def synchronize(self):
            waited.append(len(copies))
            copies[-runtime._ROWS]()
            self.done = True

    def copy(to, address, size, kind, stream):
        copies.append(lambda: ctypes.memmove(to, address, size))
        assert (kind, stream) == (1, here.ptr)

    monkeypatch.setattr(cp.cuda.runtime, "memcpyAsync", copy)
    rt = runtime.Runtime(cp, 0)
    monkeypatch.setattr(rt, "pinned", np.zeros)
    monkeypatch.setattr(rt, "event", Sent)
    there = [np.zeros((2, 3), np.uint64) for _ in range(runtime._ROWS + 2)]
    with streams.Stream(non_blocking=True) as here:
        for n, to in enumerate(there):
            rt.send(SimpleNamespace(data=SimpleNamespace(ptr=to.ctypes.data)), [n, 0.5 * n, -1])
    assert waited == [runtime._ROWS, runtime._ROWS + 1]
    for copied in copies[2:]:
        copied()
    Sent.synchronize = lambda self: None  # for what still waits when memory is given back
    for n, to in enumerate(there):
        assert to[0].view(np.float64).tolist() == [n, 0.5 * n, -1.0]
        assert to[1].tolist() == [n, 0, 2**64 - 1]


def test_numbers_are_sent_before_a_thread_gives_their_memory_back(cp, monkeypatch):
    waited = []

    class Sent:
        done = True

        def record(self, stream):
            self.done = False

        def synchronize(self):
            waited.append(self)

    rt = runtime.Runtime(cp, 0)
    monkeypatch.setattr(rt, "pinned", np.zeros)
    monkeypatch.setattr(rt, "event", Sent)
    thread = threading.Thread(target=rt.send, args=(cp.zeros((2, 1), "uint64"), [0.5]))
    thread.start()
    thread.join()
    assert len(waited) == 1


def test_a_capture_that_fails_ends(cp):
    rt, captured = runtime.Runtime(cp, 0), []

    def fail():
        captured.append(streams.get_current_stream())
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), rt.capture(rt.new_pool()):
        fail()
    assert not captured[0].is_capturing()


def test_choices_are_those_of_a_device_and_its_driver(cp):
    assert runtime.Runtime(cp, 0).machine() == {"gpu": "rehearsal", "driver": 13020}


def test_arrays_of_a_device(cp):
    rt = runtime.Runtime(cp, 1)
    assert [rt.owns(a) for a in (cp.empty(1), np.empty(1), None)] == [False] * 3
    with memory.Device(1):
        assert rt.owns(cp.empty(1))


def test_what_cannot_be_captured_cannot_be_timed(cp):
    a = cp.ones((2, 2))
    with pytest.raises(NotImplementedError, match="cuBLAS"):
        runtime.Runtime(cp, 0).seconds(lambda: a @ a)
    assert not streams.capturing()


def test_the_limit_on_memory_holds_while_work_is_timed(cp, monkeypatch):
    limits = []
    monkeypatch.setattr(runtime.Pool, "set_limit", lambda self, size: limits.append(size))
    rt = runtime.Runtime(cp, 0)
    held = cp.empty(300 * K, "uint8")
    rt.seconds(lambda: work(2e-6))
    assert limits == [1000 * K - held.nbytes]


def test_without_memory_for_a_graph_work_is_timed_as_it_is_queued(cp):
    def run():
        if streams.capturing():
            cp.empty(1001 * K)
        work(2e-6)

    assert runtime.Runtime(cp, 0).seconds(run) == pytest.approx(state.LAUNCH)
    assert not streams.capturing()
