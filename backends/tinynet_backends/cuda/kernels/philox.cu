// Random numbers by counter, bit for bit those of numpy.random.Philox and of exact.py. Only dropout depends on REAL.

// Backend.words: n words from the block at (c0, c1, c2, c3) on, without the first `skip`. The first word of the counter
// carries into the second.
KERNEL words(i64 n, u64 k0, u64 k1, u64 c0, u64 c1, u64 c2, u64 c3, i64 skip, u64* __restrict__ out) {
    const bool wide = skip == 0 && aligned((u64)out);
    for (i64 block = thread(); block < (skip + n + 3) / 4; block += threads()) {
        const u64 first = c0 + (u64)block;
        const Block b = philox(k0, k1, first, first < c0 ? c1 + 1 : c1, c2, c3);
        const i64 at = 4 * block - skip;
        if (wide && at + 4 <= n) {
            ((Words*)out)[2 * block] = {{b.w[0], b.w[1]}};
            ((Words*)out)[2 * block + 1] = {{b.w[2], b.w[3]}};
        } else {
#pragma unroll
            for (int j = 0; j < 4; ++j) if (at + j >= 0 && at + j < n) out[at + j] = b.w[j];
        }
    }
}

// Backend.words_at: rows of `width` words, with one thread for each of the `reach` blocks of four that a row may need.
KERNEL words_at(
    i64 n, i64 width, i64 reach, u64 k0, u64 k1, u64 c0, u64 c1, u64 c2, const i64* __restrict__ index,
    u64* __restrict__ out
) {
    for (i64 item = thread(); item < n * reach; item += threads()) {
        const i64 row = quotient(item, reach), block = item - row * reach;
        const u64 below = (u64)width * (u64)index[row], above = __umul64hi((u64)width, (u64)index[row]);
        const i64 skip = (i64)(below & 3);
        const u64 first = below >> 2 | above << 62, second = (above >> 2) + c0, place = first + (u64)(block + 1);
        const Block b = philox(k0, k1, place, place < first ? second + 1 : second, c1, c2);
#pragma unroll
        for (int j = 0; j < 4; ++j) {
            const i64 column = 4 * block + j - skip;
            if (column >= 0 && column < width) out[row * width + column] = b.w[j];
        }
    }
}

// Backend.normal of rows of words, `stride` words apart
KERNEL normal(
    i64 rows, i64 columns, i64 stride, const u64* __restrict__ words, const double* __restrict__ lines, double* __restrict__ out
) {
    for (i64 i = thread(); i < rows * columns; i += threads()) {
        const i64 row = quotient(i, columns);
        out[i] = normal(words[row * stride + i - row * columns], lines);
    }
}

// Backend.halves of rows of words, `stride` words apart
KERNEL halves(i64 rows, i64 columns, i64 stride, const u64* __restrict__ words, double* __restrict__ out) {
    for (i64 i = thread(); i < rows * columns; i += threads()) {
        const i64 row = quotient(i, columns);
        const u64 word = words[row * stride + i - row * columns];
        out[2 * i] = half(word, 0), out[2 * i + 1] = half(word, 1);
    }
}

// Backend.dropout: a thread makes the eight 24-bit numbers of one block, and keeps elements whose number is at least
// `least`.
KERNEL dropout(
    i64 n, const real* __restrict__ x, int least, double scale, u64 k0, u64 k1, u64 c0, const u64* c0_place, u64 c1,
    const u64* c1_place, u64 c2, const u64* c2_place, real* __restrict__ y, bool* __restrict__ keep
) {
    c0 = number(c0, c0_place), c1 = number(c1, c1_place), c2 = number(c2, c2_place);
    const bool wide = aligned((u64)x | (u64)y | (u64)keep);
    for (i64 block = thread(); block < (n + 7) / 8; block += threads()) {
        const Block b = philox(k0, k1, (u64)block + 1, c0, c1, c2);
        const bool whole = wide && 8 * block + 8 <= n;
        Pack packs[8 / LANES];
        u64 kept = 0;  // one byte per element
#pragma unroll
        for (int q = 0; q < 8 / LANES; ++q) {
            if (whole) packs[q] = ((const Pack*)x)[block * (8 / LANES) + q];
            else for (int j = 0; j < LANES; ++j) {
                const i64 i = 8 * block + q * LANES + j;
                packs[q].v[j] = i < n ? x[i] : 0;
            }
        }
#pragma unroll
        for (int j = 0; j < 8; ++j) {
            const bool chosen = (int)((u32)(b.w[j / 2] >> 32 * (j % 2)) >> 8) >= least;
            real& value = packs[j / LANES].v[j % LANES];
            value = chosen ? value * (real)scale : 0;
            kept |= (u64)chosen << 8 * j;
        }
        if (whole) {
            ((u64*)keep)[block] = kept;
#pragma unroll
            for (int q = 0; q < 8 / LANES; ++q) ((Pack*)y)[block * (8 / LANES) + q] = packs[q];
        } else {
#pragma unroll
            for (int j = 0; j < 8; ++j) {
                const i64 i = 8 * block + j;
                if (i < n) keep[i] = kept >> 8 * j & 1, y[i] = packs[j / LANES].v[j % LANES];
            }
        }
    }
}

// Backend.dropout_grad
KERNEL dropout_grad(
    i64 n, const real* __restrict__ dy, const bool* __restrict__ keep, double scale, real* __restrict__ dx
) {
    for (i64 i = thread(); i < n; i += threads()) dx[i] = keep[i] ? dy[i] * (real)scale : (real)0;
}
