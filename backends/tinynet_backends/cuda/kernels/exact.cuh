// The functions of exact.py for single numbers, with the same bits: + - * / sqrt round as on the host (--fmad=false).
// lines, sines, cosines and angles are the tables of exact.py.

struct Near { i64 k; double s, c; };

// The nearest point of the circle, and sine and cosine of the remaining angle.
DEVICE Near near_point(double turns) {
    const double point = rint(turns * POINTS), t = turns - point * (1.0 / POINTS), square = t * t;
    return {(i64)point & (POINTS - 1), t * (SINE0 * square + SINE1), (COSINE0 * square + COSINE1) * square + COSINE2};
}

DEVICE double sine(double turns, const double* sines, const double* cosines) {
    const Near n = near_point(turns);
    return sines[n.k] * n.c + cosines[n.k] * n.s;
}

DEVICE double cosine(double turns, const double* sines, const double* cosines) {
    const Near n = near_point(turns);
    return cosines[n.k] * n.c - sines[n.k] * n.s;
}

DEVICE double arctan(double y, double x, const double* angles) {
    const double a = fabs(y), t = (a < x ? a : x) / (a < x ? x : a), k = rint(t * NODES), node = k * (1.0 / NODES);
    const double u = (t - node) / (1.0 + t * node);
    double angle = angles[(i64)k] + (u - u * u * u * (1.0 / 3.0));
    if (a > x) angle = QUARTER - angle;
    return copysign(angle, y);
}

// For normal positive numbers: the exponent is read off the bits.
DEVICE double logarithm(double x) {
    const u64 bits = (u64)__double_as_longlong(x);
    double exponent = (double)((i64)(bits >> 52) - 1023);
    double m = __longlong_as_double((i64)((bits & 0xFFFFFFFFFFFFFull) | 1023ull << 52));
    if (m >= 1.4142135623730951) m *= 0.5, exponent += 1.0;
    const double s = (m - 1.0) / (m + 1.0), square = s * s;
    const double c[] = SERIES;
    double p = c[0];
#pragma unroll
    for (int n = 1; n < (int)(sizeof(c) / sizeof(double)); ++n) p = p * square + c[n];
    return exponent * LOG2_HIGH + (exponent * LOG2_LOW + (2.0 * s + s * square * p));
}

// As in Python: the remainder has the sign of the divisor.
DEVICE i64 remainder_of(i64 a, i64 b) { const i64 r = a % b; return r && (r < 0) != (b < 0) ? r + b : r; }
DEVICE u64 remainder_of(u64 a, u64 b) { return a % b; }
DEVICE double remainder_of(double a, double b) {
    const double r = fmod(a, b);  // exact
    return r == 0 ? copysign(r, b) : (r < 0) != (b < 0) ? r + b : r;
}

DEVICE i64 magnitude(i64 x) { return x < 0 ? -x : x; }
DEVICE u64 magnitude(u64 x) { return x; }
DEVICE double magnitude(double x) { return fabs(x); }

#define EACH 32  // features that a thread makes at a time, a multiple of LANES

// Store the next LANES features of a row of which `left` remain.
DEVICE void put_features(real* to, i64 left, const Pack& pack) {
    if (left >= LANES && aligned((u64)to)) *(Pack*)to = pack;
    else
#pragma unroll
        for (int l = 0; l < LANES; ++l)
            if (l < left) to[l] = pack.v[l];
}
