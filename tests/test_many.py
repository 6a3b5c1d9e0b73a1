"""Many networks as one: each has the numbers that it would have alone.

The tolerance: both runs do the same arithmetic, but sums (BLAS products, sums over a batch) may be added up in another
order, which costs some 1e-16 each in float64, and a few dozen steps multiply it: 1e-10 leaves room for that and for
nothing else. A wrong seed, rate or mask shows in the third digit. In float32 the same leaves 1e-4.
"""

import copy
import pickle
from dataclasses import dataclass, replace
from functools import partial
from math import isnan

import numpy as np
import pytest
from tinynet_backends.backend import Backend

import tinynet as tn
from tinynet.layers import Param, Spec

TOLERANCE = 1e-10
TOLERANCES = {"float32": 1e-4, "float64": TOLERANCE}
RNG = np.random.default_rng(0)
X = RNG.standard_normal((41, 5))
LABELS = RNG.integers(0, 3, 41)
NUMBERS = RNG.standard_normal((41, 2))


@pytest.fixture(
    params=["numpy", "numba", pytest.param("numba float64", marks=pytest.mark.slow), "strict:device1",
            pytest.param("cupy", marks=pytest.mark.gpu)],
)  # fmt: skip
def few_agree(request):
    """`agree` for the long tables: on the two with kernels of their own, and the portable operations once."""
    backend, _, dtype = request.param.partition(" ")
    try:
        return partial(agree, tn.get_backend(backend), dtype=dtype)
    except tn.BackendUnavailable as e:
        pytest.skip(str(e))


def net(*layers):
    return tn.Sequential(tn.Dense(6), *layers, tn.Dense(3))


def close(ops, many, single, tolerance=TOLERANCE):
    a, b = ops.to_numpy(many), ops.to_numpy(single)
    assert np.isfinite(b).all()
    np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


def agree(ops, network, data, *, seeds, lr=None, optimizer=None, start=0, dtype=None, **options):
    """Train as one and one by one, and compare everything; the ensemble."""
    dtype = dtype or ("float32" if ops.name == "numba" else "float64")  # numba compiles kernels for each dtype
    optimizer, tolerance = optimizer or tn.Adam(0.01), TOLERANCES[dtype]
    template = tn.Model(network, 5, seed=start, backend=ops, dtype=dtype)
    before = ops.to_numpy(template.theta).copy()
    ensemble = tn.fit_many(template, data, seeds=seeds, lr=lr, optimizer=optimizer, **options)
    np.testing.assert_array_equal(before, ops.to_numpy(template.theta))
    assert not ensemble.diverged
    for number, (seed, rate) in enumerate(zip(ensemble.seeds, ensemble.rates, strict=True)):
        single = tn.Model(network, 5, seed=seed, backend=ops, dtype=dtype)
        single.fit(data, optimizer=replace(optimizer, lr=rate), **options)
        close(ops, ensemble.theta[number, ...], single.theta, tolerance)
        close(ops, ensemble.state[number, ...], single.state, tolerance)
        history = ensemble.histories[number]
        for name in set(single.history.rows[0]) - {"seconds", "samples_per_second"}:
            np.testing.assert_allclose(history[name], single.history[name], rtol=tolerance)
        np.testing.assert_allclose(history.curve, single.history.curve, rtol=tolerance)
    return ensemble


LAYERS = {
    "dense": [tn.Dense(4, bias=False)],
    "sigmoid": [tn.Sigmoid()],
    "tanh": [tn.Tanh()],
    "relu": [tn.ReLU()],
    "leaky": [tn.LeakyReLU(0.2)],
    "elu": [tn.ELU()],
    "gelu": [tn.GELU()],
    "gelu tanh": [tn.GELU(approximate=True)],
    "silu": [tn.SiLU()],
    "softplus": [tn.Softplus()],
    "identity": [tn.Identity()],
    "softmax": [tn.Softmax()],
    "dropout": [tn.Tanh(), tn.Dropout(0.3)],
    "layer norm": [tn.LayerNorm()],
    "batch norm": [tn.BatchNorm(momentum=0.3)],
    "residual": [tn.Residual(tn.Dense(6), tn.Tanh(), tn.Dropout(0.1))],
    "flatten": [tn.Flatten()],
    "all": [tn.BatchNorm(), tn.GELU(), tn.Residual(tn.LayerNorm(), tn.Dense(6)), tn.Dropout(0.2), tn.Softmax()],
}


@pytest.mark.parametrize(
    "layers",
    [pytest.param(layers, marks=[] if name == "all" else pytest.mark.long) for name, layers in LAYERS.items()],
    ids=LAYERS,
)
def test_every_layer(layers, few_agree):
    # SGD: a bias before batch norm has a gradient of rounding alone, of which Adam would make whole steps
    options = {"optimizer": tn.SGD(0.1, momentum=0.9), "batch_size": 16, "epochs": 1, "validation": (X[:9], LABELS[:9])}
    few_agree(net(*layers), (X, LABELS), seeds=[3, 8], lr=[0.1, 0.3], **options)


@pytest.mark.long
def test_layers_before_the_first_product(ops):
    """What meets the inputs, which all networks may share."""
    whole = tn.Sequential(tn.Standardize(), tn.Dropout(0.2), tn.BatchNorm(), tn.Residual(tn.Tanh(), tn.Dense(5)), net())
    tanh, norm = tn.Sequential(tn.Tanh(), net()), tn.Sequential(tn.LayerNorm(), net())
    for network, shuffle in ((whole, True), (whole, False), (tanh, True), (norm, False)):
        agree(ops, network, (X, LABELS), seeds=[1, 2], batch_size=16, shuffle=shuffle)


SIGNS, UNIT, COUNTS = np.sign(NUMBERS), 1 / (1 + np.exp(-NUMBERS)), RNG.poisson(2.0, (41, 2)) * 1.0
LOSSES = {
    "sse": (tn.SumSquaredError(), NUMBERS),
    "mse": (tn.MeanSquaredError(), NUMBERS),
    "mae": (tn.MeanAbsoluteError(), NUMBERS),
    "huber": (tn.Huber(0.3), NUMBERS),
    "quantile": (tn.Quantile(0.9), NUMBERS),
    "poisson": (tn.Poisson(), COUNTS),
    "hinge": (tn.Hinge(), SIGNS),
    "binary": (tn.BinaryCrossEntropy(), UNIT),
    "binary weighted": (tn.BinaryCrossEntropy((0.5, 3.0)), UNIT),
    "labels": (tn.CrossEntropy(), LABELS % 2),
    "smoothed": (tn.CrossEntropy(0.1), LABELS % 2),
    "class weights": (tn.CrossEntropy(class_weight=(1.0, 3.0)), LABELS % 2),
    "probabilities": (tn.CrossEntropy(class_weight=(1.0, 3.0)), np.stack([UNIT[:, 0], 1 - UNIT[:, 0]], 1)),
}


@pytest.mark.parametrize(
    ("loss", "y"),
    [pytest.param(*case, marks=[] if name == "class weights" else pytest.mark.long) for name, case in LOSSES.items()],
    ids=LOSSES,
)
@pytest.mark.parametrize("weighted", [pytest.param(False, marks=pytest.mark.long), True], ids=["", "weights"])
def test_every_loss(loss, y, weighted, few_agree):
    data = (X, y, RNG.uniform(0.5, 2.0, 41)) if weighted else (X, y)
    held_out = (X[:9], y[:9])
    network = tn.Sequential(tn.Dense(6), tn.Tanh(), tn.Dense(2))
    few_agree(network, data, seeds=[0, 5], loss=loss, batch_size=16, epochs=1, validation=held_out, accumulate=2)


def test_no_loss_no_activation_and_no_clipping_selects_by_a_mask(monkeypatch):
    """array_api_compat's clip does: CuPy then waits for the number of elements, and such a step cannot be captured."""
    from array_api_compat import numpy as xp

    monkeypatch.delattr(xp, "clip")
    portable, two = Backend("portable", xp), lambda a: np.stack([a, a])
    for loss, target in LOSSES.values():
        loss(two(NUMBERS), two(target), portable)
    for one in (tn.ELU(), tn.GELU(), tn.Softplus()):  # of columns, for instance, which no kernel takes
        one.df(xp, NUMBERS, NUMBERS, one.f(xp, NUMBERS))
    np.testing.assert_allclose(portable.clip_norm(np.full((2, 4), 3.0), 1.0), 6.0)


OPTIMIZERS = [
    tn.SGD(0.05), tn.SGD(0.05, momentum=0.9, nesterov=True, l2=0.01), tn.Adagrad(), tn.RMSprop(momentum=0.9, l2=0.1), tn.Adam(),
    tn.AdamW(), tn.NAdam(), tn.Lion(weight_decay=0.1),
]  # fmt: skip


@pytest.mark.long
@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=repr)
def test_every_optimizer(optimizer, few_agree):
    rates = [0.001, tn.schedules.Step(0.02, every=2), 0.0, tn.schedules.Warmup(3, tn.schedules.Cosine(0.01, 9))]
    few_agree(net(tn.Tanh()), (X, LABELS), seeds=5, lr=rates, optimizer=optimizer, batch_size=16, epochs=2)


def test_a_schedule_for_all(ops):
    agree(ops, net(tn.Tanh()), (X, LABELS), seeds=[4, 5], lr=tn.schedules.Step(0.02, every=2), batch_size=16, epochs=2)


@pytest.mark.long
def test_clipping_and_averages_are_each_networks_own(ops):
    options = {"clip": 0.3, "ema": 0.8, "batch_size": 8, "epochs": 2, "validation": (X[:9], LABELS[:9])}
    rates = [0.001, 0.3, 0.01]
    agree(ops, net(tn.ReLU()), (X, LABELS), seeds=[0, 1, 2], lr=rates, optimizer=tn.SGD(0.1), **options)


@pytest.mark.long
@pytest.mark.parametrize(
    "options",
    [
        {"shuffle": False}, {"drop_last": True}, {"balance": True}, {"weights": np.arange(41.0)}, {"batch_size": 100},
        {"batch_size": 41}, {"batch_size": 1, "epochs": 1},
    ],
    ids=repr,
)  # fmt: skip
def test_every_order_of_samples(options, few_agree):
    few_agree(net(), (X, LABELS), seeds=[2, 9, 2], **({"batch_size": 8, "epochs": 2} | options))


@pytest.mark.slow
@pytest.mark.parametrize("shuffle", [None, True])
def test_data_that_are_computed(shuffle, ops):
    data = tn.data.Blobs(22, n_features=5, n_classes=3)
    if not ops.has_float64:
        pytest.skip("samples are computed in float64")
    agree(ops, net(tn.ReLU()), data, seeds=range(3), batch_size=4, epochs=2, shuffle=shuffle, validation=data)


def test_a_loader_decides_the_order_of_all(ops):
    loader = tn.Loader((X, LABELS), 8, seed=11)
    agree(ops, net(tn.ReLU()), loader, seeds=[3, 4], epochs=2)


@pytest.mark.long
def test_a_learning_rate_sweep_and_a_single_network(ops):
    sweep = agree(ops, net(tn.ReLU()), (X, LABELS), seeds=None, start=6, lr=np.array([0.001, 0.01, 0.1]), batch_size=8)
    assert sweep.seeds == (6, 6, 6)
    assert sweep.rates == (0.001, 0.01, 0.1)
    one = agree(ops, net(tn.ReLU()), (X, LABELS), seeds=4, batch_size=8)
    assert tn.fit_many(one[0], (X, LABELS), seeds=np.array(4), lr=np.array(0.1)).rates == (0.1,)
    assert len(one) == 1
    assert one.theta.shape == (1, one[0].theta.shape[0])


def test_an_ensemble_predicts_with_mean_and_spread(ops):
    ensemble = tn.fit_many(tn.Model(net(tn.Tanh(), tn.BatchNorm()), 5, backend=ops), (X, LABELS), seeds=range(4))
    y = ops.to_numpy(ensemble.predict(X))
    assert y.shape == (4, 41, 3)
    np.testing.assert_array_equal(y, ops.to_numpy(ensemble.predict(X, batch_size=41)))
    np.testing.assert_allclose(
        y, ops.to_numpy(ensemble.predict(tn.Arrays(X, LABELS), batch_size=7)), rtol=1e-5, atol=1e-6
    )
    for number, model in enumerate(ensemble):
        np.testing.assert_allclose(y[number], ops.to_numpy(model.predict(X)), rtol=1e-5, atol=1e-6)
        assert model.history is ensemble.histories[number]
        assert model.seed == number
        alone, row = model.evaluate((X, LABELS)), ensemble[number - 4].evaluate((X, LABELS))
        assert alone == row
    np.testing.assert_allclose(ops.to_numpy(ensemble.mean(X)), y.mean(0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(ops.to_numpy(ensemble.spread(X)), y.std(0), rtol=1e-4, atol=1e-6)
    assert np.std(y, 0).min() > 0


def test_a_model_of_an_ensemble_knows_its_columns():
    data = tn.Arrays(X, LABELS)
    data.columns = tn.data.Columns(("a", "b", "c", "d", "e"), ("kind",), ("yes", "no", "both"))
    assert tn.fit_many(tn.Model(net(), 5), data, seeds=[1, 2])[1].columns == data.columns


def test_a_model_of_an_ensemble_is_a_copy(ops, tmp_path):
    ensemble = tn.fit_many(tn.Model(net(), 5, backend=ops), (X, LABELS), seeds=[1, 2])
    model = ensemble[1]
    model.save(tmp_path / "one.safetensors")
    again = tn.load(tmp_path / "one.safetensors", backend=ops)
    model.theta[...] = 0.0
    np.testing.assert_array_equal(ops.to_numpy(again.theta), ops.to_numpy(ensemble.theta[1, ...]))
    with pytest.raises(IndexError, match=r"^network 2 is out of range: there are 2, numbered from 0$"):
        ensemble[2]
    with pytest.raises(TypeError, match=r"^network slice\(0, 2, None\) is not a whole number: give one at a time$"):
        ensemble[0:2]


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda many: pickle.loads(pickle.dumps(many))])
def test_an_ensemble_can_be_copied_and_pickled(copied, ops):
    ensemble = tn.fit_many(tn.Model(net(tn.BatchNorm()), 5, backend=ops), (X, LABELS), seeds=[1, 2])
    wanted = ops.to_numpy(ensemble.predict(X)).copy()
    again = copied(ensemble)
    np.testing.assert_array_equal(ops.to_numpy(again.predict(X)), wanted)
    again.theta, again.state = 0.0 * again.theta, 0.0 * again.state
    assert not ops.to_numpy(again.predict(X)).any()
    np.testing.assert_array_equal(ops.to_numpy(ensemble.predict(X)), wanted)


@pytest.mark.long
@pytest.mark.double
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NaN and infinity are wanted here
def test_a_network_that_diverges_leaves_the_others_alone(ops):
    network, data = tn.Sequential(tn.Dense(6), tn.Dense(2)), (X, NUMBERS)
    rates, options = [0.01, 1e12, 0.02], {"batch_size": 8, "epochs": 5, "clip": None, "validation": data}
    template = tn.Model(network, 5, backend=ops, dtype="float64")
    ensemble = tn.fit_many(template, data, seeds=range(3), lr=rates, optimizer=tn.SGD(0.1), **options)
    assert list(ensemble.diverged) == [1]
    said = ensemble.diverged[1]
    alone = tn.Model(network, 5, seed=1, backend=ops, dtype="float64")
    with pytest.raises(tn.DivergedError, match=said.partition(" is not finite")[0]):
        alone.fit(data, optimizer=tn.SGD(1e12), **options)
    close(ops, ensemble.theta[1, ...], alone.theta)  # back where it was last seen to be good
    assert ensemble.histories[1].stopped == said
    assert isnan(ensemble.histories[1][-1]["loss"])
    assert isnan(ensemble.histories[1][-1]["val_loss"])
    for number in (0, 2):
        single = tn.Model(network, 5, seed=number, backend=ops, dtype="float64")
        history = single.fit(data, optimizer=tn.SGD(rates[number]), **options)
        close(ops, ensemble.theta[number, ...], single.theta)
        np.testing.assert_allclose(ensemble.histories[number]["val_loss"], history["val_loss"], rtol=TOLERANCE)
    y = ops.to_numpy(ensemble.predict(X))
    assert np.isfinite(y).all()
    np.testing.assert_allclose(ops.to_numpy(ensemble.mean(X)), y[[0, 2]].mean(0), rtol=1e-12)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_when_all_diverge_it_ends():
    model = tn.Model(tn.Sequential(tn.Dense(6), tn.Dense(2)), 5)
    ensemble = tn.fit_many(model, (X, NUMBERS), lr=[1e9, 1e10], optimizer=tn.SGD(0.1), epochs=10_000)
    assert set(ensemble.diverged) == {0, 1}
    with pytest.raises(ValueError, match="all 2 networks diverged: try lower learning rates"):
        ensemble.mean(X)


@pytest.mark.parametrize(
    ("options", "kind", "said"),
    [
        ({"seeds": []}, ValueError, "seeds is empty: give at least one"),
        ({"lr": []}, ValueError, "lr is empty: give at least one"),
        ({"seeds": range(3), "lr": [0.1, 0.2]}, ValueError, "3 seeds and 2 rates do not pair: give equally many, or one of either"),
        ({"seeds": [1, -1]}, ValueError, "seed -1 is out of range: give one in [0, 2**64)"),
        ({"seeds": [0.5]}, TypeError, "seed 0.5 is not a whole number: give one in [0, 2**64)"),
        ({"seeds": "12"}, TypeError, "seed '1' is not a whole number: give one in [0, 2**64)"),
        ({"lr": [0.1, -1.0]}, ValueError, "Adam lr -1.0 is out of range: give a finite number of at least 0, or step -> rate"),
        ({"lr": ["0.1"]}, TypeError, "lr '0.1' is not a number or a schedule: give one, or a list of them"),
        ({"early_stopping": 3, "resume": True}, TypeError,
         "fit_many does not take early_stopping, resume: all networks take the same steps; use fit for one"),
        ({"rates": [0.1], "progress": True}, TypeError, "fit_many got an unexpected keyword argument 'rates'"),
        ({"data": tn.Loader((X, LABELS), 8), "weights": [1.0] * 41, "balance": True}, TypeError,
         "a Loader draws in an order of its own and does not take weights, balance: set that where it is made"),
        ({"epochs": 0}, ValueError, "epochs 0 is not a positive whole number"),
        ({"clip": 0.0}, ValueError, "clip 0.0 is out of range: give a positive norm, or None"),
        ({"data": tn.data.Batches([(X, LABELS)])}, TypeError,
         "fit_many does not take Batches: give a data set, arrays, a path or a Loader"),
        ({"validation": (X[:, :2], LABELS)}, ValueError, "samples of shape (2,) do not fit the model: expected (5,)"),
    ],
    ids=lambda value: str(value)[:20],
)  # fmt: skip
def test_errors_are_one_line(options, kind, said):
    options = {"data": (X, LABELS)} | options
    with pytest.raises(kind) as e:
        tn.fit_many(tn.Model(net(), 5), options.pop("data"), **options)
    assert str(e.value) == said


def test_a_layer_that_asks_for_masks_of_many_is_told_how():
    class Noise(tn.Layer):
        def forward(self, params, x, ctx):
            return ctx.ops.dropout(x, 0.5, *ctx.masks)[0], lambda dy: (dy, {})

    model = tn.Model(tn.Sequential(Noise(), tn.Dense(3)), 5)
    with pytest.raises(TypeError, match=r"take them from the contexts in ctx.each\(\)"):
        tn.fit_many(model, (X, LABELS), seeds=[1, 2])


@pytest.mark.parametrize("networks", [2, 5])
def test_a_layer_that_takes_networks_for_samples_is_found(networks, ops):
    """With as many networks as samples in a batch, all its shapes are right."""

    @dataclass(frozen=True, repr=False)
    class Scale(tn.Layer):
        def build(self, shape):
            return Spec(shape, {"s": Param(shape, tn.initializers.Constant(1.0))})

        def forward(self, params, x, ctx):
            s = params["s"]
            return x * s, lambda dy: (dy * s, {"s": ctx.ops.xp.sum(x * dy, axis=0)})

    model = tn.Model(tn.Sequential(tn.Dense(4), Scale()), 3, backend=ops)
    X = np.ones((10, 3))
    with pytest.raises((ValueError, RuntimeError), match="shape|broadcast|size") as e:  # as the library says it
        tn.fit_many(model, (X, np.ones((10, 4))), seeds=range(networks), batch_size=networks)
    assert "count axes from the end" in e.value.__notes__[-1]


@pytest.mark.parametrize("train", [False, True])
def test_a_layer_that_mixes_networks_is_found(train, ops):
    """Its shapes are right whatever the number of networks."""

    @dataclass(frozen=True, repr=False)
    class Center(tn.Layer):
        axis: int

        def forward(self, params, x, ctx):
            mean = partial(ctx.ops.xp.mean, axis=self.axis, keepdims=True)
            return (x - mean(x), lambda dy: (dy - mean(dy), {})) if ctx.train == train else (x, lambda dy: (dy, {}))

    def fit(*last):
        model = tn.Model(tn.Sequential(tn.Dense(4), tn.Dropout(0.5), *last), 3, backend=ops)
        return tn.fit_many(model, (np.ones((10, 3)), np.ones((10, 4))), seeds=[1, 2, 3], batch_size=10)

    for layer in [Center(0)] + [tn.Sequential(tn.Frozen(Center(0)))] * (not train):  # frozen layers never train
        with pytest.raises(ValueError, match="mixes networks.*count axes from the end"):
            fit(layer)
    fit(Center(-2))


def test_a_vector_of_parameters_needs_an_axis_for_the_samples():
    @dataclass(frozen=True, repr=False)
    class Scale(tn.Layer):
        many: bool

        def build(self, shape):
            return Spec(shape, {"s": Param(shape, tn.initializers.Constant(1.0))})

        def forward(self, params, x, ctx):
            s = params["s"][..., None, :] if self.many else params["s"]
            return x * s, lambda dy: (dy * s, {"s": ctx.ops.xp.sum(dy * x, axis=-2)})

    def fit(many):
        model = tn.Model(tn.Sequential(tn.Dense(4), Scale(many), tn.Dense(1)), 3, backend="numpy")
        return tn.fit_many(model, (np.ones((10, 3)), np.ones((10, 1))), seeds=[1, 2, 3])

    with pytest.raises(ValueError) as e:
        fit(False)
    assert any(r"s[..., None, :] for a parameter s that is a vector" in note for note in e.value.__notes__)
    fit(True)


@pytest.mark.parametrize("axis", [None, -1])
def test_an_optimizer_that_mixes_networks_is_found(axis, ops):
    """Steps along the gradient over its norm, which was that of all networks together."""

    class Normalized(tn.optim.Optimizer):
        def rule(self, xp, theta, g, lr):
            return (theta - lr * g / xp.sqrt(xp.sum(g * g, axis=axis, keepdims=True)),)

    model = tn.Model(tn.Dense(1), 3, backend=ops)
    fit = partial(tn.fit_many, model, (np.ones((9, 3)), np.ones((9, 1))), optimizer=Normalized(0.1))
    if axis is None:
        with pytest.raises(ValueError, match="Normalized.* mixes networks.*count axes from the end"):
            fit(seeds=[1, 2])
    else:
        single = fit(seeds=[2]).theta[0, ...]
        np.testing.assert_allclose(ops.to_numpy(fit(seeds=[1, 2]).theta[1, ...]), ops.to_numpy(single), rtol=1e-6)


def test_a_layer_may_have_noise_of_its_own_beside_other_networks():
    class Noise(tn.Layer):
        def forward(self, params, x, ctx):
            ctx.ops.as_written("noise of NumPy's")
            return x + RNG.standard_normal(x.shape), lambda dy: (dy, {})

    tn.fit_many(
        tn.Model(tn.Sequential(tn.Dense(4), Noise(), tn.Dense(1)), 3), (np.ones((9, 3)), np.ones((9, 1))), seeds=[1, 2]
    )


@pytest.mark.parametrize("batch", [1, 2, 5, 33])
def test_batches_side_by_side_are_those_of_each_loader(batch, monkeypatch):
    """Their chunks cover an epoch, whatever its last batch is; of indices of samples, too."""
    from tinynet.data import stacked
    from tinynet.data.supply import supply_of

    monkeypatch.setattr(stacked, "LARGEST_CHUNK", 3 * 2 * batch * 5)  # three steps each
    ops = tn.get_backend("numpy")
    for options in ({}, {"drop_last": True}, {"shuffle": False}):
        loaders = [tn.Loader((X, LABELS, np.arange(41.0)), batch, seed=seed, **options) for seed in (1, 2)]
        both = stacked.StackedLoader(loaders)
        supply, indices = (supply_of(loader, 0, ops, "float64") for loader in (both, both.as_indices()))
        for step in range(2 * both.steps_per_epoch):
            got = supply.batch(step)
            for number, loader in enumerate(loaders):
                for a, b in zip(got, loader.batch(step, ops, "float64"), strict=True):
                    np.testing.assert_array_equal(a[min(number, len(a) - 1)], b)
                if not both.alike:
                    np.testing.assert_array_equal(indices.batch(step).x[number], loader.index(step))


def test_a_loss_that_was_infinite_once_is_enough(ops):
    """As alone: a network is put to rest even if its weights are finite, and could go on."""
    from tinynet.many import _Watch

    ensemble = tn.fit_many(tn.Model(net(), 5, backend=ops), (X, LABELS), seeds=[1, 2])
    before = ops.to_numpy(ensemble.theta).copy()
    good = [ops.xp.asarray(a, copy=True) for a in (ensemble.theta, ensemble.state)]
    watch = _Watch(ensemble)
    watch(ensemble, ops.asarray([[1.0, 2.0], [1.0, float("inf")], [1.0, 3.0]], "float32"), good, 10)
    assert ensemble.diverged == {1: "the loss of step 12 is not finite; the network is back at step 10"}
    assert np.isnan(ops.to_numpy(ensemble.theta)).all(axis=1).tolist() == [False, True]
    watch.finish()
    np.testing.assert_array_equal(ops.to_numpy(ensemble.theta), before)


@pytest.mark.double
@pytest.mark.long
def test_ctrl_c_keeps_the_networks(ops):
    """As the last finished step left them; one that had diverged with its last good weights."""
    seen = []

    class Slow(tn.data.Blobs):
        def rows(self, *args):
            seen.append(1)
            if len(seen) > 2:  # the targets are checked first
                raise KeyboardInterrupt
            return super().rows(*args)

    options = {"seeds": [1, 2], "lr": [0.01, 1e30], "optimizer": tn.SGD(0.1), "batch_size": 10}
    data = tn.data.Blobs(50, n_features=5, n_classes=3, noise=1.0)
    model = tn.Model(net(), 5, backend=ops, dtype="float64")
    with pytest.raises(
        KeyboardInterrupt, match="after at least 10 steps: the networks so far are this exception's ensemble"
    ) as e:
        tn.fit_many(model, data, validation=Slow(20, n_features=5, n_classes=3), epochs=9, **options)
    assert isinstance(e.value, tn.Interrupted)
    networks = e.value.ensemble
    assert set(networks.diverged) == {1}
    assert [len(history) for history in networks.histories] == [1, 1]
    wanted = tn.fit_many(model, data, epochs=2, **options)
    np.testing.assert_array_equal(ops.to_numpy(networks.theta), ops.to_numpy(wanted.theta))
    assert np.isfinite(ops.to_numpy(networks.theta)).all()
