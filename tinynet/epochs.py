"""What `fit` carries from epoch to epoch: the losses of the current one, and the best weights so far."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from time import perf_counter

from tinynet import checks
from tinynet.data.loader import BatchSource
from tinynet.data.stacked import StackedLoader, samples_per_epoch
from tinynet.layers import Array
from tinynet.metrics import Metric
from tinynet.model import Model
from tinynet.training import Report


@dataclass(frozen=True)
class EarlyStopping:
    """Stop when ``monitor`` has not improved for ``patience`` epochs, and go back to the weights of the best epoch.

    ``monitor`` is "loss", "val_loss" or the name of a metric of the validation data, such as "val_accuracy". An epoch is
    better than the best one so far if the monitored number is better by more than ``min_delta``, which is at least 0.

    Examples
    --------
    >>> tn.EarlyStopping(patience=10, monitor="val_accuracy")
    EarlyStopping(patience=10, monitor='val_accuracy', min_delta=0.0)
    """

    patience: int = 5
    monitor: str = "val_loss"
    min_delta: float = 0.0

    def __post_init__(self) -> None:
        checks.coerce_positive(self, "patience")
        if not isinstance(self.monitor, str):
            text = checks.short_repr(self.monitor)
            raise TypeError(f"EarlyStopping monitor {text} is not a name: give one, such as 'loss'")
        checks.coerce_numbers(self, checks.NOT_NEGATIVE, "min_delta")


@dataclass
class Tally:
    """The losses and the time of an epoch so far."""

    total: float = 0.0
    counted: int = 0
    seconds: float = 0.0  # of the part of the epoch before the run was last resumed
    began: float = field(default_factory=perf_counter)

    def add(self, losses: Sequence[float]) -> None:
        for loss in losses:  # not sum(), which compensates: the bits would depend on where a run was stopped
            self.total += loss
        self.counted += len(losses)

    def elapsed(self) -> float:
        return self.seconds + perf_counter() - self.began

    def row(self, report: Report, loader: BatchSource | StackedLoader) -> dict[str, float]:
        """The epoch's row of the history, as far as training knows it."""
        seconds = self.elapsed()
        return {
            "epoch": report.epoch + 1,
            "step": report.step,
            "loss": self.total / self.counted,
            "seconds": round(seconds, 4),
            "samples_per_second": round(samples_per_epoch(loader) / seconds, 1),
        }

    def reset(self) -> None:
        self.total, self.counted, self.seconds, self.began = 0.0, 0, 0.0, perf_counter()


class Best:
    """The best weights so far by what early stopping monitors, and for how many epochs they have been.

    ``validated`` are the metrics of the validation data, None where there are none. ValueError if the run has nothing of the
    name that is to be monitored.
    """

    def __init__(self, stopping: EarlyStopping | None, validated: tuple[Metric, ...] | None) -> None:
        self.stopping = stopping
        self.sign = 1.0 if stopping is None else _sign(stopping.monitor, validated)
        self.kept: tuple[Array, Array] | None = None
        self.epoch, self.waited, self.value = 0, 0, float("inf")

    def see(self, row: dict[str, float], model: Model) -> str:
        """Note an epoch's row; the reason to stop, or nothing."""
        if self.stopping is None:
            return ""
        value = self.sign * row[self.stopping.monitor]
        if value < self.value - self.stopping.min_delta:
            copy = model.ops.xp.asarray
            self.kept = copy(model.theta, copy=True), copy(model.state, copy=True)
            self.epoch, self.waited, self.value = int(row["epoch"]), 0, value
            return ""
        self.waited += 1
        if self.waited < self.stopping.patience:
            return ""
        return f"{self.stopping.monitor} has not improved for {self.waited} epochs"


def _sign(monitor: str, validated: tuple[Metric, ...] | None) -> float:
    """The factor that makes the best value of what is monitored the least one."""
    larger_is_better = {"loss": False}
    if validated is not None:
        larger_is_better |= {"val_loss": False, **{f"val_{m.name}": m.larger_is_better for m in validated}}
    if monitor not in larger_is_better:
        names = ", ".join(larger_is_better)
        remedy = "give validation=, or monitor='loss'" if validated is None else f"choose from {names}"
        raise ValueError(f"early stopping cannot watch {monitor!r}: {remedy}")
    return -1.0 if larger_is_better[monitor] else 1.0
