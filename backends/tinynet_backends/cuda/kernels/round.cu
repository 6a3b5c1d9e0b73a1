// Numbers rounded to bfloat16, which lie in words of 16 bits.

#define MOST 32  // arrays in a launch

DEVICE void round_one(i64 n, i64 k, i64 down, i64 right, i64 pitch, const real* x, u16* y) {
    const bool wide = right == 1 && aligned((u64)x | (u64)y) && (k | down | pitch) % LANES == 0;
    const i64 size = wide ? k / LANES : k;
    for (i64 i = thread(); i < n * size; i += threads()) {
        const i64 row = quotient(i, size), j = i - row * size;
        if (wide) ((Rounded*)(y + row * pitch))[j] = bfloat16(((const Pack*)(x + row * down))[j]);
        else y[row * pitch + j] = bfloat16((float)x[row * down + j * right]);
    }
}

// y[r * pitch + j] = x[r * down + j * right]
KERNEL round_rows(i64 n, i64 k, i64 down, i64 right, i64 pitch, const real* x, u16* y) {
    round_one(n, k, down, right, pitch, x, y);
}

struct Arrays { const real* from[MOST]; u16* to[MOST]; i64 n[MOST], k[MOST], pitch[MOST]; };

// The same for several arrays that lie in C order, to rows that are `pitch` apart.
KERNEL round_arrays(i64 count, const __grid_constant__ Arrays arrays) {
    for (i64 part = 0; part < count; ++part) {
        const i64 k = arrays.k[part];
        round_one(arrays.n[part], k, k, 1, arrays.pitch[part], arrays.from[part], arrays.to[part]);
    }
}
