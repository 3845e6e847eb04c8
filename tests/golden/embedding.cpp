// embedding: table in f32, indices in i64, y out f32
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

extern "C" void embedding(const float* __restrict table, const int64_t* __restrict indices, float* __restrict y, int64_t V_, int64_t D, int64_t N) {
  constexpr int64_t BN = 8;
  constexpr int64_t BD = 64;
  huge_pages(y, N * D * 4);
  const auto body_1 = [&](int64_t n_) {
    [[maybe_unused]] const int64_t n__end = min2<int64_t>(n_ + 8, N);
    alignas(64) int64_t row_5_tile[8];
    for (int64_t nn = n_; nn < n__end; nn++) {
      const int64_t row_0 = indices[nn];
      const bool t2 = row_0 < 0LL;
      const int64_t t4 = row_0 + V_;
      const int64_t row5 = (t2 ? t4 : row_0);
      row_5_tile[nn - n_] = row5;
    }
    for (int64_t d = 0; d < D; d += 64) {
      [[maybe_unused]] const int64_t d_end = min2<int64_t>(d + 64, D);
      for (int64_t nn = n_; nn < n__end; nn++) {
        const int64_t row_5 = row_5_tile[nn - n_];
        lanes<1>(d, d_end, [=](int64_t dd, [[maybe_unused]] auto n, [[maybe_unused]] auto u) INLINE {
          const f32v t6 = (uint64_t)(int64_t)row_5 < (uint64_t)(V_) ? load(table + ((int64_t)row_5) * D + dd, n) : splat<float>(0.0f);
          store<float>(y + nn * D + dd, t6, n);
        });
      }
    }
  };
  if (N * D * 10 > 150000) {
  #pragma omp parallel for schedule(static)
    for (int64_t n_ = 0; n_ < N; n_ += 8)
      body_1(n_);
  } else {
    for (int64_t n_ = 0; n_ < N; n_ += 8)
      body_1(n_);
  }
}
