"""``tinynet predict``: the predictions for the rows of a file or a pipe, in constant memory."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from time import perf_counter
from typing import Any

from tinynet_backends import get_backend

from tinynet.cli.common import Commands, add_backend, add_model, command, open_model
from tinynet.layers import Array
from tinynet.losses import BinaryCrossEntropy, CrossEntropy
from tinynet.model import Model

EXAMPLES = """
tinynet predict runs/iris new.csv --out out.csv     the class of each row
tinynet predict runs/iris new.csv --proba           on standard output, with probabilities
cat new.csv | tinynet predict runs/iris - | head    CSV on a pipe
tinynet predict model.safetensors x.npy --out y.npy
"""


def add(commands: Commands) -> None:
    parser = command(commands, "predict", "predict for each row of a file or a pipe", run, EXAMPLES)
    add_model(parser)
    parser.add_argument(
        "data",
        metavar="DATA",
        help=".csv, .tsv, .parquet, .npy, .npz or .h5 of any size, or - for CSV on standard input",
    )
    parser.add_argument(
        "--out",
        default="-",
        metavar="FILE",
        help=".csv, .parquet or .npy; replaced if there (default -: CSV on standard output)",
    )
    parser.add_argument("--proba", action="store_true", help="the probability of each class too (in .npy: alone)")
    add_backend(parser)


def run(args: argparse.Namespace) -> int:
    from tinynet.data.inputs import inputs
    from tinynet.data.outputs import outputs

    model = open_model(args.model, args.backend)
    names, predictions = _predictions(model, args.proba, args.out.lower().endswith(".npy"))
    start, n = perf_counter(), 0
    with outputs(args.out, names) as write:
        for x in inputs(args.data, model.in_shape, model.columns, model.dtype):
            write(predictions(model.predict(x)))
            n += x.shape[0]
    if args.out != "-":
        print(f"{args.out}: {n:,} rows in {perf_counter() - start:.1f} s", file=sys.stderr)
    return 0


def _predictions(model: Model, proba: bool, alone: bool) -> tuple[list[str], Callable[[Array], list[Array]]]:
    """The names of the output columns, and a function from the model's outputs (n, o) to these columns, on the host.

    ``proba`` adds the probabilities of the classes; with ``alone`` they replace the predicted class.
    """
    ops, loss, width = model.ops, model.loss, model.out_shape[-1]

    def columns(y: Array) -> list[Array]:
        y = ops.to_numpy(y)
        return [y[:, j] for j in range(y.shape[1])]

    binary = isinstance(loss, BinaryCrossEntropy) and width == 1
    if len(model.out_shape) != 1:
        raise ValueError(f"outputs (n, {', '.join(map(str, model.out_shape))}) are not a table: use Model.predict")
    if loss is None or not (binary or isinstance(loss, CrossEntropy)):
        if proba:
            raise ValueError(f"a model with loss {loss!r} gives no probabilities: leave --proba out")
        return ["prediction"] if width == 1 else [f"prediction{j}" for j in range(width)], columns

    k = max(width, 2)
    classes = model.columns.classes if model.columns else None
    host = get_backend("numpy").xp
    class_names: Any = None if classes is None else host.asarray(classes)

    def predictions(y: Array) -> list[Array]:
        labels = ops.to_numpy(ops.xp.astype(y[:, 0] > 0, ops.xp.int64) if binary else ops.xp.argmax(y, axis=-1))
        predicted = labels if class_names is None else class_names[labels]
        return [*([] if alone and proba else [predicted]), *(columns(loss.probabilities(y, ops)) if proba else [])]

    of_classes = list(classes or map(str, range(k))) if proba else []
    return [*([] if alone and proba else ["prediction"]), *(f"p_{name}" for name in of_classes)], predictions
