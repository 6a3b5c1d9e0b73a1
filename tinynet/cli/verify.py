"""``tinynet verify``: check what is promised, on every backend."""

from __future__ import annotations

import argparse

from tinynet_backends.switch import NAMES as BACKENDS
from tinynet_backends.switch import usable_backends

from tinynet.cli.common import Commands, command, suggest

EXAMPLES = """
tinynet verify
tinynet verify --backend numpy --backend strict:device1
"""


def add(commands: Commands) -> None:
    parser = command(commands, "verify", "check what is promised, on every available backend", run, EXAMPLES)
    action = parser.add_argument("--backend", action="append", metavar="NAME", help="this one only; may be given again")
    suggest(action, BACKENDS)


def run(args: argparse.Namespace) -> int:
    from tinynet.verify import verify

    held = verify(args.backend or usable_backends())
    print("all held" if held else "NOT all held")
    return 0 if held else 1
