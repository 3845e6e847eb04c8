// softmax: x in f32, y out f32
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
template <int BYTES> struct Sized { typedef int64_t type; };
template <> struct Sized<1> { typedef int8_t type; };
template <> struct Sized<2> { typedef int16_t type; };
template <> struct Sized<4> { typedef int32_t type; };
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
// F::at(lane) in each lane, known when compiled. (Set lane by lane, a vector is made at run time, in W instructions.)
template <class T, class F> struct Table {
  T a[W];
  constexpr Table() : a() {
    for (int l = 0; l < W; l++) a[l] = F::at(l);
  }
};
template <class T, class F> INLINE inline V<T> lane_table() {
  alignas(64) static constexpr Table<T, F> made;
  V<T> v;
  __builtin_memcpy(&v, made.a, sizeof v);
  return v;
}
namespace {
struct Iota { static constexpr int at(int l) { return l; } };
}  // namespace
template <class T> INLINE inline V<T> iota() { return lane_table<T, Iota>(); }
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
// Past the caches, if `past`: each line that is written through them is read first, and drives out one that is still needed.
template <class T> INLINE inline void store_past(T* p, V<T> v, Full n, [[maybe_unused]] bool past) {
  [[maybe_unused]] const bool aligned = ((__UINTPTR_TYPE__)p & (sizeof v - 1)) == 0;
#if defined(__clang__)
  if (past && aligned) return __builtin_nontemporal_store(v, (V<T>*)p);
#else
#define MOVE(BYTES, BUILTIN)             \
  if constexpr (sizeof v == BYTES)       \
    if (past && aligned) return BUILTIN((typename Lanes<long long, BYTES / 8>::type*)p, (typename Lanes<long long, BYTES / 8>::type)v);
#ifdef __AVX512F__
  MOVE(64, __builtin_ia32_movntdq512)
#endif
#ifdef __AVX__
  MOVE(32, __builtin_ia32_movntdq256)
#endif
#ifdef __SSE2__
  MOVE(16, __builtin_ia32_movntdq)
#endif
#undef MOVE
#endif
  store<T>(p, v, n);
}
template <class T> INLINE inline void store_past(T* p, V<T> v, Tail t, bool) { store<T>(p, v, t); }
// Such stores are seen by other threads in any order, until this.
INLINE inline void settle() {
#ifdef __SSE2__
  __builtin_ia32_sfence();
#endif
}
// v in the live lanes, `other` in the rest.
template <class X, class T> INLINE inline X keep(X v, T, Full) { return v; }
template <class X, class T> INLINE inline X keep(X v, T other, Tail t) {
  typedef __typeof__(v[0]) E;
  typedef typename Sized<sizeof(E)>::type I;
  return iota<I>() < splat<I>(t.n) ? v : splat<E>(other);
}
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
template <class X> INLINE inline X maximum(X a, X b) { return a != a ? a : larger(a, b); }  // NaN if either is
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
// Each lane gets the one H lanes away.
namespace {
template <int H> struct Swapped { static constexpr int at(int l) { return l ^ H; } };
}  // namespace
template <int H, class X> INLINE inline X swapped(X v) {
  return __builtin_shuffle(v, lane_table<typename Sized<sizeof(v[0])>::type, Swapped<H>>());
}
// Combines the lanes of one vector, by halves.
template <class X, class F> INLINE inline auto across(X v, F f) {
  if constexpr (W > 32) v = f(v, swapped<32>(v));
  if constexpr (W > 16) v = f(v, swapped<16>(v));
  if constexpr (W > 8) v = f(v, swapped<8>(v));
  if constexpr (W > 4) v = f(v, swapped<4>(v));
  v = f(v, swapped<2>(v));
  return f(v, swapped<1>(v))[0] + 0;
}

extern "C" void softmax(const float* __restrict x, float* __restrict y, int64_t M, int64_t N) {
  constexpr int64_t BN = 8192;
  huge_pages(y, M * N * 4);
  const bool past_caches = M * N * 4 + M * N * 4 > 24 << 20;  // more than caches hold
  const auto body_1 = [&](int64_t i) {
    const int64_t j = 0;
    [[maybe_unused]] const int64_t j_end = min2<int64_t>(j + 8192, N);
    float max_1;
    alignas(64) float e_3_tile[8192];
    float sum_4;
    f32v acc_1[4] = {splat<float>((-__builtin_inff())), splat<float>((-__builtin_inff())), splat<float>((-__builtin_inff())), splat<float>((-__builtin_inff()))};
    lanes<4>(j, j_end, [=, &acc_1](int64_t jj, [[maybe_unused]] auto n, [[maybe_unused]] auto u) INLINE {
      const f32v v_0 = load(x + i * N + jj, n);
      acc_1[u] = maximum(acc_1[u], keep(v_0, (-__builtin_inff()), n));
    });
    max_1 = across(maximum(maximum(acc_1[0], acc_1[1]), maximum(acc_1[2], acc_1[3])), [](f32v a, f32v b) INLINE { return maximum(a, b); });
    double sum_of_4 = 0;
    for (int64_t j_block = j; j_block < j_end; j_block += 1024) {
      f32v acc_4[4] = {};
      lanes<4>(j_block, min2<int64_t>(j_block + 1024, j_end), [=, &acc_4, &e_3_tile](int64_t jj, [[maybe_unused]] auto n, [[maybe_unused]] auto u) INLINE {
        const f32v v_0 = load(x + i * N + jj, n);
        const f32v t2 = v_0 - splat<float>(max_1);
        const f32v e3 = exp_(t2);
        store<float>(&e_3_tile[jj - j], e3, n);
        acc_4[u] = (acc_4[u] + keep(e3, 0.0f, n));
      });
      sum_of_4 += across(((acc_4[0] + acc_4[1]) + (acc_4[2] + acc_4[3])), [](f32v a, f32v b) INLINE { return (a + b); });
    }
    sum_4 = (float)sum_of_4;
    lanes<1>(j, j_end, [=, &e_3_tile](int64_t jj, [[maybe_unused]] auto n, [[maybe_unused]] auto u) INLINE {
      const f32v e_3 = load(&e_3_tile[jj - j], n);
      store_past<float>(y + i * N + jj, (e_3 / splat<float>(sum_4)), n, past_caches);
    });
  };
  if (M * N * 45 > 150000) {
  #pragma omp parallel
  {
  #pragma omp for schedule(static) nowait
    for (int64_t i = 0; i < M; i++)
      body_1(i);
    settle();
  }
  } else {
    for (int64_t i = 0; i < M; i++)
      body_1(i);
  }
  settle();
}
