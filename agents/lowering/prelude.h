//@ core
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
//@ Sized
template <int BYTES> struct Sized { typedef int64_t type; };
template <> struct Sized<1> { typedef int8_t type; };
template <> struct Sized<2> { typedef int16_t type; };
template <> struct Sized<4> { typedef int32_t type; };
//@ Held
// The floating-point type in which integers of that size divide exactly enough.
template <int BYTES> struct Held { typedef double type; };
template <> struct Held<1> { typedef float type; };
template <> struct Held<2> { typedef float type; };
//@ lanes
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
//@ huge_pages
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
//@ floordiv_index
INLINE inline int64_t floordiv_index(int64_t a, int64_t b) { return a / b - ((a % b != 0) & ((a < 0) != (b < 0))); }
//@ mod_index
INLINE inline int64_t mod_index(int64_t a, int64_t b) { int64_t m = a % b; return m + ((m != 0) & ((m < 0) != (b < 0)) ? b : 0); }
//@ splat
template <class T> INLINE inline V<T> splat(T x) { return x - V<T>{}; }  // x - 0 keeps -0.0
//@ Lanes
template <class T, int N> struct Lanes { typedef T type __attribute__((vector_size(N * sizeof(T)))); };
//@ cvt
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
//@ bits
template <class To, class From> INLINE inline To bits(From x) {
  static_assert(sizeof(To) == sizeof(From), "bits");
  To y;
  __builtin_memcpy(&y, &x, sizeof y);
  return y;
}
//@ float_to_int
// Towards zero; narrow types through int32, so that they wrap. What does not fit gives x86's answer.
template <class To, class From> INLINE inline To float_to_int(From x) {
  if constexpr (sizeof(To) == 8) return (To)x;
  else return (To)(int32_t)x;
}
//@ float_to_int_v
template <class To, class From> INLINE inline V<To> float_to_int_v(From x) {
  if constexpr (sizeof(To) == 8) return cvt<V<To>>(x);
  else return cvt<V<To>>(cvt<i32v>(x));
}
//@ Table
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
//@ iota
namespace {
struct Iota { static constexpr int at(int l) { return l; } };
}  // namespace
template <class T> INLINE inline V<T> iota() { return lane_table<T, Iota>(); }
//@ lane_of
// Where x is among the consecutive numbers that a vector's lanes hold, in all lanes: -1 before the first, W behind them.
template <class T> INLINE inline V<T> lane_of(int64_t x, int64_t first) {
  const uint64_t ahead = (uint64_t)x - (uint64_t)first;
  return splat<T>(x < first ? T(-1) : ahead < W ? T(ahead) : T(W));
}
//@ masked_move
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
//@ Loose
// A vector at any address. (memcpy would do, but it may alias everything: sizes and pointers would be read again after each store.)
template <class T> struct Loose { typedef T type __attribute__((vector_size(W * sizeof(T)), aligned(alignof(T)))); };
//@ load
template <class T> INLINE inline V<T> load(const T* p, Full) { return *(const typename Loose<T>::type*)p; }
template <class T> INLINE inline V<T> load(const T* p, Tail t) { return first_lanes(p, t.n); }
//@ store
template <class T> INLINE inline void store(T* p, V<T> v, Full) { *(typename Loose<T>::type*)p = v; }
template <class T> INLINE inline void store(T* p, V<T> v, Tail t) { put_first_lanes(p, v, t.n); }
//@ store_past
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
//@ settle
// Such stores are seen by other threads in any order, until this.
INLINE inline void settle() {
#ifdef __SSE2__
  __builtin_ia32_sfence();
#endif
}
//@ load_strided
template <class T, class N> INLINE inline V<T> load_strided(const T* p, int64_t stride, N live) {
  V<T> v{};
  if constexpr (__is_same(N, Full)) {
    for (int l = 0; l < W; l++) v[l] = p[l * stride];
  } else {
    T a[W] = {};
    for (int64_t l = 0; l < live.n; l++) a[l] = p[l * stride];
    __builtin_memcpy(&v, a, sizeof v);
  }
  return v;
}
//@ store_strided
template <class T, class N> INLINE inline void store_strided(T* p, int64_t stride, V<T> v, N live) {
  if constexpr (__is_same(N, Full)) {
    for (int l = 0; l < W; l++) p[l * stride] = v[l];
  } else {
    T a[W];
    __builtin_memcpy(a, &v, sizeof v);
    for (int64_t l = 0; l < live.n; l++) p[l * stride] = a[l];
  }
}
//@ transpose
#if defined(__AVX512VL__) && defined(__AVX512BW__)
template <class T> constexpr int TURN = sizeof(T) == 8 ? 8 : 16;
#define TURNS "v"
#define EVEN_HALVES "vshufi64x2 $0,"
#define ODD_HALVES "vshufi64x2 $3,"
#elif defined(__AVX2__)
template <class T> constexpr int TURN = sizeof(T) == 8 ? 4 : sizeof(T) == 1 ? 16 : 8;
#define TURNS "x"
#define EVEN_HALVES "vperm2i128 $0x20,"
#define ODD_HALVES "vperm2i128 $0x31,"
#endif
#ifdef TURNS
// The lower (or upper) halves of every 16 bytes in x and y, interleaved; from 16 bytes on, their even (odd) pieces.
// (GCC 12 has these shuffles too, but takes permutations of any lanes for them, which are half as fast.)
template <int BYTES, bool UPPER, class X> INLINE inline X pick(X x, X y) {
  X z;
#define PICK(NAME) asm(NAME " %2, %1, %0" : "=" TURNS(z) : TURNS(x), TURNS(y))
  if constexpr (BYTES == 1 && !UPPER) PICK("vpunpcklbw");
  if constexpr (BYTES == 1 && UPPER) PICK("vpunpckhbw");
  if constexpr (BYTES == 2 && !UPPER) PICK("vpunpcklwd");
  if constexpr (BYTES == 2 && UPPER) PICK("vpunpckhwd");
  if constexpr (BYTES == 4 && !UPPER) PICK("vpunpckldq");
  if constexpr (BYTES == 4 && UPPER) PICK("vpunpckhdq");
  if constexpr (BYTES == 8 && !UPPER) PICK("vpunpcklqdq");
  if constexpr (BYTES == 8 && UPPER) PICK("vpunpckhqdq");
  if constexpr (BYTES >= 16 && sizeof(X) == 32 && !UPPER) PICK(EVEN_HALVES);
  if constexpr (BYTES >= 16 && sizeof(X) == 32 && UPPER) PICK(ODD_HALVES);
  if constexpr (BYTES >= 16 && sizeof(X) == 64 && !UPPER) PICK("vshufi64x2 $0x88,");
  if constexpr (BYTES >= 16 && sizeof(X) == 64 && UPPER) PICK("vshufi64x2 $0xdd,");
#undef PICK
  return z;
}
// Rows are interleaved by elements, by pairs, ... Once every 16 bytes are part of a column, the parts are gathered.
template <int D, int B, class Row> INLINE inline void turn(Row (&a)[B]) {
  constexpr int BYTES = D * (sizeof(Row) / B);
  Row b[B];
#pragma GCC unroll 16
  for (int i = 0; i < B; i += 2) {
    const int pair = i / 2, x = pair / D * 2 * D + pair % D;
    b[BYTES < 16 ? i : x] = pick<BYTES, false>(a[x], a[x + D]);
    b[BYTES < 16 ? i + 1 : x + D] = pick<BYTES, true>(a[x], a[x + D]);
  }
  if constexpr (2 * D < B) turn<2 * D>(b);
#pragma GCC unroll 16
  for (int i = 0; i < B; i++) a[i] = b[i];
}
// A square block, turned in registers. Not inlined: the caller's loops would only spill its row addresses.
template <class T> __attribute__((noinline)) static void transpose_block(T* dst, int64_t ds, const T* src, int64_t ss) {
  constexpr int B = TURN<T>;
  typedef T Row __attribute__((vector_size(B * sizeof(T))));
  Row a[B];
#pragma GCC unroll 16
  for (int i = 0; i < B; i++, src += ss) __builtin_memcpy(&a[i], src, sizeof(Row));
  turn<1>(a);
#pragma GCC unroll 16
  for (int i = 0; i < B; i++, dst += ds) __builtin_memcpy(dst, &a[i], sizeof(Row));
}
#endif
// dst[r * ds + c] = src[c * ss + r] for r < rows, c < cols.
template <class T> static void transpose(T* dst, int64_t ds, const T* src, int64_t ss, int64_t rows, int64_t cols) {
  int64_t c = 0;
#ifdef TURNS
  constexpr int B = TURN<T>;
  for (; c + B <= cols; c += B) {
    int64_t r = 0;
    for (; r + B <= rows; r += B) transpose_block(dst + r * ds + c, ds, src + c * ss + r, ss);
    for (; r < rows; r++)
      for (int i = 0; i < B; i++) dst[r * ds + c + i] = src[(c + i) * ss + r];
  }
#endif
  for (; c < cols; c++)
    for (int64_t r = 0; r < rows; r++) dst[r * ds + c] = src[c * ss + r];
}
//@ bit_range
// Bits first <= l < last, of which there are at most 64.
INLINE inline uint64_t bit_range(int64_t first, int64_t last) {
  first = max2<int64_t>(first, 0);
  return last <= first ? 0 : (~0ull >> (64 - last)) & (~0ull << first);
}
//@ mask_bits
// A bit per lane of a mask.
template <class M> INLINE inline uint64_t mask_bits(M mask) {
  uint64_t set = 0;
#ifdef MASKED_MOVES
  if constexpr (sizeof(mask) >= 16) {
    constexpr int E = sizeof(mask[0]);
    if constexpr (E == 1) asm("vpmovb2m %1, %0" : "=k"(set) : "v"(mask));
    if constexpr (E == 2) asm("vpmovw2m %1, %0" : "=k"(set) : "v"(mask));
    if constexpr (E == 4) asm("vpmovd2m %1, %0" : "=k"(set) : "v"(mask));
    if constexpr (E == 8) asm("vpmovq2m %1, %0" : "=k"(set) : "v"(mask));
    return set;
  }
#endif
  for (int l = 0; l < W; l++) set |= (uint64_t)(mask[l] & 1) << l;
  return set;
}
//@ any_lane
template <class M> INLINE inline bool any_lane(M mask) { return mask_bits(mask) != 0; }
//@ load_range
// Lanes first <= l < last of those that are live; `other` in the rest, whose memory is not touched.
template <class T, class N> INLINE inline V<T> load_range(const T* p, int64_t first, int64_t last, T other, N live) {
  if (__is_same(N, Full) && first <= 0 && last >= W) return load(p, live);
  return load_bits(p, bit_range(first, min2<int64_t>(last, live.n)), splat<T>(other));
}
//@ Steps
// Where in S vectors on end, the last of which ends with its last lane, every S-th element lies: shuffles' indices.
template <class I, int S> struct Steps {
  static constexpr int LAST = S * (W - 1) + 1 - W;
  I from[S][W];
  constexpr Steps() : from() {
    for (int k = 1; k < S; k++)
      for (int l = 0; l < W; l++) {
        const int at = S * l, vector = min2(at / W, S - 1), inside = vector == S - 1 ? at - LAST : at % W;
        from[k][l] = vector == k ? W + inside : k > 1 ? l : vector == 0 ? inside : 0;
      }
  }
};
//@ every_of
// Every S-th element of S vectors on end, which `part` gives from an element on.
template <int S, class T, class Part> INLINE inline V<T> every_of(Part part) {
  typedef typename Sized<sizeof(T)>::type I;
  static constexpr Steps<I, S> steps;
  V<T> v = part(0);
#pragma GCC unroll 8
  for (int k = 1; k < S; k++) {
    V<I> from;
    __builtin_memcpy(&from, steps.from[k], sizeof from);
    v = __builtin_shuffle(v, part(k == S - 1 ? steps.LAST : k * W), from);
  }
  return v;
}
//@ load_range_every
// Lane l reads p[l * S], of the live lanes first <= l < last; `other` in the rest, whose memory is not touched.
template <int S, class T, class N>
INLINE inline V<T> load_range_every(const T* p, int64_t first, int64_t last, T other, N live) {
  if (__is_same(N, Full) && first <= 0 && last >= W)
    return every_of<S, T>([&](int64_t at) INLINE { return load(p + at, Full{}); });
  const int64_t begin = max2<int64_t>(first, 0) * S, end = (min2<int64_t>(last, live.n) - 1) * S + 1;
  return every_of<S, T>([&](int64_t at) INLINE {
    return load_bits(p + at, bit_range(begin - at, min2<int64_t>(end - at, W)), splat<T>(other));
  });
}
//@ load_every
// Lane l reads p[l * S].
template <int S, class T, class N> INLINE inline V<T> load_every(const T* p, N live) {
  if constexpr (!__is_same(N, Full)) return load_range_every<S, T>(p, 0, W, T{}, live);
  return every_of<S, T>([&](int64_t at) INLINE { return load(p + at, Full{}); });
}
//@ load_range_strided
template <class T, class N>
INLINE inline V<T> load_range_strided(const T* p, int64_t stride, int64_t first, int64_t last, T other, N live) {
  V<T> v = splat<T>(other);
  last = min2<int64_t>(last, live.n);
  for (int64_t l = max2<int64_t>(first, 0); l < last; l++) v[l] = p[l * stride];
  return v;
}
//@ load_where
// Live lanes whose mask is set and that lie in first <= l < last; `other` in the rest, whose memory is not touched.
template <class T, class M, class N>
INLINE inline V<T> load_where(const T* p, M mask, int64_t first, int64_t last, T other, N live) {
  return load_bits(p, mask_bits(mask) & bit_range(first, min2<int64_t>(last, live.n)), splat<T>(other));
}
//@ load_where_strided
template <class T, class M, class N>
INLINE inline V<T> load_where_strided(const T* p, int64_t stride, M mask, int64_t first, int64_t last, T other, N live) {
  const uint64_t set = mask_bits(mask) & bit_range(first, min2<int64_t>(last, live.n));
  V<T> v = splat<T>(other);
  for (int l = 0; l < W; l++)
    if (set >> l & 1) v[l] = p[l * stride];
  return v;
}
//@ load_gather
// Lane l reads p[at[l]] where its mask is set, else `other`.
template <class T, class M, class N> INLINE inline V<T> load_gather(const T* p, i64v at, M mask, T other, N live) {
  const i8v set = __builtin_convertvector(mask, i8v);
  V<T> v;
  for (int l = 0; l < W; l++) v[l] = l < live.n && set[l] ? p[at[l]] : other;
  return v;
}
//@ keep
// v in the live lanes, `other` in the rest.
template <class X, class T> INLINE inline X keep(X v, T, Full) { return v; }
template <class X, class T> INLINE inline X keep(X v, T other, Tail t) {
  typedef __typeof__(v[0]) E;
  typedef typename Sized<sizeof(E)>::type I;
  return iota<I>() < splat<I>(t.n) ? v : splat<E>(other);
}
//@ checked
// The index; `wrong` is set where it is not in [0, size). (Any thread may set it, and they all set it alike.)
INLINE inline int64_t checked(int64_t i, int64_t size, int& wrong) {
  if (__builtin_expect((uint64_t)i >= (uint64_t)size, 0)) __atomic_store_n(&wrong, 1, __ATOMIC_RELAXED);
  return i;
}
template <class N> INLINE inline i64v checked(i64v i, i64v size, int& wrong, N live) {
  if (__builtin_expect(any_lane(keep((u64v)i >= (u64v)size, 0, live)), 0)) __atomic_store_n(&wrong, 1, __ATOMIC_RELAXED);
  return i;
}
//@ store_scatter
template <class T, class N> INLINE inline void store_scatter(T* p, i64v at, V<T> v, N live) {
  for (int l = 0; l < W; l++)
    if (l < live.n) p[at[l]] = v[l];
}
//@ from_bf16
INLINE inline float from_bf16(uint16_t x) { return bits<float>((uint32_t)x << 16); }
INLINE inline f32v from_bf16(u16v x) { return bits<f32v>(cvt<u32v>(x) << 16); }
//@ round_bf16
// To the nearest value that bf16 has, ties to even, kept as float.
INLINE inline float round_bf16(float x) {
  const uint32_t b = bits<uint32_t>(x);
  return x != x ? bits<float>(0x7fc00000u) : bits<float>((b + 0x7fff + ((b >> 16) & 1)) & 0xffff0000u);
}
INLINE inline f32v round_bf16(f32v x) {
  const u32v b = bits<u32v>(x);
  const u32v r = (b + 0x7fff + ((b >> 16) & 1)) & 0xffff0000u;
  return x != x ? bits<f32v>(u32v{} + 0x7fc00000u) : bits<f32v>(r);
}
//@ to_bf16
// Of a float that is already one of bf16's values.
INLINE inline uint16_t to_bf16(float x) { return bits<uint32_t>(x) >> 16; }
INLINE inline u16v to_bf16(f32v x) { return cvt<u16v>(bits<u32v>(x) >> 16); }
//@ narrow_bf16
// Rounded and stored in one.
INLINE inline uint16_t narrow_bf16(float x) { return to_bf16(round_bf16(x)); }
INLINE inline u16v narrow_bf16(f32v x) {
  const u32v b = bits<u32v>(x);
  const u32v r = (b + (0x7fff + ((b >> 16) & 1))) >> 16;
  return cvt<u16v>(x != x ? u32v{} + 0x7fc0u : r);
}
//@ half_bits
INLINE inline float half_to_float(uint16_t h) {
  const uint32_t s = (uint32_t)(h & 0x8000) << 16, m = h & 0x7fff;
  if (m >= 0x7c00) return bits<float>(s | 0x7f800000u | (m & 0x3ff) << 13 | ((m & 0x3ff) ? 0x400000u : 0));
  if (m >= 0x400) return bits<float>(s | ((m << 13) + (112u << 23)));
  return bits<float>(s | bits<uint32_t>((float)m * 0x1p-24f));
}
INLINE inline uint16_t float_to_half(float x) {
  const uint32_t b = bits<uint32_t>(x), s = b >> 16 & 0x8000, m = b & 0x7fffffff;
  if (m > 0x7f800000) return s | 0x7e00;
  if (m >= 0x47800000) return s | 0x7c00;
  if (m < 0x38800000) return s | (bits<uint32_t>(bits<float>(m) + 0.5f) - 0x3f000000u);
  return s | ((m + 0xfff + (m >> 13 & 1) - (112u << 23)) >> 13);
}
//@ from_f16
INLINE inline float from_f16(uint16_t x) { return half_to_float(x); }
INLINE inline f32v from_f16(u16v x) {
#if defined(__AVX512F__) && LANES == 16
  return __builtin_ia32_vcvtph2ps512_mask((i16v)x, f32v{}, -1, 4);
#elif defined(__F16C__) && LANES == 8
  return __builtin_ia32_vcvtph2ps256((i16v)x);
#else
  f32v y;
  for (int l = 0; l < W; l++) y[l] = half_to_float(x[l]);
  return y;
#endif
}
//@ to_f16
INLINE inline uint16_t to_f16(float x) { return float_to_half(x); }
INLINE inline u16v to_f16(f32v x) {
#if defined(__AVX512F__) && LANES == 16
  return (u16v)__builtin_ia32_vcvtps2ph512_mask(x, 0, i16v{}, -1);
#elif defined(__F16C__) && LANES == 8
  return (u16v)__builtin_ia32_vcvtps2ph256(x, 0);
#else
  u16v y;
  for (int l = 0; l < W; l++) y[l] = float_to_half(x[l]);
  return y;
#endif
}
//@ narrow_f16
template <class X> INLINE inline auto narrow_f16(X x) { return to_f16(x); }
//@ round_f16
// To the nearest value that f16 has, ties to even, kept as float.
INLINE inline float round_f16(float x) { return from_f16(to_f16(x)); }
INLINE inline f32v round_f16(f32v x) { return from_f16(to_f16(x)); }
