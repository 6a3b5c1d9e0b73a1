// Launches on the host, for tests: a kernel's blocks run one after another, the threads of a block as fibers.
//
// A fiber runs until it waits for others at __syncthreads or a shuffle. A launch sets the order in which fibers and blocks
// run: a missing barrier or a dependency between blocks shows as a result that depends on it. Shared memory is
// initialized to all ones, which is NaN.

#include "shim.h"
#include <algorithm>
#include <csetjmp>
#include <cstdlib>
#include <memory>
#include <random>
#include <string>
#include <ucontext.h>
#include <vector>

uint3 threadIdx, blockIdx, blockDim, gridDim;
static std::string error;

// Fibers -------------------------------------------------------------------------------------------------------------

enum class State { ready, block, warp, done };

struct Fiber {
    ucontext_t begin;
    jmp_buf place;  // where it continues: unlike a context switch, a jump needs no system call
    std::unique_ptr<char[]> stack;
    State state;
    bool begun;
    uint3 index;
    unsigned mask, source;  // of the shuffle that it waits for: its lanes, and the one to read from
    uint64_t value;
    std::vector<std::pair<void*, std::string>> copies;  // to shared memory, in flight
};

using Turns = std::vector<unsigned>;

static std::vector<Fiber> fibers;
static Fiber *current, *first;  // the one that runs, and the first of its warp
static Turns lanes;             // of a warp, in the order in which they run
static size_t turn;
static jmp_buf scheduler;
static std::vector<uint64_t> dynamic_shared;  // dynamic shared memory, and a fence behind it that nobody may write to
static const uint64_t fence = 0x5a5a5a5a5a5a5a5a;
static void (*body)(void**);
static void** arguments;

// Goes on with the next lane of the warp that is ready, and with the scheduler after the last.
[[noreturn]] static void go_on() {
    while (turn < lanes.size()) {
        Fiber& f = first[lanes[turn++]];
        if (f.state != State::ready) continue;
        current = &f;
        threadIdx = f.index;
        if (f.begun) _longjmp(f.place, 1);
        f.begun = true;
        setcontext(&f.begin);
    }
    _longjmp(scheduler, 1);
}

static void wait(State state) {
    Fiber* self = current;
    self->state = state;
    if (!_setjmp(self->place)) go_on();
}

static void start() {
    for (;;) {  // block after block
        body(arguments);
        wait(State::done);
    }
}

// Each lane of the warp that is ready, until it waits.
static void run_lanes() {
    turn = 0;
    if (!_setjmp(scheduler)) go_on();
}

static void make_fibers(size_t threads) {
    const size_t size = 65536;
    fibers = std::vector<Fiber>(threads);
    for (Fiber& f : fibers) {
        f.stack.reset(new char[size]);
        getcontext(&f.begin);
        f.begin.uc_stack.ss_sp = f.stack.get();
        f.begin.uc_stack.ss_size = size;
        f.begin.uc_link = nullptr;
        makecontext(&f.begin, start, 0);
    }
}

// What kernels call --------------------------------------------------------------------------------------------------

void* shim_shared_memory() { return dynamic_shared.data(); }

void store(void* to, const void* from) {
    if (reinterpret_cast<uintptr_t>(to) % 16) error = "an address is not aligned";
    std::memcpy(to, from, 16);
}
void shim_copy(void* to, const void* from, size_t bytes) {
    if ((reinterpret_cast<uintptr_t>(to) | reinterpret_cast<uintptr_t>(from)) % bytes) std::abort();
    current->copies.emplace_back(to, std::string(static_cast<const char*>(from), bytes));
}
void copied() {
    for (auto& [to, what] : current->copies) std::memcpy(to, what.data(), what.size());
    current->copies.clear();
}

// Called, with -fsanitize=alignment, for an access that is not aligned for its type.
extern "C" void __ubsan_handle_type_mismatch_v1(void*, void*) { error = "an address is not aligned"; }

void __syncthreads() { wait(State::block); }

uint64_t shim_shuffle(unsigned mask, uint64_t value, int lanes) {
    Fiber* self = current;
    self->mask = mask;
    self->source = unsigned(self - fibers.data()) % 32 ^ unsigned(lanes);
    self->value = value;
    wait(State::warp);
    return self->value;
}

// Matrix fragments for mma.m16n8k8 and m16n8k16 (PTX ISA, "Warp Level Matrix Multiply-Accumulate Instructions"): lane 4 g + t holds
// (g, 2 t), (g, 2 t + 1), (g + 8, 2 t), (g + 8, 2 t + 1) of d; `a` and `b` look up the operands by row and column.
struct Operands { unsigned of[6]; };
template <size_t depth, class A, class B> static void mma(float* d, Operands mine, const A& a, const B& b) {
    static Operands all[32][32];
    const size_t self = current - fibers.data(), g = self % 32 / 4, t = self % 4;
    auto& warp = all[self / 32];
    warp[self % 32] = mine;
    __syncwarp();  // all lanes have written
    for (size_t n = 0; n < 4; ++n)
        for (size_t k = 0; k < depth; ++k) d[n] += a(warp, g + n / 2 * 8, k) * b(warp, k, 2 * t + n % 2);
    __syncwarp();  // and read
}
static float tf32(unsigned bits) { return __uint_as_float(bits & 0xffffe000); }
void mma_tf32(float* d, unsigned a0, unsigned a1, unsigned a2, unsigned a3, unsigned b0, unsigned b1) {
    mma<8>(
        d, {a0, a1, a2, a3, b0, b1},
        [](auto& warp, size_t row, size_t k) { return tf32(warp[row % 8 * 4 + k % 4].of[row / 8 + k / 4 * 2]); },
        [](auto& warp, size_t k, size_t column) { return tf32(warp[column * 4 + k % 4].of[4 + k / 4]); });
}
static float half(unsigned word, size_t upper) { return __uint_as_float(upper ? word & 0xffff0000 : word << 16); }
void mma_bf16(float* d, unsigned a0, unsigned a1, unsigned b0) {
    mma<8>(
        d, {a0, a1, b0},
        [](auto& warp, size_t row, size_t k) { return half(warp[row % 8 * 4 + k / 2].of[row / 8], k % 2); },
        [](auto& warp, size_t k, size_t column) { return half(warp[column * 4 + k / 2].of[2], k % 2); });
}
void mma_bf16(float* d, unsigned a0, unsigned a1, unsigned a2, unsigned a3, unsigned b0, unsigned b1) {
    mma<16>(
        d, {a0, a1, a2, a3, b0, b1},
        [](auto& warp, size_t row, size_t k) { return half(warp[row % 8 * 4 + k % 8 / 2].of[row / 8 + k / 8 * 2], k % 2); },
        [](auto& warp, size_t k, size_t column) { return half(warp[column * 4 + k % 8 / 2].of[4 + k / 8], k % 2); });
}

// PTX's ldmatrix.x4.trans: of the m-th matrix, whose rows lanes 8 m to 8 m + 7 point to, lane 4 g + t gets (2 t, g), (2 t + 1, g).
void load_transposed(unsigned* d, const unsigned short* row) {
    static const unsigned short* all[32][32];
    const size_t self = current - fibers.data(), g = self % 32 / 4, t = self % 4;
    if (reinterpret_cast<uintptr_t>(row) % 16) error = "an address is not aligned";
    auto& rows = all[self / 32];
    rows[self % 32] = row;
    __syncwarp();  // all lanes have written
    for (size_t m = 0; m < 4; ++m) d[m] = rows[8 * m + 2 * t][g] | unsigned(rows[8 * m + 2 * t + 1][g]) << 16;
    __syncwarp();  // and read
}
unsigned rounded_pair(float low, float high) {
    const auto rounded = [](float x) {
        const unsigned bits = __float_as_uint(x);
        return x != x ? 0x7fff : (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
    };
    return rounded(low) | rounded(high) << 16;
}

// Blocks -------------------------------------------------------------------------------------------------------------

// Makes ready the lanes of the warp that wait at a shuffle all of whose lanes have arrived; whether there were any.
static bool shuffle() {
    unsigned waiting = 0;
    for (size_t l = 0; l < 32; ++l) waiting |= unsigned(first[l].state == State::warp) << l;
    unsigned going = 0;
    for (size_t l = 0; l < 32; ++l) going |= unsigned(waiting >> l & 1 && !(first[l].mask & ~waiting)) << l;
    if (!going) return false;
    uint64_t values[32];
    std::memset(values, 0xff, sizeof values);
    for (size_t l = 0; l < 32; ++l) if (going >> l & 1) values[l] = first[l].value;
    for (size_t l = 0; l < 32; ++l) {
        if (!(going >> l & 1)) continue;
        if (!(first[l].mask >> l & 1)) error = "a lane shuffles that is not in its own mask";
        first[l].value = values[first[l].source % 32];
        first[l].state = State::ready;
    }
    return true;
}

static void block(const Turns& warps, ShimShared shared) {
    if (shared.begin) std::memset(shared.begin, 0xff, shared.end - shared.begin);
    std::fill(dynamic_shared.begin(), dynamic_shared.end() - 8, ~0ull);
    std::fill(dynamic_shared.end() - 8, dynamic_shared.end(), fence);
    for (Fiber& f : fibers) f.state = State::ready;
    while (error.empty()) {
        // one warp as far as possible, then the next: they get as far apart as barriers allow
        for (unsigned each : warps) {
            first = &fibers[32 * each];
            do run_lanes();
            while (shuffle());
        }
        size_t waiting = 0, done = 0;
        for (Fiber& f : fibers) waiting += f.state == State::block, done += f.state == State::done;
        if (std::count(dynamic_shared.end() - 8, dynamic_shared.end(), fence) < 8) error = "a write beyond the shared memory";
        if (done == fibers.size()) return;
        // a barrier that some threads never reach is a mistake, though devices may tolerate it
        if (waiting != fibers.size()) error = "threads wait at a barrier or a shuffle that others do not reach";
        for (Fiber& f : fibers) f.state = State::ready;
    }
}

// 0, …, n - 1 in ascending (0), descending (1) or a random order.
static Turns turns(unsigned n, unsigned order) {
    Turns turns(n);
    std::mt19937 random(order);
    for (unsigned i = 0; i < n; ++i) turns[i] = order == 1 ? n - 1 - i : i;
    if (order > 1) for (unsigned i = n; i > 1; --i) std::swap(turns[i - 1], turns[random() % i]);
    return turns;
}

const char* shim_launch(void (*call)(void**), void** args, ShimShared shared, ShimSchedule s) {
    dynamic_shared.resize((s.shared + 7) / 8 + 8);
    const unsigned threads = s.columns * s.rows;  // whole warps
    error.clear();
    gridDim = {s.grid, 1, 1};
    blockDim = {s.columns, s.rows, 1};
    if (fibers.size() != threads) make_fibers(threads);
    for (unsigned t = 0; t < threads; ++t) fibers[t].index = {t % s.columns, t / s.columns, 0};
    body = call;
    arguments = args;
    const Turns warps = turns(threads / 32, s.order);
    lanes = turns(32, s.order);
    for (unsigned each : turns(s.grid, s.order)) {
        blockIdx = {each, 0, 0};
        block(warps, shared);
        if (!error.empty()) break;
    }
    if (!error.empty()) fibers.clear();  // some have not finished
    return error.c_str();
}

const char* shim_names(const ShimType* types, size_t n) {
    static std::string text;
    text.clear();
    for (size_t i = 0; i < n; ++i) text += (types[i].array ? "*" : "") + (types[i].kind + std::to_string(types[i].size)) + " ";
    return text.c_str();
}
