#include "cache.cuh"
#include "operators.h"
#include "reduce.cuh"

namespace decant {
namespace {

constexpr int kThreads = 256;
// Links that one group of lanes works on: it reads each of nine keys once.
constexpr int kRun = 8;

// Over groups of `lanes` neighbouring lanes, a power of two.
__device__ __forceinline__ float sum_over(float x, int lanes) {
  for (int offset = lanes / 2; offset > 0; offset /= 2) x += __shfl_xor_sync(kAllLanes, x, offset);
  return x;
}

__device__ __forceinline__ float dot(const float (&a)[kChunk], const float (&b)[kChunk]) {
  float sum = 0;
#pragma unroll
  for (int i = 0; i < kChunk; ++i) sum = fmaf(a[i], b[i], sum);
  return sum;
}

// Neighbouring groups work on neighbouring heads, which lie next to each other in memory.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    similarity_kernel(const T* keys, Places places, int heads, int dim, int length, int lanes,
                      float* similarity) {
  const int64_t group = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) / lanes;
  const int head = static_cast<int>(group % heads), lane = threadIdx.x % lanes;
  const int64_t from = group / heads * kRun;
  // Groups past the end have no links, but take part in their warp's shuffles.
  const int links =
      static_cast<int>(min(static_cast<int64_t>(kRun), max(length - 1 - from, static_cast<int64_t>(0))));
  const int first = static_cast<int>(from);
  float dots[kRun] = {}, squares[kRun + 1] = {};
  const int chunks = links ? static_cast<int>(ceil_div(dim, kChunk)) : 0;
  for (int c = lane; c < chunks; c += lanes) {
    float before[kChunk], key[kChunk];
    load_chunk(keys + places.of(first, head), dim, c, 0, before);
    squares[0] += dot(before, before);
#pragma unroll
    for (int i = 0; i < kRun; ++i) {
      if (i >= links) break;
      load_chunk(keys + places.of(first + i + 1, head), dim, c, 0, key);
      squares[i + 1] += dot(key, key);
      dots[i] += dot(before, key);
#pragma unroll
      for (int j = 0; j < kChunk; ++j) before[j] = key[j];
    }
  }
  float norm = fmaxf(sqrtf(sum_over(squares[0], lanes)), 1e-12f);
#pragma unroll
  for (int i = 0; i < kRun; ++i) {
    const float next = fmaxf(sqrtf(sum_over(squares[i + 1], lanes)), 1e-12f);
    const float product = sum_over(dots[i], lanes);
    if (i < links && lane == 0)
      similarity[head * static_cast<int64_t>(length - 1) + first + i] = product / (norm * next);
    norm = next;
  }
}

// Lanes that share a key: enough for a chunk each, where a warp has that many.
int lanes_for(int64_t dim) {
  int lanes = 1;
  while (lanes < kWarp && lanes * kChunk < dim) lanes *= 2;
  return lanes;
}

}  // namespace

Tensor adjacent_similarity(const Tensor& keys, const MaybeTensor& block_table, int64_t length) {
  const Places places = places_of(keys, "keys", block_table, length);
  STD_TORCH_CHECK(length >= 1, "length: 1 or more is needed");
  const Device device(keys);
  const int64_t heads = heads_of(keys), dim = dim_of(keys);
  const Tensor similarity = make(keys, {heads, length - 1}, ScalarType::Float);
  const int lanes = lanes_for(dim);
  const int64_t groups = ceil_div(length - 1, kRun) * heads;
  dispatch(keys, "keys", [&](auto zero) {
    using T = decltype(zero);
    launch(device, "adjacent_similarity", similarity_kernel<T>, ceil_div(groups * lanes, kThreads), kThreads,
           static_cast<const T*>(keys.const_data_ptr()), places, static_cast<int>(heads),
           static_cast<int>(dim), static_cast<int>(length), lanes,
           static_cast<float*>(similarity.mutable_data_ptr()));
  });
  return similarity;
}

}  // namespace decant
