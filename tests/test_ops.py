"""Every replacement equals its portable original: results, arrays changed in place, and signature.

`CASES` has arguments for each portable operation. A replacement is compared with the original body on the same backend,
so a new one is tested the moment it exists.
"""

import inspect
import tracemalloc
from functools import partial

import numpy as np
import pytest
from interrupts import interrupt
from tinynet_backends import Backend, backend_of, get_backend, overrides, permutation, portable_operations, rowwise
from tinynet_backends.cuda import emit
from tinynet_backends.cupy_backend import CupyBackend
from tinynet_backends.generic_backend import GenericBackend
from tinynet_backends.numba_backend import NumbaBackend
from tinynet_backends.numpy_backend import BLOCK, NumpyBackend
from tinynet_backends.tracing import trace

import tinynet as tn

RNG = np.random.default_rng(0)
BIG = BLOCK + 37  # more than a block, and no multiple of it


def real(*shape):
    return RNG.standard_normal(shape)


def odd(*shape):
    """With NaN, infinities, zeros of both signs and a denormal number."""
    x = real(*shape)
    x.ravel()[: min(6, x.size)] = [np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-310][: min(6, x.size)]
    return x


def mish(xp, x):
    return x * xp.tanh(xp.log1p(xp.exp(-xp.abs(x))) + xp.maximum(x, 0.0))


def every(xp, x, y):
    """Every instruction that a trace may have, with constants that C writes differently from Python."""
    low, high = xp.minimum(x, y), xp.maximum(x, float("-inf"))
    both = (x < y) & ~(y >= 0.5) | (x == y) | (x != x) | (x <= -1e-300) | (y > 1e300)
    a = xp.sign(x) * xp.floor(y) + xp.abs(-x) / xp.sqrt(xp.abs(y)) - xp.where(both, low, high)
    b = xp.exp(-xp.abs(x)) + xp.expm1(low) * xp.log1p(xp.abs(y)) - xp.log(xp.abs(x) + 1e-5) + xp.tanh(-0.0 - y)
    return xp.where(xp.logical_or(x > 2.0, xp.logical_and(both, y < float("inf"))), a * 1e-7, b)


def product(xp, x, y):
    return x * y + 1.0


def moments(xp, theta, m, g, lr, beta):
    m = beta * m + (1.0 - beta) * g
    return theta - lr * m, m


def squares(xp, y, t):
    return (y - t) ** 2, 2.0 * (y - t)


def raw(n):
    """Words, with those at the ends of the generator's range."""
    w = RNG.integers(0, 2**64, n, dtype=np.uint64)
    w[: min(6, n)] = np.array([0, 2**64 - 1, 2**63, 2**63 - 1, 2**11, 1], np.uint64)[: min(6, n)]
    return w


def beside(n):
    """Indices at multiples of the side that they are divided by, and just below."""
    b = permutation.sides(n)[1]
    k = np.append(RNG.integers(1, n // b, 20_000), n // b - 1) * b
    return np.append(k, k - 1)


def mixture(ops, words, centre, w):
    """A formula of samples with all that those of the library are made of."""
    xp = ops.xp
    label = xp.astype(((words[:, 0] >> 32) * 3) >> 32, xp.int64)
    u, z = ops.halves(words[:, :5])[:, :9], ops.normal(words[:, 1:4])
    sine, cosine = ops.sincos(4.0 * u[:, 0] - z[:, 0])
    angle = ops.arctan(z[:, 1], u[:, 1] + 1.0)
    low = xp.minimum(u[:, 0], z[:, 0])[:, None] + xp.zeros_like(z)
    x = xp.stack([sine, -cosine, xp.floor(5.0 * angle)], axis=1) + xp.take(centre, label, axis=0) * z + low
    y = ops.affine_in_order(u, w[:-1, :], w[-1:, :], 0.5) - ops.log(u + 2.0**-40)[:, :1]
    odd = ops.sum_in_order(xp.astype(words & 1, xp.int64)) % 2
    more = xp.where(odd == 1, xp.sqrt(u[:, 2]), 1.0 / (1.0 + xp.abs(z[:, 2])))
    bits = xp.astype(((words[:, 0] << 3) ^ (words[:, 1] >> 60) | 16) & 63, xp.int64)
    given = u[:, 0] < u[:, 1], u[:, 1] <= u[:, 2], z[:, 0] > z[:, 1], z[:, 1] >= z[:, 2], bits != 21
    chosen = sum(xp.where(c, u[:, n], -3.0) for n, c in enumerate(given)) + xp.astype(bits, xp.float64)
    return x, xp.stack([more, xp.maximum(y[:, 0], y[:, 1]), y[:, 2] * w[9, 0] + chosen], axis=1)


def labelled(ops, words):
    z = ops.normal(words)
    return 2.0 * z, ops.xp.argmax(z * z, axis=1)


def even(ops, words):
    """Vectors made of the words of a row place by place, and sums of them."""
    u, z = ops.halves(words), ops.normal(words)
    fields = ops.sum_in_order(ops.xp.astype(ops.xp.floor(4.0 * u), ops.xp.int64))
    sums = [ops.xp.astype(fields, ops.xp.float64), ops.sum_in_order(z * z), ops.sum_in_order(z + 0.5)]
    return 2.0 * u - 1.0, ops.xp.stack(sums, axis=1)


def untraceable(ops, words):
    z = ops.normal(words)
    return ops.xp.concat([z, z[:, ::-1]], axis=1), ops.xp.sum(z, axis=1)[:, None]


KEY, COUNTER = (2**64 - 1, 3), (5, 0, 2**64 - 1)
KEYS = tuple(RNG.integers(0, 2**32, 24).tolist())

CASES = {
    "affine": lambda f: [
        (f(real(5, 3)), f(real(3, 4)), f(real(4))), (f(real(5, 3)), f(real(3, 4))), (f(real(0, 3)), f(real(3, 4)), f(real(4))),
        (f(odd(1, 1)), f(real(1, 1)), f(real(1))), (f(real(3, 7).T), f(real(4, 3).T), f(real(4))),
        (f(real(2, 5, 3)), f(real(2, 3, 4)), f(real(2, 4))), (f(odd(9, 6)), f(real(6, 2)), f(odd(2))),
    ],
    "affine_grad": lambda f: [
        (f(real(5, 4)), f(real(5, 3)), f(real(3, 4)), True, True), (f(real(5, 4)), f(real(5, 3)), f(real(3, 4)), False, False),
        (f(real(0, 4)), f(real(0, 3)), f(real(3, 4)), True, True), (f(odd(7, 2)), f(real(7, 1)), f(real(1, 2)), True, True),
        (f(real(2, 5, 4)), f(real(2, 5, 3)), f(real(2, 3, 4)), True, True),
        (f(real(2, 4, 5)).mT, f(real(2, 5, 3)), f(real(2, 3, 4)), True, True),
        (f(real(2, 2, 5, 4)), f(real(2, 2, 5, 3)), f(real(2, 2, 3, 4)), True, True),
    ],
    "elementwise": lambda f: [
        (mish, f(odd(3, 5))), (product, f(real(BIG)), f(odd(BIG))), (mish, f(odd(3, BLOCK))), (mish, f(real(0, 4))),
        (every, f(odd(2, 50)), f(odd(2, 50)[:, ::-1].copy())),
        (product, f(real(200, 300).T), f(real(300, 200))), (mish, f(real(BLOCK))),
    ],
    "update": lambda f: [
        (moments, [f(odd(n)), f(real(n))], [f(real(n))], 0.1, 0.9) for n in (0, 1, 7, BLOCK, BIG, 3 * BLOCK)
    ] + [(moments, [f(odd(3, BLOCK)), f(real(3, BLOCK))], [f(real(3, BLOCK))], 0.1, 0.9),
         (moments, [f(odd(3, 7)), f(real(7, 3).T)], [f(real(3, 7))], 0.1, 0.9)],
    "pack": lambda f: [
        ([f(real(2, 3)), f(odd(6)), f(real(3, 2).T), f(real(0))], f(real(18))),
        ([f(real(2, 2, 3)), f(odd(2, 6)), f(real(2, 0))], f(real(2, 12))),
    ],
    "clip_norm": lambda f: [
        (f(real(9)), 0.1), (f(real(9)), 1e3), (f(np.zeros(3)), 1.0), (f(odd(9)), 1.0), (f(real(BIG)), 1.0),
        (f(np.stack([odd(9), real(9), np.zeros(9)])), 0.1),
    ],
    "softmax": lambda f: [(f(1e3 * real(4, 5)),), (f(real(0, 5)),), (f(real(2, 3, 5)),), (f(odd(3, 7)),)],
    "softmax_grad": lambda f: [(f(real(4, 5)), f(RNG.dirichlet(np.ones(5), 4))), (f(odd(4, 5)), f(real(4, 5)))],
    "standardize": lambda f: [
        (f(x), f(real(5)), f(real(5))) for x in (real(7, 5), odd(7, 5), real(1, 5), real(0, 5), real(7, 10)[:, ::2])
    ] + [(f(real(2, 7, 5)), f(real(2, 5)), f(real(2, 5)))],
    "normalize": lambda f: [
        (f(x), f(real(5)), f(real(5)), axis, 1e-5) for x in (real(7, 5), odd(7, 5), real(1, 5)) for axis in (-1, -2)
    ] + [(f(real(2, 7, 5)), f(real(2, 5)), f(real(2, 5)), axis, 1e-5) for axis in (-1, -2)],
    "normalize_grad": lambda f: [
        (f(real(7, 5)), f(real(7, 5)), f(real(7, 1) if axis == -1 else real(1, 5)), f(real(5)), axis) for axis in (-1, -2)
    ] + [(f(real(2, 7, 5)), f(real(2, 7, 5)), f(real(2, 7, 1)), f(real(2, 5)), -1)],
    "elementwise_loss": lambda f: [
        (squares, f(y), f(real(*y.shape)), f(real(*y.shape[:-1])))
        for y in (real(4, 3), odd(4, 3), real(7, 1), odd(7, 1), real(2, 4, 3), real(2, 4, 1))
    ],
    "softmax_cross_entropy": lambda f: [
        (f(real(4, 3)), np.array([0, 2, 1, 1]), f(real(4))), (f(odd(4, 3)), np.array([0, 2, 1, 1]), f(real(4)), 0.1),
        (f(odd(2, 3, 4)), np.array([[0, 2, 1], [3, 3, 0]]), f(real(2, 3))), (f(real(2, 1, 2)), np.array([[0], [2]]), f(real(2, 1))),
        (f(real(5, 40)), np.array([0, 39, -1, 40, 7]), f(real(5))), (f(real(3, 70)), np.array([69, 3, -7], "int32"), f(real(3))),
        (f(np.log([[0.0, 0.4, 0.6]] * 4)), np.array([1, -1, 3, 2]), f(real(4))),
        (f(real(2, 3, 4)), f(real(2, 3, 4)), f(real(2, 3)), 0.1),
        (f(real(4, 3)), f(RNG.dirichlet(np.ones(3), 4)), f(real(4)), 0.2, f(np.array([1.0, 0.0, 2.0]))),
        (f(real(5, 3)), np.array([0, 2, 1, -1, 3]), f(real(5)), 0.3, f(np.array([1.0, 0.0, 2.0]))),
        (f(odd(6, 40)), RNG.integers(0, 40, 6), f(real(6)), 0.0, f(np.abs(real(40)))),
        (f(np.log([[0.0, 0.4, 0.6]] * 4)), np.array([1, 0, 2, 2]), f(real(4)), 0.0, f(np.array([0.0, 1.0, 3.0]))),
        (f(real(3000, 9)), RNG.integers(0, 9, 3000), f(real(3000)), 0.1),
    ],
    "total_weight": lambda f: [
        (f(np.abs(real(2, 5))),), (f(odd(7)),), (f(real(3, 0)),), (f(real(9)).T,),
        (f(np.abs(real(2, 5))), RNG.integers(0, 3, (2, 5)), f(np.array([1.0, 0.0, 2.5]))),
        (None, RNG.integers(0, 3, 6).astype("int8"), f(np.array([1.0, 0.0, 2.5]))), (None, np.array([2, 0, 1, 2]), f(odd(3))),
    ],
    "share_weight": lambda f: [
        (f(np.abs(real(2, 5))), f(np.array([2.5, 0.0])), f(real(2, 5, 3))), (None, f(np.array([np.inf, np.nan])), f(real(2, 5, 3))),
        (f(np.array([1.0, np.nan, 0.0])), f(np.array(1e-40)), f(real(3, 1)), 4), (None, np.array([3.0, 2.0]), f(real(2, 4, 1)), 2),
        (f(real(5))[::-1], f(np.array(3.0)), f(real(5, 2))),
    ],
    "words": lambda f: [
        (KEY, COUNTER, start, n)
        for start, n in ((0, 9), (3, 1), (5, 0), (2**64 - 8, 8), (2**66 - 59, 300), (2**40 + 1, 4099))
    ],
    "words_at": lambda f: [
        (KEY, COUNTER, np.array(index, dtype=np.int64), width) for index in ([], [0], [7, 3, 3, 2**62 - 1]) for width in (1, 4, 21)
    ] + [(KEY, COUNTER, np.array([2, 1], dtype=np.int32), 4)],
    "normal": lambda f: [(raw(n),) for n in (0, 1, 7, BLOCK, 2 * BLOCK + 3)] + [(raw(30).reshape(6, 5)[:, 1:3],)],
    "halves": lambda f: [(raw(n),) for n in (0, 1, 7)] + [(raw(30).reshape(6, 5)[:, 1:3],), (raw(30).reshape(5, 6).T,)],
    "dropout": lambda f: [(f(x), 0.3, KEY, COUNTER) for x in (real(5, 3), real(0, 3), odd(7), np.full(40, np.inf), real(BIG))],
    "dropout_grad": lambda f: [(f(x), real(*x.shape) > 0, 0.3) for x in (real(5, 3), real(0, 3), odd(7), np.full(40, np.inf))],
    "sincos": lambda f: [(4 * real(40),), (real(3, 5),), (np.array([0.125, -0.25, 0.5, 1.0, 0.0, 2.0**39]),), (np.array(0.3),)],
    "arctan": lambda f: [(real(50), np.abs(real(50))), (np.array([1.0, -1.0, 0.0, -0.0, 3.0]), np.array([0.0, 1, 1, 1, 1e300]))],
    "log": lambda f: [(np.abs(real(50)) + 1e-9,), (np.array([[1.0, 2.0**-1022], [2.0**63, 0.5]]),)],
    "sum_in_order": lambda f: [(real(7, 5),), (real(3, 1),), (raw(30).reshape(2, 15) >> 60,)],
    "affine_in_order": lambda f: [(real(7, 5), real(5, 4)), (real(7, 5), real(5, 4), real(1, 4), 0.3), (real(2, 1), real(1, 9))],
    "gather": lambda f: [
        ([f(odd(9, 3))], np.array([8, 0, 3, 3, 1])), ([f(odd(9))], np.array([2, 7])), ([f(real(5, 2, 3))], np.arange(5)[::-2]),
        ([f(real(4, 3))[:, :2]], np.array([3, 0])), ([np.arange(6) > 2], np.array([5, 1])),
        ([f(real(3, 2))], np.zeros(0, np.int64)), ([np.arange(12).reshape(6, 2)], np.array([5, 1, 4])),
        ([f(real(3, 0))], np.array([1])), ([f(real(6, 4)), np.arange(6), f(odd(6))], np.array([5, 0, 5])),
        ([f(real(9, 5))], np.arange(30000) % 9), ([np.arange(7)], np.arange(70000) % 7),  # more than NumPy is left with
        ([f(real(9, 5)), np.arange(9), np.arange(9) > 4], np.arange(30000) % 9, True),
    ],
    "samples": lambda f: [case for case in (
        # a new width or dtype is compiled anew: few of them, for many ways to ask
        (mixture, KEY, COUNTER, range(3, 13), 7, [real(3, 3), real(10, 3)], "float32"),
        (mixture, KEY, COUNTER, np.array([2**62, 0, 5, 5]), 9, [real(3, 3), real(10, 12)], "float64"),
        (labelled, KEY, COUNTER, range(2**60, 2**60 + 20), 3, [], "float64"),
        (labelled, KEY, COUNTER, np.array([9, 1, 8]), 20, [], "float32"), (labelled, KEY, COUNTER, range(4, 4), 20, [], "float32"),
        # many blocks and tiles, and the number of a block runs over 64 bits in the middle
        (labelled, KEY, COUNTER, range(2**64 // 5 - 5000, 2**64 // 5 + 5000), 20, [], "float32"),
        # more and less than a vector is long, and than a compiler unrolls
        *[(even, KEY, COUNTER, range(3, 1003), width, [], "float32") for width in (4, 17)],
        *[(even, KEY, COUNTER, range(3, 1003), width, [], "float64") for width in (5, 16)],
        (even, KEY, COUNTER, np.array([9, 1, 8]), 5, [], "float64"),
        *[(untraceable, KEY, COUNTER, index, 5, [], d) for index in (range(7, 30_007), range(20)) for d in ("float32", "float64")],
    ) if case[-1] == f(real(1)).dtype],
    "permute": lambda f: [(np.arange(min(n, 50)), n, tuple(range(24))) for n in (1, 2, 999, 1000, 2**62)] + [
        (np.append(RNG.integers(0, n, 300), beside(n)), n, KEYS) for n in (4093, 3 * 10**17, 2**53 + 5, 2**62)
    ] + [(np.arange(BLOCK + 3), 2**20, KEYS), (range(2**40, 2**40 + BLOCK + 3), 2**61 + 1, KEYS), (range(9, 9), 12, KEYS)],
}  # fmt: skip
FORMULAS_ON_WORDS = {
    "words", "words_at", "normal", "halves", "dropout", "permute", "samples", "sincos", "arctan", "log",
}  # fmt: skip
EXACT = FORMULAS_ON_WORDS | {"pack", "sum_in_order", "affine_in_order", "gather"}
BACKENDS = ["numpy", "numba", "torch", pytest.param("cupy", marks=pytest.mark.gpu)]
REPLACEMENTS = [
    pytest.param(backend, name, marks=[pytest.mark.gpu] if backend == "cupy" else [])
    for backend, kind in (
        ("numpy", NumpyBackend), ("numba", NumbaBackend), ("torch", GenericBackend), ("cupy", CupyBackend)
    )
    for name in CASES if getattr(kind, name) is not getattr(Backend, name)
]  # fmt: skip


def host(ops, value):
    """``value`` with its arrays on the host, copied."""
    if isinstance(value, (tuple, list)):
        return [host(ops, v) for v in value]
    if hasattr(value, "shape") and not callable(value):
        return np.array(value if isinstance(value, np.ndarray) else ops.to_numpy(value))
    return value


def device(ops, value):
    """``value`` with its host arrays as fresh ones on the backend, in the same memory order."""
    if isinstance(value, tuple):
        return tuple(device(ops, v) for v in value)
    if isinstance(value, list):
        return [device(ops, v) for v in value]
    return ops.asarray(value.copy(order="K")) if isinstance(value, np.ndarray) else value


def assert_same(a, b, rtol):
    if isinstance(a, (tuple, list)):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_same(x, y, rtol)
    elif isinstance(a, np.ndarray):
        assert a.dtype == b.dtype
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * 10)
    else:
        assert a is b or a == b


def there(name):
    """The backend; one that is not there is skipped, with the reason that its own error gives."""
    try:
        return get_backend(name)
    except tn.BackendUnavailable as e:
        pytest.skip(str(e))


OF_ANOTHER_KIND = {
    "a class of two conditions": lambda ops, u, k: (u[:, 0] > 0.5) * 2 + (u[:, 1] > 0.5),
    "a sum of bools": lambda ops, u, k: (u[:, 0] > 0.5) + (u[:, 1] > 0.5),
    "a sum of a row's": lambda ops, u, k: ops.sum_in_order(u > 0.5),
    "a bool and a number": lambda ops, u, k: (u[:, 0] > 0.5) & 2,
    "a quotient of integers": lambda ops, u, k: k / 2,
    "a root of integers": lambda ops, u, k: ops.xp.sqrt(k),
}


@pytest.mark.parametrize("target", OF_ANOTHER_KIND.values(), ids=OF_ANOTHER_KIND)
def test_samples_for_which_numpy_changes_the_kind_are_computed_by_numpy(target):
    def formula(ops, words):
        u, k = ops.halves(words), ops.xp.astype(words[:, 0] >> 60, ops.xp.int64)
        return u, ops.xp.astype(target(ops, u, k), ops.xp.float64)[:, None]

    assert rowwise.traced(formula, 3, ()) is None
    assert get_backend("numpy").samples(formula, KEY, COUNTER, range(9), 3, [], "float32")[1].shape == (9, 1)


def test_a_sample_of_a_row_that_a_table_does_not_have_is_nan():
    """A kernel read what lay behind the table; NumPy has an error."""

    def formula(ops, words, table):
        k = ops.xp.astype(words[:, 0] >> 62, ops.xp.int64) - 1
        return ops.xp.take(table, k, axis=0), k

    x, k = there("numba").samples(formula, KEY, COUNTER, range(40), 1, [real(2, 3)], "float32")
    assert {*k.tolist()} == {-1, 0, 1, 2}
    assert (np.isfinite(x).all(1) == ((k >= 0) & (k < 2))).all()


def test_every_portable_operation_has_cases():
    assert set(CASES) == set(portable_operations())


def test_cases_have_every_instruction():
    """So a backend that compiles formulas need not compile all of the library's to be known to do it right."""
    numba, samples = (pytest.importorskip(f"tinynet_backends.compiled.{name}") for name in ("emit", "samples"))
    assert {made.op for made in trace(every, 2).instructions} == {*numba.SPELLED} == {*emit.SPELLED}
    rows = rowwise.trace(mixture, 7, [(3, 3), (10, 3)]), rowwise.trace(labelled, 3, [])
    of_arrays = {"exp", "expm1", "log1p", "tanh", "sign", "logical_and", "logical_or", "logical_not"}  # alone
    assert {made.op for found in rows for made in found.instructions} >= {*samples.Numba.spelled, "argmax"} - of_arrays


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("backend", "name"), REPLACEMENTS)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NaN and infinity are wanted here
def test_a_replacement_equals_its_original(backend, name, dtype):
    ops = there(backend)
    assert name in overrides(ops)
    # PyTorch has no uint64 shifts: the originals on words run on NumPy there
    reference = get_backend("numpy") if backend == "torch" and name in FORMULAS_ON_WORDS else ops
    # sums in another order differ in the last places; the rest is equal to the bit
    rtol = 0.0 if name in EXACT else {"float32": 2e-6, "float64": 1e-14}[dtype]
    for case in CASES[name](lambda a: a.astype(dtype)):
        mine, theirs = device(ops, case), device(reference, case)
        got = host(ops, getattr(ops, name)(*mine))
        wanted = host(reference, getattr(Backend, name)(reference, *theirs))
        assert_same(got, wanted, rtol)
        assert_same(host(ops, list(mine)), host(reference, list(theirs)), rtol)
        compiled = ops.compile(lambda *args: getattr(ops, name)(*args))
        for _ in range(3):  # as it is written, captured, and in the buffers of before
            assert_same(host(ops, compiled(*device(ops, case))), wanted, rtol)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_replacement_has_the_signature_of_its_original(backend):
    for name, method in overrides(there(backend)).items():
        own = list(inspect.signature(method).parameters.values())
        wanted = list(inspect.signature(getattr(Backend, name)).parameters.values())[1:]
        assert [(p.name, p.default, p.kind) for p in own] == [(p.name, p.default, p.kind) for p in wanted], name


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_replacement_is_compared(backend):
    compared = {p.values[1] for p in REPLACEMENTS if p.values[0] == backend}
    assert compared == set(overrides(there(backend)))


@pytest.mark.parametrize("name", ["numpy", "numba"])
@pytest.mark.parametrize(
    ("operation", "shapes", "rest"),
    [
        ("affine", [(8, 5), (6, 3)], ()), ("affine", [(8, 6), (6, 3), (2,)], ()), ("affine", [(2, 8, 5), (2, 6, 3)], ()),
        ("affine_grad", [(8, 3), (8, 5), (6, 3)], (True,)), ("affine_grad", [(8, 2), (8, 6), (6, 3)], (True,)),
        ("affine_grad", [(7, 3), (8, 6), (6, 3)], (True,)), ("affine_grad", [(2, 7, 3), (2, 8, 6), (2, 6, 3)], (True,)),
        ("standardize", [(8, 6), (5,), (5,)], ()), ("normalize", [(8, 6), (5,), (5,)], (-1, 1e-5)),
        ("normalize_grad", [(8, 6), (8, 6), (8, 1), (5,)], (-1,)),
        ("normalize_grad", [(8, 6), (8, 6), (7, 1), (6,)], (-1,)), ("normalize_grad", [(8, 6), (8, 6), (1, 5), (6,)], (-2,)),
    ],
)  # fmt: skip
def test_arrays_that_do_not_fit_are_an_error(name, operation, shapes, rest):
    """A kernel read beyond them: a layer whose output is not what its build says trained on what lay there."""
    arrays = [np.ones(shape) for shape in shapes]
    with pytest.raises(ValueError, match=r"(?i)shape|broadcast|mismatch|dimensions|aligned"):
        getattr(get_backend(name), operation)(*arrays, *rest)


@pytest.mark.parametrize("name", ["numpy", "numba"])
def test_losses_of_targets_that_do_not_fit_are_an_error(name):
    ops, y, labels, scale = get_backend(name), np.ones((8, 3)), np.zeros(7, np.int64), np.ones(7)
    for use in (
        lambda: ops.softmax_cross_entropy(y, labels, np.ones(8)),
        lambda: ops.softmax_cross_entropy(y, np.zeros(8, np.int64), scale),
        lambda: ops.elementwise_loss(tn.MeanSquaredError().formula, y, y, scale),
    ):
        with pytest.raises(ValueError):
            use()


def test_numpy_replaces_what_it_says():
    assert set(overrides(get_backend("numpy"))) == {
        "affine", "affine_grad", "elementwise", "elementwise_loss", "standardize", "pack", "softmax_cross_entropy", "update",
        "words", "normal", "halves", "dropout", "sincos", "arctan", "permute", "samples", "sum_in_order", "gather",
    }  # fmt: skip
    assert not overrides(get_backend("strict"))


# The arena --------------------------------------------------------------------------------------------------------


def test_the_arena_hands_out_each_buffer_once_a_step():
    ops = get_backend("numpy")
    step = ops.compile(lambda *shapes: [ops.empty(shape, np.dtype("float32")) for shape in shapes])
    first = step((4, 3), (12,), (2, 2))
    for i, a in enumerate(first):
        assert not any(np.shares_memory(a, b) for b in first[:i])
    assert [a is b for a, b in zip(first, step((4, 3), (12,), (2, 2)), strict=True)] == [True] * 3
    smaller = step((2, 3), (7,), (9, 9))
    assert [a.shape for a in smaller] == [(2, 3), (7,), (9, 9)]
    assert np.shares_memory(smaller[0], first[0])
    back = step((4, 3), (12,), (2, 2))
    assert np.shares_memory(back[0], first[0])
    assert back[0].shape == (4, 3)


def test_memory_starts_at_a_cache_line():
    """What a product reads and writes, in a step and out of it: 16 bytes off, products take up to 5 % longer."""
    ops = get_backend("numpy")
    _spoil = [np.empty(1025 + n, "float32") for n in range(9)]  # a heap whose next free place may be anywhere
    w = tn.Model(tn.Dense(32, bias=False), 64, backend=ops).params["w"]
    step = ops.compile(lambda w, x: (ops.affine(x, w), *ops.affine_grad(ops.affine(x, w), x, w, False)[:2]), w)
    alone = [ops.zeros((1025,), np.dtype("float32")), ops.empty((3, 500), np.dtype("float64")), w]
    for _ in range(3):
        made = step(np.ones((40, 64), "float32"))
    assert [a.__array_interface__["data"][0] % 64 for a in (*alone, *made)] == [0] * 6


def test_two_compiled_steps_share_nothing():
    ops = get_backend("numpy")
    a, b = (ops.compile(lambda: ops.empty((5,), np.dtype("float64"))) for _ in range(2))
    nested = ops.compile(lambda: (ops.empty((5,), np.dtype("float64")), a()))
    outer, inner = nested()
    assert not np.shares_memory(outer, inner)
    assert not np.shares_memory(a(), b())
    assert not np.shares_memory(ops.empty((5,), np.dtype("float64")), a())


# In place, or not at all ------------------------------------------------------------------------------------------


class Interrupting(np.ndarray):
    """An array that Ctrl-C hits at its n-th write, before or after it took place."""

    def __setitem__(self, key, value):
        self.count[0] -= 1
        if self.count[0] == 0 and not self.count[1]:
            raise KeyboardInterrupt
        super().__setitem__(key, value)
        if self.count[0] == 0:
            raise KeyboardInterrupt


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("at", [1, 2])
def test_ctrl_c_in_an_update_leaves_whole_vectors(at, after):
    g = real(BIG)
    wanted = [real(BIG), real(BIG)]
    arrays = [a.copy().view(Interrupting) for a in wanted]
    count = [at, after]
    for a in arrays:
        a.count = count
    ops = get_backend("numpy")
    with pytest.raises(KeyboardInterrupt):
        Backend.update(ops, moments, arrays, [g], 0.1, 0.9)
    Backend.update(ops, moments, wanted, [g], 0.1, 0.9)
    for a, b in zip(arrays, wanted, strict=True):
        np.testing.assert_array_equal(a, b)


def test_what_an_update_gives_may_be_another_of_its_arrays():
    a, b = real(7), real(7)
    arrays = [a.copy(), b.copy()]
    Backend.update(get_backend("numpy"), lambda xp, now, before: (now + before, now), arrays, [])
    np.testing.assert_array_equal(arrays, [a + b, a])


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("size", [20, 70_000])
@pytest.mark.parametrize("name", ["numpy", "numba", "strict"])
def test_an_update_of_arrays_that_overlap_reads_before_it_writes(name, size, compiled):
    """Each backend gave what the order of its loops made of it."""

    def step(x, y):
        ops.update(lambda xp, a, b: (a + b,), [x[1:]], [x[:-1]])
        ops.update(lambda xp, a, b, by: (a * by, a), [y[:-1], y[1:]], [], 2.0)

    ops, before = get_backend(name), real(size)
    x, y = (ops.asarray(before.copy()) for _ in range(2))
    run = ops.compile(step, x, y) if compiled else partial(step, x, y)
    wanted_x, wanted_y = before.copy(), before.copy()
    for _ in range(4):
        run()
        wanted_x[1:] = wanted_x[1:] + wanted_x[:-1]
        wanted_y[0], wanted_y[1:] = wanted_y[0] * 2.0, wanted_y[:-1].copy()
        assert_same(ops.to_numpy(x), wanted_x, 0.0)
        assert_same(ops.to_numpy(y), wanted_y, 0.0)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("name", ["numpy", "numba"])
def test_signals_wait_until_an_update_is_whole(name, compiled):
    ops, size = get_backend(name), 400_000
    arrays = [np.zeros(size), np.zeros(size)]
    step = ops.compile(lambda arrays, by: ops.update(lambda xp, a, b, by: (a + by, b + by), arrays, [], by), arrays)
    if not compiled:
        step = partial(ops.update, lambda xp, a, b, by: (a + by, b + by), arrays, [])

    def thrice():
        for _ in range(3):
            step(1.0)

    def whole():
        first = arrays[0][0]
        assert all((a == first).all() for a in arrays)

    thrice()  # compiled, captured, and played from now on
    interrupt(thrice, whole, [1e-4 * n for n in range(1, 18)], times=12)


# The switch -------------------------------------------------------------------------------------------------------


def test_the_order_in_which_a_backend_is_chosen(monkeypatch):
    import threading

    assert tn.get_backend().name == "numpy"
    monkeypatch.setenv("TINYNET_BACKEND", "strict:device1")
    assert tn.get_backend().name == "strict:device1"
    tn.set_backend("strict:device2")
    assert tn.get_backend().name == "strict:device2"
    with tn.use_backend("strict:CPU_DEVICE"):
        assert tn.get_backend().name == "strict:CPU_DEVICE"
        assert tn.get_backend("numpy").name == "numpy"
        with pytest.raises(RuntimeError, match="inner"), tn.use_backend("numpy"):
            raise RuntimeError("inner")
        assert tn.get_backend().name == "strict:CPU_DEVICE"
        seen = []
        thread = threading.Thread(target=lambda: seen.append(tn.get_backend().name))
        thread.start()
        thread.join()
        assert seen == ["strict:device2"]  # a new thread sees the process's default
    assert tn.get_backend().name == "strict:device2"


def test_the_default_is_in_force_where_nobody_has_chosen():
    assert tn.get_backend(default="strict").name == "strict:device1"
    with tn.use_backend("numpy"):
        assert tn.get_backend(default="strict").name == "numpy"
    assert tn.get_backend("host").on_host


def test_the_backend_of_an_array(ops):
    x = ops.asarray([1.0, 2.0])
    made = backend_of(x)
    assert made.owns(x)
    assert made is backend_of(ops.asarray([3]))
    assert made.to_numpy(x).tolist() == [1.0, 2.0]
    assert type(made) is (type(ops) if ops.name != "numba" else type(get_backend("numpy")))


def test_what_is_no_array_is_numpy_s():
    for x in ([1.0], 2.0, None, "text", range(3), np.float64(1), np.zeros(3)):
        assert backend_of(x) is get_backend("numpy")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nunpy", "unknown backend 'nunpy': choose from auto, numpy, numba, cupy, strict, torch, dpnp"),
        ("numpy:1", "backend 'numpy' has no devices, not '1': write 'numpy'"),
        ("strict:gpu", "backend 'strict' has no device 'gpu': choose from CPU_DEVICE, device1, device2, no_float64"),
        ("os.path", "unknown backend 'os.path': choose from auto, numpy, numba, cupy, strict, torch, dpnp"),
    ],
)
def test_backends_that_do_not_exist(name, said):
    with pytest.raises(ValueError) as e:
        tn.get_backend(name)
    assert str(e.value) == said


def test_a_backend_that_is_missing_names_what_to_install(monkeypatch):
    import sys

    from tinynet_backends import switch

    for name in [*sys.modules]:
        if name.startswith(("tinynet_backends.numba_", "tinynet_backends.compiled")):
            monkeypatch.delitem(sys.modules, name)
    for name in ("cupy", "numba"):
        monkeypatch.setitem(sys.modules, name, None)
    switch._load.cache_clear()
    with pytest.raises(tn.BackendUnavailable, match="one of the extras cuda12 and cuda13"):
        tn.get_backend("cupy")
    with pytest.raises(tn.BackendUnavailable, match="backend 'numba' cannot be imported .*: install the extra fast"):
        tn.get_backend("numba")
    assert tn.get_backend("auto").name == "numpy"
    assert tn.get_backend("host").name == "numpy"
    switch._load.cache_clear()


@pytest.mark.parametrize("backend", ["numpy", "numba"])
@pytest.mark.parametrize("kind", ["columns", "Fortran", "unaligned"])
def test_rows_are_gathered_without_a_copy_of_all(kind, backend):
    """NumPy's take makes one of such an array each time: of all but a table's last column, of an array in an .npz file."""
    ops = there(backend)
    wide = np.arange(40_000.0).reshape(5000, 8)
    x = {"columns": wide[:, :-1], "Fortran": np.asfortranarray(wide)}.get(kind)
    if x is None:
        x = np.ndarray(wide.shape, buffer=bytearray(wide.nbytes + 1), offset=1)
        x[...] = wide
    index = np.asarray([4999, 0, 7, 7])
    tracemalloc.start()
    try:
        x_rows, y_rows = ops.gather([x, x[:, 0]], index)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    np.testing.assert_array_equal(x_rows, wide[index, : x.shape[1]])
    np.testing.assert_array_equal(y_rows, wide[index, 0])
    assert peak < 20_000
