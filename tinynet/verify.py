"""``tinynet verify``: what the library promises, checked on this machine, on the backends that are available."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import product
from pathlib import Path
from typing import Any

from tinynet_backends import Backend, get_backend, overrides
from tinynet_backends.capture import leaves
from tinynet_backends.permutation import permute, unpermute

from tinynet import activations, losses, regularization, schedules
from tinynet.checkpoints import Checkpoints
from tinynet.data import DATASETS, Loader
from tinynet.data.digest import digest
from tinynet.dense import Dense
from tinynet.gradients import TOLERANCE, layer_error, loss_error
from tinynet.layers import Layer
from tinynet.model import Model
from tinynet.operands import operands
from tinynet.optim import AdamW
from tinynet.sequential import Residual, Sequential
from tinynet.standardize import Standardize
from tinynet.streams import Stream

# First 16 digits of the SHA-256 of samples 500 to 999 of each set, of a million samples, seed 0, float32.
GOLDEN: dict[str, str] = {
    "spirals": "4cf1b4de20c0eb30",
    "blobs": "62215d188a046bf0",
    "anisotropic_blobs": "45469061b854546b",
    "moons": "5298d0a388b4be57",
    "circles": "e1c132243543f8c3",
    "checkerboard": "5ee200874d940fa6",
    "parity": "7cdb28a84e8ba177",
    "gaussian_quantiles": "2e410af45c48ddd3",
    "logistic": "a6fc6c878efd0d13",
    "linear": "f5570794d34ccb02",
    "friedman1": "2971423016c4bbad",
    "friedman2": "932a1c06a1488462",
    "friedman3": "6d90e4e39ef12072",
    "sinusoid": "d190ebf35c7dec07",
    "polynomial": "2ea19aabdc30643b",
    "sparse_uncorrelated": "4c7378701ce46af6",
    "teacher": "5cd43362d89d12c1",
}
PERMUTATION = "0b17d79a7ebd73c1"  # of the places of 0, 1, …, 99 in range(10**12) with keys 0 to 23
WEIGHTS = "b5c20ecd5090e7ad"  # of the initial weights of `_net`
ORDER = "ef70dd16b6704364"  # of the numbers of the third batch of an epoch
_SIZES = ((9, 5), (140, 241))  # samples and their width: the second have more numbers than a block of NumPy's
_ON_WORDS = {"words", "words_at", "normal", "halves", "dropout", "permute", "samples"}
_EXACT = _ON_WORDS | {"sincos", "arctan", "log", "sum_in_order", "affine_in_order", "gather"}

Check = Callable[[Backend], Iterator[str]]


def _digest(ops: Backend, *arrays: Any) -> str:
    return digest(map(ops.to_numpy, arrays))


def _gradients(ops: Backend) -> Iterator[str]:
    """gradients against differences"""
    layers: list[Layer] = [
        Dense(3), regularization.LayerNorm(), regularization.BatchNorm(), regularization.Dropout(0.3), Standardize(),
        Residual(Dense(5), activations.Tanh(), Dense(4)),
        activations.Sigmoid(), activations.Tanh(), activations.ReLU(), activations.LeakyReLU(), activations.ELU(),
        activations.GELU(), activations.SiLU(), activations.Softplus(), activations.Softmax(),
    ]  # fmt: skip
    for layer in layers:
        for train in (True, False):
            if (error := layer_error(layer, 4, ops, train=train)) > TOLERANCE:
                yield f"{layer!r} is off by {error:.1e}"
    stream = Stream(1, purpose=5)
    numbers, labels = ops.xp.reshape(stream.normal(range(40), ops=ops), (10, 4)), stream.integers(range(10), 4, ops)
    shares = ops.xp.reshape(stream.uniform(range(40), ops=ops), (10, 4))
    for loss, target in (
        (losses.SumSquaredError(), numbers), (losses.MeanSquaredError(), numbers), (losses.MeanAbsoluteError(), numbers),
        (losses.Huber(), numbers), (losses.Quantile(0.9), numbers), (losses.Poisson(), shares),
        (losses.Hinge(), ops.xp.sign(numbers)), (losses.BinaryCrossEntropy(), shares),
        (losses.CrossEntropy(0.1), labels),
    ):  # fmt: skip
        if (error := loss_error(loss, target, 4, ops)) > TOLERANCE:
            yield f"{loss!r} is off by {error:.1e}"


def _replacements(ops: Backend, *names: str) -> Iterator[str]:
    """replaced operations against portable ones"""
    for name, (n, k) in product(names or overrides(ops), _SIZES):
        reference = ops.generator if name in _ON_WORDS else ops
        for dtype, tolerance in (("float32", 1e-4), ("float64", 1e-11)):
            for a, b in zip(operands(name, ops, n, k, dtype), operands(name, reference, n, k, dtype), strict=True):
                got, wanted = getattr(ops, name)(*a), getattr(Backend, name)(reference, *b)
                for x, y in zip([*_flat(got), *_flat(a)], [*_flat(wanted), *_flat(b)], strict=True):
                    error = _difference(ops.to_numpy(x), reference.to_numpy(y))
                    if not error <= (0.0 if name in _EXACT else tolerance):
                        yield f"{name} in {dtype} is off by {error:.1e}"


def _difference(x: Any, y: Any) -> float:
    """How far apart two host arrays are: floats relative to 1 + the size of ``y``, others 0 if equal and 1 if not."""
    if y.size and y.dtype.kind == "f":
        return float(abs(x - y).max()) / (1.0 + float(abs(y).max()))
    return float((x != y).any())


def _flat(value: Any) -> list[Any]:
    """The arrays in nested tuples and lists."""
    return [a for a in leaves(value) if hasattr(a, "shape")]


def _golden(ops: Backend) -> Iterator[str]:
    """data, order and initial weights, bit for bit"""
    for name, kind in DATASETS.items():
        batch = kind(10**6).batch(range(500, 1000), ops, "float32")
        if _digest(ops, batch.x, batch.y) != GOLDEN[name]:
            yield f"data set {name} has other bits"
    if _digest(ops, Model(_net(), 2, backend=ops).theta) != WEIGHTS:
        yield "initial weights have other bits"
    if _digest(get_backend("numpy"), _loader().index(2)) != ORDER:
        yield "the order of an epoch has other bits"


def _permutations(ops: Backend) -> Iterator[str]:
    """permutations and their inverses"""
    host, keys = ops.generator, tuple(range(24))
    if _digest(host, host.permute(host.arange(0, 100), 10**12, keys)) != PERMUTATION:
        yield "the permutation of range(10**12) has other bits"
    for n in (1, 2, 3, 17, 1000, 4097):
        places = permute(host.xp, host.arange(0, n), n, keys)
        if sorted(host.to_numpy(places).tolist()) != list(range(n)):
            yield f"permute does not permute range({n})"
        if host.to_numpy(unpermute(host.xp, places, n, keys)).tolist() != list(range(n)):
            yield f"the inverse permutation of range({n}) is another one's"


def _resume(ops: Backend) -> Iterator[str]:
    """a run that is stopped and resumed, against one that is not"""
    with tempfile.TemporaryDirectory(prefix="tinynet-verify-") as folder:
        whole = short_run(ops, Path(folder) / "whole")
        for at in (1, 2, 3):
            short_run(ops, Path(folder) / f"{at}", stop=at)
            again = short_run(ops, Path(folder) / f"{at}", resume=True)
            if _digest(ops, again.theta, again.state) != _digest(ops, whole.theta, whole.state):
                yield f"stopped after epoch {at} and resumed, the weights have other bits"
        repeated = short_run(ops, Path(folder) / "again")
        if _digest(ops, repeated.theta) != _digest(ops, whole.theta):
            yield "the same run twice has other bits"


def _net() -> Sequential:
    return Sequential(
        Standardize(), Dense(16), regularization.BatchNorm(), activations.ReLU(), regularization.Dropout(0.2), Dense(3)
    )


def _loader() -> Loader:
    return Loader(DATASETS["spirals"](200), 40, seed=1, shuffle=True)


def short_run(ops: Backend, folder: Path, *, stop: int = 0, resume: bool = False) -> Model:
    """A little of everything: four epochs with batch norm, dropout, a schedule, clipping, averaging and accumulation."""
    model = Model(_net(), 2, seed=1, backend=ops)

    def kill(model: Model, row: dict[str, float]) -> None:
        if row["epoch"] == stop:
            raise _Killed

    with suppress(_Killed):
        model.fit(
            _loader(), epochs=4, optimizer=AdamW(schedules.Cosine(0.02, 20)), clip=1.0, ema=0.9, accumulate=2,
            callbacks=[kill], checkpoint=Checkpoints(folder, every=3), resume=resume,
        )  # fmt: skip
    return model


class _Killed(BaseException):
    """Ends a run as if the process had been killed."""


CHECKS: tuple[Check, ...] = (_gradients, _replacements, _golden, _permutations, _resume)


def verify(backends: list[str], say: Callable[[str], object] = print) -> bool:
    """Run every check on each backend and report with ``say``; whether all held."""
    held = True
    for name in backends:
        ops = get_backend(name)
        say(f"{ops.name}: {ops.versions()}")
        if not (ops.has_float64 and ops.generator.has_float64):
            say("  not tried: there is no float64, in which samples and gradients are computed")
            continue
        for check in CHECKS:
            with ops.active():
                failures = list(check(ops))
            held = held and not failures
            say(f"  {'FAILED' if failures else 'held  '} {check.__doc__}")
            for failure in failures:
                say(f"         {failure}")
        with tempfile.TemporaryDirectory(prefix="tinynet-verify-") as folder:
            model = short_run(ops, Path(folder))
        say(f"  fingerprint of a short run: {_digest(ops, model.theta, model.state)}")
    return held
