"""Fused dense layers, run on the host by the shim, equal the layers one by one."""

import logging
import weakref
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import pairwise, product
from threading import Barrier

import cublaslt
import fake_cuda
import numpy as np
import pytest
from cuda_shim import nvrtc, shim
from test_cuda_kernels import ACTIVATIONS, ARCHITECTURES, DTYPES, needs_nvrtc
from tinynet_backends import get_backend
from tinynet_backends.backend import DenseLayer
from tinynet_backends.cuda import chain, emit, fused, graph, strategies
from tinynet_backends.cuda.source import load
from tinynet_backends.cupy_backend import PRECISIONS
from tinynet_backends.tracing import trace

import tinynet as tn
from benchmarks import gpu_report, gpu_smoke
from benchmarks.tasks import Task

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NaN and infinity are intended here

F4, F8 = np.dtype("float32"), np.dtype("float64")
RTOL = {F4: 3e-6, F8: 1e-14}
SHAPES = [
    (4, (3, 4, 1)), (1, (1, 1)), (7, (1, 17, 3)), (33, (100, 17, 3, 1, 2)), (9, (64, 64, 64, 32)),
    *(pytest.param(shape, marks=pytest.mark.slow)
      for shape in ((1, (5, 3)), (33, (17, 64, 5)), (65, (3, 100, 9)), (100, (20, 64, 64, 2)))),
]  # fmt: skip


class Log(tn.ReLU):
    """Infinite at 0, with which rows and columns are padded."""

    def f(self, xp, x):
        return xp.log(x * x)

    def df(self, xp, dy, x, y):
        return dy * (2.0 / x)


KINDS = [*ACTIVATIONS[:4], Log(), *ACTIVATIONS[4:]]


def pairs(*layers):
    return tuple((trace(layer.f, 1), trace(layer.df, 3)) for layer in layers)


def sources():
    for activations in ([tn.ReLU()], KINDS, []):
        yield fused.kernels(pairs(*activations), "float32", "float32")
    yield load("reduce", F4)
    yield fused.kernels(pairs(tn.Tanh(), tn.GELU()), "float32", "bf16")
    yield fused.kernels((), "float32", "bf16")
    for name, precision in DEFAULT:
        yield fused.for_sizes(registers(precision, *IN_REGISTERS[name])[0])
    yield fused.for_sizes(large(*LARGE["chunks"])[0])


IN_REGISTERS = {  # rows, tile, widths, activations, bias, whether the gradient of x is needed
    "tiles in one chunk": (150, 64, [11, 20, 12, 5], [tn.Tanh(), tn.GELU(), None], True, True),
    "chunks": (300, 128, [20, 64, 64, 2], [tn.ReLU(), tn.ReLU(), None], True, False),
    "infinite at 0": (37, 16, [5, 9, 4, 6], [Log(), tn.ReLU(), tn.Tanh()], False, True),
    "one layer": (16, 16, [1, 16], [tn.GELU()], True, False),
}
DEFAULT = [(name, "bf16") for name in [*IN_REGISTERS][:3]]  # the others are slow


def registers(precision, n, tile, widths, activations, bias, need_dx):
    """The work of layers whose rows a warp has in registers, and the layers."""
    made = layers(widths, activations, bias)
    work = fused.Work.of(draw(n, widths[0]), made, precision, need_dx).behind(0, tile)
    assert work.in_registers
    return work, made


LARGE = {  # rows, widths, activations, bias, whether the gradient of x is needed, and whether x is a ReLU's output
    "chunks": (300, [20, 64, 64, 10], [tn.Tanh(), tn.ReLU(), None], True, False, 0),
    "of the activation's input": (300, [64, 64, 64, 16], [tn.ReLU(), tn.GELU(), tn.Tanh()], True, True, 0),
    "no bias": (257, [40, 60, 5], [tn.GELU(), tn.ReLU()], False, True, 0),
    "one layer": (600, [64, 64], [tn.Tanh()], True, True, 0),
    "behind a ReLU": (300, [64, 64, 3], [tn.ReLU(), None], False, True, 1),
    "behind a bias and a ReLU": (300, [64, 64, 3], [tn.ReLU(), None], True, True, 2),
}


def large(n, widths, activations, bias, need_dx, before):
    """The work of layers in tiles of 128 rows, and the layers."""
    made = layers(widths, activations, bias)
    work = fused.Work.of(draw(n, widths[0]), made, "float32", need_dx)
    return fused.replace(work.behind(0, 128), before=before), made


@pytest.fixture(scope="module")
def machine(request, tmp_path_factory):
    made = shim.at(request, tmp_path_factory)
    files = [load(name, F4) for name in ("rows", "relu", "round", "pack")]
    made.prepare([*sources(), *files, *(emit.kernel(t, F4, kind) for t, kind in FORMULAS)])
    return made


def formula(rule, arrays, numbers, kind):
    return trace(rule, arrays, numbers), kind


FORMULAS = [
    formula(tn.Tanh().f, 1, 0, "map"),
    formula(tn.Tanh().df, 3, 0, "map"),
    formula(tn.Adam()._decayed_rule, 4, 3, "update"),
    formula(tn.SGD(1.0)._decayed_rule, 2, 1, "update"),
    formula(tn.SumSquaredError().formula, 2, 0, "loss"),
]


def layers(widths, activations, bias=True, dtype=F4, seed=0):
    """Layers with these activations, one per layer; None is none."""
    rng = np.random.default_rng(seed)
    made = []
    for (i, o), f in zip(pairwise(widths), activations, strict=True):
        w, b = rng.standard_normal((i, o)) / np.sqrt(i), rng.standard_normal(o) if bias else None
        formulas = (None, None) if f is None else (f.f, f.df)
        made.append(DenseLayer(w.astype(dtype), None if b is None else b.astype(dtype), *formulas))
    return made


def one_by_one(x, layers, dy, rounded=lambda a: a):
    """The output, the gradient of x, and those of weights and biases, by the portable operations in float64."""
    xp, steps, gradients = get_backend("numpy"), [], []
    for w, b, f, _ in layers:
        z = xp.affine(rounded(x), rounded(w), b)
        y = z if f is None else f(np, z)
        steps.append((x, z, y))
        x = y
    for (w, b, _, df), (x, z, y) in zip(reversed(layers), reversed(steps), strict=True):
        dz = rounded(dy if df is None else df(np, dy, z, y))
        dy, dw, db = xp.affine_grad(dz, rounded(x), rounded(w), b is not None)
        gradients = [dw, *([] if db is None else [db]), *gradients]
    return [steps[-1][2], dy, *gradients]


def rounded(precision, a):
    return cublaslt.rounded(a.astype(F4), precision).astype(F8)


ROUNDED = {precision: partial(rounded, precision) for precision in ("float32", "tf32", "bf16")}
ROUNDINGS = pytest.mark.parametrize("precision", ["float32", pytest.param("tf32", marks=pytest.mark.slow), "bf16"])


def exactly(layers):
    return [DenseLayer(w.astype(F8), None if b is None else b.astype(F8), f, df) for w, b, f, df in layers]


def together(ops, x, layers, dy, need_dx=True):
    y, back = strategies.through(ops, x, layers, need_dx)
    assert isinstance(back.__self__, fused.Fused)
    dx, gradients = back(dy)
    return [y, *([dx] if need_dx else []), *(g for pair in gradients for g in pair if g is not None)]


def agree(got, wanted, rtol):
    for a, b in zip(got, wanted, strict=True):
        assert a.shape == b.shape
        assert np.linalg.norm(a - b) <= rtol * np.linalg.norm(b) + 1e-30


def draw(*shape, dtype=F4, seed=1):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


@DTYPES
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_sizes(shape, dtype, machine):
    ops, (n, widths) = shim.ShimBackend(machine), shape
    x, dy = draw(n, widths[0], dtype=dtype), draw(n, widths[-1], dtype=dtype)
    for bias, last in ((True, None if len(widths) > 2 else tn.ReLU()), (False, tn.ReLU())):
        made = layers(widths, [*[tn.ReLU()] * (len(widths) - 2), last], bias, dtype)
        wanted = one_by_one(x.astype(F8), exactly(made), dy.astype(F8))
        agree(together(ops, x, made, dy), wanted, RTOL[dtype])
        agree(together(ops, x, made, dy, need_dx=False), [wanted[0], *wanted[2:]], RTOL[dtype])


@pytest.mark.parametrize(("n", "tile"), [(1, 16), (50, 16), (96, 16), (97, 16), (150, 64)])
def test_chunks_of_several_tiles(n, tile, machine, monkeypatch):
    monkeypatch.setattr(fused, "_CHUNKS", 3 if tile == 16 else 1)
    made, x, dy = layers([6, 9, 2], [tn.ReLU(), None]), draw(n, 6), draw(n, 2)
    one = fused.Fused(shim.ShimBackend(machine), fused.Work.of(x, made, "float32", True).behind(0, tile), made)
    y, (dx, gradients) = one.forward(x), one.backward(dy)
    agree(
        [y, dx, *(g for pair in gradients for g in pair)],
        one_by_one(x.astype(F8), exactly(made), dy.astype(F8)),
        RTOL[F4],
    )


@DTYPES
@pytest.mark.parametrize("bias", [True, False])
def test_all_activations_in_one_network(dtype, bias, machine):
    ops = shim.ShimBackend(machine)
    made = layers([5, 9, 4, 6, 3, 8, 7, 6, 5, 4, 6], KINDS, bias, dtype)
    x, dy = draw(21, 5, dtype=dtype), draw(21, 6, dtype=dtype)
    wanted = one_by_one(x.astype(F8), exactly(made), dy.astype(F8))
    agree(together(ops, x, made, dy), wanted, 20 * RTOL[dtype])


def test_a_layer_without_activation(machine):
    made = layers([5, 6, 4, 3], [None, tn.ReLU(), None])
    x, dy = draw(9, 5), draw(9, 3)
    wanted = one_by_one(x.astype(F8), exactly(made), dy.astype(F8))
    agree(together(shim.ShimBackend(machine), x, made, dy), wanted, RTOL[F4])


@pytest.mark.parametrize(("precision", "bits"), [pytest.param("tf32", 11, marks=pytest.mark.slow), ("bf16", 8)])
@pytest.mark.parametrize("n", [3, 21, pytest.param(70, marks=pytest.mark.slow)])
def test_operands_are_rounded(precision, bits, n, machine):
    ops = shim.ShimBackend(machine, precision)
    for widths in ([11, 20, 12, 5], [100, 3, 100, 2], *([[40, 36, 7, 70]] if n == 70 else [])):
        made = layers(widths, [tn.Tanh(), tn.GELU(), None])
        x, dy = draw(n, widths[0]), draw(n, widths[-1])
        wanted = one_by_one(x.astype(F8), exactly(made), dy.astype(F8), ROUNDED[precision])
        got = together(ops, x, made, dy)
        agree(got, wanted, 1.5 * 2.0 ** (1 - bits))  # some operands are rounded to the other side, and what is kept
        far = one_by_one(x.astype(F8), exactly(made), dy.astype(F8))
        assert np.linalg.norm(got[0] - far[0]) > 2.0 ** (-4 - bits) * np.linalg.norm(far[0])


def test_bf16x3_is_float32_where_no_product_is_cublas_s():
    found = [fused.kernels(pairs(tn.Tanh()), "float32", precision) for precision in ("float32", "bf16x3")]
    assert found[0] == found[1]
    x, made = np.zeros((40, 5), F4), layers([5, 8, 3], [tn.ReLU(), None])
    one, other = (fused.Work.of(x, made, p, True) for p in ("float32", "bf16x3"))
    assert one.key != other.key  # what else there is takes another time
    for back in (False, True):
        assert one.behind(0, 16).shared_memory(back) == other.behind(0, 16).shared_memory(back)


@pytest.mark.parametrize(
    ("name", "precision"),
    [
        pytest.param(*case, marks=[] if case in DEFAULT else pytest.mark.slow)
        for case in product(IN_REGISTERS, ["bf16", "tf32"])
    ],
)
def test_a_warp_has_rows_in_registers(name, precision, machine, monkeypatch):
    monkeypatch.setattr(fused, "_CHUNKS", 1 if name == "tiles in one chunk" else 2)
    work, made = registers(precision, *IN_REGISTERS[name])
    x, dy = draw(work.n, work.widths[0]), draw(work.n, work.widths[-1])
    wanted = one_by_one(x.astype(F8), exactly(made), dy.astype(F8), ROUNDED[precision])
    one = fused.Fused(shim.ShimBackend(machine, precision), work, made)
    y, (dx, gradients) = one.forward(x), one.backward(dy)
    assert (dx is not None) == work.need_dx
    got = [y, *([dx] if work.need_dx else []), *(g for pair in gradients for g in pair if g is not None)]
    agree(got, wanted if work.need_dx else [wanted[0], *wanted[2:]], 2e-2 if precision == "bf16" else 1e-3)


@pytest.mark.parametrize(
    "name", [name if name == "chunks" else pytest.param(name, marks=pytest.mark.slow) for name in LARGE]
)
def test_large_tiles(name, machine, monkeypatch):
    monkeypatch.setattr(fused, "_CHUNKS", 1 if name == "one layer" else 2)
    work, made = large(*LARGE[name])
    x, dy = draw(work.n, work.widths[0]), draw(work.n, work.widths[-1])
    x = np.maximum(x, 0) if work.before else x
    y, dx, *gradients = one_by_one(x.astype(F8), exactly(made), dy.astype(F8))
    dx = dx * (x > 0) if work.before else dx
    wanted = [y, *([dx] if work.need_dx else []), *([dx.sum(0)] if work.before == 2 else []), *gradients]
    one = fused.Fused(shim.ShimBackend(machine), work, made)
    y, (dx, each) = one.forward(x), one.backward(dy)
    before = [] if one.before is None else [one.before]
    got = [y, *([dx] if work.need_dx else []), *before, *(g for pair in each for g in pair if g is not None)]
    agree(got, wanted, RTOL[F4])


@pytest.mark.parametrize("precision", ["float32", pytest.param("bf16", marks=pytest.mark.slow)])
def test_kernels_for_sizes_return_the_same_bits(precision, machine, monkeypatch):
    monkeypatch.setattr(fused, "_REGISTERS", 0)
    made, results = layers([17, 64, 5], [tn.GELU(), tn.ReLU()]), []
    x, dy = draw(33, 17), draw(33, 5)
    for worth in (1 << 20, 0):
        monkeypatch.setattr(fused, "_WORTH", worth)
        results.append(together(shim.ShimBackend(machine, precision), x, made, dy))
    assert [a.tobytes() for a in results[0]] == [a.tobytes() for a in results[1]]


@ROUNDINGS
def test_nan_and_infinity_go_where_they_go_one_by_one(precision, machine):
    half = precision != "float32"
    ops, activations = shim.ShimBackend(machine, precision), [tn.Tanh(), tn.GELU()] if half else [tn.ReLU()]
    widths = [11, 20, 12, 5] if half else [3, 5, 2]
    for bad in (np.nan, np.inf, -np.inf):
        for where in ("x", "w", "b", "last w", "dy"):
            x, dy, made = draw(18, widths[0]), draw(18, widths[-1]), layers(widths, [*activations, None])
            {"x": x, "w": made[0].w, "b": made[0].b, "last w": made[-1].w, "dy": dy}[where].ravel()[1] = bad
            got = together(ops, x, made, dy)
            wanted = one_by_one(x.astype(F8), exactly(made), dy.astype(F8), ROUNDED[precision])
            tolerance = {"rtol": 5e-2, "atol": 5e-2} if half else {"rtol": 1e-4, "atol": 1e-5}
            for n, (a, c) in enumerate(zip(got, wanted, strict=True)):
                np.testing.assert_allclose(a, c, **tolerance, err_msg=f"{bad} in {where}, result {n}")


def test_operands_that_do_not_lie_in_order_or_aligned(machine):
    ops, widths = shim.ShimBackend(machine), [8, 4, 4]
    memory = draw(200)
    made = layers(widths, [tn.ReLU(), None])
    moved = []
    for n, (w, b, f, df) in enumerate(made):
        place = memory[1 + 50 * n :][: w.size].reshape(w.shape)
        place[...] = w
        moved.append(DenseLayer(place, b, f, df))
    x, dy = draw(8, 40).T[::2], np.asfortranarray(draw(20, 4))
    agree(together(ops, x, moved, dy), one_by_one(x.astype(F8), exactly(moved), dy.astype(F8)), RTOL[F4])


# What is fused, and how -----------------------------------------------------------------------------------------------


def work(n, widths, activations=None, **options):
    x, made = np.zeros((n, widths[0]), F4), layers(widths, activations or [tn.ReLU()] * (len(widths) - 1))
    return fused.Work.of(x, made, "float32", False), x, made


def test_tiles_are_large_where_a_block_s_threads_hold_all_gradients():
    widths = [64] * 5 + [16]
    large = work(1 << 15, widths)[0]
    assert strategies._candidates(shim.ShimBackend(None), *work(1 << 15, widths))[:4] == [
        (0, n, False) for n in (16, 32, 64, 128)
    ]
    for other in (
        work((1 << 15) - 1, widths)[0],
        work(1 << 15, [64] * 6 + [16])[0],
        work(1 << 15, [64, 65, 16])[0],
        work(1 << 15, [128, 32, 16])[0],
        work(1 << 15, [40, 60, 16])[0],
        fused.replace(large, dtype="float64"),
        fused.replace(large, operands="tf32", before=1),
    ):
        assert other.tiles == (16, 32, 64)


@pytest.mark.slow
def test_few_rows_have_small_tiles(machine):
    ops = shim.ShimBackend(machine)
    for n, tile, chunks in (
        (1, 4, 1),
        (7, 8, 1),
        (16, 16, 1),
        (17, 16, 2),
        (1024, 16, 64),
        (4096, 32, 128),
        (8192, 64, 128),
    ):
        found, x, made = work(n, [3, 4, 1])
        assert ops._strategies.find(ops, found, x, made) == (0, tile, False)
        assert found.behind(0, tile).chunks == chunks
    large = work(262144, [64] * 5 + [16])[0].behind(0, 64)
    assert (large.chunks, large.size) == (256, 1024)
    assert ops._runtime.timed == 0


def test_what_does_not_fit_is_not_fused(machine):
    ops = shim.ShimBackend(machine)
    found, x, made = work(8, [784, 512, 600])
    candidates = strategies._candidates(ops, found, x, made)
    assert candidates == [(2, 0, False), (2, 0, True)]
    assert [one.of(ops, found, x, made).beside for one in candidates] == [False, True]
    assert strategies._candidates(ops, *work(4, [3, *[2] * 18], [None] * 18)) == [(2, 4, False), (18, 0, False)]
    for most, strategy in ((6080, (0, 8, False)), (6079, (1, 8, False)), (10, (2, 0, False))):
        ops._runtime.shared_memory = most  # the forward pass takes 6080 bytes, and the backward pass fewer
        assert strategies._candidates(ops, *work(8, [30, 20, 10]))[0] == strategy
    assert ops._strategies.find(ops, *work(8, [784, 600])) == (1, 0, False)
    assert ops._runtime.timed == 0  # there is nothing to choose from
    x = np.zeros((0, 3), F4)
    assert strategies.through(ops, x, layers([3, 2], [tn.ReLU()]), False) is None
    for untraceable in (lambda xp, x: x[::-1], lambda xp, x: (x, x)):
        one = DenseLayer(np.zeros((3, 2), F4), None, untraceable, tn.ReLU().df)
        assert fused.Work.of(np.zeros((4, 3), F4), [one], "float32", False) is None
    transposed = [DenseLayer(np.zeros((2, 3), F4).T, None, None, None)]
    assert fused.Work.of(np.zeros((4, 3), F4), transposed, "float32", False) is None


class Kept(fake_cuda.Choices):
    def __init__(self):
        self.of = {}

    def find(self, work):
        return self.of.get(work.key)

    def keep(self, work, choice):
        self.of[work.key] = choice


@pytest.mark.parametrize(
    ("activation", "times", "strategy"),
    [
        (tn.ReLU(), (1, 2, 3, 4, 5), (0, 16, False)), (tn.Tanh(), (4, 2, 1, 3), (0, 64, False)),
        (tn.ReLU(), (2, 2, 2, 1, 2), (2, 0, False)), (tn.ReLU(), (2, 2, 2, 2, 1), (2, 0, True)),
    ],
)  # fmt: skip
def test_timing_decides_where_sizes_do_not(activation, times, strategy, machine, monkeypatch):
    monkeypatch.setattr(strategies, "_SURE", 10)
    ops, kept = shim.ShimBackend(machine), Kept()
    ops._strategies, ops._running.arena = strategies.Strategies(kept), "a step's, which timing must not use"
    clock, timed = iter(times), []
    if activation == tn.Tanh():  # kernels of these are tested elsewhere
        monkeypatch.setattr(fused.Fused, "forward", lambda self, x: x)
        monkeypatch.setattr(fused.Fused, "backward", lambda self, dy: None)

    def seconds(run):
        run()
        if not hasattr(run, "args"):  # an algorithm of a product
            return 1.0
        timed.append(run.args[0])
        return next(clock)

    ops._runtime.seconds = seconds
    found, x, made = work(300, [3, 4, 1], [activation] * 2)
    candidates = strategies._candidates
    for _ in range(2):
        assert ops._strategies.find(ops, found, x, made) == strategy
        assert [strategy.tile for strategy in timed] == [16, 32, 64, 0, 0][: len(times)]
        assert [*kept.of.values()] == [strategy]
        ops._strategies = strategies.Strategies(kept)  # another process, whose candidates have another order
        monkeypatch.setattr(strategies, "_candidates", lambda *args: candidates(*args)[::-1])


@pytest.mark.parametrize(
    ("n", "kept", "best", "strategy", "timings"),
    [
        (4095, None, 0, (0, 16, False), 0), (4096, None, 0, (0, 32, False), 0), (8192, None, 0, (0, 16, False), 1),
        (8192, (0, 64, False), 0, (0, 64, False), 0), (8192, (0, 8, False), 0, (0, 16, False), 1),
        (8192, None, None, (2, 0, False), 1),
    ],
)  # fmt: skip
def test_sizes_decide_or_timing_here_or_before(n, kept, best, strategy, timings, monkeypatch):
    """The largest tiles of which there are 128, unless a block would have much to do: timed, if no candidate is kept."""
    timed, choices, of = [], Kept(), work(n, [64, 64, 16])
    monkeypatch.setattr(strategies, "_works", lambda *args: True)
    monkeypatch.setattr(strategies, "fastest", lambda runs, seconds: timed.append(runs) or (best, False))
    if kept:
        choices.keep(of[0], kept)
    ops, before = shim.ShimBackend(None), {**choices.of}
    ops._strategies = strategies.Strategies(choices)
    assert ops._strategies.find(ops, *of) == strategy
    assert len(timed) == timings
    assert choices.of == before  # what was the fastest while others lacked memory is not kept


def halved(machine, widths, activations, precision="float32", bias=True):
    """A backend whose blocks have room for the last layer only, and layers for it."""
    ops, made = shim.ShimBackend(machine, precision), layers(widths, activations, bias)
    for layer in made if bias else []:  # a chain rounds biases, which may move an input across ReLU's corner
        layer.b[...] = ROUNDED["bf16"](layer.b)
    found = fused.Work.of(np.zeros((100, widths[0]), F4), made, precision, True)
    ops._runtime.shared_memory = max(found.behind(len(made) - 1, 16).shared_memory(back) for back in (False, True))
    monotone = iter(range(1000, 0, -1))  # later candidates are faster
    ops._runtime.seconds = lambda run: (
        run() or next(monotone) * (hasattr(run, "args") and run.args[0].front == len(made))
    )
    return ops, made


@ROUNDINGS
@pytest.mark.parametrize(
    ("activation", "width", "bias"),
    [
        (tn.ReLU(), 40, True),
        (tn.Tanh(), 37, True),
        pytest.param(tn.ReLU(), 40, False, marks=pytest.mark.slow),
        pytest.param(tn.ReLU(), 37, True, marks=pytest.mark.slow),
    ],
)
def test_only_the_last_layer_fits(precision, activation, width, bias, machine, monkeypatch):
    front = chain.Chain if activation == tn.ReLU() else strategies.OneByOne
    monkeypatch.setattr(fused, "_CHUNKS", 3)  # so that chunks have several tiles
    monkeypatch.setattr(fused, "_REGISTERS", 0)  # or more layers would fit
    ops, made = halved(machine, [8, 24, width, 3], [activation, activation, None], precision, bias)
    x, dy = draw(100, 8), draw(100, 3)
    wanted = one_by_one(x.astype(F8), exactly(made), dy.astype(F8), ROUNDED[precision])
    for need_dx in (True, False):
        machine.launched.clear()
        y, back = strategies.through(ops, x, made, need_dx)
        # operands rounded down, not to the nearest, would be off by 4e-3
        assert np.linalg.norm(y - wanted[0]) < 1e-4 * np.linalg.norm(wanted[0])
        assert isinstance(back.__self__, strategies.Halves)
        assert isinstance(back.__self__.front, front)
        machine.launched.clear()
        dx, gradients = back(dy)
        assert need_dx or dx is None
        got = [y, *([dx] if need_dx else []), *(g for pair in gradients for g in pair if g is not None)]
        agree(
            got,
            wanted if need_dx else [wanted[0], *wanted[2:]],
            {"float32": RTOL[F4], "tf32": 1e-3, "bf16": 2e-2}[precision],
        )
        passes = [name for name in machine.launched if name.startswith("back_") or name == "back"]
        if front is chain.Chain:  # the kernel also does the first of two passes, unless bfloat16 has to be padded
            assert len(passes) == (2 if precision == "bf16" and width == 37 else 1)


def test_a_front_that_has_no_algorithm(machine, monkeypatch):
    ops, made = halved(machine, [8, 40, 3], [tn.ReLU(), None])
    assert strategies.through(ops, draw(100, 8), made, True) is not None
    monkeypatch.setattr(fake_cuda.Problem, "refused", frozenset(range(300)))
    ops._products._ready.clear()
    assert strategies.through(ops, draw(100, 8), made, True) is None  # each layer finds its own strategy
    ops._strategies = strategies.Strategies(ops._products.choices)  # a process that finds it out by timing
    assert strategies.through(ops, draw(100, 8), made, True) is None


def test_nothing_is_timed_in_a_capture(machine, monkeypatch):
    monkeypatch.setattr(strategies, "_SURE", 10)
    ops = shim.ShimBackend(machine)
    found, x, made = work(300, [3, 4, 1])
    with ops._runtime.capture(None):
        assert ops._strategies.find(ops, found, x, made) == (0, 16, False)
        ops._runtime.shared_memory = 10 << 10  # enough for the last layer in tiles of 16, of which these rows make 128
        assert ops._strategies.find(ops, *work(2048, [8, 24, 40, 3])) == (2, 16, False)
    assert ops._strategies._known == {}


def test_nothing_is_tried_in_a_capture(machine):
    ops = shim.ShimBackend(machine)
    found, x, made = work(300, [3, 4, 1])
    machine.launched.clear()
    with ops._runtime.capture(None):
        assert ops._strategies.find(ops, found, x, made) == (0, 16, False)
    assert ops._strategies._known == {}
    assert machine.launched == []
    assert ops._strategies.find(ops, found, x, made) == (0, 16, False)
    assert machine.launched == ["forward", "backward", "add_up"]


def test_layers_that_do_not_fit_are_left_to_products():
    """A kernel would read beyond: where a layer's output is not what its build says."""
    x, w, other = (np.ones(shape, F4) for shape in ((8, 5), (5, 3), (6, 3)))
    assert fused.Work.of(x, [DenseLayer(w, None, None, None)], "float32", False) is not None
    for weights in ([other], [w, other]):
        assert fused.Work.of(x, [DenseLayer(w, None, None, None) for w in weights], "float32", False) is None


@pytest.fixture
def warned(caplog):
    caplog.set_level(logging.WARNING, logger="tinynet")
    return lambda: [r.getMessage() for r in caplog.records]


REFUSALS = {
    "launch": ("Kernel", "__call__", RuntimeError("CUDA_ERROR_INVALID_VALUE: it is"), "CUDA_ERROR_INVALID_VALUE: it is"),
    "compilation": (
        "Module", "get_function", shim.Shim.CompileException("fused.cu(3): error: so\n1 error"),
        "NVRTC does not compile fused.cuh (float): fused.cu(3): error: so",
    ),
}  # fmt: skip


@pytest.fixture(params=REFUSALS)
def refusing(request, monkeypatch):
    """A device that does not take fused kernels, and what is said of it."""
    kind, name, error, said = REFUSALS[request.param]
    original = getattr(getattr(shim, kind), name)

    def refuse(self, *args, **options):
        if (self.name if kind == "Kernel" else args[0]) == "backward":
            raise error
        return original(self, *args, **options)

    monkeypatch.setattr(getattr(shim, kind), name, refuse)
    return f"dense layers are computed by products, because fused ones fail: {said}"


@pytest.mark.parametrize("kept", [True, False], ids=["found in the cache", "by sizes"])
def test_a_device_that_refuses_fused_layers_gets_products(kept, refusing, warned, machine, monkeypatch):
    ops, made, x, dy = shim.ShimBackend(machine), layers([6, 9, 3], [tn.ReLU(), None]), draw(40, 6), draw(40, 3)
    if kept:
        monkeypatch.setattr(strategies, "_SURE", 10)
        monkeypatch.setattr(
            ops._strategies.choices, "find", lambda work: [0, 32, False] if isinstance(work, fused.Work) else None
        )
    for _ in range(2):
        y, back = strategies.through(ops, x, made, True)
        assert isinstance(back.__self__, chain.Chain)
        dx, gradients = back(dy)
        got = [y, dx, *(g for pair in gradients for g in pair)]
        agree(got, one_by_one(x.astype(F8), exactly(made), dy.astype(F8)), RTOL[F4])
    assert warned() == [refusing]  # once
    assert strategies.through(ops, x, layers([6, 9, 3], [tn.Tanh(), None]), True) is None  # one by one
    assert warned() == [refusing] * 2


def test_a_refusal_is_found_by_timing_too(refusing, warned, caplog, machine, monkeypatch):
    monkeypatch.setattr(strategies, "_SURE", 10)
    caplog.set_level(logging.INFO, logger="tinynet")
    ops = shim.ShimBackend(machine)
    assert ops._strategies.find(ops, *work(40, [6, 9, 3])).tile == 0
    said = refusing.partition("fail: ")[2]
    assert [m for m in warned() if "left out" in m] == [f"a candidate is left out: {said}"] * 3
    assert not any("none of" in m for m in warned())


def test_a_training_goes_on_where_fused_layers_are_refused(refusing, warned, machine, monkeypatch):
    x, y = draw(60, 6), np.random.default_rng(0).integers(0, 3, 60)

    def trained():
        ops = shim.ShimBackend(machine)
        model = tn.Model(tn.Sequential(tn.Dense(9), tn.ReLU(), tn.Dense(3)), 6, backend=ops, seed=2)
        loader = tn.Loader(tn.Arrays(x, y), 20, shuffle=False, prefetch=False)
        losses = [float(r.loss) for r in tn.train(model, loader, tn.CrossEntropy(), tn.SGD(0.1), steps=6)]
        return losses, model.theta.tobytes(), ops._runtime.launched

    losses, theta, launched = trained()
    assert launched == 5  # captured all the same
    assert warned() == [refusing]
    monkeypatch.setattr(strategies, "_candidates", lambda ops, work, x, made: [strategies.Strategy(len(made), 0)])
    assert trained() == (losses, theta, launched)


def test_a_mistake_of_ours_is_no_refusal(machine, monkeypatch):
    def wrong(*args, **options):
        raise AssertionError("argument 3 is wrong")

    monkeypatch.setattr(shim.Kernel, "__call__", wrong)
    with pytest.raises(AssertionError, match="argument 3"):
        strategies.through(shim.ShimBackend(machine), draw(4, 3), layers([3, 4, 1], [tn.ReLU()] * 2), False)


def test_only_equal_work_shares_a_decision(monkeypatch):
    first, second = (work(300, [3, 4, 1])[0] for _ in range(2))
    others = [work(301, [3, 4, 1]), work(300, [3, 5, 1]), work(300, [3, 4, 1], [tn.ReLU(), None])]
    assert first == second
    assert first.key == second.behind(0, 32).key
    keys = {first.key, *(other.key for other, *_ in others)}
    monkeypatch.setattr(fused, "read", lambda name: "another kernel")
    assert len(keys | {first.key}) == 5


# A step ---------------------------------------------------------------------------------------------------------------

ARTICLE = tn.Sequential(tn.Dense(4, bias=False), tn.ReLU(), tn.Dense(1, bias=False), tn.ReLU())
TWO = tn.Sequential(tn.Dense(16), tn.ReLU(), tn.Dense(16), tn.ReLU(), tn.Dense(2))
STEPS = {
    "the article's": (ARTICLE, 3, 4, tn.SumSquaredError(), tn.SGD(0.1), ["forward", "formula", "backward", "formula"]),
    "classes": (
        TWO, 20, 100, tn.CrossEntropy(), tn.Adam(), ["forward", "cross_entropy", "backward", "add_up", "formula"],
    ),
    "classes, and products before the last": (
        TWO, 20, 100, tn.CrossEntropy(), tn.Adam(),
        ["forward", "cross_entropy", "backward", "back", "add_up", "formula"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", STEPS)
def test_a_step_of_a_small_network_is_few_launches_and_the_same_captured(name, machine, monkeypatch):
    net, n_in, batch, loss, optimizer, launches = STEPS[name]
    ops, rng = shim.ShimBackend(machine), np.random.default_rng(0)
    if "products" in name:
        ops, _ = halved(machine, [20, 16, 16, 2], [tn.ReLU(), tn.ReLU(), None])
    x = rng.standard_normal((3 * batch, n_in)).astype(F4)
    y = rng.integers(0, 2, 3 * batch) if loss.labels else rng.random((3 * batch, 1)).astype(F4)

    def trained():
        model = tn.Model(net, n_in, backend=ops, seed=2)
        loader = tn.Loader(tn.Arrays(x, y), batch, shuffle=False, prefetch=False)
        losses = []
        for report in tn.train(model, loader, loss, optimizer, steps=6):
            losses.append(float(report.loss))
            steps.append([*machine.launched])
            machine.launched.clear()
        return losses, model.theta

    machine.launched.clear()
    steps, launched = [], ops._runtime.launched
    losses, theta = trained()
    one_block = name == "the article's"
    assert steps[2:] == [["joined"] if one_block else launches] * 4
    assert ops._runtime.launched - launched == 5
    monkeypatch.setattr(graph._Compilation, "__call__", lambda self, calls: self._as_written(calls))
    steps.clear()
    wanted, other = trained()
    assert steps[1:] == [launches] * 5  # gradients are written where the optimizer reads them
    assert losses == wanted
    assert theta.tobytes() == other.tobytes()
    host = tn.Model(net, n_in, seed=2)
    loader = tn.Loader(tn.Arrays(x, y), batch, shuffle=False)
    reports = [*tn.train(host, loader, loss, optimizer, steps=6)]
    np.testing.assert_allclose(losses, [float(r.loss) for r in reports], rtol=1e-5)


def test_losses_of_steps_together_are_written_where_they_are_read(machine):
    net, n_in, batch, loss, optimizer, _ = STEPS["the article's"]
    ops = shim.ShimBackend(machine)
    model = tn.Model(net, n_in, backend=ops, seed=2)
    step = tn.step.make_step(model, loss, optimizer, tn.Run(optimizer.init(model.theta, ops)), tn.step.StepOptions())
    x, y = draw(4 * batch, n_in), draw(4 * batch, 1)
    for first in (0, 4, 8):
        machine.launched.clear()
        losses = np.empty(4, "float32")
        step.several((x.reshape(4, batch, n_in), y.reshape(4, batch, 1), None), first, losses)
        assert first == 0 or machine.launched == ["joined"] * (2 if first == 4 else 1)  # the first of them compiles
        again = tn.Model(net, n_in, seed=2)
        reports = [*tn.train(again, tn.Loader(tn.Arrays(x, y), batch, shuffle=False), loss, optimizer, steps=first + 4)]
        np.testing.assert_allclose(losses, [float(r.loss) for r in reports[-4:]], rtol=1e-5)


def test_an_array_of_one_number_is_made_once_per_step(machine):
    ops, seen, others = shim.ShimBackend(machine), [], []

    def step(x):
        seen.append(ops.constant((3,), 0.5, x.dtype))
        others.append(ops.constant((3,), 0.5, np.dtype("float64")))
        return x

    compiled = ops.compile(step)
    x = ops._runtime.array(np.zeros(2, "float32"))
    for _ in range(3):
        compiled(x)
    assert len(seen) == 2  # as written and captured
    assert seen[0] is seen[1]
    assert seen[0].tolist() == [0.5] * 3
    assert (seen[0].dtype.name, others[0].dtype.name) == ("float32", "float64")
    assert ops.constant((3,), 0.5, x.dtype) is not seen[0]
    with ops.outside_step():
        assert ops.constant((3,), 0.5, x.dtype) is not seen[0]
    other = ops.compile(lambda x: ops.constant((4,), 0.5, x.dtype))
    with ops._runtime.capture(None):  # nothing writes it before the graph is launched
        inside = other(x)
    assert other(x) is not inside


def test_a_graph_keeps_the_gradients_that_it_writes(machine):
    """Though with other arguments, the step has gradients of other shapes in their place."""
    ops, seen = shim.ShimBackend(machine), []

    def step(x):
        seen.append(weakref.ref(ops.gradient((len(x),), F4)))
        return x

    compiled = ops.compile(step)
    for n in (2, 2, 3, 3, 2):
        compiled(ops._runtime.array(np.zeros(n, F4)))
    assert [g() is not None for g in seen] == [True] * 4
    del compiled
    assert [g() is None for g in seen] == [True] * 4


def test_two_threads_in_one_step_have_gradients_of_their_own(machine):
    """The second begins while the first is in the middle: neither gets what the other has, nor one array twice."""
    ops, both = shim.ShimBackend(machine), Barrier(2, timeout=10)

    def step(x):
        first = ops.gradient((3,), F4)
        both.wait()
        return first, ops.gradient((3,), F4)

    compiled, x = ops.compile(step), ops._runtime.array(np.zeros(2, F4))
    with ThreadPoolExecutor(2) as pool:
        found = [g for pair in pool.map(lambda _: compiled(x), range(2)) for g in pair]
    assert len({g.ctypes.data for g in found}) == 4


def test_the_report_holds_them_against_float64(machine, monkeypatch):
    monkeypatch.setattr(gpu_report, "backend", lambda precision: shim.ShimBackend(machine, precision))
    monkeypatch.setattr(gpu_report, "PRECISIONS", {"float32": 1e-6})
    monkeypatch.setattr(gpu_report, "SMALL", [Task((5, 8, 3), 40), Task((5, 8, 3), 41)])
    first, *others = gpu_report.small(None)
    assert first.startswith("float32 5-8-3 × 40: ")
    assert first.endswith("; Strategy(front=0, tile=16, beside=False)")
    assert len(others) == 1
    backward = fused.Fused.backward
    monkeypatch.setattr(fused.Fused, "backward", lambda self, dy: backward(self, 1.001 * dy))
    with pytest.raises(gpu_report.Wrong, match="float32 5-8-3 × 40: 1.00e-03, where 1e-05 is allowed"):
        list(gpu_report.small(None))


@pytest.fixture
def smoke(machine, monkeypatch):
    """The checks of a new device, in float32 only and of smaller layers, with the backend that they are of."""
    ops = shim.ShimBackend(machine)
    monkeypatch.setattr(gpu_smoke, "backend", lambda precision: ops)
    monkeypatch.setattr(gpu_smoke, "PRECISIONS", {"float32": 1e-6})
    monkeypatch.setattr(gpu_smoke, "FUSED", Task((5, 8, 3), 40))
    monkeypatch.setattr(gpu_smoke, "TAIL", Task((5, 9, 3), 40))
    return ops


@pytest.mark.slow
def test_a_new_device_is_checked_in_every_way(smoke):
    sanitized = {name for name in gpu_report.SANITIZED if not name.startswith("bf16")}
    assert {"float32, captured", "samples"} | sanitized < {*gpu_smoke.names()}
    for dtype in ("float32", "float64"):
        said = gpu_smoke.check(f"{dtype}, layers 5-8-3 × 40")
        strategies = [strategy.partition(":")[0] for strategy in said.split("; ")]
        assert strategies == [f"({front}, {tile}, {beside})" for front, tile, beside in (
            (0, 16, False), (0, 32, False), (0, 40, False), (2, 0, False), (2, 0, True),
        )]  # fmt: skip
    assert gpu_smoke.check("float32, captured").startswith("6 steps, the same bits; loss ")
    assert gpu_smoke.check("softmax") == "as the portable operation"


@pytest.mark.slow
def test_a_new_device_is_asked_for_a_step_in_one_launch(smoke, monkeypatch):
    assert gpu_smoke.check("float32, a step in one launch").startswith("6 steps, the same bits; loss ")
    monkeypatch.setattr(gpu_smoke, "ONE_BLOCK", gpu_smoke.FUSED)
    with pytest.raises(gpu_report.Wrong, match="^launches are not joined: forward, "):
        gpu_smoke.check("float32, a step in one launch")


@pytest.mark.slow
def test_what_a_new_device_does_wrong_is_said(smoke, refusing, monkeypatch):
    reason = refusing.partition("fail: ")[2]
    with pytest.raises(gpu_report.Wrong, match=r"^FAILED \(0, 16, False\): ") as e:
        gpu_smoke.check("float32, layers 5-8-3 × 40")
    assert str(e.value).count(reason) == 3
    assert "(2, 0, False): " in str(e.value)  # the others were checked too
    assert gpu_smoke.check("float32, captured").endswith(f"; {refusing}")
    monkeypatch.setattr(gpu_smoke.verify, "_difference", lambda x, y: 2.0)
    with pytest.raises(gpu_report.Wrong, match=r"^softmax in float32 is off by 2.0e\+00; "):
        gpu_smoke.check("softmax")


@pytest.mark.slow
def test_the_report_says_what_every_way_takes(machine, monkeypatch):
    ops = shim.ShimBackend(machine)
    monkeypatch.setattr(gpu_report, "backend", lambda precision: ops)
    monkeypatch.setattr(gpu_report.tasks, "GPU", [Task((3, 4, 1), 4, article=True), Task((5, 8, 8, 3), 40)])
    monkeypatch.setattr(gpu_report, "PRECISIONS", {"float32": 1e-6})
    monkeypatch.setattr(ops._runtime, "seconds", lambda run: run() or 1e-6)
    first, second = gpu_report.strategies(None)
    assert first == "float32 3-4-1 × 4: (0, 4, False) 1.0 µs, (2, 0, False) 1.0 µs; taken: (0, 4, False)"
    every = ", ".join(
        f"{strategy} 1.0 µs" for strategy in [*((0, n, False) for n in (16, 32, 40)), (3, 0, False), (3, 0, True)]
    )
    assert second == f"float32 5-8-8-3 × 40: {every}; taken: (0, 16, False)"


# NVRTC -----------------------------------------------------------------------------------------------------------------


@needs_nvrtc
@pytest.mark.parametrize(
    ("dtype", "precision", "architecture"),
    [
        # a few seconds each: by default g++ compiles the same text
        pytest.param("float32", "bf16", "compute_80", marks=pytest.mark.slow),
        pytest.param("float32", "tf32", "compute_80", marks=pytest.mark.slow),
        # all architectures that have it for one precision, the oldest and the newest for the others
        *(
            pytest.param(d, p, a, marks=pytest.mark.slow)
            for d, p in (("float32", "float32"), ("float32", "tf32"), ("float32", "bf16"), ("float64", "float32"))
            for a in (ARCHITECTURES if p == "bf16" else (ARCHITECTURES[0], ARCHITECTURES[-1]))
            if p == "float32" or int(a.removeprefix("sm_")) >= PRECISIONS[p]
        ),
    ],
)
def test_nvrtc_compiles_them(dtype, precision, architecture):
    """To PTX, as `test_nvrtc_compiles_the_files`, or to cubins."""
    made = [fused.kernels(pairs(tn.ReLU()), dtype, precision)]
    if precision != "float32":
        made += [fused.for_sizes(registers(precision, *IN_REGISTERS["chunks"])[0])]
    elif dtype == "float32":
        made += [fused.for_sizes(large(*LARGE["of the activation's input"])[0])]
    for source in made:
        compiled = nvrtc.compiled(source.text, architecture)
        assert compiled.startswith(b"\x7fELF") if architecture.startswith("sm") else compiled.count(b"mma.sync") > 4


def test_the_kernels_share_their_constants():
    text = fused.read("layers.cuh")
    assert f"#define MOST {fused.MOST} " in text
    assert fused._LAYERS.itemsize == 8 * 3 * fused.MOST + 4 * (3 * fused.MOST + 2)
