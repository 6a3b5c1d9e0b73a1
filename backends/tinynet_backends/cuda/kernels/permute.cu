// Keyed permutations, in integers only.

struct Keys { u32 of[24]; };

// A hash of x in [0, bound): permutation._below. Sides are below 2**32, as n is at most 2**62.
DEVICE u64 below(u64 bound, u32 x) {
    x ^= x >> 16;
    x *= 0x7FEB352D;
    x ^= x >> 15;
    x *= 0x846CA68B;
    x ^= x >> 16;
    return x * bound >> 32;
}

// Backend.permute: a permutation of range(n), a * b >= n, at each index; -1 for an index outside.
KERNEL permute(
    i64 m, const i64* __restrict__ index, u64 n, u64 a, u64 b, i64 rounds, const __grid_constant__ Keys keys,
    i64* __restrict__ out
) {
    for (i64 i = thread(); i < m; i += threads()) {
        u64 x = (u64)index[i];
        if (x >= n) {  // it might walk forever, and an error would have to wait for the device
            out[i] = -1;
            continue;
        }
        do {  // this ends: the walk along a cycle returns to the index itself, which is below n
            u64 l = x / b, r = x - l * b;
            for (int j = 0; j < rounds; j += 2) {
                l += below(a, (u32)r ^ keys.of[j]);
                if (l >= a) l -= a;
                r += below(b, (u32)l ^ keys.of[j + 1]);
                if (r >= b) r -= b;
            }
            x = l * b + r;
        } while (x >= n);
        out[i] = (i64)x;
    }
}
