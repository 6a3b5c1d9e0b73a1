// What all kernels share. The text is compiled twice, with REAL as float and as double.
//
// No result depends on the grid: kernels have grid-stride loops over rows, elements or chunks, sums have a fixed order,
// and what is summed together depends on sizes alone. Contraction is off (--fmad=false), so + - * / sqrt round as they
// do on the host.

typedef REAL real;
typedef long long i64;
typedef unsigned long long u64;
typedef unsigned int u32;
typedef unsigned short u16;

#define THREADS 256  // in every block
#define KERNEL extern "C" __global__ void __launch_bounds__(THREADS)
#define DEVICE __device__ __forceinline__
#define INF __longlong_as_double(0x7ff0000000000000LL)
#define NOT_A_NUMBER __longlong_as_double(0x7ff8000000000000LL)

// Elements per access of 16 bytes.
#define LANES (16 / (int)sizeof(real))
struct alignas(16) Pack { real v[LANES]; };
struct alignas(2 * LANES) Rounded { u16 v[LANES]; };
struct alignas(16) Words { u64 v[2]; };

// What the tests implement in another way: dynamic shared memory, asynchronous copies to it, which are complete after
// `copied`, and products on tensor cores.
#ifndef SHARED_ROOM
#define SHARED_ROOM(name)                   \
    extern __shared__ Words name##_words[]; \
    real* const name = (real*)name##_words
#if __CUDA_ARCH__ >= 800
template <int BYTES> DEVICE void copy(void* to, const void* from) {
    const u32 place = (u32)__cvta_generic_to_shared(to);
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2;" ::"r"(place), "l"(from), "n"(BYTES) : "memory");
}
DEVICE void copied() { asm volatile("cp.async.wait_all;" ::: "memory"); }
#else  // through registers
template <int BYTES> DEVICE void copy(void* to, const void* from) {
    if (BYTES == 4) *(u32*)to = *(const u32*)from;
    else if (BYTES == 8) *(u64*)to = *(const u64*)from;
    else *(Words*)to = *(const Words*)from;
}
DEVICE void copied() {}
#endif

// PTX's mma.m16n8k8, d += a @ b, from compute capability 8.0 on.
DEVICE void mma_tf32(float* d, u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1) {
    asm volatile(
        "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}
DEVICE void mma_bf16(float* d, u32 a0, u32 a1, u32 b0) {
    asm volatile(
        "mma.sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "r"(a0), "r"(a1), "r"(b0));
}
#endif

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

// Store the sum over the block's threads: as the result itself if there is only one chunk, else as the chunk's part.
DEVICE void put_sum(double x, i64 chunk, i64 chunks, double* parts, real* result) {
    x = block_sum(x);
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
