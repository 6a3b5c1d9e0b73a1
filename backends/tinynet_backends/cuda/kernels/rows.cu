// Functions of rows of k numbers, one team per row: thread t of it has the packs t, t + blockDim.x, … of LANES numbers.
//
// With PACKS, a thread has that many at most, and holds them in registers: memory is then read once. With 0, it has any
// number, and reads them again in each pass. The order of sums is the same, and so are the bits.

#define MANY 8  // packs, in the kernel for wide rows

#define FOR_PACKS \
    _Pragma("unroll (PACKS ? PACKS : 1)") \
    for (i64 p = 0, first = threadIdx.x * LANES; PACKS ? p < PACKS : first < k; ++p, first += blockDim.x * LANES)
#define FOR_LANES _Pragma("unroll") for (int l = 0; l < LANES; ++l)
#define HELD(name) Pack name[PACKS ? PACKS : 1]
#define THIS(name) name[PACKS ? p : 0]

// f(PACKS) for rows of k numbers
#define BY_PACKS(k, f) ((k) <= blockDim.x * LANES ? f(1) : f(0))

// A row's numbers from column `first` on, and `rest` behind column k; in one access if `packed`.
template <int PACKS>
DEVICE Pack get(const real* __restrict__ from, i64 first, i64 k, bool packed, real rest) {
    if ((PACKS > 1 || packed) && first < k) return *(const Pack*)(from + first);
    Pack x;
    FOR_LANES x.v[l] = PACKS <= 1 && first + l < k ? from[first + l] : rest;
    return x;
}

template <int PACKS>
DEVICE void put(real* __restrict__ to, i64 first, i64 k, bool packed, const Pack& x) {
    if ((PACKS > 1 || packed) && first < k) store(to + first, &x);
    else if (PACKS <= 1) FOR_LANES if (first + l < k) to[first + l] = x.v[l];
}

DEVICE bool in_packs(i64 k, u64 addresses) { return k % LANES == 0 && aligned(addresses); }

template <int PACKS>
DEVICE void softmax_of_row(i64 k, bool packed, const real* __restrict__ x, real* __restrict__ y) {
    HELD(e);
    real top = (real)-INF, total = 0;
    FOR_PACKS {
        const Pack each = THIS(e) = get<PACKS>(x, first, k, packed, (real)-INF);
        FOR_LANES top = fmax(top, each.v[l]);
    }
    top = team_largest(top);
    FOR_PACKS {
        Pack each = PACKS ? THIS(e) : get<PACKS>(x, first, k, packed, (real)-INF);
        FOR_LANES {
            each.v[l] = exp(each.v[l] - top);  // 0 behind the last column, or NaN as in all others
            total += each.v[l];
        }
        THIS(e) = each;
    }
    const real share = (real)1 / team_sum(total);
    FOR_PACKS {
        Pack each = PACKS ? THIS(e) : get<PACKS>(x, first, k, packed, (real)-INF);
        FOR_LANES each.v[l] = (PACKS ? each.v[l] : exp(each.v[l] - top)) * share;
        put<PACKS>(y, first, k, packed, each);
    }
}

// Backend.softmax
KERNEL softmax(i64 n, i64 k, const real* __restrict__ x, real* __restrict__ y) {
    const bool packed = in_packs(k, (u64)x | (u64)y);
    FOR_ALL_ROWS(n) {
#define ROW_OF(packs) softmax_of_row<packs>(inside ? k : 0, packed, x + row * k, y + row * k)
        BY_PACKS(k, ROW_OF);
#undef ROW_OF
    }
}

template <int PACKS>
DEVICE void softmax_grad_of_row(
    i64 k, bool packed, const real* __restrict__ dy, const real* __restrict__ y, real* __restrict__ dx
) {
    HELD(slope);
    HELD(value);
    real total = 0;
    FOR_PACKS {
        const Pack s = THIS(slope) = get<PACKS>(dy, first, k, packed, 0), v = THIS(value) = get<PACKS>(y, first, k, packed, 0);
        FOR_LANES total += s.v[l] * v.v[l];
    }
    total = team_sum(total);
    FOR_PACKS {
        Pack s = PACKS ? THIS(slope) : get<PACKS>(dy, first, k, packed, 0);
        const Pack v = PACKS ? THIS(value) : get<PACKS>(y, first, k, packed, 0);
        FOR_LANES s.v[l] = v.v[l] * (s.v[l] - total);
        put<PACKS>(dx, first, k, packed, s);
    }
}

// Backend.softmax_grad
KERNEL softmax_grad(i64 n, i64 k, const real* __restrict__ dy, const real* __restrict__ y, real* __restrict__ dx) {
    const bool packed = in_packs(k, (u64)dy | (u64)y | (u64)dx);
    FOR_ALL_ROWS(n) {
#define ROW_OF(packs) \
    softmax_grad_of_row<packs>(inside ? k : 0, packed, dy + row * k, y + row * k, dx + row * k)
        BY_PACKS(k, ROW_OF);
#undef ROW_OF
    }
}

// What a target is made of, see Backend.softmax_cross_entropy: weight * ((1 - smoothing) * target + smoothing / k)
struct Target { const real* given; const real* weight; real sure, smooth; };

// The targets from column `first` on.
template <int PACKS>
DEVICE Pack wanted(const Target& target, i64 at, i64 first, i64 k, bool packed, i64 label) {
    Pack q = {}, weight = {};
    if (target.given) q = get<PACKS>(target.given + at, first, k, packed, 0);
    else FOR_LANES q.v[l] = first + l == label;
    if (target.weight) weight = get<PACKS>(target.weight, first, k, packed, 0);
    FOR_LANES {
        q.v[l] = first + l < k ? q.v[l] * target.sure + target.smooth : (real)0;
        if (target.weight && first + l < k) q.v[l] *= weight.v[l];
    }
    return q;
}

// A team's row: dz, and this thread's share of the cost, of k numbers, none if the team has no row. `head` is the first of
// the thread's packs. PLAIN: the target is 1 for the label, which one thread adds, and 0 for the others.
template <int PACKS, bool PLAIN>
DEVICE double cost_of_row(
    i64 k, bool packed, i64 at, i64 label, real factor, const Pack& head, const real* __restrict__ z,
    const Target& target, real* __restrict__ dz
) {
    HELD(e);
    real top = (real)-INF, total = 0, mass = 0, cost = 0;
    FOR_PACKS {
        const Pack x = THIS(e) = PACKS == 1 ? head : get<PACKS>(z + at, first, k, packed, (real)-INF);
        FOR_LANES top = fmax(top, x.v[l]);
    }
    top = team_largest(top);
    FOR_PACKS {
        Pack x = PACKS ? THIS(e) : get<PACKS>(z + at, first, k, packed, (real)-INF);
        const Pack q = PLAIN ? Pack{} : wanted<PACKS>(target, at, first, k, packed, label);
        FOR_LANES {
            // 0 * -inf is 0 here: an impossible class costs nothing if its target is 0
            if (q.v[l] != 0) cost -= q.v[l] * (x.v[l] - top);
            mass += q.v[l];
            x.v[l] = exp(x.v[l] - top);  // 0 behind the last column, or NaN as in all others
            total += x.v[l];
        }
        THIS(e) = x;
    }
    total = team_sum(total);
    mass = PLAIN ? (real)(0 <= label && label < k) : team_sum(mass);
    const real share = mass / total;
    FOR_PACKS {
        Pack x = PACKS ? THIS(e) : get<PACKS>(z + at, first, k, packed, (real)-INF);
        const Pack q = PLAIN ? Pack{} : wanted<PACKS>(target, at, first, k, packed, label);
        FOR_LANES x.v[l] = ((PACKS ? x.v[l] : exp(x.v[l] - top)) * share - q.v[l]) * factor;
        put<PACKS>(dz + at, first, k, packed, x);
    }
    if (PLAIN && mass != 0 && label / LANES % blockDim.x == threadIdx.x) {  // the thread that has the label
        const real x = z[at + label] - top;
        cost = -x;
        dz[at + label] = (exp(x) * share - (real)1) * factor;
    }
    if (threadIdx.x == 0 && mass != 0) cost += mass * log(total);
    return k > 0 ? (double)(cost * factor) : 0.0;
}

// A chunk is `size` rows.
#define COSTS_OF \
    i64 n, i64 k, i64 size, i64 chunks, const real* __restrict__ z, const i64* __restrict__ labels, \
    const real* __restrict__ given, const real* __restrict__ weight, const real* __restrict__ scale, double sure, \
    double smooth, real* __restrict__ dz, double* __restrict__ parts, real* __restrict__ loss

template <int PACKS, bool PLAIN>
DEVICE void costs_of_chunks(COSTS_OF, bool packed) {
    constexpr int AHEAD = PACKS == 1 && PLAIN ? 4 : 1;  // rows that are read together
    const Target target = {given, weight, (real)sure, (real)smooth};
    for (i64 chunk = blockIdx.x; chunk < chunks; chunk += gridDim.x) {
        const i64 end = (chunk + 1) * size < n ? (chunk + 1) * size : n;
        double costs = 0.0;
        for (i64 base = chunk * size; base < end; base += AHEAD * blockDim.y) {
            Pack head[AHEAD];
            i64 label[AHEAD];
            real factor[AHEAD];
#pragma unroll
            for (int a = 0; a < AHEAD; ++a) {
                const i64 row = base + a * blockDim.y + threadIdx.y;
                label[a] = row < end && labels ? labels[row] : -1;
                factor[a] = row < end ? scale[row] : (real)0;
                if (PACKS == 1) head[a] = get<1>(z + row * k, threadIdx.x * LANES, row < end ? k : 0, packed, (real)-INF);
            }
#pragma unroll
            for (int a = 0; a < AHEAD; ++a) {
                if (base + a * blockDim.y >= end) break;
                const i64 row = base + a * blockDim.y + threadIdx.y;
                costs += cost_of_row<PACKS, PLAIN>(
                    row < end ? k : 0, packed, row * k, label[a], factor[a], head[a], z, target, dz);
            }
        }
        put_sum(costs, chunk, chunks, parts, loss);
    }
}

#define COSTS(packs, plain) \
    costs_of_chunks<packs, plain>(n, k, size, chunks, z, labels, given, weight, scale, sure, smooth, dz, parts, loss, packed)

// Backend.softmax_cross_entropy for labels, or for probabilities in `given`, of rows in which a thread has one pack
KERNEL cross_entropy(COSTS_OF) {
    const bool packed = in_packs(k, (u64)z | (u64)given | (u64)weight | (u64)dz);
    if (labels && !weight && smooth == 0) COSTS(1, true);
    else COSTS(1, false);
}

// The same for wider rows
KERNEL cross_entropy_wide(COSTS_OF) {
    const bool packed = in_packs(k, (u64)z | (u64)given | (u64)weight | (u64)dz);
    if (!labels || weight || smooth != 0) COSTS(0, false);
    else if (packed && k <= blockDim.x * LANES * MANY) COSTS(MANY, true);
    else COSTS(0, true);
}
