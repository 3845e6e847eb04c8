// attention: q in f32, k in f32, v in f32, scale in f32, o out f32
#include <cstdint>
#define DEVICE __device__ __forceinline__
template <class T> DEVICE constexpr T min2(T a, T b) { return a < b ? a : b; }
template <class T> DEVICE constexpr T max2(T a, T b) { return a > b ? a : b; }
DEVICE int64_t floordiv_index(int64_t a, int64_t b) { return a / b - ((a % b != 0) & ((a < 0) != (b < 0))); }
template <class T> DEVICE T shuffle_xor(T x, int by) {
  if constexpr (sizeof(T) < 4) return (T)__shfl_xor_sync(0xffffffffu, (int)x, by);
  else return __shfl_xor_sync(0xffffffffu, x, by);
}
// NaN if either is.
template <class T> DEVICE T maximum(T a, T b) { return a != a ? a : b != b ? b : a > b ? a : b; }
DEVICE float exp_(float x) { return expf(x); }
DEVICE double exp_(double x) { return exp(x); }
DEVICE float fma_(float x, float y, float z) { return fmaf(x, y, z); }
DEVICE double fma_(double x, double y, double z) { return fma(x, y, z); }

extern "C" __global__ void __launch_bounds__(128) attention_kernel(const float* q, const float* __restrict__ k, const float* __restrict__ v, const float* __restrict__ scale, float* o, int64_t T, int64_t S) {
  extern __shared__ __align__(16) unsigned char shared[];
  float* const top = (float*)(shared + 16768);
  float* const total = (float*)(shared + 16896);
  float* const max = (float*)(shared + 17024);
  float* const rescale = (float*)(shared + 17152);
  const int64_t h = int64_t(blockIdx.x) / floordiv_index(T + 31, 32);
  const int64_t t_start = int64_t(blockIdx.x) % floordiv_index(T + 31, 32) * 32;
  float acc[4][4];
  const float factor = scale[0];
  float query[4][4];
  #pragma unroll
  for (int t_slot = 0; t_slot < 4; t_slot++) {
    #pragma unroll
    for (int d_slot = 0; d_slot < 4; d_slot++) {
      const int t_lane = threadIdx.x / 16 % 8 + 8 * t_slot;
      const int64_t t = t_start + t_lane;
      const int d_lane = threadIdx.x % 16 + 16 * d_slot;
      const int64_t d = d_lane;
      if (t < T) {
        query[t_slot][d_slot] = q[h * (T * 64) + t * 64 + d];
      }
    }
  }
  #pragma unroll
  for (int t_slot_1 = 0; t_slot_1 < 4; t_slot_1++) {
    #pragma unroll
    for (int d_slot = 0; d_slot < 4; d_slot++) {
      const int t_lane = threadIdx.x / 16 % 8 + 8 * t_slot_1;
      const int64_t t = t_start + t_lane;
      if (t < T) {
        acc[t_slot_1][d_slot] = 0.0f;
      }
    }
  }
  __syncthreads();
  if (threadIdx.x < 32) {
    const int t_lane = threadIdx.x % 32;
    const int64_t t = t_start + t_lane;
    if (t < T) {
      top[t_lane] = (-__builtin_inff());
    }
  }
  __syncthreads();
  if (threadIdx.x < 32) {
    const int t_lane = threadIdx.x % 32;
    const int64_t t = t_start + t_lane;
    if (t < T) {
      total[t_lane] = 0.0f;
    }
  }
  __syncthreads();
  for (int64_t s_start = 0; s_start < S; s_start += 32) {
    float dot_sum[4][2];
    #pragma unroll
    for (int t_slot_2 = 0; t_slot_2 < 4; t_slot_2++) {
      #pragma unroll
      for (int s_slot = 0; s_slot < 2; s_slot++) {
        dot_sum[t_slot_2][s_slot] = 0;
      }
    }
    __syncthreads();
    float* const a_tile = (float*)(shared);
    float* const b_tile = (float*)(shared + 8320);
    #pragma unroll
    for (int t_slot_3 = 0; t_slot_3 < 4; t_slot_3++) {
      #pragma unroll
      for (int d_slot = 0; d_slot < 4; d_slot++) {
        const int t_lane = threadIdx.x / 16 % 8 + 8 * t_slot_3;
        const int64_t t = t_start + t_lane;
        const int d_lane = threadIdx.x % 16 + 16 * d_slot;
        a_tile[t_lane * 65 + d_lane] = 0;
        if (t < T) {
          a_tile[t_lane * 65 + d_lane] = query[t_slot_3][d_slot];
        }
      }
    }
    #pragma unroll
    for (int s_slot = 0; s_slot < 16; s_slot++) {
      const int d_lane = threadIdx.x % 64;
      const int64_t d = d_lane;
      const int s_lane = threadIdx.x / 64 % 2 + 2 * s_slot;
      const int64_t s = s_start + s_lane;
      b_tile[d_lane * 33 + s_lane] = 0;
      if (s < S) {
        b_tile[d_lane * 33 + s_lane] = k[h * (S * 64) + s * 64 + d];
      }
    }
    __syncthreads();
    #pragma unroll 4
    for (int d_lane = 0; d_lane < 64; d_lane++) {
      float a[4];
      #pragma unroll
      for (int t_slot_4 = 0; t_slot_4 < 4; t_slot_4++) {
        a[t_slot_4] = a_tile[(threadIdx.x / 16 % 8 + 8 * t_slot_4) * 65 + d_lane];
      }
      float b[2];
      #pragma unroll
      for (int s_slot_1 = 0; s_slot_1 < 2; s_slot_1++) {
        b[s_slot_1] = b_tile[d_lane * 33 + (threadIdx.x % 16 + 16 * s_slot_1)];
      }
      #pragma unroll
      for (int t_slot_5 = 0; t_slot_5 < 4; t_slot_5++) {
        #pragma unroll
        for (int s_slot_2 = 0; s_slot_2 < 2; s_slot_2++) {
          dot_sum[t_slot_5][s_slot_2] = fma_(a[t_slot_5], b[s_slot_2], dot_sum[t_slot_5][s_slot_2]);
        }
      }
    }
    float product[4][2];
    #pragma unroll
    for (int t_slot_4 = 0; t_slot_4 < 4; t_slot_4++) {
      #pragma unroll
      for (int s_slot_1 = 0; s_slot_1 < 2; s_slot_1++) {
        product[t_slot_4][s_slot_1] = dot_sum[t_slot_4][s_slot_1];
      }
    }
    float max_part[4];
    #pragma unroll
    for (int t_slot_5 = 0; t_slot_5 < 4; t_slot_5++) {
      max_part[t_slot_5] = (-__builtin_inff());
    }
    #pragma unroll
    for (int t_slot_6 = 0; t_slot_6 < 4; t_slot_6++) {
      #pragma unroll
      for (int s_slot_1 = 0; s_slot_1 < 2; s_slot_1++) {
        const int t_lane = threadIdx.x / 16 % 8 + 8 * t_slot_6;
        const int64_t t = t_start + t_lane;
        const int s_lane = threadIdx.x % 16 + 16 * s_slot_1;
        const int64_t s = s_start + s_lane;
        if (t < T && s < S) {
          const float score = ((s - int64_t(S)) <= (t - int64_t(T))) ? (product[t_slot_6][s_slot_1] * factor) : (-__builtin_inff());
          max_part[t_slot_6] = maximum(max_part[t_slot_6], score);
        }
      }
    }
    #pragma unroll
    for (int t_slot_7 = 0; t_slot_7 < 4; t_slot_7++) {
      const float other = shuffle_xor(max_part[t_slot_7], 1);
      max_part[t_slot_7] = maximum(max_part[t_slot_7], other);
      const float other_1 = shuffle_xor(max_part[t_slot_7], 2);
      max_part[t_slot_7] = maximum(max_part[t_slot_7], other_1);
      const float other_2 = shuffle_xor(max_part[t_slot_7], 4);
      max_part[t_slot_7] = maximum(max_part[t_slot_7], other_2);
      const float other_3 = shuffle_xor(max_part[t_slot_7], 8);
      max_part[t_slot_7] = maximum(max_part[t_slot_7], other_3);
    }
    __syncthreads();
    float* const parts = (float*)(shared);
    if (threadIdx.x % 16 == 0) {
      #pragma unroll
      for (int t_slot_8 = 0; t_slot_8 < 4; t_slot_8++) {
        parts[(threadIdx.x / 16 % 8 + 8 * t_slot_8)] = max_part[t_slot_8];
      }
    }
    __syncthreads();
    if (threadIdx.x < 32) {
      const int t_lane = threadIdx.x % 32;
      float total_1 = parts[t_lane];
      max[t_lane] = total_1;
    }
    __syncthreads();
    float weight[4][2];
    #pragma unroll
    for (int t_slot_8 = 0; t_slot_8 < 4; t_slot_8++) {
      #pragma unroll
      for (int s_slot_1 = 0; s_slot_1 < 2; s_slot_1++) {
        const int t_lane = threadIdx.x / 16 % 8 + 8 * t_slot_8;
        const int64_t t = t_start + t_lane;
        const int s_lane = threadIdx.x % 16 + 16 * s_slot_1;
        const int64_t s = s_start + s_lane;
        if (t < T && s < S) {
          const float score = ((s - int64_t(S)) <= (t - int64_t(T))) ? (product[t_slot_8][s_slot_1] * factor) : (-__builtin_inff());
          const float peak = maximum(top[t_lane], max[t_lane]);
          const float safe = (peak == (-__builtin_inff())) ? 0.0f : peak;
          weight[t_slot_8][s_slot_1] = exp_((score - safe));
        }
      }
    }
    __syncthreads();
    if (threadIdx.x < 32) {
      const int t_lane = threadIdx.x % 32;
      const int64_t t = t_start + t_lane;
      if (t < T) {
        const float peak = maximum(top[t_lane], max[t_lane]);
        const float safe = (peak == (-__builtin_inff())) ? 0.0f : peak;
        rescale[t_lane] = exp_((top[t_lane] - safe));
      }
    }
    __syncthreads();
    float sum_part[4];
    #pragma unroll
    for (int t_slot_9 = 0; t_slot_9 < 4; t_slot_9++) {
      sum_part[t_slot_9] = 0.0f;
    }
    #pragma unroll
    for (int t_slot_10 = 0; t_slot_10 < 4; t_slot_10++) {
      #pragma unroll
      for (int s_slot_1 = 0; s_slot_1 < 2; s_slot_1++) {
        const int t_lane = threadIdx.x / 16 % 8 + 8 * t_slot_10;
        const int64_t t = t_start + t_lane;
        const int s_lane = threadIdx.x % 16 + 16 * s_slot_1;
        const int64_t s = s_start + s_lane;
        if (t < T && s < S) {
          sum_part[t_slot_10] = sum_part[t_slot_10] + weight[t_slot_10][s_slot_1];
        }
      }
    }
    #pragma unroll
    for (int t_slot_11 = 0; t_slot_11 < 4; t_slot_11++) {
      const float other = shuffle_xor(sum_part[t_slot_11], 1);
      sum_part[t_slot_11] = sum_part[t_slot_11] + other;
      const float other_1 = shuffle_xor(sum_part[t_slot_11], 2);
      sum_part[t_slot_11] = sum_part[t_slot_11] + other_1;
      const float other_2 = shuffle_xor(sum_part[t_slot_11], 4);
      sum_part[t_slot_11] = sum_part[t_slot_11] + other_2;
      const float other_3 = shuffle_xor(sum_part[t_slot_11], 8);
      sum_part[t_slot_11] = sum_part[t_slot_11] + other_3;
    }
    __syncthreads();
    float* const parts_1 = (float*)(shared);
    if (threadIdx.x % 16 == 0) {
      #pragma unroll
      for (int t_slot_12 = 0; t_slot_12 < 4; t_slot_12++) {
        parts_1[(threadIdx.x / 16 % 8 + 8 * t_slot_12)] = sum_part[t_slot_12];
      }
    }
    __syncthreads();
    float sum;
    if (threadIdx.x < 32) {
      const int t_lane = threadIdx.x % 32;
      float total_1 = parts_1[t_lane];
      sum = total_1;
    }
    float dot_sum_1[4][4];
    #pragma unroll
    for (int t_slot_12 = 0; t_slot_12 < 4; t_slot_12++) {
      #pragma unroll
      for (int d_slot = 0; d_slot < 4; d_slot++) {
        dot_sum_1[t_slot_12][d_slot] = 0;
      }
    }
    __syncthreads();
    float* const a_tile_1 = (float*)(shared);
    float* const b_tile_1 = (float*)(shared + 4224);
    #pragma unroll
    for (int t_slot_13 = 0; t_slot_13 < 4; t_slot_13++) {
      #pragma unroll
      for (int s_slot_1 = 0; s_slot_1 < 2; s_slot_1++) {
        const int t_lane = threadIdx.x / 16 % 8 + 8 * t_slot_13;
        const int64_t t = t_start + t_lane;
        const int s_lane = threadIdx.x % 16 + 16 * s_slot_1;
        const int64_t s = s_start + s_lane;
        a_tile_1[t_lane * 33 + s_lane] = 0;
        if (t < T && s < S) {
          a_tile_1[t_lane * 33 + s_lane] = weight[t_slot_13][s_slot_1];
        }
      }
    }
    #pragma unroll
    for (int s_slot_1 = 0; s_slot_1 < 16; s_slot_1++) {
      const int d_lane_1 = threadIdx.x % 64;
      const int64_t d = d_lane_1;
      const int s_lane = threadIdx.x / 64 % 2 + 2 * s_slot_1;
      const int64_t s = s_start + s_lane;
      b_tile_1[d_lane_1 * 33 + s_lane] = 0;
      if (s < S) {
        b_tile_1[d_lane_1 * 33 + s_lane] = v[h * (S * 64) + s * 64 + d];
      }
    }
    __syncthreads();
    #pragma unroll 4
    for (int s_lane = 0; s_lane < int(min2<int64_t>(32, S - s_start)); s_lane++) {
      float a[4];
      #pragma unroll
      for (int t_slot_14 = 0; t_slot_14 < 4; t_slot_14++) {
        a[t_slot_14] = a_tile_1[(threadIdx.x / 16 % 8 + 8 * t_slot_14) * 33 + s_lane];
      }
      float b[4];
      #pragma unroll
      for (int d_slot = 0; d_slot < 4; d_slot++) {
        b[d_slot] = b_tile_1[(threadIdx.x % 16 + 16 * d_slot) * 33 + s_lane];
      }
      #pragma unroll
      for (int t_slot_15 = 0; t_slot_15 < 4; t_slot_15++) {
        #pragma unroll
        for (int d_slot_1 = 0; d_slot_1 < 4; d_slot_1++) {
          dot_sum_1[t_slot_15][d_slot_1] = fma_(a[t_slot_15], b[d_slot_1], dot_sum_1[t_slot_15][d_slot_1]);
        }
      }
    }
    float product_1[4][4];
    #pragma unroll
    for (int t_slot_14 = 0; t_slot_14 < 4; t_slot_14++) {
      #pragma unroll
      for (int d_slot = 0; d_slot < 4; d_slot++) {
        product_1[t_slot_14][d_slot] = dot_sum_1[t_slot_14][d_slot];
      }
    }
    __syncthreads();
    if (threadIdx.x < 32) {
      const int t_lane = threadIdx.x % 32;
      const int64_t t = t_start + t_lane;
      if (t < T) {
        total[t_lane] = ((total[t_lane] * rescale[t_lane]) + sum);
      }
    }
    __syncthreads();
    #pragma unroll
    for (int t_slot_15 = 0; t_slot_15 < 4; t_slot_15++) {
      #pragma unroll
      for (int d_slot = 0; d_slot < 4; d_slot++) {
        const int t_lane = threadIdx.x / 16 % 8 + 8 * t_slot_15;
        const int64_t t = t_start + t_lane;
        if (t < T) {
          const float acc_1 = (acc[t_slot_15][d_slot] * rescale[t_lane]) + product_1[t_slot_15][d_slot];
          acc[t_slot_15][d_slot] = acc_1;
        }
      }
    }
    __syncthreads();
    if (threadIdx.x < 32) {
      const int t_lane = threadIdx.x % 32;
      const int64_t t = t_start + t_lane;
      if (t < T) {
        const float peak = maximum(top[t_lane], max[t_lane]);
        top[t_lane] = peak;
      }
    }
    __syncthreads();
  }
  #pragma unroll
  for (int t_slot_2 = 0; t_slot_2 < 4; t_slot_2++) {
    #pragma unroll
    for (int d_slot = 0; d_slot < 4; d_slot++) {
      const int t_lane = threadIdx.x / 16 % 8 + 8 * t_slot_2;
      const int64_t t = t_start + t_lane;
      const int d_lane = threadIdx.x % 16 + 16 * d_slot;
      const int64_t d = d_lane;
      if (t < T) {
        o[h * (T * 64) + t * 64 + d] = acc[t_slot_2][d_slot] / total[t_lane];
      }
    }
  }
}
