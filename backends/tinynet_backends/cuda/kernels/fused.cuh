// Fused dense layers: a block takes a tile of rows through all of them, with all weights in its shared memory. This follows
// layers.cuh. Sizes are arguments; or constants, then by the names of warps.cuh, and TILE, the rows of a tile.
//
// Matrices in shared memory have rows of `pitch` numbers, an odd multiple of 16 bytes: rows are aligned, and threads that
// read different rows of one column use different banks. Matrices are padded with 0.
//
// A block with LARGE tiles has a multiprocessor for itself for long: a thread computes 8 x 8 numbers at once where it can, holds
// its part of the gradients of weights in registers, and the next rows arrive while it computes.

#if defined COUNT  // sizes are constants
#define WIDTHS WIDTH
#define FORMULAS FORMULA
#define OF_INPUTS OF_INPUT
#define TILE_ROWS TILE
#define LAYERS COUNT
#define UNROLLED COUNT
#define KNOWN false
#define LARGE (TILE > 64)
#define HELD COUNT
#else
#define WIDTHS layers.width
#define FORMULAS layers.f
#define OF_INPUTS layers.of_input
#define TILE_ROWS tile
#define LARGE false
#define HELD 1
#ifdef USED  // known arguments: see joined.py
#define LAYERS USED
#define UNROLLED USED
#define KNOWN true
#else
#define LAYERS layers.count
#define UNROLLED 1
#define KNOWN false
#endif
#endif

DEVICE int pitch(int width) { return 4 * ((width + 3) / 4 | 1); }

// What follows i < step in a loop over n items by `step` threads, or warps. Seldom a loop, if sizes are known.
DEVICE int then(int i, int n, int step) { return KNOWN && n <= step ? n : i + step; }

// The first `there` of `rows` rows (rows, width) to shared memory, complete after `copied`.
template <bool ROUNDED> DEVICE void fetch(const real* from, int there, int rows, int width, real* to) {
    const int quads = up(width) / 4, p = pitch(width);
    const bool packed = width % 4 == 0 && aligned((u64)from);
    for (int i = place_in_block(); i < rows * quads; i = then(i, rows * quads, THREADS)) {
        const int row = (u32)i / (u32)quads, j = 4 * (i - row * quads);
        const real* source = from + (i64)row * width;
        real* place = to + row * p + j;
        if (row >= there) {
            *(Quad*)place = Quad{};
        } else if (ROUNDED && OPERANDS) {
            Quad x = get(source, j, width);
#pragma unroll
            for (int l = 0; l < 4; ++l) x.v[l] = operand(x.v[l]);
            *(Quad*)place = x;
        } else if (packed) {
#pragma unroll
            for (int l = 0; l < 4; l += LANES) copy<16>(place + l, source + j + l);
        } else {
#pragma unroll
            for (int l = 0; l < 4; ++l)
                if (j + l < width) copy<sizeof(real)>(place + l, source + j + l);
                else place[l] = 0;
        }
    }
}

// w (i, o) as (o, i). A warp takes 4 rows of 8 numbers, whose places in shared memory are in 32 banks.
DEVICE void fetch_transposed(const real* w, int i, int o, real* to) {
    const int p = pitch(i), wide = (o + 7) / 8, lane = place_in_block() % 32;
    const int all = up(i) / 4 * wide;
    for (int n = place_in_block() / 32; n < all; n = then(n, all, THREADS / 32)) {
        const int row = (u32)n / (u32)wide * 4 + lane / 8, j = (u32)n % (u32)wide * 8 + lane % 8;
        if (j >= up(o)) continue;
        const real* source = w + (i64)row * o + j;
        real* place = to + j * p + row;
        if (row >= i || j >= o) *place = 0;
        else if (OPERANDS) *place = operand(*source);
        else copy<sizeof(real)>(place, source);
    }
}

DEVICE Quad shuffled(Quad x, int lanes) {
#pragma unroll
    for (int l = 0; l < 4; ++l) x.v[l] = __shfl_xor_sync(~0u, x.v[l], lanes);
    return x;
}

DEVICE Quad sum(Quad x, const Quad& y) {
#pragma unroll
    for (int l = 0; l < 4; ++l) x.v[l] += y.v[l];
    return x;
}

#if OPERANDS
struct alignas(8) Pair { real v[2]; };

// Two bfloat16 numbers, the upper halves of floats, in one word.
DEVICE u32 halves(float low, float high) { return __float_as_uint(low) >> 16 | (__float_as_uint(high) & 0xffff0000); }

// d (16, 8) += x (16, 8) @ y (8, 8), by a whole warp. Lane 4 * g + t holds, of x and of d, (g, 2 t), (g, 2 t + 1) and the same
// of row g + 8, and of y (2 t, g) and (2 t + 1, g). For tf32, PTX numbers the depth in another order, in x and y alike.
DEVICE void mma(float* d, const Pair& x, const Pair& below, float y0, float y1) {
    const float x0 = x.v[0], x1 = x.v[1], x2 = below.v[0], x3 = below.v[1];
    if (OPERANDS == 2) mma_bf16(d, halves(x0, x1), halves(x2, x3), halves(y0, y1));
    else mma_tf32(
        d, __float_as_uint(x0), __float_as_uint(x2), __float_as_uint(x1), __float_as_uint(x3), __float_as_uint(y0),
        __float_as_uint(y1));
}

// `product` on tensor cores. A warp computes 16 x 32 numbers by four calls of `mma`, whose rows g and g + 8 are rows 2 g and
// 2 g + 1 here, and column g of the n-th call is column 4 g + n: so a lane reads adjacent numbers from banks of its own, and
// ends up with two rows of 8 numbers.
template <bool TRANSPOSED, class Read, class Put>
DEVICE void tensor_product(
    int rows, int columns, int depth, const real* a, int ap, const real* b, int bp, const Read& read, const Put& put
) {
    const int across = (columns + 31) / 32, tiles = (rows + 15) / 16 * across;
    const int lane = place_in_block() % 32, g = lane / 4, t = lane % 4;
    for (int tile = place_in_block() / 32; tile < tiles; tile += THREADS / 32) {
        const int row = (u32)tile / (u32)across * 16 + 2 * g, first = (u32)tile % (u32)across * 32;
        const bool high = row < up(rows), wide = first + 4 * g < up(columns);
        float d[4][4] = {};
        __syncwarp();  // lanes may have diverged where they stored the last numbers
#pragma unroll 2
        for (int base = 0; base < depth; base += 8) {
            const int k = base + 2 * t;
            const bool deep = k < up(depth);
            Pair x = {}, below = {};
            Quad y = {}, beyond = {};
            if (deep && high) {
                x = *(const Pair*)(TRANSPOSED ? a + k * ap + row : a + row * ap + k);
                below = *(const Pair*)(TRANSPOSED ? a + (k + 1) * ap + row : a + (row + 1) * ap + k);
            }
            if (deep && wide) {
                y = *(const Quad*)(b + k * bp + first + 4 * g);
                beyond = *(const Quad*)(b + (k + 1) * bp + first + 4 * g);
            }
            if (TRANSPOSED) {
                const real one = x.v[1];
                x.v[1] = below.v[0], below.v[0] = one;
            }
#pragma unroll
            for (int n = 0; n < 4; ++n) mma(d[n], x, below, y.v[n], beyond.v[n]);
        }
#pragma unroll
        for (int c = 0; c < 4; ++c) {
            const int j = first + 8 * t + c % 2 * 4;
            if (high && j < up(columns)) put(row + c / 2, j, Quad{d[0][c], d[1][c], d[2][c], d[3][c]}, read(row + c / 2, j), c);
        }
    }
}
#endif

// `product` by squares of 8 x 8 numbers: half as many reads of shared memory as by those of 4 x 4. A square has a quad of either
// half of the columns, and every `down`-th row; if TRANSPOSED, a quad of either half of the rows: so threads read adjacent quads,
// or rows, from different banks. Two neighbours have the same columns, and those next to them the same rows: their reads of 16
// bytes are one. Up to 4 threads share a square as in `product`.
template <bool TRANSPOSED, class Read, class Put>
DEVICE void large_product(
    int rows, int columns, int depth, const real* a, int ap, const real* b, int bp, const Read& read, const Put& put
) {
    const int across = columns / 8, down = rows / 8, squares = across * down, pair = down % 2 ? 1 : 2;
    const int sharing = 4 * squares <= THREADS ? 4 : 2 * squares <= THREADS ? 2 : 1;
    const int lanes = 32 / sharing, lane = place_in_block() % 32, mine = lane / lanes;
    const bool even = squares % (THREADS / sharing) == 0 && up(depth) % (4 * sharing) == 0;  // no thread has less to do
    for (int base = 0; base < squares; base += THREADS / sharing) {
        const int square = base + place_in_block() / 32 * lanes + lane % lanes;
        const bool inside = even || square < squares;
        const int strip = (u32)square / (u32)(across * pair) * pair + square % pair;
        const int row = TRANSPOSED ? 4 * strip : strip, j = (u32)square / (u32)pair % (u32)across * 4;
        Quad s[8][2] = {};
#pragma unroll 1
        for (int first = 0; first < up(depth); first += 4 * sharing) {
            const int k = first + 4 * mine;
            if (!even && (!inside || k >= up(depth))) break;
            Quad x[8];
            if (!TRANSPOSED)
#pragma unroll
                for (int l = 0; l < 8; ++l) x[l] = *(const Quad*)(a + (row + l * down) * ap + k);
#pragma unroll
            for (int d = 0; d < 4; ++d) {
                Quad y[2];
#pragma unroll
                for (int h = 0; h < 2; ++h) {
                    y[h] = *(const Quad*)(b + (k + d) * bp + j + h * columns / 2);
                    if (TRANSPOSED) x[h] = *(const Quad*)(a + (k + d) * ap + row + h * rows / 2);
                }
#pragma unroll
                for (int l = 0; l < 8; ++l)
#pragma unroll
                    for (int c = 0; c < 8; ++c)
                        s[l][c / 4].v[c % 4] =
                            fma(TRANSPOSED ? x[l / 4].v[l % 4] : x[l].v[d], y[c / 4].v[c % 4], s[l][c / 4].v[c % 4]);
            }
        }
        int first = 0;  // of the square's rows that this thread ends up with
        for (int n = 1; n < sharing; n *= 2) first += mine & n ? 4 / n : 0;
        const auto place = [&](int l) {
            const int at = first + l;
            return row + (TRANSPOSED ? at % 4 + at / 4 * (rows / 2) : at * down);
        };
        Quad known[8][2];
#pragma unroll
        for (int l = 0; l < 8; ++l)
#pragma unroll
            for (int h = 0; h < 2; ++h)
                if (l * sharing < 8 && inside) known[l][h] = read(place(l), j + h * columns / 2);
#pragma unroll
        for (int n = 1; n < 4; n *= 2) {
            if (n >= sharing) break;
#pragma unroll
            for (int l = 0; l < 4 / n; ++l)
#pragma unroll
                for (int h = 0; h < 2; ++h) {
                    Quad &upper = s[l][h], &lower = s[l + 4 / n][h];
                    upper = sum(mine & n ? lower : upper, shuffled(mine & n ? upper : lower, n * lanes));
                }
        }
#pragma unroll
        for (int l = 0; l < 8; ++l)
#pragma unroll
            for (int h = 0; h < 2; ++h)
                if (l * sharing < 8 && inside) put(place(l), j + h * columns / 2, s[l][h], known[l][h], 2 * l + h);
    }
}

// put(row, j, four numbers, read(row, j), which of this thread's fours) for all of a @ b, (rows, depth), (depth, columns), or with
// a as (depth, rows) if TRANSPOSED. Reads precede puts, since the compiler cannot know that these have other places. A thread
// computes 4 x 4 numbers. If there are fewer such squares than threads, up to 16 threads of a warp share one: each sums over a
// part of the depth, then they divide the square among them and add the parts. The division follows from sizes. All threads of
// the block must call this.
template <bool TRANSPOSED, class Read, class Put>
DEVICE void product(
    int rows, int columns, int depth, const real* a, int ap, const real* b, int bp, const Read& read, const Put& put
) {
#if OPERANDS
    if (depth <= 64 || (rows + 15) / 16 * ((columns + 31) / 32) >= 4) {  // otherwise most warps would be idle for long
        tensor_product<TRANSPOSED>(rows, columns, depth, a, ap, b, bp, read, put);
        return;
    }
#endif
    if (LARGE && rows % 8 == 0 && columns % 8 == 0 && depth >= 16 && rows * columns >= 16 * THREADS) {
        large_product<TRANSPOSED>(rows, columns, depth, a, ap, b, bp, read, put);
        return;
    }
    const int across = up(columns) / 4, squares = up(rows) / 4 * across, steps = up(depth) / 4;
    int sharing = 1;
#pragma unroll
    for (int doubled = 0; doubled < 4; ++doubled)
        if (2 * sharing * squares <= THREADS && 2 * sharing <= steps) sharing *= 2;
    const int lanes = 32 / sharing, lane = place_in_block() % 32, mine = lane / lanes;
    if (KNOWN && 4 * sharing * squares <= THREADS) {  // the same sums, by a thread for each row of a square
        const int quad = place_in_block() / 32 * lanes + lane % lanes;
        const int row = (u32)quad / (u32)across, j = (u32)quad % (u32)across * 4;
        const bool inside = quad < 4 * squares;
        Quad s = {};
        for (int k = 4 * mine; k < (inside ? 4 * steps : 0); k += 4 * sharing)
#pragma unroll
            for (int d = k; d < k + 4; ++d) {
                const Quad y = *(const Quad*)(b + d * bp + j);
#pragma unroll
                for (int c = 0; c < 4; ++c) s.v[c] = fma(TRANSPOSED ? a[d * ap + row] : a[row * ap + d], y.v[c], s.v[c]);
            }
#pragma unroll
        for (int apart = 1; apart < 16; apart *= 2)
            if (apart < sharing) s = sum(s, shuffled(s, apart * lanes));
        if (inside && mine == 0) put(row, j, s, read(row, j), 0);
        return;
    }
    for (int base = 0; base < squares; base += THREADS / sharing) {
        const int square = base + place_in_block() / 32 * lanes + lane % lanes;
        const bool inside = square < squares;
        int row = (u32)square / (u32)across * 4;
        const int j = (u32)square % (u32)across * 4;
        Quad s[4] = {};
#pragma unroll 2
        for (int k = 4 * mine; k < (inside ? 4 * steps : 0); k += 4 * sharing) {
            Quad x[4], y[4];
#pragma unroll
            for (int l = 0; l < 4; ++l) {
                x[l] = *(const Quad*)(TRANSPOSED ? a + (k + l) * ap + row : a + (row + l) * ap + k);
                y[l] = *(const Quad*)(b + (k + l) * bp + j);
            }
#pragma unroll
            for (int d = 0; d < 4; ++d)
#pragma unroll
                for (int r = 0; r < 4; ++r)
#pragma unroll
                    for (int c = 0; c < 4; ++c) s[r].v[c] = fma(TRANSPOSED ? x[d].v[r] : x[r].v[d], y[d].v[c], s[r].v[c]);
        }
        if (sharing > 1) {
            const bool lower = mine & 1;
#pragma unroll
            for (int r = 0; r < 2; ++r) s[r] = sum(lower ? s[r + 2] : s[r], shuffled(lower ? s[r] : s[r + 2], lanes));
            row += lower ? 2 : 0;
        }
        if (sharing > 2) {
            const bool lower = mine & 2;
            s[0] = sum(lower ? s[1] : s[0], shuffled(lower ? s[0] : s[1], 2 * lanes));
            row += lower ? 1 : 0;
        }
        for (int apart = 4; apart < sharing; apart *= 2) s[0] = sum(s[0], shuffled(s[0], apart * lanes));
        if (!inside || mine >= 4) continue;
        Quad known[4];
#pragma unroll
        for (int r = 0; r < 4; ++r)
            if (r * sharing < 4) known[r] = read(row + r, j);
#pragma unroll
        for (int r = 0; r < 4; ++r)
            if (r * sharing < 4) put(row + r, j, s[r], known[r], r);
    }
}

DEVICE int widest(const Layers& layers, int first) {
    int most = first ? 0 : pitch(WIDTHS[0]);
#pragma unroll UNROLLED
    for (int k = 1; k <= LAYERS; ++k) {
        const int p = pitch(WIDTHS[k]);
        most = p > most ? p : most;
    }
    return most;
}

DEVICE int widest_input(const Layers& layers) {
    int most = 0;
#pragma unroll UNROLLED
    for (int k = 0; k < LAYERS; ++k) {
        const int p = pitch(WIDTHS[k]);
        most = p > most ? p : most;
    }
    return most;
}

// y (n, o), and what the backward pass needs of each layer, in `kept`
KERNEL forward(
    i64 n, int tile, const __grid_constant__ Layers layers, const real* __restrict__ x, real* __restrict__ kept,
    real* __restrict__ y
) {
    SHARED_MEMORY(shared);
    tile = TILE_ROWS;
    const int last = LAYERS - 1;
    real* free = shared;
#pragma unroll UNROLLED
    for (int k = 0; k <= last; ++k) {  // weights, each followed by the bias as one more row
        const int i = WIDTHS[k], o = WIDTHS[k + 1];
        fetch<true>(layers.w[k], i, up(i), o, free);
        free += up(i) * pitch(o);
        fetch<false>(layers.b[k], layers.b[k] != nullptr, 1, o, free);
        free += pitch(o);
    }
    real* const rows_of_x = free;
    real* const results = rows_of_x + tile * pitch(WIDTHS[0]);  // of two layers, alternating
    const int apart = tile * widest(layers, 1);
    const bool early = LARGE && last > 0;  // whether the next tile of x arrives from the second layer on
    for (i64 first = (i64)blockIdx.x * tile; first < n; first += (i64)gridDim.x * tile) {
        const int rows = n - first < tile ? (int)(n - first) : tile;
        __syncthreads();  // the last tile has been read
        if (!early || first == (i64)blockIdx.x * tile)
            fetch<true>(x + first * WIDTHS[0], rows, tile, WIDTHS[0], rows_of_x);
        const real *w = shared, *in = rows_of_x;
#pragma unroll UNROLLED
        for (int k = 0; k <= last; ++k) {
            const int i = WIDTHS[k], o = WIDTHS[k + 1], p = pitch(o), f = FORMULAS[k];
            const bool of_input = OF_INPUTS[k];
            const real* b = w + up(i) * p;
            real* const next = results + (k & 1 ? apart : 0);
            if (!early || !k) copied();
            __syncthreads();
            const i64 ahead = first + (i64)gridDim.x * tile;
            if (early && k == 1 && ahead < n)
                fetch<true>(
                    x + ahead * WIDTHS[0], n - ahead < tile ? (int)(n - ahead) : tile, tile,
                    WIDTHS[0], rows_of_x);
            const auto bias = [&](int, int j) { return *(const Quad*)(b + j); };
            product<false>(tile, o, i, in, pitch(i), w, p, bias, [&](int row, int j, const Quad& s, const Quad& b, int) {
                Quad out, keep, then;
#pragma unroll
                for (int l = 0; l < 4; ++l) {
                    const real in = s.v[l] + b.v[l];
                    out.v[l] = value(f, in);
                    keep.v[l] = of_input ? in : out.v[l];
                    then.v[l] = j + l < o ? operand(out.v[l]) : (real)0;
                }
                *(Quad*)(next + row * p + j) = then;
                if (row >= rows) return;
                const i64 at = (first + row) * o;
                if (layers.kept[k] >= 0) put(kept + layers.kept[k] + at, j, o, keep);
                if (k == last) put(y + at, j, o, out);
            });
            w = b + p;
            in = next;
        }
    }
}

// Add a tile's contribution to the gradient of a row of weights.
DEVICE void add(real* row, int j, int width, const Quad& x, bool first) { put(row, j, width, first ? x : sum(get(row, j, width), x)); }

// put(j, sum) for all columns of x (rows, width). A warp does eight of them; its lanes have pairs of rows.
template <class Put> DEVICE void sum_columns(const real* x, int rows, int width, const Put& put) {
    const int lane = place_in_block() % 32, p = pitch(width);
    for (int base = place_in_block() / 32 * 8; base < width; base = then(base, width, THREADS / 32 * 8)) {
        const int j = base + lane % 8;
        real s = 0;
        if (j < width)
#pragma unroll 4
            for (int row = lane / 8 * 2; row < rows; row += 8) s += x[row * p + j] + x[(row + 1) * p + j];
        s += __shfl_xor_sync(~0u, s, 8);
        s += __shfl_xor_sync(~0u, s, 16);
        if (lane < 8 && j < width) put(j, s);
    }
}

// Gradients for dy (n, o): dx (n, i), if requested, as real or in bfloat16, and those of weights and biases, layer after layer:
// p numbers for each chunk of `size` rows, in `parts`, `apart` numbers from one chunk to the next. If x is the output of a ReLU,
// dx can be the gradient of that ReLU's input (before 1), and its sums over the samples precede all others (before 2).
KERNEL backward(
    i64 n, int tile, i64 size, i64 chunks, i64 p, i64 apart, int before, const __grid_constant__ Layers layers,
    const real* __restrict__ x, const real* __restrict__ kept, const real* __restrict__ dy, real* __restrict__ dx,
    u16* __restrict__ half_dx, real* __restrict__ parts
) {
    SHARED_MEMORY(shared);
    tile = TILE_ROWS;
    const bool through = dx || half_dx;
    const int last = LAYERS - 1, most = widest(layers, before ? 0 : 1);
    real* free = shared;
#pragma unroll UNROLLED
    for (int k = last; k >= 0; --k) {
        if (!k && !through) break;
        fetch_transposed(layers.w[k], WIDTHS[k], WIDTHS[k + 1], free);
        free += up(WIDTHS[k + 1]) * pitch(WIDTHS[k]);
    }
    real* const inputs = free;  // of all layers, the last one's first; or LARGE ones of two layers, alternating
    const int half = LARGE ? tile * widest_input(layers) : 0;
    int turn = 0;  // which of the two is read
    if (LARGE) free += 2 * half;
#pragma unroll UNROLLED
    for (int k = last; k >= 0; --k)
        if (!LARGE) free += tile * pitch(WIDTHS[k]);
    const auto input = [&](int k, i64 first, int rows, real* to) {
        const int i = WIDTHS[k];
        if (k) fetch<false>(kept + layers.kept[k - 1] + first * i, rows, tile, i, to);
        else fetch<true>(x + first * i, rows, tile, i, to);
    };
    Quad held[HELD][4] = {};  // a thread's part of the gradients of weights, if LARGE
    real held_biases[HELD] = {};
    real *dz = free, *next = free + tile * most, *const again = free + 2 * tile * most;
    for (i64 chunk = blockIdx.x; chunk < chunks; chunk += gridDim.x) {
        const i64 begin = chunk * size, end = begin + size < n ? begin + size : n;
        for (i64 first = begin; first < end; first += tile) {
            const int rows = end - first < tile ? (int)(end - first) : tile;
            __syncthreads();  // the last tile has been read
            real* in = inputs;
#pragma unroll UNROLLED
            for (int k = last; k >= 0; --k) {
                if (LARGE || !k) break;
                input(k, first, rows, in);
                in += tile * pitch(WIDTHS[k]);
            }
            if (!LARGE) input(0, first, rows, in);
            else if (first == begin) input(last, first, rows, inputs + turn * half);
            {
                const int o = WIDTHS[last + 1], quads = up(o) / 4, f = FORMULAS[last];
                if (LARGE && (first == begin || before)) fetch<false>(dy + first * o, rows, tile, o, dz);
                if (LARGE) copied();  // what this thread has fetched
                for (int i = place_in_block(); i < (LARGE && !f ? 0 : tile * quads); i = then(i, tile * quads, THREADS)) {
                    const int row = (u32)i / (u32)quads, j = 4 * (i - row * quads);
                    const i64 at = (first + row) * o;
                    Quad d = {}, known = {};
                    if (row < rows) d = LARGE ? *(const Quad*)(dz + row * pitch(o) + j) : get(dy + at, j, o);
                    if (row < rows && layers.kept[last] >= 0) known = get(kept + layers.kept[last] + at, j, o);
#pragma unroll
                    for (int l = 0; l < 4; ++l) {
                        const real x = back(f, OF_INPUTS[last], d.v[l], known.v[l]);
                        d.v[l] = row < rows && j + l < o ? operand(x) : (real)0;
                    }
                    *(Quad*)(dz + row * pitch(o) + j) = d;
                }
            }
            if (!LARGE) copied();
            in = inputs;
            const real* w = shared;
            real* sums = parts + chunk * apart + p;
#pragma unroll UNROLLED
            for (int k = last; k >= 0; --k) {
                const int i = WIDTHS[k], o = WIDTHS[k + 1], ip = pitch(i), op = pitch(o);
                const int f = k ? FORMULAS[k - 1] : 0;
                const bool of_input = k && OF_INPUTS[k - 1];
                if (LARGE) {
                    in = inputs + turn * half;
                    turn ^= 1;
                    copied();
                    __syncthreads();  // the other half has been read
                    const i64 ahead = k ? first : first + tile;
                    const int there = end - ahead < tile ? (int)(end - ahead) : tile, o = WIDTHS[last + 1];
                    if (ahead < end) input(k ? k - 1 : last, ahead, there, inputs + turn * half);
                    if (ahead < end && !k && !before) fetch<false>(dy + ahead * o, there, tile, o, next);
                }
                const real* operands = in;
                if (k && (OPERANDS || of_input)) {
                    __syncthreads();  // the last contents of `again` have been read
                    for (int n = place_in_block(); n < tile * (ip / 4); n = then(n, tile * (ip / 4), THREADS)) {
                        Quad q = ((const Quad*)in)[n];
#pragma unroll
                        for (int l = 0; l < 4; ++l) {
                            const real out = of_input ? value(f, q.v[l]) : q.v[l];
                            q.v[l] = n < rows * (ip / 4) ? operand(out) : (real)0;
                        }
                        ((Quad*)again)[n] = q;
                    }
                    operands = again;
                }
                if (!LARGE || operands != in) __syncthreads();
                if (layers.b[k]) {
                    sums -= o;
                    sum_columns(dz, tile, o, [&](int j, real s) {
                        if (LARGE) {
                            real& so_far = held_biases[LARGE ? k : 0];
                            so_far = first == begin ? s : so_far + s;
                            if (end - first <= tile) sums[j] = so_far;
                        } else sums[j] = first == begin ? s : sums[j] + s;
                    });
                }
                sums -= (i64)i * o;
                const auto nothing = [](int, int) { return Quad{}; };
                product<true>(i, o, tile, operands, ip, dz, op, nothing, [&](int row, int j, const Quad& s, const Quad&, int n) {
                    if (LARGE) {
                        Quad& so_far = held[LARGE ? k : 0][n];
                        so_far = first == begin ? s : sum(so_far, s);
                        if (row < i && end - first <= tile) put(sums + (i64)row * o, j, o, so_far);
                    } else if (row < i) add(sums + (i64)row * o, j, o, s, first == begin);
                });
                const auto output = [&](int row, int j) { return *(const Quad*)(in + row * ip + j); };
                if (k || through)
                    product<false>(tile, i, o, dz, op, w, ip, output, [&](int row, int j, const Quad& s, const Quad& known, int) {
                        Quad d = s;
                        if (!k) {
                            if (before) {
#pragma unroll
                                for (int l = 0; l < 4; ++l) d.v[l] = row < rows && known.v[l] > 0 ? s.v[l] : 0;
                                *(Quad*)(next + row * ip + j) = d;
                            }
                            const i64 at = (first + row) * i;
                            if (row >= rows) return;
                            if (dx) put(dx + at, j, i, d);
                            else
                                for (int l = 0; l < 4; l += LANES) *(Rounded*)(half_dx + at + j + l) = bfloat16(*(const Pack*)(d.v + l));
                            return;
                        }
                        d = Quad{};
                        if (row < rows)
#pragma unroll
                            for (int l = 0; l < 4; ++l)
                                if (j + l < i) d.v[l] = operand(back(f, of_input, s.v[l], known.v[l]));
                        *(Quad*)(next + row * ip + j) = d;
                    });
                if (!k && before == 2) {
                    __syncthreads();
                    sum_columns(next, tile, i, [&](int j, real s) { sums[j - i] = first == begin ? s : sums[j - i] + s; });
                }
                if (!LARGE) in += tile * ip;
                w += up(o) * ip;
                real* const read = dz;
                dz = next;
                next = read;
            }
        }
    }
}
