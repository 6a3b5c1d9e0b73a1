// Numbers rounded to bfloat16, or as the sum of two such numbers, in 16-bit words, padded with zeros to a larger matrix.

#define MOST 32  // arrays per launch
#define WORDS 4  // that a thread writes in one access: neighbours write neighbouring bytes

typedef u64 Line;  // as one number: an array may be stored element by element
struct alignas(16) Numbers { real v[WORDS]; };

// WORDS numbers, of which the first `here` are in memory, `right` apart, and the rest 0.
DEVICE Numbers read(const real* __restrict__ from, i64 right, i64 here) {
    Numbers x;
    if (right == 1 && here >= WORDS && aligned((u64)from)) {
#pragma unroll
        for (int l = 0; l < WORDS; l += LANES) *(Pack*)(x.v + l) = *(const Pack*)(from + l);
    } else {
#pragma unroll
        for (int l = 0; l < WORDS; ++l) x.v[l] = l < here ? from[l * right] : (real)0;
    }
    return x;
}

DEVICE void put(Line& line, int l, u16 word) { line |= (u64)word << 16 * l; }

// The first `room` words of a line.
DEVICE void write(u16* to, Line line, i64 room) {
    if (room >= WORDS && (u64)to % sizeof(Line) == 0) {
        *(Line*)to = line;
        return;
    }
#pragma unroll
    for (int l = 0; l < WORDS; ++l)
        if (l < room) to[l] = (u16)(line >> 16 * l);
}

// y[r * wide + j] = x[r * down + j * right] for r < n and j < k, and 0 in the rest of (high, wide), for the i-th WORDS of y.
// Rows of y are lines of WORDS, the last of them perhaps shorter.
DEVICE void round_line(
    i64 i, i64 n, i64 k, i64 down, i64 right, i64 high, i64 wide, const real* __restrict__ x, u16* __restrict__ y
) {
    const i64 lines = (wide + WORDS - 1) / WORDS, row = quotient(i, lines), j = (i - row * lines) * WORDS;
    if (row >= high) return;
    const Numbers numbers = read(x + row * down + j * right, right, row < n ? k - j : 0);
    Line line = 0;
#pragma unroll
    for (int l = 0; l < WORDS; ++l) put(line, l, bfloat16((float)numbers.v[l]));
    write(y + row * wide + j, line, wide - j);
}

KERNEL round_rows(
    i64 n, i64 k, i64 down, i64 right, i64 high, i64 wide, const real* __restrict__ x, u16* __restrict__ y
) {
    const i64 lines = high * ((wide + WORDS - 1) / WORDS);
#pragma unroll 1
    for (i64 i = thread(); i < lines; i += threads()) round_line(i, n, k, down, right, high, wide, x, y);
}

struct Arrays { const real* from[MOST]; u16* to[MOST]; i64 n[MOST], k[MOST], high[MOST], wide[MOST], pieces[MOST]; };

// The same for several arrays in C order. A piece is a line of one of them for each thread of a block; there are `pieces`
// in all.
KERNEL round_arrays(i64 pieces, const __grid_constant__ Arrays a) {
    for (i64 item = blockIdx.x; item < pieces; item += gridDim.x) {
        i64 piece = item;
        int m = 0;
        for (; piece >= a.pieces[m]; ++m) piece -= a.pieces[m];
        const i64 i = piece * THREADS + place_in_block();
        round_line(i, a.n[m], a.k[m], a.k[m], 1, a.high[m], a.wide[m], a.from[m], a.to[m]);
    }
}

struct Split { u16 hi, finite, lo; };

// x as hi + lo. `finite` is hi, or 0 for infinity and NaN, which would be NaN times the other factor's lo of 0.
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
    i64 high[MOST], wide[MOST], apart[MOST], pitch[MOST];  // and to[m * apart + r * pitch + j], padded with 0
    i64 lo[MOST];  // m of lo: 0 or 1
    i64 pieces[MOST];
};

// Each as three matrices: with (lo, hi, hi) of x and (hi, lo, hi) of w along the contraction, x @ w is lo hi + hi lo + hi hi,
// the small terms first.
KERNEL split_arrays(i64 pieces, const __grid_constant__ Matrices a) {
    for (i64 item = blockIdx.x; item < pieces; item += gridDim.x) {
        i64 piece = item;
        int m = 0;
        for (; piece >= a.pieces[m]; ++m) piece -= a.pieces[m];
        const i64 i = piece * THREADS + place_in_block(), lines = (a.wide[m] + WORDS - 1) / WORDS;
        const i64 row = quotient(i, lines), j = (i - row * lines) * WORDS;
        if (row >= a.high[m]) continue;
        const real* from = a.from[m] + row * a.down[m] + j * a.right[m];
        const Numbers numbers = read(from, a.right[m], row < a.n[m] ? a.k[m] - j : 0);
        Line his = 0, finites = 0, los = 0;
#pragma unroll
        for (int l = 0; l < WORDS; ++l) {
            const Split one = split((float)numbers.v[l]);
            put(his, l, one.hi), put(finites, l, one.finite), put(los, l, one.lo);
        }
        u16* to = a.to[m] + row * a.pitch[m] + j;
        write(to + a.lo[m] * a.apart[m], los, a.wide[m] - j);
        write(to + (1 - a.lo[m]) * a.apart[m], finites, a.wide[m] - j);
        write(to + 2 * a.apart[m], his, a.wide[m] - j);
    }
}
