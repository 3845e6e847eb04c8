// embedding: table in f32, indices in i64, y out f32
#include <cstdint>
#define DEVICE __device__ __forceinline__
template <class T> DEVICE constexpr T min2(T a, T b) { return a < b ? a : b; }
template <class T> DEVICE constexpr T max2(T a, T b) { return a > b ? a : b; }
DEVICE bool inside(int64_t at, int64_t size) { return (uint64_t)at < (uint64_t)size; }

extern "C" __global__ void __launch_bounds__(128) embedding_kernel(const float* __restrict__ table, const int64_t* __restrict__ indices, float* __restrict__ y, int64_t V, int64_t N) {
  extern __shared__ __align__(16) unsigned char shared[];
  int64_t* const row = (int64_t*)(shared + 0);
  const int64_t n_start = int64_t(blockIdx.x) * 8;
  __syncthreads();
  if (threadIdx.x < 8) {
    const int n_lane = threadIdx.x % 8;
    const int64_t n = n_start + n_lane;
    if (n < N) {
      const int64_t row_1 = indices[n];
      row[n_lane] = ((row_1 < 0LL) ? (row_1 + int64_t(V)) : row_1);
    }
  }
  __syncthreads();
  for (int64_t d_start = 0; d_start < 1024; d_start += 256) {
    #pragma unroll
    for (int n_slot = 0; n_slot < 8; n_slot++) {
      #pragma unroll
      for (int d_slot = 0; d_slot < 2; d_slot++) {
        const int n_lane = n_slot;
        const int64_t n = n_start + n_lane;
        const int d_lane = threadIdx.x % 128 + 128 * d_slot;
        const int64_t d = d_start + d_lane;
        if (n < N) {
          y[n * 1024 + d] = inside(row[n_lane], V) ? table[row[n_lane] * 1024 + d] : 0.0f;
        }
      }
    }
  }
}
