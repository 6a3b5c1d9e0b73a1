"""The scikit-learn estimators, held to scikit-learn: its own checks, its own MLP, its meta-estimators and callbacks."""

import copy
import pickle

import numpy as np
import pytest

import tinynet as tn

pytest.importorskip("sklearn", reason="the estimators are scikit-learn's: extra sklearn")

import sklearn.neural_network as theirs
from sklearn import config_context
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_wine, make_multilabel_classification
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks
from tinynet_backends import backend_of
from tinynet_backends.switch import usable_backends

from tinynet.sklearn import MLPClassifier, MLPRegressor, trainer
from tinynet.sklearn.loop import Passes

pytestmark = pytest.mark.filterwarnings("ignore:Maximum iterations")

X, Y = load_wine(return_X_y=True)
TWO = Y > 0
NAMES = np.array(["barbera", "grignolino", "nebbiolo"])[Y]
X_MANY, Y_MANY = make_multilabel_classification(n_samples=120, n_features=6, n_classes=4, random_state=0)
Z = np.stack([X[:, 0] * 2, X[:, 1] - X[:, 2]], axis=1)


@pytest.fixture(autouse=True)
def _strict_as_scikit_learn_needs_it():
    """Its own functions index by masks; the backend `strict`, where other tests load it, switches that off."""
    strict = pytest.importorskip("array_api_strict", reason="arrays that are not NumPy's are tested with it")
    with strict.ArrayAPIStrictFlags(boolean_indexing=True, data_dependent_shapes=True):
        yield


# What scikit-learn asks of every estimator --------------------------------------------------------------------------


@parametrize_with_checks([MLPClassifier(), MLPRegressor()], expected_failed_checks=lambda estimator: {})
def test_scikit_learn_s_checks(estimator, check):
    check(estimator)


@pytest.mark.slow
@parametrize_with_checks(
    [
        MLPClassifier(solver="sgd", learning_rate_init=0.1, activation="tanh", norm="layer", backend="numpy"),
        MLPRegressor(solver="nadam", learning_rate_init=0.02, activation="gelu", standardize=False),
    ]
)
def test_scikit_learn_s_checks_of_other_parameters(estimator, check):
    check(estimator)


def test_the_array_api_checks_are_not_all_skipped():
    from sklearn.utils.estimator_checks import estimator_checks_generator

    names = [str(check) for _, check in estimator_checks_generator(MLPClassifier()) if "array_api" in str(check)]
    assert sum("array_namespace='array_api_strict'" in name for name in names) >= 3
    assert MLPClassifier().__sklearn_tags__().array_api_support


# Accuracy -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("load", "ours", "other"),
    [
        (load_digits, MLPClassifier, theirs.MLPClassifier),
        (load_breast_cancer, MLPClassifier, theirs.MLPClassifier),
        (load_wine, MLPClassifier, theirs.MLPClassifier),
        (load_diabetes, MLPRegressor, theirs.MLPRegressor),
    ],
)
@pytest.mark.filterwarnings("ignore:Stochastic Optimizer")
@pytest.mark.slow
def test_at_least_as_accurate_as_scikit_learn_s(load, ours, other):
    """Over several divisions of the data. Digits leave both at 97 %, with a standard error of the mean of 0.2 % each."""
    x, y = load(return_X_y=True)
    scores = []
    for seed in range(8 if load is load_digits else 4):
        a, b, c, d = train_test_split(x, y, random_state=seed, stratify=None if ours is MLPRegressor else y)
        scores.append([kind(random_state=seed).fit(a, c).score(b, d) for kind in (ours, other)])
    mine, its = np.mean(scores, axis=0)
    assert mine >= its - 0.004
    assert load is load_digits or mine > its + 0.02


# What y may be ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("y", [Y, TWO, TWO.astype(int), NAMES, NAMES.astype(object), Y * 1.0, Y - 1, NAMES.tolist()])
def test_labels_of_any_kind(y):
    model = MLPClassifier(random_state=0, learning_rate_init=0.01, max_iter=30).fit(X, y)
    assert model.score(X, y) > 0.97
    labels, p = model.predict(X), model.predict_proba(X)
    assert labels.dtype == np.asarray(y).dtype or labels.dtype == model.classes_.dtype
    assert p.shape == (len(X), len(np.unique(np.asarray(y))))
    np.testing.assert_allclose(p.sum(axis=1), 1, rtol=1e-12)
    np.testing.assert_array_equal(model.classes_[p.argmax(axis=1)], labels)
    np.testing.assert_allclose(np.exp(model.predict_log_proba(X)), p)


def test_several_labels_a_sample():
    model = MLPClassifier(random_state=0, learning_rate_init=0.02).fit(X_MANY, Y_MANY)
    assert model.predict(X_MANY).shape == Y_MANY.shape
    assert model.score(X_MANY, Y_MANY) > 0.8
    np.testing.assert_array_equal(model.predict_proba(X_MANY) > 0.5, model.predict(X_MANY) == 1)
    assert model.out_activation_ == "logistic"
    with pytest.raises(ValueError, match="CrossEntropy takes one label a sample"):
        MLPClassifier(loss=tn.CrossEntropy()).fit(X_MANY, Y_MANY)
    with pytest.raises(
        ValueError, match=r"^y \(\d+, 4\) has the values \[-1, 1\]: give 1 for the labels of a sample, 0 for o"
    ):
        MLPClassifier().fit(X_MANY, 2 * Y_MANY - 1)  # -1 counted as a label


def test_another_number_of_labels_a_sample():
    model = MLPClassifier(max_iter=2)
    message = r"^y has 2 labels a sample and 4 before: give as many$"
    with pytest.raises(ValueError, match=message):
        model.fit(X_MANY, Y_MANY, X_val=X_MANY, y_val=Y_MANY[:, :2])
    with pytest.raises(ValueError, match=message):
        model.partial_fit(X_MANY, Y_MANY, classes=range(4)).partial_fit(X_MANY, Y_MANY[:, :2])


def test_several_outputs():
    model = MLPRegressor(random_state=0, learning_rate_init=0.01).fit(X, Z)
    assert model.predict(X).shape == Z.shape
    assert model.score(X, Z) > 0.9
    assert model.n_outputs_ == 2
    assert [w.shape for w in model.coefs_] == [(13, 100), (100, 2)]
    assert [b.shape for b in model.intercepts_] == [(100,), (2,)]


# Any loss, optimizer, schedule, layer --------------------------------------------------------------------------------


@pytest.mark.parametrize("y", [Y, TWO], ids=["three classes", "two"])
@pytest.mark.parametrize(
    "loss", [tn.CrossEntropy(smoothing=0.05), tn.BinaryCrossEntropy(), tn.Hinge(), tn.MeanSquaredError()], ids=repr
)
def test_a_classifier_with_any_loss(loss, y):
    model = MLPClassifier(random_state=0, learning_rate_init=0.01, max_iter=40, loss=loss).fit(X, y)
    assert model.score(X, y) > 0.97
    if hasattr(model, "predict_proba"):
        p = model.predict_proba(X)
        np.testing.assert_allclose(p.sum(axis=1), 1, rtol=1e-12)
        np.testing.assert_array_equal(model.classes_[p.argmax(axis=1)], model.predict(X))
    else:
        assert isinstance(loss, (tn.Hinge, tn.MeanSquaredError))
        margins = model.decision_function(X)
        best = margins.argmax(axis=1) if y is Y else (margins > 0).astype(int)
        np.testing.assert_array_equal(model.classes_[best], model.predict(X))
    assert hasattr(model, "decision_function") is not hasattr(model, "predict_proba")


def test_a_regressor_with_any_loss():
    y = Z[:, 0]
    options = {"random_state": 0, "learning_rate_init": 0.02, "max_iter": 100}
    for loss in ("poisson", tn.Huber(), tn.MeanAbsoluteError(), tn.Poisson()):
        assert MLPRegressor(loss=loss, **options).fit(X, y).score(X, y) > 0.9
    high = MLPRegressor(loss=tn.Quantile(0.9), **options).fit(X[:, 1:], y).predict(X[:, 1:])
    assert 0.8 < np.mean(y <= high) < 0.97
    share = MLPRegressor(loss=tn.BinaryCrossEntropy(), **options).fit(X, TWO * 0.9).predict(X)
    assert 0 < share.min() < 0.1 < 0.8 < share.max() < 1
    model = MLPRegressor(loss=tn.CrossEntropy(), **options).fit(X, np.stack([TWO * 0.9, 1 - TWO * 0.9], axis=1))
    np.testing.assert_allclose(model.predict(X).sum(axis=1), 1, rtol=1e-12)  # they were the logits
    assert model.out_activation_ == "softmax"
    assert abs(model.predict(X)[:, 0] - TWO * 0.9).mean() < 0.05
    with pytest.raises(ValueError, match="Poisson: counts must not be negative"):
        MLPRegressor(loss="poisson").fit(X, -y)


@pytest.mark.parametrize(
    "solver", ["sgd", "adagrad", "rmsprop", "adam", "adamw", "nadam", "lion", tn.Lion(1e-3)], ids=str
)
def test_solvers(solver):
    rate = {"sgd": 0.05, "lion": 1e-3}.get(str(solver), 0.01)
    assert (
        MLPClassifier(random_state=0, solver=solver, learning_rate_init=rate, max_iter=60).fit(X, Y).score(X, Y) > 0.97
    )


def test_sgd_takes_scikit_learn_s_steps():
    """From the same weights, over the same batches: its own MLP, penalty and all, to rounding.

    The losses of several targets are summed there, and here their mean.
    """
    options = {"solver": "sgd", "alpha": 0.3, "shuffle": False, "max_iter": 7, "batch_size": 89, "activation": "tanh"}
    options |= {"learning_rate_init": 0.05, "momentum": 0.8, "random_state": 0, "hidden_layer_sizes": (7,)}
    x = StandardScaler().fit_transform(X)
    for ours, other, y, targets in [
        (MLPClassifier, theirs.MLPClassifier, Y, 1),
        (MLPClassifier, theirs.MLPClassifier, TWO, 1),
        (MLPClassifier, theirs.MLPClassifier, np.eye(3, dtype=int)[Y] | np.eye(3, dtype=int)[1 - TWO], 3),
        (MLPRegressor, theirs.MLPRegressor, Z[:, 0], 1),
        (MLPRegressor, theirs.MLPRegressor, Z, Z.shape[1]),
    ]:
        mine = ours(**options, standardize=False, warm_start=True).set_params(alpha=0.3 / targets)
        its = other(**options, warm_start=True)
        mine.set_params(max_iter=1, learning_rate_init=1e-300).fit(x, y)
        its.set_params(max_iter=1, learning_rate_init=1e-300)
        with pytest.warns(ConvergenceWarning):
            its.fit(x, y)
        parts = [a for pair in zip(mine.coefs_, mine.intercepts_, strict=True) for a in pair]
        its.coefs_, its.intercepts_ = parts[::2], parts[1::2]
        its.coefs_, its.intercepts_ = copy.deepcopy(its.coefs_), copy.deepcopy(its.intercepts_)
        for model, rate in ((mine, 0.05 * targets), (its, 0.05)):
            model.set_params(max_iter=7, learning_rate_init=rate)
        mine.optimizer_state_ = {}
        mine.fit(x, y)
        with pytest.warns(ConvergenceWarning):
            its.fit(x, y)
        for a, b in zip(mine.coefs_ + mine.intercepts_, its.coefs_ + its.intercepts_, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


def test_training_stops_when_the_loss_with_its_penalty_no_longer_falls():
    """The loss alone rises while a strong penalty takes weights to 0, and training stopped long before they were there."""
    x, options = StandardScaler().fit_transform(X), {"alpha": 100.0, "learning_rate_init": 0.01, "random_state": 0}
    mine = MLPClassifier(**options, standardize=False).fit(x, Y)
    its = theirs.MLPClassifier(**options).fit(x, Y)
    assert mine.loss_ == pytest.approx(its.loss_, rel=0.01)
    still = MLPClassifier(alpha=3.0, max_iter=1, learning_rate_init=1e-300, random_state=0).fit(X, Y)
    squares = sum((w * w).sum() for w in still.coefs_)
    assert still.loss_ - still.history_[0]["loss"] == pytest.approx(3.0 / 2 / len(X) * squares)
    assert [still.loss_] == still.loss_curve_ == [still.best_loss_]


@pytest.mark.parametrize("rate", ["constant", "invscaling", "adaptive", tn.schedules.Cosine(0.05, 60)], ids=str)
def test_rates(rate):
    options = {"solver": "sgd", "learning_rate_init": 0.05, "max_iter": 60, "random_state": 0, "power_t": 0.1}
    assert MLPClassifier(**options, learning_rate=rate).fit(X, Y).score(X, Y) > 0.97


def test_an_adaptive_rate_is_lowered_before_training_stops():
    options = {"solver": "sgd", "tol": 1e9, "n_iter_no_change": 2, "max_iter": 100, "learning_rate_init": 1e-3}
    # The first epoch is progress. 1e-3 is divided by 5 five times until it is below 1e-6: six stretches of three epochs.
    for rate, epochs in (("constant", 4), ("adaptive", 19)):
        for kind in (MLPClassifier, theirs.MLPClassifier):
            assert kind(**options, learning_rate=rate).fit(X, Y).n_iter_ == epochs


def test_dropout_norms_activations_and_precision():
    options = {"random_state": 0, "learning_rate_init": 0.01, "max_iter": 60, "hidden_layer_sizes": [20, 10]}
    for more in (
        {"dropout": 0.2, "norm": "layer", "activation": "gelu"},
        {"norm": "batch", "activation": "silu", "batch_size": 50},
        {"norm": tn.LayerNorm(1e-3), "activation": tn.LeakyReLU(0.2), "precision": "float32"},
    ):
        model = MLPClassifier(**options, **more).fit(X, Y)
        assert model.score(X, Y) > 0.95
        assert model.n_layers_ == 4
        assert model.predict_proba(X).dtype == ("float32" if "precision" in more else "float64")
    assert MLPClassifier(max_iter=2).fit(X.astype("f4"), Y).predict_proba(X.astype("f4")).dtype == "float32"
    assert MLPRegressor(max_iter=2, hidden_layer_sizes=()).fit(X, Z).predict(X).shape == Z.shape


@pytest.mark.parametrize("backend", ["numpy", "numba", "strict", "torch"])
def test_a_backend_of_one_s_own_choice_takes_numpy_s_arrays(backend):
    try:
        tn.get_backend(backend)
    except tn.BackendUnavailable as e:
        pytest.skip(str(e))
    x = X[:60]
    model = MLPRegressor(random_state=0, max_iter=3, backend=backend).fit(x, Z[:60])
    host = MLPRegressor(random_state=0, max_iter=3, backend="numpy").fit(x, Z[:60])
    assert type(model.predict(x)) is np.ndarray
    assert type(model.theta_) is np.ndarray
    assert model.model_.ops is tn.get_backend(backend)
    np.testing.assert_allclose(model.predict(x), host.predict(x), rtol=1e-8)
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.predict(x), model.predict(x))


def test_the_backend_in_force_is_used_for_numpy_s_arrays():
    with tn.use_backend("numpy"):
        assert MLPRegressor(max_iter=1).fit(X, Z).model_.ops.name == "numpy"
    assert MLPRegressor(max_iter=1).fit(X, Z).model_.ops is tn.get_backend("host")


# Weights -------------------------------------------------------------------------------------------------------------


def test_class_weight_and_sample_weight():
    rows = np.r_[0:8, 60:178]
    x, y = X[rows][:, :2], (Y[rows] > 0).astype(int)
    options = {"random_state": 0, "learning_rate_init": 0.02, "max_iter": 60}
    plain, balanced = (MLPClassifier(**options, class_weight=w).fit(x, y) for w in (None, "balanced"))
    assert np.mean(balanced.predict(x) == 0) > np.mean(plain.predict(x) == 0)
    counts = np.bincount(y)
    by_hand = MLPClassifier(**options, class_weight={k: len(y) / 2 / n for k, n in enumerate(counts)}).fit(x, y)
    by_sample = MLPClassifier(**options).fit(x, y, sample_weight=(len(y) / 2 / counts)[y])
    np.testing.assert_array_equal(by_hand.theta_, balanced.theta_)
    np.testing.assert_array_equal(by_sample.theta_, balanced.theta_)
    with pytest.raises(ValueError, match="Negative values in data passed to `sample_weight`"):
        MLPClassifier().fit(x, y, sample_weight=y - 1)
    with pytest.raises(ValueError, match="class_weight 'balanced' is not supported for partial_fit"):
        MLPClassifier(class_weight="balanced").partial_fit(x, y, classes=[0, 1])


@pytest.mark.parametrize(("x", "y"), [(X, Y), (X_MANY, Y_MANY)], ids=["classes", "labels"])
def test_a_weight_of_k_is_k_samples_for_balanced_classes_too(x, y):
    x, y = x[::4], y[::4]
    weight = np.arange(len(x)) % 4
    options = {"random_state": 0, "max_iter": 5, "class_weight": "balanced"}
    weighted = MLPClassifier(**options).fit(x, y, sample_weight=weight)
    repeated = MLPClassifier(**options).fit(*(np.repeat(a, weight, axis=0) for a in (x, y)))
    np.testing.assert_allclose(weighted.theta_, repeated.theta_, rtol=1e-9)


@pytest.mark.parametrize(
    ("y", "classes", "weights"),
    [
        (Y, [0, 1, 2], {2: 5.0}),
        (NAMES, [*set(NAMES)], {"nebbiolo": 5.0}),
        (np.c_[Y == 0, Y == 2] + 0, [0, 1], [{}, {1: 5.0}]),
    ],
    ids=["numbers", "names", "labels"],
)
def test_class_weight_may_name_a_class_that_a_batch_lacks(y, classes, weights):
    """It was an error: the other classes, it said, are not in class_weight."""
    rows = Y < 2
    model = MLPClassifier(max_iter=1, class_weight=weights, warm_start=True).partial_fit(X, y, classes=classes)
    assert model.partial_fit(X[rows], y[rows]).fit(X[rows], y[rows]).t_ == len(X) + 2 * rows.sum()


def test_samples_of_weight_0_are_not_there_in_any_batch():
    weight = np.ones(len(X))
    weight[::2] = 0
    options = {"random_state": 0, "max_iter": 5, "batch_size": 1}
    a = MLPRegressor(**options).fit(X, Z, sample_weight=weight)
    b = MLPRegressor(**options).fit(X[1::2], Z[1::2])
    np.testing.assert_allclose(a.theta_, b.theta_, rtol=1e-9)


# More than one fit ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ops_of", "more"),
    [("numpy", {}), ("numba", {}), ("numpy", {"learning_rate": "adaptive", "tol": 1e9, "n_iter_no_change": 1})],
)
def test_partial_fit_is_fit_step_by_step(ops_of, more):
    """An adaptive rate began anew in each: it was never lowered."""
    options = {"random_state": 3, "batch_size": 50, "dropout": 0.1, "tol": 0, "n_iter_no_change": 99, "solver": "nadam"}
    options |= more
    once = MLPClassifier(**options, max_iter=4, backend=ops_of).fit(X, NAMES)
    steps = MLPClassifier(**options, backend=ops_of)
    for _ in range(4):
        steps.partial_fit(X, NAMES, classes=sorted(set(NAMES)))
    np.testing.assert_array_equal(steps.theta_, once.theta_)
    assert steps.loss_curve_ == once.loss_curve_
    assert (steps.t_, steps.n_iter_, once.n_iter_) == (4 * len(X), 1, 4)


def test_the_samples_seen_may_be_of_fits_of_any_size():
    """Those before counted as if there had been as many in a step as now."""
    options = {"random_state": 0, "solver": "sgd", "learning_rate_init": 0.05, "backend": "numpy"}
    seen = MLPClassifier(**options, learning_rate="invscaling").partial_fit(X, Y, classes=[0, 1, 2])
    constant = copy.deepcopy(seen).set_params(learning_rate="constant", learning_rate_init=0.05 / (len(X) + 1) ** 0.5)
    np.testing.assert_allclose(seen.partial_fit(X[:5], Y[:5]).theta_, constant.partial_fit(X[:5], Y[:5]).theta_)


def test_an_epoch_is_every_sample_once_whatever_went_before():
    loader = tn.Loader((X[:10], Y[:10]), 4, seed=1, shuffle=True)
    passes, orders = Passes(loader, step=7, epochs=2), []
    for epoch in range(2):
        steps = range(7 + 3 * epoch, 10 + 3 * epoch)
        orders.append(np.concatenate([passes.batch(t, tn.get_backend("numpy"), "float64").x for t in steps])[:, 0])
        assert sorted(orders[-1]) == sorted(X[:10, 0])
    assert orders[0].tolist() != orders[1].tolist()
    model = MLPRegressor(random_state=0, batch_size=30).partial_fit(X[:70], Z[:70]).partial_fit(X, Z)
    assert (model.t_, len(model.loss_curve_)) == (70 + len(X), 2)


def test_warm_start_keeps_the_optimizer_s_state():
    """Two fits are one of twice the length, bit for bit; with the moments begun anew they are not."""
    options = {"random_state": 3, "batch_size": 50, "tol": 0, "n_iter_no_change": 99}
    whole = MLPRegressor(**options, max_iter=6).fit(X, Z)
    parts = MLPRegressor(**options, max_iter=3, warm_start=True).fit(X, Z)
    forgetful = copy.deepcopy(parts)
    forgetful.optimizer_state_ = {}
    parts.fit(X, Z)
    forgetful.fit(X, Z)
    np.testing.assert_array_equal(parts.theta_, whole.theta_)
    assert np.abs(forgetful.theta_ - whole.theta_).max() > 1e-6
    assert parts.history_ == whole.history_
    again = pickle.loads(pickle.dumps(parts)).fit(X[:70], Z[:70])  # other batches, and from a file
    assert again.t_ == 6 * len(X) + 3 * 70
    again.set_params(solver="sgd", learning_rate_init=1e-4).fit(X, Z)  # another optimizer begins its own state
    assert set(again.optimizer_state_) == {"v"}


@pytest.mark.parametrize("solver", ["adam", "nadam"])
@pytest.mark.parametrize("alpha", [0.0, 1e-4])
def test_another_optimizer_begins_with_its_own_first_step(solver, alpha):
    """Its bias corrections were those of the run's step: steps of Adam up to 6.5 times too large."""
    options = {"random_state": 3, "shuffle": False, "alpha": alpha, "tol": 0, "warm_start": True, "backend": "numpy"}
    first = MLPRegressor(**options, solver="sgd", max_iter=50).fit(X, Z)
    moved = copy.deepcopy(first).set_params(solver=solver, max_iter=3).fit(X, Z)
    fresh = MLPRegressor(**options, solver=solver, max_iter=1).fit(X, Z)
    fresh.theta_, fresh._progress, fresh.optimizer_state_ = first.theta_, trainer.Progress(seed=0), {}
    np.testing.assert_allclose(moved.theta_, fresh.set_params(max_iter=3).fit(X, Z).theta_, rtol=1e-9)


@pytest.mark.parametrize("early_stopping", [False, True])
def test_what_was_best_for_other_samples_does_not_count(early_stopping):
    """Training ended after a few epochs that came near nothing of it, and with early stopping had changed nothing."""
    options = {"random_state": 0, "learning_rate_init": 0.05, "backend": "numpy"}
    model = MLPClassifier(**options, early_stopping=early_stopping, warm_start=True).fit(X, Y)
    assert model.score(X, Y) > 0.97
    model.fit(X, (Y + 1) % 3)
    assert model.score(X, (Y + 1) % 3) > 0.9
    assert model.best_loss_ == min(model.loss_curve_[-model.n_iter_ :])


def test_what_warm_start_cannot_go_on_with():
    model = MLPClassifier(warm_start=True, max_iter=1).fit(X, Y)
    with pytest.raises(ValueError, match="continue with the network of the last fit"):
        clone(model).fit(X, Y).set_params(hidden_layer_sizes=(5,)).fit(X, Y)
    with pytest.raises(ValueError, match=r"classes not in `self.classes_`: \[3\]"):
        model.fit(X, Y + 1)
    with pytest.raises(ValueError, match="13 features"):
        model.fit(X[:, :3], Y)
    with pytest.raises(ValueError, match="y has 1 outputs and 2 before"):
        MLPRegressor(max_iter=1).fit(X, Z).partial_fit(X, Z[:, 0])


def test_a_fit_that_fails_leaves_everything_as_it_was():
    def interrupt(model, row):
        raise OSError("no disk")

    for kind, y, wrong in ((MLPClassifier, NAMES, TWO), (MLPRegressor, Z, Z[:, 0])):
        model = kind(max_iter=2, random_state=0).fit(X, y)
        before, numbers, curve = set(vars(model)), model.predict(X), list(model.loss_curve_)
        with pytest.raises(ValueError, match="before|not in"):
            model.fit(X[:, :4], wrong, X_val=X[:, :4], y_val=y)
        with pytest.raises(OSError, match="no disk"):
            model.set_params(callbacks=[interrupt]).fit(X[:, :4], wrong)
        with pytest.raises(OSError, match="no disk"):
            model.partial_fit(X, y)
        assert vars(model).keys() == before
        assert model.loss_curve_ == curve
        np.testing.assert_array_equal(model.predict(X), numbers)
    with pytest.raises(ValueError, match="y has 2 outputs and 1 before"):
        MLPRegressor().fit(X, Z[:, 0], X_val=X, y_val=Z)
    model = MLPClassifier()
    with pytest.raises(ValueError, match="not in"):
        model.partial_fit(X, Y, classes=[0, 1])
    assert vars(model).keys() == vars(MLPClassifier()).keys()
    assert model.partial_fit(X, Y, classes=[0, 1, 2]).t_ == len(X)


@pytest.mark.parametrize(
    ("model", "y", "later"),
    [
        (MLPRegressor(max_iter=3), X[:, 0], "poisson"),
        (MLPRegressor(max_iter=3, loss="poisson"), abs(X[:, 0]), "squared_error"),
        (MLPClassifier(max_iter=3), TWO, tn.CrossEntropy()),
        (MLPClassifier(max_iter=3, loss=tn.CrossEntropy()), TWO, "log_loss"),
    ],
)
def test_another_loss_counts_from_the_next_fit_on(model, y, later):
    """As other parameters do: predictions became their exp."""
    model = clone(model).fit(X, y)
    method = "predict_proba" if hasattr(model, "predict_proba") else "predict"
    wanted, activation, loss = getattr(model, method)(X), model.out_activation_, model.model_.loss
    model.set_params(loss=later)
    np.testing.assert_array_equal(getattr(model, method)(X), wanted)
    assert (model.out_activation_, model.model_.loss) == (activation, loss)
    np.testing.assert_array_equal(getattr(model, method)(X), wanted)  # `model_` has changed nothing
    model.fit(X, y)
    assert model.model_.loss != loss


def test_another_loss_does_not_make_probabilities_of_margins():
    """They were the sigmoids of margins, two for one output."""
    model = MLPClassifier(max_iter=2, loss=tn.Hinge()).fit(X, TWO).set_params(loss="log_loss")
    assert not hasattr(model, "predict_proba")
    assert model.decision_function(X).shape == (len(X),)
    assert hasattr(model.fit(X, TWO), "predict_proba")
    assert not hasattr(model.set_params(loss=tn.Hinge()), "decision_function")


def test_copies():
    model = MLPClassifier(random_state=0, max_iter=5, activation=tn.ELU(), solver=tn.Adam(0.01)).fit(X, NAMES)
    for again in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model), copy.copy(model)):
        np.testing.assert_array_equal(again.predict_proba(X), model.predict_proba(X))
    assert clone(model).get_params() == model.get_params()
    assert not hasattr(clone(model), "theta_")
    with pytest.raises(NotFittedError):
        clone(model).predict(X)


def test_the_weights_of_an_estimator_are_in_one_place():
    """What writes to them is seen by predictions and copies alike; `model_` is another network."""
    fitted = MLPClassifier((8,), random_state=0, max_iter=5, norm="batch").fit(X, Y)
    before, model = fitted.predict_proba(X), fitted.model_
    model.fit((X, Y), epochs=3)
    np.testing.assert_array_equal(fitted.predict_proba(X), before)
    partly = pickle.loads(pickle.dumps(fitted)).partial_fit(X, Y)
    for same in (fitted, pickle.loads(pickle.dumps(fitted)), partly):
        with pytest.raises(TypeError, match="does not support item assignment"):  # which would change nothing
            same.coefs_[-1] = np.zeros((8, 3))
        same.coefs_[-1][...] = 0.0
        same.theta_[-3:] = 0.0  # the biases
        for one in (same, copy.deepcopy(same)):
            np.testing.assert_allclose(one.predict_proba(X), np.full((len(X), 3), 1 / 3))
    fitted.theta_, fitted.layer_state_ = model.theta, model.state  # what was trained further can be taken over
    np.testing.assert_allclose(fitted.predict_proba(X), model.predict_proba(X), rtol=1e-9)


@pytest.mark.parametrize(
    ("estimator", "y", "classes"),
    [
        (MLPClassifier(), NAMES, ("barbera", "grignolino", "nebbiolo")),
        (MLPClassifier(), TWO, ("False", "True")),
        (MLPClassifier(), np.c_[TWO, Y == 0] + 0, None),
        (MLPClassifier(loss=tn.BinaryCrossEntropy()), NAMES, None),
        (MLPRegressor(), X[:, 0], None),
        (MLPRegressor(loss="poisson"), np.abs(Z), None),
    ],
)
def test_the_model_within_is_a_model_like_any_other(estimator, y, classes, tmp_path):
    """It can be saved, and the file knows what its outputs mean, as that of a model which `fit` trained."""
    pandas = pytest.importorskip("pandas", reason="names of columns")
    frame = pandas.DataFrame(X, columns=[f"c{j}" for j in range(X.shape[1])])
    model = clone(estimator).set_params(random_state=0, max_iter=5).fit(frame, y)
    model.model_.save(tmp_path / "m.safetensors")
    loaded = tn.load(tmp_path / "m.safetensors", backend="host")
    assert loaded.columns == model.model_.columns
    assert (loaded.columns.features, loaded.columns.classes) == (tuple(frame), classes)
    assert len(loaded.columns.target) == (1 if classes else model.n_outputs_)
    assert len(model.model_.history) == 5
    if isinstance(model, MLPClassifier):
        found = loaded.predict_proba(X)
        if y.ndim == 1 and not classes:  # each class against all others: no sample has one class alone
            found /= found.sum(axis=1, keepdims=True)
        np.testing.assert_allclose(found, model.predict_proba(frame), rtol=1e-12)
    if classes:
        labels = np.searchsorted(model.classes_, y)
        assert loaded.evaluate((X, labels))["accuracy"] == model.score(frame, y)
    elif isinstance(model, MLPRegressor) and y.ndim == 1:
        assert loaded.evaluate((X, y.reshape(-1, 1)))["r2"] == pytest.approx(model.score(frame, y))
    assert clone(estimator).set_params(max_iter=1).fit(X, y).model_.columns is None


# Held-out samples, callbacks -----------------------------------------------------------------------------------------


def test_early_stopping_keeps_the_best():
    for kind, y in ((MLPClassifier, NAMES), (MLPRegressor, Z), (MLPClassifier, X_MANY[:, 0] > 3)):
        x = X if len(y) == len(X) else X_MANY
        options = {
            "early_stopping": True,
            "learning_rate_init": 0.05,
            "n_iter_no_change": 3,
            "validation_fraction": 0.3,
        }
        seen = []
        model = kind(random_state=0, callbacks=[lambda m, row, seen=seen: seen.append(m.theta.copy())], **options)
        model.fit(x, y)
        best = int(np.argmax(model.validation_scores_))
        assert model.best_validation_score_ == model.validation_scores_[best]
        assert best < len(seen) - 1
        np.testing.assert_array_equal(model.theta_, seen[best])
        assert len(model.validation_scores_) == model.n_iter_ < 200
    with pytest.raises(ValueError, match="Classes with too few members are: .*rare"):  # its name, not its index
        MLPClassifier(early_stopping=True).fit(X[:20], ["often"] * 19 + ["rare"])
    with pytest.raises(ValueError, match="The validation set is too small"):
        MLPRegressor(early_stopping=True, validation_fraction=0.01).fit(X[:20], Z[:20])
    with pytest.raises(ValueError, match="partial_fit does not support early_stopping=True"):
        MLPClassifier(early_stopping=True).partial_fit(X, Y, classes=[0, 1, 2])
    with pytest.raises(ValueError, match="partial_fit does not support early_stopping=True"):
        MLPRegressor(early_stopping=True).partial_fit(X, Z)


def test_held_out_samples_of_one_s_own():
    a, b, c, d = train_test_split(X, NAMES, random_state=0)
    options = {"random_state": 0, "learning_rate_init": 0.01}
    model = MLPClassifier(early_stopping=True, **options).fit(a, c, X_val=b, y_val=d)
    assert model.score(b, d) == model.best_validation_score_ == max(model.validation_scores_)
    assert [row["val_loss"] for row in model.history_][-1] < model.history_[0]["val_loss"]
    kept = model.theta_
    model.set_params(warm_start=True, learning_rate_init=10.0, max_iter=2).fit(a, c, X_val=b, y_val=d)
    np.testing.assert_array_equal(model.theta_, kept)  # nothing better came
    model.set_params(early_stopping=False).fit(a, c, X_val=b, y_val=d)
    assert not np.array_equal(model.theta_, kept)
    watched = MLPClassifier(max_iter=5, **options).fit(a, c, X_val=b, y_val=d, sample_weight_val=np.ones(len(b)))
    unwatched = MLPClassifier(max_iter=5, **options).fit(a, c)
    np.testing.assert_array_equal(watched.theta_, unwatched.theta_)
    assert watched.score(b, d) == watched.validation_scores_[-1]
    assert watched.best_validation_score_ == max(watched.validation_scores_)
    with pytest.raises(ValueError, match="classes not in"):
        MLPClassifier().fit(a, c, X_val=b, y_val=np.full(len(b), "merlot"))
    for alone in ({"y_val": d}, {"sample_weight_val": np.ones(len(d))}):
        with pytest.raises(
            ValueError, match=r"y_val and sample_weight_val belong to X_val, which is None: give it too$"
        ):
            MLPClassifier().fit(a, c, **alone)
    with pytest.raises(ValueError, match=r"^The validation set is too small. Give at least two samples as X_val\.$"):
        MLPRegressor(early_stopping=True, max_iter=2).fit(a, a[:, 0], X_val=b[:1], y_val=b[:1, 0])  # nothing was kept


def test_classes_have_no_weight_in_held_out_samples_of_one_s_own():
    """As in Keras; those that are split off have it, as in scikit-learn's gradient boosting."""
    options = {"random_state": 0, "max_iter": 2, "class_weight": {0: 9.0}}
    model = MLPClassifier(**options).fit(X, Y, X_val=X, y_val=Y)
    assert model.score(X, Y) == model.validation_scores_[-1] != model.score(X, Y, np.where(Y == 0, 9.0, 1.0))


def test_our_callbacks():
    rows = []

    def watch(model, row):
        rows.append((row["loss"], model.predict(X).shape))
        if len(rows) == 4:
            raise tn.StopTraining

    model = MLPRegressor(callbacks=[watch]).fit(X, Z)
    assert model.n_iter_ == 4
    assert [loss for loss, _ in rows] == [row["loss"] for row in model.history_]
    assert rows[0][1] == Z.shape
    with pytest.raises(TypeError, match=r"^callback 3 cannot be called: give functions \(model, row\) in a list$"):
        MLPRegressor(callbacks=[3]).fit(X, Z)


@pytest.mark.parametrize("y", [Y, Y > 0, Z, NAMES], ids=["classes", "two classes", "numbers", "names"])
def test_a_diagnosis_inspects_the_model_that_is_trained(y, tmp_path):
    """As any callback it finds a loss and the history so far."""
    targets = np.unique(y, return_inverse=True)[1] if y is not Z else Z
    diagnosis, rows = tn.Diagnosis((X, targets)), []
    kind = MLPRegressor if y is Z else MLPClassifier
    estimator = kind((8,), callbacks=[diagnosis, lambda model, row: rows.append(model.history[-1])], max_iter=3)
    estimator.fit(X, y)
    assert [step for step, _ in diagnosis.losses] == [row["step"] for row in estimator.history_]
    assert rows == estimator.history_ == estimator.model_.history.rows
    estimator.partial_fit(X, y).partial_fit(X, y)
    assert rows == estimator.history_
    assert len(rows) == 5


class Recorder:
    """A callback of scikit-learn's kind that stops after some epochs."""

    def __init__(self, stop=None):
        self.stop, self.calls, self.scores = stop, [], []

    def setup(self, estimator, context):
        self.calls.append("setup")

    def teardown(self, estimator, context):
        self.calls.append("teardown")

    def on_fit_task_begin(self, estimator, context, *, X=None, y=None, metadata=None, fitted_estimator=None):
        self.calls.append(f"begin {context.task_name}")

    def on_fit_task_end(self, estimator, context, *, X=None, y=None, metadata=None, fitted_estimator=None):
        self.calls.append(f"end {context.task_name}")
        if context.task_name == "epoch":
            self.scores.append(fitted_estimator.score(X, y))
            return len(self.scores) == self.stop
        return False


def test_scikit_learn_s_callbacks():
    callback = pytest.importorskip("sklearn.callback", reason="scikit-learn has callbacks from 1.9 on")
    recorder = Recorder(stop=3)
    model = MLPClassifier(random_state=0, learning_rate_init=0.01).set_callbacks(recorder)
    model.fit(X, NAMES, sample_weight=np.ones(len(X)))
    assert model.n_iter_ == 3
    assert recorder.calls == ["setup", "begin fit", *["begin epoch", "end epoch"] * 3, "end fit", "teardown"]
    assert recorder.scores[-1] == model.score(X, NAMES)
    monitor = callback.ScoringMonitor(scoring="r2")
    MLPRegressor(max_iter=3).set_callbacks(monitor).fit(X, Z)
    assert len(monitor.get_logs().data) == 4  # three epochs, and the fit
    make_pipeline(StandardScaler(), MLPRegressor(max_iter=2).set_callbacks(Recorder())).fit(X, Z)


def test_our_verbose_rows_are_printed(capsys):
    MLPRegressor(max_iter=2, verbose=True).fit(X, Z)
    assert capsys.readouterr().out.startswith("epoch 1, step 1, loss ")


# Among scikit-learn's own --------------------------------------------------------------------------------------------


def test_in_pipelines_searches_and_calibration():
    net = MLPClassifier(random_state=0, learning_rate_init=0.01, max_iter=15)
    pipe = make_pipeline(StandardScaler(), net)
    assert cross_val_score(pipe, X, NAMES, cv=3).mean() > 0.95
    grid = {"mlpclassifier__alpha": [1e-4, 1.0], "mlpclassifier__activation": ["relu", tn.GELU()]}
    search = GridSearchCV(pipe, grid, cv=2, scoring="neg_log_loss").fit(X, NAMES)
    assert search.best_estimator_.score(X, NAMES) > 0.97
    calibrated = CalibratedClassifierCV(net, cv=2).fit(X, NAMES)
    assert calibrated.predict_proba(X).shape == (len(X), 3)
    assert calibrated.score(X, NAMES) > 0.95


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_data_frames_have_names(library):
    frames = pytest.importorskip(library, reason=f"it is {library}'s data frames that are tested")
    x = frames.DataFrame({f"f{n}": X[:, n] for n in range(4)})
    model = MLPClassifier(max_iter=2, random_state=0).fit(
        x, frames.Series("y", NAMES) if library == "polars" else NAMES
    )
    assert model.feature_names_in_.tolist() == ["f0", "f1", "f2", "f3"]
    assert len(model.predict(x)) == len(X)
    with pytest.raises(ValueError, match="feature names"):
        model.predict(x[["f1", "f0", "f2", "f3"]])


# Everything follows X ------------------------------------------------------------------------------------------------


def libraries():
    strict = pytest.importorskip("array_api_strict", reason="arrays that are not NumPy's are tested with it")
    yield lambda a: strict.asarray(a, device=strict.Device("device1"))
    yield lambda a: strict.asarray(a, device=strict.Device("device2"))
    try:
        import torch
    except ImportError:
        return
    yield torch.asarray


def test_everything_follows_x():
    for there in libraries():
        follows(there)


def follows(there):
    """Whether a fit and what comes of it are where ``there`` puts X."""
    host = MLPClassifier(random_state=0, max_iter=5, backend="numpy", batch_size=50).fit(X, Y)
    x = there(X)
    ops = backend_of(x)
    with config_context(array_api_dispatch=True):
        model = clone(host).set_params(backend=None).fit(x, Y, sample_weight=np.ones(len(X)))
        results = (model.predict(x), model.predict_proba(x), model.theta_, model.classes_, *model.coefs_)
        assert all(ops.owns(a) for a in results)
        np.testing.assert_allclose(ops.to_numpy(results[1]), host.predict_proba(X), rtol=1e-7)
        named = clone(model).fit(x, NAMES)
        assert set(named.predict(x)) <= set(NAMES)  # strings are on the host, wherever X is
        with pytest.raises(ValueError, match=r"Inputs passed to MLPClassifier.predict\(\) must use the same names"):
            model.predict(X)
        with pytest.raises(ValueError, match="must use the same namespace and the same device"):
            model.partial_fit(X, Y)
        model.partial_fit(x, there(Y))
        assert model.loss_curve_[-1] < model.loss_curve_[0]
    again = pickle.loads(pickle.dumps(model))
    probabilities = (ops.to_numpy(each.predict_proba(X)) for each in (again, model))
    np.testing.assert_allclose(*probabilities, rtol=1e-9)


def test_scikit_learn_moves_a_fitted_estimator():
    for there in libraries():
        moves(there)


def moves(there):
    """Whether a fitted estimator can be moved to where ``there`` puts arrays."""
    from sklearn.utils._array_api import get_namespace_and_device, move_estimator_to

    host = MLPClassifier(random_state=0, max_iter=3).fit(X, Y)
    with config_context(array_api_dispatch=True):
        xp, _, device = get_namespace_and_device(there(X))
        moved = move_estimator_to(host, xp, device)
        assert moved.model_.ops is backend_of(there(X))
        p = backend_of(there(X)).to_numpy(moved.predict_proba(there(X)))
        np.testing.assert_allclose(p, host.predict_proba(X), rtol=1e-9)
        moved.partial_fit(there(X), Y)


def test_one_device_is_not_another():
    first, second, *_ = libraries()
    with config_context(array_api_dispatch=True):
        model = MLPRegressor(max_iter=1).fit(first(X), first(Z))
        with pytest.raises(ValueError, match="on 'array_api_strict:device2', that of fit"):
            model.predict(second(X))
        with pytest.raises(ValueError, match="this X lies on 'array_api_strict:device2', that of fit"):
            MLPRegressor().fit(first(X), first(Z), X_val=second(X), y_val=second(Z))


@pytest.mark.filterwarnings("ignore:Stochastic Optimizer")  # theirs, not converged either
def test_sparse_labels_come_back_sparse():
    """As scikit-learn's own network gives them: by what the first fit got."""
    sparse = pytest.importorskip("scipy.sparse", reason="scikit-learn needs it")
    few = {"hidden_layer_sizes": 3, "max_iter": 1}
    wanted = theirs.MLPClassifier(**few).fit(X_MANY, sparse.coo_array(Y_MANY)).predict(X_MANY)
    dense, model = (MLPClassifier(**few, random_state=0).fit(X_MANY, y) for y in (Y_MANY, sparse.coo_array(Y_MANY)))
    for fitted in (model, pickle.loads(pickle.dumps(model)), model.partial_fit(X_MANY, Y_MANY)):
        got = fitted.predict(X_MANY)
        assert (type(got), got.dtype, got.shape) == (type(wanted), wanted.dtype, wanted.shape)
    dense.partial_fit(X_MANY, sparse.csr_matrix(Y_MANY))
    np.testing.assert_array_equal(dense.predict(X_MANY), got.toarray())
    assert model.score(X_MANY, sparse.csr_matrix(Y_MANY)) == dense.score(X_MANY, Y_MANY)


# Errors --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"alpha": -1.0}, "The 'alpha' parameter of MLPClassifier must be"),
        ({"solver": "lbfgs"}, "The 'solver' parameter of MLPClassifier must be a str among"),
        ({"dropout": 1.0}, "The 'dropout' parameter of MLPClassifier must be"),
        ({"norm": "group"}, "The 'norm' parameter of MLPClassifier must be"),
        ({"precision": "float16"}, "The 'precision' parameter of MLPClassifier must be"),
        ({"hidden_layer_sizes": (3, 0)}, r"hidden_layer_sizes must be > 0, got \[3, 0\]"),
        ({"hidden_layer_sizes": (3.5,)}, r"Dense width 3.5 is not a positive whole number"),
        ({"backend": "abacus"}, "unknown backend 'abacus'"),
        ({"class_weight": {0: -1.0}}, r"class_weight \{0: -1.0\} is out of range: give finite weights of at least 0$"),
        ({"class_weight": {0: float("nan")}}, r"class_weight \{0: nan\} is out of range"),
        ({"class_weight": {0: 0.0, 1: 0.0, 2: 0.0}}, "must contain at least one non-zero"),
    ],
)
def test_parameters_out_of_range(parameters, message):
    with pytest.raises(ValueError, match=message):
        MLPClassifier(**parameters).fit(X, Y)


def test_scikit_learn_s_errors():
    sparse = pytest.importorskip("scipy.sparse", reason="scikit-learn needs it")
    with pytest.raises(TypeError, match="dense data is required"):
        MLPClassifier().fit(sparse.csr_array(X), Y)
    with pytest.raises(ValueError, match="Unknown label type: continuous"):
        MLPClassifier().fit(X, X[:, 0])
    with pytest.raises(ValueError, match="many classes in several columns"):
        MLPClassifier().fit(X, np.stack([Y, Y], axis=1))
    with pytest.raises(ValueError, match="classes must be passed on the first call to partial_fit"):
        MLPClassifier().partial_fit(X, Y)
    with pytest.raises(ValueError, match="Input y contains NaN"):  # of objects it looks at what they were
        MLPRegressor().fit(X, np.where(Y == 1, None, X[:, 0]))
    with pytest.raises(ValueError, match="non-finite parameter weights"):
        MLPRegressor(solver="sgd", learning_rate_init=1e9).fit(X, Z)
    with pytest.raises(AttributeError, match="has no attribute 'predict_proba'"):
        _ = MLPClassifier(loss=tn.Hinge()).fit(X, Y).predict_proba
    with pytest.warns(UserWarning, match="It is going to be clipped"):
        MLPClassifier(batch_size=1000, max_iter=1).fit(X, Y)


def test_not_converged_is_a_warning():
    with pytest.warns(ConvergenceWarning, match=r"Maximum iterations \(2\) reached"):
        MLPClassifier(max_iter=2).fit(X, Y)


def test_ctrl_c_leaves_what_was_learned():
    def interrupt(model, row):
        if row["epoch"] == 2:
            raise KeyboardInterrupt

    with pytest.warns(UserWarning, match="Training interrupted by user"):
        model = MLPClassifier(callbacks=[interrupt]).fit(X, Y)
    assert model.n_iter_ == 2
    assert model.predict(X).shape == Y.shape


def test_after_ctrl_c_within_a_partial_fit_the_next_is_a_whole_epoch(monkeypatch):
    run, steps = trainer.loop, -(-len(X) // 30)

    def interrupted(*args, **options):
        yield next(run(*args, **options))
        raise KeyboardInterrupt

    model = MLPRegressor(batch_size=30, random_state=0, backend="numpy").partial_fit(X, Z).partial_fit(X, Z)
    monkeypatch.setattr(trainer, "loop", interrupted)
    with pytest.warns(UserWarning, match="Training interrupted by user"):
        model.partial_fit(X, Z)
    monkeypatch.setattr(trainer, "loop", run)
    assert model.partial_fit(X, Z)._progress.steps == 3 * steps + 1


@pytest.mark.parametrize("backend", ["numpy", "numba"])
@pytest.mark.parametrize("options", [{}, {"alpha": 0.0, "norm": "batch", "dropout": 0.2}, {"solver": "nadam"},
                                     {"solver": "sgd", "learning_rate": "invscaling", "standardize": False}])  # fmt: skip
def test_a_step_that_is_kept_between_partial_fits_changes_no_bit(backend, options):
    """Beside one that is made anew each time: batches of other sizes, weights, parameters, pickles and failures between."""
    if backend not in usable_backends():
        pytest.skip("the backend is not here")
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(90, 4)), rng.integers(0, 3, 90)
    kept, anew = (MLPClassifier((8,), backend=backend, random_state=0, **options) for _ in range(2))
    kept_steps = set()
    for n in range(14):
        size = 30 if n < 8 else 45
        rows = rng.integers(0, 90, size)
        weight = rng.integers(1, 3, size).astype(float) if n % 2 else None
        for model in (kept, anew):
            if n == 5:
                model.theta_[0] = 0.25
            if n == 9:
                model.set_params(learning_rate_init=0.01)
            if n == 10:
                with pytest.raises(ValueError, match="NaN"):
                    model.partial_fit(np.full((2, 4), np.nan), [0, 1])
            model.partial_fit(X[rows], y[rows], weight, classes=[0, 1, 2])
        assert kept.theta_.tobytes() == anew.theta_.tobytes()
        assert kept.layer_state_.tobytes() == anew.layer_state_.tobytes()
        assert kept.loss_curve_ == anew.loss_curve_
        kept_steps.add(kept._kept)
        del anew._kept
        if n == 11:
            kept = pickle.loads(pickle.dumps(kept))
    assert len(kept_steps) == 5  # from the first on; for other weights; another rate; after a failure; after the pickle
    before = kept.theta_.copy(), kept.model_.theta.copy(), kept.model_
    kept.partial_fit(X, y)
    assert before[2].theta.tobytes() == before[1].tobytes()  # a model that somebody has is not trained further
    assert not np.array_equal(kept.theta_, before[0])


def test_a_subclass_has_parameters_of_its_own():
    """Names are kept by class: those of the parent, which was asked before, are not its own."""

    class Wide(MLPClassifier):
        def __init__(self, width=7):
            super().__init__((width,))
            self.width = width

    assert "alpha" in MLPClassifier().get_params()
    assert clone(Wide(9)).get_params() == {"width": 9}
