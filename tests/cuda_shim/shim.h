// CUDA C++ on the host, for tests: a kernel's blocks run one after the other, the threads of a block as fibers.
//
// A fiber runs until it meets the others at __syncthreads or a shuffle. In which order fibers and blocks take their
// turns is the launch's: a missing barrier or a dependency between blocks shows as a result that depends on it. Shared
// memory begins as all ones, which is NaN.

#pragma once
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
#define __forceinline__ inline
#define __launch_bounds__(threads)
#define __grid_constant__
#define __shared__ static __attribute__((section("shim_shared")))
#define __restrict__ __restrict

using std::abs, std::exp, std::expm1, std::fabs, std::floor, std::log, std::log1p, std::sqrt, std::tanh;

static inline int min(unsigned a, int b) { return int(a) < b ? int(a) : b; }  // as CUDA's for small numbers

struct uint3 { unsigned x, y, z; };
static uint3 threadIdx, blockIdx, blockDim, gridDim;

static inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
    return (unsigned __int128)a * b >> 64;
}
static inline double __dadd_rn(double a, double b) { return a + b; }
static inline double __dmul_rn(double a, double b) { return a * b; }

template <class To, class From> static inline To shim_bits(From from) {
    static_assert(sizeof(To) == sizeof(From), "as many bits");
    To to;
    std::memcpy(&to, &from, sizeof to);
    return to;
}
static inline double __longlong_as_double(long long x) { return shim_bits<double>(x); }
static inline long long __double_as_longlong(double x) { return shim_bits<long long>(x); }
static inline unsigned __float_as_uint(float x) { return shim_bits<unsigned>(x); }

// Fibers -------------------------------------------------------------------------------------------------------------

extern "C" char __start_shim_shared[] __attribute__((weak)), __stop_shim_shared[] __attribute__((weak));

enum class Shim { ready, block, warp, done };

struct ShimFiber {
    ucontext_t begin;
    jmp_buf place;  // where it goes on: unlike a change of context, a jump does not ask the system
    std::unique_ptr<char[]> stack;
    Shim state;
    bool begun;
    uint3 index;
    unsigned mask, source;  // of the shuffle it waits for: lanes, and from which of them
    uint64_t value;
};

static std::vector<ShimFiber> shim_fibers;
static ShimFiber* shim_current;
static jmp_buf shim_scheduler;
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

static void shim_make_fibers(unsigned columns, unsigned rows) {
    const size_t size = 65536;
    shim_fibers = std::vector<ShimFiber>(size_t(columns) * rows);
    for (ShimFiber& f : shim_fibers) {
        f.stack.reset(new char[size]);
        getcontext(&f.begin);
        f.begin.uc_stack.ss_sp = f.stack.get();
        f.begin.uc_stack.ss_size = size;
        f.begin.uc_link = nullptr;
        makecontext(&f.begin, shim_start, 0);
    }
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

// Lets those of a warp's 32 lanes go on that wait at a shuffle with all whom it names; whether there were any.
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
        if (!(lanes[l].mask >> l & 1)) error = "a lane shuffles that its mask does not name";
        lanes[l].value = values[lanes[l].source % 32];
        lanes[l].state = Shim::ready;
    }
    return true;
}

static void shim_block(const std::vector<unsigned>& order, std::string& error) {
    const size_t threads = shim_fibers.size();
    if (__start_shim_shared) std::memset(__start_shim_shared, 0xff, __stop_shim_shared - __start_shim_shared);
    for (ShimFiber& f : shim_fibers) f.state = Shim::ready;
    while (error.empty()) {
        for (unsigned t : order)
            if (shim_fibers[t].state == Shim::ready) shim_resume(shim_fibers[t]);
        bool moved = false;
        size_t waiting = 0, done = 0;
        for (size_t w = 0; w < threads; w += 32) moved |= shim_shuffle(&shim_fibers[w], error);
        for (ShimFiber& f : shim_fibers) waiting += f.state == Shim::block, done += f.state == Shim::done;
        if (done == threads) return;
        if (moved) continue;
        // a barrier that some threads never come to is a mistake, though devices may let it pass
        if (waiting != threads) error = "threads wait at a barrier or a shuffle to which others do not come";
        for (ShimFiber& f : shim_fibers) f.state = Shim::ready;
    }
}

// Launches -----------------------------------------------------------------------------------------------------------

template <class F>
static const char* shim_launch(unsigned grid, unsigned columns, unsigned rows, unsigned order, const F& call) {
    static std::string error;
    error.clear();
    gridDim = {grid, 1, 1};
    blockDim = {columns, rows, 1};
    if (shim_fibers.size() != size_t(columns) * rows) shim_make_fibers(columns, rows);
    for (unsigned t = 0; t < shim_fibers.size(); ++t) shim_fibers[t].index = {t % columns, t / columns, 0};
    shim_body = [](const void* f) { (*static_cast<const F*>(f))(); };
    shim_argument = &call;
    std::vector<unsigned> threads(shim_fibers.size()), blocks(grid);
    std::mt19937 random(order);
    for (auto* turns : {&threads, &blocks}) {
        for (size_t n = 0; n < turns->size(); ++n) (*turns)[n] = unsigned(order == 1 ? turns->size() - 1 - n : n);
        if (order > 1) for (size_t n = turns->size(); n > 1; --n) std::swap((*turns)[n - 1], (*turns)[random() % n]);
    }
    for (unsigned b : blocks) {
        blockIdx = {b, 0, 0};
        shim_block(threads, error);
        if (!error.empty()) break;
    }
    if (!error.empty()) shim_fibers.clear();  // some are in the middle of it
    return error.c_str();
}

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

// What a kernel takes, as NumPy names its types, with * before those of arrays.
template <class... A> static const char* shim_takes(void (*)(A...)) {
    static std::string text;
    text.clear();
    ((text += ShimType<A>::name() + " "), ...);
    return text.c_str();
}

struct ShimSchedule { unsigned grid, columns, rows, order; };

template <class... A, size_t... I>
static const char* shim_run(void (*kernel)(A...), void** args, ShimSchedule s, std::index_sequence<I...>) {
    return shim_launch(s.grid, s.columns, s.rows, s.order, [&] { kernel(*static_cast<A*>(args[I])...); });
}
template <class... A> static const char* shim_run(void (*kernel)(A...), void** args, ShimSchedule schedule) {
    return shim_run(kernel, args, schedule, std::index_sequence_for<A...>());
}

// Exports a kernel as <name>_run and <name>_takes.
#define SHIM_EXPORT(name, kernel)                                                                                   \
    extern "C" const char* name##_takes() { return shim_takes(kernel); }                                            \
    extern "C" const char* name##_run(void** args, unsigned grid, unsigned columns, unsigned rows, unsigned order) { \
        return shim_run(kernel, args, {grid, columns, rows, order});                                                \
    }
