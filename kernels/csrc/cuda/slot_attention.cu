#include "cache.cuh"
#include "operators.h"
#include "reduce.cuh"

namespace decant {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarp;
constexpr int kMostDim = 512;
constexpr int kMostEach = kMostDim / kWarp;  // elements of a row a lane holds

// A block for each query; its warps take the tokens in turn, each with a running maximum of its own, and are put together
// at the end, in order.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    slot_attention_kernel(const T* query, int64_t query_step, int64_t query_head_step, const T* keys, Places key_places,
                          int64_t key_dim_step, const T* values, Places value_places, const float* mass, int64_t mass_step, int slots,
                          int tokens, int query_heads, int group, int dim, int length, float scale, T* out) {
  __shared__ float sums[kWarps][kMostDim];
  __shared__ float maxima[kWarps], totals[kWarps];
  const int token = blockIdx.x / query_heads, query_head = blockIdx.x % query_heads, head = query_head / group;
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int seen = length - tokens + token + 1;
  const T* asked = query + token * query_step + query_head * query_head_step;
  float q[kMostEach], sum[kMostEach];
#pragma unroll
  for (int i = 0; i < kMostEach; ++i) {
    const int at = lane + i * kWarp;
    q[i] = at < dim ? static_cast<float>(asked[at]) * scale * kLog2E : 0.0f;
    sum[i] = 0;
  }
  float most = -kInf, total = 0;
  for (int t = warp; t < seen; t += kWarps) {
    const T* key = keys + key_places.of(t, head);
    float product = 0;
#pragma unroll
    for (int i = 0; i < kMostEach; ++i) {
      const int at = lane + i * kWarp;
      if (at < dim) product = fmaf(q[i], static_cast<float>(key[at * key_dim_step]), product);
    }
    product = group_sum(product);
    if (t < slots) product += log2f(mass[head * mass_step + t]);
    const float top = product > most ? product : most;
    const float factor = most == -kInf ? 0.0f : exp2f(most - top), weight = exp2f(product - top);
    most = top;
    total = fmaf(total, factor, weight);
    const T* value = values + value_places.of(t, head);
#pragma unroll
    for (int i = 0; i < kMostEach; ++i) {
      const int at = lane + i * kWarp;
      if (at < dim) sum[i] = fmaf(sum[i], factor, weight * static_cast<float>(value[at]));
    }
  }
#pragma unroll
  for (int i = 0; i < kMostEach; ++i) {
    const int at = lane + i * kWarp;
    if (at < dim) sums[warp][at] = sum[i];
  }
  if (lane == 0) {
    maxima[warp] = most;
    totals[warp] = total;
  }
  __syncthreads();
  float top = -kInf, all = 0;
  for (int w = 0; w < kWarps; ++w) top = fmaxf(top, maxima[w]);
  for (int w = 0; w < kWarps; ++w) all += maxima[w] == -kInf ? 0.0f : totals[w] * exp2f(maxima[w] - top);
  for (int at = threadIdx.x; at < dim; at += kThreads) {
    float value = 0;
    for (int w = 0; w < kWarps; ++w) value += maxima[w] == -kInf ? 0.0f : sums[w][at] * exp2f(maxima[w] - top);
    out[static_cast<int64_t>(blockIdx.x) * dim + at] = static_cast<T>(value / all);
  }
}

}  // namespace

Tensor slot_attention(const Tensor& query, const Tensor& keys, const Tensor& values, const Tensor& mass,
                      const MaybeTensor& block_table, int64_t length, double scale) {
  const Places key_places = places_of(keys, "keys", block_table, length, true);
  const Places value_places = places_of(values, "values", block_table, length);
  const int64_t heads = heads_of(keys), dim = dim_of(keys);
  STD_TORCH_CHECK(query.dim() == 3 && query.size(2) == dim && query.size(1) % heads == 0 && query.size(0) >= 1 &&
                      query.size(0) <= length && query.scalar_type() == keys.scalar_type(),
                  "query: [tokens, query_heads, dim] is needed, as keys and length say");
  STD_TORCH_CHECK(heads_of(values) == heads && dim_of(values) == dim && values.scalar_type() == keys.scalar_type(),
                  "values: keys' shape and dtype are needed");
  STD_TORCH_CHECK(dim <= kMostDim, "keys: a dim of at most ", kMostDim, " is needed");
  check_dense(query, "query");
  check_type(mass, "mass", ScalarType::Float);
  STD_TORCH_CHECK(mass.dim() == 2 && mass.size(0) == heads && mass.size(1) <= length,
                  "mass: [heads, slots], slots <= length, is needed");
  check_dense(mass, "mass");
  for (const Tensor* other : {&keys, &values, &mass}) check_on(*other, "query", query);
  const Device device(query);
  const int64_t tokens = query.size(0), query_heads = query.size(1);
  const Tensor out = make(query, {tokens, query_heads, dim}, query.scalar_type());
  dispatch(query, "query", [&](auto zero) {
    using T = decltype(zero);
    launch(device, "slot_attention", slot_attention_kernel<T>, tokens * query_heads, kThreads,
           static_cast<const T*>(query.const_data_ptr()), query.stride(0), query.stride(1),
           static_cast<const T*>(keys.const_data_ptr()), key_places, keys.stride(keys.dim() - 1),
           static_cast<const T*>(values.const_data_ptr()), value_places,
           static_cast<const float*>(mass.const_data_ptr()), mass.stride(0),
           static_cast<int>(mass.size(1)), static_cast<int>(tokens), static_cast<int>(query_heads),
           static_cast<int>(query_heads / heads), static_cast<int>(dim), static_cast<int>(length),
           static_cast<float>(scale), static_cast<T*>(out.mutable_data_ptr()));
  });
  return out;
}

}  // namespace decant
