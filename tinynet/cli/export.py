"""``tinynet export``: write a model in a format that other programs read."""

from __future__ import annotations

import argparse
from pathlib import Path

from tinynet.cli.common import Commands, add_model, check_not_input, command, model_file, open_model, suggest
from tinynet.export import FORMATS

EXAMPLES = "\n".join(f"tinynet export runs/mine --to {name} --out mine{f.suffix}" for name, f in FORMATS.items())


def add(commands: Commands) -> None:
    parser = command(commands, "export", "write a model for other programs", run, EXAMPLES)
    add_model(parser)
    what = "; ".join(f"{name}: {f.what}" for name, f in FORMATS.items())
    suggest(parser.add_argument("--to", required=True, metavar="FORMAT", help=what), FORMATS)
    parser.add_argument("--out", required=True, metavar="FILE", help="replaced if there")


def run(args: argparse.Namespace) -> int:
    if args.to not in FORMATS:
        raise ValueError(f"unknown format {args.to!r}: choose from {', '.join(FORMATS)}")
    suffix = FORMATS[args.to].suffix
    if Path(args.out).suffix.lower() != suffix:  # PyTorch, for one, reads .pt by another function
        raise ValueError(f"{args.out}: unknown kind of file: choose {suffix}")
    model = open_model(args.model, "numpy")
    check_not_input(args.out, str(model_file(args.model)))
    try:
        FORMATS[args.to].write(model, args.out)
    except ImportError as e:
        raise ValueError(str(e)) from None
    print(args.out)
    return 0
