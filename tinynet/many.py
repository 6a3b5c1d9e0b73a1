"""`fit_many`: n networks of one architecture trained as one, with the results of n runs on their own."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from inspect import signature
from typing import Any

from tinynet import checks
from tinynet.apart import check_apart
from tinynet.data import Dataset, Loader, as_dataset
from tinynet.data.stacked import StackedLoader, has_chunks
from tinynet.data.supply import read_in_step
from tinynet.ensemble import Ensemble
from tinynet.epochs import Tally
from tinynet.errors import Interrupted
from tinynet.evaluation import Evaluation
from tinynet.fitting import adapt, averaged, check_draws_itself, fit, with_defaults
from tinynet.layers import Array
from tinynet.losses import Loss
from tinynet.matching import check_fit
from tinynet.metrics import Metric
from tinynet.model import Model
from tinynet.optim import Optimizer
from tinynet.parameters import on_its_device
from tinynet.schedules import Schedule, rate_at
from tinynet.standardize import check_others, standardizer
from tinynet.step import Run, Step, StepOptions, make_step
from tinynet.streams import check_seed
from tinynet.training import Report, first_not_finite, loop

_ROWS = 4096  # samples times networks that are evaluated at a time


@on_its_device
def fit_many(
    model: Model,
    data: Any,
    *,
    seeds: int | Iterable[int] | None = None,
    lr: float | Schedule | Iterable[float | Schedule] | None = None,
    loss: Loss | None = None,
    optimizer: Optimizer | None = None,
    batch_size: int = 32,
    epochs: int = 1,
    validation: Any = None,
    metrics: Iterable[str | Metric] | None = None,
    shuffle: bool | None = None,
    drop_last: bool = False,
    weights: Any = None,
    balance: bool = False,
    clip: float | None = None,
    accumulate: int = 1,
    ema: float | None = None,
    **others: Any,
) -> Ensemble:
    """Train several networks like ``model``, one for each of ``seeds`` and ``lr``, as one batched computation.

    Network i is what ``Model(net, n_in, seed=seeds[i]).fit(data, optimizer=Adam(lr[i]), …)`` would give: its initial
    weights, its order of samples and its dropout masks follow from its seed. Its numbers differ by rounding alone,
    because sums are added in another order.

    ``seeds`` and ``lr``, the learning rates, are lists of one length, or one of them is a single value for all; by default
    they are the model's seed and the optimizer's learning rate. A learning rate may be a schedule. ``model`` gives the
    layers, the backend and the dtype, and is not changed. The other options are those of `fit`; TypeError for those of
    `fit` that are not listed here.

    A network that diverges does not affect the others: see `Ensemble`. Ctrl-C raises `Interrupted`, a KeyboardInterrupt
    whose ``ensemble`` has the networks with the weights of the last finished step, and the epochs so far in their histories.

    Examples
    --------
    >>> model = tn.Model(tn.Dense(1), n_in=1)
    >>> data = [[0.0], [1.0]], [[1.0], [3.0]]
    >>> networks = tn.fit_many(model, data, seeds=[0, 1, 2], optimizer=tn.SGD(0.1), epochs=300)
    >>> networks.predict([[2.0]]).round(1).ravel().tolist()
    [5.0, 5.0, 5.0]
    """
    _check_possible(data, others)
    source = data.data if isinstance(data, Loader) else as_dataset(data, model.ops)
    held_out = None if validation is None else as_dataset(validation, model.ops, source.columns)
    loss, optimizer, chosen = with_defaults(source, loss, optimizer, metrics)
    epochs = checks.positive("epochs", epochs)
    numbers, rates = _pairs(model.seed if seeds is None else seeds, optimizer.lr if lr is None else lr)
    optimizer, *_ = (replace(optimizer, lr=rate) for rate in rates)  # which checks the rates
    draw = {"shuffle": shuffle, "drop_last": drop_last, "weights": weights, "balance": balance}
    loader = StackedLoader(_loaders(data, source, numbers, batch_size, draw))
    steps = epochs * loader.steps_per_epoch
    options = StepOptions(clip, accumulate, ema)
    check_fit(model, source, loss)
    if held_out is not None:
        check_fit(model, held_out, loss, chosen)

    ensemble = Ensemble(model, numbers, rates)
    ensemble.loss, ensemble.metrics, ensemble.columns = loss, chosen, source.columns
    check_apart(ensemble, optimizer)
    run = Run(optimizer.init(ensemble.theta, ensemble.ops))
    _adapt(ensemble, source)
    if ema is not None:
        run.average = ensemble.ops.xp.asarray(ensemble.theta, copy=True)
    own = _Rates(rates, ensemble)
    if not own.constant:
        optimizer = replace(optimizer, lr=own)
    loader, source_in_step = read_in_step(loader, ensemble.ops, ensemble.dtype)
    step = make_step(ensemble, loss, optimizer, run, options, rate=own.array, source=source_in_step)
    _Session(ensemble, step, loader, held_out, Evaluation(ensemble, loss, chosen)).take(steps, own.constant)
    return ensemble


def _check_possible(data: Any, others: dict[str, Any]) -> None:
    """TypeError for options of `fit` and kinds of data that many networks cannot share."""
    for name in others:
        if name not in signature(fit).parameters:
            raise TypeError(f"fit_many got an unexpected keyword argument {name!r}")
    if others:
        names = ", ".join(others)
        raise TypeError(f"fit_many does not take {names}: all networks take the same steps; use fit for one")
    if hasattr(data, "steps_per_epoch") and not has_chunks(data):
        kind = type(data).__name__
        raise TypeError(f"fit_many does not take {kind}: give a data set, arrays, a path or a Loader")


def _loaders(data: Any, source: Dataset, seeds: list[int], batch_size: int, draw: dict[str, Any]) -> list[Loader]:
    """A loader for each seed: one for all where ``data`` is one."""
    if isinstance(data, Loader):
        check_draws_itself(data, batch_size, draw)
        return [data] * len(seeds)
    made = {seed: Loader(source, batch_size, seed=seed, **draw) for seed in dict.fromkeys(seeds)}
    return [made[seed] for seed in seeds]


class _Session:
    """A run of `fit_many`, and what happens between its steps: the losses and the validation of each network."""

    def __init__(
        self, ensemble: Ensemble, step: Step, loader: StackedLoader, held_out: Dataset | None, evaluate: Evaluation
    ) -> None:
        self.ensemble, self.step, self.loader = ensemble, step, loader
        self.held_out, self.evaluate = held_out, evaluate
        self.tallies = [Tally() for _ in ensemble.seeds]

    def take(self, steps: int, together: bool) -> None:
        """Take ``steps`` steps, or fewer if all networks diverge; ``together`` is that of `loop`."""
        ensemble, run, watch = self.ensemble, self.step.run, _Watch(self.ensemble)
        try:
            for report in loop(self.step, self.loader, steps, check=watch, together=together):
                self._after_step(report)
                if report.last_of_epoch:
                    self._after_epoch(report)
                if len(ensemble.diverged) == len(ensemble):
                    break
        except KeyboardInterrupt:
            watch.finish()
            raise Interrupted(ensemble, run.step) from None
        if run.average is not None:
            ensemble.theta[...] = run.average
        watch.finish()

    def _after_step(self, report: Report) -> None:
        columns = zip(*report.recent, strict=True)  # none if the report has no losses
        for tally, history, losses in zip(self.tallies, self.ensemble.histories, columns, strict=False):
            tally.add(losses)
            history.record(report.step, losses, report.last_of_epoch)

    def _after_epoch(self, report: Report) -> None:
        for tally, history, scores in zip(self.tallies, self.ensemble.histories, self._validated(), strict=True):
            history.rows.append(tally.row(report, self.loader) | scores)
            tally.reset()

    def _validated(self) -> list[dict[str, float]]:
        """What validation adds to each network's row."""
        if self.held_out is None:
            return [{}] * len(self.ensemble)
        with averaged(self.ensemble, self.step.run):
            scores = self.evaluate.each(self.held_out, max(_ROWS // len(self.ensemble), 256))
        return [{f"val_{name}": value for name, value in score.items()} for score in scores]


def _adapt(ensemble: Ensemble, data: Dataset) -> None:
    """Set a leading `Standardize` of all networks, by one pass over the data."""
    check_others(ensemble.net, ensemble.params, ensemble.ops)
    layer = standardizer(ensemble.net, ensemble.params)
    if layer is None:
        return
    first = ensemble[0]
    adapt(first, data)
    for name, value in (standardizer(first.net, first.params) or {}).items():
        layer[name][...] = value


class _Rates:
    """The rates of the networks: an ``array`` of theta's shape, or None where all have the same.

    As a schedule it gives the rate of the first network, after it has set the array to those of the step.
    """

    def __init__(self, rates: list[float | Schedule], ensemble: Ensemble) -> None:
        self.rates, self.ops, self.dtype = rates, ensemble.ops, ensemble.dtype
        same = all(rate == rates[0] for rate in rates)
        self.array: Array | None = None if same else self.ops.zeros(ensemble.theta.shape, ensemble.theta.dtype)
        self._last: list[float] = []
        self.constant = same or not any(map(callable, rates))
        self(0)

    def __call__(self, step: int) -> float:
        now = [rate_at(rate, step) for rate in self.rates]
        if self.array is not None and now != self._last:
            self.array[...] = self.ops.asarray(now, self.dtype)[:, None]
            self._last = now
        return now[0]


class _Watch:
    """Freezes networks that diverged: their rows become NaN, which nothing makes finite again, until the end."""

    def __init__(self, ensemble: Ensemble) -> None:
        self.ensemble = ensemble
        self.good: list[Array] = []

    def __call__(self, model: Any, losses: Array, good: list[Array], since: int) -> tuple[list[float], ...]:
        """The losses (steps, n) as a list for each step. Keeps the weights of finite networks, and freezes the others."""
        ensemble, self.good = self.ensemble, good
        ops, xp = ensemble.ops, ensemble.ops.xp
        vectors = ensemble.theta, ensemble.state
        finite = [xp.all(xp.isfinite(losses), axis=0), *(xp.all(xp.isfinite(a), axis=-1) for a in vectors)]
        sound = finite[0] & finite[1] & finite[2]
        values: list[list[float]] = ops.to_numpy(losses).tolist()
        well: list[bool] = ops.to_numpy(sound).tolist()
        for number in range(len(ensemble)):
            if not well[number] and number not in ensemble.diverged:
                self._freeze(number, [row[number] for row in values], since)
        for a, kept in zip(vectors, good, strict=True):
            kept[...] = a if all(well) else xp.where(sound[:, None], a, kept)
        return tuple(values)

    def _freeze(self, number: int, losses: list[float], since: int) -> None:
        said = f"{first_not_finite(losses, since)} is not finite; the network is back at step {since}"
        self.ensemble.diverged[number] = self.ensemble.histories[number].stopped = said
        self.ensemble.theta[number, ...] = float("nan")

    def finish(self) -> None:
        """Give frozen networks their last good weights."""
        for number in self.ensemble.diverged:
            self.ensemble.theta[number, ...] = self.good[0][number, ...]
            self.ensemble.state[number, ...] = self.good[1][number, ...]


def _pairs(seeds: Any, lr: Any) -> tuple[list[int], list[float | Schedule]]:
    """A seed and a rate for each network."""
    several = [isinstance(value, Iterable) and getattr(value, "ndim", 1) != 0 for value in (seeds, lr)]
    numbers = [*map(check_seed, seeds if several[0] else [seeds])]
    given = list(lr) if several[1] else [lr]
    rates = []
    for rate in given:
        value = rate if callable(rate) else checks.as_float(rate)
        if value is None:
            raise TypeError(f"lr {checks.short_repr(rate)} is not a number or a schedule: give one, or a list of them")
        rates.append(value)
    for name, values in (("seeds", numbers), ("lr", rates)):
        if not values:
            raise ValueError(f"{name} is empty: give at least one")
    if len(numbers) != len(rates) and 1 not in (len(numbers), len(rates)):
        raise ValueError(
            f"{len(numbers)} seeds and {len(rates)} rates do not pair: give equally many, or one of either"
        )
    n = max(len(numbers), len(rates))
    return numbers * (n // len(numbers)), rates * (n // len(rates))
