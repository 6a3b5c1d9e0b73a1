"""What can only be seen on a CUDA device; ``-m gpu``. The other tests run there too, with the backend "cupy"."""

import gc
import importlib.util
import logging
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from test_layers import LAYERS, names
from tinynet_backends import BackendUnavailable, exact, get_backend
from tinynet_backends.cuda import graph
from tinynet_backends.cuda.plan import Epilogue

import tinynet as tn
from tinynet import training, verify

pytestmark = pytest.mark.gpu

DATA = tn.data.Blobs(70, n_features=5, n_classes=3, seed=1)
PRECISIONS = {
    "float32": 1e-5,
    "bf16x3": 2e-5,
    "tf32": 3e-3,
    "bf16": 2e-2,
}  # of the norm: what a product's operands are rounded to
SHAPES = [(64, 784, 10), (4, 3, 4), (1, 1, 1), (130, 64, 128), (1024, 513, 257)]


@pytest.fixture
def ops():
    try:
        return get_backend("cupy")
    except BackendUnavailable as e:
        pytest.skip(str(e))


def backend(precision):
    try:
        return get_backend("cupy" if precision == "float32" else f"cupy:{precision}")
    except BackendUnavailable as e:
        pytest.skip(str(e))


def error(got, wanted):
    return float(np.linalg.norm(got - wanted) / max(np.linalg.norm(wanted), 1e-30))


def draw(*shape):
    return np.random.default_rng().standard_normal(shape).astype("float32")


# Products


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_products_and_their_gradients(precision, shape):
    ops, (n, i, o) = backend(precision), shape
    x, w, b, dy = draw(n, i), draw(i, o), draw(o), draw(n, o)
    on = [ops.asarray(a) for a in (x, w, b, dy)]
    x8, w8, dy8 = (a.astype("float64") for a in (x, w, dy))
    got = [ops.affine(*on[:3]), *ops.affine_grad(on[3], on[0], on[1], True)]
    for mine, wanted in zip(got, (x8 @ w8 + b, dy8 @ w8.T, x8.T @ dy8, dy8.sum(axis=0)), strict=True):
        assert error(ops.to_numpy(mine), wanted) < PRECISIONS[precision]


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_relu_in_the_epilogue(precision, shape):
    ops, (n, i, o) = backend(precision), shape
    x, w, b = (ops.asarray(draw(*s)) for s in ((n, i), (i, o), (o,)))
    y = ops._products.product(x, w, Epilogue.RELU | Epilogue.BIAS, b)
    if y is None:
        pytest.skip(f"cublasLt has no algorithm for this epilogue, {precision} and {shape}")
    wanted = np.maximum((x.astype("float64") @ w.astype("float64") + b).get(), 0)
    assert error(y.get(), wanted) < PRECISIONS[precision]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_layers_behind_one_of_odd_size(precision):
    """Whose weights and biases lie anywhere in the vector of parameters."""
    ops = backend(precision)
    for widths in ((257, 64, 10), (31, 1024, 5), (513, 512)):
        net = tn.Sequential(
            *(part for width in widths for part in (tn.Dense(width), tn.LayerNorm(), tn.ReLU())), tn.Dense(3)
        )
        model = tn.Model(net, DATA.shape, backend=ops, seed=2)
        history = model.fit(DATA, batch_size=32, epochs=4, optimizer=tn.Adam(1e-2))
        assert history[-1]["loss"] < history[0]["loss"]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_captured_product_writes_every_element_at_every_launch(precision):
    ops = backend(precision)
    x, w, b = (ops.asarray(draw(*s)) for s in ((64, 20), (20, 10), (10,)))
    compiled = ops.compile(lambda w, b, x: ops.affine(x, w, b), w, b)
    eager = ops.to_numpy(compiled(x)).copy()
    for _ in range(4):
        result = compiled(x)
        np.testing.assert_array_equal(ops.to_numpy(result), eager)
        result[...] = ops.xp.nan


NETWORKS = [
    (4, (3, 4, 1)),
    (1, (1, 1)),
    (33, (100, 17, 3, 1, 2)),
    (1000, (20, 64, 64, 2)),
    (300, (700, 300, 10)),
    (9000, (64,) * 4),
]


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("shape", NETWORKS, ids=str)
@pytest.mark.parametrize("activation", [tn.Tanh(), tn.SiLU(), None], ids=repr)
def test_layers_done_by_one_kernel(precision, shape, activation):
    """Against the host's float64; with `Strategy(front=0, …)` in `ops._strategies._known` where all of them are."""
    ops, (n, widths) = backend(precision), shape
    parts = [part for width in widths[1:] for part in (tn.Dense(width), activation) if part is not None]
    rng = np.random.default_rng(5)  # with few numbers, and none that are near 0 by chance
    x, dy = (rng.standard_normal((n, k)).astype("float32") for k in (widths[0], widths[-1]))
    found = []
    for where, dtype in ((ops, "float32"), (get_backend("numpy"), "float64")):
        model = tn.Model(tn.Sequential(*parts), widths[0], backend=where, dtype=dtype, seed=1)
        y, back = model.net.forward(model.params, where.asarray(x, dtype), tn.Context(where, train=True))
        dx, gradients = back(where.asarray(dy, dtype))
        arrays = y, dx, *dict(sorted(tn.layers.leaves(gradients))).values()
        found.append([where.to_numpy(a) for a in arrays])
    for mine, wanted in zip(*found, strict=True):
        assert error(mine, wanted) < 3 * PRECISIONS[precision]
    assert (
        any((work.n, work.widths) == shape and strategy.front == 0 for work, strategy in ops._strategies._known.items())
        or n * max(widths) > 1e5
    )


# Captured against as written


@pytest.fixture
def reasons(caplog):
    caplog.set_level(logging.INFO, logger="tinynet")
    return lambda: [r.getMessage() for r in caplog.records if "is not captured" in r.getMessage()]


def as_written(monkeypatch):
    monkeypatch.setattr(graph._Compilation, "__call__", lambda self, calls: self._as_written(calls))


def poison(ops):
    """Fill what the pool hands out with NaN, and give it back."""
    for size in (1, 7, 64, 1000, 4096, 100_000, 1 << 20):
        held = [ops._cp.full((size,), ops._cp.nan, ops._cp.float32) for _ in range(8)]
        del held


def trained(ops, net, poisoned=False, batch=32, **options):
    model = tn.Model(net, DATA.shape, backend=ops, seed=2)
    loader = tn.Loader(DATA, batch, seed=2)
    losses = []
    for report in tn.train(
        model,
        loader,
        options.pop("loss", tn.CrossEntropy()),
        options.pop("optimizer", tn.Adam(1e-2)),
        steps=12,
        **options,
    ):
        losses.append(float(report.loss))
        if poisoned:
            poison(ops)
    return ops.to_numpy(model.theta), ops.to_numpy(model.state), losses


@pytest.mark.parametrize("layer", LAYERS, ids=names(LAYERS))
def test_captured_steps_give_the_bits_of_steps_as_written(layer, ops, reasons, monkeypatch):
    net = tn.Sequential(tn.Dense(4), layer, tn.Dense(3))
    captured = trained(ops, net, poisoned=True)
    assert reasons() == []
    with monkeypatch.context() as patch:
        as_written(patch)
        wanted = trained(ops, net)
    for a, b in zip(captured, wanted, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    "optimizer",
    [tn.SGD(0.1, momentum=0.9), tn.Adam(l2=0.1), tn.AdamW(tn.schedules.Cosine(0.05, 9)), tn.Lion()],
    ids=repr,
)
def test_rates_and_corrections_are_read_at_every_launch(optimizer, ops, reasons, monkeypatch):
    net = tn.Sequential(tn.Dense(4), tn.Tanh(), tn.Dropout(0.3), tn.Dense(3))
    options = {"optimizer": optimizer, "clip": 0.5, "accumulate": 2, "ema": 0.9}
    captured = trained(ops, net, poisoned=True, **options)
    assert reasons() == []
    with monkeypatch.context() as patch:
        as_written(patch)
        wanted = trained(ops, net, **options)
    for a, b in zip(captured, wanted, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    "loss",
    [tn.CrossEntropy(0.1), tn.CrossEntropy(class_weight=(1.0, 2.0, 0.5)), tn.CrossEntropy(0.1, (0.0, 2.0, 0.5))],
    ids=repr,
)
def test_captured_losses_have_the_bits_of_those_as_written(loss, ops, reasons, monkeypatch):
    net = tn.Sequential(tn.Dense(4), tn.ReLU(), tn.Dense(3))
    captured = trained(ops, net, poisoned=True, loss=loss)
    assert reasons() == []
    with monkeypatch.context() as patch:
        as_written(patch)
        wanted = trained(ops, net, loss=loss)
    for a, b in zip(captured, wanted, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("layer", [tn.Tanh(), tn.BatchNorm(), tn.LayerNorm(), tn.Dropout(0.3)], ids=repr)
def test_a_step_of_a_tiny_network_is_one_launch(layer, precision, monkeypatch):
    ops, kernels = backend(precision), []
    run = ops._run

    def listen(source, kernel, *args, **options):
        kernels.append(kernel)
        run(source, kernel, *args, **options)

    monkeypatch.setattr(ops, "_run", listen)
    net = tn.Sequential(tn.Dense(4), layer, tn.Dense(3))
    captured = trained(ops, net, poisoned=True, batch=8, clip=0.5)
    assert "joined" in kernels
    with monkeypatch.context() as patch:
        as_written(patch)
        wanted = trained(ops, net, batch=8, clip=0.5)
    for a, b in zip(captured, wanted, strict=True):
        np.testing.assert_array_equal(a, b)


def test_several_steps_in_one_launch(ops):
    theta = [ops.zeros((1000,), ops.dtype("float32")) for _ in range(2)]
    steps = [ops.compile(lambda t, x, r: ops.update(lambda xp, a, g, r: (a + r * g,), [t], [x], r), t) for t in theta]
    for n in range(4):
        calls = [(ops.asarray(draw(1000)), 0.1 * n + k) for k in range(8)]
        steps[0].several(calls)
        for call in calls:
            steps[1](*call)
    np.testing.assert_array_equal(ops.to_numpy(theta[0]), ops.to_numpy(theta[1]))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_scalar_of_an_update_may_be_computed_on_the_device(dtype, ops, reasons):
    """Such as a norm, of the arrays' own dtype."""
    theta = ops.zeros((3,), ops.dtype(dtype))
    step = ops.compile(lambda theta, x: ops.update(lambda xp, a, r: (a + r,), [theta], [], ops.xp.sum(x)), theta)
    for n in range(6):
        step(ops.asarray(np.full(2, n), dtype))
    assert theta.tolist() == [30.0] * 3
    assert reasons() == []


def test_a_number_that_is_written_to_an_array_is_read_anew(ops):
    step = ops.compile(lambda x, n: ops.xp.full_like(x, n))
    assert [step(ops.zeros((1,), ops.dtype("float32")), n).tolist() for n in range(4)] == [[0.0], [1.0], [2.0], [3.0]]


def test_what_a_layer_keeps_is_not_written_by_the_next_step(ops):
    """As on NumPy: gradients and losses have the same memory in every step, unless it is to run as written."""
    kept = []

    def step(w, x):
        dw = ops.affine_grad(x, x, w, True)[1]
        ops.as_written("it keeps its gradients")
        kept.extend([dw, ops.affine_grad(x, x, w, True)[2]])

    compiled = ops.compile(step, ops.asarray(np.ones((1, 1), "float32")))
    for n in range(4):
        compiled(ops.asarray(np.full((2, 1), n, "float32")))
    assert [float(a.sum()) for a in kept] == [0, 0, 2, 2, 8, 4, 18, 6]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_steps_launched_together_are_the_steps_one_by_one(precision, reasons, monkeypatch):
    """And their batches are read where they are made: only a first call copies them, inputs and labels."""
    ops, copied, fill = backend(precision), [], graph._Compilation._fill

    def counted(self, inputs, arrays):
        copied.extend(a for to, a in zip(inputs, arrays, strict=True) if to is not a)
        fill(self, inputs, arrays)

    monkeypatch.setattr(graph._Compilation, "_fill", counted)
    net = tn.Sequential(tn.Dense(16), tn.ReLU(), tn.Dropout(0.2), tn.Dense(12), tn.ReLU(), tn.Dense(3))
    found = []
    for together in (False, True):
        copied.clear()
        model = tn.Model(net, 5, backend=ops, seed=2)
        loader = tn.Loader(tn.data.Blobs(3000, n_features=5, n_classes=3, seed=1), 32)
        reports = [*tn.train(model, loader, tn.CrossEntropy(), tn.NAdam(), steps=200, clip=1.0, together=together)]
        found.append((ops.to_numpy(model.theta).tobytes(), [a for r in reports for a in r.recent]))
        assert len(reports) == (17 if together else 200)  # 64, 16, 4, 4, 4, 1, 1 in an epoch, and the last 12
        assert len(copied) == 2 * (5 if together else 2)  # by the number of samples; the last batch of an epoch has 24
    assert found[0] == found[1]
    assert reasons() == []


@pytest.mark.parametrize("options", [{"seeds": [1, 2, 3], "shuffle": True}, {"lr": [0.01, 0.1], "clip": 0.5}], ids=str)
def test_steps_of_many_networks_launched_together_are_the_steps_one_by_one(options, ops, reasons, monkeypatch):
    net, data, found = tn.Sequential(tn.Dense(16), tn.ReLU(), tn.Dense(3)), tn.data.Blobs(3000, seed=1), []
    several, counts = training.Step.several, []
    monkeypatch.setattr(
        training.Step, "several", lambda self, *args: counts.append(len(args[-1])) or several(self, *args)
    )
    for launched in (0, 2**24):
        monkeypatch.setattr("tinynet.grouping._LAUNCHED", launched)
        networks = tn.fit_many(tn.Model(net, 2, backend=ops), data, epochs=3, **options)
        found.append((ops.to_numpy(networks.theta).tobytes(), [history.curve for history in networks.histories]))
    assert found[0] == found[1]
    assert counts == [64, 16, 4, 4, 4] * 3
    assert reasons() == []


@pytest.mark.parametrize("launched", [0, 2**24], ids=["one by one", "together"])
def test_weights_rounded_when_they_are_updated_are_those_rounded_in_each_step(launched, reasons, monkeypatch):
    ops, kernels = backend("bf16"), []
    run = ops._run
    monkeypatch.setattr(ops, "_run", lambda source, kernel, *args, **options: (
        kernels.append(kernel), run(source, kernel, *args, **options)))  # fmt: skip
    monkeypatch.setattr("tinynet.grouping._LAUNCHED", launched)
    net = tn.Sequential(tn.Dense(512), tn.ReLU(), tn.Dense(512), tn.ReLU(), tn.Dense(10))
    found = []
    for together in (False, True):
        kernels.clear()
        model = tn.Model(net, 64, backend=ops, seed=2)
        loader = tn.Loader(tn.data.Blobs(10_000, n_features=64, n_classes=10, seed=1), 128)
        reports = tn.train(model, loader, tn.CrossEntropy(), tn.Adam(), steps=200, ema=0.9, together=together)
        losses = [a for r in reports for a in r.recent]
        found.append((ops.to_numpy(model.theta).tobytes(), losses))
        assert ("round_rows" in kernels) == together
    assert found[0] == found[1]
    assert reasons() == []


@pytest.mark.filterwarnings("ignore")  # allow_synchronize is called experimental, or deprecated
def test_nothing_waits_for_the_device_between_two_looks_at_the_loss(ops):
    import cupyx

    model = tn.Model(tn.Sequential(tn.Dense(16), tn.ReLU(), tn.Dense(3)), 2, backend=ops)
    loader = tn.Loader(tn.data.Spirals(n=10**6), 256)
    reports = tn.train(model, loader, tn.CrossEntropy(), tn.Adam(), steps=64)
    for _ in range(5):
        next(reports)
    with cupyx.allow_synchronize(False):
        for _ in range(40):
            next(reports)


# The same on every device


def test_all_that_is_promised_holds(ops):
    """Gradients, replacements, golden data and weights, checkpoints."""
    assert verify.verify([ops.name])


def test_a_run_goes_from_the_host_to_the_device_and_back(ops, tmp_path):
    net = tn.Sequential(tn.Dense(16, bias=False), tn.BatchNorm(), tn.ReLU(), tn.Dense(3))
    options = {"batch_size": 32, "optimizer": tn.Adam(1e-2)}
    whole = tn.Model(net, DATA.shape, seed=3)
    whole.fit(DATA, epochs=6, **options)
    for epochs, place in ((2, "numpy"), (4, ops), (6, "numpy")):
        model = tn.Model(net, DATA.shape, seed=3, backend=place)
        model.fit(DATA, epochs=epochs, checkpoint=tmp_path / "run", resume=True, **options)
    assert error(model.theta, whole.theta) < 1e-3  # float32 sums in another order, through Adam's square roots
    there = model.to(ops)
    assert there.to("numpy").theta.tobytes() == model.theta.tobytes()


@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_precision_learns(precision):
    model = tn.Model(tn.Sequential(tn.Dense(64), tn.ReLU(), tn.Dense(3)), 2, backend=backend(precision))
    assert model.theta.dtype == np.float32
    model.fit(tn.data.Blobs(4096, n_features=2, n_classes=3, seed=1), batch_size=128, optimizer=tn.Adam(1e-2), epochs=4)
    assert model.evaluate(tn.data.Blobs(4096, n_features=2, n_classes=3, seed=1))["accuracy"] > 0.8


# The estimators on CuPy's arrays


def checks_of_arrays():
    """scikit-learn's own, of estimators that are given arrays of other libraries than NumPy, on a device."""
    if importlib.util.find_spec("sklearn") is None:
        return []
    from sklearn.utils.estimator_checks import estimator_checks_generator

    from tinynet.sklearn import MLPClassifier, MLPRegressor

    pairs = [pair for kind in (MLPClassifier, MLPRegressor) for pair in estimator_checks_generator(kind())]
    return [
        pytest.param(*pair, id=f"{pair[0]}, {n}")
        for n, pair in enumerate(pairs)
        if any(name in str(pair[1]) for name in ("'cupy'", "'cuda'"))
    ]


@pytest.mark.parametrize(("estimator", "check"), checks_of_arrays())
@pytest.mark.filterwarnings("ignore:Maximum iterations", "ignore:Attempting to run cuBLAS")  # PyTorch's, for one
def test_scikit_learn_s_checks_of_arrays(estimator, check, ops):
    check(estimator)


@pytest.mark.filterwarnings("ignore:Maximum iterations")
@pytest.mark.parametrize("what", ["follows", "moves"])
def test_estimators_follow_x_to_the_device(what, ops):
    pytest.importorskip("sklearn", reason="the estimators are scikit-learn's")
    pytest.importorskip("array_api_strict", reason="what is tested there is tested with it too")
    import test_sklearn

    getattr(test_sklearn, what)(ops.asarray)


@pytest.mark.filterwarnings("ignore:Maximum iterations")
def test_estimators_learn_on_the_device_what_they_learn_on_the_host(ops):
    """What is fitted in float32 on CuPy's arrays, within the tolerance of the same fit on the host."""
    pytest.importorskip("sklearn", reason="the estimators are scikit-learn's")
    from sklearn import config_context

    from tinynet.sklearn import MLPClassifier, MLPRegressor

    rng = np.random.default_rng(0)
    x = rng.standard_normal((400, 6)).astype("float32")
    y, z = (x[:, 0] > x[:, 1]).astype("int64"), x @ rng.standard_normal((6, 2)).astype("float32")
    for kind, target in ((MLPClassifier, y), (MLPRegressor, z)):
        options = {"hidden_layer_sizes": (32, 32), "max_iter": 40, "learning_rate_init": 0.01, "random_state": 0}
        host = kind(**options, backend="numpy").fit(x, target)
        with config_context(array_api_dispatch=True):
            there = kind(**options).fit(ops.asarray(x), ops.asarray(target))
            score = float(there.score(ops.asarray(x), ops.asarray(target)))
        assert score > 0.9
        assert abs(score - host.score(x, target)) < 0.02


# Memory, and several devices


def test_graphs_give_their_memory_back_with_the_run(ops):
    cp, memory = ops._cp, ops._runtime.device_memory

    def run():
        model = tn.Model(tn.Sequential(tn.Dense(512), tn.ReLU(), tn.Dense(3)), 5, backend=ops)
        taken = []
        model.fit(DATA, batch_size=32, epochs=3, callbacks=[lambda model, row: taken.append(memory._of_graphs())])
        assert taken[-1] > before

    gc.collect()
    before = memory._of_graphs()
    run()
    gc.collect()
    cp.get_default_memory_pool().free_all_blocks()
    assert memory._of_graphs() == before


def test_running_out_is_an_error_that_one_can_go_on_from(ops, monkeypatch):
    memory = ops._runtime.device_memory
    monkeypatch.setattr(memory, "limit", memory.used + (64 << 20))
    memory.share()
    model = tn.Model(tn.Sequential(tn.Dense(4096), tn.ReLU(), tn.Dense(3)), 5, backend=ops)
    big = tn.Arrays(np.ones((2**17, 5), "float32"), np.zeros(2**17, "int64"))
    with pytest.raises(MemoryError, match="take a smaller batch_size, or accumulate="):
        model.fit(big, batch_size=2**17)
    with pytest.raises(MemoryError, match="the device is out of memory: .* are in use: take a smaller batch_size"):
        model.predict(big, batch_size=2**17)
    model.fit(DATA, batch_size=32)
    assert np.isfinite(ops.to_numpy(model.theta)).all()
    monkeypatch.undo()
    memory.share()


# Several devices


@pytest.fixture
def second(ops):
    """Another device's backend; the first stays the current one."""
    if (count := ops._cp.cuda.runtime.getDeviceCount()) < 2:
        pytest.skip(f"this machine has {count} device")
    yield get_backend("cupy:1")
    assert ops._cp.cuda.Device().id == 0


SEVERAL = [
    tn.Sequential(tn.Dense(64), tn.Tanh(), tn.Dense(3)),
    tn.Sequential(tn.Dense(9), tn.BatchNorm(), tn.GELU(), tn.Dense(3)),
]


def test_a_second_device_leaves_the_first_alone(ops, second):
    pool = ops._cp.get_default_memory_pool()
    gc.collect()
    before = pool.used_bytes(), pool.get_limit()
    batch = DATA.batch(range(len(DATA)), get_backend("numpy"), "float32")
    for net in SEVERAL:
        model = tn.Model(net, 5, backend=second)
        model.fit(DATA, batch_size=32, epochs=3, validation=DATA)
        model.fit(tn.Arrays(batch.x, batch.y), batch_size=32, epochs=3)
        model.predict(DATA)
        assert second.owns(model.theta)
    del model
    gc.collect()  # graphs give their memory back to the device that it is of
    assert (pool.used_bytes(), pool.get_limit()) == before


def test_a_second_device_makes_samples_and_random_numbers_itself(ops, second):
    """Without a model, which would make it the current one."""
    pool, host, stream = ops._cp.get_default_memory_pool(), get_backend("numpy"), tn.Stream(1)
    for tables in (exact.normal_table, exact.normal_lines):
        tables.cache_clear()
    gc.collect()
    before = pool.used_bytes()
    for make in (lambda one: DATA.batch(range(9), one, "float32").x, lambda one: stream.normal(range(9), ops=one)):
        made = make(second)
        assert second.owns(made)
        np.testing.assert_array_equal(second.to_numpy(made), make(host))
    assert pool.used_bytes() == before


@pytest.mark.parametrize("net", SEVERAL, ids=["together", "one by one"])
def test_devices_compute_the_same(net, ops, second):
    for a, b in zip(trained(ops, net), trained(second, net), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)  # either's clock may have taken another algorithm


def test_devices_work_at_once(ops, second):
    """Each in a thread of its own, as alone."""
    net = tn.Sequential(tn.Dense(64), tn.ReLU(), tn.Dense(3))
    alone = [trained(one, net) for one in (ops, second)]
    with ThreadPoolExecutor(2) as pool:
        for _ in range(5):
            for found, wanted in zip(pool.map(lambda one: trained(one, net), (ops, second)), alone, strict=True):
                for a, b in zip(found, wanted, strict=True):
                    np.testing.assert_array_equal(a, b)


def test_a_model_moves_between_devices(ops, second):
    model = tn.Model(tn.Sequential(tn.Dense(4), tn.ReLU(), tn.Dense(3)), 5, backend=ops)
    model.fit(DATA, batch_size=32)
    there = model.to(second)
    there.fit(DATA, batch_size=32)
    back = there.to(ops)
    assert second.owns(there.theta)
    assert ops.owns(back.theta)
    assert ops.to_numpy(back.theta).tobytes() == second.to_numpy(there.theta).tobytes()
