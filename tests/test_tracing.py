"""Formulas run on symbols, and the passes that NumPy makes of them: the same bits as the formula as it stands."""

import types
import weakref
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import pytest
from tinynet_backends import get_backend
from tinynet_backends.numpy_backend import BLOCK
from tinynet_backends.passes import write_passes
from tinynet_backends.replay import Compilation
from tinynet_backends.tracing import Untraceable, trace, traced

import tinynet as tn

ACTIVATIONS = [
    tn.Sigmoid(), tn.Tanh(), tn.ReLU(), tn.LeakyReLU(0.2), tn.ELU(0.7), tn.GELU(approximate=True), tn.GELU(), tn.SiLU(),
    tn.Softplus(),
]  # fmt: skip
LOSSES = [
    tn.MeanSquaredError(), tn.SumSquaredError(), tn.MeanAbsoluteError(), tn.Huber(0.3), tn.Quantile(0.2), tn.Poisson(),
    tn.Hinge(), tn.BinaryCrossEntropy(), tn.BinaryCrossEntropy(class_weight=(0.5, 3.0)),
]  # fmt: skip
OPTIMIZERS = [
    tn.SGD(0.1), tn.SGD(0.1, momentum=0.9, nesterov=True, l2=0.1), tn.Adagrad(), tn.RMSprop(momentum=0.5), tn.Adam(),
    tn.AdamW(1e-2), tn.NAdam(), tn.Lion(),
]  # fmt: skip
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NaN and infinity are wanted here


def numbers(size, dtype, seed=0):
    x = np.random.default_rng(seed).standard_normal(size).astype(dtype)
    special = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-40, -1e30], dtype)[:size]
    x[: special.size] = np.roll(special, seed)
    return x


def equal_bits(a, b):
    assert a.dtype == b.dtype
    np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(np.signbit(a[~np.isnan(a)]), np.signbit(b[~np.isnan(b)]))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("layer", ACTIVATIONS, ids=repr)
def test_activations(layer, dtype):
    ops = get_backend("numpy")
    assert traced(layer.f, 1) is not None
    assert traced(layer.df, 3) is not None
    for size in (0, 1, 13, BLOCK + 37):
        x, dy = numbers(size, dtype), numbers(size, dtype, 1)
        y = layer.f(np, x)
        equal_bits(ops.elementwise(layer.f, x), y)
        equal_bits(ops.elementwise(layer.df, dy, x, y), layer.df(np, dy, x, y))


@pytest.mark.parametrize("loss", LOSSES, ids=repr)
def test_losses(loss):
    ops, y, t = get_backend("numpy"), numbers(60, "float32").reshape(20, 3), numbers(60, "float32", 2).reshape(20, 3)
    assert traced(loss.formula, 2) is not None
    wanted = loss.formula(np, y, t)
    slope = ops.elementwise_loss(loss.formula, y, t, np.ones(20, "float32"))[1]
    equal_bits(slope, wanted[1])
    finite = np.abs(np.nan_to_num(y, posinf=1.0, neginf=1.0)) + 0.5
    value = ops.elementwise_loss(loss.formula, finite, finite[::-1].copy(), np.full(20, 0.25, "float32"))[0]
    np.testing.assert_allclose(value, 0.25 * loss.formula(np, finite, finite[::-1])[0].sum(), rtol=1e-5)


@pytest.mark.parametrize("size", [1, BLOCK, 2 * BLOCK + 5])
@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=repr)
def test_optimizers(optimizer, size, monkeypatch):
    ops, theta, g = get_backend("numpy"), numbers(size, "float32"), numbers(size, "float32", 3)
    ours, state = theta.copy(), optimizer.init(theta, ops)
    other, plain = theta.copy(), optimizer.init(theta, ops)
    for t in range(3):
        optimizer.step(ours, g, state, t, ops)
    with monkeypatch.context() as patch:
        patch.setattr("tinynet_backends.numpy_backend.traced", lambda *_: None)
        for t in range(3):
            optimizer.step(other, g, plain, t, ops)
    equal_bits(ours, other)
    for name in optimizer.used_slots():
        equal_bits(state[name], plain[name])


def test_zeros_of_both_signs_are_two_constants():
    x = np.array([1.0, -1.0])
    out = np.empty(2), np.empty(2)
    passes = write_passes(trace(lambda xp, x: (xp.where(x > 0, x, -0.0), xp.where(x > 0, x, 0.0)), 1))
    scratch = {"m": [np.empty(2, bool)], "i": [np.empty(2, np.int64)]}
    for f, args in passes.calls(x.dtype, 2, {"a": [x], "o": out, **scratch}):
        f(*args)
    assert np.signbit(out[0]).tolist() == [False, True]
    assert np.signbit(out[1]).tolist() == [False, False]


def test_a_condition_of_constants_is_decided_at_once():
    x = np.array([1.0, -2.0])
    assert get_backend("numpy").elementwise(lambda xp, x: xp.where(xp.ones_like(x) < 0, x, -x), x).tolist() == [
        -1.0,
        2.0,
    ]


def test_options_have_the_names_that_the_array_api_gives_them():
    def named(xp, x):
        return xp.where(x > 2.0, xp.full_like(x, fill_value=3.0), xp.clip(x, min=-1.0, max=1.0))

    def by_place(xp, x):
        return xp.where(x > 2.0, xp.full_like(x, 3.0), xp.clip(x, -1.0, 1.0))

    assert trace(named, 1) == trace(by_place, 1)


def test_a_result_may_be_an_input_or_come_twice():
    ops, a, b = get_backend("numpy"), np.array([1.0, 2.0]), np.array([3.0, 4.0])
    ops.update(lambda xp, a, b: (b, a), [a, b], [])
    assert (a.tolist(), b.tolist()) == ([3.0, 4.0], [1.0, 2.0])
    ops.update(lambda xp, a, b: (a + b,) * 2, [a, b], [])
    assert a.tolist() == b.tolist() == [4.0, 6.0]


def test_the_same_is_not_computed_twice():
    assert len(trace(lambda xp, x: xp.exp(-x) * xp.exp(-x), 1).instructions) == 3


@pytest.mark.parametrize(
    "formula",
    [
        lambda xp, x: x if xp.max(x) > 0 else -x,
        lambda xp, x: x**3,
        lambda xp, x: xp.reshape(x, (-1,)),
        lambda xp, x: x * x.dtype.type(2),
        lambda xp, x: x * np.arange(4.0),
        lambda xp, x: x if x > 0 else -x,
        lambda xp, x: 1.0,
        lambda xp, x: x * ((x > 0) + (x > 1)),
        lambda xp, x: x * ((x > 0) * (x < 1) + (x > 1) * (x < 2)),
        lambda xp, x: xp.where((x > 0) & (1.0 > 0), x, -x),
        lambda xp, x: xp.where(x, x, -x),
        lambda xp, x: xp.where(xp.logical_and(x, x - 1), x, -x),
    ],
)
def test_what_cannot_be_traced(formula):
    assert traced(formula, 1) is None
    with pytest.raises((TypeError, AttributeError)):
        trace(formula, 1)


def test_a_formula_that_cannot_be_traced_is_computed_as_it_stands():
    x = np.arange(-2.0, 2.0)
    assert get_backend("numpy").elementwise(lambda xp, x: x**3, x).tolist() == [-8.0, -1.0, 0.0, 1.0]
    with pytest.raises(Untraceable, match="a branch on values"):
        trace(lambda xp, x: x if x > 0 else -x, 1)


def test_an_array_that_a_formula_reads_is_not_kept():
    """Where each step makes a formula that closes over an array of its own, a thousand of these were kept."""
    kept = []

    def step(factor, x):
        kept.append(weakref.ref(factor))
        return get_backend("numpy").elementwise(lambda xp, x: factor * x, x)

    assert step(np.full(2, 3.0), np.ones(2)).tolist() == [3.0, 3.0]
    assert kept[0]() is None


def test_a_formula_without_a_hash():
    class Unhashable:
        __hash__ = None

        def f(self, xp, x):
            return 2.0 * x

    assert get_backend("numpy").elementwise(Unhashable().f, np.ones(3)).tolist() == [2.0] * 3


@pytest.mark.parametrize("change", [3.0, [3.0]])
def test_a_formula_whose_object_has_changed_is_another(change, ops):
    """It was the first one still, on NumPy's arrays: a loss whose weight had been changed between two runs."""

    class Scaled:
        weight = 2.0

        def f(self, xp, x):
            return x * (self.weight if isinstance(self.weight, float) else self.weight[0])

    scaled, ones = Scaled(), ops.asarray(np.ones(3))
    assert ops.to_numpy(ops.elementwise(scaled.f, ones)).tolist() == [2.0] * 3
    scaled.weight = change
    assert ops.to_numpy(ops.elementwise(scaled.f, ones)).tolist() == [3.0] * 3


def test_a_formula_that_calls_a_method_which_was_replaced_is_another():
    class Scaled:
        def weight(self):
            return 2.0

        def f(self, xp, x):
            return x * self.weight()

    for weight in (2.0, 3.0):
        Scaled.weight = lambda self, weight=weight: weight
        assert get_backend("numpy").elementwise(Scaled().f, np.ones(3)).tolist() == [weight] * 3


RATE, RATES = 2.0, [2.0]


def rate():
    return RATE


def test_a_formula_that_reads_a_variable_which_was_set_is_another(ops, monkeypatch):
    """A loss whose weight is a global variable, set anew between two runs, kept its first one, in silence."""

    class Scaled:
        factor = 2.0

        def f(self, xp, x):
            return x * self.factor

    enclosing = 2.0
    formulas = [
        lambda xp, x: x * RATE, lambda xp, x: x * rate(), lambda xp, x: x * RATES[0], lambda xp, x: x * enclosing, Scaled().f,
        lambda xp, x, rates=RATES: x * rates[0],
    ]  # fmt: skip
    ones = ops.asarray(np.ones(3))
    for number in (2.0, 3.0):
        monkeypatch.setitem(globals(), "RATE", number)
        RATES[0] = enclosing = Scaled.factor = number
        assert [ops.to_numpy(ops.elementwise(f, ones)).tolist() for f in formulas] == [[number] * 3] * 6
    RATES[0] = 2.0
    assert traced(formulas[0], 1) is traced(formulas[0], 1) is not None


class Settings:
    """What modules, classes and objects may hold: a number, and a function that reads another object's."""

    rate = 1.0

    def times(self, x):
        return x * self.rate


SETTINGS = Settings()


def test_a_formula_that_reads_an_attribute_of_something_else_is_another_once_it_is_set(ops, monkeypatch):
    """A loss that read ``config.rate``, a formula that is an object or a partial one: each kept its first number, in silence."""

    class Of:
        def __init__(self):
            self.settings, self.rate = Settings(), 1.0

        def f(self, xp, x):
            return x * self.settings.rate

        def method(self, xp, x):
            return self.settings.times(x)

        def __call__(self, xp, x):
            return x * self.rate

    module, kind, own, enclosed = types.ModuleType("config"), type("Kind", (), {}), Of(), Settings()
    monkeypatch.setitem(globals(), "config", module)
    formulas = [
        lambda xp, x: x * config.rate,  # noqa: F821 - it is a global of this module while the test runs
        lambda xp, x: x * kind.rate, lambda xp, x: x * SETTINGS.rate,
        lambda xp, x: enclosed.times(x), own.f, own.method, own, partial(own.f), partial(own.__call__),
        lambda xp, x, c=enclosed: x * c.rate, lambda xp, x, *, c=enclosed: x * c.rate,
        partial(lambda xp, x, c: x * c.rate, c=enclosed), partial(lambda c, xp, x: c.times(x), enclosed),
    ]  # fmt: skip
    ones = ops.asarray(np.ones(3))
    for number in (2.0, 3.0):
        for settings in (module, kind, SETTINGS, enclosed, own.settings, own):
            settings.rate = number
        assert [ops.to_numpy(ops.elementwise(f, ones)).tolist() for f in formulas] == [[number] * 3] * len(formulas)
    assert all(traced(f, 1) is traced(f, 1) is not None for f in formulas)


def test_equal_objects_have_one_trace():
    """Each new network was traced anew, and 1024 traces were kept of one formula."""
    assert traced(tn.GELU().df, 3) is traced(tn.GELU().df, 3)
    assert traced(tn.AdamW(tn.schedules.Cosine(1.0, 9))._decayed_rule, 4, 3) is traced(
        tn.AdamW(tn.schedules.Cosine(1.0, 9))._decayed_rule, 4, 3
    )
    assert traced(tn.GELU().f, 1) is not traced(tn.GELU(approximate=True).f, 1)

    @dataclass(frozen=True, slots=True)
    class Times(tn.activations.Activation):
        by: float

        def f(self, xp, x):
            return self.by * x

    ones = np.ones(2)
    for by in (2.0, 3.0, 0.0, -0.0):
        equal_bits(get_backend("numpy").elementwise(Times(by).f, ones), by * ones)


def test_equal_attributes_may_make_other_formulas():
    """1, 1.0 and True are equal, and so are tuples of them and of zeros of both signs; a named tuple has no attributes."""

    @dataclass
    class Of:
        what: object

        def f(self, xp, x):
            what = self.what[0] if isinstance(self.what, tuple) else self.what
            return -x if what is True else x * what

    class Named(NamedTuple):
        what: object
        f = Of.f

    ops, ones = get_backend("numpy"), np.ones(2, "float32")
    for kind in (Of, Named):
        for what in (0.0, -0.0, 2, np.int64(2), 3.0, 1, True):
            wanted = -ones if what is True else ones * what
            for formula in (kind(what).f, kind((what,)).f):
                equal_bits(ops.elementwise(formula, ones), wanted)


def test_a_schedule_without_a_hash_leaves_the_rule_traced():
    schedule = type("Own", (), {"__hash__": None, "__call__": lambda self, t: 0.1})()
    assert traced(tn.SGD(schedule)._decayed_rule, 2, 1) is not None


# Gradients that are written where they are packed


def steps(backward, times=4):
    """What ``backward(ops, number)`` packs in each step of one compiled function; and the arrays it packed."""
    ops, g = get_backend("numpy"), np.empty(8)
    seen = []

    class Uncaptured(Compilation):  # it makes arrays of a number
        def _capture(self, kind, args):
            return self.step(*self.fixed, *args)

    def step(g, number):
        parts = backward(ops, number)
        ops.pack(parts, g)
        return parts

    compiled = Uncaptured(ops, step, (g,))
    for number in range(times):
        parts = compiled((number,))
        seen.append((g.copy(), [np.shares_memory(p, g) for p in parts]))
    return seen


def gradient(ops, value):
    """A (2, 2) gradient of `affine` whose elements are all ``value``."""
    return ops.affine_grad(np.full((1, 2), float(value)), np.ones((1, 2)), np.ones((2, 2)), False)[1]


def test_gradients_are_written_in_place_from_the_second_step_on():
    seen = steps(lambda ops, n: [gradient(ops, n), gradient(ops, 10 + n)])
    for n, (g, inside) in enumerate(seen):
        assert g.tolist() == [float(n)] * 4 + [10.0 + n] * 4
        assert inside == [n > 0] * 2


def test_gradients_that_change_places():
    def backward(ops, n):
        parts = [gradient(ops, n), gradient(ops, 10 + n)]
        return parts[::-1] if n % 2 else parts

    for n, (g, _) in enumerate(steps(backward)):
        first, second = (10 + n, n) if n % 2 else (n, 10 + n)
        assert g.tolist() == [float(first)] * 4 + [float(second)] * 4


def test_one_gradient_for_two_parameters():
    for n, (g, _) in enumerate(steps(lambda ops, n: [gradient(ops, n)] * 2)):
        assert g.tolist() == [float(n)] * 8


def test_a_gradient_that_a_layer_made_itself():
    for n, (g, inside) in enumerate(steps(lambda ops, n: [gradient(ops, n), np.full((2, 2), 10.0 + n)])):
        assert g.tolist() == [float(n)] * 4 + [10.0 + n] * 4
        assert inside == [n > 0, False]
