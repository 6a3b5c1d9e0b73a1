// The gradient of a dense layer's product, in one pass over memory: through ReLU, if there is one, rounded if the next
// product needs that, and summed over the samples for the gradient of the bias.

// N numbers, bfloat16 in pairs: as one by one the compiler would keep them in a register each.
template <class T, int N> struct alignas(16) Columns { T v[N]; };
template <int N> struct alignas(16) Columns<u16, N> { u32 v[N / 2]; };

template <int N> DEVICE real number(const Columns<real, N>& x, int j) { return x.v[j]; }
template <int N> DEVICE real number(const Columns<u16, N>& x, int j) {
    return (real)__uint_as_float(j % 2 ? x.v[j / 2] & 0xffff0000 : x.v[j / 2] << 16);
}
// `exact`: a number that is a bfloat16 already is not rounded.
template <int N> DEVICE void put(Columns<real, N>& to, int j, real x, bool) { to.v[j] = x; }
template <int N> DEVICE void put(Columns<u16, N>& to, int j, real x, bool exact) {
    const u32 bits = exact ? __float_as_uint((float)x) >> 16 : bfloat16((float)x);
    to.v[j / 2] |= bits << j % 2 * 16;
}

// N numbers, of which the first `here` are in memory, and the rest 0. PACKED: all of them, read in accesses of 16 bytes.
template <bool PACKED, int N, class T>
DEVICE Columns<T, N> columns(const T* from, int here) {
    if (PACKED) return *(const Columns<T, N>*)from;
    Columns<T, N> x = {};
#pragma unroll
    for (int j = 0; j < N; ++j)
        if (j < here) ((T*)&x)[j] = from[j];
    return x;
}

// `go_back` in N columns, the rows from `row` to `end` `stride` apart: `inputs` columns are read, `outputs` are written, all of
// them in accesses of 16 bytes if `whole`. Returns the sums of the columns.
template <bool PACKED, int N, class From, class To>
DEVICE Columns<real, N> go_down(
    i64 row, i64 end, i64 stride, int inputs, int outputs, bool whole, i64 dy_pitch, i64 y_pitch, i64 dz_pitch, const From* dy,
    const From* y, To* dz
) {
    constexpr int AT_ONCE = 16 / N;  // rows that are loaded together
    Columns<real, N> sum = {};
    for (; row < end; row += AT_ONCE * stride) {
        Columns<From, N> x[AT_ONCE], kept[AT_ONCE];
#pragma unroll
        for (int d = 0; d < AT_ONCE; ++d) {  // dz may be dy: read everything before writing
            const i64 at = row + d * stride;
            if (at < end) x[d] = columns<PACKED, N>(dy + at * dy_pitch, inputs);
            if (at < end && y) kept[d] = columns<PACKED, N>(y + at * y_pitch, inputs);
        }
#pragma unroll
        for (int d = 0; d < AT_ONCE; ++d) {
            const i64 at = row + d * stride;
            if (at >= end) continue;
            Columns<To, N> z = {};
#pragma unroll
            for (int j = 0; j < N; ++j) {
                const real each = y && !(number(kept[d], j) > 0) ? (real)0 : number(x[d], j);
                sum.v[j] += each;
                put(z, j, each, sizeof(From) == sizeof(To));
            }
            if (!dz) continue;
            if (whole) {
                *(Columns<To, N>*)(dz + at * dz_pitch) = z;
                continue;
            }
#pragma unroll
            for (int j = 0; j < N; ++j)
                if (j < outputs) dz[at * dz_pitch + j] = ((const To*)&z)[j];
        }
    }
    return sum;
}

// dz = dy where y > 0, or dy without y, and 0 in the columns from k to `wide`. Rows are `pitch` numbers apart. A chunk is
// `size` rows, of which each threadIdx.x does N columns, 16 bytes of dz.
template <class From, class To>
DEVICE void go_back(
    i64 n, i64 k, i64 wide, i64 size, i64 chunks, i64 dy_pitch, i64 y_pitch, i64 dz_pitch, const From* dy, const From* y,
    To* dz, real* parts, real* db
) {
    constexpr int N = 16 / (int)sizeof(To);
    __shared__ Columns<real, N> sums[THREADS];
    const u32 width = blockDim.x * N, tiles = ((u32)wide + width - 1) / width;  // there are fewer than 2**31 columns
    const bool even_in = aligned((u64)dy | (u64)y) && (dy_pitch | y_pitch) % (16 / (int)sizeof(From)) == 0;
    const bool even_out = aligned((u64)dz) && dz_pitch % N == 0;
    for (u32 item = blockIdx.x; item < tiles * (u32)chunks; item += gridDim.x) {
        const u32 chunk = item / tiles, first = (item - chunk * tiles) * width + threadIdx.x * N;
        const i64 begin = chunk * size;
        const i64 end = begin + size < n ? begin + size : n;
        const int inputs = first + N <= k ? N : first < k ? (int)(k - first) : 0;
        const int outputs = first + N <= wide ? N : first < wide ? (int)(wide - first) : 0;
#define DOWN(packed) \
    go_down<packed, N>( \
        begin + threadIdx.y, outputs ? end : begin, blockDim.y, inputs, outputs, even_out && outputs == N, dy_pitch, y_pitch, \
        dz_pitch, dy + first, y ? y + first : y, dz ? dz + first : dz)
        Columns<real, N> sum = even_in && inputs == N ? DOWN(true) : DOWN(false);
#undef DOWN
        if (!db) continue;
        for (u32 rows = blockDim.y; rows > 1; rows /= 2) {  // halve the rows that remain to be added
            __syncthreads();  // the last sums have been read
            sums[place_in_block()] = sum;
            __syncthreads();
            if (threadIdx.y >= rows / 2) continue;
            const Columns<real, N> other = sums[place_in_block() + rows / 2 * blockDim.x];
#pragma unroll
            for (int j = 0; j < N; ++j) sum.v[j] += other.v[j];
        }
        if (threadIdx.y != 0) continue;
        real* to = chunks == 1 ? db : parts + chunk * k;
#pragma unroll
        for (int j = 0; j < N; ++j)
            if (j < inputs) to[first + j] = sum.v[j];
    }
}

#define SIZES i64 n, i64 k, i64 wide, i64 size, i64 chunks, i64 dy_pitch, i64 y_pitch, i64 dz_pitch
#define GO_BACK go_back(n, k, wide, size, chunks, dy_pitch, y_pitch, dz_pitch, dy, y, dz, parts, db)
KERNEL back(SIZES, const real* dy, const real* y, real* dz, real* parts, real* db) { GO_BACK; }
KERNEL back_to_half(SIZES, const real* dy, const real* y, u16* dz, real* parts, real* db) { GO_BACK; }
KERNEL back_in_half(SIZES, const u16* dy, const u16* y, u16* dz, real* parts, real* db) { GO_BACK; }
