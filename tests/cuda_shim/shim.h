// CUDA C++ on the host, for tests: what a kernel sees. shim.cpp has the launches, compiled once for all kernels.

#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#define __global__
#define __device__ static
#define MEMBER
#define __forceinline__ inline
#define __launch_bounds__(threads)
#define __grid_constant__
#define __shared__ static __attribute__((section("shim_shared")))
#define __restrict__ __restrict
#define SHARED_MEMORY(name) real* const name = (real*)shim_shared_memory()

using std::copysign, std::exp, std::expm1, std::fabs, std::floor, std::fma, std::fmax, std::fmod, std::log, std::log1p;
using std::rint, std::sqrt, std::tanh;

static inline int min(unsigned a, int b) { return int(a) < b ? int(a) : b; }  // the same as CUDA's for small numbers

struct uint3 { unsigned x, y, z; };
extern uint3 threadIdx, blockIdx, blockDim, gridDim;

static inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
    return (unsigned __int128)a * b >> 64;
}
static inline bool __isGlobal(const void*) { return true; }
#define __builtin_assume(what) (void)(what)

template <class To, class From> static inline To shim_bits(From from) {
    static_assert(sizeof(To) == sizeof(From), "sizes must be equal");
    To to;
    std::memcpy(&to, &from, sizeof to);
    return to;
}
static inline double __longlong_as_double(long long x) { return shim_bits<double>(x); }
static inline long long __double_as_longlong(double x) { return shim_bits<long long>(x); }
static inline unsigned __float_as_uint(float x) { return shim_bits<unsigned>(x); }
static inline float __uint_as_float(unsigned x) { return shim_bits<float>(x); }

void* shim_shared_memory();  // dynamic shared memory
void store(void* to, const void* from);
void shim_copy(void* to, const void* from, size_t bytes);
template <int bytes> static inline void copy(void* to, const void* from) { shim_copy(to, from, bytes); }
void copied();

void __syncthreads();
uint64_t shim_shuffle(unsigned mask, uint64_t value, int lanes);
template <class T> static inline T __shfl_xor_sync(unsigned mask, T value, int lanes) {
    uint64_t word = 0;
    std::memcpy(&word, &value, sizeof value);
    word = shim_shuffle(mask, word, lanes);
    std::memcpy(&value, &word, sizeof value);
    return value;
}
static inline void __syncwarp() { shim_shuffle(~0u, 0, 0); }

void mma_tf32(float* d, unsigned a0, unsigned a1, unsigned a2, unsigned a3, unsigned b0, unsigned b1);
void mma_bf16(float* d, unsigned a0, unsigned a1, unsigned b0);
void mma_bf16(float* d, unsigned a0, unsigned a1, unsigned a2, unsigned a3, unsigned b0, unsigned b1);
void load_transposed(unsigned* d, const unsigned short* row);
unsigned rounded_pair(float low, float high);

// Launches -----------------------------------------------------------------------------------------------------------

// A type of an argument, as NumPy writes it: for an array *, the kind of its numbers, and their size.
struct ShimType {
    bool array;
    char kind;
    size_t size;
};
template <class A> constexpr ShimType shim_type() {
    using T = std::remove_const_t<std::remove_pointer_t<A>>;
    const char kind = std::is_class_v<T>            ? 'V'
                      : std::is_same_v<T, bool>     ? 'b'
                      : std::is_floating_point_v<T> ? 'f'
                      : std::is_unsigned_v<T>       ? 'u'
                                                    : 'i';
    return {std::is_pointer_v<A>, kind, sizeof(T)};
}
const char* shim_names(const ShimType* types, size_t n);
template <class... A> static const char* shim_takes(void (*)(A...)) {
    static constexpr ShimType types[] = {shim_type<A>()...};
    return shim_names(types, sizeof...(A));
}

struct ShimSchedule { unsigned grid, columns, rows, order, shared; };
struct ShimShared { char *begin, *end; };  // static shared memory
extern "C" char __start_shim_shared[] __attribute__((weak)), __stop_shim_shared[] __attribute__((weak));

const char* shim_launch(void (*call)(void**), void** args, ShimShared shared, ShimSchedule schedule);
template <class... A, size_t... I> static inline void shim_call(void (*kernel)(A...), void** args, std::index_sequence<I...>) {
    kernel(*static_cast<A*>(args[I])...);
}
template <class... A> static inline void shim_call(void (*kernel)(A...), void** args) {
    shim_call(kernel, args, std::index_sequence_for<A...>());
}

// Exports a kernel as <name>_run and <name>_takes, which returns the types of its arguments.
#define SHIM_EXPORT(name, kernel)                                                                              \
    extern "C" const char* name##_takes() { return shim_takes(kernel); }                                       \
    extern "C" const char* name##_run(                                                                         \
        void** args, unsigned grid, unsigned columns, unsigned rows, unsigned order, unsigned dynamic          \
    ) {                                                                                                        \
        const auto call = [](void** args) { shim_call(kernel, args); };                                        \
        const ShimShared shared = {__start_shim_shared, __stop_shim_shared};                                   \
        return shim_launch(call, args, shared, {grid, columns, rows, order, dynamic});                            \
    }
