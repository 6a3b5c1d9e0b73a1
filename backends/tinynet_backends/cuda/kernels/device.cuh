// What does not depend on REAL, and stands once in every text.

typedef long long i64;
typedef unsigned long long u64;
typedef unsigned int u32;
typedef unsigned short u16;

#define THREADS 256  // in every block
#define KERNEL extern "C" __global__ void __launch_bounds__(THREADS)
#define DEVICE __device__ __forceinline__
#define INF __longlong_as_double(0x7ff0000000000000LL)
#define NOT_A_NUMBER __longlong_as_double(0x7ff8000000000000LL)

struct alignas(16) Words { u64 v[2]; };

// What the tests implement in another way: members of classes, a store of 16 bytes, which the compiler would split for some
// structs, dynamic shared memory, asynchronous copies to it, which are complete after `copied`, and products on tensor cores.
#ifndef SHARED_MEMORY
#define MEMBER DEVICE
DEVICE void store(void* to, const void* from) {
    const uint4 words = *(const uint4*)from;
    asm volatile("st.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(to), "r"(words.x), "r"(words.y), "r"(words.z), "r"(words.w) : "memory");
}
#define SHARED_MEMORY(name)                 \
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
// mma.m16n8k16.
DEVICE void mma_bf16(float* d, u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}
// PTX's ldmatrix: four matrices of 8 x 8 numbers of 16 bits in shared memory, transposed; lane 8 m + r has the address of row r
// of the m-th.
DEVICE void load_transposed(u32* d, const u16* row) {
    asm volatile(
        "ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
        : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3]) : "r"((u32)__cvta_generic_to_shared(row)) : "memory");
}
// Two numbers as bfloat16, ties to even.
DEVICE u32 rounded_pair(float low, float high) {
    u32 pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
}
#endif
