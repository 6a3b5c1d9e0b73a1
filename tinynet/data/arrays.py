"""Data in memory, or in files that are mapped into it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import prod
from sys import float_info
from typing import Any

from tinynet_backends import Backend, get_backend

from tinynet import checks
from tinynet.data import resident
from tinynet.data.columns import Columns
from tinynet.data.conversion import as_array, as_array_beside_x, read_only
from tinynet.data.dataset import Array, Batch, Dataset, Index
from tinynet.data.digest import digest
from tinynet.pieces import split_range

_PIECE = 2**20  # numbers checked at a time, so that checking takes little memory
_FLOAT32 = 3.4028235677973366e38  # from here on float32 is infinite


class Arrays(Dataset):
    """A data set of arrays: X (n, *shape), y (n,) or (n, o), and sample weights (n,), which may be left out.

    Integers or booleans y (n,) are labels 0, 1, …; any other y holds numbers. The arrays are lists, NumPy arrays, data frames
    of numbers, whose column names are kept, or arrays of the current backend. Arrays are not copied and never modified.
    Lengths are checked once, and so is that every number is finite (unless ``finite=False``) and no weight negative:
    TypeError or ValueError, which names the first bad row.

    Arrays of ``np.memmap`` stay in their files: of all that data sets map, at most about a quarter of the machine's memory, or
    512 MiB if that is more, is resident. A pickle holds the numbers; that of a file that `read` opened holds its path.

    Examples
    --------
    >>> data = tn.Arrays([[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]], [0, 2, 1])
    >>> data, data.classes
    (Arrays(X (3, 2), y (3,), on numpy), 3)
    """

    _error: type[ValueError] = ValueError

    def __init__(self, x: Any, y: Any, weight: Any = None, *, finite: bool = True) -> None:
        self.columns = self.columns or Columns.of_frames(x, y)
        self.x, self.ops = as_array(x, "X")
        self.on_host = self.ops is get_backend("numpy")
        with self.ops.active():
            self.y = as_array_beside_x(y, "y", self.ops)
            self.weight = None if weight is None else as_array_beside_x(weight, "weight", self.ops)
            self._check_shapes()
            self._find_maps()
            self._float32_error = ""  # what is wrong if float32 is requested
            self._check_values(finite)
            self._set_targets()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_maps"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._find_maps()

    def _find_maps(self) -> None:
        """Find the maps of files that the arrays are views of."""
        self._maps = [m for a in (self.x, self.y, self.weight) if (m := resident.mapping(a)) is not None]
        for each in self._maps:
            resident.MAPS.add(each)

    @property
    def _large(self) -> bool:
        """Whether what is read may have to be released."""
        return bool(self._maps) and resident.MAPS.large

    def _check_shapes(self) -> None:
        """Set ``n`` and ``shape``; ValueError unless y and weight fit X."""
        if self.x.ndim < 2:
            raise ValueError(
                f"X {tuple(self.x.shape)} is not a table: expected (n, features); reshape(-1, 1) makes one column"
            )
        self.n, self.shape = int(self.x.shape[0]), tuple(self.x.shape[1:])
        if self.n == 0:
            raise ValueError(f"X {tuple(self.x.shape)} has no samples: give at least one")
        if 0 in self.shape:
            raise ValueError(f"X {tuple(self.x.shape)} has no features: give at least one")
        if self.y.ndim == 0 or self.y.shape[0] != self.n:
            raise ValueError(f"y {tuple(self.y.shape)} does not fit X {tuple(self.x.shape)}: expected {self.n} rows")
        if 0 in self.y.shape:
            raise ValueError(f"y {tuple(self.y.shape)} has no columns: give at least one")
        if self.weight is not None and tuple(self.weight.shape) != (self.n,):
            raise ValueError(f"weight {tuple(self.weight.shape)} does not fit {self.n} samples: expected {(self.n,)}")

    def _check_values(self, finite: bool) -> None:
        xp = self.ops.xp
        for name, a in (("X", self.x), ("y", self.y), ("weight", self.weight)):
            if a is None:
                continue
            if not xp.isdtype(a.dtype, ("real floating", "integral", "bool")):
                text = name == "y" and getattr(a.dtype, "kind", "") in "OUST"
                remedy = (
                    "number the classes, as unique(y, return_inverse=True) does, or as model.columns.classes has them"
                    if text
                    else "give real or whole numbers"
                )
                raise TypeError(f"{name} of dtype {a.dtype} is not numeric: {remedy}")
            if finite and xp.isdtype(a.dtype, "real floating"):
                self._check_all(a, xp.isfinite, f"{name} has a value that is NaN or infinite")
                if not self._float32_error and xp.finfo(a.dtype).bits > 32:
                    row = self._first_bad_row(a, lambda x: xp.abs(x) < _FLOAT32)
                    if row is not None:
                        what = f"{name} has a value too large for float32, first in row {row}"
                        self._float32_error = f"{what}: scale it, or take dtype='float64'"
        if self.weight is not None:
            self._check_weights()

    def _check_weights(self) -> None:
        """ValueError for a negative weight, or if their sum is 0, or infinite or denormal in the dtype of a batch.

        Losses are divided by that sum, and would be 0 or too small in silence.
        """
        xp, largest = self.ops.xp, 0.0
        self._check_all(self.weight, lambda w: w >= 0, "weight has a negative value")
        for _, w in self._pieces(self.weight):
            numbers = w if xp.isdtype(w.dtype, "real floating") else xp.astype(w, xp.float32)
            largest = max(largest, float(self.ops.to_numpy(xp.max(numbers))))
        if not largest:
            raise ValueError("weight is zero everywhere: give some sample a positive one")
        for bits, least, most in (64, float_info.min, float_info.max), (32, 2.0**-126, _FLOAT32):
            if least <= largest < most / self.n:
                continue
            size = "small" if largest < least else "large"
            claim = f"weight has values up to {largest:g}, too {size} to add up in float{bits}: scale it"
            if bits == 64:
                raise ValueError(claim)
            self._float32_error = self._float32_error or f"{claim}, or take dtype='float64'"

    def _set_targets(self) -> None:
        """Set ``classes`` or ``outputs``; boolean labels become int64."""
        xp = self.ops.xp
        labels = self.y.ndim == 1 and xp.isdtype(self.y.dtype, ("integral", "bool"))
        if labels and xp.isdtype(self.y.dtype, "bool"):
            self.y = xp.astype(self.y, xp.int64)
        self.classes, self.outputs = None, None
        if labels:
            self.classes = max(int(self.ops.to_numpy(xp.max(y))) for _, y in self._pieces(self.y)) + 1
            if self.classes > 2**63:
                raise ValueError(
                    f"y has the label {self.classes - 1}, which int64 does not have: number classes from 0"
                )
        else:
            self.outputs = int(self.y.shape[1]) if self.y.ndim > 1 else 1

    def __repr__(self) -> str:
        return f"Arrays(X {tuple(self.x.shape)}, y {tuple(self.y.shape)}, on {self.ops.name})"

    def check_dtype(self, dtype: str) -> None:
        if self._float32_error and dtype == "float32":
            raise self._error(self._float32_error)

    def rows(self, index: Index, ops: Backend, dtype: str) -> Batch:
        self.check_dtype(dtype)
        if isinstance(index, range):
            x, y = self.x[index.start : index.stop, ...], self.y[index.start : index.stop, ...]
            weight = None if self.weight is None else self.weight[index.start : index.stop]
            if self._large:
                resident.MAPS.touch(x.nbytes + y.nbytes)
        else:
            take = (ops if ops.on_host and self.ops.on_host else self.ops).gather
            i = index if self.ops.on_host else self.ops.asarray(index)
            given = [a for a in (self.x, self.y, self.weight) if a is not None]
            x, y, *rest = self._gather_mapped(take, given, i) if self._large else take(given, i, inside=True)
            weight = rest[0] if rest else None
        if not ops.owns(x):  # from one device to another, by way of the host
            x, y, weight = Batch(x, y, weight).map(self.ops.to_numpy)
        elif isinstance(index, range):
            x, y, weight = Batch(x, y, weight).map(read_only)
        return self._as_batch(x, y, weight, ops, dtype)

    def in_step(self, ops: Backend, dtype: str) -> bool:
        real, labels = ops.dtype(dtype), ops.dtype("int64")
        kinds = (self.x, real), (self.y, real if self.classes is None else labels), (self.weight, real)
        alike = all(a is None or (ops.reads(a) and a.dtype == kind) for a, kind in kinds)
        return type(self).rows is Arrays.rows and alike and not self._large  # else `rows` may release memory

    def check(self, check: Callable[[Array, Backend], None], ops: Backend, dtype: str) -> None:
        check(self.y, self.ops)

    def fingerprint(self) -> str:
        """Shapes, dtypes, and a hash of up to 4096 evenly spaced rows."""
        host = get_backend("numpy")
        count = min(self.n, 4096)
        index = host.asarray([row * (self.n - 1) // max(count - 1, 1) for row in range(count)], "int64")
        with self.ops.active():
            some = self.rows(index, host, "float64")
        kinds = [f"{str(a.dtype).rpartition('.')[2]} {tuple(a.shape)}" for a in (self.x, self.y)]
        return f"Arrays({', '.join(kinds)}, {digest(a for a in some if a is not None)})"

    def _pieces(self, a: Array) -> Iterator[tuple[int, Array]]:
        """(first row, rows) over ``a``, in pieces that take little memory."""
        size = max(1, _PIECE // prod(a.shape[1:]))
        for rows in split_range(range(self.n), size):
            piece = a[rows.start : rows.stop, ...]
            if self._large:
                resident.MAPS.touch(piece.nbytes)
            yield rows.start, piece

    def _first_bad_row(self, a: Array, good: Callable[[Array], Array]) -> int | None:
        """The first row of ``a`` with an element that is not good; None if there is none."""
        found = ((start, checks.first_false_row(good(piece), self.ops)) for start, piece in self._pieces(a))
        return next((start + row for start, row in found if row is not None), None)

    def _check_all(self, a: Array, good: Callable[[Array], Array], claim: str) -> None:
        """ValueError that names the first row of ``a`` with an element that is not good."""
        row = self._first_bad_row(a, good)
        if row is not None:
            raise ValueError(f"{claim}: first in row {row}")

    def _gather_mapped(self, take: Callable[..., list[Array]], arrays: list[Array], index: Array) -> list[Array]:
        """Rows of large maps, some at a time, between which memory is released."""
        size, pieces = max(1, resident.RELEASE // resident.FAULT), []
        for start in range(0, max(len(index), 1), size):
            some = index[start : start + size]
            pieces.append(take(arrays, some, inside=True))
            resident.MAPS.touch(len(some) * resident.FAULT)
        return [self.ops.xp.concat(each, axis=0) for each in zip(*pieces, strict=True)] if pieces[1:] else pieces[0]
