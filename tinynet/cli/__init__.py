"""The command ``tinynet``: one file per subcommand, with ``add``, which declares its arguments, and ``run``.

A user's mistake is reported in one line on standard error, with exit code 2.
"""

from __future__ import annotations

import argparse
import errno
import io
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NoReturn

from tinynet_backends import BackendUnavailable

from tinynet import __version__
from tinynet.cli import bench, completion, data, evaluate, export, info, plot, predict, train, verify
from tinynet.cli.common import ENDING
from tinynet.errors import DivergedError

COMMANDS = (train, predict, evaluate, export, plot, info, data, bench, verify, completion)
EXAMPLES = """\
examples:
  tinynet train --data iris.csv --target species     train on a table
  tinynet predict runs/iris new.csv --out out.csv    predict for new rows
  tinynet train                                      three noisy spirals
  tinynet train --help                               all options of a command
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code.

    0 success, 1 diverged or a failed check, 2 a mistake in the request, 129 SIGHUP, 130 Ctrl-C, 141 the reader of the output
    closed it, 143 SIGTERM.
    """
    if sys.stderr is None:  # how Python represents a closed one
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - for as long as the process lasts
    logging.basicConfig(level=logging.WARNING, format="tinynet: %(message)s")
    try:
        if sys.stdout is None:
            raise OSError("standard output: is closed")
        if isinstance(sys.stdout, io.TextIOWrapper):
            # a terminal that lacks a letter of a name shows its number
            sys.stdout.reconfigure(errors="backslashreplace")
        try:
            args = parser().parse_args(argv)
            with _termination():
                code: int = args.run(args)
        finally:
            sys.stdout.flush()  # a closed pipe or a full disk raises here, not at interpreter exit
        return code
    except BrokenPipeError:
        _discard_output()
        return 141
    except DivergedError as e:
        _say(str(e))
        return 1
    except (ValueError, TypeError, OSError, MemoryError, BackendUnavailable) as e:
        if isinstance(e, OSError) and e.errno == errno.ENOSPC:
            _discard_output()
        _say(f"error: {_one_line(e)}")
        return 2
    except KeyboardInterrupt:
        return _ended_by(signal.SIGINT)
    except _Terminated as e:
        return _ended_by(e.number)


class _Terminated(BaseException):
    """SIGTERM or SIGHUP."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@contextmanager
def _termination() -> Iterator[None]:
    """Inside, SIGTERM and SIGHUP end a command as Ctrl-C does, so that incomplete files are deleted; a second one kills it."""

    def first(number: int, frame: object) -> None:
        signal.signal(number, signal.SIG_DFL)
        raise _Terminated(number)

    main = threading.current_thread() is threading.main_thread()  # Python sets handlers in no other thread
    # not those that are ignored, as nohup does; Python raises an exception for Ctrl-C itself
    usual = [number for number in ENDING if main and signal.getsignal(number) is signal.SIG_DFL]
    for number in usual:
        signal.signal(number, first)
    try:
        yield
    finally:
        for number in usual:
            signal.signal(number, signal.SIG_DFL)


def _ended_by(number: int) -> int:
    """Say that a signal ended the command, and return the exit code for it, as shells count."""
    _say(ENDING[number])
    return 128 + number


def _say(text: str) -> None:
    with suppress(OSError):  # a full disk, or a terminal that is gone
        print(f"tinynet: {text}", file=sys.stderr)


def _one_line(e: Exception) -> str:
    text = str(e) or "out of memory"
    if isinstance(e, OSError) and e.strerror is not None:
        text = e.strerror if e.filename is None else f"{e.filename}: {e.strerror}"
    return " ".join(line.strip() for line in text.splitlines())


def _discard_output() -> None:
    """Send what is left in the buffers to the null device, so that the interpreter exits without an error."""
    null = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, sys.stdout.fileno())
    except (OSError, ValueError):  # standard output is no file
        pass
    finally:
        os.close(null)


class _Parser(argparse.ArgumentParser):
    """Reports errors in one line; also what a command does not know, which argparse leaves to the parser of all."""

    def parse_known_args(  # pyright: ignore[reportIncompatibleMethodOverride] - the original is overloaded
        self, args: Any = None, namespace: Any = None
    ) -> tuple[Any, list[str]]:
        found, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return found, unknown

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"tinynet: error: {message}: see {self.prog} --help\n")


def _formatter(prog: str) -> argparse.HelpFormatter:
    """Commands and their help side by side: argparse leaves out the indent of commands when it measures them."""
    formatter = argparse.RawDescriptionHelpFormatter(prog)
    formatter._action_max_length = 4 + max(len(command.__name__.rpartition(".")[2]) for command in COMMANDS)
    return formatter


def parser() -> argparse.ArgumentParser:
    """The parser of all commands and options, for arguments, help and completion."""
    main = _Parser(
        "tinynet",
        description="Train a small neural network on a table or on computed data, and use it.",
        epilog=EXAMPLES,
        formatter_class=_formatter,
        allow_abbrev=False,
    )
    main.add_argument("--version", action="version", version=f"tinynet {__version__}")
    commands = main.add_subparsers(title="commands", required=True, metavar="COMMAND", parser_class=_Parser)
    for command in COMMANDS:
        command.add(commands)
    return main
