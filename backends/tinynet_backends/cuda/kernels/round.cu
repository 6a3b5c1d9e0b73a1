// Numbers rounded to bfloat16, in 16-bit words, padded with zeros to a larger matrix.

#define MOST 32  // arrays per launch

// y[r * wide + j] = x[r * down + j * right] for r < n and j < k, and 0 in the rest of (high, wide)
DEVICE void round_one(
    i64 n, i64 k, i64 down, i64 right, i64 high, i64 wide, const real* __restrict__ x, u16* __restrict__ y
) {
    const bool packed = right == 1 && aligned((u64)x | (u64)y) && (k | down | wide) % LANES == 0;
    if (packed && down == k && wide == k && high == n) {
        const i64 packs = n * k / LANES;
#pragma unroll 4
        for (i64 i = thread(); i < packs; i += threads()) ((Rounded*)y)[i] = bfloat16(((const Pack*)x)[i]);
        return;
    }
    const i64 size = packed ? wide / LANES : wide;
#pragma unroll 4
    for (i64 i = thread(); i < high * size; i += threads()) {
        const i64 row = quotient(i, size), j = i - row * size;
        if (packed) {
            const Pack none = {};
            ((Rounded*)y)[i] = bfloat16(row < n && j * LANES < k ? ((const Pack*)(x + row * down))[j] : none);
        } else {
            y[i] = row < n && j < k ? bfloat16((float)x[row * down + j * right]) : (u16)0;
        }
    }
}

KERNEL round_rows(
    i64 n, i64 k, i64 down, i64 right, i64 high, i64 wide, const real* __restrict__ x, u16* __restrict__ y
) {
    round_one(n, k, down, right, high, wide, x, y);
}

struct Arrays { const real* from[MOST]; u16* to[MOST]; i64 n[MOST], k[MOST], high[MOST], wide[MOST]; };

// The same for several arrays in C order.
KERNEL round_arrays(i64 count, const __grid_constant__ Arrays a) {
    for (i64 part = 0; part < count; ++part)
        round_one(a.n[part], a.k[part], a.k[part], 1, a.high[part], a.wide[part], a.from[part], a.to[part]);
}
