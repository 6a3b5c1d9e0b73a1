"""What goes wrong in training, found and put into words.

An inspection costs as much as a few training steps on its samples, and changes nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from math import hypot, isfinite
from typing import Any, NamedTuple

from tinynet_backends import Backend

from tinynet import checks
from tinynet.activations import Activation, Identity
from tinynet.data import Batch, as_dataset
from tinynet.data.dataset import spaced_indices
from tinynet.dense import Dense, Flatten
from tinynet.labels import last_layer
from tinynet.layers import Array
from tinynet.losses import Huber, Loss, MeanAbsoluteError, MeanSquaredError, Quantile, SumSquaredError
from tinynet.matching import check_fit
from tinynet.model import Model
from tinynet.probe import Seen, probe
from tinynet.regularization import BatchNorm, LayerNorm
from tinynet.standardize import Standardize

_log = logging.getLogger("tinynet")
_DISTANCES = (MeanSquaredError, SumSquaredError, MeanAbsoluteError, Huber, Quantile)  # between outputs and targets

# A slope with which a unit learns a thousand times more slowly than with 1: a sigmoid beyond 6.9, tanh beyond 4.1. It is
# below LeakyReLU's 0.01, which is intended.
FLAT = 1e-3
# Networks that learn well often have dead units (V. Nair, G. Hinton 2010 call it sparseness); from half on, more of a
# layer is lost than used. A unit that is active for one sample in a hundred is mistaken for a dead one with a probability
# of 0.99**512, 0.6 percent.
DEAD = 0.5
# X. Glorot, Y. Bengio (2010) draw weights so that gradients keep their size from layer to layer. Five sigmoids, whose
# slope is at most 1/4, leave 4**-5, a thousandth; a network that trains well stays far within these bounds.
SHRUNK, GROWN = 1e-3, 1e3
# Y. LeCun et al. (1998), Efficient BackProp, 4.3: mean 0 and deviation 1. The curvature of a Dense layer's loss goes
# with the square of a feature's size, so a factor of 10 is a condition number of 100.
SCALE = 10.0
# The gradient of a network that has learned nothing goes with the size of the targets. With targets of size 10, SGD(0.01)
# learns as with 1; with 30 it diverges, or all units die (64-64, ReLU), and Adam(0.001) takes longer.
LARGE = 30.0
# fastai's range test stops at four times the least loss; a run with a good rate does not return there.
RISEN = 4.0


class Finding(NamedTuple):
    """A problem that was found after ``step`` steps.

    ``kind`` is "inputs", "targets", "dead", "vanishing", "exploding" or "rate". ``place`` is the position of the layer
    ("2.0" is the first layer inside the third), or "". ``text`` is a sentence with figures and a remedy.
    """

    step: int
    kind: str
    place: str
    text: str


class Diagnosis:
    """A callback for `fit` that detects unscaled inputs and targets, dead units, vanishing or exploding gradients, divergence.

    It inspects the model on ``samples`` samples, spread evenly over ``data``: before training, after 1, 2, 4, … steps, then
    every ``every`` steps, and after each epoch. An inspection costs as much as a few training steps on these samples and
    does not change the run. Each `Finding` is kept in ``findings``, and logged once a run as a warning of the logger "tinynet".

    Examples
    --------
    >>> data = [[1000.0], [2000.0], [3000.0]], [[1.0], [2.0], [3.0]]
    >>> diagnosis = tn.Diagnosis(data)
    >>> history = tn.Model(tn.Dense(1), n_in=1).fit(data, callbacks=[diagnosis])
    >>> diagnosis.findings[0].text
    '1 of 1 features are far from mean 0 and deviation 1; feature 0 has mean 2000 and deviation 816.5: put Standardize() first'
    """

    def __init__(self, data: Any, *, every: int = 512, samples: int = 512) -> None:
        self.data, self.every = as_dataset(data), checks.positive("Diagnosis every", every)
        self.samples = min(checks.positive("Diagnosis samples", samples), self.data.n)
        self.findings: list[Finding] = []
        self.losses: list[tuple[int, float]] = []  # (step, loss) of each inspection
        self._earlier = 0  # how many findings are of runs before
        self._kept: tuple[tuple[Backend, str], Batch] | None = None

    def __call__(self, model: Model, row: dict[str, float]) -> None:
        if not self.losses or self.losses[-1][0] != row["step"]:
            self.look(model, int(row["step"]))

    def at_step(self, model: Model, step: int) -> None:
        """Inspect the model if it is time. With step 0 another run begins, whose findings and losses are its own."""
        if step == 0:
            self.losses, self._earlier = [], len(self.findings)
        if step % self.every == 0 or (step < self.every and step & (step - 1) == 0):
            self.look(model, step)

    def look(self, model: Model, step: int = 0, *, loss: Loss | None = None) -> list[Finding]:
        """Inspect the model now and return the new findings; ``loss`` is by default that of the last fit."""
        loss = model.loss if loss is None else loss
        if loss is None:
            raise ValueError("the model has no loss yet: fit it, or give look(…, loss=…)")
        batch = self._samples(model, loss)
        value, seen = probe(model, batch, loss, step=step)
        self.losses.append((step, value))
        known = {(f.kind, f.place) for f in self.findings[self._earlier :]}
        found = [
            *_inputs(model, seen), *_targets(model, seen, batch.y, loss), *self._units(model, seen),
            *_gradients(model, seen), *self._rate(),
        ]  # fmt: skip
        new = [Finding(step, *one) for one in found if one[:2] not in known]
        for finding in new:
            self.findings.append(finding)
            _log.warning("after step %d: %s", step, finding.text)
        return new

    def _samples(self, model: Model, loss: Loss) -> Batch:
        """The samples to inspect, checked and made once for each backend and dtype."""
        kind = model.ops, model.dtype
        if self._kept is None or self._kept[0] != kind:
            check_fit(model, self.data, loss)
            self._kept = kind, self.data.batch(spaced_indices(self.data.n, self.samples), *kind)
        return self._kept[1]

    def _units(self, model: Model, seen: Sequence[Seen]) -> Iterator[tuple[str, str, str]]:
        for one in seen:
            if not isinstance(one.layer, Activation) or type(one.layer).df is Activation.df:
                continue
            steepest = _host(model, _steepest, one.layer, one.x, one.y)
            dead = sum(slope < FLAT for slope in steepest)
            if dead < DEAD * len(steepest):
                continue
            zero = sum(y == 0 for y in _host(model, _largest, one.y))
            if zero >= dead:
                what, remedy = "gave 0", "lower the rate, use LeakyReLU(), or put BatchNorm() before it"
            else:
                what, remedy = f"had a slope below {FLAT:g}", "lower the rate, scale the inputs or draw smaller weights"
            text = f"{dead} of {len(steepest)} units {what} for each of {self.samples} samples: {remedy}"
            yield "dead", one.place, f"{_named(one)}: {text}"

    def _rate(self) -> Iterator[tuple[str, str, str]]:
        (begun, first), (_, last) = self.losses[0], self.losses[-1]
        at, least = min(self.losses, key=lambda look: look[1] if isfinite(look[1]) else float("inf"))
        if not isfinite(last) or (last > first and last - least > (RISEN - 1) * abs(least)):
            was = f"{least:.4g} after step {at}" if isfinite(least) else f"so from step {begun} on"
            text = (
                f"the loss of {self.samples} samples is {last:.4g}, and was {was}: "
                "lower the rate, to a tenth or what find_rate suggests, or bound the gradient with clip=1.0"
            )
            yield "rate", "", text


def _inputs(model: Model, seen: Sequence[Seen]) -> Iterator[tuple[str, str, str]]:
    """Features that are far from mean 0 and deviation 1, where a `Dense` layer takes them as they are."""
    first = next((one for one in seen if not isinstance(one.layer, (Flatten, Identity))), None)
    if first is None or not isinstance(first.layer, Dense):
        return
    mean, deviation = (_host(model, f, first.x) for f in (_mean, _deviation))
    size = [hypot(m, d) for m, d in zip(mean, deviation, strict=True)]
    # an indicator that is 1 nearly always is, but for the bias, one that is seldom 1
    other = _host(model, _not_indicated, first.x)
    far = [
        o != 0 and abs(m) > SCALE * d > 0 and abs(m) > 1 / SCALE for m, d, o in zip(mean, deviation, other, strict=True)
    ]
    bad = [j for j, s in enumerate(size) if s > SCALE or far[j]]
    # a feature that is 0, and seldom 1, has a small deviation too
    if not bad and 0 < max(size) < 1 / SCALE and max(_host(model, _largest, first.x)) < 1:
        bad = list(range(len(size)))
    if bad:
        worst = max(bad, key=size.__getitem__)
        yield "inputs", first.place, f"{_scale('feature', len(bad), worst, mean, deviation)}: put Standardize() first"


def _targets(model: Model, seen: Sequence[Seen], target: Array, loss: Loss) -> Iterator[tuple[str, str, str]]:
    """Large targets that the outputs are still far from: weights alone would have to make the outputs as large."""
    if not seen or not isinstance(loss, _DISTANCES) or isinstance(last_layer(model.net), Standardize):
        return
    size = _host(model, _size, target)
    error = _host(model, lambda xp, y, out: _size(xp, y - out), target, seen[-1].y)
    if large := sum(s > LARGE and e > LARGE for s, e in zip(size, error, strict=True)):
        worst = max(range(len(size)), key=size.__getitem__)
        mean, deviation = (_host(model, f, target) for f in (_mean, _deviation))
        remedy = "subtract that mean and divide by that deviation"
        yield "targets", "", f"{_scale('target', large, worst, mean, deviation)}: {remedy}"


def _scale(what: str, count: int, worst: int, mean: list[float], deviation: list[float]) -> str:
    """That ``count`` of the features, or of the targets, have another scale than they should, as the ``worst`` of them has."""
    return (
        f"{count} of {len(mean)} {what}s are far from mean 0 and deviation 1; {what} {worst} has mean {mean[worst]:.4g} and "
        f"deviation {deviation[worst]:.4g}"
    )


def _gradients(model: Model, seen: Sequence[Seen]) -> Iterator[tuple[str, str, str]]:
    """Gradients that vanish or explode, from the output of the last layer with parameters to that of the first.

    A layer before a normalization is left out: its gradient is in inverse proportion to the size of its outputs, which the
    normalization undoes.
    """
    followed = [isinstance(after.layer, (BatchNorm, LayerNorm)) for after in seen[1:]]
    learning = [one for one, undone in zip(seen, [*followed, False], strict=True) if one.gradients and not undone]
    if len(learning) < 2:
        return
    sizes = [_host(model, _norm, one.dy)[0] for one in learning]
    first, last = learning[0], learning[-1]
    wild = next((one for one, size in zip(learning, sizes, strict=True) if not isfinite(size)), None)
    if wild is not None:
        remedy = "lower the rate, scale the inputs or add LayerNorm()"
        yield "exploding", wild.place, f"the gradient that comes to {_named(wild)} is not finite: {remedy}"
    elif sizes[-1] > 0 and not SHRUNK <= sizes[0] / sizes[-1] <= GROWN:
        if sizes[0] < sizes[-1]:
            verb, kind = "shrinks", "vanishing"
            remedy = "use Residual(…), BatchNorm(), or ReLU() where an activation saturates"
        else:
            verb, kind, remedy = "grows", "exploding", "draw smaller weights, lower the rate or add LayerNorm()"
        if sizes[0] == 0:
            remedy = "nothing between them lets it through; lower the rate, or use LeakyReLU() or BatchNorm()"
        text = (
            f"the gradient {verb} from {sizes[-1]:.2g} at {_named(last)} to {sizes[0]:.2g} at {_named(first)}, "
            f"by a factor of {sizes[0] / sizes[-1]:.1g}: {remedy}"
        )
        yield kind, first.place, text


def _named(one: Seen) -> str:
    return f"layer {one.place} ({one.layer!r})" if one.place else repr(one.layer)


def _host(model: Model, f: Any, *args: Any) -> list[float]:
    """``f(xp, *args)`` as floats, compiled so that NumPy does not warn of overflow."""
    with model.ops.active():
        made = model.ops.compile(lambda: f(model.ops.xp, *args))()
        values: list[float] = model.ops.to_numpy(made).reshape(-1).tolist()
    return values


def _rows(xp: Any, a: Array) -> Array:
    return xp.reshape(a, (a.shape[0], -1))


def _mean(xp: Any, x: Array) -> Array:
    return xp.mean(_rows(xp, x), axis=0)


def _deviation(xp: Any, x: Array) -> Array:
    rows = _rows(xp, x)
    return xp.std(rows - rows[:1, :], axis=0)  # 0 of a constant, whose mean is rounded


def _not_indicated(xp: Any, x: Array) -> Array:
    """0 of features that are 0 or 1 in each sample."""
    rows = _rows(xp, x)
    return xp.max(xp.abs(rows * (rows - 1)), axis=0)


def _size(xp: Any, x: Array) -> Array:
    return xp.sqrt(xp.mean(_rows(xp, x) ** 2, axis=0))


def _largest(xp: Any, y: Array) -> Array:
    return xp.max(xp.abs(_rows(xp, y)), axis=0)


def _steepest(xp: Any, layer: Activation, x: Array, y: Array) -> Array:
    """The largest slope of each unit over the batch."""
    return _largest(xp, layer.df(xp, xp.ones_like(y), x, y))


def _norm(xp: Any, a: Array) -> Array:
    """The Euclidean norm, which overflows only if it is beyond the dtype's range."""
    most = xp.max(xp.abs(a))
    scale = xp.where(most > 0, most, xp.ones_like(most))
    return scale * xp.sqrt(xp.sum((a / scale) ** 2))
