"""``tinynet evaluate``: the loss and metrics of a model on data."""

from __future__ import annotations

import argparse
from pathlib import Path

from tinynet.cli.common import Commands, add_backend, add_model, command, expand_patterns, open_model, run_data, suggest
from tinynet.cli.data import add_virtual_options, virtual_config
from tinynet.config import COMPUTED, STORED, parse
from tinynet.data import DATASETS, Dataset
from tinynet.data import read as read_data
from tinynet.data.reading import KINDS
from tinynet.metrics import METRICS, Metric, as_metrics, check_metrics
from tinynet.model import Model

EXAMPLES = """
tinynet evaluate runs/iris                         on what the run held out
tinynet evaluate runs/iris --data new.csv --metrics accuracy,f1
tinynet evaluate runs/iris --data 'new/*.csv'
tinynet evaluate model.safetensors --data spirals --samples 1e6 --seed 1
"""
SAMPLES = "1e5"
RUN = "data that the run held out"


def add(commands: Commands) -> None:
    parser = command(commands, "evaluate", "measure the loss and metrics of a model", run, EXAMPLES)
    add_model(parser)
    action = parser.add_argument(
        "--data",
        metavar="DATA",
        action="append",
        help=f"a file, a pattern of several ({', '.join(KINDS)}) or a data set's name (default: what the run held out)",
    )
    suggest(action, DATASETS, files=True)
    parser.add_argument("--target", metavar="NAME", help="column of the file, if not the one that the model predicts")
    action = parser.add_argument("--metrics", help=f"any of {', '.join(METRICS)} (default those of the training)")
    suggest(action, METRICS)
    add_virtual_options(parser, SAMPLES)
    add_backend(parser)


def run(args: argparse.Namespace) -> int:
    model = open_model(args.model, args.backend)
    metrics = as_metrics(parse("metrics", args.metrics)) if args.metrics else model.metrics
    if any(metric.of_numbers for metric in model.metrics):  # what it was trained to predict
        check_metrics(metrics, of_numbers=True)
    for name, value in model.evaluate(_data(args, model, metrics), metrics=metrics).items():
        print(f"{name} {value:.6g}")
    return 0


def _check_options(args: argparse.Namespace, of: str) -> None:
    """ValueError if an option is given that is for another kind of data than ``of``."""
    for name, given, wanted in (
        ("--target", args.target, STORED),
        ("--samples", args.samples, COMPUTED),
        ("--seed", args.seed, COMPUTED),
        ("--set", args.options, COMPUTED),
    ):
        if given is not None and wanted != of:
            raise ValueError(f"{name} is for {wanted}, and these are {of}: leave it out")


def _data(args: argparse.Namespace, model: Model, metrics: tuple[Metric, ...]) -> Dataset:
    if args.data is None:
        if not (Path(args.model) / "config.toml").is_file():
            raise ValueError(f"{args.model} is not a run folder, which would have its own data: give --data")
        _check_options(args, RUN)
        return run_data(args.model)[2]
    if len(args.data) == 1 and args.data[0] in DATASETS:
        _check_options(args, COMPUTED)
        config = virtual_config(args.data[0], args, SAMPLES)
        return config.make_data(config.samples)
    _check_options(args, STORED)
    loss = model.loss
    labels = loss is not None and loss.classes(model.out_shape[-1])
    if loss is not None and not loss.labels and any(metric.of_numbers for metric in metrics):
        labels = 0  # the loss takes labels and numbers, these metrics only numbers
    files = expand_patterns(args.data)
    data = read_data(files, target=args.target, task=None if labels else "regression", columns=model.columns)
    if loss is not None and loss.labels and data.outputs == 1 and data.columns is None:
        return read_data(files, target=args.target, task="classification")  # labels in an array of a floating type
    return data
