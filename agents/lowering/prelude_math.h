//@ larger
// a > b ? a : b, which is one instruction; b if either is NaN.
template <class X> INLINE inline X larger(X a, X b) { return a > b ? a : b; }
template <class X> INLINE inline X smaller(X a, X b) { return a < b ? a : b; }
#if defined(__AVX512F__) && LANES == 16
INLINE inline f32v larger(f32v a, f32v b) { return __builtin_ia32_maxps512_mask(a, b, f32v{}, -1, 4); }
INLINE inline f32v smaller(f32v a, f32v b) { return __builtin_ia32_minps512_mask(a, b, f32v{}, -1, 4); }
#elif defined(__AVX__) && LANES == 8
INLINE inline f32v larger(f32v a, f32v b) { return __builtin_ia32_maxps256(a, b); }
INLINE inline f32v smaller(f32v a, f32v b) { return __builtin_ia32_minps256(a, b); }
#endif
//@ maximum
template <class X> INLINE inline X maximum(X a, X b) { return a != a ? a : larger(a, b); }  // NaN if either is
//@ minimum
template <class X> INLINE inline X minimum(X a, X b) { return a != a ? a : smaller(a, b); }
//@ fmax_
template <class X> INLINE inline X fmax_(X a, X b) { return (a > b) | (b != b) ? a : b; }  // the other if one is NaN
//@ fmin_
template <class X> INLINE inline X fmin_(X a, X b) { return (a < b) | (b != b) ? a : b; }
//@ idiv
// Division towards zero; 0 for a zero divisor, and the wrapped quotient for minimum / -1.
template <class T> INLINE inline T idiv(T a, T b) { return b == 0 ? T(0) : T(-1) < T(0) && b == T(-1) ? T(0 - (uint64_t)a) : T(a / b); }
//@ imod
template <class T> INLINE inline T imod(T a, T b) { return b == 0 || (T(-1) < T(0) && b == T(-1)) ? T(0) : T(a % b); }
//@ ifloordiv
template <class T> INLINE inline T ifloordiv(T a, T b) {
  const T m = imod(a, b);
  return T(idiv(a, b) - (m != 0 && (m < 0) != (b < 0)));
}
//@ ifloormod
template <class T> INLINE inline T ifloormod(T a, T b) {
  const T m = imod(a, b);
  return m != 0 && (m < 0) != (b < 0) ? T(m + b) : m;
}
//@ ipow
template <class T> INLINE inline T ipow(T a, T b) {
  if (b < 0) return a == 1 ? T(1) : a == T(-1) ? (b % 2 == 0 ? T(1) : T(-1)) : T(0);
  uint64_t r = 1, x = (uint64_t)a;
  for (; b; b = T(b / 2), x *= x)
    if (b % 2 != 0) r *= x;
  return (T)r;
}
//@ ishl
template <class T> INLINE inline T ishl(T a, T b) { return b < 0 || b >= T(8 * sizeof(T)) ? T(0) : T((uint64_t)a << b); }
//@ ishr
template <class T> INLINE inline T ishr(T a, T b) { return b < 0 || b >= T(8 * sizeof(T)) ? (a < 0 ? T(-1) : T(0)) : T(a >> b); }
//@ ishl_v
template <class X> INLINE inline X ishl_v(X a, X b) {
  constexpr int BITS = 8 * sizeof(a[0]);
  return (b >= 0) & (b < BITS) ? a << (b & (BITS - 1)) : X{};
}
//@ ishr_v
template <class X> INLINE inline X ishr_v(X a, X b) {
  constexpr int BITS = 8 * sizeof(a[0]);
  return (b >= 0) & (b < BITS) ? a >> (b & (BITS - 1)) : (X)(a < 0);
}
//@ truncated
// a / 2**K towards zero.
template <int K, class X> INLINE inline X truncated(X a) {
  return X((a + (a < 0 ? X{} + ((1ll << K) - 1) : X{})) >> K);
}
//@ isign
template <class T> INLINE inline T isign(T a) { return T((a > 0) - (a < 0)); }
//@ isign_v
template <class X> INLINE inline X isign_v(X a) { return (X)((a < 0) - (a > 0)); }  // true is -1 in a lane
//@ nextafter_half
// The 16-bit float after a towards b; INF is the format's bits of infinity.
template <int INF> INLINE inline uint16_t nextafter_half(uint16_t a, uint16_t b) {
  const uint16_t x = a & 0x7fff, y = b & 0x7fff;
  if (x > INF || y > INF) return 0x7fff;
  if (a == b || (x == 0 && y == 0)) return b;
  if (x == 0) return (b & 0x8000) | 1;
  const int p = a & 0x8000 ? -(int)x : x, q = b & 0x8000 ? -(int)y : y;
  return (p < q) == (p > 0) ? a + 1 : a - 1;
}
//@ per_lane
// One scalar call per lane, for functions that have no vector form here.
template <class X, class F> INLINE inline X per_lane(F f, X a) {
  for (int l = 0; l < W; l++) a[l] = f(a[l]);
  return a;
}
template <class X, class F> INLINE inline X per_lane(F f, X a, X b) {
  for (int l = 0; l < W; l++) a[l] = f(a[l], b[l]);
  return a;
}
//@ fabs_
INLINE inline float fabs_(float x) { return __builtin_fabsf(x); }
INLINE inline double fabs_(double x) { return __builtin_fabs(x); }
INLINE inline f32v fabs_(f32v x) { return bits<f32v>(bits<i32v>(x) & 0x7fffffff); }
INLINE inline f64v fabs_(f64v x) { return bits<f64v>(bits<i64v>(x) & 0x7fffffffffffffff); }
//@ copysign_
INLINE inline float copysign_(float x, float s) { return __builtin_copysignf(x, s); }
INLINE inline double copysign_(double x, double s) { return __builtin_copysign(x, s); }
INLINE inline f32v copysign_(f32v x, f32v s) { return bits<f32v>((bits<u32v>(x) & 0x7fffffffu) | (bits<u32v>(s) & 0x80000000u)); }
INLINE inline f64v copysign_(f64v x, f64v s) { return bits<f64v>((bits<u64v>(x) & 0x7fffffffffffffffull) | (bits<u64v>(s) & 0x8000000000000000ull)); }
//@ fma_
INLINE inline float fma_(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
INLINE inline double fma_(double a, double b, double c) { return __builtin_fma(a, b, c); }
INLINE inline f32v fma_(f32v a, f32v b, f32v c) {
#if defined(__AVX512F__) && LANES == 16
  return __builtin_ia32_vfmaddps512_mask(a, b, c, -1, 4);
#elif defined(__FMA__) && LANES == 8
  return __builtin_ia32_vfmaddps256(a, b, c);
#else
  for (int l = 0; l < W; l++) a[l] = __builtin_fmaf(a[l], b[l], c[l]);
  return a;
#endif
}
INLINE inline f64v fma_(f64v a, f64v b, f64v c) {
#if defined(__AVX512F__) && LANES == 8
  return __builtin_ia32_vfmaddpd512_mask(a, b, c, -1, 4);
#elif defined(__FMA__) && LANES == 4
  return __builtin_ia32_vfmaddpd256(a, b, c);
#else
  for (int l = 0; l < W; l++) a[l] = __builtin_fma(a[l], b[l], c[l]);
  return a;
#endif
}
//@ sqrt_
INLINE inline float sqrt_(float x) { return __builtin_sqrtf(x); }
INLINE inline double sqrt_(double x) { return __builtin_sqrt(x); }
INLINE inline f32v sqrt_(f32v x) {
#if defined(__AVX512F__) && LANES == 16
  return __builtin_ia32_sqrtps512_mask(x, f32v{}, -1, 4);
#elif defined(__AVX__) && LANES == 8
  return __builtin_ia32_sqrtps256(x);
#else
  for (int l = 0; l < W; l++) x[l] = __builtin_sqrtf(x[l]);
  return x;
#endif
}
INLINE inline f64v sqrt_(f64v x) {
#if defined(__AVX512F__) && LANES == 8
  return __builtin_ia32_sqrtpd512_mask(x, f64v{}, -1, 4);
#elif defined(__AVX__) && LANES == 4
  return __builtin_ia32_sqrtpd256(x);
#else
  for (int l = 0; l < W; l++) x[l] = __builtin_sqrt(x[l]);
  return x;
#endif
}
//@ rounded_to
// To an integer, the way that x86 numbers: 0 nearest, 1 down, 2 up, 3 towards zero.
#if defined(__AVX512VL__)
#define ROUND "vrndscale"
#elif defined(__AVX__) && !defined(__AVX512F__)
#define ROUND "vround"
#endif
template <int MODE, class X> INLINE inline X rounded_to(X x) {
  constexpr bool single = sizeof(x[0]) == 4;
#ifdef ROUND
  X y;
  if constexpr (single) asm(ROUND "ps %2, %1, %0" : "=v"(y) : "v"(x), "i"(MODE | 8));
  else asm(ROUND "pd %2, %1, %0" : "=v"(y) : "v"(x), "i"(MODE | 8));
  return y;
#else
  const X big = copysign_(X{} + (single ? 0x1p23f : 0x1p52f), x);
  const X near = copysign_((x + big) - big, x), far = copysign_(X{} + 1, x);
  X y = near;
  if (MODE == 3) y = fabs_(near) > fabs_(x) ? near - far : near;
  if (MODE == 1) y = near > x ? near - 1 : near;
  if (MODE == 2) y = near < x ? near + 1 : near;
  return fabs_(x) < fabs_(big) ? copysign_(y, x) : x;
#endif
}
//@ rint_
INLINE inline float rint_(float x) { return __builtin_rintf(x); }
INLINE inline double rint_(double x) { return __builtin_rint(x); }
template <class X> INLINE inline X rint_(X x) { return rounded_to<0>(x); }
//@ trunc_
INLINE inline float trunc_(float x) { return __builtin_truncf(x); }
INLINE inline double trunc_(double x) { return __builtin_trunc(x); }
template <class X> INLINE inline X trunc_(X x) { return rounded_to<3>(x); }
//@ floor_
INLINE inline float floor_(float x) { return __builtin_floorf(x); }
INLINE inline double floor_(double x) { return __builtin_floor(x); }
template <class X> INLINE inline X floor_(X x) { return rounded_to<1>(x); }
//@ ceil_
INLINE inline float ceil_(float x) { return __builtin_ceilf(x); }
INLINE inline double ceil_(double x) { return __builtin_ceil(x); }
template <class X> INLINE inline X ceil_(X x) { return rounded_to<2>(x); }
//@ fmod_
INLINE inline float fmod_(float a, float b) { return __builtin_fmodf(a, b); }
INLINE inline double fmod_(double a, double b) { return __builtin_fmod(a, b); }
// a - q * b is exact while q is; the division may only have rounded up to the next integer, which shows in the sign.
template <class X> INLINE inline X fmod_(X a, X b) {
  const X q = trunc_(a / b);
  if (__builtin_expect(any_lane(fabs_(q) > (sizeof(a[0]) == 4 ? 0x1p22f : 0x1p51f)), 0))
    return per_lane([](auto x, auto y) { return fmod_(x, y); }, a, b);
  X r = fma_(-q, b, a);
  r = (r != 0) & ((r < 0) ^ (a < 0)) ? r + copysign_(b, a) : r;
  r = fabs_(b) > (sizeof(a[0]) == 4 ? __FLT_MAX__ : __DBL_MAX__) & (q == 0) ? a : r;
  return copysign_(r, a);
}
//@ ffloormod
template <class T> INLINE inline T ffloormod(T a, T b) {
  const T m = fmod_(a, b);
  return m != 0 && (b < 0) != (m < 0) ? m + b : m;
}
//@ ffloormod_v
template <class X> INLINE inline X ffloormod_v(X a, X b) {
  const X m = fmod_(a, b);
  return (m != 0) & ((b < 0) ^ (m < 0)) ? m + b : m;
}
//@ ffloordiv
template <class T> INLINE inline T ffloordiv(T a, T b) {
  if (b == 0) return a / b;
  const T m = fmod_(a, b);
  T d = (a - m) / b;
  if (m != 0 && (b < 0) != (m < 0)) d -= 1;
  if (d == 0) return (T)__builtin_copysign(0.0, (double)(a / b));
  const T f = (T)__builtin_floor((double)d);
  return d - f > T(0.5) ? f + 1 : f;
}
//@ ffloordiv_v
template <class X> INLINE inline X ffloordiv_v(X a, X b) {
  const X m = fmod_(a, b), r = (a - m) / b;
  const X d = (m != 0) & ((b < 0) ^ (m < 0)) ? r - 1 : r;
  const X f = floor_(d), y = d - f > 0.5f ? f + 1 : f;
  return b == 0 ? a / b : d == 0 ? copysign_(X{}, a / b) : y;
}
//@ floored
// floor(a / b), or 0 where b is 0. a + 1/2 is at least 1/2 away from a multiple of b, and no rounding crosses that.
template <class X> INLINE inline X floored(X a, X b) {
  constexpr int E = sizeof(a[0]), N = sizeof(a) / E;
  typedef typename Lanes<typename Held<E>::type, N>::type F;
  const F x = cvt<F>(a), y = cvt<F>(b);
  const F q = floor_(((y < 0 ? -x : x) + 0.5f) * (1 / fabs_(y)));
  return b == 0 ? X{} : cvt<X>(q);
}
//@ far_apart
// Whether floating point is too short for one of them.
template <class X> INLINE inline bool far_apart(X a, X b) {
  if constexpr (sizeof(a[0]) < 8) return false;
  else return __builtin_expect(any_lane((((a >> 50) ^ (a >> 63)) | ((b >> 50) ^ (b >> 63))) != 0), 0);
}
//@ ifloordiv_v
template <class X> INLINE inline X ifloordiv_v(X a, X b) {
  typedef __typeof__(a[0]) T;
  return far_apart(a, b) ? per_lane(ifloordiv<T>, a, b) : floored(a, b);
}
//@ ifloormod_v
template <class X> INLINE inline X ifloormod_v(X a, X b) {
  typedef __typeof__(a[0]) T;
  return far_apart(a, b) ? per_lane(ifloormod<T>, a, b) : b == 0 ? X{} : a - floored(a, b) * b;
}
//@ idiv_v
template <class X> INLINE inline X idiv_v(X a, X b) {
  typedef __typeof__(a[0]) T;
  if (far_apart(a, b)) return per_lane(idiv<T>, a, b);
  const X q = floored(a, b);
  return b == 0 ? X{} : (a - q * b != 0) & ((a < 0) ^ (b < 0)) ? q + 1 : q;
}
//@ imod_v
template <class X> INLINE inline X imod_v(X a, X b) {
  typedef __typeof__(a[0]) T;
  if (far_apart(a, b)) return per_lane(imod<T>, a, b);
  const X m = a - floored(a, b) * b;
  return b == 0 ? X{} : (m != 0) & ((a < 0) ^ (b < 0)) ? m - b : m;
}
//@ scale2
// p * 2**n for |n| < 300, right down to denormals.
INLINE inline f32v scale2(f32v p, i32v n) {
  const i32v a = n >> 1, b = n - a;
  return (p * bits<f32v>((a + 127) << 23)) * bits<f32v>((b + 127) << 23);
}
INLINE inline f64v scale2(f64v p, i64v n) {
  const i64v a = n >> 1, b = n - a;
  return (p * bits<f64v>((a + 1023) << 52)) * bits<f64v>((b + 1023) << 52);
}
//@ nearest
// n = x rounded to an integer (|x| < 2**22), as float and as int.
struct Nearest32 { f32v f; i32v i; };
INLINE inline Nearest32 nearest(f32v x) {
  const f32v t = x + 0x1.8p23f;
  return {t - 0x1.8p23f, bits<i32v>(t) - 0x4b400000};
}
struct Nearest64 { f64v f; i64v i; };
INLINE inline Nearest64 nearest(f64v x) {
  const f64v t = x + 0x1.8p52;
  return {t - 0x1.8p52, bits<i64v>(t) - 0x4338000000000000};
}
//@ times_2_to
// p * 2**n for an integral n, |n| < 300, right down to denormals.
INLINE inline f32v times_2_to(f32v p, Nearest32 n) {
#if defined(__AVX512F__) && LANES == 16
  return __builtin_ia32_scalefps512_mask(p, n.f, f32v{}, -1, 4);
#elif defined(__AVX512VL__) && LANES == 8
  return __builtin_ia32_scalefps256_mask(p, n.f, f32v{}, -1);
#else
  return scale2(p, n.i);
#endif
}
INLINE inline f64v times_2_to(f64v p, Nearest64 n) {
#if defined(__AVX512F__) && LANES == 8
  return __builtin_ia32_scalefpd512_mask(p, n.f, f64v{}, -1, 4);
#else
  return scale2(p, n.i);
#endif
}
//@ exp_in_range
// e**x for -104 <= x <= 89 (and NaN).
INLINE inline f32v exp_in_range(f32v x) {
  const Nearest32 n = nearest(x * 0x1.715476p+0f);
  f32v r = fma_(n.f, splat(-0x1.62e400p-1f), x);
  r = fma_(n.f, splat(-0x1.7f7d1cp-20f), r);
  f32v p = fma_(splat(0x1.6850e4p-10f), r, splat(0x1.123bccp-7f));
  p = fma_(p, r, splat(0x1.555b98p-5f));
  p = fma_(p, r, splat(0x1.55548ep-3f));
  p = fma_(p, r, splat(0x1.fffff8p-2f));
  return times_2_to(fma_(p * r, r, r) + 1, n);
}
//@ exp_
INLINE inline f32v exp_(f32v x) { return exp_in_range(smaller(splat(89.0f), larger(splat(-104.0f), x))); }
INLINE inline f64v exp_(f64v x) {
  const f64v c = smaller(splat(710.0), larger(splat(-746.0), x));
  const Nearest64 n = nearest(c * 0x1.71547652b82fep+0);
  f64v r = fma_(n.f, splat(-0x1.62e42fefa3800p-1), c);
  r = fma_(n.f, splat(-0x1.ef35793c76730p-45), r);
  f64v p = splat(1.0 / 6227020800);
  const double k[] = {1.0 / 479001600, 1.0 / 39916800, 1.0 / 3628800, 1.0 / 362880, 1.0 / 40320, 1.0 / 5040, 1.0 / 720, 1.0 / 120, 1.0 / 24, 1.0 / 6, 0.5};
  for (int i = 0; i < 11; i++) p = fma_(p, r, splat(k[i]));
  return times_2_to(fma_(p * r, r, r) + 1, n);
}
INLINE inline float exp_(float x) { return __builtin_expf(x); }
INLINE inline double exp_(double x) { return __builtin_exp(x); }
//@ expm1_
INLINE inline f32v expm1_(f32v x) {
  const f32v c = smaller(splat(89.0f), larger(splat(-30.0f), x));
  const Nearest32 n = nearest(c * 0x1.715476p+0f);
  f32v r = fma_(n.f, splat(-0x1.62e400p-1f), c);
  r = fma_(n.f, splat(-0x1.7f7d1cp-20f), r);
  f32v p = fma_(splat(0x1.a01a02p-13f), r, splat(0x1.6c16c2p-10f));
  p = fma_(p, r, splat(0x1.111112p-7f));
  p = fma_(p, r, splat(0x1.555556p-5f));
  p = fma_(p, r, splat(0x1.555556p-3f));
  p = fma_(p, r, splat(0.5f));
  p = fma_(p * r, r, r);
  const i32v a = n.i >> 1;
  const f32v s = bits<f32v>((a + 127) << 23), t = bits<f32v>((n.i - a + 127) << 23);
  const f32v y = fma_(p, s, s - bits<f32v>((127 - (n.i - a)) << 23)) * t;
  return x == 0 ? x : y;
}
INLINE inline f64v expm1_(f64v x) { return per_lane([](double v) { return __builtin_expm1(v); }, x); }
INLINE inline float expm1_(float x) { return __builtin_expm1f(x); }
INLINE inline double expm1_(double x) { return __builtin_expm1(x); }
//@ exp2_
INLINE inline f32v exp2_(f32v x) {
  const f32v c = smaller(splat(129.0f), larger(splat(-150.0f), x));
  const Nearest32 n = nearest(c);
  const f32v r = c - n.f;
  f32v p = fma_(splat(0x1.ffcbfcp-17f), r, splat(0x1.43091cp-13f));
  p = fma_(p, r, splat(0x1.5d87fep-10f));
  p = fma_(p, r, splat(0x1.3b2ab6p-7f));
  p = fma_(p, r, splat(0x1.c6b08ep-5f));
  p = fma_(p, r, splat(0x1.ebfbe0p-3f));
  p = fma_(p, r, splat(0x1.62e430p-1f));
  return times_2_to(fma_(p, r, splat(1.0f)), n);
}
INLINE inline f64v exp2_(f64v x) { return per_lane([](double v) { return __builtin_exp2(v); }, x); }
INLINE inline float exp2_(float x) { return __builtin_exp2f(x); }
INLINE inline double exp2_(double x) { return __builtin_exp2(x); }
//@ log_parts
// x = 2**e * (1 + f) with sqrt(1/2) <= 1 + f < sqrt(2), and the polynomial's part of log(1 + f) = f - f*f/2 + tail.
struct LogParts { f32v e, f, tail; };
INLINE inline LogParts log_parts(f32v x) {
  const i32v tiny = x < 0x1p-126f;
  const f32v y = tiny ? x * 0x1p25f : x;
  const i32v k = bits<i32v>(y) - 0x3f3504f3;
  const f32v e = cvt<f32v>((k >> 23) - (tiny & 25));
  const f32v f = bits<f32v>((k & 0x7fffff) + 0x3f3504f3) - 1;
  f32v p = fma_(splat(7.0376836292e-2f), f, splat(-1.1514610310e-1f));
  p = fma_(p, f, splat(1.1676998740e-1f));
  p = fma_(p, f, splat(-1.2420140846e-1f));
  p = fma_(p, f, splat(1.4249322787e-1f));
  p = fma_(p, f, splat(-1.6668057665e-1f));
  p = fma_(p, f, splat(2.0000714765e-1f));
  p = fma_(p, f, splat(-2.4999993993e-1f));
  p = fma_(p, f, splat(3.3333331174e-1f));
  return {e, f, p * f * (f * f)};
}
INLINE inline f32v log_edges(f32v x, f32v y) {
  y = x == __builtin_inff() ? x : y;
  y = x == 0 ? splat(-__builtin_inff()) : y;
  return x < 0 ? splat(__builtin_nanf("")) : x != x ? x : y;
}
//@ log_
INLINE inline f32v log_(f32v x) {
  const LogParts l = log_parts(x);
  f32v t = fma_(l.e, splat(-2.12194440e-4f), l.tail);
  t = fma_(l.f * l.f, splat(-0.5f), t);
  return log_edges(x, fma_(l.e, splat(0.693359375f), l.f + t));
}
INLINE inline f64v log_(f64v x) {
  const i64v tiny = x < 0x1p-1022;
  const f64v y = tiny ? x * 0x1p54 : x;
  const i64v k = bits<i64v>(y) - 0x3fe6a09e667f3bcd;
  const f64v e = cvt<f64v>((k >> 52) - (tiny & 54));
  const f64v f = bits<f64v>((k & 0xfffffffffffff) + 0x3fe6a09e667f3bcd) - 1;
  const f64v s = f / (2 + f), z = s * s, hfsq = 0.5 * f * f;  // as in fdlibm's log
  f64v p = fma_(splat(1.479819860511658591e-01), z, splat(1.531383769920937332e-01));
  p = fma_(p, z, splat(1.818357216161805012e-01));
  p = fma_(p, z, splat(2.222219843214978396e-01));
  p = fma_(p, z, splat(2.857142874366239149e-01));
  p = fma_(p, z, splat(3.999999999940941908e-01));
  p = fma_(p, z, splat(6.666666666666735130e-01)) * z;
  f64v r = e * 6.93147180369123816490e-01 - ((hfsq - fma_(s, hfsq + p, e * 1.90821492927058770002e-10)) - f);
  r = x == __builtin_inf() ? x : r;
  r = x == 0 ? splat(-__builtin_inf()) : r;
  return x < 0 ? splat(__builtin_nan("")) : x != x ? x : r;
}
INLINE inline float log_(float x) { return __builtin_logf(x); }
INLINE inline double log_(double x) { return __builtin_log(x); }
//@ log2_
INLINE inline f32v log2_(f32v x) {
  const LogParts l = log_parts(x);
  const f32v h = l.f * l.f * -0.5f, hi = bits<f32v>(bits<i32v>(l.f + h) & ~0xfff), lo = (l.f - hi) + h + l.tail;
  const f32v t = fma_(lo, splat(1.44269504f), hi * 1.92596299e-8f);
  return log_edges(x, l.e + fma_(hi, splat(1.44269502f), t));
}
INLINE inline f64v log2_(f64v x) { return per_lane([](double v) { return __builtin_log2(v); }, x); }
INLINE inline float log2_(float x) { return __builtin_log2f(x); }
INLINE inline double log2_(double x) { return __builtin_log2(x); }
//@ log10_
INLINE inline f32v log10_(f32v x) {  // as in FreeBSD's e_log10f.c
  const LogParts l = log_parts(x);
  const f32v h = l.f * l.f * -0.5f, hi = bits<f32v>(bits<i32v>(l.f + h) & ~0xfff), lo = (l.f - hi) + h + l.tail;
  f32v t = fma_(l.e, splat(7.9034151668e-07f), (lo + hi) * -3.1689971365e-05f);
  t = fma_(hi, splat(4.3432617188e-01f), fma_(lo, splat(4.3432617188e-01f), t));
  return log_edges(x, fma_(l.e, splat(3.0102920532e-01f), t));
}
INLINE inline f64v log10_(f64v x) { return per_lane([](double v) { return __builtin_log10(v); }, x); }
INLINE inline float log10_(float x) { return __builtin_log10f(x); }
INLINE inline double log10_(double x) { return __builtin_log10(x); }
//@ log1p_
INLINE inline f32v log1p_(f32v x) {
  const f32v u = x + 1, lost = u - 1;
  const f32v err = fabs_(x) > 1 ? 1 - (u - x) : x - lost;  // u + err = 1 + x
  const f32v y = log_(u);
  const f32v r = fabs_(x) < 0x1p-12f ? fma_(x * x, splat(-0.5f), x) : y + err / u;
  return (x == __builtin_inff()) | (u == 0) | (x == 0) ? (x == 0 ? x : y) : r;
}
INLINE inline f64v log1p_(f64v x) { return per_lane([](double v) { return __builtin_log1p(v); }, x); }
INLINE inline float log1p_(float x) { return __builtin_log1pf(x); }
INLINE inline double log1p_(double x) { return __builtin_log1p(x); }
//@ sigmoid_
template <class X> INLINE inline X sigmoid_(X x) { return 1 / (1 + exp_(-x)); }
//@ tanh_
INLINE inline f32v tanh_(f32v x) {
  const f32v a = fabs_(x), z = x * x;
  f32v p = fma_(splat(-5.70498872745e-3f), z, splat(2.06390887954e-2f));
  p = fma_(p, z, splat(-5.37397155531e-2f));
  p = fma_(p, z, splat(1.33314422036e-1f));
  p = fma_(p, z, splat(-3.33332819422e-1f));
  const f32v small = fma_(p * z, x, x);
  const f32v large = copysign_(1 - 2 / (exp_(a + a) + 1), x);
  return a < 0.625f ? small : x != x ? x : large;
}
INLINE inline f64v tanh_(f64v x) {
  const f64v a = fabs_(x), z = x * x;  // as in cephes' tanh
  const f64v p = ((-9.64399179425052238628e-1 * z - 9.92877231001918586564e1) * z - 1.61468768441708447952e3) * z;
  const f64v q = ((z + 1.12811678491632931402e2) * z + 2.23548839060100448583e3) * z + 4.84406305325125486048e3;
  const f64v small = fma_(p / q, x, x);
  const f64v large = copysign_(1 - 2 / (exp_(a + a) + 1), x);
  return a < 0.625 ? small : x != x ? x : large;
}
INLINE inline float tanh_(float x) { return __builtin_tanhf(x); }
INLINE inline double tanh_(double x) { return __builtin_tanh(x); }
//@ erf_
// |x| <= 0.9277: x + x * p(x * x). Beyond: 1 - 2**(t * p(t)) with t = |x|. One polynomial serves both, by its coefficients.
INLINE inline f32v erf_(f32v x) {
  const f32v a = fabs_(x), t = smaller(splat(4.0f), a);
  const i32v small = a <= 0.927734375f;
  const f32v v = small ? x * x : t;
  f32v p = small ? splat(-5.96761703e-4f) : fma_(splat(-0x1.a261aep-16f), t, splat(0x1.21d878p-11f));
  p = fma_(p, v, small ? splat(4.99119423e-3f) : splat(-0x1.6f390ep-8f));
  p = fma_(p, v, small ? splat(-2.67681349e-2f) : splat(0x1.1ea798p-5f));
  p = fma_(p, v, small ? splat(1.12819925e-1f) : splat(-0x1.3b7d78p-3f));
  p = fma_(p, v, small ? splat(-3.76125336e-1f) : splat(-0x1.d4ef8ep-1f));
  p = fma_(p, v, small ? splat(1.28379166e-1f) : splat(-0x1.a0de82p+0f));
  const f32v e = p * t;
  const Nearest32 n = nearest(e);
  const f32v r = e - n.f;
  f32v q = fma_(splat(0x1.5bba16p-10f), r, splat(0x1.3cea88p-7f));
  q = fma_(q, r, splat(0x1.c6b752p-5f));
  q = fma_(q, r, splat(0x1.ebf9bcp-3f));
  q = fma_(q, r, splat(0x1.62e42ap-1f));
  const f32v y = 1 - times_2_to(fma_(q, r, splat(1.0f)), n);
  return small ? fma_(p, x, x) : bits<f32v>(bits<i32v>(y) | (bits<i32v>(x) & (int32_t)0x80000000));
}
INLINE inline f64v erf_(f64v x) { return per_lane([](double v) { return __builtin_erf(v); }, x); }
INLINE inline float erf_(float x) { return __builtin_erff(x); }
INLINE inline double erf_(double x) { return __builtin_erf(x); }
//@ sincos_parts
// sin and cos of |x| < 30000: x = n * pi/2 + r.
struct SinCos { f32v s, c; i32v n; };
INLINE inline SinCos sincos_parts(f32v x) {
  const Nearest32 n = nearest(x * 0x1.45f306p-1f);
  f32v r = fma_(n.f, splat(-0x1.921fb0p+0f), x);
  r = fma_(n.f, splat(-0x1.5110b4p-22f), r);
  r = fma_(n.f, splat(-0x1.846988p-48f), r);
  const f32v z = r * r;
  f32v s = fma_(splat(2.86567956e-6f), z, splat(-1.98559923e-4f));
  s = fma_(s, z, splat(8.33338592e-3f));
  s = fma_(s, z, splat(-1.66666672e-1f));
  f32v c = fma_(splat(2.44677067e-5f), z, splat(-1.38877297e-3f));
  c = fma_(c, z, splat(4.16666567e-2f));
  c = fma_(c, z, splat(-0.5f));
  return {fma_(s * z, r, r), fma_(c, z, splat(1.0f)), n.i};
}
INLINE inline bool any_beyond(f32v x, float limit) { return any_lane(~(fabs_(x) < limit)); }
//@ sin_
INLINE inline f32v sin_(f32v x) {
  if (__builtin_expect(any_beyond(x, 30000), 0)) return per_lane([](float v) { return __builtin_sinf(v); }, x);
  const SinCos p = sincos_parts(x);
  const f32v y = (p.n & 1) != 0 ? p.c : p.s;
  const f32v z = bits<f32v>(bits<i32v>(y) ^ ((p.n & 2) << 30));
  return x == 0 ? x : z;
}
INLINE inline f64v sin_(f64v x) { return per_lane([](double v) { return __builtin_sin(v); }, x); }
INLINE inline float sin_(float x) { return __builtin_sinf(x); }
INLINE inline double sin_(double x) { return __builtin_sin(x); }
//@ cos_
INLINE inline f32v cos_(f32v x) {
  if (__builtin_expect(any_beyond(x, 30000), 0)) return per_lane([](float v) { return __builtin_cosf(v); }, x);
  const SinCos p = sincos_parts(x);
  const f32v y = (p.n & 1) != 0 ? p.s : p.c;
  return bits<f32v>(bits<i32v>(y) ^ (((p.n + 1) & 2) << 30));
}
INLINE inline f64v cos_(f64v x) { return per_lane([](double v) { return __builtin_cos(v); }, x); }
INLINE inline float cos_(float x) { return __builtin_cosf(x); }
INLINE inline double cos_(double x) { return __builtin_cos(x); }
//@ pow_
INLINE inline f32v pow_(f32v x, f32v y) { return per_lane([](float a, float b) { return __builtin_powf(a, b); }, x, y); }
INLINE inline f64v pow_(f64v x, f64v y) { return per_lane([](double a, double b) { return __builtin_pow(a, b); }, x, y); }
INLINE inline float pow_(float x, float y) { return __builtin_powf(x, y); }
INLINE inline double pow_(double x, double y) { return __builtin_pow(x, y); }
//@ scan_lanes
// Inclusive scan across the lanes of one vector, in log2(W) steps.
template <class X, class F> INLINE inline X scan_lanes(X v, F f) {
  typedef typename Sized<sizeof(v[0])>::type I;
  const V<I> lane = iota<I>();
#pragma GCC unroll 8
  for (int h = 1; h < W; h *= 2) {
    const V<I> from = lane < I(h) ? lane : lane - I(h);
    v = lane < I(h) ? v : f(__builtin_shuffle(v, from), v);
  }
  return v;
}
//@ swapped
// Each lane gets the one H lanes away.
namespace {
template <int H> struct Swapped { static constexpr int at(int l) { return l ^ H; } };
}  // namespace
template <int H, class X> INLINE inline X swapped(X v) {
  return __builtin_shuffle(v, lane_table<typename Sized<sizeof(v[0])>::type, Swapped<H>>());
}
//@ across
// Combines the lanes of one vector, by halves.
template <class X, class F> INLINE inline auto across(X v, F f) {
  if constexpr (W > 32) v = f(v, swapped<32>(v));
  if constexpr (W > 16) v = f(v, swapped<16>(v));
  if constexpr (W > 8) v = f(v, swapped<8>(v));
  if constexpr (W > 4) v = f(v, swapped<4>(v));
  v = f(v, swapped<2>(v));
  return f(v, swapped<1>(v))[0] + 0;
}
//@ arg_step
// Takes v (found at `here`) where it beats `best`: larger (SIGN > 0) or smaller, or the first NaN.
template <int SIGN, class X> INLINE inline auto beats(X v, X best) { return (SIGN > 0 ? ~(v <= best) : ~(v >= best)) & (best == best); }
template <int SIGN, class X, class A, class H> INLINE inline void arg_step(X& best, A& at, X v, H here) {
  const auto take = beats<SIGN>(v, best);
  best = take ? v : best;
  at = cvt<A>(take) ? A{} + here : at;
}
//@ arg_scalar
template <int SIGN, class T> INLINE inline void arg_scalar(T& best, int64_t& at, T v, int64_t here) {
  if (!(SIGN > 0 ? v <= best : v >= best) && best == best) best = v, at = here;
}
//@ arg_across
// Of U vectors of candidates, at < 0 where nothing beat the least: the best one, and the place of the first of equals.
template <class T> struct Found { T value; int64_t at; };
template <int SIGN, class X, class A> INLINE inline void arg_merge(X& best, A& at, X v, A here) {
  const A ties = (v == best) | ((v != v) & (best != best));
  const A take = beats<SIGN>(v, best) | (ties & (here < at));
  best = take ? v : best;
  at = take ? here : at;
}
template <int SIGN, int U, class X, class A> INLINE inline auto arg_across(const X (&best)[U], const A (&at)[U]) {
  typedef __typeof__(at[0][0]) I;
  constexpr I nowhere = I(-1) ^ (I(1) << (8 * sizeof(I) - 1));
  X top = best[0];
  A where = at[0] < 0 ? splat(nowhere) : at[0] + iota<I>();
  for (int u = 1; u < U; u++) arg_merge<SIGN>(top, where, best[u], at[u] < 0 ? splat(nowhere) : at[u] + iota<I>());
#define MOVE(H) if constexpr (W > H) arg_merge<SIGN>(top, where, swapped<H>(top), swapped<H>(where));
  MOVE(32) MOVE(16) MOVE(8) MOVE(4) MOVE(2) MOVE(1)
#undef MOVE
  return Found<__typeof__(top[0])>{top[0], where[0] == nowhere ? 0 : where[0]};
}
