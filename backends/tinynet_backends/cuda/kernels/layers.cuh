// What kernels of fused dense layers share. This follows the definitions of `value(f, x)` and `slope(f, dy, x, y)`, the
// activations and derivatives by index, and of OPERANDS, the rounding of products' operands: 1 for tf32, 2 for bfloat16, 0 for none.

#define MOST 16  // layers

struct Layers {
    const real* w[MOST];  // (width[k], width[k + 1])
    const real* b[MOST];  // (width[k + 1],), or null
    i64 kept[MOST];       // where in `kept` the numbers begin that the backward pass needs of a layer, or -1
    int width[MOST + 1], f[MOST];
    int of_input[MOST];  // whether these are the activation's input, from which its output can be recomputed, or its output
    int count;
};

struct alignas(16) Quad { real v[4]; };

DEVICE int up(int width) { return (width + 3) / 4 * 4; }

DEVICE real operand(real x) {
#if OPERANDS == 1  // to the nearest, ties away from 0
    const u32 bits = __float_as_uint(x);
    return x != x ? x : __uint_as_float((bits + 0x1000) & 0xffffe000);
#elif OPERANDS == 2
    return __uint_as_float((u32)bfloat16(x) << 16);
#else
    return x;
#endif
}

// The gradient of an activation's input, from what is kept of its layer.
DEVICE real back(int f, bool of_input, real dy, real kept) { return slope(f, dy, kept, of_input ? value(f, kept) : kept); }

// Four numbers of a row of `width` in device memory.
DEVICE Quad get(const real* row, int j, int width) {
    Quad x = {};
    if (width % 4 == 0 && aligned((u64)row)) return *(const Quad*)(row + j);
#pragma unroll
    for (int l = 0; l < 4; ++l)
        if (j + l < width) x.v[l] = row[j + l];
    return x;
}

DEVICE void put(real* row, int j, int width, const Quad& x) {
    if (width % 4 == 0 && aligned((u64)row)) *(Quad*)(row + j) = x;
    else
#pragma unroll
        for (int l = 0; l < 4; ++l)
            if (j + l < width) row[j + l] = x.v[l];
}
