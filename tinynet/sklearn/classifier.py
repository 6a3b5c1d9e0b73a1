"""`MLPClassifier`."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from math import inf
from typing import Any, ClassVar, Self

from sklearn.base import ClassifierMixin, _fit_context
from sklearn.metrics import accuracy_score
from sklearn.preprocessing import LabelBinarizer, LabelEncoder
from sklearn.utils._param_validation import StrOptions
from sklearn.utils.class_weight import compute_sample_weight
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import _check_partial_fit_first_call, check_classification_targets, type_of_target
from sklearn.utils.validation import column_or_1d
from tinynet_backends import Backend, get_backend

from tinynet.losses import BinaryCrossEntropy, CrossEntropy, Loss
from tinynet.metrics import METRICS, Metric
from tinynet.sklearn.base import MLP
from tinynet.sklearn.placement import Array, move, to_host
from tinynet.sklearn.samples import Samples


def _loss_in_force(estimator: Any) -> str | Loss:
    """The loss of the last fit or, before any, the one that a fit would have."""
    loss: str | Loss = getattr(estimator, "_fitted_loss", estimator.loss)
    return loss


def _has_probabilities(estimator: Any) -> bool:
    loss = _loss_in_force(estimator)
    if isinstance(loss, (str, CrossEntropy, BinaryCrossEntropy)):
        return True
    raise AttributeError(f"{type(loss).__name__} gives no probabilities: fit with loss='log_loss'")


def _has_margins(estimator: Any) -> bool:
    if isinstance(_loss_in_force(estimator), (str, CrossEntropy, BinaryCrossEntropy)):
        raise AttributeError("a cross-entropy gives probabilities: use predict_proba, or predict_log_proba")
    return True


@dataclass(eq=False, repr=False)
class MLPClassifier(ClassifierMixin, MLP):
    """A network that classifies, as a scikit-learn estimator.

    X is (n, i). y is one label per sample, (n,), of any kind, or, for several labels per sample, zeros and ones (n, k). The
    parameters are those of `Hyperparameters`, and

    - ``loss``: "log_loss" is cross-entropy: that of a sigmoid for two classes and for several labels per sample, else that of
      a softmax. It may also be any loss of tinynet's, with one output per class, or one for two classes. All losses except
      the cross-entropies get targets -1 and 1, and the estimator then has `decision_function` instead of probabilities.
    - ``class_weight``: None, "balanced", or a dict of label -> weight; for several labels per sample, a list of dicts.

    If y is sparse in the first fit, so are predictions. With scikit-learn's array API dispatch on, X may be an array of any
    library for which tinynet has a backend: training runs there, and predictions and ``classes_`` (unless they are
    strings) lie there.

    Attributes after a fit: ``classes_`` (k,); ``theta_``, ``layer_state_`` and ``optimizer_state_``, all numbers of the
    network and the optimizer; ``coefs_`` and ``intercepts_``, views of the dense layers' weights; ``model_``, a copy as a
    `Model`, to be saved, exported or trained further (``estimator.theta_ = model.theta`` takes over its weights);
    ``history_``, a row per epoch; and, as in scikit-learn, ``loss_``, ``best_loss_``, ``loss_curve_``,
    ``validation_scores_``, ``best_validation_score_``, ``n_iter_``, ``t_``, ``n_layers_``, ``n_outputs_``,
    ``out_activation_``, ``n_features_in_``, ``feature_names_in_``.
    """

    _: KW_ONLY
    loss: str | Loss = "log_loss"
    class_weight: Any = None

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **MLP._parameter_constraints,
        "loss": [StrOptions({"log_loss"}), Loss],
        "class_weight": [StrOptions({"balanced"}), dict, list, None],
    }

    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None, classes: Any = None) -> Self:
        """Train for one more epoch, on these samples: X (n, i) and y.

        The first call needs ``classes``, all that can occur; it sets the initial weights and the standardization.
        """
        if self.early_stopping:
            raise ValueError("partial_fit does not support early_stopping=True")
        if isinstance(self.class_weight, str):
            raise ValueError(
                "class_weight 'balanced' is not supported for partial_fit, which never sees all labels: give a dict"
            )
        with self._restored_on_failure():
            if hasattr(self, "classes_"):
                self.classes_ = to_host(self.classes_)
            _check_partial_fit_first_call(self, None if classes is None else to_host(classes))
            self._fit(X, y, sample_weight, (None, None, None), one_epoch=True)
        return self

    # Labels are looked up on the host, where they may be strings ---------------------------------------------------

    def _check_targets(self, y: Any, known: bool, home: Backend) -> Any:
        given, sparse = y, hasattr(y, "toarray")
        y = to_host(y.toarray() if sparse else y)
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True)
        check_classification_targets(y)
        kind = type_of_target(y, input_name="y")
        if kind == "multiclass-multioutput":
            raise ValueError(
                f"y {y.shape} has many classes in several columns: give labels (n,), or columns of 0 and 1"
            )
        multilabel = kind == "multilabel-indicator"
        if multilabel and not ((y == 0) | (y == 1)).all():
            raise ValueError(
                f"y {y.shape} has the values {sorted(set(y.ravel().tolist()))}: give 1 for the labels of a sample, 0 for others"
            )
        classes: Any = get_backend("numpy").xp.arange(y.shape[1]) if multilabel else LabelEncoder().fit(y).classes_
        if not known:
            self.classes_ = classes
        if not known or not hasattr(self, "_multilabel"):
            self._binarizer = LabelBinarizer().fit(given) if sparse and multilabel else None
        fitted = to_host(self.classes_)
        if known and hasattr(self, "_multilabel") and multilabel != self._multilabel:
            raise ValueError(f"y is {kind} and was not in the last fit: give labels of one kind")
        if multilabel and len(classes) != len(fitted):
            raise ValueError(f"y has {len(classes)} labels a sample and {len(fitted)} before: give as many")
        unseen = sorted(set(classes.tolist()) - set(fitted.tolist()))
        if unseen:
            raise ValueError(f"`y` has classes not in `self.classes_`: {unseen} are not among {fitted.tolist()}")
        self._multilabel = multilabel
        self.classes_ = fitted if _is_text(fitted) else move(fitted, home)
        one_for_two = len(fitted) == 2 and not multilabel and not isinstance(self._loss(), CrossEntropy)
        self.n_outputs_ = 1 if one_for_two else len(fitted)
        return y

    def _loss(self) -> Loss:
        if isinstance(self.loss, Loss):
            if self._multilabel and isinstance(self.loss, CrossEntropy):
                raise ValueError("CrossEntropy takes one label a sample and y has several: use BinaryCrossEntropy()")
            return self.loss
        return BinaryCrossEntropy() if self._multilabel or self.classes_.shape[0] == 2 else CrossEntropy()

    def _loss_and_metrics(self) -> tuple[Loss, tuple[Metric, ...]]:
        loss = self._fitted_loss
        return loss, (METRICS["accuracy"],) if loss.classes(self.n_outputs_) else ()

    def _class_names(self) -> tuple[str, ...] | None:
        names = tuple(map(str, to_host(self.classes_).tolist()))
        return names if self._fitted_loss.classes(self.n_outputs_) > 1 else None

    def _targets(self, y: Any, ops: Backend, dtype: str) -> Array:
        """Indices of classes for `CrossEntropy`; for other losses a column for each class, or one for two classes.

        In it 1 marks the samples of the class. The others have 0 for `BinaryCrossEntropy`, -1 for other losses.
        """
        encoder, loss, xp = LabelEncoder(), self._loss(), get_backend("numpy").xp
        encoder.classes_ = to_host(self.classes_)
        if isinstance(loss, CrossEntropy):
            return ops.asarray(encoder.transform(y), "int64")
        columns = y != 0 if self._multilabel else encoder.transform(y)[:, None] == xp.arange(len(encoder.classes_))
        low = 0.0 if isinstance(loss, BinaryCrossEntropy) else -1.0
        return ops.asarray(xp.where(columns[:, -self.n_outputs_ :], 1.0, low), dtype)

    def _class_weights(self, y: Any, weight: Any) -> Any:
        xp = get_backend("numpy").xp
        if self.class_weight is None:
            return None
        if isinstance(self.class_weight, str):
            return self._balance(y, xp.ones(len(y)) if weight is None else weight)
        # every class once after y, because scikit-learn refuses weights of a class that y lacks
        k = int(self.classes_.shape[0])
        every = xp.asarray([[0] * k, [1] * k]) if self._multilabel else to_host(self.classes_)
        factor = compute_sample_weight(self.class_weight, xp.concat([y, every]))[: len(y)]
        if not ((factor >= 0) & (factor < inf)).all():
            raise ValueError(f"class_weight {self.class_weight} is out of range: give finite weights of at least 0")
        return factor

    def _balance(self, y: Any, weight: Any) -> Any:
        """scikit-learn's "balanced" factors, with a sample of weight k counted k times, (n,); those of weight 0 get 1."""
        xp = get_backend("numpy").xp
        factor, there = xp.ones(len(weight)), weight > 0
        for column in y.T if self._multilabel else (y,):
            classes, codes = xp.unique_inverse(column[there])
            sums = xp.bincount(codes, weights=weight[there])
            factor[there] *= (sums.sum() / (len(classes) * sums))[codes]
        return factor

    def _strata(self, samples: Samples) -> Any:
        return None if self._multilabel else to_host(self.classes_)[self._codes(to_host(samples.y))]

    def _score_outputs(self, y: Any, out: Array, weight: Any) -> float:
        decided = self._decide(out, get_backend("numpy").xp)
        return float(accuracy_score(self._codes(y), decided, sample_weight=weight))

    def _codes(self, y: Any) -> Any:
        """Targets of the loss as `_decide` gives them for perfect outputs, on the host."""
        return y if isinstance(self._loss(), CrossEntropy) else self._decide(y, get_backend("numpy").xp)

    def _decide(self, out: Array, xp: Any) -> Array:
        """The index of the class, (n,), or 0 and 1 for each of several labels, (n, k)."""
        if self._multilabel:
            return xp.astype(out > 0, xp.int64)
        one_for_two = self.n_outputs_ < self.classes_.shape[0]
        return xp.astype(out[:, 0] > 0 if one_for_two else xp.argmax(out, axis=1), xp.int64)

    # Predictions ---------------------------------------------------------------------------------------------------

    def predict(self, X: Any) -> Array:
        """Predicted labels, (n, i) -> (n,), or zeros and ones (n, k) for several labels per sample, in the namespace of X.

        Strings and sparse labels are on the host.
        """
        out, home = self._outputs(X, "predict")
        codes = self._decide(out, home.xp)
        if self._multilabel:
            return codes if self._binarizer is None else self._binarizer.inverse_transform(to_host(codes))
        if _is_text(self.classes_):
            return self.classes_[to_host(codes)]
        return home.xp.take(move(self.classes_, home), codes, axis=0)

    @available_if(_has_probabilities)
    def predict_proba(self, X: Any) -> Array:
        """Probabilities of the classes, (n, i) -> (n, k), in the order of ``classes_``; for several labels per sample, of each."""
        out, home = self._outputs(X, "predict_proba")
        if isinstance(self._fitted_loss, CrossEntropy):
            return home.softmax(out)
        return home.xp.exp(self._log_probabilities(out, home.xp))

    @available_if(_has_probabilities)
    def predict_log_proba(self, X: Any) -> Array:
        """Logarithms of `predict_proba` (n, k), finite where that rounds to 0."""
        out, home = self._outputs(X, "predict_log_proba")
        return self._log_probabilities(out, home.xp)

    @available_if(_has_margins)
    def decision_function(self, X: Any) -> Array:
        """The outputs of a network whose loss gives no probabilities: (n, i) -> (n, k), or (n,) for two classes.

        The class with the largest output is predicted. For two classes, a positive output predicts the second class; for
        several labels per sample, a positive output predicts the label.
        """
        out, _ = self._outputs(X, "decision_function")
        return out[:, 0] if self.n_outputs_ < self.classes_.shape[0] else out

    def _log_probabilities(self, z: Array, xp: Any) -> Array:
        """Of outputs (n, o), for each class (n, k)."""
        if not isinstance(self._fitted_loss, CrossEntropy):
            log = xp.minimum(z, xp.zeros_like(z)) - xp.log1p(xp.exp(-xp.abs(z)))  # of the sigmoid
            if self._multilabel:
                return log
            if self.n_outputs_ < self.classes_.shape[0]:
                return xp.concat([log - z, log], axis=1)  # 1 - sigmoid(z) is sigmoid(-z)
            z = log
        z = z - xp.max(z, axis=1, keepdims=True)
        return z - xp.log(xp.sum(xp.exp(z), axis=1, keepdims=True))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags


def _is_text(classes: Any) -> bool:
    """Whether labels are strings or other objects, which live on the host alone."""
    return getattr(classes.dtype, "kind", "i") not in "biuf"
