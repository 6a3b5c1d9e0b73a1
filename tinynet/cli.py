"""The command: ``tinynet train``, ``data``, ``verify`` and ``info``.

A user's mistake is one line on standard error and exit code 2.
"""

from __future__ import annotations

import argparse
import json
import logging
import platform
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from datetime import datetime
from pathlib import Path
from time import perf_counter

from tinynet_backends import BackendUnavailable, available_backends, get_backend

from tinynet import __version__, progress
from tinynet.atomic import write_atomically
from tinynet.checkpoints import Checkpoints
from tinynet.config import Config, parse, parse_option, read
from tinynet.data import DATASETS, Spirals, write
from tinynet.errors import DivergedError
from tinynet.fitting import EarlyStopping, fit
from tinynet.history import History
from tinynet.model import Model

EXAMPLES = """\
examples:
  tinynet train                                       three noisy spirals, 5 million samples
  tinynet train --data moons --samples 1e6 --hidden 16
  tinynet train --data spirals --set n_classes=5 --set noise=0.05
  tinynet train runs/mine/config.toml --seed 1        the same again, with another seed
  tinynet train --resume runs/mine                    on from its last checkpoint, bit for bit
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the exit code: 0 done, 1 diverged or a check that failed, 2 a mistake in what was asked, 130
    Ctrl-C, 143 SIGTERM."""
    args = _parser().parse_args(argv)
    try:
        code: int = args.run(args)
        return code
    except DivergedError as e:
        print(f"tinynet: {e}", file=sys.stderr)
        return 1
    except (ValueError, TypeError, OSError, BackendUnavailable) as e:
        print(f"tinynet: error: {_one_line(e)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("tinynet: interrupted", file=sys.stderr)
        return 130


def _one_line(e: Exception) -> str:
    if isinstance(e, OSError) and e.filename is not None:
        return f"{e.filename}: {e.strerror}"
    return " ".join(str(e).split())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("tinynet", description="A small neural network library.")
    parser.add_argument("--version", action="version", version=f"tinynet {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    train = commands.add_parser(
        "train",
        help="train a network on data that is computed, not stored",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    train.add_argument(
        "config", nargs="?", metavar="CONFIG.toml", help="options from a file; those given here count more"
    )
    for f in fields(Config):
        if f.name == "options":
            train.add_argument("--set", dest="options", action="append", metavar="NAME=VALUE", help=f.metadata["help"])
        else:
            shown = f.default if f.default_factory is not list and not callable(f.default_factory) else "64,64"
            text = f.metadata["help"] + (f" (default {shown})" if shown != "" else "")
            train.add_argument(f"--{f.name.replace('_', '-')}", dest=f.name, metavar=f.name.upper(), help=text)
    train.add_argument(
        "--resume", metavar="RUN", help="go on with the run in this folder; options given here count more"
    )
    train.add_argument("--quiet", action="store_true", help="no progress")
    train.set_defaults(run=_train)

    data = commands.add_parser(
        "data",
        help="write a virtual data set to a file",
        epilog="example:\n  tinynet data spirals --samples 1e7 --out spirals.parquet --set noise=0.2\n",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    data.add_argument("data", metavar="NAME", help=f"{', '.join(DATASETS)}")
    data.add_argument("--samples", default="1e6", help="how many (default 1e6)")
    data.add_argument("--seed", default="0", help="which of the data sets of that name (default 0)")
    data.add_argument(
        "--set", dest="options", action="append", metavar="NAME=VALUE", default=[], help="a hyperparameter"
    )
    data.add_argument(
        "--out", required=True, metavar="FILE", help=".npy, .npz, .h5, .parquet or .csv; replaced if there"
    )
    data.add_argument("--quiet", action="store_true", help="no progress")
    data.set_defaults(run=_data)

    check = commands.add_parser("verify", help="try what is promised, on every backend that is here")
    check.add_argument("--backend", action="append", metavar="NAME", help="this one only; may be given again")
    check.set_defaults(run=_verify)

    info = commands.add_parser("info", help="list the backends, and why one is not there")
    info.set_defaults(run=_info)
    return parser


def _info(args: argparse.Namespace) -> int:
    print(f"tinynet {__version__} · Python {platform.python_version()} · {platform.system()} {platform.machine()}")
    chosen, auto = get_backend().name, get_backend("auto").name
    for name, what in available_backends().items():
        marks = [mark for mark, which in (("in force", chosen), ("auto", auto)) if which == name]
        print(f"  {name:<8}{what}{f'  [{chr(44).join(marks)}]' if marks else ''}")
    return 0


def _data(args: argparse.Namespace) -> int:
    options = dict(map(parse_option, args.options))
    samples, seed = parse("samples", args.samples), parse("seed", args.seed)
    data = Config(data=args.data, samples=samples, seed=seed, options=options).make_data(samples)
    began = perf_counter()
    with progress.samples(samples, args.quiet) as shown:
        write(data, args.out, progress=shown)
    seconds = perf_counter() - began
    print(f"{data!r}\n{args.out}: {samples:,} samples, {Path(args.out).stat().st_size:,} bytes, in {seconds:.1f} s")
    return 0


def _verify(args: argparse.Namespace) -> int:
    from tinynet.verify import verify

    here = [name for name, what in available_backends().items() if not what.startswith("not here")]
    held = verify(args.backend or here)
    print("all held" if held else "NOT all held")
    return 0 if held else 1


def _train(args: argparse.Namespace) -> int:
    logging.basicConfig(level=logging.WARNING, format="tinynet: %(message)s")
    config = _config(args)
    data = config.make_data()
    training, validation = data.split(config.samples)
    model = Model(
        config.make_net(data), data.shape, seed=config.seed, backend=get_backend(config.backend), dtype=config.dtype
    )
    optimizer = config.make_optimizer()
    folder = Path(args.resume) if args.resume else _run_folder(config)
    if not args.resume:
        write_atomically(folder / "config.toml", config.toml().encode())
    checkpoints = Checkpoints(folder / "checkpoints", every=config.checkpoint or None, config=config.toml())
    print(f"{data!r}\n{model!r}\n{model.ops.versions()}")

    began = perf_counter()
    with _signals(checkpoints) as signals, _one_line_warnings():
        history = fit(
            model,
            training,
            optimizer=optimizer,
            batch_size=config.batch_size,
            epochs=config.epochs,
            validation=validation,
            clip=config.clip or None,
            ema=config.ema or None,
            accumulate=config.accumulate,
            early_stopping=EarlyStopping(config.patience) if config.patience else None,
            checkpoint=checkpoints,
            resume=bool(args.resume),
            progress=not args.quiet,
        )
    seconds = perf_counter() - began
    write_atomically(folder / "config.toml", config.toml().encode())  # of a resumed run the one that goes with it now
    write_atomically(folder / "history.jsonl", _lines(history).encode())
    model.save(folder / "model.safetensors")
    if signals and history.stopped == checkpoints.stopping:
        step = checkpoints.steps()[0]
        print(f"{history.stopped} after step {step}: go on with tinynet train --resume {folder}", file=sys.stderr)
        return 128 + signals[0]
    seen = len(history) * config.samples
    speed = "" if args.resume else f" in {seconds:.1f} s ({seen / seconds:,.0f} a second)"
    print(f"{seen:,} samples{speed}")
    for name, value in history[-1].items():
        if name.startswith("val_"):
            print(f"{name} {value:.4f}")
    if isinstance(data, Spirals):
        best, _ = data.best_accuracy(range(config.samples, data.n))
        print(
            f"the noise allows an accuracy of {best:.4f}: Bayes' rule with the data's own density, on the same samples"
        )
    _picture(model, validation, history, folder, f"{config.data}, {config.samples:,} samples")
    print(f"config, history, checkpoints, model and picture are in {folder}")
    return 0


@contextmanager
def _one_line_warnings() -> Iterator[None]:
    """Inside, a warning is a line on standard error, without a place in our code."""
    with warnings.catch_warnings():
        warnings.simplefilter("default", UserWarning)
        warnings.showwarning = lambda message, *_, **__: print(f"tinynet: {message}", file=sys.stderr)
        yield


@contextmanager
def _signals(checkpoints: Checkpoints) -> Iterator[list[int]]:
    """Inside, the first SIGINT or SIGTERM asks the run to stop after its step, and a second one ends the process."""
    caught: list[int] = []

    def first(number: int, frame: object) -> None:
        caught.append(number)
        checkpoints.stop("interrupted" if number == signal.SIGINT else "terminated")
        for which in (signal.SIGINT, signal.SIGTERM):
            signal.signal(which, signal.SIG_DFL)

    if threading.current_thread() is not threading.main_thread():  # elsewhere Python takes no handlers
        yield caught
        return
    before = {which: signal.signal(which, first) for which in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield caught
    finally:
        for which, handler in before.items():
            signal.signal(which, handler)


def _config(args: argparse.Namespace) -> Config:
    path = args.config
    if args.resume:
        if path:
            raise ValueError(f"{path} and --resume {args.resume} are two configs: give one of them")
        path = Path(args.resume) / "config.toml"
    config = Config().change(read(path)) if path else Config()
    given = {f.name: getattr(args, f.name) for f in fields(Config) if f.name != "options"}
    changes = {name: parse(name, text) for name, text in given.items() if text is not None}
    if args.options:
        changes["options"] = config.options | dict(map(parse_option, args.options))
    return config.change(changes)


def _run_folder(config: Config) -> Path:
    """A folder of its own for this run, made now: what cannot be written is known before training."""
    if config.out:
        folder = Path(config.out)
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise ValueError(f"run folder {folder} is not empty: give another with --out")
        return folder
    stem = f"{config.data}-{datetime.now():%Y%m%d-%H%M%S}"
    for number in range(1, 1000):
        folder = Path("runs") / (stem if number == 1 else f"{stem}-{number}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        return folder
    raise ValueError(f"run folder runs/{stem} exists a thousand times: give another with --out")


def _lines(history: History) -> str:
    """History as JSON lines: the mean loss of some steps, or an epoch with all that was measured."""
    steps = [json.dumps({"step": step, "loss": loss}) for step, loss in history.curve]
    return "".join(line + "\n" for line in steps) + history.json_lines()


def _picture(model: Model, data: object, history: History, folder: Path, title: str) -> None:
    from tinynet.plot import training_png

    try:
        png = training_png(model, data, history.curve, title)  # type: ignore[arg-type]
    except ImportError:
        print("no picture: it needs matplotlib, from the extra plot", file=sys.stderr)
        return
    write_atomically(folder / "training.png", png)
