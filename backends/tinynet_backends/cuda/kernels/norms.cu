// Layer norm by rows and batch norm by columns: x (n, i).
//
// Columns are summed in chunks of `size` rows by blocks of 32 x 8 threads, each a tile of 32 columns; a kernel that needs
// the sums adds the chunks' parts (chunks, i), in order and in float64.

// Backend.standardize, one team per row
KERNEL standardize(
    i64 n, i64 i, const real* __restrict__ x, const real* __restrict__ mean, const real* __restrict__ scale,
    real* __restrict__ y
) {
    FOR_ALL_ROWS(n) FOR_COLUMNS(i) y[row * i + j] = (x[row * i + j] - mean[j]) * scale[j];
}

// Backend.normalize along axis -1, one team per row
KERNEL normalize_rows(
    i64 n, i64 i, const real* __restrict__ x, const real* __restrict__ gamma, const real* __restrict__ beta, double eps,
    real* __restrict__ y, real* __restrict__ normed, real* __restrict__ rstd, real* __restrict__ mean,
    real* __restrict__ var
) {
    FOR_ALL_ROWS(n) {
        const real* from = x + row * i;
        real sum = 0, square = 0;
        FOR_COLUMNS(i) sum += from[j];
        const real middle = team_sum(sum) / (real)i;
        FOR_COLUMNS(i) square += (from[j] - middle) * (from[j] - middle);
        const real spread = team_sum(square) / (real)i, r = (real)1 / sqrt(spread + (real)eps);
        FOR_COLUMNS(i) {
            const real z = (from[j] - middle) * r;
            normed[row * i + j] = z;
            y[row * i + j] = z * gamma[j] + beta[j];
        }
        if (inside && threadIdx.x == 0) rstd[row] = r, mean[row] = middle, var[row] = spread;
    }
}

// The gradient of the input in Backend.normalize_grad along axis -1, one team per row
KERNEL normalize_rows_grad(
    i64 n, i64 i, const real* __restrict__ dy, const real* __restrict__ normed, const real* __restrict__ rstd,
    const real* __restrict__ gamma, real* __restrict__ dx
) {
    FOR_ALL_ROWS(n) {
        real plain = 0, along = 0;
        FOR_COLUMNS(i) {
            const real d = dy[row * i + j] * gamma[j];
            plain += d;
            along += d * normed[row * i + j];
        }
        plain = team_sum(plain) / (real)i;
        along = team_sum(along) / (real)i;
        FOR_COLUMNS(i) dx[row * i + j] = rstd[row] * (dy[row * i + j] * gamma[j] - plain - normed[row * i + j] * along);
    }
}

#define TILE 32
#define DEEP (THREADS / TILE)

// The sum of x over a block's threads in one column, the same bits in each of them.
DEVICE real column_sum(real x) {
    __shared__ real parts[DEEP][TILE];
    __syncthreads();  // the parts of the last sum have been read
    parts[threadIdx.y][threadIdx.x] = x;
    __syncthreads();
    x = parts[0][threadIdx.x];
    for (int y = 1; y < DEEP; ++y) x += parts[y][threadIdx.x];
    return x;
}

// A block's chunks and tiles. This thread has column j, and of its rows every eighth from `begin + threadIdx.y` to `end`;
// none if there is no such column.
#define FOR_TILES \
    const i64 tiles = (i + TILE - 1) / TILE; \
    for (i64 item = blockIdx.x; item < tiles * chunks; item += gridDim.x)
#define THIS_TILE \
    const i64 chunk = quotient(item, tiles), j = (item - chunk * tiles) * TILE + threadIdx.x, begin = chunk * size; \
    const i64 end = j >= i ? begin : begin + size < n ? begin + size : n
#define FOR_TILE_ROWS for (i64 row = begin + threadIdx.y; row < end; row += DEEP)

// For each chunk and column, the sum, and the sum of squared distances from the chunk's own mean.
KERNEL column_moments(
    i64 n, i64 i, i64 size, i64 chunks, const real* __restrict__ x, double* __restrict__ sums,
    double* __restrict__ squares
) {
    FOR_TILES {
        THIS_TILE;
        real sum = 0, square = 0;
        FOR_TILE_ROWS sum += x[row * i + j];
        sum = column_sum(sum);
        const real middle = sum / (real)(end - begin);
        FOR_TILE_ROWS square += (x[row * i + j] - middle) * (x[row * i + j] - middle);
        square = column_sum(square);
        if (threadIdx.y == 0 && j < i) sums[chunk * i + j] = sum, squares[chunk * i + j] = square;
    }
}

// Backend.normalize along axis -2, from the parts of `column_moments`. Moments are combined as in T. F. Chan, G. H. Golub,
// R. J. LeVeque (1983), Algorithms for computing the sample variance, The American Statistician 37.
KERNEL normalize_columns(
    i64 n, i64 i, i64 size, i64 chunks, const real* __restrict__ x, const real* __restrict__ gamma,
    const real* __restrict__ beta, double eps, const double* __restrict__ sums, const double* __restrict__ squares,
    real* __restrict__ y, real* __restrict__ normed, real* __restrict__ rstd, real* __restrict__ mean,
    real* __restrict__ var
) {
    FOR_TILES {
        THIS_TILE;
        if (j >= i) continue;
        double sum = 0.0, square = 0.0;
        for (i64 c = 0; c < chunks; ++c) sum += sums[c * i + j];
        const double centre = sum / (double)n;
        for (i64 c = 0; c < chunks; ++c) {
            const double rows = (double)(c + 1 < chunks ? size : n - c * size), off = sums[c * i + j] / rows - centre;
            square += squares[c * i + j] + rows * off * off;
        }
        const real middle = (real)centre, spread = (real)(square / (double)n), r = (real)1 / sqrt(spread + (real)eps);
        FOR_TILE_ROWS {
            const real z = (x[row * i + j] - middle) * r;
            normed[row * i + j] = z;
            y[row * i + j] = z * gamma[j] + beta[j];
        }
        if (chunk == 0 && threadIdx.y == 0) rstd[j] = r, mean[j] = middle, var[j] = spread;
    }
}

// For each chunk and column, the sums of dy * normed and of dy.
KERNEL column_products(
    i64 n, i64 i, i64 size, i64 chunks, const real* __restrict__ dy, const real* __restrict__ normed,
    double* __restrict__ along, double* __restrict__ plain
) {
    FOR_TILES {
        THIS_TILE;
        real a = 0, b = 0;
        FOR_TILE_ROWS {
            a += dy[row * i + j] * normed[row * i + j];
            b += dy[row * i + j];
        }
        a = column_sum(a);
        b = column_sum(b);
        if (threadIdx.y == 0 && j < i) along[chunk * i + j] = a, plain[chunk * i + j] = b;
    }
}

// dgamma and dbeta, from the parts of `column_products`
KERNEL column_totals(
    i64 i, i64 chunks, const double* __restrict__ along, const double* __restrict__ plain, real* __restrict__ dgamma,
    real* __restrict__ dbeta
) {
    for (i64 j = thread(); j < i; j += threads()) {
        double a = 0.0, b = 0.0;
        for (i64 c = 0; c < chunks; ++c) a += along[c * i + j], b += plain[c * i + j];
        dgamma[j] = (real)a;
        dbeta[j] = (real)b;
    }
}

// Backend.normalize_grad along axis -2, from the parts of `column_products`
KERNEL normalize_columns_grad(
    i64 n, i64 i, i64 size, i64 chunks, const real* __restrict__ dy, const real* __restrict__ normed,
    const real* __restrict__ rstd, const real* __restrict__ gamma, const double* __restrict__ along,
    const double* __restrict__ plain, real* __restrict__ dx, real* __restrict__ dgamma, real* __restrict__ dbeta
) {
    FOR_TILES {
        THIS_TILE;
        if (j >= i) continue;
        double a = 0.0, b = 0.0;
        for (i64 c = 0; c < chunks; ++c) a += along[c * i + j], b += plain[c * i + j];
        const real mean_a = (real)(a / (double)n), mean_b = (real)(b / (double)n), slope = rstd[j] * gamma[j];
        FOR_TILE_ROWS dx[row * i + j] = slope * (dy[row * i + j] - (mean_b + normed[row * i + j] * mean_a));
        if (chunk == 0 && threadIdx.y == 0) dgamma[j] = (real)a, dbeta[j] = (real)b;
    }
}
