// Numbers rounded to bfloat16, which lie in words of 16 bits, and back. A layout is rows, columns and distances.

// y[r * pitch + j] = x[r * down + j * right]
KERNEL round_rows(
    i64 n, i64 k, i64 down, i64 right, i64 pitch, const real* __restrict__ x, u16* __restrict__ y
) {
    const bool wide = right == 1 && aligned((u64)x | (u64)y) && (k | down | pitch) % LANES == 0;
    const i64 size = wide ? k / LANES : k;
    for (i64 i = thread(); i < n * size; i += threads()) {
        const i64 row = quotient(i, size), j = i - row * size;
        if (wide) ((Rounded*)(y + row * pitch))[j] = bfloat16(((const Pack*)(x + row * down))[j]);
        else y[row * pitch + j] = bfloat16((float)x[row * down + j * right]);
    }
}

// y = x, vectors of n
KERNEL widen(i64 n, const u16* __restrict__ x, real* __restrict__ y) {
    for (i64 i = thread(); i < n; i += threads()) y[i] = (real)__uint_as_float((u32)x[i] << 16);
}
