// What all kernels share, after device.cuh. The text is compiled twice, with REAL as float and as double.
//
// No result depends on the grid: kernels have grid-stride loops over rows, elements or chunks, sums have a fixed order,
// and what is summed together depends on sizes alone. Contraction is off (--fmad=false), so + - * / sqrt round as they
// do on the host.

typedef REAL real;

// Elements per access of 16 bytes.
#define LANES (16 / (int)sizeof(real))
struct alignas(16) Pack { real v[LANES]; };
struct alignas(2 * LANES) Rounded { u16 v[LANES]; };

// Indices of threads in a one-dimensional grid of blocks with one or two dimensions.
DEVICE u32 place_in_block() { return threadIdx.y * blockDim.x + threadIdx.x; }
DEVICE i64 thread() { return (i64)blockIdx.x * THREADS + place_in_block(); }
DEVICE i64 threads() { return (i64)gridDim.x * THREADS; }

DEVICE bool aligned(u64 addresses) { return (addresses & 15) == 0; }

// A number that changes from step to step is passed by value, or read from device memory, so that a launch recorded in a
// graph reads the number of its own step.
DEVICE double number(double value, const double* place) { return place ? *place : value; }
DEVICE u64 number(u64 value, const u64* place) { return place ? *place : value; }

// a / b for numbers that are almost always below 2**32, where division is fast.
DEVICE i64 quotient(i64 a, i64 b) { return ((u64)a | (u64)b) >> 32 ? a / b : (i64)((u32)a / (u32)b); }

// As bfloat16, ties to even.
DEVICE u16 bfloat16(float x) {
    const u32 bits = __float_as_uint(x);
    return x != x ? (u16)(bits >> 16 | 0x40) : (u16)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

DEVICE Rounded bfloat16(const Pack& pack) {
    Rounded rounded;
#pragma unroll
    for (int j = 0; j < LANES; ++j) rounded.v[j] = bfloat16((float)pack.v[j]);
    return rounded;
}

// A row belongs to a team: the blockDim.x threads with one threadIdx.y, a power of two. All threads of the block, also
// those without a row, must call these functions, and all threads of a team get the same bits.
DEVICE real team_sum(real x) {
    __shared__ real parts[THREADS / 32];
    for (int mask = min(blockDim.x, 32) / 2; mask; mask /= 2) x += __shfl_xor_sync(~0u, x, mask);
    if (blockDim.x <= 32) return x;
    __syncthreads();  // the parts of the last sum have been read
    if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = x;
    __syncthreads();
    x = parts[0];
    for (int warp = 1; warp < blockDim.x / 32; ++warp) x += parts[warp];
    return x;
}

// The largest number, NaN ignored: NaN enters a row's result through its exponentials.
DEVICE real team_largest(real x) {
    __shared__ real parts[THREADS / 32];
    for (int mask = min(blockDim.x, 32) / 2; mask; mask /= 2) x = fmax(x, __shfl_xor_sync(~0u, x, mask));
    if (blockDim.x <= 32) return x;
    __syncthreads();
    if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = x;
    __syncthreads();
    x = parts[0];
    for (int warp = 1; warp < blockDim.x / 32; ++warp) x = fmax(x, parts[warp]);
    return x;
}

// A loop over a block's rows from `first` on, which all its threads run equally often, so that all reach the sums;
// `inside` says whether this team has a row.
#define FOR_ROWS(first, last, stride) \
    for (i64 base = (first), row = base + threadIdx.y; base < (last); base += (stride), row = base + threadIdx.y) \
        if (const bool inside = row < (last); true)
#define FOR_ALL_ROWS(n) FOR_ROWS((i64)blockIdx.x * blockDim.y, n, (i64)gridDim.x * blockDim.y)
#define FOR_COLUMNS(k) for (i64 j = inside ? threadIdx.x : (k); j < (k); j += blockDim.x)

// The sum over all threads of a block, the same bits in each.
DEVICE double block_sum(double x) {
    __shared__ double parts[THREADS / 32];
    for (int mask = 16; mask; mask /= 2) x += __shfl_xor_sync(~0u, x, mask);
    __syncthreads();
    if (place_in_block() % 32 == 0) parts[place_in_block() / 32] = x;
    __syncthreads();
    x = parts[0];
    for (int warp = 1; warp < THREADS / 32; ++warp) x += parts[warp];
    return x;
}

// Store the sum over the block's threads: as the result itself if there is only one chunk, else as the chunk's part. Threads
// from `some` on have 0, without which the sum is the same.
DEVICE void put_sum(double x, i64 chunk, i64 chunks, double* parts, real* result, i64 some = THREADS) {
    if (some > 32) x = block_sum(x);
    else
        for (int mask = 16; mask; mask /= 2)
            if (mask < some) x += __shfl_xor_sync(~0u, x, mask);
    if (place_in_block() != 0) return;
    if (chunks == 1) *result = (real)x;
    else parts[chunk] = x;
}

// The sum of `put_sum`'s parts, computed by one block, the same bits in each of its threads.
DEVICE double sum_of(const double* parts, i64 chunks) {
    double x = 0.0;
    for (i64 chunk = place_in_block(); chunk < chunks; chunk += THREADS) x += parts[chunk];
    return block_sum(x);
}
