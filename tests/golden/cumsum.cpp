// cumsum: x in f32, y out f32
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
// v in the live lanes, `other` in the rest.
template <class X, class T> INLINE inline X keep(X v, T, Full) { return v; }
template <class X, class T> INLINE inline X keep(X v, T other, Tail t) {
  typedef __typeof__(v[0]) E;
  typedef typename Sized<sizeof(E)>::type I;
  return iota<I>() < splat<I>(t.n) ? v : splat<E>(other);
}
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

extern "C" void cumsum(const float* __restrict x, float* __restrict y, int64_t M, int64_t N) {
  constexpr int64_t BM = 4;
  constexpr int64_t BN = 64;
  huge_pages(y, M * N * 4);
  const auto body_1 = [&](int64_t i) {
    [[maybe_unused]] const int64_t i_end = min2<int64_t>(i + 4, M);
    alignas(64) float before_v[4];
    lanes<1>(i, i_end, [=, &before_v](int64_t ii, [[maybe_unused]] auto n, [[maybe_unused]] auto u) INLINE {
      store<float>(&before_v[ii - i], splat<float>(0.0f), n);
    });
    for (int64_t j = 0; j < N; j += 64) {
      [[maybe_unused]] const int64_t j_end = min2<int64_t>(j + 64, N);
      for (int64_t ii = i; ii < i_end; ii++) {
        float sum_5;
        const float t3 = before_v[ii - i];
        float carry_2 = 0.0f;
        f32v acc_5[4] = {};
        lanes<4>(j, j_end, [=, &acc_5, &carry_2](int64_t jj, [[maybe_unused]] auto n, [[maybe_unused]] auto u) INLINE {
          const f32v t_1 = load(x + ii * N + jj, n);
          const f32v scan_2 = (splat<float>(carry_2) + scan_lanes(t_1, [](f32v a, f32v b) INLINE { return (a + b); }));
          carry_2 = scan_2[n.n - 1];
          store<float>(y + ii * N + jj, (scan_2 + splat<float>(t3)), n);
          acc_5[u] = (acc_5[u] + keep(t_1, 0.0f, n));
        });
        sum_5 = across(((acc_5[0] + acc_5[1]) + (acc_5[2] + acc_5[3])), [](f32v a, f32v b) INLINE { return (a + b); });
        const float before_6 = t3 + sum_5;
        before_v[ii - i] = before_6;
      }
    }
  };
  if (M * N * 10 > 150000) {
  #pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < M; i += 4)
      body_1(i);
  } else {
    for (int64_t i = 0; i < M; i += 4)
      body_1(i);
  }
}
