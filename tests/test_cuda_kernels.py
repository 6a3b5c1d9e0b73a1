"""CUDA kernels without a device: each runs on the host against its portable operation, and NVRTC compiles it.

The CuPy backend itself runs here, on NumPy arrays; `cuda_shim` stands in for the module cupy. Every launch is executed in
several orders of threads and blocks and with several grids, which must agree to the bit, and writes outside of its arrays
are detected.
"""

import itertools
from functools import cache

import numpy as np
import pytest
from cuda_shim import nvrtc, shim
from test_ops import CASES, EXACT, assert_same, device, every, host, moments, odd, real, squares
from tinynet_backends import Backend, exact, get_backend, overrides, rowwise
from tinynet_backends.cuda import emit, graph, samples, source
from tinynet_backends.cupy_backend import CupyBackend
from tinynet_backends.tracing import trace

import tinynet as tn

F4, F8 = np.dtype("float32"), np.dtype("float64")
PRODUCTS = {"affine", "affine_grad"}
# Of a T4, an A100, an H100 and a Blackwell workstation: the oldest and the newest, and those at which the text, or what it
# may ask of a device, changes
ARCHITECTURES = ["sm_75", "sm_80", "sm_90", "sm_120"]
FILES = sorted(path.stem for path in source.FOLDER.glob("*.cu"))
QUICK = "pack", "permute", "philox", "reduce"  # NVRTC takes a second for the others, which g++ compiles by default too
RTOL = {F4: 2e-6, F8: 1e-14}  # sums in another order, exp of another library
DTYPES = pytest.mark.parametrize("dtype", [F4, pytest.param(F8, marks=pytest.mark.slow)], ids=str)  # each compiled anew
RNG = np.random.default_rng(0)
needs_nvrtc = pytest.mark.skipif(bool(nvrtc.missing()), reason=nvrtc.missing())
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NaN and infinity are intended here

ACTIVATIONS = [
    tn.Sigmoid(),
    tn.Tanh(),
    tn.ReLU(),
    tn.LeakyReLU(),
    tn.ELU(1.5),
    tn.GELU(),
    tn.GELU(True),
    tn.SiLU(),
    tn.Softplus(),
]
LOSSES = [
    tn.SumSquaredError(), tn.MeanSquaredError(), tn.MeanAbsoluteError(), tn.Huber(0.5), tn.Quantile(0.2), tn.Poisson(),
    tn.Hinge(), tn.BinaryCrossEntropy(), tn.BinaryCrossEntropy((0.5, 2.0)),
]  # fmt: skip
OPTIMIZERS = [
    tn.SGD(0.1, l2=0.1), tn.SGD(0.1, 0.9, nesterov=True, weight_decay=0.1), tn.Adagrad(), tn.RMSprop(), tn.RMSprop(momentum=0.9),
    tn.Adam(), tn.AdamW(), tn.NAdam(), tn.Lion(),
]  # fmt: skip


def unequal(xp, x, y):
    return xp.where((x < y) == (y < x), float("nan"), xp.minimum(y, x))


def traces():
    """(trace, kind) of every formula of the library, and of those in CASES."""
    for layer in ACTIVATIONS:
        yield trace(layer.f, 1), "map"
        yield trace(layer.df, 3), "map"
    for loss in LOSSES:
        yield trace(loss.formula, 2), "loss"
    for optimizer in OPTIMIZERS:
        state = optimizer.init(np.zeros(1), get_backend("numpy"))
        numbers = optimizer.numbers(state, 0)
        yield trace(optimizer._decayed_rule, 2 + len(optimizer.used_slots()), len(numbers)), "update"
    for formula, _, *arrays in [case[:3] for case in CASES["elementwise"](lambda a: a)]:
        yield trace(formula, 1 + len(arrays)), "map"
    yield from ((trace(formula, 2), "map") for formula in (every, unequal))
    yield trace(tn.step._blend, 2, 1), "update"
    yield trace(moments, 3, 2), "update"
    yield trace(squares, 2), "loss"


def files(dtype):
    return [source.load(name, dtype) for name in FILES]


SETS = [
    *[kind(50) for kind in tn.data.DATASETS.values()],
    tn.data.Blobs(50, n_features=40), tn.data.AnisotropicBlobs(50, n_features=12), tn.data.Checkerboard(50, n_features=21),
    tn.data.Logistic(50, n_features=3, n_classes=12), tn.data.Linear(50, noise=0.5, n_outputs=10, n_informative=3),
    tn.data.Sinusoid(50, n_features=9, waves=20), tn.data.Polynomial(50, n_features=3, degree=4),
    tn.data.Teacher(50, n_features=5, hidden=(4, 30), n_outputs=3, noise=0.1), tn.data.Teacher(50, n_classes=12),
]  # fmt: skip


@cache
def sets(dtype):
    """The kernels of every virtual set."""
    host = get_backend("numpy")
    traces = [rowwise.trace(data._samples, data._width(), [t.shape for t in data._tables(host)]) for data in SETS]
    return [samples.kernel(t, dtype) for t in traces]


def formulas(dtype):
    """The kernels of every formula of the library, and of those in CASES."""
    made = [emit.kernel(t, dtype, kind) for t, kind in traces()]
    made += [emit.kernel(trace(moments, 3, 2), dtype, "update", (0, 1))]
    for formula, *_, width, tables, _ in CASES["samples"](lambda a: a.astype(dtype)):
        if (found := rowwise.traced(formula, width, tuple(t.shape for t in tables))) is not None:
            made.append(samples.kernel(found, dtype))
    return [*dict.fromkeys(made)]


@pytest.fixture(scope="module")
def machine(request, tmp_path_factory):
    made = shim.at(request, tmp_path_factory)
    mistakes = [bad(lines) for lines, _ in MISTAKES.values()]
    made.prepare([*files(F4), *(source.load(name, F8) for name in ("philox", "permute")), *formulas(F4), *mistakes])
    return made


@pytest.fixture(scope="module")
def doubles(machine):
    machine.prepare([*files(F8), *formulas(F8)])


@pytest.fixture
def ops(machine, request):
    if (
        hasattr(request.node, "callspec") and request.node.callspec.params.get("dtype", F4) == F8
    ):  # None, too, would be equal
        request.getfixturevalue("doubles")
    machine.launched.clear()
    return shim.ShimBackend(machine)


def holds(ops, name, case, rtol):
    """Assert that an operation leaves the results and arguments of the portable one."""
    mine, theirs = device(ops, case), device(ops, case)
    got, wanted = host(ops, getattr(ops, name)(*mine)), host(ops, getattr(Backend, name)(ops, *theirs))
    assert_same(got, wanted, rtol)
    assert_same(host(ops, list(mine)), host(ops, list(theirs)), rtol)


# Operations ----------------------------------------------------------------------------------------------------------


def shifted(a):
    """A copy of ``a`` that begins one element after a multiple of 16."""
    memory = np.empty(a.size + 32 // a.itemsize, a.dtype)
    start = (-memory.ctypes.data % 16) // a.itemsize + 1
    view = memory[start : start + a.size].reshape(a.shape)
    view[...] = a
    return view


def extreme(*shape):
    """Numbers whose exponentials overflow, and rows that are all infinite."""
    x = 1e2 * real(*shape)
    x.ravel()[:: max(3, x.size // 40)] = -np.inf
    x[-1:] = -np.inf
    return x


WIDTHS = [(1, 1), (300, 2), (70, 3), (9, 31), (9, 32), (40, 33), (2, 1024), (2, 1025)]
MORE = {
    "elementwise": lambda f: [(every, f(odd(n)), f(odd(n)[::-1].copy())) for n in (1, 3, 4, 5, 1031)]
    + [(unequal, shifted(f(odd(999))), f(odd(999)[::-1].copy())), (every, f(real(64, 5)), shifted(f(real(64, 5))))],
    "update": lambda f: [
        (moments, [shifted(f(odd(n))), f(real(n))], [f(real(n))], 0.1, 0.9) for n in (1, 2, 1023)
    ] + [(moments, [f(real(6)), f(real(6))], [f(real(6))], 1, float("inf"))],
    "pack": lambda f: [([shifted(f(odd(n))) if n % 2 else f(real(n)) for n in range(70)], f(real(2415))), ([], f(real(0))),
                       ([f(real(500)), f(np.full((), 3.0)), f(real(40, 3))], shifted(f(real(621))))],
    "clip_norm": lambda f: [(shifted(f(odd(n))), 1.0) for n in (1, 8, 999)] + [
        (f(np.array([1.0, np.nan])), 1.0), (f(np.array([1.0, np.inf])), 1.0), (shifted(f(real(9000))), 2.0), (f(real(0)), 1.0),
        (f(real(9)), np.inf), (f(real(9)), 0.0),
    ],
    "softmax": lambda f: [(f(make(n, k)),) for n, k in WIDTHS for make in (real, extreme)],
    "softmax_grad": lambda f: [(f(real(n, k)), f(RNG.dirichlet(np.ones(k), n))) for n, k in WIDTHS],
    "normalize": lambda f: [(f(real(n, k)), f(real(k)), f(real(k)), axis, 1e-5) for n, k in WIDTHS for axis in (-1, -2)] + [
        (f(x), f(real(3)), f(real(3)), axis, 1e-3) for axis in (-1, -2)
        for x in (np.ones((4, 3)), extreme(200, 3), np.full((5, 3), np.inf))
    ],
    "normalize_grad": lambda f: [
        (f(real(n, k)), f(real(n, k)), f(real(n, 1) if axis == -1 else real(1, k)), f(real(k)), axis)
        for n, k in WIDTHS for axis in (-1, -2)
    ],
    "elementwise_loss": lambda f: [
        (squares, f(real(n, o)), f(real(n, o)), f(np.abs(real(n)))) for n, o in ((1, 1), (9001, 3), (5, 3000), (0, 3))
    ],
    "softmax_cross_entropy": lambda f: [
        # weights of one sign: a sum of 9001 that cancels would have no digits to compare
        (f(make(n, k)), RNG.integers(0, k, n), f(np.abs(real(n)))) for n, k in [*WIDTHS, (9001, 3)] for make in (real, extreme)
    ] + [
        (f(real(n, k)), f(RNG.dirichlet(np.ones(k), n)), f(real(n)), 0.1, f(RNG.random(k))) for n, k in WIDTHS
    ] + [
        (f(real(6, 3)), np.array([0, 2, 3, -1, 1, 2**40]), f(real(6)), 0.1),
        (f(real(4, 3)), np.array([0, 2, 1, 1], np.uint8), f(odd(4)), 0.0, f(np.array([1.0, np.nan, 2.0]))),
        (f(extreme(4, 3)), np.array([0, 2, 1, 1], np.int32), f(real(4)), 0.0, f(np.array([1.0, 0.0, 2.0]))),
        (f(real(0, 3)), np.arange(0), f(real(0))),
    ],
    "words": lambda f: [
        ((7, 2**64 - 1), (2**64 - 1, 2**64 - 1, 9), start, n) for start in (0, 2, 2**66 - 9, 2**70) for n in (0, 1, 2, 30)
    ],
    "words_at": lambda f: [((1, 2), (2**64 - 1, 3, 4), RNG.integers(0, 2**62, 9)[::2], width) for width in (2, 3, 5, 6, 8, 63)]
    + [((1, 2), (2**64 - 1, 3, 4), np.array([2**62 - 1]), width) for width in (16, 17, 2**9)],
    "dropout": lambda f: [
        (f(real(n)), rate, (1, 2), (3, 4, 5)) for n in range(1, 18) for rate in (0.0, 1e-40, 0.5, 0.999)
    ] + [(shifted(f(odd(700, 3))), 0.1, (2**64 - 1, 0), (2**64 - 1,) * 3)],
    "permute": lambda f: [
        (RNG.permutation(n)[:200], n, tuple(RNG.integers(0, 2**32, 24).tolist())) for n in (3, 5, 97, 1001, 10007)
    ] + [(RNG.integers(0, 10**17, 50)[::-2], 10**17 + 3, tuple(range(2**32 - 24, 2**32))), (np.arange(0), 9, tuple(range(24)))],
}  # fmt: skip


@DTYPES
@pytest.mark.parametrize("name", [name for name in CASES if getattr(CupyBackend, name) is not getattr(Backend, name)])
def test_an_operation_equals_the_portable_one(name, dtype, ops):
    for cases in (CASES[name], MORE.get(name, lambda f: [])):
        for case in cases(lambda a: a.astype(dtype)):
            holds(ops, name, case, 0.0 if name in EXACT else RTOL[dtype])
    assert ops._products._ready if name in PRODUCTS else ops._cp.launched


def test_which_operations_have_kernels(ops):
    """All but gathers, sums of weights, and the parts of sample formulas, which `samples` contains; products are cublasLt's."""
    within = {"sincos", "arctan", "log", "sum_in_order", "affine_in_order"}
    assert set(CASES) - set(overrides(ops)) == {"gather", "total_weight", "share_weight"} | within
    assert set(overrides(ops)) >= PRODUCTS


@DTYPES
def test_formulas(dtype, ops):
    x, dy, target = (odd(4, 50).astype(dtype) for _ in range(3))
    x[1] *= 30.0
    for layer in ACTIVATIONS:
        holds(ops, "elementwise", (layer.f, x), RTOL[dtype])
        holds(ops, "elementwise", (layer.df, dy[:, ::-1].copy(), x, layer.f(np, x)), RTOL[dtype])
    for loss in LOSSES:
        holds(ops, "elementwise_loss", (loss.formula, x[2:], target[2:], dy[2, :2].copy()), RTOL[dtype])
        holds(ops, "elementwise_loss", (loss.formula, x, target, dy[2, :4].copy()), RTOL[dtype])
    assert set(ops._cp.launched) == {"formula"}


@DTYPES
@pytest.mark.parametrize(
    "data",
    [SETS[0], *(pytest.param(data, marks=pytest.mark.slow) for data in SETS[1:])],  # CASES has each instruction
    ids=lambda data: type(data).__name__,
)
def test_virtual_sets_have_the_bits_of_the_host(data, dtype, ops):
    if data is not SETS[0]:
        ops._cp.prepare(sets(dtype))
    for index in (range(3, 40), np.array([49, 0, 7])):
        got, wanted = (data.rows(index, each, dtype.name) for each in (ops, get_backend("numpy")))
        assert_same(list(got[:2]), list(wanted[:2]), 0.0)
    assert "samples" in ops._cp.launched


def test_samples_are_made_again_in_the_same_arrays(ops):
    """But not those of a set with rows of its own, which may keep them."""

    class Keeping(tn.data.Blobs):
        def rows(self, *args):
            return super().rows(*args)

    for data, same in ((tn.data.Blobs(50), True), (Keeping(50), False), (tn.data.LabelNoise(tn.data.Blobs(50)), False)):
        last = data.rows(range(7), ops, "float32")
        before = [a.copy() for a in last[:2]]
        again = data.rows_into(range(9, 16), ops, "float32", last)
        wanted = data.rows(range(9, 16), get_backend("numpy"), "float32")
        assert_same(list(again[:2]), list(wanted[:2]), 0.0)
        assert [a is b for a, b in zip(again[:2], last, strict=False)] == [same] * 2
        assert same or [*map(np.ndarray.tolist, last[:2])] == [*map(np.ndarray.tolist, before)]


@pytest.mark.parametrize("dtype", ["float32", pytest.param("float64", marks=pytest.mark.slow)])
def test_samples_of_formulas_that_no_set_has(dtype, ops):
    """Remainders as in Python, integers above 2**53, and the largest of numbers with NaN."""

    def formula(ops, words):
        xp, z = ops.xp, ops.normal(words)
        whole = xp.astype(words & (2**60 - 1), xp.int64) - 2**59
        root = xp.sqrt(z)  # NaN for negative numbers: the first NaN is the largest
        label = xp.abs(whole)[:, 0] % 1000 + whole[:, 1] % 3 + whole[:, 2] % -5 + 9 * xp.argmax(root, axis=1)
        label = label + xp.astype(xp.abs(words[:, 3]) % 7, xp.int64)
        return xp.stack([z[:, 0] % 0.75, z[:, 1] % -0.5, -0.5 - (z[:, 2] * -2.0)], axis=1), label

    holds(ops, "samples", (formula, (1, 2), (3, 4, 5), range(7, 307), 5, [], dtype), 0.0)
    assert ops._cp.launched[0] == "samples"


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=repr)
@DTYPES
def test_optimizers(optimizer, dtype, ops):
    """Steps through ``Optimizer.step``, which passes rates and corrections: one launch each."""
    theta, *gradients = (g.astype(dtype) for g in (real(501), odd(501), *real(3, 501)))
    results = []
    for each in (ops, get_backend("numpy")):
        weights = theta.copy()
        state = optimizer.init(weights, each)
        for t, g in enumerate(gradients):
            optimizer.step(weights, g, state, t, each)
        results.append([weights, *[v for v in state.values() if isinstance(v, np.ndarray)]])
    assert_same(*results, RTOL[dtype])
    assert len(ops._cp.launched) == len(gradients)


def test_a_launch_reads_numbers_from_the_device(ops):
    """As a CUDA graph would be replayed: the same launch, later, with other numbers in the same place."""
    lr, step = np.array(0.1), np.array(3, np.uint64)
    launches = []
    run = ops._cp.launch
    ops._cp.launch = lambda *args: (launches.append(args), run(*args))
    try:
        theta, m, g, x = real(50), real(50), real(50), real(99)
        first = [theta.copy(), m.copy()]
        ops.update(moments, [theta, m], [g], lr, 0.9)
        wanted = moments(np, *first, g, 0.1, 0.9)
        assert_same([theta, m], list(wanted), 1e-15)
        y, keep = ops.dropout(x, 0.5, (1, 2), (step, 7, 8))
        assert_same([y, keep], list(Backend.dropout(ops, x, 0.5, (1, 2), (3, 7, 8))), 0.0)
        lr[...], step[...] = 0.7, 2**64 - 1
        for launch in launches:
            run(*launch)
    finally:
        del ops._cp.launch
    assert_same([theta, m], list(moments(np, *wanted, g, 0.7, 0.9)), 1e-15)
    assert_same([y, keep], list(Backend.dropout(ops, x, 0.5, (1, 2), (2**64 - 1, 7, 8))), 0.0)
    before = [theta.copy(), m.copy()]
    ops.update(moments, [theta, m], [g], np.array(1), 0.9)
    assert_same([theta, m], list(moments(np, *before, g, 1.0, 0.9)), 1e-15)
    with pytest.raises(TypeError, match=r"a number on the device is a \(1,\) array: expected \(\)"):
        ops.update(moments, [theta, m], [g], np.array([1.0]), 0.9)


def test_philox_is_numpys(ops):
    for key, counter, start in (((5, 6), (7, 8, 9), 0), ((0, 2**64 - 1), (2**64 - 1, 2**64 - 1, 2), 2**66 - 8)):
        carried = counter[0] + (start // 4 >> 64), counter[1], counter[2]
        place = [start // 4 % 2**64, *[c % 2**64 for c in carried]]
        if start:  # the first word overflows within these, and NumPy carries all the way
            assert place[0] + 4 > 2**64 - 1
        other = np.random.Philox(key=np.array(key, np.uint64), counter=np.array(place, np.uint64)).random_raw(8)
        np.testing.assert_array_equal(ops.words(key, counter, start, 8)[:4], other[:4])
    words = ops.words((1, 2), (3, 4, 5), 0, 40)
    generator = np.random.Generator(np.random.Philox(key=[1, 2], counter=[0, 3, 4, 5]))
    _, keep = ops.dropout(np.ones(80, F4), 0.3, (1, 2), (3, 4, 5))
    np.testing.assert_array_equal(keep, generator.random(80, F4) >= np.float32(0.3))
    np.testing.assert_array_equal(ops.normal(words).view(np.uint64), get_backend("numpy").normal(words).view(np.uint64))
    np.testing.assert_array_equal(ops.halves(words), exact.halves(np, words))


def test_a_shuffle_has_every_index_once(ops):
    for n in (1, 2, 7, 1000, 4099):
        assert sorted(ops.permute(np.arange(n), n, tuple(range(24))).tolist()) == list(range(n))


def test_a_shuffle_s_errors_that_need_not_wait_are_those_of_the_host(ops, monkeypatch):
    keys = tuple(range(24))
    for index, n in (
        (np.arange(3), 0),
        (np.arange(3), 2**62 + 1),
        (np.arange(3), 2.0),
        (np.ones(3), 9),
        (np.arange(3), True),
    ):
        said = []
        for each in (ops, get_backend("numpy")):
            with pytest.raises((ValueError, IndexError)) as e:
                each.permute(index, n, keys)
            said.append((e.type, str(e.value)))
        assert said[0] == said[1]
    assert ops.permute(np.array([-1, 9, 2**40]), 9, keys).tolist() == [-1] * 3  # as on the device, where nothing waits
    with pytest.raises(IndexError, match=r"index 9 is out of range: this permutation is of range\(9\)"):
        tn.Stream(1).permute([3, 9], 9, ops)
    monkeypatch.setattr(ops, "owns", lambda a: False)
    with pytest.raises(IndexError, match=r"index 9 is out of range: this permutation is of range\(9\)"):
        ops.permute(np.array([3, 9]), 9, keys)
    assert sorted(ops.permute(np.arange(9), 9, keys).tolist()) == list(range(9))


@pytest.mark.parametrize(("dtype", "atol"), [(F4, 2e-5), pytest.param(F8, 1e-11, marks=pytest.mark.slow)], ids=str)
def test_columns_of_many_rows(dtype, atol, ops):
    """Against the portable operations in float64, which add a column from top to bottom: 9001 numbers near 100 to 1e-12."""
    x, dy, gamma, beta = (a.astype(dtype) for a in (100.0 + real(9001, 34), real(9001, 34), real(34), real(34)))
    exactly = [a.astype(F8) for a in (x, gamma, beta)]
    got, wanted = ops.normalize(x, gamma, beta, -2, 1e-5), Backend.normalize(ops, *exactly, -2, 1e-5)
    for a, b in zip(got, wanted, strict=True):
        np.testing.assert_allclose(a, b, rtol=atol, atol=atol)
    normed, rstd = wanted[1].astype(dtype), wanted[2].astype(dtype)
    got = ops.normalize_grad(dy, normed, rstd, gamma, -2)
    exactly = [a.astype(F8) for a in (dy, normed, rstd, gamma)]
    for a, b in zip(got, Backend.normalize_grad(ops, *exactly, -2), strict=True):
        np.testing.assert_allclose(a, b, rtol=atol, atol=10 * atol)


@DTYPES
def test_rows_of_all_widths_have_the_same_bits_wherever_they_lie(ops, dtype):
    """One pack a thread, several in registers, and too many for that: with labels alone, smoothed, and with probabilities."""
    sizes = (1100, 4), (300, 12), (9, 128), (9, 130), (3, 1024), (2, 8192), (1, 8196)
    for (n, k), make in itertools.product(sizes, (real, extreme)):
        made, scale, class_weight = (a.astype(dtype) for a in (make(n, k), np.abs(real(n)), RNG.random(k)))
        labels, given = RNG.integers(0, k, n), RNG.dirichlet(np.ones(k), n).astype(dtype)
        for rest in ((labels, scale), (labels, scale, 0.1), (given, scale, 0.0, class_weight)):
            results = []
            for z in (made, shifted(made)):
                holds(ops, "softmax_cross_entropy", (z, *rest), RTOL[dtype])
                results.append([a.tobytes() for a in ops.softmax_cross_entropy(z, *rest)])
            assert results[0] == results[1]
    assert set(ops._cp.launched) == {"cross_entropy", "cross_entropy_wide", "total"}


@DTYPES
@pytest.mark.parametrize("name", ["elementwise_loss", "softmax_cross_entropy", "clip_norm"])
def test_sums_of_many_parts(name, dtype, monkeypatch, ops):
    """More chunks than threads in the block that adds them."""
    from tinynet_backends.cuda import operations

    monkeypatch.setattr(operations, "_CHUNK", 4)
    monkeypatch.setattr(operations, "_PARTS", 300)

    def draw(*shape):
        return real(*shape).astype(dtype)

    for case in {
        "elementwise_loss": [
            (squares, draw(600, 2), draw(600, 2), np.abs(draw(600))),
            (squares, draw(3, 2), draw(3, 2), draw(3)),
        ],
        "softmax_cross_entropy": [(draw(n, 2), np.arange(n) % 2, np.abs(draw(n))) for n in (1, 129, 4099)],
        "clip_norm": [(draw(n), 1.0) for n in (3, 7, 1199, 1300)],
    }[name]:
        holds(ops, name, case, RTOL[dtype])
    assert "total" in ops._cp.launched or name == "clip_norm"


def test_a_sum_over_few_threads_leaves_none_out(ops):
    """Up to a warp needs no shared memory."""
    for n in (3, 16, 17, 32, 33, 64):
        arrays = (a.astype(F4) for a in (real(n, 1), real(n, 1), np.abs(real(n))))
        holds(ops, "elementwise_loss", (squares, *arrays), RTOL[F4])


def test_what_has_no_kernel_is_left_to_the_portable_operation(ops):
    f2, turned = real(4, 3).astype("float16"), real(3, 4).T
    ints = np.arange(12).reshape(4, 3)
    for x in (f2, turned):
        assert_same(ops.elementwise(squares_of, x), squares_of(np, x), 0.0)
        assert_same(ops.softmax(x), Backend.softmax(ops, x), 0.0)
        assert_same(ops.dropout(x, 0.5, (1, 2), (3, 4, 5)), Backend.dropout(ops, x, 0.5, (1, 2), (3, 4, 5)), 0.0)
    assert_same(ops.elementwise(squares_of, ints), ints * ints, 0.0)
    assert_same(ops.elementwise(lambda xp, x: xp.cumulative_sum(x), real(5)).shape, (5,), 0.0)  # no trace
    v = real(4)
    ops.update(lambda xp, a: (a[::-1],), [v.copy()], [])
    after = [v[0], *(v[1:] + v[:-1])]
    ops.update(lambda xp, a, b: (a + b,), [v[1:]], [v[:-1]])  # they overlap
    assert_same(v, np.array(after), 0.0)
    ops.clip_norm(turned[0], 0.1)
    ops.pack([f2], np.empty(12))
    vector = real(12)
    wanted = np.concatenate([vector[6:], vector[6:]])
    np.testing.assert_array_equal(ops.pack([vector[6:], vector[6:]], vector), wanted)  # a part of itself
    with pytest.raises(ValueError, match="could not broadcast"):
        ops.pack([real(3), real(3)], np.empty(5))
    wide, one = real(4, 3), real(1)  # one for all, by broadcasting
    assert_same(ops.normalize(wide, one, one, -1, 0.1), Backend.normalize(ops, wide, one, one, -1, 0.1), 0.0)
    given = wide, np.array([1]), one
    assert_same(ops.softmax_cross_entropy(*given), Backend.softmax_cross_entropy(ops, *given), 0.0)
    assert ops._cp.launched == []


def squares_of(xp, x):
    return x * x


LAUNCHES = {
    "softmax_cross_entropy": ["cross_entropy"], "elementwise_loss": ["formula"], "softmax": ["softmax"], "update": ["formula"],
    "clip_norm": ["squares", "clip"], "dropout": ["dropout"], "words": ["words"], "permute": ["permute"], "pack": ["pack"],
}  # fmt: skip


@pytest.mark.parametrize("name", LAUNCHES)
def test_number_of_launches(name, ops):
    case = CASES[name](lambda a: a.astype(F4))[0]
    if name == "update":
        case = CASES[name](lambda a: a.astype(F4))[2]
    getattr(ops, name)(*device(ops, case))
    assert ops._cp.launched == LAUNCHES[name]


@DTYPES
def test_a_run_trains_as_it_does_on_numpy(dtype, ops):
    net = tn.Sequential(
        *(tn.Dense(16, bias=False), tn.BatchNorm(), tn.ReLU(), tn.Dropout(0.2)),
        *(tn.Dense(8), tn.LayerNorm(), tn.Tanh(), tn.Dense(3)),
    )
    data = tn.data.Spirals(n=256, n_classes=3, noise=0.1, seed=1)
    thetas = []
    for backend in (ops, get_backend("numpy")):
        model = tn.Model(net, 2, backend=backend, seed=5, dtype=str(dtype))
        model.fit(data, batch_size=64, epochs=2, optimizer=tn.Adam(0.01), clip=1.0, ema=0.9)
        thetas.append(np.asarray(model.theta))
    # No bias before batch norm: its gradient would be rounding errors, which Adam turns into steps.
    np.testing.assert_allclose(*thetas, rtol=1e-5 if dtype == F4 else 1e-13, atol=1e-5 if dtype == F4 else 1e-13)
    kernels = {"cross_entropy", "normalize_columns_grad", "dropout", "normalize_rows", "clip", "pack"}
    assert kernels <= set(ops._cp.launched)


# The shim itself -----------------------------------------------------------------------------------------------------

HEAD = "KERNEL bad(i64 n, const real* x, real* y, bool* flags) {\n    const int t = threadIdx.x;\n"
DEPENDS = "argument 2 of bad depends on the order 1 or grid 1"
ALONE = "threads wait at a barrier or a shuffle that others do not reach"
MISTAKES = {
    "a missing barrier": ("__shared__ real all[THREADS]; all[t] = x[t]; y[t] = all[THREADS - 1 - t];", DEPENDS),
    "a second value over the first": (
        "__shared__ real s; if (!t) s = x[0]; __syncthreads(); y[t] = s; if (!t) s = x[1]; __syncthreads(); y[t] += s;", DEPENDS,
    ),
    "a result that depends on the grid": ("if (t == 0) y[blockIdx.x] = gridDim.x;", DEPENDS),
    "a block that waits for another": ("if (t == 0) y[blockIdx.x] = blockIdx.x ? y[blockIdx.x - 1] + 1 : 0;", DEPENDS),
    "a write behind the end": ("if (t == 0) y[n] = 1;", "bad writes outside of an array"),
    "a write before the beginning": ("if (t == 0) y[-1] = 1;", "bad writes outside of an array"),
    "a barrier in a branch": ("if (t < 7) __syncthreads(); y[0] = 1;", ALONE),
    "a shuffle in a branch": ("if (t < 7) y[t] = __shfl_xor_sync(~0u, x[t], 1);", ALONE),
    "an access of 16 bytes elsewhere": ("if (t == 0) ((Pack*)(y + 1))[0] = ((Pack*)(y + 1))[4];", "an address is not aligned"),
    "a shuffle of others": ("y[t] = __shfl_xor_sync(~1u, x[t], 0);", "a lane shuffles that is not in its own mask"),
}  # fmt: skip


def bad(lines):
    return source.whole("bad", f"{HEAD}    {lines}\n}}\n", F4)


@pytest.mark.parametrize("what", MISTAKES)
def test_a_mistake_is_detected(what, ops):
    lines, said = MISTAKES[what]
    x, y = np.arange(256, dtype=F4), np.zeros(256, F4)
    with pytest.raises(AssertionError) as e:
        ops._launch(bad(lines), "bad", 4, 256, np.int64(256), x, y, None)
    assert said in str(e.value)
    softmax = ops.softmax(x.reshape(2, 128))  # and the next launch is as it should be
    np.testing.assert_allclose(softmax.sum(1), 1.0, rtol=1e-6)


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ((np.int32(1), np.zeros(1, F4), np.zeros(1, F4), None), "argument 0 of bad is np.int32(1): expected i8"),
        ((np.int64(1), np.zeros(1, F8), np.zeros(1, F4), None), "expected *f4"),
        ((np.int64(1), np.zeros(1, F4), np.zeros(1, F4), np.zeros(1)), "expected *b1"),
        ((1, np.zeros(1, F4), np.zeros(1, F4), None), "argument 0 of bad is 1: expected i8"),
        ((np.int64(1),), "bad takes 4 arguments, not 1"),
    ],
)
def test_an_argument_of_another_type_is_detected(args, said, ops):
    with pytest.raises(AssertionError) as e:
        ops._launch(bad(MISTAKES["a missing barrier"][0]), "bad", 1, 256, *args)
    assert said in str(e.value)


# NVRTC -----------------------------------------------------------------------------------------------------------------


@needs_nvrtc
@pytest.mark.parametrize(
    ("architecture", "dtype"),
    [
        ("compute_90", F4),
        pytest.param("compute_80", F8, marks=pytest.mark.slow),
        *(pytest.param(a, F4, marks=pytest.mark.slow) for a in ARCHITECTURES),
        pytest.param(ARCHITECTURES[0], F8, marks=pytest.mark.slow),
    ],
    ids=str,
)
@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in FILES]
)
def test_nvrtc_compiles_the_files(name, architecture, dtype):
    """To PTX, which checks all but registers and shared memory; the slow cases compile to cubins."""
    compiled = nvrtc.compiled(source.load(name, dtype).text, architecture)
    assert compiled.startswith(b"\x7fELF") if architecture.startswith("sm") else b".visible .entry" in compiled


@needs_nvrtc
@pytest.mark.slow
@pytest.mark.parametrize(("architecture", "dtype"), [(ARCHITECTURES[0], F4), (ARCHITECTURES[-1], F8)], ids=str)
def test_nvrtc_compiles_each_formula(architecture, dtype):
    for made in (*formulas(dtype), *sets(dtype)):
        assert nvrtc.compiled(made.text, architecture).startswith(b"\x7fELF"), made.text


@needs_nvrtc
def test_nvrtc_says_what_is_wrong():
    with pytest.raises(ValueError, match=r'NVRTC_ERROR_COMPILATION(.|\n)*identifier "nothing" is undefined'):
        nvrtc.compiled(source.whole("wrong", "KERNEL wrong(real* x) { x[0] = nothing; }", F4).text, "sm_80")


# Kernels, products and graphs together ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "optimizer",
    [
        tn.Adam(tn.schedules.Cosine(0.1, 9)),
        *(pytest.param(o, marks=pytest.mark.slow) for o in (tn.SGD(0.1, 0.9), tn.NAdam())),
    ],
    ids=repr,
)
def test_training_is_captured_and_gives_the_bits_of_steps_as_written(optimizer, ops, monkeypatch, caplog):
    net = tn.Sequential(tn.Dense(6), tn.ReLU(), tn.Dropout(0.3), tn.LayerNorm(), tn.Dense(3))
    data = tn.data.Blobs(60, n_features=4, n_classes=3, seed=1)
    x, y = (np.asarray(a) for a in data.batch(range(60), get_backend("numpy"), "float32")[:2])

    def trained():
        model = tn.Model(net, 4, backend=ops, seed=2)
        loader = tn.Loader(tn.Arrays(x, y), 20, shuffle=False, prefetch=False)
        reports = tn.train(model, loader, tn.CrossEntropy(), optimizer, steps=9, clip=0.5, ema=0.9)
        return [float(report.loss) for report in reports], model.theta

    before = ops._runtime.launched
    with caplog.at_level("INFO", logger="tinynet"):
        losses, theta = trained()
    assert not [r for r in caplog.records if "captured" in r.getMessage()]
    assert ops._runtime.launched - before == 8
    monkeypatch.setattr(graph._Compilation, "__call__", lambda self, calls: self._as_written(calls))
    wanted, other = trained()
    assert losses == wanted
    assert theta.tobytes() == other.tobytes()


def test_a_step_with_class_weights_is_captured(ops, caplog):
    """Numbers of the host must be on the device before: a capture that copies them there fails."""
    # batches of equal labels: here what CuPy computes, the sum of weights, is computed in the capture only
    x, y, found = np.asarray(RNG.standard_normal((8, 4)), "float32"), np.tile([0, 1, 2, 1], 2), []
    for backend in (ops, get_backend("numpy")):
        model = tn.Model(tn.Dense(3), 4, backend=backend, seed=2)
        loader = tn.Loader(tn.Arrays(x, y), 4, shuffle=False, prefetch=False)
        with caplog.at_level("INFO", logger="tinynet"):
            reports = tn.train(model, loader, tn.CrossEntropy(0.1, (1.0, 2.0, 0.5)), tn.SGD(0.1), steps=6)
            found.append([float(report.loss) for report in reports])
    assert not [r for r in caplog.records if "captured" in r.getMessage()]
    np.testing.assert_allclose(*found, rtol=1e-6)  # a few roundings of float32


@pytest.mark.parametrize(
    ("order", "runs"),
    [
        ({}, [21]),
        ({"shuffle": True}, [9, 12]),
        pytest.param({"weights": np.arange(52)}, [7, 14], marks=pytest.mark.slow),
    ],
    ids=["in sequence", "shuffled", "by weights"],
)
def test_batches_that_a_device_makes_are_read_where_they_are(order, runs, ops, monkeypatch):
    """Four steps in a launch, single ones and a smaller last batch: three epochs, in one run or in two."""
    monkeypatch.setattr(tn.Loader, "made_on_host", lambda self, ops: False)
    monkeypatch.setattr("tinynet.data.loader.LARGEST_ON_DEVICE", 4 * 8 * 2)
    ops.empty = ops._runtime.empty  # which is never freed: arguments hold addresses of arrays
    net, data, copied = tn.Sequential(tn.Dense(6), tn.ReLU(), tn.Dense(3)), tn.data.Blobs(60).split(8)[1], []
    fill = graph._Compilation._fill

    def counted(self, inputs, arrays):
        copied.extend(a for to, a in zip(inputs, arrays, strict=True) if to is not a)
        fill(self, inputs, arrays)

    def trained(ops, together, *runs):
        model, run, losses = tn.Model(net, 2, backend=ops, seed=2), None, []
        loader = tn.Loader(data, 8, seed=1, **order)
        for steps in runs:
            copied.clear()
            options = {"steps": steps, "run": run, "together": together}
            for report in tn.train(model, loader, tn.CrossEntropy(), tn.Adam(0.1), **options):
                run, losses = report.run, [*losses, *report.recent]
        return losses, model.theta.tobytes()

    monkeypatch.setattr(graph._Compilation, "_fill", counted)
    got = trained(ops, True, *runs)
    assert len(copied) == 2 * 3  # inputs and labels, at the first call for each number of samples
    monkeypatch.setattr(graph._Compilation, "__call__", lambda self, calls: self._as_written(calls))
    assert got == trained(ops, False, 21)
    np.testing.assert_allclose(got[0], trained("numpy", False, 21)[0], rtol=1e-5)
