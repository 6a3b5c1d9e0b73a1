"""The calls of CuPy, on a fake one."""

import ctypes
from types import SimpleNamespace

import fake_cupy
import numpy as np
import pytest
from tinynet_backends.cuda import runtime


def test_the_memory_of_a_device_is_not_taken_for_the_current_one_s(monkeypatch):
    monkeypatch.delenv("TINYNET_GPU_MEMORY", raising=False)
    cp = fake_cupy.Cupy()
    first, second = cp.cuda.pools
    rt = runtime.Runtime(cp, 1)
    pool = rt.new_pool()
    second.total = 300
    rt.device_memory.admit(1, "a step")
    del pool  # as the garbage collector does, with any current device
    assert rt.device_memory.limit == second.limit == 2000
    assert (first.limit, first.freed) == (1000, 0)
    assert set(cp.cuda.asked) == {1}
    assert cp.cuda.current == 0


def test_all_backends_of_a_device_share_its_memory(monkeypatch):
    monkeypatch.delenv("TINYNET_GPU_MEMORY", raising=False)
    cp = fake_cupy.Cupy()
    first, second, other = runtime.Runtime(cp, 0), runtime.Runtime(cp, 0), runtime.Runtime(cp, 1)
    pool = first.new_pool()
    pool.malloc(300)
    first.device_memory.share()
    third = runtime.Runtime(cp, 0)  # of another precision
    assert first.device_memory is second.device_memory is third.device_memory is not other.device_memory
    assert third.device_memory.limit == 1000
    assert third.device_memory.used == 300
    assert runtime.Runtime(fake_cupy.Cupy(), 0).device_memory is not first.device_memory


def test_a_graph_s_memory_stays_when_the_device_has_no_more():
    """What a step frees while it is captured, its graph uses at each launch."""
    cuda = fake_cupy.Cupy().cuda
    pool = runtime.Pool(cuda, 0)
    pool.malloc(400)  # and freed
    first = pool.malloc(400)
    assert pool.total_bytes() == cuda.taken == 400
    del first
    with pytest.raises(RuntimeError, match="out of memory"):
        pool.malloc(700)
    assert cuda.taken == 400
    pool.set_limit(900)
    with pytest.raises(MemoryError, match="501 bytes are over the limit of 900, of which 400 are taken"):
        pool.malloc(501)
    last = pool.malloc(500)
    del pool
    assert cuda.taken == 900
    del last
    assert cuda.taken == 0


@pytest.mark.parametrize(
    ("work", "eager", "captured"),
    [([2e-6], 2, 8), ([4e-6, 5e-6], 2, 8), ([2e-3], 2, 3), ([1e-3] * 7, 4, 0), ([3e-2], 4, 0)],
)
def test_seconds_are_those_of_the_device(work, eager, captured):
    """And not what the host needs to queue it, 100 µs per kernel here."""
    cp, calls = fake_cupy.Cupy(), []
    rt = runtime.Runtime(cp, 0)

    def run():
        calls.append(cp.cuda.work is None)
        for seconds in work:
            cp.cuda.do(seconds)

    measured = rt.seconds(run)
    assert measured == pytest.approx(sum(work) + (cp.cuda.launch / captured if captured else 0))
    assert calls == [True] * eager + [False] * captured


def test_under_load_a_run_is_timed_among_many_and_after_as_many():
    cp, begun = fake_cupy.Cupy(), []
    rt = runtime.Runtime(cp, 0)

    def run():
        begun.append(cp.cuda.now)
        cp.cuda.do(1e-3 if cp.cuda.now < 7e-3 else 2e-3)  # slower when it is warm

    assert rt.seconds_under_load(run) == pytest.approx(2e-3)
    assert begun[-1] > 1.6e-2


def test_the_driver_counts_the_nodes_of_a_graph(monkeypatch):
    class Driver:
        def cuGraphGetNodes(self, graph, nodes, count):
            assert (graph.value, nodes) == (0x7F0000001000, None)
            count._obj.value = 5
            return status

    rt, graph = runtime.Runtime(fake_cupy.Cupy(), 0), SimpleNamespace(graph=0x7F0000001000)
    monkeypatch.setattr(runtime.C, "CDLL", lambda name: Driver())
    status = 0
    assert rt.nodes(graph) == 5
    status = 1  # CUDA_ERROR_INVALID_VALUE
    assert rt.nodes(graph) == -1

    def missing(name):
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(runtime.C, "CDLL", missing)
    assert rt.nodes(graph) == -1


def test_numbers_are_sent_from_memory_that_is_free_again(monkeypatch):
    """On the current stream; the place of a call's numbers is used again by the 128th after it, once they have been sent."""
    cp, copies, waited = fake_cupy.Cupy(), [], []

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
        assert (kind, stream) == (1, 7)

    cp.cuda.runtime.memcpyAsync, cp.cuda.runtime.memcpyHostToDevice = copy, 1
    cp.cuda.get_current_stream = cp.cuda.Stream
    rt = runtime.Runtime(cp, 0)
    monkeypatch.setattr(rt, "pinned", np.zeros)
    monkeypatch.setattr(rt, "event", Sent)
    there = [np.zeros((2, 3), np.uint64) for _ in range(runtime._ROWS + 2)]
    for n, to in enumerate(there):
        rt.send(SimpleNamespace(data=SimpleNamespace(ptr=to.ctypes.data)), [n, 0.5 * n, -1])
    assert waited == [runtime._ROWS, runtime._ROWS + 1]
    for copied in copies[2:]:
        copied()
    Sent.synchronize = lambda self: None  # for what still waits when memory is given back
    for n, to in enumerate(there):
        assert to[0].view(np.float64).tolist() == [n, 0.5 * n, -1.0]
        assert to[1].tolist() == [n, 0, 2**64 - 1]


def test_what_cannot_be_captured_cannot_be_timed():
    cp = fake_cupy.Cupy()

    def run():
        if cp.cuda.work is not None:
            raise RuntimeError("cuBLAS is not supported here")

    with pytest.raises(RuntimeError, match="cuBLAS"):
        runtime.Runtime(cp, 0).seconds(run)
    assert cp.cuda.work is None


def test_the_limit_on_memory_holds_while_work_is_timed(monkeypatch):
    monkeypatch.delenv("TINYNET_GPU_MEMORY", raising=False)
    cp, limits = fake_cupy.Cupy(), []
    monkeypatch.setattr(runtime.Pool, "set_limit", lambda self, size: limits.append(size))
    rt = runtime.Runtime(cp, 0)
    cp.cuda.pools[0].total = 300
    rt.seconds(lambda: cp.cuda.do(2e-6))
    assert limits == [700]


def test_without_memory_for_a_graph_work_is_timed_as_it_is_queued():
    cp = fake_cupy.Cupy()

    def run():
        if cp.cuda.work is not None:
            raise MemoryError("the main pool has taken all")
        cp.cuda.do(2e-6)

    assert runtime.Runtime(cp, 0).seconds(run) == pytest.approx(cp.cuda.launch)
    assert cp.cuda.work is None
