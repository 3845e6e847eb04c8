// matmul_bias_gelu: a in f32, b in f32, bias in f32, y out f32
#ifdef __AVX512F__
#define LANES 16
#else
#define LANES 8
#endif
constexpr int W = LANES;  // of a vector
typedef __INT8_TYPE__ int8_t;
typedef __INT16_TYPE__ int16_t;
typedef __INT32_TYPE__ int32_t;
typedef __INT64_TYPE__ int64_t;
typedef __UINT8_TYPE__ uint8_t;
typedef __UINT16_TYPE__ uint16_t;
typedef __UINT32_TYPE__ uint32_t;
typedef __UINT64_TYPE__ uint64_t;
#define INLINE __attribute__((always_inline))
template <class T> struct Vec { typedef T type __attribute__((vector_size(W * sizeof(T)))); };
template <class T> using V = typename Vec<T>::type;  // W lanes of T
typedef V<float> f32v;
typedef V<double> f64v;
typedef V<int8_t> i8v;
typedef V<uint8_t> u8v;
typedef V<int16_t> i16v;
typedef V<uint16_t> u16v;
typedef V<int32_t> i32v;
typedef V<uint32_t> u32v;
typedef V<int64_t> i64v;
typedef V<uint64_t> u64v;
template <class X> INLINE inline X min2(X a, X b) { return a < b ? a : b; }
template <class X> INLINE inline X max2(X a, X b) { return a > b ? a : b; }
struct Full { static constexpr int64_t n = W; };  // all lanes of a vector are live
struct Tail { int64_t n; };                       // only the first n are
template <int I> struct Int { constexpr operator int() const { return I; } };
// Calls f(j, Full or Tail, Int<which of U accumulators>) for the vectors of [j0, j1).
template <int U, class F> INLINE inline void lanes(int64_t j0, int64_t j1, F f) {
  int64_t j = j0;
  if constexpr (U > 1)
    for (; j + U * W <= j1; j += U * W) {
      f(j, Full{}, Int<0>{});
      f(j + W, Full{}, Int<1>{});
      if constexpr (U > 2) {
        f(j + 2 * W, Full{}, Int<2>{});
        f(j + 3 * W, Full{}, Int<3>{});
      }
    }
  for (; j + W <= j1; j += W) f(j, Full{}, Int<0>{});
  if (j < j1) f(j, Tail{j1 - j}, Int<0>{});
}
template <class T> INLINE inline V<T> splat(T x) { return x - V<T>{}; }  // x - 0 keeps -0.0
template <class To, class From> INLINE inline To bits(From x) {
  static_assert(sizeof(To) == sizeof(From), "bits");
  To y;
  __builtin_memcpy(&y, &x, sizeof y);
  return y;
}
#if defined(__AVX512VL__) && defined(__AVX512BW__) && defined(__has_builtin)
#if __has_builtin(__builtin_ia32_loaddqusi512_mask) && __has_builtin(__builtin_ia32_loaddquqi512_mask)
#define MASKED_MOVES 1
#endif
#endif
#ifdef MASKED_MOVES
template <int N, class T> struct Raw { typedef T type __attribute__((vector_size(N))); };
template <int N, class T> using R = typename Raw<N, T>::type;
// The first n lanes of *p, zero elsewhere; the others are not touched.
template <class T> INLINE inline V<T> first_lanes(const T* p, int64_t n) {
  constexpr int S = sizeof(V<T>), E = sizeof(T);
  const uint64_t m = ~0ull >> (64 - n);  // 1 <= n < W <= 64
#define MOVE(BYTES, SIZE, ELEM, NAME, MASK) \
  if constexpr (S == BYTES && E == SIZE) return (V<T>)__builtin_ia32_load##NAME##_mask((const ELEM*)p, R<BYTES, ELEM>{}, (MASK)m);
  MOVE(64, 1, char, dquqi512, uint64_t) MOVE(64, 2, short, dquhi512, uint32_t) MOVE(64, 4, int, dqusi512, uint16_t) MOVE(64, 8, long long, dqudi512, uint8_t)
  MOVE(32, 1, char, dquqi256, uint32_t) MOVE(32, 2, short, dquhi256, uint16_t) MOVE(32, 4, int, dqusi256, uint8_t) MOVE(32, 8, long long, dqudi256, uint8_t)
  MOVE(16, 1, char, dquqi128, uint16_t) MOVE(16, 2, short, dquhi128, uint8_t) MOVE(16, 4, int, dqusi128, uint8_t)
#undef MOVE
  V<T> v{};
  __builtin_memcpy(&v, p, n * E);
  return v;
}
template <class T> INLINE inline void put_first_lanes(T* p, V<T> v, int64_t n) {
  constexpr int S = sizeof(V<T>), E = sizeof(T);
  const uint64_t m = ~0ull >> (64 - n);
#define MOVE(BYTES, SIZE, ELEM, NAME, MASK) \
  if constexpr (S == BYTES && E == SIZE) return __builtin_ia32_store##NAME##_mask((ELEM*)p, (R<BYTES, ELEM>)v, (MASK)m);
  MOVE(64, 1, char, dquqi512, uint64_t) MOVE(64, 2, short, dquhi512, uint32_t) MOVE(64, 4, int, dqusi512, uint16_t) MOVE(64, 8, long long, dqudi512, uint8_t)
  MOVE(32, 1, char, dquqi256, uint32_t) MOVE(32, 2, short, dquhi256, uint16_t) MOVE(32, 4, int, dqusi256, uint8_t) MOVE(32, 8, long long, dqudi256, uint8_t)
  MOVE(16, 1, char, dquqi128, uint16_t) MOVE(16, 2, short, dquhi128, uint8_t) MOVE(16, 4, int, dqusi128, uint8_t)
#undef MOVE
  __builtin_memcpy(p, &v, n * E);
}
#else
template <class T> INLINE inline V<T> first_lanes(const T* p, int64_t n) {
  V<T> v{};
  __builtin_memcpy(&v, p, n * sizeof(T));
  return v;
}
template <class T> INLINE inline void put_first_lanes(T* p, V<T> v, int64_t n) { __builtin_memcpy(p, &v, n * sizeof(T)); }
#endif
// A vector at any address. (memcpy would do, but it may alias everything: sizes and pointers would be read again after each store.)
template <class T> struct Loose { typedef T type __attribute__((vector_size(W * sizeof(T)), aligned(alignof(T)))); };
template <class T> INLINE inline V<T> load(const T* p, Full) { return *(const typename Loose<T>::type*)p; }
template <class T> INLINE inline V<T> load(const T* p, Tail t) { return first_lanes(p, t.n); }
template <class T> INLINE inline void store(T* p, V<T> v, Full) { *(typename Loose<T>::type*)p = v; }
template <class T> INLINE inline void store(T* p, V<T> v, Tail t) { put_first_lanes(p, v, t.n); }
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
// One scalar call per lane, for functions that have no vector form here.
template <class X, class F> INLINE inline X per_lane(F f, X a) {
  for (int l = 0; l < W; l++) a[l] = f(a[l]);
  return a;
}
template <class X, class F> INLINE inline X per_lane(F f, X a, X b) {
  for (int l = 0; l < W; l++) a[l] = f(a[l], b[l]);
  return a;
}
INLINE inline float fabs_(float x) { return __builtin_fabsf(x); }
INLINE inline double fabs_(double x) { return __builtin_fabs(x); }
INLINE inline f32v fabs_(f32v x) { return bits<f32v>(bits<i32v>(x) & 0x7fffffff); }
INLINE inline f64v fabs_(f64v x) { return bits<f64v>(bits<i64v>(x) & 0x7fffffffffffffff); }
INLINE inline float copysign_(float x, float s) { return __builtin_copysignf(x, s); }
INLINE inline double copysign_(double x, double s) { return __builtin_copysign(x, s); }
INLINE inline f32v copysign_(f32v x, f32v s) { return bits<f32v>((bits<u32v>(x) & 0x7fffffffu) | (bits<u32v>(s) & 0x80000000u)); }
INLINE inline f64v copysign_(f64v x, f64v s) { return bits<f64v>((bits<u64v>(x) & 0x7fffffffffffffffull) | (bits<u64v>(s) & 0x8000000000000000ull)); }
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
// p * 2**n for |n| < 300, right down to denormals.
INLINE inline f32v scale2(f32v p, i32v n) {
  const i32v a = n >> 1, b = n - a;
  return (p * bits<f32v>((a + 127) << 23)) * bits<f32v>((b + 127) << 23);
}
INLINE inline f64v scale2(f64v p, i64v n) {
  const i64v a = n >> 1, b = n - a;
  return (p * bits<f64v>((a + 1023) << 52)) * bits<f64v>((b + 1023) << 52);
}
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
INLINE inline f32v erf_(f32v x) {
  const f32v a = fabs_(x), s = x * x, t = smaller(splat(4.0f), a), t2 = t * t;
  f32v r = fma_(splat(-1.72853470e-5f), t, splat(3.83197126e-4f));
  const f32v u = fma_(splat(-3.88396438e-3f), t, splat(2.42546219e-2f));
  r = fma_(r, t2, u);
  r = fma_(r, t, splat(-1.06777877e-1f));
  r = fma_(r, t, splat(-6.34846687e-1f));
  r = fma_(r, t, splat(-1.28717512e-1f));
  r = fma_(r, t, -t);
  const f32v large = copysign_(1 - exp_in_range(r), x);
  f32v p = fma_(splat(-5.96761703e-4f), s, splat(4.99119423e-3f));
  p = fma_(p, s, splat(-2.67681349e-2f));
  p = fma_(p, s, splat(1.12819925e-1f));
  p = fma_(p, s, splat(-3.76125336e-1f));
  p = fma_(p, s, splat(1.28379166e-1f));
  const f32v small = fma_(p, x, x);
  return a > 0.927734375f ? large : small;
}
INLINE inline f64v erf_(f64v x) { return per_lane([](double v) { return __builtin_erf(v); }, x); }
INLINE inline float erf_(float x) { return __builtin_erff(x); }
INLINE inline double erf_(double x) { return __builtin_erf(x); }

extern "C" void matmul_bias_gelu(const float* __restrict a, const float* __restrict b, const float* __restrict bias, float* __restrict y, int64_t M, int64_t N, int64_t K) {
  constexpr int64_t BM = 16;
  constexpr int64_t BN = 32;
  constexpr int64_t BK = 32;
  #pragma omp parallel for schedule(static) if (M * N * K * 33 > 150000)
  for (int64_t m = 0; m < M; m += 16) {
    [[maybe_unused]] const int64_t m_end = min2<int64_t>(m + 16, M);
    for (int64_t n_ = 0; n_ < N; n_ += 32) {
      [[maybe_unused]] const int64_t n__end = min2<int64_t>(n_ + 32, N);
      alignas(64) float acc_v[512];
      for (int64_t mm = m; mm < m_end; mm++) {
        lanes<1>(n_, n__end, [=, &acc_v](int64_t nn, [[maybe_unused]] auto n, [[maybe_unused]] auto u) INLINE {
          store<float>(&acc_v[(mm - m) * 32 + nn - n_], splat<float>(0.0f), n);
        });
      }
      for (int64_t k = 0; k < K; k += 32) {
        [[maybe_unused]] const int64_t k_end = min2<int64_t>(k + 32, K);
        for (int64_t mm = m; mm < m_end; mm++) {
          alignas(64) float sum_5_tile[32];
          lanes<1>(n_, n__end, [=, &sum_5_tile](int64_t nn, auto n, auto) INLINE {
            store<float>(&sum_5_tile[nn - n_], splat<float>(0.0f), n);
          });
          for (int64_t kk = k; kk < k_end; kk++) {
            const float t2 = a[mm * K + kk];
            lanes<1>(n_, n__end, [=, &sum_5_tile](int64_t nn, [[maybe_unused]] auto n, [[maybe_unused]] auto u) INLINE {
              const f32v t3 = load(b + kk * N + nn, n);
              const f32v t4 = splat<float>(t2) * t3;
              store<float>(&sum_5_tile[nn - n_], (load(&sum_5_tile[nn - n_], n) + t4), n);
            });
          }
          lanes<1>(n_, n__end, [=, &acc_v, &sum_5_tile](int64_t nn, [[maybe_unused]] auto n, [[maybe_unused]] auto u) INLINE {
            const f32v t1 = load(&acc_v[(mm - m) * 32 + nn - n_], n);
            const f32v acc_6 = t1 + load(&sum_5_tile[nn - n_], n);
            store<float>(&acc_v[(mm - m) * 32 + nn - n_], acc_6, n);
          });
        }
      }
      for (int64_t mm = m; mm < m_end; mm++) {
        lanes<1>(n_, n__end, [=, &acc_v](int64_t nn, [[maybe_unused]] auto n, [[maybe_unused]] auto u) INLINE {
          const f32v t7 = load(&acc_v[(mm - m) * 32 + nn - n_], n);
          const f32v t8 = load(bias + nn, n);
          const f32v t_9 = t7 + t8;
          const f32v t17 = (splat<float>(0.5f) * t_9) * (splat<float>(1.0f) + erf_((t_9 * splat<float>(0.7071067690849304f))));
          store<float>(y + mm * N + nn, t17, n);
        });
      }
    }
  }
}
