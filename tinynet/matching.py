"""Whether data match a model: inputs its input shape, targets its outputs and a loss."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from tinynet_backends import Backend

from tinynet import checks
from tinynet.data.columns import check_order
from tinynet.data.conversion import as_array, check_unmasked, read_only
from tinynet.data.dataset import Batch, Dataset
from tinynet.initializers import Shape
from tinynet.layers import Array
from tinynet.losses import Loss, check_denominator, check_loss
from tinynet.metrics import Metric, check_metrics, check_one_class

if TYPE_CHECKING:
    from tinynet.network import Network


class _Inputs:
    """Inputs without targets, as a data set that has only what `predict` needs."""

    def __init__(self, x: Array, ops: Backend) -> None:
        self.x, self.ops, self.n = x, ops, int(x.shape[0])

    def batch(self, index: range, ops: Backend, dtype: str) -> Batch:
        x = self.x[index.start : index.stop, ...]
        return Batch(ops.asarray(read_only(x) if ops.owns(x) else x, dtype), None, None)


def as_inputs(x: Any, model: Network) -> Any:
    """``x`` as something with ``n`` and ``batch``; ValueError unless its shape is that of the model's inputs."""
    if isinstance(x, Dataset):
        check_inputs(x.shape, model)
        check_order(x.columns, model.columns, of_inputs=True)
        return x
    if model.columns:
        model.columns.check_frame(x)
    check_unmasked(x, "X")
    array, ops = (model.ops.xp.asarray(x), model.ops) if model.ops.owns(x) else as_array(x, "X")
    if array.ndim < 2:
        remedy = "; reshape(1, -1) makes one row" if tuple(array.shape) == model.in_shape else ""
        expected = checks.batch_shape(model.in_shape)
        raise ValueError(f"X {tuple(array.shape)} is not a table: expected {expected}{remedy}")
    if ops.xp.isdtype(array.dtype, "complex floating") or not ops.xp.isdtype(array.dtype, ("numeric", "bool")):
        raise TypeError(f"X of dtype {array.dtype} is not numeric: give real or whole numbers")
    check_inputs(tuple(array.shape[1:]), model)
    return _Inputs(array, ops)


def check_inputs(shape: Shape, model: Network) -> None:
    """ValueError unless samples of ``shape`` are what the model takes."""
    if tuple(shape) != model.in_shape:
        raise ValueError(f"samples of shape {tuple(shape)} do not fit the model: expected {model.in_shape}")


def check_fit(model: Network, data: Any, loss: Loss, metrics: Iterable[Metric] = ()) -> None:
    """ValueError unless the data's inputs fit the model and its targets the loss, the metrics and the model's outputs.

    TypeError unless ``loss`` is a loss.
    """
    check_loss(loss)
    if data.classes is not None:  # else targets may still be classes, as columns of numbers
        check_metrics(metrics, of_numbers=False)
    check_inputs(data.shape, model)
    data.check_dtype(model.dtype)  # now: validation data are read after an epoch, and wrappers read in float64
    out = model.out_shape
    if len(out) != 1:
        raise ValueError(f"the network makes {out} of a sample and a loss takes vectors: put Flatten() last")

    def check(target: Array, ops: Backend) -> None:
        loss.check(out, target, ops)
        check_denominator(loss, out, target, ops)
        if loss.binary:
            check_one_class(metrics, target, ops)

    k = loss.classes(out[-1])
    if not data.stored:
        if data.classes is None and (wanted := loss.outputs(data.outputs)) != out[-1]:
            raise ValueError(
                f"targets of width {data.outputs} do not fit outputs (n, {out[-1]}): expected outputs (n, {wanted})"
            )
        if data.classes is not None and not k:
            raise ValueError(f"{type(loss).__name__} does not take labels: use CrossEntropy, or other data")
    fits = data.classes is None or data.classes <= k
    if fits or data.stored:  # of stored data the loss names the row
        with model.ops.active():
            data.check(check, model.ops, model.dtype)
    if not fits:
        other = ", or BinaryCrossEntropy" if data.classes == 2 else ""
        raise ValueError(
            f"{data.classes} classes do not fit outputs (n, {out[-1]}): expected width {data.classes}{other}"
        )
