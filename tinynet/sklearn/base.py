"""What both estimators share: vectors in the namespace of X, the network that they belong to, and its training."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from math import inf
from typing import Any

from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from sklearn.utils import check_random_state
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data
from tinynet_backends import Backend, backend_of, get_backend

from tinynet.layers import Dense, Sequential
from tinynet.losses import Loss
from tinynet.model import Model
from tinynet.optim import State
from tinynet.sklearn.following import Array, check_same_home, computer, home_of, move, to_host
from tinynet.sklearn.hyperparameters import Hyperparameters
from tinynet.sklearn.loop import Kept, Loop, Samples
from tinynet.sklearn.watching import CallbackSupportMixin, Watch, watched


class Fitted:
    """What a fit leaves behind. Arrays are in the namespace and on the device of X."""

    theta_: Array  # (p,), all parameters
    layer_state_: Array  # (s,), what layers keep beside them
    optimizer_state_: State
    net_: Sequential
    n_features_in_: int
    n_layers_: int
    n_outputs_: int
    n_iter_: int  # epochs of the last fit
    t_: int  # samples seen, in all fits that one went on from the other
    loss_: float
    best_loss_: float
    loss_curve_: list[float]
    validation_scores_: list[float]
    best_validation_score_: float
    history_: list[dict[str, float]]
    classes_: Array  # of a classifier: (k,), on the host if they are no numbers
    _multilabel: bool
    _binarizer: Any  # of sparse labels; None of others
    _seed: int
    _steps: int
    _epochs: int
    _stale: int  # epochs without progress
    _solved_by: str  # the optimizer that the state is of
    _live: tuple[Array, Model]  # `model_`, and the vector that it was made of
    _kept: Kept  # of `partial_fit`


@dataclass(eq=False, repr=False)
class MLP(Fitted, CallbackSupportMixin, Hyperparameters):
    """Fitting and what comes out of the network. A subclass knows targets: what they are, and what outputs mean."""

    # What a subclass defines ------------------------------------------------------------------------------------------

    def _prepare(self, y: Any, known: bool, home: Backend) -> Any:
        """The targets, validated. They define what the estimator predicts or, if that is ``known``, must agree with it."""
        raise NotImplementedError

    def _loss(self) -> Loss:
        raise NotImplementedError

    def _width(self) -> int:
        """The number of outputs of the network."""
        raise NotImplementedError

    def _targets(self, y: Any, ops: Backend, dtype: str) -> Array:
        """The targets that the loss takes, on ``ops``."""
        raise NotImplementedError

    def _class_weights(self, y: Any) -> Any:
        """A weight for each sample, (n,) on the host, or None."""

    def _strata(self, samples: Samples) -> Any:
        """Labels by which held-out samples are stratified, or None."""

    def _begin_bias(self, samples: Samples, ops: Backend) -> Array | None:
        """The outputs of the network before it has learned anything, (outputs,), or None."""

    def _rate_outputs(self, y: Any, out: Array, weight: Any) -> float:
        """The score of outputs ``out`` for encoded targets ``y``, all on the host."""
        raise NotImplementedError

    # Fitting -------------------------------------------------------------------------------------------------------

    def _fit(self, X: Any, y: Any, sample_weight: Any, held_out: tuple[Any, Any, Any], one_epoch: bool = False) -> None:
        """Fit; after an exception the estimator is as before."""
        before = self.__dict__.copy()
        try:
            self._fit_or_fail(X, y, sample_weight, held_out, one_epoch)
        except BaseException:
            before.pop("_kept", None)  # whose vectors may have changed
            callbacks = {k: v for k, v in self.__dict__.items() if k.startswith(("_skl", "_callback"))}
            self.__dict__ = {**before, **callbacks}  # which scikit-learn is going to tear down
            raise

    def _fit_or_fail(self, X: Any, y: Any, sample_weight: Any, held_out: tuple[Any, Any, Any], one_epoch: bool) -> None:
        more = hasattr(self, "theta_") and (self.warm_start or one_epoch)
        home = home_of(X)
        if more:
            check_same_home(X, self.theta_, self, "partial_fit" if one_epoch else "fit")
        ops = computer(self.backend, home)
        reset = not more
        X, y = validate_data(self, X, y, dtype=self._dtypes(home), multi_output=True, reset=reset, **self._of_y)
        dtype = "float64" if X.dtype == home.dtype("float64") else "float32"
        y = self._prepare(y, more or one_epoch, home)
        net, loss = self._net(self._width()), self._loss()
        if more and _shapes(net, self.n_features_in_) != _shapes(self.net_, self.n_features_in_):
            raise ValueError(
                "warm_start and partial_fit continue with the network of the last fit, whose layers differ: "
                "fit with warm_start=False, or leave hidden_layer_sizes, norm, dropout and standardize as they were"
            )
        samples = self._samples(X, y, sample_weight, ops, dtype, self._class_weights(y))
        test = None
        if held_out[0] is not None:
            test = self._held_out(held_out, home, ops, dtype)
        elif self.early_stopping:
            samples, test = self._divided(samples, self._strata(samples), ops)

        if not more:
            self._seed = int(check_random_state(self.random_state).randint(2**31 - 1))
            self.loss_curve_, self.validation_scores_, self.history_ = [], [], []
            self.best_loss_, self.best_validation_score_ = inf, -inf
            self.t_ = self._steps = self._epochs = self._stale = 0
            self.optimizer_state_, self._solved_by = {}, ""
        if not one_epoch:
            self.__dict__.pop("_kept", None)
        of = (*self.get_params(deep=False).values(), self._width(), dtype, ops)
        kept: Kept | None = self.__dict__.get("_kept") if one_epoch and more else None
        kept = kept if kept is not None and kept.fits(self, of) else None
        make: dict[str, Any] = {"seed": self._seed, "backend": ops, "dtype": dtype}
        model = kept.model if kept is not None else Model(net, self.n_features_in_, **make)
        if more:
            if kept is None:
                _fill(model, self.theta_, self.layer_state_)
            for name in ("loss_curve_", "validation_scores_", "history_"):
                setattr(self, name, getattr(self, name).copy())
        else:
            self._begin(model, samples)
        self.net_, self.n_layers_ = net, 1 + sum(isinstance(layer, Dense) for layer in net.layers)
        if one_epoch:
            Loop(self, model, loss, samples, test, home, Watch(), 1, kept, of).run()
            return
        with watched(self, X, y, sample_weight) as watch:
            ended = Loop(self, model, loss, samples, test, home, watch, self.max_iter).run()
        if not ended:
            warnings.warn(
                f"Maximum iterations ({self.max_iter}) reached and the training has not converged yet: "
                "give a larger max_iter or learning_rate_init",
                ConvergenceWarning,
                stacklevel=5,
            )

    @property
    def _of_y(self) -> dict[str, Any]:
        return {}

    def _dtypes(self, home: Backend) -> list[Any]:
        """The dtypes that X may have; anything else becomes the first."""
        names = ["float64", "float32"] if home.has_float64 else ["float32"]
        return [home.dtype(name) for name in (names if self.precision is None else [self.precision])]

    def _samples(self, X: Array, y: Any, weight: Any, ops: Backend, dtype: str, factor: Any = None) -> Samples:
        """The samples, without those of weight 0."""
        n = int(X.shape[0])
        if weight is not None:
            weight = _check_sample_weight(
                to_host(weight), get_backend("numpy").xp.empty(n), dtype=get_backend("numpy").xp.float64
            )
            if not (weight >= 0).all():
                raise ValueError("Negative values in data passed to `sample_weight`")
        if factor is not None:
            weight = factor if weight is None else weight * factor
        samples = Samples(move(X, ops, dtype), self._targets(y, ops, dtype), weight)
        if weight is None or weight.all():
            return samples
        if not weight.any():
            raise ValueError("Sample weights must contain at least one non-zero number.")
        return samples.take(weight.nonzero()[0], ops)

    def _held_out(self, held_out: tuple[Any, Any, Any], home: Backend, ops: Backend, dtype: str) -> Samples:
        X, y, weight = held_out
        X, y = validate_data(self, X, y, dtype=home.dtype(dtype), multi_output=True, reset=False, **self._of_y)
        return self._samples(X, self._prepare(y, True, home), weight, ops, dtype)

    def _divided(self, samples: Samples, strata: Any, ops: Backend) -> tuple[Samples, Samples]:
        rows = get_backend("numpy").xp.arange(len(samples))
        parts = train_test_split(
            rows,
            test_size=self.validation_fraction,
            stratify=strata,
            random_state=check_random_state(self.random_state),
        )
        if len(parts[1]) < 2:
            raise ValueError(
                "The validation set is too small. Increase 'validation_fraction' or the size of your dataset."
            )
        first, second = (samples.take(part, ops) for part in parts)
        return first, second

    def _begin(self, model: Model, samples: Samples) -> None:
        """Set what of a new network follows from the data: standardization, and the bias of its outputs."""
        if self.standardize:
            model.adapt(samples.arrays(model))
        bias = self._begin_bias(samples, model.ops)
        if bias is not None:
            model.weights()[model.gradient_names[-1]][...] = bias

    # Using it ------------------------------------------------------------------------------------------------------

    @property
    def model_(self) -> Model:
        """The network with its parameters, on the backend that computes."""
        check_is_fitted(self, "theta_")
        live: tuple[Array, Model] | None = self.__dict__.get("_live")
        if live is None or live[0] is not self.theta_:
            home = backend_of(self.theta_)
            dtype = "float64" if self.theta_.dtype == home.dtype("float64") else "float32"
            model = Model(
                self.net_, self.n_features_in_, seed=self._seed, backend=computer(self.backend, home), dtype=dtype
            )
            live = self._live = self.theta_, _fill(model, self.theta_, self.layer_state_)
        return live[1]

    @property
    def coefs_(self) -> list[Array]:
        """The weights (i, o) of each dense layer."""
        return self._dense("w")

    @property
    def intercepts_(self) -> list[Array]:
        """The biases (o,) of each dense layer."""
        return self._dense("b")

    def _dense(self, which: str) -> list[Array]:
        model, home = self.model_, backend_of(self.theta_)
        numbers = [n for n, layer in enumerate(self.net_.layers) if isinstance(layer, Dense)]
        return [move(model.params[str(n)][which], home) for n in numbers]

    def _outputs(self, X: Any, method: str) -> tuple[Array, Any, Backend]:
        """What the network gives for X, (n, o), in the namespace of X; that, and its backend."""
        check_is_fitted(self, "theta_")
        check_same_home(X, self.theta_, self, method)
        home = home_of(X)
        X = validate_data(self, X, dtype=self._dtypes(home), reset=False)
        model = self.model_
        out = move(model.predict(move(X, model.ops, model.dtype)), home)
        return out, home.xp, home

    def __getstate__(self) -> dict[str, Any]:
        state: Any = super().__getstate__()
        return {name: value for name, value in state.items() if name not in ("_live", "_kept")}

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.array_api_support = True
        return tags


def _shapes(net: Sequential, n_in: int) -> list[Any]:
    spec = net.build((n_in,))
    return [spec.params, spec.state]


def _fill(model: Model, theta: Array, state: Array) -> Model:
    model.theta[...], model.state[...] = (move(a, model.ops, model.dtype) for a in (theta, state))
    return model
