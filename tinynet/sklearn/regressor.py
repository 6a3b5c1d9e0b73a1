"""`MLPRegressor`."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar, Self

from sklearn.base import RegressorMixin, _fit_context
from sklearn.metrics import r2_score
from sklearn.utils import assert_all_finite
from sklearn.utils._param_validation import StrOptions
from sklearn.utils.validation import column_or_1d
from tinynet_backends import Backend, get_backend

from tinynet.losses import BinaryCrossEntropy, CrossEntropy, Loss, MeanSquaredError, Poisson
from tinynet.metrics import METRICS, Metric
from tinynet.sklearn.base import MLP
from tinynet.sklearn.placement import Array, dtype_name, move
from tinynet.sklearn.samples import Samples


@dataclass(frozen=True)
class HalfSquaredError(Loss):
    """Mean over samples of ``(y - t)**2 / 2``, summed over outputs and divided by their number: scikit-learn's."""

    def formula(self, xp: Any, y: Array, target: Array) -> tuple[Array, Array]:
        e = y - target
        return 0.5 * (e * e), e


_LOSSES: dict[str, Loss] = {"squared_error": HalfSquaredError(), "poisson": Poisson()}


@dataclass(eq=False, repr=False)
class MLPRegressor(RegressorMixin, MLP):
    """A network that predicts numbers, as a scikit-learn estimator: X (n, i), y (n,) or, for several outputs, (n, o).

    The parameters are those of `Hyperparameters`, and

    - ``loss``: "squared_error", half of the squared error; "poisson", for counts: predictions are the exponentials of the
      outputs; or any loss of tinynet's. With `BinaryCrossEntropy` predictions are the sigmoids of the outputs, with
      `CrossEntropy`, for y of probabilities that add up to 1, their softmax.

    The biases of the last layer start where predictions are the mean of y, rather than at 0, so R² is near 0 before training.
    Their scale is not changed: for y far from a standard deviation of 1, use scikit-learn's ``TransformedTargetRegressor``.

    Array libraries and attributes after a fit are those of `MLPClassifier`, without ``classes_``.
    """

    _: KW_ONLY
    loss: str | Loss = "squared_error"

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **MLP._parameter_constraints,
        "loss": [StrOptions(set(_LOSSES)), Loss],
    }

    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Train for one more epoch, on these samples: X (n, i) and y.

        The first call sets the initial weights and the standardization.
        """
        if self.early_stopping:
            raise ValueError("partial_fit does not support early_stopping=True")
        self._fit(X, y, sample_weight, (None, None, None), one_epoch=True)
        return self

    @property
    def _target_options(self) -> dict[str, Any]:
        return {"y_numeric": True}

    def _check_targets(self, y: Any, known: bool, home: Backend) -> Any:
        assert_all_finite(y, input_name="y")  # scikit-learn checks before None, as databases give it, becomes NaN
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True)
        outputs = 1 if y.ndim == 1 else int(y.shape[1])
        if known and hasattr(self, "n_outputs_") and outputs != self.n_outputs_:
            raise ValueError(f"y has {outputs} outputs and {self.n_outputs_} before: give as many")
        self.n_outputs_ = outputs
        return y

    def _loss(self) -> Loss:
        return _LOSSES[self.loss] if isinstance(self.loss, str) else self.loss

    def _loss_and_metrics(self) -> tuple[Loss, tuple[Metric, ...]]:
        loss = self._fitted_loss
        if isinstance(loss, HalfSquaredError):  # which no file can name
            loss = MeanSquaredError()
        return loss, (METRICS["r2"],) if self.out_activation_ == "identity" else ()

    def _targets(self, y: Any, ops: Backend, dtype: str) -> Array:
        return ops.xp.reshape(move(y, ops, dtype), (-1, self.n_outputs_))

    def _initial_bias(self, samples: Samples, ops: Backend) -> Array | None:
        """The mean of the targets: a network that has learned nothing then has an R² of 0."""
        xp, y = ops.xp, samples.y
        if samples.weight is None:
            mean = xp.mean(y, axis=0)
        else:
            w = ops.asarray(samples.weight / samples.weight.sum(), dtype_name(y))
            mean = xp.sum(w[:, None] * y, axis=0)
        return self._outputs_for(mean, xp)

    def _outputs_for(self, mean: Array, xp: Any) -> Array:
        """The inverse of `_predictions`."""
        loss, tiny = self._loss(), xp.finfo(mean.dtype).eps
        if isinstance(loss, (Poisson, CrossEntropy)):
            return xp.log(xp.clip(mean, tiny, None))
        if isinstance(loss, BinaryCrossEntropy):
            mean = xp.clip(mean, tiny, 1.0 - tiny)
            return xp.log(mean) - xp.log1p(-mean)
        return mean

    def _predictions(self, out: Array, ops: Backend) -> Array:
        """What outputs (n, o) mean: their exp, softmax or sigmoid, or themselves."""
        activation = self.out_activation_
        if activation == "exp":
            return ops.xp.exp(out)
        if activation == "softmax":
            return ops.softmax(out)
        return 0.5 * (1.0 + ops.xp.tanh(0.5 * out)) if activation == "logistic" else out

    def _score_outputs(self, y: Any, out: Array, weight: Any) -> float:
        return float(r2_score(y, self._predictions(out, get_backend("numpy")), sample_weight=weight))

    def predict(self, X: Any) -> Array:
        """Predictions, (n, i) -> (n,), or (n, o) for several outputs, in the namespace of X."""
        out, home = self._outputs(X, "predict")
        y = self._predictions(out, home)
        return y[:, 0] if self.n_outputs_ == 1 else y

    @property
    def out_activation_(self) -> str:
        return "exp" if isinstance(self._fitted_loss, Poisson) else super().out_activation_

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags
