"""``tinynet data``: write a virtual data set to a file."""

from __future__ import annotations

import argparse
from pathlib import Path
from time import perf_counter

from tinynet import progress
from tinynet.cli.common import Commands, command, suggest
from tinynet.config import Config, parse, parse_option
from tinynet.data import DATASETS, write

EXAMPLES = """
tinynet data spirals --samples 1e7 --out spirals.parquet --set noise=0.2
"""
SAMPLES = "1e6"


def add(commands: Commands) -> None:
    parser = command(commands, "data", "write a virtual data set to a file", run, EXAMPLES)
    suggest(parser.add_argument("data", metavar="NAME", help=", ".join(DATASETS)), DATASETS)
    add_virtual_options(parser, SAMPLES)
    parser.add_argument(
        "--out", required=True, metavar="FILE", help=".npy, .npz, .h5, .parquet or .csv; replaced if there"
    )
    parser.add_argument("--quiet", action="store_true", help="show no progress")


def add_virtual_options(parser: argparse.ArgumentParser, samples: str) -> None:
    """Add the options that describe a virtual data set."""
    parser.add_argument("--samples", help=f"number of samples (default {samples})")
    parser.add_argument("--seed", help="of the data set (default 0)")
    parser.add_argument(
        "--set", dest="options", action="append", metavar="NAME=VALUE", help="a hyperparameter of the data set"
    )


def virtual_config(name: str, args: argparse.Namespace, samples: str) -> Config:
    """The data set that the options of `add_virtual_options` describe; ``samples`` is the default number."""
    options = dict(map(parse_option, args.options or ()))
    n, seed = parse("samples", args.samples or samples), parse("seed", args.seed or "0")
    return Config(data=name, samples=n, seed=seed, options=options)


def run(args: argparse.Namespace) -> int:
    if args.data not in DATASETS:
        raise ValueError(f"unknown data set {args.data!r}: choose from {', '.join(DATASETS)}")
    config = virtual_config(args.data, args, SAMPLES)
    data = config.make_data(config.samples)
    start = perf_counter()
    with progress.samples(config.samples, args.quiet) as shown:
        write(data, args.out, progress=shown)
    seconds = perf_counter() - start
    size = Path(args.out).stat().st_size
    print(f"{data!r}\n{args.out}: {config.samples:,} samples, {size:,} bytes, in {seconds:.1f} s")
    return 0
