"""Calls whose results are in the place of operands leave what the calls as recorded leave."""

from functools import partial

import numpy as np
import pytest
from tinynet_backends import get_backend, in_place
from tinynet_backends.capture import run
from tinynet_backends.replay import whole_of

import tinynet as tn

N = 12


@pytest.fixture
def small_ones_too(monkeypatch):
    monkeypatch.setattr(in_place, "_LARGE", 0)


def program(rng):
    """Random calls on buffers, each written before it is read, and the arrays that they leave."""
    buffers = [np.empty(N, "float32") for _ in range(6)]
    kept = [np.zeros(N, "float32") for _ in range(6)]
    calls = []

    def write(n, source):
        """``buffers[n]`` from others or itself, at once or in two blocks."""
        x, y = (buffers[source()] for _ in range(2))
        cut = int(rng.integers(0, N))
        way = rng.integers(0, 7)
        if way < 4:
            for block in (slice(cut), slice(cut, None)) if way < 2 else (slice(None),):
                a, b, out = x[block], y[block], buffers[n][block]
                calls.append([(np.add, (a, b, out)), (partial(np.maximum, out=out), (a, b))][way % 2])
        elif way == 4:  # a view of another layout is read as one writes
            calls.append((np.subtract, (x[::-1], y, buffers[n])))
        elif way == 5:
            calls.append((np.add.accumulate, (x, 0, None, buffers[n])))
        else:
            calls.append((partial(np.copyto, buffers[n], casting="unsafe"), (x,)))

    calls.append((np.copyto, (buffers[0], rng.standard_normal(N).astype("float32"))))
    for n in range(1, len(buffers)):
        write(n, lambda n=n: rng.integers(max(0, n - 2), n))
        if rng.random() < 0.5:
            write(int(rng.integers(0, n + 1)), lambda n=n: rng.integers(0, n + 1))
        calls.append((np.multiply, (buffers[int(rng.integers(0, n + 1))], np.float32(2), kept[n])))
    calls.append((np.copyto, (kept[0], buffers[-1])))
    return calls, buffers, kept


def test_the_same_arrays_are_left(small_ones_too):
    moved = 0
    for seed in range(100):
        calls, buffers, kept = program(np.random.default_rng(seed))
        run([(f, *args) for f, args in calls])
        wanted = [a.copy() for a in kept]
        changed = in_place.in_place(calls, {id(a) for a in buffers})
        for a in (*buffers, *kept):
            a[...] = np.nan
        for _ in range(2):
            run([(f, *args) for f, args in changed])
            np.testing.assert_array_equal(kept, wanted, err_msg=str(seed))
        moved += any(
            a is not b for (_, old), (_, new) in zip(calls, changed, strict=True) for a, b in zip(old, new, strict=True)
        )
    assert moved > 30


def places(calls, buffers):
    """The arrays in which results are, as numbers in order of appearance."""
    changed = in_place.in_place(calls, {id(a) for a in buffers})
    order = [id(whole_of(args[-1])) for _, args in changed]
    return [list(dict.fromkeys(order)).index(place) for place in order]


def test_which_results_are_in_place(small_ones_too):
    x, a, b, c, d = (np.ones(N) for _ in range(5))
    chain = [(np.negative, (x, a)), (np.exp, (a, b)), (np.sqrt, (b, c))]
    assert places(chain, [a, b, c]) == [0, 0, 0]
    assert places([*chain, (np.negative, (a, d))], [a, b, c]) == [0, 1, 1, 2]  # a is read later
    assert places(chain, [b, c]) == [0, 1, 1]  # a is needed after the step
    assert places([chain[0], (np.add.accumulate, (a, 0, None, b))], [a, b]) == [0, 1]  # not elementwise
    assert places([chain[0], (np.exp, (a[::-1], b))], [a, b]) == [0, 1]  # read in another order


@pytest.mark.parametrize("layer", [tn.ReLU(), tn.GELU(), tn.Dropout(0.3), tn.LayerNorm()], ids=repr)
def test_a_step_is_the_same_in_less_memory(layer, small_ones_too, monkeypatch):
    data = tn.data.Blobs(96, n_features=5, n_classes=3, seed=1)

    def trained():
        net = tn.Sequential(tn.Dense(8), layer, tn.Residual(tn.Sequential(tn.Dense(8), layer)), tn.Dense(3))
        model = tn.Model(net, data.shape, backend=get_backend("numpy"), seed=2)
        model.fit(data, batch_size=32, epochs=3)
        return model.theta.tobytes()

    found = trained()
    monkeypatch.setattr("tinynet_backends.numpy_backend.in_place", lambda calls, passing: calls)
    assert trained() == found
