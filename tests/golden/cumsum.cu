// cumsum: x in f32, y out f32
#include <cstdint>
#define DEVICE __device__ __forceinline__
template <class T> DEVICE constexpr T min2(T a, T b) { return a < b ? a : b; }
template <class T> DEVICE constexpr T max2(T a, T b) { return a > b ? a : b; }
template <class T> DEVICE T shuffle_xor(T x, int by) {
  if constexpr (sizeof(T) < 4) return (T)__shfl_xor_sync(0xffffffffu, (int)x, by);
  else return __shfl_xor_sync(0xffffffffu, x, by);
}
template <class T> DEVICE T shuffle_up(T x, int by, int width) {
  if constexpr (sizeof(T) < 4) return (T)__shfl_up_sync(0xffffffffu, (int)x, by, width);
  else return __shfl_up_sync(0xffffffffu, x, by, width);
}
template <class T> DEVICE T shuffle(T x, int from, int width) {
  if constexpr (sizeof(T) < 4) return (T)__shfl_sync(0xffffffffu, (int)x, from, width);
  else return __shfl_sync(0xffffffffu, x, from, width);
}
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

extern "C" __global__ void __launch_bounds__(128) cumsum_kernel(const float* x, float* y) {
  extern __shared__ __align__(16) unsigned char shared[];
  float* const before = (float*)(shared + 16384);
  const int64_t i_start = int64_t(blockIdx.x) * 4;
  __syncthreads();
  if (threadIdx.x < 4) {
    const int i_lane = threadIdx.x % 4;
    before[i_lane] = 0.0f;
  }
  __syncthreads();
  for (int64_t j_start = 0; j_start < 5000; j_start += 1024) {
    float t[4][8];
    #pragma unroll
    for (int i_slot = 0; i_slot < 4; i_slot++) {
      #pragma unroll
      for (int j_slot = 0; j_slot < 8; j_slot++) {
        const int i_lane = i_slot;
        const int64_t i = i_start + i_lane;
        const int j_lane = threadIdx.x % 128 + 128 * j_slot;
        const int64_t j = j_start + j_lane;
        if (j < 5000) {
          t[i_slot][j_slot] = x[i * 5000 + j];
        }
      }
    }
    __syncthreads();
    float* const data = (float*)(shared);
    #pragma unroll
    for (int i_slot_1 = 0; i_slot_1 < 4; i_slot_1++) {
      #pragma unroll
      for (int j_slot = 0; j_slot < 8; j_slot++) {
        const int i_lane = i_slot_1;
        const int j_lane = threadIdx.x % 128 + 128 * j_slot;
        const int64_t j = j_start + j_lane;
        data[i_lane * 1024 + j_lane] = 0.0f;
        if (j < 5000) {
          data[i_lane * 1024 + j_lane] = float(t[i_slot_1][j_slot]);
        }
      }
    }
    __syncthreads();
    scan_rows<1024, float>(data, 4, 1, 0.0f, [](float a, float b) { return float(a + b); });
    __syncthreads();
    float scanned[4][8];
    #pragma unroll
    for (int i_slot_2 = 0; i_slot_2 < 4; i_slot_2++) {
      #pragma unroll
      for (int j_slot = 0; j_slot < 8; j_slot++) {
        const int i_lane = i_slot_2;
        const int j_lane = threadIdx.x % 128 + 128 * j_slot;
        scanned[i_slot_2][j_slot] = data[i_lane * 1024 + j_lane];
      }
    }
    #pragma unroll
    for (int i_slot_3 = 0; i_slot_3 < 4; i_slot_3++) {
      #pragma unroll
      for (int j_slot = 0; j_slot < 8; j_slot++) {
        const int i_lane = i_slot_3;
        const int64_t i = i_start + i_lane;
        const int j_lane = threadIdx.x % 128 + 128 * j_slot;
        const int64_t j = j_start + j_lane;
        if (j < 5000) {
          y[i * 5000 + j] = scanned[i_slot_3][j_slot] + before[i_lane];
        }
      }
    }
    float sum_part[4];
    #pragma unroll
    for (int i_slot_4 = 0; i_slot_4 < 4; i_slot_4++) {
      sum_part[i_slot_4] = 0.0f;
    }
    #pragma unroll
    for (int i_slot_5 = 0; i_slot_5 < 4; i_slot_5++) {
      #pragma unroll
      for (int j_slot = 0; j_slot < 8; j_slot++) {
        const int j_lane = threadIdx.x % 128 + 128 * j_slot;
        const int64_t j = j_start + j_lane;
        if (j < 5000) {
          sum_part[i_slot_5] = sum_part[i_slot_5] + t[i_slot_5][j_slot];
        }
      }
    }
    #pragma unroll
    for (int i_slot_6 = 0; i_slot_6 < 4; i_slot_6++) {
      const float other = shuffle_xor(sum_part[i_slot_6], 1);
      sum_part[i_slot_6] = sum_part[i_slot_6] + other;
      const float other_1 = shuffle_xor(sum_part[i_slot_6], 2);
      sum_part[i_slot_6] = sum_part[i_slot_6] + other_1;
      const float other_2 = shuffle_xor(sum_part[i_slot_6], 4);
      sum_part[i_slot_6] = sum_part[i_slot_6] + other_2;
      const float other_3 = shuffle_xor(sum_part[i_slot_6], 8);
      sum_part[i_slot_6] = sum_part[i_slot_6] + other_3;
      const float other_4 = shuffle_xor(sum_part[i_slot_6], 16);
      sum_part[i_slot_6] = sum_part[i_slot_6] + other_4;
    }
    __syncthreads();
    float* const parts = (float*)(shared);
    if (threadIdx.x % 32 == 0) {
      #pragma unroll
      for (int i_slot_7 = 0; i_slot_7 < 4; i_slot_7++) {
        parts[(threadIdx.x % 128) / 32 * 4 + (i_slot_7)] = sum_part[i_slot_7];
      }
    }
    __syncthreads();
    float sum;
    if (threadIdx.x < 4) {
      const int i_lane = threadIdx.x % 4;
      float total = parts[i_lane];
      for (int n = 1; n < 4; n++) {
        total = total + parts[n * 4 + i_lane];
      }
      sum = total;
    }
    __syncthreads();
    if (threadIdx.x < 4) {
      const int i_lane = threadIdx.x % 4;
      before[i_lane] = (before[i_lane] + sum);
    }
    __syncthreads();
  }
}
