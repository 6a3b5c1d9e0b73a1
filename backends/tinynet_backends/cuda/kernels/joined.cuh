// One block does launches one after another. Before this stand the kernels as functions and, as macros, WIDTH, the words in a
// row of the table, and CASES, a call for each kind of launch, whose arguments are numbers and what lies at a place in its row.

struct Word {  // or several, at this place
    const u64* place;
    template <class T> MEMBER operator T&() const { return *(T*)place; }
};

// Addresses are assumed to be global, not converted by `__cvta_global_to_generic`: on that NVRTC 13.0 does not end.
struct Address {  // in device memory
    const u64* place;
    template <class T> MEMBER operator T*() const {
        T* const to = (T*)*place;
        __builtin_assume(__isGlobal(to));
        return to;
    }
};
struct Aligned {  // a multiple of 16
    const u64* place;
    template <class T> MEMBER operator T*() const {
        T* const to = (T*)__builtin_assume_aligned((T*)*place, 16);
        __builtin_assume(__isGlobal(to));
        return to;
    }
};

KERNEL joined(i64 count, const u64* table) {
    static_assert(WIDTH <= THREADS);
    __shared__ u64 rows[2][WIDTH];  // one is read while the next one comes
    const bool mine = threadIdx.x < WIDTH;
    if (mine && count > 0) rows[0][threadIdx.x] = table[threadIdx.x];
    for (i64 n = 0; n < count; ++n) {
        __syncthreads();  // all see what the last one wrote
        const u64* words = rows[n % 2];
        table += WIDTH;
        const u64 next = mine && n + 1 < count ? table[threadIdx.x] : 0;
        switch ((u32)words[0]) { CASES }
        if (mine) rows[(n + 1) % 2][threadIdx.x] = next;
    }
}
