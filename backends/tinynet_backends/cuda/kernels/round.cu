// Numbers rounded to bfloat16, in 16-bit words, padded with zeros to a larger matrix.

#define MOST 32  // arrays per launch
#define WORDS 8  // that a thread writes in one access

struct alignas(16) Line { u16 v[WORDS]; };

// y[r * wide + j] = x[r * down + j * right] for r < n and j < k, and 0 in the rest of (high, wide), for the i-th WORDS of y.
// Rows of y are lines of WORDS, the last of them perhaps shorter.
DEVICE void round_line(
    i64 i, i64 n, i64 k, i64 down, i64 right, i64 high, i64 wide, const real* __restrict__ x, u16* __restrict__ y
) {
    const i64 lines = (wide + WORDS - 1) / WORDS, row = quotient(i, lines), j = (i - row * lines) * WORDS;
    if (row >= high) return;
    const real* from = x + row * down + j * right;
    const i64 here = row < n ? k - j : 0;
    alignas(16) real numbers[WORDS];
    if (right == 1 && here >= WORDS && aligned((u64)from)) {
#pragma unroll
        for (int l = 0; l < WORDS; l += LANES) *(Pack*)(numbers + l) = *(const Pack*)(from + l);
    } else {
#pragma unroll
        for (int l = 0; l < WORDS; ++l) numbers[l] = l < here ? from[l * right] : (real)0;
    }
    Line line;
#pragma unroll
    for (int l = 0; l < WORDS; ++l) line.v[l] = bfloat16((float)numbers[l]);
    u16* to = y + row * wide + j;
    if (j + WORDS <= wide && aligned((u64)to)) store(to, &line);
    else
        for (int l = 0; l < WORDS && j + l < wide; ++l) to[l] = line.v[l];
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
