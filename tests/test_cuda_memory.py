"""The limit on a device's memory, the message when it is reached, and the transfer of batches."""

from contextlib import nullcontext

import fake_cuda
import numpy as np
import pytest
from fake_cuda import Device
from fake_cuda import MemoryPool as Pool
from tinynet_backends.cuda.device import CudaDevice
from tinynet_backends.cuda.memory import DeviceMemory, limit_from, shown
from tinynet_backends.cuda.products import Products
from tinynet_backends.cuda.staging import Staging

GIB = 2**30


@pytest.mark.parametrize(
    ("text", "size"),
    [("8GiB", 8 * GIB), ("8 gb", 8 * 10**9), ("1.5MiB", 3 * 2**19), ("90%", 900), ("100%", 1000), ("12345", 12345),
     ("0.5%", 5), ("2KB", 2000), ("3kib", 3072), ("7MB", 7 * 10**6)],
)  # fmt: skip
def test_limits_as_people_write_them(text, size):
    assert limit_from(text, 1000) == size


@pytest.mark.parametrize("text", ["", "0", "0GiB", "-1", "8 tons", "101%", "GiB", "nan", "1e9", "0.0001%"])
def test_invalid_limits(text):
    with pytest.raises(ValueError) as e:
        limit_from(text, 1000)
    assert str(e.value) == f"TINYNET_GPU_MEMORY {text!r} is not a memory size: write for instance 8GiB, 8000MB or 90%"


def test_readable_sizes():
    assert [shown(n) for n in (5, 2048, 3 * 2**19, 10 * GIB)] == ["5 bytes", "2.0 KiB", "1.5 MiB", "10.0 GiB"]


def test_the_limit_is_ours_else_cupy_s_else_the_device_s(monkeypatch):
    monkeypatch.delenv("TINYNET_GPU_MEMORY", raising=False)
    assert DeviceMemory(Pool(), Device(1000)).limit == 1000
    main = Pool(limit=400)
    assert DeviceMemory(main, Device(1000)).limit == 400
    assert main.limit == 400
    monkeypatch.setenv("TINYNET_GPU_MEMORY", "30%")
    assert DeviceMemory(main, Device(1000)).limit == main.limit == 300


def test_graphs_and_the_rest_keep_to_one_limit():
    main = Pool(limit=1000, used=300, total=500)
    memory = DeviceMemory(main, Device(5000))
    graph = Pool()
    memory.add(graph)
    assert main.freed == 1  # unused blocks make room
    assert graph.limit == 700
    graph.total = 200
    memory.share()
    assert main.limit == 800
    assert memory.used == 500
    second = Pool()
    memory.add(second)
    assert second.limit == 500
    del graph
    assert main.limit == 1000  # returned with the graph
    main.used = main.total = 5000
    third = Pool()
    memory.add(third)
    assert third.limit == 1


def test_a_limit_that_is_set_later_holds(monkeypatch):
    monkeypatch.delenv("TINYNET_GPU_MEMORY", raising=False)
    main = Pool()
    memory, graph = DeviceMemory(main, Device(5000)), Pool(total=200)
    memory.add(graph)
    memory.share()
    assert main.limit == 4800
    main.set_limit(size=1000)  # CuPy's user
    with pytest.raises(MemoryError, match="only 800 bytes of 1000 bytes"):
        memory.admit(900, "a step")
    assert (memory.limit, main.limit) == (1000, 800)
    del graph
    assert (memory.limit, main.limit) == (1000, 1000)
    main.limit = 0  # none
    memory.share()
    assert (memory.limit, main.limit) == (5000, 5000)
    monkeypatch.setenv("TINYNET_GPU_MEMORY", "30%")
    memory = DeviceMemory(main, Device(5000))
    main.set_limit(size=4000)
    memory.share()
    assert (memory.limit, main.limit) == (1500, 1500)  # whoever sets the variable means it


def test_a_graph_that_ends_while_limits_are_set():
    """In the midst of it the garbage collector may end another: what we set is not taken for what others set."""

    class Main(Pool):
        def set_limit(self, size):
            graphs.clear()
            super().set_limit(size)
            graphs.clear()

    graphs = []
    memory = DeviceMemory(Main(limit=1000), Device(5000))
    for total in (100, 200):
        graph = Pool(total=total)
        memory.add(graph)
        graphs.append(graph)
    del graph
    for _ in range(2):
        memory.share()
    assert (memory.limit, memory.main.limit) == (1000, 1000)


def test_a_graph_that_is_made_while_others_are_counted():
    memory, made = DeviceMemory(Pool(limit=1000), Device(5000)), []

    class Busy(Pool):
        def total_bytes(self):
            if not made:  # as in another thread
                made.append(Pool(total=7))
                memory.add(made[0])
            return super().total_bytes()

    pools = [Busy(total=100) for _ in range(2)]
    for pool in pools:
        memory.add(pool)
    assert memory.used == 207


def test_a_run_that_does_not_fit_is_told_before_it_starts():
    memory = DeviceMemory(Pool(limit=4 * GIB, used=GIB), Device(8 * GIB))
    memory.admit(3 * GIB, "a step")
    with pytest.raises(MemoryError) as e:
        memory.admit(3 * GIB + 2**29, "a step with batch_size 4096")
    assert str(e.value) == (
        "a step with batch_size 4096 takes about 3.5 GiB, but only 3.0 GiB of 4.0 GiB on the device are free: "
        "take a smaller batch_size, or accumulate=… to go through each batch in parts"
    )


def test_a_run_does_not_fit_into_what_other_processes_have_taken():
    """What is free is that of the device, and what CuPy's pool holds without using it."""
    memory = DeviceMemory(Pool(used=GIB, total=2 * GIB), Device(8 * GIB, free=2 * GIB))
    memory.admit(3 * GIB, "a step")
    with pytest.raises(MemoryError, match="takes about 3.5 GiB, but only 3.0 GiB of 8.0 GiB on the device are free"):
        memory.admit(3 * GIB + 2**29, "a step")


def backend(rt, pool):
    made = CudaDevice.__new__(CudaDevice)
    made._here = nullcontext
    rt.device_memory = DeviceMemory(pool, Device(8 * GIB))
    made._attach(rt, Products(rt, None, None, None, "float32", None, None))
    return made


def test_running_out_says_what_to_do_and_leaves_all_as_it_was():
    pool = Pool(limit=2 * GIB, used=GIB, total=2 * GIB)
    rt = fake_cuda.Runtime()
    ops = backend(rt, pool)
    theta = rt.array(np.ones(2, "float32"))

    def step(theta, x):
        if x.size > 2:
            raise MemoryError("cudaErrorMemoryAllocation: out of memory")
        rt.do(lambda: np.copyto(theta, theta + x))
        return theta

    compiled = ops.compile(step, theta)
    for n in range(4):
        with pytest.raises(MemoryError) as e:
            compiled(rt.array(np.ones(3, "float32")))
        assert str(e.value) == (
            "the device is out of memory: 1.0 GiB of 2.0 GiB are in use: take a smaller batch_size, or accumulate=… "
            "to go through each batch in parts"
        )
        assert compiled(rt.array(np.ones(2, "float32"))).tolist() == [n + 2.0] * 2
    assert pool.freed >= 4


# Staging -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [(0, 1), (1, 0)], ids=["steps first", "copies first"])
@pytest.mark.parametrize("pace", [0, 1, 3, 50])
def test_every_step_reads_its_own_batch(order, pace):
    rt = fake_cuda.Runtime()
    rt.main.queue.clear()
    staging = Staging(rt)
    fake_cuda.Stream.others[:] = [staging.stream]
    seen = []
    for n in range(9):
        host = np.full((4, 2), float(n), "float32")
        x, y, weight = staging.put([host, np.arange(n, n + 3), None])
        host[...] = -1  # the caller may reuse its memory
        assert weight is None
        rt.main.queue.append(("do", lambda x=x, y=y: seen.append((x[0, 0].item(), y.tolist()))))
        for _ in range(pace):
            rt.step_of_some_stream(order)
    while rt.step_of_some_stream(order):
        pass
    assert seen == [(float(n), [n, n + 1, n + 2]) for n in range(9)]
    assert not rt.main.queue
    assert not staging.stream.queue


def test_the_next_copy_runs_while_a_step_does():
    rt = fake_cuda.Runtime()
    staging = Staging(rt)
    fake_cuda.Stream.others[:] = [staging.stream]
    first = staging.put([np.zeros(3)])[0]
    while rt.step_of_some_stream():
        pass
    end = fake_cuda.Event()
    rt.main.queue.append(("wait", end, 1))  # a step that takes long
    second = staging.put([np.ones(3)])[0]
    rt.step_of_some_stream()
    while staging.stream.step():
        pass
    assert first.tolist() == [0.0] * 3
    assert np.isnan(second).all()  # its memory was allocated after the step was queued: it is free only then
    end.reached = 1


def test_a_place_that_is_there_is_filled_while_a_step_runs():
    rt = fake_cuda.Runtime()
    staging = Staging(rt)
    fake_cuda.Stream.others[:] = [staging.stream]
    for n in range(2):
        staging.put([np.full(3, float(n))])
    while rt.step_of_some_stream():
        pass
    staging.put([np.full(3, 2.0)])
    while rt.step_of_some_stream():
        pass
    end = fake_cuda.Event()
    rt.main.queue.append(("wait", end, 1))  # the step on batch 2, which takes long
    third = staging.put([np.full(3, 3.0)])[0]
    while staging.stream.step():
        pass
    assert third.tolist() == [3.0] * 3
    end.reached = 1


def test_what_is_under_way_arrives_before_its_memory_is_given_back():
    rt = fake_cuda.Runtime()
    staging = Staging(rt)
    fake_cuda.Stream.others[:] = [staging.stream]
    (x,) = staging.put([np.full(3, 5.0)])
    assert np.isnan(x).all()
    del staging
    assert x.tolist() == [5.0] * 3


def test_batches_of_another_shape():
    rt = fake_cuda.Runtime()
    staging = Staging(rt)
    fake_cuda.Stream.others[:] = [staging.stream]
    for shape in ((4, 2), (4, 2), (3, 2), (3, 2), (4, 2), (0, 2)):
        (x,) = staging.put([np.ones(shape, "float32")])
        while rt.step_of_some_stream():
            pass
        assert x.shape == shape
        assert x.tolist() == np.ones(shape).tolist()
