"""What each virtual set looks like: scikit-learn's namesakes, SciPy's distributions and textbook formulas are the judges.

Seeds are fixed, so that a test that passes passes always. Unless another reason is given, a bound is one that chance
passes less than once in 10 000 times: 5 standard errors, or a probability of `UNLIKELY`.
"""

import copy
import dataclasses
import pickle
from itertools import pairwise
from math import comb

import numpy as np
import pytest

import tinynet as tn

D, HOST, N = tn.data, tn.get_backend("numpy"), 20_000
UNLIKELY = 1e-4


@pytest.fixture(scope="module")
def stats():
    return pytest.importorskip("scipy.stats", reason="SciPy's distributions are the judges")


@pytest.fixture(scope="module")
def sklearn():
    return pytest.importorskip("sklearn.datasets", reason="the namesakes are scikit-learn's")


def sample(data, index=None):
    """Features and targets of ``index``, by default of all, as float64 or labels."""
    return data.batch(range(data.n) if index is None else index, HOST, "float64")[:2]


def check_distribution(stats, values, wanted):
    """Kolmogorov-Smirnov, mean and variance, column by column, and that columns have nothing to do with each other."""
    n, columns = len(values), np.reshape(values, (len(values), -1))
    mean, variance, kurtosis = (float(v) for v in wanted.stats(moments="mvk"))
    for column in columns.T:
        assert stats.kstest(column, wanted.cdf, method="asymp").pvalue > UNLIKELY
        assert abs(column.mean() - mean) < 5 * (variance / n) ** 0.5
        assert abs(column.var() - variance) < 5 * variance * ((kurtosis + 2) / n) ** 0.5
    if columns.shape[1] > 1:
        correlation = np.corrcoef(columns.T) - np.eye(columns.shape[1])
        assert np.abs(correlation).max() < 5 / n**0.5


def check_alike(stats, ours, theirs):
    """Two samples (n, k) of one distribution: Kolmogorov-Smirnov by column, means and covariances."""
    for a, b in zip(ours.T, theirs.T, strict=True):
        assert stats.ks_2samp(a, b, method="asymp").pvalue > UNLIKELY
    moments = []
    for x in (ours, theirs):
        z = x - x.mean(0)
        products = (z[:, :, None] * z[:, None, :]).reshape(len(x), -1)
        every = np.concatenate([x, products], axis=1)
        moments.append((every.mean(0), every.var(0) / len(x)))
    (m, v), (m_theirs, v_theirs) = moments
    assert (np.abs(m - m_theirs) < 5 * (v + v_theirs) ** 0.5).all()


def check_calibrated(p, y):
    """Of the samples whose class c has about the probability p_c, about so many are of class c."""
    assert (np.abs(p.sum(1) - 1) < 1e-12).all()
    for c in range(p.shape[1]):
        bins = np.minimum((p[:, c] * 10).astype(int), 9)
        size = np.bincount(bins, minlength=10)
        wrong = np.bincount(bins, (y == c) - p[:, c], minlength=10)
        variance = np.bincount(bins, p[:, c] * (1 - p[:, c]), minlength=10)
        enough = variance > 10  # for the sum to be all but normal
        assert (np.abs(wrong) < 5 * variance**0.5)[enough].all()
        assert size[enough].sum() > len(y) / 2


# scikit-learn's namesakes -----------------------------------------------------------------------------------------------

BLOBS = D.Blobs(N, seed=1, n_classes=4, n_features=3, noise=0.7, box=5.0)


@pytest.mark.parametrize(
    ("data", "name", "options"),
    [
        (BLOBS, "make_blobs", {"centers": BLOBS.centres(HOST), "cluster_std": 0.7}),
        (D.Moons(N, seed=1, noise=0.1), "make_moons", {"noise": 0.1}),
        (D.Circles(N, seed=1, noise=0.1, factor=0.5), "make_circles", {"noise": 0.1, "factor": 0.5}),
        (
            D.GaussianQuantiles(N, seed=1, n_features=5, n_classes=4),
            "make_gaussian_quantiles",
            {"n_features": 5, "n_classes": 4},
        ),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_classes_are_distributed_as_scikit_learn_s(data, name, options, sklearn, stats):
    x, y = sample(data)
    theirs, labels = getattr(sklearn, name)(n_samples=N, random_state=0, **options)
    for c in range(data.classes):
        check_alike(stats, x[y == c], theirs[labels == c])


@pytest.mark.parametrize(
    ("data", "name", "options"),
    [
        (D.Friedman1(N, seed=1, n_features=7, noise=1.0), "make_friedman1", {"n_features": 7, "noise": 1.0}),
        (D.Friedman2(N, seed=1, noise=20.0), "make_friedman2", {"noise": 20.0}),
        (D.Friedman3(N, seed=1, noise=0.1), "make_friedman3", {"noise": 0.1}),
        (D.SparseUncorrelated(N, seed=1, n_features=6), "make_sparse_uncorrelated", {"n_features": 6}),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_regressions_are_distributed_as_scikit_learn_s(data, name, options, sklearn, stats):
    theirs, y = getattr(sklearn, name)(n_samples=N, random_state=0, **options)
    check_alike(stats, np.column_stack(sample(data)), np.column_stack([theirs, y]))


def test_linear_is_distributed_as_scikit_learn_s(sklearn, stats):
    """Its coefficients are its own draw: compared is what is left when they are divided out."""
    data = D.Linear(N, seed=1, n_features=6, n_informative=4, scale=100.0, noise=30.0)
    x, y = sample(data)
    w = data.coefficients(HOST)
    theirs, y_theirs, w_theirs = sklearn.make_regression(
        N, 6, n_informative=4, noise=30.0, coef=True, shuffle=False, random_state=0
    )
    ours = (y[:, 0] - w[-1, 0]) / np.hypot(np.linalg.norm(w[:-1]), 30.0)
    check_alike(stats, ours[:, None], (y_theirs / np.hypot(np.linalg.norm(w_theirs), 30.0))[:, None])
    check_alike(stats, x, theirs)
    assert ((w[:-1, 0] == 0) == (w_theirs == 0)).all()  # the same features are informative


# Formulas -------------------------------------------------------------------------------------------------------------


def friedman1(data, x):
    return 10 * np.sin(np.pi * x[:, 0] * x[:, 1]) + 20 * (x[:, 2] - 0.5) ** 2 + 10 * x[:, 3] + 5 * x[:, 4]


def friedman2(data, x):
    return np.hypot(x[:, 0], x[:, 1] * x[:, 2] - 1 / (x[:, 1] * x[:, 3]))


def friedman3(data, x):
    return np.arctan((x[:, 1] * x[:, 2] - 1 / (x[:, 1] * x[:, 3])) / x[:, 0])


def sparse(data, x):
    return x[:, :4] @ [1, 2, -2, -1.5]


def linear(data, x):
    w = data.coefficients(HOST)
    return x @ w[:-1] + w[-1]


def sinusoid(data, x):
    *f, phase, a = data.coefficients(HOST)
    return np.sin(2 * np.pi * (x @ np.array(f) + phase)) @ a


def polynomial(data, x):
    return sum(c * x[:, list(t)].prod(1) for c, t in zip(data.coefficients(HOST), data.terms(), strict=True))


def teacher(data, x):
    *hidden, last = data.weights(HOST)
    for w in hidden:
        x = np.maximum(x @ w[:-1] * (2 / (len(w) - 1)) ** 0.5 + w[-1], 0)
    return x @ last[:-1] * (len(last) - 1) ** -0.5 + last[-1]


REGRESSIONS = [
    (D.Friedman1, {"n_features": 7}, friedman1, 1.0),
    (D.Friedman1, {"n_features": 6}, friedman1, 0.5),
    (D.Friedman2, {}, friedman2, 10.0),
    (D.Friedman3, {}, friedman3, 0.1),
    (D.SparseUncorrelated, {"n_features": 6}, sparse, 0.3),
    (D.SparseUncorrelated, {"n_features": 4}, sparse, 1.0),
    (D.Linear, {"n_features": 6, "n_informative": 2, "n_outputs": 3, "scale": 10.0}, linear, 2.0),
    (D.Linear, {"n_features": 1, "n_informative": 0}, linear, 2.0),
    (D.Linear, {"n_features": 5}, linear, 0.5),
    (D.Sinusoid, {}, sinusoid, 0.1),
    (D.Sinusoid, {"n_features": 3, "waves": 5, "frequency": 0.5}, sinusoid, 0.2),
    (D.Polynomial, {}, polynomial, 0.1),
    (D.Polynomial, {"n_features": 4, "degree": 3}, polynomial, 0.5),
    (D.Polynomial, {"n_features": 3, "degree": 0}, polynomial, 0.5),
    (D.Teacher, {"n_features": 6, "n_outputs": 3}, teacher, 0.2),
    (D.Teacher, {"n_features": 5, "hidden": (7, 4)}, teacher, 0.2),
    (D.Teacher, {"n_features": 5, "hidden": (), "n_outputs": 2}, teacher, 0.2),
]
regressions = pytest.mark.parametrize(
    ("make", "options", "formula", "noise"), REGRESSIONS, ids=lambda v: v.__name__ if isinstance(v, type) else ""
)


@regressions
def test_targets_are_what_the_formula_says(make, options, formula, noise):
    data = make(N, seed=2, noise=0.0, **options)
    x, y = sample(data)
    assert y.shape == (N, data.outputs)
    # Terms cancel: an error of some units in the last place of theirs, which are as large as the largest target.
    np.testing.assert_allclose(y, formula(data, x).reshape(y.shape), rtol=1e-12, atol=1e-14 * np.abs(y).max())


@regressions
def test_noise_is_normal_of_the_stated_deviation(make, options, formula, noise, stats):
    data = make(N, seed=3, noise=noise, **options)
    x, y = sample(data)
    left = (y - formula(data, x).reshape(y.shape)) / noise
    check_distribution(stats, left, stats.norm)
    assert np.abs(np.corrcoef(np.column_stack([x, left]).T)[: x.shape[1], x.shape[1] :]).max() < 5 / N**0.5


def test_terms_are_those_of_scikit_learn():
    preprocessing = pytest.importorskip("sklearn.preprocessing", reason="the terms are scikit-learn's")
    data = D.Polynomial(50, n_features=3, degree=4, noise=0.0)
    x, y = sample(data)
    assert len(data.terms()) == comb(7, 4)
    theirs = preprocessing.PolynomialFeatures(4).fit_transform(x)
    np.testing.assert_allclose(theirs @ data.coefficients(HOST), y[:, 0], rtol=1e-12, atol=1e-13)  # terms cancel


NORMAL = [
    D.Linear(N, seed=4, n_features=4, noise=1.0),
    D.SparseUncorrelated(N, seed=4, n_features=5),
    D.GaussianQuantiles(N, seed=4, n_features=4),
    D.Logistic(N, seed=4, n_features=4),
    D.Teacher(N, seed=4, n_features=4),
]
UNIFORM = [
    (D.Checkerboard(N, seed=4, n_features=3), [(-1, 1)] * 3),
    (D.Friedman1(N, seed=4, n_features=7), [(0, 1)] * 7),
    (D.Friedman2(N, seed=4), [(0, 100), (40 * np.pi, 560 * np.pi), (0, 1), (1, 11)]),
    (D.Friedman3(N, seed=4, noise=0.1), [(0, 100), (40 * np.pi, 560 * np.pi), (0, 1), (1, 11)]),
    (D.Sinusoid(N, seed=4, n_features=3), [(-1, 1)] * 3),
    (D.Polynomial(N, seed=4, n_features=4), [(-1, 1)] * 4),
]


@pytest.mark.parametrize("data", NORMAL, ids=repr)
def test_normal_features(data, stats):
    check_distribution(stats, sample(data)[0], stats.norm)


@pytest.mark.parametrize(("data", "ranges"), UNIFORM, ids=repr)
def test_uniform_features_and_their_ranges(data, ranges, stats):
    low, high = np.array(ranges, float).T
    x, _ = sample(data)
    assert ((x >= low) & (x < high)).all()
    check_distribution(stats, (x - low) / (high - low), stats.uniform)


def test_what_belongs_to_a_set_as_a_whole_is_drawn_as_stated(stats):
    check_distribution(stats, D.Blobs(1, n_classes=2000, box=3.0).centres(HOST) / 6 + 0.5, stats.uniform)
    check_distribution(
        stats, D.AnisotropicBlobs(1, n_classes=500, n_features=4).transforms(HOST).ravel() * 2, stats.norm
    )
    w = D.Logistic(1, n_features=2000, n_classes=3, scale=5.0).coefficients(HOST)
    check_distribution(stats, w[:-1] / (5.0 * 2000**-0.5), stats.norm)
    b = [D.Logistic(1, seed=s, n_features=1, n_classes=3, scale=5.0).coefficients(HOST)[-1] for s in range(500)]
    check_distribution(stats, np.array(b) / 2.5, stats.norm)
    w = D.Linear(1, n_features=1999, n_outputs=2, scale=7.0, n_informative=1500).coefficients(HOST)
    check_distribution(stats, w[:1500] / 7.0, stats.uniform)
    assert (w[1500:-1] == 0).all()
    assert ((w[-1] > 0) & (w[-1] < 7)).all()
    *f, phase, a = D.Sinusoid(1, n_features=2, waves=2000, frequency=3.0).coefficients(HOST)
    check_distribution(stats, np.column_stack([*(v / 6 + 0.5 for v in f), phase]), stats.uniform)
    check_distribution(stats, a * 2000**0.5, stats.norm)
    check_distribution(stats, D.Polynomial(1, n_features=20, degree=3).coefficients(HOST), stats.norm)
    for w in D.Teacher(1, n_features=50, hidden=60, n_outputs=40).weights(HOST):
        check_distribution(stats, w.ravel(), stats.norm)


# Classes ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("cells", "n_features"), [(1, 1), (2, 2), (3, 3), (4, 2), (7, 1)])
def test_the_fields_of_a_checkerboard_take_turns(cells, n_features):
    x, y = sample(D.Checkerboard(N, seed=1, cells=cells, n_features=n_features))
    field = np.searchsorted(np.linspace(-1, 1, cells + 1), x, side="right") - 1
    np.testing.assert_array_equal(y, field.sum(1) % 2)


@pytest.mark.parametrize("n_features", [1, 2, 5, 8])
def test_parity_is_the_exclusive_or_of_the_corner_s_signs(n_features, stats):
    corner, y = sample(D.Parity(N, seed=1, n_features=n_features, noise=0.0))
    assert set(np.unique(corner)) == {-1, 1}
    np.testing.assert_array_equal(y, np.logical_xor.reduce(corner > 0, axis=1))
    which = (corner > 0) @ 2 ** np.arange(n_features)
    assert stats.chisquare(np.bincount(which, minlength=2**n_features)).pvalue > UNLIKELY
    noisy, y_noisy = sample(D.Parity(N, seed=1, n_features=n_features, noise=0.4))
    z = (noisy - corner) / 0.4
    np.testing.assert_array_equal(y, y_noisy)
    check_distribution(stats, np.column_stack([z, z * corner]), stats.norm)  # made of the same words, yet apart


@pytest.mark.parametrize(("n_features", "n_classes"), [(1, 2), (2, 3), (5, 4), (30, 7)])
def test_gaussian_quantiles_change_class_where_chi_squared_says(n_features, n_classes, stats):
    data = D.GaussianQuantiles(N, seed=1, n_features=n_features, n_classes=n_classes)
    x, y = sample(data)
    bounds = stats.chi2.ppf(np.arange(1, n_classes) / n_classes, n_features)
    np.testing.assert_array_equal(y, np.searchsorted(bounds, (x**2).sum(1)))


def test_quantiles_of_chi_squared_are_scipy_s(stats):
    from tinynet.data.classification import chi_squared_quantile

    degrees = [*range(1, 41), 50, 99, 100, 333, 1000, 1001, 2500, 5000]
    parts = [(1, 2), (1, 3), (2, 3), (1, 10), (9, 10), (1, 1000), (999, 1000), (3, 7), (1, 65_535), (65_534, 65_535)]
    for part, of in parts:
        ours = [chi_squared_quantile(part, of, k) for k in degrees]
        # Ours is the correctly rounded one but for the last place; the rest is SciPy's error, and that of part / of in
        # double precision, which the far tail enlarges.
        np.testing.assert_allclose(ours, stats.chi2.ppf(part / of, degrees), rtol=1e-13)


@pytest.mark.parametrize(("n_features", "n_classes"), [(20, 2), (3, 4), (1, 3)])
def test_logistic_s_classes_have_the_probabilities_of_its_logits(n_features, n_classes, stats):
    data = D.Logistic(N, seed=1, n_features=n_features, n_classes=n_classes)
    x, y = sample(data)
    w = data.coefficients(HOST)
    logits = data.logits(x, HOST)
    np.testing.assert_allclose(logits, x @ w[:-1] + w[-1], rtol=1e-12, atol=1e-13)  # terms cancel
    p = np.exp(logits - logits.max(1, keepdims=True))
    check_calibrated(p / p.sum(1, keepdims=True), y)


def test_a_teacher_s_class_is_that_of_the_largest_output(stats):
    data = D.Teacher(N, seed=1, n_features=5, hidden=(7, 4), n_classes=4)
    x, y = sample(data)
    np.testing.assert_array_equal(y, teacher(data, x).argmax(1))
    noisy = D.Teacher(N, seed=1, n_features=5, n_classes=2, noise=0.5)
    x, y = sample(noisy)
    first = stats.norm.cdf((teacher(noisy, x) @ [1, -1]) / (0.5 * 2**0.5))
    check_calibrated(np.column_stack([first, 1 - first]), y)


@pytest.mark.parametrize(
    ("make", "options"),
    [
        (D.Spirals, {"n_classes": 4}),
        (D.Blobs, {"n_classes": 3, "n_features": 4}),
        (D.Moons, {}),
        (D.Circles, {"factor": 0.3}),
    ],
)
def test_noise_around_a_class_is_normal_of_the_stated_deviation(make, options, stats):
    clear, label = sample(make(N, seed=5, noise=0.0, **options))
    x, y = sample(make(N, seed=5, noise=0.3, **options))
    np.testing.assert_array_equal(y, label)
    z = (x - clear) / 0.3
    check_distribution(stats, z, stats.norm)
    for c in range(y.max() + 1):
        check_distribution(stats, z[y == c], stats.norm)


@pytest.mark.parametrize("make", [D.Spirals, D.Moons, D.Circles])
def test_the_place_on_a_curve_is_uniform_in_every_class(make, stats):
    """Class and place are made of one word."""
    x, y = sample(make(N, seed=6, noise=0.0))
    place = {
        D.Spirals: np.hypot(*x.T),
        D.Moons: np.where(y == 0, np.arctan2(x[:, 1], x[:, 0]), np.arctan2(0.5 - x[:, 1], 1 - x[:, 0])) / np.pi,
        D.Circles: np.arctan2(x[:, 1], x[:, 0]) / (2 * np.pi) % 1,
    }[make]
    for c in range(y.max() + 1):
        check_distribution(stats, place[y == c], stats.uniform)


def test_circles_have_the_radii_1_and_factor():
    x, y = sample(D.Circles(N, noise=0.0, factor=0.3))
    np.testing.assert_allclose(np.hypot(*x.T), np.where(y == 0, 1, 0.3), rtol=1e-14)
    x, y = sample(D.Circles(N, noise=0.0, factor=0.0))
    assert (x[y == 1] == 0).all()


def test_anisotropic_blobs_have_the_covariances_of_their_transforms(stats):
    data = D.AnisotropicBlobs(N, seed=1, n_classes=3, n_features=4, noise=0.5)
    x, y = sample(data)
    for c, (centre, a) in enumerate(zip(data.centres(HOST), data.transforms(HOST), strict=True)):
        points, wanted = x[y == c], 0.5**2 * a.T @ a
        size, variance = len(points), np.diag(wanted)
        assert (np.abs(points.mean(0) - centre) < 5 * (variance / size) ** 0.5).all()
        error = ((np.outer(variance, variance) + wanted**2) / size) ** 0.5  # Wishart's
        assert (np.abs(np.cov(points.T) - wanted) < 5 * error).all()
        check_distribution(stats, (points - centre) @ np.linalg.inv(0.5 * a), stats.norm)
    same = D.Blobs(N, seed=1, n_classes=3, n_features=4)
    np.testing.assert_array_equal(data.centres(HOST), same.centres(HOST))


# Wrappers -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [0.0, 0.2, 1.0])
@pytest.mark.parametrize("data", [D.Blobs(N, seed=1, n_classes=5), D.Moons(N), D.Checkerboard(N)], ids=repr)
def test_label_noise_changes_that_fraction_to_the_others_alike(data, rate, stats):
    x, y = sample(data)
    x_new, y_new = sample(D.LabelNoise(data, rate, seed=2))
    assert x_new.tobytes() == x.tobytes()
    changed = y_new != y
    assert abs(changed.mean() - rate) <= 5 * (rate * (1 - rate) / N) ** 0.5
    if changed.any():
        step = (y_new - y)[changed] % data.classes
        by_class = y[changed] * (data.classes - 1) + step - 1
        expected = np.repeat(np.bincount(y), data.classes - 1) * rate / (data.classes - 1)
        seen = np.bincount(by_class, minlength=len(expected))
        if rate < 1 or data.classes > 2:
            square = ((seen - expected) ** 2 / expected).sum()
            assert stats.chi2.sf(square, len(expected)) > UNLIKELY


@pytest.mark.parametrize("data", [D.Blobs(N, seed=1), D.Friedman1(N, n_features=6)], ids=repr)
def test_feature_noise_adds_that_to_every_feature(data, stats):
    x, y = sample(data)
    x_new, y_new = sample(D.FeatureNoise(data, 0.25, seed=2))
    assert y_new.tobytes() == y.tobytes()
    z = (x_new - x) / 0.25
    check_distribution(stats, z, stats.norm)
    assert np.abs(np.corrcoef(np.column_stack([x, z]).T)[: x.shape[1], x.shape[1] :]).max() < 5 / N**0.5
    np.testing.assert_array_equal(sample(D.FeatureNoise(data, 0.0))[0], x)


def test_nuisance_features_stand_behind_the_others_and_say_nothing(stats):
    data = D.Blobs(N, seed=1, n_classes=3)
    x, y = sample(data)
    x_new, y_new = sample(D.Nuisance(data, 4, scale=2.5, seed=2))
    assert x_new.shape == (N, 6)
    assert y_new.tobytes() == y.tobytes()
    assert np.ascontiguousarray(x_new[:, :2]).tobytes() == x.tobytes()
    z = x_new[:, 2:] / 2.5
    check_distribution(stats, z, stats.norm)
    for c in range(3):
        check_distribution(stats, z[y == c], stats.norm)
    assert np.abs(np.corrcoef(x_new.T)[:2, 2:]).max() < 5 / N**0.5


@pytest.mark.parametrize(
    ("data", "weights"),
    [
        (D.Blobs(N, seed=1, n_classes=4), (4, 3, 2, 1)),
        (D.Spirals(N, seed=1, n_classes=4), (0, 0.1, 0, 0.2)),
        (D.Moons(N, seed=1), (0.9, 0.1)),
        (D.Circles(N, seed=1), [1.0, 0.0]),
        (D.AnisotropicBlobs(N, seed=1), (0.0, 0.0, 5.0)),
        (D.Nuisance(D.FeatureNoise(D.Moons(N, seed=1), 0.1), 2), (0.2, 0.8)),
    ],
    ids=repr,
)
def test_imbalanced_has_those_proportions_and_leaves_classes_as_they_are(data, weights, stats):
    x, y = sample(data)
    x_new, y_new = sample(D.Imbalanced(data, weights, seed=2))
    share = np.array(weights) / sum(weights)
    count = np.bincount(y_new, minlength=data.classes)
    assert (np.abs(count / N - share) <= 5 * (share * (1 - share) / N) ** 0.5).all()
    assert (count[share == 0] == 0).all()
    for c in np.flatnonzero(share):
        check_alike(stats, x_new[y_new == c], x[y == c])
    same = y_new == y
    np.testing.assert_array_equal(x_new[same], x[same])  # made of the same words


def test_a_class_of_weight_0_never_comes_however_the_others_are_rounded():
    """0.1 ten times, added up term by term, is a little less than 1, and would leave a place for the last class."""
    data = D.Imbalanced(D.Blobs(9, n_classes=11), (*[0.1] * 10, 0.0))
    assert data.bounds[-1] == 1.0


WRAP = [
    lambda data, seed: D.LabelNoise(data, 0.3, seed=seed),
    lambda data, seed: D.FeatureNoise(data, 0.3, seed=seed),
    lambda data, seed: D.Nuisance(data, 2, seed=seed),
]
MAKE = [*WRAP, lambda data, seed: D.Imbalanced(data, (1, 2, 3), seed=seed)]
wraps = pytest.mark.parametrize("wrap", WRAP, ids=["label noise", "feature noise", "nuisance"])
makes = pytest.mark.parametrize("make", MAKE, ids=["label noise", "feature noise", "nuisance", "imbalanced"])


def bits(data, index=None):
    return [np.ascontiguousarray(a).tobytes() for a in sample(data, index)]


@makes
def test_a_wrapper_s_seed_is_that_of_the_change(make):
    data = D.Blobs(1000, seed=1)
    assert bits(make(data, 2)) == bits(make(D.Blobs(1000, seed=1), 2))
    assert bits(make(data, 2)) != bits(make(data, 3))


def changes(data, wrapped):
    """What a wrapper of any of the three kinds drew, as numbers (n, k)."""
    (x, y), (x_new, y_new) = sample(data), sample(wrapped)
    if x.shape != x_new.shape:
        return x_new[:, x.shape[1] :]
    return x_new - x if (x_new != x).any() else (y_new != y).astype(float)[:, None]


@wraps
def test_wrappers_of_a_kind_and_a_seed_draw_apart_when_nested(wrap):
    data = D.Blobs(N, seed=1)
    once = wrap(data, 2)
    first, second = changes(data, once), changes(once, wrap(once, 2))
    correlation = np.corrcoef(np.column_stack([first, second]).T)[: first.shape[1], first.shape[1] :]
    assert np.abs(correlation).max() < 5 / N**0.5


def test_wrappers_of_different_kinds_draw_apart():
    data = D.Blobs(N, seed=1)
    drawn = [changes(data, wrap(data, 1)) for wrap in WRAP]
    every = np.column_stack([*drawn, sample(data)[0] - data.centres(HOST)[sample(data)[1]]])
    assert np.abs(np.corrcoef(every.T) - np.eye(every.shape[1])).max() < 5 / N**0.5


def everything(data):
    return D.LabelNoise(D.FeatureNoise(D.Nuisance(D.Imbalanced(data, (1, 2, 3)), 2), 0.1), 0.2)


@pytest.mark.parametrize("make", [*MAKE, lambda data, seed: everything(data)])
def test_any_order_of_any_samples_gives_the_same(make):
    data = make(D.Spirals(300, seed=1), 2)
    x, y = sample(data)
    index = np.random.default_rng(0).permutation(300)[:100]
    for part, wanted in ((index, index), (range(17, 40), np.arange(17, 40)), (np.array([299, 0, 0]), [299, 0, 0])):
        x_part, y_part = sample(data, part)
        np.testing.assert_array_equal(x_part, x[wanted])
        np.testing.assert_array_equal(y_part, y[wanted])


@pytest.mark.parametrize("make", [*MAKE, lambda data, seed: everything(data)])
def test_what_is_wrapped_may_be_split_taken_and_sharded(make):
    data = make(D.Blobs(100, seed=1), 2)
    x, y = sample(data)
    parts = [*data.split(0.25), data.take(7), *(data.shard(r, 3) for r in range(3))]
    starts = [0, 25, 0, 0, 33, 66]
    assert [p.n for p in parts] == [25, 75, 7, 33, 33, 34]
    for part, start in zip(parts, starts, strict=True):
        for index in (range(part.n), np.arange(part.n)[::-1].copy()):
            x_part, y_part = sample(part, index)
            np.testing.assert_array_equal(x_part, x[start + np.asarray(index)])
            np.testing.assert_array_equal(y_part, y[start + np.asarray(index)])


@wraps
def test_what_is_split_may_be_wrapped(wrap):
    """The change counts from the part's first sample: the same for whatever is wrapped."""
    whole = D.Blobs(100, seed=1)
    x, y = sample(wrap(whole, 2))
    x_plain, y_plain = sample(whole)
    first, rest = whole.split(40)
    np.testing.assert_array_equal(sample(wrap(first, 2))[0], x[:40])
    np.testing.assert_array_equal(sample(wrap(first, 2))[1], y[:40])
    x_rest, y_rest = sample(wrap(rest, 2))
    np.testing.assert_allclose(x_rest[:, 2:], x[:60, 2:], rtol=0)
    np.testing.assert_allclose(x_rest[:, :2] - x_plain[40:], x[:60, :2] - x_plain[:60], atol=1e-14)  # rounded sums
    np.testing.assert_array_equal((y_rest - y_plain[40:]) % 3, (y[:60] - y_plain[:60]) % 3)


@wraps
def test_stored_arrays_may_be_wrapped(wrap, ops):
    blobs = D.Blobs(60, seed=1)
    x, y = sample(blobs)
    weight = np.linspace(1, 2, 60)
    wanted = sample(wrap(blobs, 2))
    wrapped = wrap(D.Arrays(x, y, weight), 2)
    assert (wrapped.ordered, wrapped.stored, wrapped.classes) == (True, True, 3)
    for index in (range(10, 50), np.array([5, 59, 0])):
        got = wrapped.batch(index, ops, "float64")
        numbers = np.asarray(index)
        for a, b in zip(got, (*wanted, weight), strict=True):
            np.testing.assert_array_equal(ops.to_numpy(a), b[numbers])


def test_regressions_may_be_wrapped():
    data = D.Nuisance(D.FeatureNoise(D.Linear(50, n_features=3, n_outputs=2), 0.1), 4)
    assert (data.shape, data.classes, data.outputs) == ((7,), None, 2)
    np.testing.assert_array_equal(sample(data)[1], sample(D.Linear(50, n_features=3, n_outputs=2))[1])
    images = D.FeatureNoise(D.Arrays(np.zeros((500, 4, 5)), np.zeros(500, int)), 2.0)
    x = sample(images)[0]
    assert x.shape == (500, 4, 5)
    assert abs(x.std() - 2.0) < 5 * 2.0 / (2 * x.size) ** 0.5


# The protocol -------------------------------------------------------------------------------------------------------------


def arrays():
    x, y = sample(D.Blobs(10, seed=3))
    return D.Arrays(x, y, np.linspace(1, 2, 10))


PROTOCOL = [
    D.Moons(10),
    D.Friedman2(10, seed=1),
    D.Blobs(30, seed=1).split(15)[1].take(10),
    D.LabelNoise(D.Moons(10), 0.5),
    everything(D.Blobs(10)),
    arrays(),
]
protocol = pytest.mark.parametrize("data", PROTOCOL, ids=lambda d: type(d).__name__)


@pytest.mark.parametrize(
    ("data", "backend"),
    [*((data, "numpy") for data in PROTOCOL), (PROTOCOL[0], "strict:device1"), (PROTOCOL[-1], "strict:device1")],
    ids=lambda v: v if isinstance(v, str) else type(v).__name__,
)
def test_samples_by_number_slice_and_list(data, backend):
    ops = tn.get_backend(backend)
    whole = [None if a is None else ops.to_numpy(a) for a in data.batch(range(10), ops, "float32")]
    lists = ([3, 1], (3, 1), np.array([3, 1]), np.array([3, 1], np.uint8), range(3, 0, -2))
    asked = [
        *((k, [k % 10]) for k in (5, -1, -10, 0, 9, np.int64(4), np.array(4))),
        *((s, np.arange(10)[s]) for s in (np.s_[3:9], np.s_[::-2], np.s_[:], np.s_[-3:], np.s_[2:100:3], np.s_[8:2:-1])),
        *((s, np.arange(10)[s]) for s in (np.s_[4:4], np.s_[9:3], np.s_[20:30], np.s_[0:0:-1])),
        *((s, [3, 1]) for s in lists),
        ([], []), (range(2, 6), [2, 3, 4, 5]), (range(4, 4), []), ([7] * 12, [7] * 12),
    ]  # fmt: skip
    with tn.use_backend(ops):
        for index, wanted in asked:
            for got, every in zip(data[index], whole, strict=True):
                if every is None:
                    assert got is None
                else:
                    assert got.shape == (len(wanted), *every.shape[1:])
                    np.testing.assert_array_equal(ops.to_numpy(got), every[np.asarray(wanted, int)])


@protocol
def test_a_batch_of_any_whole_numbers(data):
    """A range of another step was taken for one of step 1, and a mask for the numbers 0 and 1, both in silence."""
    ops = tn.get_backend("numpy")
    wanted = data.batch(np.array([7, 5, 3]), ops, "float64")
    for index in (range(7, 2, -2), [7, 5, 3], np.array([7, 5, 3], np.uint8)):
        for a, b in zip(data.batch(index, ops, "float64"), wanted, strict=True):
            np.testing.assert_array_equal(a, b)
    with pytest.raises(IndexError, match="samples are chosen by whole numbers in a list or a range, not bool"):
        data.batch(np.arange(10) < 3, ops, "float64")


@protocol
@pytest.mark.parametrize(
    ("index", "said"),
    [
        (10, "sample 10 is out of range: there are 10, numbered from 0"),
        (2**70, f"sample {2**70} is out of range: there are 10, numbered from 0"),
        ([3, -1], "sample -1 is out of range: there are 10, numbered from 0"),
        ([3, 11, 12], "sample 12 is out of range: there are 10, numbered from 0"),
        (range(5, 12), "sample 11 is out of range: there are 10, numbered from 0"),
        (range(-2, 3), "sample -2 is out of range: there are 10, numbered from 0"),
        (2.0, "samples are chosen by whole numbers in a list or a range, not float64 ()"),
        ([1.0, 2.0], "samples are chosen by whole numbers in a list or a range, not float64 (2,)"),
        ([True, False], "samples are chosen by whole numbers in a list or a range, not bool (2,)"),
        ([[1, 2]], "samples are chosen by whole numbers in a list or a range, not int64 (1, 2)"),
    ],
)
def test_samples_that_are_not_there(data, index, said):
    with tn.use_backend("numpy"), pytest.raises(IndexError) as e:
        data[index]
    assert str(e.value) == said


@pytest.mark.parametrize(
    ("n", "size"), [(1, 1), (7, 1), (7, 7), (10, 3), (100, 7), (101, 64), (2**62, 3), (2**62, 1000)]
)
def test_shards_are_all_of_it_once(n, size):
    parts = [D.Moons(n).shard(rank, size) for rank in range(size)]
    assert parts[0].start == 0
    assert parts[-1].stop == n
    assert all(a.stop == b.start for a, b in pairwise(parts))
    assert sum(len(p) for p in parts) == n
    assert max(len(p) for p in parts) - min(len(p) for p in parts) <= 1


def test_shards_hold_the_samples_of_the_whole():
    data = everything(D.Spirals(50))
    x, y = sample(data)
    parts = [sample(data.shard(rank, 7)) for rank in range(7)]
    np.testing.assert_array_equal(np.concatenate([p[0] for p in parts]), x)
    np.testing.assert_array_equal(np.concatenate([p[1] for p in parts]), y)


LARGE = D.Blobs(2**62, n_features=100, seed=1)


@pytest.mark.parametrize("backend", ["numpy", "strict:device1"])
@pytest.mark.parametrize(
    "data",
    [LARGE, everything(LARGE), D.Blobs(2**63 - 2**62, n_features=100).split(0.5)[1]],
    ids=["set", "wrapped", "part"],
)
def test_the_last_samples_of_a_large_set_of_many_features(data, backend, stats):
    ops, n = tn.get_backend(backend), data.n
    tail, again = (data.batch(i, ops, "float64") for i in (range(n - 40, n), np.arange(n - 40, n)))
    here = data.batch(range(n - 40, n), HOST, "float64")
    for a, b, c in zip(tail[:2], again[:2], here[:2], strict=True):
        np.testing.assert_array_equal(ops.to_numpy(a), ops.to_numpy(b))
        np.testing.assert_array_equal(ops.to_numpy(a), c)
    if data is LARGE:
        z = here.x - LARGE.centres(HOST)[here.y]
        assert stats.kstest(z.ravel(), stats.norm.cdf).pvalue > UNLIKELY
    with pytest.raises(IndexError, match="is out of range"):
        data.batch(range(n - 1, n + 1), ops, "float64")


# Mistakes -----------------------------------------------------------------------------------------------------------------

FEW, REST = "give a whole number in [1, 65536)", "is out of range: give"
DRAWN = "needs data whose class is drawn before the features, such as Blobs or Spirals"
EVEN = "Loader(balance=True) evens out any other"
DEVIATION = "is out of range: give a standard deviation in [0, 1e30]"


@pytest.mark.parametrize(
    ("make", "said"),
    [
        *(
            (lambda kind=kind, k=k: kind(9, n_classes=k), f"{kind.__name__} n_classes {k!r} {REST} a whole number in [2, 65536)")
            for kind in (D.Spirals, D.Blobs, D.AnisotropicBlobs, D.GaussianQuantiles, D.Logistic, D.Teacher)
            for k in (1, 65536, 2.0)
        ),
        *(
            (lambda kind=kind, s=s: kind(9, noise=s), f"{kind.__name__} noise {s!r} {DEVIATION}")
            for kind in (
                D.Spirals, D.Blobs, D.AnisotropicBlobs, D.Moons, D.Circles, D.Parity, D.Linear, D.Friedman1, D.Friedman2,
                D.Friedman3, D.SparseUncorrelated, D.Sinusoid, D.Polynomial, D.Teacher,
            )
            for s in (-0.1, float("inf"), float("nan"))
        ),
        *(
            (lambda kind=kind, k=k: kind(9, n_features=k), f"{kind.__name__} n_features {k!r} is out of range: {FEW}")
            for kind in (
                D.Blobs, D.AnisotropicBlobs, D.Checkerboard, D.Parity, D.GaussianQuantiles, D.Logistic, D.Linear,
                D.Sinusoid, D.Polynomial, D.Teacher,
            )
            for k in (0, 65536, 2.0, True)
        ),
        (lambda: D.Friedman1(9, n_features=4), f"Friedman1 n_features 4 {REST} a whole number in [5, 65536)"),
        (
            lambda: D.SparseUncorrelated(9, n_features=3),
            f"SparseUncorrelated n_features 3 {REST} a whole number in [4, 65536)",
        ),
        (lambda: D.Spirals(9, turns=float("inf")), f"Spirals turns inf {REST} a number in [-2**20, 2**20]"),
        (lambda: D.Blobs(9, box=float("nan")), f"Blobs box nan {REST} a number in [-1e30, 1e30]"),
        (lambda: D.Circles(9, factor=1.0), f"Circles factor 1.0 {REST} a radius in [0, 1)"),
        (lambda: D.Circles(9, factor=-0.1), f"Circles factor -0.1 {REST} a radius in [0, 1)"),
        (lambda: D.Checkerboard(9, cells=0), f"Checkerboard cells 0 is out of range: {FEW}"),
        (lambda: D.Linear(9, n_outputs=0), f"Linear n_outputs 0 is out of range: {FEW}"),
        (lambda: D.Linear(9, scale=float("inf")), f"Linear scale inf {REST} a number in [-1e30, 1e30]"),
        (lambda: D.Linear(9, n_features=3, n_informative=4), f"Linear n_informative 4 {REST} a whole number in [0, 4)"),
        (lambda: D.Sinusoid(9, waves=0), f"Sinusoid waves 0 is out of range: {FEW}"),
        (lambda: D.Sinusoid(9, frequency=float("nan")), f"Sinusoid frequency nan {REST} a number in [-2**20, 2**20]"),
        (lambda: D.Polynomial(9, degree=-1), f"Polynomial degree -1 {REST} a whole number in [0, 65)"),
        (lambda: D.Polynomial(9, degree=65), f"Polynomial degree 65 {REST} a whole number in [0, 65)"),
        (
            lambda: D.Polynomial(9, n_features=50, degree=3),
            "Polynomial of degree 3 in 50 features has more than 10 000 terms: choose smaller ones",
        ),
        (lambda: D.Teacher(9, hidden=(3, 0)), f"Teacher hidden 0 is out of range: {FEW}"),
        (lambda: D.Teacher(9, n_outputs=0), f"Teacher n_outputs 0 is out of range: {FEW}"),
        (lambda: D.LabelNoise((1, 2)), "LabelNoise takes a data set, not tuple"),
        (lambda: D.LabelNoise(D.Linear(9)), "LabelNoise needs data with classes, not Linear"),
        *(
            (
                lambda rate=rate: D.LabelNoise(D.Moons(9), rate),
                f"LabelNoise rate {rate!r} {REST} the fraction changed, in [0, 1]",
            )
            for rate in (-0.1, 1.1, float("nan"))
        ),
        (lambda: D.LabelNoise(D.Moons(9), seed=-1), f"seed -1 {REST} one in [0, 2**64)"),
        (lambda: D.FeatureNoise(D.Moons(9), -1), f"FeatureNoise noise -1 {DEVIATION}"),
        (lambda: D.Nuisance(D.Moons(9), 0), f"Nuisance n_features 0 is out of range: {FEW}"),
        (lambda: D.Nuisance(D.Moons(9), 1, -1.0), f"Nuisance scale -1.0 {DEVIATION}"),
        (
            lambda: D.Nuisance(D.Arrays(np.zeros((4, 2, 2)), np.zeros(4, int))),
            "Nuisance takes samples that are rows of features, not of shape (2, 2)",
        ),
        *(
            (lambda data=data: D.Imbalanced(data, (1, 1)), f"Imbalanced {DRAWN}, not {name}: {EVEN}")
            for data, name in (
                (D.Checkerboard(9), "Checkerboard"),
                (D.Linear(9), "Linear"),
                (D.LabelNoise(D.Moons(9)), "LabelNoise"),
                (D.Imbalanced(D.Moons(9), (1, 2)), "Imbalanced"),
                (D.FeatureNoise(D.Nuisance(D.Parity(9))), "Parity"),
                (D.Moons(9).take(3), "Part"),
                (arrays(), "Arrays"),
            )
        ),
        (lambda: D.Imbalanced(D.Moons(9)), "Imbalanced weights () do not fit 2 classes: give one for each"),
        (
            lambda: D.Imbalanced(D.Moons(9), (1, 2, 3)),
            "Imbalanced weights (1.0, 2.0, 3.0) do not fit 2 classes: give one for each",
        ),
        *(
            (
                lambda w=w: D.Imbalanced(D.Moons(9), w),
                f"Imbalanced weights {w} are out of range: give numbers of at least 0, not all 0",
            )
            for w in ((1.0, -1.0), (0.0, 0.0), (1.0, float("inf")), (1.0, float("nan")))
        ),
        (lambda: D.Moons(9).shard(3, 3), "shard 3 of 3 does not exist: ranks are 0 to size - 1"),
        (lambda: D.Moons(9).shard(-1, 3), "shard -1 of 3 does not exist: ranks are 0 to size - 1"),
        (lambda: D.Moons(9).shard(0, 0), "shard 0 of 0 does not exist: ranks are 0 to size - 1"),
        (lambda: D.Moons(9).shard(0, 10), "shard 0 of 10 is empty: there are 9 samples"),
        (lambda: D.Moons(9).take(0), "take(0) is out of range: there are 9 samples"),
        (lambda: D.Moons(9).split(9), "split at 9 leaves nothing on one side of 9 samples: choose a point in between"),
        (lambda: D.Moons(9).split(0.01), "split at 0.01 leaves nothing on one side of 9 samples: choose a point in between"),
    ],
)  # fmt: skip
def test_mistakes(make, said):
    with pytest.raises((ValueError, TypeError)) as e:
        make()
    assert str(e.value) == said


# What once went wrong ----------------------------------------------------------------------------------------------


@wraps
def test_wrappers_of_a_kind_and_a_seed_draw_apart_when_nested_around_a_part(wrap):
    data = D.Blobs(N + 1, seed=1)
    once = wrap(data, 2).take(N)
    first, second = changes(data.take(N), once), changes(once, wrap(once, 2))
    correlation = np.corrcoef(np.column_stack([first, second]).T)[: first.shape[1], first.shape[1] :]
    assert np.abs(correlation).max() < 5 / N**0.5


@wraps
def test_the_fingerprint_of_what_is_wrapped_shows_through(wrap):
    y = np.arange(4) % 2
    a, b = (wrap(D.Arrays(np.full((4, 2), v), y), 2) for v in (0.0, 1.0))
    assert a.fingerprint() != b.fingerprint()
    assert a.fingerprint() == wrap(D.Arrays(np.zeros((4, 2)), y), 2).fingerprint()
    assert a.fingerprint() != wrap(D.Arrays(np.zeros((4, 2)), y), 3).fingerprint()


def test_a_set_that_was_used_can_be_copied_and_pickled():
    data = D.Blobs(9)
    x = sample(data)[0]
    for other in (pickle.loads(pickle.dumps(data)), copy.deepcopy(data)):
        np.testing.assert_array_equal(sample(other)[0], x)


def test_whole_numbers_of_numpy_s_are_whole_numbers():
    data = D.Moons(2**62)
    assert data.shard(np.int64(5), np.int64(8)).start == data.shard(5, 8).start
    assert len(D.Moons(9).split(np.float32(0.5))[0]) == 4


@pytest.mark.parametrize("f", [lambda d: d.take(2.5), lambda d: d.shard(0.5, 2), lambda d: d.shard(0, 1.5)])
def test_half_a_sample(f):
    with pytest.raises((TypeError, ValueError)):
        f(D.Moons(9))


@pytest.mark.parametrize(
    ("f", "said"),
    [
        (
            lambda: D.Logistic(9, scale=-1.0),
            "Logistic scale -1.0 is out of range: give a standard deviation in [0, 1e30]",
        ),
        (lambda: D.Moons(10)[-11], "sample -11 is out of range: there are 10, numbered from 0"),
        (
            lambda: D.Imbalanced(D.Moons(9), (1e308, 1e308)),
            "Imbalanced weights (1e+308, 1e+308) are out of range: give numbers of at least 0, not all 0",
        ),
    ],
)
def test_messages(f, said):
    with pytest.raises((ValueError, IndexError)) as e:
        f()
    assert str(e.value) == said


ODD = [
    True, None, 2.5, -1, 2**40, 2**70, 10**400, float("nan"), float("-inf"), 1e300, 1e-300, "a", b"x", (), (2.5,), [1, 2], {},
    1j, object(), range(3), np.int64(3), np.uint64(2**63), np.float32(0.5), np.bool_(True), np.array(3), np.zeros((2, 2)),
    np.zeros(3000), np.array(["a"]),
]  # fmt: skip


@pytest.mark.parametrize("kind", D.DATASETS.values())
def test_any_value_of_any_argument_is_taken_or_refused_in_a_line(kind):
    """What is taken makes finite samples, and a text that tells the set from others."""
    for name in [f.name for f in dataclasses.fields(kind) if f.init]:
        for value in ODD:
            try:
                data = kind(value) if name == "n" else kind(9, **{name: value})
                x, y, _ = data[: min(data.n, 3)]
            except (ValueError, TypeError) as e:
                text = str(e)
                assert text.startswith((f"{kind.__name__} ", "seed ")), text
            else:
                text = repr(data)
                assert np.isfinite(x).all()
                assert np.isfinite(y).all()
            assert text.isprintable(), text
            assert len(text) < 250, text
