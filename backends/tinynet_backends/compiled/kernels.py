"""The kernels of layers, losses and updates, each made for ``real``, numba's float32 or float64.

Where a row is added up, the compiler may change the order (`REORDERED`), as NumPy does. Sizes and addresses are words,
Python's numbers float64. A kernel does its part of the rows, columns or elements, so that no result depends on how many
parts there are; sums over samples are in float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from numba import float64, njit, types
from tinynet_backends.compiled.functions import exp
from tinynet_backends.compiled.intrinsics import gemm, gemv, pointer

Body = Callable[[Any, Any, Any], None]
AS_STORED, TRANSPOSED = 111, 112  # CBLAS's codes of a matrix


@njit(inline="always")
def share(n, part, parts, grain):
    """The share of range(n) that ``part`` has, in multiples of ``grain``."""
    if parts == 1:  # a division takes as long as 50 numbers of a sum
        return 0, n
    blocks = (n + grain - 1) // grain
    return min(n, blocks * part // parts * grain), min(n, blocks * (part + 1) // parts * grain)


# Dense layers ----------------------------------------------------------------------------------------------------------


@njit
def multiply(real, size, w, m, n, a, b, c, bias):
    """The product in the words w of `product`, but of m rows and n columns, at these addresses; ``bias`` 0 is none."""
    gemm(w[0], w[1], w[2], m, n, w[5], real(1.0), a, w[7], b, w[9], real(0.0), c, w[11])
    if bias != 0:
        added = pointer(real, bias)
        for i in range(m):
            row = pointer(real, c + size * i * w[11])
            for j in range(n):
                row[j] += added[j]


def product(real: Any) -> Body:
    """[gemm, ta, tb, m, n, k, a, lda, b, ldb, c, ldc, bias]: ``c = op(a) @ op(b) + bias``, by rows or columns."""
    size = real.bitwidth // 8

    def kernel(at, part, parts):
        w = pointer(types.int64, at)
        ta, tb, m, n, lda, ldb, ldc = w[1], w[2], w[3], w[4], w[7], w[9], w[11]
        top, bottom = share(m, part, parts, 4) if m >= n else (0, m)
        left, right = (0, n) if m >= n else share(n, part, parts, 16)
        if top == bottom or left == right:
            return
        a = w[6] + size * top * (lda if ta == AS_STORED else 1)
        b = w[8] + size * left * (1 if tb == AS_STORED else ldb)
        c = w[10] + size * (top * ldc + left)
        multiply(real, size, w, bottom - top, right - left, a, b, c, w[12] + size * left if w[12] != 0 else 0)

    return kernel


def products(real: Any) -> Body:
    """[count, sa, sb, sc, sbias] and then the words of `product`: ``count`` products, of operands as many bytes apart."""
    size = real.bitwidth // 8

    def kernel(at, part, parts):
        s, w = pointer(types.int64, at), pointer(types.int64, at + 40)
        low, high = share(s[0], part, parts, 1)
        for i in range(low, high):
            a, b, c, bias = w[6] + i * s[1], w[8] + i * s[2], w[10] + i * s[3], w[12] + i * s[4]
            multiply(real, size, w, w[3], w[4], a, b, c, bias)

    return kernel


def product_with_vector(real: Any) -> Body:
    """[gemv, t, m, n, a, lda, x, incx, y, incy, bias, step]: ``y = op(a) @ x + bias``, a (m, n) as it is stored.

    Numbers of the bias lie ``step`` apart, which is 0 if all of y have the same.
    """
    size = real.bitwidth // 8

    def kernel(at, part, parts):
        w = pointer(types.int64, at)
        t, m, n, lda, incy = w[1], w[2], w[3], w[5], w[9]
        low, high = share(m if t == AS_STORED else n, part, parts, 16)
        if low >= high:
            return
        a, y = w[4] + size * low * (lda if t == AS_STORED else 1), w[8] + size * low * incy
        if t == AS_STORED:
            m = high - low
        else:
            n = high - low
        gemv(w[0], t, m, n, real(1.0), a, lda, w[6], w[7], real(0.0), y, incy)
        if w[10] != 0:
            bias, out = pointer(real, w[10]), pointer(real, y)
            for i in range(high - low):
                out[i * incy] += bias[(low + i) * w[11]]

    return kernel


@njit
def add_rows(real, x, n, o, out, low, high):
    """``out = x.sum(0)`` of x (n, o), from column ``low`` to ``high``: four rows at a time, since ``out`` is read and written."""
    for j in range(low, high):
        out[j] = real(0.0)
    last = n & ~3
    for i in range(0, last, 4):
        for j in range(low, high):
            a = i * o + j
            out[j] += (x[a] + x[a + o]) + (x[a + 2 * o] + x[a + 3 * o])
    for i in range(last, n):
        for j in range(low, high):
            out[j] += x[i * o + j]


def column_sums(real: Any) -> Body:
    """[n, o, x, out]: ``out = x.sum(0)``, by columns."""

    def kernel(at, part, parts):
        w = pointer(types.int64, at)
        n, o, x, out = w[0], w[1], pointer(real, w[2]), pointer(real, w[3])
        low, high = share(o, part, parts, 16)
        add_rows(real, x, n, o, out, low, high)

    return kernel


def add_up(real: Any) -> Body:
    """[blocks, m, n, x, out, bias]: ``out = x.sum(0) + bias`` of x (blocks, m, n), block to block."""
    size = real.bitwidth // 8

    def kernel(at, part, parts):
        w = pointer(types.int64, at)
        blocks, m, n, bias = w[0], w[1], w[2], pointer(real, w[5])
        low, high = share(m, part, parts, 1)
        for row in range(low, high):
            out = pointer(real, w[4] + row * n * size)
            for block in range(blocks):
                x = pointer(real, w[3] + (block * m + row) * n * size)
                for j in range(n):
                    out[j] = x[j] if block == 0 else out[j] + x[j]
            if w[5] != 0:
                for j in range(n):
                    out[j] += bias[j]

    return kernel


def columns_of_each(real: Any) -> Body:
    """[count, n, o, x, out, step]: ``out = x.sum(1)`` of x (count, n, o), its rows ``step`` bytes apart."""
    size = real.bitwidth // 8

    def kernel(at, part, parts):
        w = pointer(types.int64, at)
        n, o = w[1], w[2]
        low, high = share(w[0], part, parts, 1)
        for i in range(low, high):
            x, out = pointer(real, w[3] + i * n * o * size), pointer(real, w[4] + i * w[5])
            add_rows(real, x, n, o, out, 0, o)

    return kernel


# Rows and columns ------------------------------------------------------------------------------------------------------


@njit
def largest(x, base, k):
    """The largest of k numbers, in four independent turns; NaN if the first of a turn is."""
    a = b = c = d = x[base]
    j = 1
    while j + 4 <= k:
        a = max(a, x[base + j])
        b = max(b, x[base + j + 1])
        c = max(c, x[base + j + 2])
        d = max(d, x[base + j + 3])
        j += 4
    while j < k:
        a = max(a, x[base + j])
        j += 1
    return max(max(a, b), max(c, d))


def softmax(real: Any) -> Body:
    """[n, k, x, y]: `Backend.softmax`, by rows."""

    def kernel(at, part, parts):
        w = pointer(types.int64, at)
        k, x, y = w[1], pointer(real, w[2]), pointer(real, w[3])
        low, high = share(w[0], part, parts, 1)
        for base in range(low * k, high * k, k):
            top, total = largest(x, base, k), real(0.0)
            for j in range(k):
                y[base + j] = exp(x[base + j] - top)
            for j in range(k):
                total += y[base + j]
            for j in range(k):
                y[base + j] /= total

    return kernel


def softmax_grad(real: Any) -> Body:
    """[n, k, dy, y, dx]: `Backend.softmax_grad`, by rows."""

    def kernel(at, part, parts):
        w = pointer(types.int64, at)
        k, dy, y, dx = w[1], pointer(real, w[2]), pointer(real, w[3]), pointer(real, w[4])
        low, high = share(w[0], part, parts, 1)
        for base in range(low * k, high * k, k):
            total = real(0.0)
            for j in range(k):
                total += dy[base + j] * y[base + j]
            for j in range(k):
                dx[base + j] = y[base + j] * (dy[base + j] - total)

    return kernel


def standardize(real: Any) -> Body:
    """[n, i, x, mean, scale, y]: `Backend.standardize`, by rows."""

    def kernel(at, part, parts):
        w = pointer(types.int64, at)
        i, x, mean, scale, y = w[1], pointer(real, w[2]), pointer(real, w[3]), pointer(real, w[4]), pointer(real, w[5])
        low, high = share(w[0], part, parts, 1)
        for base in range(low * i, high * i, i):
            for j in range(i):
                y[base + j] = (x[base + j] - mean[j]) * scale[j]

    return kernel


def normalize_rows(real: Any) -> Body:
    """[n, i, x, gamma, beta, eps, y, normed, rstd, mean, var]: `Backend.normalize` along axis -1, by rows."""

    def kernel(at, part, parts):
        w = pointer(types.int64, at)
        i, x, gamma, beta = w[1], pointer(real, w[2]), pointer(real, w[3]), pointer(real, w[4])
        y, normed = pointer(real, w[6]), pointer(real, w[7])
        eps, size = real(pointer(float64, at)[5]), real(i)
        low, high = share(w[0], part, parts, 1)
        for row in range(low, high):
            base = row * i
            total = real(0.0)
            for j in range(i):
                total += x[base + j]
            mean = total / size
            total = real(0.0)
            for j in range(i):
                d = x[base + j] - mean
                total += d * d
            var = total / size
            rstd = real(1.0) / math.sqrt(var + eps)
            for j in range(i):
                z = (x[base + j] - mean) * rstd
                normed[base + j] = z
                y[base + j] = z * gamma[j] + beta[j]
            pointer(real, w[8])[row] = rstd
            pointer(real, w[9])[row] = mean
            pointer(real, w[10])[row] = var

    return kernel


_BLOCK = 256  # rows that are added up before they join a sum over all of them, whose rounding grows with its terms


def normalize_columns(real: Any) -> Body:
    """[n, i, x, gamma, beta, eps, y, normed, rstd, mean, var]: `Backend.normalize` along axis -2, by columns."""

    def kernel(at, part, parts):
        w = pointer(types.int64, at)
        n, i, x, gamma, beta = w[0], w[1], pointer(real, w[2]), pointer(real, w[3]), pointer(real, w[4])
        y, normed, rstd = pointer(real, w[6]), pointer(real, w[7]), pointer(real, w[8])
        mean, var = pointer(real, w[9]), pointer(real, w[10])
        eps, size = real(pointer(float64, at)[5]), real(n)
        low, high = share(i, part, parts, 16)
        for j in range(low, high):
            mean[j] = real(0.0)
        for first in range(0, n, _BLOCK):
            for j in range(low, high):
                var[j] = real(0.0)  # the sum of this block, for now
            for row in range(first, min(n, first + _BLOCK)):
                for j in range(low, high):
                    var[j] += x[row * i + j]
            for j in range(low, high):
                mean[j] += var[j]
        for j in range(low, high):
            mean[j] /= size
            var[j] = real(0.0)
        for row in range(n):
            for j in range(low, high):
                d = x[row * i + j] - mean[j]
                var[j] += d * d
        for j in range(low, high):
            var[j] /= size
            rstd[j] = real(1.0) / math.sqrt(var[j] + eps)
        for row in range(n):
            for j in range(low, high):
                z = (x[row * i + j] - mean[j]) * rstd[j]
                normed[row * i + j] = z
                y[row * i + j] = z * gamma[j] + beta[j]

    return kernel


def scale_grad(real: Any) -> Body:
    """[n, i, dy, normed, dgamma, dbeta]: sums of ``dy * normed`` and of ``dy``, by columns."""

    def kernel(at, part, parts):
        w = pointer(types.int64, at)
        i, dy, normed = w[1], pointer(real, w[2]), pointer(real, w[3])
        dgamma, dbeta = pointer(real, w[4]), pointer(real, w[5])
        low, high = share(i, part, parts, 16)
        for j in range(low, high):
            dgamma[j] = real(0.0)
            dbeta[j] = real(0.0)
        for row in range(w[0]):
            for j in range(low, high):
                dgamma[j] += dy[row * i + j] * normed[row * i + j]
                dbeta[j] += dy[row * i + j]

    return kernel


def normalize_rows_grad(real: Any) -> Body:
    """[n, i, dy, normed, rstd, gamma, dx]: the input's part of `Backend.normalize_grad` along axis -1, by rows."""

    def kernel(at, part, parts):
        w = pointer(types.int64, at)
        i, dy, normed, rstd = w[1], pointer(real, w[2]), pointer(real, w[3]), pointer(real, w[4])
        gamma, dx, size = pointer(real, w[5]), pointer(real, w[6]), real(i)
        low, high = share(w[0], part, parts, 1)
        for row in range(low, high):
            base, sum0, sum1 = row * i, real(0.0), real(0.0)
            for j in range(i):
                d = dy[base + j] * gamma[j]
                sum0 += d
                sum1 += d * normed[base + j]
            sum0 /= size
            sum1 /= size
            for j in range(i):
                dx[base + j] = rstd[row] * (dy[base + j] * gamma[j] - sum0 - normed[base + j] * sum1)

    return kernel


def normalize_columns_grad(real: Any) -> Body:
    """[n, i, dy, normed, rstd, gamma, dgamma, dbeta, dx]: the same along axis -2; its sums are those of `scale_grad`."""

    def kernel(at, part, parts):
        w = pointer(types.int64, at)
        n, i, dy, normed, rstd = w[0], w[1], pointer(real, w[2]), pointer(real, w[3]), pointer(real, w[4])
        gamma, dgamma, dbeta, dx = pointer(real, w[5]), pointer(real, w[6]), pointer(real, w[7]), pointer(real, w[8])
        low, high = share(n, part, parts, 1)
        for row in range(low, high):
            for j in range(i):
                d = dy[row * i + j] - (dbeta[j] + normed[row * i + j] * dgamma[j]) / real(n)
                dx[row * i + j] = rstd[j] * gamma[j] * d

    return kernel


# Losses and sums -------------------------------------------------------------------------------------------------------


_TOGETHER = 1024  # numbers whose exponentials are taken in one loop, because rows may be short


def cross_entropy(real: Any) -> Body:
    """[n, k, z, target, scale, cost, dz]: `Backend.softmax_cross_entropy` with labels, by rows; cost (n,) adds up to it."""

    def kernel(at, part, parts):
        w = pointer(types.int64, at)
        n, k, z, target, scale = w[0], w[1], pointer(real, w[2]), pointer(types.int64, w[3]), pointer(real, w[4])
        cost, dz = pointer(real, w[5]), pointer(real, w[6])
        low, high = share(n, part, parts, 1)
        rows = max(1, _TOGETHER // k)
        for first in range(low, high, rows):
            last = min(first + rows, high)
            for i in range(first, last):
                top = cost[i] = largest(z, i * k, k)
                for j in range(i * k, (i + 1) * k):
                    dz[j] = z[j] - top
            for j in range(first * k, last * k):
                dz[j] = exp(dz[j])
            for i in range(first, last):
                label, base, top, total = target[i], i * k, cost[i], real(0.0)
                for j in range(base, base + k):
                    total += dz[j]
                inside = real(1.0) if 0 <= label < k else real(0.0)
                factor = inside * scale[i] / total
                for j in range(base, base + k):
                    dz[j] *= factor
                cost[i] = real(0.0)
                if inside != real(0.0):
                    dz[base + label] -= scale[i]
                    cost[i] = scale[i] * (math.log(total) - (z[base + label] - top))

    return kernel


@njit(inline="always")
def _asked(real, target, place, label, j, smoothing, uniform, weight, weighted):
    """``q`` of class j in `Backend.softmax_cross_entropy`; without a label, one below 0, the target is at ``place + j``."""
    t = target[place + j] if label < 0 else (real(1.0) if label == j else real(0.0))
    q = t * (real(1.0) - smoothing) + uniform
    return q * weight[j] if weighted else q


def cross_entropy_of_mix(real: Any) -> Body:
    """[n, k, z, labels, target, scale, smoothing, class_weight, cost, dz]: the same of any target, by rows.

    It is labels or probabilities; the address of the other, or of no class weights, is 0.
    """

    def kernel(at, part, parts):
        w = pointer(types.int64, at)
        k, z, labels, target = w[1], pointer(real, w[2]), pointer(types.int64, w[3]), pointer(real, w[4])
        scale, weight, cost, dz = pointer(real, w[5]), pointer(real, w[7]), pointer(real, w[8]), pointer(real, w[9])
        smoothing, labelled, weighted = real(pointer(float64, at)[6]), w[3] != 0, w[7] != 0
        uniform = smoothing / real(k)
        low, high = share(w[0], part, parts, 1)
        for i in range(low, high):
            base, label = i * k, -1
            if labelled:
                label = labels[i] if 0 <= labels[i] < k else k  # which is that of no class
            top, sum_e, sum_q, c = largest(z, base, k), real(0.0), real(0.0), real(0.0)
            for j in range(base, base + k):
                dz[j] = exp(z[j] - top)
            for j in range(base, base + k):
                sum_e += dz[j]
            log = math.log(sum_e)
            for j in range(k):
                q = _asked(real, target, base, label, j, smoothing, uniform, weight, weighted)
                sum_q += q
                if q != real(0.0):  # 0 * -inf is 0 here
                    c -= q * (z[base + j] - top - log)
            for j in range(k):
                q = _asked(real, target, base, label, j, smoothing, uniform, weight, weighted)
                dz[base + j] = (dz[base + j] / sum_e * sum_q - q) * scale[i]
            cost[i] = scale[i] * c

    return kernel


def total_weight(real: Any) -> Body:
    """[count, n, weight, labels, k, class_weight, out]: `Backend.total_weight`; the address of what there is not is 0."""

    def kernel(at, part, parts):
        w = pointer(types.int64, at)
        n, weight, labels, of_class = w[1], pointer(real, w[2]), pointer(types.int64, w[3]), pointer(real, w[5])
        low, high = share(w[0], part, parts, 1)
        for network in range(low, high):
            total = 0.0
            for i in range(network * n, (network + 1) * n):
                value = weight[i] if w[2] != 0 else real(1.0)
                if w[3] != 0:
                    value = value * of_class[labels[i]] if 0 <= labels[i] < w[4] else real(math.nan)
                total += value
            pointer(real, w[6])[network] = real(total)

    return kernel


def share_weight(real: Any) -> Body:
    """[count, n, weight, total, double, parts, out]: `Backend.share_weight`; ``double`` is whether totals are in float64."""
    smallest = real(2.0**-126 if real.bitwidth == 32 else 2.0**-1022)

    def kernel(at, part, parts):
        w = pointer(types.int64, at)
        n, weight, out = w[1], pointer(real, w[2]), pointer(real, w[6])
        low, high = share(w[0], part, parts, 1)
        for network in range(low, high):
            total = real(pointer(float64, w[3])[network]) if w[4] != 0 else pointer(real, w[3])[network]
            total *= real(w[5])
            normal = total if total > smallest else smallest
            counts = total / normal / normal
            for i in range(network * n, (network + 1) * n):
                out[i] = weight[i] * counts if w[2] != 0 else counts

    return kernel


def total(real: Any) -> Body:
    """[count, n, x, out]: ``out = x.sum(1)`` of x (count, n)."""

    def kernel(at, part, parts):
        w = pointer(types.int64, at)
        n, x, out = w[1], pointer(real, w[2]), pointer(real, w[3])
        low, high = share(w[0], part, parts, 1)
        for i in range(low, high):
            s = 0.0
            for j in range(i * n, (i + 1) * n):
                s += x[j]
            out[i] = real(s)

    return kernel


SQUARES = 4096  # elements whose squares are added up as one


def squares(real: Any) -> Body:
    """[p, g, sums]: the sum of the squares of each 4096 elements of g (p,), in float64."""

    def kernel(at, part, parts):
        w = pointer(types.int64, at)
        p, g, sums = w[0], pointer(real, w[1]), pointer(float64, w[2])
        low, high = share(p, part, parts, SQUARES)
        for block in range(low // SQUARES, (high + SQUARES - 1) // SQUARES):
            s = 0.0
            for i in range(block * SQUARES, min(p, (block + 1) * SQUARES)):
                s += float64(g[i]) * float64(g[i])
            sums[block] = s

    return kernel


def norm(real: Any) -> Body:
    """[blocks, sums, norm]: the root of the sum of `squares`, ()."""

    def kernel(at, part, parts):
        w = pointer(types.int64, at)
        sums, s = pointer(float64, w[1]), 0.0
        for block in range(w[0]):
            s += sums[block]
        pointer(real, w[2])[0] = real(math.sqrt(s))

    return kernel


def clip(real: Any) -> Body:
    """[p, g, norm, max_norm]: scale g (p,) by ``min(1, max_norm / (norm + 1e-6))``."""

    def kernel(at, part, parts):
        w = pointer(types.int64, at)
        p, g, most = w[0], pointer(real, w[1]), pointer(float64, at)[3]
        factor = real(most) / (pointer(real, w[2])[0] + real(1e-6))
        if factor > real(1.0):
            factor = real(1.0)
        low, high = share(p, part, parts, 64)
        for i in range(low, high):
            g[i] *= factor

    return kernel


REORDERED = {softmax, softmax_grad, cross_entropy, normalize_rows, normalize_rows_grad, squares}
