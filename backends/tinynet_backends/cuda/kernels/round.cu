// Numbers rounded to bfloat16, or as the sum of two such numbers, in 16-bit words, padded with zeros to a larger matrix; and
// products of such matrices without the padding.

#define MOST 32  // arrays per launch
#define WORDS 4  // that a thread writes in one access: neighbours write neighbouring bytes
#define LINES 4  // of as many rows, that a thread reads before it writes one

typedef u64 Line;  // as one number: an array may be stored element by element
struct alignas(16) Numbers { real v[WORDS]; };

// Numbers from LINES rows, `down` apart, of which the first `rows` are in memory, and WORDS numbers of each, `right` apart, of
// which the first `here` are. The rest is 0.
DEVICE void read(Numbers* to, const real* __restrict__ from, i64 down, i64 right, i64 rows, i64 here) {
    const bool whole = right == 1 && here >= WORDS && down % LANES == 0 && aligned((u64)from);
#pragma unroll
    for (int d = 0; d < LINES; ++d, from += down) {
        Numbers x = {};
        if (d >= rows) {
        } else if (whole) {
#pragma unroll
            for (int l = 0; l < WORDS; l += LANES) *(Pack*)(x.v + l) = *(const Pack*)(from + l);
        } else {
#pragma unroll
            for (int l = 0; l < WORDS; ++l)
                if (l < here) x.v[l] = from[l * right];
        }
        to[d] = x;
    }
}

DEVICE void put(Line& line, int l, u16 word) { line |= (u64)word << 16 * l; }

// The first `here` words of a line.
DEVICE void write(u16* to, Line line, i64 here) {
    if (here >= WORDS && (u64)to % sizeof(Line) == 0) {
        *(Line*)to = line;
        return;
    }
#pragma unroll
    for (int l = 0; l < WORDS; ++l)
        if (l < here) to[l] = (u16)(line >> 16 * l);
}

// Rows of a matrix are lines of WORDS, the last of them perhaps shorter. A thread has the same line of LINES rows, one below
// the other, so it looks for its place only once: this is where the i-th thread begins.
struct Place { i64 row, j; };
DEVICE Place place(i64 i, i64 wide) {
    const i64 lines = (wide + WORDS - 1) / WORDS, group = quotient(i, lines);
    return {group * LINES, (i - group * lines) * WORDS};
}

// y[r * wide + j] = x[r * down + j * right] for r < n and j < k, and 0 in the rest of (high, wide), by the i-th thread.
DEVICE void round_lines(
    i64 i, i64 n, i64 k, i64 down, i64 right, i64 high, i64 wide, const real* __restrict__ x, u16* __restrict__ y
) {
    const Place at = place(i, wide);
    Numbers numbers[LINES];
    read(numbers, x + at.row * down + at.j * right, down, right, n - at.row, k - at.j);
    y += at.row * wide + at.j;
#pragma unroll
    for (int d = 0; d < LINES; ++d, y += wide) {
        if (at.row + d >= high) return;
        Line line = 0;
#pragma unroll
        for (int l = 0; l < WORDS; ++l) put(line, l, bfloat16((float)numbers[d].v[l]));
        write(y, line, wide - at.j);
    }
}

KERNEL round_rows(
    i64 n, i64 k, i64 down, i64 right, i64 high, i64 wide, const real* __restrict__ x, u16* __restrict__ y
) {
    const i64 busy = (high + LINES - 1) / LINES * ((wide + WORDS - 1) / WORDS);
#pragma unroll 1
    for (i64 i = thread(); i < busy; i += threads()) round_lines(i, n, k, down, right, high, wide, x, y);
}

struct Arrays { const real* from[MOST]; u16* to[MOST]; i64 n[MOST], k[MOST], high[MOST], wide[MOST], pieces[MOST]; };

// The same for several arrays in C order. A piece is what a block does of one of them; there are `pieces` in all.
KERNEL round_arrays(i64 pieces, const __grid_constant__ Arrays a) {
    for (i64 item = blockIdx.x; item < pieces; item += gridDim.x) {
        i64 piece = item;
        int m = 0;
        for (; piece >= a.pieces[m]; ++m) piece -= a.pieces[m];
        const i64 i = piece * THREADS + place_in_block();
        round_lines(i, a.n[m], a.k[m], a.k[m], 1, a.high[m], a.wide[m], a.from[m], a.to[m]);
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
        const i64 down = a.down[m], right = a.right[m], high = a.high[m], wide = a.wide[m];
        const i64 pitch = a.pitch[m], lo = a.lo[m] * a.apart[m], finite = a.apart[m] - lo, hi = 2 * a.apart[m];
        const Place at = place(piece * THREADS + place_in_block(), wide);
        Numbers numbers[LINES];
        read(numbers, a.from[m] + at.row * down + at.j * right, down, right, a.n[m] - at.row, a.k[m] - at.j);
        u16* to = a.to[m] + at.row * pitch + at.j;
#pragma unroll
        for (int d = 0; d < LINES; ++d, to += pitch) {
            if (at.row + d >= high) break;
            Line his = 0, finites = 0, los = 0;
#pragma unroll
            for (int l = 0; l < WORDS; ++l) {
                const Split one = split((float)numbers[d].v[l]);
                put(his, l, one.hi), put(finites, l, one.finite), put(los, l, one.lo);
            }
            write(to + lo, los, wide - at.j);
            write(to + finite, finites, wide - at.j);
            write(to + hi, his, wide - at.j);
        }
    }
}

// y (n, k) in C order: the first k columns of x, whose rows are `pitch` numbers apart, plus the bias b, if there is one, and
// through ReLU, if `positive`.
KERNEL unpad(
    i64 n, i64 k, i64 pitch, i64 positive, const real* __restrict__ x, const real* __restrict__ b, real* __restrict__ y
) {
    const i64 size = n * k;
    const bool whole = k % LANES == 0 && pitch % LANES == 0 && aligned((u64)x), packed = aligned((u64)y);
    for (i64 i = thread() * LANES; i < size; i += threads() * LANES) {
        i64 row = quotient(i, k), j = i - row * k;
        const i64 left = size - i;
        Pack z, bias = {};
        if (whole) {
            z = *(const Pack*)(x + row * pitch + j);
#pragma unroll
            for (int l = 0; l < LANES; ++l) bias.v[l] = b ? b[j + l] : (real)0;
        } else {
#pragma unroll
            for (int l = 0; l < LANES; ++l) {  // a line may span rows
                z.v[l] = l < left ? x[row * pitch + j] : (real)0;
                bias.v[l] = b && l < left ? b[j] : (real)0;
                if (++j == k) j = 0, ++row;
            }
        }
#pragma unroll
        for (int l = 0; l < LANES; ++l) {
            if (b) z.v[l] += bias.v[l];
            if (positive && z.v[l] <= 0) z.v[l] = 0;  // NaN stays
        }
        if (packed && left >= LANES) {
            *(Pack*)(y + i) = z;
            continue;
        }
#pragma unroll
        for (int l = 0; l < LANES; ++l)
            if (l < left) y[i + l] = z.v[l];
    }
}
