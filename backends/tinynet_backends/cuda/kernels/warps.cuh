// Fused dense layers on tensor cores: a warp takes 16 rows through all layers, and they stay in its registers. This follows
// layers.cuh and what the layers are: COUNT, WIDTH, FORMULA, OF_INPUT, BIASED, and THROUGH, whether dx is computed.
//
// All matrices are made of blocks of 16 x 16 numbers, padded with 0. Lane 4 g + t of a warp has columns 4 t to 4 t + 3 of rows g
// and g + 8. PTX numbers columns in another order, the same for a product's depth and for its result: so what one product
// returns is what the next one takes.

#define WARPS (THREADS / 32)
#define PARTS (OPERANDS == 1 ? 2 : 1)  // words of 16 bytes that a lane has of a block of operands

#if OPERANDS == 2
typedef u16 Stored;
#else
typedef real Stored;
#endif
struct alignas(16) Four { u32 v[4]; };
struct alignas(8) Two { u32 v[2]; };
struct alignas(8) Pair { real v[2]; };
struct Block { Four v[PARTS]; };  // of operands, in the order of registers in which mma takes them
struct Sums { float v[2][4]; };   // a block of a result, as two calls of mma return it

DEVICE constexpr int blocks(int width) { return (width + 15) / 16; }
DEVICE constexpr int area(int k) { return blocks(WIDTH[k]) * blocks(WIDTH[k + 1]); }  // blocks of a layer's weights
DEVICE constexpr int slots(int k) { return (area(k) + WARPS - 1) / WARPS; }           // those that a warp has the gradient of
DEVICE constexpr int pairs(int k) { return (blocks(WIDTH[k + 1]) + 3) / 4; }          // of columns, per lane
DEVICE constexpr int slots_before(int k) { return k ? slots_before(k - 1) + slots(k - 1) : 0; }
DEVICE constexpr int columns_before(int k) { return k ? columns_before(k - 1) + 16 * blocks(WIDTH[k]) : 0; }
DEVICE constexpr int place_of(int k) { return k ? place_of(k - 1) + (WIDTH[k - 1] + BIASED[k - 1]) * WIDTH[k] : 0; }
DEVICE constexpr int weights_before(int first, int k) {
    return k > first ? weights_before(first, k - 1) + 32 * PARTS * area(k - 1) : 0;
}
DEVICE constexpr int most(int k) { return k < 0 ? 0 : blocks(WIDTH[k]) > most(k - 1) ? blocks(WIDTH[k]) : most(k - 1); }

// Rows of a tile in shared memory begin at a distance that keeps the lanes which read them together in different banks. The 16
// columns of a block lie in the order in which lanes store single words.
#define PITCH (16 * most(COUNT) + 8)

DEVICE int column_at(int place) {
    return OPERANDS == 2 ? place % 8 / 2 * 4 + place / 8 * 2 + place % 2 : place % 4 * 4 + place / 4;
}

DEVICE int warp() { return place_in_block() / 32 % WARPS; }  // which tells the compiler how many there are
DEVICE int lane() { return place_in_block() % 32; }

// What a lane has of a left operand: columns 4 t to 4 t + 3 of rows g and g + 8.
template <bool ROUNDED = true> DEVICE Block left(const Quad& low, const Quad& high) {
    Block made;
#pragma unroll
    for (int l = 0; l < 4; ++l) {
#if OPERANDS == 2
        const Quad& row = l % 2 ? high : low;
        made.v[0].v[l] = rounded_pair(row.v[l / 2 * 2], row.v[l / 2 * 2 + 1]);
#else
        made.v[l / 2 * (PARTS - 1)].v[l % 2 * 2] = __float_as_uint(ROUNDED ? operand(low.v[l]) : low.v[l]);
        made.v[l / 2 * (PARTS - 1)].v[l % 2 * 2 + 1] = __float_as_uint(ROUNDED ? operand(high.v[l]) : high.v[l]);
#endif
    }
    return made;
}

// Of a right operand: rows 4 t to 4 t + 3 of column 4 (g / 2) + g % 2 and of the second after it.
DEVICE Block right(const Quad& first, const Quad& second) {
    Block made;
#pragma unroll
    for (int l = 0; l < 4; ++l) {
#if OPERANDS == 2
        const Quad& column = l / 2 ? second : first;
        made.v[0].v[l] = rounded_pair(column.v[l % 2 * 2], column.v[l % 2 * 2 + 1]);
#else
        made.v[0].v[l] = __float_as_uint(operand(first.v[l]));
        made.v[PARTS - 1].v[l] = __float_as_uint(operand(second.v[l]));
#endif
    }
    return made;
}

// A row of a left operand.
DEVICE Quad row_of(const Block& block, int high) {
    Quad row;
#pragma unroll
    for (int l = 0; l < 4; ++l) {
#if OPERANDS == 2
        const u32 word = block.v[0].v[l / 2 * 2 + high];
        row.v[l] = __uint_as_float(l % 2 ? word & 0xffff0000 : word << 16);
#else
        row.v[l] = __uint_as_float(block.v[l / 2 * (PARTS - 1)].v[l % 2 * 2 + high]);
#endif
    }
    return row;
}

DEVICE Quad row_of(const Sums& d, int high) {
    return {d.v[0][2 * high], d.v[0][2 * high + 1], d.v[1][2 * high], d.v[1][2 * high + 1]};
}

// d += x @ w.
DEVICE void multiply(Sums& d, const Block& x, const Block& w) {
#if OPERANDS == 2
    const Four &a = x.v[0], &b = w.v[0];
#pragma unroll
    for (int n = 0; n < 2; ++n) mma_bf16(d.v[n], a.v[0], a.v[1], a.v[2], a.v[3], b.v[2 * n], b.v[2 * n + 1]);
#else
#pragma unroll
    for (int k = 0; k < PARTS; ++k)
#pragma unroll
        for (int n = 0; n < 2; ++n) {
            const Four &a = x.v[k], &b = w.v[n * (PARTS - 1)];
            mma_tf32(d.v[n], a.v[0], a.v[1], a.v[2], a.v[3], b.v[2 * k], b.v[2 * k + 1]);
        }
#endif
}

DEVICE Block load(const Four* blocks, int n) {
    Block x;
#pragma unroll
    for (int part = 0; part < PARTS; ++part) x.v[part] = blocks[(n * PARTS + part) * 32 + lane()];
    return x;
}

DEVICE void store(Four* blocks, int n, int lane, const Block& x) {
#pragma unroll
    for (int part = 0; part < PARTS; ++part) blocks[(n * PARTS + part) * 32 + lane] = x.v[part];
}

// Blocks of the first rows of an array (rows, WIDE) in device memory: low and high rows of each, 0 outside of it.
template <int WIDE> DEVICE void load_rows(Quad (&to)[blocks(WIDE)][2], const real* x, int rows) {
    const bool packed = WIDE % 4 == 0 && aligned((u64)x);
    const int g = lane() / 4;
#pragma unroll
    for (int n = 0; n < blocks(WIDE); ++n)
#pragma unroll
        for (int high = 0; high < 2; ++high) {
            const int j = 16 * n + lane() % 4 * 4;
            const real* const place = x + (g + 8 * high) * WIDE + j;
            const bool inside = g + 8 * high < rows;
            Quad quad = {};
            if (packed) {
                if (inside && j < WIDE) quad = *(const Quad*)place;
            } else {
#pragma unroll
                for (int l = 0; l < 4; ++l)
                    if (inside && j + l < WIDE) quad.v[l] = place[l];
            }
            to[n][high] = quad;
        }
}

DEVICE void store_rows(real* y, int rows, int width, int n, const Quad& low, const Quad& high) {
    const int g = lane() / 4, j = 16 * n + lane() % 4 * 4;
    if (g < rows && j < width) put(y + (i64)g * width, j, width, low);
    if (g + 8 < rows && j < width) put(y + (i64)(g + 8) * width, j, width, high);
}

// x where there are such columns, else 0: infinity times padding would be NaN.
DEVICE Quad bounded(const Quad& x, int n, int width) {
    Quad bounded;
#pragma unroll
    for (int l = 0; l < 4; ++l) bounded.v[l] = 16 * n + lane() % 4 * 4 + l < width ? x.v[l] : (real)0;
    return bounded;
}

// The same for rows, of which a warp at the end has fewer.
template <int N> DEVICE void bound_rows(Block (&x)[N], int rows) {
    if (rows == 16) return;
#pragma unroll
    for (int n = 0; n < N * PARTS; ++n)
#pragma unroll
        for (int l = 0; l < 4; ++l)
            if (lane() / 4 + l % 2 * 8 >= rows) x[n / PARTS].v[n % PARTS].v[l] = 0;
}

// The weights of layers K, K + 1, …, or their transposes, to shared memory. If there are few, all are on their way before the
// first is stored.
template <int K, bool TRANSPOSED> DEVICE void fetch_weights(const Layers& layers, Four* to) {
    constexpr int I = WIDTH[K], O = WIDTH[K + 1], ACROSS = blocks(TRANSPOSED ? I : O);
    const real* w = layers.w[K];
    const bool packed = O % 4 == 0 && aligned((u64)w);
    const int g = lane() / 4;
    Quad x[slots(K)][2] = {};
#pragma unroll
    for (int slot = 0; slot < slots(K); ++slot) {
        const int n = slot * WARPS + warp();
        if (n >= area(K)) continue;
#pragma unroll
        for (int m = 0; m < 2; ++m) {
            const int k = n / ACROSS * 16 + lane() % 4 * 4, j = n % ACROSS * 16 + g / 2 * 4 + g % 2 + 2 * m;
            if (TRANSPOSED && packed) {
                if (j < I && k < O) x[slot][m] = *(const Quad*)(w + j * O + k);
            } else {
#pragma unroll
                for (int l = 0; l < 4; ++l)
                    if ((TRANSPOSED ? j : k + l) < I && (TRANSPOSED ? k + l : j) < O)
                        x[slot][m].v[l] = w[TRANSPOSED ? j * O + k + l : (k + l) * O + j];
            }
        }
    }
    constexpr bool FEW = slots_before(COUNT) <= 6;
    if constexpr (K + 1 < COUNT && FEW) fetch_weights<K + 1, TRANSPOSED>(layers, to + 32 * PARTS * area(K));
#pragma unroll
    for (int slot = 0; slot < slots(K); ++slot) {
        const int n = slot * WARPS + warp();
        if (n < area(K)) store(to, n, lane(), right(x[slot][0], x[slot][1]));
    }
    if constexpr (K + 1 < COUNT && !FEW) fetch_weights<K + 1, TRANSPOSED>(layers, to + 32 * PARTS * area(K));
}

template <int K> DEVICE void fetch_biases(const Layers& layers, real* to) {
    for (int j = place_in_block(); j < 16 * blocks(WIDTH[K + 1]); j += THREADS)
        if (BIASED[K] && j < WIDTH[K + 1]) copy<sizeof(real)>(to + j, layers.b[K] + j);
        else to[j] = 0;
    if constexpr (K + 1 < COUNT) fetch_biases<K + 1>(layers, to + 16 * blocks(WIDTH[K + 1]));
}

// The forward pass keeps blocks as a warp holds them, for each 16 rows: those of x and of each layer's output, or of the
// activation's input, from which the output can be recomputed; of the last layer, if it has an activation. Here they begin.
DEVICE i64 kept_at(i64 row) {
    return row / 16 * (blocks(WIDTH[0]) + columns_before(FORMULA[COUNT - 1] ? COUNT : COUNT - 1) / 16) * PARTS * 32;
}
DEVICE constexpr int kept_before(int k) { return k ? blocks(WIDTH[0]) + columns_before(k - 1) / 16 : 0; }

struct Rows {
    i64 first;  // of this warp's rows
    int count;  // 16, fewer at the end, or none
    Four* kept;
};

// Layers K, K + 1, … of a warp's rows.
template <int K> DEVICE void forward_from(
    const Block (&x)[blocks(WIDTH[K])], const Rows& rows, const Four* w, const real* b, real* y
) {
    constexpr int I = WIDTH[K], O = WIDTH[K + 1];
    Sums d[blocks(O)];
    Block out[blocks(O)], inputs[blocks(O)];  // of the next layer, and of the activation
#pragma unroll
    for (int n = 0; n < blocks(O); ++n) {
        const Quad bias = *(const Quad*)(b + 16 * n + lane() % 4 * 4);
#pragma unroll
        for (int c = 0; c < 8; ++c) d[n].v[c / 4][c % 4] = bias.v[c / 4 * 2 + c % 2];
    }
    __syncwarp();  // lanes may have diverged where they read x
#pragma unroll
    for (int k = 0; k < blocks(I); ++k)
#pragma unroll
        for (int n = 0; n < blocks(O); ++n) multiply(d[n], x[k], load(w, k * blocks(O) + n));
#pragma unroll
    for (int n = 0; n < blocks(O); ++n) {
        Quad z[2], result[2];
#pragma unroll
        for (int high = 0; high < 2; ++high) {
            z[high] = row_of(d[n], high);
#pragma unroll
            for (int l = 0; l < 4; ++l) result[high].v[l] = value(FORMULA[K], z[high].v[l]);
        }
        if constexpr (K == COUNT - 1) store_rows(y + rows.first * O, rows.count, O, n, result[0], result[1]);
        out[n] = left(bounded(result[0], n, O), bounded(result[1], n, O));
        if constexpr (OF_INPUT[K]) inputs[n] = left<false>(z[0], z[1]);
    }
    bound_rows(out, rows.count);
    if constexpr (K < COUNT - 1 || FORMULA[K])
#pragma unroll
        for (int n = 0; n < blocks(O); ++n) store(rows.kept, kept_before(K + 1) + n, lane(), OF_INPUT[K] ? inputs[n] : out[n]);
    if constexpr (K + 1 < COUNT)
        forward_from<K + 1>(out, rows, w + 32 * PARTS * area(K), b + 16 * blocks(O), y);
}

// As in fused.cuh, but `kept` is for `backward` below. A tile has 16 rows for each of one or several warps.
KERNEL forward(
    i64 n, int tile, const __grid_constant__ Layers layers, const real* __restrict__ x, real* __restrict__ kept,
    real* __restrict__ y
) {
    SHARED_MEMORY(shared);
    Four* const w = (Four*)shared;
    real* const b = (real*)(w + weights_before(0, COUNT));
    const bool active = 16 * warp() < tile;
    Quad next[blocks(WIDTH[0])][2] = {};
    const auto read = [&](i64 first) {
        if (active && first < n) load_rows<WIDTH[0]>(next, x + first * WIDTH[0], n - first < 16 ? (int)(n - first) : 16);
    };
    i64 first = (i64)blockIdx.x * tile + 16 * warp();
    read(first);
    fetch_biases<0>(layers, b);
    fetch_weights<0, false>(layers, w);
    copied();
    __syncthreads();
    if (!active) return;
    for (; first < n; first += (i64)gridDim.x * tile) {
        const Rows rows = {first, n - first < 16 ? (int)(n - first) : 16, (Four*)kept + kept_at(first)};
        Block in[blocks(WIDTH[0])];
#pragma unroll
        for (int n = 0; n < blocks(WIDTH[0]); ++n) {
            in[n] = left(next[n][0], next[n][1]);
            store(rows.kept, n, lane(), in[n]);
        }
        read(first + (i64)gridDim.x * tile);  // arrives meanwhile
        forward_from<0>(in, rows, w, b, y);
    }
}

// A warp's sums over the rows of a chunk: for each layer, its blocks of the gradient of weights.
struct Gradients { Sums w[slots_before(COUNT)]; };

DEVICE void put_block(Stored* rows, int n, const Block& x) {
    u32* const place = (u32*)(rows + lane() / 4 * PITCH + 16 * n) + lane() % 4;
#pragma unroll
    for (int l = 0; l < 4 * PARTS; ++l) place[l % 2 * (8 * PITCH * (int)sizeof(Stored) / 4) + l / 2 * 4] = x.v[l / 4].v[l % 4];
}

// A block, transposed, as a left or a right operand: the product's depth is then rows. For tf32, a lane takes columns 2 g and
// 2 g + 1, and rows in another order.
template <bool LEFT> DEVICE Block transposed(const Stored* rows, int n) {
    Block x;
#if OPERANDS == 2
    const int part = lane() / 8, low = part % 2 * 8, high = part / 2 * 8;
    load_transposed(x.v[0].v, rows + (lane() % 8 + (LEFT ? high : low)) * PITCH + 16 * n + (LEFT ? low : high));
#else
#pragma unroll
    for (int k = 0; k < 4; ++k) {
        const Two pair = *(const Two*)(rows + (4 * k + lane() % 4) * PITCH + 16 * n + lane() / 4 * 2);
#pragma unroll
        for (int m = 0; m < 2; ++m)
            if (LEFT) x.v[k / 2 * (PARTS - 1)].v[k % 2 * 2 + m] = pair.v[m];
            else x.v[m * (PARTS - 1)].v[k] = pair.v[m];
    }
#endif
    return x;
}

// The gradients of layer K's weights and bias, from the tile's rows of its input and of the gradient of its output. Those of the
// biases are in `biases`: of each warp, for its own rows.
template <int K> DEVICE void add_gradients(Gradients& sums, real* biases, const Stored* x, const Stored* dz, int tile) {
    constexpr int ACROSS = blocks(WIDTH[K + 1]);
#pragma unroll 2
    for (int row = 0; row < tile; row += 16) {
        Block d;
#pragma unroll
        for (int slot = 0; slot < slots(K); ++slot) {
            const u32 n = slot * WARPS + warp();
            if (n >= area(K)) continue;
            if (slot == 0 || WARPS % ACROSS) d = transposed<false>(dz + row * PITCH, n % ACROSS);
            multiply(sums.w[slots_before(K) + slot], transposed<true>(x + row * PITCH, n / ACROSS), d);
        }
    }
    if (!BIASED[K] || 16 * warp() >= tile) return;
    const Stored* const mine = dz + 16 * warp() * PITCH + 2 * lane();
#pragma unroll
    for (int n = 0; n < pairs(K); ++n) {
        if (2 * lane() + 64 * n >= 16 * ACROSS) continue;
        Pair& sum = *(Pair*)(biases + warp() * columns_before(COUNT) + columns_before(K) + 2 * lane() + 64 * n);
        real low = 0, high = 0;
#pragma unroll
        for (int row = 0; row < 16; ++row) {
#if OPERANDS == 2
            const u32 pair = *(const u32*)(mine + row * PITCH + 64 * n);
            low += __uint_as_float(pair << 16);
            high += __uint_as_float(pair & 0xffff0000);
#else
            const Pair pair = *(const Pair*)(mine + row * PITCH + 64 * n);
            low += pair.v[0];
            high += pair.v[1];
#endif
        }
        sum = {sum.v[0] + low, sum.v[1] + high};
    }
}

// The input of layer K.
template <int K> DEVICE void load_input(Block (&known)[blocks(WIDTH[K])], const Rows& rows) {
#pragma unroll
    for (int n = 0; n < blocks(WIDTH[K]); ++n)
        if (rows.count) known[n] = load(rows.kept, kept_before(K) + n);
        else known[n] = {};
}

// What a warp reads of a tile before it begins with the last layer.
struct Begin {
    Rows rows;
    Quad dy[blocks(WIDTH[COUNT])][2];
    Block known[blocks(WIDTH[COUNT - 1])], output[blocks(WIDTH[COUNT])];
};

DEVICE Begin begin_at(i64 first, i64 n, int tile, const real* kept, const real* dy) {
    const i64 mine = first + 16 * warp(), count = 16 * warp() < tile && mine < n ? n - mine : 0;
    Begin x = {};
    x.rows = {mine, count < 16 ? (int)count : 16, (Four*)kept + kept_at(mine)};
    load_rows<WIDTH[COUNT]>(x.dy, dy + mine * WIDTH[COUNT], x.rows.count);
    load_input<COUNT - 1>(x.known, x.rows);
    if constexpr (FORMULA[COUNT - 1]) load_input<COUNT>(x.output, x.rows);
    return x;
}

// Layers K, K - 1, …, 0 of a tile's rows: this warp has `dz`, the gradient of layer K's output, and `known`, its input. `now` and
// `next` are places in shared memory for the rows of both, which take turns. `ahead` reads what comes after.
template <int K, class Ahead> DEVICE void back_from(
    const Block (&dz)[blocks(WIDTH[K + 1])], const Block (&known)[blocks(WIDTH[K])], const Rows& rows, int tile,
    real* dx, const Four* w, Stored* now, Stored* next, Gradients& sums, real* biases, const Ahead& ahead
) {
    constexpr int I = WIDTH[K], O = WIDTH[K + 1], BELOW = K ? K - 1 : 0, F = K ? FORMULA[BELOW] : 0;
    constexpr bool AGAIN = K && OF_INPUT[BELOW];
    const bool active = 16 * warp() < tile;
    Stored *const inputs = now, *const gradients = now + tile * PITCH;
    if (active) {
#pragma unroll
        for (int n = 0; n < blocks(O); ++n) put_block(gradients + 16 * warp() * PITCH, n, dz[n]);
        Block in[blocks(I)];
#pragma unroll
        for (int n = 0; n < blocks(I); ++n) {
            in[n] = known[n];
            if constexpr (AGAIN) {
                Quad out[2];
#pragma unroll
                for (int high = 0; high < 2; ++high) {
                    out[high] = row_of(known[n], high);
#pragma unroll
                    for (int l = 0; l < 4; ++l) out[high].v[l] = value(F, out[high].v[l]);
                    out[high] = bounded(out[high], n, I);
                }
                in[n] = left(out[0], out[1]);
            }
        }
        if constexpr (AGAIN) bound_rows(in, rows.count);
#pragma unroll
        for (int n = 0; n < blocks(I); ++n) put_block(inputs + 16 * warp() * PITCH, n, in[n]);
    }
    Block below[blocks(WIDTH[BELOW])];
    if constexpr (K > 0) load_input<K - 1>(below, rows);  // arrives meanwhile
    else ahead();
    __syncthreads();
    add_gradients<K>(sums, biases, inputs, gradients, tile);
    if constexpr (K > 0 || THROUGH) {
        Block then[blocks(I)] = {};
        if (active) {
            const Four* const mine = w + weights_before(THROUGH ? 0 : 1, K);
            constexpr int PART = OPERANDS == 2 ? blocks(I) : 1;  // at once, for which registers suffice
#pragma unroll
            for (int base = 0; base < blocks(I); base += PART) {
                Sums d[PART] = {};
#pragma unroll
                for (int k = 0; k < blocks(O); ++k)
#pragma unroll
                    for (int n = base; n < min(base + PART, blocks(I)); ++n)
                        multiply(d[n - base], dz[k], load(mine, k * blocks(I) + n));
#pragma unroll
                for (int n = base; n < min(base + PART, blocks(I)); ++n) {
                    Quad s[2];
#pragma unroll
                    for (int high = 0; high < 2; ++high) {
                        s[high] = row_of(d[n - base], high);
                        if constexpr (K > 0) {
                            const Quad known_row = row_of(known[n], high);
#pragma unroll
                            for (int l = 0; l < 4; ++l) s[high].v[l] = back(F, AGAIN, s[high].v[l], known_row.v[l]);
                            s[high] = bounded(s[high], n, I);
                        }
                    }
                    if constexpr (K > 0) then[n] = left(s[0], s[1]);
                    else store_rows(dx + rows.first * I, rows.count, I, n, s[0], s[1]);
                }
            }
        }
        if constexpr (K > 0) {
            bound_rows(then, rows.count);
            back_from<K - 1>(then, below, rows, tile, dx, w, next, now, sums, biases, ahead);
        }
    }
}

// The sums of a chunk, layer after layer.
template <int K> DEVICE void put_gradients(const Gradients& sums, real* parts) {
    constexpr int I = WIDTH[K], O = WIDTH[K + 1], ACROSS = blocks(O);
    const int g = lane() / 4, t = lane() % 4;
    real* const dw = parts + place_of(K);
#pragma unroll
    for (int slot = 0; slot < slots(K); ++slot) {
        const u32 n = slot * WARPS + warp();
        if (n >= area(K)) continue;
#pragma unroll
        for (int c = 0; c < 8; ++c) {
            const int row = OPERANDS == 2 ? g + c % 4 / 2 * 8 : 2 * g + c % 4 / 2;
            const int column = OPERANDS == 2 ? 8 * (c / 4) + 2 * t + c % 2 : 4 * t + c % 2 * 2 + c / 4;
            const int i = n / ACROSS * 16 + column_at(row), j = n % ACROSS * 16 + column_at(column);
            if (i < I && j < O) dw[i * O + j] = sums.w[slots_before(K) + slot].v[c / 4][c % 4];
        }
    }
    if constexpr (K > 0) put_gradients<K - 1>(sums, parts);
}

template <int K> DEVICE void put_biases(int tile, real* parts, const real* biases) {
    if constexpr (BIASED[K]) {
        for (int place = place_in_block(); place < 16 * blocks(WIDTH[K + 1]); place += THREADS) {
            const int j = place / 16 * 16 + column_at(place % 16);
            if (j >= WIDTH[K + 1]) continue;
            real sum = 0;
            for (int n = 0; n < tile / 16; ++n) sum += biases[n * columns_before(COUNT) + columns_before(K) + place];
            parts[place_of(K) + WIDTH[K] * WIDTH[K + 1] + j] = sum;
        }
    }
    if constexpr (K > 0) put_biases<K - 1>(tile, parts, biases);
}

// As in fused.cuh, with before 0.
KERNEL backward(
    i64 n, int tile, i64 size, i64 chunks, i64 p, i64 apart, int before, const __grid_constant__ Layers layers,
    const real* __restrict__ x, const real* __restrict__ kept, const real* __restrict__ dy, real* __restrict__ dx,
    u16* __restrict__ half_dx, real* __restrict__ parts
) {
    SHARED_MEMORY(shared);
    constexpr int LAST = COUNT - 1, FIRST = THROUGH ? 0 : 1, O = WIDTH[COUNT], ALL = columns_before(COUNT);
    Four* const w = (Four*)shared;
    real* const biases = (real*)(w + weights_before(FIRST, COUNT));
    Stored* now = (Stored*)(biases + tile / 16 * ALL);
    Stored* next = now + 2 * tile * PITCH;
    Begin begins = begin_at(blockIdx.x * size, n, tile, kept, dy);
    if constexpr (FIRST < COUNT) fetch_weights<FIRST, true>(layers, w);
    for (i64 chunk = blockIdx.x; chunk < chunks; chunk += gridDim.x) {
        const i64 begin = chunk * size, end = begin + size < n ? begin + size : n;
        Gradients sums = {};
        for (int i = place_in_block(); i < tile / 16 * ALL; i += THREADS) biases[i] = 0;
        for (i64 first = begin; first < end; first += tile) {
            const Rows rows = begins.rows;
            Block dz[blocks(O)], known[blocks(WIDTH[LAST])];
#pragma unroll
            for (int n = 0; n < blocks(O); ++n) {
                Quad d[2];
#pragma unroll
                for (int high = 0; high < 2; ++high) {
                    const Quad out = FORMULA[LAST] ? row_of(begins.output[n], high) : Quad{};
#pragma unroll
                    for (int l = 0; l < 4; ++l)
                        d[high].v[l] = back(FORMULA[LAST], OF_INPUT[LAST], begins.dy[n][high].v[l], out.v[l]);
                    d[high] = bounded(d[high], n, O);
                }
                dz[n] = left(d[0], d[1]);
            }
            bound_rows(dz, rows.count);
#pragma unroll
            for (int n = 0; n < blocks(WIDTH[LAST]); ++n) known[n] = begins.known[n];
            back_from<LAST>(dz, known, rows, tile, dx, w, now, next, sums, biases, [&] {
                begins = begin_at(first + tile < end ? first + tile : begin + gridDim.x * size, n, tile, kept, dy);
            });
            if (COUNT % 2) {
                Stored* const last = now;
                now = next;
                next = last;
            }
        }
        put_gradients<LAST>(sums, parts + chunk * apart);
        __syncthreads();
        put_biases<LAST>(tile, parts + chunk * apart, biases);
        __syncthreads();
    }
}
