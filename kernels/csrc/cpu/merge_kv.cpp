#include "isa.h"
#include "kv.h"

namespace decant {
namespace {

struct MergeHead {
  const float* scores;      // [tokens]
  const int32_t* segments;  // [tokens]
  int64_t tokens, slots;
  double sigma;             // 0: adaptive
  int32_t* counts;          // [slots]
};

}  // namespace
}  // namespace decant

#define DECANT_VECTOR_CODE "merge_kv.inl"
#include "for_each_isa.h"

namespace decant {

Tensor merge_kv_(const Tensor& keys, const Tensor& values, const Tensor& scores, const Tensor& segments,
                 const std::optional<Tensor>& block_table, int64_t slots, std::optional<double> sigma) {
  check_type(scores, "scores", ScalarType::Float);
  check_type(segments, "segments", ScalarType::Int);
  STD_TORCH_CHECK(segments.dim() == 2 && segments.is_contiguous(), "segments: contiguous [heads, tokens] is needed");
  const int64_t heads = segments.size(0), tokens = segments.size(1);
  const KV key_cache(keys, block_table, tokens, "keys"), value_cache(values, block_table, tokens, "values");
  STD_TORCH_CHECK(key_cache.heads == heads && value_cache.heads == heads && key_cache.dim == value_cache.dim &&
                      key_cache.dtype == value_cache.dtype,
                  "keys, values and segments: the same heads, dim and dtype are needed");
  STD_TORCH_CHECK(scores.dim() == 2 && scores.size(0) == heads && scores.size(1) >= tokens,
                  "scores: [heads, >= tokens] is needed");
  check_dense(scores, "scores");
  // Every slot in order and none left out: merge_head relies on it, and nothing may be written before it is known.
  const int32_t* slot = data<int32_t>(segments);
  for (int64_t head = 0; head < heads; ++head, slot += tokens) {
    bool good = slot[0] == 0 && slot[tokens - 1] == slots - 1;
    for (int64_t i = 1; i < tokens; ++i) good = good && (slot[i] == slot[i - 1] || slot[i] == slot[i - 1] + 1);
    STD_TORCH_CHECK(good, "segments: 0 to slots - 1, each at least once and in order, is needed");
  }
  Tensor counts = make(segments, {heads, slots}, ScalarType::Int);
  for_each(heads, 4 * tokens * key_cache.dim, [&](int64_t head) {
    const MergeHead job{data<float>(scores) + head * scores.stride(0), data<int32_t>(segments) + head * tokens, tokens,
                        slots, sigma.value_or(0), data<int32_t>(counts) + head * slots};
    DECANT_DISPATCH(merge_head, key_cache, value_cache, head, job);
  });
  return counts;
}

}  // namespace decant

STABLE_TORCH_LIBRARY_IMPL(decant, CPU, m) { m.impl("merge_kv_", TORCH_BOX(&decant::merge_kv_)); }
