// Sums over a whole vector.

// result = parts.sum(), by one block
KERNEL total(i64 chunks, const double* __restrict__ parts, real* __restrict__ result) {
    const double sum = sum_of(parts, chunks);
    if (blockIdx.x == 0 && threadIdx.x == 0) *result = (real)sum;
}

// The sum of the squares of each chunk of g (p,), `size` elements, a multiple of LANES.
KERNEL squares(i64 p, i64 size, i64 chunks, const real* __restrict__ g, double* __restrict__ parts) {
    for (i64 chunk = blockIdx.x; chunk < chunks; chunk += gridDim.x) {
        const i64 begin = chunk * size, end = begin + size < p ? begin + size : p;
        double sum = 0.0;
        // the same elements in the same order, whether they come by one access or by several
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

// Backend.clip_norm, from the parts of `squares`, which every block adds up for itself.
KERNEL clip(
    i64 p, i64 chunks, const double* __restrict__ parts, double max_norm, real* __restrict__ g, real* __restrict__ norm
) {
    const real length = (real)sqrt(sum_of(parts, chunks));
    if (thread() == 0) *norm = length;
    const real factor = (real)max_norm / (length + (real)1e-6);
    if (factor >= 1) return;  // NaN goes on
    const i64 packs = aligned((u64)g) ? p / LANES : 0;
    for (i64 i = thread(); i < packs; i += threads()) {
        Pack pack = ((Pack*)g)[i];
#pragma unroll
        for (int j = 0; j < LANES; ++j) pack.v[j] *= factor;
        ((Pack*)g)[i] = pack;
    }
    for (i64 i = packs * LANES + thread(); i < p; i += threads()) g[i] *= factor;
}

// g (p,), the sum of `parts`, (chunks, p) with rows `apart` numbers from one to the next; a block does blockDim.x numbers.
KERNEL add_up(i64 p, i64 apart, i64 chunks, const real* __restrict__ parts, real* __restrict__ g) {
    __shared__ double sums[THREADS];
    for (i64 first = (i64)blockIdx.x * blockDim.x; first < p; first += (i64)gridDim.x * blockDim.x) {
        const i64 j = first + threadIdx.x;
        double sum = 0.0;
#pragma unroll 8
        for (i64 chunk = threadIdx.y; chunk < (j < p ? chunks : 0); chunk += blockDim.y) sum += (double)parts[chunk * apart + j];
        __syncthreads();
        sums[place_in_block()] = sum;
        __syncthreads();
        if (threadIdx.y != 0 || j >= p) continue;
        for (u32 row = 1; row < blockDim.y; ++row) sum += sums[row * blockDim.x + threadIdx.x];
        g[j] = (real)sum;
    }
}
