// Sums over a whole vector.

// result = parts.sum(), in one block
KERNEL total(i64 chunks, const double* __restrict__ parts, real* __restrict__ result) {
    const double sum = sum_of(parts, chunks);
    if (blockIdx.x == 0 && threadIdx.x == 0) *result = (real)sum;
}

// The sum of squares of each chunk of g (p,), of `size` elements, a multiple of LANES.
KERNEL squares(i64 p, i64 size, i64 chunks, const real* __restrict__ g, double* __restrict__ parts) {
    for (i64 chunk = blockIdx.x; chunk < chunks; chunk += gridDim.x) {
        const i64 begin = chunk * size, end = begin + size < p ? begin + size : p;
        double sum = 0.0;
        // the same elements in the same order, whether read in one access or in several
        for (i64 first = begin + threadIdx.x * LANES; first < end; first += THREADS * LANES) {
            Pack pack = {};
            if (first + LANES <= end && aligned((u64)g)) pack = *(const Pack*)(g + first);
            else for (int j = 0; j < LANES && first + j < end; ++j) pack.v[j] = g[first + j];
#pragma unroll
            for (int j = 0; j < LANES; ++j) sum += (double)pack.v[j] * (double)pack.v[j];
        }
        sum = block_sum(sum);
        if (threadIdx.x == 0) parts[chunk] = sum;
    }
}

// Backend.clip_norm, from the parts of `squares`, which every block adds for itself.
KERNEL clip(
    i64 p, i64 chunks, const double* __restrict__ parts, double max_norm, real* __restrict__ g, real* __restrict__ norm
) {
    const real length = (real)sqrt(sum_of(parts, chunks));
    if (thread() == 0) *norm = length;
    const real factor = (real)max_norm / (length + (real)1e-6);
    if (factor >= 1) return;  // not for NaN
    const i64 packs = aligned((u64)g) ? p / LANES : 0;
    for (i64 i = thread(); i < packs; i += threads()) {
        Pack pack = ((Pack*)g)[i];
#pragma unroll
        for (int j = 0; j < LANES; ++j) pack.v[j] *= factor;
        ((Pack*)g)[i] = pack;
    }
    for (i64 i = packs * LANES + thread(); i < p; i += threads()) g[i] *= factor;
}

#define SUMS 16  // sums per launch
#define SUMS_ACROSS 8  // columns of a piece: one sector of memory in float32
#define DEEP 8    // parts that a thread loads at once

struct Sums { const real* parts[SUMS]; real* g[SUMS]; i64 p[SUMS], apart[SUMS], chunks[SUMS]; };

// Each g (p,) is the sum over the rows of its parts (chunks, p), which are `apart` numbers apart. A piece is SUMS_ACROSS numbers
// of one g, done by one block, whose blockDim.x is SUMS_ACROSS; there are `pieces` in all.
KERNEL add_up(i64 pieces, const __grid_constant__ Sums s) {
    __shared__ double sums[THREADS / 32][SUMS_ACROSS];
    for (i64 item = blockIdx.x; item < pieces; item += gridDim.x) {
        i64 piece = item;
        int n = 0;
        for (i64 here; piece >= (here = (s.p[n] + SUMS_ACROSS - 1) / SUMS_ACROSS); ++n) piece -= here;
        const i64 j = piece * SUMS_ACROSS + threadIdx.x, apart = s.apart[n], chunks = j < s.p[n] ? s.chunks[n] : 0;
        const real* part = s.parts[n] + threadIdx.y * apart + j;
        double sum = 0.0;
        for (i64 chunk = threadIdx.y; chunk < chunks;) {
            real x[DEEP];
#pragma unroll
            for (int d = 0; d < DEEP; ++d, chunk += blockDim.y, part += blockDim.y * apart)
                x[d] = chunk < chunks ? *part : (real)0;
#pragma unroll
            for (int d = 0; d < DEEP; ++d) sum += (double)x[d];
        }
        for (int mask = 16; mask >= SUMS_ACROSS; mask /= 2) sum += __shfl_xor_sync(~0u, sum, mask);
        __syncthreads();  // the last sums have been read
        if (threadIdx.y * SUMS_ACROSS % 32 == 0) sums[threadIdx.y * SUMS_ACROSS / 32][threadIdx.x] = sum;
        __syncthreads();
        if (threadIdx.y != 0 || chunks == 0) continue;
#pragma unroll
        for (int warp = 1; warp < THREADS / 32; ++warp) sum += sums[warp][threadIdx.x];
        s.g[n][j] = (real)sum;
    }
}
