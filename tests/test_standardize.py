"""Standardising: moments in one pass, kept with the model, the same on every backend."""

import numpy as np
import pytest

import tinynet as tn
from tinynet import standardize
from tinynet.standardize import moments

RNG = np.random.default_rng(0)
X = RNG.standard_normal((500, 3)) * [1.0, 1e-3, 50.0] + [0.0, 1e6, -7.0]
Y = (X[:, 2] > 0).astype(int)


@pytest.mark.parametrize("piece", [3, 64 * 3, 2**20])
def test_moments_are_numpy_s_in_pieces_of_any_size(piece, ops, monkeypatch):
    monkeypatch.setattr(standardize, "_PIECE", piece)
    host = ops.generator
    mean, deviation = (host.to_numpy(a) for a in moments(tn.Arrays(X, Y), host))
    np.testing.assert_allclose(mean, X.mean(0), rtol=1e-12)
    # a deviation of 1e-3 around 1e6: the differences have an error of 1e-10, 1e-7 of the deviation
    np.testing.assert_allclose(deviation, X.std(0), rtol=1e-6)
    mean, _ = moments(tn.Arrays(X, Y), host, samples=100)
    np.testing.assert_allclose(host.to_numpy(mean), X[:100].mean(0), rtol=1e-12)


@pytest.mark.parametrize("piece", [3, 64 * 3, 2**20])
def test_a_weight_of_k_is_k_samples(piece, ops, monkeypatch):
    monkeypatch.setattr(standardize, "_PIECE", piece)
    host, weight = ops.generator, RNG.integers(0, 4, 100)
    weight[:64] = 0  # whole pieces without any
    weighted = moments(tn.Arrays(X[:100], Y[:100], weight), host)
    rows = np.repeat(np.arange(100), weight)
    for a, b in zip(weighted, (X[rows].mean(0), X[rows].std(0)), strict=True):
        np.testing.assert_allclose(host.to_numpy(a), b, rtol=1e-6)


@pytest.mark.parametrize("n", [37, 300, 300_000])
@pytest.mark.parametrize("weighted", [False, True])
def test_a_feature_that_never_varies_may_have_a_mean_that_is_rounded(n, weighted):
    """Of 300 such samples the scale was 2e15, in silence, and another value later was infinitely far."""
    x = np.full((n, 2), [0.1, 1e5 / 3])
    assert x.std(0).max() > 0  # so it is
    model = tn.Model(tn.Standardize(), 2, dtype="float64")
    model.adapt((x, np.zeros(n), RNG.random(n)) if weighted else (x, np.zeros(n)))
    np.testing.assert_allclose(model.predict([[2.1, 1e5 / 3]]), [[2.0, 0.0]], atol=1e-10)


def test_scikit_learn_s_scaler_gives_the_same():
    preprocessing = pytest.importorskip("sklearn.preprocessing", reason="the oracle is scikit-learn's")
    model = tn.Model(tn.Standardize(), 3, dtype="float64")
    model.adapt((X, Y))
    np.testing.assert_allclose(model.predict(X), preprocessing.StandardScaler().fit_transform(X), rtol=1e-5, atol=1e-6)


def test_fit_sets_it_once_and_the_file_has_it(ops, tmp_path):
    net = tn.Sequential(tn.Sequential(tn.Standardize(), tn.Dense(4)), tn.Tanh(), tn.Dense(2))
    model = tn.Model(net, 3, backend=ops)
    model.fit((X, Y), epochs=3, batch_size=50, optimizer=tn.Adam(0.05))
    seen = ops.to_numpy(model.state).copy()
    np.testing.assert_allclose(seen, np.concatenate([X.mean(0), 1 / X.std(0)]), rtol=1e-6)
    assert model.history["loss"][-1] < 0.3
    model.fit((X + 100, Y))
    np.testing.assert_array_equal(ops.to_numpy(model.state), seen)
    model.save(tmp_path / "m.safetensors")
    again = tn.load(tmp_path / "m.safetensors", backend=ops)
    np.testing.assert_array_equal(ops.to_numpy(again.predict(X)), ops.to_numpy(model.predict(X)))


def test_a_device_without_float64():
    """Its moments are taken on the host."""
    pytest.importorskip("array_api_strict", reason="it has such a device")
    ops = tn.get_backend("strict:no_float64")
    for data in ((X, Y), (ops.asarray(X, "float32"), ops.asarray(Y))):
        model = tn.Model(tn.Sequential(tn.Standardize(), tn.Dense(2)), 3, backend=ops)
        model.fit(data, batch_size=50)
        mean, scale = ops.to_numpy(model.state).reshape(2, 3)
        np.testing.assert_allclose(mean, X.mean(0), rtol=1e-6)
        np.testing.assert_allclose(scale[[0, 2]], 1 / X[:, [0, 2]].std(0), rtol=1e-6)


@pytest.mark.parametrize(
    ("before", "place"), [(tn.Flatten(), "1"), (tn.Sequential(tn.Dense(3), tn.Standardize()), "0.1")]
)
def test_one_that_nothing_sets_is_refused(before, place):
    """It was the identity, in silence: behind Flatten, say."""
    net = tn.Sequential(before, tn.Standardize(), tn.Dense(2))
    model = tn.Model(net, 3)
    said = rf"^layer {place}, Standardize\(\), is not the first, and nothing sets it: put it first, or set its mean and scale"
    for use in (lambda: model.fit((X, Y)), lambda: tn.fit_many(model, (X, Y), seeds=[1, 2])):
        with pytest.raises(ValueError, match=said):
            use()
    for name, value in model.weights().items():
        if name.endswith("scale"):
            value[...] = 2.0
    model.fit((X, Y))
    tn.Model(tn.Sequential(tn.Dense(2), tn.Standardize()), 3).fit((X, Y))


def test_one_that_is_frozen_is_not_set():
    """It was the identity, in silence."""
    for front in (tn.Standardize(), tn.Sequential(tn.Standardize(), tn.Dense(4))):
        model = tn.Model(tn.Sequential(tn.Frozen(front), tn.Dense(2)), 3)
        with pytest.raises(
            ValueError, match=r"Standardize\(\), is frozen, and nothing sets it: put it before Frozen, or set"
        ):
            model.fit((X, Y))
        next(value for name, value in model.weights().items() if name.endswith("scale"))[...] = 2.0
        model.fit((X, Y))


def test_a_feature_that_never_varies_is_left_in_its_scale():
    model = tn.Model(tn.Standardize(), 2)
    model.adapt(([[1.0, 5.0], [3.0, 5.0]], [0, 1]))
    assert model.predict([[1.0, 5.0], [2.0, 7.0]]).tolist() == [[-1.0, 0.0], [0.0, 2.0]]


def test_what_float32_rounds_away_is_said(caplog):
    """A table of times was trained on and learned nothing, in silence."""
    x = np.stack([np.full(500, 5.0), 1.6e9 + 1000 * X[:, 0], 1.6e9 + 5000 * X[:, 0]], axis=1)
    tn.Model(tn.Standardize(), 3, dtype="float64").adapt((x, Y))
    assert not caplog.messages
    tn.Model(tn.Standardize(), 3).adapt((x, Y))
    said = (
        " varies so little around its mean that float32 rounds most of that away: subtract the mean from it before, or "
    )
    assert caplog.messages == [f"feature 1{said}compute in float64"]
    tn.Model(tn.Sequential(tn.Standardize(), tn.Flatten()), (3, 1)).adapt((x[:, :, None], Y))
    assert caplog.messages[1] == f"feature (1, 0){said}compute in float64"


def test_samples_of_any_shape():
    x = RNG.standard_normal((30, 2, 4))
    model = tn.Model(tn.Sequential(tn.Standardize(), tn.Flatten()), (2, 4), dtype="float64")
    model.adapt((x, np.zeros(30, int)))
    np.testing.assert_allclose(model.predict(x), ((x - x.mean(0)) / x.std(0)).reshape(30, 8), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: tn.Model(tn.Sequential(tn.Dense(2), tn.Standardize()), 3).adapt((X, Y)),
         "Sequential(Dense(width=2), Standardize()) does not begin with Standardize(): put it first"),
        (lambda: tn.Model(tn.Standardize(), 2).adapt((X, Y)), "samples of shape (3,) do not fit the model: expected (2,)"),
        (lambda: tn.Model(tn.Standardize(), 3).adapt((X, Y), samples=1.5), "samples 1.5 is out of range: there are 500"),
        (lambda: tn.Model(tn.Standardize(), 3).adapt((X, Y), samples=501), "samples 501 is out of range: there are 500"),
        (lambda: tn.Model(tn.Standardize(), 3).adapt((X, Y, np.arange(500) > 5), samples=5),
         "all 5 samples have weight 0: give at least one a positive weight"),
        (lambda: tn.Model(tn.Standardize(), 3).adapt((1e-42 * X, Y)),
         "feature 0 varies too much or too little to be standardized in float32: scale it before"),
        (lambda: tn.Model(tn.Standardize(), 3, dtype="float64").adapt((1e200 * X, Y)),
         "feature 0 varies too much or too little to be standardized in float64: scale it before"),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:overflow encountered")
def test_mistakes(make, said):
    with pytest.raises(ValueError) as e:
        make()
    assert str(e.value) == said
