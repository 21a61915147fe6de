// Sums of exponentials along the grid of a dynamic fusion, for one expert at a time.
#pragma once

#include "chunk.cuh"
#include "row_stats.cuh"

namespace decant {

constexpr int kMaxGrid = 64;

// Of x = base + a d over a piece's tokens, with d = expert - small: the maximum, the sum of e^(x - max), and
// the sum of d e^(x - max).
struct Moments {
  double max, sum, shift;
};

// The distributions looked at: base is large at each point of the grid and at a = 0 (large itself), then
// small at a = 0 (small itself) and at a = 1 (the expert).
struct Points {
  const float* grid;
  int count;

  __host__ __device__ int all() const { return count + 3; }
  __host__ __device__ int large() const { return count; }
  __host__ __device__ int small() const { return count + 1; }
  __host__ __device__ int expert() const { return count + 2; }
  __device__ bool on_small(int point) const { return point > large(); }
  __device__ float step(int point) const {
    return point < count ? grid[point] : point == expert() ? 1.0f : 0.0f;
  }
};

// Where the moments lie: [count, experts, pieces, points].
struct MomentTable {
  Moments* data;
  int experts, pieces, points;

  __host__ __device__ int64_t size(int64_t count) const { return count * experts * pieces * points; }
  __device__ Moments* at(int64_t entry, int expert, int piece) const {
    return data + ((entry * experts + expert) * pieces + piece) * points;
  }

  // Of the whole row, by one thread, piece after piece.
  __device__ Moments merged(int64_t entry, int expert, int point) const {
    double top = -static_cast<double>(kInf);
    for (int i = 0; i < pieces; ++i) top = fmax(top, at(entry, expert, i)[point].max);
    Moments all = {top, 0, 0};
    for (int i = 0; i < pieces; ++i) {
      const Moments part = at(entry, expert, i)[point];
      const double factor = part.max == top ? 1 : exp(part.max - top);
      all.sum += part.sum * factor;
      all.shift += part.shift * factor;
    }
    return all;
  }
};

// One thread's sums for one point.
struct OnlineMoments {
  float max = -kInf;
  Sum<float> sum, shift;

  template <int kCount>
  __device__ __forceinline__ void add(const float (&base)[kCount], const float (&d)[kCount], float step) {
    float x[kCount], top = max;
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      x[i] = fmaf(step, d[i], base[i]);
      top = fmaxf(top, x[i]);
    }
    if (top > max) {
      const float factor = rescale(max, top);
      sum.scale(factor);
      shift.scale(factor);
      max = top;
    }
    const float from = anchor(max);
    float part = 0, shift_part = 0;
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      const float e = exp2_fast((x[i] - from) * kLog2E);
      part += e;
      shift_part = fmaf(e, d[i], shift_part);
    }
    sum.add(part);
    shift.add(shift_part);
  }

  // Over the warp's lanes, `centre` added back to the maximum; every lane gets the result.
  __device__ __forceinline__ Moments over_warp(float centre) const {
    const float top = group_max(max), factor = rescale(max, top);
    return {static_cast<double>(top) + centre, group_sum(sum.total() * factor),
            group_sum(shift.total() * factor)};
  }
};

// A tile of tokens in shared memory. Logits are kept relative to a centre near their maximum: float32 then
// has its precision where the probability lies, whatever constant the logits share.
struct alignas(16) Tile {
  static constexpr int kTokens = kThreads * kChunk;

  float large[kTokens], small[kTokens], d[kTokens];
};

}  // namespace decant
