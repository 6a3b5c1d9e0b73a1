"""Shared by the commands: how to declare one, and how to name files and models."""

from __future__ import annotations

import argparse
import glob
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tinynet_backends import get_backend
from tinynet_backends.switch import NAMES as BACKENDS

from tinynet.checkpoints import Checkpoints
from tinynet.config import Config, read
from tinynet.data import Dataset
from tinynet.files import load
from tinynet.model import Model

# Signals that end a command, and how it says so. A closed terminal and a lost connection send SIGHUP, which Windows has not.
ENDING: dict[int, str] = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}
if hasattr(signal, "SIGHUP"):
    ENDING[signal.SIGHUP] = "hung up"
Commands = Any  # the result of argparse's add_subparsers, which has no public type


def command(
    commands: Commands, name: str, what: str, run: Callable[[argparse.Namespace], int], examples: str
) -> argparse.ArgumentParser:
    """Declare a command; ``examples``, one per line, are shown below its options."""
    lines = examples.strip().splitlines()
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=what,
        description=f"{what[0].upper()}{what[1:]}.",
        epilog="\n  ".join(["examples:" if lines[1:] else "example:", *lines]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.set_defaults(run=run)
    return parser


def suggest(action: argparse.Action, values: Iterable[str], *, files: bool = False) -> None:
    """Set the values that a shell completes an argument with; ``files``: file names too."""
    action.suggested, action.files = tuple(values), files  # type: ignore[attr-defined]


def expand_patterns(given: Sequence[str]) -> list[str]:
    """File names, patterns such as ``part-*.csv`` replaced by their matches, sorted by name."""
    names: list[str] = []
    for name in given:
        if glob.has_magic(name) and not os.path.exists(name):
            matches = sorted(glob.glob(name))
            if not matches:
                raise ValueError(f"no file matches {name!r}")
            names += matches
        else:
            names.append(name)
    return names


@contextmanager
def one_line_warnings() -> Iterator[None]:
    """Inside, a warning is one line on standard error, without file and line number."""
    with warnings.catch_warnings():
        warnings.simplefilter("default", UserWarning)
        warnings.showwarning = lambda message, *_, **__: print(f"tinynet: {message}", file=sys.stderr)
        yield


def run_data(folder: str | Path) -> tuple[Config, Dataset, Dataset]:
    """A run's config, and its samples for training and for validation.

    ValueError if these are no longer the samples that it was trained on, so that it might have seen those that the split
    holds out now.
    """
    config = Config().change(read(Path(folder) / "config.toml"))
    _, training, held_out = config.make_split()
    with one_line_warnings():
        trained_on = Checkpoints(Path(folder) / "checkpoints").read_fingerprint().get("data set or loader", "")
    if trained_on and not trained_on.startswith(f"Loader({training.fingerprint()}"):
        raise ValueError(
            f"{folder}: its data or config are not those that it was trained on, so what it held out is unknown: restore "
            "them, evaluate it on other data, or train again"
        )
    return config, training, held_out


def add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="a .safetensors file that train or save wrote, or a run folder")


def add_backend(parser: argparse.ArgumentParser) -> None:
    action = parser.add_argument(
        "--backend", metavar="NAME", help="where to compute (default $TINYNET_BACKEND, else auto)"
    )
    suggest(action, ("auto", *BACKENDS))


def check_not_input(out: str, *read: str) -> None:
    """ValueError if the file ``out`` is one of those that are read, which it would replace."""
    for name in read:
        if os.path.exists(out) and os.path.exists(name) and os.path.samefile(out, name):
            raise ValueError(f"{out} is read, and would be replaced: give another --out")


def model_file(name: str) -> Path:
    """The model's file: ``name``, or the one in the run folder of that name."""
    path = Path(name)
    return path / "model.safetensors" if path.is_dir() else path


def open_model(name: str, backend: str | None) -> Model:
    """The model in a file or run folder, on ``backend``, else the one that is set, else "auto"."""
    ops = get_backend(backend, default="auto")
    try:
        return load(model_file(name), backend=ops)
    except FileNotFoundError:
        if (Path(name) / "config.toml").is_file():
            text = f"{name}: the run is not finished and has no model yet: tinynet train --resume {name}"
            raise ValueError(text) from None
        raise
