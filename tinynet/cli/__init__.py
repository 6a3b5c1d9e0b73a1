"""The command ``tinynet``: a file a subcommand, each with ``add``, which says what it takes, and ``run``.

A user's mistake is one line on standard error and exit code 2.
"""

from __future__ import annotations

import argparse
import errno
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NoReturn

from tinynet_backends import BackendUnavailable

from tinynet import __version__
from tinynet.cli import bench, completion, data, evaluate, export, info, plot, predict, train, verify
from tinynet.errors import DivergedError

COMMANDS = (train, predict, evaluate, export, plot, info, data, bench, verify, completion)
EXAMPLES = """\
examples:
  tinynet train --data iris.csv --target species      a table of yours
  tinynet predict runs/iris new.csv --out said.csv    what it says of other rows
  tinynet train                                       three noisy spirals, 5 million samples
  tinynet train --help                                more of train; every command has this
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the exit code: 0 done, 1 diverged or a check that failed, 2 a mistake in what was asked, 130
    Ctrl-C, 141 whoever read the output has closed it, 143 SIGTERM."""
    logging.basicConfig(level=logging.WARNING, format="tinynet: %(message)s")
    try:
        if sys.stdout is None:  # as Python has it where it was closed
            raise OSError("standard output: is closed")
        try:
            args = parser().parse_args(argv)
            with _termination():
                code: int = args.run(args)
        finally:
            sys.stdout.flush()  # a closed pipe or a full disk is met here, not when the interpreter ends
        return code
    except BrokenPipeError:
        _let_go_of_output()
        return 141
    except DivergedError as e:
        print(f"tinynet: {e}", file=sys.stderr)
        return 1
    except (ValueError, TypeError, OSError, MemoryError, BackendUnavailable) as e:
        if isinstance(e, OSError) and e.errno == errno.ENOSPC:
            _let_go_of_output()
        print(f"tinynet: error: {_one_line(e)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("tinynet: interrupted", file=sys.stderr)
        return 130
    except _Terminated:
        print("tinynet: terminated", file=sys.stderr)
        return 143


class _Terminated(BaseException):
    """SIGTERM."""


@contextmanager
def _termination() -> Iterator[None]:
    """Inside, SIGTERM ends a command as Ctrl-C does, so that what is half written is deleted; a second one ends the
    process."""

    def first(number: int, frame: object) -> None:
        signal.signal(number, signal.SIG_DFL)
        raise _Terminated

    ours = threading.current_thread() is threading.main_thread()  # elsewhere Python takes no handlers
    if not ours or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, first)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _one_line(e: Exception) -> str:
    if isinstance(e, OSError) and e.strerror is not None:
        return e.strerror if e.filename is None else f"{e.filename}: {e.strerror}"
    return " ".join(str(e).split()) or "out of memory"


def _let_go_of_output() -> None:
    """What is still in the buffers goes nowhere, so that the interpreter can end without a word."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, sys.stdout.fileno())
    except (OSError, ValueError):  # standard output is no file
        pass
    finally:
        os.close(nowhere)


class _Parser(argparse.ArgumentParser):
    """Says a mistake in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"tinynet: error: {message}: see {self.prog} --help\n")


def parser() -> argparse.ArgumentParser:
    """Commands and options, for reading arguments, help and completion."""
    whole = _Parser(
        "tinynet",
        description="A small neural network library.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    whole.add_argument("--version", action="version", version=f"tinynet {__version__}")
    commands = whole.add_subparsers(title="commands", required=True, metavar="COMMAND", parser_class=_Parser)
    for command in COMMANDS:
        command.add(commands)
    return whole
