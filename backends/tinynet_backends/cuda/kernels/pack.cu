// Concatenation of the parts of a vector.

#define MOST 64  // parts per launch

struct Parts { const real* from[MOST]; i64 size[MOST]; };

// Backend.pack
KERNEL pack(i64 count, const __grid_constant__ Parts parts, real* __restrict__ to) {
    for (i64 part = 0; part < count; ++part) {
        const real* from = parts.from[part];
        const i64 n = parts.size[part], packs = aligned((u64)from | (u64)to) ? n / LANES : 0;
        for (i64 i = thread(); i < packs; i += threads()) ((Pack*)to)[i] = ((const Pack*)from)[i];
        for (i64 i = packs * LANES + thread(); i < n; i += threads()) to[i] = from[i];
        to += n;
    }
}
