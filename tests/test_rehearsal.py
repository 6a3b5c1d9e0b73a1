"""The stand-in for CuPy notices what goes wrong on a device."""

import inspect
import logging

import numpy as np
import pytest
from cuda_shim import shim
from rehearsal import functions, memory, modules, state, streams
from tinynet_backends import get_backend
from tinynet_backends.cuda import runtime

import tinynet as tn

cp = modules.cupy


@pytest.fixture
def stream():
    with cp.cuda.Stream(non_blocking=True) as here:
        yield here
        if here.is_capturing():
            here.end_capture()


def test_a_name_that_is_not_cupy_s_is_an_error():
    with pytest.raises(AttributeError, match="rehearsal's cupy has no 'einsum'"):
        _ = cp.einsum
    with pytest.raises(TypeError, match=r"cupy.sum\(a, axis=None.*unexpected keyword argument 'initial'"):
        cp.sum(cp.ones(3), initial=1)


def test_a_value_is_set_before_its_memory_is_free():
    a = cp.zeros(3)
    a.__setitem__(..., a + 1)  # nobody else has the sum
    assert a.tolist() == [1.0] * 3


HOST = np.ones(3)
MIXED = {
    "a function": lambda a: cp.sum(HOST),
    "one of several": lambda a: cp.concatenate([a, HOST]),
    "a ufunc": lambda a: cp.exp(HOST),
    "an operator": lambda a: a + HOST,
    "its other side": lambda a: HOST + a,
    "in place": lambda a: a.__iadd__(HOST),
    "a value": lambda a: a.__setitem__(slice(None), HOST),
    "a copy": lambda a: cp.copyto(a, HOST),
    "the other way round": lambda a: np.asarray(a),
}


@pytest.mark.parametrize("wrong", MIXED.values(), ids=MIXED)
def test_arrays_of_the_host_are_no_arrays_of_the_device(wrong):
    a = cp.ones(3)
    with pytest.raises(TypeError, match="Unsupported type|no array of CuPy's|Implicit conversion"):
        wrong(a)


REFUSED = {
    "a number that is read": lambda a: float(a[0]),
    "a condition": lambda a: bool(a[0] > 0),
    "a copy to the host": lambda a: cp.asnumpy(a),
    "a copy from the host": lambda a: cp.asarray(HOST),
    "an index of the host": lambda a: a[[0, 1]],
    "a mask": lambda a: a[a > 0],
    "a size that depends on values": lambda a: cp.unique(a),
    "cuBLAS": lambda a: a @ a,
    "an event": lambda a: streams.get_current_stream().record().synchronize(),
}


@pytest.mark.parametrize("wrong", REFUSED.values(), ids=REFUSED)
def test_a_capture_refuses(wrong, stream):
    a = cp.ones(3)
    wrong(a)
    stream.begin_capture()
    with pytest.raises((RuntimeError, NotImplementedError), match="[cC]aptur"):
        wrong(a)


def test_what_waits_is_counted_and_can_be_forbidden():
    a, before = cp.ones(3), state.waits["ndarray.get"]
    with (
        modules.cupyx.allow_synchronize(False),
        pytest.raises(RuntimeError, match=r"synchronize detected: ndarray\.get"),
    ):
        float(a[0])
    assert float(a[0]) == 1
    assert state.waits["ndarray.get"] == before + 2


def test_a_graph_is_executed_at_its_launches_alone(stream):
    a, b = cp.ones(3), cp.zeros(3)
    stream.begin_capture()
    b += a * 2
    graph = stream.end_capture()
    assert b.tolist() == [0, 0, 0]
    graph.launch()
    a[...] = 5  # it reads what is there at each launch
    graph.launch()
    assert b.tolist() == [12, 12, 12]


def test_a_graph_that_uses_freed_memory(stream):
    """To which a device says something, or not."""
    pool, a = cp.cuda.MemoryPool(), cp.ones(3)
    stream.begin_capture()
    with cp.cuda.using_allocator(pool.malloc):
        b = a + 1
    b += 1
    graph = stream.end_capture()
    graph.launch()
    assert b.tolist() == [3, 3, 3]
    del b  # which stays in the pool
    graph.launch()
    pool.free_all_blocks()
    with pytest.raises(RuntimeError, match="IllegalAddress"):
        graph.launch()


def test_free_memory_is_not_a_number():
    address = cp.zeros(100).data.ptr
    again = cp.empty(100)
    assert again.data.ptr == address
    assert np.isnan(again.get()).all()


def test_work_of_another_stream_has_to_be_waited_for(stream):
    side, a = cp.cuda.Stream(non_blocking=True), cp.ones(3)
    for joined in (True, False):
        stream.begin_capture()
        side.wait_event(stream.record())
        with side:
            a += 1
        if joined:
            stream.wait_event(side.record())
            assert len(stream.end_capture().work) == 1
            continue
        with pytest.raises(RuntimeError, match="Unjoined"):
            stream.end_capture()


def test_arrays_of_another_device():
    with cp.cuda.Device(1):
        there = cp.ones(3)
    with pytest.raises(ValueError, match="array device = 1 while current = 0"):
        there + 1
    assert there.device.id == memory.Device(there.device).id == 1


def test_signatures_are_names_of_numpy_s_too():
    """So that each has a function; those that are not are of this package."""
    assert {name for name in functions.SIGNATURES if not hasattr(np, name)} <= functions.OURS.keys()
    for name, f in functions.OURS.items():
        assert [*inspect.signature(f).parameters] == [*functions.SIGNATURES[name].parameters], name


# The library on it


class Peeking(tn.Layer):
    """Reads a number of the device in each step."""

    def forward(self, params, x, ctx):
        scale = 1.0 if float(x[0, 0]) > 1e9 else 2.0

        def backprop(dy):
            return dy * scale, {}

        return x * scale, backprop


@pytest.fixture
def ops(request, tmp_path_factory):
    with modules.installed(shim.at(request, tmp_path_factory).folder):
        yield get_backend("cupy")


def trained(ops, *more, batch_size=16):
    model = tn.Model(tn.Sequential(tn.Dense(4), *more, tn.Dense(3)), 2, backend=ops, seed=1)
    model.fit(tn.data.Blobs(64, n_features=2, n_classes=3), epochs=3, batch_size=batch_size)
    return ops.to_numpy(model.theta)


@pytest.mark.slow
def test_a_step_that_waits_is_not_captured(ops, caplog):
    caplog.set_level(logging.INFO, logger="tinynet")
    assert np.isfinite(trained(ops)).all()
    assert "is not captured" not in caplog.text
    trained(ops, Peeking())
    assert "is not captured" in caplog.text
    assert "synchronous API calls are disallowed: ndarray.get" in caplog.text


@pytest.mark.slow
def test_a_graph_in_the_memory_of_all(ops, monkeypatch):
    """Which the graph of the next kind of batch gives back to the device."""
    monkeypatch.setattr(runtime.Pool, "malloc", lambda self, size: memory.main.malloc(size))
    with pytest.raises(RuntimeError, match="IllegalAddress"):
        trained(ops, batch_size=24)


@pytest.mark.slow
def test_a_graph_whose_inputs_are_not_filled(ops, monkeypatch):
    monkeypatch.setattr(runtime.Runtime, "copy", lambda self, to, what: None)
    with pytest.raises(tn.DivergedError):
        trained(ops)
