//@ core
#include <cstdint>
#define DEVICE __device__ __forceinline__
template <class T> DEVICE constexpr T min2(T a, T b) { return a < b ? a : b; }
template <class T> DEVICE constexpr T max2(T a, T b) { return a > b ? a : b; }
//@ floordiv_index
DEVICE int64_t floordiv_index(int64_t a, int64_t b) { return a / b - ((a % b != 0) & ((a < 0) != (b < 0))); }
//@ mod_index
DEVICE int64_t mod_index(int64_t a, int64_t b) {
  const int64_t m = a % b;
  return m + ((m != 0) & ((m < 0) != (b < 0)) ? b : 0);
}
//@ bits
template <class To, class From> DEVICE To bits(From x) {
  static_assert(sizeof(To) == sizeof(From), "bits");
  To y;
  memcpy(&y, &x, sizeof(To));
  return y;
}
//@ inside
DEVICE bool inside(int64_t at, int64_t size) { return (uint64_t)at < (uint64_t)size; }
//@ checked
// A position that the caller must keep in bounds: the launch fails where it is not.
DEVICE int64_t checked(int64_t at, int64_t size) {
  if ((uint64_t)at >= (uint64_t)size) __trap();
  return at;
}
//@ float_to_int
// Towards zero; narrow types through int32, so that they wrap. What does not fit becomes the least integer.
template <class To, class From> DEVICE To float_to_int(From x) {
  if constexpr (sizeof(To) == 8) return x >= From(-0x1p63) && x < From(0x1p63) ? (To)x : (To)(-0x7fffffffffffffffLL - 1);
  else return x > From(-2147483649.0) && x >= From(-0x1p31) - From(0.5) && x < From(0x1p31) ? (To)(int32_t)x : (To)(-0x7fffffff - 1);
}
//@ from_bf16
DEVICE float from_bf16(uint16_t x) { return bits<float>((uint32_t)x << 16); }
//@ round_bf16
// To the nearest value that bf16 has, ties to even, kept as float.
DEVICE float round_bf16(float x) {
  const uint32_t b = bits<uint32_t>(x);
  return x != x ? bits<float>(0x7fc00000u) : bits<float>((b + 0x7fff + ((b >> 16) & 1)) & 0xffff0000u);
}
//@ to_bf16
// Of a value that bf16 has.
DEVICE uint16_t to_bf16(float x) { return bits<uint32_t>(x) >> 16; }
//@ narrow_bf16
DEVICE uint16_t narrow_bf16(float x) { return to_bf16(round_bf16(x)); }
//@ from_f16
DEVICE float from_f16(uint16_t h) {
#ifdef __CUDA_ARCH__
  float y;
  asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(h));
  return y;
#else
  const uint32_t s = (uint32_t)(h & 0x8000) << 16, m = h & 0x7fff;
  if (m >= 0x7c00) return bits<float>(s | 0x7f800000u | (m & 0x3ff) << 13 | ((m & 0x3ff) ? 0x400000u : 0));
  if (m >= 0x400) return bits<float>(s | ((m << 13) + (112u << 23)));
  return bits<float>(s | bits<uint32_t>((float)m * 0x1p-24f));
#endif
}
//@ to_f16
DEVICE uint16_t to_f16(float x) {
#ifdef __CUDA_ARCH__
  uint16_t h;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(h) : "f"(x));
  return h;
#else
  const uint32_t b = bits<uint32_t>(x), s = b >> 16 & 0x8000, m = b & 0x7fffffff;
  if (m > 0x7f800000) return s | 0x7e00;
  if (m >= 0x47800000) return s | 0x7c00;
  if (m < 0x38800000) return s | (bits<uint32_t>(bits<float>(m) + 0.5f) - 0x3f000000u);
  return s | ((m + 0xfff + (m >> 13 & 1) - (112u << 23)) >> 13);
#endif
}
//@ narrow_f16
DEVICE uint16_t narrow_f16(float x) { return to_f16(x); }
//@ round_f16
// To the nearest value that f16 has, ties to even, kept as float.
DEVICE float round_f16(float x) { return from_f16(to_f16(x)); }
//@ round_tf32
// To TF32's 10 bits of fraction, ties away from zero, as the matrix units do.
DEVICE float round_tf32(float x) {
  return isfinite(x) ? bits<float>((bits<uint32_t>(x) + 0x1000u) & 0xffffe000u) : x;
}
//@ shuffle_xor
template <class T> DEVICE T shuffle_xor(T x, int by) {
  if constexpr (sizeof(T) < 4) return (T)__shfl_xor_sync(0xffffffffu, (int)x, by);
  else return __shfl_xor_sync(0xffffffffu, x, by);
}
//@ shuffle_up
template <class T> DEVICE T shuffle_up(T x, int by, int width) {
  if constexpr (sizeof(T) < 4) return (T)__shfl_up_sync(0xffffffffu, (int)x, by, width);
  else return __shfl_up_sync(0xffffffffu, x, by, width);
}
//@ shuffle
template <class T> DEVICE T shuffle(T x, int from, int width) {
  if constexpr (sizeof(T) < 4) return (T)__shfl_sync(0xffffffffu, (int)x, from, width);
  else return __shfl_sync(0xffffffffu, x, from, width);
}
//@ scan_rows
// Inclusive scans of rows of W elements in shared memory, `inner` apart; a row is a warp's work, or part of a warp's.
// Between the pieces of a row the last sum is carried.
template <int W, class T, class F> DEVICE void scan_rows(T* data, int rows, int inner, T neutral, F join) {
  constexpr int PIECE = W < 32 ? W : 32, AT_ONCE = 32 / PIECE;
  const int lane = threadIdx.x % PIECE, own = threadIdx.x % 32 / PIECE;
  for (int first = threadIdx.x / 32 * AT_ONCE; first < rows; first += blockDim.x / 32 * AT_ONCE) {
    const int row = first + own;
    T* const p = data + (row / inner * W * inner + row % inner);
    T carry = neutral;
    for (int begin = 0; begin < W; begin += PIECE) {
      T x = row < rows ? p[(begin + lane) * inner] : neutral;
      for (int by = 1; by < PIECE; by *= 2) {
        const T before = shuffle_up(x, by, PIECE);
        if (lane >= by) x = join(before, x);
      }
      x = join(carry, x);
      if (row < rows) p[(begin + lane) * inner] = x;
      carry = shuffle(x, PIECE - 1, PIECE);
    }
  }
}
//@ arg_max
// The better of two extremes with their places: NaN first, then the larger, then the earlier. A place below 0: none.
template <class T> DEVICE void arg_max(T& best, int64_t& at, T x, int64_t i) {
  const bool nan = x != x, best_nan = best != best;
  const bool same = nan == best_nan && (nan || x == best);
  if (i >= 0 && (at < 0 || (same ? i < at : nan || (!best_nan && x > best)))) best = x, at = i;
}
//@ arg_min
template <class T> DEVICE void arg_min(T& best, int64_t& at, T x, int64_t i) {
  const bool nan = x != x, best_nan = best != best;
  const bool same = nan == best_nan && (nan || x == best);
  if (i >= 0 && (at < 0 || (same ? i < at : nan || (!best_nan && x < best)))) best = x, at = i;
}
//@ idiv
template <class T> DEVICE T idiv(T a, T b) { return b == T(-1) && T(-1) < 0 ? T(0 - (uint64_t)a) : T(a / b); }
//@ imod
template <class T> DEVICE T imod(T a, T b) { return b == T(-1) && T(-1) < 0 ? T(0) : T(a % b); }
//@ ifloordiv
template <class T> DEVICE T ifloordiv(T a, T b) {
  const T m = imod(a, b);
  return T(idiv(a, b) - (m != 0 && (m < 0) != (b < 0)));
}
//@ ifloormod
template <class T> DEVICE T ifloormod(T a, T b) {
  const T m = imod(a, b);
  return m != 0 && (m < 0) != (b < 0) ? T(m + b) : m;
}
//@ ipow
template <class T> DEVICE T ipow(T a, T b) {
  if (b < 0) return a == 1 ? T(1) : a == T(-1) ? (b % 2 == 0 ? T(1) : T(-1)) : T(0);
  uint64_t r = 1, x = (uint64_t)a;
  for (; b; b = T(b / 2), x *= x)
    if (b % 2 != 0) r *= x;
  return (T)r;
}
//@ ishl
template <class T> DEVICE T ishl(T a, T b) { return b < 0 || b >= T(8 * sizeof(T)) ? T(0) : T((uint64_t)a << b); }
//@ ishr
template <class T> DEVICE T ishr(T a, T b) {
  return b < 0 || b >= T(8 * sizeof(T)) ? (a < 0 ? T(-1) : T(0)) : T(a >> b);
}
//@ truncated
// a / 2**K towards zero.
template <int K, class T> DEVICE T truncated(T a) { return T((a + (a < 0 ? T((1ll << K) - 1) : T(0))) >> K); }
//@ isign
template <class T> DEVICE T isign(T a) { return T((a > 0) - (a < 0)); }
//@ nextafter_half
// The 16-bit float after a towards b; INF is the format's bits of infinity.
template <int INF> DEVICE uint16_t nextafter_half(uint16_t a, uint16_t b) {
  const uint16_t x = a & 0x7fff, y = b & 0x7fff;
  if (x > INF || y > INF) return 0x7fff;
  if (a == b || (x == 0 && y == 0)) return b;
  if (x == 0) return (b & 0x8000) | 1;
  const int p = a & 0x8000 ? -(int)x : x, q = b & 0x8000 ? -(int)y : y;
  return (p < q) == (p > 0) ? a + 1 : a - 1;
}
//@ maximum
// NaN if either is.
template <class T> DEVICE T maximum(T a, T b) { return a != a ? a : b != b ? b : a > b ? a : b; }
//@ minimum
template <class T> DEVICE T minimum(T a, T b) { return a != a ? a : b != b ? b : a < b ? a : b; }
//@ exp_
DEVICE float exp_(float x) { return expf(x); }
DEVICE double exp_(double x) { return exp(x); }
//@ expm1_
DEVICE float expm1_(float x) { return expm1f(x); }
DEVICE double expm1_(double x) { return expm1(x); }
//@ exp2_
DEVICE float exp2_(float x) { return exp2f(x); }
DEVICE double exp2_(double x) { return exp2(x); }
//@ log_
DEVICE float log_(float x) { return logf(x); }
DEVICE double log_(double x) { return log(x); }
//@ log2_
DEVICE float log2_(float x) { return log2f(x); }
DEVICE double log2_(double x) { return log2(x); }
//@ log10_
DEVICE float log10_(float x) { return log10f(x); }
DEVICE double log10_(double x) { return log10(x); }
//@ log1p_
DEVICE float log1p_(float x) { return log1pf(x); }
DEVICE double log1p_(double x) { return log1p(x); }
//@ sin_
DEVICE float sin_(float x) { return sinf(x); }
DEVICE double sin_(double x) { return sin(x); }
//@ cos_
DEVICE float cos_(float x) { return cosf(x); }
DEVICE double cos_(double x) { return cos(x); }
//@ tanh_
DEVICE float tanh_(float x) { return tanhf(x); }
DEVICE double tanh_(double x) { return tanh(x); }
//@ erf_
DEVICE float erf_(float x) { return erff(x); }
DEVICE double erf_(double x) { return erf(x); }
//@ sqrt_
DEVICE float sqrt_(float x) { return sqrtf(x); }
DEVICE double sqrt_(double x) { return sqrt(x); }
//@ floor_
DEVICE float floor_(float x) { return floorf(x); }
DEVICE double floor_(double x) { return floor(x); }
//@ ceil_
DEVICE float ceil_(float x) { return ceilf(x); }
DEVICE double ceil_(double x) { return ceil(x); }
//@ trunc_
DEVICE float trunc_(float x) { return truncf(x); }
DEVICE double trunc_(double x) { return trunc(x); }
//@ rint_
DEVICE float rint_(float x) { return rintf(x); }
DEVICE double rint_(double x) { return rint(x); }
//@ fabs_
DEVICE float fabs_(float x) { return fabsf(x); }
DEVICE double fabs_(double x) { return fabs(x); }
//@ pow_
DEVICE float pow_(float x, float y) { return powf(x, y); }
DEVICE double pow_(double x, double y) { return pow(x, y); }
//@ copysign_
DEVICE float copysign_(float x, float y) { return copysignf(x, y); }
DEVICE double copysign_(double x, double y) { return copysign(x, y); }
//@ fmax_
DEVICE float fmax_(float x, float y) { return fmaxf(x, y); }
DEVICE double fmax_(double x, double y) { return fmax(x, y); }
//@ fmin_
DEVICE float fmin_(float x, float y) { return fminf(x, y); }
DEVICE double fmin_(double x, double y) { return fmin(x, y); }
//@ fmod_
DEVICE float fmod_(float x, float y) { return fmodf(x, y); }
DEVICE double fmod_(double x, double y) { return fmod(x, y); }
//@ fma_
DEVICE float fma_(float x, float y, float z) { return fmaf(x, y, z); }
DEVICE double fma_(double x, double y, double z) { return fma(x, y, z); }
//@ sigmoid_
template <class T> DEVICE T sigmoid_(T x) { return 1 / (1 + exp_(-x)); }
//@ ffloormod
template <class T> DEVICE T ffloormod(T a, T b) {
  const T m = fmod_(a, b);
  return m != 0 && (b < 0) != (m < 0) ? m + b : m;
}
//@ ffloordiv
template <class T> DEVICE T ffloordiv(T a, T b) {
  if (b == 0) return a / b;
  const T m = fmod_(a, b);
  T d = (a - m) / b;
  if (m != 0 && (b < 0) != (m < 0)) d -= 1;
  if (d == 0) return copysign_(T(0), a / b);
  const T f = floor_(d);
  return d - f > T(0.5) ? f + 1 : f;
}
