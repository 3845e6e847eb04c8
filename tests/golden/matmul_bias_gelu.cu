// matmul_bias_gelu: a in f32, b in f32, bias in f32, y out f32
#include <cstdint>
#define DEVICE __device__ __forceinline__
template <class T> DEVICE constexpr T min2(T a, T b) { return a < b ? a : b; }
template <class T> DEVICE constexpr T max2(T a, T b) { return a > b ? a : b; }
DEVICE float erf_(float x) { return erff(x); }
DEVICE double erf_(double x) { return erf(x); }
DEVICE float fma_(float x, float y, float z) { return fmaf(x, y, z); }
DEVICE double fma_(double x, double y, double z) { return fma(x, y, z); }

extern "C" __global__ void __launch_bounds__(256) matmul_bias_gelu_kernel(const float* __restrict__ a, const float* __restrict__ b, const float* __restrict__ bias, float* __restrict__ y) {
  extern __shared__ __align__(16) unsigned char shared[];
  const int64_t m_start = int64_t(blockIdx.x) / 64 * 64;
  const int64_t n_start = int64_t(blockIdx.x) % 64 * 64;
  float acc[4][4];
  #pragma unroll
  for (int m_slot = 0; m_slot < 4; m_slot++) {
    #pragma unroll
    for (int n_slot = 0; n_slot < 4; n_slot++) {
      acc[m_slot][n_slot] = 0.0f;
    }
  }
  for (int64_t k_start = 0; k_start < 4096; k_start += 16) {
    __syncthreads();
    float* const a_tile = (float*)(shared);
    float* const b_tile = (float*)(shared + 4352);
    #pragma unroll
    for (int m_slot_1 = 0; m_slot_1 < 4; m_slot_1++) {
      const int m_lane = threadIdx.x / 16 % 16 + 16 * m_slot_1;
      const int64_t m = m_start + m_lane;
      const int k_lane = threadIdx.x % 16;
      const int64_t k = k_start + k_lane;
      a_tile[m_lane * 17 + k_lane] = a[m * 4096 + k];
    }
    #pragma unroll
    for (int k_slot = 0; k_slot < 4; k_slot++) {
      const int n_lane = threadIdx.x % 64;
      const int64_t n = n_start + n_lane;
      const int k_lane = threadIdx.x / 64 % 4 + 4 * k_slot;
      const int64_t k = k_start + k_lane;
      b_tile[n_lane * 17 + k_lane] = b[k * 4096 + n];
    }
    __syncthreads();
    #pragma unroll 4
    for (int k_lane = 0; k_lane < 16; k_lane++) {
      float a_1[4];
      #pragma unroll
      for (int m_slot_2 = 0; m_slot_2 < 4; m_slot_2++) {
        a_1[m_slot_2] = a_tile[(threadIdx.x / 16 % 16 + 16 * m_slot_2) * 17 + k_lane];
      }
      float b_1[4];
      #pragma unroll
      for (int n_slot = 0; n_slot < 4; n_slot++) {
        b_1[n_slot] = b_tile[(threadIdx.x % 16 + 16 * n_slot) * 17 + k_lane];
      }
      #pragma unroll
      for (int m_slot_3 = 0; m_slot_3 < 4; m_slot_3++) {
        #pragma unroll
        for (int n_slot_1 = 0; n_slot_1 < 4; n_slot_1++) {
          acc[m_slot_3][n_slot_1] = fma_(a_1[m_slot_3], b_1[n_slot_1], acc[m_slot_3][n_slot_1]);
        }
      }
    }
  }
  #pragma unroll
  for (int m_slot_1 = 0; m_slot_1 < 4; m_slot_1++) {
    #pragma unroll
    for (int n_slot = 0; n_slot < 4; n_slot++) {
      const int m_lane = threadIdx.x / 16 % 16 + 16 * m_slot_1;
      const int64_t m = m_start + m_lane;
      const int n_lane = threadIdx.x % 16 + 16 * n_slot;
      const int64_t n = n_start + n_lane;
      const float t = acc[m_slot_1][n_slot] + bias[n];
      y[m * 4096 + n] = (0.5f * t) * (1.0f + erf_((t * 0.7071067690849304f)));
    }
  }
}
