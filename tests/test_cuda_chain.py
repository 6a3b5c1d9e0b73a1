"""Chained dense layers, run on the host by the shim, equal the layers one by one."""

import contextlib
import itertools

import cublaslt
import fake_cuda
import numpy as np
import pytest
from cuda_shim import shim
from test_cuda_plan import RTOL
from tinynet_backends import get_backend
from tinynet_backends.backend import DenseLayer
from tinynet_backends.cuda import chain, graph, operations
from tinynet_backends.cuda.plan import Epilogue, padded
from tinynet_backends.cuda.source import REAL, load
from tinynet_backends.numpy_backend import NumpyBackend
from tinynet_backends.tracing import traced

import tinynet as tn

NETS = {
    "one hidden layer": (7, [tn.Dense(5), tn.ReLU(), tn.Dense(3)]),
    "a single layer": (4, [tn.Dense(6), tn.ReLU()]),
    "several": (16, [tn.Dense(24), tn.ReLU(), tn.Dense(10), tn.ReLU(), tn.Dense(8), tn.ReLU(), tn.Dense(9)]),
    "no bias": (5, [tn.Dense(8, bias=False), tn.ReLU(), tn.Dense(3, bias=False), tn.ReLU()]),
    "two without anything between": (5, [tn.Dense(8), tn.Dense(6), tn.ReLU(), tn.Dense(2)]),
    "behind something else": (5, [tn.LeakyReLU(), tn.Dense(8), tn.ReLU(), tn.LeakyReLU(), tn.Dense(4), tn.ReLU()]),
    "an inner network": (5, [tn.Dense(6), tn.Residual(tn.Dense(6), tn.ReLU(), tn.Dense(6)), tn.Dense(4), tn.ReLU()]),
}


class Rounding(NumpyBackend):
    """Products of rounded operands, layer by layer.

    Against unrounded ones, an input that rounding moves across ReLU's corner would change a sample's share of the gradients.
    """

    def __init__(self, precision):
        super().__init__()
        self.rounded = lambda a: cublaslt.rounded(a.astype("float32"), precision).astype("float64")

    def affine(self, x, w, b=None):
        return super().affine(self.rounded(x), self.rounded(w), b)

    def affine_grad(self, dy, x, w, bias, need_dx=True):
        dx, dw, _ = super().affine_grad(self.rounded(dy), self.rounded(x), self.rounded(w), False, need_dx)
        return dx, dw, dy.sum(axis=-2) if bias else None


@pytest.fixture(scope="module")
def machine(request, tmp_path_factory):
    made = shim.at(request, tmp_path_factory)
    made.prepare([load(name, dtype) for name in ("relu", "round", "reduce", "pack") for dtype in REAL])
    return made


def backend(machine, precision):
    """A backend whose blocks have no room for all layers: a `Chain` computes them."""
    made = shim.ShimBackend(machine, precision)
    made._runtime.shared_memory = 0
    return made


# by default all networks in bfloat16, and the longest in others
LONGEST = [("several", "float32"), ("several", "bf16x3")]


def pass_through(ops, net, n_in, dtype, x, dy):
    """The output, the gradient of x and those of all parameters."""
    model = tn.Model(net, n_in, seed=3, dtype=dtype)
    params = {name: ops.asarray(w) for name, w in model.weights().items()}
    tree = {}
    for name, w in params.items():
        *path, last = name.split(".")
        node = tree
        for part in path:
            node = node.setdefault(part, {})
        node[last] = ops.asarray((np.arange(-2.0, w.size - 2) / 16).astype(dtype)) if last == "b" else w
    y, backprop = net.forward(tree, ops.asarray(x), tn.Context(ops, train=True))
    dx, gradients = backprop(ops.asarray(dy))
    return [y, dx, *(g for _, g in sorted(tn.layers.leaves(gradients)))], sorted(
        n for n, _ in tn.layers.leaves(gradients)
    )


@pytest.mark.parametrize(
    ("name", "refused", "precision"),
    [
        pytest.param(
            *(name, refused, precision),
            marks=[] if precision == "bf16" or (name, precision) in LONGEST else pytest.mark.slow,
            id=f"{name}-{precision}" if not refused else f"no algorithm for ReLU-{precision}",
        )
        for name, refused in [*((name, ()) for name in NETS), ("several", (6,))]
        for precision in RTOL
    ],
)
def test_layers_together_are_the_layers_one_by_one(name, precision, refused, machine, monkeypatch):
    monkeypatch.setattr(fake_cuda.Problem, "refused", frozenset(refused))
    n_in, layers = NETS[name]
    net, rng = tn.Sequential(*layers), np.random.default_rng(1)
    dtype = "float64" if precision == "float64" else "float32"
    ops = backend(machine, "float32" if precision == "float64" else precision)
    out = tn.Model(net, n_in).out_shape
    x, dy = (rng.standard_normal((67, *s)).astype(dtype) for s in ((n_in,), out))
    x, dy = (np.asfortranarray(a) if name == "several" else a for a in (x, dy))
    got, names = pass_through(ops, net, n_in, dtype, x, dy)
    reference = Rounding(precision) if precision in ("tf32", "bf16") else get_backend("numpy")
    wanted, others = pass_through(reference, net, n_in, "float64", x.astype("float64"), dy.astype("float64"))
    assert names == others
    for a, b in zip(got, wanted, strict=True):
        assert a.shape == b.shape
        assert a.dtype == dtype
        error = np.linalg.norm(a - b) / np.linalg.norm(b)
        assert error < {"float64": 1e-12, "float32": 2e-6, "bf16x3": 5e-5, "tf32": 1e-3, "bf16": 8e-3}[precision], error


def test_a_pass_that_is_timed_again_and_again_keeps_what_the_last_one_needs(machine):
    ops = backend(machine, "float32")
    w = np.ones((3, 3), "float32")
    one = chain.Chain(ops, [DenseLayer(w, None, tn.ReLU().f, tn.ReLU().df), DenseLayer(w, None, None, None)], False)
    for n in range(3):
        one.forward(np.full((4, 3), float(n), "float32"))
    assert [x[0, 0] for x in one.inputs] == [2.0, 6.0]


@pytest.mark.parametrize("precision", ["float32", "bf16x3", "bf16"])
def test_gradients_of_weights_beside_the_way_back_are_the_same(precision, machine):
    rng, relu = np.random.default_rng(1), tn.ReLU()
    layers = [
        DenseLayer(*(rng.standard_normal(s).astype("float32") for s in ((i, o), (o,))), relu.f, relu.df)
        for i, o in itertools.pairwise((16, 24, 16, 8, 10))
    ]
    x, dy = (rng.standard_normal((67, k)).astype("float32") for k in (16, 10))
    found = []
    for beside in (False, True):
        ops = backend(machine, precision)
        ops.empty, ops._runtime.puts_off = ops._runtime.empty, True
        one = chain.Chain(ops, layers, True, beside=beside)
        y, (dx, gradients) = one.forward(x), one.backward(dy)
        found.append([a.tobytes() for a in (y, dx, *itertools.chain(*gradients))])
        assert ops._runtime.late == []
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("precision", "launches"),
    [
        ("bf16x3", "split unpad split split unpad back split unpad back split back split unpad"),
        ("bf16", "round unpad back_to_half unpad back_in_half back_in_half unpad unpad"),
    ],
)
def test_operands_are_made_once_and_products_are_as_wide_as_they(precision, launches, machine):
    ops, taken = backend(machine, precision), []
    products, problem = ops._products, ops._products.problem
    products.problem = lambda plan: taken.append(plan) or problem(plan)
    net, rng = tn.Sequential(tn.Dense(10), tn.ReLU(), tn.Dense(16), tn.ReLU(), tn.Dense(3)), np.random.default_rng(2)
    for _ in range(2):  # timing, too, launches kernels
        machine.launched.clear()
        pass_through(ops, net, 5, "float32", *(rng.standard_normal(s).astype("float32") for s in ((4, 5), (4, 3))))
    assert [name.removesuffix("_arrays") for name in machine.launched] == launches.split()
    assert "d" not in {p.copied for p in taken if p.m != 5 and p.m != 10}  # unaligned dx of bf16x3 only
    assert {p.epilogue for p in taken if p.n == 4} == {Epilogue.NONE, Epilogue.BIAS | Epilogue.RELU}


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["bf16x3", "bf16"])
def test_a_training_captured_and_as_written(precision, machine, monkeypatch):
    net, data = (
        tn.Sequential(tn.Dense(24), tn.ReLU(), tn.Dense(12), tn.ReLU(), tn.Dense(3)),
        tn.data.Blobs(300, n_features=7),
    )

    def trained(ops):
        model = tn.Model(net, 7, backend=ops, seed=2)
        reports = tn.train(model, tn.Loader(data, 50), tn.CrossEntropy(), tn.Adam(1e-2), steps=8)
        return [float(report.loss) for report in reports], model.theta.tobytes()

    found = []
    for written in (False, True):
        ops = backend(machine, precision)
        ops.empty = ops._runtime.empty  # which is never freed: arguments hold addresses of arrays
        if written:
            monkeypatch.setattr(graph._Compilation, "__call__", lambda self, calls: self._as_written(calls))
        found.append(trained(ops))
        assert ops._runtime.launched == (0 if written else 7)
    assert found[0] == found[1]
    wanted, _ = trained(get_backend("numpy"))
    np.testing.assert_allclose(found[0][0], wanted, rtol=0, atol={"bf16x3": 1e-5, "bf16": 1e-2}[precision])


@pytest.mark.parametrize(
    ("rule", "numbers"),
    [
        (lambda xp, theta, g, rate: (theta - rate * g,), 1),
        (lambda xp, theta, g, rate: (theta - rate * xp.flip(xp.flip(g)),), 1),
        (lambda xp, theta, g: (theta - 0.01 * xp.flip(xp.flip(g)),), 0),
    ],
    ids=["with a kernel", "without", "without, nor a number"],
)
def test_copies_of_weights_change_with_them(rule, numbers, machine, monkeypatch):
    def trained(copies):
        ops, rng, relu = backend(machine, "bf16"), np.random.default_rng(7), tn.ReLU()
        ops.empty = ops._runtime.empty  # which is never freed: arguments hold addresses of arrays
        theta, g, x = (ops._runtime.array(rng.standard_normal(n).astype("float32")) for n in (211, 211, 48))
        w1, b1, w2, b2 = (
            theta[start : start + n * m].reshape((n, m)[2 - d :])
            for start, n, m, d in ((0, 8, 16, 2), (128, 1, 16, 1), (144, 16, 4, 2), (208, 1, 3, 1))
        )
        layers = [DenseLayer(w1, b1, relu.f, relu.df), DenseLayer(w2[:, :4], None, None, None)]

        def step(theta, g, x, rate):
            y, back = ops.dense(x, layers, False)
            (dw1, db1), (dw2, _) = back(y)[1]
            ops.pack([dw1, db1, dw2, b2], g)
            ops.update(rule, [theta], [g], *[rate][:numbers])
            return ops.dense(x, layers, False)[0]

        compiled, found = ops.compile(step, theta, g), []
        x = x.reshape((6, 8))
        machine.launched.clear()
        for _ in range(3):
            with ops.undisturbed() if copies else contextlib.nullcontext():
                found += [compiled(x, 0.01).tolist() for _ in range(4)]
                found += [y.tolist() for y in compiled.several([(x, 0.01), (x, 0.02)])]
            theta *= 0.5  # by somebody else
        return theta.tobytes(), found, machine.launched.count("round_rows")

    runs = [trained(copies) for copies in (True, False)[: 1 + numbers]]  # a formula is not captured without a device
    monkeypatch.setattr(graph._Compilation, "__call__", lambda self, calls: self._as_written(calls))
    *wanted, none = trained(False)
    assert all([*got] == wanted for *got, _ in runs)
    made = runs[0][-1]
    # as written once and twice; at the first launch of each graph in each context. Without a kernel all 18 are as written
    assert (made, none) == (3 + 5 if traced(rule, 2, numbers) else 18, 0)


class Halved(tn.SGD):
    """An optimizer with a step of its own after the rule's."""

    def apply(self, theta, g, state, numbers, ops):
        super().apply(theta, g, state, numbers, ops)
        theta *= 0.5


class Disturbing:
    """A callback that changes the weights after each step."""

    def __call__(self, model, row):
        pass

    def at_step(self, model, step):
        model.theta *= 0.9


def halve(model, row):
    model.theta[...] *= 0.5


@pytest.fixture
def trained(machine, monkeypatch):
    """A function that fits on the device's own batches, and the kernels of each step."""
    monkeypatch.setattr(tn.Loader, "made_on_host", lambda self, ops: False)
    data = tn.data.Blobs(84, n_features=8, seed=3)

    def fitted(copies, chunk=1, **options):
        monkeypatch.setattr("tinynet.data.loader.LARGEST_ON_DEVICE", chunk * 12 * 8)
        ops = backend(machine, "bf16")
        ops.empty = ops._runtime.empty  # which is never freed: arguments hold addresses of arrays
        if not copies:
            ops.undisturbed = contextlib.nullcontext
        net = tn.Sequential(tn.Dense(24), tn.ReLU(), tn.Dense(16), tn.ReLU(), tn.Dense(3))
        model = tn.Model(net, 8, backend=ops, seed=2)
        machine.launched.clear()
        history = model.fit(
            data, **{"optimizer": tn.Adam(1e-2), "batch_size": 12, "epochs": 2, "metrics": ()} | options
        )
        return model.theta.tobytes(), history.curve, [*machine.launched]

    return fitted


RUNS = {
    "an average": {"ema": 0.9, "validation": tn.data.Blobs(20, n_features=8, seed=4)},
    "several steps in a launch": {"chunk": 4, "clip": 0.1, "callbacks": [halve]},
    "several parts of a batch": {"accumulate": 3, "optimizer": tn.SGD(0.1), "callbacks": [halve]},
    "a smaller last batch": {"batch_size": 16, "optimizer": tn.SGD(0.1, momentum=0.9, nesterov=True)},
    "another optimizer": {"optimizer": Halved(0.1)},
    "changes between steps": {"callbacks": [Disturbing()]},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_a_fit_has_the_bits_of_one_without_copies(trained, name):
    got, curve, kernels = trained(True, **RUNS[name])
    wanted, expected, others = trained(False, **RUNS[name])
    assert got == wanted
    assert curve == expected
    assert (kernels == others) == (name in ("another optimizer", "changes between steps"))


@pytest.mark.parametrize("start", [0, 1, 4])
def test_an_update_also_writes_copies(start, machine):
    ops, rng = backend(machine, "bf16"), np.random.default_rng(6)
    a, b = (rng.standard_normal(30).astype("float32")[start : start + 23] for _ in range(2))
    a[[0, 5, 22]] = np.nan, np.inf, 1.00390625
    memory = np.full(40, 7, "uint16")  # what lies around must not change
    copy, before = memory[start : start + 23], a.copy()
    ops.copy_of = lambda array: copy if array is a else None
    ops.update(lambda xp, b, a, g, r: (b + g, a * r), [b, a], [b], 1.5)
    wanted = np.zeros(23, "uint16")
    fake_cuda.rounded(before * np.float32(1.5), wanted)
    np.testing.assert_array_equal(cublaslt.numbers(copy), cublaslt.numbers(wanted))
    np.testing.assert_array_equal([*memory[:start], *memory[start + 23 :]], 7)
    np.testing.assert_array_equal(a, before * np.float32(1.5))


def test_only_vectors_of_float32_in_order_are_copied(machine):
    ops, vector = backend(machine, "bf16"), np.ones(128, "float32")
    matrix = vector[:64].reshape((8, 8))
    assert [
        ops._copies([fixed]).operand(matrix) is not None
        for fixed in (vector, vector[::2], vector.view("int32"), vector.reshape((8, 16)), {"w": vector})
    ] == [True, False, False, False, False]


@pytest.mark.slow
def test_weights_are_rounded_when_an_epoch_begins_and_then_by_updates(trained):
    for copies in (True, False):
        kernels = [trained(copies, epochs=epochs)[-1] for epochs in (2, 3)]
        for name, each in (("round_arrays", 7), ("round_rows", copies)):
            few, many = (names.count(name) for names in kernels)
            assert many - few == each  # samples at each step, and all weights when the epoch begins


def test_what_lies_between_is_bfloat16_where_that_is_the_precision(machine):
    ops = backend(machine, "bf16")
    taken = []
    products, problem = ops._products, ops._products.problem
    products.problem = lambda plan: taken.append(plan) or problem(plan)
    net = tn.Sequential(tn.Dense(10), tn.ReLU(), tn.Dense(10), tn.ReLU(), tn.Dense(3))
    pass_through(ops, net, 5, "float32", *(np.ones(s, "float32") for s in ((4, 5), (4, 3))))
    assert taken
    assert {p.copied for p in taken if "d" not in p.copied} == {""}  # nothing is rounded twice
    assert [p.d.dtype for p in taken].count("bfloat16") >= 4  # two outputs and two gradients
    assert all(n % 8 == 0 for p in taken for n in (p.k, p.a.ld, p.b.ld) if n != 4)  # all but the samples


@pytest.mark.slow
def test_a_derivative_of_its_own_is_not_taken_for_relu_s(machine):
    class Through(tn.ReLU):
        """ReLU whose gradient goes straight through."""

        def df(self, xp, dy, x, y):
            return dy + 0.0 * x

    net = tn.Sequential(tn.Dense(4), Through(), tn.Dense(2))
    rng = np.random.default_rng(0)
    x, dy = rng.standard_normal((6, 3)), rng.standard_normal((6, 2))
    got, _ = pass_through(backend(machine, "float32"), net, 3, "float64", x, dy)
    wanted, _ = pass_through(get_backend("numpy"), net, 3, "float64", x, dy)
    for a, b in zip(got, wanted, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shape", [(1, 1), (5, 3), (64, 8), (130, 37), (70, 613), (9000, 2)])
@pytest.mark.parametrize("kind", ["float32", pytest.param("float64", marks=pytest.mark.slow), "to half", "in half"])
@pytest.mark.parametrize("masked", [True, False])
def test_the_way_back_to_a_product(machine, shape, kind, masked):
    ops, rng, (n, k) = backend(machine, "bf16"), np.random.default_rng(3), shape
    real, half = "float64" if kind == "float64" else "float32", "half" in kind
    dy, y = (rng.standard_normal((n, k + 3)).astype(real)[:, :k] for _ in range(2))
    y[0, 0] = np.nan
    dy, y = (cublaslt.words(a) if kind == "in half" else a for a in (dy, y))
    wanted = cublaslt.numbers(dy)
    if masked:
        wanted = np.where(cublaslt.numbers(y) > 0, wanted, 0)
    filled = np.zeros((n, k + (-k % 8 if half else 0)), real)
    filled[:, :k] = wanted
    dz, db = np.ones(filled.shape, "uint16" if half else real), np.zeros(k, real)

    def back(*given):
        left = ops.back(*given)
        ops.add_up([] if left is None else [left])

    back(k, dy, y if masked else None, dz, db)
    np.testing.assert_array_equal(dz, cublaslt.words(filled) if half else filled)
    np.testing.assert_allclose(db, wanted.sum(axis=0, dtype="float64"), rtol=1e-5, atol=1e-4)  # short sums in float32
    again, alone = np.zeros_like(dz), np.zeros_like(db)
    back(k, dy, y if masked else None, again, None)
    np.testing.assert_array_equal(again, dz)
    if kind != "to half":
        back(k, dy, None, None, alone)
        np.testing.assert_allclose(alone, cublaslt.numbers(dy).sum(axis=0, dtype="float64"), rtol=1e-5, atol=1e-4)
        back(k, dy, y if masked else None, dy, None)  # in place
        np.testing.assert_array_equal(dy, dz[:, :k])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_sums_of_many_lengths_in_one_launch(machine, dtype):
    ops, rng = backend(machine, "float32"), np.random.default_rng(4)
    memory = np.full(5000, 7.0, dtype)  # what lies between sums must not change
    sums, wanted, start = [], memory.copy(), 3
    for chunks, p, apart in [(2, 1, 1), (9, 16, 16), (300, 17, 20), (33, 100, 100), *[(3, 5, 8)] * 15]:
        parts = rng.standard_normal((chunks, apart)).astype(dtype)
        sums.append(operations.Sum(parts, memory[start : start + p]))
        wanted[start : start + p] = parts[:, :p].sum(axis=0, dtype="float64")
        start += p + 2
    machine.launched.clear()
    ops.add_up(sums)
    np.testing.assert_allclose(memory, wanted, rtol=1e-6 if dtype == "float32" else 1e-14, atol=1e-13)
    assert machine.launched == ["add_up"] * 2
    ops.add_up([])


def test_rounding_is_to_the_nearest_even_and_fills_up_with_zeros(machine):
    ops = backend(machine, "bf16")
    rng = np.random.default_rng(2)
    for shape, room in (
        ((1, 1), (1, 1)),
        ((3, 8), (3, 8)),
        ((5, 7), (8, 8)),
        ((2, 3, 9), (2, 3, 16)),
        ((6, 100), (8, 104)),
    ):
        x = rng.standard_normal(shape).astype("float32")
        x.reshape(-1)[:4] = np.array([np.nan, np.inf, -0.0, 1.00390625], "float32")[: x.size]
        wanted = np.zeros(room, "uint16")
        for source in (x, np.asfortranarray(x), x[..., ::-1]):
            out = np.ones(room, "uint16")
            ops.rounded(source, out)
            fake_cuda.rounded(source, wanted)
            np.testing.assert_array_equal(cublaslt.numbers(out), cublaslt.numbers(wanted))
    arrays = [rng.standard_normal(s).astype("float32") for s in [(5, 7), (300, 9), (9,), *[(3, 4)] * 40]]
    out = [np.ones(tuple(n + -n % 8 for n in a.shape), "uint16") for a in arrays]
    ops.rounded_together([*zip(arrays, out, strict=True)])
    for a, got in zip(arrays, out, strict=True):
        wanted = np.zeros_like(got)
        fake_cuda.rounded(a, wanted)
        np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_padding_is_left_out_as_bias_and_relu_are_added(dtype, machine):
    ops, rng = backend(machine, "bf16"), np.random.default_rng(5)
    for (n, k), biased, relu in itertools.product(
        [(1, 1), (7, 1), (3, 7), (130, 10), (5, 100), (2, 1000), (0, 3)], (False, True), (False, True)
    ):
        x = rng.standard_normal((n, padded(k))).astype(dtype)
        x.reshape(-1)[:3] = np.array([np.nan, np.inf, -np.inf])[: x.size]
        b = rng.standard_normal(k + 1).astype(dtype)[1:] if biased else None  # not aligned
        wanted = x[:, :k] + (b if biased else 0)
        wanted = np.maximum(wanted, 0) if relu else wanted
        for start in (0, 1):
            memory = np.full(n * k + 4, 7, dtype)  # what lies around must not change
            ops.unpadded(x, b, relu, memory[start : start + n * k].reshape((n, k)))
            np.testing.assert_array_equal(memory[start : start + n * k].reshape((n, k)), wanted)
            np.testing.assert_array_equal([*memory[:start], *memory[start + n * k :]], 7)


def test_numbers_are_split_in_two(machine):
    ops, rng = backend(machine, "bf16x3"), np.random.default_rng(2)
    special = np.array([np.nan, np.inf, -np.inf, -0.0, 3.4e38, -3.4028234e38, 1.00390625, 1e-30], "float32")
    for shape, room in (((1, 1), (1, 8)), ((3, 8), (3, 8)), ((5, 7), (8, 8)), ((9, 4), (16, 16)), ((6, 100), (8, 104))):
        x = rng.standard_normal(shape).astype("float32")
        x.reshape(-1)[: special.size] = special[: x.size]
        for source, lo in itertools.product((x, np.asfortranarray(x), x[:, ::-1]), (0, 1)):
            stacked, beside = np.ones((3, *room), "uint16"), np.ones((room[0], 3, room[1]), "uint16").swapaxes(0, 1)
            ops.split([source] * 40, [stacked, beside] * 20, [lo] * 40)
            wanted = np.zeros_like(stacked)
            fake_cuda.split([source], [wanted], [lo])
            for got in (stacked, beside):
                np.testing.assert_array_equal(cublaslt.numbers(got), cublaslt.numbers(wanted))
            parts = cublaslt.numbers(stacked)[:, : shape[0], : shape[1]]
            finite = np.isfinite(source)
            np.testing.assert_array_equal(parts[lo][~finite], 0)
            np.testing.assert_array_equal(parts[1 - lo], np.where(finite, parts[2], 0))
            both = parts[lo].astype("float64") + parts[2]
            np.testing.assert_array_equal(both[~finite], source[~finite])
            np.testing.assert_allclose(both[finite], source[finite], rtol=2.0**-15, atol=0)


def test_gradients_in_another_order_end_up_in_their_places(machine):
    ops = backend(machine, "float32")
    made = [np.full(shape, value, "float32") for shape, value in (((2, 2), 1), ((4,), 2), ((2, 2), 3), ((4,), 4))]
    g = np.zeros(16, "float32")

    def step(g, made, turned, later, twice):
        parts = [None] * 4
        for n in [(0, 1, 2, 3), (0, 3, 2, 1), (2, 0, 1, 3), (2, 1, 0, 3)][turned * 2 + later]:
            parts[n] = ops.gradient(made[n].shape, g.dtype)
            ops.assign(parts[n], made[n])
        if twice:
            parts[2] = parts[0]
        return ops.pack(parts, g)

    compiled = ops.compile(step, g, made)
    for _ in range(4):  # as written, captured and launched, with other arguments between
        for order in itertools.product((False, True), repeat=3):
            for _ in range(2):
                g[...] = np.nan
                compiled(*order)
                assert g.tolist() == [1] * 4 + [2] * 4 + [1 if order[2] else 3] * 4 + [4] * 4, order


def test_gradients_are_made_in_their_places_where_these_are_aligned(machine):
    """Results that are not would have other bits, unless they are a single number."""
    ops, lies = backend(machine, "float32"), []

    def step(g):
        parts = [ops.gradient(shape, g.dtype) for shape in ((4,), (3,), (), (4,), (1,), (4,))]
        lies.append([np.may_share_memory(part, g) for part in parts])
        return ops.pack(parts, g)

    compiled = ops.compile(step, np.zeros(17, "float32"))
    compiled()
    compiled()
    assert lies == [[False] * 6, [True] * 5 + [False]]


@pytest.mark.parametrize(
    "parts",
    [lambda made, other: [made.T, other], lambda made, other: [made[:1], other, made[1:]]],
    ids=["transposed", "apart"],
)
def test_a_gradient_of_which_a_layer_makes_others_stays_where_it_is(parts, machine):
    ops, lies = backend(machine, "float32"), []

    def step(g):
        made = ops.gradient((2, 2), g.dtype)
        lies.append(np.may_share_memory(made, g))
        return ops.pack(parts(made, ops.empty((2,), g.dtype)), g)

    compiled = ops.compile(step, np.zeros(6, "float32"))
    compiled()
    compiled()
    assert lies == [False, False]


def test_without_an_algorithm_for_its_input_a_product_has_the_portable_gradients(machine):
    ops, x = backend(machine, "float32"), np.ones((2, 3), "float32")
    ops._products.input_gradient = lambda dy, w: None
    dx, dw, db = ops.affine_grad(x, x, np.ones((3, 3), "float32"), True)
    assert (dx.tolist(), dw.tolist(), db.tolist()) == ([[3.0] * 3] * 2, [[2.0] * 3] * 3, [2.0] * 3)
