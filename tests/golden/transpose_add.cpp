// transpose_add: x in f32, c in f32, y out f32
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
template <class T, int N> struct Lanes { typedef T type __attribute__((vector_size(N * sizeof(T)))); };
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

extern "C" void transpose_add(const float* __restrict x, const float* c, float* y, int64_t M, int64_t N) {
  constexpr int64_t BI = 64;
  constexpr int64_t BJ = 256;
  huge_pages(y, M * N * 4);
  const bool past_caches = N * M * 4 + M * N * 4 + M * N * 4 > 24 << 20;  // more than caches hold
  const auto body_1 = [&](int64_t i, int64_t j) {
    [[maybe_unused]] const int64_t i_end = min2<int64_t>(i + 64, M);
    [[maybe_unused]] const int64_t j_end = min2<int64_t>(j + 256, N);
    alignas(64) float x_in_0[16384];
    transpose(x_in_0, 256, x + j * M + i, M, i_end - i, j_end - j);
    for (int64_t ii = i; ii < i_end; ii++) {
      lanes<1>(j, j_end, [=, &x_in_0](int64_t jj, [[maybe_unused]] auto n, [[maybe_unused]] auto u) INLINE {
        const f32v t0 = load(&x_in_0[(ii - i) * 256 + jj - j], n);
        const f32v t1 = load(c + ii * N + jj, n);
        store_past<float>(y + ii * N + jj, (t0 + t1), n, past_caches);
      });
    }
  };
  if (M * N * 5 > 150000) {
  #pragma omp parallel
  {
  #pragma omp for collapse(2) schedule(static) nowait
    for (int64_t i = 0; i < M; i += 64)
      for (int64_t j = 0; j < N; j += 256)
        body_1(i, j);
    settle();
  }
  } else {
    for (int64_t i = 0; i < M; i += 64)
      for (int64_t j = 0; j < N; j += 256)
        body_1(i, j);
  }
  settle();
}
