// The gradient of a dense layer's product, in one pass over memory: through ReLU, if there is one, rounded if the next
// product needs that, and summed over the samples for the gradient of the bias.

DEVICE real number(real x) { return x; }
DEVICE real number(u16 x) { return (real)__uint_as_float((u32)x << 16); }
DEVICE void put(real* to, real x) { *to = x; }
DEVICE void put(u16* to, real x) { *to = bfloat16((float)x); }
DEVICE void put(real* to, const Pack& x) { *(Pack*)to = x; }
DEVICE void put(u16* to, const Pack& x) { *(Rounded*)to = bfloat16(x); }
DEVICE Pack pack(const real* from) { return *(const Pack*)from; }
DEVICE Pack pack(const u16* from) {
    const Rounded rounded = *(const Rounded*)from;
    Pack x;
#pragma unroll
    for (int j = 0; j < LANES; ++j) x.v[j] = number(rounded.v[j]);
    return x;
}

#define DEEP 4  // rows that a thread loads at once

// dz = dy where y > 0, or dy without y, and 0 in the columns from k to `wide`. Rows are `pitch` numbers apart. A chunk is
// `size` rows, of which each threadIdx.x does LANES columns.
template <class From, class Kept, class To>
DEVICE void go_back(
    i64 n, i64 k, i64 wide, i64 size, i64 chunks, i64 dy_pitch, i64 y_pitch, i64 dz_pitch, const From* dy, const Kept* y,
    To* dz, real* parts, real* db
) {
    __shared__ Pack sums[THREADS];
    const i64 width = blockDim.x * LANES, tiles = quotient(wide + width - 1, width);
    const bool even = aligned((u64)dy | (u64)y | (u64)dz) && (dy_pitch | y_pitch | dz_pitch) % LANES == 0;
    for (i64 item = blockIdx.x; item < tiles * chunks; item += gridDim.x) {
        const i64 chunk = quotient(item, tiles), begin = chunk * size;
        const i64 first = (item - chunk * tiles) * width + threadIdx.x * LANES;
        const i64 end = begin + size < n ? begin + size : n;
        const int here = first + LANES <= k ? LANES : first < k ? (int)(k - first) : 0;
        Pack sum = {};
        if (even && here == LANES) {
            for (i64 row = begin + threadIdx.y; row < end; row += DEEP * blockDim.y) {
                Pack x[DEEP], kept[DEEP];
#pragma unroll
                for (int d = 0; d < DEEP; ++d) {  // dz may be dy: read everything before writing
                    const i64 here = row + d * blockDim.y;
                    if (here < end) x[d] = pack(dy + here * dy_pitch + first);
                    if (here < end && y) kept[d] = pack(y + here * y_pitch + first);
                }
#pragma unroll
                for (int d = 0; d < DEEP; ++d) {
                    const i64 here = row + d * blockDim.y;
                    if (here >= end) continue;
#pragma unroll
                    for (int j = 0; j < LANES; ++j) {
                        if (y) x[d].v[j] = kept[d].v[j] > 0 ? x[d].v[j] : 0;
                        sum.v[j] += x[d].v[j];
                    }
                    if (dz) put(dz + here * dz_pitch + first, x[d]);
                }
            }
        } else {
            for (i64 row = begin + threadIdx.y; row < end; row += blockDim.y) {
                for (int j = 0; j < here; ++j) {
                    real x = number(dy[row * dy_pitch + first + j]);
                    if (y && !(number(y[row * y_pitch + first + j]) > 0)) x = 0;
                    if (dz) put(dz + row * dz_pitch + first + j, x);
                    sum.v[j] += x;
                }
                if (dz) for (i64 j = first + here; j < first + LANES && j < wide; ++j) put(dz + row * dz_pitch + j, (real)0);
            }
        }
        if (!db) continue;
        for (u32 rows = blockDim.y; rows > 1; rows /= 2) {  // halve the rows that remain to be added
            __syncthreads();  // the last sums have been read
            sums[place_in_block()] = sum;
            __syncthreads();
            if (threadIdx.y >= rows / 2) continue;
            const Pack other = sums[place_in_block() + rows / 2 * blockDim.x];
#pragma unroll
            for (int j = 0; j < LANES; ++j) sum.v[j] += other.v[j];
        }
        if (threadIdx.y != 0) continue;
        for (int j = 0; j < here; ++j) {
            if (chunks == 1) db[first + j] = sum.v[j];
            else parts[chunk * k + first + j] = sum.v[j];
        }
    }
}

#define SIZES i64 n, i64 k, i64 wide, i64 size, i64 chunks, i64 dy_pitch, i64 y_pitch, i64 dz_pitch
#define GO_BACK go_back(n, k, wide, size, chunks, dy_pitch, y_pitch, dz_pitch, dy, y, dz, parts, db)
KERNEL back(SIZES, const real* dy, const real* y, real* dz, real* parts, real* db) { GO_BACK; }
KERNEL back_to_half(SIZES, const real* dy, const real* y, u16* dz, real* parts, real* db) { GO_BACK; }
KERNEL back_in_half(SIZES, const u16* dy, const u16* y, u16* dz, real* parts, real* db) { GO_BACK; }
