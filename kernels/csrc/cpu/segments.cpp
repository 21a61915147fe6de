#include <algorithm>
#include <cstdint>
#include <vector>

#include "kv.h"

namespace decant {
namespace {

// A key that sorts descending by value and, of equals, ascending by index.
uint64_t rank(float value, int64_t index) { return (static_cast<uint64_t>(order(value)) << 32) | (0xffffffffu - index); }

int64_t index_of(uint64_t key) { return 0xffffffffu - static_cast<uint32_t>(key); }

// Moves the `count` greatest keys to the front.
void select(std::vector<uint64_t>& keys, int64_t count) {
  if (count > 0 && count < static_cast<int64_t>(keys.size()))
    std::nth_element(keys.begin(), keys.begin() + count, keys.end(), std::greater<>());
}

void segment_head(const float* similarity, const float* scores, int64_t tokens, int64_t slots, int64_t sinks, int64_t heavy,
                  int32_t* out) {
  std::vector<bool> alone(tokens, false), linked(tokens, false);
  std::fill(alone.begin(), alone.begin() + std::min(sinks, tokens), true);
  std::vector<uint64_t> keys;
  keys.reserve(tokens);
  if (heavy > 0) {
    for (int64_t i = sinks; i < tokens; ++i) keys.push_back(rank(scores[i], i));
    const int64_t count = std::min<int64_t>(heavy, keys.size());
    select(keys, count);
    for (int64_t i = 0; i < count; ++i) alone[index_of(keys[i])] = true;
    keys.clear();
  }
  for (int64_t i = 0; i + 1 < tokens; ++i)
    if (!alone[i] && !alone[i + 1]) keys.push_back(rank(similarity[i], i));
  const int64_t count = tokens - slots;
  STD_TORCH_CHECK(count <= static_cast<int64_t>(keys.size()), "slots: too few links touch no protected token");
  select(keys, count);
  for (int64_t i = 0; i < count; ++i) linked[index_of(keys[i]) + 1] = true;
  int32_t slot = -1;
  for (int64_t i = 0; i < tokens; ++i) out[i] = slot += !linked[i];
}

}  // namespace

Tensor merge_segments(const Tensor& similarity, const Tensor& scores, int64_t slots, int64_t sinks, int64_t heavy) {
  check_type(similarity, "similarity", ScalarType::Float);
  check_type(scores, "scores", ScalarType::Float);
  STD_TORCH_CHECK(similarity.dim() == 2 && scores.dim() == 2, "similarity and scores: [heads, tokens] is needed");
  check_dense(similarity, "similarity");
  check_dense(scores, "scores");
  const int64_t heads = similarity.size(0), tokens = similarity.size(1) + 1;
  STD_TORCH_CHECK(scores.size(0) == heads && scores.size(1) >= tokens, "scores: [heads, >= tokens] is needed");
  STD_TORCH_CHECK(sinks >= 0 && heavy >= 0 && slots <= tokens && slots >= std::min(tokens, sinks + 2 * heavy + 1),
                  "slots: at least sinks + 2 * heavy + 1 and at most the tokens are needed");
  Tensor out = make(similarity, {heads, tokens}, ScalarType::Int);
  for_each(heads, 16 * tokens, [&](int64_t head) {
    segment_head(data<float>(similarity) + head * similarity.stride(0), data<float>(scores) + head * scores.stride(0),
                 tokens, slots, sinks, heavy, data<int32_t>(out) + head * tokens);
  });
  return out;
}

}  // namespace decant

STABLE_TORCH_LIBRARY_IMPL(decant, CPU, m) { m.impl("merge_segments", TORCH_BOX(&decant::merge_segments)); }
