"""What a step takes is known before it runs, and graphs go with their model."""

import copy
import gc
import tracemalloc
import weakref
from contextlib import contextmanager

import numpy as np
import pytest
from tinynet_backends import get_backend

import tinynet as tn
from tinynet.footprint import launch_bytes, step_bytes
from tinynet.step import StepOptions


def test_it_follows_from_shapes():
    net = tn.Sequential(tn.Dense(8), tn.ReLU(), tn.Residual(tn.Dense(8)), tn.Dense(3))  # 147 parameters
    # outputs 8 + 8 + 8 + 3; vectors: gradient, good, update of theta and two slots, the slots
    usual = step_bytes(tn.Model(net, 5), 10, 2, StepOptions())
    assert usual == 4 * (7 * 147 + 2 * 10 * 5 + 10 * 3 * 27)
    more = step_bytes(tn.Model(net, 5, dtype="float64"), 10, 2, StepOptions(accumulate=4, ema=0.9))
    assert more == 8 * (9 * 147 + 2 * 10 * 5 + 3 * 3 * 27)


def test_a_layer_that_runs_its_layers_in_another_way_is_one_layer():
    class Parallel(tn.Sequential):
        """Each layer on the same input, their outputs side by side."""

        def build(self, shape):
            return tn.layers.Spec((sum(layer.build(shape).shape[0] for layer in self.layers),))

    net = Parallel(tn.Dense(3), tn.Residual(tn.Dense(4)))  # which does not take the output of the first
    assert step_bytes(tn.Model(net, 4), 2, 0, StepOptions()) == 4 * (2 * 2 * 4 + 2 * 3 * 7)


def test_launches_of_several_steps_take_their_batches_and_gradients(monkeypatch):
    labels = tn.Loader(tn.data.Blobs(50, n_features=2), 10)
    numbers = tn.Loader(tn.data.Linear(50, n_features=2, n_outputs=3), 10)
    net = tn.Sequential(tn.Dense(3), tn.Dense(3))
    single, double = (tn.Model(net, 2, dtype=dtype) for dtype in ("float32", "float64"))
    # of 64 steps in a chunk, 64 and 16 are launched together; parameters at 6, 9 and 18 are not aligned, as float64 only 9
    assert launch_bytes(single, labels, [64, 16]) == 160 * 10 * 16 + 80 * 4 * 15
    assert launch_bytes(double, numbers, [64, 16]) == 160 * 10 * 40 + 80 * 8 * 9
    assert launch_bytes(single, numbers, []) == 0

    ops, asked = get_backend("numpy"), []
    monkeypatch.setattr(type(ops), "launches", True)
    monkeypatch.setattr(tn.Loader, "made_on_host", lambda self, ops: False)
    monkeypatch.setattr(ops, "admit", lambda needed, what: asked.append(needed))
    model, data = tn.Model(tn.Dense(3), 5, backend=ops), tn.data.Blobs(50_000, n_features=5)
    for batch, together in ((100, False), (100, True), (99, True)):
        tn.train(model, tn.Loader(data, batch), tn.CrossEntropy(), tn.Adam(), steps=1, together=together)
    few, many, others = asked
    assert many - few == 84 * (2 * 100 * 28 + 4 * 3)  # in launches of 64, 16 and 4 steps; the biases are at 15
    assert others < few  # batches that would not be aligned are launched one by one


@pytest.mark.parametrize(("widths", "batch"), [((256, 256, 10), 1024), ((512, 512, 10), 16)])
def test_it_is_near_what_is_taken(widths, batch):
    net = tn.Sequential(*[layer for w in widths for layer in (tn.Dense(w), tn.ReLU())][:-1])
    data = tn.Arrays(np.ones((batch, 64), "float32"), np.zeros(batch, "int64"))
    model = tn.Model(net, 64)
    tracemalloc.start()
    try:
        reports = tn.train(model, tn.Loader(data, batch), tn.CrossEntropy(), tn.Adam(1e-3), steps=3)
        for _ in reports:
            pass
        taken = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    said = step_bytes(model, batch, 2, StepOptions())
    assert 0.5 < said / taken < 2


def test_what_a_part_of_a_batch_took_is_free_before_the_next():
    net = tn.Sequential(*[layer for _ in range(4) for layer in (tn.Dense(64), tn.ReLU())], tn.Dense(3))
    data = tn.Arrays(np.ones((1024, 8), "float32"), np.zeros(1024, "int64"))
    taken = []
    for parts in (1, 2):
        model = tn.Model(net, 8, backend="strict")  # NumPy and numba keep what a step took
        reports = tn.train(model, tn.Loader(data, 1024), tn.CrossEntropy(), tn.SGD(1e-3), steps=1, accumulate=parts)
        tracemalloc.start()
        try:
            for _ in reports:
                pass
            taken.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
    assert taken[1] < 0.65 * taken[0]


def test_a_backend_is_asked_before_anything_is_allocated(monkeypatch):
    asked = []

    def admit(needed, what):
        asked.append((needed, what))
        raise MemoryError(what)

    model = tn.Model(tn.Sequential(tn.Dense(3)), 2)
    monkeypatch.setattr(model.ops, "admit", admit)
    loader = tn.Loader(tn.data.Spirals(n=64), 32)
    with pytest.raises(MemoryError, match="training with batch_size 32"):
        tn.train(model, loader, tn.CrossEntropy(), tn.Adam(), steps=1)
    assert asked[0][0] > 0


@pytest.mark.parametrize("launches", [False, True], ids=["one by one", "launched together"])
def test_a_model_goes_without_a_search_for_cycles(launches, monkeypatch):
    monkeypatch.setattr(type(get_backend("numpy")), "launches", launches)
    monkeypatch.setattr(tn.Loader, "made_on_host", lambda self, ops: not launches)
    gc.collect()
    gc.disable()
    try:
        model = tn.Model(tn.Sequential(tn.Dense(3)), 2, backend=get_backend("numpy"))
        for _ in range(3):
            model.predict(np.ones((4, 2), "float32"))
        model.fit(tn.data.Spirals(n=256), batch_size=32)
        there = weakref.ref(model)
        del model
        assert there() is None
    finally:
        gc.enable()


def test_everything_of_a_model_runs_on_its_device(monkeypatch, tmp_path):
    """Whatever a model is asked, no array function runs while another device is the current one."""
    ops, inside, outside = get_backend("numpy"), [], []

    @contextmanager
    def active():
        inside.append(1)
        try:
            yield
        finally:
            inside.pop()

    model = tn.Model(tn.Sequential(tn.Standardize(), tn.Dense(3)), 2, backend=ops)
    monkeypatch.setattr(ops, "active", active)

    class Watched(type(np)):
        def __getattr__(self, name):
            if not inside and name not in ("float32", "float64", "int64", "dtype"):
                outside.append(name)
            return getattr(np, name)

    monkeypatch.setattr(ops, "xp", Watched("numpy"))
    data = tn.data.Spirals(n=64)
    model.fit(data, batch_size=32, epochs=2, validation=data)
    model.predict(data)
    model.predict_labels(data)
    model.evaluate(data)
    model.adapt(data)
    loader = tn.Loader(data, 32)
    reports = tn.train(model, loader, tn.CrossEntropy(), tn.Adam(), steps=4, ema=0.9)
    for _ in reports:
        assert not inside  # and the caller's device is the caller's
    ensemble = tn.fit_many(model, data, seeds=[1, 2], validation=data, ema=0.9)
    for forward in (ensemble.predict, ensemble.mean, ensemble.spread):
        forward(data)
    tn.find_rate(ensemble[1], data, steps=10)
    copy.deepcopy(model).theta = model.theta
    model.save(tmp_path / "m.safetensors")
    tn.load(tmp_path / "m.safetensors", backend=ops)
    tn.export.save_torch_state(model, tmp_path / "t.safetensors")
    tn.export.from_torch_state(model, tmp_path / "t.safetensors")
    assert outside == []
