"""``tinynet train``: train a network on a virtual data set or on files."""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import fields
from datetime import datetime
from pathlib import Path
from time import perf_counter
from typing import Any

from tinynet_backends import get_backend
from tinynet_backends.switch import NAMES as BACKENDS

from tinynet import config as settings
from tinynet.atomic import write_atomically
from tinynet.checkpoints import Checkpoints
from tinynet.checks import listed
from tinynet.cli.common import ENDING, Commands, command, expand_patterns, one_line_warnings, suggest
from tinynet.cli.plot import picture
from tinynet.config import Config, parse, parse_option, read
from tinynet.data import DATASETS, Dataset, Spirals
from tinynet.data.class_labels import is_integer
from tinynet.data.reading import KINDS
from tinynet.fitting import fit
from tinynet.history import History, json_line
from tinynet.metrics import METRICS
from tinynet.model import Model
from tinynet.scaling import Scale, Scaled

EXAMPLES = """
tinynet train                                      three noisy spirals
tinynet train --data iris.csv --target species     a table with classes
tinynet train --data houses.csv --target price --exclude id,street
tinynet train --data parts/*.csv --target price    a table in several files
tinynet train --data moons --samples 1e6 --hidden 16
tinynet train --data spirals --set n_classes=5 --set noise=0.05
tinynet train runs/mine/config.toml --seed 1 --out runs/other
tinynet train --resume runs/mine                   from its last checkpoint
"""
SUGGESTED: dict[str, Iterable[str]] = {  # besides the choices that an option is limited to
    "data": DATASETS,
    "metrics": METRICS,
    "standardize": ("true", "false"),
    "backend": ("auto", *BACKENDS),
}


def add(commands: Commands) -> None:
    parser = command(commands, "train", "train a network on files, or on data that are computed", run, EXAMPLES)
    parser.add_argument(
        "config", nargs="?", metavar="CONFIG.toml", help="options from a file; those given here override it"
    )
    parser.usage = "%(prog)s [CONFIG.toml] [options]"
    groups: dict[str, Any] = {of: parser.add_argument_group(of) for of in (settings.COMPUTED, settings.STORED)}
    for f in fields(Config):
        group = groups.get(f.metadata["of"], parser)
        if f.name == "options":
            group.add_argument("--set", dest="options", action="append", metavar="NAME=VALUE", help=f.metadata["help"])
            continue
        several = {"nargs": "+"} if f.name == "data" else {}
        action = group.add_argument(
            f"--{f.name.replace('_', '-')}", dest=f.name, metavar=f.name.upper(), help=settings.help_of(f), **several
        )
        if suggested := f.metadata["choices"] or SUGGESTED.get(f.name):
            suggest(action, suggested, files=f.name == "data")
    parser.add_argument(
        "--resume",
        metavar="RUN",
        help="resume the run in this folder with its options; only epochs, metrics, backend and checkpoint may differ",
    )
    parser.add_argument("--quiet", action="store_true", help="show no progress")


def run(args: argparse.Namespace) -> int:
    config = _config(args)
    backend = get_backend(config.backend)
    data, training, held_out = config.make_split()
    scale = Scale.of(training, config.dtype) if config.scales_targets(data) else None
    validation = held_out
    if scale:
        training, validation = Scaled(training, scale), Scaled(held_out, scale)
    model = Model(config.make_net(data), data.shape, seed=config.seed, backend=backend, dtype=config.dtype)
    options = config.make_fit_options(training)
    resume = args.resume is not None
    folder = Path(args.resume) if resume else _run_folder(config)
    if not resume:
        write_atomically(folder / "config.toml", config.toml().encode())
    checkpoints = Checkpoints(folder / "checkpoints", every=config.checkpoint or None, config=config.toml())
    cleanup = nullcontext() if resume else _removed_on_error(folder, checkpoints)
    with _signals(checkpoints), one_line_warnings(), cleanup:
        print(f"{data!r}\n{model!r}\n{model.ops.versions()}")
        if config.stored:
            print(_about(data, training, validation))
        start = perf_counter()
        history = fit(
            model, training, validation=validation, checkpoint=checkpoints, resume=resume,
            progress=not args.quiet, **options,
        )  # fmt: skip
    seconds = perf_counter() - start
    if len(history) > config.epochs:
        raise ValueError(f"{folder}: has {len(history)} epochs already: give as many, or more")
    if scale:
        model = scale.undo(model)
    write_atomically(folder / "config.toml", config.toml().encode())  # a resumed run may have changed options
    write_atomically(folder / "history.jsonl", _lines(history).encode())
    model.save(folder / "model.safetensors")
    if number := next((number for number, why in ENDING.items() if why == history.stopped), 0):
        step = checkpoints.steps()[0]
        print(f"{history.stopped} after step {step}: resume with tinynet train --resume {folder}", file=sys.stderr)
        return 128 + number
    _print_results(history, config, data, training.n, None if resume else seconds)
    drawn = _write_picture(folder / "training.png", model, held_out, history, config, training.n)
    print(f"config, history, checkpoints{', model and picture' if drawn else ' and model'} are in {folder}")
    return 0


def _write_picture(path: Path, *about: Any) -> bool:
    """Write the run's picture, or say why there is none: the run itself is done and saved. Returns whether it is there."""
    try:
        write_atomically(path, picture(*about))
        return True
    except ImportError:
        print("no picture: it needs matplotlib, from the extra plot", file=sys.stderr)
    except ValueError as e:
        print(f"no picture: {e}", file=sys.stderr)
    return False


def _print_results(history: History, config: Config, data: Dataset, samples: int, seconds: float | None) -> None:
    """The samples seen, with their rate if ``seconds`` is known, and the validation metrics of the model's epoch."""
    seen = len(history) * samples
    speed = "" if seconds is None else f" in {seconds:.1f} s ({seen / seconds:,.0f} per second)"
    print(f"{seen:,} samples{speed}")
    row = history[-1]
    if history.best_epoch not in (None, row["epoch"]):
        row = next(row for row in history.rows if row["epoch"] == history.best_epoch)
        print(f"the weights are those of epoch {history.best_epoch}, the best by val_loss")
    for name, value in row.items():
        if name.startswith("val_"):
            print(f"{name} {value:.4f}")
    if isinstance(data, Spirals):
        best, _ = data.best_accuracy(range(config.samples, data.n))
        print(f"the best possible accuracy is {best:.4f}: Bayes' rule with the true densities, on the same samples")


def _about(data: Dataset, training: Dataset, validation: Dataset) -> str:
    """The targets, sample counts and weights found in files."""
    names = data.columns.classes if data.columns else None
    if data.classes:
        found = f"{data.classes} classes{f' ({listed(names)})' if names else ''}"
        if not names or all(map(is_integer, names)):
            found += ", or numbers with --task regression"
    else:
        found = "numbers"
        if isinstance(training, Scaled):
            found += ", with errors in units of their standard deviation"
        if data.outputs == 1:
            found += ", or classes with --task classification"
    host, weights = get_backend("numpy"), ""
    if any(part.rows(range(1), host, "float64").weight is not None for part in getattr(data, "parts", [data])):
        weights = f"; 'weight' has sample weights{', or a feature if --features names it' if data.columns else ''}"
    return f"target: {found}; {training.n:,} training samples, {validation.n:,} held out{weights}"


@contextmanager
def _removed_on_error(folder: Path, checkpoints: Checkpoints) -> Iterator[None]:
    """Inside, a mistake that is found before anything is saved removes the new run folder."""
    try:
        yield
    except (ValueError, TypeError, OSError, MemoryError):
        if not any(checkpoints.folder.glob("*")):
            shutil.rmtree(folder, ignore_errors=True)
        raise


@contextmanager
def _signals(checkpoints: Checkpoints) -> Iterator[None]:
    """Inside, the first of the signals `ENDING` asks the run to stop after its step; a second one kills the process."""

    def first(number: int, frame: object) -> None:
        checkpoints.stop(ENDING[number])
        for which in before:
            signal.signal(which, signal.SIG_DFL)

    if threading.current_thread() is not threading.main_thread():  # Python sets handlers in no other thread
        yield
        return
    before = {which: signal.getsignal(which) for which in ENDING if signal.getsignal(which) is not signal.SIG_IGN}
    for which in before:
        signal.signal(which, first)
    try:
        yield
    finally:
        for which, handler in before.items():
            signal.signal(which, handler)


def _config(args: argparse.Namespace) -> Config:
    """The options of the run: defaults, then those of a config file, then those of the command line."""
    path = _config_file(args)
    changes = {} if path is None else read(path)
    if args.resume is not None:
        _check_length(changes, args)
    given = {f.name: getattr(args, f.name) for f in fields(Config) if f.name not in ("options", "data")}
    if args.data is not None:
        changes["data"] = expand_patterns(args.data)
    changes |= {name: parse(name, text) for name, text in given.items() if text is not None}
    if args.options:
        changes["options"] = changes.get("options", {}) | dict(map(parse_option, args.options))
    if "backend" not in changes and (chosen := os.environ.get("TINYNET_BACKEND")):
        changes["backend"] = chosen  # so that it is written to the run's config
    config = Config().change(changes)
    return _with_whole_paths(config) if config.stored else config


def _config_file(args: argparse.Namespace) -> str | Path | None:
    """The file that the options begin with, if any: the one that is given, or that of the run to resume."""
    path: str | None = args.config
    if path is None and args.data and len(args.data) > 1 and args.data[-1].endswith(".toml"):
        path = args.data.pop()  # --data takes everything that follows it
    if args.resume is not None:
        if path is not None:
            raise ValueError(f"{path} and --resume {args.resume} are two configs: give one of them")
        if args.out is not None:
            raise ValueError(f"--out {args.out} and --resume {args.resume} are two run folders: give one of them")
        return Path(args.resume) / "config.toml"
    if path is None:
        return None
    if path in DATASETS or Path(path).suffix.lower() in KINDS:
        raise ValueError(f"{path} is data, and no config: give it as --data {path}")
    if Path(path).suffix.lower() != ".toml" and not Path(path).exists():
        raise ValueError(f"{path} is no config, a .toml file: several values are joined by commas, as --hidden 64,64")
    return path


def _with_whole_paths(config: Config) -> Config:
    """``config`` of data in files, valid from any folder; ValueError for a name that its file cannot hold."""
    config = config.change({"data": [os.path.abspath(path) for path in config.paths]})
    if config.target and config.paths[0].lower().endswith(".npy"):  # its target is a file, too
        config = config.change({"target": os.path.abspath(config.target)})
    for path in config.paths:
        if path.encode(errors="ignore").decode() != path:
            raise ValueError(f"{path!r}: a name that is not in UTF-8, which a config cannot hold: rename it")
    return config


def _check_length(old: dict[str, Any], args: argparse.Namespace) -> None:
    """ValueError for a number of epochs with which a run cannot be resumed, because its schedule ends with them."""
    schedule, epochs = (old.get(name, getattr(Config(), name)) for name in ("schedule", "epochs"))
    if args.epochs is not None and schedule != "constant" and parse("epochs", args.epochs) != epochs:
        raise ValueError(
            f"{args.resume}: its schedule {schedule} ends with {epochs} epochs, so it cannot have {args.epochs}: "
            "train anew, with --schedule constant if the number may change"
        )


def _run_folder(config: Config) -> Path:
    """A new folder for this run, made before training, so that a folder that cannot be written is reported first."""
    if config.out:
        folder = Path(config.out)
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise ValueError(f"run folder {folder} is not empty: give another with --out")
        return folder
    stem = f"{Path(config.paths[0]).stem}-{datetime.now():%Y%m%d-%H%M%S}"
    for number in range(1, 1000):
        folder = Path("runs") / (stem if number == 1 else f"{stem}-{number}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        return folder
    raise ValueError(f"run folder runs/{stem} exists a thousand times: give another with --out")


def _lines(history: History) -> str:
    """The history as JSON lines: entries of the loss curve, then one row per epoch."""
    curve = ({"step": step, "loss": loss} for step, loss in history.curve)
    return "".join(map(json_line, curve)) + history.json_lines()
