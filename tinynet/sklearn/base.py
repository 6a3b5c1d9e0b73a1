"""What both estimators share: fitting, the vectors that it leaves in the namespace of X, and the network made of them."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass
from functools import partial
from math import inf
from typing import Any, NamedTuple, Self

from sklearn.base import _fit_context
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from sklearn.utils import check_random_state
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data
from tinynet_backends import Backend, backend_of, get_backend

from tinynet.data import Columns, Loader
from tinynet.dense import Dense
from tinynet.history import History
from tinynet.losses import BinaryCrossEntropy, CrossEntropy, Loss
from tinynet.metrics import Metric
from tinynet.model import Model, undrawn
from tinynet.optim import State
from tinynet.parameters import views
from tinynet.sequential import Sequential
from tinynet.sklearn.callbacks import CallbackSupportMixin, FitTask, fit_task, with_callbacks
from tinynet.sklearn.hyperparameters import Hyperparameters
from tinynet.sklearn.loop import Loop
from tinynet.sklearn.placement import Array, check_same_home, dtype_name, home_of, move, to_host, training_backend
from tinynet.sklearn.samples import Samples
from tinynet.sklearn.trainer import Progress, Trainer


class Fitted:
    """What a fit leaves behind. Arrays are in the namespace and on the device of X."""

    theta_: Array  # (p,), all parameters
    layer_state_: Array  # (s,), what layers keep besides
    optimizer_state_: State
    net_: Sequential
    n_features_in_: int
    n_layers_: int
    n_outputs_: int
    n_iter_: int  # epochs of the last fit
    t_: int  # samples seen, also in the fits that this one continued
    loss_: float
    best_loss_: float
    loss_curve_: list[float]
    validation_scores_: list[float]
    best_validation_score_: float
    history_: list[dict[str, float]]
    classes_: Array  # (k,), of a classifier; on the host if they are not numbers
    _multilabel: bool
    _binarizer: Any  # of sparse labels; None of others
    _progress: Progress
    _fitted_loss: Loss  # of the last fit: what outputs mean follows from it, not from the parameter ``loss``
    _live: tuple[Array, Array, Model]  # the two vectors, and a model on them
    _kept: Trainer  # for the next `partial_fit`


class FitRequest(NamedTuple):
    """What is to be fitted: X (n, i) and y, validated, the backend that X lies on, and the one that trains on it in ``dtype``.

    ``continued`` is whether the last fit goes on, and ``one_epoch`` whether for one epoch only, as in `partial_fit`.
    """

    X: Array
    y: Any
    home: Backend
    ops: Backend
    dtype: str
    continued: bool
    one_epoch: bool


@dataclass(eq=False, repr=False)
class MLP(Fitted, CallbackSupportMixin, Hyperparameters):
    """Fitting, and the outputs of the network. A subclass defines what targets are and what outputs mean."""

    # What a subclass defines ------------------------------------------------------------------------------------------

    def _check_targets(self, y: Any, known: bool, home: Backend) -> Any:
        """The targets, validated. They define what the estimator predicts or, if that is ``known``, must agree with it.

        Sets ``n_outputs_``, the number of outputs of the network.
        """
        raise NotImplementedError

    def _loss(self) -> Loss:
        raise NotImplementedError

    def _targets(self, y: Any, ops: Backend, dtype: str) -> Array:
        """The targets that the loss takes, on ``ops``."""
        raise NotImplementedError

    def _loss_and_metrics(self) -> tuple[Loss, tuple[Metric, ...]]:
        """The loss and the metrics that `model_` is evaluated with."""
        raise NotImplementedError

    def _class_names(self) -> tuple[str, ...] | None:
        """The classes, of which a sample has one, as text; None where there are none."""

    def _class_weights(self, y: Any, weight: Any) -> Any:
        """A factor for each sample's weight, (n,) on the host, or None; ``weight`` (n,) or None is that weight."""

    def _strata(self, samples: Samples) -> Any:
        """Labels by which held-out samples are stratified, or None."""

    def _initial_bias(self, samples: Samples, ops: Backend) -> Array | None:
        """The outputs of the network before it has learned anything, (outputs,), or None."""

    def _score_outputs(self, y: Any, out: Array, weight: Any) -> float:
        """The score of outputs ``out`` for encoded targets ``y``, all on the host."""
        raise NotImplementedError

    @property
    def _target_options(self) -> dict[str, Any]:
        """Options of scikit-learn's `validate_data` for y."""
        return {}

    # Fitting -------------------------------------------------------------------------------------------------------

    @with_callbacks
    @_fit_context(prefer_skip_nested_validation=True)
    def fit(
        self, X: Any, y: Any, sample_weight: Any = None, *, X_val: Any = None, y_val: Any = None,
        sample_weight_val: Any = None,
    ) -> Self:  # fmt: skip
        """Train on X (n, i) and y, with sample weights (n,) of at least 0: a weight of k counts as k samples.

        ``X_val``, ``y_val`` and ``sample_weight_val`` are evaluated after each epoch (``validation_scores_``, and "val_loss"
        in ``history_``), and with ``early_stopping`` they decide when training ends. ``class_weight`` does not apply to
        them, as in Keras; it does apply to samples that ``early_stopping`` holds out, as in scikit-learn's gradient boosting.
        The errors are those of scikit-learn: ValueError for data and parameters that do not fit, TypeError for sparse X.
        """
        self._fit(X, y, sample_weight, (X_val, y_val, sample_weight_val))
        return self

    def _fit(self, X: Any, y: Any, sample_weight: Any, held_out: tuple[Any, Any, Any], one_epoch: bool = False) -> None:
        """Fit, or leave the estimator as it was if that fails."""
        with self._restored_on_failure():
            request = self._validated(X, y, one_epoch)
            with request.ops.active():
                self._train(request, sample_weight, held_out)

    def _train(self, request: FitRequest, sample_weight: Any, held_out: tuple[Any, Any, Any]) -> None:
        net, loss = self._net(self.n_outputs_), self._loss()
        if request.continued:
            self._check_same_layers(net)
        samples = self._samples(request, sample_weight, by_class=True)
        samples, test = self._split(samples, held_out, request)
        self._begin_records(request.continued)
        size = self._batch_size(len(samples))
        trainer = self._trainer(net, loss, samples, size, request)
        self._fitted_loss = loss
        self._describe(trainer.model)
        self.net_, self.n_layers_ = net, 1 + sum(isinstance(layer, Dense) for layer in net.layers)
        if self.standardize:  # once, rather than in each step
            samples = samples.standardized(trainer.model)
            test = None if test is None else test.standardized(trainer.model)
        shuffle = self.shuffle and size < len(samples)
        loader = Loader(samples.arrays(trainer.inner), size, seed=self._progress.seed, shuffle=shuffle, prefetch=False)
        loop = partial(Loop, self, self._progress, trainer, loader, test, request.home)
        if request.one_epoch:
            loop(FitTask(), 1, keep_step=True).run()
            trainer.note(self)
            self._kept = trainer
            return
        with fit_task(self, request.X, request.y, sample_weight) as task:
            ended = loop(task, self.max_iter).run()
        self._bind(trainer.model)
        if not ended:
            warnings.warn(
                f"Maximum iterations ({self.max_iter}) reached and the training has not converged yet: "
                "give a larger max_iter or learning_rate_init",
                ConvergenceWarning,
                stacklevel=6,
            )

    @contextmanager
    def _restored_on_failure(self) -> Iterator[None]:
        before = self.__dict__.copy()
        try:
            yield
        except BaseException:
            before.pop("_kept", None)  # its vectors may have changed
            callbacks = {k: v for k, v in self.__dict__.items() if k.startswith(("_skl", "_callback"))}
            self.__dict__ = {**before, **callbacks}  # scikit-learn is going to tear the callbacks down
            raise

    def _validated(self, X: Any, y: Any, one_epoch: bool) -> FitRequest:
        continued, home = hasattr(self, "theta_") and (self.warm_start or one_epoch), home_of(X)
        if continued:
            check_same_home(X, self.theta_, self, "partial_fit" if one_epoch else "fit")
        ops = training_backend(self.backend, home)
        X, y = validate_data(
            self, X, y, dtype=self._dtypes(home), multi_output=True, reset=not continued, **self._target_options
        )
        y = self._check_targets(y, continued or one_epoch, home)
        return FitRequest(X, y, home, ops, dtype_name(X), continued, one_epoch)

    def _dtypes(self, home: Backend) -> list[Any]:
        """The dtypes that X may have; anything else becomes the first."""
        names = ["float64", "float32"] if home.has_float64 else ["float32"]
        return [home.dtype(name) for name in (names if self.precision is None else [self.precision])]

    def _check_same_layers(self, net: Sequential) -> None:
        if _parameters(net, self.n_features_in_) != _parameters(self.net_, self.n_features_in_):
            raise ValueError(
                "warm_start and partial_fit continue with the network of the last fit, whose layers differ: "
                "fit with warm_start=False, or leave hidden_layer_sizes, norm, dropout and standardize as they were"
            )

    def _samples(self, request: FitRequest, weight: Any, by_class: bool = False) -> Samples:
        """The samples with ``weight``, ``by_class`` times that of their class, without those of weight 0."""
        X, y, ops, dtype = request.X, request.y, request.ops, request.dtype
        if weight is not None:
            xp = get_backend("numpy").xp
            weight = _check_sample_weight(to_host(weight), xp.empty(int(X.shape[0])), dtype=xp.float64)
            if not (weight >= 0).all():
                raise ValueError("Negative values in data passed to `sample_weight`")
        factor = self._class_weights(y, weight) if by_class else None
        if factor is not None:
            weight = factor if weight is None else weight * factor
        x, y = move(X, ops, dtype), self._targets(y, ops, dtype)
        samples = Samples(x, y, weight)
        if weight is None or weight.all():
            return samples
        if not weight.any():
            raise ValueError("Sample weights must contain at least one non-zero number.")
        return samples.take(weight.nonzero()[0], ops)

    def _split(
        self, samples: Samples, held_out: tuple[Any, Any, Any], request: FitRequest
    ) -> tuple[Samples, Samples | None]:
        """Samples to train on, and those that are held out, if any."""
        X, y, weight = held_out
        if X is not None:
            check_same_home(X, request.X, self, "fit")
            dtype = request.home.dtype(request.dtype)
            X, y = validate_data(self, X, y, dtype=dtype, multi_output=True, reset=False, **self._target_options)
            y = self._check_targets(y, True, request.home)
            test = self._samples(request._replace(X=X, y=y), weight)
            if self.early_stopping and len(test) < 2:  # R² of a single sample is NaN
                raise ValueError("The validation set is too small. Give at least two samples as X_val.")
            return samples, test
        if y is not None or weight is not None:
            raise ValueError("y_val and sample_weight_val belong to X_val, which is None: give it too")
        if not self.early_stopping:
            return samples, None
        parts = train_test_split(
            get_backend("numpy").xp.arange(len(samples)),
            test_size=self.validation_fraction,
            stratify=self._strata(samples),
            random_state=check_random_state(self.random_state),
        )
        if len(parts[1]) < 2:
            raise ValueError(
                "The validation set is too small. Increase 'validation_fraction' or the size of your dataset."
            )
        first, second = (samples.take(part, request.ops) for part in parts)
        return first, second

    def _begin_records(self, continued: bool) -> None:
        """Set everything that epochs add to: empty, or copies, so that a fit that fails leaves the originals."""
        if continued:
            for name in ("loss_curve_", "validation_scores_", "history_", "_progress"):
                setattr(self, name, copy(getattr(self, name)))
            return
        self._progress = Progress(seed=int(check_random_state(self.random_state).randint(2**31 - 1)))
        self.loss_curve_, self.validation_scores_, self.history_ = [], [], []
        self.best_loss_, self.best_validation_score_ = inf, -inf
        self.t_, self.optimizer_state_ = 0, {}

    def _trainer(self, net: Sequential, loss: Loss, samples: Samples, batch_size: int, request: FitRequest) -> Trainer:
        """A trainer of a new network, of that of the last fit, or the one that the last `partial_fit` kept."""
        n = len(samples)
        rate = self._rate(n, -(-n // batch_size), self.t_, self._progress.steps)
        if not request.one_epoch:
            self._progress.lowered = 0
        for _ in range(self._progress.lowered):
            rate.lower()
        mean_weight = 1.0 if samples.weight is None else float(samples.weight.mean())
        penalty = self.alpha / (mean_weight * batch_size)
        ingredients = (*self.get_params(deep=False).values(), self.n_outputs_, request.dtype, request.ops)
        kept: Trainer | None = self.__dict__.pop("_kept", None)
        if kept is not None and request.one_epoch and kept.continues(self, ingredients):
            kept.change(rate, penalty)
            return kept
        make, seed = undrawn if request.continued else Model, self._progress.seed
        model = make(net, self.n_features_in_, seed=seed, backend=request.ops, dtype=request.dtype)
        if request.continued:
            _fill(model, self.theta_, self.layer_state_)
        else:
            self._begin(model, samples)
        return Trainer(self, model, loss, rate, penalty, ingredients)

    def _begin(self, model: Model, samples: Samples) -> None:
        """Set what in a new network follows from the data: standardization, and the bias of its outputs."""
        if self.standardize:
            model.adapt(samples.arrays(model))
        bias = self._initial_bias(samples, model.ops)
        if bias is not None:
            model.weights()[model.gradient_names[-1]][...] = bias

    # The fitted network --------------------------------------------------------------------------------------------

    @property
    def model_(self) -> Model:
        """The network on the backend that computes, with its loss, history and names of columns.

        It is a copy: what happens to it does not change the estimator, whose numbers are ``theta_`` and ``layer_state_``.
        """
        network = self._network()
        model = network.to(network.ops)
        self._describe(model)
        return model

    def _network(self) -> Model:
        """The model that predicts."""
        check_is_fitted(self, "theta_")
        live = self.__dict__.get("_live")
        if live is None or live[0] is not self.theta_ or live[1] is not self.layer_state_:
            ops, seed = training_backend(self.backend, backend_of(self.theta_)), self._progress.seed
            self._bind(undrawn(self.net_, self.n_features_in_, seed=seed, backend=ops, dtype=dtype_name(self.theta_)))
        return self._live[2]

    def _bind(self, model: Model) -> None:
        """Make ``model`` the one that predicts: on the estimator's own vectors or, on another backend, on copies."""
        theta, state = self.theta_, self.layer_state_
        if model.ops.owns(theta):
            model._bind(theta, state)
        else:
            _fill(model, theta, state)
        self._live = theta, state, model

    def _describe(self, model: Model) -> None:
        """Give ``model`` what `fit` gives one: its loss and metrics, the history and the names of columns."""
        model.loss, model.metrics = self._loss_and_metrics()
        model.history, model.columns = History(self.history_), self._columns()

    def _columns(self) -> Columns | None:
        """The names of features, targets (as in a file: y, or y0, y1, …) and classes; None if features have no names."""
        features = tuple(map(str, getattr(self, "feature_names_in_", ())))
        if not features or len(set(features)) < len(features):
            return None
        classes, outputs = self._class_names(), self.n_outputs_
        return Columns(features, ("y",) if classes or outputs == 1 else tuple(f"y{j}" for j in range(outputs)), classes)

    @property
    def out_activation_(self) -> str:
        """What makes outputs predictions: 'softmax', 'logistic', 'exp' (of a regressor) or 'identity'."""
        loss = self._fitted_loss
        if isinstance(loss, CrossEntropy):
            return "softmax"
        return "logistic" if isinstance(loss, BinaryCrossEntropy) else "identity"

    @property
    def coefs_(self) -> tuple[Array, ...]:
        """The weights (i, o) of each dense layer, views of ``theta_``."""
        return self._dense_arrays("w")

    @property
    def intercepts_(self) -> tuple[Array, ...]:
        """The biases (o,) of each dense layer, views of ``theta_``."""
        return self._dense_arrays("b")

    def _dense_arrays(self, which: str) -> tuple[Array, ...]:
        check_is_fitted(self, "theta_")
        spec = self.net_.build((self.n_features_in_,))
        params = views(self.theta_, spec.params, backend_of(self.theta_))
        return tuple(params[str(n)][which] for n, layer in enumerate(self.net_.layers) if isinstance(layer, Dense))

    def _outputs(self, X: Any, method: str) -> tuple[Array, Backend]:
        """What the network computes for X, (n, outputs), and the backend that both lie on."""
        check_is_fitted(self, "theta_")
        check_same_home(X, self.theta_, self, method)
        home = home_of(X)
        X = validate_data(self, X, dtype=self._dtypes(home), reset=False)
        model = self._network()
        return move(model.predict(move(X, model.ops, model.dtype)), home), home

    def __getstate__(self) -> dict[str, Any]:
        state: Any = super().__getstate__()
        return {name: value for name, value in state.items() if name not in ("_live", "_kept")}

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.array_api_support = True
        return tags


def _parameters(net: Sequential, n_in: int) -> tuple[Any, Any]:
    spec = net.build((n_in,))
    return spec.params, spec.state


def _fill(model: Model, theta: Array, state: Array) -> None:
    model.theta, model.state = (move(a, model.ops, model.dtype) for a in (theta, state))
