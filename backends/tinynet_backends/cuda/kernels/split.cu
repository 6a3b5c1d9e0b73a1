// Numbers as the sum of two bfloat16 numbers, hi + lo, in three matrices: with (lo, hi, hi) of x and (hi, lo, hi) of w along
// the contraction, one product is lo hi + hi lo + hi hi, the small terms first.

#define MOST 32  // arrays per launch

struct Split { u16 hi, finite, lo; };

// Of infinity and NaN there is nothing in the small terms, or infinity times 0 would make them NaN.
DEVICE Split split(float x) {
    const u32 bits = __float_as_uint(x);
    if ((bits & 0x7f800000) == 0x7f800000) return {bfloat16(x), 0, 0};
    u16 hi = bfloat16(x);
    if ((hi & 0x7fff) == 0x7f80) hi = (u16)(bits >> 16);  // not rounded up to infinity
    return {hi, hi, bfloat16(x - __uint_as_float((u32)hi << 16))};
}

struct Matrices {
    const real* from[MOST];
    u16* to[MOST];
    i64 n[MOST], k[MOST], down[MOST], right[MOST];  // element (r, j) < (n, k) is from[r * down + j * right]
    i64 high[MOST], wide[MOST], apart[MOST], pitch[MOST];  // and to[piece * apart + r * pitch + j], padded with 0
    i64 lo[MOST];  // the piece that is lo: 0 or 1
};

KERNEL split_arrays(i64 count, const __grid_constant__ Matrices a) {
    for (i64 part = 0; part < count; ++part) {
        const i64 n = a.n[part], k = a.k[part], down = a.down[part], right = a.right[part];
        const i64 apart = a.apart[part], pitch = a.pitch[part], wide = a.wide[part];
        const real* __restrict__ x = a.from[part];
        u16* __restrict__ y = a.to[part];
        const i64 lo = a.lo[part] * apart, finite = apart - lo, hi = 2 * apart;
        const bool packed = right == 1 && aligned((u64)x | (u64)y) && (k | down | wide | apart | pitch) % LANES == 0;
        const i64 size = packed ? wide / LANES : wide;
#pragma unroll 4
        for (i64 i = thread(); i < a.high[part] * size; i += threads()) {
            const i64 row = quotient(i, size), j = i - row * size;
            if (packed) {
                Pack numbers = {};
                if (row < n && j * LANES < k) numbers = ((const Pack*)(x + row * down))[j];
                Rounded his, finites, los;
#pragma unroll
                for (int l = 0; l < LANES; ++l) {
                    const Split one = split((float)numbers.v[l]);
                    his.v[l] = one.hi, finites.v[l] = one.finite, los.v[l] = one.lo;
                }
                u16* to = y + row * pitch + j * LANES;
                *(Rounded*)(to + lo) = los, *(Rounded*)(to + finite) = finites, *(Rounded*)(to + hi) = his;
            } else {
                const Split one = split(row < n && j < k ? (float)x[row * down + j * right] : 0.0f);
                u16* to = y + row * pitch + j;
                to[lo] = one.lo, to[finite] = one.finite, to[hi] = one.hi;
            }
        }
    }
}
