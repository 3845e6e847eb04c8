// arg_max: x in f32, y out i64
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
// Lanes of another type. x86 takes integers of one size to another in one instruction, for which GCC 12 needs four, or
// three for every lane when the sizes are more than a factor of two apart.
template <class To, class From> INLINE inline To cvt(From x) {
  typedef __typeof__(To{}[0]) T;
  typedef __typeof__(x[0]) F;
  constexpr int A = sizeof(F), B = sizeof(T), N = sizeof(From) / A;
  constexpr bool integers = F(0.5) == 0 && T(0.5) == 0;
  [[maybe_unused]] constexpr int SMALLER = min2(sizeof(From), sizeof(To)), LARGER = max2(sizeof(From), sizeof(To));
  if constexpr (!integers && min2(A, B) < 4) return cvt<To>(cvt<typename Lanes<int32_t, N>::type>(x));
#if defined(__AVX512BW__) && defined(__AVX512VL__)
  constexpr bool one = integers && A != B && SMALLER >= 8 && LARGER <= 64;
#elif defined(__AVX2__) && !defined(__AVX512F__)
  constexpr bool one = integers && A < B && SMALLER >= 8 && LARGER <= 32;
#else
  constexpr bool one = false;
#endif
  if constexpr (one) {
    To y;
#define MOVE(WIDE, NARROW, UP, DOWN)                                                                        \
  if constexpr (A == NARROW && B == WIDE && F(-1) < F(0)) asm("vpmovsx" UP " %1, %0" : "=v"(y) : "v"(x)); \
  if constexpr (A == NARROW && B == WIDE && F(-1) > F(0)) asm("vpmovzx" UP " %1, %0" : "=v"(y) : "v"(x)); \
  if constexpr (A == WIDE && B == NARROW) asm("vpmov" DOWN " %1, %0" : "=v"(y) : "v"(x));
    MOVE(2, 1, "bw", "wb") MOVE(4, 1, "bd", "db") MOVE(8, 1, "bq", "qb")
    MOVE(4, 2, "wd", "dw") MOVE(8, 2, "wq", "qw") MOVE(8, 4, "dq", "qd")
#undef MOVE
    return y;
  }
  constexpr int HALFWAY = A > B ? A / 2 : A * 2;
  typedef typename Sized<HALFWAY>::type H;
  if constexpr (integers && A != B && HALFWAY != B) return cvt<To>(cvt<typename Lanes<H, N>::type>(x));
  return __builtin_convertvector(x, To);
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
// Each lane gets the one H lanes away.
namespace {
template <int H> struct Swapped { static constexpr int at(int l) { return l ^ H; } };
}  // namespace
template <int H, class X> INLINE inline X swapped(X v) {
  return __builtin_shuffle(v, lane_table<typename Sized<sizeof(v[0])>::type, Swapped<H>>());
}
// Takes v (found at `here`) where it beats `best`: larger (SIGN > 0) or smaller, or the first NaN.
template <int SIGN, class X> INLINE inline auto beats(X v, X best) { return (SIGN > 0 ? ~(v <= best) : ~(v >= best)) & (best == best); }
template <int SIGN, class X, class A, class H> INLINE inline void arg_step(X& best, A& at, X v, H here) {
  const auto take = beats<SIGN>(v, best);
  best = take ? v : best;
  at = cvt<A>(take) ? A{} + here : at;
}
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

extern "C" void arg_max(const float* __restrict x, int64_t* __restrict y, int64_t M, int64_t N) {
  constexpr int64_t BN = 65536;
  huge_pages(y, M * 8);
  const auto body_1 = [&](int64_t i) {
    const int64_t j = 0;
    [[maybe_unused]] const int64_t j_end = min2<int64_t>(j + 65536, N);
    int64_t argmax_1;
    V<float> acc_1[4] = {splat<float>((-__builtin_inff())), splat<float>((-__builtin_inff())), splat<float>((-__builtin_inff())), splat<float>((-__builtin_inff()))};
    V<int32_t> at_1[4] = {splat<int32_t>(-1), splat<int32_t>(-1), splat<int32_t>(-1), splat<int32_t>(-1)};
    lanes<4>(j, j_end, [=, &acc_1, &at_1](int64_t jj, [[maybe_unused]] auto n, [[maybe_unused]] auto u) INLINE {
      const f32v t0 = load(x + i * N + jj, n);
      arg_step<1>(acc_1[u], at_1[u], keep(t0, (-__builtin_inff()), n), int32_t(jj - j));
    });
    const auto found_1 = arg_across<1, 4>(acc_1, at_1);
    argmax_1 = j + found_1.at;
    y[i] = argmax_1;
  };
  if (M * N * 4 > 150000) {
  #pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < M; i++)
      body_1(i);
  } else {
    for (int64_t i = 0; i < M; i++)
      body_1(i);
  }
}
