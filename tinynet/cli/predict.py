"""``tinynet predict``: the predictions for the rows of a file or a pipe, in constant memory."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from contextlib import suppress
from time import perf_counter

from tinynet_backends import get_backend

from tinynet.checks import batch_shape
from tinynet.cli.common import Commands, add_backend, add_model, check_not_input, command, expand_patterns, open_model
from tinynet.data.class_labels import is_integer
from tinynet.labels import as_labels, boundary
from tinynet.layers import Array
from tinynet.model import Model

EXAMPLES = """
tinynet predict runs/iris new.csv --out out.csv    the class of each row
tinynet predict runs/iris new.csv --proba          with probabilities
cat new.csv | tinynet predict runs/iris - | head   CSV on a pipe
tinynet predict model.safetensors x.npy --out y.npy
"""


def add(commands: Commands) -> None:
    parser = command(commands, "predict", "predict for each row of a file or a pipe", run, EXAMPLES)
    add_model(parser)
    parser.add_argument(
        "data",
        nargs="+",
        metavar="DATA",
        help=".csv, .tsv, .parquet, .npy, .npz or .h5 of any size, or several; or - for CSV on standard input",
    )
    parser.add_argument(
        "--out",
        default="-",
        metavar="FILE",
        help=".csv, .parquet or .npy; replaced if there (default -: CSV on standard output)",
    )
    parser.add_argument(
        "--proba", action="store_true", help="the probability of each class, or output, too (in .npy: alone)"
    )
    add_backend(parser)


def run(args: argparse.Namespace) -> int:
    from tinynet.data.inputs import read_inputs
    from tinynet.data.outputs import output_writer

    model = open_model(args.model, args.backend)
    names, predictions = _predictions(model, args.proba, args.out.lower().endswith(".npy"))
    start, n = perf_counter(), 0
    paths = expand_patterns(args.data)
    check_not_input(args.out, *paths)
    with output_writer(args.out, names) as write:
        for path in paths:
            for x in read_inputs(path, model.in_shape, model.columns, model.dtype):
                write(predictions(model.predict(x)))
                n += x.shape[0]
    if args.out != "-":
        print(f"{args.out}: {n:,} rows in {perf_counter() - start:.1f} s", file=sys.stderr)
    return 0


def _predictions(model: Model, proba: bool, alone: bool) -> tuple[list[str], Callable[[Array], list[Array]]]:
    """The names of the output columns, and a function from the model's outputs (n, o) to these columns, on the host.

    Predictions are classes or, where outputs stand for none, the outputs. ``proba`` adds the probabilities, of classes or
    of each output for itself; with ``alone`` they are all.
    """
    ops, loss = model.ops, model.loss
    if len(model.out_shape) != 1:
        raise ValueError(f"outputs {batch_shape(model.out_shape)} are not a table: use Model.predict")
    width = model.out_shape[0]
    shown = not (alone and proba)
    of_classes = loss is not None and loss.classes(width) > 0
    targets, classes = (model.columns.target, model.columns.classes) if model.columns else (None, None)
    values = None if classes is None else _values(classes)

    def columns(y: Array) -> list[Array]:
        y = ops.to_numpy(y)
        return [y[:, j] for j in range(y.shape[1])]

    def predictions(y: Array) -> list[Array]:
        first: list[Array] = []
        if shown and of_classes:
            labels = ops.to_numpy(as_labels(y, ops.xp, boundary(model.net)))
            first = [labels if values is None else values[labels]]
        elif shown:
            first = columns(y)
        return [*first, *columns(loss.probabilities(y, ops))] if loss and proba else first

    names = ["prediction"] if of_classes or width == 1 else [f"prediction{j}" for j in range(width)]
    if not proba:
        return names, predictions
    row = ops.zeros((1, *model.in_shape), ops.dtype(model.dtype))
    k = int(model.predict_proba(row).shape[-1])  # raises the error of a model without probabilities
    each = values if of_classes else targets or None
    probabilities = [f"p_{name}" for name in (range(k) if each is None else each)]
    return [*([] if alone else names), *probabilities], predictions


def _values(classes: tuple[str, ...]) -> Array:
    """The classes (k,) as a table has them: true and false, whole numbers, or text."""
    xp = get_backend("numpy").xp
    if classes == ("false", "true"):
        return xp.asarray([False, True])
    if all(map(is_integer, classes)):
        with suppress(OverflowError):  # numbers of 20 digits, such as those of accounts, are text in a table
            return xp.asarray(list(map(int, classes)), dtype=xp.int64)
    return xp.asarray(classes)
