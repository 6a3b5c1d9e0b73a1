"""Compiled steps on a device: what runs as written, what is captured and launched, and when memory is freed."""

import gc
import logging
import threading
import weakref

import fake_cuda
import numpy as np
import pytest
from tinynet_backends.cuda import graph
from tinynet_backends.cuda.copies import Copies
from tinynet_backends.cuda.device import CudaDevice
from tinynet_backends.cuda.graph import KINDS, Compiled, ThreadState


class Device:
    """A runtime, and steps compiled for it."""

    def __init__(self):
        self.rt, self.running, self.python = fake_cuda.Runtime(), ThreadState(), 0

    def array(self, *values, dtype="float32"):
        return self.rt.array(np.asarray(values, dtype))

    def compile(self, step, *fixed):
        def counted(*args):
            self.python += 1
            return step(*args)

        return Compiled(self.rt, self.running, counted, fixed)

    def stop(self, reason):
        """`as_written` of the backend."""
        backend = CudaDevice.__new__(CudaDevice)
        backend._running = self.running
        backend.as_written(reason)

    def add(self, x, y):
        """A kernel with a new array as its result; y may be a number or the place of one."""
        if isinstance(y, graph.Number):
            y = y.real
        out = self.rt.empty(x.shape, x.dtype)
        self.rt.do(lambda: np.add(x, y, out=out, casting="unsafe"))
        return out

    def move(self, theta, x, rate):
        """A kernel that works in place."""
        if isinstance(rate, graph.Number):
            rate = rate.real
        self.rt.do(lambda: np.copyto(theta, theta + x * rate, casting="unsafe"))


@pytest.fixture
def device():
    return Device()


@pytest.fixture
def said(caplog):
    caplog.set_level(logging.INFO, logger="tinynet")
    return lambda: [r.getMessage() for r in caplog.records]


def test_once_as_written_then_captured_then_launched(device):
    theta = device.array(1.0, 2.0)
    step = device.compile(lambda theta, x: device.add(theta, x), theta)
    for n in range(6):
        theta[...] = n
        assert step(device.array(10.0 * n, 1.0)).tolist() == [11.0 * n, n + 1.0]
    assert device.python == 2
    assert device.rt.launched == 5


def test_the_same_arrays_are_read_in_place(device, monkeypatch):
    copies, copy = [], device.rt.copy
    monkeypatch.setattr(device.rt, "copy", lambda to, what: copies.append(what) or copy(to, what))
    step = device.compile(lambda x, y: device.add(x, y))
    x, y = device.array(1.0), device.array(2.0)
    for n in range(5):
        x[...] = n  # the same array with another value
        assert step(x, y).tolist() == [n + 2.0]
    assert len(copies) == 2  # at the first call
    assert device.python == 2
    other = device.array(7.0)
    for _ in range(4):  # another array than the graph has: it is captured again, and reads copies from then on
        assert step(other, y).tolist() == [9.0]
        assert step(x, y).tolist() == [6.0]
    assert device.python == 3
    assert (x.tolist(), y.tolist(), other.tolist()) == ([4.0], [2.0], [7.0])
    gc.collect()
    assert len(device.rt.graphs) == 1


def test_ctrl_c_in_a_first_call(device):
    """It is no first call: the next one runs as written, too."""

    def add(x):
        if device.python == 1:
            raise KeyboardInterrupt
        return device.add(x, 1)

    step = device.compile(add)
    with pytest.raises(KeyboardInterrupt):
        step(device.array(1.0))
    for n in range(4):
        assert step(device.array(n)).tolist() == [n + 1.0]
        assert device.rt.launched == n
    assert device.python == 3


def test_the_arrays_of_a_first_call_are_not_kept(device):
    step = device.compile(lambda x: device.add(x, 1))
    x = device.array(1.0)
    there = weakref.ref(x)
    step(x)
    del x
    assert there() is None
    for n in range(3):
        assert step(device.array(n)).tolist() == [n + 1.0]
    assert device.python == 2


def test_unaligned_arrays_are_copied(device):
    whole = device.array(*range(8))
    for part in (whole[1:5], whole[::2]):
        step = device.compile(lambda x: device.add(x, 1))
        for _ in range(3):
            assert step(part).tolist() == (part + 1).tolist()
        assert not [*step._here.kinds.values()][-1].in_place


def test_arrays_are_copied_to_where_the_graph_reads_them(device):
    step = device.compile(lambda x: device.add(x, 1))
    first = device.array(1.0)
    step(device.array(0.0))
    for _ in range(3):
        step(first)
    first[...] = 5.0  # the same array with another value
    assert step(first).tolist() == [6.0]
    assert first.tolist() == [5.0]
    kept = step(device.array(7.0)).copy()
    assert step(device.array(8.0)).tolist() == [9.0]
    assert kept.tolist() == [8.0]


def test_what_comes_before_a_graph_is_left_out_between_two_launches_that_nothing_disturbs(device):
    done, backend = [], CudaDevice.__new__(CudaDevice)
    backend._running = device.running

    def add(x, y):
        if device.running.recording is not None:
            device.running.recording.before.append(lambda: done.append(None))
        return device.add(x, y)

    step, other = device.compile(add), device.compile(add)
    one, two = device.array(1.0), device.array(2.0)
    calls = {
        "a": lambda: step(one, 1.0), "b": lambda: step(two, 1), "c": lambda: other(one, 1.0),
        "n": lambda: step(device.array(*range(len(done) + 5)), 1.0),  # of a new kind: as written
    }  # fmt: skip
    found = []
    for names in ("aabbcc", "aaaaa", "aabbab", "acca", "aana", "aa"):
        before = len(done)
        with backend.undisturbed():
            for name in names:
                calls[name]()
        found.append(len(done) - before)
    assert found == [3, 1, 4, 3, 2, 1]
    for _ in range(3):  # elsewhere anything may come between
        before = len(done)
        step(one, 1.0)
        step(one, 1.0)
    assert len(done) == before + 2
    assert device.running.latest is None  # and keeps no graph alive


def test_copies_of_vectors(device):
    first, second, third = (device.array(*range(n)) for n in (100, 80, 64))
    made = []

    def make(vector):
        made.append(vector)
        return vector.astype("uint16")

    copies = Copies([first, second, third], device.rt.address, make)
    assert copies.operand(first[8:32].reshape((3, 8))) is None  # would have to be padded
    assert copies.operand(first[8:48].reshape((8, 5))) is None
    assert copies.operand(first[4:68].reshape((8, 8))) is None  # and this moved
    assert copies.operand(device.array(*range(64)).reshape((8, 8))) is None
    assert copies.operand(first[8:16]) is None  # a bias, of which alone no copy is made
    assert copies.changed(second[4:5]) is None
    assert made == []
    for _ in range(2):
        assert copies.operand(first[32:96].reshape((8, 8))).tolist() == first[32:96].reshape((8, 8)).tolist()
        assert copies.operand(first[8:16]).tolist() == [*range(8, 16)]
        assert copies.operand(second[:64].reshape((8, 8))) is None  # has been changed since the step began
        assert copies.changed(first[3:6]).tolist() == [3, 4, 5]
        assert copies.operand(third.reshape((8, 8)))[7].tolist() == [*range(56, 64)]
    assert [a is b for a, b in zip(made, (first, third), strict=True)] == [True, True]


def test_numbers_are_read_at_every_launch(device):
    theta = device.array(0.0)
    step = device.compile(lambda theta, x, rate, t: device.move(theta, x, rate) or device.add(x, t), theta)
    total = 0.0
    for n in range(5):
        total += 0.5 * n
        assert step(device.array(1.0), 0.5 * n, n).tolist() == [1.0 + n]
        assert theta.tolist() == [total]
    assert device.rt.copied == [[0.5 * n, n] for n in range(1, 5)]


def test_whole_numbers_are_words_too(device):
    seen = []

    def step(x, t):
        word = graph.whole(t)
        device.rt.do(lambda: seen.append(int(word)))
        return device.add(x, 0)

    compiled = device.compile(step)
    for t in (3, 2**63 + 5, 2**53 + 1, -1):
        compiled(device.array(0.0), t)
    assert seen == [3, 2**63 + 5, 2**53 + 1, 2**64 - 1]


def test_every_kind_of_arguments_has_a_graph(device):
    step = device.compile(lambda x, y: device.add(x, 1 if y is None else y))
    calls = [
        (device.array(1.0), 2.0), (device.array(1.0), 2), (device.array(1.0), None), (device.array(1.0), True),
        (device.array(1.0), False), (device.array(1.0, 2.0), 2.0), (device.array(1.0, dtype="float64"), 2.0),
    ]  # fmt: skip
    for _ in range(4):
        for x, y in calls:
            assert step(x, y).tolist() == (x + (1 if y is None else y)).tolist()
    assert device.python == 2 * len(calls)
    assert device.rt.launched == 3 * len(calls)


def test_the_least_recently_used_graph_is_dropped(device):
    step = device.compile(lambda x: device.add(x, 1))
    for n in range(1, KINDS + 5):
        for _ in range(2):
            step(device.array(*range(n)))
        step(device.array(0.0))
    gc.collect()
    assert len(device.rt.graphs) == KINDS
    launched = device.rt.launched
    step(device.array(0.0))
    assert device.rt.launched == launched + 1  # it was used all the time
    assert device.python == 2 * (KINDS + 4)


CROSSINGS = {
    "a value needed by Python (mul)": lambda t: t * 2,
    "a value needed by Python (float)": float,
    "a value needed by Python (lt)": lambda t: t < 3,
    "a value needed by Python (index)": lambda t: range(9)[t],
    "a value needed by Python (hash)": hash,
    "a value needed by Python (bool)": lambda t: t or 1,
}


@pytest.mark.parametrize("reason", CROSSINGS)
def test_a_number_that_python_needs_cannot_be_captured(device, said, reason):
    def step(x, t):
        CROSSINGS[reason](t)
        return device.add(x, t)

    compiled = device.compile(step)
    for t in range(4):
        assert compiled(device.array(1.0), t).tolist() == [1.0 + t]
    assert said() == [f"a step is not captured, and runs call by call: {reason}"]
    assert device.rt.launched == 0


def test_as_written(device, said):
    printed = []

    def step(x):
        device.stop("it counts")
        printed.append(1)
        return device.add(x, 1)

    compiled = device.compile(step)
    for _ in range(4):
        assert compiled(device.array(1.0)).tolist() == [2.0]
    assert len(printed) == 4
    assert said() == ["a step is not captured, and runs call by call: it counts"]


def test_a_reason_that_is_swallowed_still_counts(device, said):
    def step(x, t):
        try:
            t = t + 1
        except Exception:
            t = 100
        return device.add(x, t)

    compiled = device.compile(step)
    for t in range(4):
        assert compiled(device.array(0.0), t).tolist() == [t + 1.0]
    assert len(said()) == 1


def test_nothing_was_done_where_a_capture_fails(device, said):
    theta = device.array(0.0)

    def step(theta, x):
        device.move(theta, x, 1.0)
        if device.running.recording is not None:
            raise OSError("no such thing\nand more")
        return device.add(theta, 0)

    compiled = device.compile(step, theta)
    for n in range(1, 5):
        assert compiled(device.array(1.0)).tolist() == [float(n)]
    assert said() == ["a step is not captured, and runs call by call: OSError: no such thing"]
    assert device.running.recording is None


def test_a_graph_that_cannot_be_launched(device, said, caplog, monkeypatch):
    def refuse(graph):
        raise RuntimeError("cudaErrorMemoryAllocation: out of memory\nand so on")

    monkeypatch.setattr(device.rt, "launch", refuse)
    theta = device.array(0.0)
    compiled = device.compile(lambda theta, x, rate: device.move(theta, x, rate) or device.add(theta, 0), theta)
    for n in range(1, 5):
        assert compiled(device.array(1.0), 1.0).tolist() == [float(n)]
    reason = "RuntimeError: cudaErrorMemoryAllocation: out of memory"
    assert said() == [f"a step is not captured, and runs call by call: {reason}"]
    assert [r.levelname for r in caplog.records] == ["WARNING"]
    assert not list(device.rt.graphs)


def test_a_capture_that_ends_badly(device, said):
    device.rt.refuses = "cudaErrorStreamCaptureInvalidated: it was"
    compiled = device.compile(lambda x: device.add(x, 1))
    for _ in range(3):
        assert compiled(device.array(1.0)).tolist() == [2.0]
    assert "RuntimeError: cudaErrorStreamCaptureInvalidated: it was" in said()[0]


def test_an_error_of_the_step_itself_comes_out(device):
    def step(x):
        raise ValueError("x is not what it should be")

    compiled = device.compile(step)
    for _ in range(3):
        with pytest.raises(ValueError, match="x is not what it should be"):
            compiled(device.array(1.0))


def test_ctrl_c_in_a_capture(device):
    hit = []

    def step(x):
        if device.running.recording is not None and not hit:
            hit.append(1)
            raise KeyboardInterrupt
        return device.add(x, 1)

    compiled = device.compile(step)
    compiled(device.array(1.0))
    with pytest.raises(KeyboardInterrupt):
        compiled(device.array(1.0))
    assert device.running.recording is None
    assert compiled(device.array(1.0)).tolist() == [2.0]
    assert device.rt.launched == 1


@pytest.mark.parametrize("argument", ["text", [1.0], np.float32(1), np.ones(2)])
def test_other_arguments_run_as_written(device, said, argument, monkeypatch):
    monkeypatch.setattr(device.rt, "owns", lambda a: isinstance(a, np.ndarray) and a.dtype != np.float64)
    compiled = device.compile(lambda x, y: device.add(x, 1))
    for _ in range(3):
        assert compiled(device.array(1.0), argument).tolist() == [2.0]
    assert device.rt.launched == 0
    assert len(said()) == 1
    assert "neither an array of the device nor a number" in said()[0]


def test_what_is_returned(device, said):
    step = device.compile(lambda x, t: {"x": x, "all": [device.add(x, 1), None, "s"]})
    for n in range(4):
        x = device.array(float(n))
        result = step(x, n)
        assert result["x"].tolist() == [n]
        assert result["all"][0].tolist() == [n + 1.0]
        assert result["all"][1:] == [None, "s"]
    number = device.compile(lambda x, t: (x, [t]))
    for t in range(4):
        assert number(device.array(1.0), t)[1] == [t]
    assert said() == ["a step is not captured, and runs call by call: a number that is returned"]


def test_the_same_arguments_divided_among_calls_in_another_way_are_another_kind(device):
    step = device.compile(lambda x, y=None: x if y is None else device.add(x, y))
    a, b, c = (device.array(n) for n in (1.0, 2.0, 4.0))
    for _ in range(3):
        assert [r.tolist() for r in step.several([(a,), (b, c)])] == [[1.0], [6.0]]
        assert [r.tolist() for r in step.several([(a, b), (c,)])] == [[3.0], [4.0]]


def test_several_calls_in_one_launch(device):
    theta = device.array(0.0)
    step = device.compile(lambda theta, x, rate: device.move(theta, x, rate) or device.add(theta, 0), theta)
    total, launches = 0.0, device.rt.launched
    for n in range(4):
        calls = [(device.array(1.0 + k), n + 0.25 * k) for k in range(3)]
        wanted = []
        for x, rate in calls:
            total += float(x[0]) * rate
            wanted.append([total])
        assert [r.tolist() for r in step.several(calls)] == wanted
    assert device.rt.launched == launches + 3
    step(device.array(1.0), 1.0)
    assert device.python == 3 + 3 + 1


def test_a_step_within_a_step_is_part_of_it(device):
    inner = device.compile(lambda x: device.add(x, 1))
    outer = device.compile(lambda x: inner(device.add(x, 1)))
    for n in range(6):
        assert outer(device.array(float(n))).tolist() == [n + 2.0]
    assert len(device.rt.graphs) == 1


def test_a_call_in_another_capture_is_not_captured(device):
    compiled = device.compile(lambda x: device.add(x, 1))
    x = device.array(1.0)
    with device.rt.capture(None) as made:
        results = [compiled(x) for _ in range(3)]
    assert np.isnan(results[0]).all()
    device.rt.launch(made[0])
    assert [r.tolist() for r in results] == [[2.0]] * 3


def test_threads_have_graphs_of_their_own(device):
    step = device.compile(lambda x: device.add(device.add(x, 1), 1))
    wrong, barrier = [], threading.Barrier(4)

    def work(n):
        mine = device.array(float(n))
        barrier.wait()
        wrong.extend(n for _ in range(20) if step(mine).tolist() != [n + 2.0])

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert wrong == []
    assert device.python == 8
    del threads
    gc.collect()
    assert len(device.rt.graphs) == 0  # they went with their threads


def test_everything_is_freed_with_the_step(device):
    theta = device.array(1.0)
    step = device.compile(lambda theta, x: device.add(theta, x), theta)
    for _ in range(3):
        result = step(device.array(1.0))
    assert len(device.rt.graphs) == len(device.rt.pools) == 1
    there = weakref.ref(step)
    gc.disable()  # without a search for cycles
    try:
        del step
        assert there() is None
        assert len(device.rt.graphs) == len(device.rt.pools) == 0
    finally:
        gc.enable()
    assert result.tolist() == [2.0]


def test_the_first_call_finds_its_arrays_where_the_graph_will(device):
    seen = []

    def step(x):
        seen.append((device.rt.address(x), x.flags.c_contiguous))
        return device.add(x, 0)

    compiled = device.compile(step)
    whole = device.array(*range(24)).reshape(4, 6)
    for x in (whole[:, 1:3], whole.T[:4, :2], whole[:, ::4]):
        assert compiled(x).tolist() == x.tolist()
    assert len(seen) == 2
    assert seen[0] == seen[1]
    assert seen[0][1]
