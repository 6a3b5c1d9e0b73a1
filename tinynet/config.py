"""The options of a run of the command: one flat record, from defaults, a TOML file and the command line."""

from __future__ import annotations

import csv
import json
import tomllib
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields, replace
from os import PathLike
from pathlib import Path
from typing import Any

from tinynet_backends import get_backend
from tinynet_backends.switch import NAMES as BACKENDS

from tinynet import losses, optim, schedules
from tinynet.checks import DTYPES, FRACTION, NOT_NEGATIVE, Range, at_least, float_or_nan, repeated, set_fields
from tinynet.data import DATASETS, Dataset, Virtual, stratified
from tinynet.data import read as read_data
from tinynet.data.class_labels import MOST_CLASSES
from tinynet.data.dataset import label_pieces
from tinynet.data.reading import KINDS
from tinynet.data.tables import TASKS
from tinynet.epochs import EarlyStopping
from tinynet.metrics import METRICS, as_metrics, check_metrics
from tinynet.mlp import ACTIVATIONS, NORMS, OPTIMIZERS, mlp
from tinynet.sequential import Sequential

NORM_OPTIONS = ("none", *NORMS)
SCHEDULES = ("constant", "cosine", "one_cycle")
CLASS_WEIGHTS = ("none", "balanced")

_WORDS = {int: "a whole number", float: "a number", bool: "true or false", list: "a list with commas, as 64,64"}
_WIDTHS, _NAMES = (int, "widths: expected whole numbers"), (str, "names: expected text")
COMPUTED, STORED = "data that are computed", "data in a file"
# files are usually small, so that networks soon overfit them, and their features have any scale
FOR_FILES = {"batch_size": 32, "epochs": 50, "lr": 0.003, "standardize": True, "patience": 10}


def _option(
    default: Any, text: str, of: str = "", *, choices: Iterable[str] = (), each: tuple[type, str] | None = None,
    within: Range | None = None,
) -> Any:  # fmt: skip
    """A field with its help and the kind of data it is for, by default both; each record gets its own list or dict.

    If given, ``choices`` are its only values, ``each`` is the type of a list's entries, with words for them, and
    ``within`` the range of a number.
    """
    metadata = {"help": text, "of": of, "choices": tuple(choices), "each": each, "within": within}
    if isinstance(default, (list, dict)):
        return field(default_factory=default.copy, metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Config:
    """The options of ``tinynet train``; each is a key of the TOML file and, with dashes, an option of the command."""

    data: str | list[str] = _option(
        "spirals",
        f"a file, or several that are parts of one table ({', '.join(KINDS)}); "
        f"or a virtual data set: {', '.join(DATASETS)}",
    )
    samples: int = _option(5_000_000, "training samples; none is stored", COMPUTED, within=at_least(1))
    validation: int = _option(100_000, "further samples, for validation only", COMPUTED, within=at_least(1))
    target: str = _option("", "column of a file to predict; by default y or target", STORED)
    task: str = _option(
        "auto",
        f"what to predict: {', '.join(TASKS)}; auto: classes if the target has integers or text, else numbers",
        STORED,
        choices=TASKS,
    )
    features: list[str] = _option(
        [], "columns of a file to use, as a,b; by default all but the target", STORED, each=_NAMES
    )
    exclude: list[str] = _option([], "columns of a file to leave out, as id,date", STORED, each=_NAMES)
    class_weight: str = _option(
        "none",
        f"weight of each class in the loss: {', '.join(CLASS_WEIGHTS)}; balanced: as if all were equally frequent",
        STORED,
        choices=CLASS_WEIGHTS,
    )
    held_out: float = _option(0.2, "fraction of a file's samples, of each class, for validation only", STORED)
    hidden: list[int] = _option([64, 64], "widths of the hidden layers, as 64,64", each=_WIDTHS)
    activation: str = _option("relu", f"after each hidden layer: {', '.join(ACTIVATIONS)}", choices=ACTIVATIONS)
    norm: str = _option("none", f"before each activation: {', '.join(NORM_OPTIONS)}", choices=NORM_OPTIONS)
    dropout: float = _option(0.0, "fraction dropped after each activation, in [0, 1)", within=FRACTION)
    optimizer: str = _option("adam", ", ".join(OPTIMIZERS), choices=OPTIMIZERS)
    lr: float = _option(0.01, "learning rate; with a schedule, its highest", within=NOT_NEGATIVE)
    schedule: str = _option(
        "cosine", f"how the learning rate changes over the run: {', '.join(SCHEDULES)}", choices=SCHEDULES
    )
    batch_size: int = _option(4096, "samples per step", within=at_least(1))
    epochs: int = _option(1, "passes through the data", within=at_least(1))
    standardize: bool = _option(
        False, "scale features, and numeric targets of a file, to mean 0 and variance 1: true or false"
    )
    clip: float = _option(0.0, "largest norm of the gradient; 0: no limit", within=at_least(0))
    ema: float = _option(0.0, "decay of a moving average of the weights, in [0, 1); 0: no average", within=FRACTION)
    accumulate: int = _option(1, "parts that a batch is split into", within=at_least(1))
    patience: int = _option(
        0, "epochs without a better val_loss before training stops with the best weights; 0: never", within=at_least(0)
    )
    metrics: list[str] = _option(
        [], f"validated each epoch: any of {', '.join(METRICS)}; by default accuracy for classes, else r2", each=_NAMES
    )
    backend: str = _option(
        "auto",
        f"auto, {', '.join(BACKENDS)}, or with a device, as in strict:device1; if not given, $TINYNET_BACKEND counts",
    )
    dtype: str = _option("float32", " or ".join(DTYPES), choices=DTYPES)
    seed: int = _option(0, "of the random weights, data, order and masks")
    checkpoint: int = _option(1000, "steps between two checkpoints; 0: one per epoch", within=at_least(0))
    out: str = _option("", "run folder; by default a new one in runs/")
    options: dict[str, Any] = _option({}, "hyperparameters of the data set, as noise=0.2 (in TOML a table)", COMPUTED)

    def __post_init__(self) -> None:
        set_fields(self, **{f.name: _checked(f, getattr(self, f.name)) for f in fields(self)})
        for data in self.paths:
            _check_data(data, alone=len(self.paths) == 1)
        if twice := repeated(self.paths):
            raise ValueError(f"{twice} is given twice: some of its samples would be both trained on and held out")
        as_metrics(self.metrics)

    @property
    def paths(self) -> list[str]:
        """The names in ``data``, one or several."""
        return self.data if isinstance(self.data, list) else [self.data]

    @property
    def stored(self) -> bool:
        """Whether the data are in files rather than computed."""
        return _is_file(self.paths[0])

    @property
    def name(self) -> str:
        """A short name of the data, for titles."""
        more = len(self.paths) - 1
        return Path(self.paths[0]).name + (f" and {more} more" if more else "")

    # What the options describe ------------------------------------------------------------------------------------

    def make_data(self, n: int | None = None) -> Virtual:
        """``n`` samples; by default those for training, followed by those for validation."""
        kind = DATASETS[self.paths[0]]
        known = {f.name for f in fields(kind) if f.init} - {"n", "seed"}
        for name in self.options:
            if name not in known:
                raise ValueError(f"data set {self.data} has no option {name!r}: choose from {', '.join(sorted(known))}")
        try:
            return kind(self.samples + self.validation if n is None else n, seed=self.seed, **self.options)
        except TypeError as e:
            raise ValueError(f"data set {self.data}: {e}") from None

    def make_split(self) -> tuple[Dataset, Dataset, Dataset]:
        """All samples, those for training, and those for validation."""
        if not self.stored:
            computed = self.make_data()
            return computed, *computed.split(self.samples)
        columns = {"features": self.features or None, "exclude": self.exclude}
        data = read_data(self.data, target=self.target or None, task=self.task, **columns)  # type: ignore[arg-type]
        data.check_dtype(self.dtype)
        if data.classes == 1:
            raise ValueError(f"{', '.join(self.paths)}: the target is the same in every row: there is nothing to learn")
        if data.classes and data.classes > MOST_CLASSES:
            raise ValueError(
                f"{', '.join(self.paths)}: labels up to {data.classes - 1} are more than {MOST_CLASSES} classes, too "
                "many: if they are numbers, the task is regression"
            )
        return data, *stratified(data, self.held_out, self.seed)

    def make_net(self, data: Dataset) -> Sequential:
        return mlp(
            self.hidden, data.classes or data.outputs or 1, activation=ACTIVATIONS[self.activation],
            norm=NORMS.get(self.norm), dropout=self.dropout, standardize=self.standardize, flatten=len(data.shape) > 1,
        )  # fmt: skip

    def scales_targets(self, data: Dataset) -> bool:
        """Whether numeric targets of a file are standardized, as its features are."""
        return self.stored and self.standardize and not data.classes

    def make_fit_options(self, training: Dataset) -> dict[str, Any]:
        """Options of `tinynet.fit` on ``training``, whose size decides how long a schedule is.

        ValueError for a metric, or weights, of classes that it does not have.
        """
        metrics = as_metrics(self.metrics)
        check_metrics(metrics, of_numbers=training.classes is None)
        return {
            "loss": self._make_loss(training),
            "metrics": metrics or None,
            "optimizer": self._make_optimizer(training.n),
            "batch_size": self.batch_size,
            "epochs": self.epochs,
            "clip": self.clip or None,
            "ema": self.ema or None,
            "accumulate": self.accumulate,
            "early_stopping": EarlyStopping(self.patience) if self.patience else None,
        }

    def _make_loss(self, training: Dataset) -> losses.Loss | None:
        """A loss that weighs the classes of ``training`` by n / (classes * samples of the class); None for `fit`'s default."""
        if self.class_weight == "none":
            return None
        if not training.classes:
            raise ValueError(
                "option class_weight is for classes, and the target has numbers: leave it out, or say that the task is "
                "classification"
            )
        host, counts = get_backend("numpy"), [0] * training.classes
        for labels in label_pieces(training):
            for label, count in zip(*(a.tolist() for a in host.xp.unique_counts(labels)), strict=True):
                counts[label] += count
        return losses.CrossEntropy(class_weight=tuple(training.n / (len(counts) * max(c, 1)) for c in counts))

    def _make_optimizer(self, samples: int) -> optim.Optimizer:
        steps = self.epochs * -(-samples // self.batch_size)
        rate: float | schedules.Schedule = self.lr
        if self.schedule == "cosine":
            rate = schedules.Cosine(self.lr, steps)
        elif self.schedule == "one_cycle":
            rate = schedules.OneCycle(self.lr, steps)
        return OPTIMIZERS[self.optimizer](rate)

    # As text -------------------------------------------------------------------------------------------------------

    def toml(self) -> str:
        """This record as TOML, which `read` reads."""
        of = STORED if self.stored else COMPUTED
        values = asdict(self)
        values = {f.name: values[f.name] for f in fields(self) if f.metadata["of"] in ("", of)}
        options = values.pop("options", {})
        lines = [f"{name} = {_toml(value)}" for name, value in values.items()]
        if options:
            lines += ["", "[options]", *(f"{name} = {_toml(value)}" for name, value in options.items())]
        return "\n".join(lines) + "\n"

    def change(self, changes: dict[str, Any]) -> Config:
        """A copy with some options changed; ValueError for one that does not exist, or is for the other kind of data.

        If ``data`` becomes a file, the defaults of `FOR_FILES` apply.
        """
        known = {f.name: f.metadata["of"] for f in fields(self)}
        for name in changes:
            if name not in known:
                raise ValueError(f"unknown option {name!r}: choose from {', '.join(sorted(known))}")
        new = replace(self, **changes)
        if new.stored and not self.stored:
            new = replace(self, **FOR_FILES | changes)
        of = STORED if new.stored else COMPUTED
        for name in changes:
            if known[name] not in ("", of):
                raise ValueError(f"option {name} is for {known[name]}: data {new.data!r} has no such option")
        return new


def _checked(f: Any, value: Any) -> Any:
    """The value of an option as its field holds it; ValueError unless it is one that the field may have."""
    kind, choices, each, within = type(_default(f)), *(f.metadata[name] for name in ("choices", "each", "within"))
    if f.name == "data" and type(value) is list and value:
        return value[0] if len(value) == 1 else value
    if {kind, type(value)} == {int, float} and float_or_nan(value).is_integer():  # 1 for 1.0, and 1e6 for 1000000
        value = kind(value)
    if type(value) is not kind:
        expected = "a list in brackets" if kind is list else _WORDS.get(kind, kind.__name__)
        raise ValueError(f"option {f.name} = {value!r} is of type {type(value).__name__}: expected {expected}")
    if each is not None and not all(type(entry) is each[0] for entry in value):
        raise ValueError(f"option {f.name} = {value!r} is not a list of {each[1]}")
    if choices and value not in choices:
        raise ValueError(f"unknown {f.name} {value!r}: choose from {', '.join(choices)}")
    if within is not None and not within.holds(value):
        raise ValueError(f"option {f.name} = {value!r} is out of range: give {within.text}")
    return value


def _check_data(data: Any, alone: bool) -> None:
    """ValueError unless ``data`` is the name of a file or, where it is ``alone``, of a data set."""
    if isinstance(data, str):
        if _is_file(data) or (alone and data in DATASETS):
            return
        if Path(data).suffix or Path(data).exists():
            raise ValueError(f"{data}: unknown kind of file: choose from {', '.join(KINDS)}")
    choice = f"choose from {', '.join(DATASETS)}, or give a file" if alone else "each of several is a file"
    raise ValueError(f"unknown data {data!r}: {choice} ({', '.join(KINDS)})")


def _is_file(data: str) -> bool:
    return data not in DATASETS and Path(data).suffix.lower() in KINDS


def read(path: str | PathLike[str]) -> dict[str, Any]:
    """The options that a TOML file sets; ValueError, naming the file, if it is no TOML."""
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8-sig"))  # editors on Windows write a byte-order mark
    except UnicodeDecodeError:
        raise ValueError(f"{path}: not a TOML file, which is text in UTF-8: save it in that encoding") from None
    except tomllib.TOMLDecodeError as e:
        raise ValueError(
            f"{path}: not a TOML file: {e}: give each name once, text in quotes, lists in brackets"
        ) from None


def help_of(f: Any) -> str:
    """The help of a field of `Config`, with its default."""
    default = _default(f)
    shown = ",".join(map(str, default)) if isinstance(default, list) else str(default).lower()
    shown += f"; for files {str(FOR_FILES[f.name]).lower()}" if f.name in FOR_FILES else ""
    return f"{f.metadata['help']}{f' (default {shown})' if shown else ''}"


def parse(name: str, text: str) -> Any:
    """The value of an option from the command line; integers may be written as 5_000_000 or 5e6."""
    (f,) = (f for f in fields(Config) if f.name == name)
    kind = type(_default(f))
    try:
        if kind is int:
            return _whole(text)
        if kind is bool:
            return {"true": True, "false": False}[text.lower()]
        if f.metadata["each"] is _NAMES:
            return next(csv.reader([text], skipinitialspace=True), [])
        if kind is list:
            return [_whole(part) for part in text.split(",")] if text else []
        return kind(text)
    except (ValueError, KeyError, OverflowError):
        raise ValueError(f"option {name} = {text!r} is not understood: expected {_WORDS[kind]}") from None


def parse_option(text: str) -> tuple[str, Any]:
    """Name and value from ``name=value``, a hyperparameter of the data set; the value is written as in TOML."""
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise ValueError(f"option {text!r} is not understood: expected name=value")
    try:
        return name, tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        raise ValueError(f"option {name} = {value!r} is not understood: expected a number, true or false") from None


def _whole(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        value = float(text)
        if value != int(value):
            raise
        return int(value)


def _default(f: Any) -> Any:
    return f.default_factory() if callable(f.default_factory) else f.default


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)
