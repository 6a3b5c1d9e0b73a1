// Philox4x64-10, with the words of numpy.random.Philox.

#define MULTIPLIER0 0xD2E7470EE14C6C93ull
#define MULTIPLIER1 0xCA5A826395121157ull
#define WEYL0 0x9E3779B97F4A7C15ull
#define WEYL1 0xBB67AE8584CAA73Bull
#define WORD_EXPONENT (55ull << 52)
#define WORD_OFFSET ((0x1p52 - 0.5) * 0x1p-1020)

struct Block { u64 w[4]; };

// The four words at a counter: philox.blocks
DEVICE Block philox(u64 k0, u64 k1, u64 c0, u64 c1, u64 c2, u64 c3) {
#pragma unroll
    for (int round = 0; round < 10; ++round) {
        const u64 high0 = __umul64hi(MULTIPLIER0, c0), low0 = MULTIPLIER0 * c0;
        const u64 high1 = __umul64hi(MULTIPLIER1, c2), low1 = MULTIPLIER1 * c2;
        c0 = high1 ^ c1 ^ k0, c1 = low1, c2 = high0 ^ c3 ^ k1, c3 = low0;
        k0 += WEYL0, k1 += WEYL1;
    }
    return {{c0, c1, c2, c3}};
}

// The words of a sample, from word `number * width` of the stream on: the first `skip` words of the first block are not its
// own. They are made four at a time, `four`, of one block, or of the end of one and the beginning of the next, `last`. Which
// four is needed follows from places in the sample alone, so the threads of a warp make their blocks at once, and each only
// once if words are read in order.
struct SampleWords {
    u64 k0, k1, first, second, c1, c2;
    int skip;
    i64 held;
    Block four, last;
};

DEVICE SampleWords words_of(u64 k0, u64 k1, u64 c0, u64 c1, u64 c2, i64 number, i64 width) {
    const u64 below = (u64)width * (u64)number, above = __umul64hi((u64)width, (u64)number);
    return {k0, k1, below >> 2 | above << 62, (above >> 2) + c0, c1, c2, (int)(below & 3), -2, {}, {}};
}

DEVICE Block block(const SampleWords& s, i64 place) {
    const u64 at = s.first + (u64)(place + 1);
    return philox(s.k0, s.k1, at, at < s.first ? s.second + 1 : s.second, s.c1, s.c2);
}

DEVICE u64 word(SampleWords& s, i64 j) {
    const i64 wanted = j >> 2;
    if (wanted != s.held) {
        const Block before = s.skip && wanted != s.held + 1 ? block(s, wanted) : s.last;
        s.last = block(s, wanted + (s.skip > 0));
        const u64 both[] = {before.w[1], before.w[2], before.w[3], s.last.w[0], s.last.w[1], s.last.w[2]};
#pragma unroll
        for (int n = 0; n < 4; ++n)
            s.four.w[n] = s.skip == 0 ? s.last.w[n] : s.skip == 1 ? both[n] : s.skip == 2 ? both[n + 1] : both[n + 2];
        s.held = wanted;
    }
    const int n = (int)(j & 3);
    return n == 0 ? s.four.w[0] : n == 1 ? s.four.w[1] : n == 2 ? s.four.w[2] : s.four.w[3];
}

// A word's lower or upper half as a number in [0, 1): exact.halves
DEVICE double half(u64 word, i64 upper) { return (double)(u32)(word >> 32 * upper) * 0x1p-32; }

// A row of exact.normal_lines.
struct alignas(16) Line { double a, b; };

// exact.normal, by the bits of float64 as exact.WORD_EXPONENT says.
DEVICE double normal(u64 word, const double* lines) {
    const double g = __longlong_as_double((i64)(word >> 11 | WORD_EXPONENT)) - WORD_OFFSET;
    const Line line = ((const Line*)lines)[__double_as_longlong(g) >> 42];
    const double z = line.a + line.b * g;
    return __longlong_as_double(__double_as_longlong(z) ^ (i64)(word & 1ull << 63));
}
