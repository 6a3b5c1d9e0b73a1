// Functions of rows of k numbers, one team per row.

// Backend.softmax
KERNEL softmax(i64 n, i64 k, const real* __restrict__ x, real* __restrict__ y) {
    FOR_ALL_ROWS(n) {
        const real* from = x + row * k;
        real top = (real)-INF, total = 0;
        FOR_COLUMNS(k) top = fmax(top, from[j]);
        top = team_largest(top);
        FOR_COLUMNS(k) total += exp(from[j] - top);
        total = team_sum(total);
        FOR_COLUMNS(k) y[row * k + j] = exp(from[j] - top) / total;
    }
}

// Backend.softmax_grad
KERNEL softmax_grad(i64 n, i64 k, const real* __restrict__ dy, const real* __restrict__ y, real* __restrict__ dx) {
    FOR_ALL_ROWS(n) {
        real total = 0;
        FOR_COLUMNS(k) total += dy[row * k + j] * y[row * k + j];
        total = team_sum(total);
        FOR_COLUMNS(k) dx[row * k + j] = y[row * k + j] * (dy[row * k + j] - total);
    }
}

// The weighted target of class j: weight * ((1 - smoothing) * target + smoothing / k), see Backend.softmax_cross_entropy.
DEVICE real wanted(i64 at, i64 j, i64 label, const real* target, const real* weight, real sure, real smooth) {
    const real t = target ? target[at + j] : (real)(j == label);
    const real q = t * sure + smooth;
    return weight ? q * weight[j] : q;
}

// The cost, and dz, of a row of at most KEPT numbers, by one thread that holds them in registers.
template <int KEPT>
DEVICE double cost_of_row(
    i64 row, i64 k, bool packed, const real* __restrict__ z, const i64* __restrict__ labels, const real* __restrict__ target,
    const real* __restrict__ weight, const real* __restrict__ scale, real sure, real smooth, real* __restrict__ dz
) {
    const i64 at = row * k, label = labels ? labels[row] : -1;
    const real factor = scale[row];
    real e[KEPT], q[KEPT], top = (real)-INF, total = 0, mass = 0, cost = 0;
#pragma unroll
    for (int j = 0; j < KEPT; j += LANES) {
        Pack x;
        if (packed && j < k) x = *(const Pack*)(z + at + j);
#pragma unroll
        for (int l = 0; l < LANES; ++l) e[j + l] = j + l >= k ? (real)-INF : packed ? x.v[l] : z[at + j + l];
    }
#pragma unroll
    for (int j = 0; j < KEPT; ++j) top = fmax(top, e[j]);
#pragma unroll
    for (int j = 0; j < KEPT; ++j) {
        q[j] = j < k ? wanted(at, j, label, target, weight, sure, smooth) : (real)0;
        if (q[j] != 0) cost -= q[j] * (e[j] - top);
        mass += q[j];
        e[j] = j < k ? exp(e[j] - top) : (real)0;
        total += e[j];
    }
    if (mass != 0) cost += mass * log(total);
    const real share = mass / total;
#pragma unroll
    for (int j = 0; j < KEPT; j += LANES) {
        Pack slope;
#pragma unroll
        for (int l = 0; l < LANES; ++l) slope.v[l] = (e[j + l] * share - q[j + l]) * factor;
        if (packed && j < k) *(Pack*)(dz + at + j) = slope;
        else
            for (int l = 0; l < LANES && j + l < k; ++l) dz[at + j + l] = slope.v[l];
    }
    return (double)(cost * factor);
}

// Backend.softmax_cross_entropy for labels, or for probabilities in `target`; a chunk is `size` rows.
KERNEL cross_entropy(
    i64 n, i64 k, i64 size, i64 chunks, const real* __restrict__ z, const i64* __restrict__ labels,
    const real* __restrict__ target, const real* __restrict__ weight, const real* __restrict__ scale, double sure,
    double smooth, real* __restrict__ dz, double* __restrict__ parts, real* __restrict__ loss
) {
    for (i64 chunk = blockIdx.x; chunk < chunks; chunk += gridDim.x) {
        const i64 end = (chunk + 1) * size < n ? (chunk + 1) * size : n;
        double costs = 0.0;
        if (blockDim.x == 1) {  // one thread per row
            const bool packed = k % LANES == 0 && aligned((u64)z | (u64)dz);
            for (i64 row = chunk * size + threadIdx.y; row < end; row += THREADS) {
#define COST(most) cost_of_row<most>(row, k, packed, z, labels, target, weight, scale, (real)sure, (real)smooth, dz)
                costs += k <= 4 ? COST(4) : COST(16);
#undef COST
            }
            put_sum(costs, chunk, chunks, parts, loss);
            continue;
        }
        if (k <= blockDim.x) {  // a thread holds one number of a row
            const i64 j = threadIdx.x;
            FOR_ROWS(chunk * size, end, blockDim.y) {
                const bool mine = inside && j < k;
                const i64 at = row * k, label = inside && labels ? labels[row] : -1;
                const real x = mine ? z[at + j] : (real)-INF, top = team_largest(x), e = exp(x - top);
                const real total = team_sum(e);
                const real q = mine ? wanted(at, j, label, target, weight, (real)sure, (real)smooth) : (real)0;
                const real mass = team_sum(q);
                if (!mine) continue;
                if (q != 0) costs -= (double)(q * (x - top - log(total)) * scale[row]);
                dz[at + j] = (e / total * mass - q) * scale[row];
            }
            put_sum(costs, chunk, chunks, parts, loss);
            continue;
        }
        FOR_ROWS(chunk * size, end, blockDim.y) {
            const i64 at = row * k, label = inside && labels ? labels[row] : -1;
            real top = (real)-INF, total = 0, mass = 0, cost = 0;
            FOR_COLUMNS(k) top = fmax(top, z[at + j]);
            top = team_largest(top);
            FOR_COLUMNS(k) total += exp(z[at + j] - top);
            total = team_sum(total);
            const real log_total = log(total);
            FOR_COLUMNS(k) {
                const real q = wanted(at, j, label, target, weight, (real)sure, (real)smooth);
                mass += q;
                // 0 * -inf is 0 here: an impossible class costs nothing if its target is 0
                if (q != 0) cost -= q * (z[at + j] - top - log_total);
            }
            mass = team_sum(mass);
            cost = team_sum(cost);
            if (!inside) continue;
            FOR_COLUMNS(k) {
                const real q = wanted(at, j, label, target, weight, (real)sure, (real)smooth);
                dz[at + j] = (exp(z[at + j] - top) / total * mass - q) * scale[row];
            }
            if (threadIdx.x == 0) costs += (double)(cost * scale[row]);
        }
        put_sum(costs, chunk, chunks, parts, loss);
    }
}
