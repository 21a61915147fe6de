// Reductions in a fixed order, and sums of exponentials relative to a running maximum.
#pragma once

#include "common.h"

namespace decant {

constexpr unsigned kAllLanes = 0xffffffffu;

// 2^x within 2^-22, with 0 below 2^-126.
__device__ __forceinline__ float exp2_fast(float x) {
#ifdef __CUDA_ARCH__
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#else
  return exp2f(x);
#endif
}

// 1 / x within 2^-23, without the branches of an exact division.
__device__ __forceinline__ float inverse_fast(float x) {
#ifdef __CUDA_ARCH__
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#else
  return 1 / x;
#endif
}

// A sum whose rounding errors are carried along (Kahan).
template <typename T>
struct Sum {
  T value = 0, excess = 0;

  __device__ __forceinline__ void add(T x) {
    const T wanted = x - excess;
    const T next = value + wanted;
    excess = (next - value) - wanted;
    value = next;
  }

  __device__ __forceinline__ void scale(T factor) {
    value *= factor;
    excess *= factor;
  }

  __device__ __forceinline__ double total() const {
    return static_cast<double>(value) - static_cast<double>(excess);
  }
};

// Over groups of kLanes neighbouring lanes; every lane gets the same result. A maximum passes over NaN.
template <int kLanes = kWarp>
__device__ __forceinline__ float group_max(float x) {
#pragma unroll
  for (int offset = kLanes / 2; offset > 0; offset /= 2) x = fmaxf(x, __shfl_xor_sync(kAllLanes, x, offset));
  return x;
}

template <int kLanes = kWarp>
__device__ __forceinline__ double group_max(double x) {
#pragma unroll
  for (int offset = kLanes / 2; offset > 0; offset /= 2) x = fmax(x, __shfl_xor_sync(kAllLanes, x, offset));
  return x;
}

template <int kLanes = kWarp, typename T>
__device__ __forceinline__ T group_sum(T x) {
#pragma unroll
  for (int offset = kLanes / 2; offset > 0; offset /= 2) x += __shfl_xor_sync(kAllLanes, x, offset);
  return x;
}

// Over a block of kThreads; every thread gets the same result. All threads must call it.
template <int kThreads>
__device__ __forceinline__ float block_max(float x) {
  __shared__ float parts[kThreads / kWarp];
  x = group_max(x);
  if (threadIdx.x % kWarp == 0) parts[threadIdx.x / kWarp] = x;
  __syncthreads();
  x = parts[0];
#pragma unroll
  for (int i = 1; i < kThreads / kWarp; ++i) x = fmaxf(x, parts[i]);
  __syncthreads();
  return x;
}

template <int kThreads>
__device__ __forceinline__ double block_sum(double x) {
  __shared__ double parts[kThreads / kWarp];
  x = group_sum(x);
  if (threadIdx.x % kWarp == 0) parts[threadIdx.x / kWarp] = x;
  __syncthreads();
  x = 0;
#pragma unroll
  for (int i = 0; i < kThreads / kWarp; ++i) x += parts[i];
  __syncthreads();
  return x;
}

// What sums relative to the maximum `from` are multiplied by to be relative to `to` >= from.
__device__ __forceinline__ float rescale(float from, float to) {
  return from == to ? 1.0f : exp2f((from - to) * kLog2E);
}

// What exponents are measured from; before any finite x was seen it may be anything finite.
__device__ __forceinline__ float anchor(float max) { return max == -kInf ? 0.0f : max; }

// One thread's sums of 2^s and s 2^s over the tokens it met, with s = (x - max) log2 e.
struct Online {
  float max = -kInf;
  Sum<float> sum, weighted;

  template <int kCount>
  __device__ __forceinline__ void add(const float (&x)[kCount]) {
    float top = max;
#pragma unroll
    for (int i = 0; i < kCount; ++i) top = fmaxf(top, x[i]);
    if (top > max) raise(top);
    const float from = anchor(max);
    float part = 0, weighted_part = 0;
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      const float s = (x[i] - from) * kLog2E, e = exp2_fast(s);
      part += e;
      weighted_part += fmaxf(s, -200.0f) * e;  // -inf times 0 would be NaN
    }
    sum.add(part);
    weighted.add(weighted_part);
  }

  __device__ __forceinline__ void raise(float top) {
    if (max > -kInf) {
      const float by = fmaxf((max - top) * kLog2E, -200.0f), factor = exp2f(by);
      weighted.add(by * sum.value);
      weighted.add(-by * sum.excess);
      weighted.scale(factor);
      sum.scale(factor);
    }
    max = top;
  }
};

// The same sums of a piece of a row, of one or many threads.
struct Stats {
  float max;
  double sum, weighted;

  // ln of the sum of e^(x - max).
  __device__ float log_sum() const { return static_cast<float>(log(sum)); }

  // Entropy in bits: NaN for a row without a distribution.
  __device__ float entropy() const {
    const double bits = log2(sum) - weighted / sum;
    return static_cast<float>(bits < 0 ? 0 : bits);
  }

  // Relative to `top` >= max.
  __device__ Stats raised(float top) const {
    const float by = max == top ? 0.0f : fmaxf((max - top) * kLog2E, -200.0f), factor = exp2f(by);
    return {top, sum * factor, (weighted + by * sum) * factor};
  }
};

// The whole block's statistics, in every thread.
template <int kThreads>
__device__ __forceinline__ Stats block_stats(const Online& mine) {
  const float top = block_max<kThreads>(mine.max);
  const Stats raised = Stats{mine.max, mine.sum.total(), mine.weighted.total()}.raised(top);
  return {top, block_sum<kThreads>(raised.sum), block_sum<kThreads>(raised.weighted)};
}

// Merges the statistics of a row's pieces, by one warp; every lane gets the result.
__device__ __forceinline__ Stats warp_merge(const Stats* pieces, int count) {
  const int lane = threadIdx.x % kWarp;
  float top = -kInf;
  for (int i = lane; i < count; i += kWarp) top = fmaxf(top, pieces[i].max);
  top = group_max(top);
  double sum = 0, weighted = 0;
  for (int i = lane; i < count; i += kWarp) {
    const Stats raised = pieces[i].raised(top);
    sum += raised.sum;
    weighted += raised.weighted;
  }
  return {top, group_sum(sum), group_sum(weighted)};
}

}  // namespace decant
