// CUDA C++ on the host, for tests: a kernel's blocks run one after another, the threads of a block as fibers.
//
// A fiber runs until it waits for others at __syncthreads or a shuffle. A launch sets the order in which fibers and blocks
// run: a missing barrier or a dependency between blocks shows as a result that depends on it. Shared memory is
// initialized to all ones, which is NaN.

#pragma once
#include <algorithm>
#include <cmath>
#include <csetjmp>
#include <cstdint>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <ucontext.h>
#include <utility>
#include <vector>

#define __global__
#define __device__ static
#define MEMBER
#define __forceinline__ inline
#define __launch_bounds__(threads)
#define __grid_constant__
#define __shared__ static __attribute__((section("shim_shared")))
#define __restrict__ __restrict
#define SHARED_ROOM(name) real* const name = (real*)shim_room.data()

using std::copysign, std::exp, std::expm1, std::fabs, std::floor, std::fma, std::fmax, std::fmod, std::log, std::log1p;
using std::rint, std::sqrt, std::tanh;

static inline int min(unsigned a, int b) { return int(a) < b ? int(a) : b; }  // the same as CUDA's for small numbers

struct uint3 { unsigned x, y, z; };
static uint3 threadIdx, blockIdx, blockDim, gridDim;
static std::string shim_error;

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

// Fibers -------------------------------------------------------------------------------------------------------------

extern "C" char __start_shim_shared[] __attribute__((weak)), __stop_shim_shared[] __attribute__((weak));

enum class Shim { ready, block, warp, done };

struct ShimFiber {
    ucontext_t begin;
    jmp_buf place;  // where it continues: unlike a context switch, a jump needs no system call
    std::unique_ptr<char[]> stack;
    Shim state;
    bool begun;
    uint3 index;
    unsigned mask, source;  // of the shuffle that it waits for: its lanes, and the one to read from
    uint64_t value;
    std::vector<std::pair<void*, std::string>> copies;  // to shared memory, in flight
};

static std::vector<ShimFiber> shim_fibers;
static ShimFiber* shim_current;
static jmp_buf shim_scheduler;
static std::vector<uint64_t> shim_room;  // dynamic shared memory, and a fence behind it that nobody may write to
static const uint64_t shim_fence = 0x5a5a5a5a5a5a5a5a;
static void (*shim_body)(const void*);
static const void* shim_argument;

static void shim_wait(Shim state) {
    ShimFiber* self = shim_current;
    self->state = state;
    if (!_setjmp(self->place)) _longjmp(shim_scheduler, 1);
}

static void shim_start() {
    for (;;) {  // block after block
        shim_body(shim_argument);
        shim_wait(Shim::done);
    }
}

static void shim_resume(ShimFiber& f) {
    shim_current = &f;
    threadIdx = f.index;
    if (_setjmp(shim_scheduler)) return;
    if (f.begun) _longjmp(f.place, 1);
    f.begun = true;
    setcontext(&f.begin);
}

static void shim_make_fibers(size_t threads) {
    const size_t size = 65536;
    shim_fibers = std::vector<ShimFiber>(threads);
    for (ShimFiber& f : shim_fibers) {
        f.stack.reset(new char[size]);
        getcontext(&f.begin);
        f.begin.uc_stack.ss_sp = f.stack.get();
        f.begin.uc_stack.ss_size = size;
        f.begin.uc_link = nullptr;
        makecontext(&f.begin, shim_start, 0);
    }
}

static inline void store(void* to, const void* from) {
    if (reinterpret_cast<uintptr_t>(to) % 16) shim_error = "an address is not aligned";
    std::memcpy(to, from, 16);
}
template <int bytes> static inline void copy(void* to, const void* from) {
    if ((reinterpret_cast<uintptr_t>(to) | reinterpret_cast<uintptr_t>(from)) % bytes) std::abort();
    shim_current->copies.emplace_back(to, std::string(static_cast<const char*>(from), bytes));
}
static inline void copied() {
    for (auto& [to, what] : shim_current->copies) std::memcpy(to, what.data(), what.size());
    shim_current->copies.clear();
}

static inline void __syncthreads() { shim_wait(Shim::block); }

template <class T> static inline T __shfl_xor_sync(unsigned mask, T value, int lanes) {
    ShimFiber* self = shim_current;
    self->mask = mask;
    self->source = unsigned(self - shim_fibers.data()) % 32 ^ unsigned(lanes);
    self->value = 0;
    std::memcpy(&self->value, &value, sizeof value);
    shim_wait(Shim::warp);
    std::memcpy(&value, &self->value, sizeof value);
    return value;
}

static inline void __syncwarp() { __shfl_xor_sync(~0u, 0, 0); }

// Matrix fragments for mma.m16n8k8 and m16n8k16 (PTX ISA, "Warp Level Matrix Multiply-Accumulate Instructions"): lane 4 g + t holds
// (g, 2 t), (g, 2 t + 1), (g + 8, 2 t), (g + 8, 2 t + 1) of d; `a` and `b` look up the operands by row and column.
template <size_t depth = 8, class A, class B>
static void shim_mma(float* d, const std::vector<unsigned>& mine, const A& a, const B& b) {
    static std::vector<unsigned> all[32][32];
    const size_t self = shim_current - shim_fibers.data(), g = self % 32 / 4, t = self % 4;
    auto& warp = all[self / 32];
    warp[self % 32] = mine;
    __syncwarp();  // all lanes have written
    for (size_t n = 0; n < 4; ++n)
        for (size_t k = 0; k < depth; ++k) d[n] += a(warp, g + n / 2 * 8, k) * b(warp, k, 2 * t + n % 2);
    __syncwarp();  // and read
}
static float shim_tf32(unsigned bits) { return __uint_as_float(bits & 0xffffe000); }
static void mma_tf32(float* d, unsigned a0, unsigned a1, unsigned a2, unsigned a3, unsigned b0, unsigned b1) {
    shim_mma(
        d, {a0, a1, a2, a3, b0, b1},
        [](auto& warp, size_t row, size_t k) { return shim_tf32(warp[row % 8 * 4 + k % 4][row / 8 + k / 4 * 2]); },
        [](auto& warp, size_t k, size_t column) { return shim_tf32(warp[column * 4 + k % 4][4 + k / 4]); });
}
static float shim_half(unsigned word, size_t upper) { return __uint_as_float(upper ? word & 0xffff0000 : word << 16); }
static void mma_bf16(float* d, unsigned a0, unsigned a1, unsigned b0) {
    shim_mma(
        d, {a0, a1, b0},
        [](auto& warp, size_t row, size_t k) { return shim_half(warp[row % 8 * 4 + k / 2][row / 8], k % 2); },
        [](auto& warp, size_t k, size_t column) { return shim_half(warp[column * 4 + k / 2][2], k % 2); });
}

static void mma_bf16(float* d, unsigned a0, unsigned a1, unsigned a2, unsigned a3, unsigned b0, unsigned b1) {
    shim_mma<16>(
        d, {a0, a1, a2, a3, b0, b1},
        [](auto& warp, size_t row, size_t k) {
            return shim_half(warp[row % 8 * 4 + k % 8 / 2][row / 8 + k / 8 * 2], k % 2);
        },
        [](auto& warp, size_t k, size_t column) { return shim_half(warp[column * 4 + k % 8 / 2][4 + k / 8], k % 2); });
}

// PTX's ldmatrix.x4.trans: of the m-th matrix, whose rows lanes 8 m to 8 m + 7 point to, lane 4 g + t gets (2 t, g), (2 t + 1, g).
static void load_transposed(unsigned* d, const unsigned short* row) {
    static const unsigned short* all[32][32];
    const size_t self = shim_current - shim_fibers.data(), g = self % 32 / 4, t = self % 4;
    if (reinterpret_cast<uintptr_t>(row) % 16) shim_error = "an address is not aligned";
    auto& rows = all[self / 32];
    rows[self % 32] = row;
    __syncwarp();  // all lanes have written
    for (size_t m = 0; m < 4; ++m) d[m] = rows[8 * m + 2 * t][g] | unsigned(rows[8 * m + 2 * t + 1][g]) << 16;
    __syncwarp();  // and read
}
static unsigned rounded_pair(float low, float high) {
    const auto half = [](float x) {
        const unsigned bits = __float_as_uint(x);
        return x != x ? 0x7fff : (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
    };
    return half(low) | half(high) << 16;
}

// Resumes the lanes of a warp that wait at a shuffle all of whose lanes have arrived; whether there were any.
static bool shim_shuffle(ShimFiber* lanes, std::string& error) {
    unsigned waiting = 0;
    for (size_t l = 0; l < 32; ++l) waiting |= unsigned(lanes[l].state == Shim::warp) << l;
    unsigned going = 0;
    for (size_t l = 0; l < 32; ++l) going |= unsigned(waiting >> l & 1 && !(lanes[l].mask & ~waiting)) << l;
    if (!going) return false;
    uint64_t values[32];
    std::memset(values, 0xff, sizeof values);
    for (size_t l = 0; l < 32; ++l) if (going >> l & 1) values[l] = lanes[l].value;
    for (size_t l = 0; l < 32; ++l) {
        if (!(going >> l & 1)) continue;
        if (!(lanes[l].mask >> l & 1)) error = "a lane shuffles that is not in its own mask";
        lanes[l].value = values[lanes[l].source % 32];
        lanes[l].state = Shim::ready;
    }
    return true;
}

using ShimTurns = std::vector<unsigned>;

static void shim_block(const ShimTurns& warps, const ShimTurns& lanes, std::string& error) {
    if (__start_shim_shared) std::memset(__start_shim_shared, 0xff, __stop_shim_shared - __start_shim_shared);
    std::fill(shim_room.begin(), shim_room.end() - 8, ~0ull);
    std::fill(shim_room.end() - 8, shim_room.end(), shim_fence);
    for (ShimFiber& f : shim_fibers) f.state = Shim::ready;
    while (error.empty()) {
        // one warp as far as possible, then the next: they get as far apart as barriers allow
        for (unsigned warp : warps) {
            ShimFiber* fibers = &shim_fibers[32 * warp];
            do
                for (unsigned lane : lanes) if (fibers[lane].state == Shim::ready) shim_resume(fibers[lane]);
            while (shim_shuffle(fibers, error));
        }
        size_t waiting = 0, done = 0;
        for (ShimFiber& f : shim_fibers) waiting += f.state == Shim::block, done += f.state == Shim::done;
        if (std::count(shim_room.end() - 8, shim_room.end(), shim_fence) < 8) error = "a write beyond the shared memory";
        if (done == shim_fibers.size()) return;
        // a barrier that some threads never reach is a mistake, though devices may tolerate it
        if (waiting != shim_fibers.size()) error = "threads wait at a barrier or a shuffle that others do not reach";
        for (ShimFiber& f : shim_fibers) f.state = Shim::ready;
    }
}

// Launches -----------------------------------------------------------------------------------------------------------

// 0, …, n - 1 in ascending (0), descending (1) or a random order.
static ShimTurns shim_turns(unsigned n, unsigned order) {
    ShimTurns turns(n);
    std::mt19937 random(order);
    for (unsigned i = 0; i < n; ++i) turns[i] = order == 1 ? n - 1 - i : i;
    if (order > 1) for (unsigned i = n; i > 1; --i) std::swap(turns[i - 1], turns[random() % i]);
    return turns;
}

template <class F>
static const char* shim_launch(
    unsigned grid, unsigned columns, unsigned rows, unsigned order, unsigned room, const F& call
) {
    shim_room.resize((room + 7) / 8 + 8);
    const unsigned threads = columns * rows;  // whole warps
    shim_error.clear();
    gridDim = {grid, 1, 1};
    blockDim = {columns, rows, 1};
    if (shim_fibers.size() != threads) shim_make_fibers(threads);
    for (unsigned t = 0; t < threads; ++t) shim_fibers[t].index = {t % columns, t / columns, 0};
    shim_body = [](const void* f) { (*static_cast<const F*>(f))(); };
    shim_argument = &call;
    const ShimTurns warps = shim_turns(threads / 32, order), lanes = shim_turns(32, order);
    for (unsigned block : shim_turns(grid, order)) {
        blockIdx = {block, 0, 0};
        shim_block(warps, lanes, shim_error);
        if (!shim_error.empty()) break;
    }
    if (!shim_error.empty()) shim_fibers.clear();  // some have not finished
    return shim_error.c_str();
}

// Called, with -fsanitize=alignment, for an access that is not aligned for its type.
extern "C" void __ubsan_handle_type_mismatch_v1(void*, void*) { shim_error = "an address is not aligned"; }

template <class T> struct ShimType {
    static std::string name() {
        const char* kind = std::is_class_v<T>            ? "V"
                           : std::is_same_v<T, bool>     ? "b"
                           : std::is_floating_point_v<T> ? "f"
                           : std::is_unsigned_v<T>       ? "u"
                                                         : "i";
        return kind + std::to_string(sizeof(T));
    }
};
template <class T> struct ShimType<T*> { static std::string name() { return "*" + ShimType<T>::name(); } };
template <class T> struct ShimType<const T> : ShimType<T> {};

// The types of a kernel's arguments by their names in NumPy, arrays with a * in front.
template <class... A> static const char* shim_takes(void (*)(A...)) {
    static std::string text;
    text.clear();
    ((text += ShimType<A>::name() + " "), ...);
    return text.c_str();
}

struct ShimSchedule { unsigned grid, columns, rows, order, room; };

template <class... A, size_t... I>
static const char* shim_run(void (*kernel)(A...), void** args, ShimSchedule s, std::index_sequence<I...>) {
    return shim_launch(s.grid, s.columns, s.rows, s.order, s.room, [&] { kernel(*static_cast<A*>(args[I])...); });
}
template <class... A> static const char* shim_run(void (*kernel)(A...), void** args, ShimSchedule schedule) {
    return shim_run(kernel, args, schedule, std::index_sequence_for<A...>());
}

// Exports a kernel as <name>_run and <name>_takes.
#define SHIM_EXPORT(name, kernel)                                                                              \
    extern "C" const char* name##_takes() { return shim_takes(kernel); }                                       \
    extern "C" const char* name##_run(                                                                         \
        void** args, unsigned grid, unsigned columns, unsigned rows, unsigned order, unsigned room             \
    ) {                                                                                                        \
        return shim_run(kernel, args, {grid, columns, rows, order, room});                                     \
    }
