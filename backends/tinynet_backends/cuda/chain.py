"""A chain of dense layers with ReLU between them: bias and ReLU in the products' epilogues.

In the backward pass, one pass over memory does everything between two products. If products take bfloat16, so is what lies
between layers. cublasLt has ReLU's gradient as an epilogue too, but on Hopper runs it as a separate kernel that takes three
times as long as a pass over memory (an H200, cuBLAS 13: 104 µs for 8192 x 2048 in bfloat16).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

from tinynet_backends.backend import Array, DenseLayer, Gradients
from tinynet_backends.cuda.operations import Sum
from tinynet_backends.cuda.plan import PIECES, STORED, Epilogue, padded
from tinynet_backends.tracing import traced

_HALF = STORED["bfloat16"]


def _relu(xp: Any, x: Array) -> Array:
    return xp.maximum(x, 0.0)


def _relu_grad(xp: Any, dy: Array, x: Array, y: Array) -> Array:
    return xp.where(y > 0, dy, xp.zeros_like(dy))


RELU = traced(_relu, 1), traced(_relu_grad, 3)


def fits(x: Array, layers: Sequence[DenseLayer]) -> bool:
    """Whether a `Chain` can compute these layers."""
    return (
        x.ndim == 2
        and x.size > 0
        and x.dtype.name in ("float32", "float64")
        and any(layer.f is not None for layer in layers)
        and all(w.ndim == 2 and w.dtype == x.dtype and w.flags.c_contiguous for w, *_ in layers)
        and all(b is None or b.flags.c_contiguous for _, b, *_ in layers)
        and all(f is None or df is None or (traced(f, 1), traced(df, 3)) == RELU for *_, f, df in layers)
    )


class Pass:
    """Forward and backward pass through layers, on ``ops`` (`cuda.device`)."""

    ops: Any

    def forward(self, x: Array) -> Array | None:
        """The last layer's output; None if cublasLt has no algorithm for one of the layers."""
        raise NotImplementedError

    def back(self, dy: Array, sums: list[Sum]) -> Gradients:
        """`backward`, except that pending sums are appended to ``sums``."""
        raise NotImplementedError

    def backward(self, dy: Array) -> Gradients:
        """The gradient of the input, if it is needed, and those of each layer's weights and bias."""
        sums: list[Sum] = []
        gradients = self.back(dy, sums)
        self.ops.add_up(sums)
        return gradients


class Chain(Pass):
    """Products, with one pass over memory between two of them in the backward pass.

    With bfloat16 operands, outputs of inner layers are stored in bfloat16, and so are the gradients that products return;
    biases are rounded too, because epilogues read them in the type of the result. The last layer's output and all returned
    gradients are float32. Widths of operands are padded with zeros to multiples of 8: tensor cores take twice as long if
    rows are not aligned. They do, too, if the result has another width, so a product is as wide as its operands, and one pass
    then leaves out the padding. Weights may have been rounded when they were updated (`cuda.copies`).

    With precision bf16x3 everything is stored in float32, and in three pieces where it is an operand (kernels/round.cu):
    (n, 3, k). That is (n, 3 k) where features are added up, and (3 n, k) where samples are, so one copy serves a product
    of the forward pass and one of the backward pass. Only weights, contracted along either axis, take two.

    With ``through``, the incoming gradient has already passed the last ReLU and is in the type that products take, and
    the last bias is left out. With ``beside``, gradients of weights are computed concurrently with the rest of the
    backward pass.
    """

    def __init__(
        self, ops: Any, layers: Sequence[DenseLayer], need_dx: bool, through: bool = False, beside: bool = False
    ) -> None:
        self.ops, self.products, self.layers, self.need_dx = ops, ops._products, layers, need_dx
        self.through, self.beside = through, beside

    def forward(self, x: Array) -> Array | None:
        self.inputs: list[Array] = []  # as operands
        self.outputs: list[Array] = []
        self.real, precision = x.dtype, self.products.precision if x.dtype.name == "float32" else ""
        self.half, self.pieces = precision == "bf16", PIECES if precision == "bf16x3" else 1
        biases = [layer.b for layer in self.layers]
        if self.half:
            x, self.weights, biases = self._rounded(x, biases)
        elif self.pieces > 1:
            x, self.weights, self.transposed = self._split(x)
        else:
            self.weights = [layer.w for layer in self.layers]
        for n, (w, b, layer) in enumerate(zip(self.weights, biases, self.layers, strict=True)):
            if n:
                x = self._operand(self.outputs[-1], 0)
            self.inputs.append(x)
            half = self.half and layer is not self.layers[-1]
            y = self.ops.empty((len(x), w.shape[1] if half else layer.w.shape[1]), _HALF if half else self.real)
            if not self._multiplied(x, w, y, b, layer.f is not None):
                return None
            self.outputs.append(y)
        return self.outputs[-1]

    def back(self, dy: Array, sums: list[Sum]) -> Gradients:
        runtime, last = self.ops._runtime, len(self.layers) - 1
        beside = runtime.beside if self.beside else nullcontext
        used: list[Any] = [dy]  # keeps alive what the side stream reads
        if not dy.flags.c_contiguous:
            dy = dy.copy()
        gradients: list[tuple[Array, Array | None]] = []
        dx = None
        for n in reversed(range(last + 1)):
            w, b, f, _ = self.layers[n]
            y = None if f is None else self.outputs[n]
            dz = dy  # a product's result may be changed in place, the incoming gradient not
            if n == last and self.through:
                b = y = None
            elif n == last and self.half:
                dz = self.ops.empty((len(dy), padded(dy.shape[1])), _HALF)
            elif n == last:
                dz = dy if y is None else self.ops.empty(dy.shape, self.real)
            (i, o), x = w.shape, self.inputs[n]
            dw = self.ops.gradient(w.shape, self.real)
            db = None if b is None else self.ops.gradient(b.shape, self.real)
            if db is not None or y is not None or dz is not dy:
                pending = self.ops.back(o, dy, y, None if dz is dy and y is None else dz, db)
                sums += [] if pending is None else [pending]
            dz = self._operand(dz, 1)
            with beside():
                self._multiply(self._along_rows(x)[:, :i].swapaxes(0, 1), self._along_rows(dz), dw)
            gradients.append((dw, db))
            used.append(dz)
            if n or self.need_dx:
                half = self.half and n > 0
                dy = self.ops.empty((len(dz), x.shape[1] if half else i), _HALF if half else self.real)
                self._multiply(dz, self._transposed(n), dy)
                dx = None if n else dy
        if self.beside:
            runtime.join()
        return dx, gradients[::-1]

    def _multiply(self, x: Array, w: Array, out: Array) -> None:
        if not self._multiplied(x, w, out):
            raise RuntimeError(f"cublasLt has no algorithm for the product of {x.shape} and {w.shape}: update cuBLAS")

    def _multiplied(self, x: Array, w: Array, out: Array, b: Array | None = None, relu: bool = False) -> bool:
        """``out = x @ w + b``, with ``relu`` not below 0; False if cublasLt cannot. ``x`` and ``w`` may be padded."""
        if w.shape[1] == out.shape[1]:
            return self.products.product(x, w, _epilogue(b, relu), b, out=out) is not None
        wide = self.ops.empty((len(x), w.shape[1]), out.dtype)
        if self.products.product(x, w, out=wide) is None:
            return False
        self.ops.unpadded(wide, b, relu, out)
        return True

    def _operand(self, a: Array, lo: int) -> Array:
        """An output or gradient as the operand of products, in which it is the first or second (``lo`` 0 or 1)."""
        if self.pieces == 1:
            return a
        made = self._beside_one_another(a)
        self.ops.split([a], [made], [lo])
        return _in_rows(made)

    def _beside_one_another(self, a: Array) -> Array:
        """Memory for the pieces (3, n, k) of a matrix, which are neighbours in each row."""
        return self.ops.empty((len(a), self.pieces, padded(a.shape[1])), _HALF).swapaxes(0, 1)

    def _along_rows(self, a: Array) -> Array:
        """An operand with its pieces as rows: those of a row are neighbours in memory."""
        return a.reshape((self.pieces * len(a), -1)) if self.pieces > 1 else a

    def _transposed(self, n: int) -> Array:
        """The transposed weights of a layer as an operand."""
        return self.transposed[n] if self.pieces > 1 else self.weights[n].swapaxes(0, 1)

    def _rounded(self, x: Array, biases: list[Array | None]) -> tuple[Array, list[Array], list[Array | None]]:
        """The input, weights, and biases of all but the last layer, in bfloat16 and padded."""
        weights = [layer.w for layer in self.layers]
        arrays = [*weights, *(b for b in biases[:-1] if b is not None)]
        rounded_x = self.ops.empty((len(x), padded(x.shape[1])), _HALF)
        pairs = []
        if x.flags.c_contiguous:
            pairs.append((x, rounded_x))
        else:
            self.ops.rounded(x, rounded_x)
        rounded = []
        for a in arrays:
            made = self.ops.operand_of(a)
            if made is None:
                made = self.ops.empty(tuple(map(padded, a.shape)), _HALF)
                pairs.append((a, made))
            rounded.append(made)
        self.ops.rounded_together(pairs)
        rest = iter(rounded[len(weights) :])
        inner: list[Array | None] = [None if b is None else next(rest) for b in biases[:-1]]
        return rounded_x, rounded[: len(weights)], [*inner, biases[-1]]

    def _split(self, x: Array) -> tuple[Array, list[Array], list[Array]]:
        """The input, weights, and transposed weights in pieces; not those of the first layer if nothing needs them."""
        weights = [layer.w for layer in self.layers]
        first = 0 if self.need_dx else 1
        stacked = [self.ops.empty((self.pieces, *map(padded, w.shape)), _HALF) for w in weights]
        beside = [self._beside_one_another(a) for a in (x, *weights[first:])]
        arrays, lo = [*weights, x, *weights[first:]], [1] * len(stacked) + [0] * len(beside)
        self.ops.split(arrays, stacked + beside, lo)
        transposed = [None] * first + [_in_rows(made).swapaxes(0, 1) for made in beside[1:]]
        return _in_rows(beside[0]), [made.reshape((-1, made.shape[2])) for made in stacked], transposed


def _in_rows(pieces: Array) -> Array:
    """Pieces (3, n, k) that are neighbours in each row, as one matrix (n, 3 k)."""
    return pieces.swapaxes(0, 1).reshape((pieces.shape[1], -1))


def _epilogue(b: Array | None, relu: bool) -> int:
    return (Epilogue.BIAS if b is not None else 0) | (Epilogue.RELU if relu else 0) or Epilogue.NONE
