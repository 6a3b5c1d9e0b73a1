"""A captured step does what the step does, to the bit, and says so where it cannot."""

import copy
import gc
import logging
import math
import threading
import weakref
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pytest
from test_layers import LAYERS, names
from test_ops import CASES, assert_same
from tinynet_backends import Backend, BackendUnavailable, get_backend, passes
from tinynet_backends.replay import KINDS, Compilation

import tinynet as tn
from tinynet import schedules

DATA = tn.data.Blobs(70, n_features=5, n_classes=3, seed=1)


@pytest.fixture(params=["numpy", "numba"])
def ops(request):
    try:
        return get_backend(request.param)
    except BackendUnavailable as e:
        pytest.skip(str(e))


@pytest.fixture
def reasons(caplog):
    """Why steps were not captured."""
    caplog.set_level(logging.INFO, logger="tinynet")
    return lambda: [r.getMessage().split(": ", 1)[1] for r in caplog.records if "is not captured" in r.getMessage()]


def flat(case):
    """The arrays among arguments, also those in lists, and how to put others in their places."""
    arrays = [a for value in case for a in (value if isinstance(value, list) else [value]) if isinstance(a, np.ndarray)]

    def refill(arrays):
        left = iter(arrays)
        return [
            [next(left) for _ in value]
            if isinstance(value, list)
            else next(left)
            if isinstance(value, np.ndarray)
            else value
            for value in case
        ]

    return arrays, refill


@pytest.mark.parametrize("dtype", ["float32", pytest.param("float64", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", CASES)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_an_operation_that_is_played_follows_its_arguments(ops, name, dtype):
    for case in CASES[name](lambda a: a.astype(dtype)):
        arrays, refill = flat(case)
        compiled = ops.compile(lambda *given, refill=refill: getattr(ops, name)(*refill(given)))
        for turn in range(4):
            given = [np.roll(a, turn).copy(order="K") for a in arrays]
            plain = [a.copy(order="K") for a in given]
            got = compiled(*given)
            wanted = getattr(ops, name)(*refill(plain))
            for a, b in ((got, wanted), (given, plain)):
                assert_same(as_lists(a), as_lists(b), 0.0)


def as_lists(value):
    if isinstance(value, (tuple, list)):
        return [as_lists(v) for v in value]
    return np.asarray(value) if isinstance(value, (np.ndarray, np.generic)) else value


def trained(net, ops, loss=None, dtype="float32", data=DATA, **options):
    model = tn.Model(net, data.shape, backend=ops, dtype=dtype, seed=2)
    history = model.fit(data, loss=loss, batch_size=32, epochs=3, **options)
    return model, history


def as_written(monkeypatch):
    """Compiled steps run as they are written, every time."""
    monkeypatch.setattr(Compilation, "_capture", lambda self, kind, args: self.step(*self.fixed, *args))


def compare(make, ops, reasons, monkeypatch):
    """``make()`` -> (model, history), captured and not."""
    model, history = make()
    assert reasons() == []
    with monkeypatch.context() as patch:
        as_written(patch)
        other, wanted = make()
    assert model.theta.tobytes() == other.theta.tobytes()
    assert model.state.tobytes() == other.state.tobytes()
    assert history["loss"] == wanted["loss"]
    x = DATA.batch(range(40), ops, model.dtype).x
    whole = model.predict(x)
    for _ in range(3):  # played by now
        np.testing.assert_array_equal(model.predict(x), whole)


@pytest.mark.parametrize("layer", LAYERS, ids=names(LAYERS))
def test_every_layer_is_captured(layer, ops, reasons, monkeypatch):
    before = [] if isinstance(layer, tn.Standardize) else [tn.Dense(4)]  # which is set only in the first place
    net = tn.Sequential(*before, layer, tn.Dense(3))
    compare(lambda: trained(net, ops), ops, reasons, monkeypatch)


LOSSES = [
    tn.SumSquaredError(), tn.MeanSquaredError(), tn.MeanAbsoluteError(), tn.Huber(0.3), tn.Quantile(0.9), tn.Poisson(),
    tn.BinaryCrossEntropy(), tn.BinaryCrossEntropy((0.5, 3.0)), tn.Hinge(),
]  # fmt: skip


@pytest.mark.parametrize("loss", LOSSES, ids=repr)
@pytest.mark.parametrize("weighted", [False, True])
def test_every_loss_is_captured(loss, weighted, ops, reasons, monkeypatch):
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, (70, 2)).astype("float32") * (2 if isinstance(loss, tn.Hinge) else 1)
    y = y - 1 if isinstance(loss, tn.Hinge) else y
    data = tn.Arrays(rng.standard_normal((70, 5)).astype("float32"), y, rng.random(70) if weighted else None)
    compare(lambda: trained(tn.Sequential(tn.Dense(2)), ops, loss, data=data), ops, reasons, monkeypatch)


WEIGHTED = tn.CrossEntropy(class_weight=(1, 2, 0.5))


@pytest.mark.parametrize(("loss", "width"), [(tn.CrossEntropy(0.1), 3), (WEIGHTED, 3), (None, 40)], ids=repr)
def test_cross_entropies_are_captured(loss, width, ops, reasons, monkeypatch):
    compare(lambda: trained(tn.Sequential(tn.Dense(width)), ops, loss), ops, reasons, monkeypatch)


OPTIMIZERS = [tn.SGD(0.1), tn.SGD(0.1, momentum=0.9, nesterov=True, l2=0.01), tn.Adagrad(),
              tn.RMSprop(momentum=0.9, l2=0.1), tn.Adam(),
              tn.AdamW(schedules.Warmup(3, schedules.Cosine(0.05, 9))), tn.NAdam(),
              tn.Lion(weight_decay=0.1)]  # fmt: skip


@pytest.mark.parametrize("dtype", ["float32", pytest.param("float64", marks=pytest.mark.slow)])
@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=repr)
def test_every_optimizer_is_captured(optimizer, dtype, ops, reasons, monkeypatch):
    net = tn.Sequential(tn.Dense(4), tn.Tanh(), tn.Dense(3))
    options = {"optimizer": optimizer, "clip": 0.5, "accumulate": 2, "ema": 0.9, "validation": DATA.take(33)}
    compare(lambda: trained(net, ops, dtype=dtype, **options), ops, reasons, monkeypatch)


# What cannot be captured runs as it is written


@dataclass(frozen=True, repr=False)
class Own(tn.Layer):
    """A layer that does with its input what it is told."""

    f: object

    def forward(self, params, x, ctx):
        return self.f(x), lambda dy: (dy, {})


UNCAPTURABLE = {
    "a value needed by Python (bool)": lambda x: x + 1 if x[0, 0] > 0 else x,
    "a value needed by Python (float)": lambda x: x * min(1.0, float(x.sum())),
    "a value needed by Python (int)": lambda x: x * int(x[0, 0] * 0 + 2),
    "a value needed by Python (index)": lambda x: x * range(1, 9)[np.argmax(x[0])],
    "a value needed by Python (str)": lambda x: x + len(str(x)),
    "an array made of one (asarray)": lambda x: x + np.asarray(x).mean(),
    "the function unique": lambda x: x + np.unique(x)[0],
    "the function array_equal": lambda x: x + float(np.array_equal(x, x)),
    "a copy by one of the modules copy and pickle": lambda x: copy.copy(x) + copy.deepcopy(x),
    "the attribute 'tolist' of an array": lambda x: x + float(np.mean(x.tolist())),
    "a result written to an array that the step does not own": lambda x: np.add(0.0, x, out=np.ones(x.shape, x.dtype)),
    "the function clip": lambda x: (x * 1.0).clip(-0.1, 0.1, out=x * 1.0),
    "the function sum, which may write to an argument": lambda x: into(np.sum, x, 0, None),
    "the function nan_to_num, which may write to an argument": lambda x: np.nan_to_num(np.sqrt(x), copy=False),
    "TypeError: only arrays here": lambda x: only_arrays(x),
    "elements selected by a mask": lambda x: x + 0.1 * x[x > 0].mean(),
    "the function where": lambda x: x + 0.1 * x[np.where(x[:, 0] > 0)[0]].sum(axis=0),
    "the function bincount": lambda x: x * (1 + 0.01 * float(np.bincount(np.argmax(x, axis=1)).max())),
    "an attribute that is set, 'shape'": lambda x: reshaped(x * 1.0),
}  # fmt: skip


def reshaped(y):
    y.shape = y.shape[::-1]
    return y.T


def only_arrays(x):
    if not isinstance(x, np.ndarray):
        raise TypeError("only arrays here")
    return x * 2


def into(f, x, *args):
    """A result that is asked for by place."""
    y = x[0] * 1.0
    f(x, *args, y)
    return x + y


@pytest.mark.parametrize("reason", UNCAPTURABLE)
def test_what_cannot_be_captured_runs_as_it_is_written(reason, ops, reasons, monkeypatch):
    f = UNCAPTURABLE[reason]
    net = tn.Sequential(tn.Dense(5), Own(f), tn.Dense(3))
    model, history = trained(net, ops)
    said = reasons()
    assert said
    assert all(reason in text for text in said), said
    with monkeypatch.context() as patch:
        as_written(patch)
        other, wanted = trained(net, ops)
    assert model.theta.tobytes() == other.theta.tobytes()
    assert history["loss"] == wanted["loss"]


DRAWN = {
    "an array": lambda x, rng: x + rng.normal(size=x.shape).astype(x.dtype),
    "among arguments": lambda x, rng: np.where(x > 0, x, [rng.random()] * x.shape[1]).astype(x.dtype),
    "a number": lambda x, rng: x * rng.random(),
    "a whole number": lambda x, rng: x * int(rng.integers(10**6)) * 1e-6,
    "assigned": lambda x, rng: assigned(x, rng.normal(size=len(x))),
    "into one array": lambda x, rng: x + rng.standard_normal(out=NOISE, dtype="float32")[: len(x)],
    "a mask": lambda x, rng: np.add(x, 1.0, out=x * 1.0, where=rng.random(x.shape) < 0.5),
    "given to the backend": lambda x, rng: x + get_backend("numpy").asarray(rng.normal(size=x.shape), str(x.dtype)),
}


NOISE = np.empty((32, 5), "float32")


def assigned(x, numbers):
    y = x * 1.0
    y[:, 0] = numbers
    return y


@pytest.mark.parametrize("kind", DRAWN)
def test_what_numpy_draws_is_new_in_every_step(kind, ops, reasons, monkeypatch):
    """A replay would repeat the noise of one step for ever."""

    def make():
        rng = np.random.default_rng(0)
        return trained(tn.Sequential(tn.Dense(5), Own(lambda x: DRAWN[kind](x, rng)), tn.Dense(3)), ops)

    model, history = make()
    assert any("another one in every call" in text for text in reasons())
    with monkeypatch.context() as patch:
        as_written(patch)
        other, wanted = make()
    assert model.theta.tobytes() == other.theta.tobytes()
    assert history["loss"] == wanted["loss"]


CAPTURABLE = {
    "views and functions": lambda x: np.concatenate([x[:, 2:].reshape(-1, 3), x.T[:2].T], axis=1),
    "several results": lambda x: np.stack(np.split(x.mT, 5), axis=0).sum(axis=0).T * np.ones(5, x.dtype),
    "where, take, cumsum": lambda x: np.where(x > 0, np.take(x, np.arange(5), axis=1), np.cumsum(x, axis=0)),
    "methods": lambda x: (x - x.mean(axis=0)) / (1 + abs(x).max(axis=1, keepdims=True)).astype(x.dtype),
    "in place": lambda x: in_place(x),
    "themselves": lambda x: np.real(np.atleast_2d(x.astype(x.dtype, copy=False))).squeeze() * 2.0,
    "selected by numbers": lambda x: x[:, np.array([4, 3, 2, 1, 0])] + x[np.arange(len(x))],
    "one by one": lambda x: x + x[0, 0] * x[1][2] + sum(row[0] for row in x),
    "scalars": lambda x: scalars(x),
    "arrays of scalars": lambda x: arrays_of_scalars(x),
    "reductions": lambda x: x * np.logaddexp.reduce(x, axis=1, keepdims=True) + np.add.outer(x[:, 0], x[0]),
}


def scalars(x):
    """A scalar is a copy, which neither a write to the array nor ``+=`` changes."""
    total = x.sum(axis=0)
    first, *others = total
    total[:] = 0.0
    last = x[0, -1]
    twice = last
    twice += last
    return x + total * first + sum(others) * (twice - last)


def arrays_of_scalars(x):
    """What NumPy makes of a scalar is another scalar, or an array that has nothing in common with it."""
    total = x.sum()
    made = [np.reshape(total, (1,)), total[None], total[...], np.broadcast_to(total, (1,)) * 1.0]
    for array in made:
        array += 1.0
    copies = [total.copy(), total.astype(x.dtype), total.T, total[()]]
    changed = [*copies]
    for n in range(len(changed)):
        changed[n] += 1.0
    return x * total + sum(made) + sum(copies) - 0.5 * sum(changed)


def in_place(x):
    y = x * 2.0
    y += 1.0
    y[:, :2] *= x[:, :2]
    y[...] = y - x
    return y


@pytest.mark.parametrize("kind", CAPTURABLE)
def test_calls_of_numpy_are_captured(kind, ops, reasons, monkeypatch):
    net = tn.Sequential(tn.Dense(5), Own(CAPTURABLE[kind]), tn.Dense(3))
    compare(lambda: trained(net, ops), ops, reasons, monkeypatch)


def test_a_dropout_of_a_view_is_captured(ops, reasons, monkeypatch):
    net = tn.Sequential(tn.Dense(5), Own(lambda x: x[:, ::-1]), tn.Dropout(0.3), tn.Dense(3))
    compare(lambda: trained(net, ops), ops, reasons, monkeypatch)


@dataclass(frozen=True, repr=False)
class Centred(tn.Layer):
    """Samples minus a moving average of their means, which it keeps."""

    kept: dict
    asks: bool = True

    def forward(self, params, x, ctx):
        if self.asks:
            ctx.ops.as_written("it keeps an average")
        self.kept["mean"] = mean = 0.9 * self.kept.get("mean", 0.0) + 0.1 * x.mean(axis=0)
        return ctx.ops.elementwise(lambda xp, a, b: a - b, x, x * 0 + mean), lambda dy: (dy, {})


def test_what_a_layer_keeps_is_an_array_if_it_asks_to_run_as_written(ops, reasons, monkeypatch):
    def net(**asks):
        return tn.Sequential(tn.Dense(5), Centred({}, **asks), tn.Dense(3))

    model, _ = trained(net(), ops)
    assert set(reasons()) == {"it keeps an average"}
    with pytest.raises(TypeError, match="was kept: call ops.as_written"):
        trained(net(asks=False), ops)
    as_written(monkeypatch)
    assert model.theta.tobytes() == trained(net(), ops)[0].theta.tobytes()


def test_noise_that_a_formula_is_given_is_new_in_every_step(ops):
    rng = np.random.default_rng(0)
    compiled = ops.compile(lambda x: ops.elementwise(lambda xp, a, b: a + b, x, rng.normal(size=3)))
    assert len({compiled(np.zeros(3)).tobytes() for _ in range(5)}) == 5


def test_what_a_layer_keeps_is_not_written_by_the_next_step(ops):
    """The memory of a step is that of the step before: a layer that kept its output found the new one."""
    kept = []

    def step(w, x):
        ops.as_written("it keeps its outputs")
        kept.append(ops.affine(x, w))
        return kept[-1]

    compiled = ops.compile(step, np.ones((2, 1), "float32"))
    for n in range(4):
        compiled(np.full((3, 2), n, "float32"))
        compiled(np.full((4, 2), n, "float32"))
    assert [y.tolist() for y in kept] == [[[2.0 * n]] * size for n in range(4) for size in (3, 4)]


def test_a_result_of_another_shape_is_not_broadcast(ops):
    compiled = ops.compile(lambda x: x.repeat(np.argmax(x)))
    assert [len(compiled(x)) for x in np.eye(4)[::-1][:2]] == [12, 8]
    with pytest.raises(ValueError, match="as_written"):
        compiled(np.eye(4)[1])


def assign(theta, x):
    theta[...] = theta + x


WRITES = [
    assign, lambda theta, x: np.copyto(theta, theta + x), lambda theta, x: np.add.at(theta, [0, 1, 2], x),
    lambda theta, x: theta.__setitem__([0, 1, 2], theta + x), lambda theta, x: np.clip(theta + x, 0, 9, out=theta),
]  # fmt: skip


@pytest.mark.parametrize("write", WRITES)
def test_a_failure_after_a_write_is_not_run_twice(write, ops):
    def step(theta, x):
        write(theta, x)
        return only_arrays(x)

    theta = np.zeros(3)
    compiled = ops.compile(step, theta)
    compiled(np.ones(3))
    with pytest.raises(TypeError, match="only arrays here") as e:
        compiled(np.ones(3))
    assert "as_written" in e.value.__notes__[0]
    assert theta.tolist() == [2.0] * 3


@pytest.mark.parametrize(
    "f",
    [
        lambda x, n: x * len(f"{n:.3f}"), lambda x, n: x * round(n, 1), lambda x, n: x * divmod(n, 2)[1],
        lambda x, n: x * +math.floor(n), lambda x, n: x * (1 << n), lambda x, n: x * len(f"{x.mean():.3f}"),
        lambda x, n: x * round(x[0], 1),
    ],
)  # fmt: skip
def test_a_value_that_python_needs_after_a_write(f, ops):
    """A format, or a number that was rounded, ended a run whose step had written before."""

    def step(theta, x, n):
        theta[...] = theta + x
        return f(x, n)

    theta = np.zeros(3)
    compiled, x = ops.compile(step, theta), np.full(3, 0.25)
    for n in range(1, 5):
        assert compiled(x, n).tolist() == f(x, n).tolist()
        assert theta.tolist() == [0.25 * n] * 3


def test_inputs_of_every_layout_and_shape(ops):
    compiled = ops.compile(lambda x: ops.elementwise(double, x))
    x = np.arange(60.0).reshape(6, 10)
    for a in (x, x.T, x[::2], x[:, ::-1], x[:0], x[0], np.asarray(3.0), x.astype("float32"), x.astype("<i4")) * 4:
        np.testing.assert_array_equal(compiled(a), 2 * a)
        assert compiled(a).dtype == a.dtype


def double(xp, x):
    return x + x


def test_one_function_may_return_views_of_an_input_and_of_what_stays(ops):
    """Each is read where it lies."""
    compiled = ops.compile(lambda w, x: np.subtract(*np.broadcast_arrays(w, x)), np.arange(3.0))
    for n in range(6):
        x = np.full((2, 3), float(n))
        np.testing.assert_array_equal(compiled(x), np.arange(3.0) - x)


def test_arguments_left_out_and_arrays_of_a_subclass_are_not_those_before(ops, tmp_path):
    """An optional argument is not the one of the last call, and a memory map has a shape as any array has."""
    compiled = ops.compile(lambda x, by=None: x + x if by is None else x * by)
    for n in range(4):
        assert compiled(np.full(3, float(n)), None).tolist() == [2.0 * n] * 3
    for n, shape in enumerate([(3,), (3,), (3,), (5,)]):
        x = np.memmap(tmp_path / str(n), np.float64, "w+", shape=shape)
        x[...] = n
        assert compiled(x, np.asarray(3.0)).tolist() == [3.0 * n] * shape[0]
        assert compiled(x).tolist() == [2.0 * n] * shape[0]


class Pair(NamedTuple):
    w: np.ndarray
    b: np.ndarray


def test_fixed_arrays_may_be_in_named_tuples(ops, reasons):
    fixed = Pair(np.ones((3, 2)), np.zeros(2)), {"scale": [np.full(2, 3.0)]}
    compiled = ops.compile(lambda pair, others, x: ops.affine(x, pair.w, pair.b) * others["scale"][0], *fixed)
    assert [compiled(np.full((4, 3), n)).tolist() for n in (1.0, 2.0, 3.0)] == [[[9.0 * n] * 2] * 4 for n in (1, 2, 3)]
    assert not reasons()


def test_memory_does_not_grow_with_the_number_of_shapes(ops):
    compilation = Compilation(ops, lambda x: ops.elementwise(double, x), ())
    for n in [*range(1, 2 * KINDS), 1, 2 * KINDS - 1, 5]:
        for _ in range(3):
            np.testing.assert_array_equal(compilation((np.full((n, 3), 2.0),)), np.full((n, 3), 4.0))
    assert len(compilation.replays) == KINDS
    assert [kind[0][0][0] for kind in compilation.replays][-3:] == [1, 2 * KINDS - 1, 5]


def test_a_broadcast_array_of_no_elements(ops):
    compiled = ops.compile(lambda x: x + np.broadcast_to(x[:0], (2, 0)).sum())
    for n in range(4):
        assert compiled(np.full(3, float(n))).tolist() == [float(n)] * 3


def test_arguments_that_were_one_array_may_be_two(ops):
    compiled = ops.compile(
        lambda w, x, y: np.subtract(*np.broadcast_arrays(x, y)) + np.subtract(*np.broadcast_arrays(w, y)), W
    )
    for n in range(5):
        y = W if n < 2 else np.full(3, float(n))
        x = y if n < 3 else np.zeros(3)
        assert compiled(x, y).tolist() == (x + W - 2 * y).tolist()


W = np.arange(3.0)


@pytest.mark.parametrize(
    "part",
    [
        lambda x, n: x[n] * 1.0, lambda x, n: np.diagonal(x, n) * 1.0,
        lambda x, n: x[np.argmax(x[0] >= n)] * 1.0, lambda x, n: np.diagonal(x, np.argmax(x[0] >= n)) * 1.0,
    ],
)  # fmt: skip
def test_a_part_that_a_number_chooses_is_another_in_every_call(part, ops):
    """A row of a table, such as that of the step, is a view: the replay gave the same one for ever."""
    table = np.arange(25.0).reshape(5, 5)
    compiled = ops.compile(part, table)
    for n in range(5):
        assert compiled(n).tolist() == part(table, n).tolist()


def test_numbers_are_read_anew(ops):
    theta = np.zeros(40_000, "float32")
    compiled = ops.compile(lambda theta, rate: ops.update(lambda xp, a, r: (a + r,), [theta], [], rate), theta)
    for n in range(6):
        compiled(float(n))
        compiled(n)
    assert set(theta.tolist()) == {30.0}


def test_a_scalar_of_an_update_that_the_step_computes_is_read_anew(ops):
    """Such as a norm: NumPy kept that of the captured call, and where a formula is not traced, took it for another number."""
    theta, other = np.zeros(3, "float32"), np.zeros(3, "float32")

    def step(theta, other, x, rate):
        ops.update(lambda xp, a, r: (a + r,), [theta], [], np.sum(x))
        ops.update(lambda xp, a, r, s: (a + (r * s if r else s),), [other], [], rate, np.sum(x))

    compiled = ops.compile(step, theta, other)
    for n in range(6):
        compiled(np.full(2, n, "float32"), float(n))
    assert (theta.tolist(), other.tolist()) == ([30.0] * 3, [110.0] * 3)


def listed(x, number):
    y = x * 1.0
    y[0] = [number, 0.5]
    return np.add(y, [x[1], x[0]])


@pytest.mark.parametrize(
    "f",
    [
        listed, lambda x, n: np.add(x, [n, 1.0]), lambda x, n: x * np.sqrt(n), lambda x, n: x * np.full(2, n),
        lambda x, n: x * np.asarray(n), lambda x, n: x * 2.0 if isinstance(n, int) else x * 3.0,
    ],
)  # fmt: skip
def test_inputs_in_lists_and_numbers_made_arrays_are_read_anew(f, ops):
    """A list was recorded with the rows and numbers of one call; an array of a number was one of objects."""
    compiled = ops.compile(f)
    for n in range(5):
        x = np.arange(4.0).reshape(2, 2) + n
        for number in (n, n + 0.5):
            found, wanted = compiled(x, number), f(x, number)
            assert (found.tolist(), found.dtype) == (wanted.tolist(), wanted.dtype)


def test_operations_on_one_number(ops):
    """numba took a scalar of NumPy's for an address: the process ended."""
    x, total = np.full(3, 2.0), np.zeros(())
    step = ops.compile(
        lambda total, x: ops.update(lambda xp, a, b: (a + b,), [total], [ops.elementwise(double, x.sum())]), total
    )
    for n in range(1, 5):
        step(x)
        assert total == 12.0 * n


def test_what_ctrl_c_kept_from_its_place_is_put_there_by_the_next_call(ops):
    """Called again with the same array, the step took it for one that was in place, and read the one before."""
    compilation = Compilation(ops, lambda x, n: ops.elementwise(double, x) * n, ())
    for n in range(4):
        compilation((np.full(3, float(n)), n))

    def interrupt(new):
        del replay.places[0][0]
        raise KeyboardInterrupt

    replay, x = compilation.latest, np.full(3, 5.0)
    replay.places[0].insert(0, interrupt)
    with pytest.raises(KeyboardInterrupt):
        compilation((x, 2))
    assert compilation((x, 2)).tolist() == [20.0] * 3


def test_ctrl_c_before_a_capture_begins(ops, monkeypatch):
    def interrupt(*args):
        raise KeyboardInterrupt

    compilation, x = Compilation(ops, lambda x: ops.elementwise(double, x), ()), np.ones(3)
    compilation((x,))
    monkeypatch.setattr("tinynet_backends.replay.Source", interrupt)
    with pytest.raises(KeyboardInterrupt):
        compilation((x,))
    assert isinstance(ops.elementwise(double, x), np.ndarray)


def test_what_is_computed_from_numbers_alone_waits_for_new_ones(monkeypatch):
    """On NumPy: two formulas with numbers of their own, of which one stays."""
    ops, theta, ran = get_backend("numpy"), np.zeros(3), []
    call = passes.OnNumbers.__call__
    monkeypatch.setattr(passes.OnNumbers, "__call__", lambda self, *args: (ran.append(args[0]), call(self, *args)))

    def step(theta, rate, offset):
        ops.update(lambda xp, a, r: (a + 2.0 * r,), [theta], [], rate)
        ops.update(lambda xp, a, o: (a - 2.0 * o,), [theta], [], offset)

    compiled, rates = ops.compile(step, theta), [1.0, 2.0, 2.0, 3.0, 3.0, 0.5]
    for rate in rates:
        compiled(rate, 4.0)
    assert theta.tolist() == [2.0 * sum(rates) - 8.0 * len(rates)] * 3
    assert ran == [1.0, 4.0, 2.0, 4.0, 3.0, 0.5]  # the first call as written, the second captured, then what is new


def test_a_step_within_a_step_is_part_of_it(ops):
    w = np.ones((3, 2), "float32")
    inner = ops.compile(lambda w, x: ops.affine(x, w), w)
    outer = ops.compile(lambda w, x: inner(x) + ops.affine(x, w), w)
    for n in range(5):
        w[...] = n
        np.testing.assert_array_equal(outer(np.full((4, 3), 2.0, "float32")), np.full((4, 2), 12.0 * n))


def test_an_input_that_is_returned(ops):
    compiled = ops.compile(lambda x: (x, x.T))
    for n in range(4):
        x = np.full((2, 3), float(n))
        assert compiled(x)[1].tolist() == x.T.tolist()


def test_threads_have_tapes_of_their_own(ops):
    model = tn.Model(tn.Sequential(tn.Dense(64), tn.Tanh(), tn.Dense(3)), 5, backend=ops)
    x = np.random.default_rng(0).standard_normal((8, 200, 5)).astype("float32")
    wanted = [np.array(model.predict(part)) for part in x]
    wrong = []

    def predict(n):
        wrong.extend(n for _ in range(40) if not np.array_equal(model.predict(x[n]), wanted[n]))

    threads = [threading.Thread(target=predict, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_where_nothing_is_captured_nothing_is_said(caplog):
    strict = get_backend("strict")
    with caplog.at_level(logging.INFO, logger="tinynet"):
        assert isinstance(strict, Backend)
        strict.as_written("no reason")
    assert not caplog.records


@pytest.mark.parametrize("captured", [True, False])
def test_what_a_step_reads_is_given_up_with_it(ops, captured):
    """A tape is in a cycle with its stand-ins, and data that a step reads would stay until garbage is collected."""

    def step(read, x, n):
        read = read if captured else read + float(x[0])
        return np.cumsum(x * n + read)  # no kernel: a call that gets new inputs

    read, x = np.ones(3), np.arange(3.0)
    kept = weakref.ref(read)
    compiled = ops.compile(step, read)
    gc.collect()
    gc.disable()
    try:
        results = [compiled(x + n, float(n)).tolist() for n in range(4)]
        del read, compiled
        assert kept() is None
    finally:
        gc.enable()
    assert results[3] == np.cumsum((x + 3) * 3 + (1.0 if captured else 4.0)).tolist()
