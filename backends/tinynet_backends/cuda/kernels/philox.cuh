// Philox4x64-10, with the words of numpy.random.Philox.

#define MULTIPLIER0 0xD2E7470EE14C6C93ull
#define MULTIPLIER1 0xCA5A826395121157ull
#define WEYL0 0x9E3779B97F4A7C15ull
#define WEYL1 0xBB67AE8584CAA73Bull

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

// The words of a sample, from word `number * width` of the stream on. Blocks of four are computed when they are needed,
// each only once if words are read in order.
struct SampleWords {
    u64 k0, k1, first, second, c1, c2;
    i64 skip, held;
    Block block;
};

DEVICE SampleWords words_of(u64 k0, u64 k1, u64 c0, u64 c1, u64 c2, i64 number, i64 width) {
    const u64 below = (u64)width * (u64)number, above = __umul64hi((u64)width, (u64)number);
    return {k0, k1, below >> 2 | above << 62, (above >> 2) + c0, c1, c2, (i64)(below & 3), -1, {}};
}

DEVICE u64 word(SampleWords& s, i64 j) {
    const i64 place = s.skip + j, wanted = place >> 2, n = place & 3;
    if (wanted != s.held) {
        const u64 at = s.first + (u64)(wanted + 1);
        s.block = philox(s.k0, s.k1, at, at < s.first ? s.second + 1 : s.second, s.c1, s.c2), s.held = wanted;
    }
    return n == 0 ? s.block.w[0] : n == 1 ? s.block.w[1] : n == 2 ? s.block.w[2] : s.block.w[3];
}
