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
template <class X> INLINE inline constexpr X min2(X a, X b) { return a < b ? a : b; }
template <class X> INLINE inline constexpr X max2(X a, X b) { return a > b ? a : b; }
// (Of a table in a template, the objects of a process share one, even with different W: not if its arguments are local.)
namespace {
struct Full { static constexpr int64_t n = W; };  // all lanes of a vector are live
struct Tail { int64_t n; };                       // only the first n are
template <int I> struct Int { constexpr operator int() const { return I; } };
}  // namespace
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
#ifdef __linux__
extern "C" int madvise(void*, __SIZE_TYPE__, int) noexcept;
#endif
// For memory that is about to be written in full: where it has no pages yet, each fault shall bring 2 MiB, not 4 KiB.
// (Faults take several times as long as all else that a kernel does to a large fresh output.)
INLINE inline void huge_pages([[maybe_unused]] void* p, [[maybe_unused]] int64_t bytes) {
#ifdef __linux__
  const int64_t inside = (int64_t)p & 4095;
  if (bytes >= 4 << 20) madvise((char*)p - inside, bytes + inside, 14);  // MADV_HUGEPAGE; advice that may be refused
#endif
}
template <class T> INLINE inline V<T> splat(T x) { return x - V<T>{}; }  // x - 0 keeps -0.0
template <class T, int N> struct Lanes { typedef T type __attribute__((vector_size(N * sizeof(T)))); };
template <class To, class From> INLINE inline To bits(From x) {
  static_assert(sizeof(To) == sizeof(From), "bits");
  To y;
  __builtin_memcpy(&y, &x, sizeof y);
  return y;
}
#if defined(__AVX512VL__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__has_builtin)
#if __has_builtin(__builtin_ia32_loaddqusi512_mask) && __has_builtin(__builtin_ia32_loaddquqi512_mask)
#define MASKED_MOVES                                                              \
  MOVE(64, 1, char, dquqi512, uint64_t) MOVE(64, 2, short, dquhi512, uint32_t)    \
  MOVE(64, 4, int, dqusi512, uint16_t) MOVE(64, 8, long long, dqudi512, uint8_t)  \
  MOVE(32, 1, char, dquqi256, uint32_t) MOVE(32, 2, short, dquhi256, uint16_t)    \
  MOVE(32, 4, int, dqusi256, uint8_t) MOVE(32, 8, long long, dqudi256, uint8_t)   \
  MOVE(16, 1, char, dquqi128, uint16_t) MOVE(16, 2, short, dquhi128, uint8_t)     \
  MOVE(16, 4, int, dqusi128, uint8_t)
#endif
#endif
// The lanes of *p whose bit is set, those of `rest` elsewhere. Other memory is not touched.
template <class T> INLINE inline V<T> load_bits(const T* p, uint64_t set, V<T> rest) {
#ifdef MASKED_MOVES
#define MOVE(BYTES, SIZE, ELEM, NAME, BITS)                       \
  if constexpr (sizeof(rest) == BYTES && sizeof(T) == SIZE) {     \
    typedef typename Lanes<ELEM, BYTES / SIZE>::type X;           \
    return (V<T>)__builtin_ia32_load##NAME##_mask((const ELEM*)p, (X)rest, (BITS)set); \
  }
  MASKED_MOVES
#undef MOVE
#endif
  for (int l = 0; l < W; l++)
    if (set >> l & 1) rest[l] = p[l];
  return rest;
}
// The first n lanes of *p (1 <= n < W), zero elsewhere.
template <class T> INLINE inline V<T> first_lanes(const T* p, int64_t n) {
#ifdef MASKED_MOVES
  if constexpr (sizeof(V<T>) >= 16) return load_bits(p, ~0ull >> (64 - n), V<T>{});
#endif
  V<T> v{};
  __builtin_memcpy(&v, p, n * sizeof(T));
  return v;
}
template <class T> INLINE inline void put_first_lanes(T* p, V<T> v, int64_t n) {
#ifdef MASKED_MOVES
  const uint64_t set = ~0ull >> (64 - n);
#define MOVE(BYTES, SIZE, ELEM, NAME, BITS)                       \
  if constexpr (sizeof(v) == BYTES && sizeof(T) == SIZE) {        \
    typedef typename Lanes<ELEM, BYTES / SIZE>::type X;           \
    return __builtin_ia32_store##NAME##_mask((ELEM*)p, (X)v, (BITS)set); \
  }
  MASKED_MOVES
#undef MOVE
#endif
  __builtin_memcpy(p, &v, n * sizeof(T));
}
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

extern "C" void matmul_bias_gelu(const float* __restrict a, const float* __restrict b, const float* __restrict bias, float* __restrict y, int64_t M, int64_t N, int64_t K) {
  constexpr int64_t BM = 16;
  constexpr int64_t BN = 32;
  constexpr int64_t BK = 32;
  huge_pages(y, M * N * 4);
  const auto body_1 = [&](int64_t m) {
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
          lanes<1>(n_, n__end, [=, &sum_5_tile](int64_t nn, [[maybe_unused]] auto n, [[maybe_unused]] auto u) INLINE {
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
  };
  if (M * N * K * 33 > 150000) {
  #pragma omp parallel for schedule(static)
    for (int64_t m = 0; m < M; m += 16)
      body_1(m);
  } else {
    for (int64_t m = 0; m < M; m += 16)
      body_1(m);
  }
}
